package storetest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
)

// book knows the rules by which messages are delivered, and judges by them what operations did: one after another, in the
// order in which they decided. It keeps its own account of everything, in terms of messages and not of rows: a limit is held
// if a count of attempts in flight says so, whatever the counters of gates show.
type book struct {
	start   time.Time
	shards  int
	names   names
	last    time.Time
	entries map[posthaste.MessageID]*entry
	order   []*entry
	limits  map[store.GateRef]*limit
	lines   map[store.GateRef][]*entry // per queue, who came to its line, in order
	dead    map[store.DeadKey]*entry
	dedup   map[store.DedupKey]original
	ticks   map[store.TickRef]int64 // the revision
	version map[posthaste.TenantID]int64
	quota   map[store.QuotaKey]int64
	starts  map[claimKey]bool
}

// original is the first message of a deduplication key.
type original struct {
	first   posthaste.MessageID
	expires time.Time
}

type claimKey struct {
	id    posthaste.MessageID
	fence int64
}

// entry is a message.
type entry struct {
	msg   *posthaste.Message // as accepted
	queue store.GateRef
	flows []store.GateRef
	gen   int64 // of the queue

	due     time.Time // it does not start before
	attempt int
	fence   int64
	cancel  bool               // a cancel came while it was running
	final   posthaste.LogState // empty while it is unresolved
	ever    bool               // it was claimed at least once
	trimmed bool               // retention has removed it
	joined  bool               // it came to the line of its queue
	slot    bool               // it took a slot of its queue
	arrived int64              // when it came to its flow keys for this attempt, µs

	// While an attempt runs.
	running bool
	node    store.NodeEpoch
	began   time.Time
	atOnce  bool
	units   []unit // of rate, that it took

	source    *entry // of a callback
	holds     *entry // whose slot a callback keeps, too
	callbacks int    // unresolved ones that hold its slot
}

// unit is a start that was counted in a window of a key.
type unit struct {
	limit  *limit
	window time.Time
}

// limit is what a queue, a flow key or a tenant allows.
type limit struct {
	exists      bool // of queues
	gen         int64
	paused      bool
	parallelism int
	rate        int
	period      time.Duration
	pinP, pinR  bool

	window time.Time // the start of the current one
	used   int
}

func newBook(start time.Time, shards int) *book {
	return &book{
		start: start, shards: shards, names: names{}, entries: map[posthaste.MessageID]*entry{}, limits: map[store.GateRef]*limit{},
		lines: map[store.GateRef][]*entry{}, dead: map[store.DeadKey]*entry{}, dedup: map[store.DedupKey]original{},
		ticks: map[store.TickRef]int64{}, version: map[posthaste.TenantID]int64{}, quota: map[store.QuotaKey]int64{},
		starts: map[claimKey]bool{},
	}
}

// broken is what the book panics with when a rule is broken.
type broken string

func breaks(format string, args ...any) {
	panic(broken(fmt.Sprintf(format, args...)))
}

func (b *book) limit(ref store.GateRef) *limit {
	l := b.limits[ref]
	if l == nil {
		l = &limit{}
		b.limits[ref] = l
	}
	return l
}

// stale reports whether the entry's queue was deleted since it was accepted.
func (b *book) stale(e *entry) bool { return !e.queue.Zero() && b.limit(e.queue).gen != e.gen }

func (b *book) name(e *entry) string { return b.names.of(e.msg.ID) }

// judge looks at an operation that was carried out after all those it saw before.
func (b *book) judge(t *traced, before *mirror) {
	now := t.seen.Now
	if !now.After(b.last) {
		breaks("an operation decided at %v, the one before it at %v", now, b.last)
	}
	b.last = now
	if (t.result != nil) != (t.err != nil) || t.err != nil && !errors.Is(t.result, t.err) {
		breaks("Decide returned %v and Do %v", t.err, t.result)
	}
	j := &judgment{book: b, traced: t, now: now, before: before, put: map[posthaste.MessageID]*store.Ticket{}, drop: map[posthaste.MessageID]bool{}, hosts: map[store.GateRef]int{}}
	if want := j.refusal(); (want == nil) != (t.err == nil) || want != nil && posthaste.CodeOf(want) != posthaste.CodeOf(t.err) {
		breaks("got error %v, want %v", t.err, want)
	}
	if t.err == nil {
		j.run()
	}
}

// judgment is the look at one operation.
type judgment struct {
	*book
	*traced
	now    time.Time
	before *mirror

	put     map[posthaste.MessageID]*store.Ticket
	drop    map[posthaste.MessageID]bool
	started []ledger.Start
	marks   []store.Mark               // that must have been written
	takes   map[store.GateRef][]*entry // who took a slot, in the order of the line
	hosts   map[store.GateRef]int      // starts at hosts that the node restricts
	made    []*posthaste.Message       // callbacks, not yet accounted for
}

// refusal returns the error that the operation deserves.
func (j *judgment) refusal() error {
	if op, ok := j.Op.(*ledger.Cancel); ok {
		for _, k := range op.Known {
			t := j.before.tickets[k.ID]
			if t == nil || t.Cancel || op.OnlyGen && !j.stale(j.entries[k.ID]) || t.Phase != posthaste.PhaseWaiting {
				continue
			}
			if !slices.Contains(op.Want().Gates, t.ParkedAt) {
				return store.ErrStale // it moved to a gate that the operation does not hold
			}
		}
	}
	op, ok := j.Op.(*ledger.Accept)
	if !ok {
		return nil
	}
	if op.Version != 0 && op.Version != j.version[op.Tenant] {
		return store.ErrStale
	}
	if f := op.Firing; f != nil {
		if rev, ok := j.ticks[f.Ref]; !ok || rev != f.Rev {
			return store.ErrStale
		}
	}
	if op.DailyLimit > 0 && store.DayOf(j.now) != op.Day {
		return store.ErrStale
	}
	n, seen, gone := int64(0), map[store.DedupKey]bool{}, map[store.DeadKey]bool{}
	for _, d := range op.Drafts {
		if d.Dead.ID != "" {
			if j.dead[d.Dead] == nil || gone[d.Dead] {
				if op.AllDead {
					return posthaste.Errorf(posthaste.CodeNotFound, "no such dead letter")
				}
				continue
			}
			gone[d.Dead] = true
		}
		if d.Dedup != nil {
			if m, ok := j.dedup[*d.Dedup]; ok && m.expires.After(j.now) || seen[*d.Dedup] {
				continue
			}
			seen[*d.Dedup] = true
		}
		n++
	}
	if used := j.quota[store.QuotaKey{Tenant: op.Tenant, Day: op.Day}]; op.DailyLimit > 0 && n > 0 && used+n > op.DailyLimit {
		return posthaste.Errorf(posthaste.CodeRateLimited, "over the daily limit")
	}
	return nil
}

// keys checks that the lists of an operation keep the contract: what it wants is sorted, and no key stands twice in it or in
// what it changes.
func (t *traced) keys() {
	w, c := t.Want(), &t.changed
	sorted := slices.IsSortedFunc(w.Gates, store.GateRef.Compare) && slices.IsSortedFunc(w.Slots, store.SlotRef.Compare) &&
		slices.IsSortedFunc(w.Dedup, store.DedupKey.Compare) && slices.IsSortedFunc(w.Dead, store.DeadKey.Compare) && slices.IsSorted(w.Tickets)
	if !sorted {
		breaks("what the operation wants is not sorted: %+v", w)
	}
	twice(w.Gates, func(r store.GateRef) store.GateRef { return r })
	twice(w.Slots, func(r store.SlotRef) store.SlotRef { return r })
	twice(w.Dedup, func(k store.DedupKey) store.DedupKey { return k })
	twice(w.Dead, func(k store.DeadKey) store.DeadKey { return k })
	twice(w.Tickets, func(id posthaste.MessageID) posthaste.MessageID { return id })
	twice(c.Messages, func(m *posthaste.Message) posthaste.MessageID { return m.ID })
	twice(append(slices.Clone(c.Put), c.Drop...), func(t *store.Ticket) posthaste.MessageID { return t.ID })
	twice(c.Gates, func(g *store.Gate) store.GateRef { return g.GateRef })
	twice(c.Slots, func(s *store.Slot) store.SlotRef { return s.SlotRef })
	twice(c.Dedup, func(d *store.Dedup) store.DedupKey { return d.DedupKey })
	twice(c.DeadGone, func(k store.DeadKey) store.DeadKey { return k })
	twice(c.Marks, func(m store.Mark) store.Mark { return m })
	for _, g := range c.Gates {
		if !slices.Contains(w.Gates, g.GateRef) {
			breaks("%s was changed without its lock", gateName(g.GateRef))
		}
	}
}

// twice finds a key that stands twice in a list.
func twice[T any, K comparable](list []T, key func(T) K) {
	seen := make(map[K]bool, len(list))
	for _, v := range list {
		if seen[key(v)] {
			breaks("%+v stands twice in a list", key(v))
		}
		seen[key(v)] = true
	}
}

func (j *judgment) run() {
	j.keys()
	for _, p := range j.changed.Put {
		j.put[p.ID] = p
	}
	for _, d := range j.changed.Drop {
		j.drop[d.ID] = true
	}
	j.findTakes()
	var node ledger.Node
	if out, n := outcome(j.Op); out != nil {
		j.started, node = slices.Clone(out.Started), n
		if len(j.started) > max(0, node.Room) {
			breaks("%d attempts started, the node had room for %d", len(j.started), node.Room)
		}
	}
	switch op := j.Op.(type) {
	case *ledger.Accept:
		j.accepted(op)
	case *ledger.Settle:
		j.settled(op)
	case *ledger.Release:
		j.released(op)
	case *ledger.Recover:
		j.recovered(op)
	case *ledger.Cancel:
		j.canceled(op)
	case *ledger.Claim:
		j.claimed()
	case *edited:
		op.change.limit(j.limit(op.Gate), op.Gate.Kind, j.now)
	case *ledger.DeleteQueue:
		l := j.limit(op.Queue)
		if op.Existed != l.exists {
			breaks("%s: got existed %t, want %t", gateName(op.Queue), op.Existed, l.exists)
		}
		if l.exists {
			*l = limit{gen: l.gen + 1, window: l.window, used: l.used}
		}
	case *ledger.DeleteDead:
		n := 0
		for _, k := range op.Keys {
			if j.dead[k] != nil {
				n++
				delete(j.dead, k)
			}
		}
		if op.Deleted != n {
			breaks("got %d dead letters deleted, want %d", op.Deleted, n)
		}
	case *ledger.Configure:
		j.version[op.Tenant]++
		if op.TickRef != nil {
			j.ticks[*op.TickRef]++
			if op.TickGone {
				delete(j.ticks, *op.TickRef)
			}
		}
	}
	// Whatever else was resolved was of a deleted queue, and had not started.
	for _, d := range j.changed.Drop {
		e := j.entries[d.ID]
		switch {
		case e == nil:
			breaks("%s was resolved, which was never accepted", d.ID)
		case e.final != "":
			continue
		case e.running || !j.stale(e):
			breaks("%s was resolved, but nothing happened to it", j.name(e))
		}
		j.mark(e, posthaste.StateCancelRequested)
		j.cancelNow(e)
	}
	for len(j.started) > 0 {
		j.begin(j.started[0], node)
	}
	for _, list := range j.takes {
		for len(list) > 0 {
			list = j.take(list)
		}
	}
	j.waiting()
	j.overtaken(node)
	if len(j.made) > 0 {
		breaks("message %s was made, which nobody asked for", j.made[0].ID)
	}
	byID := func(a, b store.Mark) int {
		return cmp.Or(cmp.Compare(a.Message, b.Message), cmp.Compare(a.State, b.State))
	}
	slices.SortFunc(j.marks, byID)
	got := slices.SortedFunc(slices.Values(j.changed.Marks), byID)
	if d := diff(got, j.marks); d != "" {
		breaks("marks %s", d)
	}
}

func (j *judgment) mark(e *entry, s posthaste.LogState) {
	j.marks = append(j.marks, store.Mark{Tenant: e.msg.Tenant, Message: e.msg.ID, State: s, At: j.now})
}

// new enters a message that was accepted now.
func (j *judgment) new(m *posthaste.Message, path []store.GateRef, delay time.Duration, notBefore time.Time) *entry {
	id := m.ID
	if j.entries[id] != nil {
		breaks("%s was accepted twice", id)
	}
	j.names.add(id)
	e := &entry{msg: m, due: j.now}
	if delay > 0 {
		e.due = j.now.Add(delay)
	}
	if notBefore.After(j.now) {
		e.due = notBefore
	}
	at, shard, ok := id.Parts()
	if !ok || !at.Equal(j.now) {
		breaks("%s carries the time %v, it was accepted at %v", id, at, j.now)
	}
	if !m.CreatedAt.Equal(j.now) || !m.NotBefore.Equal(e.due) {
		breaks("%s: got created %v, not before %v; want %v, %v", j.names.of(id), m.CreatedAt, m.NotBefore, j.now, e.due)
	}
	for _, ref := range path {
		if ref.Kind != store.KindQueue {
			e.flows = append(e.flows, ref)
			continue
		}
		e.queue = ref
		if shard != ref.Shard {
			breaks("%s lives in shard %d, its queue in %d", j.names.of(id), shard, ref.Shard)
		}
		l := j.limit(ref)
		if !l.exists {
			l.exists, l.parallelism = true, 1
		}
		e.gen = l.gen
	}
	for _, fc := range m.Flow {
		for _, ref := range e.flows {
			if ref.Kind != store.KindFlow || ref.Name != fc.Key {
				continue
			}
			l := j.limit(ref)
			if !l.pinP {
				l.parallelism = fc.Parallelism
			}
			if !l.pinR {
				l.rate, l.period = fc.Rate, fc.Period
			}
		}
	}
	j.entries[id] = e
	j.order = append(j.order, e)
	if !e.due.After(j.now) {
		j.join(e)
	}
	if t := j.put[id]; t == nil && !j.drop[id] {
		breaks("%s has no ticket", j.name(e))
	}
	return e
}

// join puts an entry that is due at the end of its queue's line.
func (j *judgment) join(e *entry) {
	e.joined = true
	if !e.queue.Zero() {
		j.lines[e.queue] = append(j.lines[e.queue], e)
		j.findTake(e)
	}
}

func (j *judgment) accepted(op *ledger.Accept) {
	messages := map[posthaste.MessageID]*posthaste.Message{}
	for _, m := range j.changed.Messages {
		messages[m.ID] = m
	}
	n := 0
	for _, d := range op.Drafts {
		dead := j.dead[d.Dead]
		if d.Dead.ID != "" {
			if d.Gone != (dead == nil) {
				breaks("dead letter %s: got gone %t, want %t", d.Dead.ID, d.Gone, dead == nil)
			}
			if delete(j.dead, d.Dead); dead == nil {
				continue
			}
		}
		if d.Dedup != nil {
			first, ok := j.dedup[*d.Dedup]
			if ok = ok && first.expires.After(j.now); d.Duplicate != ok {
				breaks("key %s: got duplicate %t, want %t", d.Dedup.Key, d.Duplicate, ok)
			}
			if ok {
				if d.ID != first.first {
					breaks("duplicate of %s: got id %s", j.names.of(first.first), d.ID)
				}
				continue
			}
			j.dedup[*d.Dedup] = original{first: d.ID, expires: j.now.Add(d.Window)}
		}
		m := messages[d.ID]
		if m == nil {
			breaks("%s is accepted and not stored", d.ID)
		}
		n++
		e := j.new(m, d.Path, d.Delay, d.NotBefore)
		j.atOnce(e, op.Node)
	}
	if n != len(j.changed.Messages) {
		breaks("got %d messages stored, want %d", len(j.changed.Messages), n)
	}
	if op.Count {
		j.quota[store.QuotaKey{Tenant: op.Tenant, Day: store.DayOf(j.now)}] += int64(n)
	}
	if op.Firing != nil {
		j.ticks[op.Firing.Ref]++
		if t := j.changed.Tick; t == nil || len(t.Made) != len(op.Drafts) || !t.Next.Equal(op.Firing.Next) || !t.Last.Equal(op.Firing.At) {
			breaks("got tick %+v, want what %+v says", t, op.Firing)
		}
	}
}

// atOnce begins the attempt of a message that started with its acceptance.
func (j *judgment) atOnce(e *entry, node ledger.Node) {
	if !e.msg.ClaimedAtOnce {
		return
	}
	i := slices.IndexFunc(j.started, func(s ledger.Start) bool { return s.Ticket.ID == e.msg.ID })
	if i < 0 {
		breaks("%s is said to have started with its acceptance, and has not", j.name(e))
	}
	s := j.started[i]
	if s.Message == nil || !s.Ticket.AtOnce {
		breaks("%s started at once: got message %v, at once %t", j.name(e), s.Message, s.Ticket.AtOnce)
	}
	j.begin(s, node)
}

// begin counts a start against every limit.
func (j *judgment) begin(s ledger.Start, node ledger.Node) {
	j.started = slices.DeleteFunc(j.started, func(o ledger.Start) bool { return o.Ticket == s.Ticket })
	id := s.Ticket.ID
	e, t := j.entries[id], j.put[id]
	switch {
	case e == nil:
		breaks("%s started, which was never accepted", id)
	case t == nil || t.Phase != posthaste.PhaseClaimed:
		breaks("%s started and is not saved as claimed", j.name(e))
	case e.final != "" || e.cancel:
		breaks("%s started, although it is %s, cancel %t", j.name(e), e.final, e.cancel)
	case e.running:
		breaks("%s started while it is running", j.name(e))
	case e.due.After(j.now):
		breaks("%s started at %v, before it is due, at %v", j.name(e), j.now.Sub(j.start), e.due.Sub(j.start))
	case j.starts[claimKey{id, t.Fence}] || t.Fence <= e.fence:
		breaks("%s started with fence %d after %d", j.name(e), t.Fence, e.fence)
	case t.Node != node.NodeEpoch || !t.StartedAt.Equal(j.now) || t.Attempt != e.attempt || t.Cancel:
		breaks("%s started with ticket %+v; want node %v, attempt %d, at %v", j.name(e), t, node.NodeEpoch, e.attempt, j.now)
	case t.AtOnce && !e.msg.ClaimedAtOnce:
		breaks("%s: the attempt is marked as begun with the acceptance", j.name(e))
	}
	if !e.queue.Zero() {
		if j.stale(e) {
			breaks("%s of a deleted queue started", j.name(e))
		}
		if j.limit(e.queue).paused {
			breaks("%s started in a paused queue", j.name(e))
		}
		for list := j.takes[e.queue]; len(list) > 0 && !e.slot; list = j.takes[e.queue] {
			j.takes[e.queue] = j.take(list)
		}
		if !e.slot {
			breaks("%s started without a slot of its queue", j.name(e))
		}
		j.firstStarts(e)
	}
	for _, ref := range e.flows {
		l := j.limit(ref)
		if l.paused {
			breaks("%s started while %s is paused", j.name(e), gateName(ref))
		}
		if n := j.inFlight(ref); l.parallelism > 0 && n >= l.parallelism {
			breaks("%s started as number %d of %s, whose parallelism is %d", j.name(e), n+1, gateName(ref), l.parallelism)
		}
		if l.period > 0 && !j.now.Before(l.window.Add(l.period)) {
			l.window, l.used = j.now, 0
		}
		if l.used++; l.rate > 0 && l.period > 0 && l.used > l.rate {
			breaks("%s is start %d in a window of %s, whose rate is %d", j.name(e), l.used, gateName(ref), l.rate)
		}
		e.units = append(e.units, unit{limit: l, window: l.window})
	}
	j.atHost(e, t, node)
	j.starts[claimKey{id, t.Fence}] = true
	e.running, e.ever, e.node, e.began, e.fence, e.atOnce = true, true, t.Node, j.now, t.Fence, t.AtOnce
}

// atHost counts a start against the gate of its destination's host, if the node knows of it or the message waited there. A
// blocked host is tried by one message at a time, and then after longer and longer pauses.
func (j *judgment) atHost(e *entry, t *store.Ticket, node ledger.Node) {
	ref := j.hostOf(t)
	room, restricted := node.Hosts[ref]
	if restricted {
		if j.hosts[ref]++; j.hosts[ref] > room {
			breaks("%s is start %d at %s, where the node had room for %d", j.name(e), j.hosts[ref], gateName(ref), room)
		}
	}
	old, l := j.before.tickets[t.ID], j.limit(ref)
	if !l.paused || !restricted && (old == nil || old.ParkedAt != ref) {
		return
	}
	next := min(2*l.period, 5*time.Minute)
	if !restricted && len(e.flows) > 0 {
		// A node that does not know of the block may have parked it at a key for a moment, and started it from there. Whether
		// this was the probe, only the gate tells.
		i := slices.IndexFunc(j.changed.Gates, func(g *store.Gate) bool { return g.GateRef == ref })
		if i < 0 || j.now.Before(l.window) || !j.changed.Gates[i].WindowStart.Equal(j.now.Add(next)) {
			return
		}
	}
	if j.now.Before(l.window) {
		breaks("%s started at a blocked host before its next probe", j.name(e))
	}
	l.period, l.window = next, j.now.Add(next)
}

// hostOf returns the gate of a ticket's destination host.
func (b *book) hostOf(t *store.Ticket) store.GateRef {
	return store.NewGateRef(b.shards, t.Tenant, store.KindHost, t.Host)
}

// inFlight counts attempts that name a key.
func (b *book) inFlight(ref store.GateRef) int {
	n := 0
	for _, e := range b.order {
		if e.running && slices.Contains(e.flows, ref) {
			n++
		}
	}
	return n
}

// findTakes finds those who took a slot of their queue in this operation.
func (j *judgment) findTakes() {
	j.takes = map[store.GateRef][]*entry{}
	for ref, line := range j.lines {
		for _, e := range line {
			if e.queue == ref {
				j.findTake(e)
			}
		}
	}
}

func (j *judgment) findTake(e *entry) {
	if t := j.put[e.msg.ID]; t != nil && !e.slot && t.Slot.Source == e.msg.ID {
		if t.Slot != (store.SlotRef{Source: e.msg.ID, Queue: e.queue, Gen: e.gen}) {
			breaks("%s holds the slot %+v", j.name(e), t.Slot)
		}
		j.takes[e.queue] = append(j.takes[e.queue], e)
	}
}

// take gives the first of the list its slot, and returns the rest. Nobody before it in the line may still be without one.
func (j *judgment) take(list []*entry) []*entry {
	e := list[0]
	for _, o := range j.lines[e.queue] {
		if o == e {
			break
		}
		if o.final == "" && !o.slot && !j.stale(o) {
			breaks("%s took a slot of its queue before %s, which came earlier", j.name(e), j.name(o))
		}
	}
	l := j.limit(e.queue)
	if n := j.openSlots(e.queue); n >= max(1, l.parallelism) {
		breaks("%s took slot %d of a queue with parallelism %d", j.name(e), n+1, l.parallelism)
	}
	if j.stale(e) || l.paused {
		breaks("%s took a slot of a queue that is deleted or paused", j.name(e))
	}
	e.slot = true
	return list[1:]
}

// openSlots counts the open messages of a queue: those that have begun, and have not ended, or whose callbacks have not.
func (b *book) openSlots(ref store.GateRef) int {
	n := 0
	for _, e := range b.order {
		if e.queue == ref && !b.stale(e) && b.open(e) > 0 {
			n++
		}
	}
	return n
}

// open returns how many messages hold the slot of an entry.
func (b *book) open(e *entry) int {
	if !e.slot {
		return 0
	}
	if e.final == "" {
		return 1 + e.callbacks
	}
	return e.callbacks
}

// firstStarts checks that messages without flow keys start for the first time in the order of the line, except those held up
// by the host of their destination.
func (j *judgment) firstStarts(e *entry) {
	if e.ever || len(e.flows) > 0 {
		return
	}
	for _, o := range j.lines[e.queue] {
		if o == e {
			return
		}
		atHost := func(t *store.Ticket) bool { return t != nil && t.ParkedAt.Kind == store.KindHost }
		held := atHost(j.put[o.msg.ID]) || atHost(j.before.tickets[o.msg.ID])
		if o.final == "" && !o.ever && len(o.flows) == 0 && !j.stale(o) && !held {
			breaks("%s started before %s, which came earlier to the same queue", j.name(e), j.name(o))
		}
	}
}

// end ends an attempt.
func (e *entry) end() {
	e.running, e.units, e.atOnce, e.arrived = false, nil, false, 0
}

// resolve is the end of a message.
func (j *judgment) resolve(e *entry, s posthaste.LogState) {
	e.final = s
	if e.holds != nil {
		e.holds.callbacks--
	}
	if !j.drop[e.msg.ID] {
		breaks("%s is %s, and its ticket is still there", j.name(e), s)
	}
}

func (j *judgment) cancelNow(e *entry) {
	j.mark(e, posthaste.StateCanceled)
	j.resolve(e, posthaste.StateCanceled)
}

// current reports whether a claim is still its owner's.
func (j *judgment) current(t *store.Ticket) (*entry, bool) {
	e := j.entries[t.ID]
	if e == nil {
		breaks("a claim of %s, which was never accepted", t.ID)
	}
	return e, e.running && e.node == t.Node && e.fence == t.Fence
}

// nothing checks that an operation changed nothing.
func (j *judgment) nothing() {
	if d := diff(j.changed, store.Changes{}); d != "" {
		breaks("an operation on a lost claim changed something %s", d)
	}
}

func (j *judgment) settled(op *ledger.Settle) {
	e, ok := j.current(op.Ticket)
	if op.Lost == ok {
		breaks("settle %s with fence %d: got lost %t, want %t", j.name(e), op.Ticket.Fence, op.Lost, !ok)
	}
	if !ok {
		j.nothing()
		return
	}
	canceled := e.cancel || j.stale(e)
	if canceled && !e.cancel {
		j.mark(e, posthaste.StateCancelRequested)
	}
	state, next := posthaste.StateRetry, time.Time{}
	switch {
	case op.Result.Outcome == posthaste.OutcomeDelivered:
		state = posthaste.StateDelivered
	case canceled:
		state = posthaste.StateCanceled
	case op.Result.Outcome == posthaste.OutcomeNonRetryable || e.attempt >= e.msg.MaxRetries:
		state = posthaste.StateFailed
	default:
		next = j.now.Add(retryDelay(e.msg, e.attempt))
	}
	want := posthaste.Attempt{
		Tenant: e.msg.Tenant, Message: e.msg.ID, Number: e.attempt, StartedAt: e.began, EndedAt: j.now, Took: op.Result.Took,
		Outcome: op.Result.Outcome, Status: op.Result.Status, Error: op.Result.Error, Header: op.Result.Header, Body: op.Result.Body,
		State: state, NextAt: next, AtOnce: e.atOnce,
	}
	if len(j.changed.Attempts) != 1 {
		breaks("settle %s: got %d attempts recorded, want 1", j.name(e), len(j.changed.Attempts))
	}
	if d := diff(*j.changed.Attempts[0], want); d != "" {
		breaks("settle %s: attempt %s", j.name(e), d)
	}
	e.end()
	j.made = j.changed.Messages
	if !canceled {
		j.callback(op, e, e.msg.Callback)
	}
	if state == posthaste.StateFailed {
		if len(j.changed.Dead) != 1 || j.changed.Dead[0].Message != e.msg.ID {
			breaks("%s failed: got dead letters %v", j.name(e), j.changed.Dead)
		}
		d := j.changed.Dead[0]
		if at, _, ok := d.ID.Parts(); !ok || at.UnixMilli() != j.now.UnixMilli() || !d.At.Equal(j.now) || diff(d.Last, want) != "" {
			breaks("%s failed: got dead letter %+v", j.name(e), d)
		}
		key := store.DeadKey{Tenant: d.Tenant, ID: d.ID}
		if j.dead[key] != nil {
			breaks("two dead letters have the id %s", d.ID)
		}
		j.dead[key] = e
		j.callback(op, e, e.msg.FailureCallback)
	} else if len(j.changed.Dead) > 0 {
		breaks("%s did not fail: got a dead letter", j.name(e))
	}
	if state == posthaste.StateRetry {
		e.attempt++
		e.due = next
		return
	}
	j.resolve(e, state)
}

// callback accounts for a callback that the settlement of e must have made.
func (j *judgment) callback(op *ledger.Settle, e *entry, cb *posthaste.Callback) {
	if cb == nil {
		return
	}
	i := slices.IndexFunc(j.made, func(m *posthaste.Message) bool { return m.URL == cb.URL })
	if i < 0 {
		breaks("%s was settled without its callback to %s", j.name(e), cb.URL)
	}
	m := j.made[i]
	j.made = slices.Delete(slices.Clone(j.made), i, i+1)
	retries := e.msg.MaxRetries
	if cb.Retries != nil {
		retries = *cb.Retries
	}
	if m.Source != e.msg.ID || m.MaxRetries != retries || m.Callback != nil || m.FailureCallback != nil || m.Queue != "" || len(m.Body) == 0 {
		breaks("callback of %s: got %+v", j.name(e), m)
	}
	t := j.put[m.ID]
	if t == nil {
		breaks("callback %s has no ticket", m.ID)
	}
	c := j.new(m, t.Path, cb.Delay, time.Time{})
	c.source = e
	if e.slot && !j.stale(e) {
		c.holds = e
		e.callbacks++
		if t.Slot.Source != e.msg.ID {
			breaks("callback %s of %s does not hold its slot", j.name(c), j.name(e))
		}
	}
	if op.Count {
		j.quota[store.QuotaKey{Tenant: m.Tenant, Day: store.DayOf(j.now)}]++
	}
	j.atOnce(c, op.Node)
}

// unclaimed is the end of an attempt that does not count.
func (j *judgment) unclaimed(e *entry, unsent bool) {
	if unsent {
		for _, u := range e.units {
			// A start in the microsecond in which a window begins counts as one of that window, although another opened it.
			if u.window.Equal(u.limit.window) || e.began.Equal(u.limit.window) {
				u.limit.used = max(0, u.limit.used-1)
			}
		}
	}
	if restarted := slices.ContainsFunc(j.changed.Restarted, func(t *store.Ticket) bool { return t.ID == e.msg.ID }); restarted != e.atOnce {
		breaks("%s: got restarted %t, want %t", j.name(e), restarted, e.atOnce)
	}
	e.msg.ClaimedAtOnce = e.msg.ClaimedAtOnce && !e.atOnce
	e.end()
	e.fence++
	if e.cancel || j.stale(e) {
		if !e.cancel {
			j.mark(e, posthaste.StateCancelRequested)
		}
		j.cancelNow(e)
		return
	}
	e.due = j.now
	if t := j.put[e.msg.ID]; t == nil || t.Phase != posthaste.PhaseReady || t.Fence < e.fence || t.Attempt != e.attempt {
		breaks("%s was given back: got ticket %+v", j.name(e), t)
	} else {
		e.fence = t.Fence
	}
}

func (j *judgment) released(op *ledger.Release) {
	e, ok := j.current(op.Ticket)
	if op.Lost == ok {
		breaks("release %s with fence %d: got lost %t, want %t", j.name(e), op.Ticket.Fence, op.Lost, !ok)
	}
	if !ok {
		j.nothing()
		return
	}
	j.unclaimed(e, op.Unsent)
}

func (j *judgment) recovered(op *ledger.Recover) {
	n := 0
	for _, k := range uniqueTickets(op.Known) {
		if e := j.entries[k.ID]; e != nil && e.running && e.node == op.From {
			n++
			j.unclaimed(e, false)
		}
	}
	if op.Taken != n {
		breaks("recover from %v: got %d claims, want %d", op.From, op.Taken, n)
	}
}

func uniqueTickets(list []*store.Ticket) []*store.Ticket {
	list = slices.SortedFunc(slices.Values(list), byID)
	return slices.CompactFunc(list, func(a, b *store.Ticket) bool { return a.ID == b.ID })
}

func (j *judgment) canceled(op *ledger.Cancel) {
	n := 0
	for _, k := range uniqueTickets(op.Known) {
		e := j.entries[k.ID]
		if e == nil || e.final != "" || e.cancel || op.OnlyGen && !j.stale(e) {
			continue
		}
		n++
		j.mark(e, posthaste.StateCancelRequested)
		if e.running {
			e.cancel = true
			continue
		}
		j.cancelNow(e)
	}
	if op.Canceled != n {
		breaks("got %d canceled, want %d", op.Canceled, n)
	}
}

// claimed puts those that ripened at the end of their queues' lines, in the order in which their delays ended.
func (j *judgment) claimed() {
	var ripe []*entry
	for id := range j.put {
		if e := j.entries[id]; e != nil && !e.joined && !e.due.After(j.now) {
			ripe = append(ripe, e)
		}
	}
	slices.SortFunc(ripe, func(a, b *entry) int { return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.msg.ID, b.msg.ID)) })
	for _, e := range ripe {
		j.join(e)
	}
}

// waiting checks where tickets were parked.
func (j *judgment) waiting() {
	for _, t := range j.changed.Put {
		e := j.entries[t.ID]
		if e == nil {
			breaks("%s has a ticket and was never accepted", t.ID)
		}
		if t.Phase != posthaste.PhaseWaiting {
			continue
		}
		switch {
		case e.due.After(j.now) || !e.joined:
			breaks("%s waits at a gate and is not due", j.name(e))
		case t.ParkedAt == e.queue && !e.queue.Zero():
			if (t.Rank == 0) != e.slot {
				breaks("%s waits at its queue with rank %d, slot %t", j.name(e), t.Rank, e.slot)
			}
		case !slices.Contains(e.flows, t.ParkedAt) && t.ParkedAt != j.hostOf(t):
			breaks("%s waits at %s, which it does not name", j.name(e), gateName(t.ParkedAt))
		default:
			if !e.queue.Zero() && !e.slot {
				breaks("%s waits at %s without a slot of its queue", j.name(e), gateName(t.ParkedAt))
			}
			if e.arrived == 0 {
				e.arrived = j.now.UnixMicro()
			}
			if t.Place != e.arrived || int(t.Rank) != e.msg.Priority {
				breaks("%s waits at %s with rank %d, place %d; want %d, %d", j.name(e), gateName(t.ParkedAt), t.Rank, t.Place, e.msg.Priority, e.arrived)
			}
		}
	}
}

// overtaken checks that who started did not pass one that waited before it at a key of both.
func (j *judgment) overtaken(node ledger.Node) {
	for id, t := range j.put {
		if t.Phase != posthaste.PhaseClaimed || j.before.tickets[id] != nil && j.before.tickets[id].Phase == posthaste.PhaseClaimed {
			continue
		}
		e := j.entries[id]
		arrived := cmp.Or(e.arrived, j.now.UnixMicro())
		e.arrived = 0
		refs := e.flows
		if _, ok := node.Hosts[j.hostOf(t)]; ok {
			refs = append(slices.Clone(refs), j.hostOf(t))
		}
		for _, ref := range refs {
			for _, o := range j.before.heads(ref, 1000) {
				p := j.put[o.ID]
				if j.drop[o.ID] || p != nil && (p.Phase != posthaste.PhaseWaiting || p.ParkedAt != ref) {
					continue
				}
				if p != nil && (len(j.entries[o.ID].flows) > 1 || len(node.Hosts) > 0) {
					continue // it may have stood at another key for a moment, and come back
				}
				if cmp.Or(cmp.Compare(int(o.Rank), e.msg.Priority), cmp.Compare(o.Place, arrived), cmp.Compare(o.ID, id)) < 0 {
					breaks("%s started although %s stands before it at %s", j.name(e), j.names.of(o.ID), gateName(ref))
				}
			}
		}
	}
}

// change is an edit of a gate's limits.
type change struct {
	paused      *bool
	parallelism *int
	rate        *int // with period
	period      time.Duration
	pin, unpin  bool // both
	reset       bool // the window
}

// probeAfter is the pause before the first probe of a blocked host.
const probeAfter = 5 * time.Second

// edited is an EditGate that carries out a change.
type edited struct {
	*ledger.EditGate
	change change
}

// gate carries the change out on a row.
func (c *change) gate(now time.Time, g *store.Gate) error {
	if g.CreatedAt.IsZero() {
		g.CreatedAt = now
		if g.Kind == store.KindQueue {
			g.Parallelism = 1
		}
	}
	g.UpdatedAt = now
	if c.paused != nil {
		g.Paused = *c.paused
		if g.Kind == store.KindHost {
			g.Period, g.WindowStart = 0, time.Time{}
			if g.Paused {
				g.Period, g.WindowStart = probeAfter, now.Add(probeAfter)
			}
		}
	}
	if c.parallelism != nil {
		g.Parallelism = *c.parallelism
	}
	if c.rate != nil {
		g.Rate, g.Period = *c.rate, c.period
	}
	if c.pin || c.unpin {
		g.PinnedParallelism, g.PinnedRate = c.pin, c.pin
	}
	if c.reset {
		g.WindowStart, g.WindowUsed = now, 0
	}
	return nil
}

// limit carries the change out on what the book keeps.
func (c *change) limit(l *limit, kind store.Kind, now time.Time) {
	if kind == store.KindQueue && !l.exists {
		l.exists, l.parallelism = true, 1
	}
	if c.paused != nil {
		l.paused = *c.paused
		if kind == store.KindHost {
			l.period, l.window = 0, time.Time{}
			if l.paused {
				l.period, l.window = probeAfter, now.Add(probeAfter)
			}
		}
	}
	if c.parallelism != nil {
		l.parallelism = *c.parallelism
	}
	if c.rate != nil {
		l.rate, l.period = *c.rate, c.period
	}
	if c.pin || c.unpin {
		l.pinP, l.pinR = c.pin, c.pin
	}
	if c.reset {
		l.window, l.used = now, 0
	}
}

// retryDelay is the wait after a failed attempt: what the messages of a history ask for, or the standard one for callbacks.
func retryDelay(m *posthaste.Message, attempt int) time.Duration {
	if m.RetryDelay == "" {
		return []time.Duration{10 * time.Second, 30 * time.Second, time.Minute}[attempt]
	}
	var ms int
	fmt.Sscan(m.RetryDelay, &ms) //nolint:errcheck // the histories write numbers only
	return time.Duration(ms) * time.Millisecond
}
