package httpapi_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// requests are the queries, headers and bodies that a route needs to do what it does, beside the method and path of the table.
var requests = map[string]step{
	"POST /v2/publish/https://example.com/published":      {body: "x"},
	"POST /v2/enqueue/queue/https://example.com/enqueued": {body: "x"},
	"POST /v2/batch":                                   {body: `[{"destination":"https://example.com/batched"}]`},
	"POST /v2/queues":                                  {body: `{"queueName":"queue","parallelism":9,"paused":false}`},
	"POST /v2/topics/group/endpoints":                  {body: `{"endpoints":[{"url":"https://example.com/stranger"}]}`},
	"DELETE /v2/topics/group/endpoints":                {body: `{"endpoints":[{"url":"https://example.com/first"}]}`},
	"PATCH /v2/topics/group":                           {body: `{"headers":{"Upstash-Retries":"0"}}`},
	"POST /v2/schedules":                               {header: []string{"Upstash-Cron: @daily", "Upstash-Schedule-Id: schedule"}},
	"POST /v2/schedules/schedule":                      {header: []string{"Upstash-Cron: @daily", "Upstash-Schedule-Id: schedule"}},
	"POST /v2/schedules/https://example.com/scheduled": {header: []string{"Upstash-Cron: @daily", "Upstash-Schedule-Id: schedule"}},
}

// hers are the ids of what the first tenant of TestIsolation has.
var hers = regexp.MustCompile(`\b(msg_[1-4]|dlq_1)\b`)

// TestIsolation: no request of one tenant, whatever ids and names of another it uses, shows or changes anything of that other.
func TestIsolation(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		const secret = "belongs-to-alice"
		s.dest.answers(func(r *received) answer {
			if strings.Contains(r.url, "fails") {
				return answer{status: 500, body: secret}
			}
			return answer{status: 200}
		})
		// What alice has.
		s.run(
			step{do: "POST /v2/queues", body: `{"queueName":"queue","parallelism":2,"paused":true}`, status: 200},
			step{do: "POST /v2/topics/group/endpoints", body: `{"endpoints":[{"url":"https://example.com/first","name":"` + secret + `"},{"url":"https://example.com/second"}]}`, status: 200},
			step{do: "PATCH /v2/topics/group", body: `{"headers":{"Upstash-Label":"` + secret + `"}}`, status: 200},
			step{do: "POST /v2/schedules/https://example.com/" + secret, header: []string{"Upstash-Cron: @hourly", "Upstash-Schedule-Id: schedule"}, body: secret, status: 200},
			step{do: "POST /v2/flowControl/key/pin?parallelism=1", status: 200},
			step{do: "POST /v2/publish/https://example.com/" + secret, header: []string{
				"Upstash-Delay: 1d", "Upstash-Deduplication-Id: d", "Upstash-Label: l",
				"Upstash-Deduplication-Window: 20h",
			}, body: secret, status: 200, want: `{"messageId":"msg_1"}`},
			step{do: "POST /v2/enqueue/queue/https://example.com/" + secret, body: secret, status: 200, want: `{"messageId":"msg_2"}`},
			step{do: "POST /v2/publish/https://example.com/fails", header: []string{"Upstash-Retries: 0"}, body: secret, status: 200, want: `{"messageId":"msg_3"}`},
			step{do: "POST /v2/publish/https://example.com/flows", header: []string{"Upstash-Flow-Control-Key: key", "Upstash-Flow-Control-Value: parallelism=1", "Upstash-Delay: 1d"}, body: secret, status: 200},
		)
		s.sleep(time.Second)
		s.get("/v2/dlq") // names dlq_1
		paths := []string{
			"/v2/messages/msg_1", "/v2/messages/msg_2", "/v2/messages/msg_3", "/v2/messages/msg_4", "/v2/queues", "/v2/topics", "/v2/schedules", "/v2/flowControl", "/v2/dlq", "/v2/keys",
			"/v2/events", "/v2/globalParallelism",
		}
		look := func() []string {
			var out []string
			for _, p := range paths {
				out = append(out, p+" "+s.get(p).body)
			}
			return out
		}
		before := look()
		ours := func(body string) bool { return strings.Contains(body, secret) || hers.MatchString(body) }
		queries := []string{
			"", "?messageId=" + s.id("msg_1"), "?messageIds=" + s.id("msg_1") + "," + s.id("msg_3"), "?dlqIds=" + s.id("dlq_1"), "?label=l", "?queueName=queue", "?topicName=group",
			"?scheduleId=schedule", "?flowControlKey=key", "?url=https://example.com/fails", "?host=example.com", "?callerIp=203.0.113.7", "?search=key", "?count=100",
			"?cursor=" + fmt.Sprint(bubbleStart+100_000), "?cursor=1&order=earliestFirst", "?parallelism=true&rate=true",
		}
		n := 0
		for _, e := range table {
			r := lookUp(t, e.path)
			for _, method := range r.Allowed() {
				st := requests[method+" "+e.path]
				for _, id := range []string{"msg_1", "msg_2", "msg_3"} {
					for _, query := range queries {
						path := strings.ReplaceAll(e.path, "msg_1", id)
						if id != "msg_1" && path == e.path || strings.Contains(path, "?") && query != "" {
							continue
						}
						if strings.Contains(path, "https://") && query != "" {
							continue // it would be part of a destination
						}
						st.do, st.token = method+" "+path+query, "bob"
						got := s.send(st)
						n++
						if got.status >= 500 {
							t.Errorf("%s: got %d %s", st.do, got.status, clip(got.body))
						}
						// A refusal may repeat what bob himself asked for.
						if ours(got.body) && got.status < 400 {
							t.Errorf("%s: got %s, want nothing of another tenant", st.do, clip(got.body))
						}
					}
				}
			}
		}
		if n < 250 {
			t.Errorf("got %d requests, want many", n)
		}
		// The same through bodies that name things.
		for _, st := range []step{
			{do: "DELETE /v2/messages", body: `{"messageIds":["msg_1","msg_2","msg_4"]}`, status: 200, want: `{"cancelled":0}`},
			{do: "DELETE /v2/messages", body: `{"queueName":"queue"}`, status: 200},
			{do: "DELETE /v2/dlq", body: `{"dlqIds":["dlq_1"]}`, status: 200, want: `{"deleted":0}`},
			{do: "POST /v2/dlq/retry", body: `{"dlqIds":["dlq_1"]}`, status: 404, want: `{"error":"some messages were not found"}`},
			{do: "POST /v2/dlq/retry/dlq_1", status: 404},
			{do: "GET /v2/dlq/dlq_1", status: 404},
			{do: "GET /v2/messages/msg_1", status: 404},
			{do: "DELETE /v2/messages/msg_1", status: 404},
			{do: "GET /v2/events?messageId=msg_1", status: 200, want: `{"events":[]}`},
			{do: "GET /v2/events?messageIds=msg_1,msg_2,msg_3,msg_4", status: 200, want: `{"events":[]}`},
			// The same id of deduplication is another one.
			{do: "POST /v2/publish/https://example.com/" + "own", header: []string{"Upstash-Deduplication-Id: d"}, status: 200},
			{do: "DELETE /v2/queues/queue", status: 200},
			{do: "DELETE /v2/topics/group", status: 200},
			{do: "DELETE /v2/schedules/schedule", status: 200},
			{do: "DELETE /v2/messages", status: 200},
			{do: "DELETE /v2/dlq", status: 200},
			{do: "POST /v2/keys/rotate", status: 200},
		} {
			st.token = "bob"
			s.check("bob", st)
		}
		after := look()
		for i := range before {
			if before[i] != after[i] {
				t.Errorf("got %s, want as before %s", clip(after[i]), clip(before[i]))
			}
		}
		// Nor does the end of one tenant's things touch the same names of another.
		s.sleep(25 * time.Hour)
		urls := []string{}
		for _, r := range s.dest.take() {
			urls = append(urls, r.url)
		}
		if !slices.Contains(urls, "https://example.com/"+secret) || !slices.Contains(urls, "https://example.com/flows") {
			t.Errorf("got deliveries to %v, want those of the first tenant among them", urls)
		}
	})
}
