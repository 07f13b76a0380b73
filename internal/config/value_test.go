package config_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/posthaste/posthaste/internal/config"
)

func TestParseBytes(t *testing.T) {
	for in, want := range map[string]config.Bytes{
		"0": 0, "65536": 65536, "1B": 1, "512KiB": 512 << 10, "10MB": 10e6, "10 mb": 10e6, " 1gib ": 1 << 30,
		"1KB": 1000, "3TiB": 3 << 40, "2TB": 2e12, "9223372036854775807": math.MaxInt64,
	} {
		if got, err := config.ParseBytes(in); err != nil || got != want {
			t.Errorf("ParseBytes(%q): got %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", " ", "B", "KiB", "-1", "+1", "1.5GiB", "10M", "10k", "1 0", "1XB", "0x10", "1_000", "9223372036854775808",
		"8388608TiB", "10MBB", "١",
	} {
		if got, err := config.ParseBytes(in); err == nil {
			t.Errorf("ParseBytes(%q): got %d, want an error", in, got)
		}
	}
	for b, want := range map[config.Bytes]string{
		0: "0", 1: "1", 1000: "1KB", 1024: "1KiB", 1536: "1536", 10e6: "10MB", 256 * config.MiB: "256MiB", -1024: "-1KiB",
	} {
		if got := b.String(); got != want {
			t.Errorf("Bytes(%d).String(): got %q, want %q", b, got, want)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"0": 0, "0d": 0, "500ms": 500 * time.Millisecond, "7d": 7 * 24 * time.Hour, "1d12h": 36 * time.Hour,
		"12h1d": 36 * time.Hour, "1.5d": 36 * time.Hour, "-1d1h": -25 * time.Hour, "+1d": 24 * time.Hour,
		"1d1µs": 24*time.Hour + time.Microsecond, "106751d": 106751 * 24 * time.Hour,
	} {
		if got, err := config.ParseDuration(in); err != nil || got != want {
			t.Errorf("ParseDuration(%q): got %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", "d", "-d", "30", "1", "1d2", "1d-2h", "--1d", "1dd", "1 d", "1d ", "1D", "1w", "1.2.3d", "106752d",
		"106751d24h", "1e3d", "day",
	} {
		if got, err := config.ParseDuration(in); err == nil {
			t.Errorf("ParseDuration(%q): got %v, want an error", in, got)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0s", time.Hour: "1h", 90 * time.Minute: "1h30m", 24 * time.Hour: "1d", -36 * time.Hour: "-1d12h",
		10 * time.Minute: "10m", 100 * time.Second: "1m40s", time.Hour + time.Second: "1h0m1s", 1500 * time.Millisecond: "1.5s",
	} {
		if got := config.FormatDuration(d); got != want {
			t.Errorf("FormatDuration(%d): got %q, want %q", d, got, want)
		}
	}
}

// FuzzParseBytes: what is read is never negative, and its text is read back as the same size.
func FuzzParseBytes(f *testing.F) {
	for _, s := range []string{"", "0", "512KiB", "10 mb", "9223372036854775807", "8388608TiB", "1.5GiB", "-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := config.ParseBytes(s)
		if err != nil {
			return
		}
		if b < 0 {
			t.Fatalf("ParseBytes(%q): got %d", s, b)
		}
		if again, err := config.ParseBytes(b.String()); err != nil || again != b {
			t.Errorf("ParseBytes(%q): got %d, %v, want %d", b.String(), again, err, b)
		}
	})
}

// FuzzParseDuration: the text of a duration is read back as the same; without days it is read as package time does; and
// days only add.
func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"", "0", "7d", "1d12h", "-1.5d", "500ms", "106751d23h47m16.854775807s", "1d-2h", ".d", "1.d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := config.ParseDuration(s)
		if want, stdErr := time.ParseDuration(s); stdErr == nil && (err != nil || d != want) {
			t.Fatalf("ParseDuration(%q): got %v, %v, want %v", s, d, err, want)
		}
		if err != nil || d == math.MinInt64 {
			return
		}
		text := config.FormatDuration(d)
		if again, err := config.ParseDuration(text); err != nil || again != d {
			t.Errorf("ParseDuration(%q): got %d, %v, want %d", text, again, err, d)
		}
		if !strings.HasPrefix(s, "-") && d < 0 {
			t.Errorf("ParseDuration(%q): got %v", s, d)
		}
	})
}
