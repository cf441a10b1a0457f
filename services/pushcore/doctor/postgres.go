package doctor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/halleypush/halley/services/pushcore/internal/keyring"
	"github.com/halleypush/halley/services/pushcore/internal/storage"
)

const (
	// oldest is the first version of PostgreSQL that is tested with.
	oldest = 15
	// askew is by how much the clocks may differ before somebody should look, and wrong when it shows: how long messages
	// live is counted by several machines.
	askew = 2 * time.Second
	wrong = time.Minute

	rights = "give the user the rights of the database's owner"
)

// postgres connects as pushcore does, and looks at the server, the schema, and what is in it.
func (e *examination) postgres(ctx context.Context, ring *keyring.Ring) {
	const check = "postgresql"
	if e.config.DatabaseURL == "" {
		return // the configuration's check has said so
	}
	ctx, cancel := context.WithTimeout(ctx, 3*patience)
	defer cancel()
	config, err := pgx.ParseConfig(e.config.DatabaseURL.Reveal())
	if err != nil {
		e.failed(check, "database_url cannot be read", "write it as postgres://user:password@host/database") // the error may hold the password
		return
	}
	config.ConnectTimeout = patience
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		e.failed(check, err.Error(), e.letIn(config, err))
		return
	}
	defer conn.Close(context.WithoutCancel(ctx)) // nothing was changed
	for _, look := range []func(context.Context, *pgx.Conn) error{e.server, e.clock} {
		if err := look(ctx, conn); err != nil {
			e.failed(check, err.Error(), rights)
			return
		}
	}
	current, oldest, target, err := storage.Versions(ctx, conn)
	switch {
	case err != nil:
		e.failed("schema", err.Error(), rights)
		return
	case oldest > target:
		e.failed("schema", fmt.Sprintf("is at version %d, this program knows %d", current, target), "run a halley that is as new as the pushcores")
		return
	case current < target:
		do := "start a pushcore: it brings the schema up to date"
		if e.config.KeepSchema {
			do = "run halley migrate"
		}
		e.failed("schema", fmt.Sprintf("is at version %d, this program needs %d", current, target), do)
		return
	}
	e.ok("schema", "version %d", current)
	looks := []func(context.Context, *pgx.Conn) error{e.gateways, e.held, e.credentials}
	if ring != nil {
		looks = append(looks, func(ctx context.Context, conn *pgx.Conn) error { return e.secrets(ctx, conn, ring) })
	}
	for _, look := range looks {
		if err := look(ctx, conn); err != nil {
			e.failed("postgresql", err.Error(), rights)
			return
		}
	}
}

// letIn says what to do so that a connection to PostgreSQL comes about that did not.
func (e *examination) letIn(c *pgx.ConnConfig, err error) string {
	where := "database_url"
	if e.config.DatabaseURLFile != "" {
		where += ", in " + e.config.DatabaseURLFile
	}
	options := fmt.Sprintf("-h %s -p %d", c.Host, c.Port)
	var refused *pgconn.PgError
	switch {
	case !errors.As(err, &refused):
		return fmt.Sprintf("start PostgreSQL at %s, port %d, or correct %s", c.Host, c.Port, where)
	case refused.Code == "3D000":
		return fmt.Sprintf("make the database, as PostgreSQL's superuser: createdb %s -O %s %s", options, c.User, c.Database)
	case refused.Code == "28P01":
		return fmt.Sprintf("put the password of the user %s into %s: postgres://%s:password@%s:%d/%s", c.User, where, c.User, c.Host, c.Port, c.Database)
	case refused.Code == "28000":
		return fmt.Sprintf("make the user, as PostgreSQL's superuser: createuser %s --pwprompt %s; or let it in, in the server's pg_hba.conf", options, c.User)
	default:
		return "correct " + where + ", or see PostgreSQL's log"
	}
}

// server looks at the server's version and settings.
func (e *examination) server(ctx context.Context, conn *pgx.Conn) error {
	const check = "postgresql"
	var number, most, used int
	var standby bool
	var commit, fsync string
	if err := conn.QueryRow(ctx, `
		SELECT current_setting('server_version_num')::int, pg_is_in_recovery(), current_setting('synchronous_commit'), current_setting('fsync'),
		       current_setting('max_connections')::int, (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')`,
	).Scan(&number, &standby, &commit, &fsync, &most, &used); err != nil {
		return fmt.Errorf("look at the server: %w", err)
	}
	p := e.config.Pools
	needs := p.Direct + p.Open + p.Ledger + p.Bulk
	switch {
	case number/10000 < oldest:
		e.failed(check, fmt.Sprintf("is of version %d", number/10000), fmt.Sprintf("use version %d or newer", oldest))
	case standby:
		e.failed(check, "this is a standby, which takes no writes", "point database_url at the primary, or add target_session_attrs=read-write with all hosts")
	default:
		e.ok(check, "version %d.%d, %d of %d connections in use; a pushcore takes up to %d", number/10000, number%10000, used, most, needs)
	}
	if commit == "off" || fsync == "off" {
		e.warn(check, fmt.Sprintf("synchronous_commit is %s, fsync is %s: a crash loses pushes that were accepted", commit, fsync), "set both to on")
	}
	if most < needs+10 {
		e.failed(check, fmt.Sprintf("max_connections is %d, one pushcore takes up to %d", most, needs), "raise it, or lower pools in the configuration")
	}
	return nil
}

// clock compares the database's clock with this machine's.
func (e *examination) clock(ctx context.Context, conn *pgx.Conn) error {
	before := time.Now()
	var theirs time.Time
	if err := conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&theirs); err != nil {
		return fmt.Errorf("look at the clock: %w", err)
	}
	middle := before.Add(time.Since(before) / 2)
	e.skew("clock of postgresql", theirs.Sub(middle))
	return nil
}

// skew tells by how much another clock is ahead.
func (e *examination) skew(check string, ahead time.Duration) {
	text := fmt.Sprintf("%v from this machine's", ahead.Round(time.Millisecond))
	switch {
	case ahead.Abs() > wrong:
		e.failed(check, text, "run NTP (chrony, systemd-timesyncd) on both machines")
	case ahead.Abs() > askew:
		e.warn(check, text, "run NTP (chrony, systemd-timesyncd) on both machines")
	default:
		e.ok(check, "%s", text)
	}
}

// gateways counts those that hold a lease.
func (e *examination) gateways(ctx context.Context, conn *pgx.Conn) error {
	var n, sessions int
	if err := conn.QueryRow(ctx, "SELECT count(*), coalesce(sum(sessions), 0) FROM gateway WHERE NOT lapsed AND lease_until > now()").
		Scan(&n, &sessions); err != nil {
		return fmt.Errorf("count the gateways: %w", err)
	}
	if n == 0 {
		e.warn("gateways", "none holds a lease", "start one, and see its log; docs/runbooks/HalleyNoGateway.md")
		return nil
	}
	e.ok("gateways", "%d, with %d sessions", n, sessions)
	return nil
}

// held counts the tokens that vendors called void, too many at once to be believed.
func (e *examination) held(ctx context.Context, conn *pgx.Conn) error {
	var n int
	if err := conn.QueryRow(ctx, "SELECT count(*) FROM held_token").Scan(&n); err != nil {
		return fmt.Errorf("count held tokens: %w", err)
	}
	if n > 0 {
		e.warn("held tokens", fmt.Sprintf("%d tokens were called void by vendors and wait for a decision", n), "docs/runbooks/HalleyTokenDeletionsHeld.md")
	}
	return nil
}

// secrets looks whether the key file has every key that secrets are encrypted with.
func (e *examination) secrets(ctx context.Context, conn *pgx.Conn, ring *keyring.Ring) error {
	rows, err := conn.Query(ctx, "SELECT DISTINCT substring(sealed FOR 4) FROM (SELECT sealed FROM api_key UNION ALL SELECT sealed FROM channel_credential) s")
	if err != nil {
		return fmt.Errorf("list the keys in use: %w", err)
	}
	var id []byte
	_, err = pgx.ForEachRow(rows, []any{&id}, func() error {
		if key := binary.BigEndian.Uint32(id); !ring.Opens(key) {
			e.failed("secrets", fmt.Sprintf("some are encrypted with key %d, which the key file does not have", key), "put that key back into key_file, from your backup")
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list the keys in use: %w", err)
	}
	return nil
}

// credentials looks at what apps have for vendors: whether it was tried, and still holds.
func (e *examination) credentials(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, `
		SELECT a.app_id, c.channel, c.expires_at, c.unchecked FROM channel_credential c JOIN app a ON a.app_no = c.app_no
		WHERE NOT c.candidate ORDER BY a.app_id, c.channel`)
	if err != nil {
		return fmt.Errorf("list credentials: %w", err)
	}
	var app, channel string
	var expires *time.Time
	var unchecked bool
	n := 0
	_, err = pgx.ForEachRow(rows, []any{&app, &channel, &expires, &unchecked}, func() error {
		n++
		check := fmt.Sprintf("credential %s of %s", channel, app)
		if !slices.Contains(e.channels, channel) {
			e.channels = append(e.channels, channel)
		}
		if unchecked {
			e.warn(check, "no sender has tried it yet", "start the sender of "+channel+", and look at halley channel get "+channel+" --app "+app)
		}
		if expires != nil {
			e.tell(Expiry(check, "", "get a new one from the vendor's console, and halley channel set "+channel+" --app "+app, *expires))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list credentials: %w", err)
	}
	slices.Sort(e.channels)
	if n > 0 {
		e.ok("credentials", "%d, for %s", n, strings.Join(e.channels, ", "))
	}
	return nil
}
