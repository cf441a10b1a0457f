package storage_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/halleypush/halley/pkg/postgres/postgrestest"
	"github.com/halleypush/halley/services/pushcore/internal/storage"
)

func TestMain(m *testing.M) { os.Exit(postgrestest.Main(m)) }

func migrate(ctx context.Context, dsn string) error {
	return storage.Migrate(ctx, dsn, slog.New(slog.DiscardHandler))
}

func open(t *testing.T, dsn string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func relations(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), `
		SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p', 'S') AND c.relname NOT LIKE 'goose%' ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestMigrationsGoUpDownAndUpAgain(t *testing.T) {
	t.Parallel()
	dsn := postgrestest.New(t, nil)
	if err := migrate(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	pool := open(t, dsn)
	up := relations(t, pool)
	if err := migrate(t.Context(), dsn); err != nil {
		t.Errorf("again: %v", err)
	}
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, os.DirFS("migrations"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := provider.DownTo(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if left := relations(t, pool); len(left) > 0 {
		t.Errorf("left after going down: %v", left)
	}
	if err := migrate(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	if again := relations(t, pool); !slices.Equal(again, up) {
		t.Errorf("%v, want %v", again, up)
	}
}

func TestConcurrentReplicasMigrateOnce(t *testing.T) {
	t.Parallel()
	dsn := postgrestest.New(t, nil)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := migrate(context.Background(), dsn); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestSchemaOfAnOlderBinaryIsRefusedWhereSomethingElseMigrates(t *testing.T) {
	t.Parallel()
	dsn := postgrestest.New(t, nil)
	if err := storage.Settle(t.Context(), dsn); err == nil || !strings.Contains(err.Error(), "halley migrate") {
		t.Fatalf("an empty database: %v", err)
	}
	if left := relations(t, open(t, dsn)); len(left) > 0 {
		t.Errorf("made nevertheless: %v", left)
	}
	if err := migrate(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	if err := storage.Settle(t.Context(), dsn); err != nil {
		t.Errorf("after migrating: %v", err)
	}
}

func TestSchemaOfANewerBinaryIsLeftAlone(t *testing.T) {
	t.Parallel()
	dsn := postgrestest.New(t, migrate)
	pool := open(t, dsn)
	_, err := pool.Exec(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, true)")
	if err != nil {
		t.Fatal(err)
	}
	for _, start := range []func(context.Context, string) error{migrate, storage.Settle} { // it supports this binary
		if err := start(t.Context(), dsn); err != nil {
			t.Errorf("a newer schema that bears this binary: %v", err)
		}
	}
	if _, err := pool.Exec(t.Context(), "UPDATE schema_support SET oldest = 99999"); err != nil {
		t.Fatal(err)
	}
	if err := migrate(t.Context(), dsn); err == nil || !strings.Contains(err.Error(), "99999") {
		t.Errorf("migrate: %v", err)
	}
}

func partitions(t *testing.T, pool *pgxpool.Pool, table string) []string {
	t.Helper()
	var found []string
	for _, name := range relations(t, pool) {
		if rest, ok := strings.CutPrefix(name, table+"_2"); ok {
			found = append(found, "2"+rest)
		}
	}
	return found
}

func TestPartitionsFollowTheDays(t *testing.T) {
	t.Parallel()
	dsn := postgrestest.New(t, migrate)
	pool := open(t, dsn)
	now := time.Now().UTC()
	day := func(n int) string { return now.AddDate(0, 0, n).Format("20060102") }
	want := []string{day(-2), day(-1), day(0), day(1), day(2), day(3)}
	for _, table := range []string{"push", "push_slice", "slice_step", "delivery_log"} {
		if got := partitions(t, pool, table); !slices.Equal(got, want) {
			t.Errorf("%s has %v, want %v", table, got, want)
		}
	}
	// A push of each of these days has a place.
	for n := -2; n <= 3; n++ {
		id := storage.FirstPushID(now.Truncate(24*time.Hour).AddDate(0, 0, n))
		_, err := pool.Exec(t.Context(), `
			INSERT INTO push (push_id, app_no, request, notification, qos, collapse_key, created_at, expires_at, online_only, buckets, slices, trace)
			VALUES ($1, 1, '', true, 1, '', now(), now(), false, '{}', 0, '')`, id)
		if err != nil {
			t.Errorf("day %d: %v", n, err)
		}
	}
	if err := storage.EnsurePartitions(t.Context(), pool, now.AddDate(0, 0, 2)); err != nil {
		t.Fatal(err)
	}
	dropped, err := storage.DropPartitions(t.Context(), pool, now.Truncate(24*time.Hour))
	if err != nil || len(dropped) != 5*2 {
		t.Errorf("dropped %v, %v", dropped, err)
	}
	want = []string{day(0), day(1), day(2), day(3), day(4), day(5)}
	if got := partitions(t, pool, "push"); !slices.Equal(got, want) {
		t.Errorf("left %v, want %v", got, want)
	}
	var left int
	if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM push").Scan(&left); err != nil || left != 4 {
		t.Errorf("%d pushes left, %v", left, err)
	}
}

func TestFirstPushIDIsBelowAllOfItsMillisecond(t *testing.T) {
	t.Parallel()
	at := time.UnixMilli(1732330000123)
	first := storage.FirstPushID(at)
	if got := first.String(); got != "019356ea-0efb-0000-0000-000000000000" {
		t.Errorf("%s", got)
	}
	id := uuid.Must(uuid.NewV7())
	seconds, nanos := id.Time().UnixTime()
	if now := storage.FirstPushID(time.Unix(seconds, nanos)); slices.Compare(now[:], id[:]) >= 0 ||
		slices.Compare(id[:], bytesOf(storage.FirstPushID(time.Unix(seconds, nanos).Add(time.Millisecond)))) >= 0 {
		t.Errorf("%s is not in its millisecond, which begins at %s", id, now)
	}
}

func bytesOf(id uuid.UUID) []byte { return id[:] }

func TestUnavailableIsWhatPassesByItself(t *testing.T) {
	t.Parallel()
	server := func(code string) error { return fmt.Errorf("call: %w", &pgconn.PgError{Code: code}) }
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"nil": {nil, false}, "no rows": {pgx.ErrNoRows, false}, "cancelled": {context.Canceled, false},
		"a mistake of ours": {errors.New("decode: unexpected"), false}, "syntax": {server("42601"), false},
		"unique": {server("23505"), false}, "deadlock": {server("40P01"), false},
		"shutdown": {server("57P01"), true}, "starting": {server("57P03"), true}, "too many": {server("53300"), true},
		"connection": {server("08006"), true}, "cut": {fmt.Errorf("receive: %w", io.ErrUnexpectedEOF), true},
		"refused": {&net.OpError{Op: "dial", Err: errors.New("refused")}, true}, "no connection in time": {context.DeadlineExceeded, true},
	} {
		if got := storage.Unavailable(c.err); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	_, err := pgx.Connect(t.Context(), "postgres://nobody@127.0.0.1:1/none?connect_timeout=2")
	if !storage.Unavailable(err) {
		t.Errorf("nobody listens: %v", err)
	}
}

func TestTransactionThatADeadlockBrokeRunsAgain(t *testing.T) {
	t.Parallel()
	pool := open(t, postgrestest.New(t, nil))
	if _, err := pool.Exec(t.Context(), "CREATE TABLE t AS SELECT n, 0 AS v FROM generate_series(1, 2) n"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var met sync.WaitGroup
	met.Add(2)
	for _, order := range [][]int{{1, 2}, {2, 1}} {
		meet := sync.OnceFunc(func() { met.Done(); met.Wait() })
		wg.Go(func() {
			err := storage.InTx(t.Context(), pool, func(tx pgx.Tx) error {
				for _, n := range order {
					if _, err := tx.Exec(t.Context(), "UPDATE t SET v = v + 1 WHERE n = $1", n); err != nil {
						return err
					}
					meet() // both have their first row
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var sum int
	if err := pool.QueryRow(t.Context(), "SELECT sum(v) FROM t").Scan(&sum); err != nil || sum != 4 {
		t.Errorf("%d updates, %v", sum, err)
	}
}
