package cron

import (
	"math/bits"
	"time"
)

const (
	// searchYears is how far ahead a match is looked for. Dates are at most eight years apart: 29 February of 1896 and of
	// 1904, or of 2096 and of 2104.
	searchYears = 16
	// maxYear is the last year in which anything fires; later ones have no spelling in most formats.
	maxYear = 9999
	// lookBack is more than any clock was ever put back, which is a day: Alaska in 1867, Kwajalein in 1969.
	lookBack = 48 * 60 * 60
)

// Next returns the first instant after t at which s fires, in the zone of s. It returns the zero time if no date matches in
// the 16 years from t, or none before the year 10000.
func (s Schedule) Next(t time.Time) time.Time {
	if y := t.Year(); y < 0 || y > maxYear {
		return time.Time{}
	}
	if s.every > 0 {
		return s.nextEvery(t)
	}
	if s.loc == nil {
		return time.Time{}
	}
	next := s.nextByWall
	if s.realTime {
		next = s.nextByTime
	}
	// Everything fires at whole seconds, so the fraction of t does not matter.
	sec, ok := next(t.Unix())
	if !ok {
		return time.Time{}
	}
	return time.Unix(sec, 0).In(s.loc)
}

// NextN returns the first n instants after t at which s fires, or fewer if there are no more.
func (s Schedule) NextN(t time.Time, n int) []time.Time {
	var all []time.Time
	for range n {
		if t = s.Next(t); t.IsZero() {
			break
		}
		all = append(all, t)
	}
	return all
}

// nextEvery returns the first anchor + n·every after t, for n ≥ 1.
func (s Schedule) nextEvery(t time.Time) time.Time {
	// The whole seconds from the anchor to t, rounded down. A Duration would end after 292 years.
	since := t.Unix() - s.anchor.Unix()
	if t.Nanosecond() < s.anchor.Nanosecond() {
		since--
	}
	every := int64(s.every / time.Second)
	n := int64(1)
	if since > 0 {
		n += since / every
	}
	next := time.Unix(s.anchor.Unix()+n*every, int64(s.anchor.Nanosecond())).UTC()
	if next.Year() > maxYear {
		return time.Time{}
	}
	return next
}

// Below, real time is in seconds since 1970 UTC, and wall time is what the clocks of the zone show, in the same form: real
// time plus the offset in force.

// nextByTime returns the first real time after sec whose wall time matches.
func (s *Schedule) nextByTime(sec int64) (int64, bool) {
	from := sec + 1
	for {
		sp := spanAt(s.loc, from)
		wall, ok := s.match(from + sp.offset)
		if !ok {
			return 0, false
		}
		if at := wall - sp.offset; at < sp.end {
			return at, true
		}
		from = sp.end
	}
}

// nextByWall returns the first real time after sec at which the clocks reach a matching wall time that they have not
// reached before. Reaching means to show it or to jump over it; so a skipped time fires at the end of the gap, and a
// repeated one fires the first time.
func (s *Schedule) nextByWall(sec int64) (int64, bool) {
	// Every wall time below peak was reached in a span that ended by now, so that clocks put back show it again at most.
	sp := spanAt(s.loc, sec-lookBack)
	peak := sp.offset + sec - lookBack
	for sp.end <= sec {
		peak = max(peak, sp.end+sp.offset)
		sp = spanAt(s.loc, sp.end)
	}
	wall, ok := s.match(max(peak, sec+1+sp.offset))
	if !ok {
		return 0, false
	}
	start := sec + 1
	for sp.end+sp.offset <= wall {
		start = sp.end
		sp = spanAt(s.loc, start)
	}
	return max(wall-sp.offset, start), true
}

// span is a stretch of real time during which a zone's offset is constant. It ends before end; spans need not be maximal.
type span struct {
	offset, end int64
}

// spanAt returns a span that contains sec.
func spanAt(loc *time.Location, sec int64) span {
	const (
		forever = 1 << 60
		quarter = 15 * 60
	)
	t := time.Unix(sec, 0).In(loc)
	_, offset := t.Zone()
	sp := span{offset: int64(offset), end: forever}
	if _, end := t.ZoneBounds(); !end.IsZero() {
		sp.end = end.Unix()
	}
	if sp.end <= sec {
		// ZoneBounds counts 365 days to the end of every year, so on the last day of a leap year the end it reports is
		// past. The next quarter of an hour is a safe one: zones change their offset at no other time.
		sp.end = (sec/quarter + 1) * quarter
	}
	return sp
}

// match returns the first whole minute of wall time from wall on that matches all fields.
func (s *Schedule) match(wall int64) (int64, bool) {
	const minute = 60
	t := time.Unix(wall, 0).UTC()
	if t.Second() > 0 {
		t = t.Add(time.Duration(minute-t.Second()) * time.Second)
	}
	year, month, day := t.Date()
	h, m := t.Hour(), t.Minute()
	for last := min(year+searchYears, maxYear); year <= last; year++ {
		for ; month <= time.December; month++ {
			if s.month>>month&1 != 0 {
				days := time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC).Day()
				weekday := time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Weekday()
				for ; day <= days; day++ {
					if s.matchDay(day, weekday) {
						if h, m, ok := s.matchClock(h, m); ok {
							return time.Date(year, month, day, h, m, 0, 0, time.UTC).Unix(), true
						}
					}
					h, m = 0, 0
					weekday = (weekday + 1) % 7
				}
			}
			day, h, m = 1, 0, 0
		}
		month = time.January
	}
	return 0, false
}

func (s *Schedule) matchDay(day int, weekday time.Weekday) bool {
	dom, dow := s.dom>>day&1 != 0, s.dow>>weekday&1 != 0
	if s.domStar || s.dowStar {
		return dom && dow
	}
	return dom || dow
}

// matchClock returns the first matching time of a day from h:m on.
func (s *Schedule) matchClock(h, m int) (hour, minute int, ok bool) {
	if s.hour>>h&1 != 0 {
		if minute, ok := nextBit(s.minute, m); ok {
			return h, minute, true
		}
	}
	hour, ok = nextBit(s.hour, h+1)
	minute, _ = nextBit(s.minute, 0)
	return hour, minute, ok
}

// nextBit returns the lowest set bit of the set from the given one on.
func nextBit(set uint64, from int) (int, bool) {
	set = set >> from << from
	return bits.TrailingZeros64(set), set != 0
}
