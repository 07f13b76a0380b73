package wire_test

import (
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/wire"
)

// headers makes a header map of "Name: value" lines, in the case they have.
func headers(lines ...string) map[string][]string {
	h := make(map[string][]string)
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		h[name] = append(h[name], value)
	}
	return h
}

func TestParseSettings(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   wire.Input
		want wire.Settings
	}{
		{name: "nothing"},
		{
			name: "no settings",
			in:   wire.Input{Header: headers("Host: a", "Authorization: Bearer T", "User-Agent: curl", "Accept: */*", "Content-Length: 3")},
		},
		{
			name: "everything",
			in: wire.Input{Header: headers(
				"Content-Type: application/json",
				"Upstash-Method: put",
				"Upstash-Forward-Test-Header: test-value",
				"Upstash-Timeout: 90s",
				"Upstash-Retries: 0",
				"Upstash-Retry-Delay: pow(2, retried) * 1000",
				"Upstash-Delay: 1d10h30m",
				"Upstash-Label: a, b,,c",
				"Upstash-Flow-Control-Key: tenant 1, eu",
				"Upstash-Flow-Control-Value: parallelism=3, rate=5, period=1m",
				"Upstash-Flow-Control-Key-3: other",
				"Upstash-Flow-Control-Value-3: rate=1",
				"Upstash-Priority: 9",
				"Upstash-Deduplication-Id: order-1",
				"Upstash-Content-Based-Deduplication: True",
				"Upstash-Deduplication-Window: 1h",
				"Upstash-Redact-Fields: body,header[Authorization]",
				"Upstash-Cron: */10 * * * * ",
				"Upstash-Schedule-Id: my.schedule",
				"Upstash-Queue-Name: q",
				"Upstash-Callback: https://a.b/?foo=bar",
				"Upstash-Callback-Method: PATCH",
				"Upstash-Callback-Timeout: 10s",
				"Upstash-Callback-Retries: 0",
				"Upstash-Callback-Retry-Delay: 1000",
				"Upstash-Callback-Delay: 5s",
				"Upstash-Callback-Forward-X-A: 1",
				"Upstash-Callback-Flow-Control-Key: cb",
				"Upstash-Callback-Flow-Control-Value: rate=1",
				"Upstash-Failure-Callback: https://c.d",
				"Upstash-Failure-Callback-Forward-X-B: 2",
			)},
			want: wire.Settings{
				Method:      "PUT",
				Header:      posthaste.Header{"Content-Type": {"application/json"}, "Test-Header": {"test-value"}},
				ContentType: "application/json",
				Timeout:     90 * time.Second,
				RetryDelay:  "pow(2, retried) * 1000",
				Delay:       124200 * time.Second,
				Labels:      []string{"a", "b", "c"},
				Flow: []posthaste.FlowControl{
					{Key: "tenant 1, eu", Parallelism: 3, Rate: 5, Period: time.Minute},
					{Key: "other", Rate: 1, Period: time.Second},
				},
				Priority:                  9,
				DeduplicationID:           "order-1",
				ContentBasedDeduplication: true,
				DeduplicationWindow:       time.Hour,
				Redact:                    posthaste.Redaction{Body: true, Names: []string{"Authorization"}},
				Cron:                      "*/10 * * * *",
				ScheduleID:                "my.schedule",
				QueueName:                 "q",
				Callback: &posthaste.Callback{
					URL: "https://a.b/?foo=bar", Method: "PATCH", Header: posthaste.Header{"X-A": {"1"}}, Retries: new(int),
					RetryDelay: "1000", Timeout: 10 * time.Second, Delay: 5 * time.Second,
					Flow: []posthaste.FlowControl{{Key: "cb", Rate: 1, Period: time.Second}},
				},
				FailureCallback: &posthaste.Callback{URL: "https://c.d", Header: posthaste.Header{"X-B": {"2"}}},
			},
		},
		{
			name: "names in any case",
			in: wire.Input{Header: headers("content-type: text/plain", "upstash-DELAY: 50s", "UPSTASH-forward-x-y: 1",
				"upstash-callback: https://a", "upstash-callback-forward-x-z: 2")},
			want: wire.Settings{
				ContentType: "text/plain",
				Delay:       50 * time.Second,
				Header:      posthaste.Header{"Content-Type": {"text/plain"}, "X-Y": {"1"}},
				Callback:    &posthaste.Callback{URL: "https://a", Header: posthaste.Header{"X-Z": {"2"}}},
			},
		},
		{
			name: "unknown names",
			in: wire.Input{Header: headers("Upstash-Telemetry-Sdk: x", "Upstash-Feature-Set: y", "Upstash-Whatever: \x01",
				"Upstash-Callback-Whatever: z", "Upstash-Callback-X-A: z", "Upstash-Flow-Control-Key-9: k", "Upstash-Retries-2: x", "X: \x01")},
		},
		{
			name: "not before wins over delay",
			in:   wire.Input{Header: headers("Upstash-Not-Before: 1700000000", "Upstash-Delay: 10s")},
			want: wire.Settings{NotBefore: time.UnixMilli(1700000000000).UTC()},
		},
		{
			name: "the header wins over the parameter, and both over the defaults",
			in: wire.Input{
				Header:   headers("Upstash-Retries: 1", "Upstash-Forward-A: header", "Upstash-Flow-Control-Key: k"),
				Query:    []wire.Pair{{"upstash-retries", "2"}, {"upstash-delay", "2s"}, {"upstash-forward-a", "query"}, {"upstash-forward-b", "query"}, {"upstash-forward-b", "more"}, {"upstash-label", "x"}, {"upstash-label", "y"}},
				Defaults: headers("Upstash-Retries: 3", "Upstash-Delay: 3s", "upstash-timeout: 3s", "Upstash-Forward-B: default", "Upstash-Forward-C: default", "Upstash-Flow-Control-Value: rate=3", "Content-Type: x/default"),
			},
			want: wire.Settings{
				Retries: 1, Delay: 2 * time.Second, Timeout: 3 * time.Second, Labels: []string{"x", "y"}, ContentType: "x/default",
				Header: posthaste.Header{"A": {"header"}, "B": {"query", "more"}, "C": {"default"}, "Content-Type": {"x/default"}},
				Flow:   []posthaste.FlowControl{{Key: "k", Rate: 3, Period: time.Second}},
			},
		},
		{
			name: "a forwarded Content-Type replaces the request's",
			in:   wire.Input{Header: headers("Content-Type: text/plain", "Upstash-Forward-Content-Type: application/json")},
			want: wire.Settings{ContentType: "text/plain", Header: posthaste.Header{"Content-Type": {"application/json"}}},
		},
		{
			name: "a Content-Type that describes this request only",
			in:   wire.Input{Header: headers("Content-Type: text/plain", "Upstash-Retries: 2"), IgnoreContentType: true},
			want: wire.Settings{Retries: 2},
		},
		{
			name: "several lines",
			in: wire.Input{Header: map[string][]string{
				"Upstash-Forward-X": {"1", "2"}, "Upstash-Label": {"a", "b,c"}, "Upstash-Delay": {"1s", "2s"}, "Upstash-Redact-Fields": {"body", "header"},
			}},
			want: wire.Settings{
				Header: posthaste.Header{"X": {"1", "2"}}, Labels: []string{"a", "b", "c"}, Delay: time.Second,
				Redact: posthaste.Redaction{Body: true, Headers: true},
			},
		},
		{
			name: "names that cannot be forwarded",
			in: wire.Input{Header: headers("Upstash-Forward-Host: a", "Upstash-Forward-Content-Length: 9", "Upstash-Forward-Connection: close",
				"Upstash-Forward-Keep-Alive: 1", "Upstash-Forward-Proxy-Authorization: x", "Upstash-Forward-Te: x", "Upstash-Forward-Trailer: x",
				"Upstash-Forward-Transfer-Encoding: chunked", "Upstash-Forward-Upgrade: x", "Upstash-Forward-Expect: 100-continue",
				"Upstash-Forward-Upstash-Signature: x", "Upstash-Forward-Upstash-Message-Id: x", "Upstash-Forward-Upstash-Retried: 1",
				"Upstash-Forward-Upstash-Topic-Name: x", "Upstash-Forward-Upstash-Schedule-Id: x", "Upstash-Forward-Upstash-Caller-Ip: x",
				"Upstash-Forward-Upstash-Region: x", "Upstash-Callback-Forward-Host: x", "Upstash-Callback: https://a",
				"Upstash-Forward-Upstash-Workflow-Init: true", "Upstash-Forward-User-Agent: me", "Upstash-Forward-Authorization: Bearer x")},
			want: wire.Settings{
				Header:   posthaste.Header{"Upstash-Workflow-Init": {"true"}, "User-Agent": {"me"}, "Authorization": {"Bearer x"}},
				Callback: &posthaste.Callback{URL: "https://a"},
			},
		},
		{
			name: "all headers forwarded",
			in: wire.Input{
				Header: headers("Upstash-Header-Forward: true", "Authorization: Bearer T", "Content-Type: text/plain", "x-a: 1", "X-B: 2", "Host: h",
					"Content-Length: 3", "Connection: close", "Keep-Alive: 1", "Proxy-Connection: x", "Te: x", "Trailer: x", "Transfer-Encoding: x",
					"Upgrade: x", "Upstash-Label: l", "Upstash-Telemetry-Sdk: s", "Upstash-Forward-X-B: forwarded", "User-Agent: github"),
				TokenInHeader: true,
			},
			want: wire.Settings{
				ForwardAll: true, ContentType: "text/plain", Labels: []string{"l"},
				Header: posthaste.Header{"Content-Type": {"text/plain"}, "X-A": {"1"}, "X-B": {"forwarded"}, "User-Agent": {"github"}},
			},
		},
		{
			name: "all headers forwarded, the token in the query",
			in: wire.Input{
				Header: headers("Authorization: Basic x"),
				Query:  []wire.Pair{{"upstash-header-forward", "1"}},
			},
			want: wire.Settings{ForwardAll: true, Header: posthaste.Header{"Authorization": {"Basic x"}}},
		},
		{
			name: "all headers forwarded as the group wants",
			in:   wire.Input{Header: headers("X-A: 1"), Defaults: headers("Upstash-Header-Forward: true", "X-A: 0", "X-B: 2")},
			want: wire.Settings{ForwardAll: true, Header: posthaste.Header{"X-A": {"1"}, "X-B": {"2"}}},
		},
		{
			name: "settings of no callback",
			in:   wire.Input{Header: headers("Upstash-Callback-Retries: 3", "Upstash-Failure-Callback-Forward-X: 1")},
		},
		{
			name: "values with blanks around",
			in:   wire.Input{Header: headers("Upstash-Retries:  3 ", "Upstash-Forward-X:  v ", "Upstash-Flow-Control-Key:  k\t", "Upstash-Flow-Control-Value: rate=1 ")},
			want: wire.Settings{Retries: 3, Header: posthaste.Header{"X": {" v "}}, Flow: []posthaste.FlowControl{{Key: "k", Rate: 1, Period: time.Second}}},
		},
		{
			name: "duplicates merged by a client",
			in:   wire.Input{Header: headers("Upstash-Forward-X: value-uppercase, value-lowercase")},
			want: wire.Settings{Header: posthaste.Header{"X": {"value-uppercase, value-lowercase"}}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := wire.ParseSettings(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(&tt.want, got, cmpopts.IgnoreFields(wire.Settings{}, "Given"), cmpopts.EquateEmpty()); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseSettingsErrors(t *testing.T) {
	const tooLong = " header: is longer than 1024 bytes"
	long := strings.Repeat("x", wire.MaxTextSize+1)
	for _, tt := range []struct {
		header, err string
	}{
		{"Upstash-Delay: 1", `invalid Upstash-Delay header: time: missing unit in duration "1"`},
		{"Upstash-Delay: 10", `invalid Upstash-Delay header: time: missing unit in duration "10"`},
		{"Upstash-Delay: abc", `invalid Upstash-Delay header: time: invalid duration "abc"`},
		{"Upstash-Delay: -5s", `invalid Upstash-Delay header: negative duration "-5s"`},
		{"Upstash-Delay: ", `invalid Upstash-Delay header: time: invalid duration ""`},
		{"Upstash-Callback-Delay: 1", `invalid Upstash-Callback-Delay header: time: missing unit in duration "1"`},
		{"Upstash-Failure-Callback-Delay: 1", `invalid Upstash-Failure-Callback-Delay header: time: missing unit in duration "1"`},
		{"Upstash-Timeout: 0s", `invalid Upstash-Timeout header: "0s" is not more than 0`},
		{"Upstash-Not-Before: soon", `invalid Upstash-Not-Before header: "soon" is not a whole number of 0 or more`},
		{"Upstash-Retries: -1", `invalid Upstash-Retries header: "-1" is not a whole number of 0 or more`},
		{"Upstash-Retries: 3.5", `invalid Upstash-Retries header: "3.5" is not a whole number of 0 or more`},
		{"Upstash-Retries: abc", `invalid Upstash-Retries header: "abc" is not a whole number of 0 or more`},
		{"Upstash-Callback-Retries: abc", `invalid Upstash-Callback-Retries header: "abc" is not a whole number of 0 or more`},
		{"Upstash-Method: HEAD", `invalid Upstash-Method header: "HEAD" is none of GET, POST, PUT, PATCH, DELETE`},
		{"Upstash-Failure-Callback-Method: x", `invalid Upstash-Failure-Callback-Method header: "x" is none of GET, POST, PUT, PATCH, DELETE`},
		{"Upstash-Header-Forward: yes", `invalid Upstash-Header-Forward header: "yes" is neither true nor false`},
		{"Upstash-Content-Based-Deduplication: ", `invalid Upstash-Content-Based-Deduplication header: "" is neither true nor false`},
		{"Upstash-Deduplication-Id: a:b", "DeduplicationId cannot contain ':'"},
		{"Upstash-Deduplication-Id: a b", "invalid Upstash-Deduplication-Id header: cannot contain blanks"},
		{"Upstash-Deduplication-Id: ", "invalid Upstash-Deduplication-Id header: must not be empty"},
		{"Upstash-Deduplication-Id: a\x00", "invalid Upstash-Deduplication-Id header: contains a control character"},
		{"Upstash-Deduplication-Id: " + long, "invalid Upstash-Deduplication-Id" + tooLong},
		{"Upstash-Deduplication-Window: 0s", `invalid Upstash-Deduplication-Window header: "0s" is not more than 0`},
		{"Upstash-Priority: 10", `invalid Upstash-Priority header: "10" is not in 0..9`},
		{"Upstash-Label: a\xff", "invalid Upstash-Label header: label is not valid UTF-8"},
		{"Upstash-Retry-Delay: ", "invalid Upstash-Retry-Delay header: must not be empty"},
		{"Upstash-Retry-Delay: " + long, "invalid Upstash-Retry-Delay" + tooLong},
		{"Upstash-Redact-Fields: x", `invalid Upstash-Redact-Fields header: "x" is none of body, header, header[Name]`},
		{"Upstash-Cron: \x01", "invalid Upstash-Cron header: contains a control character"},
		{"Upstash-Schedule-Id: a b", `invalid Upstash-Schedule-Id header: "a b" may have only letters, digits, '.', '_' and '-'`},
		{"Upstash-Queue-Name: ", "invalid Upstash-Queue-Name header: must not be empty"},
		{"Upstash-Flow-Control-Key: k", "invalid Upstash-Flow-Control-Key header: it needs Upstash-Flow-Control-Value too"},
		{"Upstash-Flow-Control-Value: rate=1", "invalid Upstash-Flow-Control-Value header: it needs Upstash-Flow-Control-Key too"},
		{"Upstash-Callback-Flow-Control-Key-4: k", "invalid Upstash-Callback-Flow-Control-Key-4 header: it needs Upstash-Callback-Flow-Control-Value-4 too"},
		{"Upstash-Flow-Control-Key: k|Upstash-Flow-Control-Value: rate=0", `invalid Upstash-Flow-Control-Value header: rate: "0" is not 1 or more`},
		{"Upstash-Flow-Control-Key: |Upstash-Flow-Control-Value: rate=1", "invalid Upstash-Flow-Control-Key header: must not be empty"},
		{"Upstash-Flow-Control-Key: " + long + "|Upstash-Flow-Control-Value: rate=1", "invalid Upstash-Flow-Control-Key" + tooLong},
		{
			"Upstash-Flow-Control-Key: a|Upstash-Flow-Control-Value: rate=1|Upstash-Flow-Control-Key-2: a|Upstash-Flow-Control-Value-2: rate=1",
			`invalid Upstash-Flow-Control-Key-2 header: "a" is named twice`,
		},
		{"Upstash-Callback: ", "invalid Upstash-Callback header: must not be empty"},
		{"Upstash-Failure-Callback: https://a b", "invalid Upstash-Failure-Callback header: contains a blank; write %20"},
		{"Upstash-Forward-X: a\x00", "invalid Upstash-Forward-X header: contains a control character"},
		{"Upstash-Forward-X: a\r\nb", "invalid Upstash-Forward-X header: contains a control character"},
		{"Upstash-Forward-X: a\xff", "invalid Upstash-Forward-X header: is not valid UTF-8"},
		{"Upstash-Forward-: a", "invalid Upstash-Forward- header: no name follows the prefix"},
		{"Upstash-Callback-Forward-X: \x7f", "invalid Upstash-Callback-Forward-X header: contains a control character"},
		{"Upstash-Failure-Callback-Forward-X: \x7f", "invalid Upstash-Failure-Callback-Forward-X header: contains a control character"},
		{"Content-Type: a\x00", "invalid Content-Type header: contains a control character"},
		{"Upstash-Header-Forward: 1|X-A: a\x00", "invalid X-A header: contains a control character"},
		{"Upstash-Forward-A B: x", "invalid Upstash-Forward-A B header: is not the name of a header"},
		{"upstash-forward-a b: x", `invalid header name "upstash-forward-a b"`},
		{"upstash-é: x", `invalid header name "upstash-é"`},
		// The first fault reported is the same however the headers are ordered.
		{"Upstash-Timeout: x|Upstash-Delay: y|Upstash-Retries: z|Upstash-Method: x|Upstash-Callback: ", `invalid Upstash-Method header: …`},
		{"Upstash-Forward-B: \x00|Upstash-Forward-A: \x00|Upstash-Forward-C: \x00", `invalid Upstash-Forward-A header: …`},
	} {
		t.Run(tt.header, func(t *testing.T) {
			lines := strings.Split(tt.header, "|")
			for range 5 {
				_, err := wire.ParseSettings(wire.Input{Header: headers(lines...)})
				checkError(t, err, tt.err)
				if code := posthaste.CodeOf(err); code != posthaste.CodeInvalid {
					t.Errorf("code: got %s", code)
				}
			}
		})
	}
}

func TestParseMethods(t *testing.T) {
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
		for _, in := range []string{method, strings.ToLower(method)} {
			s, err := wire.ParseSettings(wire.Input{Header: headers("Upstash-Method: " + in)})
			if err != nil || s.Method != method {
				t.Errorf("%q: got %+v, %v", in, s, err)
			}
		}
	}
}

// Names of headers are looked up in maps of canonical names.
func TestNamesAreCanonical(t *testing.T) {
	for _, name := range []string{
		wire.HeaderUserAgent, wire.HeaderSignature, wire.HeaderMessageID, wire.HeaderRetried, wire.HeaderTopicName, wire.HeaderCallerIP, wire.HeaderRegion,
		wire.HeaderRetryAfter, wire.HeaderRateReset, wire.HeaderRateResetReqs, wire.HeaderRateResetTokens, wire.HeaderNonRetryable,
		wire.HeaderAuthorization, wire.HeaderAllow, wire.HeaderForwardedFor, wire.HeaderRequestID, wire.HeaderDailyLimit, wire.HeaderDailyRemaining,
		wire.HeaderDailyReset, wire.HeaderBurstLimit, wire.HeaderBurstRemaining, wire.HeaderBurstReset,
	} {
		if canonical := textproto.CanonicalMIMEHeaderKey(name); canonical != name {
			t.Errorf("%s: want %s", name, canonical)
		}
	}
	for f := wire.FieldMethod; f.Header() != "unknown"; f++ {
		if canonical := textproto.CanonicalMIMEHeaderKey(f.Header()); canonical != f.Header() {
			t.Errorf("%s: want %s", f.Header(), canonical)
		}
	}
}

func TestHasCron(t *testing.T) {
	for _, tt := range []struct {
		in   wire.Input
		want bool
	}{
		{wire.Input{}, false},
		{wire.Input{Header: headers("Upstash-Delay: 1s"), Query: []wire.Pair{{"upstash-retries", "1"}}}, false},
		{wire.Input{Header: headers("Upstash-Cron: ")}, true},
		{wire.Input{Query: []wire.Pair{{"upstash-cron", "* * * * *"}}}, true},
	} {
		if got := wire.HasCron(tt.in); got != tt.want {
			t.Errorf("%+v: got %v, want %v", tt.in, got, tt.want)
		}
	}
}

func TestSettingsGiven(t *testing.T) {
	s, err := wire.ParseSettings(wire.Input{
		Header: headers("Upstash-Delay: 0s", "Upstash-Forward-Host: x", "Upstash-Callback-Delay: 0s", "Content-Type: x", "X-A: 1"),
		Query:  []wire.Pair{{"upstash-not-before", "0"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := wire.FieldsOf(wire.FieldDelay, wire.FieldForward, wire.FieldCallbackDelay, wire.FieldContentType, wire.FieldNotBefore)
	if s.Given != want {
		t.Errorf("given: got %b, want %b", s.Given, want)
	}
	if !s.Has(wire.FieldDelay) || s.Has(wire.FieldRetries) {
		t.Error("Has disagrees with Given")
	}
	if f, ok := (s.Given & wire.FieldsOf(wire.FieldCallbackDelay, wire.FieldDelay)).First(); !ok || f.Header() != "Upstash-Delay" {
		t.Errorf("first: got %q, %v", f.Header(), ok)
	}
	if _, ok := wire.Fields(0).First(); ok {
		t.Error("the empty set has a first field")
	}
}

// Each field's header must read back as that field: names and the lookup are written twice.
func TestFieldHeaders(t *testing.T) {
	values := map[wire.Field]string{
		wire.FieldMethod: "GET", wire.FieldForwardAll: "true", wire.FieldContentType: "a/b", wire.FieldTimeout: "1s", wire.FieldRetryDelay: "1",
		wire.FieldDelay: "1s", wire.FieldRedact: "body", wire.FieldContentBasedDeduplication: "true", wire.FieldDeduplicationWindow: "1s",
	}
	for f := wire.FieldMethod; f.Header() != "unknown"; f++ {
		name := f.Header()
		value, ok := values[f]
		if !ok {
			value = "1"
		}
		switch {
		case strings.HasSuffix(name, "-Method"):
			value = "GET"
		case strings.HasSuffix(name, "-Timeout"), strings.HasSuffix(name, "-Delay"):
			value = "1s"
		}
		name = strings.Replace(name, "*", "X", 1)
		h := headers(name + ": " + value)
		want := wire.FieldsOf(f)
		for _, half := range [][2]string{{"Flow-Control-Key", "Flow-Control-Value"}, {"Flow-Control-Value", "Flow-Control-Key"}} {
			if strings.Contains(name, half[0]) {
				h[name] = []string{"rate=1"}
				other := strings.Replace(name, half[0], half[1], 1)
				h[other] = []string{"rate=1"}
				if half[0] == "Flow-Control-Key" {
					want |= wire.FieldsOf(f + 4)
				} else {
					want |= wire.FieldsOf(f - 4)
				}
			}
		}
		s, err := wire.ParseSettings(wire.Input{Header: h})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if s.Given != want {
			t.Errorf("%s: got %b, want %b", name, s.Given, want)
		}
	}
}

func BenchmarkParseSettings(b *testing.B) {
	for _, bm := range []struct {
		name string
		in   wire.Input
	}{
		{"plain", wire.Input{Header: headers("Authorization: Bearer T", "Content-Type: application/json", "User-Agent: x", "Accept-Encoding: gzip", "Content-Length: 20", "Accept: */*")}},
		{"six", wire.Input{Header: headers("Authorization: Bearer T", "Content-Type: application/json", "Upstash-Method: POST", "Upstash-Retries: 3",
			"Upstash-Delay: 10s", "Upstash-Forward-X-Trace: abc")}},
		{"many", wire.Input{Header: headers("Authorization: Bearer T", "Content-Type: application/json", "User-Agent: x", "Accept-Encoding: gzip", "Content-Length: 20",
			"Upstash-Method: POST", "Upstash-Retries: 3", "Upstash-Forward-X-Trace: abc", "Upstash-Telemetry-Sdk: js", "Upstash-Telemetry-Platform: x", "Upstash-Telemetry-Runtime: y",
			"Upstash-Flow-Control-Key: k", "Upstash-Flow-Control-Value: parallelism=3, rate=5, period=1m", "Upstash-Label: a,b", "Upstash-Callback: https://a.b/c")}},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := wire.ParseSettings(bm.in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
