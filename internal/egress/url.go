package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// InvalidURLError says that a URL cannot be a destination. A [*RefusedError] is in its chain if the configuration
// forbids the destination, and none if the URL is malformed.
type InvalidURLError struct {
	err error
}

// Error returns the whole text for the publisher.
func (e *InvalidURLError) Error() string { return "invalid destination url: " + e.err.Error() }

// Unwrap returns the reason.
func (e *InvalidURLError) Unwrap() error { return e.err }

func invalid(format string, args ...any) error {
	return &InvalidURLError{fmt.Errorf(format, args...)}
}

// CheckURL returns an [*InvalidURLError] if raw cannot be a destination. It judges literal addresses and localhost,
// and looks no name up. It does not allocate if raw is fine and has neither user information nor an IPv6 address.
func (g *Guard) CheckURL(raw string) error {
	_, err := g.check(raw)
	return err
}

// Resolve does what CheckURL does, then looks the host up. It returns an [*InvalidURLError] if there is no such host
// or none of its addresses may be dialled, and another error if the look-up itself failed, which is not the
// publisher's fault. It takes no longer than [Config.DialTimeout].
func (g *Guard) Resolve(ctx context.Context, raw string) error {
	host, err := g.check(raw)
	if err != nil {
		return err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, g.cfg.DialTimeout)
	defer cancel()
	addrs, err := g.cfg.Resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		err = fmt.Errorf("unable to resolve host: %w", err)
		if dnsErr, ok := errors.AsType[*net.DNSError](err); ok && dnsErr.IsNotFound {
			return &InvalidURLError{err}
		}
		return err
	}
	// The dialler tries each address in turn, so one good address is enough.
	trusted := g.allow.matchesName(normalName(host))
	var first *RefusedError
	for _, addr := range addrs {
		refused := g.judgeAddr(addr, trusted)
		if refused == nil {
			return nil
		}
		if first == nil {
			first = refused
		}
	}
	if first == nil {
		return invalid("unable to resolve host: lookup %s: no address", host)
	}
	return &InvalidURLError{first}
}

// check judges raw and returns its host, without brackets.
//
// It takes a URL apart by itself because it runs for every message and url.Parse allocates. It accepts less than
// url.Parse does and splits in the same way, and it asks url.Parse whenever the authority is more than a name or an
// IPv4 address with a port.
func (g *Guard) check(raw string) (host string, err error) {
	for i := range len(raw) {
		// A query is sent as it is, where a space would break the request line.
		if raw[i] <= ' ' || raw[i] == 0x7f {
			return "", invalid("endpoint contains whitespace or a control character at byte %d, percent-encode it", i)
		}
	}
	rest, ok := cutPrefixFold(raw, "https://")
	if !ok {
		if rest, ok = cutPrefixFold(raw, "http://"); !ok {
			return "", invalid("endpoint has invalid scheme, add http:// or https://")
		}
		if !g.cfg.AllowHTTP {
			return "", &InvalidURLError{refusedHTTP}
		}
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority, tail := rest[:end], rest[end:]

	hostPort, plain := authority, true
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		if strings.IndexByte(authority, '@') != at {
			return "", invalid("endpoint has more than one @ before its host, percent-encode those of the user information")
		}
		hostPort, plain = authority[at+1:], false
	}
	if strings.HasPrefix(hostPort, "[") {
		host, err = cutBrackets(hostPort)
		plain = false
	} else {
		host, err = cutPort(hostPort)
	}
	if err != nil {
		return "", err
	}
	if err := checkEscapes(raw, len(raw)-len(tail)); err != nil {
		return "", err
	}
	if !plain {
		u, err := url.Parse(raw)
		if err != nil {
			// The text of a url.Error would repeat a password.
			if urlErr, ok := errors.AsType[*url.Error](err); ok {
				err = urlErr.Err
			}
			return "", &InvalidURLError{err}
		}
		if u.Hostname() != host {
			return "", invalid("endpoint has an ambiguous host: %s", quote(host))
		}
	}
	if err := g.checkHost(host); err != nil {
		return "", err
	}
	return host, nil
}

var refusedHTTP = &RefusedError{"endpoint has invalid scheme http://, use https:// (allow it with --allow-http)"}

// checkHost judges a host without brackets: an address or a name.
func (g *Guard) checkHost(host string) error {
	addr, err := parseHost(host)
	if err != nil {
		return err
	}
	if addr.IsValid() {
		if refused := g.judgeAddr(addr, false); refused != nil {
			return &InvalidURLError{refused}
		}
		return nil
	}
	if _, refused := g.judgeName(host); refused != nil {
		return &InvalidURLError{refused}
	}
	return nil
}

// cutPrefixFold is strings.CutPrefix for a lower-case prefix, blind to the case of s.
func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// cutPort takes "name" or "name:port" apart.
func cutPort(hostPort string) (string, error) {
	host, port, _ := strings.Cut(hostPort, ":")
	if strings.IndexByte(port, ':') >= 0 {
		return "", invalid("endpoint has an invalid host: %s (an IPv6 address stands in brackets)", quote(hostPort))
	}
	return host, checkPort(port)
}

// cutBrackets takes "[address]" or "[address]:port" apart.
func cutBrackets(hostPort string) (string, error) {
	host, port, ok := strings.Cut(hostPort[1:], "]")
	if !ok {
		return "", invalid("endpoint has an invalid host: %s (the closing bracket is missing)", quote(hostPort))
	}
	if strings.IndexByte(host, '%') >= 0 {
		return "", invalid("endpoint has an IPv6 address with a zone: %s, which means nothing outside its own machine", quote(host))
	}
	if addr, err := netip.ParseAddr(host); err != nil || !addr.Is6() {
		return "", invalid("endpoint has an invalid IPv6 address: %s", quote(host))
	}
	if port == "" {
		return host, nil
	}
	if port[0] != ':' {
		return "", invalid("endpoint has an invalid host: %s", quote(hostPort))
	}
	return host, checkPort(port[1:])
}

// checkPort accepts no port, as RFC 3986 does, or a number from 1 to 65535.
func checkPort(port string) error {
	if port == "" {
		return nil
	}
	n := 0
	for i := range len(port) {
		if port[i] < '0' || port[i] > '9' || i >= 5 {
			n = -1
			break
		}
		n = n*10 + int(port[i]-'0')
	}
	if n < 1 || n > 65535 {
		return invalid("endpoint has an invalid port: %s, want 1 to 65535", quote(port))
	}
	return nil
}

// checkEscapes checks the percent escapes of the path and the fragment, which begin at byte start of raw. Those of a
// query are nobody's concern but the destination's.
func checkEscapes(raw string, start int) error {
	inQuery, inFragment := false, false
	for i := start; i < len(raw); i++ {
		switch c := raw[i]; {
		case c == '#':
			inFragment = true
		case c == '?' && !inFragment:
			inQuery = true
		case c == '%' && (inFragment || !inQuery):
			if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {
				return invalid("endpoint has an invalid percent escape at byte %d, write a percent sign as %%25", i)
			}
		}
	}
	return nil
}

// parseHost returns the address if host, which has no brackets, is one, or checks that it is a host name of ASCII
// letters, digits, '-', '_' and '.'.
//
// A host whose last part is a number is an IPv4 address to WHATWG and to inet_aton, which also read short, decimal,
// octal and hexadecimal forms, while Go looks such a form up as a name, by inet_aton again where the C library does
// it. Only the form that all read alike is accepted.
func parseHost(host string) (netip.Addr, error) {
	if host == "" {
		return netip.Addr{}, invalid("endpoint has no host")
	}
	if strings.IndexByte(host, ':') >= 0 {
		addr, err := netip.ParseAddr(host)
		if err != nil || addr.Zone() != "" {
			return netip.Addr{}, invalid("endpoint has an invalid IPv6 address: %s", quote(host))
		}
		return addr, nil
	}
	if len(host) > 254 || len(host) == 254 && host[253] != '.' {
		return netip.Addr{}, invalid("endpoint has a host name longer than 253 bytes")
	}
	label := 0 // where the current label begins
	for i := 0; i <= len(host); i++ {
		if i == len(host) || host[i] == '.' {
			if i == len(host) && i == label && i > 1 {
				break // a trailing dot, which makes a name absolute
			}
			if i == label {
				return netip.Addr{}, invalid("endpoint has an invalid host name: %s (a part of it is empty)", quote(host))
			}
			if i-label > 63 {
				return netip.Addr{}, invalid("endpoint has an invalid host name: %s (a part of it is longer than 63 bytes)", quote(host))
			}
			label = i + 1
			continue
		}
		switch c := host[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		case c == '%':
			return netip.Addr{}, invalid("endpoint has a percent-encoded host: %s, write an international name in its xn-- form", quote(host))
		case c >= 0x80:
			return netip.Addr{}, invalid("endpoint has a host that is not ASCII: %s, write it in its xn-- form", quote(host))
		default:
			return netip.Addr{}, invalid("endpoint has an invalid character in its host: %s", quote(host))
		}
	}
	if !endsInNumber(host) {
		return netip.Addr{}, nil
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr, nil
	}
	if addr, ok := looseIPv4(host); ok {
		return netip.Addr{}, invalid("endpoint has an IPv4 address in an ambiguous form: %s, write %s if that is meant", quote(host), addr)
	}
	return netip.Addr{}, invalid("endpoint has an invalid IPv4 address: %s", quote(host))
}

// endsInNumber reports whether the last part of host is decimal or hexadecimal, in the sense of the WHATWG URL
// standard, to which a bare 0x is a number too.
func endsInNumber(host string) bool {
	host = strings.TrimSuffix(host, ".")
	last := host[strings.LastIndexByte(host, '.')+1:]
	digits := strings.TrimLeft(last, "0123456789") == ""
	if digits || len(last) < 2 || last[0] != '0' || last[1]|0x20 != 'x' {
		return digits
	}
	for i := 2; i < len(last); i++ {
		if !isHex(last[i]) {
			return false
		}
	}
	return true
}

// looseIPv4 reads the one to four decimal, octal or hexadecimal numbers of inet_aton, for the text of an error only.
func looseIPv4(host string) (netip.Addr, bool) {
	parts := strings.Split(strings.TrimSuffix(host, "."), ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var ip uint64
	for i, part := range parts {
		var n uint64
		var err error
		switch {
		case len(part) >= 2 && part[0] == '0' && part[1]|0x20 == 'x':
			if len(part) > 2 {
				n, err = strconv.ParseUint(part[2:], 16, 32)
			}
		case len(part) >= 2 && part[0] == '0':
			n, err = strconv.ParseUint(part[1:], 8, 32)
		default:
			n, err = strconv.ParseUint(part, 10, 32)
		}
		if err != nil {
			return netip.Addr{}, false
		}
		if i < len(parts)-1 {
			if n > 255 {
				return netip.Addr{}, false
			}
			ip |= n << (24 - 8*i)
			continue
		}
		// The last number fills what is left.
		if n >= 1<<(32-8*i) {
			return netip.Addr{}, false
		}
		ip |= n
	}
	return netip.AddrFrom4([4]byte{byte(ip >> 24), byte(ip >> 16), byte(ip >> 8), byte(ip)}), true
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f'
}

// quote makes a part of a URL fit for a line of text.
func quote(s string) string {
	const most = 100
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strconv.QuoteToASCII(s)
}
