//go:build compat

package compat

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/posthaste/posthaste/internal/store/postgres/postgrestest"
)

// flags are what the servers of some test files are started with. All others run without limits.
var flags = map[string][]string{
	"js/ratelimit.test.mjs":    {"--quota", "free"},
	"python/test_ratelimit.py": {"--quota", "free"},
}

// binary is the server's program.
var binary string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "posthaste-compat-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "posthaste")
	build := exec.Command("go", "build", "-o", binary, "./cmd/posthaste")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the server: %v\n%s", err, out)
		return 1
	}
	return postgrestest.Main(m)
}

// server is a running development server.
type server struct {
	url, token, current, next string
}

// environ is an environment in which the only settings of QStash are those of the server. Whatever the developer has set
// for it, or for what a test runs, does not get in.
func (s *server) environ(more ...string) []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir()}
	if s != nil {
		env = append(env,
			"QSTASH_URL="+s.url,
			"QSTASH_TOKEN="+s.token,
			"QSTASH_CURRENT_SIGNING_KEY="+s.current,
			"QSTASH_NEXT_SIGNING_KEY="+s.next,
		)
	}
	return append(env, more...)
}

// start runs a development server on a free port until the test ends, and stops it as an operator does. What it logged is
// shown if the test failed.
func start(t *testing.T, args ...string) *server {
	t.Helper()
	var none *server
	if postgrestest.Chosen() && !slices.Contains(args, "--store") {
		args = append([]string{"--store", postgrestest.Schema(t)}, args...)
	}
	cmd := exec.Command(binary, append([]string{"dev", "--port", "0"}, args...)...)
	cmd.Env = none.environ()
	var log bytes.Buffer
	cmd.Stderr = &log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 64)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(lines)
		for in := bufio.NewScanner(stdout); in.Scan(); {
			select {
			case lines <- in.Text():
			default: // what follows the first lines is for people
			}
		}
	})
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("stop the server: %v", err)
		}
		kill := time.AfterFunc(15*time.Second, func() { cmd.Process.Kill() })
		reading.Wait()
		err := cmd.Wait()
		if !kill.Stop() {
			t.Error("the server did not stop")
		} else if err != nil {
			t.Errorf("the server ended with %v", err)
		}
		if t.Failed() {
			t.Logf("the server's log:\n%s", log.Bytes())
		}
	})

	s := &server{}
	said := map[string]*string{
		"QSTASH_URL":                 &s.url,
		"QSTASH_TOKEN":               &s.token,
		"QSTASH_CURRENT_SIGNING_KEY": &s.current,
		"QSTASH_NEXT_SIGNING_KEY":    &s.next,
	}
	ready := regexp.MustCompile(`(?i)runn+ing( at|\.)`) // what the library for JavaScript waits for
	running := false
	deadline := time.After(30 * time.Second)
	for len(said) > 0 {
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("the server ended before it was ready")
			}
			running = running || ready.MatchString(line)
			name, value, _ := strings.Cut(line, "=")
			if v, ok := said[name]; ok {
				*v = value
				delete(said, name)
			}
		case <-deadline:
			t.Fatal("the server is not ready after 30 seconds")
		}
	}
	if !running {
		t.Error("the server did not say that it is running")
	}
	return s
}

// missing ends a test that lacks something to be installed.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// suite is the test files of one client library.
type suite struct {
	files []string
	// command runs one file. ran finds in the output of a good run that it had tests at all.
	command func(ctx context.Context, file string) *exec.Cmd
	ran     *regexp.Regexp
}

// run runs every file against a server of its own, and then checks that together they drove the whole library.
func (s suite) run(t *testing.T) {
	t.Helper()
	if len(s.files) == 0 {
		t.Fatal("no test files")
	}
	calls := t.TempDir()
	var done atomic.Int64
	t.Run("files", func(t *testing.T) {
		for _, file := range s.files {
			t.Run(filepath.Base(file), func(t *testing.T) {
				t.Parallel()
				srv := start(t, flags[file]...)
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				cmd := s.command(ctx, filepath.Base(file))
				cmd.WaitDelay = 5 * time.Second // for what the command itself started
				cmd.Dir = filepath.Dir(file)
				cmd.Env = srv.environ(
					"HOME="+t.TempDir(),
					"POSTHASTE_BINARY="+binary,
					"COMPAT_CALLS="+calls,
					"PYTHONDONTWRITEBYTECODE=1",
				)
				out, err := cmd.CombinedOutput()
				switch {
				case err != nil:
					t.Errorf("%v\n%s", err, out)
				case !s.ran.Match(out):
					t.Errorf("no test ran:\n%s", out)
				case testing.Verbose():
					t.Logf("%s", out)
				}
				done.Add(1)
			})
		}
	})
	if int(done.Load()) < len(s.files) {
		return // -run chose some of them
	}
	surface, called := readLines(t, filepath.Join(calls, "surface")), readLines(t, filepath.Join(calls, "called"))
	for _, method := range surface {
		if !slices.Contains(called, method) {
			t.Errorf("no test calls %s", method)
		}
	}
}

func readLines(t *testing.T, path string) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(data))
}

// glob lists files with slashes, in order.
func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range files {
		files[i] = filepath.ToSlash(f)
	}
	return files
}

func TestJavaScript(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		missing(t, "no node: %v", err)
	}
	var lock, installed struct {
		Version  string
		Packages map[string]struct{ Version string }
	}
	const name = "node_modules/@upstash/qstash"
	decodeFile(t, "js/package-lock.json", &lock)
	if data, err := os.ReadFile("js/" + name + "/package.json"); err != nil {
		missing(t, "the packages are not installed, run npm ci --prefix test/compat/js: %v", err)
	} else if err := json.Unmarshal(data, &installed); err != nil {
		t.Fatal(err)
	}
	if got, want := installed.Version, lock.Packages[name].Version; got != want {
		missing(t, "got version %s of the library, want %s: run npm ci --prefix test/compat/js", got, want)
	}
	suite{
		files: glob(t, "js/*.test.mjs"),
		command: func(ctx context.Context, file string) *exec.Cmd {
			return exec.CommandContext(ctx, node, "--import", "./lib/preload.mjs", "--test", "--test-reporter=spec", file)
		},
		ran: regexp.MustCompile(`(?m)^ℹ pass [1-9]`),
	}.run(t)
}

func TestPython(t *testing.T) {
	path, err := exec.LookPath("python3")
	if err != nil {
		missing(t, "no python3: %v", err)
	}
	requirements, err := os.ReadFile("python/requirements.txt")
	if err != nil {
		t.Fatal(err)
	}
	// python3 may be a script that needs more of the environment than the tests get, so they get the program behind it.
	probe := exec.CommandContext(t.Context(), path, "-c",
		"import importlib.metadata, sys; print(sys.executable); print(importlib.metadata.version('qstash'))")
	out, err := probe.Output()
	if err != nil {
		missing(t, "the packages of test/compat/python/requirements.txt are not installed: %v", err)
	}
	python, version, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if !slices.Contains(strings.Fields(string(requirements)), "qstash=="+version) {
		missing(t, "got version %s of the library, want that of test/compat/python/requirements.txt", version)
	}
	suite{
		files: glob(t, "python/test_*.py"),
		command: func(ctx context.Context, file string) *exec.Cmd {
			return exec.CommandContext(ctx, python, "-m", "unittest", "-b", strings.TrimSuffix(file, ".py"))
		},
		ran: regexp.MustCompile(`(?m)^Ran [1-9]`),
	}.run(t)
}

// TestFlags checks that flags names files that exist.
func TestFlags(t *testing.T) {
	for file := range flags {
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}
}

func decodeFile(t *testing.T, path string, v any) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}
