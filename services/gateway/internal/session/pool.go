package session

// maxSpareRecent bounds what a part in a pool keeps of its list of recent pushes, which may be long.
const maxSpareRecent = 4

// Pool is the memory that sessions need only while something is under way. A host has one for all its sessions, so that a
// broadcast to idle ones allocates nothing.
type Pool struct {
	spare []*active
	idle  int // how many of them nobody has needed since the last Trim
}

// Trim forgets what was not needed since the last Trim.
func (p *Pool) Trim() {
	p.spare = append([]*active(nil), p.spare[p.idle:]...)
	p.idle = len(p.spare)
}

// Warm reads from the parts that are lent next, so that they are in the processor's caches. What it returns means nothing.
func (p *Pool) Warm(n int) (sum int) {
	for _, a := range p.spare[max(len(p.spare)-n, 0):] {
		if flights := a.flights[:cap(a.flights)]; len(flights) > 0 {
			sum += int(flights[0].id)
		}
		sum += int(a.pullSeq)
	}
	return sum
}

// take lends an active part.
func (p *Pool) take() *active {
	if p == nil || len(p.spare) == 0 {
		return &active{}
	}
	last := len(p.spare) - 1
	a := p.spare[last]
	p.spare, p.idle = p.spare[:last], min(p.idle, last)
	return a
}

// give takes an active part back.
func (p *Pool) give(a *active) {
	if p == nil {
		return
	}
	flights, recent := a.flights[:0], a.recent[:0]
	if cap(recent) > maxSpareRecent {
		recent = nil
	}
	*a = active{flights: flights, recent: recent}
	p.spare = append(p.spare, a)
}
