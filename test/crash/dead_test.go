//go:build crash

package crash

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// TestDeadLetters retries dead letters, each from two clients at once, while the server is killed. A retry takes the letter and
// makes a message, both or neither. As the messages fail again, there is one letter for each publish in the end.
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	rng := newRand(t)
	s := newServer(t, rng, true)
	ctx := s.ctx
	l := newLoad(s, newReceiver(t))
	const letters = 60
	s.start("")
	l.start(ctx, 16, func(n int) []*spec {
		if n >= letters {
			return nil
		}
		sp := newSpec(rng, n)
		sp.fail, sp.retries, sp.requeued = always, 0, true
		return []*spec{sp}
	})
	l.wait()
	if a, err := l.settle(ctx, patience); err != nil {
		t.Fatal(err)
	} else if len(a.dead) != letters {
		t.Fatalf("got %d dead letters, want %d", len(a.dead), letters)
	}

	var mu sync.Mutex
	retried := make(map[int]int) // retries that were confirmed, by publish
	open := make(map[int]int)    // and those without an answer
	for round, point := range []string{"", "before-commit", "after-commit", "before-answer", "mid-attempt"} {
		// As long as messages are under way their letters are still to come.
		if _, err := l.settle(ctx, patience); err != nil {
			t.Fatal(err)
		}
		list, err := l.client.dead(ctx)
		if err != nil {
			t.Fatal(err)
		}
		s.kill()
		if point != "" {
			point = fmt.Sprintf("%s:%d", point, 2+rng.IntN(6))
		}
		life := s.start(point)
		confirmed := newMeter()
		var wg sync.WaitGroup
		for _, d := range list {
			p, err := placeOf(d.URL)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				wg.Go(func() {
					ok, err := l.client.retryDead(ctx, d.DLQID)
					mu.Lock()
					defer mu.Unlock()
					switch {
					case err != nil:
						open[p.n]++
					case ok:
						retried[p.n]++
						confirmed.add(1)
					}
				})
			}
		}
		if point == "" {
			confirmed.wait(ctx, 1+rng.IntN(letters/2))
			s.kill()
		}
		select {
		case <-life.done:
		case <-time.After(time.Minute):
			t.Fatalf("round %d: life %d did not reach %s", round, life.n, point)
		}
		wg.Wait()
		s.start("")
	}
	a := l.verify(t)
	made := make(map[int]int)
	left := make(map[int]int)
	for id, entries := range a.log {
		if p, err := placeOf(entries[0].URL); err == nil {
			made[p.n]++
			left[p.n] += len(a.dead[id])
		}
	}
	for _, sp := range a.specs {
		low, high := 1+retried[sp.n], 1+retried[sp.n]+open[sp.n]
		if n := made[sp.n]; n < low || n > high {
			t.Errorf("%s: %s has %d messages, want at least %d and at most %d", faultDead, sp, n, low, high)
		}
		if n := left[sp.n]; n != 1 {
			t.Errorf("%s: %s has %d dead letters in the end, want one", faultDead, sp, n)
		}
	}
	t.Logf("%d retries were confirmed, %d had no answer", sum(retried), sum(open))
}
