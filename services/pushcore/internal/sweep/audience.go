package sweep

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/pushcore/internal/dispatch"
	"github.com/halleypush/halley/services/pushcore/internal/fault"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/route"
	"github.com/halleypush/halley/services/pushcore/internal/storage"
)

// wakeAgain is when a slice that was woken for is looked at again; a worker that has it keeps pushing this ahead.
const wakeAgain = 10 * time.Second

// wakeSlices wakes workers for slices that nobody works on.
func (s *Sweeper) wakeSlices(ctx context.Context) (int, error) {
	rows, err := s.pool.Query(ctx, `
		UPDATE push_slice p SET next_try = now() + $2
		FROM (
			SELECT bucket, push_id, slice FROM push_slice WHERE state < 3 AND next_try <= now()
			ORDER BY next_try LIMIT $1 FOR UPDATE SKIP LOCKED) d
		WHERE p.bucket = d.bucket AND p.push_id = d.push_id AND p.slice = d.slice
		RETURNING p.app_no, p.push_id, p.slice`, page, wakeAgain)
	if err != nil {
		return 0, fmt.Errorf("find slices: %w", err)
	}
	return s.wake(ctx, rows)
}

// followUp wakes workers for slices that are handed over and have more to do: claims for vendors' channels, or hand-overs of
// what those did not take.
func (s *Sweeper) followUp(ctx context.Context) (int, error) {
	rows, err := s.pool.Query(ctx, `
		UPDATE push_slice p SET next_try = now() + $2
		FROM (
			SELECT bucket, push_id, slice FROM push_slice
			WHERE (claim_at <= now() OR offer_at <= now()) AND state = 3 AND next_try <= now()
			LIMIT $1 FOR UPDATE SKIP LOCKED) d
		WHERE p.bucket = d.bucket AND p.push_id = d.push_id AND p.slice = d.slice
		RETURNING p.app_no, p.push_id, p.slice`, page, wakeAgain)
	if err != nil {
		return 0, fmt.Errorf("find slices with more to do: %w", err)
	}
	return s.wake(ctx, rows)
}

func (s *Sweeper) wake(ctx context.Context, rows pgx.Rows) (int, error) {
	var app, slice int32
	var push uuid.UUID
	n := 0
	_, err := pgx.ForEachRow(rows, []any{&app, &push, &slice}, func() error {
		n++
		s.wakes.WakeSlice(ctx, ledger.SliceKey{App: uint32(app), Push: push, Slice: uint32(slice)})
		return nil
	})
	if err != nil {
		return n, fmt.Errorf("find slices: %w", err)
	}
	return n, nil
}

// audience is one audience push that is not over yet.
type audience struct {
	push    uuid.UUID
	app     uint32
	slices  int
	expired bool
}

// Hints are pushes of which a slice has ended, so that it pays to look whether all have. What is forgotten ends at its ttl.
type Hints struct {
	forgotten prometheus.Counter

	mu     sync.Mutex
	pushes map[uuid.UUID]bool // guarded by mu
}

// maxHints bounds the memory of hints.
const maxHints = 10_000

// NewHints returns no hints, and registers their metric.
func NewHints(metrics prometheus.Registerer) *Hints {
	h := &Hints{pushes: map[uuid.UUID]bool{}, forgotten: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "halley_pushcore_hints_forgotten_total",
		Help: "Slices that ended and were not remembered because too many others were: their pushes end at their ttl.",
	})}
	metrics.MustRegister(h.forgotten)
	return h
}

// Add notes that slices have ended.
func (h *Hints) Add(_ context.Context, ended []ledger.SliceKey) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, k := range ended {
		if len(h.pushes) >= maxHints {
			h.forgotten.Inc()
			continue
		}
		h.pushes[k.Push] = true
	}
}

func (h *Hints) take() []uuid.UUID {
	h.mu.Lock()
	defer h.mu.Unlock()
	ids := make([]uuid.UUID, 0, len(h.pushes))
	for id := range h.pushes {
		ids = append(ids, id)
	}
	clear(h.pushes)
	return ids
}

// endAudiences expires audience pushes whose ttl is over, and takes those that have ended, by expiry or because every
// device has them, off the lists of live ones.
func (s *Sweeper) endAudiences(ctx context.Context) (int, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT a.push_id, a.app_no, p.slices, a.expires_at <= now() FROM audience_push a JOIN push p USING (push_id)
		WHERE a.expires_at <= now() OR a.push_id = ANY($1) LIMIT $2`, s.hints.take(), page)
	if err != nil {
		return 0, fmt.Errorf("find audience pushes: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (audience, error) {
		var a audience
		var app int32
		err := row.Scan(&a.push, &app, &a.slices, &a.expired)
		a.app = uint32(app)
		return a, err
	})
	if err != nil {
		return 0, fmt.Errorf("find audience pushes: %w", err)
	}
	for _, a := range all {
		if err := s.endAudience(ctx, a); err != nil {
			return 0, err
		}
	}
	return len(all), nil
}

func (s *Sweeper) endAudience(ctx context.Context, a audience) error {
	keys := make([]ledger.SliceKey, a.slices)
	for i := range keys {
		keys[i] = ledger.SliceKey{App: a.app, Push: a.push, Slice: uint32(i)}
	}
	if a.expired {
		if err := s.expireSlices(ctx, keys); err != nil {
			return err
		}
	}
	over, err := s.ledger.Ended(ctx, keys)
	if err != nil || !over {
		return err
	}
	if err := dispatch.Finish(ctx, s.pool, keys); err != nil {
		return err
	}
	if _, err := s.pool.Exec(ctx, "DELETE FROM audience_push WHERE push_id = $1", a.push); err != nil {
		return fmt.Errorf("end audience push: %w", err)
	}
	return nil
}

// expireSlices ends what is not final of an audience push. Slices that were never resolved have no deliveries to end.
func (s *Sweeper) expireSlices(ctx context.Context, keys []ledger.SliceKey) error {
	changes := make([]ledger.SliceChange, len(keys))
	for i, k := range keys {
		changes[i] = ledger.SliceChange{
			SliceKey: k, Step: ledgerv1.Step_STEP_EXPIRED, Reason: ledgerv1.Reason_REASON_TTL_OVER, Among: ledger.NotFinal,
		}
	}
	if _, err := s.ledger.ApplySlices(ctx, changes); err != nil {
		return err
	}
	return s.ledger.EndAll(ctx, keys)
}

// removeProvisional removes devices that registered without an install_id and did not come back.
func (s *Sweeper) removeProvisional(ctx context.Context) (int, error) {
	over, err := s.devices.Provisional(ctx, page)
	if err != nil {
		return 0, err
	}
	n := 0
	for no, ordinals := range over {
		app, err := s.apps.ByNumber(ctx, no)
		if err != nil {
			return n, err
		}
		for _, number := range ordinals {
			err := s.devices.RemoveProvisional(ctx, app, number)
			if fault.Is(err, "DEVICE_NOT_FOUND") {
				continue // it has returned
			}
			if err != nil {
				return n, err
			}
			n++
			device := []route.Device{{App: no, Ordinal: number}}
			if err := s.poker.Devices(ctx, s.pool, device, gatewayv1.PokeRequest_Poke_GONE); err != nil {
				s.log.WarnContext(ctx, "a removed device may stay connected until its next open", "error", err)
			}
		}
	}
	return n, nil
}

// clearOld makes the coming days' partitions, drops the days past retention, and deletes what is no longer needed.
func (s *Sweeper) clearOld(ctx context.Context) (int, error) {
	var now time.Time
	if err := s.pool.QueryRow(ctx, "SELECT now()").Scan(&now); err != nil {
		return 0, fmt.Errorf("read the time: %w", err)
	}
	if err := storage.EnsurePartitions(ctx, s.pool, now); err != nil {
		return 0, err
	}
	dropped, err := storage.DropPartitions(ctx, s.pool, now.Add(-s.retention))
	if err != nil {
		return 0, err
	}
	if len(dropped) > 0 {
		s.log.InfoContext(ctx, "days past retention dropped", "partitions", dropped)
	}
	if err := s.leases.Forget(ctx); err != nil {
		return 0, err
	}
	keys, err := s.pool.Exec(ctx, `
		DELETE FROM idempotency WHERE (app_no, key) IN (
			SELECT app_no, key FROM idempotency WHERE created_at < now() - interval '72 hours' LIMIT $1)`, page)
	if err != nil {
		return 0, fmt.Errorf("delete old idempotency keys: %w", err)
	}
	if err := s.tokens.ForgetResults(ctx); err != nil {
		return 0, err
	}
	sealed, err := s.channels.Reseal(ctx, page)
	if err != nil {
		return 0, err
	}
	users, err := s.pool.Exec(ctx, `
		DELETE FROM user_inbox WHERE (bucket, app_no, user_id, push_id) IN (
			SELECT bucket, app_no, user_id, push_id FROM user_inbox WHERE expired_at < now() - $2::interval LIMIT $1)`,
		page, s.retention)
	if err != nil {
		return 0, fmt.Errorf("delete old users' pushes: %w", err)
	}
	return int(max(keys.RowsAffected(), users.RowsAffected(), int64(sealed))), nil
}
