// Package program builds Go programs for images: static, without paths of the machine that builds.
package program

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Program is a built program.
type Program struct {
	Name string // file name
	Body []byte
	Info *debug.BuildInfo
}

// Build builds main packages, which belong to the workspace or module in dir, for a platform. Modules of their own (workspace false) are
// built without the workspace above them.
func Build(ctx context.Context, dir string, workspace bool, platform v1.Platform, packages ...string) ([]Program, error) {
	out, err := os.MkdirTemp("", "halley-programs-")
	if err != nil {
		return nil, fmt.Errorf("build: %w", err)
	}
	defer os.RemoveAll(out)
	// timetzdata: scratch has no time zones. Symbols are dropped; stack traces do not need them.
	args := []string{"build", "-trimpath", "-buildvcs=auto", "-tags=timetzdata", "-ldflags=-s -w", "-o", out + "/"}
	build := exec.CommandContext(ctx, "go", append(args, packages...)...)
	build.Dir = dir
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+platform.OS, "GOARCH="+platform.Architecture)
	if !workspace {
		build.Env = append(build.Env, "GOWORK=off")
	}
	if text, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build for %s: %w: %s", platform, err, bytes.TrimSpace(text))
	}
	var programs []Program
	entries, err := os.ReadDir(out)
	if err != nil {
		return nil, fmt.Errorf("build: %w", err)
	}
	for _, entry := range entries {
		p := Program{Name: entry.Name()}
		if p.Body, err = os.ReadFile(filepath.Join(out, p.Name)); err != nil {
			return nil, fmt.Errorf("build: %w", err)
		}
		if p.Info, err = buildinfo.Read(bytes.NewReader(p.Body)); err != nil {
			return nil, fmt.Errorf("build information of %s: %w", p.Name, err)
		}
		programs = append(programs, p)
	}
	return programs, nil
}

// Packages returns the main packages in the workspace's services/*/cmd, and the first sentence of what each says of itself, by the
// name of its program.
func Packages(ctx context.Context, root string) (packages, docs map[string]string, err error) {
	folders, err := fs.Glob(os.DirFS(root), "services/*/cmd/*")
	if err != nil {
		return nil, nil, fmt.Errorf("services: %w", err)
	}
	args := []string{"list", "-f", "{{.ImportPath}}\t{{.Doc}}"}
	for _, folder := range folders {
		args = append(args, "./"+folder)
	}
	var wrong bytes.Buffer
	list := exec.CommandContext(ctx, "go", args...)
	list.Dir, list.Stderr = root, &wrong
	text, err := list.Output()
	if err != nil {
		return nil, nil, fmt.Errorf("services: %w: %s", err, bytes.TrimSpace(wrong.Bytes()))
	}
	packages, docs = map[string]string{}, map[string]string{}
	for line := range strings.Lines(string(text)) {
		path, doc, _ := strings.Cut(strings.TrimSpace(line), "\t")
		name := path[strings.LastIndexByte(path, '/')+1:]
		packages[name], docs[name] = path, doc
	}
	return packages, docs, nil
}
