package storetest

import (
	"errors"
	"slices"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
)

// host returns the gate of the host that messages of tests go to.
func (b *bed) host() store.GateRef {
	return ledger.HostGate(b.shards, b.tenant, "example.com")
}

// restricted returns the bed's node with room for so many attempts at that host.
func (b *bed) restricted(room int) ledger.Node {
	n := b.with(manyRoom)
	n.Shards, n.Hosts = b.shards, map[store.GateRef]int{b.host(): room}
	return n
}

// acceptAt stores messages on a node with so much room at their host.
func (b *bed) acceptAt(room int, msgs ...*posthaste.Message) *ledger.Accept {
	b.Helper()
	op := b.acceptOp(0)
	for _, m := range msgs {
		op.Drafts = append(op.Drafts, b.draft(m, 0))
	}
	op.Node = b.restricted(room)
	b.do(op)
	return op
}

// admitAt admits from a gate on a node with so much room at the host.
func (b *bed) admitAt(room int, ref store.GateRef) []ledger.Start {
	b.Helper()
	heads, err := b.Engine.Heads(b.ctx(), ref, 10)
	b.check(err)
	op := &ledger.Admit{Gate: ref, Heads: heads, Node: b.restricted(room)}
	b.do(op)
	return op.Started
}

// block blocks the host, or lets it go on.
func (b *bed) block(blocked bool) {
	b.Helper()
	b.do(&ledger.EditGate{Gate: b.host(), Edit: func(now time.Time, g *store.Gate) error {
		g.Paused, g.Period, g.WindowStart = false, 0, time.Time{}
		if blocked {
			g.Paused, g.Period, g.WindowStart = true, probeAfter, now.Add(probeAfter)
		}
		return nil
	}})
}

func draftIDs(op *ledger.Accept) (out []posthaste.MessageID) {
	for _, d := range op.Drafts {
		out = append(out, d.ID)
	}
	return out
}

func testHostRoom(b *bed) {
	op := b.acceptAt(2, b.msg(), b.msg())
	all := draftIDs(op)
	b.wantStarted("room for 2 at the host", op.Started, all...)
	for range 3 {
		all = append(all, draftIDs(b.acceptAt(0, b.msg()))...)
	}
	b.wantPhase(posthaste.PhaseWaiting, all[2:]...)
	if t := b.ticket(all[2]); t.ParkedAt != b.host() {
		b.Errorf("got it parked at %s, want %s", gateName(t.ParkedAt), gateName(b.host()))
	}
	b.wantGate(b.host(), 0, 3, 0)
	if _, waiting := b.due(); !waiting.After(b.Now()) {
		b.Errorf("got next look at %v, which is not after %v: nodes would look again and again", waiting, b.Now())
	}
	other := b.acceptAt(0, b.msg(func(m *posthaste.Message) { m.URL = "https://example.org" }))
	b.wantStarted("another host", other.Started, draftIDs(other)...)
	b.wantStarted("an attempt has ended there", b.admitAt(1, b.host()), all[2])
	b.wantStarted("no room there", b.admitAt(0, b.host()))
	// Who comes later does not pass those that wait.
	late := b.acceptAt(1, b.msg())
	b.wantStarted("one has room", late.Started, all[3])
	// A node that knows of no restriction sweeps up the rest.
	b.Advance(time.Second)
	b.wantStarted("another node", b.pump(manyRoom), all[4], late.Drafts[0].ID)
	b.wantGate(b.host(), 0, 0, 0)
}

func testHostBlocked(b *bed) {
	b.block(true)
	next := b.gate(b.host()).WindowStart
	var all []posthaste.MessageID
	for _, m := range []*posthaste.Message{b.msg(), b.msg(withFlow(limits("k", 1, 0, 0))), b.msg()} {
		op := b.acceptAt(manyRoom, m)
		b.wantStarted("blocked", op.Started)
		all = append(all, draftIDs(op)...)
	}
	b.wantGate(b.host(), 0, 3, 0)
	b.wantGate(b.flow("k"), 0, 0, 1)
	if _, waiting := b.due(); !waiting.Equal(next) {
		b.Errorf("got next look at %v, want the probe at %v", waiting, next)
	}
	b.none("before the probe")
	for i, id := range all[:2] {
		g := b.gate(b.host())
		b.Advance(g.WindowStart.Sub(b.Now()))
		got := b.pump(manyRoom)
		b.wantStarted("a probe", got, id)
		if b.Failed() {
			return
		}
		h := b.gate(b.host())
		if want := 2 * g.Period; h.Period != want || !h.WindowStart.Equal(got[0].Ticket.StartedAt.Add(want)) {
			b.Errorf("after probe %d at %v: got the next one at %v, after %v; want after %v", i, got[0].Ticket.StartedAt, h.WindowStart, h.Period, want)
		}
		b.none("after the probe")
	}
	b.block(false)
	b.wantStarted("the host answers", b.pump(manyRoom), all[2])
	b.wantGate(b.host(), 0, 0, 0)
}

func testHostQueue(b *bed) {
	q := b.queue("q")
	op := b.acceptAt(0, b.msg(inQueue("q")), b.msg(inQueue("q")))
	all := draftIDs(op)
	b.wantGate(q, 1, 1, 2)
	b.wantGate(b.host(), 0, 1, 0)
	// It has its slot, and must not start while the queue is paused.
	b.edit(0, q, func(g *store.Gate) { g.Paused = true })
	b.wantStarted("while the queue is paused", b.admitAt(5, b.host()))
	b.Advance(time.Second)
	b.none("while the queue is paused")
	got := b.edit(manyRoom, q, func(g *store.Gate) { g.Paused = false }).Started
	got = append(got, b.pump(manyRoom)...)
	b.wantStarted("resumed", got, all[0])
	if b.Failed() {
		return
	}
	got = append(b.settle(manyRoom, got[0], delivered()).Started, b.pump(manyRoom)...)
	b.wantStarted("the first is done", got, all[1])
}

func testHostCancel(b *bed) {
	flow := withFlow(limits("k", 1, 0, 0))
	holder := b.acceptStarted(b.msg(flow))
	id := b.acceptOne(manyRoom, b.msg(flow))
	known := []*store.Ticket{b.ticket(id)} // at its key
	b.settle(0, holder, delivered())
	b.wantStarted("no room at the host", b.admitAt(0, b.flow("k"))) // it moves to the host's gate
	if t := b.ticket(id); t.ParkedAt != b.host() {
		b.Fatalf("got it parked at %s, want %s", gateName(t.ParkedAt), gateName(b.host()))
	}
	op := &ledger.Cancel{Known: known}
	if err := b.submit(op); !errors.Is(err, store.ErrStale) {
		b.Errorf("a cancel that does not hold the gate: got %v, want ErrStale", err)
	}
	b.wantPhase(posthaste.PhaseWaiting, id)
	waiting := draftIDs(b.acceptAt(0, b.msg()))
	b.cancel(0, id)
	b.wantCanceled(id)
	b.wantGate(b.host(), 0, 1, 0)
	b.Advance(time.Second)
	if got := ids(b.pump(manyRoom)); !slices.Equal(got, waiting) {
		b.Errorf("got %v started, want %v", got, waiting)
	}
}
