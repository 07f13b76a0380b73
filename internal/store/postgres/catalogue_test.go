package postgres_test

import (
	"slices"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/posthaste/posthaste/internal/store/postgres"
)

func itoa(n int) string { return strconv.Itoa(n) }

// TestCatalogue holds the schema to the rules that let the same statements run where tables are spread over machines.
func TestCatalogue(t *testing.T) {
	url := newSchema(t)
	open(t, postgres.Config{URL: url})
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	list := func(sql string) []string {
		t.Helper()
		rows, err := conn.Query(t.Context(), sql)
		if err != nil {
			t.Fatal(err)
		}
		out, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for what, sql := range map[string]string{
		"foreign keys": "SELECT conname::text FROM pg_constraint WHERE connamespace = current_schema()::regnamespace AND contype = 'f'",
		"triggers":     "SELECT tgname::text FROM pg_trigger JOIN pg_class c ON c.oid = tgrelid WHERE relnamespace = current_schema()::regnamespace",
		"sequences":    "SELECT relname::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'S'",
		"functions":    "SELECT proname::text FROM pg_proc WHERE pronamespace = current_schema()::regnamespace",
		"views":        "SELECT relname::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('v', 'm')",
		"columns of text in another order than that of bytes": `SELECT table_name || '.' || column_name FROM information_schema.columns
			WHERE table_schema = current_schema() AND data_type = 'text' AND collation_name IS DISTINCT FROM 'C' AND column_name <> 'address'`,
	} {
		if got := list(sql); len(got) > 0 {
			t.Errorf("the schema has %s: %v", what, got)
		}
	}
	small := []string{"config", "meta", "node_epochs", "nodes", "tenants", "ticks"}
	tables := list("SELECT relname::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') ORDER BY relname")
	want := slices.Concat(small, hotTables)
	slices.Sort(want)
	if !slices.Equal(tables, want) {
		t.Errorf("got tables %v, want %v", tables, want)
	}
	for _, table := range hotTables {
		first := list(`SELECT a.attname::text || ' ' || format_type(a.atttypid, NULL) FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
			WHERE i.indrelid = '` + table + `'::regclass`)
		for _, column := range first {
			if column != "shard smallint" {
				t.Errorf("an index of %s begins with %s, want shard smallint", table, column)
			}
		}
		if len(first) == 0 {
			t.Errorf("%s has no key", table)
		}
	}
	// What a start changes is in no index, so that updates of gates stay on their page.
	if got := list("SELECT count(*)::text FROM pg_index WHERE indrelid = 'gates'::regclass"); got[0] != "1" {
		t.Errorf("gates has %s indexes, want its key alone", got[0])
	}
	if got := list("SELECT reloptions::text FROM pg_class WHERE oid = 'gates'::regclass AND 'fillfactor=50' = ANY(reloptions)"); len(got) != 1 {
		t.Error("gates has no room on its pages for updates")
	}
}
