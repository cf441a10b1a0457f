package loop

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/halleypush/halley/services/gateway/internal/proxy"
)

// Port is what is spoken at an address, from the outermost layer inwards; MQTT comes behind all that.
type Port struct {
	// Balancers say who a connection's client is; others are closed. Nil: clients come themselves.
	Balancers proxy.Networks
	// TLS is nil where there is none.
	TLS *tls.Config
	// WebSocket carries MQTT behind an HTTP upgrade.
	WebSocket bool
}

func (p *Port) transport() Transport {
	switch {
	case p.WebSocket:
		return WebSocket
	case p.TLS != nil:
		return TLS
	default:
		return TCP
	}
}

// Listen accepts connections at an address and returns it with the port that was chosen.
func (s *Set) Listen(address string, p Port) (string, error) {
	if !nativeSockets || p.TLS != nil {
		config := net.ListenConfig{
			KeepAlive: -1, // phones' heartbeats are enough
			Control: func(_, _ string, c syscall.RawConn) error {
				var failed error
				err := c.Control(func(fd uintptr) { failed = setUp(int(fd), s.userTimeout) })
				return errors.Join(err, failed)
			},
		}
		listener, err := config.Listen(s.background, "tcp", address)
		if err != nil {
			return "", fmt.Errorf("listen: %w", err)
		}
		s.acceptFrom(listener, &p)
		return listener.Addr().String(), nil
	}
	fds, bound, err := listenNative(address, len(s.loops), s.userTimeout)
	if err != nil {
		return "", err
	}
	for i, fd := range fds {
		s.loops[i].post(&listener{fd: fd, port: &p})
	}
	return bound.String(), nil
}

// StopAccepting closes the listening sockets.
func (s *Set) StopAccepting() {
	for _, l := range s.loops {
		l.post(unlisten{})
	}
	s.stopListeners()
}

// acceptPause is how long a loop accepts nothing after that failed: out of descriptors, as a rule, and the listening socket
// would say at once that it is ready again.
const acceptPause = 100 * time.Millisecond

// listener is a listening socket of a loop; as a command it hands the socket over.
type listener struct {
	fd   int
	port *Port
}

func (n *listener) token() uint64 { return listenerToken | uint64(uint32(n.fd)) }

func (n *listener) drop() { closeNative(n.fd) }

func (n *listener) run(l *Loop) {
	l.listeners = append(l.listeners, n)
	if err := l.poll.add(n.fd, n.token(), true, false); err != nil {
		l.log.Error("cannot watch a listening socket", "error", err)
	}
}

// unlisten closes a loop's listening sockets: nobody is accepted any more, but those who have come already.
type unlisten struct{}

func (unlisten) run(l *Loop) {
	for _, n := range l.listeners {
		l.accept(n)
	}
	l.closeListeners()
}

func (l *Loop) closeListeners() {
	for _, n := range l.listeners {
		closeNative(n.fd)
	}
	l.listeners = nil
}

// knock accepts from the listening socket that an event is about.
func (l *Loop) knock(token uint64) {
	for _, n := range l.listeners {
		if n.token() == token {
			l.accept(n)
			return
		}
	}
}

// accept takes waiting connections off a listening socket.
func (l *Loop) accept(n *listener) {
	for range acceptsPerTurn {
		fd, remote, ok, err := acceptNative(n.fd)
		if err != nil {
			l.set.metrics.acceptErrors.Inc()
			l.log.Error("cannot accept", "error", err)
			l.hear(false)
			l.deaf = l.clock.Since + acceptPause
			return
		}
		if !ok {
			return
		}
		a := arrival{fd: int32(fd), port: n.port, transport: n.port.transport(), remote: remote}
		if !l.set.welcome(&a) {
			closeNative(fd)
			continue
		}
		l.begin(a)
	}
}

// hearAgain accepts again after the pause.
func (l *Loop) hearAgain() {
	if l.deaf == 0 || l.clock.Since < l.deaf {
		return
	}
	l.deaf = 0
	l.hear(true)
}

func (l *Loop) hear(on bool) {
	for _, n := range l.listeners {
		if err := l.poll.watch(n.fd, n.token(), on, false); err != nil {
			l.log.Error("cannot watch a listening socket", "error", err)
		}
	}
}

// acceptFrom accepts connections in a goroutine, until StopAccepting, where sockets are not native or TLS comes first.
func (s *Set) acceptFrom(listener net.Listener, p *Port) {
	s.mu.Lock()
	s.listeners = append(s.listeners, listener)
	s.mu.Unlock()
	s.outsides.Go(func() {
		for {
			conn, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				s.metrics.acceptErrors.Inc()
				s.log.Error("cannot accept", "error", err)
				time.Sleep(acceptPause)
				continue
			}
			a := arrival{fd: none, port: p, transport: p.transport(), remote: addressOf(conn), begun: time.Now()}
			if !s.awaited(conn) || !s.welcome(&a) {
				_ = conn.Close() // it comes too late, or there are too many
				s.brought(conn)
				continue
			}
			s.outsides.Go(func() { s.bring(conn, a) }) // as many at the most as the gate lets be unidentified
		}
	})
}
