package peer

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/centrifugal/centrifuge"

	"github.com/halleypush/halley/bench/internal/crew"
)

// RoleCentrifuge is the role of a process with centrifuge.
const RoleCentrifuge = "centrifuge"

const (
	channel   = "broadcast"
	pingEvery = 20 * time.Minute
)

// Centrifuge is what that process does.
type Centrifuge struct{ node *centrifuge.Node }

// ServeCentrifuge answers for the role until the input ends.
func ServeCentrifuge() error { return crew.Serve(&Centrifuge{}) }

// Listen starts the server.
func (c *Centrifuge) Listen(_ struct{}, address *string) (err error) {
	if c.node, err = centrifuge.New(centrifuge.Config{}); err != nil {
		return err
	}
	c.node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{
			Credentials:   &centrifuge.Credentials{},
			Subscriptions: map[string]centrifuge.SubscribeOptions{channel: {}},
		}, nil
	})
	if err := c.node.Run(); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	*address = listener.Addr().String()
	server := &http.Server{Handler: centrifuge.NewWebsocketHandler(c.node, centrifuge.WebsocketConfig{
		CheckOrigin: func(*http.Request) bool { return true },
		// As seldom as the others' heartbeats, so that none falls into a measurement.
		PingPongConfig: centrifuge.PingPongConfig{PingInterval: pingEvery, PongTimeout: pingEvery / 2},
	})}
	go func() { _ = server.Serve(listener) }() // until the process ends
	return nil
}

// Publish publishes to every client.
func (c *Centrifuge) Publish(payload []byte, _ *struct{}) error {
	_, err := c.node.Publish(channel, payload)
	return err
}
