package natsserver_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/natsbus"
	"github.com/halleypush/halley/pkg/natsbus/natsserver"
)

var passwords = map[string]config.Secret{"pushcore": "p", "gateway": "g$\"\\", "sender": "s"}

func start(t *testing.T, store, listen string) *natsserver.Server {
	t.Helper()
	s, err := natsserver.Start(natsserver.Options{StoreDir: store, Listen: listen, Passwords: passwords})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	return s
}

// connect returns a connection of a user and its asynchronous errors.
func connect(t *testing.T, s *natsserver.Server, user string) (*nats.Conn, <-chan error) {
	t.Helper()
	errs := make(chan error, 10)
	conn, err := natsbus.Connect("test", natsbus.Config{User: user, Password: passwords[user]}, slog.New(slog.DiscardHandler),
		natsbus.Events{}, s.InProcess(),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { errs <- err }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn, errs
}

func waitForDenial(t *testing.T, errs <-chan error, subject string) {
	t.Helper()
	select {
	case err := <-errs:
		if !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), subject) {
			t.Errorf("%s: %v", subject, err)
		}
	case <-time.After(5 * time.Second):
		t.Errorf("%s is allowed", subject)
	}
}

func TestUsersDoTheirWorkAndNothingElse(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), "")
	core, coreErrors := connect(t, s, "pushcore")
	gateway, gatewayErrors := connect(t, s, "gateway")

	// pushcore makes streams, the gateway fills them.
	js, err := jetstream.New(core)
	if err != nil {
		t.Fatal(err)
	}
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "R", Subjects: []string{"receipt.>"}})
	if err != nil {
		t.Fatal(err)
	}
	receipts, err := jetstream.New(gateway)
	if err != nil {
		t.Fatal(err)
	}
	future, err := receipts.PublishAsync("receipt.a.7", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-future.Ok():
	case err := <-future.Err():
		t.Fatalf("the gateway cannot publish receipts: %v", err)
	case <-time.After(5 * time.Second):
		t.Fatal("no acknowledgement of a receipt")
	}

	// pushcore asks, the gateway answers.
	if _, err := gateway.Subscribe("gw.x-1.deliver", func(m *nats.Msg) { _ = m.Respond([]byte("taken")) }); err != nil {
		t.Fatal(err)
	}
	if err := gateway.Flush(); err != nil {
		t.Fatal(err)
	}
	if reply, err := core.Request("gw.x-1.deliver", nil, 5*time.Second); err != nil || string(reply.Data) != "taken" {
		t.Fatalf("request: %v", err)
	}

	for _, subject := range []string{"gw.x-1.deliver", "slice.1", "app.changed", "$JS.API.STREAM.DELETE.R", "_INBOX_pushcore.a"} {
		if err := gateway.Publish(subject, nil); err != nil {
			t.Fatal(err)
		}
		waitForDenial(t, gatewayErrors, subject)
	}
	for _, subject := range []string{"receipt.d", "_INBOX_pushcore.>", ">", "$SYS.>"} {
		if _, err := gateway.SubscribeSync(subject); err != nil {
			t.Fatal(err)
		}
		waitForDenial(t, gatewayErrors, subject)
	}
	if _, err := core.SubscribeSync("gw.>"); err != nil {
		t.Fatal(err)
	}
	waitForDenial(t, coreErrors, "gw.>")
}

func TestAWrongPasswordAndAMissingOneAreRefused(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), "127.0.0.1:0")
	if _, err := nats.Connect(s.URL(), nats.UserInfo("gateway", "wrong")); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("wrong password: %v", err)
	}
	if _, err := nats.Connect(s.URL()); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("no password: %v", err)
	}
	if _, err := natsserver.Start(natsserver.Options{StoreDir: t.TempDir()}); err == nil {
		t.Error("a server without passwords starts")
	}
}

func TestAClientSurvivesARestartAndTellsOfTheGap(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	first := start(t, store, "127.0.0.1:0")
	gaps, down := make(chan string, 1), make(chan struct{}, 1)
	conn, err := natsbus.Connect("test", natsbus.Config{URL: first.URL(), User: "pushcore", Password: passwords["pushcore"]},
		slog.New(slog.DiscardHandler), natsbus.Events{
			Gap:  func(reason string) { gaps <- reason },
			Down: func() { down <- struct{}{} },
		})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	address := strings.TrimPrefix(first.URL(), "nats://")
	first.Shutdown()
	<-down
	if err := conn.Publish("app.changed", nil); err == nil {
		t.Error("a publish while NATS is away succeeds, and would come late")
	}
	start(t, store, address)
	if reason := <-gaps; reason != "reconnected" {
		t.Errorf("gap: %s", reason)
	}
	if err := conn.Publish("app.changed", nil); err != nil {
		t.Errorf("publish after the restart: %v", err)
	}
}
