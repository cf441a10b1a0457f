// Package swarm is many clients that cost little: one event loop connects, reads and acknowledges for all of them, so that
// what is measured is the server.
package swarm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Options say what the clients do.
type Options struct {
	// Address is the server's host:port.
	Address string
	// From is the second byte of the clients' address, 127.From.0.1; swarms of one server need different ones if they are
	// more than an address has ports.
	From byte
	// Arrived is told of each message before it is acknowledged; it must be quick. Nil: messages are only counted.
	Arrived func(client int, payload []byte)
	// Deaf clients read nothing any more once they are connected, and have the smallest receive buffer.
	Deaf bool
}

// greetings is how many clients are on their way from connect to ready at a time: fewer than mosquitto's listen backlog.
const greetings = 64

// Swarm is a number of connected clients.
type Swarm struct {
	options  Options
	protocol Protocol
	epoll    int
	waker    [2]int // a pipe
	ended    chan struct{}
	err      error // once ended is closed
	ready    chan struct{}
	took     time.Duration // once ready is closed
	got      atomic.Int64
	holding  atomic.Bool
	closing  sync.Once

	mu    sync.Mutex
	work  []func() error // guarded by mu: for the loop
	first []byte         // guarded by mu: the first message, whole

	// The loop's own.
	clients  []client
	hellos   [][]byte
	server   unix.SockaddrInet4
	start    time.Time
	begun    int
	greeting int
	greeted  int
}

type client struct {
	fd    int32
	ready bool
	rest  []byte // the beginning of a packet
	held  []byte // acknowledgements that wait
}

// Connect connects clients, and reads from then on. It returns when all are ready.
func Connect(ctx context.Context, o Options, p Protocol) (*Swarm, error) {
	s := &Swarm{
		options: o, protocol: p, clients: make([]client, p.Clients()), hellos: make([][]byte, p.Clients()),
		ended: make(chan struct{}), ready: make(chan struct{}),
	}
	address, err := net.ResolveTCPAddr("tcp4", o.Address)
	if err != nil {
		return nil, err
	}
	s.server.Port = address.Port
	copy(s.server.Addr[:], address.IP.To4())
	if s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if err := unix.Pipe2(s.waker[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	if err := s.watch(s.waker[0], -1); err != nil {
		return nil, err
	}
	for i := range s.clients {
		s.clients[i].fd = -1
		s.hellos[i] = p.Hello(i) // before the clock starts
	}
	go func() {
		s.err = s.run()
		close(s.ended)
	}()
	select {
	case <-s.ready:
		return s, nil
	case <-s.ended:
		return nil, errors.Join(fmt.Errorf("%d of %d clients were ready: %w", s.greeted, len(s.clients), s.err), s.Close())
	case <-ctx.Done():
		_ = s.Close() // then the count is not the loop's any more
		return nil, fmt.Errorf("%d of %d clients were ready: %w", s.greeted, len(s.clients), ctx.Err())
	}
}

// Took returns how long it was from the first connect to the last client's readiness.
func (s *Swarm) Took() time.Duration { return s.took }

// Count returns how many messages have come.
func (s *Swarm) Count() int64 { return s.got.Load() }

// First returns the first message: the whole packet, and its payload alone. Nil if none has come.
func (s *Swarm) First() (packet, payload []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first == nil {
		return nil, nil
	}
	p, _ := s.protocol.Take(s.first) // it was taken before
	return s.first, p.Payload
}

// Hold keeps acknowledgements back from now on.
func (s *Swarm) Hold() { s.holding.Store(true) }

// Release sends what was kept back, and further acknowledgements at once.
func (s *Swarm) Release(ctx context.Context) error {
	done := make(chan error, 1)
	s.post(func() error {
		s.holding.Store(false)
		for i := range s.clients {
			c := &s.clients[i]
			if len(c.held) == 0 {
				continue
			}
			if _, err := unix.Write(int(c.fd), c.held); err != nil {
				return fmt.Errorf("client %d: acknowledge: %w", i, err)
			}
			c.held = c.held[:0]
		}
		done <- nil
		return nil
	})
	select {
	case err := <-done:
		return err
	case <-s.ended:
		return s.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Swarm) post(f func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.work = append(s.work, f)
	_, _ = unix.Write(s.waker[1], []byte{0}) // a full pipe wakes, too
}

// Await waits until n messages have come in all.
func (s *Swarm) Await(ctx context.Context, n int64) error {
	return s.Until(ctx, func() bool { return s.Count() >= n })
}

// Until waits until a condition holds, which is asked every millisecond, and fails if the clients' connections end before.
func (s *Swarm) Until(ctx context.Context, condition func() bool) error {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-s.ended:
			return fmt.Errorf("after %d messages: %w", s.Count(), s.err)
		case <-ctx.Done():
			return fmt.Errorf("after %d messages: %w", s.Count(), ctx.Err())
		case <-ticker.C:
		}
	}
	return nil
}

// Established returns how many of the clients' connections are there, as far as their kernel knows.
func (s *Swarm) Established() int {
	n := 0
	for i := range s.clients { // the rest of a client is the loop's
		info, err := unix.GetsockoptTCPInfo(int(s.clients[i].fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil && info.State == 1 { // TCP_ESTABLISHED
			n++
		}
	}
	return n
}

var errStop = errors.New("stopped")

// Close closes all connections. It returns why they ended before, if they did.
func (s *Swarm) Close() (err error) {
	s.closing.Do(func() {
		s.post(func() error { return errStop })
		<-s.ended
		if !errors.Is(s.err, errStop) {
			err = s.err
		}
		for _, c := range s.clients {
			if c.fd >= 0 {
				_ = unix.Close(int(c.fd))
			}
		}
		for _, fd := range []int{s.epoll, s.waker[0], s.waker[1]} {
			_ = unix.Close(fd)
		}
	})
	return err
}
