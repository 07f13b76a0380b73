// Command bench compares servers that take a message by HTTP and deliver it by HTTP. README.md says what it measures.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/posthaste/posthaste/bench/internal/chart"
	"github.com/posthaste/posthaste/bench/internal/driver"
	"github.com/posthaste/posthaste/bench/internal/system"
)

const usage = `usage: go run . MODE [flags]

modes:
  throughput   the greatest rate (closed loop), for each number of -connections
  open         latencies at fixed rates (open loop), for each of -rates
  latency      the way of one message through an idle server, in synced writes of the disk
  delayed      how late delayed messages are, -rate due each second
  batch        messages in batches, relative to a request for each
  scale        what -pending messages that wait cost: rate, memory, start
  backpressure a slow sink, a slow disk, and many hosts of which one hangs
  all          all of them but scale and backpressure
  chart REPORT PICTURE       draws the closed loops of a report as SVG
  relay ADDR                 the relay itself
  adapter NAME ADDR STORE    another system itself, on a store that runs

"go run . MODE -h" lists the flags of a mode.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		_, _ = fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// options are the flags of all modes.
type options struct {
	systems, posthaste, dir, json string
	profile                       string
	rounds, body, warmup          int
	timeout, stall, settle        time.Duration
	short                         bool

	connections, rates string
	messages           int     // throughput
	openConnections    int     // open
	seconds            float64 // open
	latencyMessages    int
	bar                float64
	delayedRate        float64
	delayedSeconds     float64
	lead               time.Duration
	batchConnections   int
	batchMessages      int
	batchSize          int
	pending            string
	queues             int
	random             bool
	scaleMessages      int
	stress             driver.Stress
}

// parse reads the flags of a mode.
func parse(mode string, args []string, out io.Writer) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet(mode, flag.ContinueOnError)
	f.SetOutput(out)
	f.StringVar(&o.systems, "systems", "relay,posthaste", "the `systems` to compare, in this order, or \"installed\"; one may be named twice")
	f.StringVar(&o.posthaste, "posthaste", "", "the posthaste `binary` (built from the parent directory if empty)")
	f.StringVar(&o.dir, "dir", "", "the `directory` under which data is kept while a trial runs (the system's temporary one if empty)")
	f.StringVar(&o.json, "json", "", "also write the report to this `file` as JSON")
	f.StringVar(&o.profile, "cpuprofile", "", "write a CPU profile of the load generator and the sink to this `file`")
	f.IntVar(&o.rounds, "rounds", 3, "how often each system is measured under each condition")
	f.IntVar(&o.body, "body", 256, "the size of a message's body in `bytes`")
	f.IntVar(&o.warmup, "warmup", 500, "the number of `messages` sent before each trial is measured")
	longest := 5 * time.Minute
	if mode == "scale" {
		longest = time.Hour
	}
	f.DurationVar(&o.timeout, "timeout", longest, "the longest time of one trial")
	f.DurationVar(&o.stall, "stall", 15*time.Second, "the time without a delivery after which missing messages are lost")
	f.DurationVar(&o.settle, "settle", 300*time.Millisecond, "how long late duplicates are waited for")
	all := mode == "all"
	if all {
		f.BoolVar(&o.short, "short", false, "one small round of everything, to see that it works")
	}
	if all || mode == "throughput" {
		f.StringVar(&o.connections, "connections", "64,512", "the `numbers` of connections")
		f.IntVar(&o.messages, "messages", 20000, "the number of `messages` of a trial")
	}
	if all || mode == "open" {
		f.StringVar(&o.rates, "rates", "500,2000", "the `rates`, in messages a second")
		f.IntVar(&o.openConnections, "open-connections", 128, "the number of `connections` that keep up an open loop")
		f.Float64Var(&o.seconds, "open-seconds", 10, "how long a trial of an open loop publishes")
	}
	if all || mode == "latency" {
		f.IntVar(&o.latencyMessages, "latency-messages", 200, "the number of `messages`, one at a time")
		f.Float64Var(&o.bar, "bar", 3, "how many synced writes a message may take from publish to delivery; 0 for no bar")
	}
	if all || mode == "delayed" {
		f.Float64Var(&o.delayedRate, "rate", 1000, "how many delayed messages are due each second")
		f.Float64Var(&o.delayedSeconds, "seconds", 20, "over how many seconds they are spread")
		f.DurationVar(&o.lead, "lead", 0, "how long before the first is due publishing begins (0: enough at 1,500 messages a second)")
	}
	if all || mode == "batch" {
		f.IntVar(&o.batchConnections, "batch-connections", 64, "the number of `connections`")
		f.IntVar(&o.batchMessages, "batch-messages", 20000, "the number of `messages` of a trial that are published one by one; four times as many are in batches")
		f.IntVar(&o.batchSize, "batch", 100, "the number of `messages` in a batch")
	}
	if mode == "scale" {
		f.StringVar(&o.pending, "pending", "0,1000000,10000000", "the `numbers` of messages that wait")
		f.IntVar(&o.queues, "queues", 0, "the `number` of paused queues that they wait in; 0: they are delayed")
		f.BoolVar(&o.random, "random", false, "publish the delayed messages in no order of their due times")
		f.IntVar(&o.scaleMessages, "turn", 10000, "the number of `messages` of a turn")
	}
	if mode == "backpressure" {
		f.IntVar(&o.stress.Connections, "stress-connections", 256, "the number of `connections`")
		f.IntVar(&o.stress.Messages, "stress-messages", 50000, "the number of `messages` while the sink or the disk is slow")
		f.DurationVar(&o.stress.Answer, "answer", 2*time.Second, "how long the slow sink takes to answer")
		f.IntVar(&o.stress.Hosts, "hosts", 1000, "the `number` of hosts, of which one hangs")
		f.Float64Var(&o.stress.Rate, "host-rate", 300, "how many messages a second are published to the hosts")
		f.Float64Var(&o.stress.Seconds, "host-seconds", 20, "for how long, before and after one of them hangs")
		f.Float64Var(&o.stress.HungShare, "share", 0.5, "the part of the messages that goes to the host that hangs")
	}
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("%s takes no argument %q", mode, f.Arg(0))
	}
	if o.short {
		o.rounds, o.connections, o.messages, o.warmup = 1, "64", 2000, 100
		o.rates, o.seconds, o.latencyMessages = "200", 3, 50
		o.delayedRate, o.delayedSeconds = 200, 3
		o.batchMessages = 1000
	}
	return o, o.validate(f)
}

// validate bounds what a run may take of the machine.
func (o *options) validate(f *flag.FlagSet) error {
	var faults []error
	within := func(name string, value, least, most float64) {
		if f.Lookup(name) != nil && (value < least || value > most) {
			faults = append(faults, fmt.Errorf("-%s must be from %g to %g", name, least, most))
		}
	}
	within("rounds", float64(o.rounds), 1, 1000)
	within("body", float64(o.body), 1, 512<<10)
	within("warmup", float64(o.warmup), 0, 100_000)
	within("messages", float64(o.messages), 1, 5_000_000)
	within("open-connections", float64(o.openConnections), 1, 4096)
	within("open-seconds", o.seconds, 0.1, 3600)
	within("batch-connections", float64(o.batchConnections), 1, 1024)
	within("batch-messages", float64(o.batchMessages), 1, 1_000_000)
	within("batch", float64(o.batchSize), 2, 1000)
	within("queues", float64(o.queues), 0, 100_000)
	within("turn", float64(o.scaleMessages), 1, 1_000_000)
	within("stress-connections", float64(o.stress.Connections), 1, 4096)
	within("stress-messages", float64(o.stress.Messages), 1, 5_000_000)
	within("host-rate", o.stress.Rate, 1, 100_000)
	within("host-seconds", o.stress.Seconds, 0.1, 3600)
	within("hosts", float64(o.stress.Hosts), 2, 5000)
	within("share", o.stress.HungShare, 0, 0.9)
	within("latency-messages", float64(o.latencyMessages), 1, 100_000)
	within("rate", o.delayedRate, 1, 100_000)
	within("seconds", o.delayedSeconds, 0.1, 3600)
	return errors.Join(faults...)
}

// numbers reads a list of numbers from least to most.
func numbers(name, list string, least, most float64) ([]float64, error) {
	var ns []float64
	for s := range strings.SplitSeq(list, ",") {
		n, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
		if err != nil || n < least || n > most {
			return nil, fmt.Errorf("-%s: %q is no number from %g to %g", name, s, least, most)
		}
		ns = append(ns, n)
	}
	return ns, nil
}

// run is the command.
func run(ctx context.Context, args []string, out, log io.Writer) (err error) {
	if len(args) == 0 {
		_, _ = io.WriteString(log, usage)
		return errors.New("no mode given")
	}
	mode := args[0]
	switch mode {
	case "throughput", "open", "latency", "delayed", "batch", "scale", "backpressure", "all":
	case system.RelayCommand:
		if len(args) != 2 {
			return errors.New("relay takes the address to listen on")
		}
		return system.RunRelay(ctx, args[1], out)
	case system.PeerCommand:
		if len(args) != 4 {
			return errors.New("adapter takes a name, the address to listen on, and the store")
		}
		return system.RunPeer(ctx, args[1], args[2], args[3], out)
	case "chart":
		if len(args) != 3 {
			return errors.New("chart takes a report and the picture to write")
		}
		return draw(args[1], args[2])
	case "help", "-h", "-help", "--help":
		_, _ = io.WriteString(out, usage)
		return nil
	default:
		_, _ = io.WriteString(log, usage)
		return fmt.Errorf("unknown mode %q", mode)
	}
	o, err := parse(mode, args[1:], log)
	if err != nil {
		return err
	}
	var connections, rates, pending []float64
	if o.connections != "" {
		if connections, err = numbers("connections", o.connections, 1, 4096); err != nil {
			return err
		}
	}
	if o.rates != "" {
		if rates, err = numbers("rates", o.rates, 1, 100_000); err != nil {
			return err
		}
	}
	if o.pending != "" {
		if pending, err = numbers("pending", o.pending, 0, 20_000_000); err != nil {
			return err
		}
	}
	systems, cleanUp, err := o.adapters(ctx, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cleanUp()) }()

	d, err := driver.New(ctx, driver.Config{
		Systems:   systems,
		Dir:       o.dir,
		Rounds:    o.rounds,
		BodyBytes: o.body,
		Warmup:    o.warmup,
		Timeout:   o.timeout,
		Stall:     o.stall,
		Settle:    o.settle,
		Out:       out,
		Log:       log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if o.profile != "" {
		f, err := os.Create(o.profile)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}

	for _, c := range connections {
		if err := d.Closed(ctx, int(c), o.messages); err != nil {
			return err
		}
	}
	for _, r := range rates {
		if err := d.Open(ctx, r, o.openConnections, max(1, int(r*o.seconds))); err != nil {
			return err
		}
	}
	if o.latencyMessages > 0 {
		if err := d.Latency(ctx, o.latencyMessages, o.bar); err != nil {
			return err
		}
	}
	if o.delayedRate > 0 {
		if err := d.Delayed(ctx, o.delayedRate, max(1, int(o.delayedRate*o.delayedSeconds)), o.lead); err != nil {
			return err
		}
	}
	if o.batchMessages > 0 {
		if err := d.Batch(ctx, o.batchConnections, o.batchMessages, o.batchSize); err != nil {
			return err
		}
	}
	for _, n := range pending {
		if err := d.Scale(ctx, driver.Backlog{Messages: int(n), Queues: o.queues, Random: o.random}, o.scaleMessages); err != nil {
			return err
		}
	}
	if o.stress.Messages > 0 {
		if err := d.Stress(ctx, o.stress); err != nil {
			return err
		}
	}
	report := d.Finish()
	if o.json != "" {
		if err := report.WriteJSON(o.json); err != nil {
			return err
		}
	}
	if n := len(report.Faults); n > 0 {
		return fmt.Errorf("%d faults, the first: %s", n, report.Faults[0])
	}
	return nil
}

// draw draws a report that was written with -json.
func draw(report, picture string) error {
	b, err := os.ReadFile(report)
	if err != nil {
		return err
	}
	var r driver.Report
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("read %s: %w", report, err)
	}
	var svg bytes.Buffer
	if err := chart.Write(&svg, &r); err != nil {
		return err
	}
	return os.WriteFile(picture, svg.Bytes(), 0o644)
}

// installed stands for all systems that this machine has what they need for.
const installed = "installed"

// adapter is a system that may lack something on this machine.
type adapter interface {
	system.Adapter
	Missing() error
}

// known returns every system, in the order of the tables. The relay is always there.
func (o *options) known() []adapter {
	all := []adapter{system.Relay{}, system.Posthaste{Path: o.posthaste}, system.Posthaste{Path: o.posthaste, Postgres: true}}
	for _, p := range system.Peers {
		all = append(all, p)
	}
	return all
}

// adapters returns the systems to compare, and what removes the binary that was built for them.
func (o *options) adapters(ctx context.Context, log io.Writer) (systems []system.Adapter, cleanUp func() error, err error) {
	cleanUp = func() error { return nil }
	if err := o.check(); err != nil {
		return nil, nil, err
	}
	if o.posthaste != "" {
		if o.posthaste, err = filepath.Abs(o.posthaste); err != nil {
			return nil, nil, err
		}
	} else if o.systems == installed || strings.Contains(o.systems, "posthaste") {
		dir, err := os.MkdirTemp("", "posthaste-bench-bin-")
		if err != nil {
			return nil, nil, err
		}
		cleanUp = func() error { return os.RemoveAll(dir) }
		if o.posthaste, err = build(ctx, dir, log); err != nil {
			return nil, nil, errors.Join(err, cleanUp())
		}
	}
	for _, a := range o.known() {
		if o.systems != installed {
			break
		}
		if err := a.Missing(); err != nil {
			_, _ = fmt.Fprintf(log, "left out: %s: %v\n", a.Name(), err)
			continue
		}
		systems = append(systems, a)
	}
	for name := range strings.SplitSeq(o.systems, ",") {
		for _, a := range o.known() {
			if a.Name() == strings.TrimSpace(name) {
				systems = append(systems, a)
			}
		}
	}
	return systems, cleanUp, nil
}

// check reports the first of the named systems that there is not, or that lacks something.
func (o *options) check() error {
	if o.systems == installed {
		return nil
	}
	var names []string
	missing := map[string]error{}
	for _, a := range o.known() {
		names = append(names, a.Name())
		missing[a.Name()] = a.Missing()
	}
	for name := range strings.SplitSeq(o.systems, ",") {
		name = strings.TrimSpace(name)
		err, ok := missing[name]
		if !ok {
			return fmt.Errorf("-systems: %q is not known; there are %s, or %s for all that can run here", name, strings.Join(names, ", "), installed)
		}
		if err != nil {
			return fmt.Errorf("-systems: %s: %w", name, err)
		}
	}
	return nil
}

// build builds the server of the parent directory into dir.
func build(ctx context.Context, dir string, log io.Writer) (string, error) {
	if b, err := os.ReadFile("../go.mod"); err != nil || !strings.HasPrefix(string(b), "module github.com/posthaste/posthaste\n") {
		return "", errors.New("the parent directory is not the server's: run in bench/, or give -posthaste")
	}
	_, _ = fmt.Fprintln(log, "building posthaste")
	path := filepath.Join(dir, "posthaste")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, "./cmd/posthaste")
	cmd.Dir = ".."
	if b, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build posthaste: %w\n%s", err, b)
	}
	return path, nil
}
