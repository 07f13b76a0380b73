package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/textproto"
	"slices"
	"unicode/utf8"

	"github.com/posthaste/posthaste"
)

// QueueUpsert is what a client wants a queue to be. Nil fields stay as they are; a new queue has parallelism 1 and is not
// paused.
type QueueUpsert struct {
	Name        string
	Parallelism *int
	Paused      *bool
}

// ParseQueueUpsert reads the body of a queue's upsert.
func ParseQueueUpsert(body []byte) (QueueUpsert, error) {
	var j struct {
		QueueName   string `json:"queueName"`
		Parallelism *int   `json:"parallelism"`
		Paused      *bool  `json:"paused"`
	}
	if err := unmarshal(body, &j); err != nil {
		return QueueUpsert{}, err
	}
	if err := CheckName(j.QueueName); err != nil {
		return QueueUpsert{}, posthaste.Errorf(posthaste.CodeInvalid, "invalid queueName: %v", err)
	}
	if j.Parallelism != nil && *j.Parallelism < 1 {
		return QueueUpsert{}, posthaste.Errorf(posthaste.CodeInvalid, "invalid parallelism: %d is not 1 or more", *j.Parallelism)
	}
	return QueueUpsert{j.QueueName, j.Parallelism, j.Paused}, nil
}

// ParseEndpoints reads the endpoints to add to a URL group. There is at least one, and each has a URL, which is not parsed.
func ParseEndpoints(body []byte) ([]posthaste.Endpoint, error) {
	endpoints, err := parseEndpoints(body)
	if err != nil {
		return nil, err
	}
	if len(endpoints) == 0 {
		return nil, posthaste.Errorf(posthaste.CodeInvalid, "invalid endpoints: %v", errEmpty)
	}
	for i, e := range endpoints {
		if err := CheckURLText(e.URL); err != nil {
			return nil, posthaste.Errorf(posthaste.CodeInvalid, "invalid endpoints[%d].url: %v", i, err)
		}
	}
	return endpoints, nil
}

// ParseEndpointRefs reads the endpoints to remove from a URL group. Each has a name, a URL or both.
func ParseEndpointRefs(body []byte) ([]posthaste.Endpoint, error) {
	endpoints, err := parseEndpoints(body)
	if err != nil {
		return nil, err
	}
	for i, e := range endpoints {
		if e.Name == "" && e.URL == "" {
			return nil, posthaste.Errorf(posthaste.CodeInvalid, "invalid endpoints[%d]: needs name or url", i)
		}
	}
	return endpoints, nil
}

func parseEndpoints(body []byte) ([]posthaste.Endpoint, error) {
	var j struct {
		Endpoints []endpointJSON `json:"endpoints"`
	}
	if err := unmarshal(body, &j); err != nil {
		return nil, err
	}
	endpoints := make([]posthaste.Endpoint, len(j.Endpoints))
	for i, e := range j.Endpoints {
		err := CheckText(e.Name)
		if err == nil {
			err = checkCharacters(e.URL)
		}
		if err != nil {
			return nil, posthaste.Errorf(posthaste.CodeInvalid, "invalid endpoints[%d]: %v", i, err)
		}
		endpoints[i] = posthaste.Endpoint(e)
	}
	return endpoints, nil
}

// ParseGroupDefaults reads the headers that a URL group applies to what is published to it, and checks them as a publish
// would.
func ParseGroupDefaults(body []byte) (posthaste.Header, error) {
	var j struct {
		Headers headersField `json:"headers"`
	}
	if err := unmarshal(body, &j); err != nil {
		return nil, err
	}
	if _, err := ParseSettings(Input{Defaults: j.Headers}); err != nil {
		return nil, err
	}
	for name, values := range j.Headers {
		for _, v := range values {
			err := checkToken(name)
			if err == nil {
				err = checkHeaderValue(v)
			}
			if err != nil {
				return nil, posthaste.Errorf(posthaste.CodeInvalid, "invalid %s header: %v", shorten(name), err)
			}
		}
	}
	return posthaste.Header(j.Headers), nil
}

// BatchItem is one item of a batch.
type BatchItem struct {
	Index       int
	Destination Destination
	Header      map[string][]string // with canonical names, for [ParseSettings]
	Body        []byte
	Queue       string // empty: a publish
}

// BatchReader reads the items of a batch one by one. It never holds more than one item and what was read ahead of the next.
type BatchReader struct {
	dec     *json.Decoder
	in      limitedReader
	maxItem int64
	next    int
	err     error // io.EOF at the end
	started bool
}

// itemSlack is what an item may have before it, blanks and a comma, besides its size.
const itemSlack = 512

// NewBatchReader returns a reader of the JSON array in r. An item of more than maxItem bytes of JSON, and a few more, is
// refused.
func NewBatchReader(r io.Reader, maxItem int64) *BatchReader {
	b := &BatchReader{in: limitedReader{r: r}, maxItem: maxItem}
	b.dec = json.NewDecoder(&b.in)
	return b
}

// Next returns the next item, or io.EOF after the last. An error is final: of CodeInvalid or CodeTooLarge with the item's index,
// or that of the underlying reader. Since a batch is accepted or refused whole, items before an error do not count.
func (b *BatchReader) Next() (BatchItem, error) {
	if b.err != nil {
		return BatchItem{}, b.err
	}
	item, err := b.read()
	if err != nil {
		b.err = err
		return BatchItem{}, err
	}
	b.next++
	return item, nil
}

func (b *BatchReader) read() (BatchItem, error) {
	b.in.until = b.dec.InputOffset() + b.maxItem + itemSlack
	if !b.started {
		b.started = true
		t, err := b.dec.Token()
		if err == nil && t != json.Delim('[') {
			return BatchItem{}, posthaste.Errorf(posthaste.CodeInvalid, "a batch is a JSON array of items")
		}
		if err != nil {
			return BatchItem{}, b.fail(err)
		}
	}
	if !b.dec.More() {
		if _, err := b.dec.Token(); err != nil {
			return BatchItem{}, b.fail(err)
		}
		switch _, err := b.dec.Token(); err {
		case io.EOF:
			return BatchItem{}, io.EOF
		case nil:
			return BatchItem{}, posthaste.Errorf(posthaste.CodeInvalid, "invalid JSON body: something follows the array")
		default:
			return BatchItem{}, b.fail(err)
		}
	}
	var j struct {
		Destination destinationField `json:"destination"`
		Headers     headersField     `json:"headers"`
		Body        bodyField        `json:"body"`
		Queue       queueField       `json:"queue"`
	}
	if err := b.dec.Decode(&j); err != nil {
		return BatchItem{}, b.fail(err)
	}
	dest, err := DestinationOf(string(j.Destination))
	if err != nil {
		return BatchItem{}, InItem(b.next, err)
	}
	return BatchItem{b.next, dest, j.Headers, j.Body, string(j.Queue)}, nil
}

// fail turns an error of reading or decoding into one of the package.
func (b *BatchReader) fail(err error) error {
	var field *fieldError
	switch {
	case errors.Is(err, errItemSize):
		return posthaste.Errorf(posthaste.CodeTooLarge, "batch[%d]: more than %d bytes", b.next, b.maxItem)
	case errors.As(err, &field):
		return posthaste.Errorf(posthaste.CodeInvalid, "batch[%d].%v", b.next, field)
	case b.in.err != nil && errors.Is(err, b.in.err):
		return err
	}
	if e, ok := errors.AsType[*posthaste.Error](invalidJSON(err)); ok {
		return posthaste.Errorf(posthaste.CodeInvalid, "batch[%d]: %s", b.next, e.Message)
	}
	return err
}

// InItem adds the index of a batch item to an error about it, and keeps its code.
func InItem(index int, err error) error {
	var e *posthaste.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("batch[%d]: %w", index, err)
	}
	in := *e
	in.Message = fmt.Sprintf("batch[%d]: %s", index, e.Message)
	return &in
}

var errItemSize = errors.New("item too large")

// limitedReader reads r up to the offset until, which moves with the items.
type limitedReader struct {
	r     io.Reader
	at    int64
	until int64
	err   error // of r, but for io.EOF
}

// Read implements io.Reader.
func (l *limitedReader) Read(p []byte) (int, error) {
	if l.at >= l.until {
		return 0, errItemSize
	}
	p = p[:min(int64(len(p)), l.until-l.at)]
	n, err := l.r.Read(p)
	l.at += int64(n)
	if err != nil && err != io.EOF {
		l.err = err
	}
	return n, err
}

// fieldError says what is wrong with a field of a batch item.
type fieldError struct{ field, what string }

// Error returns the field and the fault.
func (e *fieldError) Error() string { return e.field + ": " + e.what }

// The fields of a batch item that are more than encoding/json can check.
type (
	destinationField string
	queueField       string
	bodyField        []byte
	headersField     map[string][]string
)

// UnmarshalJSON reads a string.
func (f *destinationField) UnmarshalJSON(raw []byte) error {
	s, err := unmarshalText("destination", raw)
	*f = destinationField(s)
	return err
}

// UnmarshalJSON reads the name of a queue, or none.
func (f *queueField) UnmarshalJSON(raw []byte) error {
	s, err := unmarshalText("queue", raw)
	if err == nil && s != "" {
		if e := CheckName(s); e != nil {
			err = &fieldError{"queue", e.Error()}
		}
	}
	*f = queueField(s)
	return err
}

// UnmarshalJSON reads a string for its bytes, and keeps any other value as compact JSON.
func (f *bodyField) UnmarshalJSON(raw []byte) error {
	switch {
	case !utf8.Valid(raw):
		return &fieldError{"body", errUTF8.Error()}
	case string(raw) == "null":
		*f = nil
	case raw[0] != '"':
		var buf bytes.Buffer
		if err := json.Compact(&buf, raw); err != nil {
			return err
		}
		*f = buf.Bytes()
	case bytes.IndexByte(raw, '\\') < 0:
		*f = bytes.Clone(raw[1 : len(raw)-1])
	default:
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return err
		}
		*f = []byte(s)
	}
	return nil
}

// UnmarshalJSON reads an object of strings or arrays of strings. Names become canonical; those that differ only in case are
// lines of one header.
func (f *headersField) UnmarshalJSON(raw []byte) error {
	const field = "headers"
	if !utf8.Valid(raw) {
		return &fieldError{field, errUTF8.Error()}
	}
	var lines map[string]json.RawMessage
	if err := json.Unmarshal(raw, &lines); err != nil {
		return &fieldError{field, "must be an object"}
	}
	*f = nil
	if len(lines) == 0 {
		return nil
	}
	h := make(headersField, len(lines))
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		var values []string
		line := lines[name]
		if text, ok := plainText(line); ok {
			values = []string{text}
		} else if line[0] == '"' {
			values = make([]string, 1)
			if err := json.Unmarshal(line, &values[0]); err != nil {
				return err
			}
		} else if err := json.Unmarshal(line, &values); err != nil {
			return &fieldError{field, shorten(name) + " must be a string or an array of strings"}
		}
		if len(values) > 0 {
			canonical := textproto.CanonicalMIMEHeaderKey(name)
			h[canonical] = append(h[canonical], values...)
		}
	}
	*f = h
	return nil
}

func unmarshalText(field string, raw []byte) (string, error) {
	if !utf8.Valid(raw) {
		return "", &fieldError{field, errUTF8.Error()}
	}
	if s, ok := plainText(raw); ok {
		return s, nil
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return "", &fieldError{field, "must be a string"}
	}
	return s, nil
}

// plainText returns the text of a JSON string that has no escapes, which most have not. raw is valid JSON and UTF-8.
func plainText(raw []byte) (string, bool) {
	if raw[0] != '"' || bytes.IndexByte(raw, '\\') >= 0 {
		return "", false
	}
	return string(raw[1 : len(raw)-1]), true
}

// unmarshal decodes a body; its errors are of CodeInvalid.
func unmarshal(body []byte, v any) error {
	if !utf8.Valid(body) {
		return posthaste.Errorf(posthaste.CodeInvalid, "invalid JSON body: it %v", errUTF8)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return invalidJSON(err)
	}
	return nil
}

// invalidJSON turns an error of encoding/json into one of CodeInvalid that says where the fault is.
func invalidJSON(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	var field *fieldError
	switch {
	case errors.As(err, &field):
		return posthaste.Errorf(posthaste.CodeInvalid, "invalid JSON body: %v", field)
	case errors.As(err, &kind):
		name := kind.Field
		if name == "" {
			name = "the value"
		}
		return posthaste.Errorf(posthaste.CodeInvalid, "invalid JSON body: %s: unexpected %s", name, kind.Value)
	case errors.As(err, &syntax):
		return posthaste.Errorf(posthaste.CodeInvalid, "invalid JSON body: %v (byte %d)", syntax, syntax.Offset)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return posthaste.Errorf(posthaste.CodeInvalid, "invalid JSON body: it ends too early")
	}
	return posthaste.Errorf(posthaste.CodeInvalid, "invalid JSON body: %v", err)
}
