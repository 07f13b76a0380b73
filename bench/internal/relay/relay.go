// Package relay is the limit that a server of the publish call is measured against: it takes a message by HTTP, passes
// it through a channel and delivers it by HTTP, and stores nothing. What a server costs above the relay is what it
// does for the message.
package relay

import (
	"context"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/posthaste/posthaste/bench/internal/hop"
)

// backlog is the number of messages that may wait for a worker before publishers wait too.
const backlog = 4096

// Relay is the server.
type Relay struct {
	channel chan hop.Message
	sender  *hop.Sender
	ids     atomic.Uint64
	dropped atomic.Int64
	// done ends the wait of delayed messages and of handlers.
	done <-chan struct{}
}

// New returns a Relay.
func New() *Relay {
	return &Relay{channel: make(chan hop.Message, backlog), sender: hop.NewSender()}
}

// Run serves on l until ctx is done. Messages that are under way then are dropped.
func (r *Relay) Run(ctx context.Context, l net.Listener) error {
	r.done = ctx.Done()
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for range hop.Workers {
		wg.Go(func() { r.work(ctx) })
	}
	return hop.Serve(ctx, l, r.accept)
}

// accept is a hop.Accept.
func (r *Relay) accept(_ context.Context, m hop.Message) (string, error) {
	m.ID = "msg_" + strconv.FormatUint(r.ids.Add(1), 36)
	if m.Delay > 0 {
		time.AfterFunc(m.Delay, func() { r.pass(m) })
	} else if !r.pass(m) {
		return "", hop.ErrStopping
	}
	return m.ID, nil
}

// pass hands a message to the workers, and reports false if the relay is stopping.
func (r *Relay) pass(m hop.Message) bool {
	select {
	case r.channel <- m:
		return true
	case <-r.done:
		return false
	}
}

// work delivers messages until ctx is done.
func (r *Relay) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-r.channel:
			if err := r.sender.Deliver(ctx, m); err != nil && ctx.Err() == nil {
				r.dropped.Add(1)
			}
		}
	}
}

// Dropped is the number of messages whose delivery failed before Run was to end.
func (r *Relay) Dropped() int { return int(r.dropped.Load()) }
