//go:build crash

package crash

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A limit is a queue or a flow key with random limits.
type limit struct {
	name        string
	queue       bool
	parallelism int // 0: none, of a flow key
	rate        int // 0: none
	period      time.Duration
}

// value returns the header that a message with the key brings.
func (l *limit) value() string {
	var parts []string
	if l.parallelism > 0 {
		parts = append(parts, fmt.Sprintf("parallelism=%d", l.parallelism))
	}
	if l.rate > 0 {
		parts = append(parts, fmt.Sprintf("rate=%d,period=%s", l.rate, l.period))
	}
	return strings.Join(parts, ",")
}

// newLimits returns so many queues and as many flow keys.
func newLimits(rng *rand.Rand, n int) []*limit {
	var list []*limit
	for i := range n {
		list = append(list, &limit{name: fmt.Sprintf("queue-%d", i), queue: true, parallelism: 1 + rng.IntN(4)})
	}
	for i := range n {
		l := &limit{name: fmt.Sprintf("key-%d", i)}
		kind := rng.IntN(3)
		if kind != 0 {
			l.parallelism = 1 + rng.IntN(5)
		}
		if kind != 1 {
			seconds := 1 + rng.IntN(3)
			l.period = time.Duration(seconds) * time.Second
			l.rate = seconds * (10 + rng.IntN(30))
		}
		list = append(list, l)
	}
	return list
}

// A pause is a time in which a queue or key was paused for certain: from the answer to the pause until the resume was sent.
type pause struct {
	limit    *limit
	from, to time.Time
}

// pausing pauses queues and keys until ctx ends, one at a time, and returns when none is paused any more.
func (l *load) pausing(ctx context.Context, rng *rand.Rand, limits []*limit) (pauses []pause, err error) {
	call := func(li *limit, verb string) error {
		path := "/v2/flowControl/" + li.name + "/" + verb
		if li.queue {
			path = "/v2/queues/" + li.name + "/" + verb
		}
		for {
			// It has to be carried out also when ctx has ended, and again if the server was killed before it answered.
			if err := l.server.waitUp(l.server.ctx); err != nil {
				return err
			}
			status, body, err := l.client.call(l.server.ctx, http.MethodPost, path, nil, nil)
			switch {
			case err == nil && status == http.StatusOK:
				return nil
			case err == nil && status != http.StatusServiceUnavailable:
				return fmt.Errorf("POST %s was answered %d: %s", path, status, body)
			case l.server.ctx.Err() != nil:
				return err
			}
			select { // until the end of the life is noted, there may be nobody at the port
			case <-l.server.ctx.Done():
			case <-time.After(2 * time.Millisecond):
			}
		}
	}
	for ctx.Err() == nil {
		p := pause{limit: limits[rng.IntN(len(limits))]}
		if err := call(p.limit, "pause"); err != nil {
			return pauses, err
		}
		p.from = time.Now()
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(100+rng.IntN(600)) * time.Millisecond):
		}
		p.to = time.Now()
		if err := call(p.limit, "resume"); err != nil {
			return pauses, err
		}
		pauses = append(pauses, p)
	}
	return pauses, nil
}

// checkPauses sees to it that nothing started while its queue or key was paused, as the log has it. It returns how many starts
// there were of those that were paused, at other times.
func (a *account) checkPauses(f *faults, pauses []pause) (others int) {
	starts := make(map[string][]logEntry)
	for _, entries := range a.log {
		for _, e := range entries {
			if e.State == "ACTIVE" {
				starts[e.QueueName] = append(starts[e.QueueName], e)
				starts[e.FlowKey] = append(starts[e.FlowKey], e)
			}
		}
	}
	for _, p := range pauses {
		for _, e := range starts[p.limit.name] {
			if e.Time > p.from.UnixMilli() && e.Time < p.to.UnixMilli() {
				f.add(faultPaused, "%s was paused from %d to %d, and %s started at %d", p.limit.name, p.from.UnixMilli(), p.to.UnixMilli(), e.ID, e.Time)
			} else {
				others++
			}
		}
	}
	return others
}

// TestLimits holds queues and flow keys to their order, their parallelism, their rates and their pauses, with messages that
// fail, and two kills: one while messages are published, one while they drain.
func TestLimits(t *testing.T) {
	const each = 50 // queues, and keys
	rng := newRand(t)
	total := max(2*each, *limitsFlag)
	s := newServer(t, rng, false)
	ctx := s.ctx
	l := newLoad(s, newReceiver(t))
	s.start("")
	limits := newLimits(rng, each)
	var keys []*limit
	publishers, shape := new(sync.WaitGroup), func(own *rand.Rand, sp *spec) {
		switch k := own.IntN(40); {
		case k < 6:
			sp.fail = 1 + own.IntN(2)
		case k < 7:
			sp.fail, sp.retries = always, 1
		case k < 9:
			sp.fail, sp.dead = always, true
		}
		if own.IntN(3) == 0 {
			sp.wait = time.Duration(own.IntN(15)) * time.Millisecond
		}
		if own.IntN(30) == 0 {
			sp.callback = &place{kind: kindCallback, n: sp.n, fail: own.IntN(2)}
		}
		sp.body = sp.body[:min(len(sp.body), 300)]
	}
	for _, li := range limits {
		if !li.queue {
			keys = append(keys, li)
			continue
		}
		if err := l.client.upsertQueue(ctx, li.name, li.parallelism); err != nil {
			t.Fatal(err)
		}
	}
	for _, li := range limits[:each] {
		own := rand.New(rand.NewPCG(rng.Uint64(), 0))
		publishers.Go(func() {
			l.enqueue(ctx, own, li.name, total/2/each, func(sp *spec) { shape(own, sp) })
		})
	}
	keyed := 0
	own := rand.New(rand.NewPCG(rng.Uint64(), 0))
	l.start(ctx, workers/2, func(n int) []*spec {
		if keyed++; keyed > total/2 {
			return nil
		}
		sp := newSpec(own, n)
		li := keys[own.IntN(len(keys))]
		sp.flow, sp.flowValue = li.name, li.value()
		shape(own, sp)
		return []*spec{sp}
	})
	pausing, stop := context.WithCancel(ctx)
	defer stop()
	type result struct {
		pauses []pause
		err    error
	}
	paused := make(chan result, 4)
	for i := range cap(paused) { // each has limits of its own
		own := rand.New(rand.NewPCG(rng.Uint64(), 0))
		mine := limits[len(limits)*i/cap(paused) : len(limits)*(i+1)/cap(paused)]
		go func() {
			p, err := l.pausing(pausing, own, mine)
			paused <- result{p, err}
		}()
	}
	l.waitAccepted(ctx, total/5+rng.IntN(total*2/5))
	s.kill()
	s.start("")
	publishers.Wait()
	l.wait()
	more, cancel := context.WithTimeout(ctx, time.Second)
	l.receiver.waitMore(more, rng.IntN(200))
	cancel()
	s.kill()
	s.start("")
	stop()
	var pauses []pause
	for range cap(paused) {
		r := <-paused
		if r.err != nil {
			t.Fatal(r.err)
		}
		pauses = append(pauses, r.pauses...)
	}
	a := l.verify(t)
	var f faults
	reached := 0 // limits that were used up at some time
	for _, li := range limits {
		if li.queue {
			a.checkOrder(&f, li.name, li.parallelism)
			reached += b2i(a.checkOpen(&f, li.name, li.parallelism) == li.parallelism)
			continue
		}
		if li.parallelism > 0 {
			reached += b2i(a.checkParallel(&f, li.name, li.parallelism) == li.parallelism)
		}
		if li.rate > 0 {
			a.checkRate(&f, li.name, li.rate, li.period)
		}
	}
	others := a.checkPauses(&f, pauses)
	f.report(t)
	t.Logf("%d limits of parallelism were reached; %d pauses, and %d starts of those that were paused", reached, len(pauses), others)
	if reached < each/2 || len(pauses) == 0 || others == 0 {
		t.Error("the load is too small to show anything")
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestPausedStarts shows that checkPauses finds a start within a pause, and none at its edges.
func TestPausedStarts(t *testing.T) {
	p := []pause{{limit: &limit{name: "key"}, from: time.UnixMilli(100), to: time.UnixMilli(200)}}
	for at, want := range map[int64]bool{99: false, 100: false, 101: true, 199: true, 200: false} {
		var f faults
		if (&account{log: starts("key", at)}).checkPauses(&f, p); f.has(faultPaused) != want {
			t.Errorf("a start at %d: got faults %v, want some: %t", at, f, want)
		}
	}
}

// TestEverySecond has a schedule fire every second for a minute, over two kills and a stop. Every tick makes one message at
// most, and one exactly while the server is up.
func TestEverySecond(t *testing.T) {
	t.Parallel()
	rng := newRand(t)
	s := newServer(t, rng, false)
	ctx := s.ctx
	c, r := newClient(s), newReceiver(t)
	s.start("")
	// The delay makes a message tell the tick that it comes from, as long as that does not fire so late.
	const delay = 10 * time.Second
	asked := time.Now()
	status, body, err := c.call(ctx, http.MethodPost, "/v2/schedules/"+place{kind: kindMessage}.url(r.base), http.Header{
		"Upstash-Cron": {"@every 1s"}, "Upstash-Schedule-Id": {"every-second"}, "Upstash-Delay": {delay.String()},
	}, nil)
	if err != nil || status != http.StatusOK {
		t.Fatalf("the schedule was answered %d: %s, %v", status, body, err)
	}
	answered := time.Now()
	type up struct{ from, to time.Time }
	ups := []up{{from: answered}}
	sleep := func(d time.Duration) {
		select {
		case <-ctx.Done():
			t.Fatal(context.Cause(ctx))
		case <-time.After(d):
		}
	}
	for i := range 3 {
		sleep(time.Duration(10+rng.IntN(5000))*time.Millisecond + 10*time.Second)
		ups[i].to = time.Now()
		if i == 1 {
			s.stop()
		} else {
			s.kill()
		}
		sleep(time.Duration(rng.IntN(2500)) * time.Millisecond)
		s.start("")
		ups = append(ups, up{from: time.Now()})
	}
	sleep(time.Until(asked.Add(time.Minute)))
	ups[3].to = time.Now()
	if status, body, err := c.call(ctx, http.MethodDelete, "/v2/schedules/every-second", nil, nil); err != nil || status != http.StatusOK {
		t.Fatalf("the end of the schedule was answered %d: %s, %v", status, body, err)
	}
	log, err := c.log(ctx)
	if err != nil {
		t.Fatal(err)
	}
	fired := map[int64]int{} // ticks, in milliseconds
	var ticks []int64
	for _, e := range log {
		if e.State != "CREATED" {
			continue
		}
		at := e.Next - delay.Milliseconds()
		if fired[at]++; fired[at] > 1 {
			t.Errorf("the tick at %d made %d messages", at, fired[at])
		}
		ticks = append(ticks, at)
	}
	if len(ticks) == 0 {
		t.Fatal("no tick fired")
	}
	slices.SortFunc(ticks, cmp.Compare)
	if first := ticks[0]; first <= asked.UnixMilli() || first > answered.UnixMilli()+1000 {
		t.Errorf("the first tick was at %d, want one second after %d to %d", first, asked.UnixMilli(), answered.UnixMilli())
	}
	for _, at := range ticks {
		if (at-ticks[0])%1000 != 0 {
			t.Errorf("a tick at %d, %d ms after the first one", at, at-ticks[0])
		}
	}
	// What is due just before an end may not have fired, and then fell into the downtime.
	const close = 1500
	want := 0
	for at := ticks[0]; at < ups[3].to.UnixMilli(); at += 1000 {
		for _, u := range ups {
			if at >= u.from.UnixMilli() && at < u.to.UnixMilli()-close {
				if want++; fired[at] == 0 {
					t.Errorf("the tick at %d did not fire, although the server was up from %d to %d", at, u.from.UnixMilli(), u.to.UnixMilli())
				}
			}
		}
	}
	t.Logf("%d ticks fired, of which %d had to", len(ticks), want)
	if want < 25 {
		t.Errorf("the server was up for %d ticks only", want)
	}
}
