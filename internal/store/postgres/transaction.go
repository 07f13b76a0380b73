package postgres

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
)

// A row is what a transaction knows of one row: as it is stored and as the operations so far leave it. Both are nil where there
// is none. Neither is changed: operations get copies, and hand in others.
type row[T any] struct {
	old, cur *T
	dirty    bool
}

func (r *row[T]) set(v *T) { r.cur, r.dirty = v, true }

// copy returns a copy of the row as it is now.
func (r *row[T]) copy() *T {
	if r == nil || r.cur == nil {
		return nil
	}
	v := *r.cur
	return &v
}

// A ticketRow is the row of a ticket, and of the wait list that it stands in.
type ticketRow struct {
	row[store.Ticket]
	raw []byte // the record in the wait list, if it was read there
}

// A gateRow is a gate under lock and the beginning of its wait list, in order.
type gateRow struct {
	row[store.Gate]
	locked bool
	limit  int          // of the list when it was read
	list   []*ticketRow // all of the list, or the first ones
	whole  bool         // it is all of it
	first  place        // nothing of the list stands before; as it is stored
}

// A place is where a ticket stands in a wait list, up to its id.
type place struct {
	rank  int16
	place int64
}

// Places before and behind all others.
var (
	front = place{math.MinInt16, math.MinInt64}
	back  = place{math.MaxInt16, math.MaxInt64}
)

func placeOf(t *store.Ticket) place { return place{int16(t.Rank), t.Place} }

func (p place) before(o place) bool {
	return cmp.Or(cmp.Compare(p.rank, o.rank), cmp.Compare(p.place, o.place)) < 0
}

// bound returns before which nothing of the gate's list stands after the batch.
func (t *transaction) bound(ref store.GateRef, g *gateRow) place {
	first := g.first
	switch {
	case g.limit > 0 && len(g.list) > 0:
		return placeOf(g.list[0].cur)
	case g.limit > 0 && g.whole:
		return back
	}
	for _, r := range t.tickets {
		if r.dirty && waiting(r.cur) && r.cur.ParkedAt == ref {
			if p := placeOf(r.cur); p.before(first) {
				first = p
			}
		}
	}
	return first
}

type quotaRow struct {
	n      int64
	add    int64
	locked bool // part 0 is
}

// A transaction carries out a batch. Every key that an operation names has an entry in its maps before it is loaded.
type transaction struct {
	l     *lane
	e     *Engine
	batch []*call
	us    int64     // the time of the server after the locks
	read  time.Time // when that came
	now   time.Time // of the operation that decides

	lock     map[posthaste.TenantID]bool  // tenants whose configuration may change; true once locked
	versions map[posthaste.TenantID]int64 // with what was raised in this batch
	raised   map[posthaste.TenantID]int64
	config   map[store.ConfigKey]*row[store.ConfigRow]
	quota    map[store.QuotaKey]*quotaRow
	ticks    map[store.TickRef]*row[store.Tick]
	dedup    map[store.DedupKey]*row[store.Dedup]
	gates    map[store.GateRef]*gateRow
	slots    map[store.SlotRef]*row[store.Slot]
	dead     map[store.DeadKey]*row[posthaste.DeadLetter]
	tickets  map[posthaste.MessageID]*ticketRow

	seen map[store.DedupKey]bool // dedup rows that are locked
	ripe [][]candidate           // by operation
	skip []ticketKey             // ripe tickets to be locked if nobody else has them

	messages  []*posthaste.Message
	attempts  []*posthaste.Attempt
	marks     []store.Mark
	restarted []*store.Ticket
}

// A candidate is a ripe ticket as it was read without a lock.
type candidate struct {
	*store.Ticket
	plain bool
}

// A ticketKey is the key of a ticket's row.
type ticketKey struct {
	shard int16
	id    posthaste.MessageID
}

func (k ticketKey) compare(o ticketKey) int {
	return cmp.Or(cmp.Compare(k.shard, o.shard), cmp.Compare(k.id, o.id))
}

func newTransaction(l *lane, batch []*call) *transaction {
	t := &transaction{
		l: l, e: l.e, batch: batch,
		lock: map[posthaste.TenantID]bool{}, versions: map[posthaste.TenantID]int64{}, raised: map[posthaste.TenantID]int64{},
		config: map[store.ConfigKey]*row[store.ConfigRow]{}, quota: map[store.QuotaKey]*quotaRow{},
		ticks: map[store.TickRef]*row[store.Tick]{}, dedup: map[store.DedupKey]*row[store.Dedup]{},
		gates: map[store.GateRef]*gateRow{}, slots: map[store.SlotRef]*row[store.Slot]{},
		dead: map[store.DeadKey]*row[posthaste.DeadLetter]{}, tickets: map[posthaste.MessageID]*ticketRow{},
		seen: map[store.DedupKey]bool{}, ripe: make([][]candidate, len(batch)),
	}
	for _, c := range batch {
		t.want(c.op.Want())
	}
	return t
}

// headsPerOp is how many tickets of a wait list an operation is expected to remove. If one removes more, those after it go
// into the next transaction.
const (
	headsPerOp = 2
	maxHeads   = 1000 // of one gate, unless one operation wants more
)

// want makes an entry for each key.
func (t *transaction) want(w *store.Want) {
	for _, id := range w.Tenants {
		t.versions[id] = 0
		if len(w.Config) > 0 {
			t.lock[id] = false
		}
	}
	for _, k := range w.Config {
		t.config[k] = new(row[store.ConfigRow])
		t.lock[k.Tenant] = false
	}
	for _, k := range w.Quota {
		t.quota[k] = new(quotaRow)
	}
	if w.Tick != nil {
		t.ticks[*w.Tick] = new(row[store.Tick])
	}
	for _, k := range w.Dedup {
		t.dedup[k] = new(row[store.Dedup])
	}
	for _, k := range w.Gates {
		g := t.gates[k]
		if g == nil {
			g = new(gateRow)
			t.gates[k] = g
		}
		if w.Heads == 0 {
			continue
		}
		// Enough for this one after those before it took theirs.
		g.limit = max(min(g.limit+headsPerOp+len(w.Tickets), maxHeads), w.Heads)
	}
	for _, k := range w.Slots {
		t.slots[k] = new(row[store.Slot])
	}
	for _, k := range w.Dead {
		t.dead[k] = new(row[posthaste.DeadLetter])
	}
	for _, id := range w.Tickets {
		t.tickets[id] = new(ticketRow)
	}
}

// enough reports whether the lists of the gates are long enough for the operation: as long as it wants, or whole.
func (t *transaction) enough(w *store.Want) bool {
	for _, k := range w.Gates {
		if g := t.gates[k]; !g.whole && len(g.list) < w.Heads {
			return false
		}
	}
	return true
}

// view returns copies of what the i-th operation wants, as the operations before it left it.
func (t *transaction) view(i int) *store.View {
	w := t.batch[i].op.Want()
	v := &store.View{Now: t.now}
	for _, id := range w.Tenants {
		v.Versions = append(v.Versions, t.versions[id])
	}
	for _, k := range w.Config {
		r := t.config[k].copy()
		if r != nil {
			r.Value = slices.Clone(r.Value)
		}
		v.Config = append(v.Config, r)
	}
	for _, k := range w.Quota {
		q := t.quota[k]
		v.Quota = append(v.Quota, q.n+q.add)
	}
	if w.Tick != nil {
		v.Tick = t.ticks[*w.Tick].copy()
	}
	for _, k := range w.Dedup {
		v.Dedup = append(v.Dedup, t.dedup[k].copy())
	}
	for _, k := range w.Slots {
		v.Slots = append(v.Slots, t.slots[k].copy())
	}
	for _, k := range w.Dead {
		v.Dead = append(v.Dead, t.dead[k].copy())
	}
	// A ticket that is wanted by its id and stands at the head of a gate is one object.
	var same map[posthaste.MessageID]*store.Ticket
	if len(w.Tickets) > 0 && w.Heads > 0 {
		same = make(map[posthaste.MessageID]*store.Ticket, len(w.Tickets))
	}
	for _, id := range w.Tickets {
		c := t.tickets[id].copy()
		if v.Tickets = append(v.Tickets, c); same != nil && c != nil {
			same[id] = c
		}
	}
	for _, k := range w.Gates {
		g := t.gates[k]
		v.Gates = append(v.Gates, g.copy())
		var heads []*store.Ticket
		for _, h := range g.list[:min(w.Heads, len(g.list))] {
			c := same[h.cur.ID]
			if c == nil {
				c = h.copy()
			}
			heads = append(heads, c)
		}
		v.Heads = append(v.Heads, heads)
	}
	if w.Ripe != nil {
		v.Ripe = t.ripened(i, w)
	}
	return v
}

// ripened returns the candidates of an operation that are ripe still, and what the operations before it made ripe. Those with a
// path are shown as they were read, without a lock; an operation that names gates does not get them, because it could change
// them.
func (t *transaction) ripened(i int, w *store.Want) (list []*store.Ticket) {
	for _, c := range t.ripe[i] {
		if t.tickets[c.ID] == nil && !c.plain && len(w.Gates) == 0 {
			list = append(list, c.Ticket)
		}
	}
	known := make(map[posthaste.MessageID]bool, len(t.ripe[i]))
	for _, c := range t.ripe[i] {
		known[c.ID] = true
	}
	for id, r := range t.tickets {
		if r.cur == nil || r.cur.Phase != posthaste.PhaseDelayed && r.cur.Phase != posthaste.PhaseReady || r.cur.Due.After(w.Ripe.Before) {
			continue
		}
		if _, shard, _ := id.Parts(); known[id] || r.dirty && shard == w.Ripe.Shard {
			list = append(list, r.copy())
		}
	}
	slices.SortFunc(list, func(a, b *store.Ticket) int {
		return cmp.Or(a.Due.Compare(b.Due), cmp.Compare(a.ID, b.ID))
	})
	of := map[posthaste.TenantID]int{}
	list = slices.DeleteFunc(list, func(k *store.Ticket) bool {
		of[k.Tenant]++
		return of[k.Tenant] > perTenant(w.Ripe)
	})
	return list[:min(len(list), w.Ripe.Limit)]
}

// merge adds the changes of an operation. An error leaves everything as it was.
func (t *transaction) merge(c *store.Changes) error {
	for _, d := range c.Dead {
		if _, _, ok := d.ID.Parts(); !ok {
			return posthaste.Errorf(posthaste.CodeInternal, "%q is not the id of a dead letter", string(d.ID))
		}
	}
	for _, p := range c.Put {
		if p.Phase == posthaste.PhaseWaiting && p.ParkedAt.Tenant != p.Tenant {
			return posthaste.Errorf(posthaste.CodeInternal, "ticket %s waits at a gate of another tenant", p.ID)
		}
	}
	t.messages = append(t.messages, c.Messages...)
	t.attempts = append(t.attempts, c.Attempts...)
	t.marks = append(t.marks, c.Marks...)
	t.restarted = append(t.restarted, c.Restarted...)
	for _, p := range c.Put {
		r := t.tickets[p.ID]
		if r == nil {
			r = new(ticketRow)
			t.tickets[p.ID] = r
		}
		t.move(r, p)
	}
	for _, p := range c.Drop {
		if r := t.tickets[p.ID]; r != nil {
			t.move(r, nil)
		}
	}
	for _, g := range c.Gates {
		r := t.gates[g.GateRef]
		if r == nil { // not locked: its update is as blind as it was decided
			r = new(gateRow)
			t.gates[g.GateRef] = r
		}
		r.set(g)
	}
	for _, s := range c.Slots {
		if r := entry(t.slots, s.SlotRef); s.Open == 0 {
			r.set(nil)
		} else {
			r.set(s)
		}
	}
	for _, d := range c.Dedup {
		entry(t.dedup, d.DedupKey).set(d)
	}
	for _, d := range c.Dead {
		entry(t.dead, store.DeadKey{Tenant: d.Tenant, ID: d.ID}).set(d)
	}
	for _, k := range c.DeadGone {
		entry(t.dead, k).set(nil)
	}
	if c.Tick != nil {
		entry(t.ticks, c.Tick.TickRef).set(c.Tick)
	}
	if c.TickGone != nil {
		entry(t.ticks, *c.TickGone).set(nil)
	}
	for _, a := range c.Quota {
		q := t.quota[a.QuotaKey]
		if q == nil {
			q = new(quotaRow)
			t.quota[a.QuotaKey] = q
		}
		q.add += a.N
	}
	for _, r := range c.Config {
		entry(t.config, r.ConfigKey).set(r)
	}
	for _, k := range c.ConfigGone {
		entry(t.config, k).set(nil)
	}
	for _, id := range c.Raise {
		t.versions[id]++
		t.raised[id]++
	}
	return nil
}

func entry[K comparable, T any](m map[K]*row[T], k K) *row[T] {
	r := m[k]
	if r == nil {
		r = new(row[T])
		m[k] = r
	}
	return r
}

// move gives a ticket another state and keeps the wait lists true.
func (t *transaction) move(r *ticketRow, p *store.Ticket) {
	if r.cur != nil && r.cur.Phase == posthaste.PhaseWaiting {
		if g := t.gates[r.cur.ParkedAt]; g != nil {
			if i := slices.Index(g.list, r); i >= 0 {
				g.list = slices.Delete(g.list, i, i+1)
			}
		}
	}
	r.set(p)
	if p == nil || p.Phase != posthaste.PhaseWaiting {
		return
	}
	g := t.gates[p.ParkedAt]
	if g == nil {
		return
	}
	// Behind the end of a list that is not whole others may stand before it.
	i, _ := slices.BinarySearchFunc(g.list, p, func(o *ticketRow, p *store.Ticket) int {
		if o.cur.Before(p) {
			return -1
		}
		return 1
	})
	if i < len(g.list) || g.whole {
		g.list = slices.Insert(g.list, i, r)
	}
}

// byShard cuts a sorted list into those of one shard.
func byShard[T any](list []T, shard func(T) int16, f func(shard int16, part []T)) {
	for len(list) > 0 {
		n, s := 1, shard(list[0])
		for n < len(list) && shard(list[n]) == s {
			n++
		}
		f(s, list[:n])
		list = list[n:]
	}
}

// keys returns the sorted keys of a map.
func keys[K comparable, V any](m map[K]V, compare func(a, b K) int) []K {
	if len(m) == 0 {
		return nil
	}
	list := slices.Collect(maps.Keys(m))
	slices.SortFunc(list, compare)
	return list
}
