package sink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/posthaste/posthaste/bench/internal/rawhttp"
)

// answer is what every delivery is answered with.
var (
	answer      = []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	answerClose = []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
)

// Sink is an HTTP/1.1 server that answers every request 200 and records it in a Tally.
type Sink struct {
	listener net.Listener
	tally    *Tally
	hold     atomic.Int64
}

// Listen returns a Sink on a free loopback port.
func Listen(ctx context.Context, tally *Tally) (*Sink, error) {
	return ListenAt(ctx, "127.0.0.1", tally)
}

// ListenAt returns a Sink on a free port of a loopback address.
func ListenAt(ctx context.Context, host string, tally *Tally) (*Sink, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, fmt.Errorf("listen for deliveries: %w", err)
	}
	return &Sink{listener: l, tally: tally}, nil
}

// URL is the destination of the messages.
func (s *Sink) URL() string { return "http://" + s.listener.Addr().String() + "/deliver" }

// Hold makes the sink wait before each answer from now on.
func (s *Sink) Hold(d time.Duration) { s.hold.Store(int64(d)) }

// Run serves until ctx is done and returns when every connection has been closed.
func (s *Sink) Run(ctx context.Context) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = s.listener.Close() })()
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("accept a delivery: %w", err)
		}
		conns.Go(func() { s.serve(ctx, conn) })
	}
}

// serve answers the requests of one connection. A broken connection is the sender's affair: it sees no answer.
func (s *Sink) serve(ctx context.Context, conn net.Conn) {
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	r := rawhttp.NewReader(conn)
	r.Interim = conn
	for {
		m, err := r.ReadRequest()
		if err != nil {
			return
		}
		s.tally.Record(m.Body)
		if d := time.Duration(s.hold.Load()); d > 0 {
			select {
			case <-ctx.Done():
				return
			case <-time.After(d):
			}
		}
		if m.Close {
			_, _ = conn.Write(answerClose)
			return
		}
		if _, err := conn.Write(answer); err != nil {
			return
		}
	}
}
