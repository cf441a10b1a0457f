package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// killedVariable makes the test binary a test run to be killed: it starts a cluster, prints its pid and waits.
const killedVariable = "HALLEY_POSTGRESTEST_KILLED"

func TestMain(m *testing.M) {
	if os.Getenv(killedVariable) != "" {
		c, err := startCluster(context.Background())
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(c.postgres.PID())
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}
	os.Exit(Main(m))
}

// migrations counts the calls of migrate in this process.
var migrations atomic.Int32

func migrate(ctx context.Context, dsn string) error {
	migrations.Add(1)
	return run(ctx, dsn, "CREATE TABLE notes (note text NOT NULL)")
}

func run(ctx context.Context, dsn, statement string) (err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	_, err = conn.Exec(ctx, statement)
	return err
}

func TestEachTestHasADatabaseOfItsOwn(t *testing.T) {
	t.Parallel()
	NotShort(t)
	for _, name := range []string{"one", "two", "three"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := New(t, migrate)
			// Left open: the database is dropped all the same.
			conn, err := pgx.Connect(t.Context(), dsn)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Exec(t.Context(), "INSERT INTO notes VALUES ($1)", name); err != nil {
				t.Fatal(err)
			}
			var count int
			if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM notes").Scan(&count); err != nil || count != 1 {
				t.Errorf("%d notes, %v: others' are here", count, err)
			}
			if got := migrations.Load(); got != 1 {
				t.Errorf("migrated %d times", got)
			}
		})
	}
}

func TestDatabaseIsDroppedWhenTheTestEnds(t *testing.T) {
	t.Parallel()
	NotShort(t)
	var dsn string
	t.Run("inner", func(t *testing.T) { dsn = New(t, nil) })
	if err := run(t.Context(), dsn, "SELECT 1"); err == nil {
		t.Error("the database is still there")
	}
}

var errBroken = errors.New("broken")

func TestMigrationThatFailsIsTold(t *testing.T) {
	t.Parallel()
	NotShort(t)
	failing := func(context.Context, string) error { return errBroken }
	for range 2 { // the second does not try again
		if _, _, err := shared.clone(t.Context(), failing); !errors.Is(err, errBroken) {
			t.Errorf("clone: %v", err)
		}
	}
}

func TestClusterOfAKilledTestRunIsRemoved(t *testing.T) {
	t.Parallel()
	NotShort(t)
	dir, err := os.MkdirTemp("", "halley-pgkilled-*")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir) // empty
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	killed := exec.CommandContext(ctx, os.Args[0])
	killed.Env = append(os.Environ(), killedVariable+"=1", "TMPDIR="+dir)
	killed.Stderr = t.Output()
	hold, err := killed.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close() // the reader is dead
	out, err := killed.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscanln(out, &pid); err != nil {
		t.Fatal(err)
	}
	if err := removeDead(ctx, dir); err != nil {
		t.Fatal(err)
	}
	if found := folders(t, dir); len(found) != 1 || !lives(pid) {
		t.Fatalf("while the test run lives: %v, PostgreSQL %d", found, pid)
	}
	_ = killed.Process.Kill()
	_ = killed.Wait()
	if !lives(pid) {
		t.Fatal("PostgreSQL died with its parent")
	}
	if err := removeDead(ctx, dir); err != nil {
		t.Fatal(err)
	}
	if found := folders(t, dir); len(found) != 0 {
		t.Errorf("left: %v", found)
	}
	waitEnd(t, pid)
}

func folders(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, folderPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// waitEnd waits until a process that is not our child has been collected.
func waitEnd(t *testing.T, pid int) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 500 {
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return
		}
		<-tick.C
	}
	t.Errorf("PostgreSQL %d still runs", pid)
}

func TestDatabaseOfADSNIsReplaced(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"postgres://u:p@h:1/old?sslmode=disable": "postgres://u:p@h:1/new?sslmode=disable",
		"postgresql:///old?dbname=x&host=%2Frun": "postgresql:///new?host=%2Frun",
		"host=/run user=u dbname=old":            "host=/run user=u dbname=old dbname=new",
	} {
		if got, err := withDatabase(given, "new"); got != want || err != nil {
			t.Errorf("%s: %s, %v", given, got, err)
			continue
		}
		if config, err := pgx.ParseConfig(want); err != nil || config.Database != "new" {
			t.Errorf("%s: %v, %v", want, config, err)
		}
	}
}
