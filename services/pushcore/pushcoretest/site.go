// Package pushcoretest runs whole pushcores for tests, on real parts: a fresh PostgreSQL database, a NATS server inside the
// process, and a gateway that does only what the test tells it to.
//
//	core := pushcoretest.Start(t)        // database, NATS, one pushcore, ready
//	app := core.NewApp(t, nil)           // an app with its keys
//	phone := app.Register(t)             // a device, registered over REST
//	gateway := core.Gateway(t)           // a scripted gateway with a live lease
//	session := gateway.Open(t, phone)    // phone is online there
//	id := app.Push(t, pushcoretest.ToDevices(phone))
//	gateway.NextDeliver(t).Take(t)       // the request that pushcore makes; answered TAKEN
//	gateway.Receipt(t, phone, id, ledgerv1.Step_STEP_ARRIVED)
//
// Nothing here sleeps: what has a signal is waited for on it, and Eventually polls what has none. A test package that uses
// Start has
//
//	func TestMain(m *testing.M) { pushcoretest.Main(m) }
package pushcoretest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/natsbus"
	"github.com/halleypush/halley/pkg/natsbus/natsserver"
	"github.com/halleypush/halley/pkg/postgres/postgrestest"
	"github.com/halleypush/halley/pkg/telemetry"
	"github.com/halleypush/halley/services/pushcore"
	"github.com/halleypush/halley/services/pushcore/internal/storage"
)

// Patience bounds every wait: far longer than anything takes, so that only what never happens runs into it.
const Patience = 40 * time.Second

// Credentials of the installation under test.
const (
	AdminToken   = "ak_test-admin-token-of-the-site"
	ServiceToken = "test-service-token-of-the-site"
)

var passwords = map[string]config.Secret{"pushcore": "test-core", "gateway": "test-gateway", "sender": "test-sender"}

// Site is an installation without its pushcores: a database of its own, a NATS server, and a key file.
type Site struct {
	// DSN is the site's database.
	DSN string
	// KeyFile holds the device and encryption keys.
	KeyFile string
	// NATS is the site's NATS server.
	NATS *NATS
	// Logs is what the site's pushcores logged, at level debug. It is shown when the test fails.
	Logs *Logs
	// ExpectErrors is set by a test that breaks something: without it a logged error, or a statement that PostgreSQL does
	// not understand, fails the test.
	ExpectErrors bool

	sql     *pgx.Conn
	cleanup func(func())
}

// NewSite makes a site that goes when the test ends.
func NewSite(t testing.TB) *Site {
	t.Helper()
	return NewSiteOn(t, postgrestest.New(t, migrate))
}

// NewSiteOn makes a site on a database of the test's own. Its pushcores migrate it.
func NewSiteOn(t testing.TB, dsn string) *Site {
	t.Helper()
	dir := t.TempDir()
	s := &Site{DSN: dsn, cleanup: t.Cleanup, KeyFile: filepath.Join(dir, "keys.json"), Logs: &Logs{}}
	if err := pushcore.CreateKeyFile(s.KeyFile); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if bad := s.Logs.wrong(); len(bad) > 0 && !s.ExpectErrors {
			t.Errorf("the pushcores logged errors:\n%s", strings.Join(bad, "\n"))
		}
		if t.Failed() {
			t.Log("what the pushcores logged:\n" + s.Logs.String())
		}
	})
	s.NATS = newNATS(t, filepath.Join(dir, "nats"))
	return s
}

func migrate(ctx context.Context, dsn string) error {
	return storage.Migrate(ctx, dsn, slog.New(slog.DiscardHandler))
}

// Config returns the configuration of one more pushcore on the site.
func (s *Site) Config() (pushcore.Config, error) {
	c, err := newConfig(s.DSN, s.KeyFile, s.NATS.URL())
	c.TelemetryOptions = []telemetry.Option{telemetry.WithLogs(s.Logs)}
	return c, err
}

func newConfig(dsn, keyFile, natsURL string) (pushcore.Config, error) {
	c := pushcore.Config{
		HTTP: "127.0.0.1:0", GRPC: "127.0.0.1:0", Internal: "127.0.0.1:0",
		AdminToken: AdminToken, ServiceToken: ServiceToken, KeyFile: keyFile, DatabaseURL: config.Secret(dsn),
		NATS:      natsbus.Config{URL: natsURL, User: "pushcore", Password: passwords["pushcore"]},
		Telemetry: telemetry.Config{Listen: "127.0.0.1:0", LogLevel: "debug"},
		Pools:     storage.Sizes{Direct: 4, Open: 4, Ledger: 4, Bulk: 4}, // tests run side by side
	}
	return c, config.Defaults(&c)
}

// SQL returns the test's own connection to the site's database, to look at rows. It is not for concurrent use.
func (s *Site) SQL(t testing.TB) *pgx.Conn {
	t.Helper()
	if s.sql == nil {
		s.sql = s.connect(t)
	}
	return s.sql
}

// connect opens a connection that closes when the site goes.
func (s *Site) connect(t testing.TB) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), s.DSN)
	if err != nil {
		t.Fatal(err)
	}
	s.cleanup(func() { _ = conn.Close(context.Background()) }) // whatever it held is let go
	return conn
}

// Hold runs statements in a transaction of the test's own, so that their locks stop whoever needs them, and returns the
// function that lets go.
func (s *Site) Hold(t testing.TB, statements ...string) (release func()) {
	t.Helper()
	conn := s.connect(t)
	for _, statement := range append([]string{"BEGIN"}, statements...) {
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	return sync.OnceFunc(func() {
		if _, err := conn.Exec(context.Background(), "ROLLBACK"); err != nil {
			t.Error(err)
		}
	})
}

// stopLock is the advisory lock on which StopAtCommit stops transactions.
const stopLock = -4711

// StopAtCommit stops every transaction that writes a table at its COMMIT, with all done and nothing visible, until the
// returned function is called.
func (s *Site) StopAtCommit(t testing.TB, table string) (release func()) {
	t.Helper()
	_, err := s.SQL(t).Exec(t.Context(), fmt.Sprintf(`
		CREATE FUNCTION stop_at_commit() RETURNS trigger LANGUAGE plpgsql AS
			'BEGIN PERFORM pg_advisory_xact_lock_shared(%d); RETURN NULL; END';
		CREATE CONSTRAINT TRIGGER stop_at_commit AFTER INSERT OR UPDATE ON %s DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW EXECUTE FUNCTION stop_at_commit()`, stopLock, table))
	if err != nil {
		t.Fatal(err)
	}
	return s.Hold(t, fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", stopLock))
}

// WaitBlocked waits until so many of a pool's connections wait for a lock. Pools are direct, open, ledger and bulk.
func (s *Site) WaitBlocked(t testing.TB, pool string, n int) {
	t.Helper()
	conn := s.SQL(t)
	Eventually(t, fmt.Sprintf("%d connections of the pool %s wait for a lock", n, pool), func() bool {
		var blocked int
		err := conn.QueryRow(t.Context(), `
			SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock' AND application_name = 'halley-pushcore-' || $1`,
			pool).Scan(&blocked)
		if err != nil {
			t.Fatal(err)
		}
		return blocked >= n
	})
}

// Logs collects log lines.
type Logs struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

// Write adds lines.
func (l *Logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String returns all lines.
func (l *Logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// wrong returns the lines that no healthy site logs: errors, and statements with a mistake (class 42 of SQLSTATE).
func (l *Logs) wrong() []string {
	var bad []string
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, "level=ERROR") || strings.Contains(line, "SQLSTATE 42") {
			bad = append(bad, strings.TrimSpace(line))
		}
	}
	return bad
}

// NATS is a NATS server that can be stopped, robbed of its data and started again on the same port.
type NATS struct {
	dir    string
	listen string
	server *natsserver.Server // nil while it is down
}

func newNATS(t testing.TB, dir string) *NATS {
	t.Helper()
	n := &NATS{dir: dir, listen: "127.0.0.1:0"}
	n.Start(t)
	n.listen = strings.TrimPrefix(n.server.URL(), "nats://")
	t.Cleanup(n.Stop)
	return n
}

// URL returns the address that clients connect to.
func (n *NATS) URL() string { return "nats://" + n.listen }

// Start starts the server again.
func (n *NATS) Start(t testing.TB) {
	t.Helper()
	server, err := natsserver.Start(natsserver.Options{StoreDir: n.dir, Listen: n.listen, Passwords: passwords})
	if err != nil {
		t.Fatal(err)
	}
	n.server = server
}

// Stop stops the server. Its data stays.
func (n *NATS) Stop() {
	if n.server != nil {
		n.server.Shutdown()
		n.server = nil
	}
}

// Wipe deletes what the server stored, streams and consumers too. It must be stopped.
func (n *NATS) Wipe(t testing.TB) {
	t.Helper()
	if err := os.RemoveAll(n.dir); err != nil {
		t.Fatal(err)
	}
}

// Eventually polls until done returns true, and fails the test if it never does. It is for what gives no signal.
func Eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(Patience)
	for !done() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("never happened: %s", what)
		}
	}
}
