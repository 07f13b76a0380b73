package driver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/posthaste/posthaste/bench/internal/driver"
	"github.com/posthaste/posthaste/bench/internal/rawhttp"
	"github.com/posthaste/posthaste/bench/internal/sink"
	"github.com/posthaste/posthaste/bench/internal/system"
)

// TestMain lets the test binary be the relay, which is run from the binary that compares.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == system.RelayCommand {
		if err := system.RunRelay(context.Background(), os.Args[2], os.Stdout); err != nil {
			_, _ = fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// newDriver returns a Driver with small bounds, and its output.
func newDriver(t *testing.T, rounds int, systems ...system.Adapter) (*driver.Driver, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	dir := t.TempDir()
	d, err := driver.New(t.Context(), driver.Config{
		Systems:   systems,
		Dir:       dir,
		Rounds:    rounds,
		BodyBytes: 200,
		Warmup:    20,
		Timeout:   time.Minute,
		Stall:     3 * time.Second,
		Settle:    100 * time.Millisecond,
		Out:       &out,
		Log:       t.Output(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
	return d, &out
}

// values returns the figures of a trial.
func values(t *testing.T, r *driver.Report, group, trial int) driver.Values {
	t.Helper()
	if len(r.Groups) <= group || len(r.Groups[group].Trials) <= trial {
		t.Fatalf("there is no trial %d in group %d", trial, group)
	}
	return r.Groups[group].Trials[trial].Values
}

// TestRelay runs the relay as its own process, end to end.
func TestRelay(t *testing.T) {
	d, out := newDriver(t, 2, system.Relay{}, system.Relay{})
	if err := d.Closed(t.Context(), 16, 2000); err != nil {
		t.Fatal(err)
	}
	r := d.Finish()
	if len(r.Faults) > 0 {
		t.Errorf("got faults %q", r.Faults)
	}
	g := r.Groups[0]
	var order []string
	for _, trial := range g.Trials {
		order = append(order, fmt.Sprint(trial.System, trial.Round))
	}
	if got, want := strings.Join(order, " "), "relay1 relay#21 relay2 relay#22"; got != want {
		t.Errorf("got the order %s, want %s", got, want)
	}
	for i, trial := range g.Trials {
		v := trial.Values
		if v["lost"] != 0 || v["duplicated"] != 0 {
			t.Errorf("trial %d: lost %v, duplicated %v", i, v["lost"], v["duplicated"])
		}
		for _, key := range []string{"rate", "accept_p50_ms", "accept_p999_ms", "delivery_p50_ms", "delivery_p99_ms", "load_cpu_us"} {
			if v[key] <= 0 {
				t.Errorf("trial %d: got %s %v", i, key, v[key])
			}
		}
		if ratio, ok := v["relay_ratio"]; ok != (trial.System == "relay#2") || ok && ratio <= 0 {
			t.Errorf("trial %d: got ratio %v, %v", i, ratio, ok)
		}
	}
	for _, want := range []string{"closed loop, 16 connections, 2000 messages", "relay#2", "ratio to the relay", "in memory only", "disk: "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, out)
		}
	}

	path := filepath.Join(t.TempDir(), "report.json")
	if err := r.WriteJSON(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var back driver.Report
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if got, want := back.Groups[0].Summary["relay"]["rate"], g.Summary["relay"]["rate"]; got != want || got.Median <= 0 {
		t.Errorf("got the rate %v from JSON, want %v", got, want)
	}
}

// TestRelayModes runs the other modes against the relay.
func TestRelayModes(t *testing.T) {
	d, out := newDriver(t, 1, system.Relay{})
	if err := d.Open(t.Context(), 400, 8, 200); err != nil {
		t.Fatal(err)
	}
	if err := d.Latency(t.Context(), 20, 3); err != nil {
		t.Fatal(err)
	}
	if err := d.Delayed(t.Context(), 200, 200, 500*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	r := d.Finish()
	if len(r.Faults) > 0 {
		t.Errorf("got faults %q", r.Faults)
	}
	if rate := values(t, r, 0, 0)["rate"]; rate > 410 {
		t.Errorf("open: got the rate %v, want 400 at most", rate)
	}
	if v := values(t, r, 1, 0); v["delivery_writes"] <= 0 || v["synced_write_ms"] <= 0 {
		t.Errorf("latency: got %v", v)
	}
	if v := values(t, r, 2, 0); v["late_max_ms"] < v["late_p99_ms"] || v["late_p99_ms"] < v["late_p50_ms"] || v["early"] != 0 {
		t.Errorf("delayed: got %v", v)
	}
	if !strings.Contains(out.String(), "the bar of 3 is") {
		t.Errorf("the output does not judge the bar:\n%s", out)
	}
}

// faulty is a system in this process that delivers each message before it answers, but for one message a fault.
type faulty struct {
	fault string
	at    int
}

func (faulty) Name() string { return "faulty" }

func (faulty) Durability() string { return "none" }

// faultyTarget is a running faulty system.
type faultyTarget struct {
	faulty

	srv     *httptest.Server
	sinkURL string
	exited  chan struct{}
	once    sync.Once
}

func (f faulty) Start(_ context.Context, _, sinkURL string) (system.Target, error) {
	t := &faultyTarget{faulty: f, sinkURL: sinkURL, exited: make(chan struct{})}
	t.srv = httptest.NewServer(t)
	return t, nil
}

func (t *faultyTarget) Addr() string { return t.srv.Listener.Addr().String() }

func (t *faultyTarget) AppendPublish(dst, body []byte, delay time.Duration) []byte {
	return rawhttp.AppendRequest(dst, http.MethodPost, t.Addr(), "/",
		[]rawhttp.Header{{Name: "Delay", Value: delay.String()}}, body)
}

func (t *faultyTarget) PIDs() []int { return []int{os.Getpid()} }

func (*faultyTarget) StorePIDs() []int { return nil }

func (t *faultyTarget) Exited() <-chan struct{} { return t.exited }

func (t *faultyTarget) Stop() error {
	t.srv.Close()
	return nil
}

func (t *faultyTarget) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	at := sink.NumberAt(body)
	n, _ := strconv.Atoi(string(body[at : at+12]))
	delay, _ := time.ParseDuration(req.Header.Get("Delay"))
	times := 1
	if n == t.at {
		switch t.fault {
		case "lose":
			times = 0
		case "repeat":
			times = 3
		case "refuse":
			http.Error(w, "not this one", http.StatusBadRequest)
			return
		case "invent":
			body[at] = 'x'
		case "hurry":
			delay = 0
		case "end":
			t.once.Do(func() { close(t.exited) })
			times = 0
		}
	}
	deliver := func() {
		resp, err := t.srv.Client().Post(t.sinkURL, "application/json", bytes.NewReader(body))
		if err == nil {
			_ = resp.Body.Close()
		}
	}
	for range times {
		if delay > 0 {
			time.AfterFunc(delay, deliver)
		} else {
			deliver()
		}
	}
	_, _ = io.WriteString(w, "{}")
}

// TestFaults plants faults and looks for them in the report.
func TestFaults(t *testing.T) {
	for _, tt := range []struct {
		fault, key string
		value      float64
		text       string
	}{
		{"none", "lost", 0, ""},
		{"lose", "lost", 1, "faulty lost 1 messages"},
		{"repeat", "duplicated", 2, "faulty delivered 2 messages again"},
		{"refuse", "failed", 1, "faulty failed 1 publishes"},
		{"invent", "strays", 1, "faulty made 1 deliveries that were not published"},
	} {
		t.Run(tt.fault, func(t *testing.T) {
			t.Parallel()
			d, out := newDriver(t, 1, faulty{tt.fault, 57})
			if err := d.Closed(t.Context(), 4, 100); err != nil {
				t.Fatal(err)
			}
			r := d.Finish()
			if got := values(t, r, 0, 0)[tt.key]; got != tt.value {
				t.Errorf("got %s %v, want %v", tt.key, got, tt.value)
			}
			faults := strings.Join(r.Faults, "; ")
			if !strings.Contains(faults, tt.text) || tt.text == "" && faults != "" {
				t.Errorf("got faults %q, want %q", faults, tt.text)
			}
			if tt.text != "" && !strings.Contains(out.String(), "FAULT: ") {
				t.Errorf("the output does not show the fault:\n%s", out)
			}
		})
	}
}

func TestEarlyDelivery(t *testing.T) {
	d, _ := newDriver(t, 1, faulty{"hurry", 57})
	if err := d.Delayed(t.Context(), 200, 100, 500*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	r := d.Finish()
	if got := values(t, r, 0, 0)["early"]; got != 1 || len(r.Faults) != 1 {
		t.Errorf("got %v early and faults %q, want 1", got, r.Faults)
	}
}

// TestLateDelivery checks the lateness of a system that is late by a known time.
func TestLateDelivery(t *testing.T) {
	d, _ := newDriver(t, 1, slow{faulty{fault: "none"}})
	if err := d.Delayed(t.Context(), 100, 50, 300*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	v := values(t, d.Finish(), 0, 0)
	if got := v["late_p50_ms"]; got < 49 || got > 10_000 {
		t.Errorf("got late by %v ms, want 50 or what a busy machine adds", got)
	}
}

// slow delivers 50 ms after the time.
type slow struct{ faulty }

type slowTarget struct{ system.Target }

func (s slow) Start(ctx context.Context, dir, sinkURL string) (system.Target, error) {
	t, err := s.faulty.Start(ctx, dir, sinkURL)
	return slowTarget{t}, err
}

func (t slowTarget) AppendPublish(dst, body []byte, delay time.Duration) []byte {
	if delay > 0 {
		delay += 50 * time.Millisecond
	}
	return t.Target.AppendPublish(dst, body, delay)
}

func TestServerEnds(t *testing.T) {
	d, _ := newDriver(t, 1, faulty{"end", 57})
	err := d.Closed(t.Context(), 4, 100)
	if err == nil || !strings.Contains(err.Error(), "the server ended with 119 of 120 messages delivered") {
		t.Errorf("got error %v, want that the server ended", err)
	}
}

func TestLatencyStopsAtALoss(t *testing.T) {
	d, _ := newDriver(t, 1, faulty{"lose", 25})
	err := d.Latency(t.Context(), 10, 0)
	if err == nil || !strings.Contains(err.Error(), "message 5 was not delivered") {
		t.Errorf("got error %v, want that message 5 was not delivered", err)
	}
}

func TestInterrupted(t *testing.T) {
	d, _ := newDriver(t, 1, system.Relay{})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := d.Open(ctx, 10, 2, 1000); err == nil {
		t.Error("got no error, want that of the context")
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v to stop", took)
	}
}
