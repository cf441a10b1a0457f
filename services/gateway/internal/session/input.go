package session

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/halleypush/halley/services/gateway/internal/mqtt"
)

// call is a call, or events, that pushcore has not answered yet.
type call struct {
	seq      uint16
	packetID uint16 // 0: QoS 0, nothing to acknowledge
	sent     bool   // false: it waits for the Open
	event    bool
	at       uint32 // milliseconds on the host's clock
	method   string
	json     []byte // of a call that waits
	// id is the raw JSON of the call's own id, echoed in the reply; topic and correlation say where an MQTT 5 client wants it.
	id          []byte
	topic       string
	correlation []byte
}

const (
	// maxID bounds a call's own id, in bytes.
	maxID = 64
	// callsWait and eventsWait are how long calls and events wait for the session to be opened.
	callsWait  = 10 * time.Second
	eventsWait = time.Minute
)

// Stalled reports whether the session takes no more calls and events for now: as many are under way as there may be, and the
// protocol has no way to tell a 3.1.1 client, nor one of MQTT 5 that sends at QoS 0. Hosts stop reading until an answer makes
// room, and then go on with what was left.
func (s *Session) Stalled() bool {
	most := MaxCalls
	if s.is(v5) {
		most *= 2
	}
	return s.active != nil && len(s.active.calls) >= most
}

// Input takes bytes that came from the peer and returns how many were used; what is left is the beginning of a packet that
// is not complete yet, or what a stalled session does not take. A packet that breaks the protocol closes the session.
func (s *Session) Input(out *Output, c Clock, l Limits, input []byte) (used int) {
	for !s.is(closed) {
		p, n, err := mqtt.Next(input[used:], l.MaxPacket)
		if err == nil && n == 0 {
			return used
		}
		if err == nil && s.Stalled() && p.Type() == mqtt.PUBLISH {
			return used
		}
		if err == nil {
			used += n
			s.lastIn = c.Millis()
			if !s.expected(p) && !s.allow(c.Millis(), l) {
				s.disconnect(out, mqtt.MessageRateTooHigh, TooFast)
				return used
			}
			err = s.packet(out, c, p)
		}
		if err != nil {
			s.refuse(out, err)
		}
	}
	return len(input)
}

// refuse closes the session because of a packet.
func (s *Session) refuse(out *Output, err error) {
	reason := Violation
	var e *mqtt.Error
	if !errors.As(err, &e) {
		e = &mqtt.Error{Code: mqtt.UnspecifiedError}
	}
	switch e.Code {
	case mqtt.MalformedPacket:
		reason = Malformed
	case mqtt.PacketTooLarge:
		reason = TooLarge
	}
	s.disconnect(out, e.Code, reason)
}

// allow takes one packet off the client's allowance.
func (s *Session) allow(now uint32, l Limits) bool {
	s.tokens = min(s.tokens+float32(now-s.tokensAt)/1000*l.Rate, l.Burst)
	s.tokensAt = now
	if s.tokens < 1 {
		return false
	}
	s.tokens--
	return true
}

// expected reports whether a packet only acknowledges what was sent: a client may do that as fast as it is sent to.
func (s *Session) expected(p mqtt.Packet) bool {
	if p.Type() != mqtt.PUBACK {
		return false
	}
	id, _, err := mqtt.DecodePuback(p, s.version())
	return err == nil && s.flightOf(id) >= 0
}

func (s *Session) packet(out *Output, c Clock, p mqtt.Packet) error {
	switch p.Type() {
	case mqtt.PUBACK:
		id, code, err := mqtt.DecodePuback(p, s.version())
		if err != nil {
			return err
		}
		s.acked(out, c, id, proofOf(code))
		return nil
	case mqtt.PINGREQ:
		if err := mqtt.CheckPingreq(p); err != nil {
			return err
		}
		out.Bytes = mqtt.AppendPingresp(out.Bytes)
		return nil
	case mqtt.PUBLISH:
		return s.publish(out, c, p)
	case mqtt.SUBSCRIBE:
		return s.subscribe(out, p)
	case mqtt.UNSUBSCRIBE:
		return s.unsubscribe(out, p)
	case mqtt.DISCONNECT:
		if _, err := mqtt.DecodeDisconnect(p, s.version()); err != nil {
			return err
		}
		s.flags |= closed
		out.close(ByClient)
		return nil
	case mqtt.AUTH:
		return &mqtt.Error{Code: mqtt.ProtocolError, Reason: "enhanced authentication is not spoken here"}
	default:
		return &mqtt.Error{Code: mqtt.ProtocolError, Reason: "a packet that a client may not send now"}
	}
}

// publish takes an event or a call; the device can publish nothing else.
func (s *Session) publish(out *Output, c Clock, p mqtt.Packet) error {
	var m mqtt.Publish
	if err := mqtt.DecodePublish(p, s.version(), &m); err != nil {
		return err
	}
	switch {
	case m.QoS == 2:
		return &mqtt.Error{Code: mqtt.QoSNotSupported, Reason: "QoS 2 is not supported"}
	case m.Retain:
		return &mqtt.Error{Code: mqtt.RetainNotSupported, Reason: "retained messages are not supported"}
	case m.HasTopicAlias:
		return &mqtt.Error{Code: mqtt.TopicAliasInvalid, Reason: "topic aliases are not supported"}
	}
	method, event, ok := s.target(m.Topic)
	if !ok {
		if m.QoS == 1 && s.is(v5) {
			out.Bytes = mqtt.AppendPuback(out.Bytes, mqtt.V5, m.PacketID, mqtt.NotAuthorized,
				s.reason("publish to event/{app} or call/{app}/{method}"))
			return nil
		}
		return &mqtt.Error{Code: mqtt.NotAuthorized, Reason: "publish to a topic that is not the device's"}
	}
	if len(m.ResponseTopic) > 0 && !s.ownReply(string(m.ResponseTopic)) {
		return &mqtt.Error{Code: mqtt.TopicNameInvalid, Reason: "a Response Topic must begin with reply/{app}/"}
	}
	a := s.activate(out)
	unacknowledged := 0
	for i := range a.calls {
		switch a.calls[i].packetID {
		case 0:
		case m.PacketID:
			return nil // sent twice (DUP): the first is being worked on, and its acknowledgement counts for both
		default:
			unacknowledged++
		}
	}
	if m.QoS > 0 && unacknowledged >= MaxCalls {
		return &mqtt.Error{Code: mqtt.ReceiveMaximumExceeded, Reason: "too many calls and events under way"}
	}
	a.calls = append(a.calls, call{
		seq: s.seq(), packetID: m.PacketID, event: event, at: c.Millis(), method: method, json: bytes.Clone(m.Payload),
		topic: string(m.ResponseTopic), correlation: bytes.Clone(m.CorrelationData),
	})
	if s.is(opened) {
		s.forwardCalls(out)
	} else {
		s.open(out)
	}
	return nil
}

// target returns what a topic of the device means: event/{app} or call/{app}/{method}.
func (s *Session) target(topic []byte) (method string, event, ok bool) {
	kind, rest, _ := strings.Cut(string(topic), "/")
	app, method, deeper := strings.Cut(rest, "/")
	switch {
	case app != s.App.ID:
		return "", false, false
	case kind == "event" && !deeper:
		return "events", true, true
	case kind == "call" && method != "" && !strings.Contains(method, "/"):
		return method, false, true
	}
	return "", false, false
}

func (s *Session) ownReply(topic string) bool {
	rest, ok := strings.CutPrefix(topic, "reply/"+s.App.ID+"/")
	return ok && rest != "" && !strings.ContainsAny(rest, "+#")
}

// forwardCalls passes on what waits: events all at once, calls one after the other, so that they take effect in order.
func (s *Session) forwardCalls(out *Output) {
	if s.active == nil {
		return
	}
	busy := false
	for i := range s.active.calls {
		k := &s.active.calls[i]
		if k.sent || !k.event && busy {
			busy = busy || !k.event
			continue
		}
		k.sent = true
		busy = busy || !k.event
		if !k.event {
			k.id = callID(k.json)
		}
		out.Actions = append(out.Actions, Action{Kind: DoCall, Seq: k.seq, Method: k.method, JSON: k.json})
		k.json = nil
	}
}

// giveUpCalls answers the calls that have waited for the Open for too long, and forgets such events: their device repeats
// them. It returns after how long the next one is due.
func (s *Session) giveUpCalls(out *Output, c Clock) time.Duration {
	next := time.Hour
	for i := 0; i < len(s.active.calls); {
		k := &s.active.calls[i]
		patience := callsWait
		if k.event {
			patience = eventsWait
		}
		age := time.Duration(c.Millis()-k.at) * time.Millisecond
		switch {
		case k.sent:
			i++
		case age < patience:
			next = min(next, patience-age)
			i++
		default:
			if !k.event {
				k.id = callID(k.json)
			}
			s.answer(out, c, i, Answer{
				Lost: k.event,
				JSON: []byte(`{"code":"UNAVAILABLE","message":"the service cannot be reached right now; try again"}`),
			})
		}
	}
	return next
}

// callID returns the raw value of a call's "id", or nil. What is wrong with the rest of the JSON the answer tells.
func callID(body []byte) []byte {
	var c struct {
		ID json.RawMessage `json:"id"`
	}
	if json.Unmarshal(body, &c) != nil || len(c.ID) == 0 || len(c.ID) > maxID {
		return nil
	}
	switch c.ID[0] {
	case '"', '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		return c.ID
	}
	return nil
}

// Answer is pushcore's answer to a call.
type Answer struct {
	OK   bool
	JSON []byte // the answer's object, or the error's
	// Lost is true if pushcore could not be asked for too long: events stay unacknowledged, and the device repeats them.
	Lost bool
}

// OnAnswer takes the answer to a call, replies to it and acknowledges it.
func (s *Session) OnAnswer(out *Output, c Clock, seq uint16, answer Answer) {
	if s.is(closed) || s.active == nil {
		return
	}
	for i := range s.active.calls {
		if s.active.calls[i].seq == seq {
			s.answer(out, c, i, answer)
			s.forwardCalls(out)
			s.rest(out)
			return
		}
	}
}

// answer ends a call.
func (s *Session) answer(out *Output, c Clock, i int, answer Answer) {
	k := s.active.calls[i]
	s.active.calls = slices.Delete(s.active.calls, i, i+1)
	if k.event {
		s.answerEvent(out, k, answer)
		return
	}
	if k.packetID != 0 {
		out.Bytes = mqtt.AppendPuback(out.Bytes, s.version(), k.packetID, mqtt.Success, "")
	}
	s.reply(out, c, k, answer)
}

// answerEvent acknowledges events that are durable. Refused ones are acknowledged, too, so that the phone does not send them
// for ever; an MQTT 5 client learns why.
func (s *Session) answerEvent(out *Output, k call, answer Answer) {
	if answer.Lost || k.packetID == 0 {
		return
	}
	code, reason := mqtt.Success, ""
	if !answer.OK {
		var e struct {
			Message string `json:"message"`
			Field   string `json:"field"`
		}
		code, reason = mqtt.PayloadFormatInvalid, "refused"
		if json.Unmarshal(answer.JSON, &e) == nil && e.Message != "" {
			reason = strings.TrimPrefix(e.Field+": "+e.Message, ": ")
		}
	}
	out.Bytes = mqtt.AppendPuback(out.Bytes, s.version(), k.packetID, code, s.reason(reason))
}

// reason returns a reason string, or nothing for a client that wants none, or only small packets.
func (s *Session) reason(text string) string {
	if s.is(terse) || s.maxPacket > 0 && len(text)+16 > int(s.maxPacket) {
		return ""
	}
	return text
}

// reply sends the answer to a call where the client wants it: on its Response Topic, or on reply/{app}/{method} if it has
// subscribed to that.
func (s *Session) reply(out *Output, c Clock, k call, answer Answer) {
	topic := k.topic
	if topic == "" {
		if !s.Replies(k.method) {
			return
		}
		topic = "reply/" + s.App.ID + "/" + k.method
	}
	payload := []byte{'{'}
	if k.id != nil {
		payload = append(append(append(payload, `"id":`...), k.id...), ',')
	}
	if answer.OK {
		payload = append(payload, `"ok":`...)
	} else {
		payload = append(payload, `"error":`...)
	}
	payload = append(append(payload, answer.JSON...), '}')
	o := mqtt.Outgoing{Topic: topic, Payload: payload, JSON: true, Correlation: k.correlation}
	// A window that is full of pushes does not hold a reply back: it goes out at QoS 0 then.
	if s.is(repliesQoS1) && s.room() > 0 {
		o.QoS = 1
	}
	begin := len(out.Bytes)
	var offset int
	out.Bytes, offset = o.Append(out.Bytes, s.version(), nil)
	if !mqtt.Fits(out.Bytes[begin:], s.maxPacket) {
		out.Bytes = out.Bytes[:begin]
		return
	}
	if o.QoS == 1 {
		id := s.freeID()
		mqtt.SetPacketID(out.Bytes[begin:], offset, id)
		s.active.flights = append(s.active.flights, flight{id: id, at: c.Millis(), flags: isReply})
	}
}

func (s *Session) hasReply(topic string) bool {
	if s.active != nil {
		for _, r := range s.active.replies {
			if r == topic {
				return true
			}
		}
	}
	return false
}

// subscribe grants the device's own topics and nothing else.
func (s *Session) subscribe(out *Output, p mqtt.Packet) error {
	sub, err := mqtt.DecodeSubscribe(p, s.version())
	if err != nil {
		return err
	}
	if sub.HasID {
		return &mqtt.Error{Code: mqtt.SubscriptionIDsRefused, Reason: "subscription identifiers are not supported"}
	}
	codes := make([]mqtt.Code, len(sub.Filters))
	for i, f := range sub.Filters {
		codes[i] = s.grant(out, f)
	}
	begin := len(out.Bytes)
	out.Bytes = mqtt.AppendSuback(out.Bytes, s.version(), sub.PacketID, codes)
	if err := s.codesFit(out, begin); err != nil {
		return err
	}
	s.open(out)
	return nil
}

// codesFit takes a SUBACK or UNSUBACK back that is larger than the client takes. Such a client waits for its codes in vain,
// so that the connection ends.
func (s *Session) codesFit(out *Output, begin int) error {
	if mqtt.Fits(out.Bytes[begin:], s.maxPacket) {
		return nil
	}
	out.Bytes = out.Bytes[:begin]
	return &mqtt.Error{Code: mqtt.PacketTooLarge, Reason: "the codes for so many topics are larger than the client takes"}
}

func (s *Session) grant(out *Output, f mqtt.Filter) mqtt.Code {
	switch {
	case f.Topic == "push/"+s.App.ID:
		s.flags |= subscribed
		s.set(subscribedQoS1, f.QoS > 0)
	case f.Topic == "reply/"+s.App.ID+"/+":
		s.flags |= repliesAny
		s.set(repliesQoS1, f.QoS > 0)
	case s.ownReply(f.Topic):
		if a := s.activate(out); !s.hasReply(f.Topic) {
			if len(a.replies) >= MaxCalls {
				return mqtt.QuotaExceeded
			}
			a.replies = append(a.replies, f.Topic)
		}
		s.set(repliesQoS1, f.QoS > 0)
	case strings.HasPrefix(f.Topic, "$share/"):
		return mqtt.SharedNotSupported
	case strings.ContainsAny(f.Topic, "+#"):
		return mqtt.WildcardNotSupported
	default:
		return mqtt.NotAuthorized
	}
	return qosOf(f.QoS)
}

func (s *Session) unsubscribe(out *Output, p mqtt.Packet) error {
	u, err := mqtt.DecodeUnsubscribe(p, s.version())
	if err != nil {
		return err
	}
	codes := make([]mqtt.Code, len(u.Topics))
	for i, topic := range u.Topics {
		if !s.revoke(topic) {
			codes[i] = mqtt.NoSubscriptionExisted
		}
	}
	begin := len(out.Bytes)
	out.Bytes = mqtt.AppendUnsuback(out.Bytes, s.version(), u.PacketID, codes)
	if err := s.codesFit(out, begin); err != nil {
		return err
	}
	if s.is(opened) || s.is(asked) {
		s.open(out)
	}
	return nil
}

// revoke ends a subscription and reports whether there was one.
func (s *Session) revoke(topic string) bool {
	switch {
	case topic == "push/"+s.App.ID:
		was := s.is(subscribed)
		s.set(stale, s.is(asked))
		s.flags &^= subscribed | subscribedQoS1 | live | wantPull | missedMeanwhile
		return was
	case topic == "reply/"+s.App.ID+"/+":
		was := s.is(repliesAny)
		s.flags &^= repliesAny
		return was
	case s.hasReply(topic):
		replies := s.active.replies
		for i := range replies {
			if replies[i] == topic {
				s.active.replies = append(replies[:i], replies[i+1:]...)
				return true
			}
		}
	}
	return false
}
