package cron_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/posthaste/posthaste/internal/cron"
)

func mustLoad(tb testing.TB, zone string) *time.Location {
	tb.Helper()
	loc, err := time.LoadLocation(zone)
	if err != nil {
		tb.Fatal(err)
	}
	return loc
}

func TestNext(t *testing.T) {
	tests := []struct {
		spec  string
		after string // UTC
		want  []string
	}{
		{"* * * * *", "2026-03-04 05:06:07", []string{"2026-03-04 05:07:00 +00", "2026-03-04 05:08:00 +00"}},
		{"* * * * *", "2026-03-04 05:06:00", []string{"2026-03-04 05:07:00 +00"}},
		{"* * * * *", "2026-12-31 23:59:59", []string{"2027-01-01 00:00:00 +00"}},
		{"*/15 9-10 * * *", "2026-03-04 10:31:00", []string{"2026-03-04 10:45:00 +00", "2026-03-05 09:00:00 +00"}},
		{"30 4 1,15 * *", "2026-03-04 00:00:00", []string{"2026-03-15 04:30:00 +00", "2026-04-01 04:30:00 +00"}},
		{"0 0 31 * *", "2026-03-31 00:00:00", []string{"2026-05-31 00:00:00 +00", "2026-07-31 00:00:00 +00"}},
		{"0 0 13 * FRI", "2026-03-04 00:00:00", []string{"2026-03-06 00:00:00 +00", "2026-03-13 00:00:00 +00", "2026-03-20 00:00:00 +00"}},
		{"0 0 10 * MON", "2026-03-04 00:00:00", []string{"2026-03-09 00:00:00 +00", "2026-03-10 00:00:00 +00", "2026-03-16 00:00:00 +00"}},
		{"0 0 29 2 *", "2026-03-04 00:00:00", []string{"2028-02-29 00:00:00 +00", "2032-02-29 00:00:00 +00"}},
		{"0 0 29 2 *", "2096-03-01 00:00:00", []string{"2104-02-29 00:00:00 +00"}},
		{"* * 29 2 *", "2096-03-01 00:00:00", []string{"2104-02-29 00:00:00 +00", "2104-02-29 00:01:00 +00"}},
		{"0 0 30 2 *", "2026-03-04 00:00:00", nil},
		{"* * 31 4,6,9,11 *", "2026-03-04 00:00:00", nil},
		{"0 0 30 2 SUN", "2026-01-30 00:00:00", []string{"2026-02-01 00:00:00 +00"}}, // either day will do
		{"59 23 31 12 *", "9999-12-31 23:58:00", []string{"9999-12-31 23:59:00 +00"}},
		{"* * * * *", "9999-12-31 23:58:00", []string{"9999-12-31 23:59:00 +00"}},
		{"0 0 1 1 *", "0001-01-01 00:00:00", []string{"0002-01-01 00:00:00 +00"}},
		{"0 0 1 1 *", "1969-12-31 23:59:59", []string{"1970-01-01 00:00:00 +00"}},

		// New York: 2026-03-08 at 02:00 EST (07:00 UTC) to 03:00 EDT, 2026-11-01 at 02:00 EDT (06:00 UTC) to 01:00 EST.
		{"CRON_TZ=America/New_York 30 2 * * *", "2026-03-07 00:00:00", []string{"2026-03-07 02:30:00 -05", "2026-03-08 03:00:00 -04", "2026-03-09 02:30:00 -04"}},
		{"CRON_TZ=America/New_York 30 2 * * *", "2026-03-08 06:59:59", []string{"2026-03-08 03:00:00 -04", "2026-03-09 02:30:00 -04"}},
		{"CRON_TZ=America/New_York 30 2 * * *", "2026-03-08 07:00:00", []string{"2026-03-09 02:30:00 -04"}},
		{"CRON_TZ=America/New_York 0 3 * * *", "2026-03-08 06:00:00", []string{"2026-03-08 03:00:00 -04", "2026-03-09 03:00:00 -04"}},
		{"CRON_TZ=America/New_York */15 2,3 * * *", "2026-03-08 06:00:00", []string{"2026-03-08 03:00:00 -04", "2026-03-08 03:15:00 -04", "2026-03-08 03:30:00 -04"}},
		{"CRON_TZ=America/New_York */20 1-2 * * *", "2026-03-08 06:39:00", []string{"2026-03-08 01:40:00 -05", "2026-03-08 03:00:00 -04", "2026-03-09 01:00:00 -04"}},
		{"CRON_TZ=America/New_York 30 * * * *", "2026-03-08 06:00:00", []string{"2026-03-08 01:30:00 -05", "2026-03-08 03:30:00 -04", "2026-03-08 04:30:00 -04"}},
		{"CRON_TZ=America/New_York 0 */2 * * *", "2026-03-08 05:00:00", []string{"2026-03-08 04:00:00 -04", "2026-03-08 06:00:00 -04"}},
		{"CRON_TZ=America/New_York 0 0-23/2 * * *", "2026-03-08 05:00:00", []string{"2026-03-08 03:00:00 -04", "2026-03-08 04:00:00 -04"}},
		{"CRON_TZ=America/New_York 0 0-23 * * *", "2026-03-08 06:00:00", []string{"2026-03-08 03:00:00 -04", "2026-03-08 04:00:00 -04"}},
		{"CRON_TZ=America/New_York 30 1 * * *", "2026-11-01 00:00:00", []string{"2026-11-01 01:30:00 -04", "2026-11-02 01:30:00 -05"}},
		{"CRON_TZ=America/New_York 30 1 * * *", "2026-11-01 06:10:00", []string{"2026-11-02 01:30:00 -05"}},
		{"CRON_TZ=America/New_York */20 1-2 * * *", "2026-11-01 05:30:00", []string{"2026-11-01 01:40:00 -04", "2026-11-01 02:00:00 -05", "2026-11-01 02:20:00 -05"}},
		{"CRON_TZ=America/New_York 30 * * * *", "2026-11-01 05:00:00", []string{"2026-11-01 01:30:00 -04", "2026-11-01 01:30:00 -05", "2026-11-01 02:30:00 -05"}},
		{"CRON_TZ=America/New_York @hourly", "2026-11-01 04:59:00", []string{"2026-11-01 01:00:00 -04", "2026-11-01 01:00:00 -05", "2026-11-01 02:00:00 -05"}},
		{"CRON_TZ=America/New_York 0 0-23 * * *", "2026-11-01 04:59:00", []string{"2026-11-01 01:00:00 -04", "2026-11-01 02:00:00 -05"}},
		{"CRON_TZ=America/New_York @daily", "2026-10-31 12:00:00", []string{"2026-11-01 00:00:00 -04", "2026-11-02 00:00:00 -05"}},

		// London: 2026-03-29 at 01:00 GMT to 02:00 BST, 2026-10-25 at 02:00 BST (01:00 UTC) to 01:00 GMT.
		{"CRON_TZ=Europe/London 30 1 * * *", "2026-03-28 12:00:00", []string{"2026-03-29 02:00:00 +01", "2026-03-30 01:30:00 +01"}},
		{"CRON_TZ=Europe/London 30 * * * *", "2026-03-29 00:00:00", []string{"2026-03-29 00:30:00 +00", "2026-03-29 02:30:00 +01"}},
		{"CRON_TZ=Europe/London 30 1 * * *", "2026-10-24 12:00:00", []string{"2026-10-25 01:30:00 +01", "2026-10-26 01:30:00 +00"}},
		{"CRON_TZ=Europe/London 30 * * * *", "2026-10-25 00:00:00", []string{"2026-10-25 01:30:00 +01", "2026-10-25 01:30:00 +00", "2026-10-25 02:30:00 +00"}},

		// Lord Howe moves by half an hour: 2026-10-04 at 02:00 +10:30 (2026-10-03 15:30 UTC) to 02:30 +11,
		// 2026-04-05 at 02:00 +11 (2026-04-04 15:00 UTC) to 01:30 +10:30.
		{"CRON_TZ=Australia/Lord_Howe 15 2 * * *", "2026-10-03 00:00:00", []string{"2026-10-04 02:30:00 +11", "2026-10-05 02:15:00 +11"}},
		{"CRON_TZ=Australia/Lord_Howe 45 2 * * *", "2026-10-03 00:00:00", []string{"2026-10-04 02:45:00 +11", "2026-10-05 02:45:00 +11"}},
		{"CRON_TZ=Australia/Lord_Howe */15 * * * *", "2026-10-03 15:14:00", []string{"2026-10-04 01:45:00 +1030", "2026-10-04 02:30:00 +11", "2026-10-04 02:45:00 +11"}},
		{"CRON_TZ=Australia/Lord_Howe 45 1 * * *", "2026-04-04 00:00:00", []string{"2026-04-05 01:45:00 +11", "2026-04-06 01:45:00 +1030"}},
		{"CRON_TZ=Australia/Lord_Howe */15 1 * * *", "2026-04-04 14:20:00", []string{"2026-04-05 01:30:00 +11", "2026-04-05 01:45:00 +11", "2026-04-06 01:00:00 +1030"}},
		{"CRON_TZ=Australia/Lord_Howe */15 * * * *", "2026-04-04 14:30:00", []string{"2026-04-05 01:45:00 +11", "2026-04-05 01:30:00 +1030", "2026-04-05 01:45:00 +1030", "2026-04-05 02:00:00 +1030"}},

		// Sydney: 2026-10-04 at 02:00 +10 to 03:00 +11, 2026-04-05 at 03:00 +11 to 02:00 +10.
		{"CRON_TZ=Australia/Sydney 30 2 * * *", "2026-10-03 00:00:00", []string{"2026-10-04 03:00:00 +11", "2026-10-05 02:30:00 +11"}},
		{"CRON_TZ=Australia/Sydney 30 2 * * *", "2026-04-04 00:00:00", []string{"2026-04-05 02:30:00 +11", "2026-04-06 02:30:00 +10"}},
		{"CRON_TZ=Australia/Sydney 30 * * * *", "2026-04-04 15:00:00", []string{"2026-04-05 02:30:00 +11", "2026-04-05 02:30:00 +10", "2026-04-05 03:30:00 +10"}},
		{"CRON_TZ=Australia/Sydney 0 9 1 1 *", "2026-04-04 15:00:00", []string{"2027-01-01 09:00:00 +11", "2028-01-01 09:00:00 +11"}},

		// Kolkata is half an hour off and changes nothing.
		{"CRON_TZ=Asia/Kolkata 30 2 * * *", "2026-03-28 12:00:00", []string{"2026-03-29 02:30:00 +0530", "2026-03-30 02:30:00 +0530"}},
		{"CRON_TZ=Asia/Kolkata 0 * * * *", "2026-03-28 12:00:00", []string{"2026-03-28 18:00:00 +0530", "2026-03-28 19:00:00 +0530"}},
		{"CRON_TZ=Asia/Kolkata 0 0 1 * *", "2026-10-31 18:29:59", []string{"2026-11-01 00:00:00 +0530", "2026-12-01 00:00:00 +0530"}},

		// Havana skips and repeats midnight: 2026-03-08 at 00:00 to 01:00, 2026-11-01 at 01:00 to 00:00.
		{"CRON_TZ=America/Havana @daily", "2026-03-07 12:00:00", []string{"2026-03-08 01:00:00 -04", "2026-03-09 00:00:00 -04"}},
		{"CRON_TZ=America/Havana @daily", "2026-10-31 12:00:00", []string{"2026-11-01 00:00:00 -04", "2026-11-02 00:00:00 -05"}},
		{"CRON_TZ=America/Havana 0 0 1 * *", "2026-10-31 12:00:00", []string{"2026-11-01 00:00:00 -04", "2026-12-01 00:00:00 -05"}},

		// Apia skipped 30 December 2011 whole.
		{"CRON_TZ=Pacific/Apia 0 9 * * *", "2011-12-28 20:00:00", []string{"2011-12-29 09:00:00 -10", "2011-12-31 00:00:00 +14", "2011-12-31 09:00:00 +14"}},
		{"CRON_TZ=Pacific/Apia 0 */12 * * *", "2011-12-29 20:00:00", []string{"2011-12-29 12:00:00 -10", "2011-12-31 00:00:00 +14"}},
		{"CRON_TZ=Pacific/Apia 0 9 30 12 *", "2011-12-28 20:00:00", []string{"2011-12-31 00:00:00 +14", "2012-12-30 09:00:00 +14"}},
		// Kwajalein had 30 September 1969 twice, almost.
		{"CRON_TZ=Pacific/Kwajalein 0 9 * * *", "1969-09-29 00:00:00", []string{"1969-09-30 09:00:00 +11", "1969-10-01 09:00:00 -12"}},

		// The last day of a leap year beyond 2037, up to where time zone files may list every change.
		{"CRON_TZ=America/New_York 0 12 * * *", "2040-12-31 00:30:00", []string{"2040-12-31 12:00:00 -05", "2041-01-01 12:00:00 -05"}},
		{"CRON_TZ=America/New_York 0 12 * * *", "2040-12-31 20:30:00", []string{"2041-01-01 12:00:00 -05"}},
		{"CRON_TZ=America/New_York 0 12 4 7 *", "2040-12-31 20:30:00", []string{"2041-07-04 12:00:00 -04", "2042-07-04 12:00:00 -04"}},
		{"CRON_TZ=America/New_York 0 */12 4 7 *", "2040-12-31 20:30:00", []string{"2041-07-04 00:00:00 -04", "2041-07-04 12:00:00 -04"}},
		{"CRON_TZ=Australia/Sydney 5 * * 1 *", "2040-12-31 12:03:00", []string{"2041-01-01 00:05:00 +11", "2041-01-01 01:05:00 +11"}},
	}
	for _, tt := range tests {
		t.Run(tt.spec+" after "+tt.after, func(t *testing.T) {
			after, err := time.Parse(time.DateTime, tt.after)
			if err != nil {
				t.Fatal(err)
			}
			got := mustParse(t, tt.spec).NextN(after, max(len(tt.want), 1))
			var text []string
			for _, at := range got {
				text = append(text, strings.TrimSuffix(at.Format("2006-01-02 15:04:05 -0700"), "00"))
			}
			if diff := cmp.Diff(tt.want, text); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestNextEvery(t *testing.T) {
	anchor := time.Date(2026, time.March, 4, 5, 6, 7, 250_000_000, time.UTC)
	tests := []struct {
		spec  string
		after time.Duration // since the anchor
		want  time.Duration
	}{
		{"@every 1s", 0, time.Second},
		{"@every 1s", 1, time.Second},
		{"@every 90s", 0, 90 * time.Second},
		{"@every 90s", 90*time.Second - 1, 90 * time.Second},
		{"@every 90s", 90 * time.Second, 180 * time.Second},
		{"@every 90s", 300*time.Second + 1, 360 * time.Second},
		{"@every 90s", -1, 90 * time.Second},
		{"@every 90s", -24 * time.Hour, 90 * time.Second},
		{"@every 1500ms", 0, time.Second}, // whole seconds
		{"@every 720h", 0, 720 * time.Hour},
		{"@every 720h", 2000 * time.Hour, 2160 * time.Hour},
		{"CRON_TZ=America/New_York @every 24h", 0, 24 * time.Hour},
		{"CRON_TZ=America/New_York @every 24h", 4 * 24 * time.Hour, 5 * 24 * time.Hour}, // clocks change in between
	}
	for _, tt := range tests {
		s := mustParse(t, tt.spec).WithAnchor(anchor)
		after := anchor.Add(tt.after)
		if got, want := s.Next(after), anchor.Add(tt.want); !got.Equal(want) {
			t.Errorf("%q anchored at %v: Next(%v) = %v, want %v", tt.spec, anchor, after, got, want)
		}
	}

	s := mustParse(t, "@every 90s")
	if got, want := s.Next(time.Unix(1000, 0)), time.Unix(1080, 0); !got.Equal(want) {
		t.Errorf("without an anchor: Next = %v, want %v", got, want)
	}
	// An anchor beyond the reach of a Duration.
	if got, want := s.WithAnchor(time.Time{}).Next(anchor), anchor.Truncate(90*time.Second).Add(90*time.Second); !got.Equal(want) {
		t.Errorf("anchored at the zero time: Next = %v, want %v", got, want)
	}
	// Other schedules have no anchor.
	if got, want := mustParse(t, "0 0 * * *").WithAnchor(anchor).Next(anchor), time.Date(2026, time.March, 5, 0, 0, 0, 0, time.UTC); !got.Equal(want) {
		t.Errorf("a daily schedule with an anchor: Next = %v, want %v", got, want)
	}
}

func TestNextNever(t *testing.T) {
	now := time.Date(2026, time.March, 4, 5, 6, 7, 0, time.UTC)
	for _, tt := range []struct {
		name string
		s    cron.Schedule
		t    time.Time
	}{
		{"zero schedule", cron.Schedule{}, now},
		{"30 February", mustParse(t, "TZ=America/New_York * * 30 2 *"), now},
		{"30 February at nine", mustParse(t, "TZ=America/New_York 0 9 30 2 *"), now},
		{"no year left", mustParse(t, "* * * * *"), time.Date(9999, time.December, 31, 23, 59, 0, 0, time.UTC)},
		{"year 10000", mustParse(t, "* * * * *"), time.Date(10000, time.January, 1, 0, 0, 0, 0, time.UTC)},
		{"far future", mustParse(t, "TZ=Europe/London 0 9 * * *"), time.Unix(1<<62, 0)},
		{"far past", mustParse(t, "TZ=Europe/London 0 9 * * *"), time.Unix(-1<<62, 0)},
		{"@every into year 10000", mustParse(t, "@every 24h"), time.Date(9999, time.December, 31, 0, 0, 0, 0, time.UTC)},
	} {
		if got := tt.s.Next(tt.t); !got.IsZero() {
			t.Errorf("%s: Next = %v, want none", tt.name, got)
		}
		if got := tt.s.NextN(tt.t, 3); len(got) != 0 {
			t.Errorf("%s: NextN = %v, want none", tt.name, got)
		}
	}
	if got := mustParse(t, "* * * * *").NextN(now, -1); len(got) != 0 {
		t.Errorf("NextN(-1) = %v", got)
	}
}

// zones of every kind: whole, half and quarter hours, both hemispheres, a daylight saving time of half an hour and one of
// two, one that is winter time, changes at midnight, a skipped day, a repeated day, and none at all.
var zones = []string{
	"UTC", "America/New_York", "Europe/London", "Australia/Lord_Howe", "Australia/Sydney", "Asia/Kolkata", "Pacific/Apia",
	"Antarctica/Troll", "Europe/Dublin", "America/Havana", "Asia/Beirut", "Atlantic/Azores", "America/St_Johns",
	"Africa/Casablanca", "Asia/Tehran", "Asia/Kathmandu", "Pacific/Chatham", "America/Santiago", "Pacific/Kwajalein",
	"Asia/Pyongyang", "America/Caracas", "Asia/Gaza",
}

// transitions returns the moments from 1969 to 2045 at which the zone's offset changes.
func transitions(loc *time.Location) []time.Time {
	var all []time.Time
	const step = 6 * 60 * 60
	offset := func(sec int64) int {
		_, o := time.Unix(sec, 0).In(loc).Zone()
		return o
	}
	for sec := int64(-step * 4 * 365); sec < 75*365*24*60*60; sec += step {
		if offset(sec) == offset(sec+step) {
			continue
		}
		low, high := sec, sec+step
		for high-low > 1 {
			if mid := (low + high) / 2; offset(mid) == offset(low) {
				low = mid
			} else {
				high = mid
			}
		}
		all = append(all, time.Unix(high, 0).UTC())
	}
	return all
}

// spec is an expression whose meaning is known without parsing it.
type spec struct {
	text                          string
	minute, hour, dom, month, dow []int // nil: any
	realTime                      bool
}

// matches reports whether a wall time matches.
func (s spec) matches(wall time.Time) bool {
	in := func(set []int, n int) bool { return set == nil || slices.Contains(set, n) }
	day := in(s.dom, wall.Day()) && in(s.dow, int(wall.Weekday()))
	if s.dom != nil && s.dow != nil {
		day = in(s.dom, wall.Day()) || in(s.dow, int(wall.Weekday()))
	}
	return in(s.minute, wall.Minute()) && in(s.hour, wall.Hour()) && in(s.month, int(wall.Month())) && day
}

// firings is the oracle: it looks at every minute of real time and applies the rule as it is stated in the package
// comment. It returns the minutes after from up to until.
func (s spec) firings(loc *time.Location, from, until time.Time) []time.Time {
	wallOf := func(t time.Time) time.Time {
		t = t.In(loc)
		return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), 0, 0, time.UTC)
	}
	var all []time.Time
	t := from.Truncate(time.Minute).Add(-49 * time.Hour)
	reached := wallOf(t) // the latest that the clocks have shown or skipped
	for ; !t.After(until); t = t.Add(time.Minute) {
		wall := wallOf(t)
		fires := s.realTime && s.matches(wall)
		for reached.Before(wall) {
			reached = reached.Add(time.Minute)
			fires = fires || !s.realTime && s.matches(reached)
		}
		if fires && t.After(from) {
			all = append(all, t)
		}
	}
	return all
}

// drawField draws a field of one to three items. Small values are as likely as large ones only where the field is short;
// near is a value to prefer, so that something happens in the window that is looked at.
func drawField(t *rapid.T, name string, low, high, near int) (text string, set []int) {
	if rapid.IntRange(0, 2).Draw(t, name+" any") == 0 {
		return rapid.SampledFrom([]string{"*", "?"}).Draw(t, name+" star"), nil
	}
	var items []string
	set = []int{}
	add := func(from, to, step int) {
		for n := from; n <= to; n += step {
			set = append(set, n)
		}
	}
	value := rapid.OneOf(rapid.IntRange(low, high), rapid.IntRange(max(low, near-1), min(high, near+1)))
	for range rapid.IntRange(1, 3).Draw(t, name+" items") {
		from := value.Draw(t, name+" value")
		step := rapid.IntRange(2, high-low+2).Draw(t, name+" step")
		switch rapid.IntRange(0, 3).Draw(t, name+" kind") {
		case 0:
			items = append(items, strconv.Itoa(from))
			add(from, from, 1)
		case 1:
			to := rapid.IntRange(from, high).Draw(t, name+" end")
			items = append(items, fmt.Sprintf("%d-%d", from, to))
			add(from, to, 1)
		case 2:
			items = append(items, fmt.Sprintf("%d/%d", from, step))
			add(from, high, step)
		case 3:
			items = append(items, fmt.Sprintf("*/%d", step))
			add(low, high, step)
		}
	}
	return strings.Join(items, ","), set
}

func drawSpec(t *rapid.T, near time.Time) spec {
	var s spec
	var minute, hour, dom, month, dow string
	minute, s.minute = drawField(t, "minute", 0, 59, near.Minute())
	if rapid.Bool().Draw(t, "step of hours") {
		n := rapid.IntRange(2, 25).Draw(t, "hours")
		hour, s.hour = fmt.Sprintf("*/%d", n), []int{}
		for h := 0; h < 24; h += n {
			s.hour = append(s.hour, h)
		}
		s.realTime = true
	} else {
		hour, s.hour = drawField(t, "hour", 0, 23, near.Hour())
		base, _, _ := strings.Cut(hour, "/")
		s.realTime = !strings.Contains(hour, ",") && (base == "*" || base == "?")
	}
	dom, s.dom = drawField(t, "dom", 1, 31, near.Day())
	month, s.month = drawField(t, "month", 1, 12, int(near.Month()))
	dow, s.dow = drawField(t, "dow", 0, 6, int(near.Weekday()))
	s.text = strings.Join([]string{minute, hour, dom, month, dow}, " ")
	return s
}

// TestNextAgainstOracle compares Next with a scan of every minute around changes of the clocks and the ends of years.
func TestNextAgainstOracle(t *testing.T) {
	locations := make(map[string]*time.Location)
	moments := make(map[string][]time.Time)
	for _, zone := range zones {
		locations[zone] = mustLoad(t, zone)
		moments[zone] = transitions(locations[zone])
		for year := 2019; year <= 2044; year++ {
			moments[zone] = append(moments[zone], time.Date(year, time.January, 1, 0, 0, 0, 0, time.UTC))
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		zone := rapid.SampledFrom(zones).Draw(t, "zone")
		loc := locations[zone]
		moment := rapid.SampledFrom(moments[zone]).Draw(t, "moment")
		s := drawSpec(t, moment.In(loc))
		from := moment.Add(-time.Duration(rapid.IntRange(0, 36*60*60).Draw(t, "seconds before")) * time.Second)
		until := moment.Add(30 * time.Hour)

		schedule, err := cron.Parse("CRON_TZ=" + zone + " " + s.text)
		if err != nil {
			t.Fatalf("Parse(%q): %v", s.text, err)
		}
		want := s.firings(loc, from, until)
		for i, w := range want {
			if got := schedule.Next(from); !got.Equal(w) {
				t.Fatalf("%s %q: firing %d: Next(%v) = %v, want %v", zone, s.text, i, from.In(loc), got, w.In(loc))
			}
			from = w
		}
		if got := schedule.Next(from); !got.IsZero() && !got.After(until) {
			t.Fatalf("%s %q: Next(%v) = %v, want none before %v", zone, s.text, from.In(loc), got, until.In(loc))
		}
	})
}

// TestNextIsMonotonic says that Next of a later time is never earlier, from any starting point around a change.
func TestNextIsMonotonic(t *testing.T) {
	for _, zone := range []string{"America/New_York", "Australia/Lord_Howe", "Pacific/Apia"} {
		loc := mustLoad(t, zone)
		for _, text := range []string{"*/7 1-3 * * *", "*/7 * * * *", "15 2 * * *"} {
			s := mustParse(t, "TZ="+zone+" "+text)
			for _, change := range transitions(loc) {
				if y := change.Year(); y < 2010 || y > 2012 {
					continue
				}
				last := time.Time{}
				for at := change.Add(-3 * time.Hour); at.Before(change.Add(3 * time.Hour)); at = at.Add(30 * time.Second) {
					next := s.Next(at)
					if !next.After(at) || next.Before(last) {
						t.Fatalf("%s %q: Next(%v) = %v, after %v", zone, text, at, next, last)
					}
					last = next
				}
			}
		}
	}
}

func BenchmarkNext(b *testing.B) {
	after := time.Date(2026, time.March, 4, 5, 6, 7, 0, time.UTC)
	for _, spec := range []string{
		"* * * * *", "TZ=America/New_York 30 2 * * *", "TZ=America/New_York * * 29 2 *", "TZ=America/New_York 0 0 30 2 *", "@every 5m",
	} {
		b.Run(spec, func(b *testing.B) {
			s := mustParse(b, spec)
			b.ReportAllocs()
			for b.Loop() {
				s.Next(after)
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		mustParse(b, "CRON_TZ=America/New_York 30 2 * * MON-FRI")
	}
}
