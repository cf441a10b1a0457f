package swarm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Centrifuge is centrifuge's JSON protocol over WebSocket; the server subscribes its clients to what it publishes.
type Centrifuge struct{ Count int }

var _ Protocol = (*Centrifuge)(nil)

// Clients implements Protocol.
func (c *Centrifuge) Clients() int { return c.Count }

// Hello implements Protocol.
func (c *Centrifuge) Hello(int) []byte {
	return []byte("GET / HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n")
}

// Take implements Protocol.
func (c *Centrifuge) Take(data []byte) (Packet, error) {
	if bytes.HasPrefix(data, []byte("HTTP/1.1 ")) {
		end := bytes.Index(data, []byte("\r\n\r\n"))
		if end < 0 {
			return Packet{}, nil
		}
		if !bytes.HasPrefix(data[9:], []byte("101")) {
			return Packet{}, fmt.Errorf("refused: %s", data[:end])
		}
		return Packet{Used: end + 4, Reply: textFrame(`{"id":1,"connect":{}}`)}, nil
	}
	code, body, used := frame(data)
	p := Packet{Used: used}
	switch {
	case used == 0:
	case code == 8:
		return p, fmt.Errorf("sent away: %q", body)
	case bytes.HasPrefix(body, []byte(`{"id":1,"connect"`)):
		p.Kind = Ready
	case bytes.HasPrefix(body, []byte(`{"push"`)):
		p.Kind, p.Payload = Message, body
	case string(body) == "{}": // a ping
		p.Reply = textFrame("{}")
	default:
		return p, errors.New("an answer that is not expected: " + string(body))
	}
	return p, nil
}

// frame returns the first frame of a server (RFC 6455, 5.2), used 0 if it is not complete.
func frame(data []byte) (code byte, body []byte, used int) {
	if len(data) < 2 {
		return 0, nil, 0
	}
	at, length := 2, int(data[1])
	if length == 126 {
		if len(data) < 4 {
			return 0, nil, 0
		}
		at, length = 4, int(binary.BigEndian.Uint16(data[2:]))
	}
	if len(data) < at+length {
		return 0, nil, 0
	}
	return data[0] & 15, data[at : at+length], at + length
}

// textFrame returns a client's frame of a short text; its mask of zeros changes nothing.
func textFrame(text string) []byte {
	return append([]byte{0x81, 0x80 | byte(len(text)), 0, 0, 0, 0}, text...)
}
