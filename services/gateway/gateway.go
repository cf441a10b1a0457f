// Package gateway is the service that holds the devices' connections. It owns nothing that must survive it.
package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/natsbus"
	"github.com/halleypush/halley/pkg/telemetry"
	"github.com/halleypush/halley/pkg/tlsconfig"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway/internal/bus"
	"github.com/halleypush/halley/services/gateway/internal/core"
	"github.com/halleypush/halley/services/gateway/internal/door"
	"github.com/halleypush/halley/services/gateway/internal/gate"
	"github.com/halleypush/halley/services/gateway/internal/loop"
	"github.com/halleypush/halley/services/gateway/internal/pressure"
	"github.com/halleypush/halley/services/gateway/internal/receipt"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

const (
	// pingEvery is how often the gateway proves to itself that NATS reaches it.
	pingEvery = time.Second
	// stopWithin bounds the last steps of a stop: closes, receipts, the lease.
	stopWithin = 5 * time.Second
	// maxMessage is the largest answer of pushcore.
	maxMessage = 8 << 20
)

// Run runs a gateway until ctx ends, and stops it gracefully.
func Run(ctx context.Context, c Config) error {
	g, err := New(ctx, c)
	if err != nil {
		return err
	}
	return g.Run(ctx)
}

// Gateway is a gateway that has its listeners, and can be run once.
type Gateway struct {
	config    Config
	telemetry *telemetry.Telemetry
	health    *telemetry.Health
	log       *slog.Logger

	rpc              *grpc.ClientConn
	direct, audience *nats.Conn
	set              *loop.Set
	pressure         *pressure.Gauge
	door             *door.Door
	core             *core.Client
	bus              *bus.Bus
	receipts         *receipt.Publisher

	admin net.Listener
	// Addresses with the ports that were chosen, empty where nothing is listened to.
	mqtt, mqtts, websocket string
	tls                    *tls.Config

	gap chan string // has room for one: why messages may have been missed
}

// New checks the configuration, opens the listeners and prepares the connections. It does not wait for pushcore or NATS;
// connections of devices are accepted once Run runs.
func New(ctx context.Context, c Config) (_ *Gateway, err error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	g := &Gateway{config: c, health: c.Health, gap: make(chan string, 1)}
	defer func() {
		if err != nil {
			if g.set != nil { // its loops hold descriptors
				g.set.Start()
				g.set.Stop()
			}
			g.close()
		}
	}()
	if c.Shared != nil {
		g.telemetry = c.Shared.Share("gateway")
	} else if g.telemetry, err = telemetry.New(ctx, "gateway", c.Telemetry, c.TelemetryOptions...); err != nil {
		return nil, err
	}
	if g.health == nil {
		g.health = telemetry.NewHealth()
	}
	g.log = g.telemetry.Log
	if err := g.connect(); err != nil {
		return nil, err
	}
	if err := g.build(); err != nil {
		return nil, err
	}
	g.ready()
	return g, g.listen()
}

// reconnect has a pushcore that is back found within a second or so, however long it was away: it judges the leases 6 s after its start, and
// gRPC's own pauses grow to two minutes.
var reconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
	MinConnectTimeout: 2 * time.Second,
}

// connect prepares the connections to pushcore and NATS.
func (g *Gateway) connect() error {
	creds, err := g.credentials()
	if err != nil {
		return err
	}
	g.rpc, err = grpc.NewClient(g.config.Pushcore, append(creds,
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
		grpc.WithConnectParams(reconnect),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second, PermitWithoutStream: true}),
		grpc.WithStatsHandler(otelgrpc.NewClientHandler(
			otelgrpc.WithTracerProvider(g.telemetry.Traces), otelgrpc.WithPropagators(propagation.TraceContext{}))))...)
	if err != nil {
		return fmt.Errorf("pushcore: %w", err)
	}
	events := natsbus.Events{
		Gap: g.repairGap, Metrics: natsbus.NewMetrics(g.telemetry.Metrics),
	}
	if g.direct, err = natsbus.Connect("gateway-direct", g.config.NATS, g.log, events, g.config.NATSOptions...); err != nil {
		return err
	}
	g.audience, err = natsbus.Connect("gateway-audience", g.config.NATS, g.log, events, g.config.NATSOptions...)
	return err
}

func (g *Gateway) credentials() ([]grpc.DialOption, error) {
	c := g.config
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	if c.PushcoreTLS {
		config, err := tlsconfig.Client(c.PushcoreCA, c.PushcoreCert, c.PushcoreKey)
		if err != nil {
			return nil, fmt.Errorf("pushcore: %w", err)
		}
		options[0] = grpc.WithTransportCredentials(credentials.NewTLS(config))
	}
	if c.ServiceToken != "" {
		options = append(options, grpc.WithPerRPCCredentials(serviceToken(c.ServiceToken.Reveal())))
	}
	return options, nil
}

// serviceToken shows the service token with every call.
type serviceToken string

var _ credentials.PerRPCCredentials = serviceToken("")

func (t serviceToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(t)}, nil
}

// RequireTransportSecurity is false: whether the internal port speaks TLS is configured on both sides.
func (t serviceToken) RequireTransportSecurity() bool { return false }

// processors is how many the process was given.
var processors = runtime.GOMAXPROCS(0)

// spare has Go run on one processor more than there are loops. A loop with a broadcast does not wait, so it keeps its
// processor; those who bring direct messages would get one only when the scheduler takes it away, after 10 ms.
func spare(loops int) {
	if runtime.GOMAXPROCS(0) <= loops {
		runtime.GOMAXPROCS(loops + 1)
	}
}

// build makes the parts and introduces them to each other.
func (g *Gateway) build() error {
	c, metrics := g.config, g.telemetry.Metrics
	rpc := gatewayv1.NewGatewayServiceClient(g.rpc)
	directJS, err := jetstream.New(g.direct)
	if err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	audienceJS, err := jetstream.New(g.audience)
	if err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	pod := c.Pod
	if pod == "" {
		if pod, err = os.Hostname(); err != nil {
			return fmt.Errorf("host name: %w", err)
		}
	}
	loops := loop.NewMetrics(metrics)
	root := c.Root
	if root == "" {
		root = "/"
	}
	g.pressure = pressure.New(pressure.Limits{Memory: c.MemoryWatermark, CPU: c.CPUWatermark, Processors: processors}, root, loops.Sessions, metrics)
	g.door = door.New(rpc, g.log,
		func(t loop.Ticket, a loop.Admission) { g.set.Admitted(t, a) }, func(app uint32) { g.bus.Follow(app) })
	g.core = core.New(rpc, g.door, pod, c.Revision, c.ReopenRate, core.NewMetrics(metrics, loops.Sessions), g.log)
	g.receipts = receipt.New(directJS, audienceJS, receipt.NewMetrics(metrics), g.log)
	n := c.Loops
	if n == 0 {
		n = processors
	}
	spare(n)
	if err := shortSlices(); err != nil { // a seccomp profile may forbid it
		g.log.Info("keeps the kernel's time slices: direct messages wait longer beside broadcasts", "error", err)
	}
	admission := gate.New(c.limits(), g.keepsOut)
	metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "halley_gateway_unidentified", Help: "Connections that have not said yet who they are.",
	}, func() float64 { return float64(admission.Waiting()) }))
	metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "halley_gateway_opening_sessions", Help: "Sessions that wait to be opened by pushcore, or for its answer; max_opens is their limit.",
	}, func() float64 { return float64(g.core.Opening()) }))
	g.set, err = loop.NewSet(loop.Config{
		Loops: n, Processors: processors, Handshakes: c.MaxHandshakes, UserTimeout: c.UserTimeout, Lifetime: c.MaxLifetime, References: c.references(),
		Limits: session.Limits{MaxPacket: c.MaxPacket, Rate: float32(c.PacketRate), Burst: float32(c.PacketBurst)},
	}, loop.Parts{
		Door: g.door, Gate: admission, Core: g.core, Receipts: g.receipts, Metrics: loops, Traces: loop.NewTraces(g.telemetry.Traces), Log: g.log,
	})
	if err != nil {
		return err
	}
	g.bus = bus.New(g.direct, g.audience, g.door, g.set, metrics, g.log)
	if err := g.bus.ListenForChanges(); err != nil {
		return err
	}
	return g.bus.Listen(g.core.Incarnation())
}

// opensPause is when newcomers are told to come back, at the earliest, while too many sessions wait to be opened.
const opensPause = 5 * time.Second

// keepsOut says whether the gateway has all it can bear.
func (g *Gateway) keepsOut() gate.Pause {
	if g.config.MaxOpens > 0 && g.core.Opening() >= g.config.MaxOpens {
		return gate.Pause{Reason: gate.Opens, For: opensPause, Rate: g.core.OpenRate()}
	}
	if pause := g.pressure.StayAway(); pause > 0 {
		return gate.Pause{Reason: gate.Overload, For: pause}
	}
	return gate.Pause{}
}

// listen opens the listeners: the loops' own, and that of health and metrics.
func (g *Gateway) listen() error {
	c := g.config
	var err error
	if err := g.secure(); err != nil {
		return err
	}
	balancers, err := c.balancers()
	if err != nil {
		return err
	}
	for _, l := range []struct {
		bound             *string
		key, env, address string
		port              loop.Port
	}{
		{&g.mqtt, "mqtt", "MQTT", c.MQTT, loop.Port{Balancers: balancers}},
		{&g.mqtts, "mqtts", "MQTTS", c.MQTTS, loop.Port{Balancers: balancers, TLS: g.tls}},
		{&g.websocket, "websocket", "WEBSOCKET", c.WebSocket, loop.Port{Balancers: balancers, TLS: g.tls, WebSocket: true}},
	} {
		if l.address == "" {
			continue
		}
		if *l.bound, err = g.set.Listen(l.address, l.port); err != nil {
			return config.Unusable(l.key, l.env, err)
		}
	}
	if c.Telemetry.Listen == "" || c.Shared != nil {
		return nil
	}
	g.admin, err = config.Listen("telemetry.listen", "TELEMETRY_LISTEN", c.Telemetry.Listen)
	return err
}

// MQTTAddr returns the address of MQTT over TCP.
func (g *Gateway) MQTTAddr() string { return g.mqtt }

// MQTTSAddr returns the address of MQTT over TLS, empty if there is none.
func (g *Gateway) MQTTSAddr() string { return g.mqtts }

// WebSocketAddr returns the address of MQTT over WebSocket, empty if there is none.
func (g *Gateway) WebSocketAddr() string { return g.websocket }

// AdminAddr returns the address of health and metrics.
func (g *Gateway) AdminAddr() string {
	if g.admin == nil {
		return ""
	}
	return g.admin.Addr().String()
}

// WebSocket returns a handler that takes devices' connections, for another server's /mqtt.
func (g *Gateway) WebSocket() http.Handler { return g.set.WebSocket() }

// Ready returns nil once the gateway takes devices and hands over, or what keeps it from it.
func (g *Gateway) Ready(ctx context.Context) error {
	for name, failure := range g.health.Failing(ctx) {
		return fmt.Errorf("%s: %s", name, failure)
	}
	return nil
}

func (g *Gateway) close() {
	if g.admin != nil {
		_ = g.admin.Close() // closed already where its server ran
	}
	for _, conn := range []*nats.Conn{g.direct, g.audience} {
		if conn != nil {
			conn.Close()
		}
	}
	if g.rpc != nil {
		_ = g.rpc.Close() // there is nothing left to lose on it
	}
}

// repairGap has messages repaired that may have been missed on NATS. It is called by the client and must not block.
func (g *Gateway) repairGap(reason string) {
	select {
	case g.gap <- reason:
	default: // a repair is about to begin
	}
}

// repair has every session Pull after each gap on NATS.
func (g *Gateway) repair(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case reason := <-g.gap:
			g.log.WarnContext(ctx, "messages may have been missed: every session pulls", "reason", reason)
			g.set.PullAll(g.config.ReopenRate, g.core.Repairing())
		}
	}
}

var errNATS = errors.New("not connected")

// ready is what the readiness of a gateway hangs on.
func (g *Gateway) ready() {
	g.health.Register("lease", func(context.Context) error { return g.core.Ready() })
	g.health.Register("nats", func(context.Context) error {
		if !g.bus.Connected() {
			return errNATS
		}
		return nil
	})
}

// Run serves until ctx ends; then it drains: not ready, no new connections, sessions sent away at a pace, receipts and
// closes sent, the lease ended.
func (g *Gateway) Run(ctx context.Context) error {
	defer g.close()
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	failed := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		failed <- g.telemetry.Serve(working, g.admin, g.health, telemetry.Route{Pattern: "POST /shed", Handler: http.HandlerFunc(g.shed)})
	})
	wg.Go(func() { g.repair(working) })
	wg.Go(func() { g.pressure.Run(working) })
	wg.Go(func() { g.door.Run(working) })
	wg.Go(func() { g.ping(working) })
	wg.Go(func() { g.receipts.Run(working) })
	wg.Go(func() { g.core.Run(working, g.set, g.bus.RoundTripAge, g.newIncarnation) })
	g.set.Start()
	wg.Go(func() { g.turnTicketKeys(working) })
	g.log.InfoContext(ctx, "gateway serves", "mqtt", g.mqtt, "mqtts", g.mqtts, "websocket", g.websocket)
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	g.drain(working)
	stop()
	wg.Wait()
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	g.log.InfoContext(ctx, "gateway stopped")
	return errors.Join(err, g.telemetry.Shutdown(flush))
}

func (g *Gateway) ping(ctx context.Context) {
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	for {
		g.bus.Ping()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (g *Gateway) newIncarnation() {
	if err := g.bus.Listen(g.core.Incarnation()); err != nil {
		g.log.Error("cannot listen as the new incarnation", "error", err)
	}
}

// drain sends every device away, at a pace, and says good-bye to pushcore.
func (g *Gateway) drain(ctx context.Context) {
	g.health.Drain()
	g.log.InfoContext(ctx, "drains: not ready any more, and accepts until balancers have noticed", "drain_wait", g.config.DrainWait)
	g.awaitRollout(ctx)
	wait(ctx, g.config.DrainWait, nil)
	g.set.StopAccepting()
	drained := make(chan struct{})
	g.log.InfoContext(ctx, "sends its devices away", "drain_rate", g.config.DrainRate, "drain_deadline", g.config.DrainDeadline)
	g.set.Drain(g.config.DrainRate, g.config.DrainDeadline, func(sessions int) {
		g.log.Info("has sent its devices away", "sessions", sessions)
		close(drained)
	})
	wait(ctx, g.config.DrainDeadline, drained)
	g.set.Stop()
	begun := time.Now()
	for !g.core.Flushed() && time.Since(begun) < stopWithin {
		wait(ctx, 10*time.Millisecond, nil)
	}
	end, cancel := context.WithTimeout(ctx, stopWithin)
	defer cancel()
	if err := g.core.End(end); err != nil {
		g.log.WarnContext(ctx, "the lease runs out by itself", "error", err)
	}
}

// awaitRollout keeps the devices while they could come to another gateway that the same rollout replaces soon: it would send them
// away again.
func (g *Gateway) awaitRollout(ctx context.Context) {
	last := g.core.Drain()
	if g.config.Revision == "" {
		return
	}
	begun := time.Now()
	wait(ctx, g.config.RolloutWait, last)
	g.log.InfoContext(ctx, "sends its devices away", "waited_for_rollout", time.Since(begun))
}

// wait waits for a time, or until a channel is closed.
func wait(ctx context.Context, d time.Duration, done <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-done:
	case <-ctx.Done():
	}
}
