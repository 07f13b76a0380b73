package load

import (
	"runtime"
	"syscall"
	"time"
)

// sleeper sleeps more exactly than a timer of the runtime, whose grain is a millisecond when the process is idle. It
// belongs to one goroutine, which keeps its thread.
type sleeper struct{}

func newSleeper() sleeper {
	runtime.LockOSThread()
	return sleeper{}
}

func (sleeper) sleep(d time.Duration) {
	// The longest piece bounds how late the end of a context is noticed.
	ts := syscall.NsecToTimespec(int64(min(d, 100*time.Millisecond)))
	_ = syscall.Nanosleep(&ts, nil)
}

func (sleeper) close() { runtime.UnlockOSThread() }
