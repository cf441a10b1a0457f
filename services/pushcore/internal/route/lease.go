// Package route knows which gateway holds which device: the gateways' leases and the devices' sessions.
package route

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/pushcore/internal/storage"
)

// Lease is how long a gateway's incarnation lives without a renewal.
const Lease = 6 * time.Second

// ErrLapsed means that an incarnation is over: the gateway must take a new one.
var ErrLapsed = errors.New("the gateway's incarnation has lapsed")

// Incarnation is one life of a gateway process between two lapses.
type Incarnation struct {
	Gateway string
	Number  uint32
}

// Proto returns the incarnation as it travels.
func (i Incarnation) Proto() *gatewayv1.Incarnation {
	return &gatewayv1.Incarnation{Gateway: i.Gateway, Number: i.Number}
}

// FromProto returns an incarnation that came in.
func FromProto(p *gatewayv1.Incarnation) Incarnation {
	return Incarnation{Gateway: p.GetGateway(), Number: p.GetNumber()}
}

// Leases keeps the leases of gateways.
type Leases struct {
	pool *pgxpool.Pool

	mu       sync.Mutex
	identity string    // guarded by mu
	away     time.Time // guarded by mu: when gateways could not renew last: PostgreSQL was away, or we were
}

// NewLeases returns the leases of a database. It judges nobody until one lease time later: before this process began there
// may have been none to renew with.
func NewLeases(pool *pgxpool.Pool) *Leases { return &Leases{pool: pool, away: time.Now()} }

// Renew extends an incarnation's lease from now on, or begins it. It returns the identity of the PostgreSQL cluster;
// ErrLapsed if the incarnation is over. A second incarnation of a gateway ends its earlier ones.
func (l *Leases) Renew(ctx context.Context, i Incarnation, r *gatewayv1.RenewLeaseRequest) (identity string, err error) {
	identity, uptime, err := storage.Identity(ctx, l.pool)
	if err != nil {
		l.note(err)
		return "", fmt.Errorf("renew lease: %w", err)
	}
	l.seen(identity, uptime)
	var lapsed bool
	err = l.pool.QueryRow(ctx, `
		WITH earlier AS (UPDATE gateway SET lapsed = true WHERE gateway = $1 AND incarnation < $2 AND NOT lapsed)
		INSERT INTO gateway (gateway, incarnation, pod, sessions, revision, draining, lease_until) VALUES ($1, $2, $3, $4, $5, $6, now() + $7)
		ON CONFLICT (gateway, incarnation) DO UPDATE SET
			sessions = excluded.sessions, revision = excluded.revision, draining = excluded.draining,
			lease_until = CASE WHEN gateway.lapsed THEN gateway.lease_until ELSE excluded.lease_until END
		RETURNING lapsed`, i.Gateway, int32(i.Number), r.GetPod(), int32(r.GetSessions()), r.GetRevision(), r.GetDraining(), Lease).Scan(&lapsed)
	if err != nil {
		l.note(err)
		return "", fmt.Errorf("renew lease: %w", err)
	}
	if lapsed {
		return "", ErrLapsed
	}
	return identity, nil
}

// Behind returns how many gateways of a revision take devices while some of another one do, too: what a rollout has yet to replace.
// 0 if there is no rollout.
func (l *Leases) Behind(ctx context.Context, revision string) (behind uint32, err error) {
	err = l.pool.QueryRow(ctx, `
		SELECT CASE WHEN bool_or(revision <> $1) THEN count(*) FILTER (WHERE revision = $1) ELSE 0 END
		FROM gateway WHERE NOT lapsed AND NOT draining AND lease_until > now()`, revision).Scan(&behind)
	if err != nil {
		l.note(err)
		return 0, fmt.Errorf("look for a rollout: %w", err)
	}
	return behind, nil
}

// End ends an incarnation now: its gateway has stopped.
func (l *Leases) End(ctx context.Context, i Incarnation) error {
	_, err := l.pool.Exec(ctx, "UPDATE gateway SET lapsed = true WHERE gateway = $1 AND incarnation = $2",
		i.Gateway, int32(i.Number))
	if err != nil {
		return fmt.Errorf("end lease: %w", err)
	}
	return nil
}

// note remembers an outage of PostgreSQL: while it is away no gateway can renew, so no lease is judged until one lease
// time after.
func (l *Leases) note(err error) {
	if storage.Unavailable(err) {
		l.mu.Lock()
		l.away = time.Now()
		l.mu.Unlock()
	}
}

func (l *Leases) seen(identity string, uptime time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.identity != "" && l.identity != identity {
		l.away = time.Now() // it was away, even if no call of ours happened to fail
	}
	l.identity = identity
	if uptime < Lease {
		l.away = time.Now()
	}
}

// Live returns the incarnations that may hold sessions of an app: those that opened one and have not lapsed.
func (l *Leases) Live(ctx context.Context, app uint32) ([]Incarnation, error) {
	rows, err := l.pool.Query(ctx, `
		SELECT a.gateway, a.incarnation FROM gateway_app a JOIN gateway g USING (gateway, incarnation)
		WHERE a.app_no = $1 AND NOT g.lapsed`, int32(app))
	if err != nil {
		l.note(err)
		return nil, fmt.Errorf("find gateways of the app: %w", err)
	}
	live, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Incarnation, error) {
		var i Incarnation
		var number int32
		err := row.Scan(&i.Gateway, &number)
		i.Number = uint32(number)
		return i, err
	})
	if err != nil {
		return nil, fmt.Errorf("find gateways of the app: %w", err)
	}
	return live, nil
}

// Judge ends the incarnations whose lease is over, for good, and returns those of the given ones that are over. After
// PostgreSQL was away it judges nobody until one lease time later.
func (l *Leases) Judge(ctx context.Context, asked []Incarnation) ([]Incarnation, error) {
	identity, uptime, err := storage.Identity(ctx, l.pool)
	if err != nil {
		l.note(err)
		return nil, fmt.Errorf("judge leases: %w", err)
	}
	l.seen(identity, uptime)
	l.mu.Lock()
	early := time.Since(l.away) < Lease
	l.mu.Unlock()
	if !early {
		if _, err := l.pool.Exec(ctx, "UPDATE gateway SET lapsed = true WHERE lease_until < now() AND NOT lapsed"); err != nil {
			l.note(err)
			return nil, fmt.Errorf("judge leases: %w", err)
		}
	}
	gateways, numbers := make([]string, len(asked)), make([]int32, len(asked))
	for i, a := range asked {
		gateways[i], numbers[i] = a.Gateway, int32(a.Number)
	}
	rows, err := l.pool.Query(ctx, `
		SELECT i.gateway, i.incarnation FROM unnest($1::text[], $2::integer[]) AS i (gateway, incarnation)
		LEFT JOIN gateway g USING (gateway, incarnation) WHERE g.lapsed IS NOT FALSE`, gateways, numbers)
	if err != nil {
		return nil, fmt.Errorf("judge leases: %w", err)
	}
	over, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Incarnation, error) {
		var i Incarnation
		var number int32
		err := row.Scan(&i.Gateway, &number)
		i.Number = uint32(number)
		return i, err
	})
	if err != nil {
		return nil, fmt.Errorf("judge leases: %w", err)
	}
	return over, nil
}

// Forget deletes incarnations that lapsed long ago.
func (l *Leases) Forget(ctx context.Context) error {
	_, err := l.pool.Exec(ctx, "DELETE FROM gateway WHERE lapsed AND lease_until < now() - interval '1 day'")
	if err != nil {
		return fmt.Errorf("forget lapsed gateways: %w", err)
	}
	return nil
}
