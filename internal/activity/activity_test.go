package activity_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/activity"
	"github.com/posthaste/posthaste/internal/store"
)

// log is a store that has a past: streams in the order in which pages want them, the latest first.
type log struct {
	store.Reader
	created, ended []store.LogRow
	tickets        []*store.Ticket
	reads          int
}

func (l *log) LogRows(_ context.Context, _ posthaste.TenantID, s store.LogStream, from store.LogPos, p store.Page) ([]store.LogRow, error) {
	l.reads++
	all := l.created
	if s == store.StreamEnded {
		all = l.ended
	}
	var out []store.LogRow
	for _, r := range all {
		if r.At.Before(from.At) && len(out) < p.Limit {
			out = append(out, r)
		}
	}
	return out, nil
}

func (l *log) Messages(_ context.Context, keys []store.MessageKey) ([]*posthaste.Message, error) {
	out := make([]*posthaste.Message, len(keys))
	for i, k := range keys {
		out[i] = &posthaste.Message{ID: k.ID, Tenant: 1, URL: "https://past.example/x"}
	}
	return out, nil
}

func (l *log) TicketList(_ context.Context, _ posthaste.TenantID, after posthaste.MessageID, limit int) ([]*store.Ticket, error) {
	var out []*store.Ticket
	for _, t := range l.tickets {
		if t.ID > after && len(out) < limit {
			out = append(out, t)
		}
	}
	return out, nil
}

func attempt(at time.Time, state posthaste.LogState, took time.Duration) *posthaste.Attempt {
	return &posthaste.Attempt{EndedAt: at, State: state, Took: took, Error: "status 500"}
}

func TestReport(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 30, 0, time.UTC)
	r := activity.New(&log{}, func() time.Time { return now })
	m := &posthaste.Message{Tenant: 1, URL: "https://a.example/x", Group: "g"}
	r.Accepted(1, 3)
	r.Ended(m, attempt(now, posthaste.StateDelivered, 15*time.Millisecond))
	r.Ended(m, attempt(now, posthaste.StateRetry, 15*time.Millisecond))
	now = now.Add(2 * time.Minute)
	r.Ended(m, attempt(now, posthaste.StateFailed, 15*time.Millisecond))
	r.Accepted(2, 7)

	rep := r.Report(1, activity.Hour)
	if n := len(rep.Points); n != 60 {
		t.Fatalf("got %d points, want 60", n)
	}
	if p := rep.Points[57]; p.Accepted != 3 || p.Delivered != 1 || p.Retried != 1 || p.Failed != 0 || !p.At.Equal(now.Add(-150*time.Second)) {
		t.Errorf("got %+v, want the first minute's counts", p)
	}
	if p := rep.Points[59]; p.Failed != 1 || p.Accepted != 0 {
		t.Errorf("got %+v, want the last minute's counts", p)
	}
	if rate, ok := rep.Total.SuccessRate(); !ok || rate < 0.33 || rate > 0.34 {
		t.Errorf("got a success rate of %v, %v, want a third", rate, ok)
	}
	if p50, ok := rep.Total.Latency.Quantile(.5); !ok || p50 <= 10*time.Millisecond || p50 > 20*time.Millisecond {
		t.Errorf("got a median of %v, %v, want one within 10 ms and 20 ms", p50, ok)
	}
	if len(rep.Hosts) != 1 || rep.Hosts[0] != (activity.Host{Name: "a.example", Attempts: 3, Failures: 2}) {
		t.Errorf("got %+v, want the one host", rep.Hosts)
	}
	if e := r.Endpoint(1, "g", m.URL); e.Attempts != 3 || e.Delivered != 1 || e.LastError == "" || !e.ErrorAt.Equal(now) {
		t.Errorf("got %+v, want the endpoint's three attempts", e)
	}

	// What leaves the hour stays in the day.
	now = now.Add(3 * time.Hour)
	if rep := r.Report(1, activity.Hour); rep.Total.Accepted != 0 || rep.Total.Failed != 0 {
		t.Errorf("got %+v three hours later, want nothing", rep.Total)
	}
	if rep := r.Report(1, activity.Day); rep.Total.Accepted != 3 || rep.Total.Failed != 1 || len(rep.Points) != 288 {
		t.Errorf("got %+v, want the day's counts", rep.Total)
	}
}

func TestPastIsReadOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		l := &log{}
		for i := range 600 {
			at := now.Add(-time.Duration(i+1) * time.Second)
			l.created = append(l.created, store.LogRow{LogPos: store.LogPos{At: at}})
			l.ended = append(l.ended, store.LogRow{LogPos: store.LogPos{At: at}, Attempt: attempt(at, posthaste.StateRetry, time.Second)})
		}
		old := now.Add(-8 * 24 * time.Hour)
		l.created = append(l.created, store.LogRow{LogPos: store.LogPos{At: old}})
		r := activity.New(l, time.Now)
		if rep := r.Report(1, activity.Week); !rep.Partial {
			t.Error("the past was there before it was read")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		reads := l.reads
		rep := r.Report(1, activity.Week)
		if rep.Partial || rep.Total.Accepted != 600 || rep.Total.Retried != 600 {
			t.Errorf("got %+v, want 600 of the past", rep.Total)
		}
		if len(rep.Hosts) != 1 || rep.Hosts[0].Failures != 600 {
			t.Errorf("got %+v, want the host that failed", rep.Hosts)
		}
		if l.reads != reads {
			t.Error("the past was read again")
		}
	})
}

func TestBacklog(t *testing.T) {
	now := time.Now()
	l := &log{tickets: []*store.Ticket{
		{ID: "1", Phase: posthaste.PhaseDelayed}, {ID: "2", Phase: posthaste.PhaseDelayed, Attempt: 2}, {ID: "3", Phase: posthaste.PhaseWaiting},
		{ID: "4", Phase: posthaste.PhaseReady}, {ID: "5", Phase: posthaste.PhaseClaimed},
	}}
	r := activity.New(l, func() time.Time { return now })
	want := activity.Backlog{Delayed: 1, Retrying: 1, Waiting: 2, InFlight: 1}
	if b, err := r.Backlog(t.Context(), 1); b != want || err != nil {
		t.Errorf("got %+v, %v, want %+v", b, err, want)
	}
	if rep := r.Report(1, activity.Hour); rep.Points[59].Waiting != 5 || rep.Points[58].Waiting != -1 {
		t.Errorf("got %+v, want the count in the last minute only", rep.Points[58:])
	}
}
