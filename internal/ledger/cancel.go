package ledger

import (
	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/fault"
	"github.com/posthaste/posthaste/internal/store"
)

// maxStep bounds the tickets that one operation on an unbounded set touches.
const maxStep = 500

// MaxStep is how many tickets a submitter hands to one [Cancel] or [Recover] at most.
const MaxStep = maxStep

// Cancel resolves tickets that wait, and marks those whose attempt is running: such an attempt ends as it does, and nothing
// follows a failure. It is repeatable: what is resolved or marked already does not count.
type Cancel struct {
	Known []*store.Ticket // as they were read; at most MaxStep
	// OnlyGen restricts it to tickets of a queue that was deleted: those whose Gen is not the queue's.
	OnlyGen bool
	Node    Node

	Outcome
	Canceled int // tickets that could be canceled still

	want store.Want
	w    work
}

// Want implements [store.Op].
func (op *Cancel) Want() *store.Want {
	w := &op.want
	if w.Tickets != nil {
		return w
	}
	for _, t := range op.Known {
		w.Tickets = append(w.Tickets, t.ID)
		w.Gates = append(w.Gates, t.Path...)
		switch {
		case !t.Slot.Zero():
			w.Slots, w.Gates = append(w.Slots, t.Slot), append(w.Gates, t.Slot.Queue)
		case !t.Queue().Zero():
			// It may have taken its slot since it was read.
			w.Slots = append(w.Slots, store.SlotRef{Source: t.ID, Queue: t.Queue(), Gen: t.Gen})
		}
	}
	w.Gates = op.Node.restrictions(w.Gates, op.Known)
	// All of Known may stand first at one gate, and the one behind them is to carry its mark.
	w.Heads = headsPerSettle + len(op.Known)
	wantTickets(w)
	return w
}

// Decide implements [store.Op].
func (op *Cancel) Decide(v *store.View, c *store.Changes) error {
	op.Outcome, op.Canceled = Outcome{Started: op.Started[:0]}, 0
	w := &op.w
	w.begin(&op.want, v, c, op.Node, &op.Outcome)
	for _, t := range v.Tickets {
		if t == nil || t.Cancel || op.OnlyGen && !w.stale(t) {
			continue
		}
		op.Canceled++
		c.Marks = append(c.Marks, store.Mark{Tenant: t.Tenant, Message: t.ID, State: posthaste.StateCancelRequested, At: v.Now})
		switch t.Phase {
		case posthaste.PhaseClaimed:
			t.Cancel = !fault.On(fault.LostCancel)
			w.put(t)
			continue
		case posthaste.PhaseWaiting:
			if w.gate(t.ParkedAt) == nil {
				return store.ErrStale // it moved to the gate of its host since it was read
			}
			w.unpark(t)
		case posthaste.PhaseNone, posthaste.PhaseDelayed, posthaste.PhaseReady:
		}
		w.cancel(t)
	}
	w.end()
	return nil
}
