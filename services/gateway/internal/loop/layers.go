package loop

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/halleypush/halley/services/gateway/internal/proxy"
	"github.com/halleypush/halley/services/gateway/internal/session"
	"github.com/halleypush/halley/services/gateway/internal/websocket"
)

// A connection may be wrapped: a balancer's header, TLS, WebSocket, in this order from the socket inwards. The loop itself takes
// the bytes out and puts them in, with buffers that all of its connections share.

// secured is the TLS of a connection. crypto/tls reads from it what the loop has read from the socket, and writes into it what
// the loop then writes to the socket, so neither ever waits.
type secured struct {
	conn *tls.Conn
	pipe pipe
}

// pipe is the net.Conn beneath TLS.
type pipe struct {
	in, out []byte
	under   net.Conn // the socket itself while the handshake is under way
}

// errEmpty says that crypto/tls must come again when the loop has read more. It is Temporary, so that the connection is not
// given up.
var errEmpty net.Error = empty{}

type empty struct{}

func (empty) Error() string   { return "nothing has come" }
func (empty) Timeout() bool   { return true }
func (empty) Temporary() bool { return true }

func (p *pipe) Read(b []byte) (int, error) {
	if p.under != nil {
		return p.under.Read(b)
	}
	if len(p.in) == 0 {
		return 0, errEmpty
	}
	n := copy(b, p.in)
	p.in = p.in[n:]
	return n, nil
}

func (p *pipe) Write(b []byte) (int, error) {
	if p.under != nil {
		return p.under.Write(b)
	}
	p.out = append(p.out, b...)
	return len(b), nil
}

// The loop closes the socket and watches the time.
func (p *pipe) Close() error                     { return nil }
func (p *pipe) LocalAddr() net.Addr              { return nil }
func (p *pipe) RemoteAddr() net.Addr             { return nil }
func (p *pipe) SetDeadline(time.Time) error      { return nil }
func (p *pipe) SetReadDeadline(time.Time) error  { return nil }
func (p *pipe) SetWriteDeadline(time.Time) error { return nil }

// inwards goes on to what a connection's port asks for behind the layer that is through.
func (l *Loop) inwards(i int32) {
	c := l.conns.at(i)
	if c.state < stateUpgrade && c.rest.port.WebSocket {
		c.state = stateUpgrade
	} else {
		c.state = stateHello
	}
}

// take gives a connection bytes that came from its socket.
func (l *Loop) take(i int32, data []byte) {
	c := l.conns.at(i)
	if c.rest == nil || c.rest.tls == nil {
		l.unframe(i, data)
		return
	}
	gen, s := c.gen, c.rest.tls
	for s.pipe.in = data; ; {
		n, err := l.unseal(i, s)
		if c.gen != gen {
			return
		}
		l.unframe(i, l.plain[:n])
		if c.gen != gen || c.state == stateClosing {
			return
		}
		if errors.Is(err, errEmpty) {
			shrink(s.conn)
			return
		}
		if err != nil { // the peer has said that it goes, or broke the protocol: it reads nothing more that matters
			l.over(i, session.ByPeer)
			c.state = stateClosing
			l.farewell(i)
			if c.gen == gen {
				l.free(i)
			}
			return
		}
	}
}

// unseal takes a piece out of TLS, and sends what TLS has to answer.
func (l *Loop) unseal(i int32, s *secured) (n int, err error) {
	s.pipe.out = l.sealed[:0]
	n, err = s.conn.Read(l.plain)
	l.sealed, s.pipe.out = s.pipe.out, nil
	if len(l.sealed) > 0 {
		l.transmit(i, l.sealed)
	}
	return n, err
}

// unframe gives a connection bytes that came out of TLS, if it has that.
func (l *Loop) unframe(i int32, data []byte) {
	c := l.conns.at(i)
	if c.rest == nil || c.rest.websocket == nil {
		if len(data) > 0 {
			l.feed(i, data)
		}
		return
	}
	gen, ws := c.gen, c.rest.websocket
	payload, reply := ws.Decode(data, l.framed[:0])
	l.framed = reply
	if len(reply) > 0 {
		l.transmit(i, l.seal(c, reply))
	}
	if c.gen == gen && len(payload) > 0 {
		l.feed(i, payload)
	}
	if c.gen == gen && c.state != stateClosing && ws.Over() {
		l.finish(i, session.ByPeer)
	}
}

// wrap puts bytes for the peer into the connection's layers. What it returns is good until the next call.
func (l *Loop) wrap(c *conn, data []byte) []byte {
	if c.rest == nil {
		return data
	}
	if c.rest.websocket != nil {
		l.framed = websocket.AppendMessage(l.framed[:0], data)
		data = l.framed
	}
	return l.seal(c, data)
}

// seal puts bytes into TLS, if the connection has it.
func (l *Loop) seal(c *conn, data []byte) []byte {
	s := c.rest.tls
	if s == nil {
		return data
	}
	s.pipe.out = l.sealed[:0]
	_, _ = s.conn.Write(data) // fails only after TLS has failed, which its reader has seen
	l.sealed, s.pipe.out = s.pipe.out, nil
	return l.sealed
}

// farewell says through each layer that nothing more will be sent.
func (l *Loop) farewell(i int32) {
	c := l.conns.at(i)
	if c.rest == nil || c.rest.websocket == nil && c.rest.tls == nil {
		return
	}
	gen := c.gen
	if ws := c.rest.websocket; ws != nil {
		if l.framed = ws.Close(l.framed[:0], websocket.NormalClosure, ""); len(l.framed) > 0 {
			l.transmit(i, l.seal(c, l.framed))
		}
	}
	if c.gen != gen || c.rest.tls == nil {
		return
	}
	s := c.rest.tls
	s.pipe.out = l.sealed[:0]
	_ = s.conn.CloseWrite() // fails only if it was closed
	l.sealed, s.pipe.out = s.pipe.out, nil
	if len(l.sealed) > 0 {
		l.transmit(i, l.sealed)
	}
}

// introduce reads the header in which a balancer says who the client is.
func (l *Loop) introduce(i int32, data []byte, own bool) {
	c := l.conns.at(i)
	client, used, err := l.set.introduce(data, c.rest.remote, c.rest.port.Balancers)
	switch {
	case err != nil:
		l.close(i, session.Malformed)
	case used == 0:
		l.keep(i, data, own)
	case !l.set.meet(client, &c.pass):
		l.close(i, session.Refused)
	default:
		c.rest.remote, c.rest.in = client, nil
		l.inwards(i)
		l.take(i, data[used:])
	}
}

// upgrade answers the request that WebSocket begins with.
func (l *Loop) upgrade(i int32, data []byte, own bool) {
	c := l.conns.at(i)
	answer, ok, used := websocket.Request(data)
	if used == 0 {
		l.keep(i, data, own)
		return
	}
	behind := bytes.Clone(data[used:])
	c.rest.in = nil
	gen := c.gen
	l.transmit(i, l.seal(c, answer))
	switch {
	case c.gen != gen:
	case !ok:
		l.finish(i, session.Malformed)
	default:
		c.rest.websocket = &websocket.Decoder{}
		l.inwards(i)
		l.unframe(i, behind)
	}
}

// What becomes of balancers' headers.
const (
	introduced = iota
	badHeader
	stranger
	introductionOutcomes
)

var introductionNames = [introductionOutcomes]string{"accepted", "malformed", "stranger"}

var errStranger = errors.New("not a balancer's address")

// introduce returns the client that a balancer names at the beginning of data, or the balancer itself if it names none; used is
// how long its header is, 0 while it is not complete.
func (s *Set) introduce(data []byte, remote netip.Addr, balancers proxy.Networks) (client netip.Addr, used int, err error) {
	if !balancers.Contain(remote) {
		s.metrics.introductions[stranger].Inc()
		return remote, 0, errStranger
	}
	client, used, err = proxy.Parse(data)
	switch {
	case err != nil:
		s.metrics.introductions[badHeader].Inc()
	case used > 0:
		s.metrics.introductions[introduced].Inc()
	}
	if !client.IsValid() {
		client = remote
	}
	return client, used, err
}
