package pushcoretest

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// App is an app with its first keys.
type App struct {
	core *Core

	ID                   string
	Number               uint32
	ServerKey, ClientKey string
}

// NewApp makes an app with a name of its own through the admin API. settings may be nil; the registration limits are then
// out of the way.
func (c *Core) NewApp(t testing.TB, settings *adminv1.Settings) *App {
	t.Helper()
	if settings == nil {
		settings = &adminv1.Settings{}
	}
	if settings.RegistrationsPerMinuteAddress == 0 {
		settings.RegistrationsPerMinuteAddress, settings.RegistrationsPerMinuteNetwork = 60_000, 60_000
	}
	id := "app-" + strings.ToLower(rand.Text()[:12])
	made, err := c.Apps.CreateApp(AsAdmin(t.Context()), &adminv1.CreateAppRequest{App: id, Name: t.Name()[:min(128, len(t.Name()))], Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	found, err := gatewayv1.NewGatewayServiceClient(c.InternalConn).
		GetApp(As(t.Context(), ServiceToken), &gatewayv1.GetAppRequest{App: id})
	if err != nil {
		t.Fatal(err)
	}
	return &App{core: c, ID: id, Number: found.GetNumber(), ServerKey: made.GetServerKey(), ClientKey: made.GetClientKey()}
}

// On returns the same app as another pushcore of the site serves it.
func (a *App) On(c *Core) *App {
	other := *a
	other.core = c
	return &other
}

// Key returns a context whose calls carry the app's server key.
func (a *App) Key(ctx context.Context) context.Context { return As(ctx, a.ServerKey) }

// Device is a device with what it proves itself with.
type Device struct {
	App     *App
	Install string
	Token   string
	Secret  string
}

// On returns the same device as it talks to another pushcore of the site.
func (d *Device) On(c *Core) *Device {
	other := *d
	other.App = d.App.On(c)
	return &other
}

// Basic sets the device's credential.
func (d *Device) Basic(r *http.Request) { r.SetBasicAuth(d.Token, d.Secret) }

// NewInstall returns a fresh install_id.
func NewInstall() string { return rand.Text() }

// Register makes an active device over REST.
func (a *App) Register(t testing.TB) *Device {
	t.Helper()
	return a.RegisterAs(t, NewInstall(), "")
}

// RegisterAs registers with an install_id, which may be empty: then the device is provisional. report holds further JSON
// members, such as `"notifications":false`; it may be empty.
func (a *App) RegisterAs(t testing.TB, install, report string) *Device {
	t.Helper()
	body := fmt.Sprintf(`{"app":%q,"client_key":%q`, a.ID, a.ClientKey)
	if install != "" {
		body += fmt.Sprintf(`,"install_id":%q`, install)
	}
	if report != "" {
		body += "," + report
	}
	answer := a.core.REST(t, "POST", "/device/v1/register", body+"}", nil)
	if answer.Code != http.StatusOK {
		t.Fatalf("register: %d %s", answer.Code, answer.Body)
	}
	made := answer.Decode(t)
	return &Device{App: a, Install: install, Token: made["token"].(string), Secret: made["secret"].(string)}
}

// Call makes one of the device's HTTPS calls, such as bind, and fails the test unless the answer is 200.
func (d *Device) Call(t testing.TB, method, body string) map[string]any {
	t.Helper()
	answer := d.App.core.REST(t, "POST", "/device/v1/"+method, body, d.Basic)
	if answer.Code != http.StatusOK {
		t.Fatalf("%s: %d %s", method, answer.Code, answer.Body)
	}
	return answer.Decode(t)
}

// Event reports one event of a push over HTTPS.
func (d *Device) Event(t testing.TB, push, event string) {
	t.Helper()
	d.Call(t, "events", fmt.Sprintf(`{"events":[{"push_id":%q,"type":%q}]}`, push, event))
}

// Pending returns what is kept for the device, as it reads over HTTPS.
func (d *Device) Pending(t testing.TB, limit int) []map[string]any {
	t.Helper()
	answer := d.App.core.REST(t, "GET", fmt.Sprintf("/device/v1/pending?limit=%d", limit), "", d.Basic)
	if answer.Code != http.StatusOK {
		t.Fatalf("pending: %d %s", answer.Code, answer.Body)
	}
	var messages []map[string]any
	for _, m := range answer.Decode(t)["messages"].([]any) {
		messages = append(messages, m.(map[string]any))
	}
	return messages
}

// PushOption changes a push that Push sends.
type PushOption func(*pushv1.PushRequest)

// ToDevices addresses devices.
func ToDevices(devices ...*Device) PushOption {
	tokens := make([]string, len(devices))
	for i, d := range devices {
		tokens[i] = d.Token
	}
	return ToTokens(tokens...)
}

// ToTokens addresses devices by token.
func ToTokens(tokens ...string) PushOption {
	return func(r *pushv1.PushRequest) {
		r.Audience = &pushv1.Audience{Target: &pushv1.Audience_Devices_{Devices: &pushv1.Audience_Devices{Tokens: tokens}}}
	}
}

// ToUsers addresses every device of users.
func ToUsers(ids ...string) PushOption { return toUsers(pushv1.Audience_Users_ALL, ids) }

// ToLatest addresses the device of each user that was bound last.
func ToLatest(ids ...string) PushOption { return toUsers(pushv1.Audience_Users_LATEST_BOUND, ids) }

func toUsers(which pushv1.Audience_Users_Devices, ids []string) PushOption {
	return func(r *pushv1.PushRequest) {
		r.Audience = &pushv1.Audience{Target: &pushv1.Audience_Users_{Users: &pushv1.Audience_Users{Ids: ids, Devices: which}}}
	}
}

// ToAll addresses everyone.
func ToAll() PushOption {
	return func(r *pushv1.PushRequest) {
		r.Audience = &pushv1.Audience{Target: &pushv1.Audience_All_{All: &pushv1.Audience_All{}}}
	}
}

// Title makes the push a notification with this title.
func Title(title string) PushOption {
	return func(r *pushv1.PushRequest) { r.Notification = &pushv1.Notification{Title: title} }
}

// AsData makes the push a data push.
func AsData(data map[string]string) PushOption {
	return func(r *pushv1.PushRequest) { r.Notification, r.Data = nil, data }
}

// TTL sets how long the push is kept.
func TTL(d time.Duration) PushOption {
	return func(r *pushv1.PushRequest) { r.Policy.Ttl = durationpb.New(d) }
}

// Collapse sets the collapse key.
func Collapse(key string) PushOption {
	return func(r *pushv1.PushRequest) { r.Policy.CollapseKey = key }
}

// Once sets the idempotency key.
func Once(key string) PushOption {
	return func(r *pushv1.PushRequest) { r.Policy.IdempotencyKey = key }
}

// QoS sets the quality of service, 0 or 1.
func QoS(qos uint32) PushOption {
	return func(r *pushv1.PushRequest) { r.Policy.Qos = &qos }
}

// Request builds a push: a notification with the title "hello", unless options say otherwise.
func (a *App) Request(options ...PushOption) *pushv1.PushRequest {
	r := &pushv1.PushRequest{
		App: a.ID, Notification: &pushv1.Notification{Title: "hello"}, Policy: &pushv1.Policy{},
	}
	for _, o := range options {
		o(r)
	}
	return r
}

// TryPush sends a push over gRPC.
func (a *App) TryPush(t testing.TB, options ...PushOption) (string, error) {
	t.Helper()
	response, err := a.core.Pushes.Push(a.Key(t.Context()), a.Request(options...))
	return response.GetPushId(), err
}

// Push sends a push over gRPC, which must be accepted, and returns its id.
func (a *App) Push(t testing.TB, options ...PushOption) string {
	t.Helper()
	id, err := a.TryPush(t, options...)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Get returns a push as it is now.
func (a *App) Get(t testing.TB, id string) *pushv1.Push {
	t.Helper()
	response, err := a.core.Pushes.GetPush(a.Key(t.Context()), &pushv1.GetPushRequest{App: a.ID, PushId: id})
	if err != nil {
		t.Fatal(err)
	}
	return response.GetPush()
}

// Deliveries returns what became of a push, device by device.
func (a *App) Deliveries(t testing.TB, id string) []*pushv1.Delivery {
	t.Helper()
	response, err := a.core.Pushes.ListDeliveries(a.Key(t.Context()), &pushv1.ListDeliveriesRequest{
		App: a.ID, PushId: id, PageSize: 1000,
	})
	if err != nil {
		t.Fatal(err)
	}
	return response.GetDeliveries()
}

// Delivery returns what became of a push for one device; nil if it was not for it.
func (a *App) Delivery(t testing.TB, id string, d *Device) *pushv1.Delivery {
	t.Helper()
	response, err := a.core.Pushes.ListDeliveries(a.Key(t.Context()), &pushv1.ListDeliveriesRequest{
		App: a.ID, PushId: id, Device: d.Token,
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(response.GetDeliveries()) == 0 {
		return nil
	}
	return response.GetDeliveries()[0]
}

// WaitState waits until a delivery is in a state, and returns it. Receipts are applied in the background.
func (a *App) WaitState(t testing.TB, id string, d *Device, state pushv1.Delivery_State) *pushv1.Delivery {
	t.Helper()
	var last *pushv1.Delivery
	Eventually(t, fmt.Sprintf("%s is %s for %s", id, state, d.Token), func() bool {
		last = a.Delivery(t, id, d)
		return last.GetState() == state
	})
	return last
}

// Bind binds a device to a user through the business API.
func (a *App) Bind(t testing.TB, user string, d *Device) {
	t.Helper()
	_, err := a.core.Users.Bind(a.Key(t.Context()), &pushv1.BindRequest{App: a.ID, User: user, Device: d.Token})
	if err != nil {
		t.Fatal(err)
	}
}

// Unbind ends a binding through the business API.
func (a *App) Unbind(t testing.TB, user string, d *Device) {
	t.Helper()
	_, err := a.core.Users.Unbind(a.Key(t.Context()), &pushv1.UnbindRequest{App: a.ID, User: user, Device: d.Token})
	if err != nil {
		t.Fatal(err)
	}
}

// ID returns a push id as bytes.
func ID(t testing.TB, id string) []byte {
	t.Helper()
	parsed, err := uuid.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	return parsed[:]
}
