package sender

import (
	"sync"
	"time"
)

const (
	// roomFor bounds what a sender has taken and not settled, of all apps, in targets; jobCost is what a job costs beside
	// its targets. A target takes some 500 bytes, so that is about 32 MB.
	roomFor = 1 << 16
	jobCost = 16
	// guess is the speed, in targets a second, that an app is believed to have until it is measured for measureFor.
	guess      = 50_000
	measureFor = time.Second
	// shortestPark and longestPark bound how long a job without room is put off.
	shortestPark = 250 * time.Millisecond
	longestPark  = 30 * time.Second
)

// room is shared by all apps of a sender. An app may hold as much as is left free: alone it has half of the room, with k
// others that are as busy one part of k+2, and whoever comes next finds a place.
type room struct {
	mu    sync.Mutex
	taken int // guarded by mu
}

// take takes a place for a job of an app that holds so much already, if the app's share allows it.
func (r *room) take(held, cost int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if held+cost > roomFor-r.taken {
		return false
	}
	r.taken += cost
	return true
}

func (r *room) give(cost int) {
	r.mu.Lock()
	r.taken -= cost
	r.mu.Unlock()
}

func (r *room) used() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.taken
}

// pace is how fast an app's targets are settled, and when those come back that found no room: one after the other, a little
// faster than that, so that the app neither waits for work nor has its jobs go round in circles.
type pace struct {
	since time.Time // of the measurement: done targets were settled since then
	done  float64
	next  time.Time // when the next job that finds no room comes back
}

// begin starts a measurement; what was measured before an idle time says nothing.
func (p *pace) begin(now time.Time) { *p = pace{since: now} }

// settled notes that n targets are done. Half of a measurement is forgotten every few seconds.
func (p *pace) settled(now time.Time, n int) {
	p.done += float64(n)
	if age := now.Sub(p.since); age > 4*measureFor {
		p.since, p.done = now.Add(-age/2), p.done/2
	}
}

// park returns when a job of n targets comes back.
func (p *pace) park(now time.Time, n int) time.Time {
	speed := float64(guess)
	if age := now.Sub(p.since); age > measureFor {
		speed = max(p.done/age.Seconds()*5/4, 1)
	}
	at := p.next
	if soonest := now.Add(jitter(2 * shortestPark)); at.Before(soonest) {
		at = soonest
	}
	if latest := now.Add(longestPark); at.After(latest) {
		return now.Add(jitter(longestPark))
	}
	p.next = at.Add(time.Duration(float64(n) / speed * float64(time.Second)))
	return at
}
