//go:build unix

package proc

import (
	"syscall"
	"time"
)

// SelfCPU is the user and system time of this process, without its children.
func SelfCPU() time.Duration {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		return -1
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
