package gateway_test

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"google.golang.org/protobuf/types/known/durationpb"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/gateway/gatewaytest"
)

const (
	taken     = gatewayv1.DeliverResponse_TAKEN
	full      = gatewayv1.DeliverResponse_FULL
	noSession = gatewayv1.DeliverResponse_NO_SESSION
	isOff     = gatewayv1.DeliverResponse_PERMISSION_OFF

	sent        = ledgerv1.Step_STEP_SENT
	unconfirmed = ledgerv1.Step_STEP_SENT_UNCONFIRMED
	arrived     = ledgerv1.Step_STEP_ARRIVED
)

// wantDelivered delivers direct pushes and checks what the gateway answers.
func wantDelivered(
	t *testing.T, site *gatewaytest.Site, phone gatewaytest.Device, want gatewayv1.DeliverResponse_Result, pushes ...gatewaytest.Push,
) {
	t.Helper()
	targets := make([]gatewaytest.Target, len(pushes))
	for i, p := range pushes {
		targets[i] = gatewaytest.To(phone, p)
	}
	for i, got := range site.Core.Deliver(t, targets...) {
		if got != want {
			t.Errorf("delivery %d is %s, want %s", i, got, want)
		}
	}
}

func newPushes(n int) []gatewaytest.Push {
	var pushes []gatewaytest.Push
	for i := range n {
		pushes = append(pushes, gatewaytest.NewPush("push "+strconv.Itoa(i)))
	}
	return pushes
}

func TestPubackIsTheArrivedReceipt(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	for _, version := range []byte{gatewaytest.V5, gatewaytest.V311} {
		phone := site.Core.NewDevice(t)
		online := map[byte]func(testing.TB, gatewaytest.Device) *gatewaytest.Wire{
			gatewaytest.V5: site.Online, gatewaytest.V311: site.Online311,
		}
		wire := online[version](t, phone)
		push := gatewaytest.NewPush("Hi")
		push.Body.ExpiresAt = time.Now().Add(time.Minute).UnixMilli()
		wantDelivered(t, site, phone, taken, push)
		got := wire.NextPush(t, push)
		if got.FixedHeader.Qos != 1 || got.FixedHeader.Dup || got.FixedHeader.Retain || got.PacketID == 0 ||
			got.TopicName != "push/demo" || string(got.Payload) != string(push.Body.GetJson()) {
			t.Errorf("PUBLISH %+v", got)
		}
		expiry := got.Properties.MessageExpiryInterval
		if version == gatewaytest.V5 && (expiry < 55 || expiry > 60 || got.Properties.ContentType != "application/json") {
			t.Errorf("PUBLISH says expiry %d, content type %q", expiry, got.Properties.ContentType)
		}
		wire.Ack(t, got)
		site.Core.AwaitReceipt(t, phone, push, arrived)
		if n := site.Core.CountReceipts(phone, push, sent); n > 0 {
			t.Error("it was reported as sent, too")
		}
	}
}

// MQTT 5: 4.4.0-2
func TestAPushThatTheClientRefusesHasNotArrived(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phone := site.Core.NewDevice(t)
	wire := site.Online(t, phone)
	direct, audience := gatewaytest.NewPush("for it"), gatewaytest.NewAudiencePush("for all")
	wantDelivered(t, site, phone, taken, direct)
	wire.Refuse(t, wire.NextPush(t, direct), 0x97)
	site.Core.AwaitReceipt(t, phone, direct, unconfirmed)
	wantSlice(t, site.Core.Slice(t, audience, phone), gatewaytest.SliceAnswer{Sent: lows(phone)})
	wire.Refuse(t, wire.NextPush(t, audience), 0x83)
	site.Core.AwaitReceipt(t, phone, audience, unconfirmed)

	// Who asks again hears the same, and the phone nothing.
	wantDelivered(t, site, phone, taken, direct)
	wantSlice(t, site.Core.Slice(t, audience, phone), gatewaytest.SliceAnswer{Sent: lows(phone), SentUnconfirmed: lows(phone)})
	wire.Ping(t)
	for _, push := range []gatewaytest.Push{direct, audience} {
		if n := site.Core.CountReceipts(phone, push, arrived); n != 0 {
			t.Errorf("push %s has arrived, says the gateway", push.ID)
		}
	}
}

func TestAPushForAUserCarriesTheUser(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phone, other := site.Core.NewDevice(t), site.Core.NewDevice(t)
	wire, otherWire := site.Online(t, phone), site.Online(t, other)
	push := gatewaytest.NewPush("for the user only")
	forUser := push
	forUser.User = "u_9f3"
	// The same body for both, to one of them as a user's.
	site.Core.Deliver(t, gatewaytest.To(phone, forUser), gatewaytest.To(other, push))
	var message struct{ User, Title string }
	if err := json.Unmarshal(wire.NextPush(t, push).Payload, &message); err != nil || message.User != "u_9f3" ||
		message.Title != "for the user only" {
		t.Errorf("message %+v, %v", message, err)
	}
	if got := otherWire.NextPush(t, push); string(got.Payload) != string(push.Body.GetJson()) {
		t.Errorf("message %s", got.Payload)
	}
}

// MQTT 5: 2.2.1-2, 3.3.1-2, 3.8.4-8, 4.3.1-1
// MQTT 3.1.1: 2.3.1-5, 3.3.1-2, 3.3.5-1, 3.8.4-6, 4.3.1-1
func TestQoS0IsSentAndNeverArrives(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	for name, c := range map[string]struct{ subscribed, push byte }{
		"because the subscription wants it": {0, 1},
		"because the push wants it":         {1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachVersion(t, func(t *testing.T, version byte) {
				t.Helper()
				phone, push := site.Core.NewDevice(t), gatewaytest.NewPush("Hi")
				push.Body.Qos = uint32(c.push)
				wire := site.Dial(t, version)
				wire.Greet(t, wire.Connect(phone))
				wire.Subscribe(t, c.subscribed, "push/demo")
				site.Core.AwaitOnline(t, phone)
				wantDelivered(t, site, phone, taken, push)
				if got := wire.NextPush(t, push); got.FixedHeader.Qos != 0 || got.PacketID != 0 {
					t.Errorf("it came at QoS %d with identifier %d", got.FixedHeader.Qos, got.PacketID)
				}
				site.Core.AwaitReceipt(t, phone, push, unconfirmed)
				wantDelivered(t, site, phone, taken, push) // again: pushcore has not heard
				wire.Ping(t)                               // nothing came
				site.Core.Saw.Receipts.Await(t, "the receipt once more", func([]gatewaytest.Receipt) bool {
					return site.Core.CountReceipts(phone, push, unconfirmed) == 2
				})
			})
		})
	}
}

func TestWhatIsNotAcknowledgedInASecondIsReportedAsSent(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phone, push := site.Core.NewDevice(t), gatewaytest.NewPush("Hi")
	wire := site.Online(t, phone)
	wantDelivered(t, site, phone, taken, push)
	got := wire.NextPush(t, push)
	site.Core.AwaitReceipt(t, phone, push, sent)
	wire.Ack(t, got)
	site.Core.AwaitReceipt(t, phone, push, arrived)
	if n := site.Core.CountReceipts(phone, push, sent); n != 1 {
		t.Errorf("reported as sent %d times", n)
	}
}

// MQTT 5: 3.3.1-1, 4.4.0-1
func TestAConnectionThatDoesNotAcknowledgeIsClosed(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{Core: func(c *gatewaytest.Core) {
		c.Settings(func(a *gatewayv1.GetAppResponse) { a.AckTimeout = durationpb.New(500 * time.Millisecond) })
	}})
	for _, version := range []byte{gatewaytest.V5, gatewaytest.V311} {
		t.Run(strconv.Itoa(int(version)), func(t *testing.T) {
			t.Parallel()
			phone, push := site.Core.NewDevice(t), gatewaytest.NewPush("Hi")
			wire := site.Dial(t, version)
			wire.Greet(t, wire.Connect(phone))
			wire.Subscribe(t, 1, "push/demo")
			site.Core.AwaitOnline(t, phone)
			site.Core.Keep(phone, push)
			begun := time.Now()
			wantDelivered(t, site, phone, taken, push)
			wire.NextPush(t, push)
			wire.WantDisconnect(t, 0x8D)
			if took := time.Since(begun); took < 1500*time.Millisecond {
				t.Errorf("closed after %v", took)
			}
			// It comes again on the next connection, as a new PUBLISH.
			wire = site.Dial(t, version)
			wire.Greet(t, wire.Connect(phone))
			wire.Subscribe(t, 1, "push/demo")
			got := wire.NextPush(t, push)
			if got.FixedHeader.Dup {
				t.Error("DUP is set")
			}
			wire.Ack(t, got)
			site.Core.AwaitReceipt(t, phone, push, arrived)
		})
	}
}

// MQTT 5: 3.3.1-1, 4.4.0-1
func TestAPushThatIsAskedForAgainIsNotHandedOverAgain(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	eachVersion(t, func(t *testing.T, version byte) {
		t.Helper()
		phone, push := site.Core.NewDevice(t), gatewaytest.NewPush("Hi")
		wire := site.Dial(t, version)
		wire.Greet(t, wire.Connect(phone))
		wire.Subscribe(t, 1, "push/demo")
		site.Core.AwaitOnline(t, phone)
		wantDelivered(t, site, phone, taken, push, push)
		got := wire.NextPush(t, push)
		wantDelivered(t, site, phone, taken, push)
		wire.Ack(t, got)
		site.Core.AwaitReceipt(t, phone, push, arrived)
		wantDelivered(t, site, phone, taken, push)
		site.Core.Saw.Receipts.Await(t, "the receipt once more", func([]gatewaytest.Receipt) bool {
			return site.Core.CountReceipts(phone, push, arrived) == 2
		})
		wire.Ping(t) // nothing else came
	})
}

// MQTT 5: 3.3.2-5
func TestDeliveriesThatAreNotTaken(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phone, away := site.Core.NewDevice(t), site.Core.NewDevice(t)
	wire := site.Online(t, phone)
	session := site.Core.AwaitOnline(t, phone)
	expired := gatewaytest.NewPush("too late")
	expired.Body.ExpiresAt = time.Now().Add(-time.Second).UnixMilli()
	broken := gatewaytest.NewPush("no id")
	broken.Body.PushId = []byte("short")
	results := site.Core.Deliver(t,
		gatewaytest.Target{Device: phone, Push: gatewaytest.NewPush("another session"), Session: session + 1},
		gatewaytest.Target{Device: away, Push: gatewaytest.NewPush("another device"), Session: session},
		gatewaytest.To(phone, expired), gatewaytest.To(phone, broken),
		gatewaytest.To(phone, gatewaytest.NewPush("fine")))
	if want := []gatewayv1.DeliverResponse_Result{noSession, noSession, noSession, noSession, taken}; !slices.Equal(results, want) {
		t.Errorf("deliveries are %v, want %v", results, want)
	}
	wire.Next(t, packets.Publish)
	wire.Ping(t)
}

func TestNotificationsAreNotHandedOverWhileThePermissionIsOff(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phone := site.Core.NewDevice(t)
	wire := site.Online(t, phone)
	live(t, site, wire, phone)
	site.Core.Poke(t, phone, gatewayv1.PokeRequest_Poke_PERMISSION_OFF)
	wantDelivered(t, site, phone, isOff, gatewaytest.NewPush("not shown"))
	data := gatewaytest.NewPush("data")
	data.Body.Notification = false
	wantDelivered(t, site, phone, taken, data)
	wire.NextPush(t, data)
	site.Core.Poke(t, phone, gatewayv1.PokeRequest_Poke_PERMISSION_ON)
	shown := gatewaytest.NewPush("shown")
	wantDelivered(t, site, phone, taken, shown)
	wire.NextPush(t, shown)
}

// MQTT 5: 3.3.4-9, 3.3.4-10, 4.9.0-1, 4.9.0-2, 4.9.0-3
func TestAFullWindowIsRefilledFromWhatIsKept(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	for name, c := range map[string]struct {
		receiveMaximum uint16
		window         int
	}{
		"the gateway's window":             {0, 16},
		"the client's own Receive Maximum": {5, 5},
		"a window of one":                  {1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			phone := site.Core.NewDevice(t)
			wire := site.Dial(t, gatewaytest.V5)
			connect := wire.Connect(phone)
			connect.Properties.ReceiveMaximum = c.receiveMaximum
			wire.Greet(t, connect)
			wire.Subscribe(t, 1, "push/demo")
			site.Core.AwaitOnline(t, phone)
			pushes := newPushes(50)
			for _, p := range pushes {
				site.Core.Keep(phone, p)
			}
			wantDelivered(t, site, phone, taken, pushes[:c.window]...)
			wantDelivered(t, site, phone, full, pushes[c.window:]...)
			var window []packets.Packet
			for i, p := range pushes { // in order, nothing twice, nothing lost
				window = append(window, wire.NextPush(t, p))
				if i == c.window-1 {
					wire.Ping(t) // never more than the window
				}
				// What is kept comes once half of the window is free, so later windows need not be full.
				if i >= c.window-1 && len(window) > c.window/2 || i == len(pushes)-1 {
					for _, got := range window {
						wire.Ack(t, got)
					}
					window = nil
				}
			}
			for _, p := range pushes {
				site.Core.AwaitReceipt(t, phone, p, arrived)
			}
			wire.Ping(t)
		})
	}
}

func TestASlowDeviceIsClosedAndDoesNotDelayAnother(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	slow, quick := site.Core.NewDevice(t), site.Core.NewDevice(t)
	site.Online(t, slow).HoldLittle(t) // and it never reads
	wire := site.Online(t, quick)
	session := site.Core.AwaitOnline(t, slow)
	pad := strings.Repeat("x", 700<<10)
	for i := range 16 { // more than the kernel holds
		big := gatewaytest.NewPush("big")
		big.Body.Json = []byte(`{"push_id":"` + big.ID.String() + `","pad":"` + pad + `"}`)
		site.Core.Deliver(t, gatewaytest.Target{Device: slow, Push: big, Session: session})
		push := gatewaytest.NewPush("small " + strconv.Itoa(i))
		wantDelivered(t, site, quick, taken, push)
		wire.Ack(t, wire.NextPush(t, push))
	}
	// What its socket does not take is bounded: it comes back to find what is kept.
	site.Core.Saw.Closes.AwaitOne(t, "the close of the slow one", func(c *gatewayv1.Close) bool { return c.GetSession() == session })
	if n := site.Metric(t, "halley_gateway_closes_total", `reason="slow_reader"`); n != 1 {
		t.Errorf("%v connections were closed as slow readers", n)
	}
}
