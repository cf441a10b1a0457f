package pressure

import (
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
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

// none is a process without sockets.
func none() int { return 0 }

// goLimit sets Go's memory limit for a test.
func goLimit(t *testing.T, bytes int64) {
	t.Helper()
	before := debug.SetMemoryLimit(bytes)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
}

const v2Mount = "30 23 0:26 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n"

func TestTheContainersLimitAndChargeAreFoundWhereTheyStand(t *testing.T) {
	t.Parallel()
	const (
		stat   = "anon 2147483648\ninactive_file 1073741824\nslab 1503238553\nsock 4096\ntotal_inactive_file 536870912\n"
		v1     = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n35 31 0:32 %s /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
		hybrid = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
	)
	for name, c := range map[string]struct {
		files          map[string]string
		limit, charged uint64
	}{
		"cgroup v2, a container's own view": {map[string]string{
			"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": v2Mount,
			"sys/fs/cgroup/memory.max": "4294967296\n", "sys/fs/cgroup/memory.current": "5368709120\n", "sys/fs/cgroup/memory.stat": stat,
		}, 4 << 30, 4 << 30},
		"cgroup v2, a service of the host": {map[string]string{
			"proc/self/cgroup": "0::/system.slice/halley.service\n", "proc/self/mountinfo": v2Mount,
			"sys/fs/cgroup/system.slice/halley.service/memory.max":     "2147483648\n",
			"sys/fs/cgroup/system.slice/halley.service/memory.current": "1073741824\n",
			"sys/fs/cgroup/memory.current":                             "9999999999\n",
		}, 2 << 30, 1 << 30},
		"cgroup v2, the group above is tighter": {map[string]string{
			"proc/self/cgroup": "0::/pod/container\n", "proc/self/mountinfo": v2Mount,
			"sys/fs/cgroup/pod/container/memory.max": "max\n", "sys/fs/cgroup/pod/container/memory.current": "1\n",
			"sys/fs/cgroup/pod/memory.max": "3221225472\n", "sys/fs/cgroup/pod/memory.current": "2147483648\n",
		}, 3 << 30, 2 << 30},
		"cgroup v1, its own part mounted": {map[string]string{
			"proc/self/cgroup":                              "4:cpu:/docker/ab\n3:hugetlb,memory:/docker/ab\n0::/\n",
			"proc/self/mountinfo":                           strings.Replace(v1, "%s", "/docker/ab", 1) + hybrid,
			"sys/fs/cgroup/memory/memory.limit_in_bytes":    "4294967296\n",
			"sys/fs/cgroup/memory/memory.usage_in_bytes":    "2147483648\n",
			"sys/fs/cgroup/memory/memory.stat":              stat,
			"sys/fs/cgroup/unified/memory.current":          "7\n",
			"sys/fs/cgroup/memory/ab/memory.limit_in_bytes": "7\n",
		}, 4 << 30, 3 << 29},
		"cgroup v1, the whole of it mounted": {map[string]string{
			"proc/self/cgroup": "4:memory:/pods/ab\n", "proc/self/mountinfo": strings.Replace(v1, "%s", "/", 1),
			"sys/fs/cgroup/memory/memory.limit_in_bytes":         "9223372036854771712\n",
			"sys/fs/cgroup/memory/pods/ab/memory.limit_in_bytes": "4294967296\n",
			"sys/fs/cgroup/memory/pods/ab/memory.usage_in_bytes": "1073741824\n",
		}, 4 << 30, 1 << 30},
		"no limit": {map[string]string{
			"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": v2Mount, "sys/fs/cgroup/memory.max": "max\n",
		}, 0, 0},
		"no cgroups": {map[string]string{}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			for name, text := range c.files {
				write(t, root, name, text)
			}
			found := findContainer(root)
			if found.limit != c.limit || c.limit > 0 && found.charged() != c.charged {
				t.Errorf("limit %d, charged %d", found.limit, found.charged())
			}
		})
	}
}

func TestMemoryBeyondTheWatermarkKeepsNewcomersAway(t *testing.T) { //nolint:paralleltest // Go's memory limit is the process's
	goLimit(t, math.MaxInt64)
	root := t.TempDir()
	write(t, root, "proc/self/cgroup", "0::/\n")
	write(t, root, "proc/self/mountinfo", v2Mount)
	write(t, root, "proc/self/statm", "900000 262144 100 1 0 1 0\n") // 1 GiB
	write(t, root, "sys/fs/cgroup/memory.max", "4294967296\n")
	write(t, root, "sys/fs/cgroup/memory.stat", "anon 1073741824\nslab 2040109466\nsock 0\n")
	g := New(Limits{Memory: 0.9}, root, none, prometheus.NewRegistry())
	look := func(charged string) {
		t.Helper()
		write(t, root, "sys/fs/cgroup/memory.current", charged)
		g.look(time.Now(), 0, g.measure())
	}
	look("3221225472\n")
	if g.StayAway() != 0 {
		t.Error("at 75 % nobody comes in")
	}
	// The kernel has 2 GiB of 4, so of 85 % Go may have what is left.
	if limit, want := debug.SetMemoryLimit(-1), int64(1502238514); os.Getpagesize() == 4096 && limit/1e7 != want/1e7 {
		t.Errorf("Go's heap may grow to %d, not %d", limit, want)
	}
	look("4080218931\n") // three quarters of it the kernel's, of which no buffers
	if g.StayAway() == 0 {
		t.Error("at 95 % everybody comes in")
	}
	if limit := debug.SetMemoryLimit(-1); limit != 1<<30 {
		t.Errorf("the kernel leaves Go %d", limit)
	}
	look("3221225472\n")
	if g.StayAway() != 0 {
		t.Error("it does not end")
	}
}

func TestTheWatermarkIsOfTheContainerWhateverGOMEMLIMITSays(t *testing.T) { //nolint:paralleltest // Go's memory limit is the process's
	goLimit(t, 3<<30)
	root := t.TempDir()
	write(t, root, "proc/self/cgroup", "0::/\n")
	write(t, root, "proc/self/mountinfo", v2Mount)
	write(t, root, "sys/fs/cgroup/memory.max", "4294967296\n")
	g := New(Limits{Memory: 0.9}, root, none, prometheus.NewRegistry())
	if g.look(time.Now(), 0, usage{3 << 30, 3 << 30}); g.StayAway() != 0 {
		t.Error("nobody comes in at 75 % of the container")
	}
	if limit := debug.SetMemoryLimit(-1); limit != 3<<30 {
		t.Errorf("GOMEMLIMIT has become %d", limit)
	}
}

func TestWithoutAContainerTheKernelsPartIsEstimated(t *testing.T) { //nolint:paralleltest // Go's memory limit is the process's
	goLimit(t, 4<<30)
	root := t.TempDir()
	write(t, root, "proc/self/statm", "900000 524288 100 1 0 1 0\n")
	sockets := 300_000
	g := New(Limits{Memory: 0.9}, root, func() int { return sockets }, prometheus.NewRegistry())
	if g.look(time.Now(), 0, g.measure()); g.StayAway() != 0 {
		t.Error("nobody comes in with 2 GiB and 300,000 sockets")
	}
	sockets = 500_000
	if g.look(time.Now(), 0, g.measure()); g.StayAway() == 0 {
		t.Error("500,000 sockets do not count")
	}
}

func TestWithoutALimitThereIsNoPressure(t *testing.T) { //nolint:paralleltest // Go's memory limit is the process's
	goLimit(t, math.MaxInt64)
	g := New(Limits{Memory: 0.1, CPU: 0.1, Processors: 2}, t.TempDir(), none, prometheus.NewRegistry())
	g.look(time.Now(), 0, usage{1 << 40, 1 << 40})
	if g.StayAway() != 0 {
		t.Error("nobody comes in")
	}
}

func TestProcessorTimeIsAveraged(t *testing.T) {
	t.Parallel()
	g := New(Limits{CPU: 0.9, Processors: 2}, t.TempDir(), none, prometheus.NewRegistry())
	now, used := time.Now(), time.Duration(0)
	second := func(share float64) {
		now = now.Add(time.Second)
		used += time.Duration(share * 2 * float64(time.Second))
		g.look(now, used, usage{})
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
	begun, before := time.Now(), processorTime()
	for processorTime()-before < 20*time.Millisecond { // burns some
		if time.Since(begun) > 30*time.Second {
			t.Fatalf("of 30 s of work %v are measured", processorTime()-before)
		}
	}
}
