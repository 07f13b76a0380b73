// Package proc runs the servers under test as child processes and reads what they have used.
package proc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"time"
)

// stopGrace is how long a child may take to end when asked to.
const stopGrace = 10 * time.Second

// Spec says how to start a child.
type Spec struct {
	Path string
	Args []string
	Dir  string
	Env  []string
	// Ready matches the line of output that says that the child serves.
	Ready *regexp.Regexp
	// Probe, if not nil, says the same by a request; it is asked repeatedly.
	Probe func(ctx context.Context) bool
	// Timeout bounds the start.
	Timeout time.Duration
	// User is the name of the user to run as; empty is this process's. Only root can choose another.
	User string
	// Abort makes Stop kill the child at once: what it would tidy up is thrown away.
	Abort bool
}

// Child is a running process and its descendants, which are one process group. If this process dies, so do they.
type Child struct {
	cmd    *exec.Cmd
	abort  bool
	output *tail
	ready  chan struct{}
	exited chan struct{}
	err    error // of Wait; read after exited is closed
}

// Start starts a child and returns when it serves. The child is killed when ctx is done.
func Start(ctx context.Context, spec Spec) (*Child, error) {
	c := &Child{
		cmd:    exec.CommandContext(ctx, spec.Path, spec.Args...),
		abort:  spec.Abort,
		output: &tail{},
		ready:  make(chan struct{}),
		exited: make(chan struct{}),
	}
	c.cmd.Dir, c.cmd.Env = spec.Dir, spec.Env
	isolate(c.cmd)
	if err := runAs(c.cmd, spec.User); err != nil {
		return nil, err
	}
	c.cmd.Cancel = func() error {
		kill(c.cmd)
		return nil
	}
	// One pipe carries both streams, so that their lines stay in order.
	pipe, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c.cmd.Stdout, c.cmd.Stderr = w, w
	err = c.cmd.Start()
	_ = w.Close()
	if err != nil {
		_ = pipe.Close()
		return nil, fmt.Errorf("start %s: %w", spec.Path, err)
	}
	var reading sync.WaitGroup
	reading.Go(func() { c.read(pipe, spec.Ready) })
	go func() { // ends with the child, for whose end Stop waits
		c.err = c.cmd.Wait()
		kill(c.cmd) // what the child left behind, which may hold the pipe open
		reading.Wait()
		_ = pipe.Close()
		close(c.exited)
	}()
	if err := c.waitReady(ctx, spec); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

// Run runs a program to its end; of spec it uses what says what to run.
func Run(ctx context.Context, spec Spec) error {
	cmd := exec.CommandContext(ctx, spec.Path, spec.Args...)
	cmd.Dir, cmd.Env = spec.Dir, spec.Env
	isolate(cmd)
	if err := runAs(cmd, spec.User); err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", spec.Path, err, out)
	}
	return nil
}

// read copies the output to c.output and watches for the ready line, until the output ends.
func (c *Child) read(output io.Reader, ready *regexp.Regexp) {
	var once sync.Once
	lines := bufio.NewScanner(output)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		c.output.add(lines.Text())
		if ready != nil && ready.Match(lines.Bytes()) {
			once.Do(func() { close(c.ready) })
		}
	}
	_, _ = io.Copy(io.Discard, output)
}

func (c *Child) waitReady(ctx context.Context, spec Spec) error {
	ctx, cancel := context.WithTimeoutCause(ctx, spec.Timeout, fmt.Errorf("not ready after %v", spec.Timeout))
	defer cancel()
	probe := time.NewTicker(20 * time.Millisecond)
	defer probe.Stop()
	for {
		select {
		case <-c.ready:
			return nil
		case <-c.exited:
			return fmt.Errorf("%s ended before it was ready (%w): %s", spec.Path, c.err, c.output)
		case <-ctx.Done():
			return fmt.Errorf("start %s: %w: %s", spec.Path, context.Cause(ctx), c.output)
		case <-probe.C:
			if spec.Probe != nil && spec.Probe(ctx) {
				return nil
			}
		}
	}
}

// PID is the process id of the child.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Output is the end of what the child has written.
func (c *Child) Output() string { return c.output.String() }

// Exited is closed when the child has ended.
func (c *Child) Exited() <-chan struct{} { return c.exited }

// Stop asks the child to end, kills it if it does not, and returns when it has ended.
func (c *Child) Stop() error {
	if c.abort {
		kill(c.cmd)
		<-c.exited
		return nil
	}
	terminate(c.cmd)
	select {
	case <-c.exited:
		return nil
	case <-time.After(stopGrace):
	}
	kill(c.cmd)
	<-c.exited
	return fmt.Errorf("%s had to be killed: it did not end within %v", c.cmd.Path, stopGrace)
}

// tail keeps the last lines of an output.
type tail struct {
	mu    sync.Mutex
	lines []string
}

func (t *tail) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, line)
	if len(t.lines) > 20 {
		t.lines = t.lines[1:]
	}
}

// String returns the lines, or says that there are none.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == 0 {
		return "(no output)"
	}
	return strings.Join(t.lines, "\n")
}
