// Package gate bounds what comes in: how fast a gateway takes connections, how many an address, an app and the gateway may
// hold, how often one device may come back. Whoever is refused hears when to come back, and the times that are named add up
// to the rate that the gateway can bear: a storm becomes a queue that nobody has to keep.
//
// What it remembers of addresses and devices grows with how many came in the last minute or two, up to a bound.
package gate

import (
	"fmt"
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"github.com/halleypush/halley/services/gateway/internal/pace"
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
	// FlapPerMinute is how often a minute a device may connect. One that connects more often is slowed; one that goes on stays
	// out for FlapBan.
	FlapPerMinute int
	FlapBan       time.Duration
	// AddressFailures is how many connections a minute of an address may fail, beyond those that its good ones make up for; one
	// that goes on is slowed and stays out, likewise.
	AddressFailures int
	// AcceptRate is how many connections a second are looked at, HandshakeRate how many TLS handshakes a second begin.
	AcceptRate, HandshakeRate float64
	// Unidentified is the most connections that have not said yet who they are, AddressUnidentified of one address.
	Unidentified, AddressUnidentified int
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
	Opens       Reason = "opens"
	AddressFull Reason = "address_full"
	AddressRate Reason = "address_rate"
	AppFull     Reason = "app_full"
	AppRate     Reason = "app_rate"
	Flapping    Reason = "flapping"
	// AddressFailing is an address of which too many connections have failed.
	AddressFailing Reason = "address_failures"
)

// Reasons returns all reasons, for metrics that stand at zero from the start.
func Reasons() []Reason {
	return []Reason{Rate, Full, Overload, Opens, AddressFull, AddressRate, AppFull, AppRate, Flapping, AddressFailing}
}

// Refusal says why a connection does not come in, and when it may try again.
type Refusal struct {
	Reason     Reason
	RetryAfter time.Duration
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("refused (%s): back in %v", r.Reason, r.RetryAfter)
}

// Pause is what keeps newcomers out for now.
type Pause struct {
	// Reason is Overload or Opens; empty: nothing does.
	Reason Reason
	// For is how long they stay away at the least.
	For time.Duration
	// Rate is how many a second can be taken after that; 0: not known.
	Rate float64
}

const (
	// fullPause is when a client is told to come back for which there is no room: room comes by itself, or never.
	fullPause = 30 * time.Second
	// burstSeconds is how many seconds' worth of an address's or app's rate may come at once.
	burstSeconds = 10
	// anyRate is what those who are refused are spread at where ConnectRate is not bounded.
	anyRate = 5000
	// leastShare of that rate is the least that they are spread at, so that some find out when there is room again.
	leastShare = 0.01
	// overloadShare of it is what a gateway takes again that had more than it could bear.
	overloadShare = 0.5
)

// Gate decides who comes in. Its methods are safe for concurrent use and take well under a microsecond.
type Gate struct {
	limits Limits
	now    func() time.Time
	begun  time.Time
	seed   maphash.Seed
	// keepsOut says whether the gateway has all it can bear.
	keepsOut func() Pause

	mu           sync.Mutex
	all          queue           // guarded by mu
	sessions     int             // guarded by mu
	leaves       pace.Meter      // guarded by mu
	apps         map[uint32]*app // guarded by mu
	addresses    counts          // guarded by mu: their sessions, if those are bounded
	rates        table[queue]    // guarded by mu: of addresses, if those are bounded
	flaps        table[bucket]   // guarded by mu: of devices that came in
	flappers     table[offence]  // guarded by mu: devices
	unidentified int             // guarded by mu
	unknowns     counts          // guarded by mu: unidentified ones by address, if those are bounded
	accepts      bucket          // guarded by mu
	handshakes   bucket          // guarded by mu
	failures     table[bucket]   // guarded by mu: of addresses
	failing      table[offence]  // guarded by mu: addresses

	traffic      sync.Mutex
	addressBytes table[bucket]      // guarded by traffic
	appBytes     map[uint32]*bucket // guarded by traffic
}

type app struct {
	sessions int
	queue    queue
}

// New returns a gate. keepsOut is asked at each CONNECT and must not block; nil: nothing does.
func New(l Limits, keepsOut func() Pause) *Gate { return newGate(l, keepsOut, time.Now) }

func newGate(l Limits, keepsOut func() Pause, now func() time.Time) *Gate {
	if keepsOut == nil {
		keepsOut = func() Pause { return Pause{} }
	}
	if l.MaxBackOff <= 0 {
		l.MaxBackOff = 5 * time.Minute
	}
	const second, minute = burstSeconds * time.Second, time.Minute // until a full bucket is empty
	return &Gate{
		limits: l, now: now, begun: now(), seed: maphash.MakeSeed(), keepsOut: keepsOut,
		apps: map[uint32]*app{}, addresses: counts{}, unknowns: counts{}, rates: newTable[queue](max(second, l.MaxBackOff), generation),
		flaps: newTable[bucket](minute, generation), flappers: newTable[offence](l.FlapBan+minute, generation),
		failures: newTable[bucket](minute, generation), failing: newTable[offence](l.FlapBan+minute, generation),
		addressBytes: newTable[bucket](second, generation), appBytes: map[uint32]*bucket{},
	}
}

// Meters reports whether bytes are bounded, so that Spend must be asked.
func (g *Gate) Meters() bool { return g.limits.AddressBytes > 0 || g.limits.AppBytes > 0 }

// Spend takes bytes that came from a device off the allowances of its address and app, and reports false if one of them has
// not as many.
func (g *Gate) Spend(pass Pass, number uint32, n int) bool {
	g.traffic.Lock()
	defer g.traffic.Unlock()
	now, l := g.now().Sub(g.begun), g.limits
	if l.AddressBytes > 0 && pass != 0 {
		b := g.addressBytes.get(uint32(pass), now)
		ok := b.spend(now, n, l.AddressBytes, l.AddressBytes*burstSeconds)
		g.addressBytes.put(uint32(pass), now, b)
		if !ok {
			return false
		}
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

// Pass is an address as far as the gate needs it, 0 for none. A connection gives it back when it ends.
type Pass uint32

// visit is a device at the gate.
type visit struct {
	now     time.Duration
	pass    Pass
	device  uint32
	app     *app
	flaps   bucket
	address queue
}

// Enter lets a device in, or says why not. address may be invalid if it is not known.
func (g *Gate) Enter(address netip.Addr, number uint32, ordinal uint64) (Pass, *Refusal) {
	return g.EnterBeside(g.pass(address), number, ordinal)
}

// EnterBeside is Enter for a device that comes from the address of one that was let in.
func (g *Gate) EnterBeside(pass Pass, number uint32, ordinal uint64) (Pass, *Refusal) {
	pause := g.keepsOut()
	v := visit{pass: pass, device: g.deviceHash(number, ordinal)}
	g.mu.Lock()
	defer g.mu.Unlock()
	v.now, v.app = g.now().Sub(g.begun), g.app(number)
	if refusal := g.check(&v, pause); refusal != nil {
		return 0, refusal
	}
	g.enter(&v)
	return v.pass, nil
}

// Leave notes that the connection of a device of an app has ended.
func (g *Gate) Leave(pass Pass, number uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sessions--
	g.app(number).sessions--
	if g.limits.Connections > 0 {
		g.leaves.Add(g.now().Sub(g.begun), 1)
	}
	if pass != 0 && g.limits.AddressConnections > 0 {
		g.addresses.add(pass, -1)
	}
}

// ComeBack names a time of its own to a client that is refused, as very many may be at this moment, after a pause.
func (g *Gate) ComeBack(pause time.Duration) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.turn(g.now().Sub(g.begun), Rate, pause, g.rate()).RetryAfter
}

// check says why a device does not come in. It asks what belongs to one client first: who comes too often costs the others
// nothing. mu is held.
func (g *Gate) check(v *visit, pause Pause) *Refusal {
	l, now := &g.limits, v.now
	if left := g.flapped(v); left > 0 {
		return &Refusal{Flapping, min(left, l.MaxBackOff)}
	}
	if v.pass != 0 {
		if l.AddressConnections > 0 && int(g.addresses[v.pass]) >= l.AddressConnections {
			return g.spread(AddressFull, fullPause)
		}
		if l.AddressRate > 0 {
			if v.address = g.rates.get(uint32(v.pass), now); v.address.wait(now, l.AddressRate, l.AddressRate*burstSeconds) > 0 {
				back := v.address.turn(now, time.Second, l.AddressRate, l.MaxBackOff)
				g.rates.put(uint32(v.pass), now, v.address)
				return &Refusal{AddressRate, back}
			}
		}
	}
	switch {
	case l.AppConnections > 0 && v.app.sessions >= l.AppConnections:
		return &Refusal{AppFull, v.app.queue.turn(now, fullPause, g.rate()*leastShare, l.MaxBackOff)}
	case l.Connections > 0 && g.sessions >= l.Connections:
		return g.turn(now, Full, fullPause, g.leaves.PerSecond(now))
	case pause.Reason == Overload:
		return g.turn(now, Overload, pause.For, g.rate()*overloadShare)
	case pause.Reason != "":
		return g.turn(now, pause.Reason, pause.For, pause.Rate)
	case l.AppRate > 0 && v.app.queue.wait(now, l.AppRate, l.AppRate*burstSeconds) > 0:
		return &Refusal{AppRate, v.app.queue.turn(now, time.Second, l.AppRate, l.MaxBackOff)}
	case l.ConnectRate > 0 && g.all.wait(now, l.ConnectRate, float64(l.ConnectBurst)) > 0:
		return g.turn(now, Rate, 0, l.ConnectRate)
	}
	return nil
}

// flapped returns how long a device has to stay away because it came in too often. mu is held.
func (g *Gate) flapped(v *visit) time.Duration {
	l := &g.limits
	if l.FlapPerMinute <= 0 {
		return 0
	}
	o := g.flappers.get(v.device, v.now)
	if left := o.left(v.now); left > 0 {
		return left
	}
	v.flaps = g.flaps.get(v.device, v.now)
	over := v.flaps.wait(v.now, float64(l.FlapPerMinute)/60, float64(l.FlapPerMinute))
	if over == 0 {
		return 0
	}
	o.strike(v.now, over, l.FlapBan)
	g.flappers.put(v.device, v.now, o)
	return o.left(v.now)
}

// enter counts a device that comes in. Only those count: what a storm brings again and again is no fault of its devices. mu is held.
func (g *Gate) enter(v *visit) {
	l := &g.limits
	g.sessions++
	v.app.sessions++
	v.app.queue.level++
	g.all.level++
	if l.FlapPerMinute > 0 {
		v.flaps.level++
		g.flaps.put(v.device, v.now, v.flaps)
	}
	if v.pass == 0 {
		return
	}
	if l.AddressConnections > 0 {
		g.addresses.add(v.pass, 1)
	}
	if l.AddressRate > 0 {
		v.address.level++
		g.rates.put(uint32(v.pass), v.now, v.address)
	}
	if l.AddressFailures > 0 {
		g.makeUp(uint32(v.pass), v.now)
	}
}

// rate returns how many a second the gateway takes. mu is held.
func (g *Gate) rate() float64 {
	if g.limits.ConnectRate > 0 {
		return g.limits.ConnectRate
	}
	return anyRate
}

// turn refuses a device for what concerns all of them, which form one queue. mu is held.
func (g *Gate) turn(now time.Duration, why Reason, pause time.Duration, rate float64) *Refusal {
	rate = min(max(rate, g.rate()*leastShare), g.rate())
	return &Refusal{why, g.all.turn(now, pause, rate, g.limits.MaxBackOff)}
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
