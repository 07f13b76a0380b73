//go:build nodes

package nodes

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/posthaste/posthaste/internal/store/postgres/postgrestest"
)

// TestMove takes a server with a data file, killed in the midst of attempts, to PostgreSQL.
func TestMove(t *testing.T) {
	db := postgrestest.Start(t, postgrestest.Options{})
	r := newReceiver(t)
	data := filepath.Join(t.TempDir(), "data")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	cmd := exec.Command(binary, "serve", "--data", data, "--listen", addr, "--allow-http", "--allow-private", "--region", "life-0")
	cmd.Env = []string{"TMPDIR=" + os.TempDir(), "POSTHASTE_TOKEN=" + token}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	for lines := bufio.NewScanner(out); lines.Scan() && !strings.Contains(lines.Text(), "is running"); {
	}
	old := &farm{t: t, http: &http.Client{Timeout: 20 * time.Second}}
	file := &node{f: old, addr: addr}

	id := func(answer []byte) string {
		var got struct {
			ID string `json:"messageId"`
		}
		if err := json.Unmarshal(answer, &got); err != nil || got.ID == "" {
			t.Fatalf("got %s, %v", answer, err)
		}
		return got.ID
	}
	done := id(old.ok(file, http.MethodPost, "/v2/publish/"+r.URL+"/done", "Upstash-Deduplication-Id: known", ""))
	dead := id(old.ok(file, http.MethodPost, "/v2/publish/"+r.URL+"/dead?fail=1", "Upstash-Retries: 0", ""))
	for i := range 450 {
		old.ok(file, http.MethodPost, fmt.Sprintf("/v2/enqueue/q/%s/queue-%03d?wait=1ms", r.URL, i), "", fmt.Sprint(i))
		if i == 0 {
			wait(t, "the queue to begin", func() bool { return r.count("queue-000") == 1 })
			old.ok(file, http.MethodPost, "/v2/queues/q/pause", "", "")
		}
	}
	for i := range 20 {
		old.ok(file, http.MethodPost, fmt.Sprintf("/v2/publish/%s/flow-%d?wait=600ms", r.URL, i),
			"Upstash-Flow-Control-Key: k|Upstash-Flow-Control-Value: parallelism=3", "")
	}
	old.ok(file, http.MethodPost, "/v2/publish/"+r.URL+"/later", "Upstash-Delay: 3s", "")
	old.ok(file, http.MethodPost, "/v2/schedules/"+r.URL+"/tick", "Upstash-Cron: 0 0 1 1 *|Upstash-Schedule-Id: yearly", "")
	old.ok(file, http.MethodPost, "/v2/topics/g/endpoints", "", fmt.Sprintf(`{"endpoints":[{"url":%q}]}`, r.URL+"/group"))
	wait(t, "a dead letter", func() bool {
		return strings.Contains(string(old.ok(file, http.MethodGet, "/v2/dlq", "", "")), dead)
	})
	wait(t, "attempts under way", func() bool { return r.count("flow-0") == 1 })

	move := func() (string, error) {
		out, err := exec.Command(binary, "move", "--from", data, "--to", db.URL).CombinedOutput()
		return string(out), err
	}
	if out, err := move(); err == nil {
		t.Errorf("a file that a server uses was moved: %s", out)
	}
	cmd.Process.Signal(syscall.SIGKILL)
	cmd.Wait()
	said, err := move()
	if err != nil {
		t.Fatalf("move: %v\n%s", err, said)
	}
	t.Log(strings.TrimSpace(said))
	if out, err := move(); err == nil {
		t.Errorf("a database that is not empty was moved to: %s", out)
	}

	f := startOn(t, 2, db)
	a, b := f.nodes[0], f.nodes[1]
	if got := string(f.ok(a, http.MethodGet, "/v2/dlq", "", "")); !strings.Contains(got, dead) {
		t.Errorf("the dead letter of %s is lost: %s", dead, got)
	}
	if got := string(f.ok(b, http.MethodGet, "/v2/events?messageId="+done, "", "")); !strings.Contains(got, `"DELIVERED"`) {
		t.Errorf("the log of %s is lost: %s", done, got)
	}
	if got := id(f.ok(a, http.MethodPost, "/v2/publish/"+r.URL+"/done", "Upstash-Deduplication-Id: known", "")); got != done {
		t.Errorf("a publish with a known deduplication id was told %s, want %s", got, done)
	}
	f.ok(b, http.MethodGet, "/v2/schedules/yearly", "", "")
	f.ok(a, http.MethodPost, "/v2/publish/g", "", "")
	if n := r.count("queue-001"); n != 0 {
		t.Errorf("a queue that is paused was delivered from")
	}
	f.ok(b, http.MethodPost, "/v2/queues/q/resume", "", "")
	sql := connect(t, db.URL)
	wait(t, "all to be delivered", func() bool { return sql.count("SELECT count(*) FROM tickets") == 0 })
	var order []string
	for _, d := range r.deliveries() {
		if strings.HasPrefix(d.key, "queue-") && d.key != "queue-000" {
			order = append(order, d.key)
		}
	}
	if len(order) != 449 || !slices.IsSorted(order) {
		t.Errorf("the queue was delivered as %v", order)
	}
	for i := range 20 {
		if n := r.count(fmt.Sprintf("flow-%d", i)); n < 1 || n > 2 || n == 2 && i > 3 {
			t.Errorf("flow-%d was delivered %d times", i, n)
		}
	}
	for _, key := range []string{"later", "group"} {
		wait(t, key, func() bool { return r.count(key) == 1 })
	}
}
