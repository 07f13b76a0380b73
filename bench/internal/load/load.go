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

// Item is one message of a batch.
type Item struct {
	// Destination is where it goes; empty is the sink.
	Destination string
	// Queue is the queue it waits in; empty for none.
	Queue string
	Delay time.Duration
	Body  []byte
}

// Batcher is a Publisher that takes many messages in one request.
type Batcher interface {
	// AppendBatch appends to dst the complete request that publishes items.
	AppendBatch(dst []byte, items []Item) ([]byte, error)
}

// Router is a Publisher that reaches other destinations than the sink.
type Router interface {
	// AppendTo appends to dst the complete request that publishes body to a destination.
	AppendTo(dst []byte, destination string, body []byte) []byte
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
	// Destination, if not nil, returns where message n goes. The publisher must be a Router.
	Destination func(n int) string
	// Batch, if above 1, is the number of messages in a request of a closed loop. The publisher must be a Batcher.
	Batch int
	// Shape, if not nil, fills in what is special about message n of a batch.
	Shape func(n int, item *Item)
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
	// Rejected counts the answers 429 and 503, after which the request was sent again, and Silent those of them that did
	// not say when to do so.
	Rejected, Silent int
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

	rejected, silent, failed atomic.Int64
	firstFailure             sync.Once
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
	r.result.Silent = int(r.silent.Load())
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

// take returns the index of the next message to send and how many go with it, and false if there is none.
func (r *run) take() (first, count int, ok bool) {
	if r.due != nil {
		i, ok := <-r.due
		return i, 1, ok
	}
	n := max(1, r.plan.Batch)
	i := int(r.next.Add(int64(n))) - n
	return i, min(n, r.plan.Count-i), i < r.plan.Count
}

// connection is one connection and the requests that are sent on it.
type connection struct {
	*run
	*rawhttp.Client

	request []byte
	body    []byte
	inBody  int // where the message number is in body
	number  int // where it is in a request that can be used again, or -1
	items   []Item
}

// prepare makes the request of the messages from i on that ms record.
func (c *connection) prepare(i int, ms []Message) (err error) {
	first := c.plan.First + i
	switch {
	case c.plan.Batch > 1:
		c.items = c.items[:0]
		for k := range ms {
			item := Item{Body: append([]byte(nil), c.body...)}
			sink.SetNumber(item.Body, c.inBody, first+k)
			if c.plan.Delay != nil {
				item.Delay = c.plan.Delay(first + k)
			}
			if c.plan.Shape != nil {
				c.plan.Shape(first+k, &item)
			}
			ms[k].Delay = item.Delay
			c.items = append(c.items, item)
		}
		b, ok := c.to.(Batcher)
		if !ok {
			return errors.New("the system takes no batches")
		}
		c.request, err = b.AppendBatch(c.request[:0], c.items)
		return err
	case c.plan.Destination != nil:
		to, ok := c.to.(Router)
		if !ok {
			return errors.New("the system takes no destination")
		}
		sink.SetNumber(c.body, c.inBody, first)
		c.request = to.AppendTo(c.request[:0], c.plan.Destination(first), c.body)
	case c.plan.Delay != nil:
		sink.SetNumber(c.body, c.inBody, first)
		ms[0].Delay = c.plan.Delay(first)
		c.request = c.to.AppendPublish(c.request[:0], c.body, ms[0].Delay)
	default:
		if c.number < 0 {
			c.request = c.to.AppendPublish(nil, c.body, 0)
			c.number = sink.NumberAt(c.request)
		}
		sink.SetNumber(c.request, c.number, first)
	}
	return nil
}

// publishAll is one connection: it publishes messages until there are none left.
func (r *run) publishAll(ctx context.Context, cancel context.CancelCauseFunc, client *rawhttp.Client) {
	c := &connection{run: r, Client: client, body: append([]byte(nil), r.body...), number: -1}
	c.inBody = sink.NumberAt(c.body)
	for ctx.Err() == nil {
		i, n, ok := r.take()
		if !ok {
			return
		}
		ms := r.result.Messages[i : i+n]
		if err := c.send(ctx, i, ms); err != nil && ctx.Err() == nil {
			r.firstFailure.Do(func() { r.result.Failure = err })
			if r.failed.Add(1) >= maxFailures {
				cancel(fmt.Errorf("too many requests failed, the first with: %w", err))
			}
		}
	}
}

// send publishes the messages from i on until they are accepted or fail.
func (c *connection) send(ctx context.Context, i int, ms []Message) error {
	for first := true; ; first = false {
		if err := c.prepare(i, ms); err != nil {
			return err
		}
		sent := c.now()
		answer, err := c.Do(ctx, c.request)
		answered := c.now()
		for k := range ms {
			ms[k].Sent, ms[k].Answered = sent, answered
			if first && c.due == nil {
				ms[k].Intended = sent
			}
		}
		switch {
		case err != nil:
			return err
		case answer.Status/100 == 2:
			for k := range ms {
				ms[k].Accepted = true
			}
			return nil
		case answer.Status == http.StatusTooManyRequests || answer.Status == http.StatusServiceUnavailable:
			c.rejected.Add(1)
			if !answer.RetryAfter {
				c.silent.Add(1)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(rejectedPause):
			}
		default:
			return fmt.Errorf("answered %d: %s", answer.Status, answer.Body[:min(len(answer.Body), 300)])
		}
	}
}
