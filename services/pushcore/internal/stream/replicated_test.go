package stream_test

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/natsbus"
	"github.com/halleypush/halley/pkg/natsbus/natsserver"
	"github.com/halleypush/halley/services/pushcore/internal/stream"
)

// A server without a cluster says so when it is asked for three copies: the number has come to it.
func TestStreamsAskForTheirReplicas(t *testing.T) {
	t.Parallel()
	passwords := map[string]config.Secret{"pushcore": "p", "gateway": "g", "sender": "s"}
	server, err := natsserver.Start(natsserver.Options{StoreDir: t.TempDir(), Passwords: passwords})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	conn, err := natsbus.Connect("test", natsbus.Config{User: "pushcore", Password: "p"}, slog.New(slog.DiscardHandler),
		natsbus.Events{}, server.InProcess())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	const noCluster = 10074
	for replicas, want := range map[int]jetstream.ErrorCode{0: 0, 1: 0, 3: noCluster} {
		_, err := stream.New(stream.Replicated(js, replicas), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}).Made(t.Context())
		var refused *jetstream.APIError
		errors.As(err, &refused)
		if (want == 0) != (err == nil) || refused != nil && refused.ErrorCode != want {
			t.Errorf("%d replicas: %v", replicas, err)
		}
	}
}
