package devtools_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/posthaste/posthaste/internal/devtools"
)

// What the clock passes happens in order, and at its moment: delays, schedules and retries, one between the other.
func TestAdvanceInOrder(t *testing.T) {
	t.Parallel()
	d := start(t)
	d.must(nil, "PUT", "/dev/inbox/all/behaviour", `{"next":[{"status":500}]}`)
	var clock struct{ Now time.Time }
	d.must(&clock, "GET", "/dev/clock", "")
	begin := clock.Now
	d.publish("all", "due at 1h", "Upstash-Delay: 1h")
	d.publish("all", "due at 1h5s", "Upstash-Delay: 3605s")
	d.publish("all", "due at 1h15s", "Upstash-Delay: 3615s")
	d.publish("all", "due at 2h", "Upstash-Delay: 2h")
	d.must(nil, "POST", "/v2/schedules/"+d.inbox("all"), "every 40m", "Upstash-Cron: @every 40m")
	d.publish("all", "due at 3h", "Upstash-Delay: 3h")
	d.must(&clock, "POST", "/dev/clock", `{"advance":"150m"}`)
	if got := clock.Now.Sub(begin); got < 150*time.Minute || got > 151*time.Minute {
		t.Errorf("got the clock %v on, want 2h30m", got)
	}
	var got []string
	for _, e := range d.caught("all", "") {
		got = append(got, fmt.Sprintf("%v: %s", e.At.Sub(begin).Round(5*time.Second), e.Body))
	}
	want := []string{
		"40m0s: every 40m",
		"40m10s: every 40m", // again, because the first attempt failed
		"1h0m0s: due at 1h",
		"1h0m5s: due at 1h5s",
		"1h0m15s: due at 1h15s",
		"1h20m0s: every 40m",
		"2h0m0s: due at 2h",
		"2h0m0s: every 40m",
	}
	// The last two are due at nearly the same moment.
	slices.Sort(got[len(got)-2:])
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("deliveries (-want +got):\n%s", diff)
	}
}

// Windows follow the clock: those of deduplication and of rates.
func TestWindowsFollow(t *testing.T) {
	t.Parallel()
	d := start(t)
	first := d.publish("dedup", "1", "Upstash-Deduplication-Id: x")
	if again := d.publish("dedup", "2", "Upstash-Deduplication-Id: x"); again != first {
		t.Errorf("got %s, want the duplicate of %s", again, first)
	}
	for range 5 {
		d.publish("rate", "", "Upstash-Flow-Control-Key: k", "Upstash-Flow-Control-Value: rate=2, period=1h")
	}
	for _, want := range []int{2, 4, 5} {
		d.must(nil, "GET", "/dev/drained?timeout=10s", "")
		if got := len(d.caught("rate", "")); got != want {
			t.Errorf("got %d deliveries, want %d", got, want)
		}
		d.must(nil, "POST", "/dev/clock", `{"advance":"1h"}`)
	}
	if later := d.publish("dedup", "3", "Upstash-Deduplication-Id: x"); later == first {
		t.Error("got a duplicate after the window of a minute")
	}
}

func TestNext(t *testing.T) {
	t.Parallel()
	d := start(t)
	d.publish("a", "1", "Upstash-Delay: 1h")
	d.publish("a", "2", "Upstash-Delay: 2h")
	var clock struct{ NextDue *time.Time }
	for _, want := range []int{1, 2, 2} {
		d.must(&clock, "POST", "/dev/clock", `{"next":true}`)
		if got := len(d.caught("a", "")); got != want {
			t.Errorf("got %d deliveries, want %d", got, want)
		}
		if (clock.NextDue == nil) != (want == 2) {
			t.Errorf("got %v as next, with %d deliveries made", clock.NextDue, want)
		}
	}
}

// An attempt that does not end holds the clock up, for as long as the request allows.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	d := start(t)
	d.must(nil, "PUT", "/dev/inbox/slow/behaviour", `{"hang":true}`)
	d.publish("slow", "")
	d.caught("slow", "?wait=10s&count=1")
	for _, r := range []struct{ method, path, body string }{
		{"GET", "/dev/drained?timeout=20ms", ""},
		{"POST", "/dev/clock", `{"advance":"1h","timeout":"20ms"}`},
	} {
		status, answer := d.send(r.method, r.path, r.body)
		if status != http.StatusConflict || !strings.Contains(string(answer), "the time given is over: 1 attempts are in flight; the clock shows ") {
			t.Errorf("%s %s: got %d %s, want 409", r.method, r.path, status, answer)
		}
	}
	// A reset lets go of it.
	d.must(nil, "POST", "/dev/reset", "")
	d.must(nil, "GET", "/dev/drained?timeout=10s", "")
}

// After a reset nothing of before is there, and what is published then is delivered.
func TestReset(t *testing.T) {
	t.Parallel()
	d := start(t)
	fill := func() {
		d.must(nil, "PUT", "/dev/inbox/bad/behaviour", `{"status":500}`)
		d.publish("bad", "", "Upstash-Retries: 0")
		d.publish("good", "1", "Upstash-Deduplication-Id: x")
		d.publish("good", "", "Upstash-Delay: 1h")
		d.publish("good", "", "Upstash-Flow-Control-Key: paused", "Upstash-Flow-Control-Value: parallelism=1", "Upstash-Delay: 1s")
		d.must(nil, "POST", "/v2/flowControl/paused/pause", "")
		d.must(nil, "POST", "/v2/flowControl/pinned/pin?parallelism=3", "")
		d.must(nil, "POST", "/v2/queues", `{"queueName":"q","parallelism":2,"paused":true}`)
		d.must(nil, "POST", "/v2/enqueue/q/"+d.inbox("good"), "")
		d.must(nil, "POST", "/v2/topics/group/endpoints", `{"endpoints":[{"url":"`+d.inbox("good")+`"}]}`)
		d.must(nil, "POST", "/v2/schedules/"+d.inbox("good"), "", "Upstash-Cron: * * * * *")
		d.must(nil, "POST", "/v2/schedules/"+d.inbox("good"), "", "Upstash-Cron: * * * * *", "Upstash-Schedule-Id: mine")
		d.must(nil, "POST", "/dev/clock", `{"advance":"2m"}`)
	}
	fill()
	for _, r := range []struct{ path, empty string }{
		{"/v2/dlq", `{"messages":[]}`},
		{"/v2/logs", `{"logs":[],"events":[]}`},
		{"/v2/queues", `[]`},
		{"/v2/topics", `[]`},
		{"/v2/schedules", `[]`},
		{"/v2/flowControl", `[]`},
		{"/dev/inbox", `[]`},
	} {
		if _, answer := d.send("GET", r.path, ""); string(answer) == r.empty {
			t.Fatalf("%s: got nothing before the reset", r.path)
		}
	}
	d.must(nil, "POST", "/dev/reset", "")
	for _, r := range []struct{ path, empty string }{
		{"/v2/dlq", `{"messages":[]}`},
		{"/v2/logs", `{"logs":[],"events":[]}`},
		{"/v2/events", `{"events":[]}`},
		{"/v2/queues", `[]`},
		{"/v2/topics", `[]`},
		{"/v2/schedules", `[]`},
		{"/v2/flowControl", `[]`},
		{"/dev/inbox", `[]`},
	} {
		if _, answer := d.send("GET", r.path, ""); string(answer) != r.empty {
			t.Errorf("%s: got %s after the reset, want %s", r.path, answer, r.empty)
		}
	}
	var clock struct{ NextDue *time.Time }
	d.must(&clock, "POST", "/dev/clock", `{"advance":"1d"}`)
	if got := d.caught("good", ""); len(got) != 0 || clock.NextDue != nil {
		t.Errorf("got %d deliveries of before the reset, and %v as next", len(got), clock.NextDue)
	}
	// The deduplication id is free again.
	d.publish("good", "again", "Upstash-Deduplication-Id: x")
	if got := d.caught("good", "?wait=10s&count=1"); len(got) != 1 || got[0].Body != "again" {
		t.Errorf("got %v after the reset, want one delivery", got)
	}
	fill() // all of it can be made again
}

func TestBehaviours(t *testing.T) {
	t.Parallel()
	d := start(t)
	d.must(nil, "PUT", "/dev/inbox/b/behaviour", `{"failNext":1,"next":[{"status":418,"headers":{"X-A":"b"},"body":"tea"},{"drop":true}],"status":201,"delay":"10ms"}`)
	var shown any
	d.must(&shown, "GET", "/dev/inbox/b/behaviour", "")
	var want any
	if err := json.Unmarshal([]byte(`{"status":201,"delay":"10ms","next":[{"status":500},{"status":418,"headers":{"X-A":"b"},"body":"tea"},{"drop":true}]}`), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, shown); diff != "" {
		t.Errorf("behaviour (-want +got):\n%s", diff)
	}
	for _, want := range []string{"500 ", "418 tea", "dropped", "201 ", "201 "} {
		got := "dropped"
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, d.inbox("b")+"/some/path?x=1", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		req.GetBody = nil // it shall not be sent again after a drop
		if resp, err := http.DefaultTransport.RoundTrip(req); err == nil {
			var buf strings.Builder
			if _, err := fmt.Fprint(&buf, resp.StatusCode, " "); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 100)
			n, _ := resp.Body.Read(b)
			resp.Body.Close() //nolint:errcheck // it is short
			got = buf.String() + string(b[:n])
		}
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	entries := d.caught("b", "?after=1")
	var statuses []int
	for _, e := range entries {
		statuses = append(statuses, e.AnsweredWith)
		if e.Method != "PATCH" || !strings.HasSuffix(e.URL, "/dev/inbox/b/some/path?x=1") || e.Attempt != 0 || e.Signature.Valid ||
			e.Signature.Error != "there is no signature" {
			t.Errorf("got %+v, want a request that is no delivery", e)
		}
	}
	if diff := cmp.Diff([]int{418, 0, 201, 201}, statuses); diff != "" {
		t.Errorf("statuses of the entries after the first (-want +got):\n%s", diff)
	}
}

// Signatures are checked as a receiver does: forged ones, those of another tenant's message and those of another body are found.
func TestSignatures(t *testing.T) {
	t.Parallel()
	d := start(t)
	d.must(nil, "PUT", "/dev/inbox/s/behaviour", `{"next":[{"hang":true}]}`)
	id := d.publish("s", "original")
	real := d.caught("s", "?wait=10s&count=1")[0]
	if !real.Signature.Valid || real.Tenant != 1 || real.MessageID != id {
		t.Fatalf("got %+v, want a good delivery of tenant 1", real)
	}
	token := real.Headers.Get("Upstash-Signature")
	for _, tt := range []struct {
		path, body string
		header     []string
		want       string
	}{
		{"/dev/inbox/s", "original", []string{"Upstash-Message-Id: " + id, "Upstash-Signature: " + token}, ""},
		{"/dev/inbox/s", "forged", []string{"Upstash-Message-Id: " + id, "Upstash-Signature: " + token}, "the token was made for another body"},
		{"/dev/inbox/s/other", "original", []string{"Upstash-Message-Id: " + id, "Upstash-Signature: " + token}, "the token was made for another URL"},
		{"/dev/inbox/s", "original", []string{"Upstash-Message-Id: " + id, "Upstash-Signature: " + token + "x"}, "the signature matches neither signing key"},
		{"/dev/inbox/s", "original", []string{"Upstash-Message-Id: msg_x", "Upstash-Signature: " + token}, "this server is not delivering such a message"},
		{"/dev/inbox/s", "original", []string{"Upstash-Message-Id: " + id}, "there is no signature"},
		{"/dev/inbox/s", "original", []string{"Upstash-Signature: " + token}, "there is no message id, so it is not known whose keys to check with"},
	} {
		d.must(nil, "POST", tt.path, tt.body, tt.header...)
		all := d.caught("s", "")
		if got := all[len(all)-1].Signature; got.Valid != (tt.want == "") || got.Error != tt.want {
			t.Errorf("%s %q %.60q: got %+v, want %q", tt.path, tt.body, tt.header, got, tt.want)
		}
	}
	// Deliveries are caught whatever their method.
	d.must(nil, "DELETE", "/dev/inbox/s", "", "Upstash-Message-Id: "+id)
	d.must(nil, "PUT", "/dev/inbox/s/behaviour", "no JSON", "Upstash-Message-Id: "+id)
	if all := d.caught("s", ""); len(all) != 10 || all[8].Method != "DELETE" || all[9].Body != "no JSON" {
		t.Errorf("got %d entries, want 10", len(all))
	}
}

func TestInboxBounds(t *testing.T) {
	t.Parallel()
	d := start(t)
	for i := range 1010 {
		d.must(nil, "POST", "/dev/inbox/many", fmt.Sprint(i))
	}
	got := d.caught("many", "")
	if len(got) != 1000 || got[0].Number != 11 || got[0].Body != "10" || got[999].Number != 1010 {
		t.Errorf("got %d entries from %d on, want 1000 from 11 on", len(got), got[0].Number)
	}
	large := strings.Repeat("x", 12<<20)
	for range 3 {
		d.must(nil, "POST", "/dev/inbox/large", large)
	}
	var list []struct {
		Name        string
		Total, Kept int
	}
	d.must(&list, "GET", "/dev/inbox", "")
	want := []struct {
		Name        string
		Total, Kept int
	}{{"large", 3, 2}, {"many", 1010, 1000}}
	if diff := cmp.Diff(want, list); diff != "" {
		t.Errorf("inboxes (-want +got):\n%s", diff)
	}
	for i := range 1005 {
		d.srv.Dev().SetBehaviour(fmt.Sprint("box", i), devtools.Behaviour{})
	}
	if got := d.srv.Dev().Inboxes(); len(got) != 1000 || slices.ContainsFunc(got, func(i devtools.Inbox) bool { return i.Name == "many" || i.Name == "box0" }) {
		t.Errorf("got %d inboxes, want those used last", len(got))
	}
	// Bytes that are no text are shown as base64.
	d.must(nil, "POST", "/dev/inbox/bytes", "\xff\x00")
	if _, answer := d.send("GET", "/dev/inbox/bytes", ""); !strings.Contains(string(answer), `"body":"","bodyBase64":"/wA="`) {
		t.Errorf("got %s, want the body as base64", answer)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	d := start(t)
	for _, tt := range []struct {
		method, path, body string
		header             []string
		status             int
		want               string
	}{
		{"POST", "/dev/clock", ``, nil, 400, `give one of {\"advance\":\"6h\"}`},
		{"POST", "/dev/clock", `{"advance":"1h","next":true}`, nil, 400, "give one of"},
		{"POST", "/dev/clock", `{"advance":"-1h"}`, nil, 400, `invalid advance: negative duration`},
		{"POST", "/dev/clock", `{"until":"tomorrow"}`, nil, 400, "invalid until"},
		{"POST", "/dev/clock", `{"until":"2001-01-01T00:00:00Z"}`, nil, 400, "does not go back"},
		{"POST", "/dev/clock", `{"until":"2999-01-01T00:00:00Z"}`, nil, 400, "no farther than 2200"},
		{"POST", "/dev/clock", `{"advance":"1000000d"}`, nil, 400, ""},
		{"POST", "/dev/clock", `{"advance":"1h","timeout":"1h"}`, nil, 400, "invalid timeout: longer than 10m0s"},
		{"POST", "/dev/clock", `{"advanced":"1h"}`, nil, 400, `unknown field \"advanced\"`},
		{"POST", "/dev/clock", `{"advance":6}`, nil, 400, "invalid body"},
		{"POST", "/dev/clock", `{"advance":"1h"}{}`, nil, 400, "more than one JSON value"},
		{"POST", "/dev/clock", strings.Repeat(" ", 2<<20), nil, 413, "longer than 1048576 bytes"},
		{"DELETE", "/dev/clock", ``, nil, 405, "method DELETE is not allowed here; allowed: GET, POST"},
		{"GET", "/dev/reset", ``, nil, 405, "allowed: POST"},
		{"GET", "/dev/drained?timeout=x", ``, nil, 400, "invalid timeout"},
		{"GET", "/dev/drained?timeout=1s&timeout=2s", ``, nil, 400, "more than once"},
		{"GET", "/dev/nothing", ``, nil, 404, "there are clock, drained, reset, tenants and inbox"},
		{"GET", "/dev", ``, nil, 404, "no such route"},
		{"POST", "/dev/inbox/with%20space", ``, nil, 400, "invalid name of an inbox"},
		{"GET", "/dev/inbox/x?wait=-1s", ``, nil, 400, "invalid wait"},
		{"GET", "/dev/inbox/x?count=-1", ``, nil, 400, "invalid count"},
		{"PUT", "/dev/inbox/x/behaviour", `{"status":99}`, nil, 400, "invalid status 99"},
		{"PUT", "/dev/inbox/x/behaviour", `{"delay":"11m"}`, nil, 400, "invalid delay"},
		{"PUT", "/dev/inbox/x/behaviour", `{"failNext":-1}`, nil, 400, "failNext"},
		{"PUT", "/dev/inbox/x/behaviour", `{"failNext":1001}`, nil, 400, "1000 answers at most"},
		{"PUT", "/dev/inbox/x/behaviour", `{"headers":{"a b":""}}`, nil, 400, "invalid header"},
		{"POST", "/dev/inbox/x/behaviour", ``, nil, 405, "allowed: GET, PUT"},
		{"POST", "/dev/tenants", `{"plan":"gold"}`, nil, 400, "unknown plan"},
		// A page of another site may not empty the server of a developer who visits it.
		{"POST", "/dev/reset", ``, []string{"Origin: https://evil.example"}, 403, "pages of other origins"},
		{"POST", "/dev/reset", ``, []string{"Origin: null"}, 403, "pages of other origins"},
		{"POST", "/dev/reset", ``, []string{"Origin: http://localhost:3000"}, 200, "{}"},
	} {
		status, answer := d.send(tt.method, tt.path, tt.body, tt.header...)
		if status != tt.status || !strings.Contains(string(answer), tt.want) || status >= 400 && !strings.HasPrefix(string(answer), `{"error":"`) {
			t.Errorf("%s %s %.60s: got %d %s, want %d with %q", tt.method, tt.path, tt.body, status, answer, tt.status, tt.want)
		}
	}
}

// Routes tells what there is: each route answers, and other methods are refused, but for those that an inbox catches.
func TestRoutes(t *testing.T) {
	t.Parallel()
	d := start(t)
	methods := map[string][]string{}
	for _, r := range devtools.Routes() {
		methods[r.Path] = append(methods[r.Path], r.Method)
	}
	for path, allowed := range methods {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
			status, answer := d.send(method, strings.Replace(path, "{name}", "x", 1), "")
			refused := status == http.StatusMethodNotAllowed || status == http.StatusNotFound
			caught := path == "/dev/inbox/{name}"
			if want := !slices.Contains(allowed, method) && !caught; refused != want {
				t.Errorf("%s %s: got %d %s, want it refused %t", method, path, status, answer, want)
			}
		}
	}
}

// A long poll and a destination that hangs do not hold up a stop.
func TestStop(t *testing.T) {
	t.Parallel()
	var begin time.Time
	t.Run("server", func(t *testing.T) {
		d := start(t)
		d.must(nil, "PUT", "/dev/inbox/h/behaviour", `{"hang":true}`)
		d.publish("h", "")
		d.caught("h", "?wait=10s&count=1")
		polled := make(chan int)
		req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodGet, d.url+"/dev/inbox/p?wait=10m&count=1", nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			begin = time.Now()
			if status := <-polled; status != http.StatusOK {
				t.Errorf("got status %d of a poll that a stop ended, want 200", status)
			}
		})
		sent := make(chan struct{})
		go func() {
			close(sent)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				polled <- 0
				return
			}
			resp.Body.Close() //nolint:errcheck // its status will do
			polled <- resp.StatusCode
		}()
		<-sent
		d.srv.Dev().Close()
	})
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the stop took %v", took)
	}
}
