package cli

import (
	"net/netip"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/config"
	"github.com/posthaste/posthaste/internal/delivery"
	"github.com/posthaste/posthaste/internal/egress"
	"github.com/posthaste/posthaste/internal/httpapi"
	"github.com/posthaste/posthaste/internal/retry"
	"github.com/posthaste/posthaste/internal/server"
	"github.com/posthaste/posthaste/internal/telemetry"
)

// Preset chooses the defaults of the other settings.
type preset struct {
	Preset string `config:"preset" desc:"defaults of the other settings: standard, or hosted for the figures of the hosted service"`
}

// settings are those that dev and serve share. What they hold before loading is the preset's.
type settings struct {
	preset

	Data       string `config:"data" desc:"the SQLite file that keeps everything"`
	Store      string `config:"store" desc:"PostgreSQL database, shared by nodes, that keeps everything instead of a file: postgres://user@host/name"`
	NoMigrate  bool   `config:"no-migrate" desc:"do not create or upgrade the schema of the database at start; see posthaste migrate"`
	PgExecMode string `config:"pg-exec-mode" desc:"how statements are sent to the database: cache_statement, cache_describe, describe_exec, exec or simple_protocol; exec behind PgBouncer in transaction mode"`
	PgLanes    int    `config:"pg-lanes" desc:"transactions that write at a time, a connection each; 0 for one per shard, at most 4"`
	PgPool     int    `config:"pg-pool" desc:"further connections to the database, for reading"`
	Node       string `config:"node" desc:"name of this node, which no other may have; empty for a new one at each start"`

	Lease time.Duration `config:"lease" desc:"how long a node that is not heard of keeps its attempts before others take them over"`

	AdminListen string `config:"admin-listen" desc:"address of metrics (/metrics) and profiles (/debug/pprof/); keep it private"`
	Region      string `config:"region" desc:"region reported to destinations"`

	DedupWindow      time.Duration `config:"dedup-window" desc:"how long a deduplication id holds"`
	Backoff          retry.Backoff `config:"backoff" desc:"waits before retries of messages that choose none: standard, hosted, or a list such as 1s,10s,1m"`
	Retries          int           `config:"retries" desc:"retries of messages that choose none"`
	MaxRetries       int           `config:"max-retries" desc:"most retries a message may ask for"`
	Timeout          time.Duration `config:"timeout" desc:"time for one attempt of messages that choose none"`
	MaxTimeout       time.Duration `config:"max-timeout" desc:"longest time for one attempt; longer ones are cut to it"`
	MaxDelay         time.Duration `config:"max-delay" desc:"longest delay a message may ask for; 0 for any"`
	MaxBody          config.Bytes  `config:"max-body" desc:"largest message"`
	MaxBatch         config.Bytes  `config:"max-batch" desc:"largest batch request"`
	BodyBudget       config.Bytes  `config:"body-budget" desc:"request bodies in memory at a time"`
	MaxInFlight      int           `config:"max-in-flight" desc:"attempts at a time"`
	MaxPerHost       int           `config:"max-per-host" desc:"attempts of one tenant to one host at a time; 0 for half of max-in-flight"`
	CircuitBreaker   bool          `config:"circuit-breaker" desc:"hold messages to hosts that fail to answer back, and probe such hosts"`
	Grace            time.Duration `config:"grace" desc:"time for running requests and attempts when the server stops"`
	Retention        time.Duration `config:"retention" desc:"how long finished messages are kept; 0 for ever"`
	LogRetention     time.Duration `config:"log-retention" desc:"how long their log is kept; 0 for as long as they are"`
	DLQRetention     time.Duration `config:"dlq-retention" desc:"how long dead letters are kept; 0 for ever"`
	MissedTicks      string        `config:"missed-ticks" desc:"schedules whose ticks fell into a downtime: skip, or once to fire them once"`
	ResolveOnPublish bool          `config:"resolve-on-publish" desc:"look host names up when a message is published, and refuse what cannot be delivered"`

	AllowHTTP    bool     `config:"allow-http" desc:"deliver to http:// destinations, too"`
	AllowPrivate bool     `config:"allow-private" desc:"deliver to loopback, private and unique-local addresses, too"`
	EgressAllow  []string `config:"egress-allow" desc:"addresses, CIDR networks and host names to which delivery is allowed in any case"`
	EgressDeny   []string `config:"egress-deny" desc:"addresses, CIDR networks and host names to which nothing is delivered"`

	LLMURL         string         `config:"llm-url" desc:"chat completions URL behind the destination api/llm and the route /llm/v1/chat/completions"`
	LLMToken       string         `config:"llm-token" desc:"bearer token for it; better given in the environment"`
	TrustedProxies []netip.Prefix `config:"trusted-proxies" desc:"networks of proxies whose X-Forwarded-For tells the caller's address"`
	CORSOrigins    []string       `config:"cors-origins" desc:"origins from which browsers may call the API; * for any"`
	Console        bool           `config:"console" desc:"serve the web console at /console/"`

	Log telemetry.LogConfig `config:"log"`
}

// defaultData is the file that serve keeps everything in unless it is told another one.
const defaultData = "posthaste.db"

// What becomes of ticks that fell into a downtime.
const (
	skipMissed = "skip"
	fireMissed = "once"
)

// presetDefaults returns the settings of a preset. In dev everything on this machine can be delivered to.
func presetDefaults(name string, dev bool) (settings, error) {
	s := settings{
		preset:      preset{Preset: name},
		Region:      "EU-CENTRAL-1",
		Retries:     3,
		MaxRetries:  999,
		MaxTimeout:  2 * time.Hour,
		MaxBatch:    100 << 20,
		BodyBudget:  256 << 20,
		MaxInFlight: 2048,
		Console:     true,
		Grace:       10 * time.Second,
		Retention:   7 * 24 * time.Hour,
		MissedTicks: skipMissed,
		PgExecMode:  "cache_statement",
		PgPool:      8,
		Lease:       15 * time.Second,
	}
	s.DLQRetention = s.Retention
	switch name {
	case "standard":
		s.DedupWindow, s.Backoff, s.Timeout, s.MaxBody = time.Minute, retry.Standard(), 30*time.Second, 512<<10
	case "hosted":
		s.DedupWindow, s.Backoff, s.Timeout, s.MaxBody = 10*time.Minute, retry.Hosted(), 2*time.Hour, 10<<20
		s.AllowHTTP = true
	default:
		return s, posthaste.Errorf(posthaste.CodeInvalid, "unknown preset %q: one of standard, hosted", name)
	}
	if dev {
		s.AllowHTTP, s.AllowPrivate = true, true
		s.Grace = time.Second
	} else {
		s.Log.Format = telemetry.FormatJSON
		s.CircuitBreaker = true
	}
	return s, nil
}

// database returns what the settings say of it. Only dev moves its clock.
func (s *settings) database(dev bool) server.Database {
	return server.Database{URL: s.Store, Lanes: s.PgLanes, Pool: s.PgPool, ExecMode: s.PgExecMode, NoMigrate: s.NoMigrate, OwnClock: dev}
}

// server returns what the settings mean.
func (s *settings) server(dev bool) (server.Config, error) {
	if s.MissedTicks != skipMissed && s.MissedTicks != fireMissed {
		return server.Config{}, posthaste.Errorf(posthaste.CodeInvalid, "missed-ticks: %q is none of skip, once", s.MissedTicks)
	}
	if s.Store != "" && s.Data != "" {
		return server.Config{}, posthaste.Errorf(posthaste.CodeInvalid, "data and store are both set: a server keeps everything in one of them")
	}
	if s.Lease < time.Second {
		return server.Config{}, posthaste.Errorf(posthaste.CodeInvalid, "lease: %v is shorter than a second", s.Lease)
	}
	mode := egress.ModePublic
	switch {
	case dev && s.AllowPrivate:
		mode = egress.ModeDev
	case s.AllowPrivate:
		mode = egress.ModePrivate
	}
	return server.Config{
		AdminListen: s.AdminListen,
		Data:        s.Data,
		Database:    s.database(dev),
		Node:        s.Node,
		Lease:       s.Lease,
		Version:     version(),
		Backoff:     s.Backoff,
		Broker: broker.Config{
			Retries: s.Retries, MaxRetries: s.MaxRetries, MaxDelay: s.MaxDelay, MaxTimeout: s.MaxTimeout, MaxBody: int64(s.MaxBody),
			DedupWindow: s.DedupWindow, ResolveOnPublish: s.ResolveOnPublish, LLM: s.LLMURL,
		},
		Delivery: delivery.Config{Region: s.Region, Timeout: s.Timeout, MaxResponse: int64(s.MaxBody), LLMToken: s.LLMToken},
		Egress:   egress.Config{Mode: mode, AllowHTTP: s.AllowHTTP, Allow: s.EgressAllow, Deny: s.EgressDeny},
		API: httpapi.Config{
			MaxBatch: int64(s.MaxBatch), Budget: int64(s.BodyBudget), TrustedProxies: s.TrustedProxies, Origins: s.CORSOrigins,
		},
		MaxInFlight:  s.MaxInFlight,
		MaxPerHost:   s.MaxPerHost,
		BreakHosts:   s.CircuitBreaker,
		Grace:        s.Grace,
		FireMissed:   s.MissedTicks == fireMissed,
		Retention:    s.Retention,
		LogRetention: s.LogRetention,
		DeadLetters:  s.DLQRetention,
		Dev:          dev,
		Console:      s.Console,
	}, nil
}
