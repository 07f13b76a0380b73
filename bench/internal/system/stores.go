package system

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/posthaste/posthaste/bench/internal/proc"
)

// databaseUser is the user that PostgreSQL runs as if this process is root, which PostgreSQL refuses to be.
const databaseUser = "postgres"

// database is the name of the database, the role and what is in the URL.
const database = "bench"

var (
	redisReady    = regexp.MustCompile(`ready to accept connections`)
	postgresReady = regexp.MustCompile(`database system is ready to accept connections`)
)

// startRedis starts a private redis-server with its data in dir, on a Unix socket only, and returns the path of that.
func startRedis(ctx context.Context, dir, appendfsync string) (*proc.Child, string, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, "", err
	}
	socket, err := socketPath(dir, "redis.sock")
	if err != nil {
		return nil, "", err
	}
	child, err := proc.Start(ctx, proc.Spec{
		Path: path,
		Args: []string{
			"--port", "0", "--unixsocket", socket, "--dir", dir, "--save", "",
			"--appendonly", "yes", "--appendfsync", appendfsync, "--loglevel", "notice", "--daemonize", "no",
		},
		Dir: dir, Env: environment(), Ready: redisReady, Timeout: startTimeout, Abort: true,
	})
	return child, socket, err
}

// socketPath names a socket in dir, and fails if the name is too long for the system.
func socketPath(dir, name string) (string, error) {
	path := filepath.Join(dir, name)
	if len(path) > 100 {
		return "", fmt.Errorf("%s is too long for a socket: choose a shorter -dir", path)
	}
	return path, nil
}

// postgresBinaries returns the directory of PostgreSQL's programs, the newest if there are several.
func postgresBinaries() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil { // the others may have no link beside it
			return filepath.Dir(path), nil
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return "", errors.New("PostgreSQL is not installed: there is no initdb")
	}
	slices.Sort(found)
	return filepath.Dir(found[len(found)-1]), nil
}

// startPostgres makes a cluster in dir and serves it, on a Unix socket only; a committed transaction is durable. It returns the URL of an empty database.
func startPostgres(ctx context.Context, dir string) (*proc.Child, string, error) {
	bin, err := postgresBinaries()
	if err != nil {
		return nil, "", err
	}
	user := ""
	if os.Geteuid() == 0 {
		user = databaseUser
	}
	home := filepath.Join(dir, "pg")
	if err := os.Mkdir(home, 0o700); err != nil {
		return nil, "", err
	}
	if user != "" {
		// The user must reach its directory, which is below others'.
		for _, above := range []string{dir, filepath.Dir(dir)} {
			if err := os.Chmod(above, 0o711); err != nil {
				return nil, "", err
			}
		}
		if err := proc.Own(home, user); err != nil {
			return nil, "", err
		}
	}
	data := filepath.Join(home, "data")
	initdb := proc.Spec{
		Path: filepath.Join(bin, "initdb"),
		Args: []string{"-D", data, "-U", database, "-A", "trust", "-E", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"},
		Dir:  home, Env: environment(), User: user,
	}
	if err := proc.Run(ctx, initdb); err != nil {
		return nil, "", err
	}
	if _, err := socketPath(home, ".s.PGSQL.5432"); err != nil {
		return nil, "", err
	}
	child, err := proc.Start(ctx, proc.Spec{
		Path: filepath.Join(bin, "postgres"),
		Args: []string{
			"-D", data, "-k", home, "-c", "listen_addresses=", "-c", "fsync=on", "-c", "synchronous_commit=on",
			"-c", "full_page_writes=on", "-c", "shared_buffers=512MB", "-c", "max_wal_size=4GB", "-c", "max_connections=200",
		},
		Dir: home, Env: environment(), Ready: postgresReady, Timeout: startTimeout, User: user, Abort: true,
	})
	if err != nil {
		return nil, "", err
	}
	createdb := proc.Spec{
		Path: filepath.Join(bin, "createdb"), Args: []string{"-h", home, "-U", database, database},
		Dir: home, Env: environment(), User: user,
	}
	if err := proc.Run(ctx, createdb); err != nil {
		return nil, "", errors.Join(err, child.Stop())
	}
	return child, fmt.Sprintf("postgres://%s@/%s?host=%s", database, database, home), nil
}

// redisVersion and postgresVersion are what the programs say of themselves.
func redisVersion(ctx context.Context) string { return firstLine(ctx, "redis-server", "--version") }

func postgresVersion(ctx context.Context) string {
	bin, err := postgresBinaries()
	if err != nil {
		return ""
	}
	return firstLine(ctx, filepath.Join(bin, "postgres"), "--version")
}

func firstLine(ctx context.Context, program string, args ...string) string {
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}
