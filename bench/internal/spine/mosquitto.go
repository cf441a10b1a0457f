package spine

import (
	"context"
	"fmt"
	"time"

	"github.com/halleypush/halley/bench/internal/crew"
	"github.com/halleypush/halley/bench/internal/peer"
	"github.com/halleypush/halley/bench/internal/phones"
	"github.com/halleypush/halley/bench/internal/swarm"
)

const topic = "broadcast"

// mosquitto is a broker with as many clients as Halley has, in a process of their own: one cannot have the sockets of both.
type mosquitto struct {
	server    *peer.Mosquitto
	clients   *crew.Member
	publisher *peer.Publisher
	sessions  int
}

func startMosquitto(ctx context.Context, sessions int) (_ *mosquitto, err error) {
	m := &mosquitto{sessions: sessions}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	if m.server, err = peer.StartMosquitto(ctx); err != nil {
		return nil, err
	}
	if m.clients, err = crew.Start(phones.Role); err != nil {
		return nil, err
	}
	who := make([]swarm.Identity, sessions)
	for i := range who {
		who[i].ClientID = fmt.Sprintf("bench-%d", i)
	}
	plan := phones.Plan{Kind: phones.MQTT, Address: m.server.Address, Topic: topic, Who: who}
	if err := m.clients.Ask(ctx, "Connect", plan, new(time.Duration)); err != nil {
		return nil, err
	}
	m.publisher, err = peer.NewPublisher(ctx, m.server.Address)
	return m, err
}

// broadcast publishes to all clients, and returns what measure does.
func (m *mosquitto) broadcast(ctx context.Context, payload []byte) (cost float64, took time.Duration, err error) {
	if err := m.clients.Ask(ctx, "Expect", m.sessions, &struct{}{}); err != nil {
		return 0, 0, err
	}
	return measure(ctx, m.server.Process, m.sessions,
		func() error { return m.publisher.Publish(topic, payload) },
		func(ctx context.Context) error { return m.clients.Ask(ctx, "Await", m.sessions, &phones.Arrivals{}) })
}

func (m *mosquitto) close() {
	if m.publisher != nil {
		m.publisher.Close()
	}
	if m.clients != nil {
		m.clients.Stop()
	}
	if m.server != nil {
		m.server.Stop()
	}
}
