package loop

import (
	"testing"
	"time"
)

func TestALoopKeepsAThirdOfItsTime(t *testing.T) {
	t.Parallel()
	var y yielding
	now, given := time.Now(), time.Duration(0)
	const each, works, lasts = 4 * time.Millisecond, 200 * time.Microsecond, 10 * time.Second
	for end := now.Add(lasts); now.Before(end); now = now.Add(works) {
		if y.may(now) { // the neighbour keeps the processor until the next tick
			y.given += each
			now, given = now.Add(each), given+each
		}
	}
	if share := float64(given) / float64(lasts); share > 0.75 || share < 0.6 {
		t.Errorf("it gives away %.2f of its time", share)
	}
}
