package console

import (
	"context"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/devtools"
	"github.com/posthaste/posthaste/internal/wire"
)

// travelTime bounds how long a page waits for the clock to get where it is to go.
const travelTime = 2 * time.Minute

// devData is what the page of the development server shows.
type devData struct {
	Now     time.Time
	Ahead   time.Duration
	Inboxes []inboxRow
	Base    string
	Curl    string
}

type inboxRow struct {
	devtools.Inbox
	URL string
}

func (h *Handler) development(c *call) (*view, error) {
	d := devData{Now: h.dev.Now().Truncate(time.Second), Ahead: h.dev.Offset().Round(time.Second), Base: c.base() + devtools.InboxPath("")}
	for _, in := range h.dev.Inboxes() {
		d.Inboxes = append(d.Inboxes, inboxRow{in, c.base() + devtools.InboxPath(url.PathEscape(in.Name))})
	}
	to := input{Kind: "url", Destination: d.Base + "first", Body: `{"hello": "world"}`, ContentType: wire.ContentTypeJSON}
	d.Curl = to.curl(c.base(), c.shownToken())
	return &view{page: "dev", title: "Clock and inboxes", nav: "clock", data: d, live: []string{"dev-clock", "dev-inboxes"}, every: time.Second}, nil
}

// moveClock moves the clock forward: by a duration, or to the next due moment.
func (h *Handler) moveClock(c *call) error {
	ctx, cancel := context.WithTimeout(c.ctx(), travelTime)
	defer cancel()
	by := strings.TrimSpace(c.r.Form.Get("by"))
	var now time.Time
	var err error
	if by == "next" {
		now, err = h.dev.AdvanceToNext(ctx)
	} else {
		var d time.Duration
		if d, err = wire.ParseDuration(by); err != nil || d <= 0 {
			return posthaste.Errorf(posthaste.CodeInvalid, "%q is no duration: write something like 90s, 15m or 6h", by)
		}
		now, err = h.dev.Advance(ctx, d)
	}
	if err != nil && ctx.Err() != nil && c.ctx().Err() == nil {
		return posthaste.Errorf(posthaste.CodeConflict, "there is more on the way than two minutes were enough for; the clock stands at %s", h.dev.Now().UTC().Format(time.DateTime))
	}
	if err != nil {
		return err
	}
	return c.done(Prefix+"dev", "It is now "+now.UTC().Format("Mon 2 Jan 2006, 15:04:05")+" UTC, and what became due was attempted.")
}

func (h *Handler) reset(c *call) error {
	if err := h.dev.Reset(c.ctx()); err != nil {
		return err
	}
	return c.done(Prefix+"dev", "The server is empty. Tenants keep their tokens and keys.")
}

// caught is a request that an inbox caught, as a page shows it.
type caught struct {
	*devtools.Entry
	Shown  shownBody
	Header []pair
}

type inboxData struct {
	Name    string
	URL     string
	Entries []caught
	Total   int
	Answer  devtools.Answer
	Next    int // requests that are answered otherwise first
	NextAs  int
}

// maxCaught bounds the entries on a page.
const maxCaught = 50

func (h *Handler) inbox(c *call) (*view, error) {
	name := c.r.PathValue("name")
	b := h.dev.Behaviour(name)
	d := inboxData{Name: name, URL: c.base() + devtools.InboxPath(url.PathEscape(name)), Answer: b.Answer, Next: len(b.Next)}
	if d.Next > 0 {
		d.NextAs = b.Next[0].Status
	}
	entries := h.dev.Entries(name, 0)
	d.Total = len(entries)
	for _, e := range slices.Backward(entries[max(0, len(entries)-maxCaught):]) {
		d.Entries = append(d.Entries, caught{e, bodyOf(e.Body), pairs(posthaste.Header(e.Header))})
	}
	return &view{page: "inbox", title: "Inbox " + name, nav: "clock", data: d, live: []string{"inbox-entries", "inbox-answer"}, every: time.Second}, nil
}

// setInbox changes how an inbox answers, or empties it.
func (h *Handler) setInbox(c *call) error {
	f := c.r.Form
	name := f.Get("name")
	if name == "" || len(name) > 200 {
		return posthaste.Errorf(posthaste.CodeInvalid, "name the inbox")
	}
	to := Prefix + "dev/inbox/" + url.PathEscape(name)
	if f.Get("action") == "empty" {
		h.dev.EmptyInbox(name)
		return c.done(to, "The inbox is empty.")
	}
	count := func(what, s string, most int) (int, error) {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		if s != "" && (err != nil || n < 0 || n > most) {
			return 0, posthaste.Errorf(posthaste.CodeInvalid, "%s: %q is not a number up to %d", what, s, most)
		}
		return n, nil
	}
	status, err := count("status", f.Get("status"), 599)
	if err != nil {
		return err
	}
	first, err := count("first requests", f.Get("next"), 1000)
	if err != nil {
		return err
	}
	firstAs, err := count("their status", f.Get("next_status"), 599)
	if err != nil {
		return err
	}
	for _, s := range []int{status, firstAs} {
		if s != 0 && s < 200 {
			return posthaste.Errorf(posthaste.CodeInvalid, "status: %d is not one from 200 to 599", s)
		}
	}
	b := devtools.Behaviour{Answer: devtools.Answer{Status: status, Body: f.Get("body")}}
	for range first {
		b.Next = append(b.Next, devtools.Answer{Status: firstAs})
	}
	h.dev.SetBehaviour(name, b)
	return c.done(to, "The inbox answers so from now on.")
}
