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
		e := newMemory(c.Now, shards)
		return &storetest.Harness{
			Engine: e, Now: c.Now, Advance: c.Advance,
			Crash: func(testing.TB) store.Engine {
				e = e.crash()
				return e
			},
		}
	}
}
