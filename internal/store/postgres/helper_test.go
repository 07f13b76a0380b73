//go:build postgres

package postgres_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/posthaste/posthaste/internal/store/postgres"
)

// urlVariable names a database in which the tests make schemas of their own. Without it they start a server, if there is one
// on this machine.
const urlVariable = "POSTHASTE_TEST_POSTGRES"

// A cluster is a server of the tests' own.
type cluster struct {
	bin, dir string
	cred     *syscall.Credential // the user it runs as; nil: this one
	url      string
}

var server struct {
	url string
	why string // there is none
}

func TestMain(m *testing.M) {
	var c *cluster
	if server.url = os.Getenv(urlVariable); server.url == "" {
		var err error
		if c, err = startCluster(); err != nil {
			server.why = err.Error()
		} else {
			server.url = c.url
		}
	}
	code := m.Run()
	if c != nil {
		c.stop()
	}
	os.Exit(code)
}

// startCluster makes and starts a server in a temporary directory. It does not sync: what the tests look for does not depend
// on a disk.
func startCluster() (*cluster, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return nil, fmt.Errorf("PostgreSQL is not installed, and %s is not set", urlVariable)
	}
	sort.Strings(found)
	c := &cluster{bin: filepath.Dir(found[len(found)-1])}
	base := "/dev/shm"
	if _, err := os.Stat(base); err != nil {
		base = ""
	}
	if c.dir, err = os.MkdirTemp(base, "posthaste-pg-"); err != nil {
		return nil, err
	}
	if os.Getuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			return nil, err
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		c.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(c.dir, uid, gid); err != nil {
			return nil, err
		}
	}
	data := filepath.Join(c.dir, "data")
	if err := c.run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"); err != nil {
		return nil, err
	}
	options := strings.Join([]string{
		"-c listen_addresses=", "-k " + c.dir, "-c fsync=off", "-c full_page_writes=off", "-c max_connections=900",
		"-c shared_buffers=64MB", "-c autovacuum_naptime=5s", "-c log_min_messages=warning",
	}, " ")
	if err := c.run("pg_ctl", "-D", data, "-w", "-l", filepath.Join(c.dir, "log"), "-o", options, "start"); err != nil {
		return nil, err
	}
	c.url = "postgres://postgres@/postgres?host=" + url.QueryEscape(c.dir)
	return c, nil
}

func (c *cluster) run(name string, args ...string) error {
	cmd := exec.Command(filepath.Join(c.bin, name), args...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if c.cred != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.cred}
	}
	// The server keeps what it inherits, so a pipe would never end.
	out, err := os.Create(filepath.Join(c.dir, name+".out"))
	if err != nil {
		return err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(out.Name())
		return fmt.Errorf("%s: %w\n%s", name, err, text)
	}
	return nil
}

func (c *cluster) stop() {
	if err := c.run("pg_ctl", "-D", filepath.Join(c.dir, "data"), "-m", "immediate", "-w", "stop"); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if err := os.RemoveAll(c.dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

var schemas atomic.Int64

// newSchema makes an empty schema and returns a connection string for it. The test is skipped if there is no server.
func newSchema(tb testing.TB) string {
	tb.Helper()
	if server.url == "" {
		if os.Getenv("CI") == "true" {
			tb.Fatal(server.why)
		}
		tb.Skip(server.why)
	}
	name := fmt.Sprintf("t%d_%d", os.Getpid(), schemas.Add(1))
	exec := func(sql string) {
		tb.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, server.url)
		if err != nil {
			tb.Fatal(err)
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, sql); err != nil {
			tb.Fatal(err)
		}
	}
	exec("CREATE SCHEMA " + name)
	tb.Cleanup(func() { exec("DROP SCHEMA " + name + " CASCADE") })
	sep := "?"
	if strings.Contains(server.url, "?") {
		sep = "&"
	}
	return server.url + sep + "search_path=" + name
}

func open(tb testing.TB, cfg postgres.Config) *postgres.Engine {
	tb.Helper()
	e, err := postgres.Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := e.Close(); err != nil {
			tb.Error(err)
		}
	})
	return e
}
