package registry

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc/codes"

	"github.com/halleypush/halley/pkg/ordinal"
	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/pushcore/internal/fault"
	"github.com/halleypush/halley/services/pushcore/internal/keyring"
	"github.com/halleypush/halley/services/pushcore/internal/storage"
)

const (
	// MaxDevicesPerUser bounds the devices bound to one user.
	MaxDevicesPerUser = 100
	// MaxUsersPerDevice bounds the users that one device is bound to.
	MaxUsersPerDevice = 10

	proofAge = time.Hour
	// bindRetry is when the sweeper looks at what a bind made, if the hand-over right after the bind was lost.
	bindRetry = 5 * time.Second
)

var errSecret = &fault.Error{
	Code: codes.Unauthenticated, Reason: "WRONG_SECRET", Message: "the device token or secret is wrong or revoked",
}

// Users binds users to devices.
type Users struct {
	pool *pgxpool.Pool
	ring *keyring.Ring
	keys *Keys
}

// NewUsers returns the users of a database.
func NewUsers(pool *pgxpool.Pool, ring *keyring.Ring, keys *Keys) *Users {
	return &Users{pool: pool, ring: ring, keys: keys}
}

// OpaqueID returns the id that phones know a user by.
func (u *Users) OpaqueID(app *App, user string) string { return u.ring.UserID(app.No, user) }

// Binding is one device of a user.
type Binding struct {
	Ordinal uint64
	Epoch   int64
	Bound   time.Time
}

// LockKeys returns the advisory locks that serialise bindings of users with pushes to them, in the order to take them: a
// bind takes its user's lock exclusively, a push takes its users' shared. Whichever comes second sees what the first
// committed, so no device misses a push. 256 locks per app keep the server's lock table small.
func LockKeys(app uint32, users []string) []int64 {
	keys := make([]int64, len(users))
	for i, user := range users {
		keys[i] = int64(app)<<8 | int64(ordinal.UserBucket(app, user)%256)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func lockUsers(ctx context.Context, tx pgx.Tx, app uint32, users []string) error {
	for _, key := range LockKeys(app, users) {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", key); err != nil {
			return fmt.Errorf("lock users: %w", err)
		}
	}
	return nil
}

// lockUsersOfDevice locks and returns the users of a device.
func lockUsersOfDevice(ctx context.Context, tx pgx.Tx, app *App, number uint64) ([]string, error) {
	for {
		before, err := usersOfDevice(ctx, tx, app, number)
		if err != nil {
			return nil, err
		}
		if err := lockUsers(ctx, tx, app.No, before); err != nil {
			return nil, err
		}
		after, err := usersOfDevice(ctx, tx, app, number)
		if err != nil {
			return nil, err
		}
		if slices.Equal(before, after) {
			return after, nil
		}
	}
}

func usersOfDevice(ctx context.Context, tx pgx.Tx, app *App, number uint64) ([]string, error) {
	rows, err := tx.Query(ctx,
		"SELECT user_id FROM device_user WHERE bucket = $1 AND app_no = $2 AND ordinal = $3 ORDER BY user_id",
		ordinal.DeviceBucket(app.No, number), int32(app.No), int64(number))
	if err != nil {
		return nil, fmt.Errorf("read the device's users: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// Bind binds a device to a user. What is live for the user and none of its devices has confirmed is kept for this device,
// too; kept says whether there was any. Binding again makes the device the user's latest and keeps nothing anew.
func (u *Users) Bind(ctx context.Context, app *App, user string, number uint64) (bound time.Time, kept bool, err error) {
	err = storage.InTx(ctx, u.pool, func(tx pgx.Tx) error {
		if err := lockUsers(ctx, tx, app.No, []string{user}); err != nil {
			return err
		}
		if err := checkBindLimits(ctx, tx, app, user, number); err != nil {
			return err
		}
		var epoch int64
		var fresh bool
		err := tx.QueryRow(ctx, `
			INSERT INTO user_device (bucket, app_no, user_id, ordinal, epoch)
			VALUES ($1, $2, $3, $4, nextval('binding_epoch'))
			ON CONFLICT (bucket, app_no, user_id, ordinal) DO UPDATE SET bound_at = now()
			RETURNING epoch, bound_at, xmax = 0`,
			ordinal.UserBucket(app.No, user), int32(app.No), user, int64(number)).Scan(&epoch, &bound, &fresh)
		if err != nil || !fresh {
			return err
		}
		kept, err = keepForNewBinding(ctx, tx, app, user, number, epoch)
		return err
	})
	if err != nil {
		return time.Time{}, false, fmt.Errorf("bind: %w", err)
	}
	return bound, kept, nil
}

func checkBindLimits(ctx context.Context, tx pgx.Tx, app *App, user string, number uint64) error {
	bucket := ordinal.DeviceBucket(app.No, number)
	var devices, users int
	// The device row is locked so that two users' binds count each other.
	err := tx.QueryRow(ctx, `
		SELECT
			(SELECT count(*) FROM user_device WHERE bucket = $4 AND app_no = $2 AND user_id = $5 AND ordinal <> $3),
			(SELECT count(*) FROM device_user u WHERE u.bucket = d.bucket AND u.app_no = d.app_no AND u.ordinal = d.ordinal
				AND user_id <> $5)
		FROM device d WHERE bucket = $1 AND app_no = $2 AND ordinal = $3 AND state <> 3 FOR NO KEY UPDATE`,
		bucket, int32(app.No), int64(number), ordinal.UserBucket(app.No, user), user).Scan(&devices, &users)
	switch {
	case err != nil:
		return errNoDevice(err)
	case devices >= MaxDevicesPerUser:
		return fault.Exhausted("TOO_MANY_DEVICES", 0, "a user may have %d devices; unbind one first", MaxDevicesPerUser)
	case users >= MaxUsersPerDevice:
		return fault.Exhausted("TOO_MANY_USERS", 0, "a device may have %d users; unbind one first", MaxUsersPerDevice)
	}
	return nil
}

// keepForNewBinding writes the device's side of a new binding and the deliveries that come with it.
func keepForNewBinding(ctx context.Context, tx pgx.Tx, app *App, user string, number uint64, epoch int64) (bool, error) {
	bucket := ordinal.DeviceBucket(app.No, number)
	b := &pgx.Batch{}
	b.Queue("INSERT INTO device_user (bucket, app_no, ordinal, user_id, epoch) VALUES ($1, $2, $3, $4, $5)",
		bucket, int32(app.No), int64(number), user, epoch)
	b.Queue(`
		INSERT INTO inbox (bucket, app_no, ordinal, push_id, expires_at, next_try, notification, collapse_key, user_id, bind_epoch,
			policy, claim_at)
		SELECT $1, $2, $3, u.push_id, u.expires_at, least(u.expires_at, now() + $7, now() + p.claim_after), p.notification,
			p.collapse_key, $4, $5, p.policy, now() + p.claim_after
		FROM user_inbox u JOIN push p USING (push_id)
		WHERE u.bucket = $6 AND u.app_no = $2 AND u.user_id = $4 AND u.expired_at IS NULL AND u.expires_at > now()
		ON CONFLICT DO NOTHING`,
		bucket, int32(app.No), int64(number), user, epoch, ordinal.UserBucket(app.No, user), bindRetry)
	b.Queue(`
		WITH extended AS (
			UPDATE user_inbox SET devices = devices + 1
			WHERE bucket = $1 AND app_no = $2 AND user_id = $3 AND expired_at IS NULL AND expires_at > now()
			RETURNING push_id)
		UPDATE push SET buckets = buckets || $4::smallint
		WHERE push_id IN (SELECT push_id FROM extended) AND NOT buckets @> ARRAY[$4::smallint]`,
		ordinal.UserBucket(app.No, user), int32(app.No), user, bucket)
	results := tx.SendBatch(ctx, b)
	defer results.Close()
	if _, err := results.Exec(); err != nil {
		return false, fmt.Errorf("bind the device: %w", err)
	}
	tag, err := results.Exec()
	if err != nil {
		return false, fmt.Errorf("keep the user's pushes for the device: %w", err)
	}
	if _, err := results.Exec(); err != nil {
		return false, fmt.Errorf("extend the user's pushes: %w", err)
	}
	return tag.RowsAffected() > 0, results.Close()
}

// Unbind ends a device's binding to a user, or to all its users if user is empty. What is kept on the device for them has
// failed. Ending a binding that is not there changes nothing.
func (u *Users) Unbind(ctx context.Context, app *App, user string, number uint64) error {
	err := storage.InTx(ctx, u.pool, func(tx pgx.Tx) error {
		users := []string{user}
		var err error
		if user != "" {
			err = lockUsers(ctx, tx, app.No, users)
		} else {
			users, err = lockUsersOfDevice(ctx, tx, app, number)
		}
		if err != nil || len(users) == 0 {
			return err
		}
		bucket := ordinal.DeviceBucket(app.No, number)
		b := &pgx.Batch{}
		for _, user := range users {
			b.Queue("DELETE FROM user_device WHERE bucket = $1 AND app_no = $2 AND user_id = $3 AND ordinal = $4",
				ordinal.UserBucket(app.No, user), int32(app.No), user, int64(number))
		}
		b.Queue("DELETE FROM device_user WHERE bucket = $1 AND app_no = $2 AND ordinal = $3 AND user_id = ANY($4)",
			bucket, int32(app.No), int64(number), users)
		b.Queue(failKept+"bucket = $1 AND app_no = $2 AND ordinal = $3 AND user_id = ANY($6)"+failKeptAs,
			bucket, int32(app.No), int64(number), int16(ledgerv1.Step_STEP_FAILED), int16(ledgerv1.Reason_REASON_UNBOUND), users)
		return tx.SendBatch(ctx, b).Close()
	})
	if err != nil {
		return fmt.Errorf("unbind: %w", err)
	}
	return nil
}

// Devices returns a user's devices, bound last first.
func (u *Users) Devices(ctx context.Context, app *App, user string) ([]Binding, error) {
	rows, err := u.pool.Query(ctx, `
		SELECT ordinal, epoch, bound_at FROM user_device
		WHERE bucket = $1 AND app_no = $2 AND user_id = $3 ORDER BY bound_at DESC, epoch DESC`,
		ordinal.UserBucket(app.No, user), int32(app.No), user)
	if err != nil {
		return nil, fmt.Errorf("read the user's devices: %w", err)
	}
	bindings, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Binding, error) {
		var number int64
		var b Binding
		err := row.Scan(&number, &b.Epoch, &b.Bound)
		b.Ordinal = uint64(number)
		return b, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the user's devices: %w", err)
	}
	return bindings, nil
}

// CheckProof decides whether a phone may bind itself to a user, by the app's bind policy.
func (u *Users) CheckProof(ctx context.Context, app *App, user, proof string) error {
	refuse := func(code codes.Code, field, message string) error {
		return &fault.Error{Code: code, Reason: "BIND_REFUSED", Field: field, Message: message}
	}
	switch app.Settings.GetBindPolicy() {
	case adminv1.Settings_OPEN:
		return nil
	case adminv1.Settings_SERVER_ONLY:
		return refuse(codes.PermissionDenied, "", "only the app's business server binds users (bind_policy SERVER_ONLY)")
	}
	if proof == "" {
		return refuse(codes.PermissionDenied, "proof", "a JWT of the app's business server is needed (bind_policy PROOF)")
	}
	keys, err := u.keys.proofKeys(ctx, app)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if validProof(proof, key, app.ID, user) {
			return nil
		}
	}
	return refuse(codes.PermissionDenied, "proof",
		"must be a JWT (HS256) signed with a live server key of the app: sub = user, aud = app, exp within an hour of now")
}

func validProof(proof string, key []byte, app, user string) bool {
	var claims jwt.RegisteredClaims
	_, err := jwt.ParseWithClaims(proof, &claims, func(*jwt.Token) (any, error) { return key, nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithAudience(app), jwt.WithSubject(user),
		jwt.WithExpirationRequired(), jwt.WithLeeway(time.Minute))
	return err == nil && time.Until(claims.ExpiresAt.Time) <= proofAge+time.Minute
}

// DeviceBinding is a binding as a delivery remembers it.
type DeviceBinding struct {
	App     uint32
	Ordinal uint64
	User    string
	Epoch   int64
}

// Over returns which of the bindings are over: ended, or made again since. It reads on the given pool.
func (u *Users) Over(ctx context.Context, pool *pgxpool.Pool, bindings []DeviceBinding) (map[DeviceBinding]bool, error) {
	var buckets []int16
	var apps []int32
	var ordinals, epochs []int64
	var users []string
	for _, b := range bindings {
		buckets = append(buckets, ordinal.DeviceBucket(b.App, b.Ordinal))
		apps = append(apps, int32(b.App))
		ordinals = append(ordinals, int64(b.Ordinal))
		users = append(users, b.User)
		epochs = append(epochs, b.Epoch)
	}
	rows, err := pool.Query(ctx, `
		SELECT i.n FROM unnest($1::smallint[], $2::integer[], $3::bigint[], $4::text[], $5::bigint[]) WITH ORDINALITY
			AS i (bucket, app_no, ordinal, user_id, epoch, n)
		LEFT JOIN device_user d USING (bucket, app_no, ordinal, user_id)
		WHERE d.epoch IS DISTINCT FROM i.epoch`, buckets, apps, ordinals, users, epochs)
	if err != nil {
		return nil, fmt.Errorf("check bindings: %w", err)
	}
	over := map[DeviceBinding]bool{}
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&n}, func() error {
		over[bindings[n-1]] = true
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("check bindings: %w", err)
	}
	return over, nil
}
