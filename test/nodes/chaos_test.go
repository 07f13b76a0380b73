//go:build nodes

package nodes

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/posthaste/posthaste/internal/store/postgres/postgrestest"
)

// A message is what was published and what came of it.
type message struct {
	key   string // of the destination
	query string
	head  string
	path  string // of the request, before the destination
	queue *line
	index int // in its queue
	flow  *flow
	dedup string
	delay time.Duration

	mu       sync.Mutex
	sent     time.Time
	id       string
	unknown  bool // some request for it had no answer
	repeated int  // requests made
}

// A line is a queue with one publisher, so that the order of acceptance is known.
type line struct {
	name        string
	parallelism int
}

// A flow is a flow key.
type flow struct {
	name        string
	parallelism int
	rate        int
	period      time.Duration
}

// TestChaos has three nodes work while they are killed, one after another, one of them is stopped for longer than its lease and goes
// on, and the database crashes.
func TestChaos(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	f := start(t, 3, postgrestest.Options{Durable: true})
	r := newReceiver(t)
	total := *messagesFlag

	var lines []*line
	for i := range 8 {
		lines = append(lines, &line{name: fmt.Sprintf("queue-%d", i), parallelism: 1 + i%2})
		f.ok(f.nodes[i%3], http.MethodPost, "/v2/queues", "", fmt.Sprintf(`{"queueName":"queue-%d","parallelism":%d}`, i, 1+i%2))
	}
	flows := []*flow{
		{name: "parallel-2", parallelism: 2}, {name: "parallel-4", parallelism: 4},
		{name: "rate-40", rate: 40, period: time.Second}, {name: "both", parallelism: 3, rate: 100, period: 2 * time.Second},
	}
	schedules := []string{"tick-a", "tick-b"}
	const tickDelay = 2 * time.Second
	begun := time.Now()
	for i, name := range schedules {
		f.ok(f.nodes[i], http.MethodPost, "/v2/schedules/"+r.URL+"/"+name,
			fmt.Sprintf("Upstash-Cron: @every 1s|Upstash-Schedule-Id: %s|Upstash-Delay: %s", name, tickDelay), "")
	}

	// The load: a publisher for each queue, and some for the rest.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	var mu sync.Mutex
	var messages []*message
	add := func(m *message) *message {
		mu.Lock()
		defer mu.Unlock()
		messages = append(messages, m)
		return m
	}
	var publishers sync.WaitGroup
	for i, q := range lines {
		own := rand.New(rand.NewPCG(seed, uint64(i)+1))
		publishers.Go(func() {
			for i := range total / 5 / len(lines) {
				m := add(&message{key: fmt.Sprintf("%s-%d", q.name, i), path: "/v2/enqueue/" + q.name + "/", queue: q, index: i})
				m.shape(own, 20)
				f.publish(ctx, r, m)
			}
		})
	}
	var dedups []*message
	for i := range 16 {
		own := rand.New(rand.NewPCG(seed, uint64(i)+100))
		publishers.Go(func() {
			for n := range (total - total/5) / 16 {
				m := &message{key: fmt.Sprintf("m-%d-%d", i, n), path: "/v2/publish/"}
				switch k := own.IntN(100); {
				case k < 25:
					m.flow = flows[own.IntN(len(flows))]
					m.head = m.flow.header()
				case k < 35:
					m.delay = time.Duration(1+own.IntN(4)) * time.Second
					m.head = fmt.Sprintf("Upstash-Delay: %s", m.delay)
				case k < 45:
					m.dedup = m.key
					m.head = "Upstash-Deduplication-Id: " + m.key
				}
				m.shape(own, 12)
				add(m)
				f.publish(ctx, r, m)
				if m.dedup != "" {
					mu.Lock()
					dedups = append(dedups, m)
					mu.Unlock()
					f.publish(ctx, r, m) // by another node, most probably
				}
			}
		})
	}
	loaded := make(chan struct{})
	go func() { publishers.Wait(); close(loaded) }()

	f.disturb(ctx, rng, loaded)
	publishers.Wait()
	for _, name := range schedules {
		f.ok(f.nodes[0], http.MethodDelete, "/v2/schedules/"+name, "", "")
	}
	ended := time.Now()
	f.drain(ctx, t)

	a := &account{f: f, messages: messages, deliveries: r.deliveries()}
	a.read(t)
	a.check(t)
	for _, q := range lines {
		a.checkLine(t, q)
	}
	for _, fl := range flows {
		a.checkFlow(t, fl)
	}
	for _, name := range schedules {
		a.checkTicks(t, r.URL+"/"+name, tickDelay, begun, ended)
	}
	t.Logf("%d messages, %d deliveries of which %d were repeated, %d lives, %d incidents, %v of load",
		len(messages), len(a.deliveries), a.repeated, f.lives, len(f.incidents), ended.Sub(begun).Round(time.Second))
	if a.repeated == 0 {
		t.Error("nothing was cut off, so nothing was tested")
	}
}

// shape makes some messages slow, and some fail at first.
func (m *message) shape(rng *rand.Rand, most int) {
	q := url.Values{}
	if rng.IntN(3) == 0 {
		q.Set("wait", (time.Duration(rng.IntN(most)) * time.Millisecond).String())
	}
	if rng.IntN(15) == 0 {
		q.Set("fail", "1")
		m.head += "|Upstash-Retry-Delay: 200"
	}
	if len(q) > 0 {
		m.query = "?" + q.Encode()
	}
}

func (fl *flow) header() string {
	var parts []string
	if fl.parallelism > 0 {
		parts = append(parts, fmt.Sprintf("parallelism=%d", fl.parallelism))
	}
	if fl.rate > 0 {
		parts = append(parts, fmt.Sprintf("rate=%d,period=%s", fl.rate, fl.period))
	}
	return "Upstash-Flow-Control-Key: " + fl.name + "|Upstash-Flow-Control-Value: " + strings.Join(parts, ",")
}

// publish sends a message until it is accepted, or until a request had no answer and a repetition could make a second message.
func (f *farm) publish(ctx context.Context, r *receiver, m *message) {
	for ctx.Err() == nil {
		m.mu.Lock()
		if m.repeated++; m.sent.IsZero() {
			m.sent = time.Now()
		}
		m.mu.Unlock()
		status, answer, err := f.call(ctx, http.MethodPost, m.path+r.URL+"/"+m.key+m.query, lines(m.head), "{}")
		switch {
		case errors.Is(err, errUnsent) || err == nil && status == http.StatusServiceUnavailable:
			// A node that cannot commit says so, and nothing is stored; or the outcome is unknown, and it says so, too.
			if err == nil && strings.Contains(string(answer), "not known") {
				m.mu.Lock()
				m.unknown = true
				m.mu.Unlock()
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
			if m.unknown && m.dedup == "" {
				return
			}
			continue
		case err != nil:
			m.mu.Lock()
			m.unknown = true
			m.mu.Unlock()
			if m.dedup != "" {
				continue // it can be repeated safely
			}
			return
		case status < 200 || status > 299:
			f.t.Errorf("publish %s: %d %s", m.key, status, answer)
			return
		}
		var got struct {
			ID string `json:"messageId"`
		}
		if err := json.Unmarshal(answer, &got); err != nil || got.ID == "" {
			f.t.Errorf("publish %s: %s, %v", m.key, answer, err)
			return
		}
		m.mu.Lock()
		if m.id != "" && m.id != got.ID {
			f.t.Errorf("publishes with the deduplication id %s were told %s and %s", m.dedup, m.id, got.ID)
		}
		m.id = got.ID
		m.mu.Unlock()
		return
	}
}

// disturb kills, stops and crashes until the load is published, and at least once each.
func (f *farm) disturb(ctx context.Context, rng *rand.Rand, loaded <-chan struct{}) {
	sleep := func(d time.Duration) {
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
	for step := 0; ; step++ {
		sleep(time.Duration(1500+rng.IntN(1500)) * time.Millisecond)
		n := f.nodes[rng.IntN(len(f.nodes))]
		switch step {
		case 2:
			end := f.note("stop", n.life)
			n.signal(syscall.SIGSTOP)
			sleep(lease + lease/2)
			n.signal(syscall.SIGCONT)
			end()
		case 4:
			end := f.note("crash of the database", 0)
			if err := f.db.Stop("immediate"); err != nil {
				f.t.Error(err)
			}
			sleep(500 * time.Millisecond)
			if err := f.db.Launch(); err != nil {
				f.t.Fatal(err)
			}
			end()
		default:
			end := f.note("kill", n.life)
			n.end(syscall.SIGKILL)
			end()
			sleep(200 * time.Millisecond)
			if err := n.start(); err != nil {
				f.t.Fatal(err)
			}
		}
		if ctx.Err() != nil {
			f.t.Fatal("the load was not published in time")
		}
		if step >= 6 {
			select {
			case <-loaded:
				return
			default:
			}
		}
	}
}

// drain waits until no message is pending.
func (f *farm) drain(ctx context.Context, t *testing.T) {
	t.Helper()
	conn, err := pgx.Connect(ctx, f.db.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	last, at := -1, time.Now()
	for {
		var n int
		if err := conn.QueryRow(ctx, "SELECT count(*) FROM tickets").Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return
		}
		if n != last {
			last, at = n, time.Now()
		}
		if time.Since(at) > 5*lease {
			t.Errorf("%d messages stay pending", n)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// A logEntry is one entry of the log.
type logEntry struct {
	Time  int64  `json:"time"`
	ID    string `json:"messageId"`
	State string `json:"state"`
	URL   string `json:"url"`
	Flow  string `json:"flowControlKey"`
	Next  int64  `json:"nextDeliveryTime"`
}

// An account is all that is known in the end.
type account struct {
	f          *farm
	messages   []*message
	deliveries []*delivery
	log        map[string][]logEntry // by message
	byKey      map[string][]string   // ids of messages, by destination
	byID       map[string][]*delivery
	repeated   int
}

// read reads the log, each page from another node.
func (a *account) read(t *testing.T) {
	t.Helper()
	a.log, a.byKey, a.byID = map[string][]logEntry{}, map[string][]string{}, map[string][]*delivery{}
	q := url.Values{"order": {"earliestFirst"}, "count": {"1000"}}
	for i := 0; ; i++ {
		var page struct {
			Events []logEntry `json:"events"`
			Cursor string     `json:"cursor"`
		}
		if err := json.Unmarshal(a.f.ok(a.f.nodes[i%3], http.MethodGet, "/v2/events?"+q.Encode(), "", ""), &page); err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Events {
			if len(a.log[e.ID]) == 0 {
				u, _ := url.Parse(e.URL)
				key := strings.Trim(u.Path, "/")
				a.byKey[key] = append(a.byKey[key], e.ID)
			}
			a.log[e.ID] = append(a.log[e.ID], e)
		}
		if page.Cursor == "" {
			break
		}
		q.Set("cursor", page.Cursor)
	}
	for _, d := range a.deliveries {
		a.byID[d.id] = append(a.byID[d.id], d)
	}
}

func states(log []logEntry) (s []string) {
	for _, e := range log {
		s = append(s, e.State)
	}
	return s
}

// check sees to it that nothing is lost, made twice or repeated without a reason.
func (a *account) check(t *testing.T) {
	t.Helper()
	for _, m := range a.messages {
		ids := a.byKey[m.key]
		switch {
		case m.id != "" && !slices.Contains(ids, m.id):
			t.Errorf("%s was accepted as %s, which is lost", m.key, m.id)
			continue
		case len(ids) > 1 && (m.dedup != "" || m.repeated == 1):
			t.Errorf("%s was published %d times and made %v", m.key, m.repeated, ids)
		}
		for _, id := range ids {
			want := []string{"CREATED", "ACTIVE", "DELIVERED"}
			if strings.Contains(m.query, "fail=1") {
				want = []string{"CREATED", "ACTIVE", "ERROR", "RETRY", "ACTIVE", "DELIVERED"}
			}
			if got := states(a.log[id]); !slices.Equal(got, want) {
				t.Errorf("%s, %s: got the log %v, want %v", m.key, id, got, want)
			}
			if !slices.ContainsFunc(a.byID[id], func(d *delivery) bool { return d.status == http.StatusOK }) {
				t.Errorf("%s, %s: it is DELIVERED, and its destination knows nothing of it", m.key, id)
			}
			for _, d := range a.byID[id] {
				if m.delay > 0 && d.arrived.Before(m.sent.Add(m.delay)) {
					t.Errorf("%s arrived %v too early", m.key, m.sent.Add(m.delay).Sub(d.arrived))
				}
			}
		}
	}
	type attempt struct {
		id      string
		retried int
	}
	by := map[attempt][]*delivery{}
	for _, d := range a.deliveries {
		if a.log[d.id] == nil {
			t.Errorf("%s was delivered as %s, which the log does not know", d.key, d.id)
		}
		by[attempt{d.id, d.retried}] = append(by[attempt{d.id, d.retried}], d)
	}
	for k, list := range by {
		a.repeated += len(list) - 1
		var unexplained []string
		for _, d := range list {
			if a.f.explains(d.life, d.arrived) == nil {
				unexplained = append(unexplained, fmt.Sprintf("life %d at %s", d.life, d.arrived.Format("05.000")))
			}
		}
		if len(list) > 1 && len(unexplained) > 1 {
			t.Errorf("attempt %d of %s was made %d times, without a reason: %v", k.retried, k.id, len(list), unexplained)
		}
	}
}

// checkLine sees to it that a queue starts its messages in order and has no more open than it may.
func (a *account) checkLine(t *testing.T, q *line) {
	t.Helper()
	type span struct {
		index    int
		from, to time.Time
	}
	var spans []span
	for _, m := range a.messages {
		if m.queue != q || m.id == "" || len(a.byKey[m.key]) != 1 {
			continue // without an answer, its place is not known
		}
		s := span{index: m.index}
		for _, d := range a.byID[m.id] {
			if s.from.IsZero() {
				s.from = d.arrived
			}
			if s.to.IsZero() && d.status == http.StatusOK {
				s.to = d.answered
			}
		}
		if !s.to.IsZero() {
			spans = append(spans, s)
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.index, b.index) })
	if len(spans) < 10 {
		t.Errorf("%s: %d messages are too few to show anything", q.name, len(spans))
	}
	for i, s := range spans {
		ahead := 0
		for _, o := range spans[:i] {
			if o.to.After(s.from) {
				ahead++
			}
		}
		if ahead >= q.parallelism {
			t.Errorf("%s: number %d began while %d before it were not finished", q.name, s.index, ahead)
		}
	}
}

// checkFlow holds a key to its limits, with what the log and the destination can tell: attempts that were cut off may still run at the
// destination.
func (a *account) checkFlow(t *testing.T, fl *flow) {
	t.Helper()
	var starts []int64
	for _, log := range a.log {
		for _, e := range log {
			if e.State == "ACTIVE" && e.Flow == fl.name {
				starts = append(starts, e.Time)
			}
		}
	}
	slices.Sort(starts)
	if len(starts) < 10 {
		t.Errorf("%s: %d starts are too few to show anything", fl.name, len(starts))
	}
	if fl.rate > 0 {
		// In any period lie parts of two windows at most.
		for i := 2 * fl.rate; i < len(starts); i++ {
			if starts[i]-starts[i-2*fl.rate] < fl.period.Milliseconds()-1 {
				t.Errorf("%s: %d starts in less than %v", fl.name, 2*fl.rate+1, fl.period)
				break
			}
		}
	}
	if fl.parallelism == 0 {
		return
	}
	type edge struct {
		at    time.Time
		delta int
	}
	var edges []edge
	flowOf := map[string]bool{}
	for _, m := range a.messages {
		if m.flow == fl {
			flowOf[m.key] = true
		}
	}
	for _, d := range a.deliveries {
		if flowOf[d.key] && d.status != 0 && a.f.explains(d.life, d.arrived) == nil {
			edges = append(edges, edge{d.arrived, 1}, edge{d.answered, -1})
		}
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.delta, b.delta)) })
	n := 0
	for _, e := range edges {
		if n += e.delta; n > fl.parallelism {
			t.Errorf("%s: %d attempts at the same time", fl.name, n)
			return
		}
	}
}

// checkTicks sees to it that each tick of a schedule of one second made one message. While the database was away and a little longer
// there may be none.
func (a *account) checkTicks(t *testing.T, target string, delay time.Duration, begun, ended time.Time) {
	t.Helper()
	fired := map[int64]int{}
	for _, log := range a.log {
		if e := log[0]; e.URL == target {
			at := e.Next - delay.Milliseconds()
			if fired[at]++; fired[at] > 1 {
				t.Errorf("%s: the tick at %d made %d messages", target, at, fired[at])
			}
		}
	}
	if want := int(ended.Sub(begun).Seconds()) - 2; len(fired) < want {
		t.Errorf("%s: got %d ticks in %v, want at least %d", target, len(fired), ended.Sub(begun), want)
	}
	if len(fired) == 0 {
		t.Fatal("no tick fired: " + strconv.Itoa(len(a.log)))
	}
}
