package wire_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/wire"
)

// endOf is the last instant of a millisecond.
func endOf(n int64) time.Time { return ms(n).Add(time.Millisecond - 1) }

func TestParseLogFilter(t *testing.T) {
	for _, tt := range []struct {
		name, query string
		route       wire.LogRoute
		want        wire.LogFilter
		err         string
	}{
		{name: "events", want: wire.LogFilter{Count: 1000}},
		{name: "logs", route: wire.RouteLogs, want: wire.LogFilter{Count: 100}},
		{name: "clamped", query: "count=5000", want: wire.LogFilter{Count: 1000}},
		{name: "clamped logs", query: "count=99999999999999", route: wire.RouteLogs, want: wire.LogFilter{Count: 100}},
		{
			name: "all",
			query: "cursor=1686652644442-12&messageId=m1&messageIds=m2,m3&messageIds=m4&state=DELIVERED&state=FAILED,CANCELLED&url=https%3A%2F%2Fa.b%2F%3Fx%3D1" +
				"&topicName=g&urlGroup=h&scheduleId=s&queueName=q&label=a+b,c&host=A.B:80&path=/x,y&callerIp=1.1.1.1&callerIP=2.2.2.2" +
				"&flowControlKey=k&fromDate=5&toDate=6&count=7&order=earliestFirst&api=llm&whatever=x&qstash_token=T&trimBody=1",
			want: wire.LogFilter{
				Filter: wire.Filter{
					MessageIDs: []posthaste.MessageID{"m2", "m3", "m4", "m1"}, URLs: []string{"https://a.b/?x=1"}, Groups: []string{"g", "h"},
					Schedules: []posthaste.ScheduleID{"s"}, Queues: []string{"q"}, Labels: []string{"a b", "c"}, Hosts: []string{"a.b:80"},
					Paths: []string{"/x,y"}, CallerIPs: []string{"1.1.1.1", "2.2.2.2"}, FlowKeys: []string{"k"}, From: ms(5), To: endOf(6),
				},
				States: []posthaste.LogState{"DELIVERED", "FAILED", "CANCELED"},
				Count:  7, Cursor: &wire.Cursor{Millis: 1686652644442, Rest: "12"}, EarliestFirst: true,
			},
		},
		{
			name: "in progress", query: "state=IN_PROGRESS&order=latestFirst",
			want: wire.LogFilter{States: []posthaste.LogState{"ACTIVE", "RETRY", "ERROR"}, Count: 1000},
		},
		{
			name: "commas in URLs and paths", query: "url=https://a?x=1,2,http://b,HTTPS://c&path=/a,b,/c",
			want: wire.LogFilter{Filter: wire.Filter{URLs: []string{"https://a?x=1,2", "http://b", "HTTPS://c"}, Paths: []string{"/a,b", "/c"}}, Count: 1000},
		},
		{
			name: "commas in keys", query: "flowControlKey=a,b&flowControlKey=c",
			want: wire.LogFilter{Filter: wire.Filter{FlowKeys: []string{"a", "b", "a,b", "c"}}, Count: 1000},
		},
		{
			name: "cursor of a client", query: "cursor=1700000000000",
			want: wire.LogFilter{Count: 1000, Cursor: &wire.Cursor{Millis: 1700000000000}},
		},
		{name: "empty values", query: "cursor=&label=&count=&fromDate=&order=&state=&&", want: wire.LogFilter{Count: 1000}},
		{name: "unknown and malformed", query: "nonsense=%zz&%zz=1", want: wire.LogFilter{Count: 1000}},
		{name: "far date", query: "toDate=9007199254740991", want: wire.LogFilter{Filter: wire.Filter{To: endOf(253402300799000)}, Count: 1000}},

		{name: "bad state", query: "state=DONE", err: `invalid query parameter: state: unknown state "DONE"`},
		{name: "bad count", query: "count=x", err: `invalid query parameter: count: "x" is not a whole number of 0 or more`},
		{name: "count 0", query: "count=0", err: `invalid query parameter: count: "0" is not 1 or more`},
		{name: "negative count", query: "count=-1", err: `invalid query parameter: count: "-1" is not a whole number of 0 or more`},
		{name: "bad date", query: "fromDate=today", err: `invalid query parameter: fromDate: "today" is not a whole number of 0 or more`},
		{name: "bad order", query: "order=random", err: `invalid query parameter: order: "random" is neither latestFirst nor earliestFirst`},
		{name: "bad cursor", query: "cursor=abc", err: `invalid query parameter: cursor: malformed cursor "abc"`},
		{name: "bad cursor rest", query: "cursor=1-", err: `invalid query parameter: cursor: malformed cursor "1-"`},
		{name: "bad escape", query: "label=%zz", err: `invalid query parameter: label: invalid URL escape "%zz"`},
		{name: "NUL", query: "label=a%00", err: "invalid query parameter: label: contains a control character"},
		{name: "not UTF-8", query: "label=%ff", err: "invalid query parameter: label: is not valid UTF-8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := wire.ParseLogFilter(tt.query, tt.route)
			checkError(t, err, tt.err)
			if err != nil {
				return
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseDeadFilter(t *testing.T) {
	for _, tt := range []struct {
		name, query string
		want        wire.DeadFilter
		err         string
	}{
		{name: "nothing", want: wire.DeadFilter{Count: 100}},
		{
			name:  "all",
			query: "cursor=5-x&count=500&dlqIds=1-0,2-0&messageId=m&url=https://a&topicName=g&scheduleId=s&queueName=q&responseStatus=500&responseStatus=0,404&callerIp=1.1.1.1&label=l&flowControlKey=k&fromDate=1&toDate=2&order=latestFirst&api=llm&qstash_token=T",
			want: wire.DeadFilter{
				Filter: wire.Filter{
					MessageIDs: []posthaste.MessageID{"m"}, URLs: []string{"https://a"}, Groups: []string{"g"}, Schedules: []posthaste.ScheduleID{"s"},
					Queues: []string{"q"}, CallerIPs: []string{"1.1.1.1"}, Labels: []string{"l"}, FlowKeys: []string{"k"}, From: ms(1), To: endOf(2),
				},
				IDs: []posthaste.DeadLetterID{"1-0", "2-0"}, Statuses: []int{500, 0, 404},
				Count: 100, Cursor: &wire.Cursor{Millis: 5, Rest: "x"}, LatestFirst: true,
			},
		},
		{name: "host", query: "host=a", err: "invalid query parameter: host"},
		{name: "path", query: "path=a", err: "invalid query parameter: path"},
		{name: "unknown", query: "labeel=x", err: "invalid query parameter: labeel"},
		{name: "strange", query: "a%00b=x", err: `invalid query parameter: "a\x00b"`},
		{name: "state", query: "state=FAILED", err: "invalid query parameter: state"},
		{name: "status", query: "responseStatus=x", err: `invalid query parameter: responseStatus: "x" is not a whole number of 0 or more`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := wire.ParseDeadFilter(tt.query)
			checkError(t, err, tt.err)
			if err != nil {
				return
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseDeadSelection(t *testing.T) {
	label := wire.Filter{Labels: []string{"x"}}
	ids := func(list ...posthaste.DeadLetterID) wire.DeadFilter { return wire.DeadFilter{IDs: list} }
	for _, tt := range []struct {
		name, query, body string
		want              wire.DeadFilter
		err               string
	}{
		{name: "everything", want: wire.DeadFilter{Count: 100}},
		{name: "everything, empty object", body: "{}", want: wire.DeadFilter{Count: 100}},
		{name: "blank body", body: " \n", want: wire.DeadFilter{Count: 100}},
		{name: "null", body: "null", want: wire.DeadFilter{Count: 100}},
		{name: "filter", query: "label=x&count=5", want: wire.DeadFilter{Filter: label, Count: 5}},
		{name: "ids", query: "dlqIds=1-0&dlqIds=2-0,3-0", want: ids("1-0", "2-0", "3-0")},
		{name: "ids win", query: "dlqIds=1-0&label=x&count=1&cursor=5", want: ids("1-0")},
		{name: "body", body: `{"dlqIds":["1-0","2-0"]}`, want: ids("1-0", "2-0")},
		{name: "body of one", body: `{"dlqIds":"1-0"}`, want: ids("1-0")},
		{name: "body wins", query: "label=x", body: `{"dlqIds":["1-0"]}`, want: ids("1-0")},
		{name: "both", query: "dlqIds=1-0,2-0", body: `{"dlqIds":["2-0","3-0"]}`, want: ids("2-0")},
		{name: "both, disjoint", query: "dlqIds=1-0", body: `{"dlqIds":["2-0"]}`, want: wire.DeadFilter{Nothing: true}},
		{name: "empty list", body: `{"dlqIds":[]}`, want: wire.DeadFilter{Nothing: true}},
		{name: "empty list and a filter", query: "label=x", body: `{"dlqIds":[]}`, want: wire.DeadFilter{Nothing: true}},
		{name: "null list", body: `{"dlqIds":null}`, want: wire.DeadFilter{Count: 100}},
		{name: "unknown", query: "labeel=x", err: "invalid query parameter: labeel"},
		{name: "api", query: "api=llm", err: "invalid query parameter: api"},
		{name: "host", query: "host=a", err: "invalid query parameter: host"},
		{name: "empty filter", query: "label=", err: "invalid query parameter: label: must not be empty"},
		{name: "empty ids", query: "dlqIds=", err: "invalid query parameter: dlqIds: must not be empty"},
		{name: "empty date", query: "toDate=", err: "invalid query parameter: toDate: must not be empty"},
		{name: "empty cursor", query: "cursor=", want: wire.DeadFilter{Count: 100}},
		{name: "unknown field", body: `{"label":"x"}`, err: "invalid field: label"},
		{name: "empty id", body: `{"dlqIds":[""]}`, err: "invalid field: dlqIds: must not be empty"},
		{name: "ids of objects", body: `{"dlqIds":[{}]}`, err: "invalid field: dlqIds: json: cannot unmarshal object into Go value of type string"},
		{name: "array", body: `["1-0"]`, err: "invalid JSON body: the value: unexpected array"},
		{name: "broken", body: `{"dlqIds":`, err: "invalid JSON body: unexpected end of JSON input (byte 10)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := wire.ParseDeadSelection(tt.query, []byte(tt.body))
			checkError(t, err, tt.err)
			if err != nil {
				return
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseCancelFilter(t *testing.T) {
	ids := func(list ...posthaste.MessageID) wire.Filter { return wire.Filter{MessageIDs: list} }
	for _, tt := range []struct {
		name, query, body string
		want              wire.CancelFilter
		err               string
	}{
		{name: "everything"},
		{name: "everything, empty object", body: "{}"},
		{name: "everything, empty list", body: `{"messageIds":[]}`},
		{name: "everything, no list", body: `{"messageIds":null,"queueName":null}`},
		{name: "everything, counted", query: "count=100", want: wire.CancelFilter{Count: 100}},
		{
			name:  "all",
			query: "topicName=g&queueName=q&url=https://a&host=EXAMPLE.org&path=/p&label=l&flowControlKey=k&scheduleId=s&callerIp=1.1.1.1&fromDate=1&toDate=2&count=500&cursor=x&qstash_token=T",
			want: wire.CancelFilter{Count: 500, Filter: wire.Filter{
				Groups: []string{"g"}, Queues: []string{"q"}, URLs: []string{"https://a"}, Hosts: []string{"example.org"}, Paths: []string{"/p"},
				Labels: []string{"l"}, FlowKeys: []string{"k"}, Schedules: []posthaste.ScheduleID{"s"}, CallerIPs: []string{"1.1.1.1"},
				From: ms(1), To: endOf(2),
			}},
		},
		{name: "ids win", query: "messageIds=m1,m2&label=x&fromDate=1", want: wire.CancelFilter{Filter: ids("m1", "m2")}},
		{name: "body", body: `{"messageIds":["m1","m,2"]}`, want: wire.CancelFilter{Filter: ids("m1", "m,2")}},
		{
			name: "body of filters",
			body: `{"queueName":"q","url":"https://a,https://b","topicName":["g","h"],"fromDate":1,"toDate":"2","scheduleId":"s","callerIP":"1.1.1.1","count":3}`,
			want: wire.CancelFilter{Count: 3, Filter: wire.Filter{
				Queues: []string{"q"}, URLs: []string{"https://a,https://b"}, Groups: []string{"g", "h"}, Schedules: []posthaste.ScheduleID{"s"},
				CallerIPs: []string{"1.1.1.1"}, From: ms(1), To: endOf(2),
			}},
		},
		{
			name: "both", query: "label=a,b&fromDate=1&toDate=9&count=5", body: `{"label":["b","c"],"fromDate":2,"toDate":8,"queueName":"q","count":7}`,
			want: wire.CancelFilter{Count: 5, Filter: wire.Filter{Labels: []string{"b"}, Queues: []string{"q"}, From: ms(2), To: endOf(8)}},
		},
		{name: "both, disjoint", query: "label=a", body: `{"label":"b"}`, want: wire.CancelFilter{Nothing: true}},
		{name: "both ids", query: "messageIds=a,b&label=x", body: `{"messageIds":["b"],"label":"y"}`, want: wire.CancelFilter{Filter: ids("b")}},
		{name: "ids in the query, filters in the body", query: "messageIds=a&label=x", body: `{"label":"y"}`, want: wire.CancelFilter{Filter: ids("a")}},
		{name: "unknown", query: "labeel=x", err: "invalid query parameter: labeel"},
		{name: "single id", query: "messageId=x", err: "invalid query parameter: messageId"},
		{name: "api", query: "api=llm", err: "invalid query parameter: api"},
		{name: "api in the body", body: `{"api":"llm"}`, err: "invalid field: api"},
		{name: "empty filter", query: "label=", err: "invalid query parameter: label: must not be empty"},
		{name: "only commas", query: "label=,+,", err: "invalid query parameter: label: must not be empty"},
		{name: "empty filter in the body", body: `{"label":""}`, err: "invalid field: label: must not be empty"},
		{name: "empty list in the body", body: `{"label":[]}`, err: "invalid field: label: must not be empty"},
		{name: "too many", query: "count=501", err: `invalid query parameter: count: "501" is more than 500`},
		{name: "too few", query: "count=0", err: `invalid query parameter: count: "0" is not 1 or more`},
		{name: "NUL in the body", body: `{"label":"a\u0000"}`, err: "invalid field: label: contains a control character"},
		{name: "not UTF-8", body: "{\"label\":\"\xff\"}", err: "invalid JSON body: it is not valid UTF-8"},
		{name: "broken", body: `{`, err: "invalid JSON body: unexpected end of JSON input (byte 1)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := wire.ParseCancelFilter(tt.query, []byte(tt.body))
			checkError(t, err, tt.err)
			if err != nil {
				return
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParsePin(t *testing.T) {
	for _, tt := range []struct {
		query string
		want  wire.Pin
		err   string
	}{
		{"parallelism=3&rate=20&period=120", wire.Pin{Parallelism: 3, Rate: 20, Period: 2 * time.Minute}, ""},
		{"parallelism=3&x=y", wire.Pin{Parallelism: 3}, ""},
		{"rate=1&qstash_token=T", wire.Pin{Rate: 1}, ""},
		{"", wire.Pin{}, "nothing to pin: give parallelism or rate"},
		{"period=5", wire.Pin{}, "invalid query parameter: period: it needs rate too"},
		{"parallelism=0", wire.Pin{}, `invalid query parameter: parallelism: "0" is not 1 or more`},
		{"rate=x", wire.Pin{}, `invalid query parameter: rate: "x" is not a whole number of 0 or more`},
		{"rate=1&period=0", wire.Pin{}, `invalid query parameter: period: "0" is not 1 or more`},
		{"rate=1&period=604801", wire.Pin{}, `invalid query parameter: period: "604801" is more than 7d`},
	} {
		got, err := wire.ParsePin(tt.query)
		checkError(t, err, tt.err)
		if got != tt.want {
			t.Errorf("%q: got %+v, want %+v", tt.query, got, tt.want)
		}
	}
}

func TestParseUnpin(t *testing.T) {
	for _, tt := range []struct {
		query string
		want  wire.Unpin
		err   string
	}{
		{"parallelism=true&rate=true", wire.Unpin{Parallelism: true, Rate: true}, ""},
		{"parallelism=True", wire.Unpin{Parallelism: true}, ""},
		{"rate=false", wire.Unpin{}, ""},
		{"", wire.Unpin{}, ""},
		{"rate=maybe", wire.Unpin{}, `invalid query parameter: rate: "maybe" is neither true nor false`},
	} {
		got, err := wire.ParseUnpin(tt.query)
		checkError(t, err, tt.err)
		if got != tt.want {
			t.Errorf("%q: got %+v, want %+v", tt.query, got, tt.want)
		}
	}
}

func TestParseFlowSearch(t *testing.T) {
	for query, want := range map[string]string{"": "", "search=a+b%2Cc&x=y": "a b,c", "search=": ""} {
		got, err := wire.ParseFlowSearch(query)
		if err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", query, got, err, want)
		}
	}
}

func TestCursor(t *testing.T) {
	for _, c := range []wire.Cursor{{Millis: 1686652644442, Rest: "12"}, {Millis: 0, Rest: "msg_a.b-c"}, {Millis: 7}} {
		got, err := wire.ParseCursor(c.String())
		if err != nil || got != c {
			t.Errorf("%v: got %v, %v", c, got, err)
		}
	}
	for _, bad := range []string{"", "-", "-1", "1.5", "1e3", "1-a b", "1-\x00", "1-é", strings.Repeat("9", 30)} {
		if c, err := wire.ParseCursor(bad); err == nil {
			t.Errorf("%q: got %v, want an error", bad, c)
		}
	}
}
