package storetest

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
)

// one pumps and returns the single attempt that must start.
func (b *bed) one() ledger.Start {
	b.Helper()
	got := b.pump(manyRoom)
	if len(got) != 1 {
		b.Fatalf("got %d started, want 1", len(got))
	}
	return got[0]
}

// none pumps and checks that nothing starts.
func (b *bed) none(when string) {
	b.Helper()
	if got := b.pump(manyRoom); len(got) > 0 {
		b.Fatalf("%s: got %v started, want none", when, ids(got))
	}
}

func (b *bed) attempts(id posthaste.MessageID) []*posthaste.Attempt {
	b.Helper()
	list, err := b.Engine.Attempts(b.ctx(), b.tenant, id)
	b.check(err)
	return list
}

func (b *bed) marks(id posthaste.MessageID) []posthaste.LogState {
	b.Helper()
	list, err := b.Engine.Marks(b.ctx(), b.tenant, id)
	b.check(err)
	var out []posthaste.LogState
	for _, m := range list {
		out = append(out, m.State)
	}
	return out
}

func (b *bed) deadLetters() []*posthaste.DeadLetter {
	b.Helper()
	list, err := b.Engine.DeadLetters(b.ctx(), b.tenant, "", store.Page{Limit: 1000})
	b.check(err)
	return list
}

// callbacksOf returns the callbacks that a message caused, in the order of their ids.
func (b *bed) callbacksOf(id posthaste.MessageID) []*posthaste.Message {
	b.Helper()
	list, err := b.Engine.MessageList(b.ctx(), b.tenant, "", store.Page{Limit: 1000})
	b.check(err)
	return slices.DeleteFunc(list, func(m *posthaste.Message) bool { return m.Source != id })
}

func testRetries(b *bed) {
	s := b.acceptStarted(b.msg(withRetries(2)))
	id := s.Ticket.ID
	for n := range 2 {
		op := b.settle(manyRoom, s, failed())
		a := op.Attempt
		if want := b.ticket(id); a.State != posthaste.StateRetry || a.Number != n || !a.NextAt.Equal(a.EndedAt.Add(time.Second)) || !want.Due.Equal(a.NextAt) {
			b.Fatalf("attempt %d: got %+v, due %v", n, a, want.Due)
		}
		b.wantPhase(posthaste.PhaseDelayed, id)
		b.none("before the retry is due")
		b.Advance(time.Second)
		fence := s.Ticket.Fence
		s = b.one()
		if s.Ticket.ID != id || s.Ticket.Attempt != n+1 || s.Ticket.Fence <= fence || s.Ticket.AtOnce {
			b.Fatalf("retry %d: got %+v", n+1, s.Ticket)
		}
	}
	last := b.settle(manyRoom, s, failed())
	if last.Attempt.State != posthaste.StateFailed || last.Attempt.Number != 2 {
		b.Errorf("got last attempt %+v, want FAILED, 2", last.Attempt)
	}
	b.wantPhase(posthaste.PhaseNone, id)
	b.Advance(time.Hour)
	b.none("after the end")
	list := b.attempts(id)
	var states []posthaste.LogState
	for _, a := range list {
		states = append(states, a.State)
	}
	if want := []posthaste.LogState{posthaste.StateRetry, posthaste.StateRetry, posthaste.StateFailed}; !slices.Equal(states, want) {
		b.Errorf("got attempts %v, want %v", states, want)
	}
	if d := b.deadLetters(); len(d) != 1 || d[0].Message != id || diff(&d[0].Last, list[2]) != "" || !d[0].At.Equal(list[2].EndedAt) {
		b.Errorf("got dead letters %+v, want one with the last attempt", d)
	} else if got, err := b.Engine.DeadLetter(b.ctx(), store.DeadKey{Tenant: b.tenant, ID: d[0].ID}); err != nil || diff(got, d[0]) != "" {
		b.Errorf("DeadLetter %v %s", err, diff(got, d[0]))
	}
}

func testNonRetryable(b *bed) {
	s := b.acceptStarted(b.msg(withRetries(5)))
	if op := b.settle(0, s, refused()); op.Attempt.State != posthaste.StateFailed {
		b.Errorf("got state %s, want FAILED", op.Attempt.State)
	}
	b.wantPhase(posthaste.PhaseNone, s.Ticket.ID)
	if d := b.deadLetters(); len(d) != 1 {
		b.Errorf("got %d dead letters, want 1", len(d))
	}
}

func testFence(b *bed) {
	s := b.acceptStarted(b.msg(inQueue("q"), withFlow(posthaste.FlowControl{Key: "k", Parallelism: 2}), withCallbacks(true, true)))
	id := s.Ticket.ID
	b.do(&ledger.Release{Ticket: s.Ticket})
	again := b.one()
	before := b.dump()
	for _, r := range []*ledger.Result{delivered(), failed(), refused()} {
		op := b.settleOp(manyRoom, s, r)
		if b.do(op); !op.Lost || len(op.Started) > 0 || op.Attempt != nil {
			b.Errorf("a settlement with fence %d of %d: got lost %t, attempt %+v", s.Ticket.Fence, again.Ticket.Fence, op.Lost, op.Attempt)
		}
	}
	release := &ledger.Release{Ticket: s.Ticket}
	if b.do(release); !release.Lost {
		b.Error("a release with an old fence counted")
	}
	other := *again.Ticket
	other.Node.Epoch++
	op := b.settleOp(manyRoom, ledger.Start{Ticket: &other, Message: b.message(id)}, failed())
	if b.do(op); !op.Lost {
		b.Error("a settlement of another life of the node counted")
	}
	if d := diff(b.dump(), before); d != "" {
		b.Errorf("settlements with an old fence changed something %s", d)
	}
	b.settle(0, again, delivered())
	op = b.settleOp(manyRoom, again, failed())
	if b.do(op); !op.Lost {
		b.Error("a settlement of a resolved message counted")
	}
}

// dump is what a tenant has in the store.
type dump struct {
	Messages []*posthaste.Message
	Tickets  []*store.Ticket
	Gates    []*store.Gate
	Slots    []*store.Slot
	Dead     []*posthaste.DeadLetter
	Attempts []*posthaste.Attempt
	Marks    []store.Mark
	Config   []*store.ConfigRow
	Ticks    []*store.Tick
	Version  int64
	Quota    int64
}

// dump reads all of the bed's tenant.
func (b *bed) dump() *dump {
	b.Helper()
	var d dump
	var err error
	d.Messages, err = b.Engine.MessageList(b.ctx(), b.tenant, "", store.Page{Limit: 10000})
	b.check(err)
	d.Tickets, err = b.Engine.TicketList(b.ctx(), b.tenant, "", 10000)
	b.check(err)
	bare(d.Tickets...)
	for _, kind := range []store.Kind{store.KindQueue, store.KindFlow, store.KindTenant, store.KindHost} {
		list, err := b.Engine.GateList(b.ctx(), b.tenant, kind, "", 1000)
		b.check(err)
		d.Gates = append(d.Gates, list...)
	}
	d.Dead = b.deadLetters()
	for _, m := range d.Messages {
		d.Attempts = append(d.Attempts, b.attempts(m.ID)...)
		marks, err := b.Engine.Marks(b.ctx(), b.tenant, m.ID)
		b.check(err)
		d.Marks = append(d.Marks, marks...)
		for _, g := range d.Gates {
			if g.Kind != store.KindQueue {
				continue
			}
			s, err := b.Engine.Slot(b.ctx(), store.SlotRef{Source: m.ID, Queue: g.GateRef, Gen: g.Gen})
			b.check(err)
			if s != nil {
				d.Slots = append(d.Slots, s)
			}
		}
	}
	for _, kind := range []store.ConfigKind{store.ConfigTenant, store.ConfigSchedule, store.ConfigURLGroup} {
		list, err := b.Engine.ConfigList(b.ctx(), b.tenant, kind, "", 1000)
		b.check(err)
		d.Config = append(d.Config, list...)
	}
	for _, c := range d.Config {
		if c.Kind == store.ConfigSchedule {
			d.Ticks = append(d.Ticks, b.tick(posthaste.ScheduleID(c.Name)))
		}
	}
	d.Version, err = b.Engine.Version(b.ctx(), b.tenant)
	b.check(err)
	d.Quota, err = b.Engine.Quota(b.ctx(), store.QuotaKey{Tenant: b.tenant, Day: store.DayOf(b.Now())})
	b.check(err)
	return &d
}

func testCallbacks(b *bed) {
	for _, c := range []struct {
		success, failure bool
		retries          int
		results          []*ledger.Result
		want             []string // the paths of the callbacks' URLs
	}{
		{false, false, 0, []*ledger.Result{failed()}, nil},
		{true, false, 0, []*ledger.Result{delivered()}, []string{"callback"}},
		{true, true, 0, []*ledger.Result{delivered()}, []string{"callback"}},
		{false, true, 0, []*ledger.Result{delivered()}, nil},
		{false, true, 1, []*ledger.Result{failed(), failed()}, []string{"failure"}},
		{true, false, 1, []*ledger.Result{failed(), failed()}, []string{"callback", "callback"}},
		{true, true, 1, []*ledger.Result{failed(), failed()}, []string{"callback", "callback", "failure"}},
		{true, true, 1, []*ledger.Result{failed(), delivered()}, []string{"callback", "callback"}},
		{true, true, 3, []*ledger.Result{refused()}, []string{"callback", "failure"}},
	} {
		s := b.acceptStarted(b.msg(withCallbacks(c.success, c.failure), withRetries(c.retries), withRetryNow()))
		id := s.Ticket.ID
		for i, r := range c.results {
			if i > 0 {
				if s = b.one(); s.Ticket.ID != id {
					b.Fatalf("got %s started, want the retry", s.Ticket.ID)
				}
			}
			op := b.settle(manyRoom, s, r)
			for _, cb := range op.Started {
				b.settle(0, cb, delivered())
			}
		}
		var got []string
		for _, m := range b.callbacksOf(id) {
			got = append(got, m.URL[len("https://example.com/"):])
			if m.MaxRetries != c.retries || m.Method != "POST" || m.Callback != nil || m.FailureCallback != nil || m.Queue != "" || len(m.Body) == 0 {
				b.Errorf("got callback %+v", m)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			b.Errorf("callbacks %t, %t after %d results: got %v, want %v", c.success, c.failure, len(c.results), got, c.want)
		}
	}
}

// withRetryNow lets retries follow at once.
func withRetryNow() func(*posthaste.Message) {
	return func(m *posthaste.Message) { m.RetryDelay = "0" }
}

func testCallbackStarts(b *bed) {
	s := b.acceptStarted(b.msg(withCallbacks(true, true)))
	op := b.settle(1, s, failed())
	if len(op.Started) != 1 || op.Started[0].Message == nil || op.Started[0].Message.Source != s.Ticket.ID {
		b.Fatalf("got %d started with room 1, want a callback", len(op.Started))
	}
	if !op.Started[0].Message.ClaimedAtOnce || op.Started[0].Ticket.Node != b.node {
		b.Errorf("got callback %+v, want one claimed at once", op.Started[0].Ticket)
	}
	all := b.callbacksOf(s.Ticket.ID)
	if len(all) != 2 {
		b.Fatalf("got %d callbacks, want 2", len(all))
	}
	// The callbacks are messages like others: they have retries and dead letters of their own.
	other := b.one()
	for _, cb := range []ledger.Start{op.Started[0], other} {
		if r := b.settle(0, cb, failed()); r.Attempt.State != posthaste.StateFailed {
			b.Errorf("got callback %s, want FAILED", r.Attempt.State)
		}
	}
	if d := b.deadLetters(); len(d) != 3 {
		b.Errorf("got %d dead letters, want 3", len(d))
	}
	b.none("callbacks have no callbacks")
	// A callback may be delayed, and have keys.
	m := b.msg(withCallbacks(true, false))
	m.Callback.Delay = time.Minute
	m.Callback.Flow = []posthaste.FlowControl{{Key: "cb", Parallelism: 1}}
	op = b.settle(manyRoom, b.acceptStarted(m), delivered())
	if len(op.Started) > 0 {
		b.Error("a delayed callback started at once")
	}
	if g := b.gate(b.flow("cb")); g.Live != 1 || g.Parallelism != 1 {
		b.Errorf("got key %+v, want one unresolved, parallelism 1", g)
	}
	b.Advance(time.Minute)
	b.settle(0, b.one(), delivered())
}

func testCallbackQuota(b *bed) {
	s := b.acceptStarted(b.msg(withCallbacks(true, true)))
	op := b.settleOp(0, s, failed())
	op.Count = true
	b.do(op)
	if n, err := b.Engine.Quota(b.ctx(), store.QuotaKey{Tenant: b.tenant, Day: store.DayOf(b.Now())}); err != nil || n != 2 {
		b.Errorf("got quota %d, %v; want 2: two callbacks", n, err)
	}
}

// die makes a dead letter and returns its key.
func (b *bed) die(edits ...func(*posthaste.Message)) store.DeadKey {
	b.Helper()
	s := b.acceptStarted(b.msg(edits...))
	b.settle(0, s, failed())
	for _, d := range b.deadLetters() {
		if d.Message == s.Ticket.ID {
			return store.DeadKey{Tenant: b.tenant, ID: d.ID}
		}
	}
	b.Fatalf("%s failed and has no dead letter", s.Ticket.ID)
	return store.DeadKey{}
}

// requeueOp returns the retry of dead letters.
func (b *bed) requeueOp(all bool, keys ...store.DeadKey) *ledger.Accept {
	op := b.acceptOp(0)
	op.AllDead = all
	for _, k := range keys {
		d := b.draft(b.msg(), 0)
		d.Dead = k
		op.Drafts = append(op.Drafts, d)
	}
	return op
}

func testRequeue(b *bed) {
	k, l := b.die(), b.die()
	unknown := store.DeadKey{Tenant: b.tenant, ID: posthaste.NewDeadLetterID(b.Now(), 4e9)}
	if err := b.submit(b.requeueOp(true, k, unknown)); posthaste.CodeOf(err) != posthaste.CodeNotFound {
		b.Errorf("retry of an unknown dead letter: got %v, want code not_found", err)
	}
	if d := b.deadLetters(); len(d) != 2 {
		b.Errorf("got %d dead letters after a refusal, want 2", len(d))
	}
	op := b.requeueOp(false, k, unknown, k)
	b.do(op)
	if d := op.Drafts; d[0].Gone || !d[1].Gone || !d[2].Gone {
		b.Errorf("got gone %t, %t, %t; want false, true, true: twice in one request counts once", d[0].Gone, d[1].Gone, d[2].Gone)
	}
	if d := b.deadLetters(); len(d) != 1 || d[0].ID != l.ID {
		b.Errorf("got dead letters %v, want %s alone", d, l.ID)
	}
	if got, err := b.Engine.DeadLetter(b.ctx(), k); got != nil || err != nil {
		b.Errorf("got %+v, %v; want none", got, err)
	}
	b.settle(0, b.one(), delivered())
	b.none("after the retry")
}

func testRequeueRace(b *bed) {
	k := b.die()
	var mu sync.Mutex
	n := 0
	var group sync.WaitGroup
	for range 8 {
		op := b.requeueOp(false, k)
		group.Go(func() {
			if err := b.submit(op); err != nil {
				b.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if !op.Drafts[0].Gone {
				n++
			}
		})
	}
	group.Wait()
	if n != 1 {
		b.Errorf("got %d messages of one dead letter, want 1", n)
	}
	b.one()
}

func testDeleteDead(b *bed) {
	k, l, m := b.die(), b.die(), b.die()
	op := &ledger.DeleteDead{Keys: []store.DeadKey{m, k, m}}
	if b.do(op); op.Deleted != 2 {
		b.Errorf("got %d deleted, want 2", op.Deleted)
	}
	op = &ledger.DeleteDead{Keys: []store.DeadKey{k, l}}
	if b.do(op); op.Deleted != 1 {
		b.Errorf("got %d deleted the second time, want 1", op.Deleted)
	}
	if d := b.deadLetters(); len(d) > 0 {
		b.Errorf("got %d dead letters, want none", len(d))
	}
}

func testDeadPaging(b *bed) {
	b.addTenant(2)
	var want []posthaste.DeadLetterID
	for i := range 12 {
		want = append(want, b.die().ID)
		if i%4 == 3 {
			b.Advance(time.Duration(i) * time.Second)
		}
	}
	slices.SortFunc(want, func(x, y posthaste.DeadLetterID) int {
		xt, xn, _ := x.Parts()
		yt, yn, _ := y.Parts()
		return cmp.Or(xt.Compare(yt), cmp.Compare(xn, yn))
	})
	for _, desc := range []bool{false, true} {
		for limit := 1; limit <= 13; limit += 3 {
			var got []posthaste.DeadLetterID
			from := posthaste.DeadLetterID("")
			for {
				list, err := b.Engine.DeadLetters(b.ctx(), b.tenant, from, store.Page{Limit: limit, Desc: desc})
				b.check(err)
				if len(list) > limit {
					b.Fatalf("got %d dead letters, want at most %d", len(list), limit)
				}
				for _, d := range list {
					got = append(got, d.ID)
				}
				if len(list) < limit {
					break
				}
				from = list[limit-1].ID
			}
			expect := slices.Clone(want)
			if desc {
				slices.Reverse(expect)
			}
			if !slices.Equal(got, expect) {
				b.Errorf("pages of %d, descending %t: got %v, want %v", limit, desc, got, expect)
			}
		}
	}
	// A position need not be that of a dead letter that exists.
	at, seq, _ := want[5].Parts()
	if seq > 0 {
		list, err := b.Engine.DeadLetters(b.ctx(), b.tenant, posthaste.NewDeadLetterID(at, seq-1), store.Page{Limit: 1})
		b.check(err)
		if fmt.Sprint(len(list)) != "1" || list[0].ID != want[5] {
			b.Errorf("after a position between rows: got %v, want %s", list, want[5])
		}
	}
	if list, err := b.Engine.DeadLetters(b.ctx(), 2, "", store.Page{Limit: 5}); err != nil || len(list) > 0 {
		b.Errorf("got %d dead letters of another tenant, %v", len(list), err)
	}
}
