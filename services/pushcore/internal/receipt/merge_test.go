package receipt

import (
	"testing"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"

	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
)

func TestMergeORsChangesOfOneKind(t *testing.T) {
	t.Parallel()
	slice := ledger.SliceKey{App: 1, Push: uuid.UUID{15: 1}}
	other := ledger.SliceKey{App: 1, Push: uuid.UUID{15: 2}}
	arrived, failed := ledgerv1.Step_STEP_ARRIVED, ledgerv1.Step_STEP_FAILED
	changes := []ledger.SliceChange{
		{SliceKey: slice, Step: arrived, Bits: roaring.BitmapOf(1, 2)},
		{SliceKey: other, Step: arrived, Bits: roaring.BitmapOf(9)},
		{SliceKey: slice, Step: failed, Reason: ledgerv1.Reason_REASON_UNBOUND, Bits: roaring.BitmapOf(3)},
		{SliceKey: slice, Step: arrived, Bits: roaring.BitmapOf(2, 4)},
		{SliceKey: slice, Step: failed, Reason: ledgerv1.Reason_REASON_PERMISSION_OFF, Bits: roaring.BitmapOf(3)},
		{SliceKey: slice, Step: arrived, Among: ledger.NotFinal, Bits: roaring.BitmapOf(5)},
	}
	merged := merge(changes)
	if len(merged) != 5 || !merged[0].Bits.Equals(roaring.BitmapOf(1, 2, 4)) || merged[0].SliceKey != slice {
		t.Errorf("merged: %v", merged)
	}
	if !changes[0].Bits.Equals(roaring.BitmapOf(1, 2)) {
		t.Error("merge changed what it was given")
	}
}
