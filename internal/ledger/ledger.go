// Package ledger holds the operations on the state of the server, once for every engine: [Accept], [Claim], [Admit],
// [Settle], [Release], [Recover], [Cancel], [Configure], [EditGate], [DeleteQueue] and [DeleteDead]. A retry of a dead letter
// and the tick of a schedule are Accepts.
//
// Each is a store.Op: it names what it needs, and its Decide is pure. The rules of package store's documentation are kept
// here and nowhere else.
package ledger

import (
	"crypto/rand"
	"encoding/binary"
	"slices"
	"sync/atomic"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/lifecycle"
	"github.com/posthaste/posthaste/internal/store"
)

// Nonces hands out what makes ids distinct. The zero value is not ready: use [NewNonces].
type Nonces struct {
	seed [5]byte
	n    atomic.Uint32
}

// NewNonces returns a source that shares no nonce with another one, except by a chance of one in 2^40 for each pair of
// sources, and for ids of the same microsecond.
func NewNonces() *Nonces {
	var s Nonces
	var n [4]byte
	rand.Read(s.seed[:]) // never fails
	rand.Read(n[:])      // never fails
	// The counter alone tells dead letters of one millisecond apart, so two nodes must not count alike.
	s.n.Store(binary.BigEndian.Uint32(n[:]) >> 1)
	return &s
}

// Next returns the next nonce.
func (s *Nonces) Next() posthaste.Nonce {
	var n posthaste.Nonce
	binary.BigEndian.PutUint32(n[:4], s.n.Add(1))
	copy(n[4:], s.seed[:])
	return n
}

// Node is the claiming side of an operation.
type Node struct {
	store.NodeEpoch
	// Room is how many attempts the node can start now. An operation claims no more.
	Room int
	// Hosts are the host gates that restrict this operation: those of destinations that are blocked, or at which messages
	// wait, or to which the node has as many connections as it may. The value is how many attempts it can start there now.
	// Hosts that are not in it are free. It is not changed by operations.
	Hosts map[store.GateRef]int
	// Shards is the store's number of shards, by which host gates are found.
	Shards int
}

// restricted returns the host gate of a tenant's deliveries to a host if the node knows of a restriction there.
func (n *Node) restricted(tenant posthaste.TenantID, host string) (store.GateRef, bool) {
	if len(n.Hosts) == 0 || host == "" {
		return store.GateRef{}, false
	}
	ref := HostGate(n.Shards, tenant, host)
	_, ok := n.Hosts[ref]
	return ref, ok
}

// restrictions appends the host gates that restrict the tickets, and those that they are parked at.
func (n *Node) restrictions(gates []store.GateRef, tickets []*store.Ticket) []store.GateRef {
	for _, t := range tickets {
		if ref, ok := n.restricted(t.Tenant, t.Host); ok {
			gates = append(gates, ref)
		}
		if t.ParkedAt.Kind == store.KindHost {
			gates = append(gates, t.ParkedAt)
		}
	}
	return gates
}

// HostGate returns the gate of a tenant's deliveries to a host. Its row exists only while deliveries there are blocked or wait.
func HostGate(shards int, tenant posthaste.TenantID, host string) store.GateRef {
	return store.NewGateRef(shards, tenant, store.KindHost, host)
}

// Start is an attempt that an operation claimed for its node. It begins when the operation is committed.
type Start struct {
	Ticket  *store.Ticket
	Message *posthaste.Message // nil if the operation did not have it at hand
}

// Outcome is the part of a result that all operations at gates share.
type Outcome struct {
	Started []Start
	// Next lists gates at which more can start than this operation could try: each wants an [Admit].
	Next []store.GateRef
}

// Result is what one HTTP attempt came to.
type Result = lifecycle.Result

// headsPerSettle bounds how many waiting tickets an operation tries that frees room at a gate in passing. One of them stays
// untried, to carry the mark that leads on.
const headsPerSettle = 6

// gatesOf returns the sorted union of paths and further gates.
func gatesOf(buf []store.GateRef, paths ...[]store.GateRef) []store.GateRef {
	for _, p := range paths {
		buf = append(buf, p...)
	}
	if len(buf) < 2 {
		return buf
	}
	slices.SortFunc(buf, store.GateRef.Compare)
	return slices.Compact(buf)
}

// PathOf returns the gates a message of a tenant names: its queue first, then its flow keys and, if its tenant is limited,
// the tenant's gate, sorted.
func PathOf(m *posthaste.Message, shards int, limited bool) []store.GateRef {
	if m.Queue == "" && len(m.Flow) == 0 && !limited {
		return nil
	}
	path := make([]store.GateRef, 0, 2+len(m.Flow))
	if m.Queue != "" {
		path = append(path, store.NewGateRef(shards, m.Tenant, store.KindQueue, m.Queue))
	}
	flows := len(path)
	for _, f := range m.Flow {
		path = append(path, store.NewGateRef(shards, m.Tenant, store.KindFlow, f.Key))
	}
	if limited {
		path = append(path, store.NewGateRef(shards, m.Tenant, store.KindTenant, ""))
	}
	slices.SortFunc(path[flows:], store.GateRef.Compare)
	return path
}

// HomeShard returns the shard a message's ticket lives in: that of its queue, else of its first flow key, else one derived
// from the nonce.
func HomeShard(path []store.GateRef, n posthaste.Nonce, shards int) int16 {
	if len(path) > 0 {
		return path[0].Shard
	}
	if shards <= 1 {
		return 0
	}
	return int16(binary.BigEndian.Uint32(n[:4]) % uint32(shards))
}
