package sqlite

import (
	"context"
	"reflect"
	"strings"
	"testing"
)

// inOrder are the statements that read a table or an index from its end, and stop after a row or at a limit.
var inOrder = map[string]bool{
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
				scan := strings.HasPrefix(plan, "SCAN") && plan != "SCAN CONSTANT ROW" && !inOrder[query]
				if scan || strings.Contains(plan, "TEMP B-TREE") {
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
