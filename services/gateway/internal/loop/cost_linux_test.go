package loop

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"
	"golang.org/x/sys/unix"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway/internal/gate"
	"github.com/halleypush/halley/services/gateway/internal/mqtt"
	"github.com/halleypush/halley/services/gateway/internal/receipt"
	"github.com/halleypush/halley/services/gateway/internal/session"
	"github.com/halleypush/halley/services/gateway/internal/websocket"
)

// maxConn is what an idle plain TCP connection may cost in the loop's memory, in bytes, its session included.
const maxConn = 168

func TestAnIdleConnectionIsSmall(t *testing.T) {
	t.Parallel()
	if size := unsafe.Sizeof(conn{}); size > maxConn {
		t.Errorf("a connection has %d B, more than %d", size, maxConn)
	}
}

// parts are what a loop under test works with: they take notes.
type parts struct {
	receipts int
	last     []receipt.Item // of receipts
	opens    []Open
}

func (p *parts) Admit(*mqtt.Connect, netip.Addr, Ticket) (Admission, bool) { return Admission{}, false }

func (p *parts) Open(o Open) { p.opens = append(p.opens, o) }
func (p *parts) Pull(Pull)   {}
func (p *parts) Close(Close) {}
func (p *parts) Call(Call)   {}

func (p *parts) Add(items []receipt.Item) {
	p.receipts += len(items)
	p.last = append(p.last[:0], items...)
}

// phone is the other end of a connection of a loop that the test itself turns.
type phone struct {
	*parts
	loop    *Loop
	index   int32
	session uint64
	fd      int
	secure  *tls.Conn // nil: none
	framed  bool      // in WebSocket's frames
	frame   []byte
	puback  [4]byte
	buf     [4096]byte
}

// newPhone makes a loop that does not run, with one connection whose session is open and receives.
func newPhone(t *testing.T, version byte) *phone {
	t.Helper()
	return newPhones(t, version, 1)[0]
}

// newPhones makes a loop that does not run, with connections whose sessions are open and receive: ordinals 12, 13 and so on.
func newPhones(t *testing.T, version byte, n int) []*phone {
	t.Helper()
	parts := &parts{}
	set, err := NewSet(Config{
		Loops: 1, Limits: session.Limits{MaxPacket: 16 << 10, Rate: 1e6, Burst: 1e6}, UserTimeout: time.Minute,
	}, Parts{
		Door: parts, Gate: gate.New(gate.Limits{}, nil), Core: parts, Receipts: parts,
		Metrics: NewMetrics(prometheus.NewRegistry()), Traces: NewTraces(noop.NewTracerProvider()), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = set.closePollers() })
	set.loops[0].tick()
	app := &session.App{ID: "demo", Number: 7, KeepAlive: 270, KeepAliveMax: 600, AckTimeout: time.Minute}
	phones := make([]*phone, n)
	for i := range phones {
		phones[i] = &phone{parts: parts, loop: set.loops[0]}
		phones[i].arrive(t, version, app, uint64(12+i))
	}
	return phones
}

// arrive connects the phone and opens its session.
func (p *phone) arrive(t *testing.T, version byte, app *session.App, ordinal uint64) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	p.fd = pair[1]
	t.Cleanup(func() { _ = unix.Close(p.fd) })
	p.loop.begin(arrival{fd: int32(pair[0]), port: &Port{}})
	for p.loop.conns.at(p.index).state != stateHello {
		p.index++
	}
	p.loop.settle(p.index, &move{
		fd: int32(pair[0]), admission: Admission{App: app, Ordinal: ordinal},
		connect: &mqtt.Connect{Version: version, ReceiveMaximum: 16, User: []mqtt.UserProperty{{Name: "deliver", Value: "now"}}},
	})
	p.session = p.opens[len(p.opens)-1].Session
	opened{{Ref: p.loop.ref(p.index), Session: p.session, Status: gatewayv1.Opened_OPEN}}.run(p.loop)
	p.read(t) // CONNACK
}

// read returns what the phone has received.
func (p *phone) read(t *testing.T) []byte {
	t.Helper()
	var n int
	var err error
	if p.secure != nil {
		n, err = p.secure.Read(p.buf[:])
	} else {
		n, err = unix.Read(p.fd, p.buf[:])
	}
	if err != nil {
		t.Fatal(err)
	}
	switch got := p.buf[:n]; {
	case !p.framed:
		return got
	case got[1] == 126: // two bytes of length follow (RFC 6455, 5.2)
		return got[4:]
	default:
		return got[2:]
	}
}

// say sends bytes of the phone, few of them, and has the loop handle them, as it does after a wait.
func (p *phone) say(t *testing.T, data []byte) {
	t.Helper()
	if p.framed {
		p.frame = append(append(p.frame[:0], 0x82, 0x80|byte(len(data)), 0, 0, 0, 0), data...)
		data = p.frame
	}
	var err error
	if p.secure != nil {
		_, err = p.secure.Write(data)
	} else {
		_, err = unix.Write(p.fd, data)
	}
	if err != nil {
		t.Fatal(err)
	}
	p.loop.handle(ready{token: token(p.index, p.loop.conns.at(p.index).gen), readable: true})
	p.loop.flushReceipts()
}

// socket is a net.Conn over another one first, and then over a descriptor.
type socket struct {
	net.Conn
	fd int
}

func (s *socket) Read(b []byte) (int, error) {
	if s.Conn != nil {
		return s.Conn.Read(b)
	}
	return unix.Read(s.fd, b)
}

func (s *socket) Write(b []byte) (int, error) {
	if s.Conn != nil {
		return s.Conn.Write(b)
	}
	return unix.Write(s.fd, b)
}

// wrap puts the connection into TLS, and into WebSocket's frames if framed.
func (p *phone) wrap(t *testing.T, framed bool) {
	t.Helper()
	server := httptest.NewTLSServer(nil) // for its certificate
	server.Close()
	here, there := net.Pipe()
	s := &secured{pipe: pipe{under: there}}
	s.conn = tls.Server(&s.pipe, &tls.Config{Certificates: server.TLS.Certificates, SessionTicketsDisabled: true})
	under := &socket{Conn: here, fd: p.fd}
	p.secure = tls.Client(under, &tls.Config{RootCAs: server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com"})
	shaken := make(chan error, 1)
	go func() { shaken <- s.conn.Handshake() }()
	if err := errors.Join(p.secure.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	s.pipe.under, under.Conn = nil, nil
	rest := p.loop.restOf(p.loop.conns.at(p.index))
	if rest.tls = s; framed {
		rest.websocket, p.framed = &websocket.Decoder{}, true
	}
}

// messages makes direct pushes, each of which is handed over once.
func messages(n int) []*session.Message {
	all := make([]*session.Message, n)
	for i := range all {
		m := session.NewMessage("demo", uuid.New(), []byte(`{"push_id":"x","kind":"notification","title":"Hi","body":"a body of some length"}`))
		m.QoS, m.Notification, m.Expires = 1, true, time.Now().Add(time.Hour).UnixMilli()
		all[i] = m
	}
	return all
}

func TestHotPathsAllocateNothing(t *testing.T) { //nolint:paralleltest // it counts the process's allocations
	const runs, each = 10, 100               // counted together: nothing is rounded off that comes every hundredth time
	for name, c := range map[string]struct { //nolint:paralleltest // as above
		version     byte
		user        string
		tls, framed bool
	}{
		"MQTT 5": {version: mqtt.V5}, "MQTT 3.1.1": {version: mqtt.V311}, "for a user": {version: mqtt.V5, user: "u_0123456789abcdef0123456789abcdef"},
		"over TLS": {version: mqtt.V5, tls: true}, "over WebSocket and TLS": {version: mqtt.V5, tls: true, framed: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPhone(t, c.version)
			want := 0.0
			if c.tls {
				p.wrap(t, c.framed)
				want = tlsAllocates * each
			}
			pushes := messages((runs + 2) * each)
			target := Target{App: 7, Ordinal: 12, Session: p.session, User: c.user}
			ping := []byte{0xC0, 0}
			exchange := func() {
				target.Message, pushes = pushes[0], pushes[1:]
				if got := p.loop.deliver(&target); got != gatewayv1.DeliverResponse_TAKEN {
					t.Fatalf("the delivery is %v", got)
				}
				p.ack(t, p.read(t))
			}
			for range each { // what the session remembers has its size then
				exchange()
			}
			before := p.receipts
			if n := testing.AllocsPerRun(runs, func() {
				for range each {
					exchange()
				}
			}); n > want {
				t.Errorf("%d direct PUBLISHes with their PUBACKs allocate %v times, more than %v", each, n, want)
			}
			if n := p.receipts - before; n != (runs+1)*each {
				t.Errorf("%d receipts of %d messages", n, (runs+1)*each)
			}
			if n := testing.AllocsPerRun(runs, func() {
				for range each {
					p.say(t, ping)
					if got := p.read(t); len(got) != 2 || got[0] != 0xD0 {
						t.Fatalf("a PINGREQ is answered % X", got)
					}
				}
			}); n > want {
				t.Errorf("%d PINGREQs allocate %v times, more than %v", each, n, want)
			}
		})
	}
}

// ack acknowledges a PUBLISH of the topic push/demo.
func (p *phone) ack(t *testing.T, publish []byte) {
	t.Helper()
	at := 4 + len("push/demo") // behind first byte, length (2 bytes or 1), and topic
	if publish[1]&0x80 != 0 {
		at++
	}
	if publish[0] != 0x32 {
		t.Fatalf("a PUBLISH begins with 0x%02X", publish[0])
	}
	p.puback = [4]byte{0x40, 2, publish[at], publish[at+1]}
	p.say(t, p.puback[:])
}

// allocations returns how often a broadcast to so many phones, with their PUBACKs and receipts, allocates.
func allocations(t *testing.T, phones int) float64 {
	t.Helper()
	const runs = 10
	all := newPhones(t, mqtt.V5, phones)
	l := all[0].loop
	pushes := messages(runs + 3)
	for _, m := range pushes {
		m.Audience = true
	}
	members := roaring.New()
	members.AddRange(0, 1<<20)
	publisher := receipt.New(nil, nil, nil, nil) // it does not run: what it is told is gathered
	broadcast := func() {
		l.set.Slice(7, 0, pushes[0], members, func(r SliceResult) {
			if n := r.Sent.GetCardinality(); n != uint64(phones) {
				t.Errorf("%d of %d were handed over", n, phones)
			}
		})
		pushes = pushes[1:]
		l.readMail()
		for len(l.jobs) > 0 {
			l.runJobs()
		}
		for _, p := range all {
			p.ack(t, p.read(t))
			publisher.Add(p.last)
		}
	}
	broadcast() // what sessions need meanwhile is in the pool then
	before := all[0].receipts
	n := testing.AllocsPerRun(runs, broadcast)
	if got := all[0].receipts - before; got != (runs+1)*phones {
		t.Errorf("%d receipts of %d messages", got, (runs+1)*phones)
	}
	return n
}

// A broadcast allocates for itself, and bitmaps grow step by step; what it does for one phone allocates nothing.
func TestABroadcastAllocatesNothingForAPhone(t *testing.T) { //nolint:paralleltest // it counts the process's allocations
	const few, many = 64, 512
	if a, b := allocations(t, few), allocations(t, many); b-a > (many-few)/8 {
		t.Errorf("a broadcast to %d phones allocates %v times, to %d %v times", few, a, many, b)
	}
}
