package console

import (
	"net/http"
	"net/url"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/wire"
)

// publishData is what the page to publish shows.
type publishData struct {
	In       *input
	Snippets []snippet
	Problem  string
	Queues   []string // known names, offered while one types
	Groups   []string
	From     posthaste.MessageID // the message that is published again
	Lost     bool                // its body is redacted and must be entered anew
	Dev      bool
}

var methods = []string{http.MethodPost, http.MethodGet, http.MethodPut, http.MethodPatch, http.MethodDelete}

// Methods returns what a select offers.
func (in *input) Methods() []choice {
	var out []choice
	for _, m := range methods {
		out = append(out, choice{m, m, m == in.Method})
	}
	return out
}

func (h *Handler) publishForm(c *call) (*view, error) {
	q := c.r.URL.Query()
	in := inputFrom(q)
	if q.Get("kind") == "" {
		in.Kind, in.Method, in.ContentType = "url", http.MethodPost, wire.ContentTypeJSON
		if in.Body == "" {
			in.Body = "{\n  \"hello\": \"world\"\n}"
		}
	}
	d := publishData{In: &in}
	if from := posthaste.MessageID(q.Get("from")); from != "" {
		m, err := h.broker.Message(c.ctx(), c.who, from)
		if err != nil {
			return nil, err
		}
		_, marker, _ := wire.Shown(m)
		d.In, d.From, d.Lost = inputOf(m, marker == ""), from, marker != ""
	}
	return c.publishView(d, http.StatusOK)
}

// publishView completes the page to publish.
func (c *call) publishView(d publishData, status int) (*view, error) {
	d.Snippets = d.In.snippets(c.base(), c.shownToken())
	var err error
	if d.Queues, d.Groups, err = c.known(); err != nil {
		return nil, err
	}
	return &view{page: "publish", title: "Publish", nav: "publish", data: d, status: status}, nil
}

// known returns the names of queues and URL groups.
func (c *call) known() (queues, groups []string, err error) {
	qs, err := c.h.broker.Queues(c.ctx(), c.who)
	if err != nil {
		return nil, nil, err
	}
	for _, q := range qs {
		queues = append(queues, q.Name)
	}
	gs, err := c.h.broker.Groups(c.ctx(), c.who)
	for _, g := range gs {
		groups = append(groups, g.Name)
	}
	return queues, groups, err
}

// publish publishes what the form says. A refusal shows the form again with all that was entered.
func (h *Handler) publish(c *call) error {
	in := inputFrom(c.r.Form)
	item, err := in.item()
	var results []broker.Result
	if err == nil {
		results, _, err = h.broker.Publish(c.ctx(), c.who, []broker.Item{item})
	}
	if err != nil {
		if c.back() != "" {
			return err
		}
		v, e := c.publishView(publishData{In: &in, Problem: c.words(err)}, statuses[posthaste.CodeOf(err)])
		if e != nil {
			return e
		}
		c.render(v)
		return nil
	}
	made := results[0].Messages
	fresh := 0
	for _, m := range made {
		if !m.Duplicate {
			fresh++
		}
	}
	text := "Published."
	switch {
	case fresh == 0:
		text = "Nothing new was published: the same message was accepted before, and this one is a duplicate of it."
	case len(made) > 1:
		text = "Published " + plural(fresh, "message", "messages") + ", one for each endpoint."
	}
	to := Prefix + "logs"
	if len(made) == 1 {
		to = Prefix + "messages/" + url.PathEscape(string(made[0].ID))
	}
	if !c.looks() {
		to = Prefix + "publish"
		text += " Its id is " + string(made[0].ID) + "."
	}
	c.flash("good", text)
	http.Redirect(c.w, c.r, to, http.StatusSeeOther)
	return nil
}

// publishCode writes the form's request in code, while one types.
func (h *Handler) publishCode(c *call) error {
	in := inputFrom(c.r.Form)
	c.part("publish", "snippets", in.snippets(c.base(), c.shownToken()))
	return nil
}

// part answers with a part of a page.
func (c *call) part(page, part string, data any) {
	c.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	c.h.pages.part(c.w, page, part, data)
}
