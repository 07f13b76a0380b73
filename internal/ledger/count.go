package ledger

import (
	"context"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
)

// versionLock is the part of a Want that locks a tenant's version, as every change of its configuration does.
func versionLock(tenant posthaste.TenantID) []store.ConfigKey {
	return []store.ConfigKey{{Tenant: tenant, Kind: store.ConfigTenant}}
}

// CountQueues returns how many queues a tenant has.
func CountQueues(ctx context.Context, r store.Reader, tenant posthaste.TenantID) (int, error) {
	n, after := 0, ""
	for {
		gates, err := r.GateList(ctx, tenant, store.KindQueue, after, 1000)
		if err != nil || len(gates) == 0 {
			return n, err
		}
		for _, g := range gates {
			if !g.CreatedAt.IsZero() {
				n++
			}
		}
		after = gates[len(gates)-1].Name
	}
}

// LimitQueues prepares the operation for a tenant that may have so many queues; 0: any number. It fails with
// CodeQuotaExceeded if the operation would make more. That is exact although nothing is locked here: the count is of Version
// or newer, whatever makes a queue raises the version, and Decide compares it.
func (op *Accept) LimitQueues(ctx context.Context, r store.Reader, limit int) error {
	if limit <= 0 {
		return nil
	}
	op.FewQueues = true
	fresh := map[store.GateRef]bool{}
	for _, d := range op.Drafts {
		if len(d.Path) == 0 || d.Path[0].Kind != store.KindQueue || fresh[d.Path[0]] {
			continue
		}
		g, err := r.Gate(ctx, d.Path[0])
		if err != nil {
			return err
		}
		if g == nil || g.CreatedAt.IsZero() {
			fresh[d.Path[0]] = true
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	op.NewQueues = true
	n, err := CountQueues(ctx, r, op.Tenant)
	if err == nil && n+len(fresh) > limit {
		err = TooManyQueues(limit)
	}
	return err
}

// TooManyQueues is the error of whoever would have one more queue than its plan allows.
func TooManyQueues(limit int) error {
	return posthaste.Errorf(posthaste.CodeQuotaExceeded, "quota maxQueues exceeded, current limit: %d", limit)
}
