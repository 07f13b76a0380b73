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

// kept returns which of the messages still have content.
func (b *bed) kept(all []posthaste.MessageID) (out []posthaste.MessageID) {
	b.Helper()
	for _, id := range all {
		m, err := b.Engine.Message(b.ctx(), b.tenant, id)
		b.check(err)
		if m != nil {
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
	b.trim(store.TrimParams{Now: b.Now(), Messages: cut, Limit: 100})
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
	b.trim(store.TrimParams{Now: b.Now(), Messages: b.Now().Add(-time.Minute), Limit: 100})
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
	b.trim(store.TrimParams{Now: b.Now(), Messages: b.Now(), Limit: 100})
	if d := b.deadLetters(); len(d) != 2 {
		b.Errorf("got %d dead letters without a bound of age, want 2", len(d))
	}
	b.Advance(time.Second)
	b.trim(store.TrimParams{Now: b.Now(), Messages: b.Now(), Dead: cut, Limit: 100})
	b.trim(store.TrimParams{Now: b.Now(), Messages: b.Now(), Dead: cut, Limit: 100})
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
	p := store.TrimParams{Now: b.Now(), Messages: b.Now(), Limit: 10}
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
