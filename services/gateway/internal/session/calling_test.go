package session_test

import (
	"fmt"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/halleypush/halley/services/gateway/internal/session"
)

// maxCalling is how many calls the phone of a world has under way; a session takes more.
const maxCalling = 8

// calling is what a phone calls on one connection, among its pushes.
type calling struct {
	replies        bool             // it has subscribed to its replies
	called         int              // how many times
	unanswered     map[int]bool     // calls by number, which their replies carry
	unacknowledged map[uint16]bool  // PUBLISH packets by identifier
	calls          []session.Action // that pushcore has not answered
}

// call has the phone call something, at QoS 1 or 0.
func (w *world) call(qos0 bool) {
	if !w.replies {
		w.calling = calling{replies: true, unanswered: map[int]bool{}, unacknowledged: map[uint16]bool{}}
		if w.say(filters(packets.Subscribe, 1, "reply/demo/+")); w.rig == nil {
			return
		}
	}
	if len(w.unanswered) == maxCalling {
		return
	}
	w.called++
	w.unanswered[w.called] = true
	var id uint16
	if !qos0 {
		id = uint16(1 + w.called%100)
		w.unacknowledged[id] = true
	}
	w.say(publishOf(id, "call/demo/tags", fmt.Sprintf(`{"id":%d}`, w.called)))
}

// answerCall brings pushcore's answer to the oldest call.
func (w *world) answerCall() {
	if w.rig == nil || len(w.calls) == 0 {
		return
	}
	seq := w.calls[0].Seq
	w.calls = w.calls[1:]
	w.rig.OnAnswer(&w.rig.out, w.clock(), seq, session.Answer{OK: true, JSON: []byte("{}")})
	w.settle()
}

// receiveReply is the phone's: it checks the reply to a call.
func (w *world) receiveReply(p packets.Packet) {
	var n int
	if _, err := fmt.Sscanf(string(p.Payload), `{"id":%d,`, &n); err != nil || !w.unanswered[n] {
		w.t.Fatalf("on %s came %s, which answers no call", p.TopicName, p.Payload)
	}
	delete(w.unanswered, n)
	if p.FixedHeader.Qos > 0 {
		w.fly(p.PacketID, nil)
	}
}

// receiveAck is the phone's: it checks the PUBACK to a call.
func (w *world) receiveAck(p packets.Packet) {
	if !w.unacknowledged[p.PacketID] {
		w.t.Fatalf("PUBACK %d acknowledges nothing", p.PacketID)
	}
	delete(w.unacknowledged, p.PacketID)
}
