package egress_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/posthaste/posthaste/internal/egress"
)

// scripted is a server that notes the bytes of each request and answers with given bytes.
type scripted struct {
	addr     string
	requests chan string
	closed   chan struct{} // one token for each connection that was closed
}

// script starts a server. It closes a connection after an answer that ends with close, and not before reading on otherwise.
func script(t *testing.T, answers func(n int) (answer string, shut bool)) *scripted {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s := &scripted{addr: l.Addr().String(), requests: make(chan string, 100), closed: make(chan struct{}, 100)}
	n := 0
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var raw bytes.Buffer
				r := bufio.NewReader(io.TeeReader(c, &raw))
				for {
					req, err := http.ReadRequest(r)
					if err != nil {
						s.closed <- struct{}{}
						return
					}
					io.Copy(io.Discard, req.Body)
					s.requests <- raw.String()
					raw.Reset()
					answer, shut := answers(n)
					n++
					io.WriteString(c, answer)
					if shut {
						c.Close()
						s.closed <- struct{}{}
						return
					}
				}
			}()
		}
	}()
	return s
}

// clients returns a round-tripper that sends plain requests itself and one that leaves them to net/http.
func clients(t *testing.T) (direct, standard http.RoundTripper) {
	t.Helper()
	for _, limit := range []int{0, 1000} {
		g, err := egress.New(egress.Config{Mode: egress.ModeDev, AllowHTTP: true, MaxConnsPerHost: limit})
		if err != nil {
			t.Fatal(err)
		}
		rt := g.NewTransport()
		t.Cleanup(func() { rt.(interface{ CloseIdleConnections() }).CloseIdleConnections() })
		if limit == 0 {
			direct = rt
		} else {
			standard = rt
		}
	}
	return direct, standard
}

// TestPlainRequests: what goes over the wire is what net/http would write.
func TestPlainRequests(t *testing.T) {
	s := script(t, func(int) (string, bool) { return "HTTP/1.1 204 No Content\r\n\r\n", false })
	direct, standard := clients(t)
	body := strings.Repeat("x", 40<<10)
	for _, c := range []struct {
		method, path string
		body         string
		header       http.Header
	}{
		{"GET", "/", "", nil},
		{"GET", "", "", nil},
		{"GET", "/a%2Fb/c%20d?x=1&y=%00#fragment", "", nil},
		{"GET", "/ä/b c?q=ü|", "", nil},
		{"GET", "?only=query", "", nil},
		{"GET", "/", "body of a GET", nil},
		{"POST", "/", "", nil},
		{"PUT", "/", "", nil},
		{"PATCH", "/", "", nil},
		{"DELETE", "/", "", nil},
		{"DELETE", "/", "why", nil},
		{"HEAD", "/", "", nil},
		{"OPTIONS", "/", "", nil},
		{"WEIRD", "/", "x", nil},
		{"POST", "/", "hello", http.Header{"Content-Type": {"text/plain"}, "User-Agent": {"me"}, "Accept": {"a", "b"}, "X-Empty": {""}, "X-None": {}}},
		{"POST", "/", "hello", http.Header{"X": {" trimmed\t"}, "lower": {"case"}, "Host": {"other"}, "Content-Length": {"99"}, "Transfer-Encoding": {"chunked"}, "Trailer": {"X"}}},
		{"POST", "/", "hello", http.Header{"User-Agent": {""}, "X-Utf8": {"grüße"}, "Cookie": {"a=b"}, "Authorization": {"Bearer x"}}},
		{"POST", "/", "hello", http.Header{"Connection": {"close"}}},
		{"POST", "/", body[:32<<10], nil},
		{"POST", "/", body, nil},
	} {
		var got [2]string
		for i, rt := range []http.RoundTripper{direct, standard} {
			req, err := http.NewRequest(c.method, "http://"+s.addr+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if c.header != nil {
				req.Header = c.header.Clone()
			}
			resp, err := rt.RoundTrip(req)
			if err != nil {
				t.Fatalf("%s %s: %v", c.method, c.path, err)
			}
			resp.Body.Close()
			got[i] = <-s.requests
		}
		if diff := cmp.Diff(got[1], got[0]); diff != "" {
			t.Errorf("%s %s (-net/http +direct):\n%s", c.method, c.path, diff)
		}
	}
}

// TestPlainFaults: a request that cannot be sent fails, and nothing of it is sent.
func TestPlainFaults(t *testing.T) {
	s := script(t, func(int) (string, bool) { return "HTTP/1.1 204 No Content\r\n\r\n", false })
	direct, _ := clients(t)
	for name, change := range map[string]func(*http.Request){
		"value":  func(r *http.Request) { r.Header["X"] = []string{"a\r\nInjected: 1"} },
		"name":   func(r *http.Request) { r.Header["X Y"] = []string{"a"} },
		"method": func(r *http.Request) { r.Method = "GET / HTTP/1.1\r\nX:" },
		"path":   func(r *http.Request) { r.URL.Opaque = "//x/\r\ny" },
		"query":  func(r *http.Request) { r.URL.RawQuery = "a=\r\nb" },
		"short":  func(r *http.Request) { r.ContentLength = 10; r.Body = io.NopCloser(strings.NewReader("short")) },
		"broken": func(r *http.Request) {
			r.ContentLength = 10
			r.Body = io.NopCloser(iotest.ErrReader(errors.New("broken")))
		},
	} {
		req, err := http.NewRequest(http.MethodPost, "http://"+s.addr+"/", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		change(req)
		if resp, err := direct.RoundTrip(req); err == nil {
			t.Errorf("%s: got %s, want an error", name, resp.Status)
		}
	}
	select {
	case got := <-s.requests:
		t.Errorf("got the request %q, want none", got)
	default:
	}
}

// TestPlainAnswers: an answer is understood as net/http understands it.
func TestPlainAnswers(t *testing.T) {
	type outcome struct {
		Status int
		Header http.Header
		Body   string
		Failed bool // no header of an answer
		Broken bool // the body broke off
	}
	long := strings.Repeat("y", 100_000)
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\n\r\nuntil the end",
		"HTTP/1.0 200 OK\r\n\r\nuntil the end",
		"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + long,
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 489 Whatever It Is\r\nUpstash-NonRetryable-Error: true\r\nx-lower: 1\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 500 \r\nContent-Length: 2\r\n\r\nno",
		"HTTP/1.1 200 OK\r\nX: " + long + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\nBad Header: 1\r\n\r\n",
		"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 abc OK\r\n\r\n",
		"nonsense\r\n\r\n",
		"HTTP/1.1 200",
		"",
	} {
		s := script(t, func(int) (string, bool) { return answer, true })
		var got [2]outcome
		direct, standard := clients(t)
		for i, rt := range []http.RoundTripper{direct, standard} {
			req, err := http.NewRequest(http.MethodPost, "http://"+s.addr+"/", strings.NewReader("x"))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := rt.RoundTrip(req)
			if err != nil {
				got[i].Failed = true
				continue
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			got[i] = outcome{Status: resp.StatusCode, Header: resp.Header, Body: string(body), Broken: err != nil}
		}
		if diff := cmp.Diff(got[1], got[0]); diff != "" {
			t.Errorf("%.60q (-net/http +direct):\n%s", answer, diff)
		}
	}
}

// TestPlainReuse: a connection is used again after an answer that was read to its end, and only if its peer left it open.
func TestPlainReuse(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	direct, _ := clients(t)
	post := func(s *scripted, read bool) {
		t.Helper()
		req, err := http.NewRequest(http.MethodPost, "http://"+s.addr+"/", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := direct.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if read {
			if _, err := io.ReadAll(resp.Body); err != nil {
				t.Fatal(err)
			}
		}
		resp.Body.Close()
	}
	opened := func(s *scripted) int {
		direct.(interface{ CloseIdleConnections() }).CloseIdleConnections()
		for n := 0; ; n++ {
			select {
			case <-s.closed:
			case <-time.After(50 * time.Millisecond):
				return n
			}
		}
	}
	s := script(t, func(int) (string, bool) { return ok, false })
	for range 5 {
		post(s, true)
	}
	if n := opened(s); n != 1 {
		t.Errorf("got %d connections for five requests, want 1", n)
	}
	s = script(t, func(int) (string, bool) { return ok, false })
	for range 5 {
		post(s, false)
	}
	if n := opened(s); n != 5 {
		t.Errorf("got %d connections for five answers that were not read, want 5", n)
	}
	// What the server says unasked belongs to no request.
	s = script(t, func(int) (string, bool) { return ok + "HTTP/1.1 500 Stale\r\nContent-Length: 0\r\n\r\n", false })
	for range 5 {
		post(s, true)
	}
	if n := opened(s); n != 5 {
		t.Errorf("got %d connections to a server that says more than asked, want 5", n)
	}
	// A peer that closes without saying so: the next request goes over a new connection and arrives once.
	s = script(t, func(int) (string, bool) { return ok, true })
	for i := range 20 {
		post(s, true)
		<-s.requests
		<-s.closed
		if len(s.requests) > 0 {
			t.Fatalf("request %d arrived twice", i)
		}
	}
}

// TestPlainEnds: a context that ends, and one whose deadline comes, end the wait for the header and for the body.
func TestPlainEnds(t *testing.T) {
	for _, part := range []string{"", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"} {
		for _, cancels := range []bool{true, false} {
			s := script(t, func(int) (string, bool) { return part, false })
			direct, _ := clients(t)
			ctx, cancel := context.WithCancel(t.Context())
			want := context.Canceled
			if !cancels {
				want = context.DeadlineExceeded
				limit := egress.NewLimit(ctx, 50*time.Millisecond)
				defer limit.Release()
				ctx = limit
			}
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.addr+"/", strings.NewReader("x"))
			if err != nil {
				t.Fatal(err)
			}
			if cancels {
				go func() { <-s.requests; cancel() }()
			}
			resp, err := direct.RoundTrip(req)
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				resp.Body.Close()
			}
			if !errors.Is(err, want) {
				t.Errorf("%.20q: got %v, want %v", part, err, want)
			}
			<-s.closed
			cancel()
		}
	}
}

// TestLimit: it ends as a context with a deadline does, whether Done was asked for before or not.
func TestLimit(t *testing.T) {
	type key struct{}
	parent := context.WithValue(t.Context(), key{}, 1)
	for _, asked := range []bool{false, true} {
		name := fmt.Sprint("asked=", asked)
		fresh := func(parent context.Context, d time.Duration) *egress.Limit {
			l := egress.NewLimit(parent, d)
			if asked {
				l.Done()
			}
			return l
		}
		l := fresh(parent, time.Hour)
		if at, ok := l.Deadline(); !ok || time.Until(at) > time.Hour || time.Until(at) < 59*time.Minute || l.Err() != nil || l.Value(key{}) != 1 {
			t.Errorf("%s: got the deadline %v, error %v, value %v", name, at, l.Err(), l.Value(key{}))
		}
		child, cancel := context.WithCancel(l)
		l.Release()
		if <-l.Done(); l.Err() == nil {
			t.Errorf("%s: got no error after the release", name)
		}
		<-child.Done()
		cancel()

		if l := fresh(parent, 0); !errors.Is(l.Err(), context.DeadlineExceeded) {
			t.Errorf("%s: got %v after the deadline", name, l.Err())
		} else if <-l.Done(); !errors.Is(l.Err(), context.DeadlineExceeded) {
			t.Errorf("%s: got %v after the deadline", name, l.Err())
		}
		ctx, cancel := context.WithCancel(parent)
		l = fresh(ctx, time.Hour)
		if cancel(); !errors.Is(l.Err(), context.Canceled) {
			t.Errorf("%s: got %v after its parent was canceled", name, l.Err())
		}
		<-l.Done()
		early, cancel := context.WithTimeout(parent, time.Minute)
		if at, _ := fresh(early, time.Hour).Deadline(); time.Until(at) > time.Minute {
			t.Errorf("%s: got %v, want the parent's deadline", name, at)
		}
		cancel()
	}
}
