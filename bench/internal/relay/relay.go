// Package relay is the limit that a server of the publish call is measured against: it takes a message by HTTP, passes
// it through a channel and delivers it by HTTP, and stores nothing. What a server costs above the relay is what it
// does for the message.
//
// It speaks as much of the API as the benchmark uses: POST /v2/publish/{url}, Upstash-Delay in milliseconds.
package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// workers is the number of deliveries that may be under way at once.
	workers = 512
	// backlog is the number of messages that may wait for a worker before publishers wait too.
	backlog = 4096
	maxBody = 1 << 20
	prefix  = "/v2/publish/"
)

// signature has the size of a delivery's signature. It is not computed: the relay is the limit.
var signature = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9." + strings.Repeat("c", 336) + "." + strings.Repeat("s", 43)

// message is a message on its way.
type message struct {
	id          string
	destination *url.URL
	contentType []string
	body        []byte
}

// Relay is the server.
type Relay struct {
	channel   chan message
	transport *http.Transport
	ids       atomic.Uint64
	dropped   atomic.Int64
	// done ends the wait of delayed messages and of handlers.
	done <-chan struct{}
}

// New returns a Relay.
func New() *Relay {
	return &Relay{
		channel: make(chan message, backlog),
		transport: &http.Transport{
			MaxIdleConns:        workers,
			MaxIdleConnsPerHost: workers,
			DisableCompression:  true,
			IdleConnTimeout:     90 * time.Second,
		},
	}
}

// Run serves on l until ctx is done. Messages that are under way then are dropped.
func (r *Relay) Run(ctx context.Context, l net.Listener) error {
	r.done = ctx.Done()
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for range workers {
		wg.Go(func() { r.work(ctx) })
	}
	srv := &http.Server{
		Handler:           r,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// ServeHTTP accepts a message.
func (r *Relay) ServeHTTP(w http.ResponseWriter, req *http.Request) {
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
	m := message{
		id:          "msg_" + strconv.FormatUint(r.ids.Add(1), 36),
		destination: to,
		contentType: req.Header["Content-Type"],
		body:        body,
	}
	if d := req.Header.Get("Upstash-Delay"); d != "" {
		delay, err := time.ParseDuration(d)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		time.AfterFunc(delay, func() { r.pass(m) })
	} else if !r.pass(m) {
		http.Error(w, "stopping", http.StatusServiceUnavailable)
		return
	}
	w.Header()["Content-Type"] = []string{"application/json"}
	_, _ = io.WriteString(w, `{"messageId":"`+m.id+`"}`)
}

// pass hands a message to the workers, and reports false if the relay is stopping.
func (r *Relay) pass(m message) bool {
	select {
	case r.channel <- m:
		return true
	case <-r.done:
		return false
	}
}

func readBody(w http.ResponseWriter, req *http.Request) ([]byte, error) {
	if n := req.ContentLength; n >= 0 && n <= maxBody {
		body := make([]byte, n)
		_, err := io.ReadFull(req.Body, body)
		return body, err
	}
	return io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
}

// work delivers messages until ctx is done.
func (r *Relay) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-r.channel:
			if err := r.deliver(ctx, m); err != nil {
				r.dropped.Add(1)
			}
		}
	}
}

func (r *Relay) deliver(ctx context.Context, m message) error {
	req := (&http.Request{
		Method:     http.MethodPost,
		URL:        m.destination,
		Host:       m.destination.Host,
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
		Header: http.Header{
			"User-Agent":         {"Upstash-QStash"},
			"Upstash-Message-Id": {m.id},
			"Upstash-Retried":    {"0"},
			"Upstash-Caller-Ip":  {"127.0.0.1"},
			"Upstash-Region":     {"EU-CENTRAL-1"},
			"Upstash-Signature":  {signature},
		},
		Body:          io.NopCloser(bytes.NewReader(m.body)),
		GetBody:       func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(m.body)), nil },
		ContentLength: int64(len(m.body)),
	}).WithContext(ctx)
	if m.contentType != nil {
		req.Header["Content-Type"] = m.contentType
	}
	resp, err := r.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}

// Dropped is the number of messages whose delivery failed.
func (r *Relay) Dropped() int { return int(r.dropped.Load()) }
