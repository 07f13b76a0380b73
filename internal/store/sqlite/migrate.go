package sqlite

import (
	"context"
	"embed"
	"fmt"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/posthaste/posthaste"
)

// The schema is made by the files schema/1.sql, 2.sql and so on. The file's user_version is the number of the last one applied.
//
//go:embed schema/*.sql
var schemas embed.FS

const schemaVersion = 1

// migrate applies what is missing, all or nothing. Of several processes that open the file at a time, one does it.
func migrate(ctx context.Context, c *sqlite.Conn) (err error) {
	version, err := userVersion(c)
	if err != nil {
		return err
	}
	if version == schemaVersion {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	end, err := sqlitex.ImmediateTransaction(c)
	if err != nil {
		return err
	}
	defer end(&err)
	if version, err = userVersion(c); err != nil {
		return err
	}
	if version > schemaVersion {
		return posthaste.Errorf(posthaste.CodeConflict,
			"the data file has schema %d, and this program knows schemas up to %d: use the newer program that wrote it, or another file with --data", version, schemaVersion)
	}
	for v := version + 1; v <= schemaVersion; v++ {
		name := fmt.Sprintf("schema/%d.sql", v)
		script, err := schemas.ReadFile(name)
		if err != nil {
			return err
		}
		if err := sqlitex.ExecuteScript(c, string(script), nil); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return sqlitex.ExecuteTransient(c, fmt.Sprintf("PRAGMA user_version = %d", schemaVersion), nil)
}

func userVersion(c *sqlite.Conn) (v int, err error) {
	err = sqlitex.ExecuteTransient(c, "PRAGMA user_version", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
		v = s.ColumnInt(0)
		return nil
	}})
	return v, err
}
