package compose

import (
	"cmp"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/wire"
)

// Callback returns the message that tells cb of an attempt of m. A callback inherits the caller's address and the number of
// retries, and nothing else: no labels, group, schedule, queue or callbacks. What the source redacts is redacted where the API
// shows the callback, whose body quotes the source.
func Callback(cb *posthaste.Callback, m *posthaste.Message, a *posthaste.Attempt, dead posthaste.DeadLetterID) Draft {
	retries := m.MaxRetries
	if cb.Retries != nil {
		retries = *cb.Retries
	}
	out := &posthaste.Message{
		Tenant:     m.Tenant,
		URL:        cb.URL,
		Method:     cmp.Or(cb.Method, "POST"),
		Header:     CallbackHeader(cb.Header),
		Body:       wire.AppendCallback(nil, m, a, dead),
		MaxRetries: retries,
		RetryDelay: cb.RetryDelay,
		Timeout:    cb.Timeout,
		Delay:      cb.Delay,
		Flow:       cb.Flow,
		Redact:     m.Redact,
		CallerIP:   m.CallerIP,
		Source:     m.ID,
	}
	return Draft{Message: out, Delay: cb.Delay}
}
