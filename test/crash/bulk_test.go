//go:build crash

package crash

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A shop is a destination whose messages all fail until it opens. It tells which came after that.
type shop struct {
	*httptest.Server
	open atomic.Bool

	mu  sync.Mutex
	got map[string]bool // by message id
}

func newShop(t *testing.T) *shop {
	s := &shop{got: map[string]bool{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.open.Load() {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.got[r.Header.Get("Upstash-Message-Id")] = true
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *shop) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.got)
}

// await polls until the condition holds.
func await(t *testing.T, what string, f func() (bool, error)) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		ok, err := f()
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// seed publishes n messages with a label in one request.
func (c *client) seed(t *testing.T, n int, to, label, header, value string) {
	t.Helper()
	item := fmt.Sprintf(`{"destination":%q,"headers":{"Upstash-Label":%q,%q:%q}}`, to, label, header, value)
	status, answer, err := c.call(t.Context(), http.MethodPost, "/v2/batch", nil, []byte("["+strings.Repeat(item+",", n-1)+item+"]"))
	if err != nil || status != http.StatusOK {
		t.Fatalf("batch: %d %.200s %v", status, answer, err)
	}
}

// TestBulk kills the server in the middle of bulk requests, and makes them again. What was done before stays done and is not done
// twice.
func TestBulk(t *testing.T) {
	t.Parallel()
	rng := newRand(t)
	const n = 1000
	s, d := newServer(t, rng, false), newShop(t)
	c := newClient(s)
	s.start("")
	c.seed(t, n, d.URL, "delayed", "Upstash-Delay", "1d")
	c.seed(t, n, d.URL, "dead", "Upstash-Retries", "0")
	await(t, "dead letters", func() (bool, error) {
		list, err := c.dead(t.Context())
		return len(list) == n, err
	})
	s.kill()

	// Steps are commits of 25.
	q := url.Values{"label": {"delayed"}}
	life := s.start(fmt.Sprintf("after-commit:%d", 5+rng.IntN(20)))
	if k, err := c.cancelAll(t.Context(), q); err == nil {
		t.Fatalf("got %d canceled, want the server to die meanwhile", k)
	}
	life.wait(t)
	s.start("")
	rest, err := c.cancelAll(t.Context(), q)
	if err != nil || rest <= 0 || rest >= n {
		t.Errorf("got %d canceled by the second request, %v; want some of %d", rest, err, n)
	}
	if again, err := c.cancelAll(t.Context(), q); err != nil || again != 0 {
		t.Errorf("got %d canceled by the third request, %v; want 0", again, err)
	}
	s.kill()

	d.open.Store(true)
	retry := func() (retried int, err error) {
		for cursor := ""; ; {
			status, answer, err := c.call(t.Context(), http.MethodPost, "/v2/dlq/retry?label=dead&cursor="+cursor, nil, nil)
			if err != nil {
				return retried, err
			}
			var page struct {
				Cursor    string
				Responses []json.RawMessage
			}
			if err := json.Unmarshal(answer, &page); err != nil || status != http.StatusCreated {
				return retried, fmt.Errorf("a bulk retry was answered %d: %s", status, answer)
			}
			retried += len(page.Responses)
			if cursor = page.Cursor; cursor == "" {
				return retried, nil
			}
		}
	}
	life = s.start(fmt.Sprintf("after-commit:%d", 5+rng.IntN(20)))
	before, err := retry()
	if err == nil {
		t.Fatalf("got %d retried, want the server to die meanwhile", before)
	}
	life.wait(t)
	s.start("")
	after, err := retry()
	if err != nil || after <= 0 || before+after > n {
		t.Errorf("got %d retried before the kill and %d after it, %v; want at most %d in all", before, after, err, n)
	}
	await(t, "deliveries", func() (bool, error) { return d.count() >= n, nil })
	if left, err := c.dead(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("got %d dead letters left, %v; want none", len(left), err)
	}

	log, err := c.log(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, e := range log {
		count[e.State]++
	}
	// A letter that was retried twice would have made one more message.
	for state, want := range map[string]int{"CREATED": 3 * n, "FAILED": n, "CANCEL_REQUESTED": n, "CANCELED": n} {
		if count[state] != want {
			t.Errorf("got %d entries %s, want %d", count[state], state, want)
		}
	}
	if d.count() != n {
		t.Errorf("got %d messages delivered, want %d", d.count(), n)
	}
	t.Logf("%d canceled before a kill, %d after it; %d and %d retried", n-rest, rest, before, after)
}
