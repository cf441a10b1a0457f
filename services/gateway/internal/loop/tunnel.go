package loop

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/halleypush/halley/services/gateway/internal/gate"
	"github.com/halleypush/halley/services/gateway/internal/mqtt"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

// One connection may carry several apps of a phone: those that are attached to it have a session of their own, in the loop where
// their device lives, which reads and writes packets by way of the connection that carries them. Topics say whose a packet is,
// and the highest bits of a packet identifier whose an acknowledgement is.

const (
	// maxIdentities is how many a connection may carry, its own included.
	maxIdentities = 1 << (16 - session.IDBits)
	// maxAhead bounds what waits for an attached session that takes no more for now.
	maxAhead = 64 << 10
)

// tunnel is what a connection has that carries others, by lane; its own is lane 0.
type tunnel struct{ riders [maxIdentities]rider }

// rider is an attached identity as its carrier sees it.
type rider struct {
	app  string // empty: the lane is free
	ref  Ref    // the zero Ref until it is attached
	seq  uint16 // of the call that waits for an answer
	asks bool   // there is such a call
}

// ride is what an attached identity has in place of a socket.
type ride struct {
	carrier Ref
	lane    byte
	app     string
	pass    gate.Pass      // the carrier's address
	reason  session.Reason // why it ended
	replies bool           // the phone hears of that on reply/{app}/detach
	refusal json.RawMessage
}

func (t *tunnel) find(app string) int {
	for lane := range t.riders {
		if lane > 0 && t.riders[lane].app == app {
			return lane
		}
	}
	return 0
}

// refusedCall is what a refused call, or a session that ends by itself, is told.
type refusedCall struct {
	Code         string `json:"code"`
	Message      string `json:"message"`
	Field        string `json:"field,omitempty"`
	Reason       string `json:"reason,omitempty"`
	RetryAfterMS int64  `json:"retry_after_ms,omitempty"`
}

func (r refusedCall) json() json.RawMessage {
	text, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings can be written
	}
	return text
}

// callError returns the JSON of a refused call.
func callError(code, field, format string, args ...any) json.RawMessage {
	return refusedCall{Code: code, Field: field, Message: fmt.Sprintf(format, args...)}.json()
}

// refuse notes why an identity is not attached.
func (r *ride) refuse(code, field, why string, retryAfter time.Duration) {
	r.refusal = refusedCall{Code: code, Field: field, Message: why, RetryAfterMS: retryAfter.Milliseconds()}.json()
}

// reply has a session answer its call, soon.
func (l *Loop) reply(i int32, seq uint16, ok bool, body json.RawMessage) {
	l.post(answered{{Ref: l.ref(i), Seq: seq, Answer: session.Answer{OK: ok, JSON: body}}})
}

// attach begins to carry another identity, whose secret is checked like that of any connection.
func (l *Loop) attach(i int32, a *session.Action) {
	var body struct{ App, Token, Secret string }
	lane, refusal := 0, json.RawMessage(nil)
	if err := json.Unmarshal(a.JSON, &body); err != nil {
		refusal = callError("INVALID_ARGUMENT", "", "attach takes app, token and secret, which are strings")
	} else {
		lane, refusal = l.lane(i, body.App, body.Token, body.Secret)
	}
	if refusal != nil {
		l.reply(i, a.Seq, false, refusal)
		return
	}
	c := l.conns.at(i)
	c.rest.tunnel.riders[lane] = rider{app: body.App, seq: a.Seq, asks: true}
	j := l.conns.take()
	r := l.conns.at(j)
	r.state, r.fd, r.transport = stateAdmitting, none, c.transport
	r.hello = session.Unidentified{Begun: l.clock.Since}
	connect := c.session.ConnectFor(body.App, body.Token, body.Secret)
	r.rest = &rest{connect: connect, ride: &ride{carrier: l.ref(i), lane: byte(lane), app: body.App, pass: c.pass}}
	_, left := r.hello.Late(l.clock)
	l.wheel.set(l.conns.link, j, left)
	if admission, now := l.set.door.Admit(connect, netip.Addr{}, Ticket(l.ref(j))); now {
		l.post(&admitted{ref: l.ref(j), admission: admission}) // the output is in use
	}
}

// lane returns a free lane of a connection for an identity, or why there is none.
func (l *Loop) lane(i int32, app, token, secret string) (lane int, refusal json.RawMessage) {
	c := l.conns.at(i)
	for field, value := range map[string]string{"app": app, "token": token, "secret": secret} {
		if value == "" {
			return 0, callError("INVALID_ARGUMENT", field, "is needed")
		}
	}
	if c.rest != nil && c.rest.ride != nil {
		return 0, callError("FAILED_PRECONDITION", "", "call attach and detach as the app that the connection was opened for")
	}
	if c.session.Share() == 0 {
		return 0, callError("FAILED_PRECONDITION", "", "the connection's Receive Maximum must be at least %d", session.MinShared)
	}
	r := l.restOf(c)
	if r.tunnel == nil {
		r.tunnel = &tunnel{}
	}
	if app == c.session.App.ID || r.tunnel.find(app) > 0 {
		return 0, callError("ALREADY_EXISTS", "app", "the connection carries a device of this app; detach it first")
	}
	if lane = r.tunnel.find(""); lane == 0 {
		return 0, callError("RESOURCE_EXHAUSTED", "", "a connection carries %d identities at the most", maxIdentities)
	}
	return lane, nil
}

// detach ends the session of an attached identity.
func (l *Loop) detach(i int32, a *session.Action) {
	c := l.conns.at(i)
	var body struct{ App string }
	if err := json.Unmarshal(a.JSON, &body); err != nil || body.App == "" {
		l.reply(i, a.Seq, false, callError("INVALID_ARGUMENT", "app", "is needed"))
		return
	}
	lane := 0
	if c.rest != nil && c.rest.tunnel != nil {
		lane = c.rest.tunnel.find(body.App)
	}
	if lane == 0 || c.rest.tunnel.riders[lane].ref.loop == nil {
		l.reply(i, a.Seq, false, callError("NOT_FOUND", "app", "the connection carries no attached device of this app"))
		return
	}
	r := &c.rest.tunnel.riders[lane]
	r.seq, r.asks = a.Seq, true
	r.ref.loop.post(&cut{r.ref})
}

// cut ends an attached session.
type cut struct{ ref Ref }

func (c *cut) run(l *Loop) {
	if l.get(c.ref) != nil {
		l.close(c.ref.index, session.ByClient)
	}
}

// aboard tells the carrier that an identity has its session.
type aboard struct {
	ride *ride
	ref  Ref
}

func (a *aboard) run(l *Loop) {
	c := l.get(a.ride.carrier)
	if c == nil || c.state != stateLive {
		a.ref.loop.post(&cut{a.ref})
		return
	}
	i := a.ride.carrier.index
	r := &c.rest.tunnel.riders[a.ride.lane]
	r.ref, r.asks = a.ref, false
	c.session.SetShared()
	l.reply(i, r.seq, true, json.RawMessage(`{}`))
}

// ashore tells the carrier that an identity has no session any more, or got none.
type ashore struct{ ride *ride }

func (a *ashore) run(l *Loop) {
	c := l.get(a.ride.carrier)
	if c == nil || c.state != stateLive {
		return
	}
	i := a.ride.carrier.index
	r := c.rest.tunnel.riders[a.ride.lane]
	c.rest.tunnel.riders[a.ride.lane] = rider{}
	switch {
	case sinks(a.ride.reason): // what it did to end its session ends the connection
		c.session.Disconnect(&l.out, mqtt.Disconnect{Code: sinkCodes[a.ride.reason]}, a.ride.reason)
		l.perform(i)
	case r.asks && r.ref.loop != nil: // detached as asked
		l.reply(i, r.seq, true, json.RawMessage(`{}`))
	case r.asks && a.ride.refusal != nil:
		l.reply(i, r.seq, false, a.ride.refusal)
	case r.asks:
		l.reply(i, r.seq, false, callError("UNAVAILABLE", "", "the device cannot be attached now; try again"))
	case a.ride.replies:
		why := refusedCall{Code: "ABORTED", Reason: a.ride.reason.String(), Message: "the session ended: " + a.ride.reason.String()}
		o := mqtt.Outgoing{Topic: "reply/" + r.app + "/detach", JSON: true, Payload: fmt.Appendf(nil, `{"error":%s}`, why.json())}
		packet, _ := o.Append(nil, c.session.Version(), nil)
		l.write(i, packet)
	}
}

// sinkCodes are the reasons for which the connection ends with an attached session, and what the phone is told.
var sinkCodes = map[session.Reason]mqtt.Code{ //nolint:gochecknoglobals // a table
	session.Violation: mqtt.ProtocolError, session.Malformed: mqtt.MalformedPacket, session.TooLarge: mqtt.PacketTooLarge,
	session.TooFast: mqtt.MessageRateTooHigh, session.NoAck: mqtt.KeepAliveTimeout,
}

func sinks(r session.Reason) bool { _, ok := sinkCodes[r]; return ok }

// leave ends what a connection has to do with others: those that it carries, or the one that carries it.
func (l *Loop) leave(c *conn) {
	if c.rest == nil {
		return
	}
	if t := c.rest.tunnel; t != nil {
		for lane := range t.riders {
			if ref := t.riders[lane].ref; ref.loop != nil {
				ref.loop.post(&cut{ref})
			}
		}
	}
	if r := c.rest.ride; r != nil {
		r.carrier.loop.post(&ashore{r})
	}
}

// route gives the packets that came on a connection that carries others to whom they are for.
func (l *Loop) route(i int32, data []byte) (used int) {
	c := l.conns.at(i)
	gen, t := c.gen, c.rest.tunnel
	for used < len(data) && c.gen == gen && c.state == stateLive {
		p, n, err := mqtt.Next(data[used:], l.set.limits.MaxPacket)
		if err == nil && n == 0 {
			return used
		}
		lane := 0
		if err == nil {
			lane = t.laneOf(p, c.session.Version())
		} else {
			n = len(data) - used // the session says what is wrong with it
		}
		if lane == 0 {
			taken := c.session.Input(&l.out, l.clock, l.set.limits, data[used:used+n])
			l.perform(i)
			if taken == 0 {
				return used // it takes no more for now
			}
			used += taken
			if c.gen != gen || !l.affords(i, taken) {
				return used
			}
			continue
		}
		packet := bytes.Clone(data[used : used+n])
		if p.Type() == mqtt.PUBACK {
			packet[n-len(p.Body)] &= 1<<(session.IDBits-8) - 1
		}
		c.session.Heard(l.clock)
		ref := t.riders[lane].ref
		ref.loop.post(&forwarded{ref, packet})
		used += n
	}
	return used
}

// laneOf returns whose a packet is.
func (t *tunnel) laneOf(p mqtt.Packet, version byte) int {
	topic := ""
	switch p.Type() {
	case mqtt.PUBACK:
		if len(p.Body) < 2 {
			return 0
		}
		if lane := int(p.Body[0] >> (session.IDBits - 8)); t.riders[lane].ref.loop != nil {
			return lane
		}
		return 0
	case mqtt.PUBLISH:
		if len(p.Body) < 2 {
			return 0
		}
		if n := int(binary.BigEndian.Uint16(p.Body)); n <= len(p.Body)-2 {
			topic = string(p.Body[2 : 2+n])
		}
	case mqtt.SUBSCRIBE:
		if s, err := mqtt.DecodeSubscribe(p, version); err == nil {
			topic = s.Filters[0].Topic
		}
	case mqtt.UNSUBSCRIBE:
		if u, err := mqtt.DecodeUnsubscribe(p, version); err == nil {
			topic = u.Topics[0]
		}
	}
	_, rest, _ := strings.Cut(topic, "/")
	app, _, _ := strings.Cut(rest, "/")
	if lane := t.find(app); app != "" && t.riders[lane].ref.loop != nil {
		return lane
	}
	return 0
}

// forwarded is a packet for an attached session.
type forwarded struct {
	ref    Ref
	packet []byte
}

func (f *forwarded) run(l *Loop) {
	c := l.get(f.ref)
	if c == nil || c.state != stateLive {
		return
	}
	if !l.affords(f.ref.index, len(f.packet)) {
		return
	}
	l.feed(f.ref.index, f.packet)
	if c.gen == f.ref.gen && c.state == stateLive && len(c.rest.in) > maxAhead {
		c.session.Disconnect(&l.out, mqtt.Disconnect{Code: mqtt.MessageRateTooHigh}, session.TooFast)
		l.perform(f.ref.index)
	}
}

// ferry sends what an attached session writes to its carrier.
func (r *ride) ferry(data []byte) { r.carrier.loop.post(&ferried{r, bytes.Clone(data)}) }

type ferried struct {
	ride *ride
	data []byte
}

func (f *ferried) run(l *Loop) {
	c := l.get(f.ride.carrier)
	if c == nil || c.state != stateLive {
		return
	}
	out := f.data[:0]
	for rest := f.data; len(rest) > 0; {
		p, n, err := mqtt.Next(rest, len(rest))
		if err != nil || n == 0 { // our mistake, which must not cost the others their gateway
			l.log.Error("an attached session wrote what is no packet", "app", f.ride.app)
			rider := c.rest.tunnel.riders[f.ride.lane].ref
			if rider.loop != nil {
				rider.loop.post(&cut{rider})
			}
			return
		}
		packet := rest[:n]
		rest = rest[n:]
		switch p.Type() {
		case mqtt.CONNACK, mqtt.DISCONNECT:
			continue // they are about its session, not the connection
		case mqtt.PUBLISH:
			if p.First&0x06 != 0 {
				p.Body[2+binary.BigEndian.Uint16(p.Body)] |= f.ride.lane << (session.IDBits - 8)
			}
		}
		out = append(out, packet...)
	}
	if len(out) > 0 {
		l.write(f.ride.carrier.index, out)
	}
}

// probing has the connection of an attached session probed.
type probing struct{ carrier Ref }

func (p *probing) run(l *Loop) {
	if c := l.get(p.carrier); c != nil && c.fd != none {
		probeNative(int(c.fd))
	}
}
