package signature

import (
	"encoding/binary"
	"math/bits"
)

// alphabet is Bitcoin's: no 0, O, I or l.
const alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

const (
	tokenIDTag = "jwt_"
	keyTag     = "sig_"
	digits     = 28
)

// Random is what an id or a key is made of: 20 bytes from a cryptographic source, 160 bits. It is the most that always
// fits: 58^27 < 2^160 < 58^28. So 28 base58 digits hold every value, and no two values share their digits.
type Random [20]byte

// TokenID is a jti claim: "jwt_" and 28 base58 digits.
type TokenID [len(tokenIDTag) + digits]byte

// NewTokenID returns the token id made of r.
func NewTokenID(r Random) TokenID {
	var id TokenID
	copy(id[:], tokenIDTag)
	putBase58(id[len(tokenIDTag):], r)
	return id
}

// String returns the id as text.
func (id TokenID) String() string { return string(id[:]) }

// NewKey returns the signing key made of r: "sig_" and 28 base58 digits. The key is as secret as r was.
func NewKey(r Random) string {
	var key [len(keyTag) + digits]byte
	copy(key[:], keyTag)
	putBase58(key[len(keyTag):], r)
	return string(key[:])
}

// pow58x10 is 58^10, the largest even power of 58 below 2^59.
const pow58x10 = 430804206899405824

// putBase58 writes r, a big-endian number, to dst in len(dst) base58 digits, which must be enough.
func putBase58(dst []byte, r Random) {
	hi := uint64(binary.BigEndian.Uint32(r[:]))
	mid := binary.BigEndian.Uint64(r[4:])
	lo := binary.BigEndian.Uint64(r[12:])
	// Each round divides the three words by 58^10 and writes the ten digits of the remainder.
	for end := len(dst); end > 0; end -= 10 {
		var rest uint64
		hi, rest = hi/pow58x10, hi%pow58x10
		mid, rest = bits.Div64(rest, mid, pow58x10)
		lo, rest = bits.Div64(rest, lo, pow58x10)
		for i := end - 1; i >= max(end-10, 0); i-- {
			dst[i] = alphabet[rest%58]
			rest /= 58
		}
	}
}
