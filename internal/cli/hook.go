//go:build !crash

package cli

// testHook returns nil: only builds for crash tests have hooks.
func testHook() func(string) { return nil }
