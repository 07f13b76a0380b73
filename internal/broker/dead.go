package broker

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/compose"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/history"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/wire"
)

// What bounds the dead letters that one page looks at: their number, and, of more than a full page, the time it takes.
const (
	minDeadScan = 400
	maxDeadScan = 4000
	maxDeadTime = 20 * time.Millisecond
)

// Dead is a dead letter with its message.
type Dead = wire.Dead

// DeadLetter returns one entry of the dead letter queue.
func (b *Broker) DeadLetter(ctx context.Context, p *directory.Principal, id posthaste.DeadLetterID) (Dead, error) {
	letter, err := b.engine.DeadLetter(ctx, store.DeadKey{Tenant: p.Tenant.ID, ID: id})
	if err != nil {
		return Dead{}, err
	}
	if letter != nil {
		m, err := b.engine.Message(ctx, p.Tenant.ID, letter.Message)
		if err != nil {
			return Dead{}, err
		}
		if m != nil {
			return Dead{Letter: letter, Message: m}, nil
		}
	}
	return Dead{}, notFound("dlq message %s not found", id)
}

// DeadLetters returns a page of the dead letter queue and the cursor of the next one, if there may be one.
func (b *Broker) DeadLetters(ctx context.Context, p *directory.Principal, f wire.DeadFilter) ([]Dead, string, error) {
	if f.Nothing {
		return nil, "", nil
	}
	if len(f.IDs) > 0 {
		return b.deadByID(ctx, p, f)
	}
	from, err := deadStart(f)
	if err != nil {
		return nil, "", err
	}
	var page []Dead
	stop := time.Now().Add(maxDeadTime)
	for scanned := 0; ; {
		letters, err := b.engine.DeadLetters(ctx, p.Tenant.ID, from, store.Page{Limit: 200, Desc: f.LatestFirst})
		if err != nil {
			return nil, "", err
		}
		keys := make([]store.MessageKey, len(letters))
		for i, l := range letters {
			keys[i] = store.MessageKey{Tenant: p.Tenant.ID, ID: l.Message}
		}
		messages, err := b.engine.Messages(ctx, keys)
		if err != nil {
			return nil, "", err
		}
		for i, l := range letters {
			if !f.To.IsZero() && l.At.After(f.To) && !f.LatestFirst || !f.From.IsZero() && l.At.Before(f.From) && f.LatestFirst {
				return page, "", nil
			}
			if messages[i] != nil && matchDead(l, messages[i], &f) {
				if len(page) == f.Count {
					return page, deadCursor(from), nil
				}
				page = append(page, Dead{Letter: l, Message: messages[i]})
			}
			from = l.ID
		}
		scanned += len(letters)
		if len(letters) < 200 {
			return page, "", nil
		}
		if scanned >= maxDeadScan || scanned >= minDeadScan && time.Now().After(stop) {
			return page, deadCursor(from), nil
		}
	}
}

// deadCursor spells the position behind an entry.
func deadCursor(id posthaste.DeadLetterID) string {
	at, seq, _ := id.Parts()
	return wire.Cursor{Millis: at.UnixMilli(), Rest: strconv.FormatUint(uint64(seq), 10)}.String()
}

// lastMilli is the last millisecond of the year 9999.
const lastMilli = 253402300799999

// deadStart returns the id behind which a page begins; empty: at the end of the order.
func deadStart(f wire.DeadFilter) (posthaste.DeadLetterID, error) {
	if f.Cursor != nil {
		if f.Cursor.Millis > lastMilli {
			return "", posthaste.Errorf(posthaste.CodeInvalid, "invalid query parameter: cursor: malformed cursor")
		}
		at := time.UnixMilli(f.Cursor.Millis)
		if f.Cursor.Rest == "" {
			return before(at, f.LatestFirst), nil
		}
		seq, err := strconv.ParseUint(f.Cursor.Rest, 10, 32)
		if err != nil {
			return "", posthaste.Errorf(posthaste.CodeInvalid, "invalid query parameter: cursor: malformed cursor")
		}
		return posthaste.NewDeadLetterID(at, uint32(seq)), nil
	}
	if f.LatestFirst && !f.To.IsZero() {
		return before(f.To, true), nil
	}
	if !f.LatestFirst && !f.From.IsZero() {
		return before(f.From, false), nil
	}
	return "", nil
}

// before returns an id just outside of those of a moment, on the side where a page in that order begins.
func before(at time.Time, latestFirst bool) posthaste.DeadLetterID {
	if latestFirst {
		return posthaste.NewDeadLetterID(at.Add(time.Millisecond), 0)
	}
	if at.UnixMilli() <= 0 {
		return "" // everything is later
	}
	return posthaste.NewDeadLetterID(at.Add(-time.Millisecond), 1<<32-1)
}

func matchDead(l *posthaste.DeadLetter, m *posthaste.Message, f *wire.DeadFilter) bool {
	return (f.From.IsZero() || !l.At.Before(f.From)) && (f.To.IsZero() || !l.At.After(f.To)) &&
		(len(f.Statuses) == 0 || slices.Contains(f.Statuses, l.Last.Status)) && history.Match(m, &f.Filter)
}

func (b *Broker) deadByID(ctx context.Context, p *directory.Principal, f wire.DeadFilter) ([]Dead, string, error) {
	var page []Dead
	for _, id := range slices.Compact(slices.Sorted(slices.Values(f.IDs))) {
		d, err := b.DeadLetter(ctx, p, id)
		if posthaste.CodeOf(err) == posthaste.CodeNotFound {
			continue
		}
		if err != nil {
			return nil, "", err
		}
		if matchDead(d.Letter, d.Message, &f) {
			page = append(page, d)
		}
	}
	slices.SortFunc(page, func(a, b Dead) int {
		if f.LatestFirst {
			a, b = b, a
		}
		_, x, _ := a.Letter.ID.Parts()
		_, y, _ := b.Letter.ID.Parts()
		return cmp.Or(cmp.Compare(a.Letter.At.UnixMilli(), b.Letter.At.UnixMilli()), cmp.Compare(x, y))
	})
	if f.Count > 0 && len(page) > f.Count {
		page = page[:f.Count]
	}
	return page, "", nil
}

// DeleteDead removes one entry of the dead letter queue.
func (b *Broker) DeleteDead(ctx context.Context, p *directory.Principal, id posthaste.DeadLetterID) error {
	op := &ledger.DeleteDead{Keys: []store.DeadKey{{Tenant: p.Tenant.ID, ID: id}}}
	if err := b.engine.Do(ctx, 0, op); err != nil {
		return err
	}
	if op.Deleted == 0 {
		return notFound("dlq message %s not found", id)
	}
	return nil
}

// DeleteDeadAll removes what passes the filter, at most f.Count. The cursor is empty when nothing more matches.
func (b *Broker) DeleteDeadAll(ctx context.Context, p *directory.Principal, f wire.DeadFilter) (int, string, error) {
	page, cursor, err := b.DeadLetters(ctx, p, f)
	if err != nil {
		return 0, "", err
	}
	deleted := 0
	var pace pacer
	err = inSteps(ctx, &pace, page, bulkStep, func(part []Dead) error {
		op := &ledger.DeleteDead{}
		for _, d := range part {
			op.Keys = append(op.Keys, store.DeadKey{Tenant: p.Tenant.ID, ID: d.Letter.ID})
		}
		if err := b.engine.Do(ctx, 0, op); err != nil {
			return err
		}
		deleted += op.Deleted
		return nil
	})
	if err == nil && cursor != "" {
		err = pace.rest(ctx) // whoever asked is going to ask again
	}
	return deleted, cursor, err
}

// RetryDead makes a new message of a dead letter, with the settings of in where it gives some, and removes the entry, in one
// transaction.
func (b *Broker) RetryDead(ctx context.Context, p *directory.Principal, id posthaste.DeadLetterID, in wire.Input) (posthaste.MessageID, error) {
	d, err := b.DeadLetter(ctx, p, id)
	if err != nil {
		return "", err
	}
	ids, err := b.retryDead(ctx, p, []Dead{d}, in, true)
	if err != nil {
		return "", err
	}
	return ids[0], nil
}

// RetryDeadAll does the same for all that pass the filter, at most f.Count. With explicit ids, all must exist, or none is
// retried.
func (b *Broker) RetryDeadAll(ctx context.Context, p *directory.Principal, f wire.DeadFilter, in wire.Input) ([]posthaste.MessageID, string, error) {
	page, cursor, err := b.DeadLetters(ctx, p, f)
	if err != nil {
		return nil, "", err
	}
	explicit := len(f.IDs) > 0
	if explicit && f.Count <= 0 && len(page) < len(slices.Compact(slices.Sorted(slices.Values(f.IDs)))) {
		return nil, "", notFound("some messages were not found")
	}
	size := bulkStep
	if explicit {
		size = ledger.MaxStep
	}
	var ids []posthaste.MessageID
	var pace pacer
	err = inSteps(ctx, &pace, page, size, func(part []Dead) error {
		made, err := b.retryDead(ctx, p, part, in, explicit)
		ids = append(ids, made...)
		return err
	})
	if err == nil && cursor != "" {
		err = pace.rest(ctx) // whoever asked is going to ask again
	}
	return ids, cursor, err
}

func (b *Broker) retryDead(ctx context.Context, p *directory.Principal, dead []Dead, in wire.Input, all bool) ([]posthaste.MessageID, error) {
	var settings *wire.Settings
	if len(in.Header) > 0 || len(in.Query) > 0 {
		in.IgnoreContentType = true
		s, err := wire.ParseSettings(in)
		if err != nil {
			return nil, err
		}
		if s.Given != 0 {
			settings = s
		}
	}
	var ids []posthaste.MessageID
	var turn turn
	defer turn.over()
	err := b.retryStale(ctx, p, func(p *directory.Principal) error {
		ids = nil
		if settings != nil {
			if err := b.checkSettings(ctx, p, settings, ""); err != nil {
				return err
			}
		}
		op := b.newAccept(p)
		op.AllDead = all
		for _, d := range dead {
			draft, err := compose.Again(d.Message, settings, b.limits(p.Tenant))
			if err != nil {
				return err
			}
			ld := b.draft(p.Tenant, draft)
			ld.Dead = store.DeadKey{Tenant: p.Tenant.ID, ID: d.Letter.ID}
			op.Drafts = append(op.Drafts, ld)
		}
		if err := b.accept(ctx, p, op, &turn); err != nil {
			return err
		}
		for _, d := range op.Drafts {
			if !d.Gone {
				ids = append(ids, d.ID)
			}
		}
		return nil
	})
	return ids, err
}
