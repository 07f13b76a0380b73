package sqlite_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/store/sqlite"
	"github.com/posthaste/posthaste/internal/store/storetest"
)

// openSuite opens an engine for a suite.
func openSuite(tb testing.TB) *storetest.Harness {
	tb.Helper()
	return openIn(tb, fastDir)
}

// openIn opens an engine in a directory. A crash is a copy of the files as they are at some moment, opened by another engine;
// the first one never learns of it.
func openIn(tb testing.TB, dir func(testing.TB) string) *storetest.Harness {
	tb.Helper()
	clock := storetest.NewClock()
	var path string
	var crash func(point string) // called at the points of a commit; nil: nothing
	lives := 0
	start := func(tb testing.TB) store.Engine {
		e := open(tb, sqlite.Config{Path: path, Clock: clock, Hook: func(point string) {
			if crash != nil {
				crash(point)
			}
		}})
		// Every second life gives rows to its open claims with each commit, the others hardly ever do.
		if lives++; lives%2 == 0 {
			e.AgeOpen(0)
		}
		return e
	}
	copyTo := func(tb testing.TB, next string) {
		for _, suffix := range []string{"", "-wal"} {
			data, err := os.ReadFile(path + suffix)
			if err == nil {
				err = os.WriteFile(next+suffix, data, 0o600)
			}
			if err != nil {
				tb.Error(err)
			}
		}
	}
	path = filepath.Join(dir(tb), "data")
	h := &storetest.Harness{Engine: start(tb), Now: clock.Now, Advance: clock.Advance, OneNode: true}
	h.Crash = func(tb testing.TB) store.Engine {
		next := filepath.Join(dir(tb), "data")
		copyTo(tb, next)
		path = next
		return start(tb)
	}
	n := 0
	h.CrashIn = func(tb testing.TB, op store.Op) store.Engine {
		points := []string{"before-commit", "after-commit", "before-answer"}
		at, next := points[n%len(points)], filepath.Join(dir(tb), "data")
		n++
		done := false
		crash = func(point string) {
			if point == at && !done {
				copyTo(tb, next)
				done = true
			}
		}
		h.Engine.Do(tb.Context(), 0, op) //nolint:errcheck // whoever submitted it has died
		crash = nil
		if !done { // the operation failed, and there was no commit
			copyTo(tb, next)
		}
		path = next
		return start(tb)
	}
	return h
}

// fastDir returns a temporary directory in memory where there is such a thing: a suite makes many commits, and what it looks
// for does not depend on a disk.
func fastDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "posthaste-")
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	return dir
}

func TestSuite(t *testing.T) { storetest.Run(t, openSuite) }

func TestModel(t *testing.T) { storetest.RunModel(t, openSuite) }

func TestConcurrent(t *testing.T) { storetest.RunConcurrent(t, openSuite) }

func BenchmarkSuite(b *testing.B) {
	storetest.Benchmark(b, func(tb testing.TB) *storetest.Harness { return openIn(tb, testing.TB.TempDir) })
}
