package pressure

import (
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// quiet is the share of the processors below which memory is given back, over the window.
	quiet = 0.25
	// releaseEvery bounds how often: it takes a garbage collection.
	releaseEvery = time.Minute
	// worthwhile is what must be to gain: bytes, and a share of what the process has.
	worthwhile      = 4 << 20
	worthwhileShare = 0.1
)

// releaser gives memory back to the system after a storm. Go alone keeps as much again as is in use, for as long as nothing is
// allocated: after a reconnect of all phones that is more than the phones need.
type releaser struct {
	samples []metrics.Sample
	last    time.Time
	release func()
}

func newReleaser() *releaser {
	return &releaser{release: debug.FreeOSMemory, samples: []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"}, {Name: "/gc/heap/live:bytes"},
	}}
}

// spare returns how many bytes a release would give back, about.
func (r *releaser) spare() uint64 {
	metrics.Read(r.samples)
	objects, free, live := r.samples[0].Value.Uint64(), r.samples[1].Value.Uint64(), r.samples[2].Value.Uint64()
	if objects < live {
		return free
	}
	return objects - live + free
}

// look gives memory back if that is worthwhile and the processors have little else to do. It takes as long as a garbage
// collection.
func (r *releaser) look(now time.Time, cpu float64, resident uint64) {
	if cpu > quiet || now.Sub(r.last) < releaseEvery {
		return
	}
	if spare := r.spare(); spare > worthwhile && float64(spare) > worthwhileShare*float64(resident) {
		r.last = now
		r.release()
	}
}
