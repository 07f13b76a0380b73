package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/posthaste/posthaste/bench/internal/load"
	"github.com/posthaste/posthaste/bench/internal/sink"
)

// Stress says what the backpressure mode does to a system.
type Stress struct {
	Connections, Messages int
	// Answer is how long the slow sink takes to answer.
	Answer time.Duration
	// Hosts is the number of destinations, of which one hangs; Rate and Seconds say what is published to all of them, and
	// HungShare is the part of it that goes to the one that hangs.
	Hosts         int
	Rate, Seconds float64
	HungShare     float64
}

// Stress measures a system whose sink is slow, one whose disk is slow, and one of whose many destinations one hangs.
func (d *Driver) Stress(ctx context.Context, c Stress) error {
	if err := d.slowSink(ctx, c); err != nil {
		return err
	}
	if err := d.slowStore(ctx, c); err != nil {
		return err
	}
	return d.hungHost(ctx, c)
}

// slowSink publishes as fast as the system accepts while each delivery takes long, then lets the sink catch up.
func (d *Driver) slowSink(ctx context.Context, c Stress) error {
	g := &Group{
		Title: fmt.Sprintf("slow sink, %v for an answer, %d connections, %d messages of %d bytes", c.Answer, c.Connections, c.Messages,
			d.report.BodyBytes),
		Mode: modeStress, Connections: c.Connections, Messages: c.Messages,
	}
	return d.run(ctx, g, func(ctx context.Context, s *session, v Values) error {
		s.dest.Hold(c.Answer)
		return s.trouble(ctx, load.Plan{First: s.first, Count: c.Messages}, func() error {
			s.dest.Hold(0)
			return nil
		}, v)
	})
}

// storm is what keeps the disk busy: goroutines that write and sync.
const (
	stormWriters = 4
	stormBytes   = 4 << 20
)

// slowStore publishes as fast as the system accepts while others write to the same disk and sync it all the time.
func (d *Driver) slowStore(ctx context.Context, c Stress) error {
	g := &Group{
		Title: fmt.Sprintf("slow disk, %d processes' worth of %d MiB writes and syncs, %d connections, %d messages of %d bytes",
			stormWriters, stormBytes>>20, c.Connections, c.Messages, d.report.BodyBytes),
		Mode: modeStress, Connections: c.Connections, Messages: c.Messages,
	}
	return d.run(ctx, g, func(ctx context.Context, s *session, v Values) error {
		stop := d.storm(ctx)
		writes, err := s.probe.Series(probeWrites)
		if err != nil {
			return errors.Join(err, stop())
		}
		v["synced_write_ms"] = milliseconds(medianOf(writes))
		err = s.trouble(ctx, load.Plan{First: s.first, Count: c.Messages}, stop, v)
		return err
	})
}

// storm keeps the disk busy until the returned function is called, or ctx is done.
func (d *Driver) storm(ctx context.Context) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	faults := make([]error, stormWriters)
	for i := range stormWriters {
		wg.Go(func() { faults[i] = writeAndSync(ctx, d.root) })
	}
	var once sync.Once
	return func() error {
		once.Do(func() {
			cancel()
			wg.Wait()
		})
		return errors.Join(faults...)
	}
}

// writeAndSync writes a file again and again, and syncs it each time.
func writeAndSync(ctx context.Context, dir string) (err error) {
	f, err := os.CreateTemp(dir, "storm-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	block := make([]byte, stormBytes)
	for ctx.Err() == nil {
		if _, err := f.WriteAt(block, 0); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// trouble publishes the messages of plan, ends the trouble when all are answered, waits for the deliveries, and fills in
// how the system bore it.
func (s *session) trouble(ctx context.Context, plan load.Plan, end func() error, v Values) error {
	before, err := s.read(ctx)
	if err != nil {
		return errors.Join(err, end())
	}
	res, err := s.generator.Run(ctx, plan)
	if err := errors.Join(err, end()); err != nil {
		return err
	}
	over := time.Since(s.base)
	if err := s.await(ctx, plan.First+res.Accepted()); err != nil {
		return err
	}
	after, err := s.read(ctx)
	if err != nil {
		return err
	}
	s.count(plan, res, v)
	s.latencies(plan, res, v)
	s.cost(before, after, 1/float64(max(res.Accepted(), 1)), v)
	v["accepted_rate"] = acceptedRate(res)
	last := over
	for i := range res.Messages {
		if at, ok := s.tally.Arrived(plan.First + i); ok {
			last = max(last, at)
		}
	}
	v["recovered_ms"] = milliseconds(last - over)
	return nil
}

// hungHost publishes to many hosts at a fixed rate, first while all answer, then while one takes its messages and never
// answers. The latencies are those of the others.
func (d *Driver) hungHost(ctx context.Context, c Stress) error {
	count := max(1, int(c.Rate*c.Seconds))
	g := &Group{
		Title: fmt.Sprintf("%d hosts, one of which hangs with %.0f %% of the messages, open loop, %g messages/s, %d messages of %d bytes",
			c.Hosts, 100*c.HungShare, c.Rate, 2*count, d.report.BodyBytes),
		Mode: modeStress, Connections: c.Connections, Rate: c.Rate, Messages: 2 * count,
	}
	return d.run(ctx, g, func(ctx context.Context, s *session, v Values) (err error) {
		if _, ok := s.target.(load.Router); !ok {
			return nil
		}
		urls := make([]string, c.Hosts)
		var hung *sink.Sink
		for i := range urls {
			// 127.0.1.1 and up: every address of 127.0.0.0/8 is this machine's.
			host := fmt.Sprintf("127.0.%d.%d", 1+i/250, 1+i%250)
			dest, stop, err := receive(ctx, host, s.tally)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, stop()) }()
			urls[i] = dest.URL()
			if i == 0 {
				hung = dest
			}
		}
		before, err := s.read(ctx)
		if err != nil {
			return err
		}
		toHung := func(n int) bool { return int(float64(n)*c.HungShare) != int(float64(n+1)*c.HungShare) }
		destination := func(n int) string {
			if toHung(n) {
				return urls[0]
			}
			return urls[1+n%(len(urls)-1)]
		}
		for i, phase := range []string{"calm", "hang"} {
			if phase == "hang" {
				hung.Hold(time.Hour)
			}
			plan := load.Plan{First: s.first + i*count, Count: count, Rate: c.Rate, Destination: destination}
			if err := s.others(ctx, plan, toHung, phase, v); err != nil {
				return err
			}
		}
		v["hang_ratio"] = v["hang_p99_ms"] / v["calm_p99_ms"]
		after, err := s.read(ctx)
		if err != nil {
			return err
		}
		s.cost(before, after, 1/float64(2*count), v)
		return nil
	})
}

// others publishes the messages of plan and fills in the latencies of those that do not go to the host that may hang.
func (s *session) others(ctx context.Context, plan load.Plan, toHung func(n int) bool, phase string, v Values) error {
	res, err := s.generator.Run(ctx, plan)
	if err != nil {
		return err
	}
	v["failed"] += float64(res.Failed)
	v["rejected"] += float64(res.Rejected)
	v["silent"] += float64(res.Silent)
	missing := func() (n int) {
		for i, m := range res.Messages {
			if _, ok := s.tally.Arrived(plan.First + i); m.Accepted && !ok && !toHung(plan.First+i) {
				n++
			}
		}
		return n
	}
	for deadline := time.Now().Add(s.cfg.Stall); missing() > 0 && time.Now().Before(deadline); {
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	v["lost"] += float64(missing())
	h := newHistogram()
	for i, m := range res.Messages {
		if at, ok := s.tally.Arrived(plan.First + i); ok && m.Accepted && !toHung(plan.First+i) {
			h.record(at - m.Intended)
		}
	}
	v[phase+"_p50_ms"], v[phase+"_p99_ms"] = milliseconds(h.quantile(0.5)), milliseconds(h.quantile(0.99))
	return nil
}
