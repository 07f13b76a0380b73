package cron

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxLen is the longest accepted expression, in bytes.
const maxLen = 1024

// field describes one of the five fields: its values, and the names of its values, which begin with the first.
type field struct {
	first, last int
	names       []string
}

// fields are in the order in which they are written.
var fields = [...]field{
	{0, 59, nil}, // minute
	{0, 23, nil}, // hour
	{1, 31, nil}, // day of month
	{1, 12, []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
	{0, 6, []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
}

// descriptors are the expressions with a name.
var descriptors = map[string]string{
	"@yearly":   "0 0 1 1 *",
	"@annually": "0 0 1 1 *",
	"@monthly":  "0 0 1 * *",
	"@weekly":   "0 0 * * 0",
	"@daily":    "0 0 * * *",
	"@midnight": "0 0 * * *",
	"@hourly":   "0 * * * *",
}

// Parse reads an expression; blanks around it do not count.
//
// A field is a list, joined by commas, of *, a value, a range of two values joined by a hyphen, or one of these with a
// slash and a step; a value with a step ranges to the field's end. ? is another spelling of *. Months and days of the week
// have English names of three letters in any case; Sunday is 0.
//
// The grammar and the error texts are those of robfig/cron's ParseStandard, which clients know. The texts are fit to
// follow "Invalid cron expression ". Beyond it, Parse refuses what could only be a mistake there: a field without any
// value, a zone that means the server's own, a duration below one second after @every, and a * that begins a range.
func Parse(spec string) (Schedule, error) {
	spec = strings.TrimSpace(spec)
	if spec == "" {
		return Schedule{}, errors.New("empty spec string")
	}
	if len(spec) > maxLen {
		return Schedule{}, fmt.Errorf("spec string has %d bytes, at most %d are allowed", len(spec), maxLen)
	}
	loc := time.UTC
	if strings.HasPrefix(spec, "TZ=") || strings.HasPrefix(spec, "CRON_TZ=") {
		var err error
		if loc, spec, err = parseZone(spec); err != nil {
			return Schedule{}, err
		}
	}
	if strings.HasPrefix(spec, "@") {
		if every, ok := strings.CutPrefix(spec, "@every "); ok {
			return parseEvery(spec, every)
		}
		expanded, ok := descriptors[spec]
		if !ok {
			return Schedule{}, fmt.Errorf("unrecognized descriptor: %s", spec)
		}
		spec = expanded
	}

	texts := strings.Fields(spec)
	if len(texts) != len(fields) {
		return Schedule{}, fmt.Errorf("expected exactly %d fields, found %d: %s", len(fields), len(texts), texts)
	}
	var sets [len(fields)]uint64
	var stars [len(fields)]bool
	for i, text := range texts {
		var err error
		if sets[i], stars[i], err = fields[i].parse(text); err != nil {
			return Schedule{}, err
		}
	}
	return Schedule{
		loc:      loc,
		minute:   sets[0],
		hour:     sets[1],
		dom:      sets[2],
		month:    sets[3],
		dow:      sets[4],
		domStar:  stars[2],
		dowStar:  stars[4],
		realTime: isStar(texts[1]),
	}, nil
}

// parseZone splits off a leading CRON_TZ= or TZ= with its zone.
func parseZone(spec string) (loc *time.Location, rest string, err error) {
	_, rest, _ = strings.Cut(spec, "=")
	name, rest, ok := strings.Cut(rest, " ")
	if !ok {
		return nil, "", fmt.Errorf("missing fields after timezone in spec %q", spec)
	}
	loc, err = time.LoadLocation(name)
	// The empty name would be UTC, and Local the zone of the machine. LoadLocation's error may name a file.
	if err != nil || name == "" || loc == time.Local {
		return nil, "", fmt.Errorf("provided bad location %s: unknown time zone %[1]s", name)
	}
	return loc, strings.TrimSpace(rest), nil
}

func parseEvery(spec, text string) (Schedule, error) {
	every, err := time.ParseDuration(strings.TrimSpace(text))
	if err != nil {
		return Schedule{}, fmt.Errorf("failed to parse duration %s: %w", spec, err)
	}
	if every < time.Second {
		return Schedule{}, fmt.Errorf("duration must be at least 1s: %s", spec)
	}
	return Schedule{every: every.Truncate(time.Second), anchor: time.Unix(0, 0)}, nil
}

// isStar reports whether the text of a field is *, */n, ? or ?/n, and nothing more.
func isStar(text string) bool {
	base, _, _ := strings.Cut(text, "/")
	return (base == "*" || base == "?") && !strings.Contains(text, ",")
}

// parse returns the values of a field as a bit set, and whether the field is unrestricted: an item is * without a step.
func (f field) parse(text string) (set uint64, star bool, err error) {
	for item := range strings.SplitSeq(text, ",") {
		if item == "" {
			continue
		}
		first, last, step, err := f.parseItem(item)
		if err != nil {
			return 0, false, err
		}
		for n := first; n <= last; n += step {
			set |= 1 << n
		}
		star = star || isStar(item) && step == 1
	}
	if set == 0 {
		return 0, false, fmt.Errorf("empty list of values: %s", text)
	}
	return set, star, nil
}

// parseItem returns f.first ≤ first ≤ last ≤ f.last and 1 ≤ step ≤ 64.
func (f field) parseItem(item string) (first, last, step int, err error) {
	base, stepText, stepped := strings.Cut(item, "/")
	if strings.Contains(stepText, "/") {
		return 0, 0, 0, fmt.Errorf("too many slashes: %s", item)
	}
	first, last = f.first, f.last
	if base != "*" && base != "?" {
		low, high, ranged := strings.Cut(base, "-")
		if strings.Contains(high, "-") {
			return 0, 0, 0, fmt.Errorf("too many hyphens: %s", item)
		}
		if first, err = f.value(low); err != nil {
			return 0, 0, 0, err
		}
		switch {
		case ranged:
			if last, err = f.value(high); err != nil {
				return 0, 0, 0, err
			}
		case !stepped:
			last = first
		}
	}
	step = 1
	if stepped {
		if step, err = number(stepText); err != nil {
			return 0, 0, 0, err
		}
	}
	switch {
	case first < f.first:
		return 0, 0, 0, fmt.Errorf("beginning of range (%d) below minimum (%d): %s", first, f.first, item)
	case last > f.last:
		return 0, 0, 0, fmt.Errorf("end of range (%d) above maximum (%d): %s", last, f.last, item)
	case first > last:
		return 0, 0, 0, fmt.Errorf("beginning of range (%d) beyond end of range (%d): %s", first, last, item)
	case step == 0:
		return 0, 0, 0, fmt.Errorf("step of range should be a positive number: %s", item)
	}
	return first, last, min(step, 64), nil
}

// value reads a name of the field, or a number.
func (f field) value(text string) (int, error) {
	if i := slices.Index(f.names, strings.ToLower(text)); i >= 0 {
		return f.first + i, nil
	}
	return number(text)
}

func number(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("failed to parse int from %s: %w", text, err)
	}
	if n < 0 {
		return 0, fmt.Errorf("negative number (%d) not allowed: %s", n, text)
	}
	return n, nil
}
