// Package phones is a role of the crew: a process of clients.
package phones

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/halleypush/halley/bench/internal/crew"
	"github.com/halleypush/halley/bench/internal/swarm"
)

// Role is the role's name.
const Role = "phones"

// Kinds of clients.
const (
	MQTT       = "mqtt"
	Centrifuge = "centrifuge"
)

// Plan says which clients there are.
type Plan struct {
	// Kind is MQTT or Centrifuge; the latter needs only a Count.
	Kind  string
	Count int
	// Address is the server's, Topic what MQTT clients subscribe to.
	Address, Topic string
	Who            []swarm.Identity
	// From and Deaf are the swarm's options.
	From byte
	Deaf bool
	// Certificate is the PEM of the authority that a TLS server's certificate is checked with; empty: plain TCP.
	Certificate []byte
}

// Protocol returns what the clients speak.
func (p Plan) Protocol() swarm.Protocol {
	if p.Kind == Centrifuge {
		return &swarm.Centrifuge{Count: p.Count}
	}
	return &swarm.MQTT{Topic: p.Topic, Who: p.Who}
}

// Arrivals are messages that came, in their order.
type Arrivals struct {
	Clients []int32
	// At is when, in nanoseconds since 1970.
	At []int64
}

// Served is what the process does.
type Served struct {
	mu       sync.Mutex
	arrivals Arrivals // guarded by mu

	swarm  *swarm.Swarm
	secure *swarm.Secure
}

// Serve answers for the role until the input ends.
func Serve() error { return crew.Serve(&Served{}) }

// within bounds what clients do together.
const within = 2 * time.Minute

// Connect connects the clients; took is from the first connect until the last one is subscribed.
func (s *Served) Connect(p Plan, took *time.Duration) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	options := swarm.Options{Address: p.Address, From: p.From, Deaf: p.Deaf, Arrived: s.arrived}
	if len(p.Certificate) > 0 {
		s.secure, err = swarm.ConnectSecure(ctx, options, p.Certificate, p.Protocol())
		return err
	}
	if s.swarm, err = swarm.Connect(ctx, options, p.Protocol()); err == nil {
		*took = s.swarm.Took()
	}
	return err
}

func (s *Served) arrived(client int, _ []byte) {
	now := time.Now().UnixNano()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrivals.Clients = append(s.arrivals.Clients, int32(client))
	s.arrivals.At = append(s.arrivals.At, now)
}

// Expect forgets the messages that have come. Room is made for those to come, so that none waits for it.
func (s *Served) Expect(n int, _ *struct{}) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrivals = Arrivals{Clients: make([]int32, 0, n), At: make([]int64, 0, n)}
	return nil
}

func (s *Served) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.arrivals.At)
}

// Reach waits until n messages have come since Expect.
func (s *Served) Reach(n int, _ *struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := s.swarm.Until(ctx, func() bool { return s.count() >= n }); err != nil {
		return fmt.Errorf("%d of %d came: %w", s.count(), n, err)
	}
	return nil
}

// Await does what Reach does, and returns the messages.
func (s *Served) Await(n int, a *Arrivals) error {
	if err := s.Reach(n, nil); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	*a = s.arrivals
	return nil
}

// Hold keeps acknowledgements back.
func (s *Served) Hold(_ struct{}, _ *struct{}) error {
	s.swarm.Hold()
	return nil
}

// Release sends the acknowledgements that were kept back.
func (s *Served) Release(_ struct{}, _ *struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	return s.swarm.Release(ctx)
}

// First is the first message that came: the whole packet.
func (s *Served) First(_ struct{}, packet *[]byte) error {
	*packet, _ = s.swarm.First()
	return nil
}

// Established counts the connections that are there.
func (s *Served) Established(_ struct{}, n *int) error {
	*n = s.swarm.Established()
	return nil
}

// Shaking says how to shake hands.
type Shaking struct {
	Address     string
	Certificate []byte
	Count       int
	// Resume: with the ticket of a connection before.
	Resume bool
}

// Shake makes TLS connections, each for as long as its handshake takes, and reports how many were resumed.
func (s *Served) Shake(h Shaking, resumed *int) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	var err error
	*resumed, err = swarm.Shake(ctx, h.Address, h.Certificate, h.Count, h.Resume)
	return err
}
