// Package loop holds the connections: one event loop per core owns its connections' sockets and sessions, alone. What comes
// from outside is posted to a loop and runs there between two waits.
package loop

import (
	"bytes"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/halleypush/halley/pkg/ordinal"
	"github.com/halleypush/halley/services/gateway/internal/gate"
	"github.com/halleypush/halley/services/gateway/internal/mqtt"
	"github.com/halleypush/halley/services/gateway/internal/receipt"
	"github.com/halleypush/halley/services/gateway/internal/session"
	"github.com/halleypush/halley/services/gateway/internal/websocket"
)

const (
	// readSize is how much is read from a socket at a time, into a buffer that all of a loop's connections share.
	readSize = 64 << 10
	// plainSize is how much is taken out of TLS at a time: the largest record (RFC 8446, 5.1).
	plainSize = 16 << 10
	// maxUnsent bounds what waits for a slow peer; beyond it the connection is closed. A full window of large pushes fits.
	maxUnsent = 128 << 10
	// acceptsPerTurn lets a loop look after its connections between accepts.
	acceptsPerTurn = 64
	// housekeeping is how often a loop forgets what it need not remember.
	housekeeping = time.Minute
)

// Loop is one event loop. All but its mailbox belongs to whoever holds own: its goroutine, which lets go while it
// waits or gives way.
type Loop struct {
	own sync.Mutex

	set  *Set
	id   int
	poll *poller
	log  *slog.Logger

	conns                 slab
	wheel                 *wheel
	index                 index
	memory                memory
	jobs                  []*job
	sweeps                []*sweep
	yielding              yielding
	warmed                int // what warm read, so that the compiler does not leave it out
	pool                  session.Pool
	out                   session.Output
	ending                session.Output
	buf                   []byte
	receipts              []receipt.Item
	tally                 tally
	clock                 session.Clock
	swept                 time.Duration // when housekeeping ran last
	plain, sealed, framed []byte        // what comes out of TLS; what goes into the socket, and into TLS: of the connection at hand
	listeners             []*listener
	deaf                  time.Duration // until when nothing is accepted, because that failed; 0: it is
	stopping              bool          // no connection begins any more

	mu    sync.Mutex
	mail  []command // guarded by mu
	ended bool      // guarded by mu: nobody reads mail any more
}

func newLoop(s *Set, id int) (*Loop, error) {
	poll, err := newPoller()
	if err != nil {
		return nil, err
	}
	l := &Loop{
		set: s, id: id, poll: poll, log: s.log, wheel: newWheel(), index: index{}, memory: memory{},
		buf: make([]byte, readSize), plain: make([]byte, plainSize),
	}
	l.out.Pool, l.ending.Pool = &l.pool, &l.pool
	l.own.Lock() // for run
	return l, nil
}

// run runs the loop until stop has been posted and the last connection has ended.
func (l *Loop) run() {
	l.tick()
	l.wheel.now = l.wheelNow()
	var events []ready
	for !l.stopping || l.conns.used > 0 {
		timeout := wheelTick
		if len(l.jobs) > 0 {
			timeout = 0
		}
		if timeout > 0 {
			l.own.Unlock()
		}
		var err error
		if events, err = l.poll.wait(events[:0], timeout); err != nil {
			panic(err) // the poller itself is broken, and with it every connection of this loop
		}
		if timeout > 0 {
			l.own.Lock()
		}
		l.tick()
		for _, e := range events {
			l.handle(e)
		}
		l.readMail()
		l.hearAgain()
		l.wheel.advance(l.conns.link, l.wheelNow(), l.due)
		l.runSweeps()
		// Broadcasts come last, a piece at a time: heartbeats, acknowledgements and direct pushes go first.
		l.runJobs()
		l.flushReceipts()
		l.tally.flush(l.set.metrics)
	}
	l.end()
}

// end closes the poller. What was posted too late is dropped.
func (l *Loop) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	for _, c := range l.mail {
		if c, ok := c.(carrier); ok {
			c.drop()
		}
	}
	l.mail = nil
	if err := l.poll.close(); err != nil {
		l.log.Warn("event loop closed badly", "error", err)
	}
}

func (l *Loop) tick() {
	now := time.Now()
	l.clock = session.Clock{Since: now.Sub(l.set.begun), Now: now}
	if l.clock.Since-l.swept > housekeeping {
		l.swept = l.clock.Since
		l.memory.forget(l.clock.Since)
		l.pool.Trim()
	}
}

func (l *Loop) wheelNow() uint32 { return uint32(l.clock.Since / wheelTick) }

func (l *Loop) flushReceipts() {
	if len(l.receipts) > 0 {
		l.set.receipts.Add(l.receipts)
		l.receipts = l.receipts[:0]
	}
}

// get returns the connection that a reference names, nil if it has ended.
func (l *Loop) get(r Ref) *conn {
	if c := l.conns.at(r.index); c.gen == r.gen && c.state != stateFree {
		return c
	}
	return nil
}

func (l *Loop) ref(i int32) Ref { return Ref{loop: l, index: i, gen: l.conns.at(i).gen} }

func (l *Loop) handle(e ready) {
	if e.token&listenerToken != 0 {
		l.knock(e.token)
		return
	}
	i, gen := untoken(e.token)
	c := l.conns.at(i)
	if c.state == stateFree || c.gen&0x3FFFFFFF != gen {
		return // closed by an event before this one
	}
	if e.gone {
		l.close(i, session.ByPeer)
		return
	}
	if e.writable {
		l.flush(i)
	}
	if e.readable && c.gen&0x3FFFFFFF == gen && c.state != stateFree {
		l.read(i)
	}
}

// arrival is a connection that has come.
type arrival struct {
	fd        int32    // none: not a native socket, but
	outside   *outside // one of another kind
	port      *Port    // what is spoken on it, as far as outside does not see to that
	transport Transport
	tls       *secured           // the handshake is through
	websocket *websocket.Decoder // the upgrade is through
	remote    netip.Addr
	begun     time.Time // zero: now
}

// begin makes a connection of what has come.
func (l *Loop) begin(a arrival) {
	i := l.conns.take()
	c := l.conns.at(i)
	c.state, c.fd, c.transport = stateIntro, a.fd, a.transport
	c.hello = session.Unidentified{Begun: l.clock.Since}
	if !a.begun.IsZero() {
		c.hello.Begun = a.begun.Sub(l.set.begun)
	}
	c.rest = &rest{remote: a.remote, outside: a.outside, port: a.port, tls: a.tls, websocket: a.websocket}
	if a.port.Balancers == nil {
		l.inwards(i)
	}
	l.set.metrics.connections[a.transport].Inc()
	if a.fd != none {
		if err := l.poll.add(int(a.fd), token(i, c.gen)); err != nil {
			l.log.Error("cannot watch a connection", "error", err)
			l.close(i, session.Overload)
			return
		}
	} else {
		r := l.ref(i)
		a.outside.ref.Store(&r)
		a.outside.running.Go(a.outside.read)
	}
	_, left := c.hello.Late(l.clock)
	l.wheel.set(l.conns.link, i, left)
	if a.tls != nil {
		l.take(i, nil) // what came with the end of the handshake
	}
}

func (l *Loop) read(i int32) {
	n, closed, err := readNative(int(l.conns.at(i).fd), l.buf)
	if closed || err != nil {
		l.close(i, session.ByPeer)
		return
	}
	if n > 0 && l.conns.at(i).state != stateClosing {
		l.tally.bytesIn += n
		if l.affords(i, n) {
			l.take(i, l.buf[:n])
		}
	}
}

// affords takes bytes that came off the allowances of their address and app. A device that has none left is sent away.
func (l *Loop) affords(i int32, n int) bool {
	c := l.conns.at(i)
	if c.state != stateLive || !l.set.gate.Meters() || l.set.gate.Spend(c.pass, c.session.App.Number, n) {
		return true
	}
	c.session.Disconnect(&l.out, mqtt.Disconnect{Code: mqtt.MessageRateTooHigh}, session.TooFast)
	l.perform(i)
	return false
}

// feed gives a connection bytes that came for it.
func (l *Loop) feed(i int32, data []byte) {
	c := l.conns.at(i)
	own := c.rest != nil && len(c.rest.in) > 0
	if own {
		c.rest.in = append(c.rest.in, data...)
		data = c.rest.in
	}
	switch c.state {
	case stateIntro:
		l.introduce(i, data, own)
	case stateUpgrade:
		l.upgrade(i, data, own)
	case stateHello:
		l.greet(i, data, own)
	case stateAdmitting:
		l.keep(i, data, own)
	case stateLive:
		gen := c.gen
		var used int
		if c.rest != nil && c.rest.tunnel != nil {
			used = l.route(i, data)
		} else {
			used = c.session.Input(&l.out, l.clock, l.set.limits, data)
			l.perform(i)
		}
		if c.gen == gen && c.state == stateLive {
			l.keep(i, data[used:], own)
			l.stall(i, c.session.Stalled())
		}
	}
}

// stall stops reading a connection that takes no more for now, or goes on with it.
func (l *Loop) stall(i int32, stalled bool) {
	c := l.conns.at(i)
	if stalled != c.stalled {
		c.stalled = stalled
		l.watch(i)
	}
}

// goOn goes on with a session that has room again: with what was left, then with what comes.
func (l *Loop) goOn(i int32) {
	c := l.conns.at(i)
	if !c.stalled || c.session.Stalled() {
		return
	}
	gen := c.gen
	l.feed(i, nil)
	if c.gen == gen && c.state == stateLive {
		c.letRead()
	}
}

// keep keeps what was not used: the beginning of a packet until the rest of it comes, or what a stalled connection has sent,
// which is one read at the most. own says that it is in the connection's own buffer already.
func (l *Loop) keep(i int32, left []byte, own bool) {
	c := l.conns.at(i)
	switch {
	case len(left) > 0 && own:
		c.rest.in = left
	case len(left) > 0:
		l.restOf(c).in = bytes.Clone(left)
	case c.rest != nil:
		c.rest.in = nil
		c.trim()
	}
}

func (l *Loop) restOf(c *conn) *rest {
	if c.rest == nil {
		c.rest = &rest{}
	}
	return c.rest
}

// trim gives the rest back if nothing is in it.
func (c *conn) trim() {
	if c.state == stateLive && c.rest != nil && c.rest.empty() {
		c.rest = nil
	}
}

// greet takes a connection's CONNECT and has it checked. While others are asked it is not read.
func (l *Loop) greet(i int32, data []byte, own bool) {
	c := l.conns.at(i)
	gen := c.gen
	connect, used, refused := c.hello.Input(&l.out, l.set.limits, data)
	if refused != mqtt.Success {
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
	c.state = stateAdmitting
	c.rest.connect = connect
	if admission, now := l.set.door.Admit(connect, c.rest.remote, Ticket(l.ref(i))); now {
		l.admit(i, admission)
	} else {
		l.stall(i, true)
	}
}

// turnAway refuses a connection that there is no room for, and names a time to come back.
func (l *Loop) turnAway(i int32, r *gate.Refusal) {
	code := mqtt.QuotaExceeded
	switch r.Reason {
	case gate.Rate, gate.AddressRate, gate.AppRate, gate.Flapping:
		code = mqtt.ConnectionRateExceeded
	}
	l.set.metrics.refusals[r.Reason].Inc()
	l.set.metrics.connects.WithLabelValues(outcomeOf(code)).Inc()
	if c := l.conns.at(i); c.rest.ride != nil {
		c.rest.ride.refusal = callError("RESOURCE_EXHAUSTED", "", "%s; try again in %v", r.Reason, r.RetryAfter)
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
			r.refusal = callError(refusalOf(a.Refuse), "", "%s", a.Reason)
		}
		c.hello.Refuse(&l.out, a.Refuse, a.Reason, a.RetryAfter)
		l.perform(i)
		return
	}
	pass, refusal := l.set.gate.Enter(c.rest.remote, a.App.Number, a.Ordinal)
	if refusal != nil {
		l.turnAway(i, refusal)
		return
	}
	m := &move{
		fd: c.fd, outside: c.rest.outside, tls: c.rest.tls, websocket: c.rest.websocket, ride: c.rest.ride, transport: c.transport,
		begun: c.hello.Begun, in: c.rest.in, connect: c.rest.connect, admission: a, gate: l.set.gate, pass: pass,
	}
	home := l.set.home(a.App.Number, a.Ordinal)
	if home == l {
		l.settle(i, m)
		return
	}
	if c.fd != none {
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
		m.ride.carrier.loop.post(&ashore{m.ride, false})
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
	if m.fd != none {
		if err := l.poll.add(int(m.fd), token(i, c.gen)); err != nil {
			l.log.Error("cannot take a connection over", "error", err)
			m.leave()
			l.close(i, session.Overload)
			return
		}
	} else if m.outside != nil {
		r := l.ref(i)
		m.outside.ref.Store(&r)
	}
	gen := c.gen
	l.settle(i, m)
	if c.gen == gen && m.tls != nil {
		l.take(i, m.tls.pipe.in)
	}
	if c.gen == gen {
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

// due looks after a connection whose timer is over.
func (l *Loop) due(i int32) {
	c := l.conns.at(i)
	if c.state == stateClosing {
		l.close(i, session.ByPeer)
		return
	}
	if c.state != stateLive {
		late, left := c.hello.Late(l.clock)
		if late {
			l.close(i, session.ConnectTimeout)
		} else {
			l.wheel.set(l.conns.link, i, left)
		}
		return
	}
	gen := c.gen
	left := l.lifeLeft(c)
	if left <= 0 {
		l.sendAway(i, session.Lifetime)
		return
	}
	l.wheel.set(l.conns.link, i, min(left, c.session.Tick(&l.out, l.clock)))
	l.perform(i)
	if c.gen == gen && c.state == stateLive {
		l.goOn(i) // calls that were given up make room
	}
}

// home returns the loop where a device lives: neighbours inside a slice live in different ones, so that a broadcast is shared.
func (s *Set) home(app uint32, number uint64) *Loop {
	return s.loops[(uint64(app)+uint64(ordinal.Low(number)))%uint64(len(s.loops))]
}
