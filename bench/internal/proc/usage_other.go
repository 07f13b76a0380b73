//go:build unix && !linux

package proc

import "time"

// Of knows nothing on this system.
func Of(...int) (Usage, error) { return Unknown, nil }

// Busy knows nothing on this system.
func Busy() time.Duration { return -1 }
