package devtools_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/devtools"
	"github.com/posthaste/posthaste/internal/egress"
	"github.com/posthaste/posthaste/internal/retry"
	"github.com/posthaste/posthaste/internal/server"
)

// A dev is a development server on a port of its own, with one tenant, whose token is "token".
type dev struct {
	*testing.T
	srv *server.Server
	url string
}

func start(t *testing.T) *dev {
	t.Helper()
	srv, err := server.New(t.Context(), server.Config{
		Listen: "127.0.0.1:0", Dev: true, Grace: time.Second,
		Users:   []broker.NewTenant{{Name: "one", Token: "token"}},
		Egress:  egress.Config{Mode: egress.ModeDev, AllowHTTP: true},
		Broker:  broker.Config{Retries: 3, DedupWindow: time.Minute},
		Backoff: retry.Standard(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if err := srv.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	if err := srv.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &dev{t, srv, "http://" + srv.Addr().String()}
}

// inbox returns the URL of an inbox.
func (d *dev) inbox(name string) string { return d.url + devtools.InboxPath(name) }

// send makes a request, with header lines, and returns the answer.
func (d *dev) send(method, path, body string, header ...string) (int, []byte) {
	d.Helper()
	req, err := http.NewRequestWithContext(d.Context(), method, d.url+path, strings.NewReader(body))
	if err != nil {
		d.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer token")
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Add(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		d.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // it is read to its end
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		d.Fatal(err)
	}
	return resp.StatusCode, answer
}

// must makes a request that succeeds and decodes the answer.
func (d *dev) must(v any, method, path, body string, header ...string) {
	d.Helper()
	status, answer := d.send(method, path, body, header...)
	if status < 200 || status > 299 {
		d.Fatalf("%s %s: got status %d, want success: %s", method, path, status, answer)
	}
	if v != nil {
		if err := json.Unmarshal(answer, v); err != nil {
			d.Fatalf("%s %s: got %s: %v", method, path, answer, err)
		}
	}
}

// publish publishes to an inbox and returns the message's id.
func (d *dev) publish(inbox, body string, header ...string) string {
	d.Helper()
	var out struct{ MessageID string }
	d.must(&out, "POST", "/v2/publish/"+d.inbox(inbox), body, header...)
	return out.MessageID
}

type entry struct {
	Number    int64
	At        time.Time
	Method    string
	URL       string
	Headers   http.Header
	Body      string
	MessageID string
	Attempt   int
	Tenant    int
	Signature struct {
		Valid bool
		Error string
	}
	AnsweredWith int
}

// caught lists an inbox.
func (d *dev) caught(inbox, query string) []entry {
	d.Helper()
	var out struct{ Entries []entry }
	d.must(&out, "GET", devtools.InboxPath(inbox)+query, "")
	return out.Entries
}

// The story that every newcomer's test has: a destination that fails, retries that are not waited for, a dead letter.
func TestRetriesUntilTheDeadLetter(t *testing.T) {
	t.Parallel()
	d := start(t)
	d.must(nil, "PUT", "/dev/inbox/story/behaviour", `{"status":500}`)
	id := d.publish("story", "hello", "Upstash-Retries: 3")
	d.must(nil, "POST", "/dev/clock", `{"advance":"1h"}`)
	entries := d.caught("story", "")
	var got []string
	for i, e := range entries {
		got = append(got, fmt.Sprintf("%d %s %t%s %d %t +%v", e.Attempt, e.Body, e.Signature.Valid, e.Signature.Error,
			e.AnsweredWith, e.MessageID == id, e.At.Sub(entries[max(0, i-1)].At).Round(time.Second)))
	}
	// The waits are those of the standard backoff.
	want := []string{
		"1 hello true 500 true +0s", "2 hello true 500 true +10s", "3 hello true 500 true +30s", "4 hello true 500 true +1m0s",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
	var dlq struct {
		Messages []struct{ MessageID string }
	}
	d.must(&dlq, "GET", "/v2/dlq", "")
	if len(dlq.Messages) != 1 || dlq.Messages[0].MessageID != id {
		t.Errorf("got dead letters %v, want the one of %s", dlq.Messages, id)
	}
}
