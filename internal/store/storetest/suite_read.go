package storetest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
)

// configure writes configuration rows: a nil value removes one.
func (b *bed) configure(tenant posthaste.TenantID, kind store.ConfigKind, values map[string][]byte) {
	b.Helper()
	op := &ledger.Configure{Tenant: tenant}
	for name := range values {
		op.Keys = append(op.Keys, store.ConfigKey{Tenant: tenant, Kind: kind, Name: name})
	}
	slices.SortFunc(op.Keys, func(x, y store.ConfigKey) int { return cmp.Compare(x.Name, y.Name) })
	op.Edit = func(_ time.Time, rows []*store.ConfigRow) ([]*store.ConfigRow, error) {
		out := make([]*store.ConfigRow, len(rows))
		for i, k := range op.Keys {
			if v := values[k.Name]; v != nil {
				if out[i] = rows[i]; out[i] == nil {
					out[i] = &store.ConfigRow{}
				}
				out[i].Value = v
			}
		}
		return out, nil
	}
	b.do(op)
}

func testConfig(b *bed) {
	key := store.ConfigKey{Tenant: b.tenant, Kind: store.ConfigURLGroup, Name: "g"}
	get := func() *store.ConfigRow {
		b.Helper()
		row, err := b.Engine.Config(b.ctx(), key)
		b.check(err)
		return row
	}
	if row := get(); row != nil {
		b.Fatalf("got row %+v, want none", row)
	}
	b.configure(b.tenant, store.ConfigURLGroup, map[string][]byte{"g": {0, 1, 255}, "h": []byte("h")})
	first := get()
	if first == nil || string(first.Value) != "\x00\x01\xff" || first.ConfigKey != key || first.CreatedAt.IsZero() || !first.CreatedAt.Equal(first.UpdatedAt) {
		b.Fatalf("got row %+v", first)
	}
	b.Advance(time.Second)
	v, err := b.Engine.Version(b.ctx(), b.tenant)
	b.check(err)
	b.configure(b.tenant, store.ConfigURLGroup, map[string][]byte{"g": []byte("new")})
	if row := get(); string(row.Value) != "new" || !row.CreatedAt.Equal(first.CreatedAt) || !row.UpdatedAt.After(first.UpdatedAt) {
		b.Errorf("got row %+v, want the new value, created %v, updated later", row, first.CreatedAt)
	}
	no := errors.New("no")
	err = b.submit(&ledger.Configure{
		Tenant: b.tenant, Keys: []store.ConfigKey{key},
		Edit: func(_ time.Time, rows []*store.ConfigRow) ([]*store.ConfigRow, error) {
			rows[0].Value = []byte("changed")
			return nil, no
		},
	})
	if row := get(); !errors.Is(err, no) || string(row.Value) != "new" {
		b.Errorf("an edit that fails: got %v, row %+v", err, row)
	}
	b.configure(b.tenant, store.ConfigURLGroup, map[string][]byte{"g": nil, "x": nil})
	if row := get(); row != nil {
		b.Errorf("got row %+v after its removal", row)
	}
	if w, err := b.Engine.Version(b.ctx(), b.tenant); err != nil || w != v+2 {
		b.Errorf("got version %d, %v; want %d: each change raises it, and no failed one does", w, err, v+2)
	}
}

func testConfigLists(b *bed) {
	b.addTenant(3)
	b.addTenant(2)
	want := []string{"a", "b", "b/1", "ba", "ü"}
	values := map[string][]byte{}
	for _, n := range want {
		values[n] = []byte(n)
	}
	b.configure(b.tenant, store.ConfigURLGroup, values)
	b.configure(b.tenant, store.ConfigToken, map[string][]byte{"hash1": []byte("t1")})
	b.configure(2, store.ConfigToken, map[string][]byte{"hash2": []byte("t2")})
	b.configure(2, store.ConfigURLGroup, map[string][]byte{"a": []byte("other")})
	for limit := 1; limit <= 6; limit++ {
		var got []string
		for after := ""; ; {
			list, err := b.Engine.ConfigList(b.ctx(), b.tenant, store.ConfigURLGroup, after, limit)
			b.check(err)
			for _, r := range list {
				got = append(got, r.Name)
				if string(r.Value) != r.Name || r.Tenant != b.tenant || r.Kind != store.ConfigURLGroup {
					b.Errorf("got row %+v", r)
				}
			}
			if len(list) < limit {
				break
			}
			after = list[limit-1].Name
		}
		if !slices.Equal(got, want) {
			b.Errorf("pages of %d: got %v, want %v", limit, got, want)
		}
	}
	if r, err := b.Engine.FindConfig(b.ctx(), store.ConfigToken, "hash2"); err != nil || r == nil || r.Tenant != 2 || string(r.Value) != "t2" {
		b.Errorf("FindConfig: got %+v, %v; want the token of tenant 2", r, err)
	}
	if r, err := b.Engine.FindConfig(b.ctx(), store.ConfigToken, "hash3"); err != nil || r != nil {
		b.Errorf("FindConfig of nothing: got %+v, %v", r, err)
	}
	var got []posthaste.TenantID
	for after := posthaste.TenantID(0); ; {
		list, err := b.Engine.Tenants(b.ctx(), after, 2)
		b.check(err)
		if got = append(got, list...); len(list) < 2 {
			break
		}
		after = list[1]
	}
	if want := []posthaste.TenantID{1, 2, 3}; !slices.Equal(got, want) {
		b.Errorf("got tenants %v, want %v", got, want)
	}
}

func testLogStreams(b *bed) {
	b.addTenant(2)
	// Among the entries are some of one microsecond, and of another tenant.
	want := map[store.LogStream][]store.LogRow{}
	add := func(s store.LogStream, r store.LogRow) { want[s] = append(want[s], r) }
	for i := range 12 {
		m := b.msg(withRetries(1), withRetryNow())
		s := b.acceptStarted(m)
		add(store.StreamCreated, store.LogRow{LogPos: store.LogPos{At: m.CreatedAt, ID: m.ID}, AtOnce: true})
		if i%3 == 0 {
			b.Advance(time.Millisecond)
		}
		end := func(s ledger.Start, r *ledger.Result) {
			a := b.settle(0, s, r).Attempt
			if !a.AtOnce {
				add(store.StreamStarted, store.LogRow{LogPos: store.LogPos{At: a.StartedAt, ID: a.Message, N: a.Number}, Attempt: a})
			}
			add(store.StreamEnded, store.LogRow{LogPos: store.LogPos{At: a.EndedAt, ID: a.Message, N: a.Number}, Attempt: a})
		}
		end(s, failed())
		switch {
		case i%4 == 0:
			id := b.acceptOne(0, b.msg())
			waiting := b.message(id)
			add(store.StreamCreated, store.LogRow{LogPos: store.LogPos{At: waiting.CreatedAt, ID: id}})
			b.cancel(0, id)
			marks, err := b.Engine.Marks(b.ctx(), b.tenant, id)
			b.check(err)
			for n, k := range marks {
				add(store.StreamMarks, store.LogRow{LogPos: store.LogPos{At: k.At, ID: id, N: n}, Mark: k.State})
			}
			end(b.one(), failed())
		case i%4 == 1:
			end(b.one(), delivered())
		default:
			b.cancel(0, m.ID)
			marks, err := b.Engine.Marks(b.ctx(), b.tenant, m.ID)
			b.check(err)
			for n, k := range marks {
				add(store.StreamMarks, store.LogRow{LogPos: store.LogPos{At: k.At, ID: m.ID, N: n}, Mark: k.State})
			}
		}
	}
	other := b.on(b.TB)
	other.tenant = 2
	other.acceptStarted(other.msg())
	for s, rows := range want {
		slices.SortFunc(rows, func(x, y store.LogRow) int {
			return cmp.Or(x.At.Compare(y.At), cmp.Compare(x.ID, y.ID), cmp.Compare(x.N, y.N))
		})
		if s == store.StreamCreated {
			slices.SortFunc(rows, func(x, y store.LogRow) int { return cmp.Compare(x.ID, y.ID) })
		}
		for _, desc := range []bool{false, true} {
			expect := slices.Clone(rows)
			if desc {
				slices.Reverse(expect)
			}
			for limit := 1; limit <= len(rows)+1; limit += 3 {
				var got []store.LogRow
				for from := (store.LogPos{}); ; {
					list, err := b.Engine.LogRows(b.ctx(), b.tenant, s, from, store.Page{Limit: limit, Desc: desc})
					b.check(err)
					if got = append(got, list...); len(list) < limit {
						break
					}
					from = list[limit-1].LogPos
				}
				if d := diff(got, expect); d != "" {
					b.Fatalf("stream %d, pages of %d, descending %t %s", s, limit, desc, d)
				}
			}
		}
		// A position is between rows: it may be a moment that no row has.
		from := rows[len(rows)/2].At.Add(time.Microsecond / 2)
		list, err := b.Engine.LogRows(b.ctx(), b.tenant, s, store.LogPos{At: from.Truncate(time.Microsecond)}, store.Page{Limit: 1})
		b.check(err)
		if len(list) != 1 || list[0].At.Before(rows[len(rows)/2].At) {
			b.Errorf("stream %d from %v: got %v", s, from, list)
		}
	}
}

func testLogReleased(b *bed) {
	s := b.acceptStarted(b.msg())
	id := s.Ticket.ID
	created := func() []store.LogRow {
		b.Helper()
		rows, err := b.Engine.LogRows(b.ctx(), b.tenant, store.StreamCreated, store.LogPos{}, store.Page{Limit: 5})
		b.check(err)
		return rows
	}
	if rows := created(); len(rows) != 1 || !rows[0].AtOnce {
		b.Errorf("got rows %+v, want one at once", rows)
	}
	b.do(&ledger.Release{Ticket: s.Ticket, Unsent: true})
	if rows := created(); len(rows) != 1 || rows[0].AtOnce {
		b.Errorf("got rows %+v, want one not at once: the attempt did not count", rows)
	}
	b.Advance(time.Second)
	a := b.settle(0, b.one(), delivered()).Attempt
	rows, err := b.Engine.LogRows(b.ctx(), b.tenant, store.StreamStarted, store.LogPos{}, store.Page{Limit: 5})
	b.check(err)
	if len(rows) != 1 || rows[0].ID != id || !rows[0].At.Equal(a.StartedAt) {
		b.Errorf("got started %+v, want the second claim at %v", rows, a.StartedAt)
	}
}

func testUnknown(b *bed) {
	e, ctx := b.Engine, b.ctx()
	id := posthaste.NewMessageID(b.Now(), 0, b.nonces.Next())
	nothing := func(what string, got any, isNil bool, err error) {
		b.Helper()
		if err != nil || !isNil {
			b.Errorf("%s: got %v, %v; want nothing", what, got, err)
		}
	}
	v, err := e.Version(ctx, 77)
	nothing("Version", v, v == 0, err)
	row, err := e.Config(ctx, store.ConfigKey{Tenant: 77, Kind: store.ConfigTenant})
	nothing("Config", row, row == nil, err)
	m, err := e.Message(ctx, b.tenant, id)
	nothing("Message", m, m == nil, err)
	m, err = e.Message(ctx, b.tenant, "not an id")
	nothing("Message of an odd id", m, m == nil, err)
	t, err := e.Ticket(ctx, id)
	nothing("Ticket", t, t == nil, err)
	g, err := e.Gate(ctx, b.queue("none"))
	nothing("Gate", g, g == nil || g.CreatedAt.IsZero() && g.Waiting == 0, err)
	s, err := e.Slot(ctx, store.SlotRef{Source: id, Queue: b.queue("none")})
	nothing("Slot", s, s == nil, err)
	d, err := e.Dedup(ctx, store.DedupKey{Tenant: b.tenant, Key: "none"})
	nothing("Dedup", d, d == nil, err)
	n, err := e.Quota(ctx, store.QuotaKey{Tenant: b.tenant, Day: 5})
	nothing("Quota", n, n == 0, err)
	tick, err := e.Tick(ctx, store.TickRef{Tenant: b.tenant, Schedule: "none"})
	nothing("Tick", tick, tick == nil, err)
	a, err := e.Attempts(ctx, b.tenant, id)
	nothing("Attempts", a, len(a) == 0, err)
	k, err := e.Marks(ctx, b.tenant, id)
	nothing("Marks", k, len(k) == 0, err)
	dead, err := e.DeadLetter(ctx, store.DeadKey{Tenant: b.tenant, ID: posthaste.NewDeadLetterID(b.Now(), 1)})
	nothing("DeadLetter", dead, dead == nil, err)
	heads, err := e.Heads(ctx, b.queue("none"), 5)
	nothing("Heads", heads, len(heads) == 0, err)
	claims, err := e.Claims(ctx, store.NodeEpoch{Node: "none", Epoch: 1}, "", 5)
	nothing("Claims", claims, len(claims) == 0, err)
	list, err := e.Messages(ctx, []store.MessageKey{{Tenant: b.tenant, ID: id}, {Tenant: 77, ID: id}})
	nothing("Messages", list, len(list) == 2 && list[0] == nil && list[1] == nil, err)
	tickets, err := e.Tickets(ctx, []posthaste.MessageID{id})
	nothing("Tickets", tickets, len(tickets) == 1 && tickets[0] == nil, err)
}

func testTenantsApart(b *bed) {
	b.addTenant(2)
	s := b.acceptStarted(b.msg(inQueue("q"), withFlow(limits("k", 1, 0, 0))))
	id := s.Ticket.ID
	other := b.on(b.TB)
	other.tenant = 2
	// The same names are other gates.
	t := other.acceptStarted(other.msg(inQueue("q"), withFlow(limits("k", 1, 0, 0))))
	b.wantGate(b.queue("q"), 1, 0, 1)
	b.wantGate(other.queue("q"), 1, 0, 1)
	if m, err := b.Engine.Message(b.ctx(), 2, id); m != nil || err != nil {
		b.Errorf("tenant 2 reads a message of tenant 1: %+v, %v", m, err)
	}
	b.settle(0, s, failed())
	if a, err := b.Engine.Attempts(b.ctx(), 2, id); len(a) > 0 || err != nil {
		b.Errorf("tenant 2 reads attempts of tenant 1: %+v, %v", a, err)
	}
	d := b.deadLetters()
	if got, err := b.Engine.DeadLetter(b.ctx(), store.DeadKey{Tenant: 2, ID: d[0].ID}); got != nil || err != nil {
		b.Errorf("tenant 2 reads a dead letter of tenant 1: %+v, %v", got, err)
	}
	op := &ledger.DeleteDead{Keys: []store.DeadKey{{Tenant: 2, ID: d[0].ID}}}
	if b.do(op); op.Deleted != 0 || len(b.deadLetters()) != 1 {
		b.Errorf("tenant 2 deleted %d dead letters of tenant 1", op.Deleted)
	}
	list, err := b.Engine.MessageList(b.ctx(), 2, "", store.Page{Limit: 10})
	b.check(err)
	if len(list) != 1 || list[0].ID != t.Ticket.ID {
		b.Errorf("got messages %v of tenant 2, want its own", list)
	}
}

func testLists(b *bed) {
	b.addTenant(2)
	var want []posthaste.MessageID
	for i := range 11 {
		if i%4 == 0 {
			b.Advance(time.Second)
		}
		want = append(want, b.acceptOne(i%2, b.msg())) // claimed and ready ones
		other := b.on(b.TB)
		other.tenant = 2
		other.acceptOne(0, other.msg())
	}
	slices.Sort(want)
	for limit := 1; limit <= 12; limit += 2 {
		var got []posthaste.MessageID
		for after := posthaste.MessageID(""); ; {
			list, err := b.Engine.TicketList(b.ctx(), b.tenant, after, limit)
			b.check(err)
			for _, t := range list {
				got = append(got, t.ID)
			}
			if len(list) < limit {
				break
			}
			after = list[limit-1].ID
		}
		if !slices.Equal(got, want) {
			b.Errorf("TicketList, pages of %d: got %v, want %v", limit, got, want)
		}
		for _, desc := range []bool{false, true} {
			var got []posthaste.MessageID
			for from := posthaste.MessageID(""); ; {
				list, err := b.Engine.MessageList(b.ctx(), b.tenant, from, store.Page{Limit: limit, Desc: desc})
				b.check(err)
				for _, m := range list {
					got = append(got, m.ID)
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
				b.Errorf("MessageList, pages of %d, descending %t: got %v, want %v", limit, desc, got, expect)
			}
		}
	}
	// From a moment on.
	at, _, _ := want[5].Parts()
	list, err := b.Engine.MessageList(b.ctx(), b.tenant, posthaste.FirstMessageID(at), store.Page{Limit: 100})
	b.check(err)
	if len(list) == 0 || list[0].CreatedAt.Before(at) {
		b.Errorf("from %v: got %d, the first created %v", at, len(list), list[0].CreatedAt)
	}
	// Lists of keys keep their order.
	keys := []store.MessageKey{{Tenant: b.tenant, ID: want[3]}, {Tenant: b.tenant, ID: "none"}, {Tenant: b.tenant, ID: want[1]}, {Tenant: 2, ID: want[1]}}
	messages, err := b.Engine.Messages(b.ctx(), keys)
	b.check(err)
	if len(messages) != 4 || messages[0] == nil || messages[0].ID != want[3] || messages[1] != nil || messages[2] == nil || messages[2].ID != want[1] || messages[3] != nil {
		b.Errorf("Messages: got %v", messages)
	}
	tickets, err := b.Engine.Tickets(b.ctx(), []posthaste.MessageID{want[4], "none", want[2]})
	b.check(err)
	if len(tickets) != 3 || tickets[0] == nil || tickets[0].ID != want[4] || tickets[1] != nil || tickets[2] == nil || tickets[2].ID != want[2] {
		b.Errorf("Tickets: got %v", tickets)
	}
	// Gates in the order of their names.
	for _, name := range []string{"c", "a/1", "b", "a", "ü"} {
		b.acceptOne(0, b.msg(inQueue(name), withFlow(limits(name, 1, 0, 0))))
	}
	for _, kind := range []store.Kind{store.KindQueue, store.KindFlow} {
		var got []string
		for after := ""; ; {
			list, err := b.Engine.GateList(b.ctx(), b.tenant, kind, after, 2)
			b.check(err)
			for _, g := range list {
				got = append(got, g.Name)
				if g.GateRef != store.NewGateRef(b.shards, b.tenant, kind, g.Name) {
					b.Errorf("got gate %+v", g.GateRef)
				}
			}
			if len(list) < 2 {
				break
			}
			after = list[1].Name
		}
		if want := []string{"a", "a/1", "b", "c", "ü"}; !slices.Equal(got, want) {
			b.Errorf("gates of kind %d: got %v, want %v", kind, got, want)
		}
	}
	all, err := b.Engine.Claims(b.ctx(), store.NodeEpoch{}, "", 100)
	b.check(err)
	if len(all) != 5 {
		b.Errorf("got %d claims of all nodes, want 5", len(all))
	}
}

// due returns the earliest moments over all shards.
func (b *bed) due() (tickets, waiting time.Time) {
	b.Helper()
	list, err := b.Engine.NextDue(b.ctx())
	b.check(err)
	for _, d := range list {
		earlier(&tickets, d.Tickets)
		earlier(&waiting, d.Waiting)
	}
	return tickets, waiting
}

func testNextDue(b *bed) {
	want := func(what string, tickets, waiting time.Time) {
		b.Helper()
		if t, w := b.due(); !t.Equal(tickets) || !w.Equal(waiting) {
			b.Errorf("%s: got tickets %v, waiting %v; want %v, %v", what, t, w, tickets, waiting)
		}
	}
	zero := time.Time{}
	want("an empty store", zero, zero)
	late := b.draft(b.msg(), time.Hour)
	b.do(b.acceptOp(0, late))
	early := b.draft(b.msg(), time.Minute)
	b.do(b.acceptOp(0, early))
	want("two delayed", b.message(early.ID).NotBefore, zero)
	s := b.acceptStarted(b.msg(withFlow(limits("k", 0, 1, 10*time.Second))))
	b.acceptOne(manyRoom, b.msg(withFlow(limits("k", 0, 1, 10*time.Second))))
	end := b.gate(b.flow("k")).WindowStart.Add(10 * time.Second)
	want("one waits for a window", b.message(early.ID).NotBefore, end)
	b.settle(0, s, delivered())
	b.Advance(time.Minute)
	ripe, err := b.Engine.Awake(b.ctx(), b.flow("k").Shard, b.Now(), 5)
	b.check(err)
	if len(ripe) != 1 {
		b.Errorf("Awake: got %d, want 1", len(ripe))
	}
	if ripe, err := b.Engine.Awake(b.ctx(), b.flow("k").Shard, end.Add(-time.Microsecond), 5); err != nil || len(ripe) > 0 {
		b.Errorf("Awake too early: got %d, %v", len(ripe), err)
	}
	if got := b.pump(manyRoom); len(got) != 2 {
		b.Errorf("got %d started, want 2", len(got))
	}
	want("one delayed", b.message(late.ID).NotBefore, zero)
	b.cancel(0, late.ID)
	want("nothing left", zero, zero)
}

func testFairness(b *bed) {
	// One tenant's thousand must not hold up another one's few.
	for id := posthaste.TenantID(2); id <= 4; id++ {
		b.addTenant(id)
	}
	op := b.acceptOp(0)
	for range 300 {
		op.Drafts = append(op.Drafts, b.draft(b.msg(), 0))
	}
	b.do(op)
	b.Advance(time.Second)
	few := map[posthaste.MessageID]bool{}
	for id := posthaste.TenantID(2); id <= 4; id++ {
		o := b.on(b.TB)
		o.tenant = id
		few[o.acceptOne(0, o.msg())] = true
	}
	for n := 0; len(few) > 0; n++ {
		if n == 3*b.shards {
			b.Fatalf("after %d claims of 20: %d of the few have not started", n, len(few))
		}
		c := &ledger.Claim{Ripe: &store.Ripe{Shard: int16(n % b.shards), Before: b.Now(), Limit: 20, PerTenant: 5}, Node: b.with(manyRoom)}
		b.do(c)
		of := map[posthaste.TenantID]int{}
		for _, s := range c.Started {
			delete(few, s.Ticket.ID)
			of[s.Ticket.Tenant]++
		}
		if of[1] > 5 || len(c.Started) > 20 {
			b.Errorf("got %d claimed, %d of one tenant; want at most 20, 5", len(c.Started), of[1])
		}
	}
	list, err := b.Engine.Ripening(b.ctx(), store.Ripe{Before: b.Now(), Limit: 7, PerTenant: 5})
	b.check(err)
	if len(list) == 0 || len(list) > 5 {
		b.Errorf("Ripening: got %d of one tenant, want 1 to 5", len(list))
	}
	if fmt.Sprint(b.pump(0)) != "[]" {
		b.Error("claimed without room")
	}
}
