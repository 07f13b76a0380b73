package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/posthaste/posthaste/bench/internal/load"
	"github.com/posthaste/posthaste/bench/internal/proc"
	"github.com/posthaste/posthaste/bench/internal/sink"
	"github.com/posthaste/posthaste/bench/internal/system"
)

// Backlog says what waits in a store while it is measured.
type Backlog struct {
	// Messages is how many.
	Messages int
	// Queues is the number of paused queues that they wait in; 0: they are delayed by one to two days, spread evenly.
	Queues int
	// Random publishes delayed messages in no order of their due times; otherwise each is due after the one before.
	Random bool
}

func (b Backlog) String() string {
	switch b.Queues {
	case 0:
		if b.Random {
			return fmt.Sprintf("%d delayed messages pending, published in no order", b.Messages)
		}
		return fmt.Sprintf("%d delayed messages pending", b.Messages)
	case 1:
		return fmt.Sprintf("%d messages waiting in a queue", b.Messages)
	}
	return fmt.Sprintf("%d messages waiting in %d queues", b.Messages, b.Queues)
}

const (
	fillBatch   = 100
	fillPiece   = 100_000 // messages of which a record is kept at a time
	fillWorkers = 32
	// scaleConnections publish while it is measured what the backlog costs.
	scaleConnections = 64
	// scalePairs is how often the full and the empty store are measured in turns.
	scalePairs = 3
	// queueRoom is the parallelism of the queues.
	queueRoom = 10
	// drained is for how long deliveries are counted after a resume.
	drained = 5 * time.Second
	// downtime is the delay of the message that is due while the server is down.
	downtime = 5 * time.Second
)

// Scale measures what messages that wait cost: the rate of others relative to a second server whose store is empty,
// measured in turns; memory; and the time from a start to the first delivery, of a message that became due during the
// downtime.
func (d *Driver) Scale(ctx context.Context, backlog Backlog, messages int) error {
	g := &Group{
		Title:       fmt.Sprintf("%v, %d connections, %d messages of %d bytes", backlog, scaleConnections, messages, d.report.BodyBytes),
		Mode:        modeScale,
		Connections: scaleConnections,
		// Those before and after the restart, and the one that becomes due in between.
		Messages: messages*(2*scalePairs+1) + d.cfg.Warmup + 1,
		Pending:  backlog.Messages,
		Queues:   backlog.Queues,
	}
	adapters := d.cfg.Systems
	return d.run(ctx, g, func(ctx context.Context, s *session, v Values) (err error) {
		target, ok := s.target.(system.Scaler)
		if !ok {
			return nil
		}
		elsewhere := sink.NewTally(s.base, 0)
		far, stop, err := receive(ctx, "127.0.0.1", elsewhere)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
		if err := s.fill(ctx, target, backlog, far.URL(), v); err != nil {
			return fmt.Errorf("fill the store: %w", err)
		}
		// Filling takes longer than the server keeps an idle connection.
		s.generator.Close()
		if s.generator, err = load.New(ctx, s.target, s.base, scaleConnections, sink.Body(s.cfg.BodyBytes)); err != nil {
			return err
		}
		next, err := s.turns(ctx, adapters[s.system], messages, v)
		if err != nil {
			return err
		}
		used, err := proc.Of(s.target.PIDs()...)
		if err != nil {
			return err
		}
		v["peak_memory_mib"] = float64(used.PeakMemory) / (1 << 20)
		if err := s.restart(ctx, target, next, v); err != nil {
			return fmt.Errorf("restart: %w", err)
		}
		if _, err := s.batchOf(ctx, s.generator, next+1, messages, v); err != nil {
			return err
		}
		if used, err = proc.Of(s.target.PIDs()...); err != nil {
			return err
		}
		v["restarted_peak_memory_mib"] = float64(used.PeakMemory) / (1 << 20)
		if backlog.Queues == 0 {
			return nil
		}
		before := elsewhere.Strays()
		for q := range min(backlog.Queues, 100) {
			if err := target.Resume(ctx, queueName(q)); err != nil {
				return err
			}
		}
		if err := pause(ctx, drained); err != nil {
			return err
		}
		v["drained_rate"] = float64(elsewhere.Strays()-before) / drained.Seconds()
		return nil
	})
}

func queueName(n int) string { return "q" + strconv.Itoa(n) }

// fill makes the backlog.
func (s *session) fill(ctx context.Context, target system.Scaler, b Backlog, to string, v Values) error {
	if b.Messages == 0 {
		return nil
	}
	for q := range b.Queues {
		if err := target.Pause(ctx, queueName(q), queueRoom); err != nil {
			return err
		}
	}
	generator, err := load.New(ctx, s.target, s.base, fillWorkers, sink.Body(s.cfg.BodyBytes))
	if err != nil {
		return err
	}
	defer generator.Close()
	start := time.Now()
	for at := 0; at < b.Messages; at += fillPiece {
		res, err := generator.Run(ctx, load.Plan{
			First: at, Count: min(fillPiece, b.Messages-at), Batch: fillBatch,
			Shape: func(n int, item *load.Item) {
				item.Destination = to
				if b.Queues > 0 {
					item.Queue = queueName(n % b.Queues)
					return
				}
				place := uint64(n) * uint64(later.Milliseconds()) / uint64(b.Messages)
				if b.Random {
					place = uint64(n) * 0x9e3779b97f4a7c15 >> 11 % uint64(later.Milliseconds()) // a multiplicative hash
				}
				item.Delay = later + time.Duration(place)*time.Millisecond
			},
		})
		if err != nil {
			return err
		}
		if res.Failed > 0 {
			return res.Failure
		}
		if done := at + len(res.Messages); done%(5*fillPiece) == 0 || done == b.Messages {
			_, _ = fmt.Fprintf(s.cfg.Log, "  filled %d in %v\n", done, time.Since(start).Round(time.Second))
		}
	}
	v["fill_rate"] = float64(b.Messages) / time.Since(start).Seconds()
	v["store_bytes"] = float64(size(s.dir)) / float64(b.Messages)
	return nil
}

// size is the number of bytes in the files below dir.
func size(dir string) int64 {
	var n int64
	// A file that goes away meanwhile is not counted.
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil
		}
		if info, err := e.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	return n
}

// turns measures the rate with the backlog and that of a second server without one, in turns, and returns the number of
// the next message.
func (s *session) turns(ctx context.Context, a system.Adapter, messages int, v Values) (next int, err error) {
	dir, err := os.MkdirTemp(s.root, "empty-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	target, err := a.Start(ctx, dir, s.dest.URL())
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, target.Stop()) }()
	empty, err := load.New(ctx, target, s.base, scaleConnections, sink.Body(s.cfg.BodyBytes))
	if err != nil {
		return 0, err
	}
	defer empty.Close()
	next = s.first
	if s.cfg.Warmup > 0 {
		if _, err := s.batchOf(ctx, empty, next, s.cfg.Warmup, v); err != nil {
			return 0, err
		}
		next += s.cfg.Warmup
	}
	var ratios, fulls, empties []float64
	for pair := range scalePairs {
		var rates [2]float64 // with the backlog, without
		for i := range 2 {
			which := (i + pair) % 2
			if rates[which], err = s.batchOf(ctx, []*load.Generator{s.generator, empty}[which], next, messages, v); err != nil {
				return 0, err
			}
			next += messages
		}
		ratios = append(ratios, rates[0]/rates[1])
		fulls, empties = append(fulls, rates[0]), append(empties, rates[1])
	}
	v["rate_full"], v["rate_empty"], v["full_ratio"] = median(fulls), median(empties), median(ratios)
	return next, nil
}

// batchOf publishes messages in a closed loop, waits until they are delivered and returns the rate of that.
func (s *session) batchOf(ctx context.Context, g *load.Generator, first, count int, v Values) (float64, error) {
	plan := load.Plan{First: first, Count: count}
	res, err := g.Run(ctx, plan)
	if err != nil {
		return 0, err
	}
	if err := s.await(ctx, first+res.Accepted()); err != nil {
		return 0, err
	}
	w := Values{}
	s.rate(plan, res, w)
	s.count(plan, res, w)
	for _, key := range []string{"lost", "duplicated", "failed", "rejected", "silent"} {
		v[key] += w[key]
	}
	return w["rate"], nil
}

// restart stops the server and starts it again after message n became due.
func (s *session) restart(ctx context.Context, target system.Scaler, n int, v Values) error {
	res, err := s.generator.Run(ctx, load.Plan{First: n, Count: 1, Delay: func(int) time.Duration { return downtime }})
	if err != nil {
		return err
	}
	if res.Failed > 0 {
		return res.Failure
	}
	due := time.Now().Add(downtime)
	s.generator.Close()
	stopped, began := time.Now(), time.Time{}
	err = target.Restart(ctx, func() error {
		v["stop_ms"] = milliseconds(time.Since(stopped))
		err := pause(ctx, time.Until(due)+100*time.Millisecond)
		began = time.Now()
		return err
	})
	if err != nil {
		return err
	}
	v["ready_ms"] = milliseconds(time.Since(began))
	if err := s.await(ctx, n+1); err != nil {
		return err
	}
	at, ok := s.tally.Arrived(n)
	if !ok {
		return fmt.Errorf("the message that was due while the server was down was not delivered within %v", s.cfg.Stall)
	}
	if v["startup_ms"] = milliseconds(at - began.Sub(s.base)); v["startup_ms"] < 0 {
		return errors.New("the message that was to become due while the server was down was delivered before")
	}
	s.generator, err = load.New(ctx, s.target, s.base, scaleConnections, sink.Body(s.cfg.BodyBytes))
	return err
}
