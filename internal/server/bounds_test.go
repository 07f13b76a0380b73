package server_test

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/server"
	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/store/sqlite"
)

// counting is an engine that counts what is asked of it.
type counting struct {
	store.Engine

	mu      sync.Mutex
	steps   int // operations of bulk requests
	largest int // of what one of them changed
	rows    int // that were read
}

// Do implements [store.Engine].
func (c *counting) Do(ctx context.Context, lane int, op store.Op) error {
	n := 0
	switch op := op.(type) {
	case *ledger.Cancel:
		n = len(op.Known)
	case *ledger.DeleteDead:
		n = len(op.Keys)
	case *ledger.Accept:
		if op.Drafts[0].Dead.ID != "" {
			n = len(op.Drafts)
		}
	}
	c.mu.Lock()
	if n > 0 {
		c.steps++
		c.largest = max(c.largest, n)
	}
	c.mu.Unlock()
	return c.Engine.Do(ctx, lane, op)
}

func (c *counting) read(n int) {
	c.mu.Lock()
	c.rows += n
	c.mu.Unlock()
}

// Messages implements [store.Reader].
func (c *counting) Messages(ctx context.Context, ids []store.MessageKey) ([]*posthaste.Message, error) {
	c.read(len(ids))
	return c.Engine.Messages(ctx, ids)
}

// LogRows implements [store.Reader].
func (c *counting) LogRows(ctx context.Context, tenant posthaste.TenantID, s store.LogStream, from store.LogPos, p store.Page) ([]store.LogRow, error) {
	rows, err := c.Engine.LogRows(ctx, tenant, s, from, p)
	c.read(len(rows))
	return rows, err
}

// DeadLetters implements [store.Reader].
func (c *counting) DeadLetters(ctx context.Context, tenant posthaste.TenantID, from posthaste.DeadLetterID, p store.Page) ([]*posthaste.DeadLetter, error) {
	list, err := c.Engine.DeadLetters(ctx, tenant, from, p)
	c.read(len(list))
	return list, err
}

// take returns the counts since the last call.
func (c *counting) take() (steps, largest, rows int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	steps, largest, rows = c.steps, c.largest, c.rows
	c.steps, c.largest, c.rows = 0, 0, 0
	return steps, largest, rows
}

// TestBounds: a bulk request goes on in small steps however much it is about, and a page reads a bounded number of rows whatever
// its filter is. The figures are counts, which are the same on every machine.
func TestBounds(t *testing.T) { synctest.Test(t, testBounds) }

func testBounds(t *testing.T) {
	engine, err := sqlite.Open(t.Context(), sqlite.Config{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	c := &counting{Engine: engine}
	s := start(t, server.Config{Engine: c})
	const n, step, perPage = 6000, 50, 12_000
	s.seed(n, "dead", "https://fails.test/a", "Upstash-Retries: 0")
	s.seed(n, "bulk", "https://ok.test/b", "Upstash-Delay: 1d")
	time.Sleep(100 * time.Millisecond) // a server that was full looks again after a millisecond, not only when it polls
	synctest.Wait()
	c.take()

	bounded := func(what string, changed, want int) {
		t.Helper()
		steps, largest, rows := c.take()
		if changed != want || steps < want/step || largest > step || rows > 3*n {
			t.Errorf("%s: got %d changed in %d steps of at most %d, %d rows read; want %d in steps of at most %d, at most %d rows", what, changed, steps, largest, rows, want, step, 3*n)
		}
	}
	var r struct{ Cancelled, Deleted int }
	s.call(http.MethodDelete, "/v2/messages?label=bulk", http.StatusOK, &r)
	bounded("cancel", r.Cancelled, n)

	for _, route := range []string{"/v2/events?", "/v2/logs?", "/v2/events?order=earliestFirst&", "/v2/dlq?"} {
		for _, filter := range []string{"label=nothing", "url=https://nowhere.test", "topicName=nothing", "queueName=nothing", "scheduleId=nothing", "flowControlKey=nothing", "callerIp=203.0.113.9", "label=dead"} {
			s.call(http.MethodGet, route+filter, http.StatusOK, &struct{}{})
			if _, _, rows := c.take(); rows > perPage {
				t.Errorf("%s%s: got %d rows read, want at most %d", route, filter, rows, perPage)
			}
		}
	}
	for _, state := range []string{"CREATED", "ACTIVE", "DELIVERED", "ERROR", "RETRY", "FAILED", "CANCEL_REQUESTED", "CANCELED"} {
		s.call(http.MethodGet, "/v2/events?state="+state, http.StatusOK, &struct{}{})
		if _, _, rows := c.take(); rows > perPage {
			t.Errorf("state %s: got %d rows read, want at most %d", state, rows, perPage)
		}
	}

	s.repaired.Store(true)
	retried, deleted, cursor := 0, 0, ""
	for retried < n/2 {
		var page struct {
			Cursor    string
			Responses []json.RawMessage
		}
		s.call(http.MethodPost, "/v2/dlq/retry?label=dead&cursor="+cursor, http.StatusCreated, &page)
		retried += len(page.Responses)
		cursor = page.Cursor
	}
	bounded("retry", retried, max(retried, n/2)) // how large the pages are is a matter of time, too
	for deleted < n-retried {
		if s.call(http.MethodDelete, "/v2/dlq?label=dead", http.StatusOK, &r); r.Deleted == 0 {
			break
		}
		deleted += r.Deleted
	}
	bounded("delete", deleted, n-retried)
}
