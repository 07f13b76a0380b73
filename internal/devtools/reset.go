package devtools

import (
	"context"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/wire"
)

// CreateTenant creates a tenant. Empty fields are made up.
func (t *Tools) CreateTenant(ctx context.Context, n broker.NewTenant) (broker.NewTenant, error) {
	t.admin.Lock()
	defer t.admin.Unlock()
	return broker.NewAdmin(t.deps.Engine).CreateTenant(ctx, n)
}

// Reset empties the server: inboxes, messages, queues, schedules, URL groups, flow-control keys, dead letters, logs,
// deduplication and counts. Tenants keep their tokens and keys, and the clock its time. It waits for running attempts, after
// letting go of those that an inbox holds.
func (t *Tools) Reset(ctx context.Context) error {
	t.inboxes.reset()
	if err := t.beginTravel(ctx); err != nil {
		return err
	}
	defer t.endTravel()
	principals, err := t.principals(ctx)
	if err != nil {
		return err
	}
	// Nothing new may come from schedules, and nothing waits behind a pause, before messages are canceled.
	for _, p := range principals {
		if err := t.unconfigure(ctx, p); err != nil {
			return err
		}
	}
	// What was in flight may have made callbacks, so it takes another look.
	for canceled := -1; canceled != 0; {
		canceled = 0
		for _, p := range principals {
			n, err := t.deps.Broker.CancelAll(ctx, p, wire.CancelFilter{})
			if err != nil {
				return err
			}
			canceled += n
		}
		if _, err := t.quiet(ctx); err != nil {
			return err
		}
	}
	if err := t.trim(ctx); err != nil {
		return err
	}
	t.inboxes.reset() // what was in flight may have arrived since
	return nil
}

// principals returns somebody who may do anything, of each tenant.
func (t *Tools) principals(ctx context.Context) ([]*directory.Principal, error) {
	var list []*directory.Principal
	var after posthaste.TenantID
	for {
		ids, err := t.deps.Engine.Tenants(ctx, after, 500)
		if err != nil || len(ids) == 0 {
			return list, err
		}
		for _, id := range ids {
			tenant, err := t.deps.Directory.Fresh(ctx, id)
			if err != nil {
				return nil, err
			}
			if tenant != nil {
				list = append(list, &directory.Principal{Token: &directory.Token{Tenant: id, Scope: directory.ScopeFull}, Tenant: tenant})
			}
		}
		after = ids[len(ids)-1]
	}
}

// unconfigure removes schedules, URL groups and queues, and what was set for flow-control keys.
func (t *Tools) unconfigure(ctx context.Context, p *directory.Principal) error {
	b := t.deps.Broker
	schedules, err := b.Schedules(ctx, p)
	if err != nil {
		return err
	}
	for _, s := range schedules {
		if err := b.DeleteSchedule(ctx, p, s.ID); err != nil && posthaste.CodeOf(err) != posthaste.CodeNotFound {
			return err
		}
	}
	groups, err := b.Groups(ctx, p)
	if err != nil {
		return err
	}
	for _, g := range groups {
		if err := b.DeleteGroup(ctx, p, g.Name); err != nil && posthaste.CodeOf(err) != posthaste.CodeNotFound {
			return err
		}
	}
	queues, err := b.Queues(ctx, p)
	if err != nil {
		return err
	}
	for _, q := range queues {
		if err := b.DeleteQueue(ctx, p, q.Name); err != nil && posthaste.CodeOf(err) != posthaste.CodeNotFound {
			return err
		}
	}
	flows, err := b.FlowKeys(ctx, p, "")
	if err != nil {
		return err
	}
	for _, f := range flows {
		if err := b.PauseFlow(ctx, p, f.Key, false); err != nil {
			return err
		}
		if err := b.UnpinFlow(ctx, p, f.Key, wire.Unpin{Parallelism: true, Rate: true}); err != nil {
			return err
		}
	}
	return nil
}

// trim has retention drop what has ended, all of it: for deduplication, counts and gates the present is a far future. It walks
// twice, because the server's own retention may stand in the middle of a walk.
func (t *Tools) trim(ctx context.Context) error {
	soon := t.Now().Add(time.Second)
	p := store.TrimParams{Now: farthest, Keep: store.Keep{Messages: soon, Dead: soon}, Limit: 1000}
	for walks := 0; walks < 2; {
		more, err := t.deps.Engine.Trim(ctx, p)
		if err != nil {
			return err
		}
		if !more {
			walks++
		}
	}
	return nil
}
