package compose

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/retry"
	"github.com/posthaste/posthaste/internal/wire"
)

// Limits bound what a message may ask for. Zero means unlimited, except for DefaultRetries.
type Limits struct {
	DefaultRetries int
	MaxRetries     int
	MaxDelay       time.Duration
	MaxTimeout     time.Duration // longer ones are cut to it
	MaxBody        int64         // bytes
}

// Target is one destination of a request.
type Target struct {
	URL      string
	Group    string
	Endpoint string
	API      string
}

// Request is a message to be built.
type Request struct {
	Tenant   posthaste.TenantID
	Target   Target
	Settings *wire.Settings
	Body     []byte
	Queue    string
	Schedule posthaste.ScheduleID
	CallerIP string
}

// New builds the message that a request asks for, or says which of its settings breaks which rule. URLs are not judged here.
func New(r Request, l Limits) (Draft, error) {
	s := r.Settings
	if err := checkBody(len(r.Body), l); err != nil {
		return Draft{}, err
	}
	retries := l.DefaultRetries
	if s.Has(wire.FieldRetries) {
		retries = s.Retries
	} else if l.MaxRetries > 0 {
		retries = min(retries, l.MaxRetries)
	}
	if err := checkRetries(retries, l); err != nil {
		return Draft{}, err
	}
	if err := checkRetryDelay(wire.HeaderRetryDelay, s.RetryDelay); err != nil {
		return Draft{}, err
	}
	if err := checkDelay(s.Delay, l); err != nil {
		return Draft{}, err
	}
	if r.Queue != "" && r.Schedule == "" {
		for _, f := range []wire.Field{wire.FieldDelay, wire.FieldNotBefore, wire.FieldCallbackDelay, wire.FieldFailureCallbackDelay} {
			if s.Has(f) {
				return Draft{}, posthaste.Errorf(posthaste.CodeInvalid, "%s is not supported for queues", f.Header())
			}
		}
	}
	m := &posthaste.Message{
		Tenant: r.Tenant, URL: r.Target.URL, Group: r.Target.Group, Endpoint: r.Target.Endpoint, API: r.Target.API,
		Method: cmp.Or(s.Method, "POST"), Header: s.Header, Body: r.Body,
		MaxRetries: retries, RetryDelay: s.RetryDelay, Timeout: clamp(s.Timeout, l),
		Delay: s.Delay, Queue: r.Queue, Schedule: r.Schedule, Flow: s.Flow, Priority: s.Priority, Labels: s.Labels,
		Redact: s.Redact, CallerIP: r.CallerIP,
	}
	var err error
	if m.Callback, err = callback(wire.PrefixCallback, s.Callback, l); err != nil {
		return Draft{}, err
	}
	if m.FailureCallback, err = callback(wire.PrefixFailureCallback, s.FailureCallback, l); err != nil {
		return Draft{}, err
	}
	return Draft{Message: m, Delay: s.Delay, NotBefore: s.NotBefore}, nil
}

// CheckNotBefore refuses a moment that lies further ahead than the longest delay.
func CheckNotBefore(d Draft, now time.Time, l Limits) error {
	if d.NotBefore.IsZero() {
		return nil
	}
	return checkDelay(d.NotBefore.Sub(now), l)
}

func checkBody(size int, l Limits) error {
	if l.MaxBody > 0 && int64(size) > l.MaxBody {
		return posthaste.Errorf(posthaste.CodeQuotaExceeded,
			"quota maxMessageSize exceeded, current limit: %d. Store large data elsewhere and send a reference to it", l.MaxBody)
	}
	return nil
}

func checkRetries(n int, l Limits) error {
	if l.MaxRetries > 0 && n > l.MaxRetries {
		return posthaste.Errorf(posthaste.CodeInvalid, "quota maxRetries exceeded, current limit: %d", l.MaxRetries)
	}
	return nil
}

func checkDelay(d time.Duration, l Limits) error {
	if l.MaxDelay > 0 && d > l.MaxDelay {
		return posthaste.Errorf(posthaste.CodeInvalid, "quota maxDelay exceeded, current limit: %d", int64(l.MaxDelay/time.Second))
	}
	return nil
}

func checkRetryDelay(header, expression string) error {
	if expression == "" {
		return nil
	}
	if _, err := retry.Compile(expression); err != nil {
		return posthaste.Errorf(posthaste.CodeInvalid, "invalid %s header: %v", header, err)
	}
	return nil
}

func clamp(d time.Duration, l Limits) time.Duration {
	if l.MaxTimeout > 0 {
		return min(d, l.MaxTimeout)
	}
	return d
}

// callback checks the settings of a callback.
func callback(prefix string, cb *posthaste.Callback, l Limits) (*posthaste.Callback, error) {
	if cb == nil {
		return nil, nil
	}
	if err := checkRetryDelay(prefix+"Retry-Delay", cb.RetryDelay); err != nil {
		return nil, err
	}
	if cb.Retries != nil {
		if err := checkRetries(*cb.Retries, l); err != nil {
			return nil, err
		}
	}
	if err := checkDelay(cb.Delay, l); err != nil {
		return nil, err
	}
	cb.Timeout = clamp(cb.Timeout, l)
	return cb, nil
}

// DedupKey returns the deduplication key that a request asks for, or "" if it asks for none. target is the destination as it
// was named: a URL, or a group, whose endpoints each get a key of their own.
func DedupKey(target string, endpoint string, s *wire.Settings, body []byte) string {
	var key string
	switch {
	case s.DeduplicationID != "":
		key = "i:" + s.DeduplicationID
	case s.ContentBasedDeduplication:
		key = "c:" + contentHash(target, s.Header, body)
	default:
		return ""
	}
	if endpoint != "" {
		// An id holds no colon, so keys of different kinds never meet.
		key += ":" + hash(endpoint)
	}
	return key
}

func hash(s string) string {
	h := sha256.Sum256([]byte(s))
	return base64.RawURLEncoding.EncodeToString(h[:16])
}

// contentHash covers the destination, the forwarded headers and the body, each with its length, so that none can pass for a
// part of another.
func contentHash(target string, header posthaste.Header, body []byte) string {
	h := sha256.New()
	var n [8]byte
	add := func(b string) {
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write([]byte(b))
	}
	add(target)
	for _, name := range slices.Sorted(maps.Keys(header)) {
		add(name)
		binary.BigEndian.PutUint64(n[:], uint64(len(header[name])))
		h.Write(n[:])
		for _, v := range header[name] {
			add(v)
		}
	}
	h.Write(body)
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// Again builds the message that repeats a dead letter: with the original's content and queue, and what the settings say
// otherwise.
func Again(m *posthaste.Message, s *wire.Settings, l Limits) (Draft, error) {
	c := *m
	c.ID, c.CreatedAt, c.NotBefore, c.ClaimedAtOnce = "", time.Time{}, time.Time{}, false
	c.Delay = 0
	if s == nil {
		return Draft{Message: &c}, nil
	}
	r := Request{Tenant: m.Tenant, Settings: s, Queue: m.Queue, CallerIP: m.CallerIP}
	over, err := New(r, l)
	if err != nil {
		return Draft{}, err
	}
	o := over.Message
	for f, set := range map[wire.Field]func(){
		wire.FieldMethod:          func() { c.Method = o.Method },
		wire.FieldTimeout:         func() { c.Timeout = o.Timeout },
		wire.FieldRetries:         func() { c.MaxRetries = o.MaxRetries },
		wire.FieldRetryDelay:      func() { c.RetryDelay = o.RetryDelay },
		wire.FieldDelay:           func() { c.Delay = o.Delay },
		wire.FieldLabel:           func() { c.Labels = o.Labels },
		wire.FieldFlowKey:         func() { c.Flow = o.Flow },
		wire.FieldPriority:        func() { c.Priority = o.Priority },
		wire.FieldRedact:          func() { c.Redact = o.Redact },
		wire.FieldCallback:        func() { c.Callback = o.Callback },
		wire.FieldFailureCallback: func() { c.FailureCallback = o.FailureCallback },
		wire.FieldForward: func() {
			c.Header = maps.Clone(m.Header)
			if c.Header == nil {
				c.Header = posthaste.Header{}
			}
			maps.Copy(c.Header, s.Header)
		},
	} {
		if s.Has(f) {
			set()
		}
	}
	return Draft{Message: &c, Delay: c.Delay, NotBefore: over.NotBefore}, nil
}

// Tick builds a message of a schedule's tick from its template. Its delay counts from the tick.
func Tick(template *posthaste.Message, t Target, schedule posthaste.ScheduleID, at time.Time) Draft {
	m := *template
	m.URL, m.Group, m.Endpoint, m.API, m.Schedule = t.URL, t.Group, t.Endpoint, t.API, schedule
	d := Draft{Message: &m}
	if m.Delay > 0 {
		d.NotBefore = at.Add(m.Delay)
	}
	return d
}
