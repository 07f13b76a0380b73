package sqlite_test

import (
	"fmt"
	"sync"
	"syscall"
	"testing"

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
