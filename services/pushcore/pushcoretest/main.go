package pushcoretest

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/halleypush/halley/pkg/postgres/postgrestest"
	"github.com/halleypush/halley/pkg/telemetry"
	"github.com/halleypush/halley/services/pushcore"
)

// childVariable makes a test binary a pushcore of the site that it describes, to be killed by its parent.
const childVariable = "HALLEY_PUSHCORETEST_CHILD"

// child is what a pushcore in a process of its own is told, and addresses what it says once it listens.
type (
	child     struct{ DSN, KeyFile, NATS string }
	addresses struct{ HTTP, GRPC, Internal, Admin string }
)

// left is what nats-server leaves behind, now and then: the store of a stream that was being made when the server was stopped.
var left = []goleak.Option{
	goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
	goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
}

// Main runs a package's tests with its PostgreSQL, looks for goroutines that were left, and exits.
func Main(m *testing.M) {
	if text := os.Getenv(childVariable); text != "" {
		if err := runChild(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// Tests wait far more than they compute, so more of them run side by side than there are cores.
	flag.Parse()
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err) // only for a flag that is not there
	}
	code := postgrestest.Main(m)
	if code == 0 {
		if err := goleak.Find(left...); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines were left:", err)
			code = 1
		}
	}
	os.Exit(code)
}

func runChild(text string) error {
	var c child
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	config, err := newConfig(c.DSN, c.KeyFile, c.NATS)
	if err != nil {
		return err
	}
	config.TelemetryOptions = []telemetry.Option{telemetry.WithLogs(os.Stderr)}
	p, err := pushcore.New(context.Background(), config)
	if err != nil {
		return err
	}
	err = json.NewEncoder(os.Stdout).Encode(addresses{p.HTTPAddr(), p.GRPCAddr(), p.InternalAddr(), p.AdminAddr()})
	if err != nil {
		return err
	}
	return p.Run(context.Background())
}

// StartProcess runs a pushcore of the site in a process of its own, which Stop kills with signal 9, and returns when it is ready.
func (s *Site) StartProcess(t testing.TB) *Core {
	t.Helper()
	text, err := json.Marshal(child{DSN: s.DSN, KeyFile: s.KeyFile, NATS: s.NATS.URL()})
	if err != nil {
		t.Fatal(err)
	}
	process := exec.CommandContext(context.Background(), os.Args[0])
	process.Env = append(os.Environ(), childVariable+"="+string(text))
	process.Stderr = s.Logs
	out, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	core := &Core{Site: s, stop: sync.OnceFunc(func() {
		_ = process.Process.Kill() // it may have ended by itself, which the test sees elsewhere
		_ = process.Wait()
	})}
	t.Cleanup(core.stop)
	var a addresses
	if err := json.NewDecoder(out).Decode(&a); err != nil {
		t.Fatalf("the pushcore process did not start: %v", err)
	}
	core.HTTP, core.GRPC, core.Internal, core.Admin = a.HTTP, a.GRPC, a.Internal, a.Admin
	core.connect(t)
	Eventually(t, "the pushcore process is ready", core.Ready)
	return core
}
