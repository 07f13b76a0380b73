package console

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/wire"
)

// firing is a moment at which a schedule fires.
type firing struct {
	At    time.Time
	Local string // in the schedule's zone
	Zone  string // its abbreviation then
	Shift string // how clocks changed since the one before; empty: they did not
}

// firings shows moments in a zone and marks those between which clocks change.
func firings(at []time.Time, loc *time.Location) []firing {
	var out []firing
	_, before := time.Now().In(loc).Zone()
	for i, t := range at {
		local := t.In(loc)
		zone, offset := local.Zone()
		f := firing{At: t, Local: local.Format("Mon 2 Jan 2006, 15:04"), Zone: zone}
		if local.Second() != 0 {
			f.Local = local.Format("Mon 2 Jan 2006, 15:04:05")
		}
		if offset != before && i > 0 {
			f.Shift = "clocks go forward by " + period(time.Duration(offset-before)*time.Second)
			if offset < before {
				f.Shift = "clocks go back by " + period(time.Duration(before-offset)*time.Second)
			}
		}
		before = offset
		out = append(out, f)
	}
	return out
}

// scheduleRow is a schedule on the page.
type scheduleRow struct {
	*wire.Schedule
	Expr    string // without the zone
	Zone    string
	Firings []firing
	Results []scheduleResult
}

type scheduleResult struct {
	ID    posthaste.MessageID
	Label string
	Class string
}

type schedulesData struct {
	Schedules []scheduleRow
	Curl      string
}

// cutZone splits an expression into its zone and the rest.
func cutZone(spec string) (zone, expr string) {
	if first, rest, ok := strings.Cut(spec, " "); ok {
		if name, z, is := strings.Cut(first, "="); is && strings.HasSuffix(name, "TZ") {
			return z, strings.TrimSpace(rest)
		}
	}
	return "", spec
}

func (h *Handler) schedules(c *call) (*view, error) {
	list, err := h.broker.Schedules(c.ctx(), c.who)
	if err != nil {
		return nil, err
	}
	d := schedulesData{}
	for _, s := range list {
		r := scheduleRow{Schedule: s, Firings: firings(s.Upcoming, broker.Location(s.Cron))}
		r.Zone, r.Expr = cutZone(s.Cron)
		for id, st := range s.LastStates {
			res := scheduleResult{ID: id}
			switch st {
			case wire.ScheduleSuccess:
				res.Label, res.Class = "Delivered", "good"
			case wire.ScheduleFail:
				res.Label, res.Class = "Failed", "bad"
			case wire.ScheduleInProgress:
				res.Label, res.Class = "In progress", "info"
			}
			r.Results = append(r.Results, res)
		}
		slices.SortFunc(r.Results, func(a, b scheduleResult) int { return strings.Compare(string(a.ID), string(b.ID)) })
		d.Schedules = append(d.Schedules, r)
	}
	in := input{Kind: "url", Destination: "https://example.com/", Cron: "*/5 * * * *"}
	d.Curl = in.curl(c.base(), c.shownToken())
	return &view{page: "schedules", title: "Schedules", nav: "schedules", data: d, live: []string{"schedules-list"}, every: every}, nil
}

// scheduleFormData is what the form of a schedule shows.
type scheduleFormData struct {
	In      *input
	Edit    bool
	Problem string
	Preview preview
	Queues  []string
	Groups  []string
}

// preview is when an expression would fire.
type preview struct {
	Firings []firing
	Zone    string
	Problem string
}

// upcoming is how many firings a preview shows.
const upcoming = 6

func (c *call) preview(spec string) preview {
	if strings.TrimSpace(spec) == "" {
		return preview{Problem: "Enter an expression."}
	}
	at, loc, err := c.h.broker.Firings(spec, upcoming)
	if err != nil {
		return preview{Problem: c.words(err)}
	}
	return preview{Firings: firings(at, loc), Zone: loc.String()}
}

func (h *Handler) scheduleForm(c *call) (*view, error) {
	d := scheduleFormData{In: &input{
		Kind: "url", Method: http.MethodPost, Cron: "0 9 * * 1-5", ContentType: wire.ContentTypeJSON,
	}}
	if id := posthaste.ScheduleID(c.r.PathValue("id")); id != "" {
		s, err := h.broker.Schedule(c.ctx(), c.who, id)
		if err != nil {
			return nil, err
		}
		_, marker, _ := wire.Shown(s.Template)
		d.In, d.Edit = inputOf(s.Template, marker == ""), true
		d.In.Destination, d.In.Schedule = s.Destination, string(s.ID)
		d.In.Zone, d.In.Cron = cutZone(s.Cron)
	}
	return c.scheduleView(d, http.StatusOK)
}

func (c *call) scheduleView(d scheduleFormData, status int) (*view, error) {
	title := "New schedule"
	if d.Edit {
		title = "Edit schedule"
	}
	d.Preview = c.preview(d.In.cron())
	var err error
	if d.Queues, d.Groups, err = c.known(); err != nil {
		return nil, err
	}
	return &view{page: "schedule", title: title, nav: "schedules", data: d, status: status}, nil
}

func (h *Handler) putSchedule(c *call) error {
	in := inputFrom(c.r.Form)
	edit := c.r.Form.Get("edit") != ""
	item, err := in.item()
	if err == nil && in.Cron == "" {
		err = posthaste.Errorf(posthaste.CodeInvalid, "enter a cron expression")
	}
	var id posthaste.ScheduleID
	if err == nil {
		id, err = h.broker.PutSchedule(c.ctx(), c.who, item)
	}
	if err != nil {
		v, e := c.scheduleView(scheduleFormData{In: &in, Edit: edit, Problem: c.words(err)}, statuses[posthaste.CodeOf(err)])
		if e != nil {
			return e
		}
		c.render(v)
		return nil
	}
	if edit {
		return c.done(Prefix+"schedules", "Schedule "+string(id)+" is changed.")
	}
	return c.done(Prefix+"schedules", "Schedule "+string(id)+" is created.")
}

func (h *Handler) previewSchedule(c *call) error {
	in := inputFrom(c.r.Form)
	c.part("schedule", "preview", c.preview(in.cron()))
	return nil
}

func (h *Handler) pauseSchedule(c *call) error {
	id, paused := posthaste.ScheduleID(c.r.Form.Get("id")), c.r.Form.Get("paused") == "true"
	if err := h.broker.PauseSchedule(c.ctx(), c.who, id, paused); err != nil {
		return err
	}
	if paused {
		return c.done(Prefix+"schedules", "Schedule "+string(id)+" is paused. Ticks pass without effect.")
	}
	return c.done(Prefix+"schedules", "Schedule "+string(id)+" goes on.")
}

func (h *Handler) deleteSchedule(c *call) error {
	id := c.r.Form.Get("id")
	if err := h.broker.DeleteSchedule(c.ctx(), c.who, posthaste.ScheduleID(id)); err != nil {
		return err
	}
	return c.done(Prefix+"schedules", "Schedule "+url.PathEscape(id)+" is deleted. What it produced stays.")
}
