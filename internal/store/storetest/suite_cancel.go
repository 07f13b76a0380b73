package storetest

import (
	"slices"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
)

// wantCanceled checks that messages are resolved as CANCELED, and stay so.
func (b *bed) wantCanceled(all ...posthaste.MessageID) {
	b.Helper()
	b.wantPhase(posthaste.PhaseNone, all...)
	for _, id := range all {
		if got, want := b.marks(id), []posthaste.LogState{posthaste.StateCancelRequested, posthaste.StateCanceled}; !slices.Equal(got, want) {
			b.Errorf("%s: got marks %v, want %v", id, got, want)
		}
	}
	if d := b.deadLetters(); len(d) > 0 {
		b.Errorf("got %d dead letters of canceled messages", len(d))
	}
}

func testCancelWaiting(b *bed) {
	delayed := b.draft(b.msg(), time.Hour)
	b.do(b.acceptOp(0, delayed))
	ready := b.acceptOne(0, b.msg())
	running := b.acceptStarted(b.msg(inQueue("q")))
	queued, _ := b.acceptMany(3, inQueue("q"))
	flow := withFlow(limits("k", 1, 0, 0))
	holder := b.acceptStarted(b.msg(flow))
	waiting, _ := b.acceptMany(3, flow)

	op := b.cancel(0, delayed.ID, ready, queued[1], waiting[0], waiting[2])
	if op.Canceled != 5 {
		b.Errorf("got %d canceled, want 5", op.Canceled)
	}
	gone := []posthaste.MessageID{delayed.ID, ready, queued[1], waiting[0], waiting[2]}
	b.wantCanceled(gone...)
	if op := b.cancel(0, gone...); op.Canceled != 0 {
		b.Errorf("got %d canceled the second time, want 0", op.Canceled)
	}
	b.wantGate(b.queue("q"), 1, 2, 3)
	b.wantGate(b.flow("k"), 1, 1, 2)
	b.Advance(2 * time.Hour)
	b.none("after the cancel")
	got := b.settle(manyRoom, running, delivered()).Started
	b.wantStarted("the queue goes on", got, queued[0])
	b.wantStarted("the queue goes on", b.settle(manyRoom, got[0], delivered()).Started, queued[2])
	b.wantStarted("the key goes on", b.settle(manyRoom, holder, delivered()).Started, waiting[1])
}

func testCancelRunning(b *bed) {
	edits := []func(*posthaste.Message){inQueue("q"), withFlow(limits("k", 1, 0, 0)), withRetries(3), withCallbacks(true, true)}
	for _, c := range []struct {
		result *ledger.Result
		want   posthaste.LogState
	}{
		{delivered(), posthaste.StateDelivered}, {failed(), posthaste.StateCanceled}, {refused(), posthaste.StateCanceled},
	} {
		s := b.acceptStarted(b.msg(edits...))
		id := s.Ticket.ID
		if op := b.cancel(manyRoom, id); op.Canceled != 1 {
			b.Errorf("got %d canceled, want 1", op.Canceled)
		}
		t := b.ticket(id)
		if t == nil || !t.Cancel || t.Phase != posthaste.PhaseClaimed || t.Fence != s.Ticket.Fence || t.Node != s.Ticket.Node {
			b.Fatalf("got ticket %+v, want the claim with a mark", t)
		}
		if op := b.cancel(manyRoom, id); op.Canceled != 0 {
			b.Errorf("got %d canceled the second time, want 0", op.Canceled)
		}
		next := b.acceptOne(manyRoom, b.msg(inQueue("q")))
		op := b.settle(manyRoom, s, c.result)
		if op.Attempt.State != c.want {
			b.Errorf("outcome %s: got %s, want %s", c.result.Outcome, op.Attempt.State, c.want)
		}
		b.wantPhase(posthaste.PhaseNone, id)
		b.wantStarted("the queue goes on", op.Started, next)
		b.settle(0, op.Started[0], delivered())
		if n := len(b.callbacksOf(id)); n > 0 {
			b.Errorf("outcome %s: got %d callbacks after a cancel", c.result.Outcome, n)
		}
		if got, want := b.marks(id), []posthaste.LogState{posthaste.StateCancelRequested}; !slices.Equal(got, want) {
			b.Errorf("outcome %s: got marks %v, want %v", c.result.Outcome, got, want)
		}
	}
	if d := b.deadLetters(); len(d) > 0 {
		b.Errorf("got %d dead letters after cancels", len(d))
	}
	b.Advance(time.Hour)
	b.none("after the cancels")
	b.wantGate(b.queue("q"), 0, 0, 0)
	b.wantGate(b.flow("k"), 0, 0, 0)
}

func testCancelRetrying(b *bed) {
	s := b.acceptStarted(b.msg(inQueue("q"), withRetries(3), withCallbacks(true, false)))
	next := b.acceptOne(manyRoom, b.msg(inQueue("q")))
	cb := b.settle(manyRoom, s, failed()).Started
	if len(cb) != 1 {
		b.Fatalf("got %d started, want the callback", len(cb))
	}
	op := b.cancel(manyRoom, s.Ticket.ID)
	b.wantCanceled(s.Ticket.ID)
	if len(op.Started) > 0 {
		b.Errorf("%v started while a callback of the canceled message holds its slot", ids(op.Started))
	}
	b.wantStarted("the callback is done", b.settle(manyRoom, cb[0], delivered()).Started, next)
	// Without a callback the cancel itself starts the next one.
	s = b.claimed(next)
	b.settle(0, s, delivered())
	s = b.acceptStarted(b.msg(inQueue("q"), withRetries(3)))
	next = b.acceptOne(manyRoom, b.msg(inQueue("q")))
	b.settle(manyRoom, s, failed())
	b.wantStarted("the slot is free", b.cancel(manyRoom, s.Ticket.ID).Started, next)
	// Message and callback at once.
	s = b.claimed(next)
	b.settle(0, s, delivered())
	s = b.acceptStarted(b.msg(inQueue("q"), withRetries(3), withCallbacks(true, false)))
	next = b.acceptOne(manyRoom, b.msg(inQueue("q")))
	b.settle(0, s, failed())
	all := []posthaste.MessageID{s.Ticket.ID, b.callbacksOf(s.Ticket.ID)[0].ID}
	b.wantStarted("the slot is free", b.cancel(manyRoom, all...).Started, next)
	b.wantCanceled(all...)
}

func testCancelReleased(b *bed) {
	released := b.acceptStarted(b.msg(inQueue("q"), withFlow(limits("k", 2, 0, 0)), withCallbacks(true, true)))
	recovered := b.acceptStarted(b.msg(inQueue("r"), withFlow(limits("k", 2, 0, 0)), withCallbacks(true, true)))
	next := b.acceptOne(manyRoom, b.msg(inQueue("q")))
	b.cancel(0, released.Ticket.ID, recovered.Ticket.ID)
	b.do(&ledger.Release{Ticket: released.Ticket, Unsent: true})
	b.do(&ledger.Recover{From: b.node, Known: []*store.Ticket{recovered.Ticket}})
	b.wantCanceled(released.Ticket.ID, recovered.Ticket.ID)
	b.wantStarted("the queue goes on", b.pump(manyRoom), next)
	b.wantGate(b.queue("q"), 1, 0, 1)
	b.wantGate(b.queue("r"), 0, 0, 0)
	b.wantGate(b.flow("k"), 0, 0, 0)
	if n := len(b.callbacksOf(released.Ticket.ID)); n > 0 {
		b.Errorf("got %d callbacks after a cancel", n)
	}
}

func testCancelMany(b *bed) {
	// The first one carries the mark that leads on; when all that stand first are canceled, the one behind them carries it.
	for _, n := range []int{1, 5, 7, 50} {
		for _, gate := range []string{"window", "slot"} {
			key := gate + string(rune('a'+n%26))
			var ref store.GateRef
			var edits []func(*posthaste.Message)
			if gate == "window" {
				ref, edits = b.flow(key), append(edits, withFlow(limits(key, 0, 1, time.Minute)))
			} else {
				ref, edits = b.queue(key), append(edits, inQueue(key))
			}
			first := b.acceptStarted(b.msg(edits...))
			all, _ := b.acceptMany(n+3, edits...)
			if gate == "slot" {
				b.settle(0, first, delivered()) // there is room, and nobody took it
			}
			b.cancel(0, all[:n]...)
			b.wantCanceled(all[:n]...)
			heads, err := b.Engine.Heads(b.ctx(), ref, 10)
			b.check(err)
			if len(heads) != 3 || heads[0].ID != all[n] || heads[0].Due.IsZero() {
				b.Fatalf("%d canceled at a %s: got %d waiting, the first with mark %v; want 3, and a mark", n, gate, len(heads), heads[0].Due)
			}
			b.Advance(time.Minute)
			if got := b.pump(manyRoom); !slices.Contains(ids(got), all[n]) {
				b.Errorf("%d canceled at a %s: got %v started, want %s", n, gate, ids(got), all[n])
			}
			b.cancel(0, all...)
		}
	}
}

func testCancelOutdated(b *bed) {
	// Whoever cancels has read the tickets before. They may have moved since.
	q := b.queue("q")
	s := b.acceptStarted(b.msg(inQueue("q"), withRetries(1)))
	second := b.acceptOne(manyRoom, b.msg(inQueue("q"), withCallbacks(true, true)))
	third := b.acceptOne(manyRoom, b.msg(inQueue("q")))
	known := []*store.Ticket{b.ticket(s.Ticket.ID), b.ticket(second)}
	b.settle(manyRoom, s, delivered()) // the second took the slot and runs
	running := b.claimed(second)
	op := &ledger.Cancel{Known: known, Node: b.with(manyRoom)}
	if b.do(op); op.Canceled != 1 {
		b.Errorf("got %d canceled, want 1: the first one is delivered", op.Canceled)
	}
	b.wantStarted("the queue goes on", b.settle(manyRoom, running, failed()).Started, third)
	b.wantGate(q, 1, 0, 1)
	// One that was waiting and waits for its retry now.
	b.settle(0, b.claimed(third), delivered())
	s = b.acceptStarted(b.msg(inQueue("q")))
	fourth := b.acceptOne(manyRoom, b.msg(inQueue("q"), withRetries(1)))
	fifth := b.acceptOne(manyRoom, b.msg(inQueue("q")))
	known = []*store.Ticket{b.ticket(fourth)}
	got := b.settle(manyRoom, s, delivered()).Started
	b.settle(0, got[0], failed())
	op = &ledger.Cancel{Known: known, Node: b.with(manyRoom)}
	b.do(op)
	b.wantStarted("the slot is free", op.Started, fifth)
	b.wantCanceled(fourth)
	b.wantGate(q, 1, 0, 1)
}
