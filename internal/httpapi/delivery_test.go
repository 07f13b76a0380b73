package httpapi_test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/posthaste/posthaste/internal/retry"
	"github.com/posthaste/posthaste/internal/signature"
)

// TestRetryTimes: when attempts are made, in seconds after acceptance.
func TestRetryTimes(t *testing.T) {
	const none = "Upstash-Label: none"
	tests := []struct {
		header string // of the request
		answer string // header of the destination's answer
		status int
		want   string
	}{
		{none, "", 500, "0 10 40 100"},
		{"Upstash-Retries: 0", "", 500, "0"},
		{"Upstash-Retries: 7", "", 500, "0 10 40 100 400 2200 4000 5800"},
		{"Upstash-Retry-Delay: pow(2, retried) * 1000", "", 500, "0 1 3 7"},
		{"Upstash-Retry-Delay: 7000 * retried", "", 500, "0 0 7 21"},
		{"Upstash-Retry-Delay: max(1000, pow(2, retried) * 100)", "", 500, "0 1 2 3"},
		{"Upstash-Retry-Delay: 1500", "", 500, "0 1.5 3 4.5"},
		{"Upstash-Retry-Delay: -5", "", 500, "0 0 0 0"},
		{"Upstash-Retry-Delay: sqrt(-1)", "", 500, "0 0 0 0"},
		{"Upstash-Retry-Delay: 1000000000000|Upstash-Retries: 1", "", 500, "0 86400"},
		{none, "Retry-After: 0", 500, "0 0 0 0"},
		{none, "Retry-After: 10", 429, "0 10 20 30"},
		{none, "Retry-After: 0.5", 503, "0 0.5 1 1.5"},
		{none, "Retry-After: 6m5s", 500, "0 365 730 1095"},
		{"Upstash-Retries: 1", "Retry-After: 86400", 500, "0 86400"},
		{none, "Retry-After: 90000", 500, "0 10 40 100"},
		{"Upstash-Retry-Delay: 2000", "Retry-After: 90000", 500, "0 2 4 6"},
		{"Upstash-Retry-Delay: 2000", "Retry-After: 5", 500, "0 5 10 15"},
		{none, "Retry-After: soon", 500, "0 10 40 100"},
		{none, "Retry-After: -5", 500, "0 10 40 100"},
		{none, "X-RateLimit-Reset: 2", 500, "0 2 4 6"},
		{none, "X-RateLimit-Reset: 946684900", 500, "0 10 40 100"}, // a moment, not a wait
		{none, "X-RateLimit-Reset-Requests: 1s", 500, "0 1 2 3"},
		{none, "X-RateLimit-Reset-Tokens: 250ms", 500, "0 0.25 0.5 0.75"},
		{none, "Retry-After: soon|X-RateLimit-Reset-Tokens: 3", 500, "0 3 6 9"},
		{none, "X-RateLimit-Reset-Requests: 4|X-RateLimit-Reset: 2", 500, "0 2 4 6"},
		{none, "Retry-After: 1", 302, "0 1 2 3"},
		{none, "", 489, "0 10 40 100"},
		{none, "Upstash-NonRetryable-Error: true", 488, "0 10 40 100"},
		{none, "Upstash-NonRetryable-Error: false", 489, "0 10 40 100"},
		{none, "Upstash-NonRetryable-Error: true", 489, "0"},
		{none, "Upstash-NonRetryable-Error: true|Retry-After: 5", 489, "0"},
	}
	for _, tt := range tests {
		inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
			var lines []string
			if tt.answer != "" {
				lines = strings.Split(tt.answer, "|")
			}
			s.dest.with(tt.status, lines...)
			id := s.publish("/v2/publish/https://a.test", "", strings.Split(tt.header, "|")...)
			fields := strings.Fields(tt.want)
			last, err := time.ParseDuration(fields[len(fields)-1] + "s")
			if err != nil {
				t.Fatal(err)
			}
			s.sleep(last + time.Hour) // there is no further attempt for a while
			got := s.dest.take()
			if times(got) != tt.want {
				t.Errorf("%s, %d %s: got attempts at %s, want %s", tt.header, tt.status, tt.answer, times(got), tt.want)
			}
			for i, r := range got {
				if r.header.Get("Upstash-Retried") != fmt.Sprint(i) {
					t.Errorf("%s: got Upstash-Retried %s of attempt %d", tt.header, r.header.Get("Upstash-Retried"), i)
				}
			}
			// The log names the moment of each retry.
			var next []string
			for _, e := range s.get("/v2/events?order=earliestFirst&state=RETRY&messageId="+id).list(t, "events") {
				next = append(next, fmt.Sprint(e["nextDeliveryTime"].(float64)-bubbleStart))
			}
			var want []string
			for _, r := range got[1:] {
				want = append(want, fmt.Sprint(float64(r.at.Milliseconds())))
			}
			if fmt.Sprint(next) != fmt.Sprint(want) {
				t.Errorf("%s: got next deliveries %v, want %v", tt.header, next, want)
			}
			if n := len(s.get("/v2/dlq").list(t, "messages")); n != 1 {
				t.Errorf("%s: got %d dead letters, want 1", tt.header, n)
			}
		})
	}
}

// TestRetryAfterDate: a date counts from the moment of the answer.
func TestRetryAfterDate(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.dest.answers(func(r *received) answer {
			at := s.begin.Add(r.at + 90*time.Second)
			return answer{status: 503, header: http.Header{"Retry-After": {at.UTC().Format(http.TimeFormat)}}}
		})
		s.publish("/v2/publish/https://a.test", "")
		s.sleep(time.Hour)
		if got, want := times(s.dest.take()), "0 90 180 270"; got != want {
			t.Errorf("got attempts at %s, want %s", got, want)
		}
		s.dest.with(503, "Retry-After: Fri, 31 Dec 1999 23:59:59 GMT")
		s.publish("/v2/publish/https://a.test", "")
		s.sleep(time.Second)
		if got, want := times(s.dest.take()), "3600 3600 3600 3600"; got != want {
			t.Errorf("got attempts at %s, want %s", got, want)
		}
	})
}

// TestHostedBackoff: e^(2.5 n) seconds before retry n, at most a day.
func TestHostedBackoff(t *testing.T) {
	cfg := stackConfig{}
	cfg.Backoff = retry.Hosted()
	inBubble(t, cfg, func(t *testing.T, s *stack) {
		s.dest.with(500)
		s.publish("/v2/publish/https://a.test", "", "Upstash-Retries: 5")
		s.sleep(32 * time.Hour)
		got := s.dest.take()
		var waits []string
		for i, r := range got[1:] {
			waits = append(waits, fmt.Sprintf("%.2f", (r.at-got[i].at).Seconds()))
		}
		if got, want := strings.Join(waits, " "), "12.18 148.41 1808.04 22026.47 86400.00"; got != want {
			t.Errorf("got waits of %s, want %s", got, want)
		}
	})
}

// TestOutcomes: what counts as delivered, and what the log says of the rest.
func TestOutcomes(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		for status := 100; status < 600; status++ {
			switch status {
			case 100, 101, 102, 103, 199, 200, 201, 202, 204, 206, 299, 300, 301, 302, 304, 307, 399, 400, 401, 404, 410, 418, 429, 488, 489, 499, 500, 502, 503, 599:
			default:
				continue
			}
			s.dest.with(status)
			id := s.publish("/v2/publish/https://a.test", "", "Upstash-Retries: 0")
			s.sleep(0)
			want := "CREATED ACTIVE ERROR FAILED"
			if status/100 == 2 {
				want = "CREATED ACTIVE DELIVERED"
			}
			if got := s.states(id); got != want {
				t.Errorf("%d: got %s, want %s", status, got, want)
			}
			if status/100 == 2 {
				continue
			}
			e := s.get("/v2/events?state=ERROR&messageId="+id).list(t, "events")[0]
			text := fmt.Sprint(status)
			if reason := http.StatusText(status); reason != "" {
				text += " " + reason
			}
			if e["error"] != text || e["responseStatus"] != float64(status) {
				t.Errorf("%d: got error %q and status %v, want %q", status, e["error"], e["responseStatus"], text)
			}
		}
	})
}

// TestTimeout: an attempt ends with the message's timeout, or the server's.
func TestTimeout(t *testing.T) {
	cfg := stackConfig{}
	cfg.Delivery.Timeout = 30 * time.Second
	cfg.Broker.MaxTimeout = 2 * time.Hour
	inBubble(t, cfg, func(t *testing.T, s *stack) {
		s.dest.answers(func(*received) answer { return answer{status: 200, after: 24 * time.Hour} })
		for _, tt := range []struct {
			header string
			want   time.Duration
		}{
			{"Upstash-Label: none", 30 * time.Second},
			{"Upstash-Timeout: 5s", 5 * time.Second},
			{"Upstash-Timeout: 1h", time.Hour},
			{"Upstash-Timeout: 3h", 2 * time.Hour},
		} {
			begin := time.Now()
			id := s.publish("/v2/publish/https://a.test", "", tt.header, "Upstash-Retries: 0")
			s.sleep(tt.want - time.Millisecond)
			if got, want := s.states(id), "CREATED ACTIVE"; got != want {
				t.Errorf("%s: got %s before the timeout, want %s", tt.header, got, want)
			}
			s.sleep(time.Millisecond)
			e := s.get("/v2/events?state=ERROR&messageId="+id).list(t, "events")
			if len(e) != 1 || e[0]["error"] != "context deadline exceeded" || e[0]["responseStatus"] != 0.0 || e[0]["time"] != float64(begin.Add(tt.want).UnixMilli()) {
				t.Errorf("%s: got %v, want an error after %v", tt.header, e, tt.want)
			}
		}
	})
}

// TestStates: what the log says of a message, in order, is exactly this.
func TestStates(t *testing.T) {
	tests := []struct {
		name   string
		header []string
		answer answer
		act    func(s *stack, id string) // after the first attempt began
		want   string
	}{
		{name: "success", want: "CREATED ACTIVE DELIVERED"},
		{name: "failure without retries", header: []string{"Upstash-Retries: 0"}, answer: answer{status: 500}, want: "CREATED ACTIVE ERROR FAILED"},
		{name: "one retry", header: []string{"Upstash-Retries: 1"}, answer: answer{status: 500}, want: "CREATED ACTIVE ERROR RETRY ACTIVE ERROR FAILED"},
		{name: "no answer", header: []string{"Upstash-Retries: 1"}, answer: answer{err: errors.New("reset")}, want: "CREATED ACTIVE ERROR RETRY ACTIVE ERROR FAILED"},
		{
			name: "not to be retried", answer: answer{status: 489, header: http.Header{"Upstash-Nonretryable-Error": {"true"}}}, want: "CREATED ACTIVE ERROR FAILED",
		},
		{
			name: "canceled before its time", header: []string{"Upstash-Delay: 1m"},
			act: func(s *stack, id string) { s.must(step{do: "DELETE /v2/messages/" + id}) }, want: "CREATED CANCEL_REQUESTED CANCELED",
		},
		{
			name: "canceled before a retry", answer: answer{status: 500},
			act: func(s *stack, id string) { s.must(step{do: "DELETE /v2/messages/" + id}) }, want: "CREATED ACTIVE ERROR RETRY CANCEL_REQUESTED CANCELED",
		},
		{
			name: "canceled in flight, fails", answer: answer{status: 500, after: 10 * time.Second},
			act: func(s *stack, id string) { s.must(step{do: "DELETE /v2/messages/" + id}) }, want: "CREATED ACTIVE CANCEL_REQUESTED ERROR CANCELED",
		},
		{
			name: "canceled in flight, succeeds", answer: answer{status: 200, after: 10 * time.Second},
			act: func(s *stack, id string) { s.must(step{do: "DELETE /v2/messages/" + id}) }, want: "CREATED ACTIVE CANCEL_REQUESTED DELIVERED",
		},
		{
			name: "canceled twice", answer: answer{status: 500, after: 10 * time.Second},
			act: func(s *stack, id string) {
				s.run(
					step{do: "DELETE /v2/messages/" + id, status: 200, want: `{"cancelled":1}`},
					step{do: "DELETE /v2/messages/" + id, status: 404, want: `{"error":"message ` + id + ` not found, or finished already"}`},
					step{do: "DELETE /v2/messages", status: 200, want: `{"cancelled":0}`},
				)
			}, want: "CREATED ACTIVE CANCEL_REQUESTED ERROR CANCELED",
		},
	}
	for _, tt := range tests {
		inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
			s.dest.answers(func(*received) answer { return tt.answer })
			id := s.publish("/v2/publish/https://a.test", "", append(tt.header, "Upstash-Callback: https://callback.test", "Upstash-Failure-Callback: https://callback.test/failed")...)
			s.sleep(time.Second)
			if tt.act != nil {
				tt.act(s, id)
			}
			s.sleep(10 * time.Minute)
			if got := s.states(id); got != tt.want {
				t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
			}
			dead := 0
			if strings.HasSuffix(tt.want, "FAILED") {
				dead = 1
			}
			if got := len(s.get("/v2/dlq?messageId="+s.id(id)).list(t, "messages")); got != dead {
				t.Errorf("%s: got %d dead letters, want %d", tt.name, got, dead)
			}
			// Nothing is reported of what was canceled after the cancel.
			callbacks := 0
			for _, r := range s.dest.take() {
				if strings.Contains(r.url, "callback") && r.header.Get("Upstash-Retried") == "0" {
					callbacks++
				}
			}
			want := strings.Count(tt.want, "ERROR") + strings.Count(tt.want, "DELIVERED") + dead
			if strings.Contains(tt.want, "CANCEL_REQUESTED ERROR") || strings.Contains(tt.want, "CANCEL_REQUESTED DELIVERED") {
				want = 0
			}
			if callbacks != want {
				t.Errorf("%s: got %d callbacks, want %d", tt.name, callbacks, want)
			}
			if got := len(s.get("/v2/events?state=DELIVERED&messageId="+s.id(id)).list(t, "events")); got != strings.Count(tt.want, "DELIVERED") {
				t.Errorf("%s: got %d entries DELIVERED, want %d", tt.name, got, strings.Count(tt.want, "DELIVERED"))
			}
		})
	}
}

// TestHundredFailures: four entries each, in one page.
func TestHundredFailures(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.dest.with(404)
		for range 100 {
			s.publish("/v2/publish/https://a.test", "", "Upstash-Retries: 0", "Upstash-Label: it")
		}
		s.sleep(0)
		o := s.get("/v2/events?label=it")
		if got := len(o.list(t, "events")); got != 400 {
			t.Errorf("got %d entries, want 400", got)
		}
		if _, ok := o.object(t)["cursor"]; ok {
			t.Errorf("got a cursor, want none")
		}
		o = s.get("/v2/logs?label=it&count=1000")
		if got := len(o.list(t, "logs")); got != 100 {
			t.Errorf("got %d entries by the other route, want 100", got)
		}
		if _, ok := o.object(t)["cursor"]; !ok {
			t.Errorf("got no cursor, want one")
		}
	})
}

// TestCallbacks: what they say, and when.
func TestCallbacks(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		n := 0
		s.dest.answers(func(r *received) answer {
			if strings.Contains(r.url, "callback") {
				return answer{status: 200}
			}
			if n++; n < 3 {
				return answer{status: 500 + n, body: "try again", header: http.Header{"X-Answer": {"a", "b"}}}
			}
			return answer{status: 201, body: "\xff"}
		})
		header := []string{
			"Content-Type: text/plain", "Upstash-Forward-X: 1", "Upstash-Forward-X: 2", "Upstash-Retries: 2", "Upstash-Retry-Delay: 1000", "Upstash-Label: l",
			"Upstash-Callback: https://callback.test/done?a=b", "Upstash-Callback-Method: put", "Upstash-Callback-Forward-Secret: shh", "Upstash-Callback-Timeout: 7s",
			"Upstash-Failure-Callback: https://callback.test/failed",
		}
		id := s.publish("/v2/publish/https://a.test/x", "body", header...)
		s.sleep(time.Minute)
		var callbacks []*received
		for _, r := range s.dest.take() {
			if strings.Contains(r.url, "callback") {
				callbacks = append(callbacks, r)
			}
		}
		if len(callbacks) != 3 {
			t.Fatalf("got %d callbacks, want 3: one for each attempt", len(callbacks))
		}
		b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
		const source = `"maxRetries":2,"sourceMessageId":"msg_1","url":"https://a.test/x","method":"POST","sourceHeader":{"Content-Type":["text/plain"],"X":["1","2"]},
			"sourceBody":"Ym9keQ==","notBefore":946684800000,"createdAt":946684800000,"callerIP":"203.0.113.7"}`
		for i, want := range []string{
			`{"status":501,"header":{"X-Answer":["a","b"]},"body":"` + b64("try again") + `","retried":0,` + source,
			`{"status":502,"header":{"X-Answer":["a","b"]},"body":"` + b64("try again") + `","retried":1,` + source,
			`{"status":201,"header":{},"body":"/w==","retried":2,` + source,
		} {
			r := callbacks[i]
			if diff := diffJSON(s.name(r.body), want); diff != "" {
				t.Errorf("callback %d: %s", i, diff)
			}
			if r.url != "https://callback.test/done?a=b" || r.method != "PUT" || r.header.Get("Content-Type") != "application/json" || r.header.Get("Secret") != "shh" || r.header.Get("X") != "" {
				t.Errorf("callback %d: got %s %s %v, want PUT and its own headers", i, r.method, r.url, r.header)
			}
			if r.header.Get("Upstash-Caller-Ip") != "203.0.113.7" || r.header.Get("Upstash-Retried") != "0" || r.header.Get("Upstash-Signature") == "" {
				t.Errorf("callback %d: got header %v, want the caller's address and a signature", i, r.header)
			}
			cid := s.name(r.header.Get("Upstash-Message-Id"))
			m := s.get("/v2/messages/" + cid).object(t)
			if m["maxRetries"] != 2.0 || m["labels"] != nil || m["callback"] != nil || m["failureCallback"] != nil || cid == id {
				t.Errorf("callback %d: got message %v, want the retries of its source and nothing else of it", i, m)
			}
			if e := s.get("/v2/events?messageId="+cid).list(t, "events"); len(e) != 3 || e[0]["timeout"] != 7000.0 {
				t.Errorf("callback %d: got %d entries with timeout %v, want 3 with 7000", i, len(e), e[0]["timeout"])
			}
		}
	})
}

// TestFailureCallback: it comes once, with the dead letter that exists already.
func TestFailureCallback(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		var seen int
		s.dest.answers(func(r *received) answer {
			switch {
			case strings.Contains(r.url, "/failed"):
				// The dead letter is there when the callback comes.
				seen += len(s.get("/v2/dlq?url=https://a.test/x").list(t, "messages"))
				return answer{status: 200}
			case strings.Contains(r.url, "callback"):
				return answer{status: 200}
			}
			return answer{err: errors.New("connection refused")}
		})
		s.must(step{do: "POST /v2/topics/g/endpoints", body: `{"endpoints":[{"url":"https://a.test/x","name":"first"}]}`})
		s.run(step{
			do: "POST /v2/publish/g", status: 200, want: `[{"messageId":"msg_1","url":"https://a.test/x"}]`,
			header: []string{"Upstash-Retries: 1", "Upstash-Retry-Delay: 1000", "Upstash-Callback: https://callback.test/done", "Upstash-Failure-Callback: https://callback.test/failed", "Upstash-Failure-Callback-Retries: 5"},
		})
		s.sleep(time.Minute)
		var done, failed []*received
		for _, r := range s.dest.take() {
			switch {
			case strings.Contains(r.url, "/done"):
				done = append(done, r)
			case strings.Contains(r.url, "/failed"):
				failed = append(failed, r)
			}
		}
		if len(done) != 2 || len(failed) != 1 || seen != 1 {
			t.Fatalf("got %d callbacks and %d failure callbacks, %d with a dead letter, want 2, 1, 1", len(done), len(failed), seen)
		}
		dead := s.get("/v2/dlq?url=https://a.test/x").list(t, "messages")[0]["dlqId"]
		const source = `"maxRetries":1,"sourceMessageId":"msg_1","topicName":"g","endpointName":"first","url":"https://a.test/x","method":"POST","sourceHeader":{},
			"sourceBody":"","notBefore":946684800000,"createdAt":946684800000,"callerIP":"203.0.113.7"}`
		text := base64.StdEncoding.EncodeToString([]byte("connection refused"))
		if diff := diffJSON(s.name(done[0].body), `{"status":0,"header":{},"body":"`+text+`","retried":0,`+source); diff != "" {
			t.Errorf("callback: %s", diff)
		}
		if diff := diffJSON(s.name(failed[0].body), `{"status":0,"header":{},"body":"`+text+`","retried":1,"dlqId":"`+fmt.Sprint(dead)+`",`+source); diff != "" {
			t.Errorf("failure callback: %s", diff)
		}
		if m := s.get("/v2/messages/" + s.name(failed[0].header.Get("Upstash-Message-Id"))).object(t); m["maxRetries"] != 5.0 || m["topicName"] != nil {
			t.Errorf("got %v, want 5 retries and no group", m)
		}
		// A callback that fails is a dead letter of its own, and is not reported.
		s.dest.with(500)
		s.publish("/v2/publish/https://b.test", "", "Upstash-Retries: 0", "Upstash-Failure-Callback: https://callback.test/failed")
		s.sleep(time.Minute)
		if got := len(s.dest.take()); got != 2 {
			t.Errorf("got %d deliveries, want the message and its callback", got)
		}
		if got := len(s.get("/v2/dlq").list(t, "messages")); got != 3 {
			t.Errorf("got %d dead letters, want 3", got)
		}
	})
}

// TestScheduleCallback: a callback of a schedule's message names the schedule.
func TestScheduleCallback(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.must(step{do: "POST /v2/schedules/https://a.test", header: []string{"Upstash-Cron: * * * * *", "Upstash-Schedule-Id: mine", "Upstash-Callback: https://callback.test"}, body: "x"})
		s.sleep(61 * time.Second)
		got := s.dest.take()
		if len(got) != 2 || !strings.Contains(got[1].body, `"scheduleId":"mine"`) || !strings.Contains(got[1].body, `"notBefore":946684860000`) {
			t.Errorf("got %d deliveries, want the message and a callback that names the schedule", len(got))
		}
		if m := s.get("/v2/messages/" + s.name(got[1].header.Get("Upstash-Message-Id"))).object(t); m["scheduleId"] != nil {
			t.Errorf("got schedule %v of the callback, want none", m["scheduleId"])
		}
	})
}

// TestQueueWaitsForCallbacks: the next message of a queue starts when the one before and its callbacks are done with.
func TestQueueWaitsForCallbacks(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.dest.answers(func(r *received) answer {
			if strings.Contains(r.url, "callback") {
				if r.header.Get("Upstash-Retried") == "0" {
					return answer{status: 500, after: time.Second}
				}
				return answer{status: 200, after: time.Second}
			}
			return answer{status: 200, after: 5 * time.Second}
		})
		for i := range 3 {
			s.publish(fmt.Sprintf("/v2/enqueue/q/https://a.test/%d", i), "", "Upstash-Callback: https://callback.test")
		}
		s.sleep(10 * time.Minute)
		// 5 s, the callback fails after 1 s, is repeated after 10 s, and takes 1 s: 17 s each.
		if got, want := times(s.dest.take()), "0 5 16 17 22 33 34 39 50"; got != want {
			t.Errorf("got deliveries at %s, want %s", got, want)
		}
	})
}

// TestQueueOrder: messages of a queue come one after the other in the order of acceptance, retries included.
func TestQueueOrder(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.dest.answers(func(r *received) answer {
			if strings.HasSuffix(r.url, "/1") && r.header.Get("Upstash-Retried") == "0" {
				return answer{status: 500, after: time.Second}
			}
			return answer{status: 200, after: time.Second}
		})
		for i := range 4 {
			s.publish(fmt.Sprintf("/v2/enqueue/q/https://a.test/%d", i), "")
		}
		s.sleep(time.Minute)
		var order []string
		got := s.dest.take()
		for _, r := range got {
			order = append(order, r.url[len(r.url)-1:])
		}
		if got, want := times(got)+" "+strings.Join(order, ""), "0 1 12 13 14 01123"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// TestCancel: bulk cancels, by filters, by ids, in the query and in the body.
func TestCancel(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.must(step{do: "POST /v2/topics/g/endpoints", body: `{"endpoints":[{"url":"https://g.test/1"},{"url":"https://g.test/2"}]}`})
		s.must(step{do: "POST /v2/queues", body: `{"queueName":"q","paused":true}`})
		names := map[string]string{}
		later := []string{"Upstash-Delay: 1d"}
		fill := func() {
			t.Helper()
			begin := time.Now()
			names["plain"] = s.publish("/v2/publish/https://Plain.test:8443/p?x=1,2", "", later...)
			names["label"] = s.publish("/v2/publish/https://a.test", "", append(later, "Upstash-Label: l,m")...)
			names["flow"] = s.publish("/v2/publish/https://a.test", "", append(later, "Upstash-Flow-Control-Key: k,1", "Upstash-Flow-Control-Value: rate=1")...)
			names["queue"] = s.publish("/v2/enqueue/q/https://q.test", "")
			s.remote = "198.51.100.7:1"
			names["caller"] = s.publish("/v2/publish/https://a.test", "", later...)
			s.remote = "203.0.113.7:1"
			group := s.must(step{do: "POST /v2/publish/g", header: later}).list(t, "")
			names["g1"], names["g2"] = fmt.Sprint(group[0]["messageId"]), fmt.Sprint(group[1]["messageId"])
			s.sleep(time.Second)
			names["late"] = s.publish("/v2/publish/https://a.test/late", "", later...)
			names["begin"] = fmt.Sprint(begin.UnixMilli())
		}
		canceled := func() string {
			t.Helper()
			var out []string
			for _, name := range []string{"plain", "label", "flow", "queue", "caller", "g1", "g2", "late"} {
				if strings.HasSuffix(s.states(names[name]), "CANCELED") {
					out = append(out, name)
				}
			}
			return strings.Join(out, " ")
		}
		const all = "plain label flow queue caller g1 g2 late"
		tests := []struct {
			query, body string
			want        string
		}{
			{"", "", all},
			{"?count=500", "", all},
			{"?count=3", "", "plain label flow"}, // the oldest
			{"?cursor=", "", all},
			{"", "{}", all},
			{"", `{"messageIds":[]}`, all},
			{"?messageIds=$plain,$g2", "", "plain g2"},
			{"?messageIds=$plain&messageIds=$g2&label=none", "", "plain g2"}, // ids leave other filters aside
			{"", `{"messageIds":["$plain","$g2","msg_none"]}`, "plain g2"},
			{"?topicName=g", "", "g1 g2"},
			{"?urlGroup=g&topicName=g", "", "g1 g2"},
			{"", `{"topicName":"g"}`, "g1 g2"},
			{"?queueName=q", "", "queue"},
			{"", `{"queueName":"q"}`, "queue"},
			{"?url=https://Plain.test:8443/p?x%3D1,2", "", "plain"},
			{"?url=https://q.test,https://g.test/1", "", "queue g1"},
			{"?host=plain.test:8443", "", "plain"},
			{"?host=g.test,q.test", "", "queue g1 g2"},
			{"?host=plain.test", "", ""},
			{"?path=/p", "", "plain"},
			{"?path=/1&path=/late", "", "g1 late"},
			{"?label=m", "", "label"},
			{"?label=none", "", ""},
			{"?flowControlKey=k,1", "", "flow"},
			{"?flowControlKey=k", "", ""},
			{"?callerIp=198.51.100.7", "", "caller"},
			{"", `{"callerIP":"198.51.100.7"}`, "caller"},
			{"?scheduleId=none", "", ""},
			{"?fromDate=$late", "", "late"},
			{"?toDate=$begin", "", "plain label flow queue caller g1 g2"},
			{"?fromDate=$begin&toDate=$begin&host=g.test", "", "g1 g2"},
			{"", `{"fromDate":$late}`, "late"},
			{"?host=g.test", `{"url":"https://g.test/2"}`, "g2"}, // both
			{"?label=l", `{"topicName":"g"}`, ""},
			{"?topicName=g&label=l", "", ""},
		}
		for _, tt := range tests {
			fill()
			r := strings.NewReplacer("$plain", s.id(names["plain"]), "$g2", s.id(names["g2"]), "$begin", names["begin"], "$late", fmt.Sprint(time.Now().UnixMilli()))
			n := len(strings.Fields(tt.want))
			s.check(tt.query+tt.body, step{do: "DELETE /v2/messages" + r.Replace(tt.query), body: r.Replace(tt.body), status: 200, want: fmt.Sprintf(`{"cancelled":%d}`, n)})
			if got := canceled(); got != tt.want {
				t.Errorf("DELETE /v2/messages%s %s: got canceled %q, want %q", tt.query, tt.body, got, tt.want)
			}
			s.run(step{do: "DELETE /v2/messages", status: 200, want: fmt.Sprintf(`{"cancelled":%d}`, 8-n)})
		}
		s.sleep(25 * time.Hour)
		if got := s.dest.take(); len(got) != 0 {
			t.Errorf("got a delivery to %s after it was canceled, want none", got[0].url)
		}
		for _, body := range []string{"[]", "nonsense", `{"label":""}`, `{"labeel":"x"}`, `{"count":0}`, `{"count":501}`, `{"messageIds":[1,{}]}`} {
			s.check(body, step{do: "DELETE /v2/messages", body: body, status: 400, want: `{"error":"*"}`})
		}
		for _, query := range []string{"label=", "messageIds=", "topicName=&topicName="} {
			s.check(query, step{do: "DELETE /v2/messages?" + query, status: 400, want: `{"error":"*"}`})
		}
	})
}

// TestCancelMany: more messages than one transaction takes.
func TestCancelMany(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		item := `{"destination":"https://a.test","headers":{"Upstash-Delay":"1h","Upstash-Label":"l"}}`
		for range 3 {
			s.must(step{do: "POST /v2/batch", body: "[" + strings.Repeat(item+",", 399) + item + "]"})
		}
		s.run(
			step{do: "DELETE /v2/messages?label=l&count=450", status: 200, want: `{"cancelled":450}`},
			step{do: "DELETE /v2/messages?label=l", status: 200, want: `{"cancelled":750}`},
			step{do: "DELETE /v2/messages?label=l", status: 200, want: `{"cancelled":0}`},
		)
		if got := len(s.pages("/v2/events?state=CANCELED", 1000)); got != 1200 {
			t.Errorf("got %d entries CANCELED, want 1200", got)
		}
	})
}

// TestSignatures: each attempt is signed anew, with the key that is current then.
func TestSignatures(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.dest.with(500)
		old := s.get("/v2/keys").object(t)
		s.publish("/v2/publish/https://a.test/x?y=z", "body", "Upstash-Retries: 1")
		s.sleep(time.Second)
		s.must(step{do: "POST /v2/keys/rotate"})
		current := s.get("/v2/keys").object(t)
		s.sleep(time.Minute)
		got := s.dest.take()
		if len(got) != 2 {
			t.Fatalf("got %d attempts, want 2", len(got))
		}
		ids := map[string]bool{}
		for i, key := range []any{old["current"], current["current"]} {
			at := s.begin.Add(got[i].at)
			claims, err := (signature.Verifier{CurrentKey: fmt.Sprint(key)}).Verify(got[i].header.Get("Upstash-Signature"), []byte("body"), "https://a.test/x?y=z", at)
			if err != nil {
				t.Errorf("attempt %d: %v", i, err)
				continue
			}
			if !claims.IssuedAt.Equal(at.Truncate(time.Second)) || !claims.Expires.Equal(claims.IssuedAt.Add(300*time.Second)) || !claims.NotBefore.Equal(time.Unix(0, 0)) {
				t.Errorf("attempt %d: got times %v %v %v, want those of the attempt", i, claims.IssuedAt, claims.NotBefore, claims.Expires)
			}
			ids[claims.ID] = true
		}
		if len(ids) != 2 {
			t.Errorf("got token ids %v, want one for each attempt", ids)
		}
	})
}

// TestRotationUnderTraffic: while keys are rotated again and again, a receiver that has the pair of either side of a rotation
// verifies every delivery.
func TestRotationUnderTraffic(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		type pair struct{ Current, Next string }
		pairs := []pair{}
		note := func(r *reply) {
			var p pair
			if err := json.Unmarshal([]byte(r.body), &p); err != nil {
				t.Fatal(err)
			}
			pairs = append(pairs, p)
		}
		note(s.get("/v2/keys"))
		sent := 0
		for range 20 {
			var wg sync.WaitGroup
			for i := range 20 {
				sent++
				raw := s.raw(step{do: "POST /v2/publish/https://a.test", body: fmt.Sprint(i), header: []string{"Upstash-Forward-Pair: " + fmt.Sprint(len(pairs)-1)}})
				wg.Go(func() {
					req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
					if err != nil {
						t.Error(err)
						return
					}
					s.handler.ServeHTTP(httptest.NewRecorder(), req)
				})
			}
			note(s.must(step{do: "POST /v2/keys/rotate"}))
			wg.Wait()
			s.sleep(time.Second)
		}
		for i := 1; i < len(pairs); i++ {
			if pairs[i].Current != pairs[i-1].Next || pairs[i].Next == pairs[i].Current {
				t.Fatalf("got keys %v after %v, want the next one to be the current one", pairs[i], pairs[i-1])
			}
		}
		got := s.dest.take()
		if len(got) != sent {
			t.Errorf("got %d deliveries, want %d", len(got), sent)
		}
		for _, r := range got {
			n, err := strconv.Atoi(r.header.Get("Pair"))
			if err != nil {
				t.Fatal(err)
			}
			// A receiver that has the pair from before the rotation; it holds the key from after it as the next one.
			v := signature.Verifier{CurrentKey: pairs[n].Current, NextKey: pairs[n].Next}
			if _, err := v.Verify(r.header.Get("Upstash-Signature"), []byte(r.body), "https://a.test", s.begin.Add(r.at)); err != nil {
				t.Errorf("published with pair %d: %v", n, err)
			}
		}
	})
}

// TestResponseIsCut: what is too long of an answer is not kept.
func TestResponseIsCut(t *testing.T) {
	cfg := stackConfig{}
	cfg.Delivery.MaxResponse = 1000
	inBubble(t, cfg, func(t *testing.T, s *stack) {
		s.dest.answers(func(r *received) answer {
			if strings.Contains(r.url, "callback") {
				return answer{}
			}
			return answer{status: 500, body: strings.Repeat("x", 5000)}
		})
		s.publish("/v2/publish/https://a.test", "", "Upstash-Retries: 0", "Upstash-Failure-Callback: https://callback.test")
		s.sleep(0)
		if d := s.get("/v2/dlq").list(t, "messages")[0]; len(fmt.Sprint(d["responseBody"])) != 1000 {
			t.Errorf("got %d bytes of the answer, want 1000", len(fmt.Sprint(d["responseBody"])))
		}
		if got := s.dest.take(); len(got) != 2 || !strings.Contains(got[1].body, `"body":"`+base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", 1000)))+`"`) {
			t.Errorf("got %d deliveries, want a callback with 1000 bytes of the answer", len(got))
		}
	})
}
