// Package sqlite keeps the state of the server in one SQLite file.
//
// One connection writes. The operations that arrive while it commits form the next commit, which is synced once, so the
// cost of a sync is shared by as many operations as the load brings. Other connections read, each call in a short
// transaction. The log of changes (WAL) is copied into the file by a connection of its own; see checkpoint.go.
//
// One server at a time may use a file: [Engine.Join] holds a lock beside it. Other programs may open it meanwhile, read it and
// change configuration; nothing is cached from one commit to the next.
//
// There is one shard, and the Shard of keys is not stored.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
)

// Clock tells the time that decisions are made with.
type Clock interface {
	Now() time.Time
}

// Config says how to open an engine.
type Config struct {
	// Path names the data file, which is made if there is none. The WAL and the lock file stand beside it.
	Path string
	// InMemory asks for a file in a fresh temporary directory that is never synced and that Close removes. Path is not used.
	InMemory bool
	// Clock is the source of View.Now; nil: real time.
	Clock Clock
	// Readers is how many reads may run at a time; 0: 4.
	Readers int
	// Log hears of faults that no caller is told of; nil: nobody does.
	Log *slog.Logger
	// Committed is told of every commit: its operations, and how long it took from its beginning. It must be quick. nil:
	// nobody is.
	Committed func(operations int, took time.Duration)
	// CommitFailed is told of every commit that was undone. nil: nobody is.
	CommitFailed func()
	// Hook is called on the writer's goroutine at "before-commit", "after-commit" and "before-answer" of every batch. Tests
	// of crashes set it.
	Hook func(point string)
}

func (c *Config) validate() error {
	var errs []error
	if c.Path == "" && !c.InMemory {
		errs = append(errs, posthaste.Errorf(posthaste.CodeInvalid, "the path of the data file is empty"))
	}
	if c.Readers < 0 {
		errs = append(errs, posthaste.Errorf(posthaste.CodeInvalid, "the number of readers is negative"))
	}
	return errors.Join(errs...)
}

// Engine is a [store.Engine] over one file.
type Engine struct {
	cfg     Config
	log     *slog.Logger
	path    string
	dir     string // the temporary directory, if InMemory
	readers chan *reader
	hints   chan store.Hint
	stats   counters
	calls   sync.Pool // of *call
	wal     *walState
	stopped chan struct{} // closed when Close begins
	wg      sync.WaitGroup

	ripening atomic.Int64 // the tenant after which the next Ripening begins

	mu      sync.Mutex
	wake    sync.Cond // of the writer: the queue is no longer empty, or closing is set
	queue   []*call
	closing bool

	open   openClaims
	joined atomic.Bool // a node has the lease; without one no claim is left open

	last time.Time // View.Now of the last operation; the writer owns it

	checkpoint checkpointer
	lease      lease
}

var _ store.Engine = (*Engine)(nil)

var errClosed = posthaste.Errorf(posthaste.CodeUnavailable, "the store is closed")

type counters struct {
	commits, ops, statements, checkpoints, restarts atomic.Int64
}

// Stats counts what an engine did since it was opened.
type Stats struct {
	Commits     int64 // transactions of the writer
	Ops         int64 // operations in them
	Statements  int64 // run by all connections
	Checkpoints int64 // of the WAL
	Restarts    int64 // of the WAL by the writer, because readers and load kept checkpoints from reaching its end
}

// Stats returns the counters.
func (e *Engine) Stats() Stats {
	return Stats{
		Commits: e.stats.commits.Load(), Ops: e.stats.ops.Load(), Statements: e.stats.statements.Load(),
		Checkpoints: e.stats.checkpoints.Load(), Restarts: e.stats.restarts.Load(),
	}
}

// Open opens the file, makes or upgrades its schema, and starts the writer. It fails with CodeConflict if a newer program made
// the schema.
func Open(ctx context.Context, cfg Config) (_ *Engine, err error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Readers == 0 {
		cfg.Readers = 4
	}
	if cfg.Clock == nil {
		cfg.Clock = realTime{}
	}
	e := &Engine{
		cfg: cfg, log: cfg.Log, path: cfg.Path,
		readers: make(chan *reader, cfg.Readers),
		hints:   make(chan store.Hint, 1),
		stopped: make(chan struct{}),
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	e.wake.L = &e.mu
	e.open.age.Store(int64(openAge))
	e.open.byID = make(map[posthaste.MessageID]*openClaim)
	e.wal = newWALState(cfg.InMemory)
	e.checkpoint.every, e.checkpoint.limit = checkpointEvery, walLimit
	e.checkpoint.grown, e.checkpoint.wrote = make(chan struct{}, 1), make(chan struct{}, 1)
	e.checkpoint.next.Store(checkpointEvery)
	if cfg.InMemory {
		if e.dir, err = os.MkdirTemp("", "posthaste-"); err != nil {
			return nil, posthaste.Wrap(posthaste.CodeUnavailable, "make a temporary directory", err)
		}
		e.path = filepath.Join(e.dir, "data")
	}
	w, err := e.newWriter(ctx)
	if err != nil {
		e.wal.forget()
		return nil, errors.Join(err, e.removeTemporary())
	}
	for range cfg.Readers {
		e.readers <- nil // made when first used
	}
	e.wg.Go(func() {
		w.run()
		w.close()
	})
	e.wg.Go(e.checkpoints)
	return e, nil
}

type realTime struct{}

func (realTime) Now() time.Time { return time.Now() }

// newWriter opens the writing connection and brings the schema up to date.
func (e *Engine) newWriter(ctx context.Context) (*writer, error) {
	doing := fmt.Sprintf("open the data file %s", e.path)
	c, err := e.connect(sqlite.OpenReadWrite|sqlite.OpenCreate, "synchronous = FULL",
		fmt.Sprintf("cache_size = %d", writerPages), fmt.Sprintf("journal_size_limit = %d", walLimit))
	if err != nil {
		return nil, translate(doing, err)
	}
	fail := func(err error) (*writer, error) {
		c.Close() //nolint:errcheck // err says more
		return nil, translate(doing, err)
	}
	if err := migrate(ctx, c.Conn); err != nil {
		return fail(err)
	}
	w := &writer{
		e: e, queries: newQueries(c), saves: newSaves(c), trims: newTrims(c), opens: newOpens(c, &e.open),
		begin: c.prepare("BEGIN IMMEDIATE"), commit: c.prepare("COMMIT"), rollback: c.prepare("ROLLBACK"),
		versions: make(map[posthaste.TenantID]int64), gates: make(map[store.GateRef]*cachedGate),
	}
	c.note = true
	w.ripeAfter, w.afterGate = minTenant, firstGate
	e.ripening.Store(int64(minTenant))
	w.restartLog = c.prepare("PRAGMA wal_checkpoint(RESTART)")
	if c.err != nil {
		return fail(c.err)
	}
	if e.last, err = lastUsed(c); err != nil {
		return fail(err)
	}
	return w, nil
}

// now returns the time of an operation. It is later than that of every one before, also if the clock stands or is set back.
func (e *Engine) now() time.Time {
	t := e.cfg.Clock.Now().UTC().Truncate(time.Microsecond)
	if !t.After(e.last) {
		t = e.last.Add(time.Microsecond)
	}
	e.last = t
	return t
}

// lastUsed returns a moment that no operation of an earlier process that left a trace was after: the one noted at the last
// close, the time of the newest message, or that of an attempt's end.
func lastUsed(c *conn) (last time.Time, err error) {
	noted := c.prepare("SELECT value FROM meta WHERE key = 'now'")
	newest := c.prepare("SELECT id FROM messages ORDER BY n DESC LIMIT 1")
	next := c.prepare("SELECT tenant FROM attempts WHERE tenant > ? ORDER BY tenant LIMIT 1")
	ended := c.prepare("SELECT max(ended) FROM attempts WHERE tenant = ?")
	if c.err != nil {
		return last, c.err
	}
	later := func(t time.Time) error {
		if t.After(last) {
			last = t
		}
		return nil
	}
	if _, err = first(noted, func() error { return later(noted.time(0)) }); err != nil {
		return last, err
	}
	if _, err = first(newest, func() error {
		at, _, _ := posthaste.MessageID(newest.ColumnText(0)).Parts()
		return later(at)
	}); err != nil {
		return last, err
	}
	for tenant := int64(minTenant); ; {
		next.BindInt64(1, tenant)
		more, err := first(next, func() error {
			tenant = next.ColumnInt64(0)
			return nil
		})
		if !more || err != nil {
			return last, err
		}
		ended.BindInt64(1, tenant)
		if _, err := first(ended, func() error { return later(ended.time(0)) }); err != nil {
			return last, err
		}
	}
}

// close notes the time and closes the writing connection.
func (w *writer) close() {
	note := w.c.prepare("REPLACE INTO meta (key, value) VALUES ('now', ?)")
	if w.c.err == nil && !w.e.last.IsZero() {
		note.BindInt64(1, w.e.last.UnixMicro())
		if err := note.run(); err != nil {
			w.e.log.Warn("note the time", "error", err)
		}
	}
	if w.e.wal.noSync {
		w.c.prepare("PRAGMA synchronous = OFF").run() //nolint:errcheck // it would only save time
	}
	if err := w.c.Close(); err != nil {
		w.e.log.Warn("close the data file", "error", err)
	}
}

func (e *Engine) hook(point string) {
	if e.cfg.Hook != nil {
		e.cfg.Hook(point)
	}
}

// Hints implements [store.Engine].
func (e *Engine) Hints() <-chan store.Hint { return e.hints }

// Shards implements [store.Engine].
func (e *Engine) Shards() int { return 1 }

// Migrate implements [store.Engine]. Open has done it.
func (e *Engine) Migrate(context.Context) error { return nil }

// Close carries out what was submitted, gives up the lease, and closes the file. Calls after it fail with CodeUnavailable.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closing {
		e.mu.Unlock()
		return nil
	}
	e.closing = true
	e.wake.Signal()
	e.mu.Unlock()
	close(e.stopped)
	var errs []error
	for range cap(e.readers) {
		if r := <-e.readers; r != nil {
			errs = append(errs, r.c.Close())
		}
	}
	e.wg.Wait()
	e.wal.forget()
	errs = append(errs, e.lease.unlock(), e.removeTemporary())
	return posthaste.Wrap(posthaste.CodeInternal, "close the store", errors.Join(errs...))
}

func (e *Engine) removeTemporary() error {
	if e.dir == "" {
		return nil
	}
	return os.RemoveAll(e.dir)
}
