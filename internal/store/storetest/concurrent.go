package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
)

// RunConcurrent lets many goroutines accept, claim, settle, cancel, pause, die and recover at once, with a crash in the middle.
// Nothing may be claimed twice, nothing lost, and no limit passed.
//
// Limits are counted beside the store, and from inside: an attempt counts from when the operation that claimed it has returned
// until the operation that ends it is submitted. What is found too many, was too many.
func RunConcurrent(t *testing.T, open func(testing.TB) *Harness) {
	t.Helper()
	b := newBed(t, open)
	c := &crowd{
		bed: b, perPhase: 600, accepted: map[posthaste.MessageID]bool{}, starts: map[claimKey]bool{}, running: map[claimKey]*crowdStart{},
		inFlight: map[store.GateRef]int{}, firsts: map[string]posthaste.MessageID{}, times: map[store.GateRef][]time.Time{},
		lines: map[string][]posthaste.MessageID{}, began: map[posthaste.MessageID]time.Time{}, over: map[store.NodeEpoch]bool{},
	}
	if testing.Short() {
		c.perPhase = 200
	}
	c.limits = map[store.GateRef]int{b.queue("one"): 1, b.queue("three"): 3, b.flow("four"): 4, b.flow("both"): 5}
	b.edit(0, b.queue("three"), func(g *store.Gate) { g.Parallelism = 3 })
	c.phase(false)
	b.Engine = b.Crash(t)
	c.phase(true)
	c.end()
}

// crowd is what the goroutines share.
type crowd struct {
	*bed
	perPhase int // messages
	limits   map[store.GateRef]int

	stop atomic.Bool

	mu       sync.Mutex
	nodes    []*crowdNode
	accepted map[posthaste.MessageID]bool
	recent   []posthaste.MessageID
	starts   map[claimKey]bool
	running  map[claimKey]*crowdStart
	inFlight map[store.GateRef]int
	firsts   map[string]posthaste.MessageID    // of deduplication keys
	times    map[store.GateRef][]time.Time     // of starts at keys with a rate
	lines    map[string][]posthaste.MessageID  // what one goroutine put into one queue, in order
	began    map[posthaste.MessageID]time.Time // the first start
	over     map[store.NodeEpoch]bool          // lives that ended
	pauses   []pause                           // of the queue "one"
	ended    map[posthaste.LogState]int
	failures []string
}

// pause is the time between a pause and the end of it.
type pause struct{ from, to time.Time }

type crowdStart struct {
	ledger.Start
	node *crowdNode
	life store.NodeEpoch
}

// crowdNode is a node of the crowd.
type crowdNode struct {
	life  store.NodeEpoch
	room  int
	tasks []*crowdStart
}

// crowdRoom is the room of each node.
const crowdRoom = 12

// fail notes what is wrong. The test ends when all goroutines have.
func (c *crowd) fail(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLocked(format, args...)
}

func (c *crowd) failLocked(format string, args ...any) {
	if len(c.failures) < 10 {
		c.failures = append(c.failures, fmt.Sprintf(format, args...))
	}
	c.stop.Store(true)
}

// newLife begins another life of a node.
func (c *crowd) newLife(name string, first bool) store.NodeEpoch {
	if first || !c.OneNode {
		l, err := c.Engine.Join(c.ctx(), store.NodeInfo{Name: name, TTL: time.Hour})
		if err != nil {
			c.fail("join: %v", err)
		}
		return l.NodeEpoch
	}
	return store.NodeEpoch{Node: name, Epoch: time.Now().UnixNano()}
}

// phase lets the goroutines run. The last phase goes on until everything is resolved; another one stops in the middle of it.
func (c *crowd) phase(last bool) {
	c.stop.Store(false)
	c.mu.Lock()
	for _, n := range c.nodes {
		c.buryLocked(n)
	}
	c.nodes = nil
	c.mu.Unlock()
	for i, name := range []string{"a", "x", "y"} {
		life := c.node
		if i > 0 || last {
			life = c.newLife(name, i == 0)
		}
		c.nodes = append(c.nodes, &crowdNode{life: life, room: crowdRoom})
	}

	var work, others sync.WaitGroup
	ctx, cancel := context.WithCancel(c.ctx())
	defer cancel()
	for g := range 5 {
		work.Go(func() { c.acceptor(g, last) })
	}
	for _, n := range c.nodes {
		for range 2 {
			others.Go(func() { c.worker(n) })
		}
		others.Go(func() { c.pumper(n) })
	}
	others.Go(c.canceler)
	others.Go(func() { c.pauser(last) })
	others.Go(func() { c.killer(last) })
	others.Go(func() {
		for !c.stop.Load() && ctx.Err() == nil {
			c.Advance(2 * time.Millisecond)
			time.Sleep(200 * time.Microsecond)
		}
	})
	work.Wait()
	if last {
		c.resolved()
	}
	c.stop.Store(true)
	others.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.failures) > 0 {
		for _, f := range c.failures {
			c.Error(f)
		}
		c.FailNow()
	}
}

// resolved waits until nothing is unresolved.
func (c *crowd) resolved() {
	limit := time.Now().Add(time.Minute)
	for !c.stop.Load() {
		list, err := c.Engine.TicketList(c.ctx(), c.tenant, "", 5)
		if err != nil {
			c.fail("list tickets: %v", err)
			return
		}
		if len(list) == 0 {
			return
		}
		if time.Now().After(limit) {
			text := fmt.Sprintf("still unresolved: %+v", *list[0])
			for _, ref := range list[0].Path {
				g, err := c.Engine.Gate(c.ctx(), ref)
				text += fmt.Sprintf("\n%+v %v", g, err)
			}
			claims, err := c.Engine.Claims(c.ctx(), store.NodeEpoch{}, "", 5)
			for _, t := range claims {
				text += fmt.Sprintf("\nclaimed %+v", t)
			}
			c.fail("%s %v", text, err)
		}
		time.Sleep(time.Millisecond)
	}
}

// do carries out an operation for a node with some of its room, and hands on what started. It reports whether it was carried
// out.
func (c *crowd) do(n *crowdNode, want int, make func(ledger.Node) store.Op) bool {
	c.mu.Lock()
	life, room := n.life, min(want, n.room)
	n.room -= room
	c.mu.Unlock()
	op := make(ledger.Node{NodeEpoch: life, Room: room})
	err := c.Engine.Do(c.ctx(), 0, op)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		if !errors.Is(err, store.ErrStale) {
			c.failLocked("%T: %v", op, err)
		}
		n.room += room
		return false
	}
	out, _ := outcome(op)
	if out == nil {
		n.room += room
		return true
	}
	if len(out.Started) > room {
		c.failLocked("%T started %d attempts with room for %d", op, len(out.Started), room)
	}
	n.room += room - len(out.Started)
	for _, s := range out.Started {
		c.beginLocked(n, life, s)
	}
	return true
}

// beginLocked counts a start.
func (c *crowd) beginLocked(n *crowdNode, life store.NodeEpoch, s ledger.Start) {
	t := *s.Ticket
	key := claimKey{t.ID, t.Fence}
	if c.starts[key] {
		c.failLocked("%s started twice with fence %d", t.ID, t.Fence)
	}
	c.starts[key] = true
	for _, ref := range t.Path {
		if ref.Name == "rate" || ref.Name == "both" {
			c.times[ref] = append(c.times[ref], t.StartedAt)
		}
	}
	if first, ok := c.began[t.ID]; !ok || t.StartedAt.Before(first) {
		c.began[t.ID] = t.StartedAt
	}
	if c.over[life] {
		n.room++
		return // it died before it knew of this claim
	}
	start := &crowdStart{Start: ledger.Start{Ticket: &t, Message: s.Message}, node: n, life: life}
	c.running[key] = start
	for _, ref := range t.Path {
		if c.inFlight[ref]++; c.limits[ref] > 0 && c.inFlight[ref] > c.limits[ref] {
			c.failLocked("%s: %d in flight, want at most %d", gateName(ref), c.inFlight[ref], c.limits[ref])
		}
	}
	n.tasks = append(n.tasks, start)
}

// endLocked takes an attempt out of the counts, before the store hears of its end.
func (c *crowd) endLocked(s *crowdStart) {
	key := claimKey{s.Ticket.ID, s.Ticket.Fence}
	if c.running[key] != s {
		return
	}
	delete(c.running, key)
	for _, ref := range s.Ticket.Path {
		c.inFlight[ref]--
	}
	s.node.room++
}

// acceptor offers messages of all kinds.
func (c *crowd) acceptor(g int, last bool) {
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), uint64(g)))
	for i := 0; i < c.perPhase/5 && !c.stop.Load(); i++ {
		m := c.msg(withRetries(rng.IntN(3)), func(m *posthaste.Message) { m.RetryDelay = "20" })
		line := ""
		switch rng.IntN(8) {
		case 0, 1:
			m.Queue, line = "one", fmt.Sprintf("one/%d/%t", g, last)
		case 2:
			m.Queue = "three"
			m.Flow = []posthaste.FlowControl{limits("four", 4, 0, 0)}
		case 3:
			m.Flow = []posthaste.FlowControl{limits("four", 4, 0, 0)}
		case 4:
			m.Flow = []posthaste.FlowControl{limits("rate", 0, 20, time.Second)}
		case 5:
			m.Flow = []posthaste.FlowControl{limits("four", 4, 0, 0), limits("both", 5, 30, time.Second)}
		}
		if rng.IntN(6) == 0 {
			none := 0 // the standard backoff is long
			m.Callback = &posthaste.Callback{URL: "https://example.com/callback", Retries: &none}
		}
		d := c.draft(m, 0)
		if line == "" && rng.IntN(8) == 0 {
			d.Delay = time.Duration(rng.IntN(50)) * time.Millisecond
		}
		if rng.IntN(10) == 0 && line == "" {
			d.Dedup, d.Window = &store.DedupKey{Tenant: c.tenant, Key: fmt.Sprintf("%d/%t", rng.IntN(20), last)}, 1000*time.Hour
		}
		n := c.nodes[rng.IntN(len(c.nodes))]
		if !c.do(n, rng.IntN(2), func(node ledger.Node) store.Op {
			op := c.acceptOp(0, d)
			op.Node = node
			return op
		}) {
			continue
		}
		c.mu.Lock()
		if d.Dedup != nil {
			if first, ok := c.firsts[d.Dedup.Key]; ok && first != d.ID {
				c.failLocked("key %s: got messages %s and %s, want one", d.Dedup.Key, first, d.ID)
			}
			c.firsts[d.Dedup.Key] = d.ID
		}
		if !d.Duplicate {
			if c.accepted[d.ID] {
				c.failLocked("%s was accepted twice", d.ID)
			}
			c.accepted[d.ID] = true
		}
		c.recent = append(c.recent, d.ID)
		if line != "" {
			c.lines[line] = append(c.lines[line], d.ID)
		}
		c.mu.Unlock()
		if i%4 == 0 {
			time.Sleep(time.Duration(rng.IntN(2000)) * time.Microsecond)
		}
	}
}

// worker carries out attempts of a node.
func (c *crowd) worker(n *crowdNode) {
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 7))
	for !c.stop.Load() {
		c.mu.Lock()
		var s *crowdStart
		if len(n.tasks) > 0 {
			i := rng.IntN(len(n.tasks))
			s = n.tasks[i]
			n.tasks = slices.Delete(n.tasks, i, i+1)
		}
		c.mu.Unlock()
		if s == nil {
			time.Sleep(100 * time.Microsecond)
			continue
		}
		for range rng.IntN(4) {
			runtime.Gosched()
		}
		if s.Message == nil {
			m, err := c.Engine.Message(c.ctx(), c.tenant, s.Ticket.ID)
			if err != nil || m == nil {
				c.fail("message of the claim %s: got %v, %v", s.Ticket.ID, m, err)
				return
			}
			s.Message = m
		}
		c.mu.Lock()
		c.endLocked(s)
		c.mu.Unlock()
		var lost *bool
		c.do(n, 2, func(node ledger.Node) store.Op {
			if rng.IntN(20) == 0 {
				op := &ledger.Release{Ticket: s.Ticket}
				lost = &op.Lost
				return op
			}
			op := c.settleOp(0, s.Start, []func() *ledger.Result{delivered, delivered, delivered, failed, refused}[rng.IntN(5)]())
			op.Node = node
			lost = &op.Lost
			return op
		})
		c.mu.Lock()
		if *lost && !c.over[s.life] {
			c.failLocked("%s with fence %d of a living node: the claim is lost", s.Ticket.ID, s.Ticket.Fence)
		}
		c.mu.Unlock()
	}
}

// pumper carries on what is due, for a node.
func (c *crowd) pumper(n *crowdNode) {
	for !c.stop.Load() {
		due, err := c.Engine.NextDue(c.ctx())
		if err != nil {
			c.fail("read what is due: %v", err)
			return
		}
		for _, d := range due {
			now := c.Now()
			if !d.Tickets.IsZero() && !d.Tickets.After(now) {
				ripe := &ledger.Claim{Ripe: &store.Ripe{Shard: d.Shard, Before: now, Limit: 20, PerTenant: 20}}
				ok := c.do(n, 3, func(node ledger.Node) store.Op {
					ripe.Node = node
					return ripe
				})
				if ok && len(ripe.Unnamed) > 0 {
					c.do(n, 3, func(node ledger.Node) store.Op { return &ledger.Claim{Known: ripe.Unnamed, Node: node} })
				}
			}
			awake, err := c.Engine.Awake(c.ctx(), d.Shard, now, 10)
			if err != nil {
				c.fail("read what is awake: %v", err)
				return
			}
			for _, t := range awake {
				heads, err := c.Engine.Heads(c.ctx(), t.ParkedAt, 4)
				if err != nil {
					c.fail("read heads: %v", err)
					return
				}
				c.do(n, 3, func(node ledger.Node) store.Op {
					return &ledger.Admit{Gate: t.ParkedAt, Heads: heads, Node: node}
				})
			}
		}
		time.Sleep(time.Millisecond)
	}
}

// canceler cancels messages that were accepted lately.
func (c *crowd) canceler() {
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 9))
	for !c.stop.Load() {
		time.Sleep(3 * time.Millisecond)
		c.mu.Lock()
		var all []posthaste.MessageID
		for range min(3, len(c.recent)) {
			all = append(all, c.recent[max(0, len(c.recent)-1-rng.IntN(20))])
		}
		c.mu.Unlock()
		list, err := c.Engine.Tickets(c.ctx(), all)
		if err != nil {
			c.fail("read tickets: %v", err)
			return
		}
		list = slices.DeleteFunc(list, func(t *store.Ticket) bool { return t == nil })
		if rng.IntN(3) == 0 && len(list) > 0 {
			c.do(c.nodes[0], 1, func(node ledger.Node) store.Op { return &ledger.Cancel{Known: list, Node: node} })
		}
	}
}

// pauser pauses the queue "one" and lets it go on again.
func (c *crowd) pauser(last bool) {
	ref := c.queue("one")
	edit := func(paused bool) (at time.Time) {
		c.do(c.nodes[0], 1, func(node ledger.Node) store.Op {
			return &ledger.EditGate{Gate: ref, Node: node, Edit: func(now time.Time, g *store.Gate) error {
				if g.CreatedAt.IsZero() {
					g.CreatedAt, g.Parallelism = now, 1
				}
				at, g.Paused, g.UpdatedAt = now, paused, now
				return nil
			}}
		})
		return at
	}
	for n := 0; !c.stop.Load() && (!last || n < 10); n++ {
		time.Sleep(10 * time.Millisecond)
		from := edit(true)
		time.Sleep(5 * time.Millisecond)
		to := edit(false)
		c.mu.Lock()
		c.pauses = append(c.pauses, pause{from, to})
		c.mu.Unlock()
	}
	edit(false)
}

// buryLocked ends a life of a node: what it was doing is no longer counted, although it may go on.
func (c *crowd) buryLocked(n *crowdNode) {
	c.over[n.life] = true
	for _, s := range c.running {
		if s.life == n.life {
			c.endLocked(s)
		}
	}
}

// killer ends lives of nodes and recovers what they left.
func (c *crowd) killer(last bool) {
	for round := 0; !c.stop.Load(); round++ {
		time.Sleep(15 * time.Millisecond)
		if n := c.nodes[1+round%2]; !last || round < 8 {
			life := c.newLife(n.life.Node, false)
			c.mu.Lock()
			c.buryLocked(n)
			n.life = life
			c.mu.Unlock()
		}
		c.mu.Lock()
		var lives []store.NodeEpoch
		for l := range c.over {
			lives = append(lives, l)
		}
		c.mu.Unlock()
		for _, l := range lives {
			list, err := c.Engine.Claims(c.ctx(), l, "", 5)
			if err != nil {
				c.fail("read claims: %v", err)
				return
			}
			if len(list) > 0 {
				c.do(c.nodes[0], 0, func(ledger.Node) store.Op { return &ledger.Recover{From: l, Known: list} })
			}
		}
	}
}

// end checks what all of it came to.
func (c *crowd) end() {
	c.Helper()
	c.ended = map[posthaste.LogState]int{}
	m := &model{tb: c.TB, engine: c.Engine, book: newBook(c.Now(), c.shards)}
	all, err := c.Engine.MessageList(c.ctx(), c.tenant, "", store.Page{Limit: 100000})
	c.check(err)
	dead := map[posthaste.MessageID]bool{}
	letters, err := c.Engine.DeadLetters(c.ctx(), c.tenant, "", store.Page{Limit: 100000})
	c.check(err)
	for _, d := range letters {
		if dead[d.Message] {
			c.Errorf("%s has two dead letters", d.Message)
		}
		dead[d.Message] = true
	}
	left := map[posthaste.MessageID]bool{}
	for id := range c.accepted {
		left[id] = true
	}
	for _, msg := range all {
		delete(left, msg.ID)
		if !c.accepted[msg.ID] && msg.Source == "" {
			c.Errorf("%s is stored, and nobody accepted it", msg.ID)
		}
		// Its log says how it ended. The model finds what is wrong with it.
		e := &entry{msg: msg}
		attempts, err := c.Engine.Attempts(c.ctx(), c.tenant, msg.ID)
		c.check(err)
		marks, err := c.Engine.Marks(c.ctx(), c.tenant, msg.ID)
		c.check(err)
		if len(attempts) > 0 && attempts[len(attempts)-1].State != posthaste.StateRetry {
			e.final = attempts[len(attempts)-1].State
		} else if len(marks) == 2 {
			e.final = posthaste.StateCanceled
		}
		if e.final == "" {
			c.Errorf("%s is resolved nowhere: attempts %v, marks %v", msg.ID, attempts, marks)
			continue
		}
		if err := m.try(func() { m.history(e) }); err != nil {
			c.Error(err)
		}
		c.ended[e.final]++
		if dead[msg.ID] != (e.final == posthaste.StateFailed) {
			c.Errorf("%s is %s, dead letter %t", msg.ID, e.final, dead[msg.ID])
		}
	}
	for id := range left {
		c.Errorf("%s was accepted and is lost", id)
	}
	for _, kind := range []store.Kind{store.KindQueue, store.KindFlow} {
		list, err := c.Engine.GateList(c.ctx(), c.tenant, kind, "", 100)
		c.check(err)
		for _, g := range list {
			c.wantGate(g.GateRef, 0, 0, 0)
		}
	}
	for ref, times := range c.times {
		rate := map[string]int{"rate": 20, "both": 30}[ref.Name]
		slices.SortFunc(times, time.Time.Compare)
		for i := 0; i < len(times); {
			n := 0
			for begin := times[i]; i < len(times) && times[i].Before(begin.Add(time.Second)); i++ {
				n++
			}
			if n > rate {
				c.Errorf("%s: got %d starts in a window, want at most %d", gateName(ref), n, rate)
			}
		}
	}
	for line, all := range c.lines {
		var last time.Time
		for _, id := range all {
			at, ok := c.began[id]
			if ok && at.Before(last) {
				c.Errorf("queue %s: %s started before one that came earlier", line, id)
			}
			if ok {
				last = at
			}
		}
		for _, p := range c.pauses {
			for _, id := range all {
				if at, ok := c.began[id]; ok && at.After(p.from) && at.Before(p.to) {
					c.Errorf("%s started at %v, the queue was paused from %v to %v", id, at, p.from, p.to)
				}
			}
		}
	}
	c.Logf("%d messages, %d attempts: %v", len(all), len(c.starts), c.ended)
}
