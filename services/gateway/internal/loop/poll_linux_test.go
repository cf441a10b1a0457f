package loop

import (
	"errors"
	"net"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway/internal/mqtt"
)

func TestTwoGatewaysDoNotShareAPort(t *testing.T) {
	t.Parallel()
	fds, bound, err := listenNative("127.0.0.1:0", 2, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd) // the test is over
		}
	}()
	if _, _, err := listenNative(bound.String(), 2, time.Second); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("the second one: %v", err)
	}
}

func TestAnAddressWithoutAHostIsEveryAddress(t *testing.T) {
	t.Parallel()
	fds, bound, err := listenNative(":0", 2, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd) // the test is over
		}
	}()
	if len(fds) != 2 || bound.Port() == 0 || !bound.Addr().IsUnspecified() {
		t.Errorf("%d sockets on %s", len(fds), bound)
	}
	conn, err := net.Dial("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(bound.Port()))))
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}

// tcpPair returns both ends of a connection: what acceptNative makes of it, and the client's.
func tcpPair(t *testing.T, userTimeout time.Duration) (int, net.Conn) {
	t.Helper()
	fds, bound, err := listenNative("127.0.0.1:0", 1, userTimeout)
	if err != nil {
		t.Fatal(err)
	}
	defer closeNative(fds[0])
	client, err := net.Dial("tcp", bound.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	fd, _, ok, err := acceptNative(fds[0])
	if err != nil || !ok {
		t.Fatalf("accept: %v, %v", ok, err)
	}
	t.Cleanup(func() { closeNative(fd) })
	return fd, client
}

func TestConnectionsAreSetUpLikeTheirListeningSocket(t *testing.T) {
	t.Parallel()
	fd, _ := tcpPair(t, 7*time.Second)
	for option, want := range map[int]int{unix.TCP_NODELAY: 1, unix.TCP_USER_TIMEOUT: 7000} {
		if got, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, option); err != nil || got != want {
			t.Errorf("option %d is %d, not %d: %v", option, got, want, err)
		}
	}
}

func TestAPUBACKIsAcknowledgedAtOnce(t *testing.T) {
	t.Parallel()
	p := newPhone(t, mqtt.V5)
	fd := int(p.loop.conns.at(p.index).fd)
	overTCP(t, fd, p.fd)
	prompt := func() bool {
		on, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK)
		if err != nil {
			t.Fatal(err)
		}
		return on == 1
	}
	pings := 0
	for ; prompt(); pings++ { // the kernel finds out that there are answers to send acknowledgements with
		if pings == 100 {
			t.Fatal("the kernel never waits for an answer")
		}
		p.say(t, []byte{0xC0, 0})
		p.read(t)
	}
	p.say(t, []byte{0xC0, 0})
	if p.read(t); prompt() {
		t.Error("a PINGREQ is acknowledged before its answer")
	}
	target := Target{App: 7, Ordinal: 12, Session: p.session, Message: messages(1)[0]}
	if got := p.loop.deliver(&target); got != gatewayv1.DeliverResponse_TAKEN {
		t.Fatalf("the delivery is %v", got)
	}
	if p.ack(t, p.read(t)); !prompt() {
		t.Error("the kernel waits for an answer to a PUBACK")
	}
}

// overTCP puts a TCP connection in the place of what two descriptors were.
func overTCP(t *testing.T, server, client int) {
	t.Helper()
	accepted, conn := tcpPair(t, time.Minute)
	dialled, err := detach(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer closeNative(int(dialled))
	if err := errors.Join(unix.Dup3(accepted, server, 0), unix.Dup3(int(dialled), client, 0)); err != nil {
		t.Fatal(err)
	}
}
