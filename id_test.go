package posthaste_test

import (
	"testing"
	"time"

	"github.com/posthaste/posthaste"
)

func TestMessageIDSortsByTimeAndRoundTrips(t *testing.T) {
	at := time.UnixMicro(1_700_000_000_000_000)
	prev := posthaste.MessageID("")
	for i := range 2000 {
		var n posthaste.Nonce
		n[3] = byte(i)
		n[2] = byte(i >> 8)
		id := posthaste.NewMessageID(at.Add(time.Duration(i/7)*time.Microsecond), 3, n)
		if len(id) != 30 {
			t.Fatalf("id %q has %d characters, want 30", id, len(id))
		}
		if id <= prev {
			t.Fatalf("id %q is not after %q", id, prev)
		}
		prev = id
		got, shard, ok := id.Parts()
		if !ok || shard != 3 || !got.Equal(at.Add(time.Duration(i/7)*time.Microsecond)) {
			t.Fatalf("Parts(%q) = %v, %d, %v", id, got, shard, ok)
		}
	}
	first := posthaste.FirstMessageID(at)
	if id := posthaste.NewMessageID(at, 0, posthaste.Nonce{}); id < first {
		t.Errorf("FirstMessageID %q is after %q", first, id)
	}
	far := posthaste.NewMessageID(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), -1, posthaste.Nonce{255, 255, 255, 255, 255, 255, 255, 255, 255})
	if got, shard, ok := far.Parts(); !ok || shard != -1 || got.Year() != 9999 {
		t.Errorf("Parts(%q) = %v, %d, %v", far, got, shard, ok)
	}
}

func FuzzMessageIDParts(f *testing.F) {
	f.Add("msg_")
	f.Add(string(posthaste.NewMessageID(time.UnixMicro(1), 1, posthaste.Nonce{1})))
	f.Add("msg_zzzzzzzzzzzzzzzzzzzzzzzzzz")
	f.Fuzz(func(t *testing.T, s string) {
		at, shard, ok := posthaste.MessageID(s).Parts()
		if ok && at.UnixMicro() < 0 {
			t.Fatalf("negative time from %q (shard %d)", s, shard)
		}
	})
}

func TestDeadLetterID(t *testing.T) {
	id := posthaste.NewDeadLetterID(time.UnixMilli(1725323658779), 7)
	if id != "1725323658779-7" {
		t.Fatalf("got %q", id)
	}
	if at, seq, ok := id.Parts(); !ok || seq != 7 || at.UnixMilli() != 1725323658779 {
		t.Errorf("Parts = %v, %d, %v", at, seq, ok)
	}
	for _, bad := range []posthaste.DeadLetterID{"", "-", "1", "1-", "-1", "01-1", "1-01", "1-4294967296", "a-1", "1-1-1", "+1-1"} {
		if _, _, ok := bad.Parts(); ok {
			t.Errorf("%q was taken for a dead letter id", bad)
		}
	}
}

func BenchmarkNewMessageID(b *testing.B) {
	b.ReportAllocs()
	now := time.Now()
	for b.Loop() {
		posthaste.NewMessageID(now, 1, posthaste.Nonce{1, 2, 3})
	}
}
