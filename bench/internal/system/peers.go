package system

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"

	"github.com/posthaste/posthaste/bench/internal/peer"
	"github.com/posthaste/posthaste/bench/internal/proc"
)

// PeerCommand is the argument with which this binary is an adapter; its name, the address to listen on and its store
// follow.
const PeerCommand = "adapter"

// RunPeer is an adapter's process: it serves on addr until ctx is done.
func RunPeer(ctx context.Context, name, addr, store string, out io.Writer) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	debug.SetGCPercent(400) // as the relay
	return peer.Run(ctx, name, store, l, func() {
		_, _ = fmt.Fprintf(out, "the adapter %s is running at http://%s\n", name, addr)
	})
}

// startStore starts the store of a system and returns how the system is told of it. A store within the system is no
// process.
type startStore func(ctx context.Context, dir string) (*proc.Child, string, error)

// Peer is a job queue between two HTTP hops.
type Peer struct {
	name       string
	adapter    string // in package peer
	durability string
	missing    func() error
	store      startStore
	library    string                           // the module that does the work
	version    func(ctx context.Context) string // of the store; nil if it is the library
	immediate  bool                             // it takes no delayed messages
}

// Peers are all of them.
var Peers = []Peer{
	{
		name: "asynq", adapter: "asynq", missing: redisMissing,
		library: "github.com/hibiken/asynq", version: redisVersion,
		durability: "synced: the task is in Redis' append-only file, which was synced before the answer (appendfsync always)",
		store:      redisWith("always"),
	},
	{
		name: "asynq-everysec", adapter: "asynq", missing: redisMissing,
		library: "github.com/hibiken/asynq", version: redisVersion,
		durability: "up to two seconds may be lost: the task is in Redis' append-only file, which is synced once a second (appendfsync everysec)",
		store:      redisWith("everysec"),
	},
	{
		name: "river", adapter: "river", missing: postgresMissing,
		library: "github.com/riverqueue/river", version: postgresVersion,
		durability: "synced: the job is in a committed transaction of PostgreSQL (fsync and synchronous_commit on); " +
			"concurrent requests share an insert of many jobs",
		store: startPostgres,
	},
	{
		name: "river-single", adapter: "river-single", missing: postgresMissing,
		library: "github.com/riverqueue/river", version: postgresVersion,
		durability: "synced: the job is in a committed transaction of PostgreSQL (fsync and synchronous_commit on), one for each request",
		store:      startPostgres,
	},
	{
		name: "nats", adapter: "nats", missing: nothingMissing,
		library: "github.com/nats-io/nats-server/v2", immediate: true,
		durability: "synced: the message is in a JetStream file that was synced before the answer (SyncAlways)",
		store:      within,
	},
	{
		name: "nats-lazy", adapter: "nats-lazy", missing: nothingMissing,
		library: "github.com/nats-io/nats-server/v2", immediate: true,
		durability: "up to two minutes may be lost if the machine fails: JetStream has written the message, and syncs every two minutes (its default)",
		store:      within,
	},
}

func nothingMissing() error { return nil }

func redisMissing() error {
	_, err := exec.LookPath("redis-server")
	return err
}

func postgresMissing() error {
	_, err := postgresBinaries()
	return err
}

func redisWith(appendfsync string) startStore {
	return func(ctx context.Context, dir string) (*proc.Child, string, error) {
		return startRedis(ctx, dir, appendfsync)
	}
}

// within is the store of a server that keeps its messages itself.
func within(_ context.Context, dir string) (*proc.Child, string, error) {
	return nil, filepath.Join(dir, "store"), nil
}

// Name implements Adapter.
func (p Peer) Name() string { return p.name }

// Durability implements Adapter.
func (p Peer) Durability() string { return p.durability }

// Missing says what the system needs and this machine lacks.
func (p Peer) Missing() error { return p.missing() }

// Start implements Adapter.
func (p Peer) Start(ctx context.Context, dir, sinkURL string) (Target, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this binary: %w", err)
	}
	store, where, err := p.store(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("start the store: %w", err)
	}
	child, addr, err := startServer(ctx, self, dir, nil, func(port string) []string {
		return []string{PeerCommand, p.adapter, "127.0.0.1:" + port, where}
	})
	if err != nil {
		if store != nil {
			err = errors.Join(err, store.Stop())
		}
		return nil, err
	}
	return &publishTarget{Child: child, addr: addr, target: "/v2/publish/" + sinkURL, store: store, immediate: p.immediate}, nil
}

// Version implements Versioned.
func (p Peer) Version(ctx context.Context) string {
	v := p.library
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == p.library {
				v += " " + m.Version
			}
		}
	}
	if p.version != nil {
		v += ", " + p.version(ctx)
	}
	return v
}
