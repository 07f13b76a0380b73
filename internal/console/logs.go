package console

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/wire"
)

// row is an entry of the log, or, grouped, the latest one of a message.
type row struct {
	At      time.Time
	ID      posthaste.MessageID
	State   posthaste.LogState
	URL     string
	Method  string
	Status  int
	Error   string
	Took    time.Duration
	Attempt int
	Of      int // attempts that the message may have
	NextAt  time.Time
	Tags    []tag
	Entries int // on this page
}

// tag is something about a message that a filter can name.
type tag struct{ Kind, Name, Param string }

func rowOf(e *posthaste.LogEntry) row {
	m := e.Message
	r := row{
		At: e.At, ID: m.ID, State: e.State, URL: m.URL, Method: m.Method, Attempt: e.Number + 1, Of: m.MaxRetries + 1, NextAt: e.NextAt,
		Entries: 1,
	}
	if a := e.Attempt; a != nil {
		r.Status, r.Took = a.Status, a.Took
		if e.State != posthaste.StateDelivered {
			r.Error = a.Error
		}
	}
	for _, t := range []tag{
		{"queue", m.Queue, "queueName"}, {"group", m.Group, "urlGroup"}, {"schedule", string(m.Schedule), "scheduleId"},
	} {
		if t.Name != "" {
			r.Tags = append(r.Tags, t)
		}
	}
	for _, l := range m.Labels {
		r.Tags = append(r.Tags, tag{"label", l, "label"})
	}
	for _, f := range m.Flow {
		r.Tags = append(r.Tags, tag{"flow", f.Key, "flowControlKey"})
	}
	if m.Source != "" {
		r.Tags = append(r.Tags, tag{"callback", string(m.Source), ""})
	}
	return r
}

// grouped keeps the latest entry of each message.
func grouped(entries []*posthaste.LogEntry) []row {
	var rows []row
	at := map[posthaste.MessageID]int{}
	for _, e := range entries {
		if i, ok := at[e.Message.ID]; ok {
			rows[i].Entries++
			if e.At.After(rows[i].At) {
				n := rows[i].Entries
				rows[i] = rowOf(e)
				rows[i].Entries = n
			}
			continue
		}
		at[e.Message.ID] = len(rows)
		rows = append(rows, rowOf(e))
	}
	return rows
}

// The states that a filter offers.
var filterStates = []posthaste.LogState{
	posthaste.StateCreated, posthaste.StateActive, posthaste.StateDelivered, posthaste.StateError, posthaste.StateRetry,
	posthaste.StateFailed, posthaste.StateCancelRequested, posthaste.StateCanceled,
}

// field is a text field of a filter.
type field struct{ Name, Label, Value, Hint string }

// logFields are the filters of the log besides state and time, as the API names them.
var logFields = []field{
	{Name: "messageId", Label: "Message id", Hint: "msg_…"},
	{Name: "url", Label: "URL", Hint: "https://…"},
	{Name: "host", Label: "Host", Hint: "api.example.com"},
	{Name: "path", Label: "Path", Hint: "/webhook"},
	{Name: "label", Label: "Label"},
	{Name: "queueName", Label: "Queue"},
	{Name: "urlGroup", Label: "URL group"},
	{Name: "scheduleId", Label: "Schedule"},
	{Name: "flowControlKey", Label: "Flow-control key"},
	{Name: "callerIp", Label: "Caller IP"},
}

// choice is an option of a select.
type choice struct {
	Value, Label string
	Chosen       bool
}

// logsData is what the log shows.
type logsData struct {
	Rows    []row
	Grouped bool
	States  []choice
	Fields  []field
	From    string // as a date field holds it, UTC
	To      string
	Active  []chip // filters in force
	Next    string // address of the next page; empty: none
	First   string // address of the first page, on a later one
	Toggle  string // address of the other grouping
	Order   string
	Flip    string // address of the other order
	Count   int
	Curl    string
}

// chip is a filter in force and the address without it.
type chip struct{ Label, Value, Without string }

const dateField = "2006-01-02T15:04"

// dates turns the date fields of a filter form, which are in UTC, into the parameters of the API.
func dates(q url.Values) {
	for _, f := range []struct {
		field, param string
		more         time.Duration
	}{{"from", "fromDate", 0}, {"to", "toDate", time.Minute - time.Millisecond}} {
		if t, err := time.Parse(dateField, q.Get(f.field)); err == nil {
			q.Set(f.param, strconv.FormatInt(t.Add(f.more).UnixMilli(), 10))
		}
		q.Del(f.field)
	}
}

// shownDate is the reverse of dates for one parameter.
func shownDate(q url.Values, param string) string {
	n, err := strconv.ParseInt(q.Get(param), 10, 64)
	if err != nil {
		return ""
	}
	return time.UnixMilli(n).UTC().Format(dateField)
}

// search finds out what somebody is looking for.
func search(text string) string {
	text = strings.TrimSpace(text)
	q := url.Values{}
	switch {
	case strings.HasPrefix(text, "msg_"):
		return Prefix + "messages/" + url.PathEscape(text)
	case strings.Contains(text, "://"):
		q.Set("url", text)
	case strings.HasPrefix(text, "/"):
		q.Set("path", text)
	case strings.HasPrefix(text, "scd_"):
		q.Set("scheduleId", text)
	case strings.Contains(text, ".") || strings.Contains(text, ":"):
		q.Set("host", text)
	case text != "":
		q.Set("label", text)
	}
	return Prefix + "logs?" + q.Encode()
}

// with returns an address of the log with parameters set, or removed where the value is empty. Any change starts at the first
// page.
func with(q url.Values, pairs ...string) string {
	n := url.Values{}
	for k, v := range q {
		if k != "cursor" {
			n[k] = v
		}
	}
	for i := 0; i < len(pairs); i += 2 {
		if n.Del(pairs[i]); pairs[i+1] != "" {
			n.Set(pairs[i], pairs[i+1])
		}
	}
	return "?" + n.Encode()
}

const (
	pageRows    = 50
	pageEntries = 100 // of a grouped page
)

func (h *Handler) logs(c *call) (*view, error) {
	q := c.r.URL.Query()
	if text, ok := q["q"]; ok {
		http.Redirect(c.w, c.r, search(text[0]), http.StatusSeeOther)
		return nil, nil
	}
	for k, v := range q {
		if len(v) == 0 || len(v) == 1 && v[0] == "" {
			q.Del(k)
		}
	}
	dates(q)
	f, err := wire.ParseLogFilter(q.Encode(), wire.RouteLogs)
	if err != nil {
		return nil, err
	}
	d := logsData{
		Grouped: q.Get("view") != "entries", From: shownDate(q, "fromDate"), To: shownDate(q, "toDate"),
		Order: q.Get("order"), Count: pageRows,
	}
	f.Count = pageRows
	if d.Grouped {
		f.Count = pageEntries
	}
	entries, cursor, err := h.broker.Logs(c.ctx(), c.who, f)
	if err != nil {
		return nil, err
	}
	if d.Grouped {
		d.Rows = grouped(entries)
		d.Toggle = with(q, "view", "entries")
	} else {
		for _, e := range entries {
			d.Rows = append(d.Rows, rowOf(e))
		}
		d.Toggle = with(q, "view", "")
	}
	if f.EarliestFirst {
		d.Flip = with(q, "order", "")
	} else {
		d.Flip = with(q, "order", "earliestFirst")
	}
	if cursor != "" {
		d.Next = with(q, "cursor", cursor)
	}
	if q.Get("cursor") != "" {
		d.First = with(q)
	}
	for _, s := range filterStates {
		chosen := false
		for _, have := range f.States {
			chosen = chosen || have == s
		}
		d.States = append(d.States, choice{string(s), status(s).Label, chosen && len(f.States) < len(filterStates)})
	}
	for _, fl := range logFields {
		fl.Value = strings.Join(q[fl.Name], ",")
		d.Fields = append(d.Fields, fl)
		if fl.Value != "" {
			d.Active = append(d.Active, chip{fl.Label, fl.Value, with(q, fl.Name, "")})
		}
	}
	if v := q["state"]; len(v) > 0 {
		d.Active = append(d.Active, chip{"State", strings.ToLower(strings.Join(v, ", ")), with(q, "state", "")})
	}
	if d.From != "" {
		d.Active = append(d.Active, chip{"From", d.From + " UTC", with(q, "fromDate", "")})
	}
	if d.To != "" {
		d.Active = append(d.Active, chip{"To", d.To + " UTC", with(q, "toDate", "")})
	}
	in := input{Kind: "url", Destination: "https://example.com/", Method: http.MethodPost, Body: `{"hello": "world"}`, ContentType: wire.ContentTypeJSON}
	d.Curl = in.curl(c.base(), c.shownToken())
	v := &view{page: "logs", title: "Logs", nav: "logs", data: d, every: time.Second}
	if q.Get("cursor") == "" && !f.EarliestFirst {
		v.live = []string{"logs-rows"} // what came before does not change
	}
	return v, nil
}
