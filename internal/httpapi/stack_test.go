package httpapi_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/clock"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/egress"
	"github.com/posthaste/posthaste/internal/server"
	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/store/postgres/postgrestest"
)

func TestMain(m *testing.M) { os.Exit(postgrestest.Main(m)) }

// A stack is a whole server over an in-memory store, whose requests come from the test and whose deliveries end in the test.
// It lives in a synctest bubble, which begins at midnight UTC of 2000-01-01: there every time in an answer is known.
type stack struct {
	t       *testing.T
	server  *server.Server
	handler http.Handler
	clock   *clock.Clock
	dest    *destination
	admin   *broker.Admin // with stackConfig.data only
	begin   time.Time
	pipe    *pipeListener
	faults  *faultLog

	token  string // of requests that name none
	remote string // address of requests that name none

	mu     sync.Mutex
	names  map[string]string // real id → its name in the test: msg_1, scd_1, dlq_1 …
	real   map[string]string // and back
	counts map[string]int
}

// bubbleStart is what clocks show when a bubble begins, in unix milliseconds.
const bubbleStart = 946684800000

type stackConfig struct {
	server.Config
	plan string // of all tenants
	data string // the store's file; gives the test an admin
}

// inBubble runs a test in a bubble with a stack of its own.
func inBubble(t *testing.T, cfg stackConfig, f func(t *testing.T, s *stack)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newStack(t, cfg)) })
}

// newStack starts a server with three tenants, whose tokens are alice, bob and carol.
func newStack(t *testing.T, cfg stackConfig) *stack {
	t.Helper()
	s := &stack{
		t: t, clock: clock.New(), dest: &destination{}, begin: time.Now(), pipe: newPipeListener(), faults: &faultLog{},
		token: "alice", remote: "203.0.113.7:4711",
		names: map[string]string{}, real: map[string]string{}, counts: map[string]int{},
	}
	s.dest.begin = s.begin
	for _, name := range []string{"alice", "bob", "carol"} {
		cfg.Users = append(cfg.Users, broker.NewTenant{Name: name, Plan: cfg.plan, Token: name})
	}
	cfg.Listener, cfg.Clock, cfg.Transport, cfg.Data = s.pipe, s.clock, s.dest, cfg.data
	if postgrestest.Chosen() {
		cfg.Data, cfg.Database = "", server.Database{URL: postgrestest.Schema(t), OwnClock: true, Lanes: 2, Shards: 2, Pool: 4}
		cfg.Lease = 1000 * time.Hour // tests of days would spend their time on renewals
	}
	cfg.Logger = slog.New(s.faults)
	if cfg.Poll == 0 {
		cfg.Poll = 24 * time.Hour
	}
	if cfg.Broker.Retries == 0 {
		cfg.Broker.Retries = 3
	}
	cfg.Egress.AllowHTTP = true
	if cfg.Egress.Mode == "" {
		cfg.Egress.Mode = egress.ModePublic
	}
	var err error
	if s.server, err = server.New(t.Context(), cfg.Config); err != nil {
		t.Fatal(err)
	}
	s.handler = s.server.Handler()
	t.Cleanup(func() {
		for _, fault := range s.faults.all() {
			t.Errorf("the server logged a fault: %s", fault)
		}
		s.dest.cut()
		if err := s.server.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	if cfg.data != "" {
		engine, err := openStore(t.Context(), cfg.Config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := engine.Close(); err != nil {
				t.Error(err)
			}
		})
		s.admin = broker.NewAdmin(engine)
	}
	if err := s.server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// openStore opens the store of a server once more.
func openStore(ctx context.Context, cfg server.Config) (store.Engine, error) {
	if cfg.Database.URL != "" {
		return server.OpenDatabase(ctx, cfg.Database)
	}
	return server.OpenStore(ctx, cfg.Data)
}

// tokens gives the first tenant a read-only and a publishing token. It needs stackConfig.data.
func (s *stack) tokens() {
	s.t.Helper()
	for name, scope := range map[string]directory.Scope{"alice-reads": directory.ScopeRead, "alice-publishes": directory.ScopePublish} {
		if _, err := s.admin.CreateToken(s.t.Context(), 1, name, scope, name); err != nil {
			s.t.Fatal(err)
		}
	}
}

// sleep lets time pass and waits until nothing moves any more.
func (s *stack) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// A step is a request and the answer to it.
type step struct {
	do     string   // method and target, as they stand on the request line; ids may be the test's names of them
	header []string // lines
	body   string
	token  string        // "-": none
	after  time.Duration // passes before the request

	status int
	// want is the answer's body: JSON is compared by value, where the string "*" stands for anything. Empty: any.
	want string
	head []string // lines that the answer must have; "Name: -": must not have
}

// run takes the steps one after the other.
func (s *stack) run(steps ...step) {
	s.t.Helper()
	for i, st := range steps {
		if st.after > 0 {
			s.sleep(st.after)
		}
		s.check(fmt.Sprintf("step %d", i+1), st)
	}
}

// check makes a request and compares the answer.
func (s *stack) check(name string, st step) *reply {
	s.t.Helper()
	r := s.send(st)
	if r.status != st.status {
		s.t.Errorf("%s: %s: got status %d, want %d: %s", name, clip(st.do), r.status, st.status, clip(r.body))
	}
	if st.want != "" {
		if diff := diffJSON(r.body, st.want); diff != "" {
			s.t.Errorf("%s: %s: got %s, want %s\n%s", name, clip(st.do), clip(r.body), clip(st.want), diff)
		}
	}
	for _, line := range st.head {
		key, want, _ := strings.Cut(line, ": ")
		if got := r.header.Values(key); want == "-" && len(got) > 0 || want != "-" && (len(got) != 1 || got[0] != want) {
			s.t.Errorf("%s: %s: got %s %q, want %q", name, clip(st.do), key, got, want)
		}
	}
	return r
}

func clip(s string) string {
	if len(s) > 2000 {
		return s[:2000] + "…"
	}
	return s
}

// A reply is an answer with the ids in it replaced by their names.
type reply struct {
	status int
	header http.Header
	body   string
}

// value decodes the body.
func (r *reply) value(t *testing.T) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(r.body), &v); err != nil {
		t.Fatalf("got %q, want JSON: %v", clip(r.body), err)
	}
	return v
}

// object decodes the body of an object.
func (r *reply) object(t *testing.T) map[string]any {
	t.Helper()
	o, ok := r.value(t).(map[string]any)
	if !ok {
		t.Fatalf("got %q, want an object", clip(r.body))
	}
	return o
}

// list decodes the array that is the body, or a field of it.
func (r *reply) list(t *testing.T, field string) []map[string]any {
	t.Helper()
	v := r.value(t)
	if field != "" {
		v = r.object(t)[field]
	}
	items, ok := v.([]any)
	if !ok {
		t.Fatalf("got %q, want an array", clip(r.body))
	}
	out := make([]map[string]any, len(items))
	for i := range items {
		out[i], _ = items[i].(map[string]any)
	}
	return out
}

// get makes a request that must succeed.
func (s *stack) get(target string) *reply {
	s.t.Helper()
	return s.must(step{do: "GET " + target})
}

// must makes a request that must succeed.
func (s *stack) must(st step) *reply {
	s.t.Helper()
	r := s.send(st)
	if r.status < 200 || r.status > 299 {
		s.t.Fatalf("%s: got status %d, want success: %s", clip(st.do), r.status, clip(r.body))
	}
	return r
}

// publish publishes and returns the name of the message.
func (s *stack) publish(target, body string, header ...string) string {
	s.t.Helper()
	id, _ := s.must(step{do: "POST " + target, header: header, body: body}).object(s.t)["messageId"].(string)
	if id == "" {
		s.t.Fatalf("%s: got no message id", target)
	}
	return id
}

// states returns the log of a message as words.
func (s *stack) states(id string) string {
	s.t.Helper()
	var out []string
	for _, e := range s.get("/v2/events?order=earliestFirst&messageId="+id).list(s.t, "events") {
		out = append(out, fmt.Sprint(e["state"]))
	}
	return strings.Join(out, " ")
}

// send makes a request.
func (s *stack) send(st step) *reply {
	s.t.Helper()
	return s.sendTo(st, s.handler)
}

func (s *stack) sendTo(st step, h http.Handler) *reply {
	s.t.Helper()
	raw := s.raw(st)
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
	if err != nil {
		s.t.Fatalf("read the request %q: %v", clip(raw), err)
	}
	req.RemoteAddr = s.remote
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return s.reply(w.Code, w.Header(), w.Body.String())
}

// reply checks what holds for every answer, and names the ids in it.
func (s *stack) reply(status int, header http.Header, body string) *reply {
	s.t.Helper()
	if len(header["X-Request-Id"]) != 1 || header.Get("X-Request-Id") == "" {
		s.t.Errorf("got request id %q, want one", header["X-Request-Id"])
	}
	if status != http.StatusNoContent {
		if got := header.Get("Content-Type"); got != "application/json" {
			s.t.Errorf("got content type %q of a %d, want application/json", got, status)
		}
		if !json.Valid([]byte(body)) {
			s.t.Errorf("got %q, want JSON", clip(body))
		}
	}
	if status >= 400 {
		var e map[string]string
		if err := json.Unmarshal([]byte(body), &e); err != nil || len(e) != 1 || e["error"] == "" {
			s.t.Errorf(`got %q of a %d, want {"error":"…"}`, clip(body), status)
		}
	}
	return &reply{status, header, s.name(body)}
}

// raw writes a request as it goes over the wire.
func (s *stack) raw(st step) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	expand := func(text string) string {
		if !strings.Contains(text, "_") {
			return text
		}
		return nameRE.ReplaceAllStringFunc(text, func(name string) string {
			if id, ok := s.real[name]; ok {
				return id
			}
			return name
		})
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s HTTP/1.1\r\nHost: posthaste.test\r\n", expand(st.do))
	switch st.token {
	case "-":
	case "":
		fmt.Fprintf(&b, "Authorization: Bearer %s\r\n", s.token)
	default:
		fmt.Fprintf(&b, "Authorization: Bearer %s\r\n", st.token)
	}
	framed := false
	for _, line := range st.header {
		fmt.Fprintf(&b, "%s\r\n", line)
		name, _, _ := strings.Cut(line, ":")
		framed = framed || strings.EqualFold(name, "Content-Length") || strings.EqualFold(name, "Transfer-Encoding")
	}
	body := expand(st.body)
	if !framed && (body != "" || !strings.HasPrefix(st.do, "GET ")) {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	return b.String() + "\r\n" + body
}

var (
	idRE   = regexp.MustCompile(`^(msg_[1-9A-HJ-NP-Za-km-z]{26}|scd_[1-9A-HJ-NP-Za-km-z]{28}|dlqId":"\d+-\d+")`)
	nameRE = regexp.MustCompile(`\b(msg|scd|dlq)_\d+\b`)
)

// name replaces ids by names.
func (s *stack) name(text string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for {
		i := strings.IndexFunc(text, func(r rune) bool { return r == 'm' || r == 's' || r == 'd' })
		if i < 0 {
			break
		}
		b.WriteString(text[:i])
		text = text[i:]
		id := ""
		if strings.HasPrefix(text, "msg_") || strings.HasPrefix(text, "scd_") || strings.HasPrefix(text, `dlqId":"`) {
			id = idRE.FindString(text)
		}
		if id == "" {
			b.WriteByte(text[0])
			text = text[1:]
			continue
		}
		text = text[len(id):]
		kind, _, _ := strings.Cut(id, "_")
		if strings.HasPrefix(id, "dlqId") {
			kind, id = "dlq", id[len(`dlqId":"`):len(id)-1]
		}
		name, ok := s.names[id]
		if !ok {
			s.counts[kind]++
			name = kind + "_" + strconv.Itoa(s.counts[kind])
			s.names[id], s.real[name] = name, id
		}
		if kind == "dlq" {
			name = `dlqId":"` + name + `"`
		}
		b.WriteString(name)
	}
	return b.String() + text
}

// id returns what a name stands for.
func (s *stack) id(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.real[name]
}

// diffJSON compares two JSON texts by value. In want, the string "*" stands for anything.
func diffJSON(got, want string) string {
	var g, w any
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		return "the test wants no JSON: " + err.Error()
	}
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		return "got no JSON: " + err.Error()
	}
	return cmp.Diff(w, g, cmp.FilterPath(func(p cmp.Path) bool {
		_, isMap := p.Last().(cmp.MapIndex)
		_, isItem := p.Last().(cmp.SliceIndex)
		return isMap || isItem || len(p) == 1
	}, cmp.FilterValues(func(a, b any) bool { return a == "*" || b == "*" }, cmp.Ignore())))
}

// A received is a delivery that came to the destination.
type received struct {
	at     time.Duration // since the stack began
	method string
	url    string
	header http.Header
	body   string
	ctx    context.Context
}

// An answer is what the destination answers.
type answer struct {
	status int
	header http.Header
	body   string
	stream io.ReadCloser // instead of body
	err    error         // of the transport; no answer
	after  time.Duration // passes before the answer, unless the attempt is given up
}

// A destination is where all deliveries end.
type destination struct {
	begin time.Time

	mu     sync.Mutex
	got    []*received
	answer func(r *received) answer // nil: 200
	stop   chan struct{}
}

// RoundTrip implements [http.RoundTripper].
func (d *destination) RoundTrip(req *http.Request) (*http.Response, error) {
	r := &received{at: time.Since(d.begin), method: req.Method, url: req.URL.String(), header: req.Header.Clone(), ctx: req.Context()}
	if req.Body != nil {
		b, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		r.body = string(b)
	}
	d.mu.Lock()
	d.got = append(d.got, r)
	f := d.answer
	if d.stop == nil {
		d.stop = make(chan struct{})
	}
	stop := d.stop
	d.mu.Unlock()
	a := answer{status: http.StatusOK}
	if f != nil {
		a = f(r)
	}
	if a.after > 0 {
		select {
		case <-time.After(a.after):
		case <-req.Context().Done():
			return nil, context.Cause(req.Context())
		case <-stop:
			return nil, io.ErrUnexpectedEOF
		}
	}
	if a.err != nil {
		return nil, a.err
	}
	if a.status == 0 {
		a.status = http.StatusOK
	}
	if a.header == nil {
		a.header = http.Header{}
	}
	if a.stream != nil {
		return &http.Response{StatusCode: a.status, Header: a.header, Body: a.stream, ContentLength: -1, Request: req}, nil
	}
	return &http.Response{
		StatusCode: a.status, Header: a.header, Body: io.NopCloser(strings.NewReader(a.body)), ContentLength: int64(len(a.body)), Request: req,
	}, nil
}

// answers sets what the destination answers.
func (d *destination) answers(f func(r *received) answer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answer = f
}

// with answers every delivery alike.
func (d *destination) with(status int, header ...string) {
	h := http.Header{}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	d.answers(func(*received) answer { return answer{status: status, header: h.Clone(), body: "answer"} })
}

// cut ends what waits.
func (d *destination) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stop == nil {
		d.stop = make(chan struct{})
	}
	close(d.stop)
}

// take returns what came since the last call.
func (d *destination) take() []*received {
	d.mu.Lock()
	defer d.mu.Unlock()
	got := d.got
	d.got = nil
	return got
}

// one returns the only delivery that came since the last call.
func (d *destination) one(t *testing.T) *received {
	t.Helper()
	got := d.take()
	if len(got) != 1 {
		t.Fatalf("got %d deliveries, want 1", len(got))
	}
	return got[0]
}

// times returns when deliveries came, in seconds since the stack began.
func times(got []*received) string {
	var out []string
	for _, r := range got {
		// Operations that are carried out at the same moment get moments of their own, a microsecond apart.
		out = append(out, strconv.FormatFloat(r.at.Round(time.Millisecond).Seconds(), 'f', -1, 64))
	}
	return strings.Join(out, " ")
}

// A pipeListener accepts connections of its own making, which synctest can wait for.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

// Accept implements [net.Listener].
func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr implements [net.Listener].
func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// dial returns the client's end of a connection.
func (l *pipeListener) dial() net.Conn {
	near, far := net.Pipe()
	l.conns <- far
	return near
}

// A faultLog keeps what the server logs of level warn and above.
type faultLog struct {
	mu     sync.Mutex
	faults []string
}

// Enabled implements [slog.Handler].
func (l *faultLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

// Handle implements [slog.Handler].
func (l *faultLog) Handle(_ context.Context, r slog.Record) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s", r.Level, r.Message)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		return true
	})
	l.mu.Lock()
	l.faults = append(l.faults, b.String())
	l.mu.Unlock()
	return nil
}

// WithAttrs implements [slog.Handler].
func (l *faultLog) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup implements [slog.Handler].
func (l *faultLog) WithGroup(string) slog.Handler { return l }

// all returns and forgets the faults.
func (l *faultLog) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	faults := l.faults
	l.faults = nil
	return faults
}
