package server

import (
	"net/http"
	"strings"
)

// edges chooses who answers a request by the first word of its path. What nobody else has is the API's. Paths are not cleaned:
// destinations stand in them.
type edges struct {
	api    http.Handler
	mounts map[string]http.Handler // immutable once the server is made
}

func (e *edges) mount(word string, h http.Handler) {
	if e.mounts == nil {
		e.mounts = map[string]http.Handler{}
	}
	e.mounts[word] = h
}

// ServeHTTP implements [http.Handler].
func (e *edges) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	word, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if h := e.mounts[word]; h != nil && (word != "" || r.URL.Path == "/") {
		h.ServeHTTP(w, r)
		return
	}
	e.api.ServeHTTP(w, r)
}
