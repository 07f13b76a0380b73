package sim

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// tick is a moment at which a schedule may or must fire.
type tick struct {
	at    int64
	must  bool
	by    int64 // the latest moment at which it may fire
	item  *item
	fired bool
}

// ticks holds schedules to their ticks.
func (c *checker) ticks() {
	for id, s := range c.h.schedules {
		c.schedule(id, s)
	}
}

func (c *checker) schedule(id string, s *scheduleModel) {
	// What it made, by moment.
	made := map[int64][]*message{}
	var moments []int64
	for _, m := range c.messages {
		if m.schedule != id || m.sent != nil || c.repeats(m) || m.source != nil {
			continue
		}
		if made[m.created] == nil {
			moments = append(moments, m.created)
		}
		made[m.created] = append(made[m.created], m)
	}
	slices.Sort(moments)
	due := c.expected(s)
	var last []*message // of the last tick that fired
	var lastAt int64
	for _, at := range moments {
		list := made[at]
		for len(list) > 0 {
			// Several may be late together. One whose delay fits is preferred, then one that must fire, then the earliest.
			var t *tick
			best := -1
			for i := range due {
				d := &due[i]
				if d.fired || d.at > at || at > d.by || d.item.body != list[0].body {
					continue
				}
				fits := d.at == at
				if d.item.delay > 0 {
					fits = max(at, d.at+d.item.delay.Milliseconds()) == list[0].due
				}
				if score := 2*b2i(fits) + b2i(d.must); score > best {
					t, best = d, score
				}
			}
			if t == nil {
				c.h.badf("schedule %s fired at %s, where there is no tick: %d messages like %s", id, clockTime(at), len(list), list[0].story())
				return
			}
			t.fired = true
			last, lastAt = list, t.at
			n := 1
			if t.item.group() {
				n = len(c.endpoints(t.item.dest, at))
				if n == 0 || c.groupChanged(t.item.dest, t.at, at) {
					n = len(list)
				}
			}
			if len(list) < n {
				c.h.badf("schedule %s fired at %s for %d of %d endpoints", id, clockTime(at), len(list), n)
				return
			}
			last = list[:n]
			for _, m := range last {
				want := at
				if t.item.delay > 0 {
					want = max(at, t.at+t.item.delay.Milliseconds())
				}
				if m.due != want {
					c.h.badf("schedule %s: tick at %s: due at %s, want %s: %s", id, clockTime(t.at), clockTime(m.due), clockTime(want), m.story())
				}
				if m.queue != t.item.queue || m.MaxRetries != t.item.maxRetries() || m.flows() != flowText(t.item.flows) {
					c.h.badf("schedule %s made %s, want %s", id, m.story(), t.item)
				}
			}
			list = list[n:]
		}
	}
	c.scheduleNow(id, s, last, lastAt)
	for _, t := range due {
		if t.must && !t.fired && t.by <= c.now {
			if t.item.group() && (len(c.endpoints(t.item.dest, t.at)) == 0 || c.groupChanged(t.item.dest, t.at, t.by)) {
				continue
			}
			text := ""
			for _, l := range c.h.leaps {
				text += fmt.Sprintf("\n    leap from %s to %s", clockTime(l.from.UnixMilli()), clockTime(l.to.UnixMilli()))
			}
			for _, at := range moments {
				text += fmt.Sprintf("\n    %d at %s", len(made[at]), clockTime(at))
			}
			c.h.badf("schedule %s did not fire at %s: %s%s", id, clockTime(t.at), t.item, text)
			return
		}
	}
}

// scheduleNow compares what the API shows of a schedule with what is true.
func (c *checker) scheduleNow(id string, s *scheduleModel, last []*message, lastAt int64) {
	if c.vague {
		return
	}
	v := s.now()
	var a scheduleAnswer
	if there := c.h.get(c.p, "/v2/schedules/"+id, &a); !there || v.gone {
		if there == v.gone {
			c.h.badf("schedule %s: there %v, want %v", id, there, !v.gone)
		}
		return
	}
	next := int64(0)
	if !v.paused {
		next = v.next(c.now)
	}
	if a.Paused != v.paused || a.NextTime != next && !c.leaptLately() {
		c.h.badf("schedule %s: paused %v and next at %s, want %v and %s", id, a.Paused, clockTime(a.NextTime), v.paused, clockTime(next))
	}
	if len(last) == 0 || last[0].created < c.bornAt(s) || c.h.plan.fireMissed || a.LastTime != lastAt {
		// It was deleted and made again, or a tick made nothing.
		return
	}
	states := map[string]string{}
	for _, m := range last {
		switch m.final {
		case "":
			states[m.id] = "IN_PROGRESS"
		case "DELIVERED":
			states[m.id] = "SUCCESS"
		default:
			states[m.id] = "FAIL"
		}
	}
	if !maps.Equal(states, a.LastStates) {
		c.h.badf("schedule %s: the last messages stand at %v, want %v", id, a.LastStates, states)
	}
}

// bornAt returns when the present life of a schedule began.
func (c *checker) bornAt(s *scheduleModel) int64 {
	born := int64(0)
	gone := true
	for _, v := range s.versions {
		if gone && !v.gone {
			born = v.at.UnixMilli()
		}
		gone = v.gone
	}
	return born
}

// leaptLately reports whether the clock leapt so shortly before that a schedule may not have noticed.
func (c *checker) leaptLately() bool {
	return slices.ContainsFunc(c.h.leaps, func(l leap) bool { return c.now-l.to.UnixMilli() <= 1000 })
}

// expected returns the ticks of a schedule up to now.
func (c *checker) expected(s *scheduleModel) []tick {
	var list []tick
	for i, v := range s.versions {
		if v.gone || v.paused || v.item == nil {
			continue
		}
		from, to := v.at.UnixMilli(), c.now
		vague := v.vague
		if i+1 < len(s.versions) {
			to = s.versions[i+1].at.UnixMilli()
		}
		for at := v.next(from); at <= to && len(list) < 20_000; at = v.next(at) {
			t := tick{at: at, must: !vague, by: at, item: v.item}
			c.excuse(&t, to)
			list = append(list, t)
		}
	}
	return list
}

// excuse allows a tick to be late, or missing, if it fell into a trouble, a downtime or a leap, or came so shortly before that
// it was still to fire.
func (c *checker) excuse(t *tick, to int64) {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	for last := int64(-1); t.by != last; {
		last = t.by
		for _, l := range c.h.leaps {
			from, end := l.from.UnixMilli(), l.to.UnixMilli()
			// The scheduler may notice a leap at its next look only.
			end += 1000
			if t.at > end || t.at <= from && t.by <= from {
				continue
			}
			if t.by = max(t.by, end); to <= t.by {
				t.must = false
			}
		}
		for _, tr := range c.h.troubles {
			end := c.now
			if !tr.to.IsZero() {
				end = tr.to.UnixMilli() + c.slack()
			}
			if t.by < tr.from.UnixMilli() || t.at > end {
				continue
			}
			t.by = max(t.by, end)
			// One that could not fire before the end of its process, or before the schedule changed, need not fire.
			if tr.down && t.at <= tr.to.UnixMilli() || tr.to.IsZero() || to <= end || c.troubleFollows(tr, end) {
				t.must = false
			}
		}
	}
	if t.by-t.at > 5*60_000 {
		t.must = false // it is as if the server had been down
	}
}

// troubleFollows reports whether a node went down before it had got over a trouble.
func (c *checker) troubleFollows(first *trouble, end int64) bool {
	for _, tr := range c.h.troubles {
		if tr != first && !tr.from.Before(first.from) && tr.from.UnixMilli() <= end {
			return true
		}
	}
	return false
}

// next returns the first tick after a moment.
func (v *scheduleVersion) next(ms int64) int64 {
	if v.every > 0 {
		anchor, every := v.anchor.UnixMilli(), v.every.Milliseconds()
		return anchor + max(1, (ms-anchor)/every+1)*every
	}
	minute := time.UnixMilli(ms).UTC().Truncate(time.Minute)
	for {
		if minute = minute.Add(time.Minute); minute.Minute()%v.minute == 0 {
			return minute.UnixMilli()
		}
	}
}

// endpoints returns the endpoints of a group at a moment, before any call of that moment.
func (c *checker) endpoints(name string, ms int64) []string {
	var list []string
	for _, ch := range c.h.group(name).past {
		if ch.at.UnixMilli() < ms {
			list = ch.values[len(ch.values)-1]
		}
	}
	return list
}

// groupChanged reports whether a group was changed around the time from one moment to another.
func (c *checker) groupChanged(name string, from, to int64) bool {
	return slices.ContainsFunc(c.h.group(name).past, func(ch change[[]string]) bool {
		at := ch.at.UnixMilli()
		return at >= from && at <= to || len(ch.values) > 1 && at <= to && from-at < 120_000
	})
}
