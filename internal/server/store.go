package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/clock"
	"github.com/posthaste/posthaste/internal/move"
	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/store/postgres"
	"github.com/posthaste/posthaste/internal/store/sqlite"
)

// Database says how to reach a PostgreSQL database that several nodes share.
type Database struct {
	// URL is a connection string, as a URL or as key=value pairs; empty: there is none.
	URL string
	// Lanes is how many transactions that write may run at a time; 0: one per shard, at most 4.
	Lanes int
	// Pool is how many reads may run at a time; 0: 8.
	Pool int
	// ExecMode is how statements are sent; empty: cache_statement. Behind a pooler of transactions it must be exec.
	ExecMode string
	// NoMigrate leaves the schema as it is.
	NoMigrate bool
	// Shards is the number of shards of a new schema; 0: 4.
	Shards int
	// OwnClock makes decisions with the clock of the server instead of the database's. It is for a single node whose clock
	// is moved.
	OwnClock bool
}

func (d *Database) config() postgres.Config {
	return postgres.Config{URL: d.URL, Lanes: d.Lanes, PoolSize: d.Pool, ExecMode: d.ExecMode, NoMigrate: d.NoMigrate, Shards: d.Shards}
}

// openStore opens what the configuration names.
func (s *Server) openStore(ctx context.Context) (store.Engine, error) {
	if s.cfg.Database.URL == "" {
		e, err := sqlite.Open(ctx, sqlite.Config{
			Path: s.cfg.Data, InMemory: s.cfg.Data == "", Clock: s.clock, Log: s.log, Hook: s.cfg.Hook,
			Committed: s.metrics.Committed, CommitFailed: s.metrics.CommitFailed,
		})
		if err != nil {
			return nil, err
		}
		return e, nil
	}
	cfg := s.cfg.Database.config()
	cfg.Logger, cfg.Hook, cfg.Committed, cfg.CommitFailed = s.log, s.cfg.Hook, s.metrics.Committed, s.metrics.CommitFailed
	if s.cfg.Lease > 0 {
		// A node that was stopped between the trips of a transaction must not hold its gates for longer than its claims.
		cfg.IdleTimeout = min(4*time.Second, s.cfg.Lease/2)
	}
	if s.cfg.Database.OwnClock {
		cfg.Clock = s.clock
		return openDatabase(ctx, cfg)
	}
	cfg.Listen = true
	e, err := postgres.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	// What is due is decided by the database's clock.
	s.clock = clock.Following(e.Skew)
	return e, nil
}

// openDatabase opens PostgreSQL as what the rest knows it as: nil is no engine then.
func openDatabase(ctx context.Context, cfg postgres.Config) (store.Engine, error) {
	e, err := postgres.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return e, nil
}

// nodeName returns the name that this node joins with. That of a store with one node is always the same.
func (s *Server) nodeName() string {
	switch {
	case s.cfg.Node != "":
		return s.cfg.Node
	case s.cfg.Database.URL == "":
		return "node"
	}
	host, err := os.Hostname()
	if err != nil {
		host = "node"
	}
	return host + "-" + rand.Text()[:8]
}

// OpenStore opens the store of a data file without joining it as a node, for commands that change tenants and tokens. The
// file must exist.
func OpenStore(ctx context.Context, data string) (store.Engine, error) {
	if _, err := os.Stat(data); err != nil {
		return nil, fmt.Errorf("no store there yet; serve makes one at its first start: %w", err)
	}
	return sqlite.Open(ctx, sqlite.Config{Path: data})
}

// OpenDatabase is like [OpenStore] for a database. Its schema must be there.
func OpenDatabase(ctx context.Context, d Database) (store.Engine, error) {
	cfg := d.config()
	cfg.NoMigrate, cfg.Lanes, cfg.PoolSize = true, 1, 2
	if d.OwnClock {
		cfg.Clock = clock.New()
	}
	return openDatabase(ctx, cfg)
}

// Migrate makes or upgrades the schema of a database and returns its number of shards.
func Migrate(ctx context.Context, d Database) (shards int, err error) {
	if d.NoMigrate {
		return 0, posthaste.Errorf(posthaste.CodeInvalid, "the schema is to be left as it is")
	}
	cfg := d.config()
	cfg.Lanes, cfg.PoolSize = 1, 1
	e, err := postgres.Open(ctx, cfg)
	if err != nil {
		return 0, err
	}
	return e.Shards(), e.Close()
}

// Move copies everything from a data file, which no server may use, into an empty database.
func Move(ctx context.Context, data string, d Database) (move.Counts, error) {
	if _, err := os.Stat(data); err != nil {
		return move.Counts{}, err
	}
	from, err := sqlite.Open(ctx, sqlite.Config{Path: data})
	if err != nil {
		return move.Counts{}, err
	}
	defer from.Close() //nolint:errcheck // it was read
	cfg := d.config()
	cfg.Lanes, cfg.PoolSize = 1, 2
	to, err := openDatabase(ctx, cfg)
	if err != nil {
		return move.Counts{}, err
	}
	n, err := move.Run(ctx, from, to)
	return n, errors.Join(err, to.Close())
}
