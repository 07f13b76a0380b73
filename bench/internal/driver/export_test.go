package driver

import "time"

// For the tests of what is not exported.

func Quantile(times []time.Duration, q float64) time.Duration {
	h := newHistogram()
	for _, t := range times {
		h.record(t)
	}
	return h.quantile(q)
}

var (
	Median = median
	Rank   = rank
)
