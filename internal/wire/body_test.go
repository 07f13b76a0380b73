package wire_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/wire"
)

func TestParseQueueUpsert(t *testing.T) {
	two, no, yes := 2, false, true
	for _, tt := range []struct {
		body string
		want wire.QueueUpsert
		err  string
	}{
		{`{"queueName":"q","parallelism":2,"paused":false}`, wire.QueueUpsert{Name: "q", Parallelism: &two, Paused: &no}, ""},
		{`{"queueName":"q","paused":true,"other":1}`, wire.QueueUpsert{Name: "q", Paused: &yes}, ""},
		{`{"queueName":"q"}`, wire.QueueUpsert{Name: "q"}, ""},
		{`{"queueName":"q","parallelism":null}`, wire.QueueUpsert{Name: "q"}, ""},
		{`{}`, wire.QueueUpsert{}, "invalid queueName: must not be empty"},
		{`{"queueName":"a b"}`, wire.QueueUpsert{}, `invalid queueName: "a b" may have only letters, digits, '.', '_' and '-'`},
		{`{"queueName":"q","parallelism":0}`, wire.QueueUpsert{}, "invalid parallelism: 0 is not 1 or more"},
		{`{"queueName":"q","parallelism":"2"}`, wire.QueueUpsert{}, "invalid JSON body: parallelism: unexpected string"},
		{`{"queueName":"q","parallelism":2.5}`, wire.QueueUpsert{}, "invalid JSON body: parallelism: unexpected number 2.5"},
		{`{"queueName":"q","paused":1}`, wire.QueueUpsert{}, "invalid JSON body: paused: unexpected number"},
		{``, wire.QueueUpsert{}, "invalid JSON body: unexpected end of JSON input (byte 0)"},
		{`[]`, wire.QueueUpsert{}, "invalid JSON body: the value: unexpected array"},
		{"{\"queueName\":\"\xff\"}", wire.QueueUpsert{}, "invalid JSON body: it is not valid UTF-8"},
	} {
		got, err := wire.ParseQueueUpsert([]byte(tt.body))
		checkError(t, err, tt.err)
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s: %s", tt.body, d)
		}
	}
}

func TestParseEndpoints(t *testing.T) {
	for _, tt := range []struct {
		body        string
		want        []posthaste.Endpoint
		add, remove string // errors
	}{
		{
			body: `{"endpoints":[{"url":"https://a","name":"First endpoint"},{"url":"https://b"}]}`,
			want: []posthaste.Endpoint{{Name: "First endpoint", URL: "https://a"}, {URL: "https://b"}},
		},
		{body: `{"endpoints":[{"name":"first"}]}`, want: []posthaste.Endpoint{{Name: "first"}}, add: "invalid endpoints[0].url: must not be empty"},
		{body: `{"endpoints":[]}`, want: []posthaste.Endpoint{}, add: "invalid endpoints: must not be empty"},
		{body: `{}`, want: []posthaste.Endpoint{}, add: "invalid endpoints: must not be empty"},
		{body: `{"endpoints":[{"url":"https://a"},{}]}`, add: "invalid endpoints[1].url: must not be empty", remove: "invalid endpoints[1]: needs name or url"},
		{
			body: `{"endpoints":[{"url":"https://a","name":"\u0000"}]}`,
			add:  "invalid endpoints[0]: contains a control character", remove: "invalid endpoints[0]: contains a control character",
		},
		{
			body: `{"endpoints":[{"url":"a\u0000"}]}`,
			add:  "invalid endpoints[0]: contains a control character", remove: "invalid endpoints[0]: contains a control character",
		},
		{body: `{"endpoints":["x"]}`, add: "invalid JSON body: endpoints: unexpected string", remove: "invalid JSON body: endpoints: unexpected string"},
	} {
		got, err := wire.ParseEndpoints([]byte(tt.body))
		checkError(t, err, tt.add)
		if d := cmp.Diff(tt.want, got); err == nil && d != "" {
			t.Errorf("add %s: %s", tt.body, d)
		}
		got, err = wire.ParseEndpointRefs([]byte(tt.body))
		checkError(t, err, tt.remove)
		if d := cmp.Diff(tt.want, got); err == nil && d != "" {
			t.Errorf("remove %s: %s", tt.body, d)
		}
	}
}

func TestParseGroupDefaults(t *testing.T) {
	for _, tt := range []struct {
		body string
		want posthaste.Header
		err  string
	}{
		{`{"headers":{"Upstash-Header-Forward":["true"],"upstash-retries":"3"}}`, posthaste.Header{"Upstash-Header-Forward": {"true"}, "Upstash-Retries": {"3"}}, ""},
		{`{"headers":{}}`, nil, ""},
		{`{}`, nil, ""},
		{`{"headers":null}`, nil, ""},
		{`{"headers":{"Upstash-Retries":"x"}}`, nil, `invalid Upstash-Retries header: "x" is not a whole number of 0 or more`},
		{`{"headers":{"Upstash-Retries":3}}`, nil, "invalid JSON body: headers: Upstash-Retries must be a string or an array of strings"},
		{`{"headers":{"X-A":"\u0000"}}`, nil, "invalid X-A header: contains a control character"},
		{`{"headers":{"X A":"1"}}`, nil, "invalid X A header: is not the name of a header"},
		{`{"headers":[]}`, nil, "invalid JSON body: headers: must be an object"},
		{`{"headers":`, nil, "invalid JSON body: unexpected end of JSON input (byte 11)"},
	} {
		got, err := wire.ParseGroupDefaults([]byte(tt.body))
		checkError(t, err, tt.err)
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s: %s", tt.body, d)
		}
	}
}

// readBatch reads all items.
func readBatch(r io.Reader, maxItem int64) ([]wire.BatchItem, error) {
	var items []wire.BatchItem
	b := wire.NewBatchReader(r, maxItem)
	for {
		item, err := b.Next()
		if err == io.EOF {
			return items, nil
		}
		if err != nil {
			if _, again := b.Next(); again != err {
				return items, fmt.Errorf("the error %q is not final, but followed by %q", err, again)
			}
			return items, err
		}
		items = append(items, item)
	}
}

func TestBatchReader(t *testing.T) {
	toURL := func(text string) wire.Destination { return wire.Destination{Kind: wire.DestinationURL, Text: text} }
	for _, tt := range []struct {
		name, body string
		want       []wire.BatchItem
		err        string
	}{
		{name: "none", body: " [ ] "},
		{
			name: "items", body: `[
				{"destination":"https://a.b/h?upstash-delay=1s","headers":{"upstash-delay":"50s","content-type":"text/plain"},"body":"{\"a\":1}","queue":"q"},
				{"destination":"group","body":null,"queue":null,"headers":null},
				{"destination":"api/llm","queue":"","body":""},
				{"body":"ä\n\u0000","destination":"https://c","extra":{"deep":[1,2]}}
			]`,
			want: []wire.BatchItem{
				{
					Index: 0, Destination: toURL("https://a.b/h?upstash-delay=1s"), Queue: "q", Body: []byte(`{"a":1}`),
					Header: map[string][]string{"Upstash-Delay": {"50s"}, "Content-Type": {"text/plain"}},
				},
				{Index: 1, Destination: wire.Destination{Kind: wire.DestinationGroup, Text: "group"}},
				{Index: 2, Destination: wire.Destination{Kind: wire.DestinationAPI, Text: "api/llm"}, Body: []byte{}},
				{Index: 3, Destination: toURL("https://c"), Body: []byte("ä\n\x00")},
			},
		},
		{
			name: "headers of several lines", body: `[{"destination":"https://a","headers":{"x-a":["1","2"],"X-B":"b","x-b":"c","X-C":[],"X-D":null}}]`,
			want: []wire.BatchItem{{Destination: toURL("https://a"), Header: map[string][]string{"X-A": {"1", "2"}, "X-B": {"b", "c"}}}},
		},
		{
			name: "bodies that are no strings",
			body: `[{"destination":"https://a","body":{ "a" : [1, 2.50] }},{"destination":"https://a","body":12},{"destination":"https://a","body":false}]`,
			want: []wire.BatchItem{
				{Index: 0, Destination: toURL("https://a"), Body: []byte(`{"a":[1,2.50]}`)},
				{Index: 1, Destination: toURL("https://a"), Body: []byte(`12`)},
				{Index: 2, Destination: toURL("https://a"), Body: []byte(`false`)},
			},
		},
		{name: "empty body", body: "", err: "batch[0]: invalid JSON body: it ends too early"},
		{name: "no array", body: `{"destination":"https://a"}`, err: "a batch is a JSON array of items"},
		{name: "a string", body: `"https://a"`, err: "a batch is a JSON array of items"},
		{name: "no JSON", body: `nonsense`, err: "batch[0]: invalid JSON body: invalid character 'o' in literal null (expecting 'u') (byte 2)"},
		{name: "cut in an item", body: `[{"destination":"https://a"},{"destination":`, err: "batch[1]: invalid JSON body: it ends too early"},
		{name: "cut after an item", body: `[{"destination":"https://a"}`, err: "batch[1]: invalid JSON body: it ends too early"},
		{name: "trailing comma", body: `[{"destination":"https://a"},]`, err: "batch[1]: invalid JSON body: …"},
		{name: "no comma", body: `[{"destination":"https://a"}{"destination":"https://a"}]`, err: "batch[1]: invalid JSON body: …"},
		{name: "more after the end", body: `[{"destination":"https://a"}] []`, err: "invalid JSON body: something follows the array"},
		{name: "garbage after the end", body: `[] x`, err: "batch[0]: invalid JSON body: …"},
		{name: "items that are no objects", body: `[1]`, err: "batch[0]: invalid JSON body: the value: unexpected number"},
		{name: "null item", body: `[null]`, err: "batch[0]: a non-empty destination must be provided"},
		{name: "bad scheme", body: `[{"destination":"nope://x"}]`, err: "batch[0]: invalid destination url: endpoint has invalid scheme, add http:// or https://"},
		{name: "no destination", body: `[{"destination":"https://a"},{"body":"x"}]`, err: "batch[1]: a non-empty destination must be provided"},
		{name: "destination of another kind", body: `[{"destination":5}]`, err: "batch[0].destination: must be a string"},
		{name: "queue of another kind", body: `[{"destination":"https://a","queue":{}}]`, err: "batch[0].queue: must be a string"},
		{name: "bad queue", body: `[{"destination":"https://a","queue":"a b"}]`, err: `batch[0].queue: "a b" may have only letters, digits, '.', '_' and '-'`},
		{name: "bad headers", body: `[{"destination":"https://a","headers":"x"}]`, err: "batch[0].headers: must be an object"},
		{name: "bad header", body: `[{"destination":"https://a","headers":{"Upstash-Retries":3}}]`, err: "batch[0].headers: Upstash-Retries must be a string or an array of strings"},
		{name: "bad lines", body: `[{"destination":"https://a","headers":{"X":[1]}}]`, err: "batch[0].headers: X must be a string or an array of strings"},
		{name: "body not UTF-8", body: "[{\"destination\":\"https://a\",\"body\":\"\xff\"}]", err: "batch[0].body: is not valid UTF-8"},
		{name: "header not UTF-8", body: "[{\"destination\":\"https://a\",\"headers\":{\"x\":\"\xff\"}}]", err: "batch[0].headers: is not valid UTF-8"},
		{name: "destination not UTF-8", body: "[{\"destination\":\"https://a\xff\"}]", err: "batch[0].destination: is not valid UTF-8"},
		{name: "item too large", body: `[{"destination":"https://a"},{"destination":"https://a","body":"` + strings.Repeat("x", 2000) + `"}]`, err: "batch[1]: more than 1000 bytes"},
		{name: "string too large", body: `"` + strings.Repeat("x", 2000) + `"`, err: "batch[0]: more than 1000 bytes"},
		{name: "endless blanks", body: strings.Repeat(" ", 5000) + "[]", err: "batch[0]: more than 1000 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(tt.body), iotest.OneByteReader(strings.NewReader(tt.body)), iotest.DataErrReader(strings.NewReader(tt.body))} {
				got, err := readBatch(r, 1000)
				checkError(t, err, tt.err)
				if err != nil {
					want := posthaste.CodeInvalid
					if strings.Contains(tt.err, "more than") {
						want = posthaste.CodeTooLarge
					}
					if code := posthaste.CodeOf(err); code != want {
						t.Errorf("code: got %s, want %s", code, want)
					}
					continue
				}
				if d := cmp.Diff(tt.want, got); d != "" {
					t.Error(d)
				}
			}
		})
	}
}

// Items of exactly the allowed size pass, one after the other, whatever the reads.
func TestBatchReaderSizes(t *testing.T) {
	item := `{"destination":"https://a","body":"` + strings.Repeat("x", 5000) + `"}`
	body := "[" + strings.Repeat(item+" , ", 50) + item + "]"
	items, err := readBatch(strings.NewReader(body), int64(len(item)))
	if err != nil || len(items) != 51 {
		t.Errorf("got %d items, %v, want 51", len(items), err)
	}
}

// A batch is read as it is consumed.
func TestBatchReaderStreams(t *testing.T) {
	item := `{"destination":"https://a","body":"` + strings.Repeat("x", 1000) + `"},`
	counted := &countingReader{r: strings.NewReader("[" + strings.Repeat(item, 1000))}
	b := wire.NewBatchReader(counted, 2000)
	for range 3 {
		if _, err := b.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if most := 3*len(item) + 2*2000; counted.n > most {
		t.Errorf("read %d bytes for three items, want at most %d", counted.n, most)
	}
}

type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

func TestBatchReaderPassesReadErrors(t *testing.T) {
	broken := errors.New("connection reset")
	for _, body := range []string{"", "[", `[{"destination":"https://a"}`, `[{"destination":"https://a"},{"dest`} {
		_, err := readBatch(io.MultiReader(strings.NewReader(body), iotest.ErrReader(broken)), 1000)
		if !errors.Is(err, broken) {
			t.Errorf("%q: got %v, want the reader's error", body, err)
		}
	}
}

func TestInItem(t *testing.T) {
	err := wire.InItem(3, posthaste.Errorf(posthaste.CodeTooLarge, "quota maxMessageSize exceeded"))
	if err.Error() != "batch[3]: quota maxMessageSize exceeded" || posthaste.CodeOf(err) != posthaste.CodeTooLarge {
		t.Errorf("got %s, %v", posthaste.CodeOf(err), err)
	}
	if err := wire.InItem(3, io.EOF); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

func BenchmarkBatchReader(b *testing.B) {
	item := `{"destination":"https://example.com/hook","headers":{"upstash-method":"POST","content-type":"application/json","upstash-retries":"3","upstash-forward-x-a":"1","upstash-telemetry-sdk":"js"},"body":"{\"hello\":\"world\",\"n\":12345}"}`
	body := []byte("[" + strings.Repeat(item+",", 99) + item + "]")
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := readBatch(bytes.NewReader(body), 1<<20); err != nil {
			b.Fatal(err)
		}
	}
}

func TestDevUsers(t *testing.T) {
	users := wire.DevUsers()
	if len(users) != 4 {
		t.Fatalf("got %d users, want 4", len(users))
	}
	for _, u := range users {
		if !strings.HasPrefix(u.Keys.Current, "sig_") || len(u.Keys.Current) != 32 || !strings.HasPrefix(u.Keys.Next, "sig_") || len(u.Keys.Next) != 32 {
			t.Errorf("keys: %+v", u.Keys)
		}
		if !strings.HasPrefix(u.Token, "eyJVc2VySUQiOiJ") {
			t.Errorf("token: %s", u.Token)
		}
	}
}
