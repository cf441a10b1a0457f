package gateway

import (
	"context"
	"fmt"

	"github.com/halleypush/halley/bench/internal/crew"
	"github.com/halleypush/halley/bench/internal/phones"
	"github.com/halleypush/halley/bench/internal/report"
)

// shakeHands measures how many TLS handshakes a second of processor time is good for. A connection lasts for its handshake
// and the client's and the server's close_notify.
func (b *bench) shakeHands(ctx context.Context) error {
	starting, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	standard, err := b.startSecure(starting)
	if err != nil {
		return err
	}
	defer standard.stop()
	gateway, err := b.startSecured(starting, 0)
	if err != nil {
		return err
	}
	defer gateway.stop()
	member, err := crew.Start(phones.Role)
	if err != nil {
		return err
	}
	defer member.Stop()
	for _, kind := range []struct {
		name   string
		resume bool
	}{{"full", false}, {"resumed", true}} {
		var ours, theirs, ratios []float64
		for pair := range b.pairs + 1 {
			s, err := b.shakes(ctx, member, standard, kind.resume)
			if err != nil {
				return fmt.Errorf("crypto/tls, %s: %w", kind.name, err)
			}
			h, err := b.shakes(ctx, member, gateway, kind.resume)
			if err != nil {
				return fmt.Errorf("gateway, %s: %w", kind.name, err)
			}
			if pair == 0 {
				continue // both are warm then
			}
			ours, theirs, ratios = append(ours, h), append(theirs, s), append(ratios, h/s)
			b.say("%s handshakes per second and core: gateway %.0f, crypto/tls %.0f", kind.name, h, s)
		}
		b.add(report.Of("tls."+kind.name+"_ratio", "x crypto/tls", ratios...).Target(">= 0.9"))
		b.add(report.Of("tls."+kind.name+"_per_s", "1/s per core", ours...).With("crypto/tls", theirs...))
	}
	return nil
}

// shakes returns how many handshakes a server does in a second of processor time.
func (b *bench) shakes(ctx context.Context, member *crew.Member, s server, resume bool) (float64, error) {
	if err := wait(ctx, rest); err != nil {
		return 0, err
	}
	before, err := s.cpu()
	if err != nil {
		return 0, err
	}
	var resumed int
	h := phones.Shaking{Address: s.address(), Certificate: b.certificate.cert, Count: b.handshakes, Resume: resume}
	if err := member.Ask(ctx, "Shake", h, &resumed); err != nil {
		return 0, err
	}
	if err := wait(ctx, rest); err != nil {
		return 0, err
	}
	after, err := s.cpu()
	if err != nil {
		return 0, err
	}
	if want := map[bool]int{true: b.handshakes}[resume]; resumed != want {
		return 0, fmt.Errorf("%d of %d handshakes were resumed", resumed, b.handshakes)
	}
	return float64(b.handshakes) / (after - before).Seconds(), nil
}
