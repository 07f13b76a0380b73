package postgres_test

import (
	"context"
	"flag"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/store/postgres"
	"github.com/posthaste/posthaste/internal/store/postgres/postgrestest"
)

var pendingFlag = flag.Int("pending", 40_000, "pending messages of TestPending; from a million on it compares times, too")

// A meter counts round trips and statements of transactions.
type meter struct{ trips, statements atomic.Int64 }

func (m *meter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	m.trips.Add(1)
	m.statements.Add(1)
	return ctx
}
func (m *meter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (m *meter) TraceBatchStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceBatchStartData) context.Context {
	m.trips.Add(1)
	m.statements.Add(int64(d.Batch.Len()))
	return ctx
}
func (m *meter) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (m *meter) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// A bench does what a node does for messages with bodies of 512 bytes, through one lane.
type bench struct {
	t      testing.TB
	e      *postgres.Engine
	m      meter
	sql    *pgx.Conn
	nonces *ledger.Nonces
	node   ledger.Node
}

func newBench(t testing.TB, url string) *bench {
	t.Helper()
	b := &bench{t: t, nonces: ledger.NewNonces(), node: ledger.Node{NodeEpoch: store.NodeEpoch{Node: "a", Epoch: 1}, Room: 1000}}
	b.e = open(t, postgres.WithTracer(postgres.Config{URL: url, Lanes: 1}, &b.m))
	b.node.Shards = b.e.Shards()
	addTenant(t, b.e)
	var err error
	if b.sql, err = pgx.Connect(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.sql.Close(context.Background()) })
	return b
}

// accept stores a message, with a queue and a flow key if it is not plain, and returns the operation.
func (b *bench) accept(plain bool, delay time.Duration) *ledger.Accept {
	m := &posthaste.Message{
		Tenant: tenant, URL: "https://example.com/hook", Method: "POST", Body: make([]byte, 512), Header: posthaste.Header{"Content-Type": {"text/plain"}},
	}
	if !plain {
		m.Queue, m.Flow = "q", []posthaste.FlowControl{{Key: "k", Parallelism: 1000}}
	}
	d := &ledger.Draft{Nonce: b.nonces.Next(), Path: ledger.PathOf(m, b.e.Shards(), false)}
	d.Message, d.Delay = m, delay
	op := &ledger.Accept{Tenant: tenant, Shards: b.e.Shards(), Drafts: []*ledger.Draft{d}, Node: b.node}
	if err := b.e.Do(b.t.Context(), 0, op); err != nil {
		b.t.Error(err)
	}
	return op
}

func (b *bench) settle(s ledger.Start) (next []ledger.Start) {
	m := s.Message
	if m == nil {
		m = &posthaste.Message{ID: s.Ticket.ID, Tenant: s.Ticket.Tenant}
	}
	op := &ledger.Settle{
		Ticket: s.Ticket, Message: m, Result: &ledger.Result{Outcome: posthaste.OutcomeDelivered, Status: 200, Body: []byte("ok"), Took: time.Millisecond},
		Shards: b.e.Shards(), Node: b.node,
	}
	if err := b.e.Do(b.t.Context(), 0, op); err != nil {
		b.t.Error(err)
	}
	return op.Started
}

// run accepts and settles n messages, so many at a time.
func (b *bench) run(n, atOnce int, plain bool) {
	for left := n; left > 0; left -= atOnce {
		var group sync.WaitGroup
		started := make([][]ledger.Start, atOnce)
		for i := range atOnce {
			group.Go(func() { started[i] = b.accept(plain, 0).Started })
		}
		group.Wait()
		for _, list := range started {
			for _, s := range list {
				group.Go(func() {
					for todo := []ledger.Start{s}; len(todo) > 0; todo = todo[1:] {
						todo = append(todo, b.settle(todo[0])...)
					}
				})
			}
		}
		group.Wait()
	}
}

// A cost is what messages cost, each.
type cost struct {
	trips, statements, wal float64
	took                   time.Duration
}

func (c cost) String() string {
	return fmt.Sprintf("%.2f round trips, %.2f statements, %.0f bytes of WAL, %v", c.trips, c.statements, c.wal, c.took.Round(time.Microsecond))
}

// measure returns the cost of each of n messages that f accepts and settles.
func (b *bench) measure(n int, f func()) cost {
	b.t.Helper()
	lsn := func() (at int64) {
		if err := b.sql.QueryRow(b.t.Context(), "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint").Scan(&at); err != nil {
			b.t.Fatal(err)
		}
		return at
	}
	trips, statements, wal, begun := b.m.trips.Load(), b.m.statements.Load(), lsn(), time.Now()
	f()
	per := func(v int64) float64 { return float64(v) / float64(n) }
	return cost{per(b.m.trips.Load() - trips), per(b.m.statements.Load() - statements), per(lsn() - wal), time.Since(begun) / time.Duration(n)}
}

// startQuiet starts a server whose WAL comes from statements only.
func startQuiet(t testing.TB) string {
	t.Helper()
	return postgrestest.Start(t, postgrestest.Options{Settings: []string{"autovacuum=off", "max_wal_size=4GB", "checkpoint_timeout=1h"}}).URL
}

// TestCost holds the cost of a message, from its acceptance to the record of its delivery, to what is known. WAL is without the images of
// whole pages that follow checkpoints.
func TestCost(t *testing.T) {
	b := newBench(t, startQuiet(t))
	b.run(32, 16, true)
	b.run(32, 16, false)
	for _, tt := range []struct {
		name   string
		atOnce int
		plain  bool
		most   cost
	}{
		{"plain alone", 1, true, cost{trips: 4, statements: 13, wal: 2150}},
		{"plain, 50 at a time", 50, true, cost{trips: 0.4, statements: 1.2, wal: 2050}},
		{"queue and key alone", 1, false, cost{trips: 4, statements: 27, wal: 3600}},
		{"queue and key, 50 at a time", 50, false, cost{trips: 2.5, statements: 20, wal: 4200}},
	} {
		const n = 200
		got := b.measure(n, func() { b.run(n, tt.atOnce, tt.plain) })
		t.Logf("%s: %v", tt.name, got)
		if got.trips > tt.most.trips || got.statements > tt.most.statements || got.wal > tt.most.wal {
			t.Errorf("%s: got %v, want at most %v", tt.name, got, tt.most)
		}
	}
}

// TestPending compares the cost of a message while a few and while many others are pending: delayed ones, and ones that wait at a key.
func TestPending(t *testing.T) {
	if testing.Short() {
		t.Skip("it stores many messages")
	}
	b := newBench(t, startQuiet(t))
	timed := *pendingFlag >= 1_000_000
	filled := 0
	fill := func(n int) {
		t.Helper()
		// Copies of what the engine writes, under ids of their own.
		const tickets = `
			INSERT INTO tickets (shard, id, tenant, due, plain, data)
				SELECT i % 4, 'msg_' || lpad(i::text, 26, '0'), 1, 4000000000000000 + i, true, decode(repeat('00', 40), 'hex') FROM generate_series($1::bigint, $2::bigint) i`
		const waits = `
			INSERT INTO waits (shard, kind, tenant, name, rank, place, id, data)
				SELECT i % 4, 2, 1, 'other-' || i % 10, 1, i, 'msw_' || lpad(i::text, 26, '0'), decode(repeat('00', 120), 'hex') FROM generate_series($1::bigint, $2::bigint) i`
		const messages = `
			INSERT INTO messages (shard, tenant, id, day, at_once, head, body)
				SELECT i % 4, 1, 'msg_' || lpad(i::text, 26, '0'), 20000, false, decode(repeat('00', 60), 'hex'), decode(repeat('00', 16), 'hex') FROM generate_series($1::bigint, $2::bigint) i`
		for _, sql := range []string{tickets, waits, messages} {
			if _, err := b.sql.Exec(t.Context(), sql, filled+1, n); err != nil {
				t.Fatal(err)
			}
		}
		filled = n
		if _, err := b.sql.Exec(t.Context(), "ANALYZE"); err != nil {
			t.Fatal(err)
		}
	}
	once := func() (c cost) {
		const n = 200
		return b.measure(n, func() {
			b.run(n/2, 20, true)
			b.run(n/2, 20, false)
			if _, err := b.e.NextDue(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
	best := func() (c cost) {
		once()
		rounds := 1
		if timed {
			rounds = 15
		}
		for i := range rounds {
			if got := once(); i == 0 || got.took < c.took {
				c = got
			}
		}
		return c
	}
	fill(10_000)
	few := best()
	fill(*pendingFlag)
	many := best()
	t.Logf("10000 pending: %v", few)
	t.Logf("%d pending: %v", *pendingFlag, many)
	if many.statements > few.statements*1.2 || many.wal > few.wal*1.2 {
		t.Errorf("with %d pending a message costs %v, want at most a fifth more than %v", *pendingFlag, many, few)
	}
	if timed && float64(many.took) > 1.2*float64(few.took) {
		t.Errorf("with %d pending a message takes %v, with 10000 %v", *pendingFlag, many.took, few.took)
	}
}
