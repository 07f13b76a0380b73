package posthaste

import "time"

// Header is a set of HTTP header fields with canonical names.
type Header map[string][]string

// Message is what was accepted for delivery. It never changes after acceptance; what changes is its ticket in the store.
type Message struct {
	ID     MessageID
	Tenant TenantID

	URL      string // where it is delivered, byte for byte as the client wrote it
	Group    string // the URL group it was published to, if any
	Endpoint string // the name of the group's endpoint, if it has one
	API      string // "llm" when published to the built-in LLM destination
	Method   string
	Header   Header // delivered headers that the publisher chose
	Body     []byte

	MaxRetries int
	RetryDelay string        // the Retry-Delay expression as given; empty: the preset's backoff
	Timeout    time.Duration // bound of one attempt, connect to end of body; 0: the server's

	CreatedAt time.Time
	Delay     time.Duration // asked for relative to acceptance; already part of NotBefore
	NotBefore time.Time

	Callback        *Callback // after every attempt
	FailureCallback *Callback // once, when FAILED

	Queue    string
	Schedule ScheduleID
	Flow     []FlowControl // at most [MaxFlowKeys]
	Priority int           // 0 (first) to 9, among messages that wait for one flow key
	Labels   []string
	Redact   Redaction // of a callback: its source's
	CallerIP string

	// Callbacks only: the message whose attempt caused this one.
	Source MessageID

	// ClaimedAtOnce says that the first attempt began with the acceptance, so its ACTIVE entry has the time CreatedAt.
	ClaimedAtOnce bool

	// Stripped says that retention dropped what only its delivery needed: the body and headers. The rest is there for the log.
	Stripped bool

	// A message may belong to a run of a durable workflow. Nothing sets these yet.
	Run      string
	Sequence int64
	CallType string
}

// MaxFlowKeys is the largest number of flow-control keys a message may name.
const MaxFlowKeys = 4

// Callback says how to tell the publisher of an attempt's outcome. Zero values mean what the message's defaults mean.
type Callback struct {
	URL        string
	Method     string // empty: POST
	Header     Header
	Retries    *int // nil: as many as the message has
	RetryDelay string
	Timeout    time.Duration // 0: the default
	Delay      time.Duration
	Flow       []FlowControl
}

// FlowControl limits how attempts of all messages with one key may start.
type FlowControl struct {
	Key         string
	Parallelism int           // attempts in flight; 0: unlimited
	Rate        int           // starts in a period; 0: unlimited
	Period      time.Duration // of Rate, whole seconds
}

// Redaction names what answers of the API show only as a hash. Deliveries are not touched by it.
type Redaction struct {
	Body    bool
	Headers bool     // all
	Names   []string // single headers, canonical
}

// Zero reports whether nothing is redacted.
func (r Redaction) Zero() bool { return !r.Body && !r.Headers && len(r.Names) == 0 }

// Attempt is the record of one finished HTTP try.
type Attempt struct {
	Tenant    TenantID
	Message   MessageID
	Number    int // 0 for the first: the message's Retried
	StartedAt time.Time
	EndedAt   time.Time     // when the outcome was recorded
	Took      time.Duration // from sending to the end of the answer
	Outcome   Outcome
	Status    int    // of the answer; 0 if there was none
	Error     string // for people; empty on success
	Header    Header // of the answer; nil if there was none
	Body      []byte // of the answer, maybe cut
	// State says what the attempt led to: DELIVERED, RETRY, FAILED, or CANCELED when a cancel was honoured after it failed.
	State LogState
	// NextAt is when the next attempt is due, if State is RETRY.
	NextAt time.Time
	// AtOnce says that StartedAt is the message's CreatedAt: the attempt began with the acceptance.
	AtOnce bool
}

// Outcome is why an attempt ended as it did. The set is closed: it is a metric label.
type Outcome string

// The outcomes.
const (
	OutcomeDelivered    Outcome = "delivered"     // a 2xx answer
	OutcomeStatus       Outcome = "status"        // any other answer
	OutcomeNonRetryable Outcome = "non_retryable" // an answer that forbids retries
	OutcomeTimeout      Outcome = "timeout"
	OutcomeDNS          Outcome = "dns"
	OutcomeConnect      Outcome = "connect"
	OutcomeTLS          Outcome = "tls"
	OutcomeRefused      Outcome = "refused" // the egress guard forbids the address
	OutcomeProtocol     Outcome = "protocol"
	OutcomeReset        Outcome = "reset" // the connection broke after it was made
)

// DeadLetter is an entry of the dead letter queue: a message that FAILED, with the answer to its last attempt.
type DeadLetter struct {
	ID      DeadLetterID
	Tenant  TenantID
	Message MessageID
	At      time.Time
	Last    Attempt
}

// Queue is a FIFO of messages.
type Queue struct {
	Name        string
	Parallelism int
	Paused      bool
	CreatedAt   time.Time
	UpdatedAt   time.Time
	Lag         int64 // messages accepted and not resolved
	InFlight    int   // of them, those that have begun and hold one of its places
}

// FlowKey is the state of a flow-control key.
type FlowKey struct {
	Key               string
	Waiting           int64
	Parallelism       int // 0: unlimited
	InFlight          int
	Rate              int // 0: unlimited
	RateUsed          int
	Period            time.Duration
	PeriodStart       time.Time
	Paused            bool
	PinnedParallelism bool
	PinnedRate        bool
}

// SigningKeys are a tenant's keys for signing deliveries. Deliveries are signed with Current; receivers accept both.
type SigningKeys struct {
	Current string
	Next    string
}

// URLGroup is a named list of endpoints; publishing to it publishes to each.
type URLGroup struct {
	Name      string
	Endpoints []Endpoint
	Defaults  Header // publish headers applied before those of a request
	CreatedAt time.Time
	UpdatedAt time.Time
}

// Endpoint is a destination in a URL group.
type Endpoint struct {
	Name string // may be empty
	URL  string
}

// Host is what is known of a destination host of a tenant.
type Host struct {
	Name      string
	Blocked   bool // it fails to answer: messages wait, and probes are made
	InFlight  int  // attempts of this node
	Waiting   int64
	Failures  int       // in a row, seen by this node
	LastError string    // of them
	NextProbe time.Time // of a blocked one
}

// Usage is what a tenant used of its plan.
type Usage struct {
	Plan      string
	Days      []DayUsage // the latest first, today's included
	Limit     int64      // messages a day; 0: unlimited
	Reset     time.Time  // when the day ends
	Queues    int
	Groups    int
	Schedules int
}

// DayUsage counts the messages that were accepted on a UTC day.
type DayUsage struct {
	Day      time.Time
	Messages int64
}
