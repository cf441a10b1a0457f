package dispatch

import (
	"context"
	"slices"

	"github.com/google/uuid"

	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/message"
	"github.com/halleypush/halley/services/pushcore/internal/vendor"
)

// vendorsFirst has vendors' channels claim the deliveries of pushes that want that, and returns those that the own
// connection is for. Of pushes for vendors only, the others have failed.
func (d *Direct) vendorsFirst(ctx context.Context, deliveries []Delivery) ([]Delivery, error) {
	return d.claim(ctx, deliveries, pushv1.Policy_VENDOR_FIRST, pushv1.Policy_VENDOR_ONLY)
}

// vendorsThen has vendors' channels claim what the own connection did not reach at once, and returns the rest.
func (d *Direct) vendorsThen(ctx context.Context, away []Delivery) ([]Delivery, error) {
	return d.claim(ctx, away, pushv1.Policy_OWN_FIRST)
}

// claim has the deliveries claimed whose push goes one of the given ways, and returns all others and those without a
// vendor's channel.
func (d *Direct) claim(ctx context.Context, all []Delivery, ways ...pushv1.Policy_Channel) ([]Delivery, error) {
	var wanted []vendor.Wanted
	asked := map[message.Key]bool{}
	may := map[uuid.UUID]bool{}
	for _, delivery := range all {
		claimable, known := may[delivery.Push.ID]
		if !known {
			var err error
			if claimable, err = d.mayClaim(ctx, delivery.Push, ways); err != nil {
				return nil, err
			}
			may[delivery.Push.ID] = claimable
		}
		if claimable && !delivery.Released {
			wanted = append(wanted, vendor.Wanted{Key: delivery.key(), Push: delivery.Push})
			asked[delivery.key()] = true
		}
	}
	if len(wanted) == 0 {
		return all, nil
	}
	left, err := d.vendors.ClaimDirect(ctx, wanted)
	if err != nil {
		return nil, err
	}
	var own []Delivery
	var failed []ledger.Entry
	for _, delivery := range all {
		switch why := left[delivery.key()]; {
		case !asked[delivery.key()]:
			own = append(own, delivery)
		case why != 0 && delivery.Push.Way() == pushv1.Policy_VENDOR_ONLY:
			failed = append(failed, FailLeft(delivery.key(), why))
		case why != 0:
			own = append(own, delivery)
		}
	}
	d.metrics.delivered("vendor", len(all)-len(own)-len(failed))
	d.metrics.delivered("ended", len(failed))
	if len(failed) == 0 {
		return own, nil
	}
	return own, ledger.ApplyDirect(ctx, d.pool, failed)
}

// mayClaim reports whether a push goes one of the given ways and there is a vendor's channel for it. A push for vendors only
// is always asked for, because it ends if there is none.
func (d *Direct) mayClaim(ctx context.Context, push *message.Push, ways []pushv1.Policy_Channel) (bool, error) {
	if !slices.Contains(ways, push.Way()) {
		return false, nil
	}
	if push.Way() == pushv1.Policy_VENDOR_ONLY {
		return true, nil
	}
	channels, err := d.vendors.Ways(ctx, push.App, push.Request)
	return len(channels) > 0, err
}

// FailLeft returns the end of a delivery that only vendors' channels may have, and none takes.
func FailLeft(k message.Key, why vendor.Left) ledger.Entry {
	reason := ledgerv1.Reason_REASON_NO_CHANNEL
	if why == vendor.PermissionOff {
		reason = ledgerv1.Reason_REASON_PERMISSION_OFF
	}
	return ledger.Entry{Key: k, Step: ledgerv1.Step_STEP_FAILED, Reason: reason, IfOpen: true}
}
