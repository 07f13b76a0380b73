//go:build !unix

package posthastetest_test

import "time"

func cpu() (time.Duration, bool) { return 0, false }
