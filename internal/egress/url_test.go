package egress_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"testing"

	"github.com/posthaste/posthaste/internal/egress"
)

const prefix = "invalid destination url: "

// TestCheckURLForm has the URLs whose form decides, in every mode alike.
func TestCheckURLForm(t *testing.T) {
	t.Parallel()
	const (
		scheme  = "endpoint has invalid scheme, add http:// or https://"
		noHost  = "endpoint has no host"
		port    = "endpoint has an invalid port: "
		v6      = "endpoint has an invalid IPv6 address: "
		name    = "endpoint has an invalid host name: "
		space   = "endpoint contains whitespace or a control character at byte "
		escape  = "endpoint has an invalid percent escape at byte "
		form    = "endpoint has an IPv4 address in an ambiguous form: "
		v4      = "endpoint has an invalid IPv4 address: "
		char    = "endpoint has an invalid character in its host: "
		ascii   = "endpoint has a host that is not ASCII: "
		encoded = "endpoint has a percent-encoded host: "
	)
	label63 := strings.Repeat("a", 63)
	name253 := strings.Repeat(label63+".", 3) + strings.Repeat("a", 61)
	tests := []struct {
		url, want string // want is how the text goes on after the prefix; no error if empty
	}{
		// Fine.
		{"https://example.com", ""},
		{"https://example.com/", ""},
		{"HTTPS://Example.COM/", ""},
		{"HTTP://a.b", ""},
		{"https://example.com.", ""},
		{"https://example.com./x", ""},
		{"https://example.com:443/x", ""},
		{"https://example.com:1", ""},
		{"https://example.com:65535", ""},
		{"https://example.com:00080/", ""},
		{"https://example.com:/", ""},
		{"https://a.b/x%20y?q=%2F&z", ""},
		{"https://a.b//c//d", ""},
		{"https://a.b/%2F", ""},
		{"https://a.b?x=1", ""},
		{"https://a.b?x=100%&y", ""},
		{"https://a.b/?x=100%#f", ""},
		{"https://a.b#frag", ""},
		{"https://a.b/ü?ü#ü", ""},
		{`https://a.b/\`, ""},
		{"https://my_service/x", ""},
		{"https://xn--mller-kva.de/", ""},
		{"https://a-.b/", ""},
		{"https://0x7f.example/", ""},
		{"https://1.2.3.4.example/", ""},
		{"https://123abc/", ""},
		{"https://0xyz/", ""},
		{"https://" + name253 + "/", ""},
		{"https://" + name253 + "./", ""},
		{"https://8.8.8.8/", ""},
		{"https://8.8.8.8:8080/", ""},
		{"https://[2606:4700:4700::1111]/", ""},
		{"https://[2606:4700:4700::1111]:8443/x", ""},
		{"https://[2606:4700:4700::1111]", ""},
		{"https://[::ffff:8.8.8.8]/", ""},
		{"https://[::FFFF:0808:0808]/", ""},
		{"https://user:pass@example.com/", ""},
		{"https://user@example.com/", ""},
		{"https://us%40er@example.com/", ""},
		{"https://example.com/a@b", ""},
		{"https://example.com?u=@127.0.0.1", ""},

		// Scheme.
		{"", scheme},
		{"example.com", scheme},
		{"a.b/c", scheme},
		{"//example.com", scheme},
		{"ftp://a.b", scheme},
		{"file:///etc/passwd", scheme},
		{"gopher://a.b:70/_x", scheme},
		{"javascript:alert(1)", scheme},
		{"https:/a.b", scheme},
		{"https:a.b", scheme},
		{"https", scheme},
		{"https//a.b", scheme},
		{"httpss://a.b", scheme},
		{"https%3A%2F%2Fa.b", scheme},
		{"unix:///var/run/x.sock", scheme},

		// White space and control characters.
		{" https://a.b", space + "0"},
		{"https://a.b ", space + "11"},
		{"https://a.b/x y", space + "13"},
		{"https://a.b/?x y", space},
		{"https://a .b/", space},
		{"https://a.b/\r\nX: y", space},
		{"https://a.b\t/", space},
		{"https://a.b/\x00", space},
		{"https://a.b/\x7f", space},
		{"https://a.b/#\n", space},
		{"https://\x01a.b/", space},

		// No host.
		{"https://", noHost},
		{"http:///x", noHost},
		{"https://?x", noHost},
		{"https://#x", noHost},
		{"https://:443/", noHost},
		{"https://user@/", noHost},
		{"https://user@:443/", noHost},

		// User information.
		{"https://a@b@example.com/", "endpoint has more than one @"},
		{`https://example.com\@127.0.0.1/`, "net/url: invalid userinfo"},
		{"https://us%zzer@example.com/", "invalid URL escape"},

		// Port.
		{"https://a.b:0/", port + `"0", want 1 to 65535`},
		{"https://a.b:00000/", port},
		{"https://a.b:65536/", port + `"65536"`},
		{"https://a.b:99999/", port},
		{"https://a.b:000080/", port},
		{"https://a.b:-1/", port},
		{"https://a.b:+80/", port},
		{"https://a.b:http/", port},
		{"https://a.b:8%30/", port},
		{"https://a.b:18446744073709551697/", port},
		{"https://[2606:4700::1]:0/", port},
		{"https://[2606:4700::1]:70000/", port},

		// Percent escapes.
		{"https://a.b/%", escape + "12"},
		{"https://a.b/%2", escape},
		{"https://a.b/%zz", escape},
		{"https://a.b/100%?x", escape},
		{"https://a.b/#%zz", escape},
		{"https://a.b/?x#%", escape},

		// Host names.
		{"https://./", name + `"."`},
		{"https://../", name},
		{"https://.a.b/", name},
		{"https://a..b/", name},
		{"https://a.b../", name},
		{"https://" + label63 + "a.b/", name},
		{"https://a" + name253 + "/", "endpoint has a host name longer than 253 bytes"},
		{"https://a" + name253 + "./", "endpoint has a host name longer than 253 bytes"},
		{`https://a.b\c/`, char + `"a.b\\c"`},
		{"https://a,b/", char},
		{"https://a!b/", char},
		{"https://*.a.b/", char},
		{"https://a.b]/", char},
		{"https://a[::1]/", "endpoint has an invalid host: "},
		{"https://${host}/", char},
		{"https://<host>/", char},
		{"https://müller.de/", ascii + `"m\u00fcller.de", write it in its xn-- form`},
		{"https://１２７.０.０.１/", ascii},
		{"https://127。0。0。1/", ascii},
		{"https://ⓛocalhost/", ascii},
		{"https://a\u00adb/", ascii},
		{"https://\xff/", ascii},
		{"https://m%C3%BCller.de/", encoded},
		{"https://%31%32%37.0.0.1/", encoded},
		{"https://127%2E0%2E0%2E1/", encoded},
		{"https://%6cocalhost/", encoded},
		{"https://localhost%00.example/", encoded},
		{"https://a.b%2f@c/", ""}, // user information; the host is c
		{"https://a.b%23/", encoded},

		// IPv4 forms that are read in several ways.
		{"http://2130706433/", form + `"2130706433", write 127.0.0.1 if that is meant`},
		{"http://134744072/", form + `"134744072", write 8.8.8.8`},
		{"http://0x7f000001/", form + `"0x7f000001", write 127.0.0.1`},
		{"http://0X7F000001/", form},
		{"http://0x7f.0x0.0x0.0x1/", form},
		{"http://0x7f.1/", form + `"0x7f.1", write 127.0.0.1`},
		{"http://0177.0.0.1/", form + `"0177.0.0.1", write 127.0.0.1`},
		{"http://017700000001/", form + `"017700000001", write 127.0.0.1`},
		{"http://127.1/", form + `"127.1", write 127.0.0.1`},
		{"http://127.0.1/", form},
		{"http://127.0.0.01/", form},
		{"http://127.0.0.1./", form},
		{"http://010.0.0.1/", form + `"010.0.0.1", write 8.0.0.1`},
		{"http://169.254.43518/", form + `"169.254.43518", write 169.254.169.254`},
		{"http://0/", form + `"0", write 0.0.0.0`},
		{"http://0x/", form + `"0x", write 0.0.0.0`},
		{"http://00/", form},
		{"http://0.0/", form},
		{"http://8.8.2056/", form + `"8.8.2056", write 8.8.8.8`},
		{"http://user@127.1/", form},
		{"http://127.1:80/", form},
		{"http://256.0.0.1/", v4 + `"256.0.0.1"`},
		{"http://1.2.3.4.5/", v4},
		{"http://127.0.0.1.0/", v4},
		{"http://4294967296/", v4},
		{"http://99999999999999999999/", v4},
		{"http://0x100000000/", v4},
		{"http://08.0.0.1/", v4},
		{"http://1.2.3.256/", v4},
		{"http://1.16777216/", v4},
		{"http://example.0x7f/", v4},
		{"http://example.123/", v4},
		{"http://example.123./", v4},

		// IPv6 forms.
		{"http://::1/", "endpoint has an invalid host: "},
		{"http://2606:4700::1/", "endpoint has an invalid host: "},
		{"http://[::1/", "endpoint has an invalid host: "},
		{"http://[2606:4700::1]x/", "endpoint has an invalid host: "},
		{"http://[2606:4700::1].a.b/", "endpoint has an invalid host: "},
		{"http://[]/", v6},
		{"http://[:]/", v6},
		{"http://[8.8.8.8]/", v6},
		{"http://[example.com]/", v6},
		{"http://[v1.x]/", v6},
		{"http://[1::2::3]/", v6},
		{"http://[::ffff:127.1]/", v6},
		{"http://[::ffff:0177.0.0.1]/", v6},
		{"http://[::12345]/", v6},
		{"http://[fe80::1%25eth0]/", "endpoint has an IPv6 address with a zone: "},
		{"http://[fe80::1%eth0]/", "endpoint has an IPv6 address with a zone: "},
		{"http://[::1%25lo]/", "endpoint has an IPv6 address with a zone: "},
		{"http://[%3A%3A1]/", "endpoint has an IPv6 address with a zone: "},
	}
	for _, mode := range []egress.Mode{egress.ModePublic, egress.ModePrivate, egress.ModeDev} {
		g := newGuard(t, egress.Config{Mode: mode, AllowHTTP: true})
		for _, tt := range tests {
			err := g.CheckURL(tt.url)
			if tt.want == "" {
				if err != nil {
					t.Errorf("%q in mode %s: got error %q, want none", tt.url, mode, err)
				}
				continue
			}
			if err == nil {
				t.Errorf("%q in mode %s: got no error, want %q", tt.url, mode, tt.want)
				continue
			}
			if _, ok := errors.AsType[*egress.InvalidURLError](err); !ok {
				t.Errorf("%q in mode %s: got error of type %T, want *InvalidURLError", tt.url, mode, err)
			}
			if _, ok := errors.AsType[*egress.RefusedError](err); ok {
				t.Errorf("%q in mode %s: got a refusal, want a fault of the URL", tt.url, mode)
			}
			if !strings.HasPrefix(err.Error(), prefix+tt.want) {
				t.Errorf("%q in mode %s: got %q, want %q", tt.url, mode, err, prefix+tt.want)
			}
		}
	}
}

// TestCheckURLRefused has the whole texts of refusals.
func TestCheckURLRefused(t *testing.T) {
	t.Parallel()
	const (
		loop4 = "endpoint resolves to a loopback address: 127.0.0.1 (allow it with --allow-private)"
		loop6 = "endpoint resolves to a loopback address: ::1 (allow it with --allow-private)"
		local = "endpoint resolves to a link-local address: 169.254.1.1 (allow it with --egress-allow)"
		meta  = "endpoint resolves to a cloud metadata address: 169.254.169.254 (allow it with --egress-allow 169.254.169.254)"
		plain = "endpoint has invalid scheme http://, use https:// (allow it with --allow-http)"
	)
	tests := []struct {
		url                  string
		public, private, dev string
	}{
		// Public guards know https only, the others allow http too.
		{"http://example.com/", plain, "", ""},
		{"http://127.0.0.1/", plain, "", ""},
		{"HTTP://example.com/", plain, "", ""},
		{"https://127.0.0.1/", loop4, "", ""},
		{"https://127.0.0.1:3000/x?y", loop4, "", ""},
		{"https://user:pass@127.0.0.1/", loop4, "", ""},
		{"https://example.com@127.0.0.1/", loop4, "", ""},
		{"https://127.0.0.1#@example.com/", loop4, "", ""},
		{"https://127.0.0.1?@example.com/", loop4, "", ""},
		{"https://[::1]/", loop6, "", ""},
		{"https://[::1]:3000/", loop6, "", ""},
		{"https://[0:0:0:0:0:0:0:1]/", loop6, "", ""},
		{"https://[::ffff:127.0.0.1]/", loop4, "", ""},
		{"https://[::ffff:7f00:1]/", loop4, "", ""},
		{"https://[0:0:0:0:0:ffff:7f00:0001]:1/", loop4, "", ""},
		{"https://localhost", loop6, "", ""},
		{"https://localhost:3000/", loop6, "", ""},
		{"https://LOCALHOST/", loop6, "", ""},
		{"https://localhost./", loop6, "", ""},
		{"https://app.localhost/", loop6, "", ""},
		{"https://a.b.LocalHost.:8080/", loop6, "", ""},
		{"https://u@localhost/", loop6, "", ""},
		{"https://notlocalhost/", "", "", ""},
		{"https://localhost.example/", "", "", ""},
		{"https://10.0.0.1/", "endpoint resolves to a private address: 10.0.0.1 (allow it with --allow-private)", "", ""},
		{"https://[fd12::1]/", "endpoint resolves to a private address: fd12::1 (allow it with --allow-private)", "", ""},
		{"https://169.254.1.1/", local, local, ""},
		{"https://169.254.169.254/latest/meta-data/", meta, meta, meta},
		{"https://[::ffff:169.254.169.254]/", meta, meta, meta},
		{"https://[::ffff:a9fe:a9fe]/", meta, meta, meta},
		{
			"https://0.0.0.0:8080/",
			"endpoint resolves to an unspecified address: 0.0.0.0 (allow it with --egress-allow)",
			"endpoint resolves to an unspecified address: 0.0.0.0 (allow it with --egress-allow)",
			"",
		},
		{
			"https://[64:ff9b::7f00:1]/",
			"endpoint resolves to an IPv4 transition address: 64:ff9b::7f00:1 (allow it with --egress-allow)",
			"endpoint resolves to an IPv4 transition address: 64:ff9b::7f00:1 (allow it with --egress-allow)",
			"endpoint resolves to an IPv4 transition address: 64:ff9b::7f00:1 (allow it with --egress-allow)",
		},
	}
	public := newGuard(t, egress.Config{})
	private := newGuard(t, egress.Config{Mode: egress.ModePrivate, AllowHTTP: true})
	dev := newGuard(t, egress.Config{Mode: egress.ModeDev, AllowHTTP: true})
	for _, tt := range tests {
		for _, c := range []struct {
			guard *egress.Guard
			mode  egress.Mode
			want  string
		}{{public, egress.ModePublic, tt.public}, {private, egress.ModePrivate, tt.private}, {dev, egress.ModeDev, tt.dev}} {
			err := c.guard.CheckURL(tt.url)
			if c.want == "" {
				if err != nil {
					t.Errorf("%s in mode %s: got error %q, want none", tt.url, c.mode, err)
				}
				continue
			}
			if err == nil || err.Error() != prefix+c.want {
				t.Errorf("%s in mode %s: got error %v, want %q", tt.url, c.mode, err, prefix+c.want)
				continue
			}
			if _, ok := errors.AsType[*egress.RefusedError](err); !ok {
				t.Errorf("%s in mode %s: got no *RefusedError in the chain, want one", tt.url, c.mode)
			}
		}
	}
}

func TestCheckURLHidesPassword(t *testing.T) {
	t.Parallel()
	g := newGuard(t, egress.Config{})
	for _, raw := range []string{
		"https://user:secret%zz@example.com/", `https://user:secret\@example.com/`, "https://user:secret@", "https://user:secret@@a.b",
		"https://user:secret@127.0.0.1/", "http://user:secret@a.b/", "https://user:secret@[::1", "https://user:secret@a.b:0",
	} {
		if err := g.CheckURL(raw); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got error %v, want one without the password", raw, err)
		}
	}
}

func TestCheckURLAllocations(t *testing.T) {
	g := newGuard(t, egress.Config{Mode: egress.ModeDev, AllowHTTP: true, Allow: []string{"*.internal", "10.0.0.0/8"}, Deny: []string{"evil.example"}})
	for _, raw := range []string{
		"https://api.example.com/webhooks/orders?tenant=42", "http://127.0.0.1:3000/hook", "http://localhost:3000/hook", "https://a.internal/",
	} {
		if n := testing.AllocsPerRun(100, func() { _ = g.CheckURL(raw) }); n != 0 {
			t.Errorf("%s: got %v allocations, want none", raw, n)
		}
	}
}

// FuzzCheckURL holds what CheckURL accepts against url.Parse and against the address that Go's dialler would connect to.
func FuzzCheckURL(f *testing.F) {
	for _, raw := range []string{
		"https://example.com/x%20y?q#f", "http://127.0.0.1:3000/", "http://[::1]:80/", "http://[::ffff:10.0.0.1]/", "http://2130706433/",
		"http://0x7f.1/", "http://0177.0.0.1/", "http://127.0.0.1./", "http://u:p@8.8.8.8:80/", "https://[fe80::1%25eth0]/", `https://a\@b`,
		"https://[64:ff9b::1.2.3.4]:1/", "https://a.b:/", "https://%31/", "https://１/", "http://[fd00:ec2::254]", "HTTPS://A.", "http://0/",
		"https://a?b/c@d", "https://a#b?c%", "https://xn--a/", "http://8.8.8.8:00080",
	} {
		f.Add(raw)
	}
	var guards []*egress.Guard
	for _, cfg := range []egress.Config{
		{},
		{AllowHTTP: true},
		{Mode: egress.ModePrivate, AllowHTTP: true},
		{Mode: egress.ModeDev, AllowHTTP: true},
		{AllowHTTP: true, Allow: []string{"64:ff9b::/96", "10.0.0.0/8", "*.test"}, Deny: []string{"8.0.0.0/8", "evil.test"}},
	} {
		guards = append(guards, newGuard(f, cfg))
	}
	errSeen := errors.New("address seen")
	f.Fuzz(func(t *testing.T, raw string) {
		for _, g := range guards {
			err := g.CheckURL(raw)
			if err != nil {
				if _, ok := errors.AsType[*egress.InvalidURLError](err); !ok || !strings.HasPrefix(err.Error(), prefix) {
					t.Errorf("%q: got error %q of type %T, want an *InvalidURLError", raw, err, err)
				}
				continue
			}
			u, err := url.Parse(raw)
			if err != nil {
				t.Fatalf("%q is accepted, but url.Parse has error %v", raw, err)
			}
			if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Opaque != "" {
				t.Errorf("%q is accepted, but url.Parse reads %#v", raw, u)
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, raw, nil)
			if err != nil {
				t.Fatalf("%q is accepted, but makes no request: %v", raw, err)
			}
			host := req.URL.Hostname()
			for _, c := range host {
				if c <= ' ' || c >= 0x7f || strings.ContainsRune("%@/\\?#[]", c) {
					t.Errorf("%q is accepted with the host %q", raw, host)
				}
			}
			port := req.URL.Port()
			if port == "" {
				port = "80"
			}
			if _, err := netip.ParseAddr(host); err != nil {
				// A name. Its last part may not be a number, which a resolver could read as an address.
				last := host[strings.LastIndexByte(strings.TrimSuffix(host, "."), '.')+1:]
				if strings.TrimLeft(strings.TrimSuffix(last, "."), "0123456789") == "" {
					t.Errorf("%q is accepted, but a resolver may read %q as an address", raw, host)
				}
				continue
			}
			// Stop right before connecting, where the address is final.
			var dialled []netip.Addr
			d := net.Dialer{ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
				dialled = append(dialled, netip.MustParseAddrPort(address).Addr())
				return errSeen
			}}
			conn, err := d.DialContext(t.Context(), "tcp", net.JoinHostPort(host, port))
			if err == nil {
				_ = conn.Close()
				t.Fatalf("%q: the dialler connected", raw)
			}
			for _, addr := range dialled {
				if err := g.CheckAddr(addr); err != nil {
					t.Errorf("%q is accepted, but the dialler would connect to %s: %v", raw, addr, err)
				}
			}
		}
	})
}

func BenchmarkCheckURL(b *testing.B) {
	plain := newGuard(b, egress.Config{})
	lists := newGuard(b, egress.Config{Allow: []string{"*.internal", "10.0.0.0/8"}, Deny: []string{"evil.example", "*.evil.example"}})
	dev := newGuard(b, egress.Config{Mode: egress.ModeDev, AllowHTTP: true})
	for _, bb := range []struct {
		name  string
		guard *egress.Guard
		url   string
	}{
		{"name", plain, "https://api.example.com/webhooks/orders?tenant=42"},
		{"name/lists", lists, "https://api.example.com/webhooks/orders?tenant=42"},
		{"loopback4", dev, "http://127.0.0.1:3000/hook"},
		{"loopback6", dev, "http://[::1]:3000/hook"},
		{"localhost", dev, "http://localhost:3000/hook"},
		{"refused", plain, "https://127.0.0.1:3000/hook"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = bb.guard.CheckURL(bb.url)
			}
		})
	}
}
