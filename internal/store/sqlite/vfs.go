package sqlite

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"modernc.org/libc"
	lib "modernc.org/sqlite/lib"
)

// SQLite writes a commit to the WAL with two system calls per page and syncs the file with its metadata. That is most of
// the CPU of a small commit and a good part of a large one. So the WAL has its own file methods, which gather what is
// written until it is synced and then write it at once, and which sync no more than the data. Every other file is opened by
// SQLite's own methods.
//
// These hold:
//
//  1. A commit calls xSync before it shows its pages to other connections in the index of the WAL, because every connection
//     that writes runs with synchronous=FULL. So nobody looks for a page that still is in a buffer: but for the connection
//     itself, whose reads flush first.
//  2. A failed write is reported by the xSync (or other call) that tried it, which is before the commit took effect.
//  3. One connection uses a file object at a time, so its buffer needs no lock.

// walBuffer is how much is gathered at most. A larger commit is written in pieces.
const walBuffer = 1 << 20

// walState is what an engine shares with the WAL files of its connections.
type walState struct {
	id     int64
	noSync bool
	// end is the offset after the last page written since the WAL began at its front.
	end atomic.Int64
}

var walStates = struct {
	sync.RWMutex
	last int64
	m    map[int64]*walState
}{m: make(map[int64]*walState)}

// newWALState registers the state of an engine. Connections to [walState.uri] find it.
func newWALState(noSync bool) *walState {
	walStates.Lock()
	defer walStates.Unlock()
	walStates.last++
	s := &walState{id: walStates.last, noSync: noSync}
	walStates.m[s.id] = s
	return s
}

func (s *walState) forget() {
	walStates.Lock()
	defer walStates.Unlock()
	delete(walStates.m, s.id)
}

// uri names the data file such that its WAL has the methods of this file.
func (s *walState) uri(path string) (string, error) {
	if err := registerVFS(); err != nil {
		return "", err
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	u := url.URL{Scheme: "file", Path: filepath.ToSlash(path), RawQuery: fmt.Sprintf("vfs=%s&engine=%d", vfsName, s.id)}
	return u.String(), nil
}

// walFile is an open WAL.
type walFile struct {
	state *walState
	f     *os.File
	buf   []byte // gathered, to be written at the offset at
	at    int64
	size  int64 // of the file, with what was filled in advance
	fresh bool  // the directory does not surely hold the file's name yet
}

var walFiles = struct {
	sync.RWMutex
	last uint64
	m    map[uint64]*walFile
}{m: make(map[uint64]*walFile)}

// walHandle is a walFile as SQLite sees it.
type walHandle struct {
	methods uintptr // as in every sqlite3_file
	id      uint64
}

const vfsName = "posthaste"

var (
	vfsBase    uintptr // the operating system's
	walMethods uintptr
)

var registerVFS = sync.OnceValue(func() error {
	tls := libc.NewTLS()
	defer tls.Close()
	if !raceDetector {
		arrangeMemory(tls)
	}
	if rc := lib.Xsqlite3_initialize(tls); rc != lib.SQLITE_OK {
		return fmt.Errorf("initialize SQLite: code %d", rc)
	}
	vfsBase = lib.Xsqlite3_vfs_find(tls, 0)
	name, err := libc.CString(vfsName)
	vfs := libc.Xcalloc(tls, 1, libc.Tsize_t(unsafe.Sizeof(lib.Tsqlite3_vfs{})))
	walMethods = libc.Xcalloc(tls, 1, libc.Tsize_t(unsafe.Sizeof(lib.Tsqlite3_io_methods{})))
	if vfsBase == 0 || err != nil || vfs == 0 || walMethods == 0 {
		return errors.New("no memory for file methods")
	}
	*at[lib.Tsqlite3_io_methods](walMethods) = lib.Tsqlite3_io_methods{
		FiVersion:               1,
		FxClose:                 pointer(walClose),
		FxRead:                  pointer(walRead),
		FxWrite:                 pointer(walWrite),
		FxTruncate:              pointer(walTruncate),
		FxSync:                  pointer(walSync),
		FxFileSize:              pointer(walFileSize),
		FxLock:                  pointer(walLock),
		FxUnlock:                pointer(walLock),
		FxCheckReservedLock:     pointer(walCheckReservedLock),
		FxFileControl:           pointer(walFileControl),
		FxSectorSize:            pointer(walSectorSize),
		FxDeviceCharacteristics: pointer(walDeviceCharacteristics),
	}
	v := at[lib.Tsqlite3_vfs](vfs)
	*v = *at[lib.Tsqlite3_vfs](vfsBase)
	v.FpNext, v.FzName, v.FxOpen = 0, name, pointer(vfsOpen)
	v.FszOsFile = max(v.FszOsFile, int32(unsafe.Sizeof(walHandle{})))
	if rc := lib.Xsqlite3_vfs_register(tls, vfs, 0); rc != lib.SQLITE_OK {
		return fmt.Errorf("register file methods: code %d", rc)
	}
	return nil
})

// arrangeMemory keeps SQLite from asking the operating system for memory all the time. The allocator takes blocks of one size
// from a page of 64 KiB, and unmaps a page as soon as no block of it is used. SQLite often takes a large block for a moment, the
// only one of its size, and each of these would cost the mapping, clearing and unmapping of a page: a sixth of the CPU of
// large commits. So of every size there are some pages of which one block is never given back, enough for what the connections
// keep and still some; and the pages of the database, which would use up these blocks and waste half of each, come from a pool
// of their own. It must come before SQLite is initialized, and what it cannot do it leaves.
func arrangeMemory(tls *libc.TLS) {
	const page, keptPages = 64 << 10, 8
	for size := 1 << 10; size <= page/4; size *= 2 {
		kept := make(map[uintptr]bool)
		var rest []uintptr
		for len(kept) < keptPages {
			p := libc.Xmalloc(tls, libc.Tsize_t(size))
			if p == 0 {
				break
			}
			if of := p &^ (page - 1); kept[of] {
				rest = append(rest, p)
			} else {
				kept[of] = true
			}
		}
		for _, p := range rest {
			libc.Xfree(tls, p)
		}
	}
	size := libc.Xcalloc(tls, 1, 8)
	if size == 0 {
		return
	}
	defer libc.Xfree(tls, size)
	if lib.Xsqlite3_config(tls, lib.SQLITE_CONFIG_PCACHE_HDRSZ, libc.NewVaList(size)) != lib.SQLITE_OK {
		return
	}
	slot := (pageSize + *at[int32](size) + 7) &^ 7
	if pool := libc.Xmalloc(tls, libc.Tsize_t(slot*poolPages)); pool != 0 {
		lib.Xsqlite3_config(tls, lib.SQLITE_CONFIG_PAGECACHE, libc.NewVaList(pool, slot, int32(poolPages)))
	}
}

// poolPages is how many pages of databases the pool holds: those of the writer and of four readers. Further ones come from
// the allocator.
const (
	writerPages = 1536
	readerPages = 120
	poolPages   = writerPages + 4*readerPages + 32
)

// at returns what stands in SQLite's memory at p.
func at[T any](p uintptr) *T {
	return (*T)(unsafe.Pointer(unsafe.SliceData(libc.GoBytes(p, int(unsafe.Sizeof(*new(T)))))))
}

// pointer returns a declared function as SQLite calls it: a function value is a pointer to where its code's address stands,
// and for declared functions that place never moves.
func pointer[F any](f F) uintptr {
	return *(*uintptr)(unsafe.Pointer(&struct{ f F }{f}))
}

type openFunc = func(tls *libc.TLS, vfs, name, file uintptr, flags int32, outFlags uintptr) int32

func vfsOpen(tls *libc.TLS, _, name, file uintptr, flags int32, outFlags uintptr) int32 {
	if flags&lib.SQLITE_OPEN_WAL == 0 {
		base := at[lib.Tsqlite3_vfs](vfsBase)
		open := *(*openFunc)(unsafe.Pointer(&struct{ uintptr }{base.FxOpen}))
		return open(tls, vfsBase, name, file, flags, outFlags)
	}
	h := at[walHandle](file)
	*h = walHandle{} // without methods SQLite does not close a file that failed to open
	key, err := libc.CString("engine")
	if err != nil {
		return lib.SQLITE_NOMEM
	}
	defer libc.Xfree(tls, key)
	walStates.RLock()
	state := walStates.m[lib.Xsqlite3_uri_int64(tls, name, key, 0)]
	walStates.RUnlock()
	if state == nil {
		return lib.SQLITE_CANTOPEN
	}
	path := libc.GoString(name)
	w := &walFile{state: state}
	mode := os.FileMode(0o600)
	if fi, err := os.Stat(path[:len(path)-len("-wal")]); err == nil {
		mode = fi.Mode().Perm() // who may read the data may read the WAL
	}
	if w.f, err = os.OpenFile(path, os.O_RDWR, 0); errors.Is(err, os.ErrNotExist) && flags&lib.SQLITE_OPEN_CREATE != 0 {
		w.fresh = true
		w.f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, mode)
	}
	if err != nil {
		return lib.SQLITE_CANTOPEN
	}
	if fi, err := w.f.Stat(); err == nil {
		w.size = fi.Size()
	}
	walFiles.Lock()
	walFiles.last++
	*h = walHandle{methods: walMethods, id: walFiles.last}
	walFiles.m[h.id] = w
	walFiles.Unlock()
	if outFlags != 0 {
		*at[int32](outFlags) = flags
	}
	return lib.SQLITE_OK
}

func openWAL(file uintptr) *walFile {
	walFiles.RLock()
	defer walFiles.RUnlock()
	return walFiles.m[at[walHandle](file).id]
}

// walStep is how much of the WAL is filled at a time.
const walStep = 1 << 20

var zeros [walStep / 4]byte

// fill writes zeros behind what is about to be written, when that would make the file longer. A sync of a file whose length
// and blocks stay as they are has no metadata to write, and takes half the time or less. To SQLite zeros are the end of the
// WAL, like any frame whose checksum is wrong. Nothing depends on the filling, so a failure of it is passed over.
func (w *walFile) fill() {
	end := w.at + int64(len(w.buf))
	if w.state.noSync || end <= w.size {
		return
	}
	for to := (end/walStep + 1) * walStep; end < to; {
		n, err := w.f.WriteAt(zeros[:min(int64(len(zeros)), to-end)], end)
		end += int64(n)
		if err != nil {
			break
		}
	}
	w.size = end
}

// flush writes what was gathered.
func (w *walFile) flush() int32 {
	if len(w.buf) == 0 {
		return lib.SQLITE_OK
	}
	w.fill()
	_, err := w.f.WriteAt(w.buf, w.at)
	w.buf = w.buf[:0]
	switch {
	case err == nil:
		return lib.SQLITE_OK
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return lib.SQLITE_FULL
	}
	return lib.SQLITE_IOERR_WRITE
}

func walClose(_ *libc.TLS, file uintptr) int32 {
	w := openWAL(file)
	rc := w.flush()
	walFiles.Lock()
	delete(walFiles.m, at[walHandle](file).id)
	walFiles.Unlock()
	at[walHandle](file).methods = 0
	if err := w.f.Close(); err != nil && rc == lib.SQLITE_OK {
		rc = lib.SQLITE_IOERR_CLOSE
	}
	return rc
}

func walRead(_ *libc.TLS, file, to uintptr, n int32, offset int64) int32 {
	w := openWAL(file)
	if rc := w.flush(); rc != lib.SQLITE_OK {
		return rc
	}
	b := libc.GoBytes(to, int(n))
	got, err := w.f.ReadAt(b, offset)
	switch {
	case err == nil:
		return lib.SQLITE_OK
	case errors.Is(err, io.EOF):
		clear(b[got:])
		return lib.SQLITE_IOERR_SHORT_READ
	}
	return lib.SQLITE_IOERR_READ
}

func walWrite(_ *libc.TLS, file, from uintptr, n int32, offset int64) int32 {
	w := openWAL(file)
	if len(w.buf) > 0 && (offset != w.at+int64(len(w.buf)) || len(w.buf)+int(n) > walBuffer) {
		if rc := w.flush(); rc != lib.SQLITE_OK {
			return rc
		}
	}
	if len(w.buf) == 0 {
		w.at = offset
	}
	w.buf = append(w.buf, libc.GoBytes(from, int(n))...)
	if end := offset + int64(n); offset == 0 || end > w.state.end.Load() {
		w.state.end.Store(end)
	}
	return lib.SQLITE_OK
}

func walTruncate(_ *libc.TLS, file uintptr, size int64) int32 {
	w := openWAL(file)
	if rc := w.flush(); rc != lib.SQLITE_OK {
		return rc
	}
	if err := w.f.Truncate(size); err != nil {
		return lib.SQLITE_IOERR_TRUNCATE
	}
	w.size = size
	return lib.SQLITE_OK
}

func walSync(_ *libc.TLS, file uintptr, _ int32) int32 {
	w := openWAL(file)
	if rc := w.flush(); rc != lib.SQLITE_OK {
		return rc
	}
	if w.state.noSync {
		return lib.SQLITE_OK
	}
	if err := syncData(w.f); err != nil {
		return lib.SQLITE_IOERR_FSYNC
	}
	if w.fresh {
		if err := syncDirectory(filepath.Dir(w.f.Name())); err != nil {
			return lib.SQLITE_IOERR_DIR_FSYNC
		}
		w.fresh = false
	}
	return lib.SQLITE_OK
}

func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func walFileSize(_ *libc.TLS, file, size uintptr) int32 {
	w := openWAL(file)
	if rc := w.flush(); rc != lib.SQLITE_OK {
		return rc
	}
	fi, err := w.f.Stat()
	if err != nil {
		return lib.SQLITE_IOERR_FSTAT
	}
	*at[int64](size) = fi.Size()
	return lib.SQLITE_OK
}

// walLock does nothing: the locks of a database are on its data file.
func walLock(*libc.TLS, uintptr, int32) int32 { return lib.SQLITE_OK }

func walCheckReservedLock(_ *libc.TLS, _, out uintptr) int32 {
	*at[int32](out) = 0
	return lib.SQLITE_OK
}

func walFileControl(*libc.TLS, uintptr, int32, uintptr) int32 { return lib.SQLITE_NOTFOUND }

func walSectorSize(*libc.TLS, uintptr) int32 { return 4096 }

// walDeviceCharacteristics says what SQLite assumes of every disk: a write that power cuts off leaves the bytes beside it alone.
func walDeviceCharacteristics(*libc.TLS, uintptr) int32 { return lib.SQLITE_IOCAP_POWERSAFE_OVERWRITE }
