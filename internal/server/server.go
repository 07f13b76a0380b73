// Package server puts the parts together: it opens the store, joins dispatcher, scheduler, broker and the HTTP edges, and stops
// them in order. No rule lives here.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/activity"
	"github.com/posthaste/posthaste/internal/auth"
	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/clock"
	"github.com/posthaste/posthaste/internal/console"
	"github.com/posthaste/posthaste/internal/delivery"
	"github.com/posthaste/posthaste/internal/devtools"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/dispatch"
	"github.com/posthaste/posthaste/internal/egress"
	"github.com/posthaste/posthaste/internal/httpapi"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/openapi"
	"github.com/posthaste/posthaste/internal/retry"
	"github.com/posthaste/posthaste/internal/scheduler"
	"github.com/posthaste/posthaste/internal/signature"
	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/telemetry"
)

// Config sets a Server up.
type Config struct {
	Listen string // addresses of the API, separated by commas; empty: ":8080"
	// Listener is used instead of listening at Listen, if it is set. Stop closes it.
	Listener    net.Listener
	AdminListen string   // address of metrics and profiles; empty: none
	Data        string   // the SQLite file; empty: in memory
	Database    Database // instead of Data, if its URL is set
	// Node is the name of this node among those that share the database. Two nodes must never have the same; empty: one that
	// nobody else has. With a name that lasts, a node that was killed finds its own attempts again at its next start; else
	// others take them over when its lease is over.
	Node string
	// Lease is how long a node that is not heard of keeps its attempts; 0: 15 s.
	Lease   time.Duration
	Version string

	// Users are the tenants to be created on an empty store, the first one's token being printed by the caller.
	Users []broker.NewTenant
	// EnsureUsers creates those of Users whose token the store does not know even if it is not empty.
	EnsureUsers bool
	// Forbidden tokens make New fail if the store knows them: those of the development server, in production.
	Forbidden []string

	Backoff     retry.Backoff
	Broker      broker.Config
	Delivery    delivery.Config
	Egress      egress.Config
	API         httpapi.Config
	MaxInFlight int           // attempts at a time; 0: 2048
	MaxPerHost  int           // attempts of one tenant to one host at a time; 0: half of MaxInFlight
	BreakHosts  bool          // block hosts that fail to answer, and probe them
	Grace       time.Duration // for requests and attempts at a stop
	FireMissed  bool          // ticks of schedules that fell into a downtime fire once; otherwise they are skipped
	// How long finished messages are kept, their log, and dead letters; 0: for ever, but the log as long as the messages.
	Retention, LogRetention, DeadLetters time.Duration

	// Poll is the longest time between two looks for due work; 0: 1 s. What this node makes due is never waited for.
	Poll   time.Duration
	Clock  *clock.Clock // nil: real time
	Logger *slog.Logger
	// Engine is used instead of opening Data, if it is set. Stop closes it.
	Engine store.Engine
	// Transport replaces the network that deliveries go through; nil: the egress guard's client. Tests set it.
	Transport http.RoundTripper
	// Network, if it is set, is handed the egress guard's client and returns what deliveries go through instead.
	Network func(http.RoundTripper) http.RoundTripper
	// Dev mounts the tools of development at /dev/. They ask for no token.
	Dev bool
	// Console mounts the web console at /console/.
	Console bool
	// Hook is called at named points by crash tests; nil otherwise.
	Hook func(point string)
}

// Server is one node.
type Server struct {
	cfg     Config
	log     *slog.Logger
	clock   *clock.Clock
	engine  store.Engine
	dir     *directory.Directory
	broker  *broker.Broker
	disp    *dispatch.Dispatcher
	sched   *scheduler.Scheduler
	metrics *telemetry.Metrics
	handler edges
	dev     *devtools.Tools // nil unless Config.Dev is set
	// Both are nil unless Config.Console is set.
	console  *console.Handler
	activity *activity.Recorder
	created  []broker.NewTenant

	stopping sync.Once
	stopErr  error
	cleanups []cleanup // in the order in which they were registered; run backwards
	failed   chan error
	addr     net.Addr
}

// cleanup is one step of a stop.
type cleanup struct {
	name string
	run  func(context.Context) error
}

func (s *Server) onStop(name string, run func(context.Context) error) {
	s.cleanups = append(s.cleanups, cleanup{name, run})
}

// New opens the store and wires the parts. It starts nothing. After an error nothing is left open.
func New(ctx context.Context, cfg Config) (_ *Server, err error) {
	if cfg.Listen == "" {
		cfg.Listen = ":8080"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.New()
	}
	s := &Server{cfg: cfg, log: cfg.Logger, clock: cfg.Clock, failed: make(chan error, 4)}
	defer func() {
		if err != nil {
			s.Stop(context.WithoutCancel(ctx)) //nolint:errcheck // the first error is the one to tell
		}
	}()

	s.metrics = telemetry.NewMetrics(telemetry.MetricsConfig{Version: cfg.Version, Outcomes: outcomes()})
	engine := cfg.Engine
	if engine == nil {
		if engine, err = s.openStore(ctx); err != nil {
			return nil, err
		}
	}
	s.engine = engine
	s.onStop("close the store", func(context.Context) error { return engine.Close() })

	guard, err := egress.New(cfg.Egress)
	if err != nil {
		return nil, err
	}
	if err := s.admitUsers(ctx); err != nil {
		return nil, err
	}

	s.dir = directory.New(engine)
	nonces := ledger.NewNonces()

	transport := cfg.Transport
	if transport == nil {
		client := guard.NewClient()
		s.onStop("close idle connections", func(context.Context) error { client.CloseIdleConnections(); return nil })
		transport = client.Transport
	}
	if cfg.Network != nil {
		transport = cfg.Network(transport)
	}
	sign := func(id posthaste.TenantID) *signature.Signer {
		return s.dir.Signer(context.Background(), id)
	}
	s.disp = dispatch.New(engine, delivery.New(transport, sign, cfg.Delivery), s.clock, nonces, dispatch.Config{
		Node:        store.NodeInfo{Name: s.nodeName(), TTL: cfg.Lease},
		MaxInFlight: cfg.MaxInFlight,
		PerHost:     cfg.MaxPerHost,
		BreakHosts:  cfg.BreakHosts,
		Grace:       cfg.Grace,
		Poll:        cfg.Poll,
		Prepare: func(op *ledger.Settle) {
			op.Backoff, op.Count = cfg.Backoff, true
		},
		Observe: s.observe,
		Hook:    cfg.Hook,
		Logger:  s.log,
	})
	if cfg.Console {
		s.activity = activity.New(engine, s.clock.Now)
	}
	s.sched = scheduler.New(engine, s.dir, s.clock, nonces, s.disp, scheduler.Config{
		FireMissed: cfg.FireMissed, Shared: cfg.Database.URL != "" && !cfg.Database.OwnClock, Poll: cfg.Poll, Ticked: s.ticked, Logger: s.log,
	})
	cfg.Broker.Logger = s.log
	cfg.Broker.Retention = broker.Retention{Content: cfg.Retention, Log: cfg.LogRetention, DeadLetters: cfg.DeadLetters}
	cfg.Broker.Scheduled, cfg.Broker.Accepted = s.sched.Wake, s.accepted
	s.broker = broker.New(broker.Deps{
		Engine: engine, Directory: s.dir, URLs: guard, Clock: s.clock, Nonces: nonces, Starter: s.disp, Hosts: s.disp,
	}, cfg.Broker)

	if cfg.API.LLM, err = llm(cfg, guard, transport); err != nil {
		return nil, err
	}
	cfg.API.Logger, cfg.API.Hook = s.log, cfg.Hook
	cfg.API.Observe = s.metrics.RequestServed
	s.handler.api = httpapi.New(s.broker, auth.New(s.dir), cfg.API)
	about := openapi.Config{Dev: cfg.Dev, Version: cfg.Version}
	if cfg.Console {
		about.Console = console.Prefix
	}
	front := openapi.New(about)
	for _, word := range [...]string{"", "docs", "openapi.json"} {
		s.handler.mount(word, front)
	}
	if cfg.Dev {
		s.dev = devtools.New(devtools.Deps{
			Engine: engine, Directory: s.dir, Broker: s.broker, Clock: s.clock, Worker: s.disp, Wake: s.sched.Wake, Fail: httpapi.Fail, Logger: s.log,
		})
		s.handler.mount(devtools.Prefix, s.dev)
	}
	if cfg.Console {
		s.mountConsole()
	}
	s.metrics.Gauge("posthaste_attempts_in_flight", "Attempts that run or are about to.", func() float64 { return float64(s.disp.InFlight()) })
	return s, nil
}

// llm returns the language model service, or nil if there is none. It is reached under the same rules as any destination.
func llm(cfg Config, guard *egress.Guard, transport http.RoundTripper) (*httpapi.LLM, error) {
	if cfg.Broker.LLM == "" {
		return nil, nil
	}
	if err := guard.CheckURL(cfg.Broker.LLM); err != nil {
		return nil, posthaste.Errorf(posthaste.CodeInvalid, "llm-url: %v", err)
	}
	u, err := url.Parse(cfg.Broker.LLM)
	if err != nil {
		return nil, posthaste.Errorf(posthaste.CodeInvalid, "llm-url: %v", err)
	}
	return &httpapi.LLM{URL: u, Token: cfg.Delivery.LLMToken, Transport: transport}, nil
}

func outcomes() []string {
	var out []string
	for _, o := range []posthaste.Outcome{
		posthaste.OutcomeDelivered, posthaste.OutcomeStatus, posthaste.OutcomeNonRetryable, posthaste.OutcomeTimeout,
		posthaste.OutcomeDNS, posthaste.OutcomeConnect, posthaste.OutcomeTLS, posthaste.OutcomeRefused,
		posthaste.OutcomeProtocol, posthaste.OutcomeReset,
	} {
		out = append(out, string(o))
	}
	return out
}

func (s *Server) observe(o dispatch.Observation) {
	s.metrics.DeliveryStarted(o.Lateness)
	s.metrics.DeliveryEnded(string(o.Attempt.Outcome), o.Attempt.Took)
	if o.Attempt.State == posthaste.StateFailed {
		s.metrics.DeadLettered(1)
	}
	if s.activity != nil {
		s.activity.Ended(o.Message, o.Attempt)
		if o.Message.Callback != nil {
			s.activity.Accepted(o.Message.Tenant, 1)
		}
		if o.Message.FailureCallback != nil && o.Attempt.State == posthaste.StateFailed {
			s.activity.Accepted(o.Message.Tenant, 1)
		}
	}
}

// accepted is told of messages that were published.
func (s *Server) accepted(tenant posthaste.TenantID, n int) {
	s.metrics.Accepted(n)
	if s.activity != nil {
		s.activity.Accepted(tenant, n)
	}
}

// ticked is told of a schedule that fired.
func (s *Server) ticked(tenant posthaste.TenantID, messages int) {
	s.metrics.Ticked(1)
	if s.activity != nil {
		s.activity.Accepted(tenant, messages)
	}
}

// admitUsers refuses forbidden tokens and creates the first tenants of an empty store.
func (s *Server) admitUsers(ctx context.Context) error {
	for _, token := range s.cfg.Forbidden {
		row, err := s.engine.FindConfig(ctx, store.ConfigToken, directory.TokenHash(token))
		if err != nil {
			return err
		}
		if row != nil {
			return posthaste.Errorf(posthaste.CodeForbidden,
				"the store has a token of the development server, which everybody knows: revoke it, or start with a fresh store")
		}
	}
	tenants, err := s.engine.Tenants(ctx, 0, 1)
	if err != nil || len(tenants) > 0 && !s.cfg.EnsureUsers {
		return err
	}
	admin := broker.NewAdmin(s.engine)
	for _, u := range s.cfg.Users {
		if u.Token != "" {
			row, err := s.engine.FindConfig(ctx, store.ConfigToken, directory.TokenHash(u.Token))
			if err != nil {
				return err
			}
			if row != nil {
				continue
			}
		}
		made, err := admin.CreateTenant(ctx, u)
		if posthaste.CodeOf(err) == posthaste.CodeConflict && s.cfg.Database.URL != "" {
			continue // another node started at the same time and was quicker
		}
		if err != nil {
			return fmt.Errorf("create the first tenant: %w", err)
		}
		s.created = append(s.created, made)
	}
	return nil
}

// Created returns the tenants that New created because the store was empty, with their tokens.
func (s *Server) Created() []broker.NewTenant { return s.created }

// Handler returns the handler of the API, for servers that need no port.
func (s *Server) Handler() http.Handler { return &s.handler }

// Dev returns the tools of development; nil unless [Config].Dev is set.
func (s *Server) Dev() *devtools.Tools { return s.dev }

// Addr returns the first address the API listens at, after Start.
func (s *Server) Addr() net.Addr { return s.addr }

// Start joins the store as a node, listens, and delivers.
func (s *Server) Start(ctx context.Context) error {
	var lc net.ListenConfig
	listeners := []net.Listener{s.cfg.Listener}
	if s.cfg.Listener == nil {
		listeners = listeners[:0]
		for addr := range strings.SplitSeq(s.cfg.Listen, ",") {
			ln, err := lc.Listen(ctx, "tcp", strings.TrimSpace(addr))
			if err != nil {
				return errors.Join(err, closeAll(listeners))
			}
			listeners = append(listeners, ln)
		}
	}
	s.addr = listeners[0].Addr()
	if err := s.disp.Join(ctx); err != nil {
		return errors.Join(err, closeAll(listeners))
	}
	s.background("settle and release", s.disp.Run)
	s.background("stop retention", s.retain)
	s.background("stop the scheduler", s.sched.Run)
	for _, ln := range listeners {
		s.serve("finish requests", &http.Server{Handler: &s.handler}, jsonErrors{ln})
	}
	if s.console != nil {
		s.background("stop counting", s.activity.Run)
		s.onStop("end live pages", s.console.Close)
	}
	if s.dev != nil {
		s.onStop("let go of what waits", func(context.Context) error { s.dev.Close(); return nil })
	}
	if s.cfg.AdminListen != "" {
		aln, err := lc.Listen(ctx, "tcp", s.cfg.AdminListen)
		if err != nil {
			return err
		}
		mux := http.NewServeMux()
		mux.Handle("/metrics", s.metrics.Handler())
		mux.Handle("/debug/pprof/", telemetry.Profiles())
		s.serve("close the admin listener", &http.Server{Handler: mux}, aln)
	}
	return nil
}

func closeAll(listeners []net.Listener) error {
	var errs []error
	for _, ln := range listeners {
		errs = append(errs, ln.Close())
	}
	return errors.Join(errs...)
}

// background runs a part until the stop reaches it.
func (s *Server) background(name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		err := run(ctx)
		if err != nil && ctx.Err() == nil {
			s.failed <- fmt.Errorf("%s: %w", name, err)
		}
		done <- err
	}()
	s.onStop(name, func(context.Context) error {
		cancel()
		return <-done
	})
}

// serve answers requests on a listener until the stop reaches it.
func (s *Server) serve(name string, srv *http.Server, ln net.Listener) {
	srv.ReadHeaderTimeout = 20 * time.Second
	srv.IdleTimeout = 2 * time.Minute
	srv.MaxHeaderBytes = 256 << 10
	srv.ErrorLog = slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- err
		}
	}()
	s.onStop(name, func(ctx context.Context) error {
		err := srv.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = srv.Close()
		}
		<-done
		return err
	})
}

// Stop stops the server, once: requests first, then deliveries, then the store. It returns what went wrong. ctx bounds the
// wait for running requests.
func (s *Server) Stop(ctx context.Context) error {
	s.stopping.Do(func() {
		var errs []error
		for _, c := range slices.Backward(s.cleanups) {
			step := ctx
			if err := c.run(step); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", c.name, err))
			}
		}
		s.stopErr = errors.Join(errs...)
	})
	return s.stopErr
}

// Run starts the server and serves until ctx ends or a part fails. ready is called once it listens.
func (s *Server) Run(ctx context.Context, ready func()) error {
	if err := s.Start(ctx); err != nil {
		return errors.Join(err, s.Stop(context.WithoutCancel(ctx)))
	}
	if ready != nil {
		ready()
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-s.failed:
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Grace+5*time.Second)
	defer cancel()
	return errors.Join(err, s.Stop(stop))
}

// retain drops what is older than the retention, in small steps with pauses, so that nothing waits for it.
func (s *Server) retain(ctx context.Context) error {
	const step, pause, round = 200, 20 * time.Millisecond, time.Minute
	var p store.TrimParams
	more := false // of the round that p is for
	for {
		var err error
		if !more {
			p, err = s.broker.TrimParams(ctx)
			p.Limit = step
		}
		if err == nil {
			more, err = s.engine.Trim(ctx, p)
		}
		if err != nil {
			more = false
			if ctx.Err() == nil {
				s.log.Warn("retention step failed", "err", err)
			}
		}
		wait := round
		if more {
			wait = pause
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}
