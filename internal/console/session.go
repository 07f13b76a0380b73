package console

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/auth"
)

// The cookies.
const (
	sessionCookie = "posthaste_session"
	flashCookie   = "posthaste_flash"
)

// secure reports whether the visitor came by TLS, ended here or at a proxy. A visitor who makes that up only hides a cookie
// from themselves.
func secure(r *http.Request) bool {
	return r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
}

func setCookie(w http.ResponseWriter, r *http.Request, name, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{
		Name: name, Value: value, Path: Prefix, MaxAge: maxAge, HttpOnly: true, Secure: secure(r), SameSite: http.SameSiteStrictMode,
	})
}

// begin signs a visitor in.
func (h *Handler) begin(w http.ResponseWriter, r *http.Request, token string) {
	setCookie(w, r, sessionCookie, h.sessions.Begin(token), 0)
}

// toSignIn sends a visitor to the sign-in page, and from there back.
func (h *Handler) toSignIn(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.Header.Get("Accept"), "text/event-stream") {
		w.WriteHeader(http.StatusNoContent) // ends an event source for good
		return
	}
	to := Prefix + "sign-in"
	if r.Method == http.MethodGet && r.URL.Path != Prefix {
		to += "?to=" + url.QueryEscape(r.URL.RequestURI())
	}
	if r.Header.Get("HX-Request") == "true" {
		w.Header().Set("HX-Redirect", to)
		return
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// signInData is what the sign-in page shows.
type signInData struct {
	To      string
	Problem string
	Dev     bool
}

func (h *Handler) signInPage(w http.ResponseWriter, r *http.Request) {
	h.showSignIn(w, r, http.StatusOK, signInData{To: r.URL.Query().Get("to"), Dev: h.devVisitor(r)})
}

func (h *Handler) showSignIn(w http.ResponseWriter, r *http.Request, status int, d signInData) {
	c := &call{h: h, w: w, r: r}
	c.render(&view{page: "signin", title: "Sign in", status: status, data: d})
}

// signIn begins a session for a token that is valid, whatever its scope.
func (h *Handler) signIn(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	token := strings.TrimSpace(r.PostFormValue("token"))
	if r.PostFormValue("dev") != "" && h.devVisitor(r) {
		token = h.cfg.DevToken
	}
	d := signInData{To: r.PostFormValue("to"), Dev: h.devVisitor(r)}
	_, err := h.auth.Authenticate(r.Context(), token, auth.Read)
	only := false
	if posthaste.CodeOf(err) == posthaste.CodeForbidden {
		only = true
		_, err = h.auth.Authenticate(r.Context(), token, auth.Publish)
	}
	switch posthaste.CodeOf(err) { //nolint:exhaustive // the others are the server's trouble
	case "":
	case posthaste.CodeUnauthorized, posthaste.CodeForbidden:
		d.Problem = "No tenant of this server has such a token. Look for QSTASH_TOKEN in your application's environment."
		if token == "" {
			d.Problem = "Enter a token."
		}
		h.showSignIn(w, r, http.StatusUnauthorized, d)
		return
	default:
		h.log.Error("sign-in failed", "err", err)
		d.Problem = "The server cannot look tokens up at the moment; try again."
		h.showSignIn(w, r, http.StatusServiceUnavailable, d)
		return
	}
	if old, err := r.Cookie(sessionCookie); err == nil {
		h.sessions.End(old.Value)
	}
	h.begin(w, r, token)
	to := Prefix
	if only {
		to += "publish"
	} else if strings.HasPrefix(d.To, Prefix) && !strings.HasPrefix(d.To, Prefix+"/") {
		to = d.To
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

func (h *Handler) signOut(w http.ResponseWriter, r *http.Request) {
	if old, err := r.Cookie(sessionCookie); err == nil {
		h.sessions.End(old.Value)
	}
	setCookie(w, r, sessionCookie, "", -1)
	http.Redirect(w, r, Prefix+"sign-in", http.StatusSeeOther)
}

// flash is a message that the next page shows once.
type flash struct {
	Kind string // good or bad
	Text string
}

func (c *call) flash(kind, text string) {
	if len(text) > 1500 {
		text = strings.ToValidUTF8(text[:1500], "") + "…"
	}
	setCookie(c.w, c.r, flashCookie, kind+"."+base64.RawURLEncoding.EncodeToString([]byte(text)), 60)
}

// takeFlash returns the message that an action left, and removes it.
func (c *call) takeFlash() *flash {
	cookie, err := c.r.Cookie(flashCookie)
	if err != nil {
		return nil
	}
	setCookie(c.w, c.r, flashCookie, "", -1)
	kind, text, _ := strings.Cut(cookie.Value, ".")
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || kind != "good" && kind != "bad" {
		return nil
	}
	return &flash{Kind: kind, Text: string(b)}
}
