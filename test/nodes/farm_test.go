//go:build nodes

package nodes

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/posthaste/posthaste/internal/store/postgres/postgrestest"
)

const (
	token = "a-token-that-only-these-tests-use"
	lease = 4 * time.Second
)

// A farm is several nodes over one database, behind a balancer that takes them in turn.
type farm struct {
	t     *testing.T
	db    *postgrestest.Cluster
	nodes []*node
	http  *http.Client
	turn  atomic.Uint32

	mu        sync.Mutex
	lives     int
	incidents []*incident
}

// A node is a place for servers, one after another, with a name and an address that last.
type node struct {
	f    *farm
	name string
	addr string

	mu   sync.Mutex
	cmd  *exec.Cmd
	life int // of the process; destinations see it as the region
	done chan struct{}
	log  bytes.Buffer
}

// An incident is a time in which attempts of some lives may be cut off or lost.
type incident struct {
	what     string
	life     int // 0: all
	from, to time.Time
}

// start starts so many nodes over a database of their own.
func start(t *testing.T, n int, o postgrestest.Options, flags ...string) *farm {
	t.Helper()
	return startOn(t, n, postgrestest.Start(t, o), flags...)
}

// startOn starts so many nodes over a database.
func startOn(t *testing.T, n int, db *postgrestest.Cluster, flags ...string) *farm {
	t.Helper()
	f := &farm{t: t, db: db, http: &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 256},
		Timeout:   20 * time.Second,
	}}
	for i := range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		f.nodes = append(f.nodes, &node{f: f, name: fmt.Sprintf("node-%d", i+1), addr: ln.Addr().String()})
		ln.Close()
	}
	t.Cleanup(func() {
		for _, n := range f.nodes {
			n.end(syscall.SIGKILL)
			if t.Failed() {
				t.Logf("%s wrote:\n%s", n.name, tail(n.log.Bytes()))
			}
		}
	})
	var group sync.WaitGroup
	errs := make([]error, n)
	for i, node := range f.nodes {
		group.Go(func() { errs[i] = node.start(flags...) }) // all at once: one of them makes the schema
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return f
}

func tail(text []byte) []byte { return text[max(0, len(text)-16<<10):] }

// start starts the node's next life and waits until it answers.
func (n *node) start(flags ...string) error {
	n.f.mu.Lock()
	n.f.lives++
	life := n.f.lives
	n.f.mu.Unlock()
	args := append([]string{
		"serve", "--store", n.f.db.URL, "--node", n.name, "--lease", lease.String(), "--listen", n.addr, "--allow-http", "--allow-private",
		"--region", fmt.Sprintf("life-%d", life), "--log-format", "text", "--log-level", "warn", "--max-in-flight", "128", "--circuit-breaker=false",
	}, flags...)
	cmd := exec.Command(binary, args...)
	cmd.Env = []string{"TMPDIR=" + os.TempDir(), "POSTHASTE_TOKEN=" + token}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = &locked{n: n}
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	n.mu.Lock()
	n.cmd, n.life, n.done = cmd, life, done
	n.mu.Unlock()
	ready := make(chan struct{})
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "Posthaste is running at ") {
				close(ready)
			}
		}
		cmd.Wait() //nolint:errcheck // how it ended is known to who ended it
		close(done)
	}()
	select {
	case <-ready:
		return nil
	case <-done:
		return fmt.Errorf("%s ended before it answered:\n%s", n.name, tail(n.log.Bytes()))
	case <-time.After(60 * time.Second):
		return fmt.Errorf("%s does not answer after a minute", n.name)
	}
}

// locked writes the log of a node.
type locked struct{ n *node }

// Write implements [io.Writer].
func (w *locked) Write(p []byte) (int, error) {
	w.n.mu.Lock()
	defer w.n.mu.Unlock()
	return w.n.log.Write(p)
}

func (n *node) signal(s syscall.Signal) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		n.cmd.Process.Signal(s) //nolint:errcheck // a process that is gone needs none
	}
}

// end ends the node's life by a signal and waits until it is gone.
func (n *node) end(s syscall.Signal) {
	n.signal(s)
	n.mu.Lock()
	done := n.done
	n.mu.Unlock()
	if done != nil {
		<-done
	}
}

// note records an incident, which lasts until its end is called.
func (f *farm) note(what string, life int) (end func()) {
	i := &incident{what: what, life: life, from: time.Now()}
	f.mu.Lock()
	f.incidents = append(f.incidents, i)
	f.mu.Unlock()
	return func() {
		f.mu.Lock()
		i.to = time.Now()
		f.mu.Unlock()
	}
}

// explains returns an incident that may have cut off an attempt that a life made at a moment.
func (f *farm) explains(life int, at time.Time) *incident {
	// An attempt may be under way, or waiting to be settled, for so long before. After a stop or a crash of the database a node
	// needs a while until it has noticed.
	const before, after = 4 * time.Second, 3 * time.Second
	for _, i := range f.incidents {
		if (i.life == 0 || i.life == life) && at.After(i.from.Add(-before)) && at.Before(i.to.Add(after)) {
			return i
		}
	}
	return nil
}

// errUnsent is an error of a request that no node got.
var errUnsent = errors.New("no node could be reached")

// call sends a request to the next node that can be reached. Another error than errUnsent leaves open what became of it.
func (f *farm) call(ctx context.Context, method, path string, header http.Header, body string) (int, []byte, error) {
	err := errUnsent
	for range len(f.nodes) {
		n := f.nodes[int(f.turn.Add(1))%len(f.nodes)]
		var status int
		var answer []byte
		if status, answer, err = f.callNode(ctx, n, method, path, header, body); !errors.Is(err, errUnsent) {
			return status, answer, err
		}
	}
	return 0, nil, err
}

func (f *farm) callNode(ctx context.Context, n *node, method, path string, header http.Header, body string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+n.addr+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := f.http.Do(req)
	if err != nil {
		if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "dial" {
			return 0, nil, errUnsent
		}
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "" {
		f.t.Errorf("%s %s: 503 without Retry-After: %s", method, path, answer)
	}
	return resp.StatusCode, answer, err
}

// ok sends a request to a node, which has to answer with success.
func (f *farm) ok(n *node, method, path, header, body string) []byte {
	f.t.Helper()
	status, answer, err := f.callNode(f.t.Context(), n, method, path, lines(header), body)
	if err != nil || status < 200 || status > 299 {
		f.t.Fatalf("%s %s: %d %s, %v", method, path, status, answer, err)
	}
	return answer
}

// lines reads a header, of lines separated by "|".
func lines(text string) http.Header {
	h := http.Header{}
	for line := range strings.SplitSeq(text, "|") {
		if name, value, ok := strings.Cut(line, ": "); ok {
			h.Set(name, value)
		}
	}
	return h
}
