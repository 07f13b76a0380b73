package rawhttp_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/posthaste/posthaste/bench/internal/rawhttp"
)

// message is a rawhttp.Message that outlives the reader.
type message struct {
	Start, Body string
	Status      int
	Close       bool
}

// readAll reads messages until the first error.
func readAll(src io.Reader, response bool) ([]message, error) {
	r := rawhttp.NewReader(src)
	read := r.ReadRequest
	if response {
		read = r.ReadResponse
	}
	var got []message
	for {
		m, err := read()
		if err != nil {
			return got, err
		}
		got = append(got, message{Start: string(m.Start), Body: string(m.Body), Status: m.Status, Close: m.Close})
	}
}

var valid = []struct {
	name     string
	response bool
	in       string
	want     []message
}{
	{
		name: "content length, then pipelined without a body",
		in:   "POST /a HTTP/1.1\r\nHost: x\r\ncontent-LENGTH:  5 \r\n\r\nhelloGET /b HTTP/1.1\r\nHost: x\r\n\r\n",
		want: []message{{Start: "POST /a HTTP/1.1", Body: "hello"}, {Start: "GET /b HTTP/1.1"}},
	},
	{
		name: "chunked with extension and trailer, then another",
		in: "POST /a HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n" +
			"5;x=y\r\nhello\r\nA \r\n, the worl\r\n1\r\nd\r\n0\r\nTrailer: 1\r\nOther: 2\r\n\r\n" +
			"\r\nPOST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		want: []message{{Start: "POST /a HTTP/1.1", Body: "hello, the world"}, {Start: "POST /b HTTP/1.1"}},
	},
	{
		name: "connections that end",
		in: "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n" +
			"GET / HTTP/1.0\r\n\r\nGET / HTTP/1.1\r\nConnection: te, CLOSE\r\n\r\n",
		want: []message{
			{Start: "GET / HTTP/1.0"},
			{Start: "GET / HTTP/1.0", Close: true},
			{Start: "GET / HTTP/1.1", Close: true},
		},
	},
	{
		name:     "responses of all framings",
		response: true,
		in: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" +
			"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok" +
			"HTTP/1.1 204\r\n\r\n" +
			"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n" +
			"HTTP/1.1 503 \r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n" +
			"HTTP/1.1 200 OK\r\n\r\nto the end",
		want: []message{
			{Start: "HTTP/1.1 200 OK", Body: "ok", Status: 200},
			{Start: "HTTP/1.1 204", Status: 204},
			{Start: "HTTP/1.1 304 Not Modified", Status: 304},
			{Start: "HTTP/1.1 503 ", Body: "no", Status: 503},
			{Start: "HTTP/1.1 200 OK", Body: "to the end", Status: 200, Close: true},
		},
	},
}

func TestReader(t *testing.T) {
	for _, tt := range valid {
		t.Run(tt.name, func(t *testing.T) {
			for at := range len(tt.in) {
				src := io.MultiReader(strings.NewReader(tt.in[:at]), strings.NewReader(tt.in[at:]))
				got, err := readAll(src, tt.response)
				if !errors.Is(err, io.EOF) {
					t.Errorf("split at %d: got error %v, want EOF", at, err)
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Fatalf("split at %d: got(+), want(-):\n%s", at, diff)
				}
			}
			got, err := readAll(iotest.OneByteReader(strings.NewReader(tt.in)), tt.response)
			if diff := cmp.Diff(tt.want, got); diff != "" || !errors.Is(err, io.EOF) {
				t.Errorf("byte by byte: error %v, got(+), want(-):\n%s", err, diff)
			}
		})
	}
}

// TestReaderTruncated cuts every message short: the end of the connection inside a message is not an ordinary end.
func TestReaderTruncated(t *testing.T) {
	for _, tt := range valid {
		full, _ := readAll(strings.NewReader(tt.in), tt.response)
		for at := range len(tt.in) {
			got, err := readAll(strings.NewReader(tt.in[:at]), tt.response)
			if err == nil || len(got) > len(full) {
				t.Errorf("%s, cut at %d: got %d messages and error %v", tt.name, at, len(got), err)
			}
		}
	}
	_, err := readAll(strings.NewReader("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab"), false)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got error %v, want unexpected EOF", err)
	}
}

func TestReaderRefuses(t *testing.T) {
	for _, tt := range []struct {
		name     string
		response bool
		in       string
	}{
		{"two lengths", false, "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"},
		{"negative length", false, "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"},
		{"huge length", false, "POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n"},
		{"other coding", false, "POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n"},
		{"chunk size", false, "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"},
		{"chunk end", false, "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n"},
		{"huge chunk", false, "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n7fffffff\r\n"},
		{"header without a colon", false, "POST / HTTP/1.1\r\nnonsense\r\n\r\n"},
		{"endless head", false, "POST / HTTP/1.1\r\nX: " + strings.Repeat("x", rawhttp.MaxHead) + "\r\n\r\n"},
		{"status line", true, "HTTP/1.1 2x0 OK\r\n\r\n"},
		{"not HTTP", true, "220 smtp ready here\r\n\r\n"},
		{"switch of protocols", true, "HTTP/1.1 101 Switching Protocols\r\n\r\n"},
	} {
		got, err := readAll(strings.NewReader(tt.in), tt.response)
		if err == nil || errors.Is(err, io.EOF) || len(got) > 0 {
			t.Errorf("%s: got %v and error %v, want a refusal", tt.name, got, err)
		}
	}
}

// FuzzReader checks that what is read does not depend on how the bytes arrive.
func FuzzReader(f *testing.F) {
	for _, tt := range valid {
		f.Add([]byte(tt.in), tt.response)
	}
	f.Fuzz(func(t *testing.T, in []byte, response bool) {
		whole, err1 := readAll(bytes.NewReader(in), response)
		bytewise, err2 := readAll(iotest.OneByteReader(bytes.NewReader(in)), response)
		if diff := cmp.Diff(whole, bytewise); diff != "" {
			t.Errorf("whole (-), byte by byte (+):\n%s", diff)
		}
		if (err1 == nil) != (err2 == nil) || errors.Is(err1, io.EOF) != errors.Is(err2, io.EOF) {
			t.Errorf("whole: error %v, byte by byte: error %v", err1, err2)
		}
	})
}

// TestClient sends requests to the server of net/http.
func TestClient(t *testing.T) {
	large := strings.Repeat("0123456789", 50_000)
	var mu sync.Mutex
	conns := map[string]bool{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		conns[req.RemoteAddr] = true
		mu.Unlock()
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Errorf("read a request: %v", err)
		}
		switch req.URL.Path {
		case "/chunked":
			for part := range slices.Chunk(body, 1000) {
				_, _ = w.Write(part)
				w.(http.Flusher).Flush()
			}
		case "/close":
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusAccepted)
		case "/none":
			w.WriteHeader(http.StatusNoContent)
		default:
			w.Header().Set("X-Token", req.Header.Get("Authorization"))
			_, _ = w.Write(body)
		}
	}))
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	c := rawhttp.NewClient(addr)
	defer c.Close()
	for i, tt := range []struct {
		path, body string
		status     int
		want       string
		conns      int
	}{
		{"/", "hello", 200, "hello", 1},
		{"/", "", 200, "", 1},
		{"/", large, 200, large, 1},
		{"/chunked", large, 200, large, 1},
		{"/none", "x", 204, "", 1},
		{"/close", "x", 202, "", 1},
		{"/", "again", 200, "again", 2},
	} {
		req := rawhttp.AppendRequest(nil, http.MethodPost, addr, tt.path,
			[]rawhttp.Header{{Name: "Authorization", Value: "Bearer t"}}, []byte(tt.body))
		m, err := c.Do(t.Context(), req)
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		if m.Status != tt.status || string(m.Body) != tt.want {
			t.Errorf("request %d: got %d with %d bytes, want %d with %d", i, m.Status, len(m.Body), tt.status, len(tt.want))
		}
		mu.Lock()
		if len(conns) != tt.conns {
			t.Errorf("request %d: got %d connections, want %d", i, len(conns), tt.conns)
		}
		mu.Unlock()
	}
}

func TestClientSeesTheEndOfTheConnection(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	c := rawhttp.NewClient(addr)
	defer c.Close()
	if m, err := c.Do(t.Context(), rawhttp.AppendRequest(nil, http.MethodPost, addr, "/", nil, nil)); err == nil {
		t.Errorf("got %d, want an error", m.Status)
	}
}
