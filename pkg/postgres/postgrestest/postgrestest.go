// Package postgrestest gives each test a PostgreSQL database of its own, cloned from a migrated template.
//
// All tests of a process share one server: the one that HALLEY_TEST_DATABASE_URL names, whose role must be allowed to make
// databases, or else a private cluster that the first test starts. A package that uses New has
//
//	func TestMain(m *testing.M) { os.Exit(postgrestest.Main(m)) }
package postgrestest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// serverVariable names an existing server to use.
	serverVariable = "HALLEY_TEST_DATABASE_URL"
	// startTimeout bounds initdb and the first start, on a busy machine.
	startTimeout = 2 * time.Minute
	// databaseTimeout bounds making, migrating or dropping one database.
	databaseTimeout = time.Minute
)

// shared is the server of this process. It is a package variable because the tests of a package have nothing else in
// common: New cannot be handed what TestMain made.
var shared server

// New returns the DSN of a fresh database that belongs to this test alone. It is a copy of a template, which the first
// call with this migrate function made and migrated; nil leaves it empty. Functions are told apart by their code: what a
// closure has captured is not looked at. The database is dropped when the test ends, whoever is still connected. Whatever
// is missing, PostgreSQL too, fails the test. Under -short the test is skipped: it is for tests that need no database.
func New(t testing.TB, migrate func(ctx context.Context, dsn string) error) (dsn string) {
	t.Helper()
	NotShort(t)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout+2*databaseTimeout)
	defer cancel()
	name, dsn, err := shared.clone(ctx, migrate)
	if err != nil {
		t.Fatalf("a database for this test: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), databaseTimeout)
		defer cancel()
		if err := shared.drop(ctx, name); err != nil {
			t.Errorf("drop the database of this test: %v", err)
		}
	})
	return dsn
}

// NotShort skips a test that needs PostgreSQL, if only those that need no database were asked for.
func NotShort(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a database") //nolint:forbidigo // -short asks for the tests that need none
	}
}

// Main runs the tests, then stops the cluster and removes what they left. It returns the exit code for os.Exit.
func Main(m *testing.M) int {
	code := m.Run()
	ctx, cancel := context.WithTimeout(context.Background(), databaseTimeout)
	defer cancel()
	if err := shared.close(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "postgrestest:", err)
		return max(code, 1)
	}
	return code
}

// server is where the databases are made.
type server struct {
	mu        sync.Mutex
	dsn       string // of a database to give orders in; empty before the first use
	cluster   *cluster
	failed    error // why the server did not start: later tests fail at once
	templates map[uintptr]*template
}

// template is a migrated database, which nobody may connect to.
type template struct {
	once sync.Once
	name string
	err  error
}

// clone makes a database from the template of migrate.
func (s *server) clone(ctx context.Context, migrate func(context.Context, string) error) (name, dsn string, err error) {
	source, err := s.template(migrate)
	if err != nil {
		return "", "", err
	}
	source.once.Do(func() { source.err = s.build(ctx, source.name, migrate) })
	if source.err != nil {
		return "", "", source.err
	}
	name = newName()
	if err := s.exec(ctx, "CREATE DATABASE "+name+" TEMPLATE "+source.name); err != nil {
		return "", "", fmt.Errorf("copy the template: %w", err)
	}
	dsn, err = withDatabase(s.dsn, name)
	return name, dsn, err
}

// template starts the server if need be, and returns the place of migrate's template, which may not be built yet.
func (s *server) template(migrate func(context.Context, string) error) (*template, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return nil, s.failed
	}
	if s.dsn == "" {
		if s.failed = s.startLocked(); s.failed != nil {
			return nil, s.failed
		}
	}
	key := reflect.ValueOf(migrate).Pointer() // 0 for nil
	if s.templates[key] == nil {
		s.templates[key] = &template{name: newName()}
	}
	return s.templates[key], nil
}

// startLocked needs mu. It does not take the context of the test that happens to be the first.
func (s *server) startLocked() error {
	s.templates = make(map[uintptr]*template)
	if s.dsn = os.Getenv(serverVariable); s.dsn != "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	var err error
	if s.cluster, err = startCluster(ctx); err != nil {
		return err
	}
	s.dsn = s.cluster.postgres.DSN()
	return nil
}

// build makes and migrates a template, and closes it: a database with connections cannot be copied.
func (s *server) build(ctx context.Context, name string, migrate func(context.Context, string) error) error {
	if err := s.exec(ctx, "CREATE DATABASE "+name+" TEMPLATE template0"); err != nil {
		return fmt.Errorf("make the template: %w", err)
	}
	if migrate != nil {
		dsn, err := withDatabase(s.dsn, name)
		if err != nil {
			return err
		}
		if err := migrate(ctx, dsn); err != nil {
			return fmt.Errorf("migrate the template: %w", err)
		}
	}
	err := s.exec(ctx, "ALTER DATABASE "+name+" ALLOW_CONNECTIONS false")
	if err == nil {
		err = s.exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '"+name+"'")
	}
	if err != nil {
		return fmt.Errorf("close the template: %w", err)
	}
	return nil
}

// drop removes a database and ends its connections.
func (s *server) drop(ctx context.Context, name string) error {
	return s.exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
}

// close stops the cluster, or drops the templates from a server that stays.
func (s *server) close(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cluster != nil {
		return s.cluster.close(ctx)
	}
	var errs []error
	for _, t := range s.templates {
		errs = append(errs, s.drop(ctx, t.name))
	}
	return errors.Join(errs...)
}

// exec runs one statement over a connection of its own, so that nothing is open between tests.
func (s *server) exec(ctx context.Context, statement string) (err error) {
	conn, err := pgx.Connect(ctx, s.dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	_, err = conn.Exec(ctx, statement)
	return err
}

// newName returns a database name that needs no quotes. The pid tells a person whose it is.
func newName() string {
	return fmt.Sprintf("halley_test_%d_%s", os.Getpid(), strings.ToLower(rand.Text()[:10]))
}

// withDatabase returns dsn, which is a URL or a list of key=value, for another database.
func withDatabase(dsn, name string) (string, error) {
	if !strings.HasPrefix(dsn, "postgres://") && !strings.HasPrefix(dsn, "postgresql://") {
		return dsn + " dbname=" + name, nil
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return "", errors.New(serverVariable + " is not a URL") // the cause would show the password
	}
	u.Path = "/" + name
	query := u.Query()
	query.Del("dbname")
	u.RawQuery = query.Encode()
	return u.String(), nil
}
