package sqlite

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
)

const (
	// trimTime bounds a step besides the number of rows, because operations that arrive meanwhile wait for it.
	trimTime = 3 * time.Millisecond
	// quotaDays is how long a day's counter is kept.
	quotaDays = 40
	// gateRest is how long an unused gate that nobody configured stays.
	gateRest = 10 * time.Minute
)

// trims are the statements of retention, and where the last step stopped.
type trims struct {
	expired, dropDedup      stmt
	oldQuota, dropQuota     stmt
	deadTenant, oldDead     stmt
	walkTenant, oldMessages stmt
	named, lastLog          stmt
	dropMessage, strip      stmt
	dropAttempts, dropMarks stmt
	allGates, dropGate      stmt

	// Where the walks over messages stopped: what is still pending is not looked at again in every step, but when a walk begins
	// anew.
	removing, stripping walk
	strippedAll         time.Time // when stripping began at the oldest messages
	afterGate           store.GateRef
}

// stripAll is how often the walk that strips begins at the oldest message again.
const stripAll = time.Hour

// walk is a position in the order of tenants and ids.
type walk struct {
	tenant int64
	id     string
	begun  bool
	// done, unless it is nil, tells up to which id each tenant's messages have been looked at and need not be again.
	done map[int64]string
}

func newTrims(c *conn) trims {
	p := c.prepare
	return trims{
		expired:    p("SELECT tenant, key FROM dedup WHERE expires <= ? ORDER BY expires LIMIT +?"),
		dropDedup:  p("DELETE FROM dedup WHERE tenant = ? AND key = ?"),
		oldQuota:   p("SELECT tenant, day FROM quota WHERE day < ? ORDER BY day LIMIT +?"),
		dropQuota:  p("DELETE FROM quota WHERE tenant = ? AND day = ?"),
		deadTenant: p("SELECT tenant FROM dead_letters WHERE tenant > ? ORDER BY tenant LIMIT 1"),
		oldDead:    p("SELECT ms, seq FROM dead_letters WHERE tenant = ? AND ms < ? ORDER BY ms, seq LIMIT +?"),

		walkTenant:  p("SELECT tenant FROM messages WHERE tenant > ? ORDER BY tenant LIMIT 1"),
		oldMessages: p("SELECT n, id, head FROM messages WHERE tenant = ? AND id > ? AND id < ? ORDER BY id LIMIT +?"),
		named: p("SELECT 1 WHERE EXISTS (SELECT 1 FROM claims WHERE id = ?1) OR EXISTS (SELECT 1 FROM tickets WHERE id = ?1) " +
			"OR EXISTS (SELECT 1 FROM dead_letters WHERE message = ?1)"),
		lastLog: p("SELECT max(coalesce((SELECT max(ended) FROM attempts WHERE n BETWEEN ?3 << 20 AND (?3 << 20) + 1048575), 0), " +
			"coalesce((SELECT max(at) FROM marks WHERE tenant = ?1 AND id = ?2), 0))"),
		dropMessage:  p("DELETE FROM messages WHERE n = ?"),
		strip:        p("UPDATE messages SET head = ?, body = x'' WHERE n = ?"),
		dropAttempts: p("DELETE FROM attempts WHERE n BETWEEN ?1 << 20 AND (?1 << 20) + 1048575"),
		dropMarks:    p("DELETE FROM marks WHERE tenant = ? AND id = ?"),

		allGates: p("SELECT data, tenant, kind, name FROM gates WHERE (tenant, kind, name) > (?, ?, ?) ORDER BY tenant, kind, name LIMIT +?"),
		dropGate: p("DELETE FROM gates WHERE tenant = ? AND kind = ? AND name = ?"),
	}
}

// Trim implements [store.Engine]. A step runs within a commit of the writer, and takes a few milliseconds at most.
func (e *Engine) Trim(ctx context.Context, p store.TrimParams) (more bool, err error) {
	var left bool // the writer's, until the step is over
	err = e.step(ctx, func(w *writer) (err error) {
		left, err = w.trim(&p)
		return err
	})
	if err != nil {
		return false, err
	}
	return left, nil
}

// A trimStep is what is left of the bounds of a step.
type trimStep struct {
	*writer
	p    *store.TrimParams
	left int
	stop time.Time
}

func (t *trimStep) over() bool { return t.left <= 0 || time.Now().After(t.stop) }

func (w *writer) trim(p *store.TrimParams) (more bool, err error) {
	t := &trimStep{writer: w, p: p, left: p.Limit, stop: time.Now().Add(trimTime)}
	// Whatever a step does not come to, the next one does: each part removes what it finds, so the parts before it are soon
	// done with.
	for _, part := range []func() (bool, error){t.dedupEntries, t.quotas, t.deadLetters, t.messages, t.contents, t.emptyGates} {
		if t.over() {
			return true, nil
		}
		m, err := part()
		if err != nil {
			return false, err
		}
		more = more || m
	}
	return more, nil
}

// pairs reads all rows of two integers, or of an integer and a text, so that they can be deleted one by one after.
type pair struct {
	a, b int64
	text string
}

func readPairs(s stmt, text bool) (list []pair, err error) {
	err = each(s, func() error {
		p := pair{a: s.ColumnInt64(0)}
		if text {
			p.text = s.ColumnText(1)
		} else {
			p.b = s.ColumnInt64(1)
		}
		list = append(list, p)
		return nil
	})
	return list, err
}

func (t *trimStep) dedupEntries() (more bool, err error) {
	t.expired.BindInt64(1, t.p.Now.UnixMicro())
	t.expired.BindInt64(2, int64(t.left))
	list, err := readPairs(t.expired, true)
	if err != nil {
		return false, err
	}
	for _, k := range list {
		if t.over() {
			return true, nil
		}
		t.left--
		t.dropDedup.BindInt64(1, k.a)
		t.dropDedup.BindText(2, k.text)
		if err := t.dropDedup.run(); err != nil {
			return false, fmt.Errorf("deduplication entries: %w", err)
		}
	}
	return t.left <= 0, nil
}

func (t *trimStep) quotas() (more bool, err error) {
	t.oldQuota.BindInt64(1, int64(store.DayOf(t.p.Now))-quotaDays)
	t.oldQuota.BindInt64(2, int64(t.left))
	list, err := readPairs(t.oldQuota, false)
	if err != nil {
		return false, err
	}
	for _, k := range list {
		if t.over() {
			return true, nil
		}
		t.left--
		t.dropQuota.BindInt64(1, k.a)
		t.dropQuota.BindInt64(2, k.b)
		if err := t.dropQuota.run(); err != nil {
			return false, fmt.Errorf("quota: %w", err)
		}
	}
	return t.left <= 0, nil
}

func (t *trimStep) deadLetters() (more bool, err error) {
	for tenant := int64(minTenant); !t.over(); {
		t.deadTenant.BindInt64(1, tenant)
		found, err := first(t.deadTenant, func() error {
			tenant = t.deadTenant.ColumnInt64(0)
			return nil
		})
		if !found || err != nil {
			return false, err
		}
		before := t.p.Of(posthaste.TenantID(tenant)).Dead
		if before.IsZero() {
			continue
		}
		t.oldDead.BindInt64(1, tenant)
		t.oldDead.BindInt64(2, before.UnixMilli())
		t.oldDead.BindInt64(3, int64(t.left))
		list, err := readPairs(t.oldDead, false)
		if err != nil {
			return false, err
		}
		for _, k := range list {
			if t.over() {
				return true, nil
			}
			t.left--
			t.dropDead.BindInt64(1, tenant)
			t.dropDead.BindInt64(2, k.a)
			t.dropDead.BindInt64(3, k.b)
			if err := t.dropDead.run(); err != nil {
				return false, fmt.Errorf("dead letters: %w", err)
			}
		}
	}
	return true, nil
}

// oldMessage is a message that a walk comes by.
type oldMessage struct {
	n    int64
	id   string
	head posthaste.Message
}

// walk goes on with a walk through the messages of one tenant after the other, oldest first, up to the tenant's bound; zero: past
// the tenant.
func (t *trimStep) walk(w *walk, bound func(store.Keep) time.Time, f func(tenant int64, m *oldMessage, before time.Time) error) (more bool, err error) {
	for !t.over() {
		if before := bound(t.p.Of(posthaste.TenantID(w.tenant))); w.begun && !before.IsZero() {
			last, limit := string(posthaste.FirstMessageID(before)), t.left
			var list []oldMessage
			t.oldMessages.BindInt64(1, w.tenant)
			t.oldMessages.BindText(2, w.id)
			t.oldMessages.BindText(3, last)
			t.oldMessages.BindInt64(4, int64(limit))
			err := each(t.oldMessages, func() error {
				m := oldMessage{n: t.oldMessages.ColumnInt64(0), id: t.oldMessages.ColumnText(1)}
				list = append(list, m)
				return store.DecodeMessage(t.oldMessages.bytes(2), &list[len(list)-1].head)
			})
			if err != nil {
				return false, fmt.Errorf("messages: %w", err)
			}
			for i := range list {
				if t.over() {
					return true, nil
				}
				t.left--
				w.id = list[i].id
				if err := f(w.tenant, &list[i], before); err != nil {
					return false, fmt.Errorf("message %s: %w", w.id, err)
				}
			}
			if len(list) == limit {
				return true, nil
			}
			if w.done != nil {
				w.done[w.tenant] = last
			}
		}
		after := w.tenant
		if !w.begun {
			after = int64(minTenant)
		}
		t.walkTenant.BindInt64(1, after)
		found, err := first(t.walkTenant, func() error {
			w.tenant, w.begun = t.walkTenant.ColumnInt64(0), true
			w.id = w.done[w.tenant]
			return nil
		})
		if err != nil {
			return false, fmt.Errorf("messages: %w", err)
		}
		if !found {
			w.begun = false
			return false, nil
		}
	}
	return true, nil
}

// messages removes content, with its attempts and marks, of messages that ended long ago. It passes over what is pending or
// still named.
func (t *trimStep) messages() (more bool, err error) {
	return t.walk(&t.removing, func(k store.Keep) time.Time { return k.Messages },
		func(tenant int64, m *oldMessage, before time.Time) error {
			if keep, err := t.needed(tenant, m, before); keep || err != nil {
				return err
			}
			t.dropAttempts.BindInt64(1, m.n)
			t.dropMarks.BindInt64(1, tenant)
			t.dropMarks.BindText(2, m.id)
			t.dropMessage.BindInt64(1, m.n)
			for _, s := range [...]stmt{t.dropAttempts, t.dropMarks, t.dropMessage} {
				if err := s.run(); err != nil {
					return err
				}
			}
			return nil
		})
}

// contents strips messages that ended some time ago and that messages leaves for the log.
func (t *trimStep) contents() (more bool, err error) {
	if !t.p.Strips() {
		return false, nil
	}
	if !t.stripping.begun && t.p.Now.Sub(t.strippedAll).Abs() >= stripAll {
		t.stripping.done, t.strippedAll = map[int64]string{}, t.p.Now
	}
	return t.walk(&t.stripping, func(k store.Keep) time.Time { return k.Content },
		func(tenant int64, m *oldMessage, before time.Time) error {
			if m.head.Stripped {
				return nil
			}
			if keep, err := t.needed(tenant, m, before); keep || err != nil {
				return err
			}
			store.Strip(&m.head)
			t.strip.BindBytes(1, store.AppendMessage(nil, &m.head))
			t.strip.BindInt64(2, m.n)
			return t.strip.run()
		})
}

// needed reports whether the message is unresolved, named by a dead letter or a schedule's last tick, or ended too late.
func (t *trimStep) needed(tenant int64, m *oldMessage, before time.Time) (yes bool, err error) {
	if t.opened(posthaste.MessageID(m.id)) {
		return true, nil
	}
	t.named.BindText(1, m.id)
	if yes, err = first(t.named, func() error { return nil }); yes || err != nil {
		return yes, err
	}
	if m.head.Schedule != "" {
		tick, err := t.readTick(store.TickRef{Tenant: posthaste.TenantID(tenant), Schedule: m.head.Schedule})
		if err != nil {
			return false, err
		}
		if tick != nil && slices.Contains(tick.Made, posthaste.MessageID(m.id)) {
			return true, nil
		}
	}
	t.lastLog.BindInt64(1, tenant)
	t.lastLog.BindText(2, m.id)
	t.lastLog.BindInt64(3, m.n)
	_, err = first(t.lastLog, func() error {
		yes = t.lastLog.ColumnInt64(0) >= before.UnixMicro()
		return nil
	})
	return yes, err
}

// emptyGates removes gates that say no more than a gate that is not stored. Queues stay until somebody deletes them.
func (t *trimStep) emptyGates() (more bool, err error) {
	// The batch's own changes are written first, and what it has cached of these gates is read again after.
	if err := t.flushGates(); err != nil {
		return false, err
	}
	clear(t.gates)
	limit := t.left
	var list []*store.Gate
	t.allGates.BindInt64(1, int64(t.afterGate.Tenant))
	t.allGates.BindInt64(2, int64(t.afterGate.Kind))
	t.allGates.BindText(3, t.afterGate.Name)
	t.allGates.BindInt64(4, int64(limit))
	err = each(t.allGates, func() error {
		s := t.allGates
		g, err := readGateRow(s, store.GateRef{Tenant: posthaste.TenantID(s.ColumnInt64(1)), Kind: store.Kind(s.ColumnInt64(2)), Name: s.ColumnText(3)})
		if err == nil {
			list = append(list, g)
		}
		return err
	})
	if err != nil {
		return false, err
	}
	for _, g := range list {
		if t.over() {
			return true, nil
		}
		t.left--
		t.afterGate = g.GateRef
		if !emptyGate(g, t.p.Now) {
			continue
		}
		t.dropGate.BindInt64(1, int64(g.Tenant))
		t.dropGate.BindInt64(2, int64(g.Kind))
		t.dropGate.BindText(3, g.Name)
		if err := t.dropGate.run(); err != nil {
			return false, fmt.Errorf("gates: %w", err)
		}
	}
	if len(list) < limit {
		t.afterGate = firstGate
		return false, nil
	}
	return true, nil
}

// firstGate is before every gate.
var firstGate = store.GateRef{Tenant: minTenant}

// emptyGate reports whether nothing would be lost with g: its limits came with messages and will come again.
func emptyGate(g *store.Gate, now time.Time) bool {
	configured := g.Paused || g.PinnedParallelism || g.PinnedRate
	used := g.InUse > 0 || g.Waiting > 0 || g.Live > 0 || g.WindowUsed > 0 && now.Before(g.WindowStart.Add(g.Period))
	return g.Kind != store.KindQueue && !configured && !used && now.Sub(g.TouchedAt) > gateRest
}
