package sqlite

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
)

// An open claim is that of a message which was claimed when it was accepted, while it has no row of its own. Most are settled
// some milliseconds later, so a row would be written and deleted for nothing: the record stands in the row of the message instead,
// and what tells that it is settled is the row of the attempt.
//
// A claim is open if and only if its message has n > meta.written, a record in the column claim, and no attempt 0. The view
// all_claims says the same. The writer keeps the open claims in memory, for itself and for who asks for one ticket; gives
// each a row that changes in another way than by its attempt; and gives rows to all of them now and then, so that few messages
// need to be looked at after a crash.

const (
	openAge  = time.Second // see openClaims.age
	openRows = 1000        // after so many messages it is noted up to which one no claim is open
)

type openClaim struct {
	tenant posthaste.TenantID
	n      int64
	data   []byte
	gone   bool // the batch has settled it; only the writer looks
}

// openClaims are the open claims. Only the writer changes them, and so reads them without the lock.
type openClaims struct {
	age atomic.Int64 // claims older than this get rows with the next commit: a time.Duration

	mu   sync.RWMutex
	byID map[posthaste.MessageID]*openClaim
}

func (o *openClaims) add(id posthaste.MessageID, c *openClaim) {
	o.mu.Lock()
	o.byID[id] = c
	o.mu.Unlock()
}

// ticket returns the ticket of an open claim; nil if it is none. A claim is known here from a moment before its commit
// until a moment after that of its settlement. So who looks here first and then in the file misses none.
func (o *openClaims) ticket(id posthaste.MessageID) (*store.Ticket, error) {
	o.mu.RLock()
	c := o.byID[id]
	o.mu.RUnlock()
	if c == nil {
		return nil, nil
	}
	return c.ticket(id)
}

func (c *openClaim) ticket(id posthaste.MessageID) (*store.Ticket, error) {
	t := &store.Ticket{ID: id, Tenant: c.tenant}
	if err := store.DecodeTicket(c.data, t); err != nil {
		return nil, fmt.Errorf("ticket %s: %w", id, err)
	}
	t.Stored = store.Location{Phase: t.Phase}
	return t, nil
}

// opens is what the writer needs for open claims.
type opens struct {
	insertOpen, closeOpen, putWritten stmt

	open    *openClaims
	changed []openChange // of the batch
	extent  openExtent
	before  openExtent // the batch
}

type openExtent struct {
	written int64     // meta.written
	newest  int64     // n of the message inserted last
	noted   int64     // newest when written was written
	flushed time.Time // when the open claims got rows, in real time
}

type openChange struct {
	id    posthaste.MessageID
	added bool
}

func newOpens(c *conn, open *openClaims) opens {
	return opens{
		open:       open,
		insertOpen: c.prepare("INSERT INTO claims (id, tenant, n, data) VALUES (?, ?, ?, ?)"),
		closeOpen:  c.prepare("UPDATE messages SET claim = NULL WHERE n = ?"),
		putWritten: c.prepare("REPLACE INTO meta (key, value) VALUES ('written', ?)"),
	}
}

// recoverOpen gives rows to the claims that were open when the server before this one ended.
func (w *writer) recoverOpen() error {
	rows := w.c.prepare("INSERT OR IGNORE INTO claims (id, tenant, n, data) SELECT id, tenant, n, data FROM all_claims")
	newest := w.c.prepare("SELECT coalesce(max(n), 0) FROM messages")
	if w.c.err != nil {
		return w.c.err
	}
	if err := rows.run(); err != nil {
		return err
	}
	if _, err := first(newest, func() error {
		w.extent.newest = newest.ColumnInt64(0)
		return nil
	}); err != nil {
		return err
	}
	w.extent.written = -1 // what another server has written is not known
	return w.flushOpen()
}

// opened tells whether a claim is open.
func (w *writer) opened(id posthaste.MessageID) bool {
	c := w.open.byID[id]
	return c != nil && !c.gone
}

// loadTicket reads a ticket as it is after the operations before this one in the batch.
func (w *writer) loadTicket(id posthaste.MessageID) (*store.Ticket, error) {
	if !w.opened(id) {
		return w.readTicket(id)
	}
	c := w.open.byID[id]
	w.c.rows = append(w.c.rows, messageRow{id, c.n})
	return c.ticket(id)
}

// settleOpen ends an open claim, if t is one: what follows is either its settlement, or its ticket has got a place of its own. It
// makes t look as if it was not stored.
func (w *writer) settleOpen(t *store.Ticket, c *store.Changes) error {
	if t.Stored.Phase != posthaste.PhaseClaimed || !w.opened(t.ID) {
		return nil
	}
	claim := w.open.byID[t.ID]
	claim.gone = true
	w.changed = append(w.changed, openChange{id: t.ID})
	t.Stored = store.Location{}
	for _, a := range c.Attempts {
		if a.Message == t.ID && a.Number == 0 {
			return nil
		}
	}
	w.closeOpen.BindInt64(1, claim.n)
	return w.closeOpen.run()
}

// flushOpen gives rows to the open claims. What is inserted after has a greater n, also if the newest messages are removed meanwhile.
func (w *writer) flushOpen() error {
	if w.extent.written == w.extent.newest {
		return nil
	}
	for id, c := range w.open.byID {
		if c.gone {
			continue
		}
		w.insertOpen.BindText(1, string(id))
		w.insertOpen.BindInt64(2, int64(c.tenant))
		w.insertOpen.BindInt64(3, c.n)
		w.insertOpen.BindBytes(4, c.data)
		if err := w.insertOpen.run(); err != nil {
			return fmt.Errorf("claim of message %s: %w", id, err)
		}
		c.gone = true
		w.changed = append(w.changed, openChange{id: id})
	}
	w.putWritten.BindInt64(1, w.extent.newest)
	if err := w.putWritten.run(); err != nil {
		return err
	}
	w.extent.written, w.extent.noted, w.extent.flushed = w.extent.newest, w.extent.newest, time.Now()
	return nil
}

// noteOpen notes up to which message no claim is open, without giving rows to those that are.
func (w *writer) noteOpen() error {
	n := w.extent.newest
	for _, c := range w.open.byID {
		if !c.gone {
			n = min(n, c.n-1)
		}
	}
	w.putWritten.BindInt64(1, n)
	w.extent.written, w.extent.noted = n, w.extent.newest
	return w.putWritten.run()
}

// beginBatch notes what an undoing goes back to, and keeps few the messages that may have an open claim.
func (w *writer) beginBatch() error {
	w.changed, w.before = w.changed[:0], w.extent
	if !w.e.joined.Load() {
		return nil
	}
	if len(w.open.byID) > 0 && time.Since(w.extent.flushed) >= time.Duration(w.open.age.Load()) {
		return w.flushOpen()
	}
	if far := w.extent.newest - w.extent.noted; far < 0 || far >= openRows {
		return w.noteOpen()
	}
	return nil
}

// endBatch makes what the batch did to the open claims so, or undoes it.
func (w *writer) endBatch(committed bool) {
	if !committed {
		w.extent = w.before
	}
	if len(w.changed) == 0 {
		return
	}
	w.open.mu.Lock()
	defer w.open.mu.Unlock()
	for _, ch := range w.changed {
		c := w.open.byID[ch.id]
		switch {
		case c == nil:
		case committed && c.gone, !committed && ch.added:
			delete(w.open.byID, ch.id)
		case !committed:
			c.gone = false
		}
	}
	w.changed = w.changed[:0]
}
