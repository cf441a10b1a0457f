package ledger

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/halleypush/halley/pkg/ordinal"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/internal/message"
)

// Delivery is what became of one push for one device, or for a user without a device.
type Delivery struct {
	// Device is false for a user without a device.
	Device  bool
	Ordinal uint64
	User    string
	State   pushv1.Delivery_State
	Reason  ledgerv1.Reason
	// Times are by step; those of audience pushes are whole minutes.
	Times map[ledgerv1.Step]time.Time
	// Attempts are the tries at vendors.
	Attempts []Attempt
}

// Attempt is a try to reach a device by a vendor's channel.
type Attempt struct {
	// Channel is its number.
	Channel int16
	At      time.Time
	Outcome pushv1.Delivery_Attempt_Outcome
	Code    string
}

// Progress is how far the deliveries of a push have come.
type Progress int

const (
	// Accepted: not every delivery has been looked at yet.
	Accepted Progress = iota
	// Active: some deliveries are not final.
	Active
	// Ended: every delivery is final.
	Ended
)

// Counts returns how many deliveries of a push are in which state, and how far they have come: those of tokens that no
// device of the app has are not among them. It reads one snapshot, so that a delivery counts once while it moves.
func (l *Ledger) Counts(ctx context.Context, p *message.Push) (counts Counts, progress Progress, err error) {
	if p.Slices > 0 {
		return l.sliceCounts(ctx, p)
	}
	snapshot := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	var open uint32
	err = pgx.BeginTxFunc(ctx, l.pool, snapshot, func(tx pgx.Tx) error {
		if counts, open, err = countDirect(ctx, tx, p); err != nil {
			return err
		}
		waiting, _, err := usersWithoutDevice(ctx, tx, p, 0, math.MaxInt32)
		for _, d := range waiting {
			counts[d.State]++
			if d.State == pushv1.Delivery_PENDING {
				open++
			}
		}
		return err
	})
	if err != nil {
		return counts, Accepted, fmt.Errorf("count deliveries: %w", err)
	}
	if open > 0 {
		return counts, Active, nil
	}
	return counts, Ended, nil
}

// countDirect counts what is in inbox, which is open, and what is only in the log. A delivery is in both if it failed with a
// binding that was made again since: then the new one counts.
func countDirect(ctx context.Context, tx pgx.Tx, p *message.Push) (counts Counts, open uint32, err error) {
	rows, err := tx.Query(ctx, `
		WITH kept AS (
			SELECT bucket, ordinal, CASE WHEN sent_at IS NULL THEN 0 ELSE 1 END::smallint AS step FROM inbox
			WHERE bucket = ANY(SELECT unnest(buckets) FROM push WHERE push_id = $1) AND push_id = $1
		), logged AS (
			SELECT array_agg(step) AS steps FROM delivery_log l
			WHERE bucket = ANY(SELECT unnest(buckets) FROM push WHERE push_id = $1) AND push_id = $1
				AND NOT EXISTS (SELECT FROM inbox i
					WHERE i.bucket = l.bucket AND i.app_no = l.app_no AND i.ordinal = l.ordinal AND i.push_id = l.push_id)
			GROUP BY bucket, ordinal
		)
		SELECT true, ARRAY[step], count(*) FROM kept GROUP BY 2
		UNION ALL SELECT false, steps, count(*) FROM logged GROUP BY 2`, p.ID)
	if err != nil {
		return counts, 0, err
	}
	var kept bool
	var steps []int16
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&kept, &steps, &n}, func() error {
		counts[stateOf(toSteps(steps))] += uint32(n)
		if kept {
			open += uint32(n)
		}
		return nil
	})
	return counts, open, err
}

func (l *Ledger) sliceCounts(ctx context.Context, p *message.Push) (counts Counts, progress Progress, err error) {
	c := sliceColumnsOf(sliceKeys(p))
	rows, err := l.pool.Query(ctx, `
		SELECT p.state, p.counts FROM unnest($1::smallint[], $2::uuid[], $3::integer[]) AS i (bucket, push_id, slice)
		JOIN push_slice p USING (bucket, push_id, slice)`, c.buckets, c.pushes, c.slices)
	if err != nil {
		return counts, Accepted, fmt.Errorf("count slices: %w", err)
	}
	lowest := SliceEnded
	var state int16
	var stored []int32
	_, err = pgx.ForEachRow(rows, []any{&state, &stored}, func() error {
		counts.add(toCounts(stored))
		lowest = min(lowest, state)
		return nil
	})
	if err != nil {
		return counts, Accepted, fmt.Errorf("count slices: %w", err)
	}
	switch lowest {
	case SliceEnded:
		return counts, Ended, nil
	case SliceHandedOver:
		return counts, Active, nil
	}
	return counts, Accepted, nil
}

func sliceKeys(p *message.Push) []SliceKey {
	keys := make([]SliceKey, p.Slices)
	for i := range keys {
		keys[i] = SliceKey{App: p.App, Push: p.ID, Slice: uint32(i)}
	}
	return keys
}

// usersWithoutDevice returns up to limit deliveries of a push to users that had no device, in the order of the request from
// its index from on, and the index where the next page begins: behind the last user after the last page.
func usersWithoutDevice(
	ctx context.Context, q querier, p *message.Push, from, limit int,
) (deliveries []Delivery, next int, err error) {
	users := p.Request.GetAudience().GetUsers().GetIds()
	if from >= len(users) {
		return nil, from, nil
	}
	buckets := make([]int16, len(users))
	for i, user := range users {
		buckets[i] = ordinal.UserBucket(p.App, user)
	}
	rows, err := q.Query(ctx, `
		SELECT i.n, u.user_id, u.expired_at
		FROM (SELECT min(n) AS n, bucket, user_id FROM unnest($1::smallint[], $2::text[]) WITH ORDINALITY AS i (bucket, user_id, n)
			GROUP BY bucket, user_id) i -- a user may be named twice
		JOIN user_inbox u USING (bucket, user_id)
		WHERE u.app_no = $3 AND u.push_id = $4 AND u.devices = 0 AND i.n > $5 ORDER BY i.n LIMIT $6`,
		buckets, users, int32(p.App), p.ID, from, limit)
	if err != nil {
		return nil, 0, fmt.Errorf("read users without a device: %w", err)
	}
	next = len(users)
	last := 0
	deliveries, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (Delivery, error) {
		d := Delivery{State: pushv1.Delivery_PENDING, Reason: ledgerv1.Reason_REASON_NO_DEVICE}
		var n int
		var expired *time.Time
		err := row.Scan(&n, &d.User, &expired)
		if expired != nil {
			d.State = pushv1.Delivery_EXPIRED
			d.Times = map[ledgerv1.Step]time.Time{ledgerv1.Step_STEP_EXPIRED: *expired}
		}
		last = n
		return d, err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read users without a device: %w", err)
	}
	if len(deliveries) == limit {
		next = last
	}
	return deliveries, next, nil
}

// Position is where a page of deliveries begins. A direct push lists its users without a device first, then its buckets.
type Position struct {
	// User is the index of the first user of the request that is not listed yet.
	User int
	// Bucket is the index into the push's buckets, or the slice.
	Bucket int
	// Ordinal is the first one that is not listed yet, in that bucket or of the whole app.
	Ordinal uint64
}

// Deliveries returns about limit deliveries of a push from a position on, and the next position; nil at the end. A page
// may be short before the end.
func (l *Ledger) Deliveries(
	ctx context.Context, p *message.Push, from Position, limit int,
) ([]Delivery, *Position, error) {
	if p.Slices > 0 {
		return l.sliceDeliveries(ctx, p, from, limit)
	}
	if from.User < len(p.Request.GetAudience().GetUsers().GetIds()) {
		waiting, next, err := usersWithoutDevice(ctx, l.pool, p, from.User, limit)
		return waiting, &Position{User: next}, err
	}
	if from.Bucket >= len(p.Buckets) {
		return nil, nil, nil
	}
	page, err := l.directDeliveries(ctx, p, p.Buckets[from.Bucket], from.Ordinal, ordinal.Max+1, limit)
	if err != nil {
		return nil, nil, err
	}
	next := &Position{User: from.User, Bucket: from.Bucket + 1}
	if len(page) == limit {
		next = &Position{User: from.User, Bucket: from.Bucket, Ordinal: page[limit-1].Ordinal + 1}
	}
	return page, next, nil
}

// Delivery returns the delivery of a push to one device, or nil if there is none.
func (l *Ledger) Delivery(ctx context.Context, p *message.Push, number uint64) (*Delivery, error) {
	var page []Delivery
	var err error
	if p.Slices > 0 {
		if int(ordinal.Slice(number)) >= p.Slices {
			return nil, nil
		}
		page, _, err = l.sliceDeliveries(ctx, p, Position{Bucket: int(ordinal.Slice(number)), Ordinal: number}, 1)
	} else {
		page, err = l.directDeliveries(ctx, p, ordinal.DeviceBucket(p.App, number), number, number+1, 1)
	}
	if err != nil || len(page) == 0 || page[0].Ordinal != number {
		return nil, err
	}
	return &page[0], nil
}

// directDeliveries returns up to limit deliveries of one bucket with ordinals in [from, to), in order.
func (l *Ledger) directDeliveries(
	ctx context.Context, p *message.Push, bucket int16, from, to uint64, limit int,
) ([]Delivery, error) {
	rows, err := l.pool.Query(ctx, `
		SELECT ordinal, user_id, sent_at, array[]::smallint[], array[]::smallint[], array[]::timestamptz[] FROM inbox
		WHERE bucket = $1 AND push_id = $2 AND app_no = $3 AND ordinal >= $4 AND ordinal < $5
		UNION ALL
		SELECT ordinal, min(user_id), min(sent_at), array_agg(step), array_agg(reason), array_agg(at) FROM delivery_log l
		WHERE bucket = $1 AND push_id = $2 AND app_no = $3 AND ordinal >= $4 AND ordinal < $5
			AND NOT EXISTS (SELECT FROM inbox i -- a delivery that was made again by a new binding is the one that counts
				WHERE i.bucket = l.bucket AND i.push_id = l.push_id AND i.app_no = l.app_no AND i.ordinal = l.ordinal)
		GROUP BY ordinal
		ORDER BY ordinal LIMIT $6`, bucket, p.ID, int32(p.App), int64(from), int64(to), limit)
	if err != nil {
		return nil, fmt.Errorf("list deliveries: %w", err)
	}
	page, err := pgx.CollectRows(rows, scanDelivery)
	if err != nil {
		return nil, fmt.Errorf("list deliveries: %w", err)
	}
	return page, l.fillAttempts(ctx, p, bucket, page)
}

// fillAttempts finds the tries at vendors of a page's deliveries, which are in the order of their ordinals.
func (l *Ledger) fillAttempts(ctx context.Context, p *message.Push, bucket int16, page []Delivery) error {
	numbers := make([]int64, len(page))
	for i, d := range page {
		numbers[i] = int64(d.Ordinal)
	}
	rows, err := l.pool.Query(ctx, `
		SELECT ordinal, channel, at, outcome, code FROM attempt
		WHERE bucket = $1 AND push_id = $2 AND app_no = $3 AND ordinal = ANY($4)`, bucket, p.ID, int32(p.App), numbers)
	if err != nil {
		return fmt.Errorf("read attempts: %w", err)
	}
	var number int64
	var a Attempt
	var outcome int16
	_, err = pgx.ForEachRow(rows, []any{&number, &a.Channel, &a.At, &outcome, &a.Code}, func() error {
		if i, found := slices.BinarySearch(numbers, number); found {
			a.Outcome = pushv1.Delivery_Attempt_Outcome(outcome)
			page[i].Attempts = append(page[i].Attempts, a)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read attempts: %w", err)
	}
	return nil
}

func scanDelivery(row pgx.CollectableRow) (Delivery, error) {
	var number int64
	var user *string
	var sent *time.Time
	var steps, reasons []int16
	var times []time.Time
	if err := row.Scan(&number, &user, &sent, &steps, &reasons, &times); err != nil {
		return Delivery{}, err
	}
	d := Delivery{Device: true, Ordinal: uint64(number), Times: map[ledgerv1.Step]time.Time{}}
	if user != nil {
		d.User = *user
	}
	if sent != nil {
		d.Times[ledgerv1.Step_STEP_SENT] = *sent
	}
	for i, step := range toSteps(steps) {
		d.Times[step] = times[i]
	}
	best := len(precedence)
	d.State = pushv1.Delivery_PENDING
	for i, step := range toSteps(steps) {
		if s := strength(step); s < best {
			best, d.Reason = s, ledgerv1.Reason(reasons[i])
		}
	}
	all := toSteps(steps)
	if sent != nil {
		all = append(all, ledgerv1.Step_STEP_SENT)
	}
	d.State = stateOf(all)
	return d, nil
}

// stateOf returns the state of a delivery that took these steps.
func stateOf(steps []ledgerv1.Step) pushv1.Delivery_State {
	best := len(precedence)
	for _, step := range steps {
		best = min(best, strength(step))
	}
	if best == len(precedence) {
		return pushv1.Delivery_PENDING
	}
	return precedence[best].state
}

func toSteps(stored []int16) []ledgerv1.Step {
	steps := make([]ledgerv1.Step, len(stored))
	for i, s := range stored {
		steps[i] = ledgerv1.Step(s)
	}
	return steps
}

// sliceDeliveries returns deliveries of one slice, from an ordinal on.
func (l *Ledger) sliceDeliveries(
	ctx context.Context, p *message.Push, from Position, limit int,
) ([]Delivery, *Position, error) {
	if from.Bucket >= p.Slices {
		return nil, nil, nil
	}
	k := SliceKey{App: p.App, Push: p.ID, Slice: uint32(from.Bucket)}
	states, err := loadStates(ctx, l.pool, []SliceKey{k})
	if err != nil {
		return nil, nil, err
	}
	next := &Position{Bucket: from.Bucket + 1, Ordinal: ordinal.Join(uint32(from.Bucket)+1, 0)}
	s := states[k]
	if s == nil || s.targeted == nil {
		return nil, next, nil
	}
	var page []Delivery
	rows := s.targeted.Iterator()
	if ordinal.Slice(from.Ordinal) == k.Slice {
		rows.AdvanceIfNeeded(ordinal.Low(from.Ordinal))
	}
	for rows.HasNext() {
		if len(page) == limit {
			next = &Position{Bucket: from.Bucket, Ordinal: page[limit-1].Ordinal + 1}
			break
		}
		low := rows.Next()
		state, reason := s.of(low)
		d := Delivery{Device: true, Ordinal: ordinal.Join(k.Slice, low), State: state, Reason: reason}
		if a := s.attempt(low); a != nil {
			d.Attempts = []Attempt{*a}
		}
		page = append(page, d)
	}
	if err := l.fillMinutes(ctx, k, page); err != nil {
		return nil, nil, err
	}
	for i := range page {
		for j := range page[i].Attempts {
			page[i].Attempts[j].At = page[i].Times[ledgerv1.Step_STEP_CLAIMED]
		}
	}
	return page, next, nil
}

// fillMinutes finds the minutes in which the deliveries of a page took their steps.
func (l *Ledger) fillMinutes(ctx context.Context, k SliceKey, page []Delivery) error {
	if len(page) == 0 {
		return nil
	}
	rows, err := l.pool.Query(ctx, `
		SELECT step, minute, members FROM slice_step WHERE bucket = $1 AND push_id = $2 AND slice = $3 ORDER BY minute`,
		k.Bucket(), k.Push, int32(k.Slice))
	if err != nil {
		return fmt.Errorf("read the minutes of steps: %w", err)
	}
	for i := range page {
		page[i].Times = map[ledgerv1.Step]time.Time{}
	}
	var step int16
	var minute int32
	var members []byte
	_, err = pgx.ForEachRow(rows, []any{&step, &minute, &members}, func() error {
		bits, err := bitmap(members)
		if err != nil {
			return err
		}
		for i := range page {
			if bits.Contains(ordinal.Low(page[i].Ordinal)) {
				page[i].Times[ledgerv1.Step(step)] = time.Unix(int64(minute)*60, 0)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the minutes of steps: %w", err)
	}
	return nil
}

// Targets returns whom audience pushes target inside slices, by push; slices that are not resolved yet are left out. The
// bitmaps never change.
func (l *Ledger) Targets(ctx context.Context, q querier, keys []SliceKey) (map[uuid.UUID]*roaring.Bitmap, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	c := sliceColumnsOf(keys)
	rows, err := q.Query(ctx, `
		SELECT p.push_id, p.targeted FROM unnest($1::smallint[], $2::uuid[], $3::integer[]) AS i (bucket, push_id, slice)
		JOIN push_slice p USING (bucket, push_id, slice) WHERE p.targeted IS NOT NULL`, c.buckets, c.pushes, c.slices)
	if err != nil {
		return nil, fmt.Errorf("read targets: %w", err)
	}
	targets := make(map[uuid.UUID]*roaring.Bitmap, len(keys))
	var push uuid.UUID
	var stored []byte
	_, err = pgx.ForEachRow(rows, []any{&push, &stored}, func() (err error) {
		targets[push], err = bitmap(stored)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read targets: %w", err)
	}
	return targets, nil
}

// FinalBits are the deliveries of a slice that the own connection has nothing to do for, at a version: they are final, or a
// vendor has them.
type FinalBits struct {
	Version int64
	Bits    *roaring.Bitmap
}

// Finals returns, for slices whose version is another than the known one, who needs the push no more.
func (l *Ledger) Finals(ctx context.Context, q querier, known map[SliceKey]int64) (map[SliceKey]FinalBits, error) {
	keys := make([]SliceKey, 0, len(known))
	for k := range known {
		keys = append(keys, k)
	}
	c := sliceColumnsOf(keys)
	rows, err := q.Query(ctx, `
		SELECT i.n, p.version FROM unnest($1::smallint[], $2::uuid[], $3::integer[]) WITH ORDINALITY
			AS i (bucket, push_id, slice, n)
		JOIN push_slice p USING (bucket, push_id, slice)`, c.buckets, c.pushes, c.slices)
	if err != nil {
		return nil, fmt.Errorf("read slice versions: %w", err)
	}
	finals := map[SliceKey]FinalBits{}
	var changed []SliceKey
	var n, version int64
	_, err = pgx.ForEachRow(rows, []any{&n, &version}, func() error {
		k := keys[n-1]
		if version == known[k] {
			return nil
		}
		if s, ok := l.cache.Get(k); ok && s.version == version {
			finals[k] = FinalBits{version, s.closed()}
		} else {
			changed = append(changed, k)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read slice versions: %w", err)
	}
	states, err := loadStates(ctx, q, changed)
	if err != nil {
		return nil, err
	}
	for k, s := range states {
		finals[k] = FinalBits{s.version, s.closed()}
	}
	return finals, nil
}
