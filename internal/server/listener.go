package server

import (
	"bytes"
	"net"
	"strconv"

	"github.com/posthaste/posthaste/internal/wire"
)

// jsonErrors makes the answers that net/http writes itself, before any handler, look like all others: errors as JSON. Such are
// those to a malformed request line or to a header that is too large.
type jsonErrors struct{ net.Listener }

// Accept implements [net.Listener].
func (l jsonErrors) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return jsonErrorConn{c}, nil
}

type jsonErrorConn struct{ net.Conn }

// The shape of an answer by net/http itself: a status line, these headers, and the status again, perhaps with more, as text.
var (
	statusLine  = []byte("HTTP/1.1 ")
	plainErrors = []byte("\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n")
)

// The answer to an Expect header that asks for something unknown has no body at all.
var (
	expectation       = []byte("HTTP/1.1 417 ")
	expectationAnswer = func() []byte {
		body := wire.AppendError(nil, "the only Expect header that is understood is 100-continue")
		return append([]byte("HTTP/1.1 417 Expectation Failed\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: "+
			strconv.Itoa(len(body))+"\r\n\r\n"), body...)
	}()
)

// Write implements [net.Conn].
func (c jsonErrorConn) Write(p []byte) (int, error) {
	if len(p) > 512 || !bytes.HasPrefix(p, statusLine) || (p[len(statusLine)] != '4' && p[len(statusLine)] != '5') {
		return c.Conn.Write(p)
	}
	if bytes.HasPrefix(p, expectation) {
		if _, err := c.Conn.Write(expectationAnswer); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	head, text, ok := bytes.Cut(p, plainErrors)
	if !ok {
		return c.Conn.Write(p)
	}
	body := wire.AppendError(nil, string(text))
	out := append([]byte(nil), head...)
	out = append(out, "\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: "+strconv.Itoa(len(body))+"\r\n\r\n"...)
	if _, err := c.Conn.Write(append(out, body...)); err != nil {
		return 0, err
	}
	return len(p), nil
}
