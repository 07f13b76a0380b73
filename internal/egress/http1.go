package egress

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

// http1 sends plain requests over HTTP/1.1 in the goroutine of the caller. net/http has two more goroutines for each connection,
// through which a request and its answer are handed; without them a delivery over http:// costs a third less.
//
// It takes only requests that it can write in one piece and whose answer cannot begin before they are written: see
// [http1.takes]. All others, and every fault in a request, are left to net/http.
type http1 struct {
	dial         func(ctx context.Context, network, address string) (net.Conn, error)
	maxHeader    int64
	idleTimeout  time.Duration
	maxIdle      int
	maxIdleAHost int

	mu    sync.Mutex
	idle  map[string][]*http1Conn // by host and port, the last used one last
	kept  int                     // connections in idle
	sweep *time.Timer             // nil while none is kept
}

func newHTTP1(g *Guard) *http1 {
	return &http1{
		dial: g.dial, maxHeader: g.cfg.MaxResponseHeaderBytes, idleTimeout: g.cfg.IdleConnTimeout,
		maxIdle: g.cfg.MaxIdleConns, maxIdleAHost: g.cfg.MaxIdleConnsPerHost, idle: map[string][]*http1Conn{},
	}
}

// maxPiece bounds the bodies that http1 sends. What is larger may fill the buffers of the network, and then the answer may have
// to be read while the request is still being written.
const maxPiece = 32 << 10

// takes tells whether a request is one for http1.
func (*http1) takes(req *http.Request) bool {
	if req.URL == nil || !strings.EqualFold(req.URL.Scheme, "http") || req.URL.Opaque != "" || req.Close || len(req.TransferEncoding) > 0 || req.Trailer != nil {
		return false
	}
	if req.ContentLength < 0 || req.ContentLength > maxPiece || req.ContentLength == 0 && req.Body != nil && req.Body != http.NoBody {
		return false
	}
	if !httpguts.ValidHeaderFieldName(req.Method) || req.Method == http.MethodConnect {
		return false
	}
	for name, values := range req.Header {
		switch name {
		case "Connection", "Expect", "Te", "Upgrade", "Proxy-Connection":
			return false // they change how the connection is used
		}
		if !httpguts.ValidHeaderFieldName(name) {
			return false
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				return false
			}
		}
	}
	return plainHost(req.URL.Host) && (req.Host == "" || plainHost(req.Host))
}

// plainHost tells whether a host stands in a request as it is written: an ASCII name or an address without a zone.
func plainHost(host string) bool {
	for i := range len(host) {
		c := host[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' && c != ':' && c != '[' && c != ']' {
			return false
		}
	}
	return host != ""
}

// http1Conn is a connection, which carries one request at a time.
type http1Conn struct {
	net.Conn

	pool  *http1
	key   string
	r     *bufio.Reader
	left  int64 // bytes that may yet be read
	probe prober
	since time.Time // when it became idle
}

// errHeader is the error of an answer with too large a header.
var errHeader = errors.New("the header of the answer is too large")

// Read reads for the buffer, within what the header of an answer may have.
func (c *http1Conn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errHeader
	}
	n, err := c.Conn.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// roundTrip sends a request that h takes.
func (h *http1) roundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	buf := requests.Get().(*[]byte)
	defer func() { requests.Put(buf) }()
	var err error
	*buf, err = appendRequest((*buf)[:0], req)
	if req.Body != nil {
		err = errors.Join(err, req.Body.Close())
	}
	if err != nil {
		return nil, err
	}
	for {
		c, kept, err := h.conn(ctx, req.URL.Host)
		if err != nil {
			return nil, err
		}
		deadline, _ := ctx.Deadline()
		_ = c.SetDeadline(deadline) // of a connection that is closed: the writing tells
		stop := afterCancel(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
		if n, err := c.Write(*buf); err != nil {
			_ = c.Close() // it is broken
			if stop(); kept && n == 0 && ctx.Err() == nil {
				continue // it was closed while it was idle
			}
			return nil, ended(ctx, err)
		}
		resp, err := c.answer(req)
		if err != nil {
			stop()
			_ = c.Close() // it is broken
			return nil, ended(ctx, err)
		}
		b := &http1Body{conn: c, body: resp.Body, ctx: ctx, stop: stop, again: !resp.Close && resp.StatusCode != http.StatusSwitchingProtocols}
		if resp.Body == http.NoBody {
			b.end(true)
		} else {
			resp.Body = b
		}
		return resp, nil
	}
}

// requests are buffers for what is written.
var requests = sync.Pool{New: func() any { return new([]byte) }}

// appendRequest appends a request, in the order of [http.Request.Write], but adds nothing to the header.
func appendRequest(buf []byte, req *http.Request) ([]byte, error) {
	buf = append(append(buf, req.Method...), ' ')
	buf = append(buf, req.URL.RequestURI()...)
	for _, c := range buf {
		if c < ' ' || c == 0x7f {
			return buf, errors.New("the path of the request has a control character")
		}
	}
	host := req.Host
	if host == "" {
		host = req.URL.Host
	}
	buf = appendField(append(buf, " HTTP/1.1\r\n"...), "Host", host)
	if v := req.Header["User-Agent"]; len(v) > 0 && v[0] != "" {
		buf = appendField(buf, "User-Agent", textproto.TrimString(v[0]))
	}
	switch n := req.ContentLength; {
	case n > 0:
		buf = append(buf, "Content-Length: "...)
		buf = append(strconv.AppendInt(buf, n, 10), "\r\n"...)
	case req.Method == http.MethodPost, req.Method == http.MethodPut, req.Method == http.MethodPatch:
		buf = append(buf, "Content-Length: 0\r\n"...)
	}
	var room [16]string
	names := room[:0]
	for name := range req.Header {
		switch name {
		case "Host", "User-Agent", "Content-Length", "Transfer-Encoding", "Trailer":
		default:
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		for _, v := range req.Header[name] {
			buf = appendField(buf, name, textproto.TrimString(v))
		}
	}
	buf = append(buf, "\r\n"...)
	if req.Body == nil {
		return buf, nil
	}
	end := len(buf)
	buf = append(buf, make([]byte, req.ContentLength)...)
	_, err := io.ReadFull(req.Body, buf[end:])
	return buf, err
}

func appendField(buf []byte, name, value string) []byte {
	buf = append(append(buf, name...), ": "...)
	return append(append(buf, value...), "\r\n"...)
}

// answer reads the header of the answer. Informational answers are passed over.
func (c *http1Conn) answer(req *http.Request) (*http.Response, error) {
	c.left = c.pool.maxHeader
	for {
		resp, err := http.ReadResponse(c.r, req)
		if err != nil {
			if c.left <= 0 {
				err = errHeader
			}
			return nil, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			c.left = math.MaxInt64
			return resp, nil
		}
	}
}

// ended returns the error of a request: its context's, if that is over.
func ended(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return context.DeadlineExceeded // the context will say so in a moment
	}
	return err
}

// http1Body is the body of an answer. At its end the connection is kept for another request.
type http1Body struct {
	conn  *http1Conn // nil after the end
	body  io.Reader
	ctx   context.Context
	stop  func() bool
	again bool // the connection may be used again
}

// Read implements [io.Reader].
func (b *http1Body) Read(p []byte) (int, error) {
	if b.conn == nil {
		return 0, io.EOF
	}
	n, err := b.body.Read(p)
	if err != nil {
		b.end(errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF))
		if !errors.Is(err, io.EOF) {
			err = ended(b.ctx, err)
		}
	}
	return n, err
}

// Close implements [io.Closer].
func (b *http1Body) Close() error {
	b.end(false)
	return nil
}

// end gives the connection back, or closes it if the answer was not read to its end.
func (b *http1Body) end(whole bool) {
	c := b.conn
	if c == nil {
		return
	}
	b.conn = nil
	// If the context has just ended, its deadline may be set at any moment.
	if running := b.stop(); !running || !whole || !b.again || c.r.Buffered() > 0 {
		_ = c.Close() // nothing more is wanted of it
		return
	}
	c.pool.keep(c)
}

// conn returns a connection to a host: one that was kept, or a new one.
func (h *http1) conn(ctx context.Context, host string) (c *http1Conn, kept bool, err error) {
	for {
		if c = h.take(host); c == nil {
			break
		}
		if time.Since(c.since) < h.idleTimeout && c.probe.quiet() {
			return c, true, nil
		}
		_ = c.Close() // it is over
	}
	address := host
	if strings.LastIndexByte(host, ':') <= strings.LastIndexByte(host, ']') {
		address += ":80"
	}
	raw, err := h.dial(ctx, "tcp", address)
	if err != nil {
		return nil, false, err
	}
	c = &http1Conn{Conn: raw, pool: h, key: host}
	c.r = bufio.NewReader(c)
	c.probe.watch(raw)
	return c, false, nil
}

// take takes the kept connection that was used last.
func (h *http1) take(key string) *http1Conn {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := h.idle[key]
	if len(list) == 0 {
		return nil
	}
	last := len(list) - 1
	c := list[last]
	list[last] = nil
	h.idle[key] = list[:last]
	h.kept--
	return c
}

// keep keeps a connection for the next request.
func (h *http1) keep(c *http1Conn) {
	c.since = time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	list := h.idle[c.key]
	if h.kept >= h.maxIdle || len(list) >= h.maxIdleAHost {
		_ = c.Close() // there are enough
		return
	}
	h.idle[c.key] = append(list, c)
	h.kept++
	if h.sweep == nil {
		h.sweep = time.AfterFunc(h.idleTimeout, func() { h.closeBefore(time.Now().Add(-h.idleTimeout)) })
	}
}

// closeBefore closes what has been idle since before a moment, and comes back for the others.
func (h *http1) closeBefore(moment time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, list := range h.idle {
		n := 0
		for n < len(list) && !list[n].since.After(moment) {
			_ = list[n].Close() // nobody uses it
			n++
		}
		h.kept -= n
		if n == len(list) {
			delete(h.idle, key)
		} else if n > 0 {
			h.idle[key] = append([]*http1Conn(nil), list[n:]...)
		}
	}
	if h.kept > 0 {
		h.sweep.Reset(h.idleTimeout / 2)
		return
	}
	if h.sweep != nil {
		h.sweep.Stop()
		h.sweep = nil
	}
}
