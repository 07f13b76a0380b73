package console

import (
	"math"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/activity"
	"github.com/posthaste/posthaste/internal/devtools"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/wire"
)

// rangeChoice is a range of the overview's charts.
type rangeChoice struct {
	Name, Label string
	Chosen      bool
	span        activity.Range
}

func rangeChoices(name string) (all []rangeChoice, chosen rangeChoice) {
	all = []rangeChoice{
		{Name: "hour", Label: "Last hour", span: activity.Hour},
		{Name: "day", Label: "Last day", span: activity.Day},
		{Name: "week", Label: "Last week", span: activity.Week},
	}
	at := 0
	for i, c := range all {
		if c.Name == name {
			at = i
		}
	}
	all[at].Chosen = true
	return all, all[at]
}

// series is what the charts draw: one list of values per line, null where there is none.
type series struct {
	At        []int64    `json:"at"` // unix seconds
	Accepted  []int64    `json:"accepted"`
	Delivered []int64    `json:"delivered"`
	Failed    []int64    `json:"failed"`
	Retried   []int64    `json:"retried"`
	Waiting   []*int64   `json:"waiting"`
	P50       []*float64 `json:"p50"` // milliseconds
	P95       []*float64 `json:"p95"`
	P99       []*float64 `json:"p99"`
}

func seriesOf(points []activity.Point) series {
	var s series
	for i := range points {
		p := &points[i]
		s.At = append(s.At, p.At.Unix())
		s.Accepted = append(s.Accepted, p.Accepted)
		s.Delivered = append(s.Delivered, p.Delivered)
		s.Failed = append(s.Failed, p.Failed)
		s.Retried = append(s.Retried, p.Retried)
		var waiting *int64
		if p.Waiting >= 0 {
			waiting = &p.Waiting
		}
		s.Waiting = append(s.Waiting, waiting)
		for _, q := range []struct {
			to *[]*float64
			q  float64
		}{{&s.P50, .5}, {&s.P95, .95}, {&s.P99, .99}} {
			var v *float64
			if d, ok := p.Latency.Quantile(q.q); ok {
				ms := math.Round(float64(d)/float64(time.Millisecond)*10) / 10
				v = &ms
			}
			*q.to = append(*q.to, v)
		}
	}
	return s
}

// limit is something of which a plan allows so much.
type limit struct {
	Name string
	Used int64
	Most int64 // 0: unlimited
	Note string
}

// Share returns how much is used, in percent, and Level how that is to be judged.
func (l limit) Share() int { return int(min(100*l.Used/max(l.Most, 1), 100)) }

// Level is the class of a limit's bar.
func (l limit) Level() string {
	switch {
	case l.Most == 0:
		return "open"
	case l.Share() >= 100:
		return "bad"
	case l.Share() >= 80:
		return "warn"
	}
	return "good"
}

// overviewData is what the overview shows.
type overviewData struct {
	Ranges        []rangeChoice
	Range         rangeChoice
	Total         activity.Point
	Rate          string // of success; empty: nothing was attempted
	RateLevel     string
	P50, P95, P99 string
	Backlog       activity.Backlog
	Hosts         []activity.Host
	Partial       bool
	Series        series
	Limits        []limit
	Plan          string
	Reset         time.Time
	Disk          int64
	Store         string
	Latest        []row
	Welcome       *welcome
}

// welcome is what a tenant without any message is shown.
type welcome struct {
	URL, Token string
	Keys       posthaste.SigningKeys
	Curl       string
	To         string // where the first message may go; empty: the visitor must know
}

func (h *Handler) overview(c *call) (*view, error) {
	d := overviewData{Store: h.cfg.Store}
	d.Ranges, d.Range = rangeChoices(c.r.URL.Query().Get("range"))
	rep := h.activity.Report(c.who.Tenant.ID, d.Range.span)
	d.Total, d.Hosts, d.Partial, d.Series = rep.Total, rep.Hosts, rep.Partial, seriesOf(rep.Points)
	if rate, ok := rep.Total.SuccessRate(); ok {
		d.Rate, d.RateLevel = percent(rate), "good"
		if rate < .95 {
			d.RateLevel = "warn"
		}
		if rate < .8 {
			d.RateLevel = "bad"
		}
	}
	for _, q := range []struct {
		to *string
		q  float64
	}{{&d.P50, .5}, {&d.P95, .95}, {&d.P99, .99}} {
		if v, ok := rep.Total.Latency.Quantile(q.q); ok {
			*q.to = took(v)
		}
	}
	var err error
	if d.Backlog, err = h.activity.Backlog(c.ctx(), c.who.Tenant.ID); err != nil {
		return nil, err
	}
	if err := c.usage(&d); err != nil {
		return nil, err
	}
	if h.cfg.DiskUse != nil {
		d.Disk = h.cfg.DiskUse()
	}
	entries, _, err := h.broker.Logs(c.ctx(), c.who, wire.LogFilter{Count: 60})
	if err != nil {
		return nil, err
	}
	d.Latest = grouped(entries)
	d.Latest = d.Latest[:min(len(d.Latest), 8)]
	if len(entries) == 0 {
		d.Welcome = c.welcome()
	}
	return &view{
		page: "overview", title: "Overview", nav: "overview", data: d,
		live: []string{"overview-tiles", "overview-points", "overview-tables"}, every: 2 * time.Second,
	}, nil
}

// usage compares what is there with what the plan allows.
func (c *call) usage(d *overviewData) error {
	u, err := c.h.broker.Usage(c.ctx(), c.who)
	if err != nil {
		return err
	}
	plan := c.who.Tenant.Plan
	d.Plan, d.Reset = plan.Name, u.Reset
	var today int64
	if len(u.Days) > 0 {
		today = u.Days[0].Messages
	}
	d.Limits = []limit{
		{Name: "Messages today", Used: today, Most: plan.MessagesPerDay},
		{Name: "In flight", Used: int64(d.Backlog.InFlight), Most: int64(plan.Parallelism)},
		{Name: "Queues", Used: int64(u.Queues), Most: int64(plan.Queues)},
		{Name: "Schedules", Used: int64(u.Schedules), Most: int64(plan.Schedules)},
		{Name: "URL groups", Used: int64(u.Groups), Most: int64(plan.URLGroups)},
	}
	return nil
}

// welcome makes the first steps for this server and this token.
func (c *call) welcome() *welcome {
	w := &welcome{URL: c.base(), Token: "…", Keys: c.who.Tenant.Keys}
	if c.h.cfg.DevToken != "" {
		w.Token = c.token
	}
	to := "https://example.com/"
	if c.h.dev != nil {
		w.To = c.base() + devtools.InboxPath("first")
		to = w.To
	}
	in := input{Kind: "url", Destination: to, Method: "POST", Body: `{"hello": "world"}`, ContentType: wire.ContentTypeJSON}
	w.Curl = in.curl(c.base(), c.shownToken())
	if c.scope() == directory.ScopePublish {
		return nil
	}
	return w
}

// base returns the address under which the visitor reaches the server.
func (c *call) base() string {
	scheme := "http"
	if secure(c.r) {
		scheme = "https"
	}
	return scheme + "://" + c.r.Host
}

// shownToken is what stands for the token in code: that of a development server is public, others are left to the environment.
func (c *call) shownToken() string {
	if c.h.cfg.DevToken != "" && c.token == c.h.cfg.DevToken {
		return c.token
	}
	return "$QSTASH_TOKEN"
}
