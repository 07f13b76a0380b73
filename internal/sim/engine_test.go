package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
)

// engine is the store as one process sees it. It may fail for a while, or not answer; and a process that is over reaches it
// no more.
type engine struct {
	store.Engine
	cluster *cluster // nil: the process has the store for itself
	node    string
	hints   chan store.Hint // of a cluster

	mu    sync.Mutex
	state engineState
	// spins is called when calls do not end although no time passes.
	spins  func()
	moment time.Time
	calls  int           // at that moment
	muted  int           // writes whose answers were lost
	woken  chan struct{} // closed when hanging ends
	left   int           // writes until strike; 0: none is planned
	// strike is called when a planned crash comes, before the write reaches the store or after it was carried out.
	strike func()
	after  bool
}

type engineState uint8

const (
	works   engineState = iota
	noWrite             // as on a full disk
	noCalls             // as with a lost connection
	silent              // calls do not return
	mute                // the next write is carried out, but its answer is lost, and then the connection
	severed             // the process is gone
)

// maxCalls is more than any moment needs.
const maxCalls = 20_000

var errUnavailable = posthaste.Errorf(posthaste.CodeUnavailable, "the store is out of order")

// wakes tells what the store says is to be looked at now.
func (e *engine) wakes(now time.Time) string {
	ctx := context.Background()
	var b strings.Builder
	due, err := e.Engine.NextDue(ctx)
	fmt.Fprintf(&b, "%+v %v", due, err)
	tickets, err := e.Engine.Awake(ctx, 0, now, 10)
	for _, t := range tickets {
		g, _ := e.Engine.Gate(ctx, t.ParkedAt)
		fmt.Fprintf(&b, "\n    %+v\n      at %+v", t, g)
	}
	fmt.Fprintf(&b, " %v", err)
	return b.String()
}

// set changes the state.
func (e *engine) set(s engineState) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state == severed {
		return
	}
	if e.state == silent {
		close(e.woken)
	}
	if e.state = s; s == silent {
		e.woken = make(chan struct{})
	}
}

// pass lets a call through or says why not.
func (e *engine) pass(ctx context.Context, write bool) error {
	for {
		e.mu.Lock()
		state, woken := e.state, e.woken
		if now := time.Now(); now != e.moment {
			e.moment, e.calls = now, 0
		}
		e.calls++
		spins := e.calls == maxCalls
		e.mu.Unlock()
		if spins {
			e.spins()
		}
		switch {
		case state == noCalls, state == severed, state == noWrite && write:
			return errUnavailable
		case state == silent:
			select {
			case <-woken:
				continue
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	}
}

// plan has the crash come at the n-th write from now.
func (e *engine) plan(n int, after bool, strike func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.left, e.after, e.strike = n, after, strike
}

// struck counts a write and reports whether the crash comes with it.
func (e *engine) struck() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.left == 0 {
		return false
	}
	e.left--
	return e.left == 0
}

// Do implements [store.Engine].
func (e *engine) Do(ctx context.Context, lane int, op store.Op) error {
	if err := e.pass(ctx, true); err != nil {
		return err
	}
	struck := e.struck()
	if struck && !e.after {
		e.strike()
		return errUnavailable
	}
	err := e.Engine.Do(ctx, lane, op)
	if struck {
		e.strike()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch e.state {
	case severed:
		return errUnavailable
	case mute:
		e.state = noCalls
		if err == nil {
			e.muted++
			return errUnavailable
		}
	case works, noWrite, noCalls, silent:
	}
	return err
}

// answering reports whether calls return.
func (e *engine) answering() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state != silent && e.state != severed
}

// mutes counts the writes whose answers were lost.
func (e *engine) mutes() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.muted
}

// working reports whether nothing fails.
func (e *engine) working() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state == works
}

func (e *engine) gone() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state == severed
}

// read makes a reading call.
func read[T any](ctx context.Context, e *engine, f func() (T, error)) (T, error) {
	if err := e.pass(ctx, false); err != nil {
		var zero T
		return zero, err
	}
	return f()
}

func (e *engine) Version(ctx context.Context, tenant posthaste.TenantID) (int64, error) {
	return read(ctx, e, func() (int64, error) { return e.Engine.Version(ctx, tenant) })
}

func (e *engine) Config(ctx context.Context, key store.ConfigKey) (*store.ConfigRow, error) {
	return read(ctx, e, func() (*store.ConfigRow, error) { return e.Engine.Config(ctx, key) })
}

func (e *engine) ConfigList(ctx context.Context, tenant posthaste.TenantID, kind store.ConfigKind, after string, limit int) ([]*store.ConfigRow, error) {
	return read(ctx, e, func() ([]*store.ConfigRow, error) { return e.Engine.ConfigList(ctx, tenant, kind, after, limit) })
}

func (e *engine) FindConfig(ctx context.Context, kind store.ConfigKind, name string) (*store.ConfigRow, error) {
	return read(ctx, e, func() (*store.ConfigRow, error) { return e.Engine.FindConfig(ctx, kind, name) })
}

func (e *engine) Message(ctx context.Context, tenant posthaste.TenantID, id posthaste.MessageID) (*posthaste.Message, error) {
	return read(ctx, e, func() (*posthaste.Message, error) { return e.Engine.Message(ctx, tenant, id) })
}

func (e *engine) Messages(ctx context.Context, ids []store.MessageKey) ([]*posthaste.Message, error) {
	return read(ctx, e, func() ([]*posthaste.Message, error) { return e.Engine.Messages(ctx, ids) })
}

func (e *engine) Ticket(ctx context.Context, id posthaste.MessageID) (*store.Ticket, error) {
	return read(ctx, e, func() (*store.Ticket, error) { return e.Engine.Ticket(ctx, id) })
}

func (e *engine) Tickets(ctx context.Context, ids []posthaste.MessageID) ([]*store.Ticket, error) {
	return read(ctx, e, func() ([]*store.Ticket, error) { return e.Engine.Tickets(ctx, ids) })
}

func (e *engine) TicketList(ctx context.Context, tenant posthaste.TenantID, after posthaste.MessageID, limit int) ([]*store.Ticket, error) {
	return read(ctx, e, func() ([]*store.Ticket, error) { return e.Engine.TicketList(ctx, tenant, after, limit) })
}

func (e *engine) Ripening(ctx context.Context, r store.Ripe) ([]*store.Ticket, error) {
	return read(ctx, e, func() ([]*store.Ticket, error) { return e.Engine.Ripening(ctx, r) })
}

func (e *engine) Awake(ctx context.Context, shard int16, before time.Time, limit int) ([]*store.Ticket, error) {
	return read(ctx, e, func() ([]*store.Ticket, error) { return e.Engine.Awake(ctx, shard, before, limit) })
}

func (e *engine) Heads(ctx context.Context, ref store.GateRef, limit int) ([]*store.Ticket, error) {
	return read(ctx, e, func() ([]*store.Ticket, error) { return e.Engine.Heads(ctx, ref, limit) })
}

func (e *engine) Claims(ctx context.Context, n store.NodeEpoch, after posthaste.MessageID, limit int) ([]*store.Ticket, error) {
	return read(ctx, e, func() ([]*store.Ticket, error) { return e.Engine.Claims(ctx, n, after, limit) })
}

func (e *engine) Gate(ctx context.Context, ref store.GateRef) (*store.Gate, error) {
	return read(ctx, e, func() (*store.Gate, error) { return e.Engine.Gate(ctx, ref) })
}

func (e *engine) GateList(ctx context.Context, tenant posthaste.TenantID, kind store.Kind, after string, limit int) ([]*store.Gate, error) {
	return read(ctx, e, func() ([]*store.Gate, error) { return e.Engine.GateList(ctx, tenant, kind, after, limit) })
}

func (e *engine) Tick(ctx context.Context, ref store.TickRef) (*store.Tick, error) {
	return read(ctx, e, func() (*store.Tick, error) { return e.Engine.Tick(ctx, ref) })
}

func (e *engine) DueTicks(ctx context.Context, before time.Time, limit int) ([]*store.Tick, error) {
	return read(ctx, e, func() ([]*store.Tick, error) { return e.Engine.DueTicks(ctx, before, limit) })
}

func (e *engine) Attempts(ctx context.Context, tenant posthaste.TenantID, id posthaste.MessageID) ([]*posthaste.Attempt, error) {
	return read(ctx, e, func() ([]*posthaste.Attempt, error) { return e.Engine.Attempts(ctx, tenant, id) })
}

func (e *engine) Marks(ctx context.Context, tenant posthaste.TenantID, id posthaste.MessageID) ([]store.Mark, error) {
	return read(ctx, e, func() ([]store.Mark, error) { return e.Engine.Marks(ctx, tenant, id) })
}

func (e *engine) LogRows(ctx context.Context, tenant posthaste.TenantID, s store.LogStream, from store.LogPos, p store.Page) ([]store.LogRow, error) {
	return read(ctx, e, func() ([]store.LogRow, error) { return e.Engine.LogRows(ctx, tenant, s, from, p) })
}

func (e *engine) DeadLetter(ctx context.Context, key store.DeadKey) (*posthaste.DeadLetter, error) {
	return read(ctx, e, func() (*posthaste.DeadLetter, error) { return e.Engine.DeadLetter(ctx, key) })
}

func (e *engine) DeadLetters(ctx context.Context, tenant posthaste.TenantID, from posthaste.DeadLetterID, p store.Page) ([]*posthaste.DeadLetter, error) {
	return read(ctx, e, func() ([]*posthaste.DeadLetter, error) { return e.Engine.DeadLetters(ctx, tenant, from, p) })
}

// NextDue implements [store.Engine].
func (e *engine) NextDue(ctx context.Context) ([]store.ShardDue, error) {
	return read(ctx, e, func() ([]store.ShardDue, error) { return e.Engine.NextDue(ctx) })
}

// Hints implements [store.Engine].
func (e *engine) Hints() <-chan store.Hint {
	if e.cluster != nil {
		return e.hints
	}
	return e.Engine.Hints()
}

// hint hands a hint on, and coalesces it with one that was not taken yet.
func (e *engine) hint(h store.Hint) {
	if !e.answering() {
		return
	}
	for {
		select {
		case e.hints <- h:
			return
		default:
		}
		select {
		case old := <-e.hints:
			if old.Due.Before(h.Due) {
				h = old
			}
		default:
		}
	}
}

// Trim implements [store.Engine].
func (e *engine) Trim(ctx context.Context, p store.TrimParams) (bool, error) {
	if err := e.pass(ctx, true); err != nil {
		return false, err
	}
	return e.Engine.Trim(ctx, p)
}

// Join implements [store.Engine].
func (e *engine) Join(ctx context.Context, n store.NodeInfo) (store.Lease, error) {
	if err := e.pass(ctx, true); err != nil {
		return store.Lease{}, err
	}
	if e.cluster == nil {
		return e.Engine.Join(ctx, n)
	}
	return e.cluster.join(e.node, n.TTL), nil
}

// Renew implements [store.Engine].
func (e *engine) Renew(ctx context.Context, l store.Lease) (store.Lease, error) {
	if e.cluster == nil {
		return e.Engine.Renew(ctx, l) // it is a lock, and the store's file is not asked
	}
	if err := e.pass(ctx, true); err != nil {
		return l, err
	}
	return e.cluster.renew(l)
}

// Leave implements [store.Engine].
func (e *engine) Leave(ctx context.Context, l store.Lease) error {
	if e.gone() {
		return nil
	}
	if e.cluster == nil {
		return e.Engine.Leave(ctx, l)
	}
	e.cluster.leave(l)
	return nil
}

// Expired implements [store.Engine].
func (e *engine) Expired(ctx context.Context) ([]store.NodeEpoch, error) {
	if err := e.pass(ctx, false); err != nil {
		return nil, err
	}
	list, err := e.Engine.Expired(ctx)
	if e.cluster == nil || err != nil {
		return list, err
	}
	return slices.DeleteFunc(list, e.cluster.live), nil
}

// Close implements [store.Engine]. The store that nodes share is closed by the history.
func (e *engine) Close() error {
	if e.cluster != nil {
		return nil
	}
	return e.Engine.Close()
}

// cluster keeps the leases of nodes that share a store made for one.
type cluster struct {
	mu     sync.Mutex
	epoch  int64
	leases map[store.NodeEpoch]time.Time // when they expire
	nodes  []*engine
}

// tell hands the hints of the store to all nodes until stop is closed.
func (c *cluster) tell(hints <-chan store.Hint, stop <-chan struct{}) {
	for {
		select {
		case h := <-hints:
			c.mu.Lock()
			nodes := slices.Clone(c.nodes)
			c.mu.Unlock()
			for _, e := range nodes {
				e.hint(h)
			}
		case <-stop:
			return
		}
	}
}

// enter makes a process hear of hints.
func (c *cluster) enter(e *engine) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.hints = make(chan store.Hint, 1)
	c.nodes = append(slices.DeleteFunc(c.nodes, (*engine).gone), e)
}

func (c *cluster) join(name string, ttl time.Duration) store.Lease {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	l := store.Lease{NodeEpoch: store.NodeEpoch{Node: name, Epoch: c.epoch}, TTL: ttl, Expires: time.Now().Add(ttl)}
	c.leases[l.NodeEpoch] = l.Expires
	return l
}

var errLeaseOver = errors.New("the lease is over")

func (c *cluster) renew(l store.Lease) (store.Lease, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !time.Now().Before(c.leases[l.NodeEpoch]) {
		delete(c.leases, l.NodeEpoch)
		return l, posthaste.Wrap(posthaste.CodeConflict, "renew", errLeaseOver)
	}
	l.Expires = time.Now().Add(l.TTL)
	c.leases[l.NodeEpoch] = l.Expires
	return l, nil
}

func (c *cluster) leave(l store.Lease) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.leases, l.NodeEpoch)
}

func (c *cluster) live(n store.NodeEpoch) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Before(c.leases[n])
}
