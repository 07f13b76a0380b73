package sim

import (
	"bytes"
	"context"
	"errors"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/posthaste/posthaste/internal/clock"
)

// network is what is outside of the server: the destinations, and the order in which things are observed. Every observation
// has a number from one counter.
type network struct {
	seed  uint64
	mood  mood
	clock *clock.Clock

	mu       sync.Mutex
	seq      int64
	attempts []*attempt
	calm     bool // destinations answer well from now on
}

// mood says how destinations behave.
type mood struct {
	fail, hang, slow float64 // probabilities
	dead             string  // a host that answers nothing; may be empty
}

// attempt is a request that reached a destination.
type attempt struct {
	process *process
	id      string
	retried int
	url     string
	method  string
	header  http.Header
	body    []byte

	seq    int64
	at     time.Time // by the server's clock
	realAt time.Time
	answer *answer

	// The end, once endSeq is set.
	endSeq  int64
	ended   time.Time
	whole   bool // the destination gave its answer, and the server was there to take it
	cutOff  bool // the process was gone
	timeout bool // the server gave up
}

func (a *attempt) label() string { return labelOf(a.url, a.body) }

// labelOf names a message by what its publisher chose: the body, or the URL for callbacks, whose bodies the server makes.
func labelOf(url string, body []byte) string {
	if strings.Contains(url, "://cb.sim/") {
		return url
	}
	return string(body)
}

// answer is how a destination treats an attempt.
type answer struct {
	kind    answerKind
	status  int
	header  http.Header
	body    []byte
	latency time.Duration
}

type answerKind uint8

const (
	answers    answerKind = iota
	hangs                 // until the server gives up
	resets                // the connection breaks
	breaksBody            // the answer breaks off
	hangsBody             // the answer begins, and does not end
)

// answerFor decides how an attempt is treated: always the same for the same attempt of the same message.
func (n *network) answerFor(label, url string, retried int, calm bool) *answer {
	h := fnv.New64a()
	io.WriteString(h, label+"\x00"+url+"\x00"+strconv.Itoa(retried)) //nolint:errcheck // never fails
	r := rand.New(rand.NewPCG(n.seed, h.Sum64()))
	a := &answer{status: 200, header: http.Header{}, body: []byte("ok " + label)}
	if n.mood.dead != "" && strings.Contains(url, "://"+n.mood.dead+"/") && !calm {
		a.kind, a.latency = resets, time.Duration(r.IntN(5))*time.Second
		return a
	}
	switch p := r.Float64(); {
	case p < 0.35:
	case p < 0.35+n.mood.slow:
		a.latency = time.Duration(r.IntN(12000)) * time.Millisecond
	default:
		a.latency = time.Duration(r.IntN(400)) * time.Millisecond
	}
	if calm && retried > 0 {
		return a
	}
	if p := r.Float64(); p < n.mood.hang {
		a.kind = []answerKind{hangs, resets, breaksBody, hangsBody}[r.IntN(4)]
		return a
	}
	if r.Float64() >= n.mood.fail {
		if r.IntN(4) == 0 {
			a.status, a.body = 204, nil
		}
		return a
	}
	a.body = []byte("failed " + label)
	switch r.IntN(8) {
	case 0:
		a.status = 489
		a.header.Set("Upstash-NonRetryable-Error", "true")
		if r.IntN(2) == 0 {
			a.header.Set("Retry-After", "1")
		}
	case 1:
		a.status = 489
	case 2:
		a.status = 302
		a.header.Set("Location", "http://d9.sim/elsewhere")
	case 3, 4:
		a.status = 429
		a.header.Set([]string{"Retry-After", "X-RateLimit-Reset", "X-RateLimit-Reset-Requests", "X-RateLimit-Reset-Tokens"}[r.IntN(4)],
			[]string{"0", "1", "3", "7s", "1.5", "soon", "90000", "-2"}[r.IntN(8)])
	default:
		a.status = []int{400, 404, 500, 503}[r.IntN(4)]
	}
	return a
}

var errReset = errors.New("read tcp: connection reset by peer")

// RoundTrip makes the process's requests reach their destinations.
func (p *process) RoundTrip(r *http.Request) (*http.Response, error) {
	n := p.h.net
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
		r.Body.Close() //nolint:errcheck // it is a reader over memory
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	retried, _ := strconv.Atoi(r.Header.Get("Upstash-Retried"))
	a := &attempt{
		process: p, id: r.Header.Get("Upstash-Message-Id"), retried: retried, url: r.URL.String(), method: r.Method,
		header: r.Header.Clone(), body: body,
	}
	n.mu.Lock()
	if p.over {
		n.mu.Unlock()
		return nil, errReset
	}
	n.seq++
	a.seq, a.at, a.realAt = n.seq, n.clock.Now(), time.Now()
	a.answer = n.answerFor(a.label(), a.url, retried, n.calm)
	n.attempts = append(n.attempts, a)
	n.mu.Unlock()

	gone := func() error {
		n.end(a, func() { a.timeout = true })
		return context.Cause(r.Context())
	}
	wait := time.NewTimer(a.answer.latency)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-r.Context().Done():
		return nil, gone()
	case <-p.dead:
		return nil, errReset
	}
	resp := &http.Response{
		Status: strconv.Itoa(a.answer.status), StatusCode: a.answer.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: a.answer.header.Clone(), ContentLength: int64(len(a.answer.body)), Request: r,
		Body: io.NopCloser(bytes.NewReader(a.answer.body)),
	}
	switch a.answer.kind {
	case answers:
		if !n.end(a, func() { a.whole = true }) {
			return nil, errReset
		}
		return resp, nil
	case hangs:
		select {
		case <-r.Context().Done():
			return nil, gone()
		case <-p.dead:
			return nil, errReset
		}
	case resets:
		n.end(a, func() {})
		return nil, errReset
	case breaksBody:
		n.end(a, func() {})
		resp.Body, resp.ContentLength = io.NopCloser(io.MultiReader(strings.NewReader("half"), broken{})), 1000
	case hangsBody:
		resp.Body, resp.ContentLength = &stuck{r.Context(), p, gone}, 1000
	}
	return resp, nil
}

// end notes the end of an attempt, unless its process has ended before. It reports whether it did.
func (n *network) end(a *attempt, note func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a.endSeq != 0 {
		return false
	}
	n.seq++
	a.endSeq, a.ended = n.seq, n.clock.Now()
	note()
	return true
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// stuck is a body that does not come.
type stuck struct {
	ctx  context.Context
	p    *process
	gone func() error
}

func (s *stuck) Read([]byte) (int, error) {
	select {
	case <-s.ctx.Done():
		return 0, s.gone()
	case <-s.p.dead:
		return 0, errReset
	}
}

func (s *stuck) Close() error { return nil }

// next numbers an observation and tells when it is made.
func (n *network) next() (seq int64, at time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seq++
	return n.seq, n.clock.Now()
}

// kill ends a process as the destinations see it: its connections break, and nothing of it reaches them any more.
func (n *network) kill(p *process) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p.over {
		return
	}
	p.over = true
	n.seq++
	p.overSeq, p.overAt = n.seq, n.clock.Now()
	for _, a := range n.attempts {
		if a.process == p && a.endSeq == 0 {
			a.endSeq, a.ended, a.cutOff = n.seq, p.overAt, true
		}
	}
	close(p.dead)
}

// inFlight returns the attempts that run.
func (n *network) inFlight() []*attempt {
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []*attempt
	for _, a := range n.attempts {
		if a.endSeq == 0 {
			list = append(list, a)
		}
	}
	return list
}
