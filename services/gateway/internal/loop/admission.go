package loop

// From CONNECT to a session on its own loop: the check of the secret, and the move to the loop of the device.

import (
	"bytes"
	"net/netip"
	"time"

	"github.com/halleypush/halley/services/gateway/internal/gate"
	"github.com/halleypush/halley/services/gateway/internal/mqtt"
	"github.com/halleypush/halley/services/gateway/internal/session"
	"github.com/halleypush/halley/services/gateway/internal/websocket"
)

// greet takes a connection's CONNECT and has it checked. While others are asked it is not read.
func (l *Loop) greet(i int32, data []byte, own bool) {
	c := l.conns.at(i)
	gen := c.gen
	connect, used, refused := c.hello.Input(&l.out, l.set.limits, data)
	if refused != mqtt.Success {
		c.rest.failed = true
		l.set.metrics.connects.WithLabelValues(outcomeOf(refused)).Inc()
	}
	l.perform(i)
	if c.gen != gen || c.state != stateHello {
		return
	}
	l.keep(i, data[used:], own)
	if connect == nil {
		return
	}
	if r := l.set.gate.Slowed(c.pass); r != nil {
		l.turnAway(i, r)
		return
	}
	c.state = stateAdmitting
	c.rest.connect = connect
	if admission, now := l.set.door.Admit(connect, c.rest.remote, Ticket(l.ref(i))); now {
		l.admit(i, admission)
	} else {
		l.stall(i, true)
	}
}

// welcome has the gate count a connection of which no more is known than where it comes from. It reports false if it is to be
// closed without a word.
func (s *Set) welcome(a *arrival) bool {
	if !s.wanted(s.gate.Arrive(a.port.TLS != nil)) {
		return false
	}
	if a.port.Balancers != nil || s.meet(a.remote, &a.pass) { // a balancer says first who its client is
		return true
	}
	s.gate.Depart(0, false)
	return false
}

// meet asks the gate about a client's address, likewise.
func (s *Set) meet(remote netip.Addr, pass *gate.Pass) bool {
	known, why := s.gate.Introduce(remote)
	*pass = known
	return s.wanted(why)
}

func (s *Set) wanted(why gate.Reason) bool {
	if why != "" {
		s.metrics.closings[why].Inc()
	}
	return why == ""
}

// depart tells the gate of a connection that has said who it is, or is over.
func (l *Loop) depart(c *conn, failed bool) {
	if c.rest.knocked {
		c.rest.knocked = false
		l.set.gate.Depart(c.pass, failed)
	}
}

// turnAway refuses a connection that there is no room for, and names a time to come back.
func (l *Loop) turnAway(i int32, r *gate.Refusal) {
	code := mqtt.QuotaExceeded
	switch r.Reason {
	case gate.Rate, gate.AddressRate, gate.AppRate, gate.Flapping, gate.AddressFailing:
		code = mqtt.ConnectionRateExceeded
	}
	l.set.metrics.refusals[r.Reason].Inc()
	l.set.metrics.connects.WithLabelValues(outcomeOf(code)).Inc()
	if c := l.conns.at(i); c.rest.ride != nil {
		c.rest.ride.refuse("RESOURCE_EXHAUSTED", "", string(r.Reason), r.RetryAfter)
	}
	l.conns.at(i).hello.Refuse(&l.out, code, string(r.Reason), r.RetryAfter)
	l.perform(i)
}

// admitted is the answer of a door that had to ask others.
type admitted struct {
	ref       Ref
	admission Admission
}

func (a *admitted) run(l *Loop) {
	c := l.get(a.ref)
	if c == nil || c.state != stateAdmitting {
		return
	}
	l.admit(a.ref.index, a.admission)
	if c.gen == a.ref.gen {
		c.letRead()
	}
}

// admit lets a connection in whose CONNECT has been believed, or refuses it. A device's connections all live in one loop, so
// this one may have to move.
func (l *Loop) admit(i int32, a Admission) {
	c := l.conns.at(i)
	if a.Refuse != mqtt.Success {
		l.set.metrics.connects.WithLabelValues(outcomeOf(a.Refuse)).Inc()
		if r := c.rest.ride; r != nil {
			why := a.Reason
			if a.Field != "" {
				why = "is wrong"
			}
			r.refuse(refusalOf(a.Refuse), a.Field, why, a.RetryAfter)
		}
		if a.Crowd {
			a.RetryAfter = l.set.gate.ComeBack(a.RetryAfter)
		}
		c.rest.failed = refusalOf(a.Refuse) == "UNAUTHENTICATED" // and not for what we lack
		c.hello.Refuse(&l.out, a.Refuse, a.Reason, a.RetryAfter)
		l.perform(i)
		return
	}
	pass, refusal := l.enter(c, a)
	if refusal != nil {
		l.turnAway(i, refusal)
		return
	}
	l.depart(c, false)
	m := &move{
		fd: c.fd, outside: c.rest.outside, tls: c.rest.tls, websocket: c.rest.websocket, ride: c.rest.ride, transport: c.transport,
		begun: c.hello.Begun, in: c.rest.in, connect: c.rest.connect, admission: a, gate: l.set.gate, pass: pass,
	}
	home := l.set.home(a.App.Number, a.Ordinal)
	if home == l {
		l.settle(i, m)
		return
	}
	if c.watched {
		if err := l.poll.remove(int(c.fd)); err != nil {
			l.log.Error("cannot move a connection", "error", err)
			m.leave()
			l.close(i, session.Overload)
			return
		}
	}
	if m.tls != nil {
		m.tls.pipe.in = bytes.Clone(m.tls.pipe.in) // it lies in this loop's buffer
	}
	l.wheel.unset(l.conns.link, i)
	l.conns.give(i)
	home.post(m)
}

// enter has the gate let a device in. An attached one comes from the address of its carrier.
func (l *Loop) enter(c *conn, a Admission) (gate.Pass, *gate.Refusal) {
	if c.rest.ride != nil {
		return l.set.gate.EnterBeside(c.rest.ride.pass, a.App.Number, a.Ordinal)
	}
	return l.set.gate.Enter(c.rest.remote, a.App.Number, a.Ordinal)
}

// move is an admitted connection on its way to the loop where its device lives.
type move struct {
	fd        int32
	outside   *outside
	tls       *secured
	websocket *websocket.Decoder
	ride      *ride
	transport Transport
	begun     time.Duration
	in        []byte
	connect   *mqtt.Connect
	admission Admission
	gate      *gate.Gate
	pass      gate.Pass
}

// leave gives the pass back: the connection has not got a session.
func (m *move) leave() { m.gate.Leave(m.pass, m.admission.App.Number) }

// drop closes the connection: the loop where it should have gone has ended.
func (m *move) drop() {
	m.leave()
	switch {
	case m.fd != none:
		closeNative(int(m.fd))
	case m.outside != nil:
		m.outside.discard()
	default:
		m.ride.carrier.loop.post(&ashore{m.ride})
	}
}

func (m *move) run(l *Loop) {
	if l.stopping {
		m.drop()
		return
	}
	i := l.conns.take()
	c := l.conns.at(i)
	c.fd, c.transport, c.state = m.fd, m.transport, stateAdmitting
	c.rest = &rest{outside: m.outside, tls: m.tls, websocket: m.websocket, ride: m.ride}
	if m.outside != nil {
		r := l.ref(i)
		m.outside.ref.Store(&r)
	}
	gen := c.gen
	l.settle(i, m)
	if c.gen == gen && m.tls != nil {
		l.take(i, m.tls.pipe.in)
	}
	if c.gen == gen {
		l.heed(i)
		c.letRead()
	}
}

// settle begins the session of an admitted connection in its own loop, in place of an older one of the same device.
func (l *Loop) settle(i int32, m *move) {
	c := l.conns.at(i)
	a := m.admission
	if old, ok := l.index.find(a.App.Number, a.Ordinal); ok {
		l.conns.at(old).session.Supersede(&l.out)
		l.perform(old)
	}
	c.state, c.pass = stateLive, m.pass
	c.rest.in, c.rest.connect, c.rest.port = nil, nil, nil
	c.trim()
	c.session = session.New(session.Start{
		App: a.App, Ordinal: a.Ordinal, Number: l.set.numbers.Add(1), Generation: a.Generation, Connect: m.connect,
		Begun: m.begun, Token: a.Token, Secret: a.Secret, Report: a.Report, Rides: m.ride != nil,
	}, l.set.limits, l.clock, &l.out)
	l.index.put(a.App.Number, a.Ordinal, i)
	if m.ride != nil {
		m.ride.carrier.loop.post(&aboard{m.ride, l.ref(i)})
	}
	l.set.metrics.connects.WithLabelValues("accepted").Inc()
	l.set.metrics.addSession(1)
	gen := c.gen
	l.perform(i)
	if c.gen != gen || c.state != stateLive {
		return
	}
	l.wheel.set(l.conns.link, i, min(l.lifeLeft(c), c.session.Tick(&l.out, l.clock)))
	l.perform(i)
	if c.gen == gen && c.state == stateLive {
		l.feed(i, m.in)
	}
}
