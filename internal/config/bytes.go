package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bytes is a number of bytes, written as a whole number with a unit: 512KiB, 10MB; a number without a unit is in bytes.
type Bytes int64

// Multiples of a byte: binary units are powers of 1024.
const (
	KiB Bytes = 1 << (10 * (iota + 1))
	MiB
	GiB
	TiB
)

// byteUnits are tried in this order by String, the largest first and binary before decimal.
var byteUnits = []struct {
	name string
	size Bytes
}{
	{"TiB", TiB},
	{"GiB", GiB},
	{"MiB", MiB},
	{"KiB", KiB},
	{"TB", 1e12},
	{"GB", 1e9},
	{"MB", 1e6},
	{"KB", 1e3},
	{"B", 1},
}

// ParseBytes reads a size. Units are read in any case; KB, MB, GB, TB are powers of 1000.
func ParseBytes(s string) (Bytes, error) {
	fault := func() (Bytes, error) {
		return 0, fmt.Errorf("must be a size such as 65536, 512KiB or 10MB, got %q", s)
	}
	digits := strings.TrimSpace(s)
	size := Bytes(1)
	for _, u := range byteUnits {
		if n := len(digits) - len(u.name); n > 0 && strings.EqualFold(digits[n:], u.name) {
			digits, size = strings.TrimRight(digits[:n], " "), u.size
			break
		}
	}
	// ParseUint, because a sign is not part of a size.
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || Bytes(n) > math.MaxInt64/size {
		return fault()
	}
	return Bytes(n) * size, nil
}

// UnmarshalText reads what [ParseBytes] reads.
func (b *Bytes) UnmarshalText(text []byte) error {
	n, err := ParseBytes(string(text))
	if err != nil {
		return err
	}
	*b = n
	return nil
}

// MarshalText writes what String returns.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// String writes b in the largest unit that divides it.
func (b Bytes) String() string {
	if b != 0 {
		for _, u := range byteUnits[:len(byteUnits)-1] {
			if b%u.size == 0 {
				return strconv.FormatInt(int64(b/u.size), 10) + u.name
			}
		}
	}
	return strconv.FormatInt(int64(b), 10)
}
