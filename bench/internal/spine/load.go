package spine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/halleypush/halley/bench/internal/report"
	"github.com/halleypush/halley/bench/internal/swarm"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

const (
	perBatch, perList = 100, 1000
	// maxOutstanding is how many deliveries may be accepted and not arrived before callers wait: a load that grows without
	// bound measures how a queue grows.
	maxOutstanding = 20_000
	// drainWithin bounds the time until what was accepted is in the ledger.
	drainWithin = 2 * time.Minute
)

// load is callers that push as fast as they get answers.
type load struct {
	name, unit string
	callers    int
	// call makes one call and returns how many deliveries it was answered to have accepted.
	call func(ctx context.Context) (int64, error)
}

// run measures one load in rounds. A round's rate counts from the first call to the moment when everything that was accepted
// is in the ledger as arrived: nothing is left in a queue.
func (b *bench) run(ctx context.Context, s *swarm.Swarm, l load) error {
	var rates []float64
	for round := range b.rounds {
		before, err := b.applied(ctx)
		if err != nil {
			return err
		}
		came := s.Count()
		costs, err := b.costs()
		if err != nil {
			return err
		}
		profiled := func() error { return nil }
		if b.Profiles != "" && round == b.rounds-1 {
			profiled = b.profile(ctx, l.name, b.sizes.load/time.Duration(b.rounds))
		}
		begin := time.Now()
		accepted, err := b.callAll(ctx, s, l, b.sizes.load/time.Duration(b.rounds))
		if err != nil {
			return err
		}
		called := time.Since(begin)
		if err := b.drain(ctx); err != nil {
			return err
		}
		took := time.Since(begin)
		if arrived, err := b.applied(ctx); err != nil || arrived != before+accepted {
			return errors.Join(err, fmt.Errorf("%d deliveries have arrived, not %d", arrived-before, accepted))
		}
		rates = append(rates, float64(accepted)/took.Seconds())
		after, err := b.costs()
		if err := errors.Join(err, profiled()); err != nil {
			return err
		}
		b.say("%s: %d deliveries accepted in %.1f s, applied after %.1f s: %.0f/s; %s", l.name, accepted, called.Seconds(), took.Seconds(),
			rates[len(rates)-1], after.since(costs).per(accepted))
		if repeats := s.Count() - came - accepted; repeats != 0 {
			b.say("%s: %d messages came more than once", l.name, repeats)
		}
	}
	b.figures = append(b.figures, report.Of(l.name, l.unit, rates...))
	return nil
}

func (b *bench) callAll(ctx context.Context, s *swarm.Swarm, l load, length time.Duration) (int64, error) {
	var accepted atomic.Int64
	came := s.Count()
	end := time.Now().Add(length)
	group, ctx := errgroup.WithContext(ctx)
	for range l.callers {
		group.Go(func() error {
			for time.Now().Before(end) && ctx.Err() == nil {
				if accepted.Load()-(s.Count()-came) > maxOutstanding {
					if err := wait(ctx, time.Millisecond); err != nil {
						return err
					}
					continue
				}
				n, err := l.call(ctx)
				if err != nil {
					return err
				}
				accepted.Add(n)
			}
			return ctx.Err()
		})
	}
	err := group.Wait()
	return accepted.Load(), err
}

// applied returns how many deliveries are in the ledger as arrived.
func (b *bench) applied(ctx context.Context) (n int64, err error) {
	err = b.site.SQL.QueryRow(ctx, "SELECT count(*) FROM delivery_log WHERE step = 3").Scan(&n) // STEP_ARRIVED
	return n, err
}

// drain waits until no direct delivery waits any more. It asks seldom, because asking costs PostgreSQL something.
func (b *bench) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, drainWithin)
	defer cancel()
	for {
		var left bool
		if err := b.site.SQL.QueryRow(ctx, "SELECT EXISTS (SELECT FROM inbox)").Scan(&left); err != nil || !left {
			return err
		}
		if err := wait(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("deliveries are not final: %w", err)
		}
	}
}

func (b *bench) token() string { return b.who[rand.IntN(b.devices)].ClientID }

// single is a Push call per delivery.
func (b *bench) single(ctx context.Context) (int64, error) {
	_, err := b.site.Client.Push(ctx, b.notification(devices(b.token())))
	return 1, err
}

// batch is a PushBatch of different pushes.
func (b *bench) batch(ctx context.Context) (int64, error) {
	request := &pushv1.PushBatchRequest{App: b.site.App}
	for range perBatch {
		request.Pushes = append(request.Pushes, b.notification(devices(b.token())))
	}
	response, err := b.site.Client.PushBatch(ctx, request)
	if err != nil {
		return 0, err
	}
	for _, r := range response.GetResults() {
		if r.GetError() != nil {
			return 0, errors.New(r.GetError().GetMessage())
		}
	}
	return perBatch, nil
}

// list is one push to a thousand devices.
func (b *bench) list(ctx context.Context) (int64, error) {
	n := min(perList, b.devices)
	first := rand.IntN(b.devices)
	tokens := make([]string, n)
	for i := range tokens {
		tokens[i] = b.who[(first+i)%b.devices].ClientID
	}
	_, err := b.site.Client.Push(ctx, b.notification(devices(tokens...)))
	return int64(n), err
}
