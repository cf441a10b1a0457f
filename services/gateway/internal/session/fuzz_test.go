package session_test

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/halleypush/halley/services/gateway/internal/mqtt"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

// maxAnswer bounds what a session may say to one input of fuzzing's size: it must not be made to say more than it is told.
const maxAnswer = 1 << 20

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

func FuzzConnect(f *testing.F) {
	for _, c := range packets.TPacketData[packets.Connect] {
		f.Add(c.RawBytes, uint64(1))
	}
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
			if who != nil && (closes(asked) || who.Username == "" || who.Password == "") {
				t.Fatalf("believed and refused, or without a name: %+v", who)
			}
			return said, who
		}
		said, who := run(nil)
		saidToo, whoToo := run(rand.New(rand.NewPCG(seed, 0)))
		if !bytes.Equal(said, saidToo) || !reflect.DeepEqual(who, whoToo) {
			t.Fatalf("in pieces it is %+v and % X, at once %+v and % X", whoToo, saidToo, who, said)
		}
	})
}

func FuzzSession(f *testing.F) {
	for _, kind := range []byte{packets.Publish, packets.Puback, packets.Subscribe, packets.Unsubscribe, packets.Pingreq, packets.Disconnect} {
		for _, c := range packets.TPacketData[kind] {
			f.Add(c.RawBytes, uint64(1), true)
			f.Add(c.RawBytes, uint64(2), false)
		}
	}
	subscribe := encode(f, filters(packets.Subscribe, 1, "push/demo", "reply/demo/+"), mqtt.V5)
	f.Add(append(subscribe, encode(f, publishOf(3, "call/demo/bind", `{"user":"alice"}`), mqtt.V5)...), uint64(3), true)
	f.Add(append(subscribe, encode(f, publishOf(3, "event/demo", `[{"push_id":"x","type":"shown"}]`), mqtt.V5)...), uint64(4), true)
	app := newApp(f)
	f.Fuzz(func(t *testing.T, data []byte, seed uint64, v5 bool) {
		connect := &mqtt.Connect{Version: mqtt.V311, ReceiveMaximum: 8}
		if v5 {
			connect.Version = mqtt.V5
		}
		begun := time.Now()
		clock := session.Clock{Now: begun}
		run := func(sizes *rand.Rand) ([]byte, []session.Action, int) {
			out := session.Output{Pool: &session.Pool{}}
			s := session.New(session.Start{App: app, Ordinal: 1, Number: 1, Generation: 1, Connect: connect}, limits, clock, &out)
			closed := false
			said, asked := feed(data, sizes, func(out *session.Output, data []byte) int {
				if closed {
					return len(data)
				}
				used := s.Input(out, clock, limits, data)
				if used < 0 || used > len(data) {
					t.Fatalf("%d of %d bytes used", used, len(data))
				}
				closed = closes(out.Actions)
				if n := s.InFlight(); n > 8 {
					t.Fatalf("%d packets in flight", n)
				}
				return used
			})
			return said, asked, s.InFlight()
		}
		said, asked, flights := run(nil)
		saidToo, askedToo, flightsToo := run(rand.New(rand.NewPCG(seed, 0)))
		if !bytes.Equal(said, saidToo) || !reflect.DeepEqual(asked, askedToo) || flights != flightsToo {
			t.Fatalf("in pieces it says % X and asks %+v, at once % X and %+v", saidToo, askedToo, said, asked)
		}
		if len(said) > maxAnswer {
			t.Fatalf("%d bytes said to %d", len(said), len(data))
		}
	})
}
