package loop

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/halleypush/halley/services/gateway/internal/mqtt"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

// What a sweep does with each session.
type sweepKind byte

const (
	// sweepPull: messages may have been missed.
	sweepPull sweepKind = iota
	// sweepReopen: the routes may be lost.
	sweepReopen
	// sweepDrain: the gateway stops.
	sweepDrain
	// sweepShed: some shall go elsewhere.
	sweepShed
)

// sweep goes through a loop's sessions at a set rate.
type sweep struct {
	kind   sweepKind
	rate   float64       // sessions a second, of this loop
	within time.Duration // a drain: it has to be through by then, however many there are
	most   float64       // sessions in all
	next   int32
	end    int32
	begun  time.Duration
	done   float64
	// waiting is how many sessions of a repair have not asked yet.
	waiting int
	finish  func()
}

// sweep goes through sessions, most in all, at a rate per second and calls done at the end with how many there were, from one of the loops.
func (s *Set) sweep(each sweep, most, rate int, done func(sessions int)) {
	left, sessions := &atomic.Int32{}, &atomic.Int64{}
	left.Store(int32(len(s.loops)))
	for n, l := range s.loops {
		share := most / len(s.loops)
		if n < most%len(s.loops) {
			share++
		}
		each.rate, each.most = float64(rate)/float64(len(s.loops)), float64(share)
		own := each
		own.finish = func() {
			sessions.Add(int64(own.done))
			if left.Add(-1) == 0 {
				done(int(sessions.Load()))
			}
		}
		l.post(&own)
	}
}

// PullAll has every session ask for what is kept: messages may have been missed.
func (s *Set) PullAll(rate int, done func()) {
	s.sweep(sweep{kind: sweepPull}, math.MaxInt, rate, func(int) { done() })
}

// ReopenAll has every session opened again: the routes may be lost.
func (s *Set) ReopenAll(rate int, done func()) {
	s.sweep(sweep{kind: sweepReopen}, math.MaxInt, rate, func(int) { done() })
}

// Drain sends every connection away, at a rate per second; faster where they would not be gone within a time otherwise, as
// those who are left then would all come to other gateways at once.
func (s *Set) Drain(rate int, within time.Duration, done func(sessions int)) {
	s.sweep(sweep{kind: sweepDrain, within: within}, math.MaxInt, rate, done)
}

// Shed sends n devices elsewhere, so that the load is spread anew. done hears how many there were to go.
func (s *Set) Shed(n, rate int, done func(sessions int)) {
	s.sweep(sweep{kind: sweepShed}, n, rate, done)
}

func (s *sweep) run(l *Loop) {
	s.begun, s.end = l.clock.Since, l.conns.len()
	if s.kind == sweepShed && s.end > 0 { // not the same ones each time
		s.next = rand.Int32N(s.end)
		s.end += s.next
	}
	switch s.kind {
	case sweepDrain:
		s.hurry(l)
	case sweepPull, sweepReopen:
		s.waiting = l.countSessions()
		l.set.metrics.repairs.Add(float64(s.waiting))
	case sweepShed:
	}
	l.sweeps = append(l.sweeps, s)
}

// countSessions walks through all connections.
func (l *Loop) countSessions() (n int) {
	for i := range l.conns.len() {
		if l.conns.at(i).state == stateLive {
			n++
		}
	}
	return n
}

// hurry raises a drain's rate to what is needed. A tenth of the time is left for a loop that is late.
func (s *sweep) hurry(l *Loop) {
	sessions := l.countSessions()
	if needed := float64(sessions) / (0.9 * s.within.Seconds()); needed > s.rate {
		l.log.Warn("sends devices away faster than drain_rate: the loop's would not be gone by drain_deadline",
			"sessions", sessions, "drain_rate_of_loop", s.rate, "rate", math.Ceil(needed))
		s.rate = needed
	}
}

// runSweeps lets each sweep do what its rate allows by now.
func (l *Loop) runSweeps() {
	for n := 0; n < len(l.sweeps); {
		s := l.sweeps[n]
		due := min(s.most, s.rate*(l.clock.Since-s.begun+wheelTick).Seconds())
		for s.next < s.end && s.done < due {
			if i := s.next % l.conns.len(); l.conns.at(i).state != stateFree {
				l.sweepOne(s, i)
			}
			s.next++
		}
		if s.next < s.end && s.done < s.most {
			n++
			continue
		}
		l.sweeps = append(l.sweeps[:n], l.sweeps[n+1:]...)
		l.set.metrics.repairs.Sub(float64(s.waiting)) // those that went meanwhile
		s.finish()
	}
}

func (l *Loop) sweepOne(s *sweep, i int32) {
	c := l.conns.at(i)
	if c.state == stateClosing {
		return
	}
	if c.state != stateLive {
		if s.kind == sweepDrain {
			l.close(i, session.Shutdown)
		}
		return
	}
	if away := s.kind == sweepDrain || s.kind == sweepShed; away && c.rest != nil && c.rest.ride != nil {
		return // it goes with the connection
	}
	s.done++
	if s.waiting > 0 { // those that came meanwhile are more than were counted
		s.waiting--
		l.set.metrics.repairs.Dec()
	}
	switch s.kind {
	case sweepPull:
		c.session.PullAll(&l.out)
	case sweepReopen:
		c.session.Reopen(&l.out)
	case sweepDrain:
		l.sendAway(i, session.Shutdown)
		return
	case sweepShed:
		l.sendAway(i, session.Shed)
		return
	}
	l.perform(i)
}

// sendAway tells a device to come back in a moment, to another gateway if there is an address for that, and why.
func (l *Loop) sendAway(i int32, why session.Reason) {
	d := mqtt.Disconnect{Code: mqtt.UseAnotherServer, ServerReference: l.set.references[l.conns.at(i).transport]}
	if why == session.Shutdown && d.ServerReference == "" {
		d.Code = mqtt.ShuttingDown
	}
	d.User = []mqtt.UserProperty{session.RetryAfter(time.Second + rand.N(4*time.Second))}
	l.conns.at(i).session.Disconnect(&l.out, d, why)
	l.perform(i)
}

// lifeLeft returns how long a session may still stay, if lifetimes are bounded: half to all of the bound, by its number.
func (l *Loop) lifeLeft(c *conn) time.Duration {
	s := &c.session
	if l.set.lifetime == 0 || c.rest != nil && c.rest.ride != nil {
		return time.Hour
	}
	const spread = 1 << 16
	half := l.set.lifetime / 2
	share := time.Duration(s.Number * 0x9E3779B97F4A7C15 >> 48) // of spread
	return half + half/spread*share - s.Age(l.clock)
}

// stop ends a loop. Devices are told so; the loop goes on until they have read it, or had time to.
type stop struct{}

func (stop) run(l *Loop) {
	l.stopping = true
	l.closeListeners()
	for i := range l.conns.len() {
		switch l.conns.at(i).state {
		case stateLive:
			l.sendAway(i, session.Shutdown)
		case stateFree, stateClosing:
		default:
			l.close(i, session.Shutdown)
		}
	}
}
