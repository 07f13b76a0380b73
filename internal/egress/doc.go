// Package egress decides which destinations may be dialled, and holds the one HTTP client that dials them.
//
// A destination is judged twice. [Guard.CheckURL] judges the text of a URL when a message is published, without
// DNS, so that a publisher learns of a mistake at once. The client judges every address again at the moment its
// socket is about to connect, after DNS, so that a name which changes its address in between gains nothing.
//
// Guarantees:
//
//  1. No connection of the client is opened to an address that [Guard.CheckAddr] refuses, unless its host name is
//     on the list of allowed names, and none to a host or address on the list of denied ones.
//  2. A URL that CheckURL accepts is accepted by [net/url.Parse], and both see the same host. A literal address in
//     it is in the one form that every resolver reads alike, and CheckAddr accepts it.
//  3. The client adds nothing to a request and hides nothing of an answer: no redirect is followed, no proxy is
//     taken from the environment, no body is decompressed, no User-Agent or Accept-Encoding is added.
//  4. TLS certificates are always verified.
//
// An address is judged without its zone, and an IPv4-mapped IPv6 address as the IPv4 address it stands for. The
// rules apply in this order, and the first that matches wins:
//
//  1. A host name matched by [Config.Deny] is refused.
//  2. An address inside a network of Config.Deny is refused, and so is one that carries such an IPv4 address
//     (NAT64, 6to4, Teredo, IPv4-compatible, IPv4-translated).
//  3. An address that [Config.Allow] names alone (without a network length, or with /32 or /128) is allowed.
//  4. A public address is allowed.
//  5. An address inside a wider network of Config.Allow, or any address of a host name matched by Config.Allow, is
//     allowed, with two exceptions: cloud metadata goes on to rule 6, and an address that carries an IPv4 address is
//     judged as that IPv4 address.
//  6. Otherwise [Config.Mode] decides by the kind of the address. No mode opens cloud metadata.
//
// So deny wins over allow, allow opens what a mode keeps shut, and credentials of the machine itself are only in
// reach where an operator has written down that one address. An allowed host name trusts whoever controls its DNS.
// Permission to use http:// is separate: no list grants it.
//
// The package does not limit ports, does not bound the body of an answer, does not time a whole request (its
// context does), and does not retry.
package egress
