// Package gatewaytest runs whole gateways for tests, on a real NATS server and a scripted pushcore that does only what the
// test tells it to.
//
//	site := gatewaytest.Start(t, gatewaytest.Options{})   // NATS, pushcore, one gateway, ready
//	phone := site.Core.NewDevice(t)                       // a device with its token and secret
//	wire := site.Online(t, phone)                         // connected over MQTT 5 and subscribed, by hand
//	push := gatewaytest.NewPush("Hi")
//	site.Core.Deliver(t, gatewaytest.To(phone, push))     // as pushcore delivers; returns what the gateway answered
//	wire.Ack(wire.Next(packets.Publish))
//	site.Core.AwaitReceipt(t, phone, push, ledgerv1.Step_STEP_ARRIVED)
//
// Nothing here sleeps: what has a signal is waited for on it, and Eventually polls what has none.
package gatewaytest

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/natsbus"
	"github.com/halleypush/halley/pkg/natsbus/natsserver"
	"github.com/halleypush/halley/pkg/telemetry"
	"github.com/halleypush/halley/services/gateway"
)

// Patience bounds every wait: far longer than anything takes, so that only what never happens runs into it.
const Patience = 30 * time.Second

// ServiceToken is what gateways show to pushcore, and operators to gateways.
const ServiceToken = "test-service-token-of-the-site"

var passwords = map[string]config.Secret{"pushcore": "test-core", "gateway": "test-gateway", "sender": "test-sender"}

// Options change what Start makes.
type Options struct {
	// Config changes the gateway's configuration.
	Config func(*gateway.Config)
	// Core changes the pushcore before the gateway first asks it.
	Core func(*Core)
	// NotReady is true for a gateway that is not waited for.
	NotReady bool
}

// Site is an installation: NATS, a scripted pushcore and a gateway.
type Site struct {
	NATS *NATS
	Core *Core
	*gateway.Gateway
	// Logs is what the gateway logged, at level debug. It is shown when the test fails.
	Logs *Logs

	stop func() error
}

// Start starts a site that goes when the test ends.
func Start(t testing.TB, o Options) *Site {
	t.Helper()
	s := &Site{Logs: &Logs{}}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("what the gateway logged:\n" + s.Logs.String())
		}
	})
	s.NATS = newNATS(t, filepath.Join(t.TempDir(), "nats"))
	s.Core = newCore(t, s.NATS)
	if o.Core != nil {
		o.Core(s.Core)
	}
	s.StartGateway(t, o)
	return s
}

// StartGateway starts a gateway of the site in place of one that was stopped, or the first.
func (s *Site) StartGateway(t testing.TB, o Options) {
	t.Helper()
	c := gateway.Config{
		MQTT: "127.0.0.1:0", Loops: 2, Pushcore: s.Core.Address(), ServiceToken: ServiceToken, Pod: "test",
		ReopenRate: 10_000, DrainRate: 10_000,
		NATS:      natsbus.Config{URL: s.NATS.URL(), User: "gateway", Password: passwords["gateway"]},
		Telemetry: telemetry.Config{Listen: "127.0.0.1:0", LogLevel: "debug"},
	}
	if err := config.Defaults(&c); err != nil {
		t.Fatal(err)
	}
	c.DrainWait, c.CPUWatermark = 0, 0 // tests run at full speed
	c.TelemetryOptions = []telemetry.Option{telemetry.WithLogs(s.Logs)}
	if o.Config != nil {
		o.Config(&c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	if s.Gateway, err = gateway.New(ctx, c); err != nil {
		cancel()
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	s.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(Patience):
			return fmt.Errorf("the gateway did not stop within %v", Patience)
		}
	})
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Errorf("the gateway ended with: %v", err)
		}
	})
	if !o.NotReady {
		s.AwaitReady(t)
	}
}

// Stop stops the gateway gracefully and returns what Run returned.
func (s *Site) Stop() error { return s.stop() }

// AwaitReady waits until the gateway is ready.
func (s *Site) AwaitReady(t testing.TB) {
	t.Helper()
	Eventually(t, "the gateway is ready", func() bool { return s.Ready(context.Background()) == nil })
}

// Metric returns the value of a metric; label is empty, or `label="value"`.
func (s *Site) Metric(t testing.TB, name, label string) float64 {
	t.Helper()
	response, err := http.Get("http://" + s.AdminAddr() + "/metrics") //nolint:noctx // the gateway of the test answers
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		labels, value, ok := strings.Cut(strings.TrimSpace(line), "} ")
		if ok && strings.HasPrefix(labels, name+"{") && strings.Contains(labels, label) {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no metric %s{%s}", name, label)
	return 0
}

// Logs collects log lines.
type Logs struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

// Write adds lines.
func (l *Logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String returns all lines.
func (l *Logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// NATS is a NATS server that can be stopped and started again on the same port.
type NATS struct {
	dir    string
	listen string
	server *natsserver.Server // nil while it is down
}

func newNATS(t testing.TB, dir string) *NATS {
	t.Helper()
	n := &NATS{dir: dir, listen: "127.0.0.1:0"}
	n.Start(t)
	n.listen = strings.TrimPrefix(n.server.URL(), "nats://")
	t.Cleanup(n.Stop)
	return n
}

// URL returns the address that clients connect to.
func (n *NATS) URL() string { return "nats://" + n.listen }

// Start starts the server again.
func (n *NATS) Start(t testing.TB) {
	t.Helper()
	server, err := natsserver.Start(natsserver.Options{StoreDir: n.dir, Listen: n.listen, Passwords: passwords})
	if err != nil {
		t.Fatal(err)
	}
	n.server = server
}

// Stop stops the server. Its data stays.
func (n *NATS) Stop() {
	if n.server != nil {
		n.server.Shutdown()
		n.server = nil
	}
}

// Eventually polls until done returns true, and fails the test if it never does. It is for what gives no signal.
func Eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(Patience)
	for !done() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("never happened: %s", what)
		}
	}
}

// left is what nats-server leaves behind, now and then: the store of a stream that was being made when the server was stopped.
var left = []goleak.Option{
	goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
	goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
}

// Main runs a package's tests, looks for goroutines that were left, and exits.
func Main(m *testing.M) {
	// Tests wait far more than they compute, so more of them run side by side than there are cores.
	flag.Parse()
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err) // only for a flag that is not there
	}
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(left...); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines were left:", err)
			code = 1
		}
	}
	os.Exit(code)
}
