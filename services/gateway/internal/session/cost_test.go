package session_test

import (
	"testing"
	"time"
	"unsafe"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/halleypush/halley/services/gateway/internal/mqtt"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

// maxSession is what an idle session may cost, in bytes: one lies in every connection's slot.
const maxSession = 88

func TestAnIdleSessionIsSmall(t *testing.T) {
	t.Parallel()
	if size := unsafe.Sizeof(session.Session{}); size > maxSession {
		t.Errorf("a session has %d B, more than %d", size, maxSession)
	}
}

// wantNoAllocation counts what a hundred acts allocate once everything that is lent has been lent before.
func wantNoAllocation(t *testing.T, what string, act func()) {
	t.Helper()
	act()
	hundred := func() {
		for range 100 {
			act()
		}
	}
	if n := testing.AllocsPerRun(10, hundred); n != 0 {
		t.Errorf("%s allocates %v times in a hundred", what, n)
	}
}

func TestHotPathsAllocateNothing(t *testing.T) { //nolint:paralleltest // it counts the process's allocations
	for name, version := range map[string]byte{"MQTT 5": mqtt.V5, "MQTT 3.1.1": mqtt.V311} { //nolint:paralleltest // as above
		t.Run(name, func(t *testing.T) {
			r := newRig(t, mqtt.Connect{Version: version})
			r.subscribe(t, 1, "push/demo")
			r.OnOpened(&r.out, r.clock(), false, nil, false)
			r.settle(t)
			message := newMessage(r, 1)
			message.Audience = true // whether it was handed over before is the host's to know
			clock := r.clock()
			ack := encode(t, packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: 1}, version)
			at := len(ack) - 2
			if version == mqtt.V5 {
				at = 2
			}
			wantNoAllocation(t, "a delivery with its PUBACK", func() {
				if got := r.Deliver(&r.out, clock, message, "", true); got != session.Taken {
					t.Fatalf("the delivery is %v", got)
				}
				// The packet identifier stands behind the topic.
				copy(ack[at:at+2], idOf(r.out.Bytes))
				r.out.Reset()
				r.Input(&r.out, clock, limits, ack)
				if r.InFlight() != 0 {
					t.Fatal("not acknowledged")
				}
				r.out.Reset()
			})
			ping := encode(t, packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}}, version)
			wantNoAllocation(t, "a PINGREQ", func() {
				clock.Since += time.Second // or it would be too fast
				r.Input(&r.out, clock, limits, ping)
				if len(r.out.Bytes) != 2 {
					t.Fatal("not answered")
				}
				r.out.Reset()
			})
		})
	}
}

// idOf returns the packet identifier of a PUBLISH to push/demo, whose remaining length takes one or two bytes.
func idOf(packet []byte) []byte {
	at := 2
	if packet[1]&0x80 != 0 {
		at++
	}
	at += 2 + len("push/demo")
	return packet[at : at+2]
}
