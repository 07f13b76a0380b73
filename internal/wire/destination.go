package wire

import (
	"net/url"
	"strings"

	"github.com/posthaste/posthaste"
)

// DestinationKind tells the kinds of destinations apart.
type DestinationKind uint8

// The kinds.
const (
	DestinationURL   DestinationKind = iota + 1 // an http or https URL
	DestinationGroup                            // the name of a URL group, which may not exist
	DestinationAPI                              // the built-in destination for language models
)

// Destination is where a request wants its messages to go.
type Destination struct {
	Kind DestinationKind
	// Text is the URL byte for byte as the client wrote it, or the name of the group, or [DestinationLLM].
	Text string
}

// Pair is a name and a value, in the order they were given.
type Pair struct {
	Name, Value string
}

// Refusals that tests of the client libraries compare.
const (
	textNoDestination = "a non-empty destination must be provided"
	textBadURL        = "invalid destination url: "
	textBadScheme     = textBadURL + "endpoint has invalid scheme, add http:// or https://"
)

// ParseDestination reads the destination of a publish, an enqueue or a schedule from what follows the fixed part of the
// path, still percent-encoded, and the raw query. It consumes the query parameters that are meant for the server: it
// returns the settings among them, and drops the token. The others stay in the URL as they are.
//
// The URL is not parsed: whether it has a host, and which, is for the guard of outgoing requests to judge.
func ParseDestination(rest, rawQuery string) (Destination, []Pair, error) {
	if rest == "" {
		return Destination{}, nil, posthaste.Errorf(posthaste.CodeInvalid, textNoDestination)
	}
	if hasPrefixFold(rest, "http%3A") || hasPrefixFold(rest, "https%3A") {
		decoded, err := url.PathUnescape(rest)
		if err != nil {
			return Destination{}, nil, posthaste.Errorf(posthaste.CodeInvalid, textBadURL+"%v", err)
		}
		rest = decoded
	}
	// Proxies merge slashes.
	if i := schemeEnd(rest); i > 0 && len(rest) > i+1 && rest[i] == '/' && rest[i+1] != '/' {
		rest = rest[:i] + "/" + rest[i:]
	}
	query, pairs, err := consumeQuery(rawQuery)
	if err != nil {
		return Destination{}, nil, err
	}
	dest, err := DestinationOf(rest)
	if err != nil {
		return Destination{}, nil, err
	}
	if dest.Kind == DestinationURL && query != "" {
		dest.Text = addQuery(dest.Text, query)
		if err := CheckURLText(dest.Text); err != nil {
			return Destination{}, nil, posthaste.Errorf(posthaste.CodeInvalid, textBadURL+"%v", err)
		}
	}
	return dest, pairs, nil
}

// DestinationOf reads a destination that is given as text of its own, as in a batch item or a stored schedule: nothing is
// decoded, repaired or consumed.
func DestinationOf(text string) (Destination, error) {
	switch i := schemeEnd(text); {
	case text == "":
		return Destination{}, posthaste.Errorf(posthaste.CodeInvalid, textNoDestination)
	case i > 0 && strings.HasPrefix(text[i:], "//"):
		if err := CheckURLText(text); err != nil {
			return Destination{}, posthaste.Errorf(posthaste.CodeInvalid, textBadURL+"%v", err)
		}
		return Destination{DestinationURL, text}, nil
	case text == DestinationLLM:
		return Destination{DestinationAPI, text}, nil
	case CheckName(text) == nil:
		return Destination{DestinationGroup, text}, nil
	}
	return Destination{}, posthaste.Errorf(posthaste.CodeInvalid, textBadScheme)
}

// schemeEnd returns the index after "http:" or "https:", or 0.
func schemeEnd(s string) int {
	switch {
	case hasPrefixFold(s, "https:"):
		return len("https:")
	case hasPrefixFold(s, "http:"):
		return len("http:")
	}
	return 0
}

// addQuery adds a query to a URL. A decoded URL may have a query, or even a fragment, of its own.
func addQuery(u, query string) string {
	u, fragment, cut := strings.Cut(u, "#")
	sep := "?"
	if strings.Contains(u, "?") {
		sep = "&"
	}
	u += sep + query
	if cut {
		u += "#" + fragment
	}
	return u
}

// consumeQuery splits a raw query into what stays in the URL, byte for byte, and the settings in it.
func consumeQuery(raw string) (rest string, pairs []Pair, err error) {
	if !mayConsume(raw) {
		return raw, nil, nil
	}
	var kept []string
	for piece := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(piece, "=")
		if decoded, err := url.QueryUnescape(name); err == nil {
			name = decoded
		}
		setting := hasPrefixFold(name, paramPrefix)
		switch {
		case !setting && !strings.EqualFold(name, paramToken):
			kept = append(kept, piece)
		case setting:
			decoded, err := url.QueryUnescape(value)
			if err != nil {
				return "", nil, posthaste.Errorf(posthaste.CodeInvalid, "invalid query parameter: %s: %v", name, err)
			}
			pairs = append(pairs, Pair{name, decoded})
		}
	}
	return strings.Join(kept, "&"), pairs, nil
}

// mayConsume reports whether a raw query may hold anything for the server; most hold nothing.
func mayConsume(raw string) bool {
	for i := range len(raw) {
		if c := raw[i] | 0x20; (i == 0 || raw[i-1] == '&') && (c == 'u' || c == 'q' || raw[i] == '%') {
			return true
		}
	}
	return false
}

// TokenFromQuery returns the token that a raw query carries, if any.
func TokenFromQuery(raw string) (token string, ok bool) {
	for piece := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(piece, "=")
		if decoded, err := url.QueryUnescape(name); err == nil && strings.EqualFold(decoded, paramToken) {
			if token, err = url.QueryUnescape(value); err == nil {
				return token, true
			}
		}
	}
	return "", false
}

// CutQueue splits what follows the fixed part of an enqueue's path into the queue's name and the rest, which
// [ParseDestination] reads.
func CutQueue(rest string) (queue, destination string, err error) {
	segment, destination, _ := strings.Cut(rest, "/")
	queue, err = url.PathUnescape(segment)
	if err == nil {
		err = CheckName(queue)
	}
	if err != nil {
		return "", "", posthaste.Errorf(posthaste.CodeInvalid, "invalid queue name: %v", err)
	}
	return queue, destination, nil
}

// hasPrefixFold reports whether s begins with prefix, which is ASCII, in any case.
func hasPrefixFold(s, prefix string) bool {
	if len(s) < len(prefix) || s[0]|0x20 != prefix[0]|0x20 {
		return false
	}
	return s[:len(prefix)] == prefix || strings.EqualFold(s[:len(prefix)], prefix)
}
