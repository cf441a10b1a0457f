package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
)

// prefix begins every metric of ours.
const prefix = "halley_"

// readRegistered returns the names of the metrics in the Go files of folders. A name is one literal, or a literal that ends in "_" and
// to which a function of the same file adds another literal.
func readRegistered(folders []string) (map[string]bool, error) {
	names := map[string]bool{}
	for _, folder := range folders {
		err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			return readFile(path, names)
		})
		if err != nil {
			return nil, err
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no metrics in %v", folders)
	}
	return names, nil
}

func readFile(path string, names map[string]bool) error {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	var prefixes, rest []string
	ast.Inspect(file, func(node ast.Node) bool {
		literal, ok := node.(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			return true
		}
		text, err := strconv.Unquote(literal.Value)
		switch {
		case err != nil || strings.ContainsAny(text, " \n"):
		case strings.HasPrefix(text, prefix) && strings.HasSuffix(text, "_"):
			prefixes = append(prefixes, text)
		case strings.HasPrefix(text, prefix):
			names[text] = true
		default:
			rest = append(rest, text)
		}
		return true
	})
	for _, p := range prefixes {
		for _, r := range rest {
			names[p+r] = true
		}
	}
	return nil
}
