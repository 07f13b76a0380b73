package broker_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/store/sqlite"
	"github.com/posthaste/posthaste/internal/wire"
)

func TestSmaller(t *testing.T) {
	for _, tt := range [][3]int{{0, 0, 0}, {0, 5, 5}, {5, 0, 5}, {3, 5, 3}, {5, 3, 3}, {5, 5, 5}, {-1, 5, 5}, {5, -1, 5}} {
		if got := broker.Smaller(tt[0], tt[1]); got != tt[2] {
			t.Errorf("%d and %d: got %d, want %d", tt[0], tt[1], got, tt[2])
		}
	}
}

// FuzzDeadCursor: whatever a client passes as a cursor, a page of dead letters begins at an id that is one, or the cursor is
// refused. What the server itself gave out leads on behind where it was.
func FuzzDeadCursor(f *testing.F) {
	for _, seed := range []string{"1725323658779-7", "1725323658779", "0", "0-0", "1-4294967295", "1-4294967296", "9223372036854775807", "9223372036854775807-1", "253402300799999", "1-a", "1-0.x", ""} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	f.Fuzz(func(t *testing.T, text string, latestFirst bool) {
		c, err := wire.ParseCursor(text)
		if err != nil {
			return
		}
		id, err := broker.DeadStart(wire.DeadFilter{Cursor: &c, LatestFirst: latestFirst})
		if err != nil {
			if posthaste.CodeOf(err) != posthaste.CodeInvalid {
				t.Errorf("%q: got %v, want a refusal", text, err)
			}
			return
		}
		at, seq, ok := id.Parts()
		if id == "" && c.Rest == "" && c.Millis == 0 && !latestFirst {
			return // from the beginning
		}
		if !ok {
			t.Fatalf("%q: got %q, want an id", text, id)
		}
		if c.Rest != "" {
			if at.UnixMilli() != c.Millis || fmt.Sprint(seq) != strings.TrimLeft(c.Rest[:len(c.Rest)-1], "0")+c.Rest[len(c.Rest)-1:] {
				t.Errorf("%q: got %q, want the same moment and number", text, id)
			}
			if back := broker.DeadCursor(id); back != string(id) {
				t.Errorf("%q: got the cursor %q of %q, want the same", text, back, id)
			}
			return
		}
		// A bare time begins with what was made then.
		if d := at.UnixMilli() - c.Millis; latestFirst && d != 1 || !latestFirst && c.Millis > 0 && d != -1 {
			t.Errorf("%q, latestFirst %v: got %q, want the id next to that millisecond", text, latestFirst, id)
		}
	})
}

func TestDeadStart(t *testing.T) {
	at := time.UnixMilli(1000).UTC()
	end := at.Add(time.Millisecond - 1)
	for _, tt := range []struct {
		f    wire.DeadFilter
		want posthaste.DeadLetterID
	}{
		{wire.DeadFilter{}, ""},
		{wire.DeadFilter{LatestFirst: true}, ""},
		{wire.DeadFilter{Filter: wire.Filter{From: at}}, "999-4294967295"},
		{wire.DeadFilter{Filter: wire.Filter{To: end}}, ""},
		{wire.DeadFilter{Filter: wire.Filter{To: end}, LatestFirst: true}, "1001-0"},
		{wire.DeadFilter{Filter: wire.Filter{From: at}, LatestFirst: true}, ""},
		{wire.DeadFilter{Cursor: &wire.Cursor{Millis: 5000, Rest: "7"}, Filter: wire.Filter{From: at}}, "5000-7"},
	} {
		if got, err := broker.DeadStart(tt.f); got != tt.want || err != nil {
			t.Errorf("%+v: got %q, %v, want %q", tt.f, got, err, tt.want)
		}
	}
	if got, err := broker.DeadStart(wire.DeadFilter{Cursor: &wire.Cursor{Millis: math.MaxInt64}, LatestFirst: true}); err == nil {
		t.Errorf("got %q, want a refusal of a moment that no clock shows", got)
	}
}

func newAdmin(t *testing.T) *broker.Admin {
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
	return broker.NewAdmin(e)
}

func TestCreateTenant(t *testing.T) {
	a := newAdmin(t)
	first, err := a.CreateTenant(t.Context(), broker.NewTenant{})
	if err != nil {
		t.Fatal(err)
	}
	if first.ID != 1 || first.Name != "default" || !strings.HasPrefix(first.Keys.Current, "sig_") || len(first.Keys.Next) != 32 || first.Keys.Current == first.Keys.Next {
		t.Errorf("got %+v, want what was left out made up", first)
	}
	// The token has the form from which client libraries read the user's name.
	raw, err := base64.StdEncoding.DecodeString(first.Token)
	var user struct{ UserID, Password string }
	if err != nil || json.Unmarshal(raw, &user) != nil || user.UserID != "default" || len(user.Password) < 32 {
		t.Errorf("got token %q of %s, want the user's name in it", first.Token, raw)
	}
	given := broker.NewTenant{ID: 7, Name: "n", Plan: "payg", Token: "t", Keys: posthaste.SigningKeys{Current: "sig_a", Next: "sig_b"}}
	if got, err := a.CreateTenant(t.Context(), given); err != nil || got != given {
		t.Errorf("got %+v, %v, want %+v", got, err, given)
	}
	if got, err := a.CreateTenant(t.Context(), broker.NewTenant{}); err != nil || got.ID != 8 || got.Token == first.Token {
		t.Errorf("got %+v, %v, want the next id and a token of its own", got, err)
	}
	for _, tt := range []struct {
		t    broker.NewTenant
		code posthaste.Code
	}{
		{broker.NewTenant{ID: 7, Token: "u"}, posthaste.CodeConflict},
		{broker.NewTenant{Token: "t"}, posthaste.CodeConflict},
		{broker.NewTenant{Plan: "gold"}, posthaste.CodeInvalid},
	} {
		if _, err := a.CreateTenant(t.Context(), tt.t); posthaste.CodeOf(err) != tt.code {
			t.Errorf("%+v: got %v, want %s", tt.t, err, tt.code)
		}
	}
	list, err := a.Tenants(t.Context())
	var got []string
	for _, ten := range list {
		got = append(got, fmt.Sprint(ten.ID, " ", ten.Name, " ", ten.Plan))
	}
	if want := "[1 default unlimited 7 n payg 8 default unlimited]"; fmt.Sprint(got) != want || err != nil {
		t.Errorf("got %v, %v, want %s", got, err, want)
	}
}

func TestTokens(t *testing.T) {
	a := newAdmin(t)
	if _, err := a.CreateTenant(t.Context(), broker.NewTenant{ID: 7, Token: "first"}); err != nil {
		t.Fatal(err)
	}
	made, err := a.CreateToken(t.Context(), 7, "reader", directory.ScopeRead, "")
	if err != nil || made == "" {
		t.Fatalf("got %q, %v, want a token", made, err)
	}
	for _, tt := range []struct {
		id    posthaste.TenantID
		scope directory.Scope
		token string
		code  posthaste.Code
	}{
		{8, directory.ScopeFull, "x", posthaste.CodeNotFound},
		{7, "admin", "x", posthaste.CodeInvalid},
		{7, "", "x", posthaste.CodeInvalid},
		{7, directory.ScopeFull, "first", posthaste.CodeConflict},
	} {
		if _, err := a.CreateToken(t.Context(), tt.id, "n", tt.scope, tt.token); posthaste.CodeOf(err) != tt.code {
			t.Errorf("%+v: got %v, want %s", tt, err, tt.code)
		}
	}
	// A token names its tenant, so no other one can have it.
	if _, err := a.CreateTenant(t.Context(), broker.NewTenant{ID: 9, Token: "other"}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.CreateToken(t.Context(), 9, "n", directory.ScopeFull, "first"); posthaste.CodeOf(err) != posthaste.CodeConflict {
		t.Errorf("got %v for another tenant's token, want %s", err, posthaste.CodeConflict)
	}
	hash := directory.TokenHash(made)
	for _, tt := range []struct {
		id     posthaste.TenantID
		prefix string
		code   posthaste.Code
	}{
		{7, "", posthaste.CodeNotFound},
		{7, hash[:5], posthaste.CodeNotFound},
		{7, hash + "0", posthaste.CodeNotFound},
		{9, hash, posthaste.CodeNotFound},
		{7, hash[:6], ""},
		{7, hash[:6], posthaste.CodeNotFound},
	} {
		if err := a.RevokeToken(t.Context(), tt.id, tt.prefix); posthaste.CodeOf(err) != tt.code {
			t.Errorf("%d %q: got %v, want %q", tt.id, tt.prefix, err, tt.code)
		}
	}
	left, err := a.Tokens(t.Context(), 7)
	if err != nil || len(left) != 1 || left[0].Hash != directory.TokenHash("first") || left[0].Scope != directory.ScopeFull {
		t.Errorf("got %+v, %v, want the first one", left, err)
	}
}

func TestSetPlan(t *testing.T) {
	a := newAdmin(t)
	if _, err := a.CreateTenant(t.Context(), broker.NewTenant{ID: 7}); err != nil {
		t.Fatal(err)
	}
	if err := a.SetPlan(t.Context(), 7, "pro"); err != nil {
		t.Error(err)
	}
	if list, err := a.Tenants(t.Context()); err != nil || list[0].Plan != "pro" {
		t.Errorf("got %+v, %v, want the plan pro", list, err)
	}
	if err := a.SetPlan(t.Context(), 7, "gold"); posthaste.CodeOf(err) != posthaste.CodeInvalid {
		t.Errorf("got %v, want %s", err, posthaste.CodeInvalid)
	}
	if err := a.SetPlan(t.Context(), 8, "pro"); posthaste.CodeOf(err) != posthaste.CodeNotFound {
		t.Errorf("got %v, want %s", err, posthaste.CodeNotFound)
	}
}
