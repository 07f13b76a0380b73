package postgres_test

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/store/postgres"
)

const tenant posthaste.TenantID = 7

// An op is an operation made of its two halves.
type op struct {
	want   store.Want
	decide func(v *store.View, c *store.Changes) error
}

func (o *op) Want() *store.Want                            { return &o.want }
func (o *op) Decide(v *store.View, c *store.Changes) error { return o.decide(v, c) }

func do(tb testing.TB, e *postgres.Engine, o store.Op) {
	tb.Helper()
	if err := e.Do(tb.Context(), 0, o); err != nil {
		tb.Fatal(err)
	}
}

// change returns an operation that reads nothing and makes the given changes.
func change(f func(now time.Time, c *store.Changes)) *op {
	return &op{decide: func(v *store.View, c *store.Changes) error {
		f(v.Now, c)
		return nil
	}}
}

func addTenant(tb testing.TB, e *postgres.Engine) {
	tb.Helper()
	do(tb, e, change(func(_ time.Time, c *store.Changes) { c.Raise = []posthaste.TenantID{tenant} }))
}

var nonces atomic.Uint32

func newID(now time.Time, shard int16) posthaste.MessageID {
	var n posthaste.Nonce
	binary.BigEndian.PutUint32(n[:], nonces.Add(1))
	return posthaste.NewMessageID(now, shard, n)
}

// accept is the shape of the operation that takes in a plain message and claims it at once.
type accept struct {
	want store.Want
	m    *posthaste.Message
	t    *store.Ticket
}

func newAccept() *accept {
	return &accept{
		want: store.Want{Tenants: []posthaste.TenantID{tenant}},
		m:    &posthaste.Message{Tenant: tenant, URL: "https://example.com/", Method: "POST", Body: []byte("body")},
	}
}

func (a *accept) Want() *store.Want { return &a.want }

func (a *accept) Decide(v *store.View, c *store.Changes) error {
	id := newID(v.Now, 0)
	a.m.ID, a.m.CreatedAt, a.m.NotBefore, a.m.ClaimedAtOnce = id, v.Now, v.Now, true
	a.t = &store.Ticket{
		ID: id, Tenant: tenant, Phase: posthaste.PhaseClaimed, Node: store.NodeEpoch{Node: "a", Epoch: 1}, Fence: 1, StartedAt: v.Now, AtOnce: true,
	}
	c.Messages, c.Put = append(c.Messages, a.m), append(c.Put, a.t)
	return nil
}

// settle is the shape of the operation that ends a claimed message after a 2xx answer.
func settle(id posthaste.MessageID) *op {
	return &op{want: store.Want{Tickets: []posthaste.MessageID{id}}, decide: func(v *store.View, c *store.Changes) error {
		t := v.Tickets[0]
		if t == nil || t.Phase != posthaste.PhaseClaimed {
			return store.ErrStale
		}
		c.Drop = append(c.Drop, t)
		c.Attempts = append(c.Attempts, &posthaste.Attempt{
			Tenant: tenant, Message: id, StartedAt: t.StartedAt, EndedAt: v.Now, AtOnce: true, Outcome: posthaste.OutcomeDelivered, State: posthaste.StateDelivered,
		})
		return nil
	}}
}

func TestStatements(t *testing.T) {
	e := open(t, postgres.Config{URL: newSchema(t)})
	addTenant(t, e)
	count := func(what string, o store.Op, want int64) {
		t.Helper()
		before := e.Stats()
		do(t, e, o)
		after := e.Stats()
		if got := after.Statements - before.Statements; got != want || after.Commits != before.Commits+1 {
			t.Errorf("%s: got %d statements in %d commits, want %d in 1", what, got, after.Commits-before.Commits, want)
		}
	}
	a := newAccept()
	// BEGIN, version, time; message, ticket, COMMIT.
	count("accept", a, 6)
	// BEGIN, ticket, time; ticket, attempt, COMMIT.
	count("settle", settle(a.m.ID), 6)
	gate := store.NewGateRef(e.Shards(), tenant, store.KindFlow, "k")
	edit := &op{want: store.Want{Gates: []store.GateRef{gate}, Heads: 2}, decide: func(v *store.View, c *store.Changes) error {
		g := v.Gates[0]
		if g == nil {
			g = &store.Gate{GateRef: gate}
		}
		g.Live++
		c.Gates = append(c.Gates, g)
		return nil
	}}
	do(t, e, edit) // makes the row
	// BEGIN, gate, heads, time; gate, COMMIT.
	count("gate", edit, 6)
	if g, err := e.Gate(t.Context(), gate); err != nil || g == nil || g.Live != 2 {
		t.Errorf("got gate %+v, %v", g, err)
	}
}

// real time: the clock of the server decides.
func TestServerTime(t *testing.T) {
	url := newSchema(t)
	a, b := open(t, postgres.Config{URL: url}), open(t, postgres.Config{URL: url})
	addTenant(t, a)
	var last time.Time
	for i := range 50 {
		e := []*postgres.Engine{a, b}[i%2]
		var now time.Time
		do(t, e, change(func(n time.Time, _ *store.Changes) { now = n }))
		if !now.After(last) {
			t.Fatalf("got %v after %v", now, last)
		}
		last = now
	}
	if d := time.Since(last); d < -time.Minute || d > time.Minute {
		t.Errorf("the server's time is %v off", d)
	}
}

// together submits operations while their lane is busy, so that they fall into one transaction.
func together(tb testing.TB, e *postgres.Engine, ops ...store.Op) []error {
	tb.Helper()
	began, end := make(chan struct{}), make(chan struct{})
	var once sync.Once
	var group sync.WaitGroup
	group.Go(func() {
		if err := e.Do(tb.Context(), 0, &op{decide: func(*store.View, *store.Changes) error {
			once.Do(func() { close(began) })
			<-end
			return nil
		}}); err != nil {
			tb.Error(err)
		}
	})
	<-began
	errs := make([]error, len(ops))
	for i, o := range ops {
		group.Go(func() { errs[i] = e.Do(tb.Context(), 0, o) })
		time.Sleep(time.Millisecond) // so that they arrive in this order, most of the time
	}
	close(end)
	group.Wait()
	return errs
}

func TestBadRow(t *testing.T) {
	e := open(t, postgres.Config{URL: newSchema(t), Lanes: 1})
	addTenant(t, e)
	first := newAccept()
	do(t, e, first)
	for what, bad := range map[string]*op{
		"a message twice": change(func(_ time.Time, c *store.Changes) { c.Messages = append(c.Messages, first.m) }),
		"text with a zero": change(func(n time.Time, c *store.Changes) {
			m := *first.m
			m.ID = newID(n, 0)
			c.Messages = append(c.Messages, &m)
			c.Put = append(c.Put, &store.Ticket{ID: m.ID, Tenant: tenant, Phase: posthaste.PhaseClaimed, Node: store.NodeEpoch{Node: "a\x00"}})
		}),
		"an attempt twice": change(func(n time.Time, c *store.Changes) {
			at := &posthaste.Attempt{Tenant: tenant, Message: first.m.ID, StartedAt: n, EndedAt: n}
			c.Attempts = append(c.Attempts, at, at)
		}),
	} {
		good := []*accept{newAccept(), newAccept(), newAccept()}
		errs := together(t, e, good[0], bad, good[1], good[2])
		for i, err := range errs {
			if i == 1 {
				if posthaste.CodeOf(err) != posthaste.CodeInternal {
					t.Errorf("%s: got %v, want code internal", what, err)
				}
			} else if err != nil {
				t.Errorf("%s: another operation failed: %v", what, err)
			}
		}
		for _, g := range good {
			if k, err := e.Ticket(t.Context(), g.m.ID); err != nil || k == nil {
				t.Errorf("%s: got ticket %v, %v of another operation", what, k, err)
			}
		}
	}
	if a, err := e.Attempts(t.Context(), tenant, first.m.ID); err != nil || len(a) != 0 {
		t.Errorf("got attempts %v, %v of operations that failed", a, err)
	}
}

// A row that is not where it was loaded from fails the operation before its commit.
func TestLostRow(t *testing.T) {
	url := newSchema(t)
	e := open(t, postgres.Config{URL: url})
	addTenant(t, e)
	a := newAccept()
	do(t, e, a)
	err := e.Do(t.Context(), 0, &op{want: store.Want{Tickets: []posthaste.MessageID{a.m.ID}}, decide: func(v *store.View, c *store.Changes) error {
		k := v.Tickets[0]
		k.Tenant++ // no such row
		c.Put = append(c.Put, k)
		c.Marks = append(c.Marks, store.Mark{Tenant: tenant, Message: a.m.ID, State: posthaste.StateCanceled, At: v.Now})
		return nil
	}})
	if posthaste.CodeOf(err) != posthaste.CodeInternal {
		t.Errorf("got %v, want code internal", err)
	}
	if m, err := e.Marks(t.Context(), tenant, a.m.ID); err != nil || len(m) > 0 {
		t.Errorf("got marks %v, %v of an operation that failed", m, err)
	}
	do(t, e, settle(a.m.ID))
}

func TestIdleTransaction(t *testing.T) {
	e := open(t, postgres.Config{URL: newSchema(t), IdleTimeout: 100 * time.Millisecond})
	runs := 0
	do(t, e, change(func(time.Time, *store.Changes) {
		if runs++; runs == 1 {
			time.Sleep(400 * time.Millisecond)
		}
	}))
	if runs < 2 {
		t.Errorf("the server let a transaction be idle")
	}
	if s := e.Stats(); s.Repeats != 1 || s.Commits != 1 {
		t.Errorf("got %+v, want one commit at the second try", s)
	}
}

func TestBrokenConnections(t *testing.T) {
	url := newSchema(t)
	e := open(t, postgres.Config{URL: url + "&application_name=" + t.Name(), PoolSize: 2})
	addTenant(t, e)
	for range 3 {
		do(t, e, newAccept())
		if _, err := e.NextDue(t.Context()); err != nil {
			t.Fatal(err)
		}
		sqlDo(t, url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '"+t.Name()+"'")
		do(t, e, newAccept())
		if v, err := e.Version(t.Context(), tenant); err != nil || v != 1 {
			t.Errorf("got version %d, %v", v, err)
		}
	}
	// Within a transaction, too: nothing of it was committed.
	runs := 0
	err := e.Do(t.Context(), 0, change(func(time.Time, *store.Changes) {
		if runs++; runs == 1 {
			sqlDo(t, url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '"+t.Name()+"'")
			time.Sleep(50 * time.Millisecond)
		}
	}))
	if err != nil && posthaste.CodeOf(err) != posthaste.CodeUnavailable {
		t.Errorf("got %v, want nothing or code unavailable", err)
	}
	do(t, e, newAccept())
}

func TestReadOnly(t *testing.T) {
	url := newSchema(t)
	addTenant(t, open(t, postgres.Config{URL: url}))
	e := open(t, postgres.Config{URL: url + "&default_transaction_read_only=on"})
	if err := e.Do(t.Context(), 0, newAccept()); posthaste.CodeOf(err) != posthaste.CodeUnavailable {
		t.Errorf("got %v, want code unavailable", err)
	}
	if v, err := e.Version(t.Context(), tenant); err != nil || v != 1 {
		t.Errorf("got version %d, %v", v, err)
	}
}

func TestUnreachable(t *testing.T) {
	_, err := postgres.Open(t.Context(), postgres.Config{URL: "postgres://nobody@/nothing?host=" + t.TempDir()})
	if posthaste.CodeOf(err) != posthaste.CodeUnavailable {
		t.Errorf("got %v, want code unavailable", err)
	}
	for _, cfg := range []postgres.Config{
		{}, {URL: "postgres://[bad"}, {URL: "x=y", Lanes: -1}, {URL: "x=y", Shards: 1000}, {URL: "x=y", ExecMode: "odd"}, {URL: "x=y", PoolSize: -1},
	} {
		if _, err := postgres.Open(t.Context(), cfg); posthaste.CodeOf(err) != posthaste.CodeInvalid {
			t.Errorf("%+v: got %v, want code invalid", cfg, err)
		}
	}
}

func TestClosed(t *testing.T) {
	e := open(t, postgres.Config{URL: newSchema(t)})
	for range 2 {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := e.Do(t.Context(), 0, newAccept()); posthaste.CodeOf(err) != posthaste.CodeUnavailable {
		t.Errorf("Do: got %v, want code unavailable", err)
	}
	if _, err := e.NextDue(t.Context()); posthaste.CodeOf(err) != posthaste.CodeUnavailable {
		t.Errorf("NextDue: got %v, want code unavailable", err)
	}
	if _, err := e.Version(t.Context(), 1); posthaste.CodeOf(err) != posthaste.CodeUnavailable {
		t.Errorf("Version: got %v, want code unavailable", err)
	}
}

// Behind a pooler the session's settings and statements do not last.
func TestExecModes(t *testing.T) {
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			e := open(t, postgres.Config{URL: newSchema(t), ExecMode: mode, Shards: 2})
			exercise(t, e)
		})
	}
}

// exercise runs statements of every kind.
func exercise(t *testing.T, e *postgres.Engine) {
	t.Helper()
	ctx := t.Context()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key := store.ConfigKey{Tenant: tenant, Kind: store.ConfigURLGroup, Name: "g'\\"}
	tick := store.TickRef{Tenant: tenant, Schedule: "s"}
	do(t, e, &op{want: store.Want{Tenants: []posthaste.TenantID{tenant}, Config: []store.ConfigKey{key}, Tick: &tick}, decide: func(v *store.View, c *store.Changes) error {
		c.Config = append(c.Config, &store.ConfigRow{ConfigKey: key, Value: []byte("\x00\\'\xff"), CreatedAt: v.Now, UpdatedAt: v.Now})
		c.Tick = &store.Tick{TickRef: tick, Next: v.Now}
		c.Raise = append(c.Raise, tenant)
		return nil
	}})
	if r, err := e.Config(ctx, key); err != nil || r == nil || string(r.Value) != "\x00\\'\xff" {
		t.Errorf("got row %+v, %v", r, err)
	}
	q, k := store.NewGateRef(e.Shards(), tenant, store.KindQueue, "q"), store.NewGateRef(e.Shards(), tenant, store.KindFlow, "k")
	gates := []store.GateRef{q, k}
	slices.SortFunc(gates, store.GateRef.Compare)
	dedup := store.NewDedupKey(e.Shards(), tenant, "d")
	quota := store.QuotaKey{Tenant: tenant, Day: 3}
	var waiting, delayed, ready *store.Ticket
	do(t, e, &op{
		want: store.Want{Tenants: []posthaste.TenantID{tenant}, Gates: gates, Heads: 2, Dedup: []store.DedupKey{dedup}, Quota: []store.QuotaKey{quota}},
		decide: func(v *store.View, c *store.Changes) error {
			m := func() *posthaste.Message {
				m := &posthaste.Message{ID: newID(v.Now, q.Shard), Tenant: tenant, URL: "https://example.com", CreatedAt: v.Now, NotBefore: v.Now}
				c.Messages = append(c.Messages, m)
				return m
			}
			waiting = &store.Ticket{ID: m().ID, Tenant: tenant, Phase: posthaste.PhaseWaiting, Path: gates, ParkedAt: k, Rank: 1, Place: 5, Due: v.Now}
			delayed = &store.Ticket{ID: m().ID, Tenant: tenant, Phase: posthaste.PhaseDelayed, Path: gates, Due: v.Now.Add(time.Millisecond)}
			ready = &store.Ticket{ID: m().ID, Tenant: tenant, Phase: posthaste.PhaseReady, Due: v.Now}
			c.Put = append(c.Put, waiting, delayed, ready)
			for _, g := range gates {
				c.Gates = append(c.Gates, &store.Gate{GateRef: g, Live: 1, CreatedAt: v.Now})
			}
			c.Slots = append(c.Slots, &store.Slot{SlotRef: store.SlotRef{Source: waiting.ID, Queue: q}, Open: 1})
			c.Dedup = append(c.Dedup, &store.Dedup{DedupKey: dedup, Message: waiting.ID, Expires: v.Now})
			c.Quota = append(c.Quota, store.QuotaAdd{QuotaKey: quota, N: 2}, store.QuotaAdd{QuotaKey: store.QuotaKey{Tenant: tenant, Day: 4}, N: 1})
			c.Dead = append(c.Dead, &posthaste.DeadLetter{ID: posthaste.NewDeadLetterID(v.Now, 9), Tenant: tenant, Message: ready.ID, At: v.Now})
			return nil
		},
	})
	time.Sleep(2 * time.Millisecond)
	due, err := e.NextDue(ctx)
	check(err)
	if d := due[q.Shard]; d.Tickets.IsZero() || due[k.Shard].Waiting.IsZero() || due[0].Tick.IsZero() {
		t.Errorf("got due %+v", due)
	}
	got, err := e.Ticket(ctx, waiting.ID)
	check(err)
	if got == nil || !got.Due.Equal(waiting.Due) || got.ParkedAt != k || got.Place != 5 {
		t.Errorf("got ticket %+v, want %+v", got, waiting)
	}
	ripe := &store.Ripe{Shard: q.Shard, Before: time.Now().Add(time.Minute), Limit: 10, PerTenant: 5}
	do(t, e, &op{want: store.Want{Ripe: ripe}, decide: func(v *store.View, c *store.Changes) error {
		if len(v.Ripe) != 2 || v.Ripe[0].ID != ready.ID || v.Ripe[1].ID != delayed.ID {
			t.Errorf("got ripe %+v", v.Ripe)
			return nil
		}
		r := v.Ripe[0]
		r.Phase, r.Node = posthaste.PhaseClaimed, store.NodeEpoch{Node: "a", Epoch: 1}
		c.Put = append(c.Put, r)
		return nil
	}})
	// The head leaves, with what it holds.
	do(t, e, &op{
		want: store.Want{
			Gates: gates, Heads: 2, Slots: []store.SlotRef{{Source: waiting.ID, Queue: q}}, Tickets: []posthaste.MessageID{waiting.ID, ready.ID},
			Dead: []store.DeadKey{{Tenant: tenant, ID: posthaste.NewDeadLetterID(time.Now(), 1)}}, Quota: []store.QuotaKey{quota}, Dedup: []store.DedupKey{dedup},
		},
		decide: func(v *store.View, c *store.Changes) error {
			h := v.Heads[slices.Index(gates, k)]
			if len(h) != 1 || h[0] != v.Tickets[0] || v.Slots[0] == nil || v.Quota[0] != 2 || v.Dedup[0] == nil || v.Dead[0] != nil {
				t.Errorf("got view %+v", v)
				return nil
			}
			c.Drop = append(c.Drop, v.Tickets...)
			c.Slots = append(c.Slots, &store.Slot{SlotRef: v.Slots[0].SlotRef})
			c.Marks = append(c.Marks, store.Mark{Tenant: tenant, Message: waiting.ID, State: posthaste.StateCanceled, At: v.Now})
			c.Restarted = append(c.Restarted, v.Tickets[1])
			c.ConfigGone = append(c.ConfigGone, key)
			c.TickGone = &tick
			return nil
		},
	})
	tickets, err := e.TicketList(ctx, tenant, "", 10)
	check(err)
	if len(tickets) != 1 || tickets[0].ID != delayed.ID {
		t.Errorf("got tickets %+v", tickets)
	}
	list, err := e.MessageList(ctx, tenant, "", store.Page{Limit: 10, Desc: true})
	check(err)
	if len(list) != 3 {
		t.Errorf("got %d messages, want 3", len(list))
	}
	for s := store.StreamCreated; s <= store.StreamMarks; s++ {
		for _, desc := range []bool{true, false} {
			_, err := e.LogRows(ctx, tenant, s, store.LogPos{}, store.Page{Limit: 5, Desc: desc})
			check(err)
		}
	}
	_, err = e.Awake(ctx, 0, time.Now(), 5)
	check(err)
	_, err = e.GateList(ctx, tenant, store.KindFlow, "", 5)
	check(err)
	_, err = e.Claims(ctx, store.NodeEpoch{}, "", 5)
	check(err)
	_, err = e.Claims(ctx, store.NodeEpoch{Node: "a", Epoch: 1}, "", 5)
	check(err)
	_, err = e.DeadLetters(ctx, tenant, "", store.Page{Limit: 5})
	check(err)
	_, err = e.Messages(ctx, []store.MessageKey{{Tenant: tenant, ID: ready.ID}})
	check(err)
	_, err = e.Tickets(ctx, []posthaste.MessageID{ready.ID})
	check(err)
	l, err := e.Join(ctx, store.NodeInfo{Name: "a", TTL: time.Minute})
	check(err)
	l, err = e.Renew(ctx, l)
	check(err)
	check(e.Leave(ctx, l))
	if x, err := e.Expired(ctx); err != nil || !slices.Contains(x, l.NodeEpoch) {
		t.Errorf("got expired %v, %v", x, err)
	}
	check(e.Forget(ctx, l.NodeEpoch))
	for more := true; more; {
		more, err = e.Trim(ctx, store.TrimParams{Now: time.Now().Add(time.Hour), Keep: store.Keep{Messages: time.Now().Add(time.Hour), Dead: time.Now().Add(time.Hour)}, Limit: 100})
		check(err)
	}
	list, err = e.MessageList(ctx, tenant, "", store.Page{Limit: 10})
	check(err)
	if len(list) != 1 || list[0].ID != delayed.ID {
		t.Errorf("got %d messages after retention, want the pending one", len(list))
	}
}

func TestMigrate(t *testing.T) {
	url := newSchema(t)
	var group sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		group.Go(func() {
			e, err := postgres.Open(t.Context(), postgres.Config{URL: url, Shards: 3 + i})
			if err == nil {
				err = errors.Join(e.Migrate(t.Context()), e.Close())
			}
			errs[i] = err
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	e := open(t, postgres.Config{URL: url, Shards: 100})
	if n := e.Shards(); n < 3 || n > 8 {
		t.Errorf("got %d shards, want what was chosen first", n)
	}
	sqlDo(t, url, "UPDATE meta SET value = value + 1 WHERE key = 'schema'")
	if err := e.Migrate(t.Context()); posthaste.CodeOf(err) != posthaste.CodeConflict {
		t.Errorf("got %v from a newer schema, want code conflict", err)
	}
	if _, err := postgres.Open(t.Context(), postgres.Config{URL: url}); posthaste.CodeOf(err) != posthaste.CodeConflict {
		t.Errorf("got %v from a newer schema, want code conflict", err)
	}
}

// The files of the schema are a list that only grows.
func TestSchemaFiles(t *testing.T) {
	files, err := os.ReadDir("schema")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	if want := []string{"1.sql"}; !slices.Equal(names, want) || len(names) != postgres.SchemaVersion {
		t.Errorf("got files %v and version %d, want %v", names, postgres.SchemaVersion, want)
	}
}

func TestLease(t *testing.T) {
	url := newSchema(t)
	a, b := open(t, postgres.Config{URL: url}), open(t, postgres.Config{URL: url})
	ctx := t.Context()
	l, err := a.Join(ctx, store.NodeInfo{Name: "a", TTL: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	addTenant(t, a)
	time.Sleep(80 * time.Millisecond)
	if x, err := b.Expired(ctx); err != nil || !slices.Contains(x, l.NodeEpoch) {
		t.Errorf("got expired %v, %v; want %v", x, err, l.NodeEpoch)
	}
	if _, err := a.Renew(ctx, l); posthaste.CodeOf(err) != posthaste.CodeConflict {
		t.Errorf("renew a lease that is over: got %v, want code conflict", err)
	}
	if err := b.Forget(ctx, l.NodeEpoch); err != nil {
		t.Fatal(err)
	}
	if x, err := b.Expired(ctx); err != nil || len(x) > 0 {
		t.Errorf("got expired %v, %v; want none", x, err)
	}
	// A commit that came late.
	late := newAccept()
	do(t, a, late)
	if x, err := b.Expired(ctx); err != nil || !slices.Contains(x, l.NodeEpoch) {
		t.Errorf("got expired %v, %v; want %v, which has a claim after all", x, err, l.NodeEpoch)
	}
	do(t, b, settle(late.m.ID))
	if x, err := b.Expired(ctx); err != nil || len(x) > 0 {
		t.Errorf("got expired %v, %v; want none", x, err)
	}
	again, err := b.Join(ctx, store.NodeInfo{Name: "a", TTL: time.Minute})
	if err != nil || again.Epoch != l.Epoch+1 {
		t.Errorf("got lease %+v, %v; want epoch %d", again, err, l.Epoch+1)
	}
}

// A trace collects statements and their parameters.
type trace struct {
	mu   sync.Mutex
	args map[string][]any
}

func (r *trace) note(sql string, args []any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.args == nil {
		r.args = map[string][]any{}
	}
	r.args[sql] = args
}

func (r *trace) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	r.note(d.SQL, d.Args)
	return ctx
}
func (r *trace) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (r *trace) TraceBatchStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceBatchStartData) context.Context {
	for _, q := range d.Batch.QueuedQueries {
		r.note(q.SQL, q.Arguments)
	}
	return ctx
}
func (r *trace) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (r *trace) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// hotTables are those that grow with the load.
var hotTables = []string{"messages", "attempts", "marks", "dead_letters", "tickets", "waits", "gates", "slots", "dedup", "quota"}

func TestPlans(t *testing.T) {
	url := newSchema(t)
	var seen trace
	e := open(t, postgres.WithTracer(postgres.Config{URL: url, Shards: 2}, &seen))
	sqlDo(t, url, `
		INSERT INTO messages SELECT i % 2, i % 3, 'msg_' || lpad(i::text, 26, '0'), 20000, true, '', '' FROM generate_series(1, 2000) i;
		INSERT INTO attempts SELECT i % 2, i % 3, 'msg_' || lpad(i::text, 26, '0'), 0, 20000, i, i, i % 2 = 0, '' FROM generate_series(1, 2000) i;
		INSERT INTO marks SELECT i % 2, i % 3, i, 'msg_' || lpad(i::text, 26, '0'), 0, 20000 FROM generate_series(1, 2000) i;
		INSERT INTO dead_letters SELECT i % 2, i % 3, 4000000000000 + i, i, 'msg_' || lpad(i::text, 26, '0'), decode(repeat('00', 400), 'hex') FROM generate_series(1, 2000) i;
		INSERT INTO tickets (shard, id, tenant, due, plain, node, epoch, data)
			SELECT i % 2, 'msg_' || lpad(i::text, 26, '0'), i % 3, CASE WHEN i % 5 > 0 THEN 4000000000000000 + i END, true,
			CASE WHEN i % 5 = 0 THEN 'n' || i % 100 END, CASE WHEN i % 5 = 0 THEN 1 END, '' FROM generate_series(1, 2000) i;
		INSERT INTO waits SELECT i % 2, 2, i % 3, 'k' || i % 50, 1, i, 'msg_' || lpad(i::text, 26, '0'), CASE WHEN i % 100 = 0 THEN 4000000000000000 END, ''
			FROM generate_series(1, 2000) i;
		INSERT INTO gates SELECT i % 2, 2, i % 3, 'g' || i, '\x0401' FROM generate_series(1, 2000) i;
		INSERT INTO slots SELECT i % 2, 'msg_' || lpad(i::text, 26, '0'), 1, i % 3, 'q', 0, 1 FROM generate_series(1, 2000) i;
		INSERT INTO dedup SELECT i % 2, i % 3, 'd' || i, 'x', 4000000000000000 + i FROM generate_series(1, 2000) i;
		INSERT INTO quota SELECT i % 2, i, 1000000, 0, 1 FROM generate_series(1, 2000) i;
		INSERT INTO tenants SELECT i, 1 FROM generate_series(0, 2) i;
		ANALYZE`)
	exercise(t, e)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	// As on any disk of today.
	if _, err := conn.Exec(t.Context(), "SET random_page_cost = 1.1"); err != nil {
		t.Fatal(err)
	}
	n := 0
	for sql, args := range seen.args {
		if strings.HasPrefix(strings.ToUpper(sql), "BEGIN") || strings.EqualFold(sql, "COMMIT") || strings.HasPrefix(sql, "ROLLBACK") ||
			strings.Contains(sql, "set_config") || strings.Contains(sql, "meta") || strings.Contains(sql, "CREATE TABLE") || strings.Contains(sql, "advisory") {
			continue
		}
		n++
		if fault := scattered(sql); fault != "" {
			t.Errorf("%s:\n%s", fault, sql)
		}
		for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
			if _, err := conn.Exec(t.Context(), "SET plan_cache_mode = "+mode); err != nil {
				t.Fatal(err)
			}
			plan := explain(t, conn, sql, args)
			for _, table := range hotTables {
				// The counters are few and are looked through when days are over.
				if strings.Contains(plan, "Seq Scan on "+table+" ") && table != "quota" {
					t.Errorf("%s, %s is scanned:\n%s\n%s", mode, table, sql, plan)
				}
			}
		}
	}
	if n < 50 {
		t.Errorf("got %d statements, want all that there are", n)
	}
}

// scattered says what is wrong with a statement where large tables are spread over machines by their shards; empty: nothing.
func scattered(sql string) string {
	upper := strings.ToUpper(sql)
	large := slices.ContainsFunc(hotTables, func(table string) bool { return regexp.MustCompile(`\b` + table + `\b`).MatchString(sql) })
	one := strings.Contains(sql, "shard = $1") || strings.Contains(sql, "SELECT $1,") || strings.Contains(sql, "::smallint AND ")
	switch {
	case !large || isTrim(sql):
		return ""
	case strings.Contains(upper, "FOR UPDATE") && !strings.Contains(sql, "shard = $1"):
		return "it locks rows of several shards"
	case strings.Contains(sql, "generate_series"):
		return "it joins shards"
	case strings.HasPrefix(strings.TrimLeft(upper, "( "), "SELECT") && !one:
		return "it reads several shards"
	}
	return ""
}

// isTrim reports whether a statement belongs to retention, whose walks look for dead letters in all shards.
func isTrim(sql string) bool { return strings.Contains(sql, "MATERIALIZED") }

func explain(t *testing.T, conn *pgx.Conn, sql string, args []any) string {
	t.Helper()
	ctx := t.Context()
	if _, err := conn.Exec(ctx, "DEALLOCATE ALL"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(ctx, "PREPARE p AS "+sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
	call := "EXPLAIN EXECUTE p"
	for i := range args {
		call += map[bool]string{true: " (", false: ", "}[i == 0] + "$" + itoa(i+1)
	}
	if len(args) > 0 {
		call += ")"
	}
	rows, err := conn.Query(ctx, call, append([]any{pgx.QueryExecModeSimpleProtocol}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
	return strings.Join(lines, "\n")
}
