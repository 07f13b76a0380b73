// Package storetest holds an engine of package store to its contract, together with the operations of package ledger:
//
//   - [Run]: what is promised, guarantee by guarantee.
//   - [RunConcurrent]: many goroutines at once; nothing is claimed twice, nothing is lost, no limit is passed.
//   - [RunModel]: random histories with crashes, checked step by step against a model that knows only the rules.
//   - [Benchmark]: what groups of submitters get through.
//
// An engine calls them from one short test, with a function that opens it. The suites create what they need under tenants
// of their own, and make no assumption on the number of shards.
package storetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
)

// Harness is an engine under test: migrated and empty.
type Harness struct {
	Engine store.Engine
	// Now is the time by which the engine decides, and Advance moves it forward. It need not stand still in between. If it
	// does, the suites move it by a microsecond for each operation, so that it is not behind View.Now.
	Now     func() time.Time
	Advance func(d time.Duration)
	// Crash drops the engine without a clean close and opens the same data again, as after the death of the process. What
	// was in the middle of a commit may be there or not. It returns the new engine; whoever opened the first one closes
	// that, too. Operations under way on the old engine may fail.
	Crash func(tb testing.TB) store.Engine
	// CrashIn is like Crash, at some moment while the engine carries out an operation that nothing runs beside. It may be nil.
	CrashIn func(tb testing.TB, op store.Op) store.Engine
	// OneNode says that one node at a time can join.
	OneNode bool
}

// Clock is a clock that stands still until it is moved. It may serve as the time of an engine under test.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock that shows some moment of the past.
func NewClock() *Clock { return &Clock{now: time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC)} }

// Now returns the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock forward.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// bed is an engine with a tenant and a node, and short words for what tests do to them. Its methods end the test when
// something fails that cannot fail.
type bed struct {
	testing.TB
	*Harness
	nonces *ledger.Nonces
	tenant posthaste.TenantID
	node   store.NodeEpoch
	shards int
}

// manyRoom is the room of a node that is not to be a limit.
const manyRoom = 1000

func newBed(tb testing.TB, open func(testing.TB) *Harness) *bed {
	tb.Helper()
	h := open(tb)
	b := &bed{TB: tb, Harness: h, nonces: ledger.NewNonces(), tenant: 1, shards: h.Engine.Shards()}
	b.addTenant(1)
	b.node = b.join("a")
	return b
}

// on returns the bed under another test, usually a subtest.
func (b *bed) on(tb testing.TB) *bed {
	c := *b
	c.TB = tb
	return &c
}

func (b *bed) ctx() context.Context { return b.Context() }

func (b *bed) check(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// do carries out an operation that must succeed.
func (b *bed) do(op store.Op) {
	b.Helper()
	if err := b.submit(op); err != nil {
		b.Fatalf("%T: %v", op, err)
	}
}

// submit carries out an operation and returns its error.
func (b *bed) submit(op store.Op) error {
	b.Advance(time.Microsecond)
	n := &noted{Op: op}
	err := b.Engine.Do(b.ctx(), 0, n)
	b.catchUp(n.now)
	return err
}

// catchUp moves the clock to a moment that an operation has seen already.
func (h *Harness) catchUp(now time.Time) {
	if d := now.Sub(h.Now()); d > 0 && !now.IsZero() {
		h.Advance(d)
	}
}

// noted is an operation that notes when it decided.
type noted struct {
	store.Op
	now time.Time
}

// Decide implements [store.Op].
func (o *noted) Decide(v *store.View, c *store.Changes) error {
	o.now = v.Now
	return o.Op.Decide(v, c)
}

// Size implements [store.Sized].
func (o *noted) Size() int {
	if s, ok := o.Op.(store.Sized); ok {
		return s.Size()
	}
	return 0
}

// addTenant makes a tenant known.
func (b *bed) addTenant(id posthaste.TenantID) {
	b.Helper()
	b.do(&ledger.Configure{
		Tenant: id, Keys: []store.ConfigKey{{Tenant: id, Kind: store.ConfigTenant}},
		Edit: func(_ time.Time, rows []*store.ConfigRow) ([]*store.ConfigRow, error) {
			rows[0] = &store.ConfigRow{Value: []byte("{}")}
			return rows, nil
		},
	})
}

func (b *bed) join(name string) store.NodeEpoch {
	b.Helper()
	b.Advance(time.Microsecond)
	l, err := b.Engine.Join(b.ctx(), store.NodeInfo{Name: name, TTL: time.Hour})
	b.check(err)
	return l.NodeEpoch
}

// with returns the bed's node with so much room.
func (b *bed) with(room int) ledger.Node { return ledger.Node{NodeEpoch: b.node, Room: room} }

func (b *bed) queue(name string) store.GateRef {
	return store.NewGateRef(b.shards, b.tenant, store.KindQueue, name)
}

func (b *bed) flow(key string) store.GateRef {
	return store.NewGateRef(b.shards, b.tenant, store.KindFlow, key)
}

func (b *bed) tenantGate() store.GateRef {
	return store.NewGateRef(b.shards, b.tenant, store.KindTenant, "")
}

// msg returns a plain message. edits change it.
func (b *bed) msg(edits ...func(*posthaste.Message)) *posthaste.Message {
	m := &posthaste.Message{
		Tenant: b.tenant, URL: "https://example.com/hook", Method: "POST", Body: []byte("body"),
		Header: posthaste.Header{"Content-Type": {"text/plain"}}, RetryDelay: "1000",
	}
	for _, edit := range edits {
		edit(m)
	}
	return m
}

func inQueue(name string) func(*posthaste.Message) {
	return func(m *posthaste.Message) { m.Queue = name }
}

func withFlow(fc ...posthaste.FlowControl) func(*posthaste.Message) {
	return func(m *posthaste.Message) { m.Flow = fc }
}

func withRetries(n int) func(*posthaste.Message) {
	return func(m *posthaste.Message) { m.MaxRetries = n }
}

func withPriority(n int) func(*posthaste.Message) {
	return func(m *posthaste.Message) { m.Priority = n }
}

func withCallbacks(success, failure bool) func(*posthaste.Message) {
	return func(m *posthaste.Message) {
		if success {
			m.Callback = &posthaste.Callback{URL: "https://example.com/callback"}
		}
		if failure {
			m.FailureCallback = &posthaste.Callback{URL: "https://example.com/failure"}
		}
	}
}

// draft offers a message for acceptance after a delay.
func (b *bed) draft(m *posthaste.Message, delay time.Duration) *ledger.Draft {
	d := &ledger.Draft{Nonce: b.nonces.Next(), Path: ledger.PathOf(m, b.shards, false)}
	d.Message, d.Delay = m, delay
	return d
}

// acceptOp returns the acceptance of drafts by a node with so much room.
func (b *bed) acceptOp(room int, drafts ...*ledger.Draft) *ledger.Accept {
	return &ledger.Accept{Tenant: b.tenant, Shards: b.shards, Drafts: drafts, Node: b.with(room)}
}

// accept stores messages, one operation each, on a node with so much room, and returns their ids and what started.
func (b *bed) accept(room int, msgs ...*posthaste.Message) (ids []posthaste.MessageID, started []ledger.Start) {
	b.Helper()
	for _, m := range msgs {
		op := b.acceptOp(room, b.draft(m, m.Delay))
		b.do(op)
		ids = append(ids, op.Drafts[0].ID)
		started = append(started, op.Started...)
	}
	return ids, started
}

// acceptMany stores so many messages, one operation each, on a node with room for all.
func (b *bed) acceptMany(n int, edits ...func(*posthaste.Message)) (ids []posthaste.MessageID, started []ledger.Start) {
	b.Helper()
	for range n {
		i, s := b.accept(manyRoom, b.msg(edits...))
		ids, started = append(ids, i...), append(started, s...)
	}
	return ids, started
}

// acceptOne stores a message.
func (b *bed) acceptOne(room int, m *posthaste.Message) posthaste.MessageID {
	b.Helper()
	ids, _ := b.accept(room, m)
	return ids[0]
}

// acceptStarted stores a message that must start at once.
func (b *bed) acceptStarted(m *posthaste.Message) ledger.Start {
	b.Helper()
	_, started := b.accept(manyRoom, m)
	if len(started) != 1 || started[0].Ticket.ID != m.ID {
		b.Fatalf("got %d started on acceptance of %s, want itself", len(started), m.ID)
	}
	return started[0]
}

func delivered() *ledger.Result {
	return &ledger.Result{Outcome: posthaste.OutcomeDelivered, Status: 200, Body: []byte("ok"), Took: time.Millisecond}
}

func failed() *ledger.Result {
	return &ledger.Result{
		Outcome: posthaste.OutcomeStatus, Status: 500, Error: "500 Internal Server Error", Body: []byte("no"), Took: time.Millisecond,
		Header: posthaste.Header{"Content-Type": {"text/plain"}},
	}
}

func refused() *ledger.Result {
	return &ledger.Result{Outcome: posthaste.OutcomeNonRetryable, Status: 489, Error: "489", Took: time.Millisecond}
}

// settleOp returns the settlement of a start by a node with so much room.
func (b *bed) settleOp(room int, s ledger.Start, r *ledger.Result) *ledger.Settle {
	b.Helper()
	m := s.Message
	if m == nil {
		m = b.message(s.Ticket.ID)
	}
	return &ledger.Settle{
		Ticket: s.Ticket, Message: m, Result: r, Shards: b.shards, Node: b.with(room),
		Nonces: [3]posthaste.Nonce{b.nonces.Next(), b.nonces.Next(), b.nonces.Next()},
	}
}

// settle records a result that must count, and returns what started in the room it freed.
func (b *bed) settle(room int, s ledger.Start, r *ledger.Result) *ledger.Settle {
	b.Helper()
	op := b.settleOp(room, s, r)
	b.do(op)
	if op.Lost {
		b.Fatalf("settle %s with fence %d: the claim is lost", s.Ticket.ID, s.Ticket.Fence)
	}
	return op
}

// message reads a message that must exist.
func (b *bed) message(id posthaste.MessageID) *posthaste.Message {
	b.Helper()
	m, err := b.Engine.Message(b.ctx(), b.tenant, id)
	b.check(err)
	if m == nil {
		b.Fatalf("message %s is not stored", id)
	}
	return m
}

// ticket reads a ticket; nil if there is none.
func (b *bed) ticket(id posthaste.MessageID) *store.Ticket {
	b.Helper()
	t, err := b.Engine.Ticket(b.ctx(), id)
	b.check(err)
	return t
}

// phase returns the phase a message is in, PhaseNone if it is resolved.
func (b *bed) phase(id posthaste.MessageID) posthaste.Phase {
	b.Helper()
	if t := b.ticket(id); t != nil {
		return t.Phase
	}
	return posthaste.PhaseNone
}

// wantPhase checks the phase of messages.
func (b *bed) wantPhase(want posthaste.Phase, ids ...posthaste.MessageID) {
	b.Helper()
	for i, id := range ids {
		if got := b.phase(id); got != want {
			b.Errorf("message %d (%s): got phase %v, want %v", i, id, got, want)
		}
	}
}

// gate reads a gate; a zero one if it is not stored.
func (b *bed) gate(ref store.GateRef) *store.Gate {
	b.Helper()
	g, err := b.Engine.Gate(b.ctx(), ref)
	b.check(err)
	if g == nil {
		g = &store.Gate{GateRef: ref}
	}
	return g
}

// edit changes a gate, with a node of so much room.
func (b *bed) edit(room int, ref store.GateRef, edit func(g *store.Gate)) *ledger.EditGate {
	b.Helper()
	heads, err := b.Engine.Heads(b.ctx(), ref, 10)
	b.check(err)
	op := &ledger.EditGate{Gate: ref, Node: b.with(room), Edit: func(now time.Time, g *store.Gate) error {
		if g.CreatedAt.IsZero() {
			g.CreatedAt = now
		}
		g.UpdatedAt = now
		edit(g)
		return nil
	}}
	op.Heads = heads
	b.do(op)
	return op
}

// cancel reads tickets and cancels them.
func (b *bed) cancel(room int, ids ...posthaste.MessageID) *ledger.Cancel {
	b.Helper()
	op := &ledger.Cancel{Node: b.with(room)}
	for _, id := range ids {
		if t := b.ticket(id); t != nil {
			op.Known = append(op.Known, t)
		}
	}
	b.do(op)
	return op
}

// pump carries on everything that is due, as the dispatcher of a node with so much room does, until nothing moves any more.
// It returns what started.
func (b *bed) pump(room int) []ledger.Start {
	b.Helper()
	var started []ledger.Start
	p := pump{engine: b.Engine, now: b.Now, do: b.submit}
	err := p.run(b.ctx(), func() ledger.Node { return b.with(room - len(started)) }, func(s []ledger.Start) {
		started = append(started, s...)
	})
	b.check(err)
	return started
}

// pump finds work by the unlocked readings and carries it on.
type pump struct {
	engine store.Engine
	now    func() time.Time
	do     func(op store.Op) error
}

// pumpRounds bounds a pump: whatever is due is done long before, or something turns in circles.
const pumpRounds = 500

// run works until there is nothing left that a node with this much room can do.
func (p *pump) run(ctx context.Context, node func() ledger.Node, started func([]ledger.Start)) error {
	for range pumpRounds {
		moved, err := p.round(ctx, node, started)
		if err != nil || !moved {
			return err
		}
	}
	return fmt.Errorf("work does not come to an end after %d rounds", pumpRounds)
}

// round carries out once what the store says is due, and reports whether anything moved.
func (p *pump) round(ctx context.Context, node func() ledger.Node, started func([]ledger.Start)) (moved bool, err error) {
	due, err := p.engine.NextDue(ctx)
	if err != nil {
		return false, err
	}
	for _, d := range due {
		now := p.now()
		if !d.Tickets.IsZero() && !d.Tickets.After(now) {
			ripe := &store.Ripe{Shard: d.Shard, Before: now, Limit: 20, PerTenant: 20}
			op := &ledger.Claim{Ripe: ripe, Node: node()}
			if err := p.do(op); err != nil {
				return false, err
			}
			started(op.Started)
			moved = moved || op.Taken > 0
			if len(op.Unnamed) > 0 {
				known := &ledger.Claim{Known: op.Unnamed, Node: node()}
				if err := p.do(known); err != nil {
					return false, err
				}
				started(known.Started)
				moved = moved || known.Taken > 0
			}
		}
		awake, err := p.engine.Awake(ctx, d.Shard, now, 20)
		if err != nil {
			return false, err
		}
		for _, t := range awake {
			m, err := p.admit(ctx, t.ParkedAt, node, started)
			if err != nil {
				return false, err
			}
			moved = moved || m
		}
	}
	return moved, nil
}

// admit starts what a gate has room for, and goes on where that leads. It reports whether anything moved.
func (p *pump) admit(ctx context.Context, ref store.GateRef, node func() ledger.Node, started func([]ledger.Start)) (moved bool, err error) {
	todo := []store.GateRef{ref}
	for n := 0; len(todo) > 0; n++ {
		if n == pumpRounds {
			return moved, fmt.Errorf("gate %v: admitting does not come to an end after %d rounds", ref, n)
		}
		gate := todo[0]
		todo = todo[1:]
		before, err := p.engine.Heads(ctx, gate, 5)
		if err != nil {
			return moved, err
		}
		op := &ledger.Admit{Gate: gate, Heads: before, Node: node()}
		if err := p.do(op); err != nil {
			return moved, err
		}
		started(op.Started)
		todo = append(todo, op.Next...)
		after, err := p.engine.Heads(ctx, gate, 5)
		if err != nil {
			return moved, err
		}
		moved = moved || len(op.Started) > 0 || len(before) != len(after)
		for i := 0; !moved && i < len(before); i++ {
			moved = before[i].ID != after[i].ID || !before[i].Due.Equal(after[i].Due)
		}
	}
	return moved, nil
}

// ids returns the ids of starts in their order.
func ids(started []ledger.Start) []posthaste.MessageID {
	var out []posthaste.MessageID
	for _, s := range started {
		out = append(out, s.Ticket.ID)
	}
	return out
}
