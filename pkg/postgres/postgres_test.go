package postgres

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// parentVariable makes the test binary a parent to be killed: it starts a cluster in the folder that the variable names,
// prints the postmaster's pid and waits.
const parentVariable = "HALLEY_POSTGRES_TEST_PARENT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(parentVariable); dir != "" {
		c, err := Start(context.Background(), Options{DataDir: dir, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(c.PID())
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// folder returns a folder that any user can pass through, which those of t.TempDir are not. Under -short its test is skipped.
func folder(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("runs PostgreSQL") //nolint:forbidigo // -short asks for the tests that need none
	}
	dir, err := os.MkdirTemp("", "halley-pg-test-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

// start starts a cluster and stops it at the end of the test.
func start(t *testing.T, o Options) *Cluster {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	c, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, c) })
	return c
}

func stop(t *testing.T, c *Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := c.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// query returns the one value that a statement answers.
func query(t *testing.T, dsn, statement string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) // only reads
	var value string
	if err := conn.QueryRow(t.Context(), statement).Scan(&value); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		t.Fatalf("%s: %v", statement, err)
	}
	return value
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !is() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

func gone(pid int) bool {
	_, found := procStat(pid)
	return !found
}

// killedParent runs a parent with a cluster in dir, kills it and returns the pid of the postmaster. between runs before.
func killedParent(t *testing.T, dir string, between func()) int {
	t.Helper()
	parent := exec.CommandContext(t.Context(), os.Args[0])
	parent.Env = append(os.Environ(), parentVariable+"="+dir)
	parent.Stderr = t.Output()
	hold, err := parent.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close() // the reader is dead
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(errors.Join(err, parent.Wait()))
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	between()
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := parent.Wait(); err == nil {
		t.Fatal("the parent was not killed")
	}
	return pid
}

func TestClusterKeepsDataOverStopAndStart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "new", "data")
	c := start(t, Options{DataDir: dir, Settings: map[string]string{"work_mem": "5MB", "max_connections": "50"}})
	for name, want := range map[string]string{
		"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "data_checksums": "on", "server_encoding": "UTF8",
		"shared_buffers": "128MB", "max_connections": "50", "wal_compression": "pglz", "max_wal_size": "2GB",
		"listen_addresses": "", "work_mem": "5MB", "unix_socket_directories": dir, "data_directory": dir,
	} {
		if got := query(t, c.DSN(), "SHOW "+name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for range 2 { // the second finds it there
		if err := c.CreateDatabase(t.Context(), `odd "name`); err != nil {
			t.Fatal(err)
		}
	}
	query(t, c.DatabaseDSN(`odd "name`), "CREATE TABLE kept AS SELECT 'still here' AS v")
	pid := c.PID()
	info, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		t.Fatal(err)
	}
	if uid := ownerOf(info); uid == 0 || uid != c.account.uid {
		t.Errorf("PostgreSQL runs as uid %d", uid)
	}
	stop(t, c)
	if !gone(pid) || c.PID() != 0 {
		t.Errorf("pid %d runs after Stop", pid)
	}
	again := start(t, Options{DataDir: dir})
	if got := query(t, again.DatabaseDSN(`odd "name`), "SELECT v FROM kept"); got != "still here" {
		t.Errorf("after a restart the row is %q", got)
	}
}

func TestServerThatDiesIsStartedAgain(t *testing.T) {
	t.Parallel()
	c := start(t, Options{DataDir: filepath.Join(folder(t), "data")})
	query(t, c.DSN(), "CREATE TABLE kept AS SELECT 'committed' AS v")
	ways := map[string]func() error{
		"Kill":                      c.Kill,
		"kill -9 of the postmaster": func() error { return syscall.Kill(c.PID(), syscall.SIGKILL) },
	}
	for name, die := range ways {
		before := c.PID()
		children, err := childrenOf(before)
		if err != nil || len(children) == 0 {
			t.Fatalf("children of %d: %v, %v", before, children, err)
		}
		if err := die(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		eventually(t, name+": a new server", func() bool { return c.PID() != before && c.PID() != 0 })
		for _, child := range children {
			eventually(t, name+": its children end", func() bool { return gone(child.Pid) })
		}
		if got := query(t, c.DSN(), "SELECT v FROM kept"); got != "committed" {
			t.Errorf("%s: the row is %q", name, got)
		}
	}
}

func TestServerOfAKilledParentIsAdopted(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "data")
	address := (&Cluster{socketDir: dir, port: socketPort}).DSN()
	var session *pgx.Conn
	pid := killedParent(t, dir, func() {
		if _, err := Start(t.Context(), Options{DataDir: dir}); !errors.Is(err, ErrInUse) {
			t.Errorf("Start while the parent lives: %v", err)
		}
		if err := StopAbandoned(t.Context(), dir); !errors.Is(err, ErrInUse) {
			t.Errorf("StopAbandoned while the parent lives: %v", err)
		}
		var err error
		if session, err = pgx.Connect(t.Context(), address); err != nil {
			t.Fatal(err)
		}
	})
	c := start(t, Options{DataDir: dir})
	if c.PID() != pid {
		t.Errorf("adopted pid %d, the parent had started %d", c.PID(), pid)
	}
	if err := session.Ping(t.Context()); err != nil {
		t.Errorf("a session that was open before the parent died: %v", err)
	}
	_ = session.Close(t.Context())
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an adopted server that dies is started again", func() bool { return c.PID() != pid && c.PID() != 0 })
	query(t, c.DSN(), "SELECT 'ok'")
}

func TestAdoptedServerWithOtherSettingsIsRestarted(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "data")
	pid := killedParent(t, dir, func() {})
	c := start(t, Options{DataDir: dir, Settings: map[string]string{"work_mem": "7MB"}})
	if c.PID() == pid || !gone(pid) {
		t.Errorf("pid %d still runs", pid)
	}
	if got := query(t, c.DSN(), "SHOW work_mem"); got != "7MB" {
		t.Errorf("work_mem is %s", got)
	}
}

func TestStopAbandonedStopsWhatAKilledParentLeft(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "data")
	if err := StopAbandoned(t.Context(), dir); err != nil {
		t.Errorf("no folder: %v", err)
	}
	pid := killedParent(t, dir, func() {})
	for range 2 { // the second finds nothing
		if err := StopAbandoned(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		if !gone(pid) {
			t.Fatalf("pid %d runs", pid)
		}
	}
}

func TestPidFileThatNamesAnotherProcessIsNotBelieved(t *testing.T) {
	t.Parallel()
	for name, argv := range map[string][]string{"program": {"sleep", "600"}, "zombie": {"true"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(folder(t), "data")
			c := start(t, Options{DataDir: dir})
			pidFile := filepath.Join(dir, "postmaster.pid")
			text, err := os.ReadFile(pidFile)
			if err != nil {
				t.Fatal(err)
			}
			stop(t, c)
			other := command(t.Context(), "/bin", argv[0], c.account, argv[1:]...)
			if err := other.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = errors.Join(other.Process.Kill(), other.Wait()) }()
			if name == "zombie" {
				eventually(t, "it ends", func() bool { return gone(other.Process.Pid) })
			}
			_, rest, _ := strings.Cut(string(text), "\n")
			if err := os.WriteFile(pidFile, fmt.Appendf(nil, "%d\n%s", other.Process.Pid, rest), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(pidFile, c.account.uid, c.account.groups[0]); err != nil {
				t.Fatal(err)
			}
			again := start(t, Options{DataDir: dir})
			query(t, again.DSN(), "SELECT 'ok'")
			if name == "program" && gone(other.Process.Pid) {
				t.Error("the other process was ended")
			}
		})
	}
}

func TestServerThatSomebodyElseRunsInTheFolderIsLeftAlone(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "data")
	c := start(t, Options{DataDir: dir})
	stop(t, c)
	// Its command line does not begin with the folder, so it is not one of ours.
	other := command(t.Context(), c.binDir, "postgres", c.account, append([]string{"-c", "work_mem=9MB"}, c.args...)...)
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	server := launched(other)
	eventually(t, "it accepts connections", func() bool { return c.ping(t.Context()) == nil })
	_, err := Start(t.Context(), Options{DataDir: dir, Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("another PostgreSQL, pid %d, runs in %s", other.Process.Pid, dir)) {
		t.Errorf("Start: %v", err)
	}
	if err := c.ping(t.Context()); err != nil {
		t.Errorf("the other server: %v", err)
	}
	if err := server.stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestStopThatRunsOutOfTimeStopsAtOnce(t *testing.T) {
	t.Parallel()
	c := start0(t)
	pid := c.PID()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Stop(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Stop: %v", err)
	}
	if !gone(pid) {
		t.Errorf("pid %d runs", pid)
	}
}

// start0 is start for a test that stops the cluster itself.
func start0(t *testing.T) *Cluster {
	t.Helper()
	c, err := Start(t.Context(), Options{DataDir: filepath.Join(folder(t), "data"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSocketOfALongPathLiesInTmp(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), strings.Repeat("long", 25), "data")
	c := start(t, Options{DataDir: dir})
	query(t, c.DSN(), "SELECT 'ok'")
	info, err := os.Stat(c.socketDir)
	if err != nil || !strings.HasPrefix(c.socketDir, "/tmp/halley-pg-") || info.Mode().Perm() != 0o700 || ownerOf(info) != c.account.uid {
		t.Errorf("socket folder %s: %v, %v", c.socketDir, info, err)
	}
	stop(t, c)
	if _, err := os.Stat(c.socketDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket folder after Stop: %v", err)
	}
}

func TestTCPWantsThePassword(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	c := start(t, Options{DataDir: filepath.Join(folder(t), "data"), Port: port})
	info, err := os.Stat(c.PasswordFile())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("password file: %v, %v", info, err)
	}
	password, err := os.ReadFile(c.PasswordFile())
	if err != nil {
		t.Fatal(err)
	}
	address := "host=127.0.0.1 sslmode=disable user=postgres dbname=postgres port=" + strconv.Itoa(port) + " password="
	query(t, address+strings.TrimSpace(string(password)), "SELECT 'ok'")
	if conn, err := pgx.Connect(t.Context(), address+"wrong"); err == nil {
		_ = conn.Close(t.Context())
		t.Error("a wrong password is accepted")
	}
	query(t, c.DSN(), "SELECT 'ok'")
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // only asked for its port
	return l.Addr().(*net.TCPAddr).Port
}

func TestFailedStartTellsWhatPostgreSQLSaid(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "data")
	_, err := Start(t.Context(), Options{DataDir: dir, Settings: map[string]string{"no_such_setting": "1"}, Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), `unrecognized configuration parameter "no_such_setting"`) {
		t.Fatalf("Start: %v", err)
	}
	start(t, Options{DataDir: dir}) // the folder is free and whole
}
