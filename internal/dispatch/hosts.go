package dispatch

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
)

// A host is blocked after so many connection errors and timeouts in a row, of so many messages, over so long.
const (
	breakAfter    = 20
	breakMessages = 5
	breakOver     = 30 * time.Second
)

// FirstProbe is how long a host that was just blocked is left alone.
const FirstProbe = 5 * time.Second

// hosts is what the node knows of destination hosts: how many attempts it makes there, and how they fail. It restricts what
// operations may start, through host gates, so that one dead destination neither burns the retries of messages that were not
// even tried nor takes all the room.
type hosts struct {
	shards int
	most   int  // attempts of a tenant to one host at a time; 0: unlimited
	breaks bool // whether failing hosts are blocked

	mu    sync.Mutex
	known map[store.GateRef]*host
	// limited holds the gates of hosts that restrict operations now. It is replaced, never changed, so that a snapshot of it can
	// be handed out; nil if there are none.
	limited map[store.GateRef]int
}

// host is a destination host of one tenant.
type host struct {
	running int
	blocked bool
	waiting bool // messages may be parked at the gate

	failures int                   // in a row
	since    time.Time             // of the first of them
	messages []posthaste.MessageID // different ones among them, at most breakMessages
	last     string                // error of the last one
}

func newHosts(shards, most int, breaks bool) *hosts {
	return &hosts{shards: shards, most: most, breaks: breaks, known: map[store.GateRef]*host{}}
}

// snapshot returns what restricts operations now.
func (h *hosts) snapshot() map[store.GateRef]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.limited
}

// limit brings the snapshot up to date after a change of one host. The caller holds mu.
func (h *hosts) limit(ref store.GateRef, s *host) {
	room := -1
	if s.blocked || s.waiting || h.most > 0 && s.running >= h.most {
		room = 1 << 30
		if h.most > 0 {
			room = max(0, h.most-s.running)
		}
	}
	old, was := h.limited[ref]
	if room < 0 && !was || was && old == room {
		return
	}
	next := make(map[store.GateRef]int, len(h.limited)+1)
	maps.Copy(next, h.limited)
	if room < 0 {
		delete(next, ref)
	} else {
		next[ref] = room
	}
	if len(next) == 0 {
		next = nil
	}
	h.limited = next
}

// begin counts an attempt that starts.
func (h *hosts) begin(t *store.Ticket) {
	ref := ledger.HostGate(h.shards, t.Tenant, t.Host)
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.known[ref]
	if s == nil {
		s = &host{}
		h.known[ref] = s
	}
	s.running++
	h.limit(ref, s)
}

// verdict is what the end of an attempt means for its host.
type verdict struct {
	gate    store.GateRef
	block   bool // the host is to be blocked
	unblock bool // the host answers again
	admit   bool // messages wait that there is room for now
	reason  string
}

// end counts an attempt that ended. outcome is empty if the attempt did not count.
func (h *hosts) end(t *store.Ticket, outcome posthaste.Outcome, text string, now time.Time) verdict {
	ref := ledger.HostGate(h.shards, t.Tenant, t.Host)
	h.mu.Lock()
	defer h.mu.Unlock()
	v := verdict{gate: ref}
	s := h.known[ref]
	if s == nil {
		return v
	}
	s.running--
	switch outcome {
	case "", posthaste.OutcomeRefused:
	case posthaste.OutcomeTimeout, posthaste.OutcomeDNS, posthaste.OutcomeConnect, posthaste.OutcomeTLS, posthaste.OutcomeReset,
		posthaste.OutcomeProtocol:
		if s.failures == 0 {
			s.since, s.messages = now, s.messages[:0]
		}
		s.failures++
		s.last = text
		if len(s.messages) < breakMessages && !slices.Contains(s.messages, t.ID) {
			s.messages = append(s.messages, t.ID)
		}
		if h.breaks && !s.blocked && s.failures >= breakAfter && len(s.messages) >= breakMessages && now.Sub(s.since) >= breakOver {
			s.blocked, s.waiting = true, true
			v.block, v.reason = true, text
		}
	case posthaste.OutcomeDelivered, posthaste.OutcomeStatus, posthaste.OutcomeNonRetryable:
		// Any answer shows that the host lives.
		s.failures, s.last = 0, ""
		if s.blocked {
			s.blocked = false
			v.unblock = true
		}
	}
	v.admit = s.waiting && !s.blocked
	if s.running == 0 && s.failures == 0 && !s.blocked && !s.waiting {
		delete(h.known, ref)
	}
	h.limit(ref, s)
	return v
}

// learn takes over what the store says of a host gate: another node may have blocked it, or messages may wait.
func (h *hosts) learn(ref store.GateRef, blocked, waiting bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.known[ref]
	if s == nil {
		if !blocked && !waiting {
			return
		}
		s = &host{}
		h.known[ref] = s
	}
	if s.blocked && !blocked {
		s.failures = 0
	}
	s.blocked, s.waiting = blocked, waiting || blocked
	if s.running == 0 && s.failures == 0 && !s.blocked && !s.waiting {
		delete(h.known, ref)
	}
	h.limit(ref, s)
}

// blocked reports whether the node knows the host to be blocked.
func (h *hosts) blocked(ref store.GateRef) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.known[ref]
	return s != nil && s.blocked
}

// full notes that an operation was restricted by hosts, so messages may be parked at their gates.
func (h *hosts) full(node ledger.Node) {
	if len(node.Hosts) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for ref, room := range node.Hosts {
		if s := h.known[ref]; s != nil && room <= 0 && !s.waiting {
			s.waiting = true
			h.limit(ref, s)
		}
	}
}

// Hosts lists the destination hosts of a tenant that are blocked, failing, waited for, or being delivered to.
func (d *Dispatcher) Hosts(ctx context.Context, tenant posthaste.TenantID) ([]posthaste.Host, error) {
	byName := map[string]*posthaste.Host{}
	d.hosts.mu.Lock()
	for ref, s := range d.hosts.known {
		if ref.Tenant == tenant {
			byName[ref.Name] = &posthaste.Host{Name: ref.Name, Blocked: s.blocked, InFlight: s.running, Failures: s.failures, LastError: s.last}
		}
	}
	d.hosts.mu.Unlock()
	after := ""
	for {
		gates, err := d.engine.GateList(ctx, tenant, store.KindHost, after, 500)
		if err != nil {
			return nil, err
		}
		for _, g := range gates {
			after = g.Name
			if !g.Paused && g.Waiting == 0 {
				continue
			}
			h := byName[g.Name]
			if h == nil {
				h = &posthaste.Host{Name: g.Name}
				byName[g.Name] = h
			}
			h.Blocked, h.Waiting = g.Paused, g.Waiting
			if g.Paused {
				h.NextProbe = g.WindowStart
			}
		}
		if len(gates) < 500 {
			break
		}
	}
	out := make([]posthaste.Host, 0, len(byName))
	for _, h := range byName {
		out = append(out, *h)
	}
	slices.SortFunc(out, func(a, b posthaste.Host) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Unblock lets a host be delivered to again, whatever is known of it. It reports whether there was anything to do.
func (d *Dispatcher) Unblock(ctx context.Context, tenant posthaste.TenantID, name string) (bool, error) {
	ref := ledger.HostGate(d.engine.Shards(), tenant, strings.ToLower(name))
	was := false
	err := d.editHost(ctx, ref, func(_ time.Time, g *store.Gate) error {
		was = g.Paused
		g.Paused, g.Period, g.WindowStart = false, 0, time.Time{}
		return nil
	})
	if err != nil {
		return false, err
	}
	d.hosts.learn(ref, false, true)
	d.try([]store.GateRef{ref})
	return was, nil
}

// editHost changes a host gate.
func (d *Dispatcher) editHost(ctx context.Context, ref store.GateRef, edit func(time.Time, *store.Gate) error) error {
	op := &ledger.EditGate{Gate: ref, Edit: edit}
	return d.engine.Do(ctx, int(ref.Shard), op)
}

// attemptEnded tells the hosts of an attempt, and acts on what that means.
func (d *Dispatcher) attemptEnded(t *store.Ticket, outcome posthaste.Outcome, text string) {
	v := d.hosts.end(t, outcome, text, d.clock.Now())
	ctx := context.Background()
	switch {
	case v.block:
		d.log.Warn("host blocked: it fails to answer; messages to it wait, and probes follow", "tenant", t.Tenant, "host", t.Host, "err", v.reason)
		err := d.editHost(ctx, v.gate, func(now time.Time, g *store.Gate) error {
			g.Paused, g.Period, g.WindowStart = true, FirstProbe, now.Add(FirstProbe)
			return nil
		})
		if err != nil {
			d.log.Warn("blocked host not recorded", "host", t.Host, "err", err)
		}
	case v.unblock:
		d.log.Info("host answers again", "tenant", t.Tenant, "host", t.Host)
		err := d.editHost(ctx, v.gate, func(_ time.Time, g *store.Gate) error {
			g.Paused, g.Period, g.WindowStart = false, 0, time.Time{}
			return nil
		})
		if err != nil {
			d.log.Warn("answering host not recorded", "host", t.Host, "err", err)
		}
		d.try([]store.GateRef{v.gate})
	case v.admit:
		d.try([]store.GateRef{v.gate})
	}
}

// watchHosts keeps the node's picture of host gates true to the store's: other nodes change them, too.
func (d *Dispatcher) watchHosts(ctx context.Context) {
	for {
		if err := d.learnHosts(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
			d.log.Warn("host gates not read", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(d.cfg.Poll):
		}
	}
}

// learnHosts reads the host gates that the node knows of and, now and then through the sweep of marks, those it does not.
func (d *Dispatcher) learnHosts(ctx context.Context) error {
	d.hosts.mu.Lock()
	var refs []store.GateRef
	for ref, s := range d.hosts.known {
		if s.blocked || s.waiting {
			refs = append(refs, ref)
		}
	}
	d.hosts.mu.Unlock()
	for _, ref := range refs {
		g, err := d.engine.Gate(ctx, ref)
		if err != nil {
			return err
		}
		d.hosts.learn(ref, g != nil && g.Paused, g != nil && g.Waiting > 0)
	}
	return nil
}
