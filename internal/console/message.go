package console

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/wire"
)

// shownBody is a body as a page shows it.
type shownBody struct {
	Kind string // empty, json, text, binary, redacted
	Text string
	Size int
	Cut  bool // there is more
}

// maxShown bounds the bytes of a body on a page.
const maxShown = 64 << 10

func bodyOf(b []byte) shownBody {
	s := shownBody{Size: len(b)}
	switch {
	case len(b) == 0:
		s.Kind = "empty"
		return s
	case json.Valid(b):
		var out bytes.Buffer
		if json.Indent(&out, b, "", "  ") == nil && out.Len() <= 4*maxShown {
			s.Kind, s.Text = "json", out.String()
			return s
		}
	}
	if s.Cut = len(b) > maxShown; s.Cut {
		b = b[:maxShown]
		for i := 0; i < utf8.UTFMax && len(b) > 0 && !utf8.Valid(b); i++ {
			b = b[:len(b)-1] // a character that was cut
		}
	}
	if printable(b) {
		s.Kind, s.Text = "text", string(b)
		return s
	}
	s.Kind, s.Cut = "binary", s.Size > maxShown/16
	s.Text = hex.Dump(b[:min(len(b), maxShown/16)])
	return s
}

func printable(b []byte) bool {
	return utf8.Valid(b) && !bytes.ContainsFunc(b, func(r rune) bool { return r < ' ' && r != '\n' && r != '\r' && r != '\t' })
}

// pair is a header line.
type pair struct{ Name, Value string }

func pairs(h posthaste.Header) []pair {
	var out []pair
	for _, name := range slices.Sorted(maps.Keys(h)) {
		for _, v := range h[name] {
			out = append(out, pair{name, v})
		}
	}
	return out
}

// event is one step of a message's timeline.
type step struct {
	Kind    string // created, attempt, running, cancel, canceled
	At      time.Time
	Label   string
	Class   string
	Number  int
	Attempt *posthaste.Attempt
	Body    shownBody
	Header  []pair
	NextAt  time.Time
	Dead    posthaste.DeadLetterID
	Caused  []row
	Open    bool // shown unfolded
}

// messageData is what the page of a message shows.
type messageData struct {
	M        *posthaste.Message
	State    state
	Steps    []step
	Standing *broker.Standing
	Now      string // where it stands, in words
	Header   []pair
	Body     shownBody
	Curl     string
	Open     bool // can still be canceled
	Settings []pair
	Tags     []tag
	Size     int
	Dead     posthaste.DeadLetterID
}

func (h *Handler) message(c *call) (*view, error) {
	l, err := h.broker.Life(c.ctx(), c.who, posthaste.MessageID(c.r.PathValue("id")))
	if err != nil {
		if posthaste.CodeOf(err) == posthaste.CodeNotFound {
			return nil, posthaste.Errorf(posthaste.CodeNotFound, "There is no message %s. What finished is dropped after the server's retention.", c.r.PathValue("id"))
		}
		return nil, err
	}
	m := l.Message
	header, marker, body := wire.Shown(m)
	d := messageData{
		M: m, Standing: l.Standing, Header: pairs(header), Body: bodyOf(body), Open: l.Standing != nil && !l.Standing.Canceled, Size: len(m.Body),
		Dead: l.Dead, Settings: settingsOf(m),
	}
	if marker != "" {
		d.Body = shownBody{Kind: "redacted", Text: marker, Size: len(m.Body)}
	}
	last := l.Entries[len(l.Entries)-1]
	d.State = status(last.State)
	d.Tags = rowOf(last).Tags
	d.Steps = steps(l)
	d.Now = c.standing(l)
	d.Curl = inputOf(m, marker == "").curl(c.base(), c.shownToken())
	return &view{
		page: "message", title: "Message " + short(m.ID), nav: "logs", data: d, live: []string{"message-life", "message-head"}, every: time.Second,
	}, nil
}

// steps makes a timeline of a message's log: what began and what came of it are one step.
func steps(l *broker.Life) []step {
	var out []step
	running := map[int]int{} // number of an attempt: its step
	for _, e := range l.Entries {
		switch e.State {
		case posthaste.StateCreated:
			out = append(out, step{Kind: "created", At: e.At, Label: "Accepted", Class: "neutral", NextAt: e.NextAt})
		case posthaste.StateActive:
			running[e.Number] = len(out)
			out = append(out, step{Kind: "running", At: e.At, Label: "Attempt", Class: "info", Number: e.Number + 1})
		case posthaste.StateError:
			// What follows at the same moment tells what it led to.
		case posthaste.StateDelivered, posthaste.StateRetry, posthaste.StateFailed, posthaste.StateCanceled:
			if e.Attempt == nil {
				out = append(out, step{Kind: "canceled", At: e.At, Label: "Canceled", Class: "neutral"})
				continue
			}
			s := status(e.State)
			st := step{
				Kind: "attempt", At: e.Attempt.StartedAt, Label: s.Label, Class: s.Class, Number: e.Number + 1, Attempt: e.Attempt,
				Body: bodyOf(e.Attempt.Body), Header: pairs(e.Attempt.Header), NextAt: e.NextAt, Open: e.State != posthaste.StateDelivered,
			}
			if e.State == posthaste.StateFailed {
				st.Dead = l.Dead
			}
			for _, m := range l.Callbacks {
				if m.CreatedAt.Equal(e.At) {
					st.Caused = append(st.Caused, row{ID: m.ID, URL: m.URL, Method: m.Method})
				}
			}
			if i, ok := running[e.Number]; ok {
				out[i] = st
			} else {
				out = append(out, st)
			}
		case posthaste.StateCancelRequested:
			out = append(out, step{Kind: "cancel", At: e.At, Label: "Cancel requested", Class: "neutral"})
		}
	}
	return out
}

// standing says in words where a message stands.
func (c *call) standing(l *broker.Life) string {
	s := l.Standing
	if s == nil {
		return ""
	}
	switch s.Phase {
	case posthaste.PhaseDelayed:
		if s.Attempt > 0 {
			return "Waits for retry " + number(s.Attempt) + " of " + number(l.Message.MaxRetries) + "."
		}
		return "Waits for its time."
	case posthaste.PhaseReady:
		return "Is due and about to start."
	case posthaste.PhaseClaimed:
		if s.Canceled {
			return "An attempt is running. It was canceled: no other attempt will follow."
		}
		return "An attempt is running."
	case posthaste.PhaseWaiting:
		if s.Gate != nil {
			return gateWords(s.Gate)
		}
		return "Waits to be started."
	case posthaste.PhaseNone:
	}
	return ""
}

// gateWords says why a gate holds messages back.
func gateWords(g *broker.Gate) string {
	var why string
	switch {
	case g.Paused:
		why = "which is paused"
	case g.Kind == broker.GateHost:
		why = "which fails to answer and is being probed"
	case g.Parallelism > 0 && g.InFlight >= g.Parallelism:
		why = "which has " + plural(g.InFlight, "message", "messages") + " in flight, as many as it may"
	case g.Rate > 0 && g.RateUsed >= g.Rate:
		why = "whose rate of " + number(g.Rate) + " is used up for now"
	default:
		why = "which has others first"
	}
	place := "behind the first 1000"
	if g.Place > 0 {
		place = "place " + number(g.Place) + " of " + number(max(g.Waiting, int64(g.Place)))
	}
	name := "the " + string(g.Kind)
	if g.Name != "" {
		name += " " + g.Name
	}
	return "Waits at " + name + ", " + why + ": " + place + "."
}

// settingsOf lists what a message was published with, besides headers and body.
func settingsOf(m *posthaste.Message) []pair {
	out := []pair{{"Method", m.Method}, {"Retries", number(m.MaxRetries)}}
	put := func(name, value string) {
		if value != "" {
			out = append(out, pair{name, value})
		}
	}
	put("Retry delay", m.RetryDelay)
	if m.Timeout > 0 {
		put("Timeout", period(m.Timeout))
	}
	if m.Delay > 0 {
		put("Delay", period(m.Delay))
	}
	put("Queue", m.Queue)
	put("URL group", m.Group)
	put("Endpoint", m.Endpoint)
	put("Schedule", string(m.Schedule))
	put("Labels", strings.Join(m.Labels, ", "))
	for _, f := range m.Flow {
		put("Flow control", f.Key+" "+wire.FormatFlow(f))
	}
	if m.Priority > 0 {
		put("Priority", number(m.Priority))
	}
	if m.Callback != nil {
		put("Callback", m.Callback.URL)
	}
	if m.FailureCallback != nil {
		put("Failure callback", m.FailureCallback.URL)
	}
	put("Redacted", wire.FormatRedact(m.Redact))
	put("Caller IP", m.CallerIP)
	return out
}

func (h *Handler) cancelMessage(c *call) error {
	id := posthaste.MessageID(c.r.PathValue("id"))
	if err := h.broker.Cancel(c.ctx(), c.who, id); err != nil {
		return err
	}
	return c.done(Prefix+"messages/"+url.PathEscape(string(id)), "The message was canceled.")
}
