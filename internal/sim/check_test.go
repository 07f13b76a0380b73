package sim

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// checker judges a history from what destinations saw and what the API says, at a moment at which nothing moves.
type checker struct {
	h        *history
	p        *process
	now      int64
	final    bool
	messages []*message // in the order of their first entry
	byID     map[string]*message
	attempts []*attempt
	windows  map[string][]window
	vague    bool // a node was in trouble not long ago, so what it holds may be told of late
}

// check judges everything. final says that all is resolved.
func (h *history) check(final bool) {
	if !h.quietStore() || slices.ContainsFunc(h.nodes, func(n *node) bool { return n.p == nil }) || len(h.doubts) > 0 {
		return
	}
	p := h.ready(0)
	if p == nil {
		return
	}
	// The store's time runs ahead of the clock by a microsecond for every operation of one moment, and what it puts off until
	// then comes so much later.
	h.settle()
	time.Sleep(100 * time.Microsecond)
	h.settle()
	h.findQueues()
	c := &checker{h: h, p: p, final: final}
	_, now := h.net.next()
	c.now = now.UnixMilli()
	h.net.mu.Lock()
	c.attempts = slices.Clone(h.net.attempts)
	h.net.mu.Unlock()
	c.vague = c.excused(c.now)
	if !c.read() {
		return
	}
	c.matchAttempts()
	if h.failed() {
		return
	}
	c.identify()
	c.callbacks()
	if h.failed() {
		return
	}
	c.cancels()
	c.retries()
	c.deadLetters()
	c.queues()
	c.tenant()
	c.keys()
	c.ticks()
	c.counters()
	c.details()
	c.waiting()
	if final {
		c.ended()
	}
}

// slack is how long after a trouble things may still be late.
func (c *checker) slack() int64 {
	if c.h.cluster != nil {
		return 40_000
	}
	return 6_000
}

// excused reports whether a node was in trouble at a moment or shortly before.
func (c *checker) excused(ms int64) bool { return c.troubled(ms, ms) }

// troubled reports whether a node was in trouble between two moments, or shortly before.
func (c *checker) troubled(from, to int64) bool {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	for _, t := range c.h.troubles {
		if t.from.UnixMilli() <= to && (t.to.IsZero() || t.to.UnixMilli()+c.slack() >= from) {
			return true
		}
	}
	return false
}

// firstMoment returns the first moment from ms on that the server's clock showed: it leaps.
func (c *checker) firstMoment(ms int64) int64 {
	for _, l := range c.h.leaps {
		if ms > l.from.UnixMilli() && ms < l.to.UnixMilli() {
			return l.to.UnixMilli()
		}
	}
	return ms
}

// cutOffBy reports whether a running attempt of m was cut off before a moment by the end of its process.
func (c *checker) cutOffBy(m *message, ms int64) bool {
	for _, a := range c.attempts {
		if a.id == m.id && a.endSeq != 0 && !a.ended.After(time.UnixMilli(ms)) && (a.cutOff || c.leftUnrecorded(a)) {
			return true
		}
	}
	return c.troubled(m.created, ms)
}

// leftUnrecorded reports whether the node of an attempt had trouble, so that it may not be in the log.
func (c *checker) leftUnrecorded(a *attempt) bool {
	if a.process.over {
		return true
	}
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	for _, t := range c.h.troubles {
		if t.node == a.process.node && (t.to.IsZero() || !t.to.Before(a.at)) {
			return true
		}
	}
	return false
}

// matchAttempts holds what destinations saw against the log.
func (c *checker) matchAttempts() {
	for _, a := range c.attempts {
		m := c.byID[a.id]
		if m == nil {
			c.h.badf("a destination saw attempt %d of %s (%s), which is not in the log", a.retried, a.id, a.label())
			continue
		}
		m.arrivals[a.retried] = append(m.arrivals[a.retried], a)
	}
	for _, m := range c.messages {
		for n, list := range m.arrivals {
			c.matchNumber(m, n, list)
		}
		for _, t := range m.tries {
			if len(m.arrivals[t.n]) == 0 && !c.excused(t.active) {
				c.h.badf("no destination saw attempt %d of %s", t.n, m.story())
			}
		}
	}
}

func (c *checker) matchNumber(m *message, n int, list []*attempt) {
	bad := func(format string, a ...any) {
		c.h.badf("attempt %d of %s: %s", n, m.story(), fmt.Sprintf(format, a...))
	}
	for i, a := range list {
		c.request(m, a)
		if i > 0 && !c.leftUnrecorded(list[i-1]) {
			bad("it was made twice")
		}
	}
	a := list[len(list)-1]
	if n >= len(m.tries) {
		if !c.leftUnrecorded(a) {
			bad("it is not in the log")
		}
		return
	}
	t := m.tries[n]
	if t.end < 0 {
		if a.endSeq != 0 && !c.leftUnrecorded(a) && !c.excused(a.ended.UnixMilli()) {
			bad("it has ended, but runs by the log")
		}
		return
	}
	if a.endSeq == 0 || a.cutOff {
		bad("it has ended by the log, but not at the destination")
		return
	}
	start, end := a.at.UnixMilli(), a.ended.UnixMilli()
	if t.active > start || t.active < start && !c.troubled(t.active, start) {
		bad("it began at %s", clockTime(start))
	}
	if t.end < end || t.end > end && !c.troubled(end, t.end) {
		bad("it ended at %s", clockTime(end))
	}
	status, want := 0, "failure"
	if a.whole {
		status = a.answer.status
		switch {
		case status >= 200 && status <= 299:
			want = "DELIVERED"
		case status == 489 && a.answer.header.Get("Upstash-NonRetryable-Error") == "true":
			want = "FAILED"
		}
	}
	if want == "failure" {
		want = "RETRY"
		if n >= m.MaxRetries {
			want = "FAILED"
		}
	}
	if want != "DELIVERED" && m.cancel >= 0 && m.cancel <= t.end && t.state == "CANCELED" {
		want = "CANCELED"
	}
	if t.state != want {
		bad("it led to %s, want %s", t.state, want)
	}
	if t.state != "DELIVERED" && (t.status != status || a.whole && !bytes.Equal(t.body, a.answer.body)) {
		bad("the log has the answer %d %q, want %d %q", t.status, t.body, status, a.answer.body)
	}
	if t.state == "RETRY" {
		c.delay(m, t, a)
	}
}

// delay checks when the next attempt is due.
func (c *checker) delay(m *message, t *try, a *attempt) {
	var want time.Duration
	steps := backoff[min(t.n, len(backoff)-1)]
	want = steps
	if x := c.expression(m); x != nil {
		want = x.value(t.n + 1)
	}
	if a.whole {
	names:
		for _, name := range []string{"Retry-After", "X-RateLimit-Reset", "X-RateLimit-Reset-Requests", "X-RateLimit-Reset-Tokens"} {
			switch a.answer.header.Get(name) {
			case "0":
				want = 0
			case "1":
				want = time.Second
			case "3":
				want = 3 * time.Second
			case "7s":
				want = 7 * time.Second
			case "1.5":
				want = 1500 * time.Millisecond
			default: // none, or none that counts
				continue
			}
			break names
		}
	}
	if got := time.Duration(t.next-t.end) * time.Millisecond; got != want {
		c.h.badf("%s: after attempt %d the next one is due in %v, want %v", m.story(), t.n, got, want)
	}
}

// expression returns the Retry-Delay that a message was published with.
func (c *checker) expression(m *message) *expression {
	if m.item == nil {
		c.itemOf(m)
	}
	if m.item == nil || strings.Contains(m.url, "://cb.sim/") {
		return nil
	}
	return m.item.retryDelay
}

// itemOf finds what a message was asked for with, by its id or by its body.
func (c *checker) itemOf(m *message) {
	if s := c.h.byID[m.id]; s != nil {
		m.sent, m.item = s, s.item
		return
	}
	if strings.Contains(m.url, "://cb.sim/") {
		return
	}
	for _, s := range c.h.schedules {
		for _, v := range s.versions {
			if v.item != nil && v.item.body == m.body {
				m.item = v.item
				return
			}
		}
	}
	for _, r := range c.h.unknown {
		for _, it := range r.items {
			if it.body == m.body {
				m.item = it
			}
		}
	}
}

// request checks a delivered request.
func (c *checker) request(m *message, a *attempt) {
	if a.seq <= c.h.checked {
		return
	}
	bad := func(format string, args ...any) {
		c.h.badf("attempt %d of %s: %s", a.retried, m, fmt.Sprintf(format, args...))
	}
	if a.url != m.url || a.method != m.Method || string(a.body) != m.body {
		bad("%s %s %q, want %s %s %q", a.method, a.url, a.body, m.Method, m.url, m.body)
	}
	want := map[string]string{
		"User-Agent": "Upstash-QStash", "Upstash-Topic-Name": m.group, "Upstash-Schedule-Id": m.schedule,
		"Upstash-Caller-Ip": m.CallerIP, "Upstash-Region": "EU-CENTRAL-1", "Upstash-Message-Id": m.id,
		"Upstash-Retried": fmt.Sprint(a.retried), "X-Note": "", "Content-Type": "",
	}
	for name, values := range m.Header {
		want[name] = values[0]
	}
	for name, v := range want {
		if got := a.header.Get(name); got != v {
			bad("header %s is %q, want %q", name, got, v)
		}
	}
	if m.CallerIP != "192.0.2.1" {
		bad("caller %q", m.CallerIP)
	}
	if err := c.signature(a); err != nil {
		bad("signature: %v", err)
	}
}

// signature verifies the signature of a delivery.
func (c *checker) signature(a *attempt) error {
	keys := []string{firstKeys.Current}
	for _, r := range c.h.rotations {
		if r.settled < a.seq && c.h.cluster == nil { // KNOWN: B3
			keys = []string{r.current}
		} else if r.call < a.seq {
			keys = append(keys, r.current)
		}
	}
	signed, sum, ok := cutLast(a.header.Get("Upstash-Signature"))
	if !ok {
		return fmt.Errorf("%q is no token", a.header.Get("Upstash-Signature"))
	}
	mac, err := base64.RawURLEncoding.DecodeString(sum)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(keys, func(key string) bool {
		h := hmac.New(sha256.New, []byte(key))
		h.Write([]byte(signed)) //nolint:errcheck // never fails
		return hmac.Equal(mac, h.Sum(nil))
	}) {
		return fmt.Errorf("not by the key of the moment")
	}
	head, payload, _ := strings.Cut(signed, ".")
	if text, err := base64.RawURLEncoding.DecodeString(head); err != nil || string(text) != `{"alg":"HS256","typ":"JWT"}` {
		return fmt.Errorf("head %q: %v", text, err)
	}
	text, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return err
	}
	var claims struct {
		Iss, Sub, Jti, Body string
		Iat, Nbf, Exp       int64
	}
	if err := json.Unmarshal(text, &claims); err != nil {
		return err
	}
	hash := sha256.Sum256(a.body)
	if claims.Iss != "Upstash" || claims.Sub != a.url || claims.Nbf != 0 || claims.Iat != a.realAt.Unix() || claims.Exp != claims.Iat+300 ||
		claims.Body != base64.URLEncoding.EncodeToString(hash[:]) || len(claims.Jti) != 32 {
		return fmt.Errorf("claims %s of a request at %d", text, a.realAt.Unix())
	}
	if c.h.tokens[claims.Jti] {
		return fmt.Errorf("the token %s was used before", claims.Jti)
	}
	c.h.tokens[claims.Jti] = true
	return nil
}

// cutLast cuts a token before its signature.
func cutLast(s string) (head, tail string, ok bool) {
	i := strings.LastIndexByte(s, '.')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

// identify says where every message comes from, and compares it with what was asked for.
func (c *checker) identify() {
	for _, s := range c.h.sent {
		if c.byID[s.id] == nil {
			c.h.badf("op %d: message %s was accepted and is not in the log", s.req.op.n, s.id)
		}
	}
	found := map[*request]int{}
	for _, m := range c.messages {
		c.itemOf(m)
		m.queueGen = c.gen(m)
		switch {
		case m.sent != nil:
			c.compare(m)
		case strings.Contains(m.url, "://cb.sim/"):
			// Their sources are looked for later.
		case m.schedule != "" && !c.repeats(m):
			if m.item == nil {
				c.h.badf("%s: no schedule makes such a message", m)
			}
		default:
			r := c.lost(m)
			if r == nil {
				c.h.badf("%s: nobody published it", m.story())
				continue
			}
			found[r]++
		}
	}
	for r, n := range found {
		if r.requeue != nil || slices.ContainsFunc(r.items, func(it *item) bool { return it.dedup != "" || it.content || it.group() }) {
			continue
		}
		if n != len(r.items) {
			c.h.badf("op %d: its answer was lost, and %d of its %d messages were accepted", r.op.n, n, len(r.items))
		}
	}
	c.h.checked, _ = c.h.net.next()
}

// repeats reports whether a message may be the retry of a dead letter whose answer was lost.
func (c *checker) repeats(m *message) bool {
	return slices.ContainsFunc(c.h.unknown, func(r *request) bool {
		return r.requeue != nil && r.requeue.Body == m.body && r.requeue.MessageID != m.id && abs(m.created-r.at.UnixMilli()) < 60_000
	})
}

func abs(n int64) int64 { return max(n, -n) }

// lost returns the request without an answer that a message may come from.
func (c *checker) lost(m *message) *request {
	for _, r := range c.h.unknown {
		if m.created < r.at.UnixMilli() || m.created > r.at.UnixMilli()+60_000 {
			continue
		}
		if r.requeue != nil {
			if r.requeue.Body == m.body && r.requeue.URL == m.url {
				return r
			}
			continue
		}
		for _, it := range r.items {
			if it.body == m.body {
				return r
			}
		}
	}
	return nil
}

// gen returns the life of its queue that a message belongs to; -1 if that cannot be told.
func (c *checker) gen(m *message) int {
	if m.queue == "" {
		return 0
	}
	if m.sent != nil {
		return m.sent.queueGen
	}
	q := c.h.queues[m.queue]
	if q == nil {
		return -1
	}
	gen := 0
	for _, ch := range q.past {
		s := ch.values[len(ch.values)-1]
		switch t := ch.at.UnixMilli(); {
		case ch.byMessage && t <= m.created:
			gen = s.gen
		case s.gen == gen && s.exists:
		case !ch.byMessage && m.created >= since(ch) && m.created <= t:
			return -1
		case t < m.created:
			gen = s.gen
			if !s.exists {
				gen++
			}
		}
	}
	return gen
}

// since returns the earliest moment at which a change may have come.
func since[T any](ch change[T]) int64 {
	if ch.since.IsZero() {
		return ch.at.UnixMilli()
	}
	return ch.since.UnixMilli()
}

// compare holds a message to what was asked for.
func (c *checker) compare(m *message) {
	s, it := m.sent, m.sent.item
	got := fmt.Sprintf("url=%s group=%s queue=%s method=%s retries=%d timeout=%d priority=%d labels=%q callback=%q failure=%q created=%d due=%d flows=%s header=%v",
		m.url, m.group, m.queue, m.Method, m.MaxRetries, m.Timeout, m.Priority, m.labels, m.Callback, m.FailureCallback, m.created, m.due, m.flows(), m.Header)
	var labels []string
	if it.label != "" {
		labels = []string{it.label}
	}
	cb, fail := "", ""
	if it.callback != nil {
		cb = it.callback.url
	}
	if it.failure != nil {
		fail = it.failure.url
	}
	header := map[string][]string{}
	if it.forward != "" {
		header["X-Note"] = []string{it.forward}
	}
	if s.requeue != nil && c.byID[s.requeue.MessageID] != nil {
		// A dead letter's message comes back as it was.
		o := c.byID[s.requeue.MessageID]
		want := fmt.Sprintf("url=%s group=%s queue=%s method=%s retries=%d timeout=%d priority=%d labels=%q callback=%q failure=%q created=%d due=%d flows=%s header=%v",
			o.url, o.group, o.queue, o.Method, s.retries, o.Timeout, o.Priority, o.labels, o.Callback, o.FailureCallback, s.at.UnixMilli(), s.at.UnixMilli(), o.flows(), o.Header)
		if got != want || m.body != o.body {
			c.h.badf("op %d: the repetition of %s differs:\n    %s\n    %s", s.req.op.n, o, got, want)
		}
		return
	}
	want := fmt.Sprintf("url=%s group=%s queue=%s method=%s retries=%d timeout=%d priority=%d labels=%q callback=%q failure=%q created=%d due=%d flows=%s header=%v",
		s.url, s.group, it.queue, it.methodName(), s.retries, it.timeout.Milliseconds(), it.priority, labels, cb, fail,
		s.at.UnixMilli(), s.due.UnixMilli(), flowText(it.flows), header)
	if got != want || m.body != it.body {
		c.h.badf("op %d: %s %q differs from what was asked for:\n    %s\n    %s", s.req.op.n, m.id, m.body, got, want)
	}
}

func (m *message) flows() string {
	list := m.Keys
	if len(list) == 0 && m.Key != "" {
		list = []entryFlow{{m.Key, m.Parallelism, m.Rate, m.Period}}
	}
	var b strings.Builder
	for _, f := range list {
		fmt.Fprintf(&b, "%s(%d,%d,%d)", f.Key, f.Parallelism, f.Rate, f.Period)
	}
	return b.String()
}

func flowText(flows []flow) string {
	var b strings.Builder
	for _, f := range flows {
		fmt.Fprintf(&b, "%s(%d,%d,%d)", f.key, f.parallelism, f.rate, max(1, int64(f.period/time.Second)))
	}
	return b.String()
}

// callbackBody is what a callback tells.
type callbackBody struct {
	Status          int                 `json:"status"`
	Header          map[string][]string `json:"header"`
	Body            []byte              `json:"body"`
	Retried         int                 `json:"retried"`
	MaxRetries      int                 `json:"maxRetries"`
	DeadID          string              `json:"dlqId"`
	SourceMessageID string              `json:"sourceMessageId"`
	TopicName       string              `json:"topicName"`
	URL             string              `json:"url"`
	Method          string              `json:"method"`
	SourceHeader    map[string][]string `json:"sourceHeader"`
	SourceBody      []byte              `json:"sourceBody"`
	NotBefore       int64               `json:"notBefore"`
	CreatedAt       int64               `json:"createdAt"`
	ScheduleID      string              `json:"scheduleId"`
	CallerIP        string              `json:"callerIP"`
}

// callbacks finds the source of each callback, and holds them to what attempts led to.
func (c *checker) callbacks() {
	type name struct {
		source, url string
		retried     int
	}
	byName := map[name]*message{}
	for _, m := range c.messages {
		if !strings.Contains(m.url, "://cb.sim/") || m.sent != nil || c.repeats(m) {
			continue
		}
		var b callbackBody
		if err := json.Unmarshal([]byte(m.body), &b); err != nil {
			c.h.badf("%s: body %q: %v", m, m.body, err)
			continue
		}
		m.source, m.retried = c.byID[b.SourceMessageID], b.Retried
		if m.source == nil {
			c.h.badf("%s: a callback of %s, which is not in the log", m, b.SourceMessageID)
			continue
		}
		m.source.callbacks = append(m.source.callbacks, m)
		n := name{b.SourceMessageID, m.url, b.Retried}
		if byName[n] != nil {
			c.h.badf("two callbacks for attempt %d of %s", b.Retried, m.source.story())
		}
		byName[n] = m
		c.callbackOf(m, &b)
	}
	for _, m := range c.messages {
		for _, t := range m.tries {
			if t.end < 0 {
				continue
			}
			quiet := m.cancel >= 0 && m.cancel <= t.end
			for url, due := range map[string]bool{m.Callback: true, m.FailureCallback: t.state == "FAILED"} {
				if url == "" {
					continue
				}
				cb := byName[name{m.id, url, t.n}]
				switch {
				case cb == nil && due && !quiet:
					c.h.badf("no callback to %s for attempt %d of %s", url, t.n, m.story())
				case cb != nil && (!due || quiet && m.cancel < t.end):
					c.h.badf("a callback to %s for attempt %d of %s", url, t.n, m.story())
				}
				delete(byName, name{m.id, url, t.n})
			}
		}
	}
	for n, m := range byName {
		c.h.badf("a callback for attempt %d of %s", n.retried, m.source.story())
	}
}

// callbackOf compares a callback with the attempt that it tells of.
func (c *checker) callbackOf(m *message, b *callbackBody) {
	src := m.source
	if b.Retried >= len(src.tries) || src.tries[b.Retried].end < 0 {
		c.h.badf("%s: a callback for attempt %d, which has not ended, of %s", m, b.Retried, src.story())
		return
	}
	t := src.tries[b.Retried]
	failure := strings.Contains(m.url, "/fail/")
	list := src.arrivals[b.Retried]
	if len(list) == 0 {
		return
	}
	a := list[len(list)-1]
	status, text := 0, []byte(t.error)
	if a.whole {
		status, text = a.answer.status, a.answer.body
	}
	got := fmt.Sprintf("status=%d retries=%d topic=%s url=%s method=%s body=%q notBefore=%d createdAt=%d schedule=%s caller=%s dead=%v header=%v source=%v",
		b.Status, b.MaxRetries, b.TopicName, b.URL, b.Method, b.SourceBody, b.NotBefore, b.CreatedAt, b.ScheduleID, b.CallerIP, b.DeadID != "",
		len(b.Header), b.SourceHeader)
	headers := 0
	if a.whole {
		headers = len(a.answer.header)
	}
	source := src.Header
	if source == nil {
		source = map[string][]string{}
	}
	want := fmt.Sprintf("status=%d retries=%d topic=%s url=%s method=%s body=%q notBefore=%d createdAt=%d schedule=%s caller=%s dead=%v header=%v source=%v",
		status, src.MaxRetries, src.group, src.url, src.Method, src.body, src.due, src.created, src.schedule, src.CallerIP, failure, headers, source)
	if got != want {
		c.h.badf("callback of %s:\n    %s\n    %s", src, got, want)
	}
	if (a.whole || t.state != "DELIVERED") && !bytes.Equal(b.Body, text) && len(b.Body)+len(text) > 0 {
		c.h.badf("callback of %s: body %q, want %q", src, b.Body, text)
	}
	if failure {
		c.h.noteDead(b.DeadID, src.id)
	}
	if src.item == nil {
		return
	}
	cb := src.item.callback
	if failure {
		cb = src.item.failure
	}
	if cb == nil {
		c.h.badf("a callback nobody asked for, by %s: %s", src.item, m.source.story())
		return
	}
	retries := src.MaxRetries
	if cb.retries >= 0 {
		retries = cb.retries
	}
	method := "POST"
	if cb.method != "" {
		method = cb.method
	}
	header := map[string][]string{"Content-Type": {"application/json"}}
	if cb.forward != "" {
		header["X-Note"] = []string{cb.forward}
	}
	got = fmt.Sprintf("url=%s method=%s retries=%d flows=%s created=%d due=%d queue=%s schedule=%s topic=%s labels=%v header=%v callbacks=%s%s",
		m.url, m.Method, m.MaxRetries, m.flows(), m.created, m.due, m.queue, m.schedule, m.group, len(m.labels), m.Header, m.Callback, m.FailureCallback)
	want = fmt.Sprintf("url=%s method=%s retries=%d flows=%s created=%d due=%d queue= schedule= topic= labels=0 header=%v callbacks=",
		cb.url, method, retries, flowText(cb.flows), t.end, t.end+cb.delay.Milliseconds(), header)
	if got != want {
		c.h.badf("callback of %s:\n    %s\n    %s", src, got, want)
	}
}

// cancels holds each cancel to what it was about.
func (c *checker) cancels() {
	gone := map[*message]bool{} // canceled by an earlier call
	for _, call := range c.h.cancels {
		at := call.at.UnixMilli()
		var able []*message
		for _, m := range c.messages {
			ended := (m.final == "DELIVERED" || m.final == "FAILED") && (m.finalAt < at || m.finalAt == at && m.lastSeen() < call.call)
			if c.acceptedAfter(m, call) || gone[m] || ended || !call.matches(m) {
				continue
			}
			able = append(able, m)
		}
		slices.SortFunc(able, func(a, b *message) int { return strings.Compare(a.id, b.id) })
		if call.count > 0 && len(able) > call.count {
			able = able[:call.count]
		}
		if call.lost || call.queue != "" {
			// Some of them may have been canceled. What was not, goes on.
			for _, m := range able {
				switch {
				case m.cancel >= 0 && (call.lost && m.cancel <= at+60_000 || m.cancel == at):
					gone[m] = true
				case !call.lost && m.queueGen >= 0 && !c.h.vagueDelete(call):
					c.h.badf("its queue was deleted at %s, but not canceled was %s", clockTime(at), m.story())
				}
			}
			continue
		}
		if call.single != "" {
			if (call.status == 200) != (len(able) == 1) {
				c.h.badf("cancel at %s: status %d, although %d can be canceled: %s", clockTime(at), call.status, len(able), c.storyOf(call.single))
			}
		} else if call.n != len(able) {
			c.h.badf("cancel at %s: %d canceled, want %d", clockTime(at), call.n, len(able))
		}
		for _, m := range able {
			gone[m] = true
			if m.cancel != at {
				c.h.badf("canceled at %s was %s", clockTime(at), m.story())
			}
		}
	}
	for _, m := range c.messages {
		if m.cancel >= 0 && !gone[m] {
			c.h.badf("nobody canceled %s", m.story())
		}
	}
}

func (c *checker) storyOf(id string) string {
	if m := c.byID[id]; m != nil {
		return m.story()
	}
	return id
}

// acceptedAfter reports whether a message came after a cancel.
func (c *checker) acceptedAfter(m *message, call *cancelCall) bool {
	at := call.at.UnixMilli()
	if m.created != at {
		return m.created > at
	}
	if m.sent != nil {
		return m.sent.call > call.call
	}
	// A tick or a callback of that very moment: it came before, as nothing moved when the call was made, unless what it tells
	// of was a start that the cancel made room for.
	for _, list := range m.arrivals {
		for _, a := range list {
			if a.seq < call.call {
				return false
			}
		}
	}
	if m.source != nil {
		if t := m.source.arrivals[m.retried]; len(t) > 0 {
			return t[len(t)-1].endSeq > call.call
		}
	}
	return false
}

// vagueDelete reports whether the store failed while a queue was deleted.
func (h *history) vagueDelete(call *cancelCall) bool { return call.status != 200 }

// retries checks that every attempt begins when it is due, if nothing holds it back.
func (c *checker) retries() {
	for _, m := range c.messages {
		if m.queue != "" || len(m.keys) > 0 || c.h.bounded() {
			continue
		}
		for _, t := range m.tries {
			due := c.firstMoment(c.ripe(m, t.n))
			if t.active == due || c.troubled(due, t.active) {
				continue
			}
			if list := m.arrivals[t.n]; len(list) > 1 {
				continue // it was begun before, and cut off
			}
			c.h.badf("attempt %d was due at %s, of %s", t.n, clockTime(due), m.story())
		}
	}
}

// bounded reports whether messages may wait for room on the node, at a host or of the tenant.
func (h *history) bounded() bool {
	return h.plan.maxInFlight < 2048 || h.plan.maxPerHost < 2048 || h.plan.breakHosts || h.plan.tenantLimit > 0
}

// deadLetters compares the dead letter queue with the log.
func (c *checker) deadLetters() {
	var list []*deadEntry
	target := "/v2/dlq?count=" + fmt.Sprint([]int{3, 100}[c.now%2])
	for cursor := ""; ; {
		var page deadPage
		if !c.h.get(c.p, target+cursor, &page) {
			return
		}
		list = append(list, page.Messages...)
		if page.Cursor == "" {
			break
		}
		cursor = "&cursor=" + page.Cursor
	}
	there := map[string]*deadEntry{}
	for i, e := range list {
		if i > 0 && deadTime(e) < deadTime(list[i-1]) {
			c.h.badf("dead letter %s comes after %s", e.DeadID, list[i-1].DeadID)
		}
		m := c.byID[e.MessageID]
		if m == nil || m.final != "FAILED" {
			c.h.badf("dead letter %s of %s, which is not FAILED", e.DeadID, c.storyOf(e.MessageID))
			continue
		}
		if there[e.MessageID] != nil {
			c.h.badf("two dead letters of %s", m.story())
		}
		there[e.MessageID] = e
		last := m.tries[len(m.tries)-1]
		if deadTime(e) != m.finalAt || e.ResponseStatus != last.status || e.Body != m.body || e.URL != m.url || e.MaxRetries != m.MaxRetries {
			c.h.badf("dead letter %s is %+v, of %s", e.DeadID, e, m.story())
		}
		if known := c.h.deadOf(m.id); known != "" && known != e.DeadID {
			c.h.badf("the failure callback named the dead letter %s, there is %s", known, e.DeadID)
		}
	}
	taken := map[string]bool{} // message ids
	maybe := map[string]bool{}
	for _, call := range c.h.deadCalls {
		here := 0
		for _, e := range call.entries {
			if call.lost {
				maybe[e.MessageID] = true
			} else {
				taken[e.MessageID] = true
			}
			here += b2i(there[e.MessageID] != nil)
		}
		if call.lost && here != 0 && here != len(call.entries) && !c.h.laterTaken(call) {
			c.h.badf("of %d dead letters of a call that got no answer, %d are there", len(call.entries), here)
		}
	}
	for _, m := range c.messages {
		switch is := there[m.id] != nil; {
		case m.final == "FAILED" && !is && !taken[m.id] && !maybe[m.id]:
			c.h.badf("no dead letter of %s", m.story())
		case is && taken[m.id]:
			c.h.badf("the dead letter was taken, but is there: %s", m.story())
		}
	}
}

func deadTime(e *deadEntry) int64 {
	var ms, seq int64
	fmt.Sscanf(e.DeadID, "%d-%d", &ms, &seq) //nolint:errcheck // a malformed one is found by its time
	return ms
}

// laterTaken reports whether another call may have taken some of the dead letters of a lost one.
func (h *history) laterTaken(lost *deadCall) bool {
	for _, call := range h.deadCalls {
		if call == lost {
			continue
		}
		for _, e := range call.entries {
			if slices.Contains(lost.entries, e) || slices.ContainsFunc(lost.entries, func(o *deadEntry) bool { return o.DeadID == e.DeadID }) {
				return true
			}
		}
	}
	return false
}

// details compares what the API shows of messages and groups with what is true.
func (c *checker) details() {
	for i, m := range c.messages {
		if i%17 != int(c.now%17) {
			continue
		}
		var a struct {
			MessageID  string              `json:"messageId"`
			URL        string              `json:"url"`
			Method     string              `json:"method"`
			Header     map[string][]string `json:"header"`
			Body       string              `json:"body"`
			MaxRetries int                 `json:"maxRetries"`
			NotBefore  int64               `json:"notBefore"`
			CreatedAt  int64               `json:"createdAt"`
			QueueName  string              `json:"queueName"`
			TopicName  string              `json:"topicName"`
		}
		if !c.h.get(c.p, "/v2/messages/"+m.id, &a) {
			c.h.badf("there is no message %s", m)
			continue
		}
		if a.MessageID != m.id || a.URL != m.url || a.Method != m.Method || fmt.Sprint(a.Header) != fmt.Sprint(m.Header) || a.Body != m.body ||
			a.MaxRetries != m.MaxRetries || a.NotBefore != m.due || a.CreatedAt != m.created || a.QueueName != m.queue || a.TopicName != m.group {
			c.h.badf("message %s is %+v", m, a)
		}
	}
	var groups []struct {
		Name      string
		Endpoints []struct{ URL string }
	}
	if !c.h.get(c.p, "/v2/topics", &groups) {
		return
	}
	got := map[string]string{}
	for _, g := range groups {
		got[g.Name] = ""
		for _, e := range g.Endpoints {
			got[g.Name] += " " + e.URL
		}
	}
	for name, g := range c.h.groups {
		want := ""
		for _, u := range g.endpoints {
			want += " " + u
		}
		if got[name] != want {
			c.h.badf("group %s has%s, want%s", name, got[name], want)
		}
	}
}

// ended checks that nothing is left over.
func (c *checker) ended() {
	for _, m := range c.messages {
		if m.final == "" {
			c.h.badf("never resolved: %s", m.story())
		}
	}
	if n := len(c.h.net.inFlight()); n > 0 {
		c.h.badf("%d attempts run at the end", n)
	}
}
