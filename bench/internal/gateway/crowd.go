package gateway

import (
	"context"
	"time"

	"github.com/halleypush/halley/bench/internal/crew"
	"github.com/halleypush/halley/bench/internal/phones"
)

// crowd is the clients of a server, in a process of their own.
type crowd struct {
	member *crew.Member
	n      int
	took   time.Duration // to connect them all
	acked  int           // how many acknowledgements they have sent or will send
}

// connect connects n clients to a server.
func (b *bench) connect(ctx context.Context, s server, n int) (*crowd, error) {
	return b.connectWith(ctx, s, n, func(*phones.Plan) {})
}

// connectWith connects n clients that differ from the usual.
func (b *bench) connectWith(ctx context.Context, s server, n int, change func(*phones.Plan)) (_ *crowd, err error) {
	plan, err := s.clients(n)
	if err != nil {
		return nil, err
	}
	plan.Address = s.address()
	change(&plan)
	c := &crowd{n: n}
	if c.member, err = crew.Start(phones.Role); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	if err := c.member.Ask(ctx, "Connect", plan, &c.took); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

func (c *crowd) stop() { c.member.Stop() }

func (c *crowd) expect(ctx context.Context, n int) error {
	return c.member.Ask(ctx, "Expect", n, &struct{}{})
}

// arrived waits until n messages have come since expect was told.
func (c *crowd) arrived(ctx context.Context, n int) (a phones.Arrivals, err error) {
	err = c.member.Ask(ctx, "Await", n, &a)
	return a, err
}

// broadcast has a message sent to all of the crowd and waits until it has arrived. It returns when it arrived at each, from
// the moment when the server was asked.
func (c *crowd) broadcast(ctx context.Context, s server) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, messageWithin)
	defer cancel()
	if err := c.expect(ctx, c.n); err != nil {
		return nil, err
	}
	begin := time.Now().UnixNano()
	if err := s.broadcast(ctx, c.n); err != nil {
		return nil, err
	}
	a, err := c.arrived(ctx, c.n)
	c.acked += c.n
	delays := make([]time.Duration, len(a.At))
	for i, at := range a.At {
		delays[i] = time.Duration(at - begin)
	}
	return delays, err
}

// cost returns a server's processor time per message of a broadcast, in µs. If its end is acked, the clients acknowledge
// meanwhile, and the time counts until the server has taken that; else they do so later.
func (c *crowd) cost(ctx context.Context, s server, acked bool) (float64, error) {
	if !acked {
		if err := c.member.Ask(ctx, "Hold", struct{}{}, &struct{}{}); err != nil {
			return 0, err
		}
	}
	if err := wait(ctx, rest); err != nil {
		return 0, err
	}
	before, err := s.cpu()
	if err != nil {
		return 0, err
	}
	if _, err := c.broadcast(ctx, s); err != nil {
		return 0, err
	}
	if acked {
		if err := s.acked(ctx, c.acked); err != nil {
			return 0, err
		}
	}
	if err := wait(ctx, rest); err != nil {
		return 0, err
	}
	after, err := s.cpu()
	if err != nil {
		return 0, err
	}
	if !acked {
		err = c.release(ctx, s)
	}
	return float64((after - before).Nanoseconds()) / 1000 / float64(c.n), err
}

// release has the clients acknowledge what they held back, and waits until the server has taken it.
func (c *crowd) release(ctx context.Context, s server) error {
	if err := c.member.Ask(ctx, "Release", struct{}{}, &struct{}{}); err != nil {
		return err
	}
	return s.acked(ctx, c.acked)
}
