package sender

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/natsbus"
	"github.com/halleypush/halley/pkg/subject"
	"github.com/halleypush/halley/pkg/telemetry"
	"github.com/halleypush/halley/pkg/tlsconfig"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
)

// stopWithin bounds what is finished after the stop: requests under way, then spans.
const stopWithin = 30 * time.Second

// Sender is the service of one vendor channel.
type Sender struct {
	config      Config
	vendor      Vendor
	limits      Limits
	telemetry   *telemetry.Telemetry
	health      *telemetry.Health
	log         *slog.Logger
	tracer      trace.Tracer
	metrics     *metrics
	conn        *nats.Conn
	js          jetstream.JetStream
	rpc         *grpc.ClientConn
	credentials *credentialCache
	admin       net.Listener
	receipts    net.Listener
	fresh, due  atomic.Bool // whether new jobs are taken, and those that are due again
	room        room
	calls       chan struct{} // a place each, for calls about broadcast channels

	mu      sync.Mutex
	tenants map[uint32]*tenant // guarded by mu
}

// Run runs the sender of a vendor until ctx ends, then finishes what has begun.
func Run(ctx context.Context, c Config, v Vendor) error {
	s, err := New(ctx, c, v)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// New returns a sender that listens, but does not take jobs yet: Run does.
func New(ctx context.Context, c Config, v Vendor) (_ *Sender, err error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	s := &Sender{config: c, vendor: v, limits: c.limits(v.Limits()), health: c.Health, tenants: map[uint32]*tenant{}}
	s.calls = make(chan struct{}, maxCalls)
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	name := "sender-" + v.Channel()
	if c.Shared != nil {
		s.telemetry = c.Shared.Share(name)
	} else if s.telemetry, err = telemetry.New(ctx, name, c.Telemetry, c.TelemetryOptions...); err != nil {
		return nil, err
	}
	if s.health == nil {
		s.health = telemetry.NewHealth()
	}
	s.tracer = s.telemetry.Traces.Tracer("halley/sender")
	s.log, s.metrics = s.telemetry.Log, newMetrics(s.telemetry.Metrics, v.Channel(), s.room.used)
	for _, l := range []struct {
		listener          *net.Listener
		key, env, address string
	}{
		{&s.admin, "telemetry.listen", "TELEMETRY_LISTEN", c.Telemetry.Listen},
		{&s.receipts, "receipts", "RECEIPTS", c.Receipts},
	} {
		if l.address == "" || l.listener == &s.admin && c.Shared != nil {
			continue
		}
		if *l.listener, err = config.Listen(l.key, l.env, l.address); err != nil {
			return nil, err
		}
	}
	if err := s.connect(name); err != nil {
		return nil, err
	}
	s.health.Register("nats", func(context.Context) error {
		if !s.conn.IsConnected() {
			return errors.New("not connected")
		}
		return nil
	})
	s.health.Register("jobs", func(context.Context) error {
		if !s.fresh.Load() || !s.due.Load() {
			return errors.New("no jobs are taken: pushcore has not made the streams yet, or NATS is away")
		}
		return nil
	})
	return s, nil
}

// reconnect has a pushcore that is back found within seconds, however long it was away: gRPC's own pauses grow to two minutes.
var reconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
	MinConnectTimeout: 2 * time.Second,
}

func (s *Sender) connect(name string) (err error) {
	c := s.config
	transport := insecure.NewCredentials()
	if c.PushcoreTLS {
		config, err := tlsconfig.Client(c.PushcoreCA, c.PushcoreCert, c.PushcoreKey)
		if err != nil {
			return fmt.Errorf("pushcore: %w", err)
		}
		transport = credentials.NewTLS(config)
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
		grpc.WithConnectParams(reconnect),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second, PermitWithoutStream: true}),
		grpc.WithStatsHandler(otelgrpc.NewClientHandler(otelgrpc.WithTracerProvider(s.telemetry.Traces))),
	}
	if c.ServiceToken != "" {
		options = append(options, grpc.WithPerRPCCredentials(serviceToken(c.ServiceToken.Reveal())))
	}
	if s.rpc, err = grpc.NewClient(c.Pushcore, options...); err != nil {
		return fmt.Errorf("pushcore: %w", err)
	}
	s.credentials = newCredentialCache(senderv1.NewCredentialServiceClient(s.rpc), s.vendor, s.limits, s.log)
	events := natsbus.Events{Metrics: natsbus.NewMetrics(s.telemetry.Metrics)}
	if s.conn, err = natsbus.Connect(name, c.NATS, s.log, events, c.NATSOptions...); err != nil {
		return err
	}
	if s.js, err = jetstream.New(s.conn); err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	return nil
}

// serviceToken shows the service token with every call.
type serviceToken string

func (t serviceToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(t)}, nil
}

// RequireTransportSecurity is false: whether the internal port speaks TLS is configured on both sides.
func (t serviceToken) RequireTransportSecurity() bool { return false }

// AdminAddr and ReceiptsAddr return the addresses of health and metrics, and of the vendor's receipts; empty if there are
// none.
func (s *Sender) AdminAddr() string { return addr(s.admin) }

// ReceiptsAddr returns the address of the vendor's receipts, empty if there is none.
func (s *Sender) ReceiptsAddr() string { return addr(s.receipts) }

func addr(l net.Listener) string {
	if l == nil {
		return ""
	}
	return l.Addr().String()
}

// Run takes jobs until ctx ends; then it finishes those that it has begun.
func (s *Sender) Run(ctx context.Context) error {
	defer s.close()
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	failed := make(chan error, 2)
	var servers, work, jobs sync.WaitGroup
	servers.Go(func() { failed <- s.telemetry.Serve(serving, s.admin, s.health) })
	if s.receipts != nil {
		servers.Go(func() { failed <- telemetry.ServeHTTP(serving, s.receipts, s.receiver()) })
	}
	checks, err := s.conn.QueueSubscribe(subject.Check(s.vendor.Channel()), "senders", s.check)
	if err != nil {
		return fmt.Errorf("listen for checks: %w", err)
	}
	work.Go(func() { s.credentials.watch(ctx) })
	channel := s.vendor.Channel()
	work.Go(func() { s.take(ctx, subject.StreamSend, subject.SendChannel(channel), &s.fresh, &jobs) })
	work.Go(func() { s.take(ctx, subject.StreamRetries, subject.DueChannel(channel), &s.due, &jobs) })
	s.log.InfoContext(ctx, "sender serves", "channel", channel, "receipts", s.ReceiptsAddr())
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	s.health.Drain()
	_ = checks.Unsubscribe() // the connection is closed next
	work.Wait()
	jobs.Wait()
	stop()
	servers.Wait()
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	s.log.InfoContext(ctx, "sender stopped")
	return errors.Join(err, s.telemetry.Shutdown(flush))
}

func (s *Sender) close() {
	for _, l := range []net.Listener{s.admin, s.receipts} {
		if l != nil {
			_ = l.Close() // closed already where its server ran
		}
	}
	if s.conn != nil {
		s.conn.Close()
	}
	if s.credentials != nil {
		s.credentials.drop()
	}
	if s.rpc != nil {
		_ = s.rpc.Close() // there is nothing left to lose on it
	}
}

func (s *Sender) tenant(app uint32) *tenant {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tenants[app]
	if t == nil {
		t = newTenant(&s.config, s.limits, &s.room)
		s.tenants[app] = t
	}
	return t
}

// check answers whether the candidate credential of an app works, or makes a call about broadcast channels.
func (s *Sender) check(msg *nats.Msg) {
	ctx, cancel := context.WithTimeout(context.Background(), s.config.Timeout)
	go func() {
		defer cancel()
		request := &senderv1.Check{}
		if err := proto.Unmarshal(msg.Data, request); err != nil {
			return
		}
		var answer *senderv1.Checked
		if request.GetCall() != nil {
			answer = s.broadcast(ctx, request)
		} else {
			answer = s.checked(ctx, request.GetApp())
		}
		data, err := proto.Marshal(answer)
		if err == nil {
			err = msg.Respond(data)
		}
		if err != nil {
			s.log.Warn("the answer to a check is lost", "error", err)
		}
	}()
}

func (s *Sender) checked(ctx context.Context, app uint32) *senderv1.Checked {
	note, expires, err := s.try(ctx, app)
	answer := &senderv1.Checked{Note: note}
	var field *FieldError
	switch {
	case errors.As(err, &field):
		answer.Field, answer.Error = field.Field, field.Problem
	case err != nil:
		answer.Error = err.Error()
	}
	if !expires.IsZero() {
		answer.ExpiresAt = timestamppb.New(expires)
	}
	return answer
}

// try parses an app's candidate, and has the vendor try it out if it can.
func (s *Sender) try(ctx context.Context, app uint32) (note string, expires time.Time, err error) {
	h, err := s.credentials.load(ctx, app, true)
	if err != nil {
		return "", expires, err
	}
	defer h.close()
	expires = h.credential.ExpiresAt()
	if !expires.IsZero() && time.Now().After(expires) {
		return "", expires, errors.New("it has expired")
	}
	checker, ok := s.vendor.(Checker)
	if !ok {
		return "the vendor has no way to try a credential: only its form was checked", expires, nil
	}
	note, err = checker.Check(ctx, h.credential)
	return note, expires, err
}
