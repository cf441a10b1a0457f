package ledger

import (
	"math/rand/v2"
	"slices"
	"testing"
	"testing/quick"

	"github.com/RoaringBitmap/roaring/v2"

	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

func TestStateIsThatOfTheStrongestStep(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		steps []ledgerv1.Step
		want  pushv1.Delivery_State
	}{
		{nil, pushv1.Delivery_PENDING},
		{[]ledgerv1.Step{0}, pushv1.Delivery_PENDING},
		{[]ledgerv1.Step{ledgerv1.Step_STEP_SENT}, pushv1.Delivery_SENT},
		{[]ledgerv1.Step{ledgerv1.Step_STEP_SENT_UNCONFIRMED}, pushv1.Delivery_SENT},
		{[]ledgerv1.Step{ledgerv1.Step_STEP_SENT, ledgerv1.Step_STEP_EXPIRED}, pushv1.Delivery_EXPIRED},
		{[]ledgerv1.Step{ledgerv1.Step_STEP_EXPIRED, ledgerv1.Step_STEP_COLLAPSED}, pushv1.Delivery_COLLAPSED},
		{[]ledgerv1.Step{ledgerv1.Step_STEP_COLLAPSED, ledgerv1.Step_STEP_EVICTED}, pushv1.Delivery_EVICTED},
		{[]ledgerv1.Step{ledgerv1.Step_STEP_EVICTED, ledgerv1.Step_STEP_FAILED}, pushv1.Delivery_FAILED},
		{[]ledgerv1.Step{ledgerv1.Step_STEP_FAILED, ledgerv1.Step_STEP_REVOKED}, pushv1.Delivery_REVOKED},
		{[]ledgerv1.Step{ledgerv1.Step_STEP_REVOKED, ledgerv1.Step_STEP_ARRIVED}, pushv1.Delivery_ARRIVED},
		{[]ledgerv1.Step{ledgerv1.Step_STEP_ARRIVED, ledgerv1.Step_STEP_SHOWN}, pushv1.Delivery_SHOWN},
		{[]ledgerv1.Step{ledgerv1.Step_STEP_SHOWN, ledgerv1.Step_STEP_DISMISSED}, pushv1.Delivery_DISMISSED},
		{[]ledgerv1.Step{ledgerv1.Step_STEP_DISMISSED, ledgerv1.Step_STEP_CLICKED}, pushv1.Delivery_CLICKED},
	} {
		if got := stateOf(c.steps); got != c.want {
			t.Errorf("%v: %s, want %s", c.steps, got, c.want)
		}
		slices.Reverse(c.steps)
		if got := stateOf(c.steps); got != c.want {
			t.Errorf("%v: %s, want %s", c.steps, got, c.want)
		}
	}
	for number := range ledgerv1.Step_name {
		step := ledgerv1.Step(number)
		claim := step == ledgerv1.Step_STEP_CLAIMED || step == ledgerv1.Step_STEP_RELEASED
		if step != 0 && makesState(step) == claim {
			t.Errorf("%s makes a state: %t", step, !claim)
		}
	}
}

// change is one random change of a slice of 16 devices, half of which are targeted.
func change(r *rand.Rand) SliceChange {
	bits := roaring.New()
	for range 1 + r.IntN(6) {
		bits.Add(uint32(r.IntN(16)))
	}
	step := precedence[r.IntN(len(precedence))].step
	c := SliceChange{Step: step, Bits: bits}
	if step == ledgerv1.Step_STEP_FAILED {
		c.Reason = ledgerv1.Reason(r.IntN(3) + 2)
	}
	return c
}

func targeted() *sliceState {
	return &sliceState{
		targeted: roaring.BitmapOf(0, 2, 4, 6, 8, 10, 12, 14),
		steps:    map[stepKey]*roaring.Bitmap{}, current: map[stepKey]*roaring.Bitmap{},
	}
}

// applyAll applies changes in random batches, at random minutes that only go forward.
func applyAll(r *rand.Rand, changes []SliceChange) *sliceState {
	s := targeted()
	minute := int32(0)
	for len(changes) > 0 {
		n := 1 + r.IntN(len(changes))
		minute += int32(r.IntN(2))
		if next, _, _ := s.apply(changes[:n], minute); next != nil {
			s = next
		}
		changes = changes[n:]
	}
	return s
}

func TestAnyOrderAndRepetitionOfReceiptsGivesTheSameSlice(t *testing.T) {
	t.Parallel()
	property := func(seed1, seed2 uint64) bool {
		r := rand.New(rand.NewPCG(seed1, seed2)) //nolint:gosec // a test's
		changes := make([]SliceChange, 1+r.IntN(20))
		for i := range changes {
			changes[i] = change(r)
		}
		first := applyAll(r, changes)
		again := append(slices.Clone(changes), changes[:r.IntN(len(changes))]...)
		r.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
		second := applyAll(r, again)

		counts := first.counts()
		if counts != second.counts() || counts.Targeted() != 8 || first.over() != second.over() {
			return false
		}
		var byDevice Counts
		for low := range uint32(16) {
			if !first.targeted.Contains(low) {
				continue
			}
			a, _ := first.of(low)
			b, _ := second.of(low)
			var steps []ledgerv1.Step // what a direct delivery with the same receipts would be
			for _, c := range changes {
				if c.Bits.Contains(low) {
					steps = append(steps, c.Step)
				}
			}
			if a != b || a != stateOf(steps) {
				return false
			}
			byDevice[a]++
		}
		return byDevice == counts
	}
	if err := quick.Check(property, &quick.Config{MaxCount: 2000}); err != nil {
		t.Error(err)
	}
}

func TestApplyingAgainChangesNothing(t *testing.T) {
	t.Parallel()
	property := func(seed1, seed2 uint64) bool {
		r := rand.New(rand.NewPCG(seed1, seed2)) //nolint:gosec // a test's
		c := change(r)
		s := targeted()
		next, dirty, _ := s.apply([]SliceChange{c}, 7)
		if next == nil { // none of it was targeted
			return s.targeted.AndCardinality(c.Bits) == 0
		}
		if len(dirty) != 1 || next.version != s.version+1 || len(s.steps) != 0 {
			return false
		}
		for _, bits := range dirty { // only what is targeted
			if !roaring.And(bits, s.targeted).Equals(bits) {
				return false
			}
		}
		again, _, _ := next.apply([]SliceChange{c, c}, 8)
		return again == nil
	}
	if err := quick.Check(property, nil); err != nil {
		t.Error(err)
	}
}

func TestChangesAmongSomeTouchOnlyThem(t *testing.T) {
	t.Parallel()
	s := targeted()
	s, _, _ = s.apply([]SliceChange{
		{Step: ledgerv1.Step_STEP_SENT, Bits: roaring.BitmapOf(0, 2, 4)},
		{Step: ledgerv1.Step_STEP_ARRIVED, Bits: roaring.BitmapOf(4, 6)},
	}, 1)
	for _, c := range []struct {
		among Among
		want  []uint32
	}{
		{All, []uint32{0, 2, 4, 6, 8, 10, 12, 14}}, {NotFinal, []uint32{0, 2, 8, 10, 12, 14}}, {Pending, []uint32{8, 10, 12, 14}},
	} {
		next, _, _ := s.apply([]SliceChange{{Step: ledgerv1.Step_STEP_EXPIRED, Among: c.among}}, 1)
		got := next.steps[stepKey{ledgerv1.Step_STEP_EXPIRED, 0}].ToArray()
		if !slices.Equal(got, c.want) {
			t.Errorf("among %d: %v, want %v", c.among, got, c.want)
		}
	}
}

func TestAMinuteRewritesOnlyItsOwnRow(t *testing.T) {
	t.Parallel()
	arrived := stepKey{step: ledgerv1.Step_STEP_ARRIVED}
	s := targeted()
	s, dirty, _ := s.apply([]SliceChange{{Step: arrived.step, Bits: roaring.BitmapOf(0)}}, 1)
	if !dirty[arrived].Equals(roaring.BitmapOf(0)) {
		t.Errorf("the first minute stores %v", dirty[arrived])
	}
	s, dirty, _ = s.apply([]SliceChange{{Step: arrived.step, Bits: roaring.BitmapOf(0, 2)}}, 1)
	if !dirty[arrived].Equals(roaring.BitmapOf(0, 2)) {
		t.Errorf("the same minute again stores %v", dirty[arrived])
	}
	s, dirty, _ = s.apply([]SliceChange{{Step: arrived.step, Bits: roaring.BitmapOf(2, 4)}}, 2)
	if !dirty[arrived].Equals(roaring.BitmapOf(4)) || !s.steps[arrived].Equals(roaring.BitmapOf(0, 2, 4)) {
		t.Errorf("the next minute stores %v of %v", dirty[arrived], s.steps[arrived])
	}
}
