//go:build crash

package crash

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// An account is all that is known after a test: what clients were told, what destinations received, and what the server says.
// It is a record, so a fault can be planted in it.
type account struct {
	specs      []*spec
	deliveries []*delivery
	log        map[string][]logEntry // by message, in order
	dead       map[string][]deadLetter
	lives      []*life
	receiver   string // the base of its URLs
}

// The kinds of faults.
const (
	faultLost      = "lost"      // accepted, and not known any more
	faultStuck     = "stuck"     // accepted, and not resolved
	faultUnsent    = "unsent"    // resolved as delivered, which its destination did not see
	faultTwice     = "twice"     // delivered or accepted again without need
	faultForeign   = "foreign"   // known, although nobody was told so or nobody sent it
	faultLog       = "log"       // an illegal or incomplete log
	faultDead      = "dead"      // a dead letter too few or too many
	faultCallback  = "callback"  // a callback too few, too many, or about something else
	faultContent   = "content"   // delivered, but not what was published
	faultEarly     = "early"     // delivered before it was due
	faultCanceled  = "canceled"  // delivered after its cancel was confirmed, or canceled without one
	faultPartial   = "partial"   // a part of a batch was accepted
	faultAnswer    = "answer"    // a publish had a wrong answer
	faultOrder     = "order"     // a queue out of order
	faultOpen      = "open"      // too many open messages of a queue, or attempts of a key
	faultRate      = "rate"      // too many starts in a window
	faultPaused    = "paused"    // a start at a paused queue or key
	faultDuplicate = "duplicate" // a deduplication id that made two messages
)

// A fault is a broken promise.
type fault struct{ kind, text string }

type faults []fault

func (f *faults) add(kind, format string, args ...any) {
	*f = append(*f, fault{kind, fmt.Sprintf(format, args...)})
}

// report makes the faults errors of the test, with as many of each kind as anybody wants to read.
func (f faults) report(t *testing.T) {
	t.Helper()
	seen := map[string]int{}
	for _, one := range f {
		if seen[one.kind]++; seen[one.kind] <= 5 {
			t.Errorf("%s: %s", one.kind, one.text)
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(seen)) {
		if seen[kind] > 5 {
			t.Errorf("%s: %d in all", kind, seen[kind])
		}
	}
}

// has reports whether there is a fault of a kind.
func (f faults) has(kind string) bool {
	return slices.ContainsFunc(f, func(one fault) bool { return one.kind == kind })
}

// patience is how long nothing may happen before an unresolved message counts as stuck. No test has longer delays.
const patience = 20 * time.Second

// settle waits until every message is resolved, or until nothing has happened for the time that it has patience, and returns
// the account.
func (l *load) settle(ctx context.Context, patience time.Duration) (*account, error) {
	a := &account{specs: l.all(), receiver: l.receiver.base}
	last := time.Now()
	progress := func() bool { return time.Since(last) < patience && ctx.Err() == nil }
	// Destinations know first, and it costs the server nothing to ask them.
	for n := -1; progress(); {
		a.deliveries = l.receiver.deliveries()
		if a.delivered() {
			break
		}
		if len(a.deliveries) > n {
			n, last = len(a.deliveries), time.Now()
		}
		more, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		l.receiver.waitMore(more, 100)
		cancel()
	}
	last = time.Now()
	before := ""
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		log, err := l.client.log(ctx)
		if err != nil {
			return nil, err
		}
		a.log = make(map[string][]logEntry)
		for _, e := range log {
			a.log[e.ID] = append(a.log[e.ID], e)
		}
		a.deliveries = l.receiver.deliveries()
		state := fmt.Sprint(len(log), len(a.deliveries))
		// The log is read page by page, so it is true only if it is the same again.
		if a.resolved() && state == before || !progress() {
			break
		}
		if state != before {
			last, before = time.Now(), state
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
	dead, err := l.client.dead(ctx)
	if err != nil {
		return nil, err
	}
	a.dead = make(map[string][]deadLetter)
	for _, d := range dead {
		a.dead[d.ID] = append(a.dead[d.ID], d)
	}
	a.lives = l.server.all()
	return a, nil
}

// verify settles and reports all faults.
func (l *load) verify(t *testing.T) *account {
	t.Helper()
	a, err := l.settle(l.server.ctx, patience)
	if err != nil {
		t.Fatal(err)
	}
	a.faults().report(t)
	// The log of a single message is read in another way.
	for _, sp := range a.specs[:min(50, len(a.specs))] {
		_, id := sp.snapshot()
		if id == "" {
			continue
		}
		if entries, err := l.client.logOf(l.server.ctx, id); err != nil {
			t.Error(err)
		} else if !slices.Equal(entries, a.log[id]) {
			t.Errorf("%s: the log of %s alone is %s, and within the whole log %s", faultLog, id, show(entries), show(a.log[id]))
		}
	}
	for _, text := range l.receiver.requestFaults() {
		t.Error(text)
	}
	a.summarize(t)
	return a
}

// delivered reports whether destinations answered the last attempt of every accepted message.
func (a *account) delivered() bool {
	answered := make(map[int]int, len(a.specs)) // attempts, by publish
	for _, d := range a.deliveries {
		if d.kind == kindMessage && !d.answered.IsZero() {
			answered[d.n] = max(answered[d.n], d.retried+1)
		}
	}
	for _, sp := range a.specs {
		if o, _ := sp.snapshot(); o != accepted || sp.canceled.asked || sp.hold || sp.shared {
			continue
		}
		if n, _ := sp.attempts(); answered[sp.n] < n {
			return false
		}
	}
	return true
}

func final(state string) bool {
	return state == "DELIVERED" || state == "FAILED" || state == "CANCELED"
}

// resolved reports whether the log is complete: every accepted message is there, and every message is resolved.
func (a *account) resolved() bool {
	for _, entries := range a.log {
		if !final(entries[len(entries)-1].State) {
			return false
		}
	}
	for _, sp := range a.specs {
		if o, id := sp.snapshot(); o == accepted && a.log[id] == nil {
			return false
		}
	}
	return true
}

// lifeAt returns the life that ran at a moment of the log.
func (a *account) lifeAt(ms int64) *life {
	for _, l := range a.lives {
		if ms >= l.begun.UnixMilli() && (!l.ended() || ms <= l.over.UnixMilli()) {
			return l
		}
	}
	return nil
}

func (a *account) life(n int) *life {
	if n < 1 || n > len(a.lives) {
		return nil
	}
	return a.lives[n-1]
}

// placeOf reads the URL of an entry.
func placeOf(text string) (place, error) {
	u, err := url.Parse(text)
	if err != nil {
		return place{}, err
	}
	return parsePlace(u)
}

// faults compares everything with everything.
func (a *account) faults() faults {
	var f faults
	messages := make(map[int][]string) // ids, by publish
	callbacks := make(map[string]place)
	byID := make(map[string][]*delivery)
	for _, d := range a.deliveries {
		byID[d.id] = append(byID[d.id], d)
	}
	for _, id := range slices.Sorted(maps.Keys(a.log)) {
		entries := a.log[id]
		p, err := placeOf(entries[0].URL)
		if err != nil || p.n < 0 || p.n >= len(a.specs) {
			f.add(faultForeign, "message %s to %s was never published", id, entries[0].URL)
			continue
		}
		sp := &spec{place: p, retries: callbackRetries}
		if p.kind == kindMessage {
			messages[p.n] = append(messages[p.n], id)
			sp = a.specs[p.n]
		} else {
			callbacks[id] = p
		}
		a.checkLog(&f, id, entries, sp)
		a.checkDeliveries(&f, id, entries, byID[id])
	}
	for id, list := range byID {
		if a.log[id] == nil {
			f.add(faultForeign, "message %s was delivered to %s, and the log does not know it", id, list[0].place.url(""))
		}
	}
	for _, sp := range a.specs {
		a.checkSpec(&f, sp, messages[sp.n])
	}
	a.checkContent(&f)
	a.checkBatches(&f, messages)
	a.checkShared(&f, messages)
	a.checkCallbacks(&f, callbacks, byID)
	for id, letters := range a.dead {
		if entries := a.log[id]; len(letters) > 1 || entries == nil || entries[len(entries)-1].State != "FAILED" {
			f.add(faultDead, "message %s has %d dead letters and the log %s", id, len(letters), show(entries))
		}
	}
	return f
}

func states(entries []logEntry) []string {
	list := make([]string, len(entries))
	for i, e := range entries {
		list[i] = e.State
	}
	return list
}

// show spells a log.
func show(entries []logEntry) string {
	list := make([]string, len(entries))
	for i, e := range entries {
		list[i] = fmt.Sprintf("%s@%d", e.State, e.Time)
		if e.Error != "" {
			list[i] += "(" + e.Error + ")"
		}
	}
	return "[" + strings.Join(list, " ") + "]"
}

// checkLog holds the log of a message to its one legal sequence; those that somebody tried to cancel have several.
func (a *account) checkLog(f *faults, id string, entries []logEntry, sp *spec) {
	last := entries[len(entries)-1]
	for i, e := range entries[1:] {
		if e.Time < entries[i].Time {
			f.add(faultLog, "the log of %s goes back in time: %s", id, show(entries))
		}
	}
	switch got := states(entries); {
	case !final(last.State):
		f.add(faultStuck, "message %s to %s is not resolved: %s", id, sp.place.url(""), show(entries))
		return
	case sp.canceled.asked:
		checkCanceled(f, id, entries, sp)
	case !slices.Equal(got, sp.states()):
		f.add(faultLog, "the log of %s to %s is %s, want %v", id, sp.place.url(""), show(entries), sp.states())
	}
	for i, e := range entries[:len(entries)-1] {
		if e.State == "RETRY" && entries[i+1].State == "ACTIVE" && entries[i+1].Time < e.Next {
			f.add(faultEarly, "message %s was tried again %d ms before its time: %s", id, e.Next-entries[i+1].Time, show(entries))
		}
		if e.State == "CREATED" && entries[i+1].State == "ACTIVE" && entries[i+1].Time < e.Next {
			f.add(faultEarly, "message %s was tried %d ms before its time: %s", id, e.Next-entries[i+1].Time, show(entries))
		}
	}
	if last.State == "FAILED" && len(a.dead[id]) == 0 && !sp.requeued {
		f.add(faultDead, "message %s failed and is no dead letter: %s", id, show(entries))
	}
}

// checkCanceled holds the log of a message that somebody tried to cancel to what is legal then.
func checkCanceled(f *faults, id string, entries []logEntry, sp *spec) {
	state := "" // before the first entry
	requested := 0
	for _, e := range entries {
		if e.State == "CANCEL_REQUESTED" {
			if requested++; requested > 1 || state == "" {
				f.add(faultLog, "the log of %s is illegal: %s", id, show(entries))
				return
			}
			continue
		}
		legal := map[string]string{
			"": "CREATED", "CREATED": "ACTIVE", "ACTIVE": "DELIVERED ERROR", "ERROR": "RETRY FAILED", "RETRY": "ACTIVE",
		}[state]
		if requested > 0 {
			// Nothing begins after the request, and nothing follows a failure but the end.
			legal = map[string]string{"CREATED": "CANCELED", "ACTIVE": "DELIVERED ERROR CANCELED", "ERROR": "CANCELED", "RETRY": "CANCELED"}[state]
		}
		if !slices.Contains(strings.Fields(legal), e.State) {
			f.add(faultLog, "the log of %s is illegal: %s", id, show(entries))
			return
		}
		state = e.State
	}
	if confirmed := !sp.canceled.confirmed.IsZero(); confirmed && requested == 0 {
		f.add(faultCanceled, "the cancel of %s was confirmed, and its log does not have it: %s", id, show(entries))
	}
}

// checkDeliveries holds what a destination got to the log. An attempt may come more than once only if the life that made it
// before ended in a way that cuts attempts off; one whose end is in the log is never made again.
func (a *account) checkDeliveries(f *faults, id string, entries []logEntry, list []*delivery) {
	var ends []*logEntry // of the attempts
	for i := range entries {
		if s := entries[i].State; s == "ERROR" || s == "DELIVERED" {
			ends = append(ends, &entries[i])
		}
	}
	active := 0
	for _, e := range entries {
		if e.State == "ACTIVE" {
			active++
		}
	}
	byAttempt := make(map[int][]*delivery)
	for _, d := range list {
		byAttempt[d.retried] = append(byAttempt[d.retried], d)
	}
	for retried, list := range byAttempt {
		slices.SortStableFunc(list, func(a, b *delivery) int { return cmp.Compare(a.life, b.life) })
		end := 0 // the life that recorded the attempt
		if retried < len(ends) {
			if l := a.lifeAt(ends[retried].Time); l != nil {
				end = l.n
			} else {
				f.add(faultLog, "no server ran when this was logged of %s: %s", id, show(entries))
				continue
			}
		} else if final(entries[len(entries)-1].State) && entries[len(entries)-1].State != "CANCELED" {
			f.add(faultLog, "attempt %d of %s was made and is not in the log: %s", retried, id, show(entries))
		}
		for i, d := range list {
			if i > 0 && d.life == list[i-1].life {
				f.add(faultTwice, "attempt %d of %s was made twice in life %d: %s", retried, id, d.life, show(entries))
			}
			l := a.life(d.life)
			switch {
			case l == nil:
				f.add(faultForeign, "attempt %d of %s came from life %d, which there was not", retried, id, d.life)
			case end > 0 && d.life > end:
				f.add(faultTwice, "attempt %d of %s was made in life %d, and had been recorded in life %d: %s", retried, id, d.life, end, show(entries))
			case d.life != end && l.ended() && !l.mayCut:
				f.add(faultTwice, "attempt %d of %s was made in life %d, which ended in order, and not recorded in it: %s", retried, id, d.life, show(entries))
			}
		}
		if end > 0 && !slices.ContainsFunc(list, func(d *delivery) bool { return d.life == end && !d.answered.IsZero() }) {
			f.add(faultUnsent, "attempt %d of %s was recorded in life %d, in which its destination answered none: %s", retried, id, end, show(entries))
		}
	}
	for i := range ends {
		if byAttempt[i] == nil {
			f.add(faultUnsent, "attempt %d of %s is in the log and never arrived: %s", i, id, show(entries))
		}
	}
	if final(entries[len(entries)-1].State) && active < len(ends) {
		f.add(faultLog, "%s has %d attempts that ended and %d that began: %s", id, len(ends), active, show(entries))
	}
}

// checkSpec compares what a publisher was told with what there is. ids are of the messages that the publish made.
func (a *account) checkSpec(f *faults, sp *spec, ids []string) {
	o, id := sp.snapshot()
	if sp.fault != "" {
		f.add(faultAnswer, "%s: %s", sp, sp.fault)
	}
	if len(ids) > 1 && !sp.requeued {
		f.add(faultTwice, "%s made %d messages: %v", sp, len(ids), ids)
	}
	switch o {
	case accepted:
		if sp.shared && a.log[id] != nil {
			return // checkShared compares it with the others
		}
		if !slices.Contains(ids, id) {
			f.add(faultLost, "%s was accepted as %s, which nobody knows any more", sp, id)
			return
		}
	case unsent, refused:
		if len(ids) > 0 {
			f.add(faultForeign, "%s was not accepted, and made %v", sp, ids)
		}
		return
	case unknown:
		for _, id := range ids {
			if l := a.lifeAt(a.log[id][0].Time); l != nil && l.ended() && l.end == stopped {
				f.add(faultForeign, "%s was accepted as %s by life %d, which stopped in order and did not answer", sp, id, l.n)
			}
		}
		if len(ids) == 0 {
			return
		}
		id = ids[0]
	}
	entries := a.log[id]
	if due := sp.sent.Add(sp.delay); sp.delay > 0 {
		for _, e := range entries {
			if e.State == "ACTIVE" && e.Time < due.UnixMilli() {
				f.add(faultEarly, "%s was tried %v before its time: %s", sp, due.Sub(time.UnixMilli(e.Time)), show(entries))
				break
			}
		}
	}
}

// checkContent compares what arrived with what was published.
func (a *account) checkContent(f *faults) {
	for _, d := range a.deliveries {
		if d.kind != kindMessage || d.n >= len(a.specs) {
			continue
		}
		sp := a.specs[d.n]
		switch {
		case d.method != sp.method:
			f.add(faultContent, "%s arrived as %s", sp, d.method)
		case d.sum != sp.sum():
			f.add(faultContent, "%s arrived with another body", sp)
		case d.arrived.Before(sp.sent.Add(sp.delay)):
			f.add(faultEarly, "%s arrived %v before its time", sp, sp.sent.Add(sp.delay).Sub(d.arrived))
		}
	}
}

// checkBatches sees to it that a batch is accepted whole or not at all.
func (a *account) checkBatches(f *faults, messages map[int][]string) {
	type count struct{ made, size int }
	batches := make(map[int]*count)
	for _, sp := range a.specs {
		if sp.batch == 0 {
			continue
		}
		if batches[sp.batch] == nil {
			batches[sp.batch] = new(count)
		}
		batches[sp.batch].size++
		if len(messages[sp.n]) > 0 {
			batches[sp.batch].made++
		}
	}
	for n, c := range batches {
		if c.made != 0 && c.made != c.size {
			f.add(faultPartial, "batch %d has %d items, of which %d were accepted", n, c.size, c.made)
		}
	}
}

// checkShared sees to it that publishes with one id for deduplication made one message, and were all told its id.
func (a *account) checkShared(f *faults, messages map[int][]string) {
	made := make(map[string][]string)
	told := make(map[string][]string)
	first := make(map[string]int) // answers that did not say to be duplicates
	for _, sp := range a.specs {
		if !sp.shared {
			continue
		}
		made[sp.dedup] = append(made[sp.dedup], messages[sp.n]...)
		if o, id := sp.snapshot(); o == accepted {
			told[sp.dedup] = append(told[sp.dedup], id)
			if !sp.duplicate {
				first[sp.dedup]++
			}
		}
	}
	for dedup, ids := range told {
		slices.Sort(ids)
		if ids = slices.Compact(ids); len(ids) != 1 || !slices.Equal(ids, made[dedup]) {
			f.add(faultDuplicate, "publishes with the id %s were told %v and made %v", dedup, ids, made[dedup])
		}
		if first[dedup] > 1 {
			f.add(faultDuplicate, "%d publishes with the id %s were told to be the first", first[dedup], dedup)
		}
	}
}

// checkCallbacks sees to it that every attempt that was recorded had its one callback, and every failure its one.
func (a *account) checkCallbacks(f *faults, callbacks map[string]place, byID map[string][]*delivery) {
	type about struct {
		kind    string
		source  string
		retried int
	}
	made := make(map[about][]string)
	for id, p := range callbacks {
		list := byID[id]
		if len(list) == 0 {
			continue // its log tells of it
		}
		r := list[0].report
		key := about{p.kind, r.Source, r.Retried}
		made[key] = append(made[key], id)
		if entries := a.log[r.Source]; entries == nil {
			f.add(faultCallback, "callback %s is about message %q, which nobody knows", id, r.Source)
		} else if sp, err := placeOf(entries[0].URL); err != nil || sp.n != p.n || sp.status(r.Retried) != r.Status {
			f.add(faultCallback, "callback %s of publish %d is about %s and reports status %d", id, p.n, entries[0].URL, r.Status)
		}
		if p.kind == kindFailureCallback && !slices.ContainsFunc(a.dead[r.Source], func(d deadLetter) bool { return d.DLQID == r.DLQID }) {
			f.add(faultCallback, "failure callback %s names dead letter %q, which %s is not", id, r.DLQID, r.Source)
		}
	}
	for id, entries := range a.log {
		p, err := placeOf(entries[0].URL)
		if err != nil || p.kind != kindMessage || p.n >= len(a.specs) {
			continue
		}
		sp := a.specs[p.n]
		attempts, failed := 0, false
		for _, e := range entries {
			if e.State == "CANCEL_REQUESTED" {
				break // nothing is reported after it
			}
			if e.State == "ERROR" || e.State == "DELIVERED" {
				attempts++
			}
			failed = failed || e.State == "FAILED"
		}
		expect := func(kind string, retried, want int) {
			key := about{kind, id, retried}
			if got := made[key]; len(got) != want {
				f.add(faultCallback, "attempt %d of %s has %d callbacks of kind %s, want %d: %v", retried, id, len(got), kind, want, got)
			}
			delete(made, key)
		}
		if sp.callback != nil {
			for i := range attempts {
				expect(kindCallback, i, 1)
			}
		}
		if sp.failureCallback != nil && failed {
			expect(kindFailureCallback, attempts-1, 1)
		}
	}
	for key, ids := range made {
		if entries := a.log[key.source]; entries != nil {
			f.add(faultCallback, "nothing explains callbacks %v of kind %s about attempt %d of %s: %s", ids, key.kind, key.retried, key.source, show(entries))
		}
	}
}

// duplicates counts the deliveries that were repeated, by the life that was cut off.
func (a *account) duplicates() map[int]int {
	type attempt struct {
		id      string
		retried int
	}
	last := make(map[attempt]int)
	for _, d := range a.deliveries {
		key := attempt{d.id, d.retried}
		last[key] = max(last[key], d.life)
	}
	n := make(map[int]int)
	for _, d := range a.deliveries {
		if d.life < last[attempt{d.id, d.retried}] {
			n[d.life]++
		}
	}
	return n
}

// summarize tells what a test did, for those who read along.
func (a *account) summarize(t *testing.T) {
	t.Helper()
	count := make(map[outcome]int)
	for _, sp := range a.specs {
		o, _ := sp.snapshot()
		count[o]++
	}
	duplicates := a.duplicates()
	total := 0
	for n, d := range duplicates {
		if total += d; d > maxInFlight {
			t.Errorf("%s: %d deliveries of life %d were repeated, more than it could have in flight", faultTwice, d, n)
		}
	}
	t.Logf("%d lives; %d publishes accepted, %d without an answer, %d refused; %d messages, %d dead; %d deliveries, of which %d were repeated after a life ended %v",
		len(a.lives), count[accepted], count[unknown], count[refused], len(a.log), len(a.dead), len(a.deliveries), total, duplicates)
}
