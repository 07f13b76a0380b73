// Package driver runs the trials of a comparison, alternating between the systems, and reports what they found.
package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/posthaste/posthaste/bench/internal/disk"
	"github.com/posthaste/posthaste/bench/internal/load"
	"github.com/posthaste/posthaste/bench/internal/proc"
	"github.com/posthaste/posthaste/bench/internal/sink"
	"github.com/posthaste/posthaste/bench/internal/system"
)

// The modes, as in Group.Mode.
const (
	modeClosed  = "closed"
	modeOpen    = "open"
	modeLatency = "latency"
	modeDelayed = "delayed"
	modeBatch   = "batch"
	modeScale   = "scale"
	modeStress  = "backpressure"
)

// Config says what all trials have in common.
type Config struct {
	Systems []system.Adapter
	// Dir is where the temporary directory of the data is created; empty is the system's.
	Dir string
	// Rounds is how often each system is measured under each condition.
	Rounds int
	// BodyBytes is the size of a message's body.
	BodyBytes int
	// Warmup is the number of messages sent before a trial is measured.
	Warmup int
	// Timeout bounds one trial, Stall the time without a delivery after which the missing messages count as lost.
	Timeout, Stall time.Duration
	// Settle is how long late duplicates are waited for after the last delivery.
	Settle time.Duration
	// Out gets the tables, Log the progress.
	Out, Log io.Writer
}

// probeWrites is the number of writes of one reading of the disk.
const probeWrites = 25

// Driver runs trials one after the other.
type Driver struct {
	cfg    Config
	names  []string // of cfg.Systems, distinct
	relay  string   // the name of the relay, or empty
	root   string
	probe  *disk.Probe
	writes []time.Duration
	report *Report
}

// New returns a Driver. Close must be called.
func New(ctx context.Context, cfg Config) (*Driver, error) {
	root, err := os.MkdirTemp(cfg.Dir, "posthaste-bench-")
	if err != nil {
		return nil, fmt.Errorf("create the data directory: %w", err)
	}
	d := &Driver{cfg: cfg, root: root}
	if d.probe, err = disk.NewProbe(root); err != nil {
		return nil, errors.Join(err, os.RemoveAll(root))
	}
	d.report = &Report{
		Started:   time.Now(),
		Machine:   thisMachine(),
		BodyBytes: len(sink.Body(cfg.BodyBytes)),
		Rounds:    cfg.Rounds,
		Disk:      Disk{Dir: root},
		Faults:    []string{},
	}
	for _, s := range cfg.Systems {
		name := s.Name()
		for i := 2; slices.Contains(d.names, name); i++ {
			name = fmt.Sprintf("%s#%d", s.Name(), i)
		}
		d.names = append(d.names, name)
		it := System{Name: name, Durability: s.Durability()}
		if v, ok := s.(system.Versioned); ok {
			it.Version = v.Version(ctx)
		}
		d.report.Systems = append(d.report.Systems, it)
	}
	if slices.Contains(d.names, system.Relay{}.Name()) {
		d.relay = system.Relay{}.Name()
	}
	return d, nil
}

// Close removes the data.
func (d *Driver) Close() error {
	return errors.Join(d.probe.Close(), os.RemoveAll(d.root))
}

// Finish prints what concerns the run as a whole and returns the report.
func (d *Driver) Finish() *Report {
	d.report.Seconds = time.Since(d.report.Started).Seconds()
	h := newHistogram()
	for _, t := range d.writes {
		h.record(t)
	}
	r := &d.report.Disk
	r.Writes, r.P50, r.P99 = h.count(), milliseconds(medianOf(d.writes)), milliseconds(h.quantile(0.99))
	m := d.report.Machine
	_, _ = fmt.Fprintf(d.cfg.Out, "\nmachine: %s %s %s, %d × %s, %s\n", m.OS, m.Kernel, m.Arch, m.Cores, m.CPU, m.Go)
	_, _ = fmt.Fprintf(d.cfg.Out, "disk: 4 KiB write and fdatasync in %s: p50 %.3f ms, p99 %.3f ms, %d writes\n",
		r.Dir, r.P50, r.P99, r.Writes)
	for _, s := range d.report.Systems {
		_, _ = fmt.Fprintf(d.cfg.Out, "acknowledged by %s: %s\n", s.Name, s.Durability)
	}
	for _, s := range d.report.Systems {
		if s.Version != "" {
			_, _ = fmt.Fprintf(d.cfg.Out, "version of %s: %s\n", s.Name, s.Version)
		}
	}
	for _, f := range d.report.Faults {
		_, _ = fmt.Fprintf(d.cfg.Out, "FAULT: %s\n", f)
	}
	return d.report
}

// readDisk takes a reading of the disk.
func (d *Driver) readDisk() error {
	times, err := d.probe.Series(probeWrites)
	if err != nil {
		return err
	}
	d.writes = append(d.writes, times...)
	d.report.Disk.Rounds = append(d.report.Disk.Rounds, milliseconds(medianOf(times)))
	return nil
}

// run measures every system in every round of g by trial, which fills in the values of one trial.
func (d *Driver) run(ctx context.Context, g *Group, trial func(context.Context, *session, Values) error) error {
	for round := 1; round <= d.cfg.Rounds; round++ {
		for i, a := range d.cfg.Systems {
			if err := d.readDisk(); err != nil {
				return err
			}
			_, _ = fmt.Fprintf(d.cfg.Log, "%s, round %d of %d: %s\n", g.Title, round, d.cfg.Rounds, d.names[i])
			values := Values{}
			err := d.session(ctx, a, g, func(ctx context.Context, s *session) error {
				s.round, s.system = round, i
				return trial(ctx, s, values)
			})
			if err != nil {
				return fmt.Errorf("%s, round %d, %s: %w", g.Title, round, d.names[i], err)
			}
			g.Trials = append(g.Trials, Trial{System: d.names[i], Round: round, Values: values})
			d.faults(g, d.names[i], round, values)
		}
		g.relate(d.relay, round)
	}
	g.summarize()
	d.report.Groups = append(d.report.Groups, g)
	g.write(d.cfg.Out, d.report.Systems)
	return nil
}

// faults notes what must not happen.
func (d *Driver) faults(g *Group, name string, round int, v Values) {
	for _, f := range []struct{ key, text string }{
		{"lost", "%s, round %d: %s lost %.0f messages"},
		{"duplicated", "%s, round %d: %s delivered %.0f messages again"},
		{"failed", "%s, round %d: %s failed %.0f publishes"},
		{"strays", "%s, round %d: %s made %.0f deliveries that were not published"},
		{"early", "%s, round %d: %s delivered %.0f messages before they were due"},
		{"silent", "%s, round %d: %s refused %.0f requests for now without saying when to try again"},
	} {
		if v[f.key] > 0 {
			d.report.Faults = append(d.report.Faults, fmt.Sprintf(f.text, g.Title, round, name, v[f.key]))
		}
	}
}

// session is one system, running, with a sink and connections to it.
type session struct {
	*Driver

	target    system.Target
	dest      *sink.Sink
	dir       string // of the system's data
	round     int
	system    int // its place in cfg.Systems
	base      time.Time
	tally     *sink.Tally
	generator *load.Generator
	// first is the number of the first message to be measured; those before it were the warm-up.
	first int
	// quietUntil is when deliveries may be expected at the earliest.
	quietUntil time.Time
}

// session starts a system and all around it, warms it up, calls f and stops everything.
func (d *Driver) session(ctx context.Context, a system.Adapter, g *Group, f func(context.Context, *session) error) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.cfg.Timeout, fmt.Errorf("the trial took longer than %v", d.cfg.Timeout))
	defer cancel()
	dir, err := os.MkdirTemp(d.root, a.Name()+"-")
	if err != nil {
		return fmt.Errorf("create a data directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	s := &session{Driver: d, dir: dir, base: time.Now(), first: d.cfg.Warmup}
	s.tally = sink.NewTally(s.base, s.first+g.Messages)
	dest, stopSink, err := receive(ctx, "127.0.0.1", s.tally)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopSink()) }()
	s.dest = dest

	s.target, err = a.Start(ctx, dir, dest.URL())
	if err != nil {
		return err
	}
	// The system stops before the sink, which would otherwise fail its last deliveries.
	defer func() {
		if err := s.target.Stop(); err != nil {
			d.report.Faults = append(d.report.Faults, fmt.Sprintf("%s: %v", g.Title, err))
		}
	}()

	body := sink.Body(d.cfg.BodyBytes)
	if s.generator, err = load.New(ctx, s.target, s.base, g.Connections, body); err != nil {
		return err
	}
	defer s.generator.Close()
	if err := s.warmUp(ctx); err != nil {
		return fmt.Errorf("warm up: %w", err)
	}
	return f(ctx, s)
}

// warmUp publishes the first messages, which are not measured.
func (s *session) warmUp(ctx context.Context) error {
	if s.first == 0 {
		return nil
	}
	res, err := s.generator.Run(ctx, load.Plan{Count: s.first})
	if err != nil {
		return err
	}
	if res.Failed > 0 {
		return res.Failure
	}
	if err := s.await(ctx, s.first); err != nil {
		return err
	}
	if n := s.tally.Distinct(); n < s.first {
		return fmt.Errorf("%d of %d messages were not delivered within %v", s.first-n, s.first, s.cfg.Stall)
	}
	return nil
}

// receive serves a sink until stop is called, which is after ctx is done, too, so that a system ends before its sink.
func receive(ctx context.Context, host string, tally *sink.Tally) (dest *sink.Sink, stop func() error, err error) {
	if dest, err = sink.ListenAt(ctx, host, tally); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, 1)
	go func() { served <- dest.Run(ctx) }()
	return dest, func() error {
		cancel()
		return <-served
	}, nil
}

// await waits until count messages have been delivered, or none was for the time of a stall after quietUntil.
func (s *session) await(ctx context.Context, count int) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	last, since := -1, s.quietUntil
	for {
		n := s.tally.Distinct()
		if n != last {
			last = n
			if now := time.Now(); now.After(since) {
				since = now
			}
		}
		if n >= count || time.Since(since) > s.cfg.Stall {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for deliveries (%d of %d): %w", n, count, context.Cause(ctx))
		case <-s.target.Exited():
			return fmt.Errorf("the server ended with %d of %d messages delivered", n, count)
		case <-tick.C:
		}
	}
}

// pause waits for d.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// reading is what has been used up to a moment.
type reading struct {
	at     time.Time
	server proc.Usage
	// store is known if stored.
	store   proc.Usage
	stored  bool
	flushes int64
	load    time.Duration
	busy    time.Duration
	// commits is known if counted.
	commits float64
	counted bool
}

func (s *session) read(ctx context.Context) (reading, error) {
	r := reading{at: time.Now(), load: proc.SelfCPU(), busy: proc.Busy(), flushes: disk.Flushes(s.root)}
	var err error
	if r.server, err = proc.Of(s.target.PIDs()...); err != nil {
		return r, fmt.Errorf("read what the server has used: %w", err)
	}
	if pids := s.target.StorePIDs(); len(pids) > 0 {
		r.stored = true
		if r.store, err = proc.Of(pids...); err != nil {
			return r, fmt.Errorf("read what the store has used: %w", err)
		}
	}
	if c, ok := s.target.(system.CommitCounter); ok {
		r.commits, r.counted = c.Commits(ctx)
	}
	return r, nil
}

// account publishes the messages of plan, waits until they are delivered, and fills in what that cost and what became
// of them.
func (s *session) account(ctx context.Context, plan load.Plan, v Values) (*load.Result, error) {
	before, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	res, err := s.generator.Run(ctx, plan)
	if err != nil {
		return nil, err
	}
	if err := s.await(ctx, plan.First+res.Accepted()); err != nil {
		return nil, err
	}
	if err := pause(ctx, s.cfg.Settle); err != nil {
		return nil, err
	}
	after, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	s.count(plan, res, v)
	perMessage := 1 / float64(max(res.Accepted(), 1))
	s.cost(before, after, perMessage, v)
	// A server that made something durable has committed; one whose counter stands still does not count.
	if commits := after.commits - before.commits; before.counted && after.counted && commits > 0 {
		v["commits"] = commits * perMessage
	}
	return res, nil
}

// cost fills in what a run has used.
func (s *session) cost(before, after reading, perMessage float64, v Values) {
	used, loadCPU := after.server.Sub(before.server), after.load-before.load
	micros := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) * perMessage }
	mib := func(n int64) float64 { return float64(n) / (1 << 20) }
	known := used.CPU
	if used.CPU >= 0 {
		v["server_cpu_us"] = micros(used.CPU)
	}
	if used.PeakMemory > 0 {
		v["peak_memory_mib"] = mib(used.PeakMemory)
	}
	written := used.Written
	if after.stored {
		store := after.store.Sub(before.store)
		if store.CPU >= 0 && known >= 0 {
			known += store.CPU
			v["store_cpu_us"] = micros(store.CPU)
			v["both_cpu_us"] = micros(known)
		}
		if store.PeakMemory > 0 {
			v["store_peak_memory_mib"] = mib(store.PeakMemory)
		}
		if store.Written < 0 || written < 0 {
			written = -1
		} else {
			written += store.Written
		}
	}
	if written >= 0 {
		v["written_bytes"] = float64(written) * perMessage
	}
	if before.flushes >= 0 && after.flushes >= 0 {
		v["flushes"] = float64(after.flushes-before.flushes) * perMessage
	}
	v["load_cpu_us"] = micros(loadCPU)
	if known > 0 {
		v["load_cpu_share"] = 100 * float64(loadCPU) / float64(loadCPU+known)
	}
	if before.busy >= 0 && after.busy >= 0 && known >= 0 {
		others := max(0, after.busy-before.busy-known-loadCPU)
		capacity := after.at.Sub(before.at) * time.Duration(runtime.NumCPU())
		v["other_cpu_share"] = 100 * float64(others) / float64(capacity)
	}
}

// count fills in what became of the messages of a run.
func (s *session) count(plan load.Plan, res *load.Result, v Values) {
	v["lost"], v["duplicated"] = 0, 0
	for i, m := range res.Messages {
		if _, arrived := s.tally.Arrived(plan.First + i); m.Accepted && !arrived {
			v["lost"]++
		}
		v["duplicated"] += float64(s.tally.Extra(plan.First + i))
	}
	if res.Rejected > 0 {
		v["rejected"] = float64(res.Rejected)
		v["silent"] = float64(res.Silent)
	}
	if res.Failed > 0 {
		v["failed"] = float64(res.Failed)
		_, _ = fmt.Fprintf(s.cfg.Log, "the first failed publish: %v\n", res.Failure)
	}
	if n := s.tally.Strays(); n > 0 {
		v["strays"] = float64(n)
	}
}

// latencies fills in the latencies of a run, from the intended time of each message.
func (s *session) latencies(plan load.Plan, res *load.Result, v Values) {
	accept, delivery := newHistogram(), newHistogram()
	for i, m := range res.Messages {
		if !m.Accepted {
			continue
		}
		accept.record(m.Answered - m.Intended)
		if at, ok := s.tally.Arrived(plan.First + i); ok {
			delivery.record(at - m.Intended)
		}
	}
	for _, q := range []struct {
		name  string
		value float64
	}{{"p50", 0.5}, {"p99", 0.99}, {"p999", 0.999}} {
		if q.value > 0.99 && accept.count() < 1000 {
			continue // fewer messages have no such quantile
		}
		v["accept_"+q.name+"_ms"] = milliseconds(accept.quantile(q.value))
		v["delivery_"+q.name+"_ms"] = milliseconds(delivery.quantile(q.value))
	}
}

// rate fills in the rate from the first publish to the last delivery.
func (s *session) rate(plan load.Plan, res *load.Result, v Values) {
	first, last, delivered := time.Duration(-1), time.Duration(0), 0
	for i, m := range res.Messages {
		if first < 0 || m.Intended < first {
			first = m.Intended
		}
		if at, ok := s.tally.Arrived(plan.First + i); ok {
			last = max(last, at)
			delivered++
		}
	}
	if last > first {
		v["rate"] = float64(delivered) / (last - first).Seconds()
	}
}
