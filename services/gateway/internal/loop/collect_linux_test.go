package loop

import (
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"
	"golang.org/x/sys/unix"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway/internal/gate"
	"github.com/halleypush/halley/services/gateway/internal/mqtt"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

// BenchmarkCollectSessions measures a cycle of the garbage collector over the loops' own tables, filled with sessions that are
// open and idle but have no sockets: more of them than a process may have files. `make bench-gateway` runs it with
// HALLEY_BENCH_SESSIONS=1000000.
func BenchmarkCollectSessions(b *testing.B) {
	set := newTables(b, benchSessions(b))
	runtime.GC() // what filling them left, and a run before
	var cpu time.Duration
	var pause uint64
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		begin := processorTime(b)
		runtime.GC()
		cpu += processorTime(b) - begin
		runtime.ReadMemStats(&after)
		pause += after.PauseTotalNs - before.PauseTotalNs
	}
	b.ReportMetric(cpu.Seconds()*1000/float64(b.N), "cpu-ms")
	b.ReportMetric(float64(pause)/1e6/float64(b.N), "pause-ms")
	runtime.KeepAlive(set)
}

func benchSessions(b *testing.B) int {
	b.Helper()
	text := os.Getenv("HALLEY_BENCH_SESSIONS")
	if text == "" {
		return 10_000
	}
	sessions, err := strconv.Atoi(text)
	if err != nil {
		b.Fatal(err)
	}
	return sessions
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}

// newTables makes loops that do not run and hold sessions as if a CONNECT and SUBSCRIBE had come for each, and pushcore had
// opened it. What they write goes nowhere.
func newTables(b *testing.B, sessions int) *Set {
	b.Helper()
	core := &parts{}
	set, err := NewSet(Config{
		Loops: 2, Limits: session.Limits{MaxPacket: 16 << 10, Rate: 50, Burst: 200}, UserTimeout: time.Minute,
	}, Parts{
		Door: core, Gate: gate.New(gate.Limits{FlapPerMinute: 20, FlapBan: time.Minute, MaxBackOff: time.Minute}, nil), Core: core,
		Receipts: core, Metrics: NewMetrics(prometheus.NewRegistry()), Traces: NewTraces(noop.NewTracerProvider()),
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	nowhere, err := unix.Open(os.DevNull, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	polls := make([]*poller, len(set.loops)) // not the set: what is to be cleaned up lives on while the next run is measured
	for i, l := range set.loops {
		polls[i] = l.poll
	}
	b.Cleanup(func() {
		for _, p := range polls {
			_ = p.close()
		}
		_ = unix.Close(nowhere)
	})
	app := &session.App{ID: "bench", Number: 7, KeepAlive: 270, KeepAliveMax: 600, AckTimeout: time.Minute}
	for _, l := range set.loops {
		l.tick()
	}
	for n := range sessions {
		l := set.loops[n%len(set.loops)]
		i := l.conns.take()
		c := l.conns.at(i)
		c.state, c.fd, c.rest = stateHello, int32(nowhere), &rest{}
		connect := &mqtt.Connect{Version: mqtt.V5, ReceiveMaximum: 16, User: []mqtt.UserProperty{{Name: "deliver", Value: "now"}}}
		l.settle(i, &move{fd: c.fd, connect: connect, admission: Admission{App: app, Ordinal: uint64(n)}})
		opened{{Ref: l.ref(i), Session: c.session.Number, Status: gatewayv1.Opened_OPEN}}.run(l)
		core.opens = core.opens[:0]
		if c.state != stateLive || c.rest != nil {
			b.Fatalf("session %d is not open and idle", n)
		}
	}
	return set
}
