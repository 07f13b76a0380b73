package httpapi_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/posthaste/posthaste/internal/httpapi"
	"github.com/posthaste/posthaste/internal/openapi"
)

// described returns the methods of each path of the description that this package serves.
func described(t *testing.T) map[string][]string {
	t.Helper()
	var doc struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(openapi.JSON(false), &doc); err != nil {
		t.Fatal(err)
	}
	paths := map[string][]string{}
	for path, item := range doc.Paths {
		if path == "/" || path == "/openapi.json" || path == "/docs" {
			continue // package openapi serves them
		}
		for method := range item {
			if method != "parameters" {
				paths[path] = append(paths[path], strings.ToUpper(method))
			}
		}
	}
	return paths
}

// A schedule's path holds its id, or the destination of a new one.
var describedSamples = []*strings.Replacer{
	strings.NewReplacer("{destination}", "https://example.com", "{schedule}", "s", "{queue}", "q", "{messageId}", "m", "{dlqId}", "d",
		"{group}", "g", "{key}", "k", "{host}", "h"),
	strings.NewReplacer("{schedule}", "https://example.com"),
}

// TestRoutesAreDescribed: the description in OpenAPI has every route of the source with its methods, and no other.
func TestRoutesAreDescribed(t *testing.T) {
	got := map[string][]string{} // by the route's name
	for path, methods := range described(t) {
		for _, sample := range describedSamples {
			filled := sample.Replace(path)
			if strings.Contains(filled, "{") {
				continue
			}
			r, ok := httpapi.Match(filled)
			if !ok {
				t.Errorf("%s is described, and is no route", path)
				continue
			}
			for _, m := range methods {
				if slices.Contains(r.Allowed(), m) {
					got[r.Name] = append(got[r.Name], m)
				} else if sample == describedSamples[0] {
					t.Errorf("%s %s is described, and is not allowed", m, path)
				}
			}
		}
	}
	for _, name := range routesInSource(t) {
		path := ""
		for _, e := range table {
			if e.route == name {
				path = e.path
			}
		}
		if path == "" {
			t.Errorf("%s: got no path in the tests' table", name)
			continue
		}
		if methods := slices.Compact(slices.Sorted(slices.Values(got[name]))); !slices.Equal(methods, lookUp(t, path).Allowed()) {
			t.Errorf("%s: got methods %v in the description, want %v", name, methods, lookUp(t, path).Allowed())
		}
	}
}
