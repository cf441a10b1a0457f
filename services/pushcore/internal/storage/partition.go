package storage

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// partitioned are the tables that are split by the day of their push's UUIDv7, so that old days are dropped, not deleted.
var partitioned = []string{"push", "delivery_log", "push_slice", "slice_step", "attempt"}

const (
	// ahead and behind are the days around today that partitions are made for: pushes are made today, and a clock may be off.
	ahead  = 3
	behind = 2

	day       = 24 * time.Hour
	dayLayout = "20060102"
)

// EnsurePartitions makes the missing partitions of the days around now.
func EnsurePartitions(ctx context.Context, pool *pgxpool.Pool, now time.Time) error {
	return ensurePartitions(ctx, func(ctx context.Context, sql string) error {
		_, err := pool.Exec(ctx, sql)
		return err
	}, now)
}

func ensurePartitions(ctx context.Context, exec func(context.Context, string) error, now time.Time) error {
	today := now.UTC().Truncate(day)
	for _, table := range partitioned {
		for d := -behind; d <= ahead; d++ {
			from := today.Add(time.Duration(d) * day)
			sql := fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s_%s PARTITION OF %s FOR VALUES FROM ('%s') TO ('%s')",
				table, from.Format(dayLayout), table, FirstPushID(from), FirstPushID(from.Add(day)))
			if err := exec(ctx, sql); err != nil {
				return fmt.Errorf("make partition of %s for %s: %w", table, from.Format(time.DateOnly), err)
			}
		}
	}
	return nil
}

// DropPartitions drops the days that ended before the given time and returns the partitions' names.
func DropPartitions(ctx context.Context, pool *pgxpool.Pool, before time.Time) ([]string, error) {
	rows, err := pool.Query(ctx, `
		SELECT c.relname FROM pg_inherits i
		JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
		WHERE p.relname = ANY($1)`, partitioned)
	if err != nil {
		return nil, fmt.Errorf("list partitions: %w", err)
	}
	var old []string
	var name string
	_, err = pgx.ForEachRow(rows, []any{&name}, func() error {
		from, err := time.Parse(dayLayout, name[strings.LastIndexByte(name, '_')+1:])
		if err == nil && !from.Add(day).After(before) {
			old = append(old, name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list partitions: %w", err)
	}
	slices.Sort(old)
	for _, name := range old {
		if _, err := pool.Exec(ctx, "DROP TABLE "+name); err != nil {
			return nil, fmt.Errorf("drop partition %s: %w", name, err)
		}
	}
	return old, nil
}

// FirstPushID returns the smallest UUIDv7 of a time: its 48 bits of milliseconds, then zeros.
func FirstPushID(t time.Time) uuid.UUID {
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:8], uint64(t.UnixMilli())<<16)
	return id
}
