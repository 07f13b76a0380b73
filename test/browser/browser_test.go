//go:build browser

package browser

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// binary is the server's program, chromium the browser's.
var binary, chromium string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			chromium = path
			break
		}
	}
	dir, err := os.MkdirTemp("", "posthaste-browser-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "posthaste")
	build := exec.Command("go", "build", "-o", binary, "./cmd/posthaste")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the server: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// missing ends a test that lacks something to be installed.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// start runs a development server on a free port until the test ends, and returns its address.
func start(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"dev", "--port", "0"}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir()}
	var errors bytes.Buffer
	cmd.Stderr = &errors
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 1)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(said)
		for in := bufio.NewScanner(stdout); in.Scan(); {
			if v, ok := strings.CutPrefix(in.Text(), "Console "); ok {
				said <- strings.TrimSpace(v)
			}
		}
	})
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("stop the server: %v", err)
		}
		kill := time.AfterFunc(15*time.Second, func() { cmd.Process.Kill() })
		reading.Wait()
		err := cmd.Wait()
		if !kill.Stop() {
			t.Error("the server did not stop")
		} else if err != nil {
			t.Errorf("the server ended with %v", err)
		}
		if t.Failed() {
			t.Logf("the server's log:\n%s", errors.Bytes())
		}
	})
	select {
	case at, ok := <-said:
		if !ok {
			t.Fatal("the server ended before it was ready")
		}
		return strings.TrimSuffix(at, "/console/")
	case <-time.After(30 * time.Second):
		t.Fatal("the server is not ready after 30 seconds")
	}
	return ""
}

// tab is a browser's tab that is watched.
type tab struct {
	*testing.T
	ctx  context.Context
	base string

	mu     sync.Mutex
	faults []string
}

// open starts a browser with a fresh profile. Whatever the pages it opens do wrong fails the test at its end.
func open(t *testing.T, base string) *tab {
	t.Helper()
	if chromium == "" {
		missing(t, "no chromium: apt-get install chromium")
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(chromium), chromedp.UserDataDir(t.TempDir()), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.WindowSize(1280, 900),
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-domain-reliability", true), chromedp.Flag("no-pings", true), chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
		chromedp.Flag("lang", "en-GB"), chromedp.Env("TZ=Europe/Berlin"),
	)
	alloc, cancelAlloc := chromedp.NewExecAllocator(context.Background(), opts...)
	ctx, cancel := chromedp.NewContext(alloc, chromedp.WithErrorf(func(string, ...any) {})) // it speaks of events that it does not know
	b := &tab{T: t, ctx: ctx, base: base}
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("close the browser: %v", err)
		}
		cancel()
		cancelAlloc()
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, f := range b.faults {
			t.Error(f)
		}
	})
	chromedp.ListenTarget(ctx, b.watch)
	if err := chromedp.Run(ctx, network.Enable(), log.Enable(), runtime.Enable()); err != nil {
		t.Fatalf("start the browser: %v", err)
	}
	return b
}

func (b *tab) fault(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = append(b.faults, fmt.Sprintf(format, args...))
}

// watch notes what must not happen. What the policy refuses, and requests that fail, the browser reports as errors of its log.
func (b *tab) watch(ev any) {
	switch ev := ev.(type) {
	case *network.EventRequestWillBeSent:
		u, err := url.Parse(ev.Request.URL)
		if err == nil && u.Scheme != "data" && u.Scheme+"://"+u.Host != b.base {
			b.fault("a request to another host: %s", ev.Request.URL)
		}
	case *runtime.EventExceptionThrown:
		b.fault("an exception: %s", ev.ExceptionDetails.Error())
	case *runtime.EventConsoleAPICalled:
		if ev.Type == runtime.APITypeError || ev.Type == runtime.APITypeWarning {
			var words []string
			for _, a := range ev.Args {
				words = append(words, string(a.Value))
			}
			b.fault("on the console: %s", strings.Join(words, " "))
		}
	case *log.EventEntryAdded:
		if ev.Entry.Level == log.LevelError || ev.Entry.Source == log.SourceSecurity {
			b.fault("in the browser's log: %s %s", ev.Entry.Text, ev.Entry.URL)
		}
	}
}

// expectFaults takes back faults that a test meant to cause, and fails if there were none.
func (b *tab) expectFaults(part string) {
	b.Helper()
	b.until("the browser to complain of "+part, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		n := len(b.faults)
		kept := b.faults[:0]
		for _, f := range b.faults {
			if !strings.Contains(f, part) {
				kept = append(kept, f)
			}
		}
		b.faults = kept
		return len(kept) < n
	})
}

// do runs actions, for at most 15 seconds.
func (b *tab) do(what string, actions ...chromedp.Action) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 15*time.Second)
	defer cancel()
	if err := chromedp.Run(ctx, actions...); err != nil {
		b.screenshot("failed-" + strings.ReplaceAll(b.Name(), "/", "-"))
		b.Fatalf("%s: %v\nthe page %s says:\n%s", what, err, b.location(), b.text())
	}
}

// visit opens a page of the console.
func (b *tab) visit(path string) {
	b.Helper()
	b.do("open "+path, chromedp.Navigate(b.base+"/console/"+path), chromedp.WaitReady("main"))
}

func (b *tab) location() string {
	var at string
	ctx, cancel := context.WithTimeout(b.ctx, 5*time.Second)
	defer cancel()
	if err := chromedp.Run(ctx, chromedp.Location(&at)); err != nil {
		return err.Error()
	}
	return at
}

// text returns what the page shows.
func (b *tab) text() string {
	var s string
	ctx, cancel := context.WithTimeout(b.ctx, 5*time.Second)
	defer cancel()
	if err := chromedp.Run(ctx, chromedp.Evaluate(`document.body.innerText`, &s)); err != nil {
		return err.Error()
	}
	return s
}

// until waits for a condition, which is asked every 50 ms for at most 15 s.
func (b *tab) until(what string, ok func() bool) {
	b.Helper()
	for deadline := time.Now().Add(15 * time.Second); ; {
		if ok() {
			return
		}
		if time.Now().After(deadline) {
			b.screenshot("failed-" + strings.ReplaceAll(b.Name(), "/", "-"))
			b.Fatalf("waited in vain for %s; the page %s says:\n%s", what, b.location(), b.text())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// shows waits until the page shows all the texts, without reloading it.
func (b *tab) shows(texts ...string) {
	b.Helper()
	for _, want := range texts {
		b.until(fmt.Sprintf("the text %q", want), func() bool { return strings.Contains(b.text(), want) })
	}
}

// eval evaluates an expression in the page.
func (b *tab) eval(js string, to any) {
	b.Helper()
	b.do("evaluate "+js, chromedp.Evaluate(js, to))
}

// press clicks the button or link with the given text in the first element that the selector finds.
func (b *tab) press(in, text string) {
	b.Helper()
	quoted, err := json.Marshal(text)
	if err != nil {
		b.Fatal(err)
	}
	where, err := json.Marshal(in)
	if err != nil {
		b.Fatal(err)
	}
	js := fmt.Sprintf(`(() => { const at = document.querySelector(%s); if (!at) return false;
		const e = [...at.querySelectorAll("button, a, summary")].find(e => e.innerText.trim() === %s && e.offsetParent !== null);
		if (!e) return false; e.click(); return true; })()`, where, quoted)
	b.until(fmt.Sprintf("the button %q in %s", text, in), func() bool {
		var ok bool
		ctx, cancel := context.WithTimeout(b.ctx, 5*time.Second)
		defer cancel()
		return chromedp.Run(ctx, chromedp.Evaluate(js, &ok)) == nil && ok
	})
}

// fill empties a field and types.
func (b *tab) fill(selector, value string) {
	b.Helper()
	quoted, err := json.Marshal(selector)
	if err != nil {
		b.Fatal(err)
	}
	b.do("fill "+selector, chromedp.WaitVisible(selector),
		chromedp.Evaluate(fmt.Sprintf(`(() => { const e = document.querySelector(%s); e.value = ""; e.dispatchEvent(new Event("input", {bubbles: true})); e.focus(); })()`, quoted), nil),
		chromedp.SendKeys(selector, value))
}

// click clicks what a selector finds.
func (b *tab) click(selector string) {
	b.Helper()
	quoted, err := json.Marshal(selector)
	if err != nil {
		b.Fatal(err)
	}
	b.until("the element "+selector, func() bool {
		var ok bool
		ctx, cancel := context.WithTimeout(b.ctx, 5*time.Second)
		defer cancel()
		js := fmt.Sprintf(`(() => { const e = document.querySelector(%s); if (!e) return false; e.click(); return true; })()`, quoted)
		return chromedp.Run(ctx, chromedp.Evaluate(js, &ok)) == nil && ok
	})
}

// shots is where screenshots go.
func shots() string {
	if dir := os.Getenv("SCREENSHOTS"); dir != "" {
		return dir
	}
	return "screenshots"
}

func (b *tab) screenshot(name string) {
	b.Helper()
	var png []byte
	ctx, cancel := context.WithTimeout(b.ctx, 15*time.Second)
	defer cancel()
	if err := chromedp.Run(ctx, chromedp.FullScreenshot(&png, 100)); err != nil {
		b.Errorf("screenshot: %v", err)
		return
	}
	if err := os.MkdirAll(shots(), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(shots(), name+".png"), png, 0o644); err != nil {
		b.Fatal(err)
	}
}

// receiver is an endpoint that answers as it is told and notes what came.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	status map[string]int // by path; absent: 200
	bodies map[string][]string
}

func receive(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{status: map[string]int{}, bodies: map[string][]string{}}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var b bytes.Buffer
		b.ReadFrom(req.Body) //nolint:errcheck // a broken body is an empty one
		r.mu.Lock()
		defer r.mu.Unlock()
		r.bodies[req.URL.Path] = append(r.bodies[req.URL.Path], b.String())
		w.Header().Set("Content-Type", "application/json")
		if s := r.status[req.URL.Path]; s != 0 {
			w.WriteHeader(s)
		}
		fmt.Fprintf(w, `{"path":%q,"seen":%d}`, req.URL.Path, len(r.bodies[req.URL.Path]))
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) answer(path string, status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status[path] = status
}

func (r *receiver) got(path string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.bodies[path]...)
}

// devToken is the token of the first development user, which is public.
const devToken = "eyJVc2VySUQiOiJkZWZhdWx0VXNlciIsIlBhc3N3b3JkIjoiZGVmYXVsdFBhc3N3b3JkIn0="

// api makes a request of the API and fails the test unless it succeeds.
func (b *tab) api(method, path, body string, header ...string) {
	b.Helper()
	call(b.T, b.base, method, path, body, header...)
}

func call(t *testing.T, base, method, path, body string, header ...string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+devToken)
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		var b bytes.Buffer
		b.ReadFrom(res.Body) //nolint:errcheck // what can be read is shown
		t.Fatalf("%s %s: %s %s", method, path, res.Status, b.String())
	}
}
