package broker

import (
	"context"
	"slices"
	"time"
)

// bulkStep is how many messages one step of a bulk request changes. Whatever arrives meanwhile waits for the step.
const bulkStep = 25

// maxRest bounds the pause between two steps.
const maxRest = 250 * time.Millisecond

// pacer takes a bulk request through its steps. Before each but the first it rests for as long as the one before took, so that
// others have the store for at least half of the time, however slow it is.
type pacer struct {
	took time.Duration
}

// step rests and carries out f.
func (p *pacer) step(ctx context.Context, f func() error) error {
	if err := p.rest(ctx); err != nil {
		return err
	}
	begin := time.Now()
	err := f()
	p.took = time.Since(begin)
	return err
}

func (p *pacer) rest(ctx context.Context) error {
	if p.took <= 0 {
		return nil
	}
	t := time.NewTimer(min(p.took, maxRest))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// inSteps carries out f on one part of a list after the other, each of so many.
func inSteps[T any](ctx context.Context, p *pacer, list []T, size int, f func(part []T) error) error {
	for part := range slices.Chunk(list, size) {
		if err := p.step(ctx, func() error { return f(part) }); err != nil {
			return err
		}
	}
	return nil
}
