package arch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/posthaste/posthaste"

// policy says, for each package, which packages of this module it may import. Only the packages that exist are held to
// it, and each of them must have a line.
//
// The root package may be imported by every package whose line does not begin with "-". A line "*" allows every package
// but those after a "!".
var policy = map[string]string{
	".":        "-",
	"client":   "internal/wire",
	"receiver": "internal/signature internal/wire",

	"posthastetest": "internal/server internal/broker internal/devtools internal/egress internal/retry internal/wire", // what sets a server up
	"cmd/posthaste": "internal/cli",

	// Pure.
	"internal/cron":        "-",
	"internal/retry":       "-",
	"internal/signature":   "-",
	"internal/wire":        "",
	"internal/compose":     "internal/wire internal/retry",
	"internal/lifecycle":   "internal/retry internal/compose",
	"internal/fault":       "-",
	"internal/flowcontrol": "internal/fault",

	// Storage.
	"internal/store":                       "internal/flowcontrol",
	"internal/store/storetest":             "internal/store internal/ledger internal/lifecycle internal/compose internal/retry",
	"internal/store/sqlite":                "internal/store",
	"internal/store/postgres":              "internal/store",
	"internal/store/postgres/postgrestest": "-",
	"internal/move":                        "internal/store internal/ledger",
	"internal/ledger":                      "internal/store internal/lifecycle internal/flowcontrol internal/compose internal/retry internal/fault",

	// The engine.
	"internal/directory": "internal/store internal/signature",
	"internal/activity":  "internal/store internal/compose",
	"internal/history":   "internal/store internal/compose internal/wire",
	"internal/broker":    "internal/ledger internal/compose internal/cron internal/egress internal/store internal/directory internal/history internal/signature internal/wire",
	"internal/scheduler": "internal/ledger internal/compose internal/cron internal/store internal/directory internal/fault",
	"internal/dispatch":  "internal/ledger internal/store",
	"internal/delivery":  "internal/lifecycle internal/signature internal/wire internal/egress",
	"internal/egress":    "-",
	"internal/clock":     "-",

	// The edges.
	"internal/auth":      "internal/store internal/directory",
	"internal/httpapi":   "internal/broker internal/wire internal/auth internal/directory",
	"internal/openapi":   "internal/wire",
	"internal/devtools":  "internal/broker internal/clock internal/directory internal/signature internal/store internal/wire",
	"internal/console":   "internal/devtools internal/broker internal/wire internal/auth internal/directory internal/activity",
	"internal/config":    "-",
	"internal/telemetry": "-",
	"internal/server":    "* !internal/cli !internal/config",
	"internal/cli":       "* !internal/store/sqlite !internal/store/postgres",
	"internal/arch":      "-",
	"internal/sim":       "*", // tests only
}

// blackBox are the folders of programs and tests that stand outside: they use the server as its users do, so they may
// import what users may, besides what starts a server.
var (
	blackBox       = []string{"examples/", "test/"}
	blackBoxPolicy = "client receiver posthastetest internal/server internal/cli"
)

// strangers do not know each other, not even through a third package: they meet in the store, or the server introduces
// them.
var strangers = []string{"internal/broker", "internal/scheduler", "internal/dispatch", "internal/delivery"}

// public lists the packages that users compile into their own programs. They need nothing but the standard library, and
// show nothing internal.
var public = []string{".", "client", "receiver"}

// shown lists the packages whose exported names are part of what users compile against: nothing internal shows in them.
var shown = append([]string{"posthastetest"}, public...)

type pkg struct {
	ImportPath string
	Dir        string
	Doc        string
	GoFiles    []string
	Imports    []string
	Deps       []string
}

// name is the path inside the module, "." for the root.
func (p pkg) name() string { return rel(p.ImportPath) }

func rel(path string) string {
	if path == module {
		return "."
	}
	return strings.TrimPrefix(path, module+"/")
}

func ours(path string) bool { return path == module || strings.HasPrefix(path, module+"/") }

// tree lists the packages of the module. A package that does not compile is still listed.
var tree = sync.OnceValues(func() ([]pkg, error) {
	if err := readFolders(); err != nil {
		return nil, err
	}
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,Doc,GoFiles,Imports,Deps", "./...")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs, nil
		} else if err != nil {
			return nil, err
		}
		pkgs = append(pkgs, p)
	}
})

// readFolders reads every folder of the module, for the test cache: it sees what this process reads, not what go list
// does, and would call the tree unchanged when a file was added.
func readFolders() error {
	return filepath.WalkDir(filepath.Join("..", ".."), func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && (d.Name() == ".git" || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		return err
	})
}

func packages(t *testing.T) []pkg {
	t.Helper()
	pkgs, err := tree()
	if err != nil {
		t.Fatal(err)
	}
	if len(pkgs) < 2 {
		t.Fatalf("go list found %d packages", len(pkgs))
	}
	return pkgs
}

// importFaults holds a package to policy.
func importFaults(p pkg) []string {
	name := p.name()
	rule, ok := policy[name]
	if i := slices.IndexFunc(blackBox, func(dir string) bool { return strings.HasPrefix(name, dir) }); !ok && i >= 0 {
		rule, ok = blackBoxPolicy+" "+blackBox[i]+"*", true
	}
	if !ok {
		return []string{name + " has no line in policy"}
	}
	var faults []string
	for _, path := range p.Imports {
		if ours(path) && !allowed(rule, rel(path)) {
			faults = append(faults, fmt.Sprintf("%s may not import %s", name, rel(path)))
		}
	}
	return faults
}

func allowed(rule, to string) bool {
	words := strings.Fields(rule)
	if slices.Contains(words, "!"+to) {
		return false
	}
	if to == "." {
		return !slices.Contains(words, "-")
	}
	return slices.ContainsFunc(words, func(w string) bool {
		dir, all := strings.CutSuffix(w, "*")
		return w == to || all && strings.HasPrefix(to, dir)
	})
}

// dependencyFaults holds a package to the laws about what it needs, directly or not.
func dependencyFaults(p pkg) []string {
	name := p.name()
	var faults []string
	for _, path := range p.Deps {
		if slices.Contains(strangers, name) && ours(path) && slices.Contains(strangers, rel(path)) {
			faults = append(faults, fmt.Sprintf("%s must not know %s", name, rel(path)))
		}
		// The standard library's paths have no dot in their first part.
		first, _, _ := strings.Cut(path, "/")
		if slices.Contains(public, name) && strings.Contains(first, ".") && !ours(path) {
			faults = append(faults, fmt.Sprintf("%s must compile from the standard library alone, but needs %s", name, path))
		}
	}
	return faults
}

func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		for _, fault := range append(importFaults(p), dependencyFaults(p)...) {
			t.Error(fault)
		}
	}
}

func TestPackageDocs(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package comment", p.name())
		}
	}
}

// TestFaultsAreFound plants faults.
func TestFaultsAreFound(t *testing.T) {
	tests := []struct {
		pkg     string
		imports string
		want    string
	}{
		{"internal/ledger", ". internal/store internal/compose", ""},
		{"internal/server", ". internal/store/sqlite internal/anything client", ""},
		{"internal/server", "internal/cli", "internal/server may not import internal/cli"},
		{"internal/cli", "internal/server internal/store", ""},
		{"internal/cli", "internal/store/postgres", "internal/cli may not import internal/store/postgres"},
		{"internal/broker", "internal/directory internal/store/sqlite", "internal/broker may not import internal/store/sqlite"},
		{"internal/dispatch", "internal/delivery", "internal/dispatch may not import internal/delivery; internal/dispatch must not know internal/delivery"},
		{"internal/cron", ".", "internal/cron may not import ."},
		{"internal/wire", ". internal/retry", "internal/wire may not import internal/retry"},
		{"internal/new", "", "internal/new has no line in policy"},
		{"client", "internal/wire github.com/x/y net/http", "client must compile from the standard library alone, but needs github.com/x/y"},
		{"test/e2e", "internal/server test/helper", ""},
		{"test/e2e", "internal/store", "test/e2e may not import internal/store"},
		{"examples/hello", "client test/helper", "examples/hello may not import test/helper"},
	}
	for _, tt := range tests {
		p := pkg{ImportPath: module + "/" + tt.pkg}
		for path := range strings.FieldsSeq(tt.imports) {
			switch {
			case path == ".":
				path = module
			case !strings.HasPrefix(path, "github.com/") && !strings.HasPrefix(path, "net/"):
				path = module + "/" + path
			}
			p.Imports = append(p.Imports, path)
		}
		p.Deps = p.Imports
		got := strings.Join(append(importFaults(p), dependencyFaults(p)...), "; ")
		if got != tt.want {
			t.Errorf("%s importing %s:\n got %q\nwant %q", tt.pkg, tt.imports, got, tt.want)
		}
	}
}
