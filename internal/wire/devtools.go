package wire

import (
	"encoding/base64"
	"time"
	"unicode/utf8"

	"github.com/posthaste/posthaste"
)

// Caught is a request that an inbox of the development server caught.
type Caught struct {
	Number int64
	At     time.Time
	Method string
	URL    string
	Header posthaste.Header
	Body   []byte

	Message  posthaste.MessageID
	Schedule posthaste.ScheduleID
	Group    string
	Attempt  int
	Tenant   posthaste.TenantID

	Valid  bool   // the signature
	Fault  string // why it is not
	Status int    // it was answered with; 0: none
}

type caughtJSON struct {
	Number    int64                `json:"number"`
	At        time.Time            `json:"at"`
	Method    string               `json:"method"`
	URL       string               `json:"url"`
	Header    posthaste.Header     `json:"headers"`
	Body      string               `json:"body"`
	Base64    string               `json:"bodyBase64,omitempty"`
	Message   posthaste.MessageID  `json:"messageId,omitempty"`
	Schedule  posthaste.ScheduleID `json:"scheduleId,omitempty"`
	Group     string               `json:"topicName,omitempty"`
	Attempt   int                  `json:"attempt,omitempty"`
	Tenant    posthaste.TenantID   `json:"tenant,omitempty"`
	Signature caughtSignatureJSON  `json:"signature"`
	Status    int                  `json:"answeredWith"`
}

type caughtSignatureJSON struct {
	Valid bool   `json:"valid"`
	Fault string `json:"error,omitempty"`
}

// AppendCaught appends what an inbox caught. A body that is not UTF-8 is shown as base64.
func AppendCaught(dst []byte, inbox string, total int64, list []Caught) []byte {
	out := struct {
		Inbox   string       `json:"inbox"`
		Total   int64        `json:"total"`
		Entries []caughtJSON `json:"entries"`
	}{inbox, total, make([]caughtJSON, len(list))}
	for i, c := range list {
		j := caughtJSON{
			Number: c.Number, At: c.At, Method: c.Method, URL: c.URL, Header: c.Header, Body: string(c.Body),
			Message: c.Message, Schedule: c.Schedule, Group: c.Group, Attempt: c.Attempt, Tenant: c.Tenant,
			Signature: caughtSignatureJSON{c.Valid, c.Fault}, Status: c.Status,
		}
		if !utf8.Valid(c.Body) {
			j.Body, j.Base64 = "", base64.StdEncoding.EncodeToString(c.Body)
		}
		out.Entries[i] = j
	}
	return appendJSON(dst, out)
}
