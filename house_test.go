package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// rank orders the packages: a package imports only packages of a lower rank.
// Adding a package means choosing its place here, with a reason, in review.
var rank = map[string]int{
	"internal/cluster": 0, "internal/fault": 0,
	"internal/conf": 1, "internal/record": 1, "internal/plan": 1,
	"internal/failover": 2, "internal/ops": 2,
	"internal/quorum": 2, // opaque bytes in, opaque bytes out
	"internal/pg":     3, "internal/host": 3, "internal/raftstore": 3,
	"internal/backupapi": 3, // one outside thing: the HTTP service beside Barman
	"internal/sim":       3, // a cluster in virtual time: what is pure, with a model of the rest
	"internal/registry":  4, "internal/server": 4, "internal/guard": 4,
	"internal/api":    5,
	"internal/daemon": 6, "internal/cli": 6,
	"cmd/repmgr": 7, "cmd/repmgrd": 7,
	"internal/lab/ports":   0, // ports for the servers of every test; imports nothing
	"internal/lab":         7, // real clusters on one machine: for tests, the demo, the benchmark and the chaos lab
	"internal/lab/labtest": 8, // what the packages of tests below internal/lab share, and know of package testing
	"internal/chaos":       8, // faults, clients and checks for such a cluster
	"cmd/lab":              9,
}

// pure packages take time, chance and the world as arguments.
var pure = map[string]bool{
	"internal/cluster": true, "internal/fault": true, "internal/conf": true,
	"internal/quorum": true,
	"internal/record": true, "internal/failover": true, "internal/plan": true, "internal/ops": true,
}

var impure = map[string]string{
	"time.Now": "take now as a parameter", "time.Since": "take now as a parameter",
	"time.Sleep": "return and be called again", "time.After": "return and be called again",
	"time.NewTimer": "return and be called again", "time.NewTicker": "return and be called again",
}

var forbidden = []string{"net", "os", "os/exec", "database/sql", "math/rand", "math/rand/v2", "crypto/rand", "log", "log/slog", "syscall"}

// maxLines is the length of a function that still fits a screen.
const maxLines = 70

// TestHouse keeps the ranks, the purity of ranks 0 to 2 and the length of functions.
func TestHouse(t *testing.T) {
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != "." {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, path, nil, 0)
		if err != nil {
			return err
		}
		if !strings.HasSuffix(path, "_test.go") {
			checkImports(t, path, f)
			checkPurity(t, fset, path, f)
		}
		checkLength(t, fset, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkImports(t *testing.T, path string, f *ast.File) {
	pkg := filepath.ToSlash(filepath.Dir(path))
	r, ok := rank[pkg]
	if !ok {
		t.Errorf("%s: package %s has no rank", path, pkg)
	}
	for _, im := range f.Imports {
		p := strings.Trim(im.Path.Value, `"`)
		own, ours := strings.CutPrefix(p, "repmgr/")
		if theirs, known := rank[own]; ours && (!known || theirs >= r) {
			t.Errorf("%s: %s (rank %d) may not import %s (rank %d)", path, pkg, r, own, theirs)
		}
		for _, bad := range forbidden {
			if pure[pkg] && p == bad {
				t.Errorf("%s: pure package %s may not import %s", path, pkg, bad)
			}
		}
	}
}

func checkPurity(t *testing.T, fset *token.FileSet, path string, f *ast.File) {
	if !pure[filepath.ToSlash(filepath.Dir(path))] {
		return
	}
	ast.Inspect(f, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if id, ok := sel.X.(*ast.Ident); ok {
			if why, bad := impure[id.Name+"."+sel.Sel.Name]; bad {
				t.Errorf("%s: %s.%s in a pure package: %s", fset.Position(n.Pos()), id.Name, sel.Sel.Name, why)
			}
		}
		return true
	})
}

func checkLength(t *testing.T, fset *token.FileSet, f *ast.File) {
	for _, decl := range f.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		if lines := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1; lines > maxLines {
			t.Errorf("%s: %s is %d lines; the limit is %d", fset.Position(fn.Pos()), fn.Name.Name, lines, maxLines)
		}
	}
}
