package sink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/halleypush/halley/pkg/subject"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
)

// BodySize is the usual length of a push's JSON, in bytes.
const BodySize = 200

// takeReceipts makes the streams as pushcore does, and counts what comes.
func (s *Sink) takeReceipts(ctx context.Context) error {
	js, err := jetstream.New(s.nats)
	if err != nil {
		return err
	}
	for name, subjects := range map[string]string{
		subject.StreamReceiptsDirect: subject.ReceiptsDirect, subject.StreamReceiptsAudience: "receipt.a.*",
	} {
		stream, err := js.CreateStream(ctx, jetstream.StreamConfig{
			Name: name, Subjects: []string{subjects}, Retention: jetstream.WorkQueuePolicy, Storage: jetstream.FileStorage,
		})
		if err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
		consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{Durable: "bench", AckPolicy: jetstream.AckExplicitPolicy})
		if err != nil {
			return fmt.Errorf("consumer of %s: %w", name, err)
		}
		if _, err := consumer.Consume(s.receipts); err != nil {
			return fmt.Errorf("consume %s: %w", name, err)
		}
	}
	return nil
}

func (s *Sink) receipts(m jetstream.Msg) {
	defer func() { _ = m.Ack() }() // a repeat only counts
	if m.Subject() == subject.ReceiptsDirect {
		return
	}
	var batch ledgerv1.SliceReceipts
	if err := proto.Unmarshal(m.Data(), &batch); err != nil {
		return // then the count is short, which is seen
	}
	for _, r := range batch.GetReceipts() {
		members := roaring.New()
		if err := members.UnmarshalBinary(r.GetOrdinals()); err == nil && r.GetStep() == ledgerv1.Step_STEP_ARRIVED {
			s.acked.Add(int64(members.GetCardinality()))
		}
	}
}

// NewBody makes a push whose JSON has so many bytes.
func NewBody(audience bool, qos uint32, size int) (*gatewayv1.Body, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	message := map[string]string{"push_id": id.String(), "kind": "notification", "title": "Your order", "body": ""}
	text, err := json.Marshal(message)
	if err != nil {
		return nil, err
	}
	message["body"] = strings.Repeat("x", size-len(text))
	if text, err = json.Marshal(message); err != nil {
		return nil, err
	}
	return &gatewayv1.Body{
		PushId: id[:], Json: text, Qos: qos, ExpiresAt: time.Now().Add(time.Hour).UnixMilli(), Audience: audience, Notification: true,
	}, nil
}

// Broadcast hands an audience push over to the devices with the ordinals from first on, n in all and of one slice, and
// returns when so many gateways have answered: they have tried all of their sessions.
func (s *Sink) Broadcast(ctx context.Context, first, n, gateways int) error {
	body, err := NewBody(true, 1, BodySize)
	if err != nil {
		return err
	}
	members := roaring.New()
	members.AddRange(uint64(first), uint64(first+n))
	ordinals, err := members.ToBytes()
	if err != nil {
		return err
	}
	request, err := proto.Marshal(&gatewayv1.SliceRequest{App: appNumber, Body: body, Ordinals: ordinals})
	if err != nil {
		return err
	}
	inbox := s.nats.NewInbox()
	answers, err := s.nats.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer func() { _ = answers.Unsubscribe() }() // it may be closed
	if err := s.nats.PublishRequest(subject.Slice(appNumber), inbox, request); err != nil {
		return err
	}
	sent := uint64(0)
	for range gateways {
		took, err := sentBy(ctx, answers)
		if err != nil {
			return fmt.Errorf("broadcast: %w", err)
		}
		sent += took
	}
	if sent != uint64(n) {
		return fmt.Errorf("gateways handed over to %d of %d devices", sent, n)
	}
	return nil
}

// sentBy returns to how many devices the next gateway that answers has handed over.
func sentBy(ctx context.Context, answers *nats.Subscription) (uint64, error) {
	m, err := answers.NextMsgWithContext(ctx)
	if err != nil {
		return 0, err
	}
	var response gatewayv1.SliceResponse
	if err := proto.Unmarshal(m.Data, &response); err != nil {
		return 0, err
	}
	members := roaring.New()
	if len(response.GetSent()) > 0 {
		if err := members.UnmarshalBinary(response.GetSent()); err != nil {
			return 0, err
		}
	}
	return members.GetCardinality(), nil
}

// ErrGone means that a device is not online any more.
var ErrGone = errors.New("the device is gone")

// Deliver hands a direct push over to a device.
func (s *Sink) Deliver(ctx context.Context, device int, body *gatewayv1.Body) error {
	s.mu.Lock()
	r, ok := s.routes[uint64(device)]
	s.mu.Unlock()
	if !ok {
		return fmt.Errorf("device %d is not online", device)
	}
	request, err := proto.Marshal(&gatewayv1.DeliverRequest{
		Bodies:  []*gatewayv1.Body{body},
		Targets: []*gatewayv1.DeliverRequest_Target{{App: appNumber, Ordinal: uint64(device), Session: r.session}},
	})
	if err != nil {
		return err
	}
	m, err := s.nats.RequestWithContext(ctx, subject.Gateway(r.gateway, "deliver"), request)
	if err != nil {
		return fmt.Errorf("deliver: %w", err)
	}
	var response gatewayv1.DeliverResponse
	if err := proto.Unmarshal(m.Data, &response); err != nil {
		return err
	}
	switch results := response.GetResults(); {
	case len(results) == 1 && results[0] == gatewayv1.DeliverResponse_TAKEN:
		return nil
	case len(results) == 1 && results[0] == gatewayv1.DeliverResponse_NO_SESSION:
		return ErrGone
	default:
		return fmt.Errorf("deliver to device %d: %v", device, results)
	}
}
