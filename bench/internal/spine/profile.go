package spine

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// profile takes CPU profiles of pushcore and the gateway for a time, and what PostgreSQL's statements took until wait is called.
func (b *bench) profile(ctx context.Context, name string, length time.Duration) (wait func() error) {
	group, ctx := errgroup.WithContext(ctx)
	for part, address := range map[string]string{"pushcore": b.site.PushcoreAdmin, "gateway": b.site.Admin} {
		url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", address, max(1, int(length.Seconds())))
		group.Go(func() error { return b.fetch(ctx, url, name+"."+part+".pprof") })
	}
	_, err := b.site.SQL.Exec(ctx, "SELECT pg_stat_statements_reset()")
	return func() error {
		if err := group.Wait(); err != nil {
			return fmt.Errorf("profile: %w", err)
		}
		if err != nil {
			return fmt.Errorf("statements: %w", err)
		}
		return b.statements(context.WithoutCancel(ctx), name+".postgres.txt")
	}
}

func (b *bench) fetch(ctx context.Context, url, file string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, text)
	}
	if err != nil {
		return err
	}
	return b.keep(file, text)
}

// statement is a line of PostgreSQL's statistics.
type statement struct {
	Calls, Rows, WAL int64
	Total            float64 // ms
	Query            string
}

func (b *bench) statements(ctx context.Context, file string) error {
	rows, err := b.site.SQL.Query(ctx, `
		SELECT calls, rows, wal_bytes::bigint AS wal, total_exec_time AS total, regexp_replace(query, '\s+', ' ', 'g') AS query
		FROM pg_stat_statements ORDER BY total_exec_time DESC LIMIT 20`)
	if err != nil {
		return err
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[statement])
	if err != nil {
		return err
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%10s %9s %10s %9s  statement\n", "ms", "calls", "rows", "WAL kB")
	for _, s := range all {
		fmt.Fprintf(&text, "%10.0f %9d %10d %9d  %s\n", s.Total, s.Calls, s.Rows, s.WAL>>10, s.Query)
	}
	return b.keep(file, []byte(text.String()))
}

func (b *bench) keep(file string, text []byte) error {
	if err := os.MkdirAll(b.Profiles, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.Profiles, file), text, 0o644) //nolint:gosec // profiles are for all to read
}
