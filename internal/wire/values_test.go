package wire_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/wire"
)

const day = 24 * time.Hour

// errorText returns the text of err, "" for none.
func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// checkError compares err with the text it must have; a text that ends in … need only begin so.
func checkError(t *testing.T, err error, want string) {
	t.Helper()
	got := errorText(err)
	if begin, ok := strings.CutSuffix(want, "…"); ok {
		if !strings.HasPrefix(got, begin) {
			t.Errorf("error: got %q, want it to begin with %q", got, begin)
		}
		return
	}
	if got != want {
		t.Errorf("error: got %q, want %q", got, want)
	}
}

func TestParseDuration(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want time.Duration
		err  string
	}{
		{"50s", 50 * time.Second, ""},
		{"1d10h30m", 124200 * time.Second, ""},
		{"1h30m3s", 5403 * time.Second, ""},
		{"100s", 100 * time.Second, ""},
		{"0", 0, ""},
		{"0s", 0, ""},
		{"+5s", 5 * time.Second, ""},
		{"1.5h", 90 * time.Minute, ""},
		{"1.5d", 36 * time.Hour, ""},
		{".5s", 500 * time.Millisecond, ""},
		{"5.s", 5 * time.Second, ""},
		{"3ms2us1ns", 3*time.Millisecond + 2*time.Microsecond + 1, ""},
		{"1µs1μs", 2 * time.Microsecond, ""},
		{"106751d", 106751 * day, ""},
		{"", 0, `time: invalid duration ""`},
		{"+", 0, `time: invalid duration "+"`},
		{"1", 0, `time: missing unit in duration "1"`},
		{"10", 0, `time: missing unit in duration "10"`},
		{"1s5", 0, `time: missing unit in duration "1s5"`},
		{"abc", 0, `time: invalid duration "abc"`},
		{".s", 0, `time: invalid duration ".s"`},
		{"5 s", 0, `time: unknown unit " s" in duration "5 s"`},
		{"5w", 0, `time: unknown unit "w" in duration "5w"`},
		{"5S", 0, `time: unknown unit "S" in duration "5S"`},
		{"-5s", 0, `negative duration "-5s"`},
		{"-0s", 0, `negative duration "-0s"`},
		{"106752d", 0, `time: invalid duration "106752d"`},
		{"106751d24h", 0, `time: invalid duration "106751d24h"`},
		{"99999999999999999999s", 0, `time: invalid duration "99999999999999999999s"`},
	} {
		t.Run(tt.in, func(t *testing.T) {
			got, err := wire.ParseDuration(tt.in)
			checkError(t, err, tt.err)
			if got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestParseBool(t *testing.T) {
	for in, want := range map[string]string{
		"true": "true", "True": "true", "TRUE": "true", "1": "true",
		"false": "false", "False": "false", "0": "false",
		"": `"" is neither true nor false`, "yes": `"yes" is neither true nor false`, "2": `"2" is neither true nor false`,
	} {
		got, err := wire.ParseBool(in)
		text := errorText(err)
		if err == nil {
			text = map[bool]string{true: "true", false: "false"}[got]
		}
		if text != want {
			t.Errorf("ParseBool(%q): got %s, want %s", in, text, want)
		}
	}
}

func TestParseInt(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want int
		err  string
	}{
		{"0", 0, ""},
		{"007", 7, ""},
		{"2147483647", 2147483647, ""},
		{"2147483648", 0, `"2147483648" is too large`},
		{"99999999999999999999", 0, `"99999999999999999999" is too large`},
		{"-1", 0, `"-1" is not a whole number of 0 or more`},
		{"+1", 0, `"+1" is not a whole number of 0 or more`},
		{"3.5", 0, `"3.5" is not a whole number of 0 or more`},
		{"abc", 0, `"abc" is not a whole number of 0 or more`},
		{"1_000", 0, `"1_000" is not a whole number of 0 or more`},
		{"", 0, `"" is not a whole number of 0 or more`},
	} {
		got, err := wire.ParseInt(tt.in)
		checkError(t, err, tt.err)
		if err == nil && got != tt.want {
			t.Errorf("ParseInt(%q): got %d, want %d", tt.in, got, tt.want)
		}
	}
}

func TestParseUnixSeconds(t *testing.T) {
	got, err := wire.ParseUnixSeconds("1700000000")
	if err != nil || got.UnixMilli() != 1700000000000 {
		t.Errorf("got %v, %v, want 1700000000000 ms", got, err)
	}
	for in, want := range map[string]string{
		"1700000000000": `"1700000000000" is not a time in unix seconds`, // milliseconds
		"1e21":          `"1e21" is not a whole number of 0 or more`,
		"-1":            `"-1" is not a whole number of 0 or more`,
		"":              `"" is not a whole number of 0 or more`,
	} {
		_, err := wire.ParseUnixSeconds(in)
		checkError(t, err, want)
	}
}

func TestParseLabels(t *testing.T) {
	for _, tt := range []struct {
		in   []string
		want []string
		err  string
	}{
		{[]string{"a, b,,c"}, []string{"a", "b", "c"}, ""},
		{[]string{"a"}, []string{"a"}, ""},
		{[]string{"a b", "c"}, []string{"a b", "c"}, ""},
		{[]string{""}, nil, ""},
		{[]string{" , ,"}, nil, ""},
		{[]string{"größe"}, []string{"größe"}, ""},
		{[]string{"a\x00"}, nil, "label contains a control character"},
		{[]string{"a\u0085"}, nil, "label contains a control character"},
		{[]string{"a\xff"}, nil, "label is not valid UTF-8"},
		{[]string{strings.Repeat("a", wire.MaxTextSize+1)}, nil, "label is longer than 1024 bytes"},
		{[]string{strings.Repeat("a,", wire.MaxLabels+1)}, nil, "more than 100 labels"},
	} {
		got, err := wire.ParseLabels(tt.in...)
		checkError(t, err, tt.err)
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("ParseLabels(%.50q): %s", tt.in, d)
		}
	}
}

func TestParseFlow(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want posthaste.FlowControl
		err  string
	}{
		{"parallelism=3, rate=5, period=1m", posthaste.FlowControl{Parallelism: 3, Rate: 5, Period: time.Minute}, ""},
		{"rate=1", posthaste.FlowControl{Rate: 1, Period: time.Second}, ""},
		{"parallelism=5", posthaste.FlowControl{Parallelism: 5, Period: time.Second}, ""},
		{"Rate=10,Parallelism=2", posthaste.FlowControl{Rate: 10, Parallelism: 2, Period: time.Second}, ""},
		{" period = 90 , rate = 1 ", posthaste.FlowControl{Rate: 1, Period: 90 * time.Second}, ""},
		{"rate=1,period=7d", posthaste.FlowControl{Rate: 1, Period: 7 * day}, ""},
		{"rate=1,period=1.5m", posthaste.FlowControl{Rate: 1, Period: 90 * time.Second}, ""},
		{"period=8d,rate=1", posthaste.FlowControl{}, `period: "8d" is more than 7d`},
		{"period=604801,rate=1", posthaste.FlowControl{}, `period: "604801" is more than 7d`},
		{"period=0,rate=1", posthaste.FlowControl{}, `period: "0" is not 1 or more`},
		{"period=500ms,rate=1", posthaste.FlowControl{}, `period: "500ms" is not a number of whole seconds from 1`},
		{"period=1500ms,rate=1", posthaste.FlowControl{}, `period: "1500ms" is not a number of whole seconds from 1`},
		{"period=,rate=1", posthaste.FlowControl{}, `period: time: invalid duration ""`},
		{"period=99999999999,rate=1", posthaste.FlowControl{}, `period: "99999999999" is too large`},
		{"rate=0", posthaste.FlowControl{}, `rate: "0" is not 1 or more`},
		{"rate=-1", posthaste.FlowControl{}, `rate: "-1" is not a whole number of 0 or more`},
		{"parallelism=0", posthaste.FlowControl{}, `parallelism: "0" is not 1 or more`},
		{"foo=1", posthaste.FlowControl{}, `"foo" is none of parallelism, rate, period`},
		{"period=1m", posthaste.FlowControl{}, "needs parallelism or rate"},
		{"rate", posthaste.FlowControl{}, `"rate" is not of the form name=value`},
		{"rate=1,", posthaste.FlowControl{}, `"" is not of the form name=value`},
		{"rate=1,rate=2", posthaste.FlowControl{}, "rate is given twice"},
		{"", posthaste.FlowControl{}, `"" is not of the form name=value`},
	} {
		t.Run(tt.in, func(t *testing.T) {
			got, err := wire.ParseFlow(tt.in)
			checkError(t, err, tt.err)
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestFormatFlow(t *testing.T) {
	for want, flow := range map[string]posthaste.FlowControl{
		"parallelism=3, rate=5, period=60s": {Parallelism: 3, Rate: 5, Period: time.Minute},
		"rate=1, period=1s":                 {Rate: 1, Period: time.Second},
		"parallelism=5":                     {Parallelism: 5, Period: time.Second},
	} {
		if got := wire.FormatFlow(flow); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestParseRedact(t *testing.T) {
	for _, tt := range []struct {
		in   []string
		want posthaste.Redaction
		err  string
	}{
		{[]string{"body,header[Authorization], headers[x-k]"}, posthaste.Redaction{Body: true, Names: []string{"Authorization", "X-K"}}, ""},
		{[]string{"header"}, posthaste.Redaction{Headers: true}, ""},
		{[]string{"Headers", " BODY "}, posthaste.Redaction{Headers: true, Body: true}, ""},
		{[]string{"header [ x-k ]"}, posthaste.Redaction{Names: []string{"X-K"}}, ""},
		{[]string{""}, posthaste.Redaction{}, "must not be empty"},
		{[]string{"bodies"}, posthaste.Redaction{}, `"bodies" is none of body, header, header[Name]`},
		{[]string{"body[x]"}, posthaste.Redaction{}, `"body[x]" is none of body, header, header[Name]`},
		{[]string{"header[x"}, posthaste.Redaction{}, `"header[x" is none of body, header, header[Name]`},
		{[]string{"header[]"}, posthaste.Redaction{}, `"header[]" names no header`},
		{[]string{"header[a b]"}, posthaste.Redaction{}, `"header[a b]" names no header`},
		{[]string{strings.Repeat("header[a],", 101)}, posthaste.Redaction{}, "more than 100 headers"},
	} {
		got, err := wire.ParseRedact(tt.in...)
		checkError(t, err, tt.err)
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("ParseRedact(%.50q): %s", tt.in, d)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, ok := range []string{"a", "my-group.v2", "A_b.C-9", strings.Repeat("a", wire.MaxTextSize)} {
		if err := wire.CheckName(ok); err != nil {
			t.Errorf("CheckName(%.20q): %v", ok, err)
		}
	}
	for _, bad := range []string{"", "a b", "a/b", "a:b", "é", "a\x00", strings.Repeat("a", wire.MaxTextSize+1)} {
		if wire.CheckName(bad) == nil {
			t.Errorf("CheckName(%.20q): no error", bad)
		}
	}
}
