package driver

import (
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// histogram collects latencies from a nanosecond to an hour with three digits; what is outside counts as the nearest
// bound.
type histogram struct{ h *hdrhistogram.Histogram }

const longest = time.Hour

func newHistogram() histogram {
	return histogram{hdrhistogram.New(1, int64(longest), 3)}
}

func (h histogram) record(d time.Duration) {
	// The clamp keeps the value in range, outside of which alone RecordValue fails.
	_ = h.h.RecordValue(int64(min(max(d, 1), longest)))
}

// quantile returns the latency that the fraction q of all is not above.
func (h histogram) quantile(q float64) time.Duration {
	return time.Duration(h.h.ValueAtQuantile(q * 100))
}

func (h histogram) count() int { return int(h.h.TotalCount()) }

// median returns the middle of values, or the mean of the two in the middle. It is 0 without values.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

func medianOf(times []time.Duration) time.Duration {
	values := make([]float64, len(times))
	for i, t := range times {
		values[i] = float64(t)
	}
	return time.Duration(median(values))
}

// rank returns the value of sorted that the fraction q of all is not above. Unlike a histogram it takes negative
// values.
func rank(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	i := int(q*float64(len(sorted))+0.999999) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}
