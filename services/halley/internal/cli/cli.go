// Package cli is the command line of Halley: `halley up` and everything that a person or a script asks of a running one.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/halleypush/halley/pkg/client"
	"github.com/halleypush/halley/pkg/telemetry"
	"github.com/halleypush/halley/services/halley/internal/site"
)

// Exit codes, for scripts.
const (
	// ExitOK: done.
	ExitOK = 0
	// ExitFailed: it could not be done, or not be found out.
	ExitFailed = 1
	// ExitUsage: the command line is wrong.
	ExitUsage = 2
	// ExitRefused: the service refused: wrong key, wrong value, no such thing.
	ExitRefused = 3
	// ExitNotReached: with --wait, the push did not reach every device in time.
	ExitNotReached = 4
)

// errNotReached ends a --wait that ran out of time.
var errNotReached = errors.New("not every device was reached in time")

// usageError marks a mistake in the command line.
type usageError struct{ error }

// Run runs a command line and returns the exit code.
func Run(ctx context.Context, args []string, out, errOut io.Writer) int {
	root := newRoot(out, errOut)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	fmt.Fprintln(errOut, "halley:", describe(err))
	var usage usageError
	switch {
	case errors.As(err, &usage):
		return ExitUsage
	case errors.Is(err, errNotReached):
		return ExitNotReached
	}
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.Unauthenticated,
		codes.FailedPrecondition, codes.Unimplemented, codes.ResourceExhausted:
		return ExitRefused
	}
	return ExitFailed
}

// describe returns an error as a person reads it.
func describe(err error) string {
	s, ok := status.FromError(err)
	if !ok || s.Code() == codes.Unknown {
		return err.Error()
	}
	text := s.Message()
	if reason := client.Reason(err); reason != "" {
		text += " (" + reason + ")"
	}
	if s.Code() == codes.Unavailable {
		text += "; is halley up?"
	}
	return text
}

// globals are the flags that every command has.
type globals struct {
	data, app, key, admin, http, grpc, mqtt, clientKey string
	tls                                                bool
	output                                             string
	out, errOut                                        io.Writer
}

func newRoot(out, errOut io.Writer) *cobra.Command {
	g := &globals{out: out, errOut: errOut}
	root := group("halley", "A self-hosted mobile push platform")
	root.Long = `Halley gets messages from your servers to your apps on phones.

"halley up" runs all of it in this terminal. The other commands talk to a running one: they take its address and keys from
flags, from the folder that --data-dir names, from HALLEY_… variables, or from the data folder of the "halley up" on this
machine (.halley/demo.env).

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by the service, 4 (--wait) not every device reached in time.`
	root.Version, root.SilenceErrors, root.SilenceUsage = telemetry.Version(), true, true
	root.SetOut(out)
	root.SetErr(errOut)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	f := root.PersistentFlags()
	f.StringVar(&g.data, "data-dir", "", "data folder of the halley on this machine (default .halley, here or above; HALLEY_DATA)")
	f.StringVar(&g.app, "app", "", "app id (HALLEY_APP)")
	f.StringVar(&g.key, "key", "", "server key, sk_… (HALLEY_KEY)")
	f.StringVar(&g.admin, "admin-token", "", "admin token, ak_… (HALLEY_ADMIN_TOKEN)")
	f.StringVar(&g.clientKey, "client-key", "", "client key, ck_…, for simulated devices (HALLEY_CLIENT_KEY)")
	f.StringVar(&g.grpc, "grpc", "", "address of the API (HALLEY_GRPC, default 127.0.0.1:9090)")
	f.StringVar(&g.mqtt, "mqtt", "", "address for devices (HALLEY_MQTT, default 127.0.0.1:1883)")
	f.BoolVar(&g.tls, "tls", false, "speak TLS with the API")
	f.StringVarP(&g.output, "output", "o", "text", "text or json")
	root.AddCommand(
		newUp(g, errOut), newDemo(g), newDevice(g), newPush(g), newGet(g), newDevices(g), newUser(g), newApp(g), newKey(g), newChannel(g),
		newService(), newKeyring(), newNATSConfig(g), newMigrate(g), newRestored(g), newCheck(g), newDoctor(g),
	)
	for _, c := range root.Commands() {
		wrapArgs(c)
	}
	return root
}

// group returns a command that only holds others: by itself it shows its help, and with anything else it is a mistake.
func group(use, short string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return usageError{fmt.Errorf("unknown command %q for %q; see %s --help", args[0], cmd.CommandPath(), cmd.CommandPath())}
		},
	}
}

// wrapArgs makes mistakes in a command's arguments mistakes of usage.
func wrapArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError{err}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		wrapArgs(sub)
	}
}

// settle fills in what the flags leave open: from the environment, then from the data folder, then the defaults. A data folder that a flag
// names comes before the environment, which may be another installation's.
func (g *globals) settle() error {
	if g.output != "text" && g.output != "json" {
		return usageError{fmt.Errorf("--output must be text or json, not %q", g.output)}
	}
	demo, err := g.readDemo()
	if err != nil {
		return err
	}
	for _, v := range []struct {
		field     *string
		variable  string
		found     string
		otherwise string
	}{
		{&g.app, "HALLEY_APP", demo.App, ""},
		{&g.key, "HALLEY_KEY", demo.ServerKey, ""},
		{&g.clientKey, "HALLEY_CLIENT_KEY", demo.ClientKey, ""},
		{&g.admin, "HALLEY_ADMIN_TOKEN", demo.AdminToken, ""},
		{&g.http, "HALLEY_URL", demo.HTTP, ""},
		{&g.grpc, "HALLEY_GRPC", demo.GRPC, "127.0.0.1:9090"},
		{&g.mqtt, "HALLEY_MQTT", demo.MQTT, "127.0.0.1:1883"},
	} {
		first, second := os.Getenv(v.variable), v.found
		if g.data != "" {
			first, second = second, first
		}
		for _, value := range []string{first, second, v.otherwise} {
			if *v.field == "" {
				*v.field = value
			}
		}
	}
	return nil
}

// readDemo reads the demo file of the data folder, or of the .halley in this folder or one above it; it may be missing.
func (g *globals) readDemo() (site.Demo, error) {
	dir := g.data
	if dir == "" {
		dir = os.Getenv("HALLEY_DATA")
	}
	if dir != "" {
		demo, err := site.ReadDemo(filepath.Join(dir, site.DemoFile))
		if errors.Is(err, os.ErrNotExist) {
			return site.Demo{}, nil
		}
		return demo, err
	}
	here, err := os.Getwd()
	if err != nil {
		return site.Demo{}, err
	}
	for {
		demo, err := site.ReadDemo(filepath.Join(here, ".halley", site.DemoFile))
		if !errors.Is(err, os.ErrNotExist) {
			return demo, err
		}
		above := filepath.Dir(here)
		if above == here {
			return site.Demo{}, nil
		}
		here = above
	}
}

func (g *globals) options() []client.Option {
	if g.tls {
		return nil
	}
	return []client.Option{client.WithPlaintext()}
}

// business returns a client of the business API.
func (g *globals) business() (*client.Client, error) {
	if err := g.settle(); err != nil {
		return nil, err
	}
	if g.app == "" || g.key == "" {
		return nil, usageError{errors.New("an app and its server key are needed: --app and --key, HALLEY_APP and HALLEY_KEY, or the data folder of a halley up")}
	}
	return client.New(g.grpc, g.key, g.options()...)
}

// administrator returns a client of the admin API.
func (g *globals) administrator() (*client.Admin, error) {
	if err := g.settle(); err != nil {
		return nil, err
	}
	if g.admin == "" {
		return nil, usageError{errors.New("the admin token is needed: --admin-token, HALLEY_ADMIN_TOKEN, or the data folder of a halley up")}
	}
	return client.NewAdmin(g.grpc, g.admin, g.options()...)
}
