package store_test

import (
	"bytes"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
)

// fill sets every exported field that v reaches to something drawn, so a field that a codec forgot is noticed.
func fill(t *rapid.T, v reflect.Value, full bool) {
	if v.Type() == reflect.TypeFor[time.Time]() {
		if full || rapid.Bool().Draw(t, "set") {
			us := rapid.Int64Range(-1e15, 1e17).Draw(t, "us")
			v.Set(reflect.ValueOf(time.UnixMicro(us).UTC()))
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i), full)
		}
	case reflect.Pointer:
		if full || rapid.Bool().Draw(t, "set") {
			v.Set(reflect.New(v.Type().Elem()))
			fill(t, v.Elem(), full)
		}
	case reflect.Slice:
		n := rapid.IntRange(0, 3).Draw(t, "n")
		if full {
			n = max(n, 1)
		}
		if v.Type().Elem().Kind() == reflect.Uint8 {
			n *= rapid.IntRange(1, 400).Draw(t, "size")
		}
		if n > 0 {
			v.Set(reflect.MakeSlice(v.Type(), n, n))
			for i := range n {
				fill(t, v.Index(i), full)
			}
		}
	case reflect.Map:
		n := rapid.IntRange(0, 3).Draw(t, "n")
		if full {
			n = max(n, 1)
		}
		for range n {
			if v.IsNil() {
				v.Set(reflect.MakeMap(v.Type()))
			}
			key, val := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(t, key, false)
			fill(t, val, full)
			v.SetMapIndex(key, val)
		}
	case reflect.String:
		s := rapid.OneOf(rapid.String(), rapid.StringN(100, 200, 400)).Draw(t, "s")
		if full && s == "" {
			s = "x"
		}
		v.SetString(s)
	case reflect.Bool:
		v.SetBool(full || rapid.Bool().Draw(t, "b"))
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		bits := v.Type().Bits()
		n := rapid.Int64Range(math.MinInt64>>(64-bits), math.MaxInt64>>(64-bits)).Draw(t, "i")
		if full && n == 0 {
			n = 1
		}
		v.SetInt(n)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n := rapid.Uint64Range(0, math.MaxUint64>>(64-v.Type().Bits())).Draw(t, "u")
		if full && n == 0 {
			n = 1
		}
		v.SetUint(n)
	default:
		t.Fatalf("cannot fill a %s", v.Type())
	}
}

// roundTrip checks that decoding what was encoded restores everything but the columns, which blank removes.
func roundTrip[T any](t *testing.T, enc func([]byte, *T) []byte, dec func([]byte, *T) error, blank func(*T)) {
	t.Helper()
	rapid.Check(t, func(t *rapid.T) {
		var want, got T
		fill(t, reflect.ValueOf(&want).Elem(), rapid.Bool().Draw(t, "full"))
		prefix := []byte("prefix")
		b := enc(prefix, &want)
		if !bytes.HasPrefix(b, prefix) {
			t.Fatalf("the record does not follow what was there")
		}
		b = b[len(prefix):]
		if err := dec(b, &got); err != nil {
			t.Fatal(err)
		}
		clear(b) // the value may not keep the buffer
		blank(&want)
		if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("(-want +got)\n%s", d)
		}
	})
	var zero T
	if b := enc(nil, &zero); len(b) > 2 {
		t.Errorf("a zero %T takes %d bytes", zero, len(b))
	}
}

func TestMessageRecord(t *testing.T) {
	roundTrip(t, store.AppendMessage, store.DecodeMessage, func(m *posthaste.Message) {
		m.ID, m.Tenant, m.Body, m.ClaimedAtOnce = "", 0, nil, false
	})
}

func TestTicketRecord(t *testing.T) {
	roundTrip(t, store.AppendTicket, store.DecodeTicket, func(m *store.Ticket) {
		m.ID, m.Tenant, m.Stored = "", 0, store.Location{}
	})
}

func TestAttemptRecord(t *testing.T) {
	roundTrip(t, store.AppendAttempt, store.DecodeAttempt, func(a *posthaste.Attempt) {
		a.Tenant, a.Message, a.Number, a.StartedAt, a.EndedAt, a.AtOnce = 0, "", 0, time.Time{}, time.Time{}, false
	})
}

func TestDeadLetterRecord(t *testing.T) {
	roundTrip(t, store.AppendDeadLetter, store.DecodeDeadLetter, func(d *posthaste.DeadLetter) {
		d.ID, d.Tenant, d.Message = "", 0, ""
	})
}

func TestGateRecord(t *testing.T) {
	roundTrip(t, store.AppendGate, store.DecodeGate, func(g *store.Gate) { g.GateRef = store.GateRef{} })
}

func TestTickRecord(t *testing.T) {
	roundTrip(t, store.AppendTick, store.DecodeTick, func(k *store.Tick) { k.TickRef, k.Next = store.TickRef{}, time.Time{} })
}

// Every member of the closed sets has its number, so it takes two bytes.
func TestClosedSetsAreNumbered(t *testing.T) {
	for _, o := range []posthaste.Outcome{
		posthaste.OutcomeDelivered, posthaste.OutcomeStatus, posthaste.OutcomeNonRetryable, posthaste.OutcomeTimeout,
		posthaste.OutcomeDNS, posthaste.OutcomeConnect, posthaste.OutcomeTLS, posthaste.OutcomeRefused,
		posthaste.OutcomeProtocol, posthaste.OutcomeReset,
	} {
		a := posthaste.Attempt{Outcome: o}
		b := store.AppendAttempt(nil, &a)
		var got posthaste.Attempt
		if err := store.DecodeAttempt(b, &got); err != nil || got.Outcome != o || len(b) != 2 {
			t.Errorf("outcome %q: %d bytes, got %q, %v", o, len(b), got.Outcome, err)
		}
	}
	for _, s := range []posthaste.LogState{
		posthaste.StateCreated, posthaste.StateActive, posthaste.StateDelivered, posthaste.StateError,
		posthaste.StateRetry, posthaste.StateFailed, posthaste.StateCancelRequested, posthaste.StateCanceled,
	} {
		a := posthaste.Attempt{State: s}
		b := store.AppendAttempt(nil, &a)
		var got posthaste.Attempt
		if err := store.DecodeAttempt(b, &got); err != nil || got.State != s || len(b) != 2 {
			t.Errorf("state %q: %d bytes, got %q, %v", s, len(b), got.State, err)
		}
	}
}

// A newer program may have written fields that this one does not know.
func TestUnknownFieldsAreSkipped(t *testing.T) {
	b := []byte{60 << 1, 7} // a number
	b = append(b, store.AppendTicket(nil, &store.Ticket{Host: "a", Fence: 3})...)
	b = append(b, 0xf1, 0x04, 3, 'x', 'y', 'z') // bytes, with a tag of two bytes
	b = append(b, store.AppendTicket(nil, &store.Ticket{Gen: 9})...)
	var got store.Ticket
	if err := store.DecodeTicket(b, &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(store.Ticket{Host: "a", Fence: 3, Gen: 9}, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

// FuzzRecords feeds damaged records: they may be refused, they may not panic, and what is accepted is stable.
func FuzzRecords(f *testing.F) {
	f.Add(store.AppendMessage(nil, &posthaste.Message{
		URL: "https://example.com", Header: posthaste.Header{"A": {"b", "c"}}, CreatedAt: time.UnixMicro(5),
		Callback: &posthaste.Callback{URL: "u", Retries: new(3), Flow: []posthaste.FlowControl{{Key: "k", Rate: 1}}},
	}))
	f.Add(store.AppendTicket(nil, &store.Ticket{Host: "h", Path: []store.GateRef{{Kind: store.KindFlow, Name: "n"}}}))
	f.Add(store.AppendDeadLetter(nil, &posthaste.DeadLetter{Last: posthaste.Attempt{Status: 500, Body: []byte("no")}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		stable(t, b, store.AppendMessage, store.DecodeMessage)
		stable(t, b, store.AppendTicket, store.DecodeTicket)
		stable(t, b, store.AppendAttempt, store.DecodeAttempt)
		stable(t, b, store.AppendDeadLetter, store.DecodeDeadLetter)
		stable(t, b, store.AppendGate, store.DecodeGate)
		stable(t, b, store.AppendTick, store.DecodeTick)
	})
}

func stable[T any](t *testing.T, b []byte, enc func([]byte, *T) []byte, dec func([]byte, *T) error) {
	var one, two T
	if dec(b, &one) != nil {
		return
	}
	if err := dec(enc(nil, &one), &two); err != nil {
		t.Fatalf("%T: %v", one, err)
	}
	if d := cmp.Diff(one, two, cmpopts.EquateEmpty()); d != "" {
		t.Fatalf("%T (-first +second)\n%s", one, d)
	}
}

func BenchmarkTicketRecord(b *testing.B) {
	want := store.Ticket{
		Host: "example.com", Phase: posthaste.PhaseClaimed, Node: store.NodeEpoch{Node: "node-1", Epoch: 7}, Fence: 1,
		StartedAt: time.Now().Truncate(time.Microsecond), AtOnce: true,
	}
	buf := store.AppendTicket(nil, &want)
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			buf = store.AppendTicket(buf[:0], &want)
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var got store.Ticket
			if err := store.DecodeTicket(buf, &got); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkMessageRecord(b *testing.B) {
	want := posthaste.Message{
		URL: "https://example.com/hook", Method: "POST", MaxRetries: 3, Timeout: 30 * time.Second,
		Header:    posthaste.Header{"Content-Type": {"application/json"}, "X-Request": {"1"}},
		CreatedAt: time.Now().Truncate(time.Microsecond), CallerIP: "192.0.2.1",
	}
	buf := store.AppendMessage(nil, &want)
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			buf = store.AppendMessage(buf[:0], &want)
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var got posthaste.Message
			if err := store.DecodeMessage(buf, &got); err != nil {
				b.Fatal(err)
			}
		}
	})
}
