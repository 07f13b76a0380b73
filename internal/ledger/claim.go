package ledger

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/fault"
	"github.com/posthaste/posthaste/internal/store"
)

// Claim takes what is ripe: plain tickets are claimed for the node, others go to their first gate.
type Claim struct {
	// Ripe asks for tickets nobody has read yet. It may be nil.
	Ripe *store.Ripe
	// Known are tickets that were read without a lock, with gates on their path. They are tried again under lock.
	Known []*store.Ticket
	Node  Node

	Outcome
	// Unnamed are ripe tickets whose gates this operation did not hold: they go into Known of another Claim.
	Unnamed []*store.Ticket
	// Taken counts the ripe tickets that went anywhere.
	Taken int

	want store.Want
	w    work
}

// Want implements [store.Op].
func (op *Claim) Want() *store.Want {
	w := &op.want
	if w.Ripe != nil || w.Tickets != nil {
		return w
	}
	w.Ripe = op.Ripe
	for _, t := range op.Known {
		w.Tickets = append(w.Tickets, t.ID)
		w.Gates = append(w.Gates, t.Path...)
		if !t.Slot.Zero() {
			w.Slots = append(w.Slots, t.Slot)
		}
	}
	w.Gates = op.Node.restrictions(w.Gates, op.Known)
	wantTickets(w)
	return w
}

// wantTickets sorts what tickets named.
func wantTickets(w *store.Want) {
	if len(w.Tickets) > 1 {
		slices.SortFunc(w.Tickets, func(a, b posthaste.MessageID) int { return strings.Compare(string(a), string(b)) })
		w.Tickets = slices.Compact(w.Tickets)
	}
	w.Gates = gatesOf(w.Gates)
	if len(w.Slots) > 1 {
		slices.SortFunc(w.Slots, store.SlotRef.Compare)
		w.Slots = slices.Compact(w.Slots)
	}
	if len(w.Gates) > 0 && w.Heads == 0 {
		w.Heads = 2
	}
}

// Decide implements [store.Op].
func (op *Claim) Decide(v *store.View, c *store.Changes) error {
	op.Outcome = Outcome{Started: op.Started[:0]}
	op.Unnamed, op.Taken = op.Unnamed[:0], 0
	op.w.begin(&op.want, v, c, op.Node, &op.Outcome)
	for _, t := range ripening(v) {
		op.try(t)
	}
	op.w.end()
	return nil
}

// ripening returns what was found in the order in which it became due: that is the order at a queue.
func ripening(v *store.View) []*store.Ticket {
	if len(v.Tickets) == 0 {
		return v.Ripe
	}
	all := slices.DeleteFunc(slices.Clone(v.Tickets), func(t *store.Ticket) bool { return t == nil })
	for _, t := range v.Ripe {
		if !slices.ContainsFunc(all, func(o *store.Ticket) bool { return o.ID == t.ID }) {
			all = append(all, t)
		}
	}
	slices.SortFunc(all, func(a, b *store.Ticket) int {
		return cmp.Or(a.Due.Compare(b.Due), cmp.Compare(a.ID, b.ID))
	})
	return all
}

func (op *Claim) try(t *store.Ticket) {
	if t.Phase != posthaste.PhaseDelayed && t.Phase != posthaste.PhaseReady || t.Due.After(op.w.now) {
		return
	}
	if !op.w.named(t) {
		op.Unnamed = append(op.Unnamed, t)
		return
	}
	if op.w.node.Room <= 0 && len(t.Flows()) == 0 && (t.Queue().Zero() || !t.Slot.Zero()) && !op.w.stale(t) {
		return // nothing would change
	}
	op.Taken++
	t.Arrived = 0
	op.w.advance(t)
}

// Admit starts what a gate has room for.
type Admit struct {
	Gate store.GateRef
	// Heads are the tickets expected to come first there, as they were read without a lock.
	Heads []*store.Ticket
	Node  Node

	Outcome

	want store.Want
	w    work
}

// Want implements [store.Op].
func (op *Admit) Want() *store.Want {
	w := &op.want
	if w.Gates != nil {
		return w
	}
	w.Gates = append(w.Gates, op.Gate)
	for _, t := range op.Heads {
		w.Gates = append(w.Gates, t.Path...)
	}
	w.Gates = gatesOf(op.Node.restrictions(w.Gates, op.Heads))
	w.Heads = max(headsPerSettle, len(op.Heads)+1)
	return w
}

// Decide implements [store.Op].
func (op *Admit) Decide(v *store.View, c *store.Changes) error {
	op.Outcome = Outcome{Started: op.Started[:0]}
	op.w.begin(&op.want, v, c, op.Node, &op.Outcome)
	op.w.gate(op.Gate).touched = true
	op.w.end()
	return nil
}

// Release gives a claim back that came to nothing: its attempt does not count, and its ACTIVE entry disappears.
type Release struct {
	Ticket *store.Ticket // as it was claimed
	// Unsent says that no request was sent, so the rate units come back, too.
	Unsent bool

	// Lost says that the claim was no longer this one's.
	Lost bool

	want store.Want
	w    work
	out  Outcome
}

// Want implements [store.Op].
func (op *Release) Want() *store.Want {
	w := &op.want
	if w.Tickets != nil {
		return w
	}
	w.Tickets = []posthaste.MessageID{op.Ticket.ID}
	w.Gates = append(w.Gates, op.Ticket.Path...)
	if s := op.Ticket.Slot; !s.Zero() {
		w.Slots, w.Gates = []store.SlotRef{s}, append(w.Gates, s.Queue)
	}
	wantTickets(w)
	return w
}

// Decide implements [store.Op].
func (op *Release) Decide(v *store.View, c *store.Changes) error {
	op.out, op.Lost = Outcome{}, false
	t := v.Tickets[0]
	if !owns(t, op.Ticket) {
		op.Lost = true
		return nil
	}
	op.w.begin(&op.want, v, c, Node{}, &op.out)
	op.w.unclaim(t, op.Unsent)
	op.w.end()
	return nil
}

// owns reports whether the stored ticket still carries the claim.
func owns(stored, claim *store.Ticket) bool {
	return stored != nil && stored.Phase == posthaste.PhaseClaimed &&
		(stored.Node == claim.Node && stored.Fence == claim.Fence || fault.On(fault.NoFence))
}

// unclaim ends a claim whose attempt does not count.
func (w *work) unclaim(t *store.Ticket, unsent bool) {
	w.give(t, unsent)
	if t.AtOnce {
		t.AtOnce = false
		w.c.Restarted = append(w.c.Restarted, t)
	}
	t.Node, t.StartedAt = store.NodeEpoch{}, time.Time{}
	t.Fence++
	switch {
	case t.Cancel:
		w.cancel(t)
	case w.stale(t):
		w.cancelStale(t)
	default:
		w.ready(t)
	}
}

// Recover takes claims back from a life of a node that is over. Their attempts may or may not have reached their
// destinations, so they are repeated under a new fence, with new rate units.
type Recover struct {
	From  store.NodeEpoch
	Known []*store.Ticket // claims as they were read

	Taken int

	want store.Want
	w    work
	out  Outcome
}

// Want implements [store.Op].
func (op *Recover) Want() *store.Want {
	w := &op.want
	if w.Tickets != nil {
		return w
	}
	for _, t := range op.Known {
		w.Tickets = append(w.Tickets, t.ID)
		w.Gates = append(w.Gates, t.Path...)
		if !t.Slot.Zero() {
			w.Slots, w.Gates = append(w.Slots, t.Slot), append(w.Gates, t.Slot.Queue)
		}
	}
	wantTickets(w)
	return w
}

// Decide implements [store.Op].
func (op *Recover) Decide(v *store.View, c *store.Changes) error {
	op.out, op.Taken = Outcome{}, 0
	op.w.begin(&op.want, v, c, Node{}, &op.out)
	for _, t := range v.Tickets {
		if t != nil && t.Phase == posthaste.PhaseClaimed && t.Node == op.From {
			op.Taken++
			op.w.unclaim(t, false)
		}
	}
	op.w.end()
	return nil
}
