package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// TestOnlyThePipelineChangesStates: a state change and its event are made in one
// place, so that no event of a device lacks what the others have.
func TestOnlyThePipelineChangesStates(t *testing.T) {
	const root = "../.."
	looked := 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name := entry.Name(); strings.HasPrefix(name, ".") && path != root || filepath.Dir(path) == root && name == "pipeline" {
				return fs.SkipDir // pipeline itself makes the changes; what lies below it follows
			}
			return nil
		}
		return lookForChanges(t, path, &looked)
	})
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(filepath.Join(root, "pipeline"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Dir(path) == filepath.Join(root, "pipeline") {
			return err
		}
		return lookForChanges(t, path, &looked)
	})
	if err != nil || looked < 100 {
		t.Fatalf("looked at %d files: %v", looked, err)
	}
}

func lookForChanges(t *testing.T, path string, looked *int) error {
	if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
		return nil
	}
	*looked++
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, nil, 0)
	if err != nil {
		return err
	}
	ast.Inspect(file, func(n ast.Node) bool {
		lit, ok := n.(*ast.CompositeLit)
		if !ok {
			return true
		}
		if of, ok := lit.Type.(*ast.SelectorExpr); ok && of.Sel.Name == "Change" {
			if from, ok := of.X.(*ast.Ident); ok && from.Name == "pipeline" {
				t.Errorf("%s constructs a pipeline.Change; pipeline.Transitions makes those", files.Position(n.Pos()))
			}
		}
		return true
	})
	return nil
}
