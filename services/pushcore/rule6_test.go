package pushcore_test

import (
	"testing"
	"time"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

// wantOpened checks what became of an Open.
func wantOpened(t *testing.T, s *pushcoretest.Session, want gatewayv1.Opened_Status, options ...pushcoretest.OpenOption) {
	t.Helper()
	if got := s.TryOpen(t, options...).Opened[0].GetStatus(); got != want {
		t.Errorf("the session is %s, want %s", got, want)
	}
}

// wantRoute checks that a push goes to a session.
func wantRoute(t *testing.T, app *pushcoretest.App, s *pushcoretest.Session) {
	t.Helper()
	id := app.Push(t, pushcoretest.ToDevices(s.Device))
	request := s.Gateway.NextDeliver(t)
	if request.PushIDs()[0] != id || request.GetTargets()[0].GetSession() != s.Number {
		t.Errorf("asked for %v, want session %d", request, s.Number)
	}
	request.Take(t)
}

func TestRule6LateOpensAndClosesNeverBeatANewerSession(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	east, west := core.Gateway(t), core.Gateway(t)
	phone := app.Register(t)

	old, newer := east.Connect(t, phone), west.Connect(t, phone)
	old.Open(t, pushcoretest.Aged(time.Minute))
	newer.Open(t, pushcoretest.Aged(time.Second))
	poke := east.NextPoke(t)
	if p := poke.GetPokes()[0]; p.GetAction() != gatewayv1.PokeRequest_Poke_SUPERSEDED || p.GetSession() != old.Number {
		t.Errorf("the replaced session is told %v", p)
	}
	poke.Answer(t)
	wantOpened(t, old, gatewayv1.Opened_SUPERSEDED, pushcoretest.Aged(time.Minute)) // a retry that was under way
	wantRoute(t, app, newer)
	old.Close(t)
	wantRoute(t, app, newer)

	// An open that comes late counts from its connection, not from its arrival.
	late := east.Connect(t, phone)
	wantOpened(t, late, gatewayv1.Opened_SUPERSEDED, pushcoretest.Aged(10*time.Second))
	wantRoute(t, app, newer)
	newest := east.Connect(t, phone)
	newest.Open(t)
	wantRoute(t, app, newest)

	// A close that is late, too, ends its own session only; and what is closed does not come back.
	newer.Close(t)
	wantRoute(t, app, newest)
	newest.Close(t)
	wantOpened(t, newest, gatewayv1.Opened_SUPERSEDED)
	wantOpened(t, newer, gatewayv1.Opened_SUPERSEDED, pushcoretest.Aged(time.Second))
}

func TestRule6SessionsOfOneProcessFollowTheirNumbers(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	phone := app.Register(t)
	first, second, third := gateway.Connect(t, phone), gateway.Connect(t, phone), gateway.Connect(t, phone)
	second.Open(t)
	wantOpened(t, first, gatewayv1.Opened_SUPERSEDED, pushcoretest.Aged(0))
	wantRoute(t, app, second)
	second.Open(t) // again, with a fresh age: its answer was lost
	wantRoute(t, app, second)

	// Two of one device in one batch.
	fourth := gateway.Connect(t, phone)
	result := gateway.Send(t, &gatewayv1.SessionsRequest{Opens: []*gatewayv1.Open{
		fourth.OpenRequest(), third.OpenRequest(),
	}}).Wait(t)
	for _, o := range result.Opened {
		want := gatewayv1.Opened_SUPERSEDED
		if o.GetSession() == fourth.Number {
			want = gatewayv1.Opened_OPEN
		}
		if o.GetStatus() != want {
			t.Errorf("session %d is %s", o.GetSession(), o.GetStatus())
		}
	}
	wantRoute(t, app, fourth)

	// Another life of the same process opens its sessions again; the earlier life does not.
	before := gateway.Incarnation()
	gateway.Reincarnate(t)
	fourth.Open(t)
	wantRoute(t, app, fourth)
	late := gateway.Send(t, &gatewayv1.SessionsRequest{
		Incarnation: before, Opens: []*gatewayv1.Open{fourth.OpenRequest()},
	}).Wait(t)
	if late.Status != gatewayv1.SessionsResponse_LAPSED {
		t.Errorf("the earlier life is %s", late.Status)
	}
}

func TestRule6SessionThatDoesNotReceiveIsNoRoute(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	phone := app.Register(t)
	id := app.Push(t, pushcoretest.ToDevices(phone))
	session := gateway.Connect(t, phone)
	wantIDs(t, session.Open(t, pushcoretest.Deafly()))
	second := app.Push(t, pushcoretest.ToDevices(phone))
	waitResting(t, core, second)
	wantIDs(t, session.Open(t), id, second) // it has subscribed now
	wantRoute(t, app, session)
}

func TestRule6OpensOfOneDeviceOnManyGatewaysLeaveTheNewest(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	phone := app.Register(t)
	const gateways, each = 4, 25
	var sessions []*pushcoretest.Session
	for range gateways {
		gateway := core.Gateway(t)
		for range each {
			sessions = append(sessions, gateway.Connect(t, phone))
		}
	}
	var batches []*pushcoretest.Batch
	newest := sessions[len(sessions)-1]
	for i, s := range sessions { // all at once, each in a batch of its own
		age := time.Duration(len(sessions)-i) * time.Hour
		batches = append(batches, s.Gateway.Send(t, &gatewayv1.SessionsRequest{
			Opens: []*gatewayv1.Open{s.OpenRequest(pushcoretest.Aged(age))},
		}))
	}
	for _, b := range batches {
		b.Wait(t)
	}
	wantRoute(t, app, newest)
}
