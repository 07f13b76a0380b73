package store

import (
	"cmp"
	"context"
	"errors"
	"hash/fnv"
	"strings"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/flowcontrol"
)

// ErrStale is returned by Decide when what the submitter had read before is no longer so. The submitter reads and submits again.
var ErrStale = errors.New("store: the operation was decided on an outdated reading")

// Engine keeps the state of the server.
type Engine interface {
	// Do runs op in the next group commit of the lane and returns when that is durable. The error is this op's own. When
	// ctx ends first, Do returns its cause and the operation may still be carried out.
	Do(ctx context.Context, lane int, op Op) error

	Reader

	// Join registers a node and returns its lease. The epoch is larger than that of every earlier lease of that node.
	Join(ctx context.Context, node NodeInfo) (Lease, error)
	// Renew extends the lease. It fails with CodeConflict when the lease expired and was taken over.
	Renew(ctx context.Context, l Lease) (Lease, error)
	// Leave gives the lease back at a clean stop.
	Leave(ctx context.Context, l Lease) error
	// Expired lists leases that are over and may still own claims.
	Expired(ctx context.Context) ([]NodeEpoch, error)
	// Forget removes an expired lease that owns nothing any more.
	Forget(ctx context.Context, n NodeEpoch) error

	// NextDue tells, per shard, the earliest moments at which something is to be done. It takes no lock.
	NextDue(ctx context.Context) ([]ShardDue, error)
	// Hints delivers word of new work, coalesced. It may be nil; then NextDue is the only source.
	Hints() <-chan Hint

	// Trim carries out one step of retention and reports whether more remains to be done.
	Trim(ctx context.Context, p TrimParams) (more bool, err error)
	// Migrate brings the schema up to date. It refuses a schema newer than it knows.
	Migrate(ctx context.Context) error
	// Shards returns the number of home shards.
	Shards() int
	Close() error
}

// Op is one atomic operation. It keeps its result in its own fields, which are read only after Do returned nil.
type Op interface {
	// Want returns the keys of what Decide needs, known before anything is read under lock. It does not change between calls.
	Want() *Want
	// Decide is pure: it reads v and fills c. It may run several times, so it resets its results first. An error drops its
	// changes.
	Decide(v *View, c *Changes) error
}

// Sized is implemented by operations that carry much data. An engine gives large ones commits of their own.
type Sized interface {
	Size() int // bytes, roughly
}

// Kind says what a gate limits.
type Kind uint8

// The kinds of gates.
const (
	KindQueue  Kind = iota + 1 // InUse counts open slots
	KindFlow                   // InUse counts attempts in flight, as for the following
	KindTenant                 // all attempts of a tenant
	KindHost                   // all attempts to a destination host
)

// GateRef is the key of a gate.
type GateRef struct {
	Shard  int16
	Kind   Kind
	Tenant posthaste.TenantID
	Name   string
}

// Compare orders gates as they are locked.
func (r GateRef) Compare(o GateRef) int {
	return cmp.Or(cmp.Compare(r.Shard, o.Shard), cmp.Compare(r.Kind, o.Kind), cmp.Compare(r.Tenant, o.Tenant), strings.Compare(r.Name, o.Name))
}

// Zero reports whether r names no gate.
func (r GateRef) Zero() bool { return r.Kind == 0 }

// NewGateRef returns the key of a gate in a store of so many shards. A gate's shard is the hash of the rest of its key.
func NewGateRef(shards int, tenant posthaste.TenantID, kind Kind, name string) GateRef {
	r := GateRef{Kind: kind, Tenant: tenant, Name: name}
	if shards > 1 {
		h := fnv.New32a()
		h.Write([]byte{byte(kind), byte(tenant), byte(tenant >> 8), byte(tenant >> 16), byte(tenant >> 24)})
		h.Write([]byte(name))
		r.Shard = int16(h.Sum32() % uint32(shards))
	}
	return r
}

// Gate is anything that limits starts, and the unit of locking. A gate that is not stored is like a zero one.
type Gate struct {
	GateRef
	Gen int64 // raised when a queue is deleted
	flowcontrol.State

	Waiting int64 // tickets parked here
	Live    int64 // unresolved tickets of this Gen that name the gate
	NextSeq int64 // queues: the next place

	CreatedAt time.Time // queues: zero while the queue does not exist; others: when first named
	UpdatedAt time.Time // of the configuration
	TouchedAt time.Time // of anything
}

// SlotRef is the key of a queue slot: the message that took it.
type SlotRef struct {
	Source posthaste.MessageID
	Queue  GateRef
	Gen    int64
}

// Zero reports whether r names no slot.
func (r SlotRef) Zero() bool { return r.Source == "" }

// Slot is a place among a queue's open messages. It is given back when Open falls to 0.
type Slot struct {
	SlotRef
	Open int // 1 for the message, and its unfinished callbacks
}

// NodeEpoch names one life of a node.
type NodeEpoch struct {
	Node  string
	Epoch int64
}

// NodeInfo describes a node that joins.
type NodeInfo struct {
	Name    string
	Address string // where others may reach it; may be empty
	TTL     time.Duration
}

// Lease is a node's right to own claims.
type Lease struct {
	NodeEpoch
	Expires time.Time // real time
	TTL     time.Duration
}

// Ticket is the small mutable row of an unresolved message.
type Ticket struct {
	ID       posthaste.MessageID
	Tenant   posthaste.TenantID
	Host     string // of the destination, lower case, with the port if the URL has one
	Phase    posthaste.Phase
	Path     []GateRef // the gates it names: its queue first, then the others sorted
	Priority uint8
	// Due: of a Delayed or Ready one, when it is to start; of a Waiting one, when its gate is to be looked at, zero for not
	// before somebody gives room (see the package's rule 5).
	Due time.Time

	// Where a Waiting one stands: the gate, and its place in the order (Rank, Place, ID).
	ParkedAt GateRef
	Rank     uint8
	Place    int64

	Arrived   int64     // µs when it first came to its flow gates for this attempt; 0 before
	Attempt   int       // number of the running or next attempt
	Node      NodeEpoch // owner of a Claimed one
	Fence     int64     // raised by every claim and recovery
	StartedAt time.Time // of the running attempt
	Cancel    bool      // a cancel came while Claimed
	Slot      SlotRef   // the slot it holds, or that its source holds
	Gen       int64     // of its queue at acceptance
	AtOnce    bool      // the running attempt began with the acceptance

	// Stored is where the engine keeps the row now. Engines own it; PhaseNone: nowhere yet.
	Stored Location
}

// Location is the part of a ticket that tells where its row is.
type Location struct {
	Phase    posthaste.Phase
	ParkedAt GateRef
	Rank     uint8
	Place    int64
}

// Queue returns the queue gate of the path, or a zero ref.
func (t *Ticket) Queue() GateRef {
	if len(t.Path) > 0 && t.Path[0].Kind == KindQueue {
		return t.Path[0]
	}
	return GateRef{}
}

// Flows returns the path without the queue.
func (t *Ticket) Flows() []GateRef {
	if len(t.Path) > 0 && t.Path[0].Kind == KindQueue {
		return t.Path[1:]
	}
	return t.Path
}

// Before reports whether t stands ahead of o at a gate where both are parked.
func (t *Ticket) Before(o *Ticket) bool {
	return cmp.Or(cmp.Compare(t.Rank, o.Rank), cmp.Compare(t.Place, o.Place), strings.Compare(string(t.ID), string(o.ID))) < 0
}

// ConfigKind says what a configuration row holds.
type ConfigKind string

// The kinds of configuration.
const (
	ConfigTenant   ConfigKind = "tenant"    // name: empty
	ConfigToken    ConfigKind = "token"     // name: hash of the token
	ConfigKeys     ConfigKind = "keys"      // signing keys; name: empty
	ConfigSchedule ConfigKind = "schedule"  // name: schedule id
	ConfigURLGroup ConfigKind = "url_group" // name: group name
)

// ConfigKinds lists the kinds of configuration.
var ConfigKinds = []ConfigKind{ConfigTenant, ConfigToken, ConfigKeys, ConfigSchedule, ConfigURLGroup}

// ConfigKey is the key of a configuration row.
type ConfigKey struct {
	Tenant posthaste.TenantID
	Kind   ConfigKind
	Name   string
}

// ConfigRow is a piece of configuration. What Value means is for those above the seam.
type ConfigRow struct {
	ConfigKey
	Value     []byte
	CreatedAt time.Time
	UpdatedAt time.Time
}

// QuotaKey is the key of a counter of messages a tenant had accepted on one UTC day.
type QuotaKey struct {
	Tenant posthaste.TenantID
	Day    int32 // days since 1970-01-01 UTC
}

// DayOf returns the UTC day of t as QuotaKey counts them.
func DayOf(t time.Time) int32 { return int32(t.Unix() / 86400) }

// TickRef is the key of a schedule's tick row.
type TickRef struct {
	Tenant   posthaste.TenantID
	Schedule posthaste.ScheduleID
}

// Tick is the mutable row of a schedule.
type Tick struct {
	TickRef
	Next  time.Time // zero while paused or without a further tick
	Last  time.Time // zero before the first
	Made  []posthaste.MessageID
	Error string // why the last tick made no message
	Rev   int64  // raised by every change; a firing names the one it read
}

// DedupKey is the key of a deduplication entry.
type DedupKey struct {
	Shard  int16
	Tenant posthaste.TenantID
	Key    string
}

// Dedup remembers the first message of a deduplication key.
type Dedup struct {
	DedupKey
	Message posthaste.MessageID
	Expires time.Time
}

// DeadKey is the key of a dead letter.
type DeadKey struct {
	Tenant posthaste.TenantID
	ID     posthaste.DeadLetterID
}

// Mark is a log entry that no other row implies: CANCEL_REQUESTED and CANCELED.
type Mark struct {
	Tenant  posthaste.TenantID
	Message posthaste.MessageID
	State   posthaste.LogState
	At      time.Time
}

// Ripe asks for due tickets that the submitter need not know: plain ones, those whose gates it names, and others.
type Ripe struct {
	Shard     int16
	Before    time.Time
	Limit     int
	PerTenant int
}

// Want lists the keys of what an operation reads and locks. Each list is sorted by its key and free of duplicates.
type Want struct {
	Tenants []posthaste.TenantID // their configuration versions
	Config  []ConfigKey
	Quota   []QuotaKey
	Tick    *TickRef
	Dedup   []DedupKey
	Gates   []GateRef
	Heads   int // and up to so many parked tickets of each gate, first in order
	Slots   []SlotRef
	Dead    []DeadKey
	Tickets []posthaste.MessageID
	Ripe    *Ripe
}

// View is what an engine found. Lists have the order of Want's; an absent row is nil. Everything in it belongs to the
// operation until Decide returns: it may change the rows and hand them to Changes.
type View struct {
	Now      time.Time // UTC, whole microseconds; later than that of every operation decided before
	Versions []int64   // 0: no such tenant
	Config   []*ConfigRow
	Quota    []int64
	Tick     *Tick
	Dedup    []*Dedup
	Gates    []*Gate
	Heads    [][]*Ticket
	Slots    []*Slot
	Dead     []*posthaste.DeadLetter
	Tickets  []*Ticket
	Ripe     []*Ticket
}

// Changes is what an operation does. Order does not matter within one operation; no key stands in it twice.
type Changes struct {
	Messages   []*posthaste.Message // new content
	Put        []*Ticket            // inserted, or replacing the row they were loaded from
	Drop       []*Ticket            // resolved
	Gates      []*Gate
	Slots      []*Slot // Open 0: removed
	Dedup      []*Dedup
	Dead       []*posthaste.DeadLetter // inserted
	DeadGone   []DeadKey
	Attempts   []*posthaste.Attempt
	Marks      []Mark
	Restarted  []*Ticket // the attempt that began with the acceptance did not count: its message is no longer ClaimedAtOnce
	Tick       *Tick
	TickGone   *TickRef
	Quota      []QuotaAdd
	Config     []*ConfigRow
	ConfigGone []ConfigKey
	Raise      []posthaste.TenantID // tenants whose configuration version rises
}

// QuotaAdd raises a counter.
type QuotaAdd struct {
	QuotaKey
	N int64
}

// Reset empties c and keeps its memory.
func (c *Changes) Reset() {
	*c = Changes{
		Messages: clip(c.Messages), Put: clip(c.Put), Drop: clip(c.Drop), Gates: clip(c.Gates), Slots: clip(c.Slots),
		Dedup: clip(c.Dedup), Dead: clip(c.Dead), DeadGone: clip(c.DeadGone), Attempts: clip(c.Attempts), Marks: clip(c.Marks),
		Restarted: clip(c.Restarted), Quota: clip(c.Quota), Config: clip(c.Config), ConfigGone: clip(c.ConfigGone), Raise: clip(c.Raise),
	}
}

func clip[T any](s []T) []T {
	clear(s)
	return s[:0]
}

// ShardDue tells when a shard next needs attention. A zero time means never.
type ShardDue struct {
	Shard   int16
	Tickets time.Time // the earliest Due of a Delayed or Ready ticket
	Waiting time.Time // the earliest Due of a Waiting one
	Tick    time.Time // the earliest Next of a schedule
}

// Hint says that a shard has something due at a moment.
type Hint struct {
	Shard int16
	Due   time.Time
}

// TrimParams bounds a step of retention.
type TrimParams struct {
	Now time.Time // of the server's clock
	Keep
	Tenants map[posthaste.TenantID]Keep // of those that have bounds of their own
	Limit   int                         // rows a step
}

// Keep says how far back things are kept. A zero time keeps that kind for ever. What is pending stays, and so does a message that
// a dead letter or a schedule's last tick names.
type Keep struct {
	Messages time.Time // messages that ended before go, with their log
	Content  time.Time // what the log does not need of messages that ended before goes; see [Strip]
	Dead     time.Time // dead letters made before go
}

// Of returns the bounds of a tenant.
func (p *TrimParams) Of(tenant posthaste.TenantID) Keep {
	if k, ok := p.Tenants[tenant]; ok {
		return k
	}
	return p.Keep
}

// Strips reports whether anything is to be stripped.
func (p *TrimParams) Strips() bool {
	for _, k := range p.Tenants {
		if !k.Content.IsZero() {
			return true
		}
	}
	return !p.Content.IsZero()
}

// Strip drops what the log does not need of a message that has ended. It reports whether there was anything left to drop.
func Strip(m *posthaste.Message) bool {
	if m.Stripped {
		return false
	}
	m.Stripped, m.Header, m.Body = true, nil, nil
	for _, c := range []**posthaste.Callback{&m.Callback, &m.FailureCallback} {
		if *c != nil {
			bare := **c
			bare.Header = nil
			*c = &bare
		}
	}
	return true
}

// Page bounds a listing.
type Page struct {
	Limit int
	Desc  bool
}

// LogStream is one of the ordered sources that log entries are derived from.
type LogStream uint8

// The streams. Package history merges them.
const (
	StreamCreated LogStream = iota // messages, by the time in their id: CREATED, and ACTIVE of those ClaimedAtOnce
	StreamStarted                  // attempts not AtOnce, by StartedAt: ACTIVE
	StreamEnded                    // attempts, by EndedAt: the others
	StreamMarks                    // marks, by At
)

// LogPos is a position in a stream, between rows.
type LogPos struct {
	At time.Time
	ID posthaste.MessageID
	N  int // attempt number; of marks 0 or 1
}

// LogRow is a row of a stream.
type LogRow struct {
	LogPos
	Attempt *posthaste.Attempt // of StreamStarted and StreamEnded
	Mark    posthaste.LogState // of StreamMarks
	AtOnce  bool               // of StreamCreated
}

// Reader reads without locks, each call from one consistent state. Unknown keys give nil or nothing, not an error.
// Listings are bounded by the limit handed in.
type Reader interface {
	// Version returns the tenant's configuration version; 0 if there is no such tenant.
	Version(ctx context.Context, tenant posthaste.TenantID) (int64, error)
	Config(ctx context.Context, key ConfigKey) (*ConfigRow, error)
	// ConfigList returns rows of one kind in the order of their names, after the given one.
	ConfigList(ctx context.Context, tenant posthaste.TenantID, kind ConfigKind, after string, limit int) ([]*ConfigRow, error)
	// FindConfig returns a row of one kind and name whatever its tenant is: tokens are looked up so.
	FindConfig(ctx context.Context, kind ConfigKind, name string) (*ConfigRow, error)
	// Tenants returns the ids of tenants in order, after the given one.
	Tenants(ctx context.Context, after posthaste.TenantID, limit int) ([]posthaste.TenantID, error)

	Message(ctx context.Context, tenant posthaste.TenantID, id posthaste.MessageID) (*posthaste.Message, error)
	// Messages reads several; the order is that of ids, nil where there is none.
	Messages(ctx context.Context, ids []MessageKey) ([]*posthaste.Message, error)
	// MessageList returns messages of a tenant in the order of their ids, from the given one on, exclusive.
	MessageList(ctx context.Context, tenant posthaste.TenantID, from posthaste.MessageID, p Page) ([]*posthaste.Message, error)
	Ticket(ctx context.Context, id posthaste.MessageID) (*Ticket, error)
	Tickets(ctx context.Context, ids []posthaste.MessageID) ([]*Ticket, error)
	// TicketList returns unresolved tickets of a tenant in the order of their ids, after the given one.
	TicketList(ctx context.Context, tenant posthaste.TenantID, after posthaste.MessageID, limit int) ([]*Ticket, error)
	// Ripening returns Delayed and Ready tickets due until the given moment, earliest first.
	Ripening(ctx context.Context, r Ripe) ([]*Ticket, error)
	// Awake returns Waiting tickets whose Due has come at the given moment.
	Awake(ctx context.Context, shard int16, before time.Time, limit int) ([]*Ticket, error)
	// Heads returns parked tickets of a gate in order.
	Heads(ctx context.Context, ref GateRef, limit int) ([]*Ticket, error)
	// Claims returns tickets claimed by one life of a node, after the given id; of all nodes if n is zero.
	Claims(ctx context.Context, n NodeEpoch, after posthaste.MessageID, limit int) ([]*Ticket, error)
	Gate(ctx context.Context, ref GateRef) (*Gate, error)
	// GateList returns gates of one kind in the order of their names, after the given one.
	GateList(ctx context.Context, tenant posthaste.TenantID, kind Kind, after string, limit int) ([]*Gate, error)
	Slot(ctx context.Context, ref SlotRef) (*Slot, error)
	Dedup(ctx context.Context, key DedupKey) (*Dedup, error)
	Quota(ctx context.Context, key QuotaKey) (int64, error)
	Tick(ctx context.Context, ref TickRef) (*Tick, error)
	// DueTicks returns schedules whose Next has come.
	DueTicks(ctx context.Context, before time.Time, limit int) ([]*Tick, error)

	// Attempts returns the finished attempts of a message in order.
	Attempts(ctx context.Context, tenant posthaste.TenantID, id posthaste.MessageID) ([]*posthaste.Attempt, error)
	Marks(ctx context.Context, tenant posthaste.TenantID, id posthaste.MessageID) ([]Mark, error)
	// LogRows returns rows of a stream beyond a position.
	LogRows(ctx context.Context, tenant posthaste.TenantID, s LogStream, from LogPos, p Page) ([]LogRow, error)
	DeadLetter(ctx context.Context, key DeadKey) (*posthaste.DeadLetter, error)
	// DeadLetters returns dead letters of a tenant beyond a position, in the order of their time and sequence.
	DeadLetters(ctx context.Context, tenant posthaste.TenantID, from posthaste.DeadLetterID, p Page) ([]*posthaste.DeadLetter, error)
}

// MessageKey is the key of a message's content.
type MessageKey struct {
	Tenant posthaste.TenantID
	ID     posthaste.MessageID
}

// Compare orders deduplication keys as they are locked.
func (k DedupKey) Compare(o DedupKey) int {
	return cmp.Or(cmp.Compare(k.Shard, o.Shard), cmp.Compare(k.Tenant, o.Tenant), strings.Compare(k.Key, o.Key))
}

// Compare orders dead letters as they are locked.
func (k DeadKey) Compare(o DeadKey) int {
	return cmp.Or(cmp.Compare(k.Tenant, o.Tenant), strings.Compare(string(k.ID), string(o.ID)))
}

// Compare orders slots as they are locked.
func (r SlotRef) Compare(o SlotRef) int {
	return cmp.Or(r.Queue.Compare(o.Queue), strings.Compare(string(r.Source), string(o.Source)), cmp.Compare(r.Gen, o.Gen))
}

// NewDedupKey returns the key of a deduplication entry in a store of so many shards. Its shard is the hash of the rest.
func NewDedupKey(shards int, tenant posthaste.TenantID, key string) DedupKey {
	return DedupKey{Shard: NewGateRef(shards, tenant, 0, key).Shard, Tenant: tenant, Key: key}
}
