package mqtt

import (
	"bytes"
	"slices"
	"strings"
)

// Connect is a CONNECT packet (3.1).
type Connect struct {
	Version    byte
	CleanStart bool
	// KeepAlive is in seconds; 0: none.
	KeepAlive   uint16
	ClientID    string
	HasWill     bool
	HasUsername bool
	Username    string
	HasPassword bool
	Password    string
	// ReceiveMaximum is how many unacknowledged QoS 1 packets the client takes; 65,535 if it does not say.
	ReceiveMaximum uint16
	// MaximumPacketSize is the largest packet the client takes; 0: any.
	MaximumPacketSize uint32
	// AuthMethod is not empty if the client asks for enhanced authentication (4.12).
	AuthMethod string
	// NoProblemInformation is true if the client wants no reason strings but in CONNACK and DISCONNECT.
	NoProblemInformation bool
	User                 []UserProperty
}

var protocolName = []byte{0, 4, 'M', 'Q', 'T', 'T'}

// DecodeConnect reads a CONNECT packet. For a version that is not spoken here it returns UnsupportedVersion and, in the
// packet, the version; for another protocol it returns MalformedPacket, and nothing should be answered (3.1.2.1).
func DecodeConnect(p Packet) (*Connect, error) {
	if p.First != CONNECT<<4 {
		return nil, malformed("CONNECT has reserved bits set")
	}
	r := &reader{rest: p.Body}
	if name := r.take(len(protocolName)); !bytes.Equal(name, protocolName) {
		return nil, malformed("the protocol is not MQTT")
	}
	c := &Connect{Version: r.byte(), ReceiveMaximum: 0xFFFF}
	if r.err == nil && c.Version != V311 && c.Version != V5 {
		return c, &Error{Code: UnsupportedVersion, Reason: "only MQTT 3.1.1 and 5 are spoken here"}
	}
	flags := r.byte()
	c.KeepAlive = r.uint16()
	if err := c.readFlags(r, flags); err != nil {
		return c, err
	}
	if c.Version == V5 {
		c.readProperties(r)
	}
	c.ClientID = string(r.text())
	if c.HasWill {
		if c.Version == V5 {
			r.properties() // wills are refused, so what they say does not matter
		}
		r.text()
		r.binary()
	}
	if c.HasUsername {
		c.Username = string(r.text())
	}
	if c.HasPassword {
		c.Password = string(r.binary())
	}
	return c, r.end()
}

// readFlags reads the connect flags (3.1.2.3 to 3.1.2.9).
func (c *Connect) readFlags(r *reader, flags byte) error {
	if r.err != nil {
		return r.err
	}
	willQoS := flags >> 3 & 3
	c.CleanStart, c.HasWill = flags&0x02 != 0, flags&0x04 != 0
	c.HasUsername, c.HasPassword = flags&0x80 != 0, flags&0x40 != 0
	switch {
	case flags&0x01 != 0:
		return malformed("CONNECT has the reserved flag set")
	case willQoS == 3 || !c.HasWill && (willQoS != 0 || flags&0x20 != 0):
		return malformed("CONNECT has will flags that do not fit")
	case c.Version == V311 && c.HasPassword && !c.HasUsername:
		return malformed("CONNECT has a password without a user name") // 3.1.1: MQTT-3.1.2-22
	}
	return nil
}

func (c *Connect) readProperties(r *reader) {
	p := r.properties()
	var seen once
	authData := false
	for len(p.rest) > 0 && p.err == nil {
		id := p.byte()
		if id != propUser && id < 64 {
			seen.check(p, id)
		}
		switch id {
		case propSessionExpiry:
			p.uint32()
		case propReceiveMaximum:
			if c.ReceiveMaximum = p.uint16(); c.ReceiveMaximum == 0 {
				p.fail(violation("Receive Maximum is 0"))
			}
		case propMaximumPacketSize:
			if c.MaximumPacketSize = p.uint32(); c.MaximumPacketSize == 0 {
				p.fail(violation("Maximum Packet Size is 0"))
			}
		case propTopicAliasMaximum:
			p.uint16()
		case propRequestResponse:
			p.flag()
		case propRequestProblem:
			c.NoProblemInformation = !p.flag()
		case propAuthMethod:
			c.AuthMethod = string(p.text())
		case propAuthData:
			p.binary()
			authData = true
		case propUser:
			c.User = append(c.User, p.userProperty())
		default:
			p.fail(malformed("property 0x%02X in CONNECT", id))
		}
	}
	if authData && c.AuthMethod == "" { // 3.1.2.11.10
		p.fail(violation("authentication data without a method"))
	}
	if p.err != nil {
		r.fail(p.err)
	}
}

// Publish is a PUBLISH packet (3.3). Its byte slices are views of the input.
type Publish struct {
	QoS             byte
	Dup, Retain     bool
	Topic           []byte
	PacketID        uint16
	Payload         []byte
	HasTopicAlias   bool
	ResponseTopic   []byte
	CorrelationData []byte
}

// DecodePublish reads a PUBLISH packet that a client sent.
func DecodePublish(p Packet, version byte, out *Publish) error {
	*out = Publish{QoS: p.First >> 1 & 3, Dup: p.First&0x08 != 0, Retain: p.First&0x01 != 0}
	r := &reader{rest: p.Body}
	out.Topic = r.text()
	if out.QoS > 0 {
		out.PacketID = r.uint16()
		if r.err == nil && out.PacketID == 0 {
			return violation("the packet identifier is 0")
		}
	}
	if version == V5 {
		out.readProperties(r)
	}
	if r.err != nil {
		return r.err
	}
	if out.QoS == 3 || out.QoS == 0 && out.Dup {
		return malformed("PUBLISH has flags that do not fit")
	}
	if bytes.ContainsAny(out.Topic, "+#") {
		return &Error{Code: TopicNameInvalid, Reason: "a topic name holds a wildcard"}
	}
	if len(out.Topic) == 0 && !out.HasTopicAlias {
		return violation("the topic name is empty")
	}
	out.Payload = r.rest
	return nil
}

func (m *Publish) readProperties(r *reader) {
	p := r.properties()
	var seen once
	for len(p.rest) > 0 && p.err == nil {
		id := p.byte()
		if id != propUser && id < 64 {
			seen.check(p, id)
		}
		switch id {
		case propPayloadFormat:
			p.flag()
		case propMessageExpiry:
			p.uint32()
		case propTopicAlias:
			p.uint16()
			m.HasTopicAlias = true
		case propResponseTopic:
			m.ResponseTopic = p.text()
		case propCorrelationData:
			m.CorrelationData = p.binary()
		case propContentType:
			p.text()
		case propUser:
			p.text()
			p.text()
		case propSubscriptionID:
			p.fail(violation("a client sent a Subscription Identifier")) // MQTT-3.3.4-6
		default:
			p.fail(malformed("property 0x%02X in PUBLISH", id))
		}
	}
	if p.err != nil {
		r.fail(p.err)
	}
}

// DecodePuback reads a PUBACK packet and returns the identifier that it acknowledges and its reason code. It does not
// allocate.
func DecodePuback(p Packet, version byte) (id uint16, code Code, err error) {
	if p.First != PUBACK<<4 || len(p.Body) < 2 || version == V311 && len(p.Body) != 2 {
		return 0, 0, malformed("PUBACK does not have its form")
	}
	id = uint16(p.Body[0])<<8 | uint16(p.Body[1])
	if id == 0 {
		return 0, 0, violation("the packet identifier is 0")
	}
	if len(p.Body) == 2 {
		return id, Success, nil
	}
	code = Code(p.Body[2])
	if len(p.Body) == 3 {
		return id, code, nil
	}
	return id, code, endProperties(p.Body[3:], "PUBACK")
}

// endProperties checks a property list of reason string and user properties that ends a packet.
func endProperties(list []byte, packet string) error {
	r := &reader{rest: list}
	p := r.properties()
	var seen once
	for len(p.rest) > 0 && p.err == nil {
		switch id := p.byte(); id {
		case propReasonString:
			seen.check(p, id)
			p.text()
		case propUser:
			p.text()
			p.text()
		case propSessionExpiry:
			if packet != "DISCONNECT" {
				p.fail(malformed("property 0x%02X in %s", id, packet))
			}
			seen.check(p, id)
			p.uint32()
		default:
			p.fail(malformed("property 0x%02X in %s", id, packet))
		}
	}
	if p.err != nil {
		return p.err
	}
	return r.end()
}

// Filter is one entry of a SUBSCRIBE packet.
type Filter struct {
	Topic string
	QoS   byte
}

// Subscribe is a SUBSCRIBE packet (3.8).
type Subscribe struct {
	PacketID uint16
	Filters  []Filter
	// HasID is true if the client asked for a Subscription Identifier.
	HasID bool
}

// DecodeSubscribe reads a SUBSCRIBE packet.
func DecodeSubscribe(p Packet, version byte) (*Subscribe, error) {
	if p.First != SUBSCRIBE<<4|2 {
		return nil, malformed("SUBSCRIBE has reserved bits wrong")
	}
	r := &reader{rest: p.Body}
	s := &Subscribe{PacketID: r.uint16()}
	if version == V5 {
		s.readProperties(r)
	}
	for len(r.rest) > 0 && r.err == nil {
		f := Filter{Topic: string(r.text())}
		options := r.byte()
		f.QoS = options & 3
		switch {
		case version == V311 && options&0xFC != 0, version == V5 && options&0xC0 != 0:
			r.fail(malformed("SUBSCRIBE has reserved bits set"))
		case f.QoS == 3, version == V5 && options&0x30 == 0x30: // 3.8.3.1
			r.fail(violation("SUBSCRIBE has options that do not exist"))
		case version == V5 && options&4 != 0 && strings.HasPrefix(f.Topic, "$share/"): // MQTT-3.8.3-4
			r.fail(violation("SUBSCRIBE has No Local on a shared subscription"))
		}
		s.Filters = append(s.Filters, f)
	}
	switch {
	case r.err != nil:
		return nil, r.err
	case s.PacketID == 0:
		return nil, violation("the packet identifier is 0")
	case len(s.Filters) == 0:
		return nil, violation("SUBSCRIBE names no topic filter")
	}
	for _, f := range s.Filters {
		if f.Topic == "" {
			return nil, malformed("a topic filter is empty")
		}
	}
	return s, nil
}

func (s *Subscribe) readProperties(r *reader) {
	p := r.properties()
	for len(p.rest) > 0 && p.err == nil {
		switch id := p.byte(); id {
		case propSubscriptionID:
			if s.HasID || p.varint() == 0 {
				p.fail(violation("the Subscription Identifier is 0 or stands twice"))
			}
			s.HasID = true
		case propUser:
			p.text()
			p.text()
		default:
			p.fail(malformed("property 0x%02X in SUBSCRIBE", id))
		}
	}
	if p.err != nil {
		r.fail(p.err)
	}
}

// Unsubscribe is an UNSUBSCRIBE packet (3.10).
type Unsubscribe struct {
	PacketID uint16
	Topics   []string
}

// DecodeUnsubscribe reads an UNSUBSCRIBE packet.
func DecodeUnsubscribe(p Packet, version byte) (*Unsubscribe, error) {
	if p.First != UNSUBSCRIBE<<4|2 {
		return nil, malformed("UNSUBSCRIBE has reserved bits wrong")
	}
	r := &reader{rest: p.Body}
	u := &Unsubscribe{PacketID: r.uint16()}
	if version == V5 {
		list := r.properties()
		for len(list.rest) > 0 && list.err == nil {
			if id := list.byte(); id != propUser {
				list.fail(malformed("property 0x%02X in UNSUBSCRIBE", id))
			}
			list.text()
			list.text()
		}
		if list.err != nil {
			r.fail(list.err)
		}
	}
	for len(r.rest) > 0 && r.err == nil {
		u.Topics = append(u.Topics, string(r.text()))
	}
	switch {
	case r.err != nil:
		return nil, r.err
	case u.PacketID == 0:
		return nil, violation("the packet identifier is 0")
	case len(u.Topics) == 0:
		return nil, violation("UNSUBSCRIBE names no topic filter")
	case slices.Contains(u.Topics, ""):
		return nil, malformed("a topic filter is empty")
	}
	return u, nil
}

// DecodeDisconnect checks a DISCONNECT packet and returns its reason code.
func DecodeDisconnect(p Packet, version byte) (Code, error) {
	if p.First != DISCONNECT<<4 {
		return 0, malformed("DISCONNECT has reserved bits set")
	}
	if version == V311 {
		if len(p.Body) > 0 {
			return 0, malformed("DISCONNECT has a body")
		}
		return Success, nil
	}
	if len(p.Body) == 0 {
		return Success, nil
	}
	if len(p.Body) == 1 {
		return Code(p.Body[0]), nil
	}
	return Code(p.Body[0]), endProperties(p.Body[1:], "DISCONNECT")
}

// CheckPingreq checks a PINGREQ packet.
func CheckPingreq(p Packet) error {
	if p.First != PINGREQ<<4 || len(p.Body) != 0 {
		return malformed("PINGREQ does not have its form")
	}
	return nil
}
