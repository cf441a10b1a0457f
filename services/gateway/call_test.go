package gateway_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway/gatewaytest"
)

// callGate lets a test answer calls itself.
type callGate struct{ came chan heldCall }

type heldCall struct {
	*gatewayv1.Call
	answer chan *gatewayv1.CallsResponse_Result
}

// holdCalls holds calls until the test answers each.
func holdCalls(core *gatewaytest.Core) *callGate {
	g := &callGate{came: make(chan heldCall, 1000)}
	core.Script(func(s *gatewaytest.Script) {
		s.Calls = func(r *gatewayv1.CallsRequest) (*gatewayv1.CallsResponse, error) {
			held := make([]heldCall, len(r.GetCalls()))
			for i, c := range r.GetCalls() {
				held[i] = heldCall{c, make(chan *gatewayv1.CallsResponse_Result, 1)}
				g.came <- held[i]
			}
			response := &gatewayv1.CallsResponse{}
			for _, h := range held {
				response.Results = append(response.Results, <-h.answer)
			}
			return response, nil
		}
	})
	return g
}

func (h heldCall) ok(json string) {
	h.answer <- &gatewayv1.CallsResponse_Result{Ok: true, Json: []byte(json)}
}

func (h heldCall) fail(json string) { h.answer <- &gatewayv1.CallsResponse_Result{Json: []byte(json)} }

// MQTT 5: 2.2.1-5, 3.3.4-1, 4.3.2-4, 4.3.2-5
// MQTT 3.1.1: 2.3.1-6, 3.3.4-1, 4.3.2-2
func TestAnEventIsAcknowledgedWhenPushcoreHasIt(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version byte) {
		t.Helper()
		site := gatewaytest.Start(t, gatewaytest.Options{})
		g := holdCalls(site.Core)
		wire := greeted(t, site, version)
		body := `{"push_id":"p","type":"shown"}`
		event := packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, PacketID: 7, TopicName: "event/demo", Payload: []byte(body),
		}
		for _, again := range []bool{false, true} { // once acknowledged, the same identifier is another event's, whatever DUP says
			event.FixedHeader.Dup = again
			wire.Send(t, event)
			held := next(t, "the event", g.came)
			if held.GetMethod() != "events" || string(held.GetJson()) != body || held.GetApp() != gatewaytest.AppNumber {
				t.Errorf("pushcore was asked %v", held.Call)
			}
			wire.Ping(t) // no PUBACK yet
			held.ok("{}")
			if ack := wire.Next(t, packets.Puback); ack.PacketID != 7 || ack.ReasonCode != 0 {
				t.Errorf("PUBACK %d with 0x%02X", ack.PacketID, ack.ReasonCode)
			}
		}
	})
}

// MQTT 5: 3.4.2-1
func TestARefusedEventIsAcknowledgedWithTheReason(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	g := holdCalls(site.Core)
	for _, version := range []byte{gatewaytest.V5, gatewaytest.V311} {
		wire := greeted(t, site, version)
		wire.Publish(t, 1, "event/demo", `{}`)
		next(t, "the event", g.came).fail(`{"code":"INVALID_ARGUMENT","field":"push_id","message":"is missing"}`)
		ack := wire.Next(t, packets.Puback)
		if version == gatewaytest.V5 && (ack.ReasonCode != 0x99 || ack.Properties.ReasonString != "push_id: is missing") {
			t.Errorf("PUBACK with 0x%02X: %s", ack.ReasonCode, ack.Properties.ReasonString)
		}
	}
}

// MQTT 5: 4.3.2-4
func TestEventsAreTriedAgainWhilePushcoreCannotTakeThem(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	answers := []func() (*gatewayv1.CallsResponse, error){
		func() (*gatewayv1.CallsResponse, error) { return nil, status.Error(codes.Unavailable, "no database") },
		func() (*gatewayv1.CallsResponse, error) { return &gatewayv1.CallsResponse{}, nil }, // nonsense
		func() (*gatewayv1.CallsResponse, error) {
			return &gatewayv1.CallsResponse{Results: []*gatewayv1.CallsResponse_Result{
				{Json: []byte(`{"code":"RESOURCE_EXHAUSTED","message":"later"}`)},
			}}, nil
		},
	}
	site.Core.Script(func(s *gatewaytest.Script) {
		s.Calls = func(*gatewayv1.CallsRequest) (*gatewayv1.CallsResponse, error) {
			answer := answers[0]
			if answers = answers[1:]; len(answers) == 0 {
				site.Core.Script(func(s *gatewaytest.Script) { s.Calls = nil })
			}
			return answer()
		}
	})
	wire := greeted(t, site, gatewaytest.V5)
	wire.Publish(t, 1, "event/demo", `{"push_id":"p","type":"shown"}`)
	if ack := wire.Next(t, packets.Puback); ack.ReasonCode != 0 {
		t.Errorf("PUBACK with 0x%02X", ack.ReasonCode)
	}
	if n := site.Core.Saw.Calls.Len(); n != 4 {
		t.Errorf("asked %d times", n)
	}
}

func TestCallsAreAnsweredOnTheirReplyTopic(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		version  byte
		filter   string
		qos      byte
		body     string
		ok, fail string
		want     string
	}{
		"all replies":       {gatewaytest.V5, "reply/demo/+", 1, `{"id":"a1","user":"alice"}`, `{"user":"u_1"}`, "", `{"id":"a1","ok":{"user":"u_1"}}`},
		"one method's":      {gatewaytest.V311, "reply/demo/bind", 1, `{"id":7,"user":"alice"}`, `{}`, "", `{"id":7,"ok":{}}`},
		"at QoS 0":          {gatewaytest.V311, "reply/demo/bind", 0, `{"id":-7.5}`, `{}`, "", `{"id":-7.5,"ok":{}}`},
		"without an id":     {gatewaytest.V5, "reply/demo/+", 1, `{"user":"alice"}`, `{}`, "", `{"ok":{}}`},
		"an id not echoed":  {gatewaytest.V5, "reply/demo/+", 1, `{"id":{"a":1}}`, `{}`, "", `{"ok":{}}`},
		"a body not parsed": {gatewaytest.V5, "reply/demo/+", 1, `not json`, "", `{"code":"INVALID_ARGUMENT"}`, `{"error":{"code":"INVALID_ARGUMENT"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			site := gatewaytest.Start(t, gatewaytest.Options{})
			g := holdCalls(site.Core)
			wire := greeted(t, site, c.version)
			wire.Subscribe(t, c.qos, c.filter)
			id := wire.Publish(t, 1, "call/demo/bind", c.body)
			held := next(t, "the call", g.came)
			if held.GetMethod() != "bind" || string(held.GetJson()) != c.body {
				t.Errorf("pushcore was asked %v", held.Call)
			}
			if c.fail != "" {
				held.fail(c.fail)
			} else {
				held.ok(c.ok)
			}
			if ack := wire.Next(t, packets.Puback); ack.PacketID != id || ack.ReasonCode != 0 {
				t.Errorf("PUBACK %d with 0x%02X", ack.PacketID, ack.ReasonCode)
			}
			reply := wire.Next(t, packets.Publish)
			if reply.TopicName != "reply/demo/bind" || string(reply.Payload) != c.want || reply.FixedHeader.Qos != c.qos {
				t.Errorf("%s at QoS %d: %s", reply.TopicName, reply.FixedHeader.Qos, reply.Payload)
			}
			if c.qos > 0 {
				wire.Ack(t, reply)
			}
			wire.Ping(t)
			if err := site.Stop(); err != nil { // the last receipts are out then
				t.Error(err)
			}
			for _, r := range site.Core.Saw.Receipts.All() {
				t.Errorf("a reply made a receipt: %v", r)
			}
		})
	}
}

// MQTT 5: 3.3.2-16
func TestAnMQTT5ClientNamesWhereItWantsTheReply(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	wire := greeted(t, site, gatewaytest.V5)
	call := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, PacketID: 1, TopicName: "call/demo/tags", Payload: []byte(`{}`),
	}
	call.Properties.ResponseTopic = "reply/demo/my/own"
	call.Properties.CorrelationData = []byte{0, 1, 0xFF}
	wire.Send(t, call)
	wire.Next(t, packets.Puback)
	reply := wire.Next(t, packets.Publish)
	if reply.TopicName != "reply/demo/my/own" || string(reply.Properties.CorrelationData) != "\x00\x01\xff" {
		t.Errorf("replied on %s with %x", reply.TopicName, reply.Properties.CorrelationData)
	}
	wire.Publish(t, 1, "call/demo/tags", `{}`) // nobody has asked for this reply
	wire.Next(t, packets.Puback)
	wire.Ping(t)
}

func TestCallsTakeEffectInOrder(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	g := holdCalls(site.Core)
	wire := greeted(t, site, gatewaytest.V5)
	wire.Subscribe(t, 0, "reply/demo/+")
	for i := range 3 {
		wire.Publish(t, 0, "call/demo/tags", fmt.Sprintf(`{"id":%d}`, i))
	}
	for i := range 3 {
		call := next(t, "the next call", g.came)
		wire.Ping(t)
		select {
		case h := <-g.came:
			t.Fatalf("a second call is under way: %v", h.Call)
		default:
		}
		call.ok(`{}`)
		if got := wire.Next(t, packets.Publish); string(got.Payload) != fmt.Sprintf(`{"id":%d,"ok":{}}`, i) {
			t.Errorf("reply %d: %s", i, got.Payload)
		}
	}
}

func TestACallIsRefusedAtOnceWhilePushcoreIsAway(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phone := site.Core.NewDevice(t)
	wire := site.Online(t, phone)
	wire.Subscribe(t, 1, "reply/demo/+")
	site.Core.Leave()
	wire.Publish(t, 1, "call/demo/unbind", `{"id":"x"}`)
	wire.Next(t, packets.Puback)
	reply := wire.Next(t, packets.Publish)
	if !strings.HasPrefix(string(reply.Payload), `{"id":"x","error":{"code":"UNAVAILABLE"`) {
		t.Errorf("replied %s", reply.Payload)
	}
}

func TestA311ClientWithManyEventsIsSlowedAndNotClosed(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	g := holdCalls(site.Core)
	const n = 150 // under the burst of packets
	wire := greeted(t, site, gatewaytest.V311)
	for i := range n { // larger in all than what is read at a time
		wire.Publish(t, 1, "event/demo", fmt.Sprintf(`{"push_id":"%d","pad":"%s"}`, i, strings.Repeat("x", 600)))
	}
	wire.Write(t, []byte{0xC0, 0}) // answered behind them
	var under []heldCall
	for range 16 {
		under = append(under, next(t, "an event", g.came))
	}
	select {
	case h := <-g.came:
		t.Errorf("more than 16 events under way: %v", h.Call)
	default:
	}
	go func() { // answered one by one
		for _, h := range under {
			h.ok(`{}`)
		}
		for h := range g.came {
			h.ok(`{}`)
		}
	}()
	seen := map[uint16]bool{}
	for len(seen) < n {
		p, err := wire.Read()
		if err != nil {
			t.Fatalf("after %d acknowledgements: %v", len(seen), err)
		}
		if p.FixedHeader.Type == packets.Puback {
			seen[p.PacketID] = true
		}
	}
	site.Core.Script(func(s *gatewaytest.Script) { s.Calls = nil })
	close(g.came)
}

// MQTT 5: 3.3.4-7, 3.3.4-8
func TestAnMQTT5ClientThatExceedsTheReceiveMaximumIsClosed(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	g := holdCalls(site.Core)
	wire := greeted(t, site, gatewaytest.V5)
	for range 16 {
		wire.Publish(t, 1, "event/demo", `{}`)
	}
	var under []heldCall
	for range 16 {
		under = append(under, next(t, "an event", g.came))
	}
	wire.Ping(t)
	wire.Publish(t, 0, "call/demo/tags", `{}`) // that is about QoS 1 only
	under = append(under, next(t, "the call", g.came))
	wire.Publish(t, 1, "event/demo", `{}`)
	wire.WantDisconnect(t, 0x93)
	for _, h := range under {
		h.ok(`{}`)
	}
}
