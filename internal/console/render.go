package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"html/template"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/auth"
	"github.com/posthaste/posthaste/internal/directory"
)

//go:embed templates assets
var files embed.FS

// assetVersion changes with any asset, so that assets can be cached for ever.
var assetVersion = func() string {
	h := sha256.New()
	err := fs.WalkDir(files, "assets", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := files.ReadFile(name)
		h.Write(b)
		return err
	})
	if err != nil {
		panic(err) // they are embedded
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}()

func assetHandler() http.Handler {
	sub, err := fs.Sub(files, "assets")
	if err != nil {
		panic(err) // it is embedded
	}
	serve := http.StripPrefix(Prefix+"assets/", http.FileServerFS(sub))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/") {
			http.NotFound(w, r)
			return
		}
		if r.URL.Query().Get("v") == assetVersion {
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		} else {
			w.Header().Set("Cache-Control", "no-cache")
		}
		serve.ServeHTTP(w, r)
	})
}

// templates are the pages, each with the layout.
type templates struct {
	byName map[string]*template.Template
}

func loadTemplates() *templates {
	base := template.Must(template.New("").Funcs(funcs).ParseFS(files, "templates/layout.html"))
	t := &templates{byName: map[string]*template.Template{}}
	names, err := fs.Glob(files, "templates/[a-z]*.html")
	if err != nil {
		panic(err) // the pattern is right
	}
	for _, name := range names {
		if name == "templates/layout.html" {
			continue
		}
		page := template.Must(template.Must(base.Clone()).ParseFS(files, name))
		t.byName[strings.TrimSuffix(path.Base(name), ".html")] = page
	}
	return t
}

// part renders one named part of a page.
func (t *templates) part(w io.Writer, page, part string, data any) {
	if err := t.byName[page].ExecuteTemplate(w, part, data); err != nil {
		// Parts are rendered into memory, or to a client that went away; what is wrong with a template shows in tests.
		fmt.Fprintf(w, "<!-- %T -->", err)
	}
}

// frame is what the layout needs besides the page's own data.
type frame struct {
	Title   string
	Nav     string
	Self    string // the address of the page, for live updates and for the way back
	Now     string
	Live    bool
	Flash   *flash
	User    *user
	Dev     bool
	Version string
	Asset   string
	D       any
}

// user is who is signed in.
type user struct {
	Tenant  string
	Plan    string
	Token   string
	Scope   directory.Scope
	Look    bool // may see things
	Publish bool
	Manage  bool
}

func (c *call) frame(v *view) *frame {
	f := &frame{
		Title: v.title, Nav: v.nav, Self: c.r.URL.RequestURI(), Live: len(v.live) > 0, D: v.data,
		Dev: c.h.dev != nil, Version: c.h.cfg.Version, Asset: assetVersion,
		Now: c.h.broker.Now().UTC().Format(time.RFC3339Nano),
	}
	if c.who != nil {
		s := c.scope()
		f.User = &user{
			Tenant: c.who.Tenant.Name, Plan: c.who.Tenant.Plan.Name, Token: c.who.Token.Name, Scope: s,
			Look: s != directory.ScopePublish, Publish: s != directory.ScopeRead, Manage: s == directory.ScopeFull,
		}
	}
	return f
}

// render writes a page. It is made in memory first, so that an error cannot leave half of one.
func (c *call) render(v *view) int {
	f := c.frame(v)
	f.Flash = c.takeFlash()
	var b bytes.Buffer
	if err := c.h.pages.byName[v.page].ExecuteTemplate(&b, "layout", f); err != nil {
		c.h.log.Error("console page failed", "page", v.page, "err", err)
		http.Error(c.w, "internal error", http.StatusInternalServerError)
		return http.StatusInternalServerError
	}
	if v.status == 0 {
		v.status = http.StatusOK
	}
	c.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	c.w.WriteHeader(v.status)
	c.w.Write(b.Bytes()) //nolint:errcheck // a client that went away is no fault of ours
	return v.status
}

// maxStreams bounds the live pages that are open at a time.
const maxStreams = 256

// stream keeps a page up to date: it makes the live parts anew from time to time and sends those that changed. What it costs
// depends on how often it looks and on the size of a page, not on how much happens.
func (c *call) stream(v *view, f func(*call) (*view, error), action auth.Action) {
	if c.h.streams.Add(1) > maxStreams || len(v.live) == 0 {
		c.h.streams.Add(-1)
		http.Error(c.w, "too many live pages are open", http.StatusServiceUnavailable)
		return
	}
	defer c.h.streams.Add(-1)
	rc := http.NewResponseController(c.w)
	c.w.Header().Set("Content-Type", "text/event-stream")
	c.w.Header().Set("X-Accel-Buffering", "no") // proxies must not hold it back
	c.w.WriteHeader(http.StatusOK)
	if rc.Flush() != nil {
		return
	}
	every := max(v.every, time.Second)
	tick := time.NewTicker(every)
	defer tick.Stop()
	sent := make([]uint64, len(v.live))
	quiet := time.Now()
	var b, out bytes.Buffer
	for {
		out.Reset()
		fr := c.frame(v)
		for i, part := range v.live {
			b.Reset()
			c.h.pages.part(&b, v.page, part, fr)
			sum := fnv.New64a()
			sum.Write(b.Bytes())
			if sum.Sum64() != sent[i] {
				sent[i] = sum.Sum64()
				event(&out, part, b.String())
			}
		}
		if out.Len() == 0 && time.Since(quiet) > 15*time.Second {
			out.WriteString(": still here\n\n") // tells dead connections apart
		}
		if out.Len() > 0 {
			quiet = time.Now()
			if _, err := c.w.Write(out.Bytes()); err != nil || rc.Flush() != nil {
				return
			}
		}
		select {
		case <-c.h.stop.Done():
			return
		case <-c.r.Context().Done():
			return
		case <-tick.C:
		}
		who, err := c.h.auth.Authenticate(c.r.Context(), c.token, action)
		if err != nil {
			return // the page finds out when it connects again
		}
		who.CallerIP, c.who = c.who.CallerIP, who
		if v, err = f(c); err != nil {
			return
		}
	}
}

func event(b *bytes.Buffer, name, data string) {
	fmt.Fprintf(b, "event: %s\n", name)
	for line := range strings.SplitSeq(strings.TrimSpace(data), "\n") {
		fmt.Fprintf(b, "data: %s\n", strings.TrimRight(line, "\r"))
	}
	b.WriteString("\n")
}

var funcs = template.FuncMap{
	"when":     when,
	"took":     took,
	"number":   number,
	"bytes":    byteSize,
	"bytes64":  func(n int) string { return byteSize(int64(n)) },
	"percent":  percent,
	"status":   status,
	"short":    short,
	"lower":    strings.ToLower,
	"join":     strings.Join,
	"json":     func(v any) (string, error) { b, err := json.Marshal(v); return string(b), err },
	"escape":   url.PathEscape,
	"query":    url.QueryEscape,
	"plural":   plural,
	"mul":      func(a, b int) int { return a * b },
	"add":      func(a, b int) int { return a + b },
	"args":     func(v ...any) []any { return v },
	"hexdump":  func(b []byte) string { return hex.Dump(b) },
	"duration": period,
}

// when shows a moment: absolute in UTC, and for the script that shows it as a distance and in the viewer's zone.
func when(t time.Time) template.HTML {
	if t.IsZero() {
		return `<span class="none">never</span>`
	}
	t = t.UTC()
	return template.HTML(`<time datetime="` + t.Format("2006-01-02T15:04:05.000Z07:00") + `">` + t.Format("2006-01-02 15:04:05") + ` UTC</time>`)
}

// took shows how long something took.
func took(d time.Duration) string {
	switch {
	case d <= 0:
		return "0 ms"
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return period(d)
}

// period shows a duration as a setting: without units that are zero.
func period(d time.Duration) string {
	if d == 0 {
		return "0 s"
	}
	var parts []string
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "min"}} {
		if n := d / u.unit; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, u.name))
			d -= n * u.unit
		}
	}
	if d >= time.Second && len(parts) < 2 {
		parts = append(parts, fmt.Sprintf("%d s", d/time.Second))
	} else if len(parts) == 0 {
		parts = append(parts, fmt.Sprintf("%d ms", d.Milliseconds()))
	}
	return strings.Join(parts, " ")
}

// number shows a count in groups of three digits.
func number(v any) string {
	s := fmt.Sprint(v)
	neg := strings.HasPrefix(s, "-")
	s = strings.TrimPrefix(s, "-")
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "\u202f" + s[i:] // a narrow space that does not break
	}
	if neg {
		return "−" + s
	}
	return s
}

func byteSize(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	div, exp := int64(unit), 0
	for m := n / unit; m >= unit; m /= unit {
		div, exp = div*unit, exp+1
	}
	return fmt.Sprintf("%.1f %ciB", float64(n)/float64(div), "KMGTP"[exp])
}

func percent(f float64) string {
	switch {
	case f >= 1:
		return "100 %"
	case f > .999: // what is not all is not shown as all
		return "99.9 %"
	}
	return fmt.Sprintf("%.1f %%", f*100)
}

// state is how a state of a message is shown.
type state struct {
	Label, Class string
}

// status tells how a state is shown: colour and word, never colour alone.
func status(s posthaste.LogState) state {
	switch s {
	case posthaste.StateCreated:
		return state{"Created", "neutral"}
	case posthaste.StateActive:
		return state{"Active", "info"}
	case posthaste.StateDelivered:
		return state{"Delivered", "good"}
	case posthaste.StateError:
		return state{"Error", "bad"}
	case posthaste.StateRetry:
		return state{"Retry", "warn"}
	case posthaste.StateFailed:
		return state{"Failed", "bad"}
	case posthaste.StateCancelRequested:
		return state{"Cancel requested", "neutral"}
	case posthaste.StateCanceled:
		return state{"Canceled", "neutral"}
	}
	return state{string(s), "neutral"}
}

// short cuts the middle out of a long id.
func short(v any) string {
	s := fmt.Sprint(v)
	if len(s) <= 16 {
		return s
	}
	return s[:8] + "…" + s[len(s)-6:]
}

func plural(n any, one, many string) string {
	if fmt.Sprint(n) == "1" {
		return number(n) + " " + one
	}
	return number(n) + " " + many
}
