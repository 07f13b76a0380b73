package broker

import (
	"context"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/wire"
)

func (b *Broker) queueRef(p *directory.Principal, name string) store.GateRef {
	return store.NewGateRef(b.engine.Shards(), p.Tenant.ID, store.KindQueue, name)
}

func queueOf(g *store.Gate) *posthaste.Queue {
	return &posthaste.Queue{
		Name: g.Name, Parallelism: g.Parallelism, Paused: g.Paused, CreatedAt: g.CreatedAt, UpdatedAt: g.UpdatedAt, Lag: g.Live, InFlight: g.InUse,
	}
}

func checkQueueName(name string) error {
	if err := wire.CheckName(name); err != nil {
		return posthaste.Errorf(posthaste.CodeInvalid, "invalid queue name %q: %v", name, err)
	}
	return nil
}

// Queues lists the tenant's queues by name.
func (b *Broker) Queues(ctx context.Context, p *directory.Principal) ([]*posthaste.Queue, error) {
	var out []*posthaste.Queue
	err := b.gates(ctx, p, store.KindQueue, func(g *store.Gate) {
		if !g.CreatedAt.IsZero() {
			out = append(out, queueOf(g))
		}
	})
	return out, err
}

// gates calls f for each of the tenant's gates of a kind.
func (b *Broker) gates(ctx context.Context, p *directory.Principal, kind store.Kind, f func(*store.Gate)) error {
	after := ""
	for {
		gates, err := b.engine.GateList(ctx, p.Tenant.ID, kind, after, 1000)
		if err != nil || len(gates) == 0 {
			return err
		}
		for _, g := range gates {
			f(g)
		}
		after = gates[len(gates)-1].Name
	}
}

// Queue returns one queue.
func (b *Broker) Queue(ctx context.Context, p *directory.Principal, name string) (*posthaste.Queue, error) {
	g, err := b.engine.Gate(ctx, b.queueRef(p, name))
	if err != nil {
		return nil, err
	}
	if g == nil || g.CreatedAt.IsZero() {
		return nil, notFound("queue %s not found", name)
	}
	return queueOf(g), nil
}

// UpsertQueue creates a queue or changes what is given of it.
func (b *Broker) UpsertQueue(ctx context.Context, p *directory.Principal, q wire.QueueUpsert) error {
	if err := checkQueueName(q.Name); err != nil {
		return err
	}
	if limit := p.Tenant.Plan.QueueParallelism; limit > 0 && q.Parallelism != nil && *q.Parallelism > limit {
		return posthaste.Errorf(posthaste.CodeQuotaExceeded, "quota maxQueueParallelism exceeded, current limit: %d", limit)
	}
	return b.counted(ctx, p, p.Tenant.Plan.Queues, func(p *directory.Principal, version int64) error {
		if err := b.checkQueue(ctx, p, q.Name, p.Tenant.Plan.Queues); err != nil {
			return err
		}
		return b.upsertQueue(ctx, p, q, version)
	})
}

func (b *Broker) upsertQueue(ctx context.Context, p *directory.Principal, q wire.QueueUpsert, version int64) error {
	return b.editGate(ctx, b.queueRef(p, q.Name), version, func(now time.Time, g *store.Gate) error {
		if g.CreatedAt.IsZero() {
			g.CreatedAt, g.Parallelism, g.Paused = now, 1, false
		}
		if q.Parallelism != nil {
			g.Parallelism = *q.Parallelism
		}
		if q.Paused != nil {
			g.Paused = *q.Paused
		}
		g.UpdatedAt = now
		return nil
	})
}

// PauseQueue stops or continues the delivery of a queue.
func (b *Broker) PauseQueue(ctx context.Context, p *directory.Principal, name string, paused bool) error {
	if err := checkQueueName(name); err != nil {
		return err
	}
	return b.editGate(ctx, b.queueRef(p, name), 0, func(now time.Time, g *store.Gate) error {
		if g.CreatedAt.IsZero() {
			return notFound("queue %s not found", name)
		}
		g.Paused, g.UpdatedAt = paused, now
		return nil
	})
}

// editGate changes a gate and starts what can start under its new limits. version, if set, is that of the configuration in which
// there was room for another such gate.
func (b *Broker) editGate(ctx context.Context, ref store.GateRef, version int64, edit func(time.Time, *store.Gate) error) error {
	node := b.start.Reserve(16)
	heads, err := b.engine.Heads(ctx, ref, 16)
	if err != nil {
		b.start.Begin(node, nil)
		return err
	}
	op := &ledger.EditGate{Gate: ref, Version: version, Edit: edit, Heads: heads, Node: node}
	if err := b.engine.Do(context.WithoutCancel(ctx), int(ref.Shard), op); err != nil {
		b.start.Begin(node, nil)
		return err
	}
	b.start.Begin(node, &op.Outcome)
	return nil
}

// DeleteQueue removes a queue and cancels what was not delivered of it. It is no error if there is none.
func (b *Broker) DeleteQueue(ctx context.Context, p *directory.Principal, name string) error {
	ref := b.queueRef(p, name)
	op := &ledger.DeleteQueue{Queue: ref}
	if err := b.engine.Do(ctx, int(ref.Shard), op); err != nil || !op.Existed {
		return err
	}
	// From here on nothing of the queue is delivered. What is left are rows to be resolved: those first in line, then others
	// that are delayed or retried.
	var pace pacer
	for {
		heads, err := b.engine.Heads(ctx, ref, ledger.MaxStep)
		if err != nil {
			return err
		}
		n := 0
		err = inSteps(ctx, &pace, heads, bulkStep, func(part []*store.Ticket) error {
			k, err := b.cancelTickets(ctx, &ledger.Cancel{Known: part, OnlyGen: true})
			n += k
			return err
		})
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
	}
	after := posthaste.MessageID("")
	for {
		tickets, err := b.engine.TicketList(ctx, p.Tenant.ID, after, ledger.MaxStep)
		if err != nil || len(tickets) == 0 {
			return err
		}
		after = tickets[len(tickets)-1].ID
		var known []*store.Ticket
		for _, t := range tickets {
			if t.Queue() == ref {
				known = append(known, t)
			}
		}
		err = inSteps(ctx, &pace, known, bulkStep, func(part []*store.Ticket) error {
			_, err := b.cancelTickets(ctx, &ledger.Cancel{Known: part, OnlyGen: true})
			return err
		})
		if err != nil {
			return err
		}
	}
}
