package postgres

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/posthaste/posthaste/internal/store"
)

// Hints spare nodes the wait for their next look for due work. They never ride in a transaction that writes, since the server
// lets only one of those commit at a time that has a notification. A lost hint costs a wait, nothing else.

// hintPause is the shortest time between two notifications of a node.
const hintPause = 50 * time.Millisecond

// hints tells this node of work that its own commits made due, and others of work that is due and that it did not start.
type hints struct {
	ch      chan store.Hint // with room for one
	left    chan struct{}   // one token: others are to be told
	id      string          // of this engine among those that notify
	ignored atomic.Int64    // notifications of its own; tests look at it
}

func newHints() *hints {
	return &hints{ch: make(chan store.Hint, 1), left: make(chan struct{}, 1), id: rand.Text()[:12]}
}

// tell passes word of work that is due at a moment to this node. One that was not fetched yet is replaced by the earlier one.
func (h *hints) tell(due time.Time) {
	for {
		select {
		case h.ch <- store.Hint{Due: due}:
			return
		default:
		}
		select {
		case old := <-h.ch:
			if old.Due.Before(due) {
				due = old.Due
			}
		default:
		}
	}
}

// made tells of what a transaction left to be done.
func (t *transaction) made() {
	var due time.Time
	earliest := func(at time.Time) {
		if !at.IsZero() && (due.IsZero() || at.Before(due)) {
			due = at
		}
	}
	for _, r := range t.tickets {
		if r.dirty && r.cur != nil {
			earliest(r.cur.Due)
		}
	}
	for _, r := range t.ticks {
		if r.dirty {
			t.e.ticks.forget()
			if r.cur != nil {
				earliest(r.cur.Next)
			}
		}
	}
	if due.IsZero() {
		return
	}
	t.e.hints.tell(due)
	if !due.After(t.now) {
		select {
		case t.e.hints.left <- struct{}{}:
		default:
		}
	}
}

// Hints implements [store.Engine].
func (e *Engine) Hints() <-chan store.Hint { return e.hints.ch }

// notify tells other nodes until ctx ends.
func (e *Engine) notify(ctx context.Context, channel string) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.hints.left:
		}
		if _, err := e.pool.Exec(ctx, "SELECT pg_notify($1, $2)", channel, e.hints.id); err != nil && ctx.Err() == nil {
			e.log.Debug("other nodes not told of due work", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(hintPause):
		}
	}
}

// listen hears of other nodes' work until ctx ends, on a connection of its own.
func (e *Engine) listen(ctx context.Context, channel string) {
	for wait := 100 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 5*time.Second) {
		begun := time.Now()
		err := e.hear(ctx, channel)
		switch {
		case ctx.Err() != nil:
			return
		case sqlState(err) == "0A000":
			e.log.Info("the database has no notifications; due work is found by looking for it", "err", err)
			return
		case time.Since(begun) > time.Minute:
			wait = 100 * time.Millisecond
		}
		e.log.Debug("not listening to other nodes", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

func (e *Engine) hear(ctx context.Context, channel string) error {
	conn, err := pgx.ConnectConfig(ctx, e.conn.Copy())
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		conn.Close(ctx) //nolint:errcheck // there is nothing to lose
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize()); err != nil {
		return err
	}
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		if n.Payload == e.hints.id {
			e.hints.ignored.Add(1)
			continue
		}
		e.hints.tell(time.Now())
	}
}

// channel returns the name under which the nodes of a schema notify each other.
func channelOf(ctx context.Context, conn *pgx.Conn) (string, error) {
	var schema uint32
	if err := conn.QueryRow(ctx, "SELECT current_schema()::regnamespace::oid").Scan(&schema); err != nil {
		return "", err
	}
	return fmt.Sprintf("posthaste_%d", schema), nil
}
