package session_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/halleypush/halley/pkg/token"
	"github.com/halleypush/halley/services/gateway/internal/mqtt"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

var limits = session.Limits{MaxPacket: 16 << 10, Rate: 50, Burst: 200}

// app has short times, so that tests need not count in minutes.
func newApp(t testing.TB) *session.App {
	t.Helper()
	keys, err := token.Derive(make([]byte, token.MasterSize), 'a', 7)
	if err != nil {
		t.Fatal(err)
	}
	codec, err := token.NewCodec(7, keys)
	if err != nil {
		t.Fatal(err)
	}
	return &session.App{
		ID: "demo", Number: 7, Codec: codec, KeepAlive: 270, KeepAliveMin: 30, KeepAliveMax: 600, AckTimeout: 10 * time.Second,
	}
}

// rig is a session with a host that only takes notes.
type rig struct {
	session.Session
	out    session.Output
	begun  time.Time
	now    time.Duration
	client byte // the version that it speaks
	// actions is what the session asked for since the last look, packets what it said.
	actions []session.Action
	packets []packets.Packet
}

// newRig begins a session and checks its CONNACK.
func newRig(t testing.TB, c mqtt.Connect) *rig {
	t.Helper()
	r := newRigFor(t, newApp(t), c)
	r.wantPackets(t, packets.Connack)
	return r
}

func newRigFor(t testing.TB, app *session.App, c mqtt.Connect) *rig {
	t.Helper()
	if c.ReceiveMaximum == 0 {
		c.ReceiveMaximum = 65535
	}
	r := &rig{client: c.Version, begun: time.Now()}
	r.out.Pool = &session.Pool{}
	r.Session = session.New(session.Start{App: app, Ordinal: 12, Number: 3, Generation: 1, Connect: &c}, limits, r.clock(), &r.out)
	r.settle(t)
	return r
}

// newOpenRig begins a session of MQTT 5 that is open and receives.
func newOpenRig(t testing.TB) *rig {
	t.Helper()
	r := newRig(t, mqtt.Connect{Version: mqtt.V5})
	r.subscribe(t, 1, "push/demo")
	r.wantPackets(t, packets.Suback)
	r.wantActions(t, session.DoOpen)
	r.OnOpened(&r.out, r.clock(), false, nil, false)
	r.settle(t)
	return r
}

func (r *rig) clock() session.Clock { return session.Clock{Since: r.now, Now: r.begun.Add(r.now)} }

// settle moves what the session wants to the notes.
func (r *rig) settle(t testing.TB) {
	t.Helper()
	r.actions = append(r.actions, r.out.Actions...)
	in := r.out.Bytes
	for len(in) > 0 {
		p, n, err := mqtt.Next(in, 1<<28)
		if err != nil || n == 0 {
			t.Fatalf("the session said something that is no packet: % X", in)
		}
		r.packets = append(r.packets, read(t, p, r.client))
		in = in[n:]
	}
	r.out.Reset()
}

// read decodes a packet with another codec than the session's.
func read(t testing.TB, p mqtt.Packet, version byte) packets.Packet {
	t.Helper()
	got := packets.Packet{ProtocolVersion: version}
	if err := got.FixedHeader.Decode(p.First); err != nil {
		t.Fatal(err)
	}
	got.FixedHeader.Remaining = len(p.Body)
	body := bytes.Clone(p.Body)
	var err error
	switch p.Type() {
	case packets.Connack:
		err = got.ConnackDecode(body)
	case packets.Publish:
		err = got.PublishDecode(body)
	case packets.Puback:
		err = got.PubackDecode(body)
	case packets.Suback:
		err = got.SubackDecode(body)
	case packets.Unsuback:
		err = got.UnsubackDecode(body)
	case packets.Disconnect:
		err = got.DisconnectDecode(body)
	}
	if err != nil {
		t.Fatalf("the session said % X: %v", p.Body, err)
	}
	return got
}

// send gives the session a packet of the client.
func (r *rig) send(t testing.TB, p packets.Packet) {
	t.Helper()
	r.input(t, encode(t, p, r.client))
}

func (r *rig) input(t testing.TB, data []byte) {
	t.Helper()
	r.Input(&r.out, r.clock(), limits, data)
	r.settle(t)
}

func encode(t testing.TB, p packets.Packet, version byte) []byte {
	t.Helper()
	p.ProtocolVersion, p.Mods.AllowResponseInfo = version, true
	var buf bytes.Buffer
	var err error
	switch p.FixedHeader.Type {
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
	default:
		t.Fatalf("packet type %d", p.FixedHeader.Type)
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func (r *rig) subscribe(t testing.TB, qos byte, topics ...string) {
	t.Helper()
	r.send(t, filters(packets.Subscribe, qos, topics...))
}

func filters(kind, qos byte, topics ...string) packets.Packet {
	p := packets.Packet{FixedHeader: packets.FixedHeader{Type: kind, Qos: 1}, PacketID: 9}
	for _, topic := range topics {
		p.Filters = append(p.Filters, packets.Subscription{Filter: topic, Qos: qos})
	}
	return p
}

func (r *rig) publish(t testing.TB, id uint16, topic, payload string) {
	t.Helper()
	r.send(t, publishOf(id, topic, payload))
}

func publishOf(id uint16, topic, payload string) packets.Packet {
	p := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish}, TopicName: topic, Payload: []byte(payload), PacketID: id}
	if id > 0 {
		p.FixedHeader.Qos = 1
	}
	return p
}

func (r *rig) ack(t testing.TB, id uint16) {
	t.Helper()
	r.send(t, packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: id})
}

func (r *rig) deliver(t testing.TB, m *session.Message) session.Result {
	t.Helper()
	result := r.Deliver(&r.out, r.clock(), m, "", false)
	r.settle(t)
	return result
}

// tick lets time pass, and what is due be done, as a host does: never later than the session asked for.
func (r *rig) tick(t testing.TB, d time.Duration) {
	t.Helper()
	for end := r.now + d; r.now < end; {
		next := min(r.Tick(&r.out, r.clock()), r.DueSooner())
		r.settle(t)
		r.now += max(min(next, end-r.now), time.Millisecond)
	}
	r.Tick(&r.out, r.clock())
	r.settle(t)
}

// wantActions checks what the session asked for since the last look, and forgets it.
func (r *rig) wantActions(t testing.TB, want ...session.Kind) []session.Action {
	t.Helper()
	got := r.actions
	r.actions = nil
	same := len(got) == len(want)
	for i := 0; same && i < len(got); i++ {
		same = got[i].Kind == want[i]
	}
	if !same {
		t.Fatalf("actions %+v, want kinds %v", got, want)
	}
	return got
}

// wantPackets checks what the session said since the last look, and forgets it.
func (r *rig) wantPackets(t testing.TB, want ...byte) []packets.Packet {
	t.Helper()
	got := r.packets
	r.packets = nil
	var kinds, wanted []string
	for _, p := range got {
		kinds = append(kinds, packets.PacketNames[p.FixedHeader.Type])
	}
	for _, w := range want {
		wanted = append(wanted, packets.PacketNames[w])
	}
	if a, b := strings.Join(kinds, " "), strings.Join(wanted, " "); a != b {
		t.Fatalf("the session said [%s], want [%s]", a, b)
	}
	return got
}

// wantClosed checks that the session was closed for a reason, and that an MQTT 5 client was told a code.
func (r *rig) wantClosed(t testing.TB, reason session.Reason, code byte) {
	t.Helper()
	if got := r.wantActions(t, session.DoClose)[0].Reason; got != reason {
		t.Errorf("closed as %v, want %v", got, reason)
	}
	if r.client != mqtt.V5 || code == 0 {
		r.wantPackets(t)
		return
	}
	if got := r.wantPackets(t, packets.Disconnect)[0].ReasonCode; got != code {
		t.Errorf("told 0x%02X, want 0x%02X", got, code)
	}
}

// newMessage makes a message that holds for an hour. Later ones have greater ids.
func newMessage(r *rig, n byte) *session.Message {
	id := uuid.UUID{0: 1, 15: n}
	m := session.NewMessage("demo", id, []byte(`{"push_id":"`+id.String()+`"}`))
	m.QoS, m.Notification, m.Expires = 1, true, r.clock().Now.Add(time.Hour).UnixMilli()
	return m
}
