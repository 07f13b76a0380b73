package storetest

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
)

// traced is an operation that keeps what it saw and what it changed, and when it decided.
type traced struct {
	store.Op
	clock *atomic.Int64 // counts decisions

	// Of the last run of Decide.
	at      int64 // among all decisions
	seen    store.View
	changed store.Changes
	err     error

	result error // of Do
}

// Decide implements [store.Op].
func (t *traced) Decide(v *store.View, c *store.Changes) error {
	t.at = t.clock.Add(1)
	t.seen = store.View{
		Now: v.Now, Versions: slices.Clone(v.Versions), Config: clones(v.Config), Quota: slices.Clone(v.Quota), Tick: clone(v.Tick),
		Dedup: clones(v.Dedup), Gates: clones(v.Gates), Slots: clones(v.Slots), Dead: clones(v.Dead), Tickets: bare(clones(v.Tickets)...),
		Ripe: bare(clones(v.Ripe)...),
	}
	for _, h := range v.Heads {
		t.seen.Heads = append(t.seen.Heads, bare(clones(h)...))
	}
	if t.err = t.Op.Decide(v, c); t.err != nil {
		t.changed = store.Changes{}
		return t.err
	}
	t.changed = store.Changes{
		Messages: clones(c.Messages), Put: bare(clones(c.Put)...), Drop: bare(clones(c.Drop)...), Gates: clones(c.Gates), Slots: clones(c.Slots),
		Dedup: clones(c.Dedup), Dead: clones(c.Dead), DeadGone: slices.Clone(c.DeadGone), Attempts: clones(c.Attempts),
		Marks: slices.Clone(c.Marks), Restarted: bare(clones(c.Restarted)...), Tick: clone(c.Tick), TickGone: clone(c.TickGone),
		Quota: slices.Clone(c.Quota), Config: clones(c.Config), ConfigGone: slices.Clone(c.ConfigGone), Raise: slices.Clone(c.Raise),
	}
	return nil
}

// Size implements [store.Sized].
func (t *traced) Size() int {
	if s, ok := t.Op.(store.Sized); ok {
		return s.Size()
	}
	return 0
}

func clones[T any](list []*T) []*T {
	if list == nil {
		return nil
	}
	out := make([]*T, len(list))
	for i, p := range list {
		out[i] = clone(p)
	}
	return out
}

// outcome returns the part of a result that tells what started; nil for operations that start nothing.
func outcome(op store.Op) (*ledger.Outcome, ledger.Node) {
	switch op := op.(type) {
	case *ledger.Accept:
		return &op.Outcome, op.Node
	case *ledger.Claim:
		return &op.Outcome, op.Node
	case *ledger.Admit:
		return &op.Outcome, op.Node
	case *ledger.Settle:
		return &op.Outcome, op.Node
	case *ledger.Cancel:
		return &op.Outcome, op.Node
	case *ledger.EditGate:
		return &op.Outcome, op.Node
	case *edited:
		return &op.Outcome, op.Node
	}
	return nil, ledger.Node{}
}

// rows compares what was read with what was written: an engine may turn empty lists into none.
var rows = cmp.Options{
	cmpopts.EquateEmpty(),
}

// bare removes from tickets where an engine keeps them, which is its own affair.
func bare(tickets ...*store.Ticket) []*store.Ticket {
	for _, t := range tickets {
		if t != nil {
			t.Stored = store.Location{}
		}
	}
	return tickets
}

// diff returns how got differs from want, empty if it does not.
func diff(got, want any) string {
	// This is quicker than what follows.
	if reflect.DeepEqual(got, want) || reflect.ValueOf(got).Kind() == reflect.Slice && reflect.ValueOf(got).Len()+reflect.ValueOf(want).Len() == 0 {
		return ""
	}
	if d := cmp.Diff(want, got, rows); d != "" {
		return "(-want +got)\n" + d
	}
	return ""
}

// names gives messages short names, so that a history can be read.
type names map[posthaste.MessageID]string

func (n names) of(id posthaste.MessageID) string {
	if s, ok := n[id]; ok {
		return s
	}
	if id == "" {
		return "none"
	}
	return string(id)
}

func (n names) add(id posthaste.MessageID) {
	if _, ok := n[id]; !ok {
		n[id] = fmt.Sprintf("m%d", len(n)+1)
	}
}

func gateName(r store.GateRef) string {
	kind := map[store.Kind]string{store.KindQueue: "queue", store.KindFlow: "flow", store.KindTenant: "tenant", store.KindHost: "host"}[r.Kind]
	return fmt.Sprintf("%s:%s/%d", kind, r.Name, r.Tenant)
}

// ticket describes a ticket in a few words.
func (n names) ticket(t *store.Ticket, start time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %v", n.of(t.ID), t.Phase)
	if t.Phase == posthaste.PhaseWaiting {
		fmt.Fprintf(&b, "@%s(%d,%d)", gateName(t.ParkedAt), t.Rank, t.Place-micro(start, t))
	}
	if !t.Due.IsZero() {
		fmt.Fprintf(&b, " due %v", t.Due.Sub(start))
	}
	if t.Phase == posthaste.PhaseClaimed {
		fmt.Fprintf(&b, " by %s/%d", t.Node.Node, t.Node.Epoch)
	}
	fmt.Fprintf(&b, " a%d f%d", t.Attempt, t.Fence)
	if !t.Slot.Zero() {
		fmt.Fprintf(&b, " slot of %s", n.of(t.Slot.Source))
	}
	if t.Cancel {
		b.WriteString(" canceled")
	}
	return b.String()
}

// micro returns what to take from a place that is a time, so that it counts from the start of a history.
func micro(start time.Time, t *store.Ticket) int64 {
	if t.ParkedAt.Kind == store.KindQueue && t.Rank > 0 {
		return 0
	}
	return start.UnixMicro()
}

// describe tells what a traced operation did.
func (n names) describe(t *traced, start time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v %s", t.seen.Now.Sub(start), kindOf(t.Op))
	out, node := outcome(t.Op)
	if out != nil {
		fmt.Fprintf(&b, " %s/%d room %d", node.Node, node.Epoch, node.Room)
	}
	switch op := t.Op.(type) {
	case *ledger.Accept:
		for _, d := range op.Drafts {
			n.add(d.ID)
			var path []string
			for _, r := range d.Path {
				path = append(path, gateName(r))
			}
			fmt.Fprintf(&b, " [%s %v delay %v prio %d", n.of(d.ID), path, d.Delay, d.Message.Priority)
			for _, fc := range d.Message.Flow {
				fmt.Fprintf(&b, " %s(p%d r%d/%v)", fc.Key, fc.Parallelism, fc.Rate, fc.Period)
			}
			fmt.Fprintf(&b, " dup %t]", d.Duplicate)
		}
	case *ledger.Admit:
		fmt.Fprintf(&b, " %s", gateName(op.Gate))
		for _, h := range op.Heads {
			fmt.Fprintf(&b, " +%s", n.of(h.ID))
		}
	case *edited:
		fmt.Fprintf(&b, " %s", gateName(op.Gate))
	case *ledger.DeleteQueue:
		fmt.Fprintf(&b, " %s existed %t", gateName(op.Queue), op.Existed)
	case *ledger.Settle:
		fmt.Fprintf(&b, " %s f%d %s lost %t", n.of(op.Ticket.ID), op.Ticket.Fence, op.Result.Outcome, op.Lost)
	case *ledger.Release:
		fmt.Fprintf(&b, " %s f%d unsent %t lost %t", n.of(op.Ticket.ID), op.Ticket.Fence, op.Unsent, op.Lost)
	case *ledger.Recover:
		fmt.Fprintf(&b, " from %s/%d %d known", op.From.Node, op.From.Epoch, len(op.Known))
	case *ledger.Cancel:
		fmt.Fprintf(&b, " only gen %t", op.OnlyGen)
		for _, k := range op.Known {
			fmt.Fprintf(&b, " %s", n.of(k.ID))
		}
	case *ledger.Claim:
		for _, k := range op.Known {
			fmt.Fprintf(&b, " +%s", n.of(k.ID))
		}
	}
	if t.result != nil {
		fmt.Fprintf(&b, " error: %v", t.result)
		return b.String()
	}
	for _, m := range t.changed.Messages {
		n.add(m.ID)
	}
	for _, p := range t.changed.Put {
		b.WriteString("\n      " + n.ticket(p, start))
	}
	for _, p := range t.changed.Drop {
		b.WriteString("\n      " + n.of(p.ID) + " resolved")
	}
	for _, a := range t.changed.Attempts {
		fmt.Fprintf(&b, "\n      attempt %d of %s: %s", a.Number, n.of(a.Message), a.State)
	}
	for _, g := range t.changed.Gates {
		fmt.Fprintf(&b, "\n      %s gen %d paused %t use %d/%d rate %d/%d/%v from %v waiting %d live %d",
			gateName(g.GateRef), g.Gen, g.Paused, g.InUse, g.Parallelism, g.WindowUsed, g.Rate, g.Period,
			g.WindowStart.Sub(start).Round(time.Microsecond), g.Waiting, g.Live)
	}
	for _, s := range t.changed.Slots {
		fmt.Fprintf(&b, "\n      slot of %s in %s/%d: %d", n.of(s.Source), gateName(s.Queue), s.Gen, s.Open)
	}
	return b.String()
}

func kindOf(op store.Op) string {
	name := fmt.Sprintf("%T", op)
	return name[strings.LastIndexByte(name, '.')+1:]
}
