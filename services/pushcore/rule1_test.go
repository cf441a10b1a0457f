package pushcore_test

import (
	"slices"
	"testing"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

func TestRule1KilledBetweenCommitAndHandOverLosesNothing(t *testing.T) {
	t.Parallel()
	site := pushcoretest.NewSite(t)
	doomed := site.StartProcess(t)
	app := doomed.NewApp(t, nil)
	gateway := doomed.Gateway(t)
	session := gateway.Open(t, app.Register(t))

	// The look for routes waits, and so does the resolution of the slice: both pushes are accepted, and not handed over.
	routes := site.Hold(t, "LOCK TABLE session IN ACCESS EXCLUSIVE MODE")
	live := site.Hold(t, "LOCK TABLE live IN ACCESS EXCLUSIVE MODE")
	direct := app.Push(t, pushcoretest.ToDevices(session.Device))
	everyone := app.Push(t, pushcoretest.ToAll())
	site.WaitBlocked(t, "direct", 1)
	site.WaitBlocked(t, "bulk", 1)
	doomed.Stop()
	routes()
	live()

	heir := site.Start(t)
	app = app.On(heir)
	gateway.Move(heir)
	for _, id := range []string{direct, everyone} {
		wantCounts(t, app.Get(t, id), pendingOrNothing(app.Get(t, id)))
	}
	poke := gateway.NextPoke(t)
	if p := poke.GetPokes()[0]; p.GetAction() != gatewayv1.PokeRequest_Poke_PULL || p.GetSession() != session.Number {
		t.Errorf("the session is told %v", p)
	}
	poke.Answer(t)
	kept, _ := session.Pull(t, "", 10)
	if !slices.Contains(pushcoretest.IDs(kept), direct) {
		t.Error("the direct push is lost")
	}
	slice := gateway.NextSlice(t, app)
	if pushcoretest.PushID(slice.GetBody()) != everyone || !slice.Has(session) {
		t.Error("the push to everyone is lost")
	}
	slice.Answer(t, session)
	waitCounts(t, app, everyone, &pushv1.Counts{Sent: 1})
}

// pendingOrNothing returns the counts of a push before its hand-over: a push to everyone may not be resolved yet.
func pendingOrNothing(p *pushv1.Push) *pushv1.Counts {
	if p.GetAudience().GetAll() != nil && p.GetCounts().GetTargeted() == 0 {
		return &pushv1.Counts{}
	}
	return &pushv1.Counts{Pending: 1}
}

func TestRule1PushesAreAcceptedWithoutNATSAndGoOutWhenItIsBackEmpty(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	core.ExpectErrors = true
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	session := gateway.Open(t, app.Register(t))
	before := app.Push(t, pushcoretest.ToAll())
	waitTargetedBy(t, gateway, app, session)

	core.NATS.Stop()
	core.NATS.Wipe(t)
	direct, everyone := app.Push(t, pushcoretest.ToDevices(session.Device)), app.Push(t, pushcoretest.ToAll())
	core.NATS.Start(t)

	slice := gateway.NextSlice(t, app)
	slice.Answer(t, session)
	if pushcoretest.PushID(slice.GetBody()) != everyone {
		t.Errorf("the slice of %s came, want %s", pushcoretest.PushID(slice.GetBody()), everyone)
	}
	kept, _ := session.Pull(t, "", 10) // a gateway Pulls after every gap
	wantIDs(t, kept, before, direct, everyone)
	gateway.Receipt(t, session, direct, ledgerv1.Step_STEP_ARRIVED)
	gateway.SliceReceipt(t, before, ledgerv1.Step_STEP_ARRIVED, session)
	gateway.SliceReceipt(t, everyone, ledgerv1.Step_STEP_ARRIVED, session)
	for _, id := range []string{before, direct, everyone} {
		waitCounts(t, app, id, &pushv1.Counts{Arrived: 1})
	}
}

// waitTargetedBy answers the next slice request of the app for a session.
func waitTargetedBy(t *testing.T, gateway *pushcoretest.Gateway, app *pushcoretest.App, session *pushcoretest.Session) {
	t.Helper()
	gateway.NextSlice(t, app).Answer(t, session)
}

func TestRule1PushcoreStartsAndAcceptsWithoutNATS(t *testing.T) {
	t.Parallel()
	site := pushcoretest.NewSite(t)
	site.ExpectErrors = true
	first := site.Start(t)
	app := first.NewApp(t, nil)
	phone := app.Register(t)
	first.Stop()
	site.NATS.Stop()

	core := site.StartNotReady(t)
	app = app.On(core)
	id := app.Push(t, pushcoretest.ToDevices(phone))
	wantCounts(t, app.Get(t, id), &pushv1.Counts{Pending: 1})
	if got := phone.On(core).Pending(t, 10); len(got) != 1 || got[0]["push_id"] != id {
		t.Errorf("kept for the phone: %v", got)
	}
	site.NATS.Start(t)
	pushcoretest.Eventually(t, "it is ready", core.Ready)
}
