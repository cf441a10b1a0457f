package sender

import (
	"context"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
	"golang.org/x/time/rate"
)

// tenant is what a sender knows of one app: its share of the room, and whether the vendor works for it.
type tenant struct {
	room     *room
	workers  workers // that make its requests
	breaker  *gobreaker.TwoStepCircuitBreaker[struct{}]
	receipts *rate.Limiter // calls of the vendor

	mu   sync.Mutex
	held int  // guarded by mu: of the room
	pace pace // guarded by mu
}

func newTenant(c *Config, l Limits, r *room) *tenant {
	return &tenant{
		room: r, workers: newWorkers(max(l.Concurrency, 1)), receipts: rate.NewLimiter(receiptRate, receiptBurst),
		breaker: gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
			MaxRequests: 1, Timeout: c.BreakerFor,
			ReadyToTrip: func(counts gobreaker.Counts) bool { return int(counts.ConsecutiveFailures) >= c.BreakerAfter },
		}),
	}
}

// enter takes a place for a job of n targets, or returns when it is to come back.
func (t *tenant) enter(now time.Time, n int) (again time.Time, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.room.take(t.held, n+jobCost) {
		return t.pace.park(now, n), false
	}
	if t.held == 0 {
		t.pace.begin(now)
	}
	t.held += n + jobCost
	return again, true
}

// leave gives back the place of a job of n targets.
func (t *tenant) leave(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.room.give(n + jobCost)
	t.held -= n + jobCost
}

// settled notes that what was to be done for n targets is done. Jobs take turns: many end together, so that their ends say
// nothing of how fast it goes.
func (t *tenant) settled(now time.Time, n int) {
	t.mu.Lock()
	t.pace.settled(now, n)
	t.mu.Unlock()
}

// account is what the vendor counts by credential: apps with the same one share it. Each process counts by itself; the
// vendor's own answer has the last word.
type account struct {
	rate    *rate.Limiter
	perDay  int64
	refusal refusal

	mu    sync.Mutex
	used  time.Time // guarded by mu
	spent time.Time // guarded by mu: until when the quota is spent
	day   time.Time // guarded by mu: the end of the vendor's day that sent counts
	sent  int64     // guarded by mu
}

func newAccount(l Limits) *account {
	limit := rate.Inf
	if l.PerSecond > 0 {
		limit = rate.Limit(l.PerSecond)
	}
	return &account{rate: rate.NewLimiter(limit, max(int(l.PerSecond), 1)), perDay: l.PerDay}
}

// admit waits until the credential's rate allows another request, and says whether it does within maxRateWait.
func (a *account) admit(ctx context.Context) bool {
	if a.rate.Allow() {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, maxRateWait)
	defer cancel()
	return a.rate.Wait(ctx) == nil
}

// spend notes that the quota is spent until a time.
func (a *account) spend(until time.Time) {
	a.mu.Lock()
	if until.After(a.spent) {
		a.spent = until
	}
	a.mu.Unlock()
}

// china is the time zone in which the vendors' days begin.
var china = time.FixedZone("UTC+8", 8*60*60)

func midnight(now time.Time) time.Time {
	y, m, d := now.In(china).Date()
	return time.Date(y, m, d+1, 0, 0, 0, 0, china)
}

// quota counts n targets against the day's quota, or returns until when it is spent.
func (a *account) quota(now time.Time, n int) (until time.Time, spent bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.used = now
	if now.Before(a.spent) {
		return a.spent, true
	}
	if a.perDay == 0 {
		return until, false
	}
	if next := midnight(now); !next.Equal(a.day) {
		a.day, a.sent = next, 0
	}
	if a.sent+int64(n) > a.perDay {
		return a.day, true
	}
	a.sent += int64(n)
	return until, false
}

// giveBack takes n targets, which the vendor did not take, off what counts today.
func (a *account) giveBack(n int) {
	a.mu.Lock()
	a.sent = max(a.sent-int64(n), 0)
	a.mu.Unlock()
}

// idle says whether nothing is lost if the account is forgotten: its last day is over.
func (a *account) idle(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return now.Sub(a.used) > 24*time.Hour && now.After(a.spent)
}
