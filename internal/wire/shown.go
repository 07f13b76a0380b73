package wire

import "github.com/posthaste/posthaste"

// Shown returns the headers and the body of m as they are shown to whoever may read them: with what the message wants redacted
// replaced. If the body itself is redacted, marker is what stands in its place.
func Shown(m *posthaste.Message) (header posthaste.Header, marker string, body []byte) {
	marker, body = shownBody(m)
	return redactHeader(m.Redact, m.Header), marker, body
}
