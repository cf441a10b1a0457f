package pace

import (
	"testing"
	"time"
)

func TestTheRateFollowsWhatHappensLately(t *testing.T) {
	t.Parallel()
	var m Meter
	now := time.Duration(0)
	for range 6000 { // 100 a second for a minute
		now += 10 * time.Millisecond
		m.Add(now, 1)
	}
	if got := m.PerSecond(now); got < 95 || got > 105 {
		t.Errorf("%v a second, not 100", got)
	}
	if got := m.PerSecond(now + time.Minute); got > 1 {
		t.Errorf("%v a second after a quiet minute", got)
	}
}
