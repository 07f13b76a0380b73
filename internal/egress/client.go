package egress

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// NewClient returns a client over [Guard.NewTransport]. It hands a redirect to its caller instead of following it.
func (g *Guard) NewClient() *http.Client {
	return &http.Client{
		Transport:     g.NewTransport(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// NewTransport returns a round-tripper with its own connections, which lets through only what g allows. Its error has
// a [*RefusedError] in its chain where g, and not the network, is the reason; of a name with several addresses, the
// error is that of the address tried first. A program needs one, so that connections are shared.
func (g *Guard) NewTransport() http.RoundTripper {
	config := &tls.Config{}
	if g.cfg.TLS != nil {
		config = g.cfg.TLS.Clone()
	}
	if config.ClientSessionCache == nil {
		config.ClientSessionCache = tls.NewLRUClientSessionCache(1024)
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	t := &transport{
		guard: g,
		base: &http.Transport{
			Proxy:                  nil, // not even the environment's: a proxy would dial where no address is judged
			DialContext:            g.dial,
			TLSClientConfig:        config,
			TLSHandshakeTimeout:    g.cfg.TLSHandshakeTimeout,
			ResponseHeaderTimeout:  g.cfg.ResponseHeaderTimeout,
			ExpectContinueTimeout:  time.Second,
			IdleConnTimeout:        g.cfg.IdleConnTimeout,
			MaxResponseHeaderBytes: g.cfg.MaxResponseHeaderBytes,
			MaxIdleConns:           g.cfg.MaxIdleConns,
			MaxIdleConnsPerHost:    g.cfg.MaxIdleConnsPerHost,
			MaxConnsPerHost:        g.cfg.MaxConnsPerHost,
			DisableCompression:     true,
			Protocols:              &protocols,
			// Many requests share one HTTP/2 connection, and without pings a dead one would take each of them down at
			// its own, perhaps distant, timeout.
			HTTP2: &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
		},
	}
	if g.cfg.MaxConnsPerHost == 0 && g.cfg.ResponseHeaderTimeout == 0 {
		t.plain = newHTTP1(g)
	}
	return t
}

type transport struct {
	guard *Guard
	base  *http.Transport
	plain *http1 // nil where only net/http keeps the limits
}

// RoundTrip judges the URL again, since a message may have been accepted under another configuration.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.guard.checkRequest(req.URL); err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // a round-tripper closes it in any case; the refusal is what matters
		}
		return nil, err
	}
	if t.plain != nil && t.plain.takes(req) {
		resp, err := t.plain.roundTrip(req)
		if err != nil {
			return nil, err
		}
		keepLocation(resp)
		return resp, nil
	}
	out := req
	if _, ok := req.Header["User-Agent"]; !ok {
		// Present without a value, it keeps net/http from adding its own.
		out = req.WithContext(req.Context())
		out.Header = make(http.Header, len(req.Header)+1)
		for name, values := range req.Header {
			out.Header[name] = values
		}
		out.Header["User-Agent"] = nil
	}
	resp, err := t.base.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	resp.Request = req
	keepLocation(resp)
	return resp, nil
}

// CloseIdleConnections closes the connections that carry no request; [http.Client.CloseIdleConnections] calls it.
func (t *transport) CloseIdleConnections() {
	t.base.CloseIdleConnections()
	if t.plain != nil {
		t.plain.closeBefore(time.Now())
	}
}

// checkRequest judges what CheckURL judges, apart from what no longer shows in a parsed URL.
func (g *Guard) checkRequest(u *url.URL) error {
	if u == nil {
		return nil // net/http has an error for it
	}
	switch {
	case strings.EqualFold(u.Scheme, "https"):
	case !strings.EqualFold(u.Scheme, "http"):
		return invalid("endpoint has invalid scheme, add http:// or https://")
	case !g.cfg.AllowHTTP:
		return &InvalidURLError{refusedHTTP}
	}
	return g.checkHost(u.Hostname())
}

// keepLocation hides a Location that cannot be parsed from [http.Client], which would make an error of it before it
// asks whether to follow. Under its lower-case name the answer still has it.
func keepLocation(resp *http.Response) {
	location := resp.Header.Get("Location")
	if location == "" || resp.StatusCode < 300 || resp.StatusCode > 399 {
		return
	}
	if _, err := resp.Request.URL.Parse(location); err != nil {
		resp.Header["location"] = resp.Header["Location"]
		delete(resp.Header, "Location")
	}
}

// dial connects to address, whose host may be a name, and judges each address it leads to right before the
// connecting: between a look-up of our own and the dialler's, the answer could change.
func (g *Guard) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	trusted, refused := g.judgeName(host)
	if refused != nil {
		return nil, refused
	}
	d := net.Dialer{
		Timeout:  g.cfg.DialTimeout,
		Resolver: g.cfg.Resolver,
		ControlContext: func(_ context.Context, network, address string, _ syscall.RawConn) error {
			// What cannot be judged is refused.
			if network != "tcp4" && network != "tcp6" {
				return &RefusedError{"endpoint is reached over " + network + " instead of TCP"}
			}
			addrPort, err := netip.ParseAddrPort(address)
			if err != nil {
				return &RefusedError{"endpoint resolves to an unreadable address: " + quote(address)}
			}
			if refused := g.judgeAddr(addrPort.Addr(), trusted); refused != nil {
				return refused
			}
			return nil
		},
	}
	return d.DialContext(ctx, network, address)
}
