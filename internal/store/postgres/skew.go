package postgres

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// A skew is how far the server's clock is ahead of this machine's. What becomes due is decided by the server's; a node that knows the
// difference looks for it at the right moment.
type skew struct {
	mu    sync.Mutex
	ahead time.Duration
	width time.Duration // how long the reading took
	at    time.Time     // when it was taken; zero: never
}

// skewAge is how long a reading is preferred to one that took longer.
const skewAge = 30 * time.Second

// note takes a reading of the server's clock, in µs, that was asked for and came at the given moments.
func (s *skew) note(us int64, asked, came time.Time) {
	width := came.Sub(asked)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at.IsZero() || width <= s.width || came.Sub(s.at) > skewAge {
		s.ahead, s.width, s.at = time.UnixMicro(us).Sub(asked.Round(0).Add(width/2)), width, came
	}
}

// probe reads the clock a few times.
func (s *skew) probe(ctx context.Context, conn *pgx.Conn) error {
	for range 3 {
		var us int64
		asked := time.Now()
		if err := conn.QueryRow(ctx, readTime).Scan(&us); err != nil {
			return err
		}
		s.note(us, asked, time.Now())
	}
	return nil
}

// Skew returns how far the server's clock is ahead of this machine's, as the last readings tell.
func (e *Engine) Skew() time.Duration {
	e.skew.mu.Lock()
	defer e.skew.mu.Unlock()
	return e.skew.ahead
}
