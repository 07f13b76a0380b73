package broker

import (
	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/wire"
)

// DeadCursor spells the position behind a dead letter.
func DeadCursor(id posthaste.DeadLetterID) string { return deadCursor(id) }

// DeadStart returns the id behind which a page begins.
func DeadStart(f wire.DeadFilter) (posthaste.DeadLetterID, error) { return deadStart(f) }

// Smaller returns the smaller of two limits, of which zero means none.
func Smaller(a, b int) int { return smaller(a, b) }
