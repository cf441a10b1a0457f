package loop

import (
	"time"

	"github.com/google/uuid"

	"github.com/halleypush/halley/pkg/ordinal"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/gateway/internal/receipt"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

// perform does what a session wants, and empties the output. Receipts and the like come before the bytes: they must not be
// lost because the peer is gone.
func (l *Loop) perform(i int32) {
	c := l.conns.at(i)
	gen := c.gen
	var end session.Reason
	for k := range l.out.Actions {
		if a := &l.out.Actions[k]; a.Kind == session.DoClose {
			end = a.Reason
		} else {
			l.act(i, a)
		}
	}
	if len(l.out.Bytes) > 0 {
		l.write(i, l.out.Bytes)
	}
	l.out.Reset()
	if end != 0 && c.gen == gen {
		l.finish(i, end)
	}
	if c.gen == gen && c.state == stateLive {
		l.wheel.sooner(l.conns.link, i, c.session.DueSooner())
	}
}

func (l *Loop) act(i int32, a *session.Action) {
	c := l.conns.at(i)
	switch a.Kind {
	case session.DoReceipt:
		l.receipt(c, a)
	case session.DoOpen:
		l.set.core.Open(l.openRequest(i, a.Receiving, a.Limit))
	case session.DoPull:
		l.set.core.Pull(Pull{
			Ref: l.ref(i), App: c.session.App.Number, Ordinal: c.session.Ordinal, Session: c.session.Number,
			Seq: a.Seq, After: a.After, Limit: a.Limit,
		})
	case session.DoCall:
		switch a.Method {
		case "attach":
			l.attach(i, a)
			return
		case "detach":
			l.detach(i, a)
			return
		}
		l.set.core.Call(Call{
			Ref: l.ref(i), App: c.session.App.Number, Ordinal: c.session.Ordinal, Seq: a.Seq, Method: a.Method, JSON: a.JSON,
		})
	case session.DoHanded:
		l.memory.of(l.pushSlice(c, a.Message), l.clock.Since).sent.Add(ordinal.Low(c.session.Ordinal))
	case session.DoProbe:
		l.set.metrics.probes.Inc()
		switch {
		case c.fd != none:
			probeNative(int(c.fd))
		case c.rest != nil && c.rest.ride != nil:
			c.rest.ride.carrier.loop.post(&probing{c.rest.ride.carrier})
		}
	}
}

// lingerFor is how long a peer may take to read what was said last.
const lingerFor = 2 * time.Second

func (l *Loop) openRequest(i int32, receiving bool, limit int) Open {
	s := &l.conns.at(i).session
	return Open{
		Ref: l.ref(i), App: s.App.Number, Ordinal: s.Ordinal, Session: s.Number, Generation: s.Generation,
		Begun: l.clock.Now.Add(-s.Age(l.clock)), Receiving: receiving, Limit: limit,
		Returned: !s.Registered(), Report: s.Report(),
	}
}

func (l *Loop) pushSlice(c *conn, push uuid.UUID) pushSlice {
	return pushSlice{appSlice{c.session.App.Number, ordinal.Slice(c.session.Ordinal)}, push}
}

// receipt notes a step that a delivery took.
func (l *Loop) receipt(c *conn, a *session.Action) {
	if a.Step == ledgerv1.Step_STEP_ARRIVED {
		l.tally.acks++
	}
	if a.Audience {
		h := l.memory.of(l.pushSlice(c, a.Message), l.clock.Since)
		switch low := ordinal.Low(c.session.Ordinal); a.Step {
		case ledgerv1.Step_STEP_ARRIVED:
			h.acked.Add(low)
		case ledgerv1.Step_STEP_SENT_UNCONFIRMED:
			h.sent.Add(low)
			h.unconfirmed.Add(low)
		}
	}
	l.receipts = append(l.receipts, receipt.Item{
		App: c.session.App.Number, Ordinal: c.session.Ordinal, Push: a.Message, Step: a.Step, Audience: a.Audience,
	})
	l.set.traces.step(c.session.Number, a.Message, a.Step)
}

// write sends bytes to the peer, through the connection's layers.
func (l *Loop) write(i int32, data []byte) {
	if c := l.conns.at(i); c.rest != nil && c.rest.ride != nil {
		c.rest.ride.ferry(data)
		return
	}
	l.tally.bytesOut += len(data)
	l.transmit(i, l.wrap(l.conns.at(i), data))
}

// transmit writes bytes to the socket. What it does not take now waits, up to a bound.
func (l *Loop) transmit(i int32, data []byte) {
	c := l.conns.at(i)
	if c.fd == none {
		r := l.ref(i)
		if c.rest.outside.write(data, func() { l.post(&arrived{ref: r, over: true}) }) > maxUnsent {
			l.close(i, session.SlowReader)
		}
		return
	}
	if c.rest == nil || len(c.rest.out) == 0 {
		n, err := writeNative(int(c.fd), data)
		if err != nil {
			l.close(i, session.ByPeer)
			return
		}
		if data = data[n:]; len(data) == 0 {
			return
		}
	}
	r := l.restOf(c)
	if len(r.out)+len(data) > maxUnsent {
		l.close(i, session.SlowReader)
		return
	}
	r.out = append(r.out, data...)
	l.await(i)
}

// await has the poller say when the socket takes more.
func (l *Loop) await(i int32) {
	if c := l.conns.at(i); !c.rest.waiting {
		c.rest.waiting = true
		l.watch(i)
	}
}

// heed has the poller watch a connection's socket from now on. That comes after what is there already has been read, for which the loop's
// thread would be woken otherwise.
func (l *Loop) heed(i int32) {
	if c := l.conns.at(i); c.fd != none {
		c.watched = true
		l.tell(i, l.poll.add)
	}
}

// watch tells the poller what a connection waits for now, if it watches it.
func (l *Loop) watch(i int32) {
	if l.conns.at(i).watched {
		l.tell(i, l.poll.watch)
	}
}

func (l *Loop) tell(i int32, poll func(fd int, token uint64, readable, writable bool) error) {
	c := l.conns.at(i)
	if err := poll(int(c.fd), token(i, c.gen), !c.stalled, c.rest != nil && c.rest.waiting); err != nil {
		l.log.Error("cannot watch a connection", "error", err)
		l.close(i, session.Overload)
	}
}

// flush sends what waited for the socket.
func (l *Loop) flush(i int32) {
	c := l.conns.at(i)
	if c.rest == nil || !c.rest.waiting {
		return
	}
	n, err := writeNative(int(c.fd), c.rest.out)
	if err != nil {
		l.close(i, session.ByPeer)
		return
	}
	if c.rest.out = c.rest.out[n:]; len(c.rest.out) > 0 {
		return
	}
	c.rest.out, c.rest.waiting = nil, false
	gen := c.gen
	l.watch(i)
	if c.gen != gen {
		return
	}
	if c.state == stateClosing {
		shutdownNative(int(c.fd))
	}
	c.trim()
}

// finish ends a connection after the peer has had time to read what was said last. Closing a socket at once, with bytes
// of the peer unread, would throw that away.
func (l *Loop) finish(i int32, reason session.Reason) {
	c := l.conns.at(i)
	gen := c.gen
	l.over(i, reason)
	if c.state = stateClosing; c.rest != nil {
		l.farewell(i)
	}
	if c.gen != gen {
		return
	}
	if c.fd == none {
		l.free(i)
		return
	}
	c.stalled = false
	if c.rest == nil || !c.rest.waiting {
		shutdownNative(int(c.fd))
	}
	l.watch(i)
	if c.state == stateClosing {
		l.wheel.set(l.conns.link, i, lingerFor)
	}
}

// close ends a connection and everything that hangs on it.
func (l *Loop) close(i int32, reason session.Reason) {
	c := l.conns.at(i)
	if c.state == stateFree {
		return
	}
	if c.state != stateClosing {
		l.over(i, reason)
	}
	l.free(i)
}

// over ends what hangs on a connection.
func (l *Loop) over(i int32, reason session.Reason) {
	c := l.conns.at(i)
	l.set.metrics.closes.WithLabelValues(reason.String()).Inc()
	if c.rest != nil && c.rest.ride != nil {
		c.rest.ride.reason = reason
		c.rest.ride.replies = c.state == stateLive && c.session.Replies("detach")
	}
	if c.state == stateLive {
		l.endSession(i, reason)
		return
	}
	late := reason == session.ConnectTimeout && c.state < stateAdmitting // and not because others did not answer
	l.depart(c, c.rest.failed || late || reason == session.Malformed)
}

// free gives a connection and its socket back.
func (l *Loop) free(i int32) {
	c := l.conns.at(i)
	l.leave(c)
	riding := c.rest != nil && c.rest.ride != nil
	if !riding {
		l.set.metrics.connections[c.transport].Dec()
	}
	l.wheel.unset(l.conns.link, i)
	if c.fd != none {
		closeNative(int(c.fd))
	} else if !riding {
		c.rest.outside.close()
	}
	l.conns.give(i)
}

func (l *Loop) endSession(i int32, reason session.Reason) {
	c := l.conns.at(i)
	s := &c.session
	l.set.metrics.addSession(-1)
	l.set.gate.Leave(c.pass, s.App.Number)
	if at, ok := l.index.find(s.App.Number, s.Ordinal); ok && at == i {
		l.index.remove(s.App.Number, s.Ordinal)
	}
	if l.log.Enabled(l.set.background, logClosed) {
		l.log.Log(l.set.background, logClosed, "session closed", "app", s.App.ID, "session", s.Number, "reason", reason.String(),
			"age", s.Age(l.clock), "in_flight", s.InFlight())
	}
	asked, opened := s.Asked(), s.Opened()
	for _, push := range s.End(&l.ending) {
		// Handed over to this session in vain: the next one gets it again.
		if h := l.memory[l.pushSlice(c, push)]; h != nil {
			h.sent.Remove(ordinal.Low(s.Ordinal))
		}
	}
	for k := range l.ending.Actions {
		l.receipt(c, &l.ending.Actions[k])
	}
	l.ending.Reset()
	l.set.traces.end(s.Number)
	if asked {
		l.set.core.Close(Close{App: s.App.Number, Ordinal: s.Ordinal, Session: s.Number, Opened: opened})
	}
}
