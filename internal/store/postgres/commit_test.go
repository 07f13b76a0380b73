package postgres_test

import (
	"bytes"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store/postgres"
)

// A proxy stands between an engine and the server. When it is armed it passes the next COMMIT on and then hangs up, so that the
// engine cannot know what came of it.
type proxy struct {
	armed atomic.Bool
}

// start listens on a socket in a directory of its own and returns that.
func (p *proxy) start(tb testing.TB, server string) string {
	tb.Helper()
	dir := tb.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	if err != nil {
		tb.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() { p.serve(client, server) })
		}
	})
	tb.Cleanup(func() {
		if err := l.Close(); err != nil {
			tb.Error(err)
		}
		group.Wait()
	})
	return dir
}

func (p *proxy) serve(client net.Conn, server string) {
	defer client.Close()
	back, err := net.Dial("unix", server)
	if err != nil {
		return
	}
	defer back.Close()
	var cut atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer client.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := back.Read(buf)
			if err != nil {
				return
			}
			if cut.Load() {
				return // it is committed
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			break
		}
		if bytes.Contains(buf[:n], []byte("COMMIT\x00")) && p.armed.Swap(false) {
			cut.Store(true)
		}
		if _, err := io.Copy(back, bytes.NewReader(buf[:n])); err != nil {
			break
		}
	}
	back.Close()
	<-done
}

func TestUnknownCommit(t *testing.T) {
	real := newSchema(t)
	u, err := url.Parse(real)
	if err != nil {
		t.Fatal(err)
	}
	host := u.Query().Get("host")
	if !filepath.IsAbs(host) {
		t.Skip("the server has no socket of its own")
	}
	var p proxy
	q := u.Query()
	q.Set("host", p.start(t, filepath.Join(host, ".s.PGSQL.5432")))
	u.RawQuery = q.Encode()
	// In this mode statements are sent as text.
	e := open(t, postgres.Config{URL: u.String(), ExecMode: "exec", Lanes: 1})
	addTenant(t, e)
	do(t, e, newAccept())
	a := newAccept()
	p.armed.Store(true)
	if err := e.Do(t.Context(), 0, a); posthaste.CodeOf(err) != posthaste.CodeUnavailable {
		t.Errorf("got %v, want code unavailable", err)
	}
	if k, err := e.Ticket(t.Context(), a.m.ID); err != nil || k == nil {
		t.Errorf("got ticket %v, %v of an operation that was committed", k, err)
	}
	if list, err := e.TicketList(t.Context(), tenant, "", 10); err != nil || len(list) != 2 {
		t.Errorf("got %d tickets, %v; want 2: the operation must not be run again", len(list), err)
	}
	do(t, e, newAccept())
}
