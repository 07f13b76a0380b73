package broker

import (
	"context"
	"crypto/rand"
	"slices"
	"strings"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/compose"
	"github.com/posthaste/posthaste/internal/cron"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/wire"
)

func scheduleKey(p *directory.Principal, id posthaste.ScheduleID) store.ConfigKey {
	return store.ConfigKey{Tenant: p.Tenant.ID, Kind: store.ConfigSchedule, Name: string(id)}
}

func newScheduleID() posthaste.ScheduleID {
	var r [20]byte
	rand.Read(r[:]) // never fails
	return posthaste.ScheduleID("scd_" + posthaste.EncodeBase58(r[:], 28))
}

func parseCron(spec string) (cron.Schedule, error) {
	s, err := cron.Parse(spec)
	if err != nil {
		return cron.Schedule{}, posthaste.Errorf(posthaste.CodeInvalid, "Invalid cron expression %v", err)
	}
	return s, nil
}

// PutSchedule creates a schedule, or replaces all settings of the one whose id the request names. The time of creation and
// the pause of an existing one stay.
func (b *Broker) PutSchedule(ctx context.Context, p *directory.Principal, item Item) (posthaste.ScheduleID, error) {
	s, err := wire.ParseSettings(item.Input)
	if err != nil {
		return "", err
	}
	spec := strings.TrimSpace(s.Cron)
	expr, err := parseCron(spec)
	if err != nil {
		return "", err
	}
	for _, f := range []wire.Field{wire.FieldNotBefore} {
		if s.Has(f) {
			return "", posthaste.Errorf(posthaste.CodeInvalid, "%s is not supported for schedules: use %s", f.Header(), wire.HeaderDelay)
		}
	}
	id := s.ScheduleID
	if id == "" {
		id = newScheduleID()
	}
	if err := b.checkSettings(ctx, p, s, s.QueueName); err != nil {
		return "", err
	}
	targets, err := b.targets(ctx, p, item.Destination)
	if err != nil {
		return "", err
	}
	d, err := compose.New(compose.Request{
		Tenant: p.Tenant.ID, Target: targets[0], Settings: s, Body: item.Body, Queue: s.QueueName, Schedule: id, CallerIP: p.CallerIP,
	}, b.limits(p.Tenant))
	if err != nil {
		return "", err
	}
	row := directory.ScheduleRow{Cron: spec, Destination: item.Destination.Text, Group: item.Destination.Kind == wire.DestinationGroup, Message: *d.Message}
	if row.Group {
		row.Message.URL, row.Message.Group, row.Message.Endpoint = "", "", ""
	}
	err = b.counted(ctx, p, p.Tenant.Plan.Schedules, func(p *directory.Principal, version int64) error {
		if err := b.checkCount(ctx, p, store.ConfigSchedule, string(id), "maxSchedules", p.Tenant.Plan.Schedules); err != nil {
			return err
		}
		return b.putSchedule(ctx, p, id, row, expr, version)
	})
	if err != nil {
		return "", err
	}
	b.scheduled()
	return id, nil
}

// putSchedule stores a schedule. version, if set, is that of the configuration in which there was room for another one.
func (b *Broker) putSchedule(ctx context.Context, p *directory.Principal, id posthaste.ScheduleID, row directory.ScheduleRow, expr cron.Schedule, version int64) error {
	op := &ledger.Configure{
		Tenant: p.Tenant.ID, Version: version,
		Keys:    []store.ConfigKey{scheduleKey(p, id)},
		TickRef: &store.TickRef{Tenant: p.Tenant.ID, Schedule: id},
	}
	var put directory.ScheduleRow // what Edit decided, for Tick
	op.Edit = func(now time.Time, rows []*store.ConfigRow) ([]*store.ConfigRow, error) {
		put = row
		put.Anchor = now
		stored := &store.ConfigRow{}
		if rows[0] != nil {
			var old directory.ScheduleRow
			if err := directory.Decode(rows[0], &old); err != nil {
				return nil, err
			}
			put.Paused = old.Paused
			if old.Cron == put.Cron {
				put.Anchor = old.Anchor
			}
			stored = rows[0]
		}
		stored.Value = directory.Encode(put)
		return []*store.ConfigRow{stored}, nil
	}
	op.Tick = func(now time.Time, old *store.Tick) *store.Tick {
		t := &store.Tick{}
		if old != nil {
			t = old
		}
		t.Next = time.Time{}
		if !put.Paused {
			t.Next = expr.WithAnchor(put.Anchor).Next(now).UTC()
		}
		return t
	}
	return b.engine.Do(ctx, 0, op)
}

// scheduled tells the scheduler that ticks have changed.
func (b *Broker) scheduled() {
	if b.cfg.Scheduled != nil {
		b.cfg.Scheduled()
	}
}

// Schedule returns one schedule.
func (b *Broker) Schedule(ctx context.Context, p *directory.Principal, id posthaste.ScheduleID) (*wire.Schedule, error) {
	row, err := b.engine.Config(ctx, scheduleKey(p, id))
	if err != nil {
		return nil, err
	}
	if row == nil {
		return nil, notFound("schedule %s not found", id)
	}
	return b.schedule(ctx, p, row)
}

// Schedules lists the tenant's schedules, oldest first.
func (b *Broker) Schedules(ctx context.Context, p *directory.Principal) ([]*wire.Schedule, error) {
	rows, err := b.configList(ctx, p, store.ConfigSchedule)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(rows, func(a, b *store.ConfigRow) int { return a.CreatedAt.Compare(b.CreatedAt) })
	out := make([]*wire.Schedule, len(rows))
	for i, row := range rows {
		if out[i], err = b.schedule(ctx, p, row); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// upcoming is how many firing times a schedule shows.
const upcoming = 5

func (b *Broker) schedule(ctx context.Context, p *directory.Principal, row *store.ConfigRow) (*wire.Schedule, error) {
	var r directory.ScheduleRow
	if err := directory.Decode(row, &r); err != nil {
		return nil, err
	}
	id := posthaste.ScheduleID(row.Name)
	s := &wire.Schedule{
		ID: id, Cron: r.Cron, Destination: r.Destination, Template: &r.Message, CreatedAt: row.CreatedAt, Paused: r.Paused,
	}
	tick, err := b.engine.Tick(ctx, store.TickRef{Tenant: p.Tenant.ID, Schedule: id})
	if err != nil || tick == nil {
		return s, err
	}
	s.LastAt, s.NextAt, s.Error = tick.Last, tick.Next, tick.Error
	if !r.Paused && !tick.Next.IsZero() {
		if expr, err := cron.Parse(r.Cron); err == nil {
			s.Upcoming = append([]time.Time{tick.Next}, expr.WithAnchor(r.Anchor).NextN(tick.Next, upcoming-1)...)
		}
	}
	for _, made := range tick.Made {
		state, err := b.scheduleState(ctx, p, made)
		if err != nil {
			return nil, err
		}
		if s.LastStates == nil {
			s.LastStates = map[posthaste.MessageID]wire.ScheduleState{}
		}
		s.LastStates[made] = state
	}
	return s, nil
}

// scheduleState tells how a message of a tick stands, from its ticket or its last attempt.
func (b *Broker) scheduleState(ctx context.Context, p *directory.Principal, id posthaste.MessageID) (wire.ScheduleState, error) {
	t, err := b.engine.Ticket(ctx, id)
	if err != nil {
		return "", err
	}
	if t != nil {
		return wire.ScheduleInProgress, nil
	}
	attempts, err := b.engine.Attempts(ctx, p.Tenant.ID, id)
	if err != nil {
		return "", err
	}
	if n := len(attempts); n > 0 && attempts[n-1].State == posthaste.StateDelivered {
		return wire.ScheduleSuccess, nil
	}
	return wire.ScheduleFail, nil
}

// PauseSchedule stops or continues a schedule. While it is paused, ticks pass without effect.
func (b *Broker) PauseSchedule(ctx context.Context, p *directory.Principal, id posthaste.ScheduleID, paused bool) error {
	var r directory.ScheduleRow
	op := &ledger.Configure{
		Tenant:  p.Tenant.ID,
		Keys:    []store.ConfigKey{scheduleKey(p, id)},
		TickRef: &store.TickRef{Tenant: p.Tenant.ID, Schedule: id},
	}
	op.Edit = func(_ time.Time, rows []*store.ConfigRow) ([]*store.ConfigRow, error) {
		if rows[0] == nil {
			return nil, notFound("schedule %s not found", id)
		}
		r = directory.ScheduleRow{}
		if err := directory.Decode(rows[0], &r); err != nil {
			return nil, err
		}
		r.Paused = paused
		rows[0].Value = directory.Encode(r)
		return rows, nil
	}
	op.Tick = func(now time.Time, old *store.Tick) *store.Tick {
		t := &store.Tick{}
		if old != nil {
			t = old
		}
		switch {
		case paused:
			t.Next = time.Time{}
		case t.Next.IsZero():
			if expr, err := cron.Parse(r.Cron); err == nil {
				t.Next = expr.WithAnchor(r.Anchor).Next(now).UTC()
			}
		}
		return t
	}
	if err := b.engine.Do(ctx, 0, op); err != nil {
		return err
	}
	b.scheduled()
	return nil
}

// DeleteSchedule removes a schedule. What it produced is not touched. It is no error if there is none.
func (b *Broker) DeleteSchedule(ctx context.Context, p *directory.Principal, id posthaste.ScheduleID) error {
	return b.engine.Do(ctx, 0, &ledger.Configure{
		Tenant: p.Tenant.ID,
		Keys:   []store.ConfigKey{scheduleKey(p, id)},
		Edit: func(time.Time, []*store.ConfigRow) ([]*store.ConfigRow, error) {
			return []*store.ConfigRow{nil}, nil
		},
		TickRef:  &store.TickRef{Tenant: p.Tenant.ID, Schedule: id},
		TickGone: true,
	})
}
