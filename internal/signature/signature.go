// Package signature signs deliveries and verifies them: the JSON Web Token in the header Upstash-Signature.
//
// A token is a compact JWS with HS256, whose key is the bytes of a whole key string, its sig_ included. Its claims bind
// the delivery's URL and the SHA-256 of its body, so that a token taken from one delivery is worth nothing on another,
// and it expires [Lifetime] after it was made.
//
// The package guarantees:
//
//  1. Verify accepts only a token whose first two parts were signed, byte for byte, with one of the given keys; an
//     empty key is no key. No other algorithm is known, whatever the token says.
//  2. Nothing of a token's claims is read before its signature is verified.
//  3. The claims a Signer writes are valid JSON for every URL, and decode to the URL's own bytes if it is UTF-8.
//
// The package is written by hand, with the standard library alone, because a token is made for every attempt of every
// message, and because receivers compile it into their programs.
package signature

import "time"

const (
	// Issuer is the iss claim of every token.
	Issuer = "Upstash"
	// Lifetime is the time from a token's iat to its exp.
	Lifetime = 5 * time.Minute
)

// header is the first part of every token a Signer makes: {"alg":"HS256","typ":"JWT"}.
const header = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"
