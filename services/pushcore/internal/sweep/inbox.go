package sweep

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/internal/dispatch"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/message"
	"github.com/halleypush/halley/services/pushcore/internal/route"
	"github.com/halleypush/halley/services/pushcore/internal/vendor"
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
			SELECT g.*, g.collapse_key <> '' AND (g.claimed IS NULL OR g.released) AND EXISTS (
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

// due is a direct delivery that is to be looked at.
type due struct {
	message.Key
	way pushv1.Policy_Channel
	// open is true where vendors' channels may have it: claimable at once if the device is away, and when it is late.
	open, late bool
}

func (d *due) device() route.Device { return route.Device{App: d.App, Ordinal: d.Ordinal} }

// retry looks after direct deliveries whose hand-over was lost, or was not confirmed in time. What vendors' channels may have
// is claimed for them. Of the rest, a device that is online Pulls; for one that is away the delivery rests until it expires. While
// the ledger is behind, deliveries whose confirmation may be on its way are not looked at: looking costs more than applying
// it, and would put the ledger further behind.
func (s *Sweeper) retry(ctx context.Context) (int, error) {
	all, err := s.takeDue(ctx)
	if err != nil || len(all) == 0 {
		return 0, err
	}
	devices := make([]route.Device, len(all))
	for i := range all {
		devices[i] = all[i].device()
	}
	routes, err := s.sessions.Find(ctx, s.pool, devices)
	if err != nil {
		return 0, err
	}
	left, err := s.claimDue(ctx, all, routes)
	if err != nil {
		return 0, err
	}
	var away []message.Key
	var none []message.Key
	poked := make(map[route.Device]route.Session, len(routes))
	for _, d := range left {
		r, online := routes[d.device()]
		switch {
		case !online:
			away = append(away, d.Key)
		default:
			poked[d.device()] = r
			if d.late {
				none = append(none, d.Key)
			}
		}
	}
	if len(none) > 0 {
		if err := ledger.NoVendor(ctx, s.pool, none); err != nil {
			return 0, err
		}
	}
	if len(away) > 0 {
		if err := ledger.Rest(ctx, s.pool, away); err != nil {
			return 0, err
		}
	}
	if err := s.poker.Sessions(ctx, poked, gatewayv1.PokeRequest_Poke_PULL); err != nil {
		return len(all), err // they are looked at again
	}
	return len(all), nil
}

func (s *Sweeper) takeDue(ctx context.Context) ([]due, error) {
	rows, err := s.pool.Query(ctx, `
		WITH due AS (
			SELECT bucket, app_no, ordinal, push_id, claim_at FROM inbox
			WHERE next_try <= now() - $3::interval AND expires_at > now()
			ORDER BY next_try LIMIT $1 FOR UPDATE SKIP LOCKED
		)
		UPDATE inbox i SET next_try = least(i.expires_at, now() + $2, CASE WHEN i.claim_at > now() THEN i.claim_at END)
		FROM due d WHERE i.bucket = d.bucket AND i.app_no = d.app_no AND i.ordinal = d.ordinal AND i.push_id = d.push_id
		RETURNING i.app_no, i.ordinal, i.push_id, i.policy,
			i.claimed IS NULL AND (i.claim_at IS NOT NULL OR i.policy IN (3, 4)), -- VENDOR_FIRST, VENDOR_ONLY
			coalesce(i.claim_at <= now(), false) OR i.policy IN (3, 4)`, page, lookAgain, s.behind())
	if err != nil {
		return nil, fmt.Errorf("find due deliveries: %w", err)
	}
	var all []due
	var app int32
	var number int64
	var d due
	_, err = pgx.ForEachRow(rows, []any{&app, &number, &d.Push, &d.way, &d.open, &d.late}, func() error {
		d.App, d.Ordinal = uint32(app), uint64(number)
		all = append(all, d)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find due deliveries: %w", err)
	}
	return all, nil
}

// claimDue has vendors' channels claim what they may have now, and returns what the own connection has to look after.
func (s *Sweeper) claimDue(ctx context.Context, all []due, routes map[route.Device]route.Session) ([]due, error) {
	var ids []uuid.UUID
	for _, d := range all {
		if d.open {
			ids = append(ids, d.Push)
		}
	}
	if len(ids) == 0 {
		return all, nil
	}
	pushes, err := s.pushes.Get(ctx, s.pool, ids)
	if err != nil {
		return nil, err
	}
	var wanted []vendor.Wanted
	var rest []due
	ways := map[message.Key]pushv1.Policy_Channel{}
	for _, d := range all {
		_, online := routes[d.device()]
		if push := pushes[d.Push]; d.open && (d.late || !online) && push != nil {
			wanted = append(wanted, vendor.Wanted{Key: d.Key, Push: push})
			ways[d.Key] = d.way
		} else {
			rest = append(rest, d)
		}
	}
	left, err := s.vendors.ClaimDirect(ctx, wanted)
	if err != nil {
		return nil, err
	}
	var failed []ledger.Entry
	for k, why := range left {
		if ways[k] == pushv1.Policy_VENDOR_ONLY {
			failed = append(failed, dispatch.FailLeft(k, why))
		} else {
			rest = append(rest, due{Key: k, way: ways[k], late: true})
		}
	}
	if len(failed) > 0 {
		err = ledger.ApplyDirect(ctx, s.pool, failed)
	}
	return rest, err
}

// publishJobs publishes jobs for vendors' senders that nobody published, or that are lost.
func (s *Sweeper) publishJobs(ctx context.Context) (int, error) {
	n, err := s.publisher.Sweep(ctx)
	if n >= vendor.SweepPage {
		n = page // a full page: look again at once
	}
	return n, err
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
