package loop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poller waits for readiness of many sockets: epoll, level-triggered, with an eventfd to be woken by.
type poller struct {
	epoll, wakeup int
	events        []unix.EpollEvent
}

// ready is what a wait found: a token that add was given, and what the socket is ready for.
type ready struct {
	token                    uint64
	readable, writable, gone bool
}

// maxEvents bounds what a loop does between two waits, beside a piece of a broadcast.
const maxEvents = 16

// wakeToken is the token of the eventfd.
const wakeToken = ^uint64(0)

// nativeSockets says that plain TCP connections are the loops' own sockets.
const nativeSockets = true

func newPoller() (*poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	wakeup, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("eventfd: %w", err), unix.Close(epoll))
	}
	p := &poller{epoll: epoll, wakeup: wakeup, events: make([]unix.EpollEvent, maxEvents)}
	if err := p.add(wakeup, wakeToken, true, false); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *poller) close() error { return errors.Join(unix.Close(p.wakeup), unix.Close(p.epoll)) }

// event returns the kernel's form of a token and what to wait for.
func event(token uint64, readable, writable bool) *unix.EpollEvent {
	e := &unix.EpollEvent{Fd: int32(uint32(token)), Pad: int32(uint32(token >> 32))}
	if readable {
		e.Events |= unix.EPOLLIN | unix.EPOLLRDHUP
	}
	if writable {
		e.Events |= unix.EPOLLOUT
	}
	return e
}

// add has a socket watched for what is waited for.
func (p *poller) add(fd int, token uint64, readable, writable bool) error {
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, event(token, readable, writable)); err != nil {
		return fmt.Errorf("epoll add: %w", err)
	}
	return nil
}

// watch changes what is waited for.
func (p *poller) watch(fd int, token uint64, readable, writable bool) error {
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_MOD, fd, event(token, readable, writable)); err != nil {
		return fmt.Errorf("epoll change: %w", err)
	}
	return nil
}

func (p *poller) remove(fd int) error {
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_DEL, fd, nil); err != nil {
		return fmt.Errorf("epoll remove: %w", err)
	}
	return nil
}

// wait fills out with what is ready, waiting up to the given time.
func (p *poller) wait(out []ready, timeout time.Duration) ([]ready, error) {
	var n int
	var err error
	if timeout > 0 {
		n, err = unix.EpollWait(p.epoll, p.events, int(timeout.Milliseconds()))
	} else {
		n, err = straight(unix.SYS_EPOLL_PWAIT, p.epoll, unsafe.Pointer(unsafe.SliceData(p.events)), len(p.events))
	}
	if errors.Is(err, unix.EINTR) {
		return out, nil
	}
	if err != nil {
		return out, fmt.Errorf("epoll wait: %w", err)
	}
	for _, e := range p.events[:n] {
		token := uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32
		if token == wakeToken {
			var count [8]byte
			_, _ = unix.Read(p.wakeup, count[:]) // empty if another wake-up was read with it
			continue
		}
		out = append(out, ready{
			token:    token,
			readable: e.Events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP) != 0,
			writable: e.Events&unix.EPOLLOUT != 0,
			gone:     e.Events&unix.EPOLLERR != 0,
		})
	}
	return out, nil
}

// yield lets other threads that wait for the processor have it. A kernel that does not preempt would have them wait for its next
// tick, 4 ms at 250 Hz.
func yield() { _, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// straight makes a system call that never blocks, without a word to Go's scheduler: that would take the loop's processor away after
// 20 µs, which a write to a socket of this host takes with all that the kernel does in it, and thread after thread would carry the loop on.
func straight(call uintptr, fd int, buf unsafe.Pointer, size int) (n int, err error) {
	r, _, errno := unix.RawSyscall6(call, uintptr(fd), uintptr(buf), uintptr(size), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}

// wake ends a wait that is under way, or the next one.
func (p *poller) wake() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(p.wakeup, one[:]) // fails only if it is full, and then a wake-up is waiting
}

// listenNative opens n listening sockets on one address (SO_REUSEPORT), one per loop; the kernel spreads connections. An address that
// another process listens at is refused, though the kernel would give that one a part of them.
func listenNative(address string, n int, userTimeout time.Duration) (fds []int, bound netip.AddrPort, err error) {
	tcp, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, bound, fmt.Errorf("listen address: %w", err)
	}
	alone, err := net.ListenTCP("tcp", tcp) // without SO_REUSEPORT
	if err != nil {
		return nil, bound, err
	}
	if err := alone.Close(); err != nil {
		return nil, bound, fmt.Errorf("try %s: %w", tcp, err)
	}
	if tcp.IP == nil { // ":1883" is every address
		tcp.IP = net.IPv6unspecified
	}
	defer func() {
		if err != nil {
			for _, fd := range fds {
				_ = unix.Close(fd)
			}
		}
	}()
	for range n {
		fd, port, err := listenOne(tcp, userTimeout)
		if err != nil {
			return fds, bound, fmt.Errorf("listen on %s: %w", tcp, err)
		}
		fds = append(fds, fd)
		tcp.Port = port // the first socket chooses, if the port was 0
	}
	addr := tcp.AddrPort()
	return fds, netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()), nil
}

func listenOne(tcp *net.TCPAddr, userTimeout time.Duration) (fd, port int, err error) {
	family, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: tcp.Port, Addr: [16]byte(tcp.IP.To16())})
	if v4 := tcp.IP.To4(); v4 != nil {
		family, address = unix.AF_INET, &unix.SockaddrInet4{Port: tcp.Port, Addr: [4]byte(v4)}
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EAFNOSUPPORT) && tcp.IP.Equal(net.IPv6unspecified): // this machine has no IPv6
		return listenOne(&net.TCPAddr{IP: net.IPv4zero, Port: tcp.Port}, userTimeout)
	case err != nil:
		return -1, 0, err
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	for _, option := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 1); err != nil {
			return fd, 0, err
		}
	}
	if family == unix.AF_INET6 && tcp.IP.IsUnspecified() {
		// Whatever the system's default is, every address has IPv4's among them.
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
			return fd, 0, err
		}
	}
	if err := setUp(fd, userTimeout); err != nil {
		return fd, 0, err
	}
	if err := unix.Bind(fd, address); err != nil {
		return fd, 0, err
	}
	if err := unix.Listen(fd, 4096); err != nil {
		return fd, 0, err
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return fd, 0, err
	}
	switch a := bound.(type) {
	case *unix.SockaddrInet4:
		return fd, a.Port, nil
	case *unix.SockaddrInet6:
		return fd, a.Port, nil
	}
	return fd, 0, errors.New("the socket has no port")
}

// setUp sets on a listening socket what the connections that come from it have from it: a small message must not wait for the
// acknowledgement of the one before, and a peer that is gone must be noticed while data waits for it.
func setUp(listener int, userTimeout time.Duration) error {
	if err := unix.SetsockoptInt(listener, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err
	}
	return unix.SetsockoptInt(listener, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
}

// acceptNative takes one connection off a listening socket; ok is false if none waits.
func acceptNative(listener int) (fd int, remote netip.Addr, ok bool, err error) {
	for {
		fd, from, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return -1, remote, false, nil
		case errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return -1, remote, false, fmt.Errorf("accept: %w", err)
		}
		switch a := from.(type) {
		case *unix.SockaddrInet4:
			remote = netip.AddrFrom4(a.Addr)
		case *unix.SockaddrInet6:
			remote = netip.AddrFrom16(a.Addr).Unmap()
		}
		return fd, remote, true, nil
	}
}

// detach returns a descriptor of a connection's socket, which Go's own poller then has nothing to do with once the connection is
// closed.
func detach(conn net.Conn) (fd int32, err error) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return none, errors.New("not TCP")
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return none, err
	}
	copied := -1
	var failed error
	if err := raw.Control(func(fd uintptr) { copied, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return none, err
	}
	if failed != nil {
		return none, failed
	}
	return int32(copied), nil
}

// readNative reads what is there: 0 bytes and no error means that nothing is, closed that the peer has finished.
func readNative(fd int, buf []byte) (n int, closed bool, err error) {
	for {
		n, err := straight(unix.SYS_READ, fd, unsafe.Pointer(unsafe.SliceData(buf)), len(buf))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return 0, false, nil
		case err != nil:
			return 0, false, err
		}
		return n, n == 0, nil
	}
}

// writeNative writes as much as the socket takes now.
func writeNative(fd int, data []byte) (n int, err error) {
	for {
		n, err := straight(unix.SYS_WRITE, fd, unsafe.Pointer(unsafe.SliceData(data)), len(data))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return 0, nil
		case err != nil:
			return 0, err
		}
		return n, nil
	}
}

// acknowledgeNative has the kernel acknowledge at once what was read. Otherwise it waits 40 ms for something to send the acknowledgement
// with (tcp(7), TCP_QUICKACK), and after a broadcast the timers of thousands of connections end together, and nothing else runs
// on a processor meanwhile.
func acknowledgeNative(fd int) {
	on := int32(1)
	_, _, _ = unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK,
		uintptr(unsafe.Pointer(&on)), unsafe.Sizeof(on), 0) // late is well, too
}

// shutdownNative says that nothing more will be sent.
func shutdownNative(fd int) { _ = unix.Shutdown(fd, unix.SHUT_WR) } // fails only if the peer is gone

func closeNative(fd int) { _ = unix.Close(fd) } // the descriptor is gone in any case

// probeNative has the kernel find out whether the peer is there: keep-alive probes at once, a few seconds apart.
func probeNative(fd int) {
	for _, option := range []struct{ level, name, value int }{
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 3},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
	} {
		_ = unix.SetsockoptInt(fd, option.level, option.name, option.value)
	}
}
