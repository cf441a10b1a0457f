package mqtt_test

import (
	"bytes"
	"errors"
	"testing"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/halleypush/halley/services/gateway/internal/mqtt"
)

const limit = 16 << 10

// decode reads a packet that a client sends, and returns the texts in it.
func decode(p mqtt.Packet, version byte) (texts [][]byte, err error) {
	switch p.Type() {
	case mqtt.CONNECT:
		c, err := mqtt.DecodeConnect(p)
		if err != nil {
			return nil, err
		}
		texts = append(texts, []byte(c.ClientID), []byte(c.Username), []byte(c.AuthMethod))
		for _, u := range c.User {
			texts = append(texts, []byte(u.Name), []byte(u.Value))
		}
		return texts, nil
	case mqtt.PUBLISH:
		var m mqtt.Publish
		err = mqtt.DecodePublish(p, version, &m)
		texts = append(texts, m.Topic, m.ResponseTopic)
	case mqtt.PUBACK:
		_, _, err = mqtt.DecodePuback(p, version)
	case mqtt.SUBSCRIBE:
		s, err := mqtt.DecodeSubscribe(p, version)
		if err != nil {
			return nil, err
		}
		for _, f := range s.Filters {
			texts = append(texts, []byte(f.Topic))
		}
	case mqtt.UNSUBSCRIBE:
		u, err := mqtt.DecodeUnsubscribe(p, version)
		if err != nil {
			return nil, err
		}
		for _, topic := range u.Topics {
			texts = append(texts, []byte(topic))
		}
	case mqtt.DISCONNECT:
		_, err = mqtt.DecodeDisconnect(p, version)
	case mqtt.PINGREQ:
		err = mqtt.CheckPingreq(p)
	}
	return texts, err
}

func FuzzPackets(f *testing.F) {
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
			if n != 0 {
				t.Fatalf("%d bytes used of what is refused", n)
			}
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
		texts, err := decode(p, version)
		if !bytes.Equal(before, p.Body) {
			t.Fatal("decoding changed the input")
		}
		if err != nil {
			var e *mqtt.Error
			if !errors.As(err, &e) || e.Code == mqtt.Success {
				t.Fatalf("refused without a code: %v", err)
			}
			return
		}
		for _, text := range texts {
			if !utf8.Valid(text) || bytes.IndexByte(text, 0) >= 0 {
				t.Fatalf("accepted %q as text", text)
			}
		}
	})
}

// refusedHere are packets that mochi's codec takes, and why this one does not.
var refusedHere = map[byte]map[byte]string{
	packets.Publish: {
		packets.TPublishDup:                  "DUP is 0 at QoS 0 (MQTT-3.3.1-2)",
		packets.TPublishSubscriberIdentifier: "a client does not send Subscription Identifiers (MQTT-3.3.4-6)",
		packets.TPublishMqtt5:                "a client does not send Subscription Identifiers (MQTT-3.3.4-6)",
	},
	packets.Connect: {packets.TConnectMqtt31: "3.1 is not spoken here"},
}

func TestPacketsOfMochisCollection(t *testing.T) {
	t.Parallel()
	for kind, cases := range packets.TPacketData {
		switch kind {
		case packets.Connect, packets.Publish, packets.Puback, packets.Subscribe, packets.Unsubscribe, packets.Disconnect, packets.Pingreq:
		default:
			continue // servers send them, or they are of QoS 2
		}
		for _, c := range cases {
			t.Run(packets.PacketNames[kind]+" "+c.Desc, func(t *testing.T) {
				t.Parallel()
				version := byte(mqtt.V311)
				if c.Packet != nil && c.Packet.ProtocolVersion == 5 {
					version = mqtt.V5
				}
				p, n, err := mqtt.Next(c.RawBytes, limit)
				if err == nil && n > 0 {
					_, err = decode(p, version)
				}
				valid := c.Expect == nil && c.FailFirst == nil && (c.Group == "" || c.Group == "encode")
				if why := refusedHere[kind][c.Case]; why != "" {
					valid = false
					if err == nil {
						t.Errorf("accepted, although %s", why)
					}
				}
				if valid && err != nil {
					t.Errorf("refused: %v", err)
				}
				if c.Group == "decode" && c.FailFirst != nil && err == nil && n > 0 {
					t.Errorf("accepted; mochi says %v", c.FailFirst)
				}
			})
		}
	}
}
