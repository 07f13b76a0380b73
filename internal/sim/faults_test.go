//go:build fault

package sim

import (
	"sync/atomic"
	"testing"

	"github.com/posthaste/posthaste/internal/fault"
)

// TestFaultsAreFound plants faults in the server, one after another. Few histories must do to find each.
func TestFaultsAreFound(t *testing.T) {
	const enough = 200
	for name, f := range map[string]fault.Fault{
		"a slot is given back too early":        fault.EarlySlot,
		"a rate is counted in the wrong window": fault.WrongWindow,
		"a wait list skips one":                 fault.SkipWaiting,
		"a tick fires twice":                    fault.DoubleTick,
		"a cancel is lost":                      fault.LostCancel,
		"a fence is ignored":                    fault.NoFence,
	} {
		t.Run(name, func(t *testing.T) {
			fault.Plant(f)
			defer fault.Plant(fault.None)
			var found atomic.Bool
			n := search(t, firstSeed, enough, 1, func(t *testing.T, h *history) {
				found.Store(true)
				t.Logf("seed %d: %s", h.plan.seed, h.bad[0])
			})
			if !found.Load() {
				t.Errorf("%d histories do not find it", n)
			}
		})
	}
}
