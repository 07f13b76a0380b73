package signature

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"
)

// Delivery is what a token vouches for.
type Delivery struct {
	// URL is the destination as delivered, with its query.
	URL string
	// Body is the exact bytes sent; nil and empty are the same.
	Body []byte
	// ID is unique for each attempt.
	ID TokenID
	// At is the moment of the attempt. The token counts it in whole seconds, rounded down, because some receivers refuse
	// a token made in their future.
	At time.Time
}

// Signer makes tokens with one key. It keeps the key's HMAC state, so signing costs no key schedule. It may be used by
// several goroutines at once.
type Signer struct {
	pool sync.Pool // of *scratch
}

// NewSigner returns a Signer for the key, the whole string with its sig_.
func NewSigner(key string) *Signer {
	s := &Signer{}
	secret := []byte(key)
	s.pool.New = func() any {
		return &scratch{mac: hmac.New(sha256.New, secret)}
	}
	return s
}

// Sign returns the token of d.
func (s *Signer) Sign(d Delivery) string {
	sc := s.pool.Get().(*scratch)
	sc.token = sc.append(sc.token[:0], d)
	token := string(sc.token)
	s.put(sc)
	return token
}

// Append appends the token of d to dst and returns the extended buffer.
func (s *Signer) Append(dst []byte, d Delivery) []byte {
	sc := s.pool.Get().(*scratch)
	dst = sc.append(dst, d)
	s.put(sc)
	return dst
}

// maxScratch bounds the buffers a Signer keeps, so that one huge URL does not stay in memory.
const maxScratch = 16 << 10

func (s *Signer) put(sc *scratch) {
	if cap(sc.payload) <= maxScratch && cap(sc.token) <= maxScratch {
		s.pool.Put(sc)
	}
}

// scratch is what making one token needs and making the next may use again.
type scratch struct {
	mac     hash.Hash
	payload []byte
	token   []byte
	sum     [sha256.Size]byte
}

func (sc *scratch) append(dst []byte, d Delivery) []byte {
	sc.payload = appendPayload(sc.payload[:0], d)
	start := len(dst)
	dst = append(dst, header...)
	dst = append(dst, '.')
	dst = base64.RawURLEncoding.AppendEncode(dst, sc.payload)

	sc.mac.Reset()
	sc.mac.Write(dst[start:])
	sum := sc.mac.Sum(sc.sum[:0])
	dst = append(dst, '.')
	return base64.RawURLEncoding.AppendEncode(dst, sum)
}

// appendPayload appends the claims of d as JSON.
func appendPayload(dst []byte, d Delivery) []byte {
	iat := d.At.Unix()
	sum := sha256.Sum256(d.Body)
	dst = append(dst, `{"iss":"`+Issuer+`","sub":`...)
	dst = appendString(dst, d.URL)
	dst = append(dst, `,"exp":`...)
	dst = strconv.AppendInt(dst, iat+int64(Lifetime/time.Second), 10)
	// Receivers require nbf to be there; zero keeps clocks that run late out of the question.
	dst = append(dst, `,"nbf":0,"iat":`...)
	dst = strconv.AppendInt(dst, iat, 10)
	dst = append(dst, `,"jti":`...)
	dst = appendString(dst, string(d.ID[:]))
	dst = append(dst, `,"body":"`...)
	dst = base64.URLEncoding.AppendEncode(dst, sum[:])
	return append(dst, `"}`...)
}

// appendString appends s as a JSON string. It escapes what RFC 8259 requires and nothing else, so <, > and & stay as they
// are. Bytes that are not UTF-8 become U+FFFD, since many parsers refuse them outright.
func appendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	from := 0 // s[from:i] is still to be copied
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				dst = append(dst, s[from:i]...)
				dst = append(dst, "\ufffd"...)
				from = i + 1
			}
			i += size
			continue
		}
		if c < ' ' || c == '"' || c == '\\' {
			dst = append(dst, s[from:i]...)
			if c < ' ' {
				dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			} else {
				dst = append(dst, '\\', c)
			}
			from = i + 1
		}
		i++
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}
