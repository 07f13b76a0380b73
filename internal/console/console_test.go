package console_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/console"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/egress"
	"github.com/posthaste/posthaste/internal/retry"
	"github.com/posthaste/posthaste/internal/server"
)

// A stack is a running server with one tenant, whose token is "token". What is published is delayed, so nothing is delivered.
type stack struct {
	testing.TB
	srv     *server.Server
	session *http.Cookie
}

func start(t testing.TB) *stack {
	t.Helper()
	srv, err := server.New(t.Context(), server.Config{
		Console: true, Grace: time.Second, Listen: "127.0.0.1:0",
		Users:   []broker.NewTenant{{Name: "one", Token: "token"}},
		Egress:  egress.Config{Mode: egress.ModeDev, AllowHTTP: true},
		Broker:  broker.Config{Retries: 3, DedupWindow: time.Minute},
		Backoff: retry.Standard(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if err := srv.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	if err := srv.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := &stack{TB: t, srv: srv}
	s.session = s.signIn("token")
	return s
}

// signIn returns the session of a token.
func (s *stack) signIn(token string) *http.Cookie {
	s.Helper()
	res := s.send(form(console.Prefix+"sign-in", url.Values{"token": {token}}))
	for _, c := range res.Cookies() {
		if c.Name == "posthaste_session" && c.Value != "" {
			return c
		}
	}
	s.Fatalf("sign in: got %s and no session", res.Status)
	return nil
}

func form(path string, v url.Values) *http.Request {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(v.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r
}

func (s *stack) send(r *http.Request) *http.Response {
	s.Helper()
	w := httptest.NewRecorder()
	s.srv.Handler().ServeHTTP(w, r.WithContext(s.Context()))
	return w.Result()
}

// get returns a page.
func (s *stack) get(path string) string {
	s.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.AddCookie(s.session)
	res := s.send(r)
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		s.Fatalf("%s: got %s, %v", path, res.Status, err)
	}
	return string(b)
}

// post submits a form and returns what the next page says.
func (s *stack) post(path string, v url.Values, session *http.Cookie) *http.Response {
	s.Helper()
	r := form(path, v)
	if session != nil {
		r.AddCookie(session)
	}
	return s.send(r)
}

func (s *stack) api(method, path, body string, header ...string) {
	s.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer token")
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Upstash-Delay", "1d")
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	if res := s.send(r); res.StatusCode/100 != 2 {
		b, _ := io.ReadAll(res.Body)
		s.Fatalf("%s %s: %s %s", method, path, res.Status, b)
	}
}

func TestSignIn(t *testing.T) {
	s := start(t)
	// Nobody gets in without a session, and comes back to where they wanted to go.
	for _, path := range []string{"", "logs?label=x", "messages/msg_1", "keys"} {
		res := s.send(httptest.NewRequest(http.MethodGet, console.Prefix+path, nil))
		if to := res.Header.Get("Location"); res.StatusCode != http.StatusSeeOther || !strings.HasPrefix(to, console.Prefix+"sign-in") {
			t.Errorf("%q: got %s to %q, want the sign-in page", path, res.Status, to)
		}
	}
	if res := s.post(console.Prefix+"queues", url.Values{"name": {"q"}, "parallelism": {"1"}}, nil); res.StatusCode != http.StatusSeeOther {
		t.Errorf("got %s for a form of nobody, want the sign-in page", res.Status)
	}
	if res := s.post(console.Prefix+"sign-in", url.Values{"token": {"wrong"}}, nil); res.StatusCode != http.StatusUnauthorized || len(res.Cookies()) > 0 {
		t.Errorf("got %s and cookies %v for a wrong token", res.Status, res.Cookies())
	}
	for to, want := range map[string]string{
		"/console/logs?label=x": "/console/logs?label=x", "": "/console/", "https://evil.example/": "/console/", "//evil.example": "/console/", "/console//evil.example": "/console/",
	} {
		res := s.post(console.Prefix+"sign-in", url.Values{"token": {"token"}, "to": {to}}, nil)
		if got := res.Header.Get("Location"); got != want {
			t.Errorf("to %q: got %q, want %q", to, got, want)
		}
	}
	c := s.session
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Secure || c.Path != console.Prefix {
		t.Errorf("got the cookie %v over plain HTTP", c)
	}
	r := form(console.Prefix+"sign-in", url.Values{"token": {"token"}})
	r.Header.Set("X-Forwarded-Proto", "https")
	if c := s.send(r).Cookies()[0]; !c.Secure {
		t.Errorf("got the cookie %v over TLS, want a secure one", c)
	}
	if strings.Contains(c.Value, "token") {
		t.Errorf("the cookie %q has the token in it", c.Value)
	}
	s.post(console.Prefix+"sign-out", nil, c)
	r = httptest.NewRequest(http.MethodGet, console.Prefix, nil)
	r.AddCookie(c)
	if res := s.send(r); res.StatusCode != http.StatusSeeOther {
		t.Errorf("got %s after signing out, want the sign-in page", res.Status)
	}
}

// TestRevokedToken: a session ends with its token.
func TestRevokedToken(t *testing.T) {
	s := start(t)
	res := s.post(console.Prefix+"tokens", url.Values{"name": {"x"}, "scope": {"full"}}, s.session)
	b, _ := io.ReadAll(res.Body)
	token := regexp.MustCompile(`<pre tabindex="0">([^<]+)</pre>`).FindSubmatch(b)
	if token == nil {
		t.Fatalf("no token in %s", b)
	}
	other := s.signIn(strings.ReplaceAll(string(token[1]), "&#43;", "+"))
	hash := directory.TokenHash(strings.ReplaceAll(string(token[1]), "&#43;", "+"))
	if res := s.post(console.Prefix+"tokens/revoke", url.Values{"hash": {hash}}, s.session); res.StatusCode != http.StatusSeeOther {
		t.Fatalf("revoke: got %s", res.Status)
	}
	r := httptest.NewRequest(http.MethodGet, console.Prefix+"logs", nil)
	r.AddCookie(other)
	if res := s.send(r); !strings.HasPrefix(res.Header.Get("Location"), console.Prefix+"sign-in") {
		t.Errorf("got %s with a revoked token, want the sign-in page", res.Status)
	}
}

// TestScopes: what a token may not do through the API, it may not do here.
func TestScopes(t *testing.T) {
	s := start(t)
	make := func(scope string) *http.Cookie {
		t.Helper()
		res := s.post(console.Prefix+"tokens", url.Values{"name": {scope}, "scope": {scope}}, s.session)
		b, _ := io.ReadAll(res.Body)
		token := regexp.MustCompile(`<pre tabindex="0">([^<]+)</pre>`).FindSubmatch(b)
		return s.signIn(strings.ReplaceAll(string(token[1]), "&#43;", "+"))
	}
	read, publish := make("read"), make("publish")
	for _, path := range []string{
		"messages/x/cancel", "publish", "publish/code", "queues", "queues/pause", "queues/delete", "flow", "hosts/unblock", "groups", "groups/remove",
		"groups/delete", "schedules", "schedules/pause", "schedules/delete", "dlq/preview", "dlq/step", "dlq/one", "keys/rotate", "tokens", "tokens/revoke",
	} {
		if res := s.post(console.Prefix+path, url.Values{"name": {"x"}}, read); res.StatusCode != http.StatusForbidden {
			t.Errorf("%s with a read-only token: got %s, want 403", path, res.Status)
		}
		if path == "publish" || path == "publish/code" {
			continue
		}
		if res := s.post(console.Prefix+path, url.Values{"name": {"x"}}, publish); res.StatusCode != http.StatusForbidden {
			t.Errorf("%s with a publish-only token: got %s, want 403", path, res.Status)
		}
	}
	for _, path := range []string{"", "logs", "queues", "dlq", "keys", "tokens", "schedules/new"} {
		r := httptest.NewRequest(http.MethodGet, console.Prefix+path, nil)
		r.AddCookie(publish)
		if res := s.send(r); res.StatusCode != http.StatusForbidden {
			t.Errorf("%q with a publish-only token: got %s, want 403", path, res.Status)
		}
	}
	res := s.post(console.Prefix+"publish", url.Values{"kind": {"url"}, "destination": {"https://example.com/"}, "method": {"POST"}}, publish)
	if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != console.Prefix+"publish" {
		t.Errorf("got %s to %q for a publish with a publish-only token", res.Status, res.Header.Get("Location"))
	}
}

// TestOtherOrigins: pages of others cannot act in the visitor's name, whatever their browser sends along.
func TestOtherOrigins(t *testing.T) {
	s := start(t)
	for _, h := range [][2]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}} {
		r := form(console.Prefix+"keys/rotate", url.Values{"sure": {"1"}})
		r.AddCookie(s.session)
		r.Header.Set(h[0], h[1])
		if res := s.send(r); res.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %s: got %s, want 403", h[0], h[1], res.Status)
		}
	}
	r := form(console.Prefix+"keys/rotate", url.Values{"sure": {"1"}})
	r.AddCookie(s.session)
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if res := s.send(r); res.StatusCode != http.StatusSeeOther {
		t.Errorf("same-origin: got %s, want it done", res.Status)
	}
}

// TestHeaders: no answer allows inline code, frames or caching, and assets alone are cached.
func TestHeaders(t *testing.T) {
	s := start(t)
	for _, path := range []string{"", "sign-in", "assets/console.js", "nonsense"} {
		r := httptest.NewRequest(http.MethodGet, console.Prefix+path, nil)
		r.AddCookie(s.session)
		h := s.send(r).Header
		csp := h.Get("Content-Security-Policy")
		if strings.Contains(csp, "unsafe") || !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "frame-ancestors 'none'") {
			t.Errorf("%q: got the policy %q", path, csp)
		}
		if h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%q: the type may be guessed", path)
		}
	}
	if strings.Contains(s.get(console.Prefix), "style=") || strings.Contains(s.get(console.Prefix+"logs"), "onclick") {
		t.Error("a page has inline style or code")
	}
	asset := regexp.MustCompile(`/console/assets/console.js\?v=\w+`).FindString(s.get(console.Prefix))
	if c := s.send(httptest.NewRequest(http.MethodGet, asset, nil)).Header.Get("Cache-Control"); !strings.Contains(c, "immutable") {
		t.Errorf("got Cache-Control %q for %s", c, asset)
	}
	for _, path := range []string{"assets/", "assets/vendor/", "assets/../templates/layout.html"} {
		if res := s.send(httptest.NewRequest(http.MethodGet, console.Prefix+path, nil)); res.StatusCode == http.StatusOK {
			t.Errorf("%s: got %s", path, res.Status)
		}
	}
}

// TestHostileContent: what messages bring along is shown, not run.
func TestHostileContent(t *testing.T) {
	s := start(t)
	const evil = `<script>alert(1)</script>"'><img src=x>`
	s.api("POST", "/v2/publish/https://example.com/%22%3E%3Cscript%3E", evil, "Upstash-Label: <b>bold</b>", "Upstash-Forward-X-Evil: "+evil)
	s.api("POST", "/v2/publish/https://example.com/binary", "\x00\x01\xff\xfe")
	s.api("POST", "/v2/publish/https://example.com/secret", "hush", "Upstash-Redact-Fields: body")
	page := s.get(console.Prefix + "logs")
	ids := regexp.MustCompile(`/console/messages/(msg_\w+)`).FindAllStringSubmatch(page, -1)
	if len(ids) != 3 {
		t.Fatalf("got %d messages, want 3", len(ids))
	}
	for _, p := range append([]string{page}, s.get("/console/messages/"+ids[2][1]), s.get("/console/publish?from="+ids[2][1])) {
		for _, bad := range []string{"<script>alert", "<b>bold", "<img src=x"} {
			if strings.Contains(p, bad) {
				t.Errorf("a page has %q in it", bad)
			}
		}
	}
	if p := s.get("/console/messages/" + ids[1][1]); !strings.Contains(p, "00000000  00 01 ff fe") {
		t.Error("a binary body is not shown as hex")
	}
	secret := s.get("/console/messages/" + ids[0][1])
	if strings.Contains(secret, "hush") || !strings.Contains(secret, "REDACTED:") {
		t.Error("a redacted body is shown")
	}
	if strings.Contains(s.get("/console/publish?from="+ids[0][1]), "hush") {
		t.Error("a redacted body is shown by the form to publish again")
	}
}

// TestIsolation: no tenant sees another one's messages.
func TestIsolation(t *testing.T) {
	s := start(t)
	s.api("POST", "/v2/publish/https://example.com/mine", "x")
	id := regexp.MustCompile(`/console/messages/(msg_\w+)`).FindStringSubmatch(s.get(console.Prefix + "logs"))[1]
	s.get("/console/messages/" + id)
	other := start(t)
	r := httptest.NewRequest(http.MethodGet, "/console/messages/"+id, nil)
	r.AddCookie(other.session)
	if res := other.send(r); res.StatusCode != http.StatusNotFound {
		t.Errorf("got %s for a message of another server, want 404", res.Status)
	}
	r = httptest.NewRequest(http.MethodGet, "/console/messages/"+id, nil)
	r.AddCookie(other.session) // a session of another server is none here
	if res := s.send(r); res.StatusCode != http.StatusSeeOther {
		t.Errorf("got %s with a foreign session, want the sign-in page", res.Status)
	}
}

// TestLive: a page's events carry its parts when they change, and end with the server.
func TestLive(t *testing.T) {
	s := start(t)
	web := httptest.NewServer(s.srv.Handler())
	defer web.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, web.URL+console.Prefix+"logs?label=red", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.AddCookie(s.session)
	req.Header.Set("Accept", "text/event-stream")
	res, err := web.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := res.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Fatalf("got the type %q", got)
	}
	events := make(chan string)
	go func() {
		defer close(events)
		var text strings.Builder
		buf := make([]byte, 64<<10)
		for {
			n, err := res.Body.Read(buf)
			text.Write(buf[:n])
			for {
				one, rest, ok := strings.Cut(text.String(), "\n\n")
				if !ok {
					break
				}
				text.Reset()
				text.WriteString(rest)
				events <- one
			}
			if err != nil {
				return
			}
		}
	}()
	if e := <-events; !strings.HasPrefix(e, "event: logs-rows\ndata: ") || strings.Contains(e, "example.com/red") {
		t.Fatalf("got %.200q first, want the rows as they are", e)
	}
	s.api("POST", "/v2/publish/https://example.com/blue", "x", "Upstash-Label: blue")
	s.api("POST", "/v2/publish/https://example.com/red", "x", "Upstash-Label: red")
	if e := <-events; !strings.Contains(e, "example.com/red") || strings.Contains(e, "example.com/blue") {
		t.Errorf("got %.300q, want the message that passes the filter", e)
	}
	if err := s.srv.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	for range events { //nolint:revive // until the stream ends
	}
}
