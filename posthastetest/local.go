package posthastetest

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
)

// local is a network within the process, by host.
type local struct {
	mu     sync.Mutex
	hosts  map[string]*listener
	served []*http.Server
	wg     sync.WaitGroup

	rt *http.Transport
}

func newLocal() *local {
	l := &local{hosts: map[string]*listener{}}
	l.rt = &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			x := l.find(addr)
			if x == nil {
				return nil, errors.New("no such host in this process")
			}
			return x.dial(ctx)
		},
		MaxIdleConnsPerHost: 64, DisableCompression: true,
	}
	return l
}

// listener returns what accepts connections to a host.
func (l *local) listener(host string) *listener {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := &listener{conns: make(chan net.Conn), done: make(chan struct{})}
	l.hosts[host] = x
	return x
}

// find returns the listener of a host, which may have a port.
func (l *local) find(addr string) *listener {
	l.mu.Lock()
	defer l.mu.Unlock()
	if x := l.hosts[addr]; x != nil {
		return x
	}
	host, port, err := net.SplitHostPort(addr)
	if err == nil && (port == "80" || port == "443") {
		return l.hosts[host]
	}
	return nil
}

// handle serves a host until close.
func (l *local) handle(host string, h http.Handler) {
	ln := l.listener(host)
	srv := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	l.mu.Lock()
	l.served = append(l.served, srv)
	l.mu.Unlock()
	l.wg.Go(func() { srv.Serve(ln) }) //nolint:errcheck // it always returns ErrServerClosed
}

// close ends the handlers that run, and waits for the servers of hosts.
func (l *local) close() {
	l.mu.Lock()
	served := l.served
	l.served = nil
	l.mu.Unlock()
	for _, srv := range served {
		srv.Close() //nolint:errcheck // its listener's Close cannot fail
	}
	l.wg.Wait()
	l.rt.CloseIdleConnections()
}

// over returns a round-tripper that reaches the hosts of l, and others over the given one.
func (l *local) over(network http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if l.find(r.URL.Host) == nil {
			return network.RoundTrip(r)
		}
		if r.URL.Scheme != "http" {
			r = r.Clone(r.Context())
			r.URL.Scheme = "http"
		}
		return l.rt.RoundTrip(r)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements [http.RoundTripper].
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// listener accepts connections from its own process.
type listener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

// Accept implements [net.Listener].
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr implements [net.Listener].
func (l *listener) Addr() net.Addr { return addr{} }

// dial returns the client's end of a new connection.
func (l *listener) dial(ctx context.Context) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case l.conns <- conn{far}:
		return conn{near}, nil
	case <-l.done:
		return nil, &net.OpError{Op: "dial", Net: "pipe", Err: net.ErrClosed}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// conn has the address that callers of a local server come from.
type conn struct{ net.Conn }

// RemoteAddr implements [net.Conn].
func (conn) RemoteAddr() net.Addr { return addr{} }

type addr struct{}

func (addr) Network() string { return "pipe" }
func (addr) String() string  { return "127.0.0.1:1" }
