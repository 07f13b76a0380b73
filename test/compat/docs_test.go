//go:build compat

package compat

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// block is a fenced block of a page. What it is for shows in its language and in the line before it: a file to save, commands
// to run, or what those print.
type block struct {
	lang, text string
	file       string // to save it as
}

var savedAs = regexp.MustCompile("[Ss]ave this as `([^`]+)`[^`]*:$")

// blocks reads the fenced blocks of a page.
func blocks(t *testing.T, page string) []block {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", page))
	if err != nil {
		t.Fatal(err)
	}
	var list []block
	var open *block
	before := ""
	for line := range strings.Lines(string(data)) {
		switch {
		case open != nil && strings.TrimSpace(line) == "```":
			list, open = append(list, *open), nil
		case open != nil:
			open.text += line
		case strings.HasPrefix(line, "```"):
			open = &block{lang: strings.TrimSpace(line[3:])}
			if m := savedAs.FindStringSubmatch(before); m != nil {
				open.file = m[1]
			}
		}
		if open == nil && strings.TrimSpace(line) != "" {
			before = strings.TrimSpace(line)
		}
	}
	return list
}

// setUp are commands that the tests have done in their own way: starting the server, and getting packages.
var setUp = regexp.MustCompile(`(?m)^(go run ./cmd/posthaste dev|npm install|pip install|go get) ?.*\n`)

// command makes a bash that ends with all it started.
func command(t *testing.T, dir, script string, env []string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir, cmd.Env = dir, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// follow does what a page says, in a folder, and compares what is printed.
func follow(t *testing.T, page, dir string, env []string) {
	t.Helper()
	list := blocks(t, page)
	var out []byte
	ran := 0
	for i, b := range list {
		switch {
		case b.file != "":
			if err := os.WriteFile(filepath.Join(dir, b.file), []byte(b.text), 0o600); err != nil {
				t.Fatal(err)
			}
		case b.lang == "sh":
			script := setUp.ReplaceAllString(b.text, "")
			if strings.TrimSpace(script) == "" {
				continue
			}
			var err error
			if out, err = command(t, dir, script, env).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v of\n%s\n%s", page, err, script, out)
			}
			ran++
		case b.lang == "text" && i > 0 && list[i-1].lang == "sh":
			pattern := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(b.text)), "…", "(?s:.*)")
			if !regexp.MustCompile("^" + pattern + "$").Match(bytes.TrimSpace(out)) {
				t.Errorf("%s: got\n%s\nwant\n%s\nof\n%s", page, out, b.text, list[i-1].text)
			}
		default:
			t.Errorf("%s: nothing is known to do with this block of %q: %s", page, b.lang, b.text)
		}
	}
	if ran < 2 {
		t.Errorf("%s: %d blocks of commands ran, want 2 at least", page, ran)
	}
}

// TestQuickStarts follows the pages for newcomers to the letter, each with a server of its own.
func TestQuickStarts(t *testing.T) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	t.Run("curl", func(t *testing.T) {
		t.Parallel()
		if _, err := exec.LookPath("curl"); err != nil {
			missing(t, "no curl: %v", err)
		}
		follow(t, "docs/quickstart-curl.md", t.TempDir(), start(t).environ())
	})
	t.Run("js", func(t *testing.T) {
		t.Parallel()
		modules := filepath.Join(root, "test", "compat", "js", "node_modules")
		if _, err := os.Stat(filepath.Join(modules, "@upstash", "qstash")); err != nil {
			missing(t, "the packages are not installed, run npm ci --prefix test/compat/js: %v", err)
		}
		dir := t.TempDir()
		if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil {
			t.Fatal(err)
		}
		follow(t, "docs/quickstart-js.md", dir, start(t).environ("HOME="+t.TempDir(), "NO_COLOR=1"))
	})
	t.Run("python", func(t *testing.T) {
		t.Parallel()
		out, err := exec.CommandContext(t.Context(), "python3", "-c", "import qstash, sys; print(sys.executable)").Output()
		if err != nil {
			missing(t, "the packages of test/compat/python/requirements.txt are not installed: %v", err)
		}
		srv := start(t)
		env := srv.environ("HOME="+t.TempDir(), "PYTHONDONTWRITEBYTECODE=1")
		env[0] = "PATH=" + filepath.Dir(strings.TrimSpace(string(out))) + ":" + os.Getenv("PATH")
		follow(t, "docs/quickstart-python.md", t.TempDir(), env)
	})
	t.Run("go", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		// The module of the page's reader, who got this one: it needs what this one needs.
		mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
		if err != nil {
			t.Fatal(err)
		}
		const module = "github.com/posthaste/posthaste"
		text := strings.Replace(string(mod), "module "+module, "module example", 1) +
			"\nrequire " + module + " v0.0.0\nreplace " + module + " => " + root + "\n"
		sum, err := os.ReadFile(filepath.Join(root, "go.sum"))
		if err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string]string{"go.mod": text, "go.sum": string(sum)} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		env := start(t).environ("HOME="+os.Getenv("HOME"), "GOFLAGS=-mod=mod")
		for _, name := range []string{"GOPATH", "GOCACHE", "GOMODCACHE", "GOPROXY", "GOSUMDB", "GOROOT"} {
			out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
			if err != nil {
				t.Fatal(err)
			}
			env = append(env, name+"="+strings.TrimSpace(string(out)))
		}
		follow(t, "docs/quickstart-go.md", dir, env)
	})
}

// TestFirstContact is a newcomer, who clones the repository, follows the README, and pastes what dev prints. It tells how long it is until
// the first delivery, and how many commands and words it takes.
func TestFirstContact(t *testing.T) {
	t.Parallel() // with others of its kind, after the tests that look at the time
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("git"); err != nil {
		missing(t, "no git: %v", err)
	}
	if out, err := exec.CommandContext(t.Context(), "git", "-C", root, "rev-parse", "HEAD").CombinedOutput(); err != nil {
		missing(t, "this is no clone: %s", out)
	}
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	text, rest, _ := strings.Cut(string(readme), "```sh\n")
	commands, _, ok := strings.Cut(rest, "```")
	if !ok || !strings.Contains(commands, "git clone https://github.com/posthaste/posthaste\n") {
		t.Fatalf("got %q as the first commands of README.md, want a clone", commands)
	}
	script := strings.Replace(commands, "https://github.com/posthaste/posthaste", "'"+root+"' posthaste", 1) // the folder's name is that of the address

	env := []string{"QSTASH_DEV_PORT=0"}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "QSTASH_") && !strings.HasPrefix(kv, "POSTHASTE_") {
			env = append(env, kv)
		}
	}
	begin := time.Now()
	server := command(t, t.TempDir(), script, env)
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	log, err := server.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	defer func() {
		syscall.Kill(-server.Process.Pid, syscall.SIGTERM)
		<-ended
		server.Wait()
	}()
	printed, logged := make(chan string, 256), make(chan string, 256)
	go func() {
		defer close(ended)
		var reading sync.WaitGroup
		reading.Go(func() { scan(out, printed) })
		reading.Go(func() { scan(log, logged) })
		reading.Wait()
	}()

	late := time.After(4 * time.Minute)
	line := func(from <-chan string) string {
		select {
		case s, ok := <-from:
			if !ok {
				t.Fatal("the server ended")
			}
			return s
		case <-late:
			t.Fatal("no delivery was seen in four minutes")
		}
		return ""
	}
	// What is pasted: the variables, and the command.
	var pasted []string
	pastes := 0
	for s := line(printed); len(pasted) == 0 || !strings.Contains(pasted[len(pasted)-1], "/v2/publish/"); s = line(printed) {
		if strings.HasPrefix(s, "QSTASH_") || strings.HasPrefix(s, "curl ") || strings.Contains(s, "/v2/publish/") {
			pasted = append(pasted, s)
		}
		if strings.HasPrefix(s, "QSTASH_URL") || strings.HasPrefix(s, "curl ") {
			pastes++
		}
	}
	ready := time.Since(begin)
	if answer, err := command(t, t.TempDir(), strings.Join(pasted, "\n"), env[1:]).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, answer)
	}
	for s := ""; !strings.Contains(s, `caught a request" inbox=hello method=POST attempt=1`); s = line(logged) {
	}
	took := time.Since(begin)
	t.Logf("%d commands, %d pastes, %d words of README.md before the first command; ready after %v, the first delivery seen after %v",
		strings.Count(commands, "\n"), pastes, len(strings.Fields(text)), ready.Round(time.Millisecond), took.Round(time.Millisecond))
	// Nearly all of it is the compiler's. On an idle machine of two cores that takes much less than a minute; here others may run.
	if most := 3 * time.Minute; took > most || took-ready > 10*time.Second {
		t.Errorf("took %v, and %v after the start, want %v and 10s at most", took, took-ready, most)
	}
}

// scan sends lines until the end.
func scan(r io.Reader, to chan<- string) {
	defer close(to)
	for in := bufio.NewScanner(r); in.Scan(); {
		select {
		case to <- in.Text():
		default: // nobody waits for so many
		}
	}
}
