package peer

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/halleypush/halley/bench/internal/crew"
)

// RoleParked is the role of a process with goroutines that wait, as servers have one per connection.
const RoleParked = "goroutines"

// Parked is what that process does.
type Parked struct{}

// ServeParked answers for the role until the input ends.
func ServeParked() error { return crew.Serve(Parked{}) }

// Parking says how many goroutines there are, and how many cycles of the garbage collector to measure.
type Parking struct{ Count, Cycles int }

// Cycle is what a cycle cost: the processor time, and how long the program stood still.
type Cycle struct{ CPU, Pause time.Duration }

// Collect measures.
func (Parked) Collect(p Parking, cycles *[]Cycle) error {
	never := make(chan struct{})
	for range p.Count {
		go func() { <-never }()
	}
	defer close(never)
	runtime.GC()
	for range p.Cycles {
		c, err := collect()
		if err != nil {
			return err
		}
		*cycles = append(*cycles, c)
	}
	return nil
}

func collect() (c Cycle, err error) {
	var before, after runtime.MemStats
	var begin, end unix.Timespec
	runtime.ReadMemStats(&before)
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &begin); err != nil {
		return c, err
	}
	runtime.GC()
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &end); err != nil {
		return c, err
	}
	runtime.ReadMemStats(&after)
	return Cycle{CPU: time.Duration(end.Nano() - begin.Nano()), Pause: time.Duration(after.PauseTotalNs - before.PauseTotalNs)}, nil
}
