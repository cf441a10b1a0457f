package mqtt_test

import (
	"errors"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/halleypush/halley/services/gateway/internal/mqtt"
)

// otherwise are the packets of mochi's collection that this codec judges otherwise, with its verdict and why.
var otherwise = map[byte]map[byte]struct {
	code mqtt.Code
	why  string
}{
	packets.Connect: {
		packets.TConnectMqtt31:                {mqtt.MalformedPacket, "3.1 has another protocol name: it is not spoken here"},
		packets.TConnectMalReservedBit:        {mqtt.MalformedPacket, "3.1.2.3: a Malformed Packet"},
		packets.TConnectMalClientID:           {mqtt.MalformedPacket, "the packet ends too early; whether the name is good is not known"},
		packets.TConnectInvalidFlagNoUsername: {mqtt.MalformedPacket, "the packet ends too early"},
		packets.TConnectSpecInvalidUTF8D800:   {mqtt.MalformedPacket, "1.5.4: a Malformed Packet"},
		packets.TConnectSpecInvalidUTF8DFFF:   {mqtt.MalformedPacket, "1.5.4: a Malformed Packet"},
		packets.TConnectSpecInvalidUTF80000:   {mqtt.MalformedPacket, "1.5.4: a Malformed Packet"},
	},
	packets.Publish: {
		packets.TPublishDup:                  {mqtt.MalformedPacket, "MQTT-3.3.1-2: DUP is 0 at QoS 0"},
		packets.TPublishSubscriberIdentifier: {mqtt.ProtocolError, "MQTT-3.3.4-6: a client does not send them"},
		packets.TPublishMqtt5:                {mqtt.ProtocolError, "MQTT-3.3.4-6: a client does not send them"},
	},
	packets.Subscribe:  {packets.TSubscribeMalQosRange: {mqtt.MalformedPacket, "3.1.1, 3.8.3: it sets reserved bits"}},
	packets.Disconnect: {packets.TDisconnectMalReasonCode: {mqtt.Success, "3.14.2.1: without a reason code it is 0x00"}},
}

// packetOf returns the packet of a case. The fixed headers of those that cannot be decoded are not meant: mochi skips them.
func packetOf(t *testing.T, kind byte, c packets.TPacketCase) (mqtt.Packet, error) {
	t.Helper()
	if c.FailFirst != nil && len(c.RawBytes) >= 2 && c.Case != packets.TConnectMalFixedHeader {
		first := c.RawBytes[0]
		if kind == packets.Subscribe || kind == packets.Unsubscribe {
			first = kind<<4 | 2
		}
		return mqtt.Packet{First: first, Body: c.RawBytes[2:]}, nil
	}
	p, n, err := mqtt.Next(c.RawBytes, limit)
	if err == nil && n == 0 {
		t.Fatal("the packet is not complete")
	}
	return p, err
}

// MQTT 5: 1.5.4-1, 1.5.4-2, 2.2.1-2, 3.1.3-1, 3.1.3-3, 3.3.4-6
// MQTT 3.1.1: 3.1.3-1, 3.1.3-3
func TestPacketsOfMochisCollection(t *testing.T) {
	t.Parallel()
	for _, kind := range []byte{
		packets.Connect, packets.Publish, packets.Puback, packets.Subscribe, packets.Unsubscribe, packets.Disconnect, packets.Pingreq,
	} {
		for _, c := range packets.TPacketData[kind] {
			if c.Group != "" && c.Group != "decode" && c.Group != "nodecode" {
				continue // about mochi's own structures, or its encoder
			}
			t.Run(packets.PacketNames[kind]+" "+c.Desc, func(t *testing.T) {
				t.Parallel()
				version := mqtt.V311
				if c.Packet != nil && c.Packet.ProtocolVersion == 5 {
					version = mqtt.V5
				}
				want := mqtt.Success
				var says packets.Code
				if errors.As(c.FailFirst, &says) {
					want = mqtt.Code(says.Code)
				}
				if o, ok := otherwise[kind][c.Case]; ok {
					want = o.code
				}
				p, err := packetOf(t, kind, c)
				var decoded any
				if err == nil {
					decoded, err = decode(p, version)
				}
				if got := codeOf(err); got != want {
					t.Fatalf("the verdict is 0x%02X (%v), want 0x%02X; mochi says %v", got, err, want, c.FailFirst)
				}
				if err == nil && decoded != nil {
					wantSame(t, decoded, version)
				}
			})
		}
	}
}

// codeOf returns the code that an error says, or Success if there is none.
func codeOf(err error) mqtt.Code {
	var e *mqtt.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return mqtt.Success
}

// Bodies that the standard forbids and mochi's collection does not hold.
// MQTT 5: 2.1.3-1, 2.2.1-3, 3.1.2-3, 3.1.2-9, 3.1.2-11, 3.1.2-12, 3.1.2-13, 3.1.2-16, 3.1.2-17, 3.1.2-18, 3.1.2-19, 3.1.4-1
// MQTT 5: 3.3.1-4, 3.3.2-1, 3.3.2-2, 3.8.3-2, 3.8.3-4, 3.8.3-5, 3.10.3-2, 3.14.1-1, 4.7.3-1
// MQTT 3.1.1: 2.3.1-1, 3.1.2-9, 3.1.2-11, 3.1.2-13, 3.1.2-14, 3.1.2-15, 3.1.2-18, 3.1.2-19, 3.1.2-20, 3.1.2-21, 3.1.2-22
// MQTT 3.1.1: 3.3.2-2, 3.8.1-1, 3.8.3-3, 3.10.1-1, 3.10.3-2, 4.7.1-1, 4.7.3-1
func TestForbiddenPacketsAreRefusedWithTheirCode(t *testing.T) {
	t.Parallel()
	const connect = "\x00\x04MQTT\x05\x02\x00\x00"
	for name, c := range map[string]struct {
		first   byte
		body    string
		version byte
		want    mqtt.Code
	}{
		"3.1.2.2: an unknown version":                   {0x10, "\x00\x04MQTT\x06\x02\x00\x00\x00\x00\x00", mqtt.V5, mqtt.UnsupportedVersion},
		"3.1.2.3: the reserved flag":                    {0x10, "\x00\x04MQTT\x05\x01\x00\x00\x00\x00\x00", mqtt.V5, mqtt.MalformedPacket},
		"3.1.2.6: will QoS 3":                           {0x10, "\x00\x04MQTT\x05\x1e\x00\x00\x00\x00\x00", mqtt.V5, mqtt.MalformedPacket},
		"3.1.2.7: will retain without a will":           {0x10, "\x00\x04MQTT\x05\x22\x00\x00\x00\x00\x00", mqtt.V5, mqtt.MalformedPacket},
		"3.1.2.11.3: Receive Maximum 0":                 {0x10, connect + "\x03\x21\x00\x00\x00\x00", mqtt.V5, mqtt.ProtocolError},
		"3.1.2.11.4: Maximum Packet Size 0":             {0x10, connect + "\x05\x27\x00\x00\x00\x00\x00\x00", mqtt.V5, mqtt.ProtocolError},
		"3.1.2.11.7: Request Problem Information 2":     {0x10, connect + "\x02\x17\x02\x00\x00", mqtt.V5, mqtt.ProtocolError},
		"3.1.2.11.2: Session Expiry twice":              {0x10, connect + "\x0a\x11\x00\x00\x00\x00\x11\x00\x00\x00\x00\x00\x00", mqtt.V5, mqtt.ProtocolError},
		"3.1.2.11.10: authentication data, no method":   {0x10, connect + "\x04\x16\x00\x01x\x00\x00", mqtt.V5, mqtt.ProtocolError},
		"2.2.2.2: a property of another packet":         {0x10, connect + "\x03\x23\x00\x01\x00\x00", mqtt.V5, mqtt.MalformedPacket},
		"3.1: more than its fields":                     {0x10, connect + "\x00\x00\x00x", mqtt.V5, mqtt.MalformedPacket},
		"3.3.1.2: QoS 3":                                {0x36, "\x00\x01a\x00\x01\x00", mqtt.V5, mqtt.MalformedPacket},
		"2.2.1: packet identifier 0":                    {0x32, "\x00\x01a\x00\x00\x00", mqtt.V5, mqtt.ProtocolError},
		"3.3.2.1: a wildcard in a topic name":           {0x30, "\x00\x03a/+\x00", mqtt.V5, mqtt.TopicNameInvalid},
		"3.3.2.1: no topic name, no alias":              {0x30, "\x00\x00\x00", mqtt.V5, mqtt.ProtocolError},
		"3.3.2.3.2: payload format 2":                   {0x30, "\x00\x01a\x02\x01\x02", mqtt.V5, mqtt.ProtocolError},
		"3.4.2: PUBACK of nothing":                      {0x40, "\x00\x00", mqtt.V5, mqtt.ProtocolError},
		"3.4.1: PUBACK with reserved bits":              {0x41, "\x00\x01", mqtt.V5, mqtt.MalformedPacket},
		"3.4.2.2: PUBACK with a foreign property":       {0x40, "\x00\x01\x00\x02\x01\x00", mqtt.V5, mqtt.MalformedPacket},
		"3.1.1, 3.4: PUBACK with a reason code":         {0x40, "\x00\x01\x00", mqtt.V311, mqtt.MalformedPacket},
		"3.8.1: SUBSCRIBE with reserved bits":           {0x80, "\x00\x01\x00\x00\x01a\x00", mqtt.V5, mqtt.MalformedPacket},
		"3.8.3.1: SUBSCRIBE at QoS 3":                   {0x82, "\x00\x01\x00\x00\x01a\x03", mqtt.V5, mqtt.ProtocolError},
		"3.8.3.1: Retain Handling 3":                    {0x82, "\x00\x01\x00\x00\x01a\x30", mqtt.V5, mqtt.ProtocolError},
		"3.8.3.1: reserved subscription options":        {0x82, "\x00\x01\x00\x00\x01a\x40", mqtt.V5, mqtt.MalformedPacket},
		"3.1.1, 3.8.3: options of MQTT 5":               {0x82, "\x00\x01\x00\x01a\x04", mqtt.V311, mqtt.MalformedPacket},
		"3.8.3: no topic filter":                        {0x82, "\x00\x01\x00", mqtt.V5, mqtt.ProtocolError},
		"3.8.2.1.2: Subscription Identifier 0":          {0x82, "\x00\x01\x02\x0b\x00\x00\x01a\x00", mqtt.V5, mqtt.ProtocolError},
		"4.7.3: an empty topic filter":                  {0x82, "\x00\x01\x00\x00\x00\x00", mqtt.V5, mqtt.MalformedPacket},
		"3.10.3: UNSUBSCRIBE from nothing":              {0xA2, "\x00\x01\x00", mqtt.V5, mqtt.ProtocolError},
		"4.7.3: UNSUBSCRIBE from an empty topic filter": {0xA2, "\x00\x01\x00\x00\x00", mqtt.V5, mqtt.MalformedPacket},
		"3.8.3.1: No Local on a shared subscription":    {0x82, "\x00\x01\x00\x00\x08$share/g\x05", mqtt.V5, mqtt.ProtocolError},
		"3.8.3.1: No Local on another":                  {0x82, "\x00\x01\x00\x00\x01a\x05", mqtt.V5, mqtt.Success},
		"3.1.1, 4.7.3: an empty topic filter":           {0x82, "\x00\x01\x00\x00\x00", mqtt.V311, mqtt.MalformedPacket},
		"3.1.1, 4.7.3: UNSUBSCRIBE from one":            {0xA2, "\x00\x01\x00\x00", mqtt.V311, mqtt.MalformedPacket},
		"3.1.1, 3.8.3: no topic filter":                 {0x82, "\x00\x01", mqtt.V311, mqtt.ProtocolError},
		"3.1.1, 3.10.3: UNSUBSCRIBE from nothing":       {0xA2, "\x00\x01", mqtt.V311, mqtt.ProtocolError},
		"3.1.1, 3.10.1: UNSUBSCRIBE, reserved bits":     {0xA0, "\x00\x01\x00\x01a", mqtt.V311, mqtt.MalformedPacket},
		"3.1.1, 3.8.1: SUBSCRIBE, reserved bits":        {0x80, "\x00\x01\x00\x01a\x00", mqtt.V311, mqtt.MalformedPacket},
		"3.1.1, 3.3.2: a wildcard in a topic name":      {0x30, "\x00\x03a/+", mqtt.V311, mqtt.TopicNameInvalid},
		"3.1.1, 2.3.1: packet identifier 0":             {0x32, "\x00\x01a\x00\x00", mqtt.V311, mqtt.ProtocolError},
		"3.1.1, 3.1.2: password without user name":      {0x10, "\x00\x04MQTT\x04\x42\x00\x00\x00\x00\x00\x01p", mqtt.V311, mqtt.MalformedPacket},
		"3.1.2.6: will QoS without a will":              {0x10, "\x00\x04MQTT\x05\x0a\x00\x00\x00\x00\x00", mqtt.V5, mqtt.MalformedPacket},
		"3.1.3: a will that is not there":               {0x10, "\x00\x04MQTT\x05\x06\x00\x00\x00\x00\x00", mqtt.V5, mqtt.MalformedPacket},
		"3.1.3: a user name that is not there":          {0x10, "\x00\x04MQTT\x05\x82\x00\x00\x00\x00\x00", mqtt.V5, mqtt.MalformedPacket},
		"3.1.3: a password that is not there":           {0x10, "\x00\x04MQTT\x05\x42\x00\x00\x00\x00\x00", mqtt.V5, mqtt.MalformedPacket},
		"3.1.1, 3.1.2: will QoS without a will":         {0x10, "\x00\x04MQTT\x04\x0a\x00\x00\x00\x00", mqtt.V311, mqtt.MalformedPacket},
		"3.1.1, 3.1.3: a user name that is not there":   {0x10, "\x00\x04MQTT\x04\x82\x00\x00\x00\x00", mqtt.V311, mqtt.MalformedPacket},
		"3.1.1, 3.1.3: a password that is not there":    {0x10, "\x00\x04MQTT\x04\xc2\x00\x00\x00\x00\x00\x01u", mqtt.V311, mqtt.MalformedPacket},
		"3.1.1, 3.1.2: will QoS 3":                      {0x10, "\x00\x04MQTT\x04\x1e\x00\x00\x00\x00\x00\x01a\x00\x01b", mqtt.V311, mqtt.MalformedPacket},
		"3.1.1, 3.1.2: will retain without a will":      {0x10, "\x00\x04MQTT\x04\x22\x00\x00\x00\x00", mqtt.V311, mqtt.MalformedPacket},
		"3.1.1, 3.1: a will that is not there":          {0x10, "\x00\x04MQTT\x04\x06\x00\x00\x00\x00", mqtt.V311, mqtt.MalformedPacket},
		"3.1.1, 3.1: fields that no flag announces":     {0x10, "\x00\x04MQTT\x04\x02\x00\x00\x00\x00\x00\x01u", mqtt.V311, mqtt.MalformedPacket},
		"3.12: PINGREQ with a body":                     {0xC0, "\x00", mqtt.V5, mqtt.MalformedPacket},
		"3.14.1: DISCONNECT with reserved bits":         {0xE1, "", mqtt.V5, mqtt.MalformedPacket},
		"3.1.1, 3.14: DISCONNECT with a body":           {0xE0, "\x00", mqtt.V311, mqtt.MalformedPacket},
		"3.14.2.2: DISCONNECT with a foreign property":  {0xE0, "\x00\x03\x21\x00\x01", mqtt.V5, mqtt.MalformedPacket},
		"1.5.5: a property length of more than 4 bytes": {0x30, "\x00\x01a\xff\xff\xff\xff\x01", mqtt.V5, mqtt.MalformedPacket},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			decoded, err := decode(mqtt.Packet{First: c.first, Body: []byte(c.body)}, c.version)
			if got := codeOf(err); got != c.want {
				t.Errorf("the verdict on %+v is 0x%02X (%v), want 0x%02X", decoded, got, err, c.want)
			}
		})
	}
}
