package egress_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/posthaste/posthaste/internal/egress"
)

// newClient returns a client that may reach the loopback, changed by change. It waits longer than the default, so that a
// busy machine does not fail a test.
func newClient(tb testing.TB, change func(*egress.Config)) *http.Client {
	tb.Helper()
	cfg := egress.Config{Mode: egress.ModeDev, AllowHTTP: true, DialTimeout: time.Minute, TLSHandshakeTimeout: time.Minute}
	if change != nil {
		change(&cfg)
	}
	client := newGuard(tb, cfg).NewClient()
	tb.Cleanup(client.CloseIdleConnections)
	return client
}

// send makes a request and reads the whole answer.
func send(tb testing.TB, client *http.Client, method, target, body string) (*http.Response, string, error) {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), method, target, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

func wantRefused(tb testing.TB, err error, text string) {
	tb.Helper()
	if _, ok := errors.AsType[*egress.RefusedError](err); !ok {
		tb.Errorf("got error %v, want a *RefusedError in its chain", err)
		return
	}
	if !strings.Contains(err.Error(), text) {
		tb.Errorf("got error %q, want one with %q", err, text)
	}
}

// trap is a server that must not be reached.
type trap struct {
	*httptest.Server
	conns atomic.Int64
}

func newTrap(tb testing.TB) *trap {
	tb.Helper()
	s := &trap{}
	s.Server = httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.conns.Add(1)
		}
	}
	s.Start()
	tb.Cleanup(s.Close)
	return s
}

func (s *trap) port() string {
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	return port
}

func (s *trap) wantUntouched(tb testing.TB) {
	tb.Helper()
	if n := s.conns.Load(); n != 0 {
		tb.Errorf("got %d connections to a server that may not be dialled, want none", n)
	}
}

// TestRebinding lets a name stand for a public address when it is published, and for the loopback when it is dialled.
func TestRebinding(t *testing.T) {
	t.Parallel()
	dns, server := newDNSServer(t), newTrap(t)
	g := newGuard(t, egress.Config{AllowHTTP: true, Resolver: dns.resolver()})
	client := g.NewClient()
	target := "http://rebind.test:" + server.port() + "/"

	dns.set("rebind.test", "8.8.8.8")
	if err := g.CheckURL(target); err != nil {
		t.Fatalf("CheckURL: got error %v, want none", err)
	}
	if err := g.Resolve(t.Context(), target); err != nil {
		t.Fatalf("Resolve: got error %v, want none", err)
	}
	for _, tt := range []struct{ addr, want string }{
		{"127.0.0.1", "a loopback address: 127.0.0.1 (allow it with --allow-private)"},
		{"::1", "a loopback address: ::1"},
		{"10.0.0.1", "a private address: 10.0.0.1"},
		{"169.254.169.254", "a cloud metadata address: 169.254.169.254"},
		{"fd00:ec2::254", "a cloud metadata address: fd00:ec2::254"},
		{"::ffff:127.0.0.1", "a loopback address: 127.0.0.1"},
		{"64:ff9b::7f00:1", "an IPv4 transition address: 64:ff9b::7f00:1"},
		{"0.0.0.0", "an unspecified address: 0.0.0.0"},
		{"::", "an unspecified address: ::"},
	} {
		dns.set("rebind.test", tt.addr)
		_, _, err := send(t, client, http.MethodPost, target, "x")
		wantRefused(t, err, tt.want)
		wantRefused(t, err, "dial tcp")
	}
	server.wantUntouched(t)
}

// TestDialSeveralAddresses checks that a refused address does not stand in the way of an allowed one.
func TestDialSeveralAddresses(t *testing.T) {
	t.Parallel()
	dns := newDNSServer(t)
	server := newTrap(t)
	dns.set("both.test", "::1", "10.0.0.1", "127.0.0.1")
	dns.set("none.test", "::1", "10.0.0.1")
	client := newClient(t, func(c *egress.Config) {
		c.Mode = egress.ModePublic
		c.Allow = []string{"127.0.0.1"}
		c.Resolver = dns.resolver()
	})
	resp, _, err := send(t, client, http.MethodGet, "http://both.test:"+server.port()+"/", "")
	if err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("got answer %v, error %v, want that of the allowed address", resp, err)
	}
	_, _, err = send(t, client, http.MethodGet, "http://none.test:"+server.port()+"/", "")
	wantRefused(t, err, "endpoint resolves to ")
}

func TestDialNames(t *testing.T) {
	t.Parallel()
	dns := newDNSServer(t)
	dns.set("app.internal", "127.0.0.1")
	dns.set("meta.internal", "169.254.169.254")
	dns.set("evil.internal", "127.0.0.1")
	dns.set("other.test", "127.0.0.1")
	server := newTrap(t)
	client := newClient(t, func(c *egress.Config) {
		c.Mode = egress.ModePublic
		c.Allow = []string{"*.internal", "localhost"}
		c.Deny = []string{"evil.internal"}
		c.Resolver = dns.resolver()
	})
	for _, host := range []string{"app.internal", "APP.internal", "app.internal.", "localhost"} {
		if _, _, err := send(t, client, http.MethodGet, "http://"+host+":"+server.port()+"/", ""); err != nil {
			t.Errorf("%s: got error %v, want none", host, err)
		}
	}
	server.conns.Store(0)
	for host, want := range map[string]string{
		"meta.internal":  "a cloud metadata address",
		"evil.internal":  "a denied host: evil.internal",
		"EVIL.internal.": "a denied host: evil.internal",
		"other.test":     "a loopback address",
		"127.0.0.1":      "a loopback address",
		"127.1":          "",
	} {
		_, _, err := send(t, client, http.MethodGet, "http://"+host+":"+server.port()+"/", "")
		if want == "" {
			if _, ok := errors.AsType[*egress.InvalidURLError](err); !ok {
				t.Errorf("%s: got error %v, want an *InvalidURLError", host, err)
			}
			continue
		}
		wantRefused(t, err, want)
	}
	server.wantUntouched(t)
}

// TestClientJudgesURL has requests whose URL was accepted under another configuration, or never.
func TestClientJudgesURL(t *testing.T) {
	t.Parallel()
	server := newTrap(t)
	client := newClient(t, func(c *egress.Config) { c.AllowHTTP = false })
	body := &closeRecorder{Reader: strings.NewReader("x")}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err == nil {
		resp.Body.Close()
	}
	wantRefused(t, err, "--allow-http")
	if !body.closed {
		t.Error("the body of a refused request stays open, want it closed")
	}
	server.wantUntouched(t)
	for _, target := range []string{"https://müller.test/", "ftp://a.b/", "https://[fe80::1%25lo]/"} {
		if _, _, err := send(t, client, http.MethodGet, target, ""); err == nil || !strings.Contains(err.Error(), "endpoint has ") {
			t.Errorf("%s: got error %v, want a fault of the URL", target, err)
		}
	}
	if _, err := client.Transport.RoundTrip(&http.Request{}); err == nil {
		t.Error("no URL: got no error, want one")
	}
}

type closeRecorder struct {
	io.Reader
	closed bool
}

func (c *closeRecorder) Close() error {
	c.closed = true
	return nil
}

func TestNetworkErrorIsNoRefusal(t *testing.T) {
	t.Parallel()
	dns := newDNSServer(t)
	client := newClient(t, func(c *egress.Config) { c.Resolver = dns.resolver() })
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close() // nobody listens there now
	_, _, err = send(t, client, http.MethodGet, "http://"+addr+"/", "")
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got error %v, want a refused connection", err)
	}
	if _, ok := errors.AsType[*egress.RefusedError](err); ok {
		t.Errorf("got a *RefusedError for %v, want none", err)
	}
	_, _, err = send(t, client, http.MethodGet, "http://missing.test/", "")
	if dnsErr, ok := errors.AsType[*net.DNSError](err); !ok || !dnsErr.IsNotFound {
		t.Errorf("got error %v, want a missing host", err)
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	other := newTrap(t)
	for _, status := range []int{301, 302, 303, 307, 308} {
		// The last two cannot be parsed, which is the caller's to see, not an error.
		for _, location := range []string{other.URL, "http://169.254.169.254/", "/x", "", "http://[::1", "http://a b/"} {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if location != "" {
					w.Header().Set("Location", location)
				}
				w.WriteHeader(status)
				_, _ = io.WriteString(w, "moved")
			}))
			resp, body, err := send(t, newClient(t, nil), http.MethodPost, server.URL, "x")
			server.Close()
			if err != nil {
				t.Errorf("%d to %q: got error %v, want none", status, location, err)
				continue
			}
			var got string
			for name, values := range resp.Header {
				if strings.EqualFold(name, "Location") { // in lower case where it cannot be parsed
					got = values[0]
				}
			}
			if resp.StatusCode != status || got != location || body != "moved" {
				t.Errorf("%d to %q: got %d to %q with body %q, want the answer itself", status, location, resp.StatusCode, got, body)
			}
		}
	}
	other.wantUntouched(t)
}

func TestProxyOfEnvironmentIsIgnored(t *testing.T) {
	proxy := newTrap(t)
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"} {
		t.Setenv(name, proxy.URL)
	}
	for _, name := range []string{"NO_PROXY", "no_proxy", "REQUEST_METHOD"} {
		t.Setenv(name, "")
	}
	// A name, since net/http never takes the proxy for the loopback itself.
	dns := newDNSServer(t)
	dns.set("direct.test", "127.0.0.1")
	server := newTrap(t)
	client := newClient(t, func(c *egress.Config) { c.Resolver = dns.resolver() })
	target := "http://direct.test:" + server.port() + "/"
	if _, _, err := send(t, client, http.MethodGet, target, ""); err != nil {
		t.Errorf("got error %v, want none", err)
	}
	if n := server.conns.Load(); n != 1 {
		t.Errorf("got %d connections to the server, want 1", n)
	}
	// The environment set above does name the proxy, to whoever asks it.
	req := httptest.NewRequest(http.MethodGet, target, http.NoBody)
	if u, err := http.ProxyFromEnvironment(req); err != nil || u == nil {
		t.Errorf("the environment names the proxy %v, error %v, want %s: the test proves nothing", u, err, proxy.URL)
	}
	proxy.wantUntouched(t)
}

func TestResponseHeaderIsCapped(t *testing.T) {
	t.Parallel()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/large" {
			w.Header().Set("X-Large", strings.Repeat("x", 32<<10))
		}
		_, _ = io.WriteString(w, "ok")
	})
	for _, http2 := range []bool{false, true} {
		server := httptest.NewUnstartedServer(handler)
		server.EnableHTTP2 = http2
		server.StartTLS()
		client := newClient(t, func(c *egress.Config) {
			c.MaxResponseHeaderBytes = 16 << 10
			c.TLS = roots(server)
		})
		resp, body, err := send(t, client, http.MethodGet, server.URL+"/small", "")
		if err != nil || body != "ok" || (resp.ProtoMajor == 2) != http2 {
			t.Fatalf("HTTP/2 %v: got body %q, answer %v, error %v, want ok", http2, body, resp, err)
		}
		if _, _, err := send(t, client, http.MethodGet, server.URL+"/large", ""); err == nil {
			t.Errorf("HTTP/2 %v: got no error for a header over the cap, want one", http2)
		}
		client = newClient(t, func(c *egress.Config) { c.TLS = roots(server) })
		if _, _, err := send(t, client, http.MethodGet, server.URL+"/large", ""); err != nil {
			t.Errorf("HTTP/2 %v: got error %v for a header below the default cap, want none", http2, err)
		}
		server.Close()
	}
}

// TestInformationalHeadersAreCapped has a server that never comes to the point.
func TestInformationalHeadersAreCapped(t *testing.T) {
	t.Parallel()
	target := rawServer(t, func(conn net.Conn) {
		line := "HTTP/1.1 103 Early Hints\r\nLink: " + strings.Repeat("x", 1000) + "\r\n\r\n"
		for {
			if _, err := io.WriteString(conn, line); err != nil {
				return
			}
		}
	})
	if _, _, err := send(t, newClient(t, nil), http.MethodGet, target, ""); err == nil {
		t.Error("got no error, want one")
	}
}

// rawServer answers each connection with answer, after the header of the request, and returns its URL.
func rawServer(tb testing.TB, answer func(net.Conn)) string {
	tb.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(tb.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					answer(conn)
				}
			})
		}
	})
	tb.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return "http://" + l.Addr().String() + "/"
}

func TestTimeouts(t *testing.T) {
	t.Parallel()
	released := make(chan struct{})
	silent := rawServer(t, func(net.Conn) { <-released })
	t.Cleanup(func() { close(released) })

	client := newClient(t, func(c *egress.Config) { c.ResponseHeaderTimeout = time.Millisecond })
	_, _, err := send(t, client, http.MethodGet, silent, "")
	if netErr, ok := errors.AsType[net.Error](err); !ok || !netErr.Timeout() {
		t.Errorf("response header: got error %v, want a timeout", err)
	}

	// A server that never greets: the kernel alone accepts.
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	client = newClient(t, func(c *egress.Config) { c.TLSHandshakeTimeout = time.Millisecond })
	_, _, err = send(t, client, http.MethodGet, "https://"+l.Addr().String()+"/", "")
	if netErr, ok := errors.AsType[net.Error](err); !ok || !netErr.Timeout() {
		t.Errorf("TLS handshake: got error %v, want a timeout", err)
	}

	// A name server that never answers while the client waits.
	asked := make(chan struct{})
	client = newClient(t, func(c *egress.Config) {
		c.DialTimeout = time.Millisecond
		c.Resolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
			<-asked
			return nil, net.ErrClosed
		}}
	})
	_, _, err = send(t, client, http.MethodGet, "http://slow.test/", "")
	close(asked)
	if netErr, ok := errors.AsType[net.Error](err); !ok || !netErr.Timeout() {
		t.Errorf("dial: got error %v, want a timeout", err)
	}
}

func TestRequestAndAnswerAreLeftAlone(t *testing.T) {
	t.Parallel()
	packed := []byte("\x1f\x8b this is not gzip at all")
	for _, http2 := range []bool{false, true} {
		var got http.Header
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got = r.Header.Clone()
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(packed)
		}))
		server.EnableHTTP2 = http2
		server.StartTLS()
		t.Cleanup(server.Close)
		client := newClient(t, func(c *egress.Config) { c.TLS = roots(server) })

		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, bytes.NewReader([]byte("x")))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Kept", "1")
		before := req.Header.Clone()
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !bytes.Equal(body, packed) || resp.Header.Get("Content-Encoding") != "gzip" || resp.Uncompressed {
			t.Errorf("HTTP/2 %v: got body %q, header %v, error %v, want the bytes that were sent", http2, body, resp.Header, err)
		}
		want := http.Header{"X-Kept": {"1"}, "Content-Length": {"1"}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("HTTP/2 %v: header at the destination (-want +got):\n%s", http2, diff)
		}
		if diff := cmp.Diff(before, req.Header); diff != "" {
			t.Errorf("HTTP/2 %v: the request's header was changed (-want +got):\n%s", http2, diff)
		}
		if resp.Request != req {
			t.Errorf("HTTP/2 %v: got another request in the answer, want the caller's", http2)
		}

		req.Header.Set("User-Agent", "Mine")
		req.Body = io.NopCloser(strings.NewReader("x"))
		if resp, err = client.Do(req); err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got.Get("User-Agent") != "Mine" {
			t.Errorf("HTTP/2 %v: got User-Agent %q, want Mine", http2, got.Get("User-Agent"))
		}
	}
}

// roots returns a configuration that trusts the server.
func roots(server *httptest.Server) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	return &tls.Config{RootCAs: pool}
}

func TestCertificatesAreVerified(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // handshakes that the client breaks off
	server.StartTLS()
	t.Cleanup(server.Close)
	_, _, err := send(t, newClient(t, nil), http.MethodGet, server.URL, "")
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
		t.Errorf("got error %v, want an unknown authority", err)
	}
	if _, err := egress.New(egress.Config{TLS: &tls.Config{InsecureSkipVerify: true}}); err == nil {
		t.Error("got no error for a configuration without verification, want one")
	}
	config := roots(server)
	_, _, err = send(t, newClient(t, func(c *egress.Config) { c.TLS = config }), http.MethodGet, server.URL, "")
	if err != nil {
		t.Errorf("got error %v with the server's root, want none", err)
	}
	if config.ClientSessionCache != nil || config.NextProtos != nil {
		t.Error("the caller's TLS configuration was changed, want it cloned")
	}
}

// TestConnectionsAreReused runs 512 requests at the same time, twice.
func TestConnectionsAreReused(t *testing.T) {
	t.Parallel()
	const requests = 512
	var conns atomic.Int64
	arrived := make(chan struct{}, 2*requests)
	var mu sync.Mutex
	var release chan struct{} // under mu
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		mu.Lock()
		wait := release
		mu.Unlock()
		arrived <- struct{}{}
		<-wait
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	client := newClient(t, nil)
	for range 2 {
		mu.Lock()
		release = make(chan struct{})
		mu.Unlock()
		var wg sync.WaitGroup
		for range requests {
			wg.Go(func() {
				if _, _, err := send(t, client, http.MethodPost, server.URL, "x"); err != nil {
					t.Error(err)
					arrived <- struct{}{} // or the others would wait for ever
				}
			})
		}
		for range requests {
			<-arrived
		}
		close(release)
		wg.Wait()
	}
	if n := conns.Load(); n != requests {
		t.Errorf("got %d connections, want %d", n, requests)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	arrived, release := make(chan struct{}, 2), make(chan struct{})
	closed := make(chan struct{}, 16)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			arrived <- struct{}{}
			<-release
		}
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			closed <- struct{}{}
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	client := newClient(t, func(c *egress.Config) {
		c.MaxConnsPerHost = 1
		c.IdleConnTimeout = time.Millisecond
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, _, err := send(t, client, http.MethodGet, server.URL+"/hold", ""); err != nil {
			t.Error(err)
			arrived <- struct{}{}
		}
	})
	<-arrived
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err == nil {
		resp.Body.Close()
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got error %v while the only connection is busy, want a passed deadline", err)
	}
	close(release)
	wg.Wait()
	<-closed // it stayed unused for its time
}

// TestHTTP2Streams runs more requests at the same time than one HTTP/2 connection carries.
func TestHTTP2Streams(t *testing.T) {
	t.Parallel()
	const requests, streams = 50, 10
	arrived := make(chan struct{}, 2*requests)
	release := make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // handshakes that the client breaks off
	server.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: streams}
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	client := newClient(t, func(c *egress.Config) { c.TLS = roots(server) })
	var wg sync.WaitGroup
	for range requests {
		wg.Go(func() {
			resp, _, err := send(t, client, http.MethodPost, server.URL, "x")
			if err != nil || resp.ProtoMajor != 2 {
				t.Errorf("got answer %v, error %v, want one over HTTP/2", resp, err)
				arrived <- struct{}{}
			}
		})
	}
	for range requests {
		<-arrived
	}
	close(release)
	wg.Wait()
}

func TestResolve(t *testing.T) {
	t.Parallel()
	dns := newDNSServer(t)
	dns.set("public.test", "8.8.8.8", "2606:4700::1111")
	dns.set("private.test", "10.0.0.1")
	dns.set("mixed.test", "10.0.0.1", "8.8.8.8")
	dns.set("app.internal", "10.0.0.1")
	dns.set("meta.internal", "169.254.169.254")
	dns.set("empty.test")
	g := newGuard(t, egress.Config{Resolver: dns.resolver(), Allow: []string{".internal"}})
	tests := []struct{ url, want string }{
		{"https://public.test/", ""},
		{"https://public.test./", ""},
		{"https://mixed.test/", ""},
		{"https://app.internal/", ""},
		{"https://8.8.8.8/", ""},
		{"https://[2606:4700::1111]/", ""},
		{"https://private.test/", prefix + "endpoint resolves to a private address: 10.0.0.1 (allow it with --allow-private)"},
		{"https://meta.internal/", prefix + "endpoint resolves to a cloud metadata address: 169.254.169.254"},
		{"https://missing.test/", prefix + "unable to resolve host: lookup missing.test"},
		{"https://empty.test/", prefix + "unable to resolve host: lookup empty.test"},
		{"https://127.0.0.1/", prefix + "endpoint resolves to a loopback address: 127.0.0.1"},
		{"http://public.test/", prefix + "endpoint has invalid scheme http://"},
	}
	for _, tt := range tests {
		err := g.Resolve(t.Context(), tt.url)
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: got error %v, want none", tt.url, err)
			}
			continue
		}
		if _, ok := errors.AsType[*egress.InvalidURLError](err); !ok || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: got error %v, want an *InvalidURLError that begins with %q", tt.url, err, tt.want)
		}
		if strings.Contains(tt.want, "unable") && !strings.HasSuffix(err.Error(), ": no such host") {
			t.Errorf("%s: got error %q, want one that ends with no such host", tt.url, err)
		}
	}

	dns.fail(true)
	err := g.Resolve(t.Context(), "https://public.test/")
	if _, ok := errors.AsType[*egress.InvalidURLError](err); err == nil || ok {
		t.Errorf("failing name server: got error %v, want one that does not blame the URL", err)
	}
}
