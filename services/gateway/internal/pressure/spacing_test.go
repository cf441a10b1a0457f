package pressure

import (
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"testing"
)

func TestASmallHeapIsCollectedSeldom(t *testing.T) {
	t.Setenv("GOGC", "")
	collected := debug.SetGCPercent(-1)
	t.Cleanup(func() { debug.SetGCPercent(collected) })
	var set []int
	s := newSpacing()
	s.set = func(percent int) int {
		set = append(set, percent)
		return 0
	}
	collect := func() uint64 {
		debug.FreeOSMemory()
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(live)
		return live[0].Value.Uint64()
	}
	small := collect()
	s.look()
	s.look() // nothing has changed
	if want := leastGarbage * evenly / int(max(small, leastLive)); len(set) != 1 || set[0] != want {
		t.Fatalf("with %d bytes in use it was set to %v, not to %d", small, set, want)
	}
	ballast = make([]byte, 2*leastGarbage)
	collect()
	ballast[0] = 1 // it was in use
	s.look()
	if !slices.Equal(set[1:], []int{evenly}) {
		t.Errorf("with much in use it was set to %v", set[1:])
	}
	ballast = nil
	collect()
	if s.look(); len(set) != 3 || set[2] <= evenly {
		t.Errorf("with little in use again it was set to %v", set)
	}
}

func TestGOGCHolds(t *testing.T) {
	t.Setenv("GOGC", "50")
	if newSpacing() != nil {
		t.Error("GOGC is overridden")
	}
}
