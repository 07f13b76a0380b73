// Package postgres keeps the state of the server in a PostgreSQL database, which any number of nodes share.
//
// Operations are carried out by a few lanes, each with one connection and one goroutine. What arrives at a lane while it
// commits forms its next transaction, so the cost of a commit is shared by as many operations as the load brings. A
// transaction takes two pipelined round trips: the first locks and reads all that its operations name, in the order that
// package store demands; then each operation decides, on what was read and what the operations before it changed; the second
// writes the sum of it and commits.
//
// What must be so:
//
//  1. Rows that are found by others than their keys (the first tickets of a gate, configuration) and the time are read by
//     statements of their own after the locks are held: a statement that waited for a lock sees everything else as it was
//     before.
//  2. The row of a Waiting ticket is not locked: the lock of its gate stands for it. So does the queue's for its slots.
//  3. No lock names more than one shard in a statement, and shards are locked in their order.
//  4. A connection that stays idle within a transaction is ended by the server after a few seconds ([Config.IdleTimeout]),
//     because a node that was stopped would hold its gates for all others.
//  5. An error during COMMIT leaves the outcome unknown. Do then fails with CodeUnavailable, as package store says.
package postgres

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
)

// Clock tells the time that decisions are made with.
type Clock interface {
	Now() time.Time
}

// Config says how to open an engine.
type Config struct {
	// URL is a connection string, as a URL or as key=value pairs.
	URL string
	// Lanes is how many transactions of operations may run at a time; 0: one per shard, at most 4.
	Lanes int
	// PoolSize is how many reads may run at a time; 0: 8.
	PoolSize int
	// ExecMode is pgx's query exec mode: cache_statement (the default), cache_describe, describe_exec, exec or
	// simple_protocol. Behind a pooler that gives connections away between transactions it must be exec or simple_protocol.
	ExecMode string
	// Shards is the number of shards of a database that has no schema yet; 0: 4. Otherwise it is not used.
	Shards int
	// NoMigrate leaves the schema as it is. Open fails with CodeConflict if it is not the one that the program knows.
	NoMigrate bool
	// IdleTimeout is how long the server lets a transaction wait for its node; 0: 4 s. It must be shorter than the leases.
	IdleTimeout time.Duration
	// Listen makes the engine tell other nodes of work that is due and not begun, and hear of theirs, on a connection of its own.
	// Behind a pooler, as ExecMode says, there is none.
	Listen bool
	// Clock is the source of View.Now; nil: the clock of the server, which is the same for all nodes. Tests set it.
	Clock Clock
	// Logger hears of faults that no caller is told of; nil: nobody does.
	Logger *slog.Logger
	// Committed is told of every commit: its operations, and how long it took from its beginning. It must be quick. nil:
	// nobody is.
	Committed func(operations int, took time.Duration)
	// CommitFailed is told of every transaction that came to nothing, also if it is run again. nil: nobody is.
	CommitFailed func()
	// Hook is called on a lane's goroutine at "before-commit", "after-commit" and "before-answer" of every batch. Tests of
	// crashes set it.
	Hook func(point string)

	trace pgx.QueryTracer
}

var execModes = map[string]pgx.QueryExecMode{
	"":                pgx.QueryExecModeCacheStatement,
	"cache_statement": pgx.QueryExecModeCacheStatement,
	"cache_describe":  pgx.QueryExecModeCacheDescribe,
	"describe_exec":   pgx.QueryExecModeDescribeExec,
	"exec":            pgx.QueryExecModeExec,
	"simple_protocol": pgx.QueryExecModeSimpleProtocol,
}

// maxShards bounds the number of shards: one more costs every look for due work a statement.
const maxShards = 256

func (c *Config) validate() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, posthaste.Errorf(posthaste.CodeInvalid, format, args...))
	}
	if c.URL == "" {
		bad("the connection string is empty")
	}
	if c.Lanes < 0 {
		bad("the number of lanes is negative")
	}
	if c.PoolSize < 0 {
		bad("the size of the pool is negative")
	}
	if c.Shards < 0 || c.Shards > maxShards {
		bad("%d shards: want 1 to %d, or 0 for the default", c.Shards, maxShards)
	}
	if _, ok := execModes[c.ExecMode]; !ok {
		bad("unknown exec mode %q", c.ExecMode)
	}
	if c.IdleTimeout < 0 {
		bad("the idle timeout is negative")
	}
	return errors.Join(errs...)
}

const (
	connectTimeout = 5 * time.Second
	// tripTimeout bounds a round trip. It is longer than any wait for a lock that the idle timeout allows.
	tripTimeout = 30 * time.Second
)

// Engine is a [store.Engine] over a database.
type Engine struct {
	cfg    Config
	log    *slog.Logger
	pool   *pgxpool.Pool
	conn   *pgx.ConnConfig // of lanes
	mode   pgx.QueryExecMode
	shards int
	lanes  []*lane
	stats  counters
	last   atomic.Int64 // the latest View.Now, µs
	wg     sync.WaitGroup

	closing atomic.Bool
	stop    context.CancelFunc // of what runs besides the lanes

	hints *hints
	watch watch
	ticks tickMemory
	skew  skew

	lookSQL, claimantsSQL string // as the number of shards makes them

	ripening rotation
	trimming trimState
}

var _ store.Engine = (*Engine)(nil)

var errClosed = posthaste.Errorf(posthaste.CodeUnavailable, "the store is closed")

type counters struct {
	commits, ops, statements, repeats atomic.Int64
}

// Stats counts what the lanes of an engine did since it was opened.
type Stats struct {
	Commits    int64 // transactions
	Ops        int64 // operations in them
	Statements int64 // in them, with BEGIN and COMMIT
	Repeats    int64 // transactions that were run again
}

// Stats returns the counters.
func (e *Engine) Stats() Stats {
	return Stats{
		Commits: e.stats.commits.Load(), Ops: e.stats.ops.Load(), Statements: e.stats.statements.Load(), Repeats: e.stats.repeats.Load(),
	}
}

// Open connects to the database, makes or upgrades its schema unless it is told not to, and starts the lanes. It fails with
// CodeConflict if a newer program made the schema.
func Open(ctx context.Context, cfg Config) (_ *Engine, err error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.PoolSize == 0 {
		cfg.PoolSize = 8
	}
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = 4 * time.Second
	}
	e := &Engine{cfg: cfg, log: cfg.Logger, mode: execModes[cfg.ExecMode], hints: newHints()}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	pool, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return nil, posthaste.Wrap(posthaste.CodeInvalid, "read the connection string", err)
	}
	pool.MaxConns = int32(cfg.PoolSize)
	// A read that meets a connection that died goes on with another one, so only those that rested for long are tried before.
	pool.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool { return p.IdleDuration > time.Minute }
	pool.ConnConfig.DefaultQueryExecMode = e.mode
	pool.ConnConfig.Tracer = cfg.trace
	if pool.ConnConfig.ConnectTimeout == 0 {
		pool.ConnConfig.ConnectTimeout = connectTimeout
	}
	e.conn = pool.ConnConfig.Copy()
	conn, err := pgx.ConnectConfig(ctx, e.conn.Copy())
	if err != nil {
		return nil, translate("connect to the database", err)
	}
	if cfg.NoMigrate {
		e.shards, err = checkSchema(ctx, conn)
	} else {
		e.shards, err = migrate(ctx, conn, cfg.Shards)
	}
	var channel string
	if err == nil {
		err = e.skew.probe(ctx, conn)
	}
	if err == nil && cfg.Listen {
		channel, err = channelOf(ctx, conn)
	}
	if err := errors.Join(err, conn.Close(ctx)); err != nil {
		return nil, translate("prepare the schema", err)
	}
	e.lookSQL, e.claimantsSQL = lookSQL(e.shards), claimantsSQL(e.shards)
	if e.pool, err = pgxpool.NewWithConfig(ctx, pool); err != nil {
		return nil, translate("connect to the database", err)
	}
	n := cfg.Lanes
	if n == 0 {
		n = min(e.shards, 4)
	}
	for i := range n {
		l := newLane(e, i)
		e.lanes = append(e.lanes, l)
		e.wg.Go(l.run)
	}
	ctx, e.stop = context.WithCancel(context.WithoutCancel(ctx))
	if cfg.Listen && !e.perTransaction() {
		e.wg.Go(func() { e.notify(ctx, channel) })
		e.wg.Go(func() { e.listen(ctx, channel) })
	}
	return e, nil
}

// now returns the time of an operation in a transaction that read the given one. It is later than that of every operation of
// this node before. Operations of other nodes that it can have seen are earlier, because the clock is read after the locks.
func (e *Engine) now(us int64) time.Time {
	if e.cfg.Clock != nil {
		us = e.cfg.Clock.Now().UnixMicro()
	}
	for {
		last := e.last.Load()
		if next := max(us, last+1); e.last.CompareAndSwap(last, next) {
			return time.UnixMicro(next).UTC()
		}
	}
}

func (e *Engine) hook(point string) {
	if e.cfg.Hook != nil {
		e.cfg.Hook(point)
	}
}

// Shards implements [store.Engine].
func (e *Engine) Shards() int { return e.shards }

// Migrate implements [store.Engine]. Open has done it; it may be done again.
func (e *Engine) Migrate(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, e.conn.Copy())
	if err != nil {
		return translate("connect to the database", err)
	}
	_, err = migrate(ctx, conn, e.cfg.Shards)
	return translate("prepare the schema", errors.Join(err, conn.Close(ctx)))
}

// Close carries out what was submitted and closes the connections. Calls after it fail with CodeUnavailable. Leases are not
// given up: that is for Leave.
func (e *Engine) Close() error {
	if e.closing.Swap(true) {
		return nil
	}
	for _, l := range e.lanes {
		l.close()
	}
	e.stop()
	e.wg.Wait()
	e.pool.Close()
	return nil
}
