package posthastetest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/devtools"
	"github.com/posthaste/posthaste/internal/wire"
)

// Tenant is a tenant of a server: its token sees nothing of other tenants.
type Tenant struct {
	Token             string
	CurrentSigningKey string
	NextSigningKey    string

	t      testing.TB
	server *Server
	client *http.Client
	id     posthaste.TenantID
}

func newTenant(t testing.TB, s *Server, made broker.NewTenant) *Tenant {
	return &Tenant{
		Token: made.Token, CurrentSigningKey: made.Keys.Current, NextSigningKey: made.Keys.Next,
		t: t, server: s, client: s.Client(), id: made.ID,
	}
}

// Env returns the environment variables that QStash clients read, with [URL] as the server's.
func (tn *Tenant) Env() map[string]string {
	return map[string]string{
		"QSTASH_URL": URL, "QSTASH_TOKEN": tn.Token,
		"QSTASH_CURRENT_SIGNING_KEY": tn.CurrentSigningKey, "QSTASH_NEXT_SIGNING_KEY": tn.NextSigningKey,
	}
}

// Publish publishes a message to a destination, a URL or the name of a URL group, and returns its id; to a group, the id of the
// first one. Each of header is a line, such as "Upstash-Delay: 1h".
func (tn *Tenant) Publish(destination, body string, header ...string) posthaste.MessageID {
	tn.t.Helper()
	_, answer := tn.do(http.MethodPost, "/v2/publish/"+destination, body, header...)
	var one struct{ MessageID posthaste.MessageID }
	if strings.HasPrefix(string(answer), "[") {
		answer = answer[1 : strings.IndexByte(string(answer), '}')+1]
	}
	if err := json.Unmarshal(answer, &one); err != nil || one.MessageID == "" {
		tn.t.Fatalf("publish to %s: got no message id: %s", destination, answer)
	}
	return one.MessageID
}

// Schedule publishes to a destination at every tick of a cron expression, and returns the schedule's id.
func (tn *Tenant) Schedule(destination, cron, body string, header ...string) posthaste.ScheduleID {
	tn.t.Helper()
	_, answer := tn.do(http.MethodPost, "/v2/schedules/"+destination, body, append(header, wire.HeaderCron+": "+cron)...)
	var made struct{ ScheduleID posthaste.ScheduleID }
	if err := json.Unmarshal(answer, &made); err != nil || made.ScheduleID == "" {
		tn.t.Fatalf("schedule to %s: got no schedule id: %s", destination, answer)
	}
	return made.ScheduleID
}

// do makes a request that must succeed.
func (tn *Tenant) do(method, target, body string, header ...string) (http.Header, []byte) {
	tn.t.Helper()
	req, err := http.NewRequestWithContext(tn.t.Context(), method, URL+target, strings.NewReader(body))
	if err != nil {
		tn.t.Fatal(err)
	}
	for _, line := range header {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			tn.t.Fatalf("got header %q, want a line such as \"Name: value\"", line)
		}
		req.Header.Add(name, strings.TrimSpace(value))
	}
	req.Header.Set("Authorization", "Bearer "+tn.Token)
	resp, err := tn.client.Do(req)
	if err != nil {
		tn.t.Fatalf("%s %s: %v", method, target, err)
	}
	defer resp.Body.Close() //nolint:errcheck // it is read to its end
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		tn.t.Fatalf("%s %s: %v", method, target, err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		tn.t.Fatalf("%s %s: got status %d: %s", method, target, resp.StatusCode, answer)
	}
	return resp.Header, answer
}

// Now returns the time of the server's clock.
func (tn *Tenant) Now() time.Time { return tn.server.srv.Dev().Now() }

// Advance moves the server's clock forward, from one due moment to the next, so that everything due until then happens in
// order: retries, delays, schedules. It returns when all of that has been attempted. Timeouts of attempts count in real time.
func (tn *Tenant) Advance(d time.Duration) {
	tn.t.Helper()
	tn.AdvanceTo(tn.Now().Add(d))
}

// AdvanceTo moves the server's clock forward to a moment, as [Tenant.Advance] does.
func (tn *Tenant) AdvanceTo(at time.Time) {
	tn.t.Helper()
	ctx, cancel := context.WithTimeout(tn.t.Context(), patience)
	defer cancel()
	if _, err := tn.server.srv.Dev().AdvanceTo(ctx, at); err != nil {
		tn.t.Fatalf("advance the clock to %v: %v", at, err)
	}
}

// Drain waits until nothing is due or in flight on the server. What waits for a later moment stays: see [Tenant.Advance].
func (tn *Tenant) Drain() {
	tn.t.Helper()
	ctx, cancel := context.WithTimeout(tn.t.Context(), patience)
	defer cancel()
	if _, err := tn.server.srv.Dev().Drained(ctx); err != nil {
		tn.t.Fatalf("wait until nothing is due: %v", err)
	}
}

// DeadLetter is a message that was given up.
type DeadLetter struct {
	ID             posthaste.DeadLetterID `json:"dlqId"`
	MessageID      posthaste.MessageID    `json:"messageId"`
	URL            string                 `json:"url"`
	Body           string                 `json:"body"`
	ResponseStatus int                    `json:"responseStatus"`
	ResponseBody   string                 `json:"responseBody"`
}

// DeadLetters returns the tenant's dead letter queue, oldest first.
func (tn *Tenant) DeadLetters() []DeadLetter {
	tn.t.Helper()
	var list []DeadLetter
	for cursor := ""; ; {
		_, answer := tn.do(http.MethodGet, "/v2/dlq?order=earliestFirst"+cursor, "")
		var page struct {
			Cursor   string
			Messages []DeadLetter
		}
		if err := json.Unmarshal(answer, &page); err != nil {
			tn.t.Fatalf("list dead letters: %v", err)
		}
		list = append(list, page.Messages...)
		if page.Cursor == "" {
			return list
		}
		cursor = "&cursor=" + page.Cursor
	}
}

// Inbox returns the tenant's inbox of a name: 1 to 80 letters, digits, '.', '_' and '-'.
func (tn *Tenant) Inbox(name string) *Inbox {
	return &Inbox{tenant: tn, name: fmt.Sprintf("t%d-%s", tn.id, name)}
}

// Inbox is a destination that records deliveries, and answers 200 or as it is told. It keeps the last 1000.
type Inbox struct {
	tenant *Tenant
	name   string
}

// Delivery is a request that an inbox got.
type Delivery struct {
	At        time.Time // by the server's clock
	Attempt   int       // 1 for the first; 0 if it is no delivery
	MessageID posthaste.MessageID
	Method    string
	URL       string
	Header    http.Header
	Body      []byte
	// SignatureFault says what is wrong with the signature; empty if nothing is.
	SignatureFault string
	Status         int // it was answered with; 0 if there was no answer
}

// Answer is how an inbox answers.
type Answer struct {
	Status int // 0: 200
	Header map[string]string
	Body   string
	Delay  time.Duration // in real time
	Hang   bool          // no answer, until the server gives up: give the message a short timeout
	Drop   bool          // no answer: the connection is closed
}

// URL returns the destination to publish to.
func (i *Inbox) URL() string { return URL + devtools.InboxPath(i.name) }

// Answer has the inbox answer so from now on. Answers of AnswerNext and FailNext come first.
func (i *Inbox) Answer(a Answer) {
	i.edit(func(b *devtools.Behaviour) { b.Answer = devtools.Answer(a) })
}

// AnswerNext has the inbox answer the next requests so, one answer each, after those that were said before.
func (i *Inbox) AnswerNext(list ...Answer) {
	i.edit(func(b *devtools.Behaviour) {
		for _, a := range list {
			b.Next = append(b.Next, devtools.Answer(a))
		}
	})
}

// FailNext has the inbox answer 500 to the next n requests.
func (i *Inbox) FailNext(n int) {
	for range n {
		i.AnswerNext(Answer{Status: http.StatusInternalServerError})
	}
}

func (i *Inbox) edit(f func(*devtools.Behaviour)) {
	dev := i.tenant.server.srv.Dev()
	b := dev.Behaviour(i.name)
	f(&b)
	dev.SetBehaviour(i.name, b)
}

// Deliveries returns what the inbox got, oldest first.
func (i *Inbox) Deliveries() []Delivery {
	return show(i.tenant.server.srv.Dev().Entries(i.name, 0))
}

// Wait waits, in real time, until the inbox got at least n requests, and returns them.
func (i *Inbox) Wait(n int) []Delivery {
	i.tenant.t.Helper()
	ctx, cancel := context.WithTimeout(i.tenant.t.Context(), patience)
	defer cancel()
	entries, _ := i.tenant.server.srv.Dev().WaitEntries(ctx, i.name, 0, n)
	if len(entries) < n {
		i.tenant.t.Fatalf("inbox %s: got %d requests within %v, want %d", i.name, len(entries), patience, n)
	}
	return show(entries)
}

// Empty forgets what the inbox got.
func (i *Inbox) Empty() { i.tenant.server.srv.Dev().EmptyInbox(i.name) }

func show(entries []*devtools.Entry) []Delivery {
	list := make([]Delivery, len(entries))
	for i, e := range entries {
		list[i] = Delivery{
			At: e.At, Attempt: e.Attempt, MessageID: e.Message, Method: e.Method, URL: e.URL, Header: e.Header.Clone(),
			Body: append([]byte(nil), e.Body...), SignatureFault: e.Signature.Fault, Status: e.Status,
		}
	}
	return list
}
