// Package clock is the one source of time for whatever decides: real time, that of this machine or of a database, plus an offset
// that a user of the development server may move.
//
// These hold:
//
//  1. Now is in UTC, in whole microseconds, as the stores keep it, so a moment that went through a store still equals
//     itself.
//  2. A wait ends only when Now has reached its moment, also if the system's clock was set back meanwhile.
//  3. A wait whose moment [Clock.Advance] passes ends at once. One whose moment the system's clock passes in a leap,
//     because it was set forward or the machine was asleep, ends within [maxSleep].
//
// Leases, signatures and HTTP timeouts are about the real world and use package time.
package clock

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// maxSleep bounds how long a timer trusts the runtime, which counts elapsed time and knows nothing of leaps of the
// system's clock.
const maxSleep = 30 * time.Second

// Clock tells the time and wakes who waits for a moment. The zero value shows real time. It must not be copied.
type Clock struct {
	skew   func() time.Duration // added to real time, too; nil: none
	offset atomic.Int64         // nanoseconds added to real time; only grows, and only under mu

	// mu is held while a timer looks at the offset to arm itself, so that Advance misses none.
	mu    sync.Mutex
	armed map[*Timer]struct{}
}

// New returns a clock that shows real time.
func New() *Clock { return new(Clock) }

// Following returns a clock that is ahead of this machine's by what skew returns, which may change, and become less.
func Following(skew func() time.Duration) *Clock { return &Clock{skew: skew} }

// Now returns the time in UTC, truncated to a microsecond, without a monotonic reading.
func (c *Clock) Now() time.Time {
	now := time.Now()
	if c.skew != nil {
		now = now.Add(c.skew())
	}
	return now.Add(time.Duration(c.offset.Load())).Truncate(time.Microsecond).UTC()
}

// Until returns how long it is until t. It is zero or less exactly if Now has reached t.
func (c *Clock) Until(t time.Time) time.Duration { return t.Sub(c.Now()) }

// Offset returns how far the clock is ahead of real time.
func (c *Clock) Offset() time.Duration { return time.Duration(c.offset.Load()) }

// Advance moves the clock forward by d, ends every wait whose moment has come, and returns the new time. It panics if d
// is negative: decisions were made on the time shown.
func (c *Clock) Advance(d time.Duration) time.Time {
	if d < 0 {
		panic("clock: advance by a negative duration")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.offset.Load(); int64(d) > math.MaxInt64-now {
		c.offset.Store(math.MaxInt64)
	} else {
		c.offset.Store(now + int64(d))
	}
	for t := range c.armed {
		t.runtime.Reset(t.sleep())
	}
	return c.Now()
}

// Wait blocks until the clock has reached t, and returns nil, or until ctx is done, and returns its cause.
func (c *Clock) Wait(ctx context.Context, t time.Time) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if c.Until(t) <= 0 {
		return nil
	}
	timer := c.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Timer fires once the clock has reached a moment.
type Timer struct {
	// C receives the time when the timer fires. It is nil for a timer made by AfterFunc. After Stop or Reset it holds
	// nothing of before.
	C <-chan time.Time

	clock *Clock
	c     chan time.Time // C, for sending; its room for one value is never waited for
	f     func()

	// Under clock.mu. The timer is armed exactly while it is in clock.armed.
	at      time.Time
	runtime *time.Timer
}

// NewTimer returns a timer that sends on its channel once the clock has reached at.
func (c *Clock) NewTimer(at time.Time) *Timer {
	ch := make(chan time.Time, 1)
	t := &Timer{C: ch, clock: c, c: ch}
	t.Reset(at)
	return t
}

// AfterFunc calls f in a goroutine of its own once the clock has reached at. As with [time.AfterFunc], Stop does not wait
// for an f that has started.
func (c *Clock) AfterFunc(at time.Time, f func()) *Timer {
	t := &Timer{clock: c, f: f}
	t.Reset(at)
	return t
}

// Reset arms the timer for another moment, and reports whether it was armed. A value that the channel held is gone.
func (t *Timer) Reset(at time.Time) bool {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	was := t.disarm()
	t.at = at
	if t.clock.armed == nil {
		t.clock.armed = make(map[*Timer]struct{})
	}
	t.clock.armed[t] = struct{}{}
	if t.runtime == nil {
		t.runtime = time.AfterFunc(t.sleep(), t.wake)
	} else {
		t.runtime.Reset(t.sleep())
	}
	return was
}

// Stop disarms the timer, and reports whether it was armed. A value that the channel held is gone.
func (t *Timer) Stop() bool {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	t.runtime.Stop()
	return t.disarm()
}

// disarm requires clock.mu.
func (t *Timer) disarm() bool {
	_, was := t.clock.armed[t]
	delete(t.clock.armed, t)
	select {
	case <-t.c:
	default:
	}
	return was
}

// sleep is how long the runtime's timer shall run. It requires clock.mu.
func (t *Timer) sleep() time.Duration {
	return min(max(t.clock.Until(t.at), 0), maxSleep)
}

// wake runs in a goroutine of the runtime's timer.
func (t *Timer) wake() {
	if t.fire() && t.f != nil {
		t.f()
	}
}

// fire disarms the timer if its moment has come. The runtime may wake it too early, or for a moment that was given up or
// replaced since, so it believes only what it finds under the lock.
func (t *Timer) fire() bool {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	if _, ok := t.clock.armed[t]; !ok {
		return false
	}
	if t.clock.Until(t.at) > 0 {
		t.runtime.Reset(t.sleep())
		return false
	}
	delete(t.clock.armed, t)
	if t.c != nil {
		t.c <- t.clock.Now() // there is room: the channel was emptied when the timer was armed
	}
	return true
}
