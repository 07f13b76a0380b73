// Package peer is the competition: the same two hops as the relay's around a job queue that keeps the message in
// between and records its result. Each runs as a process of its own, from this binary, on a store that it is given.
//
// They are tuned as their authors advise for throughput: enough workers, shared inserts where the library has them, and
// the shortest waits between looks for work that do not load the store.
package peer

import (
	"context"
	"fmt"
	"net"

	"github.com/posthaste/posthaste/bench/internal/hop"
)

// backend is a job queue. Its workers hand messages to deliver.
type backend interface {
	// accept is a hop.Accept.
	accept(ctx context.Context, m hop.Message) (string, error)
	// close ends the workers and lets go of the store.
	close(ctx context.Context) error
}

// deliver sends a message to its destination.
type deliver func(ctx context.Context, m hop.Message) error

// backends are the job queues by name. A store is an address or a directory.
var backends = map[string]func(ctx context.Context, store string, to deliver) (backend, error){
	"asynq": openAsynq,
	"river": openRiver,
	"river-single": func(ctx context.Context, store string, to deliver) (backend, error) {
		return openRiverWith(ctx, store, to, 1)
	},
	"nats":      func(_ context.Context, store string, to deliver) (backend, error) { return openNATS(store, true, to) },
	"nats-lazy": func(_ context.Context, store string, to deliver) (backend, error) { return openNATS(store, false, to) },
}

// Run serves on l with the named job queue until ctx is done. serving is called when it is about to accept.
func Run(ctx context.Context, name, store string, l net.Listener, serving func()) error {
	open, ok := backends[name]
	if !ok {
		return fmt.Errorf("there is no adapter %q", name)
	}
	b, err := open(ctx, store, hop.NewSender().Deliver)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	serving()
	err = hop.Serve(ctx, l, b.accept)
	// What is under way may finish; whoever stops this process gives it a few seconds.
	if closing := b.close(context.WithoutCancel(ctx)); err == nil {
		err = closing
	}
	return err
}
