package sqlite_test

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/store/sqlite"
)

// cpu returns the CPU time of the process in nanoseconds: the cost of a message is CPU, the wall clock also shows the disk.
func cpu() int64 {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic(err)
	}
	return r.Utime.Nano() + r.Stime.Nano()
}

// BenchmarkFastPath accepts and settles messages: two operations each, by as many submitters as the name says.
func BenchmarkFastPath(b *testing.B) {
	for _, memory := range []bool{false, true} {
		for _, n := range []int{1, 16, 256} {
			name := fmt.Sprintf("sync=full/submitters=%d", n)
			if memory {
				name = fmt.Sprintf("sync=off/submitters=%d", n)
			}
			b.Run(name, func(b *testing.B) { benchFastPath(b, sqlite.Config{InMemory: memory}, n, 300) })
		}
	}
}

func benchFastPath(b *testing.B, cfg sqlite.Config, submitters, body int) {
	e := open(b, cfg)
	join(b, e)
	data := make([]byte, body)
	work := make(chan struct{}, 4*submitters)
	var wg sync.WaitGroup
	b.ReportAllocs()
	before, start := e.Stats(), cpu()
	b.ResetTimer()
	for range submitters {
		wg.Go(func() {
			for range work {
				a := newAccept(data)
				if err := e.Do(b.Context(), 0, a); err != nil {
					b.Error(err)
				}
				if err := e.Do(b.Context(), 0, newSettle(a.t.ID)); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	wg.Wait()
	b.StopTimer()
	after := e.Stats()
	b.ReportMetric(float64(cpu()-start)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(after.Ops-before.Ops)/float64(after.Commits-before.Commits), "ops/commit")
	b.ReportMetric(float64(after.Statements-before.Statements)/float64(b.N), "stmts/op")
}

// BenchmarkBatch is the fast path in batches of a fixed size, without the cost of many goroutines.
func BenchmarkBatch(b *testing.B) {
	for _, memory := range []bool{false, true} {
		for _, n := range []int{1, 16, 256} {
			name := fmt.Sprintf("sync=full/size=%d", n)
			if memory {
				name = fmt.Sprintf("sync=off/size=%d", n)
			}
			b.Run(name, func(b *testing.B) { benchBatch(b, sqlite.Config{InMemory: memory}, n, 300) })
		}
	}
}

// BenchmarkBody is the fast path with bodies of several sizes.
func BenchmarkBody(b *testing.B) {
	for _, n := range []int{0, 300, 1000, 3000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("bytes=%d", n), func(b *testing.B) { benchBatch(b, sqlite.Config{InMemory: true}, 256, n) })
	}
}

func benchBatch(b *testing.B, cfg sqlite.Config, size, body int) {
	e := open(b, cfg)
	join(b, e)
	data := make([]byte, body)
	accepts, settles, errs := make([]store.Op, size), make([]store.Op, size), make([]error, size)
	b.ReportAllocs()
	before, start := e.Stats(), cpu()
	b.ResetTimer()
	for done := 0; done < b.N; done += size {
		for i := range accepts {
			accepts[i] = newAccept(data)
		}
		e.DoAll(accepts, errs)
		for i := range settles {
			settles[i] = newSettle(accepts[i].(*accept).t.ID)
			if errs[i] != nil {
				b.Fatal(errs[i])
			}
		}
		e.DoAll(settles, errs)
		if err := errors.Join(errs...); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	after := e.Stats()
	b.ReportMetric(float64(cpu()-start)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(after.Ops-before.Ops)/float64(after.Commits-before.Commits), "ops/commit")
}

// BenchmarkDelayed is the way of a message that waits for its moment: accepted, found when it is ripe and claimed, settled.
func BenchmarkDelayed(b *testing.B) {
	const size = 256
	clock := newClock()
	e := open(b, sqlite.Config{InMemory: true, Clock: clock})
	accepts, settles, errs := make([]store.Op, size), make([]store.Op, size), make([]error, size)
	b.ReportAllocs()
	start := cpu()
	b.ResetTimer()
	for done := 0; done < b.N; done += size {
		for i := range accepts {
			a := newAccept(make([]byte, 300))
			accepts[i] = &op{want: a.want, decide: func(v *store.View, c *store.Changes) error {
				if err := a.Decide(v, c); err != nil {
					return err
				}
				a.m.ClaimedAtOnce, a.t.Phase, a.t.Due, a.t.Node, a.t.AtOnce = false, posthaste.PhaseDelayed, v.Now.Add(time.Second), store.NodeEpoch{}, false
				return nil
			}}
		}
		e.DoAll(accepts, errs)
		clock.advance(time.Minute)
		var ids []posthaste.MessageID
		claim := &op{want: store.Want{Ripe: &store.Ripe{Before: clock.Now(), Limit: size, PerTenant: size}}}
		claim.decide = func(v *store.View, c *store.Changes) error {
			for _, t := range v.Ripe {
				t.Phase, t.Node, t.Fence, t.StartedAt = posthaste.PhaseClaimed, store.NodeEpoch{Node: "node-1", Epoch: 1}, 1, v.Now
				c.Put = append(c.Put, t)
				ids = append(ids, t.ID)
			}
			return nil
		}
		do(b, e, claim)
		if len(ids) != size {
			b.Fatalf("%d ripe, want %d", len(ids), size)
		}
		for i, id := range ids {
			settles[i] = newSettle(id)
		}
		e.DoAll(settles, errs)
		if err := errors.Join(errs...); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(cpu()-start)/float64(b.N), "cpu-ns/op")
}

// BenchmarkTrim removes settled messages.
func BenchmarkTrim(b *testing.B) {
	clock := newClock()
	e := open(b, sqlite.Config{InMemory: true, Clock: clock})
	ops, errs := make([]store.Op, 256), make([]error, 256)
	for done := 0; done < b.N; done += len(ops) {
		for i := range ops {
			ops[i] = newAccept(make([]byte, 300))
		}
		e.DoAll(ops, errs)
		for i := range ops {
			ops[i] = newSettle(ops[i].(*accept).t.ID)
		}
		e.DoAll(ops, errs)
	}
	clock.advance(time.Hour)
	p := store.TrimParams{Now: clock.Now(), Keep: store.Keep{Messages: clock.Now()}, Limit: 500}
	b.ReportAllocs()
	start, steps := cpu(), 0
	b.ResetTimer()
	for more := true; more; steps++ {
		var err error
		if more, err = e.Trim(b.Context(), p); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(cpu()-start)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(steps), "µs/step")
	checkEmpty(b, e)
}

func checkEmpty(b *testing.B, e *sqlite.Engine) {
	b.Helper()
	list, err := e.MessageList(b.Context(), tenant, "", store.Page{Limit: 1})
	if err != nil || len(list) > 0 {
		b.Errorf("%d messages are left: %v", len(list), err)
	}
}
