package storetest

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
)

func testPlain(b *bed) {
	s := b.acceptStarted(b.msg())
	id := s.Ticket.ID
	if s.Message == nil || !s.Message.ClaimedAtOnce || !s.Ticket.AtOnce || s.Ticket.Fence == 0 || s.Ticket.Node != b.node {
		b.Errorf("got start %+v of %+v, want one at once by %v", s.Ticket, s.Message, b.node)
	}
	if d := diff(bare(b.ticket(id))[0], bare(s.Ticket)[0]); d != "" {
		b.Errorf("ticket %s", d)
	}
	for _, kind := range []store.Kind{store.KindQueue, store.KindFlow, store.KindTenant, store.KindHost} {
		list, err := b.Engine.GateList(b.ctx(), b.tenant, kind, "", 10)
		b.check(err)
		if len(list) > 0 {
			b.Errorf("a plain message left the gate %+v", list[0])
		}
	}
	op := b.settle(0, s, delivered())
	if op.Attempt.State != posthaste.StateDelivered || !op.Attempt.AtOnce || op.Attempt.Number != 0 {
		b.Errorf("got attempt %+v, want a delivery that began with the acceptance", op.Attempt)
	}
	b.wantPhase(posthaste.PhaseNone, id)
	if m := b.message(id); !m.ClaimedAtOnce {
		b.Error("the message is not ClaimedAtOnce any more")
	}
	attempts, err := b.Engine.Attempts(b.ctx(), b.tenant, id)
	b.check(err)
	if d := diff(attempts, []*posthaste.Attempt{op.Attempt}); d != "" {
		b.Errorf("attempts %s", d)
	}
	again := b.settleOp(0, s, delivered())
	if b.do(again); !again.Lost {
		b.Error("a second settlement was recorded")
	}
}

func testContent(b *bed) {
	two := 2
	full := &posthaste.Message{
		Tenant: b.tenant, URL: "https://Example.com:8443/a//b?x=1#ü", Group: "group", Endpoint: "end", API: "llm", Method: "PATCH",
		Header: posthaste.Header{"X-A": {"1", "2", ""}, "Content-Type": {"text/plain"}}, Body: []byte("\x00\xff body"), MaxRetries: 5,
		RetryDelay: "1000 * (1 + retried)", Timeout: 90 * time.Second, Queue: "q/ü", Schedule: "scd_1",
		Callback: &posthaste.Callback{
			URL: "https://example.com/cb", Method: "PUT", Header: posthaste.Header{"A": {"b"}}, Retries: &two, RetryDelay: "5",
			Timeout: time.Second, Delay: time.Minute, Flow: []posthaste.FlowControl{{Key: "c", Rate: 1, Period: time.Second}},
		},
		FailureCallback: &posthaste.Callback{URL: "https://example.com/fail"},
		Flow:            []posthaste.FlowControl{{Key: "k", Parallelism: 3, Rate: 4, Period: 5 * time.Second}, {Key: "l"}},
		Priority:        7, Labels: []string{"a", "b"}, Redact: posthaste.Redaction{Body: true, Headers: true, Names: []string{"X-A"}},
		CallerIP: "2001:db8::1", Source: "msg_source", Run: "run", Sequence: -3, CallType: "call",
	}
	large := b.msg(func(m *posthaste.Message) { m.Body = []byte(strings.Repeat("0123456789abcdef", 1<<17)) })
	empty := &posthaste.Message{Tenant: b.tenant, URL: "https://example.com", Method: "GET"}
	for _, m := range []*posthaste.Message{full, large, empty} {
		id := b.acceptOne(manyRoom, m)
		if d := diff(b.message(id), m); d != "" {
			b.Errorf("message %s", d)
		}
		t := b.ticket(id)
		if t == nil || t.Tenant != b.tenant || int(t.Priority) != m.Priority {
			b.Errorf("got ticket %+v", t)
		}
	}
	if t := b.ticket(full.ID); t.Host != "example.com:8443" || len(t.Path) != 3 || t.Path[0] != b.queue("q/ü") {
		b.Errorf("got host %q, path %v; want example.com:8443 and the queue first", t.Host, t.Path)
	}
	b.Engine = b.Crash(b)
	for _, m := range []*posthaste.Message{full, large, empty} {
		if d := diff(b.message(m.ID), m); d != "" {
			b.Errorf("after a crash, message %s", d)
		}
	}
}

func testReady(b *bed) {
	ids, started := b.accept(0, b.msg(), b.msg())
	if len(started) > 0 {
		b.Errorf("got %d started without room", len(started))
	}
	b.wantPhase(posthaste.PhaseReady, ids...)
	if b.message(ids[0]).ClaimedAtOnce {
		b.Error("a message that waits is ClaimedAtOnce")
	}
	if got := b.pump(0); len(got) > 0 {
		b.Errorf("got %d claimed without room", len(got))
	}
	got := b.pump(1)
	if len(got) != 1 || got[0].Ticket.AtOnce {
		b.Fatalf("got %d claimed, want 1, not at once", len(got))
	}
	b.settle(0, got[0], delivered())
	if got := b.pump(5); len(got) != 1 {
		b.Errorf("got %d claimed, want 1", len(got))
	}
}

func testDelayed(b *bed) {
	d := b.draft(b.msg(), 90*time.Second)
	b.do(b.acceptOp(manyRoom, d))
	at := b.Now()
	exact := at.Add(time.Hour)
	e := b.draft(b.msg(), time.Minute) // NotBefore wins
	e.NotBefore = exact
	b.do(b.acceptOp(manyRoom, e))
	past := b.draft(b.msg(), 0)
	past.NotBefore = at.Add(-time.Hour)
	op := b.acceptOp(manyRoom, past)
	if b.do(op); len(op.Started) != 1 {
		b.Error("a message not before the past did not start at once")
	}
	b.wantPhase(posthaste.PhaseDelayed, d.ID, e.ID)
	m := b.message(d.ID)
	if want := m.CreatedAt.Add(90 * time.Second); !m.NotBefore.Equal(want) || !b.ticket(d.ID).Due.Equal(want) {
		b.Errorf("got not before %v, due %v; want %v", m.NotBefore, b.ticket(d.ID).Due, want)
	}
	if m := b.message(e.ID); !m.NotBefore.Equal(exact) {
		b.Errorf("got not before %v, want %v", m.NotBefore, exact)
	}
	if got := b.pump(manyRoom); len(got) > 0 {
		b.Errorf("%v started too early", ids(got))
	}
	b.Advance(90*time.Second - time.Microsecond - b.Now().Sub(m.CreatedAt))
	if b.Now().Before(m.NotBefore) {
		if got := b.pump(manyRoom); len(got) > 0 {
			b.Errorf("%v started too early", ids(got))
		}
	}
	b.Advance(time.Microsecond)
	if got := b.pump(manyRoom); len(got) != 1 || got[0].Ticket.ID != d.ID {
		b.Errorf("got %v started, want %s", ids(got), d.ID)
	}
	b.Advance(time.Hour)
	if got := b.pump(manyRoom); len(got) != 1 || got[0].Ticket.ID != e.ID {
		b.Errorf("got %v started, want %s", ids(got), e.ID)
	}
}

func testAllOrNothing(b *bed) {
	op := b.acceptOp(manyRoom, b.draft(b.msg(inQueue("q")), 0), b.draft(b.msg(), 0), b.draft(b.msg(), 0))
	op.Drafts[2].Dead = store.DeadKey{Tenant: b.tenant, ID: posthaste.NewDeadLetterID(b.Now(), 7)}
	op.AllDead = true
	if err := b.submit(op); posthaste.CodeOf(err) != posthaste.CodeNotFound {
		b.Errorf("got error %v, want code not_found", err)
	}
	b.empty()
	op.AllDead = false
	b.do(op)
	if len(op.Started) != 2 || !op.Drafts[2].Gone || op.Drafts[0].Gone {
		b.Errorf("got %d started, gone %t, %t; want 2, false, true", len(op.Started), op.Drafts[0].Gone, op.Drafts[2].Gone)
	}
}

// empty checks that the tenant has no messages and no gates.
func (b *bed) empty() {
	b.Helper()
	list, err := b.Engine.MessageList(b.ctx(), b.tenant, "", store.Page{Limit: 10})
	b.check(err)
	tickets, err := b.Engine.TicketList(b.ctx(), b.tenant, "", 10)
	b.check(err)
	queues, err := b.Engine.GateList(b.ctx(), b.tenant, store.KindQueue, "", 10)
	b.check(err)
	flows, err := b.Engine.GateList(b.ctx(), b.tenant, store.KindFlow, "", 10)
	b.check(err)
	if len(list)+len(tickets)+len(queues)+len(flows) > 0 {
		b.Errorf("got %d messages, %d tickets, %d queues, %d keys; want none", len(list), len(tickets), len(queues), len(flows))
	}
}

func testVersion(b *bed) {
	v, err := b.Engine.Version(b.ctx(), b.tenant)
	b.check(err)
	if v == 0 {
		b.Fatal("a tenant has version 0")
	}
	op := b.acceptOp(manyRoom, b.draft(b.msg(), 0))
	op.Version = v
	b.do(op)
	b.addTenant(b.tenant)
	if w, err := b.Engine.Version(b.ctx(), b.tenant); err != nil || w <= v {
		b.Errorf("got version %d, %v after a change; want more than %d", w, err, v)
	}
	op = b.acceptOp(manyRoom, b.draft(b.msg(), 0))
	op.Version = v
	if err := b.submit(op); !errors.Is(err, store.ErrStale) {
		b.Errorf("accept with version %d: got %v, want ErrStale", v, err)
	}
	op = b.acceptOp(manyRoom, b.draft(b.msg(func(m *posthaste.Message) { m.Tenant = 99 }), 0))
	op.Tenant = 99
	if err := b.submit(op); !errors.Is(err, store.ErrStale) {
		b.Errorf("accept for a tenant that does not exist: got %v, want ErrStale", err)
	}
	if list, err := b.Engine.TicketList(b.ctx(), b.tenant, "", 10); err != nil || len(list) != 1 {
		b.Errorf("got %d tickets, %v; want 1", len(list), err)
	}
}

func testDailyLimit(b *bed) {
	day := store.DayOf(b.Now())
	accept := func(n int, limit int64) (*ledger.Accept, error) {
		op := b.acceptOp(0)
		for range n {
			op.Drafts = append(op.Drafts, b.draft(b.msg(inQueue("q")), 0))
		}
		op.DailyLimit, op.Day, op.Count = limit, day, true
		return op, b.submit(op)
	}
	if op, err := accept(3, 5); err != nil || op.Used != 3 {
		b.Fatalf("got used %d, %v; want 3", op.Used, err)
	}
	_, err := accept(3, 5)
	if posthaste.CodeOf(err) != posthaste.CodeRateLimited {
		b.Fatalf("got %v, want code rate_limited", err)
	}
	var e *posthaste.Error
	if !errors.As(err, &e) || e.Limit == nil {
		b.Fatalf("got %v, want a posthaste.Error with a limit", err)
	}
	want := posthaste.RateLimit{Daily: true, Limit: 5, Remaining: 2, Reset: (int64(day) + 1) * 86400}
	if *e.Limit != want {
		b.Errorf("got limit %+v, want %+v", *e.Limit, want)
	}
	if g := b.gate(b.queue("q")); g.Live != 3 || g.Waiting != 3 {
		b.Errorf("after a refusal: got live %d, waiting %d; want 3, 3", g.Live, g.Waiting)
	}
	if op, err := accept(2, 5); err != nil || op.Used != 5 {
		b.Errorf("got used %d, %v; want 5", op.Used, err)
	}
	if n, err := b.Engine.Quota(b.ctx(), store.QuotaKey{Tenant: b.tenant, Day: day}); err != nil || n != 5 {
		b.Errorf("got quota %d, %v; want 5", n, err)
	}
	b.Advance(24 * time.Hour)
	if _, err := accept(1, 5); !errors.Is(err, store.ErrStale) {
		b.Errorf("got %v on another day, want ErrStale", err)
	}
	day++
	if op, err := accept(5, 5); err != nil || op.Used != 5 {
		b.Errorf("on the next day: got used %d, %v; want 5", op.Used, err)
	}
}

func testIDs(b *bed) {
	var last posthaste.MessageID
	for i := range 50 {
		m := b.msg(inQueue(string(rune('a' + i%3))))
		op := b.acceptOp(0, b.draft(m, 0))
		b.check(b.Engine.Do(b.ctx(), 0, op)) // the clock may stand
		id := m.ID
		at, shard, ok := id.Parts()
		if !ok || int(shard) >= b.shards || !at.Equal(m.CreatedAt) {
			b.Fatalf("got id %s of %v, shard %d of %d; want %v", id, at, shard, b.shards, m.CreatedAt)
		}
		if id <= last {
			b.Errorf("id %s was made after %s and sorts before it", id, last)
		}
		last = id
	}
	q := b.msg(inQueue("q"))
	if _, shard, _ := b.acceptOne(0, q).Parts(); shard != b.queue("q").Shard {
		b.Errorf("got shard %d for a message of a queue in shard %d", shard, b.queue("q").Shard)
	}
}

func testDedup(b *bed) {
	key := &store.DedupKey{Tenant: b.tenant, Key: "k"}
	draft := func() *ledger.Draft {
		d := b.draft(b.msg(inQueue("q")), 0)
		d.Dedup, d.Window = key, time.Minute
		return d
	}
	op := b.acceptOp(manyRoom, draft(), draft(), b.draft(b.msg(), 0))
	b.do(op)
	first := op.Drafts[0].ID
	if d := op.Drafts; d[0].Duplicate || !d[1].Duplicate || d[1].ID != first || d[2].Duplicate {
		b.Errorf("got duplicates %t, %t, %t; want the second alone", d[0].Duplicate, d[1].Duplicate, d[2].Duplicate)
	}
	again := func() *ledger.Draft {
		b.Helper()
		op := b.acceptOp(manyRoom, draft())
		b.do(op)
		return op.Drafts[0]
	}
	if d := again(); !d.Duplicate || d.ID != first {
		b.Errorf("got duplicate %t of %s, want true of %s", d.Duplicate, d.ID, first)
	}
	// Also when the first one is resolved, and duplicates do not make the window longer.
	b.settle(0, op.Started[0], delivered())
	b.Advance(59 * time.Second)
	if d := again(); !d.Duplicate || d.ID != first {
		b.Errorf("after 59s: got duplicate %t of %s, want true of %s", d.Duplicate, d.ID, first)
	}
	e, err := b.Engine.Dedup(b.ctx(), *key)
	b.check(err)
	if e == nil || e.Message != first {
		b.Errorf("got entry %+v, want one of %s", e, first)
	}
	b.Advance(time.Second)
	d := again()
	if d.Duplicate || d.ID == first {
		b.Errorf("after the window: got duplicate %t of %s", d.Duplicate, d.ID)
	}
	if e := again(); !e.Duplicate || e.ID != d.ID {
		b.Errorf("in the next window: got duplicate %t of %s, want true of %s", e.Duplicate, e.ID, d.ID)
	}
	if g := b.gate(b.queue("q")); g.Live != 1 {
		b.Errorf("got live %d, want 1: duplicates do not count", g.Live)
	}
}

func testDedupTenants(b *bed) {
	b.addTenant(2)
	var firsts []posthaste.MessageID
	for _, tenant := range []posthaste.TenantID{1, 2, 1, 2} {
		for _, key := range []string{"k", "l"} {
			d := b.draft(b.msg(func(m *posthaste.Message) { m.Tenant = tenant }), 0)
			d.Dedup, d.Window = &store.DedupKey{Tenant: tenant, Key: key}, time.Minute
			op := b.acceptOp(0, d)
			op.Tenant = tenant
			b.do(op)
			if !d.Duplicate {
				firsts = append(firsts, d.ID)
			}
		}
	}
	if len(firsts) != 4 {
		b.Errorf("got %d messages for two keys of two tenants, want 4", len(firsts))
	}
}

// schedule makes or changes the tick row of a schedule.
func (b *bed) schedule(id posthaste.ScheduleID, edit func(t *store.Tick)) {
	b.Helper()
	b.do(&ledger.Configure{
		Tenant: b.tenant, Keys: []store.ConfigKey{{Tenant: b.tenant, Kind: store.ConfigSchedule, Name: string(id)}},
		Edit: func(_ time.Time, rows []*store.ConfigRow) ([]*store.ConfigRow, error) {
			return []*store.ConfigRow{{Value: []byte("s")}}, nil
		},
		TickRef: &store.TickRef{Tenant: b.tenant, Schedule: id},
		Tick: func(_ time.Time, old *store.Tick) *store.Tick {
			if old == nil {
				old = &store.Tick{}
			}
			edit(old)
			return old
		},
	})
}

func (b *bed) tick(id posthaste.ScheduleID) *store.Tick {
	b.Helper()
	t, err := b.Engine.Tick(b.ctx(), store.TickRef{Tenant: b.tenant, Schedule: id})
	b.check(err)
	return t
}

// fireOp returns the acceptance of a schedule's message.
func (b *bed) fireOp(t *store.Tick, drafts int) *ledger.Accept {
	op := b.acceptOp(0)
	for range drafts {
		op.Drafts = append(op.Drafts, b.draft(b.msg(func(m *posthaste.Message) { m.Schedule = t.Schedule }), 0))
	}
	op.Firing = &ledger.Firing{Ref: t.TickRef, Rev: t.Rev, At: t.Next, Next: t.Next.Add(time.Minute)}
	return op
}

func testTick(b *bed) {
	at := b.Now().Add(time.Minute)
	b.schedule("s", func(t *store.Tick) { t.Next = at })
	b.Advance(time.Minute)
	list, err := b.Engine.DueTicks(b.ctx(), b.Now(), 10)
	b.check(err)
	if len(list) != 1 || list[0].Schedule != "s" || !list[0].Next.Equal(at) {
		b.Fatalf("got due %+v, want the schedule s at %v", list, at)
	}
	var mu sync.Mutex
	fired, stale := 0, 0
	var made []posthaste.MessageID
	var group sync.WaitGroup
	for range 8 {
		op := b.fireOp(list[0], 2)
		group.Go(func() {
			err := b.submit(op)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				fired++
				made = []posthaste.MessageID{op.Drafts[0].ID, op.Drafts[1].ID}
			case errors.Is(err, store.ErrStale):
				stale++
			default:
				b.Error(err)
			}
		})
	}
	group.Wait()
	if fired != 1 || stale != 7 {
		b.Errorf("got %d fired, %d stale; want 1, 7", fired, stale)
	}
	t := b.tick("s")
	if !t.Last.Equal(at) || !t.Next.Equal(at.Add(time.Minute)) || !slices.Equal(t.Made, made) || t.Error != "" {
		b.Errorf("got tick %+v, want last %v, made %v", t, at, made)
	}
	if list, err := b.Engine.TicketList(b.ctx(), b.tenant, "", 100); err != nil || len(list) != 2 {
		b.Errorf("got %d messages, %v; want 2", len(list), err)
	}
	// A tick may make nothing, and says why.
	op := b.fireOp(t, 0)
	op.Firing.Next, op.Firing.Error = time.Time{}, "the group is gone"
	b.do(op)
	if t := b.tick("s"); !t.Next.IsZero() || t.Error != "the group is gone" || len(t.Made) > 0 {
		b.Errorf("got tick %+v, want none next, and the error", t)
	}
}

func testTickConfiguration(b *bed) {
	at := b.Now().Add(time.Minute)
	for i, id := range []posthaste.ScheduleID{"c", "a", "b"} {
		b.schedule(id, func(t *store.Tick) { t.Next = at.Add(time.Duration(i) * time.Second) })
	}
	due := func(at time.Time, limit int) (out []posthaste.ScheduleID) {
		b.Helper()
		list, err := b.Engine.DueTicks(b.ctx(), at, limit)
		b.check(err)
		for _, t := range list {
			out = append(out, t.Schedule)
		}
		return out
	}
	if got := due(at.Add(-time.Microsecond), 9); len(got) > 0 {
		b.Errorf("got %v due too early", got)
	}
	if got, want := due(at.Add(time.Second), 9), []posthaste.ScheduleID{"c", "a"}; !slices.Equal(got, want) {
		b.Errorf("got due %v, want %v", got, want)
	}
	if got := due(at.Add(time.Hour), 1); len(got) != 1 {
		b.Errorf("got %d due, want the limit of 1", len(got))
	}
	next, err := b.Engine.NextDue(b.ctx())
	b.check(err)
	if i := slices.IndexFunc(next, func(d store.ShardDue) bool { return !d.Tick.IsZero() }); i < 0 || !next[i].Tick.Equal(at) {
		b.Errorf("NextDue: got %+v, want a tick at %v", next, at)
	}
	old := b.tick("a")
	b.schedule("a", func(t *store.Tick) { t.Next = time.Time{} }) // paused
	if t := b.tick("a"); t.Rev <= old.Rev {
		b.Errorf("got revision %d after %d", t.Rev, old.Rev)
	}
	if err := b.submit(b.fireOp(old, 1)); !errors.Is(err, store.ErrStale) {
		b.Errorf("firing a tick that was changed: got %v, want ErrStale", err)
	}
	if got := due(at.Add(time.Hour), 9); slices.Contains(got, "a") {
		b.Errorf("got %v due, a is paused", got)
	}
	old = b.tick("b")
	b.do(&ledger.Configure{
		Tenant: b.tenant, Keys: []store.ConfigKey{{Tenant: b.tenant, Kind: store.ConfigSchedule, Name: "b"}},
		Edit:    func(time.Time, []*store.ConfigRow) ([]*store.ConfigRow, error) { return []*store.ConfigRow{nil}, nil },
		TickRef: &old.TickRef, TickGone: true,
	})
	if t := b.tick("b"); t != nil {
		b.Errorf("got tick %+v of a schedule that is gone", t)
	}
	if err := b.submit(b.fireOp(old, 1)); !errors.Is(err, store.ErrStale) {
		b.Errorf("firing a tick that is gone: got %v, want ErrStale", err)
	}
	if list, err := b.Engine.TicketList(b.ctx(), b.tenant, "", 100); err != nil || len(list) > 0 {
		b.Errorf("got %d messages, %v; want none", len(list), err)
	}
}
