package gatewaytest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/halleypush/halley/pkg/ordinal"
	"github.com/halleypush/halley/pkg/subject"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
)

// Push is a push on its way to devices.
type Push struct {
	ID   uuid.UUID
	Body *gatewayv1.Body
	// User is the opaque id of the user that it is for; empty for none.
	User string
}

// NewPush makes a notification at QoS 1 that holds for an hour. Later pushes have greater ids.
func NewPush(title string) Push {
	id := uuid.Must(uuid.NewV7())
	text, err := json.Marshal(map[string]any{"push_id": id.String(), "kind": "notification", "title": title})
	if err != nil { // a map of strings always encodes
		panic(err)
	}
	return Push{ID: id, Body: &gatewayv1.Body{
		PushId: id[:], Json: text, Qos: 1, ExpiresAt: time.Now().Add(time.Hour).UnixMilli(), Notification: true,
	}}
}

// NewAudiencePush makes a push to an audience.
func NewAudiencePush(title string) Push {
	p := NewPush(title)
	p.Body.Audience = true
	return p
}

// Receipt is one step that one delivery took.
type Receipt struct {
	Ordinal  uint64
	Push     uuid.UUID
	Step     ledgerv1.Step
	Audience bool
}

// takeReceipts makes the streams, as pushcore does, and records what comes.
func (c *Core) takeReceipts(t testing.TB) {
	t.Helper()
	js, err := jetstream.New(c.nats)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	for name, s := range map[string]struct {
		subject string
		take    func(jetstream.Msg)
	}{
		subject.StreamReceiptsDirect:   {subject.ReceiptsDirect, c.directReceipts},
		subject.StreamReceiptsAudience: {"receipt.a.>", c.sliceReceipts},
	} {
		stream, err := js.CreateStream(ctx, jetstream.StreamConfig{
			Name: name, Subjects: []string{s.subject}, Retention: jetstream.WorkQueuePolicy,
		})
		if err != nil {
			t.Fatal(err)
		}
		consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{Durable: "test"})
		if err != nil {
			t.Fatal(err)
		}
		taking, err := consumer.Consume(s.take)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(taking.Stop)
	}
}

func (c *Core) directReceipts(m jetstream.Msg) {
	var batch ledgerv1.DirectReceipts
	if err := proto.Unmarshal(m.Data(), &batch); err != nil {
		panic(err) // the gateway published something else
	}
	var receipts []Receipt
	for _, r := range batch.GetReceipts() {
		receipts = append(receipts, Receipt{r.GetOrdinal(), uuid.UUID(r.GetPushId()), r.GetStep(), false})
	}
	c.apply(m, receipts)
}

func (c *Core) sliceReceipts(m jetstream.Msg) {
	var batch ledgerv1.SliceReceipts
	if err := proto.Unmarshal(m.Data(), &batch); err != nil {
		panic(err) // the gateway published something else
	}
	var receipts []Receipt
	for _, r := range batch.GetReceipts() {
		members := roaring.New()
		if err := members.UnmarshalBinary(r.GetOrdinals()); err != nil {
			panic(err) // likewise
		}
		for _, low := range members.ToArray() {
			receipts = append(receipts, Receipt{ordinal.Join(r.GetSlice(), low), uuid.UUID(r.GetPushId()), r.GetStep(), true})
		}
	}
	c.apply(m, receipts)
}

func (c *Core) apply(m jetstream.Msg, receipts []Receipt) {
	for _, r := range receipts {
		if r.Step == ledgerv1.Step_STEP_ARRIVED || r.Step == ledgerv1.Step_STEP_SENT_UNCONFIRMED {
			c.drop(r.Ordinal, r.Push[:])
		}
	}
	c.Saw.Receipts.add(receipts...)
	_ = m.Ack() // a repeat changes nothing
}

// AwaitReceipt waits for a receipt.
func (c *Core) AwaitReceipt(t testing.TB, d Device, p Push, step ledgerv1.Step) {
	t.Helper()
	want := Receipt{d.Ordinal, p.ID, step, p.Body.GetAudience()}
	c.Saw.Receipts.AwaitOne(t, step.String(), func(r Receipt) bool { return r == want })
}

// CountReceipts returns how many receipts of a delivery have come with a step.
func (c *Core) CountReceipts(d Device, p Push, step ledgerv1.Step) int {
	n := 0
	for _, r := range c.Saw.Receipts.All() {
		if r == (Receipt{d.Ordinal, p.ID, step, p.Body.GetAudience()}) {
			n++
		}
	}
	return n
}

// Target is one delivery that Deliver asks for.
type Target struct {
	Device Device
	Push   Push
	// Session is the one that it is for; 0: the one that is open.
	Session uint64
}

// To is one delivery to the session of a device that is open.
func To(d Device, p Push) Target { return Target{Device: d, Push: p} }

// Deliver asks the gateway to hand over direct pushes, and returns its answers in the order of the targets.
func (c *Core) Deliver(t testing.TB, targets ...Target) []gatewayv1.DeliverResponse_Result {
	t.Helper()
	request := &gatewayv1.DeliverRequest{}
	for i, target := range targets {
		session := target.Session
		if session == 0 {
			session = c.route(target.Device).session
		}
		request.Bodies = append(request.Bodies, target.Push.Body)
		request.Targets = append(request.Targets, &gatewayv1.DeliverRequest_Target{
			App: cmp.Or(target.Device.App, AppNumber), Ordinal: target.Device.Ordinal, Session: session, Body: uint32(i), User: target.Push.User,
		})
	}
	var response gatewayv1.DeliverResponse
	c.request(t, subject.Gateway(c.Incarnation(), "deliver"), request, &response)
	if len(response.GetResults()) != len(targets) {
		t.Fatalf("%d answers to %d targets", len(response.GetResults()), len(targets))
	}
	return response.GetResults()
}

// SliceAnswer is what a gateway said of a slice.
type SliceAnswer struct{ Sent, SentUnconfirmed, PermissionOff []uint32 }

// Slice asks the gateway to hand an audience push over to the devices of slice 0 that are named, and returns its answer.
func (c *Core) Slice(t testing.TB, p Push, to ...Device) SliceAnswer {
	t.Helper()
	var response gatewayv1.SliceResponse
	c.request(t, subject.Gateway(c.Incarnation(), "slice"), SliceRequest(t, p, to...), &response)
	return readSlice(t, &response)
}

// SliceRequest returns the request for a push to devices of slice 0.
func SliceRequest(t testing.TB, p Push, to ...Device) *gatewayv1.SliceRequest {
	t.Helper()
	members := roaring.New()
	for _, d := range to {
		members.Add(ordinal.Low(d.Ordinal))
	}
	data, err := members.ToBytes()
	if err != nil {
		t.Fatal(err)
	}
	return &gatewayv1.SliceRequest{App: AppNumber, Body: p.Body, Ordinals: data}
}

// Broadcast publishes a slice to all gateways and returns the first answer.
func (c *Core) Broadcast(t testing.TB, p Push, to ...Device) SliceAnswer {
	t.Helper()
	var response gatewayv1.SliceResponse
	c.request(t, subject.Slice(AppNumber), SliceRequest(t, p, to...), &response)
	return readSlice(t, &response)
}

// PublishSlice asks the gateway for a slice without waiting for the answer, which comes to the channel.
func (c *Core) PublishSlice(t testing.TB, p Push, to ...Device) <-chan SliceAnswer {
	t.Helper()
	data, err := proto.Marshal(SliceRequest(t, p, to...))
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan SliceAnswer, 1)
	reply := c.nats.NewRespInbox()
	sub, err := c.nats.Subscribe(reply, func(m *nats.Msg) {
		var response gatewayv1.SliceResponse
		if err := proto.Unmarshal(m.Data, &response); err != nil {
			panic(err) // the gateway answered something else
		}
		answers <- readSlice(t, &response)
	})
	if err == nil {
		err = c.nats.PublishRequest(subject.Gateway(c.Incarnation(), "slice"), reply, data)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() }) // fails if the connection is gone
	return answers
}

func readSlice(t testing.TB, r *gatewayv1.SliceResponse) SliceAnswer {
	t.Helper()
	read := func(data []byte) []uint32 {
		if len(data) == 0 {
			return nil
		}
		bits := roaring.New()
		if err := bits.UnmarshalBinary(data); err != nil {
			t.Error(err)
		}
		return bits.ToArray()
	}
	return SliceAnswer{read(r.GetSent()), read(r.GetSentUnconfirmed()), read(r.GetPermissionOff())}
}

// Poke tells the gateway what happened to a device's session that is open.
func (c *Core) Poke(t testing.TB, d Device, action gatewayv1.PokeRequest_Poke_Action) {
	t.Helper()
	c.PokeSession(t, d, c.route(d).session, action)
}

// PokeSession tells the gateway what happened to a session.
func (c *Core) PokeSession(t testing.TB, d Device, session uint64, action gatewayv1.PokeRequest_Poke_Action) {
	t.Helper()
	data, err := proto.Marshal(&gatewayv1.PokeRequest{Pokes: []*gatewayv1.PokeRequest_Poke{
		{App: cmp.Or(d.App, AppNumber), Ordinal: d.Ordinal, Session: session, Action: action},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.nats.Request(subject.Gateway(c.Incarnation(), "poke"), data, Patience); err != nil {
		t.Fatal(err)
	}
}

// Changed tells the gateways that the app changed.
func (c *Core) Changed(t testing.TB) {
	t.Helper()
	data, err := proto.Marshal(&gatewayv1.AppChanged{App: App})
	if err == nil {
		err = c.nats.Publish(subject.AppChanged, data)
	}
	if err == nil {
		err = c.nats.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// request asks until somebody is there who answers.
func (c *Core) request(t testing.TB, to string, request, response proto.Message) {
	t.Helper()
	data, err := proto.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	var answer *nats.Msg
	Eventually(t, "a gateway answers on "+to, func() bool {
		answer, err = c.nats.Request(to, data, Patience)
		if err != nil && !errors.Is(err, nats.ErrNoResponders) {
			t.Fatal(err)
		}
		return err == nil
	})
	if err := proto.Unmarshal(answer.Data, response); err != nil {
		t.Fatal(err)
	}
}

// PushID returns the push_id inside a message's JSON.
func PushID(t testing.TB, payload []byte) uuid.UUID {
	t.Helper()
	var message struct {
		PushID uuid.UUID `json:"push_id"`
	}
	if err := json.Unmarshal(payload, &message); err != nil {
		t.Fatalf("a payload is no JSON: %v: %s", err, payload)
	}
	return message.PushID
}
