package activity

import (
	"slices"
	"time"
)

// bounds are the upper ends of the bins that latencies are counted in.
var bounds = [...]time.Duration{
	time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second,
	10 * time.Second, 30 * time.Second, time.Minute, 15 * time.Minute, 2 * time.Hour,
}

// Latency is a distribution of durations.
type Latency [len(bounds)]uint32

func (l *Latency) add(d time.Duration) {
	i, _ := slices.BinarySearch(bounds[:], d)
	l[min(i, len(l)-1)]++
}

func (l *Latency) merge(o *Latency) {
	for i, n := range o {
		l[i] += n
	}
}

// Quantile returns the duration below which the share q of all lies, interpolated within its bin; ok is false if there are
// none.
func (l *Latency) Quantile(q float64) (d time.Duration, ok bool) {
	var all uint64
	for _, n := range l {
		all += uint64(n)
	}
	if all == 0 {
		return 0, false
	}
	rank := q * float64(all)
	below := 0.0
	for i, n := range l {
		if n > 0 && below+float64(n) >= rank {
			low := time.Duration(0)
			if i > 0 {
				low = bounds[i-1]
			}
			return low + time.Duration(float64(bounds[i]-low)*(rank-below)/float64(n)), true
		}
		below += float64(n)
	}
	return bounds[len(bounds)-1], true
}
