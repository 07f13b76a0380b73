// Package lifecycle decides what an attempt leads to. [Settle] is a pure function of the message, the result and the moment;
// whoever persists what it returns does so in one transaction.
package lifecycle

import (
	"net/textproto"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/compose"
	"github.com/posthaste/posthaste/internal/retry"
)

// Result is what one HTTP attempt came to. A failed delivery is a result, not an error.
type Result struct {
	Outcome posthaste.Outcome
	Status  int    // of the answer; 0 if there was none
	Error   string // for people; empty on success
	Header  posthaste.Header
	Body    []byte
	Took    time.Duration
}

// Input is what [Settle] decides on.
type Input struct {
	Message   *posthaste.Message
	Number    int // of the attempt, 0 for the first
	StartedAt time.Time
	AtOnce    bool // the attempt began with the acceptance
	Result    *Result
	// Canceled says that a cancel was accepted while the attempt ran: a success still counts, a failure is the end, and
	// neither is reported.
	Canceled bool
	Now      time.Time
	Backoff  retry.Backoff
	DeadSeq  uint32 // makes the id of a dead letter, should there be one
}

// Settlement is what is to be recorded.
type Settlement struct {
	Attempt *posthaste.Attempt
	// Final says that the message is resolved. Otherwise its next attempt is due at Attempt.NextAt.
	Final     bool
	Dead      *posthaste.DeadLetter // of a message that FAILED
	Callbacks []compose.Draft       // to be accepted in the same transaction
}

// Settle decides. The states it can lead to are DELIVERED, RETRY, FAILED and CANCELED.
func Settle(in Input) Settlement {
	m, r := in.Message, in.Result
	a := &posthaste.Attempt{
		Tenant: m.Tenant, Message: m.ID, Number: in.Number, StartedAt: in.StartedAt, EndedAt: in.Now, Took: r.Took,
		Outcome: r.Outcome, Status: r.Status, Error: r.Error, Header: r.Header, Body: r.Body, AtOnce: in.AtOnce,
	}
	s := Settlement{Attempt: a, Final: true}
	switch {
	case r.Outcome == posthaste.OutcomeDelivered:
		a.State = posthaste.StateDelivered
	case in.Canceled:
		a.State = posthaste.StateCanceled
	case r.Outcome == posthaste.OutcomeNonRetryable || in.Number >= m.MaxRetries:
		a.State = posthaste.StateFailed
	default:
		a.State = posthaste.StateRetry
		a.NextAt = in.Now.Add(delay(in)).Truncate(time.Microsecond)
		s.Final = false
	}
	if in.Canceled {
		return s
	}
	if a.State == posthaste.StateFailed {
		s.Dead = &posthaste.DeadLetter{
			ID: posthaste.NewDeadLetterID(in.Now, in.DeadSeq), Tenant: m.Tenant, Message: m.ID, At: in.Now, Last: *a,
		}
	}
	if m.Callback != nil {
		s.Callbacks = append(s.Callbacks, compose.Callback(m.Callback, m, a, ""))
	}
	if m.FailureCallback != nil && s.Dead != nil {
		s.Callbacks = append(s.Callbacks, compose.Callback(m.FailureCallback, m, a, s.Dead.ID))
	}
	return s
}

// delay returns the wait before the next attempt.
func delay(in Input) time.Duration {
	p := retry.Policy{Backoff: in.Backoff}
	if in.Message.RetryDelay != "" {
		// It was checked at acceptance. Should it not compile any more, the backoff applies.
		if e, err := retry.Compile(in.Message.RetryDelay); err == nil {
			p.Expression = e
		}
	}
	get := func(name string) string {
		if v := in.Result.Header[textproto.CanonicalMIMEHeaderKey(name)]; len(v) > 0 {
			return v[0]
		}
		return ""
	}
	return p.Delay(in.Number+1, get, in.Now)
}
