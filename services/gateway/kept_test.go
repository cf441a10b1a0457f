package gateway_test

import (
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway/gatewaytest"
)

// gate lets a test hold the answers to batches of sessions back.
type gate struct {
	came chan *gatewayv1.SessionsRequest
	open chan struct{}
}

// holdBatches holds each batch's answer back until the gate is passed once. What it says is made when it is let through.
func holdBatches(core *gatewaytest.Core) *gate {
	g := &gate{came: make(chan *gatewayv1.SessionsRequest, 100), open: make(chan struct{})}
	core.Script(func(s *gatewaytest.Script) {
		s.Batch = func(r *gatewayv1.SessionsRequest) *gatewayv1.SessionsResponse {
			answer := core.Answer(r)
			g.came <- r
			<-g.open
			return answer
		}
	})
	return g
}

// lift lets everything through from now on.
func (g *gate) lift(core *gatewaytest.Core) {
	core.Script(func(s *gatewaytest.Script) { s.Batch = nil })
	close(g.open)
}

func (g *gate) next(t *testing.T) *gatewayv1.SessionsRequest {
	t.Helper()
	return next(t, "a batch of sessions", g.came)
}

// MQTT 5: 4.6.0-5, 4.6.0-6
// MQTT 3.1.1: 4.6.0-5, 4.6.0-6
func TestWhatIsKeptComesOldestFirstAndThenLive(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	eachVersion(t, func(t *testing.T, version byte) {
		t.Helper()
		phone := site.Core.NewDevice(t)
		pushes := newPushes(40)
		for _, p := range pushes {
			site.Core.Keep(phone, p)
		}
		wire := site.Dial(t, version)
		wire.Greet(t, wire.Connect(phone))
		wire.Subscribe(t, 1, "push/demo")
		for i, p := range pushes {
			wire.Ack(t, wire.NextPush(t, p))
			if i == 20 { // a live one while older ones are kept comes after them
				live := gatewaytest.NewPush("live")
				site.Core.Keep(phone, live)
				pushes = append(pushes, live)
				wantDelivered(t, site, phone, full, live)
			}
		}
		wire.Ack(t, wire.NextPush(t, pushes[40]))
		wire.Ping(t)
		for _, p := range pushes {
			site.Core.AwaitReceipt(t, phone, p, arrived)
		}
	})
}

// MQTT 5: 4.6.0-5, 4.6.0-6
func TestWhatComesWhileTheOpenIsUnderWayIsMergedWithWhatWasKept(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phone := site.Core.NewDevice(t)
	p := newPushes(6)
	for _, i := range []int{0, 2, 4} {
		site.Core.Keep(phone, p[i])
	}
	g := holdBatches(site.Core)
	wire := site.Dial(t, gatewaytest.V5)
	wire.Greet(t, wire.Connect(phone))
	wire.Subscribe(t, 1, "push/demo")
	g.next(t)
	// Before the answer: one that is kept, too, one in between, twice, one that is newest, and one to an audience, twice.
	audience := gatewaytest.NewAudiencePush("to all")
	wantDelivered(t, site, phone, taken, p[5], p[2], p[1], p[1])
	for range 2 {
		if got := site.Core.Slice(t, audience, phone); len(got.Sent) > 0 {
			t.Errorf("sent before the open was answered: %v", got)
		}
	}
	wire.Ping(t) // nothing is handed over before the answer
	g.lift(site.Core)
	for _, i := range []int{0, 1, 2, 4, 5} {
		wire.Ack(t, wire.NextPush(t, p[i]))
	}
	wire.Ack(t, wire.NextPush(t, audience))
	wire.Ping(t)
	site.Core.AwaitReceipt(t, phone, audience, arrived)
	for _, i := range []int{0, 1, 2, 4, 5} {
		site.Core.AwaitReceipt(t, phone, p[i], arrived)
	}
}

func TestMoreThanAWindowWhileTheOpenIsUnderWayIsPulled(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phone := site.Core.NewDevice(t)
	g := holdBatches(site.Core)
	wire := site.Dial(t, gatewaytest.V5)
	wire.Greet(t, wire.Connect(phone))
	wire.Subscribe(t, 1, "push/demo")
	g.next(t)
	pushes := newPushes(30)
	for _, p := range pushes { // kept after the answer was made, which so has none of them
		site.Core.Keep(phone, p)
	}
	wantDelivered(t, site, phone, taken, pushes[:16]...)
	wantDelivered(t, site, phone, full, pushes[16:]...)
	g.lift(site.Core)
	for _, p := range pushes {
		wire.Ack(t, wire.NextPush(t, p))
	}
	wire.Ping(t)
}

func TestAPokeHasTheSessionPull(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phone := site.Core.NewDevice(t)
	wire := site.Online(t, phone)
	pushes := newPushes(20)
	for _, p := range pushes {
		site.Core.Keep(phone, p)
	}
	site.Core.Poke(t, phone, gatewayv1.PokeRequest_Poke_PULL)
	for _, p := range pushes {
		wire.Ack(t, wire.NextPush(t, p))
	}
	pulls := site.Core.Saw.Pulls.All()
	if len(pulls) < 2 || pulls[0].GetLimit() != 16 || string(pulls[0].GetAfter()) != string(make([]byte, 16)) {
		t.Errorf("pulled with %v", pulls)
	}
	wire.Ping(t)
}

func TestASessionWhoseRouteIsGoneIsOpenedAgain(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phone, push := site.Core.NewDevice(t), gatewaytest.NewPush("kept")
	wire := site.Online(t, phone)
	site.Core.LoseRoutes()
	site.Core.Keep(phone, push)
	site.Core.PokeSession(t, phone, site.Core.Saw.Opens.All()[0].GetSession(), gatewayv1.PokeRequest_Poke_PULL)
	wire.NextPush(t, push)
	if opens := site.Core.Saw.Opens.AwaitLen(t, "the second open", 2); !opens[1].GetReceiving() {
		t.Errorf("opened again as %v", opens[1])
	}
}

func TestDeliveryCanBeginWithoutSubscribe(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phone, push := site.Core.NewDevice(t), gatewaytest.NewPush("kept")
	site.Core.Keep(phone, push)
	wire := site.Dial(t, gatewaytest.V5)
	connect := wire.Connect(phone)
	connect.Properties.User = []packets.UserProperty{{Key: "deliver", Val: "now"}}
	wire.Greet(t, connect)
	if got := wire.NextPush(t, push); got.FixedHeader.Qos != 1 {
		t.Errorf("it came at QoS %d", got.FixedHeader.Qos)
	}
}

func TestAPhoneThatHasNotSubscribedIsOpenedButNotOnline(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phone := site.Core.NewDevice(t)
	site.Core.Keep(phone, gatewaytest.NewPush("kept"))
	wire := site.Dial(t, gatewaytest.V5)
	connect := wire.Connect(phone)
	connect.Properties.User = []packets.UserProperty{{Key: "app_version", Val: "2.0"}}
	wire.Greet(t, connect)
	open := site.Core.Saw.Opens.AwaitLen(t, "the open", 1)[0]
	if open.GetReceiving() || open.GetGeneration() != 1 || open.GetReport().GetAppVersion() != "2.0" ||
		open.GetAge().AsDuration() <= 0 {
		t.Errorf("opened as %v", open)
	}
	wantDelivered(t, site, phone, noSession, gatewaytest.NewPush("live"))
	wire.Ping(t)
}
