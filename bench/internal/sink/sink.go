// Package sink is a pushcore that only counts: it gives gateways leases and an app, answers every session's open, call and pull
// at once, takes receipts off NATS, and hands pushes to gateways as pushcore does. What is measured with it is the gateway.
package sink

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/halleypush/halley/bench/internal/site"
	"github.com/halleypush/halley/bench/internal/swarm"
	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/natsbus"
	"github.com/halleypush/halley/pkg/token"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
)

const (
	app       = "bench"
	appNumber = 7
	letter    = 'a'
	// generation is that of every device's secret.
	generation = 1
	lease      = 15 * time.Second
)

// Config is what the sink tells gateways that differs from an app's defaults, to be printed.
const Config = "app: keep_alive 20m, ack_timeout 10m (acknowledgements are held back while only writes are measured)"

// Sink is a running sink. Close it.
type Sink struct {
	gatewayv1.UnimplementedGatewayServiceServer
	collector.UnimplementedTraceServiceServer

	// Address is that of its gRPC server, for gateways and for spans.
	Address string

	app    *gatewayv1.GetAppResponse
	codec  *token.Codec
	server *grpc.Server
	nats   *nats.Conn

	opened, acked, spans atomic.Int64

	mu     sync.Mutex
	routes map[uint64]route // guarded by mu: by ordinal
}

// route is where a device is online.
type route struct {
	session uint64
	gateway *gatewayv1.Incarnation
}

// Start starts a sink on a nats-server.
func Start(ctx context.Context, natsURL string) (_ *Sink, err error) {
	s := &Sink{routes: map[uint64]route{}}
	if err := s.makeApp(); err != nil {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.Address = listener.Addr().String()
	s.server = grpc.NewServer()
	gatewayv1.RegisterGatewayServiceServer(s.server, s)
	collector.RegisterTraceServiceServer(s.server, s)
	go func() { _ = s.server.Serve(listener) }() // until Close
	s.nats, err = natsbus.Connect("bench-sink",
		natsbus.Config{URL: natsURL, User: "pushcore", Password: config.Secret(site.Password)},
		slog.New(slog.DiscardHandler), natsbus.Events{})
	if err == nil {
		err = s.takeReceipts(ctx)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close ends it.
func (s *Sink) Close() {
	if s.nats != nil {
		s.nats.Close()
	}
	s.server.Stop()
}

func (s *Sink) makeApp() error {
	master := make([]byte, token.MasterSize)
	_, _ = rand.Read(master) // it never fails
	keys, err := token.Derive(master, letter, appNumber)
	if err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	if s.codec, err = token.NewCodec(appNumber, keys); err != nil {
		return fmt.Errorf("codec: %w", err)
	}
	s.app = &gatewayv1.GetAppResponse{
		Number:       appNumber,
		Keys:         []*gatewayv1.GetAppResponse_Keys{{Letter: string(letter), TokenKey: keys.TokenKey[:], SecretKey: keys.SecretKey[:]}},
		KeepAlive:    durationpb.New(20 * time.Minute),
		KeepAliveMin: durationpb.New(30 * time.Second),
		KeepAliveMax: durationpb.New(20 * time.Minute),
		AckTimeout:   durationpb.New(10 * time.Minute),
	}
	return nil
}

// Topic is where devices get their pushes.
const Topic = "push/" + app

// Devices returns n devices, the first of which has the ordinal first.
func (s *Sink) Devices(first, n int) ([]swarm.Identity, error) {
	who := make([]swarm.Identity, n)
	for i := range who {
		name, err := s.codec.Token(letter, uint64(first+i))
		if err != nil {
			return nil, err
		}
		secret, err := s.codec.Secret(name, generation)
		if err != nil {
			return nil, err
		}
		who[i] = swarm.Identity{ClientID: name, Username: app, Password: secret}
	}
	return who, nil
}

// Opened is how many opens of sessions that receive have been answered.
func (s *Sink) Opened() int64 { return s.opened.Load() }

// Acked is how many deliveries of broadcasts have been reported as arrived.
func (s *Sink) Acked() int64 { return s.acked.Load() }

// Spans is how many spans have come.
func (s *Sink) Spans() int64 { return s.spans.Load() }

// Await waits until a condition holds.
func (s *Sink) Await(ctx context.Context, what string, condition func() bool) error {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		case <-ticker.C:
		}
	}
	return nil
}
