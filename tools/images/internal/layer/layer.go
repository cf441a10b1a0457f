// Package layer makes image layers whose digests depend on their files alone.
package layer

import (
	"archive/tar"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// File is what stands at a path: a file, a folder if the path ends with a slash, or a link if Link is set. It belongs to root.
type File struct {
	Path string // absolute
	Mode int64  // permissions; 0: 0644, and 0755 for folders
	Body []byte
	Link string // target
}

// New returns a layer of these files and the folders above them.
func New(files []File) (v1.Layer, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, f := range withFolders(files) {
		header := &tar.Header{Name: strings.TrimPrefix(f.Path, "/"), Mode: cmp.Or(f.Mode, 0o644), ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		switch {
		case f.Link != "":
			header.Typeflag, header.Linkname, header.Mode = tar.TypeSymlink, f.Link, 0o777
		case strings.HasSuffix(f.Path, "/"):
			header.Typeflag, header.Mode = tar.TypeDir, cmp.Or(f.Mode, 0o755)
		default:
			header.Typeflag, header.Size = tar.TypeReg, int64(len(f.Body))
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("layer: %s: %w", f.Path, err)
		}
		if _, err := w.Write(f.Body); err != nil {
			return nil, fmt.Errorf("layer: %s: %w", f.Path, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("layer: %w", err)
	}
	opener := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil }
	made, err := tarball.LayerFromOpener(opener, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, fmt.Errorf("layer: %w", err)
	}
	return made, nil
}

// withFolders adds the folders above each file, and puts everything into one order, folders before what is in them.
func withFolders(files []File) []File {
	known := map[string]bool{"/": true}
	for _, f := range files {
		known[f.Path] = true
	}
	all := slices.Clone(files)
	for _, f := range files {
		for folder := path.Dir(strings.TrimSuffix(f.Path, "/")); folder != "/"; folder = path.Dir(folder) {
			if !known[folder+"/"] {
				known[folder+"/"] = true
				all = append(all, File{Path: folder + "/"})
			}
		}
	}
	slices.SortFunc(all, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	return all
}
