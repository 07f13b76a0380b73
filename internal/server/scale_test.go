//go:build scale && unix

package server_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/posthaste/posthaste/internal/server"
)

var (
	messagesFlag = flag.Int("messages", 200_000, "messages that a bulk request is about")
	databaseFlag = flag.String("database", "", "URL of a PostgreSQL database to use instead of a SQLite file")
)

// The bars that the figures are held to.
const (
	busyFactor = 2                     // publish p99 beside a bulk request, as a multiple of the idle one
	pageTime   = 50 * time.Millisecond // of the server for a page
	// noise is what machines add to a p99 now and then that has nothing to do with the server.
	noise = 3 * time.Millisecond
)

// TestScale measures what is asked of a server with much in its store: bulk requests go on in steps beside which publishing stays
// quick, and a page of the log or of dead letters takes its time whatever its filters are.
func TestScale(t *testing.T) {
	n := *messagesFlag
	s := start(t, server.Config{Data: filepath.Join(t.TempDir(), "data"), Database: server.Database{URL: *databaseFlag}})
	control := start(t, server.Config{Data: filepath.Join(t.TempDir(), "control")})
	begin := time.Now()
	s.seed(n, "dead", "https://fails.test/a", "Upstash-Retries: 0")
	s.seed(n, "bulk", "https://ok.test/b", "Upstash-Delay: 1d")
	for _, rare := range []string{"early", "late"} {
		s.publish("https://ok.test/rare/"+rare, "Upstash-Label: rare-"+rare, "Upstash-Flow-Control-Key: rare", "Upstash-Flow-Control-Value: parallelism=1")
	}
	s.until("dead letters", s.idle)
	t.Logf("seeded %d dead letters and %d delayed messages in %v", n, n, time.Since(begin).Round(time.Second))

	t.Run("cancel", func(t *testing.T) {
		s.beside(t, control, "bulk cancel", func() int {
			var r struct{ Cancelled int }
			s.call(http.MethodDelete, "/v2/messages?label=bulk", http.StatusOK, &r)
			return r.Cancelled
		}, n)
		var r struct{ Cancelled int }
		if s.call(http.MethodDelete, "/v2/messages?label=bulk", http.StatusOK, &r); r.Cancelled != 0 {
			t.Errorf("got %d canceled by the same request again, want 0", r.Cancelled)
		}
	})
	t.Run("pages", s.pages)
	t.Run("retry", func(t *testing.T) {
		s.repaired.Store(true)
		s.beside(t, control, "bulk retry", func() int {
			total, cursor := 0, ""
			for {
				var r struct {
					Cursor    string
					Responses []json.RawMessage
				}
				s.call(http.MethodPost, "/v2/dlq/retry?label=dead&cursor="+cursor, http.StatusCreated, &r)
				total += len(r.Responses)
				if cursor = r.Cursor; cursor == "" {
					return total
				}
			}
		}, n)
		s.until("retries", s.idle)
		var page struct{ Messages []json.RawMessage }
		if s.call(http.MethodGet, "/v2/dlq?label=dead", http.StatusOK, &page); len(page.Messages) != 0 {
			t.Errorf("got %d dead letters left, want none", len(page.Messages))
		}
	})
}

// processorTime is what this process has used of the processors.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // not for this process
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (s *scaled) until(what string, f func() bool) {
	s.Helper()
	for range 600 {
		if f() {
			return
		}
		time.Sleep(time.Second)
	}
	s.Fatalf("%s: not after ten minutes", what)
}

// latency publishes from several clients, a few hundred messages a second in all, until done is closed, and returns the
// durations in order.
func (s *scaled) latency(done <-chan struct{}) []time.Duration {
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-done:
					return
				case <-tick.C:
				}
				took := s.publish(fmt.Sprintf("https://ok.test/publisher/%d", i))
				mu.Lock()
				all = append(all, took)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(all)
	return all
}

// during measures publishing while f runs, there and on another server.
func (s *scaled) during(control *scaled, f func()) (own, other []time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	var wg sync.WaitGroup
	wg.Go(func() { other = control.latency(done) })
	own = s.latency(done)
	wg.Wait()
	return own, other
}

func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	return d[min(len(d)-1, int(q*float64(len(d))))].Round(10 * time.Microsecond)
}

// beside runs a bulk request and measures publishing beside it: on that server, before, meanwhile and after; and meanwhile on
// another server, which tells how quick publishing can be in such a moment of the machine.
func (s *scaled) beside(t *testing.T, control *scaled, what string, bulk func() int, want int) {
	t.Helper()
	idle := func() { time.Sleep(5 * time.Second) }
	before, _ := s.during(control, idle)
	got, begin := 0, time.Now()
	busy, other := s.during(control, func() { got = bulk() })
	took := time.Since(begin)
	after, _ := s.during(control, idle)
	if got != want {
		t.Errorf("%s: got %d messages, want %d", what, got, want)
	}
	t.Logf("%s of %d: %v", what, got, took.Round(time.Millisecond))
	base := time.Duration(0)
	for _, m := range []struct {
		when string
		took []time.Duration
	}{{"idle before it", before}, {"idle after it", after}, {"on another server meanwhile", other}, {"beside it", busy}} {
		p := quantile(m.took, 0.99)
		t.Logf("publish %s: p50 %v, p99 %v, longest %v, %d requests", m.when, quantile(m.took, 0.5), p, quantile(m.took, 1), len(m.took))
		if m.when != "beside it" {
			base = max(base, p)
		} else if p > busyFactor*base+noise {
			t.Errorf("%s: got a publish p99 of %v, want at most %d times %v", what, p, busyFactor, base)
		}
	}
}

// pages asks for pages of the log and of dead letters with each filter, with values that much, little and nothing has, from both
// ends and from the middle.
func (s *scaled) pages(t *testing.T) {
	var page struct {
		Cursor string
		Events []struct {
			Time      int64
			MessageID string `json:"messageId"`
		}
	}
	s.call(http.MethodGet, "/v2/events?count=1&order=earliestFirst", http.StatusOK, &page)
	first := page.Events[0]
	s.call(http.MethodGet, "/v2/events?count=1", http.StatusOK, &page)
	last := page.Events[0]
	middle := (first.Time + last.Time) / 2
	filters := []string{
		"", "state=CREATED", "state=ACTIVE", "state=CANCELED", "state=RETRY", "state=DELIVERED", "url=" + url.QueryEscape("https://nowhere.test"),
		"messageId=" + first.MessageID, "fromDate=" + fmt.Sprint(middle), "toDate=" + fmt.Sprint(middle), "responseStatus=500",
	}
	for _, name := range []string{"label", "topicName", "queueName", "scheduleId", "path", "flowControlKey"} {
		filters = append(filters, name+"=nothing")
	}
	filters = append(filters, "host=nowhere.test", "callerIp=203.0.113.9", "label=dead", "label=bulk", "label=rare-early", "label=rare-late", "flowControlKey=rare", "host=ok.test", "host=fails.test",
		"path="+url.QueryEscape("/a"), "callerIp=192.0.2.1", "label=nothing&state=FAILED")
	for _, route := range []string{"/v2/events", "/v2/logs", "/v2/dlq"} {
		worst, which := time.Duration(0), ""
		for _, f := range filters {
			if route == "/v2/dlq" && regexp.MustCompile("state=|path=|host=").MatchString(f) || route != "/v2/dlq" && strings.Contains(f, "responseStatus") {
				continue
			}
			for _, from := range []string{"", "&order=earliestFirst", fmt.Sprint("&cursor=", middle)} {
				// The median of five, by the clock or, should the machine have other work, by the processors: nothing else runs here.
				var took []time.Duration
				for range 5 {
					used := processorTime()
					clock := s.call(http.MethodGet, route+"?"+f+from, http.StatusOK, &struct{}{})
					took = append(took, min(clock, processorTime()-used))
				}
				slices.Sort(took)
				if took[2] > worst {
					worst, which = took[2], f+from
				}
				if took[2] > pageTime {
					t.Errorf("%s?%s%s: got %v, want at most %v", route, f, from, took[2], pageTime)
				}
			}
		}
		t.Logf("%s: at most %v, for %q", route, worst.Round(10*time.Microsecond), which)
	}
}
