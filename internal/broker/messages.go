package broker

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/history"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/wire"
)

// Message returns a message, resolved or not, as long as its content is kept.
func (b *Broker) Message(ctx context.Context, p *directory.Principal, id posthaste.MessageID) (*posthaste.Message, error) {
	m, err := b.engine.Message(ctx, p.Tenant.ID, id)
	if err != nil {
		return nil, err
	}
	if m == nil || m.Stripped {
		return nil, notFound("message %s not found", id)
	}
	return m, nil
}

// Cancel cancels one message. It is an error if that was resolved or canceled already.
func (b *Broker) Cancel(ctx context.Context, p *directory.Principal, id posthaste.MessageID) error {
	n, err := b.cancel(ctx, p, []posthaste.MessageID{id})
	if err != nil {
		return err
	}
	if n == 0 {
		return notFound("message %s not found, or finished already", id)
	}
	return nil
}

// cancel cancels those of at most ledger.MaxStep messages that can be, in one transaction.
func (b *Broker) cancel(ctx context.Context, p *directory.Principal, ids []posthaste.MessageID) (int, error) {
	tickets, err := b.engine.Tickets(ctx, ids)
	if err != nil {
		return 0, err
	}
	tickets = slices.DeleteFunc(tickets, func(t *store.Ticket) bool { return t == nil || t.Tenant != p.Tenant.ID || t.Cancel })
	return b.cancelTickets(ctx, &ledger.Cancel{Known: tickets})
}

// cancelTickets submits a cancel and starts what it makes room for.
func (b *Broker) cancelTickets(ctx context.Context, op *ledger.Cancel) (int, error) {
	if len(op.Known) == 0 {
		return 0, nil
	}
	for n := 0; ; n++ {
		node := b.start.Reserve(4)
		op.Node = node
		_, shard, _ := op.Known[0].ID.Parts()
		err := b.engine.Do(context.WithoutCancel(ctx), int(shard), op)
		if err == nil {
			b.start.Begin(node, &op.Outcome)
			return op.Canceled, nil
		}
		b.start.Begin(node, nil)
		if !errors.Is(err, store.ErrStale) || n == maxStale {
			return 0, err
		}
		// A ticket moved to another gate since it was read.
		ids := make([]posthaste.MessageID, len(op.Known))
		for i, t := range op.Known {
			ids[i] = t.ID
		}
		tickets, err := b.engine.Tickets(ctx, ids)
		if err != nil {
			return 0, err
		}
		tickets = slices.DeleteFunc(tickets, func(t *store.Ticket) bool { return t == nil })
		if len(tickets) == 0 {
			return 0, nil
		}
		op = &ledger.Cancel{Known: tickets, OnlyGen: op.OnlyGen}
	}
}

// CancelAll cancels what passes the filter, oldest first, in steps. A step that was carried out stays so when a later one
// fails; the request can be repeated.
func (b *Broker) CancelAll(ctx context.Context, p *directory.Principal, f wire.CancelFilter) (int, error) {
	if f.Nothing {
		return 0, nil
	}
	most := f.Count
	if most <= 0 {
		most = math.MaxInt
	}
	var pace pacer
	total := 0
	if len(f.MessageIDs) > 0 {
		// Explicit ids leave other filters aside.
		ids := slices.Compact(slices.Sorted(slices.Values(f.MessageIDs)))
		for len(ids) > 0 && total < most {
			part := ids[:min(len(ids), bulkStep, most-total)]
			ids = ids[len(part):]
			err := pace.step(ctx, func() error {
				n, err := b.cancel(ctx, p, part)
				total += n
				return err
			})
			if err != nil {
				return total, err
			}
		}
		return total, nil
	}
	after := posthaste.MessageID("")
	if !f.From.IsZero() {
		after = posthaste.FirstMessageID(f.From)
	}
	for total < most {
		if err := ctx.Err(); err != nil {
			return total, context.Cause(ctx)
		}
		tickets, err := b.engine.TicketList(ctx, p.Tenant.ID, after, ledger.MaxStep)
		if err != nil {
			return total, err
		}
		if len(tickets) == 0 {
			return total, nil
		}
		after = tickets[len(tickets)-1].ID
		chosen, past, err := b.choose(ctx, tickets, &f)
		if err != nil {
			return total, err
		}
		if len(chosen) > most-total {
			chosen = chosen[:most-total]
		}
		err = inSteps(ctx, &pace, chosen, bulkStep, func(part []*store.Ticket) error {
			n, err := b.cancelTickets(ctx, &ledger.Cancel{Known: part})
			total += n
			return err
		})
		if err != nil {
			return total, err
		}
		if past || len(tickets) < ledger.MaxStep {
			return total, nil
		}
	}
	return total, nil
}

// choose returns the tickets whose messages pass the filter. past reports that later ones cannot.
func (b *Broker) choose(ctx context.Context, tickets []*store.Ticket, f *wire.CancelFilter) (chosen []*store.Ticket, past bool, err error) {
	plain := history.Plain(&f.Filter)
	var keys []store.MessageKey
	var open []*store.Ticket
	for _, t := range tickets {
		if at, _, _ := t.ID.Parts(); !f.To.IsZero() && at.After(f.To) {
			past = true
			break
		}
		if !t.Cancel {
			open = append(open, t)
			keys = append(keys, store.MessageKey{Tenant: t.Tenant, ID: t.ID})
		}
	}
	if plain || len(open) == 0 {
		return open, past, nil
	}
	messages, err := b.engine.Messages(ctx, keys)
	if err != nil {
		return nil, false, err
	}
	for i, m := range messages {
		if m != nil && history.Match(m, &f.Filter) {
			chosen = append(chosen, open[i])
		}
	}
	return chosen, past, nil
}

// Logs returns a page of log entries and the cursor of the next one, if there may be one.
func (b *Broker) Logs(ctx context.Context, p *directory.Principal, f wire.LogFilter) ([]*posthaste.LogEntry, string, error) {
	if from := b.logFrom(p); f.From.Before(from) {
		f.From = from
	}
	return history.Page(ctx, b.engine, p.Tenant.ID, f)
}

// Keys returns the tenant's signing keys.
func (b *Broker) Keys(_ context.Context, p *directory.Principal) (posthaste.SigningKeys, error) {
	return p.Tenant.Keys, nil
}

// RotateKeys makes the next key the current one and a new one the next.
func (b *Broker) RotateKeys(ctx context.Context, p *directory.Principal) (posthaste.SigningKeys, error) {
	var keys posthaste.SigningKeys
	fresh := newSigningKey()
	op := &ledger.Configure{
		Tenant: p.Tenant.ID,
		Keys:   []store.ConfigKey{{Tenant: p.Tenant.ID, Kind: store.ConfigKeys}},
		Edit: func(_ time.Time, rows []*store.ConfigRow) ([]*store.ConfigRow, error) {
			if rows[0] == nil {
				return nil, notFound("the tenant has no signing keys")
			}
			var old directory.KeysRow
			if err := directory.Decode(rows[0], &old); err != nil {
				return nil, err
			}
			keys = posthaste.SigningKeys{Current: old.Next, Next: fresh}
			rows[0].Value = directory.Encode(directory.KeysRow{Current: keys.Current, Next: keys.Next})
			return rows, nil
		},
	}
	if err := b.engine.Do(ctx, 0, op); err != nil {
		return posthaste.SigningKeys{}, err
	}
	if _, err := b.dir.Reload(ctx, p.Tenant.ID); err != nil {
		b.log.Warn("keys rotated, but the tenant was not reloaded", "tenant", p.Tenant.ID, "err", err)
	}
	return keys, nil
}
