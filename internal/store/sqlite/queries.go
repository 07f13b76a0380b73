package sqlite

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
)

// queries are the reading statements of a connection. The writer has them too: it loads with them what operations want.
// Each of its methods reads from whatever transaction the connection is in.
type queries struct {
	c *conn

	version, tenants                           stmt
	config, configList, findConfig             stmt
	messageRow                                 stmt
	message, messagesUp, messagesDown          stmt
	claim, ticket, anyTicket                   stmt
	claimsAfter, claimsOf, ticketsOf           stmt
	nextTenant, ripe                           stmt
	awake, firstWake, heads                    stmt
	gate, gateList                             stmt
	slot, dedup, dedupList, quota              stmt
	tick, dueTicks                             stmt
	attempts, marks                            stmt
	dead, deadUp, deadDown                     stmt
	createdUp, createdDown                     stmt
	startedUp, startedDown, endedUp, endedDown stmt
	marksUp, marksDown                         stmt
}

func newQueries(c *conn) *queries {
	const (
		ticketCols  = "id, tenant, n, data"
		messageCols = "id, at_once, head, body"
		attemptCols = "id, n & 1048575, started, ended, at_once, data"
		markCols    = "id, at, n"
		deadCols    = "ms, seq, message, data"
	)
	// The plus before the parameter of a limit hides it from the planner, which otherwise would look at its value and prepare
	// the statement again whenever that changes.
	p := c.prepare
	return &queries{
		c:       c,
		version: p("SELECT version FROM tenants WHERE id = ?"),
		tenants: p("SELECT id FROM tenants WHERE id > ? ORDER BY id LIMIT +?"),

		config:     p("SELECT tenant, kind, name, value, created, updated FROM config WHERE tenant = ? AND kind = ? AND name = ?"),
		configList: p("SELECT tenant, kind, name, value, created, updated FROM config WHERE tenant = ? AND kind = ? AND name > ? ORDER BY name LIMIT +?"),
		findConfig: p("SELECT tenant, kind, name, value, created, updated FROM config WHERE kind = ? AND name = ? ORDER BY tenant LIMIT 1"),

		messageRow:   p("SELECT n FROM messages WHERE tenant = ? AND id = ?"),
		message:      p("SELECT " + messageCols + " FROM messages WHERE tenant = ? AND id = ?"),
		messagesUp:   p("SELECT " + messageCols + " FROM messages WHERE tenant = ? AND id > ? ORDER BY id LIMIT +?"),
		messagesDown: p("SELECT " + messageCols + " FROM messages WHERE tenant = ? AND id < ? ORDER BY id DESC LIMIT +?"),

		claim:  p("SELECT " + ticketCols + " FROM claims WHERE id = ?"),
		ticket: p("SELECT " + ticketCols + " FROM tickets WHERE id = ?"),
		// One statement, so that a ticket that moves between the tables is seen in exactly one of them.
		anyTicket:   p("SELECT " + ticketCols + " FROM claims WHERE id = ?1 UNION ALL SELECT " + ticketCols + " FROM tickets WHERE id = ?1"),
		claimsAfter: p("SELECT " + ticketCols + " FROM all_claims WHERE id > ? ORDER BY id"),
		claimsOf:    p("SELECT " + ticketCols + " FROM all_claims WHERE tenant = ? AND id > ? ORDER BY id LIMIT +?"),
		ticketsOf:   p("SELECT " + ticketCols + " FROM tickets WHERE tenant = ? AND id > ? ORDER BY id LIMIT +?"),

		// Seeks the first due ticket of the next tenant that has one.
		nextTenant: p("SELECT tenant, due FROM tickets WHERE due IS NOT NULL AND tenant > ? ORDER BY tenant, due LIMIT 1"),
		ripe:       p("SELECT " + ticketCols + " FROM tickets WHERE due IS NOT NULL AND tenant = ? AND due <= ? ORDER BY due, id LIMIT +?"),
		awake:      p("SELECT " + ticketCols + " FROM tickets WHERE wake IS NOT NULL AND wake <= ? ORDER BY wake LIMIT +?"),
		firstWake:  p("SELECT wake FROM tickets WHERE wake IS NOT NULL ORDER BY wake LIMIT 1"),
		heads:      p("SELECT " + ticketCols + " FROM tickets WHERE gate = ? ORDER BY rank, place, id LIMIT +?"),

		gate:     p("SELECT data FROM gates WHERE tenant = ? AND kind = ? AND name = ?"),
		gateList: p("SELECT data, name FROM gates WHERE tenant = ? AND kind = ? AND name > ? ORDER BY name LIMIT +?"),

		slot:      p("SELECT open FROM slots WHERE source = ? AND gate = ? AND gen = ?"),
		dedup:     p("SELECT message, expires FROM dedup WHERE tenant = ? AND key = ?"),
		dedupList: p("SELECT key, message, expires FROM dedup WHERE tenant = ? AND key > ? ORDER BY key LIMIT +?"),
		quota:     p("SELECT n FROM quota WHERE tenant = ? AND day = ?"),

		tick:     p("SELECT tenant, schedule, next, data FROM ticks WHERE tenant = ? AND schedule = ?"),
		dueTicks: p("SELECT tenant, schedule, next, data FROM ticks WHERE next IS NOT NULL AND next <= ? ORDER BY next LIMIT +?"),

		attempts: p("SELECT " + attemptCols + " FROM attempts WHERE n BETWEEN ?1 << 20 AND (?1 << 20) + 1048575 ORDER BY n"),
		marks:    p("SELECT " + markCols + " FROM marks WHERE tenant = ? AND id = ? ORDER BY at, n"),

		dead:     p("SELECT " + deadCols + " FROM dead_letters WHERE tenant = ? AND ms = ? AND seq = ?"),
		deadUp:   p("SELECT " + deadCols + " FROM dead_letters WHERE tenant = ? AND (ms, seq) > (?, ?) ORDER BY ms, seq LIMIT +?"),
		deadDown: p("SELECT " + deadCols + " FROM dead_letters WHERE tenant = ? AND (ms, seq) < (?, ?) ORDER BY ms DESC, seq DESC LIMIT +?"),

		createdUp:   p("SELECT id, at_once FROM messages WHERE tenant = ? AND id > ? ORDER BY id LIMIT +?"),
		createdDown: p("SELECT id, at_once FROM messages WHERE tenant = ? AND id < ? ORDER BY id DESC LIMIT +?"),
		startedUp:   p("SELECT " + attemptCols + " FROM attempts WHERE at_once = 0 AND tenant = ?1 AND (started, id) >= (?2, ?3) AND NOT (started = ?2 AND id = ?3 AND n & 1048575 <= ?4) ORDER BY started, id, n LIMIT +?5"),
		startedDown: p("SELECT " + attemptCols + " FROM attempts WHERE at_once = 0 AND tenant = ?1 AND (started, id) <= (?2, ?3) AND NOT (started = ?2 AND id = ?3 AND n & 1048575 >= ?4) ORDER BY started DESC, id DESC, n DESC LIMIT +?5"),
		endedUp:     p("SELECT " + attemptCols + " FROM attempts WHERE tenant = ?1 AND (ended, id) >= (?2, ?3) AND NOT (ended = ?2 AND id = ?3 AND n & 1048575 <= ?4) ORDER BY ended, id, n LIMIT +?5"),
		endedDown:   p("SELECT " + attemptCols + " FROM attempts WHERE tenant = ?1 AND (ended, id) <= (?2, ?3) AND NOT (ended = ?2 AND id = ?3 AND n & 1048575 >= ?4) ORDER BY ended DESC, id DESC, n DESC LIMIT +?5"),
		marksUp:     p("SELECT " + markCols + " FROM marks WHERE tenant = ? AND (at, id, n) > (?, ?, ?) ORDER BY at, id, n LIMIT +?"),
		marksDown:   p("SELECT " + markCols + " FROM marks WHERE tenant = ? AND (at, id, n) < (?, ?, ?) ORDER BY at DESC, id DESC, n DESC LIMIT +?"),
	}
}

// each runs a statement whose parameters are bound and calls f for every row.
func each(s stmt, f func() error) error {
	for {
		ok, err := s.row()
		if !ok || err != nil {
			return err
		}
		if err := f(); err != nil {
			s.done()
			return err
		}
	}
}

// first runs a statement whose parameters are bound and calls f for the first row, if there is one.
func first(s stmt, f func() error) (bool, error) {
	ok, err := s.row()
	if !ok || err != nil {
		return false, err
	}
	err = f()
	s.done()
	return err == nil, err
}

func (q *queries) readVersion(tenant posthaste.TenantID) (v int64, err error) {
	q.version.BindInt64(1, int64(tenant))
	ok, err := q.version.row()
	if !ok || err != nil {
		return 0, err
	}
	v = q.version.ColumnInt64(0)
	q.version.done()
	return v, nil
}

func readConfigRow(s stmt) *store.ConfigRow {
	return &store.ConfigRow{
		ConfigKey: store.ConfigKey{
			Tenant: posthaste.TenantID(s.ColumnInt64(0)), Kind: store.ConfigKind(s.ColumnText(1)), Name: s.ColumnText(2),
		},
		Value: s.keep(3), CreatedAt: s.time(4), UpdatedAt: s.time(5),
	}
}

func (q *queries) readConfig(k store.ConfigKey) (row *store.ConfigRow, err error) {
	q.config.BindInt64(1, int64(k.Tenant))
	q.config.BindText(2, string(k.Kind))
	q.config.BindText(3, k.Name)
	_, err = first(q.config, func() error {
		row = readConfigRow(q.config)
		return nil
	})
	return row, err
}

// readMessageCols reads a row of the messages' columns. The id is handed in if it is known.
func readMessageCols(s stmt, tenant posthaste.TenantID, id posthaste.MessageID) (*posthaste.Message, error) {
	if id == "" {
		id = posthaste.MessageID(s.ColumnText(0))
	}
	m := &posthaste.Message{ID: id, Tenant: tenant, ClaimedAtOnce: s.ColumnInt64(1) != 0, Body: s.keep(3)}
	if err := store.DecodeMessage(s.bytes(2), m); err != nil {
		return nil, fmt.Errorf("message %s: %w", id, err)
	}
	return m, nil
}

func (q *queries) readMessage(k store.MessageKey) (m *posthaste.Message, err error) {
	q.message.BindInt64(1, int64(k.Tenant))
	q.message.BindText(2, string(k.ID))
	_, err = first(q.message, func() error {
		m, err = readMessageCols(q.message, k.Tenant, k.ID)
		return err
	})
	return m, err
}

// readMessageRow returns the n of a message; 0 if it is not stored.
func (q *queries) readMessageRow(tenant posthaste.TenantID, id posthaste.MessageID) (n int64, err error) {
	q.messageRow.BindInt64(1, int64(tenant))
	q.messageRow.BindText(2, string(id))
	_, err = first(q.messageRow, func() error {
		n = q.messageRow.ColumnInt64(0)
		return nil
	})
	return n, err
}

// readTicket reads a ticket that is not an open claim. It looks among the claims first: that is where most of the tickets are
// that operations ask for.
func (q *queries) readTicket(id posthaste.MessageID) (*store.Ticket, error) {
	for _, s := range [...]stmt{q.claim, q.ticket} {
		s.BindText(1, string(id))
		ok, err := s.row()
		if err != nil {
			return nil, err
		}
		if ok {
			t, err := s.ticket(id)
			s.done()
			return t, err
		}
	}
	return nil, nil
}

// readTickets appends the tickets of a statement whose parameters are bound.
func readTickets(list []*store.Ticket, s stmt) ([]*store.Ticket, error) {
	err := each(s, func() error {
		t, err := s.ticket("")
		if err == nil {
			list = append(list, t)
		}
		return err
	})
	return list, err
}

func (q *queries) readHeads(list []*store.Ticket, ref *store.GateRef, limit int) ([]*store.Ticket, error) {
	q.heads.BindText(1, gateKey(ref))
	q.heads.BindInt64(2, int64(limit))
	return readTickets(list, q.heads)
}

// readRipe appends due tickets, at most r.PerTenant of one tenant. It goes through the tenants that have any in the order
// of their ids, beginning after the given one, and returns the tenant to begin after next time: so all have their turn.
// One seek per tenant finds its earliest; nothing that is not due is read.
func (q *queries) readRipe(list []*store.Ticket, r *store.Ripe, after posthaste.TenantID) ([]*store.Ticket, posthaste.TenantID, error) {
	perTenant := r.PerTenant
	if perTenant <= 0 {
		perTenant = r.Limit
	}
	before, start, wrapped := r.Before.UnixMicro(), after, false
	at, end := start, len(list)+r.Limit
	for len(list) < end {
		var next posthaste.TenantID
		var due int64
		q.nextTenant.BindInt64(1, int64(at))
		ok, err := q.nextTenant.row()
		if err != nil {
			return list, after, err
		}
		if ok {
			next, due = posthaste.TenantID(q.nextTenant.ColumnInt64(0)), q.nextTenant.ColumnInt64(1)
			q.nextTenant.done()
		}
		switch {
		case !ok && wrapped, ok && wrapped && next > start:
			return list, after, nil
		case !ok:
			at, wrapped = minTenant, true
			continue
		}
		at = next
		if due > before {
			continue
		}
		q.ripe.BindInt64(1, int64(next))
		q.ripe.BindInt64(2, before)
		q.ripe.BindInt64(3, int64(min(perTenant, end-len(list))))
		if list, err = readTickets(list, q.ripe); err != nil {
			return list, after, err
		}
		after = next
	}
	return list, after, nil
}

const (
	minTenant posthaste.TenantID  = math.MinInt64 // below every tenant's id
	maxID     posthaste.MessageID = "n"           // above every message's id
)

// readDue tells when tickets and ticks are next due.
func (q *queries) readDue() (d store.ShardDue, err error) {
	for at := int64(minTenant); ; {
		q.nextTenant.BindInt64(1, at)
		ok, err := first(q.nextTenant, func() error {
			at = q.nextTenant.ColumnInt64(0)
			d.Tickets = earliest(d.Tickets, time.UnixMicro(q.nextTenant.ColumnInt64(1)).UTC())
			return nil
		})
		if err != nil {
			return d, err
		}
		if !ok {
			break
		}
	}
	if _, err = first(q.firstWake, func() error {
		d.Waiting = time.UnixMicro(q.firstWake.ColumnInt64(0)).UTC()
		return nil
	}); err != nil {
		return d, err
	}
	q.dueTicks.BindInt64(1, 1<<63-1)
	q.dueTicks.BindInt64(2, 1)
	_, err = first(q.dueTicks, func() error {
		d.Tick = time.UnixMicro(q.dueTicks.ColumnInt64(2)).UTC()
		return nil
	})
	return d, err
}

// earliest returns the earlier of two moments, of which a zero one means never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func (q *queries) readGate(ref store.GateRef) (*store.Gate, error) {
	q.gate.BindInt64(1, int64(ref.Tenant))
	q.gate.BindInt64(2, int64(ref.Kind))
	q.gate.BindText(3, ref.Name)
	var g *store.Gate
	_, err := first(q.gate, func() (err error) {
		g, err = readGateRow(q.gate, ref)
		return err
	})
	return g, err
}

func readGateRow(s stmt, ref store.GateRef) (*store.Gate, error) {
	g := &store.Gate{GateRef: ref}
	if err := store.DecodeGate(s.bytes(0), g); err != nil {
		return nil, fmt.Errorf("gate %q: %w", ref.Name, err)
	}
	return g, nil
}

func (q *queries) readSlot(ref store.SlotRef) (slot *store.Slot, err error) {
	q.slot.BindText(1, string(ref.Source))
	q.slot.BindText(2, gateKey(&ref.Queue))
	q.slot.BindInt64(3, ref.Gen)
	_, err = first(q.slot, func() error {
		slot = &store.Slot{SlotRef: ref, Open: q.slot.ColumnInt(0)}
		return nil
	})
	return slot, err
}

func (q *queries) readDedup(k store.DedupKey) (d *store.Dedup, err error) {
	q.dedup.BindInt64(1, int64(k.Tenant))
	q.dedup.BindText(2, k.Key)
	_, err = first(q.dedup, func() error {
		d = &store.Dedup{DedupKey: k, Message: posthaste.MessageID(q.dedup.ColumnText(0)), Expires: q.dedup.time(1)}
		return nil
	})
	return d, err
}

func (q *queries) readQuota(k store.QuotaKey) (n int64, err error) {
	q.quota.BindInt64(1, int64(k.Tenant))
	q.quota.BindInt64(2, int64(k.Day))
	_, err = first(q.quota, func() error {
		n = q.quota.ColumnInt64(0)
		return nil
	})
	return n, err
}

func (q *queries) readTick(ref store.TickRef) (t *store.Tick, err error) {
	q.tick.BindInt64(1, int64(ref.Tenant))
	q.tick.BindText(2, string(ref.Schedule))
	_, err = first(q.tick, func() error {
		t, err = readTickRow(q.tick)
		return err
	})
	return t, err
}

func readTickRow(s stmt) (*store.Tick, error) {
	t := &store.Tick{
		TickRef: store.TickRef{Tenant: posthaste.TenantID(s.ColumnInt64(0)), Schedule: posthaste.ScheduleID(s.ColumnText(1))},
		Next:    s.time(2),
	}
	if err := store.DecodeTick(s.bytes(3), t); err != nil {
		return nil, fmt.Errorf("tick of schedule %s: %w", t.Schedule, err)
	}
	return t, nil
}

func readAttemptRow(s stmt, tenant posthaste.TenantID) (*posthaste.Attempt, error) {
	a := &posthaste.Attempt{
		Tenant: tenant, Message: posthaste.MessageID(s.ColumnText(0)), Number: s.ColumnInt(1),
		StartedAt: s.time(2), EndedAt: s.time(3), AtOnce: s.ColumnInt64(4) != 0,
	}
	if err := store.DecodeAttempt(s.bytes(5), a); err != nil {
		return nil, fmt.Errorf("attempt %d of message %s: %w", a.Number, a.Message, err)
	}
	return a, nil
}

func readMarkRow(s stmt, tenant posthaste.TenantID) store.Mark {
	m := store.Mark{
		Tenant: tenant, Message: posthaste.MessageID(s.ColumnText(0)), State: posthaste.StateCancelRequested, At: s.time(1),
	}
	if s.ColumnInt64(2) != 0 {
		m.State = posthaste.StateCanceled
	}
	return m
}

func (q *queries) readDead(k store.DeadKey) (d *posthaste.DeadLetter, err error) {
	at, seq, ok := k.ID.Parts()
	if !ok {
		return nil, nil
	}
	q.dead.BindInt64(1, int64(k.Tenant))
	q.dead.BindInt64(2, at.UnixMilli())
	q.dead.BindInt64(3, int64(seq))
	_, err = first(q.dead, func() error {
		d, err = readDeadRow(q.dead, k.Tenant)
		return err
	})
	return d, err
}

func readDeadRow(s stmt, tenant posthaste.TenantID) (*posthaste.DeadLetter, error) {
	d := &posthaste.DeadLetter{
		ID:     posthaste.NewDeadLetterID(time.UnixMilli(s.ColumnInt64(0)), uint32(s.ColumnInt64(1))),
		Tenant: tenant, Message: posthaste.MessageID(s.ColumnText(2)),
	}
	if err := store.DecodeDeadLetter(s.bytes(3), d); err != nil {
		return nil, fmt.Errorf("dead letter %s: %w", d.ID, err)
	}
	return d, nil
}

// readClaims returns claims of one life of a node, or of all. It passes over the others: the table is no larger than what
// is in flight.
func (q *queries) readClaims(n store.NodeEpoch, after posthaste.MessageID, limit int) (list []*store.Ticket, err error) {
	q.claimsAfter.BindText(1, string(after))
	for len(list) < limit {
		ok, err := q.claimsAfter.row()
		if !ok || err != nil {
			return list, err
		}
		t, err := q.claimsAfter.ticket("")
		if err != nil {
			q.claimsAfter.done()
			return nil, err
		}
		if n == (store.NodeEpoch{}) || t.Node == n {
			list = append(list, t)
		}
	}
	q.claimsAfter.done()
	return list, nil
}

// readTicketList merges the tickets of both tables.
func (q *queries) readTicketList(tenant posthaste.TenantID, after posthaste.MessageID, limit int) (list []*store.Ticket, err error) {
	for _, s := range [...]stmt{q.claimsOf, q.ticketsOf} {
		s.BindInt64(1, int64(tenant))
		s.BindText(2, string(after))
		s.BindInt64(3, int64(limit))
		if list, err = readTickets(list, s); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(list, func(a, b *store.Ticket) int { return cmp.Compare(a.ID, b.ID) })
	return list[:min(limit, len(list))], nil
}

// readLog reads rows of a stream. The position of a created row is its id alone, because the id begins with the time; a
// position without an id stands before all rows of its moment. The zero position stands before the first row that is asked
// for, in either direction.
func (q *queries) readLog(tenant posthaste.TenantID, stream store.LogStream, from store.LogPos, p store.Page) (rows []store.LogRow, err error) {
	if p.Desc && from == (store.LogPos{}) {
		from = store.LogPos{At: time.UnixMicro(math.MaxInt64), ID: maxID}
	}
	if stream == store.StreamCreated {
		s, id := q.createdUp, from.ID
		if p.Desc {
			s = q.createdDown
		}
		if at, _, ok := id.Parts(); !ok || !at.Equal(from.At) {
			// The position is the time of an entry of a message that came before.
			id = posthaste.FirstMessageID(from.At)
			if !p.Desc {
				id = id[:len(id)-1] // before an id of that moment, even the first
			}
		} else if n := len(id) - 1; from.N < 0 && !p.Desc {
			// Rows of this stream count as number 0, so the one of that id follows.
			id = id[:n] + posthaste.MessageID(id[n]-1) + "~"
		} else if from.N > 0 && p.Desc {
			id += "!"
		}
		s.BindInt64(1, int64(tenant))
		s.BindText(2, string(id))
		s.BindInt64(3, int64(p.Limit))
		err = each(s, func() error {
			row := store.LogRow{LogPos: store.LogPos{ID: posthaste.MessageID(s.ColumnText(0))}, AtOnce: s.ColumnInt64(1) != 0}
			row.At, _, _ = row.ID.Parts()
			rows = append(rows, row)
			return nil
		})
		return rows, err
	}
	var s stmt
	switch {
	case stream == store.StreamStarted && !p.Desc:
		s = q.startedUp
	case stream == store.StreamStarted:
		s = q.startedDown
	case stream == store.StreamEnded && !p.Desc:
		s = q.endedUp
	case stream == store.StreamEnded:
		s = q.endedDown
	case stream == store.StreamMarks && !p.Desc:
		s = q.marksUp
	case stream == store.StreamMarks:
		s = q.marksDown
	default:
		return nil, posthaste.Errorf(posthaste.CodeInternal, "unknown log stream %d", stream)
	}
	s.BindInt64(1, int64(tenant))
	s.BindInt64(2, from.At.UnixMicro())
	s.BindText(3, string(from.ID))
	s.BindInt64(4, int64(from.N))
	s.BindInt64(5, int64(p.Limit))
	err = each(s, func() error {
		if stream == store.StreamMarks {
			m := readMarkRow(s, tenant)
			rows = append(rows, store.LogRow{LogPos: store.LogPos{At: m.At, ID: m.Message, N: s.ColumnInt(2)}, Mark: m.State})
			return nil
		}
		a, err := readAttemptRow(s, tenant)
		if err != nil {
			return err
		}
		row := store.LogRow{LogPos: store.LogPos{At: a.EndedAt, ID: a.Message, N: a.Number}, Attempt: a}
		if stream == store.StreamStarted {
			row.At = a.StartedAt
		}
		rows = append(rows, row)
		return nil
	})
	return rows, err
}

// readOwners returns the lives of nodes that own claims, but for one.
func (q *queries) readOwners(but store.NodeEpoch) (list []store.NodeEpoch, err error) {
	q.claimsAfter.BindText(1, "")
	err = each(q.claimsAfter, func() error {
		t, err := q.claimsAfter.ticket("")
		if err == nil && t.Node != but && !slices.Contains(list, t.Node) {
			list = append(list, t.Node)
		}
		return err
	})
	return list, err
}
