//go:build nodes

package nodes

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A delivery is a request that the receiver got.
type delivery struct {
	key      string // the path of the destination
	id       string
	retried  int
	life     int
	arrived  time.Time
	answered time.Time // zero while there is no answer
	status   int
}

// A receiver is the destination of all messages. The query says how it behaves: fail is how many attempts fail, wait is the time
// before the answer.
type receiver struct {
	*httptest.Server
	mu   sync.Mutex
	list []*delivery
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

// ServeHTTP implements [http.Handler].
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	d := &delivery{key: strings.Trim(req.URL.Path, "/"), id: req.Header.Get("Upstash-Message-Id"), arrived: time.Now()}
	d.retried, _ = strconv.Atoi(req.Header.Get("Upstash-Retried"))
	fmt.Sscanf(req.Header.Get("Upstash-Region"), "life-%d", &d.life)
	r.mu.Lock()
	r.list = append(r.list, d)
	r.mu.Unlock()
	wait, _ := time.ParseDuration(req.URL.Query().Get("wait"))
	select {
	case <-time.After(wait):
	case <-req.Context().Done():
		return
	}
	fail, _ := strconv.Atoi(req.URL.Query().Get("fail"))
	status := http.StatusOK
	if d.retried < fail {
		status = http.StatusInternalServerError
	}
	r.mu.Lock()
	d.answered, d.status = time.Now(), status
	r.mu.Unlock()
	w.WriteHeader(status)
}

// deliveries returns copies of what arrived, in order.
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

// count returns how many requests came for a destination.
func (r *receiver) count(key string) (n int) {
	for _, d := range r.deliveries() {
		if d.key == key {
			n++
		}
	}
	return n
}
