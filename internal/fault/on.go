//go:build fault

package fault

import "sync/atomic"

var planted atomic.Int32

// Plant plants a fault in place of the one planted before.
func Plant(f Fault) { planted.Store(int32(f)) }

// On reports whether a fault is planted.
func On(f Fault) bool { return planted.Load() == int32(f) }
