package pushcore_test

import (
	"strings"
	"testing"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

func TestRule4SilentGatewayIsAskedThreeTimesAndThenToldToPull(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	session := gateway.Open(t, app.Register(t))
	id := app.Push(t, pushcoretest.ToDevices(session.Device))
	for range 3 {
		if got := gateway.NextDeliver(t).PushIDs()[0]; got != id {
			t.Errorf("asked for %s", got)
		}
	}
	poke := gateway.NextPoke(t) // the sweeper
	if p := poke.GetPokes()[0]; p.GetAction() != gatewayv1.PokeRequest_Poke_PULL || p.GetSession() != session.Number {
		t.Errorf("the session is told %v", p)
	}
	poke.Answer(t)
	if delivers, _, _ := gateway.Waiting(); delivers != 0 {
		t.Errorf("asked %d times too often", delivers)
	}
	kept, _ := session.Pull(t, "", 10)
	wantIDs(t, kept, id)
}

func TestRule4EachTryLooksForTheSessionAnew(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	silent, other := core.Gateway(t), core.Gateway(t)
	phone := app.Register(t)
	silent.Open(t, phone)
	id := app.Push(t, pushcoretest.ToDevices(phone))
	silent.NextDeliver(t) // no answer; the device moves meanwhile
	moved := other.Connect(t, phone)
	wantIDs(t, moved.Open(t), id)
	request := other.NextDeliver(t)
	if request.PushIDs()[0] != id || request.GetTargets()[0].GetSession() != moved.Number {
		t.Errorf("asked for %v", request)
	}
	request.Take(t)
}

func TestRule4FullAndMissingSessionsPull(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	full, gone, deaf := gateway.Open(t, app.Register(t)), gateway.Open(t, app.Register(t)), core.Gateway(t)
	unreachable := deaf.Open(t, app.Register(t))
	deaf.Deaf(t)
	id := app.Push(t, pushcoretest.ToDevices(full.Device, gone.Device, unreachable.Device))
	request := gateway.NextDeliver(t)
	results := make([]gatewayv1.DeliverResponse_Result, len(request.GetTargets()))
	for i, target := range request.GetTargets() {
		results[i] = gatewayv1.DeliverResponse_NO_SESSION
		if target.GetSession() == full.Number {
			results[i] = gatewayv1.DeliverResponse_FULL
		}
	}
	request.Answer(t, results...)
	waitAllResting(t, core, id)
	kept, _ := full.Pull(t, "", 10)
	wantIDs(t, kept, id)
	for _, d := range []*pushcoretest.Device{gone.Device, unreachable.Device} {
		wantIDs(t, gateway.Connect(t, d).Open(t), id)
	}
	if delivers, _, _ := gateway.Waiting(); delivers != 0 {
		t.Errorf("asked %d times too often", delivers)
	}
}

// waitAllResting waits until no delivery of a push is with the sweeper.
func waitAllResting(t *testing.T, core *pushcoretest.Core, id string) {
	t.Helper()
	sql := core.SQL(t)
	pushcoretest.Eventually(t, "the deliveries rest", func() bool {
		var busy int
		err := sql.QueryRow(t.Context(), "SELECT count(*) FROM inbox WHERE push_id = $1 AND next_try < expires_at", id).Scan(&busy)
		if err != nil {
			t.Fatal(err)
		}
		return busy == 0
	})
}

func TestRule4OnlySilentGatewaysAreAskedAgainAboutASlice(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	quick, slow := core.Gateway(t), core.Gateway(t)
	here, there := quick.Open(t, app.Register(t)), slow.Open(t, app.Register(t))
	id := app.Push(t, pushcoretest.ToAll())
	first := quick.NextSlice(t, app)
	first.Answer(t, here)
	first.Answer(t, here) // twice changes nothing
	waitCounts(t, app, id, &pushv1.Counts{Sent: 1, Pending: 1})
	if got := app.Get(t, id).GetState(); got != pushv1.Push_ACCEPTED {
		t.Errorf("the push is %s while a gateway is silent", got)
	}
	unanswered := slow.NextSlice(t, app)
	again := slow.NextSlice(t, app)
	if !strings.HasPrefix(again.Subject, "gw.") || pushcoretest.PushID(again.GetBody()) != id || !again.Has(there) {
		t.Errorf("asked again on %s for %v", again.Subject, again.GetBody())
	}
	again.Answer(t, there)
	unanswered.Answer(t, there) // late
	waitTargeted(t, app, id)
	waitCounts(t, app, id, &pushv1.Counts{Sent: 2})
	if _, slices, _ := quick.Waiting(); slices != 0 {
		t.Error("a gateway that had answered was asked again")
	}
}

func TestRule4PullIsTheSameReadAsOpen(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	phone := app.Register(t)
	app.Bind(t, "alice", phone)
	var want []string
	for _, to := range []pushcoretest.PushOption{
		pushcoretest.ToAll(), pushcoretest.ToUsers("alice"), pushcoretest.ToDevices(phone),
	} {
		id := app.Push(t, to)
		waitTargeted(t, app, id)
		want = append(want, id)
	}
	session := gateway.Connect(t, phone)
	opened := session.Open(t)
	pulled, more := session.Pull(t, "", 1000)
	wantIDs(t, opened, want...)
	wantIDs(t, pulled, want...)
	if more || opened[1].User != pulled[1].User || string(opened[0].Body.GetJson()) != string(pulled[0].Body.GetJson()) {
		t.Errorf("opened %v, pulled %v", opened, pulled)
	}

	// A session that is not the route gets nothing by Pull.
	newer := core.Gateway(t).Open(t, phone)
	result := gateway.Send(t, &gatewayv1.SessionsRequest{Pulls: []*gatewayv1.Pull{{
		App: app.Number, Ordinal: session.Ordinal, Session: session.Number, Limit: 10,
	}}}).Wait(t)
	if result.Pulled[0].GetOpen() || len(result.Kept[session.Number]) != 0 {
		t.Errorf("a replaced session pulls %v", result)
	}
	newer.Close(t)
}

func TestRule4LargeAnswersComeInParts(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	var opens []*gatewayv1.Open
	var sessions []*pushcoretest.Session
	for range 20 {
		session := gateway.Connect(t, app.Register(t))
		sessions = append(sessions, session)
		for range 30 {
			app.Push(t, pushcoretest.ToDevices(session.Device), func(r *pushv1.PushRequest) {
				r.Notification, r.Payload = nil, strings.Repeat("x", 3900)
			})
		}
		opens = append(opens, session.OpenRequest())
	}
	result := gateway.Send(t, &gatewayv1.SessionsRequest{Opens: opens}).Wait(t)
	if len(result.Opened) != 20 {
		t.Fatalf("%d opened", len(result.Opened))
	}
	for _, session := range sessions {
		if n := len(result.Kept[session.Number]); n != 30 {
			t.Errorf("%d kept, want 30", n)
		}
	}
}

func TestRule8EveryHandOverCarriesTheSamePushID(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	session := gateway.Open(t, app.Register(t))
	direct := app.Push(t, pushcoretest.ToDevices(session.Device))
	var bodies []string
	for range 2 {
		request := gateway.NextDeliver(t)
		bodies = append(bodies, string(request.GetBodies()[0].GetJson()))
		if request.PushIDs()[0] != direct {
			t.Errorf("asked for %s, want %s", request.PushIDs()[0], direct)
		}
	}
	gateway.NextDeliver(t).Take(t)
	gateway.Receipt(t, session, direct, ledgerv1.Step_STEP_SENT)
	app.WaitState(t, direct, session.Device, pushv1.Delivery_SENT)
	// Not confirmed: the next connection gets it again, as the same push.
	kept := gateway.Connect(t, session.Device).Open(t)
	wantIDs(t, kept, direct)
	if bodies[0] != bodies[1] || string(kept[0].Body.GetJson()) != bodies[0] || !strings.Contains(bodies[0], direct) {
		t.Errorf("the bodies differ: %q, %q, %q", bodies[0], bodies[1], kept[0].Body.GetJson())
	}
}
