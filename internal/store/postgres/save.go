package postgres

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
)

// never stands for NULL in arrays of moments.
const never = math.MinInt64

// The statements of the second trip. Those that must find the rows they name fail with a division by zero if they do not, so
// that the COMMIT behind them in the pipeline is not carried out.
const (
	putMessages = `INSERT INTO messages (shard, tenant, id, day, at_once, head, body)
		SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::text[], $4::integer[], $5::boolean[], $6::bytea[], $7::bytea[])`
	restartMessages = `UPDATE messages m SET at_once = false FROM unnest($1::smallint[], $2::bigint[], $3::text[]) u(shard, tenant, id)
		WHERE m.shard = u.shard AND m.tenant = u.tenant AND m.id = u.id`

	ticketSource = `unnest($1::smallint[], $2::text[], $3::bigint[], $4::smallint[], $5::bigint[], $6::boolean[], $7::text[], $8::bigint[],
		$9::smallint[], $10::smallint[], $11::text[], $12::smallint[], $13::bigint[], $14::bytea[])
		u(shard, id, tenant, phase, due, plain, node, epoch, at_shard, at_kind, at_name, rank, place, data)`
	ticketValues = `CASE WHEN u.phase IN (1, 2) THEN u.due END, u.plain, CASE WHEN u.phase = 4 THEN u.node END, CASE WHEN u.phase = 4 THEN u.epoch END,
		CASE WHEN u.phase = 3 THEN u.at_shard END, CASE WHEN u.phase = 3 THEN u.at_kind END, CASE WHEN u.phase = 3 THEN u.at_name END,
		CASE WHEN u.phase = 3 THEN u.rank END, CASE WHEN u.phase = 3 THEN u.place END, u.data`
	insertTickets = `INSERT INTO tickets (shard, id, tenant, due, plain, node, epoch, at_shard, at_kind, at_name, rank, place, data)
		SELECT u.shard, u.id, u.tenant, ` + ticketValues + ` FROM ` + ticketSource
	updateTickets = `WITH w AS (UPDATE tickets t SET (due, plain, node, epoch, at_shard, at_kind, at_name, rank, place, data) = ROW (` + ticketValues + `)
		FROM ` + ticketSource + ` WHERE t.shard = u.shard AND t.id = u.id AND t.tenant = u.tenant RETURNING 1)
		SELECT 1 / (count(*) = $15)::integer FROM w`
	dropTickets = `WITH w AS (DELETE FROM tickets t USING unnest($1::smallint[], $2::text[]) u(shard, id) WHERE t.shard = u.shard AND t.id = u.id RETURNING 1)
		SELECT 1 / (count(*) = $3)::integer FROM w`

	waitKey     = `w.shard = u.shard AND w.kind = u.kind AND w.tenant = u.tenant AND w.name = u.name AND w.rank = u.rank AND w.place = u.place AND w.id = u.id`
	waitSource  = `unnest($1::smallint[], $2::smallint[], $3::bigint[], $4::text[], $5::smallint[], $6::bigint[], $7::text[]`
	insertWaits = `INSERT INTO waits (shard, kind, tenant, name, rank, place, id, wake, data)
		SELECT u.shard, u.kind, u.tenant, u.name, u.rank, u.place, u.id, NULLIF(u.wake, '-9223372036854775808'::bigint), u.data
		FROM ` + waitSource + `, $8::bigint[], $9::bytea[]) u(shard, kind, tenant, name, rank, place, id, wake, data)`
	updateWaits = `WITH r AS (UPDATE waits w SET wake = NULLIF(u.wake, '-9223372036854775808'::bigint), data = u.data
		FROM ` + waitSource + `, $8::bigint[], $9::bytea[]) u(shard, kind, tenant, name, rank, place, id, wake, data) WHERE ` + waitKey + ` RETURNING 1)
		SELECT 1 / (count(*) = $10)::integer FROM r`
	dropWaits = `WITH r AS (DELETE FROM waits w USING ` + waitSource + `) u(shard, kind, tenant, name, rank, place, id) WHERE ` + waitKey + ` RETURNING 1)
		SELECT 1 / (count(*) = $8)::integer FROM r`

	putGates = `INSERT INTO gates (shard, kind, tenant, name, data, rank, place)
		SELECT * FROM unnest($1::smallint[], $2::smallint[], $3::bigint[], $4::text[], $5::bytea[], $6::smallint[], $7::bigint[])
		ON CONFLICT (shard, kind, tenant, name) DO UPDATE SET data = excluded.data, rank = excluded.rank, place = excluded.place`
	updateGates = `WITH w AS (UPDATE gates g SET data = u.data, rank = u.rank, place = u.place
		FROM unnest($1::smallint[], $2::smallint[], $3::bigint[], $4::text[], $5::bytea[], $6::smallint[], $7::bigint[]) u(shard, kind, tenant, name, data, rank, place)
		WHERE g.shard = u.shard AND g.kind = u.kind AND g.tenant = u.tenant AND g.name = u.name RETURNING 1)
		SELECT 1 / (count(*) = $8)::integer FROM w`

	putSlots = `INSERT INTO slots (shard, source, kind, tenant, name, gen, open)
		SELECT * FROM unnest($1::smallint[], $2::text[], $3::smallint[], $4::bigint[], $5::text[], $6::bigint[], $7::bigint[])
		ON CONFLICT (shard, source, kind, tenant, name, gen) DO UPDATE SET open = excluded.open`
	dropSlots = `DELETE FROM slots s USING unnest($1::smallint[], $2::text[], $3::smallint[], $4::bigint[], $5::text[], $6::bigint[]) u(shard, source, kind, tenant, name, gen)
		WHERE s.shard = u.shard AND s.source = u.source AND s.kind = u.kind AND s.tenant = u.tenant AND s.name = u.name AND s.gen = u.gen`

	putDedups = `INSERT INTO dedup (shard, tenant, key, message, expires) SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::text[], $4::text[], $5::bigint[])
		ON CONFLICT (shard, tenant, key) DO UPDATE SET message = excluded.message, expires = excluded.expires`

	putDeads = `INSERT INTO dead_letters (shard, tenant, ms, seq, message, data)
		SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::bytea[])`
	dropDeads = `DELETE FROM dead_letters d USING unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::bigint[]) u(shard, tenant, ms, seq)
		WHERE d.shard = u.shard AND d.tenant = u.tenant AND d.ms = u.ms AND d.seq = u.seq`

	putAttempts = `INSERT INTO attempts (shard, tenant, id, number, day, started, ended, at_once, data)
		SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::text[], $4::integer[], $5::integer[], $6::bigint[], $7::bigint[], $8::boolean[], $9::bytea[])`
	putMarks = `INSERT INTO marks (shard, tenant, at, id, n, day)
		SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::text[], $5::smallint[], $6::integer[]) ON CONFLICT DO NOTHING`

	putTicks = `INSERT INTO ticks (tenant, schedule, next, data)
		SELECT tenant, schedule, NULLIF(next, '-9223372036854775808'::bigint), data FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bytea[]) u(tenant, schedule, next, data)
		ON CONFLICT (tenant, schedule) DO UPDATE SET next = excluded.next, data = excluded.data`
	dropTicks = `DELETE FROM ticks t USING unnest($1::bigint[], $2::text[]) u(tenant, schedule) WHERE t.tenant = u.tenant AND t.schedule = u.schedule`

	putConfigs = `INSERT INTO config (tenant, kind, name, value, created, updated)
		SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bytea[], $5::bigint[], $6::bigint[])
		ON CONFLICT (tenant, kind, name) DO UPDATE SET value = excluded.value, created = excluded.created, updated = excluded.updated`
	dropConfigs = `DELETE FROM config c USING unnest($1::bigint[], $2::text[], $3::text[]) u(tenant, kind, name)
		WHERE c.tenant = u.tenant AND c.kind = u.kind AND c.name = u.name`
	raiseTenants = `INSERT INTO tenants (id, version) SELECT * FROM unnest($1::bigint[], $2::bigint[])
		ON CONFLICT (id) DO UPDATE SET version = tenants.version + excluded.version`

	raiseQuota = `INSERT INTO quota (shard, tenant, day, part, n) SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::integer[], $4::smallint[], $5::bigint[])
		ON CONFLICT (shard, tenant, day, part) DO UPDATE SET n = quota.n + excluded.n`

	commit = "COMMIT"
)

// save writes what the operations decided and commits.
func (t *transaction) save(ctx context.Context) error {
	// If the server may have ended the session meanwhile, it is asked first: as long as no COMMIT was sent the outcome is known.
	if time.Since(t.read) > t.e.cfg.IdleTimeout/2 {
		if err := t.l.conn.Ping(ctx); err != nil {
			return fmt.Errorf("%w: %w", errIdle, err)
		}
	}
	p := &trip{e: t.e}
	t.saveMessages(p)
	t.saveTickets(p)
	t.saveGates(p)
	t.saveSlots(p)
	t.saveDedup(p)
	t.saveDead(p)
	t.saveLog(p)
	t.saveConfig(p)
	t.saveQuota(p) // last: its rows are locked for the shortest time, and whoever holds one waits for nothing
	committed := false
	p.Queue(commit).Exec(func(tag pgconn.CommandTag) error {
		committed = tag.String() == commit
		return nil
	})
	err := p.send(ctx, t.l.conn)
	switch {
	case err == nil && !committed:
		return errLost
	case err != nil && t.l.conn.IsClosed() && sqlState(err) != "25P03":
		// Whoever ended the session may have done so right after the commit.
		return fmt.Errorf("%w: %w", errCommit, err)
	}
	return err
}

// homeOf returns the shard and the day in an id.
func homeOf(id posthaste.MessageID) (shard int16, day int32) {
	at, shard, _ := id.Parts()
	return shard, store.DayOf(at)
}

// exec adds a statement whose rows do not matter.
func (p *trip) exec(sql string, args ...any) {
	p.query(sql, func(pgx.Rows) error { return nil }, args...)
}

func (t *transaction) saveMessages(p *trip) {
	if len(t.messages) > 0 {
		n := len(t.messages)
		shards, days, tenants, ids := make([]int16, n), make([]int32, n), make([]int64, n), make([]string, n)
		once, heads, bodies := make([]bool, n), make([][]byte, n), make([][]byte, n)
		for i, m := range t.messages {
			shards[i], days[i] = homeOf(m.ID)
			tenants[i], ids[i], once[i] = int64(m.Tenant), string(m.ID), m.ClaimedAtOnce
			heads[i] = store.AppendMessage(nil, m)
			if bodies[i] = m.Body; m.Body == nil {
				bodies[i] = []byte{} // nil would be NULL
			}
		}
		p.exec(putMessages, shards, tenants, ids, days, once, heads, bodies)
	}
	if len(t.restarted) > 0 {
		n := len(t.restarted)
		shards, tenants, ids := make([]int16, n), make([]int64, n), make([]string, n)
		for i, k := range t.restarted {
			shards[i], _ = homeOf(k.ID)
			tenants[i], ids[i] = int64(k.Tenant), string(k.ID)
		}
		p.exec(restartMessages, shards, tenants, ids)
	}
}

type ticketColumns struct {
	shards, phases, atShards, atKinds, ranks []int16
	ids, nodes, atNames                      []string
	tenants, dues, epochs, places            []int64
	plain                                    []bool
	data                                     [][]byte
}

func (c *ticketColumns) add(t *store.Ticket, data []byte) {
	shard, _ := homeOf(t.ID)
	c.shards, c.ids, c.tenants = append(c.shards, shard), append(c.ids, string(t.ID)), append(c.tenants, int64(t.Tenant))
	c.phases, c.dues, c.plain = append(c.phases, int16(t.Phase)), append(c.dues, micros(t.Due)), append(c.plain, len(t.Path) == 0)
	c.nodes, c.epochs = append(c.nodes, t.Node.Node), append(c.epochs, t.Node.Epoch)
	c.atShards, c.atKinds, c.atNames = append(c.atShards, t.ParkedAt.Shard), append(c.atKinds, int16(t.ParkedAt.Kind)), append(c.atNames, t.ParkedAt.Name)
	c.ranks, c.places, c.data = append(c.ranks, int16(t.Rank)), append(c.places, t.Place), append(c.data, data)
}

func (c *ticketColumns) args(more ...any) []any {
	return append([]any{
		c.shards, c.ids, c.tenants, c.phases, c.dues, c.plain, c.nodes, c.epochs, c.atShards, c.atKinds, c.atNames, c.ranks, c.places, c.data,
	}, more...)
}

type waitCols struct {
	shards, kinds, ranks  []int16
	tenants, places, wake []int64
	names, ids            []string
	data                  [][]byte
}

func (c *waitCols) add(t *store.Ticket, data []byte) {
	at := &t.ParkedAt
	c.shards, c.kinds, c.tenants, c.names = append(c.shards, at.Shard), append(c.kinds, int16(at.Kind)), append(c.tenants, int64(at.Tenant)), append(c.names, at.Name)
	c.ranks, c.places, c.ids = append(c.ranks, int16(t.Rank)), append(c.places, t.Place), append(c.ids, string(t.ID))
	c.wake, c.data = append(c.wake, micros(t.Due)), append(c.data, data)
}

func (c *waitCols) key(more ...any) []any {
	return append([]any{c.shards, c.kinds, c.tenants, c.names, c.ranks, c.places, c.ids}, more...)
}

// record returns the record of a ticket. That of a Waiting one is without the mark.
func record(t *store.Ticket) []byte {
	if t.Phase != posthaste.PhaseWaiting || t.Due.IsZero() {
		return store.AppendTicket(nil, t)
	}
	c := *t
	c.Due = time.Time{}
	return store.AppendTicket(nil, &c)
}

func waiting(t *store.Ticket) bool { return t != nil && t.Phase == posthaste.PhaseWaiting }

func (t *transaction) saveTickets(p *trip) {
	var list []*ticketRow
	for _, r := range t.tickets {
		if r.dirty {
			list = append(list, r)
		}
	}
	if len(list) == 0 {
		return
	}
	slices.SortFunc(list, func(a, b *ticketRow) int {
		return cmp.Compare(cmp.Or(a.cur, a.old, &store.Ticket{}).ID, cmp.Or(b.cur, b.old, &store.Ticket{}).ID)
	})
	var insert, update ticketColumns
	var drop struct {
		shards []int16
		ids    []string
	}
	var park, remark, unpark waitCols
	for _, r := range list {
		old, cur := r.old, r.cur
		if waiting(old) && (!waiting(cur) || old.ParkedAt != cur.ParkedAt || old.Rank != cur.Rank || old.Place != cur.Place) {
			unpark.add(old, nil)
		}
		if cur == nil {
			if old != nil {
				shard, _ := homeOf(old.ID)
				drop.shards, drop.ids = append(drop.shards, shard), append(drop.ids, string(old.ID))
			}
			continue
		}
		data := record(cur)
		if waiting(cur) {
			if waiting(old) && old.ParkedAt == cur.ParkedAt && old.Rank == cur.Rank && old.Place == cur.Place {
				remark.add(cur, data)
				if slices.Equal(data, r.raw) {
					continue // its own row says the same as before
				}
			} else {
				park.add(cur, data)
			}
		}
		if old == nil {
			insert.add(cur, data)
		} else {
			update.add(cur, data)
		}
	}
	if n := len(insert.ids); n > 0 {
		p.exec(insertTickets, insert.args()...)
	}
	if n := len(update.ids); n > 0 {
		p.exec(updateTickets, update.args(n)...)
	}
	if n := len(drop.ids); n > 0 {
		p.exec(dropTickets, drop.shards, drop.ids, n)
	}
	if n := len(unpark.ids); n > 0 {
		p.exec(dropWaits, unpark.key(n)...)
	}
	if n := len(remark.ids); n > 0 {
		p.exec(updateWaits, remark.key(remark.wake, remark.data, n)...)
	}
	if n := len(park.ids); n > 0 {
		p.exec(insertWaits, park.key(park.wake, park.data)...)
	}
}

func (t *transaction) saveGates(p *trip) {
	type cols struct {
		shards, kinds, ranks []int16
		tenants, places      []int64
		names                []string
		data                 [][]byte
	}
	var held, blind cols
	for _, k := range keys(t.gates, store.GateRef.Compare) {
		g := t.gates[k]
		if !g.dirty {
			continue
		}
		c, first := &held, front
		if g.locked {
			first = t.bound(k, g)
		} else {
			c = &blind
		}
		c.ranks, c.places = append(c.ranks, first.rank), append(c.places, first.place)
		c.shards, c.kinds, c.tenants, c.names = append(c.shards, k.Shard), append(c.kinds, int16(k.Kind)), append(c.tenants, int64(k.Tenant)), append(c.names, k.Name)
		data := store.AppendGate(nil, g.cur)
		if len(data) == 0 {
			data = []byte{0, 0} // a field that no reader knows: a stored gate is never empty
		}
		c.data = append(c.data, data)
	}
	if n := len(held.names); n > 0 {
		p.exec(updateGates, held.shards, held.kinds, held.tenants, held.names, held.data, held.ranks, held.places, n)
	}
	if len(blind.names) > 0 {
		p.exec(putGates, blind.shards, blind.kinds, blind.tenants, blind.names, blind.data, blind.ranks, blind.places)
	}
}

func (t *transaction) saveSlots(p *trip) {
	var put, drop []store.SlotRef
	var open []int64
	for _, k := range keys(t.slots, store.SlotRef.Compare) {
		switch r := t.slots[k]; {
		case r.dirty && r.cur == nil:
			drop = append(drop, k)
		case r.dirty:
			put, open = append(put, k), append(open, int64(r.cur.Open))
		}
	}
	shards := func(list []store.SlotRef) []int16 {
		out := make([]int16, len(list))
		for i, k := range list {
			out[i] = k.Queue.Shard
		}
		return out
	}
	if len(put) > 0 {
		c := slotColumns(put)
		p.exec(putSlots, shards(put), c.sources, c.kinds, c.tenants, c.names, c.gens, open)
	}
	if len(drop) > 0 {
		c := slotColumns(drop)
		p.exec(dropSlots, shards(drop), c.sources, c.kinds, c.tenants, c.names, c.gens)
	}
}

func (t *transaction) saveDedup(p *trip) {
	var shards []int16
	var tenants, expires []int64
	var names, messages []string
	for _, k := range keys(t.dedup, store.DedupKey.Compare) {
		if r := t.dedup[k]; r.dirty {
			shards, tenants, names = append(shards, k.Shard), append(tenants, int64(k.Tenant)), append(names, k.Key)
			messages, expires = append(messages, string(r.cur.Message)), append(expires, r.cur.Expires.UnixMicro())
		}
	}
	if len(names) > 0 {
		p.exec(putDedups, shards, tenants, names, messages, expires)
	}
}

func (t *transaction) saveDead(p *trip) {
	var put, drop []deadKey
	for k, r := range t.dead {
		if !r.dirty {
			continue
		}
		if d, ok := t.e.deadKeyOf(k); !ok {
			continue
		} else if r.cur != nil {
			put = append(put, d)
		} else {
			drop = append(drop, d)
		}
	}
	shards := func(list []deadKey) []int16 {
		out := make([]int16, len(list))
		for i, k := range list {
			out[i] = k.shard
		}
		return out
	}
	slices.SortFunc(drop, deadKey.compare)
	if len(drop) > 0 {
		tenants, ms, seqs := deadColumns(drop)
		p.exec(dropDeads, shards(drop), tenants, ms, seqs)
	}
	slices.SortFunc(put, deadKey.compare)
	if len(put) > 0 {
		tenants, ms, seqs := deadColumns(put)
		messages, data := make([]string, len(put)), make([][]byte, len(put))
		for i, k := range put {
			d := t.dead[k.DeadKey].cur
			messages[i], data[i] = string(d.Message), store.AppendDeadLetter(nil, d)
		}
		p.exec(putDeads, shards(put), tenants, ms, seqs, messages, data)
	}
}

func (t *transaction) saveLog(p *trip) {
	if n := len(t.attempts); n > 0 {
		shards, tenants, ids, numbers, days := make([]int16, n), make([]int64, n), make([]string, n), make([]int32, n), make([]int32, n)
		started, ended, once, data := make([]int64, n), make([]int64, n), make([]bool, n), make([][]byte, n)
		for i, a := range t.attempts {
			shards[i], days[i] = homeOf(a.Message)
			tenants[i], ids[i], numbers[i] = int64(a.Tenant), string(a.Message), int32(a.Number)
			started[i], ended[i], once[i] = a.StartedAt.UnixMicro(), a.EndedAt.UnixMicro(), a.AtOnce
			data[i] = store.AppendAttempt([]byte{}, a)
		}
		p.exec(putAttempts, shards, tenants, ids, numbers, days, started, ended, once, data)
	}
	if n := len(t.marks); n > 0 {
		shards, tenants, ats, ids, ns, days := make([]int16, n), make([]int64, n), make([]int64, n), make([]string, n), make([]int16, n), make([]int32, n)
		for i, m := range t.marks {
			shards[i], days[i] = homeOf(m.Message)
			tenants[i], ats[i], ids[i] = int64(m.Tenant), m.At.UnixMicro(), string(m.Message)
			if m.State == posthaste.StateCanceled {
				ns[i] = 1
			}
		}
		p.exec(putMarks, shards, tenants, ats, ids, ns, days)
	}
}

// saveConfig writes what is rarely changed.
func (t *transaction) saveConfig(p *trip) {
	if len(t.ticks)+len(t.config)+len(t.raised) == 0 {
		return
	}
	var put, gone struct {
		tenants, next []int64
		schedules     []string
		data          [][]byte
	}
	for k, r := range t.ticks {
		switch {
		case !r.dirty:
		case r.cur == nil:
			gone.tenants, gone.schedules = append(gone.tenants, int64(k.Tenant)), append(gone.schedules, string(k.Schedule))
		default:
			put.tenants, put.schedules = append(put.tenants, int64(k.Tenant)), append(put.schedules, string(k.Schedule))
			put.next, put.data = append(put.next, micros(r.cur.Next)), append(put.data, store.AppendTick([]byte{}, r.cur))
		}
	}
	if len(put.tenants) > 0 {
		p.exec(putTicks, put.tenants, put.schedules, put.next, put.data)
	}
	if len(gone.tenants) > 0 {
		p.exec(dropTicks, gone.tenants, gone.schedules)
	}
	var set, unset struct {
		tenants, created, updated []int64
		kinds, names              []string
		values                    [][]byte
	}
	for k, r := range t.config {
		switch {
		case !r.dirty:
		case r.cur == nil:
			unset.tenants, unset.kinds, unset.names = append(unset.tenants, int64(k.Tenant)), append(unset.kinds, string(k.Kind)), append(unset.names, k.Name)
		default:
			c := r.cur
			set.tenants, set.kinds, set.names = append(set.tenants, int64(k.Tenant)), append(set.kinds, string(k.Kind)), append(set.names, k.Name)
			set.created, set.updated = append(set.created, c.CreatedAt.UnixMicro()), append(set.updated, c.UpdatedAt.UnixMicro())
			value := c.Value
			if value == nil {
				value = []byte{}
			}
			set.values = append(set.values, value)
		}
	}
	if len(set.tenants) > 0 {
		p.exec(putConfigs, set.tenants, set.kinds, set.names, set.values, set.created, set.updated)
	}
	if len(unset.tenants) > 0 {
		p.exec(dropConfigs, unset.tenants, unset.kinds, unset.names)
	}
	if ids := keys(t.raised, compareTenants); len(ids) > 0 {
		by := make([]int64, len(ids))
		for i, id := range ids {
			by[i] = t.raised[id]
		}
		p.exec(raiseTenants, int64s(ids), by)
	}
}

// saveQuota raises counters: the part of requests with a limit if it is locked, else one that is this lane's own.
func (t *transaction) saveQuota(p *trip) {
	var shards, parts []int16
	var tenants, ns []int64
	var days []int32
	for _, k := range keys(t.quota, t.e.compareQuota) {
		q := t.quota[k]
		if q.add == 0 {
			continue
		}
		part := t.l.part
		if q.locked {
			part = 0
		}
		shards, tenants, days = append(shards, t.e.quotaShard(k.Tenant)), append(tenants, int64(k.Tenant)), append(days, k.Day)
		parts, ns = append(parts, part), append(ns, q.add)
	}
	if len(shards) > 0 {
		p.exec(raiseQuota, shards, tenants, days, parts, ns)
	}
}

// micros returns what stands for a moment in a column; never if it is zero.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return never
	}
	return t.UnixMicro()
}
