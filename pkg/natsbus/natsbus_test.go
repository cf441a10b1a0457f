package natsbus_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/natsbus"
	"github.com/halleypush/halley/pkg/natsbus/natsserver"
)

// patience bounds every wait.
const patience = 20 * time.Second

func start(t *testing.T, address, password string) *natsserver.Server {
	t.Helper()
	s, err := natsserver.Start(natsserver.Options{
		StoreDir: t.TempDir(), Listen: address,
		Passwords: map[string]config.Secret{"pushcore": config.Secret(password), "gateway": "g", "sender": "s"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	return s
}

func connect(t *testing.T, url string, events natsbus.Events, opts ...nats.Option) *nats.Conn {
	t.Helper()
	c := natsbus.Config{URL: url, User: "pushcore", Password: "p"}
	conn, err := natsbus.Connect("test", c, slog.New(slog.DiscardHandler), events, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

func wait[T any](t *testing.T, c <-chan T, what string) (got T) {
	t.Helper()
	select {
	case got = <-c:
	case <-time.After(patience):
		t.Fatalf("no %s within %v", what, patience)
	}
	return got
}

// unused returns an address of this machine that nothing listens on.
func unused(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func TestConnectDoesNotWaitForAServer(t *testing.T) {
	t.Parallel()
	address, connected := unused(t), make(chan struct{}, 1)
	conn := connect(t, "nats://"+address, natsbus.Events{}, nats.ConnectHandler(func(*nats.Conn) { connected <- struct{}{} }))
	if err := conn.Publish("app.changed", nil); err == nil {
		t.Error("a publish before there is a server succeeds, and would come late")
	}
	start(t, address, "p")
	wait(t, connected, "connection")
	if err := conn.Publish("app.changed", nil); err != nil {
		t.Error(err)
	}
}

func TestARefusedPasswordIsTriedAgain(t *testing.T) {
	t.Parallel()
	first := start(t, "127.0.0.1:0", "p")
	address := strings.TrimPrefix(first.URL(), "nats://")
	refusals, gaps := make(chan error, 100), make(chan string, 1)
	connect(t, first.URL(), natsbus.Events{Gap: func(reason string) { gaps <- reason }},
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refusals <- err }))
	first.Shutdown()
	refusing := start(t, address, "other")
	for range 3 { // the client's own rule is to give up at the second
		if err := wait(t, refusals, "refusal"); !errors.Is(err, nats.ErrAuthorization) {
			t.Fatal(err)
		}
	}
	refusing.Shutdown()
	start(t, address, "p")
	if reason := wait(t, gaps, "gap"); reason != "reconnected" {
		t.Errorf("gap: %s", reason)
	}
}

func TestAWrongPasswordAtTheStartIsLogged(t *testing.T) {
	t.Parallel()
	s := start(t, "127.0.0.1:0", "other")
	logged := make(chan string, 100)
	log := slog.New(slog.NewTextHandler(lines(logged), nil))
	conn, err := natsbus.Connect("test", natsbus.Config{URL: s.URL(), User: "pushcore", Password: "hunter2"}, log, natsbus.Events{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	line := wait(t, logged, "log line")
	if !strings.Contains(line, "level=WARN") || !strings.Contains(line, "Authorization Violation") || strings.Contains(line, "hunter2") {
		t.Error(line)
	}
}

// lines is a writer that sends what is written.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

func TestGapsAndErrorsAreToldAndCounted(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	gaps, closed := make(chan string, 10), make(chan struct{})
	s := start(t, "127.0.0.1:0", "p")
	conn := connect(t, s.URL(), natsbus.Events{
		Gap: func(reason string) { gaps <- reason }, Metrics: natsbus.NewMetrics(registry),
	}, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	expect := func(back, failed, lost, slow int) {
		t.Helper()
		const head = `# HELP halley_nats_connection_events_total What happened to a NATS connection: lost, back, slow_consumer` +
			" (a subscription dropped messages), error (such as a permission violation).\n" +
			"# TYPE halley_nats_connection_events_total counter\n"
		text := head
		for _, line := range []struct {
			event string
			count int
		}{{"back", back}, {"error", failed}, {"lost", lost}, {"slow_consumer", slow}} {
			text += fmt.Sprintf("halley_nats_connection_events_total{connection=\"test\",event=%q} %d\n", line.event, line.count)
		}
		if err := testutil.GatherAndCompare(registry, strings.NewReader(text)); err != nil {
			t.Error(err)
		}
	}
	expect(0, 0, 0, 0)

	free := make(chan struct{})
	sub, err := conn.Subscribe("app.changed", func(*nats.Msg) { <-free })
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.SetPendingLimits(1, -1); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := conn.Publish("app.changed", nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := wait(t, gaps, "gap"); got != "slow consumer on app.changed" {
		t.Errorf("gap: %s", got)
	}
	close(free)
	expect(0, 0, 0, 1)

	s.Shutdown()
	start(t, strings.TrimPrefix(s.URL(), "nats://"), "p")
	if got := wait(t, gaps, "gap"); got != "reconnected" {
		t.Errorf("gap: %s", got)
	}
	if err := conn.Publish("not.ours", nil); err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	wait(t, closed, "end") // is told after all else
	expect(1, 1, 1, 1)
}
