// Package retry says how long a message waits before its next attempt.
//
// Three rules apply, the first that has an answer wins:
//
//  1. what the destination asked for in a response header ([After]);
//  2. the expression of the message ([Expression], the header Upstash-Retry-Delay);
//  3. the backoff of the server ([Backoff]).
//
// Every delay this package returns is between zero and [MaxDelay], whatever a destination, a publisher or a
// configuration says, and no input makes it panic. There is no jitter: a caller and a test can predict every attempt.
// Whether there is a next attempt at all is not decided here.
package retry

import "time"

// MaxDelay is the longest wait before a retry. A response header that asks for more is ignored, an expression that
// results in more is capped, a backoff that contains more is refused.
const MaxDelay = 24 * time.Hour

// Policy is the part of the answer that is known before the attempt: what the publisher and the operator want.
// The zero Policy waits as the standard backoff says.
type Policy struct {
	// Expression is the publisher's, nil if the message has none.
	Expression *Expression
	// Backoff applies to messages without an expression.
	Backoff Backoff
}

// Delay returns the wait before retry n, which is 1 for the first retry of a message; a smaller n counts as 1.
// The header function returns the first value of a header of the failed attempt's response, as the Get method of an
// HTTP header does; it is nil if there was no response.
func (p Policy) Delay(n int, header func(name string) string, now time.Time) time.Duration {
	n = max(n, 1)
	if header != nil {
		if d, ok := After(header, now); ok {
			return d
		}
	}
	if p.Expression != nil {
		return p.Expression.Delay(n - 1)
	}
	return p.Backoff.Delay(n)
}
