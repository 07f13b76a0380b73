package postgres_test

import (
	"os"
	"testing"

	"github.com/posthaste/posthaste/internal/store/postgres"
	"github.com/posthaste/posthaste/internal/store/postgres/postgrestest"
)

func TestMain(m *testing.M) {
	// Two suites play random histories here; a soak says how long in the environment.
	if os.Getenv("POSTHASTE_MODEL_TIME") == "" {
		os.Setenv("POSTHASTE_MODEL_TIME", "5s") //nolint:errcheck // the name is valid
	}
	os.Exit(postgrestest.Main(m))
}

// newSchema makes an empty schema and returns a connection string for it.
func newSchema(tb testing.TB) string {
	tb.Helper()
	return postgrestest.Schema(tb)
}

func sqlDo(tb testing.TB, url, sql string) {
	tb.Helper()
	postgrestest.Exec(tb, url, sql)
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
