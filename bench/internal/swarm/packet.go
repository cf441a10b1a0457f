package swarm

import "encoding/binary"

// Packet types (MQTT 5, 2.1.2).
const (
	connect    = 1
	connack    = 2
	publish    = 3
	puback     = 4
	subscribe  = 8
	suback     = 9
	disconnect = 14
)

// next returns the first packet of what was read, used 0 if it is not complete.
func next(data []byte) (kind byte, body []byte, used int) {
	if len(data) < 2 {
		return 0, nil, 0
	}
	length, n := binary.Uvarint(data[1:min(len(data), 5)])
	if n <= 0 || len(data) < 1+n+int(length) {
		return 0, nil, 0
	}
	used = 1 + n + int(length)
	return data[0], data[1+n : used], used
}

func appendText(out []byte, text string) []byte {
	return append(binary.BigEndian.AppendUint16(out, uint16(len(text))), text...)
}

func appendPacket(out []byte, kind byte, body []byte) []byte {
	return append(binary.AppendUvarint(append(out, kind), uint64(len(body))), body...)
}

// appendConnect says who the client is, with a keep-alive that outlasts a bench.
func appendConnect(out []byte, id Identity) []byte {
	flags := byte(2) // clean start
	if id.Username != "" {
		flags |= 0xC0
	}
	body := append(appendText(nil, "MQTT"), 5, flags, 0x04, 0xB0, 0) // 1,200 s, no properties
	body = appendText(body, id.ClientID)
	if id.Username != "" {
		body = appendText(appendText(body, id.Username), id.Password)
	}
	return appendPacket(out, connect<<4, body)
}

func appendSubscribe(out []byte, topic string) []byte {
	body := appendText([]byte{0, 1, 0}, topic) // packet id 1, no properties
	return appendPacket(out, subscribe<<4|2, append(body, 1))
}

// Publish returns a PUBLISH of QoS 1.
func Publish(topic string, id uint16, payload []byte) []byte {
	body := binary.BigEndian.AppendUint16(appendText(nil, topic), id)
	return appendPacket(nil, publish<<4|2, append(append(body, 0), payload...))
}

// ConnectPacket returns a CONNECT.
func ConnectPacket(id Identity) []byte { return appendConnect(nil, id) }
