package report

import (
	"context"
	"strings"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/jackc/pgx/v5"

	"github.com/halleypush/halley/pkg/ordinal"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
	"github.com/halleypush/halley/services/pushcore/internal/dispatch"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/message"
	"github.com/halleypush/halley/services/pushcore/internal/route"
	"github.com/halleypush/halley/services/pushcore/internal/storage"
	"github.com/halleypush/halley/services/pushcore/internal/vendor"
)

const (
	// handOverWithin is when the sweeper looks after what vendors did not take, if the hand-over right after is lost.
	handOverWithin = 5 * time.Second
	// gatherFor is how long what vendors did not take of a slice is gathered before it is handed to the own connections.
	gatherFor = time.Second
	maxCode   = 200
)

// steps are the outcomes that are steps of a delivery.
var steps = map[senderv1.Outcome]ledgerv1.Step{
	senderv1.Outcome_OUTCOME_ACCEPTED: ledgerv1.Step_STEP_SENT_UNCONFIRMED,
	senderv1.Outcome_OUTCOME_EXPIRED:  ledgerv1.Step_STEP_EXPIRED,
	senderv1.Outcome_OUTCOME_ARRIVED:  ledgerv1.Step_STEP_ARRIVED,
	senderv1.Outcome_OUTCOME_SHOWN:    ledgerv1.Step_STEP_SHOWN,
	senderv1.Outcome_OUTCOME_CLICKED:  ledgerv1.Step_STEP_CLICKED,
}

// reasons are the outcomes with which a vendor did not take a delivery, or dropped it later.
var reasons = map[senderv1.Outcome]ledgerv1.Reason{
	senderv1.Outcome_OUTCOME_TOKEN_GONE:     ledgerv1.Reason_REASON_TOKEN_GONE,
	senderv1.Outcome_OUTCOME_REJECTED:       ledgerv1.Reason_REASON_VENDOR_REJECTED,
	senderv1.Outcome_OUTCOME_DROPPED:        ledgerv1.Reason_REASON_VENDOR_REJECTED,
	senderv1.Outcome_OUTCOME_CREDENTIAL_BAD: ledgerv1.Reason_REASON_CREDENTIAL_BAD,
	senderv1.Outcome_OUTCOME_QUOTA_SPENT:    ledgerv1.Reason_REASON_QUOTA_SPENT,
	senderv1.Outcome_OUTCOME_GIVEN_UP:       ledgerv1.Reason_REASON_VENDOR_GIVEN_UP,
}

func (r *report) ref() vendor.Ref {
	return vendor.Ref{Bucket: r.Bucket(), Push: r.Push, Slice: r.Slice, Channel: r.number, Job: r.job}
}

// done returns what the report says of its job, and whether it says anything.
func (r *report) done() (vendor.Done, bool) {
	d := vendor.Done{Ref: r.ref(), Members: roaring.New(), Again: r.again}
	for _, res := range r.results {
		if !res.receipt {
			d.Members.Add(ordinal.Low(res.ordinal))
		}
	}
	return d, !d.Members.IsEmpty() || !d.Again.IsZero()
}

// changes are what a batch of reports means for direct deliveries.
type changes struct {
	final    []ledger.Entry
	released []message.Key
	// dropped are entries for what was accepted before.
	dropped []ledger.Entry
	tries   []ledger.Tried
	done    []vendor.Done
}

// applyDirect applies reports about direct deliveries: first what ends them, then what makes them the own connection's
// again. Each is a transaction that goes through the deliveries once, in the order that all follow.
func (r *Reports) applyDirect(ctx context.Context, w *work) error {
	var c changes
	for _, one := range w.reports {
		c.add(one, w.pushes[one.Push])
	}
	if len(c.final) > 0 {
		err := storage.InTx(ctx, r.Pool, func(tx pgx.Tx) error { return ledger.ApplyFinal(ctx, tx, c.final) })
		if err != nil {
			return err
		}
	}
	var released []ledger.Released
	err := storage.InTx(ctx, r.Pool, func(tx pgx.Tx) error {
		var err error
		if released, err = ledger.ReleaseDirect(ctx, tx, c.released, handOverWithin); err != nil {
			return err
		}
		if err := ledger.AppendLog(ctx, tx, c.dropped); err != nil {
			return err
		}
		if err := ledger.NoteTries(ctx, tx, c.tries); err != nil {
			return err
		}
		return vendor.TakeOut(ctx, tx, c.done)
	})
	if err != nil {
		return err
	}
	return r.handOver(ctx, w, released)
}

func (c *changes) add(one *report, push *message.Push) {
	for _, res := range one.results {
		k := message.Key{App: one.App, Ordinal: res.ordinal, Push: one.Push}
		if step, ok := steps[res.GetOutcome()]; ok {
			e := ledger.Entry{Key: k, Step: step}
			if step == ledgerv1.Step_STEP_EXPIRED {
				e.Reason, e.IfOpen = ledgerv1.Reason_REASON_TTL_OVER, true
			}
			c.final = append(c.final, e)
		}
		if reason, ok := reasons[res.GetOutcome()]; ok {
			failed := ledger.Entry{Key: k, Step: ledgerv1.Step_STEP_FAILED, Reason: reason, IfOpen: true}
			if push.Way() == pushv1.Policy_VENDOR_ONLY {
				c.final = append(c.final, failed)
			} else {
				c.released = append(c.released, k)
			}
			if res.receipt {
				c.dropped = append(c.dropped, failed)
			}
		}
		if !res.receipt && res.GetOutcome() <= senderv1.Outcome_OUTCOME_GIVEN_UP && res.GetOutcome() > 0 {
			c.tries = append(c.tries, ledger.Tried{
				Claim: ledger.Claim{Key: k, Channel: one.number}, Outcome: int16(res.GetOutcome()), Code: shorten(res.GetCode()),
			})
		}
	}
	if d, ok := one.done(); ok {
		c.done = append(c.done, d)
	}
}

// shorten returns as much of a vendor's code as is kept.
func shorten(code string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(code[:min(len(code), maxCode)], "\x00", ""), "")
}

// handOver hands to the own connections what vendors did not take.
func (r *Reports) handOver(ctx context.Context, w *work, released []ledger.Released) error {
	var deliveries []dispatch.Delivery
	for _, one := range released {
		d := dispatch.Delivery{
			Device: route.Device{App: one.App, Ordinal: one.Ordinal}, Push: w.pushes[one.Push], User: one.User, Epoch: one.Epoch,
			Released: true,
		}
		if one.User != "" {
			app, err := r.Apps.ByNumber(ctx, one.App)
			if err != nil {
				return err
			}
			d.Opaque = r.Users.OpaqueID(app, one.User)
		}
		deliveries = append(deliveries, d)
	}
	if len(deliveries) > 0 {
		r.Deliver.Deliver(ctx, deliveries)
	}
	return nil
}

// applyAudience applies reports about audience deliveries.
func (r *Reports) applyAudience(ctx context.Context, w *work) error {
	merged := map[change]*roaring.Bitmap{}
	done := map[ledger.SliceKey][]vendor.Done{}
	for _, one := range w.reports {
		one.merge(merged, w.pushes[one.Push])
		if d, ok := one.done(); ok {
			done[one.SliceKey] = append(done[one.SliceKey], d)
		}
	}
	var all []ledger.SliceChange
	for _, one := range w.reports { // also those that change nothing: their members leave their jobs
		all = append(all, ledger.SliceChange{SliceKey: one.SliceKey, Step: ledgerv1.Step_STEP_CLAIMED, Bits: roaring.New()})
	}
	for c, bits := range merged {
		all = append(all, ledger.SliceChange{SliceKey: c.SliceKey, Step: c.step, Reason: c.reason, Among: c.among, Bits: bits})
	}
	ended, err := r.Ledger.ApplySlicesWith(ctx, all,
		func(ctx context.Context, tx pgx.Tx, keys []ledger.SliceKey, fresh []ledger.SliceChange) error {
			var out []vendor.Done
			for _, k := range keys {
				out = append(out, done[k]...)
			}
			if err := vendor.TakeOut(ctx, tx, out); err != nil {
				return err
			}
			return offer(ctx, tx, fresh)
		})
	if len(ended) > 0 {
		r.Ended(ctx, ended)
	}
	return err
}

// change is one kind of change of a slice.
type change struct {
	ledger.SliceKey
	step   ledgerv1.Step
	reason ledgerv1.Reason
	among  ledger.Among
}

// merge adds what a report means for its slice.
func (r *report) merge(into map[change]*roaring.Bitmap, push *message.Push) {
	add := func(step ledgerv1.Step, reason ledgerv1.Reason, among ledger.Among, low uint32) {
		c := change{r.SliceKey, step, reason, among}
		if into[c] == nil {
			into[c] = roaring.New()
		}
		into[c].Add(low)
	}
	for _, res := range r.results {
		low := ordinal.Low(res.ordinal)
		switch step := steps[res.GetOutcome()]; step {
		case ledgerv1.Step_STEP_UNSPECIFIED:
		case ledgerv1.Step_STEP_SENT_UNCONFIRMED:
			add(step, ledgerv1.Reason(r.number), ledger.All, low)
		case ledgerv1.Step_STEP_EXPIRED:
			add(step, ledgerv1.Reason_REASON_TTL_OVER, ledger.NotFinal, low)
		default:
			add(step, 0, ledger.All, low)
		}
		reason, ok := reasons[res.GetOutcome()]
		switch {
		case !ok:
		case push.Way() == pushv1.Policy_VENDOR_ONLY:
			add(ledgerv1.Step_STEP_FAILED, reason, ledger.NotFinal, low)
		default:
			add(ledgerv1.Step_STEP_RELEASED, reason, ledger.NotFinal, low)
		}
		if ok && res.receipt {
			add(ledgerv1.Step_STEP_FAILED, reason, ledger.Taken, low)
		}
	}
}

// offer has what vendors did not take handed to the own connections soon.
func offer(ctx context.Context, tx pgx.Tx, fresh []ledger.SliceChange) error {
	b := &pgx.Batch{}
	for _, c := range fresh {
		if c.Step == ledgerv1.Step_STEP_RELEASED {
			b.Queue(`
				UPDATE push_slice SET offer_at = CASE WHEN offer_at IS NULL THEN now() + $4::interval
					WHEN offer_at <= now() THEN now() ELSE offer_at END
				WHERE bucket = $1 AND push_id = $2 AND slice = $3`, c.Bucket(), c.Push, int32(c.Slice), gatherFor)
		}
	}
	if b.Len() == 0 {
		return nil
	}
	return tx.SendBatch(ctx, b).Close()
}
