package registry

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"

	"github.com/halleypush/halley/services/pushcore/internal/fault"
)

// limits are the registration limits per app, address and network, each a token bucket of one minute. They are per
// process: n replicas let through up to n times as much. The least recently seen addresses are forgotten beyond 100,000.
type limits struct {
	mu      sync.Mutex
	buckets *simplelru.LRU[string, *rate.Limiter] // guarded by mu
}

func newLimits() *limits {
	buckets, err := simplelru.NewLRU[string, *rate.Limiter](100_000, nil)
	if err != nil {
		panic(err) // only for a size of zero
	}
	return &limits{buckets: buckets}
}

// allow takes one registration off each bucket that applies, or says when to come back.
func (l *limits) allow(app *App, remoteIP string) error {
	s := app.Settings
	wait := l.take(fmt.Sprintf("%d", app.No), s.GetRegistrationsPerMinute())
	if addr, err := netip.ParseAddr(remoteIP); err == nil {
		addr = addr.Unmap()
		bits := 24
		if addr.Is6() {
			bits = 48
		}
		network, _ := addr.Prefix(bits) // fails only for too many bits
		wait = max(wait,
			l.take(fmt.Sprintf("%d %s", app.No, addr), s.GetRegistrationsPerMinuteAddress()),
			l.take(fmt.Sprintf("%d %s", app.No, network), s.GetRegistrationsPerMinuteNetwork()))
	}
	if wait > 0 {
		return fault.Exhausted("TOO_MANY_REGISTRATIONS", wait, "too many registrations from this address, network or app")
	}
	return nil
}

func (l *limits) take(key string, perMinute uint32) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	limit := rate.Limit(float64(perMinute) / 60)
	bucket, ok := l.buckets.Get(key)
	if !ok || bucket.Limit() != limit {
		bucket = rate.NewLimiter(limit, int(perMinute))
		l.buckets.Add(key, bucket)
	}
	if bucket.Allow() {
		return 0
	}
	return time.Duration(float64(time.Second) / float64(limit))
}
