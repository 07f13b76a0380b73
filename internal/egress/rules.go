package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// rules is one list of destinations: addresses, networks, host names and suffixes. It is immutable.
type rules struct {
	networks []netip.Prefix
	// names are in normal form; a suffix begins with its dot.
	names    map[string]struct{}
	suffixes map[string]struct{}
}

// newRules reads a list, and reports every entry that it cannot read.
func newRules(entries []string) (rules, error) {
	r := rules{names: map[string]struct{}{}, suffixes: map[string]struct{}{}}
	var errs []error
	for _, entry := range entries {
		if err := r.add(strings.TrimSpace(entry)); err != nil {
			errs = append(errs, fmt.Errorf("entry %q: %w", entry, err))
		}
	}
	return r, errors.Join(errs...)
}

func (r *rules) add(entry string) error {
	if strings.Contains(entry, "/") {
		prefix, err := netip.ParsePrefix(entry)
		if err != nil {
			return errors.New("not a network in CIDR form")
		}
		if prefix != prefix.Masked() {
			// Either the length or the address is a slip, and a guess would open or close the wrong network.
			return fmt.Errorf("address bits are set beyond the network length, write %s", prefix.Masked())
		}
		// Judged addresses are unmapped, so a mapped network has to be too.
		if addr := prefix.Addr(); addr.Is4In6() && prefix.Bits() >= 96 {
			prefix = netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96)
		}
		r.networks = append(r.networks, prefix)
		return nil
	}
	if addr, err := netip.ParseAddr(entry); err == nil {
		if addr.Zone() != "" {
			return errors.New("an address in a list has no zone")
		}
		addr = addr.Unmap()
		r.networks = append(r.networks, netip.PrefixFrom(addr, addr.BitLen()))
		return nil
	}
	name, set := entry, r.names
	if rest, ok := strings.CutPrefix(name, "*."); ok {
		name, set = rest, r.suffixes
	} else if rest, ok := strings.CutPrefix(name, "."); ok {
		name, set = rest, r.suffixes
	}
	if addr, err := parseHost(name); err != nil || addr.IsValid() {
		return errors.New("not an address, a network in CIDR form, a host name, or a suffix such as *.example.com")
	}
	name = normalName(name)
	if entry[0] == '*' || entry[0] == '.' {
		name = "." + name
	}
	set[name] = struct{}{}
	return nil
}

// namesAlone reports whether an entry stands for addr and no other address.
func (r *rules) namesAlone(addr netip.Addr) bool {
	for _, p := range r.networks {
		if p.IsSingleIP() && p.Addr() == addr {
			return true
		}
	}
	return false
}

func (r *rules) containsAddr(addr netip.Addr) bool {
	for _, p := range r.networks {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// matchesName reports whether name, which is in normal form, is listed.
func (r *rules) matchesName(name string) bool {
	if len(r.names) > 0 {
		if _, ok := r.names[name]; ok {
			return true
		}
	}
	if len(r.suffixes) > 0 {
		for i := range len(name) {
			if name[i] != '.' {
				continue
			}
			if _, ok := r.suffixes[name[i:]]; ok {
				return true
			}
		}
	}
	return false
}

// normalName is the form in which host names are compared.
func normalName(host string) string {
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// isLocalhost reports whether name, which is in normal form, stands for this machine (RFC 6761, section 6.3).
func isLocalhost(name string) bool {
	return name == "localhost" || strings.HasSuffix(name, ".localhost")
}
