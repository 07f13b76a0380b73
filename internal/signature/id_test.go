package signature_test

import (
	"bytes"
	"math/big"
	"regexp"
	"strings"
	"testing"

	"github.com/posthaste/posthaste/internal/signature"
)

var base58 = regexp.MustCompile(`^(jwt|sig)_[1-9A-HJ-NP-Za-km-z]{28}$`)

// decode returns the number whose base58 digits follow the tag.
func decode(id string) *big.Int {
	const alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
	n := new(big.Int)
	for _, c := range id[4:] {
		n.Mul(n, big.NewInt(58))
		n.Add(n, big.NewInt(int64(strings.IndexRune(alphabet, c))))
	}
	return n
}

func checkIDs(t *testing.T, r signature.Random) {
	t.Helper()
	id, key := signature.NewTokenID(r).String(), signature.NewKey(r)
	if !base58.MatchString(id) || !strings.HasPrefix(id, "jwt_") {
		t.Errorf("NewTokenID(%x) = %q", r, id)
	}
	if !base58.MatchString(key) || !strings.HasPrefix(key, "sig_") {
		t.Errorf("NewKey(%x) = %q", r, key)
	}
	// Nothing of the randomness is lost.
	for _, s := range []string{id, key} {
		if got := decode(s).FillBytes(make([]byte, 32))[32-len(r):]; !bytes.Equal(got, r[:]) {
			t.Errorf("%s decodes to %x, want %x", s, got, r)
		}
	}
}

func TestIDs(t *testing.T) {
	var zero, one, most, high signature.Random
	one[19] = 1
	high[0] = 1
	for i := range most {
		most[i] = 0xff
	}
	for _, r := range []signature.Random{zero, one, most, high} {
		checkIDs(t, r)
	}
	for text, r := range map[string]signature.Random{
		"jwt_1111111111111111111111111111": zero,
		"jwt_1111111111111111111111111112": one,
		"jwt_4ZrjxJnU1LA5xSyrWMNuXTvSYKwt": most,
	} {
		if got := signature.NewTokenID(r).String(); got != text {
			t.Errorf("NewTokenID(%x) = %s, want %s", r, got, text)
		}
	}
}

func FuzzIDs(f *testing.F) {
	f.Add(make([]byte, 20))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r signature.Random
		copy(r[:], b)
		checkIDs(t, r)
	})
}
