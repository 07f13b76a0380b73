// Package openapi describes the HTTP API in OpenAPI 3.1, and shows the description as a page on which it can be tried out.
//
// The description is written by hand, in openapi.yaml; tests hold it to the routes there are, and a fuzzer in test/compat to the
// answers they give. The page is Swagger UI, embedded: it loads nothing from elsewhere.
package openapi

import (
	"bytes"
	"compress/gzip"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"

	"github.com/posthaste/posthaste/internal/wire"
)

//go:embed openapi.yaml
var source []byte

// The assets' licences are embedded with them: whoever has the program has them, too.
//
//go:embed assets
var assets embed.FS

// document is the description, decoded.
var document = sync.OnceValue(func() map[string]any {
	var doc map[string]any
	if err := yaml.Unmarshal(source, &doc); err != nil {
		panic("openapi.yaml: " + err.Error()) // a test reads it
	}
	return doc
})

// JSON returns the description. Without dev, the routes of dev are left out.
func JSON(dev bool) []byte {
	doc := make(map[string]any, len(document()))
	for k, v := range document() {
		doc[k] = v
	}
	if !dev {
		paths, _ := doc["paths"].(map[string]any)
		kept := make(map[string]any, len(paths))
		for path, item := range paths {
			if !strings.HasPrefix(path, "/dev/") {
				kept[path] = item
			}
		}
		doc["paths"] = kept
	}
	out, err := json.Marshal(doc)
	if err != nil {
		panic("openapi.yaml: " + err.Error()) // a test writes it
	}
	return out
}

// Config sets a Handler up.
type Config struct {
	Dev     bool   // describe the routes of dev, and fill in its token
	Version string // of the program
	Console string // where browsers are led to; empty: to the page
}

// Handler serves /, /openapi.json, /docs and what is below it.
type Handler struct {
	cfg   Config
	files map[string]func() *file // by path; made when first asked for
}

// file is something that does not change.
type file struct {
	contentType string
	plain, gzip []byte // gzip may be nil
}

// New returns the handler.
func New(cfg Config) *Handler {
	h := &Handler{cfg: cfg}
	vendored := func(name, contentType string) func() *file {
		return sync.OnceValue(func() *file {
			packed, err := assets.ReadFile("assets/" + name + ".gz")
			if err != nil {
				panic(err) // it is embedded
			}
			r, err := gzip.NewReader(bytes.NewReader(packed))
			if err != nil {
				panic(err) // a test reads it
			}
			plain, err := io.ReadAll(r)
			if err != nil {
				panic(err)
			}
			return &file{contentType, plain, packed}
		})
	}
	h.files = map[string]func() *file{
		"/openapi.json": sync.OnceValue(func() *file {
			return &file{contentType: wire.ContentTypeJSON, plain: JSON(cfg.Dev)}
		}),
		"/docs": func() *file { return &file{contentType: "text/html; charset=utf-8", plain: []byte(page)} },
		"/docs/start.js": sync.OnceValue(func() *file {
			token := ""
			if cfg.Dev {
				token = wire.DevUsers()[0].Token
			}
			return &file{contentType: "text/javascript; charset=utf-8", plain: fmt.Appendf(nil, start, token)}
		}),
		"/docs/swagger-ui-bundle.js": vendored("swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
		"/docs/swagger-ui.css":       vendored("swagger-ui.css", "text/css; charset=utf-8"),
	}
	return h
}

const page = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Posthaste: the API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
`

// start shows the description. The token of dev is filled in, so that every operation can be tried at once.
const start = `const token = %q;
const ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#ui",
  deepLinking: true,
  displayRequestDuration: true,
  filter: true,
  onComplete: () => { if (token) ui.preauthorizeApiKey("bearer", token); },
});
`

// policy lets the page load and do nothing that is not this server's.
const policy = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"

// ServeHTTP implements [http.Handler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set(wire.HeaderAllow, "GET, HEAD")
		answer(w, r, http.StatusMethodNotAllowed, wire.ContentTypeJSON, wire.AppendError(nil, "method "+r.Method+" is not allowed here; allowed: GET, HEAD"))
		return
	}
	if r.URL.Path == "/" {
		h.index(w, r)
		return
	}
	get := h.files[strings.TrimSuffix(r.URL.Path, "/")]
	if get == nil {
		answer(w, r, http.StatusNotFound, wire.ContentTypeJSON, wire.AppendError(nil, "no such route"))
		return
	}
	f := get()
	w.Header().Set("Content-Security-Policy", policy)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-cache")
	body := f.plain
	if f.gzip != nil {
		w.Header().Set("Vary", "Accept-Encoding")
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			w.Header().Set("Content-Encoding", "gzip")
			body = f.gzip
		}
	}
	answer(w, r, http.StatusOK, f.contentType, body)
}

// index leads browsers to the console, and tells others what there is.
func (h *Handler) index(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Vary", "Accept")
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		to := h.cfg.Console
		if to == "" {
			to = "/docs"
		}
		w.Header().Set("Location", to)
		answer(w, r, http.StatusFound, "text/plain; charset=utf-8", []byte("see "+to+"\n"))
		return
	}
	index := struct {
		Name    string `json:"name"`
		Version string `json:"version"`
		Docs    string `json:"docs"`
		OpenAPI string `json:"openapi"`
		Console string `json:"console,omitempty"`
	}{"posthaste", h.cfg.Version, "/docs", "/openapi.json", h.cfg.Console}
	body, err := json.Marshal(index)
	if err != nil {
		panic(err) // strings marshal
	}
	answer(w, r, http.StatusOK, wire.ContentTypeJSON, body)
}

func answer(w http.ResponseWriter, r *http.Request, status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		w.Write(body) //nolint:errcheck // a client that went away is no fault of ours
	}
}
