package loop

import (
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"

	"github.com/halleypush/halley/pkg/ordinal"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
)

type appSlice struct{ app, slice uint32 }

// index finds a loop's sessions by device, slice by slice.
type index map[appSlice]*present

// present is the sessions of a slice: which ordinals there are, and where. The map holds no pointers, so the garbage collector passes it by.
type present struct {
	members *roaring.Bitmap
	at      map[uint32]int32
}

func (x index) find(app uint32, number uint64) (int32, bool) {
	p := x[appSlice{app, ordinal.Slice(number)}]
	if p == nil {
		return none, false
	}
	i, ok := p.at[ordinal.Low(number)]
	return i, ok
}

func (x index) put(app uint32, number uint64, i int32) {
	key := appSlice{app, ordinal.Slice(number)}
	p := x[key]
	if p == nil {
		p = &present{members: roaring.New(), at: map[uint32]int32{}}
		x[key] = p
	}
	p.members.Add(ordinal.Low(number))
	p.at[ordinal.Low(number)] = i
}

func (x index) remove(app uint32, number uint64) {
	key := appSlice{app, ordinal.Slice(number)}
	p := x[key]
	if p == nil {
		return
	}
	p.members.Remove(ordinal.Low(number))
	delete(p.at, ordinal.Low(number))
	if len(p.at) == 0 {
		delete(x, key)
	}
}

const (
	// handedFor is how long a loop remembers what it handed over of a slice, after it was last touched.
	handedFor = 10 * time.Minute
	// maxHanded bounds the slices of pushes that a loop remembers; beyond it the one untouched for longest is forgotten,
	// which may cost a repeat that phones drop.
	maxHanded = 4096
)

type pushSlice struct {
	appSlice
	push uuid.UUID
}

// handed is what a loop knows of one slice of an audience push: to whom it was handed over, by whom that was confirmed, and
// for whom it went out at QoS 0.
type handed struct {
	sent, acked, unconfirmed *roaring.Bitmap
	touched                  time.Duration // on the loop's clock
}

func newHanded() *handed {
	return &handed{sent: roaring.New(), acked: roaring.New(), unconfirmed: roaring.New()}
}

// proof returns the receipt that ended the push for a device, if one did.
func (h *handed) proof(low uint32) ledgerv1.Step {
	switch {
	case h.acked.Contains(low):
		return ledgerv1.Step_STEP_ARRIVED
	case h.unconfirmed.Contains(low):
		return ledgerv1.Step_STEP_SENT_UNCONFIRMED
	}
	return ledgerv1.Step_STEP_UNSPECIFIED
}

// memory is what a loop has handed over of audience pushes.
type memory map[pushSlice]*handed

// of returns what is known of a slice of a push, and makes room to know more.
func (m memory) of(k pushSlice, now time.Duration) *handed {
	h := m[k]
	if h == nil {
		if len(m) >= maxHanded {
			m.forgetOldest(now)
		}
		h = newHanded()
		m[k] = h
	}
	h.touched = now
	return h
}

func (m memory) forgetOldest(now time.Duration) {
	var oldest pushSlice
	age := time.Duration(0)
	for k, h := range m {
		if now-h.touched >= age {
			oldest, age = k, now-h.touched
		}
	}
	delete(m, oldest)
}

// forget drops what has not been touched for long.
func (m memory) forget(now time.Duration) {
	for k, h := range m {
		if now-h.touched > handedFor {
			delete(m, k)
		}
	}
}
