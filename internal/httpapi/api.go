// Package httpapi is the HTTP edge: it decodes requests, has package broker carry them out, and encodes the answers. It alone
// knows status numbers. Every answer that is no success is {"error": "…"} with a JSON content type, whatever went wrong.
//
// Destinations travel raw in the path, with their own "//", so requests are matched on the escaped path and never cleaned.
package httpapi

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/auth"
	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/wire"
)

// Config sets a Handler up.
type Config struct {
	// MaxBody is the size in bytes above which a message's body is not even read; 0: 100 MiB. MaxBatch bounds a whole batch
	// and every other request; 0: 100 MiB.
	MaxBody  int64
	MaxBatch int64
	// Budget bounds the bytes of request bodies in memory; 0: 256 MiB.
	Budget         int64
	TrustedProxies []netip.Prefix
	Origins        []string // that browsers may call from; "*": any
	LLM            *LLM     // behind the chat route; nil: none
	Logger         *slog.Logger
	// Observe is told of every answered request; nil: nobody is.
	Observe func(route string, status int, took time.Duration)
	// Hook is called at named points by crash tests; nil otherwise.
	Hook func(point string)
}

// Handler serves the API. It is safe for concurrent use.
type Handler struct {
	cfg    Config
	broker *broker.Broker
	auth   *auth.Authenticator
	budget *budget
	burst  *burst
	log    *slog.Logger

	requestSeed string
	requests    atomic.Uint64
}

// New returns the handler of the API.
func New(b *broker.Broker, a *auth.Authenticator, cfg Config) *Handler {
	if cfg.MaxBody <= 0 {
		cfg.MaxBody = 100 << 20
	}
	if cfg.MaxBatch <= 0 {
		cfg.MaxBatch = 100 << 20
	}
	if cfg.Budget <= 0 {
		cfg.Budget = 256 << 20
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	now := time.Now().UnixNano()
	return &Handler{
		cfg: cfg, broker: b, auth: a, budget: newBudget(cfg.Budget), burst: newBurst(), log: cfg.Logger,
		requestSeed: hex.EncodeToString([]byte{byte(now >> 40), byte(now >> 32), byte(now >> 24), byte(now >> 16), byte(now >> 8), byte(now)}),
	}
}

// call is one request on its way.
type call struct {
	h    *Handler
	w    http.ResponseWriter
	r    *http.Request
	rest string // of the escaped path, behind the fixed words
	// who is nil on routes without authentication.
	who           *directory.Principal
	tokenInHeader bool
	held          int64 // of the byte budget
	status        int
	wrote         bool
}

// ctx is the context of work that takes a moment only. It goes on when the client closes its side of the connection, as some do
// that have sent all they have to say.
func (c *call) ctx() context.Context { return context.WithoutCancel(c.r.Context()) }

// endpoint is what a method of a route does.
type endpoint struct {
	action auth.Action
	open   bool // needs no token
	serve  func(*call) error
}

// route is a matched path.
type route struct {
	name    string // for metrics and the description
	rest    string
	methods map[string]endpoint
}

// ServeHTTP implements [http.Handler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	begin := time.Now()
	c := &call{h: h, w: w, r: r}
	id := h.requestSeed + strconv.FormatUint(h.requests.Add(1), 36)
	w.Header()[wire.HeaderRequestID] = []string{id}
	name := "unknown"
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler { //nolint:errorlint // net/http compares it so, too
				panic(p)
			}
			h.log.Error("panic in a request", "request_id", id, "method", r.Method, "route", name, "panic", p, "stack", string(debug.Stack()))
			c.fail(posthaste.Errorf(posthaste.CodeInternal, "internal error; the request id is %s", id))
		}
		if c.held > 0 {
			h.budget.release(c.held)
		}
		if h.cfg.Observe != nil {
			h.cfg.Observe(name, c.status, time.Since(begin))
		}
	}()
	h.cors(c)
	rt := match(rawPath(r))
	if rt == nil {
		c.fail(&posthaste.Error{Code: posthaste.CodeNotFound, Message: "no such route: " + shorten(r.URL.Path)})
		return
	}
	name = rt.name
	e, ok := rt.methods[r.Method]
	if !ok {
		c.method(rt)
		return
	}
	c.rest = rt.rest
	if err := c.authenticate(e); err != nil {
		c.fail(err)
		return
	}
	if err := e.serve(c); err != nil {
		if r.Context().Err() != nil && errors.Is(err, context.Cause(r.Context())) {
			err = posthaste.Errorf(posthaste.CodeUnavailable, "the client went away; what was done until then stays done")
		}
		if posthaste.CodeOf(err) == posthaste.CodeInternal {
			h.log.Error("request failed", "request_id", id, "method", r.Method, "route", name, "err", err)
		}
		c.fail(err)
	}
}

// rawPath returns the path as it was sent. URL.EscapedPath would write some bytes anew.
func rawPath(r *http.Request) string {
	if strings.HasPrefix(r.RequestURI, "/") {
		path, _, _ := strings.Cut(r.RequestURI, "?")
		return path
	}
	return r.URL.EscapedPath()
}

func shorten(s string) string {
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

// method answers a method that the route does not have.
func (c *call) method(rt *route) {
	allow := make([]string, 0, len(rt.methods)+1)
	for m := range rt.methods {
		allow = append(allow, m)
	}
	slices.Sort(allow)
	allow = append(allow, http.MethodOptions)
	c.w.Header().Set(wire.HeaderAllow, strings.Join(allow, ", "))
	if c.r.Method == http.MethodOptions {
		c.w.WriteHeader(http.StatusNoContent)
		c.status, c.wrote = http.StatusNoContent, true
		return
	}
	c.status = http.StatusMethodNotAllowed
	c.json(http.StatusMethodNotAllowed, wire.AppendError(nil, "method "+c.r.Method+" is not allowed here; allowed: "+strings.Join(allow, ", ")))
}

// cors adds what browsers of allowed origins need.
func (h *Handler) cors(c *call) {
	origin := c.r.Header.Get("Origin")
	if origin == "" || len(h.cfg.Origins) == 0 || !slices.Contains(h.cfg.Origins, "*") && !slices.Contains(h.cfg.Origins, origin) {
		return
	}
	head := c.w.Header()
	head.Set("Access-Control-Allow-Origin", origin)
	head.Add("Vary", "Origin")
	head.Set("Access-Control-Expose-Headers", "*")
	if c.r.Method == http.MethodOptions {
		head.Set("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE")
		want := c.r.Header.Get("Access-Control-Request-Headers")
		if want == "" {
			want = "*"
		}
		head.Set("Access-Control-Allow-Headers", want)
		head.Set("Access-Control-Max-Age", "600")
	}
}

// authenticate finds out who asks and whether they may.
func (c *call) authenticate(e endpoint) error {
	if e.open {
		return nil
	}
	token, ok := auth.Bearer(c.r.Header.Get(wire.HeaderAuthorization))
	c.tokenInHeader = ok
	if !ok {
		token, _ = wire.TokenFromQuery(c.r.URL.RawQuery)
	}
	who, err := c.h.auth.Authenticate(c.ctx(), token, e.action)
	if err != nil {
		return err
	}
	who.CallerIP = auth.Caller(c.r.RemoteAddr, c.r.Header.Get(wire.HeaderForwardedFor), c.h.cfg.TrustedProxies)
	c.who = who
	if e.action != auth.Publish {
		return c.h.burst.admit(c)
	}
	return nil
}

// statuses maps codes to HTTP. The client library has the way back.
var statuses = map[posthaste.Code]int{
	posthaste.CodeInvalid:       http.StatusBadRequest,
	posthaste.CodeUnauthorized:  http.StatusUnauthorized,
	posthaste.CodeForbidden:     http.StatusForbidden,
	posthaste.CodeNotFound:      http.StatusNotFound,
	posthaste.CodeConflict:      http.StatusConflict,
	posthaste.CodeTooLarge:      http.StatusRequestEntityTooLarge,
	posthaste.CodeQuotaExceeded: http.StatusPreconditionFailed,
	posthaste.CodeRateLimited:   http.StatusTooManyRequests,
	posthaste.CodeUnavailable:   http.StatusServiceUnavailable,
	posthaste.CodeInternal:      http.StatusInternalServerError,
}

// fail answers an error. Causes stay in the log.
func (c *call) fail(err error) {
	if c.wrote {
		return
	}
	code := posthaste.CodeOf(err)
	text := "internal error"
	var e *posthaste.Error
	if errors.As(err, &e) {
		text = e.Message
		if e.Limit != nil {
			limitHeaders(c.w.Header(), e.Limit)
		}
	}
	switch code {
	case posthaste.CodeInternal:
		if e == nil || e.Err != nil {
			text = "internal error; the request id is " + c.w.Header().Get(wire.HeaderRequestID)
		}
	case posthaste.CodeUnavailable:
		c.w.Header().Set(wire.HeaderRetryAfter, "1")
		if text == "" || e.Err != nil {
			text = "the store cannot commit at the moment; nothing was stored, try again"
		}
	case posthaste.CodeInvalid, posthaste.CodeUnauthorized, posthaste.CodeForbidden, posthaste.CodeNotFound, posthaste.CodeConflict,
		posthaste.CodeTooLarge, posthaste.CodeQuotaExceeded, posthaste.CodeRateLimited:
	}
	c.json(statuses[code], wire.AppendError(nil, text))
}

// Fail answers an error on a route of another edge, with the status and the words that it has here.
func Fail(w http.ResponseWriter, err error) { (&call{w: w}).fail(err) }

// limitHeaders tells a client of a rate limit. The two classes have headers of their own, by which client libraries tell them
// apart.
func limitHeaders(h http.Header, l *posthaste.RateLimit) {
	names := [3]string{wire.HeaderBurstLimit, wire.HeaderBurstRemaining, wire.HeaderBurstReset}
	if l.Daily {
		names = [3]string{wire.HeaderDailyLimit, wire.HeaderDailyRemaining, wire.HeaderDailyReset}
	}
	for i, v := range []int64{l.Limit, l.Remaining, l.Reset} {
		h.Set(names[i], strconv.FormatInt(v, 10))
	}
}

var jsonType = []string{wire.ContentTypeJSON}

// json answers with a JSON body.
func (c *call) json(status int, body []byte) {
	if c.wrote {
		return
	}
	c.wrote, c.status = true, status
	h := c.w.Header()
	h["Content-Type"] = jsonType
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	c.w.WriteHeader(status)
	c.w.Write(body) //nolint:errcheck // a client that went away is no fault of ours
}

// empty answers a success that has nothing to tell.
func (c *call) empty() error {
	c.json(http.StatusOK, []byte(wire.Empty))
	return nil
}
