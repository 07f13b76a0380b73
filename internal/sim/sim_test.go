package sim

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// firstSeed begins the seeds of a run, so that every run of the tests does the same.
const firstSeed = 1

func TestHistories(t *testing.T) {
	if text := os.Getenv("POSTHASTE_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		p := newPlan(seed)
		keep := keptOps(t)
		h := run(t, p, keep)
		t.Log(h.report(keep))
		if h.failed() {
			t.Fail()
		}
		return
	}
	n := 40 // enough to see that it works; CI and make sim run more
	if text := os.Getenv("POSTHASTE_HISTORIES"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	first := uint64(firstSeed)
	if text := os.Getenv("POSTHASTE_FIRST_SEED"); text != "" {
		var err error
		if first, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	search(t, first, n, 3, func(t *testing.T, h *history) {
		h, keep := shrink(t, h)
		t.Errorf("%s\nRun it again:\n  POSTHASTE_SEED=%d POSTHASTE_OPS=%s go test -run TestHistories ./internal/sim", h.report(keep), h.plan.seed, opList(h.plan, keep))
	})
}

// search runs n histories on all processors, until so many have failed, and hands those to found. It returns how many ran.
func search(t *testing.T, first uint64, n, most int, found func(*testing.T, *history)) int {
	var next, failures atomic.Int64
	begin := time.Now()
	t.Run("histories", func(t *testing.T) {
		for w := range runtime.GOMAXPROCS(0) {
			t.Run(strconv.Itoa(w), func(t *testing.T) {
				t.Parallel()
				for {
					i := next.Add(1) - 1
					if i >= int64(n) || failures.Load() >= int64(most) {
						return
					}
					if h := run(t, newPlan(first+uint64(i)), nil); h.failed() {
						failures.Add(1)
						found(t, h)
					}
				}
			})
		}
	})
	ran := int(min(next.Load(), int64(n)))
	t.Logf("%d histories in %v", ran, time.Since(begin).Round(time.Second))
	return ran
}

// keptOps reads which ops of a history are played; nil for all.
func keptOps(t *testing.T) map[int]bool {
	text := os.Getenv("POSTHASTE_OPS")
	if text == "" || text == "all" {
		return nil
	}
	keep := map[int]bool{}
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(part)
		if err != nil {
			t.Fatal(err)
		}
		keep[n] = true
	}
	return keep
}

func opList(p *plan, keep map[int]bool) string {
	if keep == nil {
		return "all"
	}
	var parts []string
	for _, o := range p.ops {
		if keep[o.n] {
			parts = append(parts, strconv.Itoa(o.n))
		}
	}
	return strings.Join(parts, ",")
}

// shrink looks for fewer ops that fail, too. A history without all of its ops is another one, and which goroutine runs first is
// not in our hands, so what it finds may be about another fault, or nothing.
func shrink(t *testing.T, h *history) (*history, map[int]bool) {
	begin := time.Now()
	var kept []int
	for _, o := range h.plan.ops {
		kept = append(kept, o.n)
	}
	set := func(list []int) map[int]bool {
		keep := map[int]bool{}
		for _, n := range list {
			keep[n] = true
		}
		return keep
	}
	best := h
	var result map[int]bool
	limit := 20 * time.Second
	if os.Getenv("POSTHASTE_SHRINK") == "0" {
		limit = 0
	}
	for size := len(kept) / 2; size > 0 && time.Since(begin) < limit; {
		removed := false
		for from := 0; from < len(kept) && time.Since(begin) < limit; {
			rest := append(append([]int(nil), kept[:from]...), kept[min(len(kept), from+size):]...)
			if again := run(t, newPlan(h.plan.seed), set(rest)); again.failed() {
				kept, best, result, removed = rest, again, set(rest), true
			} else {
				from += size
			}
		}
		if !removed || size > 1 {
			size /= 2
		}
	}
	return best, result
}

// report tells what is wrong with a history, and what it did.
func (h *history) report(keep map[int]bool) string {
	var b strings.Builder
	p := h.plan
	fmt.Fprintf(&b, "seed %d, profile %s: poll=%v maxInFlight=%d maxPerHost=%d breakHosts=%v tenantLimit=%d fireMissed=%v grace=%v mood=%+v keys=%v\n", p.seed,
		p.profile.name, p.poll, p.maxInFlight, p.maxPerHost, p.breakHosts, p.tenantLimit, p.fireMissed, p.grace, p.mood, p.keys)
	for _, o := range p.ops {
		if keep == nil || keep[o.n] {
			fmt.Fprintf(&b, "  %s\n", o)
		}
	}
	for _, t := range h.troubles {
		fmt.Fprintf(&b, "  trouble of node %d from %s to %s, down %v\n", t.node, clockTime(t.from.UnixMilli()), clockTime(t.to.UnixMilli()), t.down)
	}
	for i, text := range h.bad {
		if i == 5 {
			fmt.Fprintf(&b, "  … and %d more\n", len(h.bad)-i)
			break
		}
		fmt.Fprintf(&b, "* %s\n", text)
	}
	return b.String()
}
