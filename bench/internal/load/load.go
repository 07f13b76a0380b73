// Package load publishes messages and records when each was meant to be sent, was sent and was answered.
//
// In a closed loop every connection sends its next message when the last one is answered, so the server sets the pace.
// In an open loop the messages have a fixed timetable: each latency counts from the moment the message was due to be
// sent, whether or not a connection was free, so that a pause of the server is charged to every message that it
// delayed (coordinated omission).
package load

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/posthaste/posthaste/bench/internal/rawhttp"
	"github.com/posthaste/posthaste/bench/internal/sink"
)

// Publisher says how a message is published to a system.
type Publisher interface {
	// Addr is the host and port to connect to.
	Addr() string
	// AppendPublish appends to dst the complete request that publishes body, to be delivered after delay.
	AppendPublish(dst, body []byte, delay time.Duration) []byte
}

// rejectedPause is how long a connection waits after the server refused a message for now (429 or 503).
const rejectedPause = 10 * time.Millisecond

// maxFailures is how many requests of a run may fail before the run is given up.
const maxFailures = 100

// Plan is one run of the generator.
type Plan struct {
	// First and Count are the numbers of the messages, First to First+Count-1.
	First, Count int
	// Rate is the number of messages a second of an open loop, 0 for a closed loop.
	Rate float64
	// Delay, if not nil, returns the delay that message n, about to be sent, is published with.
	Delay func(n int) time.Duration
}

// Message is what happened to one message. Times are since the generator's base.
type Message struct {
	// Intended is when the message was to be sent. In a closed loop it is the time of the first sending.
	Intended time.Duration
	// Sent is when the request that was accepted was sent, and Answered when its answer had been read.
	Sent, Answered time.Duration
	// Delay is what the message was published with.
	Delay time.Duration
	// Accepted says that the server answered 2xx.
	Accepted bool
}

// Result is the record of a run.
type Result struct {
	// Messages holds message First+i at i.
	Messages []Message
	// Rejected counts the answers 429 and 503, after which the message was sent again.
	Rejected int
	// Failed counts the requests with any other outcome; such a message may or may not have been accepted.
	Failed int
	// Failure is the first such outcome.
	Failure error
}

// Accepted is the number of messages that were accepted.
func (r *Result) Accepted() int {
	n := 0
	for i := range r.Messages {
		if r.Messages[i].Accepted {
			n++
		}
	}
	return n
}

// Generator holds open connections to one system.
type Generator struct {
	base    time.Time
	to      Publisher
	body    []byte
	clients []*rawhttp.Client
}

// New connects a generator whose messages have the size of body and whose times are counted from base. The
// connections are closed when ctx is done.
func New(ctx context.Context, to Publisher, base time.Time, connections int, body []byte) (*Generator, error) {
	if sink.NumberAt(body) < 0 {
		return nil, errors.New("the body has no message number")
	}
	g := &Generator{base: base, to: to, body: body}
	for range connections {
		c := rawhttp.NewClient(to.Addr())
		if err := c.Dial(ctx); err != nil {
			g.Close()
			return nil, fmt.Errorf("connect to the server: %w", err)
		}
		g.clients = append(g.clients, c)
	}
	return g, nil
}

// Close closes the connections.
func (g *Generator) Close() {
	for _, c := range g.clients {
		c.Close()
	}
}

// run is the state that the connections of one run share.
type run struct {
	*Generator
	plan   Plan
	next   atomic.Int64
	due    chan int // open loop: the messages whose time has come
	result *Result

	rejected, failed atomic.Int64
	firstFailure     sync.Once
}

// Run publishes the messages of a plan and returns when all are answered. Its error is that of ctx, or says that too
// many requests failed.
func (g *Generator) Run(ctx context.Context, plan Plan) (*Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &run{Generator: g, plan: plan, result: &Result{Messages: make([]Message, plan.Count)}}
	var wg sync.WaitGroup
	if plan.Rate > 0 {
		r.due = make(chan int, plan.Count)
		wg.Go(func() { r.pace(ctx) })
	}
	for _, c := range g.clients {
		wg.Go(func() { r.publishAll(ctx, cancel, c) })
	}
	wg.Wait()
	r.result.Rejected = int(r.rejected.Load())
	r.result.Failed = int(r.failed.Load())
	if ctx.Err() != nil {
		return r.result, fmt.Errorf("publish: %w", context.Cause(ctx))
	}
	return r.result, nil
}

func (r *run) now() time.Duration { return time.Since(r.base) }

// pace hands out the messages of an open loop, each when its time has come.
func (r *run) pace(ctx context.Context) {
	defer close(r.due)
	s := newSleeper()
	defer s.close()
	start := r.now()
	for i := range r.plan.Count {
		intended := start + time.Duration(float64(i)/r.plan.Rate*float64(time.Second))
		r.result.Messages[i].Intended = intended
		for wait := intended - r.now(); wait > 0 && ctx.Err() == nil; wait = intended - r.now() {
			s.sleep(wait)
		}
		if ctx.Err() != nil {
			return
		}
		r.due <- i
	}
}

// take returns the index of the next message to send, and false if there is none.
func (r *run) take() (int, bool) {
	if r.due != nil {
		i, ok := <-r.due
		return i, ok
	}
	i := int(r.next.Add(1)) - 1
	return i, i < r.plan.Count
}

// publishAll is one connection: it publishes messages until there are none left.
func (r *run) publishAll(ctx context.Context, cancel context.CancelCauseFunc, c *rawhttp.Client) {
	var request []byte
	body := append([]byte(nil), r.body...)
	bodyNumber := sink.NumberAt(body)
	number := -1 // where the number is in a request that can be used again
	for ctx.Err() == nil {
		i, ok := r.take()
		if !ok {
			return
		}
		m := &r.result.Messages[i]
		for first := true; ; first = false {
			if r.plan.Delay != nil {
				sink.SetNumber(body, bodyNumber, r.plan.First+i)
				m.Delay = r.plan.Delay(r.plan.First + i)
				request = r.to.AppendPublish(request[:0], body, m.Delay)
			} else {
				if number < 0 {
					request = r.to.AppendPublish(nil, body, 0)
					number = sink.NumberAt(request)
				}
				sink.SetNumber(request, number, r.plan.First+i)
			}
			m.Sent = r.now()
			if first && r.due == nil {
				m.Intended = m.Sent
			}
			answer, err := c.Do(ctx, request)
			m.Answered = r.now()
			if ctx.Err() != nil {
				return
			}
			if err == nil && answer.Status/100 == 2 {
				m.Accepted = true
				break
			}
			if err == nil && (answer.Status == http.StatusTooManyRequests || answer.Status == http.StatusServiceUnavailable) {
				r.rejected.Add(1)
				select {
				case <-ctx.Done():
					return
				case <-time.After(rejectedPause):
				}
				continue
			}
			if err == nil {
				err = fmt.Errorf("answered %d: %s", answer.Status, answer.Body[:min(len(answer.Body), 300)])
			}
			r.firstFailure.Do(func() { r.result.Failure = err })
			if r.failed.Add(1) >= maxFailures {
				cancel(fmt.Errorf("too many requests failed, the first with: %w", err))
			}
			break
		}
	}
}
