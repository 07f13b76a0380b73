package sqlite

import (
	"context"

	"zombiezen.com/go/sqlite/sqlitex"
)

// Exec runs a statement on the writing connection, outside of any transaction's rules, as a test's way to set limits.
func (e *Engine) Exec(ctx context.Context, query string) error {
	return e.step(ctx, func(w *writer) error { return sqlitex.ExecuteTransient(w.c.Conn, query, nil) })
}

// SchemaVersion is the newest schema this program knows.
const SchemaVersion = schemaVersion

// Path returns the name of the data file.
func (e *Engine) Path() string { return e.path }

// WALLimit is the length of the WAL beyond which the writer itself begins it again.
const WALLimit = walLimit

// Queued returns the number of operations that wait for the writer.
func (e *Engine) Queued() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.queue)
}
