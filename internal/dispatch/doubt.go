package dispatch

import (
	"context"
	"sync"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/ledger"
)

// doubts finds claims of this node that nobody attempts. The outcome of an operation may be unknown, for instance when the connection
// to a database breaks during a commit: then it may have claimed messages that the node was never told of. They would wait until
// the node's life ends. So after a failure the node compares its claims in the store with its attempts.
type doubts struct {
	mu       sync.Mutex
	running  map[posthaste.MessageID]struct{} // attempts that run
	rounds   int                              // that are still to be made
	suspects map[posthaste.MessageID]int64    // claims without an attempt in the last round, with their fences
}

// doubtRounds is how many rounds follow a failure: what it left may be seen some time later only, and a claim is given back when
// two rounds have found it without an attempt.
const doubtRounds = 3

func (d *doubts) begin(id posthaste.MessageID) {
	d.mu.Lock()
	d.running[id] = struct{}{}
	d.mu.Unlock()
}

func (d *doubts) end(id posthaste.MessageID) {
	d.mu.Lock()
	delete(d.running, id)
	d.mu.Unlock()
}

// raise has rounds made, because something failed that may have claimed.
func (d *doubts) raise() {
	d.mu.Lock()
	d.rounds = doubtRounds
	d.mu.Unlock()
}

// due reports whether a round is to be made, and counts it.
func (d *doubts) due() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.rounds == 0 {
		return false
	}
	d.rounds--
	return true
}

// settleDoubts makes a round if one is due.
func (d *Dispatcher) settleDoubts(ctx context.Context, l *life) {
	if !d.doubts.due() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Node.TTL/3)
	defer cancel()
	suspects := map[posthaste.MessageID]int64{}
	for after := posthaste.MessageID(""); ; {
		claims, err := d.engine.Claims(ctx, l.node, after, ledger.MaxStep)
		if err != nil {
			d.doubts.raise()
			d.log.Warn("own claims not read", "err", err)
			return
		}
		for _, t := range claims {
			d.doubts.mu.Lock()
			_, runs := d.doubts.running[t.ID]
			fence, known := d.doubts.suspects[t.ID]
			d.doubts.mu.Unlock()
			switch {
			case runs:
			case known && fence == t.Fence:
				d.log.Warn("gave back a claim that an operation with an unknown outcome had left", "message_id", t.ID)
				d.release(t, true)
			default:
				suspects[t.ID] = t.Fence
			}
		}
		if len(claims) < ledger.MaxStep {
			break
		}
		after = claims[len(claims)-1].ID
	}
	d.doubts.mu.Lock()
	d.doubts.suspects = suspects
	if len(suspects) > 0 {
		d.doubts.rounds = max(d.doubts.rounds, 1)
	}
	d.doubts.mu.Unlock()
}
