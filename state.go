package posthaste

import "time"

// Phase is where an unresolved message stands. A resolved message has no ticket and no phase.
type Phase uint8

// The phases. docs/states.md draws the moves between them.
const (
	PhaseNone    Phase = iota
	PhaseDelayed       // waits for its moment: not before, a delay, or the next retry; the due index finds it
	PhaseReady         // due, and holds nothing but perhaps its queue's slot; the due index finds it
	PhaseWaiting       // due, and parked at one gate until there is room
	PhaseClaimed       // a node makes an attempt
)

// String returns the phase's name.
func (p Phase) String() string {
	switch p {
	case PhaseNone:
		return "none"
	case PhaseDelayed:
		return "delayed"
	case PhaseReady:
		return "ready"
	case PhaseWaiting:
		return "waiting"
	case PhaseClaimed:
		return "claimed"
	}
	return "unknown"
}

// LogState is the state a log entry reports.
type LogState string

// The states, as the API spells them.
const (
	StateCreated         LogState = "CREATED"          // accepted
	StateActive          LogState = "ACTIVE"           // an attempt starts
	StateDelivered       LogState = "DELIVERED"        // a 2xx answer; final
	StateError           LogState = "ERROR"            // an attempt failed
	StateRetry           LogState = "RETRY"            // after ERROR, when another attempt follows
	StateFailed          LogState = "FAILED"           // after the last ERROR; final, and in the dead letter queue
	StateCancelRequested LogState = "CANCEL_REQUESTED" // a cancel was accepted
	StateCanceled        LogState = "CANCELED"         // a cancel was honoured; final
)

// LogEntry is one transition of a message.
type LogEntry struct {
	At      time.Time
	Message *Message
	State   LogState
	Attempt *Attempt // of ERROR, RETRY, FAILED, DELIVERED
	NextAt  time.Time
	Number  int // of the attempt
}
