package broker

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/wire"
)

// flowGrace is how long an idle flow-control key is still shown.
const flowGrace = 10 * time.Minute

func (b *Broker) flowRef(p *directory.Principal, key string) store.GateRef {
	return store.NewGateRef(b.engine.Shards(), p.Tenant.ID, store.KindFlow, key)
}

// flowKeyOf returns the state of a key as it is now; ok is false when it is idle for so long that it counts as gone.
func flowKeyOf(g *store.Gate, now time.Time) (k *posthaste.FlowKey, ok bool) {
	idle := g.Live <= 0 && !g.Paused && !g.PinnedParallelism && !g.PinnedRate && !now.Before(g.WindowStart.Add(g.Period)) &&
		now.Sub(g.TouchedAt) >= flowGrace
	s := g.State
	s.Roll(now)
	return &posthaste.FlowKey{
		Key: g.Name, Waiting: g.Waiting, Parallelism: s.Parallelism, InFlight: s.InUse, Rate: s.Rate, RateUsed: rateUsed(s.Rate, s.WindowUsed),
		Period: s.Period, PeriodStart: s.WindowStart, Paused: s.Paused, PinnedParallelism: s.PinnedParallelism, PinnedRate: s.PinnedRate,
	}, !idle
}

// rateUsed hides what is counted while there is no rate.
func rateUsed(rate, used int) int {
	if rate == 0 {
		return 0
	}
	return used
}

// FlowKeys lists the tenant's flow-control keys that contain the text.
func (b *Broker) FlowKeys(ctx context.Context, p *directory.Principal, search string) ([]*posthaste.FlowKey, error) {
	var out []*posthaste.FlowKey
	now := b.clock.Now()
	err := b.gates(ctx, p, store.KindFlow, func(g *store.Gate) {
		if k, ok := flowKeyOf(g, now); ok && strings.Contains(k.Key, search) {
			out = append(out, k)
		}
	})
	return out, err
}

// FlowKey returns the state of one flow-control key.
func (b *Broker) FlowKey(ctx context.Context, p *directory.Principal, key string) (*posthaste.FlowKey, error) {
	g, err := b.engine.Gate(ctx, b.flowRef(p, key))
	if err != nil {
		return nil, err
	}
	if g != nil {
		if k, ok := flowKeyOf(g, b.clock.Now()); ok {
			return k, nil
		}
	}
	return nil, notFound("flow control key %s not found", key)
}

// editFlow changes a flow-control key, which is created if there is none.
func (b *Broker) editFlow(ctx context.Context, p *directory.Principal, key string, edit func(now time.Time, g *store.Gate)) error {
	return b.editGate(ctx, b.flowRef(p, key), 0, func(now time.Time, g *store.Gate) error {
		if g.CreatedAt.IsZero() {
			g.CreatedAt, g.Period = now, time.Second
		}
		edit(now, g)
		g.UpdatedAt = now
		return nil
	})
}

// PauseFlow stops or continues what has the key. The rate's period goes on.
func (b *Broker) PauseFlow(ctx context.Context, p *directory.Principal, key string, paused bool) error {
	return b.editFlow(ctx, p, key, func(_ time.Time, g *store.Gate) { g.Paused = paused })
}

// PinFlow sets limits of the key that messages do not change.
func (b *Broker) PinFlow(ctx context.Context, p *directory.Principal, key string, pin wire.Pin) error {
	return b.editFlow(ctx, p, key, func(now time.Time, g *store.Gate) {
		if pin.Parallelism > 0 {
			g.Parallelism, g.PinnedParallelism = pin.Parallelism, true
		}
		if pin.Rate > 0 {
			g.Rate, g.PinnedRate = pin.Rate, true
			if pin.Period > 0 {
				g.Period = pin.Period
			} else if g.Period <= 0 {
				g.Period = time.Second
			}
			g.ResetRate(now)
		}
	})
}

// UnpinFlow lets messages change the limits again. Until one does, they stay.
func (b *Broker) UnpinFlow(ctx context.Context, p *directory.Principal, key string, unpin wire.Unpin) error {
	return b.editFlow(ctx, p, key, func(_ time.Time, g *store.Gate) {
		g.PinnedParallelism = g.PinnedParallelism && !unpin.Parallelism
		g.PinnedRate = g.PinnedRate && !unpin.Rate
	})
}

// ResetFlowRate empties the key's current period and starts it anew.
func (b *Broker) ResetFlowRate(ctx context.Context, p *directory.Principal, key string) error {
	return b.editFlow(ctx, p, key, func(now time.Time, g *store.Gate) { g.ResetRate(now) })
}

// GlobalParallelism returns how many attempts the tenant may have in flight (0: no limit) and has.
func (b *Broker) GlobalParallelism(ctx context.Context, p *directory.Principal) (most, inFlight int64, err error) {
	most = int64(p.Tenant.Plan.Parallelism)
	if most > 0 {
		g, err := b.engine.Gate(ctx, store.NewGateRef(b.engine.Shards(), p.Tenant.ID, store.KindTenant, ""))
		if err != nil || g == nil {
			return most, 0, err
		}
		return most, int64(g.InUse), nil
	}
	after := posthaste.MessageID("")
	for {
		claims, err := b.engine.Claims(ctx, store.NodeEpoch{}, after, 1000)
		if err != nil || len(claims) == 0 {
			return 0, inFlight, err
		}
		after = claims[len(claims)-1].ID
		inFlight += int64(len(slices.DeleteFunc(claims, func(t *store.Ticket) bool { return t.Tenant != p.Tenant.ID })))
	}
}
