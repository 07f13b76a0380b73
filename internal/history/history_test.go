package history_test

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/history"
	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/store/sqlite"
	"github.com/posthaste/posthaste/internal/wire"
)

const tenant posthaste.TenantID = 7

var begin = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// A past is written straight into a store, so that its moments can be chosen.
type past struct {
	t      testing.TB
	engine *sqlite.Engine
	next   store.Changes
	nonce  uint32
}

func newPast(t testing.TB) *past {
	t.Helper()
	e, err := sqlite.Open(context.Background(), sqlite.Config{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return &past{t: t, engine: e}
}

type write struct{ changes *store.Changes }

func (w write) Want() *store.Want { return &store.Want{} }

func (w write) Decide(_ *store.View, c *store.Changes) error {
	c.Messages = append(c.Messages, w.changes.Messages...)
	c.Attempts = append(c.Attempts, w.changes.Attempts...)
	c.Marks = append(c.Marks, w.changes.Marks...)
	c.Put = append(c.Put, w.changes.Put...)
	return nil
}

func (p *past) flush() {
	p.t.Helper()
	if err := p.engine.Do(context.Background(), 0, write{&p.next}); err != nil {
		p.t.Fatal(err)
	}
	p.next = store.Changes{}
}

// message adds a message that was accepted at the given moment, and claimed at once or not.
func (p *past) message(at time.Time, atOnce bool, labels ...string) *posthaste.Message {
	p.t.Helper()
	if len(p.next.Messages) >= 500 {
		p.flush()
	}
	p.nonce++
	var n posthaste.Nonce
	binary.BigEndian.PutUint32(n[:], p.nonce)
	m := &posthaste.Message{
		ID: posthaste.NewMessageID(at, 0, n), Tenant: tenant, URL: "https://example.com/a", Method: "POST", MaxRetries: 3,
		CreatedAt: at, NotBefore: at, Labels: labels, ClaimedAtOnce: atOnce,
	}
	p.next.Messages = append(p.next.Messages, m)
	return m
}

func (p *past) attempt(m *posthaste.Message, number int, started, ended time.Time, state posthaste.LogState) {
	a := &posthaste.Attempt{
		Tenant: tenant, Message: m.ID, Number: number, StartedAt: started, EndedAt: ended, Outcome: posthaste.OutcomeStatus,
		Status: 500, Error: "500 Internal Server Error", State: state, AtOnce: number == 0 && m.ClaimedAtOnce,
	}
	if state == posthaste.StateDelivered {
		a.Outcome, a.Status, a.Error = posthaste.OutcomeDelivered, 200, ""
	}
	p.next.Attempts = append(p.next.Attempts, a)
}

func (p *past) mark(m *posthaste.Message, state posthaste.LogState, at time.Time) {
	p.next.Marks = append(p.next.Marks, store.Mark{Tenant: tenant, Message: m.ID, State: state, At: at})
}

func (p *past) running(m *posthaste.Message, number int, started time.Time) {
	p.next.Put = append(p.next.Put, &store.Ticket{
		ID: m.ID, Tenant: tenant, Host: "example.com", Phase: posthaste.PhaseClaimed, Attempt: number, StartedAt: started,
		Node: store.NodeEpoch{Node: "node", Epoch: 1}, Fence: 1, AtOnce: number == 0 && m.ClaimedAtOnce,
	})
}

func line(e *posthaste.LogEntry) string {
	return fmt.Sprintf("%s %s %s %d", e.At.Format("15:04:05.000000"), e.Message.ID, e.State, e.Number)
}

func lines(entries []*posthaste.LogEntry) []string {
	out := make([]string, len(entries))
	for i, e := range entries {
		out[i] = line(e)
	}
	return out
}

// byTime sorts the lists of several messages into one.
func byTime(entries []*posthaste.LogEntry) {
	slices.SortStableFunc(entries, func(a, b *posthaste.LogEntry) int {
		return cmp.Or(a.At.Compare(b.At), strings.Compare(string(a.Message.ID), string(b.Message.ID)))
	})
}

// all reads every page. Cursors go the way they go with a client.
func all(t testing.TB, r store.Reader, f wire.LogFilter) (entries []*posthaste.LogEntry, pages int) {
	t.Helper()
	for {
		page, next, err := history.Page(context.Background(), r, tenant, f)
		if err != nil {
			t.Fatal(err)
		}
		pages++
		if len(page) > f.Count {
			t.Fatalf("got a page of %d, want at most %d", len(page), f.Count)
		}
		entries = append(entries, page...)
		if next == "" {
			return entries, pages
		}
		c, err := wire.ParseCursor(next)
		if err != nil {
			t.Fatalf("got the cursor %q, which cannot be passed back: %v", next, err)
		}
		if f.Cursor != nil && *f.Cursor == c {
			t.Fatalf("got the cursor %q twice", next)
		}
		f.Cursor = &c
	}
}

// TestOneMoment: what one operation stores of a message has one moment, and one order, the same in the message's own list and
// in pages of any size. What other messages do at that moment does not come between.
func TestOneMoment(t *testing.T) {
	const (
		delivered, failed, canceled = posthaste.StateDelivered, posthaste.StateFailed, posthaste.StateCanceled
		retry, requested            = posthaste.StateRetry, posthaste.StateCancelRequested
		us                          = time.Microsecond
	)
	tests := []struct {
		name string
		make func(p *past, at time.Time)
		want string
	}{
		{"delivered at once", func(p *past, at time.Time) {
			m := p.message(at, true)
			p.attempt(m, 0, at, at.Add(us), delivered)
		}, "CREATED ACTIVE DELIVERED"},
		{"retried without a wait", func(p *past, at time.Time) {
			m := p.message(at, true)
			p.attempt(m, 0, at, at.Add(us), retry)
			p.attempt(m, 1, at.Add(2*us), at.Add(3*us), retry)
			p.attempt(m, 2, at.Add(4*us), at.Add(5*us), failed)
		}, "CREATED ACTIVE ERROR RETRY ACTIVE ERROR RETRY ACTIVE ERROR FAILED"},
		{"canceled while it waits", func(p *past, at time.Time) {
			m := p.message(at, false)
			p.mark(m, requested, at.Add(us))
			p.mark(m, canceled, at.Add(us))
		}, "CREATED CANCEL_REQUESTED CANCELED"},
		{"canceled in flight", func(p *past, at time.Time) {
			m := p.message(at, true)
			p.mark(m, requested, at.Add(us))
			p.attempt(m, 0, at, at.Add(2*us), canceled)
		}, "CREATED ACTIVE CANCEL_REQUESTED ERROR CANCELED"},
		{"canceled by the end of its queue", func(p *past, at time.Time) {
			m := p.message(at, true)
			p.mark(m, requested, at.Add(us))
			p.attempt(m, 0, at, at.Add(us), canceled)
		}, "CREATED ACTIVE CANCEL_REQUESTED ERROR CANCELED"},
		{"delivered after the end of its queue", func(p *past, at time.Time) {
			m := p.message(at, true)
			p.mark(m, requested, at.Add(us))
			p.attempt(m, 0, at, at.Add(us), delivered)
		}, "CREATED ACTIVE CANCEL_REQUESTED DELIVERED"},
		{"canceled before a retry", func(p *past, at time.Time) {
			m := p.message(at, true)
			p.attempt(m, 0, at, at.Add(us), retry)
			p.attempt(m, 1, at.Add(2*us), at.Add(3*us), retry)
			p.mark(m, requested, at.Add(4*us))
			p.mark(m, canceled, at.Add(4*us))
		}, "CREATED ACTIVE ERROR RETRY ACTIVE ERROR RETRY CANCEL_REQUESTED CANCELED"},
		{"running", func(p *past, at time.Time) {
			m := p.message(at, true)
			p.running(m, 0, at)
		}, "CREATED ACTIVE"},
		{"running once more", func(p *past, at time.Time) {
			m := p.message(at, true)
			p.attempt(m, 0, at, at.Add(us), retry)
			p.running(m, 1, at.Add(2*us))
		}, "CREATED ACTIVE ERROR RETRY ACTIVE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPast(t)
			before := p.message(begin, false)
			tt.make(p, begin)
			after := p.message(begin, true)
			p.attempt(after, 0, begin, begin.Add(time.Microsecond), delivered)
			p.flush()
			var own []*posthaste.LogEntry
			messages, err := p.engine.MessageList(t.Context(), tenant, "", store.Page{Limit: 10})
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range messages {
				entries, err := history.Of(t.Context(), p.engine, m)
				if err != nil {
					t.Fatal(err)
				}
				own = append(own, entries...)
				if m.ID != before.ID && m.ID != after.ID {
					var states []string
					for _, e := range entries {
						states = append(states, string(e.State))
					}
					if got := strings.Join(states, " "); got != tt.want {
						t.Errorf("got %v, want %s", lines(entries), tt.want)
					}
				}
			}
			byTime(own)
			want := lines(own)
			for _, earliestFirst := range []bool{true, false} {
				for count := 1; count <= len(want)+1; count++ {
					got, _ := all(t, p.engine, wire.LogFilter{Count: count, EarliestFirst: earliestFirst})
					if !earliestFirst {
						slices.Reverse(got)
					}
					if diff := gocmp.Diff(want, lines(got)); diff != "" {
						t.Fatalf("earliestFirst %v, pages of %d (-want +got):\n%s", earliestFirst, count, diff)
					}
				}
			}
		})
	}
}

// TestPagesAtRandom: many messages on few moments, in pages of any size, with filters.
func TestPagesAtRandom(t *testing.T) {
	p := newPast(t)
	rng := rand.New(rand.NewPCG(5, 6))
	at := begin
	var messages []*posthaste.Message
	for range 120 {
		if rng.IntN(3) == 0 {
			at = at.Add(time.Duration(rng.IntN(3)) * 400 * time.Microsecond)
		}
		var labels []string
		if rng.IntN(5) == 0 {
			labels = append(labels, "red")
		}
		m := p.message(at, rng.IntN(2) == 0, labels...)
		messages = append(messages, m)
		started := at
		for n := 0; ; n++ {
			if n > 0 || !m.ClaimedAtOnce {
				started = started.Add(time.Duration(1+rng.IntN(4)) * 300 * time.Microsecond)
			}
			ended := started.Add(time.Duration(1+rng.IntN(3)) * 500 * time.Microsecond)
			switch rng.IntN(7) {
			case 0:
				p.attempt(m, n, started, ended, posthaste.StateDelivered)
			case 1:
				p.attempt(m, n, started, ended, posthaste.StateFailed)
			case 2:
				p.running(m, n, started)
			case 3:
				if n == 0 && m.ClaimedAtOnce {
					p.running(m, n, started)
					break
				}
				p.mark(m, posthaste.StateCancelRequested, started)
				p.mark(m, posthaste.StateCanceled, started)
			case 4:
				p.mark(m, posthaste.StateCancelRequested, started.Add(100*time.Microsecond))
				p.attempt(m, n, started, ended, posthaste.StateCanceled)
			case 5:
				p.mark(m, posthaste.StateCancelRequested, ended)
				p.attempt(m, n, started, ended, posthaste.StateCanceled)
			default:
				p.attempt(m, n, started, ended, posthaste.StateRetry)
				started = ended
				continue
			}
			break
		}
	}
	p.flush()
	var own []*posthaste.LogEntry
	for _, m := range messages {
		entries, err := history.Of(t.Context(), p.engine, m)
		if err != nil {
			t.Fatal(err)
		}
		own = append(own, entries...)
	}
	byTime(own)
	one := own[len(own)/2].At
	filters := map[string]wire.LogFilter{
		"from one":  {Filter: wire.Filter{From: one}},
		"to one":    {Filter: wire.Filter{To: one}},
		"at one":    {Filter: wire.Filter{From: one, To: one}},
		"all":       {},
		"label":     {Filter: wire.Filter{Labels: []string{"red"}}},
		"state":     {States: []posthaste.LogState{posthaste.StateActive, posthaste.StateCanceled}},
		"from":      {Filter: wire.Filter{From: begin.Add(20 * time.Millisecond)}},
		"to":        {Filter: wire.Filter{To: begin.Add(20*time.Millisecond - 1)}},
		"all three": {Filter: wire.Filter{Labels: []string{"red"}, From: begin.Add(5 * time.Millisecond)}, States: []posthaste.LogState{posthaste.StateError}},
	}
	for name, f := range filters {
		want := lines(slices.DeleteFunc(slices.Clone(own), func(e *posthaste.LogEntry) bool {
			return !history.Match(e.Message, &f.Filter) || len(f.States) > 0 && !slices.Contains(f.States, e.State) ||
				e.At.Before(f.From) || !f.To.IsZero() && e.At.After(f.To)
		}))
		for _, f.EarliestFirst = range []bool{true, false} {
			for _, f.Count = range []int{1, 7, 100, 1000} {
				got, _ := all(t, p.engine, f)
				if !f.EarliestFirst {
					slices.Reverse(got)
				}
				if diff := gocmp.Diff(want, lines(got)); diff != "" {
					t.Fatalf("%s, earliestFirst %v, pages of %d (-want +got):\n%s", name, f.EarliestFirst, f.Count, clip(diff))
				}
			}
		}
	}
}

func clip(s string) string {
	if len(s) > 1500 {
		return s[:1500] + "…"
	}
	return s
}

// counting counts the rows that a page costs.
type counting struct {
	store.Reader
	rows, messages int
	claims         []*store.Ticket // found instead of the real ones
}

func (c *counting) LogRows(ctx context.Context, tenant posthaste.TenantID, s store.LogStream, from store.LogPos, p store.Page) ([]store.LogRow, error) {
	rows, err := c.Reader.LogRows(ctx, tenant, s, from, p)
	c.rows += len(rows)
	return rows, err
}

func (c *counting) Messages(ctx context.Context, ids []store.MessageKey) ([]*posthaste.Message, error) {
	c.messages += len(ids)
	return c.Reader.Messages(ctx, ids)
}

func (c *counting) Claims(ctx context.Context, n store.NodeEpoch, after posthaste.MessageID, limit int) ([]*store.Ticket, error) {
	if c.claims == nil {
		return c.Reader.Claims(ctx, n, after, limit)
	}
	if after != "" {
		return nil, nil
	}
	return c.claims, nil
}

// TestSelectiveFilter: a page whose filter hardly anything passes ends after a bounded number of rows, with a cursor by which
// the rest is found.
func TestSelectiveFilter(t *testing.T) {
	p := newPast(t)
	const messages = 9000
	for i := range messages {
		at := begin.Add(time.Duration(i) * time.Millisecond)
		var labels []string
		if i%3000 == 100 {
			labels = []string{"rare"}
		}
		m := p.message(at, i%2 == 0, labels...)
		p.attempt(m, 0, at, at.Add(time.Millisecond), posthaste.StateRetry)
		p.attempt(m, 1, at.Add(10*time.Second), at.Add(10*time.Second+time.Millisecond), posthaste.StateDelivered)
	}
	p.flush()
	for _, earliestFirst := range []bool{true, false} {
		f := wire.LogFilter{Filter: wire.Filter{Labels: []string{"rare"}}, Count: 100, EarliestFirst: earliestFirst}
		r := &counting{Reader: p.engine}
		if _, next, err := history.Page(t.Context(), r, tenant, f); err != nil || next == "" {
			t.Errorf("earliestFirst %v: got cursor %q, %v, want one", earliestFirst, next, err)
		}
		if r.rows > 6000 || r.messages > 6000 {
			t.Errorf("earliestFirst %v: got %d rows and %d messages read for one page, want at most 6000", earliestFirst, r.rows, r.messages)
		}
		got, pages := all(t, r, f)
		if len(got) != 3*6 || pages < 5 {
			t.Errorf("earliestFirst %v: got %d entries in %d pages, want 18 in many", earliestFirst, len(got), pages)
		}
		// A date takes a page straight to its entries.
		f.From, f.To = begin.Add(3099*time.Millisecond), begin.Add(3101*time.Millisecond)
		r = &counting{Reader: p.engine}
		got, pages = all(t, r, f)
		if len(got) != 4 || pages != 1 || r.rows > 2000 {
			t.Errorf("earliestFirst %v: got %d entries in %d pages of %d rows, want 4 in 1", earliestFirst, len(got), pages, r.rows)
		}
	}
}

// TestAttemptEndsDuringReading: an attempt that is seen running, and then as ended, is there once.
func TestAttemptEndsDuringReading(t *testing.T) {
	p := newPast(t)
	r := &counting{Reader: p.engine}
	for i := range 600 {
		at := begin.Add(time.Duration(i) * time.Millisecond)
		m := p.message(at, false)
		started := at.Add(10 * time.Millisecond)
		p.attempt(m, 0, started, started.Add(10*time.Millisecond), posthaste.StateDelivered)
		r.claims = append(r.claims, &store.Ticket{ID: m.ID, Tenant: tenant, Phase: posthaste.PhaseClaimed, StartedAt: started})
	}
	p.flush()
	for _, earliestFirst := range []bool{true, false} {
		for _, count := range []int{1000, 5000, 100, 37} {
			got, _ := all(t, r, wire.LogFilter{Count: count, EarliestFirst: earliestFirst})
			seen := map[string]bool{}
			for _, l := range lines(got) {
				if seen[l] {
					t.Fatalf("earliestFirst %v, pages of %d: got %s twice", earliestFirst, count, l)
				}
				seen[l] = true
			}
			if len(got) != 1800 {
				t.Errorf("earliestFirst %v, pages of %d: got %d entries, want 1800", earliestFirst, count, len(got))
			}
		}
	}
}

// TestOtherTenants: a page has nothing of another tenant, running or not.
func TestOtherTenants(t *testing.T) {
	p := newPast(t)
	m := p.message(begin, false)
	p.running(m, 0, begin)
	p.mark(m, posthaste.StateCancelRequested, begin)
	p.flush()
	for _, f := range []wire.LogFilter{{Count: 10}, {Count: 10, Filter: wire.Filter{MessageIDs: []posthaste.MessageID{m.ID}}}} {
		page, next, err := history.Page(t.Context(), p.engine, tenant+1, f)
		if err != nil || len(page) != 0 || next != "" {
			t.Errorf("got %v, %q, %v, want nothing", lines(page), next, err)
		}
	}
}

// FuzzCursor: whatever a client passes as a cursor, it gets a page of what lies behind it or a clear refusal.
func FuzzCursor(f *testing.F) {
	p := newPast(f)
	for i := range 20 {
		at := begin.Add(time.Duration(i) * 700 * time.Microsecond)
		m := p.message(at, i%2 == 0)
		p.attempt(m, 0, at, at.Add(time.Millisecond), posthaste.StateDelivered)
	}
	p.flush()
	whole := func(t testing.TB, earliestFirst bool) []string {
		entries, _ := all(t, p.engine, wire.LogFilter{Count: 1000, EarliestFirst: earliestFirst})
		return lines(entries)
	}
	rising, falling := whole(f, true), whole(f, false)
	_, cursor, err := history.Page(context.Background(), p.engine, tenant, wire.LogFilter{Count: 7})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		cursor, "1777896000000", "1777896000005", "0", "9223372036854775807", "9223372036854775", "9223372036854774-0.x.0", "1777896000000-999.msg_x.1",
		"1-0", "1-0.a.1", "1-0.a.-1", "1-1000.a.1", "1--1.a.1", "1-0.a.99999999999", "1-0..0", "1-0.a.4294967296", "-", "",
	} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	f.Fuzz(func(t *testing.T, text string, earliestFirst bool) {
		c, err := wire.ParseCursor(text)
		if err != nil {
			return
		}
		filter := wire.LogFilter{Count: 1000, Cursor: &c, EarliestFirst: earliestFirst}
		page, next, err := history.Page(t.Context(), p.engine, tenant, filter)
		if err != nil {
			if posthaste.CodeOf(err) != posthaste.CodeInvalid {
				t.Errorf("%q: got %v, want a refusal of code %s", text, err, posthaste.CodeInvalid)
			}
			return
		}
		list := falling
		if earliestFirst {
			list = rising
		}
		got := lines(page)
		if next != "" || len(got) > len(list) || !slices.Equal(got, list[len(list)-len(got):]) {
			t.Errorf("%q: got %v and cursor %q, want the last entries of %v", text, got, next, list)
		}
		if c.Rest != "" {
			return
		}
		// A bare time goes on with that time.
		for _, e := range list[:len(list)-len(got)] {
			at, err := time.Parse("15:04:05.000000", strings.Fields(e)[0])
			if err != nil {
				t.Fatal(err)
			}
			at = begin.Truncate(24 * time.Hour).Add(at.Sub(at.Truncate(24 * time.Hour)))
			if ms := at.UnixMilli(); ms == c.Millis || (ms > c.Millis) == earliestFirst {
				t.Errorf("%q: got no %s", text, e)
			}
		}
	})
}
