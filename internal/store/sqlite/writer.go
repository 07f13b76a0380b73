package sqlite

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
)

const (
	maxBatchOps  = 2048
	maxBatchSize = 4 << 20   // bytes, as operations tell
	largeOp      = 256 << 10 // an operation of so many bytes is a commit of its own
)

// A call is an operation on its way through the writer. Who made it owns it until it is queued, the writer until it sends
// on done, and then again who made it.
type call struct {
	op   store.Op
	step func(*writer) error // in place of op: work of the engine itself
	size int
	err  error
	done chan struct{}
}

// newCall returns a call that is not in use. They are pooled by engine: one must not wander into another engine, which may
// belong to another bubble of a test.
func (e *Engine) newCall() *call {
	if c, ok := e.calls.Get().(*call); ok {
		return c
	}
	return &call{done: make(chan struct{}, 1)}
}

// Do implements [store.Engine]. There is one lane.
func (e *Engine) Do(ctx context.Context, _ int, op store.Op) error {
	c := e.newCall()
	c.op = op
	if s, ok := op.(store.Sized); ok {
		c.size = s.Size()
	}
	return e.submit(ctx, c)
}

// step runs f on the writer's goroutine within the next commit. It obeys the rules of an operation: what it wrote is undone
// when it fails.
func (e *Engine) step(ctx context.Context, f func(*writer) error) error {
	c := e.newCall()
	c.step = f
	return e.submit(ctx, c)
}

// submit queues a call and waits for it.
func (e *Engine) submit(ctx context.Context, c *call) error {
	e.mu.Lock()
	if e.closing {
		e.mu.Unlock()
		return errClosed
	}
	e.queue = append(e.queue, c)
	if len(e.queue) == 1 {
		e.wake.Signal()
	}
	e.mu.Unlock()

	if stop := ctx.Done(); stop == nil {
		<-c.done
	} else {
		select {
		case <-c.done:
		case <-stop:
			// The writer still has the call, which therefore is not used again.
			return context.Cause(ctx)
		}
	}
	err := c.err
	*c = call{done: c.done}
	e.calls.Put(c)
	return err
}

// A writer owns the one connection that writes. Everything in it belongs to its goroutine.
type writer struct {
	e *Engine
	*queries
	saves
	trims
	opens

	begin, commit, rollback, restartLog stmt

	view    store.View
	changes store.Changes
	batch   []*call
	hint    time.Time // the earliest moment for which the batch made work
	lastEnd int64     // of the WAL, after the last batch

	// Caches of the batch. Nothing is kept from batch to batch, because another process may write in between.
	versions map[posthaste.TenantID]int64
	gates    map[store.GateRef]*cachedGate
	dirty    int // gates to be written before the commit
}

// A cachedGate is the state of a gate within a batch. Hot gates are named by many operations of one batch; they are read
// and written once.
type cachedGate struct {
	store.Gate
	found bool
	dirty bool
}

// run is the writer's goroutine. Operations that arrive while it commits are the next batch; so batches are as large as
// the load makes them, and nothing waits when there is none.
func (w *writer) run() {
	e := w.e
	for {
		// Those whom the last batch answered, and others who are ready to run, may submit first. Else the next batch would be
		// the few who were faster than the writer. When nobody is ready, this takes no time.
		runtime.Gosched()
		e.mu.Lock()
		for len(e.queue) == 0 && !e.closing {
			e.wake.Wait()
		}
		if len(e.queue) == 0 {
			e.mu.Unlock()
			return
		}
		n, size := 0, 0
		for n < len(e.queue) && n < maxBatchOps {
			s := e.queue[n].size
			if n > 0 && (s >= largeOp || size+s > maxBatchSize) {
				break
			}
			n++
			if size += s; s >= largeOp {
				break
			}
		}
		w.batch = append(w.batch[:0], e.queue[:n]...)
		rest := copy(e.queue, e.queue[n:])
		clear(e.queue[rest:])
		e.queue = e.queue[:rest]
		e.mu.Unlock()

		w.carryOut(w.batch)
		e.hook("before-answer")
		for i, c := range w.batch {
			w.batch[i] = nil
			c.done <- struct{}{}
		}
		w.afterCommit()
	}
}

// carryOut decides and writes the batch and sets the error of every call.
func (w *writer) carryOut(batch []*call) {
	err := w.try(batch)
	if err == nil {
		return
	}
	// Nothing of the batch is stored. If the fault is that of an operation, it alone fails.
	if len(batch) > 1 && !broken(err) {
		for i := range batch {
			if err = w.try(batch[i : i+1]); err == nil {
				continue
			}
			if broken(err) {
				batch = batch[i:]
				break
			}
			batch[i].err = translate("write to the store", err)
		}
		if !broken(err) {
			return
		}
	}
	err = translate("write to the store", err)
	for _, c := range batch {
		c.err = err
	}
}

// try carries out a batch in one transaction. Errors of single operations are theirs; an error of try means that the
// transaction was undone.
func (w *writer) try(batch []*call) error {
	begin := time.Now()
	if err := w.begin.run(); err != nil {
		return w.undo(err)
	}
	clear(w.versions)
	clear(w.gates)
	w.dirty, w.hint = 0, time.Time{}
	if err := w.beginBatch(); err != nil {
		return w.undo(err)
	}
	for _, c := range batch {
		w.view.Now = w.e.now()
		var err error
		if c.err, err = w.apply(c); err != nil {
			return w.undo(err)
		}
	}
	if err := w.flushGates(); err != nil {
		return w.undo(err)
	}
	w.e.hook("before-commit")
	if err := w.commit.run(); err != nil {
		return w.undo(err)
	}
	w.endBatch(true)
	w.e.hook("after-commit")
	w.e.stats.commits.Add(1)
	w.e.stats.ops.Add(int64(len(batch)))
	if w.e.cfg.Committed != nil {
		w.e.cfg.Committed(len(batch), time.Since(begin))
	}
	if !w.hint.IsZero() {
		w.e.sendHint(w.hint)
	}
	return nil
}

// undo ends a transaction in which err happened. SQLite has ended it already after the worst of them.
func (w *writer) undo(err error) error {
	w.endBatch(false)
	if w.e.cfg.CommitFailed != nil {
		w.e.cfg.CommitFailed()
	}
	if !w.c.AutocommitEnabled() {
		if e := w.rollback.run(); e != nil {
			w.e.log.Error("roll back", "error", e)
		}
	}
	return err
}

// apply carries out one call within the transaction. The first error is the call's own: it has changed nothing. The second
// one spoils the transaction.
func (w *writer) apply(c *call) (own, fatal error) {
	deciding := false
	defer func() {
		if r := recover(); r != nil {
			err := posthaste.Errorf(posthaste.CodeInternal, "an operation panicked")
			err.Err = fmt.Errorf("%v\n%s", r, debug.Stack())
			w.e.log.Error("panic in an operation", "error", err)
			if own, fatal = err, nil; !deciding {
				fatal = err
			}
		}
	}()
	if c.step != nil {
		return nil, c.step(w)
	}
	deciding = true // until it is known what to write, a panic leaves no trace
	if err := w.load(c.op.Want()); err != nil {
		if broken(err) {
			return nil, err
		}
		return translate("read from the store", err), nil
	}
	w.changes.Reset()
	if err := c.op.Decide(&w.view, &w.changes); err != nil {
		return err, nil
	}
	deciding = false
	return nil, w.save(&w.changes)
}

// load fills the view with what an operation wants.
func (w *writer) load(want *store.Want) error {
	w.c.rows, w.c.next = w.c.rows[:0], 0
	v := &w.view
	*v = store.View{
		Now: v.Now, Versions: v.Versions[:0], Config: reuse(v.Config), Quota: v.Quota[:0], Dedup: reuse(v.Dedup),
		Gates: reuse(v.Gates), Heads: v.Heads[:0], Slots: reuse(v.Slots), Dead: reuse(v.Dead), Tickets: reuse(v.Tickets),
		Ripe: reuse(v.Ripe),
	}
	for _, id := range want.Tenants {
		n, ok := w.versions[id]
		if !ok {
			var err error
			if n, err = w.readVersion(id); err != nil {
				return err
			}
			w.versions[id] = n
		}
		v.Versions = append(v.Versions, n)
	}
	for _, k := range want.Config {
		row, err := w.readConfig(k)
		if err != nil {
			return err
		}
		v.Config = append(v.Config, row)
	}
	for _, k := range want.Quota {
		n, err := w.readQuota(k)
		if err != nil {
			return err
		}
		v.Quota = append(v.Quota, n)
	}
	if want.Tick != nil {
		var err error
		if v.Tick, err = w.readTick(*want.Tick); err != nil {
			return err
		}
	}
	for _, k := range want.Dedup {
		d, err := w.readDedup(k)
		if err != nil {
			return err
		}
		v.Dedup = append(v.Dedup, d)
	}
	for i := range want.Gates {
		g, err := w.loadGate(want.Gates[i])
		if err != nil {
			return err
		}
		v.Gates = append(v.Gates, g)
		if len(v.Heads) < cap(v.Heads) {
			v.Heads = v.Heads[:i+1]
		} else {
			v.Heads = append(v.Heads, nil)
		}
		v.Heads[i] = reuse(v.Heads[i])
		if want.Heads > 0 {
			if v.Heads[i], err = w.readHeads(v.Heads[i], &want.Gates[i], want.Heads); err != nil {
				return err
			}
		}
	}
	for i := range want.Slots {
		s, err := w.readSlot(want.Slots[i])
		if err != nil {
			return err
		}
		v.Slots = append(v.Slots, s)
	}
	for _, k := range want.Dead {
		d, err := w.readDead(k)
		if err != nil {
			return err
		}
		v.Dead = append(v.Dead, d)
	}
	for _, id := range want.Tickets {
		t, err := w.loadTicket(id)
		if err != nil {
			return err
		}
		v.Tickets = append(v.Tickets, t)
	}
	if want.Ripe != nil {
		var err error
		if v.Ripe, w.ripeAfter, err = w.readRipe(v.Ripe, want.Ripe, w.ripeAfter); err != nil {
			return err
		}
	}
	return nil
}

// reuse empties a slice without keeping what its elements point to.
func reuse[T any](s []T) []T {
	clear(s)
	return s[:0]
}

// loadGate returns a copy of a gate, as it is after the operations before this one in the batch.
func (w *writer) loadGate(ref store.GateRef) (*store.Gate, error) {
	c := w.gates[ref]
	if c == nil {
		g, err := w.readGate(ref)
		if err != nil {
			return nil, err
		}
		c = new(cachedGate)
		if g != nil {
			c.Gate, c.found = *g, true
		}
		w.gates[ref] = c
	}
	if !c.found {
		return nil, nil
	}
	g := c.Gate
	return &g, nil
}

// flushGates writes the gates that the batch changed.
func (w *writer) flushGates() error {
	if w.dirty == 0 {
		return nil
	}
	for _, c := range w.gates {
		if c.dirty {
			c.dirty = false
			if err := w.saveGate(&c.Gate); err != nil {
				return err
			}
		}
	}
	w.dirty = 0
	return nil
}
