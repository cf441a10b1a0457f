package ledger

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/internal/storage"
)

// Among says which deliveries a change may touch.
type Among int

const (
	// All deliveries that are targeted.
	All Among = iota
	// NotFinal are those without a final step.
	NotFinal
	// Pending are those that nobody has been handed and no vendor has.
	Pending
	// Taken are those that a vendor has accepted.
	Taken
)

// SliceChange is a step that many deliveries of one slice took.
type SliceChange struct {
	SliceKey
	Step ledgerv1.Step
	// Reason is the number of the channel for STEP_CLAIMED and STEP_SENT_UNCONFIRMED.
	Reason ledgerv1.Reason
	// Bits are ordinals inside the slice; nil means every targeted one. They are masked with what is targeted.
	Bits  *roaring.Bitmap
	Among Among
}

const (
	// cachedSlices bounds the memory of cached bitmaps: at most some 128 KiB for each of about five steps.
	cachedSlices = 1_000
	// slicesPerTx bounds how long a transaction holds its locks.
	slicesPerTx = 64
)

// Ledger applies receipts of audience pushes and reads deliveries.
type Ledger struct {
	pool  *pgxpool.Pool
	cache *lru.Cache[SliceKey, *sliceState]
}

// New returns the ledger of a database.
func New(pool *pgxpool.Pool) (*Ledger, error) {
	cache, err := lru.New[SliceKey, *sliceState](cachedSlices)
	if err != nil {
		return nil, fmt.Errorf("slice cache: %w", err)
	}
	return &Ledger{pool: pool, cache: cache}, nil
}

// ApplySlices applies steps of audience deliveries. Bits that are not targeted, and slices that do not exist, are passed
// over. It returns the slices whose deliveries are all final now.
func (l *Ledger) ApplySlices(ctx context.Context, changes []SliceChange) (ended []SliceKey, err error) {
	return l.ApplySlicesWith(ctx, changes, func(context.Context, pgx.Tx, []SliceKey, []SliceChange) error { return nil })
}

// With does more in the transaction that applies changes to some slices. fresh are the changes with the bits that are new. It
// may be called again when the transaction is.
type With func(ctx context.Context, tx pgx.Tx, keys []SliceKey, fresh []SliceChange) error

// ApplySlicesWith is ApplySlices with more in its transactions.
func (l *Ledger) ApplySlicesWith(ctx context.Context, changes []SliceChange, with With) (ended []SliceKey, err error) {
	byKey := map[SliceKey][]SliceChange{}
	for _, c := range changes {
		byKey[c.SliceKey] = append(byKey[c.SliceKey], c)
	}
	keys := make([]SliceKey, 0, len(byKey))
	for k := range byKey {
		keys = append(keys, k)
	}
	sortSlices(keys)
	for chunk := range slices.Chunk(keys, slicesPerTx) {
		done, err := l.applyChunk(ctx, chunk, byKey, with)
		if err != nil {
			return ended, fmt.Errorf("apply audience receipts: %w", err)
		}
		ended = append(ended, done...)
	}
	return ended, nil
}

func sortSlices(keys []SliceKey) {
	slices.SortFunc(keys, func(a, b SliceKey) int {
		return cmp.Or(cmp.Compare(a.Bucket(), b.Bucket()), bytes.Compare(a.Push[:], b.Push[:]), cmp.Compare(a.Slice, b.Slice))
	})
}

func (l *Ledger) applyChunk(
	ctx context.Context, keys []SliceKey, changes map[SliceKey][]SliceChange, with With,
) ([]SliceKey, error) {
	var after map[SliceKey]*sliceState
	var ended []SliceKey
	err := storage.InTx(ctx, l.pool, func(tx pgx.Tx) error {
		after, ended = map[SliceKey]*sliceState{}, nil
		before, minute, err := l.lock(ctx, tx, keys)
		if err != nil {
			return err
		}
		b := &pgx.Batch{}
		var fresh []SliceChange
		for _, k := range keys {
			s := before[k]
			if s == nil {
				continue
			}
			next, dirty, bits := s.apply(changes[k], minute)
			fresh = append(fresh, bits...)
			if next == nil {
				after[k] = s
				continue
			}
			if err := queueSlice(b, k, next, dirty); err != nil {
				return err
			}
			after[k] = next
			if next.state == SliceEnded {
				ended = append(ended, k)
			}
		}
		if b.Len() > 0 {
			if err := tx.SendBatch(ctx, b).Close(); err != nil {
				return err
			}
		}
		return with(ctx, tx, keys, fresh)
	})
	if err != nil {
		return nil, err
	}
	for k, s := range after {
		l.cache.Add(k, s)
	}
	return ended, nil
}

// lock locks slices until the end of the transaction and returns their states, from the cache where its version is
// current, and the database's minute.
func (l *Ledger) lock(ctx context.Context, tx pgx.Tx, keys []SliceKey) (map[SliceKey]*sliceState, int32, error) {
	c := sliceColumnsOf(keys)
	rows, err := tx.Query(ctx, `
		SELECT i.n, p.version, p.state, floor(extract(epoch FROM now()) / 60)::integer
		FROM unnest($1::smallint[], $2::uuid[], $3::integer[]) WITH ORDINALITY AS i (bucket, push_id, slice, n)
		JOIN push_slice p USING (bucket, push_id, slice)
		WHERE p.targeted IS NOT NULL
		ORDER BY i.n FOR UPDATE OF p`, c.buckets, c.pushes, c.slices)
	if err != nil {
		return nil, 0, fmt.Errorf("lock slices: %w", err)
	}
	states := map[SliceKey]*sliceState{}
	var missing []SliceKey
	var n, version int64
	var state int16
	var minute int32
	_, err = pgx.ForEachRow(rows, []any{&n, &version, &state, &minute}, func() error {
		k := keys[n-1]
		if s, ok := l.cache.Get(k); ok && s.version == version && s.state == state {
			states[k] = s
		} else {
			missing = append(missing, k)
		}
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("lock slices: %w", err)
	}
	loaded, err := loadStates(ctx, tx, missing)
	if err != nil {
		return nil, 0, err
	}
	for k, s := range loaded {
		states[k] = s
	}
	return states, minute, nil
}

// queueSlice queues the statements that store a slice's next state.
func queueSlice(b *pgx.Batch, k SliceKey, next *sliceState, dirty map[stepKey]*roaring.Bitmap) error {
	for step, bits := range dirty {
		bits.RunOptimize()
		members, err := bits.ToBytes()
		if err != nil {
			return fmt.Errorf("encode bitmap: %w", err)
		}
		b.Queue(`
			INSERT INTO slice_step (bucket, push_id, slice, step, reason, minute, members) VALUES ($1, $2, $3, $4, $5, $6, $7)
			ON CONFLICT (bucket, push_id, slice, step, reason, minute) DO UPDATE SET members = excluded.members`,
			k.Bucket(), k.Push, int32(k.Slice), int16(step.step), int16(step.reason), next.minute, members)
	}
	counts := next.counts()
	if next.state == SliceHandedOver && next.over() {
		next.state = SliceEnded
	}
	b.Queue("UPDATE push_slice SET version = $4, state = $5, counts = $6 WHERE bucket = $1 AND push_id = $2 AND slice = $3",
		k.Bucket(), k.Push, int32(k.Slice), next.version, next.state, toInts(counts))
	return nil
}

// HandOver notes that every gateway has answered for a slice. It reports whether the slice has ended with that. Who has not
// confirmed the push is due for a vendor after claimAfter; nil: never.
func (l *Ledger) HandOver(ctx context.Context, k SliceKey, claimAfter *time.Duration) (ended bool, err error) {
	err = storage.InTx(ctx, l.pool, func(tx pgx.Tx) error {
		states, _, err := l.lock(ctx, tx, []SliceKey{k})
		if err != nil {
			return err
		}
		s := states[k]
		if s == nil || s.state != SliceTargeted {
			return nil
		}
		state := SliceHandedOver
		if ended = s.over(); ended {
			state = SliceEnded
		}
		_, err = tx.Exec(ctx, `
			UPDATE push_slice SET state = $4::smallint, next_try = now(), claim_at = CASE WHEN $4::smallint = 3 THEN now() + $5::interval END
			WHERE bucket = $1 AND push_id = $2 AND slice = $3`, k.Bucket(), k.Push, int32(k.Slice), state, claimAfter)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("note the hand-over of a slice: %w", err)
	}
	return ended, nil
}

// Claim keeps the sweeper from waking workers for slices that are not handed over yet, for a while from now on.
func (l *Ledger) Claim(ctx context.Context, pool *pgxpool.Pool, keys []SliceKey, d time.Duration) error {
	sortSlices(keys)
	c := sliceColumnsOf(keys)
	_, err := pool.Exec(ctx, `
		UPDATE push_slice p SET next_try = now() + $4::interval
		FROM unnest($1::smallint[], $2::uuid[], $3::integer[]) AS i (bucket, push_id, slice)
		WHERE p.bucket = i.bucket AND p.push_id = i.push_id AND p.slice = i.slice AND p.state < 3`,
		c.buckets, c.pushes, c.slices, d)
	if err != nil {
		return fmt.Errorf("claim slices: %w", err)
	}
	return nil
}

func toInts(c Counts) []int32 {
	out := make([]int32, len(c))
	for i, n := range c {
		out[i] = int32(n)
	}
	return out
}

func toCounts(stored []int32) Counts {
	var c Counts
	for i := range min(len(c), len(stored)) {
		c[i] = uint32(stored[i])
	}
	return c
}

// PendingCounts returns stored counts of n deliveries that are all pending.
func PendingCounts(n uint64) []int32 {
	var c Counts
	c[pushv1.Delivery_PENDING] = uint32(n)
	return toInts(c)
}

// Ended reports whether every one of the slices has ended.
func (l *Ledger) Ended(ctx context.Context, keys []SliceKey) (bool, error) {
	c := sliceColumnsOf(keys)
	var open int
	err := l.pool.QueryRow(ctx, `
		SELECT count(*) FROM unnest($1::smallint[], $2::uuid[], $3::integer[]) AS i (bucket, push_id, slice)
		JOIN push_slice p USING (bucket, push_id, slice) WHERE p.state <> 4`, c.buckets, c.pushes, c.slices).Scan(&open)
	if err != nil {
		return false, fmt.Errorf("count open slices: %w", err)
	}
	return open == 0, nil
}

// EndAll ends slices whatever their state: their push's ttl is over. A slice that was never resolved gets no targets.
func (l *Ledger) EndAll(ctx context.Context, keys []SliceKey) error {
	empty, err := roaring.New().ToBytes()
	if err != nil {
		return fmt.Errorf("encode no targets: %w", err)
	}
	sortSlices(keys)
	c := sliceColumnsOf(keys)
	_, err = l.pool.Exec(ctx, `
		UPDATE push_slice p SET state = 4, targeted = coalesce(p.targeted, $4)
		FROM unnest($1::smallint[], $2::uuid[], $3::integer[]) AS i (bucket, push_id, slice)
		WHERE p.bucket = i.bucket AND p.push_id = i.push_id AND p.slice = i.slice AND p.state <> 4`,
		c.buckets, c.pushes, c.slices, empty)
	if err != nil {
		return fmt.Errorf("end slices: %w", err)
	}
	return nil
}
