package ledger

import (
	"encoding/binary"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/compose"
	"github.com/posthaste/posthaste/internal/lifecycle"
	"github.com/posthaste/posthaste/internal/retry"
	"github.com/posthaste/posthaste/internal/store"
)

// Settle records what an attempt led to, in one transaction: its log, the next attempt's moment or the end, a dead letter,
// callback messages, and what can start in the room that it frees.
type Settle struct {
	Ticket  *store.Ticket // as it was claimed
	Message *posthaste.Message
	Result  *lifecycle.Result
	Backoff retry.Backoff
	Nonces  [3]posthaste.Nonce // of up to two callbacks and the dead letter
	Shards  int
	// Node may start what follows: callbacks, and what waited at the gates.
	Node Node
	// Count raises the tenant's daily counter by the callbacks.
	Count bool

	Outcome
	// Lost says that the claim was no longer this one's, so nothing was recorded.
	Lost bool
	// Attempt is what was recorded.
	Attempt *posthaste.Attempt

	want store.Want
	one  [1]posthaste.MessageID
	w    work
}

// Want implements [store.Op].
func (op *Settle) Want() *store.Want {
	w := &op.want
	if w.Tickets != nil {
		return w
	}
	op.one[0] = op.Ticket.ID
	w.Tickets = op.one[:]
	w.Gates = append(w.Gates, op.Ticket.Path...)
	// The slot of a queue's message is known even if it is its own to make.
	if s := op.Ticket.Slot; !s.Zero() {
		w.Slots, w.Gates = []store.SlotRef{s}, append(w.Gates, s.Queue)
	}
	for _, cb := range []*posthaste.Callback{op.Message.Callback, op.Message.FailureCallback} {
		if cb == nil {
			continue
		}
		if ref, ok := op.Node.restricted(op.Message.Tenant, compose.Host(cb.URL)); ok {
			w.Gates = append(w.Gates, ref)
		}
		for _, f := range cb.Flow {
			w.Gates = append(w.Gates, store.NewGateRef(op.Shards, op.Message.Tenant, store.KindFlow, f.Key))
		}
	}
	w.Gates = gatesOf(w.Gates)
	if len(w.Gates) > 0 {
		w.Heads = headsPerSettle
	}
	return w
}

// Size implements [store.Sized].
func (op *Settle) Size() int {
	n := len(op.Result.Body) + 256
	if op.Message.Callback != nil || op.Message.FailureCallback != nil {
		n += 2 * (len(op.Result.Body) + len(op.Message.Body))
	}
	return n
}

// Decide implements [store.Op].
func (op *Settle) Decide(v *store.View, c *store.Changes) error {
	op.Outcome, op.Lost, op.Attempt = Outcome{Started: op.Started[:0]}, false, nil
	t := v.Tickets[0]
	if !owns(t, op.Ticket) {
		op.Lost = true
		return nil
	}
	w := &op.w
	w.begin(&op.want, v, c, op.Node, &op.Outcome)
	stale := w.stale(t)
	if stale && !t.Cancel {
		c.Marks = append(c.Marks, store.Mark{Tenant: t.Tenant, Message: t.ID, State: posthaste.StateCancelRequested, At: v.Now})
	}
	s := lifecycle.Settle(lifecycle.Input{
		Message: op.Message, Number: t.Attempt, StartedAt: t.StartedAt, AtOnce: t.AtOnce, Result: op.Result,
		Canceled: t.Cancel || stale, Now: v.Now, Backoff: op.Backoff, DeadSeq: binary.BigEndian.Uint32(op.Nonces[2][:4]),
	})
	op.Attempt = s.Attempt
	c.Attempts = append(c.Attempts, s.Attempt)
	w.give(t, false)
	t.AtOnce = false
	if s.Dead != nil {
		c.Dead = append(c.Dead, s.Dead)
	}
	op.callbacks(t, s)
	if s.Final {
		w.resolve(t, 0)
	} else {
		t.Phase, t.Due, t.Attempt = posthaste.PhaseDelayed, s.Attempt.NextAt, t.Attempt+1
		t.Node = store.NodeEpoch{}
		w.put(t)
	}
	w.end()
	return nil
}

// callbacks accepts the callbacks. While the message holds a slot, each holds it, too.
func (op *Settle) callbacks(t *store.Ticket, s lifecycle.Settlement) {
	if len(s.Callbacks) == 0 {
		return
	}
	w := &op.w
	var slot store.SlotRef
	if !t.Slot.Zero() {
		if row := w.pendingSlot(t.Slot); row != nil {
			row.Open += len(s.Callbacks)
			slot = t.Slot
		}
	}
	limited := false
	for _, ref := range t.Path {
		limited = limited || ref.Kind == store.KindTenant
	}
	for i := range s.Callbacks {
		d := &s.Callbacks[i]
		path := PathOf(d.Message, op.Shards, limited)
		// A callback lives in its source's home shard, so that its settlement finds the slot in the same one.
		_, shard, _ := t.ID.Parts()
		w.accept(d, posthaste.NewMessageID(w.now, shard, op.Nonces[i]), path, slot)
	}
	if op.Count {
		w.c.Quota = append(w.c.Quota, store.QuotaAdd{
			QuotaKey: store.QuotaKey{Tenant: t.Tenant, Day: store.DayOf(w.now)}, N: int64(len(s.Callbacks)),
		})
	}
}
