package sim

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"
)

// plan is a history before it runs: everything in it follows from the seed.
type plan struct {
	seed    uint64
	profile *profile
	mood    mood
	ops     []*op

	start       time.Duration // after the beginning of the bubble
	poll        time.Duration
	maxInFlight int
	maxPerHost  int
	breakHosts  bool
	tenantLimit int // attempts of the tenant at a time; 0: unlimited
	fireMissed  bool
	grace       time.Duration
	keys        map[string]limits // what messages with a flow key bring, but for wild ones
	downtime    time.Duration     // between a crash and the next start, at most
	nodes       int
}

// profile is a kind of histories.
type profile struct {
	name    string
	weights map[kind]int
	queues  int // names in use
	keys    int
	nodes   int
	queued  float64 // share of messages with a queue
	flowed  float64 // and with flow keys
	called  float64 // and with callbacks
}

// persistent reports whether the data must outlive a process.
func (p *profile) persistent() bool {
	return p.nodes == 1 && p.weights[crash]+p.weights[restart] > 0
}

// kind is what an op does.
type kind string

const (
	publish     kind = "publish"
	batch       kind = "batch"
	burst       kind = "burst" // concurrent publishes
	cancel      kind = "cancel"
	cancelMany  kind = "cancel many"
	putQueue    kind = "put queue"
	pauseQueue  kind = "pause queue"
	resumeQueue kind = "resume queue"
	deleteQueue kind = "delete queue"
	pauseKey    kind = "pause key"
	resumeKey   kind = "resume key"
	pinKey      kind = "pin key"
	unpinKey    kind = "unpin key"
	resetKey    kind = "reset key"
	putSchedule kind = "put schedule"
	stopTicks   kind = "pause schedule"
	startTicks  kind = "resume schedule"
	endSchedule kind = "delete schedule"
	addToGroup  kind = "add to group"
	takeOut     kind = "take out of group"
	deleteGroup kind = "delete group"
	retryDead   kind = "retry dead"
	deleteDead  kind = "delete dead"
	rotateKeys  kind = "rotate keys"
	idle        kind = "idle"
	jump        kind = "jump"
	outage      kind = "outage"
	crash       kind = "crash"
	restart     kind = "restart"
	look        kind = "look" // check everything that can be checked while nothing moves
)

// op is a step of a history.
type op struct {
	n    int
	kind kind
	wait time.Duration // before it

	items     []*item
	name      string // of a queue, key, group, schedule or label
	number    int
	limits    limits
	paused    int     // 0: leave, 1: no, 2: yes
	flags     [2]bool // what to unpin
	filter    string
	target    int // an earlier message or dead letter, counted from the last
	cron      string
	every     time.Duration
	endpoints []string
	node      int
	mode      int
	length    time.Duration
}

func (o *op) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%3d +%-8v %s", o.n, o.wait, o.kind)
	if o.name != "" {
		fmt.Fprintf(&b, " %s", o.name)
	}
	switch o.kind {
	case pinKey, putQueue:
		fmt.Fprintf(&b, " %+v paused=%d", o.limits, o.paused)
	case unpinKey:
		fmt.Fprintf(&b, " %v", o.flags)
	case cancel, retryDead, deleteDead:
		fmt.Fprintf(&b, " #%d %s", o.target, o.filter)
	case cancelMany:
		fmt.Fprintf(&b, " %s", o.filter)
	case idle, jump:
		fmt.Fprintf(&b, " %v", o.length)
	case outage, crash, restart:
		fmt.Fprintf(&b, " %v node=%d mode=%d n=%d", o.length, o.node, o.mode, o.number)
	case putSchedule:
		fmt.Fprintf(&b, " %q", o.cron)
	case addToGroup, takeOut:
		fmt.Fprintf(&b, " %v", o.endpoints)
	default:
	}
	for _, it := range o.items {
		fmt.Fprintf(&b, "\n        %s", it)
	}
	return b.String()
}

// limits are those of a flow key or a queue.
type limits struct {
	parallelism int
	rate        int
	period      time.Duration
}

func (l limits) String() string {
	var parts []string
	if l.parallelism > 0 {
		parts = append(parts, fmt.Sprintf("parallelism=%d", l.parallelism))
	}
	if l.rate > 0 {
		parts = append(parts, fmt.Sprintf("rate=%d", l.rate))
	}
	if l.rate > 0 && l.period > 0 {
		parts = append(parts, fmt.Sprintf("period=%ds", l.period/time.Second))
	}
	return strings.Join(parts, ", ")
}

// flow is a flow key that a message names.
type flow struct {
	key string
	limits
}

// item is a message, or one for each endpoint of a group, to be published.
type item struct {
	dest       string // a URL or a group's name
	queue      string
	body       string
	method     string // empty: not given
	retries    int    // -1: not given
	retryDelay *expression
	delay      time.Duration
	notBefore  bool // give the delay as a moment
	timeout    time.Duration
	flows      []flow
	priority   int
	label      string
	forward    string // value of a forwarded header; empty: none
	callback   *callback
	failure    *callback
	dedup      string
	content    bool // deduplicate by content
	window     time.Duration
}

func (it *item) group() bool { return !strings.Contains(it.dest, "://") }

func (it *item) String() string {
	s := it.dest
	add := func(format string, a ...any) { s += " " + fmt.Sprintf(format, a...) }
	if it.queue != "" {
		add("queue=%s", it.queue)
	}
	if it.retries >= 0 {
		add("retries=%d", it.retries)
	}
	if it.retryDelay != nil {
		add("retryDelay=%q", it.retryDelay.text)
	}
	if it.delay > 0 {
		add("delay=%v", it.delay)
	}
	if it.timeout > 0 {
		add("timeout=%v", it.timeout)
	}
	for _, f := range it.flows {
		add("%s(%v)", f.key, f.limits)
	}
	if it.priority > 0 {
		add("priority=%d", it.priority)
	}
	if it.label != "" {
		add("label=%s", it.label)
	}
	if it.callback != nil {
		add("callback(%v)", it.callback)
	}
	if it.failure != nil {
		add("failure(%v)", it.failure)
	}
	if it.dedup != "" {
		add("dedup=%s/%v", it.dedup, it.window)
	}
	if it.content {
		add("content")
	}
	return s
}

// callback is asked for with a message.
type callback struct {
	url     string
	method  string
	retries int // -1: not given
	delay   time.Duration
	flows   []flow
	forward string
}

func (c *callback) String() string {
	s := fmt.Sprintf("retries=%d delay=%v", c.retries, c.delay)
	for _, f := range c.flows {
		s += fmt.Sprintf(" %s(%v)", f.key, f.limits)
	}
	return s
}

// expression is a Retry-Delay with what it means: the wait before retry n, from 1.
type expression struct {
	text  string
	value func(n int) time.Duration
}

var expressions = []*expression{
	{"500", func(int) time.Duration { return 500 * time.Millisecond }},
	{"1000 * (1 + retried)", func(n int) time.Duration { return time.Duration(n) * time.Second }},
	{"pow(2, retried) * 1000", func(n int) time.Duration { return time.Second << (n - 1) }},
	{"max(200, 3000 * retried)", func(n int) time.Duration {
		return max(200*time.Millisecond, time.Duration(n-1)*3*time.Second)
	}},
	{"0", func(int) time.Duration { return 0 }},
}

// backoff is the server's.
var backoff = []time.Duration{time.Second, 4 * time.Second, 10 * time.Second}

// What the server is set to.
const (
	defaultRetries = 3
	defaultTimeout = 20 * time.Second
	dedupWindow    = time.Minute
	wildKey        = "wild" // messages with it bring different limits
	pinnedKey      = "pin"  // it is pinned now and then; callbacks and schedules do not use it, nor the wild one
)

var profiles = []*profile{
	{
		name: "mixed", queues: 2, keys: 3, nodes: 1, queued: 0.4, flowed: 0.4, called: 0.25,
		weights: with(nil),
	},
	{
		name: "queues", queues: 2, keys: 1, nodes: 1, queued: 0.95, flowed: 0.1, called: 0.4,
		weights: with(map[kind]int{putQueue: 8, pauseQueue: 4, resumeQueue: 6, deleteQueue: 3, putSchedule: 1, pinKey: 0, unpinKey: 0, cancel: 8}),
	},
	{
		name: "flows", queues: 1, keys: 3, nodes: 1, queued: 0.1, flowed: 0.95, called: 0.1,
		weights: with(map[kind]int{pauseKey: 4, resumeKey: 6, pinKey: 4, unpinKey: 4, resetKey: 3, burst: 6, putSchedule: 1}),
	},
	{
		name: "knots", queues: 2, keys: 3, nodes: 1, queued: 0.7, flowed: 0.8, called: 0.4,
		weights: with(map[kind]int{pauseKey: 4, resumeKey: 6, pauseQueue: 4, resumeQueue: 6, putQueue: 6, deleteQueue: 2, cancel: 8, cancelMany: 4}),
	},
	{
		name: "ticks", queues: 1, keys: 1, nodes: 1, queued: 0.2, flowed: 0.2, called: 0.1,
		weights: with(map[kind]int{putSchedule: 14, stopTicks: 6, startTicks: 8, endSchedule: 4, jump: 5, idle: 12, addToGroup: 4, takeOut: 2}),
	},
	{
		name: "outages", queues: 2, keys: 2, nodes: 1, queued: 0.4, flowed: 0.4, called: 0.3,
		weights: with(map[kind]int{outage: 8}),
	},
	{
		name: "crashes", queues: 2, keys: 2, nodes: 1, queued: 0.4, flowed: 0.4, called: 0.3,
		weights: with(map[kind]int{crash: 7, restart: 3, outage: 1}),
	},
	{
		name: "cluster", queues: 2, keys: 2, nodes: 2, queued: 0.4, flowed: 0.4, called: 0.3,
		weights: with(map[kind]int{crash: 3, outage: 8, restart: 3, jump: 0}),
	},
}

// with returns the usual weights, but for some.
func with(other map[kind]int) map[kind]int {
	w := map[kind]int{
		publish: 30, batch: 8, burst: 3, cancel: 5, cancelMany: 2, putQueue: 3, pauseQueue: 2, resumeQueue: 3, deleteQueue: 1,
		pauseKey: 2, resumeKey: 3, pinKey: 1, unpinKey: 1, resetKey: 1, putSchedule: 2, stopTicks: 1, startTicks: 1, endSchedule: 1,
		addToGroup: 3, takeOut: 1, deleteGroup: 1, retryDead: 4, deleteDead: 1, rotateKeys: 1, idle: 6, jump: 1, look: 4,
	}
	for k, n := range other {
		w[k] = n
	}
	return w
}

// planner makes a plan.
type planner struct {
	*rand.Rand
	p *plan
}

func newPlan(seed uint64) *plan {
	r := planner{rand.New(rand.NewPCG(seed, 0x9057)), &plan{seed: seed}}
	p := r.p
	p.profile = profiles[r.IntN(len(profiles))]
	if name := os.Getenv("POSTHASTE_PROFILE"); name != "" {
		for _, prof := range profiles {
			if prof.name == name {
				p.profile = prof
			}
		}
	}
	p.nodes = p.profile.nodes
	p.start = time.Duration(r.IntN(7200_000)) * time.Millisecond
	p.poll = []time.Duration{time.Second, time.Hour}[r.IntN(2)]
	p.maxInFlight = []int{2048, 2048, 2048, 12, 3}[r.IntN(5)]
	p.maxPerHost = 2048
	if r.IntN(6) == 0 {
		p.maxPerHost = 1 + r.IntN(3)
	}
	if r.IntN(6) == 0 {
		p.tenantLimit = 1 + r.IntN(5)
	}
	p.fireMissed = r.IntN(2) == 0
	p.grace = []time.Duration{0, 2 * time.Second, 30 * time.Second}[r.IntN(3)]
	p.downtime = []time.Duration{0, time.Second, 90 * time.Second}[r.IntN(3)]
	p.mood = mood{fail: []float64{0.1, 0.3, 0.6}[r.IntN(3)], hang: []float64{0, 0.05, 0.15}[r.IntN(3)], slow: []float64{0.05, 0.25, 0.5}[r.IntN(3)]}
	if r.IntN(10) == 0 {
		p.breakHosts = true
		p.mood.dead = "d0.sim"
	}
	if p.profile.weights[outage] > 0 {
		p.poll = time.Second // after an error the server waits for so long
	}
	p.keys = map[string]limits{}
	for i := range p.profile.keys {
		p.keys[fmt.Sprintf("k%d", i)] = r.limits()
	}
	p.keys[pinnedKey] = r.limits()
	total := 0
	kinds := make([]kind, 0, len(p.profile.weights))
	for _, k := range []kind{
		publish, batch, burst, cancel, cancelMany, putQueue, pauseQueue, resumeQueue, deleteQueue, pauseKey, resumeKey, pinKey, unpinKey,
		resetKey, putSchedule, stopTicks, startTicks, endSchedule, addToGroup, takeOut, deleteGroup, retryDead, deleteDead, rotateKeys, idle,
		jump, outage, crash, restart, look,
	} {
		if n := p.profile.weights[k]; n > 0 {
			kinds = append(kinds, k)
			total += n
		}
	}
	for n := range 15 + r.IntN(50) {
		w := r.IntN(total)
		k := kinds[0]
		for _, k = range kinds {
			if w -= p.profile.weights[k]; w < 0 {
				break
			}
		}
		p.ops = append(p.ops, r.op(n, k))
	}
	return p
}

func (r planner) limits() limits {
	l := limits{period: time.Duration(1+r.IntN(12)) * time.Second}
	k := r.IntN(4)
	if k != 0 {
		l.parallelism = 1 + r.IntN(3)
	}
	if k != 1 {
		l.rate = 1 + r.IntN(4)
	}
	if l.rate == 0 {
		l.period = time.Second
	}
	return l
}

func (r planner) wait() time.Duration {
	ms := func(from, to int) time.Duration { return time.Duration(from+r.IntN(to-from)) * time.Millisecond }
	switch p := r.IntN(100); {
	case p < 25:
		return 0
	case p < 55:
		return ms(1, 200)
	case p < 85:
		return ms(200, 3000)
	case p < 97:
		return ms(3000, 15000)
	}
	return ms(15000, 60000)
}

func (r planner) queue() string { return fmt.Sprintf("q%d", r.IntN(r.p.profile.queues)) }

func (r planner) key() string {
	switch n := r.IntN(r.p.profile.keys + 2); n {
	case 0:
		return wildKey
	case 1:
		return pinnedKey
	default:
		return fmt.Sprintf("k%d", n-2)
	}
}

func (r planner) flow(key string) flow {
	if key == wildKey {
		return flow{key, r.limits()}
	}
	return flow{key, r.p.keys[key]}
}

func (r planner) op(n int, k kind) *op {
	o := &op{n: n, kind: k, wait: r.wait(), target: r.IntN(12), node: r.IntN(r.p.nodes)}
	switch k {
	case publish:
		o.items = []*item{r.item(o, 0)}
	case batch, burst:
		count := 1 + r.IntN(6)
		switch r.IntN(40) {
		case 0:
			count = 70 + r.IntN(60)
		case 1, 2, 3, 4:
			count = 8 + r.IntN(20)
		}
		same := r.IntN(4) == 0 // much of one kind makes wait lists
		for i := range count {
			it := r.item(o, i)
			if same && i > 0 {
				c := *o.items[0]
				c.body, c.callback, c.failure = fmt.Sprintf("m%d.%d", n, i), it.callback, it.failure
				if c.content {
					c.body, c.callback, c.failure = o.items[0].body, nil, nil
				}
				if c.queue != "" {
					for _, cb := range []*callback{c.callback, c.failure} {
						if cb != nil {
							cb.delay = 0
						}
					}
				}
				it = &c
			}
			o.items = append(o.items, it)
		}
	case putQueue:
		o.name, o.limits.parallelism, o.paused = r.queue(), r.IntN(5), r.IntN(4)
		if o.paused == 3 {
			o.paused = 1
		}
	case pauseQueue, resumeQueue, deleteQueue:
		o.name = r.queue()
	case pauseKey, resumeKey, resetKey:
		o.name = r.key()
	case pinKey:
		o.name = []string{pinnedKey, wildKey}[r.IntN(2)]
		l := r.limits()
		o.limits = limits{parallelism: l.parallelism, rate: l.rate}
		if o.limits.rate > 0 && r.IntN(3) > 0 {
			o.limits.period = l.period
		}
	case unpinKey:
		o.name = []string{pinnedKey, wildKey}[r.IntN(2)]
		o.flags = [2]bool{r.IntN(3) > 0, r.IntN(3) > 0}
	case putSchedule:
		o.name = fmt.Sprintf("s%d", r.IntN(3))
		it := r.item(o, 0)
		it.dedup, it.content, it.notBefore = "", false, false
		if it.queue != "" && r.IntN(2) == 0 {
			it.delay = time.Duration(1+r.IntN(5000)) * time.Millisecond
		}
		it.flows = r.backgroundFlows(it.flows)
		o.items = []*item{it}
		o.every = time.Duration(2+r.IntN(40)) * time.Second
		o.cron = fmt.Sprintf("@every %ds", o.every/time.Second)
		if r.IntN(4) == 0 {
			m := []int{1, 2, 5}[r.IntN(3)]
			o.every, o.cron = 0, fmt.Sprintf("*/%d * * * *", m)
			o.number = m
		}
	case stopTicks, startTicks, endSchedule:
		o.name = fmt.Sprintf("s%d", r.IntN(3))
	case addToGroup, takeOut:
		o.name = fmt.Sprintf("g%d", r.IntN(2))
		for range 1 + r.IntN(3) {
			o.endpoints = append(o.endpoints, fmt.Sprintf("http://d%d.sim/%s/%d", r.IntN(3), o.name, r.IntN(4)))
		}
	case deleteGroup:
		o.name = fmt.Sprintf("g%d", r.IntN(2))
	case cancelMany:
		o.filter = []string{"all", "label", "queue", "key", "group", "ids", "schedule"}[r.IntN(7)]
		o.name = map[string]string{
			"label": fmt.Sprintf("l%d", r.IntN(3)), "queue": r.queue(), "key": r.key(), "group": fmt.Sprintf("g%d", r.IntN(2)),
			"schedule": fmt.Sprintf("s%d", r.IntN(3)),
		}[o.filter]
		o.number = r.IntN(3) * 2 // count
	case retryDead, deleteDead:
		o.filter = []string{"one", "ids", "all", "label"}[r.IntN(4)]
		o.name = fmt.Sprintf("l%d", r.IntN(3))
		o.number = 1 + r.IntN(3)
		o.limits.rate = r.IntN(3) - 1 // retries of the new message; -1: as the dead one
	case idle:
		o.wait, o.length = 0, time.Duration(1+r.IntN(90_000))*time.Millisecond
	case jump:
		o.length = []time.Duration{time.Second, 20 * time.Second, 4 * time.Minute, 11 * time.Minute}[r.IntN(4)]
	case outage:
		o.length = time.Duration(1+r.IntN(12_000)) * time.Millisecond
		if r.IntN(4) == 0 {
			o.length += 20 * time.Second
		}
		o.mode = r.IntN(3 + b2i(r.p.nodes > 1))
		if r.p.nodes > 1 && r.IntN(2) == 0 {
			o.length += 14 * time.Second // longer than a lease
		}
	case crash:
		o.mode = r.IntN(3) // now; before a commit; after a commit
		o.number = 1 + r.IntN(25)
		o.length = time.Duration(r.Int64N(int64(r.p.downtime) + 1)).Truncate(time.Millisecond)
	case restart:
		o.length = time.Duration(r.Int64N(int64(r.p.downtime) + 1)).Truncate(time.Millisecond)
	default:
	}
	return o
}

// backgroundFlows replaces keys whose limits must not change at moments nobody knows.
func (r planner) backgroundFlows(flows []flow) []flow {
	var out []flow
	for _, f := range flows {
		if f.key != wildKey && f.key != pinnedKey {
			out = append(out, f)
		}
	}
	return out
}

func (r planner) item(o *op, i int) *item {
	it := &item{
		dest: fmt.Sprintf("http://d%d.sim/m/%d/%d", r.IntN(3), o.n, i),
		body: fmt.Sprintf("m%d.%d", o.n, i), retries: -1,
	}
	prof := r.p.profile
	if r.IntN(6) == 0 {
		it.dest += "?a=b&c=%20d"
	}
	if r.IntN(8) == 0 {
		it.dest = fmt.Sprintf("g%d", r.IntN(2))
	}
	if r.Float64() < prof.queued {
		it.queue = r.queue()
	}
	if r.Float64() < prof.flowed {
		seen := ""
		for range 1 + r.IntN(2)*r.IntN(3) {
			if k := r.key(); !strings.Contains(seen, k) {
				seen += k
				it.flows = append(it.flows, r.flow(k))
			}
		}
		if r.IntN(4) == 0 {
			it.priority = r.IntN(10)
		}
	}
	if r.IntN(2) == 0 {
		it.retries = []int{0, 0, 1, 2}[r.IntN(4)]
	}
	if r.IntN(4) == 0 {
		it.retryDelay = expressions[r.IntN(len(expressions))]
	}
	if it.queue == "" && r.IntN(4) == 0 {
		it.delay = time.Duration(1+r.IntN(20_000)) * time.Millisecond
		it.notBefore = r.IntN(3) == 0
	}
	if r.IntN(5) == 0 {
		it.timeout = time.Duration(1+r.IntN(8)) * time.Second
	}
	if r.IntN(6) == 0 {
		it.method = []string{"GET", "PUT", "PATCH", "DELETE"}[r.IntN(4)]
	}
	if r.IntN(3) == 0 {
		it.label = fmt.Sprintf("l%d", r.IntN(3))
	}
	if r.IntN(4) == 0 {
		it.forward = fmt.Sprintf("f%d", r.IntN(100))
	}
	if r.Float64() < prof.called {
		it.callback = r.callback(it, fmt.Sprintf("http://cb.sim/cb/%d/%d", o.n, i))
	}
	if r.Float64() < prof.called {
		it.failure = r.callback(it, fmt.Sprintf("http://cb.sim/fail/%d/%d", o.n, i))
	}
	switch r.IntN(12) {
	case 0:
		it.dedup = fmt.Sprintf("dd%d", r.IntN(3))
		if r.IntN(3) == 0 {
			it.window = time.Duration(1+r.IntN(20)) * time.Second
		}
	case 1:
		// The same content comes several times.
		n := r.IntN(3)
		*it = item{dest: "http://d1.sim/content", body: fmt.Sprintf("content%d", n), retries: -1, content: true, queue: it.queue}
	}
	return it
}

func (r planner) callback(it *item, url string) *callback {
	c := &callback{url: url, retries: -1}
	if r.IntN(3) == 0 {
		c.retries = r.IntN(3)
	}
	if it.queue == "" && r.IntN(5) == 0 {
		c.delay = time.Duration(1+r.IntN(5000)) * time.Millisecond
	}
	if r.IntN(5) == 0 {
		c.flows = r.backgroundFlows([]flow{r.flow(r.key())})
	}
	if r.IntN(6) == 0 {
		c.method = "PUT"
	}
	if r.IntN(6) == 0 {
		c.forward = "cf"
	}
	return c
}

// headers are those that ask for what an item is. now is the server's time.
func (it *item) headers(now time.Time) map[string]string {
	h := map[string]string{}
	set := func(cond bool, name, format string, a ...any) {
		if cond {
			h[name] = fmt.Sprintf(format, a...)
		}
	}
	set(it.method != "", "Upstash-Method", "%s", it.method)
	set(it.retries >= 0, "Upstash-Retries", "%d", it.retries)
	if it.retryDelay != nil {
		h["Upstash-Retry-Delay"] = it.retryDelay.text
	}
	set(it.delay > 0 && !it.notBefore, "Upstash-Delay", "%dms", it.delay/time.Millisecond)
	set(it.delay > 0 && it.notBefore, "Upstash-Not-Before", "%d", now.Add(it.delay).Unix())
	set(it.timeout > 0, "Upstash-Timeout", "%ds", it.timeout/time.Second)
	for i, f := range it.flows {
		suffix := ""
		if i > 0 {
			suffix = fmt.Sprintf("-%d", i+1)
		}
		h["Upstash-Flow-Control-Key"+suffix], h["Upstash-Flow-Control-Value"+suffix] = f.key, f.limits.String()
	}
	set(it.priority > 0, "Upstash-Priority", "%d", it.priority)
	set(it.label != "", "Upstash-Label", "%s", it.label)
	set(it.forward != "", "Upstash-Forward-X-Note", "%s", it.forward)
	set(it.dedup != "", "Upstash-Deduplication-Id", "%s", it.dedup)
	set(it.dedup != "" && it.window > 0, "Upstash-Deduplication-Window", "%ds", it.window/time.Second)
	set(it.content, "Upstash-Content-Based-Deduplication", "true")
	for prefix, c := range map[string]*callback{"Upstash-Callback": it.callback, "Upstash-Failure-Callback": it.failure} {
		if c == nil {
			continue
		}
		h[prefix] = c.url
		set(c.method != "", prefix+"-Method", "%s", c.method)
		set(c.retries >= 0, prefix+"-Retries", "%d", c.retries)
		set(c.delay > 0, prefix+"-Delay", "%dms", c.delay/time.Millisecond)
		set(c.forward != "", prefix+"-Forward-X-Note", "%s", c.forward)
		for _, f := range c.flows {
			h[prefix+"-Flow-Control-Key"], h[prefix+"-Flow-Control-Value"] = f.key, f.limits.String()
		}
	}
	return h
}

// due returns when a message that is accepted now is to start.
func (it *item) due(now time.Time) time.Time {
	switch {
	case it.delay == 0:
		return now
	case it.notBefore:
		if at := now.Add(it.delay).Truncate(time.Second); at.After(now) {
			return at
		}
		return now
	}
	return now.Add(it.delay)
}

func (it *item) maxRetries() int {
	if it.retries < 0 {
		return defaultRetries
	}
	return it.retries
}

func (it *item) methodName() string { return cmp.Or(it.method, "POST") }
