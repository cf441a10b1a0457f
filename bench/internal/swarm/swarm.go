// Package swarm is many MQTT clients that cost little: one event loop reads and acknowledges for all of them, so that what is
// measured is the server. It speaks as much MQTT 5 as that takes.
package swarm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Identity is who a client is.
type Identity struct{ ClientID, Username, Password string }

// Options say what the clients do.
type Options struct {
	// Address is the server's host:port, Topic what each client subscribes to at QoS 1.
	Address, Topic string
	// Arrived is told of each PUBLISH before it is acknowledged; it must be quick. Nil: they are only counted.
	Arrived func(client int, payload []byte)
}

const (
	// connects is how many clients connect at a time.
	connects = 32
	// helloWithin bounds a client's way to its SUBACK.
	helloWithin = 30 * time.Second
	readSize    = 64 << 10
	// fromEach is how many clients come from one address of 127.0.0.0/8, fewer than an address has ports.
	fromEach = 20_000
)

// Swarm is a number of connected clients.
type Swarm struct {
	options Options
	clients []client
	epoll   int
	stop    [2]int // a pipe
	done    chan error
	got     atomic.Int64
	first   []byte // written before got is 1
	closing sync.Once
}

type client struct {
	fd   int
	rest []byte // the beginning of a packet
}

// Connect connects and subscribes clients, and reads from then on.
func Connect(ctx context.Context, o Options, who []Identity) (*Swarm, error) {
	s := &Swarm{options: o, clients: make([]client, len(who)), done: make(chan error, 1)}
	address, err := net.ResolveTCPAddr("tcp4", o.Address)
	if err != nil {
		return nil, err
	}
	if s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if err := unix.Pipe2(s.stop[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	for i := range s.clients {
		s.clients[i].fd = -1
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(connects)
	for i, id := range who {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := s.connect(i, address, id); err != nil {
				return fmt.Errorf("client %d of %d: %w", i, len(who), err)
			}
			return nil
		})
	}
	err = errors.Join(group.Wait(), s.watch(s.stop[0], -1))
	go func() { s.done <- s.run() }()
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Swarm) watch(fd, client int) error {
	return unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(client)})
}

// connect brings one client to its SUBACK with blocking calls, then leaves its socket to the loop.
func (s *Swarm) connect(i int, to *net.TCPAddr, id Identity) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	s.clients[i].fd = fd
	within := unix.NsecToTimeval(helloWithin.Nanoseconds())
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &within) // then it may hang, which is seen
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	from := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 1, byte(1 + i/fromEach)}}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	if err := unix.Bind(fd, from); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	server := &unix.SockaddrInet4{Port: to.Port}
	copy(server.Addr[:], to.IP.To4())
	if err := unix.Connect(fd, server); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	hello := appendSubscribe(appendConnect(nil, id), s.options.Topic)
	if _, err := unix.Write(fd, hello); err != nil {
		return fmt.Errorf("say hello: %w", err)
	}
	if err := s.welcome(i); err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	return s.watch(fd, i)
}

// welcome reads up to the SUBACK.
func (s *Swarm) welcome(i int) error {
	c := &s.clients[i]
	buf := make([]byte, 4096)
	for {
		n, err := unix.Read(c.fd, buf)
		if errors.Is(err, unix.EINTR) { // by Go's own signals, because of the time-out
			continue
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if n == 0 {
			return errors.New("the server closed the connection")
		}
		c.rest = append(c.rest, buf[:n]...)
		for {
			kind, body, used := next(c.rest)
			if used == 0 {
				break
			}
			c.rest = c.rest[used:]
			switch {
			case kind>>4 == connack && (len(body) < 2 || body[1] != 0):
				return fmt.Errorf("refused: % x", body)
			case kind>>4 == suback:
				if code := body[len(body)-1]; code > 1 {
					return fmt.Errorf("subscription refused with 0x%02x", code)
				}
				return nil
			}
		}
	}
}

// Count returns how many PUBLISH packets have come.
func (s *Swarm) Count() int64 { return s.got.Load() }

// First returns the first PUBLISH's payload, once one has come.
func (s *Swarm) First() []byte {
	if s.Count() == 0 {
		return nil
	}
	return s.first
}

// Await waits until n PUBLISH packets have come in all.
func (s *Swarm) Await(ctx context.Context, n int64) error {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for s.Count() < n {
		select {
		case err := <-s.done:
			s.done <- err
			return errors.Join(fmt.Errorf("%d of %d messages came", s.Count(), n), err)
		case <-ctx.Done():
			return fmt.Errorf("%d of %d messages came: %w", s.Count(), n, ctx.Err())
		case <-ticker.C:
		}
	}
	return nil
}

// Close closes all connections.
func (s *Swarm) Close() (err error) {
	s.closing.Do(func() {
		_ = unix.Close(s.stop[1]) // wakes the loop
		err = <-s.done
		for _, c := range s.clients {
			if c.fd >= 0 {
				_ = unix.Close(c.fd)
			}
		}
		_ = unix.Close(s.epoll)
		_ = unix.Close(s.stop[0])
	})
	return err
}

func (s *Swarm) run() error {
	events := make([]unix.EpollEvent, 512)
	buf, acks := make([]byte, readSize), make([]byte, 0, readSize)
	for {
		n, err := unix.EpollWait(s.epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("epoll: %w", err)
		}
		for _, e := range events[:max(n, 0)] {
			if e.Fd < 0 {
				return nil
			}
			if err := s.read(int(e.Fd), buf, acks); err != nil {
				return fmt.Errorf("client %d: %w", e.Fd, err)
			}
		}
	}
}

// read takes what has come for a client, and acknowledges it.
func (s *Swarm) read(i int, buf, acks []byte) error {
	c := &s.clients[i]
	n, err := unix.Read(c.fd, buf)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return nil
	case err != nil:
		return err
	case n == 0:
		return errors.New("the server closed the connection")
	}
	data := buf[:n]
	if len(c.rest) > 0 {
		c.rest = append(c.rest, data...)
		data = c.rest
	}
	for {
		kind, body, used := next(data)
		if used == 0 {
			break
		}
		data = data[used:]
		switch kind >> 4 {
		case publish:
			acks = s.publish(i, kind, body, acks)
		case disconnect:
			return fmt.Errorf("sent away: % x", body)
		}
	}
	if c.rest = append(c.rest[:0], data...); len(c.rest) == 0 {
		c.rest = nil
	}
	if len(acks) == 0 {
		return nil
	}
	_, err = unix.Write(c.fd, acks)
	return err
}

func (s *Swarm) publish(i int, kind byte, body, acks []byte) []byte {
	at := 2 + int(binary.BigEndian.Uint16(body))
	if kind&6 != 0 {
		acks = append(acks, puback<<4, 2, body[at], body[at+1])
		at += 2
	}
	length, n := binary.Uvarint(body[at:]) // property lengths are coded alike
	payload := body[at+n+int(length):]
	if s.options.Arrived != nil {
		s.options.Arrived(i, payload)
	}
	if s.first == nil {
		s.first = append(s.first, payload...)
	}
	s.got.Add(1)
	return acks
}
