package swarm

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	readSize = 64 << 10
	// fromEach is how many clients come from one address of 127.0.0.0/8, fewer than an address has ports.
	fromEach = 20_000
	// yieldEvery is after how many reads the clients let other threads run: phones are other machines, which keep no server waiting
	// for a processor.
	yieldEvery = 2
)

func (s *Swarm) watch(fd, client int) error {
	return unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(client)})
}

func (s *Swarm) run() error {
	events := make([]unix.EpollEvent, 512)
	buf, replies := make([]byte, readSize), make([]byte, 0, readSize)
	s.start = time.Now()
	for {
		for s.begun < len(s.clients) && s.greeting < greetings {
			if err := s.begin(s.begun); err != nil {
				return fmt.Errorf("client %d: %w", s.begun, err)
			}
			s.begun, s.greeting = s.begun+1, s.greeting+1
		}
		n, err := unix.EpollWait(s.epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("epoll: %w", err)
		}
		for i, e := range events[:max(n, 0)] {
			if i%yieldEvery == yieldEvery-1 {
				_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
			}
			if e.Fd < 0 {
				err = s.doWork(buf)
			} else if err = s.read(int(e.Fd), buf, replies); err != nil {
				err = fmt.Errorf("client %d: %w", e.Fd, err)
			}
			if err != nil {
				return err
			}
		}
	}
}

func (s *Swarm) doWork(buf []byte) error {
	_, _ = unix.Read(s.waker[0], buf)
	s.mu.Lock()
	work := s.work
	s.work = nil
	s.mu.Unlock()
	for _, f := range work {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// begin connects a client and has it say hello. On loopback a connect that blocks returns at once.
func (s *Swarm) begin(i int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	s.clients[i].fd = int32(fd)
	if s.options.Deaf {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1) // the kernel has a smallest size
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}) // no port stays in TIME_WAIT
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, s.options.From, byte(i / fromEach), 1}}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	for {
		err := unix.Connect(fd, &s.server)
		if err == nil || errors.Is(err, unix.EISCONN) {
			break
		}
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EALREADY) {
			return fmt.Errorf("connect: %w", err)
		}
	}
	if _, err := unix.Write(fd, s.hellos[i]); err != nil {
		return fmt.Errorf("say hello: %w", err)
	}
	s.hellos[i] = nil
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	return s.watch(fd, i)
}

// read takes what has come for a client, and answers it.
func (s *Swarm) read(i int, buf, replies []byte) error {
	c := &s.clients[i]
	n, err := unix.Read(int(c.fd), buf)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return nil
	case err != nil:
		return err
	case n == 0:
		return errClosed
	}
	data := buf[:n]
	if len(c.rest) > 0 {
		c.rest = append(c.rest, data...)
		data = c.rest
	}
	for {
		p, err := s.protocol.Take(data)
		if err != nil {
			return err
		}
		if p.Used == 0 {
			break
		}
		if replies, err = s.take(i, p, data[:p.Used], replies); err != nil {
			return err
		}
		data = data[p.Used:]
	}
	if c.rest = append(c.rest[:0], data...); len(c.rest) == 0 {
		c.rest = nil
	}
	if len(replies) == 0 {
		return nil
	}
	_, err = unix.Write(int(c.fd), replies)
	return err
}

// take handles a packet and appends what is to be said to it.
func (s *Swarm) take(i int, p Packet, packet, replies []byte) ([]byte, error) {
	c := &s.clients[i]
	switch {
	case p.Kind == Message:
		if s.options.Arrived != nil {
			s.options.Arrived(i, p.Payload)
		}
		if s.got.Add(1) == 1 {
			s.mu.Lock()
			s.first = bytes.Clone(packet)
			s.mu.Unlock()
		}
		if p.Acked && s.holding.Load() {
			c.held = append(c.held, p.Ack[:]...)
		} else if p.Acked {
			replies = append(replies, p.Ack[:]...)
		}
	case p.Kind == Ready && !c.ready:
		c.ready = true
		s.greeting--
		if s.greeted++; s.greeted == len(s.clients) {
			s.took = time.Since(s.start)
			close(s.ready)
		}
		if s.options.Deaf {
			return replies, unix.EpollCtl(s.epoll, unix.EPOLL_CTL_DEL, int(c.fd), nil)
		}
	}
	return append(replies, p.Reply...), nil
}
