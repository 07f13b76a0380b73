package broker

import (
	"context"
	"slices"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/cron"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/history"
	"github.com/posthaste/posthaste/internal/store"
)

// Life is all that is known of one message.
type Life struct {
	Message   *posthaste.Message
	Entries   []*posthaste.LogEntry // in order
	Standing  *Standing             // nil once it is resolved
	Callbacks []*posthaste.Message  // that its attempts caused
	Dead      posthaste.DeadLetterID
}

// Standing tells where an unresolved message stands.
type Standing struct {
	Phase    posthaste.Phase
	Due      time.Time // of a delayed or ready one: when it starts
	Attempt  int       // number of the running or next one
	Started  time.Time // of a running attempt
	Canceled bool      // a cancel came during the attempt
	Gate     *Gate     // of a waiting one: what holds it back
}

// GateKind says what a gate limits.
type GateKind string

// The kinds of gates, as people call them.
const (
	GateQueue  GateKind = "queue"
	GateFlow   GateKind = "flow-control key"
	GateTenant GateKind = "plan"
	GateHost   GateKind = "host"
)

// Gate is what a message waits for.
type Gate struct {
	Kind        GateKind
	Name        string
	Place       int   // 1: the next one; 0: behind the first 1000
	Waiting     int64 // messages there
	Paused      bool
	Parallelism int // 0: unlimited
	InFlight    int
	Rate        int // 0: unlimited
	RateUsed    int
	Opens       time.Time // when the rate's period ends, if it is used up; of a host, when it is tried again
}

// maxPlace bounds how far a message's place at a gate is counted.
const maxPlace = 1000

// Life returns a message with its log, where it stands, and what it caused.
func (b *Broker) Life(ctx context.Context, p *directory.Principal, id posthaste.MessageID) (*Life, error) {
	m, err := b.Message(ctx, p, id)
	if err != nil {
		return nil, err
	}
	l := &Life{Message: m}
	if l.Standing, err = b.standing(ctx, p, id); err != nil {
		return nil, err
	}
	if l.Entries, err = history.Of(ctx, b.engine, m); err != nil {
		return nil, err
	}
	for _, e := range l.Entries {
		if e.Attempt == nil || e.State == posthaste.StateError {
			continue
		}
		if err := b.consequences(ctx, p, l, e); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// consequences finds the callbacks that an attempt caused, and its dead letter. All were made by the operation that recorded
// the attempt, so they carry its moment.
func (b *Broker) consequences(ctx context.Context, p *directory.Principal, l *Life, e *posthaste.LogEntry) error {
	m := l.Message
	if m.Callback != nil || m.FailureCallback != nil {
		list, err := b.engine.MessageList(ctx, p.Tenant.ID, posthaste.FirstMessageID(e.At), store.Page{Limit: 4})
		if err != nil {
			return err
		}
		for _, c := range list {
			if c.Source == m.ID && c.CreatedAt.Equal(e.At) {
				l.Callbacks = append(l.Callbacks, c)
			}
		}
	}
	if e.State != posthaste.StateFailed {
		return nil
	}
	letters, err := b.engine.DeadLetters(ctx, p.Tenant.ID, before(e.At, false), store.Page{Limit: 64})
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(letters, func(d *posthaste.DeadLetter) bool { return d.Message == m.ID }); i >= 0 {
		l.Dead = letters[i].ID
	}
	return nil
}

// standing reads a message's ticket and what it waits for; nil if it is resolved.
func (b *Broker) standing(ctx context.Context, p *directory.Principal, id posthaste.MessageID) (*Standing, error) {
	t, err := b.engine.Ticket(ctx, id)
	if err != nil || t == nil || t.Tenant != p.Tenant.ID {
		return nil, err
	}
	s := &Standing{Phase: t.Phase, Due: t.Due, Attempt: t.Attempt, Started: t.StartedAt, Canceled: t.Cancel}
	if t.Phase != posthaste.PhaseWaiting {
		return s, nil
	}
	g, err := b.engine.Gate(ctx, t.ParkedAt)
	if err != nil || g == nil {
		return s, err
	}
	now := b.clock.Now()
	state := g.State
	state.Roll(now)
	s.Gate = &Gate{
		Name: g.Name, Waiting: g.Waiting, Paused: state.Paused, Parallelism: state.Parallelism, InFlight: state.InUse,
		Rate: state.Rate, RateUsed: rateUsed(state.Rate, state.WindowUsed),
	}
	switch g.Kind {
	case store.KindQueue:
		s.Gate.Kind = GateQueue
	case store.KindFlow:
		s.Gate.Kind = GateFlow
	case store.KindTenant:
		s.Gate.Kind = GateTenant
	case store.KindHost:
		s.Gate.Kind = GateHost
	}
	if state.Rate > 0 && state.WindowUsed >= state.Rate {
		s.Gate.Opens = state.WindowStart.Add(state.Period)
	}
	if g.Kind == store.KindHost && t.Due.After(now) {
		s.Gate.Opens = t.Due
	}
	heads, err := b.engine.Heads(ctx, t.ParkedAt, maxPlace)
	if err != nil {
		return nil, err
	}
	s.Gate.Place = slices.IndexFunc(heads, func(h *store.Ticket) bool { return h.ID == id }) + 1
	return s, nil
}

// Firings returns the next n moments at which a schedule of the given expression would fire, in its time zone.
func (b *Broker) Firings(spec string, n int) ([]time.Time, *time.Location, error) {
	expr, err := parseCron(spec)
	if err != nil {
		return nil, nil, err
	}
	now := b.clock.Now()
	return expr.WithAnchor(now).NextN(now, n), expr.Location(), nil
}

// Location returns the time zone of a schedule's expression.
func Location(spec string) *time.Location {
	expr, err := cron.Parse(spec)
	if err != nil {
		return time.UTC
	}
	return expr.Location()
}

// Now returns the time that due moments refer to.
func (b *Broker) Now() time.Time { return b.clock.Now() }
