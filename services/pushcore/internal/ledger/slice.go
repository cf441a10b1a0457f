package ledger

import (
	"context"
	"fmt"
	"maps"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/halleypush/halley/pkg/ordinal"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// SliceKey names the deliveries of one audience push inside one slice.
type SliceKey struct {
	App   uint32
	Push  uuid.UUID
	Slice uint32
}

// Bucket returns the storage bucket of the slice's rows.
func (k SliceKey) Bucket() int16 { return ordinal.Bucket(k.App, k.Slice) }

// stepKey is what one bitmap of a slice is about. In place of a reason, STEP_CLAIMED and STEP_SENT_UNCONFIRMED have the
// number of the channel.
type stepKey struct {
	step   ledgerv1.Step
	reason ledgerv1.Reason
}

// sliceState is what the ledger knows of one slice of a push at one version. It is immutable once it is in the cache.
type sliceState struct {
	version  int64
	state    int16
	targeted *roaring.Bitmap
	// steps are the bitmaps over all minutes; bits only grow.
	steps map[stepKey]*roaring.Bitmap
	// minute is the one that current belongs to: the rows that the next change of that minute rewrites.
	minute  int32
	current map[stepKey]*roaring.Bitmap
}

// States of a slice, as stored in push_slice.state.
const (
	SliceAccepted   int16 = 1 // its targets are not resolved yet
	SliceTargeted   int16 = 2 // resolved and live; gateways are being asked
	SliceHandedOver int16 = 3 // every gateway has answered or lapsed
	SliceEnded      int16 = 4 // every delivery is final
)

// union returns the OR of the bitmaps of the steps that a condition picks. It is the caller's to change.
func (s *sliceState) union(pick func(ledgerv1.Step) bool) *roaring.Bitmap {
	var maps []*roaring.Bitmap
	for k, bits := range s.steps {
		if pick(k.step) {
			maps = append(maps, bits)
		}
	}
	return roaring.FastOr(maps...)
}

// final returns the deliveries that nothing is handed over for any more.
func (s *sliceState) final() *roaring.Bitmap { return s.union(Final) }

// claimed returns the deliveries that a vendor's sender has, or has failed.
func (s *sliceState) claimed() *roaring.Bitmap { return s.union(is(ledgerv1.Step_STEP_CLAIMED)) }

// withVendors returns the deliveries that vendors' senders have: the own connection leaves them alone.
func (s *sliceState) withVendors() *roaring.Bitmap {
	bits := s.claimed()
	bits.AndNot(s.union(is(ledgerv1.Step_STEP_RELEASED)))
	return bits
}

// closed returns the deliveries that the own connection has nothing to do for: they are final, or a vendor's.
func (s *sliceState) closed() *roaring.Bitmap {
	bits := s.final()
	bits.Or(s.withVendors())
	return bits
}

// pending returns the deliveries that nobody has been handed and no vendor has.
func (s *sliceState) pending() *roaring.Bitmap {
	bits := s.targeted.Clone()
	bits.AndNot(s.union(makesState))
	bits.AndNot(s.withVendors())
	return bits
}

func is(step ledgerv1.Step) func(ledgerv1.Step) bool {
	return func(other ledgerv1.Step) bool { return other == step }
}

// over reports whether every delivery is final.
func (s *sliceState) over() bool {
	return s.targeted.AndCardinality(s.final()) == s.targeted.GetCardinality()
}

// counts returns the deliveries by state.
func (s *sliceState) counts() Counts {
	var c Counts
	if s.targeted == nil {
		return c
	}
	left := s.targeted.Clone()
	for _, p := range precedence {
		bits := s.union(func(step ledgerv1.Step) bool { return step == p.step })
		c[p.state] += uint32(left.AndCardinality(bits))
		left.AndNot(bits)
	}
	c[pushv1.Delivery_PENDING] = uint32(left.GetCardinality())
	return c
}

// of returns the state and the reason of one delivery.
func (s *sliceState) of(low uint32) (pushv1.Delivery_State, ledgerv1.Reason) {
	for _, p := range precedence {
		for k, bits := range s.steps {
			if k.step != p.step || !bits.Contains(low) {
				continue
			}
			if k.step == ledgerv1.Step_STEP_SENT_UNCONFIRMED {
				return p.state, ledgerv1.Reason_REASON_UNSPECIFIED
			}
			return p.state, k.reason
		}
	}
	return pushv1.Delivery_PENDING, ledgerv1.Reason_REASON_UNSPECIFIED
}

// outcomes are the reasons with which vendors do not take a delivery, as attempts show them.
var outcomes = map[ledgerv1.Reason]pushv1.Delivery_Attempt_Outcome{
	ledgerv1.Reason_REASON_TOKEN_GONE:      pushv1.Delivery_Attempt_TOKEN_GONE,
	ledgerv1.Reason_REASON_VENDOR_REJECTED: pushv1.Delivery_Attempt_REJECTED,
	ledgerv1.Reason_REASON_CREDENTIAL_BAD:  pushv1.Delivery_Attempt_CREDENTIAL_BAD,
	ledgerv1.Reason_REASON_QUOTA_SPENT:     pushv1.Delivery_Attempt_QUOTA_SPENT,
	ledgerv1.Reason_REASON_VENDOR_GIVEN_UP: pushv1.Delivery_Attempt_GIVEN_UP,
	ledgerv1.Reason_REASON_TTL_OVER:        pushv1.Delivery_Attempt_EXPIRED,
}

// attempt returns the try at a vendor of one delivery, without its time; nil if there was none.
func (s *sliceState) attempt(low uint32) *Attempt {
	var a *Attempt
	var accepted bool
	var ended pushv1.Delivery_Attempt_Outcome
	for k, bits := range s.steps {
		if !bits.Contains(low) {
			continue
		}
		switch k.step {
		case ledgerv1.Step_STEP_CLAIMED:
			a = &Attempt{Channel: int16(k.reason)}
		case ledgerv1.Step_STEP_SENT_UNCONFIRMED:
			accepted = k.reason != 0
		case ledgerv1.Step_STEP_RELEASED, ledgerv1.Step_STEP_FAILED, ledgerv1.Step_STEP_EXPIRED:
			ended = outcomes[k.reason]
		}
	}
	if a == nil {
		return nil
	}
	if a.Outcome = ended; accepted {
		a.Outcome = pushv1.Delivery_Attempt_ACCEPTED
	}
	return a
}

// apply returns the state after a change, and the bitmaps of the current minute that changed; nil if nothing did. fresh are
// the changes with the bits that are new.
func (s *sliceState) apply(
	changes []SliceChange, minute int32,
) (_ *sliceState, _ map[stepKey]*roaring.Bitmap, fresh []SliceChange) {
	next := &sliceState{
		version: s.version + 1, state: s.state, targeted: s.targeted, minute: minute,
		steps: maps.Clone(s.steps), current: map[stepKey]*roaring.Bitmap{},
	}
	if s.minute == minute {
		next.current = maps.Clone(s.current)
	}
	dirty := map[stepKey]*roaring.Bitmap{}
	for _, c := range changes {
		k := stepKey{c.Step, c.Reason}
		bits := next.fresh(c, k)
		if bits.IsEmpty() {
			continue
		}
		next.steps[k] = or(next.steps[k], bits)
		next.current[k] = or(next.current[k], bits)
		dirty[k] = next.current[k]
		c.Bits = bits
		fresh = append(fresh, c)
	}
	if len(dirty) == 0 {
		return nil, nil, nil
	}
	return next, dirty, fresh
}

// fresh returns the bits of a change that are new: targeted, of the kind the change is about, and not set yet.
func (s *sliceState) fresh(c SliceChange, k stepKey) *roaring.Bitmap {
	if s.targeted == nil {
		return roaring.New()
	}
	bits := s.targeted.Clone()
	if c.Bits != nil {
		bits.And(c.Bits)
	}
	switch c.Among {
	case NotFinal:
		bits.AndNot(s.final())
	case Pending:
		bits.And(s.pending())
	case Taken:
		bits.And(s.union(is(ledgerv1.Step_STEP_SENT_UNCONFIRMED)))
		bits.And(s.withVendors())
	}
	switch c.Step {
	case ledgerv1.Step_STEP_CLAIMED: // once, whatever the channel
		bits.AndNot(s.claimed())
	case ledgerv1.Step_STEP_RELEASED: // once, whatever the reason
		bits.And(s.withVendors())
	}
	if old := s.steps[k]; old != nil {
		bits.AndNot(old)
	}
	return bits
}

// or never changes its arguments: they may be in the cache.
func or(a, b *roaring.Bitmap) *roaring.Bitmap {
	if a == nil {
		return b
	}
	return roaring.Or(a, b)
}

// loadStates reads slices as they are now.
func loadStates(ctx context.Context, q querier, keys []SliceKey) (map[SliceKey]*sliceState, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	c := sliceColumnsOf(keys)
	states := make(map[SliceKey]*sliceState, len(keys))
	rows, err := q.Query(ctx, `
		SELECT p.app_no, p.push_id, p.slice, p.version, p.state, p.targeted
		FROM unnest($1::smallint[], $2::uuid[], $3::integer[]) AS i (bucket, push_id, slice)
		JOIN push_slice p USING (bucket, push_id, slice)`, c.buckets, c.pushes, c.slices)
	if err != nil {
		return nil, fmt.Errorf("load slices: %w", err)
	}
	var app, slice int32
	var push uuid.UUID
	var version int64
	var state int16
	var targeted []byte
	_, err = pgx.ForEachRow(rows, []any{&app, &push, &slice, &version, &state, &targeted}, func() error {
		s := &sliceState{
			version: version, state: state,
			steps: map[stepKey]*roaring.Bitmap{}, current: map[stepKey]*roaring.Bitmap{},
		}
		if targeted != nil {
			if s.targeted, err = bitmap(targeted); err != nil {
				return err
			}
		}
		states[SliceKey{uint32(app), push, uint32(slice)}] = s
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load slices: %w", err)
	}
	return states, loadSteps(ctx, q, c, states)
}

func loadSteps(ctx context.Context, q querier, c sliceColumns, states map[SliceKey]*sliceState) error {
	byID := map[uuid.UUID]map[uint32]*sliceState{}
	for k, s := range states {
		if byID[k.Push] == nil {
			byID[k.Push] = map[uint32]*sliceState{}
		}
		byID[k.Push][k.Slice] = s
	}
	rows, err := q.Query(ctx, `
		SELECT s.push_id, s.slice, s.step, s.reason, s.minute, s.members
		FROM unnest($1::smallint[], $2::uuid[], $3::integer[]) AS i (bucket, push_id, slice)
		JOIN slice_step s USING (bucket, push_id, slice)`, c.buckets, c.pushes, c.slices)
	if err != nil {
		return fmt.Errorf("load steps: %w", err)
	}
	var push uuid.UUID
	var slice, minute int32
	var step, reason int16
	var members []byte
	_, err = pgx.ForEachRow(rows, []any{&push, &slice, &step, &reason, &minute, &members}, func() error {
		s := byID[push][uint32(slice)]
		if s == nil {
			return nil
		}
		bits, err := bitmap(members)
		if err != nil {
			return err
		}
		k := stepKey{ledgerv1.Step(step), ledgerv1.Reason(reason)}
		s.steps[k] = or(s.steps[k], bits)
		if minute > s.minute {
			s.minute, s.current = minute, map[stepKey]*roaring.Bitmap{}
		}
		if minute == s.minute {
			s.current[k] = bits
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("load steps: %w", err)
	}
	return nil
}

// bitmap decodes a stored bitmap. The result does not share the bytes.
func bitmap(stored []byte) (*roaring.Bitmap, error) {
	bits := roaring.New()
	if err := bits.UnmarshalBinary(stored); err != nil {
		return nil, fmt.Errorf("stored bitmap: %w", err)
	}
	return bits, nil
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// sliceColumns are slice keys as arrays for unnest.
type sliceColumns struct {
	buckets []int16
	pushes  []uuid.UUID
	slices  []int32
}

func sliceColumnsOf(keys []SliceKey) sliceColumns {
	var c sliceColumns
	for _, k := range keys {
		c.buckets = append(c.buckets, k.Bucket())
		c.pushes = append(c.pushes, k.Push)
		c.slices = append(c.slices, int32(k.Slice))
	}
	return c
}
