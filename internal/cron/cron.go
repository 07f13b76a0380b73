// Package cron reads cron expressions and says when they fire.
//
// An expression has five fields (minute, hour, day of month, month, day of week) or is a descriptor (@hourly, @daily,
// @midnight, @weekly, @monthly, @yearly, @annually, @every <duration>), and may begin with CRON_TZ=<zone> or TZ=<zone>;
// without it the zone is UTC. If day of month and day of week are both restricted, a day that satisfies either counts.
//
// # Daylight saving time
//
// What happens when clocks change depends on what the expression is about:
//
//   - An hour field of * or */n (@hourly has the former) is about passing time: it fires at every real instant whose local
//     time matches. In spring the skipped hour does not fire, in autumn the repeated hour fires twice.
//   - Any other hour field is about the wall clock: each matching local time fires once. All times that a clock skips fire
//     together, once, at the moment after the gap; of a time that a clock shows twice, only the first counts. So a daily
//     report comes out every day, and once.
//   - @every is about elapsed time and knows no zone: it fires at multiples of its duration after its anchor.
//
// # Guarantees
//
//  1. Next returns an instant strictly after the one given, and skips none; calling it again with its own result yields
//     every instant once, in order.
//  2. For an expression that never fires, such as one for 30 February, Next gives up after bounded work.
//  3. No text makes Parse panic.
//
// The package reads no clock. It reads the time zone database wherever package time finds it.
package cron

import "time"

// Schedule is a parsed expression. It is immutable and may be used by several goroutines at once. The zero Schedule never
// fires.
type Schedule struct {
	// Either every is set, at least a second and whole seconds, with the anchor it counts from,
	every  time.Duration
	anchor time.Time

	// or loc is set, with the fields as bit sets: bit n says that the value n matches.
	loc                           *time.Location
	minute, hour, dom, month, dow uint64
	domStar, dowStar              bool // the field restricts nothing, so the other one decides alone
	realTime                      bool // fires by passing time, not by the wall clock
}

// WithAnchor returns a copy of s that counts from the given moment, if s is an @every schedule: the first firing is one
// duration after the anchor, none is before. Without an anchor it counts from the beginning of 1970, UTC. Other schedules
// have no use for an anchor and are returned as they are.
func (s Schedule) WithAnchor(anchor time.Time) Schedule {
	if s.every > 0 {
		s.anchor = anchor
	}
	return s
}

// Location returns the time zone of the expression: UTC if it names none, and for @every.
func (s Schedule) Location() *time.Location {
	if s.loc == nil {
		return time.UTC
	}
	return s.loc
}
