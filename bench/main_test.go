package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/posthaste/posthaste/bench/internal/driver"
	"github.com/posthaste/posthaste/bench/internal/relay"
	"github.com/posthaste/posthaste/bench/internal/system"
)

// TestMain lets the test binary be the relay, a posthaste or this command.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 3 && os.Args[1] == system.RelayCommand, os.Getenv("BENCH_TEST_MAIN") != "":
		main()
	case len(os.Args) > 1 && os.Args[1] == "serve":
		if err := fakePosthaste(os.Args[2:]); err != nil {
			_, _ = fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		os.Exit(m.Run())
	}
}

// fakePosthaste is a relay that is started as posthaste is, asks for a token and counts commits, two a message.
func fakePosthaste(args []string) error {
	f := flag.NewFlagSet("serve", flag.ContinueOnError)
	listen := f.String("listen", "", "")
	data := f.String("data", "", "")
	admin := f.String("admin-listen", "", "")
	f.Bool("allow-http", false, "")
	f.Bool("allow-private", false, "")
	if err := f.Parse(args); err != nil {
		return err
	}
	if err := os.WriteFile(*data, nil, 0o600); err != nil {
		return err
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() { _ = relay.New().Run(context.Background(), inner) }()
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	var published atomic.Int64
	metrics := &http.Server{Addr: *admin, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, "# TYPE posthaste_commits_total counter\nposthaste_commits_total{lane=\"0\"} %d\n"+
			"posthaste_commits_total{lane=\"1\"} %d\nother_total 99\n", published.Load(), published.Load())
	})}
	go func() { _ = metrics.ListenAndServe() }()
	srv := &http.Server{Addr: *listen, Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "Bearer "+os.Getenv("POSTHASTE_TOKEN") {
			http.Error(w, `{"error":"unable to authenticate"}`, http.StatusUnauthorized)
			return
		}
		if req.URL.Path == "/readyz" {
			http.NotFound(w, req)
			return
		}
		if req.URL.Path == "/v2/batch" {
			if err := publishAll(inner.Addr().String(), req.Body); err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
			}
			return
		}
		published.Add(1)
		out := req.Clone(req.Context())
		out.RequestURI, out.URL.Scheme, out.URL.Host = "", "http", inner.Addr().String()
		resp, err := transport.RoundTrip(out)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	})}
	l, err := net.Listen("tcp", srv.Addr)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(os.Stdout, "QStash is runnning at http://%s\n", srv.Addr)
	return srv.Serve(l)
}

// publishAll hands the items of a batch to the relay at addr.
func publishAll(addr string, batch io.Reader) error {
	var items []struct {
		Destination, Body string
		Headers           map[string]string
	}
	if err := json.NewDecoder(batch).Decode(&items); err != nil {
		return err
	}
	for _, item := range items {
		req, err := http.NewRequest(http.MethodPost, "http://"+addr+"/v2/publish/"+item.Destination, strings.NewReader(item.Body))
		if err != nil {
			return err
		}
		for name, value := range item.Headers {
			req.Header.Set(name, value)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("the relay answered %s", resp.Status)
		}
	}
	return nil
}

// TestAll runs everything, small, with a relay and a fake posthaste.
func TestAll(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(t.TempDir(), "report.json")
	var out bytes.Buffer
	err = run(t.Context(), []string{"all", "-short", "-posthaste", self, "-dir", dir, "-json", path}, &out, t.Output())
	if err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var r driver.Report
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Groups) != 5 || len(r.Systems) != 2 || r.Systems[1].Name != "posthaste" {
		t.Fatalf("got %d groups, systems %v", len(r.Groups), r.Systems)
	}
	for _, g := range r.Groups {
		for name, s := range g.Summary {
			if s["lost"].Max != 0 || s["duplicated"].Max != 0 {
				t.Errorf("%s: %s: got lost %v, duplicated %v", g.Title, name, s["lost"], s["duplicated"])
			}
		}
	}
	s := r.Groups[0].Summary["posthaste"]
	if s["commits"].Median != 2 {
		t.Errorf("got %v commits a message, want 2", s["commits"])
	}
	if s["relay_ratio"].Median <= 0 {
		t.Errorf("got the ratio %v to the relay", s["relay_ratio"])
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestInterrupt interrupts the command in the middle of a trial: it must leave no process and no file behind.
func TestInterrupt(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command(self, "open", "-systems", "relay", "-rates", "10", "-open-seconds", "60", "-warmup", "10", "-dir", dir)
	cmd.Env = append(os.Environ(), "BENCH_TEST_MAIN=1")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	// The relay serves once its directory is there and a moment has passed.
	for range 500 {
		if relays, err := filepath.Glob(filepath.Join(dir, "posthaste-bench-*", "relay-*")); err == nil && len(relays) > 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(300 * time.Millisecond)
	var children []int // none are known where there is no /proc
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", cmd.Process.Pid))
	for _, task := range tasks {
		b, _ := os.ReadFile(task)
		for pid := range strings.FieldsSeq(string(b)) {
			n, err := strconv.Atoi(pid)
			if err != nil {
				t.Fatal(err)
			}
			children = append(children, n)
		}
	}
	if len(tasks) > 0 && len(children) != 1 {
		t.Errorf("got the children %v, want the relay", children)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
			t.Errorf("got %v, want exit status 1; output:\n%s", err, &out)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("did not end within 15 s of the interrupt")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	for _, pid := range children {
		if syscall.Kill(pid, 0) == nil {
			t.Errorf("process %d still runs", pid)
		}
	}
}

func TestArguments(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, "no mode"},
		{[]string{"faster"}, "unknown mode"},
		{[]string{"relay"}, "address"},
		{[]string{"throughput", "-messages", "0"}, "-messages must be from 1"},
		{[]string{"throughput", "-rounds", "0", "-body", "0"}, "-body must be"},
		{[]string{"throughput", "-connections", "64,x"}, `"x" is no number`},
		{[]string{"throughput", "-connections", "100000"}, "is no number from 1 to 4096"},
		{[]string{"open", "-rates", "0"}, "is no number"},
		{[]string{"delayed", "-rate", "1e9"}, "-rate must be"},
		{[]string{"latency", "extra"}, "takes no argument"},
		{[]string{"latency", "-nonsense"}, "not defined"},
		{[]string{"latency", "-systems", "relay,other"}, `"other" is not known`},
		{[]string{"latency", "-systems", "posthaste", "-posthaste", "/does/not/exist"}, "start /does/not/exist"},
	} {
		var out bytes.Buffer
		err := run(t.Context(), tt.args, &out, io.Discard)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got error %v, want one with %q", tt.args, err, tt.want)
		}
	}
	var out bytes.Buffer
	if err := run(t.Context(), []string{"help"}, &out, io.Discard); err != nil || !strings.Contains(out.String(), "throughput") {
		t.Errorf("help: got error %v and %q", err, &out)
	}
}
