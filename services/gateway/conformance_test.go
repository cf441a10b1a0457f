package gateway_test

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// statements returns the numbers in a list such as "3.1.2-26, -27, 3.1.3-1".
func statements(list string) (all []string) {
	section := ""
	for _, s := range strings.Split(list, ", ") {
		if strings.HasPrefix(s, "-") {
			s = section + s
		}
		section, _, _ = strings.Cut(s, "-")
		all = append(all, s)
	}
	return all
}

// inTables returns what the page says: "version statement test" for each statement and each test that is named for it.
func inTables(t *testing.T) map[string]bool {
	t.Helper()
	page, err := os.ReadFile("../../docs/mqtt-conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]bool{}
	row := regexp.MustCompile(`^\| (\d[\d., -]*) \|.*\| (.*) \|$`)
	version := ""
	for _, line := range strings.Split(string(page), "\n") {
		if title, ok := strings.CutPrefix(line, "## "); ok {
			version = title
		}
		if cells := row.FindStringSubmatch(line); cells != nil {
			for _, s := range statements(cells[1]) {
				for _, test := range strings.Split(strings.ReplaceAll(cells[2], "`", ""), ", ") {
					said[version+" "+s+" "+test] = true
				}
			}
		}
	}
	return said
}

// atTests returns what the comments above the tests say, in the same form, and the names of all tests.
func atTests(t *testing.T) (said, tests map[string]bool) {
	t.Helper()
	said, tests = map[string]bool{}, map[string]bool{"TestClients": true} // of e2e
	function := regexp.MustCompile(`(?m)((?:^//.*\n)*)^func ((?:Test|Fuzz)\w+)`)
	list := regexp.MustCompile(`(?m)^// (MQTT [\d.]+): (.*)$`)
	for _, pattern := range []string{"*_test.go", "internal/*/*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range function.FindAllStringSubmatch(string(text), -1) {
				tests[f[2]] = true
				for _, l := range list.FindAllStringSubmatch(f[1], -1) {
					for _, s := range statements(l[2]) {
						said[l[1]+" "+s+" "+f[2]] = true
					}
				}
			}
		}
	}
	return said, tests
}

// The tables of docs/mqtt-conformance.md and the comments above the tests say the same, so that a test that is changed shows
// what it must go on proving.
func TestTheConformanceTablesAndTheTestsAgree(t *testing.T) {
	t.Parallel()
	tables := inTables(t)
	comments, tests := atTests(t)
	if len(tables) < 250 {
		t.Errorf("the tables have %d statements with their tests only", len(tables))
	}
	for _, s := range slices.Sorted(maps.Keys(tables)) {
		if !comments[s] {
			t.Errorf("the tables have %q, no comment above that test", s)
		}
	}
	for _, s := range slices.Sorted(maps.Keys(comments)) {
		if !tables[s] {
			t.Errorf("a comment above the test has %q, the tables do not", s)
		}
	}
	page, err := os.ReadFile("../../docs/mqtt-conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z0-9]\w+`).FindAllString(string(page), -1) {
		if !tests[name] {
			t.Errorf("there is no %s", name)
		}
	}
}
