// Command images makes Halley's container images without a container engine or a registry: for each program of services/*/cmd one
// that holds it, root certificates and its bill of materials, and nothing else. The same source makes the same digests.
//
//	images -root . -out .build/images -tag 0.1.0                 # OCI archives and bills, and the file digests
//	images -root . -out .build/images -tag 0.1.0 -trial          # NATS and PostgreSQL for trials
//	images -root . -out .build/images -tag 0.1.0 -registry registry.example.com gateway pushcore
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	root := flag.String("root", ".", "`folder` of the repository")
	out := flag.String("out", ".build/images", "`folder` for the archives")
	tag := flag.String("tag", "", "tag of the images")
	platforms := flag.String("platform", "linux/amd64,linux/arm64", "platforms")
	registry := flag.String("registry", "", "push to this registry, too")
	trial := flag.Bool("trial", false, "make trial-nats and trial-postgres instead; PostgreSQL for the platform of this machine only")
	flag.Parse()
	if *tag == "" {
		return errors.New("-tag is needed")
	}
	m := maker{root: *root, tag: *tag}
	for platform := range strings.SplitSeq(*platforms, ",") {
		p, err := v1.ParsePlatform(platform)
		if err != nil {
			return fmt.Errorf("-platform: %w", err)
		}
		m.platforms = append(m.platforms, *p)
	}
	if err := m.examine(ctx); err != nil {
		return err
	}
	var made []image
	var err error
	if *trial {
		made, err = m.trial(ctx)
	} else {
		made, err = m.services(ctx, flag.Args())
	}
	if err != nil {
		return err
	}
	return publish(ctx, os.Stdout, made, *out, *tag, *registry)
}

// trial makes NATS, and PostgreSQL as far as it is for this machine's platform.
func (m maker) trial(ctx context.Context) ([]image, error) {
	nats, err := m.nats(ctx)
	if err != nil {
		return nil, err
	}
	here := v1.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}
	if !slices.ContainsFunc(m.platforms, here.Equals) {
		return []image{nats}, nil
	}
	postgres, err := m.postgres(ctx, here)
	if err != nil {
		return nil, err
	}
	return []image{nats, postgres}, nil
}

// publish writes the archives, bills and digests, pushes the images if there is a registry, and lists them on w.
func publish(ctx context.Context, w io.Writer, made []image, out, tag, registry string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for _, i := range made {
		digest, err := i.index.Digest()
		if err != nil {
			return fmt.Errorf("%s: %w", i.name, err)
		}
		size, err := i.write(out, tag)
		if err != nil {
			return fmt.Errorf("%s: %w", i.name, err)
		}
		if registry != "" {
			if err := i.push(ctx, registry, tag); err != nil {
				return err
			}
		}
		line := fmt.Sprintf("halley/%s:%s@%s\n", i.name, tag, digest)
		if err := os.WriteFile(filepath.Join(out, i.name+".digest"), []byte(line), 0o644); err != nil {
			return err
		}
		fmt.Fprintf(w, "%.1f MB  %s", float64(size)/1e6, line)
	}
	return nil
}
