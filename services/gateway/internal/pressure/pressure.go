// Package pressure tells when a gateway has about all the memory and processor time that it can get, so that it turns
// newcomers away before anything breaks.
package pressure

import (
	"context"
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	every = time.Second
	// window is over how many looks processor time is averaged: a burst of work is no overload.
	window = 10
	// stayAway is when newcomers are told to come back.
	stayAway = 10 * time.Second
	// socketBytes is the kernel's memory for an idle socket, which is its structures (docs/capacity.md).
	socketBytes = 4100
	// goShare of the container's memory is for Go's heap and the kernel's part together; beyond it the heap is collected harder.
	// goLeast is what the heap may have however much the kernel takes.
	goShare, goLeast = 0.85, 0.25
)

// Limits are the shares of what the process can get beyond which newcomers are turned away; 0: never.
type Limits struct {
	Memory, CPU float64
	// Processors is how many the process can get.
	Processors int
}

// Gauge measures.
type Gauge struct {
	limits    Limits
	root      string // of the file system
	sockets   func() int
	container container
	memory    uint64 // what the process may have, in bytes; 0: not known
	setsGo    bool   // nobody set GOMEMLIMIT
	pressure  atomic.Bool
	used      [window + 1]time.Duration // processor time at the last looks
	looked    [window + 1]time.Time
	next      int
	releaser  *releaser
	spacing   *spacing

	memoryShare, cpuShare prometheus.Gauge
}

// New returns a gauge. The memory limit is the container's (cgroup); where there is none, GOMEMLIMIT if that is set. root is the
// file system's in which /proc tells of the process, sockets returns how many it has. Without GOMEMLIMIT, Go is told to keep its heap
// within what the kernel leaves of the container's memory; without GOGC, to let it grow by 32 MB between collections.
func New(l Limits, root string, sockets func() int, registry prometheus.Registerer) *Gauge {
	g := &Gauge{limits: l, root: root, sockets: sockets, container: findContainer(root), releaser: newReleaser(), spacing: newSpacing()}
	share := func(resource string) prometheus.Gauge {
		gauge := prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "halley_gateway_pressure", Help: "Share of what the process can get that it uses; 0 if there is no limit.",
			ConstLabels: prometheus.Labels{"resource": resource},
		})
		registry.MustRegister(gauge)
		return gauge
	}
	g.memoryShare, g.cpuShare = share("memory"), share("cpu")
	byHand := debug.SetMemoryLimit(-1) // GOMEMLIMIT
	g.memory, g.setsGo = g.container.limit, byHand == math.MaxInt64
	if g.memory == 0 && !g.setsGo {
		g.memory = uint64(byHand)
	}
	return g
}

// StayAway returns how long newcomers stay away, 0 if they may come. It does not block.
func (g *Gauge) StayAway() time.Duration {
	if g.pressure.Load() {
		return stayAway
	}
	return 0
}

// Run measures until ctx ends.
func (g *Gauge) Run(ctx context.Context) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		g.look(time.Now(), processorTime(), g.measure())
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// usage is memory in bytes: resident is the process's own, charged what counts against the limit.
type usage struct{ resident, charged uint64 }

func (g *Gauge) look(now time.Time, used time.Duration, m usage) {
	memory, cpu := 0.0, 0.0
	if g.memory > 0 {
		memory = float64(m.charged) / float64(g.memory)
	}
	if limit := float64(g.container.limit); limit > 0 && g.setsGo {
		kernel := float64(m.charged - min(m.charged, m.resident))
		debug.SetMemoryLimit(int64(max(goShare*limit-kernel, goLeast*limit)))
	}
	g.spacing.look()
	g.looked[g.next], g.used[g.next] = now, used
	oldest := (g.next + 1) % len(g.looked)
	if !g.looked[oldest].IsZero() {
		could := now.Sub(g.looked[oldest]).Seconds() * float64(g.limits.Processors)
		cpu = (used - g.used[oldest]).Seconds() / could
		g.releaser.look(now, cpu, m.resident)
	}
	g.next = oldest
	g.memoryShare.Set(memory)
	g.cpuShare.Set(cpu)
	g.pressure.Store(g.limits.Memory > 0 && memory > g.limits.Memory || g.limits.CPU > 0 && cpu > g.limits.CPU)
}

// measure returns the memory in use now. Where no container counts it, the kernel's part is estimated.
func (g *Gauge) measure() (m usage) {
	if fields := strings.Fields(read(g.root, "proc/self/statm")); len(fields) > 1 {
		pages, _ := strconv.ParseUint(fields[1], 10, 64)
		m.resident = pages * uint64(os.Getpagesize())
	}
	if g.container.limit > 0 {
		m.charged = g.container.charged()
	} else {
		m.charged = m.resident + uint64(g.sockets())*socketBytes
	}
	return m
}

// processorTime returns how much processor time the process has had.
func processorTime() time.Duration {
	var had syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &had); err != nil {
		return 0
	}
	return time.Duration(had.Utime.Nano() + had.Stime.Nano())
}
