// Package sink is the destination of every message of a benchmark: it counts deliveries by message number, so that a
// message that was lost or delivered twice is seen, and records when each arrived.
package sink

import (
	"bytes"
	"sync/atomic"
	"time"
)

// A message carries its number in its body behind a marker that survives being wrapped in JSON or in a form.
const (
	marker = "bench-"
	digits = 12
)

// Body returns the body of message 0: a JSON object of size bytes, or a little more if size is smaller than the least
// such object. SetNumber turns it into another message's.
func Body(size int) []byte {
	b := []byte(`{"message":"` + marker + "000000000000" + `","pad":"`)
	for len(b) < size-2 {
		b = append(b, "0123456789abcdefghijklmnopqrstuvwxyz"[len(b)%36])
	}
	return append(b, `"}`...)
}

// NumberAt returns where in b the digits of the message number are, or -1.
func NumberAt(b []byte) int {
	i := bytes.Index(b, []byte(marker))
	if i < 0 || i+len(marker)+digits > len(b) {
		return -1
	}
	return i + len(marker)
}

// SetNumber writes number n over the digits at offset at of b.
func SetNumber(b []byte, at, n int) {
	for i := at + digits - 1; i >= at; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
}

// number returns the message number in b, or -1.
func number(b []byte) int {
	at := NumberAt(b)
	if at < 0 {
		return -1
	}
	n := 0
	for _, c := range b[at : at+digits] {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int(c-'0')
	}
	return n
}

// Tally records the deliveries of a fixed number of messages. It is safe for concurrent use.
type Tally struct {
	base time.Time
	// arrived[n] is the time of the first delivery of message n since base, in nanoseconds, plus one; 0 until then.
	arrived []atomic.Int64
	// extra[n] counts the deliveries of message n after the first.
	extra      []atomic.Uint32
	distinct   atomic.Int64
	duplicates atomic.Int64
	strays     atomic.Int64
}

// NewTally returns a Tally of messages 0 to count-1, whose times are counted from base.
func NewTally(base time.Time, count int) *Tally {
	return &Tally{base: base, arrived: make([]atomic.Int64, count), extra: make([]atomic.Uint32, count)}
}

// Record counts a delivery with the given body.
func (t *Tally) Record(body []byte) {
	now := time.Since(t.base)
	n := number(body)
	if n < 0 || n >= len(t.arrived) {
		t.strays.Add(1)
		return
	}
	if t.arrived[n].CompareAndSwap(0, int64(now)+1) {
		t.distinct.Add(1)
		return
	}
	t.extra[n].Add(1)
	t.duplicates.Add(1)
}

// Arrived returns when message n was first delivered, since base.
func (t *Tally) Arrived(n int) (time.Duration, bool) {
	at := t.arrived[n].Load()
	return time.Duration(at - 1), at > 0
}

// Extra returns how often message n was delivered again.
func (t *Tally) Extra(n int) int { return int(t.extra[n].Load()) }

// Distinct is the number of messages that were delivered.
func (t *Tally) Distinct() int { return int(t.distinct.Load()) }

// Duplicates is the number of deliveries that repeated an earlier one.
func (t *Tally) Duplicates() int { return int(t.duplicates.Load()) }

// Strays is the number of requests that carried no number of this tally.
func (t *Tally) Strays() int { return int(t.strays.Load()) }
