package sender

import (
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
	"golang.org/x/time/rate"
)

// queuePerApp bounds the jobs of one app that wait in a sender, so that no app has more than its share of what is taken
// ahead. More go back to JetStream for parkFor.
const (
	queuePerApp = 32
	parkFor     = 5 * time.Second
)

// tenant is what a sender knows of one app: its jobs that wait, and the limits that are its own.
type tenant struct {
	slots   chan struct{} // one token per request under way
	rate    *rate.Limiter
	breaker *gobreaker.TwoStepCircuitBreaker[struct{}]

	mu     sync.Mutex
	jobs   int       // guarded by mu: taken and not settled
	spent  time.Time // guarded by mu: until when the quota is spent
	day    time.Time // guarded by mu: the vendor's day that sent counts
	sent   int64     // guarded by mu
	perDay int64
}

func newTenant(c *Config, l Limits) *tenant {
	limit := rate.Inf
	if l.PerSecond > 0 {
		limit = rate.Limit(l.PerSecond)
	}
	return &tenant{
		slots: make(chan struct{}, max(l.Concurrency, 1)), rate: rate.NewLimiter(limit, max(int(l.PerSecond), 1)), perDay: l.PerDay,
		breaker: gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
			MaxRequests: 1, Timeout: c.BreakerFor,
			ReadyToTrip: func(counts gobreaker.Counts) bool { return int(counts.ConsecutiveFailures) >= c.BreakerAfter },
		}),
	}
}

// enter takes a place in the app's queue, if there is one.
func (t *tenant) enter() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.jobs >= queuePerApp {
		return false
	}
	t.jobs++
	return true
}

func (t *tenant) leave() {
	t.mu.Lock()
	t.jobs--
	t.mu.Unlock()
}

// spend notes that the quota is spent until a time.
func (t *tenant) spend(until time.Time) {
	t.mu.Lock()
	if until.After(t.spent) {
		t.spent = until
	}
	t.mu.Unlock()
}

// china is the time zone in which the vendors' days begin.
var china = time.FixedZone("UTC+8", 8*60*60)

func midnight(now time.Time) time.Time {
	y, m, d := now.In(china).Date()
	return time.Date(y, m, d+1, 0, 0, 0, 0, china)
}

// quota counts n targets against the day's quota, or returns until when it is spent.
func (t *tenant) quota(now time.Time, n int) (until time.Time, spent bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Before(t.spent) {
		return t.spent, true
	}
	if t.perDay == 0 {
		return until, false
	}
	if next := midnight(now); !next.Equal(t.day) {
		t.day, t.sent = next, 0
	}
	if t.sent+int64(n) > t.perDay {
		t.spent = t.day
		return t.spent, true
	}
	t.sent += int64(n)
	return until, false
}
