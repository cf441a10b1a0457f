package gateway_test

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/halleypush/halley/pkg/ordinal"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway/gatewaytest"
)

// next takes what a channel brings.
func next[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(gatewaytest.Patience):
		t.Fatalf("never came: %s", what)
	}
	panic("unreachable")
}

// lows returns devices' places in their slice, sorted.
func lows(devices ...gatewaytest.Device) []uint32 {
	var all []uint32
	for _, d := range devices {
		all = append(all, ordinal.Low(d.Ordinal))
	}
	slices.Sort(all)
	return all
}

func wantSlice(t *testing.T, got, want gatewaytest.SliceAnswer) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the gateway answered %+v, want %+v", got, want)
	}
}

// live waits until the gateway has heard that pushcore has opened a session; pushcore knows it earlier. A push before that would be held.
func live(t *testing.T, site *gatewaytest.Site, wire *gatewaytest.Wire, phone gatewaytest.Device) {
	t.Helper()
	first := gatewaytest.NewPush("first")
	site.Core.Deliver(t, gatewaytest.To(phone, first))
	wire.NextPush(t, first)
}

func TestASliceGoesToItsSessionsOnly(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phones := make([]gatewaytest.Device, 6)
	wires := make([]*gatewaytest.Wire, len(phones))
	for i := range phones {
		phones[i] = site.Core.NewDevice(t)
		if i != 4 && i != 5 {
			wires[i] = site.Online(t, phones[i])
			live(t, site, wires[i], phones[i])
		}
	}
	wires[4] = site.Dial(t, gatewaytest.V5) // not subscribed
	wires[4].Greet(t, wires[4].Connect(phones[4]))
	wires[5] = site.Dial(t, gatewaytest.V311) // at QoS 0
	wires[5].Greet(t, wires[5].Connect(phones[5]))
	wires[5].Subscribe(t, 0, "push/demo")
	site.Core.AwaitOnline(t, phones[5])
	live(t, site, wires[5], phones[5])
	site.Core.Poke(t, phones[3], gatewayv1.PokeRequest_Poke_PERMISSION_OFF)
	push := gatewaytest.NewAudiencePush("Hi")
	elsewhere := site.Core.NewDevice(t)
	got := site.Core.Broadcast(t, push, phones[0], phones[2], phones[3], phones[4], phones[5], elsewhere)
	wantSlice(t, got, gatewaytest.SliceAnswer{
		Sent: lows(phones[0], phones[2], phones[5]), SentUnconfirmed: lows(phones[5]), PermissionOff: lows(phones[3]),
	})
	for _, i := range []int{0, 2, 5} {
		wires[i].NextPush(t, push)
	}
	for _, wire := range wires {
		wire.Ping(t)
	}
}

func TestASliceThatIsAskedForAgainIsAnsweredInFullAndHandedOverOnce(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phones := []gatewaytest.Device{site.Core.NewDevice(t), site.Core.NewDevice(t), site.Core.NewDevice(t)}
	var wires []*gatewaytest.Wire
	for i, p := range phones {
		wires = append(wires, site.Online(t, p))
		live(t, site, wires[i], p)
	}
	push := gatewaytest.NewAudiencePush("Hi")
	want := gatewaytest.SliceAnswer{Sent: lows(phones...)}
	var answers []<-chan gatewaytest.SliceAnswer
	for range 20 { // most join the first; whether one does or comes after changes nothing
		answers = append(answers, site.Core.PublishSlice(t, push, phones...))
	}
	for _, a := range answers {
		wantSlice(t, next(t, "the answer", a), want)
	}
	got := wires[0].NextPush(t, push)
	wantSlice(t, site.Core.Slice(t, push, phones...), want)
	wires[0].Ack(t, got)
	site.Core.AwaitReceipt(t, phones[0], push, arrived)
	wantSlice(t, site.Core.Slice(t, push, phones...), want)
	site.Core.Saw.Receipts.Await(t, "the receipt once more", func([]gatewaytest.Receipt) bool {
		return site.Core.CountReceipts(phones[0], push, arrived) == 2
	})
	wires[1].NextPush(t, push)
	wires[2].NextPush(t, push)
	for _, wire := range wires {
		wire.Ping(t)
	}
}

func TestAnAppWithoutDevicesHereIsAnsweredAtOnce(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	push := gatewaytest.NewAudiencePush("Hi")
	wantSlice(t, site.Core.Slice(t, push, site.Core.NewDevice(t)), gatewaytest.SliceAnswer{})
}

// MQTT 5: 3.3.1-1, 4.4.0-1
func TestAnAudiencePushThatWasNotAcknowledgedComesAgainOnTheNextConnection(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phone, push := site.Core.NewDevice(t), gatewaytest.NewAudiencePush("Hi")
	site.Core.Keep(phone, push)
	wire := site.Dial(t, gatewaytest.V5)
	wire.Greet(t, wire.Connect(phone))
	wire.Subscribe(t, 1, "push/demo")
	wire.NextPush(t, push) // as kept
	wantSlice(t, site.Core.Slice(t, push, phone), gatewaytest.SliceAnswer{Sent: lows(phone)})
	wire.Close()
	site.Core.AwaitReceipt(t, phone, push, sent)

	wire = site.Dial(t, gatewaytest.V5)
	wire.Greet(t, wire.Connect(phone))
	wire.Subscribe(t, 1, "push/demo")
	wire.Ack(t, wire.NextPush(t, push))
	site.Core.AwaitReceipt(t, phone, push, arrived)

	// The ledger lost that receipt: what is kept says it again, and the gateway knows better.
	site.Core.Keep(phone, push)
	wire.Close()
	wire = site.Online(t, phone)
	site.Core.Saw.Receipts.Await(t, "the receipt once more", func([]gatewaytest.Receipt) bool {
		return site.Core.CountReceipts(phone, push, arrived) == 2
	})
	wire.Ping(t)
}

func TestASliceThatFindsAFullWindowIsPulled(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phone := site.Core.NewDevice(t)
	wire := site.Online(t, phone)
	direct := newPushes(16)
	wantDelivered(t, site, phone, taken, direct...)
	push := gatewaytest.NewAudiencePush("Hi")
	site.Core.Keep(phone, push)
	wantSlice(t, site.Core.Slice(t, push, phone), gatewaytest.SliceAnswer{})
	for _, p := range direct {
		wire.Ack(t, wire.NextPush(t, p))
	}
	wire.NextPush(t, push)
	site.Core.AwaitReceipt(t, phone, push, sent) // nobody was told in an answer, so that a receipt says it
	wantSlice(t, site.Core.Slice(t, push, phone), gatewaytest.SliceAnswer{Sent: lows(phone)})
	wire.Ping(t)
}

func TestABroadcastReachesEverybodyAndADirectPushBesideItItsDevice(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	const n = 600 // several quanta
	phones := make([]gatewaytest.Device, n)
	wires := make([]*gatewaytest.Wire, n)
	for i := range phones {
		phones[i] = site.Core.NewDevice(t)
		wires[i] = site.Dial(t, gatewaytest.V5)
		wires[i].Greet(t, wires[i].Connect(phones[i]))
		wires[i].Subscribe(t, 1, "push/demo")
	}
	for _, p := range phones {
		site.Core.AwaitOnline(t, p)
	}
	push := gatewaytest.NewAudiencePush("Hi")
	answer := site.Core.PublishSlice(t, push, phones...)
	direct := gatewaytest.NewPush("direct")
	wantDelivered(t, site, phones[0], taken, direct)
	wantSlice(t, next(t, "the answer", answer), gatewaytest.SliceAnswer{Sent: lows(phones...)})
	first := map[uuid.UUID]int{} // what came to the first phone, in whatever order
	for range 2 {
		got := wires[0].Next(t, packets.Publish)
		first[gatewaytest.PushID(t, got.Payload)]++
		wires[0].Ack(t, got)
	}
	if first[push.ID] != 1 || first[direct.ID] != 1 {
		t.Errorf("to the first phone came %v, want %s and %s", first, push.ID, direct.ID)
	}
	for _, wire := range wires[1:] {
		wire.Ack(t, wire.NextPush(t, push))
	}
	site.Core.Saw.Receipts.Await(t, "everybody's receipt", func(all []gatewaytest.Receipt) bool {
		count := 0
		for _, r := range all {
			if r.Push == push.ID && r.Step == arrived && r.Audience {
				count++
			}
		}
		return count == n
	})
}
