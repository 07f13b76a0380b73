package postgres

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
)

// Leases are rows, and their time is that of the server: nodes need not agree on it.

// transactionLife is longer than any transaction of a lane may last.
const transactionLife = 2 * tripTimeout

const (
	nowSQL = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

	joinSQL = `WITH n AS (
			INSERT INTO node_epochs (name, last) VALUES ($1, 1) ON CONFLICT (name) DO UPDATE SET last = node_epochs.last + 1 RETURNING last
		), over AS (
			UPDATE nodes SET expires = least(expires, ` + nowSQL + `) WHERE name = $1
		)
		INSERT INTO nodes (name, epoch, address, expires) SELECT $1, last, $2, ` + nowSQL + ` + $3 FROM n RETURNING epoch`
	renewSQL  = "UPDATE nodes SET expires = " + nowSQL + " + $3 WHERE name = $1 AND epoch = $2 AND forgotten IS NULL AND expires > " + nowSQL + " RETURNING " + nowSQL
	leaveSQL  = "UPDATE nodes SET expires = least(expires, " + nowSQL + ") WHERE name = $1 AND epoch = $2"
	nodesSQL  = "SELECT name, epoch, expires <= " + nowSQL + ", forgotten IS NOT NULL FROM nodes ORDER BY name, epoch"
	forgetSQL = "UPDATE nodes SET forgotten = " + nowSQL + " WHERE name = $1 AND epoch = $2 AND expires <= " + nowSQL
	buriedSQL = "DELETE FROM nodes WHERE forgotten IS NOT NULL AND greatest(forgotten, expires) < " + nowSQL + " - $1"
)

func (e *Engine) change(ctx context.Context, doing, sql string, args ...any) (int64, error) {
	if e.closing.Load() {
		return 0, errClosed
	}
	tag, err := e.pool.Exec(ctx, sql, args...)
	if err != nil && ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	return tag.RowsAffected(), translate(doing, err)
}

// Join implements [store.Engine]. A lease that the node has from an earlier life ends with it.
func (e *Engine) Join(ctx context.Context, node store.NodeInfo) (store.Lease, error) {
	asked := time.Now()
	epoch, err := readOne(ctx, e, "join", func(r pgx.Rows) (n int64, err error) { return n, r.Scan(&n) },
		joinSQL, node.Name, node.Address, node.TTL.Microseconds())
	if err != nil {
		return store.Lease{}, err
	}
	return store.Lease{NodeEpoch: store.NodeEpoch{Node: node.Name, Epoch: epoch}, TTL: node.TTL, Expires: asked.Add(node.TTL)}, nil
}

// Renew implements [store.Engine]. A lease that is over stays over: its claims may be taken already.
func (e *Engine) Renew(ctx context.Context, l store.Lease) (store.Lease, error) {
	asked := time.Now()
	us, err := readOne(ctx, e, "renew the lease", scanValue[int64], renewSQL, l.Node, l.Epoch, l.TTL.Microseconds())
	if err != nil {
		return l, err
	}
	if us == 0 {
		return l, posthaste.Errorf(posthaste.CodeConflict, "the lease of node %q, epoch %d, is over", l.Node, l.Epoch)
	}
	e.skew.note(us, asked, time.Now())
	l.Expires = asked.Add(l.TTL)
	return l, nil
}

// Leave implements [store.Engine].
func (e *Engine) Leave(ctx context.Context, l store.Lease) error {
	_, err := e.change(ctx, "give up the lease", leaveSQL, l.Node, l.Epoch)
	return err
}

// claimantsSQL returns the statement that finds whose claims there are, with one probe of an index for each and shard.
func claimantsSQL(shards int) string {
	parts := make([]string, shards)
	for i := range parts {
		parts[i] = strings.ReplaceAll(`(WITH RECURSIVE c(node, epoch) AS (
				(SELECT node, epoch FROM tickets WHERE shard = $::smallint AND node IS NOT NULL ORDER BY node, epoch LIMIT 1)
				UNION ALL
				SELECT x.node, x.epoch FROM c, LATERAL (
					SELECT node, epoch FROM tickets WHERE shard = $::smallint AND node IS NOT NULL AND (node, epoch) > (c.node, c.epoch)
					ORDER BY node, epoch LIMIT 1) x
			) SELECT node, epoch FROM c)`, "$", strconv.Itoa(i))
	}
	return strings.Join(parts, " UNION ALL ")
}

// Expired implements [store.Engine]. A lease that was forgotten is listed again if it owns claims after all: a transaction that
// was under way may have brought them. So is one whose row is gone.
func (e *Engine) Expired(ctx context.Context) ([]store.NodeEpoch, error) {
	// First the claims: the row of a lease is there before its claims are.
	claimants, err := read(ctx, e, "look for claims", func(r pgx.Rows) (n store.NodeEpoch, err error) {
		return n, r.Scan(&n.Node, &n.Epoch)
	}, e.claimantsSQL)
	if err != nil {
		return nil, err
	}
	has := map[store.NodeEpoch]bool{} // claims of leases that were not met among the rows
	for _, n := range claimants {
		has[n] = true
	}
	type lease struct {
		store.NodeEpoch
		over, forgotten bool
	}
	leases, err := read(ctx, e, "look for leases that are over", func(r pgx.Rows) (l lease, err error) {
		return l, r.Scan(&l.Node, &l.Epoch, &l.over, &l.forgotten)
	}, nodesSQL)
	if err != nil {
		return nil, err
	}
	var list []store.NodeEpoch
	for _, l := range leases {
		if l.over && (!l.forgotten || has[l.NodeEpoch]) {
			list = append(list, l.NodeEpoch)
		}
		delete(has, l.NodeEpoch)
	}
	for n := range has {
		list = append(list, n)
	}
	slices.SortFunc(list, func(a, b store.NodeEpoch) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Epoch, b.Epoch))
	})
	return list, nil
}

// Forget implements [store.Engine]. The row stays for a while, so that the claims of a late transaction are told with a lease that
// is known.
func (e *Engine) Forget(ctx context.Context, n store.NodeEpoch) error {
	if _, err := e.change(ctx, "forget a lease", forgetSQL, n.Node, n.Epoch); err != nil {
		return err
	}
	_, err := e.change(ctx, "forget leases", buriedSQL, transactionLife.Microseconds())
	return err
}
