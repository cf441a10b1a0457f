package session_test

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/mochi-mqtt/server/v2/packets"

	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/gateway/internal/mqtt"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

// world is one device with its connections, and pushcore as sessions know it: what is pushed, kept and acknowledged. A script
// says what happens next; the world checks what each session does.
type world struct {
	t      testing.TB
	app    *session.App
	pool   session.Pool
	begun  time.Time
	now    time.Duration
	number uint64 // of the newest session

	// pushcore
	pushes   []*push
	sending  []sending
	route    uint64 // the session that pushcore sends to; 0: none
	opening  *question
	pulls    []*question
	receipts []session.Action // on their way to the ledger

	// the connection; rig is nil while there is none
	rig        *rig
	window     int
	subscribed bool
	inFlight   []flying
	seen       map[uuid.UUID]sight
	direct     int // direct pushes that came
	last       uuid.UUID
	calling
}

type push struct {
	*session.Message
	hidden, late               bool // for a user who is not bound to the device yet, or was not when it was accepted
	final                      bool // the ledger knows that it arrived, or was sent and cannot be confirmed
	came                       bool // at the phone, ever
	handed, acked, unconfirmed bool // what the gateway remembers of an audience push
	refused                    bool // the phone said no
}

// sending is a push on its way to a session; 0: pushcore has yet to look who that is.
type sending struct {
	*push
	to uint64
}

// sight is when a push came on this connection.
type sight struct {
	at     time.Duration
	direct int
}

// remembered is how many direct pushes a session remembers, and rememberedFor how long. What is asked for again later than
// that, although it is over, may come twice; phones drop it.
const (
	remembered    = 64
	rememberedFor = 10 * time.Minute
)

// repeats reports whether a push comes again that the session should remember.
func (w *world) repeats(m *push) bool {
	s, seen := w.seen[m.ID]
	if !seen || m.Audience {
		return seen
	}
	for _, f := range w.inFlight {
		if f.push == m {
			return true
		}
	}
	return w.direct-s.direct < remembered && w.now-s.at < rememberedFor
}

// flying is a PUBLISH that the phone has not acknowledged; push is nil if it is the reply to a call.
type flying struct {
	id   uint16
	push *push
}

// question is an Open or a Pull that pushcore has not answered, or whose answer is on its way.
type question struct {
	session.Action
	next  *session.Action // an Open that follows this one
	taken bool
	kept  []*push
	more  bool
	open  bool
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return &world{t: t, app: newApp(t), begun: time.UnixMilli(1732330000000)}
}

func (w *world) clock() session.Clock { return session.Clock{Since: w.now, Now: w.begun.Add(w.now)} }

func (w *world) connect(window int, version byte) {
	w.number++
	w.window, w.subscribed, w.inFlight, w.seen, w.last = window, false, nil, map[uuid.UUID]sight{}, uuid.Nil
	w.direct, w.calling = 0, calling{}
	w.opening, w.pulls = nil, nil
	w.rig = &rig{client: version, begun: w.begun, now: w.now}
	w.rig.out.Pool = &w.pool
	w.rig.Session = session.New(session.Start{
		App: w.app, Ordinal: 12, Number: w.number, Generation: 1, Begun: w.now,
		Connect: &mqtt.Connect{Version: version, ReceiveMaximum: uint16(window)},
	}, limits, w.clock(), &w.rig.out)
	w.settle()
}

// disconnect ends the connection as the loop does.
func (w *world) disconnect() {
	for _, id := range w.rig.End(&w.rig.out) {
		w.find(id).handed = false
	}
	w.perform()
	if w.route == w.number {
		w.route = 0
	}
	w.rig, w.opening, w.pulls, w.inFlight = nil, nil, nil, nil
}

func (w *world) find(id uuid.UUID) *push {
	for _, p := range w.pushes {
		if p.ID == id {
			return p
		}
	}
	w.t.Fatalf("there is no push %s", id)
	return nil
}

// settle performs what the session asks for, hands the phone what it says, and checks that both may be.
func (w *world) settle() {
	closed := w.perform()
	for _, p := range w.rig.packets {
		switch {
		case p.FixedHeader.Type == packets.Publish && strings.HasPrefix(p.TopicName, "reply/"):
			w.receiveReply(p)
		case p.FixedHeader.Type == packets.Publish:
			w.receive(p)
		case p.FixedHeader.Type == packets.Puback:
			w.receiveAck(p)
		}
	}
	w.rig.packets = nil
	if n := w.rig.InFlight(); n > w.window || n != len(w.inFlight) {
		w.t.Fatalf("%d packets in flight, of which the phone knows %d; the window is %d", n, len(w.inFlight), w.window)
	}
	if closed {
		w.disconnect()
	}
}

// receive is the phone's: it checks a PUBLISH.
func (w *world) receive(p packets.Packet) {
	id, err := uuid.Parse(string(bytes.Split(p.Payload, []byte{'"'})[3]))
	if err != nil {
		w.t.Fatal(err)
	}
	m := w.find(id)
	_, again := w.seen[id]
	switch {
	case p.FixedHeader.Retain || p.TopicName != "push/demo" || p.Properties.TopicAliasFlag:
		w.t.Fatalf("push %s came on %q, retain %v, alias %v", id, p.TopicName, p.FixedHeader.Retain, p.Properties.TopicAliasFlag)
	case p.FixedHeader.Dup:
		w.t.Fatalf("push %s is marked as a repeat", id)
	case w.repeats(m):
		w.t.Fatalf("push %s came twice on one connection", id)
	case bytes.Compare(id[:], w.last[:]) < 0 && !m.late && !again:
		w.t.Fatalf("push %s came after %s", id, w.last)
	case !w.subscribed:
		w.t.Fatalf("push %s came without a subscription", id)
	case m.Expired(w.clock().Now):
		w.t.Fatalf("push %s came after its time", id)
	case p.FixedHeader.Qos != m.QoS:
		w.t.Fatalf("push %s came at QoS %d", id, p.FixedHeader.Qos)
	}
	if !m.Audience {
		w.direct++
	}
	w.seen[id], m.came, m.refused = sight{w.now, w.direct}, true, false
	if !m.late && !again {
		w.last = id
	}
	if m.QoS > 0 {
		w.fly(p.PacketID, m)
	}
}

// fly notes a PUBLISH that the phone is to acknowledge.
func (w *world) fly(id uint16, m *push) {
	for _, f := range w.inFlight {
		if f.id == id {
			w.t.Fatalf("packet identifier %d is in use", id)
		}
	}
	w.inFlight = append(w.inFlight, flying{id, m})
}

// perform does what the session asks of its host, and reports whether that is to close.
func (w *world) perform() (closed bool) {
	w.rig.settle(w.t)
	for _, a := range w.rig.actions {
		switch a.Kind {
		case session.DoClose:
			closed = true
		case session.DoOpen:
			if w.opening != nil && w.opening.taken {
				w.opening.next = &a
			} else {
				w.opening = &question{Action: a}
			}
		case session.DoPull:
			w.pulls = append(w.pulls, &question{Action: a})
		case session.DoCall:
			w.calls = append(w.calls, a)
		case session.DoHanded:
			w.find(a.Message).handed = true
		case session.DoReceipt:
			w.receipt(a)
		}
	}
	w.rig.actions = nil
	return closed
}

// receipt notes what the gateway remembers, and sends it to the ledger.
func (w *world) receipt(a session.Action) {
	p := w.find(a.Message)
	switch a.Step {
	case ledgerv1.Step_STEP_ARRIVED:
		if !p.came || p.QoS == 0 || p.refused {
			w.t.Fatalf("push %s arrived, says the session", p.ID)
		}
		p.acked = true
	case ledgerv1.Step_STEP_SENT_UNCONFIRMED:
		if p.QoS != 0 && !p.refused {
			w.t.Fatalf("push %s cannot be confirmed, says the session", p.ID)
		}
		p.handed, p.unconfirmed = true, true
	}
	w.receipts = append(w.receipts, a)
}

// push has pushcore accept a push, and send it to the route later; one for a user comes when the user is bound.
func (w *world) push(audience, qos0, short, user bool) {
	var id uuid.UUID
	binary.BigEndian.PutUint32(id[:], uint32(len(w.pushes)+1))
	p := &push{Message: session.NewMessage("demo", id, []byte(`{"push_id":"`+id.String()+`"}`))}
	p.QoS, p.Audience, p.Expires = 1, audience, w.clock().Now.Add(100*time.Hour).UnixMilli()
	if qos0 {
		p.QoS = 0
	}
	if short {
		p.Expires = w.clock().Now.Add(3 * time.Second).UnixMilli()
	}
	w.pushes = append(w.pushes, p)
	if p.hidden, p.late = user, user; !user {
		w.sending = append(w.sending, sending{p, w.route})
	}
}

// bind makes pushes for the user the device's own. A session that is the route is told.
func (w *world) bind() {
	for _, p := range w.pushes {
		p.hidden = false
	}
	if w.rig != nil && w.route == w.number {
		w.rig.PullAll(&w.rig.out)
		w.settle()
	}
}

// send brings the oldest push that is on its way to its session, if that is there still.
func (w *world) send() {
	if len(w.sending) == 0 {
		return
	}
	s := w.sending[0]
	w.sending = w.sending[1:]
	if s.to == 0 && !s.final {
		s.to = w.route
	}
	if s.to == w.number {
		w.handOver(s.push)
	}
}

func (w *world) handOver(p *push) {
	if w.rig == nil || p.Audience && p.handed {
		return
	}
	result := w.rig.Deliver(&w.rig.out, w.clock(), p.Message, "", p.Audience)
	if p.Audience && (result == session.Taken || result == session.TakenUnconfirmed) {
		p.handed, p.unconfirmed = true, result == session.TakenUnconfirmed
		p.final = p.final || p.unconfirmed // whoever asked reports it
	}
	w.settle()
	room := w.window - len(w.inFlight)
	if result == session.Full && room >= w.window/2 && room > 0 && len(w.pulls) == 0 && w.opening == nil {
		w.t.Fatalf("push %s is refused, although there is room, and nobody asks for it", p.ID)
	}
}

// ack has the phone answer the n-th PUBLISH that it has not answered; over MQTT 5 it may say no.
func (w *world) ack(n int, no bool) {
	if w.rig == nil || len(w.inFlight) == 0 {
		return
	}
	n %= len(w.inFlight)
	id, p := w.inFlight[n].id, w.inFlight[n].push
	w.inFlight = append(w.inFlight[:n:n], w.inFlight[n+1:]...)
	ack := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: id}
	if no && p != nil && w.rig.client == mqtt.V5 {
		ack.ReasonCode, p.refused = 0x97, true
	}
	w.say(ack)
}

func (w *world) say(p packets.Packet) {
	w.rig.Input(&w.rig.out, w.clock(), limits, encode(w.t, p, w.rig.client))
	w.settle()
}

// subscribe has the phone subscribe, or end that.
func (w *world) subscribe(on bool) {
	if w.rig == nil {
		return
	}
	kind := packets.Unsubscribe
	if on {
		kind = packets.Subscribe
	}
	w.subscribed = on
	w.say(filters(kind, 1, "push/demo"))
}

// page returns what is kept behind a push, oldest first.
func (w *world) page(after uuid.UUID, limit int) (kept []*push, more bool) {
	for _, p := range w.pushes {
		if p.hidden || p.final || p.Expired(w.clock().Now) || bytes.Compare(p.ID[:], after[:]) <= 0 {
			continue
		}
		if len(kept) == limit {
			return kept, true
		}
		kept = append(kept, p)
	}
	return kept, false
}

// take has pushcore take a question: the answer says what was kept then.
func (w *world) take(q *question) {
	q.taken = true
	if q.Kind == session.DoPull {
		if q.open = w.route == w.number; q.open {
			q.kept, q.more = w.page(q.After, q.Limit)
		}
		return
	}
	w.route = 0
	if q.Receiving {
		w.route = w.number
		q.kept, q.more = w.page(uuid.Nil, q.Limit)
	}
}

func (w *world) takeAll() {
	if w.opening != nil && !w.opening.taken {
		w.take(w.opening)
	}
	for _, q := range w.pulls {
		if !q.taken {
			w.take(q)
		}
	}
}

// keptNow adds what the gateway knows, when an answer comes, of what was kept.
func (q *question) keptNow() (kept []session.Kept) {
	for _, p := range q.kept {
		k := session.Kept{Message: p.Message}
		if p.Audience {
			k.Handed = p.handed
			switch {
			case p.acked:
				k.Proof = ledgerv1.Step_STEP_ARRIVED
			case p.unconfirmed:
				k.Proof = ledgerv1.Step_STEP_SENT_UNCONFIRMED
			}
		}
		kept = append(kept, k)
	}
	return kept
}

// answerOpen brings the answer to an Open that was taken; one that another follows is passed over.
func (w *world) answerOpen() {
	q := w.opening
	if q == nil || !q.taken {
		return
	}
	w.opening = nil
	if q.next != nil {
		w.opening = &question{Action: *q.next}
		return
	}
	w.rig.OnOpened(&w.rig.out, w.clock(), false, q.keptNow(), q.more)
	w.settle()
}

// answerPull brings the answer to the first Pull, or word that there is none.
func (w *world) answerPull(failed bool) {
	if len(w.pulls) == 0 || !w.pulls[0].taken {
		return
	}
	q := w.pulls[0]
	w.pulls = w.pulls[1:]
	if failed {
		w.rig.PullFailed(q.Seq)
		return
	}
	w.rig.OnPulled(&w.rig.out, w.clock(), q.Seq, q.open, q.keptNow(), q.more)
	w.settle()
}

// apply has the ledger apply a receipt.
func (w *world) apply() {
	if len(w.receipts) == 0 {
		return
	}
	a := w.receipts[0]
	w.receipts = w.receipts[1:]
	if a.Step != ledgerv1.Step_STEP_SENT {
		w.find(a.Message).final = true
	}
}

func (w *world) pass(d time.Duration) {
	w.now += d
	if w.rig != nil {
		w.rig.now = w.now
		w.rig.Tick(&w.rig.out, w.clock())
		w.settle()
	}
}
