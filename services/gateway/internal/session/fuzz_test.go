package session_test

import (
	"bytes"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/halleypush/halley/services/gateway/internal/mqtt"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

// maxAnswer bounds what a session says at once to a byte that it is told: nobody can make it say much with little.
const maxAnswer = 64

// feed gives a host's session input in pieces, as a socket would, and returns all that it said and asked for.
func feed(input []byte, sizes *rand.Rand, take func(out *session.Output, data []byte) (used int)) (said []byte, asked []session.Action) {
	var out session.Output
	out.Pool = &session.Pool{}
	var rest []byte
	for len(input) > 0 {
		n := len(input)
		if sizes != nil {
			n = 1 + sizes.IntN(len(input))
		}
		rest = append(rest, input[:n]...)
		input = input[n:]
		used := take(&out, rest)
		rest = rest[used:]
		said, asked = append(said, out.Bytes...), append(asked, out.Actions...)
		out.Reset()
	}
	return said, asked
}

func closes(asked []session.Action) bool {
	for _, a := range asked {
		if a.Kind == session.DoClose {
			return true
		}
	}
	return false
}

// MQTT 5: 3.1.2-24, 3.1.4-5, 3.2.0-1, 3.2.0-2, 3.2.2-1, 3.2.2-6, 3.2.2-8, 3.14.0-1
// MQTT 3.1.1: 3.2.0-1, 3.2.2-4
func FuzzConnect(f *testing.F) {
	for _, c := range packets.TPacketData[packets.Connect] {
		f.Add(c.RawBytes, uint64(1))
	}
	f.Add(connectOf(1000, "p"), uint64(1))
	f.Add(connectOf(7, ""), uint64(1))
	app := newApp(f)
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		run := func(sizes *rand.Rand) (said []byte, who *mqtt.Connect) {
			var hello session.Unidentified
			done := false
			said, asked := feed(data, sizes, func(out *session.Output, data []byte) int {
				if done {
					return len(data)
				}
				c, used, _ := hello.Input(out, limits, data)
				done = c != nil || closes(out.Actions)
				if c != nil {
					who = c
				}
				return used
			})
			if who != nil && (len(said) > 0 || closes(asked) || who.Username == "" || who.Password == "") {
				t.Fatalf("believed and refused, or without a name: %+v", who)
			}
			if len(said) > 0 {
				if !closes(asked) {
					t.Fatal("it refuses and does not close")
				}
				wantConnack(t, said, false)
			}
			return said, who
		}
		said, who := run(nil)
		saidToo, whoToo := run(rand.New(rand.NewPCG(seed, 0)))
		if !bytes.Equal(said, saidToo) || !reflect.DeepEqual(who, whoToo) {
			t.Fatalf("in pieces it is %+v and % X, at once %+v and % X", whoToo, saidToo, who, said)
		}
		if who == nil {
			return
		}
		var out session.Output
		session.New(session.Start{App: app, Ordinal: 1, Number: 1, Connect: who}, limits, session.Clock{}, &out)
		switch {
		case who.MaximumPacketSize > 0 && len(out.Bytes) > int(who.MaximumPacketSize):
			t.Fatalf("a client that takes %d bytes is sent %d", who.MaximumPacketSize, len(out.Bytes))
		case closes(out.Actions) != (len(out.Bytes) == 0):
			t.Fatalf("closed %t, said % X", closes(out.Actions), out.Bytes)
		case len(out.Bytes) > 0:
			wantConnack(t, out.Bytes, true)
		}
	})
}

// wantConnack checks that what was said is one CONNACK, with Session Present 0 and a code of the standard's table, and nothing
// else: no DISCONNECT either.
func wantConnack(t *testing.T, said []byte, yes bool) {
	t.Helper()
	p, n, err := mqtt.Next(said, 1<<28)
	if err != nil || n != len(said) || p.First != mqtt.CONNACK<<4 || len(p.Body) < 2 || p.Body[0] != 0 {
		t.Fatalf("said % X, which is no CONNACK (%v)", said, err)
	}
	codes, version := []byte{1, 2, 3, 4, 5}, mqtt.V311
	if len(p.Body) > 2 {
		version = mqtt.V5
		codes = []byte{
			0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
		}
	}
	if code := read(t, p, version).ReasonCode; yes != (code == 0) || !yes && !slices.Contains(codes, code) {
		t.Fatalf("CONNACK with 0x%02X", code)
	}
}

// fuzzed is a session under fuzzing, in one of the states that a client can meet.
type fuzzed struct {
	session.Session
	clock  session.Clock
	begun  []byte // what it said before the input
	window int
}

// newFuzzed makes a session that is new, or open with some messages in flight, whose identifiers are 1 to 5.
func newFuzzed(app *session.App, v5, open bool) *fuzzed {
	f := &fuzzed{clock: session.Clock{Now: time.UnixMilli(1732330000000)}, window: 8}
	connect := &mqtt.Connect{Version: mqtt.V311, ReceiveMaximum: uint16(f.window)}
	if v5 {
		connect.Version = mqtt.V5
	}
	if open {
		connect.User = []mqtt.UserProperty{{Name: "deliver", Value: "now"}}
	}
	out := session.Output{Pool: &session.Pool{}}
	f.Session = session.New(session.Start{App: app, Ordinal: 1, Number: 1, Generation: 1, Connect: connect}, limits, f.clock, &out)
	if open {
		f.OnOpened(&out, f.clock, false, nil, false)
		for n := range byte(5) {
			m := session.NewMessage("demo", uuid.UUID{15: n}, []byte("{}"))
			m.QoS, m.Audience, m.Expires = 1, n%2 == 0, math.MaxInt64
			f.Deliver(&out, f.clock, m, "", false)
		}
	}
	f.begun = out.Bytes
	return f
}

// run feeds the session and returns all that it said and asked for.
func (f *fuzzed) run(t *testing.T, data []byte, sizes *rand.Rand) ([]byte, []session.Action) {
	t.Helper()
	closed := false
	said, asked := feed(data, sizes, func(out *session.Output, data []byte) int {
		if closed {
			return len(data)
		}
		used := f.Input(out, f.clock, limits, data)
		if used < 0 || used > len(data) {
			t.Fatalf("%d of %d bytes used", used, len(data))
		}
		closed = closes(out.Actions)
		if n := f.InFlight(); n > f.window {
			t.Fatalf("%d packets in flight", n)
		}
		return used
	})
	return said, asked
}

// answerAll opens the session and answers its calls until it has none, and returns what it said.
func (f *fuzzed) answerAll(t *testing.T, asked []session.Action) []byte {
	t.Helper()
	out := session.Output{Pool: &session.Pool{}}
	calls := 0
	for i := 0; i < len(asked); i++ {
		switch a := asked[i]; a.Kind {
		case session.DoClose:
			return nil
		case session.DoOpen:
			f.OnOpened(&out, f.clock, false, nil, false)
		case session.DoCall:
			if calls++; calls > 2*session.MaxCalls {
				t.Fatalf("%d calls", calls)
			}
			f.OnAnswer(&out, f.clock, a.Seq, session.Answer{OK: true, JSON: []byte("{}")})
		}
		asked = append(asked, out.Actions...)
		out.Actions = nil
	}
	if f.Stalled() {
		t.Fatal("stalled, although every call is answered")
	}
	return out.Bytes
}

// wantPackets checks that what was said is MQTT.
func wantPackets(t *testing.T, said []byte) {
	t.Helper()
	for len(said) > 0 {
		_, n, err := mqtt.Next(said, 1<<28)
		if err != nil || n == 0 {
			t.Fatalf("the session said something that is no packet: % X", said)
		}
		said = said[n:]
	}
}

func FuzzSession(f *testing.F) {
	for _, kind := range []byte{packets.Publish, packets.Puback, packets.Subscribe, packets.Unsubscribe, packets.Pingreq, packets.Disconnect} {
		for i, c := range packets.TPacketData[kind] {
			f.Add(c.RawBytes, uint64(1), i%2 == 0, i%3 == 0)
		}
	}
	for _, version := range []byte{mqtt.V311, mqtt.V5} {
		v5 := version == mqtt.V5
		subscribe := encode(f, filters(packets.Subscribe, 1, "push/demo", "reply/demo/+"), version)
		call := encode(f, publishOf(3, "call/demo/bind", `{"user":"alice","id":7}`), version)
		event := encode(f, publishOf(4, "event/demo", `[{"push_id":"x","type":"shown"}]`), version)
		ack := encode(f, packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: 3}, version)
		unsubscribe := encode(f, filters(packets.Unsubscribe, 0, "push/demo"), version)
		for _, seed := range [][][]byte{{subscribe, call, event}, {call, call, event}, {ack, ack, event}, {unsubscribe, subscribe}} {
			f.Add(bytes.Join(seed, nil), uint64(2), v5, true)
			f.Add(bytes.Join(seed, nil), uint64(3), v5, false)
		}
	}
	app := newApp(f)
	f.Fuzz(func(t *testing.T, data []byte, seed uint64, v5, open bool) {
		whole, pieces := newFuzzed(app, v5, open), newFuzzed(app, v5, open)
		said, asked := whole.run(t, data, nil)
		saidToo, askedToo := pieces.run(t, data, rand.New(rand.NewPCG(seed, 0)))
		if !bytes.Equal(said, saidToo) || !reflect.DeepEqual(asked, askedToo) || whole.InFlight() != pieces.InFlight() {
			t.Fatalf("in pieces it says % X and asks %+v, at once % X and %+v", saidToo, askedToo, said, asked)
		}
		if len(said) > maxAnswer*(1+len(data)) {
			t.Fatalf("%d bytes said to %d", len(said), len(data))
		}
		wantPackets(t, slices.Concat(whole.begun, said, whole.answerAll(t, asked)))
	})
}
