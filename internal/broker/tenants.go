package broker

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/signature"
	"github.com/posthaste/posthaste/internal/store"
)

// Admin changes tenants and tokens on the store itself, with no running server. What it changes is in force at once on every
// node, because it raises the tenant's configuration version.
type Admin struct {
	engine store.Engine
}

// NewAdmin returns an Admin over a store.
func NewAdmin(engine store.Engine) *Admin { return &Admin{engine: engine} }

func newSigningKey() string {
	var r signature.Random
	rand.Read(r[:]) // never fails
	return signature.NewKey(r)
}

// NewToken returns a token that nobody can guess. It has the form of the hosted service's tokens, from which some client
// libraries read the user's name.
func NewToken(user string) string {
	var secret [24]byte
	rand.Read(secret[:]) // never fails
	text, err := json.Marshal(struct{ UserID, Password string }{user, base64.RawURLEncoding.EncodeToString(secret[:])})
	if err != nil {
		panic(err) // strings marshal
	}
	return base64.StdEncoding.EncodeToString(text)
}

// NewTenant describes a tenant to be created. Empty fields are made up.
type NewTenant struct {
	ID    posthaste.TenantID // 0: the next free one
	Name  string
	Plan  string
	Token string // its first token, of full scope
	Keys  posthaste.SigningKeys
}

// CreateTenant creates a tenant with a token and signing keys, and returns it complete.
func (a *Admin) CreateTenant(ctx context.Context, t NewTenant) (NewTenant, error) {
	if _, ok := directory.PlanByName(t.Plan); !ok {
		return t, posthaste.Errorf(posthaste.CodeInvalid, "unknown plan %q: one of %s", t.Plan, directory.PlanNames())
	}
	if t.ID == 0 {
		var after posthaste.TenantID
		for {
			ids, err := a.engine.Tenants(ctx, after, 1000)
			if err != nil {
				return t, err
			}
			if len(ids) == 0 {
				break
			}
			after = ids[len(ids)-1]
		}
		t.ID = after + 1
	}
	if t.Name == "" {
		t.Name = "default"
	}
	if t.Token == "" {
		t.Token = NewToken(t.Name)
	}
	if t.Keys.Current == "" {
		t.Keys.Current = newSigningKey()
	}
	if t.Keys.Next == "" {
		t.Keys.Next = newSigningKey()
	}
	hash := directory.TokenHash(t.Token)
	if row, err := a.engine.FindConfig(ctx, store.ConfigToken, hash); err != nil {
		return t, err
	} else if row != nil {
		return t, posthaste.Errorf(posthaste.CodeConflict, "the token belongs to a tenant already")
	}
	values := [][]byte{
		directory.Encode(directory.KeysRow{Current: t.Keys.Current, Next: t.Keys.Next}),
		directory.Encode(directory.TenantRow{Name: t.Name, Plan: t.Plan}),
		directory.Encode(directory.TokenRow{Name: "first", Scope: directory.ScopeFull}),
	}
	op := &ledger.Configure{
		Tenant: t.ID,
		Keys: []store.ConfigKey{
			{Tenant: t.ID, Kind: store.ConfigKeys},
			{Tenant: t.ID, Kind: store.ConfigTenant},
			{Tenant: t.ID, Kind: store.ConfigToken, Name: hash},
		},
		Edit: func(_ time.Time, rows []*store.ConfigRow) ([]*store.ConfigRow, error) {
			if rows[1] != nil {
				return nil, posthaste.Errorf(posthaste.CodeConflict, "tenant %d exists already", t.ID)
			}
			for i := range rows {
				rows[i] = &store.ConfigRow{Value: values[i]}
			}
			return rows, nil
		},
	}
	return t, a.engine.Do(ctx, 0, op)
}

// TenantInfo is a tenant as it is listed.
type TenantInfo struct {
	ID        posthaste.TenantID
	Name      string
	Plan      string
	CreatedAt time.Time
}

// Tenants lists all tenants.
func (a *Admin) Tenants(ctx context.Context) ([]TenantInfo, error) {
	var out []TenantInfo
	var after posthaste.TenantID
	for {
		ids, err := a.engine.Tenants(ctx, after, 500)
		if err != nil || len(ids) == 0 {
			return out, err
		}
		for _, id := range ids {
			row, err := a.engine.Config(ctx, store.ConfigKey{Tenant: id, Kind: store.ConfigTenant})
			if err != nil {
				return nil, err
			}
			if row == nil {
				continue
			}
			var r directory.TenantRow
			if err := directory.Decode(row, &r); err != nil {
				return nil, err
			}
			if r.Plan == "" {
				r.Plan = "unlimited"
			}
			out = append(out, TenantInfo{ID: id, Name: r.Name, Plan: r.Plan, CreatedAt: row.CreatedAt})
		}
		after = ids[len(ids)-1]
	}
}

// SetPlan gives a tenant another plan. A limit of attempts in flight holds for what is accepted from then on; one that the old
// plan set is changed at once for what waits, too.
func (a *Admin) SetPlan(ctx context.Context, id posthaste.TenantID, plan string) error {
	figures, ok := directory.PlanByName(plan)
	if !ok {
		return posthaste.Errorf(posthaste.CodeInvalid, "unknown plan %q: one of %s", plan, directory.PlanNames())
	}
	err := a.engine.Do(ctx, 0, &ledger.Configure{
		Tenant: id,
		Keys:   []store.ConfigKey{{Tenant: id, Kind: store.ConfigTenant}},
		Edit: func(_ time.Time, rows []*store.ConfigRow) ([]*store.ConfigRow, error) {
			if rows[0] == nil {
				return nil, notFound("there is no tenant %d", id)
			}
			var r directory.TenantRow
			if err := directory.Decode(rows[0], &r); err != nil {
				return nil, err
			}
			r.Plan, r.Overrides = plan, nil
			rows[0].Value = directory.Encode(r)
			return rows, nil
		},
	})
	if err != nil {
		return err
	}
	return a.limitAttempts(ctx, id, figures.Parallelism)
}

// limitAttempts changes how many attempts a tenant may have in flight, if its gate exists.
func (a *Admin) limitAttempts(ctx context.Context, id posthaste.TenantID, most int) error {
	ref := store.NewGateRef(a.engine.Shards(), id, store.KindTenant, "")
	heads, err := a.engine.Heads(ctx, ref, 16)
	if err != nil {
		return err
	}
	err = a.engine.Do(ctx, int(ref.Shard), &ledger.EditGate{Gate: ref, Heads: heads, Edit: func(now time.Time, g *store.Gate) error {
		if g.CreatedAt.IsZero() {
			return errNothing
		}
		g.Parallelism, g.UpdatedAt = most, now
		return nil
	}})
	if errors.Is(err, errNothing) {
		return nil
	}
	return err
}

// CreateToken gives a tenant another token. An empty token is made up.
func (a *Admin) CreateToken(ctx context.Context, id posthaste.TenantID, name string, scope directory.Scope, token string) (string, error) {
	if !slices.Contains([]directory.Scope{directory.ScopeFull, directory.ScopeRead, directory.ScopePublish}, scope) {
		return "", posthaste.Errorf(posthaste.CodeInvalid, "unknown scope %q: one of full, read, publish", scope)
	}
	if v, err := a.engine.Version(ctx, id); err != nil {
		return "", err
	} else if v == 0 {
		return "", notFound("there is no tenant %d", id)
	}
	if token == "" {
		token = NewToken(name)
	}
	if row, err := a.engine.FindConfig(ctx, store.ConfigToken, directory.TokenHash(token)); err != nil {
		return "", err
	} else if row != nil && row.Tenant != id {
		return "", posthaste.Errorf(posthaste.CodeConflict, "the token belongs to a tenant already")
	}
	value := directory.Encode(directory.TokenRow{Name: name, Scope: scope})
	return token, a.engine.Do(ctx, 0, &ledger.Configure{
		Tenant: id,
		Keys:   []store.ConfigKey{{Tenant: id, Kind: store.ConfigToken, Name: directory.TokenHash(token)}},
		Edit: func(_ time.Time, rows []*store.ConfigRow) ([]*store.ConfigRow, error) {
			if rows[0] != nil {
				return nil, posthaste.Errorf(posthaste.CodeConflict, "the token exists already")
			}
			rows[0] = &store.ConfigRow{Value: value}
			return rows, nil
		},
	})
}

// Tokens lists a tenant's tokens by their hashes.
func (a *Admin) Tokens(ctx context.Context, id posthaste.TenantID) ([]directory.Token, error) {
	var out []directory.Token
	after := ""
	for {
		rows, err := a.engine.ConfigList(ctx, id, store.ConfigToken, after, 500)
		if err != nil || len(rows) == 0 {
			return out, err
		}
		for _, row := range rows {
			var r directory.TokenRow
			if err := directory.Decode(row, &r); err != nil {
				return nil, err
			}
			out = append(out, directory.Token{Hash: row.Name, Tenant: id, Name: r.Name, Scope: r.Scope, CreatedAt: row.CreatedAt})
		}
		after = rows[len(rows)-1].Name
	}
}

// RevokeToken removes the one token of the tenant whose hash begins so.
func (a *Admin) RevokeToken(ctx context.Context, id posthaste.TenantID, prefix string) error {
	tokens, err := a.Tokens(ctx, id)
	if err != nil {
		return err
	}
	tokens = slices.DeleteFunc(tokens, func(t directory.Token) bool {
		return len(prefix) < 6 || len(prefix) > len(t.Hash) || t.Hash[:len(prefix)] != prefix
	})
	if len(tokens) != 1 {
		return notFound("%d tokens begin with %q: give the beginning of one, at least 6 characters, as token list shows it", len(tokens), prefix)
	}
	return a.engine.Do(ctx, 0, &ledger.Configure{
		Tenant: id,
		Keys:   []store.ConfigKey{{Tenant: id, Kind: store.ConfigToken, Name: tokens[0].Hash}},
		Edit: func(_ time.Time, rows []*store.ConfigRow) ([]*store.ConfigRow, error) {
			if rows[0] == nil {
				return nil, notFound("the token is gone already")
			}
			return []*store.ConfigRow{nil}, nil
		},
	})
}
