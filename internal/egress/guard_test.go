package egress_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/posthaste/posthaste/internal/egress"
)

// newGuard returns a guard, and fails the test if cfg is at fault.
func newGuard(tb testing.TB, cfg egress.Config) *egress.Guard {
	tb.Helper()
	g, err := egress.New(cfg)
	if err != nil {
		tb.Fatalf("got error %v, want none", err)
	}
	return g
}

func TestCheckAddr(t *testing.T) {
	t.Parallel()
	guards := []*egress.Guard{
		newGuard(t, egress.Config{}),
		newGuard(t, egress.Config{Mode: egress.ModePrivate}),
		newGuard(t, egress.Config{Mode: egress.ModeDev}),
	}
	modes := []egress.Mode{egress.ModePublic, egress.ModePrivate, egress.ModeDev}
	// Open says from which mode on the address may be dialled: 0 public, 1 private, 2 dev, 3 none.
	const public, private, dev, none = 0, 1, 2, 3
	tests := []struct {
		addr string
		open int
		kind string
	}{
		// Public, and the neighbours of what is not.
		{"1.1.1.1", public, ""},
		{"8.8.8.8", public, ""},
		{"1.0.0.0", public, ""},
		{"9.255.255.255", public, ""},
		{"11.0.0.0", public, ""},
		{"100.63.255.255", public, ""},
		{"100.128.0.0", public, ""},
		{"126.255.255.255", public, ""},
		{"128.0.0.0", public, ""},
		{"168.63.129.15", public, ""},
		{"168.63.129.17", public, ""},
		{"169.253.255.255", public, ""},
		{"169.255.0.0", public, ""},
		{"172.15.255.255", public, ""},
		{"172.32.0.0", public, ""},
		{"191.255.255.255", public, ""},
		{"192.0.1.0", public, ""},
		{"192.0.3.0", public, ""},
		{"192.167.255.255", public, ""},
		{"192.169.0.0", public, ""},
		{"198.17.255.255", public, ""},
		{"198.20.0.0", public, ""},
		{"223.255.255.255", public, ""},
		{"2606:4700:4700::1111", public, ""},
		{"2000::", public, ""},
		{"2001:200::", public, ""},
		{"2001:db7:ffff::", public, ""},
		{"2001:db9::", public, ""},
		{"2001:4860:4860::8888", public, ""},
		{"2003::", public, ""},
		{"2a00:1450:4001:830::200e", public, ""},
		{"2600:1f18::1", public, ""},
		{"::ffff:8.8.8.8", public, ""},

		{"127.0.0.1", private, "a loopback"},
		{"127.0.0.0", private, "a loopback"},
		{"127.255.255.255", private, "a loopback"},
		{"::1", private, "a loopback"},
		{"::ffff:127.0.0.1", private, "a loopback"},
		{"::ffff:7f00:1", private, "a loopback"},
		{"10.0.0.0", private, "a private"},
		{"10.255.255.255", private, "a private"},
		{"172.16.0.0", private, "a private"},
		{"172.17.0.1", private, "a private"},
		{"172.31.255.255", private, "a private"},
		{"192.168.0.0", private, "a private"},
		{"192.168.255.255", private, "a private"},
		{"::ffff:10.1.2.3", private, "a private"},
		{"fc00::", private, "a private"},
		{"fd12:3456:789a::1", private, "a private"},
		{"fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", private, "a private"},

		{"169.254.0.1", dev, "a link-local"},
		{"169.254.169.253", dev, "a link-local"},
		{"169.254.255.255", dev, "a link-local"},
		{"fe80::1", dev, "a link-local"},
		{"fe80::1%eth0", dev, "a link-local"},
		{"febf::1", dev, "a link-local"},
		{"100.64.0.0", dev, "a shared"},
		{"100.127.255.255", dev, "a shared"},
		{"0.0.0.0", dev, "an unspecified"},
		{"::", dev, "an unspecified"},
		{"::ffff:0.0.0.0", dev, "an unspecified"},

		{"169.254.169.254", none, "a cloud metadata"},
		{"::ffff:169.254.169.254", none, "a cloud metadata"},
		{"169.254.170.2", none, "a cloud metadata"},
		{"169.254.170.23", none, "a cloud metadata"},
		{"169.254.42.42", none, "a cloud metadata"},
		{"169.254.0.23", none, "a cloud metadata"},
		{"100.100.100.200", none, "a cloud metadata"},
		{"168.63.129.16", none, "a cloud metadata"},
		{"192.0.0.192", none, "a cloud metadata"},
		{"fd00:ec2::254", none, "a cloud metadata"},
		{"fd00:ec2::23", none, "a cloud metadata"},
		{"fd20:ce::254", none, "a cloud metadata"},
		{"fd00:c1::a9fe:a9fe", none, "a cloud metadata"},
		{"fd00:42::42", none, "a cloud metadata"},
		{"fe80::a9fe:a9fe", none, "a cloud metadata"},
		{"fe80::a9fe:a9fe%eth0", none, "a cloud metadata"},

		{"0.0.0.1", none, "a reserved"},
		{"0.255.255.255", none, "a reserved"},
		{"192.0.0.0", none, "a reserved"},
		{"192.0.0.255", none, "a reserved"},
		{"192.0.2.1", none, "a documentation"},
		{"192.31.196.1", none, "a reserved"},
		{"192.52.193.1", none, "a reserved"},
		{"192.88.99.1", none, "a reserved"},
		{"192.175.48.1", none, "a reserved"},
		{"198.18.0.0", none, "a benchmarking"},
		{"198.19.255.255", none, "a benchmarking"},
		{"198.51.100.7", none, "a documentation"},
		{"203.0.113.7", none, "a documentation"},
		{"224.0.0.1", none, "a multicast"},
		{"239.255.255.255", none, "a multicast"},
		{"240.0.0.0", none, "a reserved"},
		{"255.255.255.254", none, "a reserved"},
		{"255.255.255.255", none, "a broadcast"},

		{"::2", none, "an IPv4 transition"},
		{"::127.0.0.1", none, "an IPv4 transition"},
		{"::8.8.8.8", none, "an IPv4 transition"},
		{"::ffff:0:7f00:1", none, "an IPv4 transition"},
		{"64:ff9b::", none, "an IPv4 transition"},
		{"64:ff9b::7f00:1", none, "an IPv4 transition"},
		{"64:ff9b::808:808", none, "an IPv4 transition"},
		{"64:ff9b:1::1", none, "an IPv4 transition"},
		{"64:ff9b:1:ffff::a9fe:a9fe", none, "an IPv4 transition"},
		{"2001::1", none, "an IPv4 transition"},
		{"2001:0:ffff::1", none, "an IPv4 transition"},
		{"2002::1", none, "an IPv4 transition"},
		{"2002:7f00:1::", none, "an IPv4 transition"},
		{"2001:2::1", none, "a benchmarking"},
		{"2001:3::1", none, "a reserved"},
		{"2001:10::1", none, "a reserved"},
		{"2001:1f:ffff::1", none, "a reserved"},
		{"2001:20::1", none, "a reserved"},
		{"2001:1ff:ffff::1", none, "a reserved"},
		{"2001:db8::1", none, "a documentation"},
		{"2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", none, "a documentation"},
		{"2620:4f:8000::1", none, "a reserved"},
		{"3fff::1", none, "a documentation"},
		{"3fff:fff:ffff::1", none, "a documentation"},
		{"5f00::1", none, "a reserved"},
		{"100::1", none, "a reserved"},
		{"100:0:0:1::1", none, "a reserved"},
		{"200::1", none, "a reserved"},
		{"4000::1", none, "a reserved"},
		{"8000::1", none, "a reserved"},
		{"fe00::1", none, "a reserved"},
		{"fec0::1", none, "a reserved"},
		{"feff::1", none, "a reserved"},
		{"ff02::1", none, "a multicast"},
		{"ff05::2%eth0", none, "a multicast"},
		{"ff0e::1", none, "a multicast"},
	}
	for _, tt := range tests {
		addr := netip.MustParseAddr(tt.addr)
		for i, g := range guards {
			err := g.CheckAddr(addr)
			if i >= tt.open {
				if err != nil {
					t.Errorf("%s in mode %s: got error %v, want none", tt.addr, modes[i], err)
				}
				continue
			}
			if err == nil {
				t.Errorf("%s in mode %s: got no error, want a refusal", tt.addr, modes[i])
				continue
			}
			if _, ok := errors.AsType[*egress.RefusedError](err); !ok {
				t.Errorf("%s in mode %s: got error of type %T, want *RefusedError", tt.addr, modes[i], err)
			}
			hint := "--egress-allow"
			switch {
			case tt.kind == "a cloud metadata":
				hint += " " + addr.WithZone("").Unmap().String()
			case tt.open == private:
				hint = "--allow-private"
			}
			got := err.Error()
			if !strings.HasPrefix(got, "endpoint resolves to "+tt.kind+" ") ||
				!strings.HasSuffix(got, " address: "+addr.WithZone("").Unmap().String()+" (allow it with "+hint+")") {
				t.Errorf("%s in mode %s: got %q, want %s address and the switch %s", tt.addr, modes[i], got, tt.kind, hint)
			}
		}
	}
	for i, g := range guards {
		if err := g.CheckAddr(netip.Addr{}); err == nil {
			t.Errorf("no address in mode %s: got no error, want a refusal", modes[i])
		}
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	const denied = "denied by --egress-deny"
	tests := []struct {
		name        string
		mode        egress.Mode
		allow, deny []string
		url         string
		want        string // part of the error; none if empty
	}{
		{"an address opens itself", "", []string{"10.1.2.3"}, nil, "https://10.1.2.3/", ""},
		{"and no other", "", []string{"10.1.2.3"}, nil, "https://10.1.2.4/", "a private address: 10.1.2.4"},
		{"a network opens its addresses", "", []string{"10.1.0.0/16"}, nil, "https://10.1.2.3/", ""},
		{"and no others", "", []string{"10.1.0.0/16"}, nil, "https://10.2.0.1/", "a private address"},
		{"a network opens mapped addresses", "", []string{"10.1.0.0/16"}, nil, "https://[::ffff:10.1.2.3]/", ""},
		{"a mapped network opens plain addresses", "", []string{"::ffff:10.1.0.0/112"}, nil, "https://10.1.2.3/", ""},
		{"a mapped address opens the plain one", "", []string{"::ffff:10.1.2.3"}, nil, "https://10.1.2.3/", ""},
		{"an IPv6 network opens its addresses", "", []string{"fd12::/16"}, nil, "https://[fd12::1]/", ""},
		{"a documentation network can be opened", "", []string{"2001:db8::/32"}, nil, "https://[2001:db8::1]/", ""},
		{"the shared range can be opened", egress.ModePrivate, []string{"100.64.0.0/10"}, nil, "https://100.64.1.1/", ""},
		{"spaces around an entry do not count", "", []string{" 10.1.2.3 "}, nil, "https://10.1.2.3/", ""},

		{"deny closes a public address", "", nil, []string{"8.8.8.0/24"}, "https://8.8.8.8/", denied},
		{"and no other", "", nil, []string{"8.8.8.0/24"}, "https://8.8.4.4/", ""},
		{"deny closes mapped addresses", "", nil, []string{"8.8.8.8"}, "https://[::ffff:8.8.8.8]/", denied},
		{"deny closes what the mode opens", egress.ModeDev, nil, []string{"192.168.0.0/16"}, "https://192.168.1.1/", denied},
		{"deny wins over a wider allow", "", []string{"10.0.0.0/8"}, []string{"10.1.0.0/16"}, "https://10.1.2.3/", denied},
		{"deny wins over a narrower allow", "", []string{"10.1.2.3"}, []string{"10.0.0.0/8"}, "https://10.1.2.3/", denied},
		{"deny closes a carrier of a denied address", "", []string{"64:ff9b::a01:203"}, []string{"10.0.0.0/8"}, "https://[64:ff9b::a01:203]/", denied},
		{"an IPv4 deny does not close IPv6 loopback", egress.ModeDev, nil, []string{"0.0.0.0/8"}, "https://[::1]/", ""},

		{"a wide network does not open metadata", "", []string{"169.254.0.0/16"}, nil, "https://169.254.169.254/", "a cloud metadata address: 169.254.169.254 (allow it with --egress-allow 169.254.169.254)"},
		{"nor does everything", "", []string{"0.0.0.0/0", "::/0"}, nil, "https://[fd00:ec2::254]/", "a cloud metadata address"},
		{"everything opens the rest", "", []string{"0.0.0.0/0", "::/0"}, nil, "https://127.0.0.1/", ""},
		{"metadata opened alone", "", []string{"169.254.169.254"}, nil, "https://169.254.169.254/", ""},
		{"metadata opened alone, as a network", "", []string{"fd00:ec2::254/128"}, nil, "https://[fd00:ec2::254]/", ""},

		{"NAT64 opened, public behind it", "", []string{"64:ff9b::/96"}, nil, "https://[64:ff9b::8.8.8.8]/", ""},
		{"NAT64 opened, loopback behind it", "", []string{"64:ff9b::/96"}, nil, "https://[64:ff9b::127.0.0.1]/", "a loopback address: 127.0.0.1"},
		{"NAT64 opened, metadata behind it", "", []string{"64:ff9b::/96"}, nil, "https://[64:ff9b::169.254.169.254]/", "a cloud metadata address"},
		{"NAT64 opened, private behind it, mode private", egress.ModePrivate, []string{"64:ff9b::/96"}, nil, "https://[64:ff9b::10.0.0.1]/", ""},
		{"NAT64 opened, denied behind it", egress.ModePrivate, []string{"64:ff9b::/96"}, []string{"10.0.0.0/8"}, "https://[64:ff9b::10.0.0.1]/", denied},
		{"local NAT64 opened, private behind it", "", []string{"64:ff9b:1::/48"}, nil, "https://[64:ff9b:1::10.0.0.1]/", "a private address: 10.0.0.1"},
		{"6to4 opened, private behind it", "", []string{"2002::/16"}, nil, "https://[2002:a00:1::1]/", "a private address: 10.0.0.1"},
		{"6to4 opened, public behind it", "", []string{"2002::/16"}, nil, "https://[2002:808:808::1]/", ""},
		{"Teredo opened, loopback behind it", "", []string{"2001::/32"}, nil, "https://[2001::80ff:fffe]/", "a loopback address: 127.0.0.1"},
		{"IPv4-compatible opened, loopback behind it", "", []string{"::/96"}, nil, "https://[::127.0.0.1]/", "a loopback address: 127.0.0.1"},
		{"IPv4-translated opened, loopback behind it", "", []string{"::/0"}, nil, "https://[::ffff:0:7f00:1]/", "a loopback address: 127.0.0.1"},
		{"a carrier opened alone", "", []string{"64:ff9b::7f00:1"}, nil, "https://[64:ff9b::127.0.0.1]/", ""},

		{"a denied name", "", nil, []string{"evil.example"}, "https://evil.example/", "a denied host: evil.example (denied by --egress-deny)"},
		{"a denied name, other case, trailing dot", "", nil, []string{"Evil.Example."}, "https://EVIL.example./x", denied},
		{"a denied name does not deny those below", "", nil, []string{"evil.example"}, "https://not.evil.example/", ""},
		{"nor those that end alike", "", nil, []string{"evil.example"}, "https://notevil.example/", ""},
		{"a denied suffix", "", nil, []string{"*.evil.example"}, "https://a.b.evil.example/", denied},
		{"a denied suffix with a leading dot", "", nil, []string{".evil.example"}, "https://a.evil.example/", denied},
		{"a suffix is not its own name", "", nil, []string{".evil.example"}, "https://evil.example/", ""},
		{"nor one that ends alike", "", nil, []string{".evil.example"}, "https://notevil.example/", ""},
		{"a denied name behind user information", "", nil, []string{"evil.example"}, "https://u:p@evil.example/", denied},
		{"deny wins over allow for names", "", []string{"evil.example"}, []string{".example"}, "https://evil.example/", denied},

		{"localhost allowed by name", "", []string{"localhost"}, nil, "https://localhost:8443/", ""},
		{"localhost allowed by IPv4 address", "", []string{"127.0.0.1"}, nil, "https://localhost:8443/", ""},
		{"localhost allowed by IPv6 address", "", []string{"::1"}, nil, "https://localhost:8443/", ""},
		{"localhost denied by name", egress.ModeDev, nil, []string{"localhost"}, "https://localhost/", denied},
		{"localhost half denied", egress.ModeDev, nil, []string{"::1"}, "https://localhost/", ""},
		{"localhost wholly denied", egress.ModeDev, nil, []string{"::1", "127.0.0.0/8"}, "https://localhost/", denied},
		{"names below localhost allowed by suffix", "", []string{"*.localhost"}, nil, "https://app.localhost/", ""},
		{"an allowed name does not open an address", "", []string{"localhost"}, nil, "https://127.0.0.1/", "a loopback"},
		{"lists do not open http", "", []string{"10.1.2.3"}, nil, "http://10.1.2.3/", "--allow-http"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newGuard(t, egress.Config{Mode: tt.mode, Allow: tt.allow, Deny: tt.deny})
			err := g.CheckURL(tt.url)
			if tt.want == "" {
				if err != nil {
					t.Errorf("%s: got error %q, want none", tt.url, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("%s: got error %v, want one with %q", tt.url, err, tt.want)
			}
			if _, ok := errors.AsType[*egress.RefusedError](err); !ok {
				t.Errorf("%s: got no *RefusedError in the chain, want one", tt.url)
			}
		})
	}
}

func TestNewFaults(t *testing.T) {
	t.Parallel()
	tests := []struct {
		cfg  egress.Config
		want []string
	}{
		{egress.Config{Mode: "open"}, []string{`unknown mode "open"`}},
		{egress.Config{Allow: []string{"10.0.0.1/8"}}, []string{"allowed destinations", `"10.0.0.1/8"`, "write 10.0.0.0/8"}},
		{egress.Config{Allow: []string{"10.0.0.0/33", "a/b"}}, []string{`"10.0.0.0/33"`, `"a/b"`, "CIDR"}},
		{egress.Config{Deny: []string{"fe80::1%eth0"}}, []string{"denied destinations", "zone"}},
		{egress.Config{Deny: []string{""}}, []string{`entry ""`}},
		{egress.Config{Deny: []string{"*"}}, []string{`entry "*"`}},
		{egress.Config{Deny: []string{"*."}}, []string{`entry "*."`}},
		{egress.Config{Deny: []string{"a.*.example"}}, []string{"host name"}},
		{egress.Config{Deny: []string{"*.10.0.0.1"}}, []string{"host name"}},
		{egress.Config{Deny: []string{"127.1"}}, []string{"host name"}},
		{egress.Config{Deny: []string{"2130706433"}}, []string{"host name"}},
		{egress.Config{Deny: []string{"https://example.com"}}, []string{"CIDR"}},
		{egress.Config{Deny: []string{"example.com:443"}}, []string{"host name"}},
		{egress.Config{Deny: []string{"exämple.com"}}, []string{"host name"}},
		{egress.Config{DialTimeout: -1, MaxConnsPerHost: -1}, []string{"dial timeout is negative", "connections per host is negative"}},
	}
	for _, tt := range tests {
		_, err := egress.New(tt.cfg)
		if err == nil {
			t.Errorf("%+v: got no error, want one", tt.cfg)
			continue
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: got error %q, want one with %q", tt.cfg, err, want)
			}
		}
	}
}

// FuzzCheckAddr holds the table against the opinions of the standard library, and the modes against each other.
func FuzzCheckAddr(f *testing.F) {
	for _, s := range []string{"127.0.0.1", "8.8.8.8", "169.254.169.254", "::1", "2606:4700::1", "fd00:ec2::254", "64:ff9b::7f00:1"} {
		f.Add(netip.MustParseAddr(s).AsSlice())
	}
	public := newGuard(f, egress.Config{})
	private := newGuard(f, egress.Config{Mode: egress.ModePrivate})
	dev := newGuard(f, egress.Config{Mode: egress.ModeDev})
	f.Fuzz(func(t *testing.T, b []byte) {
		addr, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		plain := addr.Unmap()
		errPublic := public.CheckAddr(addr)
		if errPublic == nil && (!plain.IsGlobalUnicast() || plain.IsPrivate() || plain.IsLoopback() || plain.IsLinkLocalUnicast() || plain.IsMulticast()) {
			t.Errorf("%s: got no error in mode public, want one", addr)
		}
		if errPublic == nil && private.CheckAddr(addr) != nil || private.CheckAddr(addr) == nil && dev.CheckAddr(addr) != nil {
			t.Errorf("%s: a wider mode refuses what a narrower one allows", addr)
		}
		if plain.Is4() {
			a := plain.As4()
			mapped := netip.AddrFrom16([16]byte{10: 0xff, 11: 0xff, 12: a[0], 13: a[1], 14: a[2], 15: a[3]})
			if (dev.CheckAddr(mapped) == nil) != (dev.CheckAddr(plain) == nil) || (public.CheckAddr(mapped) == nil) != (errPublic == nil) {
				t.Errorf("%s and %s are judged differently", mapped, plain)
			}
		}
		if zoned := addr.WithZone("eth0"); (public.CheckAddr(zoned) == nil) != (errPublic == nil) {
			t.Errorf("%s and %s are judged differently", zoned, addr)
		}
	})
}
