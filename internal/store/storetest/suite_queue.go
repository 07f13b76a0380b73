package storetest

import (
	"errors"
	"slices"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
)

// wantGate checks the counters of a gate.
func (b *bed) wantGate(ref store.GateRef, inUse int, waiting, live int64) {
	b.Helper()
	if g := b.gate(ref); g.InUse != inUse || g.Waiting != waiting || g.Live != live {
		b.Errorf("%s: got in use %d, waiting %d, live %d; want %d, %d, %d", gateName(ref), g.InUse, g.Waiting, g.Live, inUse, waiting, live)
	}
}

// wantStarted checks which messages started, in order.
func (b *bed) wantStarted(what string, got []ledger.Start, want ...posthaste.MessageID) {
	b.Helper()
	if !slices.Equal(ids(got), want) {
		b.Errorf("%s: got %v started, want %v", what, ids(got), want)
	}
}

func testQueueOrder(b *bed) {
	q := b.queue("q")
	var all []posthaste.MessageID
	var running ledger.Start
	for i := range 12 {
		list, started := b.accept(manyRoom, b.msg(inQueue("q")))
		all = append(all, list...)
		if (len(started) > 0) != (i == 0) {
			b.Fatalf("message %d: got %d started", i, len(started))
		}
		if i == 0 {
			running = started[0]
		}
	}
	if g := b.gate(q); g.Parallelism != 1 || g.CreatedAt.IsZero() {
		b.Errorf("got queue %+v, want parallelism 1 and a time of creation", g)
	}
	b.wantPhase(posthaste.PhaseWaiting, all[1:]...)
	b.wantGate(q, 1, 11, 12)
	for i := range all {
		if running.Ticket.ID != all[i] {
			b.Fatalf("number %d to start: got %s, want %s", i, running.Ticket.ID, all[i])
		}
		b.none("while the queue is full")
		op := b.settle(1, running, []*ledger.Result{delivered(), failed()}[i%2])
		if i == len(all)-1 {
			break
		}
		// The settlement that gives the slot back starts the next one.
		if len(op.Started) != 1 {
			b.Fatalf("after number %d: got %d started, want 1", i, len(op.Started))
		}
		running = op.Started[0]
	}
	b.wantGate(q, 0, 0, 0)
	// Drafts of one request keep their order, too, and so do requests of nodes with and without room.
	op := b.acceptOp(0, b.draft(b.msg(inQueue("q")), 0), b.draft(b.msg(inQueue("q")), 0))
	b.do(op)
	third, s := b.accept(manyRoom, b.msg(inQueue("q")))
	all = []posthaste.MessageID{op.Drafts[0].ID, op.Drafts[1].ID, third[0]}
	s = append(s, b.pump(manyRoom)...)
	for i := range all {
		if len(s) != 1 || s[0].Ticket.ID != all[i] {
			b.Fatalf("got %v started, want %s", ids(s), all[i])
		}
		s = b.settle(manyRoom, s[0], delivered()).Started
	}
}

func testQueueParallelism(b *bed) {
	q := b.queue("q")
	b.edit(0, q, func(g *store.Gate) { g.Parallelism = 3 })
	all, started := b.acceptMany(9, inQueue("q"))
	b.wantStarted("parallelism 3", started, all[:3]...)
	b.wantGate(q, 3, 6, 9)
	op := b.settle(manyRoom, started[1], delivered())
	b.wantStarted("a slot is free", op.Started, all[3])
	started = []ledger.Start{started[0], started[2], op.Started[0]}
	// Raised, it takes effect at once.
	edit := b.edit(manyRoom, q, func(g *store.Gate) { g.Parallelism = 5 })
	b.wantStarted("parallelism 5", edit.Started, all[4:6]...)
	started = append(started, edit.Started...)
	// Lowered, open ones finish, and nothing starts until fewer are open.
	b.edit(manyRoom, q, func(g *store.Gate) { g.Parallelism = 2 })
	b.wantGate(q, 5, 3, 8)
	for i := range 3 {
		if op := b.settle(manyRoom, started[i], delivered()); len(op.Started) > 0 {
			b.Errorf("with %d open of 2: got %v started", 5-i-1, ids(op.Started))
		}
	}
	op = b.settle(manyRoom, started[3], delivered())
	b.wantStarted("with 1 open of 2", op.Started, all[6])
	if got := b.gate(q).Parallelism; got != 2 {
		b.Errorf("got parallelism %d, want 2: messages do not change it", got)
	}
}

func testQueueNoRoom(b *bed) {
	// A node without room must not take a slot: another message would start first.
	q := b.queue("q")
	b.edit(0, q, func(g *store.Gate) { g.Parallelism = 2 })
	first, _ := b.accept(0, b.msg(inQueue("q")))
	second, started := b.accept(manyRoom, b.msg(inQueue("q")))
	b.wantStarted("both have room", append(started, b.pump(manyRoom)...), first[0], second[0])
}

func testRetryKeepsSlot(b *bed) {
	q := b.queue("q")
	s := b.acceptStarted(b.msg(inQueue("q"), withRetries(1)))
	next := b.acceptOne(manyRoom, b.msg(inQueue("q")))
	if op := b.settle(manyRoom, s, failed()); len(op.Started) > 0 {
		b.Fatal("the next message started while the head waits for its retry")
	}
	b.none("while the head waits for its retry")
	b.wantGate(q, 1, 1, 2)
	b.Advance(time.Second)
	again := b.one()
	if again.Ticket.ID != s.Ticket.ID {
		b.Fatalf("got %s started, want the retry of the head", again.Ticket.ID)
	}
	b.wantStarted("the head failed", b.settle(manyRoom, again, failed()).Started, next)
}

func testCallbackSlot(b *bed) {
	q := b.queue("q")
	for _, end := range []string{"delivered", "failed", "canceled"} {
		s := b.acceptStarted(b.msg(inQueue("q"), withCallbacks(true, true), withRetries(1), withRetryNow(), func(m *posthaste.Message) {
			none := 0
			m.Callback.Retries, m.FailureCallback.Retries = &none, &none
		}))
		next := b.acceptOne(manyRoom, b.msg(inQueue("q")))
		var callbacks []ledger.Start
		callbacks = append(callbacks, b.settle(1, s, failed()).Started...) // after the first attempt
		again := b.one()
		callbacks = append(callbacks, b.settle(manyRoom, again, failed()).Started...)
		if len(callbacks) != 3 {
			b.Fatalf("got %d callbacks, want 3", len(callbacks))
		}
		slot, err := b.Engine.Slot(b.ctx(), callbacks[0].Ticket.Slot)
		b.check(err)
		if slot == nil || slot.Open != 3 || slot.Source != s.Ticket.ID {
			b.Errorf("got slot %+v, want 3 open of %s", slot, s.Ticket.ID)
		}
		b.wantGate(q, 1, 1, 1)
		b.none("while callbacks are unresolved")
		var started []ledger.Start
		for i, cb := range callbacks {
			switch end {
			case "delivered":
				started = b.settle(manyRoom, cb, delivered()).Started
			case "failed":
				started = b.settle(manyRoom, cb, failed()).Started
			case "canceled":
				b.do(&ledger.Release{Ticket: cb.Ticket})
				started = b.cancel(manyRoom, cb.Ticket.ID).Started
			}
			if i < 2 && len(started) > 0 {
				b.Fatalf("%v started with %d callbacks unresolved", ids(started), 2-i)
			}
		}
		b.wantStarted("callbacks "+end, started, next)
		b.settle(0, started[0], delivered())
		b.wantGate(q, 0, 0, 0)
	}
}

func testQueuePause(b *bed) {
	q := b.queue("q")
	b.edit(0, q, func(g *store.Gate) { g.Parallelism = 2 })
	retried := b.acceptStarted(b.msg(inQueue("q"), withRetries(1)))
	running := b.acceptStarted(b.msg(inQueue("q")))
	b.settle(0, retried, failed())
	third := b.acceptOne(manyRoom, b.msg(inQueue("q")))
	b.edit(manyRoom, q, func(g *store.Gate) { g.Paused = true })
	b.settle(manyRoom, running, delivered())
	fourth := b.acceptOne(manyRoom, b.msg(inQueue("q")))
	b.Advance(time.Minute)
	b.none("while paused")
	b.wantPhase(posthaste.PhaseWaiting, retried.Ticket.ID, third, fourth)
	op := b.edit(manyRoom, q, func(g *store.Gate) { g.Paused = false })
	b.wantStarted("resumed", append(op.Started, b.pump(manyRoom)...), retried.Ticket.ID, third)
	b.wantGate(q, 2, 1, 3)
	// A queue may be paused before it has messages.
	b.edit(0, b.queue("r"), func(g *store.Gate) { g.Paused = true })
	fifth := b.acceptOne(manyRoom, b.msg(inQueue("r")))
	b.none("while paused")
	op = b.edit(manyRoom, b.queue("r"), func(g *store.Gate) { g.Paused = false })
	b.wantStarted("resumed", op.Started, fifth)
}

func testQueueDelayed(b *bed) {
	b.edit(0, b.queue("q"), func(g *store.Gate) { g.Paused = true })
	var drafts []*ledger.Draft
	for _, s := range []time.Duration{30, 10, 20, 10} {
		d := b.draft(b.msg(inQueue("q")), s*time.Second)
		b.do(b.acceptOp(manyRoom, d))
		drafts = append(drafts, d)
		b.Advance(time.Millisecond)
	}
	b.wantGate(b.queue("q"), 0, 0, 4)
	b.Advance(15 * time.Second)
	b.none("while paused")
	now := b.acceptOne(manyRoom, b.msg(inQueue("q"))) // comes after those that ripened before
	b.Advance(15 * time.Second)
	b.none("while paused") // two ripen at once, in the order of their moments
	b.wantGate(b.queue("q"), 0, 5, 5)
	want := []posthaste.MessageID{drafts[1].ID, drafts[3].ID, now, drafts[2].ID, drafts[0].ID}
	heads, err := b.Engine.Heads(b.ctx(), b.queue("q"), 10)
	b.check(err)
	var got []posthaste.MessageID
	for _, h := range heads {
		got = append(got, h.ID)
	}
	if !slices.Equal(got, want) {
		b.Errorf("got line %v, want %v", got, want)
	}
}

func testQueueDelete(b *bed) {
	q := b.queue("q")
	op := &ledger.DeleteQueue{Queue: q}
	if b.do(op); op.Existed {
		b.Error("a queue that nobody made existed")
	}
	b.edit(0, q, func(g *store.Gate) { g.Parallelism = 2 })
	fails := b.acceptStarted(b.msg(inQueue("q"), withRetries(3), withCallbacks(true, true)))
	succeeds := b.acceptStarted(b.msg(inQueue("q"), withCallbacks(true, true)))
	waits := b.acceptOne(manyRoom, b.msg(inQueue("q")))
	flow := withFlow(posthaste.FlowControl{Key: "k", Parallelism: 1})
	waitsToo := b.acceptOne(manyRoom, b.msg(inQueue("q"), flow))
	delayed := b.draft(b.msg(inQueue("q")), time.Hour)
	b.do(b.acceptOp(0, delayed))
	gen := b.gate(q).Gen
	if b.do(op); !op.Existed {
		b.Error("the queue did not exist")
	}
	g := b.gate(q)
	if g.Gen <= gen || !g.CreatedAt.IsZero() || g.InUse != 0 || g.Live != 0 {
		b.Errorf("got gate %+v, want a new Gen and nothing in use", g)
	}
	// It is made again, and what is left of the old one does not count for it.
	news, started := b.acceptMany(2, inQueue("q"))
	started = append(started, b.pump(manyRoom)...)
	b.wantStarted("the new queue", started, news[0])
	if b.Failed() {
		return
	}
	fresh, second := started[0], news[1]
	if g := b.gate(q); g.Parallelism != 1 || g.CreatedAt.IsZero() {
		b.Errorf("got queue %+v, want a new one", g)
	}
	b.none("while the new queue is full")
	if op := b.settle(manyRoom, fails, failed()); op.Attempt.State != posthaste.StateCanceled || len(op.Started) > 0 {
		b.Errorf("a failure of a deleted queue: got %s, %d started", op.Attempt.State, len(op.Started))
	}
	if op := b.settle(manyRoom, succeeds, delivered()); op.Attempt.State != posthaste.StateDelivered || len(op.Started) > 0 {
		b.Errorf("a success of a deleted queue: got %s, %d started", op.Attempt.State, len(op.Started))
	}
	known, err := b.Engine.TicketList(b.ctx(), b.tenant, "", 100)
	b.check(err)
	b.do(&ledger.Cancel{Known: known, OnlyGen: true})
	b.wantPhase(posthaste.PhaseNone, waits, waitsToo, delayed.ID, fails.Ticket.ID, succeeds.Ticket.ID)
	for _, id := range []posthaste.MessageID{waits, waitsToo, delayed.ID} {
		if got, want := b.marks(id), []posthaste.LogState{posthaste.StateCancelRequested, posthaste.StateCanceled}; !slices.Equal(got, want) {
			b.Errorf("got marks %v, want %v", got, want)
		}
	}
	b.wantPhase(posthaste.PhaseWaiting, second)
	b.wantGate(q, 1, 1, 2)
	b.wantGate(b.flow("k"), 0, 0, 0)
	b.wantStarted("the new queue goes on", b.settle(manyRoom, fresh, delivered()).Started, second)
	if d := b.deadLetters(); len(d) > 0 {
		b.Errorf("got %d dead letters of canceled messages", len(d))
	}
	if n := len(b.callbacksOf(fails.Ticket.ID)) + len(b.callbacksOf(succeeds.Ticket.ID)); n > 0 {
		b.Errorf("got %d callbacks of canceled messages", n)
	}
}

func testQueueDeleteLong(b *bed) {
	const n = 3 * ledger.MaxStep / 2
	q := b.queue("q")
	b.edit(0, q, func(g *store.Gate) { g.Paused = true })
	op := b.acceptOp(0)
	for range n {
		op.Drafts = append(op.Drafts, b.draft(b.msg(inQueue("q")), 0))
	}
	b.do(op)
	b.wantGate(q, 0, n, n)
	b.do(&ledger.DeleteQueue{Queue: q})
	fresh := b.acceptOne(manyRoom, b.msg(inQueue("q")))
	// Whoever sweeps comes to the end of it, also without a list of what there was.
	started := b.pump(manyRoom)
	b.wantStarted("the new queue", started, fresh)
	b.wantPhase(posthaste.PhaseNone, op.Drafts[0].ID, op.Drafts[n-1].ID)
	b.wantGate(q, 1, 0, 1)
}

func testEditFails(b *bed) {
	q := b.queue("q")
	b.accept(manyRoom, b.msg(inQueue("q")), b.msg(inQueue("q")))
	before := b.dump()
	no := errors.New("no")
	err := b.submit(&ledger.EditGate{Gate: q, Node: b.with(manyRoom), Edit: func(_ time.Time, g *store.Gate) error {
		g.Parallelism, g.Paused = 7, true
		return no
	}})
	if !errors.Is(err, no) {
		b.Errorf("got %v, want the edit's error", err)
	}
	if d := diff(b.dump(), before); d != "" {
		b.Errorf("an edit that failed changed something %s", d)
	}
}
