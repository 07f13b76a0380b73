package postgres

import (
	"cmp"
	"context"
	"fmt"
	"maps"
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

// Statements on large tables name one shard, $1. What concerns several shards is one statement for each, in one trip.
const (
	configCols  = "tenant, kind, name, value, created, updated"
	messageCols = "tenant, id, at_once, head, body"
	attemptCols = "tenant, id, number, started, ended, at_once, data"
	ticketCols  = "id, tenant, NULL::bigint, data"

	versionSQL    = "SELECT version FROM tenants WHERE id = $1"
	tenantsSQL    = "SELECT id FROM tenants WHERE id > $1 AND version > 0 ORDER BY id LIMIT $2"
	configSQL     = "SELECT " + configCols + " FROM config WHERE tenant = $1 AND kind = $2 AND name = $3"
	configListSQL = "SELECT " + configCols + " FROM config WHERE tenant = $1 AND kind = $2 AND name > $3 ORDER BY name LIMIT $4"
	findConfigSQL = "SELECT " + configCols + " FROM config WHERE kind = $1 AND name = $2 ORDER BY tenant LIMIT 1"

	messageSQL   = "SELECT " + messageCols + " FROM messages WHERE shard = $1 AND tenant = $2 AND id = $3"
	messagesSQL  = "SELECT " + messageCols + ` FROM messages WHERE shard = $1 AND (tenant, id) IN (SELECT * FROM unnest($2::bigint[], $3::text[]))`
	messagesUp   = "SELECT " + messageCols + " FROM messages WHERE shard = $1 AND tenant = $2 AND id > $3 ORDER BY id LIMIT $4"
	messagesDown = "SELECT " + messageCols + " FROM messages WHERE shard = $1 AND tenant = $2 AND id < $3 ORDER BY id DESC LIMIT $4"

	ticketsSQL    = "SELECT " + ticketCols + " FROM tickets WHERE shard = $1 AND id = ANY($2::text[])"
	ticketListSQL = "(SELECT " + ticketCols + ` FROM tickets WHERE shard = $1 AND tenant = $2 AND id > $3 AND node IS NULL ORDER BY id LIMIT $4)
		UNION ALL
		(SELECT ` + ticketCols + " FROM tickets WHERE shard = $1 AND tenant = $2 AND id > $3 AND node IS NOT NULL ORDER BY id LIMIT $4)"
	claimsSQL    = "SELECT " + ticketCols + " FROM tickets WHERE shard = $1 AND node = $2 AND epoch = $3 AND id > $4 ORDER BY id LIMIT $5"
	allClaimsSQL = "SELECT " + ticketCols + " FROM tickets WHERE shard = $1 AND node IS NOT NULL AND id > $2 ORDER BY id LIMIT $3"
	wakeSQL      = `SELECT id, wake FROM waits w WHERE shard = $1 AND (kind, tenant, name, rank, place, id) IN (
		SELECT * FROM unnest($2::smallint[], $3::bigint[], $4::text[], $5::smallint[], $6::bigint[], $7::text[]))`
	awakeSQL = "SELECT id, tenant, wake, data FROM waits WHERE shard = $1 AND wake <= $2 ORDER BY wake LIMIT $3"
	headsSQL = `SELECT id, tenant, wake, data FROM waits WHERE shard = $1 AND kind = $2 AND tenant = $3 AND name = $4
		ORDER BY rank, place, id LIMIT $5`

	gateSQL     = "SELECT name, data FROM gates WHERE shard = $1 AND kind = $2 AND tenant = $3 AND name = $4 AND length(data) > 0"
	gateListSQL = `SELECT shard, name, data FROM gates WHERE shard = $1 AND kind = $2 AND tenant = $3 AND name > $4 AND length(data) > 0
		ORDER BY name LIMIT $5`
	slotSQL  = "SELECT open FROM slots WHERE shard = $1 AND source = $2 AND kind = $3 AND tenant = $4 AND name = $5 AND gen = $6"
	dedupSQL = "SELECT message, expires FROM dedup WHERE shard = $1 AND tenant = $2 AND key = $3 AND message <> ''"
	quotaSQL = "SELECT coalesce(sum(n), 0)::bigint FROM quota WHERE shard = $1 AND tenant = $2 AND day = $3"
	tickSQL  = "SELECT tenant, schedule, next, data FROM ticks WHERE tenant = $1 AND schedule = $2"
	ticksSQL = "SELECT tenant, schedule, next, data FROM ticks WHERE next IS NOT NULL AND next <= $1 ORDER BY next LIMIT $2"

	attemptsSQL = "SELECT " + attemptCols + " FROM attempts WHERE shard = $1 AND tenant = $2 AND id = $3 ORDER BY number"
	marksSQL    = "SELECT at, id, n FROM marks WHERE shard = $1 AND tenant = $2 AND id = $3 ORDER BY at, n"

	createdUp   = "SELECT id, at_once FROM messages WHERE shard = $1 AND tenant = $2 AND id >= $3 AND (id > $3 OR $4) ORDER BY id LIMIT $5"
	createdDown = "SELECT id, at_once FROM messages WHERE shard = $1 AND tenant = $2 AND id <= $3 AND (id < $3 OR $4) ORDER BY id DESC LIMIT $5"
	startedUp   = "SELECT " + attemptCols + ` FROM attempts WHERE shard = $1 AND tenant = $2 AND NOT at_once AND (started, id, number) > ($3, $4, $5)
		ORDER BY started, id, number LIMIT $6`
	startedDown = "SELECT " + attemptCols + ` FROM attempts WHERE shard = $1 AND tenant = $2 AND NOT at_once AND (started, id, number) < ($3, $4, $5)
		ORDER BY started DESC, id DESC, number DESC LIMIT $6`
	endedUp = "SELECT " + attemptCols + ` FROM attempts WHERE shard = $1 AND tenant = $2 AND (ended, id, number) > ($3, $4, $5)
		ORDER BY ended, id, number LIMIT $6`
	endedDown = "SELECT " + attemptCols + ` FROM attempts WHERE shard = $1 AND tenant = $2 AND (ended, id, number) < ($3, $4, $5)
		ORDER BY ended DESC, id DESC, number DESC LIMIT $6`
	marksUp   = "SELECT at, id, n FROM marks WHERE shard = $1 AND tenant = $2 AND (at, id, n) > ($3, $4, $5) ORDER BY at, id, n LIMIT $6"
	marksDown = "SELECT at, id, n FROM marks WHERE shard = $1 AND tenant = $2 AND (at, id, n) < ($3, $4, $5) ORDER BY at DESC, id DESC, n DESC LIMIT $6"

	deadSQL  = "SELECT tenant, ms, seq, message, data FROM dead_letters WHERE shard = $1 AND tenant = $2 AND ms = $3 AND seq = $4"
	deadUp   = "SELECT tenant, ms, seq, message, data FROM dead_letters WHERE shard = $1 AND tenant = $2 AND (ms, seq) > ($3, $4) ORDER BY ms, seq LIMIT $5"
	deadDown = "SELECT tenant, ms, seq, message, data FROM dead_letters WHERE shard = $1 AND tenant = $2 AND (ms, seq) < ($3, $4) ORDER BY ms DESC, seq DESC LIMIT $5"
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

// An ask is a statement with its parameters.
type ask struct {
	sql  string
	args []any
}

// readAll runs several statements in one trip, all on one state, and decodes their rows.
func readAll[T any](ctx context.Context, e *Engine, doing string, scan func(pgx.Rows) (T, error), asks []ask) (list []T, err error) {
	if len(asks) == 1 {
		return read(ctx, e, doing, scan, asks[0].sql, asks[0].args...)
	}
	if len(asks) == 0 || ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if e.closing.Load() {
		return nil, errClosed
	}
	for range 2 {
		list = nil
		p := &pgx.Batch{}
		p.Queue("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
		for _, a := range asks {
			p.Queue(a.sql, a.args...).Query(func(rows pgx.Rows) error {
				for rows.Next() {
					v, err := scan(rows)
					if err != nil {
						return err
					}
					list = append(list, v)
				}
				return rows.Err()
			})
		}
		p.Queue(commit)
		if err = e.pool.SendBatch(ctx, p).Close(); err == nil || !pgconn.SafeToRetry(err) && sqlState(err) != "57P01" {
			break
		}
	}
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return list, translate(doing, err)
}

// gather runs a statement for each shard, which is its first parameter, and returns the first rows of all in order.
func gather[T any](ctx context.Context, e *Engine, doing string, scan func(pgx.Rows) (T, error), limit int, compare func(a, b T) int, sql string, args ...any) ([]T, error) {
	asks := make([]ask, e.shards)
	for i := range asks {
		asks[i] = ask{sql, append([]any{int16(i)}, args...)}
	}
	list, err := readAll(ctx, e, doing, scan, asks)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(list, compare)
	return list[:min(len(list), max(limit, 0))], nil
}

// down reverses an order if it is to be descending.
func down[T any](desc bool, compare func(a, b T) int) func(a, b T) int {
	if !desc {
		return compare
	}
	return func(a, b T) int { return compare(b, a) }
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
	type columns struct {
		tenants []int64
		ids     []string
	}
	parts := map[int16]*columns{}
	at := make(map[store.MessageKey]*posthaste.Message, len(ids))
	for _, k := range ids {
		if _, shard, ok := k.ID.Parts(); ok {
			if _, twice := at[k]; !twice {
				at[k] = nil
				c := parts[shard]
				if c == nil {
					c = new(columns)
					parts[shard] = c
				}
				c.tenants, c.ids = append(c.tenants, int64(k.Tenant)), append(c.ids, string(k.ID))
			}
		}
	}
	var asks []ask
	for shard, c := range parts {
		asks = append(asks, ask{messagesSQL, []any{shard, c.tenants, c.ids}})
	}
	found, err := readAll(ctx, e, "read messages", scanMessage, asks)
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
	return gather(ctx, e, "list messages", scanMessage, p.Limit, down(p.Desc, func(a, b *posthaste.Message) int { return cmp.Compare(a.ID, b.ID) }),
		sql, int64(tenant), string(from), p.Limit)
}

// Ticket implements [store.Reader].
func (e *Engine) Ticket(ctx context.Context, id posthaste.MessageID) (*store.Ticket, error) {
	list, err := e.Tickets(ctx, []posthaste.MessageID{id})
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

// Tickets implements [store.Reader].
func (e *Engine) Tickets(ctx context.Context, ids []posthaste.MessageID) ([]*store.Ticket, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	at := make(map[posthaste.MessageID]*store.Ticket, len(ids))
	for _, id := range ids {
		at[id] = nil
	}
	ask := slices.Collect(maps.Keys(at))
	for n := 0; len(ask) > 0; n++ {
		if n == 100 { // nothing moves so often
			return nil, posthaste.Errorf(posthaste.CodeInternal, "ticket %s waits in a list that it does not stand in", ask[0])
		}
		found, moved, err := e.readTickets(ctx, ask)
		if err != nil {
			return nil, err
		}
		for _, t := range found {
			at[t.ID] = t
		}
		for _, id := range moved {
			at[id] = nil
		}
		ask = moved
	}
	list := make([]*store.Ticket, len(ids))
	for i, id := range ids {
		list[i] = at[id]
	}
	return list, nil
}

// readTickets reads tickets by their ids. Moved are those that were taken from a wait list meanwhile, which are to be read again.
func (e *Engine) readTickets(ctx context.Context, ids []posthaste.MessageID) (found []*store.Ticket, moved []posthaste.MessageID, err error) {
	parts := map[int16][]string{}
	for _, id := range ids {
		if _, shard, ok := id.Parts(); ok {
			parts[shard] = append(parts[shard], string(id))
		}
	}
	var asks []ask
	for shard, part := range parts {
		asks = append(asks, ask{ticketsSQL, []any{shard, part}})
	}
	if found, err = readAll(ctx, e, "read tickets", scanTicket, asks); err != nil {
		return nil, nil, err
	}
	return e.readWakes(ctx, found)
}

// readWakes completes tickets that were read without their marks, which wait lists have. A ticket that stands where it stood is what it
// was but for its mark; the others have moved, and are left out.
func (e *Engine) readWakes(ctx context.Context, found []*store.Ticket) (list []*store.Ticket, moved []posthaste.MessageID, err error) {
	parts := map[int16]*waitCols{}
	for _, t := range found {
		if waiting(t) {
			c := parts[t.ParkedAt.Shard]
			if c == nil {
				c = new(waitCols)
				parts[t.ParkedAt.Shard] = c
			}
			c.add(t, nil)
		}
	}
	if len(parts) == 0 {
		return found, nil, nil
	}
	var asks []ask
	for shard, c := range parts {
		asks = append(asks, ask{wakeSQL, append([]any{shard}, c.key()[1:]...)})
	}
	type mark struct {
		id   posthaste.MessageID
		wake *int64
	}
	marks, err := readAll(ctx, e, "read tickets", func(r pgx.Rows) (m mark, err error) { return m, r.Scan(&m.id, &m.wake) }, asks)
	if err != nil {
		return nil, nil, err
	}
	by := make(map[posthaste.MessageID]mark, len(marks))
	for _, m := range marks {
		by[m.id] = m
	}
	for _, t := range found {
		if waiting(t) {
			m, ok := by[t.ID]
			if !ok {
				moved = append(moved, t.ID)
				continue
			}
			if t.Due = (time.Time{}); m.wake != nil {
				t.Due = moment(*m.wake)
			}
		}
		list = append(list, t)
	}
	return list, moved, nil
}

func compareTickets(a, b *store.Ticket) int { return cmp.Compare(a.ID, b.ID) }

// TicketList implements [store.Reader].
func (e *Engine) TicketList(ctx context.Context, tenant posthaste.TenantID, after posthaste.MessageID, limit int) ([]*store.Ticket, error) {
	found, err := gather(ctx, e, "list tickets", scanTicket, limit, compareTickets, ticketListSQL, int64(tenant), string(after), limit)
	if err != nil {
		return nil, err
	}
	list, moved, err := e.readWakes(ctx, found)
	if err != nil || len(moved) == 0 {
		return list, err
	}
	again, err := e.Tickets(ctx, moved)
	if err != nil {
		return nil, err
	}
	for _, t := range again {
		if t != nil {
			list = append(list, t)
		}
	}
	slices.SortFunc(list, compareTickets)
	return list, nil
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
		return gather(ctx, e, "read claims", scanTicket, limit, compareTickets, allClaimsSQL, string(after), limit)
	}
	return gather(ctx, e, "read claims", scanTicket, limit, compareTickets, claimsSQL, n.Node, n.Epoch, string(after), limit)
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
	return gather(ctx, e, "list gates", func(r pgx.Rows) (*store.Gate, error) {
		g := &store.Gate{GateRef: store.GateRef{Kind: kind, Tenant: tenant}}
		var data []byte
		if err := r.Scan(&g.Shard, &g.Name, &data); err != nil {
			return nil, err
		}
		return g, store.DecodeGate(data, g)
	}, limit, func(a, b *store.Gate) int { return cmp.Compare(a.Name, b.Name) }, gateListSQL, int16(kind), int64(tenant), after, limit)
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
	return gather(ctx, e, "read the log", scan, p.Limit, down(p.Desc, compareRows), sql, int64(tenant), from.At.UnixMicro(), string(from.ID), max(min(from.N, math.MaxInt16), math.MinInt16), p.Limit)
}

func compareRows(a, b store.LogRow) int {
	return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID), cmp.Compare(a.N, b.N))
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
	return gather(ctx, e, "read the log", func(r pgx.Rows) (row store.LogRow, err error) {
		if err := r.Scan(&row.ID, &row.AtOnce); err != nil {
			return row, err
		}
		row.At, _, _ = row.ID.Parts()
		return row, nil
	}, p.Limit, down(p.Desc, func(a, b store.LogRow) int { return cmp.Compare(a.ID, b.ID) }), sql, int64(tenant), string(id), with, p.Limit)
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
	return gather(ctx, e, "list dead letters", scanDead, p.Limit, down(p.Desc, func(a, b *posthaste.DeadLetter) int {
		am, as, _ := a.ID.Parts()
		bm, bs, _ := b.ID.Parts()
		return cmp.Or(am.Compare(bm), cmp.Compare(as, bs))
	}), sql, int64(tenant), ms, seq, p.Limit)
}
