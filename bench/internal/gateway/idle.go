package gateway

import (
	"context"
	"fmt"

	"github.com/halleypush/halley/bench/internal/crew"
	"github.com/halleypush/halley/bench/internal/peer"
	"github.com/halleypush/halley/bench/internal/phones"
	"github.com/halleypush/halley/bench/internal/report"
)

// idler is a server whose memory is measured.
type idler struct {
	name   string
	start  starter
	secure bool
	before int64
	server server
	crowd  *crowd
}

func (i *idler) stop() {
	if i.crowd != nil {
		i.crowd.stop()
	}
	if i.server != nil {
		i.server.stop()
	}
}

// idleMemory measures what an idle session costs: all servers at a time, as each has its own memory, and the wait is the same.
func (b *bench) idleMemory(ctx context.Context) error {
	values := map[string][]float64{}
	for range b.idle {
		if err := b.idleRound(ctx, values); err != nil {
			return err
		}
	}
	b.add(report.Of("idle.plain_rss_bytes", "B", values["gateway"]...).Target("<= 600").
		With("bare", values["bare"]...).With("mosquitto", values["mosquitto"]...).With("mochi", values["mochi"]...))
	b.add(report.Of("idle.tls_rss_bytes", "B", values["gateway, TLS"]...).Target("<= 6000").
		With("crypto/tls with a goroutine", values["crypto/tls"]...))
	b.add(report.Of("idle.process_rss_mb", "MB", values["empty"]...).Target("<= 40"))
	return nil
}

func (b *bench) idleRound(ctx context.Context, values map[string][]float64) error {
	all := []*idler{
		{name: "gateway", start: b.startHalley},
		{name: "bare", start: b.startBare},
		{name: "mosquitto", start: b.startMosquitto},
		{name: "mochi", start: b.startMochi},
		// Other devices than the first one's: a device is in one place.
		{name: "gateway, TLS", secure: true, start: func(ctx context.Context) (server, error) {
			return b.startSecured(ctx, b.sessions)
		}},
		{name: "crypto/tls", secure: true, start: b.startSecure},
	}
	defer func() {
		for _, i := range all {
			i.stop()
		}
	}()
	for _, i := range all {
		if err := b.fill(ctx, i); err != nil {
			return fmt.Errorf("%s: %w", i.name, err)
		}
	}
	if err := wait(ctx, b.settle); err != nil {
		return err
	}
	for _, i := range all {
		after, err := i.server.rss()
		if err != nil {
			return fmt.Errorf("%s: %w", i.name, err)
		}
		each := float64(after-i.before) / float64(b.sessions)
		values[i.name] = append(values[i.name], each)
		b.say("%-12s %5.1f MB before the first of %d sessions, %6.1f MB with them: %.0f B each", i.name,
			megabytes(i.before), b.sessions, megabytes(after), each)
	}
	values["empty"] = append(values["empty"], megabytes(all[0].before))
	return nil
}

// fill starts a server and connects its clients.
func (b *bench) fill(ctx context.Context, i *idler) (err error) {
	starting, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	server, err := i.start(starting)
	if err != nil {
		return err
	}
	i.server = server
	if err := wait(ctx, rest); err != nil {
		return err
	}
	if i.before, err = server.rss(); err != nil {
		return err
	}
	i.crowd, err = b.connectWith(ctx, server, b.sessions, func(p *phones.Plan) {
		if i.secure {
			p.Certificate = b.certificate.cert
		}
	})
	if err != nil {
		return err
	}
	return server.opened(starting, b.sessions)
}

func megabytes(n int64) float64 { return float64(n) / 1e6 }

// secured is a gateway that is reached over TLS.
type secured struct {
	*halley
	at string
}

// startSecured starts a gateway whose devices have the ordinals from first on.
func (b *bench) startSecured(ctx context.Context, first int) (server, error) {
	h, err := b.newHalley(ctx, first)
	if err != nil {
		return nil, err
	}
	return secured{h, h.MQTTS}, nil
}

func (s secured) address() string { return s.at }

// standard is crypto/tls with a goroutine per connection.
type standard struct{ loop }

func (b *bench) startSecure(ctx context.Context) (server, error) {
	s := &standard{}
	var err error
	if s.member, err = crew.Start(peer.RoleSecure); err != nil {
		return nil, err
	}
	config := peer.SecureServer{Certificate: b.certificate.cert, Key: b.certificate.key, Welcome: b.welcome}
	if err := s.member.Ask(ctx, "Listen", config, &s.at); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}
