package storetest

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
)

// blocker is an operation that waits in its decision: what is submitted meanwhile comes into one commit.
type blocker struct {
	began, end chan struct{}
	once       sync.Once
}

func newBlocker() *blocker { return &blocker{began: make(chan struct{}), end: make(chan struct{})} }

// Want implements [store.Op].
func (o *blocker) Want() *store.Want { return &store.Want{} }

// Decide implements [store.Op].
func (o *blocker) Decide(*store.View, *store.Changes) error {
	o.once.Do(func() { close(o.began) })
	<-o.end
	return nil
}

// together submits operations while the engine is busy, so that they fall into one commit, if the engine makes such. It
// returns their errors.
func (b *bed) together(ops ...store.Op) []error {
	b.Helper()
	block := newBlocker()
	b.Advance(time.Microsecond)
	var group sync.WaitGroup
	group.Go(func() {
		if err := b.Engine.Do(b.ctx(), 0, block); err != nil {
			b.Error(err)
		}
	})
	<-block.began
	errs := make([]error, len(ops))
	for i, op := range ops {
		group.Go(func() { errs[i] = b.Engine.Do(b.ctx(), 0, op) })
	}
	time.Sleep(5 * time.Millisecond) // so that most of them are submitted; nothing depends on it
	close(block.end)
	group.Wait()
	b.Advance(time.Duration(len(ops)) * time.Microsecond)
	return errs
}

func testBatch(b *bed) {
	q, k := b.queue("q"), b.flow("k")
	b.edit(0, q, func(g *store.Gate) { g.Parallelism = 3 })
	fc := withFlow(limits("k", 100, 100, time.Minute))
	no := errors.New("no")
	for round := range 10 {
		var ops []store.Op
		var good []*ledger.Accept
		wantErr := map[store.Op]func(error) bool{}
		for range 4 {
			a := b.acceptOp(manyRoom, b.draft(b.msg(inQueue("q"), fc), 0))
			good = append(good, a)
			// This one has changed gates in its view when it finds out that it is over the limit.
			over := b.acceptOp(manyRoom, b.draft(b.msg(inQueue("q"), fc), 0), b.draft(b.msg(inQueue("q"), fc), 0))
			over.DailyLimit, over.Day, over.Count = 1, store.DayOf(b.Now()), true
			wantErr[over] = func(err error) bool { return posthaste.CodeOf(err) == posthaste.CodeRateLimited }
			edit := &ledger.EditGate{Gate: k, Edit: func(_ time.Time, g *store.Gate) error {
				g.Parallelism, g.InUse, g.Paused = 1, 77, true
				return no
			}}
			wantErr[edit] = func(err error) bool { return errors.Is(err, no) }
			config := &ledger.Configure{
				Tenant: b.tenant, Keys: []store.ConfigKey{{Tenant: b.tenant, Kind: store.ConfigTenant}},
				Edit: func(_ time.Time, rows []*store.ConfigRow) ([]*store.ConfigRow, error) {
					rows[0].Value = []byte("changed")
					return rows, no
				},
			}
			wantErr[config] = wantErr[edit]
			ops = append(ops, over, a, edit, config)
		}
		notes := make([]store.Op, len(ops))
		for i, op := range ops {
			notes[i] = &noted{Op: op}
		}
		times := map[time.Time]bool{}
		for i, err := range b.together(notes...) {
			times[notes[i].(*noted).now] = true
			if want := wantErr[ops[i]]; want != nil && !want(err) || want == nil && err != nil {
				b.Fatalf("round %d: %T: got %v", round, ops[i], err)
			}
		}
		// What failed left nothing behind: counters are those of what succeeded.
		started := 0
		for _, a := range good {
			started += len(a.Started)
			for _, s := range a.Started {
				b.settle(0, s, delivered())
			}
		}
		for s := b.pump(manyRoom); len(s) > 0; s = b.pump(manyRoom) {
			for _, s := range s {
				started++
				b.settle(0, s, delivered())
			}
		}
		if started != len(good) {
			b.Errorf("round %d: got %d started, want %d", round, started, len(good))
		}
		b.wantGate(q, 0, 0, 0)
		b.wantGate(k, 0, 0, 0)
		if g := b.gate(k); g.Parallelism != 100 || g.Paused {
			b.Errorf("round %d: got limits %+v after edits that failed", round, g.State)
		}
		if n, err := b.Engine.Quota(b.ctx(), store.QuotaKey{Tenant: b.tenant, Day: store.DayOf(b.Now())}); err != nil || n != 0 {
			b.Errorf("round %d: got quota %d, %v; want 0", round, n, err)
		}
		if row, err := b.Engine.Config(b.ctx(), store.ConfigKey{Tenant: b.tenant, Kind: store.ConfigTenant}); err != nil || string(row.Value) != "{}" {
			b.Errorf("round %d: got configuration %+v, %v after edits that failed", round, row, err)
		}
		if len(times) != len(ops) {
			b.Errorf("round %d: got %d times of %d decisions, want each its own", round, len(times), len(ops))
		}
	}
}

func testBatchOrder(b *bed) {
	// In one commit: messages come to a queue and a key, others leave. Each operation must see those before it.
	b.edit(0, b.queue("q"), func(g *store.Gate) { g.Parallelism = 2 })
	fc := withFlow(limits("k", 3, 0, 0))
	var running []ledger.Start
	total, ended := 0, 0
	for range 30 {
		var ops []store.Op
		for i := range 5 {
			m := b.msg(fc)
			if i%2 == 0 {
				m = b.msg(inQueue("q"), withCallbacks(i == 0, false))
			}
			ops = append(ops, b.acceptOp(manyRoom, b.draft(m, 0)))
			total++
		}
		for _, s := range running {
			ops = append(ops, b.settleOp(manyRoom, s, delivered()))
			ended++
		}
		running = nil
		for i, err := range b.together(ops...) {
			b.check(err)
			out, _ := outcome(ops[i])
			running = append(running, out.Started...)
		}
		if g := b.gate(b.queue("q")); g.InUse > 2 {
			b.Fatalf("got %d slots of 2 in use", g.InUse)
		}
		if g := b.gate(b.flow("k")); g.InUse > 3 {
			b.Fatalf("got %d of 3 in flight", g.InUse)
		}
	}
	for n := 0; len(running) > 0 && n < 1000; n++ {
		op := b.settle(manyRoom, running[0], delivered())
		ended++
		running = append(running[1:], op.Started...)
		if len(running) == 0 {
			running = b.pump(manyRoom)
		}
	}
	list, err := b.Engine.MessageList(b.ctx(), b.tenant, "", store.Page{Limit: 1000})
	b.check(err)
	if tickets, err := b.Engine.TicketList(b.ctx(), b.tenant, "", 10); err != nil || len(tickets) > 0 || len(list) != ended {
		b.Errorf("got %d unresolved, %v, %d messages; want 0, and %d as were settled", len(tickets), err, len(list), ended)
	}
	if len(list) <= total {
		b.Errorf("got %d messages of %d and their callbacks", len(list), total)
	}
}

func testContext(b *bed) {
	block := newBlocker()
	var group sync.WaitGroup
	group.Go(func() {
		if err := b.Engine.Do(b.ctx(), 0, block); err != nil {
			b.Error(err)
		}
	})
	<-block.began
	cause := errors.New("gone")
	ctx, cancel := context.WithCancelCause(b.ctx())
	done := make(chan error, 1)
	op := b.acceptOp(0, b.draft(b.msg(), 0))
	group.Go(func() { done <- b.Engine.Do(ctx, 0, op) })
	cancel(cause)
	select {
	case err := <-done:
		if !errors.Is(err, cause) {
			b.Errorf("got %v, want the context's cause", err)
		}
	case <-time.After(10 * time.Second):
		b.Error("Do did not return when its context ended")
	}
	close(block.end)
	group.Wait()
	b.acceptStarted(b.msg())
	// The operation may have been carried out or not, but not by half.
	messages, err := b.Engine.MessageList(b.ctx(), b.tenant, "", store.Page{Limit: 10})
	b.check(err)
	tickets, err := b.Engine.TicketList(b.ctx(), b.tenant, "", 10)
	b.check(err)
	if len(messages) != len(tickets) || len(tickets) == 0 {
		b.Errorf("got %d messages, %d tickets", len(messages), len(tickets))
	}
}

func testTime(b *bed) {
	// Times are in UTC and whole microseconds. Each operation has its own, later than those before, also if the clock stands,
	// and also after a crash.
	var last time.Time
	for i := range 10 {
		op := &noted{Op: b.acceptOp(0, b.draft(b.msg(func(m *posthaste.Message) { m.Body = []byte(strconv.Itoa(i)) }), 0))}
		b.check(b.Engine.Do(b.ctx(), 0, op))
		if !op.now.After(last) || op.now.Location() != time.UTC || !op.now.Equal(op.now.Truncate(time.Microsecond)) {
			b.Errorf("got time %v after %v", op.now, last)
		}
		if last = op.now; i == 5 {
			b.Engine = b.Crash(b)
		}
		if i > 6 {
			b.Advance(1500 * time.Nanosecond)
		}
	}
	list, err := b.Engine.MessageList(b.ctx(), b.tenant, "", store.Page{Limit: 100})
	b.check(err)
	if !slices.IsSortedFunc(list, func(x, y *posthaste.Message) int { return int(x.Body[0]) - int(y.Body[0]) }) {
		b.Error("ids do not sort in the order of commits")
	}
}
