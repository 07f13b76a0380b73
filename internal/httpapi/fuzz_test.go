package httpapi_test

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/posthaste/posthaste/internal/auth"
	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/httpapi"
	"github.com/posthaste/posthaste/internal/server"
)

// FuzzMatch: every path has a route of the table or none; its case does not matter but for what a route takes out of it, which
// is a part of the path.
func FuzzMatch(f *testing.F) {
	names := map[string]bool{}
	for _, e := range table {
		names[e.route] = true
		f.Add(e.path)
		f.Add(strings.ToUpper(e.path) + "/")
	}
	for _, path := range []string{"", "/", "*", "/v2//", "/v2/queues//pause", "/v2/dlq/retry//", "/v2/schedules/https:/a/pause", "/v2/schedules/%2F/pause", "/v2/flowControl///", "/v2/keys/rotate/"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r, ok := httpapi.Match(path)
		if !ok {
			return
		}
		if !names[r.Name] || len(r.Methods) == 0 {
			t.Errorf("%q: got route %q with methods %v, want one of the table", path, r.Name, r.Allowed())
		}
		if !strings.Contains(path, r.Rest) {
			t.Errorf("%q: got rest %q, want a part of the path", path, r.Rest)
		}
		if !strings.Contains(r.Name, "{") && r.Rest != "" {
			t.Errorf("%q: got rest %q for %s, want none", path, r.Rest, r.Name)
		}
		for method, action := range r.Methods {
			if (method == http.MethodGet) != (action == auth.Read) {
				t.Errorf("%q: got action %d for %s, want GET alone to read", path, action, method)
			}
		}
		if r.Open && !slices.Contains([]string{"/healthz", "/readyz"}, r.Name) {
			t.Errorf("%q: got %s open to everybody", path, r.Name)
		}
		if ascii(path) {
			if upper, ok := httpapi.Match(strings.ToUpper(path)); !ok || upper.Name != r.Name {
				t.Errorf("%q: got route %s, and %s in capitals", path, r.Name, upper.Name)
			}
		}
	})
}

// ascii reports whether s has no letter but those of ASCII, whose capitals are theirs alone.
func ascii(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > 127 }) < 0
}

// FuzzRequest: whatever the target, a header and the body are, the answer is JSON and no fault of the server.
func FuzzRequest(f *testing.F) {
	for _, e := range table {
		for _, method := range mustMatch(strings.SplitN(e.path, "?", 2)[0]) {
			st := requests[method+" "+e.path]
			header := strings.Join(st.header, "\r\n")
			f.Add(method, e.path, header, st.body)
		}
	}
	f.Add("POST", "/v2/publish/https://a.test", "Upstash-Delay: 1", "\xff")
	f.Add("GET", "/v2/events?cursor=1-0.x.0&state=RETRY", "Origin: x", "")
	srv, err := server.New(f.Context(), server.Config{
		Users: []broker.NewTenant{{Name: "alice", Token: "alice"}}, Transport: &destination{},
	})
	if err != nil {
		f.Fatal(err)
	}
	defer srv.Stop(f.Context())
	h := srv.Handler()
	f.Fuzz(func(t *testing.T, method, target, header, body string) {
		raw := method + " " + target + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice\r\n" + header + "\r\n\r\n" + body
		req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
		if err != nil {
			return
		}
		req.Body, req.ContentLength = http.NoBody, 0
		if body != "" {
			req.Body, req.ContentLength = http.MaxBytesReader(nil, readCloser{strings.NewReader(body)}, 1<<20), int64(len(body))
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		switch {
		case w.Code >= 500:
			t.Errorf("got %d %s, want no fault of the server", w.Code, w.Body)
		case w.Code == http.StatusNoContent:
		case !json.Valid(w.Body.Bytes()) || w.Header().Get("Content-Type") != "application/json":
			t.Errorf("got %d %q, want JSON", w.Code, w.Body)
		}
	})
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }
