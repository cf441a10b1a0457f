package session

import (
	"slices"
	"time"

	"github.com/halleypush/halley/services/gateway/internal/mqtt"
)

// Tick does what is due by now, and returns after how long it wants to be called again at the latest. Input, deliveries and
// answers may come any time in between; those that make something due earlier say so by DueSooner.
func (s *Session) Tick(out *Output, c Clock) time.Duration {
	if s.is(closed) {
		return time.Hour
	}
	// One and a half times the keep-alive (3.1.2.10).
	silent := time.Duration(c.Millis()-s.lastIn) * time.Millisecond
	patience := time.Duration(s.keepAlive) * 1500 * time.Millisecond
	if s.is(rides) {
		patience = silent + time.Hour // the connection's own session sees to that
	}
	if s.Stalled() {
		silent = 0 // it may well have spoken; nobody listens until there is room
	}
	if silent >= patience {
		s.disconnect(out, mqtt.KeepAliveTimeout, KeepAlive)
		return time.Hour
	}
	next := patience - silent
	if !s.is(asked) && !s.is(opened) {
		if age := s.Age(c); age >= openAfter {
			s.open(out)
		} else {
			next = min(next, openAfter-age)
		}
	}
	if s.active != nil {
		next = min(next, s.tickActive(out, c))
	}
	return next
}

// tickActive looks after what is under way.
func (s *Session) tickActive(out *Output, c Clock) time.Duration {
	next := time.Hour
	for i := range s.active.flights {
		f := &s.active.flights[i]
		age := time.Duration(c.Millis()-f.at) * time.Millisecond
		switch {
		case age >= s.patience(i):
			s.disconnect(out, mqtt.KeepAliveTimeout, NoAck)
			return time.Hour
		case age >= s.App.AckTimeout && f.flags&isProbed == 0:
			f.flags |= isProbed
			out.Actions = append(out.Actions, Action{Kind: DoProbe})
		}
		if age >= sentAfter {
			s.reportSent(out, f)
		}
		next = min(next, s.dueOf(i, age))
	}
	next = min(next, s.giveUpCalls(out, c))
	if s.is(wantPull) && !s.is(pulling) && s.Receiving() {
		s.pullIfRoom(out)
		next = min(next, time.Second) // in case it fails again
	}
	a := s.active
	if forget := uint32(rememberedFor.Milliseconds()); len(a.recent) > 0 {
		a.recent = slices.DeleteFunc(a.recent, func(r recent) bool { return c.Millis()-r.at >= forget })
		next = min(next, rememberedFor)
	}
	s.rest(out)
	return next
}

// patience returns how old a flight may become. The last one of a full window is as old as the window has been full.
func (s *Session) patience(i int) time.Duration {
	most := probesPerClose * s.App.AckTimeout
	if s.room() == 0 && i == s.InFlight()-1 {
		return min(most, fullFor)
	}
	return most
}

// dueOf returns after how long the next thing is due for a flight of this age.
func (s *Session) dueOf(i int, age time.Duration) time.Duration {
	f, patience := &s.active.flights[i], s.patience(i)
	switch {
	case f.flags&(isReported|isReply) == 0:
		return max(sentAfter-age, 0)
	case f.flags&isProbed == 0:
		return max(min(s.App.AckTimeout, patience)-age, 0)
	default:
		return max(patience-age, 0)
	}
}

// DueSooner returns after how long Tick must be called because of what is under way; a long time if nothing is. Hosts ask it
// after each input, delivery and answer, and move their timer if it is earlier.
func (s *Session) DueSooner() time.Duration {
	switch {
	case s.InFlight() > 0:
		// The last one is why it is asked; the timer has heard of those before.
		if last := s.active.flights[s.InFlight()-1]; last.flags&(isReported|isReply) != 0 {
			return s.App.AckTimeout
		}
		return sentAfter
	case !s.is(asked) && !s.is(opened):
		return openAfter
	case s.is(wantPull) && !s.is(pulling):
		return time.Second
	case s.active != nil && len(s.active.calls) > 0:
		return callsWait
	}
	return time.Hour
}
