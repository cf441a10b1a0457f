package pushcore_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	devicev1 "github.com/halleypush/halley/proto/halley/device/v1"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

// canCall reports whether a device's secret is taken over HTTPS.
func canCall(t *testing.T, core *pushcoretest.Core, d *pushcoretest.Device) bool {
	t.Helper()
	switch answer := core.REST(t, "GET", "/device/v1/pending", "", d.Basic); answer.Code {
	case http.StatusOK:
		return true
	case http.StatusUnauthorized:
		return false
	default:
		t.Fatalf("pending: %d %s", answer.Code, answer.Body)
		return false
	}
}

func deviceState(t *testing.T, core *pushcoretest.Core, d *pushcoretest.Device) pushv1.Device_State {
	t.Helper()
	response, err := core.Devices.GetDevice(d.App.Key(t.Context()), &pushv1.GetDeviceRequest{App: d.App.ID, Device: d.Token})
	if err != nil {
		t.Fatal(err)
	}
	return response.GetDevice().GetState()
}

func TestRegistrationIsIdempotentByInstallID(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	first := app.Register(t)
	gateway := core.Gateway(t)
	before := gateway.Connect(t, first)

	again := app.RegisterAs(t, first.Install, "")
	if again.Token != first.Token {
		t.Errorf("the same install_id got another token: %s, %s", first.Token, again.Token)
	}
	if again.Secret == first.Secret || canCall(t, core, first) || !canCall(t, core, again) {
		t.Error("the secret must be fresh, and the old one void")
	}
	if got := before.TryOpen(t).Opened[0].GetStatus(); got != gatewayv1.Opened_GONE {
		t.Errorf("a session with the old secret is %s, want GONE", got)
	}
	gateway.Open(t, again)
	if other := app.Register(t); other.Token == first.Token {
		t.Error("another install_id got the same token")
	}
	if other := core.NewApp(t, nil).RegisterAs(t, first.Install, ""); other.Token == first.Token {
		t.Error("an install_id reaches into another app")
	}
}

func TestConcurrentRegistrationsOfOneInstallIDMakeOneDevice(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	install := pushcoretest.NewInstall()
	devices := make([]*pushcoretest.Device, 30)
	var wg sync.WaitGroup
	for i := range devices {
		wg.Go(func() { devices[i] = app.RegisterAs(t, install, "") })
	}
	wg.Wait()
	valid := 0
	for _, d := range devices {
		if d.Token != devices[0].Token {
			t.Errorf("two tokens for one install_id: %s, %s", d.Token, devices[0].Token)
		}
		if canCall(t, core, d) {
			valid++
		}
	}
	if valid != 1 {
		t.Errorf("%d secrets are valid, want the last one only", valid)
	}
}

func TestProvisionalDeviceIsInNoAudienceUntilItReturnsWithItsSecret(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	active := app.Register(t)
	overHTTPS, overMQTT, never := app.RegisterAs(t, "", ""), app.RegisterAs(t, "", ""), app.RegisterAs(t, "", "")

	first := app.Push(t, pushcoretest.ToAll())
	waitCounts(t, app, first, &pushv1.Counts{Pending: 1})
	if app.Delivery(t, first, active) == nil || app.Delivery(t, first, overHTTPS) != nil {
		t.Error("everyone means active devices")
	}

	registering := gateway.Open(t, overMQTT, pushcoretest.Registering())
	if got := deviceState(t, core, overMQTT); got != pushv1.Device_PROVISIONAL {
		t.Errorf("the connection that registered makes the device %s", got)
	}
	registering.Close(t)
	gateway.Open(t, overMQTT)
	overHTTPS.Call(t, "report", `{"platform":"ios"}`)
	for _, d := range []*pushcoretest.Device{overMQTT, overHTTPS} {
		if got := deviceState(t, core, d); got != pushv1.Device_ACTIVE {
			t.Errorf("a device that returned is %s", got)
		}
	}
	if got := deviceState(t, core, never); got != pushv1.Device_PROVISIONAL {
		t.Errorf("a device that never returned is %s", got)
	}
	second := app.Push(t, pushcoretest.ToAll(), pushcoretest.TTL(0))
	for _, d := range []*pushcoretest.Device{active, overMQTT, overHTTPS} {
		pushcoretest.Eventually(t, "the device is targeted", func() bool { return app.Delivery(t, second, d) != nil })
	}
	if app.Delivery(t, second, never) != nil {
		t.Error("a provisional device is in an audience")
	}
}

func TestProvisionalDeviceIsRemovedAfterAnHour(t *testing.T) {
	t.Parallel()
	site := pushcoretest.NewSite(t)
	core := site.Start(t)
	app := core.NewApp(t, nil)
	old, young := app.RegisterAs(t, "", ""), app.RegisterAs(t, "", "")
	back := app.RegisterAs(t, "", "")
	if !canCall(t, core, back) {
		t.Fatal("a provisional device cannot return")
	}
	core.Stop()
	_, err := site.SQL(t).Exec(t.Context(),
		"UPDATE device SET registered_at = now() - interval '61 minutes' WHERE ordinal IN (0, 2)")
	if err != nil {
		t.Fatal(err)
	}
	core = site.Start(t) // the sweep runs at the start, and every minute
	app = app.On(core)
	pushcoretest.Eventually(t, "the device is removed", func() bool {
		_, err := core.Devices.GetDevice(app.Key(t.Context()), &pushv1.GetDeviceRequest{App: app.ID, Device: old.Token})
		return status.Code(err) == codes.NotFound
	})
	if canCall(t, core, old.On(core)) {
		t.Error("a removed device can call")
	}
	young, back = young.On(core), back.On(core)
	if !canCall(t, core, young) || !canCall(t, core, back) {
		t.Error("a young device, or one that returned, was removed")
	}
}

func TestRegistrationsAreLimited(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	register := func(app *pushcoretest.App) pushcoretest.Answer {
		body := fmt.Sprintf(`{"app":%q,"client_key":%q,"install_id":%q}`, app.ID, app.ClientKey, pushcoretest.NewInstall())
		return core.REST(t, "POST", "/device/v1/register", body, nil)
	}
	for name, settings := range map[string]*adminv1.Settings{
		"address": {RegistrationsPerMinuteAddress: 3, RegistrationsPerMinuteNetwork: 100},
		"network": {RegistrationsPerMinuteAddress: 100, RegistrationsPerMinuteNetwork: 3},
		"app": {
			RegistrationsPerMinute: 3, RegistrationsPerMinuteAddress: 100, RegistrationsPerMinuteNetwork: 100,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			app := core.NewApp(t, settings)
			for range 3 {
				if answer := register(app); answer.Code != http.StatusOK {
					t.Fatalf("within the limit: %d %s", answer.Code, answer.Body)
				}
			}
			answer := register(app)
			if answer.Code != http.StatusTooManyRequests || answer.Header.Get("Retry-After") != "20" {
				t.Errorf("past the limit: %d, Retry-After %q, %s", answer.Code, answer.Header.Get("Retry-After"), answer.Body)
			}
			shown := answer.Decode(t)["error"].(map[string]any)
			if shown["code"] != "RESOURCE_EXHAUSTED" || shown["retry_after_ms"] != 20_000.0 {
				t.Errorf("the error reads %v", shown)
			}
			if answer := register(core.NewApp(t, nil)); answer.Code != http.StatusOK {
				t.Errorf("another app is limited, too: %d", answer.Code)
			}
		})
	}
}

func TestRegistrationWithoutTheAppsClientKeyIsRefused(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app, other := core.NewApp(t, nil), core.NewApp(t, nil)
	gateway := core.Gateway(t)
	for name, key := range map[string]string{
		"another app's": other.ClientKey, "a server key": app.ServerKey, "made up": "ck_nothing", "the admin token": pushcoretest.AdminToken,
	} {
		body := fmt.Sprintf(`{"app":%q,"client_key":%q,"install_id":%q}`, app.ID, key, pushcoretest.NewInstall())
		if answer := core.REST(t, "POST", "/device/v1/register", body, nil); answer.Code != http.StatusUnauthorized {
			t.Errorf("%s over HTTPS: %d %s", name, answer.Code, answer.Body)
		}
		_, err := gateway.Client.Register(pushcoretest.As(t.Context(), pushcoretest.ServiceToken), &gatewayv1.RegisterRequest{
			Device: &devicev1.RegisterRequest{App: app.ID, ClientKey: key},
		})
		wantError(t, err, codes.Unauthenticated, "WRONG_KEY", "")
	}
}

func TestWhatADeviceReportsIsShownAndWhatItLeavesOutStays(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	phone := app.RegisterAs(t, pushcoretest.NewInstall(),
		`"platform":"android","brand":"Xiaomi","app_version":"1","channel_tokens":[{"channel":"xiaomi","token":"vendor-token-123456"}]`)
	phone.Call(t, "report", `{"app_version":"2","locale":"zh-CN","channel_tokens":[{"channel":"fcm","token":"fcm-abcdef"}],"later":1}`)
	gateway := core.Gateway(t)
	version := "15"
	gateway.Open(t, phone, pushcoretest.Reporting(&devicev1.Report{OsVersion: &version}))
	response, err := core.Devices.GetDevice(app.Key(t.Context()), &pushv1.GetDeviceRequest{App: app.ID, Device: phone.Token})
	if err != nil {
		t.Fatal(err)
	}
	d := response.GetDevice()
	if d.GetPlatform() != "android" || d.GetBrand() != "Xiaomi" || d.GetAppVersion() != "2" || d.GetLocale() != "zh-CN" ||
		d.GetOsVersion() != "15" || !d.GetOnline() || !d.GetNotifications() || d.GetLastSeenAt() == nil {
		t.Errorf("shown: %v", d)
	}
	if c := d.GetChannelTokens(); len(c) != 2 || c[1].GetTokenSuffix() != "123456" || c[1].GetEnvironment() != "production" {
		t.Errorf("channel tokens: %v", c)
	}
	phone.Call(t, "report", `{"channel_tokens":[{"channel":"fcm","token":""}]}`)
	response, err = core.Devices.GetDevice(app.Key(t.Context()), &pushv1.GetDeviceRequest{App: app.ID, Device: phone.Token})
	if err != nil || len(response.GetDevice().GetChannelTokens()) != 1 {
		t.Errorf("an empty token removes the channel's: %v, %v", response.GetDevice().GetChannelTokens(), err)
	}
}

func TestRegistrationWithAnEmptyVendorTokenIsRefused(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	body := fmt.Sprintf(`{"app":%q,"client_key":%q,"channel_tokens":[{"channel":"xiaomi","token":"t"},{"channel":"fcm","token":""}]}`,
		app.ID, app.ClientKey)
	answer := core.REST(t, "POST", "/device/v1/register", body, nil)
	shown := answer.Decode(t)["error"].(map[string]any)
	if answer.Code != http.StatusBadRequest || shown["code"] != "INVALID_ARGUMENT" || shown["field"] != "channel_tokens[1].token" {
		t.Errorf("over HTTPS: %d %v", answer.Code, shown)
	}
	_, err := core.Gateway(t).Client.Register(pushcoretest.As(t.Context(), pushcoretest.ServiceToken), &gatewayv1.RegisterRequest{
		Device: &devicev1.RegisterRequest{
			App: app.ID, ClientKey: app.ClientKey, Report: &devicev1.Report{ChannelTokens: []*devicev1.ChannelToken{{Channel: "fcm"}}},
		},
	})
	wantError(t, err, codes.InvalidArgument, "INVALID_FIELD", "channel_tokens[0].token")
}

func TestRemovedDeviceIsGoneForGood(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	phone := app.Register(t)
	app.Bind(t, "alice", phone)
	session := gateway.Open(t, phone)
	session.Close(t)
	kept := app.Push(t, pushcoretest.ToDevices(phone))
	online := gateway.Open(t, phone)

	removed := make(chan error, 1)
	go func() {
		_, err := core.Devices.DeleteDevice(app.Key(t.Context()), &pushv1.DeleteDeviceRequest{App: app.ID, Device: phone.Token})
		removed <- err
	}()
	poke := gateway.NextPoke(t)
	if p := poke.GetPokes()[0]; p.GetAction() != gatewayv1.PokeRequest_Poke_GONE || p.GetSession() != online.Number {
		t.Errorf("the session is told %v", p)
	}
	poke.Answer(t)
	if err := <-removed; err != nil {
		t.Fatal(err)
	}
	wantDelivery(t, app.Delivery(t, kept, phone), pushv1.Delivery_FAILED, pushv1.Delivery_UNKNOWN_DEVICE)
	if canCall(t, core, phone) {
		t.Error("its secret is taken still")
	}
	if got := gateway.Connect(t, phone).TryOpen(t).Opened[0].GetStatus(); got != gatewayv1.Opened_GONE {
		t.Errorf("its session is %s", got)
	}
	later := app.Push(t, pushcoretest.ToDevices(phone))
	wantDelivery(t, app.Delivery(t, later, phone), pushv1.Delivery_FAILED, pushv1.Delivery_UNKNOWN_DEVICE)
	waitCounts(t, app, app.Push(t, pushcoretest.ToAll()), &pushv1.Counts{})
	toUser := app.Push(t, pushcoretest.ToUsers("alice"))
	waitCounts(t, app, toUser, &pushv1.Counts{Pending: 1}) // no device
	if again := app.RegisterAs(t, phone.Install, ""); again.Token == phone.Token {
		t.Error("an ordinal was used again")
	}
	_, err := core.Devices.GetDevice(app.Key(t.Context()), &pushv1.GetDeviceRequest{App: app.ID, Device: phone.Token})
	wantError(t, err, codes.NotFound, "DEVICE_NOT_FOUND", "")
}

func TestRotatedSecretMakesTheOldOneVoid(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	phone := app.Register(t)
	answer := core.REST(t, "POST", "/v1/apps/"+app.ID+"/devices/"+phone.Token+":rotateSecret", "{}", pushcoretest.Bearer(app.ServerKey))
	if answer.Code != http.StatusOK {
		t.Fatalf("rotate: %d %s", answer.Code, answer.Body)
	}
	fresh := *phone
	fresh.Secret = answer.Decode(t)["secret"].(string)
	if canCall(t, core, phone) || !canCall(t, core, &fresh) {
		t.Error("the new secret must be taken, and the old one not")
	}
}
