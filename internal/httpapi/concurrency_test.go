package httpapi_test

import (
	"bufio"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// together makes requests at the same time and returns how many had which status.
func (s *stack) together(n int, of func(i int) step) (statuses map[int]int, bodies []string) {
	s.t.Helper()
	statuses, bodies = map[int]int{}, make([]string, n)
	codes := make([]int, n)
	var wg sync.WaitGroup
	for i := range n {
		raw := s.raw(of(i))
		wg.Go(func() {
			req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
			if err != nil {
				s.t.Error(err)
				return
			}
			w := httptest.NewRecorder()
			s.handler.ServeHTTP(w, req)
			codes[i], bodies[i] = w.Code, w.Body.String()
		})
	}
	wg.Wait()
	synctest.Wait()
	for i, c := range codes {
		statuses[c]++
		bodies[i] = s.name(bodies[i])
	}
	return statuses, bodies
}

func sum(statuses map[int]int) string { return fmt.Sprint(statuses) }

// TestOneOfMany: what can be done once is done once, whoever asks.
func TestOneOfMany(t *testing.T) {
	const n = 50
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.dest.with(500)
		id := s.publish("/v2/publish/https://a.test", "x", "Upstash-Retries: 0")
		s.sleep(0)
		s.dest.take()
		s.get("/v2/dlq")
		s.dest.with(200)
		if got, _ := s.together(n, func(int) step { return step{do: "POST /v2/dlq/retry/dlq_1"} }); sum(got) != fmt.Sprint(map[int]int{201: 1, 404: n - 1}) {
			t.Errorf("got answers %v to retries of one dead letter, want one 201", got)
		}
		if got := len(s.dest.take()); got != 1 {
			t.Errorf("got %d deliveries, want 1", got)
		}
		waits := s.publish("/v2/publish/https://a.test", "x", "Upstash-Delay: 1h")
		if got, _ := s.together(n, func(int) step { return step{do: "DELETE /v2/messages/" + waits} }); sum(got) != fmt.Sprint(map[int]int{200: 1, 404: n - 1}) {
			t.Errorf("got answers %v to cancels of one message, want one 200", got)
		}
		if got, want := s.states(waits), "CREATED CANCEL_REQUESTED CANCELED"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got, want := s.states(id), "CREATED ACTIVE ERROR FAILED"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		// A bulk cancel, several times at once, counts every message once.
		for range 3 {
			s.must(step{do: "POST /v2/batch", body: "[" + strings.Repeat(`{"destination":"https://a.test","headers":{"Upstash-Delay":"1h"}},`, 99) + `{"destination":"https://a.test"}]`})
		}
		canceled := 0
		_, bodies := s.together(10, func(int) step { return step{do: "DELETE /v2/messages"} })
		for _, b := range bodies {
			var k int
			if _, err := fmt.Sscanf(b, `{"cancelled":%d}`, &k); err != nil {
				t.Errorf("got %s, want a count", b)
			}
			canceled += k
		}
		if got := len(s.pages("/v2/events?state=CANCEL_REQUESTED", 1000)) - 1; got != canceled || canceled < 297 {
			t.Errorf("got %d counted and %d canceled, want the same, at least 297", canceled, got)
		}
	})
}

// TestConcurrentEdits: none of several changes of one thing at the same time is lost.
func TestConcurrentEdits(t *testing.T) {
	const n = 40
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.together(n, func(i int) step {
			return step{do: "POST /v2/topics/g/endpoints", body: fmt.Sprintf(`{"endpoints":[{"url":"https://%d.test"}]}`, i)}
		})
		if got := len(s.get("/v2/topics/g").object(t)["endpoints"].([]any)); got != n {
			t.Errorf("got %d endpoints, want %d", got, n)
		}
		s.together(n/2, func(i int) step {
			return step{do: "DELETE /v2/topics/g/endpoints", body: fmt.Sprintf(`{"endpoints":[{"url":"https://%d.test"}]}`, i)}
		})
		if got := len(s.get("/v2/topics/g").object(t)["endpoints"].([]any)); got != n/2 {
			t.Errorf("got %d endpoints, want %d", got, n/2)
		}
		// Publishing goes on while the group changes: each message goes to the endpoints of one moment.
		got, _ := s.together(n, func(i int) step {
			if i%2 == 0 {
				return step{do: "POST /v2/topics/g/endpoints", body: fmt.Sprintf(`{"endpoints":[{"url":"https://again-%d.test"}]}`, i)}
			}
			return step{do: "POST /v2/publish/g"}
		})
		if sum(got) != fmt.Sprint(map[int]int{200: n}) {
			t.Errorf("got answers %v, want 200 alone", got)
		}
		// Each rotation makes the key before the current one.
		keys := map[string]bool{}
		_, bodies := s.together(n, func(int) step { return step{do: "POST /v2/keys/rotate"} })
		for _, b := range bodies {
			keys[b] = true
		}
		if len(keys) != n {
			t.Errorf("got %d different pairs of keys, want %d", len(keys), n)
		}
		s.together(n, func(i int) step {
			return step{do: "POST /v2/enqueue/q/https://a.test", header: []string{"Upstash-Flow-Control-Key: k", "Upstash-Flow-Control-Value: parallelism=2"}, body: fmt.Sprint(i)}
		})
		s.sleep(time.Minute)
		if q := s.get("/v2/queues/q").object(t); q["lag"] != 0.0 {
			t.Errorf("got lag %v, want 0", q["lag"])
		}
		if k := s.get("/v2/flowControl/k").object(t); k["parallelismCount"] != 0.0 || k["waitListSize"] != 0.0 {
			t.Errorf("got %v, want nothing in flight and nothing waiting", k)
		}
	})
}

// TestConcurrentLimits: a plan's figures hold for requests at the same time, too.
func TestConcurrentLimits(t *testing.T) {
	inBubble(t, stackConfig{plan: "free"}, func(t *testing.T, s *stack) {
		if got, _ := s.together(40, func(i int) step { return step{do: fmt.Sprintf("POST /v2/enqueue/q%d/https://a.test", i)} }); got[200] != 10 || got[412] != 30 {
			t.Errorf("got answers %v to 40 new queues, want 10 accepted", got)
		}
		if got := len(s.get("/v2/queues").list(t, "")); got != 10 {
			t.Errorf("got %d queues, want 10", got)
		}
		s.sleep(time.Second) // the burst limit
		if got, _ := s.together(40, func(i int) step {
			return step{do: "POST /v2/schedules/https://a.test", header: []string{"Upstash-Cron: @yearly", fmt.Sprintf("Upstash-Schedule-Id: s%d", i)}}
		}); got[200] != 10 || got[412] != 30 {
			t.Errorf("got answers %v to 40 new schedules, want 10 accepted", got)
		}
		s.sleep(time.Second)
		if got, _ := s.together(40, func(i int) step {
			return step{do: fmt.Sprintf("POST /v2/topics/g%d/endpoints", i), body: `{"endpoints":[{"url":"https://a.test"}]}`}
		}); got[200] != 1 || got[412] != 39 {
			t.Errorf("got answers %v to 40 new groups, want 1 accepted", got)
		}
		s.sleep(time.Second)
		if got, _ := s.together(40, func(i int) step {
			return step{do: "POST /v2/queues", body: fmt.Sprintf(`{"queueName":"r%d"}`, i), token: "bob"}
		}); got[200] != 10 || got[412] != 30 {
			t.Errorf("got answers %v to 40 new queues, want 10 accepted", got)
		}
		if got, _ := s.together(600, func(int) step { return step{do: "POST /v2/publish/https://a.test", token: "bob"} }); got[200] != 500 || got[429] != 100 {
			t.Errorf("got answers %v to 600 messages, want 500 accepted", got)
		}
	})
}

// TestQueueLimitAnywhere: retries of dead letters and schedules make no more queues than the plan allows either.
func TestQueueLimitAnywhere(t *testing.T) {
	inBubble(t, stackConfig{plan: "free"}, func(t *testing.T, s *stack) {
		s.dest.with(500)
		s.publish("/v2/enqueue/q0/https://a.test", "x", "Upstash-Retries: 0")
		s.sleep(0)
		s.must(step{do: "DELETE /v2/queues/q0"})
		s.must(step{do: "POST /v2/schedules/https://a.test", header: []string{"Upstash-Cron: * * * * *", "Upstash-Schedule-Id: s", "Upstash-Queue-Name: late"}})
		for i := range 10 {
			s.must(step{do: "POST /v2/queues", body: fmt.Sprintf(`{"queueName":"r%d"}`, i)})
		}
		full := `{"error":"quota maxQueues exceeded, current limit: 10"}`
		s.get("/v2/dlq")
		s.run(
			step{do: "POST /v2/dlq/retry/dlq_1", status: 412, want: full},
			step{do: "POST /v2/dlq/retry", status: 412, want: full},
			step{do: "POST /v2/batch", body: `[{"destination":"https://a.test"},{"destination":"https://a.test","queue":"q0"}]`, status: 412, want: full},
		)
		s.sleep(time.Minute)
		if o := s.get("/v2/schedules/s").object(t); !strings.Contains(fmt.Sprint(o["error"]), "maxQueues") {
			t.Errorf("got %v, want the schedule to tell what held it up", o)
		}
		s.must(step{do: "DELETE /v2/queues/r0"})
		s.run(step{do: "POST /v2/dlq/retry/dlq_1", status: 201})
		s.must(step{do: "DELETE /v2/queues/r1"})
		s.sleep(time.Minute)
		if got := len(s.get("/v2/queues").list(t, "")); got != 10 {
			t.Errorf("got %d queues, want 10", got)
		}
		if o := s.get("/v2/schedules/s").object(t); o["error"] != nil {
			t.Errorf("got %v, want no error", o)
		}
	})
}

// TestHostileDestination: whatever a destination answers, what is told of it is well-formed.
func TestHostileDestination(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.dest.answers(func(r *received) answer {
			if strings.Contains(r.url, "callback") {
				return answer{}
			}
			return answer{status: 599, body: "\x00\xff\"\\\u2028</script>", header: http.Header{
				"X-Bad": {"\xff\xfe", "a\x00b", strings.Repeat("x", 100_000)}, "\xff": {"y"}, "Retry-After": {"\xff"}, "X-Ratelimit-Reset": {strings.Repeat("9", 400)},
			}}
		})
		s.publish("/v2/publish/https://a.test", "x", "Upstash-Retries: 1", "Upstash-Callback: https://callback.test", "Upstash-Failure-Callback: https://callback.test")
		s.sleep(time.Minute)
		for _, path := range []string{"/v2/events", "/v2/logs", "/v2/dlq"} {
			s.run(step{do: "GET " + path, status: 200}) // which must be JSON
		}
		n := 0
		for _, r := range s.dest.take() {
			if strings.Contains(r.url, "callback") {
				n++
				if o := (&reply{body: r.body}).object(t); o["status"] != 599.0 {
					t.Errorf("got callback %s, want status 599", clip(r.body))
				}
			}
		}
		if n != 3 {
			t.Errorf("got %d callbacks, want 3", n)
		}
	})
}
