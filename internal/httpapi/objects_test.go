package httpapi_test

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// full is a request that sets all there is to set.
var full = []string{
	"Content-Type: text/plain", "Upstash-Method: PUT", "Upstash-Forward-X-Test: v1", "Upstash-Timeout: 90s", "Upstash-Retries: 1",
	"Upstash-Retry-Delay: 1000 * (retried + 1)", "Upstash-Label: one, two",
	"Upstash-Flow-Control-Key: key", "Upstash-Flow-Control-Value: parallelism=3, rate=5, period=1m",
	"Upstash-Callback: https://callback.test/done?x=1", "Upstash-Callback-Forward-A: b",
	"Upstash-Failure-Callback: https://callback.test/failed", "Upstash-Failure-Callback-Forward-C: d",
	"Upstash-Telemetry-Sdk: none",
}

const fullMessage = `"url":"https://a.test/x","method":"PUT","header":{"Content-Type":["text/plain"],"X-Test":["v1"]},
	"maxRetries":1,"retryDelayExpression":"1000 * (retried + 1)","callback":"https://callback.test/done?x=1",
	"failureCallback":"https://callback.test/failed","callerIP":"203.0.113.7",
	"label":"one","labels":["one","two"],"flowControlKey":"key","parallelism":3,"rate":5,"period":60,`

// TestMessage: what a message shows, and what it leaves out.
func TestMessage(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.run(
			step{do: "POST /v2/publish/https://a.test/x", header: append(full, "Upstash-Delay: 10s"), body: "hello", status: 200, want: `{"messageId":"msg_1"}`},
			step{do: "GET /v2/messages/msg_1", status: 200, want: `{"messageId":"msg_1",` + fullMessage + `"callerIp":"203.0.113.7",
				"body":"hello","notBefore":946684810000,"createdAt":946684800000,
				"callbackHeader":{"A":["b"]},"failureCallbackHeader":{"C":["d"]}}`},
			step{do: "POST /v2/enqueue/q/https://a.test", body: "\xff\x00", status: 200, want: `{"messageId":"msg_2"}`},
			step{do: "GET /v2/messages/msg_2", status: 200, want: `{"messageId":"msg_2","url":"https://a.test","method":"POST","header":{},"bodyBase64":"/wA=","queueName":"q",
				"maxRetries":3,"notBefore":946684800000,"createdAt":946684800000,"callerIP":"203.0.113.7","callerIp":"203.0.113.7"}`},
			step{do: "POST /v2/publish/https://a.test", status: 200, want: `{"messageId":"msg_3"}`},
			step{do: "GET /v2/messages/msg_3", status: 200, want: `{"messageId":"msg_3","url":"https://a.test","method":"POST","header":{},
				"maxRetries":3,"notBefore":946684800000,"createdAt":946684800000,"callerIP":"203.0.113.7","callerIp":"203.0.113.7"}`},
		)
		s.sleep(time.Minute)
		// A message that was delivered can be read for a while.
		s.run(step{do: "GET /v2/messages/msg_1", status: 200, after: time.Minute}, step{do: "GET /v2/messages/msg_3", status: 200})
	})
}

// TestDelivery: what comes to the destination.
func TestDelivery(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.run(step{do: "POST /v2/publish/https://a.test/x?y=%2F", header: append(full, "Upstash-Forward-Upstash-Message-Id: forged", "Upstash-Forward-Host: forged",
			"Upstash-Forward-Connection: close", "Upstash-Forward-Upstash-Workflow-Url: https://w.test"), body: "hello", status: 200, want: `{"messageId":"msg_1"}`})
		s.sleep(0)
		got := s.dest.take()
		if len(got) != 2 || got[1].url != "https://callback.test/done?x=1" {
			t.Fatalf("got %d deliveries, want the message and its callback", len(got))
		}
		r := got[0]
		if r.method != "PUT" || r.url != "https://a.test/x?y=%2F" || r.body != "hello" {
			t.Errorf("got %s %s %q, want PUT https://a.test/x?y=%%2F hello", r.method, r.url, r.body)
		}
		want := http.Header{
			"User-Agent": {"Upstash-QStash"}, "Content-Type": {"text/plain"}, "X-Test": {"v1"}, "Upstash-Message-Id": {s.id("msg_1")},
			"Upstash-Retried": {"0"}, "Upstash-Caller-Ip": {"203.0.113.7"}, "Upstash-Region": {"EU-CENTRAL-1"},
			"Upstash-Workflow-Url": {"https://w.test"}, "Upstash-Signature": r.header["Upstash-Signature"],
		}
		if fmt.Sprint(r.header) != fmt.Sprint(want) {
			t.Errorf("got header %v, want %v", r.header, want)
		}
		if strings.Count(r.header.Get("Upstash-Signature"), ".") != 2 {
			t.Errorf("got signature %q, want a token", r.header.Get("Upstash-Signature"))
		}
		// A message without a type and body has none.
		s.publish("/v2/publish/https://a.test", "", "Upstash-Forward-User-Agent: mine", "Upstash-Method: DELETE")
		s.sleep(0)
		if r := s.dest.one(t); r.method != "DELETE" || r.body != "" || r.header.Get("User-Agent") != "mine" || r.header["Content-Type"] != nil {
			t.Errorf("got %s %q %v, want DELETE without a body and type, from mine", r.method, r.body, r.header)
		}
	})
}

// TestLogEntries: what entries of all states show.
func TestLogEntries(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.dest.with(503, "X-Why: because")
		header := slices.DeleteFunc(slices.Clone(full), func(l string) bool { return strings.HasPrefix(l, "Upstash-Callback") })
		s.run(step{do: "POST /v2/publish/https://a.test/x", header: append(header, "Upstash-Delay: 10s"), body: "hello", status: 200, want: `{"messageId":"msg_1"}`})
		s.sleep(time.Minute)
		common := `"messageId":"msg_1","body":"aGVsbG8=","timeout":90000,"failureCallbackHeaders":{"C":["d"]},"retryDelayExpr":"1000 * (retried + 1)",` +
			strings.Replace(fullMessage, `"callback":"https://callback.test/done?x=1",`, "", 1)
		failure := `"error":"503 Service Unavailable","responseStatus":503,"responseBody":"YW5zd2Vy","responseHeaders":{"X-Why":["because"]},"responseHeader":{"X-Why":["because"]}`
		s.run(
			step{do: "GET /v2/events?messageId=msg_1&order=earliestFirst", status: 200, want: `{"events":[
				{` + common + `"time":946684800000,"state":"CREATED","nextDeliveryTime":946684810000},
				{` + common + `"time":946684810000,"state":"ACTIVE"},
				{` + common + `"time":946684810000,"state":"ERROR",` + failure + `},
				{` + common + `"time":946684810000,"state":"RETRY","nextDeliveryTime":946684811000},
				{` + common + `"time":946684811000,"state":"ACTIVE"},
				{` + common + `"time":946684811000,"state":"ERROR",` + failure + `},
				{` + common + `"time":946684811000,"state":"FAILED",` + failure + `}
			]}`},
			step{do: "GET /v2/logs?messageId=msg_1&state=FAILED", status: 200, want: `{"logs":[{` + common + `"time":946684811000,"state":"FAILED",` + failure + `}],
				"events":[{` + common + `"time":946684811000,"state":"FAILED",` + failure + `}]}`},
		)
		// No answer at all.
		s.dest.answers(func(*received) answer { return answer{err: errors.New("connection refused")} })
		s.run(step{do: "POST /v2/enqueue/q/https://b.test", header: []string{"Upstash-Retries: 0"}, status: 200})
		s.sleep(0)
		s.run(step{do: "GET /v2/events?queueName=q&state=ERROR", status: 200, want: `{"events":[{"time":946684860000,"messageId":"*","state":"ERROR","url":"https://b.test",
			"method":"POST","header":{},"maxRetries":0,"callerIP":"203.0.113.7","queueName":"q","error":"connection refused","responseStatus":0}]}`})
	})
}

// TestDeadLetters: what they show, how they are listed, deleted and retried.
func TestDeadLetters(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.dest.answers(func(r *received) answer {
			switch {
			case strings.Contains(r.url, "refused"):
				return answer{err: errors.New("connection refused")}
			case strings.Contains(r.url, "binary"):
				return answer{status: 500, body: "\xff\x00"}
			}
			return answer{status: 418, body: "short and stout", header: http.Header{"X-Why": {"because"}}}
		})
		header := slices.DeleteFunc(slices.Clone(full), func(l string) bool { return strings.Contains(l, "allback") })
		message := strings.NewReplacer(`"callback":"https://callback.test/done?x=1",`, "", `"failureCallback":"https://callback.test/failed",`, "").Replace(fullMessage)
		s.run(
			step{do: "POST /v2/publish/https://a.test/x", header: header, body: "hello", status: 200},
			step{do: "POST /v2/publish/https://refused.test", header: []string{"Upstash-Retries: 0", "Upstash-Label: refused"}, status: 200, after: time.Minute},
			step{do: "POST /v2/publish/https://binary.test", header: []string{"Upstash-Retries: 0"}, status: 200, after: time.Minute},
			step{after: time.Minute, do: "GET /v2/dlq", status: 200, want: `{"messages":[
				{"dlqId":"dlq_1","messageId":"msg_1",` + message + `"callerIp":"203.0.113.7","body":"hello","notBefore":946684800000,"createdAt":946684800000,
				 "responseStatus":418,"responseHeader":{"X-Why":["because"]},"responseBody":"short and stout"},
				{"dlqId":"dlq_2","messageId":"msg_2","url":"https://refused.test","method":"POST","header":{},"maxRetries":0,"callerIP":"203.0.113.7","callerIp":"203.0.113.7",
				 "notBefore":946684860000,"createdAt":946684860000,"responseStatus":0,"label":"refused","labels":["refused"]},
				{"dlqId":"dlq_3","messageId":"msg_3","url":"https://binary.test","method":"POST","header":{},"maxRetries":0,"callerIP":"203.0.113.7","callerIp":"203.0.113.7",
				 "notBefore":946684920000,"createdAt":946684920000,"responseStatus":500,"responseBodyBase64":"/wA="}
			]}`},
		)
		ids := func(query string) string {
			t.Helper()
			var out []string
			for _, d := range s.get("/v2/dlq?"+query).list(t, "messages") {
				out = append(out, fmt.Sprint(d["dlqId"]))
			}
			return strings.Join(out, " ")
		}
		for query, want := range map[string]string{
			"":                                              "dlq_1 dlq_2 dlq_3",
			"order=latestFirst":                             "dlq_3 dlq_2 dlq_1",
			"order=earliestFirst&count=100":                 "dlq_1 dlq_2 dlq_3",
			"responseStatus=418":                            "dlq_1",
			"responseStatus=0,500":                          "dlq_2 dlq_3",
			"url=https://a.test/x":                          "dlq_1",
			"label=two":                                     "dlq_1",
			"label=refused&responseStatus=418":              "",
			"flowControlKey=key":                            "dlq_1",
			"callerIp=203.0.113.7":                          "dlq_1 dlq_2 dlq_3",
			"messageId=" + s.id("msg_2"):                    "dlq_2",
			"queueName=none":                                "",
			"topicName=none":                                "",
			"urlGroup=none":                                 "",
			"scheduleId=none":                               "",
			"fromDate=946684860000":                         "dlq_2 dlq_3",
			"toDate=946684860000":                           "dlq_1 dlq_2",
			"fromDate=946684860000&toDate=946684860000":     "dlq_2",
			"fromDate=946684860001&order=latestFirst":       "dlq_3",
			"fromDate=0":                                    "dlq_1 dlq_2 dlq_3",
			"fromDate=0&order=latestFirst":                  "dlq_3 dlq_2 dlq_1",
			"cursor=0":                                      "dlq_1 dlq_2 dlq_3",
			"cursor=946684860000":                           "dlq_2 dlq_3",
			"cursor=946684860000&order=latestFirst":         "dlq_2 dlq_1",
			"toDate=253402300799999":                        "dlq_1 dlq_2 dlq_3",
			"toDate=946684860000&order=latestFirst":         "dlq_2 dlq_1",
			"dlqIds=" + s.id("dlq_3") + "," + s.id("dlq_1"): "dlq_1 dlq_3",
			"dlqIds=" + s.id("dlq_3") + "&dlqIds=1-1&order=latestFirst":             "dlq_3",
			"dlqIds=" + s.id("dlq_3") + "," + s.id("dlq_1") + "&responseStatus=418": "dlq_1",
			"dlqIds=" + s.id("dlq_1") + "&label=refused":                            "",
		} {
			if got := ids(query); got != want {
				t.Errorf("GET /v2/dlq?%s: got %q, want %q", query, got, want)
			}
		}
		// Pages.
		for _, order := range []string{"earliestFirst", "latestFirst"} {
			var all []string
			query := "count=1&order=" + order
			for cursor := ""; ; {
				o := s.get("/v2/dlq?" + query + cursor)
				all = append(all, fmt.Sprint(o.list(t, "messages")[0]["dlqId"]))
				next, ok := o.object(t)["cursor"]
				if !ok {
					break
				}
				cursor = "&cursor=" + fmt.Sprint(next)
			}
			if order == "latestFirst" {
				slices.Reverse(all)
			}
			if got := strings.Join(all, " "); got != "dlq_1 dlq_2 dlq_3" {
				t.Errorf("%s: got %s in pages of 1, want all three", order, got)
			}
		}
		s.run(
			step{do: "GET /v2/dlq/dlq_2", status: 200},
			step{do: "DELETE /v2/dlq/dlq_2", status: 200, want: `{}`},
			step{do: "DELETE /v2/dlq/dlq_2", status: 404, want: `{"error":"dlq message ` + s.id("dlq_2") + ` not found"}`},
			step{do: "GET /v2/dlq/dlq_2", status: 404},
		)

		// A retry is a new message with all that the old one had, but for what the request says.
		s.dest.with(200)
		s.dest.take()
		s.run(
			step{do: "POST /v2/dlq/retry/dlq_1", header: []string{"Upstash-Retries: 0", "Upstash-Forward-X-More: v2", "Content-Type: application/json"}, status: 201, want: `{"messageId":"msg_4"}`},
			step{do: "GET /v2/dlq/dlq_1", status: 404},
			step{do: "GET /v2/messages/msg_4", status: 200, want: `{"messageId":"msg_4",` +
				strings.NewReplacer(`"maxRetries":1`, `"maxRetries":0`, `"X-Test":["v1"]`, `"X-Test":["v1"],"X-More":["v2"]`).Replace(message) +
				`"callerIp":"203.0.113.7","body":"hello","notBefore":946684980000,"createdAt":946684980000}`},
			step{do: "POST /v2/dlq/retry/dlq_1", status: 404},
		)
		s.sleep(0)
		if r := s.dest.one(t); r.header.Get("Upstash-Retried") != "0" || r.body != "hello" || r.header.Get("Content-Type") != "text/plain" {
			t.Errorf("got retried %s, body %q, type %s, want 0, hello, text/plain", r.header.Get("Upstash-Retried"), r.body, r.header.Get("Content-Type"))
		}
		if got, want := s.states("msg_4"), "CREATED ACTIVE DELIVERED"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		s.run(
			// With one id missing nothing is retried.
			step{do: "POST /v2/dlq/retry?dlqIds=dlq_3,1-1", status: 404, want: `{"error":"some messages were not found"}`},
			step{do: "GET /v2/dlq/dlq_3", status: 200},
			step{do: "POST /v2/dlq/retry", body: `{"dlqIds":["dlq_3"]}`, status: 201, want: `{"cursor":"","responses":[{"messageId":"msg_5"}]}`},
			step{do: "GET /v2/dlq", status: 200, want: `{"messages":[]}`},
		)
	})
}

// TestDeadLettersInBulk: bulk calls work through everything that passes the filter, page by page.
func TestDeadLettersInBulk(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.dest.with(500)
		make250 := func() {
			t.Helper()
			for i := range 25 {
				item := fmt.Sprintf(`{"destination":"https://a.test","headers":{"Upstash-Retries":"0","Upstash-Label":"l%d"}}`, i%2)
				s.must(step{do: "POST /v2/batch", body: "[" + strings.Repeat(item+",", 9) + item + "]"})
			}
			s.sleep(time.Second)
		}
		count := func() int {
			t.Helper()
			n, query := 0, "/v2/dlq?"
			for {
				o := s.get(query)
				n += len(o.list(t, "messages"))
				cursor, ok := o.object(t)["cursor"]
				if !ok {
					return n
				}
				query = "/v2/dlq?cursor=" + fmt.Sprint(cursor)
			}
		}
		bulk := func(do, list string) (n []int) {
			t.Helper()
			for cursor := ""; ; {
				o := s.must(step{do: do + cursor})
				if list == "deleted" {
					n = append(n, int(o.object(t)["deleted"].(float64)))
				} else {
					n = append(n, len(o.list(t, list)))
				}
				next, ok := o.object(t)["cursor"]
				if !ok || next == "" {
					return n
				}
				cursor = "&cursor=" + fmt.Sprint(next)
			}
		}
		make250()
		if got := count(); got != 250 {
			t.Fatalf("got %d dead letters, want 250", got)
		}
		if got := fmt.Sprint(bulk("DELETE /v2/dlq?label=l1", "deleted")); got != "[100 20]" {
			t.Errorf("got %s deleted, want [100 20]", got)
		}
		if got := fmt.Sprint(bulk("DELETE /v2/dlq?count=60", "deleted")); got != "[60 60 10]" {
			t.Errorf("got %s deleted, want [60 60 10]", got)
		}
		if got := count(); got != 0 {
			t.Errorf("got %d dead letters, want 0", got)
		}
		make250()
		s.dest.with(200)
		if got := fmt.Sprint(bulk("POST /v2/dlq/retry?label=l0", "responses")); got != "[100 30]" {
			t.Errorf("got %s retried, want [100 30]", got)
		}
		s.sleep(time.Second)
		if got := count(); got != 120 {
			t.Errorf("got %d dead letters, want 120", got)
		}
		// Explicit ids leave other filters and the count aside, and the answer has no cursor.
		var ids []string
		for _, d := range s.get("/v2/dlq").list(t, "messages") {
			ids = append(ids, fmt.Sprint(d["dlqId"]))
		}
		s.run(
			step{do: "DELETE /v2/dlq?count=1&label=none&dlqIds=" + strings.Join(ids, ","), status: 200, want: `{"deleted":100}`},
			step{do: "DELETE /v2/dlq?dlqIds=" + strings.Join(ids, ","), status: 200, want: `{"deleted":0}`},
			step{do: "POST /v2/dlq/retry?count=7", status: 201},
		)
		if got := count(); got != 13 {
			t.Errorf("got %d dead letters, want 13", got)
		}
	})
}

func TestQueues(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.dest.answers(func(*received) answer { return answer{status: 200, after: 100 * time.Millisecond} })
		s.run(
			step{do: "POST /v2/queues", body: `{"queueName":"b"}`, status: 200, want: `{}`},
			step{do: "POST /v2/queues/", body: `{"queueName":"a","parallelism":2,"paused":true}`, status: 200, want: `{}`, after: time.Second},
			step{do: "GET /v2/queues", status: 200, want: `[
				{"name":"a","parallelism":2,"createdAt":946684801000,"updatedAt":946684801000,"lag":0,"paused":true},
				{"name":"b","parallelism":1,"createdAt":946684800000,"updatedAt":946684800000,"lag":0,"paused":false}]`},
			step{do: "POST /v2/queues", body: `{"queueName":"a","parallelism":3}`, status: 200, after: time.Second},
			step{do: "GET /v2/queues/a", status: 200, want: `{"name":"a","parallelism":3,"createdAt":946684801000,"updatedAt":946684802000,"lag":0,"paused":true}`},
			step{do: "POST /v2/enqueue/a/https://a.test", status: 200},
			step{do: "POST /v2/enqueue/a/https://a.test", status: 200},
			step{do: "GET /v2/queues/a", status: 200, want: `{"name":"a","parallelism":3,"createdAt":946684801000,"updatedAt":946684802000,"lag":2,"paused":true}`},
			step{do: "POST /v2/queues/a/pause", status: 200, want: `{}`},
			step{do: "POST /v2/queues", body: `{"queueName":"a","paused":false}`, status: 200, after: time.Second},
			step{after: time.Second, do: "GET /v2/queues/a", status: 200, want: `{"name":"a","parallelism":3,"createdAt":946684801000,"updatedAt":946684803000,"lag":0,"paused":false}`},
			step{do: "POST /v2/queues/a/resume", status: 200, want: `{}`},
			step{do: "POST /v2/enqueue/new/https://a.test", status: 200},
			step{do: "GET /v2/queues/new", status: 200, want: `{"name":"new","parallelism":1,"createdAt":946684804000,"updatedAt":946684804000,"lag":1,"paused":false}`},
			step{do: "DELETE /v2/queues/a", status: 200, want: `{}`},
			step{do: "DELETE /v2/queues/a", status: 200, want: `{}`},
			step{do: "GET /v2/queues/a", status: 404},
			// A deleted queue begins anew.
			step{do: "POST /v2/enqueue/a/https://a.test", status: 200, after: time.Second},
			step{after: time.Second, do: "GET /v2/queues/a", status: 200, want: `{"name":"a","parallelism":1,"createdAt":946684805000,"updatedAt":946684805000,"lag":0,"paused":false}`},
		)
		// Deleting a queue cancels what it holds.
		s.run(step{do: "POST /v2/queues", body: `{"queueName":"held","paused":true}`, status: 200})
		id := s.publish("/v2/enqueue/held/https://a.test", "")
		s.run(step{do: "DELETE /v2/queues/held", status: 200}, step{do: "GET /v2/queues?x=y", status: 200})
		if got, want := s.states(id), "CREATED CANCEL_REQUESTED CANCELED"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestGroups(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.run(
			step{do: "POST /v2/topics/g/endpoints", body: `{"endpoints":[{"url":"https://a.test","name":"First endpoint"},{"url":"https://b.test"}]}`, status: 200, want: `{}`},
			step{do: "GET /v2/topics/g", status: 200, want: `{"name":"g","createdAt":946684800000,"updatedAt":946684800000,
				"endpoints":[{"name":"First endpoint","url":"https://a.test"},{"url":"https://b.test"}]}`},
			// The same URL takes another name, the same name another URL; anything else is added.
			step{after: time.Second, do: "POST /v2/topics/g/endpoints", body: `{"endpoints":[{"url":"https://b.test","name":"second"},{"url":"https://c.test","name":"First endpoint"},{"url":"https://d.test"}]}`, status: 200},
			step{do: "GET /v2/topics", status: 200, want: `[{"name":"g","createdAt":946684800000,"updatedAt":946684801000,
				"endpoints":[{"name":"First endpoint","url":"https://c.test"},{"name":"second","url":"https://b.test"},{"url":"https://d.test"}]}]`},
			step{do: "DELETE /v2/topics/g/endpoints", body: `{"endpoints":[{"name":"second"},{"url":"https://d.test"},{"url":"https://none.test"}]}`, status: 200, want: `{}`},
			step{do: "GET /v2/topics/g", status: 200, want: `{"name":"g","createdAt":946684800000,"updatedAt":946684801000,"endpoints":[{"name":"First endpoint","url":"https://c.test"}]}`},
			step{do: "DELETE /v2/topics/g/endpoints", body: `{"endpoints":[{"url":"https://c.test"}]}`, status: 200},
			step{do: "GET /v2/topics/g", status: 404}, // the last endpoint took the group with it
			step{do: "POST /v2/topics/g/endpoints", body: `{"endpoints":[{"url":"https://a.test"}]}`, status: 200},
			step{do: "DELETE /v2/topics/g", status: 200, want: `{}`},
			step{do: "DELETE /v2/topics/g", status: 200, want: `{}`},
			step{do: "GET /v2/topics", status: 200, want: `[]`},
		)
	})
}

// TestGroupDefaults: the headers of a group apply to what is published to it, unless the request has its own.
func TestGroupDefaults(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.must(step{do: "POST /v2/topics/g/endpoints", body: `{"endpoints":[{"url":"https://a.test"}]}`})
		s.run(step{
			do: "PATCH /v2/topics/g", header: []string{"Content-Type: application/x-www-form-urlencoded"}, status: 200, want: `{}`,
			body: `{"headers":{"Upstash-Retries":"1","upstash-label":["x"],"Upstash-Forward-A":"default","Upstash-Forward-B":"default"}}`,
		})
		fields := func(id string) string {
			m := s.get("/v2/messages/" + id).object(t)
			return fmt.Sprint(m["maxRetries"], m["labels"], m["header"])
		}
		publish := func(target string, header ...string) string {
			t.Helper()
			return fields(fmt.Sprint(s.must(step{do: "POST " + target, header: header}).list(t, "")[0]["messageId"]))
		}
		for _, tt := range []struct {
			got, want string
		}{
			{publish("/v2/publish/g"), "1 [x] map[A:[default] B:[default]]"},
			{publish("/v2/enqueue/q/g"), "1 [x] map[A:[default] B:[default]]"},
			{publish("/v2/publish/g", "Upstash-Retries: 2", "Upstash-Forward-B: mine"), "2 [x] map[A:[default] B:[mine]]"},
			{publish("/v2/publish/g?upstash-retries=3&upstash-label=y"), "3 [y] map[A:[default] B:[default]]"},
		} {
			if tt.got != tt.want {
				t.Errorf("got %s, want %s", tt.got, tt.want)
			}
		}
		batch := s.must(step{do: "POST /v2/batch", body: `[{"destination":"g","headers":{"upstash-retries":"0"}}]`}).value(t).([]any)[0].([]any)[0].(map[string]any)
		if got, want := fields(fmt.Sprint(batch["messageId"])), "0 [x] map[A:[default] B:[default]]"; got != want {
			t.Errorf("got %s in a batch, want %s", got, want)
		}
		s.run(
			step{do: "PATCH /v2/topics/g", body: `{"headers":{"Upstash-Retries":"nonsense"}}`, status: 400, want: `{"error":"*"}`},
			step{do: "PATCH /v2/topics/g", body: `{"headers":{"Upstash-Header-Forward":["true"]}}`, status: 200}, // replaces the whole set
		)
		if got, want := publish("/v2/publish/g", "X-Own: 1"), "3 <nil> map[X-Own:[1]]"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		// Other calls do not touch them.
		s.must(step{do: "POST /v2/topics/g/endpoints", body: `{"endpoints":[{"url":"https://b.test"}]}`})
		if got, want := publish("/v2/publish/g", "X-Own: 1"), "3 <nil> map[X-Own:[1]]"; got != want {
			t.Errorf("got %s after another endpoint, want %s", got, want)
		}
	})
}

func TestSchedules(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.run(
			step{do: "POST /v2/schedules/https://a.test/x", header: append(slices.Clone(full), "Upstash-Cron: */10 * * * * ", "Upstash-Delay: 10s", "Upstash-Queue-Name: q"), body: "hello", status: 200, want: `{"scheduleId":"scd_1"}`},
			step{do: "GET /v2/schedules/scd_1", status: 200, want: `{"scheduleId":"scd_1","cron":"*/10 * * * *","destination":"https://a.test/x","method":"PUT","createdAt":946684800000,
				"retries":1,"isPaused":false,"header":{"Content-Type":["text/plain"],"X-Test":["v1"]},"body":"hello","delay":10,"timeout":90000,
				"callback":"https://callback.test/done?x=1","callbackHeader":{"A":["b"]},"failureCallback":"https://callback.test/failed","failureCallbackHeader":{"C":["d"]},
				"queueName":"q","flowControlKey":"key","parallelism":3,"rate":5,"period":60,"retryDelayExpression":"1000 * (retried + 1)","label":"one","labels":["one","two"],
				"callerIP":"203.0.113.7","callerIp":"203.0.113.7","nextScheduleTime":946685400000,
				"nextScheduleTimes":[946685400000,946686000000,946686600000,946687200000,946687800000]}`},
			step{do: "POST /v2/schedules/https://b.test", header: []string{"Upstash-Cron: @hourly", "Upstash-Schedule-Id: mine"}, body: "\xff", status: 200, want: `{"scheduleId":"mine"}`, after: time.Second},
			step{do: "GET /v2/schedules/mine", status: 200, want: `{"scheduleId":"mine","cron":"@hourly","destination":"https://b.test","method":"POST","createdAt":946684801000,"retries":3,
				"isPaused":false,"bodyBase64":"/w==","callerIP":"203.0.113.7","callerIp":"203.0.113.7","nextScheduleTime":946688400000,"nextScheduleTimes":"*"}`},
			step{do: "PATCH /v2/schedules/mine/pause", status: 200, want: `{}`},
			step{do: "PATCH /v2/schedules/mine/pause", status: 200, want: `{}`},
			// Another request with the id replaces all settings, but for the pause and the time of creation.
			step{do: "POST /v2/schedules/https://c.test", header: []string{"Upstash-Cron: * * * * *", "Upstash-Schedule-Id: mine"}, status: 200, want: `{"scheduleId":"mine"}`, after: time.Second},
			step{do: "GET /v2/schedules/mine", status: 200, want: `{"scheduleId":"mine","cron":"* * * * *","destination":"https://c.test","method":"POST","createdAt":946684801000,"retries":3,
				"isPaused":true,"callerIP":"203.0.113.7","callerIp":"203.0.113.7"}`},
			step{do: "PATCH /v2/schedules/mine/resume", status: 200, want: `{}`},
		)
		if list := s.get("/v2/schedules").list(t, ""); len(list) != 2 || list[0]["scheduleId"] != "scd_1" || list[1]["scheduleId"] != "mine" {
			t.Errorf("got %v, want the two schedules in order", list)
		}
		s.dest.answers(func(r *received) answer { return answer{status: 200, after: time.Second} })
		s.sleep(58 * time.Second) // to the tick at 00:01
		o := s.get("/v2/schedules/mine").object(t)
		states, _ := o["lastScheduleStates"].(map[string]any)
		if len(states) != 1 || fmt.Sprint(slices.Collect(maps.Values(states))) != "[IN_PROGRESS]" || o["lastScheduleTime"] != 946684860000.0 || o["nextScheduleTime"] != 946684920000.0 {
			t.Errorf("got %v last %v next %v, want one message in progress", states, o["lastScheduleTime"], o["nextScheduleTime"])
		}
		s.sleep(2 * time.Second)
		states, _ = s.get("/v2/schedules/mine").object(t)["lastScheduleStates"].(map[string]any)
		if fmt.Sprint(slices.Collect(maps.Values(states))) != "[SUCCESS]" {
			t.Errorf("got %v, want one success", states)
		}
		if r := s.dest.one(t); r.url != "https://c.test" || r.header.Get("Upstash-Schedule-Id") != "mine" || r.header.Get("Upstash-Caller-Ip") != "203.0.113.7" {
			t.Errorf("got a delivery to %s of schedule %s for %s, want https://c.test, mine, 203.0.113.7", r.url, r.header.Get("Upstash-Schedule-Id"), r.header.Get("Upstash-Caller-Ip"))
		}
		// A day of ticks.
		s.dest.with(500)
		s.run(step{do: "POST /v2/schedules/https://c.test", header: []string{"Upstash-Cron: * * * * *", "Upstash-Schedule-Id: mine", "Upstash-Retries: 0"}, status: 200})
		s.sleep(6 * time.Hour)
		if got := len(s.dest.take()); got < 360 {
			t.Errorf("got %d deliveries in 6 h of a schedule of a minute, want at least 360", got)
		}
		states, _ = s.get("/v2/schedules/mine").object(t)["lastScheduleStates"].(map[string]any)
		if fmt.Sprint(slices.Collect(maps.Values(states))) != "[FAIL]" {
			t.Errorf("got %v, want one failure", states)
		}
		s.run(
			step{do: "DELETE /v2/schedules/mine", status: 200, want: `{}`},
			step{do: "DELETE /v2/schedules/scd_1", status: 200, want: `{}`},
			step{do: "GET /v2/schedules/mine", status: 404, want: `{"error":"schedule mine not found"}`},
			step{do: "GET /v2/schedules", status: 200, want: `[]`},
		)
		s.dest.take()
		s.sleep(time.Hour)
		if got := s.dest.take(); len(got) != 0 {
			t.Errorf("got %d deliveries of deleted schedules, want none", len(got))
		}
	})
}

// TestScheduleOfLostGroup: a tick to a group that is gone tells so, and the next one is tried again.
func TestScheduleOfLostGroup(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		group := step{do: "POST /v2/topics/g/endpoints", body: `{"endpoints":[{"url":"https://a.test"},{"url":"https://b.test","name":"b"}]}`, status: 200}
		s.run(
			group,
			step{do: "POST /v2/schedules/g", header: []string{"Upstash-Cron: * * * * *", "Upstash-Schedule-Id: mine"}, status: 200},
			step{do: "DELETE /v2/topics/g", status: 200},
		)
		s.sleep(time.Minute)
		if o := s.get("/v2/schedules/mine").object(t); o["error"] != "topic g not found" || o["destination"] != "g" {
			t.Errorf("got error %v destination %v, want topic g not found, g", o["error"], o["destination"])
		}
		s.run(group)
		s.sleep(time.Minute)
		got := s.dest.take()
		if len(got) != 2 || got[0].header.Get("Upstash-Topic-Name") != "g" {
			t.Fatalf("got %d deliveries, want 2 of group g", len(got))
		}
		o := s.get("/v2/schedules/mine").object(t)
		if _, ok := o["error"]; ok || len(o["lastScheduleStates"].(map[string]any)) != 2 {
			t.Errorf("got error %v and states %v, want no error and two states", o["error"], o["lastScheduleStates"])
		}
	})
}

func TestFlowKeys(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.dest.answers(func(*received) answer { return answer{status: 200, after: 10 * time.Second} })
		s.publish("/v2/publish/https://a.test", "", "Upstash-Flow-Control-Key: a/b c", "Upstash-Flow-Control-Value: rate=2,parallelism=1,period=60")
		s.publish("/v2/publish/https://a.test", "", "Upstash-Flow-Control-Key: a/b c", "Upstash-Flow-Control-Value: rate=2,parallelism=1,period=60")
		const rest = `"ratePeriod":60,"ratePeriodStart":946684800,"isPaused":false,"isPinnedParallelism":false,"isPinnedRate":false}`
		s.run(
			step{do: "GET /v2/flowControl/a/b%20c", status: 200, want: `{"flowControlKey":"a/b c","waitListSize":1,"parallelismMax":1,"parallelismCount":1,"rateMax":2,"rateCount":1,` + rest},
			step{do: "GET /v2/flowControl/a%2Fb%20c", status: 200},
			step{do: "GET /v2/flowControl", status: 200, want: `[{"flowControlKey":"a/b c","waitListSize":1,"parallelismMax":1,"parallelismCount":1,"rateMax":2,"rateCount":1,` + rest + `]`},
			step{do: "GET /v2/flowControl?search=b+c", status: 200, want: `[{"flowControlKey":"a/b c","waitListSize":1,"parallelismMax":1,"parallelismCount":1,"rateMax":2,"rateCount":1,` + rest + `]`},
			step{do: "GET /v2/flowControl?search=B", status: 200, want: `[]`},
			step{do: "GET /v2/globalParallelism", status: 200, want: `{"parallelismMax":0,"parallelismCount":1}`},
			step{do: "POST /v2/flowControl/a/b%20c/pause", status: 200, want: `{}`},
			step{after: 20 * time.Second, do: "GET /v2/flowControl/a/b%20c", status: 200, want: `{"flowControlKey":"a/b c","waitListSize":1,"parallelismMax":1,"parallelismCount":0,"rateMax":2,"rateCount":1,` +
				strings.Replace(rest, `"isPaused":false`, `"isPaused":true`, 1)},
			step{do: "POST /v2/flowControl/a/b%20c/resume", status: 200, want: `{}`},
			step{do: "GET /v2/flowControl/a/b%20c", status: 200, want: `{"flowControlKey":"a/b c","waitListSize":0,"parallelismMax":1,"parallelismCount":1,"rateMax":2,"rateCount":2,` + rest},
			step{do: "POST /v2/flowControl/new/pin?parallelism=3&rate=20&period=120", status: 200, want: `{}`},
			step{do: "GET /v2/flowControl/new", status: 200, want: `{"flowControlKey":"new","waitListSize":0,"parallelismMax":3,"parallelismCount":0,"rateMax":20,"rateCount":0,
				"ratePeriod":120,"ratePeriodStart":946684820,"isPaused":false,"isPinnedParallelism":true,"isPinnedRate":true}`},
			step{do: "POST /v2/flowControl/new/unpin?rate=true", status: 200, want: `{}`},
			step{do: "GET /v2/flowControl/new", status: 200, want: `{"flowControlKey":"new","waitListSize":0,"parallelismMax":3,"parallelismCount":0,"rateMax":20,"rateCount":0,
				"ratePeriod":120,"ratePeriodStart":946684820,"isPaused":false,"isPinnedParallelism":true,"isPinnedRate":false}`},
			step{after: time.Second, do: "POST /v2/flowControl/a/b%20c/resetRate", status: 200, want: `{}`},
			step{do: "GET /v2/flowControl/a/b%20c", status: 200, want: `{"flowControlKey":"a/b c","waitListSize":0,"parallelismMax":1,"parallelismCount":1,"rateMax":2,"rateCount":0,` +
				strings.Replace(rest, "946684800", "946684821", 1)},
			step{do: "POST /v2/flowControl/new/reset", status: 200, want: `{}`},
			step{do: "POST /v2/flowControl/new/unpin?parallelism=true&rate=true", status: 200, want: `{}`},
		)
		// An idle key is forgotten after a while.
		s.sleep(9 * time.Minute)
		s.run(step{do: "GET /v2/flowControl/new", status: 200})
		s.sleep(10 * time.Minute)
		s.run(step{do: "GET /v2/flowControl/new", status: 404}, step{do: "GET /v2/flowControl", status: 200, want: `[]`})
	})
}

// TestHeaderForward: all headers of the request, but for those that are not the destination's business.
func TestHeaderForward(t *testing.T) {
	all := []string{
		"Upstash-Header-Forward: true", "X-Own: 1", "Accept: text/html", "Accept: */*", "Cookie: a=b", "Content-Type: text/plain", "Upstash-Delay: 1s", "Upstash-Unknown: x",
		"Connection: keep-alive", "Keep-Alive: timeout=5", "Te: trailers", "Upgrade: h2c", "Proxy-Authorization: secret", "Upstash-Forward-Cookie: c=d",
		"X-Forwarded-For: 198.51.100.1",
	}
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		header := func(st step) string {
			t.Helper()
			id := fmt.Sprint(s.must(st).object(t)["messageId"])
			return fmt.Sprint(s.get("/v2/messages/" + id).object(t)["header"])
		}
		const want = "map[Accept:[text/html */*] Content-Type:[text/plain] Cookie:[c=d] X-Forwarded-For:[198.51.100.1] X-Own:[1]]"
		if got := header(step{do: "POST /v2/publish/https://a.test", header: all, body: "x"}); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		// The token came by the query, so the header is the publisher's own.
		got := header(step{do: "POST /v2/publish/https://a.test?qstash_token=alice", token: "-", header: append(all, "Authorization: Basic own"), body: "x"})
		if want := strings.Replace(want, "Content-Type", "Authorization:[Basic own] Content-Type", 1); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got, want := header(step{do: "POST /v2/publish/https://a.test?upstash-header-forward=1", header: []string{"X-Own: 1"}}), "map[X-Own:[1]]"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// TestRedaction: what is redacted is nowhere in any answer, and everywhere else.
func TestRedaction(t *testing.T) {
	const secret, secretHeader = "secret-body", "secret-header"
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.dest.with(500)
		header := []string{
			"Upstash-Redact-Fields: body, header[authorization], headers[X-Secret]", "Upstash-Forward-Authorization: " + secretHeader, "Upstash-Forward-X-Secret: " + secretHeader,
			"Upstash-Forward-X-Open: open", "Upstash-Retries: 0", "Upstash-Failure-Callback: https://callback.test", "Upstash-Failure-Callback-Forward-Authorization: " + secretHeader,
			"Upstash-Failure-Callback-Retries: 0",
		}
		s.run(
			step{do: "POST /v2/publish/https://a.test", header: header, body: secret, status: 200, want: `{"messageId":"msg_1"}`},
			step{do: "POST /v2/schedules/https://a.test/tick", header: append(header, "Upstash-Cron: * * * * *", "Upstash-Schedule-Id: mine"), body: secret, status: 200},
		)
		s.sleep(90 * time.Second)
		var paths []string
		for _, d := range s.get("/v2/dlq").list(t, "messages") {
			paths = append(paths, "/v2/dlq/"+s.id(fmt.Sprint(d["dlqId"])), "/v2/messages/"+fmt.Sprint(d["messageId"]))
		}
		if len(paths) != 8 { // the message and the tick, and their callbacks
			t.Fatalf("got %d dead letters, want 4", len(paths)/2)
		}
		paths = append(paths, "/v2/events", "/v2/logs", "/v2/dlq", "/v2/schedules", "/v2/schedules/mine")
		hidden := []string{secret, secretHeader}
		for _, h := range hidden {
			hidden = append(hidden, base64.StdEncoding.EncodeToString([]byte(h)))
		}
		for _, path := range paths {
			body := s.get(path).body
			for _, h := range hidden {
				if strings.Contains(body, h) {
					t.Errorf("GET %s: got %q in %s, want it redacted", path, h, clip(body))
				}
			}
			// A callback's body is base64 once more.
			for e := range strings.SplitSeq(body, `"`) {
				if raw, err := base64.StdEncoding.DecodeString(e); err == nil {
					for _, h := range hidden {
						if strings.Contains(string(raw), h) {
							t.Errorf("GET %s: got %q in the encoded %s, want it redacted", path, h, clip(string(raw)))
						}
					}
				}
			}
		}
		m := s.get("/v2/messages/msg_1").object(t)
		for _, tt := range []struct {
			got   any
			value string
		}{
			{m["body"], secret},
			{m["header"].(map[string]any)["Authorization"].([]any)[0], secretHeader},
			{m["header"].(map[string]any)["X-Secret"].([]any)[0], secretHeader},
		} {
			if want := fmt.Sprintf("REDACTED:%x", sha256.Sum256([]byte(tt.value))); tt.got != want {
				t.Errorf("got %v for %s, want %s", tt.got, tt.value, want)
			}
		}
		if got := fmt.Sprint(m["header"].(map[string]any)["X-Open"]); got != "[open]" {
			t.Errorf("got X-Open %s, want [open]", got)
		}
		// What is delivered is the original, also by a callback and a retry.
		s.dest.with(200)
		got := s.dest.take()
		if got[0].body != secret || got[0].header.Get("Authorization") != secretHeader {
			t.Errorf("got body %q and Authorization %q at the destination, want the originals", got[0].body, got[0].header.Get("Authorization"))
		}
		if !strings.Contains(got[1].body, base64.StdEncoding.EncodeToString([]byte(secret))) || got[1].header.Get("Authorization") != secretHeader {
			t.Errorf("got %s at the callback, want the originals in it", got[1].body)
		}
		s.must(step{do: "DELETE /v2/schedules/mine"})
		s.must(step{do: "POST /v2/dlq/retry"})
		s.sleep(0)
		for _, r := range s.dest.take() {
			if strings.Contains(r.url, "a.test") && (r.body != secret || r.header.Get("X-Secret") != secretHeader) {
				t.Errorf("got body %q and X-Secret %q after a retry, want the originals", r.body, r.header.Get("X-Secret"))
			}
		}
		// All headers.
		id := s.publish("/v2/publish/https://a.test", "", "Upstash-Redact-Fields: header", "Content-Type: text/plain", "Upstash-Forward-X: y")
		m = s.get("/v2/messages/" + id).object(t)
		if got := fmt.Sprint(m["header"]); strings.Contains(got, "plain") || strings.Contains(got, "[y]") || !strings.Contains(got, "Content-Type:[REDACTED:") {
			t.Errorf("got header %s, want all redacted", got)
		}
	})
}
