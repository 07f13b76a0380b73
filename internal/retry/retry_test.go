package retry_test

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/posthaste/posthaste/internal/retry"
)

var now = time.Date(2026, time.March, 4, 5, 6, 7, 0, time.UTC)

// headers returns a header function over names and values that alternate.
func headers(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func mustCompile(tb testing.TB, source string) *retry.Expression {
	tb.Helper()
	e, err := retry.Compile(source)
	if err != nil {
		tb.Fatalf("Compile(%q): %v", source, err)
	}
	return e
}

func mustBackoff(tb testing.TB, s string) retry.Backoff {
	tb.Helper()
	b, err := retry.ParseBackoff(s)
	if err != nil {
		tb.Fatalf("ParseBackoff(%q): %v", s, err)
	}
	return b
}

func TestPolicyDelay(t *testing.T) {
	inNinety := now.Add(90 * time.Second).Format("Mon, 02 Jan 2006 15:04:05 GMT")
	tests := []struct {
		name       string
		expression string
		backoff    string
		n          int
		header     func(string) string
		want       time.Duration
	}{
		{"header zero", "7000", "standard", 1, headers("Retry-After", "0"), 0},
		{"header seconds", "7000", "standard", 1, headers("Retry-After", "10"), 10 * time.Second},
		{"header duration", "", "standard", 1, headers("Retry-After", "6m5s"), 365 * time.Second},
		{"header date", "", "hosted", 3, headers("Retry-After", inNinety), 90 * time.Second},
		{"header too far, expression", "7000", "standard", 1, headers("Retry-After", "90000"), 7 * time.Second},
		{"header too far, backoff", "", "standard", 2, headers("Retry-After", "90000"), 30 * time.Second},
		{"third header", "", "standard", 1, headers("X-RateLimit-Reset-Requests", "1s"), time.Second},
		{"header unparsable", "", "standard", 1, headers("Retry-After", "soon"), 10 * time.Second},
		{"no header", "", "standard", 1, headers(), 10 * time.Second},
		{"no response", "", "standard", 3, nil, time.Minute},
		{"expression, first retry", "7000 * retried", "standard", 1, nil, 0},
		{"expression, second retry", "7000 * retried", "standard", 2, nil, 7 * time.Second},
		{"list", "", "1s,2s", 7, nil, 2 * time.Second},
		{"n below one", "1000 * (1 + retried)", "", 0, nil, time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var p retry.Policy
			if tt.expression != "" {
				p.Expression = mustCompile(t, tt.expression)
			}
			if tt.backoff != "" {
				p.Backoff = mustBackoff(t, tt.backoff)
			}
			if got := p.Delay(tt.n, tt.header, now); got != tt.want {
				t.Errorf("Delay(%d) = %v, want %v", tt.n, got, tt.want)
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	tests := []struct {
		text string
		want []time.Duration // before retries 1, 2, …
	}{
		{"standard", []time.Duration{10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute, 30 * time.Minute, 30 * time.Minute}},
		{"hosted", []time.Duration{12182 * time.Millisecond, 148413 * time.Millisecond, 1808042 * time.Millisecond, 22026466 * time.Millisecond, 24 * time.Hour, 24 * time.Hour}},
		{"5s", []time.Duration{5 * time.Second, 5 * time.Second}},
		{" 0s , 1s,1m30s ", []time.Duration{0, time.Second, 90 * time.Second, 90 * time.Second}},
		{"24h", []time.Duration{24 * time.Hour}},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			b := mustBackoff(t, tt.text)
			got := make([]time.Duration, len(tt.want))
			for i := range got {
				got[i] = b.Delay(i + 1)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("delays (-want +got):\n%s", diff)
			}
			if got := b.Delay(math.MaxInt); got != tt.want[len(tt.want)-1] {
				t.Errorf("Delay(MaxInt) = %v, want %v", got, tt.want[len(tt.want)-1])
			}
			if got := b.Delay(-1); got != tt.want[0] {
				t.Errorf("Delay(-1) = %v, want %v", got, tt.want[0])
			}
			if again := mustBackoff(t, b.String()); !again.Equal(b) {
				t.Errorf("ParseBackoff(%q) is not the backoff it was printed from", b.String())
			}
		})
	}
}

func TestBackoffNames(t *testing.T) {
	var zero retry.Backoff
	if got, want := zero.String(), "standard"; got != want {
		t.Errorf("zero backoff is %q, want %q", got, want)
	}
	if !zero.Equal(retry.Standard()) || zero.Equal(retry.Hosted()) {
		t.Error("the zero backoff must equal the standard one only")
	}
	var b retry.Backoff
	if err := b.UnmarshalText([]byte("hosted")); err != nil || !b.Equal(retry.Hosted()) {
		t.Errorf("UnmarshalText(hosted) = %v, %v", b, err)
	}
	if err := b.UnmarshalText([]byte("never")); err == nil || !b.Equal(retry.Hosted()) {
		t.Errorf("UnmarshalText(never) = %v, %v; want an error and no change", b, err)
	}
	if text, err := b.MarshalText(); string(text) != "hosted" || err != nil {
		t.Errorf("MarshalText = %q, %v", text, err)
	}
}

func TestParseBackoffErrors(t *testing.T) {
	long := "1s"
	for range 100 {
		long += ",1s"
	}
	tests := map[string]string{
		"":        "empty backoff: want standard, hosted or a list of durations like 10s,1m",
		"fast":    `backoff is neither standard, hosted nor a list of durations like 10s,1m: time: invalid duration "fast"`,
		"10":      `backoff is neither standard, hosted nor a list of durations like 10s,1m: time: missing unit in duration "10"`,
		"10s,":    `backoff is neither standard, hosted nor a list of durations like 10s,1m: time: invalid duration ""`,
		"-1s":     `backoff duration "-1s" is not between 0s and 24h`,
		"1s, 25h": `backoff duration "25h" is not between 0s and 24h`,
		long:      "backoff has 101 durations, at most 100 are allowed",
	}
	for text, want := range tests {
		if b, err := retry.ParseBackoff(text); err == nil || err.Error() != want {
			t.Errorf("ParseBackoff(%q) = %v, %v; want error %q", text, b, err, want)
		}
	}
}

func FuzzParseBackoff(f *testing.F) {
	for _, s := range []string{"standard", "hosted", "1s,2m", "-1s", ",", "24h1ns"} {
		f.Add(s, 1)
	}
	f.Fuzz(func(t *testing.T, s string, n int) {
		b, err := retry.ParseBackoff(s)
		if err != nil {
			return
		}
		if d := b.Delay(n); d < 0 || d > retry.MaxDelay {
			t.Errorf("Delay(%d) of %q = %v, out of range", n, s, d)
		}
		if again, err := retry.ParseBackoff(b.String()); err != nil || !again.Equal(b) {
			t.Errorf("%q does not survive printing: %v, %v", s, again, err)
		}
	})
}
