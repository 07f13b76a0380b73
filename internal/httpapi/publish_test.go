package httpapi_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/posthaste/posthaste/internal/egress"
)

// TestDestinations: what a request target asks for, byte by byte.
func TestDestinations(t *testing.T) {
	const (
		none  = `{"error":"a non-empty destination must be provided"}`
		alien = `{"error":"invalid destination url: endpoint has invalid scheme, add http:// or https://"}`
	)
	tests := []struct {
		target string
		// url is the destination, which is what the message shows and, but for the slash of an empty path, the delivery's.
		url   string
		queue string
		delay time.Duration
		more  string // JSON fields that the message has besides
		err   string
		code  int
	}{
		{target: "/v2/publish/https://example.com", url: "https://example.com"},
		{target: "/v2/publish/https://example.com/", url: "https://example.com/"},
		{target: "/v2/publish/https://example.com/?foo=bar", url: "https://example.com/?foo=bar"},
		{target: "/v2/publish/https://a.b/x%20y?q=%2F&z", url: "https://a.b/x%20y?q=%2F&z"},
		{target: "/v2/publish/https://a.b/h?upstash-retries=3&k=v", url: "https://a.b/h?k=v", more: `"maxRetries":3`},
		{target: "/v2/publish/https://a.b/h?k=v&Upstash-Retries=7&k=w", url: "https://a.b/h?k=v&k=w", more: `"maxRetries":7`},
		{target: "/v2/publish/https://a.b/h?upstash-delay=100s", url: "https://a.b/h", delay: 100 * time.Second},
		{target: "/v2/publish/https://a.b/h?upstash-forward-x-y=1&upstash-method=get", url: "https://a.b/h", more: `"method":"GET","header":{"X-Y":["1"]}`},
		{target: "/v2/publish/https%3A%2F%2Fa.b%2Fh%3Fk%3Dv", url: "https://a.b/h?k=v"},
		{target: "/v2/publish/HTTPS%3a%2f%2Fa.b", url: "HTTPS://a.b"},
		{target: "/v2/publish/https%3A%2F%2Fa.b%2Fh%3Fk%3Dv?l=w", url: "https://a.b/h?k=v&l=w"},
		{target: "/v2/publish/https:/a.b/h", url: "https://a.b/h"},
		{target: "/v2/publish/http:/a.b", url: "http://a.b"},
		{target: "/v2/publish/HTTP://a.b", url: "HTTP://a.b"},
		{target: "/v2/publish/hTTps://A.b/Path", url: "hTTps://A.b/Path"},
		{target: "/V2/Publish/https://a.b//c//d", url: "https://a.b//c//d"},
		{target: "/v2/publish/https://a.b/%2F..%2e/./../x", url: "https://a.b/%2F..%2e/./../x"},
		{target: "/v2/publish/https://a.b:8443/x;y=1,2/(z)", url: "https://a.b:8443/x;y=1,2/(z)"},
		{target: "/v2/publish/https://a.b/?a=b+c&d=%zz&&=&e=[1]", url: "https://a.b/?a=b+c&d=%zz&&=&e=[1]"},
		{target: "/v2/publish/https://a.b/%C3%BC?%C3%BC=%FC", url: "https://a.b/%C3%BC?%C3%BC=%FC"},
		{target: "/v2/publish/https://user:pa%40ss@a.b/x", url: "https://user:pa%40ss@a.b/x"},
		{target: "/v2/publish/https://a.b/{x}%2F%7Cy", url: "https://a.b/{x}%2F%7Cy"},
		{target: "http://posthaste.test/v2/publish/https://a.b//x?y", url: "https://a.b//x?y"},
		{target: "/v2/publish/https://a.b/?qstash_token_x=1&xupstash-delay=1s", url: "https://a.b/?qstash_token_x=1&xupstash-delay=1s"},

		{target: "/v2/enqueue/my%2Dq/https://a.b//c//d", url: "https://a.b//c//d", queue: "my-q"},
		{target: "/v2/enqueue/q.1_A/https:/a.b?x=y", url: "https://a.b?x=y", queue: "q.1_A"},
		{target: "/V2/ENQUEUE/q/https%3A%2F%2Fa.b", url: "https://a.b", queue: "q"},

		{target: "/v2/publish/", err: none, code: 400},
		{target: "/v2/publish", err: none, code: 400},
		{target: "/v2/publish?x=1", err: none, code: 400},
		{target: "/v2/enqueue/q/", err: none, code: 400},
		{target: "/v2/enqueue/q", err: none, code: 400},
		{target: "/v2/schedules/?upstash-cron=@daily", err: none, code: 400},
		{target: "/v2/publish/ftp://a.b", err: alien, code: 400},
		{target: "/v2/publish/a.b/c", err: alien, code: 400},
		{target: "/v2/publish//https://a.b", err: alien, code: 400},
		{target: "/v2/publish/javascript:alert(1)", err: alien, code: 400},
		{target: "/v2/publish/%20", err: alien, code: 400},
		{target: "/v2/publish/nogroup", err: `{"error":"topic nogroup not found"}`, code: 404},
		{target: "/v2/publish/example.com", err: `{"error":"topic example.com not found"}`, code: 404},
		{target: "/v2/enqueue/q/nogroup", err: `{"error":"topic nogroup not found"}`, code: 404},
		{target: "/v2/schedules/nogroup?upstash-cron=@daily", err: `{"error":"topic nogroup not found"}`, code: 404},
		{target: "/v2/publish/api/llm", err: `{"error":"api llm is not enabled: the server has no --llm-url"}`, code: 400},
		{target: "/v2/publish/https://", err: `{"error":"invalid destination url: endpoint has no host"}`, code: 400},
		{target: "/v2/publish/https:///x", err: `{"error":"invalid destination url: endpoint has no host"}`, code: 400},
		{target: "/v2/publish/https://[::1]/x", err: `{"error":"invalid destination url: endpoint resolves to a loopback address: ::1 (allow it with --allow-private)"}`, code: 400},
		{target: "/v2/publish/https://127.0.0.1", err: `{"error":"*"}`, code: 400},
		{target: "/v2/publish/https://localhost:8080", err: `{"error":"*"}`, code: 400},
		{target: "/v2/publish/https://169.254.169.254/latest", err: `{"error":"*"}`, code: 400},
		{target: "/v2/enqueue//https://a.b", err: `{"error":"invalid queue name: must not be empty"}`, code: 400},
		{target: "/v2/enqueue/a%2Fb/https://a.b", err: `{"error":"*"}`, code: 400},
		{target: "/v2/enqueue/%zz/https://a.b", err: ``, code: 400},
	}
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		for _, tt := range tests {
			if strings.Contains(tt.target, "%zz/") {
				continue // no such request reaches a handler
			}
			if tt.url == "" {
				s.check(tt.target, step{do: "POST " + tt.target, status: tt.code, want: tt.err})
				if got := s.dest.take(); len(got) != 0 {
					t.Errorf("%s: got a delivery to %s, want none", tt.target, got[0].url)
				}
				continue
			}
			r := s.check(tt.target, step{do: "POST " + tt.target, status: 200})
			if r.status != 200 {
				continue
			}
			id, _ := r.object(t)["messageId"].(string)
			m := s.get("/v2/messages/" + id).object(t)
			if m["url"] != tt.url {
				t.Errorf("%s: got url %q, want %q", tt.target, m["url"], tt.url)
			}
			if q, _ := m["queueName"].(string); q != tt.queue {
				t.Errorf("%s: got queue %q, want %q", tt.target, q, tt.queue)
			}
			if got := m["notBefore"].(float64) - m["createdAt"].(float64); got != float64(tt.delay.Milliseconds()) {
				t.Errorf("%s: got %v ms from createdAt to notBefore, want %v", tt.target, got, tt.delay)
			}
			for name, want := range jsonFields(t, tt.more) {
				if fmt.Sprint(m[name]) != fmt.Sprint(want) {
					t.Errorf("%s: got %s %v, want %v", tt.target, name, m[name], want)
				}
			}
			s.sleep(200 * time.Second)
			s.dest.one(t)
		}
		if got := len(s.get("/v2/schedules").list(t, "")); got != 0 {
			t.Errorf("got %d schedules, want 0", got)
		}
	})
}

func jsonFields(t *testing.T, fields string) map[string]any {
	t.Helper()
	return (&reply{body: "{" + fields + "}"}).object(t)
}

// TestGroupDestinations: a group takes the settings of the query, and drops the rest of it.
func TestGroupDestinations(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.run(
			step{do: "POST /v2/topics/my-group.v2/endpoints", body: `{"endpoints":[{"url":"https://a.test/x?y=1","name":"first"},{"url":"https://b.test"}]}`, status: 200, want: `{}`},
			step{
				do: "POST /v2/publish/my-group.v2?x=1&upstash-retries=1", body: "b", status: 200,
				want: `[{"messageId":"msg_1","url":"https://a.test/x?y=1"},{"messageId":"msg_2","url":"https://b.test"}]`,
			},
			step{
				do: "POST /v2/enqueue/q/my-group.v2", status: 200,
				want: `[{"messageId":"msg_3","url":"https://a.test/x?y=1"},{"messageId":"msg_4","url":"https://b.test"}]`,
			},
			step{
				do: "POST /v2/batch", body: `[{"destination":"my-group.v2"},{"destination":"https://c.test?upstash-retries=1"}]`, status: 200,
				want: `[[{"messageId":"msg_5","url":"https://a.test/x?y=1"},{"messageId":"msg_6","url":"https://b.test"}],{"messageId":"msg_7"}]`,
			},
			// In a batch a destination is taken as it is written.
			step{do: "GET /v2/messages/msg_7", status: 200, want: `{"messageId":"msg_7","url":"https://c.test?upstash-retries=1","method":"POST","header":{},"maxRetries":3,
				"notBefore":946684800000,"createdAt":946684800000,"callerIP":"203.0.113.7","callerIp":"203.0.113.7"}`},
			step{do: "POST /v2/batch", body: `[{"destination":"https%3A%2F%2Fa.b"}]`, status: 400, want: `{"error":"batch[0]: invalid destination url: endpoint has invalid scheme, add http:// or https://"}`},
			step{do: "GET /v2/messages/msg_1", status: 200, want: `{"messageId":"msg_1","url":"https://a.test/x?y=1","topicName":"my-group.v2","urlGroup":"my-group.v2",
				"endpointName":"first","method":"POST","header":{},"body":"b","maxRetries":1,"notBefore":946684800000,"createdAt":946684800000,
				"callerIP":"203.0.113.7","callerIp":"203.0.113.7"}`},
		)
		s.sleep(0)
		got, named := s.dest.take(), 0
		for _, r := range got {
			if r.header.Get("Upstash-Topic-Name") == "my-group.v2" {
				named++
			}
		}
		if len(got) != 7 || named != 6 {
			t.Errorf("got %d deliveries, %d with the group's name, want 7 and 6", len(got), named)
		}
	})
}

// TestScheduleDestinations: what has a scheme is a destination, whatever it ends in.
func TestScheduleDestinations(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		cron := []string{"Upstash-Cron: @daily"}
		s.run(
			step{do: "POST /v2/Schedules/https://a.b", header: cron, status: 200, want: `{"scheduleId":"scd_1"}`},
			step{do: "POST /v2/schedules/https://a.b/pause", header: cron, status: 200, want: `{"scheduleId":"scd_2"}`},
			step{do: "POST /v2/schedules/https://a.b/resume?x=%2F", header: cron, status: 200, want: `{"scheduleId":"scd_3"}`},
			step{do: "POST /v2/publish/https://a.b/published", header: cron, status: 200, want: `{"scheduleId":"scd_4"}`},
			step{do: "PATCH /v2/schedules/scd_1/pause", status: 200, want: `{}`},
			step{do: "POST /v2/schedules/scd_2/pause", status: 200, want: `{}`},
			step{do: "PUT /v2/schedules/scd_3/pause", status: 200, want: `{}`},
			step{do: "PUT /v2/schedules/scd_3/resume", status: 200, want: `{}`},
			step{do: "PATCH /v2/schedules/scd_3/RESUME", status: 200, want: `{}`},
			step{do: "POST /v2/schedules/none/pause", status: 404, want: `{"error":"schedule none not found"}`},
		)
		for id, want := range map[string][2]any{
			"scd_1": {"https://a.b", true}, "scd_2": {"https://a.b/pause", true}, "scd_3": {"https://a.b/resume?x=%2F", false}, "scd_4": {"https://a.b/published", false},
		} {
			o := s.get("/v2/schedules/" + id).object(t)
			if got := [2]any{o["destination"], o["isPaused"]}; got != want {
				t.Errorf("%s: got %v, want %v", id, got, want)
			}
		}
		s.sleep(0)
		if got := s.dest.take(); len(got) != 0 {
			t.Errorf("got %d deliveries, want none", len(got))
		}
	})
}

// TestLLM: the built-in destination is a URL of the operator.
func TestLLM(t *testing.T) {
	cfg := stackConfig{}
	cfg.Broker.LLM = "https://llm.test/v1/chat/completions"
	inBubble(t, cfg, func(t *testing.T, s *stack) {
		s.run(step{do: "POST /v2/publish/api/llm?x=1", header: []string{"Upstash-Callback: https://callback.test"}, body: "{}", status: 200, want: `{"messageId":"msg_1"}`})
		o := s.get("/v2/messages/msg_1").object(t)
		if o["api"] != "llm" || o["url"] != "https://llm.test/v1/chat/completions" {
			t.Errorf("got api %v url %v, want those of the operator", o["api"], o["url"])
		}
	})
}

// TestValues: what headers may say, and what is said of those that may not.
func TestValues(t *testing.T) {
	tests := []struct {
		header []string
		more   string // JSON fields of the message
		err    string
	}{
		{header: []string{"Upstash-Delay: 50s"}, more: `"notBefore":946684850000`},
		{header: []string{"Upstash-Delay: 1d10h30m"}, more: `"notBefore":946809000000`},
		{header: []string{"Upstash-Delay: 1h30m3s"}, more: `"notBefore":946690203000`},
		{header: []string{"upstash-delay: 1.5s"}, more: `"notBefore":946684801500`},
		{header: []string{"Upstash-Delay: 0s"}, more: `"notBefore":946684800000`},
		{header: []string{"Upstash-Delay: 1"}, err: `invalid Upstash-Delay header: time: missing unit in duration "1"`},
		{header: []string{"Upstash-Delay: 10"}, err: `invalid Upstash-Delay header: time: missing unit in duration "10"`},
		{header: []string{"Upstash-Delay: abc"}, err: `invalid Upstash-Delay header: time: invalid duration "abc"`},
		{header: []string{"Upstash-Delay: 5x"}, err: `invalid Upstash-Delay header: time: unknown unit "x" in duration "5x"`},
		{header: []string{"Upstash-Delay: -5s"}, err: `invalid Upstash-Delay header: negative duration "-5s"`},
		{header: []string{"Upstash-Delay:"}, err: `invalid Upstash-Delay header: time: invalid duration ""`},
		{header: []string{"Upstash-Not-Before: 1700000000"}, more: `"notBefore":1700000000000`},
		{header: []string{"Upstash-Not-Before: 1700000000", "Upstash-Delay: 50s"}, more: `"notBefore":1700000000000`},
		{header: []string{"Upstash-Not-Before: 946684000"}, more: `"notBefore":946684800000`},
		{header: []string{"Upstash-Not-Before: 1700000000000"}, err: `invalid Upstash-Not-Before header: "1700000000000" is not a time in unix seconds`},
		{header: []string{"Upstash-Not-Before: tomorrow"}, err: `*`},
		{header: []string{"Upstash-Flow-Control-Key: k", "Upstash-Flow-Control-Value: parallelism=3, rate=5, period=1m"}, more: `"flowControlKey":"k","parallelism":3,"rate":5,"period":60`},
		{header: []string{"Upstash-Flow-Control-Key: k", "Upstash-Flow-Control-Value: rate=1"}, more: `"flowControlKey":"k","rate":1,"period":1,"parallelism":null`},
		{header: []string{"Upstash-Flow-Control-Key: k", "Upstash-Flow-Control-Value: parallelism=5"}, more: `"parallelism":5,"period":1,"rate":null`},
		{header: []string{"Upstash-Flow-Control-Key: k", "Upstash-Flow-Control-Value: Rate=10,Parallelism=2"}, more: `"parallelism":2,"rate":10`},
		{header: []string{"Upstash-Flow-Control-Key: k", "Upstash-Flow-Control-Value: rate=1,period=120"}, more: `"period":120`},
		{header: []string{"Upstash-Flow-Control-Key: k", "Upstash-Flow-Control-Value: period=8d,rate=1"}, err: `*`},
		{header: []string{"Upstash-Flow-Control-Key: k", "Upstash-Flow-Control-Value: rate=0"}, err: `*`},
		{header: []string{"Upstash-Flow-Control-Key: k", "Upstash-Flow-Control-Value: foo=1"}, err: `*`},
		{header: []string{"Upstash-Flow-Control-Key: k", "Upstash-Flow-Control-Value: period=1m"}, err: `*`},
		{header: []string{"Upstash-Flow-Control-Key: k"}, err: `invalid Upstash-Flow-Control-Key header: it needs Upstash-Flow-Control-Value too`},
		{header: []string{"Upstash-Flow-Control-Value: rate=1"}, err: `invalid Upstash-Flow-Control-Value header: it needs Upstash-Flow-Control-Key too`},
		{header: []string{"Upstash-Label: a, b,,c"}, more: `"label":"a","labels":["a","b","c"]`},
		{header: []string{"Upstash-Label: ,"}, more: `"label":null,"labels":null`},
		{header: []string{"Upstash-Retries: 0"}, more: `"maxRetries":0`},
		{header: []string{"Upstash-Retries: 999"}, more: `"maxRetries":999`},
		{header: []string{"Upstash-Retries: 1000"}, err: `quota maxRetries exceeded, current limit: 999`},
		{header: []string{"Upstash-Retries: -1"}, err: `invalid Upstash-Retries header: "-1" is not a whole number of 0 or more`},
		{header: []string{"Upstash-Retries: 3.5"}, err: `*`},
		{header: []string{"Upstash-Retries: abc"}, err: `*`},
		{header: []string{"Upstash-Deduplication-Id: a:b"}, err: `DeduplicationId cannot contain ':'`},
		{header: []string{"Upstash-Deduplication-Id: a b"}, err: `invalid Upstash-Deduplication-Id header: cannot contain blanks`},
		{header: []string{"Upstash-Retry-Delay: pow(2, retried) * 1000"}, more: `"retryDelayExpression":"pow(2, retried) * 1000"`},
		{header: []string{"Upstash-Retry-Delay: retries"}, err: `*`},
		{header: []string{"Upstash-Retry-Delay: 1 +"}, err: `*`},
		{header: []string{"Upstash-Retry-Delay: pow(1)"}, err: `*`},
		{header: []string{"Upstash-Method: get"}, more: `"method":"GET"`},
		{header: []string{"Upstash-Method: PATCH"}, more: `"method":"PATCH"`},
		{header: []string{"Upstash-Method: HEAD"}, err: `invalid Upstash-Method header: "HEAD" is none of GET, POST, PUT, PATCH, DELETE`},
		{header: []string{"Upstash-Timeout: 0s"}, err: `invalid Upstash-Timeout header: "0s" is not more than 0`},
		{header: []string{"Upstash-Timeout: 3h"}}, // is cut, see TestLimits
		{header: []string{"Upstash-Header-Forward: yes"}, err: `invalid Upstash-Header-Forward header: "yes" is neither true nor false`},
		{header: []string{"Upstash-Content-Based-Deduplication: True"}},
		{header: []string{"Upstash-Content-Based-Deduplication: maybe"}, err: `*`},
		{header: []string{"Upstash-Callback: https://c.test/?foo=bar"}, more: `"callback":"https://c.test/?foo=bar"`},
		{header: []string{"Upstash-Callback: ftp://c.test"}, err: `invalid Upstash-Callback header: invalid destination url: endpoint has invalid scheme, add http:// or https://`},
		{header: []string{"Upstash-Callback: group"}, err: `invalid Upstash-Callback header: invalid destination url: endpoint has invalid scheme, add http:// or https://`},
		{header: []string{"Upstash-Failure-Callback: https://127.0.0.1/"}, err: `*`},
		{header: []string{"Upstash-Callback: https://c.test", "Upstash-Callback-Retries: 1000"}, err: `quota maxRetries exceeded, current limit: 999`},
		{header: []string{"Upstash-Callback: https://c.test", "Upstash-Callback-Retry-Delay: nonsense"}, err: `*`},
		{header: []string{"Upstash-Redact-Fields: everything"}, err: `*`},
		{header: []string{"Upstash-Telemetry-Sdk: x", "Upstash-Feature-Set: LazyFetch", "Upstash-Whatever: y"}, more: `"header":{}`},
		{header: []string{"Upstash-Forward-X: 1", "Upstash-Forward-X: 2", "upstash-forward-x-upper: A, b"}, more: `"header":{"X":["1","2"],"X-Upper":["A, b"]}`},
		{header: []string{"Content-Type: text/plain", "Upstash-Forward-Content-Type: text/html"}, more: `"header":{"Content-Type":["text/html"]}`},
		{header: []string{"Content-Type: text/plain", "X-Other: 1"}, more: `"header":{"Content-Type":["text/plain"]}`},
		{header: []string{"Upstash-Cron:"}, err: `Invalid cron expression empty spec string`},
		{header: []string{"Upstash-Cron: * * *"}, err: `*`},
		{header: []string{"Upstash-Cron: * * * * *", "Upstash-Schedule-Id: a/b"}, err: `*`},
		{header: []string{"Upstash-Cron: * * * * *", "Upstash-Not-Before: 1700000000"}, err: `*`},
	}
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		for _, tt := range tests {
			name := strings.Join(tt.header, " | ")
			if tt.err != "" {
				want := `{"error":"*"}`
				if tt.err != "*" {
					want = fmt.Sprintf(`{"error":%q}`, tt.err)
				}
				s.check(name, step{do: "POST /v2/publish/https://a.test", header: tt.header, status: 400, want: want})
				continue
			}
			r := s.check(name, step{do: "POST /v2/publish/https://a.test", header: tt.header, body: "b", status: 200})
			if r.status != 200 {
				continue
			}
			id, _ := r.object(t)["messageId"].(string)
			m := s.get("/v2/messages/" + id).object(t)
			for field, want := range jsonFields(t, tt.more) {
				if got, there := m[field]; there && got == nil || fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("%s: got %s %v, want %v", name, field, got, want)
				}
			}
			// A batch item takes the same headers, in lower case as they come from JavaScript.
			var item strings.Builder
			lines := map[string][]string{}
			for _, l := range tt.header {
				k, v, _ := strings.Cut(l, ":")
				lines[strings.ToLower(k)] = append(lines[strings.ToLower(k)], strings.TrimSpace(v))
			}
			fmt.Fprintf(&item, `[{"destination":"https://a.test","body":"other","headers":{`)
			n := 0
			for k, v := range lines {
				if n++; n > 1 {
					item.WriteByte(',')
				}
				if len(v) == 1 {
					fmt.Fprintf(&item, "%q:%q", k, v[0])
				} else {
					fmt.Fprintf(&item, "%q:[%q,%q]", k, v[0], v[1])
				}
			}
			item.WriteString("}}]")
			b := s.check(name, step{do: "POST /v2/batch", body: item.String(), status: 200})
			if b.status != 200 {
				continue
			}
			id, _ = b.list(t, "")[0]["messageId"].(string)
			fromBatch := s.get("/v2/messages/" + id).object(t)
			for field := range jsonFields(t, tt.more) {
				if fmt.Sprint(fromBatch[field]) != fmt.Sprint(m[field]) {
					t.Errorf("%s: got %s %v in a batch, want %v", name, field, fromBatch[field], m[field])
				}
			}
		}
		if got := s.get("/v2/schedules").body; got != "[]" {
			t.Errorf("got schedules %s after refused requests, want none", got)
		}
	})
}

// TestAnswers: calls and their answers, word by word.
func TestAnswers(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.dest.with(500)
		s.run(
			step{do: "POST /v2/publish/https://a.test", header: []string{"Upstash-Deduplication-Id: d"}, status: 200, want: `{"messageId":"msg_1"}`},
			step{do: "POST /v2/publish/https://a.test", header: []string{"Upstash-Deduplication-Id: d"}, status: 202, want: `{"messageId":"msg_1","deduplicated":true}`},
			step{do: "POST /v2/topics/g/endpoints", body: `{"endpoints":[{"url":"https://a.test"},{"url":"https://b.test","name":"b"}]}`, status: 200, want: `{}`},
			step{do: "POST /v2/publish/g", status: 200, want: `[{"messageId":"msg_2","url":"https://a.test"},{"messageId":"msg_3","url":"https://b.test"}]`},
			step{
				do: "POST /v2/batch", body: `[{"destination":"g"},{"destination":"https://c.test"}]`, status: 200,
				want: `[[{"messageId":"msg_4","url":"https://a.test"},{"messageId":"msg_5","url":"https://b.test"}],{"messageId":"msg_6"}]`,
			},
			step{do: "POST /v2/batch", body: `[{"destination":"https://c.test"}]`, status: 200, want: `[{"messageId":"msg_7"}]`},
			step{do: "POST /v2/batch", body: `[]`, status: 200, want: `[]`},
			step{
				do: "POST /v2/batch", body: `[{"destination":"https://c.test"},{"destination":"nope://x"}]`, status: 400,
				want: `{"error":"batch[1]: invalid destination url: endpoint has invalid scheme, add http:// or https://"}`,
			},
			step{do: "POST /v2/batch", body: `[{"destination":"https://c.test"},{"destination":"none"}]`, status: 404, want: `{"error":"batch[1]: topic none not found"}`},
			step{
				do: "POST /v2/batch", body: `[{"destination":"https://c.test"},{"destination":"https://c.test","queue":"q","headers":{"Upstash-Delay":"1s"}}]`, status: 400,
				want: `{"error":"batch[1]: Upstash-Delay is not supported for queues"}`,
			},
			step{do: "POST /v2/batch", body: `{"destination":"https://c.test"}`, status: 400, want: `{"error":"a batch is a JSON array of items"}`},
			step{do: "POST /v2/batch", body: ``, status: 400, want: `{"error":"*"}`},
			step{do: "POST /v2/batch", body: `[{"destination":"https://c.test"}`, status: 400, want: `{"error":"*"}`},
			step{do: "POST /v2/batch", body: `[{}]`, status: 400, want: `{"error":"batch[0]: a non-empty destination must be provided"}`},
			step{do: "POST /v2/enqueue/q/https://c.test", header: []string{"Upstash-Delay: 1s"}, status: 400, want: `{"error":"Upstash-Delay is not supported for queues"}`},
			step{do: "POST /v2/enqueue/q/https://c.test", header: []string{"Upstash-Not-Before: 1700000000"}, status: 400, want: `{"error":"Upstash-Not-Before is not supported for queues"}`},
			step{do: "POST /v2/enqueue/q/https://c.test", header: []string{"Upstash-Callback: https://c.test", "Upstash-Callback-Delay: 1s"}, status: 400, want: `{"error":"Upstash-Callback-Delay is not supported for queues"}`},
			step{do: "GET /v2/queues", status: 200, want: `[]`}, // none of these made one
			step{do: "DELETE /v2/topics/none", status: 200, want: `{}`},
			step{do: "DELETE /v2/queues/none", status: 200, want: `{}`},
			step{do: "DELETE /v2/schedules/none", status: 200, want: `{}`},
			step{do: "DELETE /v2/dlq/1-0", status: 404, want: `{"error":"dlq message 1-0 not found"}`},
			step{do: "GET /v2/dlq/1-0", status: 404, want: `{"error":"dlq message 1-0 not found"}`},
			step{do: "GET /v2/dlq/nonsense", status: 404, want: `{"error":"dlq message nonsense not found"}`},
			step{do: "POST /v2/dlq/retry/1-0", status: 404, want: `{"error":"dlq message 1-0 not found"}`},
			step{do: "DELETE /v2/dlq?dlqIds=1-0", status: 200, want: `{"deleted":0}`},
			step{do: "DELETE /v2/dlq", body: `{"dlqIds":["1-0"]}`, status: 200, want: `{"deleted":0}`},
			step{do: "DELETE /v2/dlq", body: `{"dlqIds":[]}`, status: 200, want: `{"deleted":0}`},
			step{do: "DELETE /v2/dlq?labeel=x", status: 400, want: `{"error":"invalid query parameter: labeel"}`},
			step{do: "GET /v2/dlq?labeel=x", status: 400, want: `{"error":"invalid query parameter: labeel"}`},
			step{do: "GET /v2/dlq?host=a.test", status: 400, want: `{"error":"invalid query parameter: host"}`},
			step{do: "GET /v2/dlq?api=llm", status: 200, want: `{"messages":[]}`},
			step{do: "DELETE /v2/dlq?api=llm", status: 400, want: `{"error":"invalid query parameter: api"}`},
			step{do: "POST /v2/dlq/retry?labeel=x", status: 400, want: `{"error":"invalid query parameter: labeel"}`},
			step{do: "POST /v2/dlq/retry?label=none", status: 201, want: `{"cursor":"","responses":[]}`},
			step{do: "POST /v2/dlq/retry?dlqIds=1-0", status: 404, want: `{"error":"some messages were not found"}`},
			step{do: "POST /v2/dlq/retry", body: `{"dlqIds":["1-0"]}`, status: 404, want: `{"error":"some messages were not found"}`},
			step{do: "DELETE /v2/messages?labeel=x", status: 400, want: `{"error":"invalid query parameter: labeel"}`},
			step{do: "DELETE /v2/messages?api=llm", status: 400, want: `{"error":"invalid query parameter: api"}`},
			step{do: "DELETE /v2/messages?count=501", status: 400, want: `{"error":"*"}`},
			step{do: "DELETE /v2/messages?count=0", status: 400, want: `{"error":"*"}`},
			step{do: "GET /v2/events?label=none", status: 200, want: `{"events":[]}`},
			step{do: "GET /v2/logs?label=none", status: 200, want: `{"logs":[],"events":[]}`},
			step{do: "GET /v2/events?labeel=x&count=1&state=CREATED&label=none", status: 200, want: `{"events":[]}`},
			step{do: "GET /v2/events?state=WAITING", status: 400, want: `{"error":"*"}`},
			step{do: "GET /v2/events?cursor=x", status: 400, want: `{"error":"*"}`},
			step{do: "GET /v2/events?cursor=1-x", status: 400, want: `{"error":"invalid query parameter: cursor: malformed cursor"}`},
			step{do: "GET /v2/dlq?cursor=1-x", status: 400, want: `{"error":"invalid query parameter: cursor: malformed cursor"}`},
			step{do: "GET /v2/events?count=x", status: 400, want: `{"error":"*"}`},
			step{do: "GET /v2/events?count=0", status: 400, want: `{"error":"*"}`},
			step{do: "GET /v2/events?count=99999&label=none", status: 200, want: `{"events":[]}`},
			step{do: "GET /v2/messages/none", status: 404, want: `{"error":"message none not found"}`},
			step{do: "GET /v2/queues/none", status: 404, want: `{"error":"queue none not found"}`},
			step{do: "GET /v2/schedules/none", status: 404, want: `{"error":"schedule none not found"}`},
			step{do: "GET /v2/topics/none", status: 404, want: `{"error":"topic none not found"}`},
			step{do: "GET /v2/flowControl/none", status: 404, want: `{"error":"flow control key none not found"}`},
			step{do: "DELETE /v2/topics/none/endpoints", body: `{"endpoints":[{"name":"x"}]}`, status: 404, want: `{"error":"topic none not found"}`},
			step{do: "PATCH /v2/topics/none", body: `{"headers":{"Upstash-Retries":"1"}}`, status: 404, want: `{"error":"topic none not found"}`},
			step{do: "POST /v2/queues/none/pause", status: 404, want: `{"error":"queue none not found"}`},
			step{do: "POST /v2/queues/a%20b/pause", status: 400, want: `{"error":"*"}`},
			step{do: "POST /v2/queues", body: `{"queueName":"a b"}`, status: 400, want: `{"error":"*"}`},
			step{do: "POST /v2/queues", body: `{"queueName":"q","parallelism":0}`, status: 400, want: `{"error":"*"}`},
			step{do: "POST /v2/queues", body: `{"parallelism":1}`, status: 400, want: `{"error":"*"}`},
			step{do: "POST /v2/topics/g/endpoints", body: `{"endpoints":[]}`, status: 400, want: `{"error":"*"}`},
			step{do: "POST /v2/topics/g/endpoints", body: `{"endpoints":[{"url":"nope"}]}`, status: 400, want: `{"error":"*"}`},
			step{do: "POST /v2/topics/a%20b/endpoints", body: `{"endpoints":[{"url":"https://a.test"}]}`, status: 400, want: `{"error":"*"}`},
			step{do: "POST /v2/flowControl/k/pin?parallelism=0", status: 400, want: `{"error":"*"}`},
			step{do: "POST /v2/flowControl/k/pin?period=10", status: 400, want: `{"error":"*"}`},
			step{do: "POST /v2/flowControl/k/pin", status: 400, want: `{"error":"nothing to pin: give parallelism or rate"}`},
			step{do: "POST /v2/flowControl/pause", status: 400, want: `{"error":"*"}`},
			step{do: "POST /v2/flowControl/k/stop", status: 404, want: `{"error":"*"}`},
			step{do: "GET /v2/flowControl", status: 200, want: `[]`},
			step{do: "POST /v2/schedules/https://a.test", status: 400, want: `{"error":"Invalid cron expression empty spec string"}`},
			step{do: "GET /v2/schedules", status: 200, want: `[]`},
			step{after: time.Millisecond, do: "GET /v2/globalParallelism", status: 200, want: `{"parallelismMax":0,"parallelismCount":0}`},
		)
		if got := len(s.get("/v2/events?state=CREATED").list(t, "events")); got != 7 {
			t.Errorf("got %d messages, want the 7 that were accepted", got)
		}
		s.run(
			step{do: "DELETE /v2/messages/msg_7", status: 200, want: `{"cancelled":1}`},
			step{do: "DELETE /v2/messages/msg_7", status: 404, want: `{"error":"message msg_7 not found, or finished already"}`},
			step{do: "DELETE /v2/messages", body: `{"messageIds":["msg_6","msg_7","msg_none"]}`, status: 200, want: `{"cancelled":1}`},
			step{do: "DELETE /v2/messages", header: []string{"Content-Type: application/json"}, status: 200, want: `{"cancelled":5}`},
			step{do: "DELETE /v2/messages", body: `{}`, status: 200, want: `{"cancelled":0}`},
		)
		keys := s.get("/v2/keys").object(t)
		rotated := s.must(step{do: "POST /v2/keys/rotate"}).object(t)
		if rotated["current"] != keys["next"] || rotated["next"] == keys["next"] || !strings.HasPrefix(fmt.Sprint(rotated["next"]), "sig_") {
			t.Errorf("got keys %v after %v, want the next one to be current", rotated, keys)
		}
		again := s.must(step{do: "POST /v2/rotate"}).object(t)
		if again["current"] != rotated["next"] || len(again) != 2 {
			t.Errorf("got keys %v after %v, want the next one to be current", again, rotated)
		}
	})
}

// TestResolveOnPublish: with it a name that does not exist is refused at once.
func TestResolveOnPublish(t *testing.T) {
	// A real resolver cannot be asked in a bubble; an address needs none.
	cfg := stackConfig{}
	cfg.Broker.ResolveOnPublish = true
	cfg.Egress.Mode = egress.ModePublic
	inBubble(t, cfg, func(t *testing.T, s *stack) {
		s.run(
			step{do: "POST /v2/publish/https://192.0.2.1", status: 400, want: `{"error":"*"}`}, // a documentation address is not public
			step{do: "POST /v2/publish/https://8.8.8.8", status: 200, want: `{"messageId":"msg_1"}`},
		)
	})
}
