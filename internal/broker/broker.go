// Package broker carries out what the API and the console ask for: it checks a whole request, composes what it means, and
// submits one operation, or bounded repeatable steps where a request is about an unbounded set.
//
// It knows no HTTP. Its errors carry codes and texts for the user.
package broker

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/compose"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
)

// starter runs what an operation claimed for this node. Package dispatch does.
type starter interface {
	// Reserve sets room aside for attempts that an operation may claim.
	Reserve(n int) ledger.Node
	// Begin starts what was claimed and takes back unused room; out is nil if the operation failed.
	Begin(node ledger.Node, out *ledger.Outcome)
}

// urlChecker judges destinations. Package egress does.
type urlChecker interface {
	CheckURL(raw string) error
	Resolve(ctx context.Context, raw string) error
}

// hostKeeper knows the destination hosts. Package dispatch does.
type hostKeeper interface {
	Hosts(ctx context.Context, tenant posthaste.TenantID) ([]posthaste.Host, error)
	Unblock(ctx context.Context, tenant posthaste.TenantID, name string) (bool, error)
}

// timekeeper tells the time that due moments refer to.
type timekeeper interface {
	Now() time.Time
}

// Config sets a Broker up. The figures are those of the preset; a tenant's plan may set smaller ones.
type Config struct {
	Retries          int                                    // of messages that set none
	Retention        Retention                              // of what has ended
	MaxRetries       int                                    // that a message may set; 0: 999
	MaxDelay         time.Duration                          // 0: unlimited
	MaxTimeout       time.Duration                          // longer ones are cut to it; 0: 2 h
	MaxBody          int64                                  // bytes of a message; 0: 512 KiB
	DedupWindow      time.Duration                          // 0: 60 s
	ResolveOnPublish bool                                   // look names up when a message is published
	LLM              string                                 // URL of the OpenAI-compatible service behind the built-in LLM destination; empty: none
	Accepted         func(tenant posthaste.TenantID, n int) // told of messages that were published; nil: nobody is
	Scheduled        func()                                 // called when a schedule's next tick changed; nil: nobody needs to know
	Logger           *slog.Logger
}

// Broker is safe for concurrent use.
type Broker struct {
	cfg    Config
	engine store.Engine
	dir    *directory.Directory
	urls   urlChecker
	clock  timekeeper
	nonces *ledger.Nonces
	start  starter
	hosts  hostKeeper
	turns  turns
	log    *slog.Logger
}

// Deps are what a Broker works with.
type Deps struct {
	Engine    store.Engine
	Directory *directory.Directory
	URLs      urlChecker
	Clock     timekeeper
	Nonces    *ledger.Nonces
	Starter   starter
	Hosts     hostKeeper
}

// New returns a broker.
func New(d Deps, cfg Config) *Broker {
	if cfg.MaxRetries <= 0 {
		cfg.MaxRetries = 999
	}
	if cfg.MaxTimeout <= 0 {
		cfg.MaxTimeout = 2 * time.Hour
	}
	if cfg.MaxBody <= 0 {
		cfg.MaxBody = 512 << 10
	}
	if cfg.DedupWindow <= 0 {
		cfg.DedupWindow = time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Broker{
		cfg: cfg, engine: d.Engine, dir: d.Directory, urls: d.URLs, clock: d.Clock, nonces: d.Nonces, start: d.Starter, hosts: d.Hosts,
		turns: newTurns(), log: cfg.Logger,
	}
}

// limits returns the smaller ones of preset and plan.
func (b *Broker) limits(t *directory.Tenant) compose.Limits {
	return compose.Limits{
		DefaultRetries: b.cfg.Retries,
		MaxRetries:     smaller(b.cfg.MaxRetries, t.Plan.MaxRetries),
		MaxDelay:       smaller(b.cfg.MaxDelay, t.Plan.MaxDelay),
		MaxTimeout:     smaller(b.cfg.MaxTimeout, t.Plan.MaxTimeout),
		MaxBody:        smaller(b.cfg.MaxBody, t.Plan.MaxBody),
	}
}

// smaller returns the smaller of two limits, of which zero means none.
func smaller[T int | int64 | time.Duration](a, b T) T {
	if a <= 0 || b > 0 && b < a {
		return b
	}
	return a
}

// maxStale bounds how often a request is prepared again because the configuration changed under it.
const maxStale = 10

// retryStale runs f with a principal whose configuration is read anew as long as f finds it outdated. What f refuses before it
// has asked the store may be due to an outdated configuration, too.
func (b *Broker) retryStale(ctx context.Context, p *directory.Principal, f func(p *directory.Principal) error) error {
	for range maxStale {
		err := f(p)
		if err == nil {
			return nil
		}
		if !errors.Is(err, store.ErrStale) {
			if v, e := b.engine.Version(ctx, p.Tenant.ID); e != nil || v == p.Tenant.Version {
				return err
			}
		}
		tenant, err := b.dir.Reload(ctx, p.Tenant.ID)
		if err != nil {
			return err
		}
		if tenant == nil {
			return errInvalidToken()
		}
		if p.Token != nil {
			row, err := b.engine.FindConfig(ctx, store.ConfigToken, p.Token.Hash)
			if err != nil {
				return err
			}
			if row == nil {
				return errInvalidToken()
			}
		}
		p = &directory.Principal{Token: p.Token, Tenant: tenant, CallerIP: p.CallerIP}
	}
	return posthaste.Errorf(posthaste.CodeUnavailable, "the configuration keeps changing; try again")
}

func errInvalidToken() error {
	return posthaste.Errorf(posthaste.CodeUnauthorized, "unable to authenticate: invalid token")
}

func notFound(format string, args ...any) error {
	return posthaste.Errorf(posthaste.CodeNotFound, format, args...)
}

// Ready reports whether the store answers.
func (b *Broker) Ready(ctx context.Context) error {
	_, err := b.engine.NextDue(ctx)
	return err
}

// MaxBody returns the largest message, in bytes, that the principal may publish.
func (b *Broker) MaxBody(p *directory.Principal) int64 { return b.limits(p.Tenant).MaxBody }

// FreshMaxBody is MaxBody by the configuration that the store has now.
func (b *Broker) FreshMaxBody(ctx context.Context, p *directory.Principal) int64 {
	t, err := b.dir.Fresh(ctx, p.Tenant.ID)
	if err != nil || t == nil {
		t = p.Tenant
	}
	return b.limits(t).MaxBody
}
