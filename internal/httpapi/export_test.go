package httpapi

import (
	"maps"
	"slices"

	"github.com/posthaste/posthaste/internal/auth"
)

// A Route is what a path matches.
type Route struct {
	Name    string
	Rest    string
	Methods map[string]auth.Action
	Open    bool // needs no token
}

// Match returns the route of an escaped path; ok is false if there is none.
func Match(path string) (r Route, ok bool) {
	rt := match(path)
	if rt == nil {
		return Route{}, false
	}
	r = Route{Name: rt.name, Rest: rt.rest, Methods: map[string]auth.Action{}}
	for m, e := range rt.methods {
		r.Methods[m] = e.action
		r.Open = r.Open || e.open
	}
	return r, true
}

// Allowed returns the route's methods in order.
func (r Route) Allowed() []string { return slices.Sorted(maps.Keys(r.Methods)) }

// Words returns the words that follow the version in the paths of the table.
func Words() []string {
	var words []string
	for _, c := range collections {
		words = append(words, c.word)
	}
	return words
}
