//go:build browser

package browser

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// TestWelcome: who starts a development server is signed in, sees what an application needs to know, sends a first message
// and sees it arrive.
func TestWelcome(t *testing.T) {
	t.Parallel()
	b := open(t, start(t))
	b.visit("")
	b.shows("Welcome", "QSTASH_URL="+b.base, "QSTASH_TOKEN="+devToken, "QSTASH_CURRENT_SIGNING_KEY=sig_", "QSTASH_NEXT_SIGNING_KEY=sig_")
	b.press("main", "Send it")
	b.shows("Published.", "/dev/inbox/first", "Delivered")
	b.visit("dev")
	b.press("main", "first")
	b.shows("Signature valid", `"hello": "world"`)
	b.visit("keys") // the welcome is for the beginning only
	b.visit("")
	if strings.Contains(b.text(), "Welcome") {
		t.Error("the overview still shows the first steps")
	}
}

// TestPublish: the form shows the request in code while one types, and what it publishes is seen delivered, live.
func TestPublish(t *testing.T) {
	t.Parallel()
	r := receive(t)
	b := open(t, start(t))
	b.visit("publish")
	b.fill("[name=destination]", r.URL+"/hook")
	b.shows("/v2/publish/" + r.URL + "/hook'")
	b.fill("[name=body]", `{"it's":"new","n":[1,2]}`)
	b.shows(`--data-raw '{"it'\''s":"new","n":[1,2]}'`)
	b.press("main", "When and how often")
	b.fill("[name=delay]", "2s")
	b.shows("Upstash-Delay: 2s")
	b.click("[data-tab][value=python]")
	b.shows(`delay="2s"`, "client.message.publish(")
	b.click("[data-tab][value=js]")
	b.shows(`delay: "2s"`, "await client.publish({")
	b.fill("[name=delay]", "1s")
	b.shows(`delay: "1s"`) // the language stays chosen
	b.click("[data-tab][value=go]")
	b.shows(`req.Header.Set("Upstash-Delay", "1s")`)
	b.press("main form", "Publish")
	b.shows("Published.", "Waits for its time.")
	b.shows("Attempt 1", "Delivered") // without a reload
	if got := r.got("/hook"); len(got) != 1 || got[0] != `{"it's":"new","n":[1,2]}` {
		t.Errorf("got %q, want the body once", got)
	}
	b.press("main", "Answer")
	b.shows(`"path": "/hook"`)
	b.press("main", "Publish again")
	b.shows("Again, as")
	b.press("main form", "Publish")
	b.shows("Published.", "Delivered")

	// What is refused is said in words, and nothing that was entered is lost.
	b.visit("publish")
	b.fill("[name=destination]", r.URL+"/hook")
	b.fill("[name=retries]", "many")
	b.press("main form", "Publish")
	b.shows("Invalid Upstash-Retries header")
	b.expectFaults("422")
	var kept string
	b.do("read the field", chromedp.Value("[name=destination]", &kept))
	if kept != r.URL+"/hook" {
		t.Errorf("got destination %q after a refusal, want what was entered", kept)
	}
}

// TestDeadLetters: a message fails through its retries, is found in the dead letter queue, and comes back by a bulk retry
// whose effect was shown before.
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	r := receive(t)
	r.answer("/flaky", 503)
	b := open(t, start(t))
	b.visit("publish")
	b.fill("[name=destination]", r.URL+"/flaky")
	b.fill("[name=retries]", "2")
	b.press("main", "When and how often")
	b.fill("[name=retry_delay]", "300")
	b.press("main form", "Publish")
	b.shows("Attempt 1", "Attempt 3", "503", "dead letter queue")
	b.press("main", "dead letter queue")
	b.shows(r.URL + "/flaky")
	for range 4 {
		b.api("POST", "/v2/publish/"+r.URL+"/flaky", "{}", "Upstash-Retries: 0", "Upstash-Label: other")
	}
	b.visit("dlq")
	b.until("five dead letters", func() bool { return strings.Count(b.text(), "/flaky") == 5 })

	b.click("tbody tr:first-child [data-choose]")
	b.shows("1 chosen")
	b.press("#dead", "Delete 1…")
	b.shows("Delete 1 dead letter?")
	b.press("#bulk", "Delete 1")
	b.shows("1 deleted.")
	b.press("#bulk", "Close")
	b.until("four dead letters", func() bool {
		return strings.Count(b.text(), "/flaky") == 4 && !strings.Contains(b.text(), "1 deleted.")
	})

	r.answer("/flaky", 200)
	b.visit("dlq?label=other")
	b.press("#dead", "Retry all…")
	b.shows("Retry 3 dead letters?")
	b.press("#bulk", "Retry 3")
	b.shows("3 published again.")
	b.press("#bulk", "Close")
	b.until("one dead letter", func() bool { return strings.Count(b.text(), "/flaky") == 1 })
	b.press("main", r.URL+"/flaky")
	b.press("main", "Retry from the DLQ")
	b.shows("Published again as a new message.", "Attempt 1", "Delivered")
	b.visit("dlq")
	b.shows("No dead letters")
}

// TestSchedules: a schedule is made, fires, is paused, changed and deleted.
func TestSchedules(t *testing.T) {
	t.Parallel()
	r := receive(t)
	b := open(t, start(t))
	b.visit("schedules/new")
	b.fill("[name=cron]", "30 2 * * *")
	b.fill("[name=zone]", "Europe/Berlin")
	b.shows("In Europe/Berlin", "02:30")
	b.fill("[name=cron]", "@every 1s")
	b.fill("[name=zone]", "")
	b.fill("[name=destination]", r.URL+"/tick")
	b.fill("[name=schedule]", "ticker")
	b.press("main form", "Create")
	b.shows("Schedule ticker is created.", "@every 1s", "Running")
	b.until("a tick", func() bool { return len(r.got("/tick")) > 0 })
	b.shows("Delivered") // the last run's result
	b.press("#schedule-ticker", "Pause")
	b.shows("Schedule ticker is paused.", "Paused")
	b.press("#schedule-ticker", "Edit")
	b.fill("[name=cron]", "0 0 1 1 *")
	b.press("main form", "Save")
	b.shows("Schedule ticker is changed.", "0 0 1 1 *", "Paused")
	b.press("#schedule-ticker", "Delete")
	b.shows("Delete the schedule ticker?")
	b.press("#confirm", "Delete")
	b.shows("is deleted.", "No schedules yet")

	b.visit("schedules/new")
	b.fill("[name=cron]", "61 * * * *")
	b.shows("Invalid cron expression")
}

// TestQueues: a queue is made, paused, collects a lag, and goes on; it is deleted only after a question.
func TestQueues(t *testing.T) {
	t.Parallel()
	r := receive(t)
	b := open(t, start(t))
	b.visit("queues")
	b.shows("No queues yet")
	b.press("main", "New queue")
	b.fill("#edit-queue [name=name]", "mails")
	b.fill("#edit-queue [name=parallelism]", "1")
	b.press("#edit-queue", "Save")
	b.shows("Queue mails is set.", "Running")
	b.press("#queue-mails", "Pause")
	b.shows("Queue mails is paused.", "Paused")
	b.api("POST", "/v2/enqueue/mails/"+r.URL+"/mail", "one")
	b.api("POST", "/v2/enqueue/mails/"+r.URL+"/mail", "two")
	b.until("a lag of 2", func() bool { return b.cell("#queue-mails", "Lag") == "2" })
	b.visit("logs?queueName=mails")
	b.press("[data-rows] tbody tr:first-child", r.URL+"/mail")
	b.shows("Waits at the queue mails, which is paused: place 2 of 2.")
	b.visit("queues")
	b.press("#queue-mails", "Resume")
	b.shows("Queue mails goes on.")
	b.until("a lag of 0", func() bool { return b.cell("#queue-mails", "Lag") == "0" })
	if got := r.got("/mail"); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("got %q, want both in order", got)
	}
	b.press("#queue-mails", "Delete")
	b.shows("Delete the queue mails?")
	b.press("#confirm", "Keep it")
	b.press("#queue-mails", "Delete")
	b.press("#confirm", "Delete")
	b.shows("is deleted", "No queues yet")
}

// cell returns what a row shows under a label.
func (b *tab) cell(row, label string) string {
	b.Helper()
	var s string
	b.eval(fmt.Sprintf(`(document.querySelector('%s [data-label="%s"]') || {}).innerText || ""`, row, label), &s)
	return strings.TrimSpace(s)
}

// TestFlowAndGroups: a key is pinned, paused and continued; a group gets endpoints, and a dead one stands out.
func TestFlowAndGroups(t *testing.T) {
	t.Parallel()
	r := receive(t)
	r.answer("/dead", 500)
	b := open(t, start(t))
	b.visit("flow")
	b.press("main", "Pin a key")
	b.fill("#pin-flow [name=key]", "user-1")
	b.fill("#pin-flow [name=rate]", "5")
	b.fill("#pin-flow [name=period]", "1m")
	b.press("#pin-flow", "Pin")
	b.shows("The limits of user-1 are pinned", "of 5 in 1 min")
	b.press("#flow-user-1", "Pause")
	b.shows("user-1 is paused.")
	b.api("POST", "/v2/publish/"+r.URL+"/limited", "x", "Upstash-Flow-Control-Key: user-1", "Upstash-Flow-Control-Value: rate=1")
	b.until("one waiting", func() bool { return b.cell("#flow-user-1", "Waiting") == "1" })
	b.press("#flow-user-1", "Resume")
	b.until("the delivery", func() bool { return len(r.got("/limited")) == 1 })
	b.press("#flow-user-1", "Unpin")
	b.shows("are unpinned")

	b.visit("groups")
	b.press("main", "New group")
	b.fill("#add-endpoint [name=name]", "signups")
	b.fill("#add-endpoint [name=url]", r.URL+"/alive")
	b.press("#add-endpoint", "Add")
	b.shows("is in the group signups")
	b.press("#group-signups", "Add endpoint")
	b.fill("#add-endpoint [name=url]", r.URL+"/dead")
	b.press("#add-endpoint", "Add")
	b.shows("2 endpoints")
	b.api("POST", "/v2/publish/signups", "x", "Upstash-Retries: 0")
	b.shows("Healthy", "Dead", "500 Internal Server Error")
	b.visit("hosts")
	b.shows("Hosts")
}

// TestKeys: the keys are rotated after a question, and not without the box being ticked.
func TestKeys(t *testing.T) {
	t.Parallel()
	b := open(t, start(t))
	b.visit("keys")
	if strings.Contains(b.text(), "sig_7kYj") {
		t.Error("the keys are shown unasked")
	}
	b.press("main", "Show")
	b.shows("sig_7kYj")
	b.click("[name=sure]")
	b.press("main", "Rotate the keys")
	b.shows("Rotate the signing keys?")
	b.press("#confirm", "Rotate")
	b.shows("The keys were rotated.")
	b.press("main", "Show")
	b.shows("sig_5ZB6") // what was the next one
}

// TestFilters: filters stand in the address, hold for the live updates, and are taken away one by one.
func TestFilters(t *testing.T) {
	t.Parallel()
	r := receive(t)
	b := open(t, start(t))
	b.api("POST", "/v2/publish/"+r.URL+"/red", "x", "Upstash-Label: red")
	b.api("POST", "/v2/publish/"+r.URL+"/blue", "x", "Upstash-Label: blue")
	b.visit("logs")
	b.shows("/red", "/blue")
	b.press("main", "Filters")
	b.fill("[name=label]", "red")
	b.press("main form[data-filter]", "Apply")
	b.until("the filtered address", func() bool { return strings.HasSuffix(b.location(), "/console/logs?label=red") })
	b.shows("Label: red", "/red")
	b.api("POST", "/v2/publish/"+r.URL+"/red2", "x", "Upstash-Label: red")
	b.api("POST", "/v2/publish/"+r.URL+"/blue2", "x", "Upstash-Label: blue")
	b.shows("/red2") // live
	if strings.Contains(b.text(), "/blue") {
		t.Error("the filter lets other labels through")
	}
	b.press("main", "Label: red ✕")
	b.shows("/blue2", "/blue")
	b.visit("logs?state=DELIVERED&label=blue&view=entries&urlGroup=")
	b.until("two entries", func() bool { return strings.Count(b.text(), "/blue") == 2 })

	// The search finds out what one looks for.
	b.fill("#search", "red"+kb.Enter)
	b.until("the search's address", func() bool { return strings.HasSuffix(b.location(), "/console/logs?label=red") })
	b.visit("logs?fromDate=x")
	b.expectFaults("422")
	b.shows("Invalid query parameter: fromDate")
}

// TestKeyboard: pages and rows are reached without a mouse.
func TestKeyboard(t *testing.T) {
	t.Parallel()
	r := receive(t)
	b := open(t, start(t))
	b.api("POST", "/v2/publish/"+r.URL+"/hook", "x")
	b.visit("")
	b.shows("Live")
	b.do("type g l", chromedp.KeyEvent("g"), chromedp.KeyEvent("l"))
	b.until("the log", func() bool { return strings.HasSuffix(b.location(), "/console/logs") })
	b.shows("/hook", "Live")
	b.do("type j", chromedp.KeyEvent("j"), chromedp.KeyEvent(kb.Enter))
	b.until("the message", func() bool { return strings.Contains(b.location(), "/console/messages/msg_") })
	b.shows("Accepted", "Live")
	b.do("type /", chromedp.KeyEvent("/"))
	var focused string
	b.eval(`document.activeElement.id`, &focused)
	if focused != "search" {
		t.Errorf("got the focus on %q after /, want the search", focused)
	}
	b.visit("queues")
	b.shows("Live")
	b.do("type ?", chromedp.KeyEvent("?"))
	b.shows("Keyboard shortcuts")
}

// TestReadOnly: with a read-only token everything is seen and nothing is changed; and who signs out is signed out.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	r := receive(t)
	b := open(t, start(t))
	b.api("POST", "/v2/enqueue/mails/"+r.URL+"/hook", "x")
	b.visit("tokens")
	b.fill("[name=name]", "viewer")
	b.do("choose the scope", chromedp.SetValue("[name=scope]", "read"))
	b.press("main", "Create")
	b.shows("The token “viewer”")
	var token string
	b.eval(`document.querySelector(".code pre").textContent`, &token)
	b.click(`[aria-label="Sign out"]`)
	b.shows("Sign in")
	b.fill("[name=token]", "wrong")
	b.press("main form", "Sign in")
	b.shows("No tenant of this server has such a token")
	b.expectFaults("401")
	b.fill("[name=token]", token)
	b.press("main form", "Sign in")
	b.shows("Overview", "read-only")
	for _, page := range []string{"", "logs", "publish", "schedules", "queues", "flow", "groups", "hosts", "dlq", "keys", "tokens", "dev"} {
		b.visit(page)
		var buttons []string
		b.eval(`[...document.querySelectorAll("main form[method=post] button, main [data-dialog], main [hx-post]:not([hx-post$=code])")].map(e => e.outerHTML)`, &buttons)
		if len(buttons) > 0 {
			t.Errorf("%q offers to change something: %q", page, buttons)
		}
	}
	// What the page does not offer, the server refuses.
	var status int
	b.do("post all the same", chromedp.Evaluate(`fetch("/console/queues/pause", {method: "POST", headers: {"Content-Type": "application/x-www-form-urlencoded"}, body: "name=mails&paused=true"}).then(r => r.status)`, &status, awaitPromise))
	if status != http.StatusForbidden {
		t.Errorf("got status %d for a change with a read-only token, want %d", status, http.StatusForbidden)
	}
	b.expectFaults("403")
	b.visit("queues")
	if got := b.cell("#queue-mails", "State"); got != "Running" {
		t.Errorf("got the queue %s, want it running", got)
	}
	b.click(`[aria-label="Sign out"]`)
	b.shows("Sign in")
	var cookies string
	b.eval(`document.cookie`, &cookies)
	if cookies != "" {
		t.Errorf("scripts see the cookies %q", cookies)
	}
}

// TestClock: the clock of the development server is moved, and what was delayed is delivered.
func TestClock(t *testing.T) {
	t.Parallel()
	b := open(t, start(t))
	b.api("POST", "/v2/publish/"+b.base+"/dev/inbox/later", "x", "Upstash-Delay: 6h")
	b.visit("dev")
	b.shows("real time")
	b.press("main", "To the next due moment")
	b.shows("ahead of real time", "later")
	b.press("main", "later")
	b.shows("Signature valid")
	b.fill("[name=status]", "503")
	b.press("main", "Set")
	b.shows("It answers with 503.")
}

// TestWatch plants what the other tests would fail for, and sees it noticed.
func TestWatch(t *testing.T) {
	t.Parallel()
	b := open(t, start(t))
	b.visit("")
	b.eval(`const s = document.createElement("script"); s.textContent = "window.planted = 1"; document.body.append(s); 0`, nil)
	b.expectFaults("Content Security Policy")
	b.eval(`const d = document.createElement("div"); d.innerHTML = "<p style='color: red'>x</p>"; document.body.append(d); 0`, nil)
	b.expectFaults("Content Security Policy")
	b.eval(`const i = new Image(); i.src = "http://192.0.2.1/x.png"; 0`, nil)
	b.expectFaults("192.0.2.1")
	b.eval(`console.error("planted"); 0`, nil)
	b.expectFaults("planted")
	b.eval(`setTimeout(() => { throw new Error("thrown") }, 0); 0`, nil)
	b.expectFaults("thrown")
	var planted bool
	b.eval(`!!window.planted`, &planted)
	if planted {
		t.Error("an inline script ran")
	}
	var out bytes.Buffer
	for _, f := range b.faults {
		fmt.Fprintln(&out, f)
	}
	b.faults = nil
	t.Logf("also noticed:\n%s", &out)
}
