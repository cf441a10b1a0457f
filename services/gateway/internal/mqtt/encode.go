package mqtt

import "encoding/binary"

// appendVarint appends a variable byte integer (1.5.5).
func appendVarint(out []byte, n int) []byte {
	for n >= 0x80 {
		out = append(out, byte(n)|0x80)
		n >>= 7
	}
	return append(out, byte(n))
}

func varintSize(n int) int {
	switch {
	case n < 1<<7:
		return 1
	case n < 1<<14:
		return 2
	case n < 1<<21:
		return 3
	default:
		return 4
	}
}

func appendText[T string | []byte](out []byte, s T) []byte {
	out = binary.BigEndian.AppendUint16(out, uint16(len(s)))
	return append(out, s...)
}

func appendTextProperty[T string | []byte](out []byte, id byte, s T) []byte {
	return appendText(append(out, id), s)
}

func appendUser(out []byte, p UserProperty) []byte {
	return appendText(appendText(append(out, propUser), p.Name), p.Value)
}

// appendPacket appends a packet of one part that may be written before its length is known.
func appendPacket(out []byte, first byte, body []byte) []byte {
	return append(appendVarint(append(out, first), len(body)), body...)
}

// appendProperties appends a property list with its length.
func appendProperties(out, list []byte) []byte { return append(appendVarint(out, len(list)), list...) }

// Connack is what a CONNACK packet says (3.2).
type Connack struct {
	Code Code
	// The rest is for MQTT 5 only. An accepted connection is told all that the server does and does not do.
	AssignedClientID  string
	KeepAlive         uint16
	ReceiveMaximum    uint16
	MaximumPacketSize uint32
	ServerReference   string
	Reason            string
	User              []UserProperty
}

// Append appends the packet. Session Present is always 0: what is kept for a device is Halley's, not MQTT's.
func (c *Connack) Append(out []byte, version byte) []byte {
	if version == V311 {
		return append(out, CONNACK<<4, 2, 0, c.Code.Return311())
	}
	var list []byte
	if c.Code == Success {
		list = append(list, propSessionExpiry, 0, 0, 0, 0)
		list = binary.BigEndian.AppendUint16(append(list, propReceiveMaximum), c.ReceiveMaximum)
		list = append(list, propMaximumQoS, 1, propRetainAvailable, 0)
		list = binary.BigEndian.AppendUint32(append(list, propMaximumPacketSize), c.MaximumPacketSize)
		list = append(list, propTopicAliasMaximum, 0, 0)
		list = append(list, propWildcardAvailable, 0, propSubIDAvailable, 0, propSharedAvailable, 0)
		list = binary.BigEndian.AppendUint16(append(list, propServerKeepAlive), c.KeepAlive)
	}
	if c.AssignedClientID != "" {
		list = appendTextProperty(list, propAssignedClientID, c.AssignedClientID)
	}
	if c.ServerReference != "" {
		list = appendTextProperty(list, propServerReference, c.ServerReference)
	}
	if c.Reason != "" {
		list = appendTextProperty(list, propReasonString, c.Reason)
	}
	for _, p := range c.User {
		list = appendUser(list, p)
	}
	return appendPacket(out, CONNACK<<4, appendProperties([]byte{0, byte(c.Code)}, list))
}

// AppendUpTo appends the packet if it is not larger than limit (0: any size), else without its reason, else without user
// properties, too (MQTT-3.2.2-19, -20), else nothing.
func (c Connack) AppendUpTo(out []byte, version byte, limit uint32) []byte {
	for begin := len(out); ; {
		out = c.Append(out[:begin], version)
		switch {
		case Fits(out[begin:], limit):
			return out
		case c.Reason != "":
			c.Reason = ""
		case c.User != nil:
			c.User = nil
		default:
			return out[:begin]
		}
	}
}

// Fits reports whether a client whose Maximum Packet Size is limit takes a packet (3.1.2.11.4); 0: it takes any.
func Fits(packet []byte, limit uint32) bool {
	return limit == 0 || uint64(len(packet)) <= uint64(limit)
}

// AppendPuback appends a PUBACK packet. A 3.1.1 client learns no code.
func AppendPuback(out []byte, version byte, id uint16, code Code, reason string) []byte {
	if version == V311 || code == Success {
		return append(out, PUBACK<<4, 2, byte(id>>8), byte(id))
	}
	var list []byte
	if reason != "" {
		list = appendTextProperty(list, propReasonString, reason)
	}
	return appendPacket(out, PUBACK<<4, appendProperties([]byte{byte(id >> 8), byte(id), byte(code)}, list))
}

// AppendSuback appends a SUBACK packet with a code per topic filter.
func AppendSuback(out []byte, version byte, id uint16, codes []Code) []byte {
	return appendCodes(out, SUBACK, version, id, codes)
}

// AppendUnsuback appends an UNSUBACK packet with a code per topic filter, which a 3.1.1 client does not get.
func AppendUnsuback(out []byte, version byte, id uint16, codes []Code) []byte {
	if version == V311 {
		codes = nil
	}
	return appendCodes(out, UNSUBACK, version, id, codes)
}

func appendCodes(out []byte, kind, version byte, id uint16, codes []Code) []byte {
	body := []byte{byte(id >> 8), byte(id)}
	if version == V5 {
		body = append(body, 0)
	}
	for _, c := range codes {
		if version == V311 && c >= 0x80 {
			c = SubscriptionFailure311
		}
		body = append(body, byte(c))
	}
	return appendPacket(out, kind<<4, body)
}

// AppendPingresp appends a PINGRESP packet.
func AppendPingresp(out []byte) []byte { return append(out, PINGRESP<<4, 0) }

// Disconnect is what a DISCONNECT packet of the server says (3.14).
type Disconnect struct {
	Code            Code
	ServerReference string
	User            []UserProperty
}

// Append appends the packet for an MQTT 5 client. A 3.1.1 client gets nothing: its connection just closes.
func (d *Disconnect) Append(out []byte, version byte) []byte {
	if version == V311 {
		return out
	}
	var list []byte
	if d.ServerReference != "" {
		list = appendTextProperty(list, propServerReference, d.ServerReference)
	}
	for _, p := range d.User {
		list = appendUser(list, p)
	}
	// An empty property list may be left out, but there are clients that miss the code then.
	return appendPacket(out, DISCONNECT<<4, appendProperties([]byte{byte(d.Code)}, list))
}

// AppendUpTo appends the packet if it is not larger than limit (0: any size), else without user properties (MQTT-3.14.2-4),
// else nothing.
func (d Disconnect) AppendUpTo(out []byte, version byte, limit uint32) []byte {
	for begin := len(out); ; {
		out = d.Append(out[:begin], version)
		switch {
		case Fits(out[begin:], limit):
			return out
		case d.User != nil:
			d.User = nil
		default:
			return out[:begin]
		}
	}
}

// Outgoing is a PUBLISH packet of the server, in parts.
type Outgoing struct {
	Topic   string
	QoS     byte
	Payload []byte
	// Expiry is in seconds, 0: none; JSON marks the payload as application/json; both for MQTT 5 only.
	Expiry      uint32
	JSON        bool
	Correlation []byte
}

const contentTypeJSON = "application/json"

// Append appends the packet with packet identifier 0, which must be patched for QoS 1, and returns the offset of the
// identifier from the packet's first byte. splice, which may be empty, is put before the payload's last byte.
func (o *Outgoing) Append(out []byte, version byte, splice []byte) (packet []byte, idOffset int) {
	properties := 0
	if version == V5 {
		if o.Expiry > 0 {
			properties += 5
		}
		if o.JSON {
			properties += 3 + len(contentTypeJSON)
		}
		if o.Correlation != nil {
			properties += 3 + len(o.Correlation)
		}
	}
	length := 2 + len(o.Topic) + len(o.Payload) + len(splice)
	if o.QoS > 0 {
		length += 2
	}
	if version == V5 {
		length += varintSize(properties) + properties
	}
	begin := len(out)
	out = appendVarint(append(out, PUBLISH<<4|o.QoS<<1), length)
	out = appendText(out, o.Topic)
	if o.QoS > 0 {
		idOffset = len(out) - begin
		out = append(out, 0, 0)
	}
	if version == V5 {
		out = appendVarint(out, properties)
		if o.Expiry > 0 {
			out = binary.BigEndian.AppendUint32(append(out, propMessageExpiry), o.Expiry)
		}
		if o.JSON {
			out = appendTextProperty(out, propContentType, contentTypeJSON)
		}
		if o.Correlation != nil {
			out = appendTextProperty(out, propCorrelationData, o.Correlation)
		}
	}
	if len(splice) == 0 || len(o.Payload) == 0 {
		return append(out, o.Payload...), idOffset
	}
	last := len(o.Payload) - 1
	out = append(out, o.Payload[:last]...)
	out = append(out, splice...)
	return append(out, o.Payload[last]), idOffset
}

// SetPacketID patches the identifier of a packet that Append made; offset counts from the packet's first byte.
func SetPacketID(packet []byte, offset int, id uint16) {
	binary.BigEndian.PutUint16(packet[offset:], id)
}
