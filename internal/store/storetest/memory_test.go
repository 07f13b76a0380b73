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

	*storetest.Mirror

	mu     sync.Mutex // what follows, and the right to commit
	leases map[store.NodeEpoch]store.Lease
	left   map[store.NodeEpoch]bool // leases that were given back
	epochs map[string]int64
	last   time.Time
	gone   bool // crashed: nothing works any more
	loses  bool // what is committed comes to nothing, because a crash follows
}

// request is an operation that waits for a commit.
type request struct {
	op   store.Op
	err  error
	done chan struct{}
}

func newMemory(now func() time.Time, shards int) *memory {
	return &memory{
		now: now, shards: shards, Mirror: storetest.NewMirror(shards), leases: map[store.NodeEpoch]store.Lease{}, left: map[store.NodeEpoch]bool{},
		epochs: map[string]int64{},
	}
}

// crash returns a new engine with the same data and makes the old one useless.
func (e *memory) crash() *memory {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gone = true
	return &memory{now: e.now, shards: e.shards, Mirror: e.Mirror, leases: e.leases, left: e.left, epochs: e.epochs, last: e.last}
}

func (e *memory) Do(ctx context.Context, _ int, op store.Op) error {
	r := &request{op: op, done: make(chan struct{})}
	e.queueMu.Lock()
	e.queue = append(e.queue, r)
	e.queueMu.Unlock()
	go e.commit()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// commit carries out what is queued, if anything is.
func (e *memory) commit() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.queueMu.Lock()
	batch := e.queue
	e.queue = nil
	e.queueMu.Unlock()
	for _, r := range batch {
		if e.gone {
			r.err = posthaste.Errorf(posthaste.CodeUnavailable, "the engine has crashed")
		} else {
			now := e.now().UTC().Truncate(time.Microsecond)
			if !now.After(e.last) {
				now = e.last.Add(time.Microsecond)
			}
			e.last = now
			var c store.Changes
			if r.err = r.op.Decide(e.View(r.op.Want(), now), &c); r.err == nil && !e.loses {
				e.Apply(&c, now)
			}
		}
		close(r.done)
	}
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
	if _, ok := e.leases[l.NodeEpoch]; !ok || e.left[l.NodeEpoch] || l.Epoch < e.epochs[l.Node] {
		return l, posthaste.Errorf(posthaste.CodeConflict, "the lease of %s is over", l.Node)
	}
	l.Expires = time.Now().Add(l.TTL)
	e.leases[l.NodeEpoch] = l
	return l, nil
}

func (e *memory) Leave(_ context.Context, l store.Lease) error {
	defer e.lock()()
	e.left[l.NodeEpoch] = true
	return nil
}

func (e *memory) Expired(context.Context) ([]store.NodeEpoch, error) {
	defer e.lock()()
	var out []store.NodeEpoch
	for n, l := range e.leases {
		if e.left[n] || !time.Now().Before(l.Expires) || n.Epoch < e.epochs[n.Node] {
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
	return e.Mirror.Trim(p), nil
}

func (e *memory) Migrate(context.Context) error { return nil }
func (e *memory) Shards() int                   { return e.shards }
func (e *memory) Close() error                  { return nil }

var _ store.Engine = (*memory)(nil)
