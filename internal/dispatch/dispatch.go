// Package dispatch makes the attempts: it claims what is due, hands it to an attempter, settles what came of it, and takes
// over the claims of nodes that are gone.
//
// What was accepted already claimed comes straight from the accepting operation ([Dispatcher.Begin]), with no further read.
// The rest is found by the store's due index: look-ahead reads what comes next and arms a timer, but never claims. A claim
// happens when the message is due, so a confirmed cancel, a pause and a rate window hold exactly.
//
// Guarantees:
//
//  1. No more attempts run than Config.MaxInFlight, and no more messages than that and the look-ahead window are in memory.
//  2. Every attempt is settled or released, or its claim is found by the next life of some node.
//  3. After Run's context ends nothing is claimed. Attempts get Config.Grace to end; then they are cut off and released.
package dispatch

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
)

// attempter makes one HTTP attempt. It returns nil if ctx was canceled before there was an answer.
type attempter interface {
	Attempt(ctx context.Context, m *posthaste.Message, retried int) *ledger.Result
}

// timekeeper is the clock that due moments refer to.
type timekeeper interface {
	Now() time.Time
	Wait(ctx context.Context, t time.Time) error
}

// Config sets a Dispatcher up.
type Config struct {
	Node        store.NodeInfo
	MaxInFlight int           // attempts at a time; 0: 2048
	Grace       time.Duration // for running attempts at a stop; 0: none
	LookAhead   time.Duration // how far due messages are read in advance; 0: 500 ms
	Window      int           // and how many at most; 0: 1024
	Poll        time.Duration // the longest wait between two looks into the store; 0: 1 s
	PerTenant   int           // due messages of one tenant in one claim; 0: 64
	PerHost     int           // attempts of one tenant to one host at a time; 0: half of MaxInFlight
	BreakHosts  bool          // block hosts that fail to answer, and probe them
	Prepare     func(*ledger.Settle)
	// Observe is told of every recorded attempt. It must be quick. nil: nobody is.
	Observe func(Observation)
	// Hook is called at named points by crash tests; nil otherwise.
	Hook   func(point string)
	Logger *slog.Logger
}

// Observation is what a metric needs to know of an attempt.
type Observation struct {
	Message  *posthaste.Message
	Attempt  *posthaste.Attempt
	Lateness time.Duration // of the start after the moment it was due; for first attempts of messages only
}

// Dispatcher makes attempts. Create it with [New].
type Dispatcher struct {
	cfg    Config
	engine store.Engine
	send   attempter
	clock  timekeeper
	nonces *ledger.Nonces
	log    *slog.Logger

	life atomic.Pointer[life] // nil while the node has no lease

	free    atomic.Int64  // attempts that may start yet; never negative
	claims  atomic.Uint64 // raised whenever room was set aside
	starved atomic.Bool   // the loop waits for room
	crowded atomic.Bool   // the loop found more work than room
	wanted  atomic.Int64  // places that attempts are to give back for the loop, rather than start what follows on them
	room    chan struct{} // one token: there is room again

	stop atomic.Bool // nothing more is claimed
	wg   sync.WaitGroup
	work chan ledger.Start // to a worker that waits
	idle atomic.Int64      // workers that wait
	over chan struct{}     // closed when none is needed any more

	mu    sync.Mutex
	tries map[store.GateRef]struct{} // gates to admit from
	tried chan struct{}              // one token: tries is not empty

	doubts doubts
	hosts  *hosts
	ahead  ahead // owned by the loop
	turn   int   // of the loop's looks
}

// life is the time between joining the store and losing the lease, or the stop.
type life struct {
	node  store.NodeEpoch
	lease store.Lease // keepLease's own
	// sure is until when nobody else can take its claims over, and some time more.
	sure atomic.Pointer[time.Time]
	work context.Context // ends when the attempts of this life are to be cut off
	cut  context.CancelCauseFunc
}

// errShutdown is why attempts are cut off at a stop.
var errShutdown = errors.New("the server is stopping")

// errLease is why attempts are cut off when the node could not renew its lease.
var errLease = errors.New("the node could not renew its lease")

// New returns a dispatcher. Nothing runs before [Dispatcher.Join] and [Dispatcher.Run].
func New(engine store.Engine, send attempter, clock timekeeper, nonces *ledger.Nonces, cfg Config) *Dispatcher {
	if cfg.MaxInFlight <= 0 {
		cfg.MaxInFlight = 2048
	}
	if cfg.PerHost <= 0 {
		cfg.PerHost = max(1, cfg.MaxInFlight/2)
	}
	if cfg.LookAhead <= 0 {
		cfg.LookAhead = 500 * time.Millisecond
	}
	if cfg.Window <= 0 {
		cfg.Window = 1024
	}
	if cfg.Poll <= 0 {
		cfg.Poll = time.Second
	}
	if cfg.PerTenant <= 0 {
		cfg.PerTenant = 64
	}
	if cfg.Node.TTL <= 0 {
		cfg.Node.TTL = 15 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Dispatcher{
		cfg: cfg, engine: engine, send: send, clock: clock, nonces: nonces, log: cfg.Logger,
		work: make(chan ledger.Start), over: make(chan struct{}),
		room: make(chan struct{}, 1), tried: make(chan struct{}, 1), tries: map[store.GateRef]struct{}{},
	}
	d.doubts.running = map[posthaste.MessageID]struct{}{}
	d.hosts = newHosts(engine.Shards(), cfg.PerHost, cfg.BreakHosts)
	d.free.Store(int64(cfg.MaxInFlight))
	return d
}

// Join takes the node's lease. Nothing can be claimed before.
func (d *Dispatcher) Join(ctx context.Context) error {
	asked := time.Now()
	lease, err := d.engine.Join(ctx, d.cfg.Node)
	if err != nil {
		return err
	}
	l := &life{node: lease.NodeEpoch, lease: lease}
	d.renewed(l, asked)
	l.work, l.cut = context.WithCancelCause(context.Background())
	d.life.Store(l)
	d.wakeLoop()
	return nil
}

// InFlight returns how many attempts run or are about to.
func (d *Dispatcher) InFlight() int { return d.cfg.MaxInFlight - int(d.free.Load()) }

// Activity returns how many attempts run or are about to, and a number that was raised after each time room was set aside for
// some, before they were claimed.
func (d *Dispatcher) Activity() (inFlight int, claims uint64) {
	claims = d.claims.Load()
	return d.InFlight(), claims
}

// Reserve sets room aside for up to n attempts that an operation may claim. The caller hands it back with [Dispatcher.Begin].
func (d *Dispatcher) Reserve(n int) ledger.Node { return d.reserve(n, 0) }

// headroom is the room that is left to new messages: what waits already does not take it. So a message that needs not wait
// starts at once also while a backlog drains.
func (d *Dispatcher) headroom() int64 { return int64(d.cfg.MaxInFlight / 8) }

// spare is the room for what waits.
func (d *Dispatcher) spare() int64 { return d.free.Load() - d.headroom() }

// reserve sets room aside for up to n attempts, as far as more than so much is free.
func (d *Dispatcher) reserve(n int, leave int64) ledger.Node {
	l := d.life.Load()
	if l == nil || d.stop.Load() || l.lapsed() {
		return ledger.Node{}
	}
	node := d.node(l)
	for {
		free := d.free.Load()
		take := min(int64(n), free-leave)
		if take <= 0 {
			return node
		}
		if d.free.CompareAndSwap(free, free-take) {
			d.claims.Add(1)
			node.Room = int(take)
			return node
		}
	}
}

// node describes the node to an operation, without room yet.
func (d *Dispatcher) node(l *life) ledger.Node {
	return ledger.Node{NodeEpoch: l.node, Hosts: d.hosts.snapshot(), Shards: d.hosts.shards}
}

// of returns the life in which a ticket was claimed, or one that is over if that is not the present one.
func (d *Dispatcher) of(t *store.Ticket) *life {
	if l := d.life.Load(); l != nil && l.node == t.Node {
		return l
	}
	return overLife
}

// renewed notes that the lease was asked for at a moment and granted.
func (d *Dispatcher) renewed(l *life, asked time.Time) {
	sure := asked.Add(d.cfg.Node.TTL * 2 / 3)
	l.sure.Store(&sure)
}

// lapsed reports whether the lease was not renewed in time, as far as the node can tell without asking. A process that was stopped
// and goes on finds out by this before it sends anything.
func (l *life) lapsed() bool {
	sure := l.sure.Load()
	return sure == nil || time.Now().After(*sure)
}

// overLife stands for every life that is over.
var overLife = func() *life {
	l := &life{}
	l.work, l.cut = context.WithCancelCause(context.Background())
	l.cut(errLease)
	return l
}()

// giveBack returns room.
func (d *Dispatcher) giveBack(n int) {
	if n <= 0 {
		return
	}
	if d.free.Add(int64(n)); d.starved.Load() && d.spare() > 0 && d.starved.CompareAndSwap(true, false) {
		d.wakeLoop()
	}
}

// wakeLoop has the loop look again, because there is room that it did not have.
func (d *Dispatcher) wakeLoop() {
	select {
	case d.room <- struct{}{}:
	default:
	}
}

// Begin starts what an operation claimed and gives back what it did not use of its room. out is nil if the operation failed.
func (d *Dispatcher) Begin(node ledger.Node, out *ledger.Outcome) {
	if out == nil {
		d.doubts.raise()
		d.giveBack(node.Room)
		return
	}
	d.giveBack(node.Room - len(out.Started))
	d.hosts.full(node)
	for _, s := range out.Started {
		d.hosts.begin(s.Ticket)
		d.start(s)
	}
	d.try(out.Next)
	if len(out.Started) == 1 && d.InFlight() == 1 {
		// The attempt is to run on this processor now, and not after its caller has written an answer or when another processor
		// has woken up, which takes longer than to send the request.
		runtime.Gosched()
	}
}

// idleWorkers bounds the goroutines that wait for an attempt to make. A new one would have to grow its stack for each.
const idleWorkers = 512

// start has an attempt made by a goroutine of its own.
func (d *Dispatcher) start(s ledger.Start) {
	d.wg.Add(1)
	select {
	case d.work <- s:
	default:
		go d.worker(s)
	}
}

// worker makes attempts until enough others wait for some or the dispatcher stops.
func (d *Dispatcher) worker(s ledger.Start) {
	for {
		d.run(s)
		if d.idle.Add(1) > idleWorkers {
			d.idle.Add(-1)
			return
		}
		select {
		case s = <-d.work:
			d.idle.Add(-1)
		case <-d.over:
			return
		}
	}
}

// run makes an attempt and, one after another, those that its settlement starts.
func (d *Dispatcher) run(s ledger.Start) {
	defer d.wg.Done()
	for {
		out, room, yielded := d.attempt(s)
		if out == nil || len(out.Started) == 0 {
			d.giveBack(room)
			if yielded {
				d.wakeLoop() // also to what could have followed here
			}
			if out != nil {
				d.try(out.Next)
			}
			return
		}
		d.giveBack(room - len(out.Started))
		for _, next := range out.Started {
			d.hosts.begin(next.Ticket)
		}
		for _, next := range out.Started[1:] {
			d.start(next)
		}
		d.try(out.Next)
		s = out.Started[0]
	}
}

// yield reports whether an attempt is to give its place back. Attempts that end start what follows at their own gates; if none
// gave its place back, a full node would do nothing else as long as there is more of the same.
func (d *Dispatcher) yield() bool {
	if d.spare() < 0 {
		return true
	}
	for {
		n := d.wanted.Load()
		if n <= 0 {
			return false
		}
		if d.wanted.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

// attempt makes one attempt and settles it. It returns what that started and the room it was given for it; out is nil if
// nothing was recorded. If it yielded, its place goes to somebody else.
func (d *Dispatcher) attempt(s ledger.Start) (out *ledger.Outcome, room int, yielded bool) {
	room = 1 // this attempt's own place
	t := s.Ticket
	m := s.Message
	l := d.of(t)
	d.doubts.begin(t.ID)
	defer d.doubts.end(t.ID)
	if m == nil {
		if m = d.read(l.work, t); m == nil {
			d.attemptEnded(t, "", "")
			d.release(t, true)
			return nil, room, false
		}
	}
	d.hook("mid-attempt")
	if l.lapsed() {
		d.attemptEnded(t, "", "")
		d.release(t, true) // nothing comes of it if others have the claim by now
		return nil, room, false
	}
	res := d.send.Attempt(l.work, m, t.Attempt)
	if res == nil {
		d.attemptEnded(t, "", "")
		d.release(t, false)
		return nil, room, yielded
	}
	d.attemptEnded(t, res.Outcome, res.Error)
	d.hook("before-settlement")
	op := &ledger.Settle{Ticket: t, Message: m, Result: res, Shards: d.engine.Shards()}
	more := 0
	if m.Callback != nil || m.FailureCallback != nil {
		more = 2
		op.Nonces[0], op.Nonces[1] = d.nonces.Next(), d.nonces.Next()
	}
	if len(t.Path) > 0 || !t.Slot.Zero() {
		more += 4
	}
	op.Nonces[2] = d.nonces.Next()
	yielded = d.yield()
	if now := d.life.Load(); now != nil {
		op.Node = d.node(now)
		if !yielded {
			op.Node.Room = 1
		}
	}
	if more > 0 && !yielded && !d.crowded.Load() {
		op.Node.Room += d.reserve(more, d.headroom()).Room
	}
	if d.stop.Load() {
		op.Node.Room = 0
	}
	room = max(room, op.Node.Room)
	defer d.hosts.full(op.Node)
	if d.cfg.Prepare != nil {
		d.cfg.Prepare(op)
	}
	if err := d.persist(l.work, t, op); err != nil {
		d.log.Error("settlement not recorded; the attempt will be repeated", "message_id", t.ID, "err", err)
		return nil, room, yielded
	}
	d.hook("after-settlement")
	if op.Lost {
		d.log.Warn("the claim was lost during the attempt; its outcome is dropped", "message_id", t.ID)
		return nil, room, yielded
	}
	if d.cfg.Observe != nil {
		d.cfg.Observe(Observation{Message: m, Attempt: op.Attempt, Lateness: lateness(m, op.Attempt)})
	}
	return &op.Outcome, room, yielded
}

func lateness(m *posthaste.Message, a *posthaste.Attempt) time.Duration {
	if a.Number > 0 || len(m.Flow) > 0 || m.Queue != "" {
		return 0
	}
	return a.StartedAt.Sub(m.NotBefore)
}

// persist submits an operation until it is durable. While the store cannot commit it tries again, until work ends.
func (d *Dispatcher) persist(work context.Context, t *store.Ticket, op store.Op) error {
	ctx := context.Background() // what has happened is recorded even if the attempts of this life are cut off
	wait := 20 * time.Millisecond
	for {
		err := d.engine.Do(ctx, lane(t), op)
		if err == nil || posthaste.CodeOf(err) != posthaste.CodeUnavailable {
			return err
		}
		d.doubts.raise() // if it was carried out all the same, nobody learns what it started
		select {
		case <-time.After(wait):
		case <-work.Done():
			return err
		}
		wait = min(2*wait, 2*time.Second)
	}
}

// lane returns the lane of the ticket's home shard.
func lane(t *store.Ticket) int {
	_, shard, _ := t.ID.Parts()
	return int(shard)
}

// read loads the content of a claimed message. It returns nil if the node stops or the store is broken.
func (d *Dispatcher) read(work context.Context, t *store.Ticket) *posthaste.Message {
	wait := 20 * time.Millisecond
	for {
		m, err := d.engine.Message(work, t.Tenant, t.ID)
		switch {
		case err == nil && m != nil:
			return m
		case err == nil:
			d.log.Error("a claimed message has no content", "message_id", t.ID)
			return nil
		}
		select {
		case <-time.After(wait):
		case <-work.Done():
			return nil
		}
		wait = min(2*wait, 2*time.Second)
	}
}

// release gives a claim back. If the store does not take it, the next life of the node will.
func (d *Dispatcher) release(t *store.Ticket, unsent bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	op := &ledger.Release{Ticket: t, Unsent: unsent}
	if err := d.engine.Do(ctx, lane(t), op); err != nil {
		d.log.Warn("claim not released; it will be recovered", "message_id", t.ID, "err", err)
	}
}

func (d *Dispatcher) hook(point string) {
	if d.cfg.Hook != nil {
		d.cfg.Hook(point)
	}
}
