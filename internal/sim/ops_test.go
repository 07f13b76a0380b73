package sim

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// do carries out an op.
func (h *history) do(o *op) {
	switch o.kind {
	case jump:
		h.leap(o.length)
		return
	case outage:
		h.outage(o)
		return
	case crash:
		h.planCrash(o)
		return
	case restart:
		h.restart(o)
		return
	default:
	}
	p := h.caller(o.node)
	if p == nil {
		return
	}
	switch o.kind {
	case publish, batch:
		h.publish(p, o, o.items)
	case burst:
		h.burst(p, o)
	case cancel:
		h.cancelOne(p, o)
	case cancelMany:
		h.cancelMany(p, o)
	case putQueue, pauseQueue, resumeQueue, deleteQueue:
		h.changeQueue(p, o)
	case pauseKey, resumeKey, pinKey, unpinKey, resetKey:
		h.changeKey(p, o)
	case putSchedule, stopTicks, startTicks, endSchedule:
		h.changeSchedule(p, o)
	case addToGroup, takeOut, deleteGroup:
		h.changeGroup(p, o)
	case retryDead, deleteDead:
		h.handleDead(p, o)
	case rotateKeys:
		h.rotate(p)
	case look:
		h.check(false)
	default:
		h.badf("op %s is not known", o.kind)
	}
}

func (h *history) leap(by time.Duration) {
	seq, from := h.net.next()
	to := h.clock.Advance(by)
	h.leaps = append(h.leaps, leap{seq, from, to})
}

func (h *history) outage(o *op) {
	p := h.nodes[o.node].p
	if p == nil {
		return
	}
	state := []engineState{noWrite, noCalls, noCalls, mute}[o.mode]
	if h.cluster != nil && o.mode == 2 {
		state = silent
	}
	if !p.eng.working() {
		return
	}
	_, at := h.net.next()
	t := &trouble{node: o.node, from: at}
	h.troubles = append(h.troubles, t)
	p.eng.set(state)
	time.AfterFunc(o.length, func() {
		p.eng.set(works)
		_, at := h.net.next()
		h.mu.Lock()
		defer h.mu.Unlock()
		if t.to.IsZero() {
			t.to = at
		}
	})
}

func (h *history) planCrash(o *op) {
	n := h.nodes[o.node]
	p := n.p
	if p == nil {
		return
	}
	n.downtime = o.length
	switch {
	case o.mode == 0:
		p.crash()
	case h.cluster != nil:
		p.eng.plan(o.number, o.mode == 2, p.crash)
	default:
		p.mu.Lock()
		p.point, p.left = []string{"", "before-commit", "after-commit"}[o.mode], o.number
		p.mu.Unlock()
	}
}

func (h *history) restart(o *op) {
	n := h.nodes[o.node]
	p := n.p
	if p == nil || !p.eng.working() {
		return
	}
	_, at := h.net.next()
	h.begin(o.node, at, true)
	if err := p.srv.Stop(h.ctx); err != nil && !p.isOver() {
		h.badf("stop: %v", err)
	}
	if p.isOver() { // it crashed while it stopped
		n.downtime = o.length
		h.reap()
		return
	}
	for _, a := range h.net.inFlight() {
		if a.process == p {
			h.badf("the server has stopped, but its attempt %d of %s still runs", a.retried, a.id)
		}
	}
	h.net.kill(p)
	n.p = nil
	n.wakeAt = time.Now().Add(o.length)
	h.revive()
}

// header returns headers for a JSON body.
var jsonHeader = map[string]string{"Content-Type": "application/json"}

// publish sends the items, in a batch if there are several, and takes note of the answer.
func (h *history) publish(p *process, o *op, items []*item) {
	req, r := h.send(p, o, items)
	req.settled = h.settle()
	h.accepted(req, r)
}

// send makes the call.
func (h *history) send(p *process, o *op, items []*item) (*request, *reply) {
	now := h.clock.Now()
	var r *reply
	if o.kind != batch {
		it := items[0]
		target := "/v2/publish/" + it.dest
		if it.queue != "" {
			target = "/v2/enqueue/" + it.queue + "/" + it.dest
		}
		r = p.call("POST", target, it.headers(now), it.body)
	} else {
		type entry struct {
			Destination string            `json:"destination"`
			Headers     map[string]string `json:"headers"`
			Body        string            `json:"body"`
			Queue       string            `json:"queue,omitempty"`
		}
		list := make([]entry, len(items))
		for i, it := range items {
			list[i] = entry{it.dest, it.headers(now), it.body, it.queue}
		}
		body, err := json.Marshal(list)
		if err != nil {
			panic(err)
		}
		r = p.call("POST", "/v2/batch", jsonHeader, string(body))
	}
	return &request{op: o, items: items, call: r.call, done: r.done, at: r.at, status: r.status, lost: r.lost}, r
}

// burst publishes at the same time.
func (h *history) burst(p *process, o *op) {
	reqs, replies := make([]*request, len(o.items)), make([]*reply, len(o.items))
	var wg sync.WaitGroup
	for i, it := range o.items {
		wg.Go(func() { reqs[i], replies[i] = h.send(p, o, []*item{it}) })
	}
	wg.Wait()
	settled := h.settle()
	// Which of equal deduplication keys came first is for the server to say: those first that are not duplicates.
	order := make([]int, len(reqs))
	first, last := reqs[0].call, reqs[0].done
	for i, r := range reqs {
		order[i] = i
		first, last = min(first, r.call), max(last, r.done)
	}
	for _, r := range reqs {
		r.call, r.done, r.settled = first, last, settled
	}
	slices.SortStableFunc(order, func(a, b int) int { return replies[a].status - replies[b].status })
	for _, i := range order {
		h.accepted(reqs[i], replies[i])
	}
}

// published is what the API answers for one message.
type published struct {
	MessageID    string `json:"messageId"`
	URL          string `json:"url"`
	Deduplicated bool   `json:"deduplicated"`
}

// accepted compares the answer to a publish with what is expected, and takes note of the messages.
func (h *history) accepted(req *request, r *reply) {
	h.requests = append(h.requests, req)
	h.noteConfig(req)
	if r.lost {
		h.unknown = append(h.unknown, req)
		for _, it := range req.items {
			for _, key := range h.dedupKeys(it) {
				h.dedup(key).vague = true
			}
			h.noteQueue(req, it)
		}
		return
	}
	missing := ""
	for _, it := range req.items {
		if it.group() && len(h.group(it.dest).endpoints) == 0 {
			missing = it.dest
		}
	}
	switch {
	case r.status == 503:
		if h.quietStore() {
			h.badf("op %d: 503 while the store works: %s", req.op.n, r.body)
		}
		return
	case missing != "":
		if r.status != 404 {
			h.badf("op %d: the group %s does not exist, but the answer is %d %s", req.op.n, missing, r.status, r.body)
		}
		return
	case r.status != 200 && r.status != 202:
		h.badf("op %d: %d %s", req.op.n, r.status, r.body)
		return
	}
	var answers [][]published
	if req.op.kind == batch {
		var raw []json.RawMessage
		h.decode(r, &raw)
		if len(raw) != len(req.items) {
			h.badf("op %d: %d answers to %d items", req.op.n, len(raw), len(req.items))
			return
		}
		for i, it := range req.items {
			answers = append(answers, h.decodePublished(raw[i], it))
		}
	} else {
		answers = append(answers, h.decodePublished(r.body, req.items[0]))
	}
	n, duplicates := 0, 0
	for i, it := range req.items {
		urls := []string{it.dest}
		if it.group() {
			urls = slices.Clone(h.group(it.dest).endpoints)
		}
		if len(answers[i]) != len(urls) {
			h.badf("op %d: %d messages for the %d endpoints of %s", req.op.n, len(answers[i]), len(urls), it.dest)
			return
		}
		for j, a := range answers[i] {
			n++
			if it.group() && a.URL != urls[j] {
				h.badf("op %d: endpoint %d of %s is %s, want %s", req.op.n, j, it.dest, a.URL, urls[j])
			}
			if h.judgeDedup(req, it, urls[j], a) {
				duplicates++
				continue
			}
			h.noteQueue(req, it)
			index := n
			if req.op.kind == burst {
				index = 0
			}
			h.note(&sent{id: a.MessageID, item: it, req: req, index: index, url: urls[j], retries: it.maxRetries(), due: it.due(req.at)})
		}
	}
	if want := 200 + 2*b2i(duplicates == n); req.op.kind != batch && r.status != want {
		h.badf("op %d: status %d for %d duplicates of %d", req.op.n, r.status, duplicates, n)
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// note takes note of a message that was accepted.
func (h *history) note(s *sent) {
	if s.item.group() {
		s.group = s.item.dest
	}
	if s.item.queue != "" {
		s.queueGen = h.queue(s.item.queue).state.gen
	}
	s.call, s.done, s.at = s.req.call, s.req.done, s.req.at
	if h.byID[s.id] != nil {
		h.badf("op %d: the id %s was given before", s.req.op.n, s.id)
	}
	h.byID[s.id] = s
	h.sent = append(h.sent, s)
}

func (h *history) decode(r *reply, v any) {
	if err := json.Unmarshal(r.body, v); err != nil {
		h.badf("%v in %s", err, r.body)
	}
}

func (h *history) decodePublished(raw []byte, it *item) []published {
	if it.group() {
		var list []published
		h.decode(&reply{body: raw}, &list)
		return list
	}
	var one published
	h.decode(&reply{body: raw}, &one)
	return []published{one}
}

// dedupKeys returns the deduplication keys of an item, by what they are about.
func (h *history) dedupKeys(it *item) []string {
	urls := []string{""}
	if it.group() {
		urls = h.group(it.dest).endpoints
	}
	var keys []string
	for _, u := range urls {
		if k := dedupKey(it, u); k != "" {
			keys = append(keys, k)
		}
	}
	return keys
}

func dedupKey(it *item, url string) string {
	if !it.group() {
		url = ""
	}
	switch {
	case it.dedup != "":
		return "id " + it.dedup + " " + url
	case it.content:
		return "content " + it.dest + " " + it.body
	}
	return ""
}

func (h *history) dedup(key string) *dedupModel {
	if h.dedups[key] == nil {
		h.dedups[key] = &dedupModel{}
	}
	return h.dedups[key]
}

// judgeDedup says whether a message is a duplicate, and compares that with what is expected.
func (h *history) judgeDedup(req *request, it *item, url string, a published) bool {
	key := dedupKey(it, url)
	if key == "" {
		if a.Deduplicated {
			h.badf("op %d: deduplicated without a key", req.op.n)
		}
		return a.Deduplicated
	}
	d := h.dedup(key)
	want := req.at.Before(d.expires)
	switch {
	case d.vague, req.at.Sub(d.expires).Abs() < time.Millisecond:
		if a.Deduplicated {
			return true
		}
		d.vague = false
	case a.Deduplicated != want:
		h.badf("op %d: %s: deduplicated=%v, want %v: the first one's window ends at %v", req.op.n, key, a.Deduplicated, want, d.expires)
	case want && a.MessageID != d.id:
		h.badf("op %d: %s: a duplicate of %s, want %s", req.op.n, key, a.MessageID, d.id)
	}
	if !a.Deduplicated {
		window := dedupWindow
		if it.window > 0 {
			window = it.window
		}
		d.id, d.expires = a.MessageID, req.at.Add(window)
	}
	return a.Deduplicated
}

// quietStore reports whether no store is in trouble, so that no call may fail.
func (h *history) quietStore() bool {
	for _, n := range h.nodes {
		if n.p != nil && !n.p.eng.working() {
			return false
		}
	}
	return true
}

func (h *history) queue(name string) *queueModel {
	if h.queues[name] == nil {
		h.queues[name] = &queueModel{}
	}
	return h.queues[name]
}

// noteQueue takes note that a request may have made a queue.
func (h *history) noteQueue(req *request, it *item) {
	if it.queue == "" {
		return
	}
	q := h.queue(it.queue)
	if q.state.exists {
		return
	}
	if req.lost {
		h.doubtQueue(it.queue, req.call)
		return
	}
	q.set(req.call, req.settled, req.at, queueState{exists: true, gen: q.state.gen + 1, parallelism: 1})
}

func (q *queueModel) set(call, settled int64, at time.Time, s queueState) {
	q.state = s
	q.past = append(q.past, change[queueState]{call: call, settled: settled, at: at, values: []queueState{s}})
}

// queueAnswer is a queue as the API shows it.
type queueAnswer struct {
	Name        string `json:"name"`
	Parallelism int    `json:"parallelism"`
	Paused      bool   `json:"paused"`
	Lag         int    `json:"lag"`
	CreatedAt   int64  `json:"createdAt"`
}

// findQueues looks for queues that ticks have made.
func (h *history) findQueues() {
	p := h.healthy()
	if p == nil || len(h.doubts) > 0 {
		return
	}
	for _, s := range h.schedules {
		for _, v := range s.versions {
			if v.item == nil || v.item.queue == "" || h.queue(v.item.queue).state.exists {
				continue
			}
			r := p.call("GET", "/v2/queues/"+v.item.queue, nil, "")
			switch {
			case r.lost || r.status == 503:
				return // what was made since the last look is found by the next one
			case r.status != 200:
				continue
			}
			var a queueAnswer
			h.decode(r, &a)
			q := h.queue(v.item.queue)
			seq, _ := h.net.next()
			q.set(h.looked, seq, time.UnixMilli(a.CreatedAt), queueState{exists: true, gen: q.state.gen + 1, parallelism: a.Parallelism})
			q.past[len(q.past)-1].byMessage = true
		}
	}
	h.looked, _ = h.net.next()
}

// doubtQueue has the API asked how a queue stands after a call that was lost.
func (h *history) doubtQueue(name string, call int64) {
	asked := h.clock.Now()
	h.doubts = append(h.doubts, func() {
		q := h.queue(name)
		s := queueState{gen: q.state.gen}
		var a queueAnswer
		if h.insist("/v2/queues/"+name, &a) {
			s = queueState{exists: true, gen: q.state.gen, parallelism: a.Parallelism, paused: a.Paused}
			if !q.state.exists {
				s.gen++
			}
		}
		if s == q.state {
			return
		}
		seq, at := h.net.next()
		made := s.exists && !q.state.exists
		if made {
			at = time.UnixMilli(a.CreatedAt)
		}
		q.set(call, seq, at, s)
		if last := &q.past[len(q.past)-1]; made {
			last.byMessage = true
		} else {
			last.since = asked
		}
	})
}

func (h *history) changeQueue(p *process, o *op) {
	q := h.queue(o.name)
	next := q.state
	var r *reply
	want := 200
	switch o.kind {
	case putQueue:
		body := map[string]any{"queueName": o.name}
		if !next.exists {
			next = queueState{exists: true, gen: next.gen + 1, parallelism: 1}
		}
		if o.limits.parallelism > 0 {
			body["parallelism"], next.parallelism = o.limits.parallelism, o.limits.parallelism
		}
		if o.paused > 0 {
			body["paused"], next.paused = o.paused == 2, o.paused == 2
		}
		text, err := json.Marshal(body)
		if err != nil {
			panic(err)
		}
		r = p.call("POST", "/v2/queues", jsonHeader, string(text))
	case pauseQueue, resumeQueue:
		word := "/pause"
		if next.paused = o.kind == pauseQueue; !next.paused {
			word = "/resume"
		}
		if !next.exists {
			next.paused, want = false, 404
		}
		r = p.call("POST", "/v2/queues/"+o.name+word, nil, "")
	default:
		next = queueState{gen: next.gen}
		r = p.call("DELETE", "/v2/queues/"+o.name, nil, "")
	}
	settled := h.settle()
	if o.kind == deleteQueue && q.state.exists && (r.lost || r.ok()) {
		h.cancels = append(h.cancels, &cancelCall{
			call: r.call, done: r.done, at: r.at, status: r.status, lost: r.lost, queue: o.name,
			matches: inQueue(o.name, q.state.gen),
		})
	}
	switch {
	case r.lost:
		h.doubtQueue(o.name, r.call)
		return
	case r.status == 503:
		h.refused(o, r)
		if o.kind == deleteQueue {
			h.doubtQueue(o.name, r.call)
		}
		return
	case r.status != want:
		h.badf("op %d: %s %s: %d %s", o.n, o.kind, o.name, r.status, r.body)
		return
	}
	if want == 200 && next != q.state {
		q.set(r.call, settled, r.at, next)
	}
}

func inQueue(name string, gen int) func(*message) bool {
	return func(m *message) bool { return m.queue == name && m.queueGen == gen }
}

// refused judges a 503.
func (h *history) refused(o *op, r *reply) {
	if h.quietStore() {
		h.badf("op %d: %s: 503 while the store works: %s", o.n, o.kind, r.body)
	}
}

func (h *history) key(name string) *keyModel {
	if h.keys[name] == nil {
		h.keys[name] = &keyModel{}
	}
	return h.keys[name]
}

func (k *keyModel) set(call, settled int64, at time.Time, states ...keyState) {
	k.state = states[len(states)-1]
	k.past = append(k.past, change[keyState]{call: call, settled: settled, at: at, values: states})
}

// noteConfig takes note of the limits that messages of a request bring.
func (h *history) noteConfig(req *request) {
	if !req.lost && req.status != 200 && req.status != 202 {
		return
	}
	// Duplicates bring none.
	states := map[string][]keyState{}
	for _, it := range req.items {
		for _, f := range it.flows {
			if f.key != wildKey && f.key != pinnedKey {
				continue // always the same
			}
			k := h.key(f.key)
			last := k.state
			if s := states[f.key]; len(s) > 0 {
				last = s[len(s)-1]
			}
			next := last
			if !last.pinnedParallelism {
				next.parallelism = f.parallelism
			}
			if !last.pinnedRate {
				next.rate, next.period = f.rate, f.period
			}
			if it.dedup != "" && next != last {
				req.vagueKeys = append(req.vagueKeys, f.key)
			}
			states[f.key] = append(states[f.key], next)
		}
	}
	for name, list := range states {
		k := h.key(name)
		if !slices.ContainsFunc(list, func(s keyState) bool { return s != k.state }) {
			continue
		}
		before := k.state
		k.set(req.call, req.settled, req.at, list...)
		if req.lost || req.op.kind == burst || slices.Contains(req.vagueKeys, name) {
			h.doubtKey(name, req.call, append([]keyState{before}, list...)...)
		}
	}
}

// keyAnswer is a flow key as the API shows it.
type keyAnswer struct {
	Key               string `json:"flowControlKey"`
	Waiting           int    `json:"waitListSize"`
	Parallelism       int    `json:"parallelismMax"`
	InFlight          int    `json:"parallelismCount"`
	Rate              int    `json:"rateMax"`
	RateUsed          int    `json:"rateCount"`
	Period            int64  `json:"ratePeriod"`
	PeriodStart       int64  `json:"ratePeriodStart"`
	Paused            bool   `json:"isPaused"`
	PinnedParallelism bool   `json:"isPinnedParallelism"`
	PinnedRate        bool   `json:"isPinnedRate"`
}

func (a *keyAnswer) state() keyState {
	return keyState{
		limits: limits{a.Parallelism, a.Rate, time.Duration(a.Period) * time.Second}, paused: a.Paused,
		pinnedParallelism: a.PinnedParallelism, pinnedRate: a.PinnedRate,
	}
}

// doubtKey has the API asked how a key stands after a call of which nobody knows what it left; possible are the values that
// may have been in effect meanwhile.
func (h *history) doubtKey(name string, call int64, possible ...keyState) {
	h.doubts = append(h.doubts, func() {
		k := h.key(name)
		var a keyAnswer
		var s keyState
		if h.insist("/v2/flowControl/"+name, &a) {
			s = a.state()
		}
		seq, at := h.net.next()
		k.set(call, seq, at, append(slices.Clone(possible), s)...)
	})
}

func (h *history) changeKey(p *process, o *op) {
	k := h.key(o.name)
	hidden := false
	if r := p.call("GET", "/v2/flowControl/"+o.name, nil, ""); !r.lost && r.status == 404 && k.state != (keyState{}) {
		if k.state.paused || k.state.pinnedParallelism || k.state.pinnedRate {
			h.badf("key %s is gone, but was %+v", o.name, k.state)
		}
		hidden = true // KNOWN: B5
	}
	next := k.state
	if next.period == 0 {
		next.period = time.Second
	}
	target := "/v2/flowControl/" + o.name
	reset := false
	want := 200
	switch o.kind {
	case pauseKey:
		target, next.paused = target+"/pause", true
	case resumeKey:
		target, next.paused = target+"/resume", false
	case resetKey:
		target, reset = target+"/resetRate", true
	case pinKey:
		q := url.Values{}
		if o.limits.parallelism > 0 {
			q.Set("parallelism", fmt.Sprint(o.limits.parallelism))
			next.parallelism, next.pinnedParallelism = o.limits.parallelism, true
		}
		if o.limits.rate > 0 {
			q.Set("rate", fmt.Sprint(o.limits.rate))
			next.rate, next.pinnedRate, reset = o.limits.rate, true, true
			if o.limits.period > 0 {
				q.Set("period", fmt.Sprint(int(o.limits.period/time.Second)))
				next.period = o.limits.period
			}
		}
		target += "/pin?" + q.Encode()
	default:
		q := url.Values{}
		q.Set("parallelism", fmt.Sprint(o.flags[0]))
		q.Set("rate", fmt.Sprint(o.flags[1]))
		next.pinnedParallelism = next.pinnedParallelism && !o.flags[0]
		next.pinnedRate = next.pinnedRate && !o.flags[1]
		target += "/unpin?" + q.Encode()
	}
	before := k.state
	r := p.call("POST", target, nil, "")
	settled := h.settle()
	switch {
	case r.lost:
		h.doubtKey(o.name, r.call, before, next)
		if reset {
			k.resets = append(k.resets, leap{seq: -r.call, from: r.at})
		}
		return
	case r.status == 503:
		h.refused(o, r)
		return
	case r.status != want:
		h.badf("op %d: %s %s: %d %s", o.n, o.kind, target, r.status, r.body)
		return
	}
	k.set(r.call, settled, r.at, next)
	if hidden {
		h.doubtKey(o.name, r.call, before, next)
	}
	if reset {
		k.resets = append(k.resets, leap{seq: r.call, from: r.at})
	}
}

func (h *history) group(name string) *groupModel {
	if h.groups[name] == nil {
		h.groups[name] = &groupModel{}
	}
	return h.groups[name]
}

func (h *history) changeGroup(p *process, o *op) {
	g := h.group(o.name)
	next := slices.Clone(g.endpoints)
	type endpoint struct {
		URL string `json:"url"`
	}
	var list []endpoint
	for _, u := range o.endpoints {
		list = append(list, endpoint{u})
	}
	body, err := json.Marshal(map[string]any{"endpoints": list})
	if err != nil {
		panic(err)
	}
	var r *reply
	want := 200
	switch o.kind {
	case addToGroup:
		for _, u := range o.endpoints {
			if !slices.Contains(next, u) {
				next = append(next, u)
			}
		}
		r = p.call("POST", "/v2/topics/"+o.name+"/endpoints", jsonHeader, string(body))
	case takeOut:
		if len(next) == 0 {
			want = 404
		}
		next = slices.DeleteFunc(next, func(u string) bool { return slices.Contains(o.endpoints, u) })
		r = p.call("DELETE", "/v2/topics/"+o.name+"/endpoints", jsonHeader, string(body))
	default:
		next = nil
		r = p.call("DELETE", "/v2/topics/"+o.name, nil, "")
	}
	settled := h.settle()
	switch {
	case r.lost:
		h.doubts = append(h.doubts, func() {
			var a struct{ Endpoints []endpoint }
			var now []string
			if h.insist("/v2/topics/"+o.name, &a) {
				for _, e := range a.Endpoints {
					now = append(now, e.URL)
				}
			}
			seq, at := h.net.next()
			g.past = append(g.past, change[[]string]{call: r.call, settled: seq, at: at, values: [][]string{g.endpoints, next, now}})
			g.endpoints = now
		})
		return
	case r.status == 503:
		h.refused(o, r)
		return
	case r.status != want:
		h.badf("op %d: %s %s: %d %s", o.n, o.kind, o.name, r.status, r.body)
		return
	}
	if want == 200 {
		g.past = append(g.past, change[[]string]{call: r.call, settled: settled, at: r.at, values: [][]string{next}})
		g.endpoints = next
	}
}

func (h *history) schedule(id string) *scheduleModel {
	if h.schedules[id] == nil {
		h.schedules[id] = &scheduleModel{}
	}
	return h.schedules[id]
}

// now returns how a schedule stands.
func (s *scheduleModel) now() *scheduleVersion {
	if len(s.versions) == 0 {
		return &scheduleVersion{gone: true}
	}
	return s.versions[len(s.versions)-1]
}

func (h *history) changeSchedule(p *process, o *op) {
	s := h.schedule(o.name)
	next := *s.now()
	var r *reply
	want := 200
	switch o.kind {
	case putSchedule:
		it := o.items[0]
		if it.group() && len(h.group(it.dest).endpoints) == 0 {
			want = 404
		}
		header := it.headers(h.clock.Now())
		header["Upstash-Cron"], header["Upstash-Schedule-Id"] = o.cron, o.name
		if it.queue != "" {
			header["Upstash-Queue-Name"] = it.queue
		}
		r = p.call("POST", "/v2/schedules/"+it.dest, header, it.body)
		if next.gone || next.every != o.every || o.every == 0 {
			next.anchor = r.at
		}
		next.paused = next.paused && !next.gone
		next.gone, next.every, next.minute, next.item = false, o.every, o.number, it
	case stopTicks, startTicks:
		word := "/pause"
		if next.paused = o.kind == stopTicks; !next.paused {
			word = "/resume"
		}
		if next.gone {
			next.paused, want = false, 404
		}
		r = p.call("PATCH", "/v2/schedules/"+o.name+word, nil, "")
	default:
		next = scheduleVersion{gone: true}
		r = p.call("DELETE", "/v2/schedules/"+o.name, nil, "")
	}
	h.settle()
	next.seq, next.at, next.vague = r.call, r.at, false
	switch {
	case r.lost:
		next.vague = true
		s.versions = append(s.versions, &next)
		h.doubts = append(h.doubts, func() { h.askSchedule(o.name, s, &next) })
		return
	case r.status == 503:
		h.refused(o, r)
		return
	case r.status != want:
		h.badf("op %d: %s %s: %d %s", o.n, o.kind, o.name, r.status, r.body)
		return
	}
	if want == 200 {
		s.versions = append(s.versions, &next)
	}
}

// scheduleAnswer is a schedule as the API shows it.
type scheduleAnswer struct {
	ID         string            `json:"scheduleId"`
	Cron       string            `json:"cron"`
	Body       string            `json:"body"`
	Paused     bool              `json:"isPaused"`
	LastTime   int64             `json:"lastScheduleTime"`
	NextTime   int64             `json:"nextScheduleTime"`
	LastStates map[string]string `json:"lastScheduleStates"`
	Error      string            `json:"error"`
}

// askSchedule finds out whether a change of a schedule that was lost took effect.
func (h *history) askSchedule(id string, s *scheduleModel, maybe *scheduleVersion) {
	before := &scheduleVersion{gone: true}
	if i := slices.Index(s.versions, maybe); i > 0 {
		before = s.versions[i-1]
	}
	var a scheduleAnswer
	exists := h.insist("/v2/schedules/"+id, &a)
	now := *maybe
	if exists == maybe.gone || exists && (a.Paused != maybe.paused || maybe.item != nil && a.Body != maybe.item.body) {
		now = *before
	}
	now.seq, now.at = h.net.next()
	now.vague = false
	s.versions = append(s.versions, &now)
}

func (h *history) rotate(p *process) {
	r := p.call("POST", "/v2/keys/rotate", nil, "")
	settled := h.settle()
	var a struct{ Current, Next string }
	switch {
	case r.lost:
		h.doubts = append(h.doubts, func() {
			if h.insist("/v2/keys", &a) {
				seq, _ := h.net.next()
				h.rotations = append(h.rotations, rotation{r.call, seq, a.Current, a.Next})
			}
		})
	case r.status == 503:
		if h.quietStore() {
			h.badf("rotate: 503 while the store works: %s", r.body)
		}
	case r.status != 200:
		h.badf("rotate: %d %s", r.status, r.body)
	default:
		h.decode(r, &a)
		last := firstKeys.Next
		if n := len(h.rotations); n > 0 {
			last = h.rotations[n-1].next
		}
		if a.Current != last || a.Next == "" || a.Next == last {
			h.badf("rotate: the keys are %q and %q, the next one was %q", a.Current, a.Next, last)
		}
		h.rotations = append(h.rotations, rotation{r.call, settled, a.Current, a.Next})
	}
}

// cancelOne cancels a message that was accepted not long ago.
func (h *history) cancelOne(p *process, o *op) {
	if len(h.sent) == 0 {
		return
	}
	s := h.sent[max(0, len(h.sent)-1-o.target)]
	r := p.call("DELETE", "/v2/messages/"+s.id, nil, "")
	h.settle()
	c := &cancelCall{call: r.call, done: r.done, at: r.at, single: s.id, status: r.status, lost: r.lost, n: b2i(r.ok()),
		matches: func(m *message) bool { return m.id == s.id }}
	switch {
	case r.lost:
	case r.status == 503:
		h.refused(o, r)
		return
	case r.status != 200 && r.status != 404:
		h.badf("op %d: cancel: %d %s", o.n, r.status, r.body)
		return
	}
	h.cancels = append(h.cancels, c)
}

func (h *history) cancelMany(p *process, o *op) {
	q := url.Values{}
	var matches func(*message) bool
	switch o.filter {
	case "all":
		matches = func(*message) bool { return true }
	case "label":
		q.Set("label", o.name)
		matches = func(m *message) bool { return slices.Contains(m.labels, o.name) }
	case "queue":
		q.Set("queueName", o.name)
		matches = func(m *message) bool { return m.queue == o.name }
	case "key":
		q.Set("flowControlKey", o.name)
		matches = func(m *message) bool { return slices.Contains(m.keys, o.name) }
	case "group":
		q.Set("topicName", o.name)
		matches = func(m *message) bool { return m.group == o.name }
	case "schedule":
		q.Set("scheduleId", o.name)
		matches = func(m *message) bool { return m.schedule == o.name }
	case "ids":
		var ids []string
		for _, s := range h.sent[max(0, len(h.sent)-5):] {
			ids = append(ids, s.id)
		}
		if len(ids) == 0 {
			return
		}
		q.Set("messageIds", strings.Join(ids, ","))
		matches = func(m *message) bool { return slices.Contains(ids, m.id) }
	}
	if o.number > 0 {
		q.Set("count", fmt.Sprint(o.number))
	}
	r := p.call("DELETE", "/v2/messages?"+q.Encode(), nil, "")
	h.settle()
	var a struct{ Cancelled int }
	switch {
	case r.lost:
	case r.status == 503:
		h.refused(o, r)
		return
	case r.status != 200:
		h.badf("op %d: cancel: %d %s", o.n, r.status, r.body)
		return
	default:
		h.decode(r, &a)
	}
	h.cancels = append(h.cancels, &cancelCall{
		call: r.call, done: r.done, at: r.at, matches: matches, count: o.number, status: r.status, n: a.Cancelled, lost: r.lost,
	})
}

// deadEntry is a dead letter as the API shows it.
type deadEntry struct {
	DeadID         string              `json:"dlqId"`
	MessageID      string              `json:"messageId"`
	URL            string              `json:"url"`
	Body           string              `json:"body"`
	MaxRetries     int                 `json:"maxRetries"`
	QueueName      string              `json:"queueName"`
	Labels         []string            `json:"labels"`
	ResponseStatus int                 `json:"responseStatus"`
	ResponseHeader map[string][]string `json:"responseHeader"`
	ResponseBody   string              `json:"responseBody"`
}

type deadPage struct {
	Messages []*deadEntry `json:"messages"`
	Cursor   string       `json:"cursor"`
}

// handleDead retries or deletes dead letters.
func (h *history) handleDead(p *process, o *op) {
	var page deadPage // all of them
	for cursor := ""; ; {
		var next deadPage
		if !h.get(p, "/v2/dlq"+cursor, &next) {
			return
		}
		page.Messages = append(page.Messages, next.Messages...)
		if next.Cursor == "" {
			break
		}
		cursor = "?cursor=" + next.Cursor
	}
	if len(page.Messages) == 0 {
		return
	}
	var chosen []*deadEntry
	target := "/v2/dlq"
	method := "DELETE"
	if o.kind == retryDead {
		target, method = target+"/retry", "POST"
	}
	switch o.filter {
	case "one":
		chosen = []*deadEntry{page.Messages[o.target%len(page.Messages)]}
		target += "/" + chosen[0].DeadID
	case "ids":
		first := o.target % len(page.Messages)
		chosen = page.Messages[first:min(len(page.Messages), first+o.number)]
		var ids []string
		for _, e := range chosen {
			ids = append(ids, e.DeadID)
		}
		target += "?dlqIds=" + strings.Join(ids, ",")
	case "all":
		chosen = page.Messages[:min(len(page.Messages), o.number)]
		target += fmt.Sprintf("?count=%d", o.number)
	case "label":
		for _, e := range page.Messages {
			if slices.Contains(e.Labels, o.name) && len(chosen) < o.number {
				chosen = append(chosen, e)
			}
		}
		target += fmt.Sprintf("?count=%d&label=%s", o.number, o.name)
	}
	header := map[string]string{}
	if o.kind == retryDead && o.limits.rate >= 0 {
		header["Upstash-Retries"] = fmt.Sprint(o.limits.rate)
	}
	h.settle()
	r := p.call(method, target, header, "")
	settled := h.settle()
	call := &deadCall{call: r.call, done: r.done, at: r.at, retry: o.kind == retryDead, lost: r.lost}
	call.entries = chosen
	want := 200
	if call.retry {
		want = 201
	}
	switch {
	case r.lost:
		h.deadCalls = append(h.deadCalls, call)
		for _, e := range chosen {
			req := &request{op: o, call: r.call, done: r.done, at: r.at, settled: settled, lost: true, requeue: e}
			if it := h.itemOf(e); it != nil {
				req.items = []*item{it}
				h.noteConfig(req)
				h.noteQueue(req, it)
			}
			if call.retry {
				h.unknown = append(h.unknown, req)
			}
		}
		return
	case r.status == 503:
		h.refused(o, r)
		return
	case r.status != want:
		h.badf("op %d: %s %s: %d %s", o.n, o.kind, target, r.status, r.body)
		return
	}
	h.deadCalls = append(h.deadCalls, call)
	if !call.retry {
		var a struct{ Deleted int }
		if o.filter != "one" {
			if h.decode(r, &a); a.Deleted != len(chosen) {
				h.badf("op %d: %d dead letters deleted, want %d", o.n, a.Deleted, len(chosen))
			}
		}
		return
	}
	var made []published
	if o.filter == "one" {
		made = h.decodePublished(r.body, &item{dest: "://"})
	} else {
		var a struct{ Responses []published }
		h.decode(r, &a)
		made = a.Responses
	}
	if len(made) != len(chosen) {
		h.badf("op %d: %d dead letters retried, want %d", o.n, len(made), len(chosen))
		return
	}
	for i, e := range chosen {
		it := h.itemOf(e)
		req := &request{op: o, call: r.call, done: r.done, at: r.at, settled: settled, status: 200, requeue: e}
		s := &sent{id: made[i].MessageID, item: it, req: req, index: i, url: e.URL, requeue: e, retries: e.MaxRetries, due: r.at}
		if o.limits.rate >= 0 {
			s.retries = o.limits.rate
		}
		if it == nil { // a callback, or of a schedule
			s.item = &item{dest: e.URL, body: e.Body, queue: e.QueueName, retries: s.retries}
		} else {
			req.items = []*item{it}
			h.noteConfig(req)
		}
		h.noteQueue(req, s.item)
		h.note(s)
	}
}

// itemOf returns what a dead letter's message was asked for with; nil if nobody published it.
func (h *history) itemOf(e *deadEntry) *item {
	if s := h.byID[e.MessageID]; s != nil {
		return s.item
	}
	for _, s := range h.schedules {
		for _, v := range s.versions {
			if v.item != nil && v.item.body == e.Body {
				return v.item
			}
		}
	}
	for _, r := range h.unknown {
		for _, it := range r.items {
			if it.body == e.Body {
				return it
			}
		}
	}
	return nil
}

// finish brings everything to rest: nothing is paused, destinations answer, schedules are gone. Then all must be resolved.
func (h *history) finish() {
	for _, n := range h.nodes {
		if n.p != nil {
			n.p.eng.plan(0, false, nil)
			n.p.mu.Lock()
			n.p.point = ""
			n.p.mu.Unlock()
			n.p.eng.set(works)
		}
		n.wakeAt = time.Now()
	}
	h.mu.Lock()
	_, now := h.net.next()
	for _, t := range h.troubles {
		if t.to.IsZero() && !t.down {
			t.to = now
		}
	}
	h.mu.Unlock()
	h.sleep(time.Millisecond)
	h.settle()
	h.net.mu.Lock()
	h.net.calm = true
	h.net.mu.Unlock()
	p := h.caller(0)
	if p == nil {
		return
	}
	for name, s := range h.schedules {
		if !s.now().gone {
			h.changeSchedule(p, &op{n: -1, kind: endSchedule, name: name})
		}
	}
	for name, q := range h.queues {
		if q.state.exists && q.state.paused {
			h.changeQueue(p, &op{n: -1, kind: resumeQueue, name: name})
		}
	}
	for name, k := range h.keys {
		if k.state.paused {
			h.changeKey(p, &op{n: -1, kind: resumeKey, name: name})
		}
	}
	h.check(false)
	for round := range 300 {
		h.settle()
		if h.failed() {
			return
		}
		c := &checker{h: h, p: p}
		if !c.read() {
			h.badf("the log cannot be read at the end")
			return
		}
		_, now := h.net.next()
		left, next := 0, now.UnixMilli()
		for _, m := range c.messages {
			if m.final == "" {
				left++
				next = max(next, c.ripe(m, max(0, len(m.tries)-b2i(m.runs()))))
			}
		}
		if left == 0 {
			h.sleep(time.Second)
			h.settle()
			h.check(true)
			return
		}
		h.sleep(min(10*time.Minute, time.Duration(next-now.UnixMilli())*time.Millisecond+time.Duration(15+5*round)*time.Second))
	}
	h.check(true)
}
