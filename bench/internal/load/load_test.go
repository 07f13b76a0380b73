package load_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/posthaste/posthaste/bench/internal/load"
	"github.com/posthaste/posthaste/bench/internal/rawhttp"
	"github.com/posthaste/posthaste/bench/internal/sink"
)

// target is a server of net/http that records the bodies it was sent.
type target struct {
	srv *httptest.Server

	mu     sync.Mutex
	bodies []string
	delays []string
}

// newTarget starts a server that answers the nth request, counted from 0, with status(n), which may block.
func newTarget(t *testing.T, status func(n int) int) *target {
	t.Helper()
	tg := &target{}
	tg.srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Errorf("read a request: %v", err)
		}
		tg.mu.Lock()
		n := len(tg.bodies)
		tg.bodies = append(tg.bodies, string(body))
		tg.delays = append(tg.delays, req.Header.Get("Delay"))
		tg.mu.Unlock()
		w.WriteHeader(status(n))
		_, _ = io.WriteString(w, "the answer")
	}))
	t.Cleanup(tg.srv.Close)
	return tg
}

func (tg *target) Addr() string { return tg.srv.Listener.Addr().String() }

func (tg *target) AppendPublish(dst, body []byte, delay time.Duration) []byte {
	return rawhttp.AppendRequest(dst, http.MethodPost, tg.Addr(), "/", []rawhttp.Header{{Name: "Delay", Value: delay.String()}}, body)
}

func ok(int) int { return http.StatusOK }

// run runs one plan.
func run(ctx context.Context, t *testing.T, tg *target, connections int, plan load.Plan) (*load.Result, error) {
	t.Helper()
	g, err := load.New(t.Context(), tg, time.Now(), connections, sink.Body(100))
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	return g.Run(ctx, plan)
}

// wantNumbers checks that every message from first on was sent exactly once.
func (tg *target) wantNumbers(t *testing.T, first, count int) {
	t.Helper()
	var want []string
	for n := first; n < first+count; n++ {
		b := sink.Body(100)
		sink.SetNumber(b, sink.NumberAt(b), n)
		want = append(want, string(b))
	}
	slices.Sort(tg.bodies)
	if !slices.Equal(tg.bodies, want) {
		t.Errorf("got %d bodies, not those of messages %d to %d", len(tg.bodies), first, first+count-1)
	}
}

func TestClosedLoop(t *testing.T) {
	tg := newTarget(t, ok)
	res, err := run(t.Context(), t, tg, 7, load.Plan{First: 50, Count: 100})
	if err != nil {
		t.Fatal(err)
	}
	tg.wantNumbers(t, 50, 100)
	if res.Accepted() != 100 || res.Rejected != 0 || res.Failed != 0 {
		t.Errorf("got %d accepted, %d rejected, %d failed", res.Accepted(), res.Rejected, res.Failed)
	}
	for i, m := range res.Messages {
		if m.Intended != m.Sent || m.Answered <= m.Sent {
			t.Fatalf("message %d: intended %v, sent %v, answered %v", i, m.Intended, m.Sent, m.Answered)
		}
	}
}

func TestDelay(t *testing.T) {
	tg := newTarget(t, ok)
	res, err := run(t.Context(), t, tg, 3, load.Plan{Count: 10, Delay: func(n int) time.Duration { return time.Duration(n) * time.Second }})
	if err != nil {
		t.Fatal(err)
	}
	for n, m := range res.Messages {
		if want := time.Duration(n) * time.Second; m.Delay != want {
			t.Errorf("message %d: got delay %v, want %v", n, m.Delay, want)
		}
	}
	for i, b := range tg.bodies {
		n := int(b[sink.NumberAt([]byte(b))+11] - '0') // they arrive in any order
		if want := res.Messages[n].Delay; tg.delays[i] != want.String() {
			t.Errorf("message %d: got delay %s on the wire, want %v", n, tg.delays[i], want)
		}
	}
}

// TestRefusedForNow checks that a message is sent until it is accepted, and that its latency counts from the first time.
func TestRefusedForNow(t *testing.T) {
	tg := newTarget(t, func(n int) int {
		return []int{http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusOK}[min(n, 2)]
	})
	res, err := run(t.Context(), t, tg, 1, load.Plan{Count: 2})
	if err != nil {
		t.Fatal(err)
	}
	if res.Accepted() != 2 || res.Rejected != 2 || res.Failed != 0 {
		t.Errorf("got %d accepted, %d rejected, %d failed, want 2, 2, 0", res.Accepted(), res.Rejected, res.Failed)
	}
	if m := res.Messages[0]; m.Sent-m.Intended < 20*time.Millisecond {
		t.Errorf("intended %v, sent %v: the refusals are not in the latency", m.Intended, m.Sent)
	}
}

func TestFailures(t *testing.T) {
	tg := newTarget(t, func(n int) int {
		if n == 3 {
			return http.StatusBadRequest
		}
		return http.StatusOK
	})
	res, err := run(t.Context(), t, tg, 1, load.Plan{Count: 10})
	if err != nil {
		t.Fatal(err)
	}
	if res.Accepted() != 9 || res.Failed != 1 || res.Messages[3].Accepted {
		t.Errorf("got %d accepted and %d failed, want 9 and 1", res.Accepted(), res.Failed)
	}
	if res.Failure == nil || !strings.Contains(res.Failure.Error(), "answered 400: the answer") {
		t.Errorf("got failure %v, want the answer", res.Failure)
	}

	tg = newTarget(t, func(int) int { return http.StatusNotFound })
	if _, err := run(t.Context(), t, tg, 4, load.Plan{Count: 1000}); err == nil || !strings.Contains(err.Error(), "answered 404") {
		t.Errorf("got error %v, want too many failures", err)
	}
}

// TestCoordinatedOmission stops the server once for 300 ms while messages have a timetable of one each 2 ms: the
// latency of each message that had to wait must count from its place in the timetable.
func TestCoordinatedOmission(t *testing.T) {
	const stall = 300 * time.Millisecond
	tg := newTarget(t, func(n int) int {
		if n == 100 {
			time.Sleep(stall)
		}
		return http.StatusOK
	})
	res, err := run(t.Context(), t, tg, 1, load.Plan{Count: 300, Rate: 500})
	if err != nil {
		t.Fatal(err)
	}
	tg.wantNumbers(t, 0, 300)
	start := res.Messages[0].Intended
	slow, slowFromSent := 0, 0
	for i, m := range res.Messages {
		if want := start + time.Duration(i)*2*time.Millisecond; m.Intended != want {
			t.Fatalf("message %d: intended at %v, want %v", i, m.Intended, want)
		}
		if m.Sent < m.Intended {
			t.Errorf("message %d: sent %v before its time", i, m.Intended-m.Sent)
		}
		if m.Answered-m.Intended > stall/2 {
			slow++
		}
		if m.Answered-m.Sent > stall/2 {
			slowFromSent++
		}
	}
	// 75 messages fall into the first half of the stall.
	if slow < 70 {
		t.Errorf("got %d slow messages, want at least 70", slow)
	}
	if slowFromSent < 1 || slowFromSent > slow/2 {
		t.Errorf("got %d messages slow from their sending on, of %d slow ones", slowFromSent, slow)
	}
}

func TestCanceled(t *testing.T) {
	block := make(chan struct{})
	tg := newTarget(t, func(int) int { <-block; return http.StatusOK })
	defer close(block)
	for _, rate := range []float64{0, 100} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		g, err := load.New(ctx, tg, time.Now(), 2, sink.Body(100))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.Run(ctx, load.Plan{Count: 10, Rate: rate}); err == nil {
			t.Errorf("rate %v: got no error, want that of the context", rate)
		}
		g.Close()
		cancel()
	}
}
