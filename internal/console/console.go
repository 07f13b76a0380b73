// Package console is the web console: pages rendered by html/template, kept up to date over server-sent events, with every
// asset embedded. It is an edge like the API: it authenticates the same tokens and asks the same broker.
//
// A page is a function from a request to data, and a template. The same function and named parts of the same template make the
// live updates of the page, so both always show the same, and filters in the address hold for both.
package console

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/activity"
	"github.com/posthaste/posthaste/internal/auth"
	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/devtools"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/wire"
)

// Prefix is the path under which the console lives.
const Prefix = "/console/"

// Config sets a Handler up.
type Config struct {
	// DevToken signs visitors in that come to this machine by a loopback address or name; empty: nobody is.
	DevToken string
	Version  string
	// Store says where everything is kept: file, memory, or the name of a database. DiskUse returns the bytes of a file.
	Store          string
	DiskUse        func() int64
	TrustedProxies []netip.Prefix
	Logger         *slog.Logger
	// Observe is told of every answered request, live streams excepted; nil: nobody is.
	Observe func(route string, status int, took time.Duration)
}

// Deps are what a Handler works with.
type Deps struct {
	Broker   *broker.Broker
	Auth     *auth.Authenticator
	Admin    *broker.Admin
	Activity *activity.Recorder
	Dev      *devtools.Tools // nil: not a development server
}

// Handler serves the console. It is safe for concurrent use.
type Handler struct {
	cfg      Config
	broker   *broker.Broker
	auth     *auth.Authenticator
	admin    *broker.Admin
	activity *activity.Recorder
	dev      *devtools.Tools
	sessions *auth.Sessions
	pages    *templates
	mux      *http.ServeMux
	secured  http.Handler
	streams  atomic.Int64
	stop     context.Context
	end      context.CancelFunc
	log      *slog.Logger
}

// New returns the handler of the console.
func New(d Deps, cfg Config) *Handler {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Handler{
		cfg: cfg, broker: d.Broker, auth: d.Auth, admin: d.Admin, activity: d.Activity, dev: d.Dev, sessions: auth.NewSessions(nil),
		pages: loadTemplates(), mux: http.NewServeMux(), log: cfg.Logger,
	}
	h.stop, h.end = context.WithCancel(context.Background())
	h.routes()
	h.secured = http.NewCrossOriginProtection().Handler(h.mux)
	return h
}

// Close ends the live streams, so that a stop need not wait for people to close their browsers.
func (h *Handler) Close(context.Context) error {
	h.end()
	return nil
}

func (h *Handler) routes() {
	h.mux.Handle("GET "+Prefix+"assets/", assetHandler())
	h.mux.HandleFunc("GET "+Prefix+"sign-in", h.signInPage)
	h.mux.HandleFunc("POST "+Prefix+"sign-in", h.signIn)
	h.mux.HandleFunc("POST "+Prefix+"sign-out", h.signOut)

	h.page("", auth.Read, h.overview)
	h.page("logs", auth.Read, h.logs)
	h.page("messages/{id}", auth.Read, h.message)
	h.page("publish", auth.Publish, h.publishForm)
	h.page("queues", auth.Read, h.queues)
	h.page("flow", auth.Read, h.flow)
	h.page("hosts", auth.Read, h.hosts)
	h.page("groups", auth.Read, h.groups)
	h.page("schedules", auth.Read, h.schedules)
	h.page("schedules/new", auth.Read, h.scheduleForm)
	h.page("schedules/edit/{id}", auth.Read, h.scheduleForm)
	h.page("dlq", auth.Read, h.dead)
	h.page("keys", auth.Read, h.keys)
	h.page("tokens", auth.Read, h.tokens)

	if h.dev != nil {
		h.page("dev", auth.Read, h.development)
		h.page("dev/inbox/{name}", auth.Read, h.inbox)
		h.action("dev/clock", auth.Manage, h.moveClock)
		h.action("dev/reset", auth.Manage, h.reset)
		h.action("dev/inbox", auth.Manage, h.setInbox)
	}
	h.mux.HandleFunc("GET "+Prefix, func(w http.ResponseWriter, r *http.Request) {
		if c := h.signedIn(w, r, auth.Read); c != nil && c.who != nil {
			c.fail(posthaste.Errorf(posthaste.CodeNotFound, "There is no such page."))
		}
	})

	h.action("messages/{id}/cancel", auth.Manage, h.cancelMessage)
	h.action("publish", auth.Publish, h.publish)
	h.action("publish/code", auth.Publish, h.publishCode)
	h.action("queues", auth.Manage, h.putQueue)
	h.action("queues/pause", auth.Manage, h.pauseQueue)
	h.action("queues/delete", auth.Manage, h.deleteQueue)
	h.action("flow", auth.Manage, h.editFlow)
	h.action("hosts/unblock", auth.Manage, h.unblockHost)
	h.action("groups", auth.Manage, h.addEndpoint)
	h.action("groups/remove", auth.Manage, h.removeEndpoint)
	h.action("groups/delete", auth.Manage, h.deleteGroup)
	h.action("schedules", auth.Manage, h.putSchedule)
	h.action("schedules/preview", auth.Read, h.previewSchedule)
	h.action("schedules/pause", auth.Manage, h.pauseSchedule)
	h.action("schedules/delete", auth.Manage, h.deleteSchedule)
	h.action("dlq/preview", auth.Manage, h.previewDead)
	h.action("dlq/step", auth.Manage, h.stepDead)
	h.action("dlq/one", auth.Manage, h.oneDead)
	h.action("keys/rotate", auth.Manage, h.rotateKeys)
	h.action("tokens", auth.Manage, h.createToken)
	h.action("tokens/revoke", auth.Manage, h.revokeToken)
}

// csp allows what comes from the server itself, and no inline script or style.
const csp = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// ServeHTTP implements [http.Handler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	head := w.Header()
	head.Set("Content-Security-Policy", csp)
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("X-Frame-Options", "DENY")
	head.Set("Referrer-Policy", "same-origin")
	head.Set("Cross-Origin-Opener-Policy", "same-origin")
	head.Set("Cache-Control", "no-store")
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler { //nolint:errorlint // net/http compares it so, too
				panic(p)
			}
			h.log.Error("panic in the console", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			http.Error(w, "internal error", http.StatusInternalServerError)
		}
	}()
	h.secured.ServeHTTP(w, r)
}

// call is one request of somebody who is signed in.
type call struct {
	h     *Handler
	w     http.ResponseWriter
	r     *http.Request
	who   *directory.Principal
	token string
}

func (c *call) ctx() context.Context { return c.r.Context() }

// scope says what the visitor may do.
func (c *call) scope() directory.Scope { return c.who.Token.Scope }

// view is what a page shows.
type view struct {
	page   string // the template
	title  string
	nav    string // the entry of the menu that is marked
	live   []string
	every  time.Duration // between looks for something new
	status int
	data   any
}

// page registers a page.
func (h *Handler) page(path string, action auth.Action, f func(*call) (*view, error)) {
	pattern := Prefix + path
	if path == "" {
		pattern += "{$}"
	}
	h.mux.HandleFunc("GET "+pattern, h.measured(pattern, func(w http.ResponseWriter, r *http.Request) int {
		c := h.signedIn(w, r, action)
		if c == nil {
			return http.StatusSeeOther
		}
		if c.who == nil {
			return http.StatusForbidden
		}
		v, err := f(c)
		if err != nil {
			return c.fail(err)
		}
		if v == nil { // it sent the visitor elsewhere
			return http.StatusSeeOther
		}
		if strings.HasPrefix(r.Header.Get("Accept"), "text/event-stream") {
			c.stream(v, f, action)
			return 0
		}
		return c.render(v)
	}))
}

// action registers something that a form or a button does.
func (h *Handler) action(path string, action auth.Action, f func(*call) error) {
	pattern := Prefix + path
	h.mux.HandleFunc("POST "+pattern, h.measured(pattern, func(w http.ResponseWriter, r *http.Request) int {
		c := h.signedIn(w, r, action)
		if c == nil {
			return http.StatusSeeOther
		}
		if c.who == nil {
			return http.StatusForbidden
		}
		r.Body = http.MaxBytesReader(w, r.Body, 3*h.broker.MaxBody(c.who)+1<<20)
		if err := parseForm(r); err != nil {
			return c.fail(posthaste.Errorf(posthaste.CodeTooLarge, "the form is too large, or malformed"))
		}
		if err := f(c); err != nil {
			return c.refuse(err)
		}
		return http.StatusOK
	}))
}

func parseForm(r *http.Request) error {
	if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/") {
		return errors.New("forms are not sent in parts")
	}
	return r.ParseForm()
}

// measured tells the observer of a request; status 0 keeps it quiet.
func (h *Handler) measured(route string, f func(http.ResponseWriter, *http.Request) int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		if status := f(w, r); status != 0 && h.cfg.Observe != nil {
			h.cfg.Observe(route, status, time.Since(begin))
		}
	}
}

// signedIn finds out who asks. It returns nil after sending the visitor to the sign-in page, and a call of nobody after telling
// them that their token does not allow it.
func (h *Handler) signedIn(w http.ResponseWriter, r *http.Request, action auth.Action) *call {
	token, ok := "", false
	if cookie, err := r.Cookie(sessionCookie); err == nil {
		token, ok = h.sessions.Token(cookie.Value)
	}
	if !ok && h.devVisitor(r) && r.Method == http.MethodGet {
		token, ok = h.cfg.DevToken, true
		h.begin(w, r, token)
	}
	if !ok {
		h.toSignIn(w, r)
		return nil
	}
	c := &call{h: h, w: w, r: r, token: token}
	who, err := h.auth.Authenticate(r.Context(), token, action)
	if posthaste.CodeOf(err) == posthaste.CodeForbidden && action == auth.Publish && r.Method == http.MethodGet {
		who, err = h.auth.Authenticate(r.Context(), token, auth.Read) // who may only look sees the form
	}
	switch posthaste.CodeOf(err) { //nolint:exhaustive // the others are the server's trouble
	case "":
	case posthaste.CodeUnauthorized:
		h.toSignIn(w, r)
		return nil
	case posthaste.CodeForbidden:
		if who, e := h.auth.Authenticate(r.Context(), token, auth.Publish); e == nil && r.Method == http.MethodGet && action == auth.Read {
			c.who = who
			c.fail(posthaste.Errorf(posthaste.CodeForbidden, "This token can only publish. Sign in with another one to see what is here."))
			c.who = nil
			return c
		}
		if who, e := h.auth.Authenticate(r.Context(), token, auth.Read); e == nil {
			c.who = who
		}
		c.refuse(posthaste.Errorf(posthaste.CodeForbidden, "This token is read-only: it can look at everything and change nothing."))
		c.who = nil
		return c
	default:
		h.log.Error("authentication failed", "err", err)
		c.fail(err)
		return c
	}
	who.CallerIP = auth.Caller(r.RemoteAddr, r.Header.Get(wire.HeaderForwardedFor), h.cfg.TrustedProxies)
	c.who = who
	return c
}

// devVisitor reports whether a visitor is signed in by itself: with a development server, from this machine's own names. Others
// could be a page of the internet whose name was made to lead here.
func (h *Handler) devVisitor(r *http.Request) bool {
	if h.cfg.DevToken == "" {
		return false
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// statuses maps codes to HTTP.
var statuses = map[posthaste.Code]int{
	posthaste.CodeInvalid:       http.StatusUnprocessableEntity,
	posthaste.CodeUnauthorized:  http.StatusUnauthorized,
	posthaste.CodeForbidden:     http.StatusForbidden,
	posthaste.CodeNotFound:      http.StatusNotFound,
	posthaste.CodeConflict:      http.StatusConflict,
	posthaste.CodeTooLarge:      http.StatusRequestEntityTooLarge,
	posthaste.CodeQuotaExceeded: http.StatusUnprocessableEntity,
	posthaste.CodeRateLimited:   http.StatusTooManyRequests,
	posthaste.CodeUnavailable:   http.StatusServiceUnavailable,
	posthaste.CodeInternal:      http.StatusInternalServerError,
}

// words says in words what went wrong, and logs what is the server's fault.
func (c *call) words(err error) string {
	var e *posthaste.Error
	switch code := posthaste.CodeOf(err); {
	case code == posthaste.CodeInternal:
		c.h.log.Error("console request failed", "method", c.r.Method, "path", c.r.URL.Path, "err", err)
		return "Something went wrong on the server. Its log says what."
	case code == posthaste.CodeUnavailable:
		return "The store cannot commit at the moment. Nothing was changed; try again."
	case errors.As(err, &e) && e.Message != "":
		return sentence(e.Message)
	}
	return "Something went wrong."
}

// sentence begins a text with a capital letter, unless it begins with a name.
func sentence(s string) string {
	if first, _, _ := strings.Cut(s, " "); s == "" || strings.ContainsAny(first, "-_./:") {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// fail shows a page that tells what went wrong.
func (c *call) fail(err error) int {
	status := statuses[posthaste.CodeOf(err)]
	title := "Not found"
	if status != http.StatusNotFound {
		title = "That did not work"
	}
	return c.render(&view{page: "error", title: title, status: status, data: c.words(err)})
}

// refuse tells what went wrong with an action: in place for htmx, else at the page it came from.
func (c *call) refuse(err error) int {
	status := statuses[posthaste.CodeOf(err)]
	if c.htmx() {
		c.w.Header().Set("Content-Type", "text/html; charset=utf-8")
		c.w.WriteHeader(http.StatusOK) // so that it is shown
		c.h.pages.part(c.w, "error", "problem", c.words(err))
		return status
	}
	if back := c.back(); back != "" {
		c.flash("bad", c.words(err))
		http.Redirect(c.w, c.r, back, http.StatusSeeOther)
		return status
	}
	return c.fail(err)
}

func (c *call) htmx() bool { return c.r.Header.Get("HX-Request") == "true" }

// back returns the page of the console that the form says it stands on; empty: none.
func (c *call) back() string {
	if c.r.Form == nil {
		return ""
	}
	to := c.r.Form.Get("back")
	if !strings.HasPrefix(to, Prefix) || strings.HasPrefix(to, Prefix+"/") {
		return ""
	}
	return to
}

// done says that an action was carried out, and goes back to where it was asked for, or to the given page.
func (c *call) done(to, text string) error {
	if back := c.back(); back != "" {
		to = back
	}
	c.flash("good", text)
	http.Redirect(c.w, c.r, to, http.StatusSeeOther)
	return nil
}
