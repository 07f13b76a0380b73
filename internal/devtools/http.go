package devtools

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/signature"
	"github.com/posthaste/posthaste/internal/wire"
)

// Prefix is the first word of every path that [Tools.ServeHTTP] answers.
const Prefix = "dev"

// InboxPath returns the path of an inbox.
func InboxPath(name string) string { return "/" + Prefix + "/inbox/" + name }

// Route is a route that ServeHTTP answers.
type Route struct{ Method, Path string }

// Routes lists the routes, for the description of the API.
func Routes() []Route {
	return []Route{
		{http.MethodGet, "/dev/clock"},
		{http.MethodPost, "/dev/clock"},
		{http.MethodGet, "/dev/drained"},
		{http.MethodPost, "/dev/reset"},
		{http.MethodPost, "/dev/tenants"},
		{http.MethodGet, "/dev/inbox"},
		{http.MethodGet, "/dev/inbox/{name}"},
		{http.MethodPost, "/dev/inbox/{name}"},
		{http.MethodDelete, "/dev/inbox/{name}"},
		{http.MethodGet, "/dev/inbox/{name}/behaviour"},
		{http.MethodPut, "/dev/inbox/{name}/behaviour"},
	}
}

// Bounds of what requests may ask for.
const (
	maxWait        = 10 * time.Minute
	defaultTimeout = 30 * time.Second
	maxJSON        = 1 << 20
)

// request is one request on its way.
type request struct {
	*Tools
	w http.ResponseWriter
	r *http.Request
}

// handler answers a request. An error it returns was not answered yet.
type handler func(*request) error

// ServeHTTP implements [http.Handler].
func (t *Tools) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(wire.HeaderRequestID, Prefix+"-"+strconv.FormatUint(t.requests.Add(1), 10))
	q := &request{t, w, r}
	if err := q.serve(); err != nil {
		switch cause := context.Cause(r.Context()); {
		case errors.Is(err, errClosing):
			err = posthaste.Errorf(posthaste.CodeUnavailable, "%v", err)
		case cause != nil && errors.Is(err, cause):
			err = posthaste.Errorf(posthaste.CodeUnavailable, "the client went away")
		case posthaste.CodeOf(err) == posthaste.CodeInternal:
			t.deps.Logger.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
		}
		t.deps.Fail(w, err)
	}
}

func (q *request) serve() error {
	if err := q.checkOrigin(); err != nil {
		return err
	}
	path := strings.TrimPrefix(q.r.URL.EscapedPath(), "/"+Prefix)
	path = strings.TrimPrefix(path, "/")
	word, rest, _ := strings.Cut(path, "/")
	if word == "inbox" && rest != "" {
		return q.inbox(rest)
	}
	methods, ok := map[string]map[string]handler{
		"clock":   {http.MethodGet: showClock, http.MethodPost: moveClock},
		"drained": {http.MethodGet: drained},
		"reset":   {http.MethodPost: reset},
		"tenants": {http.MethodPost: createTenant},
		"inbox":   {http.MethodGet: listInboxes},
	}[word]
	if !ok || rest != "" {
		return posthaste.Errorf(posthaste.CodeNotFound, "no such route below /dev: there are clock, drained, reset, tenants and inbox")
	}
	return q.method(methods)
}

// method chooses a handler by the request's method.
func (q *request) method(methods map[string]handler) error {
	if h, ok := methods[q.r.Method]; ok {
		return h(q)
	}
	var allow []string
	for _, m := range [...]string{http.MethodDelete, http.MethodGet, http.MethodPost, http.MethodPut} {
		if methods[m] != nil {
			allow = append(allow, m)
		}
	}
	q.w.Header().Set(wire.HeaderAllow, strings.Join(allow, ", "))
	return q.answer(http.StatusMethodNotAllowed, map[string]string{
		"error": "method " + q.r.Method + " is not allowed here; allowed: " + strings.Join(allow, ", "),
	})
}

// checkOrigin refuses requests that a page of another machine had a browser make.
func (q *request) checkOrigin() error {
	origin := q.r.Header.Get("Origin")
	if origin == "" {
		return nil
	}
	u, err := url.Parse(origin)
	if err == nil && u.Host != "" {
		host := u.Hostname()
		if ip := net.ParseIP(host); u.Host == q.r.Host || host == "localhost" || ip != nil && ip.IsLoopback() {
			return nil
		}
	}
	return posthaste.Errorf(posthaste.CodeForbidden, "pages of other origins may not use /dev")
}

// answer writes JSON.
func (q *request) answer(status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	h := q.w.Header()
	h.Set("Content-Type", wire.ContentTypeJSON)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	q.w.WriteHeader(status)
	q.w.Write(body) //nolint:errcheck // a client that went away is no fault of ours
	return nil
}

// read decodes the body, which may be empty.
func (q *request) read(v any) error {
	body, err := io.ReadAll(http.MaxBytesReader(q.w, q.r.Body, maxJSON))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return posthaste.Errorf(posthaste.CodeTooLarge, "the body is longer than %d bytes", maxJSON)
		}
		return posthaste.Errorf(posthaste.CodeInvalid, "the body ended early")
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return posthaste.Errorf(posthaste.CodeInvalid, "invalid body: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if dec.More() {
		return posthaste.Errorf(posthaste.CodeInvalid, "invalid body: more than one JSON value")
	}
	return nil
}

// query returns the one value of a parameter, or "".
func (q *request) query(name string) (string, error) {
	values, err := url.ParseQuery(q.r.URL.RawQuery)
	if err != nil {
		return "", posthaste.Errorf(posthaste.CodeInvalid, "malformed query")
	}
	if len(values[name]) > 1 {
		return "", posthaste.Errorf(posthaste.CodeInvalid, "the parameter %s is given more than once", name)
	}
	return values.Get(name), nil
}

// duration reads a bounded duration from a parameter.
func (q *request) duration(name string, absent time.Duration) (time.Duration, error) {
	s, err := q.query(name)
	if err != nil || s == "" {
		return absent, err
	}
	return parseWait(name, s)
}

func parseWait(name, s string) (time.Duration, error) {
	d, err := wire.ParseDuration(s)
	if err != nil {
		return 0, posthaste.Errorf(posthaste.CodeInvalid, "invalid %s: %v", name, err)
	}
	if d > maxWait {
		return 0, posthaste.Errorf(posthaste.CodeInvalid, "invalid %s: longer than %v", name, maxWait)
	}
	return d, nil
}

// integer reads a number of 0 and more from a parameter.
func (q *request) integer(name string, absent int) (int, error) {
	s, err := q.query(name)
	if err != nil || s == "" {
		return absent, err
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, posthaste.Errorf(posthaste.CodeInvalid, "invalid %s: not a number of 0 and more", name)
	}
	return n, nil
}

type clockJSON struct {
	Now time.Time `json:"now"`
	// Ahead is how far the clock is ahead of real time.
	Ahead string     `json:"ahead"`
	Next  *time.Time `json:"nextDue"`
}

func (q *request) clock(status int) error {
	next, err := q.nextDue(q.r.Context())
	if err != nil {
		return err
	}
	return q.answer(status, clockJSON{Now: q.Now(), Ahead: q.Offset().String(), Next: orNil(next)})
}

func orNil(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	return &at
}

func showClock(q *request) error { return q.clock(http.StatusOK) }

func moveClock(q *request) error {
	var in struct {
		Advance *string `json:"advance"`
		Until   *string `json:"until"`
		Next    bool    `json:"next"`
		Timeout *string `json:"timeout"`
	}
	if err := q.read(&in); err != nil {
		return err
	}
	timeout := defaultTimeout
	if in.Timeout != nil {
		d, err := parseWait("timeout", *in.Timeout)
		if err != nil {
			return err
		}
		timeout = d
	}
	ctx, cancel := q.until(q.r.Context(), max(timeout, time.Nanosecond))
	defer cancel()
	var err error
	switch {
	case in.Advance != nil && in.Until == nil && !in.Next:
		d, parseErr := wire.ParseDuration(*in.Advance)
		if parseErr != nil {
			return posthaste.Errorf(posthaste.CodeInvalid, "invalid advance: %v", parseErr)
		}
		_, err = q.Advance(ctx, d)
	case in.Advance == nil && in.Until != nil && !in.Next:
		at, parseErr := time.Parse(time.RFC3339, *in.Until)
		if parseErr != nil {
			return posthaste.Errorf(posthaste.CodeInvalid, "invalid until: not a moment such as 2026-12-24T09:00:00Z")
		}
		_, err = q.AdvanceTo(ctx, at)
	case in.Advance == nil && in.Until == nil && in.Next:
		_, err = q.AdvanceToNext(ctx)
	default:
		return posthaste.Errorf(posthaste.CodeInvalid, `give one of {"advance":"6h"}, {"until":"2026-12-24T09:00:00Z"} and {"next":true}`)
	}
	if err != nil {
		return err
	}
	return q.clock(http.StatusOK)
}

func drained(q *request) error {
	timeout, err := q.duration("timeout", 10*time.Second)
	if err != nil {
		return err
	}
	ctx, cancel := q.until(q.r.Context(), max(timeout, time.Nanosecond))
	defer cancel()
	next, err := q.Drained(ctx)
	if err != nil {
		return err
	}
	return q.answer(http.StatusOK, struct {
		Drained bool       `json:"drained"`
		Next    *time.Time `json:"nextDue"`
	}{true, orNil(next)})
}

func reset(q *request) error {
	ctx, cancel := q.until(q.r.Context(), defaultTimeout)
	defer cancel()
	if err := q.Reset(ctx); err != nil {
		return err
	}
	return q.answer(http.StatusOK, struct{}{})
}

func createTenant(q *request) error {
	var in struct {
		Name string `json:"name"`
		Plan string `json:"plan"`
	}
	if err := q.read(&in); err != nil {
		return err
	}
	if in.Name != "" {
		if err := wire.CheckText(in.Name); err != nil {
			return posthaste.Errorf(posthaste.CodeInvalid, "invalid name: it %v", err)
		}
	}
	made, err := q.CreateTenant(q.r.Context(), broker.NewTenant{Name: in.Name, Plan: in.Plan})
	if err != nil {
		return err
	}
	return q.answer(http.StatusCreated, struct {
		ID      posthaste.TenantID `json:"id"`
		Name    string             `json:"name"`
		Token   string             `json:"token"`
		Current string             `json:"currentSigningKey"`
		Next    string             `json:"nextSigningKey"`
	}{made.ID, made.Name, made.Token, made.Keys.Current, made.Keys.Next})
}

type inboxJSON struct {
	Name  string     `json:"name"`
	Total int64      `json:"total"`
	Kept  int        `json:"kept"`
	Last  *time.Time `json:"lastAt"`
}

func listInboxes(q *request) error {
	list := []inboxJSON{}
	for _, i := range q.Inboxes() {
		list = append(list, inboxJSON{i.Name, i.Total, i.Kept, orNil(i.Last)})
	}
	return q.answer(http.StatusOK, list)
}

var inboxName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,100}$`)

// inbox serves an inbox. Whatever carries a delivery's headers, or has more of a path than the tools know, is caught, and so is
// every method that the tools have no use for.
func (q *request) inbox(rest string) error {
	name, word, more := strings.Cut(rest, "/")
	if !inboxName.MatchString(name) {
		return posthaste.Errorf(posthaste.CodeInvalid, "invalid name of an inbox: 1 to 100 letters, digits, '.', '_' and '-'")
	}
	delivery := q.r.Header.Get(wire.HeaderMessageID) != ""
	switch method := q.r.Method; {
	case delivery:
	case word == "behaviour":
		return q.method(map[string]handler{
			http.MethodGet: func(q *request) error { return q.answer(http.StatusOK, showBehaviour(q.Behaviour(name))) },
			http.MethodPut: func(q *request) error { return q.setBehaviour(name) },
		})
	case !more && method == http.MethodGet:
		return q.listEntries(name)
	case !more && method == http.MethodDelete:
		q.EmptyInbox(name)
		return q.answer(http.StatusOK, struct{}{})
	}
	return q.catch(name)
}

type answerJSON struct {
	Status  int               `json:"status,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	Body    string            `json:"body,omitempty"`
	Delay   string            `json:"delay,omitempty"`
	Hang    bool              `json:"hang,omitempty"`
	Drop    bool              `json:"drop,omitempty"`
}

type behaviourJSON struct {
	answerJSON

	FailNext int          `json:"failNext,omitempty"`
	Next     []answerJSON `json:"next,omitempty"`
}

// maxNext bounds the answers that are said one by one.
const maxNext = 1000

func (q *request) setBehaviour(name string) error {
	var in behaviourJSON
	if err := q.read(&in); err != nil {
		return err
	}
	if in.FailNext < 0 || in.FailNext+len(in.Next) > maxNext {
		return posthaste.Errorf(posthaste.CodeInvalid, "invalid behaviour: failNext and next may be %d answers at most", maxNext)
	}
	var b Behaviour
	for range in.FailNext {
		b.Next = append(b.Next, Answer{Status: http.StatusInternalServerError})
	}
	var err error
	for _, a := range in.Next {
		next, err := a.parse()
		if err != nil {
			return err
		}
		b.Next = append(b.Next, next)
	}
	if b.Answer, err = in.answerJSON.parse(); err != nil {
		return err
	}
	q.SetBehaviour(name, b)
	return q.answer(http.StatusOK, showBehaviour(q.Behaviour(name)))
}

func (a *answerJSON) parse() (Answer, error) {
	out := Answer{Status: a.Status, Header: a.Headers, Body: a.Body, Hang: a.Hang, Drop: a.Drop}
	if a.Status != 0 && (a.Status < 200 || a.Status > 599) {
		return out, posthaste.Errorf(posthaste.CodeInvalid, "invalid status %d: 200 to 599", a.Status)
	}
	if a.Delay != "" {
		d, err := parseWait("delay", a.Delay)
		if err != nil {
			return out, err
		}
		out.Delay = d
	}
	for name, value := range a.Headers {
		if !headerName.MatchString(name) || strings.ContainsAny(value, "\r\n\x00") {
			return out, posthaste.Errorf(posthaste.CodeInvalid, "invalid header %q", name)
		}
	}
	return out, nil
}

var headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")

func showBehaviour(b Behaviour) behaviourJSON {
	out := behaviourJSON{answerJSON: showAnswer(b.Answer)}
	for _, a := range b.Next {
		out.Next = append(out.Next, showAnswer(a))
	}
	return out
}

func showAnswer(a Answer) answerJSON {
	out := answerJSON{Status: a.Status, Headers: a.Header, Body: a.Body, Hang: a.Hang, Drop: a.Drop}
	if a.Delay > 0 {
		out.Delay = a.Delay.String()
	}
	if out.Status == 0 && !out.Hang && !out.Drop {
		out.Status = http.StatusOK
	}
	return out
}

// listEntries lists what an inbox caught, after waiting for it if the request says so.
func (q *request) listEntries(name string) error {
	wait, err := q.duration("wait", 0)
	if err != nil {
		return err
	}
	count, err := q.integer("count", 1)
	if err != nil {
		return err
	}
	after, err := q.integer("after", 0)
	if err != nil {
		return err
	}
	if wait == 0 {
		count = 0
	}
	ctx, cancel := q.until(q.r.Context(), max(wait, time.Nanosecond))
	defer cancel()
	entries, total := q.WaitEntries(ctx, name, int64(after), min(count, maxEntries))
	list := make([]wire.Caught, len(entries))
	for i, e := range entries {
		list[i] = wire.Caught{
			Number: e.Number, At: e.At, Method: e.Method, URL: e.URL, Header: posthaste.Header(e.Header), Body: e.Body,
			Message: e.Message, Schedule: e.Schedule, Group: e.Group, Attempt: e.Attempt, Tenant: e.Tenant,
			Valid: e.Signature.Valid, Fault: e.Signature.Fault, Status: e.Status,
		}
	}
	body := wire.AppendCaught(nil, name, total, list)
	h := q.w.Header()
	h.Set("Content-Type", wire.ContentTypeJSON)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	q.w.Write(body) //nolint:errcheck // a client that went away is no fault of ours
	return nil
}

// catch keeps a request and answers it as its inbox behaves.
func (q *request) catch(name string) error {
	body, err := io.ReadAll(io.LimitReader(q.r.Body, maxCaught))
	if err != nil {
		return posthaste.Errorf(posthaste.CodeInvalid, "the body ended early")
	}
	h := q.r.Header
	e := &Entry{
		At: q.Now(), Method: q.r.Method, URL: "http://" + q.r.Host + q.r.RequestURI, Header: h.Clone(), Body: body,
		Message: posthaste.MessageID(h.Get(wire.HeaderMessageID)), Schedule: posthaste.ScheduleID(h.Get(wire.HeaderScheduleID)),
		Group: h.Get(wire.HeaderTopicName),
	}
	if retried, err := strconv.Atoi(h.Get(wire.HeaderRetried)); err == nil && e.Message != "" {
		e.Attempt = retried + 1
	}
	q.checkSignature(e)
	a, release := q.inboxes.catch(name, e)
	q.deps.Logger.Info("caught a request", "inbox", name, "method", e.Method, "attempt", e.Attempt, "body", clip(e.Body))
	if a.Hang || a.Delay > 0 {
		ctx, cancel := q.until(q.r.Context(), a.Delay)
		defer cancel()
		if a.Hang {
			ctx, cancel = q.until(q.r.Context(), 0)
			defer cancel()
		}
		select {
		case <-ctx.Done():
		case <-release.Done():
		}
		if !errors.Is(context.Cause(ctx), errTimeout) {
			a.Drop = true // whoever asked is gone, or was told to be
		}
	}
	if a.Drop {
		panic(http.ErrAbortHandler) // net/http closes the connection and logs nothing
	}
	out := q.w.Header()
	for name, value := range a.Header {
		out.Set(name, value)
	}
	if out.Get("Content-Type") == "" {
		out.Set("Content-Type", "text/plain; charset=utf-8")
	}
	q.w.WriteHeader(a.Status)
	io.WriteString(q.w, a.Body) //nolint:errcheck // a client that went away is no fault of ours
	return nil
}

// clip shortens a body for the log.
func clip(body []byte) string {
	const most = 200
	if len(body) > most {
		return strings.ToValidUTF8(string(body[:most]), "") + "…"
	}
	return string(body)
}

// checkSignature finds the tenant of a delivery, and judges its signature as the tenant's receiver would.
func (q *request) checkSignature(e *Entry) {
	token := e.Header.Get(wire.HeaderSignature)
	switch {
	case token == "":
		e.Signature.Fault = "there is no signature"
		return
	case e.Message == "":
		e.Signature.Fault = "there is no message id, so it is not known whose keys to check with"
		return
	}
	ctx := q.r.Context()
	ticket, err := q.deps.Engine.Ticket(ctx, e.Message)
	if err != nil || ticket == nil {
		e.Signature.Fault = "this server is not delivering such a message"
		return
	}
	e.Tenant = ticket.Tenant
	tenant, err := q.deps.Directory.Fresh(ctx, ticket.Tenant)
	if err != nil || tenant == nil {
		e.Signature.Fault = "the tenant's keys are not known"
		return
	}
	v := signature.Verifier{CurrentKey: tenant.Keys.Current, NextKey: tenant.Keys.Next, Leeway: time.Second}
	if _, err := v.Verify(token, e.Body, e.URL, time.Now()); err != nil {
		e.Signature.Fault = err.Error()
		return
	}
	e.Signature.Valid = true
}
