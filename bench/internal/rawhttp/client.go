package rawhttp

import (
	"context"
	"net"
	"strconv"
)

// Header is one header field of a request.
type Header struct{ Name, Value string }

// AppendRequest appends an HTTP/1.1 request with a Content-Length body to dst.
func AppendRequest(dst []byte, method, host, target string, header []Header, body []byte) []byte {
	dst = append(dst, method...)
	dst = append(dst, ' ')
	dst = append(dst, target...)
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	dst = append(dst, host...)
	for _, h := range header {
		dst = append(dst, "\r\n"...)
		dst = append(dst, h.Name...)
		dst = append(dst, ": "...)
		dst = append(dst, h.Value...)
	}
	dst = append(dst, "\r\nContent-Length: "...)
	dst = strconv.AppendInt(dst, int64(len(body)), 10)
	dst = append(dst, "\r\n\r\n"...)
	return append(dst, body...)
}

// Client sends requests over one connection, one at a time, and dials again when the connection has ended. It
// belongs to one goroutine.
type Client struct {
	addr   string
	dialer net.Dialer
	conn   net.Conn
	reader *Reader
	stop   func() bool
}

// NewClient returns a client of addr, a host and a port.
func NewClient(addr string) *Client { return &Client{addr: addr} }

// Dial connects, unless the client is connected. The connection is closed when ctx is done.
func (c *Client) Dial(ctx context.Context) error {
	if c.conn != nil {
		return nil
	}
	conn, err := c.dialer.DialContext(ctx, "tcp", c.addr)
	if err != nil {
		return err
	}
	c.conn = conn
	c.reader = NewReader(conn)
	c.stop = context.AfterFunc(ctx, func() { _ = conn.Close() })
	return nil
}

// Do sends a complete request and reads the response. The response is valid until the next call.
func (c *Client) Do(ctx context.Context, request []byte) (Message, error) {
	if err := c.Dial(ctx); err != nil {
		return Message{}, err
	}
	if _, err := c.conn.Write(request); err != nil {
		c.Close()
		return Message{}, err
	}
	m, err := c.reader.ReadResponse()
	if err != nil || m.Close {
		c.Close()
	}
	return m, unexpected(err)
}

// Close ends the connection. The client may be used again.
func (c *Client) Close() {
	if c.conn == nil {
		return
	}
	c.stop()
	_ = c.conn.Close()
	c.conn, c.reader = nil, nil
}
