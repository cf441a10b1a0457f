package accept

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/halleypush/halley/pkg/ordinal"
	"github.com/halleypush/halley/services/pushcore/internal/fault"
	"github.com/halleypush/halley/services/pushcore/internal/message"
	"github.com/halleypush/halley/services/pushcore/internal/storage"
)

// firstWake is when the sweeper wakes workers for a slice whose first wake was lost.
const firstWake = 5 * time.Second

// acceptAudience commits a push to everyone with a row per slice of the app, and wakes workers for them.
func (a *Accepter) acceptAudience(ctx context.Context, j *job) error {
	var count int
	var fresh []*job
	err := storage.InTx(ctx, a.db.Bulk, func(tx pgx.Tx) error {
		j.result, j.err = j.id, nil
		var err error
		if fresh, err = claimKeys(ctx, tx, []*job{j}); err != nil || len(fresh) == 0 {
			return err
		}
		count, err = insertAudience(ctx, tx, j)
		return err
	})
	if err != nil {
		return err
	}
	if j.err == nil && len(fresh) > 0 {
		a.waker.Wake(ctx, j.app.No, j.id, count)
	}
	return j.err
}

// insertAudience writes the push, its place among the app's live ones, and its slices; it returns how many slices.
func insertAudience(ctx context.Context, tx pgx.Tx, j *job) (int, error) {
	app := int32(j.app.No)
	// The lock makes concurrent audience pushes of an app count each other; the count is a statement of its own, after it.
	var next int64
	var live int
	err := tx.QueryRow(ctx, "SELECT next FROM app_ordinal WHERE app_no = $1 FOR NO KEY UPDATE", app).Scan(&next)
	if err != nil {
		return 0, fmt.Errorf("count the app's slices: %w", err)
	}
	err = tx.QueryRow(ctx, "SELECT count(*) FROM audience_push WHERE app_no = $1 AND expires_at > now()", app).Scan(&live)
	if err != nil {
		return 0, fmt.Errorf("count the app's live pushes: %w", err)
	}
	if live >= MaxLiveAudience {
		return 0, fault.Exhausted("TOO_MANY_LIVE_PUSHES", 0,
			"an app may have %d live pushes to audiences; wait until one expires, or use a shorter ttl", MaxLiveAudience)
	}
	count := 1
	if next > 0 {
		count = int(ordinal.Slice(uint64(next-1))) + 1
	}
	encoded, err := message.Encode(j.request)
	if err != nil {
		return 0, fmt.Errorf("encode push: %w", err)
	}
	kept := message.KeptFor(j.request)
	key := j.request.GetPolicy().GetCollapseKey()
	b := &pgx.Batch{}
	b.Queue(`
		INSERT INTO push (push_id, app_no, request, notification, qos, collapse_key, created_at, expires_at, online_only,
			buckets, slices, trace, policy, claim_after)
		VALUES ($1, $2, $3, $4, $5, $6, now(), now() + $7::interval, $8, '{}', $9, $10, $11, $12)`,
		j.id, app, encoded, j.request.GetNotification() != nil, int16(message.QoS(j.request)), key, kept,
		message.OnlineOnly(j.request), count, j.trace, int16(message.Way(j.request)), j.claimAfter)
	b.Queue("INSERT INTO audience_push (push_id, app_no, collapse_key, expires_at) VALUES ($1, $2, $3, now() + $4::interval)",
		j.id, app, key, kept)
	queueSlices(b, j.app.No, j.id, count)
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return 0, fmt.Errorf("insert audience push: %w", err)
	}
	return count, nil
}

func queueSlices(b *pgx.Batch, app uint32, push uuid.UUID, count int) {
	buckets, numbers := make([]int16, count), make([]int32, count)
	for i := range count {
		buckets[i], numbers[i] = ordinal.Bucket(app, uint32(i)), int32(i)
	}
	b.Queue(`
		INSERT INTO push_slice (bucket, app_no, push_id, slice, state, next_try)
		SELECT bucket, $3, $4, slice, 1, now() + $5::interval
		FROM unnest($1::smallint[], $2::integer[]) AS i (bucket, slice)`, buckets, numbers, int32(app), push, firstWake)
}
