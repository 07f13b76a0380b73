package sqlite

import (
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"modernc.org/libc"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
)

// A conn is a connection with its prepared statements, used by one goroutine at a time.
type conn struct {
	*sqlite.Conn
	count *atomic.Int64 // statements run, of the engine
	err   error         // the first failure to prepare
	buf   []byte        // for records that are read

	arena
	bindErr error // the first failure to bind a value since the last step

	// rows tells which message belongs to which ticket or content that the current operation read or wrote. Only the
	// writer notes it.
	note bool
	rows []messageRow
	next int // of rows, where to look first
}

type messageRow struct {
	id posthaste.MessageID
	n  int64
}

// rowOf returns the n of a message that was noted; 0 if it was not. Operations mostly write in the order in which they read.
func (c *conn) rowOf(id posthaste.MessageID) int64 {
	for range c.rows {
		if c.next >= len(c.rows) {
			c.next = 0
		}
		r := &c.rows[c.next]
		c.next++
		if r.id == id {
			return r.n
		}
	}
	return 0
}

// connect opens a connection that never checkpoints by itself: see checkpoint.go.
func (e *Engine) connect(flags sqlite.OpenFlags, pragmas ...string) (*conn, error) {
	uri, err := e.wal.uri(e.path)
	if err != nil {
		return nil, err
	}
	c, err := sqlite.OpenConn(uri, flags|sqlite.OpenURI)
	if err != nil {
		return nil, err
	}
	c.SetBusyTimeout(busyTimeout)
	all := []string{"journal_mode = WAL", "wal_autocheckpoint = 0", "temp_store = MEMORY"}
	if e.wal.noSync {
		all = append([]string{"synchronous = OFF"}, all...) // while the file is made
	}
	for _, p := range append(all, pragmas...) {
		var got string
		err := sqlitex.ExecuteTransient(c, "PRAGMA "+p, &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
			got = s.ColumnText(0)
			return nil
		}})
		if err == nil && p == "journal_mode = WAL" && got != "wal" {
			err = posthaste.Errorf(posthaste.CodeUnavailable, "the file system of %s cannot be shared by several connections", e.path)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", p, err), c.Close())
		}
	}
	return &conn{Conn: c, count: &e.stats.statements}, nil
}

// busyTimeout is how long a connection waits for a lock that another process holds: the command line writes to the file
// while the server runs.
const busyTimeout = 5 * time.Second

// A stmt is a prepared statement. Its handle is kept, so that running it does not look up its text.
type stmt struct {
	*sqlite.Stmt
	c *conn
	h uintptr
}

// prepare prepares a statement for the life of the connection and notes a failure in c.err.
func (c *conn) prepare(query string) stmt {
	s, err := c.Prepare(query)
	if err == nil {
		var h uintptr
		if c.tls, h, err = handles(c.Conn, s); err == nil {
			if c.start == 0 {
				c.start = libc.Xmalloc(c.tls, arenaSize)
			}
			return stmt{s, c, h}
		}
	}
	if c.err == nil {
		c.err = fmt.Errorf("prepare %q: %w", query, err)
	}
	return stmt{s, c, 0}
}

// Close closes the connection and frees its memory.
func (c *conn) Close() error {
	if c.start != 0 {
		libc.Xfree(c.tls, c.start)
		c.start = 0
	}
	return c.Conn.Close()
}

// row steps to the next row. The statement is over when there is none or it fails.
func (s stmt) row() (bool, error) {
	ok, err := s.step()
	if !ok {
		s.c.count.Add(1)
	}
	return ok, err
}

// run runs a statement that returns nothing of interest.
func (s stmt) run() error {
	ok, err := s.row()
	if ok {
		s.done()
	}
	return err
}

// done ends a statement before its last row was seen.
func (s stmt) done() {
	s.c.count.Add(1)
	s.reset()
}

// bytes returns the bytes of a column, which are valid until the next call.
func (s stmt) bytes(col int) []byte {
	n := s.ColumnLen(col)
	if cap(s.c.buf) < n {
		s.c.buf = make([]byte, max(n, 4096))
	}
	b := s.c.buf[:n]
	s.ColumnBytes(col, b)
	return b
}

// keep returns the bytes of a column for good; nil if there are none.
func (s stmt) keep(col int) []byte {
	n := s.ColumnLen(col)
	if n == 0 {
		return nil
	}
	b := make([]byte, n)
	s.ColumnBytes(col, b)
	return b
}

// bindTime binds NULL for the zero time.
func (s stmt) bindTime(param int, t time.Time) {
	if t.IsZero() {
		s.BindNull(param)
	} else {
		s.BindInt64(param, t.UnixMicro())
	}
}

// time reads a column that bindTime or micros wrote.
func (s stmt) time(col int) time.Time { return fromMicros(s.ColumnInt64(col)) }

// micros returns t as columns that are never NULL keep it: 0 stands for the zero time, as no server's clock shows 1970.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// gateKey is the text that names a gate in tickets and slots.
func gateKey(r *store.GateRef) string {
	var space [96]byte
	b := append(strconv.AppendUint(space[:0], uint64(r.Kind), 10), '/')
	b = append(strconv.AppendInt(b, int64(r.Tenant), 10), '/')
	return string(append(b, r.Name...))
}

// ticket reads a row of a ticket's columns. The id is handed in if it is known.
func (s stmt) ticket(id posthaste.MessageID) (*store.Ticket, error) {
	t := new(store.Ticket)
	if id == "" {
		id = posthaste.MessageID(s.ColumnText(0))
	}
	t.ID, t.Tenant = id, posthaste.TenantID(s.ColumnInt64(1))
	if s.c.note {
		s.c.rows = append(s.c.rows, messageRow{id, s.ColumnInt64(2)})
	}
	if err := store.DecodeTicket(s.bytes(3), t); err != nil {
		return nil, fmt.Errorf("ticket %s: %w", id, err)
	}
	t.Stored = store.Location{Phase: t.Phase, ParkedAt: t.ParkedAt, Rank: t.Rank, Place: t.Place}
	return t, nil
}
