package gateway

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/halleypush/halley/bench/internal/crew"
	"github.com/halleypush/halley/bench/internal/peer"
	"github.com/halleypush/halley/bench/internal/report"
)

// Tables is the program that fills the gateway's own session tables, a test binary of its loops: the bench cannot open a
// million sockets, and the shipped program has no way to do without. `make bench-gateway` builds it.
const Tables = "gateway-tables.test"

// collect measures a cycle of the garbage collector over the gateway's session tables, and over as many goroutines.
func (b *bench) collect(ctx context.Context) error {
	cpu, pause, err := b.tablesCycles(ctx)
	if err != nil {
		return err
	}
	parked, err := crew.Start(peer.RoleParked)
	if err != nil {
		return err
	}
	defer parked.Stop()
	var cycles []peer.Cycle
	if err := parked.Ask(ctx, "Collect", peer.Parking{Count: b.tables, Cycles: b.pairs}, &cycles); err != nil {
		return err
	}
	var theirCPU, theirPause []float64
	for _, c := range cycles {
		theirCPU, theirPause = append(theirCPU, c.CPU.Seconds()*1000), append(theirPause, c.Pause.Seconds()*1000)
	}
	b.add(report.Of("gc.cpu_ms", "ms", cpu...).Target("<= 50").With("goroutines", theirCPU...))
	b.add(report.Of("gc.pause_ms", "ms", pause...).Target("<= 1").With("goroutines", theirPause...))
	return nil
}

// tablesCycles returns what each cycle cost, in ms.
func (b *bench) tablesCycles(ctx context.Context) (cpu, pause []float64, err error) {
	program := exec.CommandContext(ctx, filepath.Join(b.Bin, Tables), "-test.run", "^$", "-test.bench", "^BenchmarkCollectSessions$",
		"-test.benchtime", "1x", "-test.count", strconv.Itoa(b.pairs))
	program.Dir = b.dir
	program.Env = append(os.Environ(), fmt.Sprintf("HALLEY_BENCH_SESSIONS=%d", b.tables))
	text, err := program.CombinedOutput()
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w\n%s", Tables, err, text)
	}
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "BenchmarkCollectSessions") {
			continue
		}
		b.say("%s", strings.TrimSpace(line))
		fields := strings.Fields(line)
		for i := 1; i < len(fields); i++ {
			var into *[]float64
			switch fields[i] {
			case "cpu-ms":
				into = &cpu
			case "pause-ms":
				into = &pause
			default:
				continue
			}
			value, err := strconv.ParseFloat(fields[i-1], 64)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", Tables, err)
			}
			*into = append(*into, value)
		}
	}
	if len(cpu) == 0 || len(pause) == 0 {
		return nil, nil, fmt.Errorf("%s said nothing of its cycles:\n%s", Tables, text)
	}
	return cpu, pause, nil
}
