package retry

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Names of the backoffs that need no list.
const (
	standardName = "standard"
	hostedName   = "hosted"
)

// standardSteps are the waits of the standard backoff: quick enough for a restart of the destination, and after an hour
// and a half at a steady pace.
var standardSteps = []time.Duration{10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute}

// maxSteps bounds a configured list.
const maxSteps = 100

// Backoff is the wait before each retry of a message that does not choose its own. The zero value is the standard
// backoff. A Backoff is immutable.
type Backoff struct {
	hosted bool
	steps  []time.Duration // never empty but for the two named backoffs; each in [0, MaxDelay]
}

// Standard returns the default backoff: 10 s, 30 s, 1 m, 5 m, 30 m, and 30 m from then on.
func Standard() Backoff { return Backoff{} }

// Hosted returns the backoff of the hosted service: e^(2.5 n) seconds before retry n, at most a day.
func Hosted() Backoff { return Backoff{hosted: true} }

// ParseBackoff reads a backoff from a configuration: standard, hosted, or a comma-separated list of durations like
// 1s,10s,1m, of which the last one repeats. Blanks around the durations are allowed.
func ParseBackoff(s string) (Backoff, error) {
	switch s = strings.TrimSpace(s); s {
	case "":
		return Backoff{}, errors.New("empty backoff: want standard, hosted or a list of durations like 10s,1m")
	case standardName:
		return Standard(), nil
	case hostedName:
		return Hosted(), nil
	}
	parts := strings.Split(s, ",")
	if len(parts) > maxSteps {
		return Backoff{}, fmt.Errorf("backoff has %d durations, at most %d are allowed", len(parts), maxSteps)
	}
	steps := make([]time.Duration, len(parts))
	for i, part := range parts {
		d, err := time.ParseDuration(strings.TrimSpace(part))
		if err != nil {
			return Backoff{}, fmt.Errorf("backoff is neither standard, hosted nor a list of durations like 10s,1m: %w", err)
		}
		if d < 0 || d > MaxDelay {
			return Backoff{}, fmt.Errorf("backoff duration %q is not between 0s and 24h", strings.TrimSpace(part))
		}
		steps[i] = d
	}
	return Backoff{steps: steps}, nil
}

// Delay returns the wait before retry n, which is 1 for the first retry; a smaller n counts as 1.
func (b Backoff) Delay(n int) time.Duration {
	n = max(n, 1)
	if b.hosted {
		// The formula is the hosted service's: min(86400, e^(2.5n)) seconds.
		if s := math.Exp(2.5 * float64(n)); s < MaxDelay.Seconds() {
			return time.Duration(s * float64(time.Second)).Round(time.Millisecond)
		}
		return MaxDelay
	}
	steps := b.steps
	if len(steps) == 0 {
		steps = standardSteps
	}
	return steps[min(n, len(steps))-1]
}

// String returns the backoff in a form that [ParseBackoff] reads.
func (b Backoff) String() string {
	if b.hosted {
		return hostedName
	}
	if len(b.steps) == 0 {
		return standardName
	}
	parts := make([]string, len(b.steps))
	for i, d := range b.steps {
		parts[i] = d.String()
	}
	return strings.Join(parts, ",")
}

// Equal reports whether the two wait equally long before every retry and are spelled alike.
func (b Backoff) Equal(c Backoff) bool {
	return b.hosted == c.hosted && slices.Equal(b.steps, c.steps)
}

// MarshalText implements [encoding.TextMarshaler], as String.
func (b Backoff) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler], as [ParseBackoff].
func (b *Backoff) UnmarshalText(text []byte) error {
	c, err := ParseBackoff(string(text))
	if err != nil {
		return err
	}
	*b = c
	return nil
}
