package loop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	devicev1 "github.com/halleypush/halley/proto/halley/device/v1"
	"github.com/halleypush/halley/services/gateway/internal/gate"
	"github.com/halleypush/halley/services/gateway/internal/mqtt"
	"github.com/halleypush/halley/services/gateway/internal/receipt"
	"github.com/halleypush/halley/services/gateway/internal/session"
	"github.com/halleypush/halley/services/gateway/internal/websocket"
)

// logClosed is the level of the line that each session leaves.
const logClosed = slog.LevelDebug

// Door decides who comes in.
type Door interface {
	// Admit answers at once if it can. If it has to ask others it returns false, and the answer goes to Set.Admitted. It is
	// called by a loop and must not block.
	Admit(c *mqtt.Connect, remote netip.Addr, t Ticket) (Admission, bool)
}

// Ticket names a connection that waits to be admitted.
type Ticket Ref

// Admission is a door's answer.
type Admission struct {
	// Refuse is Success for a connection that comes in.
	Refuse mqtt.Code
	// Reason is told to an MQTT 5 client that is refused; RetryAfter when to come back, if that helps.
	Reason     string
	RetryAfter time.Duration
	// Crowd: very many may be refused so at a time, so that each is told a time of its own, after RetryAfter.
	Crowd bool
	// Field is what is wrong, app, token or secret, where that is known.
	Field string

	App        *session.App
	Ordinal    uint64
	Generation uint32
	// Token and Secret are those of a device that was registered with this connection.
	Token, Secret string
	Report        *devicev1.Report
}

// Open asks pushcore to make a session the route to its device.
type Open struct {
	Ref        Ref
	App        uint32
	Ordinal    uint64
	Session    uint64
	Generation uint32
	// Begun is when the connection came; it has a monotonic reading.
	Begun     time.Time
	Receiving bool
	Returned  bool
	Limit     int
	Report    *devicev1.Report
}

// Pull asks pushcore what is kept for a session.
type Pull struct {
	Ref     Ref
	App     uint32
	Ordinal uint64
	Session uint64
	Seq     uint16
	After   uuid.UUID
	Limit   int
}

// Close tells pushcore that a session has ended.
type Close struct {
	App     uint32
	Ordinal uint64
	Session uint64
	// Opened is true if pushcore ever opened it.
	Opened bool
}

// Call passes on what a device asks for.
type Call struct {
	Ref     Ref
	App     uint32
	Ordinal uint64
	Seq     uint16
	Method  string
	JSON    []byte
}

// Core is pushcore as loops see it. Its methods queue and return; answers come to the Set.
type Core interface {
	Open(o Open)
	Pull(p Pull)
	Close(c Close)
	Call(c Call)
}

// Receipts takes receipts. Add copies them and must not block.
type Receipts interface{ Add(items []receipt.Item) }

// Config is how loops work.
type Config struct {
	// Loops is how many there are. Processors is how many handshakes compute at a time.
	Loops, Processors int
	// Limits bound what a session may do.
	Limits session.Limits
	// Handshakes bounds the TLS handshakes that are under way.
	Handshakes int
	// UserTimeout is after how long a socket whose data is not acknowledged is given up (TCP_USER_TIMEOUT).
	UserTimeout time.Duration
	// Lifetime is the longest that a session stays; 0: for ever. Each stays for half to all of it.
	Lifetime time.Duration
	// References are the host:port that devices of each transport are sent to that have to go elsewhere; empty: the one that
	// they came to.
	References References
}

// Set is all the loops of a gateway.
type Set struct {
	loops       []*Loop
	door        Door
	gate        *gate.Gate
	core        Core
	receipts    Receipts
	metrics     *Metrics
	traces      *Traces
	limits      session.Limits
	userTimeout time.Duration
	lifetime    time.Duration
	references  References
	log         *slog.Logger
	background  context.Context //nolint:containedctx // for log lines of loops, which have no caller
	begun       time.Time
	numbers     atomic.Uint64
	directAt    atomic.Int64 // when direct messages came last, on the loops' clock
	running     sync.WaitGroup
	outsides    sync.WaitGroup
	shakers     *shakers

	mu        sync.Mutex
	listeners []net.Listener    // guarded by mu: of sockets that goroutines accept from
	coming    map[net.Conn]bool // guarded by mu: what they have accepted and is not in a loop yet; nil: none is wanted
}

// Parts are what loops work with.
type Parts struct {
	Door     Door
	Gate     *gate.Gate
	Core     Core
	Receipts Receipts
	Metrics  *Metrics
	Traces   *Traces
	Log      *slog.Logger
}

// NewSet returns loops that do not run yet.
func NewSet(c Config, p Parts) (*Set, error) {
	s := &Set{
		door: p.Door, gate: p.Gate, core: p.Core, receipts: p.Receipts, metrics: p.Metrics, traces: p.Traces, log: p.Log, limits: c.Limits,
		userTimeout: c.UserTimeout, lifetime: c.Lifetime, references: c.References, background: context.Background(), begun: time.Now(),
		coming: map[net.Conn]bool{}, shakers: newShakers(c.Handshakes, c.Processors),
	}
	for i := range c.Loops {
		l, err := newLoop(s, i)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("event loop: %w", err), s.closePollers())
		}
		s.loops = append(s.loops, l)
	}
	return s, nil
}

func (s *Set) closePollers() error {
	var errs []error
	for _, l := range s.loops {
		errs = append(errs, l.poll.close())
	}
	return errors.Join(errs...)
}

// Start runs the loops. A set that was started, and only that, must be stopped.
func (s *Set) Start() {
	for _, l := range s.loops {
		s.running.Go(l.run)
	}
}

// Stop sends every device away and waits until the loops have ended: a few seconds at the most, for peers that are slow to go.
func (s *Set) Stop() {
	for _, l := range s.loops {
		l.post(stop{})
	}
	s.running.Wait()
	s.stopListeners()
	s.giveUp()
	s.outsides.Wait()
}

// WebSocket returns a handler that takes devices' connections off another server, which sees to TLS and the path. It closes
// them when they end.
func (s *Set) WebSocket() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := arrival{fd: none, port: &Port{}, transport: WebSocket, websocket: &websocket.Decoder{}, remote: parseAddress(r.RemoteAddr)}
		if !s.welcome(&a) {
			http.Error(w, "too many connections", http.StatusServiceUnavailable)
			return
		}
		answer, ok := websocket.Upgrade(r)
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil { // HTTP/2, which has no such upgrade
			s.gate.Depart(a.pass, false)
			http.Error(w, "WebSocket needs HTTP/1.1", http.StatusUpgradeRequired)
			return
		}
		first, _ := buffered.Reader.Peek(buffered.Reader.Buffered()) // that much is there
		_ = conn.SetDeadline(time.Time{})                            // fails only if it is closed
		if _, err := conn.Write(answer); err != nil || !ok {
			s.gate.Depart(a.pass, false)
			_ = conn.Close() // it is not wanted
			return
		}
		a.outside = newOutside(conn, bytes.Clone(first), &s.outsides)
		s.adopt(a)
	})
}

// adopt gives a connection that is not a native socket to the loops.
func (s *Set) adopt(a arrival) {
	l := s.loops[s.numbers.Load()%uint64(len(s.loops))]
	l.serve(&adopt{a})
}

type adopt struct{ arrival }

// drop closes the connection: the loop has ended.
func (a *adopt) drop() {
	if a.fd != none {
		closeNative(int(a.fd))
	} else {
		a.outside.discard()
	}
}

func (a *adopt) run(l *Loop) {
	if l.stopping {
		a.drop()
		return
	}
	l.begin(a.arrival)
}

// addressOf returns a peer's address, invalid if it has none.
func addressOf(conn net.Conn) netip.Addr {
	tcp, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{} // unknown is as good as none
	}
	return tcp.AddrPort().Addr().Unmap()
}

func parseAddress(text string) netip.Addr {
	address, err := netip.ParseAddrPort(text)
	if err != nil {
		return netip.Addr{} // likewise
	}
	return address.Addr().Unmap()
}

// stopListeners closes what goroutines accept from.
func (s *Set) stopListeners() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.listeners {
		_ = l.Close() // it accepts nothing more in any case
	}
	s.listeners = nil
}

// Admitted is the answer for a connection whose door had to ask others.
func (s *Set) Admitted(t Ticket, a Admission) {
	r := Ref(t)
	r.loop.post(&admitted{ref: r, admission: a})
}
