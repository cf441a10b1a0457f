package sweep

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/message"
	"github.com/halleypush/halley/services/pushcore/internal/route"
)

// lookAgain is when a delivery to a device that is online, but has not confirmed it, is looked at again.
const lookAgain = 30 * time.Second

// expire ends direct deliveries whose ttl is over: COLLAPSED where a newer push with the same key waits, else EXPIRED.
func (s *Sweeper) expire(ctx context.Context) (int, error) {
	tag, err := s.pool.Exec(ctx, `
		WITH due AS (
			SELECT bucket, app_no, ordinal, push_id FROM inbox
			WHERE next_try <= now() AND expires_at <= now()
			ORDER BY next_try LIMIT $1 FOR UPDATE SKIP LOCKED
		), gone AS (
			DELETE FROM inbox i USING due d
			WHERE i.bucket = d.bucket AND i.app_no = d.app_no AND i.ordinal = d.ordinal AND i.push_id = d.push_id
			RETURNING i.*
		), judged AS (
			SELECT g.*, g.collapse_key <> '' AND EXISTS (
				SELECT FROM inbox n WHERE n.bucket = g.bucket AND n.app_no = g.app_no AND n.ordinal = g.ordinal
					AND n.push_id > g.push_id AND n.collapse_key = g.collapse_key) AS collapsed
			FROM gone g
		)
		INSERT INTO delivery_log (bucket, push_id, app_no, ordinal, step, reason, user_id, sent_at)
		SELECT bucket, push_id, app_no, ordinal,
			CASE WHEN collapsed THEN 10 ELSE 8 END, -- STEP_COLLAPSED, STEP_EXPIRED
			CASE WHEN collapsed THEN 6 ELSE 7 END,  -- REASON_NEWER_PUSH, REASON_TTL_OVER
			user_id, sent_at
		FROM judged ON CONFLICT DO NOTHING`, page)
	if err != nil {
		return 0, fmt.Errorf("expire deliveries: %w", err)
	}
	return int(tag.RowsAffected()), nil
}

// retry looks after direct deliveries whose hand-over was lost. A device that is online Pulls; for one that is away the
// delivery rests until it expires. While the ledger is behind, deliveries whose confirmation may be on its way are not looked
// at: looking costs more than applying it, and would put the ledger further behind.
func (s *Sweeper) retry(ctx context.Context) (int, error) {
	rows, err := s.pool.Query(ctx, `
		WITH due AS (
			SELECT bucket, app_no, ordinal, push_id FROM inbox
			WHERE next_try <= now() - $3::interval AND expires_at > now()
			ORDER BY next_try LIMIT $1 FOR UPDATE SKIP LOCKED
		)
		UPDATE inbox i SET next_try = least(i.expires_at, now() + $2)
		FROM due d WHERE i.bucket = d.bucket AND i.app_no = d.app_no AND i.ordinal = d.ordinal AND i.push_id = d.push_id
		RETURNING i.app_no, i.ordinal, i.push_id`, page, lookAgain, s.behind())
	if err != nil {
		return 0, fmt.Errorf("find due deliveries: %w", err)
	}
	var due []message.Key
	var app int32
	var number int64
	var push uuid.UUID
	_, err = pgx.ForEachRow(rows, []any{&app, &number, &push}, func() error {
		due = append(due, message.Key{App: uint32(app), Ordinal: uint64(number), Push: push})
		return nil
	})
	if err != nil || len(due) == 0 {
		return 0, err
	}
	devices := make([]route.Device, len(due))
	for i, k := range due {
		devices[i] = route.Device{App: k.App, Ordinal: k.Ordinal}
	}
	routes, err := s.sessions.Find(ctx, s.pool, devices)
	if err != nil {
		return 0, err
	}
	var away []message.Key
	for i, k := range due {
		if _, online := routes[devices[i]]; !online {
			away = append(away, k)
		}
	}
	if len(away) > 0 {
		if err := ledger.Rest(ctx, s.pool, away); err != nil {
			return 0, err
		}
	}
	if err := s.poker.Sessions(ctx, routes, gatewayv1.PokeRequest_Poke_PULL); err != nil {
		return len(due), err // they are looked at again
	}
	return len(due), nil
}

// expireUsers ends what was kept for users: later binds get no copy, and a user without a device had it EXPIRED.
func (s *Sweeper) expireUsers(ctx context.Context) (int, error) {
	tag, err := s.pool.Exec(ctx, `
		UPDATE user_inbox SET expired_at = now() WHERE (bucket, app_no, user_id, push_id) IN (
			SELECT bucket, app_no, user_id, push_id FROM user_inbox
			WHERE expired_at IS NULL AND expires_at <= now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)`, page)
	if err != nil {
		return 0, fmt.Errorf("expire users' pushes: %w", err)
	}
	return int(tag.RowsAffected()), nil
}
