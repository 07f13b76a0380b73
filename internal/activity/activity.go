// Package activity keeps what a tenant's messages did over the last week, as counts by time: for the charts of the console.
//
// Counting happens as things happen, in memory and in constant space per tenant; nothing is written. What was before the
// start of the process is read once from the log, backwards and in small steps, when somebody first asks about a tenant. So
// the figures are those of this node from its start on, and those of all nodes before.
package activity

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/compose"
	"github.com/posthaste/posthaste/internal/store"
)

// Range is a stretch of time that ends now.
type Range struct {
	Step  time.Duration
	Steps int
}

// The ranges that are kept.
var (
	Hour = Range{time.Minute, 60}
	Day  = Range{5 * time.Minute, 288}
	Week = Range{time.Hour, 168}
)

var ranges = []Range{Hour, Day, Week}

// Bounds of what is kept.
const (
	maxTenants   = 512
	maxHosts     = 256  // of a tenant
	maxEndpoints = 4096 // of a tenant
	recent       = 20   // outcomes of an endpoint
	maxBackfill  = 400_000
	backlogStep  = 1000
	maxBacklog   = 5000   // of a tenant that is counted
	maxSample    = 20_000 // messages that are counted in one round, over all tenants
	sampleEvery  = 10 * time.Second
)

// Point is what happened in one step of time.
type Point struct {
	At        time.Time // when the step begins
	Accepted  int64
	Delivered int64
	Failed    int64
	Retried   int64 // attempts that failed with another to follow
	Waiting   int64 // messages that were not resolved, when last counted; -1: not counted
	Latency   Latency
}

// Host is how a destination fared.
type Host struct {
	Name     string
	Attempts int64
	Failures int64
}

// Report is what happened in a range, and the sums.
type Report struct {
	Points  []Point // the oldest first
	Total   Point   // At and Waiting do not count
	Hosts   []Host  // that failed, the worst first
	Partial bool    // what was before the start is still being read
}

// SuccessRate returns the share of attempts that succeeded, from 0 to 1; ok is false if there were none.
func (p *Point) SuccessRate() (rate float64, ok bool) {
	all := p.Delivered + p.Failed + p.Retried
	if all == 0 {
		return 0, false
	}
	return float64(p.Delivered) / float64(all), true
}

// Endpoint is how one endpoint of a URL group fared lately.
type Endpoint struct {
	Attempts  int // at most the latest 20
	Delivered int // of them
	LastError string
	ErrorAt   time.Time
}

// Backlog counts unresolved messages.
type Backlog struct {
	Delayed  int // not due yet, first attempt
	Retrying int // wait for their next attempt
	Waiting  int // due, and held back by a queue, a limit, a pause or a host
	InFlight int
	More     bool // there are more than were counted
}

// Total returns the sum.
func (b Backlog) Total() int { return b.Delayed + b.Retrying + b.Waiting + b.InFlight }

// Recorder counts. It is safe for concurrent use.
type Recorder struct {
	reader  store.Reader
	now     func() time.Time
	started time.Time

	mu      sync.RWMutex
	tenants map[posthaste.TenantID]*tenant
}

// New returns a Recorder that reads the past from a store. now is the server's clock.
func New(r store.Reader, now func() time.Time) *Recorder {
	return &Recorder{reader: r, now: now, started: now(), tenants: map[posthaste.TenantID]*tenant{}}
}

// tenant is what is kept of one tenant.
type tenant struct {
	mu        sync.Mutex
	touched   time.Time
	rings     [3]ring // as ranges
	hosts     map[string]*host
	endpoints map[endpointKey]*endpoint
	backlog   Backlog
	countedAt time.Time
	past      pastState
}

type pastState uint8

const (
	pastUnread pastState = iota
	pastReading
	pastRead
)

type endpointKey struct{ group, url string }

type endpoint struct {
	last  [recent]bool // delivered?
	n     int          // recorded ever
	error string
	at    time.Time
}

// host counts by hours since 1970.
type host struct {
	hours   map[int64]hourCount
	touched int64
}

type hourCount struct{ attempts, failures int64 }

// slot is one step of a ring; number tells which.
type slot struct {
	number                               int64
	accepted, delivered, failed, retried int64
	waiting                              int64
	latency                              Latency
}

type ring []slot

// at returns the slot of a moment, emptied if it held an older one; nil if the moment is older than what it holds.
func (r ring) at(rg Range, t time.Time) *slot {
	n := t.UnixNano() / int64(rg.Step)
	s := &r[n%int64(len(r))]
	if s.number > n {
		return nil
	}
	if s.number < n {
		*s = slot{number: n, waiting: -1}
	}
	return s
}

func (r *Recorder) tenant(id posthaste.TenantID) *tenant {
	r.mu.RLock()
	t := r.tenants[id]
	r.mu.RUnlock()
	if t != nil {
		return t
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if t = r.tenants[id]; t != nil {
		return t
	}
	if len(r.tenants) >= maxTenants {
		oldest := id
		var at time.Time
		for k, o := range r.tenants {
			o.mu.Lock()
			if oldest == id || o.touched.Before(at) {
				oldest, at = k, o.touched
			}
			o.mu.Unlock()
		}
		delete(r.tenants, oldest)
	}
	t = &tenant{touched: r.now(), hosts: map[string]*host{}, endpoints: map[endpointKey]*endpoint{}}
	for i, rg := range ranges {
		t.rings[i] = make(ring, rg.Steps+1)
	}
	r.tenants[id] = t
	return t
}

// Accepted counts n messages that were accepted now.
func (r *Recorder) Accepted(id posthaste.TenantID, n int) {
	if n == 0 {
		return
	}
	t := r.tenant(id)
	now := r.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.touched = now
	t.accepted(now, int64(n))
}

func (t *tenant) accepted(at time.Time, n int64) {
	for i, rg := range ranges {
		if s := t.rings[i].at(rg, at); s != nil {
			s.accepted += n
		}
	}
}

// Ended counts an attempt of m that ended.
func (r *Recorder) Ended(m *posthaste.Message, a *posthaste.Attempt) {
	t := r.tenant(m.Tenant)
	name := compose.Host(m.URL)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.touched = a.EndedAt
	t.ended(a)
	t.destination(m, name, a)
}

func (t *tenant) ended(a *posthaste.Attempt) {
	for i, rg := range ranges {
		s := t.rings[i].at(rg, a.EndedAt)
		if s == nil {
			continue
		}
		switch a.State { //nolint:exhaustive // an attempt ends in one of these
		case posthaste.StateDelivered:
			s.delivered++
		case posthaste.StateFailed:
			s.failed++
		case posthaste.StateRetry:
			s.retried++
		default:
			continue
		}
		s.latency.add(a.Took)
	}
}

// destination counts for the host, and for the endpoint if the message was published to a group.
func (t *tenant) destination(m *posthaste.Message, name string, a *posthaste.Attempt) {
	hour := a.EndedAt.Unix() / 3600
	h := t.hosts[name]
	if h == nil {
		if len(t.hosts) >= maxHosts {
			oldest := ""
			for k, o := range t.hosts {
				if oldest == "" || o.touched < t.hosts[oldest].touched {
					oldest = k
				}
			}
			delete(t.hosts, oldest)
		}
		h = &host{hours: map[int64]hourCount{}}
		t.hosts[name] = h
	}
	if hour > h.touched {
		h.touched = hour
		for k := range h.hours {
			if k < hour-int64(Week.Steps) {
				delete(h.hours, k)
			}
		}
	}
	c := h.hours[hour]
	c.attempts++
	if a.State != posthaste.StateDelivered {
		c.failures++
	}
	h.hours[hour] = c

	if m.Group == "" {
		return
	}
	key := endpointKey{m.Group, m.URL}
	e := t.endpoints[key]
	if e == nil {
		if len(t.endpoints) >= maxEndpoints {
			return
		}
		e = &endpoint{}
		t.endpoints[key] = e
	}
	e.last[e.n%recent] = a.State == posthaste.StateDelivered
	e.n++
	if a.State != posthaste.StateDelivered && a.EndedAt.After(e.at) {
		e.error, e.at = a.Error, a.EndedAt
	}
}

// Endpoint tells how an endpoint of a URL group fared lately.
func (r *Recorder) Endpoint(id posthaste.TenantID, group, url string) Endpoint {
	t := r.tenant(id)
	r.readPast(id, t)
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.endpoints[endpointKey{group, url}]
	if e == nil {
		return Endpoint{}
	}
	out := Endpoint{Attempts: min(e.n, recent), LastError: e.error, ErrorAt: e.at}
	for _, ok := range e.last[:out.Attempts] {
		if ok {
			out.Delivered++
		}
	}
	return out
}

// Report tells what happened in a range until now.
func (r *Recorder) Report(id posthaste.TenantID, rg Range) Report {
	t := r.tenant(id)
	r.readPast(id, t)
	now := r.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	out := Report{Partial: t.past != pastRead, Total: Point{Waiting: -1}}
	ring := t.rings[max(slices.Index(ranges, rg), 0)]
	last := now.UnixNano() / int64(rg.Step)
	for n := last - int64(rg.Steps) + 1; n <= last; n++ {
		p := Point{At: time.Unix(0, n*int64(rg.Step)).UTC(), Waiting: -1}
		if s := &ring[n%int64(len(ring))]; s.number == n {
			p.Accepted, p.Delivered, p.Failed, p.Retried, p.Waiting, p.Latency = s.accepted, s.delivered, s.failed, s.retried, s.waiting, s.latency
		}
		out.Total.Accepted += p.Accepted
		out.Total.Delivered += p.Delivered
		out.Total.Failed += p.Failed
		out.Total.Retried += p.Retried
		out.Total.Latency.merge(&p.Latency)
		out.Points = append(out.Points, p)
	}
	first := now.Add(-rg.Step*time.Duration(rg.Steps)).Unix() / 3600
	for name, h := range t.hosts {
		sum := Host{Name: name}
		for hour, c := range h.hours {
			if hour >= first {
				sum.Attempts += c.attempts
				sum.Failures += c.failures
			}
		}
		if sum.Failures > 0 {
			out.Hosts = append(out.Hosts, sum)
		}
	}
	slices.SortFunc(out.Hosts, func(a, b Host) int {
		return cmp.Or(cmp.Compare(b.Failures, a.Failures), cmp.Compare(b.Attempts, a.Attempts), cmp.Compare(a.Name, b.Name))
	})
	out.Hosts = out.Hosts[:min(len(out.Hosts), 8)]
	return out
}

// readPast starts reading what was before the start, once.
func (r *Recorder) readPast(id posthaste.TenantID, t *tenant) {
	t.mu.Lock()
	begin := t.past == pastUnread
	if begin {
		t.past = pastReading
	}
	t.mu.Unlock()
	if !begin {
		return
	}
	go func() {
		err := r.backfill(context.Background(), id, t)
		t.mu.Lock()
		defer t.mu.Unlock()
		// What an error cut off stays unknown: the store says more about it elsewhere.
		t.past = pastRead
		_ = err
	}()
}

// backfill counts what the log tells of the week before the start, the latest first.
func (r *Recorder) backfill(ctx context.Context, id posthaste.TenantID, t *tenant) error {
	const chunk, pause = 256, time.Millisecond
	since := r.started.Add(-Week.Step * time.Duration(Week.Steps))
	for _, stream := range []store.LogStream{store.StreamEnded, store.StreamCreated} {
		pos := store.LogPos{At: r.started, N: -1}
		for read := 0; read < maxBackfill; {
			rows, err := r.reader.LogRows(ctx, id, stream, pos, store.Page{Limit: chunk, Desc: true})
			if err != nil {
				return err
			}
			if err := r.count(ctx, id, t, stream, rows, since); err != nil {
				return err
			}
			if len(rows) < chunk || rows[len(rows)-1].At.Before(since) {
				break
			}
			pos = rows[len(rows)-1].LogPos
			read += len(rows)
			time.Sleep(pause) // gives way to what the server is there for
		}
	}
	return nil
}

// count adds rows of the log. The destinations of failed attempts are looked up; those of the others would cost a reading
// of every message.
func (r *Recorder) count(ctx context.Context, id posthaste.TenantID, t *tenant, stream store.LogStream, rows []store.LogRow, since time.Time) error {
	var keys []store.MessageKey
	var failed []*posthaste.Attempt
	t.mu.Lock()
	for i := range rows {
		row := &rows[i]
		switch {
		case row.At.Before(since):
		case stream == store.StreamCreated:
			t.accepted(row.At, 1)
		case row.Attempt != nil:
			t.ended(row.Attempt)
			if row.Attempt.State != posthaste.StateDelivered {
				keys = append(keys, store.MessageKey{Tenant: id, ID: row.ID})
				failed = append(failed, row.Attempt)
			}
		}
	}
	t.mu.Unlock()
	if len(keys) == 0 {
		return nil
	}
	messages, err := r.reader.Messages(ctx, keys)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, m := range messages {
		if m != nil {
			t.destination(m, compose.Host(m.URL), failed[i])
		}
	}
	return nil
}

// Backlog counts a tenant's unresolved messages, or returns a count that is a moment old. A long backlog is counted further
// by Run.
func (r *Recorder) Backlog(ctx context.Context, id posthaste.TenantID) (Backlog, error) {
	t := r.tenant(id)
	now := time.Now()
	t.mu.Lock()
	old, age := t.backlog, now.Sub(t.countedAt)
	t.mu.Unlock()
	if age < time.Second || old.Total() > backlogStep && age < 2*sampleEvery {
		return old, nil
	}
	return r.sample(ctx, id, t, backlogStep)
}

// sample counts the backlog up to a bound and notes it for the chart.
func (r *Recorder) sample(ctx context.Context, id posthaste.TenantID, t *tenant, most int) (Backlog, error) {
	var b Backlog
	after := posthaste.MessageID("")
	for b.Total() < most {
		tickets, err := r.reader.TicketList(ctx, id, after, backlogStep)
		if err != nil {
			return Backlog{}, err
		}
		for _, k := range tickets {
			switch k.Phase {
			case posthaste.PhaseClaimed:
				b.InFlight++
			case posthaste.PhaseWaiting, posthaste.PhaseReady:
				b.Waiting++
			case posthaste.PhaseDelayed:
				if k.Attempt > 0 {
					b.Retrying++
				} else {
					b.Delayed++
				}
			case posthaste.PhaseNone:
			}
		}
		b.More = len(tickets) == backlogStep
		if !b.More {
			break
		}
		after = tickets[len(tickets)-1].ID
	}
	now := r.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.backlog, t.countedAt = b, time.Now()
	for i, rg := range ranges {
		if s := t.rings[i].at(rg, now); s != nil {
			s.waiting = int64(b.Total())
		}
	}
	return b, nil
}

// Run counts the backlogs of tenants that were active lately, until ctx ends.
func (r *Recorder) Run(ctx context.Context) error {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		r.mu.RLock()
		active := make(map[posthaste.TenantID]*tenant, len(r.tenants))
		for id, t := range r.tenants {
			t.mu.Lock()
			if r.now().Sub(t.touched) < time.Hour || t.backlog.Total() > 0 {
				active[id] = t
			}
			t.mu.Unlock()
		}
		r.mu.RUnlock()
		left := maxSample
		for id, t := range active { // in random order, so that all have their turn
			b, err := r.sample(ctx, id, t, min(maxBacklog, left))
			if left -= b.Total(); err != nil || left <= 0 {
				break // the store does not answer, or has answered enough; the next round goes on
			}
		}
	}
}
