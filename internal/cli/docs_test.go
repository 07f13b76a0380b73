package cli_test

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/posthaste/posthaste/internal/cli"
)

var update = flag.Bool("update", false, "write the table of settings into the documentation")

const operations = "../../docs/operations.md"

// The documentation's table of settings is what the program knows.
func TestSettingsAreDocumented(t *testing.T) {
	const begin, end = "<!-- settings -->\n", "<!-- end of settings -->"
	doc, err := os.ReadFile(operations)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(doc), begin)
	table, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s lacks %q or %q", operations, begin, end)
	}
	want := cli.SettingsMarkdown()
	if *update {
		if err := os.WriteFile(operations, []byte(head+begin+want+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, table); diff != "" {
		t.Errorf("run go test ./internal/cli -update (-want +got):\n%s", diff)
	}
}
