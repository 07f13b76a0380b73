package broker

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/wire"
)

// configList reads all of the tenant's configuration rows of a kind.
func (b *Broker) configList(ctx context.Context, p *directory.Principal, kind store.ConfigKind) ([]*store.ConfigRow, error) {
	var all []*store.ConfigRow
	after := ""
	for {
		rows, err := b.engine.ConfigList(ctx, p.Tenant.ID, kind, after, 500)
		if err != nil || len(rows) == 0 {
			return all, err
		}
		all = append(all, rows...)
		after = rows[len(rows)-1].Name
	}
}

func groupKey(p *directory.Principal, name string) store.ConfigKey {
	return store.ConfigKey{Tenant: p.Tenant.ID, Kind: store.ConfigURLGroup, Name: name}
}

func checkGroupName(name string) error {
	if err := wire.CheckName(name); err != nil {
		return posthaste.Errorf(posthaste.CodeInvalid, "invalid topic name %q: %v", name, err)
	}
	return nil
}

// Groups lists the tenant's URL groups by name.
func (b *Broker) Groups(ctx context.Context, p *directory.Principal) ([]*posthaste.URLGroup, error) {
	rows, err := b.configList(ctx, p, store.ConfigURLGroup)
	if err != nil {
		return nil, err
	}
	groups := make([]*posthaste.URLGroup, len(rows))
	for i, row := range rows {
		if groups[i], err = directory.GroupOf(row); err != nil {
			return nil, err
		}
	}
	return groups, nil
}

// Group returns one URL group.
func (b *Broker) Group(ctx context.Context, p *directory.Principal, name string) (*posthaste.URLGroup, error) {
	row, err := b.engine.Config(ctx, groupKey(p, name))
	if err != nil {
		return nil, err
	}
	if row == nil {
		return nil, notFound("topic %s not found", name)
	}
	return directory.GroupOf(row)
}

// editGroup changes a URL group under its row's lock. What edit leaves without endpoints is removed. row is nil if there is
// no group.
//
// version, if set, is that of the configuration in which there was room for another group.
func (b *Broker) editGroup(ctx context.Context, p *directory.Principal, name string, version int64, edit func(g *directory.GroupRow, exists bool) error) error {
	op := &ledger.Configure{
		Tenant: p.Tenant.ID, Version: version,
		Keys: []store.ConfigKey{groupKey(p, name)},
		Edit: func(_ time.Time, rows []*store.ConfigRow) ([]*store.ConfigRow, error) {
			var g directory.GroupRow
			row := rows[0]
			if row != nil {
				if err := directory.Decode(row, &g); err != nil {
					return nil, err
				}
			}
			if err := edit(&g, row != nil); err != nil {
				return nil, err
			}
			if len(g.Endpoints) == 0 {
				return []*store.ConfigRow{nil}, nil
			}
			if row == nil {
				row = &store.ConfigRow{}
			}
			row.Value = directory.Encode(g)
			return []*store.ConfigRow{row}, nil
		},
	}
	err := b.engine.Do(ctx, 0, op)
	if errors.Is(err, errNothing) {
		return nil
	}
	return err
}

// errNothing drops the changes of an edit that found nothing to do.
var errNothing = errors.New("nothing to do")

// AddEndpoints puts endpoints into a URL group, which is created if there is none. An endpoint with the URL of one that is
// there renames it; one with its name gives it another URL.
func (b *Broker) AddEndpoints(ctx context.Context, p *directory.Principal, name string, endpoints []posthaste.Endpoint) error {
	if err := checkGroupName(name); err != nil {
		return err
	}
	if len(endpoints) == 0 {
		return posthaste.Errorf(posthaste.CodeInvalid, "endpoints: at least one is needed")
	}
	for i, e := range endpoints {
		if err := b.urls.CheckURL(e.URL); err != nil {
			return posthaste.Errorf(posthaste.CodeInvalid, "endpoints[%d]: %v", i, err)
		}
	}
	return b.counted(ctx, p, p.Tenant.Plan.URLGroups, func(p *directory.Principal, version int64) error {
		if err := b.checkCount(ctx, p, store.ConfigURLGroup, name, "maxTopics", p.Tenant.Plan.URLGroups); err != nil {
			return err
		}
		return b.addEndpoints(ctx, p, name, endpoints, version)
	})
}

func (b *Broker) addEndpoints(ctx context.Context, p *directory.Principal, name string, endpoints []posthaste.Endpoint, version int64) error {
	return b.editGroup(ctx, p, name, version, func(g *directory.GroupRow, _ bool) error {
		for _, e := range endpoints {
			at := slices.IndexFunc(g.Endpoints, func(o posthaste.Endpoint) bool { return o.URL == e.URL })
			if at < 0 && e.Name != "" {
				at = slices.IndexFunc(g.Endpoints, func(o posthaste.Endpoint) bool { return o.Name == e.Name })
			}
			if at < 0 {
				g.Endpoints = append(g.Endpoints, e)
			} else {
				g.Endpoints[at] = e
			}
		}
		if limit := p.Tenant.Plan.Endpoints; limit > 0 && len(g.Endpoints) > limit {
			return posthaste.Errorf(posthaste.CodeQuotaExceeded, "quota maxEndpointsPerTopic exceeded, current limit: %d", limit)
		}
		return nil
	})
}

// RemoveEndpoints takes endpoints, named by name or URL, out of a URL group. The last one takes the group with it.
func (b *Broker) RemoveEndpoints(ctx context.Context, p *directory.Principal, name string, endpoints []posthaste.Endpoint) error {
	return b.editGroup(ctx, p, name, 0, func(g *directory.GroupRow, exists bool) error {
		if !exists {
			return notFound("topic %s not found", name)
		}
		g.Endpoints = slices.DeleteFunc(g.Endpoints, func(o posthaste.Endpoint) bool {
			return slices.ContainsFunc(endpoints, func(e posthaste.Endpoint) bool {
				return e.URL != "" && e.URL == o.URL || e.URL == "" && e.Name != "" && e.Name == o.Name
			})
		})
		return nil
	})
}

// SetGroupDefaults replaces the publish headers that apply to every message of a URL group unless the request has its own.
func (b *Broker) SetGroupDefaults(ctx context.Context, p *directory.Principal, name string, defaults posthaste.Header) error {
	if _, err := wire.ParseSettings(wire.Input{Defaults: defaults}); err != nil {
		return err
	}
	return b.editGroup(ctx, p, name, 0, func(g *directory.GroupRow, exists bool) error {
		if !exists {
			return notFound("topic %s not found", name)
		}
		g.Defaults = defaults
		return nil
	})
}

// DeleteGroup removes a URL group. It is no error if there is none.
func (b *Broker) DeleteGroup(ctx context.Context, p *directory.Principal, name string) error {
	return b.editGroup(ctx, p, name, 0, func(g *directory.GroupRow, exists bool) error {
		if !exists {
			return errNothing
		}
		g.Endpoints = nil
		return nil
	})
}
