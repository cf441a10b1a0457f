package session_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/gateway/internal/mqtt"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

// MQTT 5: 3.1.2-22
// MQTT 3.1.1: 3.1.2-24
func TestASilentClientIsClosedAfterOneAndAHalfKeepAlives(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		version byte
		asked   uint16
		seconds time.Duration
	}{
		{"MQTT 5 that names none: the app's", mqtt.V5, 0, 270},
		{"MQTT 5 in the range", mqtt.V5, 60, 60},
		{"MQTT 5 under the range", mqtt.V5, 1, 30},
		{"MQTT 5 over the range", mqtt.V5, 65535, 600},
		{"3.1.1 that names none: the longest", mqtt.V311, 0, 600},
		{"3.1.1: its own counts", mqtt.V311, 5, 5},
		{"3.1.1 over the range", mqtt.V311, 65535, 600},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, mqtt.Connect{Version: c.version, KeepAlive: c.asked})
			r.tick(t, c.seconds*time.Second)
			r.send(t, packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}})
			r.wantPackets(t, packets.Pingresp)
			r.wantActions(t, session.DoOpen) // after a second
			r.tick(t, c.seconds*1500*time.Millisecond-time.Millisecond)
			r.wantActions(t)
			r.tick(t, time.Millisecond)
			r.wantClosed(t, session.KeepAlive, 0x8D)
		})
	}
}

func TestASessionIsOpenedWhenItSubscribesCallsOrAfterASecond(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		act       func(testing.TB, *rig)
		receiving bool
	}{
		"SUBSCRIBE":     {func(t testing.TB, r *rig) { t.Helper(); r.subscribe(t, 1, "push/demo") }, true},
		"another topic": {func(t testing.TB, r *rig) { t.Helper(); r.subscribe(t, 1, "push/other") }, false},
		"a call":        {func(t testing.TB, r *rig) { t.Helper(); r.publish(t, 1, "call/demo/tags", "{}") }, false},
		"an event":      {func(t testing.TB, r *rig) { t.Helper(); r.publish(t, 1, "event/demo", "{}") }, false},
		"a second":      {func(t testing.TB, r *rig) { t.Helper(); r.tick(t, time.Second) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, mqtt.Connect{Version: mqtt.V5})
			r.tick(t, 900*time.Millisecond)
			r.wantActions(t)
			c.act(t, r)
			if got := r.wantActions(t, session.DoOpen)[0]; got.Receiving != c.receiving || got.Limit != 16 {
				t.Errorf("opened as %+v", got)
			}
			r.tick(t, 5*time.Second)
			r.wantActions(t) // once
		})
	}
}

func TestAnUnacknowledgedMessageIsReportedProbedAndGivenUp(t *testing.T) {
	t.Parallel()
	r := newOpenRig(t)
	m := newMessage(r, 1)
	if got := r.deliver(t, m); got != session.Taken {
		t.Fatalf("the delivery is %v", got)
	}
	r.wantPackets(t, packets.Publish)
	r.tick(t, 999*time.Millisecond)
	r.wantActions(t)
	r.tick(t, time.Millisecond)
	if got := r.wantActions(t, session.DoReceipt)[0]; got.Step != ledgerv1.Step_STEP_SENT || got.Message != m.ID {
		t.Errorf("reported %+v", got)
	}
	r.tick(t, 8999*time.Millisecond)
	r.wantActions(t)
	r.tick(t, time.Millisecond)
	r.wantActions(t, session.DoProbe)
	r.tick(t, 19_999*time.Millisecond)
	r.wantActions(t)
	r.tick(t, time.Millisecond)
	r.wantClosed(t, session.NoAck, 0x8D)
}

func TestEachMessageHasItsOwnClock(t *testing.T) {
	t.Parallel()
	r := newOpenRig(t)
	r.deliver(t, newMessage(r, 1))
	r.tick(t, 600*time.Millisecond)
	second := newMessage(r, 2)
	r.deliver(t, second)
	first := r.wantPackets(t, packets.Publish, packets.Publish)[0]
	r.ack(t, first.PacketID)
	r.wantActions(t, session.DoReceipt)
	r.tick(t, 999*time.Millisecond)
	r.wantActions(t)
	r.tick(t, time.Millisecond)
	if got := r.wantActions(t, session.DoReceipt)[0]; got.Message != second.ID || got.Step != ledgerv1.Step_STEP_SENT {
		t.Errorf("reported %+v", got)
	}
}

// MQTT 5: 3.1.2-24, 3.1.2-25
func TestAMessageLargerThanTheClientTakesIsNotSentToIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, mqtt.Connect{Version: mqtt.V5, MaximumPacketSize: 80})
	r.subscribe(t, 1, "push/demo")
	r.OnOpened(&r.out, r.clock(), false, nil, false)
	r.settle(t)
	r.wantPackets(t, packets.Suback)
	r.wantActions(t, session.DoOpen)
	if got := r.deliver(t, newMessage(r, 1)); got != session.TakenUnconfirmed {
		t.Errorf("the delivery is %v", got)
	}
	r.wantPackets(t)
	if got := r.wantActions(t, session.DoReceipt)[0]; got.Step != ledgerv1.Step_STEP_SENT_UNCONFIRMED {
		t.Errorf("reported %+v", got)
	}
}

// MQTT 5: 3.3.2-6
func TestTheExpiryThatTheClientIsToldIsRoundedUp(t *testing.T) {
	t.Parallel()
	r := newOpenRig(t)
	for name, c := range map[string]struct {
		left time.Duration
		told uint32
		want session.Result
	}{
		"plenty":              {90 * time.Second, 90, session.Taken},
		"part of a second":    {1500 * time.Millisecond, 2, session.Taken},
		"the last of it":      {time.Millisecond, 1, session.Taken},
		"nothing":             {0, 0, session.Over},
		"longer than MQTT is": {200 * 365 * 24 * time.Hour, 1<<32 - 1, session.Taken},
	} {
		m := newMessage(r, byte(len(name)))
		m.Expires = r.clock().Now.Add(c.left).UnixMilli()
		r.begun = time.UnixMilli(r.begun.UnixMilli()) // whole milliseconds, like Expires
		if got := r.deliver(t, m); got != c.want {
			t.Errorf("%s: the delivery is %v, want %v", name, got, c.want)
		}
		if c.want == session.Taken {
			if got := r.wantPackets(t, packets.Publish)[0].Properties.MessageExpiryInterval; got != c.told {
				t.Errorf("%s: told %d s, want %d", name, got, c.told)
			}
		}
	}
}

func TestACallThatPushcoreIsNotThereForIsAnsweredAndAnEventLeftToTheDevice(t *testing.T) {
	t.Parallel()
	r := newRig(t, mqtt.Connect{Version: mqtt.V5})
	r.subscribe(t, 0, "reply/demo/+")
	r.publish(t, 1, "call/demo/tags", `{"id":1}`)
	r.publish(t, 2, "event/demo", `{}`)
	r.wantPackets(t, packets.Suback)
	r.wantActions(t, session.DoOpen)
	r.tick(t, 9*time.Second)
	r.wantPackets(t)
	r.tick(t, time.Second)
	got := r.wantPackets(t, packets.Puback, packets.Publish)
	if got[0].PacketID != 1 || !strings.HasPrefix(string(got[1].Payload), `{"id":1,"error":{"code":"UNAVAILABLE"`) {
		t.Errorf("answered %d: %s", got[0].PacketID, got[1].Payload)
	}
	r.tick(t, 50*time.Second)
	r.wantPackets(t) // the event is forgotten without a word
	r.OnOpened(&r.out, r.clock(), false, nil, false)
	r.settle(t)
	r.wantActions(t)
}

func TestCallsThatWaitedGoOutWhenTheSessionIsOpen(t *testing.T) {
	t.Parallel()
	r := newRig(t, mqtt.Connect{Version: mqtt.V5})
	r.publish(t, 1, "call/demo/bind", `{"user":"a"}`)
	r.publish(t, 2, "call/demo/tags", `{}`)
	r.publish(t, 3, "event/demo", `[]`)
	r.publish(t, 3, "event/demo", `[]`) // the same again
	r.wantActions(t, session.DoOpen)
	r.OnOpened(&r.out, r.clock(), false, nil, false)
	r.settle(t)
	calls := r.wantActions(t, session.DoCall, session.DoCall)
	if calls[0].Method != "bind" || string(calls[0].JSON) != `{"user":"a"}` || calls[1].Method != "events" {
		t.Fatalf("called %+v", calls)
	}
	r.OnAnswer(&r.out, r.clock(), calls[1].Seq, session.Answer{OK: true, JSON: []byte(`{}`)})
	r.OnAnswer(&r.out, r.clock(), calls[1].Seq, session.Answer{OK: true, JSON: []byte(`{}`)}) // nobody asked
	r.OnAnswer(&r.out, r.clock(), calls[0].Seq, session.Answer{OK: true, JSON: []byte(`{}`)})
	r.settle(t)
	if got := r.wantPackets(t, packets.Puback, packets.Puback); got[0].PacketID != 3 || got[1].PacketID != 1 {
		t.Errorf("acknowledged %d and %d", got[0].PacketID, got[1].PacketID)
	}
	if next := r.wantActions(t, session.DoCall)[0]; next.Method != "tags" {
		t.Errorf("called %+v", next)
	}
}

func TestAFullWindowDoesNotHoldRepliesBack(t *testing.T) {
	t.Parallel()
	r := newOpenRig(t)
	r.subscribe(t, 1, "reply/demo/+")
	for n := range byte(16) {
		r.deliver(t, newMessage(r, n))
	}
	r.packets = nil
	r.publish(t, 7, "call/demo/tags", `{}`)
	call := r.wantActions(t, session.DoCall)[0]
	r.OnAnswer(&r.out, r.clock(), call.Seq, session.Answer{OK: true, JSON: []byte(`{}`)})
	r.settle(t)
	if reply := r.wantPackets(t, packets.Puback, packets.Publish)[1]; reply.FixedHeader.Qos != 0 {
		t.Errorf("it came at QoS %d", reply.FixedHeader.Qos)
	}
}

// MQTT 5: 3.1.2-29
func TestReasonStringsAreLeftOutForClientsThatWantNone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		connect mqtt.Connect
		reason  bool
	}{
		"the rule":                    {mqtt.Connect{Version: mqtt.V5}, true},
		"no problem information":      {mqtt.Connect{Version: mqtt.V5, NoProblemInformation: true}, false},
		"only small packets are read": {mqtt.Connect{Version: mqtt.V5, MaximumPacketSize: 40}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, c.connect)
			r.publish(t, 1, "event/other", "{}")
			ack := r.wantPackets(t, packets.Puback)[0]
			if ack.ReasonCode != 0x87 || (ack.Properties.ReasonString != "") != c.reason {
				t.Errorf("PUBACK with 0x%02X: %q", ack.ReasonCode, ack.Properties.ReasonString)
			}
		})
	}
}

func TestTheEndReportsWhatWasNotAcknowledged(t *testing.T) {
	t.Parallel()
	r := newOpenRig(t)
	direct, audience, acked, reported := newMessage(r, 1), newMessage(r, 2), newMessage(r, 3), newMessage(r, 4)
	audience.Audience, reported.Audience = true, true
	for _, m := range []*session.Message{direct, audience, acked} {
		r.deliver(t, m)
	}
	r.Deliver(&r.out, r.clock(), reported, "", true) // whoever asked is told in the answer
	r.settle(t)
	r.ack(t, r.packets[2].PacketID)
	r.actions = nil
	unacked := r.End(&r.out)
	r.settle(t)
	if len(unacked) != 2 || unacked[0] != audience.ID || unacked[1] != reported.ID {
		t.Errorf("audience pushes in vain: %v", unacked)
	}
	got := r.wantActions(t, session.DoReceipt, session.DoReceipt)
	if got[0].Message != direct.ID || got[1].Message != audience.ID || got[0].Step != ledgerv1.Step_STEP_SENT {
		t.Errorf("reported %+v", got)
	}
	if r.deliver(t, newMessage(r, 5)) != session.NotReceiving {
		t.Error("it takes more")
	}
}

func TestPagesArePulledWhenHalfOfTheWindowIsFree(t *testing.T) {
	t.Parallel()
	r := newOpenRig(t)
	for n := range byte(16) {
		r.deliver(t, newMessage(r, n))
	}
	missed := newMessage(r, 16)
	if got := r.deliver(t, missed); got != session.Full {
		t.Fatalf("the delivery is %v", got)
	}
	sent := r.packets
	r.packets = nil
	for i, p := range sent[:8] {
		r.wantActions(t)
		r.ack(t, p.PacketID)
		if i < 7 {
			r.wantActions(t, session.DoReceipt)
		}
	}
	pull := r.wantActions(t, session.DoReceipt, session.DoPull)[1]
	if pull.Limit != 8 || pull.After != newMessage(r, 15).ID {
		t.Errorf("pulled %+v", pull)
	}
	r.OnPulled(&r.out, r.clock(), pull.Seq, true, []session.Kept{{Message: missed}}, false)
	r.settle(t)
	r.wantPackets(t, packets.Publish)
	r.wantActions(t)
	if got := r.deliver(t, newMessage(r, 17)); got != session.Taken {
		t.Errorf("after the pull a delivery is %v", got)
	}
}

func TestAPullThatFailsIsAskedAgain(t *testing.T) {
	t.Parallel()
	r := newOpenRig(t)
	r.PullAll(&r.out)
	r.settle(t)
	first := r.wantActions(t, session.DoPull)[0]
	r.PullFailed(first.Seq)
	r.tick(t, time.Second)
	second := r.wantActions(t, session.DoPull)[0]
	r.OnPulled(&r.out, r.clock(), first.Seq, true, nil, false) // too late: another is under way
	if got := r.deliver(t, newMessage(r, 1)); got != session.Full {
		t.Errorf("the delivery is %v", got)
	}
	r.OnPulled(&r.out, r.clock(), second.Seq, true, nil, false)
	r.settle(t)
	r.wantActions(t, session.DoPull) // its answer cannot have what came meanwhile
}

func TestADirectPushIsRememberedForTenMinutes(t *testing.T) {
	t.Parallel()
	r := newOpenRig(t)
	m := newMessage(r, 1)
	r.deliver(t, m)
	r.ack(t, r.wantPackets(t, packets.Publish)[0].PacketID)
	r.actions = nil
	ping := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}}
	for range 3 {
		r.tick(t, 199*time.Second)
		r.send(t, ping)
	}
	r.packets = nil
	if got := r.deliver(t, m); got != session.Taken {
		t.Errorf("the delivery is %v", got)
	}
	r.wantPackets(t)
	r.wantActions(t, session.DoReceipt) // once more
	r.tick(t, 4*time.Second)
	r.deliver(t, m)
	r.wantPackets(t, packets.Publish)
}

// MQTT 5: 4.1.0-1
func TestAPushInFlightIsRememberedBeyondTheOthers(t *testing.T) {
	t.Parallel()
	r := newOpenRig(t)
	slow := newMessage(r, 0)
	r.deliver(t, slow)
	r.wantPackets(t, packets.Publish)
	for n := range byte(100) {
		r.deliver(t, newMessage(r, n+1))
		r.ack(t, r.wantPackets(t, packets.Publish)[0].PacketID)
	}
	r.actions = nil
	if got := r.deliver(t, slow); got != session.Taken {
		t.Errorf("the delivery is %v", got)
	}
	r.PullAll(&r.out)
	r.settle(t)
	pull := r.wantActions(t, session.DoPull)[0]
	r.OnPulled(&r.out, r.clock(), pull.Seq, true, []session.Kept{{Message: slow}}, false)
	r.settle(t)
	r.wantPackets(t) // MQTT forbids to send it again on this connection
}

// MQTT 5: 2.2.1-4
func TestPacketIdentifiersInUseAreNotUsedAgain(t *testing.T) {
	t.Parallel()
	r := newOpenRig(t)
	slow := newMessage(r, 0)
	slow.Audience = true
	r.deliver(t, slow)
	held := r.wantPackets(t, packets.Publish)[0].PacketID
	m := newMessage(r, 1)
	m.Audience = true // not remembered here
	for n := range 70_000 {
		r.deliver(t, m)
		id := r.wantPackets(t, packets.Publish)[0].PacketID
		if id == held || id == 0 {
			t.Fatalf("message %d has identifier %d", n, id)
		}
		r.ack(t, id)
		r.actions = r.actions[:0]
	}
}

func TestAFloodIsClosedAndAcknowledgementsAreNone(t *testing.T) {
	t.Parallel()
	r := newOpenRig(t)
	for n := range 300 { // as fast as they are sent
		m := newMessage(r, byte(n))
		m.Audience = true
		r.deliver(t, m)
		r.ack(t, r.wantPackets(t, packets.Publish)[0].PacketID)
	}
	r.actions = nil
	ping := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}}
	for range 199 { // SUBSCRIBE was one
		r.send(t, ping)
	}
	r.tick(t, 100*time.Millisecond) // 5 more
	for range 5 {
		r.send(t, ping)
	}
	r.wantActions(t)
	r.packets = nil
	r.ack(t, 999) // acknowledges nothing
	r.wantClosed(t, session.TooFast, 0x96)
}

func TestReplyTopicsAreBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t, mqtt.Connect{Version: mqtt.V5})
	for n := range 17 {
		r.subscribe(t, 1, fmt.Sprintf("reply/demo/m%d", n))
	}
	all := r.packets
	if got := all[15].ReasonCodes[0]; got != 1 {
		t.Errorf("the 16th is answered 0x%02X", got)
	}
	if got := all[16].ReasonCodes[0]; got != 0x97 {
		t.Errorf("the 17th is answered 0x%02X", got)
	}
	r.packets = nil
	r.send(t, filters(packets.Unsubscribe, 0, "reply/demo/m3"))
	r.subscribe(t, 1, "reply/demo/m16")
	if got := r.wantPackets(t, packets.Unsuback, packets.Suback); got[0].ReasonCodes[0] != 0 || got[1].ReasonCodes[0] != 1 {
		t.Errorf("answered %v and %v", got[0].ReasonCodes, got[1].ReasonCodes)
	}
}
