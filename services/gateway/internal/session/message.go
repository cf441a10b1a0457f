package session

import (
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/halleypush/halley/services/gateway/internal/mqtt"
)

// Message is a push as it is handed over to any number of sessions of one app. Its packets are built once per MQTT version
// and QoS, and shared, if it is for more than one device. It is safe for concurrent use.
type Message struct {
	ID           uuid.UUID
	QoS          byte
	Audience     bool
	Notification bool
	// Expires is in milliseconds since 1970; nothing is handed over after it.
	Expires int64
	// Trace is the W3C traceparent of the push, empty if it is not sampled.
	Trace string

	topic  string
	json   []byte
	frames [4]atomic.Pointer[frame]
}

// frame is an encoded PUBLISH packet whose packet identifier is still to be patched.
type frame struct {
	bytes    []byte
	idOffset int
}

// NewMessage returns a message for the devices of an app. json is a JSON object, not empty; it is not copied.
func NewMessage(app string, id uuid.UUID, json []byte) *Message {
	return &Message{ID: id, topic: "push/" + app, json: json}
}

// Expired reports whether the message's time is over.
func (m *Message) Expired(now time.Time) bool { return now.UnixMilli() >= m.Expires }

// outgoing returns the packet's parts at this moment: the expiry that the phone is told is rounded up to a second.
func (m *Message) outgoing(qos byte, now time.Time) mqtt.Outgoing {
	left := max(m.Expires-now.UnixMilli(), 0)
	return mqtt.Outgoing{
		Topic: m.topic, QoS: qos, Payload: m.json, JSON: true, Expiry: uint32(min((left+999)/1000, 1<<32-1)),
	}
}

// onceMore marks a frame that was needed once: most messages are for one device, and its packet need not be kept.
var onceMore = &frame{}

// appendFrame appends the packet for a version and QoS, and returns the offset of its identifier. The first device's is
// written in place; who needs it next builds it for all that follow.
func (m *Message) appendFrame(out []byte, version, qos byte, now time.Time) (packet []byte, idOffset int) {
	slot := &m.frames[(version-mqtt.V311)<<1|qos]
	f := slot.Load()
	if f == nil {
		slot.Store(onceMore) // a twin at the same moment writes its own, too
		o := m.outgoing(qos, now)
		return o.Append(out, version, nil)
	}
	if f == onceMore {
		o := m.outgoing(qos, now)
		f = &frame{}
		f.bytes, f.idOffset = o.Append(make([]byte, 0, len(m.json)+96), version, nil) // room for the header
		slot.Store(f)                                                                 // a twin that was built at the same moment says the same
	}
	return append(out, f.bytes...), f.idOffset
}

// appendTo appends the packet for one session, with its packet identifier and, where the push is for a user, the user's
// opaque id; on a shared connection also the token of the device that it is to.
func (m *Message) appendTo(out []byte, version, qos byte, id uint16, user, to string, now time.Time) []byte {
	begin := len(out)
	var offset int
	if user == "" && to == "" {
		out, offset = m.appendFrame(out, version, qos, now)
	} else {
		o := m.outgoing(qos, now)
		var room [96]byte // an opaque id and a token fit, and need no escaping
		splice := appendField(appendField(room[:0], `,"user":"`, user), `,"to":"`, to)
		out, offset = o.Append(out, version, splice)
	}
	if qos > 0 {
		mqtt.SetPacketID(out[begin:], offset, id)
	}
	return out
}

func appendField(out []byte, name, value string) []byte {
	if value == "" {
		return out
	}
	return append(append(append(out, name...), value...), '"')
}
