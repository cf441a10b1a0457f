package dispatch

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/halleypush/halley/services/pushcore/internal/ledger"
)

func key(app, slice uint32) ledger.SliceKey {
	return ledger.SliceKey{App: app, Push: uuid.UUID{15: 1}, Slice: slice}
}

func queued(t *testing.T, keys ...ledger.SliceKey) *Slices {
	t.Helper()
	s := NewSlices(nil, nil, nil, nil, nil, nil, nil, nil, nil)
	for _, k := range keys {
		if err := s.Add(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestRule10AppsTakeTurns(t *testing.T) {
	t.Parallel()
	var keys []ledger.SliceKey
	for slice := range uint32(5) {
		keys = append(keys, key(1, slice))
	}
	s := queued(t, append(keys, key(2, 0), key(3, 0), key(2, 1))...)
	var order []uint32
	for {
		k, ok := s.next()
		if !ok {
			break
		}
		order = append(order, k.App)
	}
	if want := []uint32{1, 2, 3, 1, 2, 1, 1, 1}; !slices.Equal(order, want) {
		t.Errorf("the apps come as %v, want %v", order, want)
	}
}

func TestSliceThatIsHeldIsNotQueuedAgain(t *testing.T) {
	t.Parallel()
	s := queued(t, key(1, 0), key(1, 0))
	k, _ := s.next()
	if err := s.Add(t.Context(), k); err != nil { // it is being worked on
		t.Fatal(err)
	}
	if again, ok := s.next(); ok {
		t.Errorf("%v is queued twice", again)
	}
	s.done(k)
	if err := s.Add(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.next(); !ok {
		t.Error("a slice that is done cannot be queued again")
	}
}

func TestRule9FullSliceQueueWaits(t *testing.T) {
	t.Parallel()
	s := queued(t)
	for slice := range uint32(maxQueued) {
		if err := s.Add(t.Context(), key(1, slice)); err != nil {
			t.Fatal(err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Add(ended, key(1, maxQueued)); !errors.Is(err, context.Canceled) {
		t.Errorf("one more than fits: %v", err)
	}
	k, _ := s.next()
	s.done(k)
	if err := s.Add(t.Context(), key(1, maxQueued)); err != nil {
		t.Errorf("there is room: %v", err)
	}
}
