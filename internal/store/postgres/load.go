package postgres

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
)

// The statements of the first trip. Those that lock name one shard.
const (
	begin = "BEGIN ISOLATION LEVEL READ COMMITTED"

	lockTenants  = "SELECT id, version FROM tenants WHERE id = ANY($1::bigint[]) ORDER BY id FOR UPDATE"
	readVersions = "SELECT id, version FROM tenants WHERE id = ANY($1::bigint[])"
	readConfigs  = `SELECT tenant, kind, name, value, created, updated FROM config
		WHERE (tenant, kind, name) IN (SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[]))`

	lockQuota = `SELECT tenant, day FROM quota WHERE shard = $1 AND part = 0 AND (tenant, day) IN (SELECT * FROM unnest($2::bigint[], $3::integer[]))
		ORDER BY tenant, day FOR UPDATE`
	readQuotas = `SELECT tenant, day, sum(n)::bigint FROM quota WHERE shard = $1 AND (tenant, day) IN (SELECT * FROM unnest($2::bigint[], $3::integer[]))
		GROUP BY tenant, day`

	lockTicks = `SELECT tenant, schedule, next, data FROM ticks WHERE (tenant, schedule) IN (SELECT * FROM unnest($1::bigint[], $2::text[]))
		ORDER BY tenant, schedule FOR UPDATE`

	addDedup = `INSERT INTO dedup (shard, tenant, key, message, expires) SELECT $1, tenant, key, '', 0 FROM unnest($2::bigint[], $3::text[]) u(tenant, key)
		ON CONFLICT DO NOTHING`
	lockDedup = `SELECT tenant, key, message, expires FROM dedup WHERE shard = $1 AND (tenant, key) IN (SELECT * FROM unnest($2::bigint[], $3::text[]))
		ORDER BY tenant, key FOR UPDATE`

	lockGates = `SELECT kind, tenant, name, data, rank, place FROM gates
		WHERE shard = $1 AND (kind, tenant, name) IN (SELECT * FROM unnest($2::smallint[], $3::bigint[], $4::text[]))
		ORDER BY kind, tenant, name FOR UPDATE`
	readHeads = `SELECT w.kind, w.name, w.id, w.tenant, w.wake, w.data
		FROM unnest($2::smallint[], $3::bigint[], $4::text[], $5::integer[]) u(kind, tenant, name, n)
		JOIN gates g ON g.shard = $1 AND g.kind = u.kind AND g.tenant = u.tenant AND g.name = u.name, LATERAL (
			SELECT * FROM waits w WHERE w.shard = $1 AND w.kind = u.kind AND w.tenant = u.tenant AND w.name = u.name
			AND (w.rank, w.place) >= (g.rank, g.place)
			ORDER BY w.rank, w.place, w.id LIMIT u.n) w`
	readSlots = `SELECT source, kind, tenant, name, gen, open FROM slots
		WHERE shard = $1 AND (source, kind, tenant, name, gen) IN (SELECT * FROM unnest($2::text[], $3::smallint[], $4::bigint[], $5::text[], $6::bigint[]))`

	lockDead = `SELECT tenant, ms, seq, message, data FROM dead_letters
		WHERE shard = $1 AND (tenant, ms, seq) IN (SELECT * FROM unnest($2::bigint[], $3::bigint[], $4::bigint[]))
		ORDER BY tenant, ms, seq FOR UPDATE`

	lockTickets = "SELECT id, tenant, data FROM tickets WHERE shard = $1 AND id = ANY($2::text[]) ORDER BY id FOR UPDATE"
	lockRipe    = "SELECT id, tenant, data FROM tickets WHERE shard = $1 AND id = ANY($2::text[]) AND due IS NOT NULL AND plain ORDER BY id FOR UPDATE SKIP LOCKED"

	// The marks of tickets that wait at gates that nobody of the batch holds.
	readMarks = `SELECT w.id, w.wake FROM unnest($1::smallint[], $2::smallint[], $3::bigint[], $4::text[], $5::smallint[], $6::bigint[], $7::text[])
		u(shard, kind, tenant, name, rank, place, id), LATERAL (SELECT w.id, w.wake FROM waits w WHERE ` + waitKey + ` LIMIT 1) w WHERE w.wake IS NOT NULL`

	readTime = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
)

// The statements that make rows to be locked.
const (
	addTenants = "INSERT INTO tenants (id, version) SELECT id, 0 FROM unnest($1::bigint[]) u(id) ON CONFLICT DO NOTHING"
	addQuota   = `INSERT INTO quota (shard, tenant, day, part, n) SELECT $1, tenant, day, 0, 0 FROM unnest($2::bigint[], $3::integer[]) u(tenant, day)
		ON CONFLICT DO NOTHING`
	addGates = `INSERT INTO gates (shard, kind, tenant, name, data) SELECT $1, kind, tenant, name, '' FROM unnest($2::smallint[], $3::bigint[], $4::text[]) u(kind, tenant, name)
		ON CONFLICT DO NOTHING`
)

// candidateSQL reads due tickets without a lock, at most $4 of one tenant. It goes through the tenants that have any in the
// order of their ids, beginning after $2, and stops at $5 tickets. One seek per tenant finds its earliest; nothing that is
// not due is read.
const candidateSQL = `WITH RECURSIVE up(tenant) AS (
		(SELECT k.tenant FROM tickets k WHERE k.shard = $1 AND k.due IS NOT NULL AND k.tenant > $2 ORDER BY k.tenant LIMIT 1)
		UNION ALL
		SELECT n.tenant FROM up, LATERAL (
			SELECT k.tenant FROM tickets k WHERE k.shard = $1 AND k.due IS NOT NULL AND k.tenant > up.tenant ORDER BY k.tenant LIMIT 1) n
	), down(tenant) AS (
		(SELECT k.tenant FROM tickets k WHERE k.shard = $1 AND k.due IS NOT NULL AND k.tenant <= $2 ORDER BY k.tenant LIMIT 1)
		UNION ALL
		SELECT n.tenant FROM down, LATERAL (
			SELECT k.tenant FROM tickets k WHERE k.shard = $1 AND k.due IS NOT NULL AND k.tenant > down.tenant AND k.tenant <= $2
			ORDER BY k.tenant LIMIT 1) n
	)
	SELECT x.id, x.tenant, x.data, x.plain FROM (SELECT tenant FROM up UNION ALL SELECT tenant FROM down) o, LATERAL (
		SELECT k.id, k.tenant, k.data, k.plain FROM tickets k WHERE k.shard = $1 AND k.tenant = o.tenant AND k.due IS NOT NULL AND k.due <= $3
		ORDER BY k.due, k.id LIMIT $4) x
	LIMIT $5`

// candidates reads what is ripe, for the operations that ask for it, without a lock.
func (t *transaction) candidates(ctx context.Context) error {
	more := 0 // as many as the operations before may take
	for i, c := range t.batch {
		w := c.op.Want()
		r := w.Ripe
		if r == nil || r.Limit <= 0 {
			more += len(w.Tickets)
			continue
		}
		rows, err := t.l.conn.Query(ctx, candidateSQL, r.Shard, t.l.ripe.after(r.Shard), r.Before.UnixMicro(), perTenant(r)+more, r.Limit+more)
		more += r.Limit + len(w.Tickets)
		if err != nil {
			return err
		}
		if t.ripe[i], err = readCandidates(rows); err != nil {
			return err
		}
		t.l.ripe.note(r.Shard, t.ripe[i])
		for _, k := range t.ripe[i] {
			// Those with a path are shown to the operation, which names them together with their gates another time.
			if _, wanted := t.tickets[k.ID]; k.plain && !wanted {
				t.skip = append(t.skip, ticketKey{r.Shard, k.ID})
			}
		}
	}
	slices.SortFunc(t.skip, ticketKey.compare)
	t.skip = slices.Compact(t.skip)
	return nil
}

func perTenant(r *store.Ripe) int {
	if r.PerTenant <= 0 {
		return r.Limit
	}
	return r.PerTenant
}

func readCandidates(rows pgx.Rows) (list []candidate, err error) {
	defer rows.Close()
	for rows.Next() {
		c := candidate{Ticket: new(store.Ticket)}
		var data []byte
		if err := rows.Scan(&c.ID, &c.Tenant, &data, &c.plain); err != nil {
			return nil, err
		}
		if err := store.DecodeTicket(data, c.Ticket); err != nil {
			return nil, fmt.Errorf("ticket %s: %w", c.ID, err)
		}
		list = append(list, c)
	}
	return list, rows.Err()
}

// A trip is a pipelined round trip.
type trip struct {
	pgx.Batch
	e *Engine
}

// query adds a statement and what is to be done with each row.
func (p *trip) query(sql string, each func(pgx.Rows) error, args ...any) {
	p.Queue(sql, args...).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			if err := each(rows); err != nil {
				return err
			}
		}
		return rows.Err()
	})
}

func (p *trip) send(ctx context.Context, conn *pgx.Conn) error {
	p.e.stats.statements.Add(int64(p.Len()))
	return conn.SendBatch(ctx, &p.Batch).Close()
}

// load locks and reads everything that the batch wants. If rows to be locked are absent, it fails with errAbsent.
func (t *transaction) load(ctx context.Context) error {
	p := &trip{e: t.e}
	p.Queue(begin)
	if t.e.perTransaction() {
		p.Queue(settings, t.e.idleTimeout(), true)
	}
	t.loadConfig(p)
	t.loadQuota(p)
	t.loadTicks(p)
	t.loadDedup(p)
	t.loadGates(p)
	t.loadSlots(p)
	t.loadDead(p)
	t.loadTickets(p)
	t.loadLists(p)
	p.query(readTime, func(r pgx.Rows) error { return r.Scan(&t.us) })
	asked := time.Now()
	if err := p.send(ctx, t.l.conn); err != nil {
		return err
	}
	t.read = time.Now()
	t.e.skew.note(t.us, asked, t.read)
	if t.absent() {
		return errAbsent
	}
	if err := t.loadMarks(ctx); err != nil {
		return err
	}
	for _, g := range t.gates {
		g.whole = len(g.list) < g.limit
		slices.SortFunc(g.list, func(a, b *ticketRow) int {
			if a.cur.Before(b.cur) {
				return -1
			}
			return 1
		})
	}
	return nil
}

func compareTenants(a, b posthaste.TenantID) int { return cmp.Compare(a, b) }

func int64s[T ~int64](list []T) []int64 {
	out := make([]int64, len(list))
	for i, v := range list {
		out[i] = int64(v)
	}
	return out
}

// loadConfig reads versions of tenants. Those whose configuration may change are locked: the row of the tenant stands for all
// of its configuration.
func (t *transaction) loadConfig(p *trip) {
	version := func(r pgx.Rows) error {
		var id posthaste.TenantID
		var v int64
		if err := r.Scan(&id, &v); err != nil {
			return err
		}
		t.versions[id] = v
		if _, ok := t.lock[id]; ok {
			t.lock[id] = true
		}
		return nil
	}
	locked := keys(t.lock, compareTenants)
	if len(locked) > 0 {
		p.query(lockTenants, version, int64s(locked))
	}
	var others []int64
	for _, id := range keys(t.versions, compareTenants) {
		if _, ok := t.lock[id]; !ok {
			others = append(others, int64(id))
		}
	}
	if len(others) > 0 {
		p.query(readVersions, version, others)
	}
	if len(t.config) == 0 {
		return
	}
	var tenants []int64
	var kinds, names []string
	for k := range t.config {
		tenants, kinds, names = append(tenants, int64(k.Tenant)), append(kinds, string(k.Kind)), append(names, k.Name)
	}
	p.query(readConfigs, func(r pgx.Rows) error {
		c, err := scanConfig(r)
		if err == nil {
			e := t.config[c.ConfigKey]
			e.old, e.cur = c, c
		}
		return err
	}, tenants, kinds, names)
}

// quotaShard returns the shard of a tenant's counters.
func (e *Engine) quotaShard(tenant posthaste.TenantID) int16 {
	return int16(uint64(tenant) % uint64(e.shards))
}

func (e *Engine) compareQuota(a, b store.QuotaKey) int {
	return cmp.Or(cmp.Compare(e.quotaShard(a.Tenant), e.quotaShard(b.Tenant)), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Day, b.Day))
}

func (t *transaction) quotaByShard(f func(shard int16, tenants []int64, days []int32)) {
	byShard(keys(t.quota, t.e.compareQuota), func(k store.QuotaKey) int16 { return t.e.quotaShard(k.Tenant) }, func(shard int16, part []store.QuotaKey) {
		tenants, days := make([]int64, len(part)), make([]int32, len(part))
		for i, k := range part {
			tenants[i], days[i] = int64(k.Tenant), k.Day
		}
		f(shard, tenants, days)
	})
}

func (t *transaction) loadQuota(p *trip) {
	t.quotaByShard(func(shard int16, tenants []int64, days []int32) {
		p.query(lockQuota, func(r pgx.Rows) error {
			var k store.QuotaKey
			if err := r.Scan(&k.Tenant, &k.Day); err != nil {
				return err
			}
			t.quota[k].locked = true
			return nil
		}, shard, tenants, days)
	})
	t.quotaByShard(func(shard int16, tenants []int64, days []int32) {
		p.query(readQuotas, func(r pgx.Rows) error {
			var k store.QuotaKey
			var n int64
			if err := r.Scan(&k.Tenant, &k.Day, &n); err != nil {
				return err
			}
			t.quota[k].n = n
			return nil
		}, shard, tenants, days)
	})
}

func (t *transaction) loadTicks(p *trip) {
	if len(t.ticks) == 0 {
		return
	}
	var tenants []int64
	var schedules []string
	for k := range t.ticks {
		tenants, schedules = append(tenants, int64(k.Tenant)), append(schedules, string(k.Schedule))
	}
	p.query(lockTicks, func(r pgx.Rows) error {
		k, err := scanTick(r)
		if err == nil {
			e := t.ticks[k.TickRef]
			e.old, e.cur = k, k
		}
		return err
	}, tenants, schedules)
}

func (t *transaction) loadDedup(p *trip) {
	byShard(keys(t.dedup, store.DedupKey.Compare), func(k store.DedupKey) int16 { return k.Shard }, func(shard int16, part []store.DedupKey) {
		tenants, names := make([]int64, len(part)), make([]string, len(part))
		for i, k := range part {
			tenants[i], names[i] = int64(k.Tenant), k.Key
		}
		p.Queue(addDedup, shard, tenants, names)
		p.query(lockDedup, func(r pgx.Rows) error {
			d := &store.Dedup{DedupKey: store.DedupKey{Shard: shard}}
			var expires int64
			if err := r.Scan(&d.Tenant, &d.Key, &d.Message, &expires); err != nil {
				return err
			}
			t.seen[d.DedupKey] = true
			if d.Message != "" {
				d.Expires = moment(expires)
				e := t.dedup[d.DedupKey]
				e.old, e.cur = d, d
			}
			return nil
		}, shard, tenants, names)
	})
}

// A gatePart is the gates of one shard, in columns.
type gatePart struct {
	shard   int16
	kinds   []int16
	tenants []int64
	names   []string
	limits  []int32 // of those whose list is wanted
}

func (t *transaction) gateParts(match func(*gateRow) bool) (parts []gatePart) {
	byShard(keys(t.gates, store.GateRef.Compare), func(k store.GateRef) int16 { return k.Shard }, func(shard int16, part []store.GateRef) {
		c := gatePart{shard: shard}
		for _, k := range part {
			if g := t.gates[k]; match(g) {
				c.kinds, c.tenants, c.names = append(c.kinds, int16(k.Kind)), append(c.tenants, int64(k.Tenant)), append(c.names, k.Name)
				c.limits = append(c.limits, int32(g.limit))
			}
		}
		if len(c.kinds) > 0 {
			parts = append(parts, c)
		}
	})
	return parts
}

func (t *transaction) loadGates(p *trip) {
	for _, c := range t.gateParts(func(*gateRow) bool { return true }) {
		p.query(lockGates, func(r pgx.Rows) error {
			g := &store.Gate{GateRef: store.GateRef{Shard: c.shard}}
			var data []byte
			var first place
			if err := r.Scan(&g.Kind, &g.Tenant, &g.Name, &data, &first.rank, &first.place); err != nil {
				return err
			}
			e := t.gates[g.GateRef]
			e.locked, e.first = true, first
			if len(data) == 0 {
				return nil
			}
			if err := store.DecodeGate(data, g); err != nil {
				return fmt.Errorf("gate %q: %w", g.Name, err)
			}
			e.old, e.cur = g, g
			return nil
		}, c.shard, c.kinds, c.tenants, c.names)
	}
}

// loadSlots reads slots. It comes after the locks of gates, which stand for those of their slots.
func (t *transaction) loadSlots(p *trip) {
	byShard(keys(t.slots, store.SlotRef.Compare), func(k store.SlotRef) int16 { return k.Queue.Shard }, func(shard int16, part []store.SlotRef) {
		c := slotColumns(part)
		p.query(readSlots, func(r pgx.Rows) error {
			s := &store.Slot{SlotRef: store.SlotRef{Queue: store.GateRef{Shard: shard}}}
			if err := r.Scan(&s.Source, &s.Queue.Kind, &s.Queue.Tenant, &s.Queue.Name, &s.Gen, &s.Open); err != nil {
				return err
			}
			e := t.slots[s.SlotRef]
			e.old, e.cur = s, s
			return nil
		}, shard, c.sources, c.kinds, c.tenants, c.names, c.gens)
	})
}

type slotCols struct {
	sources, names []string
	kinds          []int16
	tenants, gens  []int64
}

func slotColumns(part []store.SlotRef) (c slotCols) {
	for _, k := range part {
		c.sources, c.names = append(c.sources, string(k.Source)), append(c.names, k.Queue.Name)
		c.kinds = append(c.kinds, int16(k.Queue.Kind))
		c.tenants, c.gens = append(c.tenants, int64(k.Queue.Tenant)), append(c.gens, k.Gen)
	}
	return c
}

// loadLists reads the beginnings of wait lists. It comes after all locks: what a lock waited for is seen by later statements
// only. Where a ticket is known by its id, too, the row of the list tells more: it has the mark.
func (t *transaction) loadLists(p *trip) {
	for _, c := range t.gateParts(func(g *gateRow) bool { return g.limit > 0 }) {
		p.query(readHeads, func(r pgx.Rows) error {
			ref := store.GateRef{Shard: c.shard}
			h := new(store.Ticket)
			var wake *int64
			var data []byte
			if err := r.Scan(&ref.Kind, &ref.Name, &h.ID, &h.Tenant, &wake, &data); err != nil {
				return err
			}
			ref.Tenant = h.Tenant
			if err := decodeWait(data, wake, h); err != nil {
				return err
			}
			e := t.tickets[h.ID]
			if e == nil {
				e = new(ticketRow)
				t.tickets[h.ID] = e
			}
			e.old, e.cur, e.raw = h, h, data
			g := t.gates[ref]
			g.list = append(g.list, e)
			return nil
		}, c.shard, c.kinds, c.tenants, c.names, c.limits)
	}
}

// loadMarks completes tickets that are wanted by their id and wait at a gate whose list was not read. An operation that names such
// a ticket without the gate was submitted on an outdated reading, so this trip is seldom made. Behind the beginning of a list
// that was read there are no marks.
func (t *transaction) loadMarks(ctx context.Context) error {
	var c waitCols
	for _, r := range t.tickets {
		if r.raw != nil || !waiting(r.cur) {
			continue
		}
		if g := t.gates[r.cur.ParkedAt]; g == nil || g.limit == 0 {
			c.add(r.cur, nil)
		}
	}
	if len(c.ids) == 0 {
		return nil
	}
	p := &trip{e: t.e}
	p.query(readMarks, func(r pgx.Rows) error {
		var id posthaste.MessageID
		var wake int64
		if err := r.Scan(&id, &wake); err != nil {
			return err
		}
		t.tickets[id].cur.Due = moment(wake)
		return nil
	}, c.key()...)
	return p.send(ctx, t.l.conn)
}

// decodeWait reads the record of a wait list's row.
func decodeWait(data []byte, wake *int64, t *store.Ticket) error {
	if err := store.DecodeTicket(data, t); err != nil {
		return fmt.Errorf("ticket %s: %w", t.ID, err)
	}
	if wake != nil {
		t.Due = moment(*wake)
	}
	return nil
}

// deadShard returns the shard of a dead letter.
func (e *Engine) deadShard(k store.DeadKey) int16 {
	_, seq, _ := k.ID.Parts()
	return int16(seq % uint32(e.shards))
}

// deadKey is a dead letter's key as it is stored.
type deadKey struct {
	shard   int16
	tenant  int64
	ms, seq int64
	store.DeadKey
}

func (k deadKey) compare(o deadKey) int {
	return cmp.Or(cmp.Compare(k.shard, o.shard), cmp.Compare(k.tenant, o.tenant), cmp.Compare(k.ms, o.ms), cmp.Compare(k.seq, o.seq))
}

// deadKeyOf returns how a key is stored; ok is false if no dead letter can have it.
func (e *Engine) deadKeyOf(k store.DeadKey) (_ deadKey, ok bool) {
	at, seq, ok := k.ID.Parts()
	return deadKey{e.deadShard(k), int64(k.Tenant), at.UnixMilli(), int64(seq), k}, ok
}

func (t *transaction) loadDead(p *trip) {
	if len(t.dead) == 0 {
		return
	}
	var list []deadKey
	for k := range t.dead {
		if d, ok := t.e.deadKeyOf(k); ok {
			list = append(list, d)
		}
	}
	slices.SortFunc(list, deadKey.compare)
	byShard(list, func(k deadKey) int16 { return k.shard }, func(shard int16, part []deadKey) {
		tenants, ms, seqs := deadColumns(part)
		p.query(lockDead, func(r pgx.Rows) error {
			d, err := scanDead(r)
			if err == nil {
				e := t.dead[store.DeadKey{Tenant: d.Tenant, ID: d.ID}]
				e.old, e.cur = d, d
			}
			return err
		}, shard, tenants, ms, seqs)
	})
}

func deadColumns(part []deadKey) (tenants, ms, seqs []int64) {
	for _, k := range part {
		tenants, ms, seqs = append(tenants, k.tenant), append(ms, k.ms), append(seqs, k.seq)
	}
	return tenants, ms, seqs
}

func (t *transaction) loadTickets(p *trip) {
	list := make([]ticketKey, 0, len(t.tickets))
	for id := range t.tickets {
		if _, shard, ok := id.Parts(); ok {
			list = append(list, ticketKey{shard, id})
		}
	}
	slices.SortFunc(list, ticketKey.compare)
	t.lockTickets(p, lockTickets, list)
	t.lockTickets(p, lockRipe, t.skip)
}

func (t *transaction) lockTickets(p *trip, sql string, list []ticketKey) {
	byShard(list, func(k ticketKey) int16 { return k.shard }, func(shard int16, part []ticketKey) {
		ids := make([]string, len(part))
		for i, k := range part {
			ids[i] = string(k.id)
		}
		p.query(sql, func(r pgx.Rows) error {
			k := new(store.Ticket)
			var data []byte
			if err := r.Scan(&k.ID, &k.Tenant, &data); err != nil {
				return err
			}
			if err := store.DecodeTicket(data, k); err != nil {
				return fmt.Errorf("ticket %s: %w", k.ID, err)
			}
			e := t.tickets[k.ID]
			if e == nil {
				e = new(ticketRow)
				t.tickets[k.ID] = e
			}
			e.old, e.cur = k, k
			return nil
		}, shard, ids)
	})
}

// absent reports whether a row that was to be locked is not there.
func (t *transaction) absent() bool {
	for _, locked := range t.lock {
		if !locked {
			return true
		}
	}
	for _, q := range t.quota {
		if !q.locked {
			return true
		}
	}
	for k := range t.dedup {
		if !t.seen[k] {
			return true
		}
	}
	for _, g := range t.gates {
		if !g.locked {
			return true
		}
	}
	return false
}

// insertAbsent makes the rows that were not there, after the transaction was rolled back. Rows of dedup are made by the
// transaction itself, because most of them are new.
func (t *transaction) insertAbsent(ctx context.Context) error {
	p := &trip{e: t.e}
	var tenants []int64
	for _, id := range keys(t.lock, compareTenants) {
		if !t.lock[id] {
			tenants = append(tenants, int64(id))
		}
	}
	if len(tenants) > 0 {
		p.Queue(addTenants, tenants)
	}
	t.quotaByShard(func(shard int16, tenants []int64, days []int32) { p.Queue(addQuota, shard, tenants, days) })
	for _, c := range t.gateParts(func(g *gateRow) bool { return !g.locked }) {
		p.Queue(addGates, c.shard, c.kinds, c.tenants, c.names)
	}
	if p.Len() == 0 {
		return nil
	}
	return p.send(ctx, t.l.conn)
}

// moment returns the time of a column.
func moment(us int64) time.Time { return time.UnixMicro(us).UTC() }
