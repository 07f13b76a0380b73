//go:build crash

package crash

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"
)

// TestStop stops a server in order, under load, several times. Attempts end in their grace, so nothing is delivered twice, and
// who got no answer can be sure that nothing was accepted.
func TestStop(t *testing.T) {
	t.Parallel()
	rng := newRand(t)
	s := newServer(t, rng, false, "--grace", "30s")
	ctx := s.ctx
	l := newLoad(s, newReceiver(t))
	s.start("")
	l.start(ctx, workers, mix(rand.New(rand.NewPCG(rng.Uint64(), 0)), 1500))
	for i := range 4 {
		if !l.waitAccepted(ctx, 100+250*i+rng.IntN(200)) {
			break
		}
		s.stop()
		s.start("")
	}
	l.wait()
	s.stop() // with what is delayed still to come
	s.start("")
	a := l.verify(t)
	if n := sum(a.duplicates()); n > 0 {
		t.Errorf("got %d repeated deliveries, want none", n)
	}
}

// TestStopPastGrace stops a server whose destinations do not answer. The attempts are cut off when the grace is over, do not
// count, and are made again by the next life; all others are not.
func TestStopPastGrace(t *testing.T) {
	t.Parallel()
	rng := newRand(t)
	const grace = 700 * time.Millisecond
	s := newServer(t, rng, true, "--grace", grace.String())
	ctx := s.ctx
	r := newReceiver(t)
	l := newLoad(s, r)
	const slow = 20 // messages; their destination takes longer than the grace, and a stop finds them under way
	for range 3 {
		s.start("")
		total := 0
		before := r.arrived.count()
		l.start(ctx, 16, func(n int) []*spec {
			if total++; total > 3*slow {
				return nil
			}
			sp := newSpec(rng, n)
			if total <= slow {
				sp.wait = 4 * grace
			}
			return []*spec{sp}
		})
		l.wait()
		r.arrived.wait(ctx, before+3*slow)
		s.current().mayCut = true
		begin := time.Now()
		s.stop()
		if took := time.Since(begin); took > grace+10*time.Second {
			t.Errorf("the stop took %v with a grace of %v", took, grace)
		}
	}
	s.start("")
	a := l.verify(t)
	repeated := make(map[string]bool)
	for _, d := range a.deliveries {
		if repeated[d.id] && d.wait == 0 {
			t.Errorf("%s was delivered again in life %d, although its destination answers at once", a.specs[d.n], d.life)
		}
		repeated[d.id] = true
	}
	if n := sum(a.duplicates()); n == 0 {
		t.Error("no attempt was cut off, so nothing was tested")
	}
}

// TestStopWhileStarting asks servers to stop that are hardly up, or still have claims to take back.
func TestStopWhileStarting(t *testing.T) {
	t.Parallel()
	rng := newRand(t)
	s := newServer(t, rng, true, "--grace", "30s")
	ctx := s.ctx
	l := newLoad(s, newReceiver(t))
	s.start("")
	l.start(ctx, workers, mix(rand.New(rand.NewPCG(rng.Uint64(), 0)), 400))
	for range 4 {
		more, cancel := context.WithTimeout(ctx, 2*time.Second)
		l.receiver.waitMore(more, 1+rng.IntN(60))
		cancel()
		s.kill()
		s.start("")
		s.stop()
		s.start("")
	}
	l.wait()
	l.verify(t)
}
