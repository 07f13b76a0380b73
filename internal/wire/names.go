package wire

// Prefixes of header names.
const (
	PrefixUpstash                = "Upstash-"
	PrefixForward                = "Upstash-Forward-"
	PrefixCallback               = "Upstash-Callback-"
	PrefixCallbackForward        = "Upstash-Callback-Forward-"
	PrefixFailureCallback        = "Upstash-Failure-Callback-"
	PrefixFailureCallbackForward = "Upstash-Failure-Callback-Forward-"
)

// Headers of a publish, an enqueue, a batch item or a schedule. Those that a callback may have too are repeated after
// [PrefixCallback] and [PrefixFailureCallback]. All names are in canonical form.
const (
	HeaderContentType               = "Content-Type"
	HeaderMethod                    = "Upstash-Method"
	HeaderForwardAll                = "Upstash-Header-Forward"
	HeaderTimeout                   = "Upstash-Timeout"
	HeaderRetries                   = "Upstash-Retries"
	HeaderRetryDelay                = "Upstash-Retry-Delay"
	HeaderDelay                     = "Upstash-Delay"
	HeaderNotBefore                 = "Upstash-Not-Before"
	HeaderLabel                     = "Upstash-Label"
	HeaderFlowControlKey            = "Upstash-Flow-Control-Key"   // and -2 to -4
	HeaderFlowControlValue          = "Upstash-Flow-Control-Value" // and -2 to -4
	HeaderPriority                  = "Upstash-Priority"
	HeaderDeduplicationID           = "Upstash-Deduplication-Id"
	HeaderContentBasedDeduplication = "Upstash-Content-Based-Deduplication"
	HeaderDeduplicationWindow       = "Upstash-Deduplication-Window"
	HeaderCallback                  = "Upstash-Callback"
	HeaderFailureCallback           = "Upstash-Failure-Callback"
	HeaderRedactFields              = "Upstash-Redact-Fields"
	HeaderCron                      = "Upstash-Cron"
	HeaderScheduleID                = "Upstash-Schedule-Id"
	HeaderQueueName                 = "Upstash-Queue-Name"
)

// Headers of a delivery. Publishers cannot forward headers of these names, but for User-Agent.
const (
	HeaderUserAgent = "User-Agent"
	HeaderSignature = "Upstash-Signature"
	HeaderMessageID = "Upstash-Message-Id"
	HeaderRetried   = "Upstash-Retried"
	HeaderTopicName = "Upstash-Topic-Name"
	HeaderCallerIP  = "Upstash-Caller-Ip"
	HeaderRegion    = "Upstash-Region"

	// UserAgent is the User-Agent of deliveries whose publisher forwards none.
	UserAgent = "Upstash-QStash"
)

// Headers of a destination's answer, and the status that, with HeaderNonRetryable set to "true", forbids retries.
const (
	HeaderRetryAfter      = "Retry-After"
	HeaderRateReset       = "X-Ratelimit-Reset"
	HeaderRateResetReqs   = "X-Ratelimit-Reset-Requests"
	HeaderRateResetTokens = "X-Ratelimit-Reset-Tokens"
	HeaderNonRetryable    = "Upstash-Nonretryable-Error"

	StatusNonRetryable = 489
)

// Headers of requests and answers of the API itself. The client libraries tell the kind of a 429 by which of the limit
// headers it carries, so a refusal for too many requests a second must not carry those of the daily limit.
const (
	HeaderAuthorization  = "Authorization"
	HeaderAllow          = "Allow"
	HeaderForwardedFor   = "X-Forwarded-For"
	HeaderRequestID      = "X-Request-Id"
	HeaderDailyLimit     = "Ratelimit-Limit"
	HeaderDailyRemaining = "Ratelimit-Remaining"
	HeaderDailyReset     = "Ratelimit-Reset"
	HeaderBurstLimit     = "Burst-Ratelimit-Limit"
	HeaderBurstRemaining = "Burst-Ratelimit-Remaining"
	HeaderBurstReset     = "Burst-Ratelimit-Reset"

	ContentTypeJSON = "application/json"
	BearerPrefix    = "Bearer "
)

// Words of paths. They are matched without regard to case.
const (
	PathV2                = "v2"
	PathPublish           = "publish"
	PathEnqueue           = "enqueue"
	PathBatch             = "batch"
	PathMessages          = "messages"
	PathQueues            = "queues"
	PathSchedules         = "schedules"
	PathTopics            = "topics"
	PathEndpoints         = "endpoints"
	PathEvents            = "events"
	PathLogs              = "logs"
	PathDLQ               = "dlq"
	PathRetry             = "retry"
	PathFlowControl       = "flowControl"
	PathGlobalParallelism = "globalParallelism"
	PathKeys              = "keys"
	PathRotate            = "rotate"
	PathPause             = "pause"
	PathResume            = "resume"
	PathPin               = "pin"
	PathUnpin             = "unpin"
	PathResetRate         = "resetRate"
	PathReset             = "reset"
	PathHealth            = "healthz"
	PathReady             = "readyz"
	PathLLM               = "llm"
	PathChat              = "v1/chat/completions" // below PathLLM

	// DestinationLLM is the path of the built-in destination for language models.
	DestinationLLM = "api/llm"
	// APILLM is what a message published to it has as its API.
	APILLM = "llm"
)

// Query parameters.
const (
	paramToken          = "qstash_token"
	paramPrefix         = "upstash-"
	paramCursor         = "cursor"
	paramCount          = "count"
	paramOrder          = "order"
	paramMessageID      = "messageId"
	paramMessageIDs     = "messageIds"
	paramDeadIDs        = "dlqIds"
	paramState          = "state"
	paramURL            = "url"
	paramTopicName      = "topicName"
	paramURLGroup       = "urlGroup"
	paramScheduleID     = "scheduleId"
	paramQueueName      = "queueName"
	paramLabel          = "label"
	paramHost           = "host"
	paramPath           = "path"
	paramCallerIP       = "callerIp"
	paramCallerIPOld    = "callerIP"
	paramFlowControlKey = "flowControlKey"
	paramFromDate       = "fromDate"
	paramToDate         = "toDate"
	paramStatus         = "responseStatus"
	paramAPI            = "api"
	paramSearch         = "search"
	paramParallelism    = "parallelism"
	paramRate           = "rate"
	paramPeriod         = "period"

	orderLatest   = "latestFirst"
	orderEarliest = "earliestFirst"
)
