package storetest

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
)

// mirror keeps the state of a store in maps: what operations changed, in the order in which they decided. The suites compare
// an engine with one. It scans whatever it looks for.
type mirror struct {
	shards   int
	mu       sync.Mutex
	versions map[posthaste.TenantID]int64
	config   map[store.ConfigKey]*store.ConfigRow
	quota    map[store.QuotaKey]int64
	ticks    map[store.TickRef]*store.Tick
	dedup    map[store.DedupKey]*store.Dedup
	gates    map[store.GateRef]*store.Gate
	slots    map[store.SlotRef]*store.Slot
	dead     map[store.DeadKey]*posthaste.DeadLetter
	tickets  map[posthaste.MessageID]*store.Ticket
	messages map[posthaste.MessageID]*posthaste.Message
	ended    map[posthaste.MessageID]time.Time
	attempts map[posthaste.MessageID][]*posthaste.Attempt
	marks    map[posthaste.MessageID][]store.Mark
}

// newMirror returns the state of an empty store of so many shards.
func newMirror(shards int) *mirror {
	return &mirror{
		shards: shards, versions: map[posthaste.TenantID]int64{}, config: map[store.ConfigKey]*store.ConfigRow{},
		quota: map[store.QuotaKey]int64{}, ticks: map[store.TickRef]*store.Tick{}, dedup: map[store.DedupKey]*store.Dedup{},
		gates: map[store.GateRef]*store.Gate{}, slots: map[store.SlotRef]*store.Slot{},
		dead:    map[store.DeadKey]*posthaste.DeadLetter{},
		tickets: map[posthaste.MessageID]*store.Ticket{}, messages: map[posthaste.MessageID]*posthaste.Message{},
		ended: map[posthaste.MessageID]time.Time{}, attempts: map[posthaste.MessageID][]*posthaste.Attempt{},
		marks: map[posthaste.MessageID][]store.Mark{},
	}
}

func clone[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}

func find[K comparable, T any](m map[K]*T, keys []K) []*T {
	out := make([]*T, len(keys))
	for i, k := range keys {
		out[i] = clone(m[k])
	}
	return out
}

func (s *mirror) lock() func() {
	s.mu.Lock()
	return s.mu.Unlock
}

// View returns copies of what an operation wants.
func (s *mirror) View(w *store.Want, now time.Time) *store.View {
	defer s.lock()()
	v := &store.View{
		Now: now, Config: find(s.config, w.Config), Dedup: find(s.dedup, w.Dedup), Gates: find(s.gates, w.Gates),
		Slots: find(s.slots, w.Slots), Dead: find(s.dead, w.Dead), Tickets: find(s.tickets, w.Tickets),
	}
	for _, t := range w.Tenants {
		v.Versions = append(v.Versions, s.versions[t])
	}
	for _, q := range w.Quota {
		v.Quota = append(v.Quota, s.quota[q])
	}
	if w.Tick != nil {
		v.Tick = clone(s.ticks[*w.Tick])
	}
	if w.Heads > 0 {
		for _, g := range w.Gates {
			v.Heads = append(v.Heads, s.heads(g, w.Heads))
		}
	}
	if w.Ripe != nil {
		v.Ripe = s.ripe(*w.Ripe)
	}
	return v
}

// put stores rows under their keys.
func put[K comparable, T any](m map[K]*T, rows []*T, key func(*T) K) {
	for _, r := range rows {
		m[key(r)] = clone(r)
	}
}

// Apply carries out what an operation decided.
func (s *mirror) Apply(c *store.Changes, now time.Time) {
	defer s.lock()()
	put(s.messages, c.Messages, func(m *posthaste.Message) posthaste.MessageID { return m.ID })
	put(s.tickets, c.Put, func(t *store.Ticket) posthaste.MessageID { return t.ID })
	for _, t := range c.Drop {
		delete(s.tickets, t.ID)
		s.ended[t.ID] = now
	}
	put(s.gates, c.Gates, func(g *store.Gate) store.GateRef { return g.GateRef })
	for _, slot := range c.Slots {
		if slot.Open == 0 {
			delete(s.slots, slot.SlotRef)
		} else {
			s.slots[slot.SlotRef] = clone(slot)
		}
	}
	put(s.dedup, c.Dedup, func(d *store.Dedup) store.DedupKey { return d.DedupKey })
	put(s.dead, c.Dead, func(d *posthaste.DeadLetter) store.DeadKey { return store.DeadKey{Tenant: d.Tenant, ID: d.ID} })
	for _, k := range c.DeadGone {
		delete(s.dead, k)
	}
	for _, a := range c.Attempts {
		s.attempts[a.Message] = append(s.attempts[a.Message], clone(a))
	}
	for _, m := range c.Marks {
		s.marks[m.Message] = append(s.marks[m.Message], m)
	}
	for _, t := range c.Restarted {
		m := clone(s.messages[t.ID])
		m.ClaimedAtOnce = false
		s.messages[t.ID] = m
	}
	if c.Tick != nil {
		s.ticks[c.Tick.TickRef] = clone(c.Tick)
	}
	if c.TickGone != nil {
		delete(s.ticks, *c.TickGone)
	}
	for _, q := range c.Quota {
		s.quota[q.QuotaKey] += q.N
	}
	put(s.config, c.Config, func(r *store.ConfigRow) store.ConfigKey { return r.ConfigKey })
	for _, k := range c.ConfigGone {
		delete(s.config, k)
	}
	for _, t := range c.Raise {
		s.versions[t]++
	}
}

// collect returns copies of the rows that match, in order, at most limit.
func collect[K comparable, T any](m map[K]*T, match func(*T) bool, order func(a, b *T) int, limit int) []*T {
	var out []*T
	for _, r := range m {
		if match(r) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, order)
	out = out[:min(limit, len(out))]
	for i, r := range out {
		out[i] = clone(r)
	}
	return out
}

func byDue(a, b *store.Ticket) int { return cmp.Or(a.Due.Compare(b.Due), cmp.Compare(a.ID, b.ID)) }
func byID(a, b *store.Ticket) int  { return cmp.Compare(a.ID, b.ID) }

func (s *mirror) heads(ref store.GateRef, limit int) []*store.Ticket {
	return collect(s.tickets,
		func(t *store.Ticket) bool { return t.Phase == posthaste.PhaseWaiting && t.ParkedAt == ref },
		func(a, b *store.Ticket) int {
			return cmp.Or(cmp.Compare(a.Rank, b.Rank), cmp.Compare(a.Place, b.Place), cmp.Compare(a.ID, b.ID))
		}, limit)
}

func (s *mirror) ripe(r store.Ripe) []*store.Ticket {
	of := map[posthaste.TenantID]int{}
	all := collect(s.tickets, func(t *store.Ticket) bool {
		_, shard, _ := t.ID.Parts()
		return (t.Phase == posthaste.PhaseDelayed || t.Phase == posthaste.PhaseReady) && shard == r.Shard && !t.Due.After(r.Before)
	}, byDue, len(s.tickets))
	all = slices.DeleteFunc(all, func(t *store.Ticket) bool {
		of[t.Tenant]++
		return r.PerTenant > 0 && of[t.Tenant] > r.PerTenant
	})
	return all[:min(r.Limit, len(all))]
}

func earlier(p *time.Time, t time.Time) {
	if !t.IsZero() && (p.IsZero() || t.Before(*p)) {
		*p = t
	}
}

func (s *mirror) NextDue(context.Context) ([]store.ShardDue, error) {
	defer s.lock()()
	out := make([]store.ShardDue, s.shards)
	for i := range out {
		out[i].Shard = int16(i)
	}
	for _, t := range s.tickets {
		switch _, shard, _ := t.ID.Parts(); t.Phase {
		case posthaste.PhaseDelayed, posthaste.PhaseReady:
			earlier(&out[shard].Tickets, t.Due)
		case posthaste.PhaseWaiting:
			earlier(&out[t.ParkedAt.Shard].Waiting, t.Due)
		case posthaste.PhaseNone, posthaste.PhaseClaimed:
		}
	}
	for _, t := range s.ticks {
		earlier(&out[0].Tick, t.Next)
	}
	return out, nil
}

func (s *mirror) Version(_ context.Context, tenant posthaste.TenantID) (int64, error) {
	defer s.lock()()
	return s.versions[tenant], nil
}

func (s *mirror) Config(_ context.Context, key store.ConfigKey) (*store.ConfigRow, error) {
	defer s.lock()()
	return clone(s.config[key]), nil
}

func (s *mirror) ConfigList(_ context.Context, tenant posthaste.TenantID, kind store.ConfigKind, after string, limit int) ([]*store.ConfigRow, error) {
	defer s.lock()()
	return collect(s.config,
		func(r *store.ConfigRow) bool { return r.Tenant == tenant && r.Kind == kind && r.Name > after },
		func(a, b *store.ConfigRow) int { return strings.Compare(a.Name, b.Name) }, limit), nil
}

func (s *mirror) FindConfig(_ context.Context, kind store.ConfigKind, name string) (*store.ConfigRow, error) {
	defer s.lock()()
	for k, r := range s.config {
		if k.Kind == kind && k.Name == name {
			return clone(r), nil
		}
	}
	return nil, nil
}

func (s *mirror) Tenants(_ context.Context, after posthaste.TenantID, limit int) ([]posthaste.TenantID, error) {
	defer s.lock()()
	all := slices.Sorted(maps.Keys(s.versions))
	all = slices.DeleteFunc(all, func(t posthaste.TenantID) bool { return t <= after })
	return all[:min(limit, len(all))], nil
}

func (s *mirror) Message(ctx context.Context, tenant posthaste.TenantID, id posthaste.MessageID) (*posthaste.Message, error) {
	all, err := s.Messages(ctx, []store.MessageKey{{Tenant: tenant, ID: id}})
	return all[0], err
}

func (s *mirror) Messages(_ context.Context, keys []store.MessageKey) ([]*posthaste.Message, error) {
	defer s.lock()()
	out := make([]*posthaste.Message, len(keys))
	for i, k := range keys {
		if m := s.messages[k.ID]; m != nil && m.Tenant == k.Tenant {
			out[i] = clone(m)
		}
	}
	return out, nil
}

// beyond reports whether a row stands beyond a position, which is between rows; the zero position is before the first or,
// descending, after the last.
func beyond(c int, zero, desc bool) bool {
	if desc {
		return zero || c < 0
	}
	return c > 0
}

func signed(c int, desc bool) int {
	if desc {
		return -c
	}
	return c
}

func (s *mirror) MessageList(_ context.Context, tenant posthaste.TenantID, from posthaste.MessageID, p store.Page) ([]*posthaste.Message, error) {
	defer s.lock()()
	return collect(s.messages,
		func(m *posthaste.Message) bool {
			return m.Tenant == tenant && beyond(cmp.Compare(m.ID, from), from == "", p.Desc)
		},
		func(a, b *posthaste.Message) int { return signed(cmp.Compare(a.ID, b.ID), p.Desc) }, p.Limit), nil
}

func (s *mirror) Ticket(_ context.Context, id posthaste.MessageID) (*store.Ticket, error) {
	defer s.lock()()
	return clone(s.tickets[id]), nil
}

func (s *mirror) Tickets(_ context.Context, ids []posthaste.MessageID) ([]*store.Ticket, error) {
	defer s.lock()()
	return find(s.tickets, ids), nil
}

func (s *mirror) TicketList(_ context.Context, tenant posthaste.TenantID, after posthaste.MessageID, limit int) ([]*store.Ticket, error) {
	defer s.lock()()
	return collect(s.tickets, func(t *store.Ticket) bool { return t.Tenant == tenant && t.ID > after }, byID, limit), nil
}

func (s *mirror) Ripening(_ context.Context, r store.Ripe) ([]*store.Ticket, error) {
	defer s.lock()()
	return s.ripe(r), nil
}

func (s *mirror) Awake(_ context.Context, shard int16, before time.Time, limit int) ([]*store.Ticket, error) {
	defer s.lock()()
	return collect(s.tickets, func(t *store.Ticket) bool {
		return t.Phase == posthaste.PhaseWaiting && t.ParkedAt.Shard == shard && !t.Due.IsZero() && !t.Due.After(before)
	}, byDue, limit), nil
}

func (s *mirror) Heads(_ context.Context, ref store.GateRef, limit int) ([]*store.Ticket, error) {
	defer s.lock()()
	return s.heads(ref, limit), nil
}

func (s *mirror) Claims(_ context.Context, n store.NodeEpoch, after posthaste.MessageID, limit int) ([]*store.Ticket, error) {
	defer s.lock()()
	return collect(s.tickets, func(t *store.Ticket) bool {
		return t.Phase == posthaste.PhaseClaimed && (n == store.NodeEpoch{} || t.Node == n) && t.ID > after
	}, byID, limit), nil
}

func (s *mirror) Gate(_ context.Context, ref store.GateRef) (*store.Gate, error) {
	defer s.lock()()
	return clone(s.gates[ref]), nil
}

func (s *mirror) GateList(_ context.Context, tenant posthaste.TenantID, kind store.Kind, after string, limit int) ([]*store.Gate, error) {
	defer s.lock()()
	return collect(s.gates,
		func(g *store.Gate) bool { return g.Tenant == tenant && g.Kind == kind && g.Name > after },
		func(a, b *store.Gate) int { return strings.Compare(a.Name, b.Name) }, limit), nil
}

func (s *mirror) Slot(_ context.Context, ref store.SlotRef) (*store.Slot, error) {
	defer s.lock()()
	return clone(s.slots[ref]), nil
}

func (s *mirror) Dedup(_ context.Context, key store.DedupKey) (*store.Dedup, error) {
	defer s.lock()()
	return clone(s.dedup[key]), nil
}

func (s *mirror) Quota(_ context.Context, key store.QuotaKey) (int64, error) {
	defer s.lock()()
	return s.quota[key], nil
}

func (s *mirror) Tick(_ context.Context, ref store.TickRef) (*store.Tick, error) {
	defer s.lock()()
	return clone(s.ticks[ref]), nil
}

func (s *mirror) DueTicks(_ context.Context, before time.Time, limit int) ([]*store.Tick, error) {
	defer s.lock()()
	return collect(s.ticks, func(t *store.Tick) bool { return !t.Next.IsZero() && !t.Next.After(before) },
		func(a, b *store.Tick) int { return a.Next.Compare(b.Next) }, limit), nil
}

func (s *mirror) Attempts(_ context.Context, tenant posthaste.TenantID, id posthaste.MessageID) ([]*posthaste.Attempt, error) {
	defer s.lock()()
	var out []*posthaste.Attempt
	for _, a := range s.attempts[id] {
		if a.Tenant == tenant {
			out = append(out, clone(a))
		}
	}
	return out, nil
}

func (s *mirror) Marks(_ context.Context, tenant posthaste.TenantID, id posthaste.MessageID) ([]store.Mark, error) {
	defer s.lock()()
	return slices.DeleteFunc(slices.Clone(s.marks[id]), func(m store.Mark) bool { return m.Tenant != tenant }), nil
}

func comparePos(a, b store.LogPos) int {
	return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID), cmp.Compare(a.N, b.N))
}

func (s *mirror) LogRows(_ context.Context, tenant posthaste.TenantID, stream store.LogStream, from store.LogPos, p store.Page) ([]store.LogRow, error) {
	defer s.lock()()
	var rows []store.LogRow
	switch stream {
	case store.StreamCreated:
		for _, m := range s.messages {
			if m.Tenant == tenant {
				rows = append(rows, store.LogRow{LogPos: store.LogPos{At: m.CreatedAt, ID: m.ID}, AtOnce: m.ClaimedAtOnce})
			}
		}
	case store.StreamStarted, store.StreamEnded:
		for _, of := range s.attempts {
			for _, a := range of {
				at := a.EndedAt
				if stream == store.StreamStarted {
					at = a.StartedAt
				}
				if a.Tenant == tenant && (stream == store.StreamEnded || !a.AtOnce) {
					rows = append(rows, store.LogRow{LogPos: store.LogPos{At: at, ID: a.Message, N: a.Number}, Attempt: clone(a)})
				}
			}
		}
	case store.StreamMarks:
		for _, of := range s.marks {
			for _, m := range of {
				n := 0
				if m.State == posthaste.StateCanceled {
					n = 1
				}
				if m.Tenant == tenant {
					rows = append(rows, store.LogRow{LogPos: store.LogPos{At: m.At, ID: m.Message, N: n}, Mark: m.State})
				}
			}
		}
	}
	rows = slices.DeleteFunc(rows, func(r store.LogRow) bool {
		return !beyond(comparePos(r.LogPos, from), from == store.LogPos{}, p.Desc)
	})
	slices.SortFunc(rows, func(a, b store.LogRow) int { return signed(comparePos(a.LogPos, b.LogPos), p.Desc) })
	return rows[:min(p.Limit, len(rows))], nil
}

func (s *mirror) DeadLetter(_ context.Context, key store.DeadKey) (*posthaste.DeadLetter, error) {
	defer s.lock()()
	return clone(s.dead[key]), nil
}

func compareDead(a, b posthaste.DeadLetterID) int {
	at, an, _ := a.Parts()
	bt, bn, _ := b.Parts()
	return cmp.Or(at.Compare(bt), cmp.Compare(an, bn))
}

func (s *mirror) DeadLetters(_ context.Context, tenant posthaste.TenantID, from posthaste.DeadLetterID, p store.Page) ([]*posthaste.DeadLetter, error) {
	defer s.lock()()
	return collect(s.dead,
		func(d *posthaste.DeadLetter) bool {
			return d.Tenant == tenant && (from == "" || beyond(compareDead(d.ID, from), false, p.Desc))
		},
		func(a, b *posthaste.DeadLetter) int { return signed(compareDead(a.ID, b.ID), p.Desc) }, p.Limit), nil
}

// Trim carries out a step of retention and reports whether it came to its bound.
func (s *mirror) Trim(p store.TrimParams) (more bool) {
	defer s.lock()()
	left := p.Limit
	for k, d := range s.dedup {
		if left > 0 && !d.Expires.After(p.Now) {
			delete(s.dedup, k)
			left--
		}
	}
	kept := map[posthaste.MessageID]bool{}
	for k, d := range s.dead {
		if before := p.Of(d.Tenant).Dead; left > 0 && !before.IsZero() && d.At.Before(before) {
			delete(s.dead, k)
			left--
			continue
		}
		kept[d.Message] = true
	}
	for _, t := range s.ticks {
		for _, id := range t.Made {
			kept[id] = true
		}
	}
	for id, end := range s.ended {
		if left <= 0 || kept[id] {
			continue
		}
		k := p.Of(s.messages[id].Tenant)
		if !k.Content.IsZero() && end.Before(k.Content) {
			m := clone(s.messages[id])
			if store.Strip(m) {
				s.messages[id] = m
				left--
			}
		}
		if !k.Messages.IsZero() && end.Before(k.Messages) {
			delete(s.messages, id)
			delete(s.attempts, id)
			delete(s.marks, id)
			delete(s.ended, id)
			left--
		}
	}
	for ref, g := range s.gates {
		idle := g.InUse == 0 && g.Waiting == 0 && g.Live == 0 && !p.Now.Before(g.WindowStart.Add(g.Period))
		set := g.Kind == store.KindQueue || g.Paused || g.PinnedParallelism || g.PinnedRate
		if left > 0 && idle && !set && p.Now.Sub(g.TouchedAt) > 10*time.Minute {
			delete(s.gates, ref)
			left--
		}
	}
	return left == 0
}
