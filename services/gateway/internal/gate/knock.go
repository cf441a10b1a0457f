package gate

import (
	"math/rand/v2"
	"net/netip"
	"time"
)

// The reasons for which a connection is closed without a word, before it has said who it is.
const (
	AcceptRate      Reason = "accept_rate"
	HandshakeRate   Reason = "handshake_rate"
	Unidentified    Reason = "unidentified"
	AddressUnknowns Reason = "address_unidentified"
	AddressOut      Reason = "address_out"
)

// Closings returns the reasons of connections that are closed without a word, for metrics that stand at zero from the start.
func Closings() []Reason {
	return []Reason{AcceptRate, HandshakeRate, Unidentified, AddressUnknowns, AddressOut}
}

// Arrive counts a connection that has come, and whether it begins with a handshake. It returns why the connection is to be
// closed, or nothing: then Depart is due once it has said who it is, or is over.
func (g *Gate) Arrive(handshake bool) Reason {
	g.mu.Lock()
	defer g.mu.Unlock()
	now, l := g.now().Sub(g.begun), &g.limits
	switch {
	case l.Unidentified > 0 && g.unidentified >= l.Unidentified:
		return Unidentified
	case l.AcceptRate > 0 && !g.accepts.spend(now, 1, l.AcceptRate, max(l.AcceptRate, 1)):
		return AcceptRate
	case handshake && l.HandshakeRate > 0 && !g.handshakes.spend(now, 1, l.HandshakeRate, max(l.HandshakeRate, float64(l.ConnectBurst), 1)):
		return HandshakeRate
	}
	g.unidentified++
	return ""
}

// Introduce notes the address of a connection that has arrived. The Pass is for Depart; with a reason there is none, and the
// connection is to be closed.
func (g *Gate) Introduce(address netip.Addr) (Pass, Reason) {
	pass := g.pass(address)
	if pass == 0 {
		return 0, ""
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.failing.empty() {
		now := g.now().Sub(g.begun)
		if o := g.failing.get(uint32(pass), now); o.out(now) {
			return 0, AddressOut
		}
	}
	if l := &g.limits; l.AddressUnidentified > 0 {
		if int(g.unknowns[pass]) >= l.AddressUnidentified {
			return 0, AddressUnknowns
		}
		g.unknowns.add(pass, 1)
	}
	return pass, ""
}

// Slowed refuses a client of an address of which too many connections have failed lately, or returns nil.
func (g *Gate) Slowed(pass Pass) *Refusal {
	g.mu.Lock()
	defer g.mu.Unlock()
	if pass == 0 || g.failing.empty() {
		return nil
	}
	now := g.now().Sub(g.begun)
	o := g.failing.get(uint32(pass), now)
	if left := o.left(now); left > 0 {
		return g.spread(AddressFailing, left) // many may share the address
	}
	return nil
}

// Depart notes that a connection that had arrived is over, or has said who it is. failed: it did what no device does.
func (g *Gate) Depart(pass Pass, failed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unidentified--
	if pass == 0 {
		return
	}
	if g.limits.AddressUnidentified > 0 {
		g.unknowns.add(pass, -1)
	}
	if failed && g.limits.AddressFailures > 0 {
		g.fail(uint32(pass))
	}
}

// Waiting returns how many connections have arrived and not departed.
func (g *Gate) Waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.unidentified
}

// fail counts a failure of an address. mu is held.
func (g *Gate) fail(pass uint32) {
	now, l := g.now().Sub(g.begun), &g.limits
	b := g.failures.get(pass, now)
	if b.spend(now, 1, float64(l.AddressFailures)/60, float64(l.AddressFailures)) {
		g.failures.put(pass, now, b)
		return
	}
	o := g.failing.get(pass, now)
	o.strike(now, 0, l.FlapBan)
	g.failing.put(pass, now, o)
}

// makeUp takes one failure off an address of which a device has come in: among very many phones some always fail. mu is held.
func (g *Gate) makeUp(pass uint32, now time.Duration) {
	if b := g.failures.get(pass, now); b.level > 0 {
		b.leak(now, float64(g.limits.AddressFailures)/60)
		b.level = max(0, b.level-1)
		g.failures.put(pass, now, b)
	}
}

// spread names a time with up to as much again at random, so that those who were refused together do not return together.
func (g *Gate) spread(why Reason, pause time.Duration) *Refusal {
	pause = max(pause, time.Second)
	return &Refusal{why, min(pause+rand.N(pause), g.limits.MaxBackOff)}
}

// counts are how many there are of each address that has any.
type counts map[Pass]int32

func (c counts) add(pass Pass, n int32) {
	if c[pass] += n; c[pass] == 0 {
		delete(c, pass)
	}
}
