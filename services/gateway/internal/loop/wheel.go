package loop

import "time"

const (
	// wheelTick is how exact timers are, and wheelSlots how many ticks ahead they reach; what is due later is looked at again
	// after a turn.
	wheelTick  = 128 * time.Millisecond
	wheelSlots = 8192
)

// wheel is a timing wheel over the connections of one loop: each has one timer, its place is a link in the connection
// itself, and moving it costs the same for a thousand as for a million.
type wheel struct {
	heads []int32 // the first connection of each slot, or none
	now   uint32  // the tick that has been run last
}

// none is the index of no connection.
const none int32 = -1

// link is a connection's place in the wheel.
type link struct {
	next, prev int32
	slot       int32 // none: not in the wheel
	due        uint32
}

func newWheel() *wheel {
	w := &wheel{heads: make([]int32, wheelSlots)}
	for i := range w.heads {
		w.heads[i] = none
	}
	return w
}

func ticks(d time.Duration) uint32 {
	return uint32(min((d+wheelTick-1)/wheelTick, wheelSlots-1))
}

// set puts a connection's timer after d from now, wherever it was.
func (w *wheel) set(at func(int32) *link, i int32, d time.Duration) {
	w.unset(at, i)
	l := at(i)
	l.due = w.now + max(ticks(d), 1)
	l.slot = int32(l.due % wheelSlots)
	l.prev, l.next = none, w.heads[l.slot]
	if l.next != none {
		at(l.next).prev = i
	}
	w.heads[l.slot] = i
}

// sooner moves a connection's timer to d from now, if it is later.
func (w *wheel) sooner(at func(int32) *link, i int32, d time.Duration) {
	l := at(i)
	if l.slot == none || int32(l.due-(w.now+max(ticks(d), 1))) > 0 {
		w.set(at, i, d)
	}
}

// unset takes a connection out of the wheel.
func (w *wheel) unset(at func(int32) *link, i int32) {
	l := at(i)
	if l.slot == none {
		return
	}
	if l.prev != none {
		at(l.prev).next = l.next
	} else {
		w.heads[l.slot] = l.next
	}
	if l.next != none {
		at(l.next).prev = l.prev
	}
	l.slot = none
}

// advance runs the ticks up to one, and calls due for each connection whose timer is over, after it was taken out. due may
// set and unset timers: those that it sets come later.
func (w *wheel) advance(at func(int32) *link, to uint32, due func(int32)) {
	for w.now != to {
		w.now++
		for slot := w.now % wheelSlots; w.heads[slot] != none; {
			i := w.heads[slot]
			w.unset(at, i)
			due(i)
		}
	}
}
