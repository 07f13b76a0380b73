package driver

import (
	"context"
	"fmt"
	"time"

	"github.com/posthaste/posthaste/bench/internal/load"
)

// later is the delay of messages that are only to be stored.
const later = 24 * time.Hour

// batchFactor is how many more messages are published in batches than one by one, so that both take about as long.
const batchFactor = 4

// Batch measures how many messages a second a system stores if they come in batches, relative to a request for each:
// first messages that are delivered much later, then ones that are delivered at once. Systems without batches are
// measured without them.
func (d *Driver) Batch(ctx context.Context, connections, messages, size int) error {
	g := &Group{
		Title: fmt.Sprintf("batches of %d, %d connections, %d messages of %d bytes one by one and %d in batches", size, connections,
			messages, d.report.BodyBytes, batchFactor*messages),
		Mode:        modeBatch,
		Connections: connections,
		Messages:    2 * (1 + batchFactor) * messages,
	}
	return d.run(ctx, g, func(ctx context.Context, s *session, v Values) error {
		_, batches := s.target.(load.Batcher)
		next, delivered := s.first, s.first
		for _, delay := range []time.Duration{later, 0} {
			rates := map[int]float64{}
			for i := range 2 {
				plan := load.Plan{First: next, Count: messages}
				// Whichever comes second finds a larger store.
				if (i+s.round)%2 == 0 {
					plan.Count, plan.Batch = batchFactor*messages, size
					if !batches {
						continue
					}
				}
				if delay > 0 {
					plan.Delay = func(int) time.Duration { return delay }
				} else {
					delivered += plan.Count
				}
				next += plan.Count
				if err := s.stored(ctx, plan, delivered, rates, v); err != nil {
					return err
				}
			}
			if r := rates[0]; delay > 0 && r > 0 && batches {
				v["batch_ratio"] = rates[size] / r
			}
		}
		return nil
	})
}

// stored publishes the messages of plan and fills in what that took, after delivered messages have arrived.
func (s *session) stored(ctx context.Context, plan load.Plan, delivered int, rates map[int]float64, v Values) error {
	before, err := s.read(ctx)
	if err != nil {
		return err
	}
	res, err := s.generator.Run(ctx, plan)
	if err != nil {
		return err
	}
	if res.Failed > 0 {
		v["failed"] += float64(res.Failed)
		return res.Failure
	}
	v["rejected"] += float64(res.Rejected)
	v["silent"] += float64(res.Silent)
	kind := "single"
	if plan.Batch > 1 {
		kind = "batch"
	}
	if plan.Delay == nil {
		if err := s.await(ctx, delivered); err != nil {
			return err
		}
		w := Values{}
		s.rate(plan, res, w)
		s.count(plan, res, w)
		v["delivered_"+kind] = w["rate"]
		v["lost"] += w["lost"]
		v["duplicated"] += w["duplicated"]
		return nil
	}
	after, err := s.read(ctx)
	if err != nil {
		return err
	}
	rates[plan.Batch] = acceptedRate(res)
	v["stored_"+kind] = rates[plan.Batch]
	w := Values{}
	s.cost(before, after, 1/float64(max(res.Accepted(), 1)), w)
	v["stored_"+kind+"_cpu_us"] = w["server_cpu_us"]
	v["other_cpu_share"] = max(v["other_cpu_share"], w["other_cpu_share"])
	return nil
}

// acceptedRate is the rate from the first sending to the last answer.
func acceptedRate(res *load.Result) float64 {
	first, last, n := time.Duration(-1), time.Duration(0), 0
	for _, m := range res.Messages {
		if !m.Accepted {
			continue
		}
		if first < 0 || m.Sent < first {
			first = m.Sent
		}
		last = max(last, m.Answered)
		n++
	}
	if n == 0 || last <= first {
		return 0
	}
	return float64(n) / (last - first).Seconds()
}
