package loop

import (
	"errors"
	"net"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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

func TestConnectionsAreSetUpLikeTheirListeningSocket(t *testing.T) {
	t.Parallel()
	fds, bound, err := listenNative("127.0.0.1:0", 1, 7*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer closeNative(fds[0])
	client, err := net.Dial("tcp", bound.String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	fd, _, ok, err := acceptNative(fds[0])
	if err != nil || !ok {
		t.Fatalf("accept: %v, %v", ok, err)
	}
	defer closeNative(fd)
	for option, want := range map[int]int{unix.TCP_NODELAY: 1, unix.TCP_USER_TIMEOUT: 7000} {
		if got, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, option); err != nil || got != want {
			t.Errorf("option %d is %d, not %d: %v", option, got, want, err)
		}
	}
}
