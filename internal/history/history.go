// Package history derives the log from what the store keeps: CREATED from messages, ACTIVE from running tickets and finished
// attempts, the outcomes from attempts, cancels from marks. Nothing is written for the log alone but those marks.
//
// The order of entries is total: time, message id, attempt, state. A page scans a bounded number of rows and returns a cursor
// where it stopped, so that no request reads everything, whatever its filters.
package history

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/compose"
	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/wire"
)

// Bounds of one page.
const (
	maxScan  = 4000                  // rows read
	minScan  = 1500                  // rows read however long it takes: a full page and some
	maxTime  = 20 * time.Millisecond // after which no more than minScan are
	minChunk = 16                    // rows of a stream read at a time
	maxChunk = 256
	maxByIDs = 1000 // messages named by a filter
)

// Match reports whether a message passes a filter. The time bounds are for the caller: what they are about differs.
func Match(m *posthaste.Message, f *wire.Filter) bool {
	return among(f.MessageIDs, m.ID) && among(f.URLs, m.URL) && among(f.Groups, m.Group) && among(f.Queues, m.Queue) &&
		among(f.Schedules, m.Schedule) && among(f.CallerIPs, m.CallerIP) &&
		(len(f.Labels) == 0 || slices.ContainsFunc(m.Labels, func(l string) bool { return slices.Contains(f.Labels, l) })) &&
		(len(f.FlowKeys) == 0 || slices.ContainsFunc(m.Flow, func(k posthaste.FlowControl) bool { return slices.Contains(f.FlowKeys, k.Key) })) &&
		(len(f.Hosts) == 0 || slices.Contains(f.Hosts, compose.Host(m.URL))) &&
		(len(f.Paths) == 0 || slices.Contains(f.Paths, compose.Path(m.URL)))
}

func among[T comparable](list []T, v T) bool { return len(list) == 0 || slices.Contains(list, v) }

// Plain reports whether a filter asks nothing of the message itself.
func Plain(f *wire.Filter) bool {
	return len(f.MessageIDs) == 0 && len(f.URLs) == 0 && len(f.Groups) == 0 && len(f.Queues) == 0 && len(f.Schedules) == 0 &&
		len(f.CallerIPs) == 0 && len(f.Labels) == 0 && len(f.FlowKeys) == 0 && len(f.Hosts) == 0 && len(f.Paths) == 0
}

// Of returns the entries of one message in order. It returns nil for a nil message.
func Of(ctx context.Context, r store.Reader, m *posthaste.Message) ([]*posthaste.LogEntry, error) {
	if m == nil {
		return nil, nil
	}
	// The ticket is read first: an attempt that ends in between is then seen twice, and not lost.
	t, err := r.Ticket(ctx, m.ID)
	if err != nil {
		return nil, err
	}
	attempts, err := r.Attempts(ctx, m.Tenant, m.ID)
	if err != nil {
		return nil, err
	}
	marks, err := r.Marks(ctx, m.Tenant, m.ID)
	if err != nil {
		return nil, err
	}
	entries := created(m, m.ClaimedAtOnce)
	for _, a := range attempts {
		if !a.AtOnce {
			entries = append(entries, active(m, a.StartedAt, a.Number))
		}
		entries = append(entries, ended(m, a)...)
	}
	if t != nil && t.Phase == posthaste.PhaseClaimed && !t.AtOnce &&
		!slices.ContainsFunc(attempts, func(a *posthaste.Attempt) bool { return a.Number == t.Attempt }) {
		entries = append(entries, active(m, t.StartedAt, t.Attempt))
	}
	for _, k := range marks {
		entries = append(entries, &posthaste.LogEntry{At: k.At, Message: m, State: k.State})
	}
	slices.SortFunc(entries, compare)
	return entries, nil
}

func created(m *posthaste.Message, atOnce bool) []*posthaste.LogEntry {
	c := &posthaste.LogEntry{At: m.CreatedAt, Message: m, State: posthaste.StateCreated}
	if m.NotBefore.After(m.CreatedAt) {
		c.NextAt = m.NotBefore
	}
	if !atOnce {
		return []*posthaste.LogEntry{c}
	}
	return []*posthaste.LogEntry{c, active(m, m.CreatedAt, 0)}
}

func active(m *posthaste.Message, at time.Time, number int) *posthaste.LogEntry {
	return &posthaste.LogEntry{At: at, Message: m, State: posthaste.StateActive, Number: number}
}

// ended returns what a finished attempt logged.
func ended(m *posthaste.Message, a *posthaste.Attempt) []*posthaste.LogEntry {
	last := &posthaste.LogEntry{At: a.EndedAt, Message: m, State: a.State, Attempt: a, NextAt: a.NextAt, Number: a.Number}
	if a.State == posthaste.StateDelivered {
		return []*posthaste.LogEntry{last}
	}
	return []*posthaste.LogEntry{{At: a.EndedAt, Message: m, State: posthaste.StateError, Attempt: a, Number: a.Number}, last}
}

func compare(a, b *posthaste.LogEntry) int { return placeOf(a).compare(placeOf(b)) }

// place is the position of an entry in the total order.
type place struct {
	at  time.Time
	id  posthaste.MessageID
	sub int // among the entries of one message at one moment
}

// Positions before and behind all entries of one message at one moment.
const (
	subFirst = -1
	subLast  = 99
)

func placeOf(e *posthaste.LogEntry) place { return place{e.At, e.Message.ID, subOf(e.State)} }

// subOf orders entries of one message at one moment. All of them come from one operation, because operations have moments of
// their own: an acceptance with its first start, a settlement, a cancel.
func subOf(s posthaste.LogState) int {
	switch s {
	case posthaste.StateCreated:
		return 0
	case posthaste.StateActive:
		return 1
	case posthaste.StateCancelRequested:
		return 2
	case posthaste.StateError:
		return 3
	case posthaste.StateRetry:
		return 4
	case posthaste.StateDelivered, posthaste.StateFailed, posthaste.StateCanceled:
		return 5
	}
	return subLast
}

func (p place) compare(o place) int {
	return cmp.Or(p.at.Compare(o.at), strings.Compare(string(p.id), string(o.id)), cmp.Compare(p.sub, o.sub))
}

// cursor spells a position: "<ms>-<µs>.<id>.<sub>".
func (p place) cursor() string {
	us := p.at.UnixMicro()
	return wire.Cursor{
		Millis: us / 1000, Rest: strconv.FormatInt(us%1000, 10) + "." + string(p.id) + "." + strconv.Itoa(p.sub+1),
	}.String()
}

// parsePlace reads a position. One without a rest is a time: the page begins with entries of that millisecond.
func parsePlace(c *wire.Cursor, desc bool) (place, error) {
	bad := posthaste.Errorf(posthaste.CodeInvalid, "invalid query parameter: cursor: malformed cursor")
	if c.Millis > math.MaxInt64/1000-1 {
		return place{}, bad
	}
	if c.Rest == "" {
		at := time.UnixMilli(c.Millis).UTC()
		if desc {
			at = at.Add(time.Millisecond)
		}
		return place{at: at, sub: subFirst}, nil
	}
	parts := strings.Split(c.Rest, ".")
	if len(parts) != 3 {
		return place{}, bad
	}
	us, err := strconv.ParseInt(parts[0], 10, 64)
	if err != nil || us < 0 || us > 999 {
		return place{}, bad
	}
	n, err := strconv.ParseInt(parts[2], 10, 32)
	if err != nil {
		return place{}, bad
	}
	return place{at: time.UnixMicro(c.Millis*1000 + us).UTC(), id: posthaste.MessageID(parts[1]), sub: int(n) - 1}, nil
}

// Page returns log entries that pass the filter, and a cursor if there may be more.
func Page(ctx context.Context, r store.Reader, tenant posthaste.TenantID, f wire.LogFilter) ([]*posthaste.LogEntry, string, error) {
	p := &pager{r: r, tenant: tenant, f: f, desc: !f.EarliestFirst}
	if f.Cursor != nil {
		after, err := parsePlace(f.Cursor, p.desc)
		if err != nil {
			return nil, "", err
		}
		p.after, p.begun = after, true
	}
	if len(f.MessageIDs) > 0 {
		return p.byID(ctx)
	}
	return p.merge(ctx)
}

// pager makes one page.
type pager struct {
	r      store.Reader
	tenant posthaste.TenantID
	f      wire.LogFilter
	desc   bool
	after  place // entries up to here were on earlier pages
	begun  bool  // there were earlier pages
}

// wanted reports whether an entry passes what the filter says of entries themselves.
func (p *pager) wanted(at time.Time, state posthaste.LogState) bool {
	return among(p.f.States, state) && (p.f.From.IsZero() || !at.Before(p.f.From)) && (p.f.To.IsZero() || !at.After(p.f.To))
}

// ahead reports whether an entry comes after the cursor.
func (p *pager) ahead(e *posthaste.LogEntry) bool {
	if !p.begun {
		return true
	}
	c := placeOf(e).compare(p.after)
	return c > 0 && !p.desc || c < 0 && p.desc
}

// byID lists the entries of named messages.
func (p *pager) byID(ctx context.Context) ([]*posthaste.LogEntry, string, error) {
	if len(p.f.MessageIDs) > maxByIDs {
		return nil, "", posthaste.Errorf(posthaste.CodeInvalid, "invalid query parameter: messageIds: at most %d", maxByIDs)
	}
	ids := slices.Compact(slices.Sorted(slices.Values(p.f.MessageIDs)))
	var all []*posthaste.LogEntry
	for _, id := range ids {
		m, err := p.r.Message(ctx, p.tenant, id)
		if err != nil {
			return nil, "", err
		}
		if m == nil || !Match(m, &p.f.Filter) {
			continue
		}
		entries, err := Of(ctx, p.r, m)
		if err != nil {
			return nil, "", err
		}
		for _, e := range entries {
			if p.wanted(e.At, e.State) && p.ahead(e) {
				all = append(all, e)
			}
		}
	}
	p.sort(all)
	if len(all) > p.f.Count {
		all = all[:p.f.Count]
		return all, placeOf(all[len(all)-1]).cursor(), nil
	}
	return all, "", nil
}

func (p *pager) sort(entries []*posthaste.LogEntry) {
	slices.SortFunc(entries, func(a, b *posthaste.LogEntry) int {
		if p.desc {
			a, b = b, a
		}
		return compare(a, b)
	})
}

// stream is a source of rows that is read in chunks.
type stream struct {
	kind store.LogStream
	rows []store.LogRow
	pos  store.LogPos
	done bool
}

// merge lists entries of all messages by merging the streams.
func (p *pager) merge(ctx context.Context) ([]*posthaste.LogEntry, string, error) {
	var begin store.LogPos
	switch {
	case p.begun && p.desc:
		begin = store.LogPos{At: p.after.at, ID: p.after.id, N: math.MaxInt32}
	case p.begun:
		begin = store.LogPos{At: p.after.at, ID: p.after.id, N: -1}
	case p.desc:
		begin = store.LogPos{At: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), N: -1}
	default:
		begin = store.LogPos{N: -1}
	}
	if p.desc && !p.f.To.IsZero() && p.f.To.Before(begin.At) {
		begin = store.LogPos{At: p.f.To.Add(time.Microsecond), N: -1}
	}
	if !p.desc && p.f.From.After(begin.At) {
		begin = store.LogPos{At: p.f.From, N: -1}
	}
	streams := make([]*stream, 0, 4)
	for _, k := range []store.LogStream{store.StreamCreated, store.StreamStarted, store.StreamEnded, store.StreamMarks} {
		streams = append(streams, &stream{kind: k, pos: begin})
	}
	running, err := p.running(ctx)
	if err != nil {
		return nil, "", err
	}
	var page []*posthaste.LogEntry
	var batch []row
	flush := func() error {
		got, err := p.resolve(ctx, batch)
		batch = batch[:0]
		page = append(page, got...)
		return err
	}
	full := func() bool {
		if len(page) > p.f.Count {
			page = page[:p.f.Count]
			return true
		}
		return false
	}
	var last row
	stop := time.Now().Add(maxTime)
	for scanned := 0; ; scanned++ {
		over := scanned >= maxScan || scanned >= minScan && scanned%32 == 0 && time.Now().After(stop)
		next, err := p.next(ctx, streams, &running)
		if err != nil {
			return nil, "", err
		}
		end := next == nil || p.beyond(next.At)
		// A page ends, and a batch is resolved, only where the moment or the message changes.
		if end || scanned > 0 && (!next.At.Equal(last.At) || next.ID != last.ID) {
			if end || len(batch) >= max(64, p.f.Count+1-len(page)) || over {
				if err := flush(); err != nil {
					return nil, "", err
				}
			}
			switch {
			case full():
				return page, placeOf(page[len(page)-1]).cursor(), nil
			case end:
				return page, "", nil
			case over:
				return page, last.place(p.desc).cursor(), nil
			}
		}
		batch = append(batch, *next)
		last = *next
	}
}

// beyond reports whether a row lies past the filter's bounds, so that nothing more can follow.
func (p *pager) beyond(at time.Time) bool {
	if p.desc {
		return !p.f.From.IsZero() && at.Before(p.f.From)
	}
	return !p.f.To.IsZero() && at.After(p.f.To)
}

// row is a row of some stream.
type row struct {
	store.LogRow
	kind    store.LogStream
	running bool
}

// place returns the position behind all entries of a row.
func (r *row) place(desc bool) place {
	if desc {
		return place{r.At, r.ID, subFirst}
	}
	return place{r.At, r.ID, subLast}
}

// next takes the next row in order from the streams; nil at the end.
func (p *pager) next(ctx context.Context, streams []*stream, running *[]row) (*row, error) {
	var from *stream
	var best *row
	for _, s := range streams {
		if len(s.rows) == 0 && !s.done {
			rows, err := p.r.LogRows(ctx, p.tenant, s.kind, s.pos, store.Page{Limit: p.chunk(), Desc: p.desc})
			if err != nil {
				return nil, err
			}
			s.rows, s.done = rows, len(rows) < p.chunk()
			if len(rows) > 0 {
				s.pos = rows[len(rows)-1].LogPos
			}
		}
		if len(s.rows) == 0 {
			continue
		}
		if r := (&row{LogRow: s.rows[0], kind: s.kind}); best == nil || p.before(r, best) {
			best, from = r, s
		}
	}
	if len(*running) > 0 {
		if r := &(*running)[0]; best == nil || p.before(r, best) {
			*running = (*running)[1:]
			return r, nil
		}
	}
	if from != nil {
		from.rows = from.rows[1:]
	}
	return best, nil
}

func (p *pager) before(a, b *row) bool {
	c := cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID), cmp.Compare(a.N, b.N), cmp.Compare(a.kind, b.kind))
	return c < 0 && !p.desc || c > 0 && p.desc
}

// running returns the ACTIVE entries of attempts that have not ended, in order.
func (p *pager) running(ctx context.Context) ([]row, error) {
	if !among(p.f.States, posthaste.StateActive) {
		return nil, nil
	}
	var rows []row
	after := posthaste.MessageID("")
	for {
		claims, err := p.r.Claims(ctx, store.NodeEpoch{}, after, 1000)
		if err != nil {
			return nil, err
		}
		for _, t := range claims {
			if t.Tenant == p.tenant && !t.AtOnce {
				rows = append(rows, row{
					LogRow:  store.LogRow{LogPos: store.LogPos{At: t.StartedAt, ID: t.ID, N: t.Attempt}},
					kind:    store.StreamStarted,
					running: true,
				})
			}
		}
		if len(claims) < 1000 {
			break
		}
		after = claims[len(claims)-1].ID
	}
	slices.SortFunc(rows, func(a, b row) int {
		if p.before(&a, &b) {
			return -1
		}
		return 1
	})
	return rows, nil
}

// resolve turns rows into entries, reading the messages they are about.
func (p *pager) resolve(ctx context.Context, rows []row) ([]*posthaste.LogEntry, error) {
	var keys []store.MessageKey
	need := make(map[posthaste.MessageID]*posthaste.Message, len(rows))
	for i := range rows {
		r := &rows[i]
		if !p.any(r) {
			continue
		}
		if _, ok := need[r.ID]; !ok {
			need[r.ID] = nil
			keys = append(keys, store.MessageKey{Tenant: p.tenant, ID: r.ID})
		}
	}
	if len(keys) == 0 {
		return nil, nil
	}
	got, err := p.r.Messages(ctx, keys)
	if err != nil {
		return nil, err
	}
	for _, m := range got {
		if m != nil {
			need[m.ID] = m
		}
	}
	var out []*posthaste.LogEntry
	for i := 0; i < len(rows); {
		// What one message logged at one moment is put in order together.
		var entries []*posthaste.LogEntry
		first := i
		for ; i < len(rows) && rows[i].At.Equal(rows[first].At) && rows[i].ID == rows[first].ID; i++ {
			if m := need[rows[i].ID]; m != nil && Match(m, &p.f.Filter) {
				entries = append(entries, rows[i].entries(m)...)
			}
		}
		p.sort(entries)
		for _, e := range entries {
			// An attempt that ended during the reading is there as a running one, too. It was shown then.
			if p.wanted(e.At, e.State) && p.ahead(e) {
				p.after, p.begun = placeOf(e), true
				out = append(out, e)
			}
		}
	}
	return out, nil
}

// chunk returns how many rows of a stream are read at a time.
func (p *pager) chunk() int { return min(max(p.f.Count+1, minChunk), maxChunk) }

// any reports whether some entry of a row can pass the filter, so that its message is worth reading.
func (p *pager) any(r *row) bool {
	for _, s := range r.states() {
		if p.wanted(r.At, s) {
			return true
		}
	}
	return false
}

func (r *row) states() []posthaste.LogState {
	switch r.kind {
	case store.StreamCreated:
		return []posthaste.LogState{posthaste.StateCreated, posthaste.StateActive}
	case store.StreamStarted:
		return []posthaste.LogState{posthaste.StateActive}
	case store.StreamEnded:
		if r.Attempt.State == posthaste.StateDelivered {
			return []posthaste.LogState{posthaste.StateDelivered}
		}
		return []posthaste.LogState{posthaste.StateError, r.Attempt.State}
	case store.StreamMarks:
		return []posthaste.LogState{r.Mark}
	}
	return nil
}

func (r *row) entries(m *posthaste.Message) []*posthaste.LogEntry {
	switch r.kind {
	case store.StreamCreated:
		return created(m, r.AtOnce)
	case store.StreamStarted:
		return []*posthaste.LogEntry{active(m, r.At, r.N)}
	case store.StreamEnded:
		return ended(m, r.Attempt)
	case store.StreamMarks:
		return []*posthaste.LogEntry{{At: r.At, Message: m, State: r.Mark}}
	}
	return nil
}
