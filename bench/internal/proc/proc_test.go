package proc_test

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/posthaste/posthaste/bench/internal/proc"
)

var ready = regexp.MustCompile("ready")

// shell returns the spec of a shell script.
func shell(script string) proc.Spec {
	return proc.Spec{Path: "/bin/sh", Args: []string{"-c", script}, Ready: ready, Timeout: 10 * time.Second}
}

func TestStartFails(t *testing.T) {
	for _, tt := range []struct {
		name, script, want string
		timeout            time.Duration
	}{
		{"ends", "echo no luck >&2; exit 3", "no luck", 10 * time.Second},
		{"never ready", "echo waiting; sleep 100", "not ready", 300 * time.Millisecond},
	} {
		spec := shell(tt.script)
		spec.Timeout = tt.timeout
		start := time.Now()
		_, err := proc.Start(t.Context(), spec)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got error %v, want one with %q", tt.name, err, tt.want)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s: took %v", tt.name, took)
		}
	}
	if _, err := proc.Start(t.Context(), proc.Spec{Path: "/does/not/exist"}); err == nil {
		t.Error("a missing binary: got no error")
	}
}

func TestProbe(t *testing.T) {
	spec := shell("sleep 100")
	asked := 0
	spec.Probe = func(context.Context) bool { asked++; return asked == 3 }
	c, err := proc.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
}

// gone waits until a process has ended.
func gone(t *testing.T, pid int) {
	t.Helper()
	for range 500 {
		if err := syscall.Kill(pid, 0); err != nil {
			return
		}
		if b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat"); err == nil && strings.Contains(string(b), ") Z ") {
			return // ended, and for init to collect
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d still runs", pid)
}

// grandchild returns the process id in the output "ready PID" of c.
func grandchild(t *testing.T, c *proc.Child) int {
	t.Helper()
	pid, err := strconv.Atoi(strings.Fields(c.Output())[1])
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// TestStop checks that no descendant is left, on each of the two ways that a child ends.
func TestStop(t *testing.T) {
	const script = "sleep 100 >/dev/null 2>&1 & echo ready $!; wait"
	c, err := proc.Start(t.Context(), shell(script))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	gone(t, c.PID())
	gone(t, grandchild(t, c))

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if c, err = proc.Start(ctx, shell(script)); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-c.Exited()
	gone(t, grandchild(t, c))
}

func TestUsage(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("usage is known on Linux only")
	}
	// The work is done by a grandchild that ends, and by one that does not.
	const work = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"
	c, err := proc.Start(t.Context(), shell("sh -c '"+work+"'; sh -c '"+work+"; echo ready; sleep 100'"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Stop() }()
	u, err := proc.Of(c.PID())
	if err != nil {
		t.Fatal(err)
	}
	if u.CPU <= 0 || u.CPU > 30*time.Second || u.PeakMemory < 100<<10 {
		t.Errorf("got %+v", u)
	}
	later, err := proc.Of(c.PID())
	if err != nil {
		t.Fatal(err)
	}
	if d := later.Sub(u); d.CPU < 0 || d.CPU > time.Second || d.PeakMemory < 100<<10 || d.Written < 0 {
		t.Errorf("idle: got %+v", d)
	}
	if d := later.Sub(proc.Unknown); d.CPU != -1 || d.Written != -1 {
		t.Errorf("since an unknown reading: got %+v", d)
	}

	cmd := exec.Command("/bin/true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if u, err := proc.Of(cmd.Process.Pid); err == nil {
		t.Errorf("an ended process: got %+v, want an error", u)
	}
	if proc.SelfCPU() <= 0 || proc.Busy() <= 0 {
		t.Errorf("got %v of this process, %v of the machine", proc.SelfCPU(), proc.Busy())
	}
}
