package vendor

import (
	"context"
	"fmt"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/jackc/pgx/v5"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/ordinal"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/message"
)

// ClaimSlice claims deliveries of a slice for vendors' channels and has their jobs published: those with a token of a channel
// that the push may go by, once.
func (v *Vendors) ClaimSlice(ctx context.Context, k ledger.SliceKey, push *message.Push, among ledger.Among) error {
	ways, err := v.Ways(ctx, k.App, push.Request)
	if err != nil || len(ways) == 0 {
		return err
	}
	reached, err := v.reached(ctx, k, ways)
	if err != nil {
		return err
	}
	if push.Notification() {
		silent, err := v.Silent(ctx, k)
		if err != nil {
			return err
		}
		for _, bits := range reached {
			bits.AndNot(silent)
		}
	}
	var changes []ledger.SliceChange
	for i, bits := range reached {
		number, _ := channel.Number(ways[i])
		changes = append(changes, ledger.SliceChange{
			SliceKey: k, Step: ledgerv1.Step_STEP_CLAIMED, Reason: ledgerv1.Reason(number), Bits: bits, Among: among,
		})
	}
	var jobs []Ref
	_, err = v.ledger.ApplySlicesWith(ctx, changes,
		func(ctx context.Context, tx pgx.Tx, _ []ledger.SliceKey, fresh []ledger.SliceChange) error {
			var parts []newJob
			for _, c := range fresh {
				parts = append(parts, v.split(k, int16(c.Reason), true, push.Expires, c.Bits)...)
			}
			var err error
			jobs, err = insertJobs(ctx, tx, parts)
			return err
		})
	if err != nil {
		return fmt.Errorf("claim for vendors: %w", err)
	}
	v.publisher.AddAudience(jobs)
	return nil
}

// reached returns the devices of a slice by the first of the channels that each has a token of.
func (v *Vendors) reached(ctx context.Context, k ledger.SliceKey, ways []string) ([]*roaring.Bitmap, error) {
	bits := make([]*roaring.Bitmap, len(ways))
	index := make(map[string]*roaring.Bitmap, len(ways))
	for i, name := range ways {
		bits[i] = roaring.New()
		index[name] = bits[i]
	}
	rows, err := v.bulk.Query(ctx, `
		SELECT ordinal, channel FROM channel_token
		WHERE bucket = $1 AND app_no = $2 AND ordinal >= $3 AND ordinal < $4 AND channel = ANY($5) AND gone_at IS NULL`,
		k.Bucket(), int32(k.App), int64(ordinal.Join(k.Slice, 0)), int64(ordinal.Join(k.Slice+1, 0)), ways)
	if err != nil {
		return nil, fmt.Errorf("read the slice's channel tokens: %w", err)
	}
	var number int64
	var name string
	_, err = pgx.ForEachRow(rows, []any{&number, &name}, func() error {
		index[name].Add(ordinal.Low(uint64(number)))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the slice's channel tokens: %w", err)
	}
	taken := roaring.New()
	for _, b := range bits {
		b.AndNot(taken)
		taken.Or(b)
	}
	return bits, nil
}

// Silent returns the devices of a slice on which the system does not show the app's notifications.
func (v *Vendors) Silent(ctx context.Context, k ledger.SliceKey) (*roaring.Bitmap, error) {
	rows, err := v.bulk.Query(ctx, `
		SELECT ordinal FROM device
		WHERE bucket = $1 AND app_no = $2 AND ordinal >= $3 AND ordinal < $4 AND NOT notifications`,
		k.Bucket(), int32(k.App), int64(ordinal.Join(k.Slice, 0)), int64(ordinal.Join(k.Slice+1, 0)))
	if err != nil {
		return nil, fmt.Errorf("read the slice's silent devices: %w", err)
	}
	bits := roaring.New()
	var number int64
	_, err = pgx.ForEachRow(rows, []any{&number}, func() error {
		bits.Add(ordinal.Low(uint64(number)))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the slice's silent devices: %w", err)
	}
	return bits, nil
}

// FailLeft ends what of a slice no vendor has, of a push for vendors only.
func (v *Vendors) FailLeft(ctx context.Context, k ledger.SliceKey, push *message.Push) error {
	var changes []ledger.SliceChange
	if push.Notification() {
		silent, err := v.Silent(ctx, k)
		if err != nil {
			return err
		}
		changes = append(changes, ledger.SliceChange{
			SliceKey: k, Step: ledgerv1.Step_STEP_FAILED, Reason: ledgerv1.Reason_REASON_PERMISSION_OFF, Bits: silent, Among: ledger.Pending,
		})
	}
	changes = append(changes, ledger.SliceChange{
		SliceKey: k, Step: ledgerv1.Step_STEP_FAILED, Reason: ledgerv1.Reason_REASON_NO_CHANNEL, Among: ledger.Pending,
	})
	ended, err := v.ledger.ApplySlices(ctx, changes)
	if len(ended) > 0 {
		v.ended(ctx, ended)
	}
	return err
}
