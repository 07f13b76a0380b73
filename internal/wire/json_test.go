package wire_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/wire"
)

func ms(n int64) time.Time { return time.UnixMilli(n).UTC() }

// checkJSON compares an answer with the JSON it must be, byte for byte after the blanks of want are taken out, and checks that
// it was appended.
func checkJSON(t *testing.T, write func(dst []byte) []byte, want string) {
	t.Helper()
	const before = "before"
	got, ok := strings.CutPrefix(string(write([]byte(before))), before)
	if !ok {
		t.Errorf("%s: was not appended", got)
	}
	if !json.Valid([]byte(got)) {
		t.Errorf("%s: no JSON", got)
	}
	var lines []string
	for line := range strings.Lines(want) {
		lines = append(lines, strings.TrimSpace(line))
	}
	if want = strings.Join(lines, ""); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// answer adapts an encoder to checkJSON.
func answer[T any](write func([]byte, T) []byte, v T) func([]byte) []byte {
	return func(dst []byte) []byte { return write(dst, v) }
}

func sha(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "REDACTED:" + hex.EncodeToString(sum[:])
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func TestAppendAnswers(t *testing.T) {
	for _, tt := range []struct {
		name  string
		write func([]byte) []byte
		want  string
	}{
		{"published", answer(wire.AppendPublished, wire.Published{ID: "msg_A", URL: "https://a"}), `{"messageId":"msg_A"}`},
		{"duplicate", answer(wire.AppendPublished, wire.Published{ID: "msg_A", Deduplicated: true}), `{"messageId":"msg_A","deduplicated":true}`},
		{
			"group",
			answer(wire.AppendPublishedGroup, []wire.Published{{ID: "msg_1", URL: "https://a"}, {ID: "msg_2", URL: "https://b", Deduplicated: true}}),
			`[{"messageId":"msg_1","url":"https://a"},{"messageId":"msg_2","url":"https://b","deduplicated":true}]`,
		},
		{
			"batch",
			answer(wire.AppendBatch, []wire.BatchResult{
				{IsGroup: true, Group: []wire.Published{{ID: "msg_1", URL: "https://a"}, {ID: "msg_2", URL: "https://b"}}},
				{One: wire.Published{ID: "msg_3", URL: "https://c"}},
				{One: wire.Published{Error: `no "room"`}},
			}),
			`[[{"messageId":"msg_1","url":"https://a"},{"messageId":"msg_2","url":"https://b"}],{"messageId":"msg_3"},{"error":"no \"room\""}]`,
		},
		{"empty batch", answer(wire.AppendBatch, nil), `[]`},
		{"error", answer(wire.AppendError, "topic nogroup not found"), `{"error":"topic nogroup not found"}`},
		{"cancelled", answer(wire.AppendCancelled, 3), `{"cancelled":3}`},
		{"deleted", func(dst []byte) []byte { return wire.AppendDeleted(dst, 0, "") }, `{"deleted":0}`},
		{"deleted, more", func(dst []byte) []byte { return wire.AppendDeleted(dst, 2, "1-0") }, `{"deleted":2,"cursor":"1-0"}`},
		{"retried none", func(dst []byte) []byte { return wire.AppendRetried(dst, nil, "") }, `{"cursor":"","responses":[]}`},
		{
			"retried", func(dst []byte) []byte {
				return wire.AppendRetried(dst, []posthaste.MessageID{"msg_1", "msg_2"}, "1-0")
			},
			`{"cursor":"1-0","responses":[{"messageId":"msg_1"},{"messageId":"msg_2"}]}`,
		},
		{"schedule id", answer(wire.AppendScheduleID, posthaste.ScheduleID("scd_x")), `{"scheduleId":"scd_x"}`},
		{"keys", answer(wire.AppendSigningKeys, posthaste.SigningKeys{Current: "sig_a", Next: "sig_b"}), `{"current":"sig_a","next":"sig_b"}`},
		{"parallelism", func(dst []byte) []byte { return wire.AppendGlobalParallelism(dst, 500, 42) }, `{"parallelismMax":500,"parallelismCount":42}`},
		{"health", answer(wire.AppendHealth, "ok"), `{"status":"ok"}`},
		{
			"queues",
			answer(wire.AppendQueues, []*posthaste.Queue{{Name: "q", Parallelism: 1, CreatedAt: ms(1), UpdatedAt: ms(2)}}),
			`[{"name":"q","parallelism":1,"createdAt":1,"updatedAt":2,"lag":0,"paused":false}]`,
		},
		{"no queues", answer(wire.AppendQueues, nil), `[]`},
		{
			"groups",
			answer(wire.AppendURLGroups, []*posthaste.URLGroup{{
				Name: "g", CreatedAt: ms(1), UpdatedAt: ms(2), Defaults: posthaste.Header{"Upstash-Retries": {"1"}},
				Endpoints: []posthaste.Endpoint{{Name: "First endpoint", URL: "https://a?b&c"}, {URL: "https://b"}},
			}}),
			`[{"name":"g","createdAt":1,"updatedAt":2,"endpoints":[{"name":"First endpoint","url":"https://a?b&c"},{"url":"https://b"}]}]`,
		},
		{"group without endpoints", answer(wire.AppendURLGroup, &posthaste.URLGroup{Name: "g", CreatedAt: ms(1), UpdatedAt: ms(1)}), `{"name":"g","createdAt":1,"updatedAt":1,"endpoints":[]}`},
		{
			"flow keys",
			answer(wire.AppendFlowKeys, []*posthaste.FlowKey{{
				Key: "k", Waiting: 1, Parallelism: 2, InFlight: 3, Rate: 4, RateUsed: 5, Period: time.Minute, PeriodStart: ms(1700000000123),
				Paused: true, PinnedParallelism: true, PinnedRate: true,
			}}),
			`[{"flowControlKey":"k","waitListSize":1,"parallelismMax":2,"parallelismCount":3,"rateMax":4,"rateCount":5,"ratePeriod":60,
			"ratePeriodStart":1700000000,"isPaused":true,"isPinnedParallelism":true,"isPinnedRate":true}]`,
		},
		{
			"fresh flow key",
			answer(wire.AppendFlowKey, &posthaste.FlowKey{Key: "k"}),
			`{"flowControlKey":"k","waitListSize":0,"parallelismMax":0,"parallelismCount":0,"rateMax":0,"rateCount":0,"ratePeriod":0,
			"ratePeriodStart":0,"isPaused":false,"isPinnedParallelism":false,"isPinnedRate":false}`,
		},
		{"no events", func(dst []byte) []byte { return wire.AppendEventPage(dst, nil, "") }, `{"events":[]}`},
		{"no logs", func(dst []byte) []byte { return wire.AppendLogPage(dst, nil, "5-x") }, `{"cursor":"5-x","logs":[],"events":[]}`},
		{"no dead letters", func(dst []byte) []byte { return wire.AppendDeadPage(dst, nil, "") }, `{"messages":[]}`},
		{"no schedules", answer(wire.AppendSchedules, nil), `[]`},
	} {
		t.Run(tt.name, func(t *testing.T) { checkJSON(t, tt.write, tt.want) })
	}
}

// plain is a message with as little as there can be.
func plain() *posthaste.Message {
	return &posthaste.Message{
		ID: "msg_1", URL: "https://a.b/?foo=bar&x=<y>", Method: "POST", MaxRetries: 3, CreatedAt: ms(1700000000000), NotBefore: ms(1700000000000),
	}
}

// full is a message with all there can be.
func full() *posthaste.Message {
	return &posthaste.Message{
		ID: "msg_2", Tenant: 7, URL: "https://a.b", Group: "g", Endpoint: "First endpoint", API: "llm", Method: "PUT",
		Header:     posthaste.Header{"Content-Type": {"text/plain"}, "X-A": {"1", "2"}},
		Body:       []byte("hello"),
		MaxRetries: 0, RetryDelay: "1000", Timeout: 90 * time.Second,
		CreatedAt: ms(1700000000000), Delay: 10 * time.Second, NotBefore: ms(1700000010000),
		Callback:        &posthaste.Callback{URL: "https://c.d/?foo=bar", Header: posthaste.Header{"X-C": {"3"}}},
		FailureCallback: &posthaste.Callback{URL: "https://e.f", Header: posthaste.Header{"X-F": {"4"}}},
		Queue:           "q", Schedule: "scd_1", CallerIP: "203.0.113.7", Labels: []string{"a", "b"}, Priority: 2,
		Flow: []posthaste.FlowControl{{Key: "k", Parallelism: 3, Rate: 5, Period: time.Minute}},
	}
}

func TestAppendMessage(t *testing.T) {
	for _, tt := range []struct {
		name string
		m    *posthaste.Message
		want string
	}{
		{
			"plain", plain(),
			`{"messageId":"msg_1","url":"https://a.b/?foo=bar&x=<y>","method":"POST","header":{},"maxRetries":3,"notBefore":1700000000000,"createdAt":1700000000000}`,
		},
		{
			"full", full(),
			`{"messageId":"msg_2","url":"https://a.b","topicName":"g","urlGroup":"g","endpointName":"First endpoint","api":"llm","method":"PUT",
			"header":{"Content-Type":["text/plain"],"X-A":["1","2"]},"body":"hello","maxRetries":0,"retryDelayExpression":"1000",
			"notBefore":1700000010000,"createdAt":1700000000000,"callback":"https://c.d/?foo=bar","failureCallback":"https://e.f",
			"callbackHeader":{"X-C":["3"]},"failureCallbackHeader":{"X-F":["4"]},"queueName":"q","scheduleId":"scd_1",
			"callerIP":"203.0.113.7","callerIp":"203.0.113.7","label":"a","labels":["a","b"],
			"flowControlKey":"k","parallelism":3,"rate":5,"period":60,"priority":2}`,
		},
		{
			"not UTF-8, rate unset, several keys",
			func() *posthaste.Message {
				m := plain()
				m.Body = []byte("\xff\x00")
				m.Flow = []posthaste.FlowControl{{Key: "k", Parallelism: 5, Period: time.Second}, {Key: "l", Rate: 1, Period: 2 * time.Second}}
				return m
			}(),
			`{"messageId":"msg_1","url":"https://a.b/?foo=bar&x=<y>","method":"POST","header":{},"bodyBase64":"/wA=","maxRetries":3,
			"notBefore":1700000000000,"createdAt":1700000000000,"flowControlKey":"k","parallelism":5,"period":1,
			"flowControlKeys":[{"flowControlKey":"k","parallelism":5,"period":1},{"flowControlKey":"l","rate":1,"period":2}]}`,
		},
		{
			"redacted",
			func() *posthaste.Message {
				m := plain()
				m.Body = []byte("\xff secret")
				m.Header = posthaste.Header{"Authorization": {"one", "two"}, "X-A": {"shown"}}
				m.Callback = &posthaste.Callback{URL: "https://c", Header: posthaste.Header{"Authorization": {"three"}}}
				m.Redact = posthaste.Redaction{Body: true, Names: []string{"Authorization"}}
				return m
			}(),
			`{"messageId":"msg_1","url":"https://a.b/?foo=bar&x=<y>","method":"POST",
			"header":{"Authorization":["` + sha("one") + `","` + sha("two") + `"],"X-A":["shown"]},
			"body":"` + sha("\xff secret") + `","maxRetries":3,"notBefore":1700000000000,"createdAt":1700000000000,
			"callback":"https://c","callbackHeader":{"Authorization":["` + sha("three") + `"]}}`,
		},
		{
			"all headers redacted, no body to redact",
			func() *posthaste.Message {
				m := plain()
				m.Header = posthaste.Header{"Content-Type": {"text/plain"}}
				m.Redact = posthaste.Redaction{Body: true, Headers: true}
				return m
			}(),
			`{"messageId":"msg_1","url":"https://a.b/?foo=bar&x=<y>","method":"POST","header":{"Content-Type":["` + sha("text/plain") + `"]},
			"maxRetries":3,"notBefore":1700000000000,"createdAt":1700000000000}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) { checkJSON(t, answer(wire.AppendMessage, tt.m), tt.want) })
	}
}

// A message that was made without a moment of its own is due when it was accepted.
func TestNotBeforeUnset(t *testing.T) {
	m := plain()
	m.NotBefore = time.Time{}
	if got, want := string(wire.AppendMessage(nil, m)), string(wire.AppendMessage(nil, plain())); got != want {
		t.Errorf("message: got %s, want %s", got, want)
	}
	answered := &posthaste.Attempt{Status: 204}
	if got, want := string(wire.AppendCallback(nil, m, answered, "")), string(wire.AppendCallback(nil, plain(), answered, "")); got != want {
		t.Errorf("callback: got %s, want %s", got, want)
	}
}

// Redaction changes what is shown and never what is stored.
func TestRedactionLeavesTheMessage(t *testing.T) {
	m := full()
	m.Redact = posthaste.Redaction{Body: true, Headers: true}
	wire.AppendMessage(nil, m)
	wire.AppendLogEntry(nil, &posthaste.LogEntry{Message: m, State: posthaste.StateActive})
	if m.Header["Content-Type"][0] != "text/plain" || m.Callback.Header["X-C"][0] != "3" || string(m.Body) != "hello" {
		t.Errorf("the message changed: %+v", m)
	}
}

func TestAppendDead(t *testing.T) {
	letter := func(last posthaste.Attempt) *posthaste.DeadLetter {
		return &posthaste.DeadLetter{ID: "1725323658779-0", Message: "msg_1", At: ms(1725323658779), Last: last}
	}
	const message = `"messageId":"msg_1","url":"https://a.b/?foo=bar&x=<y>","method":"POST","header":{},"maxRetries":3,"notBefore":1700000000000,"createdAt":1700000000000`
	for _, tt := range []struct {
		name string
		last posthaste.Attempt
		want string
	}{
		{"no answer", posthaste.Attempt{Error: "connection refused"}, `{"dlqId":"1725323658779-0",` + message + `,"responseStatus":0}`},
		{
			"text",
			posthaste.Attempt{Status: 404, Header: posthaste.Header{"X": {"y"}}, Body: []byte("nope")},
			`{"dlqId":"1725323658779-0",` + message + `,"responseStatus":404,"responseHeader":{"X":["y"]},"responseBody":"nope"}`,
		},
		{
			"bytes",
			posthaste.Attempt{Status: 500, Body: []byte("\xff")},
			`{"dlqId":"1725323658779-0",` + message + `,"responseStatus":500,"responseBodyBase64":"/w=="}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkJSON(t, answer(wire.AppendDead, wire.Dead{Letter: letter(tt.last), Message: plain()}), tt.want)
		})
	}
	checkJSON(t, func(dst []byte) []byte {
		return wire.AppendDeadPage(dst, []wire.Dead{{Letter: letter(posthaste.Attempt{}), Message: plain()}}, "1-2")
	}, `{"cursor":"1-2","messages":[{"dlqId":"1725323658779-0",`+message+`,"responseStatus":0}]}`)
}

func TestAppendLogEntry(t *testing.T) {
	const plainHead = `"messageId":"msg_1","state":"`
	const plainTail = `"method":"POST","header":{},`
	answered := &posthaste.Attempt{
		Status: 400, Error: "400 Bad Request", Header: posthaste.Header{"X": {"y"}}, Body: []byte("no"), NextAt: ms(9), State: posthaste.StateRetry,
	}
	for _, tt := range []struct {
		name string
		e    *posthaste.LogEntry
		want string
	}{
		{
			"created", &posthaste.LogEntry{At: ms(5), Message: plain(), State: posthaste.StateCreated},
			`{"time":5,` + plainHead + `CREATED","url":"https://a.b/?foo=bar&x=<y>",` + plainTail + `"maxRetries":3}`,
		},
		{
			"created with all", &posthaste.LogEntry{At: ms(5), Message: full(), State: posthaste.StateCreated},
			`{"time":5,"messageId":"msg_2","state":"CREATED","url":"https://a.b","nextDeliveryTime":1700000010000,"topicName":"g",
			"endpointName":"First endpoint","scheduleId":"scd_1","queueName":"q","api":"llm","method":"PUT",
			"header":{"Content-Type":["text/plain"],"X-A":["1","2"]},"body":"` + b64("hello") + `","timeout":90000,
			"callback":"https://c.d/?foo=bar","failureCallback":"https://e.f","callbackHeaders":{"X-C":["3"]},"failureCallbackHeaders":{"X-F":["4"]},
			"maxRetries":0,"retryDelayExpression":"1000","retryDelayExpr":"1000","label":"a","labels":["a","b"],
			"flowControlKey":"k","parallelism":3,"rate":5,"period":60,"priority":2,"callerIP":"203.0.113.7"}`,
		},
		{
			"error", &posthaste.LogEntry{At: ms(5), Message: plain(), State: posthaste.StateError, Attempt: answered},
			`{"time":5,` + plainHead + `ERROR","url":"https://a.b/?foo=bar&x=<y>","error":"400 Bad Request",` + plainTail +
				`"responseStatus":400,"responseBody":"` + b64("no") + `","responseHeaders":{"X":["y"]},"responseHeader":{"X":["y"]},"maxRetries":3}`,
		},
		{
			"failed without an answer",
			&posthaste.LogEntry{At: ms(5), Message: plain(), State: posthaste.StateFailed, Attempt: &posthaste.Attempt{Error: "context deadline exceeded"}},
			`{"time":5,` + plainHead + `FAILED","url":"https://a.b/?foo=bar&x=<y>","error":"context deadline exceeded",` + plainTail + `"responseStatus":0,"maxRetries":3}`,
		},
		{
			"retry", &posthaste.LogEntry{At: ms(5), Message: plain(), State: posthaste.StateRetry, Attempt: answered, NextAt: ms(12)},
			`{"time":5,` + plainHead + `RETRY","url":"https://a.b/?foo=bar&x=<y>","nextDeliveryTime":12,` + plainTail + `"maxRetries":3}`,
		},
		{
			"retry by its attempt", &posthaste.LogEntry{At: ms(5), Message: plain(), State: posthaste.StateRetry, Attempt: answered},
			`{"time":5,` + plainHead + `RETRY","url":"https://a.b/?foo=bar&x=<y>","nextDeliveryTime":9,` + plainTail + `"maxRetries":3}`,
		},
		{
			"delivered", &posthaste.LogEntry{At: ms(5), Message: plain(), State: posthaste.StateDelivered, Attempt: &posthaste.Attempt{Status: 200, Body: []byte("ok")}},
			`{"time":5,` + plainHead + `DELIVERED","url":"https://a.b/?foo=bar&x=<y>",` + plainTail + `"maxRetries":3}`,
		},
		{
			"cancelled", &posthaste.LogEntry{At: ms(5), Message: plain(), State: posthaste.StateCanceled},
			`{"time":5,` + plainHead + `CANCELED","url":"https://a.b/?foo=bar&x=<y>",` + plainTail + `"maxRetries":3}`,
		},
		{
			"redacted", &posthaste.LogEntry{At: ms(5), State: posthaste.StateActive, Message: func() *posthaste.Message {
				m := plain()
				m.Body = []byte("secret")
				m.Redact = posthaste.Redaction{Body: true}
				return m
			}()},
			`{"time":5,` + plainHead + `ACTIVE","url":"https://a.b/?foo=bar&x=<y>",` + plainTail + `"body":"` + sha("secret") + `","maxRetries":3}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) { checkJSON(t, answer(wire.AppendLogEntry, tt.e), tt.want) })
	}

	entry := &posthaste.LogEntry{At: ms(5), Message: plain(), State: posthaste.StateActive}
	one := string(wire.AppendLogEntry(nil, entry))
	page := []*posthaste.LogEntry{entry, entry}
	checkJSON(t, func(dst []byte) []byte { return wire.AppendEventPage(dst, page, "1-2") }, `{"cursor":"1-2","events":[`+one+`,`+one+`]}`)
	checkJSON(t, func(dst []byte) []byte { return wire.AppendLogPage(dst, page, "") }, `{"logs":[`+one+`,`+one+`],"events":[`+one+`,`+one+`]}`)
}

func TestAppendSchedule(t *testing.T) {
	bare := &wire.Schedule{
		ID: "scd_1", Cron: "* * * * *", Destination: "https://a.b", CreatedAt: ms(1), NextAt: ms(9),
		Template: &posthaste.Message{Method: "POST", MaxRetries: 3},
	}
	checkJSON(t, answer(wire.AppendSchedule, bare),
		`{"scheduleId":"scd_1","cron":"* * * * *","destination":"https://a.b","method":"POST","createdAt":1,"retries":3,"isPaused":false,"nextScheduleTime":9}`)

	m := full()
	m.Redact = posthaste.Redaction{Names: []string{"X-A"}}
	all := &wire.Schedule{
		ID: "scd_2", Cron: "* * * * *", Destination: "g", Template: m, CreatedAt: ms(1), Paused: true, LastAt: ms(5), NextAt: ms(9),
		LastStates: map[posthaste.MessageID]wire.ScheduleState{"msg_b": wire.ScheduleFail, "msg_a": wire.ScheduleInProgress},
		Upcoming:   []time.Time{ms(9), ms(12)},
		Error:      "topic g not found",
	}
	checkJSON(t, answer(wire.AppendSchedules, []*wire.Schedule{all}),
		`[{"scheduleId":"scd_2","cron":"* * * * *","destination":"g","method":"PUT","createdAt":1,"retries":0,"isPaused":true,
		"header":{"Content-Type":["text/plain"],"X-A":["`+sha("1")+`","`+sha("2")+`"]},"body":"hello","delay":10,"timeout":90000,
		"callback":"https://c.d/?foo=bar","failureCallback":"https://e.f","callbackHeader":{"X-C":["3"]},"failureCallbackHeader":{"X-F":["4"]},
		"queueName":"q","flowControlKey":"k","parallelism":3,"rate":5,"period":60,"priority":2,"retryDelayExpression":"1000","label":"a","labels":["a","b"],
		"callerIP":"203.0.113.7","callerIp":"203.0.113.7","lastScheduleTime":5,
		"lastScheduleStates":{"msg_a":"IN_PROGRESS","msg_b":"FAIL"},"error":"topic g not found","nextScheduleTimes":[9,12]}]`)
}

func TestAppendCallback(t *testing.T) {
	answered := &posthaste.Attempt{Number: 0, Status: 200, Header: posthaste.Header{"Content-Type": {"application/json"}}, Body: []byte(`{"ok":true}`)}
	m := &posthaste.Message{
		ID: "msg_1", URL: "https://api.example.com/x", Method: "POST", Header: posthaste.Header{"Content-Type": {"application/json"}},
		Body: []byte(`{"hello":"world"}`), MaxRetries: 3, NotBefore: ms(1701198458025), CreatedAt: ms(1701198447054), CallerIP: "203.0.113.7",
		Redact: posthaste.Redaction{Body: true, Headers: true},
	}
	checkJSON(t, func(dst []byte) []byte { return wire.AppendCallback(dst, m, answered, "") },
		`{"status":200,"header":{"Content-Type":["application/json"]},"body":"eyJvayI6dHJ1ZX0=","retried":0,"maxRetries":3,
		"sourceMessageId":"msg_1","url":"https://api.example.com/x","method":"POST","sourceHeader":{"Content-Type":["application/json"]},
		"sourceBody":"eyJoZWxsbyI6IndvcmxkIn0=","notBefore":1701198458025,"createdAt":1701198447054,"callerIP":"203.0.113.7"}`)

	refused := &posthaste.Attempt{Number: 2, Error: "connection refused"}
	checkJSON(t, func(dst []byte) []byte { return wire.AppendCallback(dst, full(), refused, "5-0") },
		`{"status":0,"header":{},"body":"`+b64("connection refused")+`","retried":2,"maxRetries":0,"dlqId":"5-0","sourceMessageId":"msg_2",
		"topicName":"g","endpointName":"First endpoint","url":"https://a.b","method":"PUT",
		"sourceHeader":{"Content-Type":["text/plain"],"X-A":["1","2"]},"sourceBody":"`+b64("hello")+`",
		"notBefore":1700000010000,"createdAt":1700000000000,"scheduleId":"scd_1","callerIP":"203.0.113.7"}`)

	checkJSON(t, func(dst []byte) []byte { return wire.AppendCallback(dst, plain(), &posthaste.Attempt{Status: 204}, "") },
		`{"status":204,"header":{},"body":"","retried":0,"maxRetries":3,"sourceMessageId":"msg_1","url":"https://a.b/?foo=bar&x=<y>","method":"POST",
		"sourceHeader":{},"sourceBody":"","notBefore":1700000000000,"createdAt":1700000000000,"callerIP":""}`)
}

// An answer without a body is not told as its error.
func TestAppendCallbackEmptyAnswer(t *testing.T) {
	got := string(wire.AppendCallback(nil, plain(), &posthaste.Attempt{Status: 500, Error: "500 Internal Server Error"}, ""))
	if !strings.HasPrefix(got, `{"status":500,"header":{},"body":"",`) {
		t.Errorf("got %s", got)
	}
}

// The redaction of a message holds for what its callbacks repeat of it, wherever those are shown.
func TestRedactedCallback(t *testing.T) {
	source := full()
	source.Body = []byte("secret")
	source.Header["Authorization"] = []string{"Bearer x"}
	body := wire.AppendCallback(nil, source, &posthaste.Attempt{Status: 200, Body: []byte("answer")}, "")
	callback := &posthaste.Message{
		ID: "msg_3", URL: "https://c", Method: "POST", Body: body, Source: source.ID, CreatedAt: ms(1), NotBefore: ms(1),
		Redact: posthaste.Redaction{Body: true, Names: []string{"Authorization"}},
	}
	for name, shown := range map[string][]byte{
		"message": wire.AppendMessage(nil, callback),
		"log":     wire.AppendLogEntry(nil, &posthaste.LogEntry{Message: callback, State: posthaste.StateActive}),
	} {
		var fields map[string]any
		if err := json.Unmarshal(shown, &fields); err != nil {
			t.Fatal(err)
		}
		inner, _ := fields["body"].(string)
		if name == "log" {
			decoded, err := base64.StdEncoding.DecodeString(inner)
			if err != nil {
				t.Fatal(err)
			}
			inner = string(decoded)
		}
		for _, want := range []string{sha("secret"), sha("Bearer x"), b64("answer"), `"Content-Type":["text/plain"]`} {
			if !strings.Contains(inner, want) {
				t.Errorf("%s: %s does not contain %s", name, inner, want)
			}
		}
		for _, secret := range []string{b64("secret"), "Bearer x"} {
			if strings.Contains(inner, secret) {
				t.Errorf("%s: %s contains %s", name, inner, secret)
			}
		}
	}

	callback.Redact = posthaste.Redaction{Headers: true}
	if shown := string(wire.AppendMessage(nil, callback)); !strings.Contains(shown, b64("secret")) || !strings.Contains(shown, sha("text/plain")) {
		t.Errorf("%s: redacted more or less than the headers", shown)
	}

	callback.Body = []byte("no callback's body")
	if shown := string(wire.AppendMessage(nil, callback)); !strings.Contains(shown, sha("no callback's body")) {
		t.Errorf("%s: an unreadable body was not redacted", shown)
	}
}

func FuzzAppendError(f *testing.F) {
	for _, s := range []string{"", "plain", "\"\\\x00\x1f\n\r\t\x7f", "é\u2028😀", "\xff\xfe", "a\xc3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var got struct{ Error string }
		if err := json.Unmarshal(wire.AppendError(nil, s), &got); err != nil {
			t.Fatal(err)
		}
		if want := strings.ToValidUTF8(s, "\ufffd"); strings.ReplaceAll(got.Error, "\ufffd", "") != strings.ReplaceAll(want, "\ufffd", "") {
			t.Errorf("got %q, want %q", got.Error, want)
		}
	})
}

func BenchmarkAppendPublished(b *testing.B) {
	b.ReportAllocs()
	buf := make([]byte, 0, 256)
	for b.Loop() {
		buf = wire.AppendPublished(buf[:0], wire.Published{ID: "msg_11111111111111111111111111"})
	}
}

func BenchmarkAppendLogEntry(b *testing.B) {
	b.ReportAllocs()
	e := &posthaste.LogEntry{At: ms(5), Message: full(), State: posthaste.StateCreated}
	buf := make([]byte, 0, 4096)
	for b.Loop() {
		buf = wire.AppendLogEntry(buf[:0], e)
	}
}

func BenchmarkAppendCallback(b *testing.B) {
	b.ReportAllocs()
	m, a := full(), &posthaste.Attempt{Status: 200, Header: posthaste.Header{"Content-Type": {"application/json"}, "Date": {"x"}}, Body: make([]byte, 200)}
	buf := make([]byte, 0, 4096)
	for b.Loop() {
		buf = wire.AppendCallback(buf[:0], m, a, "")
	}
}
