// Package fault plants known faults in the server, so that tests can show that they would find them. A program built without
// the tag fault holds none: [On] is then a constant.
package fault

// Fault is a fault that can be planted.
type Fault int32

// The faults.
const (
	None        Fault = iota
	EarlySlot         // a queue's slot is given back although callbacks of its message are unfinished
	WrongWindow       // a start is counted in the window after the last one, which may be long over
	SkipWaiting       // the second in a wait list is promoted in place of the first
	DoubleTick        // a tick fires twice
	LostCancel        // a cancel of a message in flight is confirmed and forgotten
	NoFence           // a settlement applies whoever holds the claim now
)
