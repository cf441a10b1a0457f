// Command vendorsim runs the simulators of the phone makers' push services.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/telemetry"
	"github.com/halleypush/halley/services/vendorsim"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "vendorsim:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var c vendorsim.Config
	flags := flag.NewFlagSet("vendorsim", flag.ContinueOnError)
	path := flags.String("config", "", "YAML configuration `file`; HALLEY_… variables go before it")
	check := flags.Bool("check-config", false, "read the configuration, say what is wrong with it, and exit")
	version := flags.Bool("version", false, "print the version and exit")
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "vendorsim simulates the phone makers' push services.\n\nFlags:")
		flags.PrintDefaults()
		fmt.Fprintln(flags.Output(), "\nConfiguration keys:")
		_ = config.Describe(flags.Output(), &c) // what cannot be printed cannot be reported either
	}
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return err
	case *version:
		fmt.Println(telemetry.Version())
		return nil
	}
	if err := config.Load(*path, &c); err != nil {
		return err
	}
	if *check {
		fmt.Println("the configuration is good")
		return nil
	}
	return vendorsim.Run(ctx, c)
}
