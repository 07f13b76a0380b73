//go:build crash

package crash

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// The kinds of destinations: the first segment of their paths. The second one is the number of the publish they belong to.
const (
	kindMessage         = "m"
	kindCallback        = "cb"
	kindFailureCallback = "fcb"
)

// always is a number of failing attempts that no message has retries for.
const always = 1000

// A place is what the URL of a destination says: whose it is and how it behaves. It depends on the number of the attempt alone,
// so an attempt that is repeated after a crash is answered as it was before.
type place struct {
	kind string
	n    int
	fail int           // how many attempts fail before one succeeds
	wait time.Duration // before the answer
	dead bool          // failures are final
	hold bool          // there is no answer as long as the connection lives
}

// url returns the URL of the place at a receiver.
func (p place) url(base string) string {
	q := url.Values{}
	if p.fail > 0 {
		q.Set("fail", strconv.Itoa(p.fail))
	}
	if p.wait > 0 {
		q.Set("wait", p.wait.String())
	}
	if p.dead {
		q.Set("dead", "1")
	}
	if p.hold {
		q.Set("hold", "1")
	}
	text := fmt.Sprintf("%s/%s/%d", base, p.kind, p.n)
	if len(q) > 0 {
		text += "?" + q.Encode()
	}
	return text
}

// parsePlace reads what url wrote.
func parsePlace(u *url.URL) (place, error) {
	kind, number, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	n, err := strconv.Atoi(number)
	if err != nil {
		return place{}, fmt.Errorf("%s is no destination of these tests", u)
	}
	q := u.Query()
	p := place{kind: kind, n: n, dead: q.Has("dead"), hold: q.Has("hold")}
	p.fail, _ = strconv.Atoi(q.Get("fail"))
	p.wait, _ = time.ParseDuration(q.Get("wait"))
	return p, nil
}

// status returns the answer to an attempt.
func (p place) status(retried int) int {
	switch {
	case retried >= p.fail:
		return http.StatusOK
	case p.dead:
		return 489
	}
	return http.StatusInternalServerError
}

// A delivery is one request that a receiver got.
type delivery struct {
	place
	id       string
	retried  int
	life     int // of the server that sent it
	method   string
	sum      [sha256.Size]byte // of the body
	arrived  time.Time
	answered time.Time // just before the answer; zero while there is none, and for ever if the connection broke before
	status   int
	report   report // of callbacks
}

// A report is what a callback says of the attempt it is about.
type report struct {
	Source  string `json:"sourceMessageId"`
	Retried int    `json:"retried"`
	Status  int    `json:"status"`
	DLQID   string `json:"dlqId"`
}

// A receiver is the destination of all messages of a test. It notes everything, in the order of arrival.
type receiver struct {
	base    string
	arrived *meter

	mu     sync.Mutex
	list   []*delivery
	faults []string // of requests as such
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{base: "http://" + ln.Addr().String(), arrived: newMeter()}
	srv := &http.Server{Handler: r}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(ln)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return r
}

// ServeHTTP implements [http.Handler].
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	d, err := r.read(req)
	if err != nil {
		// A request that a kill cut off in the middle has not been sent, as far as its destination can tell.
		if req.Context().Err() == nil && d != nil {
			r.mu.Lock()
			r.faults = append(r.faults, err.Error())
			r.mu.Unlock()
		}
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	r.list = append(r.list, d)
	r.mu.Unlock()
	r.arrived.add(1)
	if d.hold {
		<-req.Context().Done()
		return
	}
	if d.wait > 0 {
		answer := time.NewTimer(d.wait)
		defer answer.Stop()
		select {
		case <-req.Context().Done():
			return
		case <-answer.C:
		}
	}
	status := d.place.status(d.retried)
	if status == 489 {
		w.Header().Set("Upstash-NonRetryable-Error", "true")
	}
	r.mu.Lock()
	d.answered, d.status = time.Now(), status
	r.mu.Unlock()
	w.WriteHeader(status)
}

// read reads a request. An error without a delivery is one of the connection.
func (r *receiver) read(req *http.Request) (*delivery, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	d := &delivery{method: req.Method, sum: sha256.Sum256(body), arrived: time.Now(), id: req.Header.Get("Upstash-Message-Id")}
	if d.place, err = parsePlace(req.URL); err != nil {
		return d, err
	}
	if d.retried, err = strconv.Atoi(req.Header.Get("Upstash-Retried")); err != nil {
		return d, fmt.Errorf("delivery of %q to %s: Upstash-Retried: %w", d.id, req.URL, err)
	}
	if _, err = fmt.Sscanf(req.Header.Get("Upstash-Region"), "life-%d", &d.life); err != nil {
		return d, fmt.Errorf("delivery of %q to %s: Upstash-Region %q: %w", d.id, req.URL, req.Header.Get("Upstash-Region"), err)
	}
	if d.kind != kindMessage {
		if err := json.Unmarshal(body, &d.report); err != nil {
			return d, fmt.Errorf("callback %q to %s: %w", d.id, req.URL, err)
		}
	}
	return d, nil
}

// deliveries returns copies of what arrived so far, in order.
func (r *receiver) deliveries() []*delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]*delivery, len(r.list))
	for i, d := range r.list {
		c := *d
		list[i] = &c
	}
	return list
}

func (r *receiver) requestFaults() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.faults)
}

// waitMore waits until n more requests arrived, and reports whether they did before ctx ended.
func (r *receiver) waitMore(ctx context.Context, n int) bool {
	return r.arrived.wait(ctx, r.arrived.count()+n)
}
