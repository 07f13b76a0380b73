package system

import (
	"bufio"
	"context"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/posthaste/posthaste/bench/internal/proc"
	"github.com/posthaste/posthaste/bench/internal/rawhttp"
)

// devToken is the token of the default user of "posthaste dev", a public constant.
const devToken = "eyJVc2VySUQiOiJkZWZhdWx0VXNlciIsIlBhc3N3b3JkIjoiZGVmYXVsdFBhc3N3b3JkIn0="

// Posthaste is the server of this project over its embedded store.
type Posthaste struct {
	// Path is the binary.
	Path string
}

// Name implements Adapter.
func (Posthaste) Name() string { return "posthaste" }

// Durability implements Adapter.
func (Posthaste) Durability() string {
	return "synced: the message is in a committed transaction that was synced to disk before the answer (SQLite, WAL, " +
		"synchronous=FULL; concurrent messages share a commit)"
}

// Start implements Adapter.
func (p Posthaste) Start(ctx context.Context, dir, sinkURL string) (Target, error) {
	adminPort, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	admin := "127.0.0.1:" + adminPort
	child, addr, err := startServer(ctx, p.Path, dir, func(port string) []string {
		return []string{"dev", "--port", port, "--data", filepath.Join(dir, "posthaste.db"), "--admin-listen", admin}
	})
	if err != nil {
		return nil, err
	}
	return &posthasteTarget{publishTarget{Child: child, addr: addr, target: "/v2/publish/" + sinkURL}, admin}, nil
}

// publishTarget is a server that takes POST /v2/publish/{url}.
type publishTarget struct {
	*proc.Child

	addr   string
	target string
}

func (t *publishTarget) Addr() string { return t.addr }

func (t *publishTarget) PIDs() []int { return []int{t.PID()} }

func (t *publishTarget) AppendPublish(dst, body []byte, delay time.Duration) []byte {
	header := [3]rawhttp.Header{
		{Name: "Authorization", Value: "Bearer " + devToken},
		{Name: "Content-Type", Value: "application/json"},
	}
	n := 2
	if delay > 0 {
		header[n] = rawhttp.Header{Name: "Upstash-Delay", Value: strconv.FormatInt(delay.Milliseconds(), 10) + "ms"}
		n++
	}
	return rawhttp.AppendRequest(dst, http.MethodPost, t.addr, t.target, header[:n], body)
}

// posthasteTarget is a running Posthaste.
type posthasteTarget struct {
	publishTarget

	admin string // where its metrics are
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
