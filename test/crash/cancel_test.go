//go:build crash

package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// A canceler asks for cancels and notes what is answered.
type canceler struct {
	load      *load
	confirmed *meter
}

// one cancels one message. Without an answer it stays unknown whether that was done.
func (c *canceler) one(ctx context.Context, sp *spec) {
	_, id := sp.snapshot()
	sp.mu.Lock()
	sp.canceled.asked = true
	sp.mu.Unlock()
	ok, err := c.load.client.cancel(ctx, id)
	if err != nil || !ok {
		return
	}
	c.confirm(sp)
	c.confirmed.add(1)
}

func (c *canceler) confirm(sp *spec) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.canceled.confirmed = time.Now()
}

// many cancels several messages in one request. If all of them were, that is confirmed for each.
func (c *canceler) many(ctx context.Context, specs []*spec, q url.Values) {
	for _, sp := range specs {
		sp.mu.Lock()
		sp.canceled.asked = true
		sp.mu.Unlock()
	}
	if n, err := c.load.client.cancelAll(ctx, q); err == nil && n == len(specs) {
		for _, sp := range specs {
			c.confirm(sp)
		}
		c.confirmed.add(n)
	}
}

// checkCancels sees to it that what was canceled in time was not delivered, and that what was canceled while an attempt ran
// was not attempted in a later life.
func (a *account) checkCancels(f *faults) (inTime int) {
	byID := make(map[string][]*delivery)
	for _, d := range a.deliveries {
		byID[d.id] = append(byID[d.id], d)
	}
	for _, sp := range a.specs {
		if _, id := sp.snapshot(); !sp.canceled.confirmed.IsZero() {
			early := sp.canceled.confirmed.Before(sp.sent.Add(sp.delay))
			if early {
				inTime++
			}
			for _, d := range byID[id] {
				if l := a.life(d.life); early || l != nil && l.begun.After(sp.canceled.confirmed) {
					f.add(faultCanceled, "%s was delivered %v after its cancel was confirmed: %s",
						sp, d.arrived.Sub(sp.canceled.confirmed), show(a.log[id]))
				}
			}
			if last := a.log[id]; early && len(last) > 0 && last[len(last)-1].State != "CANCELED" {
				f.add(faultCanceled, "the cancel of %s was confirmed, and it ended otherwise: %s", sp, show(last))
			}
		}
	}
	return inTime
}

// TestCancel confirms cancels of messages that wait for their time, or that are under way, and kills the server at that moment,
// or at a point near it.
func TestCancel(t *testing.T) {
	t.Parallel()
	rng := newRand(t)
	s := newServer(t, rng, true)
	ctx := s.ctx
	l := newLoad(s, newReceiver(t))
	c := &canceler{load: l, confirmed: newMeter()}
	s.start("")
	const (
		waiting = 80 // messages with a delay, of each round; one half is canceled one by one
		grouped = 20 // those that are canceled by one request
		held    = 4  // those that are canceled under way
	)
	for round := range 6 {
		total := 0
		first := len(l.all())
		before := l.receiver.arrived.count()
		l.start(ctx, workers, func(n int) []*spec {
			if total++; total > waiting+grouped+held {
				return nil
			}
			sp := newSpec(rng, n)
			switch {
			case total <= held:
				sp.hold = true
			case total <= held+grouped:
				sp.label = fmt.Sprintf("round-%d", round)
				fallthrough
			default:
				sp.delay = 2500*time.Millisecond + time.Duration(rng.IntN(1000))*time.Millisecond
			}
			return []*spec{sp}
		})
		l.wait()
		specs := l.all()[first:]
		if !l.receiver.arrived.wait(ctx, before+held) {
			t.Fatal("what is due at once did not arrive")
		}

		// Rounds end at the first confirmations, in their midst, or at a point within them.
		enough := 1 + rng.IntN(waiting/4)
		if round%2 == 1 {
			enough = waiting + grouped
			// The server has to be started with the point, so what is under way is cut off and repeated first.
			point := []string{"before-commit", "after-commit", "before-answer"}[round/2]
			s.kill()
			s.start(fmt.Sprintf("%s:%d", point, 6+rng.IntN(12)))
		}
		stop, done := context.WithCancel(ctx)
		var wg sync.WaitGroup
		life := s.current()
		for _, step := range split(specs[held+grouped:held+grouped+waiting/2], 8) {
			wg.Go(func() {
				for _, sp := range step {
					c.one(stop, sp)
				}
			})
		}
		wg.Go(func() { c.many(stop, specs[held:held+grouped], url.Values{"label": {specs[held].label}}) })
		wg.Go(func() {
			if round%4 < 2 {
				for _, sp := range specs[:held] {
					c.one(stop, sp)
				}
				return
			}
			ids := make([]string, held)
			for i, sp := range specs[:held] {
				_, ids[i] = sp.snapshot()
			}
			c.many(stop, specs[:held], url.Values{"messageIds": {strings.Join(ids, ",")}})
		})
		over, cancel := context.WithTimeout(ctx, 30*time.Second)
		go func() {
			select {
			case <-life.done:
			case <-over.Done():
			}
			cancel()
		}()
		c.confirmed.wait(over, c.confirmed.count()+enough)
		cancel()
		done()
		if !life.ended() {
			s.kill()
		}
		wg.Wait()
		s.start("")
		// What was under way and whose cancel did not succeed is there again, and is never answered. It is canceled now.
		for _, sp := range specs[:held] {
			if sp.canceled.confirmed.IsZero() {
				c.one(ctx, sp)
			}
		}
		s.kill()
		s.start("")
	}
	a := l.verify(t)
	var f faults
	n := a.checkCancels(&f)
	f.report(t)
	t.Logf("%d cancels were confirmed, %d of them before their messages were due", c.confirmed.count(), n)
	if n < 20 {
		t.Errorf("got %d cancels confirmed in time, want enough to tell", n)
	}
}

// split divides specs into n parts.
func split(specs []*spec, n int) [][]*spec {
	parts := make([][]*spec, n)
	for i, sp := range specs {
		parts[i%n] = append(parts[i%n], sp)
	}
	return parts
}

// TestCancelUnderLoad cancels messages of the mixed load at any moment of their lives, while the server is killed.
func TestCancelUnderLoad(t *testing.T) {
	t.Parallel()
	rng := newRand(t)
	s := newServer(t, rng, true)
	ctx := s.ctx
	l := newLoad(s, newReceiver(t))
	c := &canceler{load: l, confirmed: newMeter()}
	s.start("")
	l.start(ctx, workers/2, mix(rand.New(rand.NewPCG(rng.Uint64(), 0)), 1200))
	stop, done := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			own := rand.New(rand.NewPCG(*seedFlag, uint64(i)))
			for seen := 0; stop.Err() == nil; {
				if s.waitUp(stop) != nil {
					return
				}
				specs := l.all()
				for ; seen < len(specs) && stop.Err() == nil; seen++ {
					sp := specs[seen]
					for o, _ := sp.snapshot(); o == unsent && stop.Err() == nil; o, _ = sp.snapshot() {
						l.answered.wait(short(stop), l.answered.count()+1)
					}
					if o, _ := sp.snapshot(); o == accepted && sp.n%4 == i && own.IntN(3) == 0 {
						c.one(ctx, sp)
					}
				}
				l.answered.wait(short(stop), l.answered.count()+1)
			}
		})
	}
	for _, n := range []int{300, 600, 900} {
		if l.waitAccepted(ctx, n) {
			s.kill()
			s.start("")
		}
	}
	l.wait()
	done()
	wg.Wait()
	a := l.verify(t)
	var f faults
	n := a.checkCancels(&f)
	f.report(t)
	t.Logf("%d cancels were confirmed, %d of them before their messages were due", c.confirmed.count(), n)
}

// short returns a context that soon ends, for waits that look at more than one thing.
func short(ctx context.Context) context.Context {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	context.AfterFunc(ctx, cancel)
	return ctx
}
