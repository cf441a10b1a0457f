// Package report writes what a suite measured: a table for people and a JSON file for tools.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// Figure is one measured quantity.
type Figure struct {
	Name   string  `json:"name"`
	Unit   string  `json:"unit"`
	Min    float64 `json:"min"`
	Median float64 `json:"median"`
	Max    float64 `json:"max"`
	// Must is what the median is expected to reach, such as "<= 1.15"; empty: nothing is.
	Must string `json:"must,omitempty"`
	// Beside holds the median of the same quantity of others, measured in the same run.
	Beside map[string]float64 `json:"beside,omitempty"`
}

// Of returns the figure of one or more measurements.
func Of(name, unit string, values ...float64) Figure {
	sorted := slices.Sorted(slices.Values(values))
	return Figure{Name: name, Unit: unit, Min: sorted[0], Median: Median(sorted), Max: sorted[len(sorted)-1]}
}

// With adds what another one measured.
func (f Figure) With(peer string, values ...float64) Figure {
	beside := map[string]float64{peer: Median(slices.Sorted(slices.Values(values)))}
	for name, value := range f.Beside {
		beside[name] = value
	}
	f.Beside = beside
	return f
}

// Target adds what the median is expected to reach.
func (f Figure) Target(must string) Figure {
	f.Must = must
	return f
}

// Median returns the middle of sorted values.
func Median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// Quantile returns the value that a share q of the sorted values does not exceed.
func Quantile(sorted []float64, q float64) float64 {
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// Write prints the table and writes <dir>/<suite>.json.
func Write(out io.Writer, dir, suite string, figures []Figure) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\n%s\tmedian\tmin\tmax\tunit\tmust be\tbeside\n", suite)
	for _, f := range figures {
		var beside []string
		for peer, value := range f.Beside {
			beside = append(beside, fmt.Sprintf("%s %s", peer, number(value)))
		}
		slices.Sort(beside)
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", f.Name, number(f.Median), number(f.Min), number(f.Max), f.Unit, f.Must,
			strings.Join(beside, ", "))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	text, err := json.MarshalIndent(figures, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, suite+".json"), append(text, '\n'), 0o644) //nolint:gosec // figures are for all to read
}

func number(v float64) string {
	switch {
	case v >= 1000:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}
