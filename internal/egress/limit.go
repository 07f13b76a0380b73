package egress

import (
	"context"
	"sync"
	"time"
)

// Limit is a context that ends with its parent or at a deadline, like one of [context.WithDeadline]. It sets a timer only when
// somebody asks for Done: over plain connections the client does not, since those have deadlines of their own.
type Limit struct {
	parent   context.Context
	deadline time.Time

	mu     sync.Mutex
	inner  context.Context // nil before Done
	cancel context.CancelFunc
}

// NewLimit returns a context that ends timeout from now at the latest. [Limit.Release] must be called when it is not needed any more.
func NewLimit(parent context.Context, timeout time.Duration) *Limit {
	l := &Limit{parent: parent, deadline: time.Now().Add(timeout)}
	if d, ok := parent.Deadline(); ok && d.Before(l.deadline) {
		l.deadline = d
	}
	return l
}

// Release frees what the context holds, and ends it.
func (l *Limit) Release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inner == nil {
		l.inner, l.cancel = canceled, func() {}
		return
	}
	l.cancel()
}

var canceled = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// Deadline implements [context.Context].
func (l *Limit) Deadline() (time.Time, bool) { return l.deadline, true }

// Done implements [context.Context].
func (l *Limit) Done() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inner == nil {
		l.inner, l.cancel = context.WithDeadline(l.parent, l.deadline)
	}
	return l.inner.Done()
}

// Err implements [context.Context].
func (l *Limit) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.inner != nil:
		return l.inner.Err()
	case l.parent.Err() != nil:
		return l.parent.Err()
	case !time.Now().Before(l.deadline):
		return context.DeadlineExceeded
	}
	return nil
}

// Value implements [context.Context].
func (l *Limit) Value(key any) any {
	l.mu.Lock()
	ctx := l.inner
	l.mu.Unlock()
	if ctx == nil {
		ctx = l.parent
	}
	return ctx.Value(key)
}

// afterCancel has f called in a goroutine of its own when ctx is canceled, and perhaps not when it ends at its deadline. The
// function that it returns keeps f from being called; it returns false if it is too late for that.
func afterCancel(ctx context.Context, f func()) (stop func() bool) {
	if l, ok := ctx.(*Limit); ok {
		ctx = l.parent
	}
	return context.AfterFunc(ctx, f)
}
