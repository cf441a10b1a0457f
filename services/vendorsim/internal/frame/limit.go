package frame

import (
	"sync"
	"time"
)

// Admission says whether a vendor takes more from an app.
type Admission int

// The admissions.
const (
	Admitted  Admission = iota
	OverRate            // too many a second
	OverQuota           // today's are spent
)

// beijing is where the vendors' days begin.
var beijing = time.FixedZone("UTC+8", 8*60*60)

// limiter counts what each app sends.
type limiter struct {
	now  func() time.Time
	mu   sync.Mutex
	apps map[string]*spent
}

type spent struct {
	room  float64 // of the second's burst
	at    time.Time
	day   string
	today int64
}

func newLimiter(now func() time.Time) *limiter {
	return &limiter{now: now, apps: make(map[string]*spent)}
}

func (l *limiter) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.apps)
}

// admit takes n devices of an app from its limits, all or none.
func (l *limiter) admit(app string, n int, limit Limit) Admission {
	if limit.PerSecond == 0 && limit.Daily == 0 {
		return Admitted
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	burst := float64(limit.Burst)
	if burst == 0 {
		burst = max(limit.PerSecond, 1)
	}
	s := l.apps[app]
	if s == nil {
		s = &spent{room: burst, at: now}
		l.apps[app] = s
	}
	if day := now.In(beijing).Format(time.DateOnly); s.day != day {
		s.day, s.today = day, 0
	}
	if limit.Daily > 0 && s.today+int64(n) > limit.Daily {
		return OverQuota
	}
	if limit.PerSecond > 0 {
		s.room = min(burst, s.room+now.Sub(s.at).Seconds()*limit.PerSecond)
		s.at = now
		// A request that is larger than the burst could never pass: it takes the burst, and the rest is owed.
		if s.room < min(float64(n), burst) {
			return OverRate
		}
		s.room -= float64(n)
	}
	s.today += int64(n)
	return Admitted
}
