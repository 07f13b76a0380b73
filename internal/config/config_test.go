package config_test

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"

	"github.com/posthaste/posthaste/internal/config"
)

type shared struct {
	Level slog.Level `config:"level" desc:"lowest level logged"`
}

type limits struct {
	MaxBody config.Bytes `config:"max-body" desc:"largest body"`
	Retries int          `config:"retries" desc:"retries | tries"`
	Ratio   float64      `config:"ratio" desc:"a ratio"`
}

type example struct {
	shared
	Listen    string         `config:"listen" desc:"the \x60address\x60 to listen on"`
	AllowHTTP bool           `config:"allow-http" desc:"allow http:// destinations"`
	Grace     time.Duration  `config:"grace" desc:"time for attempts to finish"`
	Hosts     []string       `config:"hosts" desc:"host names"`
	Denied    []netip.Prefix `config:"denied" desc:"networks"`
	Since     time.Time      `config:"since" desc:"a moment"`
	Small     int8           `config:"small" desc:"a small number"`
	Count     uint16         `config:"count" desc:"a count"`
	Max       int64          `config:"max" desc:"a large number"`
	Limits    limits         `config:"limits"`

	Logger *slog.Logger
	Off    string `config:"-"`
}

func defaults() example {
	return example{
		Listen: ":8080",
		Grace:  30 * time.Second,
		Hosts:  []string{"a.example", "b.example"},
		Limits: limits{MaxBody: 512 * config.KiB, Retries: 3},
	}
}

// load runs Load over the three sources, each given as the text its user would write.
func load(t *testing.T, yaml string, environ, args []string) (example, error) {
	t.Helper()
	got := defaults()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	config.Bind(fs, &got)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	path := ""
	if yaml != "" {
		t.Chdir(t.TempDir())
		path = "posthaste.yaml"
		if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := config.Load(&got, fs, path, environ)
	return got, err
}

func TestLoad(t *testing.T) {
	with := func(change func(*example)) example {
		e := defaults()
		change(&e)
		return e
	}
	tests := []struct {
		name string
		yaml string
		env  []string
		args []string
		want example
	}{
		{name: "defaults", want: defaults()},
		{
			name: "file over default",
			yaml: "listen: ':1'",
			want: with(func(e *example) { e.Listen = ":1" }),
		},
		{
			name: "environment over file",
			yaml: "listen: ':1'",
			env:  []string{"POSTHASTE_LISTEN=:2"},
			want: with(func(e *example) { e.Listen = ":2" }),
		},
		{
			name: "flag over environment and file",
			yaml: "listen: ':1'",
			env:  []string{"POSTHASTE_LISTEN=:2"},
			args: []string{"--listen=:3"},
			want: with(func(e *example) { e.Listen = ":3" }),
		},
		{
			name: "a flag equal to the default still wins",
			env:  []string{"POSTHASTE_LISTEN=:2"},
			args: []string{"--listen=:8080"},
			want: defaults(),
		},
		{
			name: "each setting from another source",
			yaml: "grace: 5m\nlimits:\n  retries: 5\n  max-body: 1MB\n",
			env:  []string{"POSTHASTE_LIMITS_RETRIES=7"},
			args: []string{"--allow-http"},
			want: with(func(e *example) {
				e.AllowHTTP = true
				e.Grace = 5 * time.Minute
				e.Limits = limits{MaxBody: 1e6, Retries: 7}
			}),
		},
		{
			name: "false over true",
			yaml: "allow-http: true",
			args: []string{"--allow-http=false"},
			want: defaults(),
		},
		{
			name: "every type from the file",
			yaml: `
level: debug
listen: "8080"
allow-http: true
grace: 1d12h
hosts: [x, "y,z"]
denied: [10.0.0.0/8, "::/0"]
since: 2026-01-02T03:04:05Z
small: -128
count: 65535
max: 9223372036854775807
limits: {max-body: 1048576, retries: 0, ratio: 1e3}
`,
			want: example{
				shared: shared{Level: slog.LevelDebug}, Listen: "8080", AllowHTTP: true, Grace: 36 * time.Hour,
				Hosts:  []string{"x", "y,z"},
				Denied: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::/0")},
				Since:  time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
				Small:  -128, Count: 65535, Max: 1<<63 - 1,
				Limits: limits{MaxBody: config.MiB, Ratio: 1000},
			},
		},
		{
			name: "every type from the environment",
			env: []string{
				"POSTHASTE_LEVEL=warn", "POSTHASTE_ALLOW_HTTP=1", "POSTHASTE_GRACE=0", "POSTHASTE_HOSTS=x, y,,",
				"POSTHASTE_DENIED=10.0.0.0/8", "POSTHASTE_SINCE=2026-01-02T03:04:05+01:00", "POSTHASTE_SMALL=127",
				"POSTHASTE_COUNT=0", "POSTHASTE_MAX=-1", "POSTHASTE_LIMITS_MAX_BODY=10mb", "POSTHASTE_LIMITS_RATIO=0.5",
			},
			want: example{
				shared: shared{Level: slog.LevelWarn}, Listen: ":8080", AllowHTTP: true, Hosts: []string{"x", "y"},
				Denied: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
				Since:  time.Date(2026, 1, 2, 2, 4, 5, 0, time.UTC),
				Small:  127, Max: -1,
				Limits: limits{MaxBody: 10e6, Retries: 3, Ratio: 0.5},
			},
		},
		{
			name: "repeated flags: a list gathers, a value is the last",
			args: []string{"--hosts=x,y", "--hosts", "z", "--small=1", "--small=2"},
			want: with(func(e *example) { e.Hosts, e.Small = []string{"x", "y", "z"}, 2 }),
		},
		{
			name: "lists of different sources are not joined",
			yaml: "hosts: x",
			env:  []string{"POSTHASTE_HOSTS=y"},
			args: []string{"--hosts=z"},
			want: with(func(e *example) { e.Hosts = []string{"z"} }),
		},
		{
			name: "an empty flag clears",
			args: []string{"--hosts=", "--listen="},
			want: with(func(e *example) { e.Hosts, e.Listen = nil, "" }),
		},
		{
			name: "unset is not empty",
			yaml: "listen:\nlimits:\n",
			env:  []string{"POSTHASTE_LISTEN=", "POSTHASTE_ALLOW_HTTP="},
			want: defaults(),
		},
		{
			name: "an empty file and other variables",
			yaml: "# nothing\n",
			env:  []string{"POSTHASTE_TOKEN=abc", "LISTEN=:9", "ODD"},
			want: defaults(),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := load(t, tt.yaml, tt.env, tt.args)
			if err != nil {
				t.Fatal(err)
			}
			opts := cmp.Options{cmp.AllowUnexported(example{}), cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Prefix{})}
			if diff := cmp.Diff(tt.want, got, opts); diff != "" {
				t.Errorf("settings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFaults(t *testing.T) {
	tests := []struct {
		name string
		yaml string
		env  []string
		args []string
		want []string
	}{
		{
			name: "every fault of every source",
			yaml: "grace: 30\nlimits: {max-body: 1XB, retries: many}\n",
			env:  []string{"POSTHASTE_ALLOW_HTTP=yes", "POSTHASTE_GRACE=soon"},
			args: []string{"--limits-retries=x", "--listen=:1"},
			want: []string{
				`posthaste.yaml: grace: must be a duration such as 500ms, 30s, 5m or 7d, got "30"`,
				`posthaste.yaml: limits.max-body: must be a size such as 65536, 512KiB or 10MB, got "1XB"`,
				`posthaste.yaml: limits.retries: must be a whole number, got "many"`,
				`POSTHASTE_ALLOW_HTTP: must be true or false, got "yes"`,
				`POSTHASTE_GRACE: must be a duration such as 500ms, 30s, 5m or 7d, got "soon"`,
				`--limits-retries: must be a whole number, got "x"`,
			},
		},
		{
			name: "unknown keys name the nearest",
			yaml: "lissen: ':1'\nallow_http: true\nretries: 2\nlimit:\n  max-body: 1\n",
			want: []string{
				`posthaste.yaml: allow_http: unknown key; the nearest known key is "allow-http"`,
				`posthaste.yaml: limit.max-body: unknown key; the nearest known key is "limits.max-body"`,
				`posthaste.yaml: lissen: unknown key; the nearest known key is "listen"`,
				`posthaste.yaml: retries: unknown key; the nearest known key is "limits.retries"`,
			},
		},
		{
			name: "a value for a section and a section for a value",
			yaml: "limits: 3\nlisten: {port: 1}\ngrace: [1s]\nhosts: [[a]]\n",
			want: []string{
				`posthaste.yaml: grace: must be a single value (duration), got a list`,
				`posthaste.yaml: hosts: item 1: must be a single value (string), got a list`,
				`posthaste.yaml: limits: must be a section, with keys such as "max-body"`,
				`posthaste.yaml: listen.port: unknown key: "listen" is a single value, not a section`,
			},
		},
		{
			name: "a number for a string may have lost its zeros",
			yaml: "listen: 007",
			want: []string{`posthaste.yaml: listen: must be a string: write it in quotes, got 7`},
		},
		{
			name: "ranges",
			args: []string{"--small=128", "--count=-1", "--max=9223372036854775808", "--limits-ratio=x"},
			want: []string{
				`--small: must be a whole number from -128 to 127, got "128"`,
				`--count: must be a whole number from 0 to 65535, got "-1"`,
				`--max: must be a whole number from -9223372036854775808 to 9223372036854775807, got "9223372036854775808"`,
				`--limits-ratio: must be a number, got "x"`,
			},
		},
		{
			name: "the items of a list",
			env:  []string{"POSTHASTE_DENIED=10.0.0.0/8,10.0.0.1,x/8", "POSTHASTE_SINCE=today", "POSTHASTE_LEVEL=loud"},
			want: []string{
				`POSTHASTE_LEVEL: slog: level string "loud": unknown name`,
				`POSTHASTE_DENIED: item 2: netip.ParsePrefix("10.0.0.1"): no '/'; ` +
					`item 3: netip.ParsePrefix("x/8"): ParseAddr("x"): unable to parse IP`,
				`POSTHASTE_SINCE: must be a moment such as 2006-01-02T15:04:05Z, got "today"`,
			},
		},
		{
			name: "not YAML",
			yaml: "listen: ':1'\nlisten: ':2'\n",
			want: []string{
				"posthaste.yaml: yaml: unmarshal errors:",
				`  line 2: mapping key "listen" already defined at line 1`,
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, tt.yaml, tt.env, tt.args)
			if err == nil {
				t.Fatal("got no error")
			}
			if diff := cmp.Diff(tt.want, strings.Split(err.Error(), "\n")); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFaultyValueChangesNothing(t *testing.T) {
	got, err := load(t, "hosts: [x]", []string{"POSTHASTE_DENIED=10.0.0.0/8"}, []string{"--denied=x", "--grace=x", "--small=x"})
	if err == nil {
		t.Fatal("got no error")
	}
	if got.Grace != 30*time.Second || len(got.Denied) != 1 || got.Hosts[0] != "x" {
		t.Errorf("got %+v, want the values of the source before", got)
	}
}

func TestMissingFile(t *testing.T) {
	var e example
	err := config.Load(&e, nil, filepath.Join(t.TempDir(), "none.yaml"), nil)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want a missing file", err)
	}
}

func TestPeek(t *testing.T) {
	path := filepath.Join(t.TempDir(), "posthaste.yaml")
	if err := os.WriteFile(path, []byte("preset: hosted\nlisten: ':1'\nlimits: {x: 1}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var first struct {
		Preset string `config:"preset"`
	}
	if err := config.Peek(&first, nil, path, nil); err != nil {
		t.Fatal(err)
	}
	if first.Preset != "hosted" {
		t.Errorf("got preset %q, want hosted", first.Preset)
	}
}

func TestHelp(t *testing.T) {
	e := defaults()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	config.Bind(fs, &e)
	help := fs.FlagUsages()
	for _, want := range []string{
		"--listen address", `(default ":8080")`, "--allow-http ", "--grace duration", "(default 30s)",
		"--hosts list", "(default a.example,b.example)", "--limits-max-body size", "(default 512KiB)",
	} {
		if !strings.Contains(help, want) {
			t.Errorf("help lacks %q:\n%s", want, help)
		}
	}
}

func TestDescribe(t *testing.T) {
	e := struct {
		Mode   string         `config:"mode" desc:"one of \x60a|b\x60"`
		Grace  time.Duration  `config:"grace" desc:"time to finish"`
		Times  []time.Time    `config:"times" desc:"moments"`
		Level  slog.Level     `config:"level"`
		Limits limits         `config:"limits"`
		Nets   []netip.Prefix `config:"nets"`
	}{Mode: "a", Grace: 48 * time.Hour, Limits: limits{MaxBody: 10e6}, Nets: []netip.Prefix{netip.MustParsePrefix("::/0")}}
	want := []config.Setting{
		{"mode", "--mode", "POSTHASTE_MODE", "mode", "a|b", "a", "one of a|b"},
		{"grace", "--grace", "POSTHASTE_GRACE", "grace", "duration", "2d", "time to finish"},
		{"times", "--times", "POSTHASTE_TIMES", "times", "list", "", "moments"},
		{"level", "--level", "POSTHASTE_LEVEL", "level", "level", "INFO", ""},
		{"limits-max-body", "--limits-max-body", "POSTHASTE_LIMITS_MAX_BODY", "limits.max-body", "size", "10MB", "largest body"},
		{"limits-retries", "--limits-retries", "POSTHASTE_LIMITS_RETRIES", "limits.retries", "int", "0", "retries | tries"},
		{"limits-ratio", "--limits-ratio", "POSTHASTE_LIMITS_RATIO", "limits.ratio", "float", "0", "a ratio"},
		{"nets", "--nets", "POSTHASTE_NETS", "nets", "list", "::/0", ""},
	}
	got := config.Describe(&e)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}

	const table = "" +
		"| Flag | Environment | File | Type | Default | Meaning |\n" +
		"|---|---|---|---|---|---|\n" +
		"| `--mode` | `POSTHASTE_MODE` | `mode` | a\\|b | `a` | one of a\\|b |\n" +
		"| `--times` | `POSTHASTE_TIMES` | `times` | list |  | moments |\n"
	if diff := cmp.Diff(table, config.Markdown([]config.Setting{got[0], got[2]})); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

// TestDescribedDefaultsLoad: what the documentation calls the default is text that the environment may give.
func TestDescribedDefaultsLoad(t *testing.T) {
	want := defaults()
	want.Since = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var environ []string
	for _, s := range config.Describe(&want) {
		environ = append(environ, s.Env+"="+s.Default)
	}
	var got example
	if err := config.Load(&got, nil, "", environ); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(example{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
}

func TestBadStructs(t *testing.T) {
	for name, v := range map[string]any{
		"not a pointer": struct{}{},
		"nil":           (*example)(nil),
		"not a struct":  new(string),
		"type": &struct {
			M map[string]string `config:"m"`
		}{},
		"list of lists": &struct {
			L [][]string `config:"l"`
		}{},
		"key": &struct {
			A string `config:"AllowHTTP"`
		}{},
		"empty key": &struct {
			A string `config:""`
		}{},
		"two of a name": &struct {
			A string `config:"a-b"`
			B struct {
				C string `config:"b"`
			} `config:"a"`
		}{},
		"not exported": &struct {
			a string `config:"a"`
		}{},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("got no panic")
				}
			}()
			config.Describe(v)
		})
	}
}
