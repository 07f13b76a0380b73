package storetest

import (
	"slices"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
)

// limits returns the limits of a key.
func limits(key string, parallelism, rate int, period time.Duration) posthaste.FlowControl {
	return posthaste.FlowControl{Key: key, Parallelism: parallelism, Rate: rate, Period: period}
}

func testFlowParallelism(b *bed) {
	k := b.flow("k")
	all, started := b.acceptMany(5, withFlow(limits("k", 2, 0, 0)))
	b.wantStarted("parallelism 2", started, all[:2]...)
	b.wantGate(k, 2, 3, 5)
	b.none("while two are in flight")
	b.wantStarted("one ended", b.settle(manyRoom, started[0], delivered()).Started, all[2])
	// A message that waits for its retry is not in flight.
	retry := b.acceptOne(0, b.msg(withFlow(limits("k", 2, 0, 0)), withRetries(1), func(m *posthaste.Message) { m.Priority = 0 }))
	b.wantStarted("one ended", b.settle(manyRoom, started[1], delivered()).Started, all[3])
	b.cancel(0, all[4])
	s := b.claimed(all[2])
	got := b.settle(manyRoom, s, delivered()).Started
	b.wantStarted("one ended", got, retry)
	b.settle(0, got[0], failed())
	b.wantGate(k, 1, 0, 2)
	other, started := b.accept(manyRoom, b.msg(withFlow(limits("k", 2, 0, 0))))
	b.wantStarted("while one waits for its retry", started, other...)
}

// claimed returns a running attempt as it was claimed.
func (b *bed) claimed(id posthaste.MessageID) ledger.Start {
	b.Helper()
	t := b.ticket(id)
	if t == nil || t.Phase != posthaste.PhaseClaimed {
		b.Fatalf("got ticket %+v of %s, want a claimed one", t, id)
	}
	return ledger.Start{Ticket: t}
}

func testFlowRate(b *bed) {
	k := b.flow("k")
	b.Advance(123 * time.Millisecond)
	all, started := b.acceptMany(8, withFlow(limits("k", 0, 3, 10*time.Second)))
	b.wantStarted("rate 3", started, all[:3]...)
	g := b.gate(k)
	if g.WindowUsed != 3 || !g.WindowStart.Equal(started[0].Ticket.StartedAt) {
		b.Errorf("got %d used since %v; want 3 since %v", g.WindowUsed, g.WindowStart, started[0].Ticket.StartedAt)
	}
	for _, s := range started { // that an attempt ends gives nothing back
		if op := b.settle(manyRoom, s, delivered()); len(op.Started) > 0 {
			b.Errorf("%v started within the window", ids(op.Started))
		}
	}
	end := g.WindowStart.Add(10 * time.Second)
	heads, err := b.Engine.Heads(b.ctx(), k, 10)
	b.check(err)
	if len(heads) != 5 || !heads[0].Due.Equal(end) || !heads[1].Due.IsZero() {
		b.Errorf("got %d waiting, the first wakes at %v; want 5, %v, and the others not", len(heads), heads[0].Due, end)
	}
	if left := end.Sub(b.Now()); left > time.Second {
		b.Advance(left - time.Millisecond)
	}
	if b.Now().Before(end) {
		b.none("before the window's end")
	}
	b.Advance(time.Second)
	got := b.pump(manyRoom)
	b.wantStarted("in the next window", got, all[3:6]...)
	// The next window begins with its first start, not with the end of the one before.
	b.Advance(25 * time.Second)
	last := b.pump(manyRoom)
	b.wantStarted("in the third window", last, all[6:]...)
	if g := b.gate(k); !g.WindowStart.Equal(last[0].Ticket.StartedAt) || g.WindowUsed != 2 {
		b.Errorf("got %d used since %v; want 2 since %v", g.WindowUsed, g.WindowStart, last[0].Ticket.StartedAt)
	}
}

func testFlowRetries(b *bed) {
	s := b.acceptStarted(b.msg(withFlow(limits("k", 0, 2, time.Minute)), withRetries(5), withRetryNow()))
	b.settle(0, s, failed())
	s = b.one()
	b.settle(0, s, failed())
	b.none("the third attempt is over the rate")
	b.Advance(time.Minute)
	if again := b.one(); again.Ticket.ID != s.Ticket.ID || again.Ticket.Attempt != 2 {
		b.Errorf("got %+v started, want attempt 2", again.Ticket)
	}
}

func testFlowBoth(b *bed) {
	all, started := b.acceptMany(6, withFlow(limits("k", 1, 2, time.Minute)))
	b.wantStarted("parallelism 1", started, all[0])
	got := b.settle(manyRoom, started[0], delivered()).Started
	b.wantStarted("one ended", got, all[1])
	if op := b.settle(manyRoom, got[0], delivered()); len(op.Started) > 0 {
		b.Errorf("%v started over the rate", ids(op.Started))
	}
	b.Advance(time.Minute)
	got = b.pump(manyRoom)
	b.wantStarted("in the next window", got, all[2])
	b.Advance(time.Minute)
	b.none("while one is in flight")
	got = b.settle(manyRoom, got[0], delivered()).Started
	b.wantStarted("one ended", got, all[3])
}

func testFlowTogether(b *bed) {
	// l is full, so a message that names k, l and m takes nothing of k and m, and waits at l alone.
	k, l, m := b.flow("k"), b.flow("l"), b.flow("m")
	holder := b.acceptStarted(b.msg(withFlow(limits("l", 1, 0, 0))))
	three := b.acceptOne(manyRoom, b.msg(withFlow(limits("k", 1, 1, time.Hour), limits("l", 1, 0, 0), limits("m", 1, 0, 0))))
	b.wantGate(k, 0, 0, 1)
	b.wantGate(l, 1, 1, 2)
	b.wantGate(m, 0, 0, 1)
	if t := b.ticket(three); t.ParkedAt != l {
		b.Errorf("got it parked at %s, want %s", gateName(t.ParkedAt), gateName(l))
	}
	if g := b.gate(k); g.WindowUsed != 0 {
		b.Errorf("got %d of the rate of k used by a message that waits", g.WindowUsed)
	}
	// So others pass at k and m.
	other := b.acceptStarted(b.msg(withFlow(limits("k", 1, 1, time.Hour))))
	b.settle(0, other, delivered())
	// With l free, it is k that refuses now: its window is used up.
	if op := b.settle(manyRoom, holder, delivered()); len(op.Started) > 0 {
		b.Errorf("%v started over the rate of k", ids(op.Started))
	}
	b.none("over the rate of k")
	b.wantGate(k, 0, 1, 1)
	b.wantGate(l, 0, 0, 1)
	b.Advance(time.Hour)
	s := b.one()
	if s.Ticket.ID != three {
		b.Errorf("got %s started, want %s", s.Ticket.ID, three)
	}
	b.wantGate(k, 1, 0, 1)
	b.wantGate(l, 1, 0, 1)
	b.wantGate(m, 1, 0, 1)
	b.settle(0, s, delivered())
	for _, ref := range []store.GateRef{k, l, m} {
		b.wantGate(ref, 0, 0, 0)
	}
}

func testFlowMoves(b *bed) {
	// Four keys, and always another one is full.
	keys := []string{"a", "b", "c", "d"}
	var fc []posthaste.FlowControl
	for _, k := range keys {
		fc = append(fc, limits(k, 1, 0, 0))
	}
	holders := map[string]ledger.Start{}
	for _, k := range keys {
		holders[k] = b.acceptStarted(b.msg(withFlow(limits(k, 1, 0, 0))))
	}
	id := b.acceptOne(manyRoom, b.msg(withFlow(fc...)))
	seen := map[store.GateRef]bool{}
	for range keys {
		t := b.ticket(id)
		if t.Phase != posthaste.PhaseWaiting || seen[t.ParkedAt] {
			b.Fatalf("got %v at %s, want it waiting at a key it did not wait at before", t.Phase, gateName(t.ParkedAt))
		}
		seen[t.ParkedAt] = true
		started := b.settle(manyRoom, holders[t.ParkedAt.Name], delivered()).Started
		started = append(started, b.pump(manyRoom)...)
		if len(seen) < len(keys) != (len(started) == 0) {
			b.Fatalf("with %d keys free: got %v started", len(seen), ids(started))
		}
	}
	b.wantPhase(posthaste.PhaseClaimed, id)
}

func testFlowPriority(b *bed) {
	k := withFlow(limits("k", 1, 0, 0))
	s := b.acceptStarted(b.msg(k))
	var all []posthaste.MessageID
	for _, p := range []int{5, 0, 9, 0, 5} {
		all = append(all, b.acceptOne(manyRoom, b.msg(k, withPriority(p))))
		b.Advance(time.Microsecond)
	}
	for i, want := range []int{1, 3, 0, 4, 2} {
		op := b.settle(manyRoom, s, delivered())
		if b.wantStarted("number "+string(rune('0'+i)), op.Started, all[want]); len(op.Started) != 1 {
			b.FailNow()
		}
		s = op.Started[0]
	}
}

func testFlowNewest(b *bed) {
	k := b.flow("k")
	all, started := b.acceptMany(4, withFlow(limits("k", 1, 0, 0)))
	b.wantStarted("parallelism 1", started, all[0])
	// The newest message's limits hold for all that wait.
	more, started := b.accept(manyRoom, b.msg(withFlow(limits("k", 3, 0, 0))))
	b.wantStarted("parallelism 3", append(started, b.pump(manyRoom)...), all[1:3]...)
	g := b.gate(k)
	if g.Parallelism != 3 || g.Rate != 0 {
		b.Errorf("got limits %d, %d; want 3, 0", g.Parallelism, g.Rate)
	}
	// What it does not mention becomes unlimited.
	b.accept(manyRoom, b.msg(withFlow(limits("k", 0, 100, time.Second))))
	if g := b.gate(k); g.Parallelism != 0 || g.Rate != 100 || g.Period != time.Second {
		b.Errorf("got limits %d, %d in %v; want 0, 100 in 1s", g.Parallelism, g.Rate, g.Period)
	}
	b.pump(manyRoom)
	b.wantPhase(posthaste.PhaseClaimed, append(all, more...)...)
	if m := b.message(all[0]); m.Flow[0].Parallelism != 1 {
		b.Errorf("got the message's own value %+v, want what it brought", m.Flow[0])
	}
}

func testFlowPins(b *bed) {
	k := b.flow("k")
	b.edit(0, k, func(g *store.Gate) { g.Parallelism, g.PinnedParallelism = 2, true })
	b.accept(manyRoom, b.msg(withFlow(limits("k", 9, 7, time.Second))))
	if g := b.gate(k); g.Parallelism != 2 || g.Rate != 7 || g.Period != time.Second {
		b.Errorf("got limits %d, %d in %v; want the pinned 2, and 7 in 1s", g.Parallelism, g.Rate, g.Period)
	}
	b.edit(0, k, func(g *store.Gate) {
		g.PinnedParallelism, g.Rate, g.Period, g.PinnedRate = false, 5, time.Minute, true
	})
	b.accept(manyRoom, b.msg(withFlow(limits("k", 9, 7, time.Second))))
	if g := b.gate(k); g.Parallelism != 9 || g.Rate != 5 || g.Period != time.Minute {
		b.Errorf("got limits %d, %d in %v; want 9, and the pinned 5 in 1m", g.Parallelism, g.Rate, g.Period)
	}
}

func testFlowPause(b *bed) {
	k := b.flow("k")
	s := b.acceptStarted(b.msg(withFlow(limits("k", 0, 5, time.Minute)), withRetries(1), withRetryNow()))
	b.edit(0, k, func(g *store.Gate) { g.Paused = true })
	b.settle(manyRoom, s, failed())
	id := b.acceptOne(manyRoom, b.msg(withFlow(limits("k", 0, 5, time.Minute))))
	b.none("while paused")
	b.Advance(2 * time.Minute) // the period goes on
	b.none("while paused")
	op := b.edit(manyRoom, k, func(g *store.Gate) { g.Paused = false })
	got := ids(append(op.Started, b.pump(manyRoom)...))
	slices.Sort(got)
	want := []posthaste.MessageID{s.Ticket.ID, id}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		b.Errorf("resumed: got %v started, want %v", got, want)
	}
	if g := b.gate(k); g.WindowUsed != 2 {
		b.Errorf("got %d used in the new window, want 2", g.WindowUsed)
	}
}

func testFlowReset(b *bed) {
	k := b.flow("k")
	all, started := b.acceptMany(3, withFlow(limits("k", 0, 1, time.Hour)))
	b.wantStarted("rate 1", started, all[0])
	op := b.edit(manyRoom, k, func(g *store.Gate) { g.ResetRate(b.Now()) })
	b.wantStarted("the window was emptied", append(op.Started, b.pump(manyRoom)...), all[1])
}

func testTenantGate(b *bed) {
	b.addTenant(2)
	g := b.tenantGate()
	b.edit(0, g, func(g *store.Gate) { g.Parallelism = 2 })
	accept := func(m *posthaste.Message) *ledger.Accept {
		d := b.draft(m, 0)
		d.Path = ledger.PathOf(m, b.shards, true)
		op := b.acceptOp(manyRoom, d)
		op.Tenant = m.Tenant
		b.do(op)
		return op
	}
	plain := accept(b.msg(withCallbacks(true, false)))
	keyed := accept(b.msg(withFlow(limits("k", 5, 0, 0))))
	third := accept(b.msg(inQueue("q")))
	if len(plain.Started) != 1 || len(keyed.Started) != 1 || len(third.Started) != 0 {
		b.Fatalf("got %d, %d, %d started; want 1, 1, 0", len(plain.Started), len(keyed.Started), len(third.Started))
	}
	b.wantGate(g, 2, 1, 3)
	other := accept(b.msg(func(m *posthaste.Message) { m.Tenant = 2 }))
	if len(other.Started) != 1 {
		b.Error("the limit of a tenant held up another one")
	}
	// Callbacks of a limited tenant count, too: the callback comes after the one that waits.
	got := append(b.settle(manyRoom, plain.Started[0], delivered()).Started, b.pump(manyRoom)...)
	b.wantStarted("one ended", got, third.Drafts[0].ID)
	if b.Failed() {
		return
	}
	got = append(b.settle(manyRoom, got[0], delivered()).Started, b.pump(manyRoom)...)
	if len(got) != 1 || b.message(got[0].Ticket.ID).Source == "" {
		b.Errorf("got %v started, want the callback", ids(got))
		return
	}
	b.settle(manyRoom, got[0], delivered())
	b.settle(manyRoom, keyed.Started[0], delivered())

	// The limit comes with what is accepted under it. More room starts what waits, less lets run what runs.
	for i, tt := range []struct{ most, started int }{{1, 1}, {1, 0}, {1, 0}, {3, 2}, {2, 0}, {5, 2}} {
		d := b.draft(b.msg(), 0)
		d.Path = ledger.PathOf(d.Message, b.shards, true)
		op := b.acceptOp(manyRoom, d)
		op.Parallelism = tt.most
		b.do(op)
		if got := append(op.Started, b.pump(manyRoom)...); len(got) != tt.started {
			b.Errorf("message %d, limit %d: got %d started, want %d", i+1, tt.most, len(got), tt.started)
		}
	}
}

func testQueueAndKey(b *bed) {
	// Queue q with parallelism 2, key k with 5 in a second.
	q, k := b.queue("q"), b.flow("k")
	b.edit(0, q, func(g *store.Gate) { g.Parallelism = 2 })
	both := []func(*posthaste.Message){inQueue("q"), withFlow(limits("k", 0, 3, time.Second)), withRetries(1)}
	op := b.acceptOp(manyRoom)
	for i := range 4 {
		m := b.msg(both...)
		if i == 1 {
			m.Callback = &posthaste.Callback{URL: "https://example.com/callback"}
		}
		op.Drafts = append(op.Drafts, b.draft(m, 0))
	}
	b.do(op)
	m := op.Drafts
	b.wantStarted("two slots", op.Started, m[0].ID, m[1].ID)
	b.wantGate(q, 2, 2, 4)
	b.wantGate(k, 2, 0, 4)
	first := b.settle(manyRoom, op.Started[0], delivered()).Started
	b.wantStarted("a slot is free, and the window is open", first, m[2].ID)
	// A callback keeps the slot of its source; the key is free.
	cb := b.settle(manyRoom, op.Started[1], delivered()).Started
	if len(cb) != 1 || b.message(cb[0].Ticket.ID).Source != m[1].ID {
		b.Fatalf("got %v started, want the callback of the second", ids(cb))
	}
	b.wantGate(q, 2, 1, 2)
	if got := b.settle(manyRoom, cb[0], delivered()).Started; len(got) > 0 {
		b.Errorf("%v started over the rate", ids(got))
	}
	b.none("over the rate")
	// The fourth has its slot now, and waits at the key for the window.
	if t := b.ticket(m[3].ID); t.Slot.Source != m[3].ID || t.ParkedAt != k {
		b.Errorf("got %+v, want it to hold a slot and wait at the key", t)
	}
	// A retry passes the queue's limit, not the key's.
	b.settle(0, first[0], failed())
	b.wantGate(q, 2, 0, 2)
	b.none("over the rate")
	b.Advance(time.Second)
	got := b.pump(manyRoom)
	if len(got) != 2 {
		b.Fatalf("in the next window: got %v started, want two", ids(got))
	}
	for _, s := range got {
		b.settle(0, s, delivered())
	}
	b.wantGate(q, 0, 0, 0)
	b.wantGate(k, 0, 0, 0)
}

func testFlowLong(b *bed) {
	// More than one operation tries at a time, and marks that lead from one to the next.
	const n = 60
	k := b.flow("k")
	b.edit(0, k, func(g *store.Gate) { g.Paused = true })
	all, _ := b.acceptMany(n, withFlow(limits("k", n, 0, 0)))
	op := b.edit(manyRoom, k, func(g *store.Gate) { g.Paused = false })
	if len(op.Started) == n || len(op.Next) == 0 {
		b.Logf("one operation started %d of %d", len(op.Started), n)
	}
	b.wantStarted("all have room", append(op.Started, b.pump(manyRoom)...), all...)
	b.wantGate(k, n, 0, n)
	// With room for a few, a node takes as many, and another one the rest.
	b.edit(0, k, func(g *store.Gate) { g.Parallelism = 2 * n })
	more, started := b.accept(0, slices.Collect(func(yield func(*posthaste.Message) bool) {
		for range n {
			if !yield(b.msg(withFlow(limits("k", 2*n, 0, 0)))) {
				return
			}
		}
	})...)
	started = append(started, b.pump(7)...)
	if len(started) != 7 {
		b.Errorf("got %d started on a node with room for 7", len(started))
	}
	b.wantStarted("all have room", append(started, b.pump(manyRoom)...), more...)
}

func testFlowPausedQueue(b *bed) {
	// A message that has its slot and waits at a key must not start while its queue is paused; then it comes first.
	q := b.queue("q")
	holder := b.acceptStarted(b.msg(withFlow(limits("k", 1, 0, 0))))
	id := b.acceptOne(manyRoom, b.msg(inQueue("q"), withFlow(limits("k", 1, 0, 0))))
	next := b.acceptOne(manyRoom, b.msg(inQueue("q")))
	b.edit(manyRoom, q, func(g *store.Gate) { g.Paused = true })
	if op := b.settle(manyRoom, holder, delivered()); len(op.Started) > 0 {
		b.Fatalf("%v started in a paused queue", ids(op.Started))
	}
	b.none("while paused")
	op := b.edit(manyRoom, q, func(g *store.Gate) { g.Paused = false })
	got := append(op.Started, b.pump(manyRoom)...)
	b.wantStarted("resumed", got, id)
	b.wantStarted("the first is done", b.settle(manyRoom, got[0], delivered()).Started, next)
}
