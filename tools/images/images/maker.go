package main

import (
	"context"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/halleypush/halley/tools/images/internal/debian"
	"github.com/halleypush/halley/tools/images/internal/layer"
	"github.com/halleypush/halley/tools/images/internal/oci"
	"github.com/halleypush/halley/tools/images/internal/program"
	"github.com/halleypush/halley/tools/images/internal/roots"
	"github.com/halleypush/halley/tools/images/internal/sbom"
)

// Users of the images: nonroot's, as distroless has it, and that of Docker's postgres, which the chart knows.
const (
	nonroot  = 65532
	postgres = 999
)

// maker makes images of the repository at root.
type maker struct {
	root, tag string
	platforms []v1.Platform

	revision string    // commit, with -dirty if files differ from it
	created  time.Time // the commit's, so that the same source makes the same image
}

// examine finds out what is built. A source without git has no revision, and images of 1970.
func (m *maker) examine(ctx context.Context) error {
	git := func(args ...string) (string, error) {
		text, err := exec.CommandContext(ctx, "git", append([]string{"-C", m.root}, args...)...).Output()
		return strings.TrimSpace(string(text)), err
	}
	m.created = time.Unix(0, 0).UTC()
	if _, err := git("rev-parse", "--git-dir"); err != nil {
		return nil //nolint:nilerr // a source archive
	}
	revision, err := git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
	if err != nil {
		return fmt.Errorf("revision: %w", err)
	}
	committed, err := git("log", "-1", "--format=%cI")
	if err != nil {
		return fmt.Errorf("time of the commit: %w", err)
	}
	created, err := time.Parse(time.RFC3339, committed)
	if err != nil {
		return fmt.Errorf("time of the commit: %w", err)
	}
	m.revision, m.created = revision, created.UTC()
	return nil
}

// services makes the images of these services; without names, of all.
func (m *maker) services(ctx context.Context, names []string) ([]image, error) {
	packages, docs, err := program.Packages(ctx, m.root)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(packages))
	}
	var paths []string
	for _, name := range names {
		if packages[name] == "" {
			return nil, fmt.Errorf("there is no service %s, but %s", name, strings.Join(slices.Sorted(maps.Keys(packages)), ", "))
		}
		paths = append(paths, packages[name])
	}
	images, bills := map[string][]oci.Image{}, map[string]map[string][]byte{}
	for _, platform := range m.platforms {
		programs, err := program.Build(ctx, m.root, true, platform, paths...)
		if err != nil {
			return nil, err
		}
		for _, p := range programs {
			bill, err := sbom.Go(p.Name, m.tag, m.created, p.Info)
			if err != nil {
				return nil, err
			}
			i, err := m.goImage(p, platform, p.Name, docs[p.Name], bill)
			if err != nil {
				return nil, err
			}
			images[p.Name] = append(images[p.Name], i)
			if bills[p.Name] == nil {
				bills[p.Name] = map[string][]byte{}
			}
			bills[p.Name][platform.Architecture] = bill
		}
	}
	var made []image
	for _, name := range names {
		index, err := oci.Index(images[name])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		made = append(made, image{name: name, index: index, bills: bills[name]})
	}
	return made, nil
}

// nats makes trial-nats of the server that tools/nats pins.
func (m *maker) nats(ctx context.Context) (image, error) {
	const name = "trial-nats"
	made := image{name: name, bills: map[string][]byte{}}
	var images []oci.Image
	for _, platform := range m.platforms {
		programs, err := program.Build(ctx, filepath.Join(m.root, "tools", "nats"), false, platform, "github.com/nats-io/nats-server/v2")
		if err != nil {
			return image{}, err
		}
		bill, err := sbom.Go(name, version(programs[0].Info), m.created, programs[0].Info)
		if err != nil {
			return image{}, err
		}
		i, err := m.goImage(programs[0], platform, name, "NATS "+version(programs[0].Info)+", for trials of Halley.", bill)
		if err != nil {
			return image{}, err
		}
		images, made.bills[platform.Architecture] = append(images, i), bill
	}
	var err error
	made.index, err = oci.Index(images)
	return made, err
}

func version(info *debug.BuildInfo) string { return info.Main.Version }

// goImage makes the image of a program, which needs nothing but root certificates.
func (m *maker) goImage(p program.Program, platform v1.Platform, name, doc string, bill []byte) (oci.Image, error) {
	certificates, err := roots.PEM()
	if err != nil {
		return oci.Image{}, err
	}
	base := append(users(nonroot, "nonroot", "/"), layer.File{Path: roots.Path, Body: certificates})
	path := "/usr/bin/" + p.Name
	return m.image(platform, name, doc, nonroot, path, base, []layer.File{
		{Path: path, Mode: 0o755, Body: p.Body}, {Path: "/var/lib/db/sbom/" + name + ".cdx.json", Body: bill},
	})
}

// postgres makes trial-postgres of the PostgreSQL of this machine, which is a Debian.
func (m *maker) postgres(ctx context.Context, platform v1.Platform) (image, error) {
	const name = "trial-postgres"
	// initdb starts the server through a shell. Without LLVM there is no JIT, which Halley's queries gain nothing by.
	const bin, lib = "/usr/lib/postgresql/15/bin/", "/usr/lib/postgresql/15/lib"
	except := regexp.MustCompile(`/(bitcode|pgxs)/|llvmjit|\.a$`)
	system, packages, err := debian.Files(ctx, except, bin+"postgres", bin+"initdb", bin+"psql", bin+"pg_dump", lib,
		"/usr/share/postgresql/15", "/usr/lib/locale/C.utf8", "/usr/share/zoneinfo", "/bin/dash")
	if err != nil {
		return image{}, fmt.Errorf("PostgreSQL, which has to be installed here (postgresql-15): %w", err)
	}
	system = append(system, []layer.File{
		{Path: "/bin", Link: "usr/bin"}, {Path: "/lib", Link: "usr/lib"}, {Path: "/lib64", Link: "usr/lib64"}, {Path: "/usr/bin/sh", Link: "dash"},
	}...)
	bill, err := sbom.Debian(name, m.tag, m.created, packages)
	if err != nil {
		return image{}, err
	}
	entry, err := program.Build(ctx, filepath.Join(m.root, "tools", "images"), false, platform, "./trialpostgres")
	if err != nil {
		return image{}, err
	}
	base := append(users(postgres, "postgres", "/var/lib/postgresql"), system...)
	path := "/usr/bin/" + entry[0].Name
	i, err := m.image(platform, name, "PostgreSQL 15 of Debian 12, for trials of Halley.", postgres, path, base, []layer.File{
		{Path: path, Mode: 0o755, Body: entry[0].Body}, {Path: "/var/lib/db/sbom/" + name + ".cdx.json", Body: bill},
	})
	if err != nil {
		return image{}, err
	}
	i.Config.Env = append(i.Config.Env, "LANG=C.UTF-8", "PGDATA=/var/lib/postgresql/data")
	i.Config.StopSignal = "SIGINT" // a fast shutdown
	index, err := oci.Index([]oci.Image{i})
	return image{name: name, index: index, bills: map[string][]byte{platform.Architecture: bill}}, err
}

// users are the files by which a program finds its user.
func users(id int, name, home string) []layer.File {
	return []layer.File{
		{Path: "/etc/passwd", Body: fmt.Appendf(nil, "root:x:0:0:root:/:/sbin/nologin\n%s:x:%d:%d:%s:%s:/sbin/nologin\n", name, id, id, name, home)},
		{Path: "/etc/group", Body: fmt.Appendf(nil, "root:x:0:\n%s:x:%d:\n", name, id)},
		{Path: "/tmp/", Mode: 0o1777},
	}
}

// image puts an image together of layers of files, those that change least first.
func (m *maker) image(platform v1.Platform, name, doc string, user int, entry string, layers ...[]layer.File) (oci.Image, error) {
	made := oci.Image{Platform: platform, Created: m.created, Config: v1.Config{
		User: fmt.Sprintf("%d:%d", user, user), Entrypoint: []string{entry}, WorkingDir: "/", Env: []string{"PATH=/usr/bin"},
		Labels: map[string]string{
			"org.opencontainers.image.title":       "halley-" + name,
			"org.opencontainers.image.description": doc,
			"org.opencontainers.image.version":     m.tag,
			"org.opencontainers.image.revision":    m.revision,
			"org.opencontainers.image.created":     m.created.Format(time.RFC3339),
			"org.opencontainers.image.source":      "https://github.com/halleypush/halley",
			"org.opencontainers.image.licenses":    "Apache-2.0",
		},
	}}
	for _, files := range layers {
		l, err := layer.New(files)
		if err != nil {
			return oci.Image{}, fmt.Errorf("%s: %w", name, err)
		}
		made.Layers = append(made.Layers, l)
	}
	return made, nil
}
