package wire

import (
	"errors"
	"fmt"
	"math"
	"net/textproto"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/posthaste/posthaste"
)

// The parsers of values return plain errors that say what is wrong with the value; the caller names the header or parameter.

var (
	errEmpty   = errors.New("must not be empty")
	errControl = errors.New("contains a control character")
	errUTF8    = errors.New("is not valid UTF-8")
)

// units are those of a duration. The first ones are by far the most used.
var units = [...]struct {
	name string
	size uint64
}{
	{"s", uint64(time.Second)},
	{"m", uint64(time.Minute)},
	{"h", uint64(time.Hour)},
	{"d", 24 * uint64(time.Hour)},
	{"ms", uint64(time.Millisecond)},
	{"us", uint64(time.Microsecond)},
	{"µs", uint64(time.Microsecond)}, // U+00B5, the micro sign
	{"μs", uint64(time.Microsecond)}, // U+03BC, the Greek letter
	{"ns", 1},
}

// ParseDuration reads a duration as [time.ParseDuration] does, with d for 24 hours as one more unit. It takes no negative
// duration. Its errors have the texts of package time.
func ParseDuration(s string) (time.Duration, error) {
	if strings.HasPrefix(s, "-") {
		return 0, fmt.Errorf("negative duration %s", quote(s))
	}
	invalid := func(what string) (time.Duration, error) {
		return 0, fmt.Errorf("time: %s duration %s", what, quote(s))
	}
	rest := strings.TrimPrefix(s, "+")
	if rest == "0" {
		return 0, nil
	}
	if rest == "" {
		return invalid("invalid")
	}
	var total uint64
	for rest != "" {
		n := digits(rest)
		whole, ok := parseUint(rest[:n])
		if !ok {
			return invalid("invalid")
		}
		rest = rest[n:]
		var fraction string
		if strings.HasPrefix(rest, ".") {
			f := digits(rest[1:])
			if n+f == 0 {
				return invalid("invalid")
			}
			fraction, rest = rest[1:1+f], rest[1+f:]
		} else if n == 0 {
			return invalid("invalid")
		}

		u := strings.IndexAny(rest, ".0123456789")
		if u < 0 {
			u = len(rest)
		}
		if u == 0 {
			return invalid("missing unit in")
		}
		var size uint64
		for _, unit := range units {
			if rest[:u] == unit.name {
				size = unit.size
				break
			}
		}
		if size == 0 {
			return invalid("unknown unit " + quote(rest[:u]) + " in")
		}
		rest = rest[u:]

		if whole > math.MaxInt64/size {
			return invalid("invalid")
		}
		v := whole * size
		// More digits than fit an int64 are worth less than a nanosecond of a day.
		part, scale := uint64(0), 1.0
		for i := range min(len(fraction), 18) {
			part = part*10 + uint64(fraction[i]-'0')
			scale *= 10
		}
		v += uint64(float64(part) * (float64(size) / scale))
		if v > math.MaxInt64 {
			return invalid("invalid")
		}
		if total += v; total > math.MaxInt64 {
			return invalid("invalid")
		}
	}
	return time.Duration(total), nil
}

// parsePositiveDuration reads a duration of more than nothing.
func parsePositiveDuration(s string) (time.Duration, error) {
	d, err := ParseDuration(s)
	if err == nil && d == 0 {
		err = fmt.Errorf("%s is not more than 0", quote(s))
	}
	return d, err
}

// digits returns how many decimal digits s begins with.
func digits(s string) int {
	n := 0
	for n < len(s) && '0' <= s[n] && s[n] <= '9' {
		n++
	}
	return n
}

// parseUint reads decimal digits; no digits are 0. ok is false when the value exceeds an int64.
func parseUint(s string) (n uint64, ok bool) {
	for i := range len(s) {
		if n > math.MaxInt64/10 {
			return 0, false
		}
		n = n*10 + uint64(s[i]-'0')
	}
	return n, n <= math.MaxInt64
}

// ParseBool reads true, false, 1 or 0 in any case.
func ParseBool(s string) (bool, error) {
	switch {
	case s == "true", s == "1", strings.EqualFold(s, "true"):
		return true, nil
	case s == "false", s == "0", strings.EqualFold(s, "false"):
		return false, nil
	}
	return false, fmt.Errorf("%s is neither true nor false", quote(s))
}

// ParseInt reads a decimal number without a sign that fits 32 bits.
func ParseInt(s string) (int, error) {
	n, err := parseDigits(s)
	if err == nil && n > math.MaxInt32 {
		err = fmt.Errorf("%s is too large", quote(s))
	}
	return int(n), err
}

// parseDigits reads a decimal number without a sign.
func parseDigits(s string) (int64, error) {
	if s == "" || digits(s) != len(s) {
		return 0, fmt.Errorf("%s is not a whole number of 0 or more", quote(s))
	}
	n, ok := parseUint(s)
	if !ok {
		return 0, fmt.Errorf("%s is too large", quote(s))
	}
	return int64(n), nil
}

// latestSecond is the end of the year 9999. A later moment is a number in other units than seconds.
const latestSecond = 253402300799

// ParseUnixSeconds reads a moment in unix seconds.
func ParseUnixSeconds(s string) (time.Time, error) {
	n, err := parseDigits(s)
	if err != nil {
		return time.Time{}, err
	}
	if n > latestSecond {
		return time.Time{}, fmt.Errorf("%s is not a time in unix seconds", quote(s))
	}
	return time.Unix(n, 0).UTC(), nil
}

// ParseLabels reads comma-separated labels. Blanks around a label and empty labels are dropped.
func ParseLabels(lists ...string) ([]string, error) {
	var labels []string
	for _, list := range lists {
		for piece := range strings.SplitSeq(list, ",") {
			label := trim(piece)
			if label == "" {
				continue
			}
			if err := CheckText(label); err != nil {
				return nil, fmt.Errorf("label %w", err)
			}
			if len(labels) == MaxLabels {
				return nil, fmt.Errorf("more than %d labels", MaxLabels)
			}
			labels = append(labels, label)
		}
	}
	return labels, nil
}

// maxPeriod is the longest period of a rate.
const maxPeriod = 7 * 24 * time.Hour

// ParseFlow reads the value that goes with a flow-control key: parallelism, rate and period, in any order. The result has no
// key.
func ParseFlow(s string) (posthaste.FlowControl, error) {
	flow := posthaste.FlowControl{Period: time.Second}
	var parallelism, rate, period bool
	for piece := range strings.SplitSeq(s, ",") {
		name, value, ok := strings.Cut(piece, "=")
		name, value = trim(name), trim(value)
		if !ok {
			return posthaste.FlowControl{}, fmt.Errorf("%s is not of the form name=value", quote(trim(piece)))
		}
		var seen *bool
		var err error
		switch {
		case strings.EqualFold(name, paramParallelism):
			seen = &parallelism
			flow.Parallelism, err = parsePositive(value)
		case strings.EqualFold(name, paramRate):
			seen = &rate
			flow.Rate, err = parsePositive(value)
		case strings.EqualFold(name, paramPeriod):
			seen = &period
			flow.Period, err = parsePeriod(value)
		default:
			return posthaste.FlowControl{}, fmt.Errorf("%s is none of parallelism, rate, period", quote(name))
		}
		if err != nil {
			return posthaste.FlowControl{}, fmt.Errorf("%s: %w", strings.ToLower(name), err)
		}
		if *seen {
			return posthaste.FlowControl{}, fmt.Errorf("%s is given twice", strings.ToLower(name))
		}
		*seen = true
	}
	if !parallelism && !rate {
		return posthaste.FlowControl{}, errors.New("needs parallelism or rate")
	}
	return flow, nil
}

// FormatFlow returns the value from which [ParseFlow] reads the flow's limits.
func FormatFlow(flow posthaste.FlowControl) string {
	var b []byte
	if flow.Parallelism > 0 {
		b = strconv.AppendInt(append(b, paramParallelism+"="...), int64(flow.Parallelism), 10)
	}
	if flow.Rate > 0 {
		if len(b) > 0 {
			b = append(b, ", "...)
		}
		b = strconv.AppendInt(append(b, paramRate+"="...), int64(flow.Rate), 10)
		b = strconv.AppendInt(append(b, ", "+paramPeriod+"="...), int64(flow.Period/time.Second), 10)
		b = append(b, 's')
	}
	return string(b)
}

func parsePositive(s string) (int, error) {
	n, err := ParseInt(s)
	if err == nil && n == 0 {
		err = fmt.Errorf("%s is not 1 or more", quote(s))
	}
	return n, err
}

// parsePeriod reads a duration of whole seconds, or a bare number of seconds.
func parsePeriod(s string) (time.Duration, error) {
	var d time.Duration
	var err error
	if s != "" && digits(s) == len(s) {
		n, e := parsePositive(s)
		d, err = time.Duration(n)*time.Second, e
	} else {
		d, err = ParseDuration(s)
	}
	switch {
	case err != nil:
		return 0, err
	case d < time.Second || d%time.Second != 0:
		return 0, fmt.Errorf("%s is not a number of whole seconds from 1", quote(s))
	case d > maxPeriod:
		return 0, fmt.Errorf("%s is more than 7d", quote(s))
	}
	return d, nil
}

// ParseRedact reads comma-separated parts of a message: body, header or headers for all headers, header[Name] for one.
func ParseRedact(lists ...string) (posthaste.Redaction, error) {
	var r posthaste.Redaction
	for _, list := range lists {
		for piece := range strings.SplitSeq(list, ",") {
			piece = trim(piece)
			if piece == "" {
				continue
			}
			word, inner, named := strings.Cut(piece, "[")
			word = trim(word)
			isHeader := strings.EqualFold(word, "header") || strings.EqualFold(word, "headers")
			switch {
			case !named && strings.EqualFold(word, "body"):
				r.Body = true
			case !named && isHeader:
				r.Headers = true
			case named && isHeader && strings.HasSuffix(inner, "]"):
				name := trim(inner[:len(inner)-1])
				if err := checkToken(name); err != nil {
					return posthaste.Redaction{}, fmt.Errorf("%s names no header", quote(piece))
				}
				if len(r.Names) == maxRedactNames {
					return posthaste.Redaction{}, fmt.Errorf("more than %d headers", maxRedactNames)
				}
				r.Names = append(r.Names, textproto.CanonicalMIMEHeaderKey(name))
			default:
				return posthaste.Redaction{}, fmt.Errorf("%s is none of body, header, header[Name]", quote(piece))
			}
		}
	}
	if r.Zero() {
		return posthaste.Redaction{}, errEmpty
	}
	return r, nil
}

// FormatRedact returns the list from which [ParseRedact] reads r.
func FormatRedact(r posthaste.Redaction) string {
	var parts []string
	if r.Body {
		parts = append(parts, "body")
	}
	if r.Headers {
		parts = append(parts, "header")
	}
	for _, name := range r.Names {
		parts = append(parts, "header["+name+"]")
	}
	return strings.Join(parts, ",")
}

// parseMethod reads a method in any case.
func parseMethod(s string) (string, error) {
	for _, m := range [...]string{"POST", "GET", "PUT", "PATCH", "DELETE"} {
		if s == m || strings.EqualFold(s, m) {
			return m, nil
		}
	}
	return "", fmt.Errorf("%s is none of GET, POST, PUT, PATCH, DELETE", quote(s))
}

// CheckName checks the name of a queue or a URL group, or the id of a schedule.
func CheckName(s string) error {
	if s == "" {
		return errEmpty
	}
	if len(s) > MaxTextSize {
		return errTooLong()
	}
	for i := range len(s) {
		if c := s[i]; !isAlphanumeric(c) && c != '.' && c != '_' && c != '-' {
			return fmt.Errorf("%s may have only letters, digits, '.', '_' and '-'", quote(s))
		}
	}
	return nil
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

func errTooLong() error { return fmt.Errorf("is longer than %d bytes", MaxTextSize) }

// CheckText checks that s can be stored as a key, a label or other short text: at most [MaxTextSize] bytes of valid UTF-8
// without control characters.
func CheckText(s string) error {
	if len(s) > MaxTextSize {
		return errTooLong()
	}
	return checkCharacters(s)
}

// checkNonEmpty checks text that must not be empty.
func checkNonEmpty(s string) error {
	if s == "" {
		return errEmpty
	}
	return CheckText(s)
}

// CheckURLText checks that s can be stored and sent as a URL: not empty, valid UTF-8 without control characters and blanks.
// It does not parse it.
func CheckURLText(s string) error {
	if s == "" {
		return errEmpty
	}
	if err := checkCharacters(s); err != nil {
		return err
	}
	if strings.Contains(s, " ") {
		return errors.New("contains a blank; write %20")
	}
	return nil
}

func checkCharacters(s string) error {
	for i := range len(s) {
		c := s[i]
		if c >= utf8.RuneSelf {
			return checkRunes(s[i:])
		}
		if c < ' ' || c == 0x7f {
			return errControl
		}
	}
	return nil
}

func checkRunes(s string) error {
	if !utf8.ValidString(s) {
		return errUTF8
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return errControl
		}
	}
	return nil
}

// checkHeaderValue checks a value that is stored and sent as a header: a tab is fine, other control characters are not.
func checkHeaderValue(s string) error {
	ascii := true
	for i := range len(s) {
		c := s[i]
		if c < ' ' && c != '\t' || c == 0x7f {
			return errControl
		}
		ascii = ascii && c < utf8.RuneSelf
	}
	if !ascii && !utf8.ValidString(s) {
		return errUTF8
	}
	return nil
}

// checkToken checks the name of a header.
func checkToken(s string) error {
	if s == "" {
		return errors.New("no name follows the prefix")
	}
	for i := range len(s) {
		if c := s[i]; !isAlphanumeric(c) && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return errors.New("is not the name of a header")
		}
	}
	return nil
}

// trim returns s without the blanks around it.
func trim(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// quote quotes what a client sent, cut to a length that suits an error message.
func quote(s string) string {
	const most = 64
	if len(s) > most {
		return strconv.Quote(s[:most]) + "…"
	}
	return strconv.Quote(s)
}

// shorten returns a name that a client sent as it suits an error message: as it is, or quoted if it is long or strange.
func shorten(name string) string {
	if q := quote(name); q[1:len(q)-1] != name {
		return q
	}
	return name
}
