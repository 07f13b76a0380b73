package devtools

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/posthaste/posthaste"
)

var (
	errClosing = errors.New("the server is stopping")
	errTimeout = errors.New("the time given is over")
)

// farthest is as far as the clock goes. Beyond it, moments would leave what the store's numbers hold.
var farthest = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

// Advance moves the clock forward by d as AdvanceTo does.
func (t *Tools) Advance(ctx context.Context, d time.Duration) (time.Time, error) {
	if d < 0 {
		return t.Now(), posthaste.Errorf(posthaste.CodeInvalid, "the clock does not go back")
	}
	now := t.Now()
	if d > farthest.Sub(now) {
		return now, errTooFar()
	}
	return t.AdvanceTo(ctx, now.Add(d))
}

// AdvanceTo moves the clock forward to at, from one due moment to the next, and returns the time then. It waits until
// everything that has become due is attempted and recorded, also at the end. If ctx ends before, the clock stays where it is.
func (t *Tools) AdvanceTo(ctx context.Context, at time.Time) (time.Time, error) {
	now := t.Now()
	switch {
	case at.Before(now):
		return now, posthaste.Errorf(posthaste.CodeInvalid, "the clock shows %s already and does not go back", show(now))
	case at.After(farthest):
		return now, errTooFar()
	}
	if err := t.beginTravel(ctx); err != nil {
		return t.Now(), err
	}
	defer t.endTravel()
	for {
		due, err := t.quiet(ctx)
		if err != nil {
			return t.Now(), err
		}
		now := t.Now()
		if !now.Before(at) {
			return now, nil
		}
		if due.IsZero() || due.After(at) {
			due = at
		}
		t.step(due)
	}
}

// AdvanceToNext moves the clock to the next due moment, if there is one, and waits until what is due then is attempted and
// recorded.
func (t *Tools) AdvanceToNext(ctx context.Context) (time.Time, error) {
	if err := t.beginTravel(ctx); err != nil {
		return t.Now(), err
	}
	defer t.endTravel()
	due, err := t.quiet(ctx)
	if err != nil || due.IsZero() {
		return t.Now(), err
	}
	if due.After(farthest) {
		return t.Now(), errTooFar()
	}
	t.step(due)
	_, err = t.quiet(ctx)
	return t.Now(), err
}

// Drained waits until nothing is due or in flight. It returns the next moment at which something will be, or zero.
func (t *Tools) Drained(ctx context.Context) (next time.Time, err error) { return t.quiet(ctx) }

func (t *Tools) beginTravel(ctx context.Context) error {
	select {
	case <-t.travel:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t *Tools) endTravel() { t.travel <- struct{}{} }

// step sets the clock to a moment, if that is to come.
func (t *Tools) step(at time.Time) {
	if d := t.deps.Clock.Until(at); d > 0 {
		t.deps.Clock.Advance(d)
	}
	t.deps.Wake()
}

// look is how often quiet looks again. Each look but the last costs a read of a few indexes at most.
const look = 200 * time.Microsecond

// quiet waits until nothing is due or in flight and returns the next due moment; zero if there is none.
//
// What is claimed is counted before the claim is submitted and until its settlement is recorded, and whatever else is due stands
// in the store. So if nothing was in flight before the store was read, nothing was due there, and nothing was claimed
// meanwhile, then all was quiet at the time of the reading.
func (t *Tools) quiet(ctx context.Context) (next time.Time, err error) {
	var timer *time.Timer
	state := "nothing was looked at"
	for {
		inFlight, claims := t.deps.Worker.Activity()
		if inFlight == 0 {
			due, err := t.nextDue(ctx)
			if err != nil && ctx.Err() == nil {
				return time.Time{}, err
			}
			past := !due.IsZero() && t.deps.Clock.Until(due) <= 0
			if _, now := t.deps.Worker.Activity(); err == nil && !past && now == claims {
				return due, nil
			}
			state = "something is due and not attempted yet"
		} else {
			state = fmt.Sprintf("%d attempts are in flight", inFlight)
		}
		if timer == nil {
			timer = time.NewTimer(look)
			defer timer.Stop()
		} else {
			timer.Reset(look)
		}
		select {
		case <-timer.C:
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), errTimeout) {
				return time.Time{}, posthaste.Errorf(posthaste.CodeConflict, "%v: %s; the clock shows %s", errTimeout, state, show(t.Now()))
			}
			return time.Time{}, context.Cause(ctx)
		}
	}
}

// nextDue returns the earliest moment at which something is to be done; zero if there is none.
func (t *Tools) nextDue(ctx context.Context) (time.Time, error) {
	shards, err := t.deps.Engine.NextDue(ctx)
	if err != nil {
		return time.Time{}, err
	}
	var next time.Time
	for _, s := range shards {
		for _, at := range [...]time.Time{s.Tickets, s.Waiting, s.Tick} {
			if !at.IsZero() && (next.IsZero() || at.Before(next)) {
				next = at
			}
		}
	}
	return next, nil
}

func errTooFar() error {
	return posthaste.Errorf(posthaste.CodeInvalid, "the clock goes no farther than %s", show(farthest))
}

// show writes a moment for people.
func show(at time.Time) string { return at.UTC().Format(time.RFC3339) }
