// Package devtools is what the development server has besides the API, below /dev/: a clock that can be moved, inboxes that
// catch deliveries and answer as they are told, tenants for tests, and a way to empty everything.
//
// Nothing here asks for a token, so it is mounted in dev only, which listens on the loopback interface. Pages of other origins
// are refused all the same: a browser on this machine would carry their requests here.
//
// Guarantees:
//
//  1. The clock moves from one due moment to the next, and not before everything that was due has been attempted and
//     recorded. So what an advance passes happens in order, however far it goes.
//  2. When [Tools.Drained] returns nil, there was a moment since the call at which nothing was due or in flight.
//  3. An inbox keeps deliveries in the order of their arrival and numbers them without gaps.
package devtools

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/clock"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/store"
)

// worker tells what the dispatcher is doing.
type worker interface {
	// Activity returns how many attempts run or are about to, and a number that rises whenever that may have risen. It is
	// raised before anything is claimed.
	Activity() (inFlight int, claims uint64)
}

// Deps are what Tools act on.
type Deps struct {
	Engine    store.Engine
	Directory *directory.Directory
	Broker    *broker.Broker
	Clock     *clock.Clock
	Worker    worker
	// Wake has whatever waits for due moments look at the clock again.
	Wake func()
	// Fail answers an error as the API does.
	Fail   func(http.ResponseWriter, error)
	Logger *slog.Logger
}

// Tools are the tools of one server. They are safe for concurrent use.
type Tools struct {
	deps     Deps
	inboxes  inboxes
	requests atomic.Uint64

	// travel holds one token: the right to move the clock.
	travel chan struct{}
	// admin is held while tenants are made: their numbers are read before they are taken.
	admin sync.Mutex

	closing context.Context // ends with Close
	close   context.CancelFunc
}

// New returns the tools of a server.
func New(d Deps) *Tools {
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	t := &Tools{deps: d, travel: make(chan struct{}, 1)}
	t.travel <- struct{}{}
	t.inboxes.init()
	t.closing, t.close = context.WithCancel(context.Background())
	return t
}

// Close ends every wait, so that a stop need not wait for requests that hang or poll.
func (t *Tools) Close() { t.close() }

// Now returns the time of the server's clock.
func (t *Tools) Now() time.Time { return t.deps.Clock.Now() }

// Offset returns how far the server's clock is ahead of real time.
func (t *Tools) Offset() time.Duration { return t.deps.Clock.Offset() }

// until derives a context that also ends when the tools close, and after the timeout, if it is not zero.
func (t *Tools) until(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(t.closing, func() { cancel(errClosing) })
	if timeout <= 0 {
		return ctx, func() { stop(); cancel(nil) }
	}
	limited, done := context.WithTimeoutCause(ctx, timeout, errTimeout)
	return limited, func() { done(); stop(); cancel(nil) }
}
