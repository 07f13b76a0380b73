package config

import (
	"fmt"
	"math"
	"strings"
	"time"
)

const day = 24 * time.Hour

// ParseDuration reads a duration as [time.ParseDuration] does, and also knows the unit d, a day of 24 hours: 1d12h.
func ParseDuration(s string) (time.Duration, error) {
	fault := func() (time.Duration, error) {
		return 0, fmt.Errorf("must be a duration such as 500ms, 30s, 5m or 7d, got %q", s)
	}
	if !strings.Contains(s, "d") {
		d, err := time.ParseDuration(s)
		if err != nil {
			return fault()
		}
		return d, nil
	}
	rest, negative := strings.CutPrefix(s, "-")
	if !negative {
		rest = strings.TrimPrefix(rest, "+")
	}
	var sum int64
	for rest != "" {
		unit := len(rest) - len(strings.TrimLeft(rest, "0123456789."))
		end := len(rest) - len(strings.TrimLeft(rest[unit:], "dhmsunµμ"))
		// A part without a number could hold a second sign, and one without a unit be a zero by itself.
		if unit == 0 || unit == end {
			return fault()
		}
		part, scale := rest[:end], int64(1)
		if rest[unit:end] == "d" {
			part, scale = rest[:unit]+"h", 24
		}
		d, err := time.ParseDuration(part)
		if err != nil || int64(d) > (math.MaxInt64-sum)/scale {
			return fault()
		}
		sum += int64(d) * scale
		rest = rest[end:]
	}
	if negative {
		sum = -sum
	}
	return time.Duration(sum), nil
}

// FormatDuration writes a duration so that [ParseDuration] reads it back, in days where they are whole and without
// parts that are zero.
func FormatDuration(d time.Duration) string {
	if d == 0 {
		return "0s"
	}
	days, rest := d/day, d%day
	var s string
	if days != 0 {
		s = fmt.Sprintf("%dd", days)
		// One sign, at the front, holds for all parts.
		rest = rest.Abs()
	}
	if rest != 0 {
		t := rest.String()
		if strings.HasSuffix(t, "m0s") {
			t = strings.TrimSuffix(t, "0s")
		}
		if strings.HasSuffix(t, "h0m") {
			t = strings.TrimSuffix(t, "0m")
		}
		s += t
	}
	return s
}
