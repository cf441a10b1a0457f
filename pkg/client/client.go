// Package client is Halley's server SDK: a business server pushes with it, and asks what became of its pushes.
//
//	c, err := client.New("push.example.com:9090", "sk_…")
//	defer c.Close()
//	accepted, err := c.Push(ctx, &pushv1.PushRequest{…})
//
// Calls are tried again where that is safe. A push without an idempotency key gets one, so that its repeats are one push.
// Errors are gRPC statuses; Reason and Violations read their details.
package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// Client calls the business API for an app. It holds one connection, is safe for concurrent use, and is closed by its owner.
type Client struct {
	conn    *grpc.ClientConn
	push    pushv1.PushServiceClient
	devices pushv1.DeviceServiceClient
	users   pushv1.UserServiceClient
	live    pushv1.ActivityServiceClient
	retry   retry
}

// New returns a client for the server at addr, host:port, with a server key (sk_…). It connects with the first call.
func New(addr, key string, options ...Option) (*Client, error) {
	conn, retry, err := dial(addr, key, options)
	if err != nil {
		return nil, err
	}
	return &Client{
		conn: conn, push: pushv1.NewPushServiceClient(conn), devices: pushv1.NewDeviceServiceClient(conn),
		users: pushv1.NewUserServiceClient(conn), live: pushv1.NewActivityServiceClient(conn), retry: retry,
	}, nil
}

// Close closes the connection; calls under way fail.
func (c *Client) Close() error { return c.conn.Close() }

// Devices are the calls about devices.
func (c *Client) Devices() pushv1.DeviceServiceClient { return c.devices }

// Users are the calls that bind users to devices.
func (c *Client) Users() pushv1.UserServiceClient { return c.users }

// Activities are the calls that broadcast to Live Activities.
func (c *Client) Activities() pushv1.ActivityServiceClient { return c.live }

// Option changes a client.
type Option func(*config)

type config struct {
	transport credentials.TransportCredentials
	plaintext bool
	retry     retry
	dial      []grpc.DialOption
}

// WithTLS sets what TLS trusts and shows. Without it, and without WithPlaintext, the system's roots are trusted.
func WithTLS(c *tls.Config) Option {
	return func(o *config) { o.transport, o.plaintext = credentials.NewTLS(c.Clone()), false }
}

// WithPlaintext connects without TLS. The key can then be read on the way: for one machine, or inside a mesh that encrypts.
func WithPlaintext() Option {
	return func(o *config) { o.transport, o.plaintext = insecure.NewCredentials(), true }
}

// WithAttempts bounds how often a call is tried, 5 by default; 1 means no repeats.
func WithAttempts(n int) Option {
	return func(o *config) { o.retry.attempts = n }
}

// WithAttemptTimeout bounds each try, 10 s by default.
func WithAttemptTimeout(d time.Duration) Option {
	return func(o *config) { o.retry.timeout = d }
}

// WithBackoff sets the pauses between tries: they double from shortest to longest, each shortened by up to a half at random.
// By default they are 100 ms to 5 s. Where the server names a pause, that one counts.
func WithBackoff(shortest, longest time.Duration) Option {
	return func(o *config) { o.retry.shortest, o.retry.longest = shortest, longest }
}

// WithDialOptions adds options for the connection, such as interceptors; these see each try.
func WithDialOptions(options ...grpc.DialOption) Option {
	return func(o *config) { o.dial = append(o.dial, options...) }
}

// dial returns a connection that shows the key and tries calls again.
func dial(addr, key string, options []Option) (*grpc.ClientConn, retry, error) {
	o := config{
		transport: credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12}),
		retry:     retry{attempts: 5, timeout: 10 * time.Second, shortest: 100 * time.Millisecond, longest: 5 * time.Second},
	}
	for _, option := range options {
		option(&o)
	}
	if key == "" {
		return nil, o.retry, errors.New("the key is missing")
	}
	if o.retry.attempts < 1 || o.retry.timeout <= 0 || o.retry.shortest <= 0 || o.retry.longest < o.retry.shortest {
		return nil, o.retry, errors.New("attempts, time-outs and pauses must be positive")
	}
	conn, err := grpc.NewClient(addr, append([]grpc.DialOption{
		grpc.WithTransportCredentials(o.transport),
		grpc.WithPerRPCCredentials(bearer{key, !o.plaintext}),
		grpc.WithChainUnaryInterceptor(o.retry.intercept),
	}, o.dial...)...)
	if err != nil {
		return nil, o.retry, fmt.Errorf("client for %s: %w", addr, err)
	}
	return conn, o.retry, nil
}

// bearer shows a key with each call.
type bearer struct {
	key    string
	secure bool // only over TLS
}

var _ credentials.PerRPCCredentials = bearer{}

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.key}, nil
}

func (b bearer) RequireTransportSecurity() bool { return b.secure }
