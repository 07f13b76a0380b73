package sqlite

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
)

// A reader is a connection that only reads. The engine has a few, made when first needed. Each call uses one for a short
// transaction: a long one would keep the log of changes from being reused.
type reader struct {
	*queries
	begin, end stmt
}

func (e *Engine) newReader() (*reader, error) {
	c, err := e.connect(sqlite.OpenReadWrite, "query_only = 1", fmt.Sprintf("cache_size = %d", readerPages))
	if err != nil {
		return nil, translate("open the data file for reading", err)
	}
	r := &reader{queries: newQueries(c), begin: c.prepare("BEGIN"), end: c.prepare("COMMIT")}
	if c.err != nil {
		c.Close() //nolint:errcheck // nothing was written
		return nil, translate("open the data file for reading", c.err)
	}
	return r, nil
}

// read runs f with a connection of the pool.
func (e *Engine) read(ctx context.Context, doing string, f func(*reader) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var r *reader
	select {
	case r = <-e.readers:
	default:
		select {
		case r = <-e.readers:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-e.stopped:
			return errClosed
		}
	}
	if r == nil { // a place in the pool without a connection
		var err error
		if r, err = e.newReader(); err != nil {
			e.readers <- nil
			return err
		}
	}
	err := f(r)
	e.readers <- r
	return translate(doing, err)
}

// readAll is read for what takes several statements: they see one state.
func (e *Engine) readAll(ctx context.Context, doing string, f func(*reader) error) error {
	return e.read(ctx, doing, func(r *reader) error {
		if err := r.begin.run(); err != nil {
			return err
		}
		err := f(r)
		if e := r.end.run(); err == nil {
			err = e
		}
		return err
	})
}

// Version implements [store.Reader].
func (e *Engine) Version(ctx context.Context, tenant posthaste.TenantID) (v int64, err error) {
	err = e.read(ctx, "read the version of a tenant", func(r *reader) error {
		v, err = r.readVersion(tenant)
		return err
	})
	return v, err
}

// Tenants implements [store.Reader].
func (e *Engine) Tenants(ctx context.Context, after posthaste.TenantID, limit int) (list []posthaste.TenantID, err error) {
	err = e.read(ctx, "list tenants", func(r *reader) error {
		r.tenants.BindInt64(1, int64(after))
		r.tenants.BindInt64(2, int64(limit))
		return each(r.tenants, func() error {
			list = append(list, posthaste.TenantID(r.tenants.ColumnInt64(0)))
			return nil
		})
	})
	return list, err
}

// Config implements [store.Reader].
func (e *Engine) Config(ctx context.Context, key store.ConfigKey) (row *store.ConfigRow, err error) {
	err = e.read(ctx, "read configuration", func(r *reader) error {
		row, err = r.readConfig(key)
		return err
	})
	return row, err
}

// ConfigList implements [store.Reader].
func (e *Engine) ConfigList(ctx context.Context, tenant posthaste.TenantID, kind store.ConfigKind, after string, limit int) (rows []*store.ConfigRow, err error) {
	err = e.read(ctx, "list configuration", func(r *reader) error {
		r.configList.BindInt64(1, int64(tenant))
		r.configList.BindText(2, string(kind))
		r.configList.BindText(3, after)
		r.configList.BindInt64(4, int64(limit))
		return each(r.configList, func() error {
			rows = append(rows, readConfigRow(r.configList))
			return nil
		})
	})
	return rows, err
}

// FindConfig implements [store.Reader].
func (e *Engine) FindConfig(ctx context.Context, kind store.ConfigKind, name string) (row *store.ConfigRow, err error) {
	err = e.read(ctx, "find configuration", func(r *reader) error {
		r.findConfig.BindText(1, string(kind))
		r.findConfig.BindText(2, name)
		_, err := first(r.findConfig, func() error {
			row = readConfigRow(r.findConfig)
			return nil
		})
		return err
	})
	return row, err
}

// Message implements [store.Reader].
func (e *Engine) Message(ctx context.Context, tenant posthaste.TenantID, id posthaste.MessageID) (m *posthaste.Message, err error) {
	err = e.read(ctx, "read a message", func(r *reader) error {
		m, err = r.readMessage(store.MessageKey{Tenant: tenant, ID: id})
		return err
	})
	return m, err
}

// Messages implements [store.Reader].
func (e *Engine) Messages(ctx context.Context, ids []store.MessageKey) ([]*posthaste.Message, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	list := make([]*posthaste.Message, len(ids))
	err := e.readAll(ctx, "read messages", func(r *reader) (err error) {
		for i := range ids {
			if list[i], err = r.readMessage(ids[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return list, err
}

// MessageList implements [store.Reader]. From the empty id it begins at the first message, or at the last if descending.
func (e *Engine) MessageList(ctx context.Context, tenant posthaste.TenantID, from posthaste.MessageID, p store.Page) (list []*posthaste.Message, err error) {
	err = e.read(ctx, "list messages", func(r *reader) error {
		s := r.messagesUp
		if p.Desc {
			s = r.messagesDown
			if from == "" {
				from = maxID
			}
		}
		s.BindInt64(1, int64(tenant))
		s.BindText(2, string(from))
		s.BindInt64(3, int64(p.Limit))
		return each(s, func() error {
			m, err := readMessageCols(s, tenant, "")
			if err == nil {
				list = append(list, m)
			}
			return err
		})
	})
	return list, err
}

// Ticket implements [store.Reader].
func (e *Engine) Ticket(ctx context.Context, id posthaste.MessageID) (t *store.Ticket, err error) {
	if t, err = e.open.ticket(id); t != nil || err != nil {
		return t, err
	}
	err = e.read(ctx, "read a ticket", func(r *reader) error {
		r.anyTicket.BindText(1, string(id))
		_, err := first(r.anyTicket, func() error {
			t, err = r.anyTicket.ticket(id)
			return err
		})
		return err
	})
	return t, err
}

// Tickets implements [store.Reader].
func (e *Engine) Tickets(ctx context.Context, ids []posthaste.MessageID) ([]*store.Ticket, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	list := make([]*store.Ticket, len(ids))
	for i := range ids {
		var err error
		if list[i], err = e.open.ticket(ids[i]); err != nil {
			return nil, err
		}
	}
	err := e.readAll(ctx, "read tickets", func(r *reader) (err error) {
		for i := range ids {
			if list[i] != nil {
				continue
			}
			if list[i], err = r.readTicket(ids[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return list, err
}

// TicketList implements [store.Reader].
func (e *Engine) TicketList(ctx context.Context, tenant posthaste.TenantID, after posthaste.MessageID, limit int) (list []*store.Ticket, err error) {
	err = e.readAll(ctx, "list tickets", func(r *reader) error {
		list, err = r.readTicketList(tenant, after, limit)
		return err
	})
	return list, err
}

// Ripening implements [store.Reader].
func (e *Engine) Ripening(ctx context.Context, ripe store.Ripe) (list []*store.Ticket, err error) {
	err = e.readAll(ctx, "read what is due", func(r *reader) error {
		var next posthaste.TenantID
		list, next, err = r.readRipe(nil, &ripe, posthaste.TenantID(e.ripening.Load()))
		e.ripening.Store(int64(next))
		return err
	})
	slices.SortStableFunc(list, func(a, b *store.Ticket) int { return a.Due.Compare(b.Due) })
	return list, err
}

// Awake implements [store.Reader].
func (e *Engine) Awake(ctx context.Context, _ int16, before time.Time, limit int) (list []*store.Ticket, err error) {
	err = e.read(ctx, "read what wakes", func(r *reader) error {
		r.awake.BindInt64(1, before.UnixMicro())
		r.awake.BindInt64(2, int64(limit))
		list, err = readTickets(nil, r.awake)
		return err
	})
	return list, err
}

// Heads implements [store.Reader].
func (e *Engine) Heads(ctx context.Context, ref store.GateRef, limit int) (list []*store.Ticket, err error) {
	err = e.read(ctx, "read the head of a wait list", func(r *reader) error {
		list, err = r.readHeads(nil, &ref, limit)
		return err
	})
	return list, err
}

// Claims implements [store.Reader].
func (e *Engine) Claims(ctx context.Context, n store.NodeEpoch, after posthaste.MessageID, limit int) (list []*store.Ticket, err error) {
	err = e.read(ctx, "read claims", func(r *reader) error {
		list, err = r.readClaims(n, after, limit)
		return err
	})
	return list, err
}

// Gate implements [store.Reader].
func (e *Engine) Gate(ctx context.Context, ref store.GateRef) (g *store.Gate, err error) {
	err = e.read(ctx, "read a gate", func(r *reader) error {
		g, err = r.readGate(ref)
		return err
	})
	return g, err
}

// GateList implements [store.Reader].
func (e *Engine) GateList(ctx context.Context, tenant posthaste.TenantID, kind store.Kind, after string, limit int) (list []*store.Gate, err error) {
	err = e.read(ctx, "list gates", func(r *reader) error {
		r.gateList.BindInt64(1, int64(tenant))
		r.gateList.BindInt64(2, int64(kind))
		r.gateList.BindText(3, after)
		r.gateList.BindInt64(4, int64(limit))
		return each(r.gateList, func() error {
			g, err := readGateRow(r.gateList, store.GateRef{Tenant: tenant, Kind: kind, Name: r.gateList.ColumnText(1)})
			if err == nil {
				list = append(list, g)
			}
			return err
		})
	})
	return list, err
}

// Slot implements [store.Reader].
func (e *Engine) Slot(ctx context.Context, ref store.SlotRef) (s *store.Slot, err error) {
	err = e.read(ctx, "read a queue slot", func(r *reader) error {
		s, err = r.readSlot(ref)
		return err
	})
	return s, err
}

// Dedup implements [store.Reader].
func (e *Engine) Dedup(ctx context.Context, key store.DedupKey) (d *store.Dedup, err error) {
	err = e.read(ctx, "read a deduplication entry", func(r *reader) error {
		d, err = r.readDedup(key)
		return err
	})
	return d, err
}

// DedupList returns deduplication entries of a tenant in the order of their keys, after the given one.
func (e *Engine) DedupList(ctx context.Context, tenant posthaste.TenantID, after string, limit int) (list []*store.Dedup, err error) {
	err = e.read(ctx, "list deduplication entries", func(r *reader) error {
		q := r.dedupList
		q.BindInt64(1, int64(tenant))
		q.BindText(2, after)
		q.BindInt64(3, int64(limit))
		return each(q, func() error {
			key := store.DedupKey{Tenant: tenant, Key: q.ColumnText(0)}
			list = append(list, &store.Dedup{DedupKey: key, Message: posthaste.MessageID(q.ColumnText(1)), Expires: q.time(2)})
			return nil
		})
	})
	return list, err
}

// Quota implements [store.Reader].
func (e *Engine) Quota(ctx context.Context, key store.QuotaKey) (n int64, err error) {
	err = e.read(ctx, "read a quota", func(r *reader) error {
		n, err = r.readQuota(key)
		return err
	})
	return n, err
}

// Tick implements [store.Reader].
func (e *Engine) Tick(ctx context.Context, ref store.TickRef) (t *store.Tick, err error) {
	err = e.read(ctx, "read a schedule's tick", func(r *reader) error {
		t, err = r.readTick(ref)
		return err
	})
	return t, err
}

// DueTicks implements [store.Reader].
func (e *Engine) DueTicks(ctx context.Context, before time.Time, limit int) (list []*store.Tick, err error) {
	err = e.read(ctx, "read due schedules", func(r *reader) error {
		r.dueTicks.BindInt64(1, before.UnixMicro())
		r.dueTicks.BindInt64(2, int64(limit))
		return each(r.dueTicks, func() error {
			t, err := readTickRow(r.dueTicks)
			if err == nil {
				list = append(list, t)
			}
			return err
		})
	})
	return list, err
}

// Attempts implements [store.Reader].
func (e *Engine) Attempts(ctx context.Context, tenant posthaste.TenantID, id posthaste.MessageID) (list []*posthaste.Attempt, err error) {
	err = e.readAll(ctx, "read attempts", func(r *reader) error {
		n, err := r.readMessageRow(tenant, id)
		if n == 0 || err != nil {
			return err
		}
		r.attempts.BindInt64(1, n)
		return each(r.attempts, func() error {
			a, err := readAttemptRow(r.attempts, tenant)
			if err == nil {
				list = append(list, a)
			}
			return err
		})
	})
	return list, err
}

// Marks implements [store.Reader].
func (e *Engine) Marks(ctx context.Context, tenant posthaste.TenantID, id posthaste.MessageID) (list []store.Mark, err error) {
	err = e.read(ctx, "read marks", func(r *reader) error {
		r.marks.BindInt64(1, int64(tenant))
		r.marks.BindText(2, string(id))
		return each(r.marks, func() error {
			list = append(list, readMarkRow(r.marks, tenant))
			return nil
		})
	})
	return list, err
}

// LogRows implements [store.Reader].
func (e *Engine) LogRows(ctx context.Context, tenant posthaste.TenantID, s store.LogStream, from store.LogPos, p store.Page) (rows []store.LogRow, err error) {
	err = e.read(ctx, "read the log", func(r *reader) error {
		rows, err = r.readLog(tenant, s, from, p)
		return err
	})
	return rows, err
}

// DeadLetter implements [store.Reader].
func (e *Engine) DeadLetter(ctx context.Context, key store.DeadKey) (d *posthaste.DeadLetter, err error) {
	err = e.read(ctx, "read a dead letter", func(r *reader) error {
		d, err = r.readDead(key)
		return err
	})
	return d, err
}

// DeadLetters implements [store.Reader]. From the empty id it begins at the first one, or at the last if descending.
func (e *Engine) DeadLetters(ctx context.Context, tenant posthaste.TenantID, from posthaste.DeadLetterID, p store.Page) (list []*posthaste.DeadLetter, err error) {
	ms, seq := int64(-1), int64(-1)
	if at, n, ok := from.Parts(); ok {
		ms, seq = at.UnixMilli(), int64(n)
	} else if from != "" {
		return nil, posthaste.Errorf(posthaste.CodeInvalid, "%q is not the id of a dead letter", string(from))
	} else if p.Desc {
		ms = math.MaxInt64
	}
	err = e.read(ctx, "list dead letters", func(r *reader) error {
		s := r.deadUp
		if p.Desc {
			s = r.deadDown
		}
		s.BindInt64(1, int64(tenant))
		s.BindInt64(2, ms)
		s.BindInt64(3, seq)
		s.BindInt64(4, int64(p.Limit))
		return each(s, func() error {
			d, err := readDeadRow(s, tenant)
			if err == nil {
				list = append(list, d)
			}
			return err
		})
	})
	return list, err
}

// NextDue implements [store.Engine].
func (e *Engine) NextDue(ctx context.Context) ([]store.ShardDue, error) {
	var due [1]store.ShardDue
	err := e.readAll(ctx, "read when something is due", func(r *reader) (err error) {
		due[0], err = r.readDue()
		return err
	})
	if err != nil {
		return nil, err
	}
	return due[:], nil
}
