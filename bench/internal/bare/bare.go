// Package bare is what the gateway is measured beside: an epoll loop per processor with 128 bytes per connection, which
// answers the first bytes of a client with the same bytes as the gateway, writes the same frames and reads what is said, and
// does nothing else. It checks no secret, opens no session, keeps no heartbeat and counts acknowledgements by their length.
package bare

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/halleypush/halley/bench/internal/crew"
)

// Role is the role's name.
const Role = "bare"

const (
	backlog  = 4096
	readSize = 64 << 10
	// ackSize is the length of a PUBACK.
	ackSize = 4
)

// connection is the state of a client: as much as a small server would have.
type connection struct {
	fd      int32
	greeted bool
	_       [123]byte
}

// Served is what the process does.
type Served struct {
	loops []*loop
	acked atomic.Int64 // bytes
}

type loop struct {
	served        *Served
	epoll, listen int
	connections   []connection
	welcome       []byte

	// The write that is asked for; the pipe wakes the loop.
	waker  [2]int
	mu     sync.Mutex
	frames [][]byte
	done   chan error
}

// Serve answers for the role until the input ends.
func Serve() error { return crew.Serve(&Served{}) }

// Listen starts the loops, which answer each client's first bytes with a welcome.
func (s *Served) Listen(welcome []byte, address *string) error {
	port := 0
	for range runtime.GOMAXPROCS(0) {
		l := &loop{served: s, welcome: welcome, done: make(chan error)}
		var err error
		if port, err = l.open(port); err != nil {
			return err
		}
		s.loops = append(s.loops, l)
		go l.run()
	}
	*address = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port)).String()
	return nil
}

// Broadcast writes a frame to every client.
func (s *Served) Broadcast(frame []byte, _ *struct{}) error {
	for _, l := range s.loops {
		l.mu.Lock()
		l.frames = append(l.frames, frame)
		l.mu.Unlock()
		_, _ = unix.Write(l.waker[1], []byte{0}) // a full pipe wakes, too
	}
	var errs []error
	for _, l := range s.loops {
		errs = append(errs, <-l.done)
	}
	return errors.Join(errs...)
}

// Acked is how many acknowledgements have been read.
func (s *Served) Acked(_ struct{}, n *int64) error {
	*n = s.acked.Load() / ackSize
	return nil
}

// open opens a loop's own listening socket on a port, which the first loop chooses.
func (l *loop) open(port int) (chosen int, err error) {
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return 0, err
	}
	if err := unix.Pipe2(l.waker[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return 0, err
	}
	if l.listen, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return 0, err
	}
	if err := unix.SetsockoptInt(l.listen, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return 0, err
	}
	if err := unix.Bind(l.listen, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, err
	}
	if err := unix.Listen(l.listen, backlog); err != nil {
		return 0, err
	}
	bound, err := unix.Getsockname(l.listen)
	if err != nil {
		return 0, err
	}
	return bound.(*unix.SockaddrInet4).Port, errors.Join(l.watch(l.listen, -1), l.watch(l.waker[0], -2))
}

func (l *loop) watch(fd int, what int32) error {
	return unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: what})
}

func (l *loop) run() {
	events, buf := make([]unix.EpollEvent, 512), make([]byte, readSize)
	for {
		n, err := unix.EpollWait(l.epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			panic(err) // there is nothing to measure any more
		}
		for _, e := range events[:max(n, 0)] {
			switch e.Fd {
			case -1:
				l.accept()
			case -2:
				_, _ = unix.Read(l.waker[0], buf)
				l.write()
			default:
				l.read(&l.connections[e.Fd], buf)
			}
		}
	}
}

func (l *loop) accept() {
	for range 64 {
		fd, _, err := unix.Accept4(l.listen, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		l.connections = append(l.connections, connection{fd: int32(fd)})
		if err := l.watch(fd, int32(len(l.connections)-1)); err != nil {
			panic(err) // likewise
		}
	}
}

func (l *loop) read(c *connection, buf []byte) {
	n, err := unix.Read(int(c.fd), buf)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
	case n <= 0:
		_ = unix.Close(int(c.fd))
		c.fd = -1
	case !c.greeted:
		c.greeted = true
		_, _ = unix.Write(int(c.fd), l.welcome) // a failure is the client's, too
	default:
		l.served.acked.Add(int64(n))
	}
}

// write writes what is asked for to all clients.
func (l *loop) write() {
	l.mu.Lock()
	frames := l.frames
	l.frames = nil
	l.mu.Unlock()
	for _, frame := range frames {
		l.done <- l.writeAll(frame)
	}
}

func (l *loop) writeAll(frame []byte) error {
	for i := range l.connections {
		fd := int(l.connections[i].fd)
		if fd < 0 {
			continue
		}
		if n, err := unix.Write(fd, frame); err != nil || n < len(frame) {
			return fmt.Errorf("wrote %d of %d B: %w", n, len(frame), errors.Join(err, io.ErrShortWrite))
		}
	}
	return nil
}
