package system

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"

	"github.com/posthaste/posthaste/bench/internal/relay"
)

// Relay is the relay, run as a process of its own from this binary.
type Relay struct{}

// RelayCommand is the argument with which this binary is the relay; the address to listen on follows.
const RelayCommand = "relay"

// Name implements Adapter.
func (Relay) Name() string { return "relay" }

// Durability implements Adapter.
func (Relay) Durability() string { return "none: the message is in memory only" }

// Missing says that nothing is.
func (Relay) Missing() error { return nil }

// Start implements Adapter.
func (Relay) Start(ctx context.Context, dir, sinkURL string) (Target, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this binary: %w", err)
	}
	child, addr, err := startServer(ctx, self, dir, nil, func(port string) []string {
		return []string{RelayCommand, "127.0.0.1:" + port}
	})
	if err != nil {
		return nil, err
	}
	return &publishTarget{Child: child, addr: addr, target: "/v2/publish/" + sinkURL}, nil
}

// RunRelay is the relay's process: it serves on addr until ctx is done.
func RunRelay(ctx context.Context, addr string, out io.Writer) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	// The relay holds little, so by default its collector would run after every few thousand messages.
	debug.SetGCPercent(400)
	_, _ = fmt.Fprintf(out, "the relay is running at http://%s\n", addr)
	r := relay.New()
	err = r.Run(ctx, l)
	if n := r.Dropped(); n > 0 {
		_, _ = fmt.Fprintf(out, "the relay dropped %d messages\n", n)
	}
	return err
}
