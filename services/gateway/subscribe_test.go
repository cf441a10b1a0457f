package gateway_test

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway"
	"github.com/halleypush/halley/services/gateway/gatewaytest"
)

// greeted connects a new device of the site, and does not subscribe.
func greeted(t *testing.T, site *gatewaytest.Site, version byte) *gatewaytest.Wire {
	t.Helper()
	wire := site.Dial(t, version)
	wire.Greet(t, wire.Connect(site.Core.NewDevice(t)))
	return wire
}

// MQTT 5: 1.5.4-3, 2.2.1-6, 3.2.2-10, 3.8.4-1, 3.8.4-2, 3.8.4-5, 3.8.4-6, 3.8.4-7, 3.9.3-1, 3.9.3-2, 4.7.1-1, 4.7.1-2
// MQTT 5: 4.7.2-1, 4.7.3-4
// MQTT 3.1.1: 1.5.3-3, 2.3.1-7, 3.8.3-2, 3.8.4-1, 3.8.4-2, 3.8.4-4, 3.8.4-5, 3.9.3-1, 3.9.3-2, 4.7.1-2, 4.7.1-3, 4.7.2-1
// MQTT 3.1.1: 4.7.3-4
func TestSubscriptionsAreGrantedOnTheDevicesOwnTopicsOnly(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	topics := []string{
		"push/demo", "reply/demo/+", "reply/demo/bind", "push/other", "push/demo/deeper", "event/demo", "push/+", "#",
		"reply/demo/#", "reply/+/bind", "$share/group/push/demo",
		"Push/demo", "push/demo/", "\uFEFFpush/demo", "$SYS/push/demo", // compared as they are
	}
	for _, c := range []struct {
		name    string
		version byte
		qos     byte
		want    []byte
	}{
		{"MQTT 5 at QoS 2", gatewaytest.V5, 2, []byte{1, 1, 1, 0x87, 0x87, 0x87, 0xA2, 0xA2, 0xA2, 0xA2, 0x9E, 0x87, 0x87, 0x87, 0x87}},
		{"MQTT 5 at QoS 1", gatewaytest.V5, 1, []byte{1, 1, 1, 0x87, 0x87, 0x87, 0xA2, 0xA2, 0xA2, 0xA2, 0x9E, 0x87, 0x87, 0x87, 0x87}},
		{"MQTT 5 at QoS 0", gatewaytest.V5, 0, []byte{0, 0, 0, 0x87, 0x87, 0x87, 0xA2, 0xA2, 0xA2, 0xA2, 0x9E, 0x87, 0x87, 0x87, 0x87}},
		{"3.1.1 at QoS 2", gatewaytest.V311, 2, slices.Concat([]byte{1, 1, 1}, bytes.Repeat([]byte{0x80}, 12))},
		{"3.1.1 at QoS 1", gatewaytest.V311, 1, slices.Concat([]byte{1, 1, 1}, bytes.Repeat([]byte{0x80}, 12))},
		{"3.1.1 at QoS 0", gatewaytest.V311, 0, slices.Concat([]byte{0, 0, 0}, bytes.Repeat([]byte{0x80}, 12))},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			wire := greeted(t, site, c.version)
			if got := wire.Subscribe(t, c.qos, topics...); !bytes.Equal(got, c.want) {
				t.Errorf("granted % X, want % X", got, c.want)
			}
			wire.Ping(t)
		})
	}
}

// MQTT 5: 2.2.1-6, 3.10.4-1, 3.10.4-2, 3.10.4-3, 3.10.4-4, 3.10.4-5, 3.10.4-6, 3.11.3-1, 3.11.3-2
// MQTT 3.1.1: 2.3.1-7, 3.10.4-1, 3.10.4-2, 3.10.4-3, 3.10.4-4, 3.10.4-5, 3.10.4-6
func TestUnsubscribeEndsDelivery(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, version byte) {
		t.Helper()
		site := gatewaytest.Start(t, gatewaytest.Options{})
		phone, begun := site.Core.NewDevice(t), gatewaytest.NewPush("under way")
		wire := site.Dial(t, version)
		wire.Greet(t, wire.Connect(phone))
		wire.Subscribe(t, 1, "push/demo")
		session := site.Core.AwaitOnline(t, phone)
		wantDelivered(t, site, phone, taken, begun)
		underWay := wire.NextPush(t, begun)
		wire.Send(t, packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe, Qos: 1}, PacketID: 9,
			Filters: packets.Subscriptions{{Filter: "push/demo"}, {Filter: "push/demo"}, {Filter: "reply/demo/bind"}},
		})
		ack := wire.Next(t, packets.Unsuback)
		if codes := ack.ReasonCodes; ack.PacketID != 9 || version == gatewaytest.V5 && !bytes.Equal(codes, []byte{0, 0x11, 0x11}) {
			t.Errorf("UNSUBACK %+v", ack)
		}
		wire.Ack(t, underWay) // its delivery is completed
		site.Core.AwaitReceipt(t, phone, begun, arrived)
		site.Core.Saw.Opens.Await(t, "it is opened as not receiving", func(all []*gatewayv1.Open) bool {
			return !all[len(all)-1].GetReceiving()
		})
		missed := gatewaytest.NewPush("while unsubscribed")
		site.Core.Keep(phone, missed)
		target := gatewaytest.Target{Device: phone, Push: missed, Session: session}
		if got := site.Core.Deliver(t, target); got[0] != gatewayv1.DeliverResponse_NO_SESSION {
			t.Errorf("the delivery is %s", got[0])
		}
		wire.Ping(t)
		wire.Subscribe(t, 1, "push/demo")
		wire.NextPush(t, missed)
	})
}

// MQTT 5: 3.8.4-3, 3.8.4-8
// MQTT 3.1.1: 3.3.5-1, 3.8.4-3, 3.8.4-6
func TestASubscriptionThatIsMadeAgainReplacesTheOneBefore(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	eachVersion(t, func(t *testing.T, version byte) {
		t.Helper()
		phone := site.Core.NewDevice(t)
		wire := site.Dial(t, version)
		wire.Greet(t, wire.Connect(phone))
		for i, qos := range []byte{1, 0, 1} {
			if got := wire.Subscribe(t, qos, "push/demo"); !bytes.Equal(got, []byte{qos}) {
				t.Errorf("granted % X, want %d", got, qos)
			}
			if i == 0 {
				site.Core.AwaitOnline(t, phone)
				live(t, site, wire, phone)
			}
			push := gatewaytest.NewPush("at another QoS each time")
			wantDelivered(t, site, phone, taken, push)
			if got := wire.NextPush(t, push); got.FixedHeader.Qos != qos {
				t.Errorf("it came at QoS %d, want %d", got.FixedHeader.Qos, qos)
			}
			wire.Ping(t) // and once
		}
	})
}

// MQTT 5: 2.2.1-5, 3.2.2-11, 3.2.2-14, 3.2.2-17, 3.2.2-18, 3.3.2-2, 3.4.2-1, 3.8.3-3, 4.7.0-1
// MQTT 3.1.1: 3.3.2-2, 3.3.5-2, 4.7.1-1, 4.8.0-1
func TestPublishesThatAreRefused(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	t.Cleanup(func() { // when all cases are over
		if calls := site.Core.Saw.Calls.All(); len(calls) > 0 {
			t.Errorf("pushcore was asked %v", calls)
		}
	})
	publish := func(change func(*packets.Packet)) packets.Packet {
		p := packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, PacketID: 3, TopicName: "event/demo", Payload: []byte("{}"),
		}
		change(&p)
		return p
	}
	for _, c := range []struct {
		name   string
		change func(*packets.Packet)
		// puback is the code for MQTT 5; 0: the connection is closed with disconnect.
		puback, disconnect byte
	}{
		{"topic of another app", func(p *packets.Packet) { p.TopicName = "event/other" }, 0x87, 0},
		{"the device's own downlink", func(p *packets.Packet) { p.TopicName = "push/demo" }, 0x87, 0},
		{"no method", func(p *packets.Packet) { p.TopicName = "call/demo/" }, 0x87, 0},
		{"another topic at QoS 0", func(p *packets.Packet) {
			p.TopicName, p.FixedHeader.Qos, p.PacketID = "a/b", 0, 0
		}, 0, 0x87},
		{"QoS 2", func(p *packets.Packet) { p.FixedHeader.Qos = 2 }, 0, 0x9B},
		{"retain", func(p *packets.Packet) { p.FixedHeader.Retain = true }, 0, 0x9A},
		{"a wildcard", func(p *packets.Packet) { p.TopicName = "event/+" }, 0, 0x90},
		{"a Response Topic elsewhere", func(p *packets.Packet) {
			p.TopicName, p.Properties.ResponseTopic = "call/demo/tags", "push/demo"
		}, 0, 0x90},
		{"a Topic Alias", func(p *packets.Packet) {
			p.Properties.TopicAlias, p.Properties.TopicAliasFlag = 1, true
		}, 0, 0x94},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			five := greeted(t, site, gatewaytest.V5)
			five.Send(t, publish(c.change))
			if c.puback != 0 {
				if got := five.Next(t, packets.Puback); got.ReasonCode != c.puback || got.PacketID != 3 {
					t.Errorf("PUBACK %d with 0x%02X, want 0x%02X", got.PacketID, got.ReasonCode, c.puback)
				}
				five.Ping(t)
			} else {
				five.WantDisconnect(t, c.disconnect)
			}
			p := publish(c.change)
			if p.Properties.ResponseTopic != "" || p.Properties.TopicAliasFlag {
				return // MQTT 5 only
			}
			three := greeted(t, site, gatewaytest.V311)
			three.Send(t, p)
			three.WantClosed(t)
		})
	}
}

// MQTT 5: 1.5.4-1, 1.5.4-2, 1.5.7-1, 2.1.3-1, 2.2.1-3, 3.1.0-2, 3.3.1-2, 3.3.1-4, 3.3.2-1, 3.3.2-13, 3.3.2-14, 3.3.2-19
// MQTT 5: 3.8.1-1, 3.8.3-1, 3.8.3-2, 3.8.3-4, 3.8.3-5, 3.10.1-1, 3.10.3-1, 3.10.3-2, 3.14.1-1, 3.14.2-1, 3.14.2-2, 3.14.4-1
// MQTT 5: 3.14.4-2, 3.15.1-1, 4.7.3-1, 4.7.3-2, 4.12.0-7, 4.13.1-1, 4.13.2-1
// MQTT 3.1.1: 1.5.3-1, 1.5.3-2, 2.2.2-1, 2.2.2-2, 2.3.1-1, 3.1.0-2, 3.3.1-2, 3.3.1-4, 3.3.2-1, 3.8.1-1, 3.8.3-1, 3.8.3-3
// MQTT 3.1.1: 3.8.3-4, 3.10.1-1, 3.10.3-1, 3.10.3-2, 3.14.1-1, 4.7.3-1, 4.7.3-2, 4.8.0-1
func TestPacketsThatBreakTheProtocolCloseTheConnection(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	const none = "-" // 3.1.1 has no such thing
	for _, c := range []struct {
		name string
		// five and three are the packet of MQTT 5 and of 3.1.1; three is empty if they are the same.
		five, three string
		code        byte
	}{
		{"a second CONNECT", "\x10\x0d\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00", "\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", 0x82},
		{"a CONNACK", "\x20\x03\x00\x00\x00", "\x20\x02\x00\x00", 0x82},
		{"AUTH", "\xf0\x00", "", 0x82},
		{"PUBREL", "\x62\x02\x00\x01", "", 0x82},
		{"packet type 0", "\x00\x00", "", 0x82},
		{"PINGREQ with a body", "\xc0\x01\x00", "", 0x81},
		{"PINGREQ with flags", "\xc1\x00", "", 0x81},
		{"DISCONNECT with flags", "\xe1\x00", "", 0x81},
		{"PUBACK with flags", "\x41\x02\x00\x01", "", 0x81},
		{"PUBACK with identifier 0", "\x40\x02\x00\x00", "", 0x82},
		{"SUBSCRIBE with wrong flags", "\x80\x0f\x00\x01\x00\x00\x09push/demo\x01", "\x80\x0e\x00\x01\x00\x09push/demo\x01", 0x81},
		{"SUBSCRIBE without topics", "\x82\x03\x00\x01\x00", "\x82\x02\x00\x01", 0x82},
		{"SUBSCRIBE with identifier 0", "\x82\x0f\x00\x00\x00\x00\x09push/demo\x01", "\x82\x0e\x00\x00\x00\x09push/demo\x01", 0x82},
		{"SUBSCRIBE at QoS 3", "\x82\x0f\x00\x01\x00\x00\x09push/demo\x03", "\x82\x0e\x00\x01\x00\x09push/demo\x03", 0x82},
		{"SUBSCRIBE with reserved options", "\x82\x0f\x00\x01\x00\x00\x09push/demo\x41", "\x82\x0e\x00\x01\x00\x09push/demo\x05", 0x81},
		{"SUBSCRIBE to an empty topic", "\x82\x06\x00\x01\x00\x00\x00\x01", "\x82\x05\x00\x01\x00\x00\x01", 0x81},
		{"SUBSCRIBE to what is not UTF-8", "\x82\x09\x00\x01\x00\x00\x03a\xff\xfe\x01", "\x82\x08\x00\x01\x00\x03a\xff\xfe\x01", 0x81},
		{"SUBSCRIBE to a surrogate", "\x82\x09\x00\x01\x00\x00\x03\xed\xa0\x80\x01", "\x82\x08\x00\x01\x00\x03\xed\xa0\x80\x01", 0x81},
		{"SUBSCRIBE to a null", "\x82\x09\x00\x01\x00\x00\x03a\x00b\x01", "\x82\x08\x00\x01\x00\x03a\x00b\x01", 0x81},
		{"a Subscription Identifier", "\x82\x11\x00\x01\x02\x0b\x01\x00\x09push/demo\x01", none, 0xA1},
		{"No Local on a shared subscription", "\x82\x10\x00\x01\x00\x00\x0a$share/g/a\x05", none, 0x82},
		{"UNSUBSCRIBE with wrong flags", "\xa0\x0e\x00\x01\x00\x00\x09push/demo", "\xa0\x0d\x00\x01\x00\x09push/demo", 0x81},
		{"UNSUBSCRIBE without topics", "\xa2\x03\x00\x01\x00", "\xa2\x02\x00\x01", 0x82},
		{"UNSUBSCRIBE with identifier 0", "\xa2\x0e\x00\x00\x00\x00\x09push/demo", "\xa2\x0d\x00\x00\x00\x09push/demo", 0x82},
		{"UNSUBSCRIBE from an empty topic", "\xa2\x05\x00\x01\x00\x00\x00", "\xa2\x04\x00\x01\x00\x00", 0x81},
		{"UNSUBSCRIBE from what is not UTF-8", "\xa2\x08\x00\x01\x00\x00\x03a\xff\xfe", "\xa2\x07\x00\x01\x00\x03a\xff\xfe", 0x81},
		{"a topic that is not UTF-8", "\x32\x0b\x00\x06even\xff\xfe\x00\x01\x00", "\x32\x0a\x00\x06even\xff\xfe\x00\x01", 0x81},
		{"a topic with a surrogate", "\x32\x0b\x00\x06eve\xed\xa0\x80\x00\x01\x00", "\x32\x0a\x00\x06eve\xed\xa0\x80\x00\x01", 0x81},
		{"a topic with a null", "\x32\x0b\x00\x06even\x00t\x00\x01\x00", "\x32\x0a\x00\x06even\x00t\x00\x01", 0x81},
		{"an empty topic", "\x30\x03\x00\x00\x00", "\x30\x02\x00\x00", 0x82},
		{"a user property that is not UTF-8", "\x30\x14\x00\x0aevent/demo\x07\x26\x00\x01a\x00\x01\xff", none, 0x81},
		{"a user property's name that is not UTF-8", "\x30\x14\x00\x0aevent/demo\x07\x26\x00\x01\xff\x00\x01a", none, 0x81},
		{"a Response Topic that is not UTF-8", "\x30\x12\x00\x0aevent/demo\x05\x08\x00\x02\xff\xfe", none, 0x81},
		{"a Response Topic with a wildcard", "\x30\x20\x00\x0ecall/demo/tags\x0f\x08\x00\x0creply/demo/+", none, 0x90},
		{"a Content Type that is not UTF-8", "\x30\x11\x00\x0aevent/demo\x04\x03\x00\x01\xff", none, 0x81},
		{"PUBLISH with identifier 0", "\x32\x0f\x00\x0aevent/demo\x00\x00\x00", "\x32\x0e\x00\x0aevent/demo\x00\x00", 0x82},
		{"PUBLISH at QoS 3", "\x36\x0f\x00\x0aevent/demo\x00\x01\x00", "\x36\x0e\x00\x0aevent/demo\x00\x01", 0x81},
		{"DUP at QoS 0", "\x38\x0d\x00\x0aevent/demo\x00", "\x38\x0c\x00\x0aevent/demo", 0x81},
		{"a length of five bytes", "\x30\xff\xff\xff\xff\x01", "", 0x81},
		{"too large", "\x30\xff\xff\x03", "", 0x95},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			wire := greeted(t, site, gatewaytest.V5)
			wire.Write(t, []byte(c.five))
			wire.WantDisconnect(t, c.code)
			if c.three == none {
				return
			}
			wire = greeted(t, site, gatewaytest.V311)
			wire.Write(t, []byte(cmp.Or(c.three, c.five)))
			wire.WantClosed(t)
		})
	}
}

func TestAClientMaySayGoodbyeOrJustGo(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	for name, leave := range map[string]func(*testing.T, *gatewaytest.Wire){
		"DISCONNECT": func(t *testing.T, w *gatewaytest.Wire) {
			t.Helper()
			w.Send(t, packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
			w.WantClosed(t)
		},
		"the end of the connection": func(_ *testing.T, w *gatewaytest.Wire) { w.Close() },
		"the end of what it sends": func(t *testing.T, w *gatewaytest.Wire) {
			t.Helper()
			w.CloseWrite(t)
			w.WantClosed(t)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachVersion(t, func(t *testing.T, version byte) {
				t.Helper()
				phone := site.Core.NewDevice(t)
				wire := site.Dial(t, version)
				wire.Greet(t, wire.Connect(phone))
				wire.Subscribe(t, 1, "push/demo")
				session := site.Core.AwaitOnline(t, phone)
				leave(t, wire)
				site.Core.Saw.Closes.AwaitOne(t, "the close", func(c *gatewayv1.Close) bool { return c.GetSession() == session })
			})
		})
	}
}

func TestAClientThatSendsTooFastIsClosed(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{Config: func(c *gateway.Config) { c.PacketBurst, c.PacketRate = 20, 1 }})
	for _, version := range []byte{gatewaytest.V5, gatewaytest.V311} {
		wire := greeted(t, site, version)
		wire.Write(t, []byte(strings.Repeat("\xc0\x00", 21)))
		for range 20 {
			wire.Next(t, packets.Pingresp)
		}
		wire.WantDisconnect(t, 0x96)
	}
}

// MQTT 5: 3.2.2-15
func TestThePacketLimitIsASetting(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{Config: func(c *gateway.Config) { c.MaxPacket = 2000 }})
	wire := greeted(t, site, gatewaytest.V5)
	wire.Publish(t, 1, "event/demo", strings.Repeat(" ", 1900))
	wire.Next(t, packets.Puback)
	wire.Publish(t, 1, "event/demo", strings.Repeat(" ", 2000))
	wire.WantDisconnect(t, 0x95)

	announced := greeted(t, site, gatewaytest.V311)
	announced.Write(t, []byte{0x30, 0xD1, 0x0F}) // 2,001 bytes are to follow: it is not waited for them
	announced.WantClosed(t)

	connect := site.Dial(t, gatewaytest.V5)
	connect.Send(t, connect.ConnectAs(strings.Repeat("x", 2000), "demo", "secret"))
	connect.WantClosed(t)
	gatewaytest.Eventually(t, "both sessions were closed for that", func() bool {
		return site.Metric(t, "halley_gateway_closes_total", `reason="too_large"`) == 2
	})
}

// MQTT 5: 3.2.0-1, 3.2.0-2, 4.2.0-1
// MQTT 3.1.1: 3.2.0-1
func TestPacketsMayComeInAnyPieces(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phone := site.Core.NewDevice(t)
	for _, version := range []byte{gatewaytest.V5, gatewaytest.V311} {
		wire := site.Dial(t, version)
		var all []byte
		all = append(all, wire.Encode(t, wire.Connect(phone))...)
		for id := range uint16(10) {
			all = append(all, wire.Encode(t, packets.Packet{
				FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, PacketID: id + 1, TopicName: "event/demo", Payload: []byte("{}"),
			})...)
		}
		all = append(all, 0xC0, 0)
		for _, b := range all {
			wire.Write(t, []byte{b})
		}
		wantAnswers(t, wire)
		wire.Close()

		wire = site.Dial(t, version)
		wire.Write(t, all) // one segment; what stands behind CONNECT comes before the CONNACK
		wantAnswers(t, wire)
	}
}

func wantAnswers(t *testing.T, wire *gatewaytest.Wire) {
	t.Helper()
	if ack := wire.Next(t, packets.Connack); ack.ReasonCode != 0 {
		t.Fatalf("refused with 0x%02X", ack.ReasonCode)
	}
	acked := map[uint16]bool{}
	for range 11 {
		p, err := wire.Read()
		switch {
		case err != nil:
			t.Fatal(err)
		case p.FixedHeader.Type == packets.Puback:
			acked[p.PacketID] = true
		}
	}
	if len(acked) != 10 {
		t.Errorf("acknowledged: %v", acked)
	}
}
