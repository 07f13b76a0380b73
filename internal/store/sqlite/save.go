package sqlite

import (
	"fmt"
	"slices"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
)

// saves are the statements that write what operations decided.
type saves struct {
	buf       []byte // for records, until they are bound
	ripeAfter posthaste.TenantID

	putMessage, restart                    stmt
	insertClaim, updateClaim, dropClaim    stmt
	insertTicket, updateTicket, dropTicket stmt
	putGate                                stmt
	putSlot, dropSlot                      stmt
	putDedup                               stmt
	putDead, dropDead                      stmt
	putAttempt, putMark                    stmt
	putTick, goneTick                      stmt
	addQuota                               stmt
	putConfig, dropConfig, raise           stmt
}

func newSaves(c *conn) saves {
	p := c.prepare
	return saves{
		putMessage: p("INSERT INTO messages (tenant, id, at_once, claim, head, body) VALUES (?, ?, ?, ?, ?, ?)"),
		restart:    p("UPDATE messages SET at_once = 0 WHERE tenant = ? AND id = ?"),

		insertClaim:  p("INSERT INTO claims (id, tenant, n, data) VALUES (?, ?, ?, ?)"),
		updateClaim:  p("UPDATE claims SET data = ? WHERE id = ?"),
		dropClaim:    p("DELETE FROM claims WHERE id = ?"),
		insertTicket: p("INSERT INTO tickets (id, tenant, due, gate, rank, place, wake, data, n) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"),
		updateTicket: p("UPDATE tickets SET tenant = ?2, due = ?3, gate = ?4, rank = ?5, place = ?6, wake = ?7, data = ?8 WHERE id = ?1"),
		dropTicket:   p("DELETE FROM tickets WHERE id = ?"),

		putGate:  p("REPLACE INTO gates (tenant, kind, name, data) VALUES (?, ?, ?, ?)"),
		putSlot:  p("REPLACE INTO slots (source, gate, gen, open) VALUES (?, ?, ?, ?)"),
		dropSlot: p("DELETE FROM slots WHERE source = ? AND gate = ? AND gen = ?"),
		putDedup: p("REPLACE INTO dedup (tenant, key, message, expires) VALUES (?, ?, ?, ?)"),

		putDead:    p("INSERT INTO dead_letters (tenant, ms, seq, message, data) VALUES (?, ?, ?, ?, ?)"),
		dropDead:   p("DELETE FROM dead_letters WHERE tenant = ? AND ms = ? AND seq = ?"),
		putAttempt: p("INSERT INTO attempts (n, tenant, id, started, ended, at_once, data) VALUES (?, ?, ?, ?, ?, ?, ?)"),
		putMark:    p("INSERT OR IGNORE INTO marks (tenant, at, id, n) VALUES (?, ?, ?, ?)"),

		putTick:  p("REPLACE INTO ticks (tenant, schedule, next, data) VALUES (?, ?, ?, ?)"),
		goneTick: p("DELETE FROM ticks WHERE tenant = ? AND schedule = ?"),
		addQuota: p("INSERT INTO quota (tenant, day, n) VALUES (?, ?, ?) ON CONFLICT (tenant, day) DO UPDATE SET n = n + excluded.n"),

		putConfig:  p("REPLACE INTO config (tenant, kind, name, value, created, updated) VALUES (?, ?, ?, ?, ?, ?)"),
		dropConfig: p("DELETE FROM config WHERE tenant = ? AND kind = ? AND name = ?"),
		raise:      p("INSERT INTO tenants (id, version) VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET version = version + 1"),
	}
}

// errLost says that a row an operation was decided on is not where it was loaded from. Only an operation that stores a
// ticket it did not load can bring that about.
func errLost(t *store.Ticket) error {
	return posthaste.Errorf(posthaste.CodeInternal, "ticket %s is not stored as %s", t.ID, t.Stored.Phase)
}

// save writes what an operation decided.
func (w *writer) save(c *store.Changes) error {
	for _, m := range c.Messages {
		if err := w.insertMessage(m, c); err != nil {
			return fmt.Errorf("message %s: %w", m.ID, err)
		}
	}
	for _, t := range c.Put {
		if w.opened(t.ID) && t.Stored.Phase == posthaste.PhaseNone {
			continue // it stands with its message
		}
		if err := w.put(t, c); err != nil {
			return fmt.Errorf("ticket %s: %w", t.ID, err)
		}
	}
	for _, t := range c.Drop {
		if err := w.drop(t, c); err != nil {
			return fmt.Errorf("ticket %s: %w", t.ID, err)
		}
	}
	for _, g := range c.Gates {
		e := w.gates[g.GateRef]
		if e == nil {
			e = new(cachedGate)
			w.gates[g.GateRef] = e
		}
		if !e.dirty {
			w.dirty++
		}
		e.Gate, e.found, e.dirty = *g, true, true
	}
	for _, slot := range c.Slots {
		s := w.putSlot
		if slot.Open == 0 {
			s = w.dropSlot
		} else {
			s.BindInt64(4, int64(slot.Open))
		}
		s.BindText(1, string(slot.Source))
		s.BindText(2, gateKey(&slot.Queue))
		s.BindInt64(3, slot.Gen)
		if err := s.run(); err != nil {
			return fmt.Errorf("slot of %s: %w", slot.Source, err)
		}
	}
	for _, d := range c.Dedup {
		s := w.putDedup
		s.BindInt64(1, int64(d.Tenant))
		s.BindText(2, d.Key)
		s.BindText(3, string(d.Message))
		s.BindInt64(4, micros(d.Expires))
		if err := s.run(); err != nil {
			return fmt.Errorf("deduplication entry: %w", err)
		}
	}
	for _, a := range c.Attempts {
		s := w.putAttempt
		n, err := w.attemptRow(a)
		if err != nil {
			return err
		}
		w.buf = store.AppendAttempt(w.buf[:0], a)
		s.BindInt64(1, n)
		s.BindInt64(2, int64(a.Tenant))
		s.BindText(3, string(a.Message))
		s.BindInt64(4, micros(a.StartedAt))
		s.BindInt64(5, micros(a.EndedAt))
		s.BindInt64(6, flag(a.AtOnce))
		s.BindBytes(7, w.buf)
		if err := s.run(); err != nil {
			return fmt.Errorf("attempt %d of message %s: %w", a.Number, a.Message, err)
		}
	}
	for _, d := range c.Dead {
		at, seq, ok := d.ID.Parts()
		if !ok {
			return posthaste.Errorf(posthaste.CodeInternal, "%q is not the id of a dead letter", string(d.ID))
		}
		s := w.putDead
		w.buf = store.AppendDeadLetter(w.buf[:0], d)
		s.BindInt64(1, int64(d.Tenant))
		s.BindInt64(2, at.UnixMilli())
		s.BindInt64(3, int64(seq))
		s.BindText(4, string(d.Message))
		s.BindBytes(5, w.buf)
		if err := s.run(); err != nil {
			return fmt.Errorf("dead letter %s: %w", d.ID, err)
		}
	}
	for _, k := range c.DeadGone {
		at, seq, _ := k.ID.Parts()
		s := w.dropDead
		s.BindInt64(1, int64(k.Tenant))
		s.BindInt64(2, at.UnixMilli())
		s.BindInt64(3, int64(seq))
		if err := s.run(); err != nil {
			return fmt.Errorf("dead letter %s: %w", k.ID, err)
		}
	}
	for i := range c.Marks {
		m, s := &c.Marks[i], w.putMark
		s.BindInt64(1, int64(m.Tenant))
		s.BindInt64(2, micros(m.At))
		s.BindText(3, string(m.Message))
		s.BindInt64(4, flag(m.State == posthaste.StateCanceled))
		if err := s.run(); err != nil {
			return fmt.Errorf("mark of message %s: %w", m.Message, err)
		}
	}
	for _, t := range c.Restarted {
		w.restart.BindInt64(1, int64(t.Tenant))
		w.restart.BindText(2, string(t.ID))
		if err := w.restart.run(); err != nil {
			return fmt.Errorf("message %s: %w", t.ID, err)
		}
	}
	for _, q := range c.Quota {
		w.addQuota.BindInt64(1, int64(q.Tenant))
		w.addQuota.BindInt64(2, int64(q.Day))
		w.addQuota.BindInt64(3, q.N)
		if err := w.addQuota.run(); err != nil {
			return fmt.Errorf("quota: %w", err)
		}
	}
	if c.Tick != nil || c.TickGone != nil || c.Config != nil || c.ConfigGone != nil || c.Raise != nil {
		return w.saveConfig(c)
	}
	return nil
}

// attemptRow returns the n of an attempt. It is known from the ticket, which almost every operation that ends an attempt
// has read.
func (w *writer) attemptRow(a *posthaste.Attempt) (int64, error) {
	n := w.c.rowOf(a.Message)
	if n == 0 {
		var err error
		if n, err = w.readMessageRow(a.Tenant, a.Message); err != nil {
			return 0, err
		}
	}
	if n == 0 || a.Number < 0 || a.Number >= 1<<20 {
		return 0, posthaste.Errorf(posthaste.CodeInternal, "attempt %d of message %s has no place", a.Number, a.Message)
	}
	return n<<20 | int64(a.Number), nil
}

// saveConfig writes what is rarely changed.
func (w *writer) saveConfig(c *store.Changes) error {
	if t := c.Tick; t != nil {
		s := w.putTick
		w.buf = store.AppendTick(w.buf[:0], t)
		s.BindInt64(1, int64(t.Tenant))
		s.BindText(2, string(t.Schedule))
		s.bindTime(3, t.Next)
		s.BindBytes(4, w.buf)
		if err := s.run(); err != nil {
			return fmt.Errorf("tick of schedule %s: %w", t.Schedule, err)
		}
		w.hint = earliest(w.hint, t.Next)
	}
	if t := c.TickGone; t != nil {
		w.goneTick.BindInt64(1, int64(t.Tenant))
		w.goneTick.BindText(2, string(t.Schedule))
		if err := w.goneTick.run(); err != nil {
			return fmt.Errorf("tick of schedule %s: %w", t.Schedule, err)
		}
	}
	for _, r := range c.Config {
		s := w.putConfig
		s.BindInt64(1, int64(r.Tenant))
		s.BindText(2, string(r.Kind))
		s.BindText(3, r.Name)
		s.BindBytes(4, r.Value)
		s.BindInt64(5, micros(r.CreatedAt))
		s.BindInt64(6, micros(r.UpdatedAt))
		if err := s.run(); err != nil {
			return fmt.Errorf("configuration %s %q: %w", r.Kind, r.Name, err)
		}
	}
	for _, k := range c.ConfigGone {
		s := w.dropConfig
		s.BindInt64(1, int64(k.Tenant))
		s.BindText(2, string(k.Kind))
		s.BindText(3, k.Name)
		if err := s.run(); err != nil {
			return fmt.Errorf("configuration %s %q: %w", k.Kind, k.Name, err)
		}
	}
	for _, id := range c.Raise {
		delete(w.versions, id)
		w.raise.BindInt64(1, int64(id))
		if err := w.raise.run(); err != nil {
			return fmt.Errorf("version of tenant %d: %w", id, err)
		}
	}
	return nil
}

// insertMessage stores a message, with its ticket if that is claimed already.
func (w *writer) insertMessage(m *posthaste.Message, c *store.Changes) error {
	s := w.putMessage
	var claim []byte
	if m.ClaimedAtOnce && w.e.joined.Load() {
		i := slices.IndexFunc(c.Put, func(t *store.Ticket) bool { return t.ID == m.ID })
		if i >= 0 && c.Put[i].Phase == posthaste.PhaseClaimed {
			claim = store.AppendTicket(nil, c.Put[i])
		}
	}
	w.buf = store.AppendMessage(w.buf[:0], m)
	s.BindInt64(1, int64(m.Tenant))
	s.BindText(2, string(m.ID))
	s.BindInt64(3, flag(m.ClaimedAtOnce))
	if claim == nil {
		s.BindNull(4)
	} else {
		s.BindBytes(4, claim)
	}
	s.BindBytes(5, w.buf)
	s.BindBytes(6, m.Body)
	if err := s.run(); err != nil {
		return err
	}
	n := w.c.LastInsertRowID()
	w.c.rows = append(w.c.rows, messageRow{m.ID, n})
	if w.extent.newest = n; claim != nil && n > w.extent.written {
		w.open.add(m.ID, &openClaim{tenant: m.Tenant, n: n, data: claim})
		w.changed = append(w.changed, openChange{id: m.ID, added: true})
	}
	return nil
}

// put stores a ticket: a new row, the same row changed, or a move between the tables.
func (w *writer) put(t *store.Ticket, c *store.Changes) error {
	if err := w.settleOpen(t, c); err != nil {
		return err
	}
	w.buf = store.AppendTicket(w.buf[:0], t)
	claimed, was := t.Phase == posthaste.PhaseClaimed, t.Stored.Phase
	if was != posthaste.PhaseNone && claimed != (was == posthaste.PhaseClaimed) {
		if err := w.drop(t, c); err != nil {
			return err
		}
		was = posthaste.PhaseNone
	}
	if claimed {
		if was == posthaste.PhaseNone {
			w.insertClaim.BindText(1, string(t.ID))
			w.insertClaim.BindInt64(2, int64(t.Tenant))
			w.insertClaim.BindInt64(3, w.c.rowOf(t.ID))
			w.insertClaim.BindBytes(4, w.buf)
			return w.insertClaim.run()
		}
		w.updateClaim.BindBytes(1, w.buf)
		w.updateClaim.BindText(2, string(t.ID))
		return w.hit(w.updateClaim, t)
	}
	s := w.insertTicket
	if was != posthaste.PhaseNone {
		s = w.updateTicket
	}
	s.BindText(1, string(t.ID))
	s.BindInt64(2, int64(t.Tenant))
	if t.Phase == posthaste.PhaseWaiting {
		s.BindNull(3)
		s.BindText(4, gateKey(&t.ParkedAt))
		s.BindInt64(5, int64(t.Rank))
		s.BindInt64(6, t.Place)
		s.bindTime(7, t.Due)
	} else {
		s.BindInt64(3, t.Due.UnixMicro())
		s.BindNull(4)
		s.BindNull(5)
		s.BindNull(6)
		s.BindNull(7)
	}
	s.BindBytes(8, w.buf)
	if was == posthaste.PhaseNone {
		s.BindInt64(9, w.c.rowOf(t.ID))
	}
	if !t.Due.IsZero() {
		w.hint = earliest(w.hint, t.Due)
	}
	if was != posthaste.PhaseNone {
		return w.hit(s, t)
	}
	return s.run()
}

// drop removes the row of a ticket from where it was loaded.
func (w *writer) drop(t *store.Ticket, c *store.Changes) error {
	if err := w.settleOpen(t, c); err != nil {
		return err
	}
	s := w.dropTicket
	switch t.Stored.Phase {
	case posthaste.PhaseNone:
		return nil // it never was stored
	case posthaste.PhaseClaimed:
		s = w.dropClaim
	}
	s.BindText(1, string(t.ID))
	return w.hit(s, t)
}

// hit runs a statement that must change the row of t.
func (w *writer) hit(s stmt, t *store.Ticket) error {
	if err := s.run(); err != nil {
		return err
	}
	if w.c.Changes() != 1 {
		return errLost(t)
	}
	return nil
}

func (w *writer) saveGate(g *store.Gate) error {
	w.buf = store.AppendGate(w.buf[:0], g)
	w.putGate.BindInt64(1, int64(g.Tenant))
	w.putGate.BindInt64(2, int64(g.Kind))
	w.putGate.BindText(3, g.Name)
	w.putGate.BindBytes(4, w.buf)
	if err := w.putGate.run(); err != nil {
		return fmt.Errorf("gate %q: %w", g.Name, err)
	}
	return nil
}

// sendHint tells of work that is due at the given moment. A hint that was not fetched yet is replaced by the earlier one.
// Only the writer sends.
func (e *Engine) sendHint(due time.Time) {
	for {
		select {
		case e.hints <- store.Hint{Due: due}:
			return
		default:
		}
		select {
		case old := <-e.hints:
			due = earliest(due, old.Due)
		default:
		}
	}
}
