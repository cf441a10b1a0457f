package sender

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
)

// Program is the main of a sender's program. c is a pointer to the vendor's configuration, in which Config stands inline;
// of returns that Config and the vendor, once c has been read.
func Program(channel string, c any, of func() (Config, Vendor, error)) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := program(ctx, channel, os.Args[1:], c, of); err != nil {
		fmt.Fprintf(os.Stderr, "sender-%s: %v\n", channel, err)
		os.Exit(1)
	}
}

func program(ctx context.Context, channel string, args []string, c any, of func() (Config, Vendor, error)) error {
	flags := flag.NewFlagSet("sender-"+channel, flag.ContinueOnError)
	path := flags.String("config", "", "YAML configuration `file`; HALLEY_… variables go before it")
	check := flags.Bool("check-config", false, "read the configuration, say what is wrong with it, and exit")
	version := flags.Bool("version", false, "print the version and exit")
	flags.Usage = func() {
		fmt.Fprintf(flags.Output(), "sender-%s sends what phones get through %s.\n\nFlags:\n", channel, channel)
		flags.PrintDefaults()
		fmt.Fprintln(flags.Output(), "\nConfiguration keys:")
		_ = config.Describe(flags.Output(), c) // what cannot be printed cannot be reported either
	}
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return err
	case *version:
		_, err := fmt.Fprintln(os.Stdout, telemetry.Version())
		return err
	}
	if err := config.Load(*path, c); err != nil {
		return err
	}
	settings, vendor, err := of()
	if err != nil {
		return err
	}
	if *check {
		_, err := fmt.Fprintln(os.Stdout, "the configuration is good")
		return err
	}
	return Run(ctx, settings, vendor)
}
