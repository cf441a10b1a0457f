package mqtt_test

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/halleypush/halley/services/gateway/internal/mqtt"
)

const limit = 16 << 10

// decode decodes a packet that a client sends; the result is nil for one that says nothing.
func decode(p mqtt.Packet, version byte) (any, error) {
	switch p.Type() {
	case mqtt.CONNECT:
		return mqtt.DecodeConnect(p)
	case mqtt.PUBLISH:
		var m mqtt.Publish
		err := mqtt.DecodePublish(p, version, &m)
		return &m, err
	case mqtt.PUBACK:
		id, code, err := mqtt.DecodePuback(p, version)
		return &puback{id, code}, err
	case mqtt.SUBSCRIBE:
		return mqtt.DecodeSubscribe(p, version)
	case mqtt.UNSUBSCRIBE:
		return mqtt.DecodeUnsubscribe(p, version)
	case mqtt.DISCONNECT:
		code, err := mqtt.DecodeDisconnect(p, version)
		return &disconnect{code}, err
	case mqtt.PINGREQ:
		return nil, mqtt.CheckPingreq(p)
	}
	return nil, &mqtt.Error{Code: mqtt.ProtocolError}
}

type (
	puback struct {
		id   uint16
		code mqtt.Code
	}
	disconnect struct{ code mqtt.Code }
)

// texts returns the strings of a packet.
func texts(decoded any) (all [][]byte) {
	switch p := decoded.(type) {
	case *mqtt.Connect:
		all = append(all, []byte(p.ClientID), []byte(p.Username), []byte(p.AuthMethod))
		for _, u := range p.User {
			all = append(all, []byte(u.Name), []byte(u.Value))
		}
	case *mqtt.Publish:
		all = append(all, p.Topic, p.ResponseTopic)
	case *mqtt.Subscribe:
		for _, f := range p.Filters {
			all = append(all, []byte(f.Topic))
		}
	case *mqtt.Unsubscribe:
		for _, topic := range p.Topics {
			all = append(all, []byte(topic))
		}
	}
	return all
}

// encode writes what a decoded packet says with mochi's codec, and returns nil for packets that cannot be compared: mochi's
// writes no topic aliases of 0, no Response Topics with wildcards, and no reason codes that are no errors.
func encode(t *testing.T, decoded any, version byte) []byte {
	t.Helper()
	out := packets.Packet{ProtocolVersion: version, Mods: packets.Mods{AllowResponseInfo: true}}
	var write func(*bytes.Buffer) error
	switch p := decoded.(type) {
	case *mqtt.Connect:
		out.ProtocolVersion, out.FixedHeader.Type = p.Version, packets.Connect
		out.Connect = packets.ConnectParams{
			ProtocolName: []byte("MQTT"), Clean: p.CleanStart, Keepalive: p.KeepAlive, ClientIdentifier: p.ClientID,
			WillFlag: p.HasWill, WillTopic: "will", UsernameFlag: p.HasUsername, Username: []byte(p.Username),
			PasswordFlag: p.HasPassword, Password: []byte(p.Password),
		}
		out.Properties = packets.Properties{
			ReceiveMaximum: p.ReceiveMaximum, MaximumPacketSize: p.MaximumPacketSize, AuthenticationMethod: p.AuthMethod,
			RequestProblemInfoFlag: p.NoProblemInformation,
		}
		for _, u := range p.User {
			out.Properties.User = append(out.Properties.User, packets.UserProperty{Key: u.Name, Val: u.Value})
		}
		write = out.ConnectEncode
	case *mqtt.Publish:
		if p.HasTopicAlias || bytes.ContainsAny(p.ResponseTopic, "+#") {
			return nil
		}
		out.FixedHeader = packets.FixedHeader{Type: packets.Publish, Qos: p.QoS, Dup: p.Dup, Retain: p.Retain}
		out.TopicName, out.PacketID, out.Payload = string(p.Topic), p.PacketID, p.Payload
		out.Properties = packets.Properties{ResponseTopic: string(p.ResponseTopic), CorrelationData: p.CorrelationData}
		write = out.PublishEncode
	case *puback:
		if p.code > 0 && p.code < 0x80 {
			return nil
		}
		out.FixedHeader.Type, out.PacketID, out.ReasonCode = packets.Puback, p.id, byte(p.code)
		write = out.PubackEncode
	case *mqtt.Subscribe:
		out.FixedHeader, out.PacketID = packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, p.PacketID
		for _, f := range p.Filters {
			out.Filters = append(out.Filters, packets.Subscription{Filter: f.Topic, Qos: f.QoS})
		}
		if p.HasID {
			out.Properties.SubscriptionIdentifier = []int{7}
		}
		write = out.SubscribeEncode
	case *mqtt.Unsubscribe:
		out.FixedHeader, out.PacketID = packets.FixedHeader{Type: packets.Unsubscribe, Qos: 1}, p.PacketID
		for _, topic := range p.Topics {
			out.Filters = append(out.Filters, packets.Subscription{Filter: topic})
		}
		write = out.UnsubscribeEncode
	case *disconnect:
		out.FixedHeader.Type, out.ReasonCode = packets.Disconnect, byte(p.code)
		write = out.DisconnectEncode
	default:
		return nil
	}
	var buf bytes.Buffer
	if err := write(&buf); err != nil {
		t.Fatalf("mochi cannot write %+v: %v", decoded, err)
	}
	return buf.Bytes()
}

// plain makes packets comparable: an empty list of bytes is as good as none.
func plain(decoded any) any {
	if p, ok := decoded.(*mqtt.Publish); ok {
		for _, b := range []*[]byte{&p.Payload, &p.ResponseTopic, &p.CorrelationData} {
			if len(*b) == 0 {
				*b = nil
			}
		}
	}
	return decoded
}

func FuzzNext(f *testing.F) {
	for _, cases := range packets.TPacketData {
		for _, c := range cases {
			f.Add(c.RawBytes, byte(5))
			f.Add(c.RawBytes, byte(4))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, version byte) {
		version = mqtt.V311 + version%2
		p, n, err := mqtt.Next(data, limit)
		if err != nil {
			wantCode(t, err)
			return
		}
		for k := range min(n, 300) { // a part of a packet is none, and no other one
			if _, used, err := mqtt.Next(data[:k], limit); used != 0 || err != nil {
				t.Fatalf("of %d bytes, %d make a packet already (%v)", n, k, err)
			}
		}
		if n == 0 {
			return
		}
		before := bytes.Clone(p.Body)
		decoded, err := decode(p, version)
		if !bytes.Equal(before, p.Body) {
			t.Fatal("decoding changed the input")
		}
		if err != nil {
			wantCode(t, err)
			return
		}
		for _, text := range texts(decoded) {
			if !utf8.Valid(text) || bytes.IndexByte(text, 0) >= 0 {
				t.Fatalf("accepted %q as text", text)
			}
		}
		wantSame(t, decoded, version)
	})
}

// wantCode checks that an error says with which code the connection ends.
func wantCode(t *testing.T, err error) {
	t.Helper()
	var e *mqtt.Error
	if !errors.As(err, &e) || e.Code == mqtt.Success {
		t.Fatalf("refused without a code: %v", err)
	}
}

// wantSame checks that a packet means the same after another codec has written it.
func wantSame(t *testing.T, decoded any, version byte) {
	t.Helper()
	written := encode(t, decoded, version)
	if written == nil {
		return
	}
	p, n, err := mqtt.Next(written, 1<<28)
	if err != nil || n != len(written) {
		t.Fatalf("%+v is written as % X, which is no packet: %v", decoded, written, err)
	}
	again, err := decode(p, version)
	if err != nil || !reflect.DeepEqual(plain(decoded), plain(again)) {
		t.Fatalf("%+v means %+v after it was written anew (%v)", decoded, again, err)
	}
}
