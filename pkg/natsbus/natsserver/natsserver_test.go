package natsserver_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
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

func TestTheSenderTakesJobsAndReportsAndNothingElse(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), "")
	core, _ := connect(t, s, "pushcore")
	sender, senderErrors := connect(t, s, "sender")
	js, err := jetstream.New(core)
	if err != nil {
		t.Fatal(err)
	}
	for stream, subject := range map[string]string{"SEND": "send.>", "R": "receipt.>"} {
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: stream, Subjects: []string{subject}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := js.Publish(t.Context(), "send.apns.0", []byte("job")); err != nil {
		t.Fatal(err)
	}

	jobs, err := jetstream.New(sender)
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := jobs.CreateOrUpdateConsumer(t.Context(), "SEND", jetstream.ConsumerConfig{
		Durable: "apns", FilterSubject: "send.apns.>", AckPolicy: jetstream.AckExplicitPolicy,
	})
	if err != nil {
		t.Fatal(err)
	}
	job, err := consumer.Next()
	if err != nil || string(job.Data()) != "job" {
		t.Fatalf("job: %v", err)
	}
	if err := job.DoubleAck(t.Context()); err != nil {
		t.Errorf("acknowledge: %v", err)
	}
	if _, err := jobs.Publish(t.Context(), "receipt.v.3", nil); err != nil {
		t.Errorf("report: %v", err)
	}

	for _, subject := range []string{
		"gw.x-1.deliver", "slice.1", "work.slice.1", "app.changed", "send.apns.0", "receipt.d", "$JS.API.STREAM.DELETE.SEND", "$JS.ACK.R.x",
	} {
		if err := sender.Publish(subject, nil); err != nil {
			t.Fatal(err)
		}
		waitForDenial(t, senderErrors, subject)
	}
	for _, subject := range []string{"send.>", "receipt.d", "gw.>", "_INBOX_gateway.>"} {
		if _, err := sender.SubscribeSync(subject); err != nil {
			t.Fatal(err)
		}
		waitForDenial(t, senderErrors, subject)
	}
}

// A stand-alone nats-server reads the same text, with the environment filled in.
func TestTheConfigurationStandsAlone(t *testing.T) {
	t.Setenv("HALLEY_NATS_STORE", t.TempDir())
	for user := range passwords {
		t.Setenv("HALLEY_NATS_"+strings.ToUpper(user)+"_PASSWORD", "secret"+user)
	}
	path := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(path, []byte(natsserver.Configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	options, err := server.ProcessConfigFile(path)
	if err != nil {
		t.Fatal(err)
	}
	options.Port, options.NoSigs, options.NoLog = server.RANDOM_PORT, true, true
	s, err := server.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	if !s.ReadyForConnections(time.Minute) || !s.JetStreamEnabled() {
		t.Fatal("the server is not ready")
	}
	for user := range passwords {
		conn, err := nats.Connect(s.ClientURL(), nats.UserInfo(user, "secret"+user))
		if err != nil {
			t.Errorf("%s: %v", user, err)
			continue
		}
		conn.Close()
	}
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
	gaps := make(chan string, 1)
	conn, err := natsbus.Connect("test", natsbus.Config{URL: first.URL(), User: "pushcore", Password: passwords["pushcore"]},
		slog.New(slog.DiscardHandler), natsbus.Events{Gap: func(reason string) { gaps <- reason }})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	address := strings.TrimPrefix(first.URL(), "nats://")
	down := conn.StatusChanged(nats.RECONNECTING)
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
