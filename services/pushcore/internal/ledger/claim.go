package ledger

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/pushcore/internal/message"
)

// Claim gives one direct delivery to a vendor channel.
type Claim struct {
	message.Key
	Channel int16
}

func (c *columns) addClaims(claims []Claim) {
	for _, claim := range claims {
		// A claim has no step; its column carries the channel.
		c.add(Entry{Key: claim.Key, Step: ledgerv1.Step(claim.Channel)})
	}
}

// ClaimDirect gives direct deliveries to vendor channels and returns those that it got: not what is final, was claimed
// before, or is for a user that the device is not bound to any more. Claims must be in the order of SortClaims.
func ClaimDirect(ctx context.Context, tx pgx.Tx, claims []Claim) (map[message.Key]bool, error) {
	var c columns
	c.addClaims(claims)
	rows, err := tx.Query(ctx, `
		WITH mine AS (
			UPDATE inbox x SET claimed = i.channel, claim_at = NULL, next_try = x.expires_at
			FROM unnest($1::smallint[], $2::integer[], $3::bigint[], $4::uuid[], $5::smallint[])
				AS i (bucket, app_no, ordinal, push_id, channel)
			WHERE x.bucket = i.bucket AND x.app_no = i.app_no AND x.ordinal = i.ordinal AND x.push_id = i.push_id
				AND x.claimed IS NULL AND x.expires_at > now()
				AND (x.user_id IS NULL OR EXISTS (SELECT FROM device_user u
					WHERE u.bucket = x.bucket AND u.app_no = x.app_no AND u.ordinal = x.ordinal
						AND u.user_id = x.user_id AND u.epoch = x.bind_epoch))
			RETURNING x.bucket, x.push_id, x.ordinal, x.app_no, x.claimed)
		INSERT INTO attempt (bucket, push_id, ordinal, app_no, channel)
		SELECT bucket, push_id, ordinal, app_no, claimed FROM mine
		ON CONFLICT (bucket, push_id, ordinal, channel) DO UPDATE SET outcome = 0, code = '', at = now()
		RETURNING app_no, ordinal, push_id`, c.buckets, c.apps, c.ordinals, c.pushes, c.steps)
	if err != nil {
		return nil, fmt.Errorf("claim deliveries: %w", err)
	}
	return collectKeys(rows, len(claims), "claim deliveries")
}

func collectKeys(rows pgx.Rows, n int, step string) (map[message.Key]bool, error) {
	keys := make(map[message.Key]bool, n)
	var app int32
	var number int64
	var push uuid.UUID
	_, err := pgx.ForEachRow(rows, []any{&app, &number, &push}, func() error {
		keys[message.Key{App: uint32(app), Ordinal: uint64(number), Push: push}] = true
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", step, err)
	}
	return keys, nil
}

// Released is a direct delivery that is the own connection's again.
type Released struct {
	message.Key
	// User is who it is for and Epoch the binding that made it; empty if it is not for a user.
	User  string
	Epoch int64
}

// ReleaseDirect gives direct deliveries that a vendor did not take back to the own connection, and returns those that it
// changed. The sweeper looks after them at retry from now if nobody does before.
func ReleaseDirect(ctx context.Context, tx pgx.Tx, keys []message.Key, retry time.Duration) ([]Released, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	entries := make([]Entry, len(keys))
	for i, k := range keys {
		entries[i].Key = k
	}
	sortEntries(entries)
	var c columns
	for _, e := range entries {
		c.add(e)
	}
	rows, err := tx.Query(ctx, `
		UPDATE inbox x SET released = true, next_try = least(x.expires_at, now() + $5::interval)
		FROM unnest($1::smallint[], $2::integer[], $3::bigint[], $4::uuid[]) AS i (bucket, app_no, ordinal, push_id)
		WHERE x.bucket = i.bucket AND x.app_no = i.app_no AND x.ordinal = i.ordinal AND x.push_id = i.push_id
			AND x.claimed IS NOT NULL AND NOT x.released
		RETURNING x.app_no, x.ordinal, x.push_id, coalesce(x.user_id, ''), coalesce(x.bind_epoch, 0)`,
		c.buckets, c.apps, c.ordinals, c.pushes, retry)
	if err != nil {
		return nil, fmt.Errorf("release deliveries: %w", err)
	}
	released, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Released, error) {
		var app int32
		var number int64
		var r Released
		err := row.Scan(&app, &number, &r.Push, &r.User, &r.Epoch)
		r.App, r.Ordinal = uint32(app), uint64(number)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("release deliveries: %w", err)
	}
	return released, nil
}

// NoVendor notes that there is no vendor's channel for direct deliveries of devices that are online: the own connection is
// all they have.
func NoVendor(ctx context.Context, pool *pgxpool.Pool, keys []message.Key) error {
	entries := make([]Entry, len(keys))
	for i, k := range keys {
		entries[i].Key = k
	}
	sortEntries(entries)
	var c columns
	for _, e := range entries {
		c.add(e)
	}
	_, err := pool.Exec(ctx, `
		UPDATE inbox x SET claim_at = NULL
		FROM unnest($1::smallint[], $2::integer[], $3::bigint[], $4::uuid[]) AS i (bucket, app_no, ordinal, push_id)
		WHERE x.bucket = i.bucket AND x.app_no = i.app_no AND x.ordinal = i.ordinal AND x.push_id = i.push_id`,
		c.buckets, c.apps, c.ordinals, c.pushes)
	if err != nil {
		return fmt.Errorf("note that there is no vendor: %w", err)
	}
	return nil
}

// Tried is what became of the try at a vendor of a direct delivery.
type Tried struct {
	Claim
	Outcome int16 // halley.sender.v1.Outcome
	Code    string
}

// NoteTries writes down what became of tries: the first word counts, but one that the vendor took is taken.
func NoteTries(ctx context.Context, tx pgx.Tx, tries []Tried) error {
	if len(tries) == 0 {
		return nil
	}
	slices.SortFunc(tries, func(a, b Tried) int {
		return cmp.Or(cmp.Compare(a.Bucket(), b.Bucket()), bytes.Compare(a.Push[:], b.Push[:]), cmp.Compare(a.Ordinal, b.Ordinal))
	})
	var c columns
	codes := make([]string, len(tries))
	outcomes := make([]int16, len(tries))
	for i, t := range tries {
		c.addClaims([]Claim{t.Claim})
		codes[i], outcomes[i] = t.Code, t.Outcome
	}
	_, err := tx.Exec(ctx, `
		UPDATE attempt a SET outcome = i.outcome, code = i.code
		FROM unnest($1::smallint[], $2::uuid[], $3::bigint[], $4::smallint[], $5::smallint[], $6::text[])
			AS i (bucket, push_id, ordinal, channel, outcome, code)
		WHERE a.bucket = i.bucket AND a.push_id = i.push_id AND a.ordinal = i.ordinal AND a.channel = i.channel
			AND (a.outcome = 0 OR i.outcome = 1) -- OUTCOME_ACCEPTED`,
		c.buckets, c.pushes, c.ordinals, c.steps, outcomes, codes)
	if err != nil {
		return fmt.Errorf("note tries: %w", err)
	}
	return nil
}

// AppendLog adds steps to direct deliveries that are in the log; others are passed over.
func AppendLog(ctx context.Context, tx pgx.Tx, entries []Entry) error {
	sortEntries(entries)
	_, err := appendLog(ctx, tx, entries)
	return err
}

// WaitingDirect returns those of the deliveries of one push in one bucket that are a vendor's and not final, with the users
// that they are for.
func WaitingDirect(
	ctx context.Context, q querier, bucket int16, app uint32, push uuid.UUID, ordinals []int64,
) (map[uint64]string, error) {
	rows, err := q.Query(ctx, `
		SELECT ordinal, coalesce(user_id, '') FROM inbox
		WHERE bucket = $1 AND app_no = $2 AND ordinal = ANY($3) AND push_id = $4 AND claimed IS NOT NULL AND NOT released`,
		bucket, int32(app), ordinals, push)
	if err != nil {
		return nil, fmt.Errorf("read claimed deliveries: %w", err)
	}
	waiting := make(map[uint64]string, len(ordinals))
	var number int64
	var user string
	_, err = pgx.ForEachRow(rows, []any{&number, &user}, func() error {
		waiting[uint64(number)] = user
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read claimed deliveries: %w", err)
	}
	return waiting, nil
}

// WaitingSlice returns the deliveries of a slice that vendors' senders have, or are to have, and that are not final.
func (l *Ledger) WaitingSlice(ctx context.Context, q querier, k SliceKey) (*roaring.Bitmap, error) {
	s, err := l.state(ctx, q, k)
	if err != nil || s == nil || s.targeted == nil {
		return roaring.New(), err
	}
	bits := s.withVendors()
	bits.AndNot(s.final())
	return bits, nil
}

// Unsent returns the deliveries of a slice that the own connection has not been handed and may be.
func (l *Ledger) Unsent(ctx context.Context, q querier, k SliceKey) (*roaring.Bitmap, error) {
	s, err := l.state(ctx, q, k)
	if err != nil || s == nil || s.targeted == nil {
		return roaring.New(), err
	}
	return s.pending(), nil
}

// state returns one slice as it is now, from the cache if its version is the stored one; nil if it is not there.
func (l *Ledger) state(ctx context.Context, q querier, k SliceKey) (*sliceState, error) {
	rows, err := q.Query(ctx, "SELECT version, state FROM push_slice WHERE bucket = $1 AND push_id = $2 AND slice = $3",
		k.Bucket(), k.Push, int32(k.Slice))
	if err != nil {
		return nil, fmt.Errorf("read slice version: %w", err)
	}
	var version int64
	var state int16
	found := false
	_, err = pgx.ForEachRow(rows, []any{&version, &state}, func() error {
		found = true
		return nil
	})
	if err != nil || !found {
		return nil, err
	}
	if s, ok := l.cache.Get(k); ok && s.version == version && s.targeted != nil {
		return s, nil
	}
	states, err := loadStates(ctx, q, []SliceKey{k})
	return states[k], err
}

// SortClaims puts claims in the order in which every transaction locks rows.
func SortClaims(claims []Claim) {
	entries := make([]Entry, len(claims))
	for i, c := range claims {
		entries[i] = Entry{Key: c.Key, Step: ledgerv1.Step(c.Channel)}
	}
	sortEntries(entries)
	for i, e := range entries {
		claims[i] = Claim{Key: e.Key, Channel: int16(e.Step)}
	}
}
