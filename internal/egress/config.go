package egress

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
)

// Mode names the kinds of addresses that may be dialled. Public addresses may be dialled in every mode.
type Mode string

const (
	// ModePublic allows public addresses only.
	ModePublic Mode = "public"
	// ModePrivate also allows loopback, RFC 1918 and unique-local addresses.
	ModePrivate Mode = "allow-private"
	// ModeDev also allows, beyond ModePrivate, what a developer's machine is reached by: link-local addresses, the
	// shared range 100.64.0.0/10 (overlay networks use it), and the unspecified address, which reaches the machine
	// itself and is what development servers print as theirs.
	ModeDev Mode = "dev"
)

// modeKinds lists the kinds that a mode opens besides public. Metadata is in none.
var modeKinds = map[Mode][]kind{
	ModePublic:  {},
	ModePrivate: {kindLoopback, kindPrivate},
	ModeDev:     {kindLoopback, kindPrivate, kindLinkLocal, kindShared, kindUnspecified},
}

// Config configures a [Guard]. Its zero value is safe for production.
type Config struct {
	// Mode says which kinds of addresses may be dialled. Default (empty): [ModePublic].
	Mode Mode
	// AllowHTTP permits http:// beside https://. Default: false.
	AllowHTTP bool
	// Allow opens destinations that Mode refuses. An entry is an address (10.1.2.3, fd00::1), a network in CIDR form
	// (10.0.0.0/8), a host name (app.internal), or a suffix (.internal or *.internal) that stands for every name
	// below it but not for itself. The package comment has the order of the rules. Default: none.
	Allow []string
	// Deny closes destinations that would be allowed, and wins over Allow. Its entries are like those of Allow.
	// Default: none.
	Deny []string
	// Resolver looks names up. Its own connections are not judged. Default (nil): [net.DefaultResolver].
	Resolver *net.Resolver

	// DialTimeout bounds a look-up and the connecting that follows it, over all addresses of a name. Default (zero): 10 s.
	DialTimeout time.Duration
	// TLSHandshakeTimeout bounds a TLS handshake. Default (zero): 10 s.
	TLSHandshakeTimeout time.Duration
	// ResponseHeaderTimeout bounds the wait from the end of the request to the header of the answer. Default
	// (zero): unbounded, since a message may set a timeout of hours, which the request's context carries.
	ResponseHeaderTimeout time.Duration
	// IdleConnTimeout is how long an unused connection stays open. Default (zero): 55 s, a little less than the 60 s
	// and 75 s of common load balancers, so that a request seldom meets a connection being closed by its peer.
	IdleConnTimeout time.Duration
	// MaxResponseHeaderBytes bounds the header of an answer, informational ones included. Default (zero): 64 KiB.
	MaxResponseHeaderBytes int64
	// MaxIdleConns bounds the unused connections kept open in total. Default (zero): 4096.
	MaxIdleConns int
	// MaxIdleConnsPerHost bounds the unused connections kept open to one host and port. Default (zero): 1024. It
	// should not be below the number of requests that run at the same time, or connections are thrown away.
	MaxIdleConnsPerHost int
	// MaxConnsPerHost bounds all connections to one host and port; requests beyond it wait. Default (zero): unbounded.
	MaxConnsPerHost int
	// TLS is the base of the client's TLS configuration, for example with further root certificates. It is cloned,
	// and may not switch verification off. Default (nil): the system's roots.
	TLS *tls.Config
}

func (c Config) withDefaults() Config {
	c.Mode = orDefault(c.Mode, ModePublic)
	c.DialTimeout = orDefault(c.DialTimeout, 10*time.Second)
	c.TLSHandshakeTimeout = orDefault(c.TLSHandshakeTimeout, 10*time.Second)
	c.IdleConnTimeout = orDefault(c.IdleConnTimeout, 55*time.Second)
	c.MaxResponseHeaderBytes = orDefault(c.MaxResponseHeaderBytes, 64<<10)
	c.MaxIdleConns = orDefault(c.MaxIdleConns, 4096)
	c.MaxIdleConnsPerHost = orDefault(c.MaxIdleConnsPerHost, 1024)
	if c.Resolver == nil {
		c.Resolver = net.DefaultResolver
	}
	return c
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// validate reports every fault of c but those of the lists, which newRules finds.
func (c *Config) validate() error {
	var errs []error
	if _, ok := modeKinds[c.Mode]; !ok && c.Mode != "" {
		errs = append(errs, fmt.Errorf("unknown mode %q, want %q, %q or %q", c.Mode, ModePublic, ModePrivate, ModeDev))
	}
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"dial timeout", int64(c.DialTimeout)},
		{"TLS handshake timeout", int64(c.TLSHandshakeTimeout)},
		{"response header timeout", int64(c.ResponseHeaderTimeout)},
		{"idle connection timeout", int64(c.IdleConnTimeout)},
		{"largest response header", c.MaxResponseHeaderBytes},
		{"idle connections", int64(c.MaxIdleConns)},
		{"idle connections per host", int64(c.MaxIdleConnsPerHost)},
		{"connections per host", int64(c.MaxConnsPerHost)},
	} {
		if f.value < 0 {
			errs = append(errs, fmt.Errorf("%s is negative", f.name))
		}
	}
	if c.TLS != nil && c.TLS.InsecureSkipVerify {
		errs = append(errs, errors.New("TLS verification is switched off: add the destination's root certificate instead"))
	}
	return errors.Join(errs...)
}
