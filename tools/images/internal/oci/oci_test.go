package oci_test

import (
	"bytes"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/halleypush/halley/tools/images/internal/layer"
	"github.com/halleypush/halley/tools/images/internal/oci"
)

func index(t *testing.T) v1.ImageIndex {
	t.Helper()
	var images []oci.Image
	for _, architecture := range []string{"amd64", "arm64"} {
		program, err := layer.New([]layer.File{
			{Path: "/usr/bin/gateway", Mode: 0o755, Body: []byte(architecture)}, {Path: "/bin", Link: "usr/bin"}, {Path: "/tmp/", Mode: 0o1777},
		})
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, oci.Image{
			Platform: v1.Platform{OS: "linux", Architecture: architecture}, Layers: []v1.Layer{program}, Created: time.Unix(1e9, 0).UTC(),
			Config: v1.Config{User: "65532:65532", Entrypoint: []string{"/usr/bin/gateway"}, Labels: map[string]string{"a": "b"}},
		})
	}
	made, err := oci.Index(images)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func tag(t *testing.T, reference string) name.Tag {
	t.Helper()
	parsed, err := name.NewTag(reference)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestARegistryHasTheImageOfEachPlatform(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(t.Output(), "", 0))))
	t.Cleanup(server.Close)
	reference := tag(t, strings.TrimPrefix(server.URL, "http://")+"/halley/gateway:1")
	if err := oci.Push(t.Context(), reference, index(t)); err != nil {
		t.Fatal(err)
	}
	for _, architecture := range []string{"amd64", "arm64"} {
		image, err := remote.Image(reference, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: architecture}))
		if err != nil {
			t.Fatal(err)
		}
		file, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if file.Architecture != architecture || file.Config.User != "65532:65532" || file.Config.Labels["a"] != "b" || file.Created.Unix() != 1e9 {
			t.Errorf("configuration of %s: %+v", architecture, file)
		}
		var files bytes.Buffer
		if _, err := files.ReadFrom(mutate.Extract(image)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(files.Bytes(), []byte("usr/bin/gateway")) || !bytes.Contains(files.Bytes(), []byte(architecture)) {
			t.Errorf("the image for %s does not hold its program", architecture)
		}
	}
}

func TestTheSameFilesMakeTheSameArchive(t *testing.T) {
	t.Parallel()
	var first, second bytes.Buffer
	for _, archive := range []*bytes.Buffer{&first, &second} {
		if err := oci.WriteArchive(archive, tag(t, "halley/gateway:1"), index(t)); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two archives differ")
	}
}

func TestAnArchiveIsAnImageLayoutWithItsName(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var archive bytes.Buffer
	want := index(t)
	if err := oci.WriteArchive(&archive, tag(t, "halley/gateway:1"), want); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "gateway.tar")
	if err := os.WriteFile(file, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "tar", "-C", dir, "-xf", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	read, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := read.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := want.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if got := manifest.Manifests[0]; len(manifest.Manifests) != 1 || got.Digest != digest ||
		got.Annotations["io.containerd.image.name"] != "docker.io/halley/gateway:1" {
		t.Errorf("index.json: %+v, want %v", manifest.Manifests, digest)
	}
}
