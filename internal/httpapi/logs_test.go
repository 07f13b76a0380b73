package httpapi_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// An entry is a log entry as an answer shows it.
type entry struct {
	Time      int64  `json:"time"`
	MessageID string `json:"messageId"`
	State     string `json:"state"`
	URL       string `json:"url"`
	Topic     string `json:"topicName"`
	Schedule  string `json:"scheduleId"`
	Queue     string `json:"queueName"`
	CallerIP  string `json:"callerIP"`
	FlowKey   string `json:"flowControlKey"`
	Labels    []string

	whole string // all that it says
}

// UnmarshalJSON implements [json.Unmarshaler].
func (e *entry) UnmarshalJSON(b []byte) error {
	type plain entry
	e.whole = string(b)
	return json.Unmarshal(b, (*plain)(e))
}

func (e *entry) String() string { return fmt.Sprintf("%d %s %s", e.Time, e.MessageID, e.State) }

// pages reads a list of log entries page by page to its end.
func (s *stack) pages(target string, count int) []*entry {
	s.t.Helper()
	var all []*entry
	next := target + "&count=" + strconv.Itoa(count)
	for n := 0; ; n++ {
		var page struct {
			Events []*entry
			Cursor *string
		}
		r := s.get(next)
		if err := json.Unmarshal([]byte(r.body), &page); err != nil || page.Events == nil {
			s.t.Fatalf("GET %s: got %s, want a list", next, clip(r.body))
		}
		if len(page.Events) > count {
			s.t.Fatalf("GET %s: got %d entries, want at most %d", next, len(page.Events), count)
		}
		all = append(all, page.Events...)
		if page.Cursor == nil {
			return all
		}
		if *page.Cursor == "" || n > 100_000 {
			s.t.Fatalf("GET %s: got cursor %q on page %d", next, *page.Cursor, n)
		}
		next = target + "&count=" + strconv.Itoa(count) + "&cursor=" + url.QueryEscape(*page.Cursor)
	}
}

// A history is what happened on a stack: all log entries, as each message's own list shows them.
type history struct {
	entries []*entry // in no order
	ids     []string
	byID    map[string][]*entry
}

// makeHistory publishes messages of all kinds and lets them be delivered, retried, canceled and called back.
func makeHistory(s *stack, rng *rand.Rand, messages int) *history {
	s.t.Helper()
	pick := func(from ...string) string { return from[rng.IntN(len(from))] }
	s.must(step{do: "POST /v2/topics/group/endpoints", body: `{"endpoints":[{"url":"https://one.test/g","name":"one"},{"url":"https://two.test/g"}]}`})
	s.must(step{do: "POST /v2/schedules/https://sched.test/tick", header: []string{"Upstash-Schedule-Id: minutely", "Upstash-Cron: * * * * *", "Upstash-Retries: 0"}})
	s.dest.answers(func(r *received) answer {
		a := answer{status: 200}
		if n := len(r.header.Get("Upstash-Message-Id")) + int(r.at/time.Millisecond); n%3 == 0 || strings.Contains(r.url, "fail") {
			a = answer{status: 500, body: "broken"}
		}
		if strings.Contains(r.url, "now") {
			a.header = map[string][]string{"Retry-After": {"0"}}
		}
		if strings.Contains(r.url, "slow") {
			a.after = 20 * time.Millisecond
		}
		return a
	})
	var ids []string
	add := func(r *reply) {
		var walk func(v any)
		walk = func(v any) {
			switch v := v.(type) {
			case []any:
				for _, item := range v {
					walk(item)
				}
			case map[string]any:
				if id, ok := v["messageId"].(string); ok {
					ids = append(ids, id)
				}
			}
		}
		walk(r.value(s.t))
	}
	for range messages {
		s.remote = pick("203.0.113.7:1", "203.0.113.8:1", "[2001:db8::1]:1")
		destination := pick("https://one.test/a", "https://one.test/fail", "https://two.test:8443/fail/now", "https://slow.test/slow?x=1,2", "https://three.test", "group")
		header := []string{"Upstash-Retries: " + pick("0", "1", "3")}
		maybe := func(odds int, line string) {
			if rng.IntN(odds) == 0 {
				header = append(header, line)
			}
		}
		maybe(3, "Upstash-Label: "+pick("red", "green", "red,blue", "a b"))
		maybe(3, "Upstash-Callback: https://callback.test/"+pick("done", "fail"))
		maybe(3, "Upstash-Failure-Callback: https://callback.test/failed")
		if key := pick("k1", "k2", "", ""); key != "" {
			header = append(header, "Upstash-Flow-Control-Key: "+key, "Upstash-Flow-Control-Value: rate=20,parallelism=3,period=1")
		}
		path := "/v2/publish/"
		if rng.IntN(4) == 0 {
			path = "/v2/enqueue/" + pick("q1", "q2") + "/"
		} else {
			maybe(4, "Upstash-Delay: "+pick("1s", "2s", "1h"))
		}
		add(s.must(step{do: "POST " + path + destination, header: header, body: "body"}))
		if rng.IntN(8) == 0 {
			s.send(step{do: "DELETE /v2/messages/" + ids[rng.IntN(len(ids))]})
		}
		switch rng.IntN(4) {
		case 0:
			s.sleep(time.Duration(rng.IntN(2000)) * time.Millisecond)
		case 1:
			s.sleep(time.Duration(rng.IntN(2000)) * time.Microsecond)
		}
	}
	s.remote = "203.0.113.7:1"
	s.sleep(10 * time.Minute)
	s.must(step{do: "DELETE /v2/schedules/minutely"})
	s.must(step{do: "DELETE /v2/messages?label=red"})
	s.sleep(time.Minute)
	for _, r := range s.dest.take() { // callbacks and ticks
		ids = append(ids, s.name(r.header.Get("Upstash-Message-Id")))
	}
	slices.Sort(ids)
	h := &history{ids: slices.Compact(ids), byID: map[string][]*entry{}}
	for _, id := range h.ids {
		list := s.pages("/v2/events?order=earliestFirst&messageId="+id, 1000)
		if len(list) == 0 {
			s.t.Fatalf("got no log of %s", id)
		}
		h.byID[id] = list
		h.entries = append(h.entries, list...)
	}
	return h
}

// checkList compares a list that was read in pages with what should be in it.
func (h *history) checkList(t *testing.T, what string, got, want []*entry, earliestFirst bool) {
	t.Helper()
	left := map[string]int{}
	for _, e := range want {
		left[e.whole]++
	}
	perMessage := map[string][]*entry{}
	for i, e := range got {
		if left[e.whole]--; left[e.whole] < 0 {
			t.Errorf("%s: got %v twice, or although it does not match", what, e)
			return
		}
		if i > 0 && (earliestFirst && e.Time < got[i-1].Time || !earliestFirst && e.Time > got[i-1].Time) {
			t.Errorf("%s: got %v after %v", what, e, got[i-1])
		}
		perMessage[e.MessageID] = append(perMessage[e.MessageID], e)
	}
	missing := 0
	for _, e := range want {
		if left[e.whole] > 0 {
			if missing++; missing <= 3 {
				t.Errorf("%s: got no %v", what, e)
			}
		}
	}
	if missing > 0 {
		t.Errorf("%s: got %d entries, want %d", what, len(got), len(want))
		return
	}
	for _, id := range slices.Sorted(maps.Keys(perMessage)) {
		list := perMessage[id]
		if !earliestFirst {
			slices.Reverse(list)
		}
		in := func(e *entry) bool {
			return slices.ContainsFunc(list, func(o *entry) bool { return o.whole == e.whole })
		}
		own := slices.DeleteFunc(slices.Clone(h.byID[id]), func(e *entry) bool { return !in(e) })
		if fmt.Sprint(list) != fmt.Sprint(own) {
			t.Errorf("%s: got\n%v, want as in the message's own list\n%v", what, list, own)
			return
		}
	}
}

// TestLogPages: whatever the page's size and the order, no entry is left out and none comes twice.
func TestLogPages(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		h := makeHistory(s, rand.New(rand.NewPCG(1, 2)), 250)
		t.Logf("%d entries of %d messages", len(h.entries), len(h.ids))
		for _, order := range []string{"earliestFirst", "latestFirst"} {
			for _, count := range []int{1000, 333, 100, 17, 3, 1} {
				query, want := "order="+order, h.entries
				if count < 10 { // a part will do
					from := int64(bubbleStart + 4_000)
					query += fmt.Sprintf("&fromDate=%d&toDate=%d", from, from+3_000)
					want = slices.DeleteFunc(slices.Clone(want), func(e *entry) bool { return e.Time < from || e.Time > from+3_000 })
				}
				got := s.pages("/v2/events?"+query, count)
				h.checkList(t, fmt.Sprintf("%s in pages of %d", query, count), got, want, order == "earliestFirst")
			}
		}
	})
}

// A filter is a query parameter and what it means for an entry.
type filter struct {
	query   string
	matches func(e *entry) bool
}

// filters makes every filter that there is, with values of the history and values that nothing has.
func (h *history) filters(s *stack, rng *rand.Rand) []filter {
	oneOf := func(field func(e *entry) string, values ...string) func(e *entry) bool {
		return func(e *entry) bool { return slices.Contains(values, field(e)) }
	}
	message := func(e *entry) string { return e.MessageID }
	state := func(e *entry) string { return e.State }
	wholeURL := func(e *entry) string { return e.URL }
	topic := func(e *entry) string { return e.Topic }
	schedule := func(e *entry) string { return e.Schedule }
	queue := func(e *entry) string { return e.Queue }
	caller := func(e *entry) string { return e.CallerIP }
	flowKey := func(e *entry) string { return e.FlowKey }
	labels := func(values ...string) func(e *entry) bool {
		return func(e *entry) bool {
			return slices.ContainsFunc(e.Labels, func(l string) bool { return slices.Contains(values, l) })
		}
	}
	urls := func(of func(u *url.URL) string, values ...string) func(e *entry) bool {
		return func(e *entry) bool {
			u, err := url.Parse(e.URL)
			return err == nil && slices.Contains(values, of(u))
		}
	}
	host := func(u *url.URL) string { return strings.ToLower(u.Host) }
	path := func(u *url.URL) string { return u.Path }
	states := func(values ...string) func(e *entry) bool { return oneOf(state, values...) }
	a, b := h.ids[rng.IntN(len(h.ids))], h.ids[rng.IntN(len(h.ids))]
	last := h.entries[0].Time
	for _, e := range h.entries {
		last = max(last, e.Time)
	}
	from := bubbleStart + rng.Int64N(last-bubbleStart)
	to := from + rng.Int64N(60_000)
	return []filter{
		{"messageId=" + s.id(a), oneOf(message, a)},
		{"messageIds=" + s.id(a) + "," + s.id(b), oneOf(message, a, b)},
		{"messageIds=" + s.id(a) + "&messageIds=" + s.id(b), oneOf(message, a, b)},
		{"state=DELIVERED", states("DELIVERED")},
		{"state=CREATED", states("CREATED")},
		{"state=ACTIVE,ERROR", states("ACTIVE", "ERROR")},
		{"state=RETRY&state=FAILED", states("RETRY", "FAILED")},
		{"state=CANCELLED", states("CANCELED")},
		{"state=CANCELED,CANCEL_REQUESTED", states("CANCELED", "CANCEL_REQUESTED")},
		{"state=IN_PROGRESS", states("ACTIVE", "RETRY", "ERROR")},
		{"url=https://one.test/a", oneOf(wholeURL, "https://one.test/a")},
		{"url=https://slow.test/slow?x%3D1,2", oneOf(wholeURL, "https://slow.test/slow?x=1,2")},
		{"url=https://one.test/a,https://three.test", oneOf(wholeURL, "https://one.test/a", "https://three.test")},
		{"url=https://one.test", oneOf(wholeURL, "https://one.test")},
		{"topicName=group", oneOf(topic, "group")},
		{"urlGroup=group", oneOf(topic, "group")},
		{"topicName=group,other", oneOf(topic, "group", "other")},
		{"scheduleId=minutely", oneOf(schedule, "minutely")},
		{"queueName=q1", oneOf(queue, "q1")},
		{"queueName=q1,q2", oneOf(queue, "q1", "q2")},
		{"queueName=Q1", oneOf(queue, "Q1")},
		{"label=red", labels("red")},
		{"label=blue&label=green", labels("blue", "green")},
		{"label=a+b", labels("a b")},
		{"label=none", labels("none")},
		{"host=one.test", urls(host, "one.test")},
		{"host=TWO.test:8443,three.test", urls(host, "two.test:8443", "three.test")},
		{"host=two.test", urls(host, "two.test")},
		{"path=/fail", urls(path, "/fail")},
		{"path=/slow,/g", urls(path, "/slow", "/g")},
		{"callerIp=203.0.113.8", oneOf(caller, "203.0.113.8")},
		{"callerIp=203.0.113.8&callerIP=2001:db8::1", oneOf(caller, "203.0.113.8", "2001:db8::1")},
		{"flowControlKey=k1", oneOf(flowKey, "k1")},
		{"flowControlKey=k1,k2", oneOf(flowKey, "k1", "k2")},
		{fmt.Sprintf("fromDate=%d", from), func(e *entry) bool { return e.Time >= from }},
		{fmt.Sprintf("toDate=%d", to), func(e *entry) bool { return e.Time <= to }},
		{fmt.Sprintf("fromDate=%d&toDate=%d", from, to), func(e *entry) bool { return e.Time >= from && e.Time <= to }},
		{fmt.Sprintf("fromDate=%d&toDate=%d", to+1, from), func(*entry) bool { return false }},
		{"api=llm", func(*entry) bool { return true }},
		{"unknown=x&qstash_token=alice", func(*entry) bool { return true }},
	}
}

// TestLogFilters: every filter, alone and together with others, gives what a look at all entries gives.
func TestLogFilters(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		rng := rand.New(rand.NewPCG(3, 4))
		h := makeHistory(s, rng, 120)
		try := func(filters ...filter) {
			t.Helper()
			var query []string
			for _, f := range filters {
				query = append(query, f.query)
			}
			order := []string{"earliestFirst", "latestFirst"}[rng.IntN(2)]
			if order == "earliestFirst" || rng.IntN(2) == 0 {
				query = append(query, "order="+order)
			}
			want := slices.DeleteFunc(slices.Clone(h.entries), func(e *entry) bool {
				return slices.ContainsFunc(filters, func(f filter) bool { return !f.matches(e) })
			})
			count := max(len(want)/5, 5)
			what := strings.Join(query, "&")
			h.checkList(t, what, s.pages("/v2/events?"+what, count), want, order == "earliestFirst")
		}
		for _, f := range h.filters(s, rng) {
			try(f)
		}
		for range 80 {
			all := h.filters(s, rng)
			i, j := rng.IntN(len(all)), rng.IntN(len(all))
			// Values of one parameter are alternatives, so only different ones restrict each other.
			name := func(f filter) string {
				n, _, _ := strings.Cut(f.query, "=")
				for _, same := range []string{"messageId", "callerI", "topicName"} {
					if strings.HasPrefix(n, same) {
						return same
					}
				}
				if n == "urlGroup" {
					return "topicName"
				}
				if strings.HasSuffix(n, "Date") {
					return "date"
				}
				return n
			}
			if name(all[i]) != name(all[j]) {
				try(all[i], all[j])
			}
		}
	})
}
