package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/halleypush/halley/bench/internal/phones"
	"github.com/halleypush/halley/bench/internal/report"
	"github.com/halleypush/halley/bench/internal/sink"
)

const (
	// fillSize is the size of the pushes that fill the buffers of a device that does not read.
	fillSize = 8 << 10
	// maxFill is more of them than any buffer holds.
	maxFill = 4_000
	// spareFill is how many fewer than close the connection are sent: half of what a gateway keeps for a connection at most.
	spareFill = 8
)

// slow measures what a device that never reads costs the others.
func (b *bench) slow(ctx context.Context) error {
	starting, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	h, err := b.newHalley(starting, 0)
	if err != nil {
		return err
	}
	defer h.stop()
	others, err := b.connect(ctx, h, b.sessions-1)
	if err != nil {
		return err
	}
	defer others.stop()
	if err := h.opened(starting, others.n); err != nil {
		return err
	}
	if _, err := others.broadcast(ctx, h); err != nil { // unmeasured: all is warm then
		return err
	}
	limit, err := b.fillUp(ctx, h)
	if err != nil {
		return fmt.Errorf("fill up: %w", err)
	}
	b.say("a device that does not read is closed after %d pushes of %d B; it gets %d", limit, fillSize, limit-spareFill)
	var quiet, slow, ratios []float64
	for range b.pairs {
		q, err := b.p99(ctx, h, others)
		if err != nil {
			return err
		}
		s, err := b.p99BesideDeaf(ctx, h, others, limit-spareFill)
		if err != nil {
			return err
		}
		quiet, slow, ratios = append(quiet, q), append(slow, s), append(ratios, s/q)
		b.say("p99 of a broadcast: %.1f ms, with a device that does not read %.1f ms", q, s)
	}
	b.add(report.Of("slow.p99_ratio", "x without", ratios...).Target("<= 1.25"))
	b.add(report.Of("slow.p99_ms", "ms", slow...).With("without", quiet...))
	return nil
}

// p99 returns the 99th percentile of the time to arrive, of a few broadcasts' the median, in ms.
func (b *bench) p99(ctx context.Context, s server, c *crowd) (float64, error) {
	var all []float64
	for range b.broadcasts {
		if err := wait(ctx, rest); err != nil {
			return 0, err
		}
		delays, err := c.broadcast(ctx, s)
		if err != nil {
			return 0, err
		}
		slices.Sort(delays)
		all = append(all, milliseconds(delays[len(delays)*99/100]))
	}
	slices.Sort(all)
	return report.Median(all), nil
}

// deaf connects the device after the others, which does not read.
func (b *bench) deaf(ctx context.Context, h *halley) (*crowd, error) {
	opened := h.sink.Opened()
	c, err := b.connectWith(ctx, h, b.sessions, func(p *phones.Plan) { p.Who, p.Deaf = p.Who[b.sessions-1:], true })
	if err != nil {
		return nil, err
	}
	err = h.sink.Await(ctx, "the open of a device that does not read", func() bool { return h.sink.Opened() > opened })
	if err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

// stuff sends pushes at QoS 0, for which there is no window, until the device is gone or all are sent; it returns how many were.
func (b *bench) stuff(ctx context.Context, h *halley, n int) (int, error) {
	for i := range n {
		body, err := sink.NewBody(false, 0, fillSize)
		if err != nil {
			return i, err
		}
		if err := h.sink.Deliver(ctx, h.first+b.sessions-1, body); err != nil {
			return i, err
		}
	}
	return n, nil
}

// fillUp returns how many pushes a device that does not read gets before its connection is closed.
func (b *bench) fillUp(ctx context.Context, h *halley) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	deaf, err := b.deaf(ctx, h)
	if err != nil {
		return 0, err
	}
	defer deaf.stop()
	n, err := b.stuff(ctx, h, maxFill)
	if errors.Is(err, sink.ErrGone) {
		return n, nil
	}
	return n, errors.Join(fmt.Errorf("it took %d pushes", n), err)
}

// p99BesideDeaf returns the others' p99 while a device does not read whose buffers are full in the kernel, and half full in
// the gateway.
func (b *bench) p99BesideDeaf(ctx context.Context, h *halley, others *crowd, fill int) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	deaf, err := b.deaf(ctx, h)
	if err != nil {
		return 0, err
	}
	defer deaf.stop()
	if n, err := b.stuff(ctx, h, fill); err != nil {
		return 0, fmt.Errorf("push %d to a device that does not read: %w", n, err)
	}
	p99, err := b.p99(ctx, crowded{h}, others)
	if err != nil {
		return 0, err
	}
	var there int
	if err := deaf.member.Ask(ctx, "Established", struct{}{}, &there); err != nil {
		return 0, err
	}
	if there != 1 {
		return 0, errors.New("the device that does not read was sent away meanwhile")
	}
	return p99, nil
}

// crowded is a gateway that broadcasts to one device more, the one that does not read.
type crowded struct{ *halley }

func (c crowded) broadcast(ctx context.Context, n int) error { return c.halley.broadcast(ctx, n+1) }

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
