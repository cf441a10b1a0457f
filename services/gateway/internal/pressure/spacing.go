package pressure

import (
	"os"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// leastGarbage is what a heap may grow by between two collections, in bytes. Go alone lets it grow by as much as is in use, a few
	// MB in a gateway with few phones, and TLS handshakes leave tens of KB each: a storm of them would have it collected twenty times a
	// second.
	leastGarbage = 32 << 20
	// leastLive is what is taken to be in use before the first collection, which tells.
	leastLive = 4 << 20
	// evenly is Go's own percentage: as much garbage as is in use.
	evenly = 100
)

// spacing keeps the collections of a small heap apart. Go's memory limit holds all the same.
type spacing struct {
	live    []metrics.Sample
	percent int
	set     func(percent int) int
}

// newSpacing returns nil if GOGC says how often the heap is collected.
func newSpacing() *spacing {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	return &spacing{[]metrics.Sample{{Name: "/gc/heap/live:bytes"}}, evenly, debug.SetGCPercent}
}

// look sets how far the heap may grow if that has changed by more than a tenth: to set it stops the process for some microseconds.
func (s *spacing) look() {
	if s == nil {
		return
	}
	metrics.Read(s.live)
	percent := max(evenly, int(leastGarbage*100/max(s.live[0].Value.Uint64(), leastLive)))
	if percent*10 > s.percent*11 || percent*10 < s.percent*9 {
		s.percent = percent
		s.set(percent)
	}
}
