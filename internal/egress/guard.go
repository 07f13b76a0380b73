package egress

import (
	"errors"
	"fmt"
	"net/netip"
)

// Guard judges destinations. It is immutable and safe for concurrent use.
type Guard struct {
	cfg   Config
	allow rules
	deny  rules
	// open says which kinds of addresses the mode opens.
	open [numKinds]bool
}

// New returns the guard that cfg describes, or an error that names every fault of cfg.
func New(cfg Config) (*Guard, error) {
	allow, errAllow := newRules(cfg.Allow)
	deny, errDeny := newRules(cfg.Deny)
	if err := errors.Join(cfg.validate(), wrap("list of allowed destinations", errAllow), wrap("list of denied destinations", errDeny)); err != nil {
		return nil, fmt.Errorf("egress: %w", err)
	}
	g := &Guard{cfg: cfg.withDefaults(), allow: allow, deny: deny}
	g.open[kindPublic] = true
	for _, k := range modeKinds[g.cfg.Mode] {
		g.open[k] = true
	}
	return g, nil
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// RefusedError says that the configuration forbids a destination: its address, its host name, or http://. It tells a
// refusal from a failure of the network, in the chain of any error of the client or of CheckURL.
type RefusedError struct {
	text string
}

// Error returns what was refused and why, and names the switch that would allow it if there is one.
func (e *RefusedError) Error() string { return e.text }

// CheckAddr returns a [*RefusedError] if addr may not be dialled, apart from any permission that a host name grants.
func (g *Guard) CheckAddr(addr netip.Addr) error {
	if refused := g.judgeAddr(addr, false); refused != nil {
		return refused
	}
	return nil
}

// judgeAddr applies the rules of the package comment from the second on. Trusted says that the name which led to
// addr is on the list of allowed ones.
func (g *Guard) judgeAddr(addr netip.Addr, trusted bool) *RefusedError {
	if !addr.IsValid() {
		return &RefusedError{"endpoint has no address"}
	}
	addr = addr.WithZone("").Unmap()
	inner, carries := carried(addr)
	if g.deny.containsAddr(addr) || carries && g.deny.containsAddr(inner) {
		return &RefusedError{fmt.Sprintf("endpoint resolves to a denied address: %s (denied by --egress-deny)", addr)}
	}
	if g.allow.namesAlone(addr) {
		return nil
	}
	k := kindOf(addr)
	if g.open[k] {
		return nil
	}
	if k != kindMetadata && (trusted || g.allow.containsAddr(addr)) {
		if !carries {
			return nil
		}
		return g.judgeAddr(inner, trusted)
	}
	hint := "--egress-allow"
	switch {
	case k == kindMetadata:
		// Nothing wider than the address itself opens it.
		hint += " " + addr.String()
	case privateOpens(k):
		hint = "--allow-private"
	}
	return &RefusedError{fmt.Sprintf("endpoint resolves to %s address: %s (allow it with %s)", kindNames[k], addr, hint)}
}

func privateOpens(k kind) bool {
	for _, open := range modeKinds[ModePrivate] {
		if k == open {
			return true
		}
	}
	return false
}

// judgeName judges a host name, which need not be in normal form, as far as that is possible without DNS. Trusted
// says that the name is on the list of allowed ones.
func (g *Guard) judgeName(host string) (trusted bool, refused *RefusedError) {
	name := normalName(host)
	if g.deny.matchesName(name) {
		return false, &RefusedError{fmt.Sprintf("endpoint has a denied host: %s (denied by --egress-deny)", name)}
	}
	trusted = g.allow.matchesName(name)
	if isLocalhost(name) {
		// One of its two addresses is enough: the other is refused when it is dialled.
		if g.judgeAddr(netip.AddrFrom4([4]byte{127, 0, 0, 1}), trusted) != nil {
			return trusted, g.judgeAddr(netip.IPv6Loopback(), trusted)
		}
	}
	return trusted, nil
}
