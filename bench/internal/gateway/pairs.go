package gateway

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/halleypush/halley/bench/internal/report"
)

// round is what one start of a server measured.
type round struct {
	rate             float64 // connects per second
	connect          float64 // µs of processor time each
	broadcast, acked float64 // µs of processor time per message
}

// rounds are those of one server.
type rounds []round

func (r rounds) of(f func(round) float64) []float64 {
	all := make([]float64, len(r))
	for i, each := range r {
		all[i] = f(each)
	}
	return all
}

// over divides each round's value by that of the other's round with which it makes a pair.
func (r rounds) over(other rounds, f func(round) float64) []float64 {
	all := make([]float64, min(len(r), len(other)))
	for i := range all {
		all[i] = f(r[i]) / f(other[i])
	}
	return all
}

// measure starts a server, connects its clients, and broadcasts.
func (b *bench) measure(ctx context.Context, name string, start starter) (r round, err error) {
	starting, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	s, err := start(starting)
	if err != nil {
		return r, fmt.Errorf("%s: %w", name, err)
	}
	defer s.stop()
	c, err := b.arrive(ctx, s, &r)
	if err != nil {
		return r, fmt.Errorf("%s: %w", name, err)
	}
	defer c.stop()
	if _, err := c.broadcast(ctx, s); err != nil { // unmeasured: caches and buffers are warm then
		return r, fmt.Errorf("%s: %w", name, err)
	}
	if err := s.acked(ctx, c.acked); err != nil {
		return r, fmt.Errorf("%s: %w", name, err)
	}
	for _, kind := range []struct {
		acked bool
		into  *float64
	}{{false, &r.broadcast}, {true, &r.acked}} {
		var costs []float64
		for range b.broadcasts {
			cost, err := c.cost(ctx, s, kind.acked)
			if err != nil {
				return r, fmt.Errorf("%s: %w", name, err)
			}
			costs = append(costs, cost)
		}
		slices.Sort(costs)
		*kind.into = report.Median(costs)
	}
	b.say("%-10s %6.0f connects/s, %5.1f µs each; a message %5.2f µs, with its acknowledgement %5.2f µs", name, r.rate, r.connect,
		r.broadcast, r.acked)
	return r, nil
}

// arrive connects the clients, until their sessions are open.
func (b *bench) arrive(ctx context.Context, s server, r *round) (*crowd, error) {
	before, err := s.cpu()
	if err != nil {
		return nil, err
	}
	c, err := b.connect(ctx, s, b.sessions)
	if err != nil {
		return nil, err
	}
	connected := time.Now()
	opening, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	if err := s.opened(opening, b.sessions); err != nil {
		c.stop()
		return nil, err
	}
	took := c.took + time.Since(connected) // for sessions that opened later than their clients knew
	after, err := s.cpu()
	if err != nil {
		c.stop()
		return nil, err
	}
	r.rate = float64(b.sessions) / took.Seconds()
	r.connect = float64((after - before).Nanoseconds()) / 1000 / float64(b.sessions)
	return c, nil
}

// pairwise measures the bare loop and the gateway by turns, each started anew, and the peers between them.
func (b *bench) pairwise(ctx context.Context) error {
	starters := []struct {
		name  string
		start starter
		times int
		peer  bool
	}{
		{"bare", b.startBare, b.pairs, false},
		{"gateway", b.startHalley, b.pairs, false},
		{"mosquitto", b.startMosquitto, b.peers, true},
		{"mochi", b.startMochi, b.peers, true},
		{"centrifuge", b.startCentrifuge, b.peers, true},
	}
	all := map[string]rounds{}
	for i := range b.pairs {
		for _, s := range starters {
			if i >= s.times {
				continue
			}
			r, err := b.measure(ctx, s.name, s.start)
			if err != nil && s.peer && ctx.Err() == nil {
				b.say("left out: %v", err)
				continue
			}
			if err != nil {
				return err
			}
			all[s.name] = append(all[s.name], r)
		}
	}
	for _, f := range []struct {
		ratio, value, unit, must string
		of                       func(round) float64
		peers                    []string
	}{
		{"broadcast.cpu_ratio", "broadcast.cpu_us", "µs", "<= 1.15", func(r round) float64 { return r.broadcast }, []string{"mosquitto", "mochi", "centrifuge"}},
		{"acked.cpu_ratio", "acked.cpu_us", "µs", "<= 1.3", func(r round) float64 { return r.acked }, []string{"mosquitto", "mochi"}},
		{"connect.ratio", "connect.per_s", "1/s", ">= 0.75", func(r round) float64 { return r.rate }, []string{"mosquitto", "mochi", "centrifuge"}},
	} {
		ratio := report.Of(f.ratio, "x bare", all["gateway"].over(all["bare"], f.of)...).Target(f.must)
		value := report.Of(f.value, f.unit, all["gateway"].of(f.of)...).With("bare", all["bare"].of(f.of)...)
		for _, name := range f.peers {
			if len(all[name]) == 0 {
				continue // none of its starts went well
			}
			ratio = ratio.With(name, all[name].over(all["bare"], f.of)...)
			value = value.With(name, all[name].of(f.of)...)
		}
		b.add(ratio)
		b.add(value)
	}
	return nil
}
