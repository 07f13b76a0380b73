package broker

import (
	"context"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/store"
)

// Retention says how long things are kept after their end; 0: for ever. A tenant's plan may set shorter times.
type Retention struct {
	Content     time.Duration // finished messages
	Log         time.Duration // their log; 0: as long as Content
	DeadLetters time.Duration
}

// of returns what holds for a tenant.
func (r Retention) of(plan *directory.Plan) Retention {
	if r.Log <= 0 {
		r.Log = r.Content
	}
	return Retention{
		Content: smaller(r.Content, plan.Retention), Log: smaller(r.Log, plan.Retention), DeadLetters: smaller(r.DeadLetters, plan.DeadRetention),
	}
}

// keep returns the bounds at a moment. Entries of the log are made of the messages they are about, so a message stays until both
// have had their time; before that it may lose what the log does not need.
func (r Retention) keep(now time.Time) store.Keep {
	ago := func(d time.Duration) time.Time {
		if d <= 0 {
			return time.Time{}
		}
		return now.Add(-d)
	}
	k := store.Keep{Content: ago(r.Content), Messages: ago(max(r.Content, r.Log)), Dead: ago(r.DeadLetters)}
	if r.Content <= 0 || r.Log <= 0 {
		k.Messages = time.Time{}
	}
	if k.Content.Equal(k.Messages) {
		k.Content = time.Time{}
	}
	return k
}

// logFrom returns the moment before which a tenant's log is not shown any more; zero if what is stored is all shown.
func (b *Broker) logFrom(p *directory.Principal) time.Time {
	r := b.cfg.Retention.of(&p.Tenant.Plan)
	if r.Log <= 0 || r.Content > 0 && r.Log >= r.Content {
		return time.Time{}
	}
	return b.clock.Now().Add(-r.Log)
}

// TrimParams returns what a round of retention is to remove now, of each tenant by its plan.
func (b *Broker) TrimParams(ctx context.Context) (store.TrimParams, error) {
	now := b.clock.Now()
	usual := b.cfg.Retention.of(&directory.Plan{})
	p := store.TrimParams{Now: now, Keep: usual.keep(now)}
	after := posthaste.TenantID(0)
	for {
		ids, err := b.engine.Tenants(ctx, after, 1000)
		if err != nil || len(ids) == 0 {
			return p, err
		}
		for _, id := range ids {
			t, err := b.dir.Fresh(ctx, id)
			if err != nil {
				return p, err
			}
			if t == nil {
				continue
			}
			if r := b.cfg.Retention.of(&t.Plan); r != usual {
				if p.Tenants == nil {
					p.Tenants = map[posthaste.TenantID]store.Keep{}
				}
				p.Tenants[id] = r.keep(now)
			}
		}
		after = ids[len(ids)-1]
	}
}
