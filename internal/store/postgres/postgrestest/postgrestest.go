// Package postgrestest gives tests a PostgreSQL server of their own.
//
// The programs of the newest version under /usr/lib/postgresql are used, as the user postgres if the tests run as root. Where they
// are missing, tests are skipped; if CI=true they fail. With POSTHASTE_TEST_POSTGRES set to a connection string, tests that
// need no more than a schema of their own make it there.
package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Variable names a database in which the tests make schemas, instead of one that they start.
const Variable = "POSTHASTE_TEST_POSTGRES"

// StoreVariable says on what store suites that could run on any of them run: "postgres", or SQLite if it is empty.
const StoreVariable = "POSTHASTE_TEST_STORE"

// Chosen reports whether suites that could run on any store are to run on PostgreSQL.
func Chosen() bool { return os.Getenv(StoreVariable) == "postgres" }

// errMissing is why there is no server.
var errMissing = errors.New("PostgreSQL is not installed, and " + Variable + " is not set")

// Options change how a server is started.
type Options struct {
	// Durable makes the server keep what it committed in a crash of its own. Otherwise it syncs nothing.
	Durable bool
	// Dir is where the files are; empty: in memory, if the system has a place for that. It must exist.
	Dir string
	// Settings are further ones, as in postgresql.conf: "name=value".
	Settings []string
}

// A Cluster is a server with files of its own, which listens on a socket only.
type Cluster struct {
	// URL is the connection string of an empty database, as its superuser.
	URL string
	// Dir holds the socket and the log.
	Dir string

	bin     string
	options []string
	cred    *syscall.Credential // the user it runs as; nil: this one
}

// Start makes and starts a server until the test ends.
func Start(tb testing.TB, o Options) *Cluster {
	tb.Helper()
	c, err := start(o)
	if err != nil {
		skip(tb, err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("the database's log:\n%s", c.log())
		}
		if err := c.destroy(); err != nil {
			tb.Error(err)
		}
	})
	return c
}

// skip ends a test that has no server.
func skip(tb testing.TB, err error) {
	tb.Helper()
	if errors.Is(err, errMissing) && os.Getenv("CI") != "true" {
		tb.Skip(err)
	}
	tb.Fatal(err)
}

func start(o Options) (_ *Cluster, err error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return nil, errMissing
	}
	slices.SortFunc(found, func(a, b string) int { return version(a) - version(b) })
	c := &Cluster{bin: filepath.Dir(found[len(found)-1])}
	base := o.Dir
	if base == "" {
		if _, err := os.Stat("/dev/shm"); err == nil {
			base = "/dev/shm"
		}
	}
	if c.Dir, err = os.MkdirTemp(base, "posthaste-pg-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(c.Dir) //nolint:errcheck // err says more
		}
	}()
	if os.Getuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			return nil, err
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		c.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(c.Dir, uid, gid); err != nil {
			return nil, err
		}
	}
	if err := c.Run("initdb", "-D", c.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"); err != nil {
		return nil, err
	}
	settings := append([]string{
		"listen_addresses=", "unix_socket_directories=" + c.Dir, "max_connections=400", "shared_buffers=64MB", "autovacuum_naptime=5s",
		"log_min_messages=warning", "log_min_error_statement=panic",
	}, o.Settings...)
	if !o.Durable {
		settings = append(settings, "fsync=off", "full_page_writes=off")
	}
	for _, s := range settings {
		c.options = append(c.options, "-c "+s)
	}
	if err := c.Launch(); err != nil {
		return nil, err
	}
	c.URL = "postgres://postgres@/postgres?host=" + url.QueryEscape(c.Dir)
	return c, nil
}

// version returns the number in a path like /usr/lib/postgresql/15/bin/initdb.
func version(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	return n
}

func (c *Cluster) data() string { return filepath.Join(c.Dir, "data") }

// Launch starts the server and waits until it answers.
func (c *Cluster) Launch() error {
	return c.Run("pg_ctl", "-D", c.data(), "-w", "-l", filepath.Join(c.Dir, "log"), "-o", strings.Join(c.options, " "), "start")
}

// Stop ends the server in one of the modes of pg_ctl: smart, fast, or immediate, which is a crash.
func (c *Cluster) Stop(mode string) error {
	return c.Run("pg_ctl", "-D", c.data(), "-m", mode, "-w", "stop")
}

// Run runs one of PostgreSQL's programs as the user that owns the files.
func (c *Cluster) Run(name string, args ...string) error {
	cmd := exec.Command(filepath.Join(c.bin, name), args...)
	cmd.Dir = c.Dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if c.cred != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.cred}
	}
	// The server keeps what it inherits, so a pipe would never end.
	out, err := os.Create(filepath.Join(c.Dir, name+".out"))
	if err != nil {
		return err
	}
	defer out.Close() //nolint:errcheck // it was read by then
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(out.Name())
		return fmt.Errorf("%s: %w\n%s\n%s", name, err, text, c.log())
	}
	return nil
}

// log returns the end of what the server wrote.
func (c *Cluster) log() []byte {
	text, _ := os.ReadFile(filepath.Join(c.Dir, "log"))
	return text[max(0, len(text)-8<<10):]
}

// destroy ends the server, if it runs, and removes its files.
func (c *Cluster) destroy() error {
	var err error
	if _, statErr := os.Stat(filepath.Join(c.data(), "postmaster.pid")); statErr == nil {
		err = c.Stop("fast") // a crash would leave shared memory behind
	}
	return errors.Join(err, os.RemoveAll(c.Dir))
}

// shared is the server that the tests of a program have in common. The first test that needs it starts it.
var shared struct {
	once    sync.Once
	url     string
	cluster *Cluster
	err     error
}

// Main runs the tests of a package, of which some may call Schema, and returns the exit status.
func Main(m *testing.M) int {
	defer func() {
		if shared.cluster == nil {
			return
		}
		if err := shared.cluster.destroy(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	if Chosen() {
		shared.once.Do(startShared) // not inside a test, which may have a time of its own
	}
	return m.Run()
}

func startShared() {
	if shared.url = os.Getenv(Variable); shared.url != "" {
		return
	}
	if shared.cluster, shared.err = start(Options{}); shared.err == nil {
		shared.url = shared.cluster.URL
	}
}

var schemas atomic.Int64

// Schema makes an empty schema and returns a connection string for it. The server is shared by the tests of the program, which
// needs a TestMain that calls Main.
func Schema(tb testing.TB) string {
	tb.Helper()
	shared.once.Do(startShared)
	if shared.err != nil {
		skip(tb, shared.err)
	}
	name := fmt.Sprintf("t%d_%d", os.Getpid(), schemas.Add(1))
	Exec(tb, shared.url, "CREATE SCHEMA "+name)
	tb.Cleanup(func() { Exec(tb, shared.url, "DROP SCHEMA "+name+" CASCADE") })
	return With(shared.url, "search_path="+name)
}

// With adds a parameter to a connection string.
func With(url, parameter string) string {
	if strings.Contains(url, "?") {
		return url + "&" + parameter
	}
	return url + "?" + parameter
}

// Exec runs statements on a connection of their own.
func Exec(tb testing.TB, url, sql string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close(ctx) //nolint:errcheck // there is nothing to lose
	if _, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
}
