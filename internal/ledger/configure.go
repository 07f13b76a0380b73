package ledger

import (
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
)

// Configure changes configuration rows of a tenant and raises its version, so that every node reloads before it accepts or
// claims again.
type Configure struct {
	Tenant posthaste.TenantID
	// Version, if set, is that of the configuration that the change was found to be allowed with, for instance by counting
	// what there is. Another one makes it ErrStale.
	Version int64
	Keys    []store.ConfigKey // sorted; what Edit sees
	// Edit is pure. It gets the rows by position in Keys, nil where there is none, and returns for each what is to stand
	// there: the same row changed, a new one, or nil for none.
	Edit func(now time.Time, rows []*store.ConfigRow) ([]*store.ConfigRow, error)
	// Tick, if set, replaces the tick row of a schedule; TickGone removes one.
	Tick     func(now time.Time, old *store.Tick) *store.Tick
	TickRef  *store.TickRef
	TickGone bool

	want store.Want
}

// Want implements [store.Op].
func (op *Configure) Want() *store.Want {
	op.want.Tenants = []posthaste.TenantID{op.Tenant}
	op.want.Config = op.Keys
	op.want.Tick = op.TickRef
	return &op.want
}

// Decide implements [store.Op].
func (op *Configure) Decide(v *store.View, c *store.Changes) error {
	if op.Version != 0 && v.Versions[0] != op.Version {
		return store.ErrStale
	}
	old := make([]bool, len(v.Config))
	for i, r := range v.Config {
		old[i] = r != nil
	}
	rows, err := op.Edit(v.Now, v.Config)
	if err != nil {
		return err
	}
	for i, r := range rows {
		switch {
		case r != nil:
			r.ConfigKey, r.UpdatedAt = op.Keys[i], v.Now
			if !old[i] {
				r.CreatedAt = v.Now
			}
			c.Config = append(c.Config, r)
		case old[i]:
			c.ConfigGone = append(c.ConfigGone, op.Keys[i])
		}
	}
	if op.TickRef != nil {
		if op.TickGone {
			c.TickGone = op.TickRef
		} else if t := op.Tick(v.Now, v.Tick); t != nil {
			t.TickRef = *op.TickRef
			t.Rev++
			c.Tick = t
		}
	}
	c.Raise = append(c.Raise, op.Tenant)
	return nil
}

// EditGate changes the limits of a gate. What can start under the new ones starts.
type EditGate struct {
	Gate store.GateRef
	// Version, if set, is as in [Configure], and rises: the gate is one of those that are counted.
	Version int64
	// Edit is pure. The gate may be a zero one: none is stored.
	Edit func(now time.Time, g *store.Gate) error
	// Heads are the tickets expected to come first there, as they were read without a lock.
	Heads []*store.Ticket
	Node  Node

	Outcome

	want store.Want
	w    work
}

// Want implements [store.Op].
func (op *EditGate) Want() *store.Want {
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
	if op.Version != 0 {
		w.Tenants, w.Config = []posthaste.TenantID{op.Gate.Tenant}, versionLock(op.Gate.Tenant)
	}
	return w
}

// Decide implements [store.Op].
func (op *EditGate) Decide(v *store.View, c *store.Changes) error {
	op.Outcome = Outcome{Started: op.Started[:0]}
	if op.Version != 0 {
		if v.Versions[0] != op.Version {
			return store.ErrStale
		}
		c.Raise = append(c.Raise, op.Gate.Tenant)
	}
	op.w.begin(&op.want, v, c, op.Node, &op.Outcome)
	g := op.w.gate(op.Gate)
	if err := op.Edit(v.Now, g.Gate); err != nil {
		return err
	}
	g.touched = true
	op.w.end()
	return nil
}

// DeleteQueue removes a queue. Tickets of it are of a Gen that is over: those first in line are resolved at once, a Cancel
// with OnlyGen takes care of the others, and whatever comes to the gate before that is resolved there.
type DeleteQueue struct {
	Queue store.GateRef

	Existed bool

	want store.Want
	w    work
	out  Outcome
}

// Want implements [store.Op].
func (op *DeleteQueue) Want() *store.Want {
	op.want.Gates = []store.GateRef{op.Queue}
	op.want.Heads = maxStep
	return &op.want
}

// Decide implements [store.Op].
func (op *DeleteQueue) Decide(v *store.View, c *store.Changes) error {
	op.out = Outcome{}
	op.w.begin(&op.want, v, c, Node{}, &op.out)
	g := op.w.gate(op.Queue)
	op.Existed = !g.CreatedAt.IsZero()
	if !op.Existed {
		return nil
	}
	g.Gen++
	g.Paused, g.Parallelism, g.InUse, g.Live = false, 0, 0, 0
	g.CreatedAt, g.UpdatedAt = time.Time{}, v.Now
	g.touched = true
	op.w.end()
	return nil
}

// DeleteDead removes dead letters. It is repeatable.
type DeleteDead struct {
	Keys []store.DeadKey

	Deleted int

	want store.Want
}

// Want implements [store.Op].
func (op *DeleteDead) Want() *store.Want {
	if op.want.Dead == nil {
		op.want.Dead = sortedDead(append([]store.DeadKey(nil), op.Keys...))
	}
	return &op.want
}

// Decide implements [store.Op].
func (op *DeleteDead) Decide(v *store.View, c *store.Changes) error {
	op.Deleted = 0
	for i, d := range v.Dead {
		if d != nil {
			op.Deleted++
			c.DeadGone = append(c.DeadGone, op.want.Dead[i])
		}
	}
	return nil
}
