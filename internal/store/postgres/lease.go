package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
)

// Leases are rows, and their time is that of the server: nodes need not agree on it.

// transactionLife is longer than any transaction of a lane may last. A transaction that was sent before a lease ended may bring
// claims for so long; until then a forgotten lease is looked at again.
const transactionLife = 2 * tripTimeout

const (
	nowSQL = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

	joinSQL = `WITH n AS (
			INSERT INTO node_epochs (name, last) VALUES ($1, 1) ON CONFLICT (name) DO UPDATE SET last = node_epochs.last + 1 RETURNING last
		), over AS (
			UPDATE nodes SET expires = least(expires, ` + nowSQL + `) WHERE name = $1
		)
		INSERT INTO nodes (name, epoch, address, expires) SELECT $1, last, $2, ` + nowSQL + ` + $3 FROM n RETURNING epoch`
	renewSQL = "UPDATE nodes SET expires = " + nowSQL + " + $3 WHERE name = $1 AND epoch = $2 AND forgotten IS NULL AND expires > " + nowSQL
	leaveSQL = "UPDATE nodes SET expires = least(expires, " + nowSQL + ") WHERE name = $1 AND epoch = $2"
	// It counts claims instead of looking for one: for one the planner may choose to walk through all tickets.
	expiredSQL = `SELECT n.name, n.epoch FROM nodes n WHERE n.expires <= ` + nowSQL + ` AND (n.forgotten IS NULL OR 0 < (
			SELECT sum(t.n) FROM generate_series(0, $1::integer - 1) h(shard), LATERAL (
				SELECT count(*) n FROM tickets t WHERE t.shard = h.shard AND t.node = n.name AND t.epoch = n.epoch) t))
		ORDER BY n.name, n.epoch`
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
	n, err := e.change(ctx, "renew the lease", renewSQL, l.Node, l.Epoch, l.TTL.Microseconds())
	if err != nil {
		return l, err
	}
	if n == 0 {
		return l, posthaste.Errorf(posthaste.CodeConflict, "the lease of node %q, epoch %d, is over", l.Node, l.Epoch)
	}
	l.Expires = asked.Add(l.TTL)
	return l, nil
}

// Leave implements [store.Engine].
func (e *Engine) Leave(ctx context.Context, l store.Lease) error {
	_, err := e.change(ctx, "give up the lease", leaveSQL, l.Node, l.Epoch)
	return err
}

// Expired implements [store.Engine]. A lease that was forgotten is listed again if it owns claims after all.
func (e *Engine) Expired(ctx context.Context) ([]store.NodeEpoch, error) {
	return read(ctx, e, "look for leases that are over", func(r pgx.Rows) (n store.NodeEpoch, err error) {
		return n, r.Scan(&n.Node, &n.Epoch)
	}, expiredSQL, e.shards)
}

// Forget implements [store.Engine]. The row goes when no transaction of that node can be under way any more.
func (e *Engine) Forget(ctx context.Context, n store.NodeEpoch) error {
	if _, err := e.change(ctx, "forget a lease", forgetSQL, n.Node, n.Epoch); err != nil {
		return err
	}
	_, err := e.change(ctx, "forget leases", buriedSQL, transactionLife.Microseconds())
	return err
}
