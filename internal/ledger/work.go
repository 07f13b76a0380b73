package ledger

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/fault"
	"github.com/posthaste/posthaste/internal/store"
)

// work is one run of a Decide over gates: it keeps the lists of parked tickets true while tickets move, and ends with the
// marks of rule 5 of package store.
type work struct {
	now   time.Time
	want  *store.Want
	v     *store.View
	c     *store.Changes
	node  Node
	out   *Outcome
	gates []gateWork                 // parallel to want.Gates
	saved map[*store.Ticket]struct{} // what stands in c.Put, once that is long
}

// gateWork is a gate under lock.
type gateWork struct {
	*store.Gate
	list    []*store.Ticket // parked here, in order: all of them, or the first ones
	whole   bool            // list is all of them
	touched bool            // the gate or its list changed
	room    int             // host gates: attempts that this node can start there
}

// begin prepares a run. It may be called with no gates in want, and then costs nothing.
func (w *work) begin(want *store.Want, v *store.View, c *store.Changes, node Node, out *Outcome) {
	*w = work{now: v.Now, want: want, v: v, c: c, node: node, out: out}
	if len(want.Gates) == 0 {
		return
	}
	w.gates = make([]gateWork, len(want.Gates))
	for i, ref := range want.Gates {
		g := v.Gates[i]
		if g == nil {
			g = &store.Gate{GateRef: ref}
		}
		w.gates[i].Gate = g
		w.gates[i].room = math.MaxInt
		if room, ok := node.Hosts[ref]; ok {
			w.gates[i].room = room
		}
		if i < len(v.Heads) {
			w.gates[i].list = v.Heads[i]
		}
		w.gates[i].whole = len(w.gates[i].list) < want.Heads
		// A ticket that is wanted by its id and stands at a gate's head is one object.
		for j, h := range w.gates[i].list {
			for _, t := range v.Tickets {
				if t != nil && t.ID == h.ID {
					w.gates[i].list[j] = t
				}
			}
		}
	}
}

// gate returns the gate named, or nil if the operation did not name it.
func (w *work) gate(ref store.GateRef) *gateWork {
	if len(w.gates) == 0 {
		return nil
	}
	i, ok := slices.BinarySearchFunc(w.want.Gates, ref, store.GateRef.Compare)
	if !ok {
		return nil
	}
	return &w.gates[i]
}

// named reports whether the operation holds every gate that it needs to decide on the ticket.
func (w *work) named(t *store.Ticket) bool {
	for _, ref := range t.Path {
		if w.gate(ref) == nil {
			return false
		}
	}
	ref, restricted := w.node.restricted(t.Tenant, t.Host)
	return !restricted || w.gate(ref) != nil
}

// host returns the host gate that restricts the ticket, or nil.
func (w *work) host(t *store.Ticket) *gateWork {
	ref, restricted := w.node.restricted(t.Tenant, t.Host)
	if !restricted {
		return nil
	}
	return w.gate(ref)
}

// slot returns the wanted slot row, which may be nil, and its index; -1 if it was not wanted.
func (w *work) slot(ref store.SlotRef) (*store.Slot, int) {
	for i, s := range w.want.Slots {
		if s == ref {
			return w.v.Slots[i], i
		}
	}
	return nil, -1
}

// put saves a ticket once, however often it changes.
func (w *work) put(t *store.Ticket) {
	if w.saved == nil && len(w.c.Put) >= 32 {
		w.saved = make(map[*store.Ticket]struct{}, 2*len(w.c.Put))
		for _, p := range w.c.Put {
			w.saved[p] = struct{}{}
		}
	}
	if w.saved != nil {
		if _, ok := w.saved[t]; ok {
			return
		}
		w.saved[t] = struct{}{}
	} else if slices.Contains(w.c.Put, t) {
		return
	}
	w.c.Put = append(w.c.Put, t)
}

// drop removes a resolved ticket.
func (w *work) drop(t *store.Ticket) {
	if i := slices.Index(w.c.Put, t); i >= 0 {
		w.c.Put = slices.Delete(w.c.Put, i, i+1)
		delete(w.saved, t)
	}
	t.Phase = posthaste.PhaseNone
	w.c.Drop = append(w.c.Drop, t)
}

// stale reports whether the ticket's queue was deleted after it came.
func (w *work) stale(t *store.Ticket) bool {
	ref := t.Queue()
	if ref.Zero() {
		return false
	}
	q := w.gate(ref)
	return q != nil && q.Gen != t.Gen
}

// advance moves a due ticket that is parked nowhere as far as the gates let it: it is claimed, or Ready, or parked. All of its
// path must be named.
func (w *work) advance(t *store.Ticket) {
	if w.stale(t) {
		w.cancelStale(t)
		return
	}
	if ref := t.Queue(); !ref.Zero() {
		q := w.gate(ref)
		holds := !t.Slot.Zero()
		switch {
		case holds && q.Paused:
			w.park(t, q, 0, w.now.UnixMicro())
			return
		case !holds:
			// Without room on the node it does not take the slot, or one that comes later to a node with room would start first.
			if q.Paused || q.InUse >= q.limit() || len(q.list) > 0 || w.node.Room <= 0 {
				q.NextSeq++
				w.park(t, q, 1, q.NextSeq)
				return
			}
			w.takeSlot(t, q)
		}
	}
	w.start(t)
}

// limit returns how many slots a queue has.
func (q *gateWork) limit() int { return max(1, q.Parallelism) }

// takeSlot gives the ticket a slot of its queue.
func (w *work) takeSlot(t *store.Ticket, q *gateWork) {
	q.InUse++
	q.touched = true
	t.Slot = store.SlotRef{Source: t.ID, Queue: q.GateRef, Gen: q.Gen}
	w.c.Slots = append(w.c.Slots, &store.Slot{SlotRef: t.Slot, Open: 1})
}

// start takes a unit of each flow gate, or none and parks the ticket at the first that refuses.
func (w *work) start(t *store.Ticket) {
	flows, host := t.Flows(), w.host(t)
	if t.Arrived == 0 && (len(flows) > 0 || host != nil) {
		t.Arrived = w.now.UnixMicro()
	}
	for _, ref := range flows {
		if g := w.gate(ref); !w.open(g, t) {
			w.park(t, g, t.Priority, t.Arrived)
			return
		}
	}
	if host != nil && (host.Paused || host.room <= 0 || !w.open(host, t)) {
		w.park(t, host, t.Priority, t.Arrived)
		return
	}
	if w.node.Room <= 0 {
		if len(flows) > 0 {
			w.park(t, w.gate(flows[0]), t.Priority, t.Arrived)
		} else {
			w.ready(t)
		}
		return
	}
	w.launch(t, host)
}

// launch takes a unit of each flow gate and claims. The caller has seen that all are open.
func (w *work) launch(t *store.Ticket, host *gateWork) {
	flows := t.Flows()
	if host != nil {
		host.room--
	}
	for _, ref := range flows {
		g := w.gate(ref)
		g.Take(w.now)
		g.touched = true
	}
	w.claim(t)
}

// open reports whether the gate has room and nobody who stands ahead of t.
func (w *work) open(g *gateWork, t *store.Ticket) bool {
	if len(g.list) > 0 {
		h := g.list[0]
		ahead := cmp.Or(cmp.Compare(h.Rank, t.Priority), cmp.Compare(h.Place, t.Arrived), cmp.Compare(h.ID, t.ID)) < 0
		if ahead {
			return false
		}
	}
	ok, _ := g.Room(w.now)
	return ok
}

// claim gives the ticket to the node.
func (w *work) claim(t *store.Ticket) {
	w.node.Room--
	t.Phase, t.Due, t.Arrived = posthaste.PhaseClaimed, time.Time{}, 0
	t.Node, t.Fence, t.StartedAt = w.node.NodeEpoch, t.Fence+1, w.now
	w.put(t)
	w.out.Started = append(w.out.Started, Start{Ticket: t})
}

// ready leaves the ticket to whoever has room for it.
func (w *work) ready(t *store.Ticket) {
	t.Phase, t.Due, t.Arrived = posthaste.PhaseReady, w.now, 0
	w.put(t)
}

// park puts the ticket in a gate's list.
func (w *work) park(t *store.Ticket, g *gateWork, rank uint8, place int64) {
	t.Phase, t.Due = posthaste.PhaseWaiting, time.Time{}
	t.ParkedAt, t.Rank, t.Place = g.GateRef, rank, place
	g.Waiting++
	g.touched = true
	at, _ := slices.BinarySearchFunc(g.list, t, func(a, b *store.Ticket) int {
		if a.Before(b) {
			return -1
		}
		return 1
	})
	if at < len(g.list) || g.whole {
		g.list = slices.Insert(g.list, at, t)
	}
	w.put(t)
}

// unpark takes the ticket out of its gate's list. Its row is saved or dropped by what follows.
func (w *work) unpark(t *store.Ticket) {
	g := w.gate(t.ParkedAt)
	if i := slices.Index(g.list, t); i >= 0 {
		g.list = slices.Delete(g.list, i, i+1)
	}
	g.Waiting--
	g.touched = true
	t.ParkedAt, t.Rank, t.Place, t.Due = store.GateRef{}, 0, 0, time.Time{}
}

// promote starts what the gate has room for. It tries waiting tickets in order and stops at the first one that it may not
// decide on, because its path is not wholly named or because no further one is known to carry the mark.
func (w *work) promote(g *gateWork) {
	for len(g.list) > 0 && (g.whole || len(g.list) > 1) {
		h := g.list[0]
		if fault.On(fault.SkipWaiting) && len(g.list) > 2 {
			h = g.list[1]
		}
		if !w.named(h) {
			return
		}
		if w.stale(h) {
			w.unpark(h)
			w.cancelStale(h)
			continue
		}
		if g.Kind == store.KindQueue {
			if g.Paused || h.Rank > 0 && g.InUse >= g.limit() || w.node.Room <= 0 {
				return
			}
			w.unpark(h)
			if h.Slot.Zero() {
				w.takeSlot(h, g)
			}
			w.start(h)
			continue
		}
		if w.node.Room <= 0 || !w.passes(g) {
			return
		}
		rank, place := h.Rank, h.Place
		probe := g.Kind == store.KindHost && g.Paused
		w.unpark(h)
		h.Arrived = place
		if q := h.Queue(); !q.Zero() && w.gate(q).Paused {
			w.park(h, w.gate(q), 0, w.now.UnixMicro())
			continue
		}
		if probe {
			w.probe(h, g)
			continue
		}
		w.start(h)
		if h.Phase == posthaste.PhaseWaiting && h.ParkedAt == g.GateRef && h.Rank == rank {
			return // it came back, so nothing behind it may pass
		}
	}
}

// passes reports whether a gate, not a queue, lets its first ticket try to start.
func (w *work) passes(g *gateWork) bool {
	if g.Kind == store.KindHost {
		return g.room > 0 && (!g.Paused || !w.now.Before(g.WindowStart))
	}
	ok, _ := g.Room(w.now)
	return ok
}

// Pauses between probes of a blocked host: the first, and the longest.
const (
	firstProbe = 5 * time.Second
	lastProbe  = 5 * time.Minute
)

// probe lets one ticket through to a blocked host, if its other gates are open, and puts the next probe off.
func (w *work) probe(t *store.Ticket, host *gateWork) {
	for _, ref := range t.Flows() {
		if g := w.gate(ref); !w.open(g, t) {
			w.park(t, g, t.Priority, t.Arrived)
			return
		}
	}
	host.Period = min(2*host.Period, lastProbe)
	host.WindowStart = w.now.Add(host.Period)
	host.touched = true
	w.launch(t, host)
}

// give takes back what a claim took at its flow gates. unsent says that no request was sent, which also returns the rate units.
func (w *work) give(t *store.Ticket, unsent bool) {
	for _, ref := range t.Flows() {
		g := w.gate(ref)
		g.Give()
		if unsent {
			g.Return(t.StartedAt)
		}
		g.touched = true
	}
}

// resolve ends a ticket: nothing counts it any more. open is the number of callbacks that go on holding its slot.
func (w *work) resolve(t *store.Ticket, open int) {
	w.drop(t)
	for _, ref := range t.Path {
		g := w.gate(ref)
		if g.Kind == store.KindQueue && g.Gen != t.Gen {
			continue
		}
		g.Live--
		g.touched = true
	}
	if t.Slot.Zero() {
		return
	}
	q := w.gate(t.Slot.Queue)
	if q.Gen != t.Slot.Gen {
		// The queue was deleted and with it all that its slots count. Removing the row needs no lock on it.
		if !slices.ContainsFunc(w.c.Slots, func(s *store.Slot) bool { return s.SlotRef == t.Slot }) {
			w.c.Slots = append(w.c.Slots, &store.Slot{SlotRef: t.Slot})
		}
		return
	}
	s := w.pendingSlot(t.Slot)
	if s == nil {
		return // nobody holds it any more
	}
	if s.Open += open - 1; s.Open <= 0 || fault.On(fault.EarlySlot) {
		s.Open = 0
		q.InUse = max(0, q.InUse-1)
		q.touched = true
	}
}

// pendingSlot returns the slot to be changed, from this operation's own changes or from what was loaded, and sees to it that
// it is saved.
func (w *work) pendingSlot(ref store.SlotRef) *store.Slot {
	for _, s := range w.c.Slots {
		if s.SlotRef == ref {
			return s
		}
	}
	s, _ := w.slot(ref)
	if s != nil {
		w.c.Slots = append(w.c.Slots, s)
	}
	return s
}

// cancel resolves a ticket as CANCELED. The caller has unparked it and given back its claim.
func (w *work) cancel(t *store.Ticket) {
	w.c.Marks = append(w.c.Marks, store.Mark{Tenant: t.Tenant, Message: t.ID, State: posthaste.StateCanceled, At: w.now})
	w.resolve(t, 0)
}

// cancelStale resolves a ticket whose queue was deleted, as a cancel of it would.
func (w *work) cancelStale(t *store.Ticket) {
	if !t.Cancel {
		w.c.Marks = append(w.c.Marks, store.Mark{Tenant: t.Tenant, Message: t.ID, State: posthaste.StateCancelRequested, At: w.now})
	}
	w.cancel(t)
}

// end brings rule 5 about for every gate that changed, saves those, and tells where an Admit can go on.
func (w *work) end() {
	// A promotion can free room at a gate that came before: a stale ticket gives back its slot. So until nothing moves.
	// It ends: rooms only shrink while nothing is canceled, and at every gate tickets have the same order. The bound guards
	// against a fault in that reasoning; an Admit would go on.
	moved := true
	for n := 0; moved && n < 100; n++ {
		moved = false
		for i := range w.gates {
			g := &w.gates[i]
			if !g.touched {
				continue
			}
			waiting := g.Waiting
			w.promote(g)
			moved = moved || g.Waiting != waiting
		}
	}
	for i := range w.gates {
		g := &w.gates[i]
		if !g.touched {
			continue
		}
		g.TouchedAt = w.now
		w.c.Gates = append(w.c.Gates, g.Gate)
		if len(g.list) == 0 {
			continue
		}
		due, fresh := w.mark(g)
		if h := g.list[0]; fresh && (h.Due.IsZero() || h.Due.After(w.now)) || !fresh && !h.Due.Equal(due) {
			h.Due = due
			w.put(h)
		}
		for _, h := range g.list[1:] {
			if !h.Due.IsZero() {
				h.Due = time.Time{}
				w.put(h)
			}
		}
		if fresh && w.node.Room > 0 {
			w.out.Next = append(w.out.Next, g.GateRef)
		}
	}
}

// mark returns when the first waiting ticket of a gate can be tried, and whether that is now.
func (w *work) mark(g *gateWork) (due time.Time, fresh bool) {
	h := g.list[0]
	switch {
	case w.stale(h):
		return w.now, true
	case g.Kind == store.KindQueue:
		if g.Paused || h.Rank > 0 && g.InUse >= g.limit() {
			return time.Time{}, false
		}
		return w.now, true
	}
	if g.Kind == store.KindHost {
		switch {
		case g.Paused && w.now.Before(g.WindowStart):
			return g.WindowStart, false
		case g.room <= 0:
			// Whoever ends an attempt there goes on with it; a node with room of its own looks after a second.
			return w.now.Add(time.Second), false
		}
		return w.now, true
	}
	ok, until := g.Room(w.now)
	if ok {
		return w.now, true
	}
	return until, false
}
