package storetest

import (
	"slices"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
)

func testRelease(b *bed) {
	for _, unsent := range []bool{true, false} {
		key := map[bool]string{true: "u", false: "s"}[unsent]
		fc := withFlow(limits(key, 1, 1, time.Minute))
		s := b.acceptStarted(b.msg(fc, inQueue(key), withRetries(2)))
		next := b.acceptOne(manyRoom, b.msg(fc))
		b.Advance(time.Microsecond)
		op := &ledger.Release{Ticket: s.Ticket, Unsent: unsent}
		if b.do(op); op.Lost {
			b.Fatal("the claim is lost")
		}
		t := b.ticket(s.Ticket.ID)
		if t == nil || t.Phase != posthaste.PhaseReady || t.Attempt != 0 || t.Fence <= s.Ticket.Fence || t.Slot.Zero() || t.AtOnce {
			b.Errorf("got ticket %+v, want it ready, attempt 0, a higher fence, with its slot", t)
		}
		g := b.gate(b.flow(key))
		if want := map[bool]int{true: 0, false: 1}[unsent]; g.WindowUsed != want || g.InUse != 0 {
			b.Errorf("unsent %t: got %d of the rate, %d in use; want %d, 0", unsent, g.WindowUsed, g.InUse, want)
		}
		if len(b.attempts(s.Ticket.ID)) > 0 {
			b.Error("a released attempt was recorded")
		}
		b.wantGate(b.queue(key), 1, 0, 1)
		// Who waited at the key comes before the released one, which comes to it anew.
		got := b.pump(manyRoom)
		if unsent {
			b.wantStarted("unsent: a unit is left", got, next)
		} else {
			b.wantStarted("sent: no unit is left", got)
			b.Advance(time.Minute)
			got = b.pump(manyRoom)
			b.wantStarted("in the next window", got, next)
		}
		if b.Failed() {
			return
		}
		b.settle(0, got[0], delivered())
		b.Advance(time.Minute)
		b.settle(0, b.one(), delivered())
		b.wantGate(b.flow(key), 0, 0, 0)
		b.wantGate(b.queue(key), 0, 0, 0)
	}
}

func testLeases(b *bed) {
	info := store.NodeInfo{Name: "a", Address: "127.0.0.1:1", TTL: time.Hour}
	lease := store.Lease{NodeEpoch: b.node, TTL: time.Hour}
	renewed, err := b.Engine.Renew(b.ctx(), lease)
	b.check(err)
	if renewed.NodeEpoch != b.node || !renewed.Expires.After(time.Now().Add(time.Minute)) {
		b.Errorf("got lease %+v, want one of %v for an hour", renewed, b.node)
	}
	expired := func() []store.NodeEpoch {
		b.Helper()
		list, err := b.Engine.Expired(b.ctx())
		b.check(err)
		return list
	}
	s := b.acceptStarted(b.msg())
	if slices.Contains(expired(), b.node) {
		b.Error("a lease that is held is expired")
	}
	b.check(b.Engine.Leave(b.ctx(), renewed))
	if _, err := b.Engine.Renew(b.ctx(), renewed); posthaste.CodeOf(err) != posthaste.CodeConflict {
		b.Errorf("renewing a lease that was given back: got %v, want code conflict", err)
	}
	again, err := b.Engine.Join(b.ctx(), info)
	b.check(err)
	if again.Epoch <= b.node.Epoch || again.Node != "a" || again.TTL != time.Hour {
		b.Errorf("got lease %+v after %v, want a later epoch", again, b.node)
	}
	if !slices.Contains(expired(), b.node) {
		b.Errorf("got expired %v, want %v, which owns a claim", expired(), b.node)
	}
	b.do(&ledger.Recover{From: b.node, Known: []*store.Ticket{s.Ticket}})
	b.check(b.Engine.Forget(b.ctx(), b.node))
	if slices.Contains(expired(), b.node) {
		b.Error("a lease that was forgotten is still expired")
	}
	if slices.Contains(expired(), again.NodeEpoch) {
		b.Error("a lease that is held is expired")
	}
}

func testRecover(b *bed) {
	q, k := b.queue("q"), b.flow("k")
	edits := []func(*posthaste.Message){inQueue("q"), withFlow(limits("k", 1, 2, time.Minute)), withRetries(2)}
	s := b.acceptStarted(b.msg(edits...))
	id := s.Ticket.ID
	plain := b.acceptStarted(b.msg())
	next := b.acceptOne(manyRoom, b.msg(inQueue("q")))
	b.Engine = b.Crash(b)
	old := b.node
	b.node = b.join("a")
	if b.node.Epoch <= old.Epoch {
		b.Fatalf("got epoch %d after %d", b.node.Epoch, old.Epoch)
	}
	b.wantPhase(posthaste.PhaseClaimed, id, plain.Ticket.ID)
	b.wantGate(k, 1, 0, 1)
	expired, err := b.Engine.Expired(b.ctx())
	b.check(err)
	if !slices.Contains(expired, old) {
		b.Fatalf("got expired %v, want %v", expired, old)
	}
	claims, err := b.Engine.Claims(b.ctx(), old, "", 10)
	b.check(err)
	if len(claims) != 2 {
		b.Fatalf("got %d claims of %v, want 2", len(claims), old)
	}
	op := &ledger.Recover{From: old, Known: claims}
	if b.do(op); op.Taken != 2 {
		b.Errorf("got %d taken, want 2", op.Taken)
	}
	if b.do(op); op.Taken != 0 {
		b.Errorf("got %d taken the second time, want 0", op.Taken)
	}
	b.wantPhase(posthaste.PhaseReady, id, plain.Ticket.ID)
	b.wantGate(q, 1, 1, 2) // the slot is kept
	b.wantGate(k, 0, 0, 1)
	if g := b.gate(k); g.WindowUsed != 1 {
		b.Errorf("got %d of the rate used, want 1: the attempt may have reached its destination", g.WindowUsed)
	}
	lost := b.settleOp(manyRoom, s, delivered())
	if b.do(lost); !lost.Lost {
		b.Error("the settlement of the crashed node counted")
	}
	got := b.pump(manyRoom)
	if len(got) != 2 {
		b.Fatalf("got %d started, want 2", len(got))
	}
	again := b.claimed(id)
	if again.Ticket.Attempt != 0 || again.Ticket.Fence <= s.Ticket.Fence || again.Ticket.Node != b.node || again.Ticket.AtOnce {
		b.Errorf("got claim %+v, want attempt 0 again with a higher fence by %v", again.Ticket, b.node)
	}
	if g := b.gate(k); g.WindowUsed != 2 {
		b.Errorf("got %d of the rate used, want 2: the repetition takes a new unit", g.WindowUsed)
	}
	b.wantStarted("the queue goes on", b.settle(manyRoom, again, delivered()).Started, next)
	if list := b.attempts(id); len(list) != 1 || list[0].AtOnce {
		b.Errorf("got attempts %+v, want one, not at once", list)
	}
	if b.message(id).ClaimedAtOnce {
		b.Error("the message is still ClaimedAtOnce, its first attempt did not count")
	}
}

func testRecoverSteps(b *bed) {
	all, started := b.acceptMany(10, withFlow(limits("k", 10, 0, 0)))
	waiting := b.acceptOne(manyRoom, b.msg(withFlow(limits("k", 10, 0, 0))))
	old := b.node
	b.node.Epoch++ // another life, which recovers the first
	after := posthaste.MessageID("")
	var seen []posthaste.MessageID
	for n := 0; ; n++ {
		list, err := b.Engine.Claims(b.ctx(), old, after, 3)
		b.check(err)
		if len(list) == 0 {
			break
		}
		if n == 1 {
			// Meanwhile the old life settles one that is not recovered yet: its claim is still its own.
			i := slices.IndexFunc(started, func(s ledger.Start) bool { return s.Ticket.ID == list[0].ID })
			b.settle(0, started[i], delivered())
		}
		b.do(&ledger.Recover{From: old, Known: list})
		for _, t := range list {
			seen = append(seen, t.ID)
		}
		after = list[len(list)-1].ID
	}
	slices.Sort(all)
	if !slices.Equal(seen, all) {
		b.Errorf("got claims %v in steps, want %v", seen, all)
	}
	if got := b.pump(manyRoom); len(got) != 10 || !slices.Contains(ids(got), waiting) {
		b.Errorf("got %d started, want the 9 recovered and the one that waited", len(got))
	}
	b.wantGate(b.flow("k"), 10, 0, 10)
}

func testCrash(b *bed) {
	// Some of everything, then crash after crash.
	b.schedule("s", func(t *store.Tick) { t.Next = b.Now().Add(time.Minute) })
	b.do(b.fireOp(b.tick("s"), 1))
	b.die()
	s := b.acceptStarted(b.msg(inQueue("q"), withFlow(limits("k", 1, 5, time.Minute)), withRetries(2), withCallbacks(true, true)))
	b.acceptMany(3, inQueue("q"), withFlow(limits("k", 1, 5, time.Minute)))
	b.settle(1, s, failed())
	delayed := b.draft(b.msg(), time.Hour)
	delayed.Dedup, delayed.Window = &store.DedupKey{Tenant: b.tenant, Key: "k"}, time.Hour
	op := b.acceptOp(0, delayed)
	op.Count = true
	b.do(op)
	b.cancel(0, b.acceptOne(0, b.msg()))
	for range 3 {
		want := b.dump()
		due, err := b.Engine.NextDue(b.ctx())
		b.check(err)
		b.Engine = b.Crash(b)
		if d := diff(b.dump(), want); d != "" {
			b.Fatalf("after a crash %s", d)
		}
		again, err := b.Engine.NextDue(b.ctx())
		b.check(err)
		if d := diff(again, due); d != "" {
			b.Errorf("NextDue after a crash %s", d)
		}
		if e, err := b.Engine.Dedup(b.ctx(), *delayed.Dedup); err != nil || e == nil || e.Message != delayed.ID {
			b.Errorf("after a crash: got deduplication entry %+v, %v", e, err)
		}
		b.acceptOne(0, b.msg())
	}
}
