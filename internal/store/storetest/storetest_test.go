package storetest_test

import (
	"testing"

	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/store/storetest"
)

// openMemory returns an opener of engines of maps with so many shards.
func openMemory(shards int) func(testing.TB) *storetest.Harness {
	return func(testing.TB) *storetest.Harness {
		c := storetest.NewClock()
		e, crashes := newMemory(c.Now, shards), 0
		return &storetest.Harness{
			Engine: e, Now: c.Now, Advance: c.Advance,
			Crash: func(testing.TB) store.Engine {
				e = e.crash()
				return e
			},
			CrashIn: func(tb testing.TB, op store.Op) store.Engine {
				crashes++
				e.loses = crashes%2 == 0
				e.Do(tb.Context(), 0, op) //nolint:errcheck // whoever submitted it has died
				e = e.crash()
				return e
			},
		}
	}
}

func TestRun(t *testing.T) {
	t.Run("1 shard", func(t *testing.T) { storetest.Run(t, openMemory(1)) })
	t.Run("3 shards", func(t *testing.T) { storetest.Run(t, openMemory(3)) })
}

func TestModel(t *testing.T) { storetest.RunModel(t, openMemory(3)) }

func TestConcurrent(t *testing.T) { storetest.RunConcurrent(t, openMemory(3)) }
