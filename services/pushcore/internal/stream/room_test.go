package stream_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/halleypush/halley/services/pushcore/internal/stream"
)

// A server reserves what streams may take. One with a small disk gets smaller streams, and not only the first of them, also when all
// are made at once.
func TestStreamsFitIntoASmallServer(t *testing.T) {
	t.Parallel()
	for _, gigabytes := range []int64{1, 2, 5, 10, 40} {
		t.Run(fmt.Sprint(gigabytes), func(t *testing.T) {
			t.Parallel()
			js := small(t, gigabytes<<30)
			wanted := map[string]int64{"A": 2 << 30, "B": 2 << 30, "C": 2 << 30, "D": 1 << 30, "E": 1 << 30, "F": 0}
			for range 2 { // and again, as after a restart
				var made sync.WaitGroup
				for name, size := range wanted {
					made.Go(func() {
						c := jetstream.StreamConfig{Name: name, Subjects: []string{name}, MaxBytes: size}
						if _, err := stream.New(js, c).Made(t.Context()); err != nil {
							t.Errorf("%s: %v", name, err)
						}
					})
				}
				made.Wait()
			}
			total := int64(0)
			for name, size := range wanted {
				s, err := js.Stream(t.Context(), name)
				if err != nil {
					t.Fatal(err)
				}
				got := s.CachedInfo().Config.MaxBytes
				if size > 0 && (got < 64<<20 || gigabytes == 40 && got != size) {
					t.Errorf("%s has room for %d B", name, got)
				}
				total += max(got, 0)
			}
			if total > gigabytes<<30 {
				t.Errorf("%d B in all", total)
			}
		})
	}
}

// small returns the JetStream of a server with so much storage.
func small(t *testing.T, store int64) jetstream.JetStream {
	t.Helper()
	ns, err := server.NewServer(&server.Options{
		Port: -1, Host: "127.0.0.1", NoSigs: true, JetStream: true, JetStreamMaxStore: store, StoreDir: t.TempDir(),
	})
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
	return js
}
