package storetest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
)

// Benchmark measures what an engine gets through. An operation is the whole life of a message, in the store: accepted,
// claimed and settled.
//
//   - plain: accepted already claimed, and settled, by groups of concurrent submitters.
//   - queue and key: in a queue with room for 16, and with a flow key.
//   - delayed: claimed when ripe, in batches, and settled.
func Benchmark(b *testing.B, open func(testing.TB) *Harness) {
	for _, n := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("plain/submitters=%d", n), func(b *testing.B) {
			bed := newBed(b, open)
			bed.bench(n, func() *posthaste.Message { return bed.msg(withBody(512)) })
		})
	}
	for _, n := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("queue and key/submitters=%d", n), func(b *testing.B) {
			bed := newBed(b, open)
			bed.edit(0, bed.queue("q"), func(g *store.Gate) { g.Parallelism = 16 })
			bed.bench(n, func() *posthaste.Message {
				return bed.msg(withBody(512), inQueue("q"), withFlow(limits("k", 64, 0, 0)))
			})
		})
	}
	b.Run("delayed", func(b *testing.B) {
		bed := newBed(b, open)
		for range b.N {
			bed.do(bed.acceptOp(0, bed.draft(bed.msg(withBody(512)), time.Minute)))
		}
		bed.Advance(time.Hour)
		b.ResetTimer()
		for left := b.N; left > 0; {
			var started []ledger.Start
			for shard := range bed.shards {
				op := &ledger.Claim{Ripe: &store.Ripe{Shard: int16(shard), Before: bed.Now(), Limit: 256, PerTenant: 256}, Node: bed.with(256)}
				bed.do(op)
				started = append(started, op.Started...)
			}
			if len(started) == 0 {
				b.Fatalf("got no more claimed with %d left", left)
			}
			var group sync.WaitGroup
			for _, s := range started {
				group.Go(func() { bed.settleFast(s) })
			}
			group.Wait()
			left -= len(started)
		}
	})
}

func withBody(n int) func(*posthaste.Message) {
	return func(m *posthaste.Message) { m.Body = make([]byte, n) }
}

// settleFast settles a start and returns what started then. Of the message it knows only what a settlement needs.
func (b *bed) settleFast(s ledger.Start) []ledger.Start {
	m := s.Message
	if m == nil {
		m = &posthaste.Message{ID: s.Ticket.ID, Tenant: s.Ticket.Tenant}
	}
	op := &ledger.Settle{Ticket: s.Ticket, Message: m, Result: delivered(), Shards: b.shards, Node: b.with(manyRoom)}
	if err := b.Engine.Do(b.ctx(), 0, op); err != nil {
		b.Error(err)
	}
	return op.Started
}

// bench lets submitters accept messages and settle what starts, until all are resolved.
func (b *bed) bench(submitters int, message func() *posthaste.Message) {
	bb := b.TB.(*testing.B)
	total := int64(bb.N)
	var accepted, settled atomic.Int64
	todo := make(chan ledger.Start, total)
	settle := func(s ledger.Start) {
		for _, next := range b.settleFast(s) { // what it starts in the room it frees
			todo <- next
		}
		if settled.Add(1) == total {
			close(todo)
		}
	}
	bb.ReportAllocs()
	bb.ResetTimer()
	var group sync.WaitGroup
	for range submitters {
		group.Go(func() {
			for accepted.Add(1) <= total {
				op := b.acceptOp(manyRoom, b.draft(message(), 0))
				if err := b.Engine.Do(b.ctx(), 0, op); err != nil {
					b.Error(err)
					return
				}
				for _, s := range op.Started {
					todo <- s
				}
				select {
				case s, ok := <-todo:
					if ok {
						settle(s)
					}
				default:
				}
			}
			for s := range todo {
				settle(s)
			}
		})
	}
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	for {
		select {
		case <-done:
			return
		case <-time.After(5 * time.Millisecond):
		}
		if accepted.Load() > total && len(todo) == 0 && settled.Load() < total {
			for _, s := range b.pump(manyRoom) { // marks lead to what nobody took
				todo <- s
			}
		}
	}
}
