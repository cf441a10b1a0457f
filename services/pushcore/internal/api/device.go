package api

import (
	"context"
	"errors"
	"log/slog"

	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/types/known/timestamppb"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/internal/dispatch"
	"github.com/halleypush/halley/services/pushcore/internal/keyring"
	"github.com/halleypush/halley/services/pushcore/internal/registry"
	"github.com/halleypush/halley/services/pushcore/internal/route"
)

var (
	_ pushv1.DeviceServiceServer = (*Devices)(nil)
	_ pushv1.UserServiceServer   = (*Users)(nil)
)

// Devices serves halley.push.v1.DeviceService.
type Devices struct {
	pushv1.UnimplementedDeviceServiceServer

	devices *registry.Devices
	users   *registry.Users
	pokes   pokes
	cursors cursors
}

// NewDevices returns the device service.
func NewDevices(
	devices *registry.Devices, users *registry.Users, poker *dispatch.Poker, pool *pgxpool.Pool, ring *keyring.Ring,
	log *slog.Logger,
) *Devices {
	return &Devices{devices: devices, users: users, pokes: pokes{poker, pool, log}, cursors: cursors{ring}}
}

// pokes tells the session of a device what happened to it, after the commit. A poke that is lost only delays: the session
// finds out at its next Open or Pull.
type pokes struct {
	poker *dispatch.Poker
	pool  *pgxpool.Pool
	log   *slog.Logger
}

func (p pokes) device(ctx context.Context, app *registry.App, number uint64, action gatewayv1.PokeRequest_Poke_Action) {
	err := p.poker.Devices(ctx, p.pool, []route.Device{{App: app.No, Ordinal: number}}, action)
	if err != nil && !errors.Is(err, context.Canceled) {
		p.log.WarnContext(ctx, "a session was not told; it finds out later", "action", action, "error", err)
	}
}

// GetDevice returns one device.
func (d *Devices) GetDevice(ctx context.Context, r *pushv1.GetDeviceRequest) (*pushv1.GetDeviceResponse, error) {
	number, err := registry.Ordinal(appOf(ctx), r.GetDevice())
	if err != nil {
		return nil, err
	}
	device, err := d.devices.Get(ctx, appOf(ctx), number)
	if err != nil {
		return nil, err
	}
	return &pushv1.GetDeviceResponse{Device: showDevice(device)}, nil
}

func showDevice(d *registry.Device) *pushv1.Device {
	shown := &pushv1.Device{
		Token: d.Token, State: pushv1.Device_ACTIVE, Online: d.Online, Notifications: d.Notifications, Platform: d.Platform,
		Brand: d.Brand, Model: d.Model, OsVersion: d.OSVersion, AppVersion: d.AppVersion, SdkVersion: d.SDKVersion,
		Locale: d.Locale, TimeZone: d.TimeZone, Users: d.Users, RegisteredAt: timestamppb.New(d.Registered),
	}
	if d.Provisional {
		shown.State = pushv1.Device_PROVISIONAL
	}
	if d.LastSeen != nil {
		shown.LastSeenAt = timestamppb.New(*d.LastSeen)
	}
	for _, c := range d.Channels {
		token := &pushv1.Device_ChannelToken{
			Channel: c.Channel, TokenSuffix: suffix(c.Token), AppPackage: c.AppPackage,
			Environment: c.Environment, UpdatedAt: timestamppb.New(c.Updated),
		}
		if c.Gone != nil {
			token.GoneAt = timestamppb.New(*c.Gone)
		}
		shown.ChannelTokens = append(shown.ChannelTokens, token)
	}
	return shown
}

// suffix returns as much of a vendor's token as is shown.
func suffix(token string) string { return token[max(0, len(token)-6):] }

// ListDevices lists the app's devices, or one user's.
func (d *Devices) ListDevices(ctx context.Context, r *pushv1.ListDevicesRequest) (*pushv1.ListDevicesResponse, error) {
	app := appOf(ctx)
	response := &pushv1.ListDevicesResponse{}
	if r.GetUser() != "" {
		bindings, err := d.users.Devices(ctx, app, r.GetUser())
		if err != nil {
			return nil, err
		}
		numbers := make([]uint64, len(bindings))
		for i, b := range bindings {
			numbers[i] = b.Ordinal
		}
		devices, err := d.devices.Find(ctx, app, numbers)
		for _, device := range devices {
			response.Devices = append(response.Devices, showDevice(device))
		}
		return response, err
	}
	var from uint64
	if err := d.cursors.open("devices", app.ID, r.GetPageToken(), &from); err != nil {
		return nil, err
	}
	size := pageSize(r.GetPageSize(), 100)
	devices, err := d.devices.List(ctx, app, from, size)
	if err != nil {
		return nil, err
	}
	for _, device := range devices {
		response.Devices = append(response.Devices, showDevice(device))
	}
	if len(devices) == size {
		response.NextPageToken, err = d.cursors.seal("devices", app.ID, devices[size-1].Ordinal+1)
	}
	return response, err
}

// DeleteDevice removes a device for good.
func (d *Devices) DeleteDevice(ctx context.Context, r *pushv1.DeleteDeviceRequest) (*pushv1.DeleteDeviceResponse, error) {
	number, err := registry.Ordinal(appOf(ctx), r.GetDevice())
	if err != nil {
		return nil, err
	}
	if err := d.devices.Remove(ctx, appOf(ctx), number); err != nil {
		return nil, err
	}
	d.pokes.device(ctx, appOf(ctx), number, gatewayv1.PokeRequest_Poke_GONE)
	return &pushv1.DeleteDeviceResponse{}, nil
}

// RotateSecret makes a device's secret void and returns the new one.
func (d *Devices) RotateSecret(ctx context.Context, r *pushv1.RotateSecretRequest) (*pushv1.RotateSecretResponse, error) {
	number, err := registry.Ordinal(appOf(ctx), r.GetDevice())
	if err != nil {
		return nil, err
	}
	fresh, err := d.devices.RotateSecret(ctx, appOf(ctx), number)
	if err != nil {
		return nil, err
	}
	d.pokes.device(ctx, appOf(ctx), number, gatewayv1.PokeRequest_Poke_GONE)
	return &pushv1.RotateSecretResponse{Secret: fresh.Secret}, nil
}

// Users serves halley.push.v1.UserService.
type Users struct {
	pushv1.UnimplementedUserServiceServer

	users   *registry.Users
	devices *registry.Devices
	pokes   pokes
}

// NewUsers returns the user service.
func NewUsers(
	users *registry.Users, devices *registry.Devices, poker *dispatch.Poker, pool *pgxpool.Pool, log *slog.Logger,
) *Users {
	return &Users{users: users, devices: devices, pokes: pokes{poker, pool, log}}
}

// Bind binds a device to a user; a device that is online gets what is kept for the user.
func (u *Users) Bind(ctx context.Context, r *pushv1.BindRequest) (*pushv1.BindResponse, error) {
	app := appOf(ctx)
	number, err := registry.Ordinal(app, r.GetDevice())
	if err != nil {
		return nil, err
	}
	bound, kept, err := u.users.Bind(ctx, app, r.GetUser(), number)
	if err != nil {
		return nil, err
	}
	if kept {
		u.pokes.device(ctx, app, number, gatewayv1.PokeRequest_Poke_PULL)
	}
	return &pushv1.BindResponse{BoundAt: timestamppb.New(bound)}, nil
}

// Unbind ends a binding.
func (u *Users) Unbind(ctx context.Context, r *pushv1.UnbindRequest) (*pushv1.UnbindResponse, error) {
	number, err := registry.Ordinal(appOf(ctx), r.GetDevice())
	if err != nil {
		return nil, err
	}
	if err := u.users.Unbind(ctx, appOf(ctx), r.GetUser(), number); err != nil {
		return nil, err
	}
	return &pushv1.UnbindResponse{}, nil
}

// ListUserDevices lists a user's devices, bound last first.
func (u *Users) ListUserDevices(
	ctx context.Context, r *pushv1.ListUserDevicesRequest,
) (*pushv1.ListUserDevicesResponse, error) {
	bindings, err := u.users.Devices(ctx, appOf(ctx), r.GetUser())
	if err != nil {
		return nil, err
	}
	numbers := make([]uint64, len(bindings))
	for i, b := range bindings {
		numbers[i] = b.Ordinal
	}
	tokens, err := u.devices.Tokens(ctx, appOf(ctx), numbers)
	if err != nil {
		return nil, err
	}
	response := &pushv1.ListUserDevicesResponse{}
	for _, b := range bindings {
		response.Devices = append(response.Devices, &pushv1.ListUserDevicesResponse_UserDevice{
			Device: tokens[b.Ordinal], BoundAt: timestamppb.New(b.Bound),
		})
	}
	return response, nil
}
