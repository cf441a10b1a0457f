package frame

import (
	"crypto/sha256"
	"encoding/hex"
	"hash/maphash"
	"sync"
	"time"
)

// maxKeys bounds what a Daily counts; further keys are not counted and never reach their limit.
const maxKeys = 1_000_000

// Daily counts things by key until midnight in Beijing, such as the messages of a device.
type Daily struct {
	now  func() time.Time
	seed maphash.Seed

	mu     sync.Mutex
	day    string
	counts map[uint64]int // by hash: keys hold tokens, which are long
}

// NewDaily returns a counter.
func NewDaily(now func() time.Time) *Daily {
	return &Daily{now: now, seed: maphash.MakeSeed(), counts: make(map[uint64]int)}
}

// Take counts one more, and returns false if that would be over the limit of the day.
func (d *Daily) Take(key string, limit int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if day := d.now().In(beijing).Format(time.DateOnly); d.day != day {
		d.day = day
		clear(d.counts)
	}
	hash := maphash.String(d.seed, key)
	n, known := d.counts[hash]
	if !known && len(d.counts) >= maxKeys {
		return true
	}
	if n >= limit {
		return false
	}
	d.counts[hash] = n + 1
	return true
}

// MarkLength is the length of a mark.
const MarkLength = 8

// Mark returns 8 hex digits that stand for an app in the tokens that a simulator makes, so that it knows them again.
func Mark(app string) string {
	sum := sha256.Sum256([]byte(app))
	return hex.EncodeToString(sum[:MarkLength/2])
}
