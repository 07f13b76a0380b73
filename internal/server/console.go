package server

import (
	"os"
	"strings"

	"github.com/posthaste/posthaste/internal/auth"
	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/console"
)

// mountConsole makes the console and puts it beside the API.
func (s *Server) mountConsole() {
	cfg := console.Config{
		Version: s.cfg.Version, Store: "memory", TrustedProxies: s.cfg.API.TrustedProxies, Logger: s.log, Observe: s.metrics.RequestServed,
	}
	if s.cfg.Dev && len(s.cfg.Users) > 0 {
		cfg.DevToken = s.cfg.Users[0].Token
	}
	switch {
	case s.cfg.Database.URL != "":
		cfg.Store = "PostgreSQL"
	case s.cfg.Data != "" && s.cfg.Engine == nil:
		cfg.Store, cfg.DiskUse = "file", s.diskUse
	}
	s.console = console.New(console.Deps{
		Broker: s.broker, Auth: auth.New(s.dir), Admin: broker.NewAdmin(s.engine), Activity: s.activity, Dev: s.dev,
	}, cfg)
	s.handler.mount(strings.Trim(console.Prefix, "/"), s.console)
}

// diskUse returns the bytes of the data file and of what stands beside it.
func (s *Server) diskUse() int64 {
	var sum int64
	for _, end := range []string{"", "-wal", "-shm"} {
		if info, err := os.Stat(s.cfg.Data + end); err == nil {
			sum += info.Size()
		}
	}
	return sum
}
