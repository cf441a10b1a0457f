package session_test

import (
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

// puback answers a PUBLISH with a reason code.
func (r *rig) puback(t testing.TB, id uint16, code byte) {
	t.Helper()
	r.input(t, []byte{packets.Puback << 4, 3, byte(id >> 8), byte(id), code})
}

// A client that says no has not got the message to the app, and must not be sent it again.
// MQTT 5: 4.4.0-2
func TestAMessageThatTheClientRefusesHasNotArrived(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		code     byte
		audience bool
		proof    ledgerv1.Step
	}{
		"success":                        {0x00, false, ledgerv1.Step_STEP_ARRIVED},
		"no matching subscribers":        {0x10, false, ledgerv1.Step_STEP_ARRIVED},
		"unspecified error":              {0x80, false, ledgerv1.Step_STEP_SENT_UNCONFIRMED},
		"quota exceeded":                 {0x97, false, ledgerv1.Step_STEP_SENT_UNCONFIRMED},
		"of an audience: quota exceeded": {0x97, true, ledgerv1.Step_STEP_SENT_UNCONFIRMED},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newOpenRig(t)
			m := newMessage(r, 1)
			m.Audience = c.audience
			r.deliver(t, m)
			r.actions = nil // an audience's hand-over is noted
			r.puback(t, r.wantPackets(t, packets.Publish)[0].PacketID, c.code)
			if got := r.wantActions(t, session.DoReceipt)[0]; got.Step != c.proof || got.Message != m.ID {
				t.Errorf("reported %+v, want %v", got, c.proof)
			}
			if n := r.InFlight(); n != 0 {
				t.Errorf("%d packets in flight", n)
			}
			r.PullAll(&r.out)
			r.settle(t)
			pull := r.wantActions(t, session.DoPull)[0]
			kept := session.Kept{Message: m}
			if c.audience {
				kept.Proof = c.proof // the host remembers it
			}
			r.OnPulled(&r.out, r.clock(), pull.Seq, true, []session.Kept{kept}, false)
			r.settle(t)
			r.wantPackets(t)
			if got := r.wantActions(t, session.DoReceipt)[0]; got.Step != c.proof {
				t.Errorf("once more it is reported as %v", got.Step)
			}
			if unacked := r.End(&r.out); len(unacked) != 0 {
				t.Errorf("the next session gets %v again", unacked)
			}
		})
	}
}
