package lifecycle_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/textproto"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/lifecycle"
	"github.com/posthaste/posthaste/internal/retry"
)

var update = flag.Bool("update", false, "write what the scripts in testdata give into them")

// TestScripts plays the scripts in testdata. A script is a list of commands; what a command leads to stands below it, behind
// "----", up to an empty line:
//
//	publish retries=1 callback=https://c.test …
//	attempt 500 header="Retry-After: 5" canceled
//	attempt error="connection reset" outcome=reset
//	backoff hosted
//
// Attempts follow each other when they are due.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("got scripts %v, %v, want some", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(data))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(data), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", file, diff)
			}
		})
	}
}

// play returns the script with what its commands lead to.
func play(t *testing.T, script string) string {
	t.Helper()
	p := player{t: t}
	var out strings.Builder
	lines := strings.Split(strings.TrimSuffix(script, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		out.WriteString(lines[i] + "\n")
		if lines[i] == "" || strings.HasPrefix(lines[i], "#") {
			continue
		}
		result := p.command(lines[i])
		if i+1 < len(lines) && lines[i+1] == "----" { // what stood there
			for i+1 < len(lines) && lines[i+1] != "" {
				i++
			}
		}
		if result != "" {
			out.WriteString("----\n" + result)
		}
	}
	return out.String()
}

type player struct {
	t       *testing.T
	m       *posthaste.Message
	number  int
	now     time.Time
	backoff retry.Backoff
}

// fields splits a command at blanks outside of quotes.
func fields(line string) (words []string) {
	quoted, word := false, ""
	for _, r := range line {
		switch {
		case r == '"':
			quoted = !quoted
		case r == ' ' && !quoted:
			if word != "" {
				words = append(words, word)
			}
			word = ""
		default:
			word += string(r)
		}
	}
	return append(words, word)
}

func (p *player) command(line string) string {
	p.t.Helper()
	words := fields(line)
	switch words[0] {
	case "backoff":
		b, err := retry.ParseBackoff(words[1])
		if err != nil {
			p.t.Fatal(err)
		}
		p.backoff = b
		return ""
	case "publish":
		p.publish(words[1:])
		return ""
	case "attempt":
		return p.attempt(words[1:])
	}
	p.t.Fatalf("unknown command %q", line)
	return ""
}

func (p *player) number10(s string) int {
	p.t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

func (p *player) publish(words []string) {
	p.t.Helper()
	p.now, p.number = time.Unix(1_700_000_000, 0).UTC(), 0
	m := &posthaste.Message{
		ID: "msg_source", Tenant: 7, URL: "https://a.test", Method: "POST", MaxRetries: 3, CreatedAt: p.now, NotBefore: p.now, CallerIP: "192.0.2.1",
	}
	p.m = m
	callback := func(cb **posthaste.Callback) *posthaste.Callback {
		if *cb == nil {
			*cb = &posthaste.Callback{}
		}
		return *cb
	}
	for _, w := range words {
		name, value, _ := strings.Cut(w, "=")
		switch name {
		case "retries":
			m.MaxRetries = p.number10(value)
		case "retry-delay":
			m.RetryDelay = value
		case "callback":
			callback(&m.Callback).URL = value
		case "callback-retries":
			n := p.number10(value)
			callback(&m.Callback).Retries = &n
		case "callback-method":
			callback(&m.Callback).Method = value
		case "callback-header":
			k, v, _ := strings.Cut(value, ": ")
			callback(&m.Callback).Header = posthaste.Header{k: {v}}
		case "callback-delay":
			d, err := time.ParseDuration(value)
			if err != nil {
				p.t.Fatal(err)
			}
			callback(&m.Callback).Delay = d
		case "failure-callback":
			callback(&m.FailureCallback).URL = value
		case "label":
			m.Labels = []string{value}
		case "queue":
			m.Queue = value
		case "group":
			m.Group, m.Endpoint = value, "endpoint"
		case "schedule":
			m.Schedule = posthaste.ScheduleID(value)
		default:
			p.t.Fatalf("unknown setting %q", w)
		}
	}
}

func (p *player) attempt(words []string) string {
	p.t.Helper()
	r := &lifecycle.Result{Took: time.Second, Header: posthaste.Header{}}
	in := lifecycle.Input{Message: p.m, Number: p.number, StartedAt: p.now, Result: r, Now: p.now, Backoff: p.backoff, DeadSeq: 9}
	for _, w := range words {
		name, value, _ := strings.Cut(w, "=")
		switch name {
		case "header":
			k, v, _ := strings.Cut(value, ": ")
			r.Header[textproto.CanonicalMIMEHeaderKey(k)] = append(r.Header[textproto.CanonicalMIMEHeaderKey(k)], v)
		case "error":
			r.Error = value
		case "outcome":
			r.Outcome = posthaste.Outcome(value)
		case "canceled":
			in.Canceled = true
		default:
			r.Status = p.number10(w)
			r.Outcome, r.Error = posthaste.OutcomeStatus, w
			if r.Status/100 == 2 {
				r.Outcome, r.Error = posthaste.OutcomeDelivered, ""
			}
		}
	}
	s := lifecycle.Settle(in)
	var out strings.Builder
	a := s.Attempt
	if a.Tenant != p.m.Tenant || a.Message != p.m.ID || a.Number != p.number || a.StartedAt != p.now || a.EndedAt != p.now || a.Took != time.Second ||
		a.Status != r.Status || a.Error != r.Error || a.Outcome != r.Outcome {
		p.t.Errorf("got attempt %+v, want that of the result", a)
	}
	if s.Final != (a.State != posthaste.StateRetry) || s.Final != a.NextAt.IsZero() {
		p.t.Errorf("got final %v and next %v of %s, want a next attempt for RETRY alone", s.Final, a.NextAt, a.State)
	}
	out.WriteString(string(a.State))
	if !s.Final {
		fmt.Fprintf(&out, " in %v", a.NextAt.Sub(p.now))
		p.now, p.number = a.NextAt, p.number+1
	}
	out.WriteByte('\n')
	if d := s.Dead; d != nil {
		if d.Message != p.m.ID || d.Tenant != p.m.Tenant || d.At != in.Now || cmp.Diff(d.Last, *a) != "" {
			p.t.Errorf("got dead letter %+v, want one of this attempt", d)
		}
		fmt.Fprintf(&out, "dead letter %s\n", d.ID)
	}
	for _, d := range s.Callbacks {
		c := d.Message
		if c.Tenant != p.m.Tenant || c.Source != p.m.ID || c.CallerIP != p.m.CallerIP || c.Queue != "" || c.Schedule != "" || c.Group != "" || c.Labels != nil ||
			c.Callback != nil || c.FailureCallback != nil || c.ID != "" {
			p.t.Errorf("got callback %+v, want nothing of its source but the tenant and the caller", c)
		}
		var body struct {
			Status, Retried, MaxRetries *int
			DlqID, SourceMessageID      string
		}
		if err := json.Unmarshal(c.Body, &body); err != nil || body.Status == nil || body.Retried == nil || body.MaxRetries == nil || body.SourceMessageID != string(p.m.ID) {
			p.t.Errorf("got callback body %s, want what it is about", c.Body)
			continue
		}
		fmt.Fprintf(&out, "callback %s %s retries=%d", c.Method, c.URL, c.MaxRetries)
		if d.Delay > 0 {
			fmt.Fprintf(&out, " delay=%v", d.Delay)
		}
		for _, name := range []string{"Content-Type", "X"} {
			if v := c.Header[name]; len(v) > 0 {
				fmt.Fprintf(&out, " %s=%s", name, v[0])
			}
		}
		fmt.Fprintf(&out, ": status %d retried %d of %d", *body.Status, *body.Retried, *body.MaxRetries)
		if body.DlqID != "" {
			fmt.Fprintf(&out, " dead letter %s", body.DlqID)
		}
		out.WriteByte('\n')
	}
	return out.String()
}

// TestSettleIsPure: the same input gives the same settlement, and is left alone.
func TestSettleIsPure(t *testing.T) {
	now := time.Unix(1_700_000_000, 0).UTC()
	m := &posthaste.Message{ID: "msg_source", MaxRetries: 0, Header: posthaste.Header{"A": {"b"}}, Callback: &posthaste.Callback{URL: "https://c.test", Header: posthaste.Header{"C": {"d"}}}}
	in := lifecycle.Input{Message: m, Now: now, Result: &lifecycle.Result{Outcome: posthaste.OutcomeStatus, Status: 500, Header: posthaste.Header{"E": {"f"}}, Body: []byte("x")}}
	first := lifecycle.Settle(in)
	first.Callbacks[0].Message.Header["C"][0] = "changed"
	first.Callbacks[0].Message.Body[0] = 'x'
	second := lifecycle.Settle(in)
	if got := m.Callback.Header["C"][0]; got != "d" {
		t.Errorf("got header %q of the message's callback, want d", got)
	}
	if got := second.Callbacks[0].Message; got.Header["C"][0] != "d" || got.Body[0] != '{' {
		t.Errorf("got callback %v %.10s, want it anew", got.Header, got.Body)
	}
}

// TestBrokenExpression: an expression that does not compile any more leaves the backoff.
func TestBrokenExpression(t *testing.T) {
	now := time.Unix(1_700_000_000, 0).UTC()
	s := lifecycle.Settle(lifecycle.Input{
		Message: &posthaste.Message{MaxRetries: 1, RetryDelay: "no such thing("}, Now: now, Result: &lifecycle.Result{Outcome: posthaste.OutcomeTimeout},
	})
	if got := s.Attempt.NextAt.Sub(now); got != 10*time.Second {
		t.Errorf("got a wait of %v, want 10s", got)
	}
}
