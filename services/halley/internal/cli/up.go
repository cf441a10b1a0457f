package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/natsbus/natsserver"
	"github.com/halleypush/halley/services/gateway"
	"github.com/halleypush/halley/services/halley"
	"github.com/halleypush/halley/services/pushcore"
)

func newUp(g *globals, errOut io.Writer) *cobra.Command {
	var path string
	var check, simulators bool
	given := map[string]*string{}
	c := &cobra.Command{
		Use:   "up",
		Short: "Run all of Halley in this process",
		Long: `Runs pushcore, a gateway, the senders of vendor channels, NATS with JetStream and PostgreSQL in one process, with everything in
one data folder. The first start makes the app "demo" and shows its keys. Ctrl-C stops it; what was accepted is there at the
next start.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := upConfig(cmd, g, path, given, simulators)
			if err != nil {
				return err
			}
			if check {
				fmt.Fprintln(g.out, "the configuration is good")
				return nil
			}
			c.Out = errOut
			return orFlag(cmd, halley.Up(cmd.Context(), c))
		},
	}
	f := c.Flags()
	f.StringVar(&path, "config", "", "YAML configuration file")
	f.BoolVar(&check, "check-config", false, "read the configuration, say what is wrong with it, and exit")
	f.BoolVar(&simulators, "vendor-simulators", false, "run simulators of the phone makers' services, and send to them instead")
	for name, help := range map[string]string{
		"http-listen": "address of REST, the phones' HTTPS calls and WebSocket /mqtt", "grpc-listen": "address of the APIs over gRPC",
		"internal-listen": "address of the internal contracts", "mqtt-listen": "address of MQTT over TCP",
		"mqtts-listen": "address of MQTT over TLS; none: \"\"", "metrics-listen": "address of health and metrics",
		"nats-listen": "address of the embedded NATS for services outside", "database-url": "PostgreSQL to use instead of a private one",
		"tls-cert": "certificate file for all ports", "tls-key": "key file", "log-level": "debug, info, warn or error",
		"channels": "vendor channels whose senders run, with commas between; all or none",
	} {
		given[name] = f.String(name, "", help)
	}
	c.AddCommand(&cobra.Command{
		Use: "config", Short: "List the configuration keys of halley up", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return config.Describe(g.out, &halley.Config{}) },
	})
	return c
}

// orFlag adds to the error about an address the flag that sets another one.
func orFlag(cmd *cobra.Command, err error) error {
	var unusable *config.AddressError
	if !errors.As(err, &unusable) {
		return err
	}
	name := unusable.Key + "-listen"
	if unusable.Key == "telemetry.listen" {
		name = "metrics-listen"
	}
	if cmd.Flags().Lookup(name) == nil {
		return err
	}
	return fmt.Errorf("%w, or --%s", err, name)
}

// upConfig reads the configuration: flags before the environment before the file before the defaults.
func upConfig(cmd *cobra.Command, g *globals, path string, given map[string]*string, simulators bool) (halley.Config, error) {
	var c halley.Config
	if err := config.Load(path, &c); err != nil {
		return c, err
	}
	if g.data != "" {
		c.Data = g.data
	}
	secret, channels := string(c.DatabaseURL), strings.Join(c.Channels, ",")
	for name, field := range map[string]*string{
		"http-listen": &c.HTTP, "grpc-listen": &c.GRPC, "internal-listen": &c.Internal, "mqtt-listen": &c.MQTT,
		"mqtts-listen": &c.MQTTS, "metrics-listen": &c.Telemetry.Listen, "nats-listen": &c.NATS, "database-url": &secret,
		"tls-cert": &c.TLSCert, "tls-key": &c.TLSKey, "log-level": &c.Telemetry.LogLevel,
		"channels": &channels,
	} {
		if cmd.Flags().Changed(name) {
			*field = *given[name]
		}
	}
	c.DatabaseURL, c.Channels = config.Secret(secret), strings.Split(channels, ",")
	if cmd.Flags().Changed("vendor-simulators") {
		c.VendorSimulators = simulators
	}
	if err := c.Validate(); err != nil {
		return c, usageError{err}
	}
	return c, nil
}

// newService runs one service, as its own binary does.
func newService() *cobra.Command {
	c := group("service", "Run one service of Halley alone, as in a cluster")
	var path string
	c.PersistentFlags().StringVar(&path, "config", "", "YAML configuration file")
	c.AddCommand(&cobra.Command{
		Use: "pushcore", Short: "Run a pushcore", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var c pushcore.Config
			if err := config.Load(path, &c); err != nil {
				return err
			}
			return pushcore.Run(cmd.Context(), c)
		},
	}, &cobra.Command{
		Use: "gateway", Short: "Run a gateway", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var c gateway.Config
			if err := config.Load(path, &c); err != nil {
				return err
			}
			return gateway.Run(cmd.Context(), c)
		},
	})
	return c
}

func newKeyring() *cobra.Command {
	return &cobra.Command{
		Use: "keyring FILE", Short: "Make the key file of a pushcore", Args: cobra.ExactArgs(1),
		Long: `Makes a file with the keys that device tokens are made with and that secrets are encrypted with. Every pushcore of an
installation has the same one. Keep a copy in a safe place: without it no device can come back.`,
		RunE: func(_ *cobra.Command, args []string) error {
			err := pushcore.CreateKeyFile(args[0])
			if errors.Is(err, os.ErrExist) {
				return fmt.Errorf("%s exists; it is not overwritten", args[0])
			}
			return err
		},
	}
}

func newNATSConfig(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "nats-config", Short: "Print the configuration of a nats-server for Halley", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(g.out, natsserver.Configuration)
			return err
		},
	}
}
