package clock_test

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/posthaste/posthaste/internal/clock"
)

func TestNow(t *testing.T) {
	c := clock.New()
	before := time.Now()
	got := c.Now()
	after := time.Now()
	if got.Before(before.Truncate(time.Microsecond)) || got.After(after) {
		t.Errorf("got %v, want between %v and %v", got, before, after)
	}
	if got.Location() != time.UTC {
		t.Errorf("got location %v, want UTC", got.Location())
	}
	if got.Nanosecond()%1000 != 0 {
		t.Errorf("got %v, want whole microseconds", got)
	}
	// Without a monotonic reading a time is equal to itself in every form.
	if again := time.UnixMicro(got.UnixMicro()).UTC(); again != got {
		t.Errorf("got %#v, want %#v", got, again)
	}
}

func TestAdvance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clock.New()
		start := c.Now()
		if got := c.Advance(90 * time.Minute); got != start.Add(90*time.Minute) || got != c.Now() {
			t.Errorf("got %v, want %v", got, start.Add(90*time.Minute))
		}
		time.Sleep(time.Minute)
		if got, want := c.Now(), start.Add(91*time.Minute); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
		if got := c.Until(start); got != -91*time.Minute {
			t.Errorf("got %v until the start, want -91m", got)
		}
		c.Advance(0)
		if got := c.Offset(); got != 90*time.Minute {
			t.Errorf("got offset %v, want 90m", got)
		}
		c.Advance(math.MaxInt64)
		if got := c.Offset(); got != math.MaxInt64 {
			t.Errorf("got offset %v, want the largest", got)
		}
		if now := c.Now(); !now.After(start) {
			t.Errorf("got %v after the largest advance, want after %v", now, start)
		}
	})
}

func TestAdvanceBackwards(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("got no panic")
		}
	}()
	clock.New().Advance(-1)
}

func TestWait(t *testing.T) {
	cause := errors.New("stopped")
	tests := []struct {
		name    string
		until   time.Duration
		advance []time.Duration // one each second
		cancel  time.Duration   // 0: never
		wantErr error
		took    time.Duration // in real time
	}{
		{name: "past", until: -time.Hour},
		{name: "now", until: 0},
		{name: "short", until: time.Second, took: time.Second},
		{name: "less than a microsecond", until: 300, took: 1200}, // in naps of 300 ns, until the microsecond is over
		{name: "days", until: 72 * time.Hour, took: 72 * time.Hour},
		{name: "advanced to the moment", until: time.Hour + time.Second, advance: []time.Duration{time.Hour}, took: time.Second},
		{name: "advanced beyond it", until: time.Hour, advance: []time.Duration{1000 * time.Hour}, took: time.Second},
		{
			name: "advanced short of it", until: time.Hour + 5*time.Second,
			advance: []time.Duration{30 * time.Minute, 29 * time.Minute, time.Minute}, took: 5 * time.Second,
		},
		{name: "canceled", until: time.Hour, cancel: time.Minute, wantErr: cause, took: time.Minute},
		{name: "canceled after an advance", until: time.Hour, advance: []time.Duration{time.Minute}, cancel: time.Minute, wantErr: cause, took: time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				c := clock.New()
				start, moment := time.Now(), c.Now().Add(tt.until)
				var wg sync.WaitGroup
				defer wg.Wait()
				wg.Go(func() {
					for _, d := range tt.advance {
						time.Sleep(time.Second)
						c.Advance(d)
					}
				})
				if tt.cancel != 0 {
					wg.Go(func() {
						time.Sleep(tt.cancel)
						cancel(cause)
					})
				}
				err := c.Wait(ctx, moment)
				if !errors.Is(err, tt.wantErr) {
					t.Errorf("got %v, want %v", err, tt.wantErr)
				}
				if err == nil && c.Until(moment) > 0 {
					t.Errorf("woke %v early", c.Until(moment))
				}
				if took := time.Since(start); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
			})
		})
	}
}

func TestSystemClockLeaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clock.New()
		for _, leap := range []time.Duration{-time.Minute, time.Minute, 24 * time.Hour} {
			moment := c.Now().Add(10 * time.Minute)
			timer := c.NewTimer(moment)
			time.Sleep(time.Minute)
			leapt := time.Now()
			c.Leap(leap)
			ready := c.Until(moment)
			<-timer.C
			if early := c.Until(moment); early > 0 {
				t.Errorf("after a leap of %v: woke %v early", leap, early)
			}
			if late := time.Since(leapt) - max(ready, 0); late > clock.MaxSleep {
				t.Errorf("after a leap of %v: woke %v late", leap, late)
			}
		}
	})
}

func TestWaitOnDoneContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := clock.New()
	if err := c.Wait(ctx, c.Now().Add(-time.Hour)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock.Clock // the zero value works
		start := c.Now()
		timer := c.NewTimer(start.Add(time.Minute))
		if got := <-timer.C; got != start.Add(time.Minute) {
			t.Errorf("got %v, want %v", got, start.Add(time.Minute))
		}
		if timer.Stop() {
			t.Error("a timer that fired was still armed")
		}

		// A value of before is never read after Reset or Stop.
		if timer.Reset(c.Now()) {
			t.Error("a stopped timer was armed")
		}
		synctest.Wait()
		if timer.Reset(c.Now().Add(time.Hour)) {
			t.Error("a timer that fired was still armed")
		}
		select {
		case at := <-timer.C:
			t.Errorf("got %v from before the reset", at)
		default:
		}
		c.Advance(time.Hour)
		synctest.Wait()
		timer.Stop()
		select {
		case at := <-timer.C:
			t.Errorf("got %v from before the stop", at)
		default:
		}

		// Reset to an earlier moment, then to a later one.
		if timer.Reset(c.Now().Add(time.Hour)); !timer.Reset(c.Now().Add(time.Second)) {
			t.Error("an armed timer was not armed")
		}
		<-timer.C
		timer.Reset(c.Now().Add(time.Second))
		later := c.Now().Add(time.Hour)
		timer.Reset(later)
		if got := <-timer.C; got != later {
			t.Errorf("got %v, want %v", got, later)
		}

		// A stopped timer does not come back when the clock moves.
		timer.Reset(c.Now().Add(time.Hour))
		if !timer.Stop() {
			t.Error("an armed timer was not armed")
		}
		c.Advance(2 * time.Hour)
		time.Sleep(2 * time.Hour)
		select {
		case at := <-timer.C:
			t.Errorf("got %v from a stopped timer", at)
		default:
		}
	})
}

func TestAfterFunc(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clock.New()
		var calls atomic.Int32
		timer := c.AfterFunc(c.Now().Add(time.Hour), func() {
			calls.Add(1)
			c.Advance(0) // the clock may be used from within
		})
		c.Advance(time.Hour - 1)
		synctest.Wait()
		if got := calls.Load(); got != 0 {
			t.Fatalf("got %d calls before the moment, want 0", got)
		}
		c.Advance(1)
		synctest.Wait()
		if got := calls.Load(); got != 1 {
			t.Fatalf("got %d calls, want 1", got)
		}
		timer.Reset(c.Now().Add(time.Minute))
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := calls.Load(); got != 2 {
			t.Errorf("got %d calls after a reset, want 2", got)
		}
	})
}

// TestConcurrent: whatever the order of waits and advances, every wait ends, and none before its moment.
func TestConcurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clock.New()
		start := c.Now()
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				moment := start.Add(time.Duration(i*i) * time.Second)
				if err := c.Wait(t.Context(), moment); err != nil {
					t.Error(err)
				}
				if early := c.Until(moment); early > 0 {
					t.Errorf("woke %v early", early)
				}
			})
		}
		for range 8 {
			wg.Go(func() {
				last := c.Now()
				for range 100 {
					c.Advance(10 * time.Second)
					now := c.Now()
					if now.Before(last) {
						t.Errorf("got %v after %v", now, last)
					}
					last = now
				}
			})
		}
		wg.Wait()
	})
}

func BenchmarkNow(b *testing.B) {
	c := clock.New()
	for b.Loop() {
		c.Now()
	}
}

func BenchmarkTimer(b *testing.B) {
	c := clock.New()
	timer := c.NewTimer(c.Now().Add(time.Hour))
	defer timer.Stop()
	for b.Loop() {
		timer.Reset(c.Now().Add(time.Hour))
	}
}
