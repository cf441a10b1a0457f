package gateway_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// The table of docs/mqtt-conformance.md must not name tests that are gone.
func TestTheConformanceTableNamesTestsThatExist(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/mqtt-conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	exist := map[string]bool{"TestClients": true} // of e2e
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
			for _, name := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)`).FindAllSubmatch(text, -1) {
				exist[string(name[1])] = true
			}
		}
	}
	named := regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z0-9]\w+`).FindAllString(string(page), -1)
	if len(named) < 100 {
		t.Errorf("%d tests are named only", len(named))
	}
	for _, name := range named {
		if !exist[name] {
			t.Errorf("there is no %s", name)
		}
	}
}
