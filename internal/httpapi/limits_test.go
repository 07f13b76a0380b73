package httpapi_test

import (
	"bufio"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestSizes: what is too large for the plan or preset is 412 and names the limit, what is too large for the server 413.
func TestSizes(t *testing.T) {
	const (
		kib   = 1 << 10
		quota = `{"error":"quota maxMessageSize exceeded, current limit: 65536. Store large data elsewhere and send a reference to it"}`
	)
	cfg := stackConfig{}
	cfg.Broker.MaxBody, cfg.API.MaxBody, cfg.API.MaxBatch = 64*kib, 1024*kib, 512*kib
	inBubble(t, cfg, func(t *testing.T, s *stack) {
		item := func(body string) string { return `{"destination":"https://a.test","body":"` + body + `"}` }
		x := func(n int) string { return strings.Repeat("x", n) }
		chunked := func(n int) step {
			return step{header: []string{"Transfer-Encoding: chunked"}, body: fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", n, x(n))}
		}
		for _, do := range []string{"POST /v2/publish/https://a.test", "POST /v2/enqueue/q/https://a.test", "POST /v2/schedules/https://a.test?upstash-cron=@daily"} {
			in := chunked(64 * kib)
			in.do, in.status = do, 200
			out := chunked(64*kib + 1)
			out.do, out.status, out.want = do, 412, quota
			s.run(
				step{do: do, body: x(64 * kib), status: 200},
				step{do: do, body: x(64*kib + 1), status: 412, want: quota},
				step{do: do, header: []string{"Content-Length: 1048577"}, status: 413, want: `{"error":"the request body is larger than the server's 1048576 bytes"}`},
				in, out,
				// Shorter than it says.
				step{do: do, header: []string{"Content-Length: 10"}, body: "short", status: 400, want: `{"error":"the request body ended early or could not be read"}`},
				step{do: do, header: []string{"Transfer-Encoding: chunked"}, body: "5\r\nabc", status: 400, want: `{"error":"the request body ended early or could not be read"}`},
				step{do: do, header: []string{"Transfer-Encoding: chunked"}, body: "nonsense\r\n", status: 400, want: `{"error":"the request body ended early or could not be read"}`},
			)
		}
		s.run(
			step{do: "POST /v2/batch", body: "[" + item(x(64*kib)) + "," + item("y") + "]", status: 200},
			step{do: "POST /v2/batch", body: "[" + item("y") + "," + item(x(64*kib+1)) + "]", status: 412, want: strings.Replace(quota, `"quota`, `"batch[1]: quota`, 1)},
			step{do: "POST /v2/batch", body: "[" + item("y") + "," + item(x(128*kib)) + "]", status: 412, want: strings.Replace(quota, `"quota`, `"batch[1]: quota`, 1)},
			// What counts is the body, not how it is spelled in JSON.
			step{do: "POST /v2/batch", body: "[" + item(strings.Repeat(`\"`, 60*kib)) + "]", status: 200},
			step{do: "POST /v2/batch", body: "[" + item(strings.Repeat(`\u0041`, 60*kib)) + "]", status: 200},
			step{do: "POST /v2/batch", body: "[" + item(x(60*kib)) + strings.Repeat(","+item(x(60*kib)), 9) + "]", status: 413, want: `{"error":"the request body is larger than the server's 524288 bytes"}`},
			step{do: "POST /v2/batch", header: []string{"Content-Length: 524289"}, status: 413},
			step{do: "POST /v2/batch", header: []string{"Content-Length: 100"}, body: "[" + item("x"), status: 400},
			step{do: "DELETE /v2/messages", header: []string{"Content-Length: 100000000"}, status: 413},
			step{do: "POST /v2/queues", header: []string{"Content-Length: 10"}, body: "{", status: 400},
		)
		for _, tt := range s.get("/v2/events?state=CREATED").list(t, "events") {
			if tt["url"] != "https://a.test" {
				t.Errorf("got a message to %v, want none", tt["url"])
			}
		}
		if got, want := len(s.get("/v2/events?state=CREATED").list(t, "events")), 2*2+2+2; got != want {
			t.Errorf("got %d messages, want %d", got, want)
		}
	})
}

// TestBudget: bodies wait for no memory: what does not fit is refused and may be sent again.
func TestBudget(t *testing.T) {
	cfg := stackConfig{}
	cfg.API.Budget = 1000
	inBubble(t, cfg, func(t *testing.T, s *stack) {
		const full = `{"error":"the server holds as many bytes of requests as it may; try again"}`
		for range 5 { // what was held is given back
			s.run(
				step{do: "POST /v2/publish/https://a.test", body: strings.Repeat("x", 1000), status: 200},
				step{do: "POST /v2/publish/https://a.test", body: strings.Repeat("x", 1001), status: 503, want: full, head: []string{"Retry-After: 1"}},
				step{do: "POST /v2/batch", body: `[{"destination":"https://a.test","body":"` + strings.Repeat("x", 1000) + `"}]`, status: 503, want: full, head: []string{"Retry-After: 1"}},
				step{do: "POST /v2/publish/https://a.test", header: []string{"Transfer-Encoding: chunked"}, body: fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", 1001, strings.Repeat("x", 1001)), status: 503, want: full},
				step{do: "POST /v2/publish/https://a.test", header: []string{"Content-Length: 900"}, body: "short", status: 400},
				step{do: "POST /v2/publish/ftp://a.test", body: strings.Repeat("x", 900), status: 400},
			)
		}
	})
}

// TestLimits: the figures of a plan.
func TestLimits(t *testing.T) {
	inBubble(t, stackConfig{plan: "free"}, func(t *testing.T, s *stack) {
		const post = "POST /v2/publish/https://a.test"
		s.run(
			step{do: post, header: []string{"Upstash-Delay: 7d"}, status: 200},
			step{do: post, header: []string{"Upstash-Delay: 604801s"}, status: 400, want: `{"error":"quota maxDelay exceeded, current limit: 604800"}`},
			step{do: post, header: []string{"Upstash-Not-Before: 947289600"}, status: 200},
			step{do: post, header: []string{"Upstash-Not-Before: 947289601"}, status: 400, want: `{"error":"quota maxDelay exceeded, current limit: 604800"}`},
			step{do: post, header: []string{"Upstash-Retries: 5"}, status: 200},
			step{do: post, header: []string{"Upstash-Retries: 6"}, status: 400, want: `{"error":"quota maxRetries exceeded, current limit: 5"}`},
			step{do: post, header: []string{"Upstash-Callback: https://c.test", "Upstash-Callback-Retries: 6"}, status: 400, want: `{"error":"quota maxRetries exceeded, current limit: 5"}`},
			step{do: post, header: []string{"Upstash-Callback: https://c.test", "Upstash-Callback-Delay: 8d"}, status: 400, want: `{"error":"quota maxDelay exceeded, current limit: 604800"}`},
			step{do: post, header: []string{"Upstash-Timeout: 20m", "Upstash-Label: cut", "Upstash-Delay: 1d"}, status: 200},
			step{do: "GET /v2/logs?label=cut", status: 200},
			step{do: "POST /v2/queues", body: `{"queueName":"q","parallelism":3}`, status: 412, want: `{"error":"quota maxQueueParallelism exceeded, current limit: 2"}`},
			step{do: "POST /v2/topics/g/endpoints", body: `{"endpoints":[{"url":"https://a.test"}]}`, status: 200},
			step{do: "POST /v2/topics/h/endpoints", body: `{"endpoints":[{"url":"https://a.test"}]}`, status: 412, want: `{"error":"quota maxTopics exceeded, current limit: 1"}`},
			step{after: time.Millisecond, do: "GET /v2/globalParallelism", status: 200, want: `{"parallelismMax":10,"parallelismCount":0}`},
		)
		if got := s.get("/v2/events?label=cut").list(t, "events")[0]["timeout"]; got != 900000.0 {
			t.Errorf("got timeout %v, want the plan's 900000", got)
		}
		var endpoints []string
		for i := range 100 {
			endpoints = append(endpoints, fmt.Sprintf(`{"url":"https://%d.test"}`, i))
		}
		s.run(
			step{do: "POST /v2/topics/g/endpoints", body: `{"endpoints":[` + strings.Join(endpoints, ",") + `]}`, status: 412, want: `{"error":"quota maxEndpointsPerTopic exceeded, current limit: 100"}`},
			step{do: "POST /v2/topics/g/endpoints", body: `{"endpoints":[` + strings.Join(endpoints[:99], ",") + `]}`, status: 200},
		)
		for i := range 10 {
			s.run(
				step{do: fmt.Sprintf("POST /v2/enqueue/q%d/https://a.test", i), status: 200},
				step{do: "POST /v2/schedules/https://a.test", header: []string{fmt.Sprintf("Upstash-Schedule-Id: s%d", i), "Upstash-Cron: @yearly"}, status: 200},
			)
		}
		const queues = `{"error":"quota maxQueues exceeded, current limit: 10"}`
		s.run(
			step{do: "POST /v2/enqueue/q10/https://a.test", status: 412, want: queues},
			step{do: "POST /v2/queues", body: `{"queueName":"q10"}`, status: 412, want: queues},
			step{do: "POST /v2/batch", body: `[{"destination":"https://a.test","queue":"q1"},{"destination":"https://a.test","queue":"q10"}]`, status: 412, want: queues},
			step{do: "POST /v2/queues", body: `{"queueName":"q1","parallelism":2}`, status: 200},
			step{do: "POST /v2/enqueue/q1/https://a.test", status: 200},
			step{do: "POST /v2/schedules/https://a.test", header: []string{"Upstash-Schedule-Id: s10", "Upstash-Cron: @yearly"}, status: 412, want: `{"error":"quota maxSchedules exceeded, current limit: 10"}`},
			step{do: "POST /v2/schedules/https://a.test", header: []string{"Upstash-Schedule-Id: s1", "Upstash-Cron: @daily"}, status: 200},
			step{do: "DELETE /v2/queues/q1", status: 200},
			step{do: "POST /v2/enqueue/q10/https://a.test", status: 200},
		)
	})
}

// TestDailyLimit: so many messages a UTC day, callbacks and copies included, retries not. A request that would pass the limit
// is refused whole, in the class of daily limits.
func TestDailyLimit(t *testing.T) {
	inBubble(t, stackConfig{plan: "free"}, func(t *testing.T, s *stack) {
		s.dest.answers(func(r *received) answer {
			if strings.Contains(r.url, "fails") {
				return answer{status: 500}
			}
			return answer{}
		})
		state := func(remaining int) []string {
			return []string{"RateLimit-Limit: 500", fmt.Sprintf("RateLimit-Remaining: %d", remaining), "RateLimit-Reset: 946771200", "Burst-RateLimit-Limit: -"}
		}
		batch := func(n int) string {
			return "[" + strings.Repeat(`{"destination":"https://a.test"},`, n-1) + `{"destination":"https://a.test"}]`
		}
		s.run(
			step{do: "POST /v2/topics/g/endpoints", body: `{"endpoints":[{"url":"https://a.test"},{"url":"https://b.test"}]}`, status: 200},
			step{do: "POST /v2/publish/https://fails.test", header: []string{"Upstash-Retries: 0"}, status: 200, head: state(499)},
			step{do: "POST /v2/batch", body: batch(491), status: 200, head: state(8)},
			step{do: "POST /v2/publish/g", status: 200, head: state(6)},
			// It and its callback.
			step{do: "POST /v2/enqueue/q/https://a.test", header: []string{"Upstash-Callback: https://c.test", "Upstash-Deduplication-Id: d", "Upstash-Deduplication-Window: 20h"}, status: 200, head: state(5)},
			step{after: time.Second, do: "POST /v2/batch", body: batch(5), status: 429, head: state(4)},
			step{do: "GET /v2/queues/q", status: 200},
			// A duplicate is not another message.
			step{do: "POST /v2/publish/https://a.test", header: []string{"Upstash-Deduplication-Id: d"}, status: 202},
			step{do: "POST /v2/batch", body: batch(3), status: 200, head: state(1)},
			step{do: "POST /v2/publish/g", status: 429, head: state(1)},
			step{do: "POST /v2/publish/https://a.test", header: []string{"Upstash-Retries: 1", "Upstash-Callback: https://c.test"}, status: 200, head: state(0)},
		)
		s.sleep(time.Second)
		for _, do := range []string{"POST /v2/publish/https://a.test", "POST /v2/publish/g", "POST /v2/enqueue/q/https://a.test"} {
			r := s.check("full", step{do: do, status: 429, head: state(0)})
			if !strings.Contains(r.body, "rate limit") {
				t.Errorf("got %s, want the words rate limit in it", r.body)
			}
		}
		s.check("full", step{do: "POST /v2/batch", body: batch(1), status: 429, head: state(0)})
		// Nor does a dead letter come back as a new message.
		s.get("/v2/dlq")
		s.run(
			step{do: "POST /v2/dlq/retry/dlq_1", status: 429},
			step{do: "POST /v2/dlq/retry", status: 429},
			step{do: "GET /v2/dlq/dlq_1", status: 200},
		)
		// Other tenants have their own, the rest of the API goes on, and so does the next day.
		s.run(
			step{do: "POST /v2/publish/https://a.test", token: "bob", status: 200, head: state(499)},
			step{do: "GET /v2/events?count=1", status: 200, head: []string{"RateLimit-Limit: -", "RateLimit-Remaining: -"}},
			step{after: 24 * time.Hour, do: "POST /v2/publish/https://a.test", status: 200, head: []string{"RateLimit-Limit: 500", "RateLimit-Remaining: 499", "RateLimit-Reset: 946857600"}},
		)
	})
	// Without a limit no header speaks of one.
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		none := []string{"RateLimit-Limit: -", "RateLimit-Remaining: -", "RateLimit-Reset: -", "Burst-RateLimit-Limit: -", "Burst-RateLimit-Remaining: -"}
		s.run(
			step{do: "POST /v2/publish/https://a.test", status: 200, head: none},
			step{do: "GET /v2/queues", status: 200, head: none},
		)
	})
}

// TestBurstLimit: so many requests a second of routes that do not publish, in the class of bursts.
func TestBurstLimit(t *testing.T) {
	inBubble(t, stackConfig{plan: "payg"}, func(t *testing.T, s *stack) {
		state := func(remaining int, reset int64) []string {
			return []string{
				"Burst-RateLimit-Limit: 100", fmt.Sprintf("Burst-RateLimit-Remaining: %d", remaining), fmt.Sprintf("Burst-RateLimit-Reset: %d", reset),
				"RateLimit-Limit: -", "RateLimit-Remaining: -", "RateLimit-Reset: -", "x-ratelimit-limit-requests: -",
			}
		}
		const start = bubbleStart / 1000
		for i := range 100 {
			s.run(step{do: "GET /v2/queues", status: 200, head: state(99-i, start+1)})
		}
		for _, do := range []string{"GET /v2/queues", "DELETE /v2/queues/q", "POST /v2/queues", "GET /v2/events", "POST /v2/dlq/retry", "DELETE /v2/messages"} {
			r := s.check("burst", step{do: do, status: 429, head: state(0, start+1)})
			if !strings.Contains(r.body, "rate limit") {
				t.Errorf("got %s, want the words rate limit in it", r.body)
			}
		}
		none := []string{"RateLimit-Limit: -", "Burst-RateLimit-Limit: -"}
		s.run(
			step{do: "POST /v2/publish/https://a.test", status: 200, head: none},
			step{do: "POST /v2/batch", body: `[{"destination":"https://a.test"}]`, status: 200, head: none},
			step{do: "POST /v2/enqueue/q/https://a.test", status: 200, head: none},
			step{do: "GET /v2/queues", token: "bob", status: 200, head: state(99, start+1)},
			step{do: "GET /v2/queues", token: "wrong", status: 401, head: none},
			step{do: "GET /healthz", token: "-", status: 200, head: none},
			step{after: time.Second, do: "GET /v2/queues", status: 200, head: state(99, start+2)},
		)
	})
}

// TestCallerIP: the address that a message shows is that of the peer, or what a trusted proxy says.
func TestCallerIP(t *testing.T) {
	cfg := stackConfig{}
	cfg.API.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	inBubble(t, cfg, func(t *testing.T, s *stack) {
		for _, tt := range []struct {
			remote, forwarded, want string
		}{
			{"203.0.113.9:1234", "", "203.0.113.9"},
			{"203.0.113.9:1234", "198.51.100.1", "203.0.113.9"},
			{"[::ffff:203.0.113.9]:1234", "", "203.0.113.9"},
			{"[2001:db8::1]:1234", "", "2001:db8::1"},
			{"[fe80::1%eth0]:1234", "", "fe80::1"},
			{"10.1.2.3:1234", "", "10.1.2.3"},
			{"10.1.2.3:1234", "198.51.100.1", "198.51.100.1"},
			{"10.1.2.3:1234", " 198.51.100.1 , 10.9.9.9", "198.51.100.1"},
			{"10.1.2.3:1234", "::ffff:198.51.100.1", "198.51.100.1"},
			{"10.1.2.3:1234", "2001:db8::2", "2001:db8::2"},
			{"10.1.2.3:1234", "unknown", "10.1.2.3"},
			{"[::ffff:10.1.2.3]:1234", "198.51.100.1", "198.51.100.1"},
			{"[fd00::1]:1234", "198.51.100.1", "198.51.100.1"},
			{"pipe", "198.51.100.1", ""},
		} {
			s.remote = tt.remote
			var header []string
			if tt.forwarded != "" {
				header = []string{"X-Forwarded-For: " + tt.forwarded}
			}
			id := s.publish("/v2/publish/https://a.test", "", header...)
			s.sleep(0)
			m, e := s.get("/v2/messages/"+id).object(t), s.get("/v2/events?messageId="+id).list(t, "events")[0]
			r := s.dest.one(t)
			text := func(o map[string]any, field string) string { v, _ := o[field].(string); return v }
			for what, got := range map[string]string{
				"callerIP": text(m, "callerIP"), "callerIp": text(m, "callerIp"), "callerIP of the log": text(e, "callerIP"), "Upstash-Caller-Ip": r.header.Get("Upstash-Caller-Ip"),
			} {
				if got != tt.want {
					t.Errorf("from %s for %q: got %s %q, want %q", tt.remote, tt.forwarded, what, got, tt.want)
				}
			}
			if _, there := m["callerIP"]; there != (tt.want != "") {
				t.Errorf("from %s: got callerIP %v, want it left out if it is not known", tt.remote, m["callerIP"])
			}
			n := len(s.get("/v2/events?state=CREATED&callerIp="+tt.want).list(t, "events"))
			if tt.want != "" && n == 0 {
				t.Errorf("from %s: got no entry by callerIp=%s", tt.remote, tt.want)
			}
		}
	})
}

// TestConfigurationIsCurrent: a change of the plan or of tokens holds for the very next request, also of a kind that publishes.
func TestConfigurationIsCurrent(t *testing.T) {
	inBubble(t, stackConfig{plan: "free", data: filepath.Join(t.TempDir(), "data")}, func(t *testing.T, s *stack) {
		retries := step{do: "POST /v2/publish/https://a.test", header: []string{"Upstash-Retries: 6"}, status: 400}
		large := step{do: "POST /v2/enqueue/q/https://a.test", header: []string{"Upstash-Delay: 1s"}, status: 400}
		late := step{do: "POST /v2/publish/https://a.test", header: []string{"Upstash-Delay: 8d"}, status: 400}
		s.run(retries, large, late)
		if err := s.admin.SetPlan(t.Context(), 1, "payg"); err != nil {
			t.Fatal(err)
		}
		late.status = 200
		s.run(late)
		retries.status = 200
		s.run(retries)
		if err := s.admin.SetPlan(t.Context(), 1, "free"); err != nil {
			t.Fatal(err)
		}
		late.status, retries.status = 400, 400
		s.run(late, retries)
		if err := s.admin.SetPlan(t.Context(), 1, "payg"); err != nil {
			t.Fatal(err)
		}
		retries.status = 200
		s.run(retries)

		// A revoked token.
		s.tokens()
		publish := step{do: "POST /v2/publish/https://a.test", token: "alice-publishes", status: 200}
		read := step{do: "GET /v2/queues", token: "alice-reads", status: 200}
		s.run(publish, read)
		tokens, err := s.admin.Tokens(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, tok := range tokens {
			if err := s.admin.RevokeToken(t.Context(), 1, tok.Hash); err != nil {
				t.Fatal(err)
			}
		}
		const invalid = `{"error":"unable to authenticate: invalid token"}`
		s.run(
			step{do: publish.do, token: "alice-publishes", status: 401, want: invalid},
			step{do: read.do, token: "alice-reads", status: 401, want: invalid},
			step{do: "POST /v2/publish/https://a.test", header: []string{"Upstash-Cron: * * * * *"}, status: 401, want: invalid},
			step{do: "POST /v2/batch", body: `[{"destination":"https://a.test"}]`, status: 401, want: invalid},
			step{do: "POST /v2/schedules/https://a.test", header: []string{"Upstash-Cron: * * * * *"}, status: 401, want: invalid},
			step{do: publish.do, token: "bob", status: 200},
		)
	})
}

// TestBodyIsReadOnce: a request that is refused before its body is read does not wait for it.
func TestBodyIsReadOnce(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		for _, st := range []step{
			{do: "POST /v2/publish/https://a.test", token: "wrong"},
			{do: "POST /v2/publish/ftp://a.test"},
			{do: "POST /v2/nothing"},
			{do: "PUT /v2/queues"},
		} {
			st.header = []string{"Content-Length: 1000"}
			req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(s.raw(st))))
			if err != nil {
				t.Fatal(err)
			}
			req.Body = unread{t, st.do}
			w := httptest.NewRecorder()
			s.handler.ServeHTTP(w, req)
			if w.Code < 400 || w.Code > 499 {
				t.Errorf("%s: got %d, want a refusal", st.do, w.Code)
			}
		}
	})
}

// unread is a body that nobody should read.
type unread struct {
	t  *testing.T
	of string
}

func (u unread) Read([]byte) (int, error) {
	u.t.Errorf("%s: the body was read", u.of)
	return 0, fmt.Errorf("not to be read")
}

func (u unread) Close() error { return nil }
