package rig

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/halleypush/halley/pkg/client"
	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// Site is where a running Halley is.
type Site struct {
	// URL is that of REST and of the phones' HTTPS calls, WebSocket that of MQTT.
	URL, WebSocket string
	// GRPC, Internal and MQTT are host:port.
	GRPC, Internal, MQTT string
	AdminToken           string
}

// App is an app with its keys, and a business server's client of it.
type App struct {
	Site
	ID, ServerKey, ClientKey string
	Client                   *client.Client
}

// Admin returns a client of the admin API. It is closed with the test.
func (s Site) Admin(t testing.TB) *client.Admin {
	t.Helper()
	admin, err := client.NewAdmin(s.GRPC, s.AdminToken, client.WithPlaintext())
	if err != nil {
		t.Fatalf("admin client: %v", err)
	}
	t.Cleanup(func() { _ = admin.Close() })
	return admin
}

// CreateApp makes an app in which everything may register and bind that wants to, and whose keep-alives are as short as they
// may be.
func (s Site) CreateApp(t testing.TB, id string) *App {
	t.Helper()
	created, err := s.Admin(t).CreateApp(t.Context(), &adminv1.CreateAppRequest{App: id, Settings: &adminv1.Settings{
		BindPolicy: adminv1.Settings_OPEN, DeviceCap: 1000,
		KeepAlive: durationpb.New(10 * time.Second), KeepAliveMin: durationpb.New(5 * time.Second),
		RegistrationsPerMinute: 1e6, RegistrationsPerMinuteAddress: 1e6, RegistrationsPerMinuteNetwork: 1e6,
	}})
	if err != nil {
		t.Fatalf("create app: %v", err)
	}
	return s.Open(t, id, created.GetServerKey(), created.GetClientKey())
}

// Open returns an app that there is.
func (s Site) Open(t testing.TB, id, serverKey, clientKey string) *App {
	t.Helper()
	business, err := client.New(s.GRPC, serverKey, client.WithPlaintext())
	if err != nil {
		t.Fatalf("client: %v", err)
	}
	t.Cleanup(func() { _ = business.Close() })
	return &App{Site: s, ID: id, ServerKey: serverKey, ClientKey: clientKey, Client: business}
}

// ToDevices is the audience of these tokens; without any it is everyone.
func ToDevices(tokens ...string) *pushv1.Audience {
	if len(tokens) == 0 {
		return &pushv1.Audience{Target: &pushv1.Audience_All_{All: &pushv1.Audience_All{}}}
	}
	return &pushv1.Audience{Target: &pushv1.Audience_Devices_{Devices: &pushv1.Audience_Devices{Tokens: tokens}}}
}

// Push pushes a notification to these devices, to everyone without any, and returns its id.
func (a *App) Push(t testing.TB, tokens ...string) string {
	t.Helper()
	response, err := a.Client.Push(t.Context(), a.Request(tokens...))
	if err != nil {
		t.Fatalf("push: %v", err)
	}
	return response.GetPushId()
}

// Request is a push to these devices, to everyone without any.
func (a *App) Request(tokens ...string) *pushv1.PushRequest {
	return &pushv1.PushRequest{
		App: a.ID, Audience: ToDevices(tokens...), Notification: &pushv1.Notification{Title: "Hi", Body: "from e2e"},
		Policy: &pushv1.Policy{Ttl: durationpb.New(time.Hour)},
	}
}

// AwaitCounts waits until a push's counts are these.
func (a *App) AwaitCounts(t testing.TB, pushID string, within time.Duration, want *pushv1.Counts) {
	t.Helper()
	Until(t, within, "counts of "+pushID, func() error {
		return a.CheckCounts(t.Context(), pushID, want)
	})
}

// CheckCounts says what is wrong with a push's counts.
func (a *App) CheckCounts(ctx context.Context, pushID string, want *pushv1.Counts) error {
	push, err := a.Client.GetPush(ctx, a.ID, pushID)
	if err != nil {
		return err
	}
	if got := push.GetCounts(); got.String() != want.String() {
		return fmt.Errorf("counts are %q, want %q", got, want)
	}
	return nil
}

// AwaitOnline waits until a device is, or is not, online.
func (a *App) AwaitOnline(t testing.TB, token string, online bool, within time.Duration) {
	t.Helper()
	Until(t, within, fmt.Sprintf("device %s online=%v", token, online), func() error {
		response, err := a.Client.Devices().GetDevice(t.Context(), &pushv1.GetDeviceRequest{App: a.ID, Device: token})
		if err != nil {
			return err
		}
		if response.GetDevice().GetOnline() != online {
			return errors.New("it is the other")
		}
		return nil
	})
}
