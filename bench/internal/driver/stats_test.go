package driver_test

import (
	"testing"
	"time"

	"github.com/posthaste/posthaste/bench/internal/driver"
)

func TestQuantile(t *testing.T) {
	var times []time.Duration
	for i := range 10_000 {
		times = append(times, time.Duration(i+1)*100*time.Microsecond)
	}
	for _, tt := range []struct {
		q    float64
		want time.Duration
	}{
		{0.5, 500 * time.Millisecond},
		{0.99, 990 * time.Millisecond},
		{0.999, 999 * time.Millisecond},
		{1, time.Second},
	} {
		got := driver.Quantile(times, tt.q)
		if off := (got - tt.want).Abs(); off > tt.want/500 {
			t.Errorf("quantile %g: got %v, want %v within 0.2 %%", tt.q, got, tt.want)
		}
	}
	// What is out of range is not left out.
	if got := driver.Quantile([]time.Duration{-time.Second, 0, 3 * time.Hour}, 1); got < 59*time.Minute {
		t.Errorf("longer than the longest: got %v", got)
	}
	if got := driver.Quantile([]time.Duration{-time.Second, -1, time.Second}, 0.5); got > time.Microsecond {
		t.Errorf("negative: got %v", got)
	}
}

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0},
		{[]float64{3}, 3},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		if got := driver.Median(tt.values); got != tt.want {
			t.Errorf("median of %v: got %v, want %v", tt.values, got, tt.want)
		}
	}
}

func TestRank(t *testing.T) {
	sorted := []time.Duration{-5, -1, 0, 2, 100}
	for _, tt := range []struct {
		q    float64
		want time.Duration
	}{{0, -5}, {0.2, -5}, {0.21, -1}, {0.5, 0}, {0.99, 100}, {1, 100}} {
		if got := driver.Rank(sorted, tt.q); got != tt.want {
			t.Errorf("rank %g: got %v, want %v", tt.q, got, tt.want)
		}
	}
	if got := driver.Rank(nil, 0.5); got != 0 {
		t.Errorf("rank of nothing: got %v", got)
	}
}
