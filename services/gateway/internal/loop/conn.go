package loop

import (
	"net/netip"

	"github.com/halleypush/halley/services/gateway/internal/gate"
	"github.com/halleypush/halley/services/gateway/internal/mqtt"
	"github.com/halleypush/halley/services/gateway/internal/session"
	"github.com/halleypush/halley/services/gateway/internal/websocket"
)

// States of a connection.
const (
	stateFree byte = iota
	// stateIntro: a balancer's header is awaited.
	stateIntro
	// stateUpgrade: the request that WebSocket begins with is awaited.
	stateUpgrade
	// stateHello: its CONNECT is awaited.
	stateHello
	// stateAdmitting: its CONNECT is being checked by others.
	stateAdmitting
	// stateLive: it has a session.
	stateLive
	// stateClosing: everything is said; the peer may read it and close.
	stateClosing
)

// conn is a connection of a loop. An idle one costs this much and nothing else: no goroutine, channel, timer or buffer.
type conn struct {
	session session.Session
	// rest is what only some connections need, nil for the others.
	rest  *rest
	hello session.Unidentified
	link  link
	pass  gate.Pass // of its address, once that is known
	fd    int32     // none: not a native socket
	gen   uint32
	state byte
	// transport is the index of its metric label.
	transport Transport
	// stalled: it is not read, because its session takes no more for now.
	stalled bool
	// watched: the poller knows its socket.
	watched bool
}

// rest is the part of a connection that exists while bytes wait, or if the connection is wrapped or not a native socket.
type rest struct {
	in      []byte // the beginning of a packet that is not complete
	out     []byte // what the socket did not take yet
	waiting bool   // for the socket to become writable
	knocked bool   // the gate counts it among those that have not said who they are
	failed  bool   // it did what no device does
	outside *outside

	port      *Port // until the connection is admitted
	tls       *secured
	websocket *websocket.Decoder
	tunnel    *tunnel
	ride      *ride

	remote  netip.Addr    // until the connection is admitted
	connect *mqtt.Connect // while it is being admitted
}

func (r *rest) empty() bool {
	return len(r.in) == 0 && len(r.out) == 0 && !r.waiting && r.outside == nil && r.connect == nil && r.tls == nil && r.websocket == nil &&
		r.tunnel == nil && r.ride == nil
}

// Transport is how a connection reached the gateway.
type Transport byte

// The transports.
const (
	TCP Transport = iota
	TLS
	WebSocket
	transports
)

var transportNames = [transports]string{"tcp", "tls", "websocket"}

func (t Transport) String() string { return transportNames[t] }

// References is a host:port for each transport.
type References [transports]string

const chunkSize = 512

// slab holds a loop's connections by index, in chunks that never move.
type slab struct {
	chunks []*[chunkSize]conn
	free   []int32
	used   int
}

func (s *slab) at(i int32) *conn { return &s.chunks[i/chunkSize][i%chunkSize] }

func (s *slab) link(i int32) *link { return &s.at(i).link }

// len returns the upper bound of indexes.
func (s *slab) len() int32 { return int32(len(s.chunks) * chunkSize) }

// take returns the index of a fresh connection.
func (s *slab) take() int32 {
	if len(s.free) == 0 {
		chunk := new([chunkSize]conn)
		base := s.len()
		s.chunks = append(s.chunks, chunk)
		for i := int32(chunkSize) - 1; i >= 0; i-- {
			chunk[i].link.slot = none
			s.free = append(s.free, base+i)
		}
	}
	i := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	s.used++
	return i
}

// give frees a connection. Its generation changes, so that whatever still points to it misses.
func (s *slab) give(i int32) {
	c := s.at(i)
	*c = conn{gen: c.gen + 1, fd: none, link: link{slot: none}}
	s.free = append(s.free, i)
	s.used--
}

// Ref names a connection from outside its loop. It stops meaning anything when the connection ends.
type Ref struct {
	loop  *Loop
	index int32
	gen   uint32
}

func token(i int32, gen uint32) uint64 { return uint64(uint32(i)) | uint64(gen&0x3FFFFFFF)<<32 }

func untoken(t uint64) (i int32, gen uint32) { return int32(uint32(t)), uint32(t>>32) & 0x3FFFFFFF }

// listenerToken marks the token of a listening socket; the low half is its descriptor.
const listenerToken = uint64(1) << 62
