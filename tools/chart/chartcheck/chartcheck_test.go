package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMetricsOfTheCodeAreFoundAndOthersAreNot(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	code := "package x\n\nvar a = \"halley_x_sessions\"\n\nfunc f() { c(\"dropped_total\") }\n\nfunc c(n string) string { return \"halley_x_\" + n }\n"
	if err := os.WriteFile(filepath.Join(folder, "metrics.go"), []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	registered, err := readRegistered([]string{folder})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		`sum(halley_x_sessions{$ns}) > 1`:                         "",
		`rate(halley_x_dropped_total{$ns}[$__rate_interval])`:     "",
		`rate(halley_x_lost_total{$ns}[5m])`:                      "no service registers halley_x_lost_total",
		`sum(halley_x_sessions{$ns}`:                              "parse error",
		`halley_x_sessions - go_goroutines + halley_y_sessions`:   "no service registers halley_y_sessions",
		`histogram_quantile(0.9, rate(halley_x_seconds_sum[5m]))`: "no service registers halley_x_seconds_sum",
	} {
		wrong := strings.Join(query{where: "a query", text: text}.check(registered), "\n")
		if (want == "") != (wrong == "") || !strings.Contains(wrong, want) {
			t.Errorf("%s: %q, want %q", text, wrong, want)
		}
	}
}

func TestAlertsAndRunbooksBelongTogether(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for _, page := range []string{"HalleyA.md", "HalleyB.md", "README.md"} {
		if err := os.WriteFile(filepath.Join(folder, page), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	wrong := strings.Join(checkRunbooks([]alert{{Alert: "HalleyA"}, {Alert: "HalleyC"}}, folder), "\n")
	if !strings.Contains(wrong, "alert HalleyC has no page") || !strings.Contains(wrong, "HalleyB.md is no alert's") || strings.Contains(wrong, "HalleyA") {
		t.Errorf("got %q", wrong)
	}
}
