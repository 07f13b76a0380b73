package console

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/wire"
)

// input is a publish, or the message of a schedule, as a form holds it: texts as people write them. It is turned into the headers
// of an API request and judged by the same code as one.
type input struct {
	Kind        string // url, group or queue
	Destination string // a URL, or the name of a group
	Queue       string

	Method      string
	Body        string
	ContentType string
	Headers     string // lines of "Name: value"; those of the API's own names are settings

	Delay, NotBefore     string
	Retries, RetryDelay  string
	Timeout              string
	Callback             string
	FailureCallback      string
	FlowKey              string
	Parallelism          string
	Rate, Period         string
	DedupID              string
	ContentDedup         bool
	Label, Redact        string
	Cron, Zone, Schedule string // of schedules
}

func inputFrom(f url.Values) input {
	get := func(name string) string { return strings.TrimSpace(f.Get(name)) }
	return input{
		Kind: get("kind"), Destination: get("destination"), Queue: get("queue"), Method: get("method"),
		Body: strings.ReplaceAll(f.Get("body"), "\r\n", "\n"), ContentType: get("content_type"),
		Headers: strings.ReplaceAll(f.Get("headers"), "\r\n", "\n"),
		Delay:   get("delay"), NotBefore: get("not_before"), Retries: get("retries"), RetryDelay: get("retry_delay"), Timeout: get("timeout"),
		Callback: get("callback"), FailureCallback: get("failure_callback"), FlowKey: get("flow_key"), Parallelism: get("parallelism"),
		Rate: get("rate"), Period: get("period"), DedupID: get("dedup_id"), ContentDedup: get("content_dedup") != "",
		Label: get("label"), Redact: get("redact"), Cron: get("cron"), Zone: get("zone"), Schedule: get("schedule"),
	}
}

// cron returns the expression with its zone.
func (in *input) cron() string {
	if in.Zone == "" || strings.EqualFold(in.Zone, "UTC") || strings.Contains(in.Cron, "=") {
		return in.Cron
	}
	return "CRON_TZ=" + in.Zone + " " + in.Cron
}

// flow returns the value that limits the flow-control key.
func (in *input) flow() string {
	var parts []string
	for _, p := range [][2]string{{"parallelism", in.Parallelism}, {"rate", in.Rate}, {"period", in.Period}} {
		if p[1] != "" {
			parts = append(parts, p[0]+"="+p[1])
		}
	}
	return strings.Join(parts, ", ")
}

// notBefore turns what a date field holds, in UTC, into seconds.
func (in *input) notBefore() string {
	if t, err := time.Parse(dateField, in.NotBefore); err == nil {
		return strconv.FormatInt(t.Unix(), 10)
	}
	return in.NotBefore
}

// extra reads the lines of headers.
func (in *input) extra() ([]pair, error) {
	var out []pair
	for line := range strings.SplitSeq(in.Headers, "\n") {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return nil, posthaste.Errorf(posthaste.CodeInvalid, "headers: %q is not of the form Name: value", line)
		}
		out = append(out, pair{name, strings.TrimSpace(value)})
	}
	return out, nil
}

// header returns the headers of the API request that says the same, in the order in which people would write them.
func (in *input) header() ([]pair, error) {
	var out []pair
	put := func(name, value string) {
		if value != "" {
			out = append(out, pair{name, value})
		}
	}
	put(wire.HeaderContentType, in.ContentType)
	if in.Method != "" && in.Method != http.MethodPost {
		put(wire.HeaderMethod, in.Method)
	}
	put(wire.HeaderCron, in.cron())
	put(wire.HeaderScheduleID, in.Schedule)
	if in.Cron != "" {
		put(wire.HeaderQueueName, in.Queue)
	}
	put(wire.HeaderDelay, in.Delay)
	put(wire.HeaderNotBefore, in.notBefore())
	put(wire.HeaderRetries, in.Retries)
	put(wire.HeaderRetryDelay, in.RetryDelay)
	put(wire.HeaderTimeout, in.Timeout)
	put(wire.HeaderCallback, in.Callback)
	put(wire.HeaderFailureCallback, in.FailureCallback)
	put(wire.HeaderFlowControlKey, in.FlowKey)
	put(wire.HeaderFlowControlValue, in.flow())
	put(wire.HeaderDeduplicationID, in.DedupID)
	if in.ContentDedup {
		put(wire.HeaderContentBasedDeduplication, "true")
	}
	put(wire.HeaderLabel, in.Label)
	put(wire.HeaderRedactFields, in.Redact)
	extra, err := in.extra()
	if err != nil {
		return nil, err
	}
	for _, p := range extra {
		if !ownHeader(p.Name) {
			p.Name = wire.PrefixForward + p.Name
		}
		out = append(out, p)
	}
	return out, nil
}

// ownHeader reports whether a header is one of the API's settings; others are forwarded.
func ownHeader(name string) bool {
	return len(name) >= len(wire.PrefixUpstash) && strings.EqualFold(name[:len(wire.PrefixUpstash)], wire.PrefixUpstash)
}

// item turns the input into what the broker takes.
func (in *input) item() (broker.Item, error) {
	text := in.Destination
	if text == "" {
		return broker.Item{}, posthaste.Errorf(posthaste.CodeInvalid, "say where the message goes: a URL, or the name of a URL group")
	}
	d, err := wire.DestinationOf(text)
	if err != nil {
		return broker.Item{}, err
	}
	header, err := in.header()
	if err != nil {
		return broker.Item{}, err
	}
	item := broker.Item{Destination: d, Body: []byte(in.Body), Input: wire.Input{Header: map[string][]string{}}}
	for _, p := range header {
		name := http.CanonicalHeaderKey(p.Name)
		item.Input.Header[name] = append(item.Input.Header[name], p.Value)
	}
	if in.Kind == "queue" && in.Cron == "" {
		if item.Queue = in.Queue; item.Queue == "" {
			return broker.Item{}, posthaste.Errorf(posthaste.CodeInvalid, "name the queue")
		}
	}
	return item, nil
}

// inputOf turns a message back into what a form holds, to publish it again. Without withBody the body, which is redacted, stays
// out.
func inputOf(m *posthaste.Message, withBody bool) *input {
	in := &input{
		Kind: "url", Destination: m.URL, Method: m.Method, Queue: m.Queue, RetryDelay: m.RetryDelay, Label: strings.Join(m.Labels, ","),
		Redact: wire.FormatRedact(m.Redact), Retries: strconv.Itoa(m.MaxRetries),
	}
	if m.Queue != "" {
		in.Kind = "queue"
	}
	if withBody {
		in.Body = string(m.Body)
	}
	if m.Timeout > 0 {
		in.Timeout = seconds(m.Timeout)
	}
	if m.Delay > 0 {
		in.Delay = seconds(m.Delay)
	}
	header, _, _ := wire.Shown(m)
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(header)) {
		for _, v := range header[name] {
			switch {
			case name == wire.HeaderContentType && in.ContentType == "":
				in.ContentType = v
			case !strings.HasPrefix(v, wire.RedactedPrefix):
				lines = append(lines, name+": "+v)
			}
		}
	}
	for i, f := range m.Flow {
		if i == 0 {
			in.FlowKey = f.Key
			if f.Parallelism > 0 {
				in.Parallelism = strconv.Itoa(f.Parallelism)
			}
			if f.Rate > 0 {
				in.Rate, in.Period = strconv.Itoa(f.Rate), seconds(f.Period)
			}
			continue
		}
		n := "-" + strconv.Itoa(i+1)
		lines = append(lines, wire.HeaderFlowControlKey+n+": "+f.Key, wire.HeaderFlowControlValue+n+": "+wire.FormatFlow(f))
	}
	if m.Priority > 0 {
		lines = append(lines, wire.HeaderPriority+": "+strconv.Itoa(m.Priority))
	}
	callback := func(to *string, prefix string, cb *posthaste.Callback) {
		if cb == nil {
			return
		}
		*to = cb.URL
		put := func(name, value string) {
			if value != "" {
				lines = append(lines, prefix+name+": "+value)
			}
		}
		put("Method", cb.Method)
		put("Retry-Delay", cb.RetryDelay)
		if cb.Retries != nil {
			put("Retries", strconv.Itoa(*cb.Retries))
		}
		if cb.Timeout > 0 {
			put("Timeout", seconds(cb.Timeout))
		}
		if cb.Delay > 0 {
			put("Delay", seconds(cb.Delay))
		}
		for _, p := range pairs(cb.Header) {
			put("Forward-"+p.Name, p.Value)
		}
		for i, f := range cb.Flow {
			n := ""
			if i > 0 {
				n = "-" + strconv.Itoa(i+1)
			}
			put("Flow-Control-Key"+n, f.Key)
			put("Flow-Control-Value"+n, wire.FormatFlow(f))
		}
	}
	callback(&in.Callback, wire.PrefixCallback, m.Callback)
	callback(&in.FailureCallback, wire.PrefixFailureCallback, m.FailureCallback)
	in.Headers = strings.Join(lines, "\n")
	return in
}

func seconds(d time.Duration) string {
	if d%time.Second != 0 {
		return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10) + "s"
	}
	return strconv.FormatInt(int64(d/time.Second), 10) + "s"
}
