package ledger

import (
	"slices"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/compose"
	"github.com/posthaste/posthaste/internal/store"
)

// Draft is a message offered to [Accept].
type Draft struct {
	compose.Draft
	Nonce posthaste.Nonce
	Path  []store.GateRef // see PathOf
	// Dedup is the key of deduplication and Window how long it holds; nil: none.
	Dedup  *store.DedupKey
	Window time.Duration
	// Dead is the dead letter that the message replaces; its ID is empty for others.
	Dead store.DeadKey

	// The results. ID is the message's, or that of the first one if Duplicate. Gone says that the dead letter did not exist,
	// so nothing was accepted.
	ID        posthaste.MessageID
	Duplicate bool
	Gone      bool
}

// Firing is the tick of a schedule that an Accept carries out.
type Firing struct {
	Ref   store.TickRef
	Rev   int64     // of the tick row as it was read; another one makes the Accept ErrStale
	At    time.Time // the tick
	Next  time.Time // the one after it; zero: none
	Error string    // why no message is made
	// Skip says that the tick fell into a downtime and does not fire: only Next changes.
	Skip bool
}

// Accept stores new messages, all or none, and starts what is due and has room.
type Accept struct {
	Tenant  posthaste.TenantID
	Version int64 // of the configuration they were composed with; another one makes it ErrStale. 0: any
	Shards  int
	Drafts  []*Draft
	Node    Node
	Firing  *Firing
	// DailyLimit refuses what would pass so many messages on one UTC day; 0: unlimited. Count raises the day's counter.
	DailyLimit int64
	Day        int32 // the UTC day it is expected to be, with DailyLimit
	Count      bool
	// AllDead makes a dead letter that does not exist an error.
	AllDead bool
	// Parallelism is how many attempts the tenant may have in flight, for drafts whose path names its gate; 0: as many as that
	// gate says already.
	Parallelism int
	// FewQueues says that the tenant may have only so many queues. Then an Accept that makes one must have NewQueues, or it
	// is ErrStale; see [Accept.LimitQueues].
	FewQueues bool
	// NewQueues says that it may make queues, whose number was found to be allowed at Version. It raises the version, so of
	// two such operations that counted the same queues only the first is carried out.
	NewQueues bool

	Outcome
	// Used is the day's counter after this request, if DailyLimit is set.
	Used int64

	want store.Want
	one  [1]posthaste.TenantID
	w    work
}

// Want implements [store.Op].
func (op *Accept) Want() *store.Want {
	w := &op.want
	if w.Tenants != nil {
		return w
	}
	op.one[0] = op.Tenant
	w.Tenants = op.one[:]
	if op.Firing != nil {
		w.Tick = &op.Firing.Ref
	}
	for _, d := range op.Drafts {
		w.Gates = append(w.Gates, d.Path...)
		if ref, ok := op.Node.restricted(d.Message.Tenant, compose.Host(d.Message.URL)); ok {
			w.Gates = append(w.Gates, ref)
		}
		if d.Dedup != nil {
			w.Dedup = append(w.Dedup, *d.Dedup)
		}
		if d.Dead.ID != "" {
			w.Dead = append(w.Dead, d.Dead)
		}
	}
	w.Gates = gatesOf(w.Gates)
	if len(w.Gates) > 0 {
		w.Heads = 2
	}
	if op.DailyLimit > 0 {
		w.Quota = []store.QuotaKey{{Tenant: op.Tenant, Day: op.Day}}
	}
	if op.NewQueues {
		w.Config = versionLock(op.Tenant)
	}
	w.Dedup = sortedDedup(w.Dedup)
	w.Dead = sortedDead(w.Dead)
	return w
}

// Size implements [store.Sized].
func (op *Accept) Size() int {
	n := 0
	for _, d := range op.Drafts {
		n += len(d.Message.Body) + 256
	}
	return n
}

// Decide implements [store.Op].
func (op *Accept) Decide(v *store.View, c *store.Changes) error {
	op.Outcome = Outcome{Started: op.Started[:0]}
	if v.Versions[0] == 0 || op.Version != 0 && v.Versions[0] != op.Version {
		return store.ErrStale
	}
	if op.Firing != nil {
		if v.Tick == nil || v.Tick.Rev != op.Firing.Rev {
			return store.ErrStale
		}
	}
	if op.DailyLimit > 0 && store.DayOf(v.Now) != op.Day {
		return store.ErrStale
	}
	op.w.begin(&op.want, v, c, op.Node, &op.Outcome)
	op.limitTenant()
	n := int64(0)
	for _, d := range op.Drafts {
		d.ID, d.Duplicate, d.Gone = "", false, false
		if d.Dead.ID != "" && !op.takeDead(v, c, d) {
			if op.AllDead {
				return posthaste.Errorf(posthaste.CodeNotFound, "dlq message %s not found", d.Dead.ID)
			}
			d.Gone = true
			continue
		}
		d.ID = posthaste.NewMessageID(v.Now, HomeShard(d.Path, d.Nonce, op.Shards), d.Nonce)
		if d.Dedup != nil && op.duplicate(v, c, d) {
			continue
		}
		n++
		op.w.accept(&d.Draft, d.ID, d.Path, store.SlotRef{})
	}
	if op.DailyLimit > 0 {
		op.Used = v.Quota[0] + n
		if op.Used > op.DailyLimit && n > 0 {
			e := posthaste.Errorf(posthaste.CodeRateLimited,
				"Exceeded daily rate limit: %d messages a day, %d used", op.DailyLimit, v.Quota[0])
			op.Used -= n
			e.Limit = op.Daily()
			return e
		}
	}
	if op.FewQueues && op.madeQueue() {
		if !op.NewQueues {
			return store.ErrStale
		}
		c.Raise = append(c.Raise, op.Tenant)
	}
	if op.Firing != nil {
		op.fire(v, c)
	}
	if op.Count && n > 0 {
		c.Quota = append(c.Quota, store.QuotaAdd{QuotaKey: store.QuotaKey{Tenant: op.Tenant, Day: store.DayOf(v.Now)}, N: n})
	}
	op.w.end()
	return nil
}

// limitTenant gives the tenant's gate the limit of the tenant's plan, which is that of this operation's Version.
func (op *Accept) limitTenant() {
	if op.Parallelism <= 0 {
		return
	}
	for i := range op.w.gates {
		if g := &op.w.gates[i]; g.Kind == store.KindTenant && g.Parallelism != op.Parallelism {
			g.Parallelism, g.UpdatedAt, g.touched = op.Parallelism, op.w.now, true
		}
	}
}

// madeQueue reports whether a queue was made by this run.
func (op *Accept) madeQueue() bool {
	return slices.ContainsFunc(op.w.gates, func(g gateWork) bool {
		return g.Kind == store.KindQueue && g.CreatedAt.Equal(op.w.now)
	})
}

// takeDead removes the dead letter that a draft replaces and reports whether it existed.
func (op *Accept) takeDead(v *store.View, c *store.Changes, d *Draft) bool {
	i := slices.Index(op.want.Dead, d.Dead)
	if v.Dead[i] == nil || slices.Contains(c.DeadGone, d.Dead) {
		return false
	}
	c.DeadGone = append(c.DeadGone, d.Dead)
	return true
}

// duplicate reports whether a message with the draft's key was accepted within the window, maybe by this very request.
// Otherwise the draft is the first.
func (op *Accept) duplicate(v *store.View, c *store.Changes, d *Draft) bool {
	for _, e := range c.Dedup {
		if e.DedupKey == *d.Dedup {
			d.ID, d.Duplicate = e.Message, true
			return true
		}
	}
	i := slices.Index(op.want.Dedup, *d.Dedup)
	if e := v.Dedup[i]; e != nil && e.Expires.After(v.Now) {
		d.ID, d.Duplicate = e.Message, true
		return true
	}
	c.Dedup = append(c.Dedup, &store.Dedup{DedupKey: *d.Dedup, Message: d.ID, Expires: v.Now.Add(d.Window)})
	return false
}

func (op *Accept) fire(v *store.View, c *store.Changes) {
	t := v.Tick
	if op.Firing.Skip {
		t.Next = op.Firing.Next
		t.Rev++
		c.Tick = t
		return
	}
	t.Last, t.Next, t.Error, t.Made = op.Firing.At, op.Firing.Next, op.Firing.Error, nil
	t.Rev++
	for _, d := range op.Drafts {
		t.Made = append(t.Made, d.ID)
	}
	c.Tick = t
}

// accept makes the message and its ticket, and starts it if it is due. slot is the slot it holds from birth, if any.
func (w *work) accept(d *compose.Draft, id posthaste.MessageID, path []store.GateRef, slot store.SlotRef) {
	m := d.Message
	m.ID, m.CreatedAt, m.NotBefore, m.ClaimedAtOnce = id, w.now, d.At(w.now), false
	t := &store.Ticket{
		ID: id, Tenant: m.Tenant, Host: compose.Host(m.URL), Path: path, Priority: uint8(m.Priority), Slot: slot,
	}
	flow := 0
	for _, ref := range path {
		g := w.gate(ref)
		g.Live++
		g.touched = true
		switch g.Kind {
		case store.KindQueue:
			if g.CreatedAt.IsZero() {
				g.Parallelism, g.CreatedAt, g.UpdatedAt = 1, w.now, w.now
			}
			t.Gen = g.Gen
		case store.KindFlow, store.KindTenant:
			if g.CreatedAt.IsZero() {
				g.CreatedAt, g.UpdatedAt = w.now, w.now
			}
			if g.Kind == store.KindFlow {
				flow++
			}
		case store.KindHost:
		}
	}
	if flow > 0 {
		for _, fc := range m.Flow {
			for _, ref := range path {
				if ref.Kind == store.KindFlow && ref.Name == fc.Key {
					w.gate(ref).Configure(fc)
				}
			}
		}
	}
	w.c.Messages = append(w.c.Messages, m)
	if m.NotBefore.After(w.now) {
		t.Phase, t.Due = posthaste.PhaseDelayed, m.NotBefore
		w.put(t)
		return
	}
	started := len(w.out.Started)
	w.advance(t)
	if len(w.out.Started) > started {
		m.ClaimedAtOnce, t.AtOnce = true, true
		w.out.Started[started].Message = m
	}
}

func sortedDedup(keys []store.DedupKey) []store.DedupKey {
	if len(keys) < 2 {
		return keys
	}
	slices.SortFunc(keys, store.DedupKey.Compare)
	return slices.Compact(keys)
}

func sortedDead(keys []store.DeadKey) []store.DeadKey {
	if len(keys) < 2 {
		return keys
	}
	slices.SortFunc(keys, store.DeadKey.Compare)
	return slices.Compact(keys)
}

// Daily returns how the tenant's messages a day stand; nil if they are unlimited. The window ends at the next midnight UTC.
func (op *Accept) Daily() *posthaste.RateLimit {
	if op.DailyLimit <= 0 {
		return nil
	}
	return &posthaste.RateLimit{
		Daily: true, Limit: op.DailyLimit, Remaining: max(0, op.DailyLimit-op.Used), Reset: (int64(op.Day) + 1) * 86400,
	}
}
