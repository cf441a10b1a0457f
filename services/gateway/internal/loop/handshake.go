package loop

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/halleypush/halley/services/gateway/internal/session"
)

// maxFlight bounds what a peer may send ahead during a handshake, in bytes.
const maxFlight = 64 << 10

// errAbandoned ends the handshake of a connection that is over.
var errAbandoned = errors.New("the connection is over")

// shakers bound the TLS handshakes of a gateway: how many may be under way, and how many of them may compute at a time, so that
// loops get their share of the processors. One that waits for its peer computes nothing: silent peers keep nobody waiting.
type shakers struct {
	most      int32
	under     atomic.Int32
	computing chan struct{}
}

func newShakers(most, processors int) *shakers {
	return &shakers{most: int32(most), computing: make(chan struct{}, processors)}
}

// enter takes a place among the handshakes under way. It reports false if there is none.
func (s *shakers) enter() bool {
	if s.under.Add(1) > s.most {
		s.under.Add(-1)
		return false
	}
	return true
}

func (s *shakers) leave() { s.under.Add(-1) }

// handshake is a TLS handshake that is under way, in a goroutine of its own: crypto/tls has no other form. It begins when the
// client's first bytes have come, and ends with the command shaken. It writes to the socket itself, but never waits for it; the
// loop reads, and closes it after abandon only.
type handshake struct {
	set *Set
	ref Ref
	tls *secured
	fd  int

	mu        sync.Mutex
	in        []byte        // guarded by mu: what came and is not read
	abandoned bool          // guarded by mu
	behind    bool          // guarded by mu: the socket did not take everything; the loop writes on
	more      chan struct{} // has room for one: in or abandoned has changed
}

// shake gives the handshake of a connection bytes, and begins it with the first ones.
func (l *Loop) shake(i int32, data []byte) {
	c := l.conns.at(i)
	if c.rest.tls == nil {
		if !l.set.shakers.enter() {
			l.set.metrics.handshakes[shakeTooMany].Inc()
			l.close(i, session.Overload)
			return
		}
		h := &handshake{set: l.set, ref: l.ref(i), tls: &secured{}, fd: int(c.fd), more: make(chan struct{}, 1)}
		h.tls.pipe.shaking = h
		h.tls.conn = tls.Server(&h.tls.pipe, c.rest.port.TLS)
		c.rest.tls = h.tls
		l.set.outsides.Go(h.run)
	}
	if !c.rest.tls.pipe.shaking.feed(data) {
		l.close(i, session.Overload)
	}
}

func (h *handshake) run() {
	h.set.shakers.computing <- struct{}{}
	err := h.tls.conn.HandshakeContext(context.Background()) // it ends with the connection, which has its time
	<-h.set.shakers.computing
	h.set.shakers.leave()
	h.set.metrics.handshakes[outcomeOfHandshake(h.tls.conn, err)].Inc()
	h.ref.loop.post(&shaken{h, err})
}

// feed reports false if there is too much to keep.
func (h *handshake) feed(data []byte) bool {
	h.mu.Lock()
	h.in = append(h.in, data...)
	fits := len(h.in) <= maxFlight
	h.mu.Unlock()
	h.wake()
	return fits
}

// abandon ends the handshake; its connection is over.
func (h *handshake) abandon() {
	h.mu.Lock()
	h.abandoned = true
	h.mu.Unlock()
	h.wake()
}

func (h *handshake) wake() {
	select {
	case h.more <- struct{}{}:
	default: // it will look in any case
	}
}

// read waits for the peer, without a place among those that compute.
func (h *handshake) read(b []byte) (int, error) {
	for {
		h.mu.Lock()
		n, abandoned := copy(b, h.in), h.abandoned
		h.in = h.in[n:]
		h.mu.Unlock()
		if n > 0 {
			return n, nil
		}
		if abandoned {
			return 0, errAbandoned
		}
		<-h.set.shakers.computing
		<-h.more
		h.set.shakers.computing <- struct{}{}
	}
}

// write sends to the peer. What the socket does not take now the loop sends.
func (h *handshake) write(b []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.abandoned {
		return errAbandoned
	}
	if !h.behind {
		n, err := writeNative(h.fd, b)
		if err != nil {
			return err
		}
		b = b[n:]
	}
	if len(b) > 0 {
		h.behind = true
		h.ref.loop.post(&flight{h.ref, bytes.Clone(b)})
	}
	return nil
}

// flight is what a handshake sends and the socket did not take at once.
type flight struct {
	ref  Ref
	data []byte
}

func (f *flight) run(l *Loop) {
	if l.get(f.ref) != nil {
		l.transmit(f.ref.index, f.data)
	}
}

// shaken is the end of a handshake.
type shaken struct {
	*handshake
	err error
}

func (s *shaken) run(l *Loop) {
	i := s.ref.index
	c := l.get(s.ref)
	if c == nil || c.state != stateShaking {
		return
	}
	s.tls.pipe.shaking = nil
	if s.err != nil {
		l.finish(i, session.Handshake)
		return
	}
	l.inwards(i)
	s.mu.Lock()
	behind := s.in
	s.mu.Unlock()
	l.take(i, behind)
}

// How handshakes end.
const (
	shakeFull = iota
	shakeResumed
	shakeFailed
	shakeTooMany
	shakeOutcomes
)

var shakeNames = [shakeOutcomes]string{"full", "resumed", "failed", "too_many"}

func outcomeOfHandshake(conn *tls.Conn, err error) int {
	switch {
	case err != nil:
		return shakeFailed
	case conn.ConnectionState().DidResume:
		return shakeResumed
	default:
		return shakeFull
	}
}

// approach takes a connection that is not a native socket to where MQTT, or the upgrade to WebSocket, begins. The caller bounds
// its time.
func (s *Set) approach(conn net.Conn, a *arrival) (net.Conn, error) {
	if a.port.Balancers != nil {
		var header []byte
		for {
			client, used, err := s.introduce(header, a.remote, a.port.Balancers)
			if err != nil {
				return nil, err
			}
			if used > 0 {
				a.remote = client
				break
			}
			// Byte by byte, so that nothing is taken of what comes behind it.
			header = append(header, 0)
			if _, err := io.ReadFull(conn, header[len(header)-1:]); err != nil {
				return nil, err
			}
		}
	}
	if a.port.TLS == nil {
		return conn, nil
	}
	if !s.shakers.enter() {
		s.metrics.handshakes[shakeTooMany].Inc()
		return nil, errAbandoned
	}
	defer s.shakers.leave()
	secure := tls.Server(conn, a.port.TLS)
	err := secure.HandshakeContext(context.Background()) // the connection has a deadline
	s.metrics.handshakes[outcomeOfHandshake(secure, err)].Inc()
	return secure, err
}
