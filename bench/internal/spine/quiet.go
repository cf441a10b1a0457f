package spine

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/halleypush/halley/bench/internal/report"
)

const (
	// quietRate is how many direct pushes a second are made while nothing else goes on.
	quietRate = 50
	// quietWarm are the first of them, which find cold caches and are not counted.
	quietWarm = 20
	// lookEvery is how often the ledger is asked for a push; what is measured is up to that much too long.
	lookEvery = 200 * time.Microsecond
)

// arrivals tells when a device got its one quiet push.
type arrivals struct {
	devices atomic.Pointer[[]chan time.Time]
}

// note is called by the swarm's loop.
func (a *arrivals) note(device int, _ []byte) {
	devices := a.devices.Load()
	if devices == nil || device >= len(*devices) {
		return
	}
	select {
	case (*devices)[device] <- time.Now():
	default: // a repeat
	}
}

// quietly measures direct pushes from the moment when they are due to their PUBLISH at the device, and to their PUBACK applied
// in the ledger. A push that is slow does not hold up the next one, so that a stall counts for each push it hits. Each goes to a
// device of its own.
func (b *bench) quietly(ctx context.Context) error {
	devices := make([]chan time.Time, b.quiet)
	for i := range devices {
		devices[i] = make(chan time.Time, 1)
	}
	b.arrived.devices.Store(&devices)
	defer b.arrived.devices.Store(nil)
	published, applied := make([]float64, b.quiet), make([]float64, b.quiet)
	before, err := b.costs()
	if err != nil {
		return err
	}
	begin := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for n := range b.quiet {
		due := begin.Add(time.Duration(n) * time.Second / quietRate)
		if err := wait(ctx, time.Until(due)); err != nil {
			break // the group tells why
		}
		group.Go(func() (err error) {
			published[n], applied[n], err = b.quietPush(ctx, n, due, devices[n])
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("quiet push: %w", err)
	}
	after, err := b.costs()
	if err != nil {
		return err
	}
	published, applied = published[quietWarm:], applied[quietWarm:]
	slices.Sort(published)
	slices.Sort(applied)
	b.say("quiet: call to PUBLISH p50 %.2f ms, p99 %.2f ms; to PUBACK applied p50 %.2f ms, p99 %.2f ms, longest %.2f ms; %s",
		report.Quantile(published, .5), report.Quantile(published, .99), report.Quantile(applied, .5), report.Quantile(applied, .99),
		applied[len(applied)-1], after.since(before).others())
	b.figures = append(b.figures,
		report.Of("push.direct.p50_ms", "ms", report.Quantile(applied, .5)),
		report.Of("push.direct.p99_ms", "ms", report.Quantile(applied, .99)),
		report.Of("push.direct.published_p50_ms", "ms", report.Quantile(published, .5)),
		report.Of("push.direct.published_p99_ms", "ms", report.Quantile(published, .99)))
	return nil
}

// quietPush returns how long after it was due a push was published and applied, in ms.
func (b *bench) quietPush(ctx context.Context, device int, due time.Time, came <-chan time.Time) (published, applied float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, drainWithin)
	defer cancel()
	answer, err := b.site.Client.Push(ctx, b.notification(devices(b.who[device].ClientID)))
	if err != nil {
		return 0, 0, err
	}
	id, err := uuid.Parse(answer.GetPushId())
	if err != nil {
		return 0, 0, err
	}
	select {
	case at := <-came:
		published = milliseconds(at.Sub(due))
	case <-ctx.Done():
		return 0, 0, fmt.Errorf("number %d did not arrive: %w", device, ctx.Err())
	}
	err = b.awaitApplied(ctx, id)
	return published, milliseconds(time.Since(due)), err
}

// awaitApplied asks PostgreSQL, which costs pushcore nothing.
func (b *bench) awaitApplied(ctx context.Context, push uuid.UUID) error {
	for {
		var applied bool
		err := b.site.SQL.QueryRow(ctx, `
			SELECT EXISTS (SELECT FROM delivery_log WHERE bucket = ANY (SELECT unnest(buckets) FROM push WHERE push_id = $1)
				AND push_id = $1 AND step = 3)`, push).Scan(&applied)
		if err != nil || applied {
			return err
		}
		if err := wait(ctx, lookEvery); err != nil {
			return fmt.Errorf("not in the ledger: %w", err)
		}
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
