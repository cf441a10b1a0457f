// Command chartcheck checks what a chart says of the code around it: every metric that alerts and dashboards ask for is registered
// by a service, every alert has its runbook, every runbook its alert, and copied files are the same as their originals.
// It lists what is wrong.
//
//	chartcheck -chart helm/halley -runbooks docs/runbooks -same helm/halley/files/nats.conf=pkg/natsbus/natsserver/nats.conf services pkg
//
// With -configs it writes the services' configurations of a rendered chart into a folder instead, for the services to check.
//
//	chartcheck -configs /tmp/configs rendered.yaml
package main

import (
	"bytes"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	chart := flag.String("chart", "", "folder of the chart")
	runbooks := flag.String("runbooks", "", "folder of the runbooks")
	same := flag.String("same", "", "copy=original, which must be the same")
	configs := flag.String("configs", "", "folder to write the configurations of a rendered chart into")
	flag.Parse()
	if *configs != "" {
		if err := writeConfigs(flag.Arg(0), *configs); err != nil {
			log.Fatal(err)
		}
		return
	}
	registered, err := readRegistered(flag.Args())
	if err != nil {
		log.Fatal(err)
	}
	alerts, err := readAlerts(filepath.Join(*chart, "files", "alerts.yaml"))
	if err != nil {
		log.Fatal(err)
	}
	queries, err := readDashboards(filepath.Join(*chart, "dashboards"))
	if err != nil {
		log.Fatal(err)
	}
	var wrong []string
	for _, a := range alerts {
		queries = append(queries, query{where: "alert " + a.Alert, text: a.Expr})
		wrong = append(wrong, a.check()...)
	}
	for _, q := range queries {
		wrong = append(wrong, q.check(registered)...)
	}
	wrong = append(wrong, checkRunbooks(alerts, *runbooks)...)
	wrong = append(wrong, checkCopy(*same)...)
	if len(wrong) > 0 {
		fmt.Println(strings.Join(wrong, "\n"))
		os.Exit(1)
	}
	fmt.Printf("%d alerts with their runbooks, %d queries of metrics that are there\n", len(alerts), len(queries))
}

// checkRunbooks compares the alerts with the pages in a folder.
func checkRunbooks(alerts []alert, folder string) (wrong []string) {
	pages, err := filepath.Glob(filepath.Join(folder, "Halley*.md"))
	if err != nil {
		return []string{err.Error()}
	}
	without := map[string]bool{}
	for _, page := range pages {
		without[strings.TrimSuffix(filepath.Base(page), ".md")] = true
	}
	for _, a := range alerts {
		if !without[a.Alert] {
			wrong = append(wrong, fmt.Sprintf("alert %s has no page in %s", a.Alert, folder))
		}
		delete(without, a.Alert)
	}
	for name := range without {
		wrong = append(wrong, fmt.Sprintf("%s/%s.md is no alert's", folder, name))
	}
	return wrong
}

// checkCopy compares two files, given as copy=original.
func checkCopy(pair string) []string {
	name, original, ok := strings.Cut(pair, "=")
	if !ok {
		return nil
	}
	a, err := os.ReadFile(name)
	if err != nil {
		return []string{err.Error()}
	}
	b, err := os.ReadFile(original)
	if err != nil {
		return []string{err.Error()}
	}
	if !bytes.Equal(a, b) {
		return []string{fmt.Sprintf("%s is not %s any more: copy it", name, original)}
	}
	return nil
}
