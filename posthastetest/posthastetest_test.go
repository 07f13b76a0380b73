package posthastetest_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/posthaste/posthaste/posthastetest"
)

// The story that the tests in JavaScript and Python tell, too: a destination that fails, retries that are not waited for, four
// attempts, a dead letter; in less than a second.
func TestRetriesUntilTheDeadLetter(t *testing.T) {
	within(t, time.Second, tellTheStory)
}

// within runs a test until it takes no longer than that, three times at most. On a machine that is busy with other programs the
// processor time counts, if it is less; tests that call it are not parallel.
func within(t *testing.T, most time.Duration, test func(t *testing.T) time.Duration) {
	t.Helper()
	var took time.Duration
	for range 3 {
		before, _ := cpu()
		took = test(t)
		if after, ok := cpu(); ok {
			took = min(took, after-before)
		}
		if took <= most || t.Failed() {
			return
		}
	}
	t.Errorf("took %v, want %v at most", took, most)
}

func tellTheStory(t *testing.T) time.Duration {
	begin := time.Now()
	srv := posthastetest.Start(t)
	inbox := srv.Inbox("orders")
	inbox.FailNext(3)
	inbox.Answer(posthastetest.Answer{Status: 503, Body: "closed"})
	id := srv.Publish(inbox.URL(), "hello", "Upstash-Retries: 3")
	srv.Advance(time.Hour)

	var got []string
	list := inbox.Deliveries()
	for i, d := range list {
		got = append(got, fmt.Sprintf("%d %s %d %s %t +%v",
			d.Attempt, d.Body, d.Status, d.SignatureFault, d.MessageID == id, d.At.Sub(list[max(0, i-1)].At).Round(time.Second)))
	}
	want := []string{"1 hello 500  true +0s", "2 hello 500  true +10s", "3 hello 500  true +30s", "4 hello 503  true +1m0s"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
	dead := srv.DeadLetters()
	if len(dead) != 1 || dead[0].MessageID != id || dead[0].ResponseStatus != 503 || dead[0].ResponseBody != "closed" {
		t.Errorf("got dead letters %+v, want the one of %s", dead, id)
	}
	return time.Since(begin)
}

// The day on which summer time ends in New York has 25 hours. A schedule of every five minutes has an hour field of "*", so it
// fires at every real instant: 300 times, as docs/api.md says.
func TestScheduleOverTheAutumnChange(t *testing.T) {
	within(t, 2*time.Second, func(t *testing.T) time.Duration { return tickForADay(t, time.November, 1, 25*time.Hour) })
}

// That on which it begins, the second Sunday of March, has 23.
func TestScheduleOverTheSpringChange(t *testing.T) {
	within(t, 2*time.Second, func(t *testing.T) time.Duration { return tickForADay(t, time.March, 8, 23*time.Hour) })
}

// tickForADay has a schedule of every five minutes fire on the first Sunday from a day on, and returns how long that took.
func tickForADay(t *testing.T, month time.Month, from int, long time.Duration) time.Duration {
	zone, err := time.LoadLocation("America/New_York")
	if err != nil {
		t.Skip(err)
	}
	srv := posthastetest.Start(t)
	inbox := srv.Inbox("ticks")
	day := time.Date(srv.Now().Year()+1, month, from, 0, 0, 0, 0, zone)
	day = day.AddDate(0, 0, (7-int(day.Weekday()))%7)
	if got := day.AddDate(0, 0, 1).Sub(day); got != long {
		t.Fatalf("got a day of %v, want one of %v", got, long)
	}
	srv.AdvanceTo(day.Add(-time.Second))
	srv.Schedule(inbox.URL(), "CRON_TZ=America/New_York */5 * * * *", "tick")
	begin := time.Now()
	srv.AdvanceTo(day.AddDate(0, 0, 1).Add(-time.Second))
	took := time.Since(begin)

	list := inbox.Deliveries()
	if want := int(long / (5 * time.Minute)); len(list) != want {
		t.Errorf("got %d deliveries, want %d", len(list), want)
	}
	for i, d := range list {
		if want := day.Add(time.Duration(i) * 5 * time.Minute); d.At.Before(want) || d.At.Sub(want) > time.Minute {
			t.Fatalf("delivery %d: got it at %v, want %v", i, d.At.In(zone), want)
		}
	}
	t.Logf("%d ticks took %v", len(list), took)
	return took
}

func TestHandle(t *testing.T) {
	t.Parallel()
	srv := posthastetest.Start(t)
	got := make(chan string, 10)
	srv.Handle("app.test", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got <- r.Method + " " + r.Host + r.URL.Path + " " + string(body)
	}))
	srv.Publish("https://app.test/work", "1")
	srv.Publish("http://app.test/work", "2", "Upstash-Method: PUT", "Upstash-Delay: 1h")
	srv.Advance(time.Hour)
	close(got)
	var list []string
	for g := range got {
		list = append(list, g)
	}
	if diff := cmp.Diff([]string{"POST app.test/work 1", "PUT app.test/work 2"}, list); diff != "" {
		t.Errorf("deliveries (-want +got):\n%s", diff)
	}
}

// Every way in which a destination fails, as tests may want it.
func TestFailures(t *testing.T) {
	t.Parallel()
	srv := posthastetest.Start(t)
	inbox := srv.Inbox("bad")
	inbox.AnswerNext(
		posthastetest.Answer{Drop: true},
		posthastetest.Answer{Hang: true},
		posthastetest.Answer{Status: 429, Header: map[string]string{"Retry-After": "100"}},
		posthastetest.Answer{Delay: time.Millisecond, Body: "done"},
	)
	srv.Publish(inbox.URL(), "x", "Upstash-Timeout: 50ms", "Upstash-Retries: 3")
	srv.Advance(time.Hour)
	var got []string
	list := inbox.Deliveries()
	for i, d := range list {
		got = append(got, fmt.Sprintf("%d %v", d.Status, d.At.Sub(list[max(0, i-1)].At).Round(time.Second)))
	}
	if diff := cmp.Diff([]string{"0 0s", "0 10s", "429 30s", "200 1m40s"}, got); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
	if dead := srv.DeadLetters(); len(dead) != 0 {
		t.Errorf("got dead letters %v, want none", dead)
	}
}

// Tests that share a server see nothing of each other.
func TestTenants(t *testing.T) {
	t.Parallel()
	srv := posthastetest.Start(t)
	for i := range 4 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			tenant := srv.NewTenant(t)
			inbox := tenant.Inbox("work")
			inbox.Answer(posthastetest.Answer{Status: 500})
			id := tenant.Publish(inbox.URL(), t.Name(), "Upstash-Retries: 0")
			list := inbox.Wait(1)
			tenant.Drain()
			if len(list) != 1 || string(list[0].Body) != t.Name() || list[0].SignatureFault != "" {
				t.Errorf("got %+v, want the delivery of %s", list, t.Name())
			}
			if dead := tenant.DeadLetters(); len(dead) != 1 || dead[0].MessageID != id {
				t.Errorf("got dead letters %+v, want the one of %s", dead, id)
			}
		})
	}
}

// Whatever HTTP client the code under test has, it can use the server: by a client of the server, or on a port.
func TestClients(t *testing.T) {
	t.Parallel()
	srv := posthastetest.Start(t)
	for url, client := range map[string]*http.Client{srv.Env()["QSTASH_URL"]: srv.Client(), srv.Listen(): http.DefaultClient} {
		inbox := srv.Inbox("for-" + strings.NewReplacer(":", "", "/", "").Replace(url))
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v2/publish/"+inbox.URL(), strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+srv.Env()["QSTASH_TOKEN"])
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close() //nolint:errcheck // it is not read
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: got status %d, want 200", url, resp.StatusCode)
		}
		inbox.Wait(1)
		inbox.Empty()
		if got := inbox.Deliveries(); len(got) != 0 {
			t.Errorf("%s: got %d deliveries in an empty inbox", url, len(got))
		}
	}
}

// A test that ends while a destination hangs is not held up.
func TestStopWhileADestinationHangs(t *testing.T) {
	t.Parallel()
	var begin time.Time
	t.Run("test", func(t *testing.T) {
		srv := posthastetest.Start(t)
		inbox := srv.Inbox("hanging")
		inbox.Answer(posthastetest.Answer{Hang: true})
		srv.Publish(inbox.URL(), "x")
		inbox.Wait(1)
		begin = time.Now()
	})
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the stop took %v", took)
	}
}
