package auth_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/auth"
	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/store/sqlite"
)

func TestBearer(t *testing.T) {
	for _, tt := range []struct {
		header, token string
		ok            bool
	}{
		{"Bearer abc", "abc", true},
		{"bearer abc", "abc", true},
		{"BEARER  abc ", "abc", true},
		{"Bearer eyJ=.x/y+z", "eyJ=.x/y+z", true},
		{"Bearer a b", "a b", true},
		{"Bearer ", "", true},
		{"Bearer", "", false},
		{"", "", false},
		{"abc", "", false},
		{"Basic abc", "", false},
		{"Bearerabc def", "", false},
		{" Bearer abc", "", false},
	} {
		if token, ok := auth.Bearer(tt.header); token != tt.token || ok != tt.ok {
			t.Errorf("%q: got %q, %v, want %q, %v", tt.header, token, ok, tt.token, tt.ok)
		}
	}
}

func TestCaller(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("fd00::/8")}
	for _, tt := range []struct {
		remote, forwarded string
		trusted           []netip.Prefix
		want              string
	}{
		{"203.0.113.7:1", "", trusted, "203.0.113.7"},
		{"[::ffff:203.0.113.7]:1", "", trusted, "203.0.113.7"},
		{"[2001:db8::7]:1", "", trusted, "2001:db8::7"},
		{"[2001:DB8:0::7]:1", "", trusted, "2001:db8::7"},
		{"[fe80::1%eth0]:1", "", trusted, "fe80::1"},
		{"203.0.113.7:1", "198.51.100.1", trusted, "203.0.113.7"},
		{"203.0.113.7:1", "198.51.100.1", nil, "203.0.113.7"},
		{"10.1.2.3:1", "198.51.100.1", nil, "10.1.2.3"},
		{"10.1.2.3:1", "198.51.100.1", trusted, "198.51.100.1"},
		{"192.0.2.7:1", "198.51.100.1, 10.0.0.1", trusted, "198.51.100.1"},
		{"192.0.2.8:1", "198.51.100.1", trusted, "192.0.2.8"},
		{"[::ffff:10.1.2.3]:1", "198.51.100.1", trusted, "198.51.100.1"},
		{"[fd00::1]:1", "2001:db8::1", trusted, "2001:db8::1"},
		{"10.1.2.3:1", "\t::ffff:198.51.100.1 ,x", trusted, "198.51.100.1"},
		{"10.1.2.3:1", "fe80::2%x", trusted, "fe80::2"},
		{"10.1.2.3:1", "unknown, 198.51.100.1", trusted, "10.1.2.3"},
		{"10.1.2.3:1", "198.51.100.1:80", trusted, "10.1.2.3"},
		{"10.1.2.3:1", ",", trusted, "10.1.2.3"},
		{"10.1.2.3:1", "<script>", trusted, "10.1.2.3"},
		{"@", "198.51.100.1", trusted, ""},
		{"", "", trusted, ""},
		{"10.1.2.3", "", trusted, ""},
	} {
		if got := auth.Caller(tt.remote, tt.forwarded, tt.trusted); got != tt.want {
			t.Errorf("from %q for %q: got %q, want %q", tt.remote, tt.forwarded, got, tt.want)
		}
	}
}

// FuzzCaller: whatever a client claims, the result is an address or nothing.
func FuzzCaller(f *testing.F) {
	f.Add("10.1.2.3:1", "198.51.100.1, 10.0.0.1")
	f.Add("[::ffff:10.1.2.3]:1", "::ffff:1.2.3.4%x")
	f.Add("", "")
	everyone := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	f.Fuzz(func(t *testing.T, remote, forwarded string) {
		for _, trusted := range [][]netip.Prefix{nil, everyone} {
			got := auth.Caller(remote, forwarded, trusted)
			if got == "" {
				continue
			}
			addr, err := netip.ParseAddr(got)
			if err != nil || addr.Is4In6() || addr.Zone() != "" || addr.String() != got {
				t.Errorf("from %q for %q: got %q, want an address in its plain form", remote, forwarded, got)
			}
		}
	})
}

func TestAuthenticate(t *testing.T) {
	engine, err := sqlite.Open(t.Context(), sqlite.Config{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	}()
	admin := broker.NewAdmin(engine)
	if _, err := admin.CreateTenant(t.Context(), broker.NewTenant{ID: 7, Token: "full"}); err != nil {
		t.Fatal(err)
	}
	for _, scope := range []directory.Scope{directory.ScopeRead, directory.ScopePublish} {
		if _, err := admin.CreateToken(t.Context(), 7, "other", scope, string(scope)); err != nil {
			t.Fatal(err)
		}
	}
	a := auth.New(directory.New(engine))
	for _, tt := range []struct {
		token  string
		action auth.Action
		code   posthaste.Code
		text   string
	}{
		{"full", auth.Read, "", ""},
		{"full", auth.Publish, "", ""},
		{"full", auth.Manage, "", ""},
		{"read", auth.Read, "", ""},
		{"read", auth.Publish, posthaste.CodeForbidden, "the token is read-only"},
		{"read", auth.Manage, posthaste.CodeForbidden, "the token is read-only"},
		{"publish", auth.Read, posthaste.CodeForbidden, "the token can only publish"},
		{"publish", auth.Publish, "", ""},
		{"publish", auth.Manage, posthaste.CodeForbidden, "the token can only publish"},
		{"", auth.Read, posthaste.CodeUnauthorized, "unable to authenticate: missing token"},
		{"Full", auth.Read, posthaste.CodeUnauthorized, "unable to authenticate: invalid token"},
		{"full ", auth.Publish, posthaste.CodeUnauthorized, "unable to authenticate: invalid token"},
		{directory.TokenHash("full"), auth.Read, posthaste.CodeUnauthorized, "unable to authenticate: invalid token"},
	} {
		for range 2 { // read, and remembered
			who, err := a.Authenticate(t.Context(), tt.token, tt.action)
			if tt.code == "" {
				if err != nil || who.Tenant.ID != 7 || who.Token == nil {
					t.Errorf("%q for action %d: got %v, %v, want the tenant", tt.token, tt.action, who, err)
				}
				continue
			}
			var e *posthaste.Error
			if !errors.As(err, &e) || e.Code != tt.code || e.Message != tt.text || who != nil {
				t.Errorf("%q for action %d: got %v, want %s %q", tt.token, tt.action, err, tt.code, tt.text)
			}
		}
	}
}
