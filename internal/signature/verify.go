package signature

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// The reasons for which Verify refuses a token. It returns one of these values itself, or an error that wraps one.
var (
	// ErrNoKey says that the verifier has no key, so no token can be good.
	ErrNoKey = errors.New("no signing key is set")
	// ErrMalformed says that the token is not a JWT, or lacks a claim.
	ErrMalformed = errors.New("malformed token")
	// ErrAlgorithm says that the token names another algorithm than HS256.
	ErrAlgorithm = errors.New("the token's algorithm is not HS256")
	// ErrSignature says that neither key made the token.
	ErrSignature = errors.New("the signature matches neither signing key")
	// ErrIssuer says that the token is not about a delivery.
	ErrIssuer = errors.New("the token's issuer is not " + Issuer)
	// ErrExpired says that the token's time is over: an old delivery was sent again, or the clocks differ.
	ErrExpired = errors.New("the token has expired")
	// ErrNotYetValid says that the token's time has not come: the clocks differ.
	ErrNotYetValid = errors.New("the token is not valid yet")
	// ErrURL says that the token was made for another URL.
	ErrURL = errors.New("the token was made for another URL")
	// ErrBody says that the token was made for another body.
	ErrBody = errors.New("the token was made for another body")
)

// Verifier checks tokens at the receiving side. It accepts two keys, so that the sender can change from one to the
// other. The zero Verifier accepts nothing.
type Verifier struct {
	// CurrentKey is tried first, NextKey second. An empty key is never tried.
	CurrentKey, NextKey string
	// Leeway is how far the clocks of sender and receiver may differ; zero allows no difference.
	Leeway time.Duration
}

// Claims are what a verified token says.
type Claims struct {
	ID        string    // jti, unique for each attempt
	URL       string    // sub, the destination as delivered
	IssuedAt  time.Time // iat; zero if the token has none
	NotBefore time.Time // nbf
	Expires   time.Time // exp
}

// Verify returns the claims of a token that is signed with a key of v, valid at now, and made for this body and URL.
// The URL is compared byte by byte; an empty one is not compared.
func (v Verifier) Verify(token string, body []byte, url string, now time.Time) (Claims, error) {
	payload, err := v.open(token)
	if err != nil {
		return Claims{}, err
	}
	var c payloadClaims
	if err := json.Unmarshal(payload, &c); err != nil {
		return Claims{}, malformed("its claims are not a JSON object of the right types")
	}
	if c.Issuer != Issuer {
		return Claims{}, ErrIssuer
	}
	if c.Expires == nil || c.NotBefore == nil || c.Subject == nil || c.Body == nil {
		return Claims{}, malformed("a claim of sub, exp, nbf, body is missing")
	}
	// exp is the first moment at which the token is bad, nbf the first at which it is good (RFC 7519).
	if at := seconds(now.Add(-v.Leeway)); at >= *c.Expires {
		return Claims{}, ErrExpired
	}
	if at := seconds(now.Add(v.Leeway)); at < *c.NotBefore {
		return Claims{}, ErrNotYetValid
	}
	if url != "" && url != *c.Subject {
		return Claims{}, ErrURL
	}
	sum := sha256.Sum256(body)
	want := base64.RawURLEncoding.EncodeToString(sum[:])
	if subtle.ConstantTimeCompare([]byte(strings.TrimRight(*c.Body, "=")), []byte(want)) != 1 {
		return Claims{}, ErrBody
	}
	claims := Claims{ID: c.ID, URL: *c.Subject, NotBefore: date(*c.NotBefore), Expires: date(*c.Expires)}
	if c.IssuedAt != nil {
		claims.IssuedAt = date(*c.IssuedAt)
	}
	return claims, nil
}

// payloadClaims is the second part of a token. A pointer tells an absent claim from a zero one. Times are numbers of
// seconds and may have fractions (RFC 7519).
type payloadClaims struct {
	Issuer    string   `json:"iss"`
	Subject   *string  `json:"sub"`
	Expires   *float64 `json:"exp"`
	NotBefore *float64 `json:"nbf"`
	IssuedAt  *float64 `json:"iat"`
	ID        string   `json:"jti"`
	Body      *string  `json:"body"`
}

// open verifies the signature and returns the decoded second part.
func (v Verifier) open(token string) ([]byte, error) {
	if v.CurrentKey == "" && v.NextKey == "" {
		return nil, ErrNoKey
	}
	head, rest, _ := strings.Cut(token, ".")
	body, sig, ok := strings.Cut(rest, ".")
	if !ok || strings.Contains(sig, ".") {
		return nil, malformed("it does not have three parts")
	}
	if err := checkHeader(head); err != nil {
		return nil, err
	}
	// The signature is compared as text: what differs from the one spelling of the right bytes is not decoded at all.
	signed := token[:len(head)+1+len(body)]
	if !signedWith(v.CurrentKey, signed, sig) && !signedWith(v.NextKey, signed, sig) {
		return nil, ErrSignature
	}
	payload, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return nil, malformed("its claims are not base64url")
	}
	return payload, nil
}

// checkHeader refuses a token whose first part names another algorithm, or an extension that must be understood.
func checkHeader(head string) error {
	if head == header {
		return nil
	}
	text, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		return malformed("its header is not base64url")
	}
	var h struct {
		Algorithm string          `json:"alg"`
		Critical  json.RawMessage `json:"crit"`
	}
	if err := json.Unmarshal(text, &h); err != nil {
		return malformed("its header is not a JSON object")
	}
	if h.Algorithm != "HS256" {
		return ErrAlgorithm
	}
	if h.Critical != nil {
		return malformed("its header asks for an extension")
	}
	return nil
}

// signedWith reports whether sig is the signature of text with the key, in constant time. An empty key signs nothing:
// everybody has it.
func signedWith(key, text, sig string) bool {
	if key == "" {
		return false
	}
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(text))
	var room [64]byte
	want := base64.RawURLEncoding.AppendEncode(room[:0], mac.Sum(nil))
	return subtle.ConstantTimeCompare([]byte(sig), want) == 1
}

// seconds returns t in seconds since 1970, with its fraction.
func seconds(t time.Time) float64 {
	return float64(t.Unix()) + float64(t.Nanosecond())/1e9
}

// date is the inverse of seconds, to the second. Numbers no clock reaches come out as the last second of a far year.
func date(s float64) time.Time {
	const far = 1 << 40
	return time.Unix(int64(max(-far, min(s, far))), 0).UTC()
}

// malformedError says what is wrong with a malformed token.
type malformedError string

func malformed(what string) error { return malformedError(what) }

func (e malformedError) Error() string { return ErrMalformed.Error() + ": " + string(e) }

func (e malformedError) Unwrap() error { return ErrMalformed }
