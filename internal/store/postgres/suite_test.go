package postgres_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/store/postgres"
	"github.com/posthaste/posthaste/internal/store/storetest"
)

// ticking is the clock of several engines. Like that of a server it shows each of them another time, though what they see of it
// stands still until it is moved.
type ticking struct {
	*storetest.Clock
	mu   sync.Mutex
	last time.Time
}

// Now implements [postgres.Clock].
func (c *ticking) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = c.last.Add(time.Microsecond)
	if t := c.Clock.Now(); t.After(c.last) {
		c.last = t
	}
	return c.last
}

// openSuite opens an engine for a suite, over a schema of its own. A crash leaves the engine where it is and opens another one
// over the same rows.
func openSuite(tb testing.TB) *storetest.Harness {
	tb.Helper()
	clock := &ticking{Clock: storetest.NewClock()}
	cfg := postgres.Config{URL: newSchema(tb), Clock: clock, Shards: 4, Lanes: 2, PoolSize: 2}
	return &storetest.Harness{
		Engine: open(tb, cfg), Now: clock.Clock.Now, Advance: clock.Advance,
		Crash: func(tb testing.TB) store.Engine { return open(tb, cfg) },
	}
}

// nodes is several engines over one database, of which each operation takes another one, as if requests came to different nodes.
type nodes struct {
	store.Engine // answers the readings
	all          []*postgres.Engine
	n            atomic.Uint32
	turns        bool // operations do not run side by side
	turn         sync.Mutex
}

func (s *nodes) Do(ctx context.Context, _ int, op store.Op) error {
	n := int(s.n.Add(1))
	if s.turns {
		s.turn.Lock()
		defer s.turn.Unlock()
	}
	return s.all[n%len(s.all)].Do(ctx, n/len(s.all), op)
}

// openNodes opens three engines.
func openNodes(tb testing.TB, turns bool) *storetest.Harness {
	tb.Helper()
	clock := &ticking{Clock: storetest.NewClock()}
	cfg := postgres.Config{URL: newSchema(tb), Clock: clock, Shards: 4, Lanes: 2, PoolSize: 2}
	start := func(tb testing.TB) *nodes {
		s := &nodes{turns: turns}
		for range 3 {
			s.all = append(s.all, open(tb, cfg))
		}
		s.Engine = s.all[0]
		return s
	}
	return &storetest.Harness{
		Engine: start(tb), Now: clock.Clock.Now, Advance: clock.Advance, Crash: func(tb testing.TB) store.Engine { return start(tb) },
	}
}

func TestNodes(t *testing.T) {
	t.Run("concurrent", func(t *testing.T) {
		storetest.RunConcurrent(t, func(tb testing.TB) *storetest.Harness { return openNodes(tb, false) })
	})
	// The model follows one order of all operations, which nodes side by side do not have: an operation may read the version of
	// a tenant before another one raises it, and decide after it.
	t.Run("model", func(t *testing.T) {
		storetest.RunModel(t, func(tb testing.TB) *storetest.Harness { return openNodes(tb, true) })
	})
}

func TestRun(t *testing.T) { storetest.Run(t, openSuite) }

func TestConcurrent(t *testing.T) { storetest.RunConcurrent(t, openSuite) }

func TestModel(t *testing.T) { storetest.RunModel(t, openSuite) }

func BenchmarkSuite(b *testing.B) { storetest.Benchmark(b, openSuite) }
