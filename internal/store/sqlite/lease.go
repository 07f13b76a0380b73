package sqlite

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
)

// A lease is the right of one server to deliver what is in the file. It is a lock on a file beside the data, which the
// operating system releases when the process ends in whatever way; so it needs no heartbeat, and a restart takes back
// at once what the process before it had claimed.
type lease struct {
	mu   sync.Mutex
	file *os.File // nil: not held
	node store.NodeEpoch
}

// lock takes the lock. It fails with CodeConflict if another server, of this process or not, holds it.
func (l *lease) lock(path string) error {
	if l.file != nil {
		return errTaken(path)
	}
	f, err := lockFile(path + ".lock")
	if errors.Is(err, errHeld) {
		return errTaken(path)
	}
	if err != nil {
		return posthaste.Wrap(posthaste.CodeUnavailable, "lock "+path+".lock", err)
	}
	l.file = f
	return nil
}

// errHeld is what lockFile returns when somebody else has locked the file.
var errHeld = errors.New("the file is locked")

func errTaken(path string) error {
	return posthaste.Errorf(posthaste.CodeConflict, "another server uses the data file %s: stop it, or give this one a file of its own with --data", path)
}

// unlock gives the lock back. The lock file stays: removing it would let two servers lock different files of one name.
func (l *lease) unlock() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.node = store.NodeEpoch{}
	if l.file == nil {
		return nil
	}
	f := l.file
	l.file = nil
	return f.Close()
}

// Join implements [store.Engine]. One server at a time may join; a second one fails with CodeConflict.
func (e *Engine) Join(ctx context.Context, node store.NodeInfo) (store.Lease, error) {
	e.lease.mu.Lock()
	defer e.lease.mu.Unlock()
	if err := e.lease.lock(e.path); err != nil {
		return store.Lease{}, err
	}
	n := store.NodeEpoch{Node: node.Name}
	err := e.step(ctx, func(w *writer) error {
		s := w.c.prepare(`INSERT INTO nodes (name, epoch, address, joined) VALUES (?, 1, ?, ?)
			ON CONFLICT (name) DO UPDATE SET epoch = epoch + 1, address = excluded.address, joined = excluded.joined RETURNING epoch`)
		if w.c.err != nil {
			return w.c.err
		}
		s.BindText(1, node.Name)
		s.BindText(2, node.Address)
		s.BindInt64(3, w.view.Now.UnixMicro())
		_, err := first(s, func() error {
			n.Epoch = s.ColumnInt64(0)
			return nil
		})
		if err != nil {
			return err
		}
		return w.recoverOpen()
	})
	if err != nil {
		f := e.lease.file
		e.lease.file = nil
		return store.Lease{}, errors.Join(err, f.Close())
	}
	e.lease.node = n
	e.joined.Store(true)
	return store.Lease{NodeEpoch: n, TTL: node.TTL, Expires: time.Now().Add(node.TTL)}, nil
}

// Renew implements [store.Engine].
func (e *Engine) Renew(_ context.Context, l store.Lease) (store.Lease, error) {
	e.lease.mu.Lock()
	defer e.lease.mu.Unlock()
	if e.lease.node != l.NodeEpoch {
		return l, posthaste.Errorf(posthaste.CodeConflict, "the lease of node %q, epoch %d, is over", l.Node, l.Epoch)
	}
	l.Expires = time.Now().Add(l.TTL)
	return l, nil
}

// Leave implements [store.Engine].
func (e *Engine) Leave(ctx context.Context, l store.Lease) error {
	e.lease.mu.Lock()
	held := e.lease.node == l.NodeEpoch
	e.lease.mu.Unlock()
	if !held {
		return nil
	}
	e.joined.Store(false)
	err := e.step(ctx, (*writer).flushOpen)
	return posthaste.Wrap(posthaste.CodeInternal, "give up the lease", errors.Join(err, e.lease.unlock()))
}

// Expired implements [store.Engine]. As one server at a time uses the file, every other life of a node is over.
func (e *Engine) Expired(ctx context.Context) (list []store.NodeEpoch, err error) {
	e.lease.mu.Lock()
	live := e.lease.node
	e.lease.mu.Unlock()
	err = e.read(ctx, "look for claims of earlier servers", func(r *reader) error {
		list, err = r.readOwners(live)
		return err
	})
	return list, err
}

// Forget implements [store.Engine]. Leases leave nothing behind but the last epoch, which is needed for the next one.
func (e *Engine) Forget(context.Context, store.NodeEpoch) error { return nil }
