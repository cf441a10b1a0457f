// Package pressure tells when a gateway has about all the memory and processor time that it can get, so that it turns
// newcomers away before anything breaks.
package pressure

import (
	"bytes"
	"context"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
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
	// goShare of the memory limit is what Go's heap may grow to before it is collected harder; the rest is for the kernel's
	// socket buffers, which count for the container, too.
	goShare = 0.75
)

// Limits are the shares of what the process can get beyond which newcomers are turned away; 0: never.
type Limits struct {
	Memory, CPU float64
	// Processors is how many the process can get.
	Processors int
}

// Gauge measures.
type Gauge struct {
	limits   Limits
	root     string // of the file system
	memory   uint64 // what the process may have, in bytes; 0: not known
	pressure atomic.Bool
	used     [window + 1]time.Duration // processor time at the last looks
	looked   [window + 1]time.Time
	next     int
	releaser *releaser

	memoryShare, cpuShare prometheus.Gauge
}

// New returns a gauge. The memory limit is the container's (cgroup), or GOMEMLIMIT if that is set. Without GOMEMLIMIT, Go is
// told to keep its heap within three quarters of the container's memory.
func New(l Limits, registry prometheus.Registerer) *Gauge { return newGauge(l, registry, "/") }

func newGauge(l Limits, registry prometheus.Registerer, root string) *Gauge {
	g := &Gauge{limits: l, root: root, releaser: newReleaser()}
	share := func(resource string) prometheus.Gauge {
		gauge := prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "halley_gateway_pressure", Help: "Share of what the process can get that it uses; 0 if there is no limit.",
			ConstLabels: prometheus.Labels{"resource": resource},
		})
		registry.MustRegister(gauge)
		return gauge
	}
	g.memoryShare, g.cpuShare = share("memory"), share("cpu")
	if set := debug.SetMemoryLimit(-1); set != math.MaxInt64 { // GOMEMLIMIT
		g.memory = uint64(set)
	} else if limit := g.containerMemory(); limit > 0 {
		g.memory = limit
		debug.SetMemoryLimit(int64(float64(limit) * goShare))
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
		g.look(time.Now(), processorTime(), g.resident())
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (g *Gauge) look(now time.Time, used time.Duration, resident uint64) {
	memory, cpu := 0.0, 0.0
	if g.memory > 0 {
		memory = float64(resident) / float64(g.memory)
	}
	g.looked[g.next], g.used[g.next] = now, used
	oldest := (g.next + 1) % len(g.looked)
	if !g.looked[oldest].IsZero() {
		could := now.Sub(g.looked[oldest]).Seconds() * float64(g.limits.Processors)
		cpu = (used - g.used[oldest]).Seconds() / could
		g.releaser.look(now, cpu, resident)
	}
	g.next = oldest
	g.memoryShare.Set(memory)
	g.cpuShare.Set(cpu)
	g.pressure.Store(g.limits.Memory > 0 && memory > g.limits.Memory || g.limits.CPU > 0 && cpu > g.limits.CPU)
}

// containerMemory returns the container's memory limit in bytes, 0 if there is none.
func (g *Gauge) containerMemory() uint64 {
	for _, name := range []string{"sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		text, err := os.ReadFile(filepath.Join(g.root, name))
		if err != nil {
			continue
		}
		// "max", and numbers near the largest, mean none.
		if limit, err := strconv.ParseUint(string(bytes.TrimSpace(text)), 10, 64); err == nil && limit < 1<<50 {
			return limit
		}
	}
	return 0
}

// resident returns the memory that the process has now, with the kernel's socket buffers where the container's account has
// them.
func (g *Gauge) resident() uint64 {
	var total uint64
	if fields := g.fields("proc/self/statm"); len(fields) > 1 {
		pages, _ := strconv.ParseUint(string(fields[1]), 10, 64)
		total = pages * uint64(os.Getpagesize())
	}
	fields := g.fields("sys/fs/cgroup/memory.stat")
	for i := 0; i+1 < len(fields); i += 2 {
		if string(fields[i]) == "sock" {
			sockets, _ := strconv.ParseUint(string(fields[i+1]), 10, 64)
			total += sockets
		}
	}
	return total
}

func (g *Gauge) fields(name string) [][]byte {
	text, err := os.ReadFile(filepath.Join(g.root, name))
	if err != nil {
		return nil // not Linux, or not in a container
	}
	return bytes.Fields(text)
}

// processorTime returns how much processor time the process has had.
func processorTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
