// Package delivery makes one attempt over HTTP: it builds the request, signs it, sends it through the egress guard's client,
// bounds the time and the answer, and tells what came of it. It stores nothing and never repeats a request that may have
// reached its destination.
package delivery

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/egress"
	"github.com/posthaste/posthaste/internal/lifecycle"
	"github.com/posthaste/posthaste/internal/signature"
	"github.com/posthaste/posthaste/internal/wire"
)

// Config sets a Deliverer up.
type Config struct {
	Region      string        // reported to destinations; empty: EU-CENTRAL-1
	Timeout     time.Duration // of messages that set none; 0: 30 s
	MaxResponse int64         // bytes of an answer that are kept; the rest is not read. 0: 512 KiB
	LLMToken    string        // bearer token of the service behind the LLM destination, for messages that forward none
}

// Deliverer makes attempts. It is safe for concurrent use.
type Deliverer struct {
	cfg  Config
	rt   http.RoundTripper
	sign func(posthaste.TenantID) *signature.Signer
}

// New returns a Deliverer that sends through rt, which must come from the egress guard, and signs with the tenant's current
// key as sign tells it at each attempt.
func New(rt http.RoundTripper, sign func(posthaste.TenantID) *signature.Signer, cfg Config) *Deliverer {
	if cfg.Region == "" {
		cfg.Region = "EU-CENTRAL-1"
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.MaxResponse <= 0 {
		cfg.MaxResponse = 512 << 10
	}
	return &Deliverer{cfg: cfg, rt: rt, sign: sign}
}

// Attempt makes one attempt of m, which has been retried so many times before. It returns nil if ctx was canceled before the
// answer was complete: such an attempt does not count.
func (d *Deliverer) Attempt(ctx context.Context, m *posthaste.Message, retried int) *lifecycle.Result {
	timeout := m.Timeout
	if timeout <= 0 {
		timeout = d.cfg.Timeout
	}
	begin := time.Now()
	limited := egress.NewLimit(ctx, timeout)
	defer limited.Release()
	res := d.send(limited, m, retried, begin)
	if ctx.Err() != nil && res.Outcome != posthaste.OutcomeDelivered {
		return nil
	}
	res.Took = time.Since(begin)
	return res
}

func (d *Deliverer) send(ctx context.Context, m *posthaste.Message, retried int, now time.Time) *lifecycle.Result {
	req, err := d.request(ctx, m, retried, now)
	if err != nil {
		return &lifecycle.Result{Outcome: posthaste.OutcomeProtocol, Error: err.Error()}
	}
	resp, err := d.rt.RoundTrip(req)
	if err != nil {
		return failure(ctx, err)
	}
	defer resp.Body.Close() //nolint:errcheck // what was wanted of it has been read
	body, err := d.read(resp)
	res := &lifecycle.Result{Status: resp.StatusCode, Header: posthaste.Header(resp.Header), Body: body}
	if err != nil {
		f := failure(ctx, err)
		res.Outcome, res.Error = f.Outcome, f.Error
		// An answer that breaks off is none: its status must not count as success.
		res.Status, res.Header, res.Body = 0, nil, nil
		return res
	}
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode <= 299:
		res.Outcome = posthaste.OutcomeDelivered
	case resp.StatusCode == wire.StatusNonRetryable && resp.Header.Get(wire.HeaderNonRetryable) == "true":
		res.Outcome = posthaste.OutcomeNonRetryable
		res.Error = statusText(resp.StatusCode)
	default:
		res.Outcome = posthaste.OutcomeStatus
		res.Error = statusText(resp.StatusCode)
	}
	return res
}

// statusText returns "<code> <reason>", or the code alone if it has no name.
func statusText(code int) string {
	if t := http.StatusText(code); t != "" {
		return strconv.Itoa(code) + " " + t
	}
	return strconv.Itoa(code)
}

// request builds and signs. The engine's own headers replace forwarded ones of the same name.
func (d *Deliverer) request(ctx context.Context, m *posthaste.Message, retried int, now time.Time) (*http.Request, error) {
	u, err := url.Parse(m.URL)
	if err != nil {
		return nil, err
	}
	h := make(http.Header, len(m.Header)+8)
	maps.Copy(h, m.Header)
	if _, ok := h[wire.HeaderUserAgent]; !ok {
		h[wire.HeaderUserAgent] = userAgent
	}
	if _, ok := h[wire.HeaderAuthorization]; !ok && m.API == wire.APILLM && d.cfg.LLMToken != "" {
		h[wire.HeaderAuthorization] = []string{wire.BearerPrefix + d.cfg.LLMToken}
	}
	if s := d.sign(m.Tenant); s != nil {
		var r signature.Random
		rand.Read(r[:]) // never fails
		h[wire.HeaderSignature] = []string{s.Sign(signature.Delivery{URL: m.URL, Body: m.Body, ID: signature.NewTokenID(r), At: now})}
	}
	own := [...]string{string(m.ID), strconv.Itoa(retried), d.cfg.Region, m.Group, string(m.Schedule), m.CallerIP}
	h[wire.HeaderMessageID] = own[0:1:1]
	h[wire.HeaderRetried] = own[1:2:2]
	h[wire.HeaderRegion] = own[2:3:3]
	if m.Group != "" {
		h[wire.HeaderTopicName] = own[3:4:4]
	}
	if m.Schedule != "" {
		h[wire.HeaderScheduleID] = own[4:5:5]
	}
	if m.CallerIP != "" {
		h[wire.HeaderCallerIP] = own[5:6:6]
	}
	req, err := http.NewRequestWithContext(ctx, m.Method, "", nil)
	if err != nil {
		return nil, err
	}
	req.URL, req.Host, req.Header = u, u.Host, h
	if len(m.Body) > 0 {
		req.ContentLength = int64(len(m.Body))
		// A request of which nothing was written, because a kept connection was closed, may be sent on a new one.
		req.GetBody = func() (io.ReadCloser, error) { return newBody(m.Body), nil }
		req.Body = newBody(m.Body)
	}
	return req, nil
}

// body is the body of a request.
type body struct{ bytes.Reader }

func newBody(data []byte) *body {
	b := &body{}
	b.Reset(data)
	return b
}

// Close implements [io.Closer].
func (*body) Close() error { return nil }

var userAgent = []string{wire.UserAgent}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// read returns the body, at most as much as is kept. What is longer is cut; the connection is closed then.
func (d *Deliverer) read(resp *http.Response) ([]byte, error) {
	if resp.ContentLength == 0 || resp.Body == http.NoBody {
		return nil, nil
	}
	buf := buffers.Get().(*bytes.Buffer)
	defer func() {
		if buf.Cap() <= 64<<10 {
			buf.Reset()
			buffers.Put(buf)
		}
	}()
	if _, err := io.CopyN(buf, resp.Body, d.cfg.MaxResponse); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return bytes.Clone(buf.Bytes()), nil
}

// failure classifies an attempt without a whole answer.
func failure(ctx context.Context, err error) *lifecycle.Result {
	res := &lifecycle.Result{Outcome: posthaste.OutcomeReset, Error: err.Error()}
	var (
		refused *egress.RefusedError
		dns     *net.DNSError
		op      *net.OpError
		cert    *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		alert   tls.AlertError
		timeout interface{ Timeout() bool }
	)
	switch {
	case errors.As(err, &refused):
		res.Outcome = posthaste.OutcomeRefused
	case ctx.Err() != nil:
		res.Outcome, res.Error = posthaste.OutcomeTimeout, context.DeadlineExceeded.Error()
	case errors.As(err, &dns):
		res.Outcome = posthaste.OutcomeDNS
	case errors.As(err, &cert), errors.As(err, &record), errors.As(err, &alert):
		res.Outcome = posthaste.OutcomeTLS
	case errors.As(err, &timeout) && timeout.Timeout():
		res.Outcome = posthaste.OutcomeTimeout
	case errors.As(err, &op) && op.Op == "dial":
		res.Outcome = posthaste.OutcomeConnect
	}
	return res
}
