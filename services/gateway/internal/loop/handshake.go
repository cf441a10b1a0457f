package loop

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/halleypush/halley/services/gateway/internal/proxy"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

// TLS begins in a goroutine of its own, because crypto/tls has no other form, over Go's own poller, which wakes goroutines for
// less than a loop could. Afterwards the connection moves into a loop.

var (
	errTooMany   = errors.New("too many handshakes are under way")
	errUnwelcome = errors.New("the gate does not want it")
	errLeft      = errors.New("the client left without a word")
)

// shakers bound the TLS handshakes of a gateway: how many may be under way, and how many of them may compute at a time, so that
// loops get their share of the processors. One that waits for its peer computes nothing: silent peers keep nobody waiting.
type shakers struct {
	most      int32
	under     atomic.Int32
	computing chan struct{}
}

func newShakers(most, processors int) *shakers {
	return &shakers{most: int32(most), computing: make(chan struct{}, processors)}
}

// enter takes a place among the handshakes under way. It reports false if there is none.
func (s *shakers) enter() bool {
	if s.under.Add(1) > s.most {
		s.under.Add(-1)
		return false
	}
	return true
}

func (s *shakers) leave() { s.under.Add(-1) }

// How handshakes end.
const (
	shakeFull = iota
	shakeResumed
	shakeFailed
	shakeTooMany
	shakeOutcomes
)

var shakeNames = [shakeOutcomes]string{"full", "resumed", "failed", "too_many"}

func outcomeOfHandshake(conn *tls.Conn, err error) int {
	switch {
	case err != nil:
		return shakeFailed
	case conn.ConnectionState().DidResume:
		return shakeResumed
	default:
		return shakeFull
	}
}

// slow is the socket of a handshake: who waits for its peer leaves the place among those that compute.
type slow struct {
	net.Conn
	first   []byte // was read already
	shakers *shakers
}

func (c *slow) Read(b []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(b, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	<-c.shakers.computing
	defer func() { c.shakers.computing <- struct{}{} }()
	return c.Conn.Read(b)
}

// firstRead is how much is read of what a client says first: all of it, as a rule.
const firstRead = 512

// shake makes the handshake of a connection, which begins when something has come from the client. The caller bounds its time.
func (s *Set) shake(conn net.Conn, config *tls.Config) (*secured, error) {
	first := make([]byte, firstRead)
	n, err := conn.Read(first)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, fmt.Errorf("handshake: %w", err)
	case err != nil:
		return nil, errLeft
	}
	if !s.shakers.enter() {
		s.metrics.handshakes[shakeTooMany].Inc()
		return nil, errTooMany
	}
	defer s.shakers.leave()
	secure := &secured{}
	secure.pipe.under = &slow{conn, first[:n], s.shakers}
	secure.conn = tls.Server(&secure.pipe, config)
	s.shakers.computing <- struct{}{}
	err = secure.conn.HandshakeContext(context.Background()) // the connection has a deadline
	<-s.shakers.computing
	s.metrics.handshakes[outcomeOfHandshake(secure.conn, err)].Inc()
	return secure, err
}

// introduced reads a balancer's header, and nothing of what comes behind it.
func (s *Set) introduced(conn net.Conn, a *arrival) error {
	header := make([]byte, proxy.Fixed)
	for rest := header; ; {
		if _, err := io.ReadFull(conn, rest); err != nil {
			return fmt.Errorf("header: %w", err)
		}
		client, used, err := s.introduce(header, a.remote, a.port.Balancers)
		if err != nil || used > 0 {
			a.remote = client
			return err
		}
		header = append(header, make([]byte, proxy.Rest(header))...)
		rest = header[proxy.Fixed:]
	}
}

// bring takes a connection that a goroutine has accepted through what comes before the loops.
func (s *Set) bring(raw net.Conn, a arrival) {
	defer s.brought(raw)
	p := a.port
	_ = raw.SetDeadline(a.begun.Add(session.ConnectWithin)) // fails only if it is closed
	var err error
	if p.Balancers != nil {
		if err = s.introduced(raw, &a); err == nil && !s.meet(a.remote, &a.pass) {
			err = errUnwelcome
		}
	}
	if err == nil && p.TLS != nil {
		a.tls, err = s.shake(raw, p.TLS)
	}
	if err != nil {
		s.gate.Depart(a.pass, !errors.Is(err, errTooMany) && !errors.Is(err, errLeft))
		_ = raw.Close() // it is not wanted
		return
	}
	a.port = &Port{WebSocket: p.WebSocket}
	if a.fd, err = detach(raw); err != nil {
		_ = raw.SetDeadline(time.Time{}) // as above
		a.outside = newOutside(raw, nil, &s.outsides)
	} else {
		_ = raw.Close() // the loop has a descriptor of its own
	}
	if a.tls != nil {
		a.tls.pipe.under = nil
	}
	s.adopt(a)
}

// awaited notes a connection that comes, so that a stop need not wait for its peer. It reports false if none is wanted any more.
func (s *Set) awaited(raw net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.coming != nil {
		s.coming[raw] = true
	}
	return s.coming != nil
}

func (s *Set) brought(raw net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.coming, raw)
}

// giveUp closes the connections that are not through yet.
func (s *Set) giveUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for raw := range s.coming {
		_ = raw.Close() // its goroutine fails by that
	}
	s.coming = nil
}
