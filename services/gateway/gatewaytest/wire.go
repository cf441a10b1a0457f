package gatewaytest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Wire is a client that does by itself nothing at all: a test writes what it likes, packets or not, and reads packet by
// packet. It speaks through another codec than the gateway's.
type Wire struct {
	conn    net.Conn
	in      *bufio.Reader
	version byte
	lastID  uint16
}

// Versions of MQTT as CONNECT says them.
const (
	V311 byte = 4
	V5   byte = 5
)

// Dial connects to the gateway over TCP and says nothing yet.
func (s *Site) Dial(t testing.TB, version byte) *Wire {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", s.MQTTAddr())
	if err != nil {
		t.Fatal(err)
	}
	return NewWire(t, conn, version)
}

// NewWire speaks over a connection, which is closed when the test ends.
func NewWire(t testing.TB, conn net.Conn, version byte) *Wire {
	t.Helper()
	t.Cleanup(func() { _ = conn.Close() }) // closed before, maybe
	return &Wire{conn: conn, in: bufio.NewReader(conn), version: version}
}

// Connect returns a device's CONNECT.
func (w *Wire) Connect(d Device) packets.Packet { return w.ConnectAs(d.Token, App, d.Secret) }

// ConnectAs returns a CONNECT.
func (w *Wire) ConnectAs(clientID, username, password string) packets.Packet {
	return packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Connect}, ProtocolVersion: w.version,
		Connect: packets.ConnectParams{
			ProtocolName: []byte("MQTT"), Clean: true, Keepalive: 60, ClientIdentifier: clientID,
			UsernameFlag: username != "", Username: []byte(username), PasswordFlag: password != "", Password: []byte(password),
		},
	}
}

// Online connects a device over MQTT 5, subscribes to its pushes at QoS 1, and waits until it is online.
func (s *Site) Online(t testing.TB, d Device) *Wire {
	t.Helper()
	return s.online(t, d, V5)
}

// Online311 does the same over MQTT 3.1.1.
func (s *Site) Online311(t testing.TB, d Device) *Wire {
	t.Helper()
	return s.online(t, d, V311)
}

func (s *Site) online(t testing.TB, d Device, version byte) *Wire {
	t.Helper()
	w := s.Dial(t, version)
	w.Greet(t, w.Connect(d))
	w.Subscribe(t, 1, "push/"+App)
	s.Core.AwaitOnline(t, d)
	return w
}

// Greet sends a CONNECT and returns the CONNACK, which must be a yes.
func (w *Wire) Greet(t testing.TB, connect packets.Packet) packets.Packet {
	t.Helper()
	w.Send(t, connect)
	ack := w.Next(t, packets.Connack)
	if ack.ReasonCode != 0 {
		t.Fatalf("refused with 0x%02X: %s", ack.ReasonCode, ack.Properties.ReasonString)
	}
	return ack
}

// Subscribe subscribes to topics and returns the codes.
func (w *Wire) Subscribe(t testing.TB, qos byte, topics ...string) []byte {
	t.Helper()
	w.lastID++
	p := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: w.lastID}
	for _, topic := range topics {
		p.Filters = append(p.Filters, packets.Subscription{Filter: topic, Qos: qos})
	}
	w.Send(t, p)
	ack := w.Next(t, packets.Suback)
	if ack.PacketID != w.lastID {
		t.Errorf("SUBACK for %d, want %d", ack.PacketID, w.lastID)
	}
	return ack.ReasonCodes
}

// Publish sends a PUBLISH and returns its packet identifier.
func (w *Wire) Publish(t testing.TB, qos byte, topic, payload string) uint16 {
	t.Helper()
	p := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos}, TopicName: topic, Payload: []byte(payload),
	}
	if qos > 0 {
		w.lastID++
		p.PacketID = w.lastID
	}
	w.Send(t, p)
	return p.PacketID
}

// Ack acknowledges a PUBLISH.
func (w *Wire) Ack(t testing.TB, p packets.Packet) {
	t.Helper()
	w.Send(t, packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: p.PacketID})
}

// Refuse answers a PUBLISH with a reason code that says no.
func (w *Wire) Refuse(t testing.TB, p packets.Packet, code byte) {
	t.Helper()
	w.Send(t, packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: p.PacketID, ReasonCode: code})
}

// Ping sends a PINGREQ and waits for its PINGRESP, so that whatever was sent before has been seen. Nothing else may come.
func (w *Wire) Ping(t testing.TB) {
	t.Helper()
	w.Send(t, packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}})
	w.Next(t, packets.Pingresp)
}

// Send sends a packet.
func (w *Wire) Send(t testing.TB, p packets.Packet) {
	t.Helper()
	w.Write(t, w.Encode(t, p))
}

// Encode returns a packet's bytes.
func (w *Wire) Encode(t testing.TB, p packets.Packet) []byte {
	t.Helper()
	p.ProtocolVersion = w.version
	p.Mods.AllowResponseInfo = true // or Response Topics are left out
	var buf bytes.Buffer
	var err error
	switch p.FixedHeader.Type {
	case packets.Connect:
		err = p.ConnectEncode(&buf)
	case packets.Publish:
		err = p.PublishEncode(&buf)
	case packets.Puback:
		err = p.PubackEncode(&buf)
	case packets.Subscribe:
		err = p.SubscribeEncode(&buf)
	case packets.Unsubscribe:
		err = p.UnsubscribeEncode(&buf)
	case packets.Pingreq:
		err = p.PingreqEncode(&buf)
	case packets.Disconnect:
		err = p.DisconnectEncode(&buf)
	default:
		err = fmt.Errorf("packet type %d is not one that a client sends", p.FixedHeader.Type)
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Write sends bytes.
func (w *Wire) Write(t testing.TB, data []byte) {
	t.Helper()
	if _, err := w.conn.Write(data); err != nil {
		t.Fatal(err)
	}
}

// HoldLittle has the kernel hold little for the client while it does not read.
func (w *Wire) HoldLittle(t testing.TB) {
	t.Helper()
	if err := w.conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
}

// CloseWrite says that nothing more will be sent.
func (w *Wire) CloseWrite(t testing.TB) {
	t.Helper()
	if err := w.conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
}

// Close closes the connection.
func (w *Wire) Close() { _ = w.conn.Close() } // closed before, maybe

// Next returns the next packet, which must be of a type.
func (w *Wire) Next(t testing.TB, kind byte) packets.Packet {
	t.Helper()
	p, err := w.Read()
	if err != nil {
		t.Fatalf("no %s came: %v", packets.PacketNames[kind], err)
	}
	if p.FixedHeader.Type != kind {
		t.Fatalf("%s came, want %s", describe(p), packets.PacketNames[kind])
	}
	return p
}

// NextPush returns the next PUBLISH, which must carry a push. It is never a repeat, and never a retained message.
func (w *Wire) NextPush(t testing.TB, want Push) packets.Packet {
	t.Helper()
	p := w.Next(t, packets.Publish)
	if p.FixedHeader.Dup || p.FixedHeader.Retain {
		t.Errorf("%s came with DUP %t and RETAIN %t", describe(p), p.FixedHeader.Dup, p.FixedHeader.Retain)
	}
	if id := PushID(t, p.Payload); id != want.ID {
		t.Fatalf("push %s came, want %s (%s)", id, want.ID, want.Body.GetJson())
	}
	return p
}

func describe(p packets.Packet) string {
	return fmt.Sprintf("%s %d code 0x%02X (%s) %s %s", packets.PacketNames[p.FixedHeader.Type], p.PacketID, p.ReasonCode,
		p.Properties.ReasonString, p.TopicName, p.Payload)
}

// WantClosed checks that the peer closes the connection and says nothing before.
func (w *Wire) WantClosed(t testing.TB) {
	t.Helper()
	p, err := w.Read()
	switch {
	case err == nil:
		t.Fatalf("%s came, want the end", describe(p))
	case errors.Is(err, errLate):
		t.Fatal("the connection stays open")
	case !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET):
		t.Fatalf("what came is neither the end nor a packet: %v", err)
	}
}

// ReadBytes returns the next n bytes as they came.
func (w *Wire) ReadBytes(t testing.TB, n int) []byte {
	t.Helper()
	if err := w.conn.SetReadDeadline(time.Now().Add(Patience)); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(w.in, data); err != nil {
		t.Fatal(err)
	}
	return data
}

// WantDisconnect checks that an MQTT 5 client is told a code and then disconnected, and one of 3.1.1 just disconnected.
func (w *Wire) WantDisconnect(t testing.TB, code byte) packets.Packet {
	t.Helper()
	var p packets.Packet
	if w.version == V5 {
		if p = w.Next(t, packets.Disconnect); p.ReasonCode != code {
			t.Errorf("DISCONNECT with 0x%02X, want 0x%02X", p.ReasonCode, code)
		}
		if p.Properties.SessionExpiryIntervalFlag {
			t.Error("DISCONNECT has a Session Expiry Interval, which servers do not send")
		}
	}
	w.WantClosed(t)
	return p
}

var errLate = errors.New("nothing comes")

// Read returns the next packet.
func (w *Wire) Read() (packets.Packet, error) {
	var p packets.Packet
	if err := w.conn.SetReadDeadline(time.Now().Add(Patience)); err != nil {
		return p, err
	}
	body, err := w.readBody(&p)
	if err != nil {
		var network net.Error
		if errors.As(err, &network) && network.Timeout() {
			return p, errLate
		}
		return p, err
	}
	p.ProtocolVersion = w.version
	return p, decode(&p, body)
}

func (w *Wire) readBody(p *packets.Packet) ([]byte, error) {
	first, err := w.in.ReadByte()
	if err != nil {
		return nil, err
	}
	if err := p.FixedHeader.Decode(first); err != nil {
		return nil, err
	}
	if p.FixedHeader.Remaining, _, err = packets.DecodeLength(w.in); err != nil {
		return nil, fmt.Errorf("half a packet: %w", unexpected(err))
	}
	body := make([]byte, p.FixedHeader.Remaining)
	_, err = io.ReadFull(w.in, body)
	return body, unexpected(err)
}

// unexpected returns an error that is no orderly end: a packet has begun.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func decode(p *packets.Packet, body []byte) error {
	switch p.FixedHeader.Type {
	case packets.Connack:
		return p.ConnackDecode(body)
	case packets.Publish:
		return p.PublishDecode(body)
	case packets.Puback:
		return p.PubackDecode(body)
	case packets.Suback:
		return p.SubackDecode(body)
	case packets.Unsuback:
		return p.UnsubackDecode(body)
	case packets.Pingresp:
		return p.PingrespDecode(body)
	case packets.Disconnect:
		return p.DisconnectDecode(body)
	}
	return fmt.Errorf("packet type %d is not one that a server sends", p.FixedHeader.Type)
}
