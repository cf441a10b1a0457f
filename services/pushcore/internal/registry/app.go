// Package registry owns apps, their keys, their devices and the bindings of users to devices.
package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/halleypush/halley/pkg/token"
	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/internal/fault"
	"github.com/halleypush/halley/services/pushcore/internal/keyring"
)

const (
	// cacheFor bounds how long a change of an app or a key may stay unseen when its NATS notice is lost.
	cacheFor  = 10 * time.Second
	cacheSize = 10_000
)

// App is a tenant's app with its effective settings. It is immutable.
type App struct {
	No       uint32
	ID       string
	Name     string
	Settings *adminv1.Settings
	Created  time.Time
	// Codec makes and checks the tokens of the app's devices.
	Codec *token.Codec
	// Keys are the device keys of each letter, for gateways.
	Keys []token.AppKeys
}

// Apps reads and writes apps, and caches them.
type Apps struct {
	pool *pgxpool.Pool
	ring *keyring.Ring

	byID *cache[string, *App]
	byNo *cache[uint32, *App]
}

// NewApps returns the apps of a database.
func NewApps(pool *pgxpool.Pool, ring *keyring.Ring) *Apps {
	return &Apps{
		pool: pool,
		ring: ring,
		byID: newCache[string, *App](),
		byNo: newCache[uint32, *App](),
	}
}

// Forget drops an app from the cache, after a change.
func (a *Apps) Forget(id string) {
	if app, ok := a.byID.get(id); ok {
		a.byNo.remove(app.No)
	}
	a.byID.remove(id)
}

const selectApp = "SELECT app_no, app_id, name, settings, created_at FROM app "

// Get returns an app by its id, APP_NOT_FOUND if there is none.
func (a *Apps) Get(ctx context.Context, id string) (*App, error) {
	if app, ok := a.byID.get(id); ok {
		return app, nil
	}
	return a.load(ctx, selectApp+"WHERE app_id = $1", id)
}

// ByNumber returns an app by its number.
func (a *Apps) ByNumber(ctx context.Context, no uint32) (*App, error) {
	if app, ok := a.byNo.get(no); ok {
		return app, nil
	}
	return a.load(ctx, selectApp+"WHERE app_no = $1", int32(no))
}

func (a *Apps) load(ctx context.Context, sql string, arg any) (*App, error) {
	rows, err := a.pool.Query(ctx, sql, arg)
	if err != nil {
		return nil, fmt.Errorf("load app: %w", err)
	}
	app, err := pgx.CollectExactlyOneRow(rows, a.scan)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fault.NotFound("APP_NOT_FOUND", "there is no app %v", arg)
	}
	if err != nil {
		return nil, fmt.Errorf("load app: %w", err)
	}
	a.byID.add(app.ID, app)
	a.byNo.add(app.No, app)
	return app, nil
}

func (a *Apps) scan(row pgx.CollectableRow) (*App, error) {
	var no int32
	var settings []byte
	app := &App{Settings: &adminv1.Settings{}}
	if err := row.Scan(&no, &app.ID, &app.Name, &settings, &app.Created); err != nil {
		return nil, err
	}
	app.No = uint32(no)
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(settings, app.Settings); err != nil {
		return nil, fmt.Errorf("settings of app %s: %w", app.ID, err)
	}
	app.Settings = effective(app.Settings)
	keys, err := a.ring.AppKeys(app.No)
	if err != nil {
		return nil, err
	}
	app.Keys = keys
	app.Codec, err = token.NewCodec(app.No, keys...)
	return app, err
}

// Create makes an app; APP_EXISTS if its id is taken.
func (a *Apps) Create(ctx context.Context, id, name string, settings *adminv1.Settings) (*App, error) {
	stored, err := storedSettings(settings)
	if err != nil {
		return nil, err
	}
	err = pgx.BeginFunc(ctx, a.pool, func(tx pgx.Tx) error {
		var no int32
		err := tx.QueryRow(ctx, "INSERT INTO app (app_id, name, settings) VALUES ($1, $2, $3) RETURNING app_no",
			id, name, stored).Scan(&no)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "INSERT INTO app_ordinal (app_no) VALUES ($1)", no)
		return err
	})
	var server *pgconn.PgError
	if errors.As(err, &server) && server.Code == "23505" {
		return nil, &fault.Error{
			Code: codes.AlreadyExists, Reason: "APP_EXISTS", Field: "app", Message: fmt.Sprintf("the app %q exists", id),
		}
	}
	if err != nil {
		return nil, fmt.Errorf("create app: %w", err)
	}
	return a.load(ctx, selectApp+"WHERE app_id = $1", id)
}

// Update changes an app's name, if not empty, and the settings that are set.
func (a *Apps) Update(ctx context.Context, id, name string, change *adminv1.Settings) (*App, error) {
	err := pgx.BeginFunc(ctx, a.pool, func(tx pgx.Tx) error {
		var stored []byte
		err := tx.QueryRow(ctx, "SELECT settings FROM app WHERE app_id = $1 FOR UPDATE", id).Scan(&stored)
		if errors.Is(err, pgx.ErrNoRows) {
			return fault.NotFound("APP_NOT_FOUND", "there is no app %s", id)
		}
		if err != nil {
			return err
		}
		settings := &adminv1.Settings{}
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(stored, settings); err != nil {
			return err
		}
		change.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
			settings.ProtoReflect().Set(field, value) // not proto.Merge, which would mix two durations
			return true
		})
		if stored, err = storedSettings(settings); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE app SET settings = $2, name = coalesce(nullif($3, ''), name) WHERE app_id = $1",
			id, stored, name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("update app: %w", err)
	}
	a.Forget(id)
	return a.load(ctx, selectApp+"WHERE app_id = $1", id)
}

// List returns up to limit apps in the order of their ids, those after the given id.
func (a *Apps) List(ctx context.Context, after string, limit int) ([]*App, error) {
	rows, err := a.pool.Query(ctx, selectApp+"WHERE app_id > $1 ORDER BY app_id LIMIT $2", after, limit)
	if err != nil {
		return nil, fmt.Errorf("list apps: %w", err)
	}
	apps, err := pgx.CollectRows(rows, a.scan)
	if err != nil {
		return nil, fmt.Errorf("list apps: %w", err)
	}
	return apps, nil
}

// storedSettings checks settings against each other and returns them as they are stored: only what was set, so that later
// changes of a default reach the app.
func storedSettings(s *adminv1.Settings) ([]byte, error) {
	if s == nil {
		s = &adminv1.Settings{}
	}
	e := effective(s)
	low, beat, high := e.GetKeepAliveMin().AsDuration(), e.GetKeepAlive().AsDuration(), e.GetKeepAliveMax().AsDuration()
	if low > beat || beat > high {
		return nil, fault.Invalid("settings.keep_alive",
			"must lie between keep_alive_min and keep_alive_max, but %v is not between %v and %v", beat, low, high)
	}
	stored, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode settings: %w", err)
	}
	return stored, nil
}

// effective returns the settings with the defaults that halley.admin.v1.Settings documents in place of what is not set.
func effective(s *adminv1.Settings) *adminv1.Settings {
	e := proto.CloneOf(s)
	if e.BindPolicy == adminv1.Settings_BIND_POLICY_UNSPECIFIED {
		e.BindPolicy = adminv1.Settings_PROOF
	}
	for _, d := range []struct {
		field *(*durationpb.Duration)
		value time.Duration
	}{
		{&e.KeepAlive, 270 * time.Second},
		{&e.KeepAliveMin, 10 * time.Second},
		{&e.KeepAliveMax, 600 * time.Second},
		{&e.AckTimeout, 10 * time.Second},
	} {
		if *d.field == nil {
			*d.field = durationpb.New(d.value)
		}
	}
	if e.Channel == pushv1.Policy_CHANNEL_UNSPECIFIED {
		e.Channel = pushv1.Policy_OWN_FIRST
	}
	for _, d := range []struct {
		field *uint32
		value uint32
	}{
		{&e.TokenGuardPercent, 10},
		{&e.TokenGuardMin, 50},
		{&e.DeviceCap, 100},
		{&e.RegistrationsPerMinute, 60_000},
		{&e.RegistrationsPerMinuteAddress, 60},
		{&e.RegistrationsPerMinuteNetwork, 600},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return e
}
