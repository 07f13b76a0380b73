package retry_test

import (
	"strings"
	"testing"
	"time"

	"github.com/posthaste/posthaste/internal/retry"
)

func TestAfterValues(t *testing.T) {
	const ignored = time.Duration(-1)
	tests := []struct {
		value string
		want  time.Duration
	}{
		// Seconds.
		{"0", 0},
		{"10", 10 * time.Second},
		{" 10\t", 10 * time.Second},
		{"010", 10 * time.Second},
		{"1.5", 1500 * time.Millisecond},
		{".25", 250 * time.Millisecond},
		{"3.", 3 * time.Second},
		{"86400", 24 * time.Hour},
		{"86400.0001", ignored},
		{"90000", ignored},
		{"1772600000", ignored}, // epoch seconds
		{strings.Repeat("9", 60), ignored},
		{"-5", ignored},
		{"+5", ignored},
		{"1e3", ignored},
		{"0x10", ignored},
		{"1_0", ignored},
		{"1.2.3", ignored},
		{".", ignored},
		{"inf", ignored},
		{"NaN", ignored},
		{"10, 20", ignored},

		// Dates. The test's now is Wed, 04 Mar 2026 05:06:07 GMT.
		{"Wed, 04 Mar 2026 05:07:37 GMT", 90 * time.Second},
		{"Wed, 4 Mar 2026 05:07:37 GMT", 90 * time.Second},
		{"Wed, 04 Mar 2026 05:07:37 UTC", 90 * time.Second},
		{"Wed, 04 Mar 2026 00:07:37 -0500", 90 * time.Second},
		{"Wed, 04 Mar 2026 05:06:07 GMT", 0},
		{"Tue, 03 Mar 2026 05:06:07 GMT", 0},
		{"Thu, 01 Jan 1970 00:00:00 GMT", 0},
		{"Mon, 01 Jan 0001 00:00:00 GMT", 0},
		{"Thu, 05 Mar 2026 05:06:07 GMT", 24 * time.Hour},
		{"Thu, 05 Mar 2026 05:06:08 GMT", ignored},
		{"Fri, 31 Dec 9999 23:59:59 GMT", ignored},
		{"Wed, 04 Mar 2026 05:07:37 PST", ignored}, // an offset nobody can know
		{"Wed, 04 Mar 2026 05:07:37", ignored},
		{"2026-03-04T05:07:37Z", ignored},

		// Go durations.
		{"6m5s", 365 * time.Second},
		{"1s", time.Second},
		{"0s", 0},
		{"250ms", 250 * time.Millisecond},
		{"1h", time.Hour},
		{"7us", 7 * time.Microsecond},
		{"7µs", 7 * time.Microsecond},
		{"9ns", 9 * time.Nanosecond},
		{"24h", 24 * time.Hour},
		{"24h1ns", ignored},
		{"1d", ignored},
		{"-1s", ignored},
		{"+1s", ignored},
		{"99999999999999h", ignored},

		{"", ignored},
		{"  ", ignored},
		{"soon", ignored},
		{"10 s", ignored},
		{strings.Repeat("0", 65), ignored},
	}
	for _, tt := range tests {
		got, ok := retry.After(headers("Retry-After", tt.value), now)
		if !ok {
			got = ignored
		}
		if got != tt.want {
			t.Errorf("After(%q) = %v, want %v (-1ns: ignored)", tt.value, got, tt.want)
		}
	}
}

func TestAfterDateIsExact(t *testing.T) {
	// An attempt that ended between two seconds still waits until the date itself.
	got, ok := retry.After(headers("Retry-After", "Wed, 04 Mar 2026 05:06:09 GMT"), now.Add(300*time.Millisecond))
	if want := 1700 * time.Millisecond; got != want || !ok {
		t.Errorf("After = %v, %v; want %v", got, ok, want)
	}
}

func TestAfterOrder(t *testing.T) {
	names := []string{"Retry-After", "X-RateLimit-Reset", "X-RateLimit-Reset-Requests", "X-RateLimit-Reset-Tokens"}
	values := []string{"1", "2", "3", "4"}
	for first := range names {
		// Headers before the first are there, but do not count.
		for _, bad := range []string{"", "soon", "1772600000"} {
			var pairs []string
			for i, name := range names {
				if i < first {
					pairs = append(pairs, name, bad)
				} else {
					pairs = append(pairs, name, values[i])
				}
			}
			got, ok := retry.After(headers(pairs...), now)
			if want := time.Duration(first+1) * time.Second; got != want || !ok {
				t.Errorf("After(%q) = %v, %v; want %v", pairs, got, ok, want)
			}
		}
	}
	if got, ok := retry.After(headers("X-RateLimit-Limit", "5"), now); ok {
		t.Errorf("After without a header of its own = %v, want none", got)
	}
}

func FuzzAfter(f *testing.F) {
	for _, s := range []string{"0", "1.5", "6m5s", "Wed, 04 Mar 2026 05:07:37 GMT", "90000", "soon", "-1", "Wed, 04 Mar 2026 05:07:37 +9999"} {
		f.Add(s, "3", int64(1772600767))
	}
	f.Fuzz(func(t *testing.T, first, second string, unix int64) {
		d, ok := retry.After(headers("Retry-After", first, "X-RateLimit-Reset", second), time.Unix(unix, 0))
		if ok && (d < 0 || d > retry.MaxDelay) {
			t.Errorf("After(%q, %q) = %v, out of range", first, second, d)
		}
		if !ok && d != 0 {
			t.Errorf("After(%q, %q) = %v without a value", first, second, d)
		}
	})
}
