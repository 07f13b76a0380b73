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

// deadFields are the filters of the dead letter queue, as the API names them.
var deadFields = []field{
	{Name: "messageId", Label: "Message id", Hint: "msg_…"},
	{Name: "url", Label: "URL", Hint: "https://…"},
	{Name: "label", Label: "Label"},
	{Name: "queueName", Label: "Queue"},
	{Name: "urlGroup", Label: "URL group"},
	{Name: "scheduleId", Label: "Schedule"},
	{Name: "responseStatus", Label: "Response status", Hint: "500"},
	{Name: "flowControlKey", Label: "Flow-control key"},
	{Name: "callerIp", Label: "Caller IP"},
}

type deadData struct {
	Dead   []wire.Dead
	Fields []field
	From   string
	To     string
	Active []chip
	Next   string
	First  string
	Query  string // the filter, for bulk work
}

// deadQuery cleans the query of a dead letter page: what stays is known to the API.
func deadQuery(raw string) (url.Values, error) {
	q, err := url.ParseQuery(raw)
	if err != nil {
		return nil, posthaste.Errorf(posthaste.CodeInvalid, "malformed query")
	}
	for k, v := range q {
		if len(v) == 0 || len(v) == 1 && strings.TrimSpace(v[0]) == "" {
			q.Del(k)
		}
	}
	dates(q)
	return q, nil
}

func (h *Handler) dead(c *call) (*view, error) {
	q, err := deadQuery(c.r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	shown := url.Values{"order": {"latestFirst"}, "count": {strconv.Itoa(pageRows)}}
	for k, v := range q {
		shown[k] = v
	}
	f, err := wire.ParseDeadFilter(shown.Encode())
	if err != nil {
		return nil, err
	}
	page, cursor, err := h.broker.DeadLetters(c.ctx(), c.who, f)
	if err != nil {
		return nil, err
	}
	d := deadData{Dead: page, From: shownDate(q, "fromDate"), To: shownDate(q, "toDate")}
	for _, fl := range deadFields {
		fl.Value = strings.Join(q[fl.Name], ",")
		d.Fields = append(d.Fields, fl)
		if fl.Value != "" {
			d.Active = append(d.Active, chip{fl.Label, fl.Value, with(q, fl.Name, "")})
		}
	}
	for _, t := range []struct{ label, param, value string }{{"From", "fromDate", d.From}, {"To", "toDate", d.To}} {
		if t.value != "" {
			d.Active = append(d.Active, chip{t.label, t.value + " UTC", with(q, t.param, "")})
		}
	}
	if cursor != "" {
		d.Next = with(q, "cursor", cursor)
	}
	v := &view{page: "dlq", title: "Dead letter queue", nav: "dlq", every: every}
	if q.Get("cursor") != "" {
		d.First = with(q)
	} else {
		v.live = []string{"dlq-rows"}
	}
	q.Del("cursor")
	d.Query = q.Encode()
	v.data = d
	return v, nil
}

// bulk is work on many dead letters, done in steps that the page asks for one after the other.
type bulk struct {
	Action string // retry or delete
	IDs    string // of chosen entries; empty: all that the filter selects
	Query  string
	Count  int  // how many it is about
	More   bool // there are more than were counted
	Sample []wire.Dead
	Done   int
	Over   bool
	Note   string
}

// Share is how much is done, in percent.
func (b bulk) Share() int {
	if b.Over {
		return 100
	}
	return min(100*b.Done/max(b.Count, 1), 99)
}

const (
	maxCounted = 1000 // dead letters that a preview counts
	stepSize   = 100
	sampleSize = 8
)

func (c *call) bulk() (bulk, wire.DeadFilter, error) {
	f := c.r.Form
	b := bulk{Action: f.Get("action"), IDs: strings.Join(f["id"], ","), Query: f.Get("query")}
	if b.IDs == "" {
		b.IDs = f.Get("ids")
	}
	if b.Action != "retry" && b.Action != "delete" {
		return b, wire.DeadFilter{}, posthaste.Errorf(posthaste.CodeInvalid, "there is no such action")
	}
	if b.IDs != "" {
		filter, err := wire.ParseDeadSelection(url.Values{"dlqIds": {b.IDs}}.Encode(), nil)
		return b, filter, err
	}
	q, err := deadQuery(b.Query)
	if err != nil {
		return b, wire.DeadFilter{}, err
	}
	if q.Get("toDate") == "" {
		// What fails again meanwhile is not part of it, or it would never end.
		q.Set("toDate", strconv.FormatInt(c.h.broker.Now().Add(-time.Millisecond).UnixMilli(), 10))
		b.Query = q.Encode()
	}
	q.Set("count", strconv.Itoa(stepSize))
	filter, err := wire.ParseDeadSelection(q.Encode(), nil)
	return b, filter, err
}

// previewDead tells what bulk work would touch.
func (h *Handler) previewDead(c *call) error {
	b, f, err := c.bulk()
	if err != nil {
		return err
	}
	if f.Count == 0 {
		f.Count = stepSize
	}
	for b.Count < maxCounted {
		page, cursor, err := h.broker.DeadLetters(c.ctx(), c.who, f)
		if err != nil {
			return err
		}
		b.Count += len(page)
		if len(b.Sample) < sampleSize {
			b.Sample = append(b.Sample, page[:min(len(page), sampleSize-len(b.Sample))]...)
		}
		if cursor == "" || len(f.IDs) > 0 {
			break
		}
		next, err := wire.ParseCursor(cursor)
		if err != nil {
			return err
		}
		f.Cursor, b.More = &next, b.Count+stepSize > maxCounted
	}
	c.part("dlq", "bulk-preview", b)
	return nil
}

// stepDead does the next step of bulk work. What a step did stays done when a later one fails.
func (h *Handler) stepDead(c *call) error {
	b, f, err := c.bulk()
	if err != nil {
		return err
	}
	b.Count, _ = strconv.Atoi(c.r.Form.Get("count"))
	b.Done, _ = strconv.Atoi(c.r.Form.Get("done"))
	b.More = c.r.Form.Get("more") == "true"
	var n int
	var cursor string
	if b.Action == "delete" {
		n, cursor, err = h.broker.DeleteDeadAll(c.ctx(), c.who, f)
	} else {
		var ids []posthaste.MessageID
		ids, cursor, err = h.broker.RetryDeadAll(c.ctx(), c.who, f, wire.Input{})
		n = len(ids)
	}
	b.Done += n
	if err != nil {
		b.Over, b.Note = true, c.words(err)
	}
	b.Over = b.Over || cursor == "" || len(f.IDs) > 0
	c.part("dlq", "bulk-progress", b)
	return nil
}

// oneDead retries or deletes one entry.
func (h *Handler) oneDead(c *call) error {
	id := posthaste.DeadLetterID(c.r.Form.Get("id"))
	if c.r.Form.Get("action") == "delete" {
		if err := h.broker.DeleteDead(c.ctx(), c.who, id); err != nil {
			return err
		}
		return c.done(Prefix+"dlq", "The dead letter is deleted.")
	}
	made, err := h.broker.RetryDead(c.ctx(), c.who, id, wire.Input{})
	if err != nil {
		return err
	}
	c.flash("good", "Published again as a new message.")
	http.Redirect(c.w, c.r, Prefix+"messages/"+url.PathEscape(string(made)), http.StatusSeeOther)
	return nil
}
