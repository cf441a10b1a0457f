// Command halley runs Halley in one process, and is its command line.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/halleypush/halley/services/halley/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
