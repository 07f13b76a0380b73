package sqlite

import (
	"context"
	"time"

	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/posthaste/posthaste/internal/store"
)

// Exec runs a statement on the writing connection, outside of any transaction's rules, as a test's way to set limits.
func (e *Engine) Exec(ctx context.Context, query string) error {
	return e.step(ctx, func(w *writer) error { return sqlitex.ExecuteTransient(w.c.Conn, query, nil) })
}

// SchemaVersion is the newest schema this program knows.
const SchemaVersion = schemaVersion

// Path returns the name of the data file.
func (e *Engine) Path() string { return e.path }

// LimitWAL sets other bounds for the length of the WAL. It is called before anything is written.
func (e *Engine) LimitWAL(every, limit int64) {
	e.checkpoint.every, e.checkpoint.limit = every, limit
	e.checkpoint.next.Store(every)
}

// Queued returns the number of operations that wait for the writer.
func (e *Engine) Queued() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.queue)
}

// DoAll submits operations at one moment, so they are one batch unless they are too many, and waits for all of them.
func (e *Engine) DoAll(ops []store.Op, errs []error) {
	list := make([]*call, len(ops))
	e.mu.Lock()
	for i, op := range ops {
		list[i] = e.newCall()
		list[i].op = op
		e.queue = append(e.queue, list[i])
	}
	e.wake.Signal()
	e.mu.Unlock()
	for i, c := range list {
		<-c.done
		errs[i] = c.err
		*c = call{done: c.done}
		e.calls.Put(c)
	}
}

// AgeOpen sets after what time open claims get rows.
func (e *Engine) AgeOpen(d time.Duration) { e.open.age.Store(int64(d)) }
