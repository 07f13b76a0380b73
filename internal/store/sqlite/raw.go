package sqlite

import (
	"errors"
	"reflect"
	"unsafe"

	"modernc.org/libc"
	lib "modernc.org/sqlite/lib"
	"zombiezen.com/go/sqlite"
)

// The library's statements allocate and free memory for every value they bind, and copy it byte by byte: a tenth of the CPU
// of small operations and a third of that of large bodies. So values are bound here, from one piece of SQLite's memory that
// is used again by every statement. It is not Go's memory, which SQLite's code may not hold pointers to when the race
// detector looks.
//
// This holds: a statement's parameters are all bound before each of its runs, so that none of them ever refers to what a
// later statement overwrote.

// arenaSize is how much the bound values of one statement may take; larger ones are allocated.
const arenaSize = 16 << 10

// An arena is the memory that bound values are in until their statement has run.
type arena struct {
	tls   *libc.TLS
	start uintptr
	used  int
	large []uintptr
}

// handles reads what the library keeps for itself: the handles that SQLite's own functions take.
func handles(c *sqlite.Conn, s *sqlite.Stmt) (tls *libc.TLS, stmt uintptr, err error) {
	t, h := reflect.ValueOf(c).Elem().FieldByName("tls"), reflect.ValueOf(s).Elem().FieldByName("stmt")
	if !t.IsValid() || t.Type() != reflect.TypeFor[*libc.TLS]() || !h.IsValid() || h.Kind() != reflect.Uintptr {
		return nil, 0, errors.New("the SQLite library is another one than this program was written for")
	}
	return (*libc.TLS)(t.UnsafePointer()), uintptr(h.Uint()), nil
}

// put copies a value into the arena; 0 if there is no memory.
func put[T string | []byte](a *arena, v T) uintptr {
	n := len(v)
	p := a.start + uintptr(a.used)
	if a.start == 0 || n > arenaSize-a.used {
		if p = libc.Xmalloc(a.tls, libc.Tsize_t(max(n, 1))); p == 0 {
			return 0
		}
		a.large = append(a.large, p)
	} else {
		a.used += n
	}
	copy(unsafe.Slice(unsafe.SliceData(libc.GoBytes(p, max(n, 1))), n), v)
	return p
}

// clear gives back the values of a statement that has run.
func (a *arena) clear() {
	a.used = 0
	for i, p := range a.large {
		libc.Xfree(a.tls, p)
		a.large[i] = 0
	}
	a.large = a.large[:0]
}

func (s stmt) failed(rc int32) {
	if rc != lib.SQLITE_OK && s.c.bindErr == nil {
		s.c.bindErr = sqlite.ResultCode(rc).ToError()
	}
}

// BindInt64 binds a number.
func (s stmt) BindInt64(param int, v int64) {
	s.failed(lib.Xsqlite3_bind_int64(s.c.tls, s.h, int32(param), v))
}

// BindNull binds NULL.
func (s stmt) BindNull(param int) {
	s.failed(lib.Xsqlite3_bind_null(s.c.tls, s.h, int32(param)))
}

// BindText binds a text.
func (s stmt) BindText(param int, v string) {
	p := put(&s.c.arena, v)
	if p == 0 {
		s.failed(lib.SQLITE_NOMEM)
		return
	}
	s.failed(lib.Xsqlite3_bind_text(s.c.tls, s.h, int32(param), p, int32(len(v)), 0))
}

// BindBytes binds a blob, which is empty rather than NULL if v is nil.
func (s stmt) BindBytes(param int, v []byte) {
	p := put(&s.c.arena, v)
	if p == 0 {
		s.failed(lib.SQLITE_NOMEM)
		return
	}
	s.failed(lib.Xsqlite3_bind_blob(s.c.tls, s.h, int32(param), p, int32(len(v)), 0))
}

// step goes to the next row. When it reports none, the statement is reset.
func (s stmt) step() (bool, error) {
	err := s.c.bindErr
	if err == nil {
		rc := lib.Xsqlite3_step(s.c.tls, s.h)
		if rc == lib.SQLITE_ROW {
			return true, nil
		}
		if rc != lib.SQLITE_DONE {
			err = sqlite.ResultCode(rc).ToError()
		}
	}
	s.c.bindErr = nil
	s.reset()
	return false, err
}

func (s stmt) reset() {
	lib.Xsqlite3_reset(s.c.tls, s.h) // what it returns, step has returned before
	s.c.arena.clear()
}
