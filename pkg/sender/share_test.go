package sender

import (
	"testing"
	"time"
)

func TestWhatFindsNoRoomIsPutOffByTheSpeedOfTargets(t *testing.T) {
	t.Parallel()
	const targets, perSecond = 500, 10_000
	now := time.Now()
	app := newTenant(&Config{}, Limits{Concurrency: 1}, &room{})
	taken := 0
	for {
		if _, ok := app.enter(now, targets); !ok {
			break
		}
		taken += targets
	}
	for done := 0; done < taken*2/3; done += perSecond / 10 { // no job is over yet: they take turns
		now = now.Add(time.Second / 10)
		app.settled(now, perSecond/10)
	}
	for i := range 10 { // one after the other, as fast as the app is
		back, ok := app.enter(now, targets)
		if ok {
			t.Fatal("there is room")
		}
		latest := 2*shortestPark + time.Duration(i+1)*time.Second*targets/perSecond
		if wait := back.Sub(now); wait > latest {
			t.Errorf("job %d that finds no room comes back after %v, not within %v", i, wait, latest)
		}
	}
}
