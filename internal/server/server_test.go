package server_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/server"
)

// scaled is a server whose deliveries end in the test.
type scaled struct {
	testing.TB
	handler  http.Handler
	repaired atomic.Bool // destinations that failed do so no more
}

// start runs a server whose deliveries end in the test.
func start(t *testing.T, cfg server.Config) *scaled {
	t.Helper()
	s := &scaled{TB: t}
	cfg.Listener, cfg.Users, cfg.Transport, cfg.Grace = make(silence), []broker.NewTenant{{Name: "alice", Token: "alice"}}, s, time.Second
	srv, err := server.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	if err := srv.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.handler = srv.Handler()
	return s
}

// silence is a listener to which nobody connects: tests call the handler.
type silence chan struct{}

// Accept implements [net.Listener].
func (l silence) Accept() (net.Conn, error) {
	<-l
	return nil, net.ErrClosed
}

// Close implements [net.Listener].
func (l silence) Close() error {
	close(l)
	return nil
}

// Addr implements [net.Listener].
func (l silence) Addr() net.Addr { return &net.TCPAddr{} }

// RoundTrip implements [http.RoundTripper]: every destination answers at once.
func (s *scaled) RoundTrip(r *http.Request) (*http.Response, error) {
	status := http.StatusOK
	if strings.HasPrefix(r.URL.Host, "fails") && !s.repaired.Load() {
		status = http.StatusInternalServerError
	}
	if r.Body != nil {
		io.Copy(io.Discard, r.Body)
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

// serve has the handler answer a request and returns how long it took.
func (s *scaled) serve(method, target string, header []string, body string) (*httptest.ResponseRecorder, time.Duration) {
	r := httptest.NewRequestWithContext(s.Context(), method, target, strings.NewReader(body))
	r.RequestURI = target
	r.Header.Set("Authorization", "Bearer alice")
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	begin := time.Now()
	s.handler.ServeHTTP(w, r)
	return w, time.Since(begin)
}

// call makes a request that must succeed and decodes the answer.
func (s *scaled) call(method, target string, status int, to any, header ...string) time.Duration {
	s.Helper()
	w, took := s.serve(method, target, header, "")
	if w.Code != status {
		s.Fatalf("%s %s: got %d %s", method, target, w.Code, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), to); err != nil {
		s.Fatalf("%s %s: %v", method, target, err)
	}
	return took
}

func (s *scaled) publish(to string, header ...string) time.Duration {
	w, took := s.serve(http.MethodPost, "/v2/publish/"+to, header, "body")
	if w.Code != http.StatusOK {
		s.Errorf("publish: got %d %s", w.Code, w.Body)
	}
	return took
}

// seed publishes n messages with a label, in batches.
func (s *scaled) seed(n int, label, to string, header ...string) {
	s.Helper()
	headers := map[string]string{"Upstash-Label": label}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		headers[name] = value
	}
	item, err := json.Marshal(map[string]any{"destination": to, "headers": headers, "body": strings.Repeat("x", 200)})
	if err != nil {
		s.Fatal(err)
	}
	for n > 0 {
		k := min(n, 1000)
		n -= k
		body := "[" + strings.Repeat(string(item)+",", k-1) + string(item) + "]"
		if w, _ := s.serve(http.MethodPost, "/v2/batch", nil, body); w.Code != http.StatusOK {
			s.Fatalf("batch: got %d %s", w.Code, w.Body)
		}
	}
}

// idle reports whether nothing is being delivered.
func (s *scaled) idle() bool {
	var global struct{ ParallelismCount int }
	s.call(http.MethodGet, "/v2/globalParallelism", http.StatusOK, &global)
	return global.ParallelismCount == 0
}
