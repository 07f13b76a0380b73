// Package move copies everything from one store into another, empty one: configuration, what is pending with its place in queues and
// at flow keys, dead letters, finished messages and their log. Nothing may serve from either store meanwhile.
//
// Ids stay as they are, and with them the home shards in them. Gates and deduplication entries get the shards of the new store.
package move

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
)

// Source is a store that can be read as a whole.
type Source interface {
	store.Engine
	// DedupList returns deduplication entries of a tenant in the order of their keys, after the given one.
	DedupList(ctx context.Context, tenant posthaste.TenantID, after string, limit int) ([]*store.Dedup, error)
}

// Counts tells what was copied.
type Counts struct {
	Tenants, Messages, Pending, DeadLetters int
}

// page is how many rows are copied in one transaction.
const page = 200

// lease bounds how long a node that was killed keeps a claim from being taken back. A store of one node has no other.
const lease = 15 * time.Second

type mover struct {
	from  Source
	to    store.Engine
	n     Counts
	slots map[store.SlotRef]bool // copied
}

// Run copies everything. It fails with CodeConflict if a server uses the source or the target is not empty. The configuration of a
// tenant comes last, so that a copy that was cut off has no tenant that could be served.
func Run(ctx context.Context, from Source, to store.Engine) (Counts, error) {
	m := &mover{from: from, to: to, slots: map[store.SlotRef]bool{}}
	there, err := to.Tenants(ctx, 0, 1)
	if err != nil {
		return m.n, err
	}
	if len(there) > 0 {
		return m.n, posthaste.Errorf(posthaste.CodeConflict, "the target is not empty: it has tenant %d", there[0])
	}
	held, err := from.Join(ctx, store.NodeInfo{Name: "node", TTL: lease})
	if err != nil {
		return m.n, err
	}
	err = m.copy(ctx)
	if e := from.Leave(context.WithoutCancel(ctx), held); err == nil {
		err = e
	}
	return m.n, err
}

func (m *mover) copy(ctx context.Context) error {
	if err := m.recover(ctx); err != nil {
		return err
	}
	var tenants []posthaste.TenantID
	for after := posthaste.TenantID(0); ; after = tenants[len(tenants)-1] {
		list, err := m.from.Tenants(ctx, after, page)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			break
		}
		tenants = append(tenants, list...)
	}
	for _, t := range tenants {
		if list, err := m.to.MessageList(ctx, t, "", store.Page{Limit: 1}); err != nil {
			return err
		} else if len(list) > 0 {
			return posthaste.Errorf(posthaste.CodeConflict, "the target has messages, maybe of a move that was cut off: begin again with an empty database")
		}
	}
	for _, t := range tenants {
		for _, f := range []func(context.Context, posthaste.TenantID) error{
			m.messages, m.tickets, m.deadLetters, m.gates, m.dedups, m.configuration,
		} {
			if err := f(ctx, t); err != nil {
				return fmt.Errorf("tenant %d: %w", t, err)
			}
		}
		m.n.Tenants++
	}
	return nil
}

// recover takes back the claims of a server that did not stop in order.
func (m *mover) recover(ctx context.Context) error {
	expired, err := m.from.Expired(ctx)
	if err != nil {
		return err
	}
	for _, n := range expired {
		for {
			claims, err := m.from.Claims(ctx, n, "", ledger.MaxStep)
			if err != nil {
				return err
			}
			if len(claims) == 0 {
				break
			}
			if err := m.from.Do(ctx, 0, &ledger.Recover{From: n, Known: claims}); err != nil {
				return err
			}
		}
		if err := m.from.Forget(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// put is an operation that writes what it is given.
type put struct {
	fill func(c *store.Changes)
	size int
}

// Want implements [store.Op].
func (p *put) Want() *store.Want { return new(store.Want) }

// Decide implements [store.Op].
func (p *put) Decide(_ *store.View, c *store.Changes) error {
	p.fill(c)
	return nil
}

// Size implements [store.Sized].
func (p *put) Size() int { return p.size }

func (m *mover) write(ctx context.Context, size int, fill func(c *store.Changes)) error {
	return m.to.Do(ctx, 0, &put{fill, size})
}

// messages copies content and log.
func (m *mover) messages(ctx context.Context, tenant posthaste.TenantID) error {
	for from := posthaste.MessageID(""); ; {
		list, err := m.from.MessageList(ctx, tenant, from, store.Page{Limit: page})
		if err != nil || len(list) == 0 {
			return err
		}
		from = list[len(list)-1].ID
		var attempts []*posthaste.Attempt
		var marks []store.Mark
		size := 0
		for _, msg := range list {
			size += len(msg.Body)
			a, err := m.from.Attempts(ctx, tenant, msg.ID)
			if err != nil {
				return err
			}
			k, err := m.from.Marks(ctx, tenant, msg.ID)
			if err != nil {
				return err
			}
			attempts, marks = append(attempts, a...), append(marks, k...)
		}
		if err := m.write(ctx, size, func(c *store.Changes) { c.Messages, c.Attempts, c.Marks = list, attempts, marks }); err != nil {
			return err
		}
		m.n.Messages += len(list)
	}
}

// ref gives a gate its shard in the new store.
func (m *mover) ref(r store.GateRef) store.GateRef {
	if r.Zero() {
		return r
	}
	return store.NewGateRef(m.to.Shards(), r.Tenant, r.Kind, r.Name)
}

func (m *mover) slotRef(r store.SlotRef) store.SlotRef {
	r.Queue = m.ref(r.Queue)
	return r
}

// tickets copies what is pending, and the slots that it holds.
func (m *mover) tickets(ctx context.Context, tenant posthaste.TenantID) error {
	for after := posthaste.MessageID(""); ; {
		list, err := m.from.TicketList(ctx, tenant, after, page)
		if err != nil || len(list) == 0 {
			return err
		}
		after = list[len(list)-1].ID
		var slots []*store.Slot
		for _, t := range list {
			if t.Phase == posthaste.PhaseClaimed {
				return posthaste.Errorf(posthaste.CodeConflict, "message %s is being delivered: stop the server first", t.ID)
			}
			if !t.Slot.Zero() && !m.slots[t.Slot] {
				s, err := m.from.Slot(ctx, t.Slot)
				if err != nil {
					return err
				}
				m.slots[t.Slot] = true
				if s != nil {
					s.SlotRef = m.slotRef(s.SlotRef)
					slots = append(slots, s)
				}
			}
			for i, r := range t.Path {
				t.Path[i] = m.ref(r)
			}
			slices.SortFunc(t.Flows(), store.GateRef.Compare)
			t.ParkedAt, t.Slot, t.Stored = m.ref(t.ParkedAt), m.slotRef(t.Slot), store.Location{}
		}
		if err := m.write(ctx, 0, func(c *store.Changes) { c.Put, c.Slots = list, slots }); err != nil {
			return err
		}
		m.n.Pending += len(list)
	}
}

func (m *mover) deadLetters(ctx context.Context, tenant posthaste.TenantID) error {
	for from := posthaste.DeadLetterID(""); ; {
		list, err := m.from.DeadLetters(ctx, tenant, from, store.Page{Limit: page})
		if err != nil || len(list) == 0 {
			return err
		}
		from = list[len(list)-1].ID
		if err := m.write(ctx, 0, func(c *store.Changes) { c.Dead = list }); err != nil {
			return err
		}
		m.n.DeadLetters += len(list)
	}
}

func (m *mover) gates(ctx context.Context, tenant posthaste.TenantID) error {
	for _, kind := range []store.Kind{store.KindQueue, store.KindFlow, store.KindTenant, store.KindHost} {
		for after := ""; ; {
			list, err := m.from.GateList(ctx, tenant, kind, after, page)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				break
			}
			after = list[len(list)-1].Name
			for _, g := range list {
				g.GateRef = m.ref(g.GateRef)
			}
			if err := m.write(ctx, 0, func(c *store.Changes) { c.Gates = list }); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *mover) dedups(ctx context.Context, tenant posthaste.TenantID) error {
	for after := ""; ; {
		list, err := m.from.DedupList(ctx, tenant, after, page)
		if err != nil || len(list) == 0 {
			return err
		}
		after = list[len(list)-1].Key
		for _, d := range list {
			d.DedupKey = store.NewDedupKey(m.to.Shards(), d.Tenant, d.Key)
		}
		if err := m.write(ctx, 0, func(c *store.Changes) { c.Dedup = list }); err != nil {
			return err
		}
	}
}

// configuration copies rows of configuration, schedules with their next ticks, and the counters of the last days.
func (m *mover) configuration(ctx context.Context, tenant posthaste.TenantID) error {
	var all []*store.ConfigRow
	for _, kind := range store.ConfigKinds {
		// A name may be empty, so the first page is read without one.
		if row, err := m.from.Config(ctx, store.ConfigKey{Tenant: tenant, Kind: kind}); err != nil {
			return err
		} else if row != nil {
			all = append(all, row)
		}
		for after := ""; ; {
			list, err := m.from.ConfigList(ctx, tenant, kind, after, page)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				break
			}
			after = list[len(list)-1].Name
			for _, row := range list {
				if row.Name != "" {
					all = append(all, row)
				}
			}
		}
	}
	for _, row := range all {
		if row.Kind != store.ConfigSchedule {
			continue
		}
		t, err := m.from.Tick(ctx, store.TickRef{Tenant: tenant, Schedule: posthaste.ScheduleID(row.Name)})
		if err != nil {
			return err
		}
		if t == nil {
			continue
		}
		if err := m.write(ctx, 0, func(c *store.Changes) { c.Tick = t }); err != nil {
			return err
		}
	}
	var quota []store.QuotaAdd
	today := store.DayOf(time.Now())
	for day := today - 40; day <= today+1; day++ {
		k := store.QuotaKey{Tenant: tenant, Day: day}
		n, err := m.from.Quota(ctx, k)
		if err != nil {
			return err
		}
		if n != 0 {
			quota = append(quota, store.QuotaAdd{QuotaKey: k, N: n})
		}
	}
	return m.write(ctx, 0, func(c *store.Changes) {
		c.Config, c.Quota, c.Raise = all, quota, []posthaste.TenantID{tenant}
	})
}
