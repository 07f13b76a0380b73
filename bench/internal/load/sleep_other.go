//go:build !linux

package load

import "time"

// sleeper sleeps for at most 100 ms at a time, so that the end of a context is noticed.
type sleeper struct{}

func newSleeper() sleeper { return sleeper{} }

func (sleeper) sleep(d time.Duration) { time.Sleep(min(d, 100*time.Millisecond)) }

func (sleeper) close() {}
