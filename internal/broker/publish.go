package broker

import (
	"context"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/compose"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/wire"
)

// Item is one message, or one for each endpoint of a group, that a request publishes.
type Item struct {
	Destination wire.Destination
	Input       wire.Input // where its settings come from; Defaults are filled in here
	Body        []byte
	Queue       string // empty: none
}

// Accepted is what became of one message.
type Accepted struct {
	ID        posthaste.MessageID
	URL       string
	Duplicate bool
}

// Result is what became of an item: one message, or those of a group's endpoints in order.
type Result struct {
	Messages []Accepted
	Group    bool
}

// Publish accepts the items, all or none, and returns when they are durable. daily is how the tenant's messages a day stand
// then; nil if they are unlimited.
func (b *Broker) Publish(ctx context.Context, p *directory.Principal, items []Item) (results []Result, daily *posthaste.RateLimit, err error) {
	var turn turn
	defer turn.over()
	err = b.retryStale(ctx, p, func(p *directory.Principal) error {
		op := b.newAccept(p)
		results = make([]Result, len(items))
		for i := range items {
			drafts, group, err := b.prepare(ctx, p, &items[i])
			if err != nil {
				if len(items) > 1 {
					return wire.InItem(i, err)
				}
				return err
			}
			results[i].Group = group
			results[i].Messages = make([]Accepted, len(drafts))
			for j, d := range drafts {
				results[i].Messages[j].URL = d.Message.URL
			}
			op.Drafts = append(op.Drafts, drafts...)
		}
		if err := b.accept(ctx, p, op, &turn); err != nil {
			return err
		}
		daily = op.Daily()
		n := 0
		for i := range results {
			for j := range results[i].Messages {
				results[i].Messages[j].ID, results[i].Messages[j].Duplicate = op.Drafts[n].ID, op.Drafts[n].Duplicate
				n++
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return results, daily, nil
}

// newAccept returns an operation that accepts nothing yet, within the limits of the tenant.
func (b *Broker) newAccept(p *directory.Principal) *ledger.Accept {
	op := &ledger.Accept{
		Tenant: p.Tenant.ID, Version: p.Tenant.Version, Shards: b.engine.Shards(), Count: true, Parallelism: p.Tenant.Plan.Parallelism,
	}
	if limit := p.Tenant.Plan.MessagesPerDay; limit > 0 {
		op.DailyLimit, op.Day = limit, store.DayOf(b.clock.Now())
	}
	return op
}

// accept submits and starts what could start at once. A request that makes queues of which there may be only so many takes
// its turn before.
func (b *Broker) accept(ctx context.Context, p *directory.Principal, op *ledger.Accept, turn *turn) error {
	if len(op.Drafts) == 0 {
		return nil
	}
	if err := op.LimitQueues(ctx, b.engine, p.Tenant.Plan.Queues); err != nil {
		return err
	}
	if op.NewQueues && !turn.taken() {
		if err := turn.take(ctx, b.turns.of(p.Tenant.ID)); err != nil {
			return err
		}
		return store.ErrStale // others may have made queues meanwhile
	}
	node := b.start.Reserve(len(op.Drafts))
	op.Node = node
	lane := 0
	if len(op.Drafts) > 0 {
		lane = int(ledger.HomeShard(op.Drafts[0].Path, op.Drafts[0].Nonce, op.Shards))
	}
	// A client that goes away does not take back what it sent: the commit is on its way, and what it claims must be started.
	if err := b.engine.Do(context.WithoutCancel(ctx), lane, op); err != nil {
		b.start.Begin(node, nil)
		return err
	}
	b.start.Begin(node, &op.Outcome)
	if b.cfg.Accepted != nil {
		n := 0
		for _, d := range op.Drafts {
			if !d.Duplicate && !d.Gone {
				n++
			}
		}
		b.cfg.Accepted(op.Tenant, n)
	}
	return nil
}

// prepare turns an item into drafts. group reports whether the destination is a URL group.
func (b *Broker) prepare(ctx context.Context, p *directory.Principal, item *Item) (drafts []*ledger.Draft, group bool, err error) {
	targets, err := b.targets(ctx, p, item.Destination)
	if err != nil {
		return nil, false, err
	}
	group = item.Destination.Kind == wire.DestinationGroup
	in := item.Input
	if group {
		g, err := b.dir.Group(ctx, p.Tenant, item.Destination.Text)
		if err != nil {
			return nil, false, err
		}
		if g == nil {
			return nil, false, store.ErrStale
		}
		in.Defaults = g.Defaults
	}
	s, err := wire.ParseSettings(in)
	if err != nil {
		return nil, false, err
	}
	if err := b.checkSettings(ctx, p, s, item.Queue); err != nil {
		return nil, false, err
	}
	limits := b.limits(p.Tenant)
	for _, t := range targets {
		d, err := compose.New(compose.Request{
			Tenant: p.Tenant.ID, Target: t, Settings: s, Body: item.Body, Queue: item.Queue, CallerIP: p.CallerIP,
		}, limits)
		if err != nil {
			return nil, false, err
		}
		if err := compose.CheckNotBefore(d, b.clock.Now(), limits); err != nil {
			return nil, false, err
		}
		ld := b.draft(p.Tenant, d)
		endpoint := ""
		if group {
			endpoint = t.URL
		}
		if key := compose.DedupKey(item.Destination.Text, endpoint, s, item.Body); key != "" {
			k := store.NewDedupKey(b.engine.Shards(), p.Tenant.ID, key)
			ld.Dedup, ld.Window = &k, b.cfg.DedupWindow
			if s.Has(wire.FieldDeduplicationWindow) {
				ld.Window = s.DeduplicationWindow
			}
		}
		drafts = append(drafts, ld)
	}
	return drafts, group, nil
}

// draft gives a composed message its gates and its nonce.
func (b *Broker) draft(t *directory.Tenant, d compose.Draft) *ledger.Draft {
	return &ledger.Draft{
		Draft: d, Nonce: b.nonces.Next(), Path: ledger.PathOf(d.Message, b.engine.Shards(), t.Plan.Parallelism > 0),
	}
}

// targets resolves a destination.
func (b *Broker) targets(ctx context.Context, p *directory.Principal, d wire.Destination) ([]compose.Target, error) {
	switch d.Kind {
	case wire.DestinationURL:
		if err := b.checkURL(ctx, "destination", d.Text); err != nil {
			return nil, err
		}
		return []compose.Target{{URL: d.Text}}, nil
	case wire.DestinationGroup:
		g, err := b.dir.Group(ctx, p.Tenant, d.Text)
		if err != nil {
			return nil, err
		}
		if g == nil {
			// The snapshot may be older than the group.
			fresh, err := b.dir.Fresh(ctx, p.Tenant.ID)
			if err != nil {
				return nil, err
			}
			if fresh != nil && fresh != p.Tenant {
				return nil, store.ErrStale
			}
			return nil, notFound("topic %s not found", d.Text)
		}
		targets := make([]compose.Target, len(g.Endpoints))
		for i, e := range g.Endpoints {
			targets[i] = compose.Target{URL: e.URL, Group: g.Name, Endpoint: e.Name}
		}
		return targets, nil
	case wire.DestinationAPI:
		if b.cfg.LLM == "" {
			return nil, posthaste.Errorf(posthaste.CodeInvalid, "api llm is not enabled: the server has no --llm-url")
		}
		return []compose.Target{{URL: b.cfg.LLM, API: wire.APILLM}}, nil
	}
	return nil, posthaste.Errorf(posthaste.CodeInvalid, "a non-empty destination must be provided")
}

// checkURL judges a URL that will be dialled.
func (b *Broker) checkURL(ctx context.Context, what, url string) error {
	check := b.urls.CheckURL
	if b.cfg.ResolveOnPublish {
		check = func(u string) error { return b.urls.Resolve(ctx, u) }
	}
	if err := check(url); err != nil {
		text := err.Error()
		if what != "destination" {
			text = "invalid " + what + " header: " + text
		}
		return &posthaste.Error{Code: posthaste.CodeInvalid, Message: text}
	}
	return nil
}

// checkSettings judges what compose cannot: URLs to be called back, and limits of the plan.
func (b *Broker) checkSettings(ctx context.Context, p *directory.Principal, s *wire.Settings, queue string) error {
	for _, c := range []struct {
		header string
		cb     *posthaste.Callback
	}{{wire.HeaderCallback, s.Callback}, {wire.HeaderFailureCallback, s.FailureCallback}} {
		if c.cb != nil {
			if err := b.checkURL(ctx, c.header, c.cb.URL); err != nil {
				return err
			}
		}
	}
	if s.DeduplicationWindow > 90*24*time.Hour {
		return posthaste.Errorf(posthaste.CodeInvalid, "invalid %s header: at most 90 days", wire.HeaderDeduplicationWindow)
	}
	if queue != "" {
		if err := wire.CheckName(queue); err != nil {
			return posthaste.Errorf(posthaste.CodeInvalid, "invalid queue name %q: %v", queue, err)
		}
	}
	return nil
}
