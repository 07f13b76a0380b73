package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/posthaste/posthaste/internal/clock"
	"github.com/posthaste/posthaste/internal/store"
)

// history is a plan that runs, with all that is known of it.
type history struct {
	plan  *plan
	ctx   context.Context
	log   *slog.Logger
	clock *clock.Clock
	net   *network
	dir   string

	nodes     []*node
	processes []*process
	shared    store.Engine
	cluster   *cluster
	ended     chan struct{} // closed at the end, of a cluster
	burials   sync.WaitGroup

	mu  sync.Mutex
	bad []string // what is wrong

	// What was asked for and answered.
	sent      []*sent // messages whose acceptance was confirmed, in the order of the answers
	byID      map[string]*sent
	unknown   []*request // publishes that got no answer
	requests  []*request
	cancels   []*cancelCall
	queues    map[string]*queueModel
	keys      map[string]*keyModel
	groups    map[string]*groupModel
	schedules map[string]*scheduleModel
	dedups    map[string]*dedupModel
	deadCalls []*deadCall
	rotations []rotation
	troubles  []*trouble
	leaps     []leap
	looked    int64           // for queues that ticks have made
	checked   int64           // requests up to here were checked
	tokens    map[string]bool // ids of signatures
	deadNames map[string]string
	doubts    []func() // calls that were lost: each asks the API what became of it
}

// badf notes what is wrong.
func (h *history) badf(format string, a ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.bad) < 30 {
		h.bad = append(h.bad, fmt.Sprintf(format, a...))
	}
}

func (h *history) failed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.bad) > 0
}

// request is a call that publishes.
type request struct {
	op         *op
	items      []*item
	call, done int64
	at         time.Time // the server's clock when it was made
	settled    int64
	status     int
	lost       bool
	requeue    *deadEntry // it repeats this dead letter
	vagueKeys  []string
}

// sent is a message that was accepted.
type sent struct {
	id       string
	item     *item
	req      *request
	index    int // of the message in the request
	url      string
	group    string
	queueGen int
	requeue  *deadEntry
	retries  int // that were asked for
	call     int64
	done     int64
	at       time.Time
	due      time.Time
}

// cancelCall is a cancel, with what it was about.
type cancelCall struct {
	call, done int64
	at         time.Time
	matches    func(m *message) bool
	count      int // at most; 0: all
	single     string
	status     int
	n          int
	lost       bool
	queue      string // a queue was deleted
}

type queueModel struct {
	state queueState
	past  []change[queueState]
}

// queueState is what a queue is set to.
type queueState struct {
	exists      bool
	gen         int
	parallelism int
	paused      bool
}

// change is a value that took effect between two observations.
type change[T any] struct {
	call, settled int64
	at            time.Time
	values        []T       // the last one stays; the others were in effect in passing
	byMessage     bool      // a message of that very moment made it
	since         time.Time // it came at some moment since then; zero: at that moment
}

// at returns the values that may have been in effect at an observation.
func at[T any](past []change[T], first T, seq int64) []T {
	now := []T{first}
	for _, c := range past {
		if c.settled < seq {
			now = []T{c.values[len(c.values)-1]}
		} else if c.call < seq {
			now = append(now, c.values...)
		}
	}
	return now
}

// between returns the values that may have been in effect from a moment of the server's clock to an observation.
func between[T any](past []change[T], first T, ms, seq int64) []T {
	i := 0
	for i < len(past) && past[i].settled < seq && past[i].at.UnixMilli() < ms {
		first = past[i].values[len(past[i].values)-1]
		i++
	}
	values := []T{first}
	for _, c := range past[i:] {
		if c.call < seq {
			values = append(values, c.values...)
		}
	}
	return values
}

type keyModel struct {
	state  keyState
	past   []change[keyState]
	resets []leap // of the rate's window
}

// keyState is what a flow key is set to.
type keyState struct {
	limits
	paused            bool
	pinnedParallelism bool
	pinnedRate        bool
}

type groupModel struct {
	endpoints []string
	past      []change[[]string]
}

type scheduleModel struct {
	versions []*scheduleVersion
}

// scheduleVersion is how a schedule stood from one change to the next.
type scheduleVersion struct {
	seq    int64 // of the change
	at     time.Time
	gone   bool
	paused bool
	every  time.Duration
	minute int // for */n * * * *
	anchor time.Time
	item   *item
	vague  bool // a change of which nobody knows whether it took effect precedes
}

type dedupModel struct {
	id      string
	expires time.Time
	vague   bool
}

type deadCall struct {
	call, done int64
	at         time.Time
	entries    []*deadEntry
	retry      bool
	lost       bool
}

type rotation struct {
	call, settled int64
	current, next string
}

// trouble is a time in which a node could not do its work.
type trouble struct {
	node     int
	from, to time.Time // to is zero while it lasts
	down     bool      // there was no process; otherwise the store did not work for it
	seq      int64
}

// leap is a moment at which the clock was set forward, or a window began anew.
type leap struct {
	seq      int64
	from, to time.Time
}

// run runs a history and returns what is wrong with it.
func run(t *testing.T, p *plan, keep map[int]bool) (h *history) {
	dir, err := os.MkdirTemp(folder(), "posthaste-sim-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it is temporary
	synctest.Test(t, func(*testing.T) {
		defer func() {
			if r := recover(); r != nil {
				panic(fmt.Sprintf("seed %d: %v", p.seed, r))
			}
		}()
		h = newHistory(p, dir)
		h.play(keep)
	})
	return h
}

// folder returns where data files are quick to write, or "".
func folder() string {
	if fi, err := os.Stat("/dev/shm"); err == nil && fi.IsDir() {
		return "/dev/shm"
	}
	return ""
}

func newHistory(p *plan, dir string) *history {
	h := &history{
		plan: p, dir: dir, ctx: context.Background(), clock: clock.New(), log: slog.New(slog.DiscardHandler),
		byID: map[string]*sent{}, queues: map[string]*queueModel{}, keys: map[string]*keyModel{}, groups: map[string]*groupModel{},
		schedules: map[string]*scheduleModel{}, dedups: map[string]*dedupModel{},
		tokens: map[string]bool{}, deadNames: map[string]string{},
	}
	if os.Getenv("POSTHASTE_SIM_LOG") != "" {
		h.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	h.net = &network{seed: p.seed, mood: p.mood, clock: h.clock}
	return h
}

// play runs the ops, brings everything to rest, and checks.
func (h *history) play(keep map[int]bool) {
	time.Sleep(h.plan.start)
	if h.plan.nodes > 1 {
		if err := h.sharedStore(); err != nil {
			h.badf("open the store: %v", err)
			return
		}
	}
	for i := range h.plan.nodes {
		n := &node{}
		if h.plan.profile.persistent() {
			n.data = filepath.Join(h.dir, "data0")
		}
		h.nodes = append(h.nodes, n)
		if err := h.launch(i); err != nil {
			h.badf("start: %v", err)
			return
		}
	}
	defer func() {
		for _, n := range h.nodes {
			if n.p == nil {
				continue
			}
			h.net.kill(n.p)
			n.p.bury()
		}
		h.burials.Wait()
		if h.shared != nil {
			close(h.ended)
			h.shared.Close() //nolint:errcheck // it is temporary
		}
	}()
	for _, o := range h.plan.ops {
		if keep != nil && !keep[o.n] {
			continue
		}
		h.sleep(o.wait)
		if odd := h.clock.Now().Nanosecond() % 1e6; odd != 0 {
			h.sleep(time.Millisecond - time.Duration(odd)) // what the API shows, and these histories count in, are milliseconds
		}
		if o.kind == idle {
			h.sleep(o.length)
			continue
		}
		h.settle()
		h.reap()
		h.findQueues()
		h.do(o)
		h.settle()
		h.reap()
		if h.failed() {
			return
		}
	}
	h.finish()
}

// sleep lets time pass, and sees to processes that die and nodes that come back.
func (h *history) sleep(d time.Duration) {
	until := time.Now().Add(d)
	for {
		h.reap()
		h.revive()
		wake := until
		watched := make([]<-chan struct{}, 0, 2)
		for _, n := range h.nodes {
			switch {
			case n.p != nil:
				watched = append(watched, n.p.dead)
			case n.wakeAt.Before(wake):
				wake = n.wakeAt
			}
		}
		for len(watched) < 2 {
			watched = append(watched, nil)
		}
		left := time.Until(wake)
		if left <= 0 {
			return
		}
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-watched[0]:
		case <-watched[1]:
		}
		timer.Stop()
	}
}

// reap buries processes that crashed.
func (h *history) reap() {
	for i, n := range h.nodes {
		if n.p == nil || !n.p.isOver() {
			continue
		}
		p := n.p
		n.p = nil
		if p.saved != "" {
			n.data = p.saved
		}
		n.wakeAt = time.Now().Add(n.downtime)
		h.begin(i, p.overAt, true)
		h.burials.Go(p.bury)
	}
}

// begin notes that a trouble begins.
func (h *history) begin(node int, at time.Time, down bool) {
	seq, _ := h.net.next()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.troubles = append(h.troubles, &trouble{node: node, from: at, down: down, seq: seq})
}

// over notes that the troubles of a node are over.
func (h *history) over(node int) {
	_, now := h.net.next()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range h.troubles {
		if t.node == node && t.to.IsZero() {
			t.to = now
		}
	}
}

// revive starts lives of nodes whose downtime is over.
func (h *history) revive() {
	for i, n := range h.nodes {
		if n.p == nil && !time.Now().Before(n.wakeAt) {
			if err := h.launch(i); err != nil {
				h.badf("start again: %v", err)
				n.wakeAt = time.Now().Add(24 * time.Hour)
				return
			}
			h.over(i)
			h.settle()
		}
	}
	h.resync()
}

// resync asks what became of calls that were lost.
func (h *history) resync() {
	if len(h.doubts) == 0 {
		return
	}
	if h.ready(0) == nil {
		return
	}
	doubts := h.doubts
	h.doubts = nil
	for _, ask := range doubts {
		ask()
	}
}

// ready returns a process that can be called, that of the given node if it can; nil if there is none.
func (h *history) ready(node int) *process {
	for i := range h.nodes {
		p := h.nodes[(node+i)%len(h.nodes)].p
		if p != nil && !p.isOver() && p.eng.answering() {
			return p
		}
	}
	return nil
}

// healthy returns a process whose store works; nil if there is none.
func (h *history) healthy() *process {
	for _, n := range h.nodes {
		if n.p != nil && !n.p.isOver() && n.p.eng.working() {
			return n.p
		}
	}
	return nil
}

// caller is ready, but waits until there is a process.
func (h *history) caller(node int) *process {
	for range 1000 {
		if p := h.ready(node); p != nil {
			return p
		}
		h.sleep(time.Second)
		h.settle()
	}
	h.badf("no process comes up")
	return nil
}

// get reads JSON from the API. It reports whether it got any: not while the store is out of order, and not for what does not
// exist.
func (h *history) get(p *process, target string, v any) bool {
	r := p.call("GET", target, nil, "")
	if r.lost || r.status == 503 || r.status == 404 {
		return false
	}
	if r.status != 200 {
		h.badf("GET %s: %d %s", target, r.status, r.body)
		return false
	}
	if err := json.Unmarshal(r.body, v); err != nil {
		h.badf("GET %s: %v in %s", target, err, r.body)
		return false
	}
	return true
}

// insist is get for what must come: it waits for the store. It reports whether the thing exists.
func (h *history) insist(target string, v any) bool {
	for range 200 {
		p := h.caller(0)
		if p == nil {
			return false
		}
		r := p.call("GET", target, nil, "")
		switch {
		case r.lost, r.status == 503:
			h.sleep(time.Second)
			continue
		case r.status == 404:
			return false
		case r.status != 200:
			h.badf("GET %s: %d %s", target, r.status, r.body)
			return false
		}
		if err := json.Unmarshal(r.body, v); err != nil {
			h.badf("GET %s: %v in %s", target, err, r.body)
			return false
		}
		return true
	}
	h.badf("GET %s: the store does not come back", target)
	return false
}

// noteDead takes note of the dead letter that a failure callback names.
func (h *history) noteDead(id, of string) { h.deadNames[of] = id }

// deadOf returns the dead letter of a message, if a failure callback named it.
func (h *history) deadOf(message string) string { return h.deadNames[message] }
