package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
)

const (
	maxBatchOps  = 512
	maxBatchSize = 4 << 20   // bytes, as operations tell
	largeOp      = 256 << 10 // an operation of so many bytes is a commit of its own
	maxRepeats   = 20
)

// A call is an operation on its way through a lane. The lane owns it from when it is queued until it closes done.
type call struct {
	op   store.Op
	size int
	err  error
	done chan struct{}
}

// A lane carries out operations, a batch at a time, on one connection. What is not under mu belongs to its goroutine.
type lane struct {
	e    *Engine
	part int16 // of the quota rows that this lane raises without a lock
	ripe rotation

	conn *pgx.Conn // nil: to be made

	mu      sync.Mutex
	wake    sync.Cond // the queue is no longer empty, or closing is set
	queue   []*call
	closing bool
}

func newLane(e *Engine, n int) *lane {
	// Lanes of different nodes may share a part by chance; then they wait for each other at the very end of their
	// transactions, which does no harm.
	l := &lane{e: e, part: int16(1 + (rand.IntN(16)*8+n)%128)}
	l.wake.L = &l.mu
	return l
}

// Do implements [store.Engine].
func (e *Engine) Do(ctx context.Context, n int, op store.Op) error {
	c := &call{op: op, done: make(chan struct{})}
	if s, ok := op.(store.Sized); ok {
		c.size = s.Size()
	}
	l := e.lanes[uint(n)%uint(len(e.lanes))]
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		return errClosed
	}
	l.queue = append(l.queue, c)
	if len(l.queue) == 1 {
		l.wake.Signal()
	}
	l.mu.Unlock()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *lane) close() {
	l.mu.Lock()
	l.closing = true
	l.wake.Signal()
	l.mu.Unlock()
}

// run is the lane's goroutine.
func (l *lane) run() {
	defer l.disconnect()
	var batch []*call
	for {
		l.mu.Lock()
		for len(l.queue) == 0 && !l.closing {
			l.wake.Wait()
		}
		if len(l.queue) == 0 {
			l.mu.Unlock()
			return
		}
		n, size := 0, 0
		for n < len(l.queue) && n < maxBatchOps {
			s := l.queue[n].size
			if n > 0 && (s >= largeOp || size+s > maxBatchSize) {
				break
			}
			n++
			if size += s; s >= largeOp {
				break
			}
		}
		batch = append(batch[:0], l.queue[:n]...)
		l.mu.Unlock()

		n = l.carryOut(batch)
		l.e.hook("before-answer")

		l.mu.Lock()
		rest := copy(l.queue, l.queue[n:])
		clear(l.queue[rest:])
		l.queue = l.queue[:rest]
		l.mu.Unlock()
		for _, c := range batch[:n] {
			close(c.done)
		}
		clear(batch)
	}
}

// carryOut decides and writes a batch, or the first part of it, and sets the errors of the calls. It returns how many calls
// are done with; that is at least one.
func (l *lane) carryOut(batch []*call) int {
	var err error
	for n, fresh := 0, false; n < maxRepeats; n++ {
		var done int
		if done, err = l.try(batch); err == nil {
			return done
		}
		if l.e.cfg.CommitFailed != nil {
			l.e.cfg.CommitFailed()
		}
		if l.conn != nil && l.conn.IsClosed() {
			l.disconnect()
		}
		switch faultOf(err) {
		case faultAgain:
			l.e.stats.repeats.Add(1)
			if n > 2 {
				time.Sleep(time.Duration(rand.IntN(n)) * time.Millisecond)
			}
			continue
		case faultServer:
			l.disconnect()
			// A connection that was idle may have died long ago. Nothing was committed, so a new one may try once.
			if !fresh {
				fresh = true
				continue
			}
		case faultData:
			if len(batch) == 1 {
				break
			}
			for i := range batch {
				l.carryOut(batch[i : i+1])
			}
			return len(batch)
		case faultUnknown:
			l.disconnect()
		case faultOther:
		}
		break
	}
	err = translate("write to the store", err)
	for _, c := range batch {
		c.err = err
	}
	return len(batch)
}

func (l *lane) disconnect() {
	if l.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	l.conn.Close(ctx) //nolint:errcheck // there is nothing to lose
	l.conn = nil
}

// perTransaction reports whether the session's settings must be made in each transaction, because the session may be
// another one each time.
func (e *Engine) perTransaction() bool {
	return e.mode == pgx.QueryExecModeExec || e.mode == pgx.QueryExecModeSimpleProtocol
}

// A commit is durable when it is answered, even if the database's default is otherwise. Every statement of a lane finds its rows
// by their keys. A planner that last saw a table empty, or that does not know how few keys come, would rather walk through it; and
// tables like slots are much longer than what lives in them.
const settings = `SELECT set_config('idle_in_transaction_session_timeout', $1::text, $2::boolean),
	set_config('enable_seqscan', 'off', $2::boolean), set_config('enable_hashjoin', 'off', $2::boolean), set_config('enable_mergejoin', 'off', $2::boolean),
	CASE WHEN current_setting('synchronous_commit') IN ('off', 'local') THEN set_config('synchronous_commit', 'on', $2::boolean) END`

func (l *lane) connect(ctx context.Context) error {
	if l.conn != nil {
		return nil
	}
	conn, err := pgx.ConnectConfig(ctx, l.e.conn.Copy())
	if err != nil {
		return err
	}
	if !l.e.perTransaction() {
		if _, err := conn.Exec(ctx, settings, l.e.idleTimeout(), false); err != nil {
			conn.Close(ctx) //nolint:errcheck // err says more
			return err
		}
	}
	l.conn = conn
	return nil
}

func (e *Engine) idleTimeout() string { return fmt.Sprint(e.cfg.IdleTimeout.Milliseconds()) }

// try carries out a batch in one transaction. Errors of single operations are theirs; an error of try means that nothing was
// written. It returns how many operations were decided.
func (l *lane) try(batch []*call) (done int, err error) {
	begun := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), tripTimeout)
	defer cancel()
	if err := l.connect(ctx); err != nil {
		return 0, err
	}
	t := newTransaction(l, batch)
	if err := t.candidates(ctx); err != nil {
		return 0, err
	}
	if err := t.load(ctx); err != nil {
		l.rollback(ctx)
		if errors.Is(err, errAbsent) && l.conn != nil {
			if e := t.insertAbsent(ctx); e != nil {
				return 0, e
			}
		}
		return 0, err
	}
	for i, c := range batch {
		if !t.enough(c.op.Want()) {
			break // it goes into the next transaction, which reads more
		}
		t.now = l.e.now(t.us)
		c.err = t.decide(i)
		done++
	}
	t.keepTime()
	// The operations may have taken their time; the second trip has its own.
	ctx, again := context.WithTimeout(context.Background(), tripTimeout)
	defer again()
	l.e.hook("before-commit")
	if err := t.save(ctx); err != nil {
		l.rollback(ctx)
		return 0, err
	}
	l.e.hook("after-commit")
	t.made()
	l.e.stats.commits.Add(1)
	l.e.stats.ops.Add(int64(done))
	if l.e.cfg.Committed != nil {
		l.e.cfg.Committed(done, time.Since(begun))
	}
	return done, nil
}

// keepTime lets the time of the last operation pass before the commit, so that whoever sees the changes reads a later one. Only
// a batch of operations that took less than a microsecond each has to wait.
func (t *transaction) keepTime() {
	if t.e.cfg.Clock != nil {
		return
	}
	if ahead := time.Duration(t.now.UnixMicro()-t.us)*time.Microsecond - time.Since(t.read); ahead > 0 {
		time.Sleep(min(ahead, time.Second))
	}
}

// rollback ends a transaction that came to nothing. If it cannot, the connection is of no use any more.
func (l *lane) rollback(ctx context.Context) {
	if l.conn == nil || l.conn.IsClosed() {
		return
	}
	if _, err := l.conn.Exec(ctx, "ROLLBACK", pgx.QueryExecModeSimpleProtocol); err != nil {
		l.disconnect()
	}
}

// decide lets an operation decide on what the transaction knows, and adds its changes to it.
func (t *transaction) decide(i int) (err error) {
	deciding := true
	defer func() {
		if r := recover(); r != nil {
			if !deciding {
				panic(r)
			}
			e := posthaste.Errorf(posthaste.CodeInternal, "an operation panicked")
			e.Err = fmt.Errorf("%v\n%s", r, debug.Stack())
			t.l.e.log.Error("panic in an operation", "error", e)
			err = e
		}
	}()
	var c store.Changes
	if err := t.batch[i].op.Decide(t.view(i), &c); err != nil {
		return err
	}
	deciding = false
	return t.merge(&c)
}
