package storetest

import (
	"slices"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
)

// trim carries retention to its end.
func (b *bed) trim(p store.TrimParams) (steps int) {
	b.Helper()
	for steps = 1; steps < 10000; steps++ {
		more, err := b.Engine.Trim(b.ctx(), p)
		b.check(err)
		if !more {
			return steps
		}
	}
	b.Fatal("retention does not come to an end")
	return 0
}

// stored reads a message; nil if there is none.
func (b *bed) stored(id posthaste.MessageID) *posthaste.Message {
	b.Helper()
	m, err := b.Engine.Message(b.ctx(), b.tenant, id)
	b.check(err)
	return m
}

// kept returns which of the messages still have content.
func (b *bed) kept(all []posthaste.MessageID) (out []posthaste.MessageID) {
	b.Helper()
	for _, id := range all {
		if b.stored(id) != nil {
			out = append(out, id)
		}
	}
	return out
}

func testTrim(b *bed) {
	done := b.acceptStarted(b.msg(withRetries(1), withRetryNow()))
	b.settle(0, done, failed())
	b.settle(0, b.one(), delivered())
	canceled := b.acceptOne(0, b.msg())
	b.cancel(0, canceled)
	dead := b.die()
	deadLetter, err := b.Engine.DeadLetter(b.ctx(), dead)
	b.check(err)

	delayed := b.draft(b.msg(), 100*24*time.Hour)
	b.do(b.acceptOp(0, delayed))
	retrying := b.acceptStarted(b.msg(withRetries(1), func(m *posthaste.Message) { m.RetryDelay = "80000000" }))
	b.settle(0, retrying, failed())
	claimed := b.acceptStarted(b.msg(inQueue("q")))
	waiting := b.acceptOne(manyRoom, b.msg(inQueue("q")))
	ready := b.acceptOne(0, b.msg())
	pending := []posthaste.MessageID{delayed.ID, retrying.Ticket.ID, claimed.Ticket.ID, waiting, ready}

	b.Advance(time.Hour)
	cut := b.Now()
	b.Advance(time.Hour)
	// It was accepted long ago, and ends only now.
	s := b.acceptStarted(b.msg())
	b.settle(0, s, delivered())
	young := s.Ticket.ID

	all := append([]posthaste.MessageID{done.Ticket.ID, canceled, deadLetter.Message, young}, pending...)
	if b.trim(store.TrimParams{Now: b.Now(), Limit: 100}); len(b.kept(all)) != len(all) {
		b.Errorf("got %d of %d kept without a bound of age", len(b.kept(all)), len(all))
	}
	b.trim(store.TrimParams{Now: b.Now(), Keep: store.Keep{Messages: cut}, Limit: 100})
	if got := b.kept(all); !slices.Equal(got, all[2:]) {
		b.Errorf("got %v kept, want %v: what is pending, dead-lettered or young", got, all[2:])
	}
	for _, id := range all[:2] {
		if a, k := b.attempts(id), b.marks(id); len(a)+len(k) > 0 {
			b.Errorf("got %d attempts, %d marks of a message that is gone", len(a), len(k))
		}
	}
	for s := store.StreamCreated; s <= store.StreamMarks; s++ {
		rows, err := b.Engine.LogRows(b.ctx(), b.tenant, s, store.LogPos{}, store.Page{Limit: 100})
		b.check(err)
		for _, r := range rows {
			if slices.Contains(all[:2], r.ID) {
				b.Errorf("stream %d: got %+v of a message that is gone", s, r)
			}
		}
	}
	if a := b.attempts(retrying.Ticket.ID); len(a) != 1 {
		b.Errorf("got %d attempts of a pending message, want 1", len(a))
	}
	// What ended recently is kept although it was accepted long ago.
	b.settle(0, claimed, delivered())
	b.trim(store.TrimParams{Now: b.Now(), Keep: store.Keep{Messages: b.Now().Add(-time.Minute)}, Limit: 100})
	if got := b.kept(all); !slices.Contains(got, claimed.Ticket.ID) {
		b.Error("a message that has just ended is gone, because it was accepted long ago")
	}
	// And all of it goes on.
	b.Advance(200 * 24 * time.Hour)
	if got := b.pump(manyRoom); len(got) != 4 {
		b.Errorf("got %d started after retention, want 4", len(got))
	}
}

func testTrimDead(b *bed) {
	old := b.die()
	letter, err := b.Engine.DeadLetter(b.ctx(), old)
	b.check(err)
	b.Advance(time.Hour)
	cut := b.Now()
	b.Advance(time.Second)
	young := b.die()
	b.trim(store.TrimParams{Now: b.Now(), Keep: store.Keep{Messages: b.Now()}, Limit: 100})
	if d := b.deadLetters(); len(d) != 2 {
		b.Errorf("got %d dead letters without a bound of age, want 2", len(d))
	}
	b.Advance(time.Second)
	b.trim(store.TrimParams{Now: b.Now(), Keep: store.Keep{Messages: b.Now(), Dead: cut}, Limit: 100})
	b.trim(store.TrimParams{Now: b.Now(), Keep: store.Keep{Messages: b.Now(), Dead: cut}, Limit: 100})
	if d := b.deadLetters(); len(d) != 1 || d[0].ID != young.ID {
		b.Errorf("got dead letters %v, want %s alone", d, young.ID)
	}
	if got := b.kept([]posthaste.MessageID{letter.Message}); len(got) > 0 {
		b.Error("the content of a dead letter that is gone is kept")
	}
	// A retry of the one that is left still has its content.
	if got := b.kept([]posthaste.MessageID{b.deadLetters()[0].Message}); len(got) != 1 {
		b.Error("the content of a dead letter is gone")
	}
	b.do(b.requeueOp(true, young))
}

func testTrimTick(b *bed) {
	fire := func(next time.Duration) posthaste.MessageID {
		b.schedule("s", func(t *store.Tick) { t.Next = b.Now() })
		d := b.draft(b.msg(func(m *posthaste.Message) { m.Schedule = "s" }), 0)
		op := b.acceptOp(manyRoom, d)
		t := b.tick("s")
		op.Firing = &ledger.Firing{Ref: t.TickRef, Rev: t.Rev, At: t.Next, Next: t.Next.Add(next)}
		b.do(op)
		b.settle(0, op.Started[0], delivered())
		return d.ID
	}
	first := fire(time.Hour)
	b.Advance(48 * time.Hour)
	p := store.TrimParams{Now: b.Now(), Keep: store.Keep{Messages: b.Now(), Content: b.Now()}, Limit: 100}
	b.trim(p)
	if m := b.stored(first); m == nil || m.Stripped || len(b.attempts(first)) != 1 {
		b.Errorf("got %+v, want what the last tick of a schedule made", m)
	}
	second := fire(time.Hour)
	b.Advance(time.Hour)
	p = store.TrimParams{Now: b.Now(), Keep: store.Keep{Messages: b.Now()}, Limit: 100}
	b.trim(p)
	if got := b.kept([]posthaste.MessageID{first, second}); len(got) != 1 || got[0] != second {
		b.Errorf("got %v kept, want %s alone: there was another tick", got, second)
	}
	b.do(&ledger.Configure{
		Tenant: b.tenant, Keys: []store.ConfigKey{{Tenant: b.tenant, Kind: store.ConfigSchedule, Name: "s"}},
		Edit:    func(time.Time, []*store.ConfigRow) ([]*store.ConfigRow, error) { return []*store.ConfigRow{nil}, nil },
		TickRef: &store.TickRef{Tenant: b.tenant, Schedule: "s"}, TickGone: true,
	})
	if b.trim(p); len(b.kept([]posthaste.MessageID{second})) > 0 {
		b.Error("got the message of a schedule that was deleted kept")
	}
}

// testTrimTenants keeps the things of tenants for different times, and content for another time than the log.
func testTrimTenants(b *bed) {
	const tenants = 4
	ids, dead, waits := map[posthaste.TenantID]posthaste.MessageID{}, map[posthaste.TenantID]store.DeadKey{}, map[posthaste.TenantID]posthaste.MessageID{}
	for id := posthaste.TenantID(1); id <= tenants; id++ {
		b.addTenant(id)
		of := b.on(b.TB)
		of.tenant = id
		rich := func(m *posthaste.Message) {
			m.Labels = []string{"l"}
			m.Callback = &posthaste.Callback{URL: "https://example.com/back", Header: posthaste.Header{"X": {"y"}}}
		}
		s := of.acceptStarted(of.msg(rich))
		of.settle(0, s, delivered())
		ids[id], dead[id], waits[id] = s.Ticket.ID, of.die(), of.acceptOne(0, of.msg())
	}
	b.Advance(time.Hour)
	cut, never := b.Now(), b.Now().Add(-24*time.Hour)
	b.Advance(time.Hour)
	p := store.TrimParams{Now: b.Now(), Keep: store.Keep{Messages: never, Content: cut, Dead: never}, Limit: 3, Tenants: map[posthaste.TenantID]store.Keep{
		2: {Messages: cut, Dead: cut},
		3: {Messages: never, Content: never, Dead: cut},
		4: {},
	}}
	b.trim(p)
	b.trim(p) // once more for what the dead letters named
	for id, want := range map[posthaste.TenantID]string{1: "stripped dead", 2: "gone", 3: "whole", 4: "whole dead"} {
		of := b.on(b.TB)
		of.tenant = id
		got := "gone"
		if m := of.stored(ids[id]); m != nil && m.Stripped {
			got = "stripped"
			if len(m.Body)+len(m.Header)+len(m.Callback.Header) > 0 || m.URL == "" || len(m.Labels) != 1 || m.CreatedAt.IsZero() || len(of.attempts(ids[id])) != 1 {
				b.Errorf("tenant %d: got %+v, want what the log tells of", id, m)
			}
		} else if m != nil {
			got = "whole"
		}
		if d, err := b.Engine.DeadLetter(b.ctx(), dead[id]); err != nil {
			b.Error(err)
		} else if d != nil {
			got += " dead"
			if m := of.stored(d.Message); m == nil || m.Stripped {
				b.Errorf("tenant %d: got %+v, want the content of a dead letter", id, m)
			}
		}
		if got != want {
			b.Errorf("tenant %d: got it %s, want %s", id, got, want)
		}
		if m := of.stored(waits[id]); m == nil || m.Stripped {
			b.Errorf("tenant %d: got %+v, want the content of a message that waits", id, m)
		}
	}
	// What was pending then is stripped some time after its end.
	of := b.on(b.TB)
	started := of.pump(manyRoom)
	for _, s := range started {
		if s.Ticket.Tenant == 1 {
			of.settle(0, s, delivered())
		}
	}
	b.Advance(3 * time.Hour)
	p.Now, p.Content = b.Now(), b.Now().Add(-time.Hour)
	b.trim(p)
	if m := of.stored(waits[1]); m == nil || !m.Stripped {
		b.Errorf("got %+v, want it stripped", m)
	}
}

func testTrimRest(b *bed) {
	k, pinned, busy := b.flow("k"), b.flow("pinned"), b.flow("busy")
	s := b.acceptStarted(b.msg(withFlow(limits("k", 1, 1, time.Hour))))
	b.settle(0, s, delivered())
	b.edit(0, pinned, func(g *store.Gate) { g.Rate, g.Period, g.PinnedRate = 1, time.Minute, true })
	running := b.acceptStarted(b.msg(withFlow(limits("busy", 1, 0, 0)), inQueue("q")))
	d := b.draft(b.msg(), time.Hour)
	d.Dedup, d.Window = &store.DedupKey{Tenant: b.tenant, Key: "x"}, time.Minute
	b.do(b.acceptOp(0, d))
	e := b.draft(b.msg(), time.Hour)
	e.Dedup, e.Window = &store.DedupKey{Tenant: b.tenant, Key: "y"}, 24*time.Hour
	b.do(b.acceptOp(0, e))

	b.Advance(30 * time.Minute)
	b.trim(store.TrimParams{Now: b.Now(), Limit: 100})
	if g := b.gate(k); g.WindowUsed != 1 {
		b.Errorf("got key %+v, want its window kept as long as it lasts", g)
	}
	b.Advance(10 * time.Hour)
	b.trim(store.TrimParams{Now: b.Now(), Limit: 100})
	if g, err := b.Engine.Gate(b.ctx(), k); err != nil || g != nil {
		b.Errorf("got key %+v, %v; want none, it was not used for long", g, err)
	}
	if g := b.gate(pinned); !g.PinnedRate {
		b.Errorf("got key %+v, want its pin kept", g)
	}
	if g := b.gate(busy); g.InUse != 1 || g.Live != 1 {
		b.Errorf("got key %+v, want what is in use kept", g)
	}
	b.settle(0, running, delivered())
	b.Advance(10 * time.Hour)
	b.trim(store.TrimParams{Now: b.Now(), Limit: 100})
	if g := b.gate(b.queue("q")); g.CreatedAt.IsZero() {
		b.Error("an unused queue is gone, nobody deleted it")
	}
	if x, err := b.Engine.Dedup(b.ctx(), *d.Dedup); err != nil || x != nil {
		b.Errorf("got %+v, %v; want none, its window is over", x, err)
	}
	if x, err := b.Engine.Dedup(b.ctx(), *e.Dedup); err != nil || x == nil || x.Message != e.ID {
		b.Errorf("got %+v, %v; want an entry, its window is not over", x, err)
	}
	// A deleted queue keeps its Gen while there are tickets of it.
	b.edit(0, b.queue("r"), func(g *store.Gate) { g.Paused = true })
	id := b.acceptOne(0, b.msg(inQueue("r")))
	b.do(&ledger.DeleteQueue{Queue: b.queue("r")})
	b.trim(store.TrimParams{Now: b.Now().Add(time.Hour), Limit: 100})
	b.Advance(time.Hour)
	fresh := b.acceptStarted(b.msg(inQueue("r")))
	b.pump(manyRoom)
	b.wantPhase(posthaste.PhaseNone, id)
	b.settle(0, fresh, delivered())
}

func testTrimSteps(b *bed) {
	const n = 100
	for range n {
		b.settle(0, b.acceptStarted(b.msg()), delivered())
	}
	var pending []posthaste.MessageID
	for range n / 4 {
		pending = append(pending, b.acceptOne(0, b.msg()))
	}
	b.Advance(time.Hour)
	p := store.TrimParams{Now: b.Now(), Keep: store.Keep{Messages: b.Now()}, Limit: 10}
	left := n + len(pending)
	for step := 0; ; step++ {
		more, err := b.Engine.Trim(b.ctx(), p)
		b.check(err)
		list, err := b.Engine.MessageList(b.ctx(), b.tenant, "", store.Page{Limit: 1000})
		b.check(err)
		if gone := left - len(list); gone > p.Limit {
			b.Errorf("step %d removed %d messages, want at most %d", step, gone, p.Limit)
		}
		if left = len(list); !more {
			break
		}
		if step == 10000 {
			b.Fatal("retention does not come to an end")
		}
	}
	if left != len(pending) || len(b.kept(pending)) != len(pending) {
		b.Errorf("got %d messages left, want the %d that are pending", left, len(pending))
	}
}
