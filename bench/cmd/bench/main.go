// Command bench measures Halley beside what others do, as `make bench` runs it. It runs the programs in the folder that
// HALLEY_BENCH_BIN names, as they are shipped.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/halleypush/halley/bench/internal/bare"
	"github.com/halleypush/halley/bench/internal/crew"
	"github.com/halleypush/halley/bench/internal/gateway"
	"github.com/halleypush/halley/bench/internal/peer"
	"github.com/halleypush/halley/bench/internal/phones"
	"github.com/halleypush/halley/bench/internal/report"
	"github.com/halleypush/halley/bench/internal/senders"
	"github.com/halleypush/halley/bench/internal/spine"
	"github.com/halleypush/halley/bench/internal/suite"
)

func suites() []suite.Suite {
	return []suite.Suite{{Name: "spine", Run: spine.Run}, {Name: "gateway", Run: gateway.Run}, {Name: "senders", Run: senders.Run}}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// serve is what the bench's own servers and clients do, in their processes.
func serve(role string) error {
	roles := map[string]func() error{
		phones.Role: phones.Serve, bare.Role: bare.Serve, peer.RoleMochi: peer.ServeMochi, peer.RoleCentrifuge: peer.ServeCentrifuge,
		peer.RoleSecure: peer.ServeSecure, peer.RoleParked: peer.ServeParked,
		senders.Role: senders.Serve,
	}
	if roles[role] == nil {
		return fmt.Errorf("there is no role %q", role)
	}
	return roles[role]()
}

func run(ctx context.Context) error {
	if len(os.Args) == 3 && os.Args[1] == crew.Command {
		return serve(os.Args[2])
	}
	var names []string
	for _, s := range suites() {
		names = append(names, s.Name)
	}
	only := flag.String("suite", strings.Join(names, ","), "the `suites` to run, with commas")
	dir := flag.String("out", "bench/out", "the `folder` for the figures")
	pattern := flag.String("run", ".", "measure only the figures whose name this `regexp` matches")
	quick := flag.Bool("quick", false, "a short run; its figures say little")
	profiles := flag.String("profiles", "", "the `folder` for profiles of the parts under each load; none without it")
	flag.Parse()
	bin, err := filepath.Abs(os.Getenv("HALLEY_BENCH_BIN"))
	if err != nil || os.Getenv("HALLEY_BENCH_BIN") == "" {
		return errors.New("HALLEY_BENCH_BIN is not the folder of the programs: run make bench")
	}
	figures, err := regexp.Compile(*pattern)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	o := suite.Options{Bin: bin, Quick: *quick, Only: figures, Profiles: *profiles, Out: os.Stdout}
	for _, name := range strings.Split(*only, ",") {
		found := false
		for _, s := range suites() {
			if s.Name != name {
				continue
			}
			found = true
			begin := time.Now()
			measured, err := s.Run(ctx, o)
			if err := errors.Join(err, write(*dir, name, measured)); err != nil {
				return fmt.Errorf("suite %s: %w", name, err)
			}
			fmt.Printf("suite %s took %.0f s\n", name, time.Since(begin).Seconds())
		}
		if !found {
			return fmt.Errorf("there is no suite %q, only %s", name, strings.Join(names, ", "))
		}
	}
	return nil
}

func write(dir, name string, figures []report.Figure) error {
	if len(figures) == 0 {
		return nil
	}
	return report.Write(os.Stdout, dir, name, figures)
}
