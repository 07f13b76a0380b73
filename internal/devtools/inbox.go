package devtools

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/posthaste/posthaste"
)

// The bounds of what inboxes keep. What is older than that is forgotten.
const (
	maxEntries = 1000     // of an inbox
	maxBytes   = 32 << 20 // of bodies in an inbox, if it has more than one entry
	maxInboxes = 1000     // beyond it, the one used least recently is forgotten
	maxCaught  = 16 << 20 // bytes of a body; what is longer is cut
)

// Entry is a request that an inbox caught.
type Entry struct {
	Number int64     // in the inbox, from 1
	At     time.Time // when it arrived, by the server's clock
	Method string
	URL    string
	Header http.Header
	Body   []byte

	// Of deliveries; empty for other requests.
	Message  posthaste.MessageID
	Schedule posthaste.ScheduleID
	Group    string
	Attempt  int // 1 for the first
	Tenant   posthaste.TenantID

	Signature Signature
	// Status is what it was answered with; 0 if it got no answer.
	Status int
}

// Signature is what came of checking a request's signature as a receiver does.
type Signature struct {
	Valid bool
	Fault string // why not
}

// Answer is how an inbox answers a request.
type Answer struct {
	Status int               // 0: 200
	Header map[string]string // of the answer
	Body   string
	Delay  time.Duration // in real time, before the answer
	Hang   bool          // there is no answer: the request is held until its sender gives up
	Drop   bool          // there is no answer: the connection is closed
}

// Behaviour is how an inbox answers: as Next says, one entry for each request, and as Answer says when Next is used up.
type Behaviour struct {
	Answer
	Next []Answer
}

// Inbox is an inbox as it is listed.
type Inbox struct {
	Name  string
	Total int64     // requests caught since it began, or since it was emptied
	Kept  int       // of them still there
	Last  time.Time // when the last one came, by the server's clock; zero before
}

// inboxes are all inboxes by name.
type inboxes struct {
	mu    sync.Mutex
	boxes map[string]*inbox
	uses  int64
	// release ends with a reset, and with it the requests that hang and the waits.
	release context.Context
	freeAll context.CancelFunc
}

// inbox is guarded by inboxes.mu.
type inbox struct {
	entries   []*Entry // they do not change any more
	bytes     int
	total     int64
	last      time.Time
	used      int64
	behaviour Behaviour
	changed   chan struct{} // closed, and replaced, by every change of entries
}

func (b *inboxes) init() {
	b.boxes = map[string]*inbox{}
	b.release, b.freeAll = context.WithCancel(context.Background())
}

// reset forgets all inboxes and lets go of what hangs.
func (b *inboxes) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.freeAll()
	b.init()
}

// box returns an inbox, making it if there is none. It requires b.mu.
func (b *inboxes) box(name string) *inbox {
	b.uses++
	x := b.boxes[name]
	if x == nil {
		if len(b.boxes) >= maxInboxes {
			oldest := ""
			for n, o := range b.boxes {
				if oldest == "" || o.used < b.boxes[oldest].used {
					oldest = n
				}
			}
			delete(b.boxes, oldest)
		}
		x = &inbox{changed: make(chan struct{})}
		b.boxes[name] = x
	}
	x.used = b.uses
	return x
}

// catch keeps a request and returns how to answer it, and what ends a wait before the answer.
func (b *inboxes) catch(name string, e *Entry) (a Answer, release context.Context) {
	b.mu.Lock()
	defer b.mu.Unlock()
	x := b.box(name)
	x.total++
	e.Number, x.last = x.total, e.At
	x.entries = append(x.entries, e)
	x.bytes += len(e.Body)
	for len(x.entries) > maxEntries || x.bytes > maxBytes && len(x.entries) > 1 {
		x.bytes -= len(x.entries[0].Body)
		x.entries[0] = nil
		x.entries = x.entries[1:]
	}
	a = x.behaviour.Answer
	if len(x.behaviour.Next) > 0 {
		a, x.behaviour.Next = x.behaviour.Next[0], x.behaviour.Next[1:]
	}
	if a.Status == 0 {
		a.Status = http.StatusOK
	}
	if !a.Hang && !a.Drop {
		e.Status = a.Status
	}
	x.wake()
	return a, b.release
}

func (x *inbox) wake() {
	close(x.changed)
	x.changed = make(chan struct{})
}

// list returns the entries of an inbox after the given number, and what tells of a change.
func (b *inboxes) list(name string, after int64) (entries []*Entry, total int64, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	x := b.box(name)
	i := len(x.entries)
	for i > 0 && x.entries[i-1].Number > after {
		i--
	}
	return slices.Clone(x.entries[i:]), x.total, x.changed
}

// Inboxes lists the inboxes by name.
func (t *Tools) Inboxes() []Inbox {
	b := &t.inboxes
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]Inbox, 0, len(b.boxes))
	for name, x := range b.boxes {
		list = append(list, Inbox{Name: name, Total: x.total, Kept: len(x.entries), Last: x.last})
	}
	slices.SortFunc(list, func(a, b Inbox) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Entries returns what an inbox caught after the entry of the given number, oldest first. An inbox need not be made before.
// The entries are shared: they must not be changed.
func (t *Tools) Entries(inbox string, after int64) []*Entry {
	entries, _, _ := t.inboxes.list(inbox, after)
	return entries
}

// WaitEntries is like Entries, but waits until there are at least so many, or ctx is done, or everything was reset. total is
// how many there ever were.
func (t *Tools) WaitEntries(ctx context.Context, inbox string, after int64, count int) (entries []*Entry, total int64) {
	b := &t.inboxes
	b.mu.Lock()
	release := b.release
	b.mu.Unlock()
	for {
		entries, total, changed := b.list(inbox, after)
		if len(entries) >= count {
			return entries, total
		}
		select {
		case <-changed:
		case <-release.Done():
			return nil, 0
		case <-ctx.Done():
			return entries, total
		}
	}
}

// SetBehaviour says how an inbox answers from now on.
func (t *Tools) SetBehaviour(inbox string, a Behaviour) {
	b := &t.inboxes
	b.mu.Lock()
	defer b.mu.Unlock()
	a.Next = slices.Clone(a.Next)
	b.box(inbox).behaviour = a
}

// Behaviour returns how an inbox will answer.
func (t *Tools) Behaviour(inbox string) Behaviour {
	b := &t.inboxes
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.box(inbox).behaviour
	a.Next = slices.Clone(a.Next)
	return a
}

// EmptyInbox forgets what an inbox caught. Its behaviour stays.
func (t *Tools) EmptyInbox(inbox string) {
	b := &t.inboxes
	b.mu.Lock()
	defer b.mu.Unlock()
	x := b.box(inbox)
	x.entries, x.bytes, x.total, x.last = nil, 0, 0, time.Time{}
	x.wake()
}
