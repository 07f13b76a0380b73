package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// pure lists the packages that have no I/O, no goroutine and no clock: what they return depends on what they are given.
var pure = []string{
	"internal/cron", "internal/retry", "internal/signature", "internal/wire", "internal/compose", "internal/lifecycle",
	"internal/flowcontrol",
}

// moving are the standard library's packages that a pure package must not import, with everything below them but
// the exceptions.
var (
	moving = []string{
		"context", "crypto/rand", "database", "io/ioutil", "log", "math/rand", "net", "os", "plugin", "runtime", "sync/atomic",
		"syscall", "testing", "unsafe",
	}
	still = []string{"net/netip", "net/textproto", "net/url"} // they only read text
)

// clocks are the functions of package time that look at a clock.
var clocks = []string{"After", "AfterFunc", "NewTicker", "NewTimer", "Now", "Since", "Sleep", "Tick", "Until"}

// purityFaults says how a file moves.
func purityFaults(fset *token.FileSet, file *ast.File) []string {
	var faults []string
	fault := func(n ast.Node, what string) {
		faults = append(faults, fmt.Sprintf("%s: a pure package must not %s", fset.Position(n.Pos()), what))
	}
	below := func(path string) func(string) bool {
		return func(dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
	}
	timeName := ""
	for _, imp := range file.Imports {
		path, _ := strconv.Unquote(imp.Path.Value)
		if slices.ContainsFunc(moving, below(path)) && !slices.Contains(still, path) {
			fault(imp, "import "+path)
		}
		if path == "time" {
			timeName = "time"
			if imp.Name != nil {
				timeName = imp.Name.Name
			}
		}
		if imp.Name != nil && imp.Name.Name == "." {
			fault(imp, "import "+path+" without a name: what it uses could not be seen")
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && timeName != "" && x.Name == timeName && slices.Contains(clocks, n.Sel.Name) {
				fault(n, "use time."+n.Sel.Name)
			}
		case *ast.GoStmt:
			fault(n, "start a goroutine")
		case *ast.ChanType:
			fault(n, "use channels")
		}
		return true
	})
	return faults
}

// wireNames are parts of the names on the wire, in lower case. Only package wire spells them.
var wireNames = []string{"topicname", "upstash-"}

// spellsWireNames says where these may stand: in the package that owns them, in the command line, which tells its users
// about them and looks for them in their code, and in programs that stand outside.
func spellsWireNames(name string) bool {
	return name == "internal/wire" || name == "internal/cli" || strings.HasPrefix(name, "internal/cli/") ||
		slices.ContainsFunc(blackBox, func(dir string) bool { return strings.HasPrefix(name, dir) })
}

// spellingFaults finds names of the wire in the strings and struct tags of a file; comments may name them.
func spellingFaults(fset *token.FileSet, file *ast.File) []string {
	var faults []string
	ast.Inspect(file, func(n ast.Node) bool {
		lit, ok := n.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return true
		}
		for _, name := range wireNames {
			if strings.Contains(strings.ToLower(lit.Value), name) {
				faults = append(faults, fmt.Sprintf("%s: %s is a name of the wire: use internal/wire", fset.Position(lit.Pos()), lit.Value))
				break
			}
		}
		return true
	})
	return faults
}

func TestSources(t *testing.T) {
	for _, p := range packages(t) {
		for _, name := range p.GoFiles {
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Error(err)
				continue
			}
			var faults []string
			if slices.Contains(pure, p.name()) {
				faults = append(faults, purityFaults(fset, file)...)
			}
			if !spellsWireNames(p.name()) {
				faults = append(faults, spellingFaults(fset, file)...)
			}
			for _, fault := range faults {
				t.Error(fault)
			}
		}
	}
}

// TestSourceFaultsAreFound plants faults.
func TestSourceFaultsAreFound(t *testing.T) {
	tests := []struct {
		src  string
		want string
	}{
		{`import ("net/url"; "time"; "errors"); var _ = time.Second; var _ = url.Parse; var _ = errors.New`, ""},
		{`import "context"`, "x.go:1:19: a pure package must not import context"},
		{`import "net/http"`, "x.go:1:19: a pure package must not import net/http"},
		{`import "sync"`, ""},
		{`import "sync/atomic"`, "x.go:1:19: a pure package must not import sync/atomic"},
		{`import r "math/rand/v2"`, "x.go:1:19: a pure package must not import math/rand/v2"},
		{`import "time"; var now = time.Now()`, "x.go:1:37: a pure package must not use time.Now"},
		{`import clock "time"; var now = clock.Now`, "x.go:1:43: a pure package must not use time.Now"},
		{`import "example.com/time"; var t = time.Now()`, ""},
		{`import . "time"`, "x.go:1:19: a pure package must not import time without a name: what it uses could not be seen"},
		{`func f() { go f() }`, "x.go:1:23: a pure package must not start a goroutine"},
		{`func f(c chan int) {}`, "x.go:1:21: a pure package must not use channels"},
		{`var s = "Upstash-Delay"`, `x.go:1:20: "Upstash-Delay" is a name of the wire: use internal/wire`},
		{`var s = "upstash-" + "x"`, `x.go:1:20: "upstash-" is a name of the wire: use internal/wire`},
		{"type s struct { T string `json:\"topicName,omitempty\"` }", "x.go:1:37: `json:\"topicName,omitempty\"` is a name of the wire: use internal/wire"},
		{`var topicName = "name" // Upstash-Delay`, ""},
	}
	for _, tt := range tests {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, "x.go", "package x; "+tt.src, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(append(purityFaults(fset, file), spellingFaults(fset, file)...), "; ")
		if got != tt.want {
			t.Errorf("%s:\n got %q\nwant %q", tt.src, got, tt.want)
		}
	}
}
