package gate

import "time"

// slowSteps is how often somebody is slowed, for twice as long each time, before he stays out: 2, 4, 8, 16 and 32 s.
const slowSteps = 5

// offence is what is remembered of who does what is bounded too often.
type offence struct {
	until   moment // when he may come again
	strikes uint8
}

// left returns how long he still stays away, 0 if he may come.
func (o *offence) left(now time.Duration) time.Duration { return max(0, o.until.since()-now) }

// out reports whether he is beyond being slowed.
func (o *offence) out(now time.Duration) bool { return o.strikes > slowSteps && o.left(now) > 0 }

// strike slows him further, for least at the least, or keeps him out for the time of a ban. What he does while he is slowed is no
// further strike.
func (o *offence) strike(now, least, ban time.Duration) {
	if o.left(now) > 0 {
		return
	}
	o.strikes = min(o.strikes+1, slowSteps+1)
	pause := time.Second << min(o.strikes, slowSteps)
	if o.strikes > slowSteps {
		pause = max(pause, ban)
	}
	o.until = momentOf(now+max(pause, least)) + 1
}
