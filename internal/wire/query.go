package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/posthaste/posthaste"
)

// Filter selects messages, log entries or dead letters. The values of one field are alternatives; fields restrict each other;
// an empty field restricts nothing.
type Filter struct {
	MessageIDs []posthaste.MessageID
	URLs       []string
	Groups     []string
	Queues     []string
	Schedules  []posthaste.ScheduleID
	Labels     []string // a message matches with any of its labels
	Hosts      []string // lower case, with the port if the URL has one
	Paths      []string // without the query
	CallerIPs  []string
	FlowKeys   []string // a message matches with any of its keys
	From, To   time.Time
}

// LogFilter selects log entries and the page to show. From and To bound the entries' time.
type LogFilter struct {
	Filter
	States        []posthaste.LogState
	Count         int
	Cursor        *Cursor // nil: from the start
	EarliestFirst bool
}

// DeadFilter selects dead letters and, on a list, the page to show. From and To bound the time of the entry.
type DeadFilter struct {
	Filter
	IDs      []posthaste.DeadLetterID
	Statuses []int
	// Nothing says that the selection is empty whatever there is.
	Nothing bool
	// Count bounds how many are listed, deleted or retried; 0 with explicit IDs that are to be deleted or retried: all.
	Count       int
	Cursor      *Cursor // nil: from the start
	LatestFirst bool
}

// CancelFilter selects messages to cancel, oldest first. From and To bound their acceptance.
type CancelFilter struct {
	Filter
	// Nothing says that the selection is empty whatever there is: the query and the body exclude each other.
	Nothing bool
	Count   int // 0: no bound
}

// Cursor says where a list goes on: at a time, and there after Rest, whose form the lister chooses. A cursor without Rest was
// made by a client, and means all from that time on.
type Cursor struct {
	Millis int64
	Rest   string // letters, digits, '.', '_', '-'; may be empty
}

// String returns the cursor as clients pass it back.
func (c Cursor) String() string {
	s := strconv.FormatInt(c.Millis, 10)
	if c.Rest != "" {
		s += "-" + c.Rest
	}
	return s
}

// ParseCursor reads what [Cursor.String] wrote, or a bare time in unix milliseconds.
func ParseCursor(s string) (Cursor, error) {
	ms, rest, more := strings.Cut(s, "-")
	n, err := parseDigits(ms)
	if err == nil && more {
		err = CheckName(rest)
	}
	if err != nil {
		return Cursor{}, fmt.Errorf("malformed cursor %s", quote(s))
	}
	return Cursor{n, rest}, nil
}

// LogRoute is one of the two routes that list log entries. They differ in their pages.
type LogRoute uint8

// The routes.
const (
	RouteEvents LogRoute = iota
	RouteLogs
)

// Page sizes.
const (
	maxEvents = 1000
	maxLogs   = 100
	maxDead   = 100
	maxCancel = 500
)

// identityParams are the filters that every list and bulk call has.
var identityParams = []string{
	paramURL, paramTopicName, paramURLGroup, paramScheduleID, paramQueueName, paramLabel, paramCallerIP, paramCallerIPOld,
	paramFlowControlKey, paramFromDate, paramToDate, paramCount, paramCursor,
}

var (
	cancelParams = append([]string{paramMessageIDs, paramHost, paramPath}, identityParams...)
	logParams    = append([]string{paramMessageID, paramState, paramOrder}, cancelParams...)
	deadParams   = append([]string{paramDeadIDs, paramMessageID, paramStatus, paramOrder}, identityParams...)
	// A list ignores the filter by API, which is no more. A bulk call refuses it, lest it be taken for no filter at all.
	deadListParams = append([]string{paramAPI}, deadParams...)
)

// ParseLogFilter reads the query of a list of log entries. Unknown parameters are ignored.
func ParseLogFilter(rawQuery string, route LogRoute) (LogFilter, error) {
	src, err := readQuery(rawQuery, logParams, false)
	if err != nil {
		return LogFilter{}, err
	}
	most := maxEvents
	if route == RouteLogs {
		most = maxLogs
	}
	f := LogFilter{Filter: src.filter()}
	f.MessageIDs = append(f.MessageIDs, convert[posthaste.MessageID](src.list(paramMessageID))...)
	f.States = src.states()
	f.Count = src.count(most, most, false)
	f.Cursor = src.cursor()
	f.EarliestFirst = src.order(orderLatest) == orderEarliest
	return f, src.err
}

// ParseDeadFilter reads the query of a list of dead letters.
func ParseDeadFilter(rawQuery string) (DeadFilter, error) {
	src, err := readQuery(rawQuery, deadListParams, true)
	if err != nil {
		return DeadFilter{}, err
	}
	f := src.deadFilter()
	return f, src.err
}

// ParseDeadSelection reads the query and the body, which may be empty, of a bulk delete or retry of dead letters. Explicit ids
// make it ignore every other filter; an empty list of ids in the body selects nothing.
func ParseDeadSelection(rawQuery string, body []byte) (DeadFilter, error) {
	src, err := readQuery(rawQuery, deadParams, true)
	if err != nil {
		return DeadFilter{}, err
	}
	src.destructive = true
	f := src.deadFilter()
	if src.err != nil {
		return DeadFilter{}, src.err
	}
	named, err := readFilterBody(body, []string{paramDeadIDs})
	if err != nil {
		return DeadFilter{}, err
	}
	if ids, given := named.values[paramDeadIDs]; given {
		if len(ids) > 0 {
			f.IDs, f.Nothing = intersect(f.IDs, convert[posthaste.DeadLetterID](named.list(paramDeadIDs)))
		} else {
			f.Nothing = true
		}
		if named.err != nil {
			return DeadFilter{}, named.err
		}
	}
	switch {
	case f.Nothing:
		return DeadFilter{Nothing: true}, nil
	case len(f.IDs) > 0:
		return DeadFilter{IDs: f.IDs}, nil
	}
	return f, nil
}

// ParseCancelFilter reads the query and the body, which may be empty, of a bulk cancel. Both must match. Explicit message ids
// make it ignore every other filter.
func ParseCancelFilter(rawQuery string, body []byte) (CancelFilter, error) {
	src, err := readQuery(rawQuery, cancelParams, true)
	if err != nil {
		return CancelFilter{}, err
	}
	src.destructive = true
	f := src.cancelFilter()
	if src.err != nil {
		return CancelFilter{}, src.err
	}
	named, err := readFilterBody(body, cancelParams)
	if err != nil {
		return CancelFilter{}, err
	}
	if ids, given := named.values[paramMessageIDs]; given && len(ids) == 0 {
		delete(named.values, paramMessageIDs) // as if it were absent
	}
	g := named.cancelFilter()
	if named.err != nil {
		return CancelFilter{}, named.err
	}
	if len(f.MessageIDs) > 0 || len(g.MessageIDs) > 0 {
		f.Filter, g.Filter = Filter{MessageIDs: f.MessageIDs}, Filter{MessageIDs: g.MessageIDs}
	}
	return f.and(g), nil
}

// and returns the filter that selects what both select.
func (f CancelFilter) and(g CancelFilter) CancelFilter {
	empty := false
	f.MessageIDs = both(f.MessageIDs, g.MessageIDs, &empty)
	f.URLs = both(f.URLs, g.URLs, &empty)
	f.Groups = both(f.Groups, g.Groups, &empty)
	f.Queues = both(f.Queues, g.Queues, &empty)
	f.Schedules = both(f.Schedules, g.Schedules, &empty)
	f.Hosts = both(f.Hosts, g.Hosts, &empty)
	f.Paths = both(f.Paths, g.Paths, &empty)
	f.CallerIPs = both(f.CallerIPs, g.CallerIPs, &empty)
	f.Labels = both(f.Labels, g.Labels, &empty)
	f.FlowKeys = both(f.FlowKeys, g.FlowKeys, &empty)
	if g.From.After(f.From) {
		f.From = g.From
	}
	if f.To.IsZero() || !g.To.IsZero() && g.To.Before(f.To) {
		f.To = g.To
	}
	if f.Count == 0 || g.Count > 0 && g.Count < f.Count {
		f.Count = g.Count
	}
	if empty {
		return CancelFilter{Nothing: true}
	}
	return f
}

func both[T comparable](a, b []T, empty *bool) []T {
	list, none := intersect(a, b)
	*empty = *empty || none
	return list
}

// intersect returns what is in both lists, where an empty list stands for everything. empty says that nothing is.
func intersect[T comparable](a, b []T) (list []T, empty bool) {
	switch {
	case len(a) == 0:
		return b, false
	case len(b) == 0:
		return a, false
	}
	in := make(map[T]bool, len(b))
	for _, v := range b {
		in[v] = true
	}
	for _, v := range a {
		if in[v] {
			list = append(list, v)
		}
	}
	return list, len(list) == 0
}

// source is where a filter is read from. Its methods keep the first error in err.
type source struct {
	values map[string][]string
	// whole says that a value is one value, as in JSON; in a query it may be a comma-separated list.
	whole bool
	// destructive says that a filter without a value is refused, lest it select everything.
	destructive bool
	what        string // for errors
	err         error
}

// readQuery reads the known parameters of a raw query. Others are an error if strict, and ignored otherwise.
func readQuery(raw string, known []string, strict bool) (*source, error) {
	src := &source{values: make(map[string][]string), what: "query parameter"}
	for piece := range strings.SplitSeq(raw, "&") {
		if piece == "" {
			continue
		}
		name, value, _ := strings.Cut(piece, "=")
		if decoded, err := url.QueryUnescape(name); err == nil {
			name = decoded
		}
		if !slices.Contains(known, name) {
			if strict && name != paramToken {
				return nil, posthaste.Errorf(posthaste.CodeInvalid, "invalid query parameter: %s", shorten(name))
			}
			continue
		}
		value, err := url.QueryUnescape(value)
		if err == nil {
			err = checkCharacters(value)
		}
		if err != nil {
			return nil, posthaste.Errorf(posthaste.CodeInvalid, "invalid query parameter: %s: %v", name, err)
		}
		src.values[name] = append(src.values[name], value)
	}
	return src, nil
}

// readFilterBody reads filters from a JSON object: strings, numbers, or arrays of them. An empty body has none.
func readFilterBody(body []byte, known []string) (*source, error) {
	src := &source{values: make(map[string][]string), whole: true, destructive: true, what: "field"}
	if len(bytes.TrimSpace(body)) == 0 {
		return src, nil
	}
	var fields map[string]json.RawMessage
	if err := unmarshal(body, &fields); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if !slices.Contains(known, name) {
			return nil, posthaste.Errorf(posthaste.CodeInvalid, "invalid field: %s", shorten(name))
		}
		raw := fields[name]
		if string(raw) == "null" {
			continue
		}
		list := []json.RawMessage{raw}
		if raw[0] == '[' {
			list = nil
			if err := unmarshal(raw, &list); err != nil {
				return nil, err
			}
		}
		values := make([]string, len(list))
		for i, item := range list {
			err := json.Unmarshal(item, &values[i])
			if err != nil && item[0] != '{' && item[0] != '[' {
				values[i], err = string(item), nil // a number; true and false are no value of any filter
			}
			if err == nil {
				err = checkCharacters(values[i])
			}
			if err != nil {
				return nil, posthaste.Errorf(posthaste.CodeInvalid, "invalid field: %s: %v", name, err)
			}
		}
		src.values[name] = values
	}
	return src, nil
}

func (s *source) fail(name string, err error) {
	if s.err == nil && err != nil {
		s.err = posthaste.Errorf(posthaste.CodeInvalid, "invalid %s: %s: %v", s.what, name, err)
	}
}

// list returns the values of a filter that any of them may meet.
func (s *source) list(name string) []string {
	return s.split(name, func(v string) []string { return strings.Split(v, ",") })
}

// split returns the values of a filter, each cut by pieces.
func (s *source) split(name string, pieces func(string) []string) []string {
	given, ok := s.values[name]
	if !ok {
		return nil
	}
	var list []string
	for _, v := range given {
		parts := []string{v}
		if !s.whole {
			parts = pieces(v)
		}
		for _, part := range parts {
			if part = trim(part); part != "" {
				list = append(list, part)
			}
		}
	}
	if len(list) == 0 && s.destructive {
		s.fail(name, errEmpty)
	}
	return list
}

// one returns the value of a parameter that has one; an empty one counts as absent.
func (s *source) one(name string) (string, bool) {
	given, ok := s.values[name]
	if len(given) > 0 {
		if v := trim(given[0]); v != "" {
			return v, true
		}
	}
	if ok && s.destructive && name != paramCursor {
		s.fail(name, errEmpty)
	}
	return "", false
}

func (s *source) filter() Filter {
	f := Filter{
		MessageIDs: convert[posthaste.MessageID](s.list(paramMessageIDs)),
		URLs:       s.split(paramURL, splitBefore("http://", "https://")),
		Groups:     append(s.list(paramTopicName), s.list(paramURLGroup)...),
		Queues:     s.list(paramQueueName),
		Schedules:  convert[posthaste.ScheduleID](s.list(paramScheduleID)),
		Labels:     s.list(paramLabel),
		Hosts:      s.list(paramHost),
		Paths:      s.split(paramPath, splitBefore("/")),
		CallerIPs:  append(s.list(paramCallerIP), s.list(paramCallerIPOld)...),
		FlowKeys:   s.split(paramFlowControlKey, splitKeys),
		From:       s.date(paramFromDate, false),
		To:         s.date(paramToDate, true),
	}
	for i, host := range f.Hosts {
		f.Hosts[i] = strings.ToLower(host)
	}
	return f
}

func (s *source) deadFilter() DeadFilter {
	f := DeadFilter{Filter: s.filter()}
	f.MessageIDs = append(f.MessageIDs, convert[posthaste.MessageID](s.list(paramMessageID))...)
	f.IDs = convert[posthaste.DeadLetterID](s.list(paramDeadIDs))
	for _, v := range s.list(paramStatus) {
		n, err := ParseInt(v)
		s.fail(paramStatus, err)
		f.Statuses = append(f.Statuses, n)
	}
	f.Count = s.count(maxDead, maxDead, false)
	f.Cursor = s.cursor()
	f.LatestFirst = s.order(orderEarliest) == orderLatest
	return f
}

func (s *source) cancelFilter() CancelFilter {
	return CancelFilter{Filter: s.filter(), Count: s.count(0, maxCancel, true)}
}

// date reads a moment in unix milliseconds. Since both ends of a range belong to it, its end is the last instant of the
// millisecond.
func (s *source) date(name string, end bool) time.Time {
	v, ok := s.one(name)
	if !ok {
		return time.Time{}
	}
	n, err := parseDigits(v)
	if err != nil {
		s.fail(name, err)
		return time.Time{}
	}
	t := time.UnixMilli(min(n, latestSecond*1000)).UTC()
	if end {
		t = t.Add(time.Millisecond - 1)
	}
	return t
}

// count reads a page's size. A larger one than allowed is an error if exact, and cut otherwise.
func (s *source) count(absent, most int, exact bool) int {
	v, ok := s.one(paramCount)
	if !ok {
		return absent
	}
	n, err := parseDigits(v)
	switch {
	case err != nil:
	case n < 1:
		err = fmt.Errorf("%s is not 1 or more", quote(v))
	case n > int64(most) && exact:
		err = fmt.Errorf("%s is more than %d", quote(v), most)
	}
	s.fail(paramCount, err)
	return int(min(n, int64(most)))
}

func (s *source) cursor() *Cursor {
	v, ok := s.one(paramCursor)
	if !ok {
		return nil
	}
	c, err := ParseCursor(v)
	s.fail(paramCursor, err)
	return &c
}

func (s *source) order(absent string) string {
	v, ok := s.one(paramOrder)
	switch {
	case !ok:
		return absent
	case v != orderLatest && v != orderEarliest:
		s.fail(paramOrder, fmt.Errorf("%s is neither %s nor %s", quote(v), orderLatest, orderEarliest))
	}
	return v
}

// states reads states of log entries, with the spellings and the group of states that only filters know.
func (s *source) states() []posthaste.LogState {
	var states []posthaste.LogState
	for _, v := range s.list(paramState) {
		switch state := posthaste.LogState(v); state {
		case posthaste.StateCreated, posthaste.StateActive, posthaste.StateDelivered, posthaste.StateError, posthaste.StateRetry,
			posthaste.StateFailed, posthaste.StateCancelRequested, posthaste.StateCanceled:
			states = append(states, state)
		case "CANCELLED":
			states = append(states, posthaste.StateCanceled)
		case "IN_PROGRESS":
			states = append(states, posthaste.StateActive, posthaste.StateRetry, posthaste.StateError)
		default:
			s.fail(paramState, fmt.Errorf("unknown state %s", quote(v)))
		}
	}
	return states
}

// splitBefore splits a list at those commas that one of the given beginnings follows, for values that may have commas.
func splitBefore(beginnings ...string) func(string) []string {
	return func(v string) []string {
		var list []string
		from := 0
		for i := range len(v) {
			if v[i] != ',' {
				continue
			}
			next := strings.TrimLeft(v[i+1:], " \t")
			if slices.ContainsFunc(beginnings, func(b string) bool { return hasPrefixFold(next, b) }) {
				list = append(list, v[from:i])
				from = i + 1
			}
		}
		return append(list, v[from:])
	}
}

// splitKeys splits a list of flow-control keys. Since a comma may be part of a key, the whole is one more alternative.
func splitKeys(v string) []string {
	list := strings.Split(v, ",")
	if len(list) > 1 {
		list = append(list, v)
	}
	return list
}

func convert[T, S ~string](list []S) []T {
	if len(list) == 0 {
		return nil
	}
	out := make([]T, len(list))
	for i, v := range list {
		out[i] = T(v)
	}
	return out
}

// Pin is which limits of a flow-control key are to be pinned. At least one of Parallelism and Rate is set.
type Pin struct {
	Parallelism int           // 0: as it is
	Rate        int           // 0: as it is
	Period      time.Duration // 0: as it is; only with Rate
}

// ParsePin reads the query of a pin.
func ParsePin(rawQuery string) (Pin, error) {
	src, err := readQuery(rawQuery, []string{paramParallelism, paramRate, paramPeriod}, false)
	if err != nil {
		return Pin{}, err
	}
	var p Pin
	if v, ok := src.one(paramParallelism); ok {
		p.Parallelism, err = parsePositive(v)
		src.fail(paramParallelism, err)
	}
	if v, ok := src.one(paramRate); ok {
		p.Rate, err = parsePositive(v)
		src.fail(paramRate, err)
	}
	if v, ok := src.one(paramPeriod); ok {
		p.Period, err = parsePeriod(v)
		if err == nil && p.Rate == 0 {
			err = errors.New("it needs rate too")
		}
		src.fail(paramPeriod, err)
	}
	if src.err == nil && p == (Pin{}) {
		src.err = posthaste.Errorf(posthaste.CodeInvalid, "nothing to pin: give parallelism or rate")
	}
	if src.err != nil {
		return Pin{}, src.err
	}
	return p, nil
}

// Unpin is which pins of a flow-control key are to be cleared.
type Unpin struct {
	Parallelism, Rate bool
}

// ParseUnpin reads the query of an unpin.
func ParseUnpin(rawQuery string) (Unpin, error) {
	src, err := readQuery(rawQuery, []string{paramParallelism, paramRate}, false)
	if err != nil {
		return Unpin{}, err
	}
	var u Unpin
	if v, ok := src.one(paramParallelism); ok {
		u.Parallelism, err = ParseBool(v)
		src.fail(paramParallelism, err)
	}
	if v, ok := src.one(paramRate); ok {
		u.Rate, err = ParseBool(v)
		src.fail(paramRate, err)
	}
	if src.err != nil {
		return Unpin{}, src.err
	}
	return u, nil
}

// ParseFlowSearch reads the query of a list of flow-control keys: the text that the keys must contain.
func ParseFlowSearch(rawQuery string) (string, error) {
	src, err := readQuery(rawQuery, []string{paramSearch}, false)
	if err != nil {
		return "", err
	}
	search := src.values[paramSearch]
	if len(search) == 0 {
		return "", nil
	}
	return search[0], nil
}

// flowActions are the words that may end the path of a call on a flow-control key.
var flowActions = [...]string{PathPause, PathResume, PathPin, PathUnpin, PathResetRate, PathReset}

// ParseFlowPath reads what follows the fixed part of a flow-control path, still percent-encoded: a key, which may have slashes,
// and with withAction, for POST, one of the words pause, resume, pin, unpin, resetRate, reset. ok is false when that word is
// missing.
func ParseFlowPath(rest string, withAction bool) (key, action string, ok bool, err error) {
	if withAction {
		i := strings.LastIndexByte(rest, '/')
		word := strings.TrimPrefix(rest[max(i, 0):], "/")
		for _, a := range flowActions {
			if strings.EqualFold(word, a) {
				action = a
			}
		}
		if action == "" {
			return "", "", false, nil
		}
		rest = rest[:max(i, 0)]
	}
	key, err = url.PathUnescape(rest)
	if err == nil {
		err = checkNonEmpty(key)
	}
	if err != nil {
		return "", "", true, posthaste.Errorf(posthaste.CodeInvalid, "invalid flow control key: %v", err)
	}
	return key, action, true, nil
}

// ParseSchedulePath reads what follows the fixed part of a schedule's path, still percent-encoded, when it asks to pause or
// resume a schedule. ok is false when it does not, and so is a destination.
func ParseSchedulePath(rest string) (id posthaste.ScheduleID, action string, ok bool) {
	segment, word, _ := strings.Cut(rest, "/")
	name, err := url.PathUnescape(segment)
	if err != nil || CheckName(name) != nil {
		return "", "", false
	}
	for _, a := range [...]string{PathPause, PathResume} {
		if strings.EqualFold(word, a) {
			return posthaste.ScheduleID(name), a, true
		}
	}
	return "", "", false
}
