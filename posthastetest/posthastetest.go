// Package posthastetest runs a Posthaste server inside a test: started in one line, with no port, over an in-memory store, with
// a clock that the test moves.
//
//	func TestReminder(t *testing.T) {
//		srv := posthastetest.Start(t)
//		inbox := srv.Inbox("reminders")
//		inbox.FailNext(3)
//		srv.Publish(inbox.URL(), "wake up", "Upstash-Delay: 8h")
//		srv.Advance(9 * time.Hour)
//		if got := len(inbox.Deliveries()); got != 4 {
//			t.Errorf("got %d attempts, want 4", got)
//		}
//	}
//
// The code under test talks to it as to any QStash server: hand it [URL], [Tenant.Token], the signing keys, and [Server.Client]
// as its HTTP client. Where the client cannot be chosen, [Server.Listen] gives a URL on a real port. Deliveries go to an
// [Inbox], to a handler in the test's own process ([Server.Handle]), or to any other URL, over the network.
//
// A server costs some 20 ms to start and stop, so each test may have its own. Parallel tests that share one take a tenant each ([Server.NewTenant]): they
// see nothing of each other, but they share the clock.
//
// The methods end the test when something fails that is not the matter of the test.
package posthastetest

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/egress"
	"github.com/posthaste/posthaste/internal/retry"
	"github.com/posthaste/posthaste/internal/server"
)

// URL is where the server stands for [Server.Client] and for deliveries. No such host exists outside the test.
const URL = "http://posthaste.test"

// patience is how long the methods wait, in real time, for what must come.
const patience = time.Minute

// Server is a running server. It has the methods of its first tenant.
type Server struct {
	*Tenant

	srv   *server.Server
	local *local
}

// Start starts a server with one tenant. It stops when the test ends.
//
// Messages have three retries unless they choose otherwise, after 10 s, 30 s and 1 m; deduplication holds for a minute; http://
// and loopback destinations are allowed, as in posthaste dev.
func Start(t testing.TB) *Server {
	t.Helper()
	s := &Server{local: newLocal()}
	first := broker.NewTenant{Name: "first", Token: broker.NewToken("first")}
	srv, err := server.New(t.Context(), server.Config{
		Listener: s.local.listener("posthaste.test"),
		Users:    []broker.NewTenant{first},
		Broker:   broker.Config{Retries: 3, DedupWindow: time.Minute, MaxBody: 512 << 10},
		Egress:   egress.Config{Mode: egress.ModeDev, AllowHTTP: true},
		Backoff:  retry.Standard(),
		Network:  s.local.over,
		Dev:      true,
	})
	if err != nil {
		t.Fatalf("start a server: %v", err)
	}
	s.srv = srv
	t.Cleanup(func() {
		srv.Dev().Close() // lets go of what an inbox holds
		s.local.close()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		if err := srv.Stop(ctx); err != nil {
			t.Errorf("stop the server: %v", err)
		}
	})
	if err := srv.Start(t.Context()); err != nil {
		t.Fatalf("start the server: %v", err)
	}
	s.Tenant = newTenant(t, s, srv.Created()[0])
	return s
}

// NewTenant creates a tenant, for one of several tests that share the server. Its methods end t.
func (s *Server) NewTenant(t testing.TB) *Tenant {
	t.Helper()
	made, err := s.srv.Dev().CreateTenant(t.Context(), broker.NewTenant{Name: t.Name()})
	if err != nil {
		t.Fatalf("create a tenant: %v", err)
	}
	return newTenant(t, s, made)
}

// Client returns an HTTP client that reaches the server at [URL], and the hosts of [Server.Handle]. It follows no redirects, and
// other hosts are reached over the network.
func (s *Server) Client() *http.Client {
	return &http.Client{
		Transport:     s.local.over(http.DefaultTransport),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Handle has a handler answer deliveries, and requests by [Server.Client], to a host such as "app.test" or "app.test:3000". The
// scheme of their URLs does not matter: there is no TLS. A host has one handler for ever.
func (s *Server) Handle(host string, h http.Handler) { s.local.handle(host, h) }

// Listen makes the server reachable on a port of the loopback interface, too, and returns the URL.
func (s *Server) Listen() string {
	s.t.Helper()
	ts := httptest.NewServer(s.srv.Handler())
	s.t.Cleanup(func() {
		s.srv.Dev().Close()
		ts.Close()
	})
	return ts.URL
}
