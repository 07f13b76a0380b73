package clock

import "time"

// MaxSleep is maxSleep.
const MaxSleep = maxSleep

// Leap moves the clock without waking anyone, as the system's clock does when it is set or the machine was asleep.
func (c *Clock) Leap(d time.Duration) { c.offset.Add(int64(d)) }
