package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/halleypush/halley/services/pushcore"
)

func newMigrate(g *globals) *cobra.Command {
	var file string
	var within time.Duration
	c := &cobra.Command{
		Use: "migrate", Short: "Bring the schema of a PostgreSQL up to this version", Args: cobra.NoArgs,
		Long: `Brings the schema up to this version, before pushcores of it start, and waits for PostgreSQL. A schema that is newer is left
alone, and refused. What migrations add the version before bears; pushcores run on. Several may be started at once.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			url, err := databaseURL(file)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), within, fmt.Errorf("not done within %v", within))
			defer cancel()
			if err := pushcore.Migrate(ctx, url, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))); err != nil {
				if cause := context.Cause(ctx); cause != nil {
					return cause
				}
				return err
			}
			_, err = fmt.Fprintln(g.out, "the schema is up to date")
			return err
		},
	}
	c.Flags().StringVar(&file, "database-url-file", "", "file with the database URL (default: HALLEY_DATABASE_URL)")
	c.Flags().DurationVar(&within, "within", 30*time.Minute, "how long it may take, with the wait for PostgreSQL")
	return c
}

// mostSkipped bounds how many numbers a restore may cost: there are 2^40 in all.
const mostSkipped = 1 << 32

func newRestored(g *globals) *cobra.Command {
	var file string
	var skip int64
	c := &cobra.Command{
		Use: "restored", Short: "Make a PostgreSQL fit for use that was restored to an earlier moment", Args: cobra.NoArgs,
		Long: `After a restore to an earlier moment, before pushcores start again: devices that registered after that moment still have their tokens
and secrets, and the database would give the same ones to others. So the next numbers of each app are skipped, more than there can have
been registrations since. Devices that the database does not know are told to register again, and do.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if skip < 1 || skip > mostSkipped {
				return usageError{fmt.Errorf("--skip must be between 1 and %d", int64(mostSkipped))}
			}
			url, err := databaseURL(file)
			if err != nil {
				return err
			}
			apps, err := pushcore.Restored(cmd.Context(), url, skip)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(g.out, "skipped %d numbers of each of %d apps\n", skip, apps)
			return err
		},
	}
	c.Flags().StringVar(&file, "database-url-file", "", "file with the database URL (default: HALLEY_DATABASE_URL)")
	c.Flags().Int64Var(&skip, "skip", 1<<20, "more than there were registrations of an app since that moment")
	return c
}

// databaseURL returns the database URL of a file, or of the environment.
func databaseURL(file string) (string, error) {
	if file == "" {
		if url := os.Getenv("HALLEY_DATABASE_URL"); url != "" {
			return url, nil
		}
		return "", usageError{errors.New("which database? --database-url-file or HALLEY_DATABASE_URL")}
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return "", usageError{fmt.Errorf("--database-url-file: %w", err)}
	}
	return strings.TrimSpace(string(content)), nil
}
