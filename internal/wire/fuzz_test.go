package wire_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/textproto"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/wire"
)

// checkStorable checks that every string in v, but for bodies, is valid UTF-8 without NUL.
func checkStorable(t *testing.T, v any) {
	t.Helper()
	var walk func(v reflect.Value)
	walk = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.String:
			if s := v.String(); !utf8.ValidString(s) || strings.Contains(s, "\x00") {
				t.Errorf("accepted %q", s)
			}
		case reflect.Pointer, reflect.Interface:
			if !v.IsNil() {
				walk(v.Elem())
			}
		case reflect.Struct:
			if v.Type() == reflect.TypeFor[time.Time]() {
				return
			}
			for _, field := range v.Fields() {
				walk(field)
			}
		case reflect.Slice:
			if v.Type().Elem().Kind() != reflect.Uint8 {
				for i := range v.Len() {
					walk(v.Index(i))
				}
			}
		case reflect.Map:
			for key, value := range v.Seq2() {
				walk(key)
				walk(value)
			}
		}
	}
	walk(reflect.ValueOf(v))
}

// checkRefusal checks that a refusal has one of the two codes and says something that JSON can carry.
func checkRefusal(t *testing.T, err error) {
	t.Helper()
	if code := posthaste.CodeOf(err); code != posthaste.CodeInvalid && code != posthaste.CodeTooLarge {
		t.Errorf("code of %v: got %s", err, code)
	}
	if !json.Valid(wire.AppendError(nil, err.Error())) || err.Error() == "" {
		t.Errorf("text: %q", err)
	}
}

func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"50s", "1d10h30m", "1.5h", ".5d", "1µs", "-5s", "9223372036854775807ns", "106751d", "1", "0.3333333333333333333h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := wire.ParseDuration(s)
		if got < 0 {
			t.Fatalf("got %v", got)
		}
		if err == nil {
			if again, err := wire.ParseDuration(got.String()); err != nil || again != got {
				t.Errorf("%v does not read back: %v, %v", got, again, err)
			}
		}
		if strings.Contains(s, "d") || strings.HasPrefix(s, "-") {
			return
		}
		want, wantErr := time.ParseDuration(s)
		if (err == nil) != (wantErr == nil) {
			t.Errorf("%q: got %v, package time says %v", s, err, wantErr)
		}
		if err == nil && (got-want).Abs() > 1 {
			t.Errorf("%q: got %v, package time says %v", s, got, want)
		}
	})
}

func FuzzParseFlow(f *testing.F) {
	for _, s := range []string{"parallelism=3, rate=5, period=1m", "rate=1", "Rate=10,Parallelism=2", "period=604800,rate=1", "rate=1,period=1.5m", "foo=1", ",", "="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := wire.ParseFlow(s)
		if err != nil {
			return
		}
		if got.Parallelism < 0 || got.Rate < 0 || got.Parallelism+got.Rate == 0 || got.Period < time.Second || got.Period > 7*day || got.Period%time.Second != 0 {
			t.Errorf("%q: got %+v", s, got)
		}
		if got.Rate == 0 {
			got.Period = time.Second // says nothing, and is not written
		}
		again, err := wire.ParseFlow(wire.FormatFlow(got))
		if err != nil || again != got {
			t.Errorf("%+v does not read back from %q: %+v, %v", got, wire.FormatFlow(got), again, err)
		}
	})
}

func FuzzParseRedact(f *testing.F) {
	for _, s := range []string{"body,header[Authorization], headers[x-k]", "header", "body", "header[", "header[a]]", "[", ","} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := wire.ParseRedact(s)
		if err != nil {
			return
		}
		checkStorable(t, got)
		again, err := wire.ParseRedact(wire.FormatRedact(got))
		if d := cmp.Diff(got, again); err != nil || d != "" {
			t.Errorf("%q: %v %s", wire.FormatRedact(got), err, d)
		}
	})
}

func FuzzParseSettings(f *testing.F) {
	f.Add("Content-Type: text/plain\nUpstash-Delay: 10s\nUpstash-Forward-X: 1", "upstash-retries=3", "Upstash-Label: a,b", true)
	f.Add("Upstash-Header-Forward: 1\nX-A: b\nAuthorization: Bearer T", "upstash-callback=https%3A%2F%2Fa", "Upstash-Callback-Retries: 1", false)
	f.Add("upstash-flow-control-key: a, b\nUpstash-Flow-Control-Value: rate=1", "upstash-forward-x=1", "Upstash-Redact-Fields: body", false)
	f.Add("Upstash-Failure-Callback: https://a\nUpstash-Failure-Callback-Forward-X: y\nUpstash-Cron: * * * * *\nUpstash-Not-Before: 1", "", "", true)
	f.Fuzz(func(t *testing.T, header, query, defaults string, token bool) {
		pairs := func(text string) map[string][]string {
			h := make(map[string][]string)
			for line := range strings.SplitSeq(text, "\n") {
				name, value, _ := strings.Cut(line, ": ")
				name = textproto.CanonicalMIMEHeaderKey(name)
				h[name] = append(h[name], value)
			}
			return h
		}
		_, consumed, err := wire.ParseDestination("https://a", query)
		if err != nil {
			return
		}
		in := wire.Input{Header: pairs(header), Query: consumed, Defaults: pairs(defaults), TokenInHeader: token}
		got, err := wire.ParseSettings(in)
		if err != nil {
			checkRefusal(t, err)
			if again, err2 := wire.ParseSettings(in); again != nil || err2.Error() != err.Error() {
				t.Errorf("two readings: %v, %v", err, err2)
			}
			return
		}
		checkStorable(t, got)
		for name, values := range got.Header {
			if name == "" || name != textproto.CanonicalMIMEHeaderKey(name) || len(values) == 0 {
				t.Errorf("header %q: %q", name, values)
			}
			switch name {
			case "Host", "Content-Length", "Connection", "Transfer-Encoding", wire.HeaderSignature, wire.HeaderMessageID, wire.HeaderRetried:
				t.Errorf("forwards %s", name)
			}
			for _, v := range values {
				if strings.ContainsAny(v, "\r\n") {
					t.Errorf("header %s: %q", name, v)
				}
			}
		}
		if got.Retries < 0 || got.Delay < 0 || got.Timeout < 0 || got.Priority < 0 || got.Priority > 9 || len(got.Flow) > posthaste.MaxFlowKeys {
			t.Errorf("got %+v", got)
		}
		if again, err := wire.ParseSettings(in); err != nil || !cmp.Equal(got, again) {
			t.Errorf("two readings: %v, %s", err, cmp.Diff(got, again))
		}
	})
}

func FuzzParseDestination(f *testing.F) {
	for _, s := range [][2]string{
		{"https://a.b/x%20y", "q=%2F&z"},
		{"https%3A%2F%2Fa.b%2Fh%3Fk%3Dv", "x=1"},
		{"https:/a.b", ""},
		{"HTTP://a.b", "upstash-retries=3&k=v&qstash_token=T"},
		{"my-group.v2", "x=1"},
		{"api/llm", ""},
		{"", ""},
		{"ftp://a.b", ""},
		{"https://a", "%75pstash-a=%41&qstash%5ftoken=x"},
		{"http%3a//", "&&"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, rest, query string) {
		got, pairs, err := wire.ParseDestination(rest, query)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		checkStorable(t, got)
		// What was accepted is a destination of its own, and stays as it is.
		if again, err := wire.DestinationOf(got.Text); err != nil || again != got {
			t.Errorf("%+v reads back as %+v, %v", got, again, err)
		}
		if _, own, found := strings.Cut(got.Text, "?"); found && query != "" && !strings.Contains(rest, "%") {
			for piece := range strings.SplitSeq(own, "&") {
				name, _, _ := strings.Cut(piece, "=")
				if decoded, err := url.QueryUnescape(name); err == nil && !strings.Contains(rest, "?") &&
					(decoded == "qstash_token" || strings.HasPrefix(strings.ToLower(decoded), "upstash-")) {
					t.Errorf("%q keeps %q", got.Text, decoded)
				}
			}
		}
		if len(pairs) == 0 && !strings.Contains(strings.ToLower(query), "token") && !strings.Contains(query, "%") &&
			got.Kind == wire.DestinationURL && !strings.HasSuffix(got.Text, query) && !strings.Contains(got.Text, "#") {
			t.Errorf("%q lost the query %q", got.Text, query)
		}
		for _, p := range pairs {
			if !strings.EqualFold(p.Name[:8], "upstash-") {
				t.Errorf("consumed %q", p.Name)
			}
		}
	})
}

func FuzzCutQueue(f *testing.F) {
	f.Add("my%2Dq/https://a.b//c//d")
	f.Add("q")
	f.Add("%zz/x")
	f.Fuzz(func(t *testing.T, rest string) {
		queue, destination, err := wire.CutQueue(rest)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		if wire.CheckName(queue) != nil || !strings.HasSuffix(rest, destination) {
			t.Errorf("got %q, %q", queue, destination)
		}
	})
}

func FuzzParsePaths(f *testing.F) {
	f.Add("a/b%20c/pin", true)
	f.Add("scd_1/pause", false)
	f.Fuzz(func(t *testing.T, rest string, post bool) {
		key, action, ok, err := wire.ParseFlowPath(rest, post)
		if err != nil {
			checkRefusal(t, err)
		} else if ok {
			checkStorable(t, key)
			if key == "" || (action != "") != post {
				t.Errorf("got %q, %q", key, action)
			}
		}
		if id, _, ok := wire.ParseSchedulePath(rest); ok {
			if wire.CheckName(string(id)) != nil {
				t.Errorf("schedule %q", id)
			}
			if dest, _, err := wire.ParseDestination(rest, ""); err == nil {
				t.Errorf("both a schedule's path and the destination %+v", dest)
			}
		}
	})
}

func FuzzParseCursor(f *testing.F) {
	for _, s := range []string{"1686652644442-12", "1700000000000", "1-", "-1", "1-a-b", "01-x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := wire.ParseCursor(s)
		if err != nil {
			return
		}
		checkStorable(t, c)
		if again, err := wire.ParseCursor(c.String()); err != nil || again != c {
			t.Errorf("%q: %+v reads back as %+v, %v", s, c, again, err)
		}
	})
}

func FuzzParseFilters(f *testing.F) {
	f.Add("label=a&url=https://a,http://b&state=IN_PROGRESS&count=5&cursor=1-2&fromDate=1&toDate=2", `{"messageIds":["a"],"label":["x"]}`)
	f.Add("dlqIds=1-0&responseStatus=404&order=latestFirst&search=x", `{"dlqIds":[]}`)
	f.Add("messageIds=&flowControlKey=a,b&path=/a,/b&host=A&parallelism=1&rate=2&period=3", "")
	f.Fuzz(func(t *testing.T, query, body string) {
		check := func(v any, err error) {
			t.Helper()
			if err != nil {
				checkRefusal(t, err)
				return
			}
			checkStorable(t, v)
		}
		l, err := wire.ParseLogFilter(query, wire.RouteLogs)
		check(l, err)
		if err == nil && (l.Count < 1 || l.Count > 100) {
			t.Errorf("count: got %d", l.Count)
		}
		d, err := wire.ParseDeadFilter(query)
		check(d, err)
		d, err = wire.ParseDeadSelection(query, []byte(body))
		check(d, err)
		// A selection that restricts nothing must come from a query and a body that name no filter.
		restrictsNothing := func(f wire.Filter) bool { return cmp.Equal(f, wire.Filter{}, cmpopts.EquateEmpty()) }
		if err == nil && restrictsNothing(d.Filter) && len(d.IDs) == 0 && len(d.Statuses) == 0 && !d.Nothing {
			for _, name := range []string{"label=", "dlqIds=", "url=", "queueName=", "responseStatus=", "fromDate="} {
				if strings.HasPrefix(query, name) || strings.Contains(query, "&"+name) {
					t.Errorf("%q selects everything", query)
				}
			}
		}
		c, err := wire.ParseCancelFilter(query, []byte(body))
		check(c, err)
		if err == nil && restrictsNothing(c.Filter) && !c.Nothing && strings.Contains("&"+query, "&label=") {
			t.Errorf("%q cancels everything", query)
		}
		p, err := wire.ParsePin(query)
		check(p, err)
		u, err := wire.ParseUnpin(query)
		check(u, err)
		s, err := wire.ParseFlowSearch(query)
		check(s, err)
	})
}

func FuzzParseBodies(f *testing.F) {
	f.Add([]byte(`{"queueName":"q","parallelism":2,"paused":false}`))
	f.Add([]byte(`{"endpoints":[{"url":"https://a","name":"first"}]}`))
	f.Add([]byte(`{"headers":{"Upstash-Header-Forward":["true"],"Upstash-Retries":"3"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		check := func(v any, err error) {
			t.Helper()
			if err != nil {
				checkRefusal(t, err)
				return
			}
			checkStorable(t, v)
		}
		q, err := wire.ParseQueueUpsert(body)
		check(q, err)
		e, err := wire.ParseEndpoints(body)
		check(e, err)
		e, err = wire.ParseEndpointRefs(body)
		check(e, err)
		h, err := wire.ParseGroupDefaults(body)
		check(h, err)
		if err == nil {
			if _, err := wire.ParseSettings(wire.Input{Defaults: h}); err != nil {
				t.Errorf("defaults that no publish can use: %v", err)
			}
		}
	})
}

func FuzzBatchReader(f *testing.F) {
	f.Add([]byte(`[{"destination":"https://a.b","headers":{"upstash-delay":"50s","X":["1","2"]},"body":"{\"a\":1}","queue":"q"},{"destination":"g","body":{"a":[1]}}]`), 100)
	f.Add([]byte(`[]`), 1)
	f.Add([]byte(`[{"destination":"https://a"}] x`), 1000)
	f.Fuzz(func(t *testing.T, body []byte, maxItem int) {
		maxItem = max(1, min(maxItem, 1<<20))
		items, err := readBatch(bytes.NewReader(body), int64(maxItem))
		if err != nil {
			checkRefusal(t, err)
			return
		}
		var all []json.RawMessage
		if err := json.Unmarshal(body, &all); err != nil || len(all) != len(items) {
			t.Fatalf("got %d items of %d, %v", len(items), len(all), err)
		}
		for i, item := range items {
			if item.Index != i {
				t.Errorf("item %d has index %d", i, item.Index)
			}
			checkStorable(t, item.Destination)
			checkStorable(t, item.Queue)
			if settings, err := wire.ParseSettings(wire.Input{Header: item.Header}); err == nil {
				checkStorable(t, settings)
			} else {
				checkRefusal(t, wire.InItem(i, err))
			}
			// Written again, the item reads the same.
			again, err := json.Marshal([]any{map[string]any{"destination": item.Destination.Text, "headers": item.Header, "body": string(item.Body), "queue": item.Queue}})
			if err != nil {
				t.Fatal(err)
			}
			back, err := readBatch(bytes.NewReader(again), 1<<30)
			if err != nil || len(back) != 1 {
				t.Fatalf("%s: %v", again, err)
			}
			back[0].Index = i
			if d := cmp.Diff(item, back[0], cmpopts.EquateEmpty()); d != "" {
				t.Errorf("%s: %s", again, d)
			}
		}
		if b := wire.NewBatchReader(bytes.NewReader(body), int64(maxItem)); len(items) == 0 {
			if _, err := b.Next(); err != io.EOF {
				t.Error(fmt.Errorf("after the end: %w", err))
			}
		}
	})
}
