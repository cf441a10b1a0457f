package api

import (
	"context"
	"log/slog"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/halleypush/halley/pkg/subject"
	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/pushcore/internal/keyring"
	"github.com/halleypush/halley/services/pushcore/internal/registry"
)

var _ adminv1.AdminServiceServer = (*Admin)(nil)

// Admin serves halley.admin.v1.AdminService.
type Admin struct {
	adminv1.UnimplementedAdminServiceServer

	apps    *registry.Apps
	keys    *registry.Keys
	conn    *nats.Conn
	asker   Asker
	cursors cursors
	log     *slog.Logger

	channels  *registry.Channels
	tokens    *registry.VoidTokens
	devices   *registry.Devices
	publicURL string
}

// NewAdmin returns the admin service. It tells other processes of changes over conn, and asks senders over it. publicURL is
// where vendors reach the receipts' address, without a slash at its end.
func NewAdmin(
	apps *registry.Apps, keys *registry.Keys, channels *registry.Channels, tokens *registry.VoidTokens, devices *registry.Devices, publicURL string,
	conn *nats.Conn, ring *keyring.Ring, log *slog.Logger,
) *Admin {
	return &Admin{
		apps: apps, keys: keys, conn: conn, asker: conn, cursors: cursors{ring}, log: log, channels: channels,
		tokens: tokens, devices: devices, publicURL: publicURL,
	}
}

// changed tells every process to forget what it knows of an app. Caches also expire by themselves.
func (a *Admin) changed(ctx context.Context, app string) {
	data, err := proto.Marshal(&gatewayv1.AppChanged{App: app})
	if err == nil {
		err = a.conn.Publish(subject.AppChanged, data)
	}
	if err != nil {
		a.log.WarnContext(ctx, "other processes see the change only when their caches expire", "app", app, "error", err)
	}
}

func showApp(app *registry.App) *adminv1.App {
	return &adminv1.App{App: app.ID, Name: app.Name, Settings: app.Settings, CreatedAt: timestamppb.New(app.Created)}
}

func showKey(k *registry.Key) *adminv1.Key {
	shown := &adminv1.Key{
		KeyId: k.ID, Kind: k.Kind, Prefix: k.Prefix, Note: k.Note, CreatedAt: timestamppb.New(k.Created),
	}
	if k.Revoked != nil {
		shown.RevokedAt = timestamppb.New(*k.Revoked)
	}
	return shown
}

// CreateApp makes an app with its first two keys.
func (a *Admin) CreateApp(ctx context.Context, r *adminv1.CreateAppRequest) (*adminv1.CreateAppResponse, error) {
	app, err := a.apps.Create(ctx, r.GetApp(), r.GetName(), r.GetSettings())
	if err != nil {
		return nil, err
	}
	response := &adminv1.CreateAppResponse{App: showApp(app)}
	if _, response.ServerKey, err = a.keys.Create(ctx, app, adminv1.Key_SERVER, "first"); err != nil {
		return nil, err
	}
	if _, response.ClientKey, err = a.keys.Create(ctx, app, adminv1.Key_CLIENT, "first"); err != nil {
		return nil, err
	}
	a.changed(ctx, app.ID)
	return response, nil
}

// GetApp returns one app.
func (a *Admin) GetApp(ctx context.Context, r *adminv1.GetAppRequest) (*adminv1.GetAppResponse, error) {
	app, err := a.apps.Get(ctx, r.GetApp())
	if err != nil {
		return nil, err
	}
	return &adminv1.GetAppResponse{App: showApp(app)}, nil
}

// ListApps lists the apps by id.
func (a *Admin) ListApps(ctx context.Context, r *adminv1.ListAppsRequest) (*adminv1.ListAppsResponse, error) {
	var after string
	if err := a.cursors.open("apps", "", r.GetPageToken(), &after); err != nil {
		return nil, err
	}
	size := pageSize(r.GetPageSize(), 100)
	apps, err := a.apps.List(ctx, after, size)
	if err != nil {
		return nil, err
	}
	response := &adminv1.ListAppsResponse{}
	for _, app := range apps {
		response.Apps = append(response.Apps, showApp(app))
	}
	if len(apps) == size {
		response.NextPageToken, err = a.cursors.seal("apps", "", apps[size-1].ID)
	}
	return response, err
}

// UpdateApp changes an app's name and settings.
func (a *Admin) UpdateApp(ctx context.Context, r *adminv1.UpdateAppRequest) (*adminv1.UpdateAppResponse, error) {
	app, err := a.apps.Update(ctx, r.GetApp(), r.GetName(), r.GetSettings())
	if err != nil {
		return nil, err
	}
	a.changed(ctx, app.ID)
	return &adminv1.UpdateAppResponse{App: showApp(app)}, nil
}

// CreateKey makes a key and returns it, once.
func (a *Admin) CreateKey(ctx context.Context, r *adminv1.CreateKeyRequest) (*adminv1.CreateKeyResponse, error) {
	app, err := a.apps.Get(ctx, r.GetApp())
	if err != nil {
		return nil, err
	}
	key, secret, err := a.keys.Create(ctx, app, r.GetKind(), r.GetNote())
	if err != nil {
		return nil, err
	}
	a.changed(ctx, app.ID)
	return &adminv1.CreateKeyResponse{Key: showKey(key), Secret: secret}, nil
}

// ListKeys lists an app's keys.
func (a *Admin) ListKeys(ctx context.Context, r *adminv1.ListKeysRequest) (*adminv1.ListKeysResponse, error) {
	app, err := a.apps.Get(ctx, r.GetApp())
	if err != nil {
		return nil, err
	}
	keys, err := a.keys.List(ctx, app)
	response := &adminv1.ListKeysResponse{}
	for _, k := range keys {
		response.Keys = append(response.Keys, showKey(k))
	}
	return response, err
}

// RevokeKey makes a key void.
func (a *Admin) RevokeKey(ctx context.Context, r *adminv1.RevokeKeyRequest) (*adminv1.RevokeKeyResponse, error) {
	app, err := a.apps.Get(ctx, r.GetApp())
	if err != nil {
		return nil, err
	}
	if err := a.keys.Revoke(ctx, app, r.GetKeyId()); err != nil {
		return nil, err
	}
	a.changed(ctx, app.ID)
	return &adminv1.RevokeKeyResponse{}, nil
}
