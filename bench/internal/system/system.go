// Package system starts the servers that are compared, each behind the same interface.
package system

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/posthaste/posthaste/bench/internal/load"
	"github.com/posthaste/posthaste/bench/internal/proc"
)

// Adapter is a system that takes messages by HTTP and delivers them by HTTP. It starts a fresh one, with no messages
// in it, for every trial.
type Adapter interface {
	// Name is the name in the tables.
	Name() string
	// Durability says in a sentence what the acknowledgement of a message means.
	Durability() string
	// Start starts the system with its data in dir, an empty directory, and returns when it serves. All messages are
	// to go to sinkURL. The system is killed when ctx is done.
	Start(ctx context.Context, dir, sinkURL string) (Target, error)
}

// Target is a running system.
type Target interface {
	load.Publisher
	// PIDs are the processes whose descendants, with them, are the server.
	PIDs() []int
	// StorePIDs are the same for a store that is a process of its own.
	StorePIDs() []int
	// Exited is closed if the system ends.
	Exited() <-chan struct{}
	// Stop ends the system.
	Stop() error
}

// Versioned is an Adapter that knows what it is.
type Versioned interface {
	Version(ctx context.Context) string
}

// Limited is a Target that may lack something.
type Limited interface {
	// Immediate reports that no message can be delayed.
	Immediate() bool
}

// CommitCounter is a Target that knows how often it has made a commit durable.
type CommitCounter interface {
	// Commits returns the count since the start, and false if it is not to be had.
	Commits(ctx context.Context) (float64, bool)
}

// Scaler is a Target of which it can be measured what messages cost that wait.
type Scaler interface {
	Target
	load.Batcher
	load.Router
	// Pause makes a queue in which messages wait until Resume.
	Pause(ctx context.Context, queue string, parallelism int) error
	Resume(ctx context.Context, queue string) error
	// Restart stops the server, calls pause, and starts it again on the same store. Its address may change.
	Restart(ctx context.Context, pause func() error) error
}

// startTimeout bounds the start of a system.
const startTimeout = time.Minute

var readyLine = regexp.MustCompile(`(?i)runn+ing( at|\.)`)

// startServer starts a server that is told its port on the command line, trying again if another process took the
// port in between.
func startServer(ctx context.Context, path, dir string, env []string, args func(port string) []string) (*proc.Child, string, error) {
	var err error
	for range 3 {
		var port string
		if port, err = freePort(ctx); err != nil {
			return nil, "", err
		}
		addr := "127.0.0.1:" + port
		var child *proc.Child
		child, err = proc.Start(ctx, proc.Spec{
			Path:    path,
			Args:    args(port),
			Dir:     dir,
			Env:     append(environment(), env...),
			Ready:   readyLine,
			Probe:   func(ctx context.Context) bool { return probe(ctx, "http://"+addr+"/readyz") },
			Timeout: startTimeout,
		})
		if err == nil {
			return child, addr, nil
		}
		if !strings.Contains(err.Error(), "address already in use") {
			break
		}
	}
	return nil, "", err
}

func freePort(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = l.Close() }()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// environment is this process's environment without what could configure a server under test.
func environment() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "POSTHASTE_") && !strings.HasPrefix(v, "QSTASH_") {
			env = append(env, v)
		}
	}
	return env
}

var prober = &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// probe reports whether url answers 200.
func probe(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := prober.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
