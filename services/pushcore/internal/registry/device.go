package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/halleypush/halley/pkg/ordinal"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/pushcore/internal/fault"
	"github.com/halleypush/halley/services/pushcore/internal/route"
	"github.com/halleypush/halley/services/pushcore/internal/storage"
)

// provisionalFor is how long a device without an install_id may stay away before it is removed.
const provisionalFor = time.Hour

// Device is a device as business servers see it.
type Device struct {
	Ordinal                                                                     uint64
	Token                                                                       string
	Provisional, Notifications, Online                                          bool
	Platform, Brand, Model, OSVersion, AppVersion, SDKVersion, Locale, TimeZone string
	Registered                                                                  time.Time
	// LastSeen is when its newest connection came; nil if none ever did.
	LastSeen *time.Time
	// Users and Channels are filled by Get only.
	Users    []string
	Channels []ChannelToken
}

// ChannelToken is a vendor's token of a device.
type ChannelToken struct {
	Channel, Token, AppPackage, Environment string
	Updated                                 time.Time
	Gone                                    *time.Time
}

func errNoDevice(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return fault.NotFound("DEVICE_NOT_FOUND", "the app has no such device")
	}
	return err
}

// Ordinal returns the ordinal inside a token of the app, DEVICE_NOT_FOUND if it is none. It does not ask the database.
func Ordinal(app *App, tok string) (uint64, error) {
	number, err := app.Codec.Ordinal(tok)
	if err != nil {
		return 0, fault.NotFound("DEVICE_NOT_FOUND", "the app has no such device")
	}
	return number, nil
}

const selectDevice = `
	SELECT d.ordinal, d.letter, d.state = 1, d.notifications, coalesce(s.open AND s.receiving, false),
		d.platform, d.brand, d.model, d.os_version, d.app_version, d.sdk_version, d.locale, d.time_zone, d.registered_at, s.epoch
	FROM device d LEFT JOIN session s USING (bucket, app_no, ordinal) `

func scanDevice(app *App) pgx.RowToFunc[*Device] {
	return func(row pgx.CollectableRow) (*Device, error) {
		var number int64
		var letter rune
		d := &Device{}
		err := row.Scan(&number, &letter, &d.Provisional, &d.Notifications, &d.Online, &d.Platform, &d.Brand, &d.Model,
			&d.OSVersion, &d.AppVersion, &d.SDKVersion, &d.Locale, &d.TimeZone, &d.Registered, &d.LastSeen)
		if err != nil {
			return nil, err
		}
		d.Ordinal = uint64(number)
		d.Token, err = app.Codec.Token(byte(letter), d.Ordinal)
		return d, err
	}
}

// Get returns one device with its users and channel tokens.
func (d *Devices) Get(ctx context.Context, app *App, number uint64) (*Device, error) {
	bucket := ordinal.DeviceBucket(app.No, number)
	key := []any{bucket, int32(app.No), int64(number)}
	b := &pgx.Batch{}
	b.Queue(selectDevice+"WHERE d.bucket = $1 AND d.app_no = $2 AND d.ordinal = $3 AND d.state <> 3", key...)
	b.Queue("SELECT user_id FROM device_user WHERE bucket = $1 AND app_no = $2 AND ordinal = $3 ORDER BY user_id", key...)
	b.Queue(`SELECT channel, token, app_package, environment, updated_at, gone_at FROM channel_token
		WHERE bucket = $1 AND app_no = $2 AND ordinal = $3 ORDER BY channel`, key...)
	results := d.pool.SendBatch(ctx, b)
	defer results.Close()
	rows, err := results.Query()
	if err != nil {
		return nil, fmt.Errorf("get device: %w", err)
	}
	device, err := pgx.CollectExactlyOneRow(rows, scanDevice(app))
	if err != nil {
		return nil, fmt.Errorf("get device: %w", errNoDevice(err))
	}
	if rows, err = results.Query(); err == nil {
		device.Users, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		return nil, fmt.Errorf("get device's users: %w", err)
	}
	if rows, err = results.Query(); err == nil {
		device.Channels, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ChannelToken])
	}
	if err != nil {
		return nil, fmt.Errorf("get device's channel tokens: %w", err)
	}
	return device, nil
}

// List returns up to limit devices in the order of registration, those from the given ordinal on.
func (d *Devices) List(ctx context.Context, app *App, from uint64, limit int) ([]*Device, error) {
	var next int64
	if err := d.pool.QueryRow(ctx, "SELECT next FROM app_ordinal WHERE app_no = $1", int32(app.No)).Scan(&next); err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	var devices []*Device
	for from < uint64(next) && len(devices) < limit { // slice by slice: each has a bucket of its own
		slice := ordinal.Slice(from)
		end := ordinal.Join(slice+1, 0)
		rows, err := d.pool.Query(ctx, selectDevice+`
			WHERE d.bucket = $1 AND d.app_no = $2 AND d.ordinal >= $3 AND d.ordinal < $4 AND d.state <> 3
			ORDER BY d.ordinal LIMIT $5`,
			ordinal.Bucket(app.No, slice), int32(app.No), int64(from), int64(end), limit-len(devices))
		if err != nil {
			return nil, fmt.Errorf("list devices: %w", err)
		}
		page, err := pgx.CollectRows(rows, scanDevice(app))
		if err != nil {
			return nil, fmt.Errorf("list devices: %w", err)
		}
		devices = append(devices, page...)
		from = end
	}
	return devices, nil
}

// Find returns the devices with these ordinals; those that are gone are left out.
func (d *Devices) Find(ctx context.Context, app *App, numbers []uint64) ([]*Device, error) {
	var k deviceKeys
	for _, n := range numbers {
		k.add(app.No, n)
	}
	rows, err := d.pool.Query(ctx, selectDevice+`
		JOIN unnest($1::smallint[], $2::integer[], $3::bigint[]) AS i (bucket, app_no, ordinal) USING (bucket, app_no, ordinal)
		WHERE d.state <> 3 ORDER BY ordinal`, k.buckets, k.apps, k.ordinals)
	if err != nil {
		return nil, fmt.Errorf("find devices: %w", err)
	}
	devices, err := pgx.CollectRows(rows, scanDevice(app))
	if err != nil {
		return nil, fmt.Errorf("find devices: %w", err)
	}
	return devices, nil
}

// RotateSecret makes the device's secret void and returns the new one.
func (d *Devices) RotateSecret(ctx context.Context, app *App, number uint64) (Credentials, error) {
	var generation int32
	var letter rune
	err := d.pool.QueryRow(ctx, `
		UPDATE device SET generation = generation + 1
		WHERE bucket = $1 AND app_no = $2 AND ordinal = $3 AND state <> 3 RETURNING generation, letter`,
		ordinal.DeviceBucket(app.No, number), int32(app.No), int64(number)).Scan(&generation, &letter)
	if err != nil {
		return Credentials{}, fmt.Errorf("rotate secret: %w", errNoDevice(err))
	}
	return credentials(app, byte(letter), number, uint32(generation))
}

// CheckSecret returns the ordinal of the device that a token and secret belong to, WRONG_SECRET if they belong to none. A
// provisional device has returned with that, and becomes active.
func (d *Devices) CheckSecret(ctx context.Context, app *App, tok, secret string) (uint64, error) {
	number, generation, err := app.Codec.Verify(tok, secret)
	if err != nil {
		return 0, errSecret
	}
	var current int32
	var provisional bool
	err = d.pool.QueryRow(ctx, `
		SELECT generation, state = 1 FROM device WHERE bucket = $1 AND app_no = $2 AND ordinal = $3 AND state <> 3`,
		ordinal.DeviceBucket(app.No, number), int32(app.No), int64(number)).Scan(&current, &provisional)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && uint32(current) != generation {
		return 0, errSecret
	}
	if err != nil {
		return 0, fmt.Errorf("check secret: %w", err)
	}
	if provisional {
		return number, d.Activate(ctx, []uint32{app.No}, []uint64{number})
	}
	return number, nil
}

// Activate makes provisional devices that came back with their secret active; others are passed over.
func (d *Devices) Activate(ctx context.Context, apps []uint32, ordinals []uint64) error {
	var k deviceKeys
	for i := range apps {
		k.add(apps[i], ordinals[i])
	}
	k.sort()
	err := storage.InTx(ctx, d.pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			UPDATE device d SET state = 2
			FROM unnest($1::smallint[], $2::integer[], $3::bigint[]) AS i (bucket, app_no, ordinal)
			WHERE d.bucket = i.bucket AND d.app_no = i.app_no AND d.ordinal = i.ordinal AND d.state = 1
			RETURNING d.app_no, d.ordinal`, k.buckets, k.apps, k.ordinals)
		if err != nil {
			return err
		}
		active := members{}
		var app int32
		var number int64
		_, err = pgx.ForEachRow(rows, []any{&app, &number}, func() error {
			active.add(uint32(app), uint64(number))
			return nil
		})
		if err != nil {
			return err
		}
		return changeMembers(ctx, tx, active, true)
	})
	if err != nil {
		return fmt.Errorf("activate devices: %w", err)
	}
	return nil
}

// Remove removes a device for good: its secret is void, its install_id is free, its bindings and channel tokens are gone,
// and what was kept for it has failed. DEVICE_NOT_FOUND if the app has no such device.
func (d *Devices) Remove(ctx context.Context, app *App, number uint64) error {
	return d.remove(ctx, app, number, stateProvisional, stateActive)
}

// RemoveProvisional removes a device if it is provisional still; DEVICE_NOT_FOUND if it has returned meanwhile.
func (d *Devices) RemoveProvisional(ctx context.Context, app *App, number uint64) error {
	return d.remove(ctx, app, number, stateProvisional)
}

// remove removes a device that is in one of the given states.
func (d *Devices) remove(ctx context.Context, app *App, number uint64, states ...int16) error {
	key := []any{ordinal.DeviceBucket(app.No, number), int32(app.No), int64(number)}
	err := storage.InTx(ctx, d.pool, func(tx pgx.Tx) error {
		users, err := lockUsersOfDevice(ctx, tx, app, number)
		if err != nil {
			return err
		}
		var install []byte
		err = tx.QueryRow(ctx, `
			UPDATE device SET state = $4, generation = generation + 1
			WHERE bucket = $1 AND app_no = $2 AND ordinal = $3 AND state = ANY($5) RETURNING install_hash`,
			append(key, stateRemoved, states)...).Scan(&install)
		if err != nil {
			return errNoDevice(err)
		}
		b := &pgx.Batch{}
		if install != nil {
			b.Queue("DELETE FROM install WHERE bucket = $1 AND app_no = $2 AND install_hash = $3",
				installBucket(install), int32(app.No), install)
		}
		for _, user := range users {
			b.Queue("DELETE FROM user_device WHERE bucket = $1 AND app_no = $2 AND user_id = $3 AND ordinal = $4",
				ordinal.UserBucket(app.No, user), int32(app.No), user, int64(number))
		}
		b.Queue("DELETE FROM device_user WHERE bucket = $1 AND app_no = $2 AND ordinal = $3", key...)
		b.Queue("DELETE FROM channel_token WHERE bucket = $1 AND app_no = $2 AND ordinal = $3", key...)
		b.Queue("DELETE FROM held_token WHERE bucket = $1 AND app_no = $2 AND ordinal = $3", key...)
		b.Queue(failKept+"bucket = $1 AND app_no = $2 AND ordinal = $3"+failKeptAs,
			append(key, int16(ledgerv1.Step_STEP_FAILED), int16(ledgerv1.Reason_REASON_UNKNOWN_DEVICE))...)
		if err := tx.SendBatch(ctx, b).Close(); err != nil {
			return err
		}
		gone := members{}
		gone.add(app.No, number)
		return changeMembers(ctx, tx, gone, false)
	})
	if err != nil {
		return fmt.Errorf("remove device: %w", err)
	}
	return nil
}

// failKept and failKeptAs frame a condition on inbox: what it matches moves to the log with a step and a reason, $4 and $5.
const (
	failKept   = "WITH gone AS (DELETE FROM inbox WHERE "
	failKeptAs = ` RETURNING *)
		INSERT INTO delivery_log (bucket, push_id, app_no, ordinal, step, reason, user_id, sent_at)
		SELECT bucket, push_id, app_no, ordinal, $4, $5, user_id, sent_at FROM gone
		ON CONFLICT DO NOTHING`
)

// Provisional returns up to limit provisional devices whose hour is over, by app number.
func (d *Devices) Provisional(ctx context.Context, limit int) (map[uint32][]uint64, error) {
	rows, err := d.pool.Query(ctx, `
		SELECT app_no, ordinal FROM device WHERE state = 1 AND registered_at < now() - $1::interval LIMIT $2`,
		provisionalFor, limit)
	if err != nil {
		return nil, fmt.Errorf("find provisional devices: %w", err)
	}
	over := map[uint32][]uint64{}
	var app int32
	var number int64
	_, err = pgx.ForEachRow(rows, []any{&app, &number}, func() error {
		over[uint32(app)] = append(over[uint32(app)], uint64(number))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find provisional devices: %w", err)
	}
	return over, nil
}

// Tokens returns the tokens of devices by ordinal, also of those that were removed.
func (d *Devices) Tokens(ctx context.Context, app *App, numbers []uint64) (map[uint64]string, error) {
	var k deviceKeys
	for _, n := range numbers {
		k.add(app.No, n)
	}
	rows, err := d.pool.Query(ctx, `
		SELECT d.ordinal, d.letter FROM unnest($1::smallint[], $2::integer[], $3::bigint[]) AS i (bucket, app_no, ordinal)
		JOIN device d USING (bucket, app_no, ordinal)`, k.buckets, k.apps, k.ordinals)
	if err != nil {
		return nil, fmt.Errorf("find tokens: %w", err)
	}
	tokens := make(map[uint64]string, len(numbers))
	var number int64
	var letter rune
	_, err = pgx.ForEachRow(rows, []any{&number, &letter}, func() error {
		tokens[uint64(number)], err = app.Codec.Token(byte(letter), uint64(number))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find tokens: %w", err)
	}
	return tokens, nil
}

// Standing is what decides whether a session of a device may have messages, and which.
type Standing struct {
	Generation    uint32
	Notifications bool
}

// Standings returns the standing of devices as it is now; those that are gone are left out. It reads on the given pool.
func (d *Devices) Standings(
	ctx context.Context, pool *pgxpool.Pool, devices []route.Device,
) (map[route.Device]Standing, error) {
	var k deviceKeys
	for _, device := range devices {
		k.add(device.App, device.Ordinal)
	}
	rows, err := pool.Query(ctx, `
		SELECT i.n, d.generation, d.notifications
		FROM unnest($1::smallint[], $2::integer[], $3::bigint[]) WITH ORDINALITY AS i (bucket, app_no, ordinal, n)
		JOIN device d USING (bucket, app_no, ordinal) WHERE d.state <> 3`, k.buckets, k.apps, k.ordinals)
	if err != nil {
		return nil, fmt.Errorf("read the standing of devices: %w", err)
	}
	found := make(map[route.Device]Standing, len(devices))
	var n int64
	var generation int32
	var notifications bool
	_, err = pgx.ForEachRow(rows, []any{&n, &generation, &notifications}, func() error {
		found[devices[n-1]] = Standing{Generation: uint32(generation), Notifications: notifications}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the standing of devices: %w", err)
	}
	return found, nil
}
