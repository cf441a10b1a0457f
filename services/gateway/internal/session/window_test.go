package session_test

import (
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/halleypush/halley/services/gateway/internal/mqtt"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

func TestAWindowMayBeFullForAMinute(t *testing.T) {
	t.Parallel()
	app := newApp(t)
	app.AckTimeout = time.Minute // so that a single message may take three
	begin := func(t *testing.T, messages int) (*rig, []packets.Packet) {
		t.Helper()
		r := newRigFor(t, app, mqtt.Connect{Version: mqtt.V5, ReceiveMaximum: 4})
		r.subscribe(t, 1, "push/demo")
		r.OnOpened(&r.out, r.clock(), false, nil, false)
		r.settle(t)
		for n := range messages {
			r.deliver(t, newMessage(r, byte(n)))
			r.tick(t, time.Second)
		}
		sent := r.packets[2:] // behind CONNACK and SUBACK
		r.packets, r.actions = nil, nil
		return r, sent
	}
	wantOpen := func(t *testing.T, r *rig) {
		t.Helper()
		for _, a := range r.actions {
			if a.Kind == session.DoClose {
				t.Fatalf("closed as %v", a.Reason)
			}
		}
		r.actions = nil
	}
	t.Run("full", func(t *testing.T) {
		t.Parallel()
		r, _ := begin(t, 4)
		r.tick(t, 59*time.Second-time.Millisecond)
		wantOpen(t, r)
		r.tick(t, time.Millisecond)
		r.wantClosed(t, session.NoAck, 0x8D)
	})
	t.Run("an acknowledgement makes room, and another message fills it", func(t *testing.T) {
		t.Parallel()
		r, sent := begin(t, 4)
		r.tick(t, 50*time.Second)
		r.ack(t, sent[3].PacketID)
		r.deliver(t, newMessage(r, 9))
		r.packets = nil
		r.tick(t, time.Minute-time.Millisecond)
		wantOpen(t, r)
		r.tick(t, time.Millisecond)
		r.wantClosed(t, session.NoAck, 0x8D)
	})
	t.Run("not full", func(t *testing.T) {
		t.Parallel()
		r, _ := begin(t, 3)
		r.tick(t, 177*time.Second-time.Millisecond)
		wantOpen(t, r)
		r.tick(t, time.Millisecond)
		r.wantClosed(t, session.NoAck, 0x8D)
	})
}
