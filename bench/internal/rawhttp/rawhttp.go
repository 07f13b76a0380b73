// Package rawhttp reads HTTP/1.1 messages straight from a connection.
//
// The load generator and the sink share the machine with the server they measure, so what they cost is taken from
// it. This package therefore does only what they need: it finds the end of a message, whatever its framing
// (Content-Length, chunked, until the end of the connection), and hands out its body in place. It keeps no header,
// allocates nothing per message once its buffer has grown, and speaks no TLS and no HTTP/2.
package rawhttp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Bounds on what a peer may make a Reader hold.
const (
	MaxHead = 64 << 10
	MaxBody = 16 << 20
)

// Errors of framing. The connection is of no use after one of them.
var (
	errHeadTooLarge = errors.New("rawhttp: head too large")
	errBodyTooLarge = errors.New("rawhttp: body too large")
	errMalformed    = errors.New("rawhttp: malformed message")
)

// Message is a request or a response. Its slices point into the Reader's buffer and are valid until the next read.
type Message struct {
	// Start is the request line or the status line, without its line end.
	Start []byte
	// Status is the status code of a response, 0 for a request.
	Status int
	// Body is the decoded body.
	Body []byte
	// Close says that the peer ends the connection after this message.
	Close bool
	// RetryAfter says that the message has a Retry-After.
	RetryAfter bool
}

// Reader reads successive messages from one connection. It belongs to one goroutine.
type Reader struct {
	// Interim, if not nil, is sent "100 Continue" when a request asks for it.
	Interim io.Writer

	src io.Reader
	// buf[r:w] has been read from src and not been handed out yet.
	buf  []byte
	r, w int
}

// NewReader returns a Reader on src.
func NewReader(src io.Reader) *Reader {
	return &Reader{src: src, buf: make([]byte, 4<<10)}
}

// Buffered is the number of bytes that were read ahead of the last message.
func (r *Reader) Buffered() int { return r.w - r.r }

// ReadRequest reads the next request. It returns io.EOF if the connection ended between two messages.
func (r *Reader) ReadRequest() (Message, error) {
	// A client may send an empty line before a request (RFC 9112, section 2.2).
	for {
		if err := r.need(2); err != nil {
			return Message{}, err
		}
		if r.buf[r.r] != '\r' || r.buf[r.r+1] != '\n' {
			break
		}
		r.r += 2
	}
	return r.read(false)
}

// ReadResponse reads the next final response, to a request whose method was not HEAD; interim (1xx) responses are
// skipped. It returns io.EOF if the connection ended before the first byte.
func (r *Reader) ReadResponse() (Message, error) {
	for {
		m, err := r.read(true)
		if err != nil || m.Status >= 200 {
			return m, err
		}
		if m.Status == 101 {
			return m, fmt.Errorf("%w: unwanted switch of protocols", errMalformed)
		}
	}
}

// framing is what the head of a message says about its body and about the connection.
type framing struct {
	length    int // -1 if not given
	chunked   bool
	close     bool
	keepAlive bool
	expect    bool
	later     bool
}

// read reads one message. Offsets are relative to r.r until the message is complete, since need moves the buffer.
func (r *Reader) read(response bool) (Message, error) {
	head, err := r.find("\r\n\r\n", 0, MaxHead)
	if err != nil {
		return Message{}, err
	}
	lines := r.buf[r.r : r.r+head+2] // every line with its end
	startLen := bytes.Index(lines, crlf)
	f, err := parseFields(lines[startLen+2:])
	if err != nil {
		return Message{}, err
	}
	start := lines[:startLen]
	status := 0
	if response {
		if status, err = parseStatus(start); err != nil {
			return Message{}, err
		}
	}
	old := bytes.HasPrefix(start, []byte("HTTP/1.0")) || bytes.HasSuffix(start, []byte("HTTP/1.0"))
	closes := f.close || old && !f.keepAlive

	bodyAt := head + 4
	if f.expect && r.Interim != nil && r.Buffered() <= bodyAt {
		if _, err := io.WriteString(r.Interim, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return Message{}, err
		}
	}
	var bodyLen, end int
	switch {
	case response && (status < 200 || status == 204 || status == 304):
		end = bodyAt
	case f.chunked:
		bodyLen, end, err = r.unchunk(bodyAt)
	case f.length >= 0:
		bodyLen, end = f.length, bodyAt+f.length
		err = r.need(end)
	case response:
		closes = true
		bodyLen, err = r.rest(bodyAt)
		end = bodyAt + bodyLen
	default:
		end = bodyAt
	}
	if err != nil {
		return Message{}, unexpected(err)
	}
	m := Message{
		Start:  r.buf[r.r : r.r+startLen],
		Status: status,
		Body:   r.buf[r.r+bodyAt : r.r+bodyAt+bodyLen],
		Close:  closes,

		RetryAfter: f.later,
	}
	r.r += end
	return m, nil
}

// unchunk decodes a chunked body that begins at offset at, in place, so that the body is contiguous from there. It
// returns the length of the body and the offset of the end of the message.
func (r *Reader) unchunk(at int) (length, end int, err error) {
	pos, out := at, at
	for {
		eol, err := r.find("\r\n", pos, 256)
		if err != nil {
			return 0, 0, err
		}
		size, err := parseChunkSize(r.buf[r.r+pos : r.r+eol])
		if err != nil {
			return 0, 0, err
		}
		pos = eol + 2
		if size == 0 {
			break
		}
		if out-at+size > MaxBody {
			return 0, 0, errBodyTooLarge
		}
		if err := r.need(pos + size + 2); err != nil {
			return 0, 0, err
		}
		b := r.buf[r.r:r.w]
		if b[pos+size] != '\r' || b[pos+size+1] != '\n' {
			return 0, 0, fmt.Errorf("%w: chunk without an end", errMalformed)
		}
		copy(b[out:], b[pos:pos+size])
		out += size
		pos += size + 2
	}
	for trailers := pos; ; { // trailer fields, then an empty line
		eol, err := r.find("\r\n", pos, MaxHead)
		if err != nil {
			return 0, 0, err
		}
		empty := eol == pos
		pos = eol + 2
		if empty {
			return out - at, pos, nil
		}
		if pos-trailers > MaxHead {
			return 0, 0, errHeadTooLarge
		}
	}
}

// rest reads to the end of the connection and returns how many bytes follow offset at.
func (r *Reader) rest(at int) (int, error) {
	for {
		n := r.w - r.r - at
		if n > MaxBody {
			return 0, errBodyTooLarge
		}
		err := r.need(r.w - r.r + 1)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return n, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// find returns the offset of sep at or after offset from, reading as needed, and fails if it is not within limit
// bytes.
func (r *Reader) find(sep string, from, limit int) (int, error) {
	searched := from
	for {
		if have := r.w - r.r; have > searched {
			if i := bytes.Index(r.buf[r.r+searched:r.w], []byte(sep)); i >= 0 {
				if searched+i-from > limit {
					return 0, errHeadTooLarge
				}
				return searched + i, nil
			}
			searched = max(from, have-len(sep)+1)
		}
		if searched-from > limit {
			return 0, errHeadTooLarge
		}
		if err := r.need(r.w - r.r + 1); err != nil {
			return 0, err
		}
	}
}

// need makes at least n unread bytes available. Its error is io.EOF if there are none at all.
func (r *Reader) need(n int) error {
	if n > MaxHead+2*MaxBody {
		return errBodyTooLarge
	}
	for r.w-r.r < n {
		switch {
		case r.r == r.w:
			r.r, r.w = 0, 0
		case r.r+n > len(r.buf) || r.w == len(r.buf):
			r.w = copy(r.buf, r.buf[r.r:r.w])
			r.r = 0
		}
		if n > len(r.buf) {
			grown := make([]byte, max(n, 2*len(r.buf)))
			r.w = copy(grown, r.buf[r.r:r.w])
			r.r, r.buf = 0, grown
		}
		k, err := r.src.Read(r.buf[r.w:])
		r.w += k
		if r.w-r.r >= n {
			return nil
		}
		if err != nil {
			if r.w > r.r {
				return unexpected(err)
			}
			return err
		}
	}
	return nil
}

var crlf = []byte("\r\n")

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// parseFields reads the header fields that matter from lines, each with its end.
func parseFields(lines []byte) (framing, error) {
	f := framing{length: -1}
	for len(lines) > 0 {
		eol := bytes.Index(lines, crlf)
		line := lines[:eol]
		lines = lines[eol+2:]
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 {
			return f, fmt.Errorf("%w: header line %q", errMalformed, line)
		}
		name := line[:colon]
		// Every other name is passed over by its length alone.
		switch len(name) {
		case len("Content-Length"):
			if !fold(name, "content-length") {
				continue
			}
			n, err := strconv.ParseUint(string(trim(line[colon+1:])), 10, 62)
			if err != nil {
				return f, fmt.Errorf("%w: %q", errMalformed, line)
			}
			if n > MaxBody {
				return f, errBodyTooLarge
			}
			if f.length >= 0 && f.length != int(n) {
				return f, fmt.Errorf("%w: two lengths", errMalformed)
			}
			f.length = int(n)
		case len("Transfer-Encoding"):
			if !fold(name, "transfer-encoding") {
				continue
			}
			if !fold(trim(line[colon+1:]), "chunked") {
				return f, fmt.Errorf("%w: %q", errMalformed, line)
			}
			f.chunked = true
		case len("Connection"):
			if !fold(name, "connection") {
				continue
			}
			for token := range bytes.SplitSeq(line[colon+1:], []byte(",")) {
				token = trim(token)
				f.close = f.close || fold(token, "close")
				f.keepAlive = f.keepAlive || fold(token, "keep-alive")
			}
		case len("Retry-After"):
			f.later = f.later || fold(name, "retry-after")
		case len("Expect"):
			f.expect = f.expect || fold(name, "expect") && fold(trim(line[colon+1:]), "100-continue")
		}
	}
	return f, nil
}

func parseStatus(line []byte) (int, error) {
	// HTTP/1.1 200 OK
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[8] != ' ' || len(line) > 12 && line[12] != ' ' {
		return 0, fmt.Errorf("%w: status line %q", errMalformed, line)
	}
	status := 0
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("%w: status line %q", errMalformed, line)
		}
		status = status*10 + int(c-'0')
	}
	if status < 100 {
		return 0, fmt.Errorf("%w: status line %q", errMalformed, line)
	}
	return status, nil
}

func parseChunkSize(line []byte) (int, error) {
	digits, _, _ := bytes.Cut(line, []byte(";"))
	n, err := strconv.ParseUint(string(trim(digits)), 16, 31)
	if err != nil {
		return 0, fmt.Errorf("%w: chunk size %q", errMalformed, line)
	}
	if n > MaxBody {
		return 0, errBodyTooLarge
	}
	return int(n), nil
}

func trim(b []byte) []byte { return bytes.Trim(b, " \t") }

// fold reports whether b equals lower but for the case of ASCII letters.
func fold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
