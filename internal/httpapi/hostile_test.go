package httpapi_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/server"
)

// hostileNames and hostileValues are what requests are made of beside their routes.
var (
	hostileNames = []string{
		"Content-Type", "Upstash-Method", "Upstash-Delay", "Upstash-Not-Before", "Upstash-Retries", "Upstash-Retry-Delay", "Upstash-Timeout", "Upstash-Label", "Upstash-Callback",
		"Upstash-Failure-Callback", "Upstash-Callback-Retries", "Upstash-Callback-Forward-X", "Upstash-Forward-X", "Upstash-Forward-", "Upstash-Forward-Content-Length", "Upstash-Header-Forward",
		"Upstash-Flow-Control-Key", "Upstash-Flow-Control-Value", "Upstash-Flow-Control-Key-2", "Upstash-Deduplication-Id", "Upstash-Content-Based-Deduplication", "Upstash-Redact-Fields",
		"Upstash-Cron", "Upstash-Schedule-Id", "Upstash-Queue-Name", "Upstash-Priority", "Upstash-", "Origin", "X-Forwarded-For", "Accept-Encoding", "Expect", "Range", "If-None-Match", "Cookie",
	}
	hostileParams = []string{
		"count", "cursor", "order", "state", "messageId", "messageIds", "dlqIds", "url", "topicName", "label", "host", "path", "fromDate", "toDate", "callerIp", "responseStatus", "flowControlKey",
		"search", "parallelism", "rate", "period", "upstash-delay", "upstash-cron", "upstash-forward-x", "qstash_token", "groupBy", "%00", "",
	}
	hostileValues = []string{
		"", "0", "1", "-1", "true", "x", "a:b", "a b", "10s", "1d", "99999999999999999999", "9223372036854775807", "9223372036854775807-1", "1-4294967295", "1-4294967296", "1e309", "NaN", "0x10", "1.5",
		"%00", "%zz", "%", "\xff\xfe", "\xc3\x28", "💥", "\u202e", "../../etc/passwd", "https://example.com", "https://example.com:99999", "https://[::1", "https://%41", "https://a.b/\xff", "http:", "//", "*", "null",
		"[]", "{}", "[[", "msg_11111111111111111111111111", "msg_zzzzzzzzzzzzzzzzzzzzzzzzzz", "946684800000-0.msg_x.1", "946684800000-0..0", "DELIVERED", "latestFirst", "* * * * *", "@every 1s", "@every 1ns",
		"0 0 31 2 *", "CRON_TZ=Nowhere * * * * *", "TZ=0 * * * * *", "rate=1", "rate=99999999999,parallelism=0", "parallelism=1,period=", "body", "header[", "header[\t]", "pow(2,retried)", "((((((((((", "1/0",
		"' OR 1=1 --", "\"", "\\", "<script>", "a,b,c,,,", strings.Repeat("a", 1025), strings.Repeat("9", 5000), strings.Repeat("(", 900), strings.Repeat("x,", 3000), strings.Repeat("é", 700),
	}
	hostileBodies = []string{
		"", "{", "[", "null", "1", `""`, "\x00", "\xff", `{"queueName":`, `{"queueName":{}}`, `{"queueName":"q","parallelism":1e400}`, `{"queueName":"q","parallelism":99999999999999999999}`,
		`{"queueName":"q","parallelism":2147483648}`, `{"endpoints":null}`, `{"endpoints":[null]}`, `{"endpoints":[{"url":"https://example.com","name":"\u0000"}]}`, `{"endpoints":[{"url":"\ud800"}]}`,
		`{"headers":{"":""}}`, `{"headers":{"Upstash-Forward-\n":"x"}}`, `{"headers":{"Upstash-Retries":["1","2"]}}`, `{"headers":[]}`, `{"dlqIds":"1-0"}`, `{"dlqIds":[1,2]}`, `{"dlqIds":[null]}`,
		`{"messageIds":[[]]}`, `{"messageIds":null,"fromDate":1e30}`, `{"count":1,"count":2}`, `[{"destination":"https://example.com","body":"\ud800"}]`, `[{"destination":"https://example.com","headers":{"a\nb":"c"}}]`,
		`[{"destination":"https://example.com","headers":{"Upstash-Forward-X":"a\r\nB: c"}}]`, `[{"destination":"https://example.com"},{"destination":1}]`, `[{"destination":"https://example.com"}] x`,
		`[{"destination":"https://example.com","queue":"a/b"}]`, `[{"destination":"https://example.com","body":{"a":[1,2,{"b":null}]}}]`, `[1]`, `[null]`, `[[]]`,
		strings.Repeat("[", 100_000), `[{"destination":"https://example.com","body":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}]`, strings.Repeat(`{"a":`, 50_000),
		`{"queueName":"` + strings.Repeat("q", 100_000) + `"}`, `{"messageIds":[` + strings.Repeat(`"x",`, 20_000) + `"x"]}`, strings.Repeat(" ", 100_000), strings.Repeat("\x00", 70_000),
	}
)

// hostile makes a malformed request.
func hostile(rng *rand.Rand) (raw string) {
	pick := func(from []string) string { return from[rng.IntN(len(from))] }
	e := table[rng.IntN(len(table))]
	methods := []string{"GET", "POST", "PUT", "PATCH", "DELETE"}
	method := pick(methods)
	if bare, _, _ := strings.Cut(e.path, "?"); rng.IntN(8) > 0 {
		method = pick(mustMatch(bare))
	} else if rng.IntN(10) == 0 {
		method = pick([]string{"HEAD", "OPTIONS", "TRACE", "get", "BREW", strings.Repeat("X", 3000)})
	}
	path := e.path
	switch rng.IntN(9) {
	case 0: // another last segment
		i := strings.LastIndexByte(path, '/')
		path = path[:i+1] + strings.NewReplacer(" ", "%20", "\x00", "%00", "\t", "%09").Replace(pick(hostileValues))
	case 1: // a mutated byte
		b := []byte(path)
		b[1+rng.IntN(len(b)-1)] = byte(33 + rng.IntN(220))
		path = strings.ReplaceAll(string(b), "\x7f", "")
	case 2:
		path += pick([]string{"/", "//", "/..", "/%2e%2e/", "%2F", "?", "#x", "/pause", "/retry", "/endpoints", ";a=b", "%ff", strings.Repeat("/a", 2000)})
	}
	if rng.IntN(2) == 0 {
		sep := "?"
		for range 1 + rng.IntN(4) {
			path += sep + pick(hostileParams) + "=" + strings.NewReplacer(" ", "+", "\t", "%09", "\x00", "%00", "#", "%23").Replace(pick(hostileValues))
			sep = pick([]string{"&", "&", "&", ";", "&&"})
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: posthaste.test\r\n", method, path)
	if rng.IntN(20) > 0 {
		b.WriteString("Authorization: Bearer alice\r\n")
	} else {
		b.WriteString("Authorization: " + pick(hostileValues) + "\r\n")
	}
	for range rng.IntN(4) {
		b.WriteString(pick(hostileNames) + ": " + pick(hostileValues) + "\r\n")
	}
	body := pick(hostileBodies)
	if st, ok := requests[method+" "+e.path]; ok && rng.IntN(3) == 0 { // what is nearly right
		body = st.body
		if len(body) > 0 {
			c := []byte(body)
			c[rng.IntN(len(c))] = byte(rng.IntN(256))
			body = string(c)
		}
	}
	switch rng.IntN(8) {
	case 0:
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body)+1+rng.IntN(100), body)
	case 1:
		fmt.Fprintf(&b, "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	case 2:
		fmt.Fprintf(&b, "Transfer-Encoding: chunked\r\n\r\n%s", pick([]string{"zz\r\n", "5\r\nab", "ffffffffffffffff\r\nx", "-1\r\n", "", "1\r\nabc\r\n0\r\n\r\n"}))
	case 3:
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body)/2, body)
	default:
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	}
	return b.String()
}

// TestHostileRequests: whatever comes, there is an answer that is no fault of the server, and what was refused left nothing.
func TestHostileRequests(t *testing.T) {
	const seed, requests = 20260504, 5000
	cfg := stackConfig{}
	cfg.Broker.MaxBody = 64 << 10
	inBubble(t, cfg, func(t *testing.T, s *stack) {
		rng := rand.New(rand.NewPCG(seed, seed))
		accepted := map[string]bool{}
		statuses := map[int]int{}
		heap := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before := heap()
		for n := range requests {
			raw := hostile(rng)
			req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
			if err != nil {
				statuses[0]++
				continue
			}
			req.RemoteAddr = s.remote
			w := httptest.NewRecorder()
			s.handler.ServeHTTP(w, req)
			if req.Method == http.MethodHead || w.Code == http.StatusNoContent {
				continue
			}
			statuses[w.Code]++
			body := w.Body.String()
			if w.Code >= 500 || w.Code < 200 || w.Code > 299 && w.Code < 400 {
				t.Fatalf("request %d of seed %d: got %d %s, want an answer or a refusal:\n%.1000q", n, seed, w.Code, clip(body), raw)
			}
			if !json.Valid(w.Body.Bytes()) || w.Header().Get("Content-Type") != "application/json" {
				t.Fatalf("request %d of seed %d: got %.300q, want JSON:\n%.1000q", n, seed, body, raw)
			}
			var e map[string]any
			if w.Code >= 400 && (json.Unmarshal(w.Body.Bytes(), &e) != nil || len(e) != 1 || e["error"] == "") {
				t.Fatalf("request %d of seed %d: got %.300q, want an error:\n%.1000q", n, seed, body, raw)
			}
			if w.Code < 300 && req.Method == http.MethodPost {
				for _, id := range messageIDs.FindAllString(body, -1) {
					accepted[id] = true
				}
			}
			if n%500 == 0 {
				synctest.Wait()
				s.must(step{do: "DELETE /v2/schedules/schedule"})
			}
		}
		synctest.Wait()
		s.dest.take()
		grown := int64(heap()) - int64(before)
		t.Logf("answers %v, %d messages, the heap grew by %d KiB", statuses, len(accepted), grown>>10)
		if grown > 64<<20 {
			t.Errorf("got a heap that grew by %d MiB, want at most 64", grown>>20)
		}
		if statuses[400] < 800 || len(accepted) < 50 {
			t.Errorf("got answers %v and %d messages, want many of each kind", statuses, len(accepted))
		}
		for _, e := range s.pages("/v2/events?state=CREATED", 1000) {
			if id := s.id(e.MessageID); !accepted[id] {
				t.Errorf("got message %s to %s, which no answer named", id, e.URL)
			}
			delete(accepted, s.id(e.MessageID))
		}
		for id := range accepted {
			t.Errorf("got no message %s although an answer named it", id)
		}
		// It still works.
		s.publish("/v2/publish/https://a.test", "x", "Upstash-Label: after")
		s.sleep(0)
		if r := s.dest.one(t); r.url != "https://a.test" {
			t.Errorf("got a delivery to %s, want https://a.test", r.url)
		}
	})
}

var messageIDs = regexp.MustCompile(`msg_[1-9A-HJ-NP-Za-km-z]{26}`)

// exchange writes what a client sends and reads all that comes back until the server closes the connection. With end the
// client ends its side of the connection behind what it sends.
func exchange(c net.Conn, send string, end bool) (string, error) {
	written := make(chan struct{})
	go func() {
		defer close(written)
		io.WriteString(c, send)
		if half, ok := c.(interface{ CloseWrite() error }); ok && end {
			half.CloseWrite()
		}
	}()
	got, err := io.ReadAll(c)
	c.Close()
	<-written
	return string(got), err
}

// answersOf splits what came over a connection into answers.
func answersOf(t *testing.T, came string, method string) []*http.Response {
	t.Helper()
	var all []*http.Response
	r := bufio.NewReader(strings.NewReader(came))
	for {
		if _, err := r.Peek(1); err != nil {
			return all
		}
		resp, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("got %.300q, want an HTTP answer: %v", came, err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatalf("got %.300q, want a whole answer: %v", came, err)
		}
		resp.Body = io.NopCloser(bytes.NewReader(body))
		if resp.StatusCode >= 400 {
			var e map[string]string
			if resp.Header.Get("Content-Type") != "application/json" || json.Unmarshal(body, &e) != nil || e["error"] == "" {
				t.Errorf("got %d %s %.300q, want an error as JSON", resp.StatusCode, resp.Header.Get("Content-Type"), body)
			}
		}
		all = append(all, resp)
	}
}

// wireCases are what a client may send over a connection, and the statuses of the answers.
var wireCases = []struct {
	name string
	send string
	want []int
}{
	{"one request", "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", []int{200}},
	{"two requests", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", []int{200, 404}},
	{"garbage", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", []int{400}},
	{"garbage behind a request", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n\x00\xffnonsense\r\n\r\n", []int{200, 400}},
	{"no host", "GET /healthz HTTP/1.1\r\n\r\n", []int{400}},
	{"HTTP/1.0", "GET /healthz HTTP/1.0\r\n\r\n", []int{200}},
	{"HTTP/3.0", "GET /healthz HTTP/3.0\r\nHost: x\r\n\r\n", []int{505}},
	{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []int{404}},
	{"request line without version", "GET /healthz\r\nHost: x\r\n\r\n", []int{400}},
	{"blank in the target", "GET /v2/publish/a b HTTP/1.1\r\nHost: x\r\n\r\n", []int{400}},
	{"control character in the target", "GET /v2/\x01 HTTP/1.1\r\nHost: x\r\n\r\n", []int{400}},
	{"bad escape in the target", "GET /v2/%zz HTTP/1.1\r\nHost: x\r\n\r\n", []int{400}},
	{"bad header name", "GET /healthz HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n", []int{400}},
	{"NUL in a header", "GET /healthz HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n", []int{400}},
	{"header line without a colon", "GET /healthz HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n", []int{400}},
	{"two hosts", "GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", []int{400}},
	{"bad length", "POST /v2/publish/https://a.test HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", []int{400}},
	{"two lengths", "POST /v2/publish/https://a.test HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", []int{400}},
	{"unknown transfer encoding", "POST /v2/publish/https://a.test HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", []int{501}},
	{"many headers", "GET /healthz HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-Many: y\r\n", 100_000) + "\r\n", []int{431}},
	{"header of 10 MB", "GET /healthz HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("b", 10<<20) + "\r\n\r\n", []int{431}},
	{"target of 1 MB", "GET /" + strings.Repeat("b", 1<<20) + " HTTP/1.1\r\nHost: x\r\n\r\n", []int{431}},
	{"unwanted expectation", "POST /v2/publish/https://a.test HTTP/1.1\r\nHost: x\r\nExpect: tea\r\nContent-Length: 0\r\n\r\n", []int{417}},
	{"upgrade", "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\r\n", []int{200}},
	{"a proxy's request", "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\nConnection: close\r\n\r\n", []int{404}},
	{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", []int{200}},
	{"slashes", "POST /v2/publish/https://a.test//b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", []int{200}},
	{
		"a body that a refusal leaves unread",
		"POST /v2/nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcdeGET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		[]int{404, 200},
	},
	{
		"a body that looks like a request",
		"POST /v2/publish/https://a.test HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice\r\nContent-Length: 44\r\n\r\nDELETE /v2/messages HTTP/1.1\r\nHost: x\r\n\r\nxyzGET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		[]int{200, 200},
	},
}

func checkExchange(t *testing.T, name, came string, want []int) {
	t.Helper()
	var got []int
	for _, a := range answersOf(t, came, http.MethodGet) {
		got = append(got, a.StatusCode)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: got answers %v, want %v: %.300q", name, got, want, came)
	}
}

// TestConnections: what net/http itself refuses, before any handler, is refused as JSON, too.
func TestConnections(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		for _, tt := range wireCases {
			if len(tt.send) > 1<<20 {
				continue // see TestListener
			}
			c := s.pipe.dial()
			came, err := exchange(c, tt.send, false)
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			checkExchange(t, tt.name, came, tt.want)
		}
		// A client that stops in the middle is let go.
		c := s.pipe.dial()
		go io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost")
		begin := time.Now()
		if _, err := io.ReadAll(c); err != nil {
			t.Error(err)
		}
		if waited := time.Since(begin); waited > time.Minute {
			t.Errorf("got a connection that was kept for %v, want less than a minute", waited)
		}
	})
}

// TestListener does the same over TCP, where a client can end its side of a connection.
func TestListener(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	faults := &faultLog{}
	srv, err := server.New(t.Context(), server.Config{
		Logger: slog.New(faults), Listener: ln, Users: []broker.NewTenant{{Name: "alice", Token: "alice"}}, Transport: &destination{begin: time.Now()},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := srv.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		for _, fault := range faults.all() {
			t.Errorf("the server logged a fault: %s", fault)
		}
	}()
	talk := func(send string, end bool) string {
		t.Helper()
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		came, err := exchange(c, send, end)
		if err != nil && came == "" {
			t.Errorf("got no answer to %.100q: %v", send, err)
		}
		return came
	}
	for _, tt := range wireCases {
		checkExchange(t, tt.name, talk(tt.send, false), tt.want)
	}
	const head = "Host: x\r\nAuthorization: Bearer alice\r\nConnection: close\r\n"
	for _, tt := range []struct {
		name, send string
		want       []int
	}{
		{"body that ends early", "POST /v2/publish/https://a.test HTTP/1.1\r\n" + head + "Content-Length: 100\r\n\r\nshort", []int{400}},
		{"chunk that ends early", "POST /v2/publish/https://a.test HTTP/1.1\r\n" + head + "Transfer-Encoding: chunked\r\n\r\n10\r\nshort", []int{400}},
		{"no chunk", "POST /v2/publish/https://a.test HTTP/1.1\r\n" + head + "Transfer-Encoding: chunked\r\n\r\nnonsense\r\n", []int{400}},
		{"batch that ends early", "POST /v2/batch HTTP/1.1\r\n" + head + "Content-Length: 100\r\n\r\n[{\"destination\":\"https://a.test\"}", []int{400}},
		{"batch in chunks that ends early", "POST /v2/batch HTTP/1.1\r\n" + head + "Transfer-Encoding: chunked\r\n\r\n5\r\n[{\"de", []int{400}},
		{"JSON that ends early", "POST /v2/queues HTTP/1.1\r\n" + head + "Content-Length: 100\r\n\r\n{\"queueName\":\"q\"}", []int{400}},
		{"body over the limit", "POST /v2/publish/https://a.test HTTP/1.1\r\n" + head + "Content-Length: 600000\r\n\r\n" + strings.Repeat("x", 600000), []int{412}},
		{"body far over the limit", "POST /v2/publish/https://a.test HTTP/1.1\r\n" + head + "Content-Length: 10000000000\r\n\r\nxxxx", []int{413}},
	} {
		checkExchange(t, tt.name, talk(tt.send, true), tt.want)
	}
	events := talk("GET /v2/events?state=CREATED HTTP/1.1\r\n"+head+"\r\n", false)
	if got := strings.Count(events, `"CREATED"`); got != 2 {
		t.Errorf("got %d messages, want the 2 that were accepted: %s", got, clip(events))
	}
}

// TestClientGone: a client that does not wait for its answer is no fault of the server.
func TestClientGone(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		for _, e := range table {
			for _, method := range lookUp(t, e.path).Allowed() {
				for looks := range 8 {
					st := requests[method+" "+e.path]
					st.do = method + " " + e.path
					req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(s.raw(st))))
					if err != nil {
						t.Fatal(err)
					}
					ctx := &leaving{Context: t.Context(), after: looks}
					w := httptest.NewRecorder()
					s.handler.ServeHTTP(w, req.WithContext(ctx))
					faults := s.faults.all()
					for _, fault := range faults {
						t.Errorf("%s, canceled after %d looks: the server logged a fault: %s", st.do, looks, fault)
					}
					if w.Code >= 500 && w.Code != http.StatusServiceUnavailable {
						t.Errorf("%s, canceled after %d looks: got %d, want no fault of the server", st.do, looks, w.Code)
					}
				}
			}
		}
	})
}

// A leaving context is canceled after it was looked at a number of times.
type leaving struct {
	context.Context
	after int
}

// Err implements [context.Context].
func (c *leaving) Err() error {
	if c.after--; c.after < 0 {
		return context.Canceled
	}
	return nil
}
