package gate

import "time"

// moment is a time on the gateway's clock in 64ths of a second, for two years.
type moment uint32

func momentOf(now time.Duration) moment { return moment(now / (time.Second / 64)) }

func (m moment) since() time.Duration { return time.Duration(m) * (time.Second / 64) }

// bucket is a leaky bucket: what it holds runs out at a rate.
type bucket struct {
	level float32
	at    moment // when the level was right
}

// wait returns when there is room for one more, 0 if there is.
func (b *bucket) wait(now time.Duration, rate, burst float64) time.Duration {
	b.leak(now, rate)
	return time.Duration(max(0, float64(b.level)+1-max(burst, 1)) / rate * float64(time.Second))
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

// queue lets in at a rate. To those for whom there is no room it names times: each one of its own.
type queue struct {
	bucket
	slot time.Duration // the last time that was named
}

// soonest is the shortest time to come back that is named.
const soonest = time.Second / 10

// turn names a time to come back: after a pause, and behind all who were named one before, as far apart as the rate has it.
// Nobody waits for longer than longest: a queue that reaches so far begins anew, and several share a time then.
func (q *queue) turn(now, pause time.Duration, rate float64, longest time.Duration) time.Duration {
	first := now + min(pause, longest/2)
	q.slot = max(q.slot, first) + time.Duration(float64(time.Second)/rate)
	if q.slot-now > longest {
		q.slot = first
	}
	return min(max(q.slot-now, soonest), longest)
}
