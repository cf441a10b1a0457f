// Package site runs Halley as it is shipped, a process per service, with PostgreSQL and NATS.
package site

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/halleypush/halley/bench/internal/process"
	"github.com/halleypush/halley/pkg/client"
	"github.com/halleypush/halley/pkg/postgres"
	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
)

// What the parts show to each other.
const (
	Password     = "bench-password"
	ServiceToken = "bench-service-token"
)

const (
	startWithin = time.Minute
	adminToken  = "ak_bench0123456789bench0123456789"
	appID       = "bench"
)

// Site is a running Halley with one app.
type Site struct {
	// URL is that of REST and of the phones' HTTPS calls; GRPC and MQTT are host:port.
	URL, GRPC, MQTT string
	// Admin is the gateway's operators' port, PushcoreAdmin pushcore's.
	Admin, PushcoreAdmin string
	Pushcore, Gateway    *process.Process
	NATS                 *process.Process
	// SQL reads the database: whether something has been applied is asked there, so that asking does not load pushcore.
	SQL    *pgxpool.Pool
	Client *client.Client
	App    string
	// ServerKey and ClientKey are the app's.
	ServerKey, ClientKey string
	// Config is what differs from the defaults, to be printed.
	Config []string

	dir, nats, internal string
	statements          bool
	postgres            *postgres.Cluster
	closers             []func()
}

// Start starts a site whose programs are in the folder bin; with statements, PostgreSQL counts what each costs. Close it.
func Start(ctx context.Context, bin string, statements bool) (_ *Site, err error) {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	s := &Site{App: appID, statements: statements}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.dir, err = os.MkdirTemp("", "halley-bench-*"); err != nil {
		return nil, err
	}
	s.later(func() { _ = os.RemoveAll(s.dir) })
	if err := os.Chmod(s.dir, 0o711); err != nil { // PostgreSQL may run as another user
		return nil, err
	}
	for _, step := range []func(context.Context, string) error{
		s.startPostgres, s.writeFiles, s.startNATS, s.startPushcore, s.startGateway, s.createApp,
	} {
		if err := step(ctx, bin); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Site) later(f func()) { s.closers = append(s.closers, f) }

// Close stops all and removes what they left.
func (s *Site) Close() {
	for len(s.closers) > 0 {
		last := len(s.closers) - 1
		s.closers[last]()
		s.closers = s.closers[:last]
	}
}

func (s *Site) startPostgres(ctx context.Context, _ string) (err error) {
	settings := map[string]string{}
	if s.statements {
		settings["shared_preload_libraries"] = "pg_stat_statements"
		s.Config = append(s.Config, "PostgreSQL: shared_preload_libraries pg_stat_statements")
	}
	s.postgres, err = postgres.Start(ctx, postgres.Options{
		DataDir: filepath.Join(s.dir, "postgres"), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Settings: settings,
	})
	if err != nil {
		return err
	}
	s.later(func() {
		stop, cancel := context.WithTimeout(context.Background(), startWithin)
		defer cancel()
		_ = s.postgres.Stop(stop) // the folder goes, too
	})
	if err := s.postgres.CreateDatabase(ctx, "halley"); err != nil {
		return err
	}
	if s.SQL, err = pgxpool.New(ctx, s.postgres.DatabaseDSN("halley")); err != nil {
		return err
	}
	s.later(s.SQL.Close)
	if !s.statements {
		return nil
	}
	if _, err = s.SQL.Exec(ctx, "CREATE EXTENSION pg_stat_statements"); err != nil {
		return fmt.Errorf("count statements: %w", err)
	}
	return nil
}

func (s *Site) writeFiles(ctx context.Context, bin string) error {
	keyring := exec.CommandContext(ctx, filepath.Join(bin, "halley"), "keyring", "keys.json")
	keyring.Dir = s.dir
	if text, err := keyring.CombinedOutput(); err != nil {
		return fmt.Errorf("halley keyring: %w: %s", err, text)
	}
	return nil
}

func (s *Site) write(name, text string) error {
	return os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600)
}

func (s *Site) startNATS(ctx context.Context, bin string) error {
	nats, err := StartNATS(ctx, bin, s.dir)
	if err != nil {
		return err
	}
	s.later(nats.Stop)
	s.NATS, s.nats = nats.Process, nats.URL
	return nil
}

// addresses returns n free addresses.
func addresses(n int) ([]string, error) {
	var all []string
	var errs []error
	for range n {
		a, err := process.Address()
		all, errs = append(all, a), append(errs, err)
	}
	return all, errors.Join(errs...)
}

func (s *Site) startPushcore(ctx context.Context, bin string) error {
	a, err := addresses(4)
	if err != nil {
		return err
	}
	err = s.write("pushcore.yaml", fmt.Sprintf(`
http: %s
grpc: %s
internal: %s
database_url: %q
key_file: keys.json
admin_token: %s
service_token: %s
nats: {url: %q, user: pushcore, password: %s}
telemetry: {listen: "%s", profiles: true}
`, a[0], a[1], a[2], s.postgres.DatabaseDSN("halley"), adminToken, ServiceToken, s.nats, Password, a[3]))
	if err != nil {
		return err
	}
	s.Pushcore, err = process.Start(s.dir, "pushcore", nil, filepath.Join(bin, "pushcore"), "-config", "pushcore.yaml")
	if err != nil {
		return err
	}
	s.later(s.Pushcore.Stop)
	s.URL, s.GRPC, s.internal, s.PushcoreAdmin = "http://"+a[0], a[1], a[2], a[3]
	s.Config = append(s.Config, "pushcore: telemetry.profiles true")
	return s.Pushcore.Await(ctx, process.Ready(ctx, "http://"+a[3]+"/readyz"))
}

func (s *Site) startGateway(ctx context.Context, bin string) error {
	g, err := s.StartGateway(ctx, bin, "gateway")
	if err != nil {
		return err
	}
	s.later(g.Stop)
	s.MQTT, s.Admin, s.Gateway = g.MQTT, g.Admin, g.Process
	s.Config = append(s.Config, GatewayConfig)
	return nil
}

// StartGateway starts a gateway of the site, besides the one that it has. Stop it.
func (s *Site) StartGateway(ctx context.Context, bin, name string) (*Gateway, error) {
	return StartGateway(ctx, GatewayOptions{Bin: bin, Dir: s.dir, Name: name, NATS: s.nats, Pushcore: s.internal})
}

func (s *Site) createApp(ctx context.Context, _ string) error {
	admin, err := client.NewAdmin(s.GRPC, adminToken, client.WithPlaintext())
	if err != nil {
		return err
	}
	defer admin.Close()
	created, err := admin.CreateApp(ctx, &adminv1.CreateAppRequest{App: appID, Settings: &adminv1.Settings{
		KeepAlive: durationpb.New(10 * time.Minute), KeepAliveMax: durationpb.New(20 * time.Minute),
		RegistrationsPerMinute: 1e9, RegistrationsPerMinuteAddress: 1e9, RegistrationsPerMinuteNetwork: 1e9,
	}})
	if err != nil {
		return err
	}
	s.ServerKey, s.ClientKey = created.GetServerKey(), created.GetClientKey()
	s.Client, err = client.New(s.GRPC, s.ServerKey, client.WithPlaintext())
	if err == nil {
		s.later(func() { _ = s.Client.Close() })
	}
	return err
}

// Postgres returns the processor time that PostgreSQL's processes have had so far: the postmaster's and its children's that
// live. What ended meanwhile is not in it.
func (s *Site) Postgres() time.Duration {
	var total time.Duration
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscanf(e.Name(), "%d", &pid); err != nil {
			continue
		}
		if pid == s.postgres.PID() || parent(pid) == s.postgres.PID() {
			if cpu, err := process.CPU(pid); err == nil {
				total += cpu
			}
		}
	}
	return total
}

func parent(pid int) (ppid int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "PPid: %d", &ppid); err == nil {
			return ppid
		}
	}
	return 0
}
