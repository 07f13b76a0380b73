package httpapi_test

import (
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/posthaste/posthaste/internal/auth"
	"github.com/posthaste/posthaste/internal/httpapi"
)

// table has a path for every route. Names in it stand for what a test makes under them.
var table = []struct {
	route string
	path  string
}{
	{"/healthz", "/healthz"},
	{"/readyz", "/readyz"},
	{"/v2/publish/{destination}", "/v2/publish/https://example.com/published"},
	{"/v2/enqueue/{queue}/{destination}", "/v2/enqueue/queue/https://example.com/enqueued"},
	{"/v2/batch", "/v2/batch"},
	{"/v2/messages", "/v2/messages"},
	{"/v2/messages/{id}", "/v2/messages/msg_1"},
	{"/v2/events", "/v2/events"},
	{"/v2/logs", "/v2/logs"},
	{"/v2/dlq", "/v2/dlq"},
	{"/v2/dlq/{id}", "/v2/dlq/dlq_1"},
	{"/v2/dlq/retry/{id}", "/v2/dlq/retry"},
	{"/v2/dlq/retry/{id}", "/v2/dlq/retry/dlq_1"},
	{"/v2/keys", "/v2/keys"},
	{"/v2/keys/rotate", "/v2/keys/rotate"},
	{"/v2/rotate", "/v2/rotate"},
	{"/v2/queues", "/v2/queues"},
	{"/v2/queues/{name}", "/v2/queues/queue"},
	{"/v2/queues/{name}/pause", "/v2/queues/queue/pause"},
	{"/v2/queues/{name}/resume", "/v2/queues/queue/resume"},
	{"/v2/topics", "/v2/topics"},
	{"/v2/topics/{name}", "/v2/topics/group"},
	{"/v2/topics/{name}/endpoints", "/v2/topics/group/endpoints"},
	{"/v2/schedules", "/v2/schedules"},
	{"/v2/schedules/{id}", "/v2/schedules/schedule"},
	{"/v2/schedules/{destination}", "/v2/schedules/https://example.com/scheduled"},
	{"/v2/schedules/{id}/pause", "/v2/schedules/schedule/pause"},
	{"/v2/schedules/{id}/resume", "/v2/schedules/schedule/resume"},
	{"/v2/flowControl", "/v2/flowControl"},
	{"/v2/flowControl/{key}", "/v2/flowControl/key"},
	{"/v2/flowControl/{key}", "/v2/flowControl/key/pause"},
	{"/v2/flowControl/{key}", "/v2/flowControl/key/pin?parallelism=7"},
	{"/v2/globalParallelism", "/v2/globalParallelism"},
	{"/ext/usage", "/ext/usage"},
	{"/ext/hosts", "/ext/hosts"},
	{"/ext/hosts/{host}/unblock", "/ext/hosts/example.com/unblock"},
	{"/llm/v1/chat/completions", "/llm/v1/chat/completions"},
}

func lookUp(t *testing.T, path string) httpapi.Route {
	t.Helper()
	bare, _, _ := strings.Cut(path, "?")
	r, ok := httpapi.Match(bare)
	if !ok {
		t.Fatalf("%s: got no route", path)
	}
	return r
}

func TestTableIsWhole(t *testing.T) {
	for _, e := range table {
		if got := lookUp(t, e.path).Name; got != e.route {
			t.Errorf("%s: got route %s, want %s", e.path, got, e.route)
		}
	}
	for _, word := range httpapi.Words() {
		if !slices.ContainsFunc(table, func(e struct{ route, path string }) bool {
			return e.path == "/v2/"+word || strings.HasPrefix(e.path, "/v2/"+word+"/")
		}) {
			t.Errorf("got no path for /v2/%s, want one", word)
		}
	}
}

func TestMatch(t *testing.T) {
	const get, post, put, patch, del = "GET", "POST", "PUT", "PATCH", "DELETE"
	tests := []struct {
		path    string
		route   string // empty: none
		rest    string
		methods []string
	}{
		{"/v2/publish/https://a.b//c", "/v2/publish/{destination}", "https://a.b//c", []string{post}},
		{"/V2/PUBLISH/https://a.b", "/v2/publish/{destination}", "https://a.b", []string{post}},
		{"/v2/publish", "/v2/publish/{destination}", "", []string{post}},
		{"/v2/publish/", "/v2/publish/{destination}", "", []string{post}},
		{"/v2/enqueue/q/https://a.b", "/v2/enqueue/{queue}/{destination}", "q/https://a.b", []string{post}},
		{"/v2/batch", "/v2/batch", "", []string{post}},
		{"/v2/batch/", "/v2/batch", "", []string{post}},
		{"/v2/batch/x", "", "", nil},
		{"/v2/messages", "/v2/messages", "", []string{del}},
		{"/v2/messages/", "/v2/messages", "", []string{del}},
		{"/v2/messages/m", "/v2/messages/{id}", "m", []string{del, get}},
		{"/v2/messages/m/", "/v2/messages/{id}", "m", []string{del, get}},
		{"/v2/messages/m/x", "", "", nil},
		{"/v2/events", "/v2/events", "", []string{get}},
		{"/v2/events/x", "", "", nil},
		{"/v2/LOGS", "/v2/logs", "", []string{get}},
		{"/v2/dlq", "/v2/dlq", "", []string{del, get}},
		{"/v2/dlq/1-0", "/v2/dlq/{id}", "1-0", []string{del, get}},
		{"/v2/dlq/1-0/x", "", "", nil},
		{"/v2/dlq/retry", "/v2/dlq/retry/{id}", "", []string{post}},
		{"/v2/dlq/retry/", "/v2/dlq/retry/{id}", "", []string{post}},
		{"/v2/dlq/Retry/1-0", "/v2/dlq/retry/{id}", "1-0", []string{post}},
		{"/v2/dlq/retry/1-0/x", "", "", nil},
		{"/v2/keys", "/v2/keys", "", []string{get}},
		{"/v2/keys/rotate", "/v2/keys/rotate", "", []string{post}},
		{"/v2/keys/x", "", "", nil},
		{"/v2/rotate", "/v2/rotate", "", []string{post}},
		{"/v2/queues/", "/v2/queues", "", []string{get, post}},
		{"/v2/queues/q", "/v2/queues/{name}", "q", []string{del, get}},
		{"/v2/queues/q/pause", "/v2/queues/{name}/pause", "q", []string{post}},
		{"/v2/queues/q/RESUME/", "/v2/queues/{name}/resume", "q", []string{post}},
		{"/v2/queues/q/stop", "", "", nil},
		{"/v2/queues/q/pause/x", "", "", nil},
		{"/v2/topics", "/v2/topics", "", []string{get}},
		{"/v2/topics/g", "/v2/topics/{name}", "g", []string{del, get, patch}},
		{"/v2/topics/g/endpoints", "/v2/topics/{name}/endpoints", "g", []string{del, post}},
		{"/v2/topics/g/x", "", "", nil},
		{"/v2/schedules", "/v2/schedules", "", []string{get, post}},
		{"/v2/Schedules/scd_x", "/v2/schedules/{id}", "scd_x", []string{del, get, post}},
		{"/v2/Schedules/https://a.b", "/v2/schedules/{destination}", "https://a.b", []string{post}},
		{"/v2/schedules/scd_x/pause", "/v2/schedules/{id}/pause", "scd_x", []string{patch, post, put}},
		{"/v2/schedules/scd_x/Resume", "/v2/schedules/{id}/resume", "scd_x", []string{patch, post, put}},
		{"/v2/schedules/https://a.b/pause", "/v2/schedules/{destination}", "https://a.b/pause", []string{post}},
		{"/v2/schedules/https:/a.b/resume", "/v2/schedules/{destination}", "https:/a.b/resume", []string{post}},
		{"/v2/flowControl/", "/v2/flowControl", "", []string{get}},
		{"/v2/flowcontrol/k", "/v2/flowControl/{key}", "k", []string{get, post}},
		{"/v2/flowControl/a/b%20c/pin", "/v2/flowControl/{key}", "a/b%20c/pin", []string{get, post}},
		{"/v2/globalParallelism", "/v2/globalParallelism", "", []string{get}},
		{"/healthz", "/healthz", "", []string{get}},
		{"/readyz", "/readyz", "", []string{get}},
		{"/healthz/x", "", "", nil},
		{"/", "", "", nil},
		{"", "", "", nil},
		{"*", "", "", nil},
		{"/v2", "", "", nil},
		{"/v2/", "", "", nil},
		{"/v1/quota", "", "", nil},
		{"/v3/publish/https://a.b", "", "", nil},
		{"/v2/workflows/x", "", "", nil},
		{"/v2/notify/x", "", "", nil},
		{"//v2/publish/https://a.b", "", "", nil},
	}
	for _, tt := range tests {
		r, ok := httpapi.Match(tt.path)
		if ok != (tt.route != "") || r.Name != tt.route || r.Rest != tt.rest || !slices.Equal(r.Allowed(), tt.methods) {
			t.Errorf("%q: got %s rest %q methods %v, want %s rest %q methods %v", tt.path, r.Name, r.Rest, r.Allowed(), tt.route, tt.rest, tt.methods)
		}
	}
}

// TestRefusedMethods: a route answers methods that it does not have with 405 and JSON, and OPTIONS with what it has.
func TestRefusedMethods(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		for _, e := range table {
			r := lookUp(t, e.path)
			allow := strings.Join(append(r.Allowed(), "OPTIONS"), ", ")
			for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "BREW", "get"} {
				if _, ok := r.Methods[method]; ok {
					continue
				}
				s.check(e.path, step{
					do: method + " " + e.path, token: "-", status: 405, head: []string{"Allow: " + allow},
					want: `{"error":"method ` + method + ` is not allowed here; allowed: ` + allow + `"}`,
				})
			}
			if got := s.check(e.path, step{
				do: "OPTIONS " + e.path, token: "-", status: 204, head: []string{"Allow: " + allow, "Access-Control-Allow-Origin: -"},
			}); got.body != "" {
				t.Errorf("OPTIONS %s: got body %q, want none", e.path, got.body)
			}
		}
		for _, path := range []string{"/v2", "/v2/nothing", "/v1/quota", "/v2/workflows/trigger", "/v2/trigger/x", "/v2/messages/a/b", "/favicon.ico"} {
			for _, method := range []string{"GET", "POST", "OPTIONS", "HEAD"} {
				s.check(path, step{do: method + " " + path, status: 404, want: `{"error":"no such route: ` + path + `"}`, head: []string{"Allow: -"}})
			}
		}
		if got := s.get("/v2/events").list(t, "events"); len(got) != 0 {
			t.Errorf("got %d log entries after refused requests, want 0", len(got))
		}
	})
}

// TestAuthentication: every route but those for health wants a token, and a token does what its scope allows.
func TestAuthentication(t *testing.T) {
	inBubble(t, stackConfig{data: filepath.Join(t.TempDir(), "data")}, func(t *testing.T, s *stack) {
		s.tokens()
		for _, e := range table {
			r := lookUp(t, e.path)
			for _, method := range r.Allowed() {
				do := method + " " + e.path
				if r.Open {
					s.check(do, step{do: do, token: "-", status: 200, want: `{"status":"ok"}`})
					s.check(do, step{do: do, token: "wrong", status: 200, want: `{"status":"ok"}`})
					continue
				}
				s.check(do, step{do: do, token: "-", status: 401, want: `{"error":"unable to authenticate: missing token"}`})
				s.check(do, step{do: do, token: "wrong", status: 401, want: `{"error":"unable to authenticate: invalid token"}`})
				for _, other := range []string{"Authorization: alice", "Authorization: Basic YWxpY2U6YWxpY2U=", "Authorization: Bearer", "Authorization: Bearer "} {
					s.check(do, step{do: do, token: "-", header: []string{other}, status: 401, want: `{"error":"unable to authenticate: missing token"}`})
				}
				action := r.Methods[method]
				if action != auth.Read {
					s.check(do, step{do: do, token: "alice-reads", status: 403, want: `{"error":"the token is read-only"}`})
				}
				if action != auth.Publish {
					s.check(do, step{do: do, token: "alice-publishes", status: 403, want: `{"error":"the token can only publish"}`})
				}
				want := auth.Manage
				switch {
				case method == http.MethodGet:
					want = auth.Read
				case slices.Contains([]string{"/v2/publish/{destination}", "/v2/enqueue/{queue}/{destination}", "/v2/batch"}, e.route):
					want = auth.Publish
				}
				if action != want {
					t.Errorf("%s: got action %d, want %d", do, action, want)
				}
			}
		}
		// Nothing that was refused left a trace.
		for path, want := range map[string]string{
			"/v2/events": `{"events":[]}`, "/v2/queues": `[]`, "/v2/schedules": `[]`, "/v2/topics": `[]`, "/v2/flowControl": `[]`, "/v2/dlq": `{"messages":[]}`,
		} {
			s.check("after", step{do: "GET " + path, status: 200, want: want})
		}

		s.run(
			step{do: "POST /v2/publish/https://example.com", token: "alice-publishes", status: 200, want: `{"messageId":"msg_1"}`},
			step{do: "POST /v2/enqueue/q/https://example.com", token: "alice-publishes", status: 200, want: `{"messageId":"msg_2"}`},
			step{do: "POST /v2/batch", body: `[{"destination":"https://example.com"}]`, token: "alice-publishes", status: 200, want: `[{"messageId":"msg_3"}]`},
			step{do: "GET /v2/messages/msg_1", token: "alice-reads", status: 200},
			step{do: "GET /v2/queues/q", token: "alice-reads", status: 200},
			step{do: "GET /v2/keys", token: "alice-reads", status: 200},
			// A schedule is more than a message: it goes on when the token is gone.
			step{
				do: "POST /v2/publish/https://example.com", header: []string{"Upstash-Cron: * * * * *"}, token: "alice-publishes",
				status: 403, want: `{"error":"the token can only publish"}`,
			},
			step{do: "GET /v2/schedules", status: 200, want: `[]`},
		)
	})
}

// TestTokenInQuery: a client that cannot set headers gives its token in the query; the header wins.
func TestTokenInQuery(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.run(
			step{do: "GET /v2/queues?qstash_token=alice", token: "-", status: 200, want: `[]`},
			step{do: "GET /v2/queues?x=1&QSTASH_TOKEN=alice", token: "-", status: 200, want: `[]`},
			step{do: "GET /v2/queues?qstash_token=wrong", token: "-", status: 401, want: `{"error":"unable to authenticate: invalid token"}`},
			step{do: "GET /v2/queues?qstash_token=", token: "-", status: 401, want: `{"error":"unable to authenticate: missing token"}`},
			step{do: "GET /v2/queues?qstash_token=alice", token: "wrong", status: 401, want: `{"error":"unable to authenticate: invalid token"}`},
			step{do: "GET /v2/queues?qstash_token=wrong", token: "alice", status: 200, want: `[]`},
			step{do: "GET /v2/queues?qstash_token=alice", token: "-", header: []string{"Authorization: Basic dTpw"}, status: 200, want: `[]`},
			step{do: "DELETE /v2/dlq?qstash_token=alice", token: "-", status: 200, want: `{"deleted":0}`},
			step{do: "DELETE /v2/messages?qstash_token=alice", token: "-", status: 200, want: `{"cancelled":0}`},
			step{do: "POST /v2/dlq/retry?qstash_token=alice", token: "-", status: 201, want: `{"cursor":"","responses":[]}`},
			step{do: "GET /v2/dlq?qstash_token=alice", token: "-", status: 200, want: `{"messages":[]}`},
			step{do: "POST /v2/publish/https://example.com/h?qstash_token=alice&k=v", token: "-", status: 200, want: `{"messageId":"msg_1"}`},
			step{do: "POST /v2/publish/https://example.com/h?a=1&qstash_token=alice", token: "-", status: 200, want: `{"messageId":"msg_2"}`},
			step{do: "POST /v2/publish/https://example.com/h?qstash_token=alice", token: "-", status: 200, want: `{"messageId":"msg_3"}`},
		)
		s.sleep(0)
		got := s.dest.take()
		for id, want := range map[string]string{"msg_1": "https://example.com/h?k=v", "msg_2": "https://example.com/h?a=1", "msg_3": "https://example.com/h"} {
			i := slices.IndexFunc(got, func(r *received) bool { return r.header.Get("Upstash-Message-Id") == s.id(id) })
			if i < 0 || got[i].url != want {
				t.Errorf("got %v, want %s delivered to %s", got, id, want)
			}
		}
		for _, r := range got {
			for name, values := range r.header {
				if strings.Contains(strings.Join(values, " "), "alice") {
					t.Errorf("got %s: %q at the destination, want no token", name, values)
				}
			}
		}
		for _, path := range []string{"/v2/messages/msg_1", "/v2/events"} {
			if body := s.get(path).body; strings.Contains(body, "qstash_token") || strings.Contains(body, "alice") {
				t.Errorf("GET %s: got %s, want no token in it", path, clip(body))
			}
		}
	})
}

func TestCORS(t *testing.T) {
	for _, origins := range [][]string{nil, {"https://console.test"}, {"*"}} {
		cfg := stackConfig{}
		cfg.API.Origins = origins
		inBubble(t, cfg, func(t *testing.T, s *stack) {
			for _, origin := range []string{"https://console.test", "https://other.test"} {
				allowed := slices.Contains(origins, "*") || slices.Contains(origins, origin)
				preflight, simple := []string{"Access-Control-Allow-Origin: -", "Access-Control-Allow-Methods: -"}, []string{"Access-Control-Allow-Origin: -"}
				if allowed {
					preflight = []string{
						"Access-Control-Allow-Origin: " + origin, "Access-Control-Allow-Methods: GET, POST, PUT, PATCH, DELETE",
						"Access-Control-Allow-Headers: authorization, upstash-delay", "Access-Control-Max-Age: 600", "Vary: Origin",
					}
					simple = []string{"Access-Control-Allow-Origin: " + origin, "Access-Control-Expose-Headers: *", "Vary: Origin"}
				}
				head := []string{"Origin: " + origin}
				s.run(
					step{
						do: "OPTIONS /v2/publish/https://example.com", token: "-",
						header: append([]string{"Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization, upstash-delay"}, head...),
						status: 204, head: preflight,
					},
					step{do: "GET /v2/queues", header: head, status: 200, head: simple},
					// A page has to be able to read why it failed.
					step{do: "GET /v2/queues", header: head, token: "-", status: 401, head: simple},
					step{do: "GET /v2/nothing", header: head, status: 404, head: simple},
				)
			}
			s.run(step{do: "GET /v2/queues", status: 200, head: []string{"Access-Control-Allow-Origin: -"}})
		})
	}
}

// TestRequestIDs: every answer has an id of its own.
func TestRequestIDs(t *testing.T) {
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		seen := map[string]bool{}
		for range 20 {
			for _, do := range []string{"GET /v2/keys", "GET /nothing", "PUT /v2/keys", "OPTIONS /v2/keys", "POST /v2/publish/"} {
				id := s.send(step{do: do}).header.Get("X-Request-Id")
				if seen[id] {
					t.Fatalf("got request id %q twice", id)
				}
				seen[id] = true
			}
		}
	})
}

// TestPanic: a fault of the server is answered as an error that names the request, and is logged with it. The next request is
// served.
func TestPanic(t *testing.T) {
	faults := &faultLog{}
	h := httpapi.New(nil, nil, httpapi.Config{Logger: slog.New(faults)}) // whatever needs a broker panics
	s := &stack{t: t, handler: h}
	for range 2 {
		r := s.send(step{do: "GET /readyz", token: "-"})
		id := r.header.Get("X-Request-Id")
		if want := `{"error":"internal error; the request id is ` + id + `"}`; r.status != 500 || r.body != want {
			t.Errorf("got %d %s, want 500 %s", r.status, r.body, want)
		}
		logged := faults.all()
		if len(logged) != 1 || !strings.Contains(logged[0], id) || !strings.Contains(logged[0], "stack=") {
			t.Errorf("got log %q, want one record with the stack and %s", logged, id)
		}
	}
	s.run(step{do: "GET /healthz", token: "-", status: 200, want: `{"status":"ok"}`})
}

// mustMatch returns the methods of a path in the table.
func mustMatch(path string) []string {
	r, ok := httpapi.Match(path)
	if !ok {
		panic("no route for " + path)
	}
	return r.Allowed()
}
