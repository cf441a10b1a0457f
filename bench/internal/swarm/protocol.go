package swarm

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Protocol is what clients speak.
type Protocol interface {
	// Clients is how many there are.
	Clients() int
	// Hello returns what a client says first.
	Hello(client int) []byte
	// Take reads the first packet of what came, nothing if it is not complete. It keeps no part of data.
	Take(data []byte) (Packet, error)
}

// Kind is what a packet means to a client.
type Kind byte

// The kinds.
const (
	Other Kind = iota
	// Ready: the client is connected and subscribed.
	Ready
	// Message: a message has come.
	Message
)

// Packet is a packet of a server.
type Packet struct {
	// Used is its length; 0: it is not complete.
	Used int
	Kind Kind
	// Payload is a message's, part of what came.
	Payload []byte
	// Ack answers a message, if Acked; Reply answers anything else, at once.
	Ack   [4]byte
	Acked bool
	Reply []byte
}

// Identity is who an MQTT client is.
type Identity struct{ ClientID, Username, Password string }

// MQTT is MQTT 5 at QoS 1: clients connect and subscribe to a topic in one breath.
type MQTT struct {
	Topic string
	Who   []Identity
}

var _ Protocol = (*MQTT)(nil)

// Clients implements Protocol.
func (m *MQTT) Clients() int { return len(m.Who) }

// Hello implements Protocol.
func (m *MQTT) Hello(client int) []byte {
	return appendSubscribe(appendConnect(nil, m.Who[client]), m.Topic)
}

// Take implements Protocol.
func (m *MQTT) Take(data []byte) (Packet, error) {
	kind, body, used := next(data)
	p := Packet{Used: used}
	if used == 0 {
		return p, nil
	}
	switch kind >> 4 {
	case connack:
		if len(body) < 2 || body[1] != 0 {
			return p, fmt.Errorf("refused: % x", body)
		}
	case suback:
		if code := body[len(body)-1]; code > 1 {
			return p, fmt.Errorf("subscription refused with 0x%02x", code)
		}
		p.Kind = Ready
	case publish:
		p.Kind = Message
		at := 2 + int(binary.BigEndian.Uint16(body))
		if kind&6 != 0 {
			p.Ack, p.Acked = [4]byte{puback << 4, 2, body[at], body[at+1]}, true
			at += 2
		}
		length, n := binary.Uvarint(body[at:]) // property lengths are coded alike
		p.Payload = body[at+n+int(length):]
	case disconnect:
		return p, fmt.Errorf("sent away: % x", body)
	}
	return p, nil
}

var errClosed = errors.New("the server closed the connection")
