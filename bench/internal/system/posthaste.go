package system

import (
	"bufio"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/posthaste/posthaste/bench/internal/load"
	"github.com/posthaste/posthaste/bench/internal/proc"
	"github.com/posthaste/posthaste/bench/internal/rawhttp"
)

// token is the token of the tenant that a server under test is started with.
const token = "benchmark-token-that-is-known-to-everybody"

// Posthaste is the server of this project.
type Posthaste struct {
	// Path is the binary.
	Path string
	// Postgres keeps everything in a PostgreSQL cluster of its own instead of the embedded store.
	Postgres bool
}

// Name implements Adapter.
func (p Posthaste) Name() string {
	if p.Postgres {
		return "posthaste-pg"
	}
	return "posthaste"
}

// Durability implements Adapter.
func (p Posthaste) Durability() string {
	if p.Postgres {
		return "synced: the message is in a committed transaction of PostgreSQL (fsync and synchronous_commit on; concurrent " +
			"messages share a commit)"
	}
	return "synced: the message is in a committed transaction that was synced to disk before the answer (SQLite, WAL, " +
		"synchronous=FULL; concurrent messages share a commit)"
}

// Missing says what the system needs and this machine lacks.
func (p Posthaste) Missing() error {
	if p.Postgres {
		return postgresMissing()
	}
	return nil
}

// Version implements Versioned.
func (p Posthaste) Version(ctx context.Context) string {
	v := "unknown revision"
	if info, err := buildinfo.ReadFile(p.Path); err == nil {
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				v = s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				v += " and changes"
			}
		}
	}
	if p.Postgres {
		v += ", " + postgresVersion(ctx)
	}
	return v
}

// Start implements Adapter.
func (p Posthaste) Start(ctx context.Context, dir, sinkURL string) (Target, error) {
	t := &posthasteTarget{path: p.Path, dir: dir, keep: []string{"--data", filepath.Join(dir, "posthaste.db")}}
	if p.Postgres {
		store, url, err := startPostgres(ctx, dir)
		if err != nil {
			return nil, err
		}
		t.store, t.keep = store, []string{"--store", url}
	}
	t.token, t.sinkURL, t.target = token, sinkURL, "/v2/publish/"+sinkURL
	if err := t.begin(ctx); err != nil {
		if t.store != nil {
			err = errors.Join(err, t.store.Stop())
		}
		return nil, err
	}
	return t, nil
}

// publishTarget is a server that takes POST /v2/publish/{url}.
type publishTarget struct {
	*proc.Child

	addr   string
	target string
	token  string      // empty for none
	store  *proc.Child // nil if the store is no process of its own
	// immediate says that no message can be delayed.
	immediate bool
}

// Immediate implements Limited.
func (t *publishTarget) Immediate() bool { return t.immediate }

func (t *publishTarget) Addr() string { return t.addr }

func (t *publishTarget) PIDs() []int { return []int{t.PID()} }

func (t *publishTarget) StorePIDs() []int {
	if t.store == nil {
		return nil
	}
	return []int{t.store.PID()}
}

// Stop ends the server, then its store.
func (t *publishTarget) Stop() error {
	err := t.Child.Stop()
	if t.store != nil {
		err = errors.Join(err, t.store.Stop())
	}
	return err
}

func (t *publishTarget) AppendPublish(dst, body []byte, delay time.Duration) []byte {
	return t.appendTo(dst, t.target, body, delay)
}

// AppendTo implements load.Router.
func (t *publishTarget) AppendTo(dst []byte, destination string, body []byte) []byte {
	return t.appendTo(dst, "/v2/publish/"+destination, body, 0)
}

func (t *publishTarget) appendTo(dst []byte, target string, body []byte, delay time.Duration) []byte {
	header := [3]rawhttp.Header{
		{Name: "Content-Type", Value: "application/json"},
		{Name: "Authorization", Value: "Bearer " + t.token},
	}
	n := 2
	if delay > 0 {
		header[n] = rawhttp.Header{Name: "Upstash-Delay", Value: milliseconds(delay)}
		n++
	}
	return rawhttp.AppendRequest(dst, http.MethodPost, t.addr, target, header[:n], body)
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) + "ms" }

// posthasteTarget is a running Posthaste.
type posthasteTarget struct {
	publishTarget

	path, dir string
	keep      []string // where it keeps everything
	sinkURL   string
	admin     string // where its metrics are
}

// begin starts the server on what it keeps.
func (t *posthasteTarget) begin(ctx context.Context) error {
	adminPort, err := freePort(ctx)
	if err != nil {
		return err
	}
	t.admin = "127.0.0.1:" + adminPort
	t.Child, t.addr, err = startServer(ctx, t.path, t.dir, []string{"POSTHASTE_TOKEN=" + token}, func(port string) []string {
		return append([]string{
			"serve", "--listen", "127.0.0.1:" + port, "--admin-listen", t.admin, "--allow-http", "--allow-private",
		}, t.keep...)
	})
	return err
}

// Restart implements Scaler.
func (t *posthasteTarget) Restart(ctx context.Context, pause func() error) error {
	if err := t.Child.Stop(); err != nil {
		return err
	}
	if err := pause(); err != nil {
		return err
	}
	return t.begin(ctx)
}

// batchItem is one message of a batch.
type batchItem struct {
	Destination string            `json:"destination"`
	Queue       string            `json:"queue,omitempty"`
	Headers     map[string]string `json:"headers,omitempty"`
	Body        string            `json:"body"`
}

// AppendBatch implements load.Batcher.
func (t *posthasteTarget) AppendBatch(dst []byte, items []load.Item) ([]byte, error) {
	list := make([]batchItem, len(items))
	for i, item := range items {
		list[i] = batchItem{Destination: item.Destination, Queue: item.Queue, Body: string(item.Body)}
		if list[i].Destination == "" {
			list[i].Destination = t.sinkURL
		}
		list[i].Headers = map[string]string{"Content-Type": "application/json"}
		if item.Delay > 0 {
			list[i].Headers["Upstash-Delay"] = milliseconds(item.Delay)
		}
	}
	body, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	return t.appendTo(dst, "/v2/batch", body, 0), nil
}

// Pause implements Scaler.
func (t *posthasteTarget) Pause(ctx context.Context, queue string, parallelism int) error {
	return t.call(ctx, "/v2/queues", fmt.Sprintf(`{"queueName":%q,"parallelism":%d,"paused":true}`, queue, parallelism))
}

// Resume implements Scaler.
func (t *posthasteTarget) Resume(ctx context.Context, queue string) error {
	return t.call(ctx, "/v2/queues/"+queue+"/resume", "")
}

func (t *posthasteTarget) call(ctx context.Context, path, body string) error {
	c := rawhttp.NewClient(t.addr)
	defer c.Close()
	answer, err := c.Do(ctx, t.appendTo(nil, path, []byte(body), 0))
	if err != nil {
		return err
	}
	if answer.Status/100 != 2 {
		return fmt.Errorf("POST %s was answered %d: %s", path, answer.Status, answer.Body)
	}
	return nil
}

// commitsMetric is the name under which posthaste counts its commits.
const commitsMetric = "posthaste_commits_total"

// Commits implements CommitCounter through the server's metrics.
func (t *posthasteTarget) Commits(ctx context.Context) (float64, bool) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.admin+"/metrics", nil)
	if err != nil {
		return 0, false
	}
	resp, err := prober.Do(req)
	if err != nil {
		return 0, false
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return 0, false
	}
	total, found := 0.0, false
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, _, _ := strings.Cut(lines.Text(), " ")
		name, _, _ = strings.Cut(name, "{")
		if name != commitsMetric {
			continue
		}
		value := lines.Text()[strings.LastIndexByte(lines.Text(), ' ')+1:]
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			total, found = total+v, true
		}
	}
	return total, found
}
