package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
)

// The environment variables that steer RunModel.
const (
	// seedVariable names a history to be repeated: its seed, as a failure printed it.
	seedVariable = "POSTHASTE_SEED"
	// timeVariable is how long histories are tried, a duration like 10m.
	timeVariable = "POSTHASTE_MODEL_TIME"
)

// RunModel tries random histories: several nodes accept, claim, settle, cancel, edit limits, delete queues, crash and recover.
// After every step it checks what was done by the rules, the rows of the store against what operations wrote, every counter
// against a count, and the marks that lead from one operation to the next. A history ends with all messages resolved.
//
// It takes about ten seconds, or as long as POSTHASTE_MODEL_TIME says. A failure prints the shortest history found that fails
// and its seed; with POSTHASTE_SEED set to it, only that history is tried.
func RunModel(t *testing.T, open func(testing.TB) *Harness) {
	t.Helper()
	if s := os.Getenv(seedVariable); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", seedVariable, err)
		}
		failHistory(t, open, seed)
		return
	}
	limit := 10 * time.Second
	if testing.Short() {
		limit = time.Second
	}
	if s := os.Getenv(timeVariable); s != "" {
		var err error
		if limit, err = time.ParseDuration(s); err != nil {
			t.Fatalf("%s: %v", timeVariable, err)
		}
	}
	seed := uint64(time.Now().UnixNano()) % 1e12
	n, begin := 0, time.Now()
	for time.Since(begin) < limit && !t.Failed() {
		// The histories of one subtest share an engine, each with tenants of its own.
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			h := open(t)
			for range 25 {
				if time.Since(begin) > limit {
					return
				}
				n++
				m := newModel(t, h, seed)
				if err := m.play(nil); err != nil {
					if failHistory(t, open, seed); !t.Failed() {
						t.Errorf("the history of seed %d failed once, and not again alone: %v\n%s", seed, err, strings.Join(m.trace, "\n"))
					}
					return
				}
				seed++
			}
		})
	}
	t.Logf("%d histories", n)
}

// shrinkTime bounds the search for a shorter history.
const shrinkTime = 30 * time.Second

// failHistory plays a history alone. If it fails, it looks for steps that it fails without, and prints what is left.
func failHistory(t *testing.T, open func(testing.TB) *Harness, seed uint64) {
	t.Helper()
	try := func(skip map[int]bool) (*model, error) {
		m := newModel(t, open(t), seed)
		return m, m.play(skip)
	}
	m, err := try(nil)
	for n := 1; err == nil && m.batches && n < 20; n++ {
		m, err = try(nil) // who comes first differs from time to time
	}
	if err == nil {
		return
	}
	skip, begin := map[int]bool{}, time.Now()
	for size := m.steps / 2; size > 0 && time.Since(begin) < shrinkTime; {
		before := len(skip)
		for from := 0; from < m.steps && time.Since(begin) < shrinkTime; from += size {
			less := maps.Clone(skip)
			for i := from; i < min(from+size, m.steps); i++ {
				less[i] = true
			}
			if len(less) == len(skip) {
				continue
			}
			if shorter, e := try(less); e != nil {
				skip, m, err = less, shorter, e
			}
		}
		if size > 1 || len(skip) == before {
			size /= 2
		}
	}
	t.Errorf("%s=%d: %v\n%s", seedVariable, seed, err, strings.Join(m.trace, "\n"))
}

// model plays one history.
type model struct {
	tb     testing.TB
	h      *Harness
	engine store.Engine
	seed   uint64
	start  time.Time

	*book
	rows   *mirror
	clock  atomic.Int64
	nonces *ledger.Nonces
	trace  []string
	steps  int // of the history
	*world
}

// world is what a history takes place in.
type world struct {
	rng     *rand.Rand // of the current step
	batches bool       // several operations are submitted at once

	tenants   []posthaste.TenantID
	limited   bool
	queues    []string
	keys      []string
	hosts     []string // that nodes restrict now and then
	steady    bool     // a key's limits never change by messages
	callbacks bool
	priority  bool
	retries   bool
	delays    bool
	crowded   bool // much comes, and nodes have little room

	nodes   []*fakeNode
	lost    []store.NodeEpoch // lives that are over and own claims
	zombies []ledger.Start    // their attempts
	slots   map[store.SlotRef]bool
}

// fakeNode stands for a process.
type fakeNode struct {
	life    store.NodeEpoch
	running []ledger.Start
	known   []*store.Ticket // to be claimed
	next    []store.GateRef // to be admitted from
}

func newModel(tb testing.TB, h *Harness, seed uint64) *model {
	rng := rand.New(rand.NewPCG(seed, 0))
	m := &model{
		tb: tb, h: h, engine: h.Engine, seed: seed, start: h.Now(), book: newBook(h.Now(), h.Engine.Shards()), nonces: ledger.NewNonces(),
		steps: 20 + rng.IntN(100),
		world: &world{
			batches: seed%4 == 0, limited: rng.IntN(5) == 0, steady: rng.IntN(2) == 0, callbacks: rng.IntN(2) == 0,
			priority: rng.IntN(3) == 0, retries: rng.IntN(3) > 0, delays: rng.IntN(3) > 0, slots: map[store.SlotRef]bool{},
		},
	}
	m.crowded = rng.IntN(4) == 0
	m.rows = newMirror(m.shards)
	first := posthaste.TenantID(1 + rng.Int64N(1<<40))
	m.tenants = []posthaste.TenantID{first}
	if rng.IntN(5) == 0 {
		m.tenants = append(m.tenants, first+1)
	}
	m.queues = []string{"a", "b"}[:rng.IntN(3)]
	m.keys = []string{"k", "l", "m"}[:rng.IntN(4)]
	m.hosts = []string{"example.com", "example.org"}[:max(0, rng.IntN(5)-2)]
	for i := range 1 + rng.IntN(3) {
		m.nodes = append(m.nodes, &fakeNode{life: store.NodeEpoch{Node: string(rune('A' + i))}})
	}
	return m
}

// play plays the history without the steps to be skipped. It returns what is wrong.
func (m *model) play(skip map[int]bool) error {
	return m.try(func() { m.playAll(skip) })
}

// try calls f and returns the rule it finds broken.
func (m *model) try(f func()) (err error) {
	defer func() {
		if r := recover(); r != nil {
			text, ok := r.(broken)
			if !ok {
				panic(r)
			}
			err = errors.New(string(text))
		}
	}()
	f()
	return nil
}

func (m *model) playAll(skip map[int]bool) {
	for _, t := range m.tenants {
		m.do(&ledger.Configure{
			Tenant: t, Keys: []store.ConfigKey{{Tenant: t, Kind: store.ConfigTenant}},
			Edit: func(_ time.Time, rows []*store.ConfigRow) ([]*store.ConfigRow, error) {
				return []*store.ConfigRow{{Value: []byte("x")}}, nil
			},
		})
		m.tick(t, false)
		if m.limited {
			n := 1 + int(m.seed%3)
			m.do(m.edit(nil, store.NewGateRef(m.shards, t, store.KindTenant, ""), change{parallelism: &n}, 0))
		}
	}
	for _, n := range m.nodes {
		m.join(n)
	}
	for i := range m.steps {
		if skip[i] {
			continue
		}
		m.rng = rand.New(rand.NewPCG(m.seed, uint64(i)+1))
		m.trace = append(m.trace, fmt.Sprintf("step %d", i))
		m.step()
		m.counts()
		if i%3 == 0 {
			m.compare()
		}
	}
	m.rng = rand.New(rand.NewPCG(m.seed, 1<<32))
	m.drain()
}

// noErr ends the history at an error that should not be.
func noErr(doing string, err error) {
	if err != nil {
		breaks("%s: %v", doing, err)
	}
}

func (m *model) ctx() context.Context { return m.tb.Context() }

// do carries out operations, all at once if they are several, and has them judged. It returns them in the order in which they
// decided.
func (m *model) do(ops ...store.Op) []*traced {
	all := make([]*traced, len(ops))
	m.h.Advance(time.Microsecond)
	for i, op := range ops {
		all[i] = &traced{Op: op, clock: &m.clock}
	}
	if len(all) == 1 {
		all[0].result = m.engine.Do(m.ctx(), 0, all[0])
	} else {
		var group sync.WaitGroup
		for _, t := range all {
			group.Go(func() { t.result = m.engine.Do(m.ctx(), 0, t) })
		}
		group.Wait()
		m.h.Advance(time.Duration(len(ops)-1) * time.Microsecond)
		slices.SortFunc(all, func(a, b *traced) int { return int(a.at - b.at) })
	}
	for _, t := range all {
		if t.at == 0 {
			breaks("%s was not decided on: %v", kindOf(t.Op), t.result)
		}
		m.take(t)
	}
	return all
}

// take takes over what an operation did, and judges it.
func (m *model) take(t *traced) {
	m.trace = append(m.trace, "  "+m.names.describe(t, m.start))
	m.view(t)
	m.judge(t, m.rows)
	m.h.catchUp(t.seen.Now)
	m.rows.Apply(&t.changed, t.seen.Now)
	for _, s := range t.changed.Slots {
		m.slots[s.SlotRef] = true
	}
}

// view checks that the operation saw what those before it had left.
func (m *model) view(t *traced) {
	want := m.rows.View(t.Want(), t.seen.Now)
	if d := diff(t.seen.Versions, want.Versions); d != "" {
		breaks("versions seen %s", d)
	}
	for i, g := range want.Gates {
		if g == nil {
			want.Gates[i] = &store.Gate{GateRef: t.Want().Gates[i]}
		}
		if t.seen.Gates[i] == nil {
			t.seen.Gates[i] = &store.Gate{GateRef: t.Want().Gates[i]}
		}
	}
	same("dedup seen", t.seen.Dedup, want.Dedup)
	same("gates seen", t.seen.Gates, want.Gates)
	same("slots seen", t.seen.Slots, want.Slots)
	same("dead letters seen", t.seen.Dead, want.Dead)
	same("tickets seen", t.seen.Tickets, want.Tickets)
	same("quota seen", t.seen.Quota, want.Quota)
	same("tick seen", t.seen.Tick, want.Tick)
	for i := range want.Heads {
		same("heads seen", t.seen.Heads[i], want.Heads[i])
	}
	if t.Want().Ripe != nil {
		m.ripe(*t.Want().Ripe, t.seen.Ripe)
	}
}

// ripe checks a list of ripe tickets. There may be fewer than asked for.
func (m *model) ripe(r store.Ripe, got []*store.Ticket) {
	of, seen := map[posthaste.TenantID]int{}, map[posthaste.MessageID]bool{}
	for _, t := range got {
		of[t.Tenant]++
		want := m.rows.tickets[t.ID]
		if want == nil || seen[t.ID] || diff(t, want) != "" {
			breaks("ripe: got %+v, want %+v, seen before %t", t, want, seen[t.ID])
		}
		seen[t.ID] = true
		if want.Phase != posthaste.PhaseDelayed && want.Phase != posthaste.PhaseReady || want.Due.After(r.Before) {
			breaks("ripe: %s is not", m.names.of(t.ID))
		}
		if of[t.Tenant] > r.PerTenant {
			breaks("ripe: got %d of one tenant, want at most %d", of[t.Tenant], r.PerTenant)
		}
	}
	if len(got) > r.Limit {
		breaks("ripe: got %d, want at most %d", len(got), r.Limit)
	}
	if len(got) == 0 && len(m.rows.ripe(r)) > 0 {
		breaks("ripe: got none, want some of %d", len(m.rows.ripe(r)))
	}
}

// join begins a life of a node. Where one node alone can join, the others are made up: operations do not ask.
func (m *model) join(n *fakeNode) {
	if m.h.OneNode && n != m.nodes[0] {
		n.life.Epoch++
		return
	}
	m.h.Advance(time.Microsecond)
	l, err := m.engine.Join(m.ctx(), store.NodeInfo{Name: n.life.Node, TTL: time.Hour})
	noErr("join", err)
	if l.Epoch <= n.life.Epoch || l.Node != n.life.Node {
		breaks("join after %v: got %v", n.life, l)
	}
	n.life = l.NodeEpoch
}

// dies ends a life of a node. Its attempts may go on for a while.
func (m *model) dies(n *fakeNode) {
	m.trace = append(m.trace, fmt.Sprintf("  node %s/%d dies", n.life.Node, n.life.Epoch))
	m.lost = append(m.lost, n.life)
	m.zombies = append(m.zombies, n.running...)
	n.running, n.known, n.next = nil, nil, nil
	if n == m.nodes[0] {
		noErr("leave", m.engine.Leave(m.ctx(), store.Lease{NodeEpoch: n.life}))
	}
	m.join(n)
}

func pick[T any](rng *rand.Rand, list []T) T { return list[rng.IntN(len(list))] }

func (m *model) chance(percent int) bool { return m.rng.IntN(100) < percent }

// node returns a node with some room, which knows of restrictions at some hosts.
func (m *model) node(n *fakeNode) ledger.Node {
	rooms := []int{0, 1, 1, 2, 5, 5, 100}
	if m.crowded {
		rooms = []int{0, 0, 0, 1, 1, 2}
	}
	out := ledger.Node{NodeEpoch: n.life, Room: pick(m.rng, rooms), Shards: m.shards}
	for _, t := range m.tenants {
		for _, h := range m.hosts {
			if m.chance(40) {
				if out.Hosts == nil {
					out.Hosts = map[store.GateRef]int{}
				}
				out.Hosts[store.NewGateRef(m.shards, t, store.KindHost, h)] = m.rng.IntN(3)
			}
		}
	}
	return out
}

// action is an operation of a step, and what its node does with the result.
type action struct {
	op   store.Op
	node *fakeNode
	then func()
}

// step does something.
func (m *model) step() {
	m.h.Advance(pick(m.rng, []time.Duration{
		0, time.Microsecond, time.Microsecond, 10 * time.Millisecond, 300 * time.Millisecond, 700 * time.Millisecond, time.Second, 3 * time.Second,
	}))
	if m.chance(1) {
		m.h.Advance(11 * time.Minute)
	}
	switch r := m.rng.IntN(100); {
	case r < 2:
		m.crash()
		return
	case r < 4:
		m.dies(pick(m.rng, m.nodes))
		return
	case r < 7:
		m.pump(pick(m.rng, []int{0, 1, 2, 100}))
		return
	case r < 9:
		m.reads()
		return
	case r < 10:
		m.trim()
		return
	}
	n := 1
	if m.batches {
		n = 1 + m.rng.IntN(5)
	}
	var actions []action
	for range n {
		if a := m.action(); a.op != nil {
			actions = append(actions, a)
		}
	}
	m.act(actions...)
}

// act carries out actions and hands the results to their nodes.
func (m *model) act(actions ...action) {
	if len(actions) == 0 {
		return
	}
	of := map[store.Op]action{}
	ops := make([]store.Op, len(actions))
	for i, a := range actions {
		ops[i], of[a.op] = a.op, a
	}
	for _, t := range m.do(ops...) {
		a := of[t.Op]
		if t.result != nil {
			continue
		}
		if out, _ := outcome(t.Op); out != nil && a.node != nil {
			a.node.running = append(a.node.running, out.Started...)
			a.node.next = append(a.node.next, out.Next...)
		}
		if a.then != nil {
			a.then()
		}
	}
}

func (m *model) action() action {
	n := pick(m.rng, m.nodes)
	switch r := m.rng.IntN(100); {
	case r < 26:
		return m.accept(n)
	case r < 46:
		return m.settle(n)
	case r < 56:
		ripe := &store.Ripe{Shard: int16(m.rng.IntN(m.shards)), Before: m.h.Now(), Limit: 1 + m.rng.IntN(8), PerTenant: 1 + m.rng.IntN(8)}
		op := &ledger.Claim{Ripe: ripe, Node: m.node(n)}
		return action{op: op, node: n, then: func() { n.known = append(n.known, op.Unnamed...) }}
	case r < 64:
		if len(n.known) == 0 {
			n.known = m.ripening()
		}
		k := n.known[:m.rng.IntN(len(n.known)+1)]
		n.known = n.known[len(k):]
		if len(k) == 0 {
			return action{}
		}
		return action{op: &ledger.Claim{Known: k, Node: m.node(n)}, node: n}
	case r < 72:
		return m.admit(n)
	case r < 78:
		return m.cancel(n)
	case r < 82:
		if len(n.running) == 0 {
			return action{}
		}
		i := m.rng.IntN(len(n.running))
		s := n.running[i]
		n.running = slices.Delete(n.running, i, i+1)
		return action{op: &ledger.Release{Ticket: s.Ticket, Unsent: m.chance(50)}, node: n}
	case r < 87:
		if ref, ok := m.anyGate(); ok {
			return action{op: m.edit(n, ref, m.change(ref), m.rng.IntN(4)), node: n}
		}
	case r < 89:
		if len(m.queues) > 0 {
			return action{op: &ledger.DeleteQueue{Queue: store.NewGateRef(m.shards, pick(m.rng, m.tenants), store.KindQueue, pick(m.rng, m.queues))}}
		}
	case r < 94:
		return m.recover()
	case r < 96:
		if len(m.zombies) > 0 {
			i := m.rng.IntN(len(m.zombies))
			s := m.zombies[i]
			m.zombies = slices.Delete(m.zombies, i, i+1)
			return action{op: m.settlement(s, n), node: n}
		}
	case r < 97:
		if keys := slices.SortedFunc(maps.Keys(m.dead), store.DeadKey.Compare); len(keys) > 0 {
			return action{op: &ledger.DeleteDead{Keys: keys[:1+m.rng.IntN(len(keys))]}}
		}
	case r < 98:
		t := pick(m.rng, m.tenants)
		return action{op: &ledger.Configure{
			Tenant: t, Keys: []store.ConfigKey{{Tenant: t, Kind: store.ConfigURLGroup, Name: "g"}},
			Edit: func(_ time.Time, rows []*store.ConfigRow) ([]*store.ConfigRow, error) {
				return []*store.ConfigRow{{Value: []byte("y")}}, nil
			},
		}}
	default:
		return m.fire(n)
	}
	return action{}
}

// message returns a random message.
func (m *model) message(t posthaste.TenantID) *posthaste.Message {
	x := &posthaste.Message{
		Tenant: t, URL: pick(m.rng, []string{"https://example.com/0", "https://example.com/1", "https://example.org/0"}), Method: "POST", Body: []byte{byte(m.rng.IntN(256))},
		RetryDelay: pick(m.rng, []string{"0", "500", "2000"}), Header: posthaste.Header{"Content-Type": {"text/plain"}},
	}
	if m.retries {
		x.MaxRetries = m.rng.IntN(3)
	}
	if len(m.queues) > 0 && m.chance(60) {
		x.Queue = pick(m.rng, m.queues)
	}
	x.Flow = m.flow(50)
	if m.priority {
		x.Priority = m.rng.IntN(3)
	}
	if m.callbacks && m.chance(40) {
		none := 0
		x.Callback = &posthaste.Callback{URL: "https://example.com/callback", Retries: &none}
		if m.chance(20) {
			x.Callback.Delay = time.Second
		}
		if m.chance(20) {
			x.Callback.Flow = m.flow(50)
		}
	}
	if m.callbacks && m.chance(40) {
		x.FailureCallback = &posthaste.Callback{URL: "https://example.com/failure"}
	}
	return x
}

// flow returns random flow keys.
func (m *model) flow(percent int) []posthaste.FlowControl {
	var list []posthaste.FlowControl
	for i, k := range m.keys {
		if !m.chance(percent) {
			continue
		}
		kind := m.rng.IntN(3)
		if m.steady {
			kind = (int(m.seed) + i) % 3
		}
		fc := posthaste.FlowControl{Key: k}
		if kind != 1 {
			fc.Parallelism = 1 + m.pickOf(2, i)
		}
		if kind != 0 {
			fc.Rate, fc.Period = 1+m.pickOf(2, i+1), time.Duration(1+m.pickOf(3, i+2))*time.Second
		}
		list = append(list, fc)
	}
	return list
}

// pickOf returns a number below n: the same one for the whole history if limits are steady.
func (m *model) pickOf(n, i int) int {
	if m.steady {
		return (int(m.seed/7) + i) % n
	}
	return m.rng.IntN(n)
}

func (m *model) draft(x *posthaste.Message) *ledger.Draft {
	d := &ledger.Draft{Nonce: m.nonces.Next(), Path: ledger.PathOf(x, m.shards, m.limited)}
	d.Message = x
	return d
}

// backlog bounds the unresolved messages of a history: what goes wrong goes wrong with few.
const backlog = 30

func (m *model) accept(n *fakeNode) action {
	if len(m.rows.tickets) >= backlog && !m.crowded || len(m.rows.tickets) >= 2*backlog {
		return action{}
	}
	t := pick(m.rng, m.tenants)
	op := &ledger.Accept{Tenant: t, Shards: m.shards, Node: m.node(n), Count: m.chance(20)}
	drafts := []int{1, 1, 1, 2, 3}
	if m.crowded {
		drafts = []int{1, 3, 7}
	}
	for range pick(m.rng, drafts) {
		d := m.draft(m.message(t))
		if m.delays && m.chance(25) {
			d.Delay = pick(m.rng, []time.Duration{time.Microsecond, 500 * time.Millisecond, 2 * time.Second})
			d.Message.Delay = d.Delay
		}
		if m.chance(15) {
			d.Dedup = &store.DedupKey{Tenant: t, Key: pick(m.rng, []string{"x", "y"})}
			d.Window = 2 * time.Second
		}
		if len(m.dead) > 0 && m.chance(30) {
			for _, k := range slices.SortedFunc(maps.Keys(m.dead), store.DeadKey.Compare) {
				if k.Tenant == t {
					d.Dead, d.Dedup = k, nil
				}
			}
		}
		op.Drafts = append(op.Drafts, d)
	}
	if m.chance(10) {
		op.Version = m.version[t] - int64(m.rng.IntN(2))
	}
	if m.chance(10) {
		op.AllDead = true
	}
	if m.chance(10) {
		op.Day = store.DayOf(m.h.Now())
		op.DailyLimit = m.quota[store.QuotaKey{Tenant: t, Day: op.Day}] + int64(m.rng.IntN(3))
		op.DailyLimit = max(1, op.DailyLimit)
	}
	return action{op: op, node: n}
}

func (m *model) settle(n *fakeNode) action {
	if len(n.running) == 0 {
		return action{}
	}
	i := m.rng.IntN(len(n.running))
	s := n.running[i]
	if !m.chance(5) { // sometimes it is tried twice
		n.running = slices.Delete(n.running, i, i+1)
	}
	return action{op: m.settlement(s, n), node: n}
}

func (m *model) settlement(s ledger.Start, n *fakeNode) *ledger.Settle {
	msg := s.Message
	if msg == nil {
		var err error
		msg, err = m.engine.Message(m.ctx(), s.Ticket.Tenant, s.Ticket.ID)
		noErr("read a message", err)
		if e := m.entries[s.Ticket.ID]; msg == nil && e.trimmed {
			msg = e.msg // the claim is long lost
		} else if msg == nil {
			breaks("message %s of a claim is not stored", m.name(e))
		}
	}
	return &ledger.Settle{
		Ticket: s.Ticket, Message: msg, Result: pick(m.rng, []func() *ledger.Result{delivered, delivered, failed, failed, refused})(),
		Nonces: [3]posthaste.Nonce{m.nonces.Next(), m.nonces.Next(), m.nonces.Next()}, Shards: m.shards, Node: m.node(n), Count: m.chance(20),
	}
}

// ripening reads what is due in some shard.
func (m *model) ripening() []*store.Ticket {
	r := store.Ripe{Shard: int16(m.rng.IntN(m.shards)), Before: m.h.Now(), Limit: 10, PerTenant: 10}
	list, err := m.engine.Ripening(m.ctx(), r)
	noErr("read what ripens", err)
	m.ripe(r, bare(list...))
	if !slices.IsSortedFunc(list, func(a, b *store.Ticket) int { return a.Due.Compare(b.Due) }) {
		breaks("Ripening: the earliest is not first")
	}
	return list
}

func (m *model) admit(n *fakeNode) action {
	var ref store.GateRef
	switch {
	case len(n.next) > 0:
		ref, n.next = n.next[0], n.next[1:]
	case m.chance(50):
		awake, err := m.engine.Awake(m.ctx(), int16(m.rng.IntN(m.shards)), m.h.Now(), 3)
		noErr("read what is awake", err)
		if len(awake) == 0 {
			return action{}
		}
		ref = pick(m.rng, awake).ParkedAt
	default:
		var ok bool
		if ref, ok = m.anyGate(); !ok {
			return action{}
		}
	}
	heads, err := m.engine.Heads(m.ctx(), ref, m.rng.IntN(4))
	noErr("read heads", err)
	return action{op: &ledger.Admit{Gate: ref, Heads: heads, Node: m.node(n)}, node: n}
}

// anyGate returns a gate that messages of the history may name.
func (m *model) anyGate() (store.GateRef, bool) {
	t := pick(m.rng, m.tenants)
	var all []store.GateRef
	for _, q := range m.queues {
		all = append(all, store.NewGateRef(m.shards, t, store.KindQueue, q))
	}
	for _, k := range m.keys {
		all = append(all, store.NewGateRef(m.shards, t, store.KindFlow, k))
	}
	if m.limited {
		all = append(all, store.NewGateRef(m.shards, t, store.KindTenant, ""))
	}
	for _, h := range m.hosts {
		all = append(all, store.NewGateRef(m.shards, t, store.KindHost, h))
	}
	if len(all) == 0 {
		return store.GateRef{}, false
	}
	return pick(m.rng, all), true
}

func (m *model) change(ref store.GateRef) change {
	var c change
	n := m.rng.IntN(3)
	switch r := m.rng.IntN(10); {
	case ref.Kind == store.KindTenant:
		c.parallelism = &n
	case ref.Kind == store.KindHost:
		c.paused = new(bool)
		*c.paused = m.chance(40)
	case r < 3:
		c.paused = new(bool)
		*c.paused = true
	case r < 6:
		c.paused = new(bool)
	case r < 8 || ref.Kind == store.KindQueue:
		c.parallelism = &n
	case r < 9:
		n++
		c.rate, c.period = &n, time.Duration(1+m.rng.IntN(2))*time.Second
		c.pin, c.unpin = m.chance(30), m.chance(30)
		c.reset = m.chance(30)
	default:
		c.pin = m.chance(50)
		c.unpin = !c.pin
	}
	return c
}

func (m *model) edit(n *fakeNode, ref store.GateRef, c change, heads int) *edited {
	e := &edited{EditGate: &ledger.EditGate{Gate: ref}, change: c}
	e.Edit = e.change.gate
	if n != nil {
		e.Node = m.node(n)
	}
	var err error
	e.Heads, err = m.engine.Heads(m.ctx(), ref, heads)
	noErr("read heads", err)
	return e
}

func (m *model) cancel(n *fakeNode) action {
	op := &ledger.Cancel{Node: m.node(n)}
	var stale []posthaste.MessageID
	for _, e := range m.order {
		if e.final == "" && m.stale(e) {
			stale = append(stale, e.msg.ID)
		}
	}
	var ids []posthaste.MessageID
	switch {
	case len(stale) > 0 && m.chance(70):
		op.OnlyGen = true
		ids = stale
	case len(m.order) > 0 && m.chance(15) || m.crowded && m.chance(20):
		for _, e := range m.order {
			if m.chance(80) {
				ids = append(ids, e.msg.ID)
			}
		}
	case len(m.order) > 0:
		for range 1 + m.rng.IntN(3) {
			ids = append(ids, pick(m.rng, m.order).msg.ID)
		}
	}
	if len(ids) == 0 {
		return action{}
	}
	list, err := m.engine.Tickets(m.ctx(), ids)
	noErr("read tickets", err)
	for _, t := range list {
		if t != nil {
			op.Known = append(op.Known, t)
		}
	}
	if len(op.Known) == 0 {
		return action{}
	}
	return action{op: op, node: n}
}

// recover takes back some claims of a life that is over.
func (m *model) recover() action {
	if len(m.lost) == 0 {
		return action{}
	}
	i := m.rng.IntN(len(m.lost))
	life := m.lost[i]
	list, err := m.engine.Claims(m.ctx(), life, "", 1+m.rng.IntN(5))
	noErr("read claims", err)
	if len(list) == 0 {
		m.lost = slices.Delete(m.lost, i, i+1)
		noErr("forget", m.engine.Forget(m.ctx(), life))
		return action{}
	}
	return action{op: &ledger.Recover{From: life, Known: list}}
}

// fire carries out a tick of a schedule, maybe one that was carried out already.
func (m *model) fire(n *fakeNode) action {
	t := pick(m.rng, m.tenants)
	ref := store.TickRef{Tenant: t, Schedule: "s"}
	x := m.message(t)
	x.Schedule = ref.Schedule
	now := m.h.Now()
	return action{op: &ledger.Accept{
		Tenant: t, Shards: m.shards, Node: m.node(n), Drafts: []*ledger.Draft{m.draft(x)},
		Firing: &ledger.Firing{Ref: ref, Rev: m.ticks[ref] - int64(m.rng.IntN(2)), At: now, Next: now.Add(time.Hour)},
	}, node: n}
}

// tick makes the schedule of a tenant, or removes it.
func (m *model) tick(t posthaste.TenantID, gone bool) {
	m.do(&ledger.Configure{
		Tenant: t, TickRef: &store.TickRef{Tenant: t, Schedule: "s"}, TickGone: gone,
		Edit: func(time.Time, []*store.ConfigRow) ([]*store.ConfigRow, error) { return nil, nil },
		Tick: func(now time.Time, old *store.Tick) *store.Tick {
			if old == nil {
				old = &store.Tick{}
			}
			old.Next = now.Add(time.Hour)
			return old
		},
	})
}

// crash drops the engine, and with it all nodes. Sometimes it is busy at that moment.
func (m *model) crash() {
	if m.h.CrashIn == nil || m.chance(30) {
		m.trace = append(m.trace, "  crash")
		m.h.Engine = m.h.Crash(m.tb)
	} else if !m.crashIn() {
		return
	}
	m.engine = m.h.Engine
	m.compare()
	for _, n := range m.nodes {
		m.dies(n)
	}
}

// crashIn crashes the engine while it carries out an operation, which must be stored wholly or not at all. It reports whether
// there was anything to do.
func (m *model) crashIn() bool {
	n := pick(m.rng, m.nodes)
	a := []func(*fakeNode) action{m.accept, m.accept, m.settle, m.cancel}[m.rng.IntN(4)](n)
	if a.op == nil {
		return false
	}
	m.h.Advance(time.Microsecond)
	t := &traced{Op: a.op, clock: &m.clock}
	m.engine = m.h.CrashIn(m.tb, t)
	m.h.Engine = m.engine
	if t.at == 0 {
		breaks("%s was not decided on", kindOf(t.Op))
	}
	if t.result = t.err; len(t.changed.Put)+len(t.changed.Drop) == 0 && t.err == nil {
		return true // there is nothing to see it by, and nothing it did
	}
	if m.try(m.compare) == nil {
		m.trace = append(m.trace, "  crash before the commit of:", "  "+m.names.describe(t, m.start))
		return true
	}
	m.trace = append(m.trace, "  crash after the commit of:")
	m.take(t)
	if out, _ := outcome(t.Op); out != nil {
		n.running = append(n.running, out.Started...)
	}
	return true
}

// trim carries out retention, and checks that nothing is gone that is still needed.
func (m *model) trim() {
	now := m.h.Now()
	p := store.TrimParams{Now: now, Keep: store.Keep{Messages: now.Add(-3 * time.Second)}, Limit: 1 + m.rng.IntN(50)}
	m.trace = append(m.trace, fmt.Sprintf("  trim what ended before %v", p.Messages.Sub(m.start)))
	for n := 0; ; n++ {
		more, err := m.engine.Trim(m.ctx(), p)
		noErr("trim", err)
		if !more {
			break
		}
		if n == 10000 {
			breaks("retention does not come to an end")
		}
	}
	needed := map[*entry]bool{}
	for _, e := range m.dead {
		needed[e] = true
	}
	for _, e := range m.order {
		msg, err := m.engine.Message(m.ctx(), e.msg.Tenant, e.msg.ID)
		noErr("read a message", err)
		if msg != nil || m.rows.messages[e.msg.ID] == nil {
			continue
		}
		if end := m.rows.ended[e.msg.ID]; e.final == "" || needed[e] || !end.Before(p.Messages) {
			breaks("retention removed %s: final state %q, ended %v, dead letter %t", m.name(e), e.final, end.Sub(m.start), needed[e])
		}
		e.trimmed = true
		delete(m.rows.messages, e.msg.ID)
		delete(m.rows.attempts, e.msg.ID)
		delete(m.rows.marks, e.msg.ID)
	}
	for ref, g := range m.rows.gates {
		stored, err := m.engine.Gate(m.ctx(), ref)
		noErr("read a gate", err)
		if stored != nil {
			continue
		}
		if l := m.limit(ref); ref.Kind == store.KindQueue || l.paused || l.pinP || l.pinR || g.Live > 0 || g.Waiting > 0 ||
			l.used > 0 && now.Before(l.window.Add(l.period)) {
			breaks("retention removed %s, which is in use: %+v", gateName(ref), *g)
		}
		delete(m.rows.gates, ref)
		delete(m.limits, ref)
	}
	for key, d := range m.rows.dedup {
		stored, err := m.engine.Dedup(m.ctx(), key)
		noErr("read a deduplication entry", err)
		if stored == nil {
			if d.Expires.After(now) {
				breaks("retention removed the key %s, which holds until %v", key.Key, d.Expires.Sub(m.start))
			}
			delete(m.rows.dedup, key)
		}
	}
}

// pump lets one node carry on everything that is due, with room for so many attempts, and checks that it stopped for a reason.
func (m *model) pump(room int) {
	n := pick(m.rng, m.nodes)
	left := room
	p := pump{engine: m.engine, now: m.h.Now, do: func(op store.Op) error { return m.do(op)[0].result }}
	err := p.run(m.ctx(), func() ledger.Node { return ledger.Node{NodeEpoch: n.life, Room: left} }, func(s []ledger.Start) {
		left -= len(s)
		n.running = append(n.running, s...)
	})
	noErr("pump", err)
	if left <= 0 {
		return
	}
	now := m.h.Now()
	for _, t := range m.rows.tickets {
		switch t.Phase {
		case posthaste.PhaseDelayed, posthaste.PhaseReady:
			if !t.Due.After(now) {
				breaks("a node with room left behind %s", m.names.ticket(t, m.start))
			}
		case posthaste.PhaseWaiting:
			if first := m.rows.heads(t.ParkedAt, 1)[0]; m.hasRoom(t, now) && !first.Due.After(now) {
				breaks("a node with room left behind %s, for which its gate has room", m.names.ticket(t, m.start))
			}
		case posthaste.PhaseNone, posthaste.PhaseClaimed:
		}
	}
}

// hasRoom reports whether the gate at which a ticket waits has room for it.
func (m *model) hasRoom(t *store.Ticket, now time.Time) bool {
	ok, _ := m.roomAt(t, now)
	return ok
}

// roomAt reports whether the gate at which t waits has room for it, and if only its window is shut, until when.
func (m *model) roomAt(t *store.Ticket, now time.Time) (ok bool, until time.Time) {
	l := m.limit(t.ParkedAt)
	if l.paused && t.ParkedAt.Kind == store.KindHost {
		if now.Before(l.window) {
			return false, l.window
		}
		return true, time.Time{}
	}
	if l.paused {
		return false, time.Time{}
	}
	if t.ParkedAt.Kind == store.KindQueue {
		return t.Rank == 0 || m.openSlots(t.ParkedAt) < max(1, l.parallelism), time.Time{}
	}
	if l.parallelism > 0 && m.inFlight(t.ParkedAt) >= l.parallelism {
		return false, time.Time{}
	}
	if l.rate > 0 && l.period > 0 && l.used >= l.rate {
		if end := l.window.Add(l.period); now.Before(end) {
			return false, end
		}
	}
	return true, time.Time{}
}

// counts compares the rows with the book: each message in one place, counters with counts, and the marks at gates.
func (m *model) counts() {
	now := m.last
	open := 0
	for _, e := range m.order {
		t := m.rows.tickets[e.msg.ID]
		if (t == nil) != (e.final != "") {
			breaks("%s: got ticket %v, final state %q", m.name(e), t, e.final)
		}
		if t == nil {
			continue
		}
		open++
		if (t.Phase == posthaste.PhaseClaimed) != e.running || e.running && (t.Node != e.node || t.Fence != e.fence || t.AtOnce != e.atOnce) {
			breaks("%s: got %+v; want running %t by %v, fence %d", m.name(e), t, e.running, e.node, e.fence)
		}
		if t.Attempt != e.attempt || t.Cancel != e.cancel || t.Gen != e.gen || (t.Slot.Source == e.msg.ID) != e.slot {
			breaks("%s: got %+v; want attempt %d, cancel %t, gen %d, slot %t", m.name(e), t, e.attempt, e.cancel, e.gen, e.slot)
		}
		if (t.Phase == posthaste.PhaseDelayed || t.Phase == posthaste.PhaseReady) && !t.Due.Equal(e.due) {
			breaks("%s: got due %v, want %v", m.name(e), t.Due, e.due)
		}
	}
	if open != len(m.rows.tickets) {
		breaks("got %d tickets, want %d", len(m.rows.tickets), open)
	}
	for ref, g := range m.rows.gates {
		l := m.limit(ref)
		heads := m.rows.heads(ref, 1<<30)
		inUse, live := 0, int64(0)
		for _, e := range m.order {
			if e.final == "" && (slices.Contains(e.flows, ref) || e.queue == ref && !m.stale(e)) {
				live++
			}
		}
		if ref.Kind == store.KindQueue {
			inUse = m.openSlots(ref)
		} else {
			inUse = m.inFlight(ref)
		}
		if g.Waiting != int64(len(heads)) || g.InUse != inUse || g.Live != live || g.Gen != l.gen {
			breaks("%s: got waiting %d, in use %d, live %d, gen %d; want %d, %d, %d, %d", gateName(ref), g.Waiting, g.InUse, g.Live, g.Gen, len(heads), inUse, live, l.gen)
		}
		if g.Paused != l.paused || g.Parallelism != l.parallelism || g.Rate != l.rate || g.Period != l.period || g.PinnedParallelism != l.pinP || g.PinnedRate != l.pinR {
			breaks("%s: got limits %+v, want %+v", gateName(ref), g.State, *l)
		}
		if ref.Kind == store.KindHost && l.paused && !g.WindowStart.Equal(l.window) {
			breaks("%s: got the next probe at %v, want %v", gateName(ref), g.WindowStart, l.window)
		}
		m.marksAt(ref, heads, now)
	}
	for _, e := range m.order {
		if e.queue.Zero() {
			continue
		}
		s := m.rows.slots[store.SlotRef{Source: e.msg.ID, Queue: e.queue, Gen: e.gen}]
		switch want := m.open(e); {
		case s == nil && want > 0 && !m.stale(e), s != nil && s.Open != want && !m.stale(e):
			breaks("slot of %s: got %+v, want open %d", m.name(e), s, want)
		case s != nil && want == 0:
			breaks("slot of %s: got open %d, want none", m.name(e), s.Open)
		}
	}
}

// marksAt checks that the first one at a gate, and only it, carries the moment at which the gate is to be looked at.
func (m *model) marksAt(ref store.GateRef, heads []*store.Ticket, now time.Time) {
	var line []*entry
	for i, t := range heads {
		if i > 0 && !t.Due.IsZero() {
			breaks("%s: %s is number %d and carries a mark", gateName(ref), m.names.ticket(t, m.start), i+1)
		}
		if e := m.entries[t.ID]; ref.Kind == store.KindQueue && t.Rank > 0 && !m.stale(e) {
			line = append(line, e)
		}
	}
	i := 0
	for _, e := range m.lines[ref] {
		if i < len(line) && line[i] == e {
			i++
		}
	}
	if i < len(line) {
		breaks("%s: the wait list is not in the order of the line, at %s", gateName(ref), m.name(line[i]))
	}
	if len(heads) == 0 {
		return
	}
	h := heads[0]
	if m.stale(m.entries[h.ID]) {
		return // it is to be resolved; whether it is marked depends on who knows that already
	}
	slack := now
	if ref.Kind == store.KindHost {
		slack = now.Add(time.Second) // the node that parked it there may have as many connections as it may
	}
	switch ok, until := m.roomAt(h, now); {
	case ok && (h.Due.IsZero() || h.Due.After(slack)):
		breaks("%s has room at %v, and its first does not say so: %s", gateName(ref), now.Sub(m.start), m.names.ticket(h, m.start))
	case !ok && !until.IsZero() && !h.Due.Equal(until):
		breaks("%s has room at %v, and its first does not say so: %s", gateName(ref), until.Sub(m.start), m.names.ticket(h, m.start))
	case !ok && until.IsZero() && !h.Due.IsZero():
		breaks("%s has no room, and its first carries a mark: %s", gateName(ref), m.names.ticket(h, m.start))
	}
}

// same compares what the engine returns with what the mirror does.
func same[T any](what string, got, want T, errs ...error) {
	for _, err := range errs {
		noErr(what, err)
	}
	if d := diff(got, want); d != "" {
		breaks("%s %s", what, d)
	}
}

// compare reads the rows of the history from the engine and compares them with what operations wrote.
func (m *model) compare() {
	ctx := m.ctx()
	for _, t := range m.tenants {
		got, err := m.engine.TicketList(ctx, t, "", 1000)
		want, _ := m.rows.TicketList(ctx, t, "", 1000)
		same("TicketList", bare(got...), want, err)
		for _, kind := range []store.Kind{store.KindQueue, store.KindFlow, store.KindTenant, store.KindHost} {
			got, err := m.engine.GateList(ctx, t, kind, "", 1000)
			want, _ := m.rows.GateList(ctx, t, kind, "", 1000)
			same("GateList", got, want, err)
		}
	}
	for ref, g := range m.rows.gates {
		if g.Waiting > 0 {
			got, err := m.engine.Heads(ctx, ref, 1000)
			same("Heads", bare(got...), m.rows.heads(ref, 1000), err)
		}
	}
	for ref := range m.slots {
		got, err := m.engine.Slot(ctx, ref)
		same("Slot", got, m.rows.slots[ref], err)
		if got == nil {
			delete(m.slots, ref)
		}
	}
	got, err := m.engine.NextDue(ctx)
	want, _ := m.rows.NextDue(ctx)
	for i := range got {
		got[i].Tick = time.Time{}
	}
	for i := range want {
		want[i].Tick = time.Time{}
	}
	same("NextDue", got, want, err)
}

// reads compares some of the other readings, too.
func (m *model) reads() {
	ctx := m.ctx()
	m.compare()
	t := pick(m.rng, m.tenants)
	if len(m.order) > 0 {
		id := pick(m.rng, m.order).msg.ID
		msg, err := m.engine.Message(ctx, t, id)
		wantMsg, _ := m.rows.Message(ctx, t, id)
		same("Message", msg, wantMsg, err)
		ticket, err := m.engine.Ticket(ctx, id)
		same("Ticket", bare(ticket)[0], m.rows.tickets[id], err)
		attempts, err := m.engine.Attempts(ctx, t, id)
		wantAttempts, _ := m.rows.Attempts(ctx, t, id)
		same("Attempts", attempts, wantAttempts, err)
		marks, err := m.engine.Marks(ctx, t, id)
		wantMarks, _ := m.rows.Marks(ctx, t, id)
		same("Marks", marks, wantMarks, err)
	}
	p := store.Page{Limit: 1 + m.rng.IntN(7), Desc: m.chance(50)}
	for s := store.StreamCreated; s <= store.StreamMarks; s++ {
		from := m.position(s)
		for range 1000 {
			got, err := m.engine.LogRows(ctx, t, s, from, p)
			want, _ := m.rows.LogRows(ctx, t, s, from, p)
			same(fmt.Sprintf("LogRows of stream %d from %v, %+v", s, from, p), got, want, err)
			if len(got) < p.Limit {
				break
			}
			from = got[len(got)-1].LogPos
		}
	}
	var last posthaste.DeadLetterID
	for range 1000 {
		got, err := m.engine.DeadLetters(ctx, t, last, p)
		want, _ := m.rows.DeadLetters(ctx, t, last, p)
		same("DeadLetters", got, want, err)
		if len(got) < p.Limit {
			break
		}
		last = got[len(got)-1].ID
	}
	var from posthaste.MessageID
	for range 1000 {
		got, err := m.engine.MessageList(ctx, t, from, p)
		want, _ := m.rows.MessageList(ctx, t, from, p)
		same("MessageList", got, want, err)
		if len(got) < p.Limit {
			break
		}
		from = got[len(got)-1].ID
	}
	for _, n := range m.nodes {
		got, err := m.engine.Claims(ctx, n.life, "", p.Limit)
		want, _ := m.rows.Claims(ctx, n.life, "", p.Limit)
		same("Claims", bare(got...), want, err)
	}
	day := store.QuotaKey{Tenant: t, Day: store.DayOf(m.h.Now())}
	got, err := m.engine.Quota(ctx, day)
	same("Quota", got, m.quota[day], err)
	tick, err := m.engine.Tick(ctx, store.TickRef{Tenant: t, Schedule: "s"})
	same("Tick", tick, m.rows.ticks[store.TickRef{Tenant: t, Schedule: "s"}], err)
}

// position returns a position in a stream: before all rows, or about a row.
func (m *model) position(s store.LogStream) store.LogPos {
	rows, _ := m.rows.LogRows(m.ctx(), pick(m.rng, m.tenants), s, store.LogPos{}, store.Page{Limit: 1000})
	if len(rows) == 0 || m.chance(50) {
		return store.LogPos{}
	}
	p := pick(m.rng, rows).LogPos
	if m.chance(30) {
		p.At = p.At.Add(time.Microsecond)
	}
	if id := pick(m.rng, rows).ID; m.chance(30) {
		// Nothing happens to a message before it is accepted.
		if at, _, _ := id.Parts(); !at.After(p.At) {
			p.ID = id
		}
	}
	if m.chance(10) {
		p.ID = ""
	}
	if m.chance(30) {
		p.N = pick(m.rng, []int{-1, 0, 1, 1 << 30})
	}
	return p
}

// drain brings a history to its end: whatever is paused goes on, whoever died is recovered, every attempt succeeds. Everything
// that was accepted must be resolved then, and nothing may be left of it.
func (m *model) drain() {
	m.trace = append(m.trace, "drain")
	for _, ref := range slices.SortedFunc(maps.Keys(m.limits), store.GateRef.Compare) {
		if m.limits[ref].paused {
			m.act(action{op: m.edit(m.nodes[0], ref, change{paused: new(bool)}, 3), node: m.nodes[0]})
		}
	}
	for _, life := range m.lost {
		for {
			list, err := m.engine.Claims(m.ctx(), life, "", 3)
			noErr("read claims", err)
			if len(list) == 0 {
				break
			}
			m.do(&ledger.Recover{From: life, Known: list})
		}
	}
	for n := 0; len(m.rows.tickets) > 0; n++ {
		if n == pumpRounds {
			breaks("%d messages are still unresolved after %d rounds", len(m.rows.tickets), n)
		}
		m.pump(manyRoom)
		for _, node := range m.nodes {
			running := node.running
			node.running = nil
			for _, s := range running {
				if _, ok := (&judgment{book: m.book}).current(s.Ticket); !ok {
					continue
				}
				op := m.settlement(s, node)
				op.Result, op.Node = delivered(), ledger.Node{NodeEpoch: node.life, Room: m.rng.IntN(10)}
				m.act(action{op: op, node: node})
			}
		}
		m.counts()
		due, err := m.engine.NextDue(m.ctx())
		noErr("read what is due", err)
		var next time.Time
		for _, d := range due {
			earlier(&next, d.Tickets)
			earlier(&next, d.Waiting)
		}
		if now := m.h.Now(); !next.IsZero() && next.After(now) && !slices.ContainsFunc(m.nodes, func(n *fakeNode) bool { return len(n.running) > 0 }) {
			m.h.Advance(next.Sub(now))
		}
	}
	for _, t := range m.tenants {
		m.tick(t, true)
	}
	noErr("leave", m.engine.Leave(m.ctx(), store.Lease{NodeEpoch: m.nodes[0].life}))
	m.counts()
	m.compare()
	for ref, g := range m.rows.gates {
		if g.InUse != 0 || g.Waiting != 0 || g.Live != 0 {
			breaks("%s: nothing is left of the history, got in use %d, waiting %d, live %d", gateName(ref), g.InUse, g.Waiting, g.Live)
		}
	}
	if len(m.rows.slots) > 0 {
		breaks("got %d slots left, want none", len(m.rows.slots))
	}
	for _, e := range m.order {
		if !e.trimmed {
			m.history(e)
		}
	}
	m.reads()
}

// history checks that the log of a resolved message is a legal one.
func (m *model) history(e *entry) {
	attempts, err := m.engine.Attempts(m.ctx(), e.msg.Tenant, e.msg.ID)
	noErr("read attempts", err)
	marks, err := m.engine.Marks(m.ctx(), e.msg.Tenant, e.msg.ID)
	noErr("read marks", err)
	at, final := e.msg.CreatedAt, posthaste.LogState("")
	for i, a := range attempts {
		if a.Number != i || a.StartedAt.Before(at) || a.EndedAt.Before(a.StartedAt) || final != "" {
			breaks("%s: attempt %d is %+v", m.name(e), i, a)
		}
		if a.AtOnce && (i > 0 || !a.StartedAt.Equal(at)) {
			breaks("%s: attempt %d began at %v, with the acceptance at %v", m.name(e), i, a.StartedAt, at)
		}
		at = a.EndedAt
		if a.State != posthaste.StateRetry {
			final = a.State
		} else if a.NextAt.Before(at) {
			breaks("%s: the retry of attempt %d is due %v, before its end", m.name(e), i, a.NextAt)
		}
	}
	if e.msg.ClaimedAtOnce != (len(attempts) > 0 && attempts[0].AtOnce) {
		breaks("%s: claimed at once %t, attempts %+v", m.name(e), e.msg.ClaimedAtOnce, attempts)
	}
	requested := false
	for _, k := range marks {
		switch {
		case k.State == posthaste.StateCancelRequested && !requested:
			requested = true
		case k.State == posthaste.StateCanceled && requested && final == "" && !k.At.Before(at):
			final = k.State
		default:
			breaks("%s: marks %+v after %v", m.name(e), marks, final)
		}
	}
	if final != e.final || final == posthaste.StateCanceled && !requested {
		breaks("%s: got final state %q, cancel requested %t; want %q", m.name(e), final, requested, e.final)
	}
}
