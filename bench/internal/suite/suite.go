// Package suite says what a suite of measurements is, so that the command can run each alike.
package suite

import (
	"context"
	"io"
	"regexp"
	"slices"

	"github.com/halleypush/halley/bench/internal/report"
)

// Options say what to measure, and how long.
type Options struct {
	// Bin is the folder of the programs.
	Bin string
	// Quick is a short run, to see that it works.
	Quick bool
	// Only are the names of the figures that are wanted.
	Only *regexp.Regexp
	// Profiles is the folder for profiles of the parts, empty for none. Profiling costs some of what is measured.
	Profiles string
	// Out is where to say what goes on.
	Out io.Writer
}

// Wanted reports whether one of the figures is to be measured.
func (o Options) Wanted(names ...string) bool { return slices.ContainsFunc(names, o.Only.MatchString) }

// Suite measures one thing. Run returns what it has measured also when it fails.
type Suite struct {
	Name string
	Run  func(context.Context, Options) ([]report.Figure, error)
}
