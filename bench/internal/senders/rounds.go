package senders

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/halleypush/halley/bench/internal/crew"
	"github.com/halleypush/halley/bench/internal/process"
	"github.com/halleypush/halley/bench/internal/report"
)

// rounds are those of one vendor.
type rounds struct {
	*bench
	vendor
	sender *process.Process
	admin  string // the sender's operators' port
	loop   *crew.Member
	tokens []string
}

// round is what one of them came to.
type round struct {
	rate float64 // devices a second
	cpu  float64 // of the process, in µs per device
	sims float64 // of the simulator, likewise
}

// learn has the sender reach one device, and teaches the loop to make requests of the same bytes.
func (r *rounds) learn(ctx context.Context, c credential) error {
	if err := r.bySender(ctx, r.tokens[:1]); err != nil {
		return err
	}
	sent, err := r.sims.accepted(ctx, r.channel)
	if err != nil {
		return err
	}
	plan := Plan{
		URL: r.address(r.sims.URLs[r.channel], c), CA: r.sims.CA, Headers: sent.Headers,
		Body:        strings.ReplaceAll(sent.Body, r.tokens[0], tokenHere),
		Concurrency: r.concurrency, Batch: r.batch, Tokens: r.tokens,
	}
	if plan.Headers["Authorization"], err = c.authorization(ctx, r.sims); err != nil {
		return fmt.Errorf("authorization: %w", err)
	}
	r.say("%s: a request has %d B beside its headers; it has %d devices, and %d requests are under way", r.channel, len(sent.Body), r.batch, r.concurrency)
	return r.loop.Ask(ctx, "Prepare", plan, &struct{}{})
}

// run measures by turns, so that what else the machine does hits both.
func (r *rounds) run(ctx context.Context) error {
	var senders, loops []round
	var ratios []float64
	for i := range r.pairs + 1 {
		s, err := r.round(ctx, r.sender.CPU, func(ctx context.Context) error { return r.bySender(ctx, r.tokens) })
		if err != nil {
			return fmt.Errorf("sender: %w", err)
		}
		l, err := r.round(ctx, r.loop.CPU, r.byLoop)
		if err != nil {
			return fmt.Errorf("bare loop: %w", err)
		}
		if i == 0 {
			continue // connections, caches and heaps grow
		}
		r.say("%s: %d devices; sender %.0f/s, %.1f µs of CPU each (simulator %.1f); bare loop %.0f/s, %.1f µs (simulator %.1f)",
			r.channel, len(r.tokens), s.rate, s.cpu, s.sims, l.rate, l.cpu, l.sims)
		senders, loops, ratios = append(senders, s), append(loops, l), append(ratios, s.rate/l.rate)
	}
	rate, cpu := func(x round) float64 { return x.rate }, func(x round) float64 { return x.cpu }
	if r.ratio != "" {
		r.figures = append(r.figures, report.Of(r.ratio, "× bare loop", ratios...).Target(">= 0.7"))
	}
	r.figures = append(r.figures,
		report.Of(r.rate, "devices/s", each(senders, rate)...).With("bare", each(loops, rate)...),
		report.Of(r.cpu, "µs/device", each(senders, cpu)...).With("bare", each(loops, cpu)...))
	return r.profile(ctx)
}

func each(all []round, value func(round) float64) (values []float64) {
	for _, r := range all {
		values = append(values, value(r))
	}
	return values
}

// round has all devices reached, and fails if the vendor has not accepted exactly one request for each.
func (r *rounds) round(ctx context.Context, cpu func() (time.Duration, error), reach func(context.Context) error) (round, error) {
	ctx, cancel := context.WithTimeout(ctx, roundWithin)
	defer cancel()
	if err := r.sims.forget(ctx, r.channel); err != nil {
		return round{}, err
	}
	ours, err := cpu()
	theirs, err2 := r.sims.CPU()
	begin := time.Now()
	if err := errors.Join(err, err2, reach(ctx)); err != nil {
		return round{}, err
	}
	took := time.Since(begin)
	oursAfter, err := cpu()
	theirsAfter, err2 := r.sims.CPU()
	if err := errors.Join(err, err2); err != nil {
		return round{}, err
	}
	devices, pairs, err := r.sims.counts(ctx, r.channel)
	n := len(r.tokens)
	if err != nil || devices != n || pairs != n {
		return round{}, errors.Join(err, fmt.Errorf("the vendor has accepted %d messages for %d devices, not %d", devices, pairs, n))
	}
	each := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 / float64(n) }
	return round{rate: float64(n) / took.Seconds(), cpu: each(oursAfter - ours), sims: each(theirsAfter - theirs)}, nil
}

// bySender issues jobs for devices as pushcore does, and returns when the sender has reported all of them as accepted.
func (r *rounds) bySender(ctx context.Context, tokens []string) error {
	return r.office.push(ctx, r.channel, r.perJob, tokens)
}

func (r *rounds) byLoop(ctx context.Context) error {
	return r.loop.Ask(ctx, "Run", struct{}{}, &struct{}{})
}
