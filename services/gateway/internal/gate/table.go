package gate

import "time"

// table remembers values by hash, each for one to two generations after it was put last. It grows with what is in it and
// shrinks again, and it is bounded: a generation that is full ends early, so that of too many the oldest are forgotten.
type table[V any] struct {
	lasts      time.Duration // a generation
	most       int           // that one holds
	young, old map[uint32]V
	turned     time.Duration // when the young one began
}

// generation is the most that one generation of a gate's tables holds.
const generation = 1 << 20

func newTable[V any](lasts time.Duration, most int) table[V] {
	return table[V]{lasts: lasts, most: most, young: map[uint32]V{}}
}

// empty reports whether nothing is remembered, as it is of most tables most of the time.
func (t *table[V]) empty() bool { return len(t.young)+len(t.old) == 0 }

// get returns what is remembered, or the zero value.
func (t *table[V]) get(hash uint32, now time.Duration) V {
	if t.empty() {
		var none V
		return none
	}
	t.turn(now)
	if v, ok := t.young[hash]; ok {
		return v
	}
	return t.old[hash]
}

func (t *table[V]) put(hash uint32, now time.Duration, v V) {
	if t.turn(now); len(t.young) >= t.most {
		t.begin(now)
	}
	t.young[hash] = v
}

// turn ends generations whose time is over.
func (t *table[V]) turn(now time.Duration) {
	age := now - t.turned
	if age < t.lasts {
		return
	}
	t.begin(now)
	if age >= 2*t.lasts {
		t.old = nil
	}
}

// begin begins a generation. One in which nobody came is used again.
func (t *table[V]) begin(now time.Duration) {
	t.turned = now
	if t.old = t.young; len(t.old) > 0 {
		t.young = map[uint32]V{}
	}
}
