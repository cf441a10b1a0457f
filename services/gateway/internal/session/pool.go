package session

const (
	// maxSpare bounds the parts that a pool keeps, with their flights about 1 MB.
	maxSpare = 4096
	// maxSpareRecent bounds what such a part keeps of its list of recent pushes, which may be long.
	maxSpareRecent = 4
)

// Pool is the memory that sessions need only while something is under way. A host has one for all its sessions, so that a
// broadcast to idle ones allocates nothing.
type Pool struct{ spare []*active }

// take lends an active part.
func (p *Pool) take() *active {
	if p == nil || len(p.spare) == 0 {
		return &active{}
	}
	last := len(p.spare) - 1
	a := p.spare[last]
	p.spare = p.spare[:last]
	return a
}

// give takes an active part back.
func (p *Pool) give(a *active) {
	if p == nil || len(p.spare) >= maxSpare {
		return
	}
	flights, recent := a.flights[:0], a.recent[:0]
	if cap(recent) > maxSpareRecent {
		recent = nil
	}
	*a = active{flights: flights, recent: recent}
	p.spare = append(p.spare, a)
}
