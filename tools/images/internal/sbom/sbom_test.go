package sbom_test

import (
	"bytes"
	"runtime/debug"
	"testing"
	"time"

	"github.com/CycloneDX/cyclonedx-go"

	"github.com/halleypush/halley/tools/images/internal/sbom"
)

func TestABillHasEveryModuleByItsPackageURL(t *testing.T) {
	t.Parallel()
	info := &debug.BuildInfo{
		GoVersion: "go1.26.8", Main: debug.Module{Path: sbom.Ours + "services/gateway", Version: "(devel)"},
		Deps: []*debug.Module{
			{Path: sbom.Ours + "pkg", Version: "v0.0.0", Replace: &debug.Module{Path: "../pkg"}},
			{Path: "github.com/nats-io/nats.go", Version: "v1.55.0"},
			{Path: "example.com/old", Version: "v1.0.0", Replace: &debug.Module{Path: "example.com/new", Version: "v2.0.0+incompatible"}},
		},
	}
	text, err := sbom.Go("gateway", "1.2.3", time.Unix(0, 0), info)
	if err != nil {
		t.Fatal(err)
	}
	var bill cyclonedx.BOM
	if err := cyclonedx.NewBOMDecoder(bytes.NewReader(text), cyclonedx.BOMFileFormatJSON).Decode(&bill); err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, part := range *bill.Components {
		got[part.PackageURL] = true
	}
	for _, want := range []string{
		"pkg:golang/stdlib@1.26.8", "pkg:golang/github.com/halleypush/halley/services/gateway@1.2.3", "pkg:golang/github.com/halleypush/halley/pkg@1.2.3",
		"pkg:golang/github.com/nats-io/nats.go@v1.55.0", "pkg:golang/example.com/new@v2.0.0+incompatible",
	} {
		if !got[want] {
			t.Errorf("%s is missing in %v", want, got)
		}
	}
	if len(got) != 5 || bill.Metadata.Component.Version != "1.2.3" {
		t.Errorf("%d parts of %+v", len(got), bill.Metadata.Component)
	}
}
