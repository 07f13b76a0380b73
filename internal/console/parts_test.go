package console

import (
	"strings"
	"testing"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/wire"
)

// TestFirings: moments are shown in the schedule's zone, and where its clocks change.
func TestFirings(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	at := []time.Time{
		time.Date(2026, 3, 28, 8, 0, 0, 0, time.UTC), time.Date(2026, 3, 29, 7, 0, 0, 0, time.UTC), time.Date(2026, 3, 30, 7, 0, 5, 0, time.UTC),
		time.Date(2026, 10, 26, 8, 0, 0, 0, time.UTC),
	}
	var got []string
	for _, f := range firings(at, berlin) {
		got = append(got, f.Local+" "+f.Zone+" "+f.Shift)
	}
	want := []string{
		"Sat 28 Mar 2026, 09:00 CET ", "Sun 29 Mar 2026, 09:00 CEST clocks go forward by 1 h", "Mon 30 Mar 2026, 09:00:05 CEST ",
		"Mon 26 Oct 2026, 09:00 CET clocks go back by 1 h",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestCutZone(t *testing.T) {
	for _, tt := range [][3]string{
		{"CRON_TZ=Europe/Berlin 0 9 * * *", "Europe/Berlin", "0 9 * * *"}, {"TZ=UTC @daily", "UTC", "@daily"}, {"0 9 * * *", "", "0 9 * * *"},
		{"@every 5m", "", "@every 5m"},
	} {
		zone, expr := cutZone(tt[0])
		if zone != tt[1] || expr != tt[2] {
			t.Errorf("%q: got %q and %q, want %q and %q", tt[0], zone, expr, tt[1], tt[2])
		}
		in := input{Cron: expr, Zone: zone}
		if tt[1] != "UTC" && in.cron() != tt[0] {
			t.Errorf("%q: put together again it is %q", tt[0], in.cron())
		}
	}
}

// TestInputOfMessage: what a message was published with comes back as the same headers.
func TestInputOfMessage(t *testing.T) {
	retries := 2
	m := &posthaste.Message{
		URL: "https://example.com/a", Method: "PUT", Queue: "q", Body: []byte("x"), MaxRetries: 5, RetryDelay: "1000", Timeout: 90 * time.Second,
		Header: posthaste.Header{"Content-Type": {"text/plain"}, "X-A": {"1", "2"}}, Labels: []string{"a", "b"}, Priority: 3,
		Flow: []posthaste.FlowControl{{Key: "k", Rate: 5, Period: time.Minute}, {Key: "l", Parallelism: 2, Period: time.Second}},
		Callback: &posthaste.Callback{
			URL: "https://example.com/cb", Method: "PATCH", Retries: &retries, Header: posthaste.Header{"X-B": {"3"}}, Delay: time.Second,
		},
		FailureCallback: &posthaste.Callback{URL: "https://example.com/fcb"},
		Redact:          posthaste.Redaction{Names: []string{"Cookie"}},
	}
	item, err := inputOf(m, true).item()
	if err != nil {
		t.Fatal(err)
	}
	s, err := wire.ParseSettings(item.Input)
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case item.Queue != "q" || item.Destination.Text != m.URL || string(item.Body) != "x":
		t.Errorf("got %+v", item)
	case s.Method != "PUT" || s.Retries != 5 || s.RetryDelay != "1000" || s.Timeout != 90*time.Second || s.Priority != 3:
		t.Errorf("got the settings %+v", s)
	case s.Header["Content-Type"][0] != "text/plain" || len(s.Header["X-A"]) != 2 || strings.Join(s.Labels, " ") != "a b":
		t.Errorf("got headers %v and labels %v", s.Header, s.Labels)
	case len(s.Flow) != 2 || s.Flow[0] != m.Flow[0] || s.Flow[1] != m.Flow[1]:
		t.Errorf("got flow control %v, want %v", s.Flow, m.Flow)
	case s.Callback == nil || s.Callback.Method != "PATCH" || *s.Callback.Retries != 2 || s.Callback.Header["X-B"][0] != "3" || s.Callback.Delay != time.Second:
		t.Errorf("got the callback %+v", s.Callback)
	case s.FailureCallback == nil || s.FailureCallback.URL != m.FailureCallback.URL || s.Redact.Names[0] != "Cookie":
		t.Errorf("got %+v", s)
	}
}

// TestCode: quoting holds in every language.
func TestCode(t *testing.T) {
	in := input{Kind: "queue", Queue: "mails", Destination: "https://example.com/it's", Body: `{"a":"it's <b>"}`, Retries: "2", ContentDedup: true, ContentType: "text/plain"}
	for lang, want := range map[string]string{
		"curl":   `'http://x/v2/enqueue/mails/https://example.com/it'\''s'`,
		"js":     `client.queue({ queueName: "mails" }).enqueue({`,
		"python": `content_based_deduplication=True`,
		"go":     `strings.NewReader("{\"a\":\"it's <b>\"}")`,
	} {
		for _, s := range in.snippets("http://x", "$QSTASH_TOKEN") {
			if s.Lang == lang && !strings.Contains(s.Code, want) {
				t.Errorf("%s:\n%s\nwant in it %s", lang, s.Code, want)
			}
		}
	}
	if c := in.curl("http://x", "$QSTASH_TOKEN"); !strings.Contains(c, `"Authorization: Bearer $QSTASH_TOKEN"`) {
		t.Errorf("the shell would not fill in the token of %s", c)
	}
}

func TestNumber(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1\u202f000", -1234567: "−1\u202f234\u202f567"} {
		if got := number(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}

func TestPeriod(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 s", 500 * time.Millisecond: "500 ms", 90 * time.Second: "1 min 30 s", time.Hour: "1 h", 26 * time.Hour: "1 d 2 h", 25*time.Hour + time.Second: "1 d 1 h",
	} {
		if got := period(d); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}

// TestSearch: the search finds out what one looks for.
func TestSearch(t *testing.T) {
	for text, want := range map[string]string{
		"msg_abc": "messages/msg_abc", " https://a/b ": "logs?url=https%3A%2F%2Fa%2Fb", "/hook": "logs?path=%2Fhook", "a.example": "logs?host=a.example",
		"localhost:3000": "logs?host=localhost%3A3000", "shop": "logs?label=shop", "scd_1": "logs?scheduleId=scd_1", "": "logs?",
	} {
		if got := search(text); got != Prefix+want {
			t.Errorf("%q: got %q, want %q", text, got, Prefix+want)
		}
	}
}
