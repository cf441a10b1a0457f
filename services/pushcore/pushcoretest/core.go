package pushcoretest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore"
)

// Core is one running pushcore of a site, with clients for its public doors.
type Core struct {
	*Site

	// Addresses of REST, gRPC, the internal contracts, and health and metrics.
	HTTP, GRPC, Internal, Admin string

	// Business and internal are connections without a credential; As adds one to a call.
	Business, InternalConn *grpc.ClientConn
	Pushes                 pushv1.PushServiceClient
	Devices                pushv1.DeviceServiceClient
	Users                  pushv1.UserServiceClient
	Apps                   adminv1.AdminServiceClient

	stop func()
}

// Start makes a site and runs one pushcore on it.
func Start(t testing.TB) *Core {
	t.Helper()
	return NewSite(t).Start(t)
}

// Start runs a pushcore on the site, in this process, and returns when it is ready. It stops when the test ends.
func (s *Site) Start(t testing.TB) *Core {
	t.Helper()
	c, err := s.Config()
	if err != nil {
		t.Fatal(err)
	}
	return s.StartWith(t, c)
}

// StartNotReady runs a pushcore whose NATS or PostgreSQL is away, and returns when it serves.
func (s *Site) StartNotReady(t testing.TB) *Core {
	t.Helper()
	c, err := s.Config()
	if err != nil {
		t.Fatal(err)
	}
	return s.run(t, c)
}

// StartWith runs a pushcore with a changed Config, and returns when it is ready.
func (s *Site) StartWith(t testing.TB, config pushcore.Config) *Core {
	t.Helper()
	core := s.run(t, config)
	Eventually(t, "pushcore is ready", core.Ready)
	return core
}

func (s *Site) run(t testing.TB, config pushcore.Config) *Core {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p, err := pushcore.New(ctx, config)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	core := &Core{
		Site: s, HTTP: p.HTTPAddr(), GRPC: p.GRPCAddr(), Internal: p.InternalAddr(), Admin: p.AdminAddr(),
		stop: sync.OnceFunc(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("pushcore ended with: %v", err)
			}
		}),
	}
	t.Cleanup(core.stop)
	core.connect(t)
	return core
}

// Ready reports whether the pushcore says that it is ready.
func (c *Core) Ready() bool {
	response, err := http.Get("http://" + c.Admin + "/readyz") //nolint:noctx // a test's
	if err != nil {
		return false
	}
	_ = response.Body.Close() // only its code counts
	return response.StatusCode == http.StatusOK
}

// connect makes the clients.
func (c *Core) connect(t testing.TB) {
	t.Helper()
	c.Business, c.InternalConn = Dial(t, c.GRPC), Dial(t, c.Internal)
	c.Pushes = pushv1.NewPushServiceClient(c.Business)
	c.Devices = pushv1.NewDeviceServiceClient(c.Business)
	c.Users = pushv1.NewUserServiceClient(c.Business)
	c.Apps = adminv1.NewAdminServiceClient(c.Business)
}

// Stop stops the pushcore gracefully and waits until it has; one of StartProcess is killed.
func (c *Core) Stop() { c.stop() }

// Dial connects to a gRPC server without TLS until the test ends.
func Dial(t testing.TB, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// As returns a context whose gRPC calls carry a credential.
func As(ctx context.Context, credential string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+credential)
}

// AsAdmin returns a context whose gRPC calls carry the admin token.
func AsAdmin(ctx context.Context) context.Context { return As(ctx, AdminToken) }

// Answer is an HTTP answer.
type Answer struct {
	Code   int
	Header http.Header
	Body   string
}

// Decode returns the body as JSON.
func (a Answer) Decode(t testing.TB) map[string]any {
	t.Helper()
	var value map[string]any
	if err := json.Unmarshal([]byte(a.Body), &value); err != nil {
		t.Fatalf("%d %s: %v", a.Code, a.Body, err)
	}
	return value
}

// REST calls the HTTP port. authorize sets the credential; it may be nil.
func (c *Core) REST(t testing.TB, method, path, body string, authorize func(*http.Request)) Answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://"+c.HTTP+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if authorize != nil {
		authorize(request)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: Patience}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return Answer{Code: response.StatusCode, Header: response.Header, Body: string(text)}
}

// Bearer sets a bearer credential.
func Bearer(credential string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+credential) }
}

// Metric returns the value of a metric that has these labels, names and values in turn, and perhaps more; -1 if /metrics
// does not show it.
func (c *Core) Metric(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	admin := Core{HTTP: c.Admin}
	for line := range strings.Lines(admin.REST(t, "GET", "/metrics", "", nil).Body) {
		sample, number, found := strings.Cut(strings.TrimSpace(line), "} ")
		if !found || !strings.HasPrefix(sample, name+"{") {
			continue
		}
		matches := true
		for i := 0; i < len(labels); i += 2 {
			matches = matches && strings.Contains(sample, fmt.Sprintf("%s=%q", labels[i], labels[i+1]))
		}
		if value, err := strconv.ParseFloat(number, 64); err == nil && matches {
			return value
		}
	}
	return -1
}
