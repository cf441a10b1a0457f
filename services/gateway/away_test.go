package gateway_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway/gatewaytest"
)

// loseDatabase has pushcore answer everything as it does without PostgreSQL.
func loseDatabase(core *gatewaytest.Core) {
	away := status.Error(codes.Unavailable, "the database is away")
	core.Script(func(s *gatewaytest.Script) {
		s.Lease = func(*gatewayv1.RenewLeaseRequest) (*gatewayv1.RenewLeaseResponse, error) { return nil, away }
		s.App = func(*gatewayv1.GetAppRequest) (*gatewayv1.GetAppResponse, error) { return nil, away }
		s.Register = func(*gatewayv1.RegisterRequest) (*gatewayv1.RegisterResponse, error) { return nil, away }
		s.Calls = func(*gatewayv1.CallsRequest) (*gatewayv1.CallsResponse, error) { return nil, away }
		s.Batch = func(*gatewayv1.SessionsRequest) *gatewayv1.SessionsResponse {
			return &gatewayv1.SessionsResponse{
				Status: gatewayv1.SessionsResponse_UNAVAILABLE, RetryAfter: durationpb.New(100 * time.Millisecond), Last: true,
			}
		}
	})
}

func TestWithoutPostgreSQLDevicesStayAndComeBack(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	stays, returns := site.Core.NewDevice(t), site.Core.NewDevice(t)
	wire := site.Online(t, stays)
	first := site.Online(t, returns)
	loseDatabase(site.Core)
	first.Close()
	for range 3 { // again and again, as phones do
		back := site.Dial(t, gatewaytest.V5)
		back.Greet(t, back.Connect(returns))
		back.Close()
	}
	back := site.Dial(t, gatewaytest.V5)
	back.Greet(t, back.Connect(returns))
	back.Subscribe(t, 1, "push/demo")
	event := back.Publish(t, 1, "event/demo", `{"push_id":"p","type":"shown"}`)
	wire.Ping(t)
	back.Ping(t) // nothing else came: the event is not durable
	keptForOne, keptForOther := gatewaytest.NewPush("kept for the one that came back"), gatewaytest.NewPush("kept for the one that stayed")
	site.Core.Keep(returns, keptForOne)
	site.Core.Keep(stays, keptForOther)
	site.Core.Lapse() // nobody renewed the lease
	site.Core.Script(func(s *gatewaytest.Script) { *s = gatewaytest.Script{} })
	seen := map[byte]packets.Packet{}
	for range 2 { // in whatever order
		p, err := back.Read()
		if err != nil {
			t.Fatal(err)
		}
		seen[p.FixedHeader.Type] = p
	}
	if p, ok := seen[packets.Publish]; !ok || gatewaytest.PushID(t, p.Payload) != keptForOne.ID {
		t.Errorf("what was kept did not come: %v", seen)
	}
	if p, ok := seen[packets.Puback]; !ok || p.PacketID != event {
		t.Errorf("the event is not acknowledged: %v", seen)
	}
	wire.NextPush(t, keptForOther) // on the connection that it had all the time
	for _, phone := range []gatewaytest.Device{stays, returns} {
		site.Core.AwaitOnline(t, phone)
	}
}

func TestAGatewayThatStartsWithoutPushcoreLetsDevicesInOnceItIsThere(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phone := site.Core.NewDevice(t)
	if err := site.Stop(); err != nil {
		t.Fatal(err)
	}
	site.Core.Leave()
	site.StartGateway(t, gatewaytest.Options{NotReady: true})
	early := site.Dial(t, gatewaytest.V5)
	early.Send(t, early.Connect(phone)) // nobody can say which keys its app has
	ack := early.Next(t, packets.Connack)
	if retry, _ := strconv.Atoi(userProperty(ack, "retry_after_ms")); ack.ReasonCode != 0x88 || retry < 1000 {
		t.Errorf("told 0x%02X, retry_after_ms %d", ack.ReasonCode, retry)
	}
	early.WantClosed(t)
	old := site.Dial(t, gatewaytest.V311)
	old.Send(t, old.Connect(phone))
	if ack := old.Next(t, packets.Connack); ack.ReasonCode != 3 {
		t.Errorf("a 3.1.1 client is told %d", ack.ReasonCode)
	}
	site.Core.Come(t)
	site.AwaitReady(t)
	push := gatewaytest.NewPush("after all")
	wire := site.Online(t, phone)
	wantDelivered(t, site, phone, taken, push)
	wire.NextPush(t, push)
}
