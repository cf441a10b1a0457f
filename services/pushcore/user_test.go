package pushcore_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc/codes"

	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

func TestPushToAUserReachesAllDevicesOrTheOneBoundLast(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	first, second := app.Register(t), app.Register(t)
	app.Bind(t, "alice", first)
	app.Bind(t, "alice", second)
	app.Bind(t, "bob", second) // a device of two users gets it once

	all := app.Push(t, pushcoretest.ToUsers("alice", "bob", "alice"))
	wantCounts(t, app.Get(t, all), &pushv1.Counts{Pending: 2})
	for _, d := range []*pushcoretest.Device{first, second} {
		if got := app.Delivery(t, all, d).GetUser(); got != "alice" {
			t.Errorf("the delivery is for %q, want the first user named", got)
		}
	}
	latest := app.Push(t, pushcoretest.ToLatest("alice"))
	wantCounts(t, app.Get(t, latest), &pushv1.Counts{Pending: 1})
	if app.Delivery(t, latest, second) == nil {
		t.Error("the device bound last has no delivery")
	}
	app.Bind(t, "alice", first) // binding again makes it the latest
	latest = app.Push(t, pushcoretest.ToLatest("alice"))
	if app.Delivery(t, latest, first) == nil {
		t.Error("binding again does not make a device the latest")
	}

	response, err := core.Users.ListUserDevices(app.Key(t.Context()), &pushv1.ListUserDevicesRequest{App: app.ID, User: "alice"})
	if err != nil || len(response.GetDevices()) != 2 || response.GetDevices()[0].GetDevice() != first.Token {
		t.Errorf("alice's devices: %v, %v", response.GetDevices(), err)
	}
}

func TestUsersMessageNamesTheUserToThePhoneByAnOpaqueID(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, &adminv1.Settings{BindPolicy: adminv1.Settings_OPEN})
	phone := app.Register(t)
	gateway := core.Gateway(t)
	opaque := phone.Call(t, "bind", `{"user":"alice"}`)["user"].(string)
	session := gateway.Open(t, phone)
	app.Push(t, pushcoretest.ToUsers("alice"))
	request := gateway.NextDeliver(t)
	request.Take(t)
	kept, _ := session.Pull(t, "", 10)
	pending := phone.Pending(t, 10)
	if opaque == "" || opaque == "alice" || request.GetTargets()[0].GetUser() != opaque || kept[0].User != opaque ||
		pending[0]["user"] != opaque {
		t.Errorf("bind says %q, deliver %q, pull %q, pending %v", opaque, request.GetTargets()[0].GetUser(), kept[0].User, pending)
	}
}

func TestPushForAUserWithoutADeviceWaitsForABind(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	phone := app.Register(t)
	session := gateway.Open(t, phone)
	id := app.Push(t, pushcoretest.ToUsers("alice", "bob"))
	wantCounts(t, app.Get(t, id), &pushv1.Counts{Pending: 2})
	for _, d := range app.Deliveries(t, id) {
		wantDelivery(t, d, pushv1.Delivery_PENDING, pushv1.Delivery_NO_DEVICE)
		if d.GetDevice() != "" || d.GetUser() == "" {
			t.Errorf("a user without a device: %v", d)
		}
	}

	bound := make(chan error, 1)
	go func() {
		_, err := core.Users.Bind(app.Key(t.Context()), &pushv1.BindRequest{App: app.ID, User: "alice", Device: phone.Token})
		bound <- err
	}()
	poke := gateway.NextPoke(t)
	if p := poke.GetPokes()[0]; p.GetAction() != gatewayv1.PokeRequest_Poke_PULL || p.GetSession() != session.Number {
		t.Errorf("the session is told %v", p)
	}
	poke.Answer(t)
	if err := <-bound; err != nil {
		t.Fatal(err)
	}
	kept, _ := session.Pull(t, "", 10)
	wantIDs(t, kept, id)
	wantCounts(t, app.Get(t, id), &pushv1.Counts{Pending: 2})
	if d := app.Delivery(t, id, phone); d.GetUser() != "alice" {
		t.Errorf("the delivery reads %v", d)
	}
	phone.Event(t, id, "arrived")
	wantCounts(t, app.Get(t, id), &pushv1.Counts{Pending: 1, Arrived: 1})

	// Alice has had it: her next device gets no copy.
	later := app.Register(t)
	app.Bind(t, "alice", later)
	wantIDs(t, gateway.Connect(t, later).Open(t))
	app.Bind(t, "bob", later)
	wantIDs(t, gateway.Connect(t, later).Open(t), id)
	wantCounts(t, app.Get(t, id), &pushv1.Counts{Pending: 1, Arrived: 1})
}

func TestBindGivesADeviceWhatNoneOfTheUsersDevicesHasHad(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	first, second := app.Register(t), app.Register(t)
	app.Bind(t, "alice", first)
	had, notHad := app.Push(t, pushcoretest.ToUsers("alice")), app.Push(t, pushcoretest.ToUsers("alice"))
	first.Event(t, had, "clicked")
	app.Bind(t, "alice", second)
	wantIDs(t, core.Gateway(t).Connect(t, second).Open(t), notHad)
	waitCounts(t, app, notHad, &pushv1.Counts{Pending: 2})
	waitCounts(t, app, had, &pushv1.Counts{Clicked: 1})
}

func TestUnbindFailsWhatWasKeptForTheUserAndABindBringsItBack(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	phone := app.Register(t)
	app.Bind(t, "alice", phone)
	app.Bind(t, "bob", phone)
	alices, bobs := app.Push(t, pushcoretest.ToUsers("alice")), app.Push(t, pushcoretest.ToUsers("bob"))
	direct := app.Push(t, pushcoretest.ToDevices(phone))

	app.Unbind(t, "alice", phone)
	wantDelivery(t, app.Delivery(t, alices, phone), pushv1.Delivery_FAILED, pushv1.Delivery_UNBOUND)
	wantCounts(t, app.Get(t, alices), &pushv1.Counts{Failed: 1})
	wantIDs(t, core.Gateway(t).Connect(t, phone).Open(t), bobs, direct)

	app.Bind(t, "alice", phone)
	wantDelivery(t, app.Delivery(t, alices, phone), pushv1.Delivery_PENDING, 0)
	wantCounts(t, app.Get(t, alices), &pushv1.Counts{Pending: 1})
	if n := len(app.Deliveries(t, alices)); n != 1 {
		t.Errorf("%d deliveries to one device", n)
	}
	wantIDs(t, core.Gateway(t).Connect(t, phone).Open(t), alices, bobs, direct)
	phone.Event(t, alices, "arrived")
	wantCounts(t, app.Get(t, alices), &pushv1.Counts{Arrived: 1})

	phone.Call(t, "unbind", `{}`) // from everyone
	wantDelivery(t, app.Delivery(t, bobs, phone), pushv1.Delivery_FAILED, pushv1.Delivery_UNBOUND)
	wantDelivery(t, app.Delivery(t, alices, phone), pushv1.Delivery_ARRIVED, 0)
	app.Unbind(t, "alice", phone) // ending what is not there changes nothing
}

func TestBindingsAreBounded(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	phone := app.Register(t)
	for i := range 10 {
		app.Bind(t, fmt.Sprint("user", i), phone)
	}
	_, err := core.Users.Bind(app.Key(t.Context()), &pushv1.BindRequest{App: app.ID, User: "one more", Device: phone.Token})
	wantError(t, err, codes.ResourceExhausted, "TOO_MANY_USERS", "")
	app.Bind(t, "user3", phone) // again is not one more
	for range 100 {
		app.Bind(t, "popular", app.Register(t))
	}
	last := app.Register(t)
	_, err = core.Users.Bind(app.Key(t.Context()), &pushv1.BindRequest{App: app.ID, User: "popular", Device: last.Token})
	wantError(t, err, codes.ResourceExhausted, "TOO_MANY_DEVICES", "")
	wantCounts(t, app.Get(t, app.Push(t, pushcoretest.ToUsers("popular"))), &pushv1.Counts{Pending: 100})
}

func TestPhoneBindsItselfOnlyAsTheAppAllows(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	other := core.NewApp(t, nil)
	apps := map[adminv1.Settings_BindPolicy]*pushcoretest.App{}
	for _, policy := range []adminv1.Settings_BindPolicy{
		adminv1.Settings_BIND_POLICY_UNSPECIFIED, adminv1.Settings_SERVER_ONLY, adminv1.Settings_OPEN,
	} {
		apps[policy] = core.NewApp(t, &adminv1.Settings{BindPolicy: policy})
	}
	proof := func(app *pushcoretest.App, key, user string, valid time.Duration) string {
		signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{
			Subject: user, Audience: jwt.ClaimStrings{app.ID}, ExpiresAt: jwt.NewNumericDate(time.Now().Add(valid)),
		}).SignedString([]byte(key))
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	byDefault, serverOnly := apps[adminv1.Settings_BIND_POLICY_UNSPECIFIED], apps[adminv1.Settings_SERVER_ONLY]
	for name, c := range map[string]struct {
		app   *pushcoretest.App
		proof string
		taken bool
	}{
		"open":                  {apps[adminv1.Settings_OPEN], "", true},
		"server only":           {serverOnly, proof(serverOnly, serverOnly.ServerKey, "alice", time.Minute), false},
		"proof by default":      {byDefault, proof(byDefault, byDefault.ServerKey, "alice", time.Minute), true},
		"no proof":              {byDefault, "", false},
		"for another user":      {byDefault, proof(byDefault, byDefault.ServerKey, "bob", time.Minute), false},
		"for another app":       {byDefault, proof(other, byDefault.ServerKey, "alice", time.Minute), false},
		"by another app's key":  {byDefault, proof(byDefault, other.ServerKey, "alice", time.Minute), false},
		"by the client key":     {byDefault, proof(byDefault, byDefault.ClientKey, "alice", time.Minute), false},
		"for more than an hour": {byDefault, proof(byDefault, byDefault.ServerKey, "alice", 2*time.Hour), false},
		"over":                  {byDefault, proof(byDefault, byDefault.ServerKey, "alice", -2*time.Minute), false},
		"unsigned":              {byDefault, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.", false},
		"no JWT":                {byDefault, "nonsense", false},
	} {
		phone := c.app.Register(t)
		answer := core.REST(t, "POST", "/device/v1/bind", fmt.Sprintf(`{"user":"alice","proof":%q}`, c.proof), phone.Basic)
		if c.taken && answer.Code != http.StatusOK || !c.taken && answer.Code != http.StatusForbidden {
			t.Errorf("%s: %d %s", name, answer.Code, answer.Body)
		}
	}
}
