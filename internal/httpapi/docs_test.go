package httpapi_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/posthaste/posthaste/internal/auth"
	"github.com/posthaste/posthaste/internal/httpapi"
)

// samples stand for what a path in the documentation leaves open.
var samples = strings.NewReplacer("{destination}", "https://example.com", "{queue}", "q", "{id}", "x", "{name}", "n", "{key}", "k", "{host}", "h")

// documented reads the table of routes in docs/api.md: for each route its methods, and which of them a read-only token may use.
func documented(t *testing.T) (methods, reading map[string][]string) {
	t.Helper()
	doc, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(doc), "\n## Routes\n")
	section, _, ok := strings.Cut(section, "\n## ")
	if !ok {
		t.Fatal("docs/api.md has no section of routes")
	}
	methods, reading = map[string][]string{}, map[string][]string{}
	for line := range strings.Lines(section) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 || !strings.Contains(cells[1], "`") {
			continue
		}
		var first string
		groups := strings.Split(strings.TrimSpace(cells[2]), "; ")
		for i, quoted := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[1], -1) {
			path := quoted[1]
			if i == 0 {
				first = path
			} else if strings.Count(path, "/") == 1 && strings.Count(first, "/") > 1 { // another last segment
				path = first[:strings.LastIndexByte(first, '/')] + path
			}
			matched, ok := httpapi.Match(samples.Replace(path))
			r := matched.Name
			if !ok {
				t.Errorf("docs/api.md: %s is no route", path)
				continue
			}
			for m := range strings.SplitSeq(groups[min(i, len(groups)-1)], ", ") {
				methods[r] = append(methods[r], m)
				if cell := strings.TrimSpace(cells[3]); cell == "yes" || cell == m {
					reading[r] = append(reading[r], m)
				}
			}
		}
	}
	return methods, reading
}

// routesInSource finds the names of all routes in the package's source.
func routesInSource(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			if text, err := strconv.Unquote(lit.Value); err == nil && regexp.MustCompile(`^/[a-z0-9]+(/[A-Za-z0-9{}]+)*$`).MatchString(text) {
				names[text] = true
			}
			return true
		})
	}
	return slices.Sorted(maps.Keys(names))
}

// TestRoutesAreDocumented: docs/api.md lists every route with its methods and with what a read-only token may do, and no other.
func TestRoutesAreDocumented(t *testing.T) {
	methods, reading := documented(t)
	source := routesInSource(t)
	if len(source) < 30 {
		t.Fatalf("got the routes %v in the source, want more", source)
	}
	known := map[string]string{}
	for _, e := range table {
		known[e.route] = e.path
	}
	for _, name := range source {
		path, ok := known[name]
		if !ok {
			t.Errorf("%s: got no path in the tests' table", name)
			continue
		}
		r := lookUp(t, path)
		if got := slices.Compact(slices.Sorted(slices.Values(methods[name]))); !slices.Equal(got, r.Allowed()) {
			t.Errorf("docs/api.md: %s: got methods %v, want %v", name, got, r.Allowed())
		}
		var read []string
		for _, m := range r.Allowed() {
			if r.Methods[m] == auth.Read && !r.Open {
				read = append(read, m)
			}
			if r.Methods[m] == auth.Read && m != http.MethodGet {
				t.Errorf("%s %s: got it open to read-only tokens", m, name)
			}
		}
		if got := slices.Compact(slices.Sorted(slices.Values(reading[name]))); !slices.Equal(got, read) {
			t.Errorf("docs/api.md: %s: got %v for read-only tokens, want %v", name, got, read)
		}
		delete(methods, name)
	}
	for name := range methods {
		t.Errorf("docs/api.md: got %s, which is no route", name)
	}
}
