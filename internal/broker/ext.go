package broker

import (
	"context"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/store"
)

// usageDays is how many days of usage are shown.
const usageDays = 30

// Usage tells what the tenant used of its plan.
func (b *Broker) Usage(ctx context.Context, p *directory.Principal) (*posthaste.Usage, error) {
	today := store.DayOf(b.clock.Now())
	u := &posthaste.Usage{Plan: p.Tenant.Plan.Name, Limit: p.Tenant.Plan.MessagesPerDay, Reset: dayStart(today + 1)}
	for i := range int32(usageDays) {
		n, err := b.engine.Quota(ctx, store.QuotaKey{Tenant: p.Tenant.ID, Day: today - i})
		if err != nil {
			return nil, err
		}
		if n > 0 || i == 0 {
			u.Days = append(u.Days, posthaste.DayUsage{Day: dayStart(today - i), Messages: n})
		}
	}
	queues, err := b.Queues(ctx, p)
	if err != nil {
		return nil, err
	}
	groups, err := b.configList(ctx, p, store.ConfigURLGroup)
	if err != nil {
		return nil, err
	}
	schedules, err := b.configList(ctx, p, store.ConfigSchedule)
	if err != nil {
		return nil, err
	}
	u.Queues, u.Groups, u.Schedules = len(queues), len(groups), len(schedules)
	return u, nil
}

func dayStart(day int32) time.Time { return time.Unix(int64(day)*86400, 0).UTC() }

// Hosts lists destination hosts that are blocked, failing, waited for, or being delivered to.
func (b *Broker) Hosts(ctx context.Context, p *directory.Principal) ([]posthaste.Host, error) {
	return b.hosts.Hosts(ctx, p.Tenant.ID)
}

// UnblockHost has messages to a host delivered again. It is no error if it was not blocked.
func (b *Broker) UnblockHost(ctx context.Context, p *directory.Principal, name string) error {
	_, err := b.hosts.Unblock(ctx, p.Tenant.ID, name)
	return err
}
