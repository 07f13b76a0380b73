package posthaste

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// TenantID numbers a tenant. Everything a token creates belongs to its tenant, and no other tenant sees it.
type TenantID int64

// MessageID names a message: "msg_" and 26 base58 characters of 19 bytes, big endian: the microsecond of acceptance (8),
// the home shard (2), and a nonce (9). All have one length, so ids sort as text by acceptance time, and whoever holds one
// knows where the message's ticket lives.
type MessageID string

// ScheduleID names a schedule: "scd_" and 28 base58 characters, or a name its user chose.
type ScheduleID string

// DeadLetterID names an entry of the dead letter queue: "<unix ms>-<seq>", both decimal.
type DeadLetterID string

// Nonce makes ids of one microsecond distinct. Its first four bytes count, so ids of one node keep their order.
type Nonce [9]byte

const (
	base58      = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
	messageTag  = "msg_"
	idDigits    = 26
	messageSize = len(messageTag) + idDigits
	pow58x10    = 430804206899405824 // 58^10, the largest even power below 2^59
)

// NewMessageID returns the id of a message accepted at the given moment (counted in whole microseconds, 1970 or later).
func NewMessageID(at time.Time, shard int16, n Nonce) MessageID {
	// The 152 bits as three words: 24 + 64 + 64.
	us := uint64(at.UnixMicro())
	var low [16]byte
	binary.BigEndian.PutUint64(low[:8], us<<24|uint64(uint16(shard))<<8|uint64(n[0]))
	copy(low[8:], n[1:])
	hi, mid, lo := us>>40, binary.BigEndian.Uint64(low[:8]), binary.BigEndian.Uint64(low[8:])

	var out [messageSize]byte
	copy(out[:], messageTag)
	for end := messageSize; end > len(messageTag); end -= 10 {
		var rest uint64
		hi, rest = bits.Div64(0, hi, pow58x10)
		mid, rest = bits.Div64(rest, mid, pow58x10)
		lo, rest = bits.Div64(rest, lo, pow58x10)
		for i := end - 1; i >= max(end-10, len(messageTag)); i-- {
			out[i] = base58[rest%58]
			rest /= 58
		}
	}
	return MessageID(out[:])
}

// Parts returns what the id carries: the moment of acceptance and the home shard. ok is false when id was not made by
// [NewMessageID].
func (id MessageID) Parts() (at time.Time, shard int16, ok bool) {
	if len(id) != messageSize || !strings.HasPrefix(string(id), messageTag) {
		return time.Time{}, 0, false
	}
	var hi, mid, lo uint64
	for i := len(messageTag); i < messageSize; i++ {
		d := strings.IndexByte(base58, id[i])
		if d < 0 {
			return time.Time{}, 0, false
		}
		c, l := bits.Mul64(lo, 58)
		l, carry := bits.Add64(l, uint64(d), 0)
		c += carry
		c2, m := bits.Mul64(mid, 58)
		m, carry = bits.Add64(m, c, 0)
		c2 += carry
		lo, mid = l, m
		hi = hi*58 + c2
		if hi >= 1<<24 {
			return time.Time{}, 0, false
		}
	}
	us := hi<<40 | mid>>24
	if us >= 1<<63 {
		return time.Time{}, 0, false
	}
	return time.UnixMicro(int64(us)).UTC(), int16(uint16(mid >> 8)), true
}

// FirstMessageID returns the smallest id that a message accepted at the given moment or later can have. It bounds scans by time.
func FirstMessageID(at time.Time) MessageID {
	if at.UnixMicro() < 0 {
		at = time.UnixMicro(0)
	}
	return NewMessageID(at, 0, Nonce{})
}

// NewDeadLetterID returns the id of a dead letter made at the given moment. seq tells entries of one millisecond apart.
func NewDeadLetterID(at time.Time, seq uint32) DeadLetterID {
	return DeadLetterID(strconv.FormatInt(at.UnixMilli(), 10) + "-" + strconv.FormatUint(uint64(seq), 10))
}

// Parts returns the moment and the sequence number in the id; ok is false when it is malformed.
func (id DeadLetterID) Parts() (at time.Time, seq uint32, ok bool) {
	ms, s, found := strings.Cut(string(id), "-")
	if !found {
		return time.Time{}, 0, false
	}
	m, err := strconv.ParseInt(ms, 10, 64)
	if err != nil || m < 0 {
		return time.Time{}, 0, false
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || NewDeadLetterID(time.UnixMilli(m), uint32(n)) != id {
		return time.Time{}, 0, false
	}
	return time.UnixMilli(m).UTC(), uint32(n), true
}

// EncodeBase58 returns n base58 characters made of src, read as a big-endian number and padded with '1'. It panics if src
// does not fit.
func EncodeBase58(src []byte, n int) string {
	digits := make([]byte, n)
	num := append([]byte(nil), src...)
	for i := n - 1; i >= 0; i-- {
		var rest uint32
		for j, b := range num {
			rest = rest<<8 | uint32(b)
			num[j] = byte(rest / 58)
			rest %= 58
		}
		digits[i] = base58[rest]
	}
	for _, b := range num {
		if b != 0 {
			panic(fmt.Sprintf("posthaste: %d bytes do not fit %d base58 characters", len(src), n))
		}
	}
	return string(digits)
}
