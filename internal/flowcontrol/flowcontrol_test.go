package flowcontrol_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/flowcontrol"
)

var t0 = time.Unix(1_700_000_000, 0)

// Whatever the arrivals, no window holds more than Rate starts and never more than Parallelism run; and a state with room
// lets a start through.
func TestLimitsHold(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		s := flowcontrol.State{Parallelism: r.IntN(4), Rate: r.IntN(4), Period: time.Duration(1+r.IntN(5)) * time.Second}
		now, running := t0, 0
		starts := map[time.Time]int{}
		for range 200 {
			now = now.Add(time.Duration(r.IntN(900)) * time.Millisecond)
			if running > 0 && r.IntN(2) == 0 {
				s.Give()
				running--
			}
			ok, until := s.Room(now)
			if !ok {
				if !until.IsZero() {
					if !until.After(now) {
						t.Fatalf("seed %d: shut until %v, which has come at %v", seed, until, now)
					}
					if again, _ := s.Room(until); !again {
						t.Fatalf("seed %d: still shut at the window's end", seed)
					}
				}
				continue
			}
			s.Take(now)
			running++
			starts[s.WindowStart]++
			if s.Parallelism > 0 && running > s.Parallelism {
				t.Fatalf("seed %d: %d run, limit %d", seed, running, s.Parallelism)
			}
			if s.Rate > 0 && starts[s.WindowStart] > s.Rate {
				t.Fatalf("seed %d: %d starts in a window, limit %d", seed, starts[s.WindowStart], s.Rate)
			}
		}
	}
}

func TestReturn(t *testing.T) {
	s := flowcontrol.State{Rate: 1, Period: time.Second}
	s.Take(t0)
	s.Give()
	s.Return(t0)
	if ok, _ := s.Room(t0); !ok {
		t.Error("a returned unit cannot be used again")
	}
	s.Take(t0)
	s.Give()
	s.Take(t0.Add(time.Second))
	s.Return(t0)
	if ok, _ := s.Room(t0.Add(time.Second)); ok {
		t.Error("a unit of an earlier window came back in a later one")
	}
}

func TestConfigureKeepsPins(t *testing.T) {
	s := flowcontrol.State{Parallelism: 3, PinnedParallelism: true, Rate: 9, Period: time.Minute}
	s.Configure(posthaste.FlowControl{Parallelism: 7, Rate: 2, Period: time.Second})
	if s.Parallelism != 3 || s.Rate != 2 || s.Period != time.Second {
		t.Errorf("got %+v", s)
	}
	s.PinnedRate = true
	s.Configure(posthaste.FlowControl{})
	if s.Parallelism != 3 || s.Rate != 2 || s.Period != time.Second {
		t.Errorf("got %+v", s)
	}
}
