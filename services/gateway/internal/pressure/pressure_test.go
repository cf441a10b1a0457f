package pressure

import (
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func write(t *testing.T, root, name, text string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestMemoryBeyondTheWatermarkKeepsNewcomersAway(t *testing.T) { //nolint:paralleltest // Go's memory limit is the process's
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	debug.SetMemoryLimit(math.MaxInt64)
	root := t.TempDir()
	write(t, root, "sys/fs/cgroup/memory.max", "4294967296\n")
	write(t, root, "proc/self/statm", "900000 524288 100 1 0 1 0\n")
	write(t, root, "sys/fs/cgroup/memory.stat", "anon 5\nsock 1610612736\nfile 7\n")
	g := newGauge(Limits{Memory: 0.9}, prometheus.NewRegistry(), root)
	if limit := debug.SetMemoryLimit(-1); limit != 3<<30 {
		t.Errorf("Go's heap may grow to %d", limit)
	}
	// Of 4 GiB, 524,288 pages and 1.5 GiB of sockets.
	want := uint64(524288*os.Getpagesize()) + 3<<29
	if got := g.resident(); got != want {
		t.Errorf("%d bytes are used, not %d", got, want)
	}
	now := time.Now()
	g.look(now, 0, 3<<30)
	if g.StayAway() != 0 {
		t.Error("at 75 % nobody comes in")
	}
	g.look(now, 0, 3900<<20)
	if g.StayAway() == 0 {
		t.Error("at 95 % everybody comes in")
	}
	g.look(now, 0, 3<<30)
	if g.StayAway() != 0 {
		t.Error("it does not end")
	}
}

func TestMemoryLimitThatIsSetStays(t *testing.T) { //nolint:paralleltest // Go's memory limit is the process's
	before := debug.SetMemoryLimit(5 << 30)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	root := t.TempDir()
	write(t, root, "sys/fs/cgroup/memory.max", "4294967296\n")
	if g := newGauge(Limits{}, prometheus.NewRegistry(), root); g.memory != 5<<30 || debug.SetMemoryLimit(-1) != 5<<30 {
		t.Errorf("the limit is %d", g.memory)
	}
}

func TestWithoutALimitThereIsNoPressure(t *testing.T) { //nolint:paralleltest // Go's memory limit is the process's
	before := debug.SetMemoryLimit(math.MaxInt64)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	root := t.TempDir()
	write(t, root, "sys/fs/cgroup/memory.max", "max\n")
	g := newGauge(Limits{Memory: 0.1, CPU: 0.1, Processors: 2}, prometheus.NewRegistry(), root)
	g.look(time.Now(), 0, 1<<40)
	if g.StayAway() != 0 {
		t.Error("nobody comes in")
	}
}

func TestProcessorTimeIsAveraged(t *testing.T) {
	t.Parallel()
	g := newGauge(Limits{CPU: 0.9, Processors: 2}, prometheus.NewRegistry(), t.TempDir())
	now, used := time.Now(), time.Duration(0)
	second := func(share float64) {
		now = now.Add(time.Second)
		used += time.Duration(share * 2 * float64(time.Second))
		g.look(now, used, 0)
	}
	for range 20 {
		second(0.2)
	}
	for range 5 {
		second(1)
	}
	if g.StayAway() != 0 {
		t.Error("a burst keeps newcomers away")
	}
	for range 6 {
		second(1)
	}
	if g.StayAway() == 0 {
		t.Error("ten seconds at full speed keep nobody away")
	}
	for range 10 {
		second(0.5)
	}
	if g.StayAway() != 0 {
		t.Error("it does not end")
	}
}

func TestProcessorTimeIsMeasured(t *testing.T) {
	t.Parallel()
	before := processorTime()
	for processorTime() == before { // burns some
	}
}
