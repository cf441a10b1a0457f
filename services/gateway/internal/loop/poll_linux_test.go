package loop

import (
	"errors"
	"net"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTwoGatewaysDoNotShareAPort(t *testing.T) {
	t.Parallel()
	fds, bound, err := listenNative("127.0.0.1:0", 2)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd) // the test is over
		}
	}()
	if _, _, err := listenNative(bound.String(), 2); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("the second one: %v", err)
	}
}

func TestAnAddressWithoutAHostIsEveryAddress(t *testing.T) {
	t.Parallel()
	fds, bound, err := listenNative(":0", 2)
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
