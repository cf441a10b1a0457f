package api

import (
	"context"
	"crypto/tls"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// Server is what gRPC servers share.
type Server struct {
	Log     *slog.Logger
	Traces  trace.TracerProvider
	Metrics *Metrics
	// TLS is nil for plain text.
	TLS *tls.Config
}

// New returns a gRPC server whose calls are traced, counted, authenticated, checked, and answered with statuses.
func (s Server) New(unary grpc.UnaryServerInterceptor, stream grpc.StreamServerInterceptor) *grpc.Server {
	options := []grpc.ServerOption{
		grpc.StatsHandler(otelgrpc.NewServerHandler(
			otelgrpc.WithTracerProvider(s.Traces), otelgrpc.WithPropagators(propagation.TraceContext{}))),
		grpc.ChainUnaryInterceptor(s.Metrics.unary, Errors(s.Log), unary, Validate),
		grpc.ChainStreamInterceptor(streamErrors(s.Log), stream),
		grpc.MaxRecvMsgSize(maxBody),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
	}
	if s.TLS != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(s.TLS)))
	}
	return grpc.NewServer(options...)
}

func streamErrors(log *slog.Logger) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if err := handler(srv, stream); err != nil {
			return toStatus(stream.Context(), log.With("method", info.FullMethod), err).Err()
		}
		return nil
	}
}

// Metrics count calls.
type Metrics struct {
	calls   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

// NewMetrics registers the metrics of calls.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "halley_pushcore_calls_total", Help: "Calls by method and code.",
		}, []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "halley_pushcore_call_seconds", Help: "How long calls took, by method.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .5, 1, 5},
		}, []string{"method"}),
	}
	registry.MustRegister(m.calls, m.seconds)
	return m
}

func (m *Metrics) unary(
	ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	begin := time.Now()
	response, err := handler(ctx, request)
	method := info.FullMethod[strings.LastIndexByte(info.FullMethod, '/')+1:]
	m.calls.WithLabelValues(method, status.Code(err).String()).Inc()
	m.seconds.WithLabelValues(method).Observe(time.Since(begin).Seconds())
	return response, err
}
