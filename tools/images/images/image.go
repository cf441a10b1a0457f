package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/halleypush/halley/tools/images/internal/oci"
)

// image is a made image.
type image struct {
	name  string
	index v1.ImageIndex
	bills map[string][]byte // by architecture
}

// write writes the archive and the bills into a folder, and returns the size of the archive in bytes.
func (i image) write(folder, tag string) (size int64, err error) {
	reference, err := name.NewTag("halley/" + i.name + ":" + tag)
	if err != nil {
		return 0, err
	}
	for architecture, bill := range i.bills {
		if err := os.WriteFile(filepath.Join(folder, i.name+"-"+architecture+".cdx.json"), bill, 0o644); err != nil {
			return 0, err
		}
	}
	file, err := os.Create(filepath.Join(folder, i.name+".tar"))
	if err != nil {
		return 0, err
	}
	defer func() { err = cmp.Or(err, file.Close()) }()
	if err := oci.WriteArchive(file, reference, i.index); err != nil {
		return 0, err
	}
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (i image) push(ctx context.Context, registry, tag string) error {
	reference, err := name.NewTag(registry + "/halley/" + i.name + ":" + tag)
	if err != nil {
		return fmt.Errorf("-registry: %w", err)
	}
	return oci.Push(ctx, reference, i.index)
}
