package openapi_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/posthaste/posthaste/internal/devtools"
	"github.com/posthaste/posthaste/internal/openapi"
)

type document struct {
	OpenAPI string
	Paths   map[string]map[string]json.RawMessage
}

func read(t *testing.T, dev bool) document {
	t.Helper()
	var doc document
	if err := json.Unmarshal(openapi.JSON(dev), &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// get asks a handler for a path, with header lines.
func get(h http.Handler, method, path string, header ...string) *http.Response {
	req := httptest.NewRequest(method, path, nil)
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w.Result()
}

// TestDevRoutesAreDescribed: the routes of dev, and no others, are described, and only in dev. Package httpapi holds the
// description to its own.
func TestDevRoutesAreDescribed(t *testing.T) {
	var want, got []string
	for _, r := range devtools.Routes() {
		want = append(want, r.Method+" "+strings.Replace(r.Path, "{name}", "{inbox}", 1))
	}
	for path, item := range read(t, true).Paths {
		if !strings.HasPrefix(path, "/"+devtools.Prefix+"/") {
			continue
		}
		for method := range item {
			if method != "parameters" {
				got = append(got, strings.ToUpper(method)+" "+path)
			}
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("routes of dev (-code +description):\n%s", diff)
	}
	for path := range read(t, false).Paths {
		if strings.HasPrefix(path, "/dev") {
			t.Errorf("%s is described outside dev", path)
		}
	}
}

// TestOperations: every operation has an id of its own, a summary, the tag that says whose it is, and says what errors look like.
func TestOperations(t *testing.T) {
	doc := read(t, true)
	if doc.OpenAPI != "3.1.1" {
		t.Errorf("got OpenAPI %s, want 3.1.1", doc.OpenAPI)
	}
	ids := map[string]string{}
	for path, item := range doc.Paths {
		for method, raw := range item {
			if method == "parameters" {
				continue
			}
			var op struct {
				OperationID string
				Summary     string
				Tags        []string
				Responses   map[string]any
				Security    []any
			}
			if err := json.Unmarshal(raw, &op); err != nil {
				t.Fatalf("%s %s: %v", method, path, err)
			}
			name := method + " " + path
			if other := ids[op.OperationID]; op.OperationID == "" || other != "" {
				t.Errorf("%s: got the operation id %q, which %q has, too", name, op.OperationID, other)
			}
			ids[op.OperationID] = name
			want := "posthaste"
			switch {
			case strings.HasPrefix(path, "/dev/"):
				want = "dev"
			case strings.HasPrefix(path, "/v2/"), strings.HasPrefix(path, "/llm/"):
				want = "compatible"
			}
			if len(op.Tags) != 1 || op.Tags[0] != want {
				t.Errorf("%s: got tags %v, want %s", name, op.Tags, want)
			}
			if op.Summary == "" || op.Responses["default"] == nil {
				t.Errorf("%s: got no summary, or no default answer", name)
			}
			if open := op.Security != nil; open == (want == "compatible" || strings.HasPrefix(path, "/ext/")) {
				t.Errorf("%s: got it open %t", name, open)
			}
		}
	}
}

// TestReferences: every reference leads somewhere.
func TestReferences(t *testing.T) {
	var doc any
	if err := json.Unmarshal(openapi.JSON(true), &doc); err != nil {
		t.Fatal(err)
	}
	n := 0
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				n++
				at := doc
				for word := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
					m, _ := at.(map[string]any)
					at = m[word]
				}
				if at == nil {
					t.Errorf("%s leads nowhere", ref)
				}
			}
			for _, x := range v {
				walk(x)
			}
		case []any:
			for _, x := range v {
				walk(x)
			}
		}
	}
	walk(doc)
	if n < 100 {
		t.Errorf("got %d references, want more", n)
	}
}

// TestPage: the page loads what it names, and names nothing that is not this server's.
func TestPage(t *testing.T) {
	h := openapi.New(openapi.Config{Dev: true})
	page := get(h, http.MethodGet, "/docs/")
	body, err := io.ReadAll(page.Body)
	if err != nil || page.StatusCode != http.StatusOK {
		t.Fatalf("got status %d, %v", page.StatusCode, err)
	}
	if strings.Contains(string(body), "//") {
		t.Errorf("got a page that names another site: %s", body)
	}
	var files []string
	for _, attr := range []string{`src="`, `href="/`} {
		for rest := string(body); ; {
			_, tail, ok := strings.Cut(rest, attr)
			if !ok {
				break
			}
			name, after, _ := strings.Cut(tail, `"`)
			files, rest = append(files, "/"+strings.TrimPrefix(name, "/")), after
		}
	}
	if len(files) != 3 {
		t.Errorf("got files %v, want three", files)
	}
	for _, file := range append(files, "/openapi.json") {
		plain, packed := get(h, http.MethodGet, file), get(h, http.MethodGet, file, "Accept-Encoding: gzip")
		a, err := io.ReadAll(plain.Body)
		if err != nil || plain.StatusCode != http.StatusOK || len(a) == 0 || packed.StatusCode != http.StatusOK {
			t.Errorf("%s: got status %d, %d bytes, %v", file, plain.StatusCode, len(a), err)
		}
		if head := get(h, http.MethodHead, file); head.Header.Get("Content-Length") != fmt.Sprint(len(a)) {
			t.Errorf("%s: got a length of %s to HEAD, want %d", file, head.Header.Get("Content-Length"), len(a))
		}
	}
	if got := page.Header.Get("Content-Security-Policy"); !strings.Contains(got, "default-src 'self'") || strings.Contains(got, "unsafe-eval") {
		t.Errorf("got policy %q", got)
	}
}

// The token of dev, which everybody knows, is on the page in dev only.
func TestToken(t *testing.T) {
	for dev, want := range map[bool]bool{true: true, false: false} {
		body, err := io.ReadAll(get(openapi.New(openapi.Config{Dev: dev}), http.MethodGet, "/docs/start.js").Body)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(body), "eyJ"); got != want {
			t.Errorf("dev %t: got a token %t, want %t", dev, got, want)
		}
	}
}

func TestIndex(t *testing.T) {
	for _, tt := range []struct {
		console, method, path, accept string
		status                        int
		location, body                string
	}{
		{"/console/", "GET", "/", "text/html,application/xhtml+xml", 302, "/console/", "see /console/\n"},
		{"", "GET", "/", "text/html", 302, "/docs", "see /docs\n"},
		{"/console/", "GET", "/", "*/*", 200, "", `{"name":"posthaste","version":"1.2","docs":"/docs","openapi":"/openapi.json","console":"/console/"}`},
		{"", "GET", "/", "", 200, "", `{"name":"posthaste","version":"1.2","docs":"/docs","openapi":"/openapi.json"}`},
		{"", "HEAD", "/", "", 200, "", ""},
		{"", "POST", "/", "", 405, "", `{"error":"method POST is not allowed here; allowed: GET, HEAD"}`},
		{"", "GET", "/docs/no.js", "", 404, "", `{"error":"no such route"}`},
	} {
		resp := get(openapi.New(openapi.Config{Console: tt.console, Version: "1.2"}), tt.method, tt.path, "Accept: "+tt.accept)
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != tt.status || resp.Header.Get("Location") != tt.location || string(body) != tt.body {
			t.Errorf("%s %s, accepting %q: got %d, to %q: %s, want %d, to %q: %s",
				tt.method, tt.path, tt.accept, resp.StatusCode, resp.Header.Get("Location"), body, tt.status, tt.location, tt.body)
		}
	}
}
