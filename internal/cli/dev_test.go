package cli_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/posthaste/posthaste/internal/cli"
)

// output gathers what a program writes, and lets a test wait for it.
type output struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	more chan struct{}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.more <- struct{}{}:
	default:
	}
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// wait waits until the output contains text, and returns it.
func (o *output) wait(t *testing.T, text string) string {
	t.Helper()
	late := time.After(30 * time.Second)
	for !strings.Contains(o.String(), text) {
		select {
		case <-o.more:
		case <-late:
			t.Fatalf("got %q, want something with %q", o.String(), text)
		}
	}
	return o.String()
}

// run runs a command that ends by itself.
func run(t *testing.T, environ []string, args ...string) (status int, out, errOut string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var o, e bytes.Buffer
	status = cli.Run(ctx, args, environ, &o, &e)
	if ctx.Err() != nil {
		t.Fatalf("posthaste %v did not end by itself", args)
	}
	return status, o.String(), e.String()
}

// dev starts a development server and returns the variables of its banner.
func dev(t *testing.T, args ...string) (vars []string, banner string, log *output) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, log := &output{more: make(chan struct{}, 1)}, &output{more: make(chan struct{}, 1)}
	done := make(chan int, 1)
	go func() { done <- cli.Run(ctx, append([]string{"dev", "--port=0"}, args...), nil, out, log) }()
	t.Cleanup(func() {
		cancel()
		if status := <-done; status != 0 {
			t.Errorf("dev ended with status %d: %s", status, log)
		}
	})
	banner = out.wait(t, "inbox/hello\n\n")
	for line := range strings.Lines(banner) {
		if strings.HasPrefix(line, "QSTASH_") {
			vars = append(vars, strings.TrimSpace(line))
		}
	}
	return vars, banner, log
}

func env(vars []string, name string) string {
	for _, kv := range vars {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}

// What dev shows is all that a newcomer needs: four variables, addresses, and a message to try, whose delivery the terminal shows.
func TestBanner(t *testing.T) {
	vars, banner, log := dev(t)
	if len(vars) != 4 {
		t.Fatalf("got variables %v, want four", vars)
	}
	url, token := env(vars, "QSTASH_URL"), env(vars, "QSTASH_TOKEN")
	if !strings.HasPrefix(banner, "Posthaste is running at "+url+"\n") {
		t.Errorf("got a first line of %.60q, want the one that clients wait for", banner)
	}
	for line := range strings.Lines(banner) {
		if len(line) > 80+1 && !strings.HasPrefix(line, "QSTASH_TOKEN=") {
			t.Errorf("got a line of %d characters, want 80 at most: %s", len(line)-1, line)
		}
	}
	if lines := strings.Count(banner, "\n"); lines > 16 {
		t.Errorf("got %d lines, want a banner that fits a terminal", lines)
	}
	// The curl of the banner, as a shell would read it.
	_, command, _ := strings.Cut(banner, "curl ")
	command = strings.NewReplacer("$QSTASH_URL", url, "$QSTASH_TOKEN", token, "\\\n", "").Replace(command)
	fields := strings.FieldsFunc(command, func(r rune) bool { return r == '\'' || r == '"' || r == '\n' })
	// -d '{"hello":"world"}' -H "Authorization: Bearer …" URL
	body := command[strings.Index(command, "'")+1 : strings.LastIndex(command, "'")]
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, strings.TrimSpace(fields[len(fields)-1]), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if !strings.Contains(command, `-H "Authorization: Bearer `+token+`"`) {
		t.Errorf("got %q, want the token in a header", command)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(resp.Body)
	resp.Body.Close() //nolint:errcheck // it is read
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("the banner's curl: got status %d: %s", resp.StatusCode, answer)
	}
	log.wait(t, `caught a request" inbox=hello method=POST attempt=1 body="{\"hello\":\"world\"}"`)
}

func TestDevAdvance(t *testing.T) {
	vars, _, _ := dev(t)
	for _, tt := range []struct {
		arg    string
		status int
		want   string
	}{
		{"6h", 0, "; nothing is due later.\n"},
		{"2099-12-24T09:00:00Z", 0, "The clock shows 2099-12-24T09:00:00Z; nothing is due later.\n"},
		{"next", 0, "The clock shows 2099-12-24T09:00:00Z; nothing is due later.\n"},
		{"2099-01-01T00:00:00Z", 1, "posthaste: the clock shows 2099-12-24T09:00:00Z already and does not go back\n"},
		{"soon", 1, "posthaste: invalid advance: time: invalid duration \"soon\"\n"},
		{"1000d", 0, "The clock shows 2102-09-20T09:00:00Z; nothing is due later.\n"},
		{"100000d", 1, "posthaste: the clock goes no farther than 2200-01-01T00:00:00Z\n"},
	} {
		status, out, errOut := run(t, vars, "dev", "advance", tt.arg)
		if got := out + errOut; status != tt.status || !strings.HasSuffix(clearSeconds(got), clearSeconds(tt.want)) {
			t.Errorf("advance %s: got status %d, %q, want %d, %q", tt.arg, status, got, tt.status, tt.want)
		}
	}
	status, _, errOut := run(t, []string{"QSTASH_URL=http://127.0.0.1:1"}, "dev", "advance", "1h")
	if status != 1 || !strings.Contains(errOut, "Is posthaste dev running?") {
		t.Errorf("without a server: got status %d, %q", status, errOut)
	}
}

// clearSeconds makes moments equal that differ by what a slow test takes.
func clearSeconds(s string) string {
	for i := 0; i+3 < len(s); i++ {
		if s[i] == ':' && i+3 < len(s) && s[i+3] == 'Z' {
			s = s[:i+1] + "00" + s[i+3:]
		}
	}
	return s
}

// Errors at start say what to do.
func TestStartErrors(t *testing.T) {
	dir := t.TempDir()
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not block
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() //nolint:errcheck // it is the end
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}

	held := filepath.Join(dir, "held.db")
	dev(t, "--data="+held)

	newer := filepath.Join(dir, "newer.db")
	conn, err := sqlite.OpenConn(newer)
	if err != nil {
		t.Fatal(err)
	}
	if err := sqlitex.ExecuteTransient(conn, "PRAGMA user_version = 9999", nil); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}

	other := filepath.Join(dir, "other.db")
	if err := os.WriteFile(other, []byte(strings.Repeat("no database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}

	for _, tt := range []struct {
		args []string
		want []string
	}{
		{[]string{"dev", "--port", port}, []string{"port " + port + " is taken", "choose another port, such as --port ", "address already in use :" + port}},
		{
			[]string{"serve", "--data", filepath.Join(dir, "new.db"), "--listen", "127.0.0.1:" + port},
			[]string{"port " + port + " is taken", "--listen :8081"},
		},
		{[]string{"dev", "--port", "70000"}, []string{"70000 is no port"}},
		{[]string{"dev", "--port", "0", "--data", held}, []string{"another server uses the data file " + held, "stop it", "--data"}},
		{[]string{"dev", "--port", "0", "--data", newer}, []string{"schema 9999", "use the newer program", "--data"}},
		{[]string{"dev", "--port", "0", "--data", other}, []string{"something else", "--data"}},
		{[]string{"dev", "--port", "0", "--data", filepath.Join(dir, "no", "such", "folder.db")}, []string{"its folder must exist"}},
		{[]string{"dev", "--quota", "gold"}, []string{`quota: "gold" is none of`}},
		{[]string{"serve", "--data", held}, []string{"token of the development server"}},
	} {
		status, out, errOut := run(t, nil, tt.args...)
		if status != 1 || out != "" && tt.args[0] == "dev" {
			t.Errorf("%v: got status %d and output %q, want 1 and none", tt.args, status, out)
		}
		for _, want := range tt.want {
			if !strings.Contains(errOut, want) {
				t.Errorf("%v: got %q, want something with %q", tt.args, errOut, want)
			}
		}
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		status, out, errOut := run(t, nil, "completion", shell)
		if status != 0 || !strings.Contains(out, "posthaste") {
			t.Errorf("%s: got status %d and %d bytes, want a script: %s", shell, status, len(out), errOut)
		}
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"d"}, "dev\t"},
		{[]string{"dev", "--quota", ""}, "payg\npro\nfree\n"},
		{[]string{"serve", "--preset", ""}, "standard\nhosted\n"},
		{[]string{"dev", ""}, "advance\t"},
	} {
		_, out, _ := run(t, nil, append([]string{"__complete"}, tt.args...)...)
		if !strings.HasPrefix(out, tt.want) {
			t.Errorf("%v: got %q, want it to begin with %q", tt.args, out, tt.want)
		}
	}
}
