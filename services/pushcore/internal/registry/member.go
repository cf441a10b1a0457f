package registry

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/jackc/pgx/v5"

	"github.com/halleypush/halley/pkg/ordinal"
)

// deviceKeys are the primary keys of per-device rows, as arrays for unnest.
type deviceKeys struct {
	buckets  []int16
	apps     []int32
	ordinals []int64
}

func (k *deviceKeys) add(app uint32, number uint64) {
	k.buckets = append(k.buckets, ordinal.DeviceBucket(app, number))
	k.apps = append(k.apps, int32(app))
	k.ordinals = append(k.ordinals, int64(number))
}

// sort puts the keys in the order in which every batch locks rows, so that two batches never wait for each other.
func (k *deviceKeys) sort() {
	index := make([]int, len(k.ordinals))
	for i := range index {
		index[i] = i
	}
	slices.SortFunc(index, func(a, b int) int {
		return cmp.Or(cmp.Compare(k.buckets[a], k.buckets[b]), cmp.Compare(k.apps[a], k.apps[b]),
			cmp.Compare(k.ordinals[a], k.ordinals[b]))
	})
	sorted := deviceKeys{}
	for _, i := range index {
		sorted.buckets = append(sorted.buckets, k.buckets[i])
		sorted.apps = append(sorted.apps, k.apps[i])
		sorted.ordinals = append(sorted.ordinals, k.ordinals[i])
	}
	*k = sorted
}

// members are ordinals by app and slice.
type members map[memberSlice]*roaring.Bitmap

type memberSlice struct{ app, slice uint32 }

func (m members) add(app uint32, number uint64) {
	key := memberSlice{app, ordinal.Slice(number)}
	if m[key] == nil {
		m[key] = roaring.New()
	}
	m[key].Add(ordinal.Low(number))
}

// changeMembers adds devices to, or removes them from, what "everyone" means.
func changeMembers(ctx context.Context, tx pgx.Tx, changes members, add bool) error {
	keys := make([]memberSlice, 0, len(changes))
	for k := range changes {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b memberSlice) int {
		return cmp.Or(cmp.Compare(ordinal.Bucket(a.app, a.slice), ordinal.Bucket(b.app, b.slice)),
			cmp.Compare(a.app, b.app), cmp.Compare(a.slice, b.slice))
	})
	for _, k := range keys {
		if err := changeSlice(ctx, tx, k, changes[k], add); err != nil {
			return fmt.Errorf("change the members of slice %d of app %d: %w", k.slice, k.app, err)
		}
	}
	return nil
}

func changeSlice(ctx context.Context, tx pgx.Tx, k memberSlice, change *roaring.Bitmap, add bool) error {
	empty, err := roaring.New().ToBytes()
	if err != nil {
		return err
	}
	bucket, app, slice := ordinal.Bucket(k.app, k.slice), int32(k.app), int32(k.slice)
	_, err = tx.Exec(ctx, `
		INSERT INTO slice_active (bucket, app_no, slice, members) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
		bucket, app, slice, empty)
	if err != nil {
		return err
	}
	var stored []byte
	err = tx.QueryRow(ctx, "SELECT members FROM slice_active WHERE bucket = $1 AND app_no = $2 AND slice = $3 FOR UPDATE",
		bucket, app, slice).Scan(&stored)
	if err != nil {
		return err
	}
	bits := roaring.New()
	if err := bits.UnmarshalBinary(stored); err != nil {
		return err
	}
	if add {
		bits.Or(change)
	} else {
		bits.AndNot(change)
	}
	bits.RunOptimize() // ordinals are dense: most slices are a few runs
	if stored, err = bits.ToBytes(); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "UPDATE slice_active SET members = $4 WHERE bucket = $1 AND app_no = $2 AND slice = $3",
		bucket, app, slice, stored)
	return err
}
