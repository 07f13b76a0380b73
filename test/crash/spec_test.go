//go:build crash

package crash

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// An outcome is what a client knows of a request.
type outcome int

const (
	unsent   outcome = iota // no server got it
	unknown                 // it was sent, but there was no answer
	accepted                // the answer was a success
	refused                 // the answer was an error
)

// A spec is a message that a test publishes, and what came of that.
type spec struct {
	place
	method          string
	body            []byte
	retries         int
	requeued        bool // its dead letter is retried, which makes another message
	delay           time.Duration
	callback        *place
	failureCallback *place
	queue           string
	index           int // of a queue's only publisher: the place in the order of acceptance
	flow, flowValue string
	dedup           string
	shared          bool // other publishes have the same dedup
	label           string
	batch           int // the number of the batch it is part of; 0: none

	mu        sync.Mutex
	outcome   outcome
	lost      int // answers that did not come
	sent      time.Time
	id        string
	duplicate bool   // so the answer said
	fault     string // of the answer
	canceled  canceled
}

// canceled is what a client knows of a cancel.
type canceled struct {
	asked     bool
	confirmed time.Time // zero: it was not
}

// retryDelay is that of all messages: tests cannot wait for the defaults.
const retryDelay = "40 * (1 + retried)"

// callbackRetries is how often callbacks are tried again.
const callbackRetries = 3

// header returns the headers of the publish.
func (sp *spec) header(receiver string) http.Header {
	h := http.Header{
		"Upstash-Method":      {sp.method},
		"Upstash-Retries":     {strconv.Itoa(sp.retries)},
		"Upstash-Retry-Delay": {retryDelay},
		"Content-Type":        {"application/octet-stream"},
	}
	set := func(name, value string) {
		if value != "" {
			h.Set(name, value)
		}
	}
	if sp.delay > 0 {
		set("Upstash-Delay", sp.delay.String())
	}
	if sp.callback != nil {
		set("Upstash-Callback", sp.callback.url(receiver))
		set("Upstash-Callback-Retry-Delay", retryDelay)
		set("Upstash-Callback-Retries", strconv.Itoa(callbackRetries))
	}
	if sp.failureCallback != nil {
		set("Upstash-Failure-Callback", sp.failureCallback.url(receiver))
		set("Upstash-Failure-Callback-Retry-Delay", retryDelay)
		set("Upstash-Failure-Callback-Retries", strconv.Itoa(callbackRetries))
	}
	set("Upstash-Flow-Control-Key", sp.flow)
	set("Upstash-Flow-Control-Value", sp.flowValue)
	set("Upstash-Deduplication-Id", sp.dedup)
	set("Upstash-Label", sp.label)
	return h
}

// attempts returns how many attempts the message needs, and whether the last one succeeds.
func (sp *spec) attempts() (n int, delivered bool) {
	switch {
	case sp.fail == 0:
		return 1, true
	case sp.dead:
		return 1, false
	case sp.fail > sp.retries:
		return sp.retries + 1, false
	}
	return sp.fail + 1, true
}

// states returns the log that the message must have in the end, if nobody cancels it.
func (sp *spec) states() []string {
	states := []string{"CREATED"}
	n, delivered := sp.attempts()
	for range n - 1 {
		states = append(states, "ACTIVE", "ERROR", "RETRY")
	}
	if delivered {
		return append(states, "ACTIVE", "DELIVERED")
	}
	return append(states, "ACTIVE", "ERROR", "FAILED")
}

// String names the publish in faults.
func (sp *spec) String() string {
	return fmt.Sprintf("publish %d (%s %s)", sp.n, sp.method, sp.place.url(""))
}

// snapshot returns what is known of the publish.
func (sp *spec) snapshot() (o outcome, id string) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return sp.outcome, sp.id
}

// sum returns the hash of the body.
func (sp *spec) sum() [sha256.Size]byte { return sha256.Sum256(sp.body) }

// newSpec returns a plain message.
func newSpec(rng *rand.Rand, n int) *spec {
	return &spec{place: place{kind: kindMessage, n: n}, method: http.MethodPost, body: newBody(rng, false), retries: 3}
}

// newBody returns a body: mostly short, sometimes long, empty or binary.
func newBody(rng *rand.Rand, text bool) []byte {
	size := 0
	switch k := rng.IntN(1000); {
	case k < 50:
	case k < 750:
		size = 1 + rng.IntN(300)
	case k < 950:
		size = 1 + rng.IntN(4<<10)
	case k < 996:
		size = 1 + rng.IntN(32<<10)
	default:
		size = 256<<10 + rng.IntN(200<<10)
	}
	body := make([]byte, size)
	for i := range body {
		if b := rng.Uint32(); text {
			body[i] = 'a' + byte(b%26)
		} else {
			body[i] = byte(b)
		}
	}
	return body
}

// mixed returns a message of the mixed load. Those of a batch have no bodies that JSON cannot carry.
func mixed(rng *rand.Rand, n, batch int) *spec {
	sp := newSpec(rng, n)
	sp.batch = batch
	if batch > 0 {
		sp.body = newBody(rng, true)
	}
	sp.method = []string{http.MethodPost, http.MethodPost, http.MethodPut, http.MethodPatch}[rng.IntN(4)]
	switch k := rng.IntN(100); {
	case k < 20:
		sp.fail = 1 + rng.IntN(3)
	case k < 26:
		sp.fail, sp.retries = always, rng.IntN(3)
	case k < 28:
		sp.fail, sp.dead = always, true
	}
	if rng.IntN(20) == 0 {
		sp.wait = time.Duration(1+rng.IntN(100)) * time.Millisecond
	}
	callbackFails := func() int {
		if rng.IntN(4) == 0 {
			return 1 + rng.IntN(2)
		}
		return 0
	}
	if rng.IntN(10) == 0 {
		sp.callback = &place{kind: kindCallback, n: n, fail: callbackFails()}
	}
	if rng.IntN(10) == 0 || sp.fail == always && rng.IntN(2) == 0 {
		sp.failureCallback = &place{kind: kindFailureCallback, n: n, fail: callbackFails()}
	}
	switch k := rng.IntN(100); {
	case k < 10:
		sp.queue = fmt.Sprintf("queue-%d", rng.IntN(8))
	case k < 15:
		sp.flow, sp.flowValue = fmt.Sprintf("key-%d", rng.IntN(3)), "parallelism=5"
	case k < 20:
		sp.flow, sp.flowValue = fmt.Sprintf("rate-%d", rng.IntN(3)), "rate=100,period=1s"
	case k < 35:
		sp.delay = time.Duration(50+rng.IntN(2500)) * time.Millisecond
	}
	if batch == 0 && rng.IntN(10) == 0 {
		sp.dedup = fmt.Sprintf("once-%d", n)
	}
	return sp
}

// A load publishes specs from several goroutines, life after life of a server.
type load struct {
	server   *server
	client   *client
	receiver *receiver
	answered *meter // publishes that got a 2xx

	mu    sync.Mutex
	specs []*spec // in the order of their numbers, which is that of their making
	next  func(n int) []*spec
	ended bool
	wg    sync.WaitGroup
}

func newLoad(s *server, r *receiver) *load {
	return &load{server: s, client: newClient(s), receiver: r, answered: newMeter()}
}

// start publishes what next returns, from so many goroutines: one message, or a batch of several, numbered from n on. It ends
// when next returns nothing or finish is called.
func (l *load) start(ctx context.Context, workers int, next func(n int) []*spec) {
	l.next, l.ended = next, false
	for range workers {
		l.wg.Go(func() {
			for {
				specs := l.draw()
				if len(specs) == 0 {
					return
				}
				l.publish(ctx, specs)
			}
		})
	}
}

// draw takes the next request.
func (l *load) draw() []*spec {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return nil
	}
	specs := l.next(len(l.specs))
	if len(specs) == 0 {
		l.ended = true
	}
	l.specs = append(l.specs, specs...)
	return specs
}

// finish lets no further publish begin and waits for those under way. A server must be up or come up.
func (l *load) finish() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.wg.Wait()
}

// wait waits until everything was published.
func (l *load) wait() { l.wg.Wait() }

// all returns the specs so far.
func (l *load) all() []*spec {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*spec(nil), l.specs...)
}

// add notes a spec that is not published by the load's own goroutines. It returns it with its number.
func (l *load) add(make func(n int) *spec) *spec {
	l.mu.Lock()
	defer l.mu.Unlock()
	sp := make(len(l.specs))
	l.specs = append(l.specs, sp)
	return sp
}

// publish sends one request until somebody gets it. A request without an answer is sent again only if it has an id for
// deduplication; else it stays unknown what came of it.
func (l *load) publish(ctx context.Context, specs []*spec) {
	for {
		if l.server.waitUp(ctx) != nil {
			return
		}
		sent := time.Now()
		var (
			status int
			list   []published
			err    error
		)
		if specs[0].batch > 0 {
			status, list, err = l.client.batch(ctx, specs, l.receiver.base)
		} else {
			list = make([]published, 1)
			status, list[0], err = l.client.publish(ctx, specs[0], l.receiver.base)
		}
		again := false
		for i, sp := range specs {
			sp.mu.Lock()
			if sp.sent.IsZero() {
				sp.sent = sent
			}
			switch {
			case errors.Is(err, errUnsent):
				again = true
			case err != nil && status == 0:
				sp.outcome = unknown
				sp.lost++
				again = again || sp.dedup != ""
			case err != nil:
				sp.fault = err.Error()
			case status == http.StatusOK || status == http.StatusAccepted:
				sp.outcome, sp.id = accepted, list[i].ID
				sp.duplicate = list[i].Deduplicated
				if dup := sp.duplicate; dup && sp.lost == 0 && !sp.shared || dup != (status == http.StatusAccepted) && sp.batch == 0 {
					sp.fault = fmt.Sprintf("the answer was %d with deduplicated %t", status, dup)
				}
			case status == http.StatusServiceUnavailable && sp.dedup != "":
				again = true
			default:
				sp.outcome = refused
				// A server that is stopping may say that it stores nothing any more.
				if status != http.StatusServiceUnavailable {
					sp.fault = fmt.Sprintf("the answer was %d", status)
					if len(list) > 0 {
						sp.fault += ": " + list[0].Error
					}
				}
			}
			sp.mu.Unlock()
		}
		if !again {
			if err == nil && status < 300 {
				l.answered.add(len(specs))
			}
			return
		}
		select { // until the end of the life is noted, there may be nobody at the port
		case <-ctx.Done():
			return
		case <-time.After(2 * time.Millisecond):
		}
	}
}
