// Package storage opens PostgreSQL for pushcore: pools, migrations, day partitions and the identity of the cluster.
package storage

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/jackc/puddle/v2"
	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Sizes are the connections of each pool. Separate pools keep one kind of work from starving another.
type Sizes struct {
	Direct int `yaml:"direct" env:"DIRECT" default:"8" doc:"connections for accepting and delivering direct pushes"`
	Open   int `yaml:"open" env:"OPEN" default:"6" doc:"connections for opening sessions and reading what is kept"`
	Ledger int `yaml:"ledger" env:"LEDGER" default:"6" doc:"connections for applying receipts"`
	Bulk   int `yaml:"bulk" env:"BULK" default:"6" doc:"connections for audiences, sweeps, registration and the read API"`
}

// DB is PostgreSQL as pushcore uses it: one pool per plane.
type DB struct {
	Direct, Open, Ledger, Bulk *pgxpool.Pool
}

// Open connects the pools. It does not wait for PostgreSQL: calls fail with an error that Unavailable recognises until it
// is there.
func Open(ctx context.Context, url string, sizes Sizes) (*DB, error) {
	db := &DB{}
	for _, p := range []struct {
		pool **pgxpool.Pool
		name string
		size int
		oltp bool
	}{
		{&db.Direct, "direct", sizes.Direct, true},
		{&db.Open, "open", sizes.Open, true},
		{&db.Ledger, "ledger", sizes.Ledger, true},
		{&db.Bulk, "bulk", sizes.Bulk, false},
	} {
		pool, err := openPool(ctx, url, p.name, p.size, p.oltp)
		if err != nil {
			db.Close()
			return nil, fmt.Errorf("pool %s: %w", p.name, err)
		}
		*p.pool = pool
	}
	return db, nil
}

func openPool(ctx context.Context, url, name string, size int, oltp bool) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("database url: %w", err)
	}
	config.MaxConns = int32(size)
	config.ConnConfig.ConnectTimeout = 5 * time.Second
	params := config.ConnConfig.RuntimeParams
	params["application_name"] = "halley-pushcore-" + name
	params["jit"] = "off"
	params["timezone"] = "UTC"
	if oltp {
		// Every statement of these pools joins an array of keys to a table by its primary key. A planner without statistics
		// (a new partition) would rather scan the table, once, until it is large.
		params["enable_seqscan"] = "off"
		params["enable_hashjoin"] = "off"
		params["enable_mergejoin"] = "off"
	}
	return pgxpool.NewWithConfig(ctx, config)
}

// Close closes every pool and waits for its connections.
func (db *DB) Close() {
	for _, pool := range []*pgxpool.Pool{db.Direct, db.Open, db.Ledger, db.Bulk} {
		if pool != nil {
			pool.Close()
		}
	}
}

// Migrate brings the schema up to this binary's version and makes the partitions of the coming days. A schema that is newer stays
// as it is; it is refused unless it supports this binary. Several processes may call it at once.
func Migrate(ctx context.Context, url string, log *slog.Logger) error {
	return onSchema(ctx, url, func(provider *goose.Provider, _, _ int64) error {
		results, err := provider.Up(ctx)
		if err != nil {
			return fmt.Errorf("migrate: %w", err)
		}
		for _, r := range results {
			log.InfoContext(ctx, "schema migrated", "version", r.Source.Version, "took", r.Duration)
		}
		return nil
	})
}

// Settle is Migrate where something else migrates: it refuses a schema that is older than this binary, too.
func Settle(ctx context.Context, url string) error {
	return onSchema(ctx, url, func(_ *goose.Provider, current, target int64) error {
		if current < target {
			return fmt.Errorf("the schema is at version %d, this binary needs %d: run halley migrate", current, target)
		}
		return nil
	})
}

// onSchema lets f work on a schema that is not newer than this binary, at its current version, one process at a time, and makes the
// partitions afterwards. target is the version that this binary knows.
func onSchema(ctx context.Context, url string, f func(provider *goose.Provider, current, target int64) error) error {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return fmt.Errorf("database url: %w", err)
	}
	conn := stdlib.OpenDB(*config)
	defer conn.Close()
	// One at a time, by a lock that dies with its session; goose's own table cannot be locked before it exists.
	session, err := conn.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer session.Close()
	const lock = 7_021_955_348
	if _, err := session.ExecContext(ctx, "SELECT pg_advisory_lock($1)", lock); err != nil {
		return fmt.Errorf("take the migration lock: %w", err)
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("embedded migrations: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, conn, files)
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	current, target, err := provider.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	if current > target {
		var oldest int64
		if err := session.QueryRowContext(ctx, "SELECT oldest FROM schema_support").Scan(&oldest); err != nil {
			return fmt.Errorf("read which versions the schema supports: %w", err)
		}
		if oldest > target {
			return fmt.Errorf("the schema is at version %d, this binary knows %d, and it takes one that knows %d: run a newer binary", current, target, oldest)
		}
	} else if err := f(provider, current, target); err != nil {
		return err
	}
	return ensurePartitions(ctx, func(ctx context.Context, sql string) error {
		_, err := session.ExecContext(ctx, sql)
		return err
	}, time.Now())
}

// Versions returns the version of a schema, 0 if there is none, the oldest one whose binaries it supports, 0 for any, and the one that
// this binary knows. It changes nothing.
func Versions(ctx context.Context, conn *pgx.Conn) (current, oldest, target int64, err error) {
	files, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return 0, 0, 0, fmt.Errorf("embedded migrations: %w", err)
	}
	for _, name := range files {
		version, err := goose.NumericComponent(name)
		if err != nil {
			return 0, 0, 0, fmt.Errorf("embedded migrations: %w", err)
		}
		target = max(target, version)
	}
	var there bool
	if err := conn.QueryRow(ctx, "SELECT to_regclass('goose_db_version') IS NOT NULL").Scan(&there); err != nil || !there {
		return 0, 0, target, err
	}
	if err := conn.QueryRow(ctx, "SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied").Scan(&current); err != nil {
		return 0, 0, 0, fmt.Errorf("read schema version: %w", err)
	}
	if current > target { // and so it is one that says
		if err := conn.QueryRow(ctx, "SELECT oldest FROM schema_support").Scan(&oldest); err != nil {
			return 0, 0, 0, fmt.Errorf("read which versions the schema supports: %w", err)
		}
	}
	return current, oldest, target, nil
}

// SkipOrdinals takes the next n ordinals of every app out of use, and returns how many apps there are.
func SkipOrdinals(ctx context.Context, url string, n int64) (apps int64, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return 0, fmt.Errorf("connect: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	skipped, err := conn.Exec(ctx, "UPDATE app_ordinal SET next = next + $1", n)
	if err != nil {
		return 0, fmt.Errorf("skip ordinals: %w", err)
	}
	return skipped.RowsAffected(), nil
}

// Unavailable reports whether an error means that PostgreSQL cannot be reached or is not ready, so that the same call may
// succeed later.
func Unavailable(err error) bool {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		switch server.Code[:2] {
		case "08", "53", "57": // connection exception, insufficient resources, operator intervention (shutdown)
			return true
		}
		return false
	}
	var connect *pgconn.ConnectError
	var socket net.Error // also a deadline while waiting for a connection
	return errors.As(err, &connect) || errors.As(err, &socket) || pgconn.SafeToRetry(err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, puddle.ErrClosedPool)
}

// Deadlock reports whether PostgreSQL ended a transaction to break a deadlock: it did nothing and may be run again.
func Deadlock(err error) bool {
	var server *pgconn.PgError
	return errors.As(err, &server) && (server.Code == "40P01" || server.Code == "40001")
}

// Identity names the running cluster: it changes when PostgreSQL was restored, failed over or restarted, and with it what
// had been committed last may be gone. uptime is how long ago it started.
func Identity(ctx context.Context, pool *pgxpool.Pool) (identity string, uptime time.Duration, err error) {
	err = pool.QueryRow(ctx, `
		SELECT s.system_identifier || '/' || c.timeline_id || '/' || extract(epoch FROM pg_postmaster_start_time()),
		       now() - pg_postmaster_start_time()
		FROM pg_control_system() s, pg_control_checkpoint() c`).Scan(&identity, &uptime)
	if err != nil {
		return "", 0, fmt.Errorf("read the cluster's identity: %w", err)
	}
	return identity, uptime, nil
}

// InTx runs f in a transaction and commits it; again from the start if PostgreSQL broke a deadlock with it.
func InTx(ctx context.Context, pool *pgxpool.Pool, f func(pgx.Tx) error) error {
	for range 3 {
		err := pgx.BeginFunc(ctx, pool, f)
		if !Deadlock(err) {
			return err
		}
	}
	return pgx.BeginFunc(ctx, pool, f)
}
