package fault_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"

	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

const docs = "../../../../docs/"

func TestEveryReasonIsDocumented(t *testing.T) {
	t.Parallel()
	documented := map[string]codes.Code{}
	for _, row := range table(t, docs+"errors.md", "reason") {
		c := codes.Code(code.Code_value[row[1]])
		if want := strconv.Itoa(runtime.HTTPStatusFromCode(c)); row[2] != want {
			t.Errorf("docs/errors.md: %s is HTTP %s, want %s as for every %s", row[0], row[2], want, row[1])
		}
		documented[row[0]] = c
	}
	given := reasons(t, "..")
	if code, docs := sorted(given), sorted(documented); !slices.Equal(code, docs) {
		t.Errorf("reasons in the code and in docs/errors.md differ:\n%q\n%q", code, docs)
	}
	for reason, all := range given {
		for c := range all {
			if c != documented[reason] {
				t.Errorf("docs/errors.md: %s is %v, but the code gives it with %v", reason, documented[reason], c)
			}
		}
	}
}

func TestEveryStateIsDocumented(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		column string
		enum   protoreflect.EnumDescriptor
	}{
		{"state", pushv1.Delivery_STATE_UNSPECIFIED.Descriptor()},
		{"reason", pushv1.Delivery_REASON_UNSPECIFIED.Descriptor()},
		{"bind_policy", adminv1.Settings_BIND_POLICY_UNSPECIFIED.Descriptor()},
	} {
		var documented, want []string
		for _, row := range table(t, docs+"concepts.md", tt.column) {
			documented = append(documented, row[0])
		}
		for i := 1; i < tt.enum.Values().Len(); i++ { // 0 is UNSPECIFIED
			want = append(want, string(tt.enum.Values().Get(i).Name()))
		}
		slices.Sort(documented) // the tables have their own order
		slices.Sort(want)
		if !slices.Equal(want, documented) {
			t.Errorf("%s in the proto and in docs/concepts.md differ:\n%q\n%q", tt.enum.FullName(), want, documented)
		}
	}
}

// table returns the rows of the table in a Markdown file whose first column has this heading.
func table(t *testing.T, path, heading string) (rows [][]string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "\n| "+heading+" |")
	if !found {
		t.Fatalf("%s has no table with the column %q", path, heading)
	}
	for _, line := range strings.Split(rest, "\n")[2:] { // the rest of the heading, and the rule under it
		if !strings.HasPrefix(line, "|") {
			break
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.Trim(cells[i], " `")
		}
		rows = append(rows, cells)
	}
	return rows
}

// reasons returns every reason that the Go files under dir give, with the codes that stand beside it, as far as they stand
// there.
func reasons(t *testing.T, dir string) map[string]map[codes.Code]bool {
	t.Helper()
	found := map[string]map[codes.Code]bool{}
	add := func(reason, code ast.Expr) {
		literal, ok := reason.(*ast.BasicLit)
		if !ok {
			return
		}
		text, err := strconv.Unquote(literal.Value)
		if err != nil {
			t.Fatal(err)
		}
		if found[text] == nil {
			found[text] = map[codes.Code]bool{}
		}
		if c, ok := codeOf(code); ok {
			found[text][c] = true
		}
	}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CompositeLit:
				var reason, code ast.Expr
				for _, element := range n.Elts {
					if pair, ok := element.(*ast.KeyValueExpr); ok {
						switch name(pair.Key) {
						case "Reason":
							reason = pair.Value
						case "Code":
							code = pair.Value
						}
					}
				}
				add(reason, code)
			case *ast.CallExpr:
				switch name(n.Fun) {
				case "NotFound", "Exhausted":
					add(n.Args[0], n.Fun)
				case "errCredential":
					add(n.Args[1], n.Args[0])
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// name returns the last name of an expression such as x or p.x, empty if it is something else.
func name(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

var hump = regexp.MustCompile(`([a-z])([A-Z])`)

// codeOf returns the code that codes.X means, or that a fault constructor gives.
func codeOf(e ast.Expr) (codes.Code, bool) {
	word := name(e)
	if word == "Exhausted" {
		return codes.ResourceExhausted, true
	}
	number, ok := code.Code_value[strings.ToUpper(hump.ReplaceAllString(word, "${1}_$2"))]
	return codes.Code(number), ok
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
