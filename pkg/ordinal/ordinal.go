// Package ordinal says where a device's dense number inside its app puts it: its slice, storage bucket and receipt
// partition. Every process must agree on these numbers, and stored rows depend on them: they never change.
package ordinal

import "encoding/binary"

const (
	// SliceBits is the number of low bits of an ordinal inside a slice: a slice is 2^20 consecutive ordinals of an app.
	SliceBits = 20
	// SliceSize is the number of ordinals in a slice.
	SliceSize = 1 << SliceBits
	// Max is the largest ordinal a token can carry (40 bits).
	Max = 1<<40 - 1
	// Buckets is the number of storage buckets of per-device and per-user tables.
	Buckets = 1024
	// Partitions is the number of receipt partitions of audience pushes.
	Partitions = 64
)

// Slice returns the slice that an ordinal belongs to.
func Slice(ordinal uint64) uint32 { return uint32(ordinal >> SliceBits) }

// Low returns the ordinal's place inside its slice, 0 to SliceSize-1.
func Low(ordinal uint64) uint32 { return uint32(ordinal & (SliceSize - 1)) }

// Join returns the ordinal at place low of a slice.
func Join(slice, low uint32) uint64 { return uint64(slice)<<SliceBits | uint64(low) }

// Bucket returns the storage bucket of a slice's rows, 0 to Buckets-1. A slice is never split over buckets.
func Bucket(app, slice uint32) int16 { return int16(mix(app, slice) % Buckets) }

// DeviceBucket returns the storage bucket of one device's rows.
func DeviceBucket(app uint32, ordinal uint64) int16 { return Bucket(app, Slice(ordinal)) }

// Partition returns the receipt partition of a slice, 0 to Partitions-1.
func Partition(app, slice uint32) int { return int(mix(app, slice) / Buckets % Partitions) }

// UserBucket returns the storage bucket of a user's rows, 0 to Buckets-1.
func UserBucket(app uint32, user string) int16 {
	var prefix [4]byte
	binary.BigEndian.PutUint32(prefix[:], app)
	h := fnv(fnv(fnvBasis, prefix[:]), []byte(user))
	return int16(finish(h) % Buckets)
}

func mix(app, slice uint32) uint64 {
	var key [8]byte
	binary.BigEndian.PutUint32(key[:4], app)
	binary.BigEndian.PutUint32(key[4:], slice)
	return finish(fnv(fnvBasis, key[:]))
}

const fnvBasis = 14695981039346656037

// fnv is FNV-1a, 64 bits, written out because its result is stored: it must not follow a library.
func fnv(h uint64, data []byte) uint64 {
	for _, b := range data {
		h ^= uint64(b)
		h *= 1099511628211
	}
	return h
}

// finish spreads FNV's weak high bits (the finalizer of MurmurHash3).
func finish(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
