// Package oci puts layers together to images for several platforms, writes them as OCI archives and pushes them.
package oci

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Image is an image for one platform.
type Image struct {
	Platform v1.Platform
	Layers   []v1.Layer
	Config   v1.Config // its labels are the manifest's annotations, too
	Created  time.Time
}

func (i Image) make() (v1.Image, error) {
	made := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	made, err := mutate.AppendLayers(made, i.Layers...)
	if err != nil {
		return nil, fmt.Errorf("layers: %w", err)
	}
	file, err := made.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Variant = i.Platform.OS, i.Platform.Architecture, i.Platform.Variant
	file.Config, file.Created = i.Config, v1.Time{Time: i.Created}
	for n := range file.History {
		file.History[n].Created = v1.Time{Time: i.Created}
	}
	made, err = mutate.ConfigFile(made, file)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return mutate.Annotations(made, maps.Clone(i.Config.Labels)).(v1.Image), nil
}

// Index returns an index of one image for each platform.
func Index(images []Image) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, i := range images {
		made, err := i.make()
		if err != nil {
			return nil, fmt.Errorf("image for %s: %w", i.Platform, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: made, Descriptor: v1.Descriptor{Platform: &i.Platform}})
		index = mutate.Annotations(index, maps.Clone(i.Config.Labels)).(v1.ImageIndex)
	}
	return index, nil
}

// WriteArchive writes an index as an OCI archive (a tarred image layout), under the name that containerd gives it on import.
func WriteArchive(w io.Writer, reference name.Tag, index v1.ImageIndex) error {
	dir, err := os.MkdirTemp("", "halley-image-")
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	defer os.RemoveAll(dir)
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	annotations := map[string]string{
		"io.containerd.image.name":          strings.Replace(reference.Name(), name.DefaultRegistry+"/", "docker.io/", 1),
		"org.opencontainers.image.ref.name": reference.TagStr(),
	}
	if err := path.AppendIndex(index, layout.WithAnnotations(annotations)); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	if err := writeTar(w, os.DirFS(dir)); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	return nil
}

// writeTar writes files in the order of their names, without times.
func writeTar(w io.Writer, files fs.FS) error {
	archive := tar.NewWriter(w)
	err := fs.WalkDir(files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if err := archive.WriteHeader(&tar.Header{Name: path, Mode: 0o644, Size: info.Size(), ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
		file, err := files.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = io.Copy(archive, file)
		return err
	})
	if err != nil {
		return err
	}
	return archive.Close()
}

// Push writes an index to its registry, with the credentials that `docker login` or `crane auth login` have left.
func Push(ctx context.Context, reference name.Tag, index v1.ImageIndex) error {
	if err := remote.WriteIndex(reference, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return fmt.Errorf("push %s: %w", reference, err)
	}
	return nil
}
