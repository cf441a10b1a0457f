package stream_test

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/halleypush/halley/services/pushcore/internal/stream"
)

// A server reserves what streams may take. One with a small disk gets smaller streams, and not none.
func TestStreamsFitIntoASmallServer(t *testing.T) {
	t.Parallel()
	const store = 1 << 30
	ns, err := server.NewServer(&server.Options{Port: -1, Host: "127.0.0.1", NoSigs: true, JetStream: true, JetStreamMaxStore: store, StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() {
		ns.Shutdown()
		ns.WaitForShutdown()
	})
	conn, err := nats.Connect(ns.ClientURL(), nats.InProcessServer(ns))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for _, name := range []string{"A", "B", "C", "D", "E", "F"} {
		c := jetstream.StreamConfig{Name: name, Subjects: []string{name}, MaxBytes: 8 << 30}
		for range 2 { // and again, as after a restart
			if _, err := stream.New(js, c).Made(t.Context()); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		s, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if size := s.CachedInfo().Config.MaxBytes; size < 16<<20 {
			t.Errorf("%s has room for %d B", name, size)
		} else {
			total += size
		}
	}
	if total > store {
		t.Errorf("%d B in all", total)
	}
}
