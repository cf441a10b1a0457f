package pushcore_test

import (
	"testing"
	"time"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

func TestPushToADeviceThatIsOnlineIsHandedOverAndArrives(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	phone := app.Register(t)
	gateway := core.Gateway(t)
	session := gateway.Open(t, phone)
	id := app.Push(t, pushcoretest.ToDevices(phone), pushcoretest.Title("Hi"))

	request := gateway.NextDeliver(t)
	target, body := request.GetTargets()[0], request.GetBodies()[0]
	if len(request.GetTargets()) != 1 || target.GetSession() != session.Number || target.GetOrdinal() != session.Ordinal ||
		pushcoretest.PushID(body) != id || body.GetQos() != 1 || !body.GetNotification() || body.GetAudience() {
		t.Fatalf("asked for %v", request)
	}
	if left := time.Until(time.UnixMilli(body.GetExpiresAt())); left < 23*time.Hour || left > 25*time.Hour {
		t.Errorf("the default ttl is %v", left)
	}
	request.Take(t)
	wantDelivery(t, app.Delivery(t, id, phone), pushv1.Delivery_PENDING, 0)
	push := app.Get(t, id)
	wantCounts(t, push, &pushv1.Counts{Pending: 1})
	if push.GetState() != pushv1.Push_ACTIVE || push.GetNotification().GetTitle() != "Hi" {
		t.Errorf("the push reads %v", push)
	}

	gateway.Receipt(t, session, id, ledgerv1.Step_STEP_SENT)
	sent := app.WaitState(t, id, phone, pushv1.Delivery_SENT)
	if sent.GetTimes().GetSent() == nil || sent.GetChannel() != "halley" || len(sent.GetAttempts()) != 1 {
		t.Errorf("what was sent reads %v", sent)
	}
	gateway.Receipt(t, session, id, ledgerv1.Step_STEP_ARRIVED)
	arrived := app.WaitState(t, id, phone, pushv1.Delivery_ARRIVED)
	if arrived.GetTimes().GetArrived() == nil || arrived.GetDevice() != phone.Token {
		t.Errorf("what arrived reads %v", arrived)
	}
	push = app.Get(t, id)
	wantCounts(t, push, &pushv1.Counts{Arrived: 1})
	if push.GetState() != pushv1.Push_ENDED {
		t.Errorf("the push is %s", push.GetState())
	}
	session.Close(t)
	wantIDs(t, gateway.Connect(t, phone).Open(t))
}

func TestPushToManyDevicesIsOneRequestPerGatewayWithOneBody(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	one, two := core.Gateway(t), core.Gateway(t)
	var phones []*pushcoretest.Device
	for i := range 20 {
		phone := app.Register(t)
		phones = append(phones, phone)
		if i%2 == 0 {
			one.Open(t, phone)
		} else {
			two.Open(t, phone)
		}
	}
	away := app.Register(t)
	id := app.Push(t, pushcoretest.ToDevices(append(phones, away, phones[0])...))
	for _, gateway := range []*pushcoretest.Gateway{one, two} {
		request := gateway.NextDeliver(t)
		if len(request.GetTargets()) != 10 || len(request.GetBodies()) != 1 {
			t.Errorf("%d targets, %d bodies", len(request.GetTargets()), len(request.GetBodies()))
		}
		request.Take(t)
	}
	wantCounts(t, app.Get(t, id), &pushv1.Counts{Pending: 21})
	if n := len(app.Deliveries(t, id)); n != 21 {
		t.Errorf("%d deliveries", n)
	}
}

func TestStepsReportedInAnyOrderGiveTheSameState(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	steps := []string{"arrived", "shown", "dismissed", "clicked"}
	states := map[string]pushv1.Delivery_State{
		"arrived": pushv1.Delivery_ARRIVED, "shown": pushv1.Delivery_SHOWN, "dismissed": pushv1.Delivery_DISMISSED,
		"clicked": pushv1.Delivery_CLICKED,
	}
	phones := make([]*pushcoretest.Device, 24)
	for i := range phones {
		phones[i] = app.Register(t)
	}
	direct, audience := app.Push(t, pushcoretest.ToDevices(phones...)), app.Push(t, pushcoretest.ToAll())
	waitCounts(t, app, audience, &pushv1.Counts{Pending: 24})
	for i, order := range permutations(steps) {
		phone := phones[i]
		var strongest pushv1.Delivery_State
		for n, step := range append(order, order[0]) { // the first one again at the end: it changes nothing
			phone.Event(t, direct, step)
			phone.Event(t, audience, step)
			strongest = max(strongest, strengthOf(states[step]))
			for _, push := range []string{direct, audience} {
				d := app.Delivery(t, push, phone)
				if strengthOf(d.GetState()) != strongest {
					t.Errorf("after %v the delivery is %s", append(order, order[0])[:n+1], d.GetState())
				}
			}
		}
		d := app.Delivery(t, direct, phone)
		if at := d.GetTimes(); at.GetArrived() == nil || at.GetShown() == nil || at.GetClicked() == nil || at.GetDismissed() == nil {
			t.Errorf("times: %v", at)
		}
	}
	for _, push := range []string{direct, audience} {
		wantCounts(t, app.Get(t, push), &pushv1.Counts{Clicked: 24})
	}
	_ = gateway
}

// strengthOf orders the states as they hide each other: a click is stronger than a dismissal, whatever the numbers are.
func strengthOf(s pushv1.Delivery_State) pushv1.Delivery_State {
	switch s {
	case pushv1.Delivery_CLICKED:
		return 100
	case pushv1.Delivery_DISMISSED:
		return 99
	}
	return s
}

func permutations(list []string) [][]string {
	if len(list) == 1 {
		return [][]string{{list[0]}}
	}
	var all [][]string
	for i := range list {
		rest := append(append([]string{}, list[:i]...), list[i+1:]...)
		for _, p := range permutations(rest) {
			all = append(all, append([]string{list[i]}, p...))
		}
	}
	return all
}

func TestPushWithQoS0IsSentAndNeverArrives(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	phone := app.Register(t)
	session := gateway.Open(t, phone)
	direct := app.Push(t, pushcoretest.ToDevices(phone), pushcoretest.QoS(0))
	request := gateway.NextDeliver(t)
	if request.GetBodies()[0].GetQos() != 0 {
		t.Error("the gateway is not told that it is fire and forget")
	}
	request.Take(t)
	gateway.Receipt(t, session, direct, ledgerv1.Step_STEP_SENT_UNCONFIRMED)
	app.WaitState(t, direct, phone, pushv1.Delivery_SENT)

	audience := app.Push(t, pushcoretest.ToAll(), pushcoretest.QoS(0))
	gateway.NextSlice(t, app).AnswerWith(t, &gatewayv1.SliceResponse{SentUnconfirmed: pushcoretest.Bits(t, session)})
	app.WaitState(t, audience, phone, pushv1.Delivery_SENT)

	for _, id := range []string{direct, audience} {
		pushcoretest.Eventually(t, "the push has ended", func() bool { return app.Get(t, id).GetState() == pushv1.Push_ENDED })
		wantCounts(t, app.Get(t, id), &pushv1.Counts{Sent: 1})
	}
	kept, _ := session.Pull(t, "", 10)
	wantIDs(t, kept) // it is not sent again
}

func TestPushForDevicesOnlineNowIsNotKept(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	online, away := app.Register(t), app.Register(t)
	session := gateway.Open(t, online)

	direct := app.Push(t, pushcoretest.ToDevices(online, away), pushcoretest.TTL(0))
	gateway.NextDeliver(t).Take(t)
	gateway.Receipt(t, session, direct, ledgerv1.Step_STEP_ARRIVED)
	app.WaitState(t, direct, online, pushv1.Delivery_ARRIVED)
	wantDelivery(t, app.WaitState(t, direct, away, pushv1.Delivery_EXPIRED), pushv1.Delivery_EXPIRED, pushv1.Delivery_NOT_ONLINE)

	audience := app.Push(t, pushcoretest.ToAll(), pushcoretest.TTL(0))
	gateway.NextSlice(t, app).Answer(t, session)
	gateway.SliceReceipt(t, audience, ledgerv1.Step_STEP_ARRIVED, session)
	waitCounts(t, app, audience, &pushv1.Counts{Arrived: 1, Expired: 1})
	wantDelivery(t, app.Delivery(t, audience, away), pushv1.Delivery_EXPIRED, pushv1.Delivery_NOT_ONLINE)

	wantIDs(t, gateway.Connect(t, away).Open(t))
}

func TestNotificationsSwitchedOffFailWhatIsShownAndLetDataThrough(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	phone, away := app.Register(t), app.RegisterAs(t, pushcoretest.NewInstall(), `"notifications":false`)
	session := gateway.Open(t, phone)

	done := make(chan struct{})
	go func() {
		defer close(done)
		phone.Call(t, "report", `{"notifications":false}`)
	}()
	poke := gateway.NextPoke(t)
	if p := poke.GetPokes()[0]; p.GetAction() != gatewayv1.PokeRequest_Poke_PERMISSION_OFF || p.GetSession() != session.Number {
		t.Errorf("the session is told %v", p)
	}
	poke.Answer(t)
	<-done

	shown := app.Push(t, pushcoretest.ToDevices(phone, away))
	gateway.NextDeliver(t).AnswerAll(t, gatewayv1.DeliverResponse_PERMISSION_OFF)
	app.WaitState(t, shown, phone, pushv1.Delivery_FAILED)
	everyone := app.Push(t, pushcoretest.ToAll())
	gateway.NextSlice(t, app).AnswerWith(t, &gatewayv1.SliceResponse{PermissionOff: pushcoretest.Bits(t, session)})
	app.WaitState(t, everyone, phone, pushv1.Delivery_FAILED)
	data := app.Push(t, pushcoretest.ToDevices(away), pushcoretest.AsData(map[string]string{"k": "v"}))

	opening := gateway.Connect(t, away).TryOpen(t)
	if !opening.Opened[0].GetPermissionOff() {
		t.Error("the open does not tell that notifications are off")
	}
	for _, kept := range opening.Kept {
		wantIDs(t, kept, data)
	}
	for _, id := range []string{shown, everyone} {
		for _, d := range []*pushcoretest.Device{phone, away} {
			wantDelivery(t, app.WaitState(t, id, d, pushv1.Delivery_FAILED), pushv1.Delivery_FAILED, pushv1.Delivery_PERMISSION_OFF)
		}
		waitCounts(t, app, id, &pushv1.Counts{Failed: 2})
	}
}
