package driver

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/posthaste/posthaste/bench/internal/load"
	"github.com/posthaste/posthaste/bench/internal/system"
)

// Closed measures the greatest rate: every connection publishes its next message when the last one is answered.
func (d *Driver) Closed(ctx context.Context, connections, messages int) error {
	g := &Group{
		Title:       fmt.Sprintf("closed loop, %d connections, %d messages of %d bytes", connections, messages, d.report.BodyBytes),
		Mode:        modeClosed,
		Connections: connections,
		Messages:    messages,
	}
	return d.run(ctx, g, func(ctx context.Context, s *session, v Values) error {
		plan := load.Plan{First: s.first, Count: messages}
		res, err := s.account(ctx, plan, v)
		if err != nil {
			return err
		}
		s.rate(plan, res, v)
		s.latencies(plan, res, v)
		return nil
	})
}

// Open measures latencies at a fixed rate: messages have a timetable, whatever the server does.
func (d *Driver) Open(ctx context.Context, rate float64, connections, messages int) error {
	g := &Group{
		Title:       fmt.Sprintf("open loop, %g messages/s, %d messages of %d bytes", rate, messages, d.report.BodyBytes),
		Mode:        modeOpen,
		Connections: connections,
		Rate:        rate,
		Messages:    messages,
	}
	return d.run(ctx, g, func(ctx context.Context, s *session, v Values) error {
		plan := load.Plan{First: s.first, Count: messages, Rate: rate}
		res, err := s.account(ctx, plan, v)
		if err != nil {
			return err
		}
		s.rate(plan, res, v)
		s.latencies(plan, res, v)
		lag := newHistogram()
		for _, m := range res.Messages {
			lag.record(m.Sent - m.Intended)
		}
		v["send_lag_p99_ms"] = milliseconds(lag.quantile(0.99))
		return nil
	})
}

// idleGap is how long nothing happens before and after a synced write between two messages of Latency.
const idleGap = 2 * time.Millisecond

// Latency measures the way of one message through an idle server, from the sending of the request to the arrival of
// the delivery, in units of a synced write, of which one is made between any two messages.
func (d *Driver) Latency(ctx context.Context, messages int, bar float64) error {
	g := &Group{
		Title:       fmt.Sprintf("idle, one message at a time, %d messages of %d bytes", messages, d.report.BodyBytes),
		Mode:        modeLatency,
		Connections: 1,
		Messages:    messages,
	}
	err := d.run(ctx, g, func(ctx context.Context, s *session, v Values) error {
		plan := load.Plan{First: s.first, Count: messages}
		all := &load.Result{}
		var writes []time.Duration
		for i := range messages {
			res, err := s.generator.Run(ctx, load.Plan{First: s.first + i, Count: 1})
			if err != nil {
				return err
			}
			if res.Failed > 0 {
				return res.Failure
			}
			all.Messages = append(all.Messages, res.Messages...)
			all.Rejected += res.Rejected
			if err := s.await(ctx, s.first+i+1); err != nil {
				return err
			}
			if _, ok := s.tally.Arrived(s.first + i); !ok {
				return fmt.Errorf("message %d was not delivered within %v", i, s.cfg.Stall)
			}
			if err := pause(ctx, idleGap); err != nil {
				return err
			}
			w, err := s.probe.Write()
			if err != nil {
				return err
			}
			writes = append(writes, w)
			if err := pause(ctx, idleGap); err != nil {
				return err
			}
		}
		if err := pause(ctx, s.cfg.Settle); err != nil {
			return err
		}
		s.count(plan, all, v)
		s.latencies(plan, all, v)
		s.writes = append(s.writes, writes...)
		unit := milliseconds(medianOf(writes))
		v["synced_write_ms"] = unit
		v["delivery_writes"] = v["delivery_p50_ms"] / unit
		return nil
	})
	if err != nil || bar <= 0 {
		return err
	}
	for _, s := range d.report.Systems {
		got, word := g.Summary[s.Name]["delivery_writes"].Median, "met"
		if got > bar {
			word = "missed"
		}
		_, _ = fmt.Fprintf(d.cfg.Out, "  %s: %.2f synced writes from publish to delivery; the bar of %g is %s\n", s.Name, got, bar, word)
	}
	return nil
}

// leadRate is the rate at which a server is trusted to take delayed messages before the first is due.
const leadRate = 1500

// delayedConnections is small, so that a publish is short and the creation of a message is known exactly.
const delayedConnections = 8

// Delayed publishes messages in advance whose due times are spread evenly at a rate, and measures how late each is
// delivered. The server sets the due time when it creates a message, at an unknown moment of the publish call; the
// middle is taken, and half the duration of the call is the error of the lateness.
func (d *Driver) Delayed(ctx context.Context, rate float64, messages int, lead time.Duration) error {
	if lead == 0 {
		lead = max(3*time.Second, time.Duration(float64(messages)/leadRate*float64(time.Second)))
	}
	g := &Group{
		Title:       fmt.Sprintf("delayed, %g messages/s due, %d messages of %d bytes", rate, messages, d.report.BodyBytes),
		Mode:        modeDelayed,
		Connections: delayedConnections,
		Rate:        rate,
		Messages:    messages,
	}
	return d.run(ctx, g, func(ctx context.Context, s *session, v Values) error {
		if t, ok := s.target.(system.Limited); ok && t.Immediate() {
			return nil
		}
		firstDue := time.Since(s.base) + lead
		s.quietUntil = s.base.Add(firstDue)
		past := make([]bool, messages) // past[i] is set by the connection that publishes message i
		plan := load.Plan{First: s.first, Count: messages, Delay: func(n int) time.Duration {
			i := n - s.first
			due := firstDue + time.Duration(float64(i)/rate*float64(time.Second))
			delay := (due - time.Since(s.base)).Round(time.Millisecond)
			past[i] = delay < time.Millisecond
			return max(delay, time.Millisecond)
		}}
		res, err := s.account(ctx, plan, v)
		if err != nil {
			return err
		}
		lateness(s, plan, res, v)
		v["published_after_due"] = 0
		for _, p := range past {
			if p {
				v["published_after_due"]++
			}
		}
		return nil
	})
}

// createdGrain is the grain of a message's creation time.
const createdGrain = time.Millisecond

// lateness fills in how late the messages of a run were delivered.
func lateness(s *session, plan load.Plan, res *load.Result, v Values) {
	var late, unsure []time.Duration
	v["early"] = 0
	for i, m := range res.Messages {
		at, ok := s.tally.Arrived(plan.First + i)
		if !m.Accepted || !ok {
			continue
		}
		late = append(late, at-(m.Sent+m.Answered)/2-m.Delay)
		unsure = append(unsure, (m.Answered-m.Sent)/2)
		if at-m.Sent-m.Delay < -createdGrain {
			v["early"]++
		}
	}
	slices.Sort(late)
	slices.Sort(unsure)
	v["late_p50_ms"] = milliseconds(rank(late, 0.5))
	v["late_p99_ms"] = milliseconds(rank(late, 0.99))
	v["late_max_ms"] = milliseconds(rank(late, 1))
	v["late_error_ms"] = milliseconds(rank(unsure, 0.99))
}
