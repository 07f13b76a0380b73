//go:build unix

package posthastetest_test

import (
	"syscall"
	"time"
)

// cpu returns the processor time that this process has taken.
func cpu() (time.Duration, bool) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, false
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), true
}
