package wire_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/wire"
)

// cutTarget splits a request target as the HTTP edge does: what follows the fixed words, and the raw query.
func cutTarget(t *testing.T, target, fixed string) (rest, rawQuery string) {
	t.Helper()
	u, err := url.ParseRequestURI(target)
	if err != nil {
		t.Fatal(err)
	}
	rest, ok := strings.CutPrefix(u.EscapedPath(), fixed)
	if !ok {
		t.Fatalf("%q does not begin with %q", u.EscapedPath(), fixed)
	}
	return rest, u.RawQuery
}

func TestParseDestination(t *testing.T) {
	const badScheme = "invalid destination url: endpoint has invalid scheme, add http:// or https://"
	toURL := func(text string) wire.Destination { return wire.Destination{Kind: wire.DestinationURL, Text: text} }
	for _, tt := range []struct {
		target string
		want   wire.Destination
		pairs  []wire.Pair
		token  string
		err    string
	}{
		{target: "/v2/publish/https://example.com", want: toURL("https://example.com")},
		{target: "/v2/publish/https://example.com/?foo=bar", want: toURL("https://example.com/?foo=bar")},
		{target: "/v2/publish/https://a.b/x%20y?q=%2F&z", want: toURL("https://a.b/x%20y?q=%2F&z")},
		{
			target: "/v2/publish/https://a.b/h?qstash_token=T&upstash-retries=3&k=v",
			want:   toURL("https://a.b/h?k=v"),
			pairs:  []wire.Pair{{Name: "upstash-retries", Value: "3"}},
			token:  "T",
		},
		{
			target: "/v2/publish/https://a.b/h?upstash-delay=100s",
			want:   toURL("https://a.b/h"),
			pairs:  []wire.Pair{{Name: "upstash-delay", Value: "100s"}},
		},
		{target: "/v2/publish/https%3A%2F%2Fa.b%2Fh%3Fk%3Dv", want: toURL("https://a.b/h?k=v")},
		{target: "/v2/publish/https:/a.b/h", want: toURL("https://a.b/h")},
		{target: "/v2/publish/HTTP://a.b", want: toURL("HTTP://a.b")},
		{target: "/v2/publish/my-group.v2?x=1", want: wire.Destination{Kind: wire.DestinationGroup, Text: "my-group.v2"}},
		{target: "/v2/publish/api/llm", want: wire.Destination{Kind: wire.DestinationAPI, Text: "api/llm"}},
		{target: "/v2/publish/", err: "a non-empty destination must be provided"},
		{target: "/v2/publish/?x=1", err: "a non-empty destination must be provided"},
		{target: "/v2/publish/ftp://a.b", err: badScheme},
		{target: "/v2/publish/a.b/c", err: badScheme},
		{target: "/v2/publish/nogroup", want: wire.Destination{Kind: wire.DestinationGroup, Text: "nogroup"}},
		{target: "/v2/publish/example.com", want: wire.Destination{Kind: wire.DestinationGroup, Text: "example.com"}},
		{target: "/v2/publish/https://a.b//c//d", want: toURL("https://a.b//c//d")},
		{target: "/v2/publish/https://a.b/pause", want: toURL("https://a.b/pause")},

		// Besides the known vectors.
		{target: "/v2/publish/https://a.b?k=v&upstash-retries=3", want: toURL("https://a.b?k=v"), pairs: []wire.Pair{{Name: "upstash-retries", Value: "3"}}},
		{target: "/v2/publish/https://a.b?k=v&qstash_token=T", want: toURL("https://a.b?k=v"), token: "T"},
		{target: "/v2/publish/hTTp:/a.b?b=1&a=2&b=1&&c", want: toURL("hTTp://a.b?b=1&a=2&b=1&&c")},
		{target: "/v2/publish/HTTPS%3a%2F%2Fa.b%2F%2520%2F", want: toURL("HTTPS://a.b/%20/")},
		{target: "/v2/publish/https%3A%2F%2Fa.b%3Fk%3Dv%23f?x=1", want: toURL("https://a.b?k=v&x=1#f")},
		{
			target: "/v2/publish/https://a.b?UPSTASH-Label=a%2Cb+c&up=1&%75pstash-retries=0&qstash%5Ftoken=%54&",
			want:   toURL("https://a.b?up=1&"),
			pairs:  []wire.Pair{{Name: "UPSTASH-Label", Value: "a,b c"}, {Name: "upstash-retries", Value: "0"}},
			token:  "T",
		},
		{target: "/v2/publish/https://a.b?q=%zz&u=%", want: toURL("https://a.b?q=%zz&u=%")},
		{target: "/v2/publish/https://a.b?upstash-retries=%zz", err: "invalid query parameter: upstash-retries: invalid URL escape \"%zz\""},
		{target: "/v2/publish/https://", want: toURL("https://")}, // judged with the host
		{target: "/v2/publish/https:/", err: badScheme},
		{target: "/v2/publish/https:", err: badScheme},
		{target: "/v2/publish/my-group/", err: badScheme},
		{target: "/v2/publish/API/llm", err: badScheme},
		{target: "/v2/publish/https%3A%2F%2Fa.b%2F%00", err: "invalid destination url: contains a control character"},
		{target: "/v2/publish/https%3A%2F%2Fa.b%2F%FF", err: "invalid destination url: is not valid UTF-8"},
		{target: "/v2/publish/https%3A%2F%2Fa.b%2Fx%20y", err: "invalid destination url: contains a blank; write %20"},
		{target: "/v2/publish/https://a.b?x=\xff", err: "invalid destination url: is not valid UTF-8"},
	} {
		t.Run(tt.target, func(t *testing.T) {
			rest, rawQuery := cutTarget(t, tt.target, "/v2/publish/")
			got, pairs, err := wire.ParseDestination(rest, rawQuery)
			checkError(t, err, tt.err)
			if err != nil {
				if code := posthaste.CodeOf(err); code != posthaste.CodeInvalid {
					t.Errorf("code: got %s", code)
				}
				return
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(tt.pairs, pairs); d != "" {
				t.Error(d)
			}
			if token, ok := wire.TokenFromQuery(rawQuery); token != tt.token || ok != (tt.token != "") {
				t.Errorf("token: got %q, %v, want %q", token, ok, tt.token)
			}
		})
	}
}

func TestCutQueue(t *testing.T) {
	for _, tt := range []struct {
		target, queue, rest, err string
	}{
		{"/v2/enqueue/my%2Dq/https://a.b//c//d", "my-q", "https://a.b//c//d", ""},
		{"/v2/enqueue/q/group", "q", "group", ""},
		{"/v2/enqueue/q/", "q", "", ""},
		{"/v2/enqueue/q", "q", "", ""},
		{"/v2/enqueue/", "", "", "invalid queue name: must not be empty"},
		{"/v2/enqueue/a%20b/https://a.b", "", "", `invalid queue name: "a b" may have only letters, digits, '.', '_' and '-'`},
		{"/v2/enqueue/a%2Fb/https://a.b", "", "", `invalid queue name: "a/b" may have only letters, digits, '.', '_' and '-'`},
	} {
		rest, _ := cutTarget(t, tt.target, "/v2/enqueue/")
		queue, rest, err := wire.CutQueue(rest)
		checkError(t, err, tt.err)
		if queue != tt.queue || rest != tt.rest {
			t.Errorf("%s: got %q, %q, want %q, %q", tt.target, queue, rest, tt.queue, tt.rest)
		}
	}
}

func TestDestinationOf(t *testing.T) {
	for _, tt := range []struct {
		text string
		kind wire.DestinationKind
		err  string
	}{
		{"https://a.b/h?upstash-delay=1s&qstash_token=x", wire.DestinationURL, ""},
		{"group", wire.DestinationGroup, ""},
		{"api/llm", wire.DestinationAPI, ""},
		{"", 0, "a non-empty destination must be provided"},
		{"nope://x", 0, "invalid destination url: endpoint has invalid scheme, add http:// or https://"},
		{"https%3A%2F%2Fa.b", 0, "invalid destination url: endpoint has invalid scheme, add http:// or https://"},
		{"https:/a.b", 0, "invalid destination url: endpoint has invalid scheme, add http:// or https://"},
		{"https://a.b/\n", 0, "invalid destination url: contains a control character"},
	} {
		got, err := wire.DestinationOf(tt.text)
		checkError(t, err, tt.err)
		if got.Kind != tt.kind || err == nil && got.Text != tt.text {
			t.Errorf("%q: got %+v", tt.text, got)
		}
	}
}

func TestParseSchedulePath(t *testing.T) {
	for _, tt := range []struct {
		rest, id, action string
		ok               bool
	}{
		{"scd_x/pause", "scd_x", "pause", true},
		{"my%2Did/Resume", "my-id", "resume", true},
		{"https://a.b/pause", "", "", false},
		{"https:/pause", "", "", false},
		{"https%3A%2F%2Fa.b/pause", "", "", false},
		{"scd_x", "", "", false},
		{"/pause", "", "", false},
		{"scd_x/pause/", "", "", false},
		{"scd_x/reset", "", "", false},
	} {
		id, action, ok := wire.ParseSchedulePath(tt.rest)
		if string(id) != tt.id || action != tt.action || ok != tt.ok {
			t.Errorf("%q: got %q, %q, %v", tt.rest, id, action, ok)
		}
	}
}

func TestParseFlowPath(t *testing.T) {
	for _, tt := range []struct {
		rest        string
		post        bool
		key, action string
		ok          bool
		err         string
	}{
		{"key", false, "key", "", true, ""},
		{"a/b%20c%2Fd", false, "a/b c/d", "", true, ""},
		{"a/b%20c/pin", true, "a/b c", "pin", true, ""},
		{"pause/pause", true, "pause", "pause", true, ""},
		{"k/RESETRATE", true, "k", "resetRate", true, ""},
		{"k/pause", false, "k/pause", "", true, ""},
		{"k", true, "", "", false, ""},
		{"k/frobnicate", true, "", "", false, ""},
		{"", false, "", "", true, "invalid flow control key: must not be empty"},
		{"pause", true, "", "", true, "invalid flow control key: must not be empty"},
		{"/pause", true, "", "", true, "invalid flow control key: must not be empty"},
		{"%00", false, "", "", true, "invalid flow control key: contains a control character"},
		{"%zz", false, "", "", true, `invalid flow control key: invalid URL escape "%zz"`},
	} {
		key, action, ok, err := wire.ParseFlowPath(tt.rest, tt.post)
		checkError(t, err, tt.err)
		if key != tt.key || action != tt.action || ok != tt.ok {
			t.Errorf("%q: got %q, %q, %v", tt.rest, key, action, ok)
		}
	}
}
