//go:build !race

package server_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/egress"
	"github.com/posthaste/posthaste/internal/retry"
	"github.com/posthaste/posthaste/internal/server"
	"github.com/posthaste/posthaste/internal/store/sqlite"
)

// cost is what one message takes on its way from the publish call to the record of its delivery. Nothing in it depends on
// how fast the machine is.
type cost struct {
	allocations float64 // of Go memory
	statements  float64 // of the store
	syncs       float64 // commits of the store, each of which is synced
	written     float64 // bytes, to files
}

// The most that a message may cost. Whoever makes the server leaner lowers them; a change that needs more must be worth it.
// What is measured is a few percent below.
var (
	// costAlone is the cost if the next message is published after the last was delivered and recorded.
	costAlone = cost{allocations: 89, statements: 8.1, syncs: 2, written: 50_000}
	// costTogether is the cost if 64 connections publish. How many share a commit depends on chance, so there is room.
	costTogether = cost{allocations: 89, statements: 4.5, syncs: 0.3, written: 12_500}
)

const (
	costToken = "cost-token"
	costBody  = 256
)

// costRig is a server with its sockets, its store on disk, and a destination that counts.
type costRig struct {
	engine    *sqlite.Engine
	addr      string
	request   []byte
	delivered atomic.Int64
	sockets   atomic.Int64 // bytes that were written to them, by whichever end
}

func newCostRig(t *testing.T) *costRig {
	t.Helper()
	r := &costRig{}
	var err error
	if r.engine, err = sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "data")}); err != nil {
		t.Fatal(err)
	}
	sink, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv, err := server.New(t.Context(), server.Config{
		Listener: ln,
		Engine:   r.engine,
		Users:    []broker.NewTenant{{Name: "cost", Token: costToken}},
		Broker:   broker.Config{Retries: 3, DedupWindow: time.Minute, MaxBody: 512 << 10},
		Egress:   egress.Config{Mode: egress.ModePrivate, AllowHTTP: true},
		Backoff:  retry.Standard(),
	})
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	var open []net.Conn // the accepting goroutine owns it until accepted is closed
	accepted := make(chan struct{})
	conns.Go(func() {
		defer close(accepted)
		for {
			c, err := sink.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { r.receive(c) })
			open = append(open, c)
		}
	})
	t.Cleanup(func() {
		if err := srv.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("stop the server: %v", err)
		}
		_ = sink.Close()
		<-accepted
		for _, c := range open {
			_ = c.Close()
		}
		conns.Wait()
	})
	if err := srv.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.addr = ln.Addr().String()
	r.request = fmt.Appendf(nil, "POST /v2/publish/http://%s/ HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", sink.Addr(), r.addr, costToken, costBody,
		`{"pad":"`+strings.Repeat("x", costBody-10)+`"}`)
	return r
}

// readMessage reads a request or an answer with a Content-Length, allocates nothing, and returns its first line and its size.
func readMessage(b *bufio.Reader) (first [12]byte, size int, err error) {
	length := 0
	for n := 0; ; n++ {
		line, err := b.ReadSlice('\n')
		if err != nil {
			return first, size, err
		}
		size += len(line)
		if n == 0 {
			copy(first[:], line)
		}
		if len(line) == 2 {
			break
		}
		if name, value, ok := bytes.Cut(line, []byte(": ")); ok && bytes.EqualFold(name, []byte("Content-Length")) {
			length, _ = strconv.Atoi(string(bytes.TrimSpace(value)))
		}
	}
	_, err = b.Discard(length)
	return first, size + length, err
}

// receive answers deliveries.
func (r *costRig) receive(c net.Conn) {
	defer func() { _ = c.Close() }()
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	for b := bufio.NewReader(c); ; {
		_, size, err := readMessage(b)
		if err != nil {
			return
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
		r.sockets.Add(int64(size + len(answer)))
		r.delivered.Add(1)
	}
}

// publish publishes count messages over one connection. With alone it waits for the record of each before the next.
func (r *costRig) publish(t *testing.T, count int, alone bool) {
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = c.Close() }()
	b := bufio.NewReader(c)
	for range count {
		ops := r.engine.Stats().Ops
		if _, err := c.Write(r.request); err != nil {
			t.Error(err)
			return
		}
		first, size, err := readMessage(b)
		if err != nil || string(first[:]) != "HTTP/1.1 200" {
			t.Errorf("got %q, %v, want 200", first, err)
			return
		}
		r.sockets.Add(int64(size + len(r.request)))
		if alone {
			r.settled(t, ops+2)
		}
	}
}

// settled waits for an operation of the store: the first of a message accepts it, the second records its delivery.
func (r *costRig) settled(t *testing.T, ops int64) {
	for deadline := time.Now().Add(time.Minute); r.engine.Stats().Ops < ops; {
		if time.Now().After(deadline) {
			t.Errorf("got %d operations of the store within a minute, want %d", r.engine.Stats().Ops, ops)
			return
		}
		time.Sleep(50 * time.Microsecond)
	}
}

// run publishes messages over connections and waits until all are recorded.
func (r *costRig) run(t *testing.T, connections, each int) {
	t.Helper()
	ops, delivered := r.engine.Stats().Ops, r.delivered.Load()
	var wg sync.WaitGroup
	for range connections {
		wg.Go(func() { r.publish(t, each, connections == 1) })
	}
	wg.Wait()
	r.settled(t, ops+int64(2*connections*each))
	if n := r.delivered.Load() - delivered; n != int64(connections*each) {
		t.Fatalf("got %d deliveries, want %d", n, connections*each)
	}
}

// costReading is what has been used up to a moment; written is -1 where the system does not tell.
type costReading struct {
	stats   sqlite.Stats
	mallocs uint64
	written int64
}

func (r *costRig) read(t *testing.T) costReading {
	t.Helper()
	c := costReading{stats: r.engine.Stats(), written: -1}
	if b, err := os.ReadFile("/proc/self/io"); err == nil {
		if _, rest, ok := strings.Cut(string(b), "wchar: "); ok {
			all, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			c.written = all - r.sockets.Load()
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	c.mallocs = m.Mallocs
	return c
}

// TestCost holds what a message costs to limits, so that nothing grows unseen. They are counts: it does not matter what else
// the machine does.
func TestCost(t *testing.T) {
	r := newCostRig(t)
	for _, tt := range []struct {
		name              string
		connections, each int
		limit             cost
	}{
		{"alone", 1, 300, costAlone},
		{"together", 64, 60, costTogether},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r.run(t, tt.connections, tt.each) // buffers grow, statements are prepared, connections are made
			before := r.read(t)
			r.run(t, tt.connections, tt.each)
			after := r.read(t)
			n := float64(tt.connections * tt.each)
			got := cost{
				allocations: float64(after.mallocs-before.mallocs) / n,
				statements:  float64(after.stats.Statements-before.stats.Statements) / n,
				syncs:       float64(after.stats.Commits-before.stats.Commits) / n,
				written:     float64(after.written-before.written) / n,
			}
			t.Logf("a message costs %.1f allocations, %.2f statements, %.3f syncs, %.0f bytes written", got.allocations, got.statements, got.syncs, got.written)
			for _, f := range []struct {
				what      string
				got, most float64
			}{
				{"allocations", got.allocations, tt.limit.allocations},
				{"statements", got.statements, tt.limit.statements},
				{"syncs", got.syncs, tt.limit.syncs},
				{"bytes written", got.written, tt.limit.written},
			} {
				if f.got > f.most {
					t.Errorf("a message costs %.2f %s, at most %.2f are allowed", f.got, f.what, f.most)
				}
			}
		})
	}
}
