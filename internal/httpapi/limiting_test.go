package httpapi_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// counts tells how many deliveries came at which second: "10 at 0, 5 at 60".
func counts(got []*received) string {
	var out []string
	for i := 0; i < len(got); {
		at, n := got[i].at.Round(time.Millisecond), 0
		for i < len(got) && got[i].at.Round(time.Millisecond) == at {
			i, n = i+1, n+1
		}
		out = append(out, fmt.Sprintf("%d at %v", n, at.Seconds()))
	}
	return strings.Join(out, ", ")
}

// TestRate: so many attempts in a period, retries included, in the order of arrival.
func TestRate(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		flow := func(value string) []string {
			return []string{"Upstash-Flow-Control-Key: k", "Upstash-Flow-Control-Value: " + value}
		}
		for range 25 {
			s.publish("/v2/publish/https://a.test", "", flow("rate=10,period=1m")...)
		}
		s.sleep(0)
		k := s.get("/v2/flowControl/k").object(t)
		if k["waitListSize"] != 15.0 || k["rateCount"] != 10.0 || k["rateMax"] != 10.0 || k["ratePeriod"] != 60.0 || k["parallelismMax"] != 0.0 {
			t.Errorf("got %v, want 15 waiting behind a rate of 10", k)
		}
		s.sleep(10 * time.Minute)
		if got, want := counts(s.dest.take()), "10 at 0, 10 at 60, 5 at 120"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		// A retry takes a unit, too.
		s.dest.with(500)
		for range 2 {
			s.publish("/v2/publish/https://a.test", "", append(flow("rate=2,period=1m"), "Upstash-Retries: 1", "Upstash-Retry-Delay: 1000")...)
		}
		s.sleep(10 * time.Minute)
		if got, want := counts(s.dest.take()), "2 at 600, 2 at 660"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		// The newest message's limits hold for all that wait.
		s.dest.with(200)
		other := func(value string) []string {
			return []string{"Upstash-Flow-Control-Key: other", "Upstash-Flow-Control-Value: " + value}
		}
		for range 5 {
			s.publish("/v2/publish/https://a.test", "", other("rate=1,period=1h")...)
		}
		s.sleep(time.Minute)
		s.publish("/v2/publish/https://a.test", "", other("rate=100,period=1s")...)
		s.sleep(time.Second)
		if got, want := counts(s.dest.take()), "1 at 1200, 5 at 1260"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		// Unless they are pinned.
		s.run(step{do: "POST /v2/flowControl/k/pin?rate=1&period=60", status: 200})
		for range 3 {
			s.publish("/v2/publish/https://a.test", "", flow("rate=100,period=1s")...)
		}
		s.sleep(10 * time.Minute)
		if got, want := counts(s.dest.take()), "1 at 1261, 1 at 1321, 1 at 1381"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// TestParallelism: so many attempts at a time. A message that waits for its retry does not count.
func TestParallelism(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.dest.answers(func(r *received) answer {
			if strings.HasSuffix(r.url, "/fails") && r.header.Get("Upstash-Retried") == "0" {
				return answer{status: 500, after: 10 * time.Second}
			}
			return answer{status: 200, after: 10 * time.Second}
		})
		flow := []string{"Upstash-Flow-Control-Key: k", "Upstash-Flow-Control-Value: parallelism=2", "Upstash-Retry-Delay: 5000"}
		for i := range 6 {
			target := "/v2/publish/https://a.test/ok"
			if i == 0 {
				target = "/v2/publish/https://a.test/fails"
			}
			s.publish(target, "", flow...)
		}
		// Another key, and none, are not concerned.
		s.publish("/v2/publish/https://a.test", "", "Upstash-Flow-Control-Key: other", "Upstash-Flow-Control-Value: parallelism=2")
		s.publish("/v2/publish/https://a.test", "")
		s.sleep(time.Second)
		if k := s.get("/v2/flowControl/k").object(t); k["parallelismCount"] != 2.0 || k["waitListSize"] != 4.0 {
			t.Errorf("got %v, want 2 in flight and 4 waiting", k)
		}
		s.sleep(time.Minute)
		// The retry is due at 15 and comes behind those that wait already.
		if got, want := counts(s.dest.take()), "4 at 0, 2 at 10, 2 at 20, 1 at 30"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		// Pausing holds what has the key, and lets go of what waits when it ends.
		s.run(step{do: "POST /v2/flowControl/k/pause", status: 200})
		for range 3 {
			s.publish("/v2/publish/https://a.test/ok", "", flow...)
		}
		s.sleep(time.Minute)
		if got := s.dest.take(); len(got) != 0 {
			t.Errorf("got %d deliveries while the key was paused, want none", len(got))
		}
		s.run(step{do: "POST /v2/flowControl/k/pin?parallelism=3", status: 200}, step{do: "POST /v2/flowControl/k/resume", status: 200})
		s.sleep(time.Minute)
		if got, want := counts(s.dest.take()), "3 at 121"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// TestGlobalParallelism: a plan bounds all attempts of its tenant.
func TestGlobalParallelism(t *testing.T) {
	inBubble(t, stackConfig{plan: "free"}, func(t *testing.T, s *stack) {
		s.dest.answers(func(*received) answer { return answer{status: 200, after: 10 * time.Second} })
		for range 25 {
			s.publish("/v2/publish/https://a.test", "")
		}
		for range 3 {
			s.must(step{do: "POST /v2/publish/https://b.test", token: "bob"})
		}
		s.sleep(time.Second)
		s.run(step{do: "GET /v2/globalParallelism", status: 200, want: `{"parallelismMax":10,"parallelismCount":10}`})
		s.sleep(time.Minute)
		if got, want := counts(s.dest.take()), "13 at 0, 10 at 10, 5 at 20"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// TestGlobalParallelismChanges: another plan holds at once for what waits, and a schedule's and a group's messages are counted.
func TestGlobalParallelismChanges(t *testing.T) {
	cfg := stackConfig{plan: "free", data: filepath.Join(t.TempDir(), "data")}
	cfg.Poll = time.Second // the plan is changed from outside, so the server has to look
	inBubble(t, cfg, func(t *testing.T, s *stack) {
		s.dest.answers(func(*received) answer { return answer{status: 200, after: 10 * time.Second} })
		s.must(step{do: "POST /v2/topics/g/endpoints", body: `{"endpoints":[{"url":"https://one.test"},{"url":"https://two.test"}]}`})
		s.must(step{do: "POST /v2/schedules/https://a.test", header: []string{"Upstash-Cron: * * * * *"}})
		s.sleep(59 * time.Second)
		for range 9 {
			s.publish("/v2/publish/https://a.test", "")
		}
		s.must(step{do: "POST /v2/publish/g"})
		s.sleep(5 * time.Second)
		s.run(step{do: "GET /v2/globalParallelism", status: 200, want: `{"parallelismMax":10,"parallelismCount":10}`})
		for _, plan := range []string{"payg", "unlimited"} {
			if err := s.admin.SetPlan(t.Context(), 1, plan); err != nil {
				t.Fatal(err)
			}
			s.sleep(time.Second)
		}
		if got, want := counts(s.dest.take()), "10 at 59, 2 at 65"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		s.run(step{do: "GET /v2/globalParallelism", status: 200, want: `{"parallelismMax":0,"parallelismCount":12}`})
	})
}

// TestPausedQueue: a paused queue takes messages and delivers none, not even as retries; then it goes on in order.
func TestPausedQueue(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.dest.with(500)
		s.publish("/v2/enqueue/q/https://a.test/0", "", "Upstash-Retry-Delay: 1000")
		s.sleep(0)
		s.run(step{do: "POST /v2/queues/q/pause", status: 200})
		s.dest.with(200)
		for i := 1; i < 4; i++ {
			s.publish(fmt.Sprintf("/v2/enqueue/q/https://a.test/%d", i), "")
		}
		s.sleep(time.Hour)
		if got, want := times(s.dest.take()), "0"; got != want {
			t.Errorf("got deliveries at %s, want %s", got, want)
		}
		if q := s.get("/v2/queues/q").object(t); q["lag"] != 4.0 || q["paused"] != true {
			t.Errorf("got %v, want a paused queue of 4", q)
		}
		s.run(step{do: "POST /v2/queues/q/resume", status: 200})
		s.sleep(time.Second)
		var urls []string
		for _, r := range s.dest.take() {
			urls = append(urls, r.url[len(r.url)-1:])
		}
		if got := strings.Join(urls, ""); got != "0123" {
			t.Errorf("got deliveries in the order %s, want 0123", got)
		}
		if q := s.get("/v2/queues/q").object(t); q["lag"] != 0.0 {
			t.Errorf("got %v, want an empty queue", q)
		}
	})
}

// TestQueueParallelism: more room acts at once; less lets run what runs.
func TestQueueParallelism(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.dest.answers(func(*received) answer { return answer{status: 200, after: 10 * time.Second} })
		for i := range 8 {
			s.publish(fmt.Sprintf("/v2/enqueue/q/https://a.test/%d", i), "")
		}
		s.sleep(5 * time.Second)
		s.run(step{do: "POST /v2/queues", body: `{"queueName":"q","parallelism":3,"paused":false}`, status: 200})
		s.sleep(6 * time.Second)
		s.run(step{do: "POST /v2/queues", body: `{"queueName":"q","parallelism":1}`, status: 200})
		s.sleep(time.Hour)
		got := s.dest.take()
		if got, want := counts(got), "1 at 0, 2 at 5, 1 at 10, 1 at 20, 1 at 30, 1 at 40, 1 at 50"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if !slices.IsSortedFunc(got, func(a, b *received) int {
			if a.at.Round(time.Millisecond) == b.at.Round(time.Millisecond) {
				return 0
			}
			return strings.Compare(a.url, b.url)
		}) {
			t.Errorf("got deliveries out of order")
		}
	})
}

// TestScheduleTicks: pauses, settings and queues of what a schedule makes.
func TestScheduleTicks(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.must(step{do: "POST /v2/topics/g/endpoints", body: `{"endpoints":[{"url":"https://one.test"},{"url":"https://two.test"}]}`})
		s.run(
			step{do: "POST /v2/schedules/g", header: []string{"Upstash-Cron: * * * * *", "Upstash-Schedule-Id: group", "Upstash-Label: a,b", "Upstash-Delay: 10s", "Upstash-Queue-Name: q"}, body: "x", status: 200},
			step{do: "GET /v2/queues", status: 200, want: `[]`}, // it comes with the first message
		)
		s.sleep(5 * time.Minute)
		if got, want := counts(s.dest.take()), "2 at 70, 2 at 130, 2 at 190, 2 at 250"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		list := s.get("/v2/events?scheduleId=group&state=CREATED&order=earliestFirst").list(t, "events")
		if len(list) != 10 {
			t.Fatalf("got %d messages, want 10", len(list))
		}
		for _, e := range list {
			if fmt.Sprint(e["labels"]) != "[a b]" || e["queueName"] != "q" || e["topicName"] != "g" || e["nextDeliveryTime"] == nil {
				t.Errorf("got %v, want the schedule's settings", e)
			}
		}
		// While it is paused, ticks pass without effect.
		s.run(step{do: "PATCH /v2/schedules/group/pause", status: 200})
		s.sleep(10 * time.Minute)
		s.dest.take() // of the tick before
		s.run(step{do: "PATCH /v2/schedules/group/resume", status: 200})
		s.sleep(75 * time.Second)
		if got, want := counts(s.dest.take()), "2 at 970"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		s.must(step{do: "DELETE /v2/schedules/group"})
		// A zone of its own: 01:30 there is 00:30 here.
		s.run(step{do: "POST /v2/schedules/https://a.test", header: []string{"Upstash-Cron: CRON_TZ=Europe/Berlin 30 1 * * *"}, status: 200})
		s.run(step{do: "POST /v2/schedules/https://b.test", header: []string{"Upstash-Cron: @every 90m"}, status: 200})
		s.sleep(4 * time.Hour)
		var a, b []*received
		for _, r := range s.dest.take() {
			switch r.url {
			case "https://a.test":
				a = append(a, r)
			case "https://b.test":
				b = append(b, r)
			}
		}
		if got, want := counts(a), "1 at 1800"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got, want := counts(b), "1 at 6375, 1 at 11775"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// TestRetention: what has ended is kept for a while, what has not is kept.
func TestRetention(t *testing.T) {
	cfg := stackConfig{}
	cfg.Retention, cfg.DeadLetters = time.Hour, 2*time.Hour
	inBubble(t, cfg, func(t *testing.T, s *stack) {
		s.dest.answers(func(r *received) answer {
			if strings.Contains(r.url, "fails") {
				return answer{status: 500}
			}
			return answer{}
		})
		ended := s.publish("/v2/publish/https://a.test", "x")
		failed := s.publish("/v2/publish/https://fails.test", "x", "Upstash-Retries: 0")
		waits := s.publish("/v2/publish/https://a.test", "x", "Upstash-Delay: 1d")
		s.sleep(50 * time.Minute)
		s.run(step{do: "GET /v2/messages/" + ended, status: 200}, step{do: "GET /v2/messages/" + failed, status: 200})
		s.sleep(15 * time.Minute)
		s.run(
			step{do: "GET /v2/messages/" + ended, status: 404},
			step{do: "GET /v2/messages/" + waits, status: 200},
			step{do: "GET /v2/events?messageId=" + ended, status: 200, want: `{"events":[]}`},
		)
		if got := s.get("/v2/dlq").list(t, "messages"); len(got) != 1 || got[0]["body"] != "x" {
			t.Errorf("got dead letters %v, want one with its content", got)
		}
		if got := s.get("/v2/events").list(t, "events"); !slices.ContainsFunc(got, func(e map[string]any) bool { return e["messageId"] == waits }) {
			t.Errorf("got no entry of what waits")
		}
		s.sleep(time.Hour)
		s.run(step{do: "GET /v2/dlq", status: 200, want: `{"messages":[]}`})
		s.sleep(22 * time.Hour)
		if got, want := s.states(waits), "CREATED ACTIVE DELIVERED"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// TestRetentionOfKinds: messages, their log and dead letters are kept for times of their own, and by a tenant's plan no longer than
// that says.
func TestRetentionOfKinds(t *testing.T) {
	const unit, day = time.Hour, 24 * time.Hour
	for _, tt := range []struct {
		name               string
		content, log, dead time.Duration
		plan               string
		// After each unit, or day with a plan: whether the message, its log, and the dead letter with its content are there.
		want []string
	}{
		{"content shorter", unit + unit/2, 4*unit + unit/2, 2*unit + unit/2, "", []string{"message log dead", "log dead", "log", "log", ""}},
		{"log shorter", 3*unit + unit/2, unit + unit/2, 2*unit + unit/2, "", []string{"message log dead", "message dead", "message", ""}},
		{"log as long", 2*unit + unit/2, 0, unit + unit/2, "", []string{"message log dead", "message log", ""}},
		{"for ever", 0, 0, 0, "", []string{"message log dead", "message log dead", "message log dead", "message log dead", "message log dead"}},
		{"dead letters longer", unit + unit/2, 0, 3*unit + unit/2, "", []string{"message log dead", "dead", "dead", ""}},
		{"plan", 30 * day, 0, 30 * day, "free", []string{"message log dead", "message log dead", ""}},
		{"plan above", day / 2, 0, day / 2, "free", []string{""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := stackConfig{plan: tt.plan}
			cfg.Retention, cfg.LogRetention, cfg.DeadLetters = tt.content, tt.log, tt.dead
			inBubble(t, cfg, func(t *testing.T, s *stack) {
				s.dest.answers(func(r *received) answer {
					if strings.Contains(r.url, "fails") {
						return answer{status: 500}
					}
					return answer{}
				})
				id := s.publish("/v2/publish/https://a.test", "secret", "Upstash-Forward-X: secret", "Upstash-Label: l")
				s.publish("/v2/publish/https://fails.test", "body", "Upstash-Retries: 0")
				for i, want := range tt.want {
					if s.sleep(unit + time.Minute); tt.plan != "" {
						s.sleep(day - unit)
					}
					var got []string
					if r := s.send(step{do: "GET /v2/messages/" + id}); r.status == 200 {
						got = append(got, "message")
					}
					logs := 0
					for _, path := range []string{"/v2/events?messageId=" + id, "/v2/events?label=l"} {
						r := s.get(path)
						logs += len(r.list(t, "events"))
						if slices.Equal(got, []string{}) && strings.Contains(r.body, "c2VjcmV0") {
							t.Errorf("after %d: got %s, want no content of a message that is gone", i+1, r.body)
						}
					}
					switch logs {
					case 0:
					case 6:
						got = append(got, "log")
					default:
						t.Errorf("after %d: got %d entries in two lists, want 6 or none", i+1, logs)
					}
					if dead := s.get("/v2/dlq").list(t, "messages"); len(dead) == 1 && dead[0]["body"] == "body" {
						got = append(got, "dead")
					} else if len(dead) > 0 {
						t.Errorf("after %d: got dead letters %v, want one with its content", i+1, dead)
					}
					if got := strings.Join(got, " "); got != want {
						t.Errorf("after %d: got %q, want %q", i+1, got, want)
					}
				}
			})
		})
	}
}

// TestSeveralKeys: a message may name several keys, whose limits all hold, and be more or less urgent than others that wait.
func TestSeveralKeys(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.dest.answers(func(*received) answer { return answer{status: 200, after: 10 * time.Second} })
		both := []string{
			"Upstash-Flow-Control-Key: k1", "Upstash-Flow-Control-Value: parallelism=1",
			"Upstash-Flow-Control-Key-2: k2", "Upstash-Flow-Control-Value-2: rate=2,period=60",
		}
		for range 4 {
			s.publish("/v2/publish/https://a.test", "", both...)
		}
		s.sleep(5 * time.Minute)
		if got, want := counts(s.dest.take()), "1 at 0, 1 at 10, 1 at 60, 1 at 70"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		m := s.get("/v2/messages/msg_1").object(t)
		if m["flowControlKey"] != "k1" || len(m["flowControlKeys"].([]any)) != 2 {
			t.Errorf("got %v, want both keys", m)
		}
		if got := len(s.get("/v2/events?flowControlKey=k2&state=CREATED").list(t, "events")); got != 4 {
			t.Errorf("got %d messages of the second key, want 4", got)
		}
		s.must(step{do: "POST /v2/flowControl/k1/pause"})
		for _, p := range []string{"5", "1", "0", "1"} {
			s.publish("/v2/publish/https://a.test/"+p, "", "Upstash-Flow-Control-Key: k1", "Upstash-Flow-Control-Value: parallelism=1", "Upstash-Priority: "+p)
			s.sleep(time.Second)
		}
		s.must(step{do: "POST /v2/flowControl/k1/resume"})
		s.sleep(time.Minute)
		var order []string
		for _, r := range s.dest.take() {
			order = append(order, r.url[len(r.url)-1:])
		}
		if got := strings.Join(order, ""); got != "0115" {
			t.Errorf("got the order %s, want 0115", got)
		}
	})
}
