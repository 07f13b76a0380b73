package dispatch

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
)

// Run claims and attempts until ctx ends, then stops as the package comment says. It returns when every goroutine of the
// dispatcher is gone.
func (d *Dispatcher) Run(ctx context.Context) error {
	defer close(d.over)
	inner, cancel := context.WithCancel(ctx)
	done := make(chan struct{}, 4)
	go func() { d.keepLease(inner); done <- struct{}{} }()
	go func() { d.admitter(inner); done <- struct{}{} }()
	go func() { d.loop(inner); done <- struct{}{} }()
	go func() { d.watchHosts(inner); done <- struct{}{} }()
	<-ctx.Done()
	d.stop.Store(true)
	cancel()
	for range 4 {
		<-done
	}
	idle := make(chan struct{})
	go func() { d.wg.Wait(); close(idle) }()
	if d.cfg.Grace > 0 {
		grace := time.NewTimer(d.cfg.Grace)
		defer grace.Stop()
		select {
		case <-idle:
		case <-grace.C:
		}
	}
	l := d.life.Load()
	if l == nil {
		<-idle
		return nil
	}
	l.cut(errShutdown)
	<-idle
	leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return d.engine.Leave(leave, l.lease)
}

// keepLease renews the node's lease in real time and takes over what expired nodes left. It does so once at the start, so that a
// node that was killed finds its own claims again. A node that lost its lease cuts off its attempts and begins another life.
func (d *Dispatcher) keepLease(ctx context.Context) {
	ttl := d.cfg.Node.TTL
	tick := time.NewTicker(ttl / 3)
	defer tick.Stop()
	renewed := time.Now()
	for {
		if d.life.Load() == nil {
			if err := d.rejoin(ctx); err != nil {
				return
			}
			renewed = time.Now()
		}
		d.recover(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		l := d.life.Load()
		asked := time.Now()
		renew, cancel := context.WithTimeout(ctx, max(ttl*2/3-time.Since(renewed), time.Millisecond))
		lease, err := d.engine.Renew(renew, l.lease)
		cancel()
		switch {
		case err == nil:
			l.lease = lease
			renewed = asked
			again := l.lapsed()
			if d.renewed(l, asked); again {
				d.wakeLoop()
			}
			d.settleDoubts(ctx, l)
		case ctx.Err() != nil:
			return
		case posthaste.CodeOf(err) == posthaste.CodeConflict || time.Since(renewed) >= ttl*2/3:
			d.log.Error("lease lost; running attempts are cut off", "err", err)
			d.life.Store(nil)
			l.cut(errLease)
		default:
			d.log.Warn("lease not renewed", "err", err)
		}
	}
}

// rejoin takes a new lease, as soon as the store gives one.
func (d *Dispatcher) rejoin(ctx context.Context) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := d.Join(ctx)
		if err == nil {
			d.log.Info("joined again")
			return nil
		}
		d.log.Warn("not joined again yet", "err", err)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// recover takes claims back from lives of nodes that are over, in bounded steps. It ends early rather than delay a renewal.
func (d *Dispatcher) recover(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Node.TTL/3)
	defer cancel()
	expired, err := d.engine.Expired(ctx)
	if err != nil {
		if ctx.Err() == nil {
			d.log.Warn("expired nodes not read", "err", err)
		}
		return
	}
	for _, n := range expired {
		taken := 0
		for {
			claims, err := d.engine.Claims(ctx, n, "", ledger.MaxStep)
			if err != nil {
				d.log.Warn("claims of an expired node not read", "node", n.Node, "err", err)
				return
			}
			if len(claims) == 0 {
				break
			}
			op := &ledger.Recover{From: n, Known: claims}
			if err := d.engine.Do(ctx, lane(claims[0]), op); err != nil {
				d.log.Warn("claims not recovered", "node", n.Node, "err", err)
				return
			}
			taken += op.Taken
		}
		if taken > 0 {
			d.log.Info("recovered claims of an earlier life", "node", n.Node, "epoch", n.Epoch, "claims", taken)
		}
		if err := d.engine.Forget(ctx, n); err != nil {
			d.log.Warn("expired node not forgotten", "node", n.Node, "err", err)
		}
	}
}

// ahead is what look-ahead knows. It is a hint: the store decides what is due.
type ahead struct {
	until    time.Time // everything due before was read, as far as the window reaches
	messages map[posthaste.MessageID]*posthaste.Message
	bytes    int
}

// aheadBytes bounds the bodies that look-ahead holds.
const aheadBytes = 32 << 20

// loop finds what is due and claims it.
func (d *Dispatcher) loop(ctx context.Context) {
	hints := d.engine.Hints()
	for ctx.Err() == nil {
		next, err := d.sweep(ctx)
		if err != nil && ctx.Err() == nil {
			d.log.Warn("due messages not read", "err", err)
			next = d.clock.Now().Add(d.cfg.Poll)
		}
		d.sleep(ctx, next, hints)
	}
}

// sleep waits until next, a hint of something earlier, room, or the poll interval in real time.
func (d *Dispatcher) sleep(ctx context.Context, next time.Time, hints <-chan store.Hint) {
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	poll := time.NewTimer(d.cfg.Poll)
	defer poll.Stop()
	moment := make(chan struct{})
	if next.IsZero() {
		moment = nil
	} else {
		go func() {
			defer close(moment)
			d.clock.Wait(wait, next) //nolint:errcheck // it ends with the context, as the loop does
		}()
		defer func() { cancel(); <-moment }()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-moment:
			return
		case <-d.room:
			return
		case <-poll.C:
			return
		case h := <-hints:
			if next.IsZero() || h.Due.Before(next) {
				return
			}
		}
	}
}

// sweep claims and admits what is due and returns when to look again; zero if nothing is known to come.
func (d *Dispatcher) sweep(ctx context.Context) (time.Time, error) {
	if l := d.life.Load(); l == nil || l.lapsed() {
		return time.Time{}, nil // nothing can be claimed; whoever renews the lease or takes another one wakes the loop
	}
	shards, err := d.engine.NextDue(ctx)
	if err != nil {
		return time.Time{}, err
	}
	now := d.clock.Now()
	var next time.Time
	earlier := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	full := false
	admit := func(s store.ShardDue) error {
		switch {
		case s.Waiting.IsZero():
			return nil
		case s.Waiting.After(now):
			earlier(s.Waiting)
			return nil
		case d.spare() <= 0:
			full = true
			return nil
		}
		earlier(now)
		return d.wake(ctx, s.Shard, now)
	}
	claim := func(s store.ShardDue) error {
		switch {
		case s.Tickets.IsZero():
			return nil
		case s.Tickets.After(now):
			earlier(s.Tickets)
			return nil
		}
		progress, err := d.claim(ctx, s.Shard, now)
		if progress {
			earlier(now) // what comes next is known after another look
		} else {
			full = true
		}
		return err
	}
	// Whoever comes first may take all the room, so they take turns.
	d.turn++
	first, second := admit, claim
	if d.turn%2 == 0 {
		first, second = claim, admit
	}
	for i := range shards {
		s := shards[(i+d.turn/2)%len(shards)]
		if err := errors.Join(first(s), second(s)); err != nil {
			return time.Time{}, err
		}
	}
	d.crowded.Store(full)
	d.wanted.Store(0)
	if full {
		d.wanted.Store(int64(max(1, min(64, d.cfg.MaxInFlight/8))))
		// Room that came back since then must not be missed.
		if d.starved.Store(true); d.spare() > 0 {
			earlier(d.clock.Now().Add(time.Millisecond))
		}
	} else if !next.IsZero() && next.After(now) {
		if err := d.look(ctx, shards, now, next); err != nil {
			return time.Time{}, err
		}
	}
	return next, nil
}

// claim claims what is due in a shard. It reports whether anything moved.
func (d *Dispatcher) claim(ctx context.Context, shard int16, now time.Time) (progress bool, err error) {
	node := d.reserve(256, d.headroom())
	if node.Room == 0 {
		return false, nil
	}
	op := &ledger.Claim{
		Ripe: &store.Ripe{Shard: shard, Before: now, Limit: node.Room, PerTenant: d.cfg.PerTenant}, Node: node,
	}
	// What is submitted is committed, also if ctx ends meanwhile, and what that claims must begin or be given back.
	submit := context.WithoutCancel(ctx)
	if err := d.engine.Do(submit, int(shard), op); err != nil {
		d.Begin(node, nil)
		return false, err
	}
	d.fill(submit, op.Started)
	d.Begin(node, &op.Outcome)
	progress = op.Taken > 0
	for known := op.Unnamed; len(known) > 0; {
		step := known[:min(len(known), 128)]
		known = known[len(step):]
		node := d.reserve(len(step), d.headroom())
		op := &ledger.Claim{Known: step, Node: node}
		if err := d.engine.Do(submit, int(shard), op); err != nil {
			d.Begin(node, nil)
			return false, err
		}
		d.fill(submit, op.Started)
		d.Begin(node, &op.Outcome)
		progress = progress || op.Taken > 0
	}
	return progress, nil
}

// fill gives started attempts their messages: from look-ahead, else with one read for all. What it cannot read, the attempt
// reads itself.
func (d *Dispatcher) fill(ctx context.Context, started []ledger.Start) {
	var keys []store.MessageKey
	var at []int
	for i := range started {
		t := started[i].Ticket
		if started[i].Message != nil {
			continue
		}
		if m := d.ahead.messages[t.ID]; m != nil {
			delete(d.ahead.messages, t.ID)
			d.ahead.bytes -= len(m.Body)
			started[i].Message = m
			continue
		}
		keys = append(keys, store.MessageKey{Tenant: t.Tenant, ID: t.ID})
		at = append(at, i)
	}
	if len(keys) == 0 {
		return
	}
	got, err := d.engine.Messages(ctx, keys)
	if err != nil {
		return
	}
	for i, m := range got {
		started[at[i]].Message = m
	}
}

// look reads what becomes due soon, so that a claim needs no further read.
func (d *Dispatcher) look(ctx context.Context, shards []store.ShardDue, now, next time.Time) error {
	horizon := now.Add(d.cfg.LookAhead)
	if next.After(horizon) || d.ahead.until.After(now.Add(d.cfg.LookAhead/2)) && len(d.ahead.messages) > 0 {
		return nil
	}
	old := d.ahead.messages
	d.ahead = ahead{until: horizon, messages: make(map[posthaste.MessageID]*posthaste.Message, len(old))}
	var keys []store.MessageKey
	for _, s := range shards {
		if s.Tickets.IsZero() || s.Tickets.After(horizon) {
			continue
		}
		tickets, err := d.engine.Ripening(ctx, store.Ripe{
			Shard: s.Shard, Before: horizon, Limit: d.cfg.Window, PerTenant: d.cfg.Window,
		})
		if err != nil {
			return err
		}
		for _, t := range tickets {
			if m := old[t.ID]; m != nil {
				d.remember(m)
			} else {
				keys = append(keys, store.MessageKey{Tenant: t.Tenant, ID: t.ID})
			}
		}
	}
	for len(keys) > 0 && d.ahead.bytes < aheadBytes {
		step := keys[:min(len(keys), 64)]
		keys = keys[len(step):]
		got, err := d.engine.Messages(ctx, step)
		if err != nil {
			return err
		}
		for _, m := range got {
			if m != nil {
				d.remember(m)
			}
		}
	}
	return nil
}

func (d *Dispatcher) remember(m *posthaste.Message) {
	d.ahead.messages[m.ID] = m
	d.ahead.bytes += len(m.Body)
}

// wake finds the gates whose marks have come and has them tried.
func (d *Dispatcher) wake(ctx context.Context, shard int16, now time.Time) error {
	if d.spare() <= 0 {
		return nil
	}
	heads, err := d.engine.Awake(ctx, shard, now, 256)
	if err != nil {
		return err
	}
	gates := make(map[store.GateRef]struct{}, len(heads))
	for _, t := range heads {
		gates[t.ParkedAt] = struct{}{}
		if t.ParkedAt.Kind == store.KindHost {
			// The node may not have known of it.
			d.hosts.learn(t.ParkedAt, d.hosts.blocked(t.ParkedAt), true)
		}
	}
	return d.admitAll(ctx, gates)
}

// admitAll admits from several gates at the same time, so that they share commits.
func (d *Dispatcher) admitAll(ctx context.Context, gates map[store.GateRef]struct{}) error {
	var (
		wg    sync.WaitGroup
		errs  = make(chan error, len(gates))
		slot  = make(chan struct{}, 64)
		share = max(1, int(d.spare())/max(1, len(gates))) // of the room
	)
	for g := range gates {
		slot <- struct{}{}
		wg.Go(func() {
			if err := d.admit(ctx, g, min(admitStep, share)); err != nil {
				errs <- err
			}
			<-slot
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// try has gates admitted from as soon as possible.
func (d *Dispatcher) try(gates []store.GateRef) {
	if len(gates) == 0 {
		return
	}
	d.mu.Lock()
	for _, g := range gates {
		d.tries[g] = struct{}{}
	}
	d.mu.Unlock()
	select {
	case d.tried <- struct{}{}:
	default:
	}
}

// admitter admits from the gates that operations named. What it leaves out, the marks in the store bring up again.
func (d *Dispatcher) admitter(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.tried:
		}
		d.mu.Lock()
		gates := d.tries
		d.tries = map[store.GateRef]struct{}{}
		d.mu.Unlock()
		if d.crowded.Load() {
			d.wakeLoop() // it knows all that waits, and lets everybody have a share
			continue
		}
		if err := d.admitAll(ctx, gates); err != nil && ctx.Err() == nil {
			d.log.Warn("waiting messages not admitted", "err", err)
		}
	}
}

// admitStep is how many waiting tickets one Admit tries.
const admitStep = 128

// admit starts what a gate has room for, up to most, in one step; what remains is named by the result.
func (d *Dispatcher) admit(ctx context.Context, g store.GateRef, most int) error {
	node := d.reserve(most, d.headroom())
	if node.Room == 0 {
		return nil
	}
	heads, err := d.engine.Heads(ctx, g, node.Room)
	if err != nil {
		d.giveBack(node.Room)
		return err
	}
	op := &ledger.Admit{Gate: g, Heads: heads, Node: node}
	submit := context.WithoutCancel(ctx) // see claim
	if err := d.engine.Do(submit, int(g.Shard), op); err != nil {
		d.Begin(node, nil)
		return err
	}
	d.fillFrom(submit, op.Started)
	d.Begin(node, &op.Outcome)
	return nil
}

// fillFrom is fill for goroutines that do not own the look-ahead.
func (d *Dispatcher) fillFrom(ctx context.Context, started []ledger.Start) {
	keys := make([]store.MessageKey, len(started))
	for i, s := range started {
		keys[i] = store.MessageKey{Tenant: s.Ticket.Tenant, ID: s.Ticket.ID}
	}
	if len(keys) == 0 {
		return
	}
	if got, err := d.engine.Messages(ctx, keys); err == nil {
		for i, m := range got {
			started[i].Message = m
		}
	}
}
