package route

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/halleypush/halley/pkg/ordinal"
	"github.com/halleypush/halley/services/pushcore/internal/storage"
)

// Device names a device inside the system.
type Device struct {
	App     uint32
	Ordinal uint64
}

// Session is one connection's session on one gateway process.
type Session struct {
	Incarnation
	Number uint64
}

// Open asks to make a session the route to its device.
type Open struct {
	Device
	Session    uint64
	Generation uint32
	// Age is how long ago the connection came.
	Age       time.Duration
	Receiving bool
	Returned  bool
}

// Outcome is what became of an Open.
type Outcome int

const (
	// Gone: there is no such device, or its secret has another generation.
	Gone Outcome = iota
	// Superseded: a newer session of the device is open.
	Superseded
	// Opened: the session is the route.
	Opened
)

// Opening is the answer to one Open.
type Opening struct {
	Outcome Outcome
	// Notifications is true where the system shows the app's notifications.
	Notifications bool
	// Provisional is true where the device was, and this Open proves that it has its secret.
	Provisional bool
	// Before is the open session that this one replaced, of another connection; nil if there was none.
	Before *Session
}

// Sessions keeps the routes.
type Sessions struct{ pool *pgxpool.Pool }

// NewSessions returns the routes of a database.
func NewSessions(pool *pgxpool.Pool) *Sessions { return &Sessions{pool: pool} }

// compareDevices gives the order in which every batch locks routes.
func compareDevices(a, b Device) int {
	return cmp.Or(
		cmp.Compare(ordinal.DeviceBucket(a.App, a.Ordinal), ordinal.DeviceBucket(b.App, b.Ordinal)),
		cmp.Compare(a.App, b.App), cmp.Compare(a.Ordinal, b.Ordinal))
}

// openSessions decides and stores routes in one statement. A session is newer than the stored one if it came later by the
// database's clock; of the same process, if its number is higher; and a session may be opened again while it is the route,
// by the same or a later incarnation of its process.
const openSessions = `
	WITH valid AS (
		SELECT i.*, d.notifications, d.state FROM unnest($3::smallint[], $4::integer[], $5::bigint[], $6::integer[],
				$7::bigint[], $8::interval[], $9::boolean[], $10::boolean[]) WITH ORDINALITY
			AS i (bucket, app_no, ordinal, generation, session, age, receiving, returned, n)
		JOIN device d USING (bucket, app_no, ordinal)
		WHERE d.state <> 3 AND d.generation = i.generation
	), before AS (
		SELECT s.*, v.n FROM valid v JOIN session s USING (bucket, app_no, ordinal)
	), apps AS (
		INSERT INTO gateway_app (app_no, gateway, incarnation) SELECT DISTINCT app_no, $1, $2::integer FROM valid
		ON CONFLICT DO NOTHING
	), opened AS (
		INSERT INTO session AS s (bucket, app_no, ordinal, gateway, incarnation, session, epoch, open, receiving)
		SELECT bucket, app_no, ordinal, $1, $2, session, now() - age, true, receiving FROM valid ORDER BY n
		ON CONFLICT (bucket, app_no, ordinal) DO UPDATE SET
			gateway = excluded.gateway, incarnation = excluded.incarnation, session = excluded.session,
			epoch = excluded.epoch, open = true, receiving = excluded.receiving
		WHERE CASE
			WHEN s.gateway <> excluded.gateway THEN s.epoch < excluded.epoch
			WHEN s.session <> excluded.session THEN s.session < excluded.session
			ELSE s.open AND s.incarnation <= excluded.incarnation
		END
		RETURNING bucket, app_no, ordinal
	)
	SELECT v.n, o.ordinal IS NOT NULL, v.notifications, v.state = 1 AND v.returned,
		CASE WHEN b.open AND (b.gateway, b.session) <> ($1, v.session) THEN b.gateway END, b.incarnation, b.session
	FROM valid v LEFT JOIN opened o USING (bucket, app_no, ordinal) LEFT JOIN before b ON b.n = v.n`

// Open makes sessions of one incarnation the routes to their devices, in one commit, and returns an answer for each;
// ErrLapsed if the incarnation is over. Only after it has returned may anyone read what is kept for the devices.
func (s *Sessions) Open(ctx context.Context, by Incarnation, opens []Open) ([]Opening, error) {
	answers := make([]Opening, len(opens))
	// One statement cannot write a row twice: of two sessions of one device, the older one is superseded here.
	newest := map[Device]int{}
	for i, o := range opens {
		if j, ok := newest[o.Device]; ok {
			older := j
			if opens[i].Session < opens[j].Session {
				older = i
			}
			answers[older].Outcome = Superseded
			if older == i {
				continue
			}
		}
		newest[o.Device] = i
	}
	index := make([]int, 0, len(newest))
	for _, i := range newest {
		index = append(index, i)
	}
	slices.SortFunc(index, func(a, b int) int { return compareDevices(opens[a].Device, opens[b].Device) })
	err := storage.InTx(ctx, s.pool, func(tx pgx.Tx) error { return openTx(ctx, tx, by, opens, index, answers) })
	if err != nil {
		return nil, fmt.Errorf("open sessions: %w", err)
	}
	return answers, nil
}

func openTx(ctx context.Context, tx pgx.Tx, by Incarnation, opens []Open, index []int, answers []Opening) error {
	var buckets []int16
	var apps, generations []int32
	var ordinals, sessions []int64
	var ages []time.Duration
	var receiving, returned []bool
	for _, i := range index {
		o := opens[i]
		answers[i] = Opening{}
		buckets = append(buckets, ordinal.DeviceBucket(o.App, o.Ordinal))
		apps = append(apps, int32(o.App))
		ordinals = append(ordinals, int64(o.Ordinal))
		generations = append(generations, int32(o.Generation))
		sessions = append(sessions, int64(o.Session))
		ages = append(ages, o.Age)
		receiving = append(receiving, o.Receiving)
		returned = append(returned, o.Returned)
	}
	b := &pgx.Batch{}
	b.Queue("SELECT lapsed FROM gateway WHERE gateway = $1 AND incarnation = $2", by.Gateway, int32(by.Number))
	b.Queue(openSessions, by.Gateway, int32(by.Number), buckets, apps, ordinals, generations, sessions, ages, receiving, returned)
	results := tx.SendBatch(ctx, b)
	defer results.Close()
	var lapsed bool
	err := results.QueryRow().Scan(&lapsed)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && lapsed {
		return ErrLapsed
	}
	if err != nil {
		return err
	}
	rows, err := results.Query()
	if err != nil {
		return err
	}
	if err := collectOpenings(rows, index, answers); err != nil {
		return err
	}
	return results.Close()
}

func collectOpenings(rows pgx.Rows, index []int, answers []Opening) error {
	var n int64
	var opened, notifications, provisional bool
	var gateway *string
	var incarnation *int32
	var session *int64
	_, err := pgx.ForEachRow(rows,
		[]any{&n, &opened, &notifications, &provisional, &gateway, &incarnation, &session}, func() error {
			a := Opening{Outcome: Superseded, Notifications: notifications}
			if opened {
				a.Outcome, a.Provisional = Opened, provisional
				if gateway != nil {
					a.Before = &Session{Incarnation{*gateway, uint32(*incarnation)}, uint64(*session)}
				}
			}
			answers[index[n-1]] = a
			return nil
		})
	return err
}

// Close ends routes, each only if it is still the given session's.
func (s *Sessions) Close(ctx context.Context, gateway string, devices []Device, sessions []uint64) error {
	index := make([]int, len(devices))
	for i := range index {
		index[i] = i
	}
	slices.SortFunc(index, func(a, b int) int { return compareDevices(devices[a], devices[b]) })
	var buckets []int16
	var apps []int32
	var ordinals, numbers []int64
	for _, i := range index {
		buckets = append(buckets, ordinal.DeviceBucket(devices[i].App, devices[i].Ordinal))
		apps = append(apps, int32(devices[i].App))
		ordinals = append(ordinals, int64(devices[i].Ordinal))
		numbers = append(numbers, int64(sessions[i]))
	}
	err := storage.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			UPDATE session s SET open = false, receiving = false
			FROM unnest($2::smallint[], $3::integer[], $4::bigint[], $5::bigint[]) AS i (bucket, app_no, ordinal, session)
			WHERE s.bucket = i.bucket AND s.app_no = i.app_no AND s.ordinal = i.ordinal
				AND s.gateway = $1 AND s.session = i.session AND s.open`, gateway, buckets, apps, ordinals, numbers)
		return err
	})
	if err != nil {
		return fmt.Errorf("close sessions: %w", err)
	}
	return nil
}

// Find returns the routes to devices, on the given pool: the open sessions that are receiving. Devices without a route are
// left out. It reads the primary, always: there is no cache of routes.
func (s *Sessions) Find(ctx context.Context, pool *pgxpool.Pool, devices []Device) (map[Device]Session, error) {
	return s.find(ctx, pool, devices, true)
}

// FindOpen returns the open sessions of devices, also those that receive nothing.
func (s *Sessions) FindOpen(ctx context.Context, pool *pgxpool.Pool, devices []Device) (map[Device]Session, error) {
	return s.find(ctx, pool, devices, false)
}

func (s *Sessions) find(
	ctx context.Context, pool *pgxpool.Pool, devices []Device, receiving bool,
) (map[Device]Session, error) {
	buckets, apps, ordinals := make([]int16, len(devices)), make([]int32, len(devices)), make([]int64, len(devices))
	for i, d := range devices {
		buckets[i], apps[i], ordinals[i] = ordinal.DeviceBucket(d.App, d.Ordinal), int32(d.App), int64(d.Ordinal)
	}
	rows, err := pool.Query(ctx, `
		SELECT i.n, s.gateway, s.incarnation, s.session
		FROM unnest($1::smallint[], $2::integer[], $3::bigint[]) WITH ORDINALITY AS i (bucket, app_no, ordinal, n)
		JOIN session s USING (bucket, app_no, ordinal)
		WHERE s.open AND (s.receiving OR NOT $4)`, buckets, apps, ordinals, receiving)
	if err != nil {
		return nil, fmt.Errorf("find routes: %w", err)
	}
	routes := make(map[Device]Session, len(devices))
	var n, session int64
	var gateway string
	var incarnation int32
	_, err = pgx.ForEachRow(rows, []any{&n, &gateway, &incarnation, &session}, func() error {
		routes[devices[n-1]] = Session{Incarnation{gateway, uint32(incarnation)}, uint64(session)}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find routes: %w", err)
	}
	return routes, nil
}
