package pushcore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/test/bufconn"

	"github.com/halleypush/halley/pkg/telemetry"
	"github.com/halleypush/halley/pkg/tlsconfig"
	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
	"github.com/halleypush/halley/services/pushcore/internal/api"
)

// servers are the network servers of a pushcore.
type servers struct {
	listeners listeners
	business  *grpc.Server
	internal  *grpc.Server
	http      http.Handler
	httpTLS   *tls.Config
	// loop carries REST calls to the business server inside the process.
	loop     *bufconn.Listener
	loopConn *grpc.ClientConn
}

func (p *Pushcore) servers(ctx context.Context, e endpoints) (*servers, error) {
	c := p.config
	s := &servers{listeners: p.listeners, loop: bufconn.Listen(1 << 20)}
	shared := api.Server{Log: p.log, Traces: p.telemetry.Traces, Metrics: api.NewMetrics(p.telemetry.Metrics)}

	publicTLS, err := tlsconfig.Server(c.TLSCert, c.TLSKey, "")
	if err != nil {
		return nil, err
	}
	s.httpTLS = publicTLS
	// TLS is the listener's, not the server's: the loop inside the process needs none.
	s.business = shared.New(e.auth.Unary, e.auth.Stream)
	if publicTLS != nil {
		withALPN := publicTLS.Clone()
		withALPN.NextProtos = []string{"h2"}
		s.listeners.grpc = tls.NewListener(p.listeners.grpc, withALPN)
	}
	pushv1.RegisterPushServiceServer(s.business, e.pushes)
	pushv1.RegisterDeviceServiceServer(s.business, e.devices)
	pushv1.RegisterUserServiceServer(s.business, e.users)
	pushv1.RegisterActivityServiceServer(s.business, e.activities)
	adminv1.RegisterAdminServiceServer(s.business, e.admin)
	healthv1.RegisterHealthServer(s.business, health.NewServer())
	reflection.Register(s.business)

	if shared.TLS, err = tlsconfig.Server(c.InternalCert, c.InternalKey, c.InternalCA); err != nil {
		return nil, err
	}
	guard := api.NewInternalAuth(c.ServiceToken.Reveal())
	s.internal = shared.New(guard.Unary, guard.Stream)
	gatewayv1.RegisterGatewayServiceServer(s.internal, e.gateways)
	senderv1.RegisterCredentialServiceServer(s.internal, e.credentials)

	return s, s.buildHTTP(ctx, p, e)
}

func (s *servers) buildHTTP(ctx context.Context, p *Pushcore, e endpoints) error {
	var err error
	s.loopConn, err = grpc.NewClient("passthrough:///loop",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return s.loop.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStatsHandler(otelgrpc.NewClientHandler(
			otelgrpc.WithTracerProvider(p.telemetry.Traces), otelgrpc.WithPropagators(propagation.TraceContext{}))))
	if err != nil {
		return fmt.Errorf("loop connection: %w", err)
	}
	rest, err := api.NewREST(context.WithoutCancel(ctx), s.loopConn)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/v1/", rest)
	mux.Handle("/admin/v1/", rest)
	mux.Handle("/device/v1/", api.AllowOrigins(p.config.CORSOrigins, e.phones))
	mux.HandleFunc("GET /openapi.json", api.OpenAPI)
	mux.HandleFunc("/", api.NotFound)
	traced := otelhttp.NewHandler(mux, "http", otelhttp.WithTracerProvider(p.telemetry.Traces),
		otelhttp.WithPropagators(propagation.TraceContext{}),
		otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string { return r.Method + " " + r.URL.Path }))
	// What is mounted may take connections over (WebSocket), which the tracing wrapper stands in the way of.
	outer := http.NewServeMux()
	outer.Handle("/", traced)
	for pattern, handler := range p.config.Mounts {
		outer.Handle(pattern, handler)
	}
	s.http = outer
	return nil
}

// run serves until ctx ends or a server fails, then lets running calls finish.
func (s *servers) run(ctx context.Context, h *telemetry.Health) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	failures := make(chan error, 4)
	serve := func(name string, f func() error) {
		go func() {
			err := f()
			if err != nil {
				err = fmt.Errorf("%s server: %w", name, err)
			}
			failures <- err
			stop()
		}()
	}
	httpListener := s.listeners.http
	if s.httpTLS != nil {
		httpListener = tls.NewListener(httpListener, s.httpTLS)
	}
	serve("loop", func() error { return s.business.Serve(s.loop) })
	serve("grpc", func() error { return s.business.Serve(s.listeners.grpc) })
	serve("internal", func() error { return s.internal.Serve(s.listeners.internal) })
	serve("http", func() error { return telemetry.ServeHTTP(ctx, httpListener, s.http) })
	<-ctx.Done()
	h.Drain()
	// HTTP has stopped taking calls by ctx; the gRPC servers follow, and with them the loop.
	s.gracefully(s.internal)
	s.gracefully(s.business)
	var errs []error
	for range 4 {
		errs = append(errs, <-failures)
	}
	return errors.Join(append(errs, s.loopConn.Close())...)
}

// gracefully stops a server after its running calls, and cuts those that take too long.
func (s *servers) gracefully(server *grpc.Server) {
	timer := time.AfterFunc(stopWithin, server.Stop)
	defer timer.Stop()
	server.GracefulStop()
}
