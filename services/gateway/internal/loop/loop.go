// Package loop holds the connections: one event loop per core owns its connections' sockets and sessions, alone. What comes
// from outside is posted to a loop and runs there between two waits, or, if it is in a hurry, where it comes while the loop rests.
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
	warmed                int             // what warm read, so that the compiler does not leave it out
	found                 [lookUps]uint32 // room for job.find
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
	pass      gate.Pass // 0: not known yet, or none
	begun     time.Time // zero: now
}

// begin makes a connection of what has come and is welcome.
func (l *Loop) begin(a arrival) {
	i := l.conns.take()
	c := l.conns.at(i)
	c.state, c.fd, c.transport, c.pass = stateIntro, a.fd, a.transport, a.pass
	c.hello = session.Unidentified{Begun: l.clock.Since}
	if !a.begun.IsZero() {
		c.hello.Begun = a.begun.Sub(l.set.begun)
	}
	c.rest = &rest{knocked: true, remote: a.remote, outside: a.outside, port: a.port, tls: a.tls, websocket: a.websocket}
	if a.port.Balancers == nil {
		l.inwards(i)
	}
	l.set.metrics.connections[a.transport].Inc()
	if a.fd == none {
		r := l.ref(i)
		a.outside.ref.Store(&r)
		a.outside.running.Go(a.outside.read)
	}
	_, left := c.hello.Late(l.clock)
	l.wheel.set(l.conns.link, i, left)
	gen := c.gen
	if a.tls != nil {
		l.take(i, nil)                    // what came with the end of the handshake
		if a.fd != none && c.gen == gen { // and since: phones say CONNECT at once, so that the loop need not be woken for it
			l.read(i)
		}
	}
	if c.gen == gen {
		l.heed(i)
	}
}

func (l *Loop) read(i int32) {
	n, closed, err := readNative(int(l.conns.at(i).fd), l.buf)
	if closed || err != nil {
		l.close(i, session.ByPeer)
		return
	}
	if c := l.conns.at(i); n > 0 && c.state != stateClosing {
		l.tally.bytesIn += n
		if !l.metered(i, n) {
			return
		}
		gen, acks, out := c.gen, l.tally.acks, l.tally.bytesOut
		l.take(i, l.buf[:n])
		if l.tally.acks > acks && l.tally.bytesOut == out && c.gen == gen { // a PUBACK, which nothing answers
			acknowledgeNative(int(c.fd))
		}
	}
}

// metered takes bytes that a connection sent off the allowances of its device, unless they may be for several: route does it then.
func (l *Loop) metered(i int32, n int) bool {
	c := l.conns.at(i)
	return c.rest != nil && c.rest.tunnel != nil || l.affords(i, n)
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
