//go:build nodes

package nodes

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/posthaste/posthaste/internal/store/postgres/postgrestest"
)

// publishTo sends a message to one node and returns the status; 0 without an answer.
func (f *farm) publishTo(n *node, target, header string) int {
	f.t.Helper()
	status, answer, err := f.callNode(f.t.Context(), n, http.MethodPost, "/v2/publish/"+target, lines(header), "{}")
	if err != nil {
		f.t.Logf("publish: %v", err)
		return 0
	}
	if status == http.StatusServiceUnavailable && !strings.HasPrefix(string(answer), `{"error":"`) {
		f.t.Errorf("got the body %s with status 503", answer)
	}
	return status
}

// refuses waits until the node answers publishes with 503, and sees to it that it answers nothing else but success before.
func (f *farm) refuses(n *node, target string) {
	f.t.Helper()
	wait(f.t, "503", func() bool {
		status := f.publishTo(n, target, "")
		if status/100 != 2 && status != http.StatusServiceUnavailable {
			f.t.Fatalf("got status %d, want 503", status)
		}
		return status == http.StatusServiceUnavailable
	})
}

// recovers waits until the node takes messages again and delivers them.
func (f *farm) recovers(n *node, r *receiver, what string) {
	f.t.Helper()
	key := "after-" + strings.ReplaceAll(what, " ", "-")
	wait(f.t, "recovery after "+what, func() bool { return f.publishTo(n, r.URL+"/"+key, "Upstash-Deduplication-Id: "+key)/100 == 2 })
	wait(f.t, "delivery after "+what, func() bool { return r.count(key) > 0 })
}

// TestOutages takes the database away in every way there is. Requests get 503 with Retry-After, and the node recovers by itself.
func TestOutages(t *testing.T) {
	f := start(t, 1, postgrestest.Options{Durable: true, Settings: []string{"max_connections=40"}}, "--lease", "15s")
	r := newReceiver(t)
	n := f.nodes[0]
	target := r.URL + "/x"
	f.recovers(n, r, "start")

	// An attempt that is under way when the server stops is settled when it is back, not made again.
	f.ok(n, http.MethodPost, "/v2/publish/"+r.URL+"/under-way?wait=1s", "", "")
	wait(t, "the attempt to begin", func() bool { return r.count("under-way") == 1 })
	if err := f.db.Stop("fast"); err != nil {
		t.Fatal(err)
	}
	f.refuses(n, target)
	time.Sleep(1500 * time.Millisecond) // the attempt ends meanwhile
	if err := f.db.Launch(); err != nil {
		t.Fatal(err)
	}
	f.recovers(n, r, "a stop")
	sql := connect(t, f.db.URL)
	wait(t, "the settlement", func() bool { return sql.count("SELECT count(*) FROM tickets") == 0 })
	if got := r.count("under-way"); got != 1 {
		t.Errorf("an attempt under way at a stop was made %d times", got)
	}

	if err := f.db.Stop("immediate"); err != nil {
		t.Fatal(err)
	}
	f.refuses(n, target)
	if err := f.db.Launch(); err != nil {
		t.Fatal(err)
	}
	f.recovers(n, r, "a crash")

	// Statements that take too long: somebody else holds the table.
	sql = connect(t, f.db.URL)
	sql.run("ALTER SYSTEM SET statement_timeout = '300ms'", "SELECT pg_reload_conf()")
	sql.run("BEGIN", "LOCK TABLE tickets IN ACCESS EXCLUSIVE MODE")
	f.refuses(n, target)
	sql.run("COMMIT", "ALTER SYSTEM RESET statement_timeout", "SELECT pg_reload_conf()")
	f.recovers(n, r, "timeouts of statements")

	// All connections are taken, and the node has lost its own.
	var taken []*pgx.Conn
	sql.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
	for {
		conn, err := pgx.Connect(t.Context(), f.db.URL)
		if err != nil {
			break
		}
		taken = append(taken, conn)
	}
	f.refuses(n, target)
	for _, conn := range taken {
		conn.Close(t.Context())
	}
	f.recovers(n, r, "want of connections")

	// A replica by mistake.
	sql.run("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
	f.refuses(n, target)
	sql.run("SET default_transaction_read_only = off", "ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")
	f.recovers(n, r, "a read-only time")

	// One message after another was refused or accepted, and what was accepted arrived.
	wait(t, "nothing to be pending", func() bool { return sql.count("SELECT count(*) FROM tickets") == 0 })
}

// TestDiskFull fills the disk that the database keeps messages on.
func TestDiskFull(t *testing.T) {
	f := start(t, 1, postgrestest.Options{})
	r := newReceiver(t)
	disk := filepath.Join(f.db.Dir, "disk")
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("a small disk cannot be made here: %v", err)
	}
	t.Cleanup(func() {
		f.db.Stop("immediate") //nolint:errcheck // it is removed with its files
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	own(t, disk)
	sql := connect(t, f.db.URL)
	sql.run("CREATE TABLESPACE small LOCATION '"+disk+"'", "ALTER TABLE messages SET TABLESPACE small")
	f.recovers(f.nodes[0], r, "a move")
	filler := filepath.Join(disk, "filler")
	file, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = file.Write(make([]byte, 64<<10))
	}
	file.Close()
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	status := 0
	for range 2000 {
		if status = f.publishTo(f.nodes[0], r.URL+"/x", ""); status/100 != 2 {
			break
		}
	}
	if status != http.StatusServiceUnavailable {
		t.Errorf("got status %d with a full disk, want 503", status)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	f.recovers(f.nodes[0], r, "a full disk")
}

// own gives a file to the user that the database runs as.
func own(t *testing.T, path string) {
	t.Helper()
	if os.Getuid() != 0 {
		return
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	if err := os.Chown(path, uid, gid); err != nil {
		t.Fatal(err)
	}
}

// TestPooler has two nodes work behind PgBouncer in its mode of transactions, with fewer connections to the database than they have
// themselves.
func TestPooler(t *testing.T) {
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		if program = "/usr/sbin/pgbouncer"; os.Getenv("CI") != "true" {
			if _, err := os.Stat(program); err != nil {
				t.Skip("PgBouncer is not installed")
			}
		}
	}
	db := postgrestest.Start(t, postgrestest.Options{})
	dir, err := os.MkdirTemp("/tmp", "posthaste-pooler-") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	own(t, dir)
	config := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(config, fmt.Appendf(nil, `[databases]
postgres = host=%s dbname=postgres user=postgres
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = %s
auth_type = any
pool_mode = transaction
default_pool_size = 6
logfile = %s
`, db.Dir, dir, filepath.Join(dir, "log")), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{config}
	if os.Getuid() == 0 {
		args = []string{"-u", "postgres", config}
	}
	cmd := exec.Command(program, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if log, err := os.ReadFile(filepath.Join(dir, "log")); t.Failed() && err == nil {
			t.Logf("the pooler's log:\n%s", tail(log))
		}
	})
	wait(t, "the pooler", func() bool {
		_, err := os.Stat(filepath.Join(dir, ".s.PGSQL.6432"))
		return err == nil
	})
	pooled := *db
	pooled.URL = "postgres://postgres@/postgres?port=6432&host=" + dir
	f := startOn(t, 2, &pooled, "--pg-exec-mode", "exec")
	r := newReceiver(t)
	f.ok(f.nodes[0], http.MethodPost, "/v2/queues", "", `{"queueName":"q","parallelism":1}`)
	const messages = 150
	for i := range messages {
		n := f.nodes[i%2]
		switch i % 3 {
		case 0:
			f.ok(n, http.MethodPost, fmt.Sprintf("/v2/publish/%s/m-%d", r.URL, i), "", "")
		case 1:
			f.ok(n, http.MethodPost, fmt.Sprintf("/v2/enqueue/q/%s/m-%d", r.URL, i), "", "")
		default:
			f.ok(n, http.MethodPost, fmt.Sprintf("/v2/publish/%s/m-%d", r.URL, i), "Upstash-Flow-Control-Key: k|Upstash-Flow-Control-Value: parallelism=2", "")
		}
	}
	sql := connect(t, db.URL)
	wait(t, "all to be delivered", func() bool { return sql.count("SELECT count(*) FROM tickets") == 0 })
	if got := len(r.deliveries()); got != messages {
		t.Errorf("got %d deliveries of %d messages", got, messages)
	}
}

// A session is a connection of the test's own.
type session struct {
	t    *testing.T
	conn *pgx.Conn
}

func connect(t *testing.T, url string) *session {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(t.Context()) })
	return &session{t, conn}
}

func (s *session) run(statements ...string) {
	s.t.Helper()
	for _, sql := range statements {
		if _, err := s.conn.Exec(s.t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			s.t.Fatalf("%s: %v", sql, err)
		}
	}
}

func (s *session) count(sql string) (n int) {
	s.t.Helper()
	if err := s.conn.QueryRow(s.t.Context(), sql).Scan(&n); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return n
}
