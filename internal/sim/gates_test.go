package sim

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// never is later than everything.
const never = math.MaxInt64

// firstSeen returns the first attempt of a message that reached its destination.
func (m *message) firstSeen() *attempt {
	if list := m.arrivals[0]; len(list) > 0 {
		return list[0]
	}
	return nil
}

// lastSeen returns when the last attempt of a message ended at its destination, as a number of observations.
func (m *message) lastSeen() int64 {
	last := int64(0)
	for _, list := range m.arrivals {
		for _, a := range list {
			last = max(last, a.endSeq)
		}
	}
	return last
}

// resolvedAt returns when a message and its callbacks were resolved; never, if they are not.
func (m *message) resolvedAt() int64 {
	if m.final == "" {
		return never
	}
	at := m.finalAt
	for _, cb := range m.callbacks {
		if cb.final == "" {
			return never
		}
		at = max(at, cb.finalAt)
	}
	return at
}

// queues holds queues to their order, their parallelism and their pauses.
func (c *checker) queues() {
	for name, q := range c.h.queues {
		var list []*message
		for _, m := range c.messages {
			if m.queue == name && m.queueGen >= 0 {
				list = append(list, m)
			}
		}
		slices.SortFunc(list, func(a, b *message) int {
			return cmp.Compare(seqOf(a), seqOf(b))
		})
		for i, b := range list {
			for n, arrivals := range b.arrivals {
				for _, a := range arrivals {
					c.queueStart(name, q, b, n, a)
				}
			}
			start := b.firstSeen()
			if start == nil {
				continue
			}
			// Its slot counts since it took it, which may be long before its start: it then waited elsewhere, and the queue's
			// parallelism was lowered meanwhile.
			states := at(q.past, queueState{}, start.seq)
			if len(b.keys) > 0 || c.h.bounded() {
				states = between(q.past, queueState{}, b.due, start.seq)
			}
			most := 0
			for _, s := range states {
				if s.gen == b.queueGen {
					most = max(most, s.parallelism)
				}
			}
			if most == 0 {
				continue // the queue is as another call left it
			}
			open, others := 1, ""
			for _, a := range list[:i] {
				if a.queueGen == b.queueGen && a.resolvedAt() > start.at.UnixMilli() {
					open++
					others += "\n    " + a.story()
				}
			}
			if open > most && !c.troubled(start.at.UnixMilli()-20_000*int64(b2i(c.h.cluster != nil)), start.at.UnixMilli()) {
				c.h.badf("%d messages of queue %s were open at %s, with a parallelism of %d: %s%s", open, name,
					clockTime(start.at.UnixMilli()), most, b.story(), others)
			}
		}
		c.order(name, q, list)
	}
}

// seqOf orders messages by when destinations first saw them.
func seqOf(m *message) int64 {
	if a := m.firstSeen(); a != nil {
		return a.seq
	}
	return never
}

// queueStart checks a start in a queue.
func (c *checker) queueStart(name string, q *queueModel, m *message, n int, a *attempt) {
	states := at(q.past, queueState{}, a.seq)
	if !slices.ContainsFunc(states, func(s queueState) bool { return !s.paused }) {
		c.h.badf("queue %s was paused when attempt %d began at #%d, of %s", name, n, a.seq, m.story())
	}
	if !slices.ContainsFunc(states, func(s queueState) bool { return s.exists && s.gen == m.queueGen }) {
		c.h.badf("queue %s was deleted when attempt %d began at #%d, of %s", name, n, a.seq, m.story())
	}
}

// turn is when a message took its place in its queue: between two observations, or between two moments.
type turn struct {
	from, to int64 // sequence numbers, of those enqueued by a call; else 0
	item     int   // of the call
	fromTime int64
	toTime   int64
}

func (c *checker) turn(m *message) (t turn, ok bool) {
	due := c.firstMoment(m.due)
	t = turn{fromTime: due, toTime: due}
	if c.excused(due) || m.due > m.created && c.h.plan.maxInFlight < 2048 { // KNOWN: B6
		return t, false
	}
	if m.sent != nil && m.due == m.created {
		t.from, t.to, t.item = m.sent.call, m.sent.done, m.sent.index
	}
	return t, true
}

// before reports whether a surely took its place before b.
func (t turn) before(o turn) bool {
	if t.from == 0 || o.from == 0 {
		return t.toTime < o.fromTime
	}
	return t.to < o.from || t.from == o.from && t.item < o.item
}

// order holds a queue to its order: nothing starts while something ahead of it has not started.
func (c *checker) order(name string, q *queueModel, list []*message) {
	if c.h.cluster != nil {
		return
	}
	// What is ahead may hold a slot and wait elsewhere.
	hosts := c.h.plan.maxPerHost < 2048 || c.h.plan.breakHosts || c.h.plan.tenantLimit > 0
	for _, b := range list {
		start := b.firstSeen()
		if start == nil {
			continue
		}
		mine, ok := c.turn(b)
		if !ok || hosts && slices.ContainsFunc(at(q.past, queueState{}, start.seq), func(s queueState) bool { return s.parallelism > 1 }) {
			continue
		}
		for _, a := range list {
			if a == b || a.queueGen != b.queueGen || len(a.keys) > 0 || a.resolvedAt() <= start.at.UnixMilli() {
				continue
			}
			theirs, ok := c.turn(a)
			if !ok || !theirs.before(mine) {
				continue
			}
			first := a.firstSeen()
			if first == nil && a.cancel == start.at.UnixMilli() {
				continue
			}
			if first == nil || first.at.After(start.at) {
				if c.troubled(start.at.UnixMilli(), start.at.UnixMilli()) {
					continue
				}
				c.h.badf("queue %s: it was ahead:\n    %s\n    but this began before it: %s", name, a.story(), b.story())
			}
		}
	}
}

// keyStart is a start that counts at a flow key.
type keyStart struct {
	ms  int64
	seq int64
	m   *message
	n   int
	a   *attempt
}

// starts returns the starts of attempts with a key, in order.
func (c *checker) starts(key string) []keyStart {
	var list []keyStart
	for _, m := range c.messages {
		if !slices.Contains(m.keys, key) {
			continue
		}
		for n, arrivals := range m.arrivals {
			for i, a := range arrivals {
				s := keyStart{ms: a.at.UnixMilli(), seq: a.seq, m: m, n: n, a: a}
				if i == len(arrivals)-1 && n < len(m.tries) {
					s.ms = m.tries[n].active
				}
				list = append(list, s)
			}
		}
	}
	slices.SortFunc(list, func(a, b keyStart) int { return cmp.Or(cmp.Compare(a.ms, b.ms), cmp.Compare(a.seq, b.seq)) })
	return list
}

// window is a window of a rate, as it may be.
type window struct {
	from  int64
	used  int
	vague bool // more may be used
}

func (w window) roll(now, period int64) window {
	if period > 0 && now >= w.from+period {
		return window{from: now}
	}
	return w
}

// tenant holds the tenant to its limit of attempts at a time.
func (c *checker) tenant() {
	limit := c.h.plan.tenantLimit
	if limit == 0 {
		return
	}
	type event struct {
		seq int64
		n   int
	}
	var events []event
	for _, a := range c.attempts {
		if c.h.cluster != nil && c.leftUnrecorded(a) {
			continue
		}
		events = append(events, event{a.seq, 1})
		if a.endSeq != 0 {
			events = append(events, event{a.endSeq, -1})
		}
	}
	slices.SortFunc(events, func(a, b event) int { return cmp.Or(cmp.Compare(a.seq, b.seq), cmp.Compare(a.n, b.n)) })
	running := 0
	for _, e := range events {
		if running += e.n; running > limit {
			c.h.badf("%d attempts ran at #%d, of at most %d", running, e.seq, limit)
			return
		}
	}
}

// keys holds flow keys to their limits, pauses and order.
func (c *checker) keys() {
	c.windows = map[string][]window{}
	for name := range c.keyNames() {
		k := c.h.key(name)
		starts := c.starts(name)
		for _, s := range starts {
			states := c.keyStates(name, s.seq)
			if !slices.ContainsFunc(states, func(s keyState) bool { return !s.paused }) {
				c.h.badf("key %s was paused when attempt %d began at #%d, of %s", name, s.n, s.seq, s.m.story())
			}
			most := 0
			for _, st := range states {
				if st.parallelism == 0 {
					most = math.MaxInt
				}
				most = max(most, st.parallelism)
			}
			running, others := 0, ""
			for _, o := range starts {
				if o.seq <= s.seq && (o.a.endSeq == 0 || o.a.endSeq > s.seq) && (c.h.cluster == nil || !c.leftUnrecorded(o.a)) {
					running++
					others += "\n    " + o.m.story()
				}
			}
			if running > most {
				c.h.badf("%d attempts with key %s ran at %s #%d, with a parallelism of %d:%s", running, name, clockTime(s.ms), s.seq, most, others)
			}
		}
		c.rate(name, k, starts)
		c.line(name)
	}
}

// keyNames returns the keys that were named by anything.
func (c *checker) keyNames() map[string]bool {
	names := map[string]bool{}
	for name, k := range c.h.keys {
		names[name] = len(k.past) > 0
	}
	for _, m := range c.messages {
		for _, k := range m.keys {
			names[k] = true
		}
	}
	return names
}

// keyStates returns how a key may have been set at an observation after it was named by a message.
func (c *checker) keyStates(name string, seq int64) []keyState {
	states := at(c.h.key(name).past, keyState{}, seq)
	if name != wildKey && name != pinnedKey {
		for i := range states {
			states[i].limits = c.h.plan.keys[name]
		}
	}
	return states
}

// keyNow returns how a key is set now.
func (c *checker) keyNow(name string) keyState {
	s := c.h.key(name).state
	if name == wildKey || name == pinnedKey {
		return s
	}
	s.limits = limits{period: time.Second}
	if slices.ContainsFunc(c.messages, func(m *message) bool { return slices.Contains(m.keys, name) }) {
		s.limits = c.h.plan.keys[name]
	}
	return s
}

// rate holds a key to its rate: it follows all windows that are possible, which are many only where a crash hid something.
func (c *checker) rate(name string, k *keyModel, starts []keyStart) {
	type event struct {
		ms, seq  int64
		start    *keyStart
		reset    bool
		sure     bool
		seqBound int64 // of a crash
	}
	var events []event
	for i := range starts {
		events = append(events, event{ms: starts[i].ms, seq: starts[i].seq, start: &starts[i]})
	}
	for _, r := range k.resets {
		events = append(events, event{ms: r.from.UnixMilli(), seq: abs(r.seq), reset: true, sure: r.seq > 0})
	}
	for _, t := range c.h.troubles {
		if t.down {
			events = append(events, event{ms: t.from.UnixMilli(), seq: never, seqBound: t.seq})
		}
	}
	slices.SortStableFunc(events, func(a, b event) int { return cmp.Or(cmp.Compare(a.ms, b.ms), cmp.Compare(a.seq, b.seq)) })
	possible := []window{{from: math.MinInt64 / 2}}
	add := func(list []window, w window) []window {
		if slices.Contains(list, w) {
			return list
		}
		return append(list, w)
	}
	for _, e := range events {
		var next []window
		switch {
		case e.reset:
			if !e.sure {
				next = slices.Clone(possible)
			}
			next = add(next, window{from: e.ms})
		case e.start == nil:
			// Claims may have been made that no destination saw.
			for _, w := range possible {
				w.vague = true
				next = add(next, w)
				for _, s := range c.keyStates(name, e.seqBound) {
					if r := w.roll(e.ms, s.period.Milliseconds()); r.from == e.ms {
						r.vague = true
						next = add(next, r)
					}
				}
			}
		default:
			for _, w := range possible {
				for _, s := range c.keyStates(name, e.seq) {
					// At the very end of a window, what the API does not show tells whether it is over.
					for _, at := range []int64{e.ms, e.ms - 1} {
						r := w.roll(at, s.period.Milliseconds())
						if s.rate == 0 || r.used < s.rate {
							r.used++
							next = add(next, r)
						}
					}
				}
			}
			if len(next) == 0 {
				story := ""
				for _, s := range starts {
					if s.ms >= possible[0].from-30_000 && s.ms <= e.ms {
						story += fmt.Sprintf("\n    %s #%d %s", clockTime(s.ms), s.seq, s.m)
					}
				}
				c.h.badf("key %s %+v: a start too many at %s #%d, in a window from %s: %s%s", name, c.keyStates(name, e.seq), clockTime(e.ms), e.seq,
					clockTime(possible[0].from), e.start.m.story(), story)
				next = []window{{from: e.ms, used: 1}}
			}
		}
		if len(next) > 200 {
			next = next[:200]
		}
		possible = next
	}
	c.windows[name] = possible
}

// line holds those who wait at a key to their order.
func (c *checker) line(key string) {
	if c.h.bounded() || c.h.cluster != nil {
		return
	}
	type wait struct {
		m          *message
		n          int
		from, till int64
	}
	var list []wait
	for _, m := range c.messages {
		if m.queue != "" || len(m.keys) != 1 || m.keys[0] != key {
			continue
		}
		for n := range len(m.tries) + 1 {
			w := wait{m: m, n: n, till: never}
			switch {
			case n == len(m.tries) && (n > 0 && m.tries[n-1].end < 0 || len(m.arrivals[n]) > 0):
				continue // it runs, or ran when its process ended
			case n == len(m.tries) && m.final != "" && (m.final != "CANCELED" || n > 0 && m.tries[n-1].state != "RETRY"):
				continue
			case n < len(m.tries):
				w.till = m.tries[n].active
				if len(m.arrivals[n]) > 1 {
					continue
				}
			case m.cancel >= 0:
				w.till = m.cancel
			}
			if w.from = c.firstMoment(c.ripe(m, n)); w.from < w.till {
				list = append(list, w)
			}
		}
	}
	for _, a := range list {
		for _, b := range list {
			if a.m == b.m || b.n >= len(b.m.tries) || b.m.Priority < a.m.Priority || b.m.Priority == a.m.Priority && b.from <= a.from {
				continue
			}
			if start := b.till; start > a.from && start < a.till && !c.troubled(min(a.from, b.from), start) {
				c.h.badf("key %s: attempt %d waited from %s to %s, of %s\n    and attempt %d waited behind it from %s, but began before, of %s",
					key, a.n, clockTime(a.from), clockTime(a.till), a.m.story(), b.n, clockTime(b.from), b.m.story())
			}
		}
	}
}

// runs reports whether an attempt of the message runs.
func (m *message) runs() bool {
	for _, list := range m.arrivals {
		for _, a := range list {
			if a.endSeq == 0 {
				return true
			}
		}
	}
	return false
}

// waits reports whether a message is due before a moment and does not run.
func (c *checker) waits(m *message, before int64) bool {
	return m.final == "" && !m.runs() && c.firstMoment(c.ripe(m, len(m.tries))) < before
}

// inFlight counts what runs with a key.
func (c *checker) inFlight(key string) int {
	n := 0
	for _, m := range c.messages {
		n += b2i(slices.Contains(m.keys, key) && m.runs())
	}
	return n
}

// counters compares the counters of the API with what is true.
func (c *checker) counters() {
	if c.vague {
		return
	}
	var queues []queueAnswer
	if !c.h.get(c.p, "/v2/queues", &queues) {
		return
	}
	there := map[string]bool{}
	for _, a := range queues {
		there[a.Name] = true
		s := c.h.queue(a.Name).state
		if !s.exists || s.parallelism != a.Parallelism || s.paused != a.Paused {
			c.h.badf("queue %s is %+v, want %+v", a.Name, a, s)
		}
		lag, members := 0, ""
		for _, m := range c.messages {
			if m.queue == a.Name && m.final == "" && m.queueGen == s.gen {
				lag++
				members += "\n    " + m.String()
			}
		}
		if lag != a.Lag {
			c.h.badf("queue %s has a lag of %d, want %d:%s", a.Name, a.Lag, lag, members)
		}
	}
	for name, q := range c.h.queues {
		if q.state.exists && !there[name] {
			c.h.badf("queue %s is not listed", name)
		}
	}
	var keys []keyAnswer
	if !c.h.get(c.p, "/v2/flowControl", &keys) {
		return
	}
	there = map[string]bool{}
	for _, a := range keys {
		there[a.Key] = true
		c.key(&a)
	}
	for name, named := range c.keyNames() {
		k := c.h.key(name)
		live := slices.ContainsFunc(c.messages, func(m *message) bool { return m.final == "" && slices.Contains(m.keys, name) })
		if named && !there[name] && (live || k.state.paused || k.state.pinnedParallelism || k.state.pinnedRate) {
			c.h.badf("key %s is not listed", name)
		}
	}
	var global struct{ ParallelismMax, ParallelismCount int }
	if running := len(c.h.net.inFlight()); c.h.get(c.p, "/v2/globalParallelism", &global) &&
		(global.ParallelismCount != running || global.ParallelismMax != c.h.plan.tenantLimit) {
		c.h.badf("%d attempts run of at most %d, by the API %+v", running, c.h.plan.tenantLimit, global)
	}
}

func b2i64(b bool) int64 { return int64(b2i(b)) }

// forgotten reports whether a key may have been dropped because nothing named it for a while, and made again.
func (c *checker) forgotten(key string, s keyState) bool {
	k := c.h.key(key)
	s.paused = k.state.paused
	if s != (keyState{limits: limits{period: time.Second}, paused: s.paused}) || k.state.pinnedParallelism || k.state.pinnedRate {
		return false
	}
	if slices.ContainsFunc(c.messages, func(m *message) bool {
		return slices.Contains(m.keys, key) && (m.final == "" || c.now-m.finalAt < 600_000)
	}) {
		return false
	}
	seq, at := c.h.net.next()
	k.set(seq, seq, at, s)
	return true
}

// key compares a flow key with what is true.
func (c *checker) key(a *keyAnswer) {
	if !c.keyNames()[a.Key] {
		c.h.badf("there is a key %s", a.Key)
		return
	}
	want := c.keyNow(a.Key)
	if s := a.state(); s != want {
		if !c.forgotten(a.Key, s) {
			c.h.badf("key %s is %+v, want %+v", a.Key, s, want)
		}
		want = s
	}
	if n := c.inFlight(a.Key); n != a.InFlight {
		c.h.badf("%d attempts with key %s run, by the API %d", n, a.Key, a.InFlight)
	}
	least, most, members := 0, 0, ""
	for _, m := range c.messages {
		// What the API shows in milliseconds is exact to the microsecond.
		if !slices.Contains(m.keys, a.Key) || !c.waits(m, c.now+1) {
			continue
		}
		most++
		members += "\n    " + m.story()
		if len(m.keys) == 1 && m.queue == "" && !c.h.bounded() && c.waits(m, c.now) {
			least++
		}
	}
	if a.Waiting < least || a.Waiting > most {
		c.h.badf("key %s: %d wait by the API, want %d to %d:%s", a.Key, a.Waiting, least, most, members)
	}
	possible := c.windows[a.Key]
	period := want.period.Milliseconds()
	ok := false
	for _, w := range possible {
		for _, w := range []window{w.roll(c.now, period), w.roll(c.now-1, period)} {
			used := w.used
			if want.rate == 0 {
				used = 0
			}
			start := int64(0)
			if w.from > 0 {
				start = w.from / 1000
			}
			ok = ok || abs(a.PeriodStart-start) <= b2i64(w.used == 0) && (a.RateUsed == used || w.vague && a.RateUsed >= used)
		}
	}
	if !ok && len(possible) < 200 {
		c.h.badf("key %s: %d used since %d by the API, want one of %+v at %d", a.Key, a.RateUsed, a.PeriodStart, possible, c.now)
	}
}

// blocked reports whether a key may hold something back.
func (c *checker) blocked(key string) bool {
	s := c.keyNow(key)
	if s.paused || s.parallelism > 0 && c.inFlight(key) >= s.parallelism {
		return true
	}
	return s.rate > 0 && slices.ContainsFunc(c.windows[key], func(w window) bool {
		return (w.used >= s.rate || w.vague) && c.now <= w.from+s.period.Milliseconds()
	})
}

// heldBack reports whether some key, or the host, may hold a message back.
func (c *checker) heldBack(m *message) bool {
	if slices.ContainsFunc(m.keys, c.blocked) {
		return true
	}
	host, _, _ := strings.Cut(strings.TrimPrefix(m.url, "http://"), "/")
	if c.h.plan.breakHosts && host == c.h.plan.mood.dead {
		return true
	}
	if c.h.plan.maxPerHost >= 2048 {
		return false
	}
	running := 0
	for _, a := range c.h.net.inFlight() {
		running += b2i(strings.HasPrefix(a.url, "http://"+host+"/"))
	}
	return running >= c.h.plan.maxPerHost
}

// waiting checks that nothing waits that may start.
func (c *checker) waiting() {
	if c.vague {
		return
	}
	running := len(c.h.net.inFlight())
	room := c.h.plan.maxInFlight - c.h.plan.maxInFlight/8 // the rest is left to new messages
	if limit := c.h.plan.tenantLimit; running >= room || limit > 0 && running >= limit {
		return
	}
	type line struct{ open, mayHold, free int }
	lines := map[string]*line{}
	for _, m := range c.messages {
		if m.queue != "" && lines[m.queue] == nil {
			lines[m.queue] = &line{}
		}
		q := c.h.queues[m.queue]
		if m.queue != "" && (m.queueGen < 0 || q == nil || m.queueGen != q.state.gen) {
			continue
		}
		started := m.firstSeen() != nil
		if m.queue != "" && started && m.resolvedAt() == never {
			lines[m.queue].open++
		}
		if !c.waits(m, c.now) {
			continue
		}
		switch {
		case c.heldBack(m):
			if m.queue != "" && !started {
				lines[m.queue].mayHold++
			}
		case m.queue != "" && q.state.paused:
		case m.queue != "" && !started:
			lines[m.queue].free++
		default:
			c.h.badf("at %s nothing holds it back (%d run), but it waits: %s", clockTime(c.now), running, m.story())
		}
	}
	for name, l := range lines {
		if q := c.h.queues[name]; q != nil && !q.state.paused && l.free > 0 && l.open+l.mayHold < q.state.parallelism {
			var members strings.Builder
			for _, m := range c.messages {
				if m.queue == name && m.resolvedAt() == never {
					members.WriteString("\n    " + m.story())
				}
			}
			c.h.badf("at %s %d messages wait at queue %s, of which %d are open and %d wait elsewhere, with a parallelism of %d:%s",
				clockTime(c.now), l.free, name, l.open, l.mayHold, q.state.parallelism, members.String())
		}
	}
}
