package session

import (
	"bytes"
	"slices"
	"time"

	"github.com/google/uuid"

	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/gateway/internal/mqtt"
)

// Result says what became of a hand-over.
type Result byte

// The results of a hand-over.
const (
	// Taken: handed over, now or before. TakenUnconfirmed: at QoS 0, no acknowledgement will come.
	Taken Result = iota + 1
	TakenUnconfirmed
	// Held: handed over when the Open is answered, which is under way.
	Held
	// Full: no room; the session Pulls it later.
	Full
	// Off: the system does not show notifications on this device.
	Off
	// NotReceiving: the session is no route.
	NotReceiving
	// Over: the message has expired.
	Over
	// Results is one more than the last.
	Results
)

const (
	// remembered is how many direct pushes a session remembers, and rememberedFor how long: what it handed over, and
	// whether that was acknowledged.
	remembered    = 64
	rememberedFor = 10 * time.Minute
)

// recent is a direct push that was handed over.
type recent struct {
	push uuid.UUID
	at   uint32
	// proof is the receipt that ended it for this session; STEP_UNSPECIFIED while its acknowledgement is awaited.
	proof ledgerv1.Step
}

// Clock is the time: on the host's own clock, which only goes forward, and of day.
type Clock struct {
	Since time.Duration
	Now   time.Time
}

// Millis returns the host's clock in milliseconds. It wraps after seven weeks: only differences count.
func (c Clock) Millis() uint32 { return uint32(c.Since.Milliseconds()) }

// Deliver hands a message over. user is the opaque id of the user it is for, or empty. slice is true for a hand-over of a
// slice, whose requester hears what was sent; other hand-overs report it themselves when no acknowledgement comes soon.
// Whether an audience message was handed over before is for the host to know.
func (s *Session) Deliver(out *Output, c Clock, m *Message, user string, slice bool) Result {
	if s.is(closed) || !s.is(subscribed) {
		return NotReceiving
	}
	if m.Expired(c.Now) {
		return Over
	}
	if !s.is(live) {
		return s.hold(out, m, user)
	}
	if !m.Audience {
		if r := s.remembers(c.Millis(), m.ID); r != nil {
			return s.again(out, r)
		}
	}
	if m.Notification && s.is(permissionOff) {
		return Off
	}
	if s.is(wantPull) || s.room() == 0 { // what is kept is older, and goes first
		s.miss(out, m.ID)
		s.pullIfRoom(out)
		return Full
	}
	return s.hand(out, c, m, user, slice)
}

// hold keeps a delivery until the Open is answered, up to a window full; the Pull that follows finds the others.
func (s *Session) hold(out *Output, m *Message, user string) Result {
	if !s.is(asked) || !s.is(openAsReceiving) {
		return NotReceiving
	}
	a := s.activate(out)
	for _, h := range a.held {
		if h.message.ID == m.ID {
			return Held
		}
	}
	if len(a.held) >= int(s.window) {
		s.miss(out, m.ID)
		return Full
	}
	a.held = append(a.held, held{m, user})
	return Held
}

// hand writes a message, at the QoS that the push and the subscription agree on.
func (s *Session) hand(out *Output, c Clock, m *Message, user string, slice bool) Result {
	qos := m.QoS
	if !s.is(subscribedQoS1) {
		qos = 0
	}
	var id uint16
	if qos > 0 {
		id = s.freeID()
	}
	begin := len(out.Bytes)
	out.Bytes = m.appendTo(out.Bytes, s.version(), qos, id, user, s.to(), c.Now)
	if !mqtt.Fits(out.Bytes[begin:], s.maxPacket) {
		// The client refuses packets of this size; it must not get one, and the server goes on as if it had (3.1.2.11.4).
		out.Bytes = out.Bytes[:begin]
		qos = 0
	}
	f := flight{push: m.ID, at: c.Millis(), id: id}
	if m.Audience {
		f.flags |= isAudience
		if !slice {
			out.Actions = append(out.Actions, Action{Kind: DoHanded, Message: m.ID})
		}
	} else {
		proof := ledgerv1.Step_STEP_UNSPECIFIED
		if qos == 0 {
			proof = ledgerv1.Step_STEP_SENT_UNCONFIRMED
		}
		s.remember(out, c.Millis(), m.ID, proof)
	}
	if qos == 0 {
		if !slice {
			out.receipt(ledgerv1.Step_STEP_SENT_UNCONFIRMED, &f)
		}
		return TakenUnconfirmed
	}
	if slice {
		f.flags |= isReported
	}
	a := s.activate(out)
	a.flights = append(a.flights, f)
	return Taken
}

// freeID returns a packet identifier that is not in use.
func (s *Session) freeID() uint16 {
	for {
		s.nextID++
		if s.nextID &= 1<<IDBits - 1; s.nextID != 0 && s.flightOf(s.nextID) < 0 {
			return s.nextID
		}
	}
}

func (s *Session) flightOf(id uint16) int {
	if s.active != nil {
		for i := range s.active.flights {
			if s.active.flights[i].id == id {
				return i
			}
		}
	}
	return -1
}

// proofOf returns what a PUBACK proves. One that says no proves no arrival, but the message must not be sent again (4.4): it
// was sent, and that is all that will be known of it.
func proofOf(code mqtt.Code) ledgerv1.Step {
	if code >= mqtt.UnspecifiedError {
		return ledgerv1.Step_STEP_SENT_UNCONFIRMED
	}
	return ledgerv1.Step_STEP_ARRIVED
}

// acked ends a flight.
func (s *Session) acked(out *Output, c Clock, id uint16, proof ledgerv1.Step) {
	i := s.flightOf(id)
	if i < 0 {
		return // acknowledged before, or never sent: there is nothing to do (4.3.2)
	}
	a := s.active
	if f := a.flights[i]; f.flags&isReply == 0 {
		out.receipt(proof, &f)
		if f.flags&isAudience == 0 {
			if r := s.remembers(c.Millis(), f.push); r != nil {
				r.proof = proof
			}
		}
	}
	a.flights = slices.Delete(a.flights, i, i+1)
	s.pullIfRoom(out)
	s.rest(out)
}

// remembers returns what the session knows of a direct push that it handed over.
func (s *Session) remembers(now uint32, push uuid.UUID) *recent {
	if s.active == nil {
		return nil
	}
	for i := range s.active.recent {
		if r := &s.active.recent[i]; r.push == push && now-r.at < uint32(rememberedFor.Milliseconds()) {
			return r
		}
	}
	return nil
}

func (s *Session) remember(out *Output, now uint32, push uuid.UUID, proof ledgerv1.Step) {
	a := s.activate(out)
	if len(a.recent) == remembered {
		// The oldest that is over: what is in flight must not go out again.
		oldest := slices.IndexFunc(a.recent, func(r recent) bool { return r.proof != ledgerv1.Step_STEP_UNSPECIFIED })
		a.recent = slices.Delete(a.recent, max(oldest, 0), max(oldest, 0)+1)
	}
	a.recent = append(a.recent, recent{push: push, at: now, proof: proof})
}

// again answers for a direct push that was handed over before. If that is over, the ledger has not seen it yet, or lost it:
// the receipt goes out once more.
func (s *Session) again(out *Output, r *recent) Result {
	if r.proof != ledgerv1.Step_STEP_UNSPECIFIED {
		out.Actions = append(out.Actions, Action{Kind: DoReceipt, Step: r.proof, Message: r.push})
	}
	return Taken
}

// miss notes that a push could not be handed over: the next Pull must find it. The answer to one that is under way may not.
func (s *Session) miss(out *Output, push uuid.UUID) {
	a := s.activate(out)
	switch {
	case s.is(pulling | asked):
		if !s.is(missedMeanwhile) || bytes.Compare(push[:], a.missed[:]) < 0 {
			a.missed = push
		}
		s.flags |= missedMeanwhile
	case !s.is(wantPull) || bytes.Compare(push[:], a.cursor[:]) <= 0:
		a.cursor = before(push)
	}
	s.flags |= wantPull
}

// before returns the greatest id that is smaller; the zero id is its own.
func before(id uuid.UUID) uuid.UUID {
	if id == uuid.Nil {
		return id
	}
	for i := len(id) - 1; ; i-- {
		id[i]--
		if id[i] != 0xFF {
			return id
		}
	}
}

// PullAll has the session Pull from the oldest: something is kept for it, or may be after a gap. The answer to a Pull that is
// under way does not count any more: it may be from before. So may be the answer to an Open: a Pull follows it.
func (s *Session) PullAll(out *Output) {
	switch {
	case s.Receiving():
		s.flags &^= pulling
		s.miss(out, uuid.Nil)
		s.pullIfRoom(out)
	case s.is(asked) && s.is(openAsReceiving) && !s.is(closed):
		s.miss(out, uuid.Nil)
	}
}

// pullIfRoom asks for what is kept once half of the window is free: page by page, not message by message.
func (s *Session) pullIfRoom(out *Output) {
	if !s.is(wantPull) || s.is(pulling) || !s.Receiving() {
		return
	}
	room := s.room()
	if room == 0 || room < int(s.window)/2 {
		return
	}
	s.flags |= pulling
	a := s.activate(out)
	a.pullSeq = s.seq()
	out.Actions = append(out.Actions, Action{Kind: DoPull, Seq: a.pullSeq, After: a.cursor, Limit: room})
}

// Kept is a message that pushcore kept for the device.
type Kept struct {
	Message *Message
	User    string
	// Handed is true for an audience message that was handed over to this session before.
	Handed bool
	// Proof is the receipt that ended an audience message for this device, if one did; it goes out once more.
	Proof ledgerv1.Step
}

// OnOpened takes pushcore's OPEN: what was kept is handed over, merged by id with what came meanwhile, oldest first.
func (s *Session) OnOpened(out *Output, c Clock, off bool, kept []Kept, more bool) {
	s.flags &^= asked
	s.flags |= opened
	s.set(permissionOff, off)
	if s.active != nil {
		s.active.report = nil
	}
	s.forwardCalls(out)
	s.set(live, s.is(openAsReceiving) && s.is(subscribed) && !s.is(stale))
	if s.is(stale) {
		s.ask(out)
	}
	s.open(out) // again, if the device subscribed or unsubscribed meanwhile
	var waiting []held
	if s.active != nil {
		waiting = s.active.held
		s.active.held = nil
		s.active.cursor = uuid.Nil
	}
	if s.Receiving() {
		s.turnPage(out, kept, more)
		s.takeAll(out, c, kept, waiting)
		s.pullIfRoom(out)
	}
	s.rest(out)
}

// turnPage notes where the next Pull begins after a page, and whether there must be one.
func (s *Session) turnPage(out *Output, page []Kept, more bool) {
	missed := s.is(missedMeanwhile)
	s.set(wantPull, more || missed)
	s.flags &^= missedMeanwhile
	if !s.is(wantPull) {
		return
	}
	a := s.activate(out)
	if len(page) > 0 {
		a.cursor = page[len(page)-1].Message.ID
	}
	if back := before(a.missed); missed && bytes.Compare(back[:], a.cursor[:]) < 0 {
		a.cursor = back
	}
}

// takeAll hands over kept and waiting messages in the order of their ids, each once.
func (s *Session) takeAll(out *Output, c Clock, kept []Kept, waiting []held) {
	slices.SortFunc(waiting, func(a, b held) int { return bytes.Compare(a.message.ID[:], b.message.ID[:]) })
	for _, k := range kept {
		for len(waiting) > 0 && bytes.Compare(waiting[0].message.ID[:], k.Message.ID[:]) < 0 {
			s.Deliver(out, c, waiting[0].message, waiting[0].user, false)
			waiting = waiting[1:]
		}
		s.takeKept(out, c, k)
		for len(waiting) > 0 && waiting[0].message.ID == k.Message.ID {
			waiting = waiting[1:]
		}
	}
	for _, w := range waiting {
		s.Deliver(out, c, w.message, w.user, false)
	}
}

// takeKept hands over one kept message, of a page that fits into the window.
func (s *Session) takeKept(out *Output, c Clock, k Kept) {
	m := k.Message
	if m.Audience {
		if k.Proof != ledgerv1.Step_STEP_UNSPECIFIED {
			out.Actions = append(out.Actions, Action{Kind: DoReceipt, Step: k.Proof, Message: m.ID, Audience: true})
		}
		if k.Handed || k.Proof != ledgerv1.Step_STEP_UNSPECIFIED {
			return
		}
	} else if r := s.remembers(c.Millis(), m.ID); r != nil {
		s.again(out, r)
		return
	}
	switch {
	case m.Expired(c.Now), m.Notification && s.is(permissionOff):
	case s.room() == 0: // replies took the room meanwhile
		s.miss(out, m.ID)
	default:
		s.hand(out, c, m, k.User, false)
	}
}

// OnPulled takes the answer to a Pull. open false means that the session is no route any more; it is opened again. An answer
// that an Open has overtaken does not count.
func (s *Session) OnPulled(out *Output, c Clock, seq uint16, open bool, kept []Kept, more bool) {
	if !s.is(pulling) || s.active == nil || s.active.pullSeq != seq {
		return
	}
	s.flags &^= pulling
	switch {
	case s.is(closed):
	case !open:
		s.flags &^= wantPull | missedMeanwhile
		s.Reopen(out)
	case s.Receiving():
		s.turnPage(out, kept, more)
		for _, k := range kept {
			s.takeKept(out, c, k)
		}
		s.pullIfRoom(out)
	}
	s.rest(out)
}

// PullFailed notes that a Pull could not be answered; Tick asks again.
func (s *Session) PullFailed(seq uint16) {
	if s.active != nil && s.active.pullSeq == seq {
		s.flags &^= pulling
	}
}

// reportSent reports a message that has not been acknowledged, once.
func (s *Session) reportSent(out *Output, f *flight) {
	if f.flags&(isReported|isReply) == 0 {
		f.flags |= isReported
		out.receipt(ledgerv1.Step_STEP_SENT, f)
	}
}

// qosOf returns the code that grants a subscription.
func qosOf(asked byte) mqtt.Code {
	if asked == 0 {
		return mqtt.Success
	}
	return mqtt.GrantedQoS1
}
