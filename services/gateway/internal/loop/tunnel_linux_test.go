package loop

import (
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"
	"golang.org/x/sys/unix"

	tokens "github.com/halleypush/halley/pkg/token"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway/internal/gate"
	"github.com/halleypush/halley/services/gateway/internal/mqtt"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

// coach is a loop that a test turns, with a connection of the app demo that carries a device of the app b. It answers in
// place of the door and of pushcore.
type coach struct {
	parts
	loop  *Loop
	host  Ref
	fd    int // the phone's end
	apps  map[string]*session.App
	calls []Answered
	said  []byte // by the gateway, since it was looked at last
}

func (c *coach) Admit(connect *mqtt.Connect, _ netip.Addr, _ Ticket) (Admission, bool) {
	app := c.apps[connect.Username]
	if app == nil {
		return Admission{Refuse: mqtt.NotAuthorized, Field: "app"}, true
	}
	return Admission{App: app, Ordinal: uint64(app.Number)}, true
}

func (c *coach) Call(a Call) {
	c.calls = append(c.calls, Answered{a.Ref, a.Seq, session.Answer{OK: len(a.JSON)%2 == 0, JSON: []byte(`{}`)}})
}

func newCoach(t *testing.T) *coach {
	t.Helper()
	c := &coach{apps: map[string]*session.App{}}
	for n, id := range []string{"demo", "b", "c"} {
		number := uint32(7 + n)
		keys, err := tokens.Derive(make([]byte, tokens.MasterSize), 'a', number)
		if err != nil {
			t.Fatal(err)
		}
		codec, err := tokens.NewCodec(number, keys)
		if err != nil {
			t.Fatal(err)
		}
		c.apps[id] = &session.App{ID: id, Number: number, Codec: codec, KeepAlive: 270, KeepAliveMax: 600, AckTimeout: time.Minute}
	}
	set, err := NewSet(Config{
		Loops: 1, Limits: session.Limits{MaxPacket: 16 << 10, Rate: 1e6, Burst: 1e6}, UserTimeout: time.Minute,
	}, Parts{
		Door: c, Gate: gate.New(gate.Limits{}, nil), Core: c, Receipts: c,
		Metrics: NewMetrics(prometheus.NewRegistry()), Traces: NewTraces(noop.NewTracerProvider()), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	c.loop, c.fd = set.loops[0], pair[1]
	t.Cleanup(func() {
		for i := range c.loop.conns.len() {
			c.loop.close(i, session.ByPeer)
		}
		_ = unix.Close(c.fd)
		_ = set.closePollers()
	})
	c.loop.tick()
	c.loop.begin(arrival{fd: int32(pair[0]), port: &Port{}})
	var i int32
	for c.loop.conns.at(i).state != stateHello {
		i++
	}
	c.host = c.loop.ref(i)
	c.loop.settle(i, &move{
		fd: int32(pair[0]), connect: &mqtt.Connect{Version: mqtt.V5, ReceiveMaximum: 128},
		admission: Admission{App: c.apps["demo"], Ordinal: 7},
	})
	c.hear(subscribe(1, "push/demo", "reply/demo/+"))
	c.hear(publish(2, "call/demo/attach", `{"app":"b","token":"t","secret":"s"}`))
	c.hear(subscribe(3, "push/b", "reply/b/+"))
	for app, n := range map[string]uint64{"demo": 7, "b": 8} {
		m := session.NewMessage(app, uuid.New(), []byte(`{"push_id":"x","kind":"notification","title":"Hi"}`))
		m.QoS, m.Expires = 1, time.Now().Add(time.Hour).UnixMilli()
		i, _ := c.loop.index.find(uint32(n), n)
		to := Target{App: uint32(n), Ordinal: n, Session: c.loop.conns.at(i).session.Number, Message: m}
		if got := c.loop.deliver(&to); got != gatewayv1.DeliverResponse_TAKEN {
			t.Fatalf("a message for %s is %v", app, got)
		}
	}
	c.turn()
	return c
}

// hear has the loop take what the phone says, if it is still listened to.
func (c *coach) hear(data []byte) {
	if conn := c.loop.get(c.host); conn != nil && conn.state == stateLive && !conn.stalled {
		c.loop.feed(c.host.index, data)
	}
	c.turn()
}

// turn does what is to be done, until nothing is.
func (c *coach) turn() {
	for {
		c.loop.readMail()
		c.loop.flushReceipts()
		opens, calls := c.opens, c.calls
		c.opens, c.calls = nil, nil
		for _, o := range opens {
			opened{{Ref: o.Ref, Session: o.Session, Status: gatewayv1.Opened_OPEN}}.run(c.loop)
		}
		answered(calls).run(c.loop)
		var buf [4096]byte
		for n, err := unix.Read(c.fd, buf[:]); err == nil && n > 0; n, err = unix.Read(c.fd, buf[:]) {
			c.said = append(c.said, buf[:n]...)
		}
		if len(opens)+len(calls)+len(c.loop.mail)+len(c.opens)+len(c.calls) == 0 {
			return
		}
	}
}

// check fails the test if the gateway said anything but whole packets, or named a message as another device's.
func (c *coach) check(t *testing.T, lanes map[string]uint16) (kinds map[byte]int) {
	t.Helper()
	kinds = map[byte]int{}
	for len(c.said) > 0 {
		p, n, err := mqtt.Next(c.said, 1<<20)
		if err != nil || n == 0 {
			t.Fatalf("the gateway says % X: %v", c.said, err)
		}
		c.said = c.said[n:]
		kinds[p.Type()]++
		if p.Type() != mqtt.PUBLISH || p.First&0x06 == 0 {
			continue
		}
		size := binary.BigEndian.Uint16(p.Body)
		topic, id := string(p.Body[2:2+size]), binary.BigEndian.Uint16(p.Body[2+size:])
		app := strings.Split(topic, "/")[1]
		if lane, known := lanes[app]; known && id>>session.IDBits != lane || id&(1<<session.IDBits-1) == 0 {
			t.Fatalf("%s has packet identifier 0x%04X", topic, id)
		}
	}
	return kinds
}

func packet(first byte, body []byte) []byte {
	if len(body) < 128 {
		return append([]byte{first, byte(len(body))}, body...)
	}
	return append([]byte{first, byte(len(body)) | 0x80, byte(len(body) >> 7)}, body...)
}

func text(s string) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...) }

func publish(id uint16, topic, payload string) []byte {
	body := append(binary.BigEndian.AppendUint16(text(topic), id), 0) // no properties
	return packet(0x32, append(body, payload...))
}

func subscribe(id uint16, topics ...string) []byte {
	body := append(binary.BigEndian.AppendUint16(nil, id), 0)
	for _, topic := range topics {
		body = append(append(body, text(topic)...), 1)
	}
	return packet(0x82, body)
}

func puback(id uint16) []byte { return packet(0x40, binary.BigEndian.AppendUint16(nil, id)) }

// Whatever a client says on a connection that carries several devices, the gateway answers with whole packets, each
// message named as its device's, and does not fall.
func FuzzSharedConnection(f *testing.F) {
	const lane = 1 << session.IDBits
	attach, detach := `{"app":"c","token":"t","secret":"s"}`, `{"app":"b"}`
	for _, seed := range [][]byte{
		puback(1), puback(lane | 1), puback(7*lane | 1), packet(0x40, []byte{0x20}), packet(0x40, nil),
		{0xC0, 0},
		publish(9, "event/b", `{}`), publish(9, "call/b/bind", `{"user":"alice"}`), publish(9, "call/b/attach", attach), publish(0, "event/b", ""),
		publish(9, "call/demo/attach", attach), publish(9, "call/demo/detach", detach), packet(0x34, text("event/b")), packet(0x32, []byte{0xFF}),
		append(publish(9, "call/demo/detach", detach), puback(lane|1)...),
		append(publish(9, "call/demo/detach", detach), publish(10, "call/demo/attach", strings.Replace(attach, "c", "b", 1))...),
		append(publish(9, "call/demo/attach", attach), subscribe(10, "push/c", "reply/c/+")...),
		subscribe(9, "reply/b/bind", "push/demo"), packet(0xA2, append([]byte{0, 9, 0}, text("push/b")...)), packet(0xE0, nil),
		{0x32, 0xFF, 0xFF, 0xFF, 0xFF},
	} {
		f.Add(seed, uint64(0))
		f.Add(append(seed, puback(1)...), uint64(1))
	}
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		c := newCoach(t)
		if kinds := c.check(t, map[string]uint16{"demo": 0, "b": 1}); kinds[mqtt.PUBLISH] != 3 || kinds[mqtt.SUBACK] != 2 {
			t.Fatalf("before anything else the gateway says %v", kinds)
		}
		sizes := rand.New(rand.NewPCG(seed, 0))
		for len(data) > 0 {
			n := 1 + sizes.IntN(len(data))
			c.hear(data[:n])
			data = data[n:]
		}
		c.check(t, map[string]uint16{"demo": 0}) // the others may have been attached anew
		if c.loop.get(c.host) == nil {
			if sessions := c.loop.set.metrics.Sessions(); sessions != 0 {
				t.Fatalf("%d sessions outlive their connection", sessions)
			}
		}
	})
}

// What an attached session writes is made by us; a mistake there must not cost the gateway.
func TestWhatIsNoPacketEndsTheAttachment(t *testing.T) {
	t.Parallel()
	c := newCoach(t)
	c.check(t, nil)
	guest := c.loop.conns.at(c.host.index).rest.tunnel.riders[1].ref
	c.loop.conns.at(guest.index).rest.ride.ferry([]byte{0x32, 0xFF})
	c.turn()
	if c.loop.get(guest) != nil || c.loop.get(c.host) == nil {
		t.Errorf("the guest is there: %v, the host: %v", c.loop.get(guest) != nil, c.loop.get(c.host) != nil)
	}
	if kinds := c.check(t, nil); kinds[mqtt.PUBLISH] != 1 || len(kinds) != 1 { // that the guest's session has ended
		t.Errorf("the phone hears %v", kinds)
	}
}
