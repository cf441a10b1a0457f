package ordinal_test

import (
	"testing"

	"github.com/halleypush/halley/pkg/ordinal"
)

// The numbers are in stored rows and in NATS subjects: a change here is a migration.
func TestPlacesNeverChange(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		app, slice uint32
		bucket     int16
		partition  int
	}{
		{1, 0, 68, 19},
		{1, 1, 542, 18},
		{2, 0, 48, 40},
		{4294967295, 1048575, 178, 5},
	} {
		if b, p := ordinal.Bucket(c.app, c.slice), ordinal.Partition(c.app, c.slice); b != c.bucket || p != c.partition {
			t.Errorf("app %d slice %d: bucket %d partition %d, want %d and %d", c.app, c.slice, b, p, c.bucket, c.partition)
		}
	}
	if b := ordinal.UserBucket(1, "alice"); b != 957 {
		t.Errorf("UserBucket(1, alice) = %d", b)
	}
}

func TestSliceAndLowJoinAgain(t *testing.T) {
	t.Parallel()
	for _, o := range []uint64{0, 1, ordinal.SliceSize - 1, ordinal.SliceSize, ordinal.Max} {
		if got := ordinal.Join(ordinal.Slice(o), ordinal.Low(o)); got != o {
			t.Errorf("Join(Slice(%d), Low(%d)) = %d", o, o, got)
		}
	}
}

func TestSlicesSpreadOverBucketsAndPartitions(t *testing.T) {
	t.Parallel()
	buckets, partitions := map[int16]int{}, map[int]int{}
	const slices = 64 * 1024
	for s := range uint32(slices) {
		buckets[ordinal.Bucket(7, s)]++
		partitions[ordinal.Partition(7, s)]++
	}
	if len(buckets) != ordinal.Buckets || len(partitions) != ordinal.Partitions {
		t.Fatalf("%d buckets and %d partitions used", len(buckets), len(partitions))
	}
	for b, n := range buckets {
		if n < 32 || n > 128 {
			t.Errorf("bucket %d has %d of %d slices, want about 64", b, n, slices)
		}
	}
}
