// Package debian takes programs of this machine's Debian with all that they need to run: shared libraries, the loader, licences.
package debian

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/halleypush/halley/tools/images/internal/layer"
	"github.com/halleypush/halley/tools/images/internal/sbom"
)

// library is a line of ldd's: "libz.so.1 => /lib/…/libz.so.1 (0x…)", or the loader's "/lib64/ld-linux-x86-64.so.2 (0x…)".
var library = regexp.MustCompile(`(/\S+) \(0x`)

// Files returns what stands at these paths (folders with all in them) but for those that except matches, with the shared libraries
// that it needs, the packages that it is from, and their licences.
func Files(ctx context.Context, except *regexp.Regexp, paths ...string) ([]layer.File, []sbom.Package, error) {
	found := map[string]layer.File{}
	for _, path := range paths {
		err := filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || except.MatchString(path) {
				return err
			}
			return add(found, path)
		})
		if err != nil {
			return nil, nil, fmt.Errorf("files: %w", err)
		}
	}
	if err := addLibraries(ctx, found); err != nil {
		return nil, nil, err
	}
	packages, err := owners(ctx, found)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range packages {
		if err := add(found, filepath.Join("/usr/share/doc", p.Name, "copyright")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, fmt.Errorf("licence of %s: %w", p.Name, err)
		}
	}
	var files []layer.File
	for _, f := range found {
		files = append(files, f)
	}
	return files, packages, nil
}

// add adds a file under its real path, without the links of folders such as /lib, and links on the way to it.
func add(found map[string]layer.File, path string) error {
	folder, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return err
	}
	path = filepath.Join(folder, filepath.Base(path))
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return nil // a link to a folder: what is in it is listed by itself, or not needed
	}
	if info.Mode()&fs.ModeSymlink == 0 {
		body, err := os.ReadFile(path)
		found[path] = layer.File{Path: path, Mode: int64(info.Mode().Perm()), Body: body}
		return err
	}
	target, err := os.Readlink(path)
	if err != nil {
		return err
	}
	found[path] = layer.File{Path: path, Link: target}
	if !filepath.IsAbs(target) {
		target = filepath.Join(folder, target)
	}
	return add(found, target)
}

func addLibraries(ctx context.Context, found map[string]layer.File) error {
	var binaries []string
	for path, f := range found {
		if bytes.HasPrefix(f.Body, []byte("\x7fELF")) {
			binaries = append(binaries, path)
		}
	}
	slices.Sort(binaries)
	text, err := exec.CommandContext(ctx, "ldd", binaries...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ldd: %w: %s", err, text)
	}
	if missing := regexp.MustCompile(`(?m)^.*not found.*$`).Find(text); missing != nil {
		return fmt.Errorf("ldd: %s", bytes.TrimSpace(missing))
	}
	for _, match := range library.FindAllSubmatch(text, -1) {
		if err := add(found, string(match[1])); err != nil {
			return fmt.Errorf("library: %w", err)
		}
	}
	return nil
}

// owners returns the packages that files are from. Where /lib and /bin are links, packages name files by both paths.
func owners(ctx context.Context, found map[string]layer.File) ([]sbom.Package, error) {
	var paths []string
	for path := range found {
		paths = append(paths, path, strings.TrimPrefix(path, "/usr"))
	}
	slices.Sort(paths)
	text, err := exec.CommandContext(ctx, "dpkg-query", append([]string{"--search", "--"}, paths...)...).Output()
	if exit := new(exec.ExitError); err != nil && (!errors.As(err, &exit) || len(text) == 0) {
		return nil, fmt.Errorf("dpkg-query: %w", err) // an exit with text: one of the two paths is nobody's
	}
	var names []string
	for scanner := bufio.NewScanner(bytes.NewReader(text)); scanner.Scan(); {
		if name, _, ok := strings.Cut(scanner.Text(), ": /"); ok && !strings.HasPrefix(name, "diversion ") {
			names = append(names, strings.Split(name, ", ")...)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	text, err = exec.CommandContext(ctx, "dpkg-query",
		append([]string{"--show", "--showformat", "${Package}\t${Version}\t${Architecture}\n", "--"}, names...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("dpkg-query: %w", err)
	}
	var packages []sbom.Package
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		packages = append(packages, sbom.Package{Name: fields[0], Version: fields[1], Architecture: fields[2]})
	}
	return packages, nil
}
