// Package gate bounds what comes in: how fast a gateway takes connections, how many an address, an app and the gateway may
// hold, how often one device may come back. Whoever is refused hears when to come back, and the times that are named add up
// to the rate that the gateway can bear: a storm becomes a queue that nobody has to keep.
//
// What it remembers of addresses and devices has a fixed size, whatever their number: counters in hashed cells (a count-min
// sketch). Cells that are shared make a limit strike early, never late; with a million connections a cell counts a few too
// many, which is far below any sensible limit.
package gate

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// Limits are what a gateway bears. A limit of 0 is none.
type Limits struct {
	// ConnectRate is how many CONNECTs a second are let in, ConnectBurst how many at once.
	ConnectRate  float64
	ConnectBurst int
	// Connections is the most sessions of the gateway, AddressConnections of one client address, AppConnections of one app.
	Connections, AddressConnections, AppConnections int
	// AddressRate and AppRate are CONNECTs a second of one address and of one app; ten seconds' worth may come at once.
	AddressRate, AppRate float64
	// AddressBytes and AppBytes are bytes a second that come from one address and from one app's devices; as above.
	AddressBytes, AppBytes float64
	// FlapPerMinute is how often a minute a device may connect; one that goes on stays out for FlapBan.
	FlapPerMinute int
	FlapBan       time.Duration
	// MaxBackOff is the longest time to come back that is named.
	MaxBackOff time.Duration
}

// Reason is why a connection is refused, as metrics name it.
type Reason string

// The reasons.
const (
	Rate        Reason = "rate"
	Full        Reason = "full"
	Overload    Reason = "overload"
	AddressFull Reason = "address_full"
	AddressRate Reason = "address_rate"
	AppFull     Reason = "app_full"
	AppRate     Reason = "app_rate"
	Flapping    Reason = "flapping"
)

// Reasons returns all reasons, for metrics that stand at zero from the start.
func Reasons() []Reason {
	return []Reason{Rate, Full, Overload, AddressFull, AddressRate, AppFull, AppRate, Flapping}
}

// Refusal says why a connection does not come in, and when it may try again.
type Refusal struct {
	Reason     Reason
	RetryAfter time.Duration
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("refused (%s): back in %v", r.Reason, r.RetryAfter)
}

// fullPause is when a client is told to come back for which there is no room: room comes by itself, or never.
const fullPause = 30 * time.Second

// burstSeconds is how many seconds' worth of an address's or app's rate may come at once.
const burstSeconds = 10

// Gate decides who comes in. Its methods are safe for concurrent use and take well under a microsecond.
type Gate struct {
	limits Limits
	now    func() time.Time
	begun  time.Time
	seed   maphash.Seed
	// overloaded says how long newcomers stay away because the gateway has all it can bear; 0: they may come.
	overloaded func() time.Duration

	mu        sync.Mutex
	all       bucket          // guarded by mu
	slot      time.Duration   // guarded by mu: the last time that was named to somebody who was refused
	sessions  int             // guarded by mu
	apps      map[uint32]*app // guarded by mu
	addresses *sketch         // guarded by mu
	devices   *sketch         // guarded by mu

	traffic      sync.Mutex
	addressBytes *sketch            // guarded by traffic; nil: not bounded
	appBytes     map[uint32]*bucket // guarded by traffic
}

type app struct {
	sessions int
	bucket   bucket
}

// New returns a gate. overloaded is asked at each CONNECT and must not block; nil: never.
func New(l Limits, overloaded func() time.Duration) *Gate { return newGate(l, overloaded, time.Now) }

func newGate(l Limits, overloaded func() time.Duration, now func() time.Time) *Gate {
	if overloaded == nil {
		overloaded = func() time.Duration { return 0 }
	}
	if l.MaxBackOff <= 0 {
		l.MaxBackOff = 5 * time.Minute
	}
	g := &Gate{
		limits: l, now: now, begun: now(), seed: maphash.MakeSeed(), overloaded: overloaded,
		apps: map[uint32]*app{}, addresses: newSketch(), devices: newSketch(),
		appBytes: map[uint32]*bucket{},
	}
	if l.AddressBytes > 0 {
		g.addressBytes = newSketch()
	}
	return g
}

// Meters reports whether bytes are bounded, so that Spend must be asked.
func (g *Gate) Meters() bool { return g.limits.AddressBytes > 0 || g.limits.AppBytes > 0 }

// Spend takes bytes that came from a device off the allowances of its address and app, and reports false if one of them has
// not as many.
func (g *Gate) Spend(pass Pass, number uint32, n int) bool {
	g.traffic.Lock()
	defer g.traffic.Unlock()
	now, l := g.now().Sub(g.begun), g.limits
	if l.AddressBytes > 0 && pass != 0 && !g.addressBytes.spend(uint32(pass), now, n, l.AddressBytes, l.AddressBytes*burstSeconds) {
		return false
	}
	if l.AppBytes <= 0 {
		return true
	}
	b := g.appBytes[number]
	if b == nil {
		b = &bucket{}
		g.appBytes[number] = b
	}
	return b.spend(now, n, l.AppBytes, l.AppBytes*burstSeconds)
}

// Pass is what a connection that was let in gives back when it ends: its address, as far as the gate needs it.
type Pass uint32

// Enter lets a device in, or says why not. address may be invalid if it is not known.
func (g *Gate) Enter(address netip.Addr, number uint32, ordinal uint64) (Pass, *Refusal) {
	pause := g.overloaded()
	pass := g.pass(address)
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now().Sub(g.begun)
	if refusal := g.check(now, pause, pass, number, ordinal); refusal != nil {
		return 0, refusal
	}
	g.sessions++
	g.app(number).sessions++
	if pass != 0 {
		g.addresses.add(uint32(pass), 1)
	}
	return pass, nil
}

// Leave notes that the connection of a device of an app has ended.
func (g *Gate) Leave(pass Pass, number uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sessions--
	g.app(number).sessions--
	if pass != 0 {
		g.addresses.add(uint32(pass), -1)
	}
}

// check asks what belongs to one client first: who comes too often costs the others nothing. mu is held.
func (g *Gate) check(now, pause time.Duration, pass Pass, number uint32, ordinal uint64) *Refusal {
	l := g.limits
	if l.FlapPerMinute > 0 {
		hash := g.deviceHash(number, ordinal)
		perSecond := float64(l.FlapPerMinute) / 60
		if over := g.devices.take(hash, now, perSecond, float64(l.FlapPerMinute)); over > 0 {
			g.devices.charge(hash, now, perSecond, l.FlapBan)
			return g.refuse(Flapping, max(over, l.FlapBan))
		}
	}
	if hash := uint32(pass); hash != 0 {
		if l.AddressConnections > 0 && g.addresses.count(hash) >= l.AddressConnections {
			return g.refuse(AddressFull, fullPause)
		}
		if l.AddressRate > 0 {
			if over := g.addresses.take(hash, now, l.AddressRate, l.AddressRate*burstSeconds); over > 0 {
				return g.refuse(AddressRate, over)
			}
		}
	}
	a := g.app(number)
	switch {
	case l.AppConnections > 0 && a.sessions >= l.AppConnections:
		return g.refuse(AppFull, fullPause)
	case l.Connections > 0 && g.sessions >= l.Connections:
		return g.refuse(Full, fullPause)
	case pause > 0:
		return g.refuse(Overload, pause)
	}
	if l.AppRate > 0 {
		if over := a.bucket.take(now, l.AppRate, l.AppRate*burstSeconds); over > 0 {
			return g.refuse(AppRate, over)
		}
	}
	if l.ConnectRate > 0 && g.all.take(now, l.ConnectRate, float64(l.ConnectBurst)) > 0 {
		// Each is named a time of its own, as far apart as the gateway takes connections.
		g.slot = max(g.slot, now) + time.Duration(float64(time.Second)/l.ConnectRate)
		if g.slot-now > l.MaxBackOff {
			g.slot = now // the queue begins anew: nobody waits longer
		}
		return &Refusal{Rate, max(g.slot-now, time.Second/10)}
	}
	return nil
}

// refuse names a time with up to as much again at random, so that those who were refused together do not return together.
func (g *Gate) refuse(why Reason, pause time.Duration) *Refusal {
	pause = max(pause, time.Second)
	return &Refusal{why, min(pause+rand.N(pause), g.limits.MaxBackOff)}
}

func (g *Gate) app(number uint32) *app {
	a := g.apps[number]
	if a == nil {
		a = &app{}
		g.apps[number] = a
	}
	return a
}

// pass returns the hash of an address, 0 if there is none.
func (g *Gate) pass(a netip.Addr) Pass {
	if !a.IsValid() {
		return 0
	}
	// A v6 customer has at least a /64.
	if a = a.Unmap(); a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			a = p.Addr()
		}
	}
	return Pass(maphash.Comparable(g.seed, a)) | 1<<31
}

func (g *Gate) deviceHash(number uint32, ordinal uint64) uint32 {
	return uint32(maphash.Comparable(g.seed, [2]uint64{uint64(number), ordinal}))
}
