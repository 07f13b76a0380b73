//go:build crash

package crash

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// checkOrder sees to it that a queue of parallelism p starts its messages in the order of their acceptance. With one publisher
// for each queue that is the order of its index.
//
// Requests are compared life by life: one that a dead life sent may be read by its destination when the next life is up.
func (a *account) checkOrder(f *faults, queue string, p int) {
	var list []*delivery
	for _, d := range a.deliveries {
		if d.kind == kindMessage && d.n < len(a.specs) && a.specs[d.n].queue == queue {
			list = append(list, d)
		}
	}
	slices.SortStableFunc(list, func(a, b *delivery) int { return cmp.Compare(a.life, b.life) })
	if p == 1 {
		for i, d := range list[min(1, len(list)):] {
			before := a.specs[list[i].n]
			if sp := a.specs[d.n]; sp.index < before.index {
				f.add(faultOrder, "%s: number %d in life %d came after number %d in life %d", queue, sp.index, d.life, before.index, list[i].life)
			}
		}
		return
	}
	// With several places, a message may overtake those whose requests are under way as long as they hold a place.
	var waiting []int // indexes that are accepted and did not arrive yet
	for _, sp := range a.specs {
		if o, _ := sp.snapshot(); o == accepted && sp.queue == queue {
			waiting = append(waiting, sp.index)
		}
	}
	slices.Sort(waiting)
	for _, d := range list {
		index := a.specs[d.n].index
		at, found := slices.BinarySearch(waiting, index)
		if at >= p {
			f.add(faultOrder, "%s: number %d came in life %d before numbers %v", queue, index, d.life, waiting[:at])
		}
		if found {
			waiting = slices.Delete(waiting, at, at+1)
		}
	}
}

// checkOpen sees to it that no more than p messages of a queue are open at a time, and returns the largest number there was.
// What a destination sees of a message lies within the time that it is open: from the arrival of its first attempt to the
// answer to its last one and to its callbacks.
func (a *account) checkOpen(f *faults, queue string, p int) int {
	type edge struct {
		at    time.Time
		delta int
		n     int
	}
	span := make(map[int]*[2]time.Time)
	last := make(map[string]*delivery) // of a message or callback: the attempt that counts
	for _, d := range a.deliveries {
		if d.n >= len(a.specs) || a.specs[d.n].queue != queue {
			continue
		}
		s := span[d.n]
		if s == nil {
			s = &[2]time.Time{d.arrived, d.arrived}
			span[d.n] = s
		}
		if d.arrived.Before(s[0]) {
			s[0] = d.arrived
		}
		if l := last[d.id]; l == nil || cmp.Or(cmp.Compare(d.life, l.life), cmp.Compare(d.retried, l.retried)) > 0 {
			last[d.id] = d
		}
	}
	for _, d := range last {
		if s := span[d.n]; d.answered.After(s[1]) {
			s[1] = d.answered
		}
	}
	var edges []edge
	for n, s := range span {
		if !s[1].After(s[0]) {
			continue // nothing was answered yet
		}
		edges = append(edges, edge{s[0], 1, n}, edge{s[1], -1, n})
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.delta, b.delta)) })
	open, most := make(map[int]bool), 0
	for _, e := range edges {
		if e.delta < 0 {
			delete(open, e.n)
			continue
		}
		open[e.n] = true
		if most = max(most, len(open)); len(open) > p {
			f.add(faultOpen, "%s: publishes %v were open at the same time", queue, slices.Sorted(maps.Keys(open)))
		}
	}
	return most
}

// checkParallel sees to it that no more than p attempts of a flow key are made at a time by one life, and returns the largest
// number there was. An attempt that a kill cut off may still run when its repetition begins.
func (a *account) checkParallel(f *faults, key string, p int) int {
	most := 0
	for _, l := range a.lives {
		var starts, ends []time.Time
		for _, d := range a.deliveries {
			if d.life == l.n && d.kind == kindMessage && d.n < len(a.specs) && a.specs[d.n].flow == key {
				starts = append(starts, d.arrived)
				if !d.answered.IsZero() {
					ends = append(ends, d.answered)
				}
			}
		}
		slices.SortFunc(starts, time.Time.Compare)
		slices.SortFunc(ends, time.Time.Compare)
		ended := 0
		for i, at := range starts {
			for ended < len(ends) && !ends[ended].After(at) {
				ended++
			}
			if n := i + 1 - ended; n > p {
				f.add(faultOpen, "%s: %d attempts at the same time in life %d", key, n, l.n)
			} else {
				most = max(most, n)
			}
		}
	}
	return most
}

// A window is what can be known of a fixed window in which starts are counted: it began between lo and hi (unix milliseconds).
type window struct {
	lo, hi int64
	used   int
}

// checkRate sees to it that no more than rate attempts of a flow key start in a window of the given length, as the log has
// them. Windows begin with a start that finds the one before over, so they follow from the starts.
//
// The log tells all starts but those that a kill cut off: such an attempt is logged when it is repeated. One of them may
// have opened a window in the last moments of its life, which is why a window can be known by bounds only.
func (a *account) checkRate(f *faults, key string, rate int, period time.Duration) (starts int) {
	type event struct {
		at   int64
		kill bool
	}
	var events []event
	for _, entries := range a.log {
		for _, e := range entries {
			if e.State == "ACTIVE" && e.FlowKey == key {
				events = append(events, event{at: e.Time})
				starts++
			}
		}
	}
	// How long before its end a life may have started what was cut off, in milliseconds. No destination takes nearly so long.
	const hidden = 1000
	for _, l := range a.lives {
		if l.ended() {
			events = append(events, event{l.over.UnixMilli(), true})
		}
	}
	slices.SortFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	length := period.Milliseconds()
	states := []window{{lo: -1 << 40, hi: -1 << 40}}
	for i, e := range events {
		if e.kill {
			continue
		}
		// Each kill not far from here, on either side, may hide a start that opened a window.
		for _, k := range events[i:] {
			if k.kill && k.at-e.at <= hidden {
				states = hide(states, k.at-hidden, e.at, length)
			}
		}
		if i > 0 {
			for j := i - 1; j >= 0 && events[j].kill; j-- {
				states = hide(states, events[j].at-hidden, events[j].at, length)
			}
		}
		var next []window
		for _, s := range states {
			// Times are cut to milliseconds, so one at the very end of a window may belong to it or to the next.
			if e.at <= s.hi+length && e.at >= s.lo && s.used < rate {
				next = append(next, window{max(s.lo, e.at-length), min(s.hi, e.at), s.used + 1})
			}
			if e.at >= s.lo+length {
				next = append(next, window{e.at, e.at, 1})
			}
		}
		if states = compact(next); len(states) == 0 {
			f.add(faultRate, "%s: more than %d starts in %v, with the one at %d", key, rate, period, e.at)
			states = []window{{e.at, e.at, 1}}
		}
	}
	return starts
}

// hide adds the windows that a start between lo and hi may have opened, which the log does not have.
func hide(states []window, lo, hi, length int64) []window {
	for _, s := range states {
		if from := max(s.lo+length, lo); from <= hi {
			states = append(states, window{from, hi, 1})
		}
	}
	return compact(states)
}

// compact removes what is there twice.
func compact(states []window) []window {
	slices.SortFunc(states, func(a, b window) int {
		return cmp.Or(cmp.Compare(a.lo, b.lo), cmp.Compare(a.hi, b.hi), cmp.Compare(a.used, b.used))
	})
	return slices.Compact(states)
}

// enqueue publishes to a queue from one goroutine, one message after another, so that the order of acceptance is known.
func (l *load) enqueue(ctx context.Context, rng *rand.Rand, queue string, total int, change func(*spec)) {
	for i := range total {
		if ctx.Err() != nil {
			return
		}
		sp := l.add(func(n int) *spec {
			sp := newSpec(rng, n)
			sp.queue, sp.index = queue, i
			if len(sp.body) > 1000 {
				sp.body = sp.body[:1000]
			}
			change(sp)
			return sp
		})
		l.publish(ctx, []*spec{sp})
	}
}

// TestQueues kills a server that delivers in order. Messages fail sometimes and have callbacks, which keeps their places.
func TestQueues(t *testing.T) {
	t.Parallel()
	rng := newRand(t)
	s := newServer(t, rng, true)
	ctx := s.ctx
	l := newLoad(s, newReceiver(t))
	s.start("")
	queues := map[string]int{"one-a": 1, "one-b": 1, "one-c": 1, "two-a": 2, "two-b": 2}
	for name, p := range queues {
		if p == 1 {
			continue // a queue of parallelism 1 is made by its first message
		}
		if err := l.client.upsertQueue(ctx, name, p); err != nil {
			t.Fatal(err)
		}
		s.kill() // what was confirmed is in force, whatever comes
		s.start("")
	}
	const total = 120
	var wg sync.WaitGroup
	for _, name := range slices.Sorted(maps.Keys(queues)) {
		own := rand.New(rand.NewPCG(rng.Uint64(), 0))
		wg.Go(func() {
			l.enqueue(ctx, own, name, total, func(sp *spec) {
				switch k := own.IntN(20); {
				case k < 3:
					sp.fail = 1 + own.IntN(2)
				case k < 4:
					sp.fail, sp.retries = always, 1
				case k < 6:
					sp.wait = time.Duration(own.IntN(30)) * time.Millisecond
				}
				switch own.IntN(10) {
				case 0:
					sp.callback = &place{kind: kindCallback, n: sp.n, fail: own.IntN(2), wait: 5 * time.Millisecond}
				case 1:
					sp.failureCallback = &place{kind: kindFailureCallback, n: sp.n}
				}
			})
		})
	}
	// The publishers are ahead of the deliveries, so these tell how far the test is.
	for range 8 {
		more, cancel := context.WithTimeout(ctx, 3*time.Second)
		l.receiver.waitMore(more, 20+rng.IntN(80))
		cancel()
		s.kill()
		s.start("")
	}
	wg.Wait()
	s.kill()
	s.start("")
	a := l.verify(t)
	var f faults
	for name, p := range queues {
		a.checkOrder(&f, name, p)
		if most := a.checkOpen(&f, name, p); most != p {
			t.Errorf("%s: at most %d messages were open at a time, want %d sometimes", name, most, p)
		}
	}
	f.report(t)
}

// TestFlowControl kills a server that holds messages back, in the midst of the windows in which it counts.
func TestFlowControl(t *testing.T) {
	t.Parallel()
	rng := newRand(t)
	s := newServer(t, rng, false)
	ctx := s.ctx
	l := newLoad(s, newReceiver(t))
	s.start("")
	const (
		rate, period = 12, 2 * time.Second
		parallelism  = 3
	)
	total := 0
	l.start(ctx, 16, func(n int) []*spec {
		if total++; total > 160 {
			return nil
		}
		sp := newSpec(rng, n)
		switch total % 5 {
		case 0:
			sp.flow, sp.flowValue = "rate", fmt.Sprintf("rate=%d,period=%s", rate, period)
		case 1:
			sp.flow, sp.flowValue = "both", fmt.Sprintf("parallelism=%d,rate=%d,period=%s", parallelism, rate, period)
			sp.wait = 5 * time.Millisecond
		default:
			sp.flow, sp.flowValue = "parallelism", fmt.Sprintf("parallelism=%d", parallelism)
			sp.wait = time.Duration(5+rng.IntN(20)) * time.Millisecond
		}
		if rng.IntN(8) == 0 {
			sp.fail = 1
		}
		return []*spec{sp}
	})
	l.wait()
	// A kill right after a window's starts: a server that forgot what it had counted would make as many again.
	for range 4 {
		enough := len(l.receiver.of("rate", l.all())) + 1 + rng.IntN(rate)
		for len(l.receiver.of("rate", l.all())) < enough {
			more, cancel := context.WithTimeout(ctx, 2*period)
			ok := l.receiver.waitMore(more, 1)
			if cancel(); !ok {
				break
			}
		}
		s.kill()
		s.start("")
	}
	a := l.verify(t)
	var f faults
	for _, key := range []string{"rate", "both"} {
		if n := a.checkRate(&f, key, rate, period); n < 2*rate {
			t.Errorf("%s: the log has %d starts, want more than a window's", key, n)
		}
	}
	a.checkParallel(&f, "both", parallelism)
	if most := a.checkParallel(&f, "parallelism", parallelism); most != parallelism {
		t.Errorf("at most %d attempts ran at a time, want %d sometimes", most, parallelism)
	}
	f.report(t)
}

// of returns the deliveries of a flow key.
func (r *receiver) of(key string, specs []*spec) []*delivery {
	return slices.DeleteFunc(r.deliveries(), func(d *delivery) bool {
		return d.kind != kindMessage || d.n >= len(specs) || specs[d.n].flow != key
	})
}

// starts builds a log with the given starts of a key.
func starts(key string, at ...int64) map[string][]logEntry {
	log := make(map[string][]logEntry)
	for i, ms := range at {
		id := fmt.Sprintf("msg_%d", i)
		log[id] = []logEntry{{Time: ms, ID: id, State: "ACTIVE", FlowKey: key}}
	}
	return log
}

// TestRateOfStarts holds the arithmetic of windows to examples: two starts in a second.
func TestRateOfStarts(t *testing.T) {
	for _, tt := range []struct {
		starts string
		kill   int64
		want   bool // a fault
	}{
		{"0 10 1000 1010", 0, false},
		{"0 10 999", 0, true},
		{"0 10 20", 0, true},
		{"0 500 1000 1001", 0, false},
		{"0 500 1000 1001 1002", 0, true},
		// The second one is of the first window's last millisecond, or the next window begins with it.
		{"0 1000 1001 1999", 0, false},
		{"0 1000 1001 1002 1999", 0, true},
		{"0 1000 1001 2001 2002", 0, false},
		{"0 10 1600 1610 2100 2110", 0, true},
		// A start at 1100 that was cut off at 1200 explains it.
		{"0 10 1600 2100 2110", 1200, false},
		{"0 10 1600 1610 2100 2110", 1200, true},
		// One within the first window opened none.
		{"0 10 500", 400, true},
	} {
		var at []int64
		for text := range strings.FieldsSeq(tt.starts) {
			var ms int64
			fmt.Sscan(text, &ms)
			at = append(at, ms)
		}
		a := &account{log: starts("key", at...)}
		if tt.kill > 0 {
			a.lives = []*life{plantedLife(1, 0, tt.kill)}
		}
		var f faults
		if a.checkRate(&f, "key", 2, time.Second); (len(f) > 0) != tt.want {
			t.Errorf("starts at %s, kill at %d: got faults %v, want some: %t", tt.starts, tt.kill, f, tt.want)
		}
	}
}

// plantedLife returns a life that was killed, without a process.
func plantedLife(n int, begun, over int64) *life {
	l := &life{n: n, begun: time.UnixMilli(begun), over: time.UnixMilli(over), end: killed, mayCut: true, done: make(chan struct{})}
	close(l.done)
	return l
}
