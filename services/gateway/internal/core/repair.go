package core

import "github.com/prometheus/client_golang/prometheus"

// repair follows what is asked of pushcore for all sessions after a gap: it is over when every session has asked, and what was
// without an answer then has one. What is asked for later does not count, so that it ends in a busy gateway, too.
type repair struct {
	sweeps int         // that go through the sessions now
	round  int         // the present one; each sweep that ends begins another
	open   map[int]int // questions without an answer, by round
	left   prometheus.Gauge
}

// asked notes a question and returns its round, which settled needs.
func (r *repair) asked() int {
	r.open[r.round]++
	r.report()
	return r.round
}

// settled notes that a question was answered, failed, or is not asked any more.
func (r *repair) settled(round int) {
	if r.open[round]--; r.open[round] == 0 {
		delete(r.open, round)
	}
	r.report()
}

// report tells how many questions count and have no answer. There are seldom more than two rounds.
func (r *repair) report() {
	left := 0
	for round, questions := range r.open {
		if r.sweeps > 0 || round < r.round {
			left += questions
		}
	}
	r.left.Set(float64(left))
}

// Repairing notes that all sessions are about to be opened again, or to Pull; done must be called when the last one has asked.
func (c *Client) Repairing() (done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.repair.sweeps++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.repair.sweeps--
		c.repair.round++
		c.repair.report()
	}
}
