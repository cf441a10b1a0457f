// Package ledger applies receipts and tells what became of every delivery. Direct deliveries are rows that move from inbox
// to delivery_log; audience deliveries are bitmaps per slice and step. Applying a receipt twice, or in another order,
// changes nothing.
package ledger

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/halleypush/halley/pkg/ordinal"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/pushcore/internal/message"
	"github.com/halleypush/halley/services/pushcore/internal/storage"
)

// Entry is one step of one direct delivery.
type Entry struct {
	message.Key
	Step   ledgerv1.Step
	Reason ledgerv1.Reason
	// IfOpen passes the step over where the delivery has a final one already.
	IfOpen bool
}

// ApplyDirect applies steps of direct deliveries. Steps of deliveries that do not exist are passed over. Hand-overs and
// endings are committed apart: each transaction goes through the rows once, in the order that all follow.
func ApplyDirect(ctx context.Context, pool *pgxpool.Pool, entries []Entry) error {
	var sent, final []Entry
	for _, e := range entries {
		if e.Step == ledgerv1.Step_STEP_SENT {
			sent = append(sent, e)
		} else {
			final = append(final, e)
		}
	}
	for _, part := range []struct {
		entries []Entry
		apply   func(context.Context, pgx.Tx, []Entry) error
	}{{final, applyFinal}, {sent, applySent}} {
		if len(part.entries) == 0 {
			continue
		}
		sortEntries(part.entries)
		err := storage.InTx(ctx, pool, func(tx pgx.Tx) error { return part.apply(ctx, tx, part.entries) })
		if err != nil {
			return fmt.Errorf("apply direct receipts: %w", err)
		}
	}
	return nil
}

// sortEntries puts entries in the order in which every transaction locks rows, the strongest step of a delivery first.
func sortEntries(entries []Entry) {
	slices.SortFunc(entries, func(a, b Entry) int {
		return cmp.Or(
			cmp.Compare(a.Bucket(), b.Bucket()), cmp.Compare(a.App, b.App), cmp.Compare(a.Ordinal, b.Ordinal),
			bytes.Compare(a.Push[:], b.Push[:]), cmp.Compare(strength(a.Step), strength(b.Step)))
	})
}

// columns are entries as arrays for unnest.
type columns struct {
	buckets, steps, reasons []int16
	apps                    []int32
	ordinals                []int64
	pushes                  []uuid.UUID
}

func (c *columns) add(e Entry) {
	c.buckets = append(c.buckets, e.Bucket())
	c.apps = append(c.apps, int32(e.App))
	c.ordinals = append(c.ordinals, int64(e.Ordinal))
	c.pushes = append(c.pushes, e.Push)
	c.steps = append(c.steps, int16(e.Step))
	c.reasons = append(c.reasons, int16(e.Reason))
}

// ApplyFinal applies final steps inside a transaction that locks no other deliveries.
func ApplyFinal(ctx context.Context, tx pgx.Tx, entries []Entry) error {
	sortEntries(entries)
	return applyFinal(ctx, tx, entries)
}

// applyFinal moves each delivery from inbox to delivery_log with its strongest step; further steps, and steps of
// deliveries that moved before, are added to the log.
func applyFinal(ctx context.Context, tx pgx.Tx, entries []Entry) error {
	var first columns
	var rest []Entry
	for i, e := range entries {
		if i > 0 && entries[i-1].Key == e.Key {
			rest = append(rest, e)
		} else {
			first.add(e)
		}
	}
	moved, had, err := move(ctx, tx, &first)
	if err != nil {
		return err
	}
	for i, e := range entries {
		if i > 0 && entries[i-1].Key == e.Key {
			continue
		}
		if !moved[e.Key] {
			rest = append(rest, e)
		}
	}
	rest = slices.DeleteFunc(rest, func(e Entry) bool { return e.IfOpen })
	sortEntries(rest)
	reachedLater, err := appendLog(ctx, tx, rest)
	if err != nil {
		return err
	}
	return forgetUserPushes(ctx, tx, append(had, reachedLater...))
}

// userPush is a push that a device of a user has confirmed.
type userPush struct {
	app  uint32
	user string
	push uuid.UUID
}

func move(ctx context.Context, tx pgx.Tx, c *columns) (moved map[message.Key]bool, had []userPush, err error) {
	rows, err := tx.Query(ctx, `
		WITH gone AS (
			DELETE FROM inbox x
			USING unnest($1::smallint[], $2::integer[], $3::bigint[], $4::uuid[], $5::smallint[], $6::smallint[])
				AS i (bucket, app_no, ordinal, push_id, step, reason)
			WHERE x.bucket = i.bucket AND x.app_no = i.app_no AND x.ordinal = i.ordinal AND x.push_id = i.push_id
				AND (i.reason <> $7 OR NOT EXISTS (SELECT FROM device_user u -- a binding that was made again has a row of its own
					WHERE u.bucket = x.bucket AND u.app_no = x.app_no AND u.ordinal = x.ordinal
						AND u.user_id = x.user_id AND u.epoch = x.bind_epoch))
			RETURNING x.bucket, x.push_id, x.app_no, x.ordinal, i.step, i.reason, x.user_id, x.sent_at)
		INSERT INTO delivery_log (bucket, push_id, app_no, ordinal, step, reason, user_id, sent_at)
		SELECT bucket, push_id, app_no, ordinal, step, reason, user_id, sent_at FROM gone
		ON CONFLICT DO NOTHING
		RETURNING app_no, ordinal, push_id, step, user_id`,
		c.buckets, c.apps, c.ordinals, c.pushes, c.steps, c.reasons, int16(ledgerv1.Reason_REASON_UNBOUND))
	if err != nil {
		return nil, nil, fmt.Errorf("move to the log: %w", err)
	}
	moved = make(map[message.Key]bool, len(c.ordinals))
	had, err = collectLogged(rows, func(k message.Key) { moved[k] = true })
	if err != nil {
		return nil, nil, fmt.Errorf("move to the log: %w", err)
	}
	return moved, had, nil
}

// appendLog adds steps to deliveries that are in the log.
func appendLog(ctx context.Context, tx pgx.Tx, entries []Entry) ([]userPush, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	var c columns
	for _, e := range entries {
		c.add(e)
	}
	rows, err := tx.Query(ctx, `
		INSERT INTO delivery_log (bucket, push_id, app_no, ordinal, step, reason, user_id, sent_at)
		SELECT i.bucket, i.push_id, i.app_no, i.ordinal, i.step, i.reason, l.user_id, l.sent_at
		FROM unnest($1::smallint[], $2::integer[], $3::bigint[], $4::uuid[], $5::smallint[], $6::smallint[])
			AS i (bucket, app_no, ordinal, push_id, step, reason)
		CROSS JOIN LATERAL (
			SELECT user_id, sent_at FROM delivery_log
			WHERE bucket = i.bucket AND push_id = i.push_id AND ordinal = i.ordinal AND app_no = i.app_no LIMIT 1) l
		ON CONFLICT DO NOTHING
		RETURNING app_no, ordinal, push_id, step, user_id`,
		c.buckets, c.apps, c.ordinals, c.pushes, c.steps, c.reasons)
	if err != nil {
		return nil, fmt.Errorf("append to the log: %w", err)
	}
	had, err := collectLogged(rows, func(message.Key) {})
	if err != nil {
		return nil, fmt.Errorf("append to the log: %w", err)
	}
	return had, nil
}

func collectLogged(rows pgx.Rows, seen func(message.Key)) ([]userPush, error) {
	var had []userPush
	var app int32
	var number int64
	var push uuid.UUID
	var step int16
	var user *string
	_, err := pgx.ForEachRow(rows, []any{&app, &number, &push, &step, &user}, func() error {
		seen(message.Key{App: uint32(app), Ordinal: uint64(number), Push: push})
		if user != nil && reached(ledgerv1.Step(step)) {
			had = append(had, userPush{uint32(app), *user, push})
		}
		return nil
	})
	return had, err
}

// forgetUserPushes ends what is kept for users, because one of their devices has it now: later binds get no copy.
func forgetUserPushes(ctx context.Context, tx pgx.Tx, had []userPush) error {
	if len(had) == 0 {
		return nil
	}
	slices.SortFunc(had, func(a, b userPush) int {
		return cmp.Or(cmp.Compare(ordinal.UserBucket(a.app, a.user), ordinal.UserBucket(b.app, b.user)),
			cmp.Compare(a.app, b.app), cmp.Compare(a.user, b.user), bytes.Compare(a.push[:], b.push[:]))
	})
	var buckets []int16
	var apps []int32
	var users []string
	var pushes []uuid.UUID
	for _, h := range had {
		buckets = append(buckets, ordinal.UserBucket(h.app, h.user))
		apps = append(apps, int32(h.app))
		users = append(users, h.user)
		pushes = append(pushes, h.push)
	}
	_, err := tx.Exec(ctx, `
		DELETE FROM user_inbox u
		USING unnest($1::smallint[], $2::integer[], $3::text[], $4::uuid[]) AS i (bucket, app_no, user_id, push_id)
		WHERE u.bucket = i.bucket AND u.app_no = i.app_no AND u.user_id = i.user_id AND u.push_id = i.push_id`,
		buckets, apps, users, pushes)
	if err != nil {
		return fmt.Errorf("end what is kept for users: %w", err)
	}
	return nil
}

// applySent notes a hand-over that the device has not confirmed yet, and lets the sweeper rest until the vendor way opens or
// the push expires: the session Pulls when the device comes back.
func applySent(ctx context.Context, tx pgx.Tx, entries []Entry) error {
	var c columns
	for _, e := range entries {
		c.add(e)
	}
	_, err := tx.Exec(ctx, `
		UPDATE inbox x SET sent_at = coalesce(x.sent_at, now()),
			next_try = CASE WHEN x.claim_at IS NULL THEN x.expires_at ELSE least(x.expires_at, greatest(x.claim_at, now())) END
		FROM unnest($1::smallint[], $2::integer[], $3::bigint[], $4::uuid[]) AS i (bucket, app_no, ordinal, push_id)
		WHERE x.bucket = i.bucket AND x.app_no = i.app_no AND x.ordinal = i.ordinal AND x.push_id = i.push_id`,
		c.buckets, c.apps, c.ordinals, c.pushes)
	if err != nil {
		return fmt.Errorf("note hand-overs: %w", err)
	}
	return nil
}

// Rest lets the sweeper rest for deliveries whose device is away: the push is kept until it expires, and the device's next
// Open or a bind finds it.
func Rest(ctx context.Context, pool *pgxpool.Pool, keys []message.Key) error {
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
		UPDATE inbox x SET next_try = x.expires_at, claim_at = NULL
		FROM unnest($1::smallint[], $2::integer[], $3::bigint[], $4::uuid[]) AS i (bucket, app_no, ordinal, push_id)
		WHERE x.bucket = i.bucket AND x.app_no = i.app_no AND x.ordinal = i.ordinal AND x.push_id = i.push_id
			AND x.next_try < x.expires_at`,
		c.buckets, c.apps, c.ordinals, c.pushes)
	if err != nil {
		return fmt.Errorf("rest until expiry: %w", err)
	}
	return nil
}
