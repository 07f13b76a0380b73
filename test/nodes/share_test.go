//go:build nodes

package nodes

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/posthaste/posthaste/internal/store/postgres/postgrestest"
)

// TestReadYourWrites changes configuration through one node and relies on it through the next one at once.
func TestReadYourWrites(t *testing.T) {
	f := start(t, 3, postgrestest.Options{})
	r := newReceiver(t)
	at := func(i int) *node { return f.nodes[i%3] }
	for i := range 12 {
		// A paused queue and key hold back; when they go on, what waits is delivered.
		queue, key := fmt.Sprintf("q-%d", i), fmt.Sprintf("k-%d", i)
		f.ok(at(i), http.MethodPost, "/v2/queues", "", fmt.Sprintf(`{"queueName":%q,"parallelism":1,"paused":true}`, queue))
		f.ok(at(i+1), http.MethodPost, "/v2/enqueue/"+queue+"/"+r.URL+"/"+queue, "", "")
		f.ok(at(i+1), http.MethodPost, "/v2/flowControl/"+key+"/pause", "", "")
		f.ok(at(i+2), http.MethodPost, "/v2/publish/"+r.URL+"/"+key, "Upstash-Flow-Control-Key: "+key+"|Upstash-Flow-Control-Value: parallelism=5", "")
		// A group is there, with all of its endpoints, and then it is gone.
		group := fmt.Sprintf("g-%d", i)
		f.ok(at(i), http.MethodPost, "/v2/topics/"+group+"/endpoints", "", fmt.Sprintf(`{"endpoints":[{"url":%q}]}`, r.URL+"/"+group+"-a"))
		f.ok(at(i+1), http.MethodPost, "/v2/topics/"+group+"/endpoints", "", fmt.Sprintf(`{"endpoints":[{"url":%q}]}`, r.URL+"/"+group+"-b"))
		if got := f.ok(at(i+2), http.MethodPost, "/v2/publish/"+group, "", ""); bytes.Count(got, []byte("messageId")) != 2 {
			t.Errorf("a group of two made %s", got)
		}
		f.ok(at(i), http.MethodDelete, "/v2/topics/"+group, "", "")
		if status, body, err := f.callNode(t.Context(), at(i+1), http.MethodPost, "/v2/publish/"+group, nil, ""); err != nil || status < 400 || status > 499 {
			t.Errorf("a group that was deleted took a message: %d %s, %v", status, body, err)
		}
		// A schedule that is paused does not fire, and one that was deleted is not found.
		f.ok(at(i), http.MethodPost, "/v2/schedules/"+r.URL+"/"+"s", fmt.Sprintf("Upstash-Cron: @every 1s|Upstash-Schedule-Id: s-%d", i), "")
		f.ok(at(i+1), http.MethodGet, fmt.Sprintf("/v2/schedules/s-%d", i), "", "")
		f.ok(at(i+1), http.MethodDelete, fmt.Sprintf("/v2/schedules/s-%d", i), "", "")
		if status, _, err := f.callNode(t.Context(), at(i+2), http.MethodGet, fmt.Sprintf("/v2/schedules/s-%d", i), nil, ""); err != nil || status != http.StatusNotFound {
			t.Errorf("a schedule that was deleted: got %d, %v", status, err)
		}
	}
	for i := range 12 {
		for _, key := range []string{fmt.Sprintf("q-%d", i), fmt.Sprintf("k-%d", i)} {
			if n := r.count(key); n > 0 {
				t.Errorf("%s is paused and was delivered %d times", key, n)
			}
		}
		f.ok(at(i+2), http.MethodPost, fmt.Sprintf("/v2/queues/q-%d/resume", i), "", "")
		f.ok(at(i+2), http.MethodPost, fmt.Sprintf("/v2/flowControl/k-%d/resume", i), "", "")
	}
	for i := range 12 {
		for _, key := range []string{fmt.Sprintf("q-%d", i), fmt.Sprintf("k-%d", i), fmt.Sprintf("g-%d-a", i), fmt.Sprintf("g-%d-b", i)} {
			wait(t, key+" to be delivered", func() bool { return r.count(key) == 1 })
		}
	}
}

// wait waits until something is so.
func wait(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited for %s in vain", what)
		}
	}
}

// TestIdle counts the statements of nodes that have nothing to do.
func TestIdle(t *testing.T) {
	f := start(t, 3, postgrestest.Options{Settings: []string{"log_statement=all"}}, "--lease", "15s") // the default
	r := newReceiver(t)
	f.ok(f.nodes[0], http.MethodPost, "/v2/publish/"+r.URL+"/once", "", "")
	wait(t, "a message to be delivered", func() bool { return r.count("once") == 1 })
	count := func() (n int, text string) {
		log, err := os.ReadFile(filepath.Join(f.db.Dir, "log"))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.SplitSeq(string(log), "\n") {
			if strings.Contains(line, "LOG:  execute ") || strings.Contains(line, "LOG:  statement: ") {
				n++
			}
		}
		return n, string(log)
	}
	time.Sleep(3 * time.Second) // what follows the start and the message
	before, old := count()
	const seconds = 12
	time.Sleep(seconds * time.Second)
	after, log := count()
	perNode := float64(after-before) / seconds / float64(len(f.nodes))
	t.Logf("%.2f statements per node and second", perNode)
	if perNode >= 2 || perNode == 0 {
		t.Errorf("got %.2f statements per node and second, want less than 2:\n%.8000s", perNode, log[len(old):])
	}
}
