//go:build !fault

package fault

// On reports whether a fault is planted.
func On(Fault) bool { return false }
