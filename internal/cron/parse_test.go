package cron_test

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // for machines without time zone files

	"github.com/google/go-cmp/cmp"
	gocron "github.com/netresearch/go-cron"

	"github.com/posthaste/posthaste/internal/cron"
)

func mustParse(tb testing.TB, spec string) cron.Schedule {
	tb.Helper()
	s, err := cron.Parse(spec)
	if err != nil {
		tb.Fatalf("Parse(%q): %v", spec, err)
	}
	return s
}

// format lists times in a short form, in their own zone.
func format(times []time.Time) []string {
	var all []string
	for _, t := range times {
		all = append(all, t.Format("2006-01-02 15:04:05 -07"))
	}
	return all
}

// TestParse compares what different spellings mean. The first 40 firings tell them apart.
func TestParse(t *testing.T) {
	after := time.Date(2026, time.March, 4, 5, 6, 7, 0, time.UTC)
	tests := []struct {
		spec, same string
	}{
		{"*/10 * * * * ", "0,10,20,30,40,50 * * * *"},
		{"\t5  *   * * *\n", "5 * * * *"},
		{"? ? ? ? ?", "* * * * *"},
		{"5/20 * * * *", "5,25,45 * * * *"},
		{"10-30/10 * * * *", "10,20,30 * * * *"},
		{"1,,2, * * * *", "1,2 * * * *"},
		{"0 0 1 JAN,Feb,mar *", "0 0 1 1-3 *"},
		{"0 0 * * MON-FRI", "0 0 * * 1-5"},
		{"0 0 * * THU", "0 0 * * 4"},
		{"0 0 * * Thu,sUn", "0 0 * * 0,4"},
		{"0 0 ? 6 mon", "0 0 * 6 1"},
		{"CRON_TZ=UTC 0 3 * * *", "0 3 * * *"},
		{"TZ=UTC 0 3 * * *", "0 3 * * *"},
		{"CRON_TZ=Etc/UTC  0 3 * * *", "0 3 * * *"},
		{"CRON_TZ=Asia/Tokyo @daily", "TZ=Asia/Tokyo 0 0 * * *"},
		{"@yearly", "0 0 1 1 *"},
		{"@annually", "0 0 1 1 *"},
		{"@monthly", "0 0 1 * *"},
		{"@weekly", "0 0 * * 0"},
		{"@daily", "0 0 * * *"},
		{"@midnight", "0 0 * * *"},
		{"@hourly", "0 * * * *"},
		{"@every 1h", "0 * * * *"},
		{"@every 1h30m0.9s", "@every 5400s"},
		{"TZ=Asia/Tokyo @every 2m", "@every 2m"},

		// A step as long as its range leaves the first value.
		{"*/60 * * * *", "0 * * * *"},
		{"?/99 */24 * * *", "0 0 * * *"},
		{"7/60 * * * *", "7 * * * *"},
		{"50/15 * * * *", "50 * * * *"},
		{"10-20/11 * * * *", "10 * * * *"},
		{"7/9223372036854775807 * * * *", "7 * * * *"},
		{"*/60,30 * * * *", "0,30 * * * *"},
		{"0 0 */31 * ?", "0 0 1 * *"},
		{"0 0 1 */12 *", "0 0 1 1 *"},
		{"0 0 1 feb/12 *", "0 0 1 2 *"},
		{"0 0 * * */7", "0 0 * * 0"},
		{"0 0 * * 1/2", "0 0 * * 1,3,5"},
		{"0 0 * * tue/3", "0 0 * * 2,5"},

		// Both days restricted: either will do. A step restricts.
		{"0 0 13 * fri", "0 0 13 * 5"},
		{"0 0 1-31 * 1", "0 0 * * *"},
		{"0 0 */1 * 1", "0 0 * * 1"},
	}
	for _, tt := range tests {
		got := format(mustParse(t, tt.spec).NextN(after, 40))
		want := format(mustParse(t, tt.same).NextN(after, 40))
		if len(want) != 40 {
			t.Errorf("%q fires only %d times", tt.same, len(want))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q and %q differ (-%[2]q +%[1]q):\n%[3]s", tt.spec, tt.same, diff)
		}
	}
}

func TestParseErrors(t *testing.T) {
	tests := map[string]string{
		"":                                     "empty spec string",
		"  \t ":                                "empty spec string",
		"* * * *":                              "expected exactly 5 fields, found 4: [* * * *]",
		"0 * * * * *":                          "expected exactly 5 fields, found 6: [0 * * * * *]",
		"every minute":                         "expected exactly 5 fields, found 2: [every minute]",
		"a * * * *":                            `failed to parse int from a: strconv.Atoi: parsing "a": invalid syntax`,
		"H * * * *":                            `failed to parse int from H: strconv.Atoi: parsing "H": invalid syntax`,
		"-1 * * * *":                           `failed to parse int from : strconv.Atoi: parsing "": invalid syntax`,
		"*-5 * * * *":                          `failed to parse int from *: strconv.Atoi: parsing "*": invalid syntax`,
		"5-* * * * *":                          `failed to parse int from *: strconv.Atoi: parsing "*": invalid syntax`,
		"*/-2 * * * *":                         "negative number (-2) not allowed: -2",
		"60 * * * *":                           "end of range (60) above maximum (59): 60",
		"* 24 * * *":                           "end of range (24) above maximum (23): 24",
		"* * 0 * *":                            "beginning of range (0) below minimum (1): 0",
		"* * 32 * *":                           "end of range (32) above maximum (31): 32",
		"* * * 0 *":                            "beginning of range (0) below minimum (1): 0",
		"* * * 13 *":                           "end of range (13) above maximum (12): 13",
		"* * * * 7":                            "end of range (7) above maximum (6): 7",
		"* * mon * *":                          `failed to parse int from mon: strconv.Atoi: parsing "mon": invalid syntax`,
		"* * * march *":                        `failed to parse int from march: strconv.Atoi: parsing "march": invalid syntax`,
		"22-2 * * * *":                         "beginning of range (22) beyond end of range (2): 22-2",
		"1,30-10/2 * * * *":                    "beginning of range (30) beyond end of range (10): 30-10/2",
		"60/5 * * * *":                         "beginning of range (60) beyond end of range (59): 60/5",
		"1-2-3 * * * *":                        "too many hyphens: 1-2-3",
		"1/2/3 * * * *":                        "too many slashes: 1/2/3",
		"*/0 * * * *":                          "step of range should be a positive number: */0",
		"*/x * * * *":                          `failed to parse int from x: strconv.Atoi: parsing "x": invalid syntax`,
		"*/ * * * *":                           `failed to parse int from : strconv.Atoi: parsing "": invalid syntax`,
		", * * * *":                            "empty list of values: ,",
		"* * * * ,,":                           "empty list of values: ,,",
		"0 0 L * *":                            `failed to parse int from L: strconv.Atoi: parsing "L": invalid syntax`,
		"0 0 15W * *":                          `failed to parse int from 15W: strconv.Atoi: parsing "15W": invalid syntax`,
		"0 0 * * FRI#2":                        `failed to parse int from FRI#2: strconv.Atoi: parsing "FRI#2": invalid syntax`,
		"@reboot":                              "unrecognized descriptor: @reboot",
		"@Daily":                               "unrecognized descriptor: @Daily",
		"@every":                               "unrecognized descriptor: @every",
		"@every five":                          `failed to parse duration @every five: time: invalid duration "five"`,
		"@every 5":                             `failed to parse duration @every 5: time: missing unit in duration "5"`,
		"@every 0s":                            "duration must be at least 1s: @every 0s",
		"@every 999ms":                         "duration must be at least 1s: @every 999ms",
		"@every -1h":                           "duration must be at least 1s: @every -1h",
		"CRON_TZ=Mars/Olympus * * * * *":       "provided bad location Mars/Olympus: unknown time zone Mars/Olympus",
		"TZ=0 * * * * *":                       "provided bad location 0: unknown time zone 0",
		"TZ=0":                                 `missing fields after timezone in spec "TZ=0"`,
		"CRON_TZ=UTC  ":                        `missing fields after timezone in spec "CRON_TZ=UTC"`,
		"TZ= * * * * *":                        "provided bad location : unknown time zone ",
		"TZ=Local * * * * *":                   "provided bad location Local: unknown time zone Local",
		"TZ=../UTC * * * * *":                  "provided bad location ../UTC: unknown time zone ../UTC",
		"TZ=America * * * * *":                 "provided bad location America: unknown time zone America",
		strings.Repeat("1,", 600) + " * * * *": "spec string has 1208 bytes, at most 1024 are allowed",
	}
	for spec, want := range tests {
		_, err := cron.Parse(spec)
		if err == nil || err.Error() != want {
			t.Errorf("Parse(%q): error %v, want %s", spec, err, want)
		}
	}
}

func TestLocation(t *testing.T) {
	for spec, want := range map[string]string{
		"* * * * *":                          "UTC",
		"@every 5s":                          "UTC",
		"CRON_TZ=America/New_York @every 5s": "UTC",
		"CRON_TZ=America/New_York * * * * *": "America/New_York",
	} {
		s := mustParse(t, spec)
		if got := s.Location().String(); got != want {
			t.Errorf("Location of %q = %s, want %s", spec, got, want)
		}
		if got := s.Next(time.Unix(0, 0)).Location().String(); got != want {
			t.Errorf("Next of %q is in %s, want %s", spec, got, want)
		}
	}
	if got := (cron.Schedule{}).Location(); got != time.UTC {
		t.Errorf("Location of the zero schedule = %v", got)
	}
}

// TestAgainstLibrary compares firings with those of an independent implementation, in UTC and for expressions that it
// reads alike: it would take an H for an extension, fires on Sundays for 1/2, refuses long steps, and satisfies both days.
func TestAgainstLibrary(t *testing.T) {
	parser := gocron.MustNewParser(gocron.Minute | gocron.Hour | gocron.Dom | gocron.Month | gocron.Dow | gocron.Descriptor | gocron.DowOrDom).WithMaxSearchYears(16)
	for _, spec := range []string{
		"* * * * *", "*/7 * * * *", "5 */5 * * *", "0 9-17 * * mon-fri", "59 23 31 12 *", "0 0 1,15 * wed", "0 0 */10 * *",
		"1-59/13 2,4,6 1-7 feb-apr ?", "30 4 * jan,dec 0,6", "0 0 29 2 *", "0 12 31 * *", "0 0 */2 * */3", "0 0 13 * fri",
		"@hourly", "@daily", "@weekly", "@monthly", "@yearly", "@annually", "@midnight",
	} {
		theirs, err := parser.Parse("TZ=UTC " + spec)
		if err != nil {
			t.Fatalf("%q: %v", spec, err)
		}
		ours := mustParse(t, spec)
		at := time.Date(2024, time.January, 31, 23, 59, 30, 0, time.UTC)
		for range 300 {
			got, want := ours.Next(at), theirs.Next(at)
			if !got.Equal(want) {
				t.Fatalf("%q: Next(%v) = %v, want %v", spec, at, got, want)
			}
			at = want
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, spec := range []string{
		"* * * * *", "*/60 ?/3 1-5,L 2/12 THU-7", "@every 1h0.5s", "TZ=0", "CRON_TZ=Europe/London 30 1 * * *", "TZ=Local @daily", ",,,, , , , ,", "22-2 * * nov-feb *",
	} {
		f.Add(spec, int64(1774746000))
	}
	f.Fuzz(func(t *testing.T, spec string, unix int64) {
		s, err := cron.Parse(spec)
		if err != nil {
			if err.Error() == "" {
				t.Errorf("Parse(%q): error without text", spec)
			}
			return
		}
		after := time.Unix(unix, 0)
		if y := after.Year(); y < 1900 || y > 2200 {
			after = time.Unix(unix%(1<<32), 0)
		}
		for range 5 {
			next := s.Next(after)
			if next.IsZero() {
				return
			}
			if !next.After(after) {
				t.Fatalf("%q: Next(%v) = %v, not after", spec, after, next)
			}
			if before := s.Next(next.Add(-1)); !before.Equal(next) {
				t.Fatalf("%q: just before %v, Next is %v", spec, next, before)
			}
			after = next
		}
	})
}
