package postgres

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
)

// A rotation remembers, by shard, the tenant after which the next look for what is due begins, so that all have their turn.
type rotation struct {
	mu   sync.Mutex
	last map[int16]posthaste.TenantID
}

func (r *rotation) after(shard int16) posthaste.TenantID {
	r.mu.Lock()
	defer r.mu.Unlock()
	if id, ok := r.last[shard]; ok {
		return id
	}
	return math.MinInt64
}

func (r *rotation) note(shard int16, list []candidate) {
	if len(list) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil {
		r.last = map[int16]posthaste.TenantID{}
	}
	r.last[shard] = list[len(list)-1].Tenant
}

// Each call of a Reader is one statement, so it sees one state. Lists over all shards take the first rows of each shard:
// $1 is the number of shards.
const (
	shardsFrom = " FROM generate_series(0, $1::integer - 1) h(shard), LATERAL ("

	configCols  = "tenant, kind, name, value, created, updated"
	messageCols = "tenant, id, at_once, head, body"
	attemptCols = "tenant, id, number, started, ended, at_once, data"
	ticketCols  = "t.id, t.tenant, w.wake, t.data"
	ticketFrom  = ` LEFT JOIN LATERAL (SELECT wake FROM waits w WHERE w.shard = t.at_shard AND w.kind = t.at_kind AND w.tenant = t.tenant
		AND w.name = t.at_name AND w.rank = t.rank AND w.place = t.place AND w.id = t.id LIMIT 1) w ON true`

	versionSQL    = "SELECT version FROM tenants WHERE id = $1"
	tenantsSQL    = "SELECT id FROM tenants WHERE id > $1 AND version > 0 ORDER BY id LIMIT $2"
	configSQL     = "SELECT " + configCols + " FROM config WHERE tenant = $1 AND kind = $2 AND name = $3"
	configListSQL = "SELECT " + configCols + " FROM config WHERE tenant = $1 AND kind = $2 AND name > $3 ORDER BY name LIMIT $4"
	findConfigSQL = "SELECT " + configCols + " FROM config WHERE kind = $1 AND name = $2 ORDER BY tenant LIMIT 1"

	messageSQL  = "SELECT " + messageCols + " FROM messages WHERE shard = $1 AND tenant = $2 AND id = $3"
	messagesSQL = `SELECT m.tenant, m.id, m.at_once, m.head, m.body FROM unnest($1::smallint[], $2::bigint[], $3::text[]) u(shard, tenant, id)
		JOIN messages m ON m.shard = u.shard AND m.tenant = u.tenant AND m.id = u.id`
	messagesUp = "SELECT x.*" + shardsFrom + "SELECT " + messageCols + ` FROM messages m WHERE m.shard = h.shard AND m.tenant = $2 AND m.id > $3
		ORDER BY m.id LIMIT $4) x ORDER BY x.id LIMIT $4`
	messagesDown = "SELECT x.*" + shardsFrom + "SELECT " + messageCols + ` FROM messages m WHERE m.shard = h.shard AND m.tenant = $2 AND m.id < $3
		ORDER BY m.id DESC LIMIT $4) x ORDER BY x.id DESC LIMIT $4`

	ticketSQL  = "SELECT " + ticketCols + " FROM tickets t" + ticketFrom + " WHERE t.shard = $1 AND t.id = $2"
	ticketsSQL = "SELECT " + ticketCols + ` FROM unnest($1::smallint[], $2::text[]) u(shard, id)
		JOIN tickets t ON t.shard = u.shard AND t.id = u.id` + ticketFrom
	ticketListSQL = "SELECT " + ticketCols + " FROM (SELECT x.*" + shardsFrom + `
			(SELECT * FROM tickets t WHERE t.shard = h.shard AND t.tenant = $2 AND t.id > $3 AND t.node IS NULL ORDER BY t.id LIMIT $4)
			UNION ALL
			(SELECT * FROM tickets t WHERE t.shard = h.shard AND t.tenant = $2 AND t.id > $3 AND t.node IS NOT NULL ORDER BY t.id LIMIT $4)
		) x ORDER BY x.id LIMIT $4) t` + ticketFrom + " ORDER BY t.id"
	claimsSQL = "SELECT x.*" + shardsFrom + `SELECT t.id, t.tenant, NULL::bigint, t.data FROM tickets t
		WHERE t.shard = h.shard AND t.node = $2 AND t.epoch = $3 AND t.id > $4 ORDER BY t.id LIMIT $5) x ORDER BY x.id LIMIT $5`
	allClaimsSQL = "SELECT x.*" + shardsFrom + `SELECT t.id, t.tenant, NULL::bigint, t.data FROM tickets t
		WHERE t.shard = h.shard AND t.node IS NOT NULL AND t.id > $2 ORDER BY t.id LIMIT $3) x ORDER BY x.id LIMIT $3`
	awakeSQL = "SELECT id, tenant, wake, data FROM waits WHERE shard = $1 AND wake <= $2 ORDER BY wake LIMIT $3"
	headsSQL = `SELECT id, tenant, wake, data FROM waits WHERE shard = $1 AND kind = $2 AND tenant = $3 AND name = $4
		ORDER BY rank, place, id LIMIT $5`

	gateSQL     = "SELECT name, data FROM gates WHERE shard = $1 AND kind = $2 AND tenant = $3 AND name = $4 AND length(data) > 0"
	gateListSQL = "SELECT x.*" + shardsFrom + `SELECT g.shard, g.name, g.data FROM gates g
		WHERE g.shard = h.shard AND g.kind = $2 AND g.tenant = $3 AND g.name > $4 AND length(g.data) > 0 ORDER BY g.name LIMIT $5) x ORDER BY x.name LIMIT $5`
	slotSQL  = "SELECT open FROM slots WHERE shard = $1 AND source = $2 AND kind = $3 AND tenant = $4 AND name = $5 AND gen = $6"
	dedupSQL = "SELECT message, expires FROM dedup WHERE shard = $1 AND tenant = $2 AND key = $3 AND message <> ''"
	quotaSQL = "SELECT coalesce(sum(n), 0)::bigint FROM quota WHERE shard = $1 AND tenant = $2 AND day = $3"
	tickSQL  = "SELECT tenant, schedule, next, data FROM ticks WHERE tenant = $1 AND schedule = $2"
	ticksSQL = "SELECT tenant, schedule, next, data FROM ticks WHERE next IS NOT NULL AND next <= $1 ORDER BY next LIMIT $2"

	attemptsSQL = "SELECT " + attemptCols + " FROM attempts WHERE shard = $1 AND tenant = $2 AND id = $3 ORDER BY number"
	marksSQL    = "SELECT at, id, n FROM marks WHERE shard = $1 AND tenant = $2 AND id = $3 ORDER BY at, n"

	createdUp = "SELECT x.*" + shardsFrom + `SELECT id, at_once FROM messages m WHERE m.shard = h.shard AND m.tenant = $2 AND m.id >= $3 AND (m.id > $3 OR $4)
		ORDER BY m.id LIMIT $5) x ORDER BY x.id LIMIT $5`
	createdDown = "SELECT x.*" + shardsFrom + `SELECT id, at_once FROM messages m WHERE m.shard = h.shard AND m.tenant = $2 AND m.id <= $3 AND (m.id < $3 OR $4)
		ORDER BY m.id DESC LIMIT $5) x ORDER BY x.id DESC LIMIT $5`
	startedUp = "SELECT x.*" + shardsFrom + "SELECT " + attemptCols + ` FROM attempts a
		WHERE a.shard = h.shard AND a.tenant = $2 AND NOT a.at_once AND (a.started, a.id, a.number) > ($3, $4, $5)
		ORDER BY a.started, a.id, a.number LIMIT $6) x ORDER BY x.started, x.id, x.number LIMIT $6`
	startedDown = "SELECT x.*" + shardsFrom + "SELECT " + attemptCols + ` FROM attempts a
		WHERE a.shard = h.shard AND a.tenant = $2 AND NOT a.at_once AND (a.started, a.id, a.number) < ($3, $4, $5)
		ORDER BY a.started DESC, a.id DESC, a.number DESC LIMIT $6) x ORDER BY x.started DESC, x.id DESC, x.number DESC LIMIT $6`
	endedUp = "SELECT x.*" + shardsFrom + "SELECT " + attemptCols + ` FROM attempts a
		WHERE a.shard = h.shard AND a.tenant = $2 AND (a.ended, a.id, a.number) > ($3, $4, $5)
		ORDER BY a.ended, a.id, a.number LIMIT $6) x ORDER BY x.ended, x.id, x.number LIMIT $6`
	endedDown = "SELECT x.*" + shardsFrom + "SELECT " + attemptCols + ` FROM attempts a
		WHERE a.shard = h.shard AND a.tenant = $2 AND (a.ended, a.id, a.number) < ($3, $4, $5)
		ORDER BY a.ended DESC, a.id DESC, a.number DESC LIMIT $6) x ORDER BY x.ended DESC, x.id DESC, x.number DESC LIMIT $6`
	marksUp = "SELECT x.*" + shardsFrom + `SELECT at, id, n FROM marks k WHERE k.shard = h.shard AND k.tenant = $2 AND (k.at, k.id, k.n) > ($3, $4, $5)
		ORDER BY k.at, k.id, k.n LIMIT $6) x ORDER BY x.at, x.id, x.n LIMIT $6`
	marksDown = "SELECT x.*" + shardsFrom + `SELECT at, id, n FROM marks k WHERE k.shard = h.shard AND k.tenant = $2 AND (k.at, k.id, k.n) < ($3, $4, $5)
		ORDER BY k.at DESC, k.id DESC, k.n DESC LIMIT $6) x ORDER BY x.at DESC, x.id DESC, x.n DESC LIMIT $6`

	deadSQL = "SELECT tenant, ms, seq, message, data FROM dead_letters WHERE shard = $1 AND tenant = $2 AND ms = $3 AND seq = $4"
	deadUp  = "SELECT x.*" + shardsFrom + `SELECT tenant, ms, seq, message, data FROM dead_letters d WHERE d.shard = h.shard AND d.tenant = $2 AND (d.ms, d.seq) > ($3, $4)
		ORDER BY d.ms, d.seq LIMIT $5) x ORDER BY x.ms, x.seq LIMIT $5`
	deadDown = "SELECT x.*" + shardsFrom + `SELECT tenant, ms, seq, message, data FROM dead_letters d WHERE d.shard = h.shard AND d.tenant = $2 AND (d.ms, d.seq) < ($3, $4)
		ORDER BY d.ms DESC, d.seq DESC LIMIT $5) x ORDER BY x.ms DESC, x.seq DESC LIMIT $5`
)

// read runs a statement and decodes its rows. A connection that died while it was idle is replaced once.
func read[T any](ctx context.Context, e *Engine, doing string, scan func(pgx.Rows) (T, error), sql string, args ...any) (list []T, err error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if e.closing.Load() {
		return nil, errClosed
	}
	for range 2 {
		if list, err = readOnce(ctx, e, scan, sql, args); err == nil || !pgconn.SafeToRetry(err) && sqlState(err) != "57P01" {
			break
		}
	}
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return list, translate(doing, err)
}

func readOnce[T any](ctx context.Context, e *Engine, scan func(pgx.Rows) (T, error), sql string, args []any) (list []T, err error) {
	rows, err := e.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, rows.Err()
}

// readOne is read for a statement of one row. It returns the zero value if there is none.
func readOne[T any](ctx context.Context, e *Engine, doing string, scan func(pgx.Rows) (T, error), sql string, args ...any) (v T, err error) {
	list, err := read(ctx, e, doing, scan, sql, args...)
	if len(list) > 0 {
		v = list[0]
	}
	return v, err
}

func scanValue[T any](r pgx.Rows) (v T, err error) { return v, r.Scan(&v) }

func scanConfig(r pgx.Rows) (*store.ConfigRow, error) {
	c := new(store.ConfigRow)
	var created, updated int64
	if err := r.Scan(&c.Tenant, &c.Kind, &c.Name, &c.Value, &created, &updated); err != nil {
		return nil, err
	}
	c.CreatedAt, c.UpdatedAt = moment(created), moment(updated)
	return c, nil
}

func scanMessage(r pgx.Rows) (*posthaste.Message, error) {
	m := new(posthaste.Message)
	var head []byte
	if err := r.Scan(&m.Tenant, &m.ID, &m.ClaimedAtOnce, &head, &m.Body); err != nil {
		return nil, err
	}
	if len(m.Body) == 0 {
		m.Body = nil
	}
	if err := store.DecodeMessage(head, m); err != nil {
		return nil, fmt.Errorf("message %s: %w", m.ID, err)
	}
	return m, nil
}

func scanTicket(r pgx.Rows) (*store.Ticket, error) {
	t := new(store.Ticket)
	var wake *int64
	var data []byte
	if err := r.Scan(&t.ID, &t.Tenant, &wake, &data); err != nil {
		return nil, err
	}
	return t, decodeWait(data, wake, t)
}

func scanTick(r pgx.Rows) (*store.Tick, error) {
	t := new(store.Tick)
	var next *int64
	var data []byte
	if err := r.Scan(&t.Tenant, &t.Schedule, &next, &data); err != nil {
		return nil, err
	}
	if next != nil {
		t.Next = moment(*next)
	}
	if err := store.DecodeTick(data, t); err != nil {
		return nil, fmt.Errorf("tick of schedule %s: %w", t.Schedule, err)
	}
	return t, nil
}

func scanAttempt(r pgx.Rows) (*posthaste.Attempt, error) {
	a := new(posthaste.Attempt)
	var started, ended int64
	var data []byte
	if err := r.Scan(&a.Tenant, &a.Message, &a.Number, &started, &ended, &a.AtOnce, &data); err != nil {
		return nil, err
	}
	a.StartedAt, a.EndedAt = moment(started), moment(ended)
	if err := store.DecodeAttempt(data, a); err != nil {
		return nil, fmt.Errorf("attempt %d of message %s: %w", a.Number, a.Message, err)
	}
	return a, nil
}

func scanDead(r pgx.Rows) (*posthaste.DeadLetter, error) {
	d := new(posthaste.DeadLetter)
	var ms, seq int64
	var data []byte
	if err := r.Scan(&d.Tenant, &ms, &seq, &d.Message, &data); err != nil {
		return nil, err
	}
	d.ID = posthaste.NewDeadLetterID(time.UnixMilli(ms), uint32(seq))
	if err := store.DecodeDeadLetter(data, d); err != nil {
		return nil, fmt.Errorf("dead letter %s: %w", d.ID, err)
	}
	return d, nil
}

// Version implements [store.Reader].
func (e *Engine) Version(ctx context.Context, tenant posthaste.TenantID) (int64, error) {
	return readOne(ctx, e, "read the version of a tenant", scanValue[int64], versionSQL, int64(tenant))
}

// Tenants implements [store.Reader].
func (e *Engine) Tenants(ctx context.Context, after posthaste.TenantID, limit int) ([]posthaste.TenantID, error) {
	return read(ctx, e, "list tenants", scanValue[posthaste.TenantID], tenantsSQL, int64(after), limit)
}

// Config implements [store.Reader].
func (e *Engine) Config(ctx context.Context, key store.ConfigKey) (*store.ConfigRow, error) {
	return readOne(ctx, e, "read configuration", scanConfig, configSQL, int64(key.Tenant), string(key.Kind), key.Name)
}

// ConfigList implements [store.Reader].
func (e *Engine) ConfigList(ctx context.Context, tenant posthaste.TenantID, kind store.ConfigKind, after string, limit int) ([]*store.ConfigRow, error) {
	return read(ctx, e, "list configuration", scanConfig, configListSQL, int64(tenant), string(kind), after, limit)
}

// FindConfig implements [store.Reader].
func (e *Engine) FindConfig(ctx context.Context, kind store.ConfigKind, name string) (*store.ConfigRow, error) {
	return readOne(ctx, e, "find configuration", scanConfig, findConfigSQL, string(kind), name)
}

// Message implements [store.Reader].
func (e *Engine) Message(ctx context.Context, tenant posthaste.TenantID, id posthaste.MessageID) (*posthaste.Message, error) {
	_, shard, ok := id.Parts()
	if !ok {
		return nil, nil
	}
	return readOne(ctx, e, "read a message", scanMessage, messageSQL, shard, int64(tenant), string(id))
}

// Messages implements [store.Reader].
func (e *Engine) Messages(ctx context.Context, ids []store.MessageKey) ([]*posthaste.Message, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	var shards []int16
	var tenants []int64
	var texts []string
	at := make(map[store.MessageKey]*posthaste.Message, len(ids))
	for _, k := range ids {
		if _, shard, ok := k.ID.Parts(); ok {
			if _, twice := at[k]; !twice {
				at[k] = nil
				shards, tenants, texts = append(shards, shard), append(tenants, int64(k.Tenant)), append(texts, string(k.ID))
			}
		}
	}
	found, err := read(ctx, e, "read messages", scanMessage, messagesSQL, shards, tenants, texts)
	if err != nil {
		return nil, err
	}
	for _, m := range found {
		at[store.MessageKey{Tenant: m.Tenant, ID: m.ID}] = m
	}
	list := make([]*posthaste.Message, len(ids))
	for i, k := range ids {
		list[i] = at[k]
	}
	return list, nil
}

// maxID is behind every id.
const maxID = "~"

// MessageList implements [store.Reader]. From the empty id it begins at the first message, or at the last if descending.
func (e *Engine) MessageList(ctx context.Context, tenant posthaste.TenantID, from posthaste.MessageID, p store.Page) ([]*posthaste.Message, error) {
	sql := messagesUp
	if p.Desc {
		if sql = messagesDown; from == "" {
			from = maxID
		}
	}
	return read(ctx, e, "list messages", scanMessage, sql, e.shards, int64(tenant), string(from), p.Limit)
}

// Ticket implements [store.Reader].
func (e *Engine) Ticket(ctx context.Context, id posthaste.MessageID) (*store.Ticket, error) {
	_, shard, ok := id.Parts()
	if !ok {
		return nil, nil
	}
	return readOne(ctx, e, "read a ticket", scanTicket, ticketSQL, shard, string(id))
}

// Tickets implements [store.Reader].
func (e *Engine) Tickets(ctx context.Context, ids []posthaste.MessageID) ([]*store.Ticket, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	var shards []int16
	var texts []string
	at := make(map[posthaste.MessageID]*store.Ticket, len(ids))
	for _, id := range ids {
		if _, shard, ok := id.Parts(); ok {
			if _, twice := at[id]; !twice {
				at[id] = nil
				shards, texts = append(shards, shard), append(texts, string(id))
			}
		}
	}
	found, err := read(ctx, e, "read tickets", scanTicket, ticketsSQL, shards, texts)
	if err != nil {
		return nil, err
	}
	for _, t := range found {
		at[t.ID] = t
	}
	list := make([]*store.Ticket, len(ids))
	for i, id := range ids {
		list[i] = at[id]
	}
	return list, nil
}

// TicketList implements [store.Reader].
func (e *Engine) TicketList(ctx context.Context, tenant posthaste.TenantID, after posthaste.MessageID, limit int) ([]*store.Ticket, error) {
	return read(ctx, e, "list tickets", scanTicket, ticketListSQL, e.shards, int64(tenant), string(after), limit)
}

// Ripening implements [store.Reader].
func (e *Engine) Ripening(ctx context.Context, r store.Ripe) ([]*store.Ticket, error) {
	found, err := read(ctx, e, "read what is due", func(rows pgx.Rows) (candidate, error) {
		c := candidate{Ticket: new(store.Ticket)}
		var data []byte
		if err := rows.Scan(&c.ID, &c.Tenant, &data, &c.plain); err != nil {
			return c, err
		}
		return c, store.DecodeTicket(data, c.Ticket)
	}, candidateSQL, r.Shard, e.ripening.after(r.Shard), r.Before.UnixMicro(), perTenant(&r), r.Limit)
	if err != nil {
		return nil, err
	}
	e.ripening.note(r.Shard, found)
	var list []*store.Ticket
	for _, c := range found {
		list = append(list, c.Ticket)
	}
	slices.SortStableFunc(list, func(a, b *store.Ticket) int { return cmp.Or(a.Due.Compare(b.Due), cmp.Compare(a.ID, b.ID)) })
	return list, nil
}

// Awake implements [store.Reader].
func (e *Engine) Awake(ctx context.Context, shard int16, before time.Time, limit int) ([]*store.Ticket, error) {
	return read(ctx, e, "read what wakes", scanTicket, awakeSQL, shard, before.UnixMicro(), limit)
}

// Heads implements [store.Reader].
func (e *Engine) Heads(ctx context.Context, ref store.GateRef, limit int) ([]*store.Ticket, error) {
	return read(ctx, e, "read the head of a wait list", scanTicket, headsSQL, ref.Shard, int16(ref.Kind), int64(ref.Tenant), ref.Name, limit)
}

// Claims implements [store.Reader].
func (e *Engine) Claims(ctx context.Context, n store.NodeEpoch, after posthaste.MessageID, limit int) ([]*store.Ticket, error) {
	if n == (store.NodeEpoch{}) {
		return read(ctx, e, "read claims", scanTicket, allClaimsSQL, e.shards, string(after), limit)
	}
	return read(ctx, e, "read claims", scanTicket, claimsSQL, e.shards, n.Node, n.Epoch, string(after), limit)
}

// Gate implements [store.Reader].
func (e *Engine) Gate(ctx context.Context, ref store.GateRef) (*store.Gate, error) {
	return readOne(ctx, e, "read a gate", func(r pgx.Rows) (*store.Gate, error) {
		g := &store.Gate{GateRef: ref}
		var data []byte
		if err := r.Scan(&g.Name, &data); err != nil {
			return nil, err
		}
		return g, store.DecodeGate(data, g)
	}, gateSQL, ref.Shard, int16(ref.Kind), int64(ref.Tenant), ref.Name)
}

// GateList implements [store.Reader].
func (e *Engine) GateList(ctx context.Context, tenant posthaste.TenantID, kind store.Kind, after string, limit int) ([]*store.Gate, error) {
	return read(ctx, e, "list gates", func(r pgx.Rows) (*store.Gate, error) {
		g := &store.Gate{GateRef: store.GateRef{Kind: kind, Tenant: tenant}}
		var data []byte
		if err := r.Scan(&g.Shard, &g.Name, &data); err != nil {
			return nil, err
		}
		return g, store.DecodeGate(data, g)
	}, gateListSQL, e.shards, int16(kind), int64(tenant), after, limit)
}

// Slot implements [store.Reader].
func (e *Engine) Slot(ctx context.Context, ref store.SlotRef) (*store.Slot, error) {
	return readOne(ctx, e, "read a queue slot", func(r pgx.Rows) (*store.Slot, error) {
		s := &store.Slot{SlotRef: ref}
		return s, r.Scan(&s.Open)
	}, slotSQL, ref.Queue.Shard, string(ref.Source), int16(ref.Queue.Kind), int64(ref.Queue.Tenant), ref.Queue.Name, ref.Gen)
}

// Dedup implements [store.Reader].
func (e *Engine) Dedup(ctx context.Context, key store.DedupKey) (*store.Dedup, error) {
	return readOne(ctx, e, "read a deduplication entry", func(r pgx.Rows) (*store.Dedup, error) {
		d := &store.Dedup{DedupKey: key}
		var expires int64
		if err := r.Scan(&d.Message, &expires); err != nil {
			return nil, err
		}
		d.Expires = moment(expires)
		return d, nil
	}, dedupSQL, key.Shard, int64(key.Tenant), key.Key)
}

// Quota implements [store.Reader].
func (e *Engine) Quota(ctx context.Context, key store.QuotaKey) (int64, error) {
	return readOne(ctx, e, "read a quota", scanValue[int64], quotaSQL, e.quotaShard(key.Tenant), int64(key.Tenant), key.Day)
}

// Tick implements [store.Reader].
func (e *Engine) Tick(ctx context.Context, ref store.TickRef) (*store.Tick, error) {
	return readOne(ctx, e, "read a schedule's tick", scanTick, tickSQL, int64(ref.Tenant), string(ref.Schedule))
}

// DueTicks implements [store.Reader]. Right after a look for due work that found no tick it needs no statement.
func (e *Engine) DueTicks(ctx context.Context, before time.Time, limit int) ([]*store.Tick, error) {
	if e.ticks.none(before) {
		return nil, nil
	}
	return read(ctx, e, "read due schedules", scanTick, ticksSQL, before.UnixMicro(), limit)
}

// Attempts implements [store.Reader].
func (e *Engine) Attempts(ctx context.Context, tenant posthaste.TenantID, id posthaste.MessageID) ([]*posthaste.Attempt, error) {
	_, shard, ok := id.Parts()
	if !ok {
		return nil, nil
	}
	return read(ctx, e, "read attempts", scanAttempt, attemptsSQL, shard, int64(tenant), string(id))
}

// Marks implements [store.Reader].
func (e *Engine) Marks(ctx context.Context, tenant posthaste.TenantID, id posthaste.MessageID) (list []store.Mark, err error) {
	_, shard, ok := id.Parts()
	if !ok {
		return nil, nil
	}
	rows, err := read(ctx, e, "read marks", scanMark, marksSQL, shard, int64(tenant), string(id))
	for _, r := range rows {
		list = append(list, store.Mark{Tenant: tenant, Message: r.ID, State: r.Mark, At: r.At})
	}
	return list, err
}

func scanMark(r pgx.Rows) (row store.LogRow, err error) {
	var at int64
	if err := r.Scan(&at, &row.ID, &row.N); err != nil {
		return row, err
	}
	row.At, row.Mark = moment(at), posthaste.StateCancelRequested
	if row.N != 0 {
		row.Mark = posthaste.StateCanceled
	}
	return row, nil
}

// LogRows implements [store.Reader]. The zero position stands before the first row that is asked for, in either direction.
func (e *Engine) LogRows(ctx context.Context, tenant posthaste.TenantID, s store.LogStream, from store.LogPos, p store.Page) ([]store.LogRow, error) {
	if p.Desc && from == (store.LogPos{}) {
		from = store.LogPos{At: time.UnixMicro(math.MaxInt64), ID: maxID}
	}
	if s == store.StreamCreated {
		return e.readCreated(ctx, tenant, from, p)
	}
	var sql string
	scan := func(r pgx.Rows) (store.LogRow, error) {
		a, err := scanAttempt(r)
		if err != nil {
			return store.LogRow{}, err
		}
		row := store.LogRow{LogPos: store.LogPos{At: a.EndedAt, ID: a.Message, N: a.Number}, Attempt: a}
		if s == store.StreamStarted {
			row.At = a.StartedAt
		}
		return row, nil
	}
	switch {
	case s == store.StreamStarted && !p.Desc:
		sql = startedUp
	case s == store.StreamStarted:
		sql = startedDown
	case s == store.StreamEnded && !p.Desc:
		sql = endedUp
	case s == store.StreamEnded:
		sql = endedDown
	case s == store.StreamMarks && !p.Desc:
		sql, scan = marksUp, scanMark
	case s == store.StreamMarks:
		sql, scan = marksDown, scanMark
	default:
		return nil, posthaste.Errorf(posthaste.CodeInternal, "unknown log stream %d", s)
	}
	return read(ctx, e, "read the log", scan, sql, e.shards, int64(tenant), from.At.UnixMicro(), string(from.ID), max(min(from.N, math.MaxInt16), math.MinInt16), p.Limit)
}

// readCreated reads rows of the stream of created messages. The position of one is its id alone, because the id begins with
// the time; a position without such an id stands where its time does.
func (e *Engine) readCreated(ctx context.Context, tenant posthaste.TenantID, from store.LogPos, p store.Page) ([]store.LogRow, error) {
	// Rows of this stream count as number 0.
	id, with := from.ID, from.N < 0
	if p.Desc {
		with = from.N > 0
	}
	if at, _, ok := id.Parts(); id != maxID && (!ok || !at.Equal(from.At)) {
		id, with = posthaste.FirstMessageID(from.At), !p.Desc
	}
	sql := createdUp
	if p.Desc {
		sql = createdDown
	}
	return read(ctx, e, "read the log", func(r pgx.Rows) (row store.LogRow, err error) {
		if err := r.Scan(&row.ID, &row.AtOnce); err != nil {
			return row, err
		}
		row.At, _, _ = row.ID.Parts()
		return row, nil
	}, sql, e.shards, int64(tenant), string(id), with, p.Limit)
}

// DeadLetter implements [store.Reader].
func (e *Engine) DeadLetter(ctx context.Context, key store.DeadKey) (*posthaste.DeadLetter, error) {
	d, ok := e.deadKeyOf(key)
	if !ok {
		return nil, nil
	}
	return readOne(ctx, e, "read a dead letter", scanDead, deadSQL, d.shard, d.tenant, d.ms, d.seq)
}

// DeadLetters implements [store.Reader]. From the empty id it begins at the first one, or at the last if descending.
func (e *Engine) DeadLetters(ctx context.Context, tenant posthaste.TenantID, from posthaste.DeadLetterID, p store.Page) ([]*posthaste.DeadLetter, error) {
	ms, seq := int64(-1), int64(-1)
	if at, n, ok := from.Parts(); ok {
		ms, seq = at.UnixMilli(), int64(n)
	} else if from != "" {
		return nil, posthaste.Errorf(posthaste.CodeInvalid, "%q is not the id of a dead letter", string(from))
	} else if p.Desc {
		ms = math.MaxInt64
	}
	sql := deadUp
	if p.Desc {
		sql = deadDown
	}
	return read(ctx, e, "list dead letters", scanDead, sql, e.shards, int64(tenant), ms, seq, p.Limit)
}
