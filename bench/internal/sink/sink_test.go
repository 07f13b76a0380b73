package sink_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	"github.com/posthaste/posthaste/bench/internal/rawhttp"
	"github.com/posthaste/posthaste/bench/internal/sink"
)

// body returns the body of message n.
func body(size, n int) []byte {
	b := sink.Body(size)
	sink.SetNumber(b, sink.NumberAt(b), n)
	return b
}

func TestBody(t *testing.T) {
	for _, size := range []int{1, 46, 47, 256, 10_000} {
		b := body(size, 123456)
		if !json.Valid(b) {
			t.Errorf("size %d: not JSON: %s", size, b)
		}
		if len(b) < size || size > 46 && len(b) != size {
			t.Errorf("size %d: got %d bytes", size, len(b))
		}
		if !bytes.Contains(b, []byte(`"bench-000000123456"`)) {
			t.Errorf("size %d: no number in %s", size, b)
		}
	}
}

func TestTally(t *testing.T) {
	tally := sink.NewTally(time.Now(), 3)
	tally.Record(body(100, 2))
	tally.Record(append([]byte("wrapped: "), body(100, 0)...))
	tally.Record(body(100, 2))
	tally.Record(body(100, 3))
	tally.Record([]byte(`{"message":"bench-00000000000x"}`))
	tally.Record([]byte(`bench-12`))
	tally.Record(nil)
	if got := tally.Distinct(); got != 2 {
		t.Errorf("got %d distinct, want 2", got)
	}
	if got := tally.Duplicates(); got != 1 || tally.Extra(2) != 1 || tally.Extra(0) != 0 {
		t.Errorf("got %d duplicates, %d of message 2 and %d of message 0, want 1, 1, 0", got, tally.Extra(2), tally.Extra(0))
	}
	if got := tally.Strays(); got != 4 {
		t.Errorf("got %d strays, want 4", got)
	}
	if _, ok := tally.Arrived(1); ok {
		t.Error("message 1 arrived, want not")
	}
	if at, ok := tally.Arrived(0); !ok || at < 0 || at > time.Minute {
		t.Errorf("message 0 arrived %v at %v", ok, at)
	}
}

// serve runs a sink until the test ends.
func serve(t *testing.T, messages int) (*sink.Sink, *sink.Tally) {
	t.Helper()
	tally := sink.NewTally(time.Now(), messages)
	s, err := sink.Listen(t.Context(), tally)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run the sink: %v", err)
		}
	})
	return s, tally
}

// TestSink delivers with the client of net/http.
func TestSink(t *testing.T) {
	s, tally := serve(t, 10)
	transport := &http.Transport{ExpectContinueTimeout: 10 * time.Second}
	defer transport.CloseIdleConnections()
	dials := 0
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GotConn: func(c httptrace.GotConnInfo) {
			if !c.Reused {
				dials++
			}
		},
	})
	for n, tt := range []struct {
		name   string
		body   io.Reader
		header string
	}{
		{name: "content length", body: bytes.NewReader(body(100, 0))},
		{name: "large", body: bytes.NewReader(body(300_000, 1))},
		{name: "chunked", body: io.MultiReader(bytes.NewReader(body(100, 2)))},
		{name: "chunked in pieces", body: io.MultiReader(bytes.NewReader(body(100, 3)[:30]), bytes.NewReader(body(100, 3)[30:]))},
		{name: "expect", body: bytes.NewReader(body(100, 4)), header: "100-continue"},
	} {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL(), tt.body)
		if err != nil {
			t.Fatal(err)
		}
		if tt.header != "" {
			req.Header.Set("Expect", tt.header)
		}
		start := time.Now()
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if _, ok := tally.Arrived(n); resp.StatusCode != http.StatusOK || !ok {
			t.Errorf("%s: got %d, arrived %v", tt.name, resp.StatusCode, ok)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s: took %v: was the interim answer sent?", tt.name, took)
		}
	}
	if dials != 1 {
		t.Errorf("got %d connections, want 1", dials)
	}
	if tally.Distinct() != 5 || tally.Duplicates() != 0 || tally.Strays() != 0 {
		t.Errorf("got %d distinct, %d duplicates, %d strays", tally.Distinct(), tally.Duplicates(), tally.Strays())
	}
}

// TestSinkPipelined sends requests without waiting for the answers, in pieces of odd sizes.
func TestSinkPipelined(t *testing.T) {
	s, tally := serve(t, 20)
	addr := strings.TrimSuffix(strings.TrimPrefix(s.URL(), "http://"), "/deliver")
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var all []byte
	for n := range 20 {
		all = rawhttp.AppendRequest(all, http.MethodPost, addr, "/", nil, body(80, n))
	}
	all = append(all, "POST / HTTP/1.1\r\nConnection: close\r\n\r\n"...)
	for i := 0; len(all) > 0; i++ {
		k := min(len(all), []int{1, 7, 97, 13, 1000}[i%5])
		if _, err := conn.Write(all[:k]); err != nil {
			t.Fatal(err)
		}
		all = all[k:]
	}
	answers, err := io.ReadAll(conn) // the sink ends the connection after the last
	if err != nil {
		t.Fatal(err)
	}
	if got := bytes.Count(answers, []byte("HTTP/1.1 200 OK\r\n")); got != 21 {
		t.Errorf("got %d answers, want 21", got)
	}
	if tally.Distinct() != 20 || tally.Strays() != 1 {
		t.Errorf("got %d distinct and %d strays, want 20 and 1", tally.Distinct(), tally.Strays())
	}
}
