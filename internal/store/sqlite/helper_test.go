package sqlite_test

import (
	"encoding/binary"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/store/sqlite"
)

const tenant posthaste.TenantID = 7

// An op is an operation made of its two halves.
type op struct {
	want   store.Want
	size   int
	decide func(v *store.View, c *store.Changes) error
}

func (o *op) Want() *store.Want                            { return &o.want }
func (o *op) Size() int                                    { return o.size }
func (o *op) Decide(v *store.View, c *store.Changes) error { return o.decide(v, c) }

// testClock shows a time that the test sets.
type testClock struct{ us atomic.Int64 }

func newClock() *testClock {
	c := new(testClock)
	c.us.Store(time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC).UnixMicro())
	return c
}

func (c *testClock) Now() time.Time          { return time.UnixMicro(c.us.Load()).UTC() }
func (c *testClock) advance(d time.Duration) { c.us.Add(d.Microseconds()) }

func open(t testing.TB, cfg sqlite.Config) *sqlite.Engine {
	t.Helper()
	if cfg.Path == "" && !cfg.InMemory {
		cfg.Path = filepath.Join(t.TempDir(), "data")
	}
	e, err := sqlite.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func do(t testing.TB, e *sqlite.Engine, o store.Op) {
	t.Helper()
	if err := e.Do(t.Context(), 0, o); err != nil {
		t.Fatal(err)
	}
}

// change returns an operation that reads nothing and makes the given changes.
func change(f func(now time.Time, c *store.Changes)) *op {
	return &op{decide: func(v *store.View, c *store.Changes) error {
		f(v.Now, c)
		return nil
	}}
}

var nonces atomic.Uint32

func newID(now time.Time) posthaste.MessageID {
	var n posthaste.Nonce
	binary.BigEndian.PutUint32(n[:], nonces.Add(1))
	return posthaste.NewMessageID(now, 0, n)
}

// join makes e the engine of a node.
func join(tb testing.TB, e *sqlite.Engine) {
	tb.Helper()
	if _, err := e.Join(tb.Context(), store.NodeInfo{Name: "node-1", TTL: time.Hour}); err != nil {
		tb.Fatal(err)
	}
}

// accept is the shape of the operation that takes in a plain message and claims it at once.
type accept struct {
	want store.Want
	node store.NodeEpoch
	m    *posthaste.Message
	t    *store.Ticket
}

func newAccept(body []byte) *accept {
	return &accept{
		want: store.Want{Tenants: []posthaste.TenantID{tenant}},
		node: store.NodeEpoch{Node: "node-1", Epoch: 1},
		m: &posthaste.Message{
			Tenant: tenant, URL: "https://example.com/hooks/incoming", Method: "POST", Body: body,
			Header:     posthaste.Header{"Content-Type": {"application/json"}},
			MaxRetries: 3, Timeout: 30 * time.Second, CallerIP: "192.0.2.10",
		},
	}
}

func (a *accept) Want() *store.Want { return &a.want }

func (a *accept) Decide(v *store.View, c *store.Changes) error {
	id := newID(v.Now)
	a.m.ID, a.m.CreatedAt, a.m.NotBefore, a.m.ClaimedAtOnce = id, v.Now, v.Now, true
	a.t = &store.Ticket{
		ID: id, Tenant: tenant, Host: "example.com", Phase: posthaste.PhaseClaimed, Due: v.Now,
		Node: a.node, Fence: 1, StartedAt: v.Now, AtOnce: true,
	}
	c.Messages = append(c.Messages, a.m)
	c.Put = append(c.Put, a.t)
	return nil
}

// settle is the shape of the operation that ends a claimed message after a 2xx answer.
type settle struct {
	want store.Want
	a    posthaste.Attempt
}

func newSettle(id posthaste.MessageID) *settle {
	return &settle{
		want: store.Want{Tenants: []posthaste.TenantID{tenant}, Tickets: []posthaste.MessageID{id}},
		a: posthaste.Attempt{
			Tenant: tenant, Message: id, Outcome: posthaste.OutcomeDelivered, Status: 200, AtOnce: true, Took: time.Millisecond,
			State: posthaste.StateDelivered, Body: []byte(`{"ok":true}`),
			Header: posthaste.Header{"Content-Type": {"application/json"}, "Date": {"Mon, 04 May 2026 12:00:00 GMT"}},
		},
	}
}

func (s *settle) Want() *store.Want { return &s.want }

func (s *settle) Decide(v *store.View, c *store.Changes) error {
	t := v.Tickets[0]
	if t == nil || t.Phase != posthaste.PhaseClaimed {
		return store.ErrStale
	}
	s.a.StartedAt, s.a.EndedAt = t.StartedAt, v.Now
	c.Drop = append(c.Drop, t)
	c.Attempts = append(c.Attempts, &s.a)
	return nil
}
