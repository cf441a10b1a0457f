package bare_test

import (
	"context"
	"testing"
	"time"

	"github.com/halleypush/halley/bench/internal/bare"
	"github.com/halleypush/halley/bench/internal/swarm"
)

const clients = 50

// welcome is a CONNACK and a SUBACK of MQTT 5 that grants QoS 1.
var welcome = []byte{0x20, 3, 0, 0, 0, 0x90, 4, 0, 1, 0, 1}

func TestClientsGetWhatIsBroadcastAndAcknowledgeWhenTheyMay(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	server := &bare.Served{}
	var address string
	if err := server.Listen(welcome, &address); err != nil {
		t.Fatal(err)
	}
	who := make([]swarm.Identity, clients)
	s, err := swarm.Connect(ctx, swarm.Options{Address: address}, &swarm.MQTT{Topic: "t", Who: who})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if n := s.Established(); n != clients {
		t.Errorf("%d of %d clients are connected", n, clients)
	}
	s.Hold()
	for range 2 {
		if err := server.Broadcast(swarm.Publish("t", 7, []byte("hello")), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Await(ctx, 2*clients); err != nil {
		t.Fatal(err)
	}
	if _, payload := s.First(); string(payload) != "hello" {
		t.Errorf("a client got %q", payload)
	}
	if n := acked(t, server); n != 0 {
		t.Errorf("%d acknowledgements came although they are held back", n)
	}
	if err := s.Release(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Until(ctx, func() bool { return acked(t, server) == 2*clients }); err != nil {
		t.Errorf("%d of %d acknowledgements: %v", acked(t, server), 2*clients, err)
	}
}

func acked(t *testing.T, server *bare.Served) (n int64) {
	t.Helper()
	if err := server.Acked(struct{}{}, &n); err != nil {
		t.Fatal(err)
	}
	return n
}
