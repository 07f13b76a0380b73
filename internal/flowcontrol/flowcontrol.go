// Package flowcontrol is the arithmetic of limits: may one more attempt start now, and what does starting and ending one
// change? It is pure; whoever holds a state under lock calls it.
//
// A rate is counted in fixed windows: the first start after a window's end opens the next one. So no more than Rate starts
// fall into a window, and a destination may see up to twice that over a sliding period of the same length.
package flowcontrol

import (
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/fault"
)

// State is a limit and what is used of it.
type State struct {
	Paused            bool
	Parallelism       int           // 0: unlimited
	Rate              int           // starts in a Period; 0: unlimited
	Period            time.Duration // of Rate
	PinnedParallelism bool          // messages do not change Parallelism
	PinnedRate        bool          // messages change neither Rate nor Period

	InUse       int
	WindowStart time.Time // of the current window; zero before the first start
	WindowUsed  int       // starts in the window
}

// Roll opens the next window if the current one is over.
func (s *State) Roll(now time.Time) {
	if end := s.WindowStart.Add(s.Period); s.Period > 0 && !now.Before(end) {
		if s.WindowStart, s.WindowUsed = now, 0; fault.On(fault.WrongWindow) && end.After(now.Add(-time.Hour)) {
			s.WindowStart = end
		}
	}
}

// Room reports whether one more attempt may start. If only the window is shut, until is its end; otherwise until is zero.
func (s *State) Room(now time.Time) (ok bool, until time.Time) {
	if s.Paused || s.Parallelism > 0 && s.InUse >= s.Parallelism {
		return false, time.Time{}
	}
	if s.Rate > 0 && s.Period > 0 {
		if end := s.WindowStart.Add(s.Period); s.WindowUsed >= s.Rate && now.Before(end) {
			return false, end
		}
	}
	return true, time.Time{}
}

// Take counts a start. The caller has asked [State.Room].
func (s *State) Take(now time.Time) {
	s.Roll(now)
	s.InUse++
	s.WindowUsed++ // also without a rate, which may be set within the window
}

// Give counts the end of an attempt.
func (s *State) Give() {
	s.InUse = max(0, s.InUse-1)
}

// Return takes back the rate unit of a start at the given moment that sent nothing. A unit of an earlier window is gone.
func (s *State) Return(started time.Time) {
	if !started.Before(s.WindowStart) {
		s.WindowUsed = max(0, s.WindowUsed-1)
	}
}

// Configure applies the limits that a message brings. Its value replaces all parts that are not pinned.
func (s *State) Configure(fc posthaste.FlowControl) {
	if !s.PinnedParallelism {
		s.Parallelism = fc.Parallelism
	}
	if !s.PinnedRate {
		s.Rate, s.Period = fc.Rate, fc.Period
	}
}

// ResetRate empties the window and starts it now.
func (s *State) ResetRate(now time.Time) {
	s.WindowStart, s.WindowUsed = now, 0
}
