package rig

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Link is a TCP connection's way that can be cut, such as that of a gateway to NATS. While it is cut it behaves as a network that
// swallows packets: connections stay open, new ones are accepted, nothing passes.
type Link struct {
	listener net.Listener
	target   string

	mu     sync.Mutex
	whole  chan struct{} // closed while the link is whole
	conns  map[net.Conn]bool
	closed bool
	copies sync.WaitGroup
}

// NewLink returns a link to an address, whole. It ends with the test.
func NewLink(t testing.TB, target string) *Link {
	t.Helper()
	listener, err := net.Listen("tcp", Addr(t))
	if err != nil {
		t.Fatalf("link: %v", err)
	}
	l := &Link{listener: listener, target: target, whole: make(chan struct{}), conns: map[net.Conn]bool{}}
	close(l.whole)
	l.copies.Go(l.accept)
	t.Cleanup(l.close)
	return l
}

// Addr is where the link is entered.
func (l *Link) Addr() string { return l.listener.Addr().String() }

// Cut stops everything that passes.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.whole = make(chan struct{})
}

// Mend lets everything pass again, with what has waited.
func (l *Link) Mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.whole)
}

func (l *Link) accept() {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.copies.Go(func() { l.serve(near) })
	}
}

// serve carries one connection.
func (l *Link) serve(near net.Conn) {
	defer near.Close()
	if !l.add(near) {
		return
	}
	defer l.remove(near)
	l.await()
	dialer := net.Dialer{Timeout: 5 * time.Second}
	far, err := dialer.Dial("tcp", l.target)
	if err != nil {
		return
	}
	defer far.Close()
	if !l.add(far) {
		return
	}
	defer l.remove(far)
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		both.Go(func() {
			_, _ = io.Copy(passage{way[0], l}, way[1]) // ends when either side does
			_ = near.Close()
			_ = far.Close()
		})
	}
	both.Wait()
}

// passage waits before each write until the link is whole.
type passage struct {
	net.Conn
	link *Link
}

func (p passage) Write(b []byte) (int, error) {
	p.link.await()
	return p.Conn.Write(b)
}

func (l *Link) await() {
	l.mu.Lock()
	whole := l.whole
	l.mu.Unlock()
	<-whole
}

func (l *Link) add(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.conns[c] = true
	}
	return !l.closed
}

func (l *Link) remove(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

func (l *Link) close() {
	l.mu.Lock()
	l.closed = true
	select {
	case <-l.whole:
	default:
		close(l.whole)
	}
	for c := range l.conns {
		_ = c.Close()
	}
	l.mu.Unlock()
	_ = l.listener.Close()
	l.copies.Wait()
}
