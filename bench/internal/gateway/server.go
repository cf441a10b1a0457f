package gateway

import (
	"context"
	"fmt"
	"time"

	"github.com/halleypush/halley/bench/internal/bare"
	"github.com/halleypush/halley/bench/internal/crew"
	"github.com/halleypush/halley/bench/internal/peer"
	"github.com/halleypush/halley/bench/internal/phones"
	"github.com/halleypush/halley/bench/internal/sink"
	"github.com/halleypush/halley/bench/internal/site"
	"github.com/halleypush/halley/bench/internal/swarm"
)

// server is one of those that are measured alike.
type server interface {
	address() string
	// clients says who connects; address and the like are filled in.
	clients(n int) (phones.Plan, error)
	cpu() (time.Duration, error)
	rss() (int64, error)
	// opened waits until n sessions are open.
	opened(ctx context.Context, n int) error
	// broadcast has a message sent to all n clients.
	broadcast(ctx context.Context, n int) error
	// acked waits until n acknowledgements have been taken since the start, as far as that can be known.
	acked(ctx context.Context, n int) error
	stop()
}

// starter starts a server.
type starter func(context.Context) (server, error)

// halley is the gateway, as it is shipped.
type halley struct {
	*site.Gateway
	sink *sink.Sink
	// first is the first device's ordinal; the others are what the sink had counted at the start.
	first          int
	opens, arrived int64
}

func (b *bench) startHalley(ctx context.Context) (server, error) { return b.newHalley(ctx, 0) }

// newHalley starts a gateway whose devices have the ordinals from first on.
func (b *bench) newHalley(ctx context.Context, first int) (*halley, error) {
	return b.newHalleyAt(ctx, "", first)
}

// newHalleyAt has its devices connect to an address of this host.
func (b *bench) newHalleyAt(ctx context.Context, host string, first int) (*halley, error) {
	g, err := b.startGateway(ctx, host)
	if err != nil {
		return nil, err
	}
	return &halley{Gateway: g, sink: b.sink, first: first, opens: b.sink.Opened(), arrived: b.sink.Acked()}, nil
}

func (h *halley) address() string             { return h.MQTT }
func (h *halley) cpu() (time.Duration, error) { return h.CPU() }
func (h *halley) rss() (int64, error)         { return h.RSS() }
func (h *halley) stop()                       { h.Stop() }

func (h *halley) clients(n int) (phones.Plan, error) {
	who, err := h.sink.Devices(h.first, n)
	return phones.Plan{Kind: phones.MQTT, Topic: sink.Topic, Who: who}, err
}

func (h *halley) opened(ctx context.Context, n int) error {
	return h.sink.Await(ctx, "opens", func() bool { return h.sink.Opened() >= h.opens+int64(n) })
}

func (h *halley) broadcast(ctx context.Context, n int) error {
	return h.sink.Broadcast(ctx, h.first, n, 1)
}

func (h *halley) acked(ctx context.Context, n int) error {
	return h.sink.Await(ctx, "receipts", func() bool { return h.sink.Acked() >= h.arrived+int64(n) })
}

// loop is the bare loop.
type loop struct {
	member *crew.Member
	at     string
	frame  []byte
}

func (b *bench) startBare(ctx context.Context) (server, error) {
	l := &loop{frame: b.frame}
	var err error
	if l.member, err = crew.Start(bare.Role); err != nil {
		return nil, err
	}
	if err := l.member.Ask(ctx, "Listen", b.welcome, &l.at); err != nil {
		l.stop()
		return nil, err
	}
	return l, nil
}

func (l *loop) address() string                   { return l.at }
func (l *loop) cpu() (time.Duration, error)       { return l.member.CPU() }
func (l *loop) rss() (int64, error)               { return l.member.RSS() }
func (l *loop) stop()                             { l.member.Stop() }
func (l *loop) opened(context.Context, int) error { return nil }

func (l *loop) clients(n int) (phones.Plan, error) {
	// They say as much as the gateway's clients do.
	name := swarm.Identity{ClientID: filler(23), Username: "bench", Password: filler(48)}
	who := make([]swarm.Identity, n)
	for i := range who {
		who[i] = name
	}
	return phones.Plan{Kind: phones.MQTT, Topic: sink.Topic, Who: who}, nil
}

func (l *loop) broadcast(ctx context.Context, _ int) error {
	return l.member.Ask(ctx, "Broadcast", l.frame, &struct{}{})
}

func (l *loop) acked(ctx context.Context, n int) error {
	for {
		var have int64
		if err := l.member.Ask(ctx, "Acked", struct{}{}, &have); err != nil || have >= int64(n) {
			return err
		}
		if err := wait(ctx, time.Millisecond); err != nil {
			return fmt.Errorf("%d of %d acknowledgements: %w", have, n, err)
		}
	}
}

func filler(n int) string {
	text := make([]byte, n)
	for i := range text {
		text[i] = 'x'
	}
	return string(text)
}

// broker is an MQTT broker.
type broker struct {
	at        string
	publisher *peer.Publisher
	cpuOf     func() (time.Duration, error)
	rssOf     func() (int64, error)
	end       func()
	payload   []byte
}

func (b *bench) startMosquitto(ctx context.Context) (server, error) {
	m, err := peer.StartMosquitto(ctx)
	if err != nil {
		return nil, err
	}
	return b.newBroker(&broker{at: m.Address, cpuOf: m.CPU, rssOf: m.RSS, end: m.Stop})
}

func (b *bench) startMochi(ctx context.Context) (server, error) {
	m, err := crew.Start(peer.RoleMochi)
	if err != nil {
		return nil, err
	}
	var address string
	if err := m.Ask(ctx, "Listen", struct{}{}, &address); err != nil {
		m.Stop()
		return nil, err
	}
	return b.newBroker(&broker{at: address, cpuOf: m.CPU, rssOf: m.RSS, end: m.Stop})
}

func (b *bench) newBroker(k *broker) (server, error) {
	body, err := sink.NewBody(true, 1, sink.BodySize)
	if err != nil {
		k.end()
		return nil, err
	}
	k.payload = body.GetJson()
	return k, nil
}

func (k *broker) address() string                   { return k.at }
func (k *broker) cpu() (time.Duration, error)       { return k.cpuOf() }
func (k *broker) rss() (int64, error)               { return k.rssOf() }
func (k *broker) opened(context.Context, int) error { return nil }

func (k *broker) stop() {
	if k.publisher != nil {
		k.publisher.Close()
	}
	k.end()
}

func (k *broker) clients(n int) (phones.Plan, error) {
	who := make([]swarm.Identity, n)
	for i := range who {
		who[i].ClientID = fmt.Sprintf("bench-%d", i)
	}
	return phones.Plan{Kind: phones.MQTT, Topic: sink.Topic, Who: who}, nil
}

func (k *broker) broadcast(ctx context.Context, _ int) (err error) {
	if k.publisher == nil {
		if k.publisher, err = peer.NewPublisher(ctx, k.at); err != nil {
			return err
		}
	}
	return k.publisher.Publish(sink.Topic, k.payload)
}

// acked cannot know; the rest after it gives time.
func (k *broker) acked(context.Context, int) error { return nil }

// hub is centrifuge.
type hub struct {
	member  *crew.Member
	at      string
	payload []byte
}

func (b *bench) startCentrifuge(ctx context.Context) (server, error) {
	body, err := sink.NewBody(true, 1, sink.BodySize)
	if err != nil {
		return nil, err
	}
	h := &hub{payload: body.GetJson()}
	if h.member, err = crew.Start(peer.RoleCentrifuge); err != nil {
		return nil, err
	}
	if err := h.member.Ask(ctx, "Listen", struct{}{}, &h.at); err != nil {
		h.stop()
		return nil, err
	}
	return h, nil
}

func (h *hub) address() string                   { return h.at }
func (h *hub) cpu() (time.Duration, error)       { return h.member.CPU() }
func (h *hub) rss() (int64, error)               { return h.member.RSS() }
func (h *hub) stop()                             { h.member.Stop() }
func (h *hub) opened(context.Context, int) error { return nil }
func (h *hub) acked(context.Context, int) error  { return nil }

func (h *hub) clients(n int) (phones.Plan, error) {
	return phones.Plan{Kind: phones.Centrifuge, Count: n}, nil
}

func (h *hub) broadcast(ctx context.Context, _ int) error {
	return h.member.Ask(ctx, "Publish", h.payload, &struct{}{})
}
