//go:build compat

package compat

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/posthaste/posthaste/internal/store/postgres/postgrestest"
)

// The tests of this file make the requests of the library for Go as net/http puts them on the wire, and read the answers
// into the types that it reads them into: another type of JSON value is an error for its users.

// header is a request header with one value for each name, as the library makes them.
type header map[string]string

// jsonType is what the library sends with every JSON body.
var jsonType = header{"Content-Type": "application/json"}

// call makes a request. The answer to one that is refused must be an error in JSON: the library decodes every such body.
func (s *server) call(t *testing.T, method, target string, h header, body string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	for name, value := range h {
		req.Header.Set(name, value)
	}
	client := &http.Client{
		Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return fmt.Errorf("%s %s was redirected", method, target)
		},
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if ct := res.Header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("%s %s: got content type %q, want JSON", method, target, ct)
	}
	if res.StatusCode >= http.StatusBadRequest {
		refusal := decode[map[string]any](t, data)
		if text, ok := refusal["error"].(string); !ok || text == "" || len(refusal) != 1 {
			t.Errorf("%s %s: got error %s, want one text", method, target, data)
		}
	}
	return res.StatusCode, data
}

// ok makes a request that must succeed.
func (s *server) ok(t *testing.T, method, target string, h header, body string) []byte {
	t.Helper()
	status, data := s.call(t, method, target, h, body)
	if status != http.StatusOK {
		t.Fatalf("%s %s: got status %d %s, want 200", method, target, status, data)
	}
	return data
}

// refused makes a request that must fail with an error that has text in it.
func (s *server) refused(t *testing.T, method, target string, h header, body string, want int, text string) {
	t.Helper()
	status, data := s.call(t, method, target, h, body)
	if status != want || !strings.Contains(decode[struct{ Error string }](t, data).Error, text) {
		t.Errorf("%s %s: got %d %s, want %d with %q", method, target, status, data, want, text)
	}
}

func decode[T any](t *testing.T, data []byte) (v T) {
	t.Helper()
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("decode %s: %v", data, err)
	}
	return v
}

func encode(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// eventually calls check until it returns no error.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

type published struct {
	MessageID    string `json:"messageId"`
	Deduplicated bool   `json:"deduplicated"`
	URL          string `json:"url"`
}

type message struct {
	MessageID            string      `json:"messageId"`
	EndpointName         string      `json:"endpointName"`
	URL                  string      `json:"url"`
	URLGroup             string      `json:"urlGroup"`
	Method               string      `json:"method"`
	Header               http.Header `json:"header"`
	Body                 string      `json:"body"`
	MaxRetries           int32       `json:"maxRetries"`
	NotBefore            int64       `json:"notBefore"`
	CreatedAt            int64       `json:"createdAt"`
	CallerIP             string      `json:"callerIP"`
	QueueName            string      `json:"queueName"`
	FlowControlKey       string      `json:"flowControlKey"`
	Parallelism          *int        `json:"parallelism"`
	Rate                 *int        `json:"rate"`
	Period               *int        `json:"period"`
	Label                string      `json:"label"`
	Labels               []string    `json:"labels"`
	RetryDelayExpression string      `json:"retryDelayExpression"`
}

type event struct {
	Time             int64  `json:"time"`
	MessageID        string `json:"messageId"`
	State            string `json:"state"`
	Error            string `json:"error"`
	NextDeliveryTime int64  `json:"nextDeliveryTime"`
	URL              string `json:"url"`
	URLGroup         string `json:"topicName"`
	QueueName        string `json:"queueName"`
	ScheduleID       string `json:"scheduleId"`
}

type deadLetter struct {
	message
	DLQID           string      `json:"dlqId"`
	ResponseStatus  int         `json:"responseStatus"`
	ResponseHeaders http.Header `json:"responseHeader"`
	ResponseBody    string      `json:"responseBody"`
}

type group struct {
	Name      string     `json:"name"`
	CreatedAt int64      `json:"createdAt"`
	UpdatedAt int64      `json:"updatedAt"`
	Endpoints []endpoint `json:"endpoints"`
}

type endpoint struct {
	URL  string `json:"url"`
	Name string `json:"name,omitempty"`
}

type queue struct {
	Name        string `json:"name"`
	Parallelism int    `json:"parallelism"`
	CreatedAt   int64  `json:"createdAt"`
	UpdatedAt   int64  `json:"updatedAt"`
	Lag         int64  `json:"lag"`
	IsPaused    bool   `json:"paused"`
}

type schedule struct {
	ID          string      `json:"scheduleId"`
	CreatedAt   int64       `json:"createdAt"`
	Cron        string      `json:"cron"`
	Destination string      `json:"destination"`
	Method      string      `json:"method"`
	Header      http.Header `json:"header"`
	Body        string      `json:"body"`
	Retries     int32       `json:"retries"`
	Delay       int32       `json:"delay"`
	CallerIP    string      `json:"callerIP"`
	IsPaused    bool        `json:"isPaused"`
}

type keys struct {
	Current string `json:"current"`
	Next    string `json:"next"`
}

// publish publishes to a destination, which may be percent-encoded, and returns the id of the only message.
func (s *server) publish(t *testing.T, destination string, h header, body string) string {
	t.Helper()
	return decode[published](t, s.ok(t, http.MethodPost, "/v2/publish/"+destination, h, body)).MessageID
}

func (s *server) message(t *testing.T, id string) message {
	t.Helper()
	return decode[message](t, s.ok(t, http.MethodGet, "/v2/messages/"+id, nil, ""))
}

func (s *server) events(t *testing.T, query string) []event {
	t.Helper()
	return decode[struct {
		Cursor string
		Events []event
	}](t, s.ok(t, http.MethodGet, "/v2/events?"+query, nil, "")).Events
}

// deadLetters waits for as many dead letters of a message as there are ids, and returns them in that order.
func (s *server) deadLetters(t *testing.T, ids ...string) []deadLetter {
	t.Helper()
	var dead []deadLetter
	for _, id := range ids {
		eventually(t, func() error {
			page := decode[struct{ Messages []deadLetter }](t, s.ok(t, http.MethodGet, "/v2/dlq?messageId="+id, nil, ""))
			if len(page.Messages) != 1 {
				return fmt.Errorf("got %d dead letters of %s, want 1", len(page.Messages), id)
			}
			dead = append(dead, page.Messages[0])
			return nil
		})
	}
	return dead
}

// later keeps a message from being delivered during a test.
var later = header{"Upstash-Delay": "1h"}

func with(h header, name, value string) header {
	more := header{name: value}
	maps.Copy(more, h)
	return more
}

func TestGoMessages(t *testing.T) {
	t.Parallel()
	s := start(t)
	received := make(chan *http.Request, 10)
	target := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { received <- r }))
	t.Cleanup(target.Close)

	// The library adds no content type of its own, and neither does the server.
	id := s.publish(t, "http://example.com", header{"Upstash-Forward-Test-Header": "test-value", "Upstash-Retries": "0", "Upstash-Delay": "10s"}, "test-body")
	m := s.message(t, id)
	if m.Body != "test-body" || m.URL != "http://example.com" || m.MaxRetries != 0 || m.NotBefore-m.CreatedAt != 10_000 {
		t.Errorf("got message %+v", m)
	}
	if want := (http.Header{"Test-Header": {"test-value"}}); !reflect.DeepEqual(m.Header, want) {
		t.Errorf("got header %v, want %v", m.Header, want)
	}
	s.ok(t, http.MethodDelete, "/v2/messages/"+id, nil, "")

	id = s.publish(t, target.URL+"/path?a=b", header{"Upstash-Forward-Test-Header": "test-value"}, "test-body")
	r := <-received
	if r.URL.String() != "/path?a=b" || r.Header.Get("Test-Header") != "test-value" || r.Header["Content-Type"] != nil {
		t.Errorf("got %s with header %v", r.URL, r.Header)
	}
	eventually(t, func() error {
		if events := s.events(t, "messageId="+id+"&state=DELIVERED"); len(events) != 1 {
			return fmt.Errorf("got %d entries, want 1", len(events))
		}
		return nil
	})

	item := func(url, queue string) map[string]any {
		return map[string]any{"destination": url, "headers": header{"Upstash-Forward-A": "1"}, "body": "hi", "queue": queue}
	}
	batch := decode[[]published](t, s.ok(t, http.MethodPost, "/v2/batch", jsonType,
		encode(t, []any{item(target.URL+"/1", ""), item(target.URL+"/2", "go-queue")})))
	if len(batch) != 2 || batch[0].MessageID == "" || s.message(t, batch[1].MessageID).QueueName != "go-queue" {
		t.Errorf("got %+v", batch)
	}
	<-received
	<-received

	enqueued := decode[published](t, s.ok(t, http.MethodPost, "/v2/enqueue/go-queue/"+target.URL+"/3", nil, "body"))
	if <-received; enqueued.MessageID == "" {
		t.Errorf("got %+v", enqueued)
	}

	// Answers to bulk calls are read as numbers by name: a value of another type is an error.
	cancelled := func(body string) int {
		return decode[map[string]int](t, s.ok(t, http.MethodDelete, "/v2/messages", jsonType, body))["cancelled"]
	}
	var ids []string
	for range 10 {
		ids = append(ids, s.publish(t, "https://example.com", later, ""))
	}
	if got := cancelled(encode(t, map[string][]string{"messageIds": ids[:5]})); got != 5 {
		t.Errorf("got %d cancelled, want 5", got)
	}
	if got := cancelled(""); got != 5 { // which is how the library cancels all
		t.Errorf("got %d cancelled, want 5", got)
	}
	if got := cancelled(`{"messageIds":null}`); got != 0 {
		t.Errorf("got %d cancelled, want 0", got)
	}

	s.refused(t, http.MethodGet, "/v2/messages/msg_none", nil, "", 404, "message msg_none not found")
	s.refused(t, http.MethodPost, "/v2/publish/api/llm", header{"Upstash-Callback": target.URL}, "{}", 400, "api llm is not enabled")
	s.refused(t, http.MethodPost, "/v2/publish/", nil, "test-body", 400, "a non-empty destination must be provided")
	s.refused(t, http.MethodPost, "/v2/publish/non_existing_url_group", nil, "test-body", 404, "topic non_existing_url_group not found")
}

func TestGoEvents(t *testing.T) {
	t.Parallel()
	s := start(t)
	target := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(target.Close)
	from := time.Now().UnixMilli()
	for range 100 {
		s.publish(t, target.URL, header{"Upstash-Retries": "0", "Content-Type": "application/json"}, "null")
	}
	eventually(t, func() error {
		events := s.events(t, fmt.Sprintf("fromDate=%d", from))
		if len(events) != 400 {
			return fmt.Errorf("got %d entries of 100 failed messages, want 400 on one page", len(events))
		}
		count := map[string]int{}
		for _, e := range events {
			count[e.State]++
			if failed := e.State == "ERROR" || e.State == "FAILED"; failed != (e.Error == "404 Not Found") {
				t.Errorf("got error %q for state %s", e.Error, e.State)
			}
		}
		if want := (map[string]int{"CREATED": 100, "ACTIVE": 100, "ERROR": 100, "FAILED": 100}); !reflect.DeepEqual(count, want) {
			t.Errorf("got %v, want %v", count, want)
		}
		return nil
	})
	// A filter that the service has no more, and the library still sends.
	if got := len(s.events(t, fmt.Sprintf("api=llm&fromDate=%d&count=7", from))); got != 7 {
		t.Errorf("got %d entries, want 7", got)
	}
}

func TestGoDeadLetters(t *testing.T) {
	t.Parallel()
	s := start(t)
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, "404 Not Found")
	}))
	t.Cleanup(target.Close)
	from := time.Now().UnixMilli()
	var messages []string
	for range 4 {
		messages = append(messages, s.publish(t, target.URL, header{"Upstash-Retries": "1", "Upstash-Retry-Delay": "1"}, ""))
	}
	var ids []string
	for _, d := range s.deadLetters(t, messages...) {
		if d.ResponseBody != "404 Not Found" || d.ResponseStatus != 404 || d.MaxRetries != 1 {
			t.Errorf("got dead letter %+v", d)
		}
		if got := decode[deadLetter](t, s.ok(t, http.MethodGet, "/v2/dlq/"+d.DLQID, nil, "")); !reflect.DeepEqual(got, d) {
			t.Errorf("got %+v, want %+v", got, d)
		}
		ids = append(ids, d.DLQID)
	}
	list := decode[struct{ Messages []deadLetter }](t, s.ok(t, http.MethodGet,
		fmt.Sprintf("/v2/dlq?api=llm&callerIp=127.0.0.1&count=100&fromDate=%d&responseStatus=404", from), nil, ""))
	if len(list.Messages) != len(ids) {
		t.Errorf("got %d dead letters, want %d", len(list.Messages), len(ids))
	}
	deleted := func(body string) int {
		return decode[map[string]int](t, s.ok(t, http.MethodDelete, "/v2/dlq", jsonType, body))["deleted"]
	}
	s.ok(t, http.MethodDelete, "/v2/dlq/"+ids[0], nil, "")
	s.refused(t, http.MethodDelete, "/v2/dlq/"+ids[0], nil, "", 404, "dlq message "+ids[0]+" not found")
	if got := deleted(`{"dlqIds":[]}`); got != 0 {
		t.Errorf("got %d deleted, want 0", got)
	}
	if got := deleted(encode(t, map[string][]string{"dlqIds": ids})); got != 3 {
		t.Errorf("got %d deleted, want 3", got)
	}
	// What would mean all if it were ignored is refused where it destroys.
	s.refused(t, http.MethodDelete, "/v2/dlq?api=llm", nil, "", 400, "api")
	s.refused(t, http.MethodDelete, "/v2/messages?api=llm", nil, "", 400, "api")
}

func TestGoURLGroups(t *testing.T) {
	t.Parallel()
	s := start(t)
	now := time.Now().UnixMilli()
	const path = "/v2/topics/go_url_group"
	s.ok(t, http.MethodDelete, path, nil, "")
	endpoints := []endpoint{{"https://example.com", "First endpoint"}, {"https://example.net", "Second endpoint"}}
	s.ok(t, http.MethodPost, path+"/endpoints", jsonType, encode(t, map[string]any{"endpoints": endpoints}))
	g := decode[group](t, s.ok(t, http.MethodGet, path, nil, ""))
	if g.Name != "go_url_group" || !slices.Equal(g.Endpoints, endpoints) || g.CreatedAt < now || g.UpdatedAt < now {
		t.Errorf("got %+v", g)
	}
	if list := decode[[]group](t, s.ok(t, http.MethodGet, "/v2/topics", nil, "")); len(list) != 1 || list[0].Name != g.Name {
		t.Errorf("got groups %+v", list)
	}
	for _, target := range []string{"/v2/publish/go_url_group", "/v2/enqueue/go-queue/go_url_group"} {
		h := later
		if strings.Contains(target, "enqueue") {
			s.ok(t, http.MethodPost, "/v2/queues", jsonType, `{"queueName":"go-queue","parallelism":1,"paused":true}`)
			h = nil
		}
		results := decode[[]published](t, s.ok(t, http.MethodPost, target, h, "test-body"))
		if len(results) != 2 || results[0].URL != "https://example.com" || results[1].URL != "https://example.net" {
			t.Fatalf("got %+v", results)
		}
		if m := s.message(t, results[1].MessageID); m.URLGroup != "go_url_group" || m.EndpointName != "Second endpoint" {
			t.Errorf("got message %+v", m)
		}
	}
	mixed := decode[[]json.RawMessage](t, s.ok(t, http.MethodPost, "/v2/batch", jsonType,
		`[{"destination":"go_url_group","headers":{"Upstash-Delay":"1h"},"body":"","queue":""},
		  {"destination":"https://example.com","headers":{"Upstash-Delay":"1h"},"body":"","queue":""}]`))
	if len(mixed) != 2 || len(decode[[]published](t, mixed[0])) != 2 || decode[published](t, mixed[1]).MessageID == "" {
		t.Errorf("got %s", mixed)
	}
	s.ok(t, http.MethodDelete, path+"/endpoints", jsonType, `{"endpoints":[{"url":"https://example.net"}]}`)
	if g := decode[group](t, s.ok(t, http.MethodGet, path, nil, "")); !slices.Equal(g.Endpoints, endpoints[:1]) {
		t.Errorf("got %+v", g)
	}
	if n := decode[map[string]int](t, s.ok(t, http.MethodDelete, "/v2/messages?urlGroup=go_url_group", nil, ""))["cancelled"]; n != 6 {
		t.Errorf("got %d cancelled by the name that older clients send, want 6", n)
	}
	s.ok(t, http.MethodDelete, path, nil, "")
	s.refused(t, http.MethodGet, path, nil, "", 404, "topic go_url_group not found")
}

func TestGoQueues(t *testing.T) {
	t.Parallel()
	s := start(t)
	get := func() queue { return decode[queue](t, s.ok(t, http.MethodGet, "/v2/queues/test-queue", nil, "")) }
	upsert := func(parallelism int, paused bool) {
		s.ok(t, http.MethodPost, "/v2/queues", jsonType,
			encode(t, map[string]any{"queueName": "test-queue", "parallelism": parallelism, "paused": paused}))
	}
	upsert(1, false)
	if q := get(); q.Name != "test-queue" || q.Parallelism != 1 || q.IsPaused {
		t.Errorf("got %+v", q)
	}
	upsert(2, false)
	if list := decode[[]queue](t, s.ok(t, http.MethodGet, "/v2/queues", nil, "")); len(list) != 1 || list[0].Parallelism != 2 {
		t.Errorf("got queues %+v", list)
	}
	for _, step := range []struct {
		do   func()
		want bool
	}{
		{func() { s.ok(t, http.MethodPost, "/v2/queues/test-queue/pause", nil, "") }, true},
		{func() { s.ok(t, http.MethodPost, "/v2/queues/test-queue/resume", nil, "") }, false},
		{func() { upsert(1, true) }, true},
		{func() { upsert(1, false) }, false},
	} {
		if step.do(); get().IsPaused != step.want {
			t.Errorf("got %+v, want paused %v", get(), step.want)
		}
	}
	s.ok(t, http.MethodDelete, "/v2/queues/test-queue", nil, "")
	if got := s.ok(t, http.MethodGet, "/v2/queues", nil, ""); string(got) != "[]" {
		t.Errorf("got queues %s, want none", got)
	}
}

func TestGoSchedules(t *testing.T) {
	t.Parallel()
	s := start(t)
	create := func(target string, h header, body string) string {
		return decode[struct {
			ScheduleID string `json:"scheduleId"`
		}](t, s.ok(t, http.MethodPost, target, with(h, "Upstash-Cron", "1 1 1 1 1"), body)).ScheduleID
	}
	id := create("/v2/schedules/https://example.com", jsonType, `{"ex_key":"ex_value"}`)
	get := func() schedule { return decode[schedule](t, s.ok(t, http.MethodGet, "/v2/Schedules/"+id, nil, "")) }
	got := get()
	if got.ID != id || got.Cron != "1 1 1 1 1" || got.Destination != "https://example.com" || got.Body != `{"ex_key":"ex_value"}` || got.IsPaused {
		t.Errorf("got %+v", got)
	}
	// This one is spelt with a capital, and sends no content type.
	other := create("/v2/Schedules/https://example.com/path?a=b", header{"Upstash-Forward-Test-Header": "test-value", "Upstash-Delay": "10s"}, "raw")
	list := decode[[]schedule](t, s.ok(t, http.MethodGet, "/v2/schedules", nil, ""))
	if len(list) != 2 || list[0].ID != id || list[1].ID != other {
		t.Fatalf("got %+v", list)
	}
	if o := list[1]; o.Destination != "https://example.com/path?a=b" || o.Delay != 10 || !reflect.DeepEqual(o.Header, http.Header{"Test-Header": {"test-value"}}) {
		t.Errorf("got %+v", o)
	}
	for _, method := range []string{http.MethodPatch, http.MethodPost, http.MethodPut} {
		for action, paused := range map[string]bool{"pause": true, "resume": false} {
			if s.ok(t, method, "/v2/schedules/"+id+"/"+action, nil, ""); get().IsPaused != paused {
				t.Errorf("%s %s: got %+v", method, action, get())
			}
		}
	}
	s.ok(t, http.MethodDelete, "/v2/schedules/"+id, nil, "")
	s.refused(t, http.MethodGet, "/v2/Schedules/"+id, nil, "", 404, "schedule "+id+" not found")
	// A destination has a scheme, so this creates a schedule and pauses none.
	if create("/v2/schedules/https://example.com/pause", nil, "") == "" {
		t.Error("got no id")
	}
}

func TestGoKeys(t *testing.T) {
	t.Parallel()
	s := start(t)
	if got, want := decode[keys](t, s.ok(t, http.MethodGet, "/v2/keys", nil, "")), (keys{s.current, s.next}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	rotated := decode[keys](t, s.ok(t, http.MethodPost, "/v2/rotate", nil, ""))
	if rotated.Current != s.next || !regexp.MustCompile(`^sig_[1-9A-HJ-NP-Za-km-z]{28}$`).MatchString(rotated.Next) {
		t.Errorf("got %+v", rotated)
	}
}

func TestDestinations(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.ok(t, http.MethodPost, "/v2/topics/my-group.v2/endpoints", jsonType, `{"endpoints":[{"url":"https://member.example"}]}`)
	s.ok(t, http.MethodPost, "/v2/queues", jsonType, `{"queueName":"my-q","paused":true}`)
	token := "qstash_token=" + strings.ReplaceAll(s.token, "=", "%3D")
	for _, tt := range []struct {
		target  string
		want    string // the URL of the message
		retries int32
	}{
		{"/v2/publish/https://example.com", "https://example.com", 3},
		{"/v2/publish/https://example.com/?foo=bar", "https://example.com/?foo=bar", 3},
		{"/v2/publish/https://a.b/x%20y?q=%2F&z", "https://a.b/x%20y?q=%2F&z", 3},
		{"/v2/publish/https://a.b/h?" + token + "&upstash-retries=5&k=v", "https://a.b/h?k=v", 5},
		{"/v2/publish/https://a.b/h?upstash-delay=100s", "https://a.b/h", 3},
		{"/v2/publish/https%3A%2F%2Fa.b%2Fh%3Fk%3Dv", "https://a.b/h?k=v", 3},
		{"/v2/publish/https:/a.b/h", "https://a.b/h", 3},
		{"/v2/publish/HTTP://a.b", "HTTP://a.b", 3},
		{"/v2/publish/https://a.b//c//d/../e?x=http://y//z", "https://a.b//c//d/../e?x=http://y//z", 3},
		{"/V2/Publish/https://a.b", "https://a.b", 3},
		{"/v2/publish/my-group.v2?x=1", "https://member.example", 3},
		{"/v2/enqueue/my%2Dq/https://a.b//c//d", "https://a.b//c//d", 3},
	} {
		h := later
		if strings.HasPrefix(tt.target, "/v2/enqueue") || strings.Contains(tt.target, "upstash-delay") {
			h = nil
		}
		data := s.ok(t, http.MethodPost, tt.target, h, "")
		if !bytes.HasPrefix(data, []byte("[")) {
			data = slices.Concat([]byte("["), data, []byte("]"))
		}
		m := s.message(t, decode[[]published](t, data)[0].MessageID)
		if m.URL != tt.want || m.MaxRetries != tt.retries {
			t.Errorf("%s: got %s with %d retries, want %s with %d", tt.target, m.URL, m.MaxRetries, tt.want, tt.retries)
		}
		if strings.Contains(tt.target, "upstash-delay") && m.NotBefore-m.CreatedAt != 100_000 {
			t.Errorf("%s: got %d ms of delay", tt.target, m.NotBefore-m.CreatedAt)
		}
		s.ok(t, http.MethodDelete, "/v2/messages", nil, "")
	}
	for target, text := range map[string]string{
		"/v2/publish/":          "a non-empty destination must be provided",
		"/v2/publish":           "a non-empty destination must be provided",
		"/v2/enqueue/q/":        "a non-empty destination must be provided",
		"/v2/publish/ftp://a.b": "invalid destination url: endpoint has invalid scheme, add http:// or https://",
		"/v2/publish/a.b/c":     "invalid destination url: endpoint has invalid scheme, add http:// or https://",
		"/v2/publish/http://":   "invalid destination url",
	} {
		s.refused(t, http.MethodPost, target, nil, "", 400, text)
	}
	s.refused(t, http.MethodPost, "/v2/publish/nogroup", nil, "", 404, "topic nogroup not found")
}

func TestValues(t *testing.T) {
	t.Parallel()
	s := start(t)
	show := func(v *int) string {
		if v == nil {
			return "-"
		}
		return fmt.Sprint(*v)
	}
	const flowKey = "Upstash-Flow-Control-Key"
	for _, tt := range []struct {
		h    header
		want string // of what the message shows, or the text of the refusal
		get  func(m message) string
	}{
		{header{"Upstash-Delay": "50s"}, "50", delay},
		{header{"Upstash-Delay": "1d10h30m"}, "124200", delay},
		{header{"Upstash-Delay": "1h30m3s"}, "5403", delay},
		{header{"Upstash-Delay": "10"}, `invalid Upstash-Delay header: time: missing unit in duration "10"`, nil},
		{header{"Upstash-Delay": "abc"}, "invalid Upstash-Delay header: ", nil},
		{header{"Upstash-Delay": "-5s"}, "invalid Upstash-Delay header: ", nil},
		{header{"Upstash-Not-Before": "4000000000"}, "4000000000000", func(m message) string { return fmt.Sprint(m.NotBefore) }},
		{header{"Upstash-Not-Before": "4000000000", "Upstash-Delay": "1s"}, "4000000000000", func(m message) string { return fmt.Sprint(m.NotBefore) }},
		{header{"Upstash-Not-Before": "soon"}, "invalid Upstash-Not-Before header: ", nil},
		{header{flowKey: "k", "Upstash-Flow-Control-Value": "parallelism=3, rate=5, period=1m"}, "3 5 60", nil},
		{header{flowKey: "k", "Upstash-Flow-Control-Value": "rate=1"}, "- 1 1", nil},
		{header{flowKey: "k", "Upstash-Flow-Control-Value": "parallelism=5"}, "5 - 1", nil},
		{header{flowKey: "k", "Upstash-Flow-Control-Value": "Rate=10,Parallelism=2"}, "2 10 1", nil},
		{header{flowKey: "k", "Upstash-Flow-Control-Value": "period=8d,rate=1"}, "invalid Upstash-Flow-Control-Value header: ", nil},
		{header{flowKey: "k", "Upstash-Flow-Control-Value": "rate=0"}, "invalid Upstash-Flow-Control-Value header: ", nil},
		{header{flowKey: "k", "Upstash-Flow-Control-Value": "foo=1"}, "invalid Upstash-Flow-Control-Value header: ", nil},
		{header{flowKey: "k", "Upstash-Flow-Control-Value": "period=1m"}, "invalid Upstash-Flow-Control-Value header: ", nil},
		{header{"Upstash-Label": "a, b,,c"}, "a [a b c]", func(m message) string { return fmt.Sprint(m.Label, " ", m.Labels) }},
		{header{"Upstash-Retries": "0"}, "0", func(m message) string { return fmt.Sprint(m.MaxRetries) }},
		{header{"Upstash-Retries": "-1"}, "invalid Upstash-Retries header: ", nil},
		{header{"Upstash-Retries": "3.5"}, "invalid Upstash-Retries header: ", nil},
		{header{"Upstash-Retries": "abc"}, "invalid Upstash-Retries header: ", nil},
		{header{"Upstash-Deduplication-Id": "a:b"}, "DeduplicationId cannot contain ':'", nil},
		{header{"Upstash-Retry-Delay": "max(1000, pow(2, retried) * 100)"}, "max(1000, pow(2, retried) * 100)", func(m message) string { return m.RetryDelayExpression }},
		{header{"Upstash-Retry-Delay": "tries * 2"}, "invalid Upstash-Retry-Delay header: ", nil},
		{header{"Upstash-Method": "patch"}, "PATCH", func(m message) string { return m.Method }},
		{header{"Upstash-Method": "BREW"}, "invalid Upstash-Method header: ", nil},
		{
			header{"Upstash-Redact-Fields": "header[Authorization], headers[x-k]", "Upstash-Forward-Authorization": "1", "Upstash-Forward-X-K": "2", "Upstash-Forward-Open": "3"},
			"REDACTED REDACTED 3",
			func(m message) string {
				cut := func(name string) string { s, _, _ := strings.Cut(m.Header.Get(name), ":"); return s }
				return cut("Authorization") + " " + cut("X-K") + " " + cut("Open")
			},
		},
	} {
		h := tt.h
		if h["Upstash-Delay"] == "" && h["Upstash-Not-Before"] == "" {
			h = with(h, "Upstash-Delay", "1h")
		}
		status, data := s.call(t, http.MethodPost, "/v2/publish/https://example.com", h, "")
		get := tt.get
		if h[flowKey] != "" && !strings.HasPrefix(tt.want, "invalid") {
			get = func(m message) string { return show(m.Parallelism) + " " + show(m.Rate) + " " + show(m.Period) }
		}
		if get == nil {
			if got := decode[struct{ Error string }](t, data).Error; status != http.StatusBadRequest || !strings.HasPrefix(got, tt.want) {
				t.Errorf("%v: got %d %q, want 400 %q", tt.h, status, got, tt.want)
			}
			continue
		}
		if status != http.StatusOK {
			t.Errorf("%v: got %d %s, want 200", tt.h, status, data)
			continue
		}
		if got := get(s.message(t, decode[published](t, data).MessageID)); got != tt.want {
			t.Errorf("%v: got %q, want %q", tt.h, got, tt.want)
		}
	}
	s.ok(t, http.MethodDelete, "/v2/messages", nil, "")
}

func delay(m message) string { return fmt.Sprint((m.NotBefore - m.CreatedAt) / 1000) }

// TestRetryDelays looks at when the server means to try again, which the log says, and waits for none of it.
func TestRetryDelays(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	answers := map[string]http.Header{}
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		maps.Copy(w.Header(), answers[r.URL.Path])
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	t.Cleanup(target.Close)
	servers := map[string]*server{}
	for _, preset := range []string{"standard", "hosted"} {
		servers[preset] = start(t, "--preset", preset)
	}
	for _, tt := range []struct {
		preset string
		answer [2]string // a header of the destination's answer
		h      header
		want   time.Duration
	}{
		{"standard", [2]string{}, nil, 10 * time.Second},
		{"hosted", [2]string{}, nil, 12182 * time.Millisecond},
		{"standard", [2]string{"Retry-After", "100"}, nil, 100 * time.Second},
		{"standard", [2]string{"Retry-After", "6m5s"}, nil, 365 * time.Second},
		{"standard", [2]string{"Retry-After", "90000"}, nil, 10 * time.Second},
		{"standard", [2]string{"Retry-After", "soon"}, nil, 10 * time.Second},
		{"standard", [2]string{"Retry-After", "soon"}, header{"Upstash-Retry-Delay": "7000"}, 7 * time.Second},
		{"standard", [2]string{"Retry-After", "100"}, header{"Upstash-Retry-Delay": "7000"}, 100 * time.Second},
		{"standard", [2]string{"X-Ratelimit-Reset", "50"}, nil, 50 * time.Second},
		{"standard", [2]string{"X-Ratelimit-Reset-Requests", "40s"}, nil, 40 * time.Second},
		{"standard", [2]string{"X-Ratelimit-Reset-Tokens", "1m"}, nil, 60 * time.Second},
		{"standard", [2]string{"X-Ratelimit-Reset", fmt.Sprint(time.Now().Unix() + 50)}, nil, 10 * time.Second},
		{"standard", [2]string{"Retry-After", time.Now().UTC().Add(time.Hour).Format(http.TimeFormat)}, nil, time.Hour},
		{"standard", [2]string{}, header{"Upstash-Retry-Delay": "pow(2, retried) * 30000"}, 30 * time.Second},
		{"standard", [2]string{}, header{"Upstash-Retry-Delay": "1000000000"}, 24 * time.Hour},
	} {
		t.Run(fmt.Sprint(tt.preset, tt.answer, tt.h), func(t *testing.T) {
			s := servers[tt.preset]
			path := "/" + regexp.MustCompile(`\W+`).ReplaceAllString(t.Name(), "-")
			if tt.answer[0] != "" {
				mu.Lock()
				answers[path] = http.Header{tt.answer[0]: {tt.answer[1]}}
				mu.Unlock()
			}
			id := s.publish(t, target.URL+path, tt.h, "")
			eventually(t, func() error {
				events := s.events(t, "state=RETRY&messageId="+id)
				if len(events) != 1 {
					return fmt.Errorf("got %d retries, want 1", len(events))
				}
				got := time.Duration(events[0].NextDeliveryTime-events[0].Time) * time.Millisecond
				tolerance := time.Second // for what passes between the answer and the entry
				if tt.want == time.Hour {
					tolerance = 10 * time.Second // the date was made before the first of these cases ran
				}
				if got < tt.want-tolerance || got > tt.want+tolerance {
					t.Errorf("got a retry in %v, want %v", got, tt.want)
				}
				return nil
			})
			s.ok(t, http.MethodDelete, "/v2/messages/"+id, nil, "")
		})
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	s := start(t)
	get := func(method, target string, h header, body string) string {
		status, data := s.call(t, method, target, h, body)
		return fmt.Sprint(status, " ", string(data))
	}
	for _, tt := range []struct{ method, target, body, want string }{
		{http.MethodDelete, "/v2/topics/none", "", "200 {}"},
		{http.MethodDelete, "/v2/queues/none", "", "200 {}"},
		{http.MethodDelete, "/v2/schedules/none", "", "200 {}"},
		{http.MethodDelete, "/v2/dlq/1-0", "", `404 {"error":"dlq message 1-0 not found"}`},
		{http.MethodDelete, "/v2/dlq?dlqIds=1-0", "", `200 {"deleted":0}`},
		{http.MethodDelete, "/v2/dlq?labeel=x", "", `400 {"error":"invalid query parameter: labeel"}`},
		{http.MethodGet, "/v2/events?label=none&unknown=x", "", `200 {"events":[]}`},
		{http.MethodGet, "/v2/logs?label=none", "", `200 {"logs":[],"events":[]}`},
		{http.MethodGet, "/v2/dlq?label=none", "", `200 {"messages":[]}`},
		{http.MethodGet, "/v2/queues/", "", "200 []"},
		{http.MethodGet, "/v2/topics/", "", "200 []"},
		{http.MethodGet, "/v2/schedules/", "", "200 []"},
		{http.MethodGet, "/v2/flowControl/", "", "200 []"},
		{http.MethodDelete, "/v2/messages/", "", `200 {"cancelled":0}`},
		{http.MethodDelete, "/v2/messages", "{}", `200 {"cancelled":0}`},
		{http.MethodPost, "/v2/batch", "[]", "200 []"},
	} {
		if got := get(tt.method, tt.target, nil, tt.body); got != tt.want {
			t.Errorf("%s %s: got %s, want %s", tt.method, tt.target, got, tt.want)
		}
	}
	if got := get(http.MethodPost, "/v2/dlq/retry?label=none", nil, ""); got != `201 {"cursor":"","responses":[]}` && got != `201 {"responses":[]}` {
		t.Errorf("got %s", got)
	}
	if got, want := get(http.MethodGet, "/v2/keys", header{"Authorization": "Bearer bad"}, ""), `401 {"error":"unable to authenticate: invalid token"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if status, data := s.call(t, http.MethodPost, "/v2/batch", nil, `[{"destination":"nope://x"}]`); status != http.StatusBadRequest {
		t.Errorf("got %d %s, want 400", status, data)
	}

	dedup := with(later, "Upstash-Deduplication-Id", "once")
	first := get(http.MethodPost, "/v2/publish/https://example.com", dedup, "")
	id := regexp.MustCompile(`^200 \{"messageId":"(msg_\w+)"\}$`).FindStringSubmatch(first)
	if id == nil {
		t.Fatalf("got %s", first)
	}
	if got, want := get(http.MethodPost, "/v2/publish/https://example.com", dedup, ""), `202 {"messageId":"`+id[1]+`","deduplicated":true}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	s.ok(t, http.MethodPost, "/v2/topics/two/endpoints", jsonType, `{"endpoints":[{"url":"https://a"},{"url":"https://b"}]}`)
	two := regexp.MustCompile(`^\[\{"messageId":"msg_\w+","url":"https://a"\},\{"messageId":"msg_\w+","url":"https://b"\}\]$`)
	if got := s.ok(t, http.MethodPost, "/v2/publish/two", later, ""); !two.Match(got) {
		t.Errorf("got %s", got)
	}
	mixed := regexp.MustCompile(`^\[\[\{"messageId":"msg_\w+","url":"https://a"\},\{[^}]*\}\],\{"messageId":"msg_\w+"\}\]$`)
	item := `{"destination":"%s","headers":{"Upstash-Delay":"1h"}}`
	if got := s.ok(t, http.MethodPost, "/v2/batch", nil, "["+fmt.Sprintf(item, "two")+","+fmt.Sprintf(item, "https://c")+"]"); !mixed.Match(got) {
		t.Errorf("got %s", got)
	}
}

// TestReadOnlyToken checks that a token that may only read is refused everything else.
func TestReadOnlyToken(t *testing.T) {
	t.Parallel()
	flag, data := "--data", filepath.Join(t.TempDir(), "posthaste.db")
	if postgrestest.Chosen() {
		flag, data = "--store", postgrestest.Schema(t)
	}
	s := start(t, flag, data)
	id := s.publish(t, "https://example.com", later, "")
	cmd := exec.CommandContext(t.Context(), binary, "token", "create", "--scope", "read", flag, data)
	cmd.Env = s.environ()
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	_, token, _ := strings.Cut(strings.TrimSpace(string(out)), "QSTASH_TOKEN=")
	reader := &server{url: s.url, token: token}
	for _, target := range []string{
		"/v2/messages/" + id, "/v2/queues", "/v2/topics", "/v2/schedules", "/v2/events", "/v2/logs", "/v2/dlq", "/v2/flowControl",
		"/v2/globalParallelism", "/v2/keys",
	} {
		reader.ok(t, http.MethodGet, target, nil, "")
	}
	for _, tt := range [][2]string{
		{http.MethodPost, "/v2/publish/https://example.com"},
		{http.MethodPost, "/v2/enqueue/q/https://example.com"},
		{http.MethodPost, "/v2/batch"},
		{http.MethodDelete, "/v2/messages/" + id},
		{http.MethodDelete, "/v2/messages"},
		{http.MethodPost, "/v2/queues"},
		{http.MethodDelete, "/v2/queues/q"},
		{http.MethodPost, "/v2/schedules/https://example.com"},
		{http.MethodPost, "/v2/topics/g/endpoints"},
		{http.MethodDelete, "/v2/topics/g"},
		{http.MethodDelete, "/v2/dlq"},
		{http.MethodPost, "/v2/dlq/retry"},
		{http.MethodPost, "/v2/flowControl/k/pause"},
		{http.MethodPost, "/v2/keys/rotate"},
		{http.MethodPost, "/v2/rotate"},
	} {
		reader.refused(t, tt[0], tt[1], nil, "", 403, "")
	}
	if m := s.message(t, id); m.MessageID != id {
		t.Errorf("got %+v", m)
	}
}
