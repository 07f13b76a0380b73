package sqlite_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	zsqlite "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/store/sqlite"
)

func TestReopenKeepsWhatWasAnswered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a file with % and ? and #")
	e, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	a := newAccept([]byte("body"))
	do(t, e, a)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := e.Do(t.Context(), 0, newAccept(nil)); posthaste.CodeOf(err) != posthaste.CodeUnavailable {
		t.Errorf("Do after Close: %v, want unavailable", err)
	}
	if _, err := e.Ticket(t.Context(), a.t.ID); posthaste.CodeOf(err) != posthaste.CodeUnavailable {
		t.Errorf("Ticket after Close: %v, want unavailable", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}

	e = open(t, sqlite.Config{Path: path})
	m, err := e.Message(t.Context(), tenant, a.m.ID)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(a.m, m, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("message (-want +got)\n%s", d)
	}
	got, err := e.Ticket(t.Context(), a.m.ID)
	if err != nil {
		t.Fatal(err)
	}
	want := *a.t
	want.Stored = store.Location{Phase: posthaste.PhaseClaimed}
	if d := cmp.Diff(&want, got); d != "" {
		t.Errorf("ticket (-want +got)\n%s", d)
	}
}

// A copy of the files as they are when an operation is answered is what a crash leaves.
func TestAnsweredIsOnDisk(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "data")
	e := open(t, sqlite.Config{Path: path})
	var ids []posthaste.MessageID
	for range 50 {
		a := newAccept(make([]byte, 3000))
		do(t, e, a)
		ids = append(ids, a.t.ID)
	}
	crashed := filepath.Join(dir, "crashed")
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(crashed+suffix, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// SQLite's own file methods read what ours wrote.
	c, err := zsqlite.OpenConn(crashed)
	if err != nil {
		t.Fatal(err)
	}
	if got := scalar(t, c, "SELECT count(*) FROM messages"); got != "50" {
		t.Errorf("%s messages, want 50", got)
	}
	if got := scalar(t, c, "PRAGMA integrity_check"); got != "ok" {
		t.Errorf("integrity: %s", got)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	e2 := open(t, sqlite.Config{Path: crashed})
	list, err := e2.Tickets(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	for i, k := range list {
		if k == nil || k.ID != ids[i] {
			t.Errorf("ticket %s: got %v", ids[i], k)
		}
	}
}

func scalar(t *testing.T, c *zsqlite.Conn, query string) (v string) {
	t.Helper()
	err := sqlitex.ExecuteTransient(c, query, &sqlitex.ExecOptions{ResultFunc: func(s *zsqlite.Stmt) error {
		v = s.ColumnText(0)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestNewerSchemaIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	e := open(t, sqlite.Config{Path: path})
	if err := e.Migrate(t.Context()); err != nil {
		t.Error(err)
	}
	if err := e.Exec(t.Context(), fmt.Sprintf("PRAGMA user_version = %d", sqlite.SchemaVersion+1)); err != nil {
		t.Fatal(err)
	}
	_, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
	if posthaste.CodeOf(err) != posthaste.CodeConflict || !strings.Contains(err.Error(), "schema 2") {
		t.Errorf("got %v, want a conflict that names the schema", err)
	}
}

func TestNotADatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(path, []byte(strings.Repeat("this is not a database\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.Open(t.Context(), sqlite.Config{Path: path}); posthaste.CodeOf(err) != posthaste.CodeUnavailable {
		t.Errorf("got %v, want unavailable", err)
	}
	if _, err := sqlite.Open(t.Context(), sqlite.Config{}); posthaste.CodeOf(err) != posthaste.CodeInvalid {
		t.Errorf("without a path: got %v, want invalid", err)
	}
}

func TestInMemoryIsRemoved(t *testing.T) {
	e, err := sqlite.Open(t.Context(), sqlite.Config{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	do(t, e, newAccept(nil))
	dir := filepath.Dir(e.Path())
	if _, err := os.Stat(dir); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
}

// blocked holds the writer inside a commit until release is called, so that what is submitted meanwhile is one batch.
func blocked(t *testing.T, e *sqlite.Engine) (release func()) {
	t.Helper()
	in, out := make(chan struct{}), make(chan struct{})
	go e.Do(context.Background(), 0, &op{decide: func(*store.View, *store.Changes) error { //nolint:errcheck // it has no error
		close(in)
		<-out
		return nil
	}})
	<-in
	return func() { close(out) }
}

// together submits operations such that they are one batch, in order, and returns their errors.
func together(t *testing.T, e *sqlite.Engine, ops ...store.Op) []error {
	t.Helper()
	release := blocked(t, e)
	errs := make([]error, len(ops))
	var wg sync.WaitGroup
	for i, o := range ops {
		wg.Go(func() { errs[i] = e.Do(context.Background(), 0, o) })
		for e.Queued() != i+1 {
			time.Sleep(10 * time.Microsecond)
		}
	}
	release()
	wg.Wait()
	return errs
}

func TestFailuresWithinABatchAreAlone(t *testing.T) {
	e := open(t, sqlite.Config{InMemory: true})
	one, two := newAccept(nil), newAccept(nil)
	failing := &op{decide: func(v *store.View, c *store.Changes) error {
		c.Messages = append(c.Messages, &posthaste.Message{ID: "never", Tenant: tenant})
		return store.ErrStale
	}}
	panicking := &op{decide: func(v *store.View, c *store.Changes) error {
		c.Messages = append(c.Messages, &posthaste.Message{ID: "never", Tenant: tenant})
		panic("oh")
	}}
	before := e.Stats()
	errs := together(t, e, one, failing, panicking, two)
	if after := e.Stats(); after.Commits-before.Commits > 2 {
		t.Errorf("%d commits, want one batch", after.Commits-before.Commits)
	}
	if errs[0] != nil || errs[3] != nil {
		t.Errorf("others failed: %v, %v", errs[0], errs[3])
	}
	if !errors.Is(errs[1], store.ErrStale) {
		t.Errorf("got %v, want ErrStale", errs[1])
	}
	if posthaste.CodeOf(errs[2]) != posthaste.CodeInternal {
		t.Errorf("got %v, want internal", errs[2])
	}
	checkMessages(t, e, one.m.ID, two.m.ID)
}

func checkMessages(t *testing.T, e *sqlite.Engine, want ...posthaste.MessageID) {
	t.Helper()
	list, err := e.MessageList(t.Context(), tenant, "", store.Page{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	var got []posthaste.MessageID
	for _, m := range list {
		got = append(got, m.ID)
	}
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("messages (-want +got)\n%s", d)
	}
}

// An operation that SQLite refuses spoils the transaction of its batch. The others are carried out again.
func TestUnwritableOperationFailsAlone(t *testing.T) {
	e := open(t, sqlite.Config{InMemory: true})
	first := newAccept(nil)
	do(t, e, first)
	one, two := newAccept(nil), newAccept(nil)
	decided := 0
	again := &op{decide: func(v *store.View, c *store.Changes) error {
		decided++
		c.Messages = append(c.Messages, &posthaste.Message{ID: newID(v.Now), Tenant: tenant}, first.m)
		return nil
	}}
	lost := &op{decide: func(v *store.View, c *store.Changes) error {
		c.Drop = append(c.Drop, &store.Ticket{ID: "nowhere", Stored: store.Location{Phase: posthaste.PhaseClaimed}})
		return nil
	}}
	errs := together(t, e, one, again, lost, two)
	if errs[0] != nil || errs[3] != nil {
		t.Errorf("others failed: %v, %v", errs[0], errs[3])
	}
	for _, err := range errs[1:3] {
		if posthaste.CodeOf(err) != posthaste.CodeInternal {
			t.Errorf("got %v, want internal", err)
		}
	}
	if decided != 2 {
		t.Errorf("decided %d times, want 2", decided)
	}
	checkMessages(t, e, first.m.ID, one.m.ID, two.m.ID)
}

func TestLaterOperationsSeeEarlierOnesOfTheBatch(t *testing.T) {
	e := open(t, sqlite.Config{InMemory: true})
	ref := store.NewGateRef(1, tenant, store.KindFlow, "k")
	add := func() *op {
		return &op{want: store.Want{Gates: []store.GateRef{ref}}, decide: func(v *store.View, c *store.Changes) error {
			g := v.Gates[0]
			if g == nil {
				g = &store.Gate{GateRef: ref}
			}
			g.Live++
			c.Gates = append(c.Gates, g)
			return nil
		}}
	}
	spoil := &op{want: store.Want{Gates: []store.GateRef{ref}}, decide: func(v *store.View, c *store.Changes) error {
		v.Gates[0].Live = 1000
		return store.ErrStale
	}}
	errs := together(t, e, add(), add(), spoil, add())
	if err := errors.Join(errs...); !errors.Is(err, store.ErrStale) {
		t.Fatal(err)
	}
	g, err := e.Gate(t.Context(), ref)
	if err != nil || g == nil || g.Live != 3 {
		t.Errorf("got %+v, %v, want 3 live", g, err)
	}
}

func TestLargeOperationsHaveTheirOwnCommit(t *testing.T) {
	e := open(t, sqlite.Config{InMemory: true})
	var ops []store.Op
	for i := range 6 {
		o := change(func(time.Time, *store.Changes) {})
		if i == 2 {
			o.size = 1 << 20
		}
		ops = append(ops, o)
	}
	before := e.Stats().Commits
	if err := errors.Join(together(t, e, ops...)...); err != nil {
		t.Fatal(err)
	}
	// The blocking one, two, the large one, three.
	if got := e.Stats().Commits - before; got != 4 {
		t.Errorf("%d commits, want 4", got)
	}
}

func TestContextEndsTheWaitingOnly(t *testing.T) {
	e := open(t, sqlite.Config{InMemory: true})
	release := blocked(t, e)
	ctx, cancel := context.WithCancelCause(t.Context())
	a := newAccept(nil)
	cause := errors.New("the caller left")
	errc := make(chan error)
	go func() { errc <- e.Do(ctx, 0, a) }()
	for e.Queued() != 1 {
		time.Sleep(10 * time.Microsecond)
	}
	cancel(cause)
	if err := <-errc; !errors.Is(err, cause) {
		t.Errorf("got %v, want the cause", err)
	}
	release()
	do(t, e, newAccept(nil))
	list, err := e.MessageList(t.Context(), tenant, "", store.Page{Limit: 10})
	if err != nil || len(list) != 2 {
		t.Errorf("%d messages, %v, want 2", len(list), err)
	}
	if _, err := e.Ticket(ctx, "x"); !errors.Is(err, cause) {
		t.Errorf("a read under an ended context: %v, want the cause", err)
	}
}

func TestNowNeverGoesBack(t *testing.T) {
	path, clock := filepath.Join(t.TempDir(), "data"), newClock()
	now := func(e *sqlite.Engine) (now time.Time) {
		t.Helper()
		do(t, e, &op{decide: func(v *store.View, c *store.Changes) error {
			now = v.Now
			return nil
		}})
		return now
	}
	e, err := sqlite.Open(t.Context(), sqlite.Config{Path: path, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	start := clock.Now()
	clock.advance(time.Hour)
	if got := now(e); !got.Equal(start.Add(time.Hour)) || got.Location() != time.UTC {
		t.Errorf("got %v, want the clock's time", got)
	}
	clock.advance(-time.Minute)
	last := start.Add(time.Hour)
	later := func(e *sqlite.Engine, when string) {
		t.Helper()
		got := now(e)
		if !got.After(last) || got.Sub(last) > time.Millisecond {
			t.Errorf("got %v %s, want just after %v", got, when, last)
		}
		last = got
	}
	later(e, "after the clock was set back")
	later(e, "at the same moment")
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = open(t, sqlite.Config{Path: path, Clock: clock})
	later(e, "after reopening")
}

// After a crash nothing was noted but what the messages and attempts tell.
func TestNowIsAfterWhatIsStored(t *testing.T) {
	path, clock := filepath.Join(t.TempDir(), "data"), newClock()
	e := open(t, sqlite.Config{Path: path, Clock: clock})
	clock.advance(time.Hour)
	a := newAccept(nil)
	do(t, e, a)
	check := func(last time.Time) {
		t.Helper()
		other := open(t, sqlite.Config{Path: path, Clock: newClock()})
		do(t, other, &op{decide: func(v *store.View, c *store.Changes) error {
			if !v.Now.After(last) {
				t.Errorf("Now is %v, not after %v", v.Now, last)
			}
			return nil
		}})
	}
	check(a.m.CreatedAt)
	clock.advance(time.Hour)
	end := newSettle(a.t.ID)
	do(t, e, end)
	check(end.a.EndedAt)
}

func TestOneServerAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	e := open(t, sqlite.Config{Path: path})
	one, err := e.Join(t.Context(), store.NodeInfo{Name: "a", TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	cli := open(t, sqlite.Config{Path: path})
	for _, other := range []*sqlite.Engine{cli, e} {
		_, err := other.Join(t.Context(), store.NodeInfo{Name: "b"})
		if posthaste.CodeOf(err) != posthaste.CodeConflict || !strings.Contains(err.Error(), path) {
			t.Errorf("a second Join: %v, want a conflict that names the file", err)
		}
	}
	if _, err := e.Renew(t.Context(), one); err != nil {
		t.Error(err)
	}
	claim := newAccept(nil)
	claim.node = one.NodeEpoch
	do(t, e, claim)
	if list, err := e.Expired(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("Expired: %v, %v, want none", list, err)
	}
	if err := e.Leave(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Renew(t.Context(), one); posthaste.CodeOf(err) != posthaste.CodeConflict {
		t.Errorf("Renew after Leave: %v, want a conflict", err)
	}
	two, err := cli.Join(t.Context(), store.NodeInfo{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if two.Epoch <= one.Epoch {
		t.Errorf("epoch %d after %d", two.Epoch, one.Epoch)
	}
	list, err := cli.Expired(t.Context())
	if d := cmp.Diff([]store.NodeEpoch{one.NodeEpoch}, list); err != nil || d != "" {
		t.Errorf("Expired: %v (-want +got)\n%s", err, d)
	}
	claims, err := cli.Claims(t.Context(), one.NodeEpoch, "", 10)
	if err != nil || len(claims) != 1 || claims[0].ID != claim.t.ID {
		t.Errorf("Claims: %v, %v", claims, err)
	}
}

// Another process changes configuration while the server runs.
func TestNothingIsCachedBetweenCommits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	server, cli := open(t, sqlite.Config{Path: path}), open(t, sqlite.Config{Path: path})
	ref := store.NewGateRef(1, tenant, store.KindQueue, "q")
	version := func() (v int64) {
		do(t, server, &op{want: store.Want{Tenants: []posthaste.TenantID{tenant}, Gates: []store.GateRef{ref}},
			decide: func(view *store.View, _ *store.Changes) error {
				v = view.Versions[0]
				if g := view.Gates[0]; g != nil {
					v += g.Gen
				}
				return nil
			}})
		return v
	}
	if v := version(); v != 0 {
		t.Errorf("version %d, want 0", v)
	}
	for i := range int64(3) {
		do(t, cli, change(func(_ time.Time, c *store.Changes) {
			c.Raise = append(c.Raise, tenant)
			c.Gates = append(c.Gates, &store.Gate{GateRef: ref, Gen: 10 * (i + 1)})
		}))
		if v := version(); v != 11*(i+1) {
			t.Errorf("version %d, want %d", v, 11*(i+1))
		}
	}
}

// A full disk fails what is submitted, and when there is space again the store works.
func TestFullDisk(t *testing.T) {
	e := open(t, sqlite.Config{InMemory: true})
	kept := newAccept(nil)
	do(t, e, kept)
	if err := e.Exec(t.Context(), "PRAGMA max_page_count = 60"); err != nil {
		t.Fatal(err)
	}
	big := func() *accept { return newAccept(make([]byte, 1<<20)) }
	errs := together(t, e, newAccept(nil), big(), newAccept(nil))
	for _, err := range errs {
		if posthaste.CodeOf(err) != posthaste.CodeUnavailable {
			t.Errorf("got %v, want unavailable", err)
		}
	}
	if err := e.Do(t.Context(), 0, big()); posthaste.CodeOf(err) != posthaste.CodeUnavailable || !strings.Contains(err.Error(), "disk is full") {
		t.Errorf("got %v, want unavailable and the reason", err)
	}
	checkMessages(t, e, kept.m.ID)
	if err := e.Exec(t.Context(), "PRAGMA max_page_count = 1000000"); err != nil {
		t.Fatal(err)
	}
	a := big()
	do(t, e, a)
	checkMessages(t, e, kept.m.ID, a.m.ID)
}

func TestHooks(t *testing.T) {
	var points []string
	e := open(t, sqlite.Config{InMemory: true, Hook: func(p string) { points = append(points, p) }})
	do(t, e, newAccept(nil))
	if d := cmp.Diff([]string{"before-commit", "after-commit", "before-answer"}, points); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestHintsTellTheEarliest(t *testing.T) {
	e := open(t, sqlite.Config{InMemory: true})
	var due time.Time
	put := func(phase posthaste.Phase, in time.Duration) {
		do(t, e, change(func(now time.Time, c *store.Changes) {
			k := &store.Ticket{ID: newID(now), Tenant: tenant, Phase: phase, Due: now.Add(in)}
			if phase == posthaste.PhaseWaiting {
				k.ParkedAt = store.NewGateRef(1, tenant, store.KindFlow, "f")
			}
			due = k.Due
			c.Put = append(c.Put, k)
		}))
	}
	put(posthaste.PhaseClaimed, 0)
	select {
	case h := <-e.Hints():
		t.Errorf("a claim made a hint: %v", h)
	default:
	}
	put(posthaste.PhaseDelayed, 3*time.Hour)
	put(posthaste.PhaseWaiting, time.Hour)
	want := due
	put(posthaste.PhaseReady, 2*time.Hour)
	if h := <-e.Hints(); !h.Due.Equal(want) {
		t.Errorf("got %v, want %v", h.Due, want)
	}
	do(t, e, change(func(now time.Time, c *store.Changes) {
		c.Tick = &store.Tick{TickRef: store.TickRef{Tenant: tenant, Schedule: "s"}, Next: now.Add(time.Minute)}
		want = c.Tick.Next
	}))
	if h := <-e.Hints(); !h.Due.Equal(want) {
		t.Errorf("got %v, want %v", h.Due, want)
	}
}

// The WAL stays bounded under a load that never pauses, with readers.
func TestWALIsBounded(t *testing.T) {
	const limit = 4 << 20
	e := open(t, sqlite.Config{InMemory: true})
	e.LimitWAL(limit/8, limit)
	stop := make(chan struct{})
	var readers, writers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := e.MessageList(context.Background(), tenant, "", store.Page{Limit: 3, Desc: true}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var longest int64
	for range 4 {
		writers.Go(func() {
			body := make([]byte, 10_000)
			for range 1500 {
				if err := e.Do(context.Background(), 0, newAccept(body)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { writers.Wait(); close(done) }()
	for waiting := true; waiting; {
		select {
		case <-done:
			waiting = false
		case <-time.After(5 * time.Millisecond):
		}
		if fi, err := os.Stat(e.Path() + "-wal"); err == nil {
			longest = max(longest, fi.Size())
		}
	}
	close(stop)
	readers.Wait()
	s := e.Stats()
	t.Logf("the WAL was %d MiB at most; %+v", longest>>20, s)
	if longest > 8*limit {
		t.Errorf("the WAL was %d MiB, want at most %d", longest>>20, 8*limit>>20)
	}
	if s.Checkpoints == 0 {
		t.Error("no checkpoint ran")
	}
}

// Each message is seen with its ticket, or not at all, however reads and commits interleave.
func TestReadersSeeWholeCommits(t *testing.T) {
	e := open(t, sqlite.Config{InMemory: true, Readers: 2})
	ids := make(chan posthaste.MessageID, 1000)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				a := newAccept([]byte("x"))
				if err := e.Do(context.Background(), 0, a); err != nil {
					t.Error(err)
				}
				ids <- a.t.ID
				// To and fro between the tables.
				for _, phase := range []posthaste.Phase{posthaste.PhaseDelayed, posthaste.PhaseClaimed} {
					move := &op{want: store.Want{Tickets: []posthaste.MessageID{a.t.ID}}}
					move.decide = func(v *store.View, c *store.Changes) error {
						v.Tickets[0].Phase = phase
						c.Put = append(c.Put, v.Tickets[0])
						return nil
					}
					if err := e.Do(context.Background(), 0, move); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for range 4 {
		wg.Go(func() {
			for range 100 {
				id := <-ids
				for range 3 {
					if k, err := e.Ticket(context.Background(), id); k == nil || err != nil {
						t.Errorf("ticket %s: %v, %v", id, k, err)
					}
					if list, err := e.Tickets(context.Background(), []posthaste.MessageID{id}); err != nil || list[0] == nil {
						t.Errorf("ticket %s: %v, %v", id, list, err)
					}
				}
			}
		})
	}
	wg.Wait()
}

// Bodies of every kind of size come back as they were, also those that do not fit into the WAL's buffer or the page cache.
func TestBodies(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "data")
	e := open(t, sqlite.Config{Path: path})
	var ids []posthaste.MessageID
	sizes := []int{0, 1, 1000, 4000, 4096, 5000, 16 << 10, 100_000, 1 << 20, 3 << 20, 12 << 20}
	body := func(size int) []byte {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(i * size >> 7)
		}
		return b
	}
	twice := newAccept(body(9 << 20))
	for _, size := range sizes {
		a := newAccept(body(size))
		// What fails after a large write leaves nothing of it.
		lost := &op{decide: func(v *store.View, c *store.Changes) error {
			if err := twice.Decide(v, c); err != nil {
				return err
			}
			c.Drop = append(c.Drop, &store.Ticket{ID: "nowhere", Stored: store.Location{Phase: posthaste.PhaseReady}})
			return nil
		}}
		if errs := together(t, e, a, lost); errs[0] != nil || posthaste.CodeOf(errs[1]) != posthaste.CodeInternal {
			t.Fatal(errs)
		}
		ids = append(ids, a.m.ID)
	}
	for i, id := range ids {
		m, err := e.Message(t.Context(), tenant, id)
		if err != nil || m == nil || !bytes.Equal(m.Body, body(sizes[i])) {
			t.Errorf("%d bytes: %v, or the body is another", sizes[i], err)
		}
	}
	if m, err := e.Message(t.Context(), tenant, twice.m.ID); m != nil || err != nil {
		t.Errorf("a message of a failed operation is there: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := zsqlite.OpenConn(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := scalar(t, c, "PRAGMA integrity_check"); got != "ok" {
		t.Errorf("integrity: %s", got)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// When nothing is written any more, the WAL is copied into the data file, and then nothing runs.
func TestIdleCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, err := sqlite.Open(t.Context(), sqlite.Config{InMemory: true})
		if err != nil {
			t.Fatal(err)
		}
		if got := e.Stats().Checkpoints; got != 0 {
			t.Errorf("%d checkpoints, want none yet", got)
		}
		for range 3 {
			do(t, e, newAccept(nil))
			time.Sleep(500 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := e.Stats().Checkpoints; got != 1 {
			t.Errorf("%d checkpoints, want 1", got)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
}
