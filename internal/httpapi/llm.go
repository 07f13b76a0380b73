package httpapi

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/auth"
	"github.com/posthaste/posthaste/internal/wire"
)

// LLM is the OpenAI-compatible service behind the chat route.
type LLM struct {
	URL       *url.URL // of its chat completions
	Token     string   // empty: none
	Transport http.RoundTripper
}

// The route is for tokens of full scope, and counts as a request of the management: what it costs is the operator's.
var chatRoute = map[string]endpoint{http.MethodPost: {action: auth.Manage, serve: chat}}

func matchLLM(path string) *route {
	if strings.EqualFold(path, wire.PathChat) {
		return &route{name: "/llm/v1/chat/completions", methods: chatRoute}
	}
	return nil
}

// chat hands a request on to the operator's service and streams the answer back, as it comes. Nothing of it is stored. The
// service learns neither the client's token nor its address.
func chat(c *call) error {
	llm := c.h.cfg.LLM
	if llm == nil {
		return posthaste.Errorf(posthaste.CodeInvalid, "api llm is not enabled: the server has no --llm-url")
	}
	most := c.h.cfg.MaxBody
	if limit := c.h.broker.MaxBody(c.who); limit > 0 {
		most = min(most, limit)
	}
	if c.r.ContentLength > most {
		return tooLarge(most)
	}
	c.r.Body = http.MaxBytesReader(c.w, c.r.Body, most)
	var failed error
	proxy := httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			target := *llm.URL
			r.Out.URL, r.Out.Host = &target, ""
			r.Out.Header = http.Header{}
			for _, name := range []string{"Content-Type", "Accept"} {
				if v := r.In.Header.Values(name); len(v) > 0 {
					r.Out.Header[name] = v
				}
			}
			if llm.Token != "" {
				r.Out.Header.Set(wire.HeaderAuthorization, wire.BearerPrefix+llm.Token)
			}
		},
		ModifyResponse: func(resp *http.Response) error {
			// Its cookies and its word on who may read the answer are about another site, and every answer here has our id.
			for name := range resp.Header {
				if name == "Set-Cookie" || name == wire.HeaderRequestID || strings.HasPrefix(name, "Access-Control-") {
					resp.Header.Del(name)
				}
			}
			c.wrote, c.status = true, resp.StatusCode
			return nil
		},
		ErrorHandler:  func(_ http.ResponseWriter, _ *http.Request, err error) { failed = err },
		ErrorLog:      slog.NewLogLogger(c.h.log.Handler(), slog.LevelDebug),
		FlushInterval: -1, // a stream's parts go on at once
		Transport:     llm.Transport,
	}
	proxy.ServeHTTP(c.w, c.r)
	var large *http.MaxBytesError
	switch {
	case failed == nil:
		return nil
	case errors.As(failed, &large):
		return tooLarge(large.Limit)
	case c.r.Context().Err() != nil:
		return failed
	}
	c.h.log.Info("the language model service did not answer", "err", failed)
	return posthaste.Errorf(posthaste.CodeUnavailable, "the language model service does not answer")
}
