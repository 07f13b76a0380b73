//go:build crash

package cli

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// testHook kills the process at the point, and there at the visit, that POSTHASTE_CRASH_AT names: "point:visit".
func testHook() func(string) {
	point, visit, ok := strings.Cut(os.Getenv("POSTHASTE_CRASH_AT"), ":")
	if !ok {
		return nil
	}
	n, err := strconv.ParseInt(visit, 10, 64)
	if err != nil {
		return nil
	}
	var seen atomic.Int64
	return func(p string) {
		if p == point && seen.Add(1) == n {
			syscall.Kill(os.Getpid(), syscall.SIGKILL) //nolint:errcheck // it does not come back
			select {}
		}
	}
}
