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

// TestConcurrentDuplicates: of many requests with one id at the same time one makes the message.
func TestConcurrentDuplicates(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		const requests = 200
		answers := make([]*httptest.ResponseRecorder, requests)
		var wg sync.WaitGroup
		for i := range answers {
			raw := s.raw(step{do: "POST /v2/publish/https://a.test", header: []string{"Upstash-Deduplication-Id: d"}, body: fmt.Sprint(i)})
			wg.Go(func() {
				req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
				if err != nil {
					t.Error(err)
					return
				}
				answers[i] = httptest.NewRecorder()
				s.handler.ServeHTTP(answers[i], req)
			})
		}
		wg.Wait()
		synctest.Wait()
		got := map[string]int{}
		for _, a := range answers {
			got[fmt.Sprint(a.Code, " ", s.name(a.Body.String()))]++
		}
		want := map[string]int{`200 {"messageId":"msg_1"}`: 1, `202 {"messageId":"msg_1","deduplicated":true}`: requests - 1}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if n := len(s.dest.take()); n != 1 {
			t.Errorf("got %d deliveries, want 1", n)
		}
		if n := len(s.get("/v2/events?state=CREATED").list(t, "events")); n != 1 {
			t.Errorf("got %d messages, want 1", n)
		}
	})
}

func TestDeduplication(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		first := func(n int) string { return fmt.Sprintf(`{"messageId":"msg_%d"}`, n) }
		dup := func(n int) string { return fmt.Sprintf(`{"messageId":"msg_%d","deduplicated":true}`, n) }
		id := []string{"Upstash-Deduplication-Id: d"}
		const to = "POST /v2/publish/https://a.test"
		// The window begins with the first message, and duplicates do not move it.
		s.run(
			step{do: to, header: id, status: 200, want: first(1)},
			step{after: 59 * time.Second, do: to, header: id, status: 202, want: dup(1)},
			step{after: time.Second - time.Millisecond, do: to, header: id, status: 202, want: dup(1)},
			step{after: 2 * time.Millisecond, do: to, header: id, status: 200, want: first(2)},
		)
		// One id for all ways to publish and all destinations; also after the message was canceled.
		s.run(
			step{do: "POST /v2/publish/https://b.test", header: id, body: "other", status: 202, want: dup(2)},
			step{do: "POST /v2/enqueue/q/https://b.test", header: id, status: 202, want: dup(2)},
			step{do: "GET /v2/queues", status: 200, want: `[]`}, // a duplicate makes no queue
			step{do: "POST /v2/batch", body: `[{"destination":"https://a.test","headers":{"Upstash-Deduplication-Id":"d"}},{"destination":"https://a.test"}]`, status: 200, want: "[" + dup(2) + "," + first(3) + "]"},
			step{do: to, header: []string{"Upstash-Deduplication-Id: e", "Upstash-Delay: 1h"}, status: 200, want: first(4)},
			step{do: "DELETE /v2/messages/msg_4", status: 200},
			step{do: to, header: []string{"Upstash-Deduplication-Id: e"}, status: 202, want: dup(4)},
			step{do: to, header: []string{"Upstash-Deduplication-Id: E"}, status: 200, want: first(5)},
		)
		// In one batch the later ones are duplicates of the earlier.
		s.run(
			step{
				do: "POST /v2/batch", status: 200,
				body: `[{"destination":"https://a.test","headers":{"Upstash-Deduplication-Id":"x"}},{"destination":"https://b.test","headers":{"Upstash-Deduplication-Id":"x"}},
					{"destination":"https://c.test","headers":{"Upstash-Deduplication-Id":"y"}}]`,
				want: "[" + first(6) + "," + dup(6) + "," + first(7) + "]",
			},
			step{do: "POST /v2/batch", body: `[{"destination":"https://a.test","headers":{"Upstash-Deduplication-Id":"x"}}]`, status: 200, want: "[" + dup(6) + "]"},
		)
		// A refused request takes no id.
		s.run(
			step{do: "POST /v2/batch", body: `[{"destination":"https://a.test","headers":{"Upstash-Deduplication-Id":"z"}},{"destination":"nope://"}]`, status: 400},
			step{do: to, header: []string{"Upstash-Deduplication-Id: z"}, status: 200, want: first(8)},
		)
		// Schedules take no ids.
		s.run(
			step{do: "POST /v2/schedules/https://a.test", header: []string{"Upstash-Cron: @daily", "Upstash-Deduplication-Id: d", "Upstash-Schedule-Id: s"}, status: 200},
			step{do: "POST /v2/schedules/https://a.test", header: []string{"Upstash-Cron: @daily", "Upstash-Deduplication-Id: d", "Upstash-Schedule-Id: s"}, status: 200},
		)
	})
}

// TestGroupDuplicates: each endpoint of a group has an entry of its own, so one that was added later still gets its message.
func TestGroupDuplicates(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		publish := step{do: "POST /v2/publish/g", header: []string{"Upstash-Deduplication-Id: d"}}
		answer := func(status int, want string) step {
			st := publish
			st.status, st.want = status, want
			return st
		}
		s.run(
			step{do: "POST /v2/topics/g/endpoints", body: `{"endpoints":[{"url":"https://a.test"}]}`, status: 200},
			answer(200, `[{"messageId":"msg_1","url":"https://a.test"}]`),
			answer(202, `[{"messageId":"msg_1","url":"https://a.test","deduplicated":true}]`),
			step{do: "POST /v2/topics/g/endpoints", body: `{"endpoints":[{"url":"https://b.test"}]}`, status: 200},
			answer(200, `[{"messageId":"msg_1","url":"https://a.test","deduplicated":true},{"messageId":"msg_2","url":"https://b.test"}]`),
			answer(202, `[{"messageId":"msg_1","url":"https://a.test","deduplicated":true},{"messageId":"msg_2","url":"https://b.test","deduplicated":true}]`),
			// The id alone, without a group, is another one.
			step{do: "POST /v2/publish/https://a.test", header: publish.header, status: 200, want: `{"messageId":"msg_3"}`},
			step{
				do: "POST /v2/batch", body: `[{"destination":"g","headers":{"Upstash-Deduplication-Id":"d"}},{"destination":"g"}]`, status: 200,
				want: `[[{"messageId":"msg_1","url":"https://a.test","deduplicated":true},{"messageId":"msg_2","url":"https://b.test","deduplicated":true}],
					[{"messageId":"msg_4","url":"https://a.test"},{"messageId":"msg_5","url":"https://b.test"}]]`,
			},
		)
		s.sleep(0)
		if got := len(s.dest.take()); got != 5 {
			t.Errorf("got %d deliveries, want 5", got)
		}
	})
}

// TestContentDeduplication: what the destination would receive decides, and nothing else.
func TestContentDeduplication(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.must(step{do: "POST /v2/topics/g/endpoints", body: `{"endpoints":[{"url":"https://g.test"}]}`})
		s.must(step{do: "POST /v2/topics/h/endpoints", body: `{"endpoints":[{"url":"https://g.test"}]}`})
		on := "Upstash-Content-Based-Deduplication: true"
		base := step{do: "POST /v2/publish/https://a.test/x", header: []string{on, "Content-Type: text/plain", "Upstash-Forward-A: 1"}, body: "body"}
		s.must(base)
		with := func(change func(st *step)) step {
			st := base
			st.header = append([]string(nil), base.header...)
			change(&st)
			return st
		}
		add := func(line string) step { return with(func(st *step) { st.header = append(st.header, line) }) }
		for _, tt := range []struct {
			step step
			dup  bool
		}{
			{base, true},
			{add("Upstash-Retries: 0"), true},
			{add("Upstash-Delay: 1s"), true},
			{add("Upstash-Label: l"), true},
			{add("Upstash-Callback: https://c.test"), true},
			{add("Upstash-Method: PUT"), true},
			{add("X-Not-Forwarded: 1"), true},
			{with(func(st *step) { st.do = "POST /v2/enqueue/q/https://a.test/x" }), true},
			{with(func(st *step) { st.header[0] = "Upstash-Content-Based-Deduplication: True" }), true},
			{with(func(st *step) { st.header[0] = "Upstash-Content-Based-Deduplication: false" }), false},
			{with(func(st *step) { st.body = "other" }), false},
			{with(func(st *step) { st.body = "" }), false},
			{with(func(st *step) { st.header[1] = "Content-Type: text/html" }), false},
			{with(func(st *step) { st.header[2] = "Upstash-Forward-A: 2" }), false},
			{add("Upstash-Forward-B: 1"), false},
			{with(func(st *step) { st.do = "POST /v2/publish/https://a.test/y" }), false},
			{with(func(st *step) { st.do = "POST /v2/publish/https://a.test/x?z" }), false},
			{with(func(st *step) { st.do = "POST /v2/publish/https://A.test/x" }), false},
			{with(func(st *step) { st.do = "POST /v2/publish/g" }), false},
			{with(func(st *step) { st.do = "POST /v2/publish/h" }), false},
			{with(func(st *step) { st.do = "POST /v2/publish/g" }), true},
			{add("Upstash-Deduplication-Id: explicit"), false}, // the explicit id wins
			{with(func(st *step) {
				st.header, st.body = []string{on, "Upstash-Deduplication-Id: explicit"}, "quite another"
			}), true},
		} {
			r := s.must(tt.step)
			if got := strings.Contains(r.body, "deduplicated"); got != tt.dup || (r.status == 202) != tt.dup {
				t.Errorf("%s %q %q: got %d %s, want duplicate %v", tt.step.do, tt.step.header, tt.step.body, r.status, r.body, tt.dup)
			}
		}
		token := with(func(st *step) { st.token = "bob" })
		if r := s.must(token); r.status != 200 {
			t.Errorf("got %d for another tenant, want 200", r.status)
		}
	})
}

// TestDeadLetterRetryIsNoDuplicate: a retry by hand is meant.
func TestDeadLetterRetryIsNoDuplicate(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.dest.with(500)
		s.publish("/v2/publish/https://a.test", "x", "Upstash-Deduplication-Id: d", "Upstash-Retries: 0", "Upstash-Deduplication-Window: 1d")
		s.sleep(0)
		for n := range 3 {
			s.get("/v2/dlq")
			s.run(step{do: fmt.Sprintf("POST /v2/dlq/retry/dlq_%d", n+1), status: 201, want: fmt.Sprintf(`{"messageId":"msg_%d"}`, n+2)})
			s.sleep(0)
		}
		if got := len(s.dest.take()); got != 4 {
			t.Errorf("got %d deliveries, want 4", got)
		}
	})
}
