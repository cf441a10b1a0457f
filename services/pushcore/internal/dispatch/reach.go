package dispatch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/jackc/pgx/v5"

	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/message"
)

// reach hands a slice to the own connections and to vendors' channels, in the order of the push's policy. It returns after
// which time those who have not confirmed it are due for a vendor; nil: never.
func (s *Slices) reach(
	ctx context.Context, k ledger.SliceKey, push *message.Push, targeted *roaring.Bitmap, slow func(),
) (*time.Duration, error) {
	switch push.Way() {
	case pushv1.Policy_VENDOR_FIRST, pushv1.Policy_VENDOR_ONLY:
		if err := s.vendors.ClaimSlice(ctx, k, push, ledger.Pending); err != nil {
			return nil, err
		}
		if push.Way() == pushv1.Policy_VENDOR_ONLY {
			return nil, s.vendors.FailLeft(ctx, k, push)
		}
		left, err := s.ledger.Unsent(ctx, s.pool, k)
		if err != nil || left.IsEmpty() {
			return nil, err
		}
		return nil, s.ask(ctx, k, push, left, slow)
	}
	claimAfter, err := s.vendors.ClaimAfter(ctx, k.App, push.Request)
	if err != nil {
		return nil, err
	}
	if err := s.ask(ctx, k, push, targeted, slow); err != nil {
		return nil, err
	}
	if claimAfter == nil {
		return nil, nil
	}
	return claimAfter, s.vendors.ClaimSlice(ctx, k, push, ledger.Pending)
}

// followUp does what is left to do for a slice that is handed over: who was handed the push and has not confirmed it in time
// is claimed for a vendor's channel, and what vendors did not take is handed to the own connections. Times that are set
// meanwhile stay for the next round.
func (s *Slices) followUp(ctx context.Context, k ledger.SliceKey, push *message.Push, slow func()) error {
	var claimAt, offerAt *time.Time // those that are due
	err := s.pool.QueryRow(ctx, `
		SELECT CASE WHEN claim_at <= now() THEN claim_at END, CASE WHEN offer_at <= now() THEN offer_at END
		FROM push_slice WHERE bucket = $1 AND push_id = $2 AND slice = $3 AND state = 3`,
		k.Bucket(), k.Push, int32(k.Slice)).Scan(&claimAt, &offerAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // it is over
	}
	if err != nil {
		return fmt.Errorf("read what a slice waits for: %w", err)
	}
	if claimAt != nil {
		if err := s.vendors.ClaimSlice(ctx, k, push, ledger.NotFinal); err != nil {
			return err
		}
	}
	if offerAt != nil {
		left, err := s.ledger.Unsent(ctx, s.pool, k)
		if err != nil {
			return err
		}
		if !left.IsEmpty() {
			if err := s.ask(ctx, k, push, left, slow); err != nil {
				return err
			}
		}
	}
	_, err = s.pool.Exec(ctx, `
		UPDATE push_slice SET next_try = now(), claim_at = CASE WHEN claim_at = $4 THEN NULL ELSE claim_at END,
			offer_at = CASE WHEN offer_at = $5 THEN NULL ELSE offer_at END
		WHERE bucket = $1 AND push_id = $2 AND slice = $3`, k.Bucket(), k.Push, int32(k.Slice), claimAt, offerAt)
	if err != nil {
		return fmt.Errorf("note what a slice waits for: %w", err)
	}
	return nil
}
