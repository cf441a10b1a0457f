package loop

import (
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
)

// sweep goes through a loop's sessions at a set rate.
type sweep struct {
	kind   sweepKind
	rate   float64 // sessions a second, of this loop
	next   int32
	end    int32
	begun  time.Duration
	done   float64
	finish func()
}

// Sweep goes through all sessions at a rate per second and calls done at the end, from one of the loops.
func (s *Set) sweep(kind sweepKind, rate int, done func()) {
	left := &atomic.Int32{}
	left.Store(int32(len(s.loops)))
	for _, l := range s.loops {
		l.post(&sweep{kind: kind, rate: float64(rate) / float64(len(s.loops)), finish: func() {
			if left.Add(-1) == 0 {
				done()
			}
		}})
	}
}

// PullAll has every session ask for what is kept: messages may have been missed.
func (s *Set) PullAll(rate int, done func()) { s.sweep(sweepPull, rate, done) }

// ReopenAll has every session opened again: the routes may be lost.
func (s *Set) ReopenAll(rate int, done func()) { s.sweep(sweepReopen, rate, done) }

// Drain sends every connection away.
func (s *Set) Drain(rate int, done func()) { s.sweep(sweepDrain, rate, done) }

func (s *sweep) run(l *Loop) {
	s.begun, s.end = l.clock.Since, l.conns.len()
	l.sweeps = append(l.sweeps, s)
}

// runSweeps lets each sweep do what its rate allows by now.
func (l *Loop) runSweeps() {
	for n := 0; n < len(l.sweeps); {
		s := l.sweeps[n]
		due := s.rate * (l.clock.Since - s.begun + wheelTick).Seconds()
		for s.next < s.end && s.done < due {
			if l.conns.at(s.next).state != stateFree {
				l.sweepOne(s, s.next)
			}
			s.next++
		}
		if s.next < s.end {
			n++
			continue
		}
		l.sweeps = append(l.sweeps[:n], l.sweeps[n+1:]...)
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
	s.done++
	switch s.kind {
	case sweepPull:
		c.session.PullAll(&l.out)
	case sweepReopen:
		c.session.Reopen(&l.out)
	case sweepDrain:
		l.sendAway(i)
		return
	}
	l.perform(i)
}

// sendAway tells a device that the gateway stops, and when to come back.
func (l *Loop) sendAway(i int32) {
	l.conns.at(i).session.Disconnect(&l.out, mqtt.Disconnect{
		Code: mqtt.ShuttingDown, User: []mqtt.UserProperty{session.RetryAfter(time.Second + rand.N(4*time.Second))},
	}, session.Shutdown)
	l.perform(i)
}
