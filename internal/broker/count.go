package broker

import (
	"context"
	"slices"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
)

// What a plan allows only so many of is counted without a lock, and the operation that makes one more names the version it was
// counted at and raises it. So of several at the same time, on whatever nodes, the first is carried out and the others count
// again. Turns keep those of one node from meeting at all, however many they are.

// turns lets requests of a tenant go one at a time. Tenants may share one.
type turns [16]chan struct{}

func newTurns() (t turns) {
	for i := range t {
		t[i] = make(chan struct{}, 1)
	}
	return t
}

// of returns the turn of a tenant.
func (t *turns) of(tenant posthaste.TenantID) chan struct{} { return t[uint64(tenant)%uint64(len(t))] }

// turn is taken once, and over when its request is. The zero turn is not taken.
type turn struct{ c chan struct{} }

func (t *turn) taken() bool { return t.c != nil }

func (t *turn) take(ctx context.Context, c chan struct{}) error {
	select {
	case c <- struct{}{}:
		t.c = c
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t *turn) over() {
	if t.c != nil {
		<-t.c
		t.c = nil
	}
}

// counted runs f, which makes something of a kind of which the tenant may have only so many; 0: any number. With a limit, f gets
// the version that its operation is to name, and runs in its turn and again with a fresh reading of the configuration as long
// as it finds that outdated.
func (b *Broker) counted(ctx context.Context, p *directory.Principal, limit int, f func(p *directory.Principal, version int64) error) error {
	if limit <= 0 {
		return f(p, 0)
	}
	var turn turn
	if err := turn.take(ctx, b.turns.of(p.Tenant.ID)); err != nil {
		return err
	}
	defer turn.over()
	return b.retryStale(ctx, p, func(p *directory.Principal) error { return f(p, p.Tenant.Version) })
}

// checkCount refuses to create one more of a kind than the plan allows.
func (b *Broker) checkCount(ctx context.Context, p *directory.Principal, kind store.ConfigKind, name, quota string, limit int) error {
	if limit <= 0 {
		return nil
	}
	rows, err := b.configList(ctx, p, kind)
	if err != nil {
		return err
	}
	if len(rows) < limit || slices.ContainsFunc(rows, func(r *store.ConfigRow) bool { return r.Name == name }) {
		return nil
	}
	return posthaste.Errorf(posthaste.CodeQuotaExceeded, "quota %s exceeded, current limit: %d", quota, limit)
}

// checkQueue refuses to create one more queue than the plan allows.
func (b *Broker) checkQueue(ctx context.Context, p *directory.Principal, name string, limit int) error {
	if limit <= 0 {
		return nil
	}
	g, err := b.engine.Gate(ctx, b.queueRef(p, name))
	if err != nil || g != nil && !g.CreatedAt.IsZero() {
		return err
	}
	n, err := ledger.CountQueues(ctx, b.engine, p.Tenant.ID)
	if err == nil && n >= limit {
		err = ledger.TooManyQueues(limit)
	}
	return err
}
