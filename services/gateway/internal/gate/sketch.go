package gate

import "time"

// bucket is a leaky bucket: what it holds runs out at a rate.
type bucket struct {
	level float32
	at    moment // when the level was right
}

// moment is a time on the gateway's clock in 64ths of a second, for two years.
type moment uint32

func momentOf(now time.Duration) moment { return moment(now / (time.Second / 64)) }

// take adds one if the burst allows it. Otherwise it returns when there is room for one.
func (b *bucket) take(now time.Duration, rate, burst float64) time.Duration {
	b.leak(now, rate)
	if over := float64(b.level) + 1 - max(burst, 1); over > 0 {
		return time.Duration(over / rate * float64(time.Second))
	}
	b.level++
	return 0
}

// spend adds n if the burst allows it.
func (b *bucket) spend(now time.Duration, n int, rate, burst float64) bool {
	b.leak(now, rate)
	if float64(b.level)+float64(n) > burst {
		return false
	}
	b.level += float32(n)
	return true
}

func (b *bucket) leak(now time.Duration, rate float64) {
	if m := momentOf(now); m > b.at {
		b.level = max(0, b.level-float32(float64(m-b.at)/64*rate))
		b.at = m
	}
}

const (
	rows  = 2
	bits  = 15        // of the hash, for each row
	cells = 1 << bits // a row's; a sketch has 768 KiB
)

// cell counts what hashes to it.
type cell struct {
	count  int32
	bucket bucket
}

// sketch counts things by hash in a fixed size. Of a thing's cells the one that says least is nearest to the truth.
type sketch struct{ cells [rows][cells]cell }

func newSketch() *sketch { return &sketch{} }

func (s *sketch) at(row int, hash uint32) *cell { return &s.cells[row][hash>>(bits*row)%cells] }

func (s *sketch) add(hash uint32, n int32) {
	for row := range rows {
		s.at(row, hash).count += n
	}
}

func (s *sketch) count(hash uint32) int {
	return int(min(s.at(0, hash).count, s.at(1, hash).count))
}

// take adds one to the buckets if one of them has room, or returns when one has.
func (s *sketch) take(hash uint32, now time.Duration, rate, burst float64) time.Duration {
	wait := s.at(0, hash).bucket.take(now, rate, burst)
	return min(wait, s.at(1, hash).bucket.take(now, rate, burst))
}

// spend adds n to the buckets that have room, and reports whether one had.
func (s *sketch) spend(hash uint32, now time.Duration, n int, rate, burst float64) bool {
	first := s.at(0, hash).bucket.spend(now, n, rate, burst)
	return s.at(1, hash).bucket.spend(now, n, rate, burst) || first
}

// charge fills the buckets so that there is no room before a time has passed.
func (s *sketch) charge(hash uint32, now time.Duration, rate float64, ban time.Duration) {
	for row := range rows {
		b := &s.at(row, hash).bucket
		b.leak(now, rate)
		b.level = max(b.level, float32(rate*(60+ban.Seconds())))
	}
}
