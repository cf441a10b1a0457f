package gateway

import (
	"context"
	"fmt"
	"time"

	"github.com/halleypush/halley/bench/internal/phones"
	"github.com/halleypush/halley/bench/internal/report"
	"github.com/halleypush/halley/bench/internal/site"
	"github.com/halleypush/halley/bench/internal/swarm"
)

// lookEvery is how often PostgreSQL is asked how many sessions are open.
const lookEvery = 50 * time.Millisecond

// sited is a gateway of a site with pushcore and PostgreSQL.
type sited struct {
	halley
	site  *site.Site
	who   []swarm.Identity
	begun time.Time // by the database's clock
}

func (s *sited) clients(n int) (phones.Plan, error) {
	return phones.Plan{Kind: phones.MQTT, Topic: "push/" + s.site.App, Who: s.who[:n]}, nil
}

func (s *sited) opened(ctx context.Context, n int) error {
	for {
		var have int
		err := s.site.SQL.QueryRow(ctx, "SELECT count(*) FROM session WHERE open AND receiving AND epoch > $1", s.begun).Scan(&have)
		if err != nil || have >= n {
			return err
		}
		if err := wait(ctx, lookEvery); err != nil {
			return fmt.Errorf("%d of %d sessions are open: %w", have, n, err)
		}
	}
}

// connectReal measures how many devices a second connect until their routes are committed in PostgreSQL, with all of
// Halley's parts on the machine, beside the bare loop's accepts.
func (b *bench) connectReal(ctx context.Context) error {
	s, err := site.Start(ctx, b.Bin, false)
	if err != nil {
		return err
	}
	defer s.Close()
	for _, line := range s.Config {
		b.say("with pushcore: %s", line)
	}
	who, err := s.Register(ctx, b.sessions)
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	start := func(ctx context.Context) (server, error) {
		b.started++
		g, err := s.StartGateway(ctx, b.Bin, fmt.Sprintf("gateway-%d", b.started))
		if err != nil {
			return nil, err
		}
		r := &sited{halley: halley{Gateway: g}, site: s, who: who}
		if err := s.SQL.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&r.begun); err != nil {
			r.stop()
			return nil, err
		}
		return r, nil
	}
	var ours, theirs, ratios []float64
	for range b.pairs {
		bare, err := b.connects(ctx, b.startBare)
		if err != nil {
			return fmt.Errorf("bare: %w", err)
		}
		gateway, err := b.connects(ctx, start)
		if err != nil {
			return fmt.Errorf("gateway: %w", err)
		}
		ours, theirs, ratios = append(ours, gateway), append(theirs, bare), append(ratios, gateway/bare)
		b.say("connects per second, opened by pushcore: gateway %.0f, bare %.0f", gateway, bare)
	}
	b.add(report.Of("connect.pushcore_ratio", "x bare", ratios...))
	b.add(report.Of("connect.pushcore_per_s", "1/s", ours...).With("bare", theirs...))
	return nil
}

// connects returns how many clients a second a server that is started anew takes.
func (b *bench) connects(ctx context.Context, start starter) (float64, error) {
	starting, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	s, err := start(starting)
	if err != nil {
		return 0, err
	}
	defer s.stop()
	if err := wait(ctx, rest); err != nil {
		return 0, err
	}
	var r round
	c, err := b.arrive(ctx, s, &r)
	if err != nil {
		return 0, err
	}
	c.stop()
	return r.rate, nil
}
