// Package compose builds messages: from a request, for a callback, for a retry of a dead letter, for a schedule's tick. It is
// pure. Ids are given and times are fixed later, inside the transaction that accepts the message.
package compose

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/posthaste/posthaste"
)

// Draft is a message to be accepted. Its delay is relative until then.
type Draft struct {
	Message   *posthaste.Message // without id, CreatedAt and NotBefore
	Delay     time.Duration      // after acceptance
	NotBefore time.Time          // wins over Delay; zero: not set
}

// At fixes the moments of a draft that is accepted now.
func (d *Draft) At(now time.Time) (notBefore time.Time) {
	switch {
	case !d.NotBefore.IsZero():
		return later(d.NotBefore, now)
	case d.Delay > 0:
		return now.Add(d.Delay)
	}
	return now
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Host returns the host of a destination as connections are counted by: lower case, with the port if the URL has one.
func Host(rawURL string) string {
	_, rest, ok := strings.Cut(rawURL, "://")
	if !ok {
		return ""
	}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		rest = rest[:i]
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		rest = rest[i+1:]
	}
	return strings.ToLower(rest)
}

// Path returns the path of a destination without query and fragment.
func Path(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return ""
	}
	return u.EscapedPath()
}

// CallbackHeader returns the headers of a callback: JSON unless the publisher forwards another type.
func CallbackHeader(h posthaste.Header) posthaste.Header {
	out := make(posthaste.Header, len(h)+1)
	out["Content-Type"] = []string{"application/json"}
	for name, values := range h {
		out[name] = slices.Clone(values)
	}
	return out
}
