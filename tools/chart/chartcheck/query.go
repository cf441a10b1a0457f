package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

// alert is a rule of the chart's file.
type alert struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func readAlerts(path string) ([]alert, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var file struct{ Rules []alert }
	if err := yaml.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return file.Rules, nil
}

// check says what an alert lacks.
func (a alert) check() (wrong []string) {
	if severity := a.Labels["severity"]; severity != "page" && severity != "ticket" {
		wrong = append(wrong, fmt.Sprintf("alert %s: severity is page or ticket, not %q", a.Alert, severity))
	}
	if a.Annotations["summary"] == "" {
		wrong = append(wrong, fmt.Sprintf("alert %s has no summary", a.Alert))
	}
	return wrong
}

// query is an expression of an alert or a dashboard.
type query struct{ where, text string }

// check says what is wrong with an expression: its grammar, or a metric that no service registers.
func (q query) check(registered map[string]bool) (wrong []string) {
	text := strings.NewReplacer("$ns", `namespace="halley"`, "$namespace", "halley", "$__rate_interval", "5m").Replace(q.text)
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(text)
	if err != nil {
		return []string{fmt.Sprintf("%s: %v", q.where, err)}
	}
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if ok && !known(selector.Name, registered) {
			wrong = append(wrong, fmt.Sprintf("%s: no service registers %s", q.where, selector.Name))
		}
		return nil
	})
	return wrong
}

// known reports whether a metric is registered, or one that every Go process has.
func known(name string, registered map[string]bool) bool {
	if strings.HasPrefix(name, "process_") || strings.HasPrefix(name, "go_") {
		return true
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, suffix); ok && registered[base] {
			return true
		}
	}
	return registered[name]
}

func readDashboards(folder string) ([]query, error) {
	paths, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil {
		return nil, err
	}
	var queries []query
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var dashboard struct {
			Panels []struct {
				Title   string
				Targets []struct{ Expr string }
			}
		}
		if err := json.Unmarshal(text, &dashboard); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		for _, panel := range dashboard.Panels {
			for _, target := range panel.Targets {
				queries = append(queries, query{where: filepath.Base(path) + ", " + panel.Title, text: target.Expr})
			}
		}
	}
	return queries, nil
}
