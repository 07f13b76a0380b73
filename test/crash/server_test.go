//go:build crash

package crash

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// serveToken is the token of servers that are not started for development.
const serveToken = "a-token-that-only-crash-tests-use"

// devToken is the token that every client library expects of a development server.
const devToken = "eyJVc2VySUQiOiJkZWZhdWx0VXNlciIsIlBhc3N3b3JkIjoiZGVmYXVsdFBhc3N3b3JkIn0="

// maxInFlight bounds the attempts of a server at a time, and so what a kill may cut off.
const maxInFlight = 256

// An ending is how a life ended.
type ending int

const (
	running ending = iota
	killed         // by a signal that cannot be caught, from outside or at a named point
	stopped        // in order
	failed         // in any other way
)

// A life is one process of a server, from its start to its end.
type life struct {
	n     int // 1 for the first one; destinations see it as the region
	cmd   *exec.Cmd
	begun time.Time
	ready chan struct{} // closed when it answers requests
	done  chan struct{} // closed when the process is gone; what follows is set before
	over  time.Time
	end   ending
	exit  int

	mayCut bool        // the end may have cut attempts off
	asked  atomic.Bool // somebody brought the end about
	output tail
}

// ended reports whether the process is gone.
func (l *life) ended() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// wait waits for the end.
func (l *life) wait(t *testing.T) {
	t.Helper()
	select {
	case <-l.done:
	case <-time.After(60 * time.Second):
		l.cmd.Process.Signal(syscall.SIGQUIT) // it tells where it hangs
		<-l.done
		t.Fatalf("life %d did not end within a minute:\n%s", l.n, &l.output)
	}
}

// A server is an installation: a data file and the lives of the processes that use it, one after another.
type server struct {
	t     *testing.T
	dev   bool
	flags []string
	dir   string
	data  string
	token string
	url   string
	addrs []string // it listens at

	// ctx ends with the test, or when a life ends that should not, so that nobody waits for it.
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu    sync.Mutex
	lives []*life
	up    chan struct{} // closed while requests are answered
}

// newServer prepares an installation. Nothing runs before start.
func newServer(t *testing.T, rng *rand.Rand, dev bool, flags ...string) *server {
	t.Helper()
	dir, err := os.MkdirTemp("", "posthaste-crash-")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, dev: dev, dir: dir, data: filepath.Join(dir, "data"), token: serveToken, up: make(chan struct{})}
	if dev {
		s.token = devToken
	}
	s.flags = append([]string{"--max-in-flight", strconv.Itoa(maxInFlight), "--log-format", "text", "--log-level", "warn"}, flags...)
	s.addrs = []string{freeAddr(t, rng)}
	if !dev {
		s.addrs = append(s.addrs, freeAddr(t, rng))
	}
	s.url = "http://" + s.addrs[0]
	s.ctx, s.cancel = context.WithCancelCause(t.Context())
	t.Cleanup(s.cleanup)
	return s
}

// freeAddr returns an address that a server can listen at, life after life. It lies below the ports that systems give to
// outgoing connections, one of which could else take it between two lives.
func freeAddr(t *testing.T, rng *rand.Rand) string {
	t.Helper()
	for range 100 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(15000+rng.IntN(15000)))
		ln, err := net.Listen("tcp", addr)
		if err == nil {
			ln.Close()
			return addr
		}
	}
	t.Fatal("no free port was found")
	return ""
}

// cleanup ends what still runs. After a failure it shows what the lives wrote and leaves the data file.
func (s *server) cleanup() {
	defer s.cancel(nil)
	for _, l := range s.all() {
		l.asked.Store(true)
		l.cmd.Process.Kill()
		<-l.done
		// Whatever became of the messages: nothing that a test does gives a server a reason to complain.
		if text := l.output.String(); strings.Contains(text, "level=ERROR") || strings.Contains(text, "DATA RACE") {
			s.t.Errorf("life %d complains", l.n)
		}
		if text := l.output.String(); s.t.Failed() && text != "" {
			s.t.Logf("life %d wrote:\n%s", l.n, text)
		}
	}
	if s.t.Failed() {
		s.t.Logf("the data file is left in %s", s.dir)
		return
	}
	os.RemoveAll(s.dir)
}

// all returns the lives so far.
func (s *server) all() []*life {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*life(nil), s.lives...)
}

// launch starts the next life and does not wait for it. It is to kill itself at crashAt, "point:visit", unless that is empty.
func (s *server) launch(crashAt string) *life {
	s.t.Helper()
	args := []string{"serve", "--listen", strings.Join(s.addrs, ","), "--allow-http", "--allow-private"}
	if s.dev {
		_, port, _ := net.SplitHostPort(s.addrs[0])
		args = []string{"dev", "--port", port}
	}
	l := &life{n: len(s.all()) + 1, ready: make(chan struct{}), done: make(chan struct{})}
	args = append(args, "--data", s.data, "--region", fmt.Sprintf("life-%d", l.n))
	l.cmd = exec.Command(binary, append(args, s.flags...)...)
	l.cmd.Env = []string{"TMPDIR=" + os.TempDir(), "POSTHASTE_CRASH_AT=" + crashAt}
	if !s.dev {
		l.cmd.Env = append(l.cmd.Env, "POSTHASTE_TOKEN="+s.token)
	}
	l.cmd.Stderr = &l.output
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	bind(l.cmd)
	l.asked.Store(crashAt != "")
	l.begun = time.Now()
	if err := l.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	s.lives = append(s.lives, l)
	s.mu.Unlock()
	go s.watch(l, out)
	return l
}

// watch tells when a life answers requests and when it ends.
func (s *server) watch(l *life, out io.Reader) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "Posthaste is running at ") {
			close(l.ready)
			s.mu.Lock()
			close(s.up)
			s.mu.Unlock()
		}
	}
	err := l.cmd.Wait()
	l.over = time.Now()
	status, ok := l.cmd.ProcessState.Sys().(syscall.WaitStatus)
	l.exit = l.cmd.ProcessState.ExitCode()
	switch {
	case err == nil:
		l.end = stopped
	case ok && status.Signaled() && status.Signal() == syscall.SIGKILL:
		l.end, l.mayCut = killed, true
	default:
		l.end = failed
	}
	if l.end == failed || !l.asked.Load() {
		s.cancel(fmt.Errorf("life %d ended by itself, with status %d", l.n, l.exit))
	}
	s.mu.Lock()
	select {
	case <-l.ready:
		s.up = make(chan struct{})
	default:
	}
	s.mu.Unlock()
	close(l.done)
}

// start starts the next life and waits until it answers requests or, if it is to crash, is gone.
func (s *server) start(crashAt string) *life {
	s.t.Helper()
	l := s.launch(crashAt)
	select {
	case <-l.ready:
	case <-l.done:
		if l.end != killed || crashAt == "" {
			s.t.Fatalf("life %d ended before it answered requests, with status %d:\n%s", l.n, l.exit, &l.output)
		}
	case <-time.After(60 * time.Second):
		s.t.Fatalf("life %d does not answer requests after a minute:\n%s", l.n, &l.output)
	}
	return l
}

// current returns the last life that was started.
func (s *server) current() *life {
	lives := s.all()
	return lives[len(lives)-1]
}

// kill ends the current life at once.
func (s *server) kill() {
	s.t.Helper()
	l := s.current()
	l.asked.Store(true)
	l.cmd.Process.Kill()
	l.wait(s.t)
	if l.end != killed {
		s.t.Fatalf("life %d ended before it was killed, with status %d:\n%s", l.n, l.exit, &l.output)
	}
}

// stop asks the current life to end in order, and reports whether it did.
func (s *server) stop() *life {
	s.t.Helper()
	l := s.current()
	l.asked.Store(true)
	l.cmd.Process.Signal(syscall.SIGTERM)
	l.wait(s.t)
	if l.end != stopped {
		s.t.Errorf("life %d ended with status %d when it was asked to stop, want 0:\n%s", l.n, l.exit, &l.output)
	}
	return l
}

// waitUp waits until requests are answered.
func (s *server) waitUp(ctx context.Context) error {
	for {
		s.mu.Lock()
		up := s.up
		s.mu.Unlock()
		select {
		case <-up:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// tail keeps the end of what a process wrote.
type tail struct {
	mu   sync.Mutex
	data []byte
}

const tailSize = 32 << 10

// Write implements [io.Writer].
func (w *tail) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.data = append(w.data, p...); len(w.data) > 2*tailSize {
		w.data = append(w.data[:0], w.data[len(w.data)-tailSize:]...)
	}
	return len(p), nil
}

// String returns what is kept.
func (w *tail) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.data[max(0, len(w.data)-tailSize):])
}

// A meter counts, and lets others wait for a count.
type meter struct {
	mu      sync.Mutex
	n       int
	changed chan struct{}
}

func newMeter() *meter { return &meter{changed: make(chan struct{})} }

func (m *meter) add(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.n += n
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *meter) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.n
}

// wait waits until the count is at least n or ctx ends, and reports whether it is.
func (m *meter) wait(ctx context.Context, n int) bool {
	for {
		m.mu.Lock()
		ok, changed := m.n >= n, m.changed
		m.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}
