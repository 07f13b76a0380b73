package postgres

import "github.com/jackc/pgx/v5"

// SchemaVersion is the newest schema that the program knows.
const SchemaVersion = schemaVersion

// WithTracer returns a configuration whose engine tells of its statements.
func WithTracer(cfg Config, t pgx.QueryTracer) Config {
	cfg.trace = t
	return cfg
}
