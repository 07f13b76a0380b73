package sqlite

import (
	"context"
	"reflect"
	"strings"
	"testing"
)

// small are the statements that read all there is, because that is little, beside those that read a table or an index from its end
// and stop after a row or at a limit.
var small = map[string]bool{
	"SELECT id, tenant, n, data FROM all_claims WHERE id > ? ORDER BY id":   true,
	"SELECT id FROM messages ORDER BY n DESC LIMIT 1":                       true,
	"SELECT wake FROM tickets WHERE wake IS NOT NULL ORDER BY wake LIMIT 1": true,
}

// Every statement finds its rows by an index and in order: none reads a whole table, none sorts.
func TestStatementsUseIndexes(t *testing.T) {
	e, err := Open(t.Context(), Config{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close() //nolint:errcheck // only read
	err = e.step(context.Background(), func(w *writer) error {
		for _, key := range reflect.ValueOf(w.c.Conn).Elem().FieldByName("stmts").MapKeys() {
			query := key.String()
			if strings.HasPrefix(query, "PRAGMA") {
				continue
			}
			s, _, err := w.c.PrepareTransient("EXPLAIN QUERY PLAN " + query)
			if err != nil {
				return err
			}
			for {
				row, err := s.Step()
				if err != nil {
					return err
				}
				if !row {
					break
				}
				plan := s.GetText("detail")
				scan := strings.HasPrefix(plan, "SCAN") && plan != "SCAN CONSTANT ROW"
				if (scan || strings.Contains(plan, "TEMP B-TREE")) && !small[query] {
					t.Errorf("%s\n%s", query, plan)
				}
			}
			if err := s.Finalize(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
