package session_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/halleypush/halley/services/gateway/internal/mqtt"
)

// step does what one byte of a script says.
func (w *world) step(b byte) {
	arg := int(b >> 4)
	switch b & 15 {
	case 0:
		w.push(arg&1 != 0, arg&6 == 6, arg == 8, arg == 10)
	case 1, 2, 3:
		w.send()
	case 4, 5:
		w.ack(arg, arg >= 14)
	case 6:
		w.takeAll()
	case 7:
		w.answerOpen()
		w.answerPull(arg == 15)
	case 8, 9, 10:
		w.takeAll()
		w.answerOpen()
		w.answerPull(false)
	case 11:
		w.apply()
	case 12:
		w.pass(time.Duration(arg) * 300 * time.Millisecond)
	case 13:
		w.comeOrGo(arg)
	case 14:
		if w.subscribed == (arg == 0) { // it ends a subscription rarely
			w.subscribe(arg != 0)
		}
		w.send()
	case 15:
		w.disturb(arg)
	}
}

// comeOrGo has the phone connect or end that; while it is there, it calls more often than that, and is answered.
func (w *world) comeOrGo(arg int) {
	switch {
	case w.rig == nil:
		w.connect(1+arg, mqtt.V311+byte(arg&1))
		w.subscribe(true)
	case arg == 0:
		w.disconnect()
	case arg < 8:
		w.call(arg >= 4)
	default:
		w.answerCall()
	}
}

// disturb does what happens after faults.
func (w *world) disturb(arg int) {
	if w.rig == nil {
		return
	}
	switch arg {
	case 0: // a message may have been lost
		w.rig.PullAll(&w.rig.out)
	case 1: // the gateway has a new incarnation
		w.rig.Reopen(&w.rig.out)
	case 2: // pushcore lost its routes
		w.route = 0
	case 3, 4, 5:
		w.bind()
	default: // pushcore asks again
		if pending, _ := w.page(uuid.Nil, arg); len(pending) > 0 {
			p := pending[len(pending)-1]
			for _, s := range w.sending {
				if s.push == p { // not before it was sent first
					return
				}
			}
			if w.route == w.number {
				w.handOver(p)
			}
			return
		}
	}
	w.settle()
}

// finish lets everything come to rest with the phone there, and checks that it has what it should.
func (w *world) finish() {
	w.bind()
	for range 100 {
		if w.rig == nil {
			w.connect(16, mqtt.V5)
		}
		if !w.subscribed {
			w.subscribe(true)
		}
		if w.rig != nil && w.route != w.number && w.opening == nil {
			w.rig.Reopen(&w.rig.out)
			w.settle()
		}
		for w.rig != nil && (len(w.sending) > 0 || len(w.inFlight) > 0 || len(w.pulls) > 0 || w.opening != nil || len(w.calls) > 0) {
			w.send()
			w.answerCall()
			w.ack(0, false)
			w.takeAll()
			w.answerOpen()
			w.answerPull(false)
		}
		for len(w.receipts) > 0 {
			w.apply()
		}
		w.pass(time.Second)
	}
	for _, p := range w.pushes {
		if !p.Expired(w.clock().Now) && (!p.came || !p.final) {
			w.t.Errorf("push %s: came to the phone %t, the ledger knows %t", p.ID, p.came, p.final)
		}
	}
	if len(w.unanswered) > 0 || len(w.unacknowledged) > 0 {
		w.t.Errorf("calls without an answer: %v, without a PUBACK: %v", w.unanswered, w.unacknowledged)
	}
	if !w.rig.Idle() && len(w.seen) == 0 {
		w.t.Error("the session keeps something although nothing is under way")
	}
}

func play(t testing.TB, script []byte) {
	t.Helper()
	w := newWorld(t)
	for _, b := range script {
		w.step(b)
	}
	w.finish()
}

func randomScript(seed uint64, length int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	script := make([]byte, length)
	for i := range script {
		script[i] = byte(r.Uint32())
	}
	return script
}

// Whatever happens: no packet identifier is in use twice, no more than the client's Receive Maximum is in flight, nothing
// comes twice on a connection or late or out of order, each call has one answer and one PUBACK, and in the end the phone has
// every push that holds.
// MQTT 5: 2.2.1-4, 3.1.2-26, 3.1.2-27, 3.3.1-3, 3.3.1-12, 3.3.2-3, 3.3.4-9, 4.3.2-1, 4.3.2-2, 4.3.2-3, 4.4.0-2, 4.6.0-5
// MQTT 5: 4.6.0-6
// MQTT 3.1.1: 2.3.1-4, 3.3.1-3, 3.3.1-9, 3.3.2-3, 4.1.0-1, 4.1.0-2, 4.3.2-1, 4.6.0-5, 4.6.0-6
func TestOutboundStateKeepsItsPromises(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		if play(t, randomScript(seed, 1000)); t.Failed() {
			t.Fatalf("script of seed %d", seed)
		}
	}
}

// MQTT 5: 2.2.1-4
// MQTT 3.1.1: 2.3.1-4
func FuzzOutbound(f *testing.F) {
	for _, found := range []string{ // by random scripts, and made short
		"\xdd\xb6\x00\x0e\xc1",                 // an Open is answered after the device unsubscribed, missed a push, and subscribed
		"\xad\x0e\x56\x90\xf1\xce\x60\xd1\xe8", // the same, with a push after it
		"\x9d\x28\x1f\x0e",                     // it unsubscribed, and stays so
		"\xcd\x46\xa0",                         // a user is bound while an Open is under way
		"\xfd\xa0\x30\xd6",                     // the same, with a push before
	} {
		f.Add([]byte(found))
	}
	for seed := range uint64(5) {
		f.Add(randomScript(seed, 200))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 4000 {
			return // pushes are found one by one
		}
		play(t, script)
	})
}
