//go:build crash

package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// workers is how many requests a load has under way.
const workers = 48

// mix returns a source of so many mixed messages, some of them in batches.
func mix(rng *rand.Rand, total int) func(n int) []*spec {
	batches := 0
	return func(n int) []*spec {
		if n >= total {
			return nil
		}
		if rng.IntN(50) > 0 {
			return []*spec{mixed(rng, n, 0)}
		}
		batches++
		specs := make([]*spec, 2+rng.IntN(9))
		for i := range specs {
			specs[i] = mixed(rng, n+i, batches)
		}
		return specs
	}
}

// TestKill kills a server in production mode again and again under thousands of publishes and deliveries of every kind.
func TestKill(t *testing.T) {
	begin := time.Now()
	for seed := *seedFlag; ; seed++ {
		ok := t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			killUnderLoad(t, rand.New(rand.NewPCG(seed, 0)))
		})
		if !ok || time.Since(begin) >= *soakFlag {
			return
		}
	}
}

func killUnderLoad(t *testing.T, rng *rand.Rand) {
	t.Helper()
	s := newServer(t, rng, false)
	ctx := s.ctx
	l := newLoad(s, newReceiver(t))
	s.start("")

	// The kills are planned by what has been accepted by then. Some are followed by another one, which hits a server that is
	// about to take back the claims of the one before.
	kills := make([]int, 6)
	for i := range kills {
		kills[i] = *loadFlag/50 + rng.IntN(*loadFlag*9/10)
	}
	slices.Sort(kills)
	again := make([]int, len(kills))
	for i := range again {
		again[i] = rng.IntN(3 * 40)
	}
	l.start(ctx, workers, mix(rand.New(rand.NewPCG(rng.Uint64(), 0)), *loadFlag))
	for i, n := range kills {
		if !l.waitAccepted(ctx, n) {
			break
		}
		s.kill()
		s.start("")
		if n := again[i]; n < 40 {
			few, cancel := context.WithTimeout(ctx, time.Second)
			l.receiver.waitMore(few, n)
			cancel()
			s.kill()
			s.start("")
		}
	}
	l.wait()
	// What is delayed or tried again is still to come.
	s.kill()
	s.start("")
	if a := l.verify(t); sum(a.duplicates()) == 0 {
		t.Error("no kill cut an attempt off, so nothing was tested")
	}
}

func sum(m map[int]int) int {
	total := 0
	for _, n := range m {
		total += n
	}
	return total
}

// waitAccepted waits until so many publishes were answered with success, or all have been made; then it returns false.
func (l *load) waitAccepted(ctx context.Context, n int) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		l.wg.Wait()
		cancel()
	}()
	return l.answered.wait(ctx, n)
}

// TestNoKill shows what the other tests rely on: without a kill nothing is delivered twice.
func TestNoKill(t *testing.T) {
	t.Parallel()
	rng := newRand(t)
	s := newServer(t, rng, true)
	l := newLoad(s, newReceiver(t))
	s.start("")
	l.start(s.ctx, workers, mix(rng, 1000))
	l.wait()
	a := l.verify(t)
	if n := sum(a.duplicates()); n > 0 || len(a.lives) != 1 {
		t.Errorf("got %d repeated deliveries in %d lives, want none in one", n, len(a.lives))
	}
	for _, sp := range a.specs {
		if o, _ := sp.snapshot(); o != accepted {
			t.Errorf("%s was not accepted", sp)
		}
	}
}

// points are the places at which a server can be made to kill itself.
var points = []string{
	"before-commit",     // a batch of operations is decided and not stored
	"after-commit",      // it is stored, and nobody knows
	"before-answer",     // of a batch to those who wait for it, and of a publish to its client
	"mid-attempt",       // a message is claimed, and its request not sent
	"before-settlement", // its destination has answered, and nobody recorded it
	"after-settlement",  // it is recorded, and what follows from that has not begun
}

// TestKillAtPoint kills servers at every point, at several visits: early ones, at which a restarted server takes back what the
// one before left, and late ones, under full load.
func TestKillAtPoint(t *testing.T) {
	for i, point := range points {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			rng := newRand(t)
			visits := []int{20 + rng.IntN(40), 1 + rng.IntN(3), 4 + rng.IntN(12), 50 + rng.IntN(50)}
			t.Logf("visits %v", visits)
			s := newServer(t, rng, i%2 == 0)
			ctx := s.ctx
			l := newLoad(s, newReceiver(t))
			next := mix(rand.New(rand.NewPCG(rng.Uint64(), 0)), 4000)
			l.start(ctx, workers/2, next)
			for _, visit := range visits {
				life := s.start(fmt.Sprintf("%s:%d", point, visit))
				all, cancel := context.WithCancel(ctx)
				go func() {
					l.wg.Wait()
					cancel()
				}()
				select {
				case <-life.done:
				case <-all.Done():
					t.Errorf("life %d did not reach visit %d of %s within %d publishes", life.n, visit, point, len(l.all()))
				}
				if cancel(); t.Failed() {
					return
				}
				if life.end != killed {
					t.Fatalf("life %d ended with status %d, want a kill:\n%s", life.n, life.exit, &life.output)
				}
			}
			s.start("")
			l.finish()
			l.verify(t)
		})
	}
}

// TestKillAtStart kills servers that make their data file, open it, or take over what is in it. The next one must come up
// and know everybody.
func TestKillAtStart(t *testing.T) {
	t.Parallel()
	for _, dev := range []bool{false, true} {
		t.Run(fmt.Sprintf("dev=%t", dev), func(t *testing.T) {
			t.Parallel()
			rng := newRand(t)
			for _, point := range []string{"before-commit", "after-commit"} {
				for visit := 1; ; visit++ {
					s := newServer(t, rng, dev)
					if l := s.start(fmt.Sprintf("%s:%d", point, visit)); !l.ended() {
						break // its start has no such visit
					}
					s.checkUsers()
				}
			}
			// Anywhere, also where there is no point: the moments spread over what a start takes.
			s := newServer(t, rng, dev)
			begin := time.Now()
			s.start("")
			took := time.Since(begin)
			s.kill()
			for range 6 {
				s := newServer(t, rng, dev)
				for range 4 {
					l := s.launch("")
					select {
					case <-time.After(time.Duration(rng.Int64N(int64(took)))):
					case <-l.done:
						t.Fatalf("life %d ended by itself, with status %d:\n%s", l.n, l.exit, &l.output)
					}
					s.kill()
				}
				s.checkUsers()
			}
		})
	}
}

// devTokens are the tokens that a development server has for tests with several users.
var devTokens = []string{
	devToken,
	"eyJVc2VySUQiOiJ0ZXN0VXNlcjEiLCJQYXNzd29yZCI6InRlc3RQYXNzd29yZCJ9",
	"eyJVc2VySUQiOiJ0ZXN0VXNlcjIiLCJQYXNzd29yZCI6InRlc3RQYXNzd29yZCJ9",
	"eyJVc2VySUQiOiJ0ZXN0VXNlcjMiLCJQYXNzd29yZCI6InRlc3RQYXNzd29yZCJ9",
}

// checkUsers starts a server after kills and asks with every token that it must know.
func (s *server) checkUsers() {
	s.t.Helper()
	s.start("")
	tokens := []string{serveToken}
	if s.dev {
		tokens = devTokens
	}
	for _, token := range tokens {
		c := newClient(s)
		c.token = token
		if _, err := c.log(s.ctx); err != nil {
			s.t.Errorf("after %d lives, token %s: %v", len(s.all()), token, err)
		}
	}
	s.kill()
}
