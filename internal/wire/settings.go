package wire

import (
	"errors"
	"fmt"
	"math/bits"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"github.com/posthaste/posthaste"
)

// Field is one setting that a request may give.
type Field uint8

// The fields. A callback's settings follow its URL in one order for both callbacks.
const (
	FieldMethod Field = iota
	FieldForward
	FieldForwardAll
	FieldContentType
	FieldTimeout
	FieldRetries
	FieldRetryDelay
	FieldDelay
	FieldNotBefore
	FieldLabel
	FieldFlowKey // the first of MaxFlowKeys
	FieldFlowKey2
	FieldFlowKey3
	FieldFlowKey4
	FieldFlowValue // the first of MaxFlowKeys
	FieldFlowValue2
	FieldFlowValue3
	FieldFlowValue4
	FieldPriority
	FieldDeduplicationID
	FieldContentBasedDeduplication
	FieldDeduplicationWindow
	FieldRedact
	FieldCron
	FieldScheduleID
	FieldQueueName

	FieldCallback
	FieldCallbackMethod
	FieldCallbackForward
	FieldCallbackTimeout
	FieldCallbackRetries
	FieldCallbackRetryDelay
	FieldCallbackDelay
	FieldCallbackFlowKey
	FieldCallbackFlowKey2
	FieldCallbackFlowKey3
	FieldCallbackFlowKey4
	FieldCallbackFlowValue
	FieldCallbackFlowValue2
	FieldCallbackFlowValue3
	FieldCallbackFlowValue4

	FieldFailureCallback
	FieldFailureCallbackMethod
	FieldFailureCallbackForward
	FieldFailureCallbackTimeout
	FieldFailureCallbackRetries
	FieldFailureCallbackRetryDelay
	FieldFailureCallbackDelay
	FieldFailureCallbackFlowKey
	FieldFailureCallbackFlowKey2
	FieldFailureCallbackFlowKey3
	FieldFailureCallbackFlowKey4
	FieldFailureCallbackFlowValue
	FieldFailureCallbackFlowValue2
	FieldFailureCallbackFlowValue3
	FieldFailureCallbackFlowValue4

	fieldCount
	fieldNone Field = 255
)

// A callback's fields relative to its URL's, and how many they are.
const (
	callbackMethod     = FieldCallbackMethod - FieldCallback
	callbackForward    = FieldCallbackForward - FieldCallback
	callbackTimeout    = FieldCallbackTimeout - FieldCallback
	callbackRetries    = FieldCallbackRetries - FieldCallback
	callbackRetryDelay = FieldCallbackRetryDelay - FieldCallback
	callbackDelay      = FieldCallbackDelay - FieldCallback
	callbackFlowKey    = FieldCallbackFlowKey - FieldCallback
	callbackFlowValue  = FieldCallbackFlowValue - FieldCallback
	callbackFields     = FieldFailureCallback - FieldCallback
)

var fieldHeaders = [fieldCount]string{
	FieldMethod:                    HeaderMethod,
	FieldForward:                   PrefixForward + "*",
	FieldForwardAll:                HeaderForwardAll,
	FieldContentType:               HeaderContentType,
	FieldTimeout:                   HeaderTimeout,
	FieldRetries:                   HeaderRetries,
	FieldRetryDelay:                HeaderRetryDelay,
	FieldDelay:                     HeaderDelay,
	FieldNotBefore:                 HeaderNotBefore,
	FieldLabel:                     HeaderLabel,
	FieldFlowKey:                   HeaderFlowControlKey,
	FieldFlowKey2:                  HeaderFlowControlKey + "-2",
	FieldFlowKey3:                  HeaderFlowControlKey + "-3",
	FieldFlowKey4:                  HeaderFlowControlKey + "-4",
	FieldFlowValue:                 HeaderFlowControlValue,
	FieldFlowValue2:                HeaderFlowControlValue + "-2",
	FieldFlowValue3:                HeaderFlowControlValue + "-3",
	FieldFlowValue4:                HeaderFlowControlValue + "-4",
	FieldPriority:                  HeaderPriority,
	FieldDeduplicationID:           HeaderDeduplicationID,
	FieldContentBasedDeduplication: HeaderContentBasedDeduplication,
	FieldDeduplicationWindow:       HeaderDeduplicationWindow,
	FieldRedact:                    HeaderRedactFields,
	FieldCron:                      HeaderCron,
	FieldScheduleID:                HeaderScheduleID,
	FieldQueueName:                 HeaderQueueName,

	FieldCallback:           HeaderCallback,
	FieldCallbackMethod:     PrefixCallback + "Method",
	FieldCallbackForward:    PrefixCallbackForward + "*",
	FieldCallbackTimeout:    PrefixCallback + "Timeout",
	FieldCallbackRetries:    PrefixCallback + "Retries",
	FieldCallbackRetryDelay: PrefixCallback + "Retry-Delay",
	FieldCallbackDelay:      PrefixCallback + "Delay",
	FieldCallbackFlowKey:    PrefixCallback + "Flow-Control-Key",
	FieldCallbackFlowKey2:   PrefixCallback + "Flow-Control-Key-2",
	FieldCallbackFlowKey3:   PrefixCallback + "Flow-Control-Key-3",
	FieldCallbackFlowKey4:   PrefixCallback + "Flow-Control-Key-4",
	FieldCallbackFlowValue:  PrefixCallback + "Flow-Control-Value",
	FieldCallbackFlowValue2: PrefixCallback + "Flow-Control-Value-2",
	FieldCallbackFlowValue3: PrefixCallback + "Flow-Control-Value-3",
	FieldCallbackFlowValue4: PrefixCallback + "Flow-Control-Value-4",

	FieldFailureCallback:           HeaderFailureCallback,
	FieldFailureCallbackMethod:     PrefixFailureCallback + "Method",
	FieldFailureCallbackForward:    PrefixFailureCallbackForward + "*",
	FieldFailureCallbackTimeout:    PrefixFailureCallback + "Timeout",
	FieldFailureCallbackRetries:    PrefixFailureCallback + "Retries",
	FieldFailureCallbackRetryDelay: PrefixFailureCallback + "Retry-Delay",
	FieldFailureCallbackDelay:      PrefixFailureCallback + "Delay",
	FieldFailureCallbackFlowKey:    PrefixFailureCallback + "Flow-Control-Key",
	FieldFailureCallbackFlowKey2:   PrefixFailureCallback + "Flow-Control-Key-2",
	FieldFailureCallbackFlowKey3:   PrefixFailureCallback + "Flow-Control-Key-3",
	FieldFailureCallbackFlowKey4:   PrefixFailureCallback + "Flow-Control-Key-4",
	FieldFailureCallbackFlowValue:  PrefixFailureCallback + "Flow-Control-Value",
	FieldFailureCallbackFlowValue2: PrefixFailureCallback + "Flow-Control-Value-2",
	FieldFailureCallbackFlowValue3: PrefixFailureCallback + "Flow-Control-Value-3",
	FieldFailureCallbackFlowValue4: PrefixFailureCallback + "Flow-Control-Value-4",
}

// Header returns the name of the header that gives the field, for error messages.
func (f Field) Header() string {
	if f < fieldCount {
		return fieldHeaders[f]
	}
	return "unknown"
}

// Fields is a set of fields.
type Fields uint64

// FieldsOf returns the set of the given fields.
func FieldsOf(fields ...Field) Fields {
	var s Fields
	for _, f := range fields {
		s |= 1 << f
	}
	return s
}

// Has reports whether f is in the set.
func (s Fields) Has(f Field) bool { return s&(1<<f) != 0 }

// First returns the first field of the set in the order of the constants; ok is false when the set is empty.
func (s Fields) First() (f Field, ok bool) {
	return Field(bits.TrailingZeros64(uint64(s))), s != 0
}

// Settings is what a request says about its messages besides destination and body. A field's zero value stands for "not
// given"; where the difference matters, Given tells.
type Settings struct {
	// Given holds the fields that some source gave, whatever their value.
	Given Fields

	Method      string           // empty: POST
	Header      posthaste.Header // what the destination receives besides the engine's own headers; may be nil
	ForwardAll  bool             // Header holds all headers of the request
	ContentType string           // as given; Header has it too, unless Upstash-Forward-Content-Type replaced it

	Timeout    time.Duration
	Retries    int
	RetryDelay string        // the expression as given, not checked
	Delay      time.Duration // 0 when NotBefore is given, which wins
	NotBefore  time.Time

	Labels   []string
	Flow     []posthaste.FlowControl
	Priority int
	Redact   posthaste.Redaction

	DeduplicationID           string
	ContentBasedDeduplication bool
	DeduplicationWindow       time.Duration

	Callback        *posthaste.Callback // its URL is as given, not checked
	FailureCallback *posthaste.Callback

	Cron       string // trimmed, not checked; may be empty although given
	ScheduleID posthaste.ScheduleID
	QueueName  string
}

// Has reports whether some source gave f.
func (s *Settings) Has(f Field) bool { return s.Given.Has(f) }

// Input is where settings come from. A name given by several sources is taken from the first of Header, Query, Defaults that
// has it; a header of several lines that takes one value is taken from its first line.
type Input struct {
	Header   map[string][]string // of the request or the batch item, names in any case
	Query    []Pair              // what [ParseDestination] consumed
	Defaults map[string][]string // of the URL group

	// TokenInHeader says that Header's Authorization carried the server's own token, so it is never forwarded.
	TokenInHeader bool
	// IgnoreContentType says that Header's Content-Type describes this request and not a message.
	IgnoreContentType bool
}

// Bounds on what is stored as text. They keep every key short enough for an index of any store.
const (
	MaxTextSize    = 1024 // bytes of an id, a name, a key, a label, an expression
	MaxLabels      = 100
	maxRedactNames = 100
	maxPriority    = 9
)

// ParseSettings reads the settings of one message. Its errors are of CodeInvalid and name the header. The values in Header
// and in the callbacks' headers are shared with in, not copied.
func ParseSettings(in Input) (*Settings, error) {
	var p settingsParser
	for name, values := range in.Header {
		p.add(name, values)
	}
	if in.IgnoreContentType {
		p.given &^= FieldsOf(FieldContentType)
	}
	if len(in.Query) > 0 {
		query := make(map[string][]string, len(in.Query))
		for _, pair := range in.Query {
			name := textproto.CanonicalMIMEHeaderKey(pair.Name)
			query[name] = append(query[name], pair.Value)
		}
		for name, values := range query {
			p.add(name, values)
		}
	}
	for name, values := range in.Defaults {
		p.add(name, values)
	}
	if p.badName != "" {
		return nil, posthaste.Errorf(posthaste.CodeInvalid, "invalid header name %s", quote(p.badName))
	}

	s := &Settings{Given: p.given}
	for rest := p.given & messageFields; rest != 0; rest &= rest - 1 {
		f, _ := rest.First()
		if err := p.read(s, f); err != nil {
			return nil, err
		}
	}
	var err error
	if s.Flow, err = p.readFlow(FieldFlowKey, FieldFlowValue); err != nil {
		return nil, err
	}
	if s.Callback, err = p.readCallback(FieldCallback, p.forward[forwardCallback]); err != nil {
		return nil, err
	}
	if s.FailureCallback, err = p.readCallback(FieldFailureCallback, p.forward[forwardFailure]); err != nil {
		return nil, err
	}
	if s.ForwardAll {
		p.forwardAll(in)
	}
	s.Header = p.forward[forwardMessage]
	if s.ContentType != "" && len(s.Header[HeaderContentType]) == 0 {
		p.set(forwardMessage, "", HeaderContentType, p.raw[FieldContentType])
		s.Header = p.forward[forwardMessage]
	}
	if p.badErr != nil {
		return nil, posthaste.Errorf(posthaste.CodeInvalid, "invalid %s header: %v", shorten(p.badForward), p.badErr)
	}
	return s, nil
}

// Whose forwarded headers settingsParser.forward holds.
const (
	forwardMessage = iota
	forwardCallback
	forwardFailure
)

// messageFields are the fields that settingsParser.read takes one by one.
const messageFields Fields = (1<<FieldCallback - 1) &^ (1<<FieldForward | 0xff<<FieldFlowKey)

// settingsParser gathers the values of every field before any is read, so that which error is reported does not depend on
// the order of a map.
type settingsParser struct {
	given   Fields
	raw     [fieldCount][]string
	forward [3]posthaste.Header
	badName string // the least of the names that are no names

	// The least name of a forwarded header that has a fault, and the fault.
	badForward string
	badErr     error
}

// add takes one header, unless an earlier source gave it.
func (p *settingsParser) add(name string, values []string) {
	if len(values) == 0 {
		return
	}
	if !hasPrefixFold(name, PrefixUpstash) {
		if len(name) == len(HeaderContentType) && strings.EqualFold(name, HeaderContentType) {
			p.take(FieldContentType, values)
		}
		return
	}
	// Nearly all names are canonical already, and looking one up is quicker than making sure.
	if strings.HasPrefix(name, PrefixUpstash) {
		if f := messageField(name[len(PrefixUpstash):]); f != fieldNone {
			p.take(f, values)
			return
		}
	}
	name = textproto.CanonicalMIMEHeaderKey(name)
	if !strings.HasPrefix(name, PrefixUpstash) { // it was left alone, so it is not a token
		if p.badName == "" || name < p.badName {
			p.badName = name
		}
		return
	}
	rest := name[len(PrefixUpstash):]
	switch {
	case strings.HasPrefix(rest, "Forward-"):
		p.addForward(forwardMessage, FieldForward, PrefixForward, name, values)
	case strings.HasPrefix(rest, "Callback-"):
		p.addCallback(forwardCallback, FieldCallback, PrefixCallback, name, values)
	case strings.HasPrefix(rest, "Failure-Callback-"):
		p.addCallback(forwardFailure, FieldFailureCallback, PrefixFailureCallback, name, values)
	default:
		if f := messageField(rest); f != fieldNone {
			p.take(f, values)
		}
	}
}

func (p *settingsParser) addCallback(who int, base Field, prefix, name string, values []string) {
	rest := name[len(prefix):]
	if strings.HasPrefix(rest, "Forward-") {
		p.addForward(who, base+callbackForward, name[:len(prefix)+len("Forward-")], name, values)
	} else if f := callbackField(rest); f != fieldNone {
		p.take(base+f, values)
	}
}

func (p *settingsParser) addForward(who int, f Field, prefix, name string, values []string) {
	p.given |= 1 << f
	if name = name[len(prefix):]; !engineOwned(name) && p.forward[who][name] == nil {
		p.set(who, prefix, name, values)
	}
}

// set forwards a header that came as prefix and name.
func (p *settingsParser) set(who int, prefix, name string, values []string) {
	if p.forward[who] == nil {
		p.forward[who] = make(posthaste.Header)
	}
	p.forward[who][name] = slices.Clip(values)
	err := checkToken(name)
	for _, v := range values {
		if err == nil {
			err = checkHeaderValue(v)
		}
	}
	if err != nil && (p.badErr == nil || prefix+name < p.badForward) {
		p.badForward, p.badErr = prefix+name, err
	}
}

func (p *settingsParser) take(f Field, values []string) {
	if !p.given.Has(f) {
		p.given |= 1 << f
		p.raw[f] = values
	}
}

// messageField returns the field of a header's canonical name without the common prefix.
func messageField(rest string) Field {
	switch rest {
	case "Method":
		return FieldMethod
	case "Header-Forward":
		return FieldForwardAll
	case "Timeout":
		return FieldTimeout
	case "Retries":
		return FieldRetries
	case "Retry-Delay":
		return FieldRetryDelay
	case "Delay":
		return FieldDelay
	case "Not-Before":
		return FieldNotBefore
	case "Label":
		return FieldLabel
	case "Priority":
		return FieldPriority
	case "Deduplication-Id":
		return FieldDeduplicationID
	case "Content-Based-Deduplication":
		return FieldContentBasedDeduplication
	case "Deduplication-Window":
		return FieldDeduplicationWindow
	case "Callback":
		return FieldCallback
	case "Failure-Callback":
		return FieldFailureCallback
	case "Redact-Fields":
		return FieldRedact
	case "Cron":
		return FieldCron
	case "Schedule-Id":
		return FieldScheduleID
	case "Queue-Name":
		return FieldQueueName
	}
	return flowField(rest, FieldFlowKey, FieldFlowValue)
}

// callbackField returns the field of a callback's setting, relative to its URL's.
func callbackField(rest string) Field {
	switch rest {
	case "Method":
		return callbackMethod
	case "Timeout":
		return callbackTimeout
	case "Retries":
		return callbackRetries
	case "Retry-Delay":
		return callbackRetryDelay
	case "Delay":
		return callbackDelay
	}
	return flowField(rest, callbackFlowKey, callbackFlowValue)
}

func flowField(rest string, key, value Field) Field {
	f := key
	n, ok := strings.CutPrefix(rest, "Flow-Control-Key")
	if !ok {
		f = value
		if n, ok = strings.CutPrefix(rest, "Flow-Control-Value"); !ok {
			return fieldNone
		}
	}
	switch n {
	case "":
		return f
	case "-2":
		return f + 1
	case "-3":
		return f + 2
	case "-4":
		return f + 3
	}
	return fieldNone
}

// read reads the field f of the message itself into s.
func (p *settingsParser) read(s *Settings, f Field) error {
	v := p.first(f)
	var err error
	//exhaustive:ignore
	switch f {
	case FieldMethod:
		s.Method, err = parseMethod(v)
	case FieldForwardAll:
		s.ForwardAll, err = ParseBool(v)
	case FieldContentType:
		s.ContentType = v
	case FieldTimeout:
		s.Timeout, err = parsePositiveDuration(v)
	case FieldRetries:
		s.Retries, err = ParseInt(v)
	case FieldRetryDelay:
		s.RetryDelay, err = v, checkNonEmpty(v)
	case FieldDelay:
		if s.Delay, err = ParseDuration(v); p.given.Has(FieldNotBefore) {
			s.Delay = 0
		}
	case FieldNotBefore:
		s.NotBefore, err = ParseUnixSeconds(v)
	case FieldLabel:
		s.Labels, err = ParseLabels(p.raw[f]...)
	case FieldPriority:
		if s.Priority, err = ParseInt(v); err == nil && s.Priority > maxPriority {
			err = fmt.Errorf("%q is not in 0..%d", v, maxPriority)
		}
	case FieldDeduplicationID:
		if strings.Contains(v, ":") {
			return posthaste.Errorf(posthaste.CodeInvalid, "DeduplicationId cannot contain ':'")
		}
		if s.DeduplicationID, err = v, checkNonEmpty(v); err == nil && strings.ContainsAny(v, " ") {
			err = errors.New("cannot contain blanks")
		}
	case FieldContentBasedDeduplication:
		s.ContentBasedDeduplication, err = ParseBool(v)
	case FieldDeduplicationWindow:
		s.DeduplicationWindow, err = parsePositiveDuration(v)
	case FieldRedact:
		s.Redact, err = ParseRedact(p.raw[f]...)
	case FieldCron:
		s.Cron, err = v, CheckText(v)
	case FieldScheduleID:
		s.ScheduleID, err = posthaste.ScheduleID(v), CheckName(v)
	case FieldQueueName:
		s.QueueName, err = v, CheckName(v)
	}
	if err != nil {
		return invalidHeader(f, err)
	}
	return nil
}

// first returns the first value of f without the blanks around it.
func (p *settingsParser) first(f Field) string { return trim(p.raw[f][0]) }

// readFlow reads the flow-control keys and values that start at the two fields.
func (p *settingsParser) readFlow(key, value Field) ([]posthaste.FlowControl, error) {
	if p.given&((1<<posthaste.MaxFlowKeys-1)<<key|(1<<posthaste.MaxFlowKeys-1)<<value) == 0 {
		return nil, nil
	}
	var flow []posthaste.FlowControl
	for i := range Field(posthaste.MaxFlowKeys) {
		k, v := key+i, value+i
		switch {
		case !p.given.Has(k) && !p.given.Has(v):
			continue
		case !p.given.Has(v):
			return nil, invalidHeader(k, fmt.Errorf("it needs %s too", v.Header()))
		case !p.given.Has(k):
			return nil, invalidHeader(v, fmt.Errorf("it needs %s too", k.Header()))
		}
		name := p.first(k)
		if err := checkNonEmpty(name); err != nil {
			return nil, invalidHeader(k, err)
		}
		for _, other := range flow {
			if other.Key == name {
				return nil, invalidHeader(k, fmt.Errorf("%q is named twice", name))
			}
		}
		fc, err := ParseFlow(p.first(v))
		if err != nil {
			return nil, invalidHeader(v, err)
		}
		fc.Key = name
		flow = append(flow, fc)
	}
	return flow, nil
}

// readCallback reads the callback whose URL is the field base. Settings of a callback that has no URL are checked and dropped.
func (p *settingsParser) readCallback(base Field, header posthaste.Header) (*posthaste.Callback, error) {
	if p.given>>base&(1<<callbackFields-1) == 0 {
		return nil, nil
	}
	c := &posthaste.Callback{Header: header}
	for i := range callbackFields {
		f := base + i
		if !p.given.Has(f) || i == callbackForward || i >= callbackFlowKey {
			continue
		}
		v := p.first(f)
		var err error
		//exhaustive:ignore
		switch i {
		case 0:
			c.URL, err = v, CheckURLText(v)
		case callbackMethod:
			c.Method, err = parseMethod(v)
		case callbackTimeout:
			c.Timeout, err = parsePositiveDuration(v)
		case callbackRetries:
			var n int
			n, err = ParseInt(v)
			c.Retries = &n
		case callbackRetryDelay:
			c.RetryDelay, err = v, checkNonEmpty(v)
		case callbackDelay:
			c.Delay, err = ParseDuration(v)
		}
		if err != nil {
			return nil, invalidHeader(f, err)
		}
	}
	var err error
	if c.Flow, err = p.readFlow(base+callbackFlowKey, base+callbackFlowValue); err != nil {
		return nil, err
	}
	if !p.given.Has(base) {
		return nil, nil
	}
	return c, nil
}

// forwardAll adds the headers of the request itself to those that are forwarded by name, which stay.
func (p *settingsParser) forwardAll(in Input) {
	for i, source := range [...]map[string][]string{in.Header, in.Defaults} {
		for name, values := range source {
			name = textproto.CanonicalMIMEHeaderKey(name)
			switch {
			case len(values) == 0, hasPrefixFold(name, PrefixUpstash), engineOwned(name), p.forward[forwardMessage][name] != nil:
			case i == 0 && in.TokenInHeader && name == HeaderAuthorization:
			case name == HeaderContentType: // taken on its own
			default:
				p.set(forwardMessage, "", name, values)
			}
		}
	}
}

// engineOwned reports whether a header of this canonical name cannot be forwarded: the server sets it on every delivery, or it
// concerns one connection only.
func engineOwned(name string) bool {
	switch name {
	case HeaderSignature, HeaderMessageID, HeaderRetried, HeaderTopicName, HeaderScheduleID, HeaderCallerIP, HeaderRegion,
		"Host", "Content-Length", "Connection", "Expect", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return strings.HasPrefix(name, "Proxy-")
}

func invalidHeader(f Field, err error) error {
	return posthaste.Errorf(posthaste.CodeInvalid, "invalid %s header: %v", f.Header(), err)
}
