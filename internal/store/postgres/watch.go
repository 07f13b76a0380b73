package postgres

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/posthaste/posthaste/internal/store"
)

// Watching for due work is most of what an idle node does, so it is one small statement.

// The kinds of rows of a look.
const (
	dueTicket = iota
	dueWait
	dueTick
)

// lookSQL returns the statement that finds the earliest moment of each shard and kind. A part of it probes one index of one shard.
// $1 holds lower bounds of the tickets' moments, $2 of the waits', by shard: entries that are gone but not yet cleaned up, which are
// those before, need not be passed.
func lookSQL(shards int) string {
	var b strings.Builder
	for i := range shards {
		n := strconv.Itoa(i)
		at := "[" + strconv.Itoa(i+1) + "]"
		b.WriteString("(SELECT " + n + ", 0, due FROM tickets WHERE shard = " + n + "::smallint AND due >= ($1::bigint[])" + at + " ORDER BY due LIMIT 1) UNION ALL ")
		b.WriteString("(SELECT " + n + ", 1, wake FROM waits WHERE shard = " + n + "::smallint AND wake >= ($2::bigint[])" + at + " ORDER BY wake LIMIT 1) UNION ALL ")
	}
	b.WriteString("(SELECT 0, 2, next FROM ticks WHERE next IS NOT NULL ORDER BY next LIMIT 1)")
	return b.String()
}

// A watch remembers what looks found.
type watch struct {
	mu   sync.Mutex
	full time.Time // when the last look without bounds was made
	due  []int64   // no ticket is due before, by shard
	wake []int64   // no gate is to be looked at before, by shard
}

const (
	// sinceFull is how long bounds hold, should there be a flaw in the reasoning about them.
	sinceFull = time.Minute
	// arrival is how far behind the server's time new moments can lie. They are not before the time of the transaction that
	// writes them, but that may be long under way.
	arrival = transactionLife
)

// bounds returns lower bounds for a look.
func (w *watch) bounds(shards int) (due, wake []int64, full bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if full = time.Since(w.full) >= sinceFull; full || w.due == nil {
		return make([]int64, shards), make([]int64, shards), true
	}
	return append([]int64(nil), w.due...), append([]int64(nil), w.wake...), false
}

// note takes the result of a look, whose bounds nothing is before that has been committed more than arrival ago.
func (w *watch) note(list []store.ShardDue, begun time.Time, now time.Time, full bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if full {
		w.full = begun
	}
	limit := now.Add(-arrival).UnixMicro()
	bound := func(t time.Time) int64 {
		if t.IsZero() {
			return limit
		}
		return min(t.UnixMicro(), limit)
	}
	w.due, w.wake = make([]int64, len(list)), make([]int64, len(list))
	for i, d := range list {
		w.due[i], w.wake[i] = bound(d.Tickets), bound(d.Waiting)
	}
}

// tickMemory remembers when a look found the next tick, so that who asks for due ticks right after needs no statement.
type tickMemory struct {
	mu   sync.Mutex
	at   time.Time // of the look; zero: forgotten
	gen  int64     // raised by forget
	next time.Time // zero: there is no tick
}

// tickTrust is how long a look tells of ticks. Schedules of other nodes are found so much later.
const tickTrust = 1500 * time.Millisecond

func (m *tickMemory) generation() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.gen
}

func (m *tickMemory) note(gen int64, at, next time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gen == gen {
		m.at, m.next = at, next
	}
}

func (m *tickMemory) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at = time.Time{}
	m.gen++
}

// none reports whether it is known that no tick is due before.
func (m *tickMemory) none(before time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.at.IsZero() && time.Since(m.at) < tickTrust && (m.next.IsZero() || m.next.After(before))
}

// NextDue implements [store.Engine]. Ticks are told of with the first shard.
func (e *Engine) NextDue(ctx context.Context) (list []store.ShardDue, err error) {
	if e.closing.Load() {
		return nil, errClosed
	}
	for range 2 {
		if list, err = e.look(ctx); err == nil || !pgconn.SafeToRetry(err) && sqlState(err) != "57P01" {
			break
		}
	}
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return list, translate("read when something is due", err)
}

func (e *Engine) look(ctx context.Context) ([]store.ShardDue, error) {
	begun, gen := time.Now(), e.ticks.generation()
	due, wake, full := e.watch.bounds(e.shards)
	rows, err := e.pool.Query(ctx, e.lookSQL, due, wake)
	if err != nil {
		return nil, err
	}
	list := make([]store.ShardDue, e.shards)
	for i := range list {
		list[i].Shard = int16(i)
	}
	var shard, kind int
	var at int64
	_, err = pgx.ForEachRow(rows, []any{&shard, &kind, &at}, func() error {
		switch kind {
		case dueTicket:
			list[shard].Tickets = moment(at)
		case dueWait:
			list[shard].Waiting = moment(at)
		case dueTick:
			list[0].Tick = moment(at)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if e.cfg.Clock == nil { // else time may stand still, or run ahead
		e.watch.note(list, begun, begun.Add(e.Skew()), full)
		e.ticks.note(gen, begun, list[0].Tick)
	}
	return list, nil
}
