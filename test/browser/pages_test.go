//go:build browser

package browser

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// furnish fills a server with one of everything.
func furnish(t *testing.T, base string, r *receiver) {
	t.Helper()
	r.answer("/broken", 500)
	r.answer("/gone", 410)
	post := func(path, body string, header ...string) {
		call(t, base, "POST", path, body, append([]string{"Content-Type: application/json"}, header...)...)
	}
	for i := range 14 {
		post("/v2/publish/"+r.URL+"/orders", fmt.Sprintf(`{"order":%d,"items":[{"sku":"A-17","count":2}]}`, i), "Upstash-Label: shop", "Upstash-Callback: "+r.URL+"/callback")
	}
	for range 3 {
		post("/v2/publish/"+r.URL+"/broken", `{"user":42}`, "Upstash-Retries: 0", "Upstash-Label: signup", "Upstash-Failure-Callback: "+r.URL+"/failed")
	}
	post("/v2/publish/"+r.URL+"/broken", `{"retry":true}`, "Upstash-Retries: 3")
	post("/v2/publish/"+r.URL+"/later", `{"delayed":true}`, "Upstash-Delay: 2h")
	post("/v2/publish/"+r.URL+"/secret", `{"card":"4242"}`, "Upstash-Redact-Fields: body, header[Authorization]", "Upstash-Forward-Authorization: Bearer x")
	post("/v2/queues", `{"queueName":"emails","parallelism":2}`)
	post("/v2/queues", `{"queueName":"reports","parallelism":1,"paused":true}`)
	for i := range 4 {
		post("/v2/enqueue/reports/"+r.URL+"/report", fmt.Sprintf(`{"report":%d}`, i))
	}
	post("/v2/enqueue/emails/"+r.URL+"/mail", `{"to":"a@example.com"}`)
	post("/v2/topics/signups/endpoints", `{"endpoints":[{"name":"crm","url":"`+r.URL+`/crm"},{"name":"old","url":"`+r.URL+`/gone"}]}`)
	post("/v2/publish/signups", `{"name":"Ada"}`, "Upstash-Retries: 0")
	post("/v2/schedules/"+r.URL+"/nightly", `{"job":"nightly"}`, "Upstash-Cron: CRON_TZ=Europe/Berlin 30 2 * * *", "Upstash-Schedule-Id: nightly")
	post("/v2/schedules/"+r.URL+"/tick", ``, "Upstash-Cron: @every 30m", "Upstash-Schedule-Id: half-hourly")
	for range 3 {
		post("/v2/publish/"+r.URL+"/limited", `{}`, "Upstash-Flow-Control-Key: tenant-7", "Upstash-Flow-Control-Value: rate=2, period=10m, parallelism=1")
	}
	post("/v2/flowControl/tenant-9/pin?parallelism=4", ``)
	post("/v2/publish/"+base+"/dev/inbox/first", `{"hello":"world"}`)
}

// pages are all pages of the console, once there is something to see.
func pages(b *tab) map[string]string {
	id := func(query string) string {
		b.Helper()
		b.visit(query)
		var href string
		b.eval(`document.querySelector("a.row-link").getAttribute("href")`, &href)
		return strings.TrimPrefix(href, "/console/")
	}
	return map[string]string{
		"overview": "", "logs": "logs", "logs-entries": "logs?view=entries&state=FAILED", "delivered": id("logs?label=shop&state=DELIVERED"),
		"failed": id("dlq?label=signup"), "waiting": id("logs?queueName=reports"), "retrying": id("logs?state=RETRY"), "redacted": id("logs?path=/secret"),
		"publish": "publish", "schedules": "schedules", "schedule": "schedules/edit/nightly", "queues": "queues", "flow": "flow", "groups": "groups",
		"hosts": "hosts", "dlq": "dlq", "keys": "keys", "tokens": "tokens", "dev": "dev", "inbox": "dev/inbox/first", "missing": "no-such-page",
		"sign-in": "sign-in",
	}
}

// TestPages opens every page in light and dark, at a desk and on a phone: it is accessible, fits the width, and leaves a
// screenshot to be looked at.
func TestPages(t *testing.T) {
	t.Parallel()
	axe, err := os.ReadFile("node_modules/axe-core/axe.min.js")
	if err != nil {
		missing(t, "npm ci --prefix test/browser: %v", err)
	}
	r := receive(t)
	base := start(t)
	b := open(t, base)
	b.visit("")
	b.shows("Welcome")
	b.screenshot("welcome-light")
	b.axe(axe, "welcome", "")
	furnish(t, base, r)
	b.visit("logs?state=FAILED")
	b.shows(r.URL + "/gone")
	all := pages(b)
	for _, look := range []struct {
		name          string
		scheme        string
		width, height int64
		mobile        bool
	}{{"light", "light", 1280, 900, false}, {"dark", "dark", 1280, 900, false}, {"phone", "light", 390, 844, true}} {
		b.do("set the screen", chromedp.EmulateViewport(look.width, look.height), emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: look.scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
		}))
		for name, path := range all {
			b.visit(path)
			if name == "missing" {
				b.expectFaults("404")
			}
			var live bool
			b.eval(`!!document.querySelector("[data-live]")`, &live)
			if live {
				b.shows("Live")
			}
			var wide float64
			b.eval(`document.documentElement.scrollWidth - document.documentElement.clientWidth`, &wide)
			if wide > 0 {
				t.Errorf("%s, %s: the page is %v pixels wider than the screen", name, look.name, wide)
			}
			b.screenshot(name + "-" + look.name)
			rules := "" // all
			if look.name == "dark" {
				rules = `runOnly: ["color-contrast"],` // the rest is the same
			}
			b.axe(axe, name+", "+look.name, rules)
		}
	}
}

// axe holds the page to the rules of axe-core, as far as they are serious.
func (b *tab) axe(source []byte, what, rules string) {
	b.Helper()
	var found string
	b.eval(string(source)+"; 0", nil)
	b.do("run axe", chromedp.Evaluate(`axe.run(document, {`+rules+` resultTypes: ["violations"]}).then(r => JSON.stringify(r.violations.filter(v =>
		v.impact === "serious" || v.impact === "critical").map(v => ({id: v.id, help: v.help, nodes: v.nodes.slice(0, 3).map(n => n.html.slice(0, 160) + " " + (n.failureSummary || "").slice(0, 300))}))))`, &found, awaitPromise))
	var violations []struct {
		ID, Help string
		Nodes    []string
	}
	if err := json.Unmarshal([]byte(found), &violations); err != nil {
		b.Fatal(err)
	}
	for _, v := range violations {
		b.Errorf("%s: %s: %s\n\t%s", what, v.ID, v.Help, strings.Join(v.Nodes, "\n\t"))
	}
}

func awaitPromise(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }
