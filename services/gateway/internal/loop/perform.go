package loop

import (
	"github.com/google/uuid"

	"github.com/halleypush/halley/pkg/ordinal"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/gateway/internal/receipt"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

// perform does what a session wants, and empties the output.
func (l *Loop) perform(i int32) {
	c := l.conns.at(i)
	gen := c.gen
	if len(l.out.Bytes) > 0 {
		l.write(i, l.out.Bytes)
	}
	for k := range l.out.Actions {
		if c.gen != gen {
			break // closed
		}
		l.act(i, &l.out.Actions[k])
	}
	l.out.Reset()
	if c.gen == gen && c.state == stateLive {
		l.wheel.sooner(l.conns.link, i, c.session.DueSooner())
	}
}

func (l *Loop) act(i int32, a *session.Action) {
	c := l.conns.at(i)
	switch a.Kind {
	case session.DoClose:
		l.close(i, a.Reason)
	case session.DoReceipt:
		l.receipt(c, a)
	case session.DoOpen:
		l.set.core.Open(l.openRequest(i, a.Receiving, a.Limit))
	case session.DoPull:
		l.set.core.Pull(Pull{
			Ref: l.ref(i), App: c.session.App.Number, Ordinal: c.session.Ordinal, Session: c.session.Number,
			After: a.After, Limit: a.Limit,
		})
	case session.DoCall:
		l.set.core.Call(Call{
			Ref: l.ref(i), App: c.session.App.Number, Ordinal: c.session.Ordinal, Seq: a.Call, Method: a.Method, JSON: a.JSON,
		})
	case session.DoHanded:
		l.memory.of(l.pushSlice(c, a.Message), l.clock.Millis).sent.Add(ordinal.Low(c.session.Ordinal))
	case session.DoProbe:
		l.set.metrics.probes.Inc()
		if c.fd != none {
			probeNative(int(c.fd))
		}
	}
}

func (l *Loop) openRequest(i int32, receiving bool, limit int) Open {
	s := &l.conns.at(i).session
	return Open{
		Ref: l.ref(i), App: s.App.Number, Ordinal: s.Ordinal, Session: s.Number, Generation: s.Generation,
		Begun: l.clock.Now.Add(-s.Age(l.clock.Millis)), Receiving: receiving, Limit: limit,
		Returned: !s.Registered(), Report: s.Report(),
	}
}

func (l *Loop) pushSlice(c *conn, push uuid.UUID) pushSlice {
	return pushSlice{appSlice{c.session.App.Number, ordinal.Slice(c.session.Ordinal)}, push}
}

// receipt notes a step that a delivery took.
func (l *Loop) receipt(c *conn, a *session.Action) {
	if a.Step == ledgerv1.Step_STEP_ARRIVED {
		l.set.metrics.acks.Inc()
	}
	if a.Audience {
		h := l.memory.of(l.pushSlice(c, a.Message), l.clock.Millis)
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

// write sends bytes to the peer. What its socket does not take now waits, up to a bound.
func (l *Loop) write(i int32, data []byte) {
	c := l.conns.at(i)
	l.set.metrics.bytesOut.Add(float64(len(data)))
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
	c := l.conns.at(i)
	if c.rest.waiting {
		return
	}
	c.rest.waiting = true
	if err := l.poll.watch(int(c.fd), token(i, c.gen), true); err != nil {
		l.log.Error("cannot wait for a slow connection", "error", err)
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
	if err := l.poll.watch(int(c.fd), token(i, c.gen), false); err != nil {
		l.log.Error("cannot go on with a connection", "error", err)
		l.close(i, session.Overload)
		return
	}
	c.trim()
}

// close ends a connection and everything that hangs on it.
func (l *Loop) close(i int32, reason session.Reason) {
	c := l.conns.at(i)
	if c.state == stateFree {
		return
	}
	l.set.metrics.closes.WithLabelValues(reason.String()).Inc()
	l.set.metrics.connections[c.transport].Dec()
	if c.state == stateLive {
		l.endSession(i, reason)
	}
	l.wheel.unset(l.conns.link, i)
	if c.fd != none {
		closeNative(int(c.fd))
	} else {
		c.rest.outside.close()
	}
	l.conns.give(i)
}

func (l *Loop) endSession(i int32, reason session.Reason) {
	c := l.conns.at(i)
	s := &c.session
	l.set.metrics.addSession(-1)
	if at, ok := l.index.find(s.App.Number, s.Ordinal); ok && at == i {
		l.index.remove(s.App.Number, s.Ordinal)
	}
	if l.log.Enabled(l.set.background, logClosed) {
		l.log.Log(l.set.background, logClosed, "session closed", "app", s.App.ID, "session", s.Number, "reason", reason.String(),
			"age", s.Age(l.clock.Millis), "in_flight", s.InFlight())
	}
	asked := s.Asked()
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
		l.set.core.Close(Close{App: s.App.Number, Ordinal: s.Ordinal, Session: s.Number})
	}
}
