package console

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/posthaste/posthaste/internal/wire"
)

// snippet is a request written in some language.
type snippet struct{ Lang, Label, Code string }

// snippets writes the request in every language.
func (in *input) snippets(base, token string) []snippet {
	return []snippet{
		{"curl", "curl", in.curl(base, token)},
		{"js", "JavaScript", in.js(base)},
		{"python", "Python", in.python(base)},
		{"go", "Go", in.golang(base)},
	}
}

// path returns the path of the API request.
func (in *input) path() string {
	p := "/" + wire.PathV2 + "/"
	switch {
	case in.Cron != "":
		p += wire.PathSchedules
	case in.Kind == "queue":
		p += wire.PathEnqueue + "/" + url.PathEscape(in.Queue)
	default:
		p += wire.PathPublish
	}
	return p + "/" + in.Destination
}

// lines returns the headers; what cannot be read yet, while one types, is left out.
func (in *input) lines() []pair {
	h, err := in.header()
	if err != nil {
		without := *in
		without.Headers = ""
		h, _ = without.header()
	}
	return h
}

func (in *input) curl(base, token string) string {
	var b strings.Builder
	b.WriteString("curl -X POST " + shellQuote(base+in.path()) + " \\\n  -H ")
	if strings.HasPrefix(token, "$") {
		b.WriteString(`"` + wire.HeaderAuthorization + ": " + wire.BearerPrefix + token + `"`)
	} else {
		b.WriteString(shellQuote(wire.HeaderAuthorization + ": " + wire.BearerPrefix + token))
	}
	for _, h := range in.lines() {
		b.WriteString(" \\\n  -H " + shellQuote(h.Name+": "+h.Value))
	}
	if in.Body != "" {
		b.WriteString(" \\\n  --data-raw " + shellQuote(in.Body))
	}
	return b.String()
}

// shellQuote quotes a word for a POSIX shell.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// quoted writes a string of JavaScript, Python or Go: JSON's strings are strings of all three.
func quoted(s string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.Encode(s) //nolint:errcheck // a string
	return strings.TrimSuffix(b.String(), "\n")
}

// argument is a named argument of a client library; the value is written as it stands in code.
type argument struct{ js, python, value string }

// arguments lists what the client libraries have arguments for.
func (in *input) arguments() []argument {
	var out []argument
	text := func(js, python, v string) {
		if v != "" {
			out = append(out, argument{js, python, quoted(v)})
		}
	}
	count := func(js, python, v string) {
		if _, err := strconv.Atoi(v); err == nil {
			out = append(out, argument{js, python, v})
		} else {
			text(js, python, v)
		}
	}
	if in.Kind == "group" {
		text("urlGroup", "url_group", in.Destination)
	} else {
		text("url", "url", in.Destination)
	}
	if in.Cron != "" {
		out[0].js, out[0].python = "destination", "destination"
		text("cron", "cron", in.cron())
		text("scheduleId", "schedule_id", in.Schedule)
		text("queueName", "queue", in.Queue)
	}
	if in.Method != "" && in.Method != http.MethodPost {
		text("method", "method", in.Method)
	}
	text("body", "body", in.Body)
	text("delay", "delay", in.Delay)
	count("notBefore", "not_before", in.notBefore())
	count("retries", "retries", in.Retries)
	text("retryDelay", "retry_delay", in.RetryDelay)
	text("timeout", "timeout", in.Timeout)
	text("callback", "callback", in.Callback)
	text("failureCallback", "failure_callback", in.FailureCallback)
	text("deduplicationId", "deduplication_id", in.DedupID)
	if in.ContentDedup {
		out = append(out, argument{"contentBasedDeduplication", "", "true"}, argument{"", "content_based_deduplication", "True"})
	}
	text("label", "label", in.Label)
	return out
}

// flowArguments lists the limits of the flow-control key.
func (in *input) flowArguments() []argument {
	if in.FlowKey == "" {
		return nil
	}
	out := []argument{{"key", "key", quoted(in.FlowKey)}}
	for _, p := range [][2]string{{"parallelism", in.Parallelism}, {"rate", in.Rate}, {"period", in.Period}} {
		if p[1] == "" {
			continue
		}
		v := p[1]
		if _, err := strconv.Atoi(v); err != nil {
			v = quoted(v)
		}
		out = append(out, argument{p[0], p[0], v})
	}
	return out
}

// forwarded lists headers as the client libraries take them: those to forward by their own names.
func (in *input) forwarded() []pair {
	var out []pair
	if in.ContentType != "" {
		out = append(out, pair{wire.HeaderContentType, in.ContentType})
	}
	extra, err := in.extra()
	if err != nil {
		return out
	}
	return append(out, extra...)
}

func (in *input) js(base string) string {
	var b strings.Builder
	b.WriteString("import { Client } from \"@upstash/qstash\";\n\n" +
		"const client = new Client({\n  baseUrl: " + quoted(base) + ",\n  token: process.env.QSTASH_TOKEN,\n});\n\n")
	switch {
	case in.Cron != "":
		b.WriteString("await client.schedules.create({\n")
	case in.Kind == "queue":
		b.WriteString("await client.queue({ queueName: " + quoted(in.Queue) + " }).enqueue({\n")
	default:
		b.WriteString("await client.publish({\n")
	}
	for _, a := range in.arguments() {
		if a.js != "" {
			b.WriteString("  " + a.js + ": " + a.value + ",\n")
		}
	}
	if flow := in.flowArguments(); flow != nil {
		var parts []string
		for _, a := range flow {
			parts = append(parts, a.js+": "+a.value)
		}
		b.WriteString("  flowControl: { " + strings.Join(parts, ", ") + " },\n")
	}
	if in.Redact != "" {
		b.WriteString("  redact: " + jsRedact(in.Redact) + ",\n")
	}
	if h := in.forwarded(); len(h) > 0 {
		b.WriteString("  headers: {\n")
		for _, p := range h {
			b.WriteString("    " + quoted(p.Name) + ": " + quoted(p.Value) + ",\n")
		}
		b.WriteString("  },\n")
	}
	b.WriteString("});")
	return b.String()
}

func jsRedact(list string) string {
	r, err := wire.ParseRedact(list)
	if err != nil {
		return "{}"
	}
	var parts []string
	if r.Body {
		parts = append(parts, "body: true")
	}
	if r.Headers {
		parts = append(parts, "header: true")
	} else if len(r.Names) > 0 {
		var names []string
		for _, n := range r.Names {
			names = append(names, quoted(n))
		}
		parts = append(parts, "header: ["+strings.Join(names, ", ")+"]")
	}
	return "{ " + strings.Join(parts, ", ") + " }"
}

func (in *input) python(base string) string {
	var b strings.Builder
	b.WriteString("import os\n\nfrom qstash import QStash\n\n" +
		"client = QStash(os.environ[\"QSTASH_TOKEN\"], base_url=" + quoted(base) + ")\n\n")
	switch {
	case in.Cron != "":
		b.WriteString("client.schedule.create(\n")
	case in.Kind == "queue":
		b.WriteString("client.message.enqueue(\n    queue=" + quoted(in.Queue) + ",\n")
	default:
		b.WriteString("client.message.publish(\n")
	}
	for _, a := range in.arguments() {
		if a.python != "" {
			b.WriteString("    " + a.python + "=" + a.value + ",\n")
		}
	}
	if flow := in.flowArguments(); flow != nil {
		var parts []string
		for _, a := range flow {
			parts = append(parts, quoted(a.python)+": "+a.value)
		}
		b.WriteString("    flow_control={" + strings.Join(parts, ", ") + "},\n")
	}
	if h := in.forwarded(); len(h) > 0 {
		b.WriteString("    headers={\n")
		for _, p := range h {
			b.WriteString("        " + quoted(p.Name) + ": " + quoted(p.Value) + ",\n")
		}
		b.WriteString("    },\n")
	}
	b.WriteString(")")
	return b.String()
}

func (in *input) golang(base string) string {
	var b strings.Builder
	b.WriteString("req, err := http.NewRequest(\"POST\",\n\t" + quoted(base+in.path()) + ",\n\t")
	if in.Body == "" {
		b.WriteString("nil)\n")
	} else {
		b.WriteString("strings.NewReader(" + quoted(in.Body) + "))\n")
	}
	b.WriteString("if err != nil {\n\treturn err\n}\n" +
		"req.Header.Set(\"" + wire.HeaderAuthorization + "\", \"" + wire.BearerPrefix + "\"+os.Getenv(\"QSTASH_TOKEN\"))\n")
	for _, h := range in.lines() {
		b.WriteString("req.Header.Set(" + quoted(h.Name) + ", " + quoted(h.Value) + ")\n")
	}
	b.WriteString("res, err := http.DefaultClient.Do(req)\nif err != nil {\n\treturn err\n}\ndefer res.Body.Close()")
	return b.String()
}
