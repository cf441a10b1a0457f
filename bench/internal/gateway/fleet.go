package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/halleypush/halley/bench/internal/phones"
	"github.com/halleypush/halley/bench/internal/report"
)

const (
	// smallBroadcasts is how many broadcasts to a few sessions are measured together, as one alone is short, and smallTimes how often for
	// each pair.
	smallBroadcasts = 5
	smallTimes      = 3
)

// fleet is several servers of one kind, with their clients.
type fleet struct {
	servers []server
	crowds  []*crowd
	// start starts the server with a number.
	start func(context.Context, int) (server, error)
	// send has a message sent to all clients of all servers.
	send func(context.Context) error
}

func (f *fleet) stop() {
	for _, c := range f.crowds {
		c.stop()
	}
	for _, s := range f.servers {
		s.stop()
	}
}

// each does something for all members at a time.
func (f *fleet) each(ctx context.Context, do func(context.Context, server, *crowd) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for i := range f.servers {
		group.Go(func() error { return do(ctx, f.servers[i], f.crowds[i]) })
	}
	return group.Wait()
}

func (f *fleet) sessions() int {
	n := 0
	for _, c := range f.crowds {
		n += c.n
	}
	return n
}

// newFleets returns a fleet of gateways and one of bare loops, with no members yet.
func (b *bench) newFleets(servers, sessions int) (gateways, loops *fleet) {
	gateways, loops = &fleet{}, &fleet{}
	gateways.start = func(ctx context.Context, i int) (server, error) { return b.newHalley(ctx, i*sessions) }
	gateways.send = func(ctx context.Context) error { return b.sink.Broadcast(ctx, 0, servers*sessions, servers) }
	loops.start = func(ctx context.Context, _ int) (server, error) { return b.startBare(ctx) }
	loops.send = func(ctx context.Context) error {
		return loops.each(ctx, func(ctx context.Context, s server, c *crowd) error { return s.broadcast(ctx, c.n) })
	}
	return gateways, loops
}

// muster starts the servers of both fleets by turns, connects their clients, and broadcasts once, unmeasured. By turns, because the kernel
// finds those sockets of a hash chain first that came last: a fleet that connected before the other would pay for that one's sockets, too.
func (b *bench) muster(ctx context.Context, servers, sessions int, fleets ...*fleet) error {
	for i := range servers {
		for _, f := range fleets {
			if err := b.enlist(ctx, f, i, sessions); err != nil {
				return err
			}
		}
	}
	for _, f := range fleets {
		if _, err := f.measure(ctx, 1); err != nil {
			return err
		}
	}
	return nil
}

// enlist starts the server with a number, and connects its clients.
func (b *bench) enlist(ctx context.Context, f *fleet, i, sessions int) error {
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	s, err := f.start(ctx, i)
	if err != nil {
		return err
	}
	f.servers = append(f.servers, s)
	c, err := b.connectWith(ctx, s, sessions, func(p *phones.Plan) { p.From = byte(1 + i) })
	if err != nil {
		return err
	}
	f.crowds = append(f.crowds, c)
	return s.opened(ctx, sessions)
}

// spread is what broadcasts of a fleet were like.
type spread struct {
	cost float64 // µs of the servers' processor time per message
	rate float64 // messages per second, from the first to the last; of several broadcasts the last one's
}

// measure broadcasts a few times. Clients acknowledge afterwards.
func (f *fleet) measure(ctx context.Context, broadcasts int) (r spread, err error) {
	ctx, cancel := context.WithTimeout(ctx, messageWithin)
	defer cancel()
	if err := f.each(ctx, func(ctx context.Context, _ server, c *crowd) error {
		return c.member.Ask(ctx, "Hold", struct{}{}, &struct{}{})
	}); err != nil {
		return r, err
	}
	if err := wait(ctx, rest); err != nil {
		return r, err
	}
	before, err := f.cpu()
	if err != nil {
		return r, err
	}
	for range broadcasts {
		if r.rate, err = f.broadcast(ctx); err != nil {
			return r, err
		}
	}
	if err := wait(ctx, rest); err != nil {
		return r, err
	}
	after, err := f.cpu()
	if err != nil {
		return r, err
	}
	r.cost = float64((after - before).Nanoseconds()) / 1000 / float64(f.sessions()*broadcasts)
	return r, f.release(ctx)
}

func (f *fleet) cpu() (time.Duration, error) {
	var total time.Duration
	var errs []error
	for _, s := range f.servers {
		cpu, err := s.cpu()
		total, errs = total+cpu, append(errs, err)
	}
	return total, errors.Join(errs...)
}

// broadcast broadcasts once and returns the rate from the first to the last message.
func (f *fleet) broadcast(ctx context.Context) (float64, error) {
	err := f.each(ctx, func(ctx context.Context, _ server, c *crowd) error { return c.expect(ctx, c.n) })
	if err != nil {
		return 0, err
	}
	if err := f.send(ctx); err != nil {
		return 0, err
	}
	arrivals := make([]phones.Arrivals, len(f.crowds))
	var first, last []int64
	for i, c := range f.crowds {
		if arrivals[i], err = c.arrived(ctx, c.n); err != nil {
			return 0, fmt.Errorf("clients %d: %w", i, err)
		}
		c.acked += c.n
		first, last = append(first, slices.Min(arrivals[i].At)), append(last, slices.Max(arrivals[i].At))
	}
	return float64(f.sessions()) / time.Duration(slices.Max(last)-slices.Min(first)).Seconds(), nil
}

// release has all clients acknowledge what they held back. A gateway's receipts are counted with those of all others, so the
// last one waits for all.
func (f *fleet) release(ctx context.Context) error {
	total := 0
	for _, c := range f.crowds {
		if err := c.member.Ask(ctx, "Release", struct{}{}, &struct{}{}); err != nil {
			return err
		}
		total += c.acked
	}
	return f.each(ctx, func(ctx context.Context, s server, c *crowd) error {
		if _, ok := s.(*halley); ok {
			return f.servers[0].acked(ctx, total)
		}
		return s.acked(ctx, c.acked)
	})
}

// fleetwise measures many gateways together beside as many bare loops, and how the cost of a message grows from few sessions
// to many. Both fleets are there all the time and broadcast by turns.
func (b *bench) fleetwise(ctx context.Context) error {
	few, err := b.costs(ctx, 1, b.small, smallTimes, smallBroadcasts)
	if err != nil {
		return fmt.Errorf("%d sessions: %w", b.small, err)
	}
	many, err := b.costs(ctx, b.fleet, b.sessions, 1, 1)
	if err != nil {
		return fmt.Errorf("%d x %d sessions: %w", b.fleet, b.sessions, err)
	}
	var growth, rates, ours, theirs, ourGrowth, theirGrowth []float64
	for i := range b.pairs {
		gateway, bare := many[i].gateway.cost/few[i].gateway.cost, many[i].bare.cost/few[i].bare.cost
		growth, ourGrowth, theirGrowth = append(growth, gateway/bare), append(ourGrowth, gateway), append(theirGrowth, bare)
		rates = append(rates, many[i].gateway.rate/many[i].bare.rate)
		ours, theirs = append(ours, many[i].gateway.rate), append(theirs, many[i].bare.rate)
	}
	b.add(report.Of("fleet.rate_ratio", "x bare", rates...).Target(">= 0.8"))
	b.add(report.Of("fleet.per_s", "1/s", ours...).With("bare", theirs...))
	b.add(report.Of("fleet.cost_growth", "x bare's", growth...).Target("<= 1.2"))
	b.add(report.Of("fleet.growth", "x", ourGrowth...).With("bare", theirGrowth...))
	return nil
}

// middle returns the measurement of the median cost.
func middle(all []spread) spread {
	slices.SortFunc(all, func(a, b spread) int { return cmp.Compare(a.cost, b.cost) })
	return all[len(all)/2]
}

// pair is a measurement of gateways and bare loops.
type pair struct{ gateway, bare spread }

// costs measures gateways and as many bare loops by turns, each so many times for a pair, of which the median counts.
func (b *bench) costs(ctx context.Context, servers, sessions, times, broadcasts int) ([]pair, error) {
	gateways, loops := b.newFleets(servers, sessions)
	defer gateways.stop()
	defer loops.stop()
	err := b.muster(ctx, servers, sessions, loops, gateways)
	if err != nil {
		return nil, err
	}
	pairs := make([]pair, b.pairs)
	for i := range pairs {
		var bare, gateway []spread
		for range times {
			r, err := loops.measure(ctx, broadcasts)
			if err != nil {
				return nil, fmt.Errorf("bare loops: %w", err)
			}
			bare = append(bare, r)
			if r, err = gateways.measure(ctx, broadcasts); err != nil {
				return nil, fmt.Errorf("gateways: %w", err)
			}
			gateway = append(gateway, r)
		}
		pairs[i] = pair{gateway: middle(gateway), bare: middle(bare)}
		b.say("%d x %d sessions: gateways %.2f µs a message, %.0f messages/s; bare %.2f µs, %.0f messages/s", servers, sessions,
			pairs[i].gateway.cost, pairs[i].gateway.rate, pairs[i].bare.cost, pairs[i].bare.rate)
	}
	return pairs, nil
}
