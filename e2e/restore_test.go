package e2e_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/halleypush/halley/e2e/rig"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// TestARestoredBackup carries out what docs/operations.md says about backup: a base backup of the running PostgreSQL is put in
// place of it later, while gateways and phones stay. What was accepted before the backup is there, and arrives once; what came
// after it is gone, and phones that registered after it register again by themselves.
func TestARestoredBackup(t *testing.T) {
	t.Parallel()
	cluster := rig.StartCluster(t, rig.Options{})
	app := cluster.CreateApp(t, "shop")
	stays, away := connected(t, app), connected(t, app)
	before := app.Push(t, stays.token)
	stays.awaitOnce(t, before)
	app.AwaitCounts(t, before, 20*time.Second, &pushv1.Counts{Targeted: 1, Arrived: 1})
	away.leave()
	app.AwaitOnline(t, away.token, false, 20*time.Second)
	kept := app.Push(t, away.token)

	backup := filepath.Join(rig.Folder(t), "backup")
	backUp(t, cluster, backup)

	late := connected(t, app)
	registered := late.token
	lost := app.Push(t, stays.token)
	stays.awaitOnce(t, lost)

	data := cluster.PostgresDir()
	cluster.Pushcore.Stop(t, 30*time.Second)
	cluster.RestartPostgres(t, func() {
		if err := errors.Join(os.Rename(data, data+".old"), os.Rename(backup, data)); err != nil {
			t.Fatal(err)
		}
	})
	rig.Command(t, filepath.Dir(data), rig.Bin(t, "halley"), "restored", "--database-url-file", "database.url")
	cluster.Pushcore.Start(t)
	fresh := connected(t, app)
	if fresh.token == registered {
		t.Error("a new phone got the identity of one that registered after the backup")
	}
	if err := app.CheckCounts(t.Context(), before, &pushv1.Counts{Targeted: 1, Arrived: 1}); err != nil {
		t.Errorf("a push from before the backup: %v", err)
	}
	if _, err := app.Client.GetPush(t.Context(), app.ID, lost); status.Code(err) != codes.NotFound {
		t.Errorf("a push from after the backup: %v, want NotFound", err)
	}
	if err := away.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	away.awaitOnce(t, kept)
	app.AwaitCounts(t, kept, 20*time.Second, &pushv1.Counts{Targeted: 1, Arrived: 1})

	live := app.Push(t, stays.token)
	stays.awaitOnce(t, live)
	app.AwaitCounts(t, live, 20*time.Second, &pushv1.Counts{Targeted: 1, Arrived: 1})

	rig.Until(t, 30*time.Second, "a phone that nobody knows registers again", func() error {
		if late.online() && late.device.Token() != registered {
			return nil
		}
		return errors.New("it has its old token")
	})
	again := app.Push(t, late.device.Token())
	late.awaitOnce(t, again)
}

// backUp makes a base backup of the running PostgreSQL, by its low-level API (PostgreSQL 15, 26.3.3), which pg_basebackup
// uses, too: not every package of PostgreSQL's server has that program.
func backUp(t *testing.T, cluster *rig.Cluster, to string) {
	t.Helper()
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, cluster.Postgres.DatabaseDSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "SELECT pg_backup_start('e2e', true)"); err != nil {
		t.Fatal(err)
	}
	from := cluster.PostgresDir()
	copied(t, from, to)
	var label string
	if err := conn.QueryRow(ctx, "SELECT labelfile FROM pg_backup_stop(false)").Scan(&label); err != nil {
		t.Fatal(err)
	}
	copied(t, filepath.Join(from, "pg_wal")+"/.", filepath.Join(to, "pg_wal")) // what was written meanwhile
	written := filepath.Join(to, "backup_label")
	if err := errors.Join(os.WriteFile(written, []byte(label), 0o600), os.Remove(filepath.Join(to, "postmaster.pid"))); err != nil {
		t.Fatal(err)
	}
	rig.Command(t, to, "chown", "--reference=PG_VERSION", written) // as everything else
}

// copied copies a folder with owners and modes. Files may change or go meanwhile; PostgreSQL's log of changes mends that.
func copied(t *testing.T, from, to string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "cp", "-a", from, to).CombinedOutput()
	var vanished *exec.ExitError
	if err != nil && !errors.As(err, &vanished) {
		t.Fatalf("copy: %v: %s", err, out)
	}
}
