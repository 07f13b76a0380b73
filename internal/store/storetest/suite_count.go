package storetest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
)

// testLimitedQueues has many goroutines make queues, by messages and directly, of which there may be only so many.
func testLimitedQueues(b *bed) {
	const most, each = 7, 12
	var refused atomic.Int64
	retry := func(f func(version int64) error) {
		for range 10_000 {
			v, err := b.Engine.Version(b.ctx(), b.tenant)
			if err == nil {
				err = f(v)
			}
			switch {
			case errors.Is(err, store.ErrStale):
				continue
			case posthaste.CodeOf(err) == posthaste.CodeQuotaExceeded:
				refused.Add(1)
			case err != nil:
				b.Error(err)
			}
			return
		}
		b.Error("the configuration keeps changing")
	}
	var wg sync.WaitGroup
	for i := range each {
		wg.Go(func() {
			retry(func(v int64) error {
				op := b.acceptOp(0, b.draft(b.msg(inQueue(fmt.Sprint("accepted", i))), 0))
				op.Version = v
				if err := op.LimitQueues(b.ctx(), b.Engine, most); err != nil {
					return err
				}
				return b.submit(op)
			})
		})
		wg.Go(func() {
			retry(func(v int64) error {
				n, err := ledger.CountQueues(b.ctx(), b.Engine, b.tenant)
				if err != nil {
					return err
				}
				if n >= most {
					return ledger.TooManyQueues(most)
				}
				return b.submit(&ledger.EditGate{
					Gate: b.queue(fmt.Sprint("edited", i)), Version: v,
					Edit: func(now time.Time, g *store.Gate) error {
						g.CreatedAt = now
						return nil
					},
				})
			})
		})
	}
	wg.Wait()
	n, err := ledger.CountQueues(b.ctx(), b.Engine, b.tenant)
	b.check(err)
	if n != most || refused.Load() != 2*each-most {
		b.Errorf("got %d queues and %d refusals, want %d and %d", n, refused.Load(), most, 2*each-most)
	}
	// What is there is used without a count.
	ref := b.queue("accepted")
	for i := range each {
		if g := b.gate(b.queue(fmt.Sprint("accepted", i))); !g.CreatedAt.IsZero() {
			ref = g.GateRef
		}
	}
	if ref == b.queue("accepted") {
		return // all were made directly
	}
	op := b.acceptOp(0, b.draft(b.msg(inQueue(ref.Name)), 0))
	b.check(op.LimitQueues(b.ctx(), b.Engine, most))
	if op.NewQueues {
		b.Error("a message to a queue that exists is to make one")
	}
	b.do(op)
	// If it was deleted meanwhile, that is found out.
	op = b.acceptOp(0, b.draft(b.msg(inQueue(ref.Name)), 0))
	b.check(op.LimitQueues(b.ctx(), b.Engine, most))
	b.do(&ledger.DeleteQueue{Queue: ref})
	if err := b.submit(op); !errors.Is(err, store.ErrStale) {
		b.Errorf("got %v for a queue that is gone, want ErrStale", err)
	}
}
