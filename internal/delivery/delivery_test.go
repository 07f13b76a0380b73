package delivery_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/delivery"
	"github.com/posthaste/posthaste/internal/egress"
	"github.com/posthaste/posthaste/internal/signature"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

const key = "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r"

func signer(posthaste.TenantID) *signature.Signer { return signature.NewSigner(key) }

func unsigned(posthaste.TenantID) *signature.Signer { return nil }

func answer(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}
}

// TestRequest: what is sent for a message.
func TestRequest(t *testing.T) {
	tests := []struct {
		name    string
		m       posthaste.Message
		cfg     delivery.Config
		retried int
		method  string
		url     string
		header  http.Header // but for the signature
	}{
		{
			name:   "plain",
			m:      posthaste.Message{ID: "msg_1", URL: "https://a.test", Method: "POST", Body: []byte("x")},
			method: "POST", url: "https://a.test",
			header: http.Header{"User-Agent": {"Upstash-QStash"}, "Upstash-Message-Id": {"msg_1"}, "Upstash-Retried": {"0"}, "Upstash-Region": {"EU-CENTRAL-1"}},
		},
		{
			name: "all",
			m: posthaste.Message{
				ID: "msg_1", URL: "https://a.test:8443/x%2Fy?z=%20#f", Method: "PATCH", Group: "g", Endpoint: "e", Schedule: "s", CallerIP: "192.0.2.1", Queue: "q",
				Header: posthaste.Header{"Content-Type": {"text/plain"}, "X": {"1", "2"}, "User-Agent": {"mine"}, "Authorization": {"Bearer theirs"}},
			},
			cfg: delivery.Config{Region: "US-EAST-1", LLMToken: "llm"}, retried: 7,
			method: "PATCH", url: "https://a.test:8443/x%2Fy?z=%20#f",
			header: http.Header{
				"Content-Type": {"text/plain"}, "X": {"1", "2"}, "User-Agent": {"mine"}, "Authorization": {"Bearer theirs"}, "Upstash-Message-Id": {"msg_1"}, "Upstash-Retried": {"7"},
				"Upstash-Region": {"US-EAST-1"}, "Upstash-Topic-Name": {"g"}, "Upstash-Schedule-Id": {"s"}, "Upstash-Caller-Ip": {"192.0.2.1"},
			},
		},
		{
			name: "what is forged",
			m: posthaste.Message{ID: "msg_1", URL: "https://a.test", Method: "GET", Header: posthaste.Header{
				"Upstash-Message-Id": {"forged"}, "Upstash-Retried": {"9"}, "Upstash-Region": {"forged"}, "Upstash-Signature": {"forged"},
			}},
			method: "GET", url: "https://a.test",
			header: http.Header{"User-Agent": {"Upstash-QStash"}, "Upstash-Message-Id": {"msg_1"}, "Upstash-Retried": {"0"}, "Upstash-Region": {"EU-CENTRAL-1"}},
		},
		{
			name: "to the language model", cfg: delivery.Config{LLMToken: "llm"},
			m:      posthaste.Message{ID: "msg_1", URL: "https://llm.test", Method: "POST", API: "llm"},
			method: "POST", url: "https://llm.test",
			header: http.Header{"User-Agent": {"Upstash-QStash"}, "Upstash-Message-Id": {"msg_1"}, "Upstash-Retried": {"0"}, "Upstash-Region": {"EU-CENTRAL-1"}, "Authorization": {"Bearer llm"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var sent *http.Request
			d := delivery.New(roundTripper(func(r *http.Request) (*http.Response, error) {
				sent = r
				return answer(200, ""), nil
			}), signer, tt.cfg)
			before := fmt.Sprint(tt.m)
			if res := d.Attempt(t.Context(), &tt.m, tt.retried); res.Outcome != posthaste.OutcomeDelivered {
				t.Fatalf("got outcome %s: %s, want it delivered", res.Outcome, res.Error)
			}
			if fmt.Sprint(tt.m) != before {
				t.Errorf("got message %v, want it left alone: %s", tt.m, before)
			}
			if sent.Method != tt.method || sent.URL.String() != tt.url || sent.ContentLength != int64(len(tt.m.Body)) {
				t.Errorf("got %s %s of %d bytes, want %s %s of %d", sent.Method, sent.URL, sent.ContentLength, tt.method, tt.url, len(tt.m.Body))
			}
			v := signature.Verifier{CurrentKey: key}
			if _, err := v.Verify(sent.Header.Get("Upstash-Signature"), tt.m.Body, tt.m.URL, time.Now()); err != nil {
				t.Errorf("got a signature that is refused: %v", err)
			}
			delete(sent.Header, "Upstash-Signature")
			if diff := cmp.Diff(tt.header, sent.Header); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}
		})
	}
}

// TestWithoutKey: a tenant without keys is delivered to without a signature.
func TestWithoutKey(t *testing.T) {
	d := delivery.New(roundTripper(func(r *http.Request) (*http.Response, error) {
		if got := r.Header["Upstash-Signature"]; got != nil {
			t.Errorf("got signature %q, want none", got)
		}
		return answer(200, ""), nil
	}), unsigned, delivery.Config{})
	d.Attempt(t.Context(), &posthaste.Message{URL: "https://a.test", Method: "POST"}, 0)
}

// TestOnTheWire: the bytes that leave through the client of the egress guard.
func TestOnTheWire(t *testing.T) {
	guard, err := egress.New(egress.Config{Mode: egress.ModeDev, AllowHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	requests := make(chan string, 1)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(c)
			var b strings.Builder
			length := 0
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					break
				}
				b.WriteString(line)
				fmt.Sscanf(line, "Content-Length: %d", &length)
				if line == "\r\n" {
					break
				}
			}
			io.CopyN(&b, r, int64(length))
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			c.Close()
			requests <- b.String()
		}
	}()
	d := delivery.New(guard.NewTransport(), unsigned, delivery.Config{})
	for _, tt := range []struct {
		method, target, body string
		header               posthaste.Header
		want                 []string // lines, in order of their names
	}{
		{"POST", "/x//y?z", "body", posthaste.Header{"Content-Type": {"text/plain"}}, []string{"Content-Length: 4", "Content-Type: text/plain"}},
		{"POST", "/", "", nil, []string{"Content-Length: 0"}},
		{"PUT", "/", "", nil, []string{"Content-Length: 0"}},
		{"PATCH", "/%2F?", "", nil, []string{"Content-Length: 0"}},
		{"GET", "/", "", nil, nil},
		{"GET", "/", "body", nil, []string{"Content-Length: 4"}},
		{"DELETE", "/", "body", nil, []string{"Content-Length: 4"}},
	} {
		m := &posthaste.Message{ID: "msg_1", URL: "http://" + ln.Addr().String() + tt.target, Method: tt.method, Body: []byte(tt.body), Header: tt.header}
		if res := d.Attempt(t.Context(), m, 0); res.Outcome != posthaste.OutcomeDelivered {
			t.Fatalf("got outcome %s: %s, want it delivered", res.Outcome, res.Error)
		}
		got := <-requests
		want := tt.method + " " + tt.target + " HTTP/1.1\r\nHost: " + ln.Addr().String() + "\r\nUser-Agent: Upstash-QStash\r\n"
		for _, l := range tt.want {
			want += l + "\r\n"
		}
		want += "Upstash-Message-Id: msg_1\r\nUpstash-Region: EU-CENTRAL-1\r\nUpstash-Retried: 0\r\n\r\n" + tt.body
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.method, diff)
		}
	}
}

// TestAnswers: what an answer means.
func TestAnswers(t *testing.T) {
	forbids := http.Header{"Upstash-Nonretryable-Error": {"true"}}
	for _, tt := range []struct {
		status  int
		header  http.Header
		outcome posthaste.Outcome
		err     string
	}{
		{200, nil, posthaste.OutcomeDelivered, ""},
		{299, forbids, posthaste.OutcomeDelivered, ""},
		{199, nil, posthaste.OutcomeStatus, "199"},
		{300, nil, posthaste.OutcomeStatus, "300 Multiple Choices"},
		{302, http.Header{"Location": {"https://b.test"}}, posthaste.OutcomeStatus, "302 Found"},
		{404, nil, posthaste.OutcomeStatus, "404 Not Found"},
		{500, forbids, posthaste.OutcomeStatus, "500 Internal Server Error"},
		{489, nil, posthaste.OutcomeStatus, "489"},
		{489, http.Header{"Upstash-Nonretryable-Error": {"false"}}, posthaste.OutcomeStatus, "489"},
		{489, forbids, posthaste.OutcomeNonRetryable, "489"},
		{999, nil, posthaste.OutcomeStatus, "999"},
	} {
		calls := 0
		d := delivery.New(roundTripper(func(*http.Request) (*http.Response, error) {
			calls++
			r := answer(tt.status, "body")
			r.Header = tt.header
			return r, nil
		}), unsigned, delivery.Config{})
		res := d.Attempt(t.Context(), &posthaste.Message{URL: "https://a.test", Method: "POST"}, 0)
		if res.Outcome != tt.outcome || res.Status != tt.status || res.Error != tt.err || string(res.Body) != "body" || calls != 1 {
			t.Errorf("%d %v: got %s %d %q %q in %d calls, want %s %q in 1", tt.status, tt.header, res.Outcome, res.Status, res.Error, res.Body, calls, tt.outcome, tt.err)
		}
		if diff := cmp.Diff(posthaste.Header(tt.header), res.Header); diff != "" {
			t.Errorf("%d: header (-want +got):\n%s", tt.status, diff)
		}
	}
}

// A body tells whether it was closed.
type body struct {
	io.Reader
	closed bool
}

func (b *body) Close() error {
	b.closed = true
	return nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// endless never ends.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	return len(p), nil
}

// TestBodies: how much of an answer is kept, and what becomes of one that breaks off.
func TestBodies(t *testing.T) {
	long := &endless{}
	for _, tt := range []struct {
		name    string
		body    io.Reader
		length  int64
		want    int // bytes
		outcome posthaste.Outcome
		status  int
	}{
		{"none", strings.NewReader(""), 0, 0, posthaste.OutcomeDelivered, 200},
		{"short", strings.NewReader("abc"), 3, 3, posthaste.OutcomeDelivered, 200},
		{"of unknown length", strings.NewReader("abc"), -1, 3, posthaste.OutcomeDelivered, 200},
		{"as long as is kept", strings.NewReader(strings.Repeat("x", 1000)), 1000, 1000, posthaste.OutcomeDelivered, 200},
		{"longer", strings.NewReader(strings.Repeat("x", 1001)), 1001, 1000, posthaste.OutcomeDelivered, 200},
		{"endless", long, -1, 1000, posthaste.OutcomeDelivered, 200},
		{"broken off", io.MultiReader(strings.NewReader("abc"), failing{io.ErrUnexpectedEOF}), 10, 0, posthaste.OutcomeReset, 0},
		{"reset", io.MultiReader(strings.NewReader("abc"), failing{errors.New("connection reset by peer")}), -1, 0, posthaste.OutcomeReset, 0},
	} {
		b := &body{Reader: tt.body}
		d := delivery.New(roundTripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{"A": {"b"}}, Body: b, ContentLength: tt.length}, nil
		}), unsigned, delivery.Config{MaxResponse: 1000})
		res := d.Attempt(t.Context(), &posthaste.Message{URL: "https://a.test", Method: "POST"}, 0)
		if len(res.Body) != tt.want || res.Outcome != tt.outcome || res.Status != tt.status || (res.Error == "") != (tt.status == 200) {
			t.Errorf("%s: got %d bytes, %s, %d, %q, want %d, %s, %d", tt.name, len(res.Body), res.Outcome, res.Status, res.Error, tt.want, tt.outcome, tt.status)
		}
		if !b.closed {
			t.Errorf("%s: the body was not closed", tt.name)
		}
	}
	if long.read > 1<<20 {
		t.Errorf("got %d bytes read of an endless answer, want about as many as are kept", long.read)
	}
}

// TestBodiesAreKeptApart: answers that are read at the same time do not share memory.
func TestBodiesAreKeptApart(t *testing.T) {
	d := delivery.New(roundTripper(func(r *http.Request) (*http.Response, error) {
		return answer(200, strings.Repeat(r.URL.Path, 1000)), nil
	}), unsigned, delivery.Config{})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			path := fmt.Sprintf("/%d", i)
			var kept [][]byte
			for range 20 {
				kept = append(kept, d.Attempt(t.Context(), &posthaste.Message{URL: "https://a.test" + path, Method: "POST"}, 0).Body)
			}
			for _, b := range kept {
				if !bytes.Equal(b, []byte(strings.Repeat(path, 1000))) {
					t.Errorf("got %.20q, want %s", b, path)
				}
			}
		})
	}
	wg.Wait()
}

// TestTimeout: an attempt is over when its time is, wherever it is then.
func TestTimeout(t *testing.T) {
	for _, tt := range []struct {
		name    string
		timeout time.Duration
		want    time.Duration
	}{
		{"of the message", 5 * time.Second, 5 * time.Second},
		{"of the server", 0, 30 * time.Second},
		{"longer than the server's", time.Hour, time.Hour},
	} {
		for _, where := range []string{"before the answer", "in the answer"} {
			synctest.Test(t, func(t *testing.T) {
				d := delivery.New(roundTripper(func(r *http.Request) (*http.Response, error) {
					if where == "before the answer" {
						<-r.Context().Done()
						return nil, r.Context().Err()
					}
					read, write := io.Pipe()
					go func() {
						write.Write([]byte("abc"))
						<-r.Context().Done()
						write.CloseWithError(errors.New("the transport's own words"))
					}()
					return &http.Response{StatusCode: 200, Body: read, ContentLength: -1}, nil
				}), unsigned, delivery.Config{Timeout: 30 * time.Second})
				begin := time.Now()
				res := d.Attempt(t.Context(), &posthaste.Message{URL: "https://a.test", Method: "POST", Timeout: tt.timeout}, 0)
				if took := time.Since(begin); took != tt.want || res.Took != took {
					t.Errorf("%s, %s: got %v and %v, want %v", tt.name, where, took, res.Took, tt.want)
				}
				if res.Outcome != posthaste.OutcomeTimeout || res.Error != "context deadline exceeded" || res.Status != 0 {
					t.Errorf("%s, %s: got %s %q %d, want a timeout", tt.name, where, res.Outcome, res.Error, res.Status)
				}
			})
		}
	}
}

// TestCanceled: an attempt that the server cuts off does not count, unless it succeeded.
func TestCanceled(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer *http.Response
		err    error
		counts bool
	}{
		{"without an answer", nil, context.Canceled, false},
		{"with a failure", answer(500, ""), nil, false},
		{"with a success", answer(200, ""), nil, true},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		d := delivery.New(roundTripper(func(*http.Request) (*http.Response, error) {
			cancel()
			return tt.answer, tt.err
		}), unsigned, delivery.Config{})
		if res := d.Attempt(ctx, &posthaste.Message{URL: "https://a.test", Method: "POST"}, 0); (res != nil) != tt.counts {
			t.Errorf("%s: got %v, want a result: %v", tt.name, res, tt.counts)
		}
	}
}

type timeoutError struct{}

func (timeoutError) Error() string { return "i/o timeout" }
func (timeoutError) Timeout() bool { return true }

// TestFailures: why there was no answer.
func TestFailures(t *testing.T) {
	guard, err := egress.New(egress.Config{})
	if err != nil {
		t.Fatal(err)
	}
	_, refused := guard.NewTransport().RoundTrip(mustRequest(t, "https://127.0.0.1:1"))
	for _, tt := range []struct {
		err  error
		want posthaste.Outcome
	}{
		{refused, posthaste.OutcomeRefused},
		{&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "a.test", IsNotFound: true}}, posthaste.OutcomeDNS},
		{&net.DNSError{Err: "timeout", Name: "a.test", IsTimeout: true}, posthaste.OutcomeDNS},
		{&net.OpError{Op: "dial", Err: errors.New("connection refused")}, posthaste.OutcomeConnect},
		{&net.OpError{Op: "dial", Err: timeoutError{}}, posthaste.OutcomeTimeout},
		{&net.OpError{Op: "read", Err: errors.New("connection reset by peer")}, posthaste.OutcomeReset},
		{fmt.Errorf("tls: %w", &tls.CertificateVerificationError{Err: errors.New("unknown authority")}), posthaste.OutcomeTLS},
		{tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, posthaste.OutcomeTLS},
		{&net.OpError{Op: "remote error", Err: tls.AlertError(40)}, posthaste.OutcomeTLS},
		{timeoutError{}, posthaste.OutcomeTimeout},
		{io.EOF, posthaste.OutcomeReset},
		{errors.New("anything"), posthaste.OutcomeReset},
	} {
		if tt.err == nil {
			t.Fatal("got no error to try, want one")
		}
		d := delivery.New(roundTripper(func(*http.Request) (*http.Response, error) { return nil, tt.err }), unsigned, delivery.Config{})
		res := d.Attempt(t.Context(), &posthaste.Message{URL: "https://a.test", Method: "POST"}, 0)
		if res.Outcome != tt.want || res.Error != tt.err.Error() || res.Status != 0 || res.Header != nil || res.Body != nil {
			t.Errorf("%v: got %s %q %d, want %s and nothing of an answer", tt.err, res.Outcome, res.Error, res.Status, tt.want)
		}
	}
	// A URL that no request can be made of.
	d := delivery.New(roundTripper(func(*http.Request) (*http.Response, error) { panic("not to be called") }), unsigned, delivery.Config{})
	if res := d.Attempt(t.Context(), &posthaste.Message{URL: "https://a b:%zz", Method: "POST"}, 0); res.Outcome != posthaste.OutcomeProtocol || res.Error == "" {
		t.Errorf("got %s %q, want a fault of the request", res.Outcome, res.Error)
	}
}

func mustRequest(t *testing.T, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
