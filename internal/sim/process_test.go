package sim

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/delivery"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/egress"
	"github.com/posthaste/posthaste/internal/ledger"
	"github.com/posthaste/posthaste/internal/retry"
	"github.com/posthaste/posthaste/internal/server"
	"github.com/posthaste/posthaste/internal/store"
	"github.com/posthaste/posthaste/internal/store/sqlite"
)

const token = "token-of-the-simulation"

var firstKeys = posthaste.SigningKeys{Current: "sig_current-of-the-simulation", Next: "sig_next-of-the-simulation"}

// process is one life of a node.
type process struct {
	h     *history
	node  int
	life  int
	srv   *server.Server
	eng   *engine
	data  string // its data file; empty: in memory, or shared
	saved string // the copy of it that the next life begins with

	// Under the network's mutex.
	over    bool
	overSeq int64
	overAt  time.Time
	dead    chan struct{} // closed when over

	mu    sync.Mutex
	point string // where in a commit the crash comes; empty: none is planned
	left  int
}

// deaf is a listener without a network.
type deaf struct {
	once   sync.Once
	closed chan struct{}
}

func (l *deaf) Accept() (net.Conn, error) {
	<-l.closed
	return nil, net.ErrClosed
}

func (l *deaf) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *deaf) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080} }

// launch starts a life of a node.
func (h *history) launch(node int) error {
	s := h.nodes[node]
	p := &process{h: h, node: node, life: s.lives, dead: make(chan struct{}), data: s.data}
	s.lives++
	p.eng = &engine{node: fmt.Sprintf("node%d", node), cluster: h.cluster}
	p.eng.spins = func() {
		p.eng.set(severed)
		h.badf("node %d turns in a circle at %s: %s", node, clockTime(h.clock.Now().UnixMilli()), p.eng.wakes(h.clock.Now()))
	}
	if h.cluster != nil {
		p.eng.Engine = h.shared
		h.cluster.enter(p.eng)
	} else {
		e, err := sqlite.Open(context.Background(), sqlite.Config{
			Path: p.data, InMemory: p.data == "", Clock: h.clock, Hook: p.hook, Log: h.log,
		})
		if err != nil {
			return err
		}
		p.eng.Engine = e
	}
	steps, err := retry.ParseBackoff(backoffText())
	if err != nil {
		return err
	}
	p.srv, err = server.New(context.Background(), server.Config{
		Engine:      p.eng,
		Listener:    &deaf{closed: make(chan struct{})},
		Users:       []broker.NewTenant{{Name: "sim", Token: token, Keys: firstKeys}},
		Backoff:     steps,
		Broker:      broker.Config{Retries: defaultRetries, DedupWindow: dedupWindow},
		Delivery:    delivery.Config{Timeout: defaultTimeout},
		Egress:      egress.Config{Mode: egress.ModePublic, AllowHTTP: true},
		MaxInFlight: h.plan.maxInFlight,
		MaxPerHost:  h.plan.maxPerHost,
		BreakHosts:  h.plan.breakHosts,
		Grace:       h.plan.grace,
		FireMissed:  h.plan.fireMissed,
		Poll:        h.plan.poll,
		Clock:       h.clock,
		Logger:      h.log,
		Transport:   p,
	})
	if err != nil {
		return err
	}
	if err := h.limitTenant(p); err != nil {
		return err
	}
	s.p = p
	h.processes = append(h.processes, p)
	if err := p.srv.Start(context.Background()); err != nil {
		return err
	}
	return nil
}

// limitTenant gives the tenant the limit of the plan, at the first start.
func (h *history) limitTenant(p *process) error {
	if h.plan.tenantLimit == 0 || len(h.processes) > 0 {
		return nil
	}
	tenants, err := p.eng.Tenants(h.ctx, 0, 1)
	if err != nil {
		return err
	}
	return p.eng.Do(h.ctx, 0, &ledger.Configure{
		Tenant: tenants[0],
		Keys:   []store.ConfigKey{{Tenant: tenants[0], Kind: store.ConfigTenant}},
		Edit: func(_ time.Time, rows []*store.ConfigRow) ([]*store.ConfigRow, error) {
			rows[0].Value = directory.Encode(directory.TenantRow{Name: "sim", Overrides: &directory.Plan{Parallelism: h.plan.tenantLimit}})
			return rows, nil
		},
	})
}

func backoffText() string {
	var parts []string
	for _, d := range backoff {
		parts = append(parts, d.String())
	}
	return strings.Join(parts, ",")
}

// node is a place where processes live, one after another.
type node struct {
	p        *process
	lives    int
	data     string
	downtime time.Duration // after the next crash
	wakeAt   time.Time     // when the next life begins, while there is none
}

// hook is called by the store at points of a commit.
func (p *process) hook(point string) {
	p.mu.Lock()
	strike := point == p.point
	if strike {
		p.left--
		strike = p.left <= 0
	}
	if strike {
		p.point = ""
	}
	p.mu.Unlock()
	if strike {
		p.crash()
	}
}

// crash ends the process as a kill does: what is in its files stays, and nothing else. The writer of the store must be at rest
// or in its hook.
func (p *process) crash() {
	if p.h.cluster == nil && !p.isOver() {
		p.saved = filepath.Join(p.h.dir, fmt.Sprintf("data%d", p.life+1))
		for _, suffix := range []string{"", "-wal"} {
			if err := copyFile(p.data+suffix, p.saved+suffix); err != nil {
				p.h.badf("copy the data: %v", err)
			}
		}
	}
	p.eng.set(severed)
	p.h.net.kill(p)
}

func (p *process) isOver() bool {
	p.h.net.mu.Lock()
	defer p.h.net.mu.Unlock()
	return p.over
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close() //nolint:errcheck // it was only read
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	return dst.Close()
}

// bury clears away what is left of a process that crashed.
func (p *process) bury() {
	p.srv.Stop(context.Background()) //nolint:errcheck // nothing of it counts any more
	if p.h.cluster == nil {
		for _, suffix := range []string{"", "-wal", "-shm", ".lock"} {
			os.Remove(p.data + suffix) //nolint:errcheck // the folder goes anyway
		}
	}
}

// reply is the answer to a call.
type reply struct {
	status     int
	body       []byte
	lost       bool // the process was over before the answer came, or does not know what the store did
	call, done int64
	at         time.Time
	doneAt     time.Time
}

func (r *reply) ok() bool { return !r.lost && r.status >= 200 && r.status <= 299 }

// call calls the API of a process.
func (p *process) call(method, target string, header map[string]string, body string) *reply {
	req := httptest.NewRequest(method, target, strings.NewReader(body))
	if body == "" {
		req.Body, req.ContentLength = http.NoBody, 0
	}
	req.Header.Set("Authorization", "Bearer "+token)
	for k, v := range header {
		req.Header.Set(k, v)
	}
	r := &reply{}
	r.call, r.at = p.h.net.next()
	w := httptest.NewRecorder()
	muted := p.eng.mutes()
	p.srv.Handler().ServeHTTP(w, req)
	r.status, r.body = w.Code, w.Body.Bytes()
	r.lost = p.isOver() || r.status == http.StatusServiceUnavailable && p.eng.mutes() > muted
	r.done, r.doneAt = p.h.net.next()
	return r
}

// settle waits until nothing moves, and numbers that moment.
func (h *history) settle() int64 {
	synctest.Wait()
	seq, _ := h.net.next()
	return seq
}

// sharedStore opens the store of a cluster.
func (h *history) sharedStore() error {
	e, err := sqlite.Open(context.Background(), sqlite.Config{InMemory: true, Clock: h.clock, Log: h.log})
	if err != nil {
		return err
	}
	h.shared = e
	h.cluster = &cluster{leases: map[store.NodeEpoch]time.Time{}}
	h.ended = make(chan struct{})
	go h.cluster.tell(e.Hints(), h.ended)
	return nil
}
