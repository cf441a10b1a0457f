package websocket_test

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/halleypush/halley/services/gateway/internal/websocket"
)

// frame is a client's frame.
func frame(first byte, payload string) []byte {
	mask := [4]byte{1, 2, 3, 4}
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	b = append(b, mask[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i&3])
	}
	return b
}

// decode gives a decoder data in pieces of a size.
func decode(d *websocket.Decoder, data []byte, size int) (payload, reply []byte) {
	data = bytes.Clone(data)
	for len(data) > 0 {
		n := min(size, len(data))
		var piece []byte
		piece, reply = d.Decode(data[:n], reply)
		payload, data = append(payload, piece...), data[n:]
	}
	return payload, reply
}

func closed(code uint16, reason string) string {
	return "\x88" + string(byte(2+len(reason))) + string(binary.BigEndian.AppendUint16(nil, code)) + reason
}

// MQTT 5: 6.0.0-2
// MQTT 3.1.1: 6.0.0-2
func TestFramesComeInAnyPieces(t *testing.T) {
	t.Parallel()
	long, longer := strings.Repeat("a", 1000), strings.Repeat("b", 70_000)
	for name, c := range map[string]struct{ data, payload, reply string }{
		"a message":        {string(frame(0x82, "hello")), "hello", ""},
		"an empty one":     {string(frame(0x82, "")), "", ""},
		"two messages":     {string(frame(0x82, "one")) + string(frame(0x82, "two")), "onetwo", ""},
		"a length of 16":   {string(frame(0x82, long)), long, ""},
		"a length of 64":   {string(frame(0x82, longer)), longer, ""},
		"fragments":        {string(frame(0x02, "one")) + string(frame(0x00, "two")) + string(frame(0x80, "three")), "onetwothree", ""},
		"a ping between":   {string(frame(0x02, "one")) + string(frame(0x89, "p")) + string(frame(0x80, "two")), "onetwo", "\x8A\x01p"},
		"a pong":           {string(frame(0x8A, "x")) + string(frame(0x82, "one")), "one", ""},
		"a close":          {string(frame(0x82, "one")) + string(frame(0x88, "\x03\xE8bye")) + string(frame(0x82, "two")), "one", closed(1000, "")},
		"a close, no code": {string(frame(0x88, "")), "", "\x88\x00"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, size := range []int{1, 2, 7, 1 << 20} {
				payload, reply := decode(&websocket.Decoder{}, []byte(c.data), size)
				if string(payload) != c.payload || string(reply) != c.reply {
					t.Errorf("in pieces of %d: %d bytes of payload, reply %q", size, len(payload), reply)
				}
			}
		})
	}
}

// MQTT 5: 6.0.0-1
func TestViolationsAreAnsweredWithTheirCode(t *testing.T) {
	t.Parallel()
	unmasked := []byte{0x82, 1, 'x'}
	for name, c := range map[string]struct {
		data []byte
		code uint16
	}{
		"reserved bits":                 {frame(0xC2, "x"), websocket.ProtocolError},
		"no mask":                       {unmasked, websocket.ProtocolError},
		"text":                          {frame(0x81, "x"), websocket.UnsupportedData},
		"a fragment of nothing":         {frame(0x80, "x"), websocket.ProtocolError},
		"a message inside another":      {append(frame(0x02, "x"), frame(0x82, "y")...), websocket.ProtocolError},
		"an unknown opcode":             {frame(0x83, ""), websocket.ProtocolError},
		"an unknown control":            {frame(0x8B, ""), websocket.ProtocolError},
		"a ping in fragments":           {frame(0x09, ""), websocket.ProtocolError},
		"a long ping":                   {frame(0x89, strings.Repeat("x", 126)), websocket.ProtocolError},
		"a frame that is too large":     {frame(0x82, strings.Repeat("x", websocket.MaxFrame+1)), websocket.TooBig},
		"half a code":                   {frame(0x88, "\x03"), websocket.ProtocolError},
		"a code that is not to be sent": {frame(0x88, "\x03\xED"), websocket.ProtocolError},
		"a reason that is no UTF-8":     {frame(0x88, "\x03\xE8\xFF"), websocket.ProtocolError},
		"a thousand pings":              {bytes.Repeat(frame(0x89, ""), 1001), websocket.PolicyViolation},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := &websocket.Decoder{}
			_, reply := decode(d, c.data, 1<<21)
			last := reply[bytes.LastIndexByte(reply, 0x88):]
			if !d.Over() || len(last) < 4 || binary.BigEndian.Uint16(last[2:]) != c.code {
				t.Errorf("over %v, answered %q", d.Over(), last)
			}
			if payload, again := d.Decode(frame(0x82, "more"), nil); len(payload)+len(again) > 0 {
				t.Error("it goes on after the close")
			}
		})
	}
}

func TestMessagesOfTheServerAreOneFrame(t *testing.T) {
	t.Parallel()
	for size, header := range map[int]string{
		0: "\x82\x00", 125: "\x82\x7D", 126: "\x82\x7E\x00\x7E", 65536: "\x82\x7F\x00\x00\x00\x00\x00\x01\x00\x00",
	} {
		payload := bytes.Repeat([]byte{'x'}, size)
		if got := websocket.AppendMessage(nil, payload); string(got) != header+string(payload) {
			t.Errorf("%d bytes begin with %q", size, got[:min(len(got), 10)])
		}
	}
}

const request = "GET /mqtt HTTP/1.1\r\nHost: gateway\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n" +
	"Sec-WebSocket-Protocol: other, mqtt\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// MQTT 5: 6.0.0-3, 6.0.0-4
func TestUpgrade(t *testing.T) {
	t.Parallel()
	answer, ok, used := websocket.Request([]byte(request + "\x82\x80"))
	if !ok || used != len(request) || !bytes.Contains(answer, []byte("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")) { // RFC 6455, 1.3
		t.Errorf("%v, %d bytes used, %q", ok, used, answer)
	}
	for n := range len(request) {
		if answer, _, used := websocket.Request([]byte(request[:n])); used != 0 || answer != nil {
			t.Fatalf("answered after %d bytes", n)
		}
	}
}

func TestOtherRequestsAreRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		old, new string
		code     int
	}{
		"not HTTP":          {"GET /mqtt HTTP/1.1\r\n", "HELO gateway\r\n", http.StatusBadRequest},
		"another path":      {"/mqtt", "/other", http.StatusNotFound},
		"POST":              {"GET", "POST", http.StatusMethodNotAllowed},
		"HTTP 1.0":          {"HTTP/1.1", "HTTP/1.0", http.StatusMethodNotAllowed},
		"no upgrade":        {"Upgrade: WebSocket\r\n", "", http.StatusUpgradeRequired},
		"another version":   {"Version: 13", "Version: 8", http.StatusUpgradeRequired},
		"a short key":       {"dGhlIHNhbXBsZSBub25jZQ==", "dGhl", http.StatusBadRequest},
		"no subprotocol":    {"other, mqtt", "other", http.StatusBadRequest},
		"an endless header": {"Host: gateway", "Host: " + strings.Repeat("x", 9000), http.StatusRequestHeaderFieldsTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answer, ok, _ := websocket.Request([]byte(strings.Replace(request, c.old, c.new, 1)))
			if status := "HTTP/1.1 " + strconv.Itoa(c.code) + " "; ok || !strings.HasPrefix(string(answer), status) {
				t.Errorf("answered %q", answer)
			}
		})
	}
}

// However the bytes are cut, the same comes out.
// MQTT 5: 6.0.0-2
// MQTT 3.1.1: 6.0.0-2
func FuzzDecode(f *testing.F) {
	f.Add(append(frame(0x02, "one"), frame(0x80, "two")...), 3)
	f.Add(append(frame(0x89, "ping"), frame(0x88, "\x03\xE8")...), 1)
	f.Add(frame(0x82, strings.Repeat("a", 1000)), 5)
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		size = max(size, 1)
		whole, pieces := &websocket.Decoder{}, &websocket.Decoder{}
		payload, reply := decode(whole, data, len(data)+1)
		payload2, reply2 := decode(pieces, data, size)
		if !bytes.Equal(payload, payload2) || !bytes.Equal(reply, reply2) || whole.Over() != pieces.Over() {
			t.Errorf("%q, %q in one piece; %q, %q in pieces of %d", payload, reply, payload2, reply2, size)
		}
	})
}
