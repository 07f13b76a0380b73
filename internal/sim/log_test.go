package sim

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// entry is a log entry as the API shows it.
type entry struct {
	Time             int64               `json:"time"`
	MessageID        string              `json:"messageId"`
	State            string              `json:"state"`
	URL              string              `json:"url"`
	Error            string              `json:"error"`
	NextDeliveryTime int64               `json:"nextDeliveryTime"`
	TopicName        string              `json:"topicName"`
	ScheduleID       string              `json:"scheduleId"`
	QueueName        string              `json:"queueName"`
	Method           string              `json:"method"`
	Header           map[string][]string `json:"header"`
	Body             string              `json:"body"`
	ResponseStatus   int                 `json:"responseStatus"`
	ResponseBody     []byte              `json:"responseBody"`
	Timeout          int64               `json:"timeout"`
	Callback         string              `json:"callback"`
	FailureCallback  string              `json:"failureCallback"`
	MaxRetries       int                 `json:"maxRetries"`
	Labels           []string            `json:"labels"`
	Key              string              `json:"flowControlKey"`
	Parallelism      int                 `json:"parallelism"`
	Rate             int                 `json:"rate"`
	Period           int64               `json:"period"`
	Keys             []entryFlow         `json:"flowControlKeys"`
	Priority         int                 `json:"priority"`
	CallerIP         string              `json:"callerIP"`
}

type entryFlow struct {
	Key         string `json:"flowControlKey"`
	Parallelism int    `json:"parallelism"`
	Rate        int    `json:"rate"`
	Period      int64  `json:"period"`
}

func (e *entry) place() string {
	return fmt.Sprintf("%d %s %s %d", e.Time, e.MessageID, e.State, e.NextDeliveryTime)
}

// message is what the log tells of a message. Times are milliseconds of the server's clock.
type message struct {
	*entry   // CREATED
	id       string
	url      string
	group    string
	schedule string
	queue    string
	queueGen int // -1: not known
	labels   []string
	keys     []string
	body     string
	created  int64
	due      int64
	entries  []*entry
	tries    []*try
	cancel   int64 // when a cancel was requested; -1: never
	final    string
	finalAt  int64

	arrivals  map[int][]*attempt
	sent      *sent
	item      *item
	source    *message // callbacks only
	callbacks []*message
	retried   int // callbacks only: of the attempt that it tells of
}

// try is an attempt as the log tells of it.
type try struct {
	n           int
	active, end int64  // end is -1 while it runs
	state       string // what it led to: DELIVERED, RETRY, FAILED, CANCELED
	status      int
	body        []byte
	next        int64
	error       string
}

func (m *message) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s", m.id, labelOf(m.url, []byte(m.body)))
	for _, s := range []string{m.queue, m.group, m.schedule, strings.Join(m.keys, "+")} {
		if s != "" {
			b.WriteString(" " + s)
		}
	}
	b.WriteString(")")
	return b.String()
}

// story is the log of a message, for reports.
func (m *message) story() string {
	var b strings.Builder
	b.WriteString(m.String())
	for _, e := range m.entries {
		fmt.Fprintf(&b, "\n      %s %s", clockTime(e.Time), e.State)
		if e.NextDeliveryTime != 0 {
			fmt.Fprintf(&b, " → %s", clockTime(e.NextDeliveryTime))
		}
		if e.ResponseStatus != 0 {
			fmt.Fprintf(&b, " %d", e.ResponseStatus)
		}
	}
	for n := range 1 + len(m.arrivals) {
		for _, a := range m.arrivals[n] {
			fmt.Fprintf(&b, "\n      seen: attempt %d at %s #%d of node %d life %d", a.retried, clockTime(a.at.UnixMilli()), a.seq, a.process.node, a.process.life)
			switch {
			case a.endSeq == 0:
				b.WriteString(", runs")
			case a.cutOff:
				fmt.Fprintf(&b, ", cut off at %s #%d", clockTime(a.ended.UnixMilli()), a.endSeq)
			case a.whole:
				fmt.Fprintf(&b, ", answered %d at %s #%d", a.answer.status, clockTime(a.ended.UnixMilli()), a.endSeq)
			default:
				fmt.Fprintf(&b, ", broken at %s #%d", clockTime(a.ended.UnixMilli()), a.endSeq)
			}
		}
	}
	return b.String()
}

// clockTime shows a time as minutes and seconds since the beginning of the bubble.
func clockTime(ms int64) string {
	ms -= 946684800000
	return fmt.Sprintf("%d:%06.3f", ms/60000, float64(ms%60000)/1000)
}

type eventPage struct {
	Events []*entry `json:"events"`
	Cursor string   `json:"cursor"`
}

// readLog reads the whole log. ok is false if the store is out of order.
func (c *checker) readLog(query url.Values) (all []*entry, ok bool) {
	for n := 0; ; n++ {
		var page eventPage
		if !c.h.get(c.p, "/v2/events?"+query.Encode(), &page) {
			return nil, false
		}
		all = append(all, page.Events...)
		if page.Cursor == "" {
			return all, true
		}
		if n > 5000 {
			c.h.badf("the log has no end")
			return nil, false
		}
		query.Set("cursor", page.Cursor)
	}
}

// read builds the messages from the log.
func (c *checker) read() bool {
	all, ok := c.readLog(url.Values{"order": {"earliestFirst"}, "count": {"1000"}})
	if !ok {
		return false
	}
	if c.final {
		c.comparePages(all)
	}
	byID := map[string]*message{}
	for i, e := range all {
		if i > 0 && e.Time < all[i-1].Time {
			c.h.badf("the log is out of order: %s after %s", e.place(), all[i-1].place())
		}
		m := byID[e.MessageID]
		if m == nil {
			m = &message{id: e.MessageID, cancel: -1, finalAt: -1, arrivals: map[int][]*attempt{}}
			byID[e.MessageID] = m
			c.messages = append(c.messages, m)
		}
		m.entries = append(m.entries, e)
	}
	c.byID = byID
	for _, m := range c.messages {
		c.parse(m)
	}
	return true
}

// comparePages compares other ways to read the log with the first one.
func (c *checker) comparePages(all []*entry) {
	places := func(list []*entry) []string {
		var s []string
		for _, e := range list {
			s = append(s, e.place())
		}
		return s
	}
	want := places(all)
	count := fmt.Sprint([]int{7, 23, 100, 1000}[len(all)%4])
	if down, ok := c.readLog(url.Values{"count": {count}}); ok {
		slices.Reverse(down)
		if d := difference(places(down), want); d != "" {
			c.h.badf("the log read from its end in pages of %s differs: %s", count, d)
		}
	}
	if len(all) == 0 {
		return
	}
	c.compareFilters(all, places)
	e := all[len(all)*3/7]
	var of []*entry
	for _, o := range all {
		if o.MessageID == e.MessageID {
			of = append(of, o)
		}
	}
	if list, ok := c.readLog(url.Values{"order": {"earliestFirst"}, "messageId": {e.MessageID}, "count": {"3"}}); ok {
		if d := difference(places(list), places(of)); d != "" {
			c.h.badf("the log of one message differs: %s", d)
		}
	}
}

// compareFilters compares what filters let through.
func (c *checker) compareFilters(all []*entry, places func([]*entry) []string) {
	e := all[len(all)/3]
	for _, f := range []struct {
		name, value string
		match       func(*entry) bool
	}{
		{"state", e.State, func(o *entry) bool { return o.State == e.State }},
		{"queueName", "q0", func(o *entry) bool { return o.QueueName == "q0" }},
		{"label", "l1", func(o *entry) bool { return slices.Contains(o.Labels, "l1") }},
		{"url", e.URL, func(o *entry) bool { return o.URL == e.URL }},
		{"scheduleId", "s0", func(o *entry) bool { return o.ScheduleID == "s0" }},
		{"host", "d1.sim", func(o *entry) bool { return strings.HasPrefix(o.URL, "http://d1.sim/") }},
		{"fromDate", fmt.Sprint(e.Time), func(o *entry) bool { return o.Time >= e.Time }},
		{"toDate", fmt.Sprint(e.Time), func(o *entry) bool { return o.Time <= e.Time }},
	} {
		list, ok := c.readLog(url.Values{"order": {"earliestFirst"}, "count": {fmt.Sprint(1 + len(all)/2)}, f.name: {f.value}})
		if !ok {
			return
		}
		var want []*entry
		for _, o := range all {
			if f.match(o) {
				want = append(want, o)
			}
		}
		if d := difference(places(list), places(want)); d != "" {
			c.h.badf("the log with %s=%s: %s", f.name, f.value, d)
		}
	}
}

func difference(got, want []string) string {
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			return fmt.Sprintf("%d entries, want %d: %s is missing", len(got), len(want), want[i])
		case i >= len(want):
			return fmt.Sprintf("%d entries, want %d: there is %s", len(got), len(want), got[i])
		case got[i] != want[i]:
			return fmt.Sprintf("entry %d is %s, want %s", i, got[i], want[i])
		}
	}
	return ""
}

// parse holds the entries of a message to the order that is legal, and takes its attempts from them.
func (c *checker) parse(m *message) {
	bad := func(format string, a ...any) {
		c.h.badf("log of %s: %s", m.story(), fmt.Sprintf(format, a...))
	}
	first := m.entries[0]
	if first.State != "CREATED" {
		m.entry = first
		bad("it begins with %s", first.State)
		return
	}
	m.entry = first
	m.url, m.group, m.schedule, m.queue, m.labels = first.URL, first.TopicName, first.ScheduleID, first.QueueName, first.Labels
	body, err := base64.StdEncoding.DecodeString(first.Body)
	if err != nil {
		bad("body %q: %v", first.Body, err)
	}
	m.body = string(body)
	m.created, m.due = first.Time, max(first.Time, first.NextDeliveryTime)
	if first.Key != "" {
		m.keys = []string{first.Key}
		for _, f := range first.Keys {
			if !slices.Contains(m.keys, f.Key) {
				m.keys = append(m.keys, f.Key)
			}
		}
	}
	var running *try
	failed := false // ERROR came, and what it led to not yet
	for _, e := range m.entries[1:] {
		if m.final != "" {
			bad("%s after the end", e.State)
			return
		}
		if failed && e.State != "RETRY" && e.State != "FAILED" && e.State != "CANCELED" {
			bad("%s after ERROR", e.State)
			return
		}
		switch e.State {
		case "ACTIVE":
			if running != nil {
				bad("two attempts run")
				return
			}
			if m.cancel >= 0 && m.cancel < e.Time {
				bad("an attempt begins after a cancel")
			}
			running = &try{n: len(m.tries), active: e.Time, end: -1}
			m.tries = append(m.tries, running)
			if running.n > first.MaxRetries {
				bad("%d attempts with %d retries", len(m.tries), first.MaxRetries)
			}
			if from := c.ripe(m, running.n); e.Time < from {
				bad("attempt %d begins before %s", running.n, clockTime(from))
			}
		case "ERROR":
			if running == nil {
				bad("ERROR without an attempt")
				return
			}
			failed = true
			running.end, running.status, running.body, running.error = e.Time, e.ResponseStatus, e.ResponseBody, e.Error
		case "RETRY":
			if !failed {
				bad("RETRY without ERROR")
				return
			}
			if m.cancel >= 0 && m.cancel < e.Time {
				bad("RETRY after a cancel")
			}
			running.state, running.next = "RETRY", e.NextDeliveryTime
			running, failed = nil, false
		case "FAILED", "DELIVERED":
			if (e.State == "FAILED") != failed || running == nil {
				bad("%s at the wrong place", e.State)
				return
			}
			if e.State == "FAILED" && m.cancel >= 0 && m.cancel < e.Time {
				bad("FAILED after a cancel")
			}
			running.state, running.end = e.State, e.Time
			running, failed = nil, false
			m.final, m.finalAt = e.State, e.Time
		case "CANCEL_REQUESTED":
			if m.cancel >= 0 {
				bad("two cancels")
			}
			m.cancel = e.Time
		case "CANCELED":
			if m.cancel < 0 {
				bad("CANCELED without a cancel")
			}
			if running != nil && !failed {
				bad("CANCELED while an attempt runs")
			}
			if running != nil {
				running.state = "CANCELED"
				running, failed = nil, false
			} else if m.cancel != e.Time && !c.cutOffBy(m, e.Time) {
				bad("CANCELED long after the cancel")
			}
			m.final, m.finalAt = "CANCELED", e.Time
		default:
			bad("the state %s", e.State)
		}
	}
	if failed {
		bad("it ends with ERROR")
	}
}

// ripe returns when an attempt may begin.
func (c *checker) ripe(m *message, n int) int64 {
	if n == 0 {
		return m.due
	}
	return m.tries[n-1].next
}
