package arch

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A walk visits whatever a user of a package can reach from its exported names.
type walk struct {
	pkg    *types.Package
	seen   map[types.Type]bool
	faults []string
}

// exportedFaults says which exported names of a package show a type of a package that its users cannot import.
func exportedFaults(p *types.Package) []string {
	w := walk{pkg: p, seen: make(map[types.Type]bool)}
	for _, name := range p.Scope().Names() {
		if obj := p.Scope().Lookup(name); obj.Exported() {
			w.object(name, obj)
		}
	}
	return w.faults
}

func (w *walk) object(path string, obj types.Object) {
	if tn, ok := obj.(*types.TypeName); ok && tn.IsAlias() {
		w.typ(path, types.Unalias(obj.Type()))
		return
	}
	w.typ(path, obj.Type())
}

func (w *walk) typ(path string, t types.Type) {
	switch t := t.(type) {
	case *types.Alias:
		w.named(path, t.Obj(), t.TypeArgs())
		w.typ(path, types.Unalias(t))
	case *types.Named:
		w.named(path, t.Obj(), t.TypeArgs())
		// The types of other packages show what they show wherever they are used.
		if t.Obj().Pkg() != w.pkg || w.seen[t.Origin()] {
			return
		}
		w.seen[t.Origin()] = true
		for m := range t.Origin().Methods() {
			if m.Exported() {
				w.typ(path+"."+m.Name(), m.Type())
			}
		}
		w.params(path, t.TypeParams())
		w.typ(path, t.Origin().Underlying())
	case *types.Pointer:
		w.typ(path, t.Elem())
	case *types.Slice:
		w.typ(path, t.Elem())
	case *types.Array:
		w.typ(path, t.Elem())
	case *types.Chan:
		w.typ(path, t.Elem())
	case *types.Map:
		w.typ(path, t.Key())
		w.typ(path, t.Elem())
	case *types.Tuple:
		for v := range t.Variables() {
			w.typ(path, v.Type())
		}
	case *types.Signature:
		w.params(path, t.TypeParams())
		w.typ(path, t.Params())
		w.typ(path, t.Results())
	case *types.Struct:
		for f := range t.Fields() {
			if f.Exported() {
				w.typ(path+"."+f.Name(), f.Type())
			}
		}
	case *types.Interface:
		for m := range t.Methods() {
			if m.Exported() {
				w.typ(path+"."+m.Name(), m.Type())
			}
		}
		for e := range t.EmbeddedTypes() {
			w.typ(path, e)
		}
	case *types.Union:
		for term := range t.Terms() {
			w.typ(path, term.Type())
		}
	}
}

func (w *walk) params(path string, list *types.TypeParamList) {
	for p := range list.TypeParams() {
		w.typ(path, p.Constraint())
	}
}

func (w *walk) named(path string, obj *types.TypeName, args *types.TypeList) {
	if p := obj.Pkg(); p != nil && slices.Contains(strings.Split(p.Path(), "/"), "internal") {
		w.faults = append(w.faults, fmt.Sprintf("%s.%s shows %s.%s", w.pkg.Name(), path, p.Path(), obj.Name()))
	}
	for arg := range args.Types() {
		w.typ(path, arg)
	}
}

// TestExportedNames reads the compiler's export data, so it needs the public packages to compile, and nothing else.
func TestExportedNames(t *testing.T) {
	args := []string{"list", "-export", "-deps", "-json=ImportPath,Export"}
	for _, p := range packages(t) {
		if slices.Contains(shown, p.name()) {
			args = append(args, p.ImportPath)
		}
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	export := make(map[string]string)
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct{ ImportPath, Export string }
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		export[p.ImportPath] = p.Export
	}
	imp := importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(export[path])
	})
	for path := range export {
		if !ours(path) || !slices.Contains(shown, rel(path)) {
			continue
		}
		p, err := imp.Import(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, fault := range exportedFaults(p) {
			t.Error(fault)
		}
	}
}

// TestExportedFaultsAreFound plants faults.
func TestExportedFaultsAreFound(t *testing.T) {
	fset := token.NewFileSet()
	check := func(path, src string, imp types.Importer) *types.Package {
		t.Helper()
		file, err := parser.ParseFile(fset, path, src, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		p, err := (&types.Config{Importer: imp}).Check(path, fset, []*ast.File{file}, nil)
		if err != nil {
			t.Fatalf("%s: %v", src, err)
		}
		return p
	}
	wire := check("m/internal/wire", `package wire
		type T struct{ X int }
		type I interface{ M() }
		const Name = "x"
		const Typed Kind = 1
		type Kind int
		var V T
		func F() T { return T{} }`, nil)
	imports := importFunc(func(string) (*types.Package, error) { return wire, nil })

	tests := []struct {
		src  string
		want string
	}{
		{`const Name = wire.Name; var n = wire.V; func f() wire.T { return wire.F() }; type t struct{ A wire.T }`, ""},
		{`type T struct{ inner wire.T; X int }; func (T) m() wire.T { return wire.V }`, ""},
		{`func F(wire.T) {}`, "client.F shows m/internal/wire.T"},
		{`func F() (int, *wire.T) { return 0, nil }`, "client.F shows m/internal/wire.T"},
		{`var V = wire.V`, "client.V shows m/internal/wire.T"},
		{`const C = wire.Typed`, "client.C shows m/internal/wire.Kind"},
		{`type A = wire.T`, "client.A shows m/internal/wire.T"},
		{`type S struct{ A []map[string]wire.T }`, "client.S.A shows m/internal/wire.T"},
		{`type S struct{ wire.T }`, "client.S.T shows m/internal/wire.T"},
		{`type S struct{}; func (*S) M(func(wire.T)) {}`, "client.S.M shows m/internal/wire.T"},
		{`type t struct{ A wire.T }; func F() *t { return nil }`, "client.F.A shows m/internal/wire.T"},
		{`type I interface{ wire.I }`, "client.I shows m/internal/wire.I"},
		{`func F[P wire.I](P) {}`, "client.F shows m/internal/wire.I"},
		{`type G[P any] struct{}; var V G[wire.T]`, "client.V shows m/internal/wire.T"},
		{`type R struct{ Next *R; T chan wire.Kind }`, "client.R.T shows m/internal/wire.Kind"},
	}
	for _, tt := range tests {
		p := check("m/client", "package client; import \"m/internal/wire\"; var _ wire.T; "+tt.src, imports)
		if got := strings.Join(exportedFaults(p), "; "); got != tt.want {
			t.Errorf("%s:\n got %q\nwant %q", tt.src, got, tt.want)
		}
	}
}

type importFunc func(path string) (*types.Package, error)

func (f importFunc) Import(path string) (*types.Package, error) { return f(path) }
