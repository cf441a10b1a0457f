package device_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"go.uber.org/goleak"

	"github.com/halleypush/halley/pkg/device"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is the other end of the device's connections: a test says what it answers. The packets are coded by the MQTT
// library's codec.
type server struct {
	t     *testing.T
	dials chan dial
	// down makes every dial fail.
	down error
}

type dial struct {
	address string
	at      time.Time
	peer    *peer
}

func newServer(t *testing.T) *server {
	t.Helper()
	return &server{t: t, dials: make(chan dial, 1000)}
}

// dial is the device's Options.Dial.
func (s *server) dial(_ context.Context, _, address string) (net.Conn, error) {
	if s.down != nil {
		s.dials <- dial{address, time.Now(), nil}
		return nil, s.down
	}
	near, far := net.Pipe()
	s.dials <- dial{address, time.Now(), newPeer(s.t, far)}
	return near, nil
}

// accept waits for a connection.
func (s *server) accept() dial {
	s.t.Helper()
	return receive(s.t, s.dials)
}

// peer is the server's end of one connection.
type peer struct {
	t    *testing.T
	conn net.Conn
	// in gets what the device sends; closed when it closes the connection. Pings are answered before.
	in    chan packets.Packet
	pings int
	mute  bool               // answers no ping; set before the first
	beats chan time.Duration // the silence before each ping, if there is room
	id    uint16
}

func newPeer(t *testing.T, conn net.Conn) *peer {
	t.Helper()
	conn = packets.NewThreadSafeConn(conn)
	p := &peer{t: t, conn: conn, in: make(chan packets.Packet, 100), beats: make(chan time.Duration, 1000)}
	go func() {
		defer close(p.in)
		defer close(p.beats)
		for last := time.Now(); ; last = time.Now() {
			packet, err := packets.ReadPacket(conn)
			if err != nil {
				return
			}
			if packet.Type == packets.PINGREQ {
				p.pings++
				select {
				case p.beats <- time.Since(last):
				default:
				}
				if !p.mute {
					_, _ = packets.NewControlPacket(packets.PINGRESP).WriteTo(conn)
				}
				continue
			}
			p.in <- packet.Content
		}
	}()
	t.Cleanup(func() { conn.Close() })
	return p
}

// receive waits for a value; a deadline fails the test, in fake time at once.
func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v, ok := <-from:
		if !ok {
			t.Fatal("the connection was closed")
		}
		return v
	case <-time.After(time.Hour):
		t.Fatal("waited for an hour")
	}
	panic("unreachable")
}

// next waits for a packet of one type; another type fails the test.
func next[T packets.Packet](p *peer) T {
	p.t.Helper()
	packet := receive(p.t, p.in)
	want, ok := packet.(T)
	if !ok {
		p.t.Fatalf("the device sent %T %v, not a %T", packet, packet, want)
	}
	return want
}

// quiet fails the test if the device has sent anything.
func (p *peer) quiet() {
	p.t.Helper()
	synctest.Wait()
	select {
	case packet, ok := <-p.in:
		p.t.Fatalf("the device sent %T %v (open: %v)", packet, packet, ok)
	default:
	}
}

func (p *peer) send(packet packets.Packet) {
	p.t.Helper()
	if _, err := packet.WriteTo(p.conn); err != nil {
		p.t.Fatalf("send %T: %v", packet, err)
	}
}

// connack admits the device as Halley does; change may say otherwise.
func (p *peer) connack(change func(*packets.Connack)) {
	p.t.Helper()
	no, maximum, keepAlive, quota := byte(0), byte(1), uint16(270), uint16(16)
	expiry := uint32(0)
	c := &packets.Connack{Properties: &packets.Properties{
		ServerKeepAlive: &keepAlive, SessionExpiryInterval: &expiry, ReceiveMaximum: &quota, MaximumQOS: &maximum,
		RetainAvailable: &no, WildcardSubAvailable: &no, SubIDAvailable: &no, SharedSubAvailable: &no,
	}}
	if change != nil {
		change(c)
	}
	p.send(c)
}

func (p *peer) refuse(code byte, retryAfter time.Duration, reference string) {
	p.t.Helper()
	p.connack(func(c *packets.Connack) {
		c.ReasonCode = code
		c.Properties = &packets.Properties{User: retry(retryAfter), ServerReference: reference}
	})
}

func (p *peer) disconnect(code byte, retryAfter time.Duration, reference string) {
	p.t.Helper()
	p.send(&packets.Disconnect{ReasonCode: code, Properties: &packets.Properties{
		User: retry(retryAfter), ServerReference: reference,
	}})
	p.conn.Close()
}

func retry(after time.Duration) []packets.User {
	if after == 0 {
		return nil
	}
	return []packets.User{{Key: "retry_after_ms", Value: strconv.FormatInt(after.Milliseconds(), 10)}}
}

// register answers a registration with a token and a secret.
func (p *peer) register(token, secret string) *packets.Connect {
	p.t.Helper()
	c := next[*packets.Connect](p)
	if c.ClientID != "" || string(c.Password) != "ck_test" || c.Username != "demo" {
		p.t.Fatalf("the device does not register, but sends %v", c)
	}
	p.connack(func(c *packets.Connack) {
		c.Properties.AssignedClientID = token
		c.Properties.User = []packets.User{{Key: "secret", Value: secret}}
	})
	return c
}

// admit answers a connect with a token and a secret.
func (p *peer) admit(token, secret string) {
	p.t.Helper()
	c := next[*packets.Connect](p)
	if c.ClientID != token || string(c.Password) != secret || c.Username != "demo" {
		p.t.Fatalf("the device connects as %q with %q", c.ClientID, c.Password)
	}
	p.connack(nil)
}

// subscribed answers the SUBSCRIBE.
func (p *peer) subscribed() *packets.Subscribe {
	p.t.Helper()
	s := next[*packets.Subscribe](p)
	p.send(&packets.Suback{PacketID: s.PacketID, Reasons: make([]byte, len(s.Subscriptions)), Properties: &packets.Properties{}})
	return s
}

// push sends a message and returns its packet identifier.
func (p *peer) push(m map[string]any) uint16 {
	p.t.Helper()
	p.id++
	p.publish("push/demo", p.id, m)
	return p.id
}

func (p *peer) publish(topic string, id uint16, payload any) {
	p.t.Helper()
	text, err := json.Marshal(payload)
	if err != nil {
		p.t.Fatal(err)
	}
	qos := byte(1)
	if id == 0 {
		qos = 0
	}
	p.send(&packets.Publish{Topic: topic, QoS: qos, PacketID: id, Payload: text, Properties: &packets.Properties{}})
}

// acked waits for a PUBACK.
func (p *peer) acked(id uint16) {
	p.t.Helper()
	if a := next[*packets.Puback](p); a.PacketID != id {
		p.t.Fatalf("acknowledged is %d, not %d", a.PacketID, id)
	}
}

// call waits for a call and acknowledges it.
func (p *peer) call(method string) map[string]any {
	p.t.Helper()
	c := next[*packets.Publish](p)
	if c.Topic != "call/demo/"+method || c.QoS != 1 {
		p.t.Fatalf("published to %s with QoS %d", c.Topic, c.QoS)
	}
	p.puback(c, 0)
	body := map[string]any{}
	if err := json.Unmarshal(c.Payload, &body); err != nil {
		p.t.Fatal(err)
	}
	return body
}

func (p *peer) puback(c *packets.Publish, code byte) {
	p.t.Helper()
	p.send(&packets.Puback{PacketID: c.PacketID, ReasonCode: code, Properties: &packets.Properties{}})
}

// reply answers a call.
func (p *peer) reply(method string, call map[string]any, kind string, answer map[string]any) {
	p.t.Helper()
	p.publish("reply/demo/"+method, 0, map[string]any{"id": call["id"], kind: answer})
}

// run is a device that runs.
type run struct {
	*device.Device
	server   *server
	messages chan device.Message
	states   chan device.State
	cancel   context.CancelFunc
	ended    chan error
}

// start runs a device; change may set further options. The device stops with the test.
func start(t *testing.T, change func(*device.Options)) *run {
	t.Helper()
	r := &run{
		server: newServer(t), messages: make(chan device.Message, 2000), states: make(chan device.State, 1000),
		ended: make(chan error, 1),
	}
	o := device.Options{
		App: "demo", ClientKey: "ck_test", Server: "mqtt://push.test", Store: device.MemoryStore(), Dial: r.server.dial,
		OnMessage: func(ctx context.Context, m device.Message) error {
			select {
			case r.messages <- m:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		},
		OnState: func(s device.State) { r.states <- s },
	}
	if change != nil {
		change(&o)
	}
	var err error
	if r.Device, err = device.New(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	r.cancel = cancel
	go func() { r.ended <- r.Run(ctx) }()
	t.Cleanup(func() { r.stop(t) })
	return r
}

// stop ends the device and waits until it has ended.
func (r *run) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	if err := <-r.ended; err != nil && !errors.Is(err, device.ErrTakenOver) {
		t.Errorf("Run: %v", err)
	}
	r.ended <- nil // for a second stop
}

// online accepts a connection, registers the device on it and returns it subscribed.
func (r *run) online(t *testing.T) *peer {
	t.Helper()
	p := r.server.accept().peer
	p.register("token", "secret")
	p.subscribed()
	if err := r.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// again accepts a connection of the device that online has registered.
func (r *run) again(t *testing.T) *peer {
	t.Helper()
	p := r.server.accept().peer
	p.admit("token", "secret")
	p.subscribed()
	if err := r.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// message is a push as the server sends it.
func message(id string) map[string]any {
	return map[string]any{"push_id": id, "kind": "notification", "title": "Hi " + id}
}

func messageFor(id, user string) map[string]any {
	m := message(id)
	m["user"] = user
	return m
}

// pushID returns the n-th push id of a test.
func pushID(n int) string { return fmt.Sprintf("01935f3e-0000-7000-8000-%012d", n) }
