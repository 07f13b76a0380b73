// Package directory caches the configuration of tenants: plan, signing keys, tokens, URL groups.
//
// Nothing in it is trusted by time. Every tenant has a version in the store, raised by each change in the transaction of the
// change; an operation that accepts or claims names the version it was prepared with and is refused if it is outdated
// ([Directory.Reload] and again), and reads compare it ([Directory.Fresh]). A [Tenant] is an immutable snapshot.
package directory

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/signature"
	"github.com/posthaste/posthaste/internal/store"
)

// Tenant is what is known of a tenant at one version of its configuration.
type Tenant struct {
	ID      posthaste.TenantID
	Version int64
	Name    string
	Plan    Plan
	Keys    posthaste.SigningKeys
	Signer  *signature.Signer // signs with Keys.Current

	seen   atomic.Int64 // when Signer found it up to date, in ns since 1970
	groups sync.Map     // name → *posthaste.URLGroup, nil if there is none; filled on demand
}

// Scope is what a token allows.
type Scope string

// The scopes.
const (
	ScopeFull    Scope = "full"
	ScopeRead    Scope = "read"    // GET only
	ScopePublish Scope = "publish" // publish, enqueue and batch only
)

// Token is a bearer token as it is stored: only its hash is known.
type Token struct {
	Hash      string // hex SHA-256 of the token
	Tenant    posthaste.TenantID
	Name      string
	Scope     Scope
	CreatedAt time.Time
}

// TokenHash returns the hash under which a token is stored.
func TokenHash(token string) string {
	h := sha256.Sum256([]byte(token))
	return hex.EncodeToString(h[:])
}

// Principal is whoever makes a request.
type Principal struct {
	Token  *Token
	Tenant *Tenant
	// CallerIP is the address the request came from.
	CallerIP string
}

// The values of configuration rows. Their fields are part of the stored format: add, never rename.
type (
	// TenantRow is the value of a store.ConfigTenant row.
	TenantRow struct {
		Name string
		Plan string
		// Overrides, if set, replace figures of the plan.
		Overrides *Plan `json:",omitempty"`
	}
	// TokenRow is the value of a store.ConfigToken row, whose name is the hash.
	TokenRow struct {
		Name  string
		Scope Scope
	}
	// KeysRow is the value of a store.ConfigKeys row.
	KeysRow struct {
		Current, Next string
	}
	// ScheduleRow is the value of a store.ConfigSchedule row.
	ScheduleRow struct {
		Cron        string
		Destination string // the URL or the group's name, as given
		Group       bool
		Paused      bool
		Anchor      time.Time // where @every counts from
		// Message is what each tick's messages are made of. URL, Group and Endpoint are set at the tick if Group is.
		Message posthaste.Message
	}
	// GroupRow is the value of a store.ConfigURLGroup row.
	GroupRow struct {
		Endpoints []posthaste.Endpoint
		Defaults  posthaste.Header `json:",omitempty"`
	}
)

// Encode returns the value of a configuration row.
func Encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // the row types marshal
	}
	return b
}

// Decode reads the value of a configuration row.
func Decode(row *store.ConfigRow, v any) error {
	if err := json.Unmarshal(row.Value, v); err != nil {
		return posthaste.Wrap(posthaste.CodeInternal, "read configuration row "+string(row.Kind)+" "+row.Name, err)
	}
	return nil
}

// ErrUnknownToken says that no tenant has such a token.
var ErrUnknownToken = errors.New("directory: unknown token")

// Directory is safe for concurrent use.
type Directory struct {
	engine store.Reader

	mu      sync.RWMutex
	tenants map[posthaste.TenantID]*Tenant
	tokens  map[[sha256.Size]byte]cachedToken
}

// cachedToken holds for the version of its tenant that it was read at.
type cachedToken struct {
	token  *Token
	tenant *Tenant
}

// maxTokens bounds the cache of tokens.
const maxTokens = 10_000

// New returns an empty directory over a store.
func New(engine store.Reader) *Directory {
	return &Directory{
		engine: engine, tenants: map[posthaste.TenantID]*Tenant{}, tokens: map[[sha256.Size]byte]cachedToken{},
	}
}

// Tenant returns the snapshot at hand, loading it if there is none. It returns nil if there is no such tenant.
func (d *Directory) Tenant(ctx context.Context, id posthaste.TenantID) (*Tenant, error) {
	d.mu.RLock()
	t := d.tenants[id]
	d.mu.RUnlock()
	if t != nil {
		return t, nil
	}
	return d.Reload(ctx, id)
}

// Cached returns the snapshot at hand, or nil. It does not block.
func (d *Directory) Cached(id posthaste.TenantID) *Tenant {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.tenants[id]
}

// Fresh returns a snapshot of the version the store has now; nil if there is no such tenant.
func (d *Directory) Fresh(ctx context.Context, id posthaste.TenantID) (*Tenant, error) {
	v, err := d.engine.Version(ctx, id)
	if err != nil {
		return nil, err
	}
	if t := d.Cached(id); t != nil && t.Version == v {
		return t, nil
	}
	return d.Reload(ctx, id)
}

// Reload reads a tenant's configuration. It returns nil if there is no such tenant.
func (d *Directory) Reload(ctx context.Context, id posthaste.TenantID) (*Tenant, error) {
	// The version is read first: what is read after it is as new or newer, so at worst the tenant is reloaded once more.
	v, err := d.engine.Version(ctx, id)
	if err != nil {
		return nil, err
	}
	if v == 0 {
		d.mu.Lock()
		delete(d.tenants, id)
		d.mu.Unlock()
		return nil, nil
	}
	t := &Tenant{ID: id, Version: v}
	row, err := d.engine.Config(ctx, store.ConfigKey{Tenant: id, Kind: store.ConfigTenant})
	if err != nil {
		return nil, err
	}
	if row != nil {
		var r TenantRow
		if err := Decode(row, &r); err != nil {
			return nil, err
		}
		t.Name = r.Name
		plan, ok := PlanByName(r.Plan)
		if !ok {
			return nil, posthaste.Errorf(posthaste.CodeInternal, "tenant %d has the unknown plan %q", id, r.Plan)
		}
		t.Plan = plan
		if r.Overrides != nil {
			t.Plan = *r.Overrides
		}
	}
	row, err = d.engine.Config(ctx, store.ConfigKey{Tenant: id, Kind: store.ConfigKeys})
	if err != nil {
		return nil, err
	}
	if row != nil {
		var r KeysRow
		if err := Decode(row, &r); err != nil {
			return nil, err
		}
		t.Keys = posthaste.SigningKeys{Current: r.Current, Next: r.Next}
		t.Signer = signature.NewSigner(r.Current)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if old := d.tenants[id]; old != nil && old.Version > v {
		return old, nil
	}
	d.tenants[id] = t
	return t, nil
}

// signerAge is how long a node may sign with keys that another node has rotated away.
const signerAge = time.Second

// Signer returns what signs deliveries of a tenant now, or nil if the tenant is gone or has no keys. A rotation through another node
// is in force after a second.
func (d *Directory) Signer(ctx context.Context, id posthaste.TenantID) *signature.Signer {
	t := d.Cached(id)
	if now := time.Now(); t == nil || now.UnixNano()-t.seen.Load() > int64(signerAge) {
		// While the store does not answer, the keys at hand are the best there are.
		if fresh, err := d.Fresh(ctx, id); err == nil {
			if t = fresh; t != nil {
				t.seen.Store(now.UnixNano())
			}
		}
	}
	if t == nil {
		return nil
	}
	return t.Signer
}

// Authenticate returns the principal of a token. With fresh, what it returns is of the version the store has now; otherwise
// the operation that follows names the version. The error is ErrUnknownToken if no tenant has the token.
func (d *Directory) Authenticate(ctx context.Context, token string, fresh bool) (*Token, *Tenant, error) {
	hash := sha256.Sum256([]byte(token))
	d.mu.RLock()
	c, ok := d.tokens[hash]
	d.mu.RUnlock()
	if ok {
		current := d.Cached(c.token.Tenant)
		if fresh {
			var err error
			if current, err = d.Fresh(ctx, c.token.Tenant); err != nil {
				return nil, nil, err
			}
		}
		if current == c.tenant {
			return c.token, c.tenant, nil
		}
	}
	row, err := d.engine.FindConfig(ctx, store.ConfigToken, hex.EncodeToString(hash[:]))
	if err != nil {
		return nil, nil, err
	}
	if row == nil {
		d.forget(hash)
		return nil, nil, ErrUnknownToken
	}
	tenant, err := d.Fresh(ctx, row.Tenant)
	if err != nil {
		return nil, nil, err
	}
	if tenant == nil {
		d.forget(hash)
		return nil, nil, ErrUnknownToken
	}
	// Read once more: a revocation between the first reading and that of the version would go unnoticed otherwise.
	if row, err = d.engine.FindConfig(ctx, store.ConfigToken, row.Name); err != nil {
		return nil, nil, err
	}
	if row == nil {
		return nil, nil, ErrUnknownToken
	}
	var r TokenRow
	if err := Decode(row, &r); err != nil {
		return nil, nil, err
	}
	t := &Token{Hash: row.Name, Tenant: row.Tenant, Name: r.Name, Scope: r.Scope, CreatedAt: row.CreatedAt}
	d.mu.Lock()
	if len(d.tokens) >= maxTokens {
		clear(d.tokens)
	}
	d.tokens[hash] = cachedToken{token: t, tenant: tenant}
	d.mu.Unlock()
	return t, tenant, nil
}

func (d *Directory) forget(hash [sha256.Size]byte) {
	d.mu.Lock()
	delete(d.tokens, hash)
	d.mu.Unlock()
}

// Group returns a URL group as it was at the tenant's version, or nil if there was none.
func (d *Directory) Group(ctx context.Context, t *Tenant, name string) (*posthaste.URLGroup, error) {
	if g, ok := t.groups.Load(name); ok {
		return g.(*posthaste.URLGroup), nil
	}
	row, err := d.engine.Config(ctx, store.ConfigKey{Tenant: t.ID, Kind: store.ConfigURLGroup, Name: name})
	if err != nil || row == nil {
		// Absence is not remembered: names come from requests, and there is no end of them.
		return nil, err
	}
	g, err := GroupOf(row)
	if err != nil {
		return nil, err
	}
	t.groups.Store(name, g)
	return g, nil
}

// GroupOf reads a URL group's row.
func GroupOf(row *store.ConfigRow) (*posthaste.URLGroup, error) {
	var r GroupRow
	if err := Decode(row, &r); err != nil {
		return nil, err
	}
	return &posthaste.URLGroup{
		Name: row.Name, Endpoints: r.Endpoints, Defaults: r.Defaults, CreatedAt: row.CreatedAt, UpdatedAt: row.UpdatedAt,
	}, nil
}
