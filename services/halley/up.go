// Package halley runs all of Halley in one process: pushcore, gateway, NATS and, unless it is given one, PostgreSQL. The
// services are the same code that runs in pods of their own.
package halley

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/natsbus"
	"github.com/halleypush/halley/pkg/natsbus/natsserver"
	"github.com/halleypush/halley/pkg/postgres"
	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/pkg/telemetry"
	"github.com/halleypush/halley/services/gateway"
	"github.com/halleypush/halley/services/halley/internal/site"
	"github.com/halleypush/halley/services/pushcore"
	"github.com/halleypush/halley/services/vendorsim"
)

// Config is what `halley up` can be told. config.Load fills it from a YAML file and HALLEY_… variables.
type Config struct {
	Data        string        `yaml:"data" env:"DATA" default:".halley" doc:"data folder; made at the first start"`
	HTTP        string        `yaml:"http" env:"HTTP" default:"127.0.0.1:8080" doc:"address of REST, of the phones' HTTPS calls and of MQTT over WebSocket (/mqtt)"`
	GRPC        string        `yaml:"grpc" env:"GRPC" default:"127.0.0.1:9090" doc:"address of the business and admin APIs over gRPC"`
	Internal    string        `yaml:"internal" env:"INTERNAL" default:"127.0.0.1:9091" doc:"address of the internal contracts"`
	MQTT        string        `yaml:"mqtt" env:"MQTT" default:"127.0.0.1:1883" doc:"address of MQTT over TCP"`
	MQTTS       string        `yaml:"mqtts" env:"MQTTS" default:"127.0.0.1:8883" doc:"address of MQTT over TLS; empty: none"`
	TLSCert     string        `yaml:"tls_cert" env:"TLS_CERT" doc:"certificate file; empty: one of the site's own for mqtts, whose authority is tls/ca.pem in the data folder, and plain http and grpc"`
	TLSKey      string        `yaml:"tls_key" env:"TLS_KEY" doc:"key file"`
	NATS        string        `yaml:"nats" env:"NATS_LISTEN" doc:"address of the embedded NATS, for services outside; empty: only this process"`
	DatabaseURL config.Secret `yaml:"database_url" env:"DATABASE_URL" doc:"PostgreSQL to use; empty: a private cluster in the data folder"`
	Tools       string        `yaml:"tools" env:"TOOLS" doc:"folder where npm put PostgreSQL's binaries, if Debian has none"`
	Demo        bool          `yaml:"demo" env:"DEMO" default:"true" doc:"make the app demo at the first start"`

	Channels         []string `yaml:"channels" env:"CHANNELS" default:"all" doc:"vendor channels whose senders run in this process, a list (channels: [apns, fcm]): names, all or none; a vendor's own keys, such as HALLEY_APNS_PRODUCTION, are taken from the environment"`
	PublicURL        string   `yaml:"public_url" env:"PUBLIC_URL" doc:"where vendors reach the http address with their receipts, such as https://push.example.com; empty: those that are told with every push send none"`
	CORSOrigins      []string `yaml:"cors_origins" env:"CORS_ORIGINS" doc:"origins of web pages that may make the phones' calls from their scripts, such as https://www.example.com; * is any; empty: none"`
	VendorSimulators bool     `yaml:"vendor_simulators" env:"VENDOR_SIMULATORS" doc:"run simulators of the vendors, and send to them instead of to the vendors"`
	SimulatorControl string   `yaml:"simulator_control" env:"SIMULATOR_CONTROL" default:"127.0.0.1:9200" doc:"address of the simulators' control API; must be loopback"`

	// Telemetry is that of the process.
	Telemetry telemetry.Config `yaml:"telemetry" env:"TELEMETRY"`

	// Out takes what a person at the terminal should read. TelemetryOptions change where logs and spans go.
	Out              io.Writer          `yaml:"-"`
	TelemetryOptions []telemetry.Option `yaml:"-"`
	// Ready is called once everything runs, with where it is. It may be nil.
	Ready func(site.Demo) `yaml:"-"`
}

// Validate says what is wrong with the configuration.
func (c *Config) Validate() error {
	if c.Data == "" {
		return errors.New("data is needed")
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return errors.New("tls_cert and tls_key go together")
	}
	if _, err := c.channels(); err != nil {
		return err
	}
	return c.Telemetry.Validate()
}

const (
	// readyWithin bounds how long the parts may take until they are ready.
	readyWithin = time.Minute
	// stopWithin bounds how long PostgreSQL may take to stop.
	stopWithin = 30 * time.Second
)

// Up runs everything until ctx ends, and stops it gracefully.
func Up(ctx context.Context, c Config) (err error) {
	if err := c.Validate(); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	s, err := site.Open(c.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	u := &up{config: c, site: s, health: telemetry.NewHealth()}
	if u.telemetry, err = telemetry.New(ctx, "halley", c.Telemetry, c.TelemetryOptions...); err != nil {
		return err
	}
	u.log = u.telemetry.Log
	return u.run(ctx)
}

// up is a running Halley.
type up struct {
	config    Config
	site      *site.Site
	telemetry *telemetry.Telemetry
	health    *telemetry.Health
	log       *slog.Logger
	nats      *natsserver.Server
	pushcore  *pushcore.Pushcore
	gateway   *gateway.Gateway
	// simulators is nil without them; senders are by channel.
	simulators *vendorsim.Simulators
	senders    map[string]*sender.Sender
	// websocket is the gateway's handler, once there is a gateway: pushcore's port is opened first.
	websocket atomic.Pointer[http.Handler]
	// receipts are the senders' by channel, once there are senders.
	receipts atomic.Pointer[map[string]http.Handler]
}

func (u *up) run(ctx context.Context) (err error) {
	// What stands below stops after what stands on it.
	database, stopDatabase, err := u.startPostgres(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopDatabase()) }()
	if err := u.tryNATSAddress(); err != nil {
		return err
	}
	u.nats, err = natsserver.Start(natsserver.Options{
		StoreDir: u.site.Path("nats"), Listen: u.config.NATS, Passwords: u.site.Secrets.NATS, LogFile: u.site.Path("nats.log"),
	})
	if err != nil {
		return err
	}
	defer u.nats.Shutdown()
	if err := u.build(ctx, database); err != nil {
		return err
	}
	admin, err := config.Listen("telemetry.listen", "TELEMETRY_LISTEN", u.config.Telemetry.Listen)
	if err != nil {
		return err
	}
	return u.serve(ctx, admin)
}

// tryNATSAddress fails if the address for NATS is not free: nats-server ends the process then.
func (u *up) tryNATSAddress() error {
	if u.config.NATS == "" {
		return nil
	}
	l, err := config.Listen("nats", "NATS_LISTEN", u.config.NATS)
	if err != nil {
		return err
	}
	return l.Close()
}

// startPostgres returns the URL of a database, and how to stop what was started for it.
func (u *up) startPostgres(ctx context.Context) (config.Secret, func() error, error) {
	if u.config.DatabaseURL != "" {
		u.say("PostgreSQL: the one of database_url\n")
		return u.config.DatabaseURL, func() error { return nil }, nil
	}
	bin, err := postgres.Find(u.config.Tools)
	if err != nil {
		return "", nil, err
	}
	cluster, err := postgres.Start(ctx, postgres.Options{DataDir: u.site.Path("postgres"), BinDir: bin, Log: u.log})
	if err != nil {
		return "", nil, fmt.Errorf("PostgreSQL: %w", err)
	}
	u.say("PostgreSQL: a private cluster in %s (binaries of %s)\n", u.site.Path("postgres"), bin)
	stop := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
		defer cancel()
		return cluster.Stop(ctx)
	}
	if err := cluster.CreateDatabase(ctx, "halley"); err != nil {
		return "", nil, errors.Join(fmt.Errorf("PostgreSQL: %w", err), stop())
	}
	return config.Secret(cluster.DatabaseDSN("halley")), stop, nil
}

// say tells the person at the terminal.
func (u *up) say(format string, args ...any) {
	if u.config.Out != nil {
		fmt.Fprintf(u.config.Out, format, args...)
	}
}

func (u *up) build(ctx context.Context, database config.Secret) error {
	keys := u.site.Path("keys.json")
	if err := pushcore.CreateKeyFile(keys); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	certificates := site.Certificates{Cert: u.config.TLSCert, Key: u.config.TLSKey}
	if certificates.Cert == "" && u.config.MQTTS != "" {
		var err error
		if certificates, err = u.site.OwnCertificates(); err != nil {
			return err
		}
	}
	var core pushcore.Config
	if err := config.Defaults(&core); err != nil {
		return err
	}
	secrets := u.site.Secrets
	core.HTTP, core.GRPC, core.Internal = u.config.HTTP, u.config.GRPC, u.config.Internal
	core.TLSCert, core.TLSKey = u.config.TLSCert, u.config.TLSKey
	core.ServiceToken, core.AdminToken = secrets.ServiceToken, secrets.AdminToken
	core.KeyFile, core.DatabaseURL = keys, database
	core.NATS = natsbus.Config{User: "pushcore", Password: secrets.NATS["pushcore"]}
	core.NATSOptions = []nats.Option{u.nats.InProcess()}
	core.PublicURL, core.CORSOrigins = u.config.PublicURL, u.config.CORSOrigins
	core.Mounts = map[string]http.Handler{
		"/mqtt": http.HandlerFunc(u.serveWebSocket), receiptsPath: http.HandlerFunc(u.serveReceipts),
	}
	core.Shared, core.Health = u.telemetry, u.health.Part("pushcore")
	var err error
	if u.pushcore, err = pushcore.New(ctx, core); err != nil {
		return err
	}
	var gate gateway.Config
	if err := config.Defaults(&gate); err != nil {
		return err
	}
	gate.MQTT, gate.MQTTS, gate.TLSCert, gate.TLSKey = u.config.MQTT, u.config.MQTTS, certificates.Cert, certificates.Key
	gate.Pushcore, gate.ServiceToken = u.pushcore.InternalAddr(), secrets.ServiceToken
	gate.DrainWait = 0 // there is no balancer in front
	gate.NATS = natsbus.Config{User: "gateway", Password: secrets.NATS["gateway"]}
	gate.NATSOptions = core.NATSOptions
	gate.Shared, gate.Health = u.telemetry, u.health.Part("gateway")
	if u.gateway, err = gateway.New(ctx, gate); err != nil {
		return err
	}
	handler := u.gateway.WebSocket()
	u.websocket.Store(&handler)
	if err := u.newSimulators(ctx); err != nil {
		return err
	}
	return u.newSenders(ctx, core.NATSOptions)
}

func (u *up) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	if handler := u.websocket.Load(); handler != nil {
		(*handler).ServeHTTP(w, r)
		return
	}
	http.Error(w, "starting", http.StatusServiceUnavailable)
}

// serve runs the services. The gateway and the senders stop before pushcore, so that their last receipts are applied, and before
// the simulators.
func (u *up) serve(ctx context.Context, admin net.Listener) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	errs := make(chan error, 5+len(u.senders))
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackground()
	var services, below sync.WaitGroup
	below.Go(func() { errs <- u.telemetry.Serve(background, admin, u.health) })
	below.Go(func() {
		errs <- u.pushcore.Run(background)
		stop()
	})
	if u.simulators != nil {
		below.Go(func() {
			errs <- u.simulators.Run(background)
			stop()
		})
	}
	services.Go(func() {
		errs <- u.gateway.Run(ctx)
		stop()
	})
	for _, s := range u.senders {
		services.Go(func() {
			errs <- s.Run(ctx)
			stop()
		})
	}
	services.Go(func() {
		err := u.welcome(ctx, admin.Addr().String())
		if err != nil {
			stop()
		}
		errs <- err
	})
	services.Wait()
	stopBackground()
	below.Wait()
	close(errs)
	var all []error
	for err := range errs {
		if !errors.Is(err, context.Canceled) {
			all = append(all, err)
		}
	}
	flush, cancel := context.WithTimeout(context.Background(), stopWithin)
	defer cancel()
	return errors.Join(append(all, u.telemetry.Shutdown(flush))...)
}
