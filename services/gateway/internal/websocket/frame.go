// Package websocket is the server's side of WebSocket (RFC 6455) as far as MQTT needs it (6.0 of the MQTT standard): the
// upgrade, binary messages both ways, pings and closes. It touches no socket: bytes come in and go out as arguments.
//
// What messages hold is a stream of bytes to MQTT, so nothing is kept of a message until it is complete: a decoder is a
// few dozen bytes, however long its peer's frames are.
package websocket

import (
	"encoding/binary"
	"unicode/utf8"
)

// Codes of a Close frame (RFC 6455, 7.4.1).
const (
	NormalClosure   uint16 = 1000
	GoingAway       uint16 = 1001
	ProtocolError   uint16 = 1002
	UnsupportedData uint16 = 1003
	PolicyViolation uint16 = 1008
	TooBig          uint16 = 1009
	TryAgainLater   uint16 = 1013

	noStatus uint16 = 1005 // of a Close frame without a code; it is never sent
)

const (
	// MaxFrame is the largest frame that a client may send, in bytes.
	MaxFrame = 1 << 20
	// maxIdle bounds the frames in a row that bring nothing: pings, pongs, empty fragments. They cost no token of the MQTT
	// session that bounds a client otherwise.
	maxIdle = 1000
	// maxControl is the largest payload of a control frame (5.5).
	maxControl = 125
	maxHeader  = 14
)

// Opcodes (5.2).
const (
	continuation byte = 0x0
	text         byte = 0x1
	binaryData   byte = 0x2
	closing      byte = 0x8
	ping         byte = 0x9
	pong         byte = 0xA
)

const final = 0x80

// Decoder takes a client's frames apart. Its zero value is ready.
type Decoder struct {
	left       uint64 // bytes of the current frame's payload that have not come
	control    []byte // what has come of a control frame's payload
	idle       uint16
	header     [maxHeader]byte // of the current frame, the mask at its end
	have       byte            // bytes of header
	masked     byte            // how far into the mask the next byte is
	within     bool            // a frame's payload is awaited
	fragmented bool            // a message is not complete
	over       bool            // a Close frame has been sent, or is in the reply
}

// Over reports whether a Close frame has been sent.
func (d *Decoder) Over() bool { return d.over }

// Decode takes bytes that came from the client. It returns the payload of messages among them, in data's own memory, and
// appends to reply what has to be sent back: pongs, and a Close frame after the client's own, or if it breaks the protocol.
// Over reports true then, and what follows is ignored.
func (d *Decoder) Decode(data, reply []byte) (payload, _ []byte) {
	payload = data[:0]
	for len(data) > 0 && !d.over {
		if !d.within {
			var complete bool
			if data, complete = d.head(data); !complete {
				break
			}
			if code, reason := d.check(); code != 0 {
				return payload, d.Close(reply, code, reason)
			}
			d.within = true
		}
		n := int(min(d.left, uint64(len(data))))
		d.unmask(data[:n])
		if d.opcode() >= closing {
			d.control = append(d.control, data[:n]...)
		} else {
			payload = append(payload, data[:n]...) // never further than data has been read
		}
		data, d.left = data[n:], d.left-uint64(n)
		if d.left == 0 {
			reply = d.end(reply)
		}
	}
	return payload, reply
}

func (d *Decoder) opcode() byte { return d.header[0] & 0xF }

// head collects a frame's header and returns what is behind it.
func (d *Decoder) head(data []byte) (rest []byte, complete bool) {
	for {
		need := d.headerSize()
		if n := copy(d.header[d.have:need], data); n > 0 {
			d.have += byte(n)
			data = data[n:]
		}
		if d.have < need {
			return data, false
		}
		if need == d.headerSize() { // not known before its second byte
			return data, true
		}
	}
}

// headerSize returns how long the header is, as far as it can be known.
func (d *Decoder) headerSize() byte {
	if d.have < 2 {
		return 2
	}
	size := byte(2)
	switch d.header[1] & 0x7F {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if d.header[1]&0x80 != 0 {
		size += 4
	}
	return size
}

// check looks at a complete header. It returns the code to close with, or 0.
func (d *Decoder) check() (code uint16, reason string) {
	first, second := d.header[0], d.header[1]
	switch d.left = uint64(second & 0x7F); d.left {
	case 126:
		d.left = uint64(binary.BigEndian.Uint16(d.header[2:]))
	case 127:
		d.left = binary.BigEndian.Uint64(d.header[2:])
	}
	isFinal := first&final != 0
	switch opcode := first & 0xF; {
	case first&0x70 != 0:
		return ProtocolError, "reserved bits"
	case second&0x80 == 0:
		return ProtocolError, "a frame without a mask"
	case opcode == text:
		return UnsupportedData, "MQTT is binary"
	case opcode == continuation && !d.fragmented, opcode == binaryData && d.fragmented:
		return ProtocolError, "fragments out of order"
	case opcode > pong || opcode > binaryData && opcode < closing:
		return ProtocolError, "unknown opcode"
	case opcode >= closing && (!isFinal || d.left > maxControl):
		return ProtocolError, "a control frame in pieces"
	case d.left > MaxFrame:
		return TooBig, "a frame of more than 1 MiB"
	case opcode < closing:
		d.fragmented = !isFinal
	}
	if d.opcode() < closing && d.left > 0 {
		d.idle = 0
	} else if d.idle++; d.idle > maxIdle {
		return PolicyViolation, "too many frames for nothing"
	}
	return 0, ""
}

func (d *Decoder) unmask(data []byte) {
	mask := d.header[d.have-4 : d.have]
	for i := range data {
		data[i] ^= mask[(int(d.masked)+i)&3]
	}
	d.masked = byte(int(d.masked)+len(data)) & 3
}

// end does what a complete frame asks for.
func (d *Decoder) end(reply []byte) []byte {
	switch d.opcode() {
	case ping:
		reply = appendFrame(reply, pong, d.control)
	case closing:
		reply = d.echo(reply)
	}
	d.control, d.have, d.masked, d.within = nil, 0, 0, false
	return reply
}

// echo answers a Close frame with the code that it brought (5.5.1).
func (d *Decoder) echo(reply []byte) []byte {
	code := noStatus
	if len(d.control) >= 2 {
		code = binary.BigEndian.Uint16(d.control)
	}
	switch {
	case len(d.control) == 1, len(d.control) >= 2 && !sendable(code), len(d.control) > 2 && !utf8.Valid(d.control[2:]):
		return d.Close(reply, ProtocolError, "")
	default:
		return d.Close(reply, code, "")
	}
}

// sendable reports whether a peer may send a code (7.4).
func sendable(code uint16) bool {
	return code >= 1000 && code < 1004 || code >= 1007 && code <= 1014 || code >= 3000 && code < 5000
}

// Close appends a Close frame, unless one has been sent. Nothing is decoded any more.
func (d *Decoder) Close(reply []byte, code uint16, reason string) []byte {
	if d.over {
		return reply
	}
	d.over = true
	if code == noStatus {
		return appendFrame(reply, closing, nil)
	}
	return appendFrame(reply, closing, append(binary.BigEndian.AppendUint16(nil, code), reason...))
}

// AppendMessage appends a binary message of the server, in one frame.
func AppendMessage(dst, payload []byte) []byte { return appendFrame(dst, binaryData, payload) }

func appendFrame(dst []byte, opcode byte, payload []byte) []byte {
	dst = append(dst, final|opcode)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, byte(n))
	case n < 1<<16:
		dst = binary.BigEndian.AppendUint16(append(dst, 126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 127), uint64(n))
	}
	return append(dst, payload...)
}
