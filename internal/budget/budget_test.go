package budget

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// recorder is a test that remembers whether it has failed.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Errorf(string, ...any) { r.failed = true }

var kept []byte // on the heap

// What allocates more than it may fails, whether or not it is freed again; what takes longer is told at once.
func TestBudget(t *testing.T) {
	for _, test := range []struct {
		name  string
		each  int
		fails bool
	}{{"little", 1 << 10, false}, {"much", 2 << 20, true}} {
		t.Run(test.name, func(t *testing.T) {
			r := &recorder{TB: t}
			done := begin(r, Time, 8<<20, outOfTime)
			for range 8 {
				kept = make([]byte, test.each)
			}
			done()
			if r.failed != test.fails {
				t.Errorf("failed: %v", r.failed)
			}
		})
	}
	late := make(chan string)
	done := begin(t, 1, Memory, func(name string) { late <- name })
	if name := <-late; name != t.Name() {
		t.Errorf("%s is late", name)
	}
	done()
}

// Every fuzz target has a budget.
func TestAllTargets(t *testing.T) {
	targets := 0
	err := filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || !isCall(call, "f", "Fuzz") || len(call.Args) != 1 {
				return true
			}
			targets++
			if body, ok := call.Args[0].(*ast.FuncLit); !ok || !begins(body.Body) {
				t.Errorf("a target in %s does not begin with `defer budget.Of(t)()`", path)
			}
			return true
		})
		return nil
	})
	if err != nil || targets < 40 {
		t.Errorf("%d targets, %v", targets, err)
	}
}

// begins tells whether a function begins with the budget.
func begins(body *ast.BlockStmt) bool {
	if len(body.List) == 0 {
		return false
	}
	deferred, ok := body.List[0].(*ast.DeferStmt)
	if !ok {
		return false
	}
	of, ok := deferred.Call.Fun.(*ast.CallExpr)
	return ok && isCall(of, "budget", "Of")
}

// isCall tells whether a call is of a function or method by its written name.
func isCall(call *ast.CallExpr, of, name string) bool {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	x, ok := selector.X.(*ast.Ident)
	return ok && x.Name == of && selector.Sel.Name == name
}
