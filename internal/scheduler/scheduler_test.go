package scheduler_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/clock"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/scheduler"
	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/store/sqlite"
)

// rows is an operation that stores configuration and a tick.
type rows struct {
	config []*store.ConfigRow
	tick   *store.Tick
	raise  []posthaste.TenantID
}

func (*rows) Want() *store.Want { return &store.Want{} }

func (r *rows) Decide(_ *store.View, c *store.Changes) error {
	c.Config, c.Tick, c.Raise = r.config, r.tick, r.raise
	return nil
}

// nobody starts nothing: what is accepted is found by others.
type nobody struct{}

func (nobody) Reserve(int) ledger.Node            { return ledger.Node{} }
func (nobody) Begin(ledger.Node, *ledger.Outcome) {}

// TestBrokenTick: a schedule that cannot be fired, and a tick that belongs to no tenant or schedule, hold up no other and are not
// tried all the time.
func TestBrokenTick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine, err := sqlite.Open(t.Context(), sqlite.Config{InMemory: true})
		if err != nil {
			t.Fatal(err)
		}
		defer engine.Close()
		begin := time.Now()
		const tenant, gone posthaste.TenantID = 1, 2
		setUp := func(id posthaste.TenantID, name, expr string) {
			t.Helper()
			op := &rows{tick: &store.Tick{TickRef: store.TickRef{Tenant: id, Schedule: posthaste.ScheduleID(name)}, Next: begin.Add(time.Second), Rev: 1}}
			if expr != "" {
				r := directory.ScheduleRow{Cron: expr, Destination: "https://a.test", Anchor: begin, Message: posthaste.Message{Tenant: id, URL: "https://a.test", Method: "POST"}}
				op.config = []*store.ConfigRow{{
					ConfigKey: store.ConfigKey{Tenant: id, Kind: store.ConfigSchedule, Name: name}, Value: directory.Encode(r), CreatedAt: begin, UpdatedAt: begin,
				}}
			}
			if err := engine.Do(t.Context(), 0, op); err != nil {
				t.Fatal(err)
			}
		}
		if err := engine.Do(t.Context(), 0, &rows{raise: []posthaste.TenantID{tenant}, config: []*store.ConfigRow{{
			ConfigKey: store.ConfigKey{Tenant: tenant, Kind: store.ConfigTenant},
			Value:     directory.Encode(directory.TenantRow{Name: "t", Plan: "unlimited"}), CreatedAt: begin, UpdatedAt: begin,
		}}}); err != nil {
			t.Fatal(err)
		}
		setUp(tenant, "a-broken", "CRON_TZ=Atlantis/Center * * * * *")
		setUp(tenant, "b-missing", "")
		setUp(gone, "c", "@every 1s")
		setUp(tenant, "d", "@every 10s")

		reads := &counting{Engine: engine}
		s := scheduler.New(reads, directory.New(engine), clock.New(), ledger.NewNonces(), nobody{}, scheduler.Config{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.Run(ctx) }()
		time.Sleep(55 * time.Second)
		synctest.Wait()
		cancel()
		<-done
		list, err := engine.MessageList(t.Context(), tenant, "", store.Page{Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		if len(list) != 6 {
			t.Errorf("got %d messages of the schedule that works, want 6", len(list))
		}
		if reads.ticks > 200 {
			t.Errorf("got %d looks for ticks in 55 s, want no more than a few each second", reads.ticks)
		}
	})
}

// counting counts the looks for ticks.
type counting struct {
	store.Engine
	ticks int
}

// DueTicks implements [store.Reader].
func (c *counting) DueTicks(ctx context.Context, before time.Time, limit int) ([]*store.Tick, error) {
	c.ticks++
	return c.Engine.DueTicks(ctx, before, limit)
}
