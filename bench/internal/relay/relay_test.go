package relay_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/posthaste/posthaste/bench/internal/relay"
)

// delivery is what a destination was sent.
type delivery struct {
	path, body  string
	contentType string
	header      http.Header
	at          time.Time
}

func TestRelay(t *testing.T) {
	client := &http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	got := make(chan delivery, 10)
	dest := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		got <- delivery{req.URL.Path, string(body), req.Header.Get("Content-Type"), req.Header, time.Now()}
	}))
	defer dest.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := relay.New()
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx, l) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		if n := r.Dropped(); n != 0 {
			t.Errorf("dropped %d messages", n)
		}
	}()

	post := func(path, delay string, body io.Reader) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+l.Addr().String()+path, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "text/x")
		if delay != "" {
			req.Header.Set("Upstash-Delay", delay)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(answer)
	}
	for _, tt := range []struct {
		delay string
		body  io.Reader
		least time.Duration
	}{
		{body: strings.NewReader("the body")},
		{body: io.MultiReader(strings.NewReader("the body"))}, // chunked
		{body: strings.NewReader("the body"), delay: "80ms", least: 80 * time.Millisecond},
	} {
		start := time.Now()
		status, answer := post("/v2/publish/"+dest.URL+"/a/b", tt.delay, tt.body)
		if status != http.StatusOK || !strings.HasPrefix(answer, `{"messageId":"msg_`) {
			t.Errorf("got %d %s", status, answer)
		}
		d := <-got
		if d.path != "/a/b" || d.body != "the body" || d.contentType != "text/x" || len(d.header.Get("Upstash-Signature")) < 400 {
			t.Errorf("got the delivery %+v", d)
		}
		if after := d.at.Sub(start); after < tt.least {
			t.Errorf("delivered after %v, want %v at least", after, tt.least)
		}
	}
	if status, _ := post("/v2/enqueue/q/http://x", "", nil); status != http.StatusNotFound {
		t.Errorf("another route: got %d, want 404", status)
	}
	if status, _ := post("/v2/publish/"+dest.URL, "soon", nil); status != http.StatusBadRequest {
		t.Errorf("a bad delay: got %d, want 400", status)
	}
}
