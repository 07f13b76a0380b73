package egress

import "net/netip"

// kind is what an address is used for.
type kind uint8

const (
	kindPublic kind = iota
	kindUnspecified
	kindLoopback
	kindPrivate
	kindLinkLocal
	kindShared
	kindMetadata
	kindMulticast
	kindBroadcast
	kindDocumentation
	kindBenchmarking
	kindTransition
	kindReserved
	numKinds
)

// kindNames are the words of a refusal: "endpoint resolves to … address: ADDR".
var kindNames = [numKinds]string{
	kindPublic:        "a public",
	kindUnspecified:   "an unspecified",
	kindLoopback:      "a loopback",
	kindPrivate:       "a private",
	kindLinkLocal:     "a link-local",
	kindShared:        "a shared (carrier-grade NAT)",
	kindMetadata:      "a cloud metadata",
	kindMulticast:     "a multicast",
	kindBroadcast:     "a broadcast",
	kindDocumentation: "a documentation",
	kindBenchmarking:  "a benchmarking",
	kindTransition:    "an IPv4 transition",
	kindReserved:      "a reserved",
}

// network is a prefix and what it is used for.
type network struct {
	prefix netip.Prefix
	kind   kind
}

// The tables are the union of the IANA special-purpose registries and of the addresses at which clouds serve a
// machine its credentials. The first match counts, so single addresses stand before the networks around them. Some
// networks lie inside others of their kind, and are here because the lists name them.
var (
	networks4 = []network{
		{netip.MustParsePrefix("169.254.169.254/32"), kindMetadata}, // Amazon, Google, Azure, OpenStack, Oracle, …
		{netip.MustParsePrefix("169.254.170.2/32"), kindMetadata},   // Amazon ECS task credentials
		{netip.MustParsePrefix("169.254.170.23/32"), kindMetadata},  // Amazon EKS pod credentials
		{netip.MustParsePrefix("169.254.42.42/32"), kindMetadata},   // Scaleway
		{netip.MustParsePrefix("169.254.0.23/32"), kindMetadata},    // Tencent
		{netip.MustParsePrefix("100.100.100.200/32"), kindMetadata}, // Alibaba
		{netip.MustParsePrefix("168.63.129.16/32"), kindMetadata},   // Azure WireServer, inside a public network
		{netip.MustParsePrefix("192.0.0.192/32"), kindMetadata},     // Oracle, classic

		{netip.MustParsePrefix("0.0.0.0/32"), kindUnspecified},
		{netip.MustParsePrefix("0.0.0.0/8"), kindReserved}, // "this network", RFC 791
		{netip.MustParsePrefix("10.0.0.0/8"), kindPrivate},
		{netip.MustParsePrefix("100.64.0.0/10"), kindShared}, // RFC 6598
		{netip.MustParsePrefix("127.0.0.0/8"), kindLoopback},
		{netip.MustParsePrefix("169.254.0.0/16"), kindLinkLocal},
		{netip.MustParsePrefix("172.16.0.0/12"), kindPrivate},
		{netip.MustParsePrefix("192.0.0.0/24"), kindReserved}, // IETF protocol assignments, RFC 6890
		{netip.MustParsePrefix("192.0.2.0/24"), kindDocumentation},
		{netip.MustParsePrefix("192.31.196.0/24"), kindReserved}, // AS112, RFC 7535
		{netip.MustParsePrefix("192.52.193.0/24"), kindReserved}, // AMT, RFC 7450
		{netip.MustParsePrefix("192.88.99.0/24"), kindReserved},  // 6to4 relay anycast, RFC 7526
		{netip.MustParsePrefix("192.168.0.0/16"), kindPrivate},
		{netip.MustParsePrefix("192.175.48.0/24"), kindReserved},   // AS112, RFC 7534
		{netip.MustParsePrefix("198.18.0.0/15"), kindBenchmarking}, // RFC 2544
		{netip.MustParsePrefix("198.51.100.0/24"), kindDocumentation},
		{netip.MustParsePrefix("203.0.113.0/24"), kindDocumentation},
		{netip.MustParsePrefix("224.0.0.0/4"), kindMulticast},
		{netip.MustParsePrefix("255.255.255.255/32"), kindBroadcast},
		{netip.MustParsePrefix("240.0.0.0/4"), kindReserved}, // RFC 1112
	}

	networks6 = []network{
		{netip.MustParsePrefix("fd00:ec2::/32"), kindMetadata},          // Amazon's services to its machines; metadata is ::254
		{netip.MustParsePrefix("fd20:ce::254/128"), kindMetadata},       // Google
		{netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"), kindMetadata}, // Oracle
		{netip.MustParsePrefix("fd00:42::42/128"), kindMetadata},        // Scaleway
		{netip.MustParsePrefix("fe80::a9fe:a9fe/128"), kindMetadata},    // OpenStack
		{netip.MustParsePrefix("::/128"), kindUnspecified},
		{netip.MustParsePrefix("::1/128"), kindLoopback},
		{prefixCompatible, kindTransition},
		{prefixTranslated, kindTransition},
		{prefixNAT64, kindTransition},
		{prefixLocalNAT64, kindTransition},
		{prefixTeredo, kindTransition},
		{prefix6to4, kindTransition},
		{netip.MustParsePrefix("100::/64"), kindReserved},        // discard only, RFC 6666
		{netip.MustParsePrefix("2001:2::/48"), kindBenchmarking}, // RFC 5180
		{netip.MustParsePrefix("2001:10::/28"), kindReserved},    // ORCHID, RFC 4843
		{netip.MustParsePrefix("2001:20::/28"), kindReserved},    // ORCHIDv2, RFC 7343
		{netip.MustParsePrefix("2001::/23"), kindReserved},       // IETF protocol assignments, RFC 2928
		{netip.MustParsePrefix("2001:db8::/32"), kindDocumentation},
		{netip.MustParsePrefix("2620:4f:8000::/48"), kindReserved}, // AS112, RFC 7534
		{netip.MustParsePrefix("3fff::/20"), kindDocumentation},    // RFC 9637
		{netip.MustParsePrefix("5f00::/16"), kindReserved},         // segment routing, RFC 9602
		{netip.MustParsePrefix("fc00::/7"), kindPrivate},           // unique-local, RFC 4193
		{netip.MustParsePrefix("fe80::/10"), kindLinkLocal},
		{netip.MustParsePrefix("fec0::/10"), kindReserved}, // site-local, deprecated by RFC 3879
		{netip.MustParsePrefix("ff00::/8"), kindMulticast},
	}

	// globalUnicast is the only part of IPv6 that is assigned to the public; whatever lies outside it and is in no
	// table is reserved.
	globalUnicast = netip.MustParsePrefix("2000::/3")
)

// The networks whose addresses carry an IPv4 address, which a gateway or the kernel may dial in their place.
var (
	prefixCompatible = netip.MustParsePrefix("::/96")           // RFC 4291, deprecated
	prefixTranslated = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 7915
	prefixNAT64      = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052
	prefixLocalNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215
	prefixTeredo     = netip.MustParsePrefix("2001::/32")       // RFC 4380
	prefix6to4       = netip.MustParsePrefix("2002::/16")       // RFC 3056
)

// kindOf returns the kind of addr, which is unmapped and has no zone: a prefix contains no address with a zone, and
// no mapped one.
func kindOf(addr netip.Addr) kind {
	table := networks4
	if addr.Is6() {
		table = networks6
	}
	for i := range table {
		if table[i].prefix.Contains(addr) {
			return table[i].kind
		}
	}
	if addr.Is6() && !globalUnicast.Contains(addr) {
		return kindReserved
	}
	return kindPublic
}

// carried returns the IPv4 address that addr carries. In the local NAT64 network, where an operator chooses the
// position, it is taken to be at the end.
func carried(addr netip.Addr) (netip.Addr, bool) {
	if !addr.Is6() {
		return netip.Addr{}, false
	}
	b := addr.As16()
	switch {
	case prefixCompatible.Contains(addr):
		if addr.IsUnspecified() || addr.IsLoopback() {
			return netip.Addr{}, false
		}
		return netip.AddrFrom4([4]byte(b[12:])), true
	case prefixTranslated.Contains(addr), prefixNAT64.Contains(addr), prefixLocalNAT64.Contains(addr):
		return netip.AddrFrom4([4]byte(b[12:])), true
	case prefixTeredo.Contains(addr):
		// The address of the client, which is stored inverted.
		return netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}), true
	case prefix6to4.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	}
	return netip.Addr{}, false
}
