package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/posthaste/posthaste"
)

// The schema is made by the files schema/1.sql, 2.sql and so on. The row "schema" of meta is the number of the last one
// applied. A file that was released never changes.
//
//go:embed schema/*.sql
var schemas embed.FS

const schemaVersion = 1

// defaultShards is how many shards a new store has.
const defaultShards = 4

// migrate applies what is missing, all or nothing, and returns the number of shards. Several programs may do it at a time:
// the advisory lock lets one go first, and if it does not hold (behind a pooler it may not) the others fail on what the first
// one made, and look again.
func migrate(ctx context.Context, conn *pgx.Conn, shards int) (int, error) {
	for try := 0; ; try++ {
		n, err := migrateOnce(ctx, conn, shards)
		if err == nil {
			return n, nil
		}
		switch sqlState(err) {
		case "23505", "42P07", "40001", "40P01", "42P06", "XX000":
			if try < 10 {
				time.Sleep(time.Duration(try+1) * 20 * time.Millisecond)
				continue
			}
		}
		return 0, err
	}
}

// checkSchema returns the number of shards of a schema that is up to date.
func checkSchema(ctx context.Context, conn *pgx.Conn) (int, error) {
	version, shards, err := readMeta(ctx, conn)
	if err == nil && version < schemaVersion {
		err = posthaste.Errorf(posthaste.CodeConflict,
			"the database has schema %d, and this program needs schema %d: run posthaste migrate", version, schemaVersion)
	}
	return shards, err
}

func migrateOnce(ctx context.Context, conn *pgx.Conn, shards int) (int, error) {
	if version, n, err := readMeta(ctx, conn); err != nil || version == schemaVersion {
		return n, err
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback(ctx) //nolint:errcheck // after a commit there is nothing to roll back
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtext('posthaste schema'))"); err != nil {
		return 0, err
	}
	version, n, err := readMeta(ctx, conn)
	if err != nil {
		return 0, err
	}
	if version > schemaVersion {
		return 0, posthaste.Errorf(posthaste.CodeConflict,
			"the database has schema %d, and this program knows schemas up to %d: use the newer program that made it", version, schemaVersion)
	}
	for v := version + 1; v <= schemaVersion; v++ {
		name := fmt.Sprintf("schema/%d.sql", v)
		script, err := schemas.ReadFile(name)
		if err != nil {
			return 0, err
		}
		if _, err := tx.Exec(ctx, string(script), pgx.QueryExecModeSimpleProtocol); err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
	}
	if version == 0 {
		if n = shards; n == 0 {
			n = defaultShards
		}
		if _, err := tx.Exec(ctx, "INSERT INTO meta (key, value) VALUES ('shards', $1)", int64(n)); err != nil {
			return 0, err
		}
	}
	if _, err := tx.Exec(ctx, "INSERT INTO meta (key, value) VALUES ('schema', $1) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
		int64(schemaVersion)); err != nil {
		return 0, err
	}
	return n, tx.Commit(ctx)
}

// readMeta returns the schema's version, 0 if there is none, and the number of shards.
func readMeta(ctx context.Context, conn *pgx.Conn) (version, shards int, err error) {
	var there bool
	if err := conn.QueryRow(ctx, "SELECT to_regclass('meta') IS NOT NULL").Scan(&there); err != nil || !there {
		return 0, 0, err
	}
	err = conn.QueryRow(ctx, "SELECT coalesce(max(value) FILTER (WHERE key = 'schema'), 0), coalesce(max(value) FILTER (WHERE key = 'shards'), 0) FROM meta").
		Scan(&version, &shards)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, 0, nil
	}
	if err == nil && version > schemaVersion {
		return 0, 0, posthaste.Errorf(posthaste.CodeConflict,
			"the database has schema %d, and this program knows schemas up to %d: use the newer program that made it", version, schemaVersion)
	}
	return version, shards, err
}
