// Package pushcore is the service that owns devices, bindings, routing, pushes and their fate.
package pushcore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/natsbus"
	"github.com/halleypush/halley/pkg/subject"
	"github.com/halleypush/halley/pkg/telemetry"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/pushcore/internal/accept"
	"github.com/halleypush/halley/services/pushcore/internal/api"
	"github.com/halleypush/halley/services/pushcore/internal/dispatch"
	"github.com/halleypush/halley/services/pushcore/internal/keep"
	"github.com/halleypush/halley/services/pushcore/internal/keyring"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/message"
	"github.com/halleypush/halley/services/pushcore/internal/receipt"
	"github.com/halleypush/halley/services/pushcore/internal/registry"
	"github.com/halleypush/halley/services/pushcore/internal/report"
	"github.com/halleypush/halley/services/pushcore/internal/route"
	"github.com/halleypush/halley/services/pushcore/internal/storage"
	"github.com/halleypush/halley/services/pushcore/internal/stream"
	"github.com/halleypush/halley/services/pushcore/internal/sweep"
	"github.com/halleypush/halley/services/pushcore/internal/vendor"
)

const (
	// stopWithin bounds how long running calls may take at a graceful stop.
	stopWithin = 10 * time.Second
	// retryStart is the pause between tries to reach PostgreSQL at the start.
	retryStart = time.Second
	// lookUpWithin bounds how long it may take to find out which app changed; then all are taken for changed.
	lookUpWithin = 2 * time.Second
)

// CreateKeyFile makes a new file with device and encryption keys, mode 0600. It fails if the file exists.
func CreateKeyFile(path string) error { return keyring.Create(path) }

// Run runs a pushcore until ctx ends, and stops it gracefully.
func Run(ctx context.Context, c Config) error {
	p, err := New(ctx, c)
	if err != nil {
		return err
	}
	return p.Run(ctx)
}

// Pushcore is a pushcore that has its listeners, and can be run once.
type Pushcore struct {
	config    Config
	telemetry *telemetry.Telemetry
	health    *telemetry.Health
	log       *slog.Logger
	listeners listeners
	ring      *keyring.Ring
	db        *storage.DB
	// direct and audience are the two planes' connections.
	direct, audience *nats.Conn
	// gap is called when notices over NATS may have been missed; set by build.
	gap atomic.Pointer[func()]
	// started is true once the schema is there and every part runs.
	started atomic.Bool
}

// listeners are open from New on, so that ports can be chosen by the system and others can wait in the queue.
type listeners struct{ http, grpc, internal, admin net.Listener }

// New checks the configuration, opens the listeners and prepares the connections. It does not wait for PostgreSQL or NATS.
func New(ctx context.Context, c Config) (_ *Pushcore, err error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	p := &Pushcore{config: c, health: c.Health}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if c.Shared != nil {
		p.telemetry = c.Shared.Share("pushcore")
	} else if p.telemetry, err = telemetry.New(ctx, "pushcore", c.Telemetry, c.TelemetryOptions...); err != nil {
		return nil, err
	}
	if p.health == nil {
		p.health = telemetry.NewHealth()
	}
	p.health.Register("start", func(context.Context) error {
		if !p.started.Load() {
			return errors.New("waiting for PostgreSQL")
		}
		return nil
	})
	p.log = p.telemetry.Log
	if p.ring, err = keyring.Load(c.KeyFile); err != nil {
		return nil, err
	}
	for _, l := range []struct {
		listener          *net.Listener
		key, env, address string
	}{
		{&p.listeners.http, "http", "HTTP", c.HTTP},
		{&p.listeners.grpc, "grpc", "GRPC", c.GRPC},
		{&p.listeners.internal, "internal", "INTERNAL", c.Internal},
		{&p.listeners.admin, "telemetry.listen", "TELEMETRY_LISTEN", c.Telemetry.Listen},
	} {
		if l.listener == &p.listeners.admin && c.Shared != nil {
			continue
		}
		if *l.listener, err = config.Listen(l.key, l.env, l.address); err != nil {
			return nil, err
		}
	}
	if p.db, err = storage.Open(ctx, c.DatabaseURL.Reveal(), c.Pools); err != nil {
		return nil, err
	}
	// After a gap only caches have to be dropped: what was not answered or acked is issued again.
	events := natsbus.Events{Metrics: natsbus.NewMetrics(p.telemetry.Metrics), Gap: func(string) {
		if gap := p.gap.Load(); gap != nil {
			(*gap)()
		}
	}}
	if p.direct, err = natsbus.Connect("pushcore-direct", c.NATS, p.log, events, c.NATSOptions...); err != nil {
		return nil, err
	}
	p.audience, err = natsbus.Connect("pushcore-audience", c.NATS, p.log, events, c.NATSOptions...)
	return p, err
}

// HTTPAddr, GRPCAddr, InternalAddr and AdminAddr return the addresses that the pushcore listens on.
func (p *Pushcore) HTTPAddr() string { return p.listeners.http.Addr().String() }

// GRPCAddr returns the address of the business and admin APIs over gRPC.
func (p *Pushcore) GRPCAddr() string { return p.listeners.grpc.Addr().String() }

// InternalAddr returns the address of the internal contracts.
func (p *Pushcore) InternalAddr() string { return p.listeners.internal.Addr().String() }

// AdminAddr returns the address of health and metrics.
func (p *Pushcore) AdminAddr() string {
	if p.listeners.admin == nil {
		return ""
	}
	return p.listeners.admin.Addr().String()
}

// Ready returns nil once the pushcore takes work, or what keeps it from it.
func (p *Pushcore) Ready(ctx context.Context) error {
	for name, failure := range p.health.Failing(ctx) {
		return fmt.Errorf("%s: %s", name, failure)
	}
	return nil
}

// close releases what New made, as far as it got.
func (p *Pushcore) close() {
	for _, l := range []net.Listener{p.listeners.http, p.listeners.grpc, p.listeners.internal, p.listeners.admin} {
		if l != nil {
			_ = l.Close() // closed already where its server ran
		}
	}
	for _, conn := range []*nats.Conn{p.direct, p.audience} {
		if conn != nil {
			conn.Close()
		}
	}
	if p.db != nil {
		p.db.Close()
	}
}

// Run serves until ctx ends: first the health endpoints, then, once PostgreSQL is there and migrated, everything. At the end
// it refuses new work, lets running calls finish, applies the receipts it has, and returns.
func (p *Pushcore) Run(ctx context.Context) error {
	defer p.close()
	var admin sync.WaitGroup
	adminCtx, stopAdmin := context.WithCancel(context.WithoutCancel(ctx))
	admin.Go(func() {
		if err := p.telemetry.Serve(adminCtx, p.listeners.admin, p.health); err != nil {
			p.log.Error("health endpoints failed", "error", err)
		}
	})
	defer admin.Wait()
	defer stopAdmin()
	if err := p.schema(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	s, err := p.build(ctx)
	if err != nil {
		return err
	}
	p.started.Store(true)
	err = s.run(ctx)
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	return errors.Join(err, p.telemetry.Shutdown(flush))
}

// schema brings the schema up to date, or sees that it is, waiting for PostgreSQL as long as it takes, or until ctx ends.
func (p *Pushcore) schema(ctx context.Context) error {
	url := p.config.DatabaseURL.Reveal()
	return untilAvailable(ctx, p.log, func(ctx context.Context) error {
		if p.config.KeepSchema {
			return storage.Settle(ctx, url)
		}
		return storage.Migrate(ctx, url, p.log)
	})
}

// Migrate brings the schema of a PostgreSQL, as postgres://user:password@host/database, up to this version. It waits for
// PostgreSQL until ctx ends, and refuses a schema that is newer.
func Migrate(ctx context.Context, url string, log *slog.Logger) error {
	err := untilAvailable(ctx, log, func(ctx context.Context) error { return storage.Migrate(ctx, url, log) })
	return errors.Join(err, ctx.Err())
}

// Restored makes a PostgreSQL that was restored to an earlier moment fit for use: the next skip numbers of each app are not
// given to new devices, because devices that registered after that moment may still have them, with tokens and secrets that
// fit. Those devices are told to register again. No pushcore may run. It returns how many apps there are.
func Restored(ctx context.Context, url string, skip int64) (apps int64, err error) {
	return storage.SkipOrdinals(ctx, url, skip)
}

// untilAvailable calls f again until PostgreSQL is there, or ctx ends, which is no error.
func untilAvailable(ctx context.Context, log *slog.Logger, f func(context.Context) error) error {
	for {
		err := f(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil || !storage.Unavailable(err):
			return err
		}
		log.WarnContext(ctx, "waiting for PostgreSQL", "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryStart):
		}
	}
}

// replicaName tells this process from others, and from itself before a restart.
func replicaName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host + "-" + uuid.NewString()[:8]
}

// build connects all parts. It is the one place that knows them all.
func (p *Pushcore) build(ctx context.Context) (*service, error) {
	db, log, metrics := p.db, p.log, p.telemetry.Metrics
	directJS, audienceJS, err := p.jetStreams()
	if err != nil {
		return nil, err
	}
	refused := newRefused(metrics)
	apps, keys := registry.NewApps(db.Bulk, p.ring), registry.NewKeys(db.Bulk, p.ring)
	devices, users := registry.NewDevices(db.Bulk, p.ring, refused.WithLabelValues("register")), registry.NewUsers(db.Bulk, p.ring, keys)
	channels := registry.NewChannels(db.Bulk, p.ring)
	sessions, leases := route.NewSessions(db.Open), route.NewLeases(db.Bulk)
	pushes, err := message.NewStore(db.Bulk)
	if err != nil {
		return nil, err
	}
	books, err := ledger.New(db.Ledger)
	if err != nil {
		return nil, err
	}
	hints := sweep.NewHints(metrics)
	receiptMetrics := receipt.NewMetrics(metrics)
	direct := receipt.NewDirect(directJS, db.Ledger, receiptMetrics, log)
	audience := receipt.NewAudience(audienceJS, db.Ledger, books, replicaName(), hints.Add, receiptMetrics, log)
	keeper, err := keep.New(apps, pushes, books, receipt.Endings{Direct: direct, Audience: audience})
	if err != nil {
		return nil, err
	}
	dispatchMetrics := dispatch.NewMetrics(metrics)
	vendorMetrics := vendor.NewMetrics(metrics)
	publisher := vendor.NewPublisher(vendor.PublisherParts{
		DirectPool: db.Direct, BulkPool: db.Bulk, DirectJS: directJS, BulkJS: audienceJS, Apps: apps, Users: users, Pushes: pushes,
		Ledger: books, Metrics: vendorMetrics, Log: log,
	})
	vendors := vendor.New(db.Direct, db.Bulk, apps, channels, books, publisher, p.config.Jobs, vendorMetrics, hints.Add)
	tokens := registry.NewVoidTokens(db.Ledger, metrics)
	poker := dispatch.NewPoker(p.direct, sessions, dispatchMetrics, log)
	slices := dispatch.NewSlices(db.Bulk, p.audience, leases, pushes, books, vendors, dispatchMetrics, log, hints.Add)
	wakes := dispatch.NewWakes(audienceJS, log)
	// Hand-overs go on while running calls finish.
	background := context.WithoutCancel(ctx)
	deliverer := dispatch.NewDirect(db.Direct, p.direct, sessions, users, vendors, dispatchMetrics, log)
	accepter := accept.New(background, db, users, pushes, deliverer, wakes, vendors, refused.WithLabelValues("accept"), log)
	reports := report.New(report.Parts{
		JS: audienceJS, Pool: db.Ledger, Ledger: books, Apps: apps, Users: users, Tokens: tokens, Pushes: pushes, Deliver: deliverer,
		Ended: hints.Add, Metrics: report.NewMetrics(metrics), Log: log,
	})
	applier := receipt.NewApplier(db.Ledger, books, hints.Add, refused.WithLabelValues("events"))
	phones := api.NewPhones(apps, keys, p.ring, devices, users, keeper, pushes, applier, poker, db.Open, log)
	sweeper := sweep.New(sweep.Parts{
		Pool: db.Bulk, Sessions: sessions, Leases: leases, Devices: devices, Apps: apps, Poker: poker, Wakes: wakes,
		Ledger: books, Hints: hints, Vendors: vendors, Publisher: publisher, Channels: channels, Tokens: tokens, Pushes: pushes,
		Retention: p.config.Retention, Behind: direct.Behind, Log: log, Metrics: metrics,
	})
	credentials := api.NewCredentials(apps, channels, ctx.Done())
	servers, err := p.servers(ctx, endpoints{
		auth:     api.NewAuth(apps, keys, p.config.AdminToken.Reveal()),
		pushes:   api.NewPushes(accepter, devices, pushes, books, p.ring, log),
		devices:  api.NewDevices(devices, users, poker, db.Bulk, p.ring, log),
		users:    api.NewUsers(users, devices, poker, db.Bulk, log),
		admin:    api.NewAdmin(apps, keys, channels, tokens, devices, p.config.PublicURL, p.direct, p.ring, log),
		gateways: api.NewGateways(apps, devices, leases, sessions, keeper, phones, poker, db.Open, ctx.Done(), log),
		phones:   api.NewPhoneHTTP(phones, apps),

		activities: api.NewActivities(p.direct), credentials: credentials,
	})
	if err != nil {
		return nil, err
	}
	p.watch()
	if err := p.forgetChanged(apps, keys, channels, credentials); err != nil {
		return nil, err
	}
	return &service{
		pushcore: p, servers: servers, handOvers: []func(){deliverer.Wait, poker.Wait},
		workers: []func(context.Context){
			direct.Run, audience.Run, slices.Run, sweeper.Run, publisher.Run, reports.Run, func(ctx context.Context) { wakes.Run(ctx, slices) },
		},
	}, nil
}

// jetStreams returns the two planes' JetStream.
func (p *Pushcore) jetStreams() (direct, audience jetstream.JetStream, err error) {
	if direct, err = jetstream.New(p.direct); err == nil {
		audience, err = jetstream.New(p.audience)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("jetstream: %w", err)
	}
	n := p.config.StreamReplicas
	return stream.Replicated(direct, n), stream.Replicated(audience, n), nil
}

// watch makes PostgreSQL and NATS part of being ready.
func (p *Pushcore) watch() {
	p.health.Register("postgres", func(ctx context.Context) error { return p.db.Bulk.Ping(ctx) })
	p.health.Register("nats", func(context.Context) error {
		if !p.direct.IsConnected() || !p.audience.IsConnected() {
			return errors.New("not connected")
		}
		return nil
	})
}

// newRefused registers the counter of calls that found a queue full. Each queue is refused at its bound, with
// RESOURCE_EXHAUSTED; nothing that was accepted is lost.
func newRefused(registry prometheus.Registerer) *prometheus.CounterVec {
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "halley_pushcore_refused_total", Help: "Calls refused because too many others waited, by queue.",
	}, []string{"queue"})
	registry.MustRegister(refused)
	return refused
}

// forgetChanged empties the caches of apps, keys and channels when another process changed one, and tells senders.
func (p *Pushcore) forgetChanged(
	apps *registry.Apps, keys *registry.Keys, channels *registry.Channels, credentials *api.Credentials,
) error {
	missed := func() {
		channels.Forget()
		credentials.Changed(0)
	}
	p.gap.Store(&missed)
	_, err := p.direct.Subscribe(subject.AppChanged, func(m *nats.Msg) {
		var changed gatewayv1.AppChanged
		if proto.Unmarshal(m.Data, &changed) != nil {
			return
		}
		apps.Forget(changed.GetApp())
		keys.Forget()
		channels.Forget()
		ctx, cancel := context.WithTimeout(context.Background(), lookUpWithin)
		defer cancel()
		if app, err := apps.Get(ctx, changed.GetApp()); err == nil {
			credentials.Changed(app.No)
		} else {
			credentials.Changed(0)
		}
	})
	if err != nil {
		return fmt.Errorf("listen for changes: %w", err)
	}
	return nil
}

// service is a pushcore whose parts are connected.
type service struct {
	pushcore *Pushcore
	servers  *servers
	// handOvers wait for what goes on after a call was answered.
	handOvers []func()
	workers   []func(context.Context)
}

// run runs servers and workers until ctx ends; servers stop first, then what their calls left under way.
func (s *service) run(ctx context.Context) error {
	p := s.pushcore
	working, stopWorkers := context.WithCancel(context.WithoutCancel(ctx))
	var workers sync.WaitGroup
	for _, work := range s.workers {
		workers.Go(func() { work(working) })
	}
	p.log.InfoContext(ctx, "pushcore serves", "http", p.HTTPAddr(), "grpc", p.GRPCAddr(), "internal", p.InternalAddr())
	err := s.servers.run(ctx, p.health)
	for _, wait := range s.handOvers {
		wait()
	}
	stopWorkers()
	workers.Wait()
	for _, wait := range s.handOvers { // reports that were applied last may have begun more
		wait()
	}
	p.log.InfoContext(ctx, "pushcore stopped")
	return err
}

// endpoints are what the servers serve.
type endpoints struct {
	auth     *api.Auth
	pushes   *api.Pushes
	devices  *api.Devices
	users    *api.Users
	admin    *api.Admin
	gateways *api.Gateways
	phones   http.Handler

	activities  *api.Activities
	credentials *api.Credentials
}
