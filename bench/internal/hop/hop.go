// Package hop is the two HTTP requests that every system but Posthaste makes in the same way: the one that a message
// comes in by and the one that it goes out by. What is between them is what is compared.
//
// It speaks as much of the API as the benchmark uses: POST /v2/publish/{url}, Upstash-Delay in milliseconds.
package hop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Workers is the number of deliveries that may be under way at once.
const Workers = 512

const (
	maxBody = 1 << 20
	prefix  = "/v2/publish/"
)

// signature has the size of a delivery's signature. It is not computed: the hops are the limit.
var signature = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9." + strings.Repeat("c", 336) + "." + strings.Repeat("s", 43)

// Message is a message on its way.
type Message struct {
	ID          string
	Destination *url.URL
	ContentType string
	Body        []byte
	// Delay is how long to wait before the delivery.
	Delay time.Duration
}

// ErrStopping is what Accept returns if the server is about to end.
var ErrStopping = errors.New("stopping")

// Accept takes a message and returns its id. What its return means for the message is the system's durability.
type Accept func(ctx context.Context, m Message) (id string, err error)

// ServeHTTP implements http.Handler: it accepts a message.
func (accept Accept) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == "/readyz" {
		return
	}
	destination, ok := strings.CutPrefix(req.URL.EscapedPath(), prefix)
	if !ok || req.Method != http.MethodPost {
		http.Error(w, "only POST "+prefix, http.StatusNotFound)
		return
	}
	to, err := url.Parse(destination)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	body, err := readBody(w, req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	m := Message{Destination: to, Body: body, ContentType: req.Header.Get("Content-Type")}
	if d := req.Header.Get("Upstash-Delay"); d != "" {
		if m.Delay, err = time.ParseDuration(d); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	id, err := accept(req.Context(), m)
	switch {
	case errors.Is(err, ErrStopping):
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header()["Content-Type"] = []string{"application/json"}
	_, _ = io.WriteString(w, `{"messageId":"`+id+`"}`)
}

func readBody(w http.ResponseWriter, req *http.Request) ([]byte, error) {
	if n := req.ContentLength; n >= 0 && n <= maxBody {
		body := make([]byte, n)
		_, err := io.ReadFull(req.Body, body)
		return body, err
	}
	return io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
}

// Serve accepts messages on l until ctx is done.
func Serve(ctx context.Context, l net.Listener, accept Accept) error {
	srv := &http.Server{
		Handler:           accept,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Sender delivers messages.
type Sender struct{ transport *http.Transport }

// NewSender returns a Sender that keeps a connection for each of Workers.
func NewSender() *Sender {
	return &Sender{&http.Transport{
		MaxIdleConns:        Workers,
		MaxIdleConnsPerHost: Workers,
		DisableCompression:  true,
		IdleConnTimeout:     90 * time.Second,
	}}
}

// Deliver sends a message to its destination. An answer other than 2xx is an error.
func (s *Sender) Deliver(ctx context.Context, m Message) error {
	req := (&http.Request{
		Method:     http.MethodPost,
		URL:        m.Destination,
		Host:       m.Destination.Host,
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
		Header: http.Header{
			"User-Agent":         {"Upstash-QStash"},
			"Upstash-Message-Id": {m.ID},
			"Upstash-Retried":    {"0"},
			"Upstash-Caller-Ip":  {"127.0.0.1"},
			"Upstash-Region":     {"EU-CENTRAL-1"},
			"Upstash-Signature":  {signature},
		},
		Body:          io.NopCloser(bytes.NewReader(m.Body)),
		GetBody:       func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(m.Body)), nil },
		ContentLength: int64(len(m.Body)),
	}).WithContext(ctx)
	if m.ContentType != "" {
		req.Header["Content-Type"] = []string{m.ContentType}
	}
	resp, err := s.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("the destination answered %d", resp.StatusCode)
	}
	return nil
}
