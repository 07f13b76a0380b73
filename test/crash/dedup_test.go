//go:build crash

package crash

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// TestDeduplication publishes with one id for deduplication from many clients at once, over two listeners and across a kill. Clients without an answer
// ask again, which is what the id is for.
func TestDeduplication(t *testing.T) {
	t.Parallel()
	rng := newRand(t)
	s := newServer(t, rng, false)
	ctx := s.ctx
	l := newLoad(s, newReceiver(t))
	const clients = 200
	for round, crashAt := range []string{
		"", "", "", // killed when some were answered
		"before-commit:%d", "after-commit:%d", "before-answer:%d",
	} {
		if crashAt != "" {
			crashAt = fmt.Sprintf(crashAt, 2+rng.IntN(4))
		}
		life := s.start(crashAt)
		enough := l.answered.count() + 1 + rng.IntN(clients)
		// Every client has a destination of its own, so it shows if there is more than one message.
		var wg sync.WaitGroup
		for range clients {
			sp := l.add(func(n int) *spec {
				sp := newSpec(rng, n)
				sp.dedup, sp.shared = fmt.Sprintf("round-%d", round), true
				return sp
			})
			wg.Go(func() { l.publish(ctx, []*spec{sp}) })
		}
		if crashAt == "" {
			l.answered.wait(ctx, enough)
			s.kill()
		} else {
			select {
			case <-life.done:
			case <-time.After(time.Minute):
				t.Fatalf("life %d did not reach %s", life.n, crashAt)
			}
		}
		s.start("")
		wg.Wait()
		s.kill()
	}
	s.start("")
	l.verify(t)
}
