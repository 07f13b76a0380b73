package retry

import (
	"strconv"
	"strings"
	"time"
)

// afterHeaders are the response headers that may name a delay, in the order in which they are asked.
var afterHeaders = [...]string{
	"Retry-After",
	"X-RateLimit-Reset",
	"X-RateLimit-Reset-Requests",
	"X-RateLimit-Reset-Tokens",
}

// dateLayouts are the forms of an RFC 1123 date. The zone is spelled out because [time.Parse] reads an abbreviation it
// does not know as an offset of zero, which would turn a wrong date into a wrong delay. A one-digit day is accepted.
var dateLayouts = [...]string{
	"Mon, 2 Jan 2006 15:04:05 GMT",
	"Mon, 2 Jan 2006 15:04:05 UTC",
	"Mon, 2 Jan 2006 15:04:05 -0700",
}

// maxValueLen bounds the header values that are looked at. The longest legitimate one is a date of 31 characters.
const maxValueLen = 64

// After returns the delay that the destination asked for, and whether it asked for one that counts. It looks at
// Retry-After, X-RateLimit-Reset, X-RateLimit-Reset-Requests and X-RateLimit-Reset-Tokens, in this order.
//
// A value is a number of seconds (10, 0.5), an RFC 1123 date, or a Go duration (6m5s). Zero and a past date mean at
// once. A value that is none of these, is negative, or leads further than [MaxDelay] is ignored, and the next header is
// asked: an X-RateLimit-Reset in epoch seconds, as some services send it, must not hide a usable
// X-RateLimit-Reset-Requests.
func After(header func(name string) string, now time.Time) (time.Duration, bool) {
	for _, name := range afterHeaders {
		if d, ok := parseAfter(header(name), now); ok {
			return d, true
		}
	}
	return 0, false
}

// parseAfter reads one header value. If ok, 0 ≤ d ≤ MaxDelay.
func parseAfter(value string, now time.Time) (d time.Duration, ok bool) {
	value = strings.TrimSpace(value)
	if value == "" || len(value) > maxValueLen {
		return 0, false
	}
	switch c := value[0]; {
	case c != '.' && (c < '0' || c > '9'):
		// Only a date starts with another character. This keeps out the signs that durations may have.
		at, ok := parseDate(value)
		if !ok {
			return 0, false
		}
		d = max(at.Sub(now), 0)
	case strings.Trim(value, "0123456789.") == "":
		seconds, err := strconv.ParseFloat(value, 64)
		if err != nil || seconds > MaxDelay.Seconds() {
			return 0, false
		}
		d = time.Duration(seconds * float64(time.Second))
	default:
		var err error
		if d, err = time.ParseDuration(value); err != nil {
			return 0, false
		}
	}
	return d, d <= MaxDelay
}

func parseDate(value string) (time.Time, bool) {
	for _, layout := range dateLayouts {
		if at, err := time.Parse(layout, value); err == nil {
			return at, true
		}
	}
	return time.Time{}, false
}
