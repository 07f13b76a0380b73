package storetest_test

import (
	"context"
	"sync"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/store/storetest"
)

// memory is an engine of maps. It keeps nothing on disk and scans what it searches: it is there to run the suites, and with
// them the operations of package ledger, where no real engine is in the way, and to find out what the suites overlook when
// its faults are switched on.
type memory struct {
	now    func() time.Time
	shards int

	queueMu sync.Mutex
	queue   []*request

	mu     sync.Mutex // what follows, and the right to commit
	s      *storetest.Mirror
	leases map[store.NodeEpoch]store.Lease
	epochs map[string]int64
	last   time.Time
	gone   bool // crashed: nothing works any more
}

// request is an operation that waits for a commit.
type request struct {
	op   store.Op
	err  error
	done chan struct{}
}

func newMemory(now func() time.Time, shards int) *memory {
	return &memory{
		now: now, shards: shards, s: storetest.NewMirror(shards), leases: map[store.NodeEpoch]store.Lease{}, epochs: map[string]int64{},
	}
}

// crash returns a new engine with the same data and makes the old one useless.
func (e *memory) crash() *memory {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gone = true
	return &memory{now: e.now, shards: e.shards, s: e.s, leases: e.leases, epochs: e.epochs, last: e.last}
}

func (e *memory) Do(_ context.Context, _ int, op store.Op) error {
	r := &request{op: op, done: make(chan struct{})}
	e.queueMu.Lock()
	e.queue = append(e.queue, r)
	e.queueMu.Unlock()
	e.mu.Lock()
	e.queueMu.Lock()
	batch := e.queue
	e.queue = nil
	e.queueMu.Unlock()
	now := e.now().UTC().Truncate(time.Microsecond)
	if now.Before(e.last) {
		now = e.last
	}
	e.last = now
	for _, r := range batch {
		if e.gone {
			r.err = posthaste.Errorf(posthaste.CodeUnavailable, "the engine has crashed")
		} else {
			var c store.Changes
			if r.err = r.op.Decide(e.s.View(r.op.Want(), now), &c); r.err == nil {
				e.s.Apply(&c, now)
			}
		}
		close(r.done)
	}
	e.mu.Unlock()
	<-r.done
	return r.err
}

func (e *memory) lock() func() {
	e.mu.Lock()
	return e.mu.Unlock
}

func (e *memory) Join(_ context.Context, node store.NodeInfo) (store.Lease, error) {
	defer e.lock()()
	e.epochs[node.Name]++
	l := store.Lease{NodeEpoch: store.NodeEpoch{Node: node.Name, Epoch: e.epochs[node.Name]}, Expires: time.Now().Add(node.TTL), TTL: node.TTL}
	e.leases[l.NodeEpoch] = l
	return l, nil
}

func (e *memory) Renew(_ context.Context, l store.Lease) (store.Lease, error) {
	defer e.lock()()
	if _, ok := e.leases[l.NodeEpoch]; !ok {
		return l, posthaste.Errorf(posthaste.CodeConflict, "the lease of %s is over", l.Node)
	}
	l.Expires = time.Now().Add(l.TTL)
	e.leases[l.NodeEpoch] = l
	return l, nil
}

func (e *memory) Leave(_ context.Context, l store.Lease) error {
	defer e.lock()()
	if cur, ok := e.leases[l.NodeEpoch]; ok {
		cur.Expires = time.Now()
		e.leases[l.NodeEpoch] = cur
	}
	return nil
}

func (e *memory) Expired(context.Context) ([]store.NodeEpoch, error) {
	defer e.lock()()
	var out []store.NodeEpoch
	for n, l := range e.leases {
		if !time.Now().Before(l.Expires) || n.Epoch < e.epochs[n.Node] {
			out = append(out, n)
		}
	}
	return out, nil
}

func (e *memory) Forget(_ context.Context, n store.NodeEpoch) error {
	defer e.lock()()
	delete(e.leases, n)
	return nil
}

func (e *memory) Hints() <-chan store.Hint { return nil }

func (e *memory) Trim(_ context.Context, p store.TrimParams) (bool, error) {
	defer e.lock()()
	e.s.Trim(p)
	return false, nil
}

func (e *memory) Migrate(context.Context) error { return nil }
func (e *memory) Shards() int                   { return e.shards }
func (e *memory) Close() error                  { return nil }

func (e *memory) NextDue(context.Context) ([]store.ShardDue, error) {
	defer e.lock()()
	return e.s.NextDue(context.Context)
}

func (e *memory) Version(ctx context.Context, tenant posthaste.TenantID) (int64, error) {
	defer e.lock()()
	return e.s.Version(ctx, tenant)
}

func (e *memory) Config(ctx context.Context, key store.ConfigKey) (*store.ConfigRow, error) {
	defer e.lock()()
	return e.s.Config(ctx, key)
}

func (e *memory) ConfigList(ctx context.Context, tenant posthaste.TenantID, kind store.ConfigKind, after string, limit int) ([]*store.ConfigRow, error) {
	defer e.lock()()
	return e.s.ConfigList(ctx, tenant, kind, after, limit)
}

func (e *memory) FindConfig(ctx context.Context, kind store.ConfigKind, name string) (*store.ConfigRow, error) {
	defer e.lock()()
	return e.s.FindConfig(ctx, kind, name)
}

func (e *memory) Tenants(ctx context.Context, after posthaste.TenantID, limit int) ([]posthaste.TenantID, error) {
	defer e.lock()()
	return e.s.Tenants(ctx, after, limit)
}

func (e *memory) Message(ctx context.Context, tenant posthaste.TenantID, id posthaste.MessageID) (*posthaste.Message, error) {
	defer e.lock()()
	return e.s.Message(ctx, tenant, id)
}

func (e *memory) Messages(ctx context.Context, keys []store.MessageKey) ([]*posthaste.Message, error) {
	defer e.lock()()
	return e.s.Messages(ctx, keys)
}

func (e *memory) MessageList(ctx context.Context, tenant posthaste.TenantID, from posthaste.MessageID, p store.Page) ([]*posthaste.Message, error) {
	defer e.lock()()
	return e.s.MessageList(ctx, tenant, from, p)
}

func (e *memory) Ticket(ctx context.Context, id posthaste.MessageID) (*store.Ticket, error) {
	defer e.lock()()
	return e.s.Ticket(ctx, id)
}

func (e *memory) Tickets(ctx context.Context, ids []posthaste.MessageID) ([]*store.Ticket, error) {
	defer e.lock()()
	return e.s.Tickets(ctx, ids)
}

func (e *memory) TicketList(ctx context.Context, tenant posthaste.TenantID, after posthaste.MessageID, limit int) ([]*store.Ticket, error) {
	defer e.lock()()
	return e.s.TicketList(ctx, tenant, after, limit)
}

func (e *memory) Ripening(ctx context.Context, r store.Ripe) ([]*store.Ticket, error) {
	defer e.lock()()
	return e.s.Ripening(ctx, r)
}

func (e *memory) Awake(ctx context.Context, shard int16, before time.Time, limit int) ([]*store.Ticket, error) {
	defer e.lock()()
	return e.s.Awake(ctx, shard, before, limit)
}

func (e *memory) Heads(ctx context.Context, ref store.GateRef, limit int) ([]*store.Ticket, error) {
	defer e.lock()()
	return e.s.Heads(ctx, ref, limit)
}

func (e *memory) Claims(ctx context.Context, n store.NodeEpoch, after posthaste.MessageID, limit int) ([]*store.Ticket, error) {
	defer e.lock()()
	return e.s.Claims(ctx, n, after, limit)
}

func (e *memory) Gate(ctx context.Context, ref store.GateRef) (*store.Gate, error) {
	defer e.lock()()
	return e.s.Gate(ctx, ref)
}

func (e *memory) GateList(ctx context.Context, tenant posthaste.TenantID, kind store.Kind, after string, limit int) ([]*store.Gate, error) {
	defer e.lock()()
	return e.s.GateList(ctx, tenant, kind, after, limit)
}

func (e *memory) Slot(ctx context.Context, ref store.SlotRef) (*store.Slot, error) {
	defer e.lock()()
	return e.s.Slot(ctx, ref)
}

func (e *memory) Dedup(ctx context.Context, key store.DedupKey) (*store.Dedup, error) {
	defer e.lock()()
	return e.s.Dedup(ctx, key)
}

func (e *memory) Quota(ctx context.Context, key store.QuotaKey) (int64, error) {
	defer e.lock()()
	return e.s.Quota(ctx, key)
}

func (e *memory) Tick(ctx context.Context, ref store.TickRef) (*store.Tick, error) {
	defer e.lock()()
	return e.s.Tick(ctx, ref)
}

func (e *memory) DueTicks(ctx context.Context, before time.Time, limit int) ([]*store.Tick, error) {
	defer e.lock()()
	return e.s.DueTicks(ctx, before, limit)
}

func (e *memory) Attempts(ctx context.Context, tenant posthaste.TenantID, id posthaste.MessageID) ([]*posthaste.Attempt, error) {
	defer e.lock()()
	return e.s.Attempts(ctx, tenant, id)
}

func (e *memory) Marks(ctx context.Context, tenant posthaste.TenantID, id posthaste.MessageID) ([]store.Mark, error) {
	defer e.lock()()
	return e.s.Marks(ctx, tenant, id)
}

func (e *memory) LogRows(ctx context.Context, tenant posthaste.TenantID, stream store.LogStream, from store.LogPos, p store.Page) ([]store.LogRow, error) {
	defer e.lock()()
	return e.s.LogRows(ctx, tenant, stream, from, p)
}

func (e *memory) DeadLetter(ctx context.Context, key store.DeadKey) (*posthaste.DeadLetter, error) {
	defer e.lock()()
	return e.s.DeadLetter(ctx, key)
}

func (e *memory) DeadLetters(ctx context.Context, tenant posthaste.TenantID, from posthaste.DeadLetterID, p store.Page) ([]*posthaste.DeadLetter, error) {
	defer e.lock()()
	return e.s.DeadLetters(ctx, tenant, from, p)
}

var _ store.Engine = (*memory)(nil)
