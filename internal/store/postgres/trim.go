package postgres

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
)

const (
	// quotaDays is how long a day's counter is kept.
	quotaDays = 40
	// gateRest is how long an unused gate that nobody configured stays.
	gateRest = 10 * time.Minute
)

// The statements of retention. Each removes a bounded number of rows of one shard, and what it removes it looks at again as it
// does: another node may have changed it meanwhile.
const (
	trimDedup = `WITH x AS (SELECT tenant, key FROM dedup WHERE shard = $1 AND expires <= $2 ORDER BY expires LIMIT $3)
		DELETE FROM dedup d USING x WHERE d.shard = $1 AND d.tenant = x.tenant AND d.key = x.key AND d.expires <= $2`
	trimQuota = `WITH x AS (SELECT tenant, day, part FROM quota WHERE shard = $1 AND day < $2 LIMIT $3)
		DELETE FROM quota q USING x WHERE q.shard = $1 AND q.tenant = x.tenant AND q.day = x.day AND q.part = x.part`
	// Goes from tenant to tenant, because dead letters stand in the order of tenant and time.
	trimDead = `WITH RECURSIVE o(tenant) AS (
			(SELECT d.tenant FROM dead_letters d WHERE d.shard = $1 ORDER BY d.tenant LIMIT 1)
			UNION ALL
			SELECT n.tenant FROM o, LATERAL (SELECT d.tenant FROM dead_letters d WHERE d.shard = $1 AND d.tenant > o.tenant ORDER BY d.tenant LIMIT 1) n
		), x AS (
			SELECT y.* FROM o, LATERAL (
				SELECT d.tenant, d.ms, d.seq FROM dead_letters d
				WHERE d.shard = $1 AND d.tenant = o.tenant
					AND d.ms < coalesce((SELECT b.before FROM unnest($4::bigint[], $5::bigint[]) b(tenant, before) WHERE b.tenant = o.tenant), $2)
				ORDER BY d.ms, d.seq LIMIT $3) y
			LIMIT $3
		)
		DELETE FROM dead_letters d USING x WHERE d.shard = $1 AND d.tenant = x.tenant AND d.ms = x.ms AND d.seq = x.seq`

	// Content stands in the order of tenant and id, so the walk goes from tenant to tenant, too.
	// $6 and $7 are the bounds of tenants that have their own.
	oldMessages = `SELECT m.tenant, m.id, m.head FROM (SELECT id FROM tenants WHERE id >= $2 ORDER BY id) t, LATERAL (
			SELECT m.tenant, m.id, m.head FROM messages m
			WHERE m.shard = $1 AND m.tenant = t.id AND m.id > CASE WHEN t.id = $2 THEN $3 ELSE $8 END
				AND m.id < coalesce((SELECT b.before FROM unnest($6::bigint[], $7::text[]) b(tenant, before) WHERE b.tenant = t.id), $4)
			ORDER BY m.id LIMIT $5) m
		LIMIT $5`
	// A message may go if it is resolved, no dead letter names it, and its last log entry is old. Once that is so it stays so.
	ended = `SELECT u.tenant, u.id FROM unnest($2::bigint[], $3::text[], $4::bigint[]) u(tenant, id, before)
			WHERE NOT EXISTS (SELECT 1 FROM tickets t WHERE t.shard = $1 AND t.id = u.id)
				AND NOT EXISTS (SELECT 1 FROM generate_series(0, $5::integer - 1) h(shard), LATERAL (
					SELECT 1 FROM dead_letters d WHERE d.shard = h.shard AND d.message = u.id LIMIT 1) d)
				AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.shard = $1 AND a.tenant = u.tenant AND a.id = u.id AND a.ended >= u.before)
				AND NOT EXISTS (SELECT 1 FROM marks k WHERE k.shard = $1 AND k.tenant = u.tenant AND k.id = u.id AND k.at >= u.before)`
	trimMessages = `WITH old AS MATERIALIZED (` + ended + `
		), a AS (DELETE FROM attempts a USING old WHERE a.shard = $1 AND a.tenant = old.tenant AND a.id = old.id
		), k AS (DELETE FROM marks k USING old WHERE k.shard = $1 AND k.tenant = old.tenant AND k.id = old.id)
		DELETE FROM messages m USING old WHERE m.shard = $1 AND m.tenant = old.tenant AND m.id = old.id`
	stripMessages = `WITH old AS MATERIALIZED (` + ended + `
		)
		UPDATE messages m SET head = u.head, body = '' FROM old JOIN unnest($2::bigint[], $3::text[], $6::bytea[]) u(tenant, id, head)
			ON u.tenant = old.tenant AND u.id = old.id
		WHERE m.shard = $1 AND m.tenant = old.tenant AND m.id = old.id`
	lastTicks = `SELECT k.tenant, k.schedule, k.data FROM ticks k, unnest($1::bigint[], $2::text[]) u(tenant, schedule)
		WHERE k.tenant = u.tenant AND k.schedule = u.schedule`

	someGates = `SELECT kind, tenant, name, data FROM gates WHERE shard = $1 AND (kind, tenant, name) > ($2, $3, $4)
		ORDER BY kind, tenant, name LIMIT $5`
	trimGates = `DELETE FROM gates g USING unnest($2::smallint[], $3::bigint[], $4::text[], $5::bytea[]) u(kind, tenant, name, data)
		WHERE g.shard = $1 AND g.kind = u.kind AND g.tenant = u.tenant AND g.name = u.name AND g.data = u.data`
)

// trimState is where the walks of retention on this node stopped: what is still pending is not looked at again in every step,
// but when a walk begins anew.
type trimState struct {
	mu                  sync.Mutex
	removing, stripping walk
	strippedAll         time.Time // when stripping began at the oldest messages
	gate                store.GateRef
}

// stripAll is how often the walk that strips begins at the oldest message again. In between it begins where the one before ended.
const stripAll = time.Hour

// walk is a position in the order of shards, tenants and ids.
type walk struct {
	shard   int16
	tenant  posthaste.TenantID
	message posthaste.MessageID
	begun   bool // tenant and message are set
	// after is the id behind which a tenant's messages are looked at, and reach the one up to which they have been when the walk
	// is over.
	after, reach string
}

// Trim implements [store.Engine]. Several nodes may do it at a time.
func (e *Engine) Trim(ctx context.Context, p store.TrimParams) (more bool, err error) {
	s := &e.trimming
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &trimStep{e: e, s: s, p: &p, left: p.Limit}
	for _, part := range []func(context.Context) (bool, error){t.dedup, t.quota, t.dead, t.messages, t.contents, t.gates} {
		if t.left <= 0 {
			return true, nil
		}
		m, err := part(ctx)
		if err != nil {
			return false, err
		}
		more = more || m
	}
	return more, nil
}

// A trimStep is what is left of the bounds of a step.
type trimStep struct {
	e    *Engine
	s    *trimState
	p    *store.TrimParams
	left int
}

// each removes rows of one shard after another and reports whether the step came to its bound.
func (t *trimStep) each(ctx context.Context, doing, sql string, bound any) (more bool, err error) {
	for shard := range t.e.shards {
		n, err := t.e.change(ctx, doing, sql, int16(shard), bound, t.left)
		if err != nil {
			return false, err
		}
		if t.left -= int(n); t.left <= 0 {
			return true, nil
		}
	}
	return false, nil
}

func (t *trimStep) dedup(ctx context.Context) (bool, error) {
	return t.each(ctx, "remove deduplication entries", trimDedup, t.p.Now.UnixMicro())
}

func (t *trimStep) quota(ctx context.Context) (bool, error) {
	return t.each(ctx, "remove counters", trimQuota, store.DayOf(t.p.Now)-quotaDays)
}

func (t *trimStep) dead(ctx context.Context) (more bool, err error) {
	if t.p.Dead.IsZero() && len(t.p.Tenants) == 0 {
		return false, nil
	}
	var tenants, befores []int64
	for id, k := range t.p.Tenants {
		tenants, befores = append(tenants, int64(id)), append(befores, beforeMillis(k.Dead))
	}
	for shard := range t.e.shards {
		n, err := t.e.change(ctx, "remove dead letters", trimDead, int16(shard), beforeMillis(t.p.Dead), t.left, tenants, befores)
		if err != nil {
			return false, err
		}
		if t.left -= int(n); t.left <= 0 {
			return true, nil
		}
	}
	return false, nil
}

// beforeMillis returns the bound of a kind that is kept for ever below all that there is.
func beforeMillis(t time.Time) int64 {
	if t.IsZero() {
		return math.MinInt64
	}
	return t.UnixMilli()
}

// beforeID does the same for ids.
func beforeID(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return string(posthaste.FirstMessageID(t))
}

// messages removes content, with its attempts and marks, of messages that ended long ago.
func (t *trimStep) messages(ctx context.Context) (more bool, err error) {
	return t.walk(ctx, &t.s.removing, func(k store.Keep) time.Time { return k.Messages }, func(list []oldMessage, befores []int64) error {
		tenants, ids := messageColumns(list)
		_, err := t.e.change(ctx, "remove messages", trimMessages, t.s.removing.shard, tenants, ids, befores, t.e.shards)
		return err
	})
}

// contents strips messages that ended some time ago and that messages leaves for the log.
func (t *trimStep) contents(ctx context.Context) (more bool, err error) {
	if !t.p.Strips() {
		return false, nil
	}
	w := &t.s.stripping
	if !w.begun && w.shard == 0 { // it is about to begin
		if w.after = w.reach; t.p.Now.Sub(t.s.strippedAll).Abs() >= stripAll {
			w.after, t.s.strippedAll = "", t.p.Now
		}
		w.reach = beforeID(t.p.Content)
		for _, k := range t.p.Tenants {
			if id := beforeID(k.Content); w.reach == "" || id != "" && id < w.reach {
				w.reach = id
			}
		}
	}
	return t.walk(ctx, w, func(k store.Keep) time.Time { return k.Content }, func(list []oldMessage, befores []int64) error {
		var some []oldMessage
		var before []int64
		var heads [][]byte
		for i := range list {
			if m := &list[i]; store.Strip(&m.head) {
				some, before, heads = append(some, *m), append(before, befores[i]), append(heads, store.AppendMessage(nil, &m.head))
			}
		}
		if len(some) == 0 {
			return nil
		}
		tenants, ids := messageColumns(some)
		_, err := t.e.change(ctx, "strip messages", stripMessages, w.shard, tenants, ids, before, t.e.shards, heads)
		return err
	})
}

// oldMessage is a message that a walk comes by.
type oldMessage struct {
	store.MessageKey
	head posthaste.Message
}

func messageColumns(list []oldMessage) (tenants []int64, ids []string) {
	for i := range list {
		tenants, ids = append(tenants, int64(list[i].Tenant)), append(ids, string(list[i].ID))
	}
	return tenants, ids
}

// walk goes on with a walk through the messages of one shard and tenant after the other, oldest first, up to the tenant's bound. It
// hands f those that no schedule names, with the moment before which each must have ended.
func (t *trimStep) walk(ctx context.Context, w *walk, bound func(store.Keep) time.Time, f func(list []oldMessage, befores []int64) error) (more bool, err error) {
	var tenants []int64
	var bounds []string
	never := bound(t.p.Keep).IsZero()
	for id, k := range t.p.Tenants {
		tenants, bounds = append(tenants, int64(id)), append(bounds, beforeID(bound(k)))
		never = never && bound(k).IsZero()
	}
	if never {
		return false, nil
	}
	for int(w.shard) < t.e.shards {
		if t.left <= 0 {
			return true, nil
		}
		if !w.begun {
			w.tenant, w.message, w.begun = math.MinInt64, "", true
		}
		list, err := read(ctx, t.e, "look for old messages", func(r pgx.Rows) (m oldMessage, err error) {
			var head []byte
			if err := r.Scan(&m.Tenant, &m.ID, &head); err != nil {
				return m, err
			}
			return m, store.DecodeMessage(head, &m.head)
		}, oldMessages, w.shard, int64(w.tenant), string(w.message), beforeID(bound(t.p.Keep)), t.left, tenants, bounds, w.after)
		if err != nil {
			return false, err
		}
		if len(list) == 0 {
			w.shard, w.begun = w.shard+1, false
			continue
		}
		t.left -= len(list)
		last := list[len(list)-1].MessageKey
		if list, err = t.unnamed(ctx, list); err != nil {
			return false, err
		}
		if len(list) > 0 {
			befores := make([]int64, len(list))
			for i := range list {
				befores[i] = bound(t.p.Of(list[i].Tenant)).UnixMicro()
			}
			if err := f(list, befores); err != nil {
				return false, err
			}
		}
		w.tenant, w.message = last.Tenant, last.ID
	}
	w.shard = 0 // the next walk sees again what was pending in this one
	return false, nil
}

// unnamed leaves out what a schedule's last tick names. What it names later is new.
func (t *trimStep) unnamed(ctx context.Context, list []oldMessage) ([]oldMessage, error) {
	var tenants []int64
	var schedules []string
	for i := range list {
		if s := list[i].head.Schedule; s != "" {
			tenants, schedules = append(tenants, int64(list[i].Tenant)), append(schedules, string(s))
		}
	}
	if len(tenants) == 0 {
		return list, nil
	}
	ticks, err := read(ctx, t.e, "look for ticks", func(r pgx.Rows) (k store.Tick, err error) {
		var data []byte
		if err := r.Scan(&k.Tenant, &k.Schedule, &data); err != nil {
			return k, err
		}
		return k, store.DecodeTick(data, &k)
	}, lastTicks, tenants, schedules)
	if err != nil {
		return nil, err
	}
	named := map[posthaste.MessageID]bool{}
	for _, k := range ticks {
		for _, id := range k.Made {
			named[id] = true
		}
	}
	return slices.DeleteFunc(list, func(m oldMessage) bool { return named[m.ID] }), nil
}

// gates removes gates that say no more than a gate that is not stored. Queues stay until somebody deletes them.
func (t *trimStep) gates(ctx context.Context) (more bool, err error) {
	s := t.s
	type row struct {
		store.Gate
		data []byte
	}
	for int(s.gate.Shard) < t.e.shards {
		if t.left <= 0 {
			return true, nil
		}
		if s.gate.Kind == 0 {
			s.gate.Tenant = math.MinInt64
		}
		limit := t.left
		list, err := read(ctx, t.e, "look for unused gates", func(r pgx.Rows) (g row, err error) {
			if err := r.Scan(&g.Kind, &g.Tenant, &g.Name, &g.data); err != nil {
				return g, err
			}
			g.Shard = s.gate.Shard
			if err := store.DecodeGate(g.data, &g.Gate); err != nil {
				return g, fmt.Errorf("gate %q: %w", g.Name, err)
			}
			return g, nil
		}, someGates, s.gate.Shard, int16(s.gate.Kind), int64(s.gate.Tenant), s.gate.Name, limit)
		if err != nil {
			return false, err
		}
		var kinds []int16
		var tenants []int64
		var names []string
		var data [][]byte
		for i := range list {
			g := &list[i]
			if emptyGate(&g.Gate, len(g.data) == 0, t.p.Now) {
				kinds, tenants, names, data = append(kinds, int16(g.Kind)), append(tenants, int64(g.Tenant)), append(names, g.Name), append(data, g.data)
			}
		}
		if len(kinds) > 0 {
			if _, err := t.e.change(ctx, "remove unused gates", trimGates, s.gate.Shard, kinds, tenants, names, data); err != nil {
				return false, err
			}
		}
		t.left -= len(list)
		if len(list) < limit {
			s.gate = store.GateRef{Shard: s.gate.Shard + 1}
		} else {
			s.gate = list[len(list)-1].GateRef
		}
	}
	s.gate = store.GateRef{}
	return false, nil
}

// emptyGate reports whether nothing would be lost with g: its limits came with messages and will come again. blank says that
// its row was made to be locked only.
func emptyGate(g *store.Gate, blank bool, now time.Time) bool {
	if blank {
		return true
	}
	configured := g.Paused || g.PinnedParallelism || g.PinnedRate
	used := g.InUse > 0 || g.Waiting > 0 || g.Live > 0 || g.WindowUsed > 0 && now.Before(g.WindowStart.Add(g.Period))
	return g.Kind != store.KindQueue && !configured && !used && now.Sub(g.TouchedAt) > gateRest
}
