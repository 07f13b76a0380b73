package directory_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/store/sqlite"
)

// A watched reader counts what is read, and lets a test act in between.
type watched struct {
	store.Reader
	reads  atomic.Int64
	before func(what string) // maybe nil
}

func (w *watched) saw(what string) {
	w.reads.Add(1)
	if w.before != nil {
		w.before(what)
	}
}

func (w *watched) Version(ctx context.Context, t posthaste.TenantID) (int64, error) {
	w.saw("version")
	return w.Reader.Version(ctx, t)
}

func (w *watched) Config(ctx context.Context, k store.ConfigKey) (*store.ConfigRow, error) {
	w.saw(string(k.Kind))
	return w.Reader.Config(ctx, k)
}

func (w *watched) FindConfig(ctx context.Context, kind store.ConfigKind, name string) (*store.ConfigRow, error) {
	w.saw("find")
	return w.Reader.FindConfig(ctx, kind, name)
}

// config writes configuration rows and raises the tenant's version, as every change does.
type config struct {
	want store.Want
	rows []*store.ConfigRow
	gone []store.ConfigKey
	of   posthaste.TenantID
}

func (c *config) Want() *store.Want { return &c.want }

func (c *config) Decide(_ *store.View, ch *store.Changes) error {
	ch.Config, ch.ConfigGone, ch.Raise = append(ch.Config, c.rows...), append(ch.ConfigGone, c.gone...), append(ch.Raise, c.of)
	return nil
}

type fixture struct {
	t      *testing.T
	engine *sqlite.Engine
	reader *watched
	dir    *directory.Directory
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	e, err := sqlite.Open(t.Context(), sqlite.Config{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	r := &watched{Reader: e}
	return &fixture{t, e, r, directory.New(r)}
}

func (f *fixture) put(tenant posthaste.TenantID, kind store.ConfigKind, name string, value any) {
	f.t.Helper()
	c := &config{of: tenant}
	key := store.ConfigKey{Tenant: tenant, Kind: kind, Name: name}
	if value == nil {
		c.gone = []store.ConfigKey{key}
	} else {
		c.rows = []*store.ConfigRow{{ConfigKey: key, Value: directory.Encode(value), CreatedAt: time.Now(), UpdatedAt: time.Now()}}
	}
	if err := f.engine.Do(context.Background(), 0, c); err != nil {
		f.t.Fatal(err)
	}
}

// tenant creates a tenant with a token.
func (f *fixture) tenant(id posthaste.TenantID, token string) {
	f.t.Helper()
	f.put(id, store.ConfigTenant, "", directory.TenantRow{Name: "n", Plan: "free"})
	f.put(id, store.ConfigKeys, "", directory.KeysRow{Current: "sig_a", Next: "sig_b"})
	f.put(id, store.ConfigToken, directory.TokenHash(token), directory.TokenRow{Name: "first", Scope: directory.ScopeFull})
}

func TestAuthenticateRemembers(t *testing.T) {
	f := newFixture(t)
	f.tenant(7, "token")
	tok, ten, err := f.dir.Authenticate(t.Context(), "token", true)
	if err != nil || tok.Tenant != 7 || tok.Scope != directory.ScopeFull || tok.Hash != directory.TokenHash("token") || ten.ID != 7 || ten.Name != "n" || ten.Plan.Name != "free" ||
		ten.Keys != (posthaste.SigningKeys{Current: "sig_a", Next: "sig_b"}) || ten.Signer == nil {
		t.Fatalf("got %+v, %+v, %v, want token and tenant as stored", tok, ten, err)
	}
	reads := func(fresh bool) int64 {
		t.Helper()
		before := f.reader.reads.Load()
		if _, _, err := f.dir.Authenticate(t.Context(), "token", fresh); err != nil {
			t.Fatal(err)
		}
		return f.reader.reads.Load() - before
	}
	if n := reads(false); n != 0 {
		t.Errorf("got %d reads for a remembered token, want 0", n)
	}
	if n := reads(true); n != 1 {
		t.Errorf("got %d reads for a remembered token that must be fresh, want 1, of the version", n)
	}
	// A change is seen at once by whoever asks for fresh state, and by others as soon as somebody has seen it.
	f.put(7, store.ConfigTenant, "", directory.TenantRow{Name: "m", Plan: "payg"})
	if _, ten, _ := f.dir.Authenticate(t.Context(), "token", false); ten.Name != "n" {
		t.Errorf("got tenant %q, want the one at hand", ten.Name)
	}
	if _, ten, _ := f.dir.Authenticate(t.Context(), "token", true); ten.Name != "m" || ten.Plan.Name != "payg" {
		t.Errorf("got tenant %q of plan %q, want m of payg", ten.Name, ten.Plan.Name)
	}
	if _, ten, _ := f.dir.Authenticate(t.Context(), "token", false); ten.Name != "m" {
		t.Errorf("got tenant %q, want m", ten.Name)
	}
}

func TestRevokedToken(t *testing.T) {
	f := newFixture(t)
	f.tenant(7, "token")
	f.tenant(8, "other")
	authenticate := func(token string, fresh bool) error {
		_, _, err := f.dir.Authenticate(t.Context(), token, fresh)
		return err
	}
	for _, token := range []string{"token", "other"} {
		if err := authenticate(token, false); err != nil {
			t.Fatal(err)
		}
	}
	f.put(7, store.ConfigToken, directory.TokenHash("token"), nil)
	for _, fresh := range []bool{true, false} {
		if err := authenticate("token", fresh); !errors.Is(err, directory.ErrUnknownToken) {
			t.Errorf("fresh %v: got %v, want %v", fresh, err, directory.ErrUnknownToken)
		}
	}
	if err := authenticate("other", true); err != nil {
		t.Errorf("got %v for another tenant's token, want none", err)
	}
	// It may come back with another scope.
	f.put(7, store.ConfigToken, directory.TokenHash("token"), directory.TokenRow{Scope: directory.ScopeRead})
	if tok, _, err := f.dir.Authenticate(t.Context(), "token", true); err != nil || tok.Scope != directory.ScopeRead {
		t.Errorf("got %+v, %v, want a token for reading", tok, err)
	}
}

// TestRevokedWhileRead: a token that is revoked between the reading of its row and that of the version is not remembered.
func TestRevokedWhileRead(t *testing.T) {
	f := newFixture(t)
	f.tenant(7, "token")
	once := true
	f.reader.before = func(what string) {
		if what == "version" && once {
			once = false
			f.put(7, store.ConfigToken, directory.TokenHash("token"), nil)
		}
	}
	if _, _, err := f.dir.Authenticate(t.Context(), "token", true); !errors.Is(err, directory.ErrUnknownToken) {
		t.Errorf("got %v, want %v", err, directory.ErrUnknownToken)
	}
	if _, _, err := f.dir.Authenticate(t.Context(), "token", false); !errors.Is(err, directory.ErrUnknownToken) {
		t.Errorf("got %v the second time, want %v", err, directory.ErrUnknownToken)
	}
}

// TestChangedWhileRead: a snapshot is never older than its version says.
func TestChangedWhileRead(t *testing.T) {
	f := newFixture(t)
	f.tenant(7, "token")
	once := true
	f.reader.before = func(what string) {
		if what == string(store.ConfigKeys) && once {
			once = false
			f.put(7, store.ConfigTenant, "", directory.TenantRow{Name: "m", Plan: "pro"})
		}
	}
	old, err := f.dir.Reload(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := f.dir.Fresh(t.Context(), 7)
	if err != nil || fresh.Name != "m" || fresh.Version <= old.Version {
		t.Errorf("got %q at %d after %q at %d, %v, want the change under a later version", fresh.Name, fresh.Version, old.Name, old.Version, err)
	}
}

// TestOldReloadLoses: a reading that took long does not replace a newer one.
func TestOldReloadLoses(t *testing.T) {
	f := newFixture(t)
	f.tenant(7, "token")
	nested := false
	f.reader.before = func(what string) {
		if what == string(store.ConfigKeys) && !nested {
			nested = true
			f.put(7, store.ConfigTenant, "", directory.TenantRow{Name: "m"})
			if ten, err := f.dir.Reload(t.Context(), 7); err != nil || ten.Name != "m" {
				t.Errorf("got %v, %v, want m", ten, err)
			}
		}
	}
	ten, err := f.dir.Reload(t.Context(), 7)
	if err != nil || ten.Name != "m" {
		t.Errorf("got %q, %v, want the newer m", ten.Name, err)
	}
	if ten := f.dir.Cached(7); ten.Name != "m" {
		t.Errorf("got %q at hand, want m", ten.Name)
	}
}

func TestUnknown(t *testing.T) {
	f := newFixture(t)
	if ten, err := f.dir.Tenant(t.Context(), 7); ten != nil || err != nil {
		t.Errorf("got %v, %v, want nothing", ten, err)
	}
	if ten, err := f.dir.Fresh(t.Context(), 7); ten != nil || err != nil {
		t.Errorf("got %v, %v, want nothing", ten, err)
	}
	if s := f.dir.Signer(t.Context(), 7); s != nil {
		t.Errorf("got a signer, want none")
	}
	if _, _, err := f.dir.Authenticate(t.Context(), "", true); !errors.Is(err, directory.ErrUnknownToken) {
		t.Errorf("got %v, want %v", err, directory.ErrUnknownToken)
	}
	f.put(7, store.ConfigTenant, "", directory.TenantRow{Plan: "gold"})
	if ten, err := f.dir.Tenant(t.Context(), 7); ten != nil || posthaste.CodeOf(err) != posthaste.CodeInternal || !strings.Contains(err.Error(), "gold") {
		t.Errorf("got %v, %v, want an error that names the plan", ten, err)
	}
}

func TestGroups(t *testing.T) {
	f := newFixture(t)
	f.tenant(7, "token")
	ten, err := f.dir.Tenant(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	group := func(ten *directory.Tenant) string {
		t.Helper()
		g, err := f.dir.Group(t.Context(), ten, "g")
		if err != nil {
			t.Fatal(err)
		}
		if g == nil {
			return "none"
		}
		return fmt.Sprint(g.Name, g.Endpoints, g.Defaults)
	}
	if got := group(ten); got != "none" {
		t.Errorf("got %s, want none", got)
	}
	f.put(7, store.ConfigURLGroup, "g", directory.GroupRow{Endpoints: []posthaste.Endpoint{{URL: "https://a.test"}}, Defaults: posthaste.Header{"A": {"b"}}})
	// That there was none was not remembered.
	const first = "g[{ https://a.test}] map[A:[b]]"
	if got := group(ten); got != first {
		t.Errorf("got %s, want %s", got, first)
	}
	f.put(7, store.ConfigURLGroup, "g", directory.GroupRow{Endpoints: []posthaste.Endpoint{{Name: "n", URL: "https://b.test"}}})
	if got := group(ten); got != first {
		t.Errorf("got %s, want the group of the snapshot %s", got, first)
	}
	if ten, err = f.dir.Fresh(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	if got, want := group(ten), "g[{n https://b.test}] map[]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// Another tenant's group of that name is another one.
	f.tenant(8, "other")
	other, err := f.dir.Tenant(t.Context(), 8)
	if err != nil {
		t.Fatal(err)
	}
	if got := group(other); got != "none" {
		t.Errorf("got %s of another tenant, want none", got)
	}
}

func TestPlans(t *testing.T) {
	for _, name := range []string{"", "unlimited"} {
		if p, ok := directory.PlanByName(name); !ok || p != (directory.Plan{Name: "unlimited"}) {
			t.Errorf("%q: got %+v, %v, want no limits", name, p, ok)
		}
	}
	for _, name := range []string{"free", "payg", "pro"} {
		if p, ok := directory.PlanByName(name); !ok || p.Name != name || p.Queues == 0 || p.Retention == 0 {
			t.Errorf("%q: got %+v, %v, want its limits", name, p, ok)
		}
	}
	for _, name := range []string{"Free", "gold", " "} {
		if _, ok := directory.PlanByName(name); ok {
			t.Errorf("%q: got a plan, want none", name)
		}
	}
	if got, want := directory.PlanNames(), "unlimited, free, payg, pro"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	f := newFixture(t)
	f.put(7, store.ConfigTenant, "", directory.TenantRow{Plan: "free", Overrides: &directory.Plan{Name: "own", Queues: 3}})
	if ten, err := f.dir.Tenant(t.Context(), 7); err != nil || ten.Plan != (directory.Plan{Name: "own", Queues: 3}) {
		t.Errorf("got %+v, %v, want the tenant's own figures", ten, err)
	}
}

// TestConcurrently: many requests while tokens and configuration change. A token that was there all the time is always known.
func TestConcurrently(t *testing.T) {
	f := newFixture(t)
	f.tenant(7, "stays")
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				tok, ten, err := f.dir.Authenticate(context.Background(), "stays", n%2 == 0)
				if err != nil || tok.Tenant != 7 || ten.ID != 7 {
					t.Errorf("got %v, want the token", err)
					return
				}
				if _, _, err := f.dir.Authenticate(context.Background(), fmt.Sprintf("unknown%d", n), false); !errors.Is(err, directory.ErrUnknownToken) {
					t.Errorf("got %v, want %v", err, directory.ErrUnknownToken)
					return
				}
			}
		})
	}
	for n := range 100 {
		f.put(7, store.ConfigTenant, "", directory.TenantRow{Name: fmt.Sprint(n)})
	}
	close(done)
	wg.Wait()
	if ten, err := f.dir.Fresh(t.Context(), 7); err != nil || ten.Name != "99" {
		t.Errorf("got %v, %v, want the last change", ten, err)
	}
}
