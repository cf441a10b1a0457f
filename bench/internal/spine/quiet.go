package spine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/halleypush/halley/bench/internal/report"
)

const (
	// quietRate is how many direct pushes a second are made while nothing else goes on.
	quietRate = 50
	// lookEvery is how often the ledger is asked for a push; what is measured is up to that much too long.
	lookEvery = 200 * time.Microsecond
)

// arrivals tells when the push that is being looked for came to its device.
type arrivals struct{ came chan time.Time }

// note is called by the swarm's loop. Only one push is under way while somebody waits.
func (a *arrivals) note(int, []byte) {
	if a.came == nil {
		return
	}
	select {
	case a.came <- time.Now():
	default:
	}
}

// quietly measures a direct push from its gRPC call to its PUBLISH at the device, and to its PUBACK applied in the ledger.
// The ledger is asked by SQL, again and again from the moment when the message came: that costs pushcore nothing.
func (b *bench) quietly(ctx context.Context) error {
	b.arrived.came = make(chan time.Time, 1)
	var published, applied []float64
	ticker := time.NewTicker(time.Second / quietRate)
	defer ticker.Stop()
	for n := range b.quiet {
		<-ticker.C
		begin := time.Now()
		answer, err := b.site.Client.Push(ctx, b.notification(devices(b.token())))
		if err != nil {
			return fmt.Errorf("quiet push: %w", err)
		}
		var came time.Time
		select {
		case came = <-b.arrived.came:
		case <-time.After(drainWithin):
			return fmt.Errorf("quiet push %d did not arrive", n)
		}
		id, err := uuid.Parse(answer.GetPushId())
		if err != nil {
			return err
		}
		if err := b.awaitApplied(ctx, id); err != nil {
			return err
		}
		if n >= 20 { // the first ones find cold caches
			published = append(published, milliseconds(came.Sub(begin)))
			applied = append(applied, milliseconds(time.Since(begin)))
		}
	}
	slices.Sort(published)
	slices.Sort(applied)
	b.say("quiet: call to PUBLISH p50 %.2f ms, p99 %.2f ms; to PUBACK applied p50 %.2f ms, p99 %.2f ms",
		report.Quantile(published, .5), report.Quantile(published, .99), report.Quantile(applied, .5), report.Quantile(applied, .99))
	b.figures = append(b.figures,
		report.Of("push.direct.p50_ms", "ms", report.Quantile(applied, .5)),
		report.Of("push.direct.p99_ms", "ms", report.Quantile(applied, .99)),
		report.Of("push.direct.published_p50_ms", "ms", report.Quantile(published, .5)),
		report.Of("push.direct.published_p99_ms", "ms", report.Quantile(published, .99)))
	return nil
}

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
			return err
		}
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
