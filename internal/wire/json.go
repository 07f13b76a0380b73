package wire

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/posthaste/posthaste"
)

// Empty is the body of an answer that says no more than its status.
const Empty = "{}"

// AppendError appends the body of an answer that is no success.
func AppendError(dst []byte, text string) []byte {
	return append(appendString(append(dst, `{"error":`...), text), '}')
}

// Published is what became of one message of a publish, an enqueue or a batch.
type Published struct {
	ID           posthaste.MessageID
	URL          string // shown for members of a URL group only
	Deduplicated bool   // ID is that of the earlier message
	// Error, if not empty, is why this message alone was not accepted. It has no ID then.
	Error string
}

// AppendPublished appends the answer for a message to a single destination.
func AppendPublished(dst []byte, p Published) []byte {
	p.URL = ""
	return appendPublished(dst, p)
}

// AppendPublishedGroup appends the answer for the messages to a URL group, in the group's order.
func AppendPublishedGroup(dst []byte, group []Published) []byte {
	return appendArray(dst, group, appendPublished)
}

func appendPublished(dst []byte, p Published) []byte {
	if p.Error != "" {
		return AppendError(dst, p.Error)
	}
	dst = appendString(append(dst, `{"messageId":`...), string(p.ID))
	if p.URL != "" {
		dst = appendString(append(dst, `,"url":`...), p.URL)
	}
	if p.Deduplicated {
		dst = append(dst, `,"deduplicated":true`...)
	}
	return append(dst, '}')
}

// BatchResult is what became of one item of a batch.
type BatchResult struct {
	// IsGroup says that the item went to a URL group, so the answer has an array in its place, and Group counts, not One.
	IsGroup bool
	One     Published
	Group   []Published
}

// AppendBatch appends the answer to a batch, aligned with its items.
func AppendBatch(dst []byte, results []BatchResult) []byte {
	return appendArray(dst, results, func(dst []byte, r BatchResult) []byte {
		if r.IsGroup {
			return AppendPublishedGroup(dst, r.Group)
		}
		return AppendPublished(dst, r.One)
	})
}

// AppendCancelled appends the answer to a cancel.
func AppendCancelled(dst []byte, n int64) []byte {
	return append(strconv.AppendInt(append(dst, `{"cancelled":`...), n, 10), '}')
}

// AppendDeleted appends the answer to a bulk delete of dead letters. The cursor must be empty when ids were named, since some
// clients read the answer as a map of numbers.
func AppendDeleted(dst []byte, n int64, cursor string) []byte {
	dst = strconv.AppendInt(append(dst, `{"deleted":`...), n, 10)
	if cursor != "" {
		dst = appendString(append(dst, `,"cursor":`...), cursor)
	}
	return append(dst, '}')
}

// AppendRetried appends the answer to a bulk retry of dead letters: the new messages. An empty cursor means the end.
func AppendRetried(dst []byte, ids []posthaste.MessageID, cursor string) []byte {
	dst = appendString(append(dst, `{"cursor":`...), cursor)
	dst = appendArray(append(dst, `,"responses":`...), ids, func(dst []byte, id posthaste.MessageID) []byte {
		return appendPublished(dst, Published{ID: id})
	})
	return append(dst, '}')
}

// AppendScheduleID appends the answer to the creation of a schedule.
func AppendScheduleID(dst []byte, id posthaste.ScheduleID) []byte {
	return append(appendString(append(dst, `{"scheduleId":`...), string(id)), '}')
}

// AppendSigningKeys appends a tenant's key pair.
func AppendSigningKeys(dst []byte, keys posthaste.SigningKeys) []byte {
	dst = appendString(append(dst, `{"current":`...), keys.Current)
	dst = appendString(append(dst, `,"next":`...), keys.Next)
	return append(dst, '}')
}

// AppendGlobalParallelism appends a tenant's cap of concurrent attempts and how many run.
func AppendGlobalParallelism(dst []byte, most, inFlight int64) []byte {
	dst = strconv.AppendInt(append(dst, `{"parallelismMax":`...), most, 10)
	dst = strconv.AppendInt(append(dst, `,"parallelismCount":`...), inFlight, 10)
	return append(dst, '}')
}

// AppendHealth appends the answer of the health routes.
func AppendHealth(dst []byte, status string) []byte {
	return append(appendString(append(dst, `{"status":`...), status), '}')
}

// flowJSON shows the first flow-control key of a message, and all if it has several.
type flowJSON struct {
	FlowControlKey string         `json:"flowControlKey,omitempty"`
	Parallelism    int            `json:"parallelism,omitempty"`
	Rate           int            `json:"rate,omitempty"`
	Period         int64          `json:"period,omitempty"`
	Keys           []flowListJSON `json:"flowControlKeys,omitempty"`
}

type flowListJSON struct {
	FlowControlKey string `json:"flowControlKey"`
	Parallelism    int    `json:"parallelism,omitempty"`
	Rate           int    `json:"rate,omitempty"`
	Period         int64  `json:"period"`
}

func newFlowJSON(flow []posthaste.FlowControl) flowJSON {
	if len(flow) == 0 {
		return flowJSON{}
	}
	list := make([]flowListJSON, len(flow))
	for i, f := range flow {
		list[i] = flowListJSON{f.Key, f.Parallelism, f.Rate, max(1, int64(f.Period/time.Second))}
	}
	first := list[0]
	j := flowJSON{first.FlowControlKey, first.Parallelism, first.Rate, first.Period, nil}
	if len(list) > 1 {
		j.Keys = list
	}
	return j
}

// bodyJSON shows a body: as text if it is valid UTF-8, else in base64.
type bodyJSON struct {
	Body       string `json:"body,omitempty"`
	BodyBase64 []byte `json:"bodyBase64,omitempty"`
}

func newBodyJSON(m *posthaste.Message) bodyJSON {
	switch marker, body := shownBody(m); {
	case marker != "":
		return bodyJSON{Body: marker}
	case utf8.Valid(body):
		return bodyJSON{Body: string(body)}
	default:
		return bodyJSON{BodyBase64: body}
	}
}

// callbacksJSON shows the callbacks of a message or a schedule.
type callbacksJSON struct {
	Callback              string           `json:"callback,omitempty"`
	FailureCallback       string           `json:"failureCallback,omitempty"`
	CallbackHeader        posthaste.Header `json:"callbackHeader,omitempty"`
	FailureCallbackHeader posthaste.Header `json:"failureCallbackHeader,omitempty"`
}

func newCallbacksJSON(m *posthaste.Message) callbacksJSON {
	var j callbacksJSON
	if c := m.Callback; c != nil {
		j.Callback, j.CallbackHeader = c.URL, redactHeader(m.Redact, c.Header)
	}
	if c := m.FailureCallback; c != nil {
		j.FailureCallback, j.FailureCallbackHeader = c.URL, redactHeader(m.Redact, c.Header)
	}
	return j
}

type messageJSON struct {
	MessageID    posthaste.MessageID `json:"messageId"`
	URL          string              `json:"url"`
	TopicName    string              `json:"topicName,omitempty"`
	URLGroup     string              `json:"urlGroup,omitempty"` // topicName as the Go client library reads it
	EndpointName string              `json:"endpointName,omitempty"`
	API          string              `json:"api,omitempty"`
	Method       string              `json:"method"`
	Header       posthaste.Header    `json:"header"`
	bodyJSON
	MaxRetries int    `json:"maxRetries"`
	RetryDelay string `json:"retryDelayExpression,omitempty"`
	NotBefore  int64  `json:"notBefore"`
	CreatedAt  int64  `json:"createdAt"`
	callbacksJSON
	QueueName  string               `json:"queueName,omitempty"`
	ScheduleID posthaste.ScheduleID `json:"scheduleId,omitempty"`
	CallerIP   string               `json:"callerIP,omitempty"`
	CallerIPJS string               `json:"callerIp,omitempty"` // callerIP as the JavaScript types spell it
	Label      string               `json:"label,omitempty"`
	Labels     []string             `json:"labels,omitempty"`
	flowJSON
	Priority int `json:"priority,omitempty"`
}

func newMessageJSON(m *posthaste.Message) messageJSON {
	notBefore := m.NotBefore
	if notBefore.IsZero() {
		notBefore = m.CreatedAt
	}
	return messageJSON{
		MessageID:     m.ID,
		URL:           m.URL,
		TopicName:     m.Group,
		URLGroup:      m.Group,
		EndpointName:  m.Endpoint,
		API:           m.API,
		Method:        m.Method,
		Header:        notNil(redactHeader(m.Redact, m.Header)),
		bodyJSON:      newBodyJSON(m),
		MaxRetries:    m.MaxRetries,
		RetryDelay:    m.RetryDelay,
		NotBefore:     notBefore.UnixMilli(),
		CreatedAt:     m.CreatedAt.UnixMilli(),
		callbacksJSON: newCallbacksJSON(m),
		QueueName:     m.Queue,
		ScheduleID:    m.Schedule,
		CallerIP:      m.CallerIP,
		CallerIPJS:    m.CallerIP,
		Label:         first(m.Labels),
		Labels:        m.Labels,
		flowJSON:      newFlowJSON(m.Flow),
		Priority:      m.Priority,
	}
}

// AppendMessage appends a message as the API shows it.
func AppendMessage(dst []byte, m *posthaste.Message) []byte {
	return appendJSON(dst, newMessageJSON(m))
}

// Dead is a dead letter together with the message it holds.
type Dead struct {
	Letter  *posthaste.DeadLetter
	Message *posthaste.Message
}

type deadJSON struct {
	DeadID posthaste.DeadLetterID `json:"dlqId"`
	messageJSON
	ResponseStatus int              `json:"responseStatus"`
	ResponseHeader posthaste.Header `json:"responseHeader,omitempty"`
	ResponseBody   string           `json:"responseBody,omitempty"`
	ResponseBase64 []byte           `json:"responseBodyBase64,omitempty"`
}

// AppendDead appends a dead letter.
func AppendDead(dst []byte, d Dead) []byte {
	last := &d.Letter.Last
	j := deadJSON{
		DeadID:         d.Letter.ID,
		messageJSON:    newMessageJSON(d.Message),
		ResponseStatus: last.Status,
		ResponseHeader: last.Header,
	}
	if utf8.Valid(last.Body) {
		j.ResponseBody = string(last.Body)
	} else {
		j.ResponseBase64 = last.Body
	}
	return appendJSON(dst, j)
}

// AppendDeadPage appends a page of dead letters. The cursor is empty at the end.
func AppendDeadPage(dst []byte, page []Dead, cursor string) []byte {
	dst = appendCursor(append(dst, '{'), cursor)
	dst = appendArray(append(dst, `"messages":`...), page, AppendDead)
	return append(dst, '}')
}

type logJSON struct {
	Time             int64                `json:"time"`
	MessageID        posthaste.MessageID  `json:"messageId"`
	State            posthaste.LogState   `json:"state"`
	URL              string               `json:"url"`
	Error            string               `json:"error,omitempty"`
	NextDeliveryTime int64                `json:"nextDeliveryTime,omitempty"`
	TopicName        string               `json:"topicName,omitempty"`
	EndpointName     string               `json:"endpointName,omitempty"`
	ScheduleID       posthaste.ScheduleID `json:"scheduleId,omitempty"`
	QueueName        string               `json:"queueName,omitempty"`
	API              string               `json:"api,omitempty"`
	Method           string               `json:"method"`
	Header           posthaste.Header     `json:"header"`
	Body             string               `json:"body,omitempty"` // base64, or the marker of a redacted one
	ResponseStatus   *int                 `json:"responseStatus,omitempty"`
	ResponseBody     []byte               `json:"responseBody,omitempty"`
	ResponseHeaders  posthaste.Header     `json:"responseHeaders,omitempty"`
	ResponseHeader   posthaste.Header     `json:"responseHeader,omitempty"` // responseHeaders as the Python client library reads it
	Timeout          int64                `json:"timeout,omitempty"`

	Callback               string           `json:"callback,omitempty"`
	FailureCallback        string           `json:"failureCallback,omitempty"`
	CallbackHeaders        posthaste.Header `json:"callbackHeaders,omitempty"` // the plural, unlike a message
	FailureCallbackHeaders posthaste.Header `json:"failureCallbackHeaders,omitempty"`

	MaxRetries   int      `json:"maxRetries"`
	RetryDelay   string   `json:"retryDelayExpression,omitempty"`
	RetryDelayPy string   `json:"retryDelayExpr,omitempty"` // retryDelayExpression as the Python client library reads it
	Label        string   `json:"label,omitempty"`
	Labels       []string `json:"labels,omitempty"`
	flowJSON
	Priority int    `json:"priority,omitempty"`
	CallerIP string `json:"callerIP,omitempty"`
}

// AppendLogEntry appends a log entry.
func AppendLogEntry(dst []byte, e *posthaste.LogEntry) []byte {
	m := e.Message
	callbacks := newCallbacksJSON(m)
	j := logJSON{
		Time:                   e.At.UnixMilli(),
		MessageID:              m.ID,
		State:                  e.State,
		URL:                    m.URL,
		TopicName:              m.Group,
		EndpointName:           m.Endpoint,
		ScheduleID:             m.Schedule,
		QueueName:              m.Queue,
		API:                    m.API,
		Method:                 m.Method,
		Header:                 notNil(redactHeader(m.Redact, m.Header)),
		Callback:               callbacks.Callback,
		FailureCallback:        callbacks.FailureCallback,
		CallbackHeaders:        callbacks.CallbackHeader,
		FailureCallbackHeaders: callbacks.FailureCallbackHeader,
		MaxRetries:             m.MaxRetries,
		RetryDelay:             m.RetryDelay,
		RetryDelayPy:           m.RetryDelay,
		Label:                  first(m.Labels),
		Labels:                 m.Labels,
		flowJSON:               newFlowJSON(m.Flow),
		Priority:               m.Priority,
		CallerIP:               m.CallerIP,
	}
	marker, body := shownBody(m)
	if j.Body = marker; marker == "" {
		j.Body = base64.StdEncoding.EncodeToString(body)
	}
	if m.Timeout > 0 {
		j.Timeout = m.Timeout.Milliseconds()
	}
	switch e.State {
	case posthaste.StateCreated:
		if m.NotBefore.After(m.CreatedAt) {
			j.NextDeliveryTime = m.NotBefore.UnixMilli()
		}
	case posthaste.StateRetry:
		if next := e.NextAt; !next.IsZero() {
			j.NextDeliveryTime = next.UnixMilli()
		} else if e.Attempt != nil && !e.Attempt.NextAt.IsZero() {
			j.NextDeliveryTime = e.Attempt.NextAt.UnixMilli()
		}
	case posthaste.StateError, posthaste.StateFailed:
		if a := e.Attempt; a != nil {
			j.Error = a.Error
			j.ResponseStatus = &a.Status
			j.ResponseBody = a.Body
			j.ResponseHeaders, j.ResponseHeader = a.Header, a.Header
		}
	case posthaste.StateActive, posthaste.StateDelivered, posthaste.StateCancelRequested, posthaste.StateCanceled:
	}
	return appendJSON(dst, j)
}

// AppendEventPage appends a page of log entries as the events route shows it. The cursor is empty at the end.
func AppendEventPage(dst []byte, page []*posthaste.LogEntry, cursor string) []byte {
	dst = appendCursor(append(dst, '{'), cursor)
	dst = appendArray(append(dst, `"events":`...), page, AppendLogEntry)
	return append(dst, '}')
}

// AppendLogPage appends a page of log entries as the logs route shows it: under both of the names its clients read.
func AppendLogPage(dst []byte, page []*posthaste.LogEntry, cursor string) []byte {
	dst = appendCursor(append(dst, '{'), cursor)
	dst = append(dst, `"logs":`...)
	from := len(dst)
	dst = appendArray(dst, page, AppendLogEntry)
	to := len(dst)
	dst = append(dst, `,"events":`...)
	dst = append(dst, dst[from:to]...)
	return append(dst, '}')
}

type queueJSON struct {
	Name        string `json:"name"`
	Parallelism int    `json:"parallelism"`
	CreatedAt   int64  `json:"createdAt"`
	UpdatedAt   int64  `json:"updatedAt"`
	Lag         int64  `json:"lag"`
	Paused      bool   `json:"paused"`
}

// AppendQueue appends a queue.
func AppendQueue(dst []byte, q *posthaste.Queue) []byte {
	return appendJSON(dst, queueJSON{q.Name, q.Parallelism, q.CreatedAt.UnixMilli(), q.UpdatedAt.UnixMilli(), q.Lag, q.Paused})
}

// AppendQueues appends a list of queues.
func AppendQueues(dst []byte, queues []*posthaste.Queue) []byte {
	return appendArray(dst, queues, AppendQueue)
}

type groupJSON struct {
	Name      string         `json:"name"`
	CreatedAt int64          `json:"createdAt"`
	UpdatedAt int64          `json:"updatedAt"`
	Endpoints []endpointJSON `json:"endpoints"`
}

type endpointJSON struct {
	Name string `json:"name,omitempty"`
	URL  string `json:"url"`
}

// AppendURLGroup appends a URL group.
func AppendURLGroup(dst []byte, g *posthaste.URLGroup) []byte {
	endpoints := make([]endpointJSON, len(g.Endpoints))
	for i, e := range g.Endpoints {
		endpoints[i] = endpointJSON(e)
	}
	return appendJSON(dst, groupJSON{g.Name, g.CreatedAt.UnixMilli(), g.UpdatedAt.UnixMilli(), endpoints})
}

// AppendURLGroups appends a list of URL groups.
func AppendURLGroups(dst []byte, groups []*posthaste.URLGroup) []byte {
	return appendArray(dst, groups, AppendURLGroup)
}

type flowKeyJSON struct {
	FlowControlKey      string `json:"flowControlKey"`
	WaitListSize        int64  `json:"waitListSize"`
	ParallelismMax      int    `json:"parallelismMax"`
	ParallelismCount    int    `json:"parallelismCount"`
	RateMax             int    `json:"rateMax"`
	RateCount           int    `json:"rateCount"`
	RatePeriod          int64  `json:"ratePeriod"`
	RatePeriodStart     int64  `json:"ratePeriodStart"`
	IsPaused            bool   `json:"isPaused"`
	IsPinnedParallelism bool   `json:"isPinnedParallelism"`
	IsPinnedRate        bool   `json:"isPinnedRate"`
}

// AppendFlowKey appends the state of a flow-control key.
func AppendFlowKey(dst []byte, k *posthaste.FlowKey) []byte {
	j := flowKeyJSON{
		FlowControlKey:      k.Key,
		WaitListSize:        k.Waiting,
		ParallelismMax:      k.Parallelism,
		ParallelismCount:    k.InFlight,
		RateMax:             k.Rate,
		RateCount:           k.RateUsed,
		RatePeriod:          int64(k.Period / time.Second),
		IsPaused:            k.Paused,
		IsPinnedParallelism: k.PinnedParallelism,
		IsPinnedRate:        k.PinnedRate,
	}
	if !k.PeriodStart.IsZero() {
		j.RatePeriodStart = k.PeriodStart.Unix()
	}
	return appendJSON(dst, j)
}

// AppendFlowKeys appends a list of flow-control keys.
func AppendFlowKeys(dst []byte, keys []*posthaste.FlowKey) []byte {
	return appendArray(dst, keys, AppendFlowKey)
}

// ScheduleState is how a message of a schedule's last run stands.
type ScheduleState string

// The states.
const (
	ScheduleInProgress ScheduleState = "IN_PROGRESS"
	ScheduleSuccess    ScheduleState = "SUCCESS"
	ScheduleFail       ScheduleState = "FAIL"
)

// Schedule is a schedule as the API shows it.
type Schedule struct {
	ID          posthaste.ScheduleID
	Cron        string
	Destination string // the URL or the group's name, as given
	// Template holds what each produced message is made of; its ID, URL, Group and times do not count.
	Template  *posthaste.Message
	CreatedAt time.Time
	Paused    bool
	LastAt    time.Time // zero before the first run
	NextAt    time.Time // not shown while paused
	// LastStates are the messages of the last run.
	LastStates map[posthaste.MessageID]ScheduleState
	Error      string // of the last run, if it failed
	// Upcoming are the next firing times. The hosted service does not show them.
	Upcoming []time.Time
}

type scheduleJSON struct {
	ScheduleID  posthaste.ScheduleID `json:"scheduleId"`
	Cron        string               `json:"cron"`
	Destination string               `json:"destination"`
	Method      string               `json:"method"`
	CreatedAt   int64                `json:"createdAt"`
	Retries     int                  `json:"retries"`
	IsPaused    bool                 `json:"isPaused"`
	Header      posthaste.Header     `json:"header,omitempty"`
	bodyJSON
	Delay   int64 `json:"delay,omitempty"`
	Timeout int64 `json:"timeout,omitempty"`
	callbacksJSON
	QueueName string `json:"queueName,omitempty"`
	flowJSON
	Priority   int                                   `json:"priority,omitempty"`
	RetryDelay string                                `json:"retryDelayExpression,omitempty"`
	Label      string                                `json:"label,omitempty"`
	Labels     []string                              `json:"labels,omitempty"`
	CallerIP   string                                `json:"callerIP,omitempty"`
	CallerIPJS string                                `json:"callerIp,omitempty"`
	LastTime   int64                                 `json:"lastScheduleTime,omitempty"`
	NextTime   int64                                 `json:"nextScheduleTime,omitempty"`
	LastStates map[posthaste.MessageID]ScheduleState `json:"lastScheduleStates,omitempty"`
	Error      string                                `json:"error,omitempty"`
	Upcoming   []int64                               `json:"nextScheduleTimes,omitempty"`
}

// AppendSchedule appends a schedule.
func AppendSchedule(dst []byte, s *Schedule) []byte {
	m := s.Template
	j := scheduleJSON{
		ScheduleID:    s.ID,
		Cron:          s.Cron,
		Destination:   s.Destination,
		Method:        m.Method,
		CreatedAt:     s.CreatedAt.UnixMilli(),
		Retries:       m.MaxRetries,
		IsPaused:      s.Paused,
		Header:        redactHeader(m.Redact, m.Header),
		bodyJSON:      newBodyJSON(m),
		Delay:         int64((m.Delay + time.Second - 1) / time.Second),
		callbacksJSON: newCallbacksJSON(m),
		QueueName:     m.Queue,
		flowJSON:      newFlowJSON(m.Flow),
		Priority:      m.Priority,
		RetryDelay:    m.RetryDelay,
		Label:         first(m.Labels),
		Labels:        m.Labels,
		CallerIP:      m.CallerIP,
		CallerIPJS:    m.CallerIP,
		LastStates:    s.LastStates,
		Error:         s.Error,
	}
	if m.Timeout > 0 {
		j.Timeout = m.Timeout.Milliseconds()
	}
	if !s.LastAt.IsZero() {
		j.LastTime = s.LastAt.UnixMilli()
	}
	if !s.NextAt.IsZero() && !s.Paused {
		j.NextTime = s.NextAt.UnixMilli()
	}
	for _, t := range s.Upcoming {
		j.Upcoming = append(j.Upcoming, t.UnixMilli())
	}
	return appendJSON(dst, j)
}

// AppendSchedules appends a list of schedules.
func AppendSchedules(dst []byte, schedules []*Schedule) []byte {
	return appendArray(dst, schedules, AppendSchedule)
}

// AppendCallback appends the body of the callback message that tells of attempt a of m. dead is the dead letter it led to, if
// any. Nothing is redacted: the body is delivered to whom the publisher named.
func AppendCallback(dst []byte, m *posthaste.Message, a *posthaste.Attempt, dead posthaste.DeadLetterID) []byte {
	dst = slices.Grow(dst, 512+base64.StdEncoding.EncodedLen(len(a.Body))+base64.StdEncoding.EncodedLen(len(m.Body)))
	dst = strconv.AppendInt(append(dst, `{"status":`...), int64(a.Status), 10)
	dst = appendHeader(append(dst, `,"header":`...), a.Header)
	body := a.Body
	if a.Status == 0 && len(body) == 0 {
		body = []byte(a.Error)
	}
	dst = appendBase64(append(dst, `,"body":`...), body)
	dst = strconv.AppendInt(append(dst, `,"retried":`...), int64(a.Number), 10)
	dst = strconv.AppendInt(append(dst, `,"maxRetries":`...), int64(m.MaxRetries), 10)
	optional := func(name, value string) {
		if value != "" {
			dst = appendString(append(dst, name...), value)
		}
	}
	optional(`,"dlqId":`, string(dead))
	dst = appendString(append(dst, `,"sourceMessageId":`...), string(m.ID))
	optional(`,"topicName":`, m.Group)
	optional(`,"endpointName":`, m.Endpoint)
	dst = appendString(append(dst, `,"url":`...), m.URL)
	dst = appendString(append(dst, `,"method":`...), m.Method)
	dst = appendHeader(append(dst, `,"sourceHeader":`...), m.Header)
	dst = appendBase64(append(dst, `,"sourceBody":`...), m.Body)
	notBefore := m.NotBefore
	if notBefore.IsZero() {
		notBefore = m.CreatedAt
	}
	dst = strconv.AppendInt(append(dst, `,"notBefore":`...), notBefore.UnixMilli(), 10)
	dst = strconv.AppendInt(append(dst, `,"createdAt":`...), m.CreatedAt.UnixMilli(), 10)
	optional(`,"scheduleId":`, string(m.Schedule))
	dst = appendString(append(dst, `,"callerIP":`...), m.CallerIP)
	return append(dst, '}')
}

// RedactedPrefix begins what is shown in place of a redacted value; the lower-case hex SHA-256 of the value follows.
const RedactedPrefix = "REDACTED:"

// Redacted returns what is shown in place of value.
func Redacted[T string | []byte](value T) string {
	sum := sha256.Sum256([]byte(value))
	return RedactedPrefix + hex.EncodeToString(sum[:])
}

// redactHeader returns h as it is shown: with the values that r names replaced, names and numbers of values kept.
func redactHeader(r posthaste.Redaction, h posthaste.Header) posthaste.Header {
	if !r.Headers && len(r.Names) == 0 || len(h) == 0 {
		return h
	}
	shown := make(posthaste.Header, len(h))
	for name, values := range h {
		if r.Headers || slices.Contains(r.Names, name) {
			marked := make([]string, len(values))
			for i, v := range values {
				marked[i] = Redacted(v)
			}
			values = marked
		}
		shown[name] = values
	}
	return shown
}

// shownBody returns the body of m as it is shown, or the marker in its place.
//
// A callback message has the redaction of its source, and its body repeats the source's body and headers: those are redacted
// inside it.
func shownBody(m *posthaste.Message) (marker string, body []byte) {
	switch {
	case len(m.Body) == 0 || m.Redact.Zero():
		return "", m.Body
	case m.Source != "":
		if body, ok := redactCallback(m.Redact, m.Body); ok {
			return "", body
		}
		return Redacted(m.Body), nil
	case m.Redact.Body:
		return Redacted(m.Body), nil
	}
	return "", m.Body
}

// redactCallback redacts what the body of a callback says about its source. ok is false when body is not such a body.
func redactCallback(r posthaste.Redaction, body []byte) (shown []byte, ok bool) {
	const sourceBody, sourceHeader = "sourceBody", "sourceHeader"
	var fields map[string]json.RawMessage
	var source struct {
		Body   []byte           `json:"sourceBody"`
		Header posthaste.Header `json:"sourceHeader"`
	}
	if json.Unmarshal(body, &fields) != nil || json.Unmarshal(body, &source) != nil {
		return nil, false
	}
	if r.Body && len(source.Body) > 0 {
		fields[sourceBody] = appendString(nil, Redacted(source.Body))
	}
	fields[sourceHeader] = appendHeader(nil, redactHeader(r, source.Header))
	return appendJSON(nil, fields), true
}

// appendJSON appends v as encoding/json writes it, with <, > and & left alone.
func appendJSON(dst []byte, v any) []byte {
	buf := bytes.NewBuffer(dst)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("wire: encode: " + err.Error()) // the shapes are ours and hold nothing that cannot be encoded
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte{'\n'})
}

func appendArray[T any](dst []byte, list []T, item func([]byte, T) []byte) []byte {
	dst = append(dst, '[')
	for i, v := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = item(dst, v)
	}
	return append(dst, ']')
}

func appendCursor(dst []byte, cursor string) []byte {
	if cursor == "" {
		return dst
	}
	return append(appendString(append(dst, `"cursor":`...), cursor), ',')
}

func appendBase64(dst, b []byte) []byte {
	return append(base64.StdEncoding.AppendEncode(append(dst, '"'), b), '"')
}

// appendHeader appends headers sorted by name; nil becomes an empty object.
func appendHeader(dst []byte, h posthaste.Header) []byte {
	dst = append(dst, '{')
	for i, name := range slices.Sorted(maps.Keys(h)) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, name), ':')
		dst = appendArray(dst, h[name], appendString)
	}
	return append(dst, '}')
}

// appendString appends a JSON string. Bytes that are not valid UTF-8 become the replacement character.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			dst = utf8.AppendRune(dst, r)
			i += size
			continue
		}
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c >= ' ':
			dst = append(dst, c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '\r':
			dst = append(dst, '\\', 'r')
		case c == '\t':
			dst = append(dst, '\\', 't')
		default:
			const hexDigits = "0123456789abcdef"
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
		}
		i++
	}
	return append(dst, '"')
}

func notNil(h posthaste.Header) posthaste.Header {
	if h == nil {
		return posthaste.Header{}
	}
	return h
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}
