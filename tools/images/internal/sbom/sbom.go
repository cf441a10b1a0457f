// Package sbom writes bills of materials (CycloneDX, JSON) of what images hold.
package sbom

import (
	"bytes"
	"cmp"
	"fmt"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
)

// Ours is the path before those modules whose version is the image's.
const Ours = "github.com/halleypush/halley/"

// Package is a package of Debian's that files of an image are from.
type Package struct{ Name, Version, Architecture string }

// Go returns the bill of a Go program, as it was built: its modules and the standard library. version is that of our own modules.
func Go(name, version string, created time.Time, info *debug.BuildInfo) ([]byte, error) {
	parts := []cyclonedx.Component{component("golang", "stdlib", strings.TrimPrefix(info.GoVersion, "go"), "")}
	for _, module := range append([]*debug.Module{&info.Main}, info.Deps...) {
		if module.Replace != nil && !strings.HasPrefix(module.Replace.Path, ".") {
			module = module.Replace
		}
		its := module.Version
		if strings.HasPrefix(module.Path, Ours) {
			its = version
		}
		parts = append(parts, component("golang", module.Path, its, ""))
	}
	return encode(name, version, created, parts)
}

// Debian returns the bill of an image with files of Debian packages.
func Debian(name, version string, created time.Time, packages []Package) ([]byte, error) {
	var parts []cyclonedx.Component
	for _, p := range packages {
		parts = append(parts, component("deb/debian", p.Name, p.Version, "?arch="+p.Architecture+"&distro=debian-12"))
	}
	return encode(name, version, created, parts)
}

func component(kind, name, version, qualifiers string) cyclonedx.Component {
	purl := fmt.Sprintf("pkg:%s/%s@%s%s", kind, name, url.PathEscape(version), qualifiers)
	return cyclonedx.Component{BOMRef: purl, Type: cyclonedx.ComponentTypeLibrary, Name: name, Version: version, PackageURL: purl}
}

// encode writes the parts in the order of their names. The bill has no serial number, which would be another one each time.
func encode(name, version string, created time.Time, parts []cyclonedx.Component) ([]byte, error) {
	slices.SortFunc(parts, func(a, b cyclonedx.Component) int { return cmp.Compare(a.BOMRef, b.BOMRef) })
	whole := cyclonedx.Component{BOMRef: "image", Type: cyclonedx.ComponentTypeContainer, Name: "halley/" + name, Version: version}
	var refs []string
	for _, part := range parts {
		refs = append(refs, part.BOMRef)
	}
	bill := cyclonedx.NewBOM()
	bill.Metadata = &cyclonedx.Metadata{Timestamp: created.UTC().Format(time.RFC3339), Component: &whole}
	bill.Components = &parts
	bill.Dependencies = &[]cyclonedx.Dependency{{Ref: whole.BOMRef, Dependencies: &refs}}
	var out bytes.Buffer
	if err := cyclonedx.NewBOMEncoder(&out, cyclonedx.BOMFileFormatJSON).SetPretty(true).Encode(bill); err != nil {
		return nil, fmt.Errorf("bill of materials of %s: %w", name, err)
	}
	return out.Bytes(), nil
}
