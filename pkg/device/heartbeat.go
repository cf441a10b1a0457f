package device

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/log"
)

const (
	// maxKeepAlive is the longest heartbeat that MQTT can say.
	maxKeepAlive = 65535 * time.Second
	// pongWithin is how long a ping may be without an answer before the connection is given up: a radio that has to wake up,
	// and a busy cell.
	pongWithin = 20 * time.Second
	// maxNetworks bounds the networks whose rhythm is remembered.
	maxNetworks = 32
)

// Heartbeat sets the adaptive heartbeat, which finds out how long each network leaves a silent connection alone: the longer
// the pause, the longer the radio sleeps. It is the one that WeChat's Mars describes
// (https://github.com/Tencent/mars, stn/src/smart_heartbeat.cc): it begins with Min, after Good answered pings in a row the
// pause grows by Step, up to Max; after Bad unanswered ones in a row it steps back and stays there. The zero value of a field
// is its default.
type Heartbeat struct {
	Min  time.Duration // 3.5 min
	Max  time.Duration // 10 min
	Step time.Duration // 60 s
	Good int           // 5
	Bad  int           // 2
}

func (h *Heartbeat) complete() error {
	for _, d := range []struct {
		value    *time.Duration
		standard time.Duration
	}{{&h.Min, 210 * time.Second}, {&h.Max, 10 * time.Minute}, {&h.Step, time.Minute}} {
		if *d.value == 0 {
			*d.value = d.standard
		}
	}
	if h.Good == 0 {
		h.Good = 5
	}
	if h.Bad == 0 {
		h.Bad = 2
	}
	if h.Min < time.Second || h.Max < h.Min || h.Max > maxKeepAlive || h.Step < 0 || h.Good < 0 || h.Bad < 0 {
		return errors.New("device options: Heartbeat: Min is at least 1 s, Max from Min to 65535 s, nothing negative")
	}
	return nil
}

// rhythm is the pause between pings on one network.
type rhythm struct {
	pause     time.Duration
	good, bad int  // pings in a row
	settled   bool // it was too long once: it does not grow any more
}

// heart keeps the rhythm of each network, over connections.
type heart struct {
	set Heartbeat // fixed

	keeping sync.Mutex // one stores at a time

	mu         sync.Mutex
	foreground bool               // guarded by mu
	saving     bool               // guarded by mu: the phone saves power
	network    string             // guarded by mu: the present one
	rhythms    map[string]*rhythm // guarded by mu
}

func newHeart(set Heartbeat) *heart { return &heart{set: set, rhythms: map[string]*rhythm{}} }

// of returns a network's rhythm; mu is held.
func (h *heart) of(network string) *rhythm {
	r := h.rhythms[network]
	if r == nil {
		if len(h.rhythms) >= maxNetworks {
			clear(h.rhythms) // learned again soon enough
		}
		r = &rhythm{pause: h.set.Min}
		h.rhythms[network] = r
	}
	return r
}

// pause returns how long a connection may be silent now. In the foreground the radio is awake anyway, and the shortest pause
// notices soonest that the connection is dead, unless power is to be saved.
func (h *heart) pause(network string) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.foreground && !h.saving {
		return h.set.Min
	}
	return h.of(network).pause
}

// beat notes that a ping after a silence of a given length was answered, or not, and reports whether that changed what is to be
// kept. A silence shorter than the network's pause says nothing about the network. While power is saved no longer pause is tried.
func (h *heart) beat(network string, silence time.Duration, answered bool) (learned bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.of(network)
	if silence < r.pause {
		return false
	}
	before := r.kept()
	if !answered {
		r.good = 0
		if r.bad++; r.bad >= h.set.Bad {
			r.pause, r.bad, r.settled = max(r.pause-h.set.Step, h.set.Min), 0, true
		}
		return r.kept() != before
	}
	r.bad = 0
	if r.good++; r.good >= h.set.Good && !r.settled && !h.saving {
		r.pause, r.good = min(r.pause+h.set.Step, h.set.Max), 0
	}
	return r.kept() != before
}

func (h *heart) setSaving(saving bool) {
	h.mu.Lock()
	h.saving = saving
	h.mu.Unlock()
}

func (h *heart) setForeground(foreground bool) {
	h.mu.Lock()
	h.foreground = foreground
	h.mu.Unlock()
}

// move reports whether the network is another one now.
func (h *heart) move(network string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	changed := network != h.network
	h.network = network
	return changed
}

func (h *heart) present() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.network
}

// pinger returns what keeps one connection alive: a ping when nothing was sent or received for as long as the heart says, at
// the most the CONNACK's Server Keep Alive. Without an adaptive heartbeat the Server Keep Alive alone counts.
func (d *Device) pinger() paho.Pinger {
	if d.options.Heartbeat == nil {
		return paho.NewDefaultPinger()
	}
	return &pinger{
		heart: d.heart, network: d.heart.present(), wake: make(chan struct{}, 1), beats: d.beats, learned: d.keepRhythms,
	}
}

// pinger pings on one connection.
type pinger struct {
	heart   *heart
	network string        // the connection's
	wake    chan struct{} // has room for one: something was received
	beats   <-chan chan<- error
	learned func(context.Context)

	mu       sync.Mutex
	sent     time.Time // guarded by mu: when a packet but a ping was sent last
	received time.Time // guarded by mu
}

var _ paho.Pinger = (*pinger)(nil)

var errSilent = errors.New("the server does not answer pings")

// Run pings until ctx ends or an answer does not come.
func (p *pinger) Run(ctx context.Context, conn net.Conn, keepAlive uint16) error {
	begin := time.Now()
	p.mu.Lock()
	p.sent, p.received = begin, begin
	p.mu.Unlock()
	pinged := begin
	limit := time.Duration(keepAlive) * time.Second
	for {
		due, last := p.due(pinged, limit)
		timer := time.NewTimer(time.Until(due))
		var asked chan<- error // by Beat
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case asked = <-p.beats:
			timer.Stop()
			_, last = p.due(pinged, limit)
		case <-timer.C:
		}
		if again, _ := p.due(pinged, limit); asked == nil && again.After(due) {
			continue // something was sent or received meanwhile
		}
		pinged = time.Now()
		err := p.ping(ctx, conn)
		if p.heart.beat(p.network, pinged.Sub(last), err == nil) {
			p.learned(ctx)
		}
		if asked != nil {
			asked <- err // it has room
		}
		if err != nil {
			return err
		}
	}
}

// due returns when the next ping is due, and when the connection was used last. Both sides count for the network; the
// server counts only what it hears.
func (p *pinger) due(pinged time.Time, limit time.Duration) (due, last time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	heard := p.sent
	if pinged.After(heard) {
		heard = pinged
	}
	if last = p.received; heard.After(last) {
		last = heard
	}
	due = last.Add(p.heart.pause(p.network))
	if limit > 0 && heard.Add(limit).Before(due) {
		due = heard.Add(limit)
	}
	return due, last
}

// ping sends a ping and waits until something is received. A connection that breaks meanwhile is a ping without an answer.
func (p *pinger) ping(ctx context.Context, conn net.Conn) error {
	select {
	case <-p.wake: // of before
	default:
	}
	failed := make(chan error, 1) // the writer must not wait for us
	go func() {
		// The connection's end unblocks the write.
		if _, err := packets.NewControlPacket(packets.PINGREQ).WriteTo(conn); err != nil {
			failed <- err
		}
	}()
	timer := time.NewTimer(pongWithin)
	defer timer.Stop()
	select {
	case <-p.wake:
		return nil
	case err := <-failed:
		return err
	case <-timer.C:
		return errSilent
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// PacketSent is called by the library.
func (p *pinger) PacketSent() {
	p.mu.Lock()
	p.sent = time.Now()
	p.mu.Unlock()
}

// PacketReceived is called by the library, for answers to pings, too.
func (p *pinger) PacketReceived() {
	p.mu.Lock()
	p.received = time.Now()
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// PingResp is called by the library, after PacketReceived.
func (p *pinger) PingResp() {}

// SetDebug is called by the library.
func (p *pinger) SetDebug(log.Logger) {}

// SetForeground tells whether the app is in front of the user: then the heartbeat is the shortest, since the radio is awake
// anyway and a dead connection is noticed soonest. It matters with Options.Heartbeat only.
func (d *Device) SetForeground(foreground bool) {
	d.heart.setForeground(foreground)
}

// SetPowerSave tells whether the phone saves power, such as in Doze: then the heartbeat keeps to the longest pause that this
// network is known to bear, also in the foreground, and tries no longer one, which could cost a connection. It matters with
// Options.Heartbeat only.
func (d *Device) SetPowerSave(saving bool) {
	d.heart.setSaving(saving)
}

// ErrNoHeartbeat is returned by Beat without Options.Heartbeat.
var ErrNoHeartbeat = errors.New("the device has no adaptive heartbeat")

// Beat pings now, and returns when the answer is there: a host app whose process sleeps between its alarms calls it at each of
// them, instead of timers of the SDK that would wake the phone once more. The next heartbeat is due a whole pause later. An
// error says that there is no connection, or none any more; it is being made anew. Beat waits for a connection until ctx ends.
func (d *Device) Beat(ctx context.Context) error {
	if d.options.Heartbeat == nil {
		return ErrNoHeartbeat
	}
	s, err := d.connected(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := s.within(ctx)
	defer cancel()
	answered := make(chan error, 1)
	select {
	case d.beats <- answered:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-answered:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

var errNetworkChanged = errors.New("the network changed")

// NetworkChanged tells that the phone is on another network now: name tells networks apart, such as "wifi" and the SSID's
// hash, or "mobile" and the operator's code. A connection of the network before is given up at once rather than at its next
// heartbeat, a pause between tries ends, and the adaptive heartbeat uses what it has learned about that network. The same
// name as before changes nothing.
func (d *Device) NetworkChanged(name string) {
	if !d.heart.move(name) {
		return
	}
	d.mu.Lock()
	online := d.online
	d.mu.Unlock()
	if online != nil {
		online.end(errNetworkChanged)
		return
	}
	select {
	case d.hurry <- struct{}{}:
	default:
	}
}
