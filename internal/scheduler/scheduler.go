// Package scheduler turns due ticks of schedules into messages.
//
// A tick fires once, whatever the number of nodes: advancing the schedule to its next tick and inserting the messages are one
// transaction, which names the tick it read. Ticks follow each other one by one, so none is lost while a node is up. Those that
// fell into a downtime are skipped, or fire once together if the operator wants that.
package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/compose"
	"github.com/posthaste/posthaste/internal/cron"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/fault"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
)

// starter runs what an operation claimed for this node.
type starter interface {
	Reserve(n int) ledger.Node
	Begin(node ledger.Node, out *ledger.Outcome)
}

// timekeeper is the clock that ticks refer to.
type timekeeper interface {
	Now() time.Time
	Wait(ctx context.Context, t time.Time) error
}

// Config sets a Scheduler up.
type Config struct {
	FireMissed bool                                          // ticks of a downtime fire once, together; otherwise they are skipped
	Shared     bool                                          // other nodes fire them, too, so that this one's start was no downtime
	Poll       time.Duration                                 // the longest wait between two looks into the store; 0: 1 s
	Ticked     func(tenant posthaste.TenantID, messages int) // told of each tick that fired; nil: nobody is
	Logger     *slog.Logger
}

// maxLate is how late a tick may fire. One that is later fell into a downtime, or the machine was asleep.
const maxLate = 5 * time.Minute

// Scheduler fires schedules.
type Scheduler struct {
	cfg    Config
	engine store.Engine
	dir    *directory.Directory
	clock  timekeeper
	nonces *ledger.Nonces
	start  starter
	wake   chan struct{}
	since  time.Time // when it began: earlier ticks fell into a downtime

	broken map[store.TickRef]broken // ticks that could not be fired; Run's own
}

// broken is a tick that cannot be fired, for a fault of its schedule, and holds up no others.
type broken struct {
	rev   int64
	until time.Time // in real time: when it is tried again
}

// brokenPause is how long a broken tick is left alone.
const brokenPause = time.Minute

// New returns a scheduler.
func New(engine store.Engine, dir *directory.Directory, clock timekeeper, nonces *ledger.Nonces, start starter, cfg Config) *Scheduler {
	if cfg.Poll <= 0 {
		cfg.Poll = time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Scheduler{
		cfg: cfg, engine: engine, dir: dir, clock: clock, nonces: nonces, start: start, wake: make(chan struct{}, 1),
		broken: map[store.TickRef]broken{},
	}
}

// Wake makes it look for ticks now.
func (s *Scheduler) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run fires what is due until ctx ends.
func (s *Scheduler) Run(ctx context.Context) error {
	s.since = s.clock.Now()
	for ctx.Err() == nil {
		next, err := s.sweep(ctx)
		if err != nil && ctx.Err() == nil {
			s.cfg.Logger.Warn("ticks not fired", "err", err)
		}
		s.sleep(ctx, next)
	}
	return nil
}

// sleep waits until next, a wake, or the poll interval.
func (s *Scheduler) sleep(ctx context.Context, next time.Time) {
	wait, cancel := context.WithCancel(ctx)
	moment := make(chan struct{})
	go func() {
		defer close(moment)
		if next.IsZero() {
			<-wait.Done()
			return
		}
		s.clock.Wait(wait, next) //nolint:errcheck // it ends with the context, as the loop does
	}()
	poll := time.NewTimer(s.cfg.Poll)
	defer poll.Stop()
	select {
	case <-ctx.Done():
	case <-moment:
	case <-s.wake:
	case <-poll.C:
	}
	cancel()
	<-moment
}

// sweep fires what is due and returns the next tick known; zero if none comes within the poll interval.
func (s *Scheduler) sweep(ctx context.Context) (time.Time, error) {
	for {
		now := s.clock.Now()
		ticks, err := s.engine.DueTicks(ctx, now.Add(s.cfg.Poll), 256)
		if err != nil {
			return time.Time{}, err
		}
		fired := false
		for _, t := range ticks {
			if t.Next.After(now) {
				if !fired {
					return t.Next, nil
				}
				break
			}
			if b, ok := s.broken[t.TickRef]; ok && b.rev == t.Rev && time.Now().Before(b.until) {
				continue
			}
			delete(s.broken, t.TickRef)
			fired = true
			if err := s.fire(ctx, t, now); posthaste.CodeOf(err) == posthaste.CodeUnavailable || ctx.Err() != nil {
				return time.Time{}, err
			} else if err != nil {
				s.cfg.Logger.Warn("tick not fired; it is tried again in a minute", "tenant", t.Tenant, "schedule", t.Schedule, "err", err)
				s.broken[t.TickRef] = broken{t.Rev, time.Now().Add(brokenPause)}
			}
		}
		if !fired {
			return time.Time{}, nil
		}
	}
}

// fire carries out one tick. Another node may have been quicker; then nothing happens.
func (s *Scheduler) fire(ctx context.Context, t *store.Tick, now time.Time) error {
	row, err := s.engine.Config(ctx, store.ConfigKey{Tenant: t.Tenant, Kind: store.ConfigSchedule, Name: string(t.Schedule)})
	if err != nil {
		return err
	}
	if row == nil {
		return errors.New("there is no such schedule") // deleted in between, and its tick with it
	}
	var r directory.ScheduleRow
	if err := directory.Decode(row, &r); err != nil {
		return err
	}
	expr, err := cron.Parse(r.Cron)
	if err != nil {
		return posthaste.Errorf(posthaste.CodeInternal, "schedule %s has the expression %q: %v", t.Schedule, r.Cron, err)
	}
	expr = expr.WithAnchor(r.Anchor)
	f := &ledger.Firing{Ref: t.TickRef, Rev: t.Rev, At: t.Next, Next: expr.Next(t.Next).UTC()}
	up := now.Add(-maxLate) // since when ticks are not missed
	if s.since.After(up) && !s.cfg.Shared {
		up = s.since
	}
	if t.Next.Before(up) {
		f.Next = expr.Next(up.Add(-1)).UTC()
		f.Skip = !s.cfg.FireMissed
	}
	if f.Next.Before(f.At) { // there is no further tick
		f.Next = time.Time{}
	}
	// What the tick makes depends on the group and the plan; if they change meanwhile, it is composed again.
	for range 10 {
		tenant, err := s.dir.Fresh(ctx, t.Tenant)
		if err != nil {
			return err
		}
		if tenant == nil {
			return errors.New("there is no such tenant")
		}
		op, err := s.compose(ctx, tenant, &r, f)
		if err != nil {
			return err
		}
		node := s.start.Reserve(len(op.Drafts))
		op.Node = node
		if err := s.engine.Do(context.WithoutCancel(ctx), 0, op); err != nil {
			s.start.Begin(node, nil)
			if !errors.Is(err, store.ErrStale) {
				if posthaste.CodeOf(err) == posthaste.CodeRateLimited {
					f.Error = err.Error()
					continue
				}
				return err
			}
			if now, err := s.engine.Tick(ctx, t.TickRef); err != nil || now == nil || now.Rev != t.Rev {
				return err // fired elsewhere, changed, or gone
			}
			continue
		}
		s.start.Begin(node, &op.Outcome)
		if s.cfg.Ticked != nil && !f.Skip {
			s.cfg.Ticked(t.Tenant, len(op.Drafts))
		}
		return nil
	}
	return nil
}

// compose makes the operation of a tick: a message, or one for each endpoint of the group.
func (s *Scheduler) compose(ctx context.Context, tenant *directory.Tenant, r *directory.ScheduleRow, f *ledger.Firing) (*ledger.Accept, error) {
	op := &ledger.Accept{
		Tenant: tenant.ID, Version: tenant.Version, Shards: s.engine.Shards(), Firing: f, Count: true,
		Parallelism: tenant.Plan.Parallelism,
	}
	if f.Skip || f.Error != "" {
		return op, nil
	}
	if limit := tenant.Plan.MessagesPerDay; limit > 0 {
		op.DailyLimit, op.Day = limit, store.DayOf(s.clock.Now())
	}
	targets := []compose.Target{{URL: r.Message.URL, API: r.Message.API}}
	if r.Group {
		g, err := s.dir.Group(ctx, tenant, r.Destination)
		if err != nil {
			return nil, err
		}
		if g == nil {
			f.Error = "topic " + r.Destination + " not found"
			return op, nil
		}
		targets = targets[:0]
		for _, e := range g.Endpoints {
			targets = append(targets, compose.Target{URL: e.URL, Group: g.Name, Endpoint: e.Name})
		}
	}
	if fault.On(fault.DoubleTick) {
		targets = append(targets, targets...)
	}
	for _, t := range targets {
		d := compose.Tick(&r.Message, t, f.Ref.Schedule, f.At)
		op.Drafts = append(op.Drafts, &ledger.Draft{
			Draft: d, Nonce: s.nonces.Next(), Path: ledger.PathOf(d.Message, op.Shards, tenant.Plan.Parallelism > 0),
		})
	}
	if err := op.LimitQueues(ctx, s.engine, tenant.Plan.Queues); posthaste.CodeOf(err) == posthaste.CodeQuotaExceeded {
		f.Error = err.Error()
		return s.compose(ctx, tenant, r, f)
	} else if err != nil {
		return nil, err
	}
	return op, nil
}
